//! Answers from caches.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rbuild_cache::Elsewhere;
use rbuild_cache::RemoteCache;
use rbuild_cache::RemoteError;
use rbuild_cache::Store;
use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use sha2::Digest as _;
use sha2::Sha256;

use super::MAX_FILES;
use super::catalogue::Bytes;
use super::catalogue::Catalogue;
use super::catalogue::Files;
use super::catalogue::Layer;
use super::catalogue::Written;
use super::chain;
use super::inline::OfImage;
use super::place::Blob;
use super::place::CacheReader;
use super::place::Contents;
use super::place::Trouble;
use super::read_whole;

/// The caches of `--cache-from`, in their order.
pub struct Imports<'a> {
    store: &'a Store,
    caches: Vec<Import>,
    /// Layers whose lists of files are in the store.
    listed: Mutex<BTreeSet<TreeId>>,
}

/// One cache that was opened.
pub struct Import {
    reader: Box<dyn CacheReader>,
    /// As origins have it.
    place: String,
    /// As the user named it.
    shown: String,
    knows: Knows,
    /// Packs that came in, or did not.
    packs: Mutex<BTreeMap<OciDigest, Option<Arc<Vec<u8>>>>>,
    trouble: Mutex<Troubles>,
}

/// What went wrong with a cache that was opened.
#[derive(Default)]
struct Troubles {
    /// The first of it.
    first: Option<String>,
    /// Whether nothing more is asked of it.
    given_up: bool,
}

/// What a cache knows.
enum Knows {
    Catalogues(Vec<Catalogue>),
    Images(Vec<OfImage>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Import {
    /// Reads what a cache knows. Origins call it `place`.
    ///
    /// # Errors
    /// Why it is none that can be used.
    pub fn open(
        reader: Box<dyn CacheReader>,
        place: String,
        shown: String,
    ) -> Result<Self, RemoteError> {
        let failed = |problem: String| RemoteError {
            place: shown.clone(),
            problem,
        };
        let contents = reader.contents().map_err(|trouble| failed(trouble.what))?;
        let knows = match contents {
            Contents::Catalogues(documents) => {
                let catalogues = documents.iter().map(|bytes| Catalogue::parse(bytes));
                let wrong = |problem| failed(format!("its catalogue {problem}"));
                let catalogues = catalogues.collect::<Result<Vec<_>, _>>();
                Knows::Catalogues(catalogues.map_err(wrong)?)
            }
            Contents::Images(images) => Knows::Images(images),
        };
        Ok(Self {
            reader,
            place,
            shown,
            knows,
            packs: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    fn failed(&self, trouble: Trouble) -> RemoteError {
        let mut troubles = locked(&self.trouble);
        troubles.given_up |= trouble.lasting;
        troubles.first.get_or_insert_with(|| trouble.what.clone());
        RemoteError {
            place: self.shown.clone(),
            problem: trouble.what,
        }
    }

    fn is_given_up(&self) -> bool {
        locked(&self.trouble).given_up
    }

    /// A list of files.
    fn files(&self, catalogue: &Catalogue, files: Files) -> Result<Vec<u8>, Trouble> {
        let named = |trouble: Trouble| Trouble {
            what: format!("a list of files {}", trouble.what),
            ..trouble
        };
        let Files { digest, size, at } = files;
        let Some((pack, offset)) = at else {
            return read_whole(&*self.reader, &digest, size, MAX_FILES).map_err(named);
        };
        let cut = |pack: &[u8]| {
            let begin = usize::try_from(offset).ok()?;
            let end = begin.checked_add(usize::try_from(size).ok()?)?;
            let bytes = pack.get(begin..end)?.to_vec();
            let found = OciDigest::from_bytes(Sha256::digest(&bytes).into());
            (found == digest).then_some(bytes)
        };
        let whole = catalogue.packs[pack];
        let mut packs = locked(&self.packs);
        if let Some(known) = packs.get(&whole.digest) {
            let bytes = known.as_deref().and_then(|pack| cut(pack));
            return bytes.ok_or_else(|| named(Trouble::with("is not in its pack")));
        }
        let read = read_whole(&*self.reader, &whole.digest, whole.size, MAX_FILES);
        let read = read.map(Arc::new);
        packs.insert(whole.digest, read.as_ref().ok().cloned());
        let bytes = cut(&read.map_err(named)?);
        bytes.ok_or_else(|| named(Trouble::with("is not in its pack")))
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

    /// The other keys of what a key has the result of. Who knows a result from a cache may not know what it was made of, and
    /// so not by which other keys it can be found.
    pub fn other_keys(&self, key: &CacheKey) -> Vec<CacheKey> {
        let of = |cache: &Import| -> Vec<CacheKey> {
            match &cache.knows {
                Knows::Catalogues(catalogues) => {
                    let of = catalogues.iter();
                    of.flat_map(|catalogue| catalogue.keys_beside(key))
                        .collect()
                }
                Knows::Images(images) => {
                    let of = images.iter();
                    of.flat_map(|image| image.keys_beside(key)).collect()
                }
            }
        };
        self.caches.iter().flat_map(of).collect()
    }

    /// What went wrong with caches after they were opened: the first of each.
    pub fn troubles(&self) -> Vec<String> {
        let problems = self.caches.iter().filter_map(|cache| {
            let problem = locked(&cache.trouble).first.clone()?;
            Some(format!("{}: {problem}", cache.shown))
        });
        problems.collect()
    }

    /// Brings in what a layer needs to be known: the list of its files, and where its blob is.
    fn take(
        &self,
        cache: &Import,
        catalogue: &Catalogue,
        layer: &Layer,
    ) -> Result<(), RemoteError> {
        let problem = |error: &dyn std::error::Error| cache.failed(Trouble::with(chain(error)));
        if let Some((digest, size, _)) = layer.blob()
            && !self.store.blobs().contains(&digest)
            && !cache.reader.may_have(&digest, size)
        {
            let what = format!("it no longer has layer {digest}");
            return Err(cache.failed(Trouble::with(what)));
        }
        let tree = layer.layer;
        let mut listed = locked(&self.listed);
        let trees = self.store.trees();
        if !listed.contains(&tree.tree) {
            if trees.objects(&tree.tree, &mut BTreeSet::new()).is_err() {
                let pack = cache.files(catalogue, layer.files);
                let pack = pack.map_err(|trouble| cache.failed(trouble))?;
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
    fn find(&self, key: &CacheKey) -> Result<Option<Elsewhere>, RemoteError> {
        let mut failed = None;
        for cache in &self.caches {
            if cache.is_given_up() {
                continue;
            }
            let catalogues = match &cache.knows {
                Knows::Catalogues(catalogues) => catalogues,
                Knows::Images(images) => {
                    let found = images
                        .iter()
                        .find_map(|image| image.find(key, &cache.place));
                    match found {
                        Some(found) => return Ok(Some(Elsewhere::Unread(found))),
                        None => continue,
                    }
                }
            };
            for catalogue in catalogues {
                let Some((answer, layers)) = catalogue.find(key, &cache.place) else {
                    continue;
                };
                let mut layers = layers.iter();
                match layers.try_for_each(|layer| self.take(cache, catalogue, layer)) {
                    Ok(()) => return Ok(Some(Elsewhere::Answer(answer))),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    fn reaches(&self, place: &str) -> bool {
        let mut caches = self.caches.iter();
        caches.any(|cache| cache.place == place && !cache.is_given_up())
    }

    fn open(
        &self,
        place: &str,
        digest: &OciDigest,
        size: u64,
    ) -> Option<Result<Blob, RemoteError>> {
        let mut caches = self.caches.iter();
        let cache = caches.find(|cache| cache.place == place)?;
        let blob = cache.reader.blob(digest, size);
        Some(blob.map_err(|trouble| cache.failed(trouble)))
    }
}
