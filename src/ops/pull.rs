//! Images: their layers come in side by side, and each is verified, decompressed and hashed in one pass over its bytes,
//! which also writes it as a directory if a step that must run will mount it.
//!
//! What is only needed as a blob is fetched as one ([`Engine::fetch_blob`]) and not looked into. No blob is downloaded
//! twice at a time, whoever wants it in whichever build, and at most [`TRANSFERS`] at once; neither is counted among `--jobs`.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;

use rbuild_cache::CACHE;
use rbuild_cache::KnownLayer;
use rbuild_cache::LayerError;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Origin;
use rbuild_cache::ReadLayer;
use rbuild_cache::Snapshot;
use rbuild_cache::threads;
use rbuild_llb::Definition;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::SourceOp;

use super::Engine;
use super::OpError;
use super::StepResult;
use super::forms::DirForm;
use super::transfer::Reporter;
use super::transfer::Transfer;
use super::turn::once;
use crate::image::Document;
use crate::registry::Layout;
use crate::registry::MAX_DOCUMENT;
use crate::registry::Reference;
use crate::registry::RegistryError;

/// Layers that come in at once, as many as podman has: each has a few megabytes of buffers and four threads.
const TRANSFERS: usize = 6;
/// Layers that wait for their turn, or for somebody who reads the same one: each has a thread.
const WAITING: usize = 16;
/// Things that are sooner done than a thread is started.
const FEW: usize = 64;
/// More layers than any engine can mount (docker has 127) are no image.
const MAX_LAYERS: usize = 1000;
/// How the source of an origin begins that is a directory.
const LAYOUT: &str = "oci-layout://";
const UNPOISONED: &str = "no thread panics while it holds this lock";

/// What layers are needed as, besides their trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forms {
    /// Nothing.
    Tree,
    /// Directories: a process is about to see them.
    Directory,
}

/// What of images is under way in a build.
#[derive(Debug)]
pub(super) struct Pulls {
    /// Free places of [`TRANSFERS`].
    places: Mutex<usize>,
    freed: Condvar,
    /// One for each blob that was asked for.
    blobs: Mutex<HashMap<OciDigest, Arc<Mutex<()>>>>,
    /// Sources whose layers will be mounted.
    mounted: BTreeSet<VertexId>,
}

impl Pulls {
    pub(super) fn new() -> Self {
        Self {
            places: Mutex::new(TRANSFERS),
            freed: Condvar::new(),
            blobs: Mutex::default(),
            mounted: BTreeSet::new(),
        }
    }

    /// Says which steps must run, as far as is known.
    pub(super) fn expect<'v>(
        &mut self,
        definition: &Definition,
        pending: impl Iterator<Item = &'v Vertex>,
    ) {
        let runs = pending.filter(|vertex| matches!(vertex.op, Op::Exec(_)));
        let mut open: Vec<VertexId> = runs.flat_map(layers_from).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(vertex) = definition.get(&id).filter(|_| seen.insert(id)) {
                open.extend(layers_from(vertex));
            }
        }
        self.mounted = seen;
    }

    pub(super) fn forms(&self, source: &VertexId) -> Forms {
        match self.mounted.contains(source) {
            true => Forms::Directory,
            false => Forms::Tree,
        }
    }

    fn only_one(&self, blob: OciDigest) -> Arc<Mutex<()>> {
        let mut blobs = self.blobs.lock().expect(UNPOISONED);
        Arc::clone(blobs.entry(blob).or_default())
    }

    /// Waits for a place; it is given back when dropped.
    fn place(&self) -> Place<'_> {
        let free = self.places.lock().expect(UNPOISONED);
        let mut free: MutexGuard<'_, usize> = self
            .freed
            .wait_while(free, |free| *free == 0)
            .expect(UNPOISONED);
        *free -= 1;
        Place(self)
    }
}

struct Place<'a>(&'a Pulls);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.places.lock().expect(UNPOISONED) += 1;
        self.0.freed.notify_one();
    }
}

/// The steps whose layers are below what a step makes, or mounted while it runs.
fn layers_from(vertex: &Vertex) -> Vec<VertexId> {
    let inputs = |indices: &mut dyn Iterator<Item = usize>| {
        let edges = indices.filter_map(|index| vertex.inputs.get(index));
        edges.map(|edge| edge.vertex).collect()
    };
    match &vertex.op {
        Op::Source(_) => Vec::new(),
        Op::File(file) => {
            let mut below = file.actions.iter().filter_map(|action| match action.input {
                FileInput::Input(index) => Some(index),
                FileInput::Scratch | FileInput::Action(_) => None,
            });
            inputs(&mut below)
        }
        Op::Exec(exec) => inputs(&mut exec.mounts.iter().filter_map(|mount| mount.input)),
        Op::Merge | Op::Diff => vertex.inputs.iter().map(|edge| edge.vertex).collect(),
    }
}

/// How many times as large a layer is in a directory as it is compressed, more or less.
const UNPACKED: u64 = 3;

/// A layer that was read, perhaps into a directory too.
struct Pulled {
    known: KnownLayer,
    dir: Option<DirForm>,
}

impl Engine<'_> {
    /// The layers of a pinned image, whose manifest and config pinning has put into the store, and where their blobs can be
    /// had. Nothing is downloaded.
    pub(crate) fn base_layers(&self, source: &SourceOp) -> Result<Vec<Origin>, OpError> {
        match source {
            SourceOp::Image(image) => {
                let origin = match image.digest {
                    Some(digest) if !image.reference.contains('@') => {
                        format!("{}@{digest}", image.reference)
                    }
                    _ => image.reference.clone(),
                };
                self.layers_of(image.digest, &origin)
            }
            SourceOp::OciLayout(layout) => {
                self.layers_of(layout.digest, &format!("{LAYOUT}{}", layout.path))
            }
            SourceOp::Local(_) | SourceOp::Git(_) | SourceOp::Http(_) => Ok(Vec::new()),
        }
    }

    fn layers_of(&self, digest: Option<OciDigest>, source: &str) -> Result<Vec<Origin>, OpError> {
        let digest = digest.ok_or_else(|| OpError::Unsupported {
            what: "an image that was not pinned".into(),
        })?;
        let blobs = self.store.blobs();
        let bytes = blobs.read(&digest, MAX_DOCUMENT)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else {
            return Err(OpError::Unsupported {
                what: format!("image {digest}, whose manifest cannot be read,"),
            });
        };
        let config = blobs.read(&manifest.config.digest, MAX_DOCUMENT)?;
        let config: rbuild_llb::ImageConfig = serde_json::from_slice(&config).map_err(|error| {
            OpError::io(
                "read the config of",
                digest.to_string().as_ref(),
                io::Error::other(error),
            )
        })?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(OpError::Unsupported {
                what: format!("image {digest}, which has more than {MAX_LAYERS} layers,"),
            });
        }
        if config.rootfs.diff_ids.len() < manifest.layers.len() {
            return Err(OpError::Unsupported {
                what: format!("image {digest}, whose config does not name all of its layers,"),
            });
        }
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        Ok(layers
            .map(|(layer, diff_id)| Origin {
                digest: layer.digest,
                size: layer.size,
                media_type: layer.media_type.clone(),
                diff_id: *diff_id,
                source: Some(source.to_owned()),
                urls: layer.urls.clone(),
            })
            .collect())
    }

    /// The images among some steps that have layers whose trees are not known.
    pub(crate) fn unread<'v>(
        &self,
        steps: impl Iterator<Item = (VertexId, &'v Vertex)>,
    ) -> Result<BTreeSet<VertexId>, OpError> {
        let mut unread = BTreeSet::new();
        for (id, vertex) in steps {
            let Op::Source(source @ (SourceOp::Image(_) | SourceOp::OciLayout(_))) = &vertex.op
            else {
                continue;
            };
            for origin in self.base_layers(source)? {
                self.lease.protect(LeaseRoot::Blob(origin.digest))?;
                if self.store.known_layer(&origin.digest)?.is_none() {
                    unread.insert(id);
                }
            }
        }
        Ok(unread)
    }

    /// The least and the likely bytes that the bases among some steps will take in the store that they do not take yet;
    /// `unpacked` if there will be processes that see them.
    pub(crate) fn bytes_to_come<'v>(
        &self,
        steps: impl Iterator<Item = (VertexId, &'v Vertex)>,
        unpacked: bool,
    ) -> Result<(u64, u64), OpError> {
        let (mut least, mut likely) = (0_u64, 0_u64);
        for (_, vertex) in steps {
            let Op::Source(source @ (SourceOp::Image(_) | SourceOp::OciLayout(_))) = &vertex.op
            else {
                continue;
            };
            for origin in self.base_layers(source)? {
                self.lease.protect(LeaseRoot::Blob(origin.digest))?;
                if self.store.known_layer(&origin.digest)?.is_some() {
                    continue;
                }
                if !self.store.blobs().contains(&origin.digest) {
                    least = least.saturating_add(origin.size);
                }
                if unpacked {
                    likely = likely.saturating_add(origin.size.saturating_mul(UNPACKED));
                }
            }
        }
        Ok((least, likely.saturating_add(least)))
    }

    /// Whether bases that are about to be read have directories: their layers may be known from other images.
    pub fn bases_have_directories<'v>(
        &self,
        steps: impl Iterator<Item = (VertexId, &'v Vertex)>,
    ) -> Result<bool, OpError> {
        for (_, vertex) in steps {
            let Op::Source(source) = &vertex.op else {
                continue;
            };
            let mut snapshot = self.empty();
            for origin in self.base_layers(source)? {
                self.lease.protect(LeaseRoot::Blob(origin.digest))?;
                let Some(known) = self.store.known_layer(&origin.digest)? else {
                    break;
                };
                let layer = LayerRef {
                    layer: known.layer,
                    origin: None,
                    created: None,
                    single: false,
                };
                snapshot = self.stack(&snapshot, layer)?;
            }
            let outputs = Arc::new(vec![snapshot]);
            if self.has_directories(&StepResult { outputs }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The snapshot of an image outside any step. If there are processes to come, they are about to see it.
    pub(crate) fn image_snapshot(
        &self,
        digest: OciDigest,
        reference: &str,
        events: &(dyn Fn(rbuild_llb::event::Event) + Sync),
    ) -> Result<Snapshot, OpError> {
        let source = format!(
            "{}@{digest}",
            reference.split('@').next().unwrap_or(reference)
        );
        let layers = self.layers_of(Some(digest), &source)?;
        let forms = match self.executor {
            Some(_) => Forms::Directory,
            None => Forms::Tree,
        };
        self.image(&layers, forms, &Reporter { digest: "", events })
    }

    /// The snapshot that the layers of a base add up to.
    pub(super) fn image(
        &self,
        origins: &[Origin],
        forms: Forms,
        step: &Reporter<'_>,
    ) -> Result<Snapshot, OpError> {
        // Waiting for the network is not work, so these are threads of their own.
        let pulled = side_by_side(origins, |origin| {
            self.pull(origin, forms, step)
                .map_err(|error| self.of_base(origin, error))
        });
        let mut snapshot = self.empty();
        let mut dirs = Vec::new();
        for (origin, pulled) in origins.iter().zip(pulled) {
            let Pulled { known, dir } = pulled?;
            // A layer this store made itself is not fetched from anywhere: its own forms are its bytes.
            let made_here = self
                .store
                .all_layer_blobs(&known.layer.tree)?
                .iter()
                .any(|blob| blob.digest == origin.digest);
            let layer = LayerRef {
                layer: known.layer,
                origin: (!made_here).then(|| origin.clone()),
                created: None,
                single: false,
            };
            snapshot = self.stack(&snapshot, layer)?;
            let settled = snapshot.layers.last().map(|layer| layer.layer.tree);
            dirs.extend(
                settled
                    .zip(dir)
                    .map(|(tree, dir)| (tree, Mutex::new(Some(dir)))),
            );
        }
        side_by_side(&dirs, |(tree, dir)| {
            let dir = dir.lock().expect(UNPOISONED).take();
            dir.map_or(Ok(()), |dir| self.keep_dir(*tree, dir))
        })
        .into_iter()
        .collect::<Result<Vec<()>, _>>()?;
        Ok(snapshot)
    }

    /// A layer whose tree is not known comes in and is read.
    fn pull(&self, origin: &Origin, forms: Forms, step: &Reporter<'_>) -> Result<Pulled, OpError> {
        // Of two images with one blob, one may lie about what is in it.
        let checked = |known: KnownLayer, dir| match known.diff_id == origin.diff_id {
            true => Ok(Pulled { known, dir }),
            false => Err(OpError::DiffId {
                digest: origin.digest,
                wanted: origin.diff_id,
            }),
        };
        let known = || -> Result<Option<Pulled>, OpError> {
            let known = self.store.known_layer(&origin.digest)?;
            known.map(|known| checked(known, None)).transpose()
        };
        // What is known of it, and what it unpacks to, stays with it.
        self.lease.protect(LeaseRoot::Blob(origin.digest))?;
        if let Some(pulled) = known()? {
            return Ok(pulled);
        }
        let lock = self.pulls.only_one(origin.digest);
        let _only_one = lock.lock().expect(UNPOISONED);
        let read = || {
            let _place = self.pulls.place();
            let from = |origin: &Origin| self.read_from(origin, forms, step);
            let (read, dir) = self.at_home_too(origin, from)?;
            let known = KnownLayer {
                layer: read.layer,
                diff_id: read.diff_id,
                tar_size: read.tar_size,
            };
            let pulled = checked(known, dir)?;
            self.keep_tree(&pulled.known.layer.tree)?;
            self.store.set_known_layer(&origin.digest, &pulled.known)?;
            Ok(pulled)
        };
        self.once_a_blob(origin, known, read)
    }

    /// Has a blob read or fetched by one build at a time.
    fn once_a_blob<T>(
        &self,
        origin: &Origin,
        there: impl Fn() -> Result<Option<T>, OpError>,
        make: impl FnOnce() -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let name = format!("blob {}", origin.digest);
        once(self.store, self.cancel, &name, there, make)
    }

    /// Reads a layer's blob, which comes in meanwhile if the store does not have it.
    fn read_from(
        &self,
        origin: &Origin,
        forms: Forms,
        step: &Reporter<'_>,
    ) -> Result<(ReadLayer, Option<DirForm>), OpError> {
        let mut dir = match forms {
            Forms::Tree => None,
            Forms::Directory => Some(self.begin_dir()?),
        };
        let trees = self.store.trees();
        let mut read: Option<ReadLayer> = None;
        let mut take = |blob: &mut (dyn Read + Send)| -> Result<(), LayerError> {
            let unpack = dir.as_mut().map(DirForm::unpack);
            match rbuild_cache::read_layer(trees, blob, unpack) {
                Ok(layer) => read = Some(layer),
                // The step that needs the directory will say what is wrong with it.
                Err(LayerError::Directory { .. } | LayerError::Owner { .. }) => dir = None,
                Err(error) => return Err(error),
            }
            Ok(())
        };
        match self.store.blobs().contains(&origin.digest) {
            true => take(&mut self.store.blobs().open(&origin.digest)?)?,
            false => self.download(origin, step, &mut take)?,
        }
        let read = match read {
            Some(read) => read,
            None => {
                rbuild_cache::read_layer(trees, self.store.blobs().open(&origin.digest)?, None)?
            }
        };
        Ok((read, dir))
    }

    /// Gets a layer from a mirror or from where its manifest says that it also is, and if that is something else, from the
    /// next mirror or from the registry. What is at such a URL is nobody's promise: the page of a server that has moved, say.
    fn at_home_too<T>(
        &self,
        origin: &Origin,
        get: impl Fn(&Origin) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let get = |origin: &Origin| loop {
            let avoided = self.registry.mirrors_to_avoid(&origin.digest);
            let got = get(origin);
            let one_less = self.registry.mirrors_to_avoid(&origin.digest) > avoided;
            if got.is_ok() || !one_less || self.cancel.is_cancelled() {
                break got;
            }
        };
        let elsewhere = match get(origin) {
            Err(error) if !origin.urls.is_empty() && is_of_content(&error) => error,
            got => return got,
        };
        if self.cancel.is_cancelled() {
            return Err(elsewhere);
        }
        let at_home = Origin {
            urls: Vec::new(),
            ..origin.clone()
        };
        get(&at_home).map_err(|error| match error {
            OpError::Registry(RegistryError::NotFound { .. }) => elsewhere,
            error => error,
        })
    }

    /// Makes sure that the blob is in the store.
    pub(crate) fn fetch_blob(&self, origin: &Origin) -> Result<(), OpError> {
        self.lease.protect(LeaseRoot::Blob(origin.digest))?;
        if self.store.blobs().contains(&origin.digest) {
            return Ok(());
        }
        let lock = self.pulls.only_one(origin.digest);
        let _only_one = lock.lock().expect(UNPOISONED);
        let there = || Ok(self.store.blobs().contains(&origin.digest).then_some(()));
        let fetch = || {
            let _place = self.pulls.place();
            let silent = Reporter {
                digest: "",
                events: &|_| {},
            };
            let get = |origin: &Origin| self.download(origin, &silent, &mut |_| Ok(()));
            self.at_home_too(origin, get)
                .map_err(|error| self.of_base(origin, error))
        };
        self.once_a_blob(origin, there, fetch)
    }

    /// Keeps a blob as it comes in, while `take` reads as much of it as it likes.
    fn download(
        &self,
        origin: &Origin,
        step: &Reporter<'_>,
        take: &mut dyn FnMut(&mut (dyn Read + Send)) -> Result<(), LayerError>,
    ) -> Result<(), OpError> {
        let mut progress = Transfer::start(step, &origin.digest.to_string(), origin.size);
        // Whoever gives the bytes compares them with the digest, and gives an error in place of the last.
        let mut writer = self.store.blobs().unhashed_writer()?;
        let mut tee = Tee {
            from: self.open_origin(origin)?,
            to: &mut writer,
            progress: &mut progress,
            cancelled: &|| self.cancel.is_cancelled(),
            failed: None,
        };
        if let Err(error) = take(&mut tee).map_err(OpError::from) {
            // Whether it is a mirror's doing shows at the end.
            if is_of_content(&error) && self.may_be_a_mirrors(origin) {
                drop(io::copy(&mut tee, &mut io::sink()));
            }
            return Err(error);
        }
        // What follows the archive belongs to the blob all the same.
        io::copy(&mut tee, &mut io::sink())
            .map_err(|error| OpError::io("download", origin.digest.to_string().as_ref(), error))?;
        writer.commit_as(&origin.digest, origin.size)?;
        progress.done();
        Ok(())
    }

    fn may_be_a_mirrors(&self, origin: &Origin) -> bool {
        let source = origin.source.as_deref().unwrap_or_default();
        let reference = source.parse::<Reference>();
        reference.is_ok_and(|reference| self.registry.has_mirrors(&reference))
    }

    fn open_origin(&self, origin: &Origin) -> Result<Box<dyn Read + Send>, OpError> {
        let source = origin.source.as_deref().unwrap_or_default();
        if let Some(path) = layout_of(origin) {
            return Ok(Box::new(
                Layout::open(path)?.blob(&origin.digest, origin.size)?,
            ));
        }
        if self.options.offline {
            return Err(OpError::Offline {
                what: format!("layer {} of {source}", origin.digest),
            });
        }
        if let Some(place) = cache_of(origin) {
            return self.open_in_cache(place, origin);
        }
        let reference: Reference = source.parse().map_err(|_| OpError::Unsupported {
            what: format!("a layer that comes from nowhere ({source})"),
        })?;
        Ok(Box::new(self.registry.blob_elsewhere(
            &reference,
            &origin.urls,
            &origin.digest,
            origin.size,
        )?))
    }

    /// Opens a blob of a cache elsewhere: one that was given to this build, or one in a registry, which anybody may ask.
    fn open_in_cache(&self, place: &str, origin: &Origin) -> Result<Box<dyn Read + Send>, OpError> {
        let given = self
            .remote
            .and_then(|remote| remote.open(place, &origin.digest, origin.size));
        if let Some(opened) = given {
            return Ok(opened?);
        }
        let Some(registry) = self.cache_registry(place) else {
            return Err(OpError::Unsupported {
                what: format!("a layer that is in a cache this build was not given ({place})"),
            });
        };
        let blob = self.registry.blob(&registry, &origin.digest, origin.size);
        Ok(Box::new(blob?))
    }

    /// Names the image that a layer is of, where it is at fault and not this machine.
    fn of_base(&self, origin: &Origin, error: OpError) -> OpError {
        match (error, &origin.source) {
            _ if self.cancel.is_cancelled() => OpError::Cancelled,
            (error, Some(source))
                if is_of_content(&error)
                    || matches!(
                        error,
                        OpError::DiffId { .. } | OpError::Layer(LayerError::Entries { .. })
                    ) =>
            {
                OpError::Base {
                    image: source.clone(),
                    source: Box::new(error),
                }
            }
            (error, _) => error,
        }
    }
}

/// The directory that a blob comes from, if it comes from one.
pub(super) fn layout_of(origin: &Origin) -> Option<&Path> {
    let path = origin.source.as_deref()?.strip_prefix(LAYOUT)?;
    Some(Path::new(path))
}

/// The cache elsewhere that a blob comes from, if it comes from one.
pub(super) fn cache_of(origin: &Origin) -> Option<&str> {
    let source = origin.source.as_deref()?;
    source.starts_with(CACHE).then_some(source)
}

/// Whether what was downloaded is at fault, or who was to give it.
fn is_of_content(error: &OpError) -> bool {
    matches!(
        error,
        OpError::Registry(_)
            | OpError::Elsewhere(_)
            | OpError::Layer(LayerError::Archive { .. } | LayerError::Entry { .. })
            | OpError::Io { .. }
    )
}

/// Does the same with each of several things, on threads that are gone afterwards: for what waits.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    things: &[T],
    deed: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    threads::side_by_side(things, WAITING, deed)
}

/// The same of what computes, and of which only many are worth a thread.
pub(super) fn on_all_cores<T: Sync, R: Send>(
    things: &[T],
    deed: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    match things.len() {
        0..FEW => things.iter().map(deed).collect(),
        _ => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            threads::side_by_side(things, cores, deed)
        }
    }
}

/// Passes a blob on while it is kept.
struct Tee<'a, 's, R, W> {
    from: R,
    to: &'a mut W,
    progress: &'a mut Transfer<'s>,
    cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Why nothing more comes. Who reads may have trouble of its own and never tell: what is lost here would be missing.
    failed: Option<(io::ErrorKind, Option<i32>)>,
}

impl<R: Read, W: Write> Read for Tee<'_, '_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.failed {
            Some((_, Some(code))) => return Err(io::Error::from_raw_os_error(code)),
            Some((kind, None)) => return Err(kind.into()),
            None => {}
        }
        let read = self.pass_on(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failed = Some((error.kind(), error.raw_os_error()));
        }
        read
    }
}

impl<R: Read, W: Write> Tee<'_, '_, R, W> {
    fn pass_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.cancelled)() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        self.progress.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// A disk that is full at once, and has room again right after.
    struct FullOnce(bool);

    impl Write for FullOnce {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match std::mem::replace(&mut self.0, false) {
                true => Err(rustix::io::Errno::NOSPC.into()),
                false => Ok(bytes.len()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What was read and could not be kept is missing: nothing that comes after it may pass for the whole.
    #[test]
    fn a_blob_that_could_not_be_kept_goes_on_failing() {
        let silent = Reporter {
            digest: "",
            events: &|_| {},
        };
        let mut tee = Tee {
            from: &[7; 100][..],
            to: &mut FullOnce(true),
            progress: &mut Transfer::start(&silent, "", 100),
            cancelled: &|| false,
            failed: None,
        };
        for _ in 0..2 {
            let error = tee.read(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
    }
}
