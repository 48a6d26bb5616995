//! Where the bytes of a layer's files are, and making a layer's directory or blob out of them when first needed.
//!
//! A tree is not content. A file's bytes are in a directory form, in a blob, or still where the build took them from
//! (a context); this module knows which, and whoever reads checks them against the tree's BLAKE3 as they pass.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::RwLock;

use rbuild_cache::BlobOptions;
use rbuild_cache::Compression;
use rbuild_cache::ContextFiles;
use rbuild_cache::EarlierFrames;
use rbuild_cache::Entry;
use rbuild_cache::FileBytes;
use rbuild_cache::FileNode;
use rbuild_cache::FindFrames;
use rbuild_cache::Follow;
use rbuild_cache::FrameTable;
use rbuild_cache::Growing;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerError;
use rbuild_cache::LayerForm;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Node;
use rbuild_cache::Reuse;
use rbuild_cache::Scratch;
use rbuild_cache::Snapshot;
use rbuild_cache::TreeRef;
use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::Span;
use rbuild_llb::TreeId;

use super::Engine;
use super::OpError;
use super::StepResult;
use super::pull::on_all_cores;

/// Where one file's bytes can be had besides the layer's own forms.
#[derive(Debug, Clone)]
enum Location {
    /// In a context, below its directory handle.
    Context(Arc<ContextFiles>, Box<[u8]>),
    /// In another layer, at a path.
    Layer(TreeId, Box<[u8]>),
    /// In a file of our own.
    Spooled(PathBuf),
}

/// What the build has learned about where bytes are.
#[derive(Default)]
pub struct Bytes {
    locations: RwLock<HashMap<FileDigest, Location>>,
    /// Layers some thread is making a form of: others wait instead of making it twice.
    making: Mutex<HashMap<TreeId, Arc<Mutex<()>>>>,
    /// Directory forms that were found or made, and are kept by the lease: a step asks for those of all its layers.
    forms: RwLock<HashMap<TreeId, Arc<LayerForm>>>,
    /// At which place in a plan a layer was made: what was made there before is near it.
    places: RwLock<HashMap<TreeId, String>>,
    /// Which instruction made a layer out of files that are still where they were.
    makers: Mutex<HashMap<TreeId, Span>>,
    /// Files extracted from blobs and files made by the build itself; gone with the build.
    spool: Mutex<Option<Scratch>>,
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bytes").finish_non_exhaustive()
    }
}

/// Files that are read where they are in an uncompressed blob.
#[derive(Default)]
struct InPlace {
    blob: Option<Arc<File>>,
    /// By path in the layer.
    starts: BTreeMap<Vec<u8>, u64>,
}

impl InPlace {
    fn get(&self, path: &[u8]) -> Option<FileBytes> {
        let blob = self.blob.as_ref()?;
        Some(FileBytes::within(blob, *self.starts.get(path)?))
    }
}

pub(super) const UNPOISONED: &str = "no thread panics while it holds this lock";

impl Bytes {
    /// Remembers a file that stays as it is for this build.
    pub(super) fn place_file(&self, digest: FileDigest, path: &Path) {
        self.place(digest, Location::Spooled(path.to_owned()));
    }

    fn place(&self, digest: FileDigest, location: Location) {
        self.locations
            .write()
            .expect(UNPOISONED)
            .entry(digest)
            .or_insert(location);
    }

    fn at(&self, digest: &FileDigest) -> Option<Location> {
        self.locations
            .read()
            .expect(UNPOISONED)
            .get(digest)
            .cloned()
    }

    fn knows(&self, digest: &FileDigest) -> bool {
        let locations = self.locations.read().expect(UNPOISONED);
        locations.contains_key(digest)
    }

    /// Remembers where in a plan a layer is made.
    pub(super) fn place_layer(&self, layer: TreeId, place: impl FnOnce() -> String) {
        let mut places = self.places.write().expect(UNPOISONED);
        places.entry(layer).or_insert_with(place);
    }

    pub(super) fn place_of(&self, layer: &TreeId) -> Option<String> {
        self.places.read().expect(UNPOISONED).get(layer).cloned()
    }

    /// Whether this build made a layer, out of files that are still where they were.
    pub(super) fn is_made_here(&self, layer: &TreeId) -> bool {
        self.makers.lock().expect(UNPOISONED).contains_key(layer)
    }

    pub(super) fn form(&self, layer: &TreeId) -> Option<Arc<LayerForm>> {
        self.forms.read().expect(UNPOISONED).get(layer).cloned()
    }

    pub(super) fn keep_form(&self, layer: TreeId, form: LayerForm) -> Arc<LayerForm> {
        let form = Arc::new(form);
        let mut forms = self.forms.write().expect(UNPOISONED);
        forms.insert(layer, Arc::clone(&form));
        form
    }

    pub(super) fn making(&self, layer: TreeId) -> Arc<Mutex<()>> {
        Arc::clone(
            self.making
                .lock()
                .expect(UNPOISONED)
                .entry(layer)
                .or_default(),
        )
    }
}

impl Engine<'_> {
    /// Remembers whose the layers on top of `outputs` are: their bytes are read later, and may have changed by then.
    pub(super) fn remember_maker(&self, outputs: &[Snapshot], span: &Span) {
        let mut makers = self.bytes.makers.lock().expect(UNPOISONED);
        for layer in outputs.iter().filter_map(|output| output.layers.last()) {
            makers
                .entry(layer.layer.tree)
                .or_insert_with(|| span.clone());
        }
    }

    /// What went wrong while the files of a layer were read: a file that is no longer what its step saw is told of with
    /// that step.
    pub(super) fn while_reading(&self, layer: &TreeId, error: LayerError) -> OpError {
        let maker = || {
            self.bytes
                .makers
                .lock()
                .expect(UNPOISONED)
                .get(layer)
                .cloned()
        };
        let (LayerError::FileChanged { path } | LayerError::ReadFile { path, .. }) = &error else {
            return error.into();
        };
        let (Some(path), Some(span)) = (self.context_file(layer, path), maker()) else {
            return error.into();
        };
        let source = match error {
            LayerError::ReadFile { source, .. } => Some(source),
            _ => None,
        };
        OpError::Changed {
            path,
            span: Box::new(span),
            source,
        }
    }

    /// The file of a context that the bytes of a layer's file are read from.
    fn context_file(&self, layer: &TreeId, path: &str) -> Option<PathBuf> {
        let trees = self.store.trees();
        let found = trees
            .lookup(layer, path.as_bytes(), Follow::NotLast)
            .ok()??;
        let Node::File(node) = found.entry.node else {
            return None;
        };
        match self.bytes.at(&node.digest)? {
            Location::Context(files, at) => Some(files.display(&at)),
            Location::Layer(..) | Location::Spooled(_) => None,
        }
    }

    /// Remembers that the files of a context's tree are to be had from it.
    pub(super) fn place_context(
        &self,
        tree: &TreeRef,
        files: &Arc<ContextFiles>,
    ) -> Result<(), OpError> {
        self.each_file(tree, &mut |path, node| {
            self.bytes.place(
                node.digest,
                Location::Context(Arc::clone(files), path.into()),
            );
        })
    }

    /// Remembers where the files below `entry`, found at `path` of `snapshot`, are. Layers that have no directory
    /// form have the files taken out of their blobs in one pass each.
    pub(super) fn place_copied(
        &self,
        snapshot: &Snapshot,
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), OpError> {
        let mut wanted: BTreeMap<TreeId, (LayerRef, BTreeMap<Vec<u8>, FileNode>)> = BTreeMap::new();
        let mut note = |path: &[u8], node: &FileNode| -> Result<(), OpError> {
            if self.bytes.knows(&node.digest) {
                return Ok(());
            }
            let Some(layer) = self.holder(snapshot, path, node)? else {
                return Ok(());
            };
            let is_wanted = wanted.contains_key(&layer.layer.tree);
            if !is_wanted && self.form(&layer.layer.tree).is_some() {
                self.bytes
                    .place(node.digest, Location::Layer(layer.layer.tree, path.into()));
            } else {
                let slot = wanted
                    .entry(layer.layer.tree)
                    .or_insert_with(|| (layer.clone(), BTreeMap::new()));
                slot.1.insert(path.to_vec(), node.clone());
            }
            Ok(())
        };
        match &entry.node {
            Node::File(node) => note(path, node)?,
            Node::Dir(_) => {
                let mut result = Ok(());
                self.store.trees().walk(
                    &self.store.trees().subtree(entry).tree,
                    &mut |below, found| {
                        if let Node::File(node) = &found.node {
                            result = note(&super::copy::join(path, below), node);
                        }
                        if result.is_ok() {
                            ControlFlow::Continue(())
                        } else {
                            ControlFlow::Break(())
                        }
                    },
                )?;
                result?;
            }
            _ => {}
        }
        wanted
            .into_values()
            .try_for_each(|(layer, files)| self.spool_from_blob(&layer, &files))
    }

    /// The layer of `snapshot` that a file of the merged tree comes from.
    fn holder<'s>(
        &self,
        snapshot: &'s Snapshot,
        path: &[u8],
        node: &FileNode,
    ) -> Result<Option<&'s LayerRef>, OpError> {
        for layer in snapshot.layers.iter().rev() {
            if let Some(found) =
                self.store
                    .trees()
                    .lookup(&layer.layer.tree, path, Follow::NotLast)?
                && found.path == path
                && let Node::File(there) = &found.entry.node
                && there.digest == node.digest
            {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    /// Keeps bytes the build itself made.
    pub(super) fn spool_data(&self, data: &[u8]) -> Result<FileNode, OpError> {
        let digest = FileDigest::from_bytes(*blake3::hash(data).as_bytes());
        if !self.bytes.knows(&digest) {
            let path = self.spool_path(&digest)?;
            self.spool(digest, &path, &mut { data })
                .map_err(|source| OpError::io("write", &path, source))?;
        }
        Ok(FileNode {
            size: data.len() as u64,
            digest,
            link: None,
        })
    }

    /// Keeps what a reader gives.
    fn spool_reader(&self, digest: FileDigest, from: &mut dyn io::Read) -> io::Result<()> {
        let path = self.spool_path(&digest).map_err(io::Error::other)?;
        self.spool(digest, &path, from)
    }

    /// Two layers may have the same file, and be taken out at the same time: what is read is never written to.
    fn spool(&self, digest: FileDigest, path: &Path, from: &mut dyn io::Read) -> io::Result<()> {
        let dir = path.parent().unwrap_or(path);
        let mut aside = tempfile::NamedTempFile::new_in(dir)?;
        io::copy(from, aside.as_file_mut())?;
        aside.persist(path)?;
        self.bytes.place(digest, Location::Spooled(path.to_owned()));
        Ok(())
    }

    fn spool_path(&self, digest: &FileDigest) -> Result<PathBuf, OpError> {
        let mut spool = self.bytes.spool.lock().expect(UNPOISONED);
        if spool.is_none() {
            *spool = Some(self.store.scratch()?);
        }
        let scratch = spool.as_ref().expect("it was set just now");
        Ok(scratch.path().join(digest.hex()))
    }

    fn spool_from_blob(
        &self,
        layer: &LayerRef,
        wanted: &BTreeMap<Vec<u8>, FileNode>,
    ) -> Result<(), OpError> {
        let Some(blob) = self.any_blob(layer)? else {
            return Ok(());
        };
        self.spool_files(&layer.layer, blob, wanted)
    }

    /// Keeps single files of an archive whose tree is known.
    pub(super) fn spool_files(
        &self,
        tree: &TreeRef,
        archive: File,
        wanted: &BTreeMap<Vec<u8>, FileNode>,
    ) -> Result<(), OpError> {
        let paths = wanted.keys().cloned().collect();
        rbuild_cache::extract_files(
            self.store.trees(),
            &tree.tree,
            archive,
            &paths,
            &mut |names, reader| match names.iter().find_map(|name| wanted.get(*name)) {
                Some(node) => self.spool_reader(node.digest, reader),
                None => Ok(()),
            },
        )?;
        Ok(())
    }

    /// A blob of the layer in any compression, fetched if its origin or a cache elsewhere can give it. The times in it may
    /// be others.
    pub(super) fn any_blob(&self, layer: &LayerRef) -> Result<Option<File>, OpError> {
        let tree = &layer.layer.tree;
        if layer.origin.is_none()
            && let Some(blob) = self.first_blob(self.store.all_layer_blobs(tree)?)?
        {
            return Ok(Some(blob));
        }
        self.exact_blob(layer)
    }

    /// The same with the layer's own times.
    pub(super) fn exact_blob(&self, layer: &LayerRef) -> Result<Option<File>, OpError> {
        if let Some(origin) = &layer.origin {
            self.fetch_blob(origin)?;
            return Ok(Some(self.store.blobs().open(&origin.digest)?));
        }
        let tree = &layer.layer.tree;
        if let Some(blob) = self.first_blob(self.store.layer_blobs(tree)?)? {
            return Ok(Some(blob));
        }
        match self.fetch_elsewhere(layer, |_| true)? {
            true => self.first_blob(self.store.layer_blobs(tree)?),
            false => Ok(None),
        }
    }

    fn first_blob(&self, blobs: Vec<LayerBlob>) -> Result<Option<File>, OpError> {
        for blob in blobs {
            self.lease.protect(LeaseRoot::Blob(blob.digest))?;
            if self.store.blobs().contains(&blob.digest) {
                return Ok(Some(self.store.blobs().open(&blob.digest)?));
            }
        }
        Ok(None)
    }

    /// Gets ready to read every file of a snapshot: what is only in blobs is taken out of them, in one pass each.
    pub(crate) fn prepare_files(&self, snapshot: &Snapshot) -> Result<(), OpError> {
        self.place_copied(
            snapshot,
            b"",
            &self.store.trees().root(&snapshot.root.tree)?,
        )
    }

    /// Opens the file of the merged tree at a resolved path.
    pub(crate) fn open_in(
        &self,
        snapshot: &Snapshot,
        path: &[u8],
        node: &FileNode,
    ) -> io::Result<File> {
        match self
            .holder(snapshot, path, node)
            .map_err(io::Error::other)?
        {
            Some(layer) => self.open_file(layer, path, node),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Opens one file of a layer.
    pub(super) fn open_file(
        &self,
        layer: &LayerRef,
        path: &[u8],
        node: &FileNode,
    ) -> io::Result<File> {
        match self.form(&layer.layer.tree) {
            Some(form) => form.open(path),
            None => self.open_elsewhere(layer, path, node),
        }
    }

    /// Opens one file of a layer that has no directory form.
    pub(super) fn open_elsewhere(
        &self,
        layer: &LayerRef,
        path: &[u8],
        node: &FileNode,
    ) -> io::Result<File> {
        for _ in 0..2 {
            match self.bytes.at(&node.digest) {
                Some(Location::Context(files, at)) => return files.open(&at),
                Some(Location::Spooled(path)) => return File::open(path),
                Some(Location::Layer(tree, at)) => {
                    if let Some(form) = self.form(&tree) {
                        return form.open(&at);
                    }
                }
                None => {}
            }
            let wanted = BTreeMap::from([(path.to_vec(), node.clone())]);
            self.spool_from_blob(layer, &wanted)
                .map_err(io::Error::other)?;
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the store no longer holds its bytes",
        ))
    }

    /// Reads a whole small file of a snapshot's merged tree; `None` if there is none.
    pub(super) fn read_small(
        &self,
        snapshot: &Snapshot,
        path: &[u8],
        limit: u64,
    ) -> Result<Option<Vec<u8>>, OpError> {
        let Some(found) = self
            .store
            .trees()
            .lookup(&snapshot.root.tree, path, Follow::All)?
        else {
            return Ok(None);
        };
        let Node::File(node) = &found.entry.node else {
            return Ok(None);
        };
        let shown = || PathBuf::from(String::from_utf8_lossy(&found.path).into_owned());
        if node.size > limit {
            return Err(OpError::io(
                "read",
                &shown(),
                io::Error::from(io::ErrorKind::FileTooLarge),
            ));
        }
        let Some(layer) = self.holder(snapshot, &found.path, node)? else {
            return Ok(None);
        };
        let mut data = Vec::new();
        let read = self
            .open_file(layer, &found.path, node)
            .and_then(|mut f| io::Read::read_to_end(&mut f, &mut data));
        read.map_err(|source| OpError::io("read", &shown(), source))?;
        Ok(Some(data))
    }

    /// Leaves the bytes of a layer for later builds to find.
    ///
    /// # Errors
    /// If they cannot be read, or the store cannot be written.
    pub fn keep_bytes(&self, layer: &LayerRef, cancel: &CancelToken) -> Result<(), OpError> {
        let options = BlobOptions {
            compression: Compression::None,
            clamp: None,
        };
        self.layer_blob(layer, &options, true, cancel).map(drop)
    }

    /// Whether a layer has a directory.
    pub(crate) fn has_directory(&self, layer: &LayerRef) -> bool {
        self.form(&layer.layer.tree).is_some()
    }

    /// Whether layers of a result have directories, whose files have the owners of the image's: users that stand for them.
    pub fn has_directories(&self, result: &StepResult) -> bool {
        let mut layers = result.outputs.iter().flat_map(|snapshot| &snapshot.layers);
        layers.any(|layer| self.has_directory(layer))
    }

    /// What [`layer_blob`](Self::layer_blob) gives, if nothing has to be made for it.
    pub(crate) fn ready_blob(
        &self,
        layer: &LayerRef,
        options: &BlobOptions,
        keep: bool,
    ) -> Result<Option<LayerBlob>, OpError> {
        let tree = layer.layer.tree;
        let Some(blob) = self.store.layer_blob(&tree, options)? else {
            return Ok(None);
        };
        let roots = [LeaseRoot::Blob(blob.digest), LeaseRoot::LayerDir(tree)];
        self.lease.protect_all(&roots)?;
        let there =
            self.store.blobs().contains(&blob.digest) || !keep && self.form(&tree).is_some();
        Ok(there.then_some(blob))
    }

    /// Of which of several layers [`layer_blob`](Self::layer_blob) would have to make a blob.
    pub(crate) fn lack_blobs<'l>(
        &self,
        layers: &[&'l LayerRef],
        options: &BlobOptions,
    ) -> Result<Vec<&'l LayerRef>, OpError> {
        let blob = |layer: &&LayerRef| self.store.layer_blob(&layer.layer.tree, options);
        let known = on_all_cores(layers, blob).into_iter();
        let known: Vec<Option<LayerBlob>> = known.collect::<Result<_, _>>()?;
        // What is seen after this stays.
        let blobs = known.iter().flatten();
        let mut roots: Vec<LeaseRoot> = blobs.map(|blob| LeaseRoot::Blob(blob.digest)).collect();
        let trees = layers.iter().map(|layer| layer.layer.tree);
        roots.extend(trees.map(LeaseRoot::LayerDir));
        self.lease.protect_all(&roots)?;
        let there = |blob: &LayerBlob| self.store.blobs().contains(&blob.digest);
        let layers = layers.iter().copied().zip(&known);
        let lack = layers.filter(|(_, blob)| !blob.as_ref().is_some_and(there));
        Ok(lack.map(|(layer, _)| layer).collect())
    }

    /// A layer's blob in the given form, written if it is not there yet. With `keep` false only its digests are
    /// wanted, and the bytes are kept only if the layer has no directory form to make them from again.
    pub(crate) fn layer_blob(
        &self,
        layer: &LayerRef,
        options: &BlobOptions,
        keep: bool,
        cancel: &CancelToken,
    ) -> Result<LayerBlob, OpError> {
        self.layer_blob_along(layer, options, keep, None, cancel)
    }

    /// The same, with `along` given the blob while it is written, if it has to be; a second time if it has to be written anew.
    pub(crate) fn layer_blob_along(
        &self,
        layer: &LayerRef,
        options: &BlobOptions,
        keep: bool,
        along: Option<&dyn Fn(Growing)>,
        cancel: &CancelToken,
    ) -> Result<LayerBlob, OpError> {
        let tree = layer.layer.tree;
        let lock = self.bytes.making(tree);
        let _only_one = lock.lock().expect(UNPOISONED);
        if let Some(blob) = self.ready_blob(layer, options, keep)? {
            return Ok(blob);
        }
        let form = self.form(&tree);
        if let Some(blob) = self.blob_made_before(layer, options, keep, form.is_some())? {
            return Ok(blob);
        }
        let need_bytes = keep || form.is_none();
        let over = form.as_ref().map(|form| form.over().to_vec());
        let over = over.unwrap_or_default();
        let (in_place, form) = match form {
            Some(form) => {
                let failed = |source| OpError::io("read", &form.dirs()[0], source);
                (InPlace::default(), Some(form.reader().map_err(failed)?))
            }
            None => (self.gather(layer)?, None),
        };
        let open = |path: &[u8], node: &FileNode| match (&form, in_place.get(path)) {
            (Some(form), _) => form.open(path).map(FileBytes::from),
            (None, Some(bytes)) => Ok(bytes),
            (None, None) => self.open_elsewhere(layer, path, node).map(FileBytes::from),
        };
        let trees = self.store.trees();
        let (blob, table) = if need_bytes {
            let write = |find: &mut FindFrames<'_>| {
                let mut writer = self.store.blobs().unhashed_writer()?;
                if let Some(along) = along {
                    along(writer.follow());
                }
                let mut reuse = Reuse::new(find);
                let written = rbuild_cache::write_layer_again(
                    trees,
                    &tree,
                    options,
                    &open,
                    &mut writer,
                    cancel,
                    &mut reuse,
                );
                Ok::<_, OpError>(written.map(|blob| (blob, writer, reuse.table)))
            };
            let written = match write(&mut || self.store.earlier_frames())? {
                Err(LayerError::EarlierBlob { .. }) => write(&mut EarlierFrames::default)?,
                written => written,
            };
            let (blob, writer, table) =
                written.map_err(|error| self.while_reading(&tree, error))?;
            self.lease.protect(LeaseRoot::Blob(blob.digest))?;
            writer.commit_as(&blob.digest, blob.size)?;
            (blob, table)
        } else if options.compression == Compression::None {
            let mut find = || self.earlier_tar(&over, options);
            rbuild_cache::digest_layer(trees, &tree, options.clamp, &open, cancel, &mut find)
                .map_err(|error| self.while_reading(&tree, error))?
        } else {
            let out = &mut io::sink();
            let written = rbuild_cache::write_layer(trees, &tree, options, &open, out, cancel);
            let blob = written.map_err(|error| self.while_reading(&tree, error))?;
            (blob, FrameTable::default())
        };
        self.keep_tree(&tree)?;
        self.lease.protect(LeaseRoot::Blob(blob.digest))?;
        if !table.is_empty() {
            self.store.set_frames(&blob.digest, &table)?;
        }
        self.store.set_layer_blob(&tree, options, &blob)?;
        Ok(blob)
    }

    /// What is known of the tar of the nearest layer that a layer's directory form stands `over`: both begin alike.
    fn earlier_tar(&self, over: &[TreeId], options: &BlobOptions) -> EarlierFrames {
        let table = |near: &TreeId| {
            let blob = self.store.layer_blob(near, options).ok()??;
            self.store.frames(&blob.digest)
        };
        let mut earlier = EarlierFrames::default();
        if let Some(table) = over.iter().rev().find_map(table) {
            earlier.add_tar(table);
        }
        earlier
    }

    /// Before a layer without a directory is read file by file: finds what is only in a blob. An uncompressed one is read
    /// where it is; what is in others is taken out in one pass.
    fn gather(&self, layer: &LayerRef) -> Result<InPlace, OpError> {
        let mut wanted = BTreeMap::new();
        self.each_file(&layer.layer, &mut |path, node| {
            if !self.bytes.knows(&node.digest) {
                wanted.insert(path.to_vec(), node.clone());
            }
        })?;
        let mut in_place = InPlace::default();
        if wanted.is_empty() {
            return Ok(in_place);
        }
        if let Some(blob) = self.plain_blob(layer)? {
            let paths = wanted.keys().cloned().collect();
            let trees = self.store.trees();
            let starts = rbuild_cache::locate_files(trees, &layer.layer.tree, &blob, &paths)?;
            wanted.retain(|path, _| !starts.contains_key(path));
            in_place = InPlace {
                blob: Some(Arc::new(blob)),
                starts,
            };
        }
        if !wanted.is_empty() {
            self.spool_from_blob(layer, &wanted)?;
        }
        Ok(in_place)
    }

    /// Gets ready to read every file of a layer that may have nothing but a blob.
    pub(super) fn take_out(&self, layer: &LayerRef) -> Result<(), OpError> {
        let mut wanted = BTreeMap::new();
        self.each_file(&layer.layer, &mut |path, node| {
            if !self.bytes.knows(&node.digest) {
                wanted.insert(path.to_vec(), node.clone());
            }
        })?;
        match wanted.is_empty() {
            true => Ok(()),
            false => self.spool_from_blob(layer, &wanted),
        }
    }

    /// An uncompressed blob of the layer, if the store has one.
    fn plain_blob(&self, layer: &LayerRef) -> Result<Option<File>, OpError> {
        let blobs = self.store.all_layer_blobs(&layer.layer.tree)?;
        let plain = blobs.into_iter();
        for blob in plain.filter(|blob| blob.compression == Compression::None) {
            self.lease.protect(LeaseRoot::Blob(blob.digest))?;
            if self.store.blobs().contains(&blob.digest) {
                return Ok(Some(self.store.blobs().open(&blob.digest)?));
            }
        }
        Ok(None)
    }

    fn each_file(
        &self,
        tree: &TreeRef,
        f: &mut dyn FnMut(&[u8], &FileNode),
    ) -> Result<(), OpError> {
        self.store.trees().walk(&tree.tree, &mut |path, entry| {
            if let Node::File(node) = &entry.node {
                f(path, node);
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }
}
