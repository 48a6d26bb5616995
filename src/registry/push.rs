//! The push calls (distribution-spec, Pushing Blobs and Pushing Manifests). How many at once is the caller's.

use rbuild_llb::OciDigest;
use ureq::http::Method;
use ureq::http::header;

use super::call::Failure;
use super::client::Client;
use super::client::content_digest;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::reference::Reference;
use super::transport::OpenBlob;
use super::transport::Payload;
use super::transport::Request;
use crate::image::Descriptor;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from the other repository.
    Mounted,
    /// It was sent.
    Sent,
}

impl Client {
    /// Makes sure a blob is in the repository of `to`; `open` reads it from its beginning, and is called for each
    /// try, or not at all. `mount_from` is a repository of the same registry that is known to have it.
    ///
    /// # Errors
    /// [`RegistryError`]; `Source` if the blob cannot be read.
    pub fn push_blob<'a>(
        &self,
        to: &'a Reference,
        digest: &'a OciDigest,
        size: u64,
        mount_from: Option<&'a str>,
        open: &'a OpenBlob<'a>,
    ) -> Result<Pushed, RegistryError> {
        let blob = Blob::new(to, digest, size, mount_from, open);
        self.bring(&blob, false)
    }

    /// The same for a blob that is known not to be there.
    ///
    /// # Errors
    /// [`RegistryError`]; `Source` if the blob cannot be read.
    pub fn send_blob<'a>(
        &self,
        to: &'a Reference,
        digest: &'a OciDigest,
        size: u64,
        mount_from: Option<&'a str>,
        open: &'a OpenBlob<'a>,
    ) -> Result<Pushed, RegistryError> {
        let blob = Blob::new(to, digest, size, mount_from, open);
        self.bring(&blob, true)
    }

    /// Whoever tries again asks again: the last try may have come through.
    fn bring(&self, blob: &Blob<'_>, mut missing: bool) -> Result<Pushed, RegistryError> {
        self.over_endpoints(&self.shared.places.to_push(blob.to)?, |endpoint| {
            let known = std::mem::take(&mut missing);
            if !known && self.has_blob(endpoint, blob.to, blob.digest)? {
                return Ok(Pushed::Existed);
            }
            self.upload(endpoint, blob)
        })
    }

    /// Whether the repository of `to` has a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn has(&self, to: &Reference, digest: &OciDigest) -> Result<bool, RegistryError> {
        self.over_endpoints(&self.shared.places.to_push(to)?, |endpoint| {
            self.has_blob(endpoint, to, digest)
        })
    }

    /// Whether the repository of `to` has a blob, or could take it from another one of the same registry.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn has_or_mounts(
        &self,
        to: &Reference,
        digest: &OciDigest,
        size: u64,
        from: &str,
    ) -> Result<bool, RegistryError> {
        let open = || Err(std::io::ErrorKind::Unsupported.into());
        let blob = Blob::new(to, digest, size, Some(from), &open);
        self.over_endpoints(&self.shared.places.to_push(to)?, |endpoint| {
            if self.has_blob(endpoint, to, digest)? {
                return Ok(true);
            }
            match blob.mount_from {
                Some(_) => self.mount(endpoint, &blob),
                None => Ok(false),
            }
        })
    }

    /// Puts a manifest or index into the repository of `to`, under its digest if `to` has one, else under its tag.
    /// All it points at must be there, but for what it is about.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn push_manifest(
        &self,
        to: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<OciDigest, RegistryError> {
        let digest = Descriptor::of(media_type, bytes).digest;
        let tail = format!("manifests/{}", to.version());
        let answered = self.over_endpoints(&self.shared.places.to_push(to)?, |endpoint| {
            let request = Request::new(Method::PUT, endpoint.url(&tail))
                .header(header::CONTENT_TYPE, media_type)
                .body(Payload::Bytes(bytes));
            let response = self.expect_success(endpoint, to, &scopes(to, None), &request)?;
            match content_digest(response.headers()) {
                Some(stored) if stored != digest => Err(RegistryError::DigestMismatch {
                    what: to.written().to_owned(),
                    expected: digest,
                    actual: stored,
                }
                .into()),
                _ => Ok(response.headers().clone()),
            }
        })?;
        self.refer(to, media_type, bytes, &answered)?;
        Ok(digest)
    }

    fn has_blob(
        &self,
        endpoint: &Endpoint,
        to: &Reference,
        digest: &OciDigest,
    ) -> Result<bool, Failure> {
        let url = endpoint.url(&format!("blobs/{digest}"));
        let request = Request::new(Method::HEAD, url);
        match self.expect_success(endpoint, to, &scopes(to, None), &request) {
            Ok(_) => Ok(true),
            Err(Failure {
                error: RegistryError::NotFound { .. },
                ..
            }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

/// A blob to be pushed.
pub(super) struct Blob<'a> {
    pub(super) to: &'a Reference,
    pub(super) digest: &'a OciDigest,
    pub(super) size: u64,
    pub(super) mount_from: Option<&'a str>,
    pub(super) open: &'a OpenBlob<'a>,
}

impl<'a> Blob<'a> {
    fn new(
        to: &'a Reference,
        digest: &'a OciDigest,
        size: u64,
        mount_from: Option<&'a str>,
        open: &'a OpenBlob<'a>,
    ) -> Self {
        Self {
            to,
            digest,
            size,
            // Mounting a blob where it is already tells nothing.
            mount_from: mount_from.filter(|from| *from != to.repository),
            open,
        }
    }
}

/// What pushing to a repository needs, and mounting from another one.
pub(super) fn scopes(to: &Reference, mount_from: Option<&str>) -> Vec<String> {
    let mut scopes = vec![format!("repository:{}:pull,push", to.repository)];
    scopes.extend(mount_from.map(|from| format!("repository:{from}:pull")));
    scopes
}
