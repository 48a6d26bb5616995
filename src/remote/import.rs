//! Answers from caches.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rbuild_cache::Answer;
use rbuild_cache::CacheMountName;
use rbuild_cache::Elsewhere;
use rbuild_cache::LayerError;
use rbuild_cache::Ownership;
use rbuild_cache::RemoteCache;
use rbuild_cache::RemoteError;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::TreeRef;
use rbuild_cache::Unread;
use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
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
use super::mounts::Failure;
use super::mounts::Mount;
use super::mounts::OpenAt;
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
    /// What was found, by the key that was asked for: in which of the caches, and in which of its catalogues.
    adopted: Mutex<BTreeMap<CacheKey, (usize, usize)>>,
    /// Blobs of which nobody knows whether they are still there, or right: lists and packs that did not come or were wrong,
    /// and what belongs to the layers they are of.
    doubted: Mutex<BTreeSet<OciDigest>>,
    /// Cache mounts that are there and did not come, for no fault of theirs.
    left: Mutex<BTreeSet<CacheMountName>>,
    /// Why cache mounts did not come.
    mount_troubles: Mutex<Vec<String>>,
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

/// Whether two results are the same files in the same layers, wherever their bytes are.
fn is_same(a: &Answer, b: &Answer) -> bool {
    let trees = |answer: &Answer| -> Vec<(TreeRef, Vec<TreeRef>)> {
        let of = |output: &Snapshot| {
            let layers = output.layers.iter().map(|layer| layer.layer);
            (output.root, layers.collect())
        };
        answer.outputs.iter().map(of).collect()
    };
    trees(a) == trees(b)
}

/// Whether a result is what an image has in the same layers.
fn is_of(found: &Unread, answer: &Answer) -> bool {
    let image = found.outputs.iter().map(|layers| {
        let layers = layers.iter().map(|layer| Some(layer.0.digest));
        layers.collect::<Vec<_>>()
    });
    let known = answer.outputs.iter().map(|output| {
        let layers = output.layers.iter();
        let of = layers.map(|layer| layer.origin.as_ref().map(|origin| origin.digest));
        of.collect::<Vec<_>>()
    });
    image.eq(known)
}

fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
        let mut troubles = Troubles::default();
        let knows = match contents {
            Contents::Catalogues(documents) => {
                // One that another version wrote, or that is damaged, does not take the others with it.
                let mut catalogues = Vec::new();
                for document in &documents {
                    match Catalogue::parse(document) {
                        Ok(catalogue) => catalogues.push(catalogue),
                        Err(problem) => {
                            let first = &mut troubles.first;
                            first.get_or_insert_with(|| format!("its catalogue {problem}"));
                        }
                    }
                }
                if catalogues.is_empty()
                    && let Some(problem) = troubles.first.take()
                {
                    return Err(failed(problem));
                }
                Knows::Catalogues(catalogues)
            }
            Contents::Images(images) => Knows::Images(images),
        };
        Ok(Self {
            reader,
            place,
            shown,
            knows,
            packs: Mutex::default(),
            trouble: Mutex::new(troubles),
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
            adopted: Mutex::default(),
            doubted: Mutex::default(),
            left: Mutex::default(),
            mount_troubles: Mutex::default(),
        }
    }

    /// The other keys of a result that is known by these. Who knows a result from a cache may not know what it was made of,
    /// and so not by which other keys it can be found. That is taken only from where the result itself was taken from in this
    /// build, and from the cache called `to`, which is written again; and of both only if they have this result, and not
    /// another, for the key. What else a cache says of a key is not to get into other caches.
    pub fn other_keys(
        &self,
        keys: &[CacheKey],
        answer: &Answer,
        to: Option<&str>,
    ) -> Vec<CacheKey> {
        let adopted = locked(&self.adopted);
        let mut others = Vec::new();
        for (at, cache) in self.caches.iter().enumerate() {
            let own = to == Some(cache.shown.as_str());
            for key in keys {
                let taken = |of| own || adopted.get(key) == Some(&(at, of));
                match &cache.knows {
                    Knows::Catalogues(catalogues) => {
                        let of = catalogues.iter().enumerate();
                        let of = of.filter(|(at, catalogue)| {
                            let found = || catalogue.find(key, &cache.place);
                            taken(*at) && found().is_some_and(|(found, _)| is_same(&found, answer))
                        });
                        others.extend(of.flat_map(|(_, catalogue)| catalogue.keys_beside(key)));
                    }
                    Knows::Images(images) => {
                        let of = images.iter().enumerate();
                        let of = of.filter(|(at, image)| {
                            let found = || image.find(key, &cache.place);
                            taken(*at) && found().is_some_and(|found| is_of(&found, answer))
                        });
                        others.extend(of.flat_map(|(_, image)| image.keys_beside(key)));
                    }
                }
            }
        }
        others
    }

    /// Where a mount is, in the order of the caches.
    fn mounts(&self, name: &CacheMountName) -> impl Iterator<Item = (&Import, &Mount)> {
        let name = name.clone();
        let all = self.all_mounts();
        all.filter(move |(_, mount)| mount.is(&name))
    }

    fn all_mounts(&self) -> impl Iterator<Item = (&Import, &Mount)> {
        let caches = self.caches.iter().filter(|cache| !cache.is_given_up());
        caches.flat_map(|cache| {
            let catalogues = match &cache.knows {
                Knows::Catalogues(catalogues) => catalogues.as_slice(),
                Knows::Images(_) => &[],
            };
            let mounts = catalogues.iter().flat_map(|catalogue| &catalogue.mounts);
            mounts.map(move |mount| (cache, mount))
        })
    }

    /// The mounts that are there, each as the first of the caches has it, with what opens their blobs.
    pub fn mounts_there(&self) -> Vec<(&Mount, Box<OpenAt<'_>>)> {
        let mut there: Vec<(&Mount, Box<OpenAt<'_>>)> = Vec::new();
        for (cache, mount) in self.all_mounts() {
            let same = |other: &&Mount| (&other.id, &other.begins) == (&mount.id, &mount.begins);
            if !there.iter().any(|(other, _)| same(other)) {
                let open = |digest: &OciDigest, size| cache.reader.blob(digest, size);
                there.push((mount, Box::new(open)));
            }
        }
        there
    }

    /// Blobs that places are not to be believed to have.
    pub fn doubted(&self) -> BTreeSet<OciDigest> {
        locked(&self.doubted).clone()
    }

    /// Whether a cache mount is there and could not be had: what there is of it here is not what it was.
    pub fn has_left(&self, name: &CacheMountName) -> bool {
        locked(&self.left).contains(name)
    }

    /// What went wrong with caches after they were opened: the first of each, and each cache mount.
    pub fn troubles(&self) -> Vec<String> {
        let problems = self.caches.iter().filter_map(|cache| {
            let problem = locked(&cache.trouble).first.clone()?;
            Some(format!("{}: {problem}", cache.shown))
        });
        let mounts = locked(&self.mount_troubles);
        problems.chain(mounts.iter().cloned()).collect()
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
                let doubt = || {
                    let pack = layer.files.at.map(|(pack, _)| catalogue.packs[pack].digest);
                    let blob = layer.blob().map(|(blob, ..)| blob);
                    let of = [Some(layer.files.digest), pack, blob];
                    locked(&self.doubted).extend(of.into_iter().flatten());
                };
                let pack = pack.inspect_err(|_| doubt());
                let pack = pack.map_err(|trouble| cache.failed(trouble))?;
                let unpacked = trees.unpack(&tree, &mut pack.as_slice());
                let unpacked = unpacked.inspect_err(|_| doubt());
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
        let adopt = |cache, of| {
            locked(&self.adopted).insert(*key, (cache, of));
        };
        for (number, cache) in self.caches.iter().enumerate() {
            if cache.is_given_up() {
                continue;
            }
            let catalogues = match &cache.knows {
                Knows::Catalogues(catalogues) => catalogues,
                Knows::Images(images) => {
                    let mut images = images.iter().enumerate();
                    let found =
                        images.find_map(|(at, image)| Some((at, image.find(key, &cache.place)?)));
                    let Some((at, found)) = found else { continue };
                    adopt(number, at);
                    return Ok(Some(Elsewhere::Unread(found)));
                }
            };
            for (at, catalogue) in catalogues.iter().enumerate() {
                let Some((answer, layers)) = catalogue.find(key, &cache.place) else {
                    continue;
                };
                let mut layers = layers.iter();
                match layers.try_for_each(|layer| self.take(cache, catalogue, layer)) {
                    Ok(()) => {
                        adopt(number, at);
                        return Ok(Some(Elsewhere::Answer(answer)));
                    }
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

    fn has_mount(&self, name: &CacheMountName) -> Option<u64> {
        let mut found = self.mounts(name);
        found.next().map(|(_, mount)| mount.bytes)
    }

    fn begin_mount(
        &self,
        name: &CacheMountName,
        into: &Path,
        owners: Ownership,
        cancel: &CancelToken,
    ) -> Result<(), RemoteError> {
        let mut failed = None;
        let failed_at = |cache: &Import, problem| RemoteError {
            place: cache.shown.clone(),
            problem,
        };
        for (cache, mount) in self.mounts(name) {
            let open = |digest: &OciDigest, size| cache.reader.blob(digest, size);
            let failure = match mount.write(self.store, &open, into, owners, cancel) {
                Ok(()) => return Ok(()),
                Err(Failure::Far(trouble)) if trouble.lasting => {
                    locked(&self.left).insert(name.clone());
                    locked(&cache.trouble).given_up = true;
                    failed_at(cache, trouble.what)
                }
                // Where one blob is gone others may be: all of it is to be looked at, and sent again.
                Err(Failure::Far(trouble)) => {
                    let blobs = mount.blobs().map(|(blob, ..)| blob);
                    locked(&self.doubted).extend(blobs);
                    failed_at(cache, trouble.what)
                }
                Err(Failure::Here(LayerError::Cancelled)) => {
                    return Err(failed_at(cache, "the build was interrupted".to_owned()));
                }
                Err(Failure::Here(error)) => {
                    locked(&self.left).insert(name.clone());
                    failed_at(cache, chain(&error))
                }
            };
            let RemoteError { place, problem } = &failure;
            let id = &name.id;
            let told = format!("{place}: the cache mount `{id}` begins without it: {problem}");
            locked(&self.mount_troubles).push(told);
            failed = failed.or(Some(failure));
            if let Err(error) = remove_all(into) {
                return Err(failed_at(cache, chain(&error)));
            }
        }
        Err(failed.unwrap_or_else(|| RemoteError {
            place: String::new(),
            problem: "it is not there".to_owned(),
        }))
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
