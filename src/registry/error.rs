//! What goes wrong with registries and layouts, in the user's words.

use std::io;
use std::path::PathBuf;

use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use crate::image::DocumentError;
use crate::request::KeyPair;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// 401 or 403. Registries answer so for repositories that do not exist, too.
    #[error("`{registry}` denies access to `{reference}`{}", detail(message))]
    Unauthorized {
        /// Who refused.
        registry: String,
        /// What was asked for, as the user wrote it.
        reference: String,
        /// What the registry or its token server said.
        message: Option<String>,
        /// Where credentials were looked for, and what came of it.
        credentials: String,
    },
    /// 404: no such repository, tag or digest.
    #[error("`{registry}` has no `{reference}`{}", detail(message))]
    NotFound {
        /// Who was asked.
        registry: String,
        /// What was asked for, as the user wrote it.
        reference: String,
        /// What the registry said.
        message: Option<String>,
    },
    /// No connection, or one that broke too often.
    #[error("`{registry}` cannot be reached")]
    Unreachable {
        /// Who was asked.
        registry: String,
        /// What happened to the connection.
        #[source]
        source: ureq::Error,
    },
    /// The TLS handshake failed.
    #[error("no secure connection to `{registry}` can be made")]
    Tls {
        /// Who was asked.
        registry: String,
        /// What rustls found.
        #[source]
        source: ureq::Error,
    },
    /// 429, after all tries.
    #[error(
        "`{registry}` takes no more requests for now{}{}",
        detail(message),
        within(limit)
    )]
    TooManyRequests {
        /// The limit it sets, in words.
        limit: Option<String>,
        /// Who refused.
        registry: String,
        /// What the registry said.
        message: Option<String>,
    },
    /// A status no other variant is for, after all tries.
    #[error("`{registry}` answered {status} to {method} {url}{}", detail(message))]
    Status {
        /// Who answered.
        registry: String,
        /// The request's method.
        method: String,
        /// The request's URL, without its query.
        url: String,
        /// The status code.
        status: u16,
        /// What the registry said.
        message: Option<String>,
    },
    /// An answer that breaks the protocol.
    #[error("`{registry}` gave an answer that cannot be used: {why}")]
    Protocol {
        /// Who answered.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are not those the digest stands for.
    #[error("`{what}` should have digest {expected}, but has {actual}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest asked for.
        expected: OciDigest,
        /// The digest of the bytes.
        actual: OciDigest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("`{what}` should have {expected} bytes, but has {}{actual}", if actual > expected { "at least " } else { "" })]
    SizeMismatch {
        /// What was read.
        what: String,
        /// In the descriptor.
        expected: u64,
        /// Bytes there were.
        actual: u64,
    },
    /// A document beyond [`super::MAX_DOCUMENT`].
    #[error("`{what}` is larger than the {limit} bytes documents may have")]
    TooLarge {
        /// What was to be read.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A manifest or index that cannot be used.
    #[error("`{what}` cannot be used as an image")]
    Document {
        /// The reference, or digest in a layout.
        what: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// An image config that cannot be read.
    #[error("the config of `{what}` cannot be read")]
    Config {
        /// The reference, or layout.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A Helm chart, a signature, some other artifact.
    #[error("`{what}` is not a container image: its config is `{media_type}`")]
    NotAnImage {
        /// The reference, or layout.
        what: String,
        /// Of its config.
        media_type: String,
    },
    /// Config and manifest disagree.
    #[error("`{what}` has {layers} layers, but its config describes {described}")]
    LayerCount {
        /// The reference, or layout.
        what: String,
        /// In the manifest.
        layers: usize,
        /// `rootfs.diff_ids` of the config.
        described: usize,
    },
    /// The index has no image that can stand in for the platform.
    #[error("`{what}` has no image for {wanted}: there is {}", list(found))]
    NoPlatform {
        /// The reference, or layout.
        what: String,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What the index has.
        found: Vec<Platform>,
    },
    /// A `ca` file that cannot be read or holds no certificate.
    #[error("`{}` is not a readable PEM file of certificates", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why; `None` where it just holds none.
        #[source]
        source: Option<io::Error>,
    },
    /// A file that should hold a private key and does not.
    #[error("`{}` is not a readable PEM file with a private key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why; `None` where it just holds none.
        #[source]
        source: Option<io::Error>,
    },
    /// A client certificate and a key that cannot be used, or not together.
    #[error("`{}` and `{}` cannot be used as a client certificate and its key", pair.cert.display(), pair.key.display())]
    KeyPair {
        /// The files.
        pair: Box<KeyPair>,
        /// Why not.
        #[source]
        source: Box<rustls::Error>,
    },
    /// A directory of `certs.d` with a certificate and no key, or the reverse.
    #[error("`{}` has no {what} `{}` beside it", path.display(), missing.display())]
    HalfAPair {
        /// What there is.
        path: PathBuf,
        /// `key` or `certificate`.
        what: &'static str,
        /// What there is not.
        missing: PathBuf,
    },
    /// registries.conf forbids it.
    #[error("`{reference}` may not be used: {place} blocks `{prefix}`")]
    Blocked {
        /// File and line.
        place: String,
        /// What was asked for, as the user wrote it.
        reference: String,
        /// The blocked prefix.
        prefix: String,
    },
    /// A table of registries.conf that cannot be used is about what was asked for.
    #[error("where to find `{reference}` cannot be told from {place}: {why}")]
    Setting {
        /// File and line.
        place: String,
        /// What was asked for, as the user wrote it.
        reference: String,
        /// What is wrong with the table.
        why: String,
    },
    /// A proxy URL that cannot be used. The URL may hold a password, so it is not shown.
    #[error("the proxy for {scheme} requests is not an `http://` or `https://` URL")]
    Proxy {
        /// `http` or `https`.
        scheme: String,
    },
    /// A file of a layout that cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory that is not an OCI image layout.
    #[error("`{}` is not an OCI image layout: {why}", path.display())]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A file that is no archive of images.
    #[error("`{}` is not an archive of images: {why}", path.display())]
    NotAnArchive {
        /// The archive.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// An archive that lacks what it names itself.
    #[error("`{}` names `{name}`, which is not in it", path.display())]
    NotInArchive {
        /// The archive.
        path: PathBuf,
        /// The file that is missing.
        name: String,
    },
    /// A registry that does not know the user, or knows another password.
    #[error(
        "`{registry}` does not accept these credentials for `{user}`{}",
        detail(message)
    )]
    LoginRefused {
        /// Who refused.
        registry: String,
        /// Who wanted in.
        user: String,
        /// What the registry or its token server said.
        message: Option<String>,
    },
    /// A layout without the image asked for, or with several where none was named.
    #[error("`{}` {}: {}", path.display(), wanted_image(wanted), list(found))]
    NotInLayout {
        /// The directory.
        path: PathBuf,
        /// The name or digest asked for.
        wanted: Option<String>,
        /// The names it has; digests where there are no names.
        found: Vec<String>,
    },
    /// What was to be pushed cannot be read.
    #[error("a blob to be pushed cannot be read")]
    Source {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was downloaded cannot be kept.
    #[error("what is downloaded cannot be written")]
    Sink {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map_or_else(String::new, |text| format!(": {text}"))
}

fn within(limit: &Option<String>) -> String {
    limit
        .as_ref()
        .map_or_else(String::new, |text| format!(" ({text})"))
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    let items: Vec<_> = items.iter().map(|item| format!("`{item}`")).collect();
    items.join(", ")
}

fn wanted_image(wanted: &Option<String>) -> String {
    match wanted {
        Some(name) => format!("has no image `{name}`, but"),
        None => "has not one image, so one must be named, but".to_owned(),
    }
}

impl RegistryError {
    /// What the user can do about it, for a line after `hint: `.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unauthorized { credentials, .. } => Some(credentials.clone()),
            Self::Tls { registry, .. } => Some(format!(
                "in config.toml, `[registry.\"{registry}\"]` takes `ca = [\"FILE.pem\"]` for a private authority or the \
                 server's own certificate, `keypair` for a registry that asks for a certificate, `http = true` for a registry without TLS, `insecure = true` to trust any certificate"
            )),
            Self::Key { .. } => Some(
                "keys are read as PEM in the forms PKCS #8, PKCS #1 and SEC 1, not encrypted"
                    .to_owned(),
            ),
            // A file that has a URL may just have changed.
            Self::DigestMismatch { what, .. } | Self::SizeMismatch { what, .. }
                if !what.contains("://") => Some(
                "the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept"
                    .to_owned(),
            ),
            Self::Protocol { registry, .. } => Some(format!(
                "answers like that often come from a proxy or a login page in the place of `{registry}`"
            )),
            Self::Status {
                status: 500..=599,
                registry,
                ..
            } => Some(format!(
                "the trouble is `{registry}`'s own: try again later, or name another host with `mirrors` in config.toml"
            )),
            Self::Status {
                status: 400,
                url,
                registry,
                ..
            } if url.starts_with("http://") => Some(format!(
                "it was asked without TLS; `[registry.\"{registry}\"]` in config.toml takes `http = false` for a registry \
                 that speaks it, and `ca = [\"FILE.pem\"]` for its certificate"
            )),
            Self::Status { status: 413, .. } => Some(
                "the registry, or a proxy before it, takes no requests of 1 MiB; nginx has \
                 `client_max_body_size` for that"
                    .to_owned(),
            ),
            Self::Document {
                source: DocumentError::Schema1,
                ..
            } => Some(
                "a newer image may be there under another tag; pulling it with an old docker and pushing it again with a \
                 new one converts it"
                    .to_owned(),
            ),
            Self::TooManyRequests { registry, .. } => Some(format!(
                "`rbuild login {registry}` may raise the limit; `mirrors` in config.toml avoids it"
            )),
            Self::Unreachable { registry, .. } => Some(format!(
                "proxies are taken from HTTPS_PROXY and HTTP_PROXY; `--offline` builds with what is there already; \
                 `[registry.\"{registry}\"] mirrors` in config.toml names other hosts"
            )),
            _ => None,
        }
    }

    /// Whether that is trouble of the moment, which says nothing about what was asked for.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::TooManyRequests { .. }
                | Self::Status {
                    status: 408 | 500..=599,
                    ..
                }
        )
    }

    /// Whether asking another host for the same thing may help.
    pub(super) fn is_worth_another_host(&self) -> bool {
        !matches!(
            self,
            Self::Cancelled
                | Self::Source { .. }
                | Self::Sink { .. }
                | Self::Ca { .. }
                | Self::Key { .. }
                | Self::KeyPair { .. }
                | Self::Proxy { .. }
        )
    }
}
