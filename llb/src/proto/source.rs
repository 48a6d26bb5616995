//! Sources: an identifier with a scheme, and attributes (solver/pb/attr.go).

use bollard_buildkit_proto::pb;

use super::Attributes;
use super::EncodeError;
use super::GIT_AGENT;
use super::decode::OpDecoder;
use crate::id::OciDigest;
use crate::op::FileModes;
use crate::op::GitSource;
use crate::op::HttpSource;
use crate::op::ImageSource;
use crate::op::LocalSource;
use crate::op::OciLayoutSource;
use crate::op::SourceOp;

const LOCAL_INCLUDE: &str = "local.includepattern";
/// Ours: BuildKit passes over it, and normalises nothing.
const LOCAL_MODES: &str = "rbuild.local.modes";
const LOCAL_EXCLUDE: &str = "local.excludepatterns";
pub(super) const LOCAL_UNIQUE: &str = "local.unique";
const LOCAL_KEY_HINT: &str = "local.sharedkeyhint";
const GIT_KEEP_DIR: &str = "git.keepgitdir";
const GIT_SKIP_SUBMODULES: &str = "git.skipsubmodules";
const GIT_URL: &str = "git.fullurl";
const GIT_CHECKSUM: &str = "git.checksum";
const GIT_SSH: &str = "git.mountsshsock";
/// The secrets git may authenticate with: BuildKit's client always names these two.
const GIT_SECRETS: [(&str, &str); 2] = [
    ("git.authheadersecret", "GIT_AUTH_HEADER"),
    ("git.authtokensecret", "GIT_AUTH_TOKEN"),
];
const HTTP_CHECKSUM: &str = "http.checksum";
const HTTP_FILENAME: &str = "http.filename";
const HTTP_MODE: &str = "http.perm";
const LAYOUT_STORE: &str = "oci.store";

/// Paths of which the client sends no others. [`OpDecoder`] sees to it that no step asks for others.
pub(super) const LOCAL_FOLLOW: &str = "local.followpaths";

/// Attributes that say how files get here, not which.
const NO_INFLUENCE: [&str; 8] = [
    "image.resolvemode",
    "image.recordtype",
    "local.session",
    LOCAL_UNIQUE,
    "local.differ",
    LOCAL_FOLLOW,
    LOCAL_KEY_HINT,
    "oci.session",
];

/// The protobuf form of a source.
pub(super) fn encode(source: &SourceOp) -> Result<pb::SourceOp, EncodeError> {
    let mut attrs = Attributes::new();
    let mut set = |name: &str, value: &str| {
        attrs.insert(name.to_owned(), value.to_owned());
    };
    let identifier = match source {
        SourceOp::Image(ImageSource { reference, digest }) => match digest {
            Some(digest) if !reference.contains('@') => {
                format!("docker-image://{reference}@{digest}")
            }
            _ => format!("docker-image://{reference}"),
        },
        SourceOp::OciLayout(layout) => {
            set(LAYOUT_STORE, &layout.path);
            format!("oci-layout://layout@{}", layout_digest(layout)?)
        }
        SourceOp::Local(LocalSource {
            name,
            include,
            exclude,
            modes,
        }) => {
            if *modes == FileModes::Git {
                set(LOCAL_MODES, "git");
            }
            for (attribute, patterns) in [(LOCAL_INCLUDE, include), (LOCAL_EXCLUDE, exclude)] {
                if !patterns.is_empty() {
                    set(
                        attribute,
                        &serde_json::Value::from(patterns.clone()).to_string(),
                    );
                }
            }
            set(LOCAL_KEY_HINT, name);
            format!("local://{name}")
        }
        SourceOp::Git(git) => {
            let (place, ssh) = git_place(&git.remote)?;
            GIT_SECRETS.iter().for_each(|(name, id)| set(name, id));
            set(GIT_URL, &git.remote);
            if git.keep_git_dir {
                set(GIT_KEEP_DIR, "true");
            }
            if git.skip_submodules {
                set(GIT_SKIP_SUBMODULES, "true");
            }
            if ssh {
                set(GIT_SSH, GIT_AGENT);
            }
            let commit = git.commit.as_ref().filter(|c| **c != git.reference);
            if let Some(checksum) = commit.or(git.checksum.as_ref()) {
                set(GIT_CHECKSUM, checksum);
            }
            match (git.reference.as_str(), git.subdir.as_str()) {
                ("", "") => format!("git://{place}"),
                (reference, "") => format!("git://{place}#{reference}"),
                (reference, subdir) => format!("git://{place}#{reference}:{subdir}"),
            }
        }
        SourceOp::Http(http) => {
            if let Some(checksum) = http.checksum {
                set(HTTP_CHECKSUM, &checksum.to_string());
            }
            if !http.filename.is_empty() {
                set(HTTP_FILENAME, &http.filename);
            }
            if let Some(mode) = http.mode {
                set(HTTP_MODE, &format!("0{mode:o}"));
            }
            http.url.clone()
        }
    };
    Ok(pb::SourceOp { identifier, attrs })
}

fn layout_digest(layout: &OciLayoutSource) -> Result<OciDigest, EncodeError> {
    let named = layout.reference.as_ref().and_then(|r| r.parse().ok());
    layout
        .digest
        .or(named)
        .ok_or_else(|| EncodeError::Unpinned {
            path: layout.path.clone(),
        })
}

/// Host and path of a git remote, and whether it is reached by ssh. One repository has one place, by whichever
/// protocol it is fetched.
pub(super) fn git_place(remote: &str) -> Result<(String, bool), EncodeError> {
    let error = || EncodeError::Remote {
        remote: remote.to_owned(),
    };
    let (host, path, ssh) = match remote.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let path = path.split(['?', '#']).next().unwrap_or_default();
            (host, path, scheme == "ssh")
        }
        None => {
            let (host, path) = remote.split_once(':').ok_or_else(error)?;
            (host, path, true)
        }
    };
    let host = host.rsplit('@').next().unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return Err(error());
    }
    let path = path.trim_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    Ok((format!("{host}{slash}{path}"), ssh))
}

/// Reads the attributes of one source, and notices those that were not asked for.
struct Reader<'a> {
    op: &'a OpDecoder<'a>,
    attrs: Attributes,
}

impl Reader<'_> {
    fn take(&mut self, name: &str) -> Option<String> {
        self.attrs.remove(name)
    }

    fn digest(&mut self, name: &'static str) -> Option<OciDigest> {
        let text = self.take(name)?;
        let digest = text.parse().ok();
        if digest.is_none() {
            self.op.value(name, text);
        }
        digest
    }

    fn list(&mut self, name: &'static str) -> Vec<String> {
        let Some(text) = self.take(name) else {
            return Vec::new();
        };
        serde_json::from_str(&text).unwrap_or_else(|_| {
            self.op.value(name, text);
            Vec::new()
        })
    }

    /// A value that there is no choice about.
    fn only(&mut self, name: &'static str, wanted: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(value) => {
                if value != wanted {
                    self.op.value(name, value);
                }
                true
            }
        }
    }

    fn done(self) {
        for name in self.attrs.into_keys() {
            if !NO_INFLUENCE.contains(&name.as_str()) {
                self.op.unknown_attribute(name);
            }
        }
    }
}

/// A source from its protobuf form.
pub(super) fn decode(op: &OpDecoder<'_>, source: &pb::SourceOp) -> Option<SourceOp> {
    let mut reader = Reader {
        op,
        attrs: source.attrs.clone().into_iter().collect(),
    };
    let identifier = source.identifier.as_str();
    let (scheme, rest) = identifier.split_once("://").unwrap_or_default();
    let source = match scheme {
        "docker-image" => SourceOp::Image(ImageSource {
            reference: rest.to_owned(),
            digest: None,
        }),
        "oci-layout" => {
            let (name, digest) = rest.split_once('@').unwrap_or((rest, ""));
            SourceOp::OciLayout(OciLayoutSource {
                path: reader.take(LAYOUT_STORE).unwrap_or_else(|| name.to_owned()),
                reference: Some(digest.to_owned()).filter(|digest| !digest.is_empty()),
                digest: None,
            })
        }
        "local" => SourceOp::Local(LocalSource {
            name: rest.to_owned(),
            include: reader.list(LOCAL_INCLUDE),
            exclude: reader.list(LOCAL_EXCLUDE),
            modes: match reader.take(LOCAL_MODES).as_deref() {
                None => FileModes::Exact,
                Some("git") => FileModes::Git,
                Some(other) => {
                    op.value(LOCAL_MODES, other);
                    FileModes::Exact
                }
            },
        }),
        "git" => SourceOp::Git(git(rest, &mut reader)),
        "http" | "https" => SourceOp::Http(HttpSource {
            url: identifier.to_owned(),
            checksum: reader.digest(HTTP_CHECKSUM),
            filename: reader.take(HTTP_FILENAME).unwrap_or_default(),
            mode: reader.take(HTTP_MODE).and_then(|text| {
                let mode = u32::from_str_radix(&text, 8).ok();
                let mode = mode.filter(|mode| *mode <= 0o7777);
                if mode.is_none() {
                    op.value(HTTP_MODE, text);
                }
                mode
            }),
        }),
        _ => {
            op.unknown_source(identifier);
            return None;
        }
    };
    reader.done();
    Some(source)
}

fn git(rest: &str, reader: &mut Reader<'_>) -> GitSource {
    let (place, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    for (name, id) in GIT_SECRETS {
        reader.only(name, id);
    }
    reader.only(GIT_SSH, GIT_AGENT);
    let named = Some(reference.to_owned()).filter(|text| is_commit(text));
    let (commit, checksum) = match reader.take(GIT_CHECKSUM) {
        Some(text) if is_commit(&text) => {
            // BuildKit fetches the commit that is named, and fails if that is another.
            if named.is_some_and(|named| named != text) {
                reader.op.value(GIT_CHECKSUM, &text);
            }
            (Some(text), None)
        }
        // A prefix pins nothing.
        Some(text) => (named, Some(text)),
        None => (named, None),
    };
    GitSource {
        remote: reader
            .take(GIT_URL)
            .unwrap_or_else(|| format!("https://{place}")),
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
        keep_git_dir: reader.only(GIT_KEEP_DIR, "true"),
        skip_submodules: reader.only(GIT_SKIP_SUBMODULES, "true"),
        checksum,
        commit,
    }
}

fn is_commit(text: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    matches!(text.len(), 40 | 64) && text.bytes().all(hex)
}

#[cfg(test)]
mod t {
    use std::cell::RefCell;

    use super::super::DecodeError;
    use super::*;

    fn read(source: &pb::SourceOp) -> Result<SourceOp, Vec<DecodeError>> {
        let problems = RefCell::default();
        let op = OpDecoder {
            op: "op",
            inputs: 0,
            problems: &problems,
        };
        let source = decode(&op, source);
        match problems.take() {
            none if none.is_empty() => Ok(source.unwrap()),
            problems => Err(problems),
        }
    }

    #[test]
    fn a_repository_has_one_place() {
        // From gitutil.ParseURL of BuildKit: host with port, path cleaned, no user, no query.
        for (remote, want) in [
            (
                "https://github.com/a/b.git",
                Some(("github.com/a/b.git", false)),
            ),
            ("https://u:p@h:8080/a/?x=1", Some(("h:8080/a", false))),
            ("http://h", Some(("h", false))),
            ("ssh://git@h:22/a/b", Some(("h:22/a/b", true))),
            ("git@github.com:a/b.git", Some(("github.com/a/b.git", true))),
            ("a/b", None),
            ("https:///x", None),
            ("./a:b", None),
        ] {
            let place = git_place(remote).ok();
            let place = place.as_ref().map(|(place, ssh)| (place.as_str(), *ssh));
            assert_eq!(place, want, "{remote}");
        }
    }

    #[test]
    fn repositories_keep_what_is_asked_of_them() {
        let commit = "ab".repeat(20);
        for (checksum, commit) in [
            (None, None),
            (Some("ab".into()), None),
            (None, Some(commit)),
        ] {
            let source = SourceOp::Git(GitSource {
                remote: "https://h/r.git".into(),
                reference: "v1".into(),
                subdir: "dir".into(),
                keep_git_dir: true,
                skip_submodules: true,
                checksum,
                commit,
            });
            let encoded = encode(&source).unwrap();
            assert_eq!(encoded.attrs["git.skipsubmodules"], "true");
            assert_eq!(read(&encoded), Ok(source));
        }
    }

    #[test]
    fn a_commit_is_the_one_that_is_named() {
        let [one, other] = ["ab", "cd"].map(|half| half.repeat(20));
        for (checksum, fits) in [(&one, true), (&other, false)] {
            let source = pb::SourceOp {
                identifier: format!("git://h/r.git#{one}"),
                attrs: [(GIT_CHECKSUM.to_owned(), checksum.clone())].into(),
            };
            assert_eq!(read(&source).is_ok(), fits, "{checksum}");
        }
    }

    #[test]
    fn layouts_are_named_by_digest() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let layout = |reference: Option<&str>, digest: Option<OciDigest>| {
            encode(&SourceOp::OciLayout(OciLayoutSource {
                path: "dir".into(),
                reference: reference.map(str::to_owned),
                digest,
            }))
        };
        let want = layout(Some(&digest), None).unwrap();
        assert_eq!(want.identifier, format!("oci-layout://layout@{digest}"));
        assert_eq!(want.attrs["oci.store"], "dir");
        assert_eq!(layout(Some("tag"), digest.parse().ok()).unwrap(), want);
        let unpinned = EncodeError::Unpinned { path: "dir".into() };
        assert_eq!(layout(Some("tag"), None), Err(unpinned));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let source = |identifier: &str, attrs: &[(&str, &str)]| pb::SourceOp {
            identifier: identifier.into(),
            attrs: attrs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        for (source, want) in [
            (
                source("docker-image+blob://x", &[]),
                "`docker-image+blob://x`",
            ),
            (source("nothing", &[]), "`nothing`"),
            (
                source("docker-image://x", &[("image.layerlimit", "1")]),
                "`image.layerlimit`",
            ),
            (
                source("local://c", &[("local.metadatatransfer", "true")]),
                "`local.metadatatransfer`",
            ),
            (
                source("local://c", &[("local.excludepatterns", "x")]),
                "`x` for `local.excludepatterns`",
            ),
            (
                source("git://h/r", &[("git.skipsubmodules", "no")]),
                "`no` for `git.skipsubmodules`",
            ),
            (source("git://h/r", &[("git.bundle", "x")]), "`git.bundle`"),
            (
                source("git://h/r", &[("git.authtokensecret", "mine")]),
                "`mine` for `git.authtokensecret`",
            ),
            (source("https://h", &[("http.uid", "1")]), "`http.uid`"),
            (
                source("https://h", &[("http.perm", "rw")]),
                "`rw` for `http.perm`",
            ),
            (
                source("https://h", &[("http.checksum", "md5:x")]),
                "`md5:x` for `http.checksum`",
            ),
        ] {
            let errors = read(&source).unwrap_err();
            let [error] = errors.as_slice() else {
                panic!("{errors:?}");
            };
            let error = error.to_string();
            assert!(error.starts_with("op has "), "{error}");
            assert!(error.contains(want), "{error}");
        }
    }
}
