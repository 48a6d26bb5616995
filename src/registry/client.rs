//! The client, and its pull calls.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::cancel::OnCancel;
use ureq::http::HeaderMap;
use ureq::http::Method;
use ureq::http::header;

use super::MAX_DOCUMENT;
use super::auth::Keyring;
use super::auth::Scopes;
use super::blob::BlobReader;
use super::blob::Mirror;
use super::call::Failure;
use super::call::TRIES;
use super::endpoint::Endpoint;
use super::endpoint::Scheme;
use super::error::RegistryError;
use super::places::Places;
use super::reference::Reference;
use super::resolve;
use super::resolve::Fetched;
use super::resolve::Resolved;
use super::resolve::Wanted;
use super::transport::Request;
use super::transport::Transport;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::media_type;
use crate::request::Settings;

/// What is waited for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The first pause between tries; it doubles.
    pub(super) first_pause: Duration,
    /// For one read or write. A registry may be silent for long after a big upload, while it hashes.
    pub(super) silence: Duration,
}

const PATIENCE: Patience = Patience {
    first_pause: Duration::from_millis(250),
    silence: Duration::from_secs(120),
};
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Talks to registries. Cheap to clone; clones share connections and tokens and may be used by many threads.
#[derive(Clone)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
    /// How often the last endpoint is asked; one with others after it is asked once.
    pub(super) tries: u32,
}

pub(super) struct Shared {
    pub(super) transport: Arc<Transport>,
    pub(super) places: Places,
    /// Whether hosts that may speak TLS or not do, by name.
    pub(super) schemes: Mutex<BTreeMap<String, Arc<Mutex<Option<Scheme>>>>>,
    /// Bytes that requests to hosts may have, where a larger one was refused, by name.
    pub(super) largest_bodies: Mutex<BTreeMap<String, u64>>,
    /// Mirrors that gave something else for a blob.
    pub(super) liars: Mutex<BTreeMap<OciDigest, BTreeSet<Mirror>>>,
    /// Whose turn it is to read and write a list of referrers.
    pub(super) lists: Mutex<()>,
    pub(super) keyring: Keyring,
    pub(super) first_pause: Duration,
    _on_cancel: OnCancel,
}

impl Client {
    /// A client that nothing cancels. Reads no file and opens no connection yet.
    pub fn new(settings: &Settings) -> Self {
        Self::cancelled_by(settings, &CancelToken::new())
    }

    /// A client whose calls fail with [`RegistryError::Cancelled`] as soon as `token` is cancelled, those that wait
    /// for a server too.
    pub fn cancelled_by(settings: &Settings, token: &CancelToken) -> Self {
        Self::with_patience(settings, token, PATIENCE)
    }

    /// One that speaks to some registries in plain HTTP, or trusts any of their certificates, whatever else is said of them.
    pub fn trusting(
        settings: &Settings,
        registries: impl IntoIterator<Item = String>,
        token: &CancelToken,
    ) -> Self {
        let mut settings = settings.clone();
        for host in registries {
            let registry = settings.registries.hosts.entry(host).or_default();
            // Both, as BuildKit sets them: plain HTTP, then TLS with any certificate.
            registry.http = Some(true);
            registry.insecure = Some(true);
        }
        Self::cancelled_by(&settings, token)
    }

    pub(super) fn with_patience(
        settings: &Settings,
        token: &CancelToken,
        patience: Patience,
    ) -> Self {
        let transport = Arc::new(Transport::new(settings, patience.silence));
        let stopped = Arc::clone(&transport);
        let shared = Shared {
            _on_cancel: token.on_cancel(move || stopped.stop()),
            transport,
            places: Places::new(settings.registries.clone()),
            schemes: Mutex::default(),
            largest_bodies: Mutex::default(),
            liars: Mutex::default(),
            lists: Mutex::default(),
            keyring: Keyring::new(settings),
            first_pause: patience.first_pause,
        };
        Self {
            shared: Arc::new(shared),
            tries: TRIES,
        }
    }

    /// The same client for questions that can do without an answer: nobody is asked a second time.
    pub fn asking_once(&self) -> Self {
        Self {
            tries: 1,
            ..self.clone()
        }
    }

    /// Finds the image for `platform`: follows indexes, reads manifest and config.
    ///
    /// # Errors
    /// [`RegistryError`]; `NoPlatform` lists the platforms there are.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        resolve::image(reference.written(), platform, &mut |wanted| match wanted {
            Wanted::Root => self.manifest(reference),
            Wanted::Manifest(descriptor) => {
                let found = self.manifest(&reference.with_digest(descriptor.digest))?;
                resolve::check_size(descriptor, &found.bytes)?;
                Ok(found)
            }
            Wanted::Config(descriptor) => self.small_blob(reference, descriptor),
        })
    }

    /// What a reference stands for, a manifest or an index, with its bytes.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn document(&self, reference: &Reference) -> Result<(Document, Vec<u8>), RegistryError> {
        let found = self.manifest(reference)?;
        let document = resolve::parse(reference.written(), &found)?;
        Ok((document, found.bytes))
    }

    /// The digest a reference stands for now, that of an index if there is one. Costs registries (and the limits
    /// they set) less than [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn head(&self, reference: &Reference) -> Result<OciDigest, RegistryError> {
        let tail = format!("manifests/{}", reference.version());
        let digest = self.over_endpoints(&self.shared.places.to_pull(reference)?, |endpoint| {
            let url = endpoint.url(&tail);
            let request = Request::new(Method::HEAD, url)
                .header(header::ACCEPT, media_type::MANIFESTS.join(", "));
            match self.expect_success(endpoint, reference, &pull_scopes(endpoint), &request) {
                Ok(response) => Ok(content_digest(response.headers())),
                // distribution-spec asks for HEAD, but not everybody has it.
                Err(Failure {
                    error: RegistryError::Status { status: 405, .. },
                    ..
                }) => Ok(None),
                Err(failure) => Err(failure),
            }
        })?;
        match digest {
            Some(digest) if reference.digest.is_none_or(|own| own == digest) => Ok(digest),
            _ => Ok(self.manifest(reference)?.digest),
        }
    }

    /// Reads a blob. The reader compares it with digest and size as it passes, gives an error in place of its last
    /// bytes if they differ, and goes on where it was when a connection breaks.
    ///
    /// # Errors
    /// [`RegistryError`]; the reader's errors have one inside.
    pub fn blob(
        &self,
        reference: &Reference,
        digest: &OciDigest,
        size: u64,
    ) -> Result<BlobReader, RegistryError> {
        BlobReader::open(self, reference, &[], digest, size)
    }

    /// The same for a blob that may be elsewhere: `urls` of its descriptor are asked before the registry, without
    /// credentials, as containerd does.
    ///
    /// # Errors
    /// [`RegistryError`], that of the first URL if the registry does not have the blob.
    pub fn blob_elsewhere(
        &self,
        reference: &Reference,
        urls: &[String],
        digest: &OciDigest,
        size: u64,
    ) -> Result<BlobReader, RegistryError> {
        BlobReader::open(self, reference, urls, digest, size)
    }

    /// Whether others are asked before the registry.
    pub fn has_mirrors(&self, reference: &Reference) -> bool {
        let places = self.shared.places.to_pull(reference);
        places.is_ok_and(|places| places.len() > 1)
    }

    /// How many mirrors are not asked for a blob again, since they gave something else for it. Who finds that there is one
    /// more than before they asked may ask once more: what a reader gave out already it cannot take back.
    pub fn mirrors_to_avoid(&self, digest: &OciDigest) -> usize {
        let liars = self.shared.liars.lock();
        let liars = liars.expect("nothing panics with it in hand");
        liars.get(digest).map_or(0, BTreeSet::len)
    }

    pub(super) fn manifest(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        let tail = format!("manifests/{}", reference.version());
        self.over_endpoints(&self.shared.places.to_pull(reference)?, |endpoint| {
            let url = endpoint.url(&tail);
            let request = Request::new(Method::GET, url)
                .header(header::ACCEPT, media_type::MANIFESTS.join(", "));
            let mut response =
                self.expect_success(endpoint, reference, &pull_scopes(endpoint), &request)?;
            let bytes = self.read_small(endpoint, reference.written(), &mut response)?;
            let digest = Descriptor::of("", &bytes).digest;
            let promised = reference
                .digest
                .or_else(|| content_digest(response.headers()));
            if let Some(expected) = promised.filter(|expected| *expected != digest) {
                return Err(RegistryError::DigestMismatch {
                    what: reference.written().to_owned(),
                    expected,
                    actual: digest,
                }
                .into());
            }
            let content_type = response.headers().get(header::CONTENT_TYPE);
            Ok(Fetched {
                bytes,
                digest,
                media_type: content_type
                    .and_then(|v| v.to_str().ok())
                    .map(str::to_owned),
            })
        })
    }

    fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Fetched, RegistryError> {
        let what = descriptor.digest.to_string();
        if descriptor.size > MAX_DOCUMENT {
            return Err(RegistryError::TooLarge {
                what,
                limit: MAX_DOCUMENT,
            });
        }
        let tail = format!("blobs/{}", descriptor.digest);
        self.over_endpoints(&self.shared.places.to_pull(reference)?, |endpoint| {
            let request = Request::new(Method::GET, endpoint.url(&tail));
            let mut response =
                self.expect_success(endpoint, reference, &pull_scopes(endpoint), &request)?;
            let bytes = self.read_small(endpoint, &what, &mut response)?;
            resolve::check(descriptor, &bytes)?;
            Ok(Fetched {
                digest: descriptor.digest,
                media_type: None,
                bytes,
            })
        })
    }
}

/// What pulling from a repository needs.
pub(super) fn pull_scopes(endpoint: &Endpoint) -> Scopes {
    vec![format!("repository:{}:pull", endpoint.repository)]
}

/// `Docker-Content-Digest`, where it is a SHA-256.
pub(super) fn content_digest(headers: &HeaderMap) -> Option<OciDigest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}
