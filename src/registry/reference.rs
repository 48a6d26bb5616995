//! Image references, by the grammar of docker's `distribution/reference` and normalised as docker does it.

use std::fmt;
use std::str::FromStr;

use rbuild_llb::OciDigest;

/// The registry of references that name none.
pub const DOCKER_HUB: &str = "docker.io";

/// Longest repository name, in bytes (distribution/reference, `RepositoryNameTotalLengthMax`).
const MAX_REPOSITORY: usize = 255;

/// Names an image in a registry. Text form: `registry/repository[:tag][@digest]`.
#[derive(Debug, Clone)]
pub struct Reference {
    /// `host[:port]`.
    pub registry: String,
    /// Slash-separated path.
    pub repository: String,
    /// The tag; `latest` where the reference had neither tag nor digest.
    pub tag: Option<String>,
    /// Of the manifest or index. It alone is asked for where a tag is there too.
    pub digest: Option<OciDigest>,
    written: String,
}

/// A reference that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {why}")]
pub struct ParseReferenceError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Reference {
    /// As the user wrote it.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Tag or digest, as the distribution-spec's `<reference>`: the digest wins.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The same, pinned to `digest`.
    pub fn with_digest(&self, digest: OciDigest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// What has that tag in the same repository.
    pub(super) fn with_tag(&self, tag: String) -> Self {
        Self {
            tag: Some(tag),
            digest: None,
            ..self.clone()
        }
    }
}

impl PartialEq for Reference {
    /// How it was written does not count.
    fn eq(&self, other: &Self) -> bool {
        (&self.registry, &self.repository, &self.tag, &self.digest)
            == (
                &other.registry,
                &other.repository,
                &other.tag,
                &other.digest,
            )
    }
}

impl Eq for Reference {}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        parse(text).map_err(|why| ParseReferenceError {
            text: text.to_owned(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits name an image id, which registries do not know");
    }
    let (name, digest) = match text.split_once('@') {
        None => (text, None),
        Some((name, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| "after `@` comes `sha256:` and 64 lower-case hexadecimal digits")?;
            (name, Some(digest))
        }
    };
    // A colon before the last slash belongs to a port.
    let path_start = name.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match name[path_start..].find(':') {
        None => (name, None),
        Some(at) => {
            let (name, tag) = name.split_at(path_start + at);
            (name, Some(&tag[1..]))
        }
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(
            "a tag is up to 128 letters, digits, `_`, `.` and `-`, and begins with none of `.` and `-`",
        );
    }
    let (registry, repository) = match name.split_once('/') {
        Some((host, rest)) if is_registry_by_looks(host) => {
            if !is_registry(host) {
                return Err("what is before the first `/` is no host name");
            }
            (host, rest)
        }
        _ => (DOCKER_HUB, name),
    };
    let registry = match registry {
        "index.docker.io" => DOCKER_HUB,
        registry => registry,
    };
    if repository.is_empty() {
        return Err("the repository is missing");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository is written in lower case");
    }
    if !repository.split('/').all(is_path_component) {
        return Err(
            "a repository is lower-case letters and digits, with `.`, `_`, `__` or `-` between them and `/` between its parts",
        );
    }
    let repository = if registry == DOCKER_HUB && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    if repository.len() > MAX_REPOSITORY {
        return Err("a repository is at most 255 bytes long");
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
        written: text.to_owned(),
    })
}

/// Whether docker takes the first part of a name for a registry (distribution/reference, `splitDockerDomain`).
fn is_registry_by_looks(host: &str) -> bool {
    host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
            if address.is_empty() || !address.bytes().all(hex) {
                return false;
            }
            (None, port)
        }
        None => {
            let end = host.find(':').unwrap_or(host.len());
            (Some(&host[..end]), &host[end..])
        }
    };
    let sound_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| !p.is_empty() && p.parse::<u16>().is_ok());
    let sound_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    sound_port && name.is_none_or(|name| name.split('.').all(sound_label))
}

fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(*first)
        && alphanumeric(*last)
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod t {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa";

    // Cases from the test tables of distribution/reference (normalize_test.go, reference_test.go).
    #[test]
    fn normalised_as_docker_does() {
        let digest = format!("busybox@sha256:{HEX}");
        let both = format!("quay.io/a/b:1@sha256:{HEX}");
        for (text, want) in [
            ("fedora", "docker.io/library/fedora:latest"),
            ("docker/docker", "docker.io/docker/docker:latest"),
            ("index.docker.io/ubuntu:20", "docker.io/library/ubuntu:20"),
            (
                "docker.io/library/debian",
                "docker.io/library/debian:latest",
            ),
            ("localhost/redis", "localhost/redis:latest"),
            ("localhost:5000/redis:v1", "localhost:5000/redis:v1"),
            (
                "127.0.0.1:8000/library/debian",
                "127.0.0.1:8000/library/debian:latest",
            ),
            ("[2001:db8::1]:5000/repo", "[2001:db8::1]:5000/repo:latest"),
            ("xn--7o8h.com/myimage:xn", "xn--7o8h.com/myimage:xn"),
            ("Uppercase/lowercase", "Uppercase/lowercase:latest"),
            ("localhost", "docker.io/library/localhost:latest"),
            ("a__b/c-----d.e", "docker.io/a__b/c-----d.e:latest"),
            ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080"),
            (&digest, &format!("docker.io/library/{digest}")),
            (&both, &both),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), want);
            assert_eq!(reference.written(), text);
        }
    }

    #[test]
    fn refused_as_docker_does() {
        let long = "a/".repeat(128) + "a";
        let upper = format!("busybox@sha256:{}", HEX.to_uppercase());
        for text in [
            "",
            ":justtag",
            "@sha256:fff",
            "https://github.com/docker/docker",
            "docker/Docker",
            "Ubuntu",
            "-docker/x",
            "docker-/x",
            "docker///docker",
            "docker.io/docker/docker/",
            "docker.io/",
            "foo_bar.com:8080/a",
            "a..b",
            "a._b",
            "a___b",
            "repo:",
            "repo:-x",
            "repo:a b",
            "host.com:99999999/x",
            "host.com:/x",
            "[fc00::1/x",
            "[::1]x/y",
            "a/b\n",
            "é",
            &long,
            &upper,
            HEX,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_form_reads_back(text in "([a-zA-Z]{1,4}[.:-]?[a-z0-9]{0,3}/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9._-]{1,5})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                let shown = reference.to_string();
                prop_assert_eq!(shown.parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
