//! Where finished images go: one file per output type.
//!
//! [`archive`] writes the OCI image layout, [`tar`] and [`local`] the root file system, [`store`] names the image in
//! rbuild's own store, [`push`] sends it to registries, [`load`] hands it to podman or docker. An exporter is given finished images and a way
//! to read bytes; it makes nothing up. Files appear under their name only when they are whole.

pub mod archive;
pub mod load;
pub mod local;
pub mod push;
pub mod store;
pub mod tar;

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::FileNode;
use rbuild_cache::LayerRef;
use rbuild_cache::Lease;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use crate::image::Descriptor;
use crate::outcome::Delivery;
use crate::registry;
use crate::request::Destination;

/// The file system of one platform.
#[derive(Debug)]
pub struct Root {
    /// For which platform.
    pub platform: Platform,
    /// The file system.
    pub snapshot: Snapshot,
}

impl Root {
    /// What a directory for this platform among others is called: `linux_arm64`.
    fn directory(&self) -> String {
        self.platform.to_string().replace('/', "_")
    }
}

/// An image whose layers have their digests.
#[derive(Debug)]
pub struct ReadyImage {
    /// The config document.
    pub config: Vec<u8>,
    /// SHA-256 of it: the image id.
    pub id: OciDigest,
    /// The manifest document.
    pub manifest: Vec<u8>,
    /// What names the manifest.
    pub descriptor: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<(Descriptor, LayerRef)>,
    /// SHA-256 of their tars.
    pub diff_ids: Vec<OciDigest>,
}

impl ReadyImage {
    /// Bytes of all layers.
    pub fn size(&self) -> u64 {
        self.layers
            .iter()
            .map(|(descriptor, _)| descriptor.size)
            .sum()
    }
}

/// Several images as one thing with one digest.
#[derive(Debug)]
pub struct ReadyIndex {
    /// The index document.
    pub document: Vec<u8>,
    /// What names it.
    pub descriptor: Descriptor,
}

/// Opens a file of a snapshot's merged tree.
pub type OpenMerged<'a> = dyn Fn(&Snapshot, &[u8], &FileNode) -> io::Result<File> + Sync + 'a;

/// What an exporter works with.
pub struct Export<'a> {
    /// One a platform.
    pub roots: &'a [Root],
    /// Whether it is written as for several platforms.
    pub several: bool,
    /// One a platform; none for an output that is files alone.
    pub images: &'a [ReadyImage],
    /// The index over them, if it is written as for several platforms.
    pub index: Option<&'a ReadyIndex>,
    /// What names the whole: the index, or the only image's manifest. `None` for an output that is files alone.
    pub top: Option<&'a Descriptor>,
    /// Normalised names.
    pub names: &'a [String],
    /// SOURCE_DATE_EPOCH, Unix seconds.
    pub epoch: Option<i64>,
    /// Where blobs are.
    pub store: &'a Store,
    /// Keeps gc away from what is exported.
    pub lease: &'a Lease,
    /// Where images are sent.
    pub registry: &'a registry::Client,
    /// Opens a file of a snapshot's merged tree at a resolved path.
    pub open: &'a OpenMerged<'a>,
    /// Gets the blob of a base's layer into the store, if it is not there.
    pub fetch: &'a (dyn Fn(&LayerRef) -> io::Result<()> + Sync),
    /// Stop when it says so.
    pub cancel: &'a CancelToken,
}

impl Export<'_> {
    fn top(&self) -> &Descriptor {
        self.top
            .expect("what exports images is given those of at least one platform")
    }
}

/// Writes finished images somewhere.
pub trait Exporter {
    /// Exports, and says where it went.
    ///
    /// # Errors
    /// If it could not be written whole; then nothing is left under its name.
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError>;
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The destination.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The images that a layout has already.
    #[error("cannot add an image to those of `{}`", path.display())]
    Earlier {
        /// Its `index.json`.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// A layer.
    #[error("cannot write the image's layer")]
    Layer(#[from] rbuild_cache::LayerError),
    /// The store.
    #[error("cannot use the store")]
    Store(#[from] rbuild_cache::StoreError),
    /// A tree.
    #[error("cannot read the image's tree")]
    Tree(#[from] rbuild_cache::TreeError),
    /// A blob.
    #[error("cannot read the image's blobs")]
    Blob(#[from] rbuild_cache::BlobError),
    /// Files that are not there.
    #[error("there is no `{}` in the step's files", path.display())]
    NotInStep {
        /// What was asked for.
        path: PathBuf,
    },
    /// What the output type cannot hold.
    #[error("`type={kind}` holds one platform, and {count} were built")]
    OnePlatform {
        /// The output type.
        kind: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Platforms that want the same name.
    #[error(
        "`{}` is in both {first} and {second}, and there is one directory for them",
        path.display()
    )]
    Overlap {
        /// In the root file systems.
        path: PathBuf,
        /// A platform.
        first: Box<Platform>,
        /// Another.
        second: Box<Platform>,
    },
    /// A name no registry can have.
    #[error(transparent)]
    Name(#[from] crate::registry::ParseReferenceError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// No program to load into.
    #[error("neither podman nor docker is there to load the image into")]
    NoLoader,
    /// Docker has no such context, or nothing answers there.
    #[error("docker does not answer in its context `{context}`")]
    NoContext {
        /// Its name.
        context: String,
    },
    /// The program that loads failed.
    #[error("`{program} load` failed: {message}")]
    Loader {
        /// `podman` or `docker`.
        program: String,
        /// What it said.
        message: String,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// The only image, for output types that hold no more.
fn only<'a>(export: &'a Export<'_>, kind: &'static str) -> Result<&'a ReadyImage, ExportError> {
    match export.images {
        [image] => Ok(image),
        images => Err(ExportError::OnePlatform {
            kind,
            count: images.len(),
        }),
    }
}

/// Where an archive goes.
trait Out: Write + Send {
    /// Appends the next `len` bytes of `from`, inside the kernel where both ends allow that.
    fn copy(&mut self, from: File, len: u64) -> io::Result<()>;
}

/// Each writer for itself: only with its type at hand does [`io::copy`] know that there is a file below.
impl<W: Write + Send> Out for W {
    fn copy(&mut self, from: File, len: u64) -> io::Result<()> {
        match io::copy(&mut from.take(len), self)? {
            copied if copied == len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Writes to a destination through `write`: a file is written aside and renamed, so that a failed or interrupted
/// export leaves what was there before.
fn deliver(
    dest: &Destination,
    write: &mut dyn FnMut(&mut dyn Out) -> Result<(), ExportError>,
) -> Result<Vec<Delivery>, ExportError> {
    match dest {
        Destination::Stdout => {
            let mut out = io::BufWriter::with_capacity(1 << 18, io::stdout());
            write(&mut out)?;
            out.flush().map_err(ExportError::Stdout)?;
            Ok(vec![Delivery::Stdout])
        }
        Destination::File(path) => {
            let fail = |source| ExportError::Write {
                path: path.clone(),
                source,
            };
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            let aside = tempfile::Builder::new()
                .prefix(".rbuild-")
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(parent)
                .map_err(fail)?;
            let mut out = io::BufWriter::with_capacity(1 << 18, aside.as_file());
            write(&mut out)?;
            out.flush().map_err(fail)?;
            drop(out);
            let size = aside.as_file().metadata().map_err(fail)?.len();
            aside.persist(path).map_err(|error| fail(error.error))?;
            Ok(vec![Delivery::File {
                path: path.clone(),
                size,
            }])
        }
    }
}
