//! Image references as docker normalises them (distribution/reference): `node` is `docker.io/library/node:latest`.

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("an image reference cannot be empty")]
    Empty,
    /// Repository names are lower case.
    #[error("repository name `{name}` must be lowercase")]
    Uppercase {
        /// The name.
        name: String,
    },
    /// A part has characters or a form it must not have.
    #[error("invalid reference format: `{part}` is no {what}")]
    Part {
        /// The part.
        part: String,
        /// What it stands for.
        what: &'static str,
    },
    /// 64 hexadecimal digits would be taken for an image id.
    #[error("`{name}` cannot be a repository name: it looks like an image id")]
    Id {
        /// The name.
        name: String,
    },
}

/// Makes a reference fully qualified: the default registry is `docker.io`, names without a slash there are
/// `library/…`, and what has neither tag nor digest gets `:latest`.
///
/// # Errors
/// If the text does not have the form of a reference.
pub fn normalise_reference(text: &str) -> Result<String, ReferenceError> {
    if text.is_empty() {
        return Err(ReferenceError::Empty);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let name = name.to_owned();
        return Err(ReferenceError::Id { name });
    }
    let is_domain = |part: &str| {
        part.contains(['.', ':']) || part == "localhost" || part.to_lowercase() != part
    };
    let (domain, path) = match name.split_once('/') {
        Some((domain, path)) if is_domain(domain) => (domain, path),
        _ => ("docker.io", name),
    };
    let domain = match domain {
        "index.docker.io" => "docker.io",
        domain => domain,
    };
    check(domain, "registry", valid_domain(domain))?;
    if path.to_lowercase() != path {
        let name = path.to_owned();
        return Err(ReferenceError::Uppercase { name });
    }
    check(
        path,
        "repository name",
        path.split('/').all(valid_component),
    )?;
    let library = match domain == "docker.io" && !path.contains('/') {
        true => "library/",
        false => "",
    };
    let mut full = format!("{domain}/{library}{path}");
    if let Some(tag) = tag {
        check(tag, "tag", valid_tag(tag))?;
        full = format!("{full}:{tag}");
    }
    match digest {
        Some(digest) => {
            check(digest, "digest", valid_digest(digest))?;
            full = format!("{full}@{digest}");
        }
        None if tag.is_none() => full.push_str(":latest"),
        None => {}
    }
    Ok(full)
}

/// The short form by which named contexts are found: `docker.io/library/node:latest` is `node`.
pub(crate) fn familiar(text: &str) -> String {
    let Ok(full) = normalise_reference(text) else {
        return text.to_owned();
    };
    let short = full.strip_prefix("docker.io/").unwrap_or(&full);
    let short = short.strip_prefix("library/").unwrap_or(short);
    short.strip_suffix(":latest").unwrap_or(short).to_owned()
}

fn check(part: &str, what: &'static str, valid: bool) -> Result<(), ReferenceError> {
    let part = part.to_owned();
    valid
        .then_some(())
        .ok_or(ReferenceError::Part { part, what })
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|ip| !ip.is_empty() && ip.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'));
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    port.is_none_or(digits) && (address || host.split('.').all(label))
}

/// Runs of `[a-z0-9]` with one `.`, one or two `_`, or any number of `-` between them.
fn valid_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(word).filter(|s| !s.is_empty());
    part.starts_with(word)
        && part.ends_with(word)
        && separators
            .into_iter()
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.starts_with(word)
        && tag.len() <= 128
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn valid_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let parts = algorithm.split(['+', '.', '-', '_']);
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        parts.into_iter().all(part) && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn references_are_normalised_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, want) in [
            ("node", "docker.io/library/node:latest"),
            ("node:20-slim", "docker.io/library/node:20-slim"),
            ("me/app", "docker.io/me/app:latest"),
            ("ghcr.io/me/app:1", "ghcr.io/me/app:1"),
            ("localhost/app", "localhost/app:latest"),
            ("reg:5000/app", "reg:5000/app:latest"),
            ("index.docker.io/node", "docker.io/library/node:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ] {
            assert_eq!(normalise_reference(text).unwrap(), want, "{text}");
        }
        assert_eq!(
            normalise_reference(&format!("node:20@{digest}")).unwrap(),
            format!("docker.io/library/node:20@{digest}")
        );
        assert_eq!(
            normalise_reference(&format!("node@{digest}")).unwrap(),
            format!("docker.io/library/node@{digest}")
        );
        for bad in [
            "",
            "Node",
            "a//b",
            "a:",
            "a:b:c",
            "-a",
            "a-",
            "a...b",
            "a___b",
            "a@sha256:1",
            "a b",
            "reg:x/app",
            &"a0".repeat(32),
        ] {
            assert!(normalise_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contexts_go_by_the_short_form() {
        for (text, want) in [
            ("docker.io/library/node:latest", "node"),
            ("node:20", "node:20"),
            ("ghcr.io/a/b", "ghcr.io/a/b"),
            ("build", "build"),
        ] {
            assert_eq!(familiar(text), want, "{text}");
        }
    }
}
