//! ADD of URLs and git repositories.

use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::SourceOp;

use super::Converted;
use super::Converter;
use super::copy::Copies;
use super::copy::is_http;
use crate::ast::Transfer;
use crate::ast::Word;
use crate::git::GitError;
use crate::git::GitUrl;
use crate::paths;

/// A source of ADD that is fetched.
pub(super) struct Remote<'a> {
    /// The URL.
    pub(super) path: &'a Word,
    /// `--checksum`.
    pub(super) checksum: Option<&'a Word>,
    /// Name of the step; the fetch has the same.
    pub(super) name: &'a str,
}

impl Converter<'_> {
    pub(super) fn add_git(
        &mut self,
        url: Result<GitUrl, GitError>,
        remote: &Remote<'_>,
        add: &Transfer,
        copies: &mut Copies,
    ) -> Converted<()> {
        let path = remote.path;
        let checksum = remote.checksum.map(|word| word.text.as_str());
        let git = url
            .and_then(|url| url.source(add.keep_git_dir, checksum))
            .map_err(|error| Diagnostic::error(error.to_string(), path.span.clone(), ""))?;
        let Some(pinned) = self.pinned(&SourceOp::Git(git), path) else {
            return Ok(());
        };
        let edge = self.remote(pinned, remote);
        copies.push(Some(edge), copies.plain("/"));
        Ok(())
    }

    pub(super) fn add_url(
        &mut self,
        remote: &Remote<'_>,
        add: &Transfer,
        copies: &mut Copies,
    ) -> Converted<()> {
        let path = remote.path;
        let mut http = http_source(&path.text);
        if let Some(word) = remote.checksum {
            let digest: OciDigest = word.text.parse().map_err(|error| {
                let message = format!("invalid `--checksum` value `{}`", word.text);
                Diagnostic::error(message, word.span.clone(), format!("{error}"))
            })?;
            http.checksum = Some(digest);
        }
        let name = http.filename.clone();
        let Some(pinned) = self.pinned(&SourceOp::Http(http), path) else {
            return Ok(());
        };
        let edge = self.remote(pinned, remote);
        let mut copy = copies.plain(paths::absolute("/", &name));
        copy.attempt_unpack = add.unpack.unwrap_or(false);
        copies.push(Some(edge), copy);
        Ok(())
    }

    /// The pinned source; one that is not pinned yet is noted.
    fn pinned(&mut self, source: &SourceOp, path: &Word) -> Option<SourceOp> {
        let pinned = self.pin_files(source);
        if pinned.is_none() {
            self.missing.push(SourceRequest {
                source: source.clone(),
                platform: self.request.build_platform.clone(),
                span: Some(path.span.clone()),
                near: None,
            });
        }
        pinned
    }

    fn remote(&mut self, source: SourceOp, remote: &Remote<'_>) -> Edge {
        let platform = self.request.build_platform.clone();
        let span = &remote.path.span;
        self.internal(Op::Source(source), &platform, remote.name, span)
    }
}

/// The source a URL stands for, named after the last element of its path.
pub fn http_source(url: &str) -> HttpSource {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let filename = match crate::git::unescape_path(paths::base(path)) {
        name if matches!(name.as_str(), "." | "/" | "..") || name.contains('/') => {
            "__unnamed__".to_owned()
        }
        name => name,
    };
    HttpSource {
        url: url.to_owned(),
        checksum: None,
        filename,
        mode: None,
    }
}

/// What an ADD will need, as far as it can be told before its stage is converted: sources without variables.
pub(crate) fn foreseen(add: &Transfer, request: &FrontendRequest) -> Vec<SourceRequest> {
    let plain = |word: &&Word| !word.text.contains(['$', '\\', '`', '\'', '"']);
    let checksum = add.checksum.as_ref();
    if checksum.is_some_and(|word| !plain(&word)) {
        return Vec::new();
    }
    let checksum = checksum.map(|word| word.text.as_str());
    let source = |word: &Word| match crate::git::parse(&word.text) {
        Some(url) => url
            .and_then(|url| url.source(add.keep_git_dir, checksum))
            .map(SourceOp::Git)
            .ok(),
        None => (checksum.is_none() && is_http(&word.text))
            .then(|| SourceOp::Http(http_source(&word.text))),
    };
    let words = add.paths.iter().filter(plain);
    let requests = words.filter_map(|word| {
        Some(SourceRequest {
            source: source(word)?,
            platform: request.build_platform.clone(),
            span: Some(word.span.clone()),
            near: None,
        })
    });
    requests
        .filter(|request| match &request.source {
            SourceOp::Git(git) => git.commit.is_none(),
            _ => true,
        })
        .collect()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn files_are_named_after_the_url() {
        for (url, want) in [
            ("https://h/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("https://h/a%20b", "a b"),
            ("https://h/a/", "a"),
            ("https://h", "__unnamed__"),
            ("https://h/%2e%2e", "__unnamed__"),
            ("https://h/a%2fb", "__unnamed__"),
        ] {
            assert_eq!(http_source(url).filename, want, "{url}");
        }
    }
}
