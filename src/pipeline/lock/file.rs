//! The lock file: what it says, read and written. TOML, sorted, the same bytes for the same content:
//!
//! ```toml
//! # A comment that says who writes it.
//! version = 1
//! platforms = ["linux/amd64"]         # what `--platform` of `rbuild lock` named, if ever
//!
//! [[image]]
//! reference = "docker.io/library/alpine:3.20"
//! index = "sha256:…"                  # what the tag named; without one it named the only manifest below
//!
//! [image.platforms]
//! "linux/amd64" = "sha256:…"
//!
//! [[git]]
//! remote = "https://example.org/r.git"
//! ref = "main"                        # without one the remote's HEAD
//! checksum = "0123"                   # what `ADD --checksum` demands, if it does
//! commit = "…"
//!
//! [[url]]
//! url = "https://example.org/file"
//! sha256 = "…"
//! ```

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::SourceOp;
use serde::Deserialize;
use toml::Spanned;

use crate::registry::Reference;

/// The only version there is.
const VERSION: u64 = 1;

const HEADER: &str = "# Written by `rbuild lock` and `rbuild update`: what the sources of builds in this directory are.\n";

/// How git marks what it could not merge.
const CONFLICTS: [&str; 3] = ["<<<<<<< ", "=======", ">>>>>>> "];

/// What a source is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// A normalised reference without a digest.
    Image(String),
    /// A branch or a tag, or the remote's HEAD if `reference` is empty.
    Git {
        remote: String,
        reference: String,
        /// What the file demands that the commit, or the tag object upon it, begins with.
        checksum: Option<String>,
    },
    /// A URL, without user and password.
    Url(String),
}

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Locked {
    Image(LockedImage),
    /// The whole id of a commit.
    Git(String),
    /// The digest of a URL's content.
    Url(OciDigest),
}

/// An image for all platforms it is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockedImage {
    /// What the reference names; `None` if that is a manifest.
    pub(crate) index: Option<OciDigest>,
    /// Manifests. Just one without an index.
    pub(crate) platforms: BTreeMap<Platform, OciDigest>,
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LockFile {
    /// What it was made for, where that was asked for.
    pub(crate) platforms: BTreeSet<Platform>,
    pub(crate) sources: BTreeMap<Name, Locked>,
}

impl Name {
    /// The name of a source that can be another one tomorrow; `None` for what its own name pins, and for what lies on
    /// this machine.
    pub(crate) fn of(source: &SourceOp) -> Option<Self> {
        match source {
            SourceOp::Image(image) => {
                (!image.reference.contains('@')).then(|| Self::Image(image.reference.clone()))
            }
            SourceOp::Git(git) => git.commit.is_none().then(|| Self::Git {
                remote: git.remote.clone(),
                reference: git.reference.clone(),
                checksum: git.checksum.clone(),
            }),
            SourceOp::Http(http) => http
                .checksum
                .is_none()
                .then(|| Self::Url(without_user(&http.url))),
            SourceOp::Local(_) | SourceOp::OciLayout(_) => None,
        }
    }

    /// Whether a user who says `word` means this: a reference as it is written in a FROM, a repository with whatever
    /// tags, a remote with or without its reference, a URL.
    pub(crate) fn is_meant_by(&self, word: &str) -> bool {
        match self {
            Self::Image(reference) => {
                let (Ok(own), Ok(asked)) =
                    (reference.parse::<Reference>(), word.parse::<Reference>())
                else {
                    return false;
                };
                let repository = |reference: &Reference| {
                    (reference.registry.clone(), reference.repository.clone())
                };
                let last = word.rsplit('/').next().unwrap_or(word);
                own == asked || (!last.contains(':') && repository(&own) == repository(&asked))
            }
            Self::Git { remote, .. } => word == remote || word == self.to_string(),
            Self::Url(url) => word == url,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(reference) => f.write_str(reference),
            Self::Git {
                remote, reference, ..
            } if reference.is_empty() => f.write_str(remote),
            Self::Git {
                remote, reference, ..
            } => write!(f, "{remote}#{reference}"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// The file is for everybody who has the project.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

impl LockedImage {
    /// The manifest for a platform, or one that can stand in for it. An image that has no index is what it is, whatever
    /// it is asked for; `None` says that only the index itself can tell.
    pub(crate) fn manifest(&self, platform: &Platform) -> Option<OciDigest> {
        match self.index {
            None => self.platforms.values().next().copied(),
            Some(_) => platform
                .fallbacks()
                .iter()
                .find_map(|platform| self.platforms.get(platform).copied()),
        }
    }

    /// The image by the digest of its index, all platforms together.
    pub(crate) fn whole(&self, reference: &Reference) -> ImageSource {
        let whole = self.index.map(|index| reference.with_digest(index));
        ImageSource {
            reference: whole.as_ref().unwrap_or(reference).to_string(),
            digest: None,
        }
    }
}

impl Locked {
    /// The beginning of what tells it from others, as people read it.
    pub(crate) fn short(&self) -> String {
        match self {
            Self::Image(image) => {
                let digest = image.index.or(image.platforms.values().next().copied());
                digest.map_or_else(String::new, |digest| digest.short())
            }
            Self::Git(commit) => commit.chars().take(12).collect(),
            Self::Url(sha256) => sha256.short(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u64>,
    #[serde(default)]
    platforms: Vec<PlatformName>,
    #[serde(default)]
    image: Vec<Image>,
    #[serde(default)]
    git: Vec<Git>,
    #[serde(default)]
    url: Vec<Url>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    reference: Spanned<ReferenceName>,
    index: Option<OciDigest>,
    platforms: Spanned<BTreeMap<PlatformName, OciDigest>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Git {
    remote: Spanned<String>,
    #[serde(rename = "ref", default)]
    reference: String,
    checksum: Option<String>,
    commit: Commit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Url {
    url: Spanned<String>,
    sha256: Sha256,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct PlatformName(Platform);

impl TryFrom<String> for PlatformName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let platform = text.parse().map(Self);
        platform.map_err(|error: rbuild_llb::platform::ParsePlatformError| error.to_string())
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ReferenceName(String);

impl TryFrom<String> for ReferenceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let reference: Reference = text
            .parse()
            .map_err(|error: crate::registry::ParseReferenceError| error.to_string())?;
        match reference.to_string() {
            whole if reference.digest.is_none() && whole == text => Ok(Self(text)),
            _ => Err(format!(
                "`{text}` is not a whole reference: wanted REGISTRY/REPOSITORY:TAG"
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Commit(String);

impl TryFrom<String> for Commit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.len() {
            40 | 64 if digits => Ok(Self(text)),
            _ => Err(format!(
                "`{text}` is not a commit: wanted 40 or 64 hexadecimal digits"
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Sha256(OciDigest);

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digest = format!("sha256:{text}").parse().map(Self);
        digest.map_err(|_| {
            format!("`{text}` is not a SHA-256: wanted 64 lower-case hexadecimal digits")
        })
    }
}

/// Reads the file.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse(source: &Arc<SourceFile>) -> Result<LockFile, Box<Diagnostic>> {
    let file: File =
        toml::from_str(&source.text).map_err(|error| Box::new(malformed(source, &error)))?;
    if *file.version.get_ref() != VERSION {
        let span = Span::new(source, file.version.span());
        return Err(Box::new(other_version(*file.version.get_ref(), span)));
    }
    let mut sources = BTreeMap::new();
    let mut add = |name: Name, span: std::ops::Range<usize>, locked: Locked| {
        let message = format!("`{name}` is there twice");
        match sources.insert(name, locked) {
            None => Ok(()),
            Some(_) => {
                let span = Span::new(source, span);
                let error = Diagnostic::error(message, span, "");
                Err(Box::new(error.hint("remove one of the two entries")))
            }
        }
    };
    for image in file.image {
        let span = image.platforms.span();
        let platforms = image.platforms.into_inner();
        let only = platforms.len() == 1;
        if platforms.is_empty() || (image.index.is_none() && !only) {
            let message = "an image without an `index` has one platform, with one it has some";
            let error = Diagnostic::error(message, Span::new(source, span), "");
            return Err(Box::new(error.hint(anew(source))));
        }
        let span = image.reference.span();
        let locked = LockedImage {
            index: image.index,
            platforms: platforms.into_iter().map(|(p, d)| (p.0, d)).collect(),
        };
        let name = Name::Image(image.reference.into_inner().0);
        add(name, span, Locked::Image(locked))?;
    }
    for git in file.git {
        let span = git.remote.span();
        let name = Name::Git {
            remote: git.remote.into_inner(),
            reference: git.reference,
            checksum: git.checksum,
        };
        add(name, span, Locked::Git(git.commit.0))?;
    }
    for url in file.url {
        let span = url.url.span();
        let name = Name::Url(url.url.into_inner());
        add(name, span, Locked::Url(url.sha256.0))?;
    }
    Ok(LockFile {
        platforms: file.platforms.into_iter().map(|name| name.0).collect(),
        sources,
    })
}

/// Why the file could not be read. Conflicts and other versions show as something else first.
fn malformed(source: &Arc<SourceFile>, error: &toml::de::Error) -> Diagnostic {
    #[derive(Deserialize)]
    struct Versioned {
        version: Spanned<u64>,
    }
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        if CONFLICTS.iter().any(|mark| line.starts_with(mark)) {
            let span = Span::new(source, start..start + line.trim_end().len());
            let message = format!("`{}` has conflicts of a merge in it", source.name);
            let hint = "take either side whole, then `rbuild lock` adds what is missing";
            return Diagnostic::error(message, span, "").hint(hint);
        }
        start += line.len();
    }
    if let Ok(Versioned { version }) = toml::from_str(&source.text)
        && *version.get_ref() != VERSION
    {
        return other_version(*version.get_ref(), Span::new(source, version.span()));
    }
    let span = Span::new(source, error.span().unwrap_or(0..0));
    let message = error.message().replace('\n', ", ");
    match message.split_once(", expected ") {
        Some((what, wanted)) if what.starts_with("unknown") => {
            Diagnostic::error(what, span, "").hint(format!("expected {wanted}"))
        }
        _ => Diagnostic::error(message, span, "").hint(anew(source)),
    }
}

fn other_version(version: u64, span: Span) -> Diagnostic {
    let message = format!("lock files of version {version} are not known");
    let diagnostic = Diagnostic::error(message, span, format!("wanted {VERSION}"));
    match version > VERSION {
        true => diagnostic.hint("a later rbuild wrote it: use that"),
        false => diagnostic,
    }
}

fn anew(source: &SourceFile) -> String {
    format!(
        "`rbuild lock` writes it; to begin anew, remove `{}` first",
        source.name
    )
}

impl LockFile {
    /// The text of the file.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("{HEADER}version = {VERSION}\n");
        if !self.platforms.is_empty() {
            let platforms = self.platforms.iter().map(|p| quoted(&p.to_string()));
            let platforms: Vec<String> = platforms.collect();
            let _ = writeln!(text, "platforms = [{}]", platforms.join(", "));
        }
        for (name, locked) in &self.sources {
            let _ = match name {
                Name::Image(reference) => {
                    writeln!(text, "\n[[image]]\nreference = {}", quoted(reference))
                }
                Name::Git {
                    remote,
                    reference,
                    checksum,
                } => {
                    let line = |key: &str, value: &str| format!("{key} = {}\n", quoted(value));
                    let reference = Some(reference).filter(|reference| !reference.is_empty());
                    let reference = reference.map_or_else(String::new, |r| line("ref", r));
                    let checksum = checksum.as_ref();
                    let checksum = checksum.map_or_else(String::new, |c| line("checksum", c));
                    let remote = line("remote", remote);
                    write!(text, "\n[[git]]\n{remote}{reference}{checksum}")
                }
                Name::Url(url) => writeln!(text, "\n[[url]]\nurl = {}", quoted(url)),
            };
            let _ = match locked {
                Locked::Image(image) => {
                    let index = image.index.map(|index| format!("index = \"{index}\"\n"));
                    let platforms = image.platforms.iter().map(|(platform, digest)| {
                        format!("{} = \"{digest}\"\n", quoted(&platform.to_string()))
                    });
                    let platforms: String = platforms.collect();
                    let index = index.unwrap_or_default();
                    write!(text, "{index}\n[image.platforms]\n{platforms}")
                }
                Locked::Git(commit) => writeln!(text, "commit = \"{commit}\""),
                Locked::Url(sha256) => writeln!(text, "sha256 = \"{}\"", sha256.hex()),
            };
        }
        text
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
