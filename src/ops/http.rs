//! Files by URL: asked for anew in each build, or known by their checksum.

use std::io;
use std::io::Read;
use std::io::Write;

use rbuild_cache::FileNode;
use rbuild_cache::LayerRef;
use rbuild_cache::Lease;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Meta;
use rbuild_cache::NewNode;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::StoredUrl;
use rbuild_cache::Timestamp;
use rbuild_cache::TreeBuilder;
use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use rbuild_llb::op::HttpSource;

use super::Engine;
use super::OpError;
use super::turn;
use crate::registry;
use crate::registry::RegistryError;
use crate::registry::Validators;
use crate::registry::download::shown;

/// What a URL gives now. A server that says that nothing has changed sends nothing.
///
/// # Errors
/// If it cannot be had.
pub(crate) fn current(
    store: &Store,
    lease: &Lease,
    client: &registry::Client,
    url: &str,
    offline: bool,
    cancel: &CancelToken,
) -> Result<StoredUrl, OpError> {
    if offline {
        return known(store, lease, url)?.ok_or_else(|| OpError::Offline { what: shown(url) });
    }
    // What another build has got by then, the server need not send again.
    let ask = || fetch(store, client, url, known(store, lease, url)?);
    turn::once(store, cancel, &format!("url {url}"), || Ok(None), ask)
}

/// What a URL gives, which must be that; the store's if it has it.
///
/// # Errors
/// If it cannot be had, or is something else.
pub(crate) fn demanded(
    store: &Store,
    lease: &Lease,
    client: &registry::Client,
    url: &str,
    expected: OciDigest,
    offline: bool,
    cancel: &CancelToken,
) -> Result<StoredUrl, OpError> {
    let there = || Ok(known(store, lease, url)?.filter(|known| known.checksum == expected));
    let stored = match (there()?, offline) {
        (Some(known), _) => return Ok(known),
        (None, true) => return Err(OpError::Offline { what: shown(url) }),
        (None, false) => turn::once(store, cancel, &format!("url {url}"), there, || {
            fetch(store, client, url, None)
        })?,
    };
    match stored.checksum == expected {
        true => Ok(stored),
        false => Err(RegistryError::DigestMismatch {
            what: shown(url),
            expected,
            actual: stored.checksum,
        }
        .into()),
    }
}

/// What a URL gave, if the store still has it; then it stays.
fn known(store: &Store, lease: &Lease, url: &str) -> Result<Option<StoredUrl>, OpError> {
    let known = store.url(url)?;
    if let Some(known) = &known {
        lease.protect(LeaseRoot::Blob(known.checksum))?;
    }
    Ok(known.filter(|known| store.blobs().contains(&known.checksum)))
}

fn fetch(
    store: &Store,
    client: &registry::Client,
    url: &str,
    known: Option<StoredUrl>,
) -> Result<StoredUrl, OpError> {
    let validators = known
        .as_ref()
        .map_or_else(Validators::default, |known| Validators {
            etag: known.etag.clone(),
            last_modified: known.last_modified.clone(),
        });
    let mut kept = None;
    let answer = client.download(url, &validators, &mut |body| {
        kept = Some(keep(store, &shown(url), body).map_err(io::Error::other)?);
        Ok(())
    })?;
    let (stored, validators) = match (answer, kept, known) {
        (Some(validators), Some(kept), _) => (kept, validators),
        (None, _, Some(known)) => return Ok(known),
        // It was asked for no validators, or the answer has no body.
        (None, _, None) | (Some(_), None, _) => {
            return Err(RegistryError::Protocol {
                registry: shown(url),
                why: "it is not new and not known either".to_owned(),
            }
            .into());
        }
    };
    let stored = StoredUrl {
        modified: validators.modified().unwrap_or(0),
        etag: validators.etag,
        last_modified: validators.last_modified,
        ..stored
    };
    store.set_url(url, &stored)?;
    Ok(stored)
}

/// Puts what a reader gives into the store, as a file nothing is known of but its content. Errors call it `what`.
///
/// # Errors
/// If it cannot be read, or the store cannot be written.
pub(crate) fn keep(store: &Store, what: &str, from: &mut dyn Read) -> Result<StoredUrl, OpError> {
    let mut hasher = blake3::Hasher::new();
    let mut writer = store.blobs().writer()?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count.map_err(|error| OpError::io("read", what.as_ref(), error))?,
        };
        hasher.update(&buffer[..count]);
        writer
            .write_all(&buffer[..count])
            .map_err(|error| OpError::io("write", store.path(), error))?;
    }
    let (checksum, size) = writer.commit(None)?;
    Ok(StoredUrl {
        checksum,
        digest: FileDigest::from_bytes(*hasher.finalize().as_bytes()),
        size,
        etag: None,
        last_modified: None,
        modified: 0,
    })
}

impl Engine<'_> {
    /// What the store has of a pinned URL.
    pub(super) fn known_url(&self, http: &HttpSource) -> Result<Option<StoredUrl>, OpError> {
        let Some(checksum) = &http.checksum else {
            return Ok(None);
        };
        self.lease.protect(LeaseRoot::Blob(*checksum))?;
        let known = known(self.store, self.lease, &http.url)?;
        Ok(known.filter(|known| known.checksum == *checksum))
    }

    /// The one file of a pinned URL, fetched if need be.
    pub(super) fn url(&self, http: &HttpSource) -> Result<Snapshot, OpError> {
        let (store, registry, offline) = (self.store, self.registry, self.options.offline);
        let stored = match http.checksum {
            Some(expected) => {
                self.lease.protect(LeaseRoot::Blob(expected))?;
                demanded(
                    store,
                    self.lease,
                    registry,
                    &http.url,
                    expected,
                    offline,
                    self.cancel,
                )?
            }
            None if offline => {
                return Err(OpError::Offline {
                    what: shown(&http.url),
                });
            }
            None => fetch(store, registry, &http.url, None)?,
        };
        self.file_of_url(http, &stored)
    }

    pub(super) fn file_of_url(
        &self,
        http: &HttpSource,
        stored: &StoredUrl,
    ) -> Result<Snapshot, OpError> {
        let blob: &OciDigest = &stored.checksum;
        self.bytes
            .place_file(stored.digest, &self.store.blobs().path(blob));
        let meta = Meta {
            mode: http.mode.unwrap_or(0o600),
            mtime: Timestamp {
                secs: stored.modified,
                nanos: 0,
            },
            ..Meta::default()
        };
        let file = FileNode {
            size: stored.size,
            digest: stored.digest,
            link: None,
        };
        let mut builder = TreeBuilder::new();
        builder.insert(http.filename.as_bytes(), meta, NewNode::File(file));
        let tree = builder.finish(self.store.trees());
        Ok(Snapshot {
            layers: vec![LayerRef {
                layer: tree,
                origin: None,
                created: None,
                single: false,
            }],
            root: tree,
        })
    }
}
