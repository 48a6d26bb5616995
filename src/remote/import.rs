//! Answers from caches.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_cache::Answer;
use rbuild_cache::RemoteCache;
use rbuild_cache::RemoteError;
use rbuild_cache::Store;
use rbuild_llb::CacheKey;
use rbuild_llb::TreeId;

use super::CACHE;
use super::CATALOGUE;
use super::catalogue::Bytes;
use super::catalogue::Catalogue;
use super::catalogue::Layer;
use super::catalogue::Written;
use super::directory::read_blob;
use crate::registry::Layout;
use crate::request::CacheFrom;

/// A catalogue may not be larger, bytes: some hundred thousand steps.
const MAX_CATALOGUE: u64 = 256 << 20;
/// Neither may a list of files.
const MAX_FILES: u64 = 512 << 20;

/// The caches of `--cache-from`, in their order.
#[derive(Debug)]
pub struct Imports<'a> {
    store: &'a Store,
    caches: Vec<Import>,
    /// Layers whose lists of files are in the store.
    listed: Mutex<BTreeSet<TreeId>>,
}

/// One cache that was opened.
#[derive(Debug)]
pub struct Import {
    layout: Layout,
    /// As origins have it.
    place: String,
    /// As the user named it.
    shown: String,
    catalogue: Catalogue,
}

impl Import {
    /// Reads the catalogue of a cache.
    ///
    /// # Errors
    /// Why it is none that can be used.
    pub fn open(from: &CacheFrom) -> Result<Self, RemoteError> {
        let shown = from.src.display().to_string();
        let failed = |problem: String| RemoteError {
            place: shown.clone(),
            problem,
        };
        let layout = Layout::open(&from.src).map_err(|error| failed(chain(&error)))?;
        let found = layout.artifact(CACHE, &from.name);
        let manifest = found
            .map_err(|error| failed(chain(&error)))?
            .ok_or_else(|| failed(format!("it has no cache called `{}`", from.name)))?;
        let config = &manifest.config;
        if config.media_type != CATALOGUE {
            return Err(failed(format!(
                "its catalogue is a `{}`",
                config.media_type
            )));
        }
        let bytes = read_blob(&layout, &config.digest, config.size, MAX_CATALOGUE);
        let bytes = bytes.map_err(|error| failed(format!("its catalogue {error}")))?;
        let catalogue = Catalogue::parse(&bytes);
        let path = std::path::absolute(&from.src).unwrap_or_else(|_| from.src.clone());
        Ok(Self {
            layout,
            place: format!("oci-layout://{}", path.display()),
            catalogue: catalogue.map_err(|problem| failed(format!("its catalogue {problem}")))?,
            shown,
        })
    }

    fn path(&self) -> &Path {
        self.layout.path()
    }

    fn failed(&self, problem: String) -> RemoteError {
        RemoteError {
            place: self.shown.clone(),
            problem,
        }
    }
}

impl<'a> Imports<'a> {
    /// Caches that were opened.
    pub fn new(store: &'a Store, caches: Vec<Import>) -> Self {
        Self {
            store,
            caches,
            listed: Mutex::default(),
        }
    }

    /// Brings in what a layer needs to be known: the list of its files, and where its blob is.
    fn take(&self, cache: &Import, layer: &Layer) -> Result<(), RemoteError> {
        let problem = |error: &dyn std::error::Error| cache.failed(chain(error));
        if let Some((digest, size, _)) = layer.blob()
            && !self.store.blobs().contains(&digest)
            && !Layout::has_blob(cache.path(), &digest, size)
        {
            return Err(cache.failed(format!("it no longer has layer {digest}")));
        }
        let tree = layer.layer;
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let trees = self.store.trees();
        if !listed.contains(&tree.tree) {
            if trees.objects(&tree.tree, &mut BTreeSet::new()).is_err() {
                let files = layer.files;
                let pack = read_blob(&cache.layout, &files.digest, files.size, MAX_FILES)
                    .map_err(|error| cache.failed(format!("a list of files {error}")))?;
                let unpacked = trees.unpack(&tree, &mut pack.as_slice());
                unpacked.map_err(|error| problem(&error))?;
            }
            listed.insert(tree.tree);
        }
        if let Bytes::Blob(Written {
            version,
            options,
            blob,
        }) = &layer.bytes
        {
            let set = self.store.set_layer_blob_elsewhere(
                &tree.tree,
                *version,
                options,
                blob,
                &cache.place,
            );
            set.map_err(|error| problem(&error))?;
        }
        Ok(())
    }
}

impl RemoteCache for Imports<'_> {
    fn find(&self, key: &CacheKey) -> Result<Option<Answer>, RemoteError> {
        let mut failed = None;
        for cache in &self.caches {
            let Some((answer, layers)) = cache.catalogue.find(key, &cache.place) else {
                continue;
            };
            match layers.iter().try_for_each(|layer| self.take(cache, layer)) {
                Ok(()) => return Ok(Some(answer)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }
}

/// An error with what brought it about.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
