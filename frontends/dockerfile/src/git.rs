//! Git URLs in ADD, as BuildKit reads them (frontend/dockerfile/dfgitutil): `URL#ref:subdir`, or the same as a query.

use std::collections::BTreeMap;

use rbuild_llb::op::GitSource;

use crate::paths::clean;

/// What a git URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitUrl {
    /// Where and what.
    source: GitSource,
    /// `keep-git-dir`, if the URL says it.
    keep_git_dir: Option<bool>,
    /// The checksum is the commit, and the remote is not asked what the reference is.
    fetch_by_commit: bool,
}

/// Why a git URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GitError {
    #[error("query `{key}` of a git URL has no value")]
    NoValue { key: String },
    #[error("query `{key}` of a git URL has several values")]
    Repeated { key: String },
    #[error("unexpected query `{key}` of a git URL")]
    Unknown { key: String },
    #[error("invalid value `{value}` of the query `{key}` of a git URL")]
    Value { key: String, value: String },
    #[error("`{first}` and `{second}` of a git URL contradict each other")]
    Conflict { first: String, second: String },
    #[error("`--keep-git-dir` and the URL contradict each other")]
    KeepGitDir,
    #[error("`{checksum}` is no commit: one is written in hexadecimal digits")]
    NoCommit { checksum: String },
    #[error("expected commit `{wanted}`, but the URL names `{commit}`")]
    OtherCommit { wanted: String, commit: String },
    #[error("`fetch-by-commit` needs a whole commit, as the reference or the checksum")]
    NothingToFetch,
    #[error("credentials in a git URL are not supported: they would stand in the image's history")]
    Credentials,
}

/// The repository that a build context's URL names; `None` if it is no git URL. `keep_git_dir` is what
/// `BUILDKIT_CONTEXT_KEEP_GIT_DIR` says, of which BuildKit passes over what is no boolean. The error says what is wrong
/// with the URL.
pub fn git_context(url: &str, keep_git_dir: Option<&str>) -> Option<Result<GitSource, String>> {
    let short = url.strip_prefix("github.com/");
    let long = short.map(|rest| {
        let end = rest.find(['#', '?']).unwrap_or(rest.len());
        let (path, more) = rest.split_at(end);
        let path = path.strip_suffix(".git").unwrap_or(path);
        format!("https://github.com/{path}.git{more}")
    });
    let parsed = parse(long.as_deref().unwrap_or(url))?;
    let source = parsed.and_then(|url| url.source(None, None));
    let keep = keep_git_dir.and_then(crate::words::parse_bool);
    Some(match source {
        Ok(source) => Ok(GitSource {
            keep_git_dir: source.keep_git_dir || keep == Some(true),
            ..source
        }),
        Err(error) => Err(error.to_string()),
    })
}

/// The repository that `URL#REF:SUBDIR` names; `None` if it is no URL. A web URL need not end with `.git` here: it was
/// said to be a repository. `commit` has the first digits of what REF must be.
pub fn git_source(
    url: &str,
    keep_git_dir: Option<bool>,
    commit: Option<&str>,
) -> Option<Result<GitSource, String>> {
    let parsed = match parse(url) {
        Some(parsed) => parsed,
        None if url.starts_with("https://") || url.starts_with("http://") => {
            let (remote, fragment) = url.split_once('#').unwrap_or((url, ""));
            assemble(remote, "", fragment)
        }
        None => return None,
    };
    let source = parsed.and_then(|url| url.source(keep_git_dir, commit));
    Some(source.map_err(|error| error.to_string()))
}

/// Reads a git URL; `None` if the text is none.
pub(crate) fn parse(text: &str) -> Option<Result<GitUrl, GitError>> {
    let (url, fragment) = match text.split_once('#') {
        Some((url, fragment)) => (url, fragment),
        None => (text, ""),
    };
    let (remote, query) = match url.split_once('?') {
        Some((remote, query)) => (remote, query),
        None => (url, ""),
    };
    let authority = match remote.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => None,
            "http" | "https" if rest.contains('/') && rest.ends_with(".git") => {
                rest.split('/').next()
            }
            _ => return None,
        },
        None if is_scp(remote) => None,
        None => return None,
    };
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Some(Err(GitError::Credentials));
    }
    Some(assemble(remote, query, fragment))
}

impl GitUrl {
    /// The source, with what the flags `--keep-git-dir` and `--checksum` say besides.
    pub(crate) fn source(
        self,
        keep_git_dir: Option<bool>,
        checksum: Option<&str>,
    ) -> Result<GitSource, GitError> {
        let mut source = self.source;
        if let (Some(flag), Some(query)) = (keep_git_dir, self.keep_git_dir)
            && flag != query
        {
            return Err(GitError::KeepGitDir);
        }
        source.keep_git_dir = keep_git_dir.or(self.keep_git_dir).unwrap_or(false);
        match (checksum, &source.checksum) {
            (Some(flag), Some(query)) if flag != query => {
                return Err(GitError::Conflict {
                    first: flag.to_owned(),
                    second: query.clone(),
                });
            }
            (Some(flag), _) => source.checksum = Some(flag.to_owned()),
            (None, _) => {}
        }
        if let Some(wanted) = &source.checksum {
            if wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(GitError::NoCommit {
                    checksum: wanted.clone(),
                });
            }
            if let Some(commit) = source.commit.as_ref().filter(|c| !c.starts_with(wanted)) {
                return Err(GitError::OtherCommit {
                    wanted: wanted.clone(),
                    commit: commit.clone(),
                });
            }
        }
        if self.fetch_by_commit && source.commit.is_none() {
            let whole = source.checksum.take().filter(|text| is_commit(text));
            source.commit = Some(whole.ok_or(GitError::NothingToFetch)?);
        }
        Ok(source)
    }
}

/// `user@host:path`
fn is_scp(remote: &str) -> bool {
    let Some((user, rest)) = remote.split_once('@') else {
        return false;
    };
    let Some((host, _)) = rest.split_once(':') else {
        return false;
    };
    let name = |text: &str, extra: [char; 2]| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
    };
    name(user, ['-', '_']) && name(host, ['-', '.'])
}

fn assemble(remote: &str, query: &str, fragment: &str) -> Result<GitUrl, GitError> {
    let (reference, subdir) = match fragment.split_once(':') {
        Some((reference, subdir)) => (reference, subdir),
        None => (fragment, ""),
    };
    let query = parse_query(query)?;
    let mut reference = reference.to_owned();
    let mut subdir = clean(&format!("/{subdir}"))[1..].to_owned();
    let (mut keep_git_dir, mut checksum) = (None, None);
    let (mut submodules, mut fetch_by_commit) = (true, false);
    let agree = |have: &mut String, new: String| match have.is_empty() || *have == new {
        true => {
            *have = new;
            Ok(())
        }
        false => Err(GitError::Conflict {
            first: have.clone(),
            second: new,
        }),
    };
    if let (Some(tag), Some(branch)) = (query.get("tag"), query.get("branch")) {
        return Err(GitError::Conflict {
            first: tag.clone(),
            second: branch.clone(),
        });
    }
    for (key, value) in query {
        let full = |prefix: &str| match value.starts_with(prefix) {
            true => value.clone(),
            false => format!("{prefix}{value}"),
        };
        match key.as_str() {
            "ref" => agree(&mut reference, value)?,
            "tag" => agree(&mut reference, full("refs/tags/"))?,
            "branch" => agree(&mut reference, full("refs/heads/"))?,
            "subdir" => agree(&mut subdir, value)?,
            "checksum" | "commit" => checksum = Some(value),
            "keep-git-dir" => keep_git_dir = Some(boolean(&key, &value)?),
            "submodules" => submodules = boolean(&key, &value)?,
            "fetch-by-commit" => fetch_by_commit = boolean(&key, &value)?,
            // Files have the time of their commit either way.
            "mtime" if matches!(value.as_str(), "checkout" | "commit") => {}
            "mtime" => return Err(GitError::Value { key, value }),
            _ => return Err(GitError::Unknown { key }),
        }
    }
    Ok(GitUrl {
        source: GitSource {
            remote: remote.to_owned(),
            commit: is_commit(&reference).then(|| reference.clone()),
            reference,
            subdir,
            keep_git_dir: false,
            skip_submodules: !submodules,
            checksum,
        },
        keep_git_dir,
        fetch_by_commit,
    })
}

/// Whether a reference is a whole commit id (SHA-1 or SHA-256), which needs no look-up.
fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64)
        && reference
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn parse_query(query: &str) -> Result<BTreeMap<String, String>, GitError> {
    let mut pairs = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key, value),
            None => (pair, ""),
        };
        let (key, mut value) = (unescape(key), unescape(value));
        if value.is_empty() {
            match key.as_str() {
                "submodules" | "keep-git-dir" | "fetch-by-commit" => value = "true".to_owned(),
                _ => return Err(GitError::NoValue { key }),
            }
        }
        if pairs.insert(key.clone(), value).is_some() {
            return Err(GitError::Repeated { key });
        }
    }
    Ok(pairs)
}

/// Go's `strconv.ParseBool`.
fn boolean(key: &str, value: &str) -> Result<bool, GitError> {
    crate::words::parse_bool(value).ok_or_else(|| GitError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// `%2F`, and `+` for a blank, as queries have them.
fn unescape(text: &str) -> String {
    unescape_path(&text.replace('+', " "))
}

/// `%2F`, as paths of URLs have it.
pub(crate) fn unescape_path(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(hex.unwrap_or(byte));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn urls_that_name_repositories() {
        for (text, remote, reference, subdir) in [
            ("https://h/o/r.git", "https://h/o/r.git", "", ""),
            (
                "https://h/o/r.git#v1:sub/dir",
                "https://h/o/r.git",
                "v1",
                "sub/dir",
            ),
            ("https://h/o/r.git#:../sub", "https://h/o/r.git", "", "sub"),
            ("git@h:o/r.git#main", "git@h:o/r.git", "main", ""),
            ("git://h/r", "git://h/r", "", ""),
            ("ssh://git@h/r", "ssh://git@h/r", "", ""),
            (
                "https://h/r.git?tag=v1",
                "https://h/r.git",
                "refs/tags/v1",
                "",
            ),
            (
                "https://h/r.git?branch=a%2Fb&subdir=s",
                "https://h/r.git",
                "refs/heads/a/b",
                "s",
            ),
        ] {
            let url = parse(text).unwrap().unwrap().source;
            assert_eq!(
                (
                    url.remote.as_str(),
                    url.reference.as_str(),
                    url.subdir.as_str()
                ),
                (remote, reference, subdir),
                "{text}"
            );
        }
        for text in [
            "https://h/file.tar.gz",
            "github.com/o/r",
            "./r.git",
            "a b",
            "ftp://h/r.git",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        for text in [
            "https://h/r.git?x=1",
            "https://h/r.git?ref=",
            "https://h/r.git?ref=a#b",
            "https://h/r.git?tag=a&branch=b",
            "https://h/r.git?submodules=none",
            "https://h/r.git?fetch-by-commit=2",
            "https://h/r.git?mtime=now",
            "https://h/r.git?mtime=",
            "https://u:p@h/r.git",
        ] {
            assert!(parse(text).unwrap().is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_query_and_the_flags_say() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let source = |query: &str, keep, checksum| {
            parse(&format!("https://h/r.git{query}"))
                .unwrap()
                .and_then(|url| url.source(keep, checksum))
                .map_err(|error| error.to_string())
        };
        let pinned = |query: &str| source(query, None, None).map(|git| git.commit);
        assert_eq!(pinned(&format!("#{one}")), Ok(Some(one.clone())));
        assert_eq!(pinned(&format!("?checksum={one}")), Ok(None));
        let fetched = format!("?checksum={one}&fetch-by-commit&ref=v1");
        assert_eq!(pinned(&fetched), Ok(Some(one.clone())));
        assert!(source("?submodules=0", None, None).unwrap().skip_submodules);
        assert!(!source("?submodules", None, None).unwrap().skip_submodules);
        for (query, flag, want) in [
            ("", None, false),
            ("", Some(true), true),
            ("?keep-git-dir", None, true),
            ("?keep-git-dir=false", None, false),
            ("?keep-git-dir=1", Some(true), true),
        ] {
            assert_eq!(
                source(query, flag, None).unwrap().keep_git_dir,
                want,
                "{query}"
            );
        }
        assert_eq!(
            source("", None, Some("12")).unwrap().checksum,
            Some("12".into())
        );
        for (query, keep, checksum) in [
            ("?keep-git-dir=0", Some(true), None),
            ("?commit=12", None, Some("13")),
            ("?commit=x", None, None),
            ("", None, Some("v1")),
            ("?fetch-by-commit", None, None),
            ("?fetch-by-commit", None, Some("12")),
            (&format!("#{two}"), None, Some("1")),
        ] {
            assert!(source(query, keep, checksum).is_err(), "{query}");
        }
    }
}
