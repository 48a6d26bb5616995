//! Where finished images go: one file per output type.
//!
//! [`archive`] writes the OCI image layout, which [`begun`] may have begun, [`tar`] and [`local`] the root file system,
//! [`store`] names the image in rbuild's own store, [`push`] sends it to registries, [`load`] hands it to podman or docker;
//! [`join`] makes one of what several builders made. An exporter is given finished images and a way to
//! read bytes; it makes nothing up. Files appear under their name only when they are whole.

pub mod archive;
pub mod begun;
pub mod join;
pub mod load;
pub mod local;
pub mod push;
pub mod store;
pub mod tar;

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
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
use crate::links;
use crate::outcome::Delivery;
use crate::registry;
use crate::request::Destination;

use begun::Start;

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
    /// Gets a layer's blob of that digest into the store, if it is not there: that of a base, or one that a cache elsewhere
    /// has.
    pub fetch: &'a (dyn Fn(&LayerRef, &OciDigest) -> io::Result<()> + Sync),
    /// The repository of a registry in which a layer's blob is, as far as is known.
    pub near: &'a (dyn Fn(&LayerRef, &OciDigest, &str) -> Option<String> + Sync),
    /// Whether the store has bytes of a layer, or a base's registry.
    pub here: &'a (dyn Fn(&LayerRef) -> bool + Sync),
    /// The archive this becomes, if it may have been begun.
    pub begun: Option<&'a begun::Begun>,
    /// Stop when it says so.
    pub cancel: &'a CancelToken,
}

impl Export<'_> {
    fn top(&self) -> &Descriptor {
        self.top
            .expect("what exports images is given those of at least one platform")
    }
}

/// The repository of the base that a layer is of, if that is in the registry and has that very blob.
pub fn base_of(layer: &LayerRef, blob: &OciDigest, registry: &str) -> Option<String> {
    let origin = layer.origin.as_ref()?;
    let source: registry::Reference = origin.source.as_deref()?.parse().ok()?;
    (origin.digest == *blob && source.registry == registry).then_some(source.repository)
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
    /// What an archive goes to, whatever that is.
    #[error("cannot write the archive")]
    Archive(#[source] io::Error),
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
    /// An image for several platforms, or with an index over one.
    #[error("docker's archive holds one platform only, and no index")]
    NoIndex,
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
    /// Several registries.
    #[error("it could not be pushed to several registries")]
    Several(Vec<ExportError>),
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
    /// What a builder made.
    #[error("what a builder sent cannot be used")]
    Sent(#[source] io::Error),
    /// What several builders made.
    #[error("cannot write what several builders made as one")]
    Joined(#[source] io::Error),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// The only image, for output types that hold no more.
fn only<'a>(export: &'a Export<'_>) -> Result<&'a ReadyImage, ExportError> {
    match export.images {
        [image] => Ok(image),
        _ => Err(ExportError::NoIndex),
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

/// Counts what goes through.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes to a destination through `write`: a file is written aside and renamed, so that a failed or interrupted
/// export leaves what was there before. What is there and is no regular file, such as a pipe, is written to as it is.
fn deliver(
    dest: &Destination,
    write: &mut dyn FnMut(&mut dyn Out) -> Result<(), ExportError>,
) -> Result<Vec<Delivery>, ExportError> {
    deliver_begun(dest, None, &mut |out, _| write(out))
}

/// Writes to a destination that may have been begun.
type WriteBegun<'a> = dyn FnMut(&mut dyn Out, Option<&Start>) -> Result<(), ExportError> + 'a;

/// The same of a file that may have been begun, which `write` is given if it was.
fn deliver_begun(
    dest: &Destination,
    start: Option<Start>,
    write: &mut WriteBegun<'_>,
) -> Result<Vec<Delivery>, ExportError> {
    let mut write = |out: &mut dyn Out, start: Option<&Start>| {
        write(out, start).map_err(|error| placed(error, dest))
    };
    let path = match dest {
        Destination::Stdout => {
            let mut out = io::BufWriter::with_capacity(1 << 18, io::stdout());
            write(&mut out, None)?;
            out.flush().map_err(ExportError::Stdout)?;
            return Ok(vec![Delivery::Stdout]);
        }
        Destination::File(path) => path,
    };
    let fail = |source| ExportError::Write {
        path: path.clone(),
        source,
    };
    let size = match goes_aside(path) {
        false => {
            let to = fs::OpenOptions::new().write(true).open(path);
            let mut out = Counted {
                to: io::BufWriter::with_capacity(1 << 18, to.map_err(fail)?),
                bytes: 0,
            };
            write(&mut out, None)?;
            out.flush().map_err(fail)?;
            out.bytes
        }
        true => {
            let start = match start {
                Some(start) => start,
                None => Start::nothing(aside(path).map_err(fail)?),
            };
            let mut file = start.aside.as_file();
            let mut out = io::BufWriter::with_capacity(1 << 18, file);
            write(&mut out, Some(&start))?;
            out.flush().map_err(fail)?;
            drop(out);
            let size = file.stream_position().map_err(fail)?;
            // What was begun may have been of something longer.
            file.set_len(size).map_err(fail)?;
            let target = start.target;
            let kept = start.aside.persist(&target);
            kept.map_err(|error| fail(error.error))?;
            size
        }
    };
    Ok(vec![Delivery::File {
        path: path.clone(),
        size,
    }])
}

/// Says where what could not be written was to go.
fn placed(error: ExportError, dest: &Destination) -> ExportError {
    let source = match error {
        ExportError::Archive(source) => source,
        ExportError::Layer(rbuild_cache::LayerError::WriteBlob { source }) => source,
        other => return other,
    };
    match dest {
        Destination::Stdout => ExportError::Stdout(source),
        Destination::File(path) => ExportError::Write {
            path: path.clone(),
            source,
        },
    }
}

/// Makes sure that there is a directory for what is to be written, before it is made.
///
/// # Errors
/// If there is none.
pub fn has_place(path: &Path) -> Result<(), ExportError> {
    if !goes_aside(path) {
        return Ok(());
    }
    let place = links::behind(path).and_then(|target| directory(&target).map(drop));
    place.map_err(|source| ExportError::Write {
        path: path.to_owned(),
        source,
    })
}

/// The directory that a file is to be in.
fn directory(target: &Path) -> io::Result<&Path> {
    let parent = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !parent.is_dir() {
        let why = format!("there is no directory `{}`", parent.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(parent)
}

/// Whether what is written to a path is written aside and renamed.
fn goes_aside(path: &Path) -> bool {
    !fs::metadata(path).is_ok_and(|there| !there.is_file())
}

/// A file beside what will be replaced by it, and what that is, links followed.
fn aside(path: &Path) -> io::Result<(tempfile::NamedTempFile, PathBuf)> {
    let target = links::behind(path)?;
    let aside = tempfile::Builder::new()
        .prefix(".rbuild-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory(&target)?)?;
    Ok((aside, target))
}

/// A destination for an archive that somebody else makes, with the rules of [`deliver`].
#[derive(Debug)]
pub struct Pending {
    dest: Destination,
    /// Unless what is there is written to as it is.
    aside: Option<(tempfile::NamedTempFile, PathBuf)>,
}

impl Pending {
    /// Opens a destination, and what writes to it.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(dest: &Destination) -> Result<(Self, Box<dyn Write + Send>), ExportError> {
        let dest = dest.clone();
        let Destination::File(path) = &dest else {
            let to = Box::new(io::stdout());
            return Ok((Self { dest, aside: None }, to));
        };
        let fail = |source| ExportError::Write {
            path: path.clone(),
            source,
        };
        if !goes_aside(path) {
            let to = fs::OpenOptions::new().write(true).open(path);
            let to = Box::new(to.map_err(fail)?);
            return Ok((Self { dest, aside: None }, to));
        }
        let (aside, target) = aside(path).map_err(fail)?;
        let to = Box::new(aside.reopen().map_err(fail)?);
        let aside = Some((aside, target));
        Ok((Self { dest, aside }, to))
    }

    /// Gives what was written its name.
    ///
    /// # Errors
    /// If it cannot have it.
    pub fn finish(self) -> Result<Delivery, ExportError> {
        let Destination::File(path) = self.dest else {
            return Ok(Delivery::Stdout);
        };
        let fail = |source| ExportError::Write {
            path: path.clone(),
            source,
        };
        let mut size = 0;
        if let Some((aside, target)) = self.aside {
            size = aside.as_file().metadata().map_err(fail)?.len();
            aside.persist(target).map_err(|error| fail(error.error))?;
        }
        Ok(Delivery::File { path, size })
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use std::os::unix::fs::FileTypeExt as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    fn delivered(path: &Path) -> u64 {
        let dest = Destination::File(path.to_owned());
        let done = deliver(&dest, &mut |out| {
            out.write_all(b"archive").map_err(ExportError::Stdout)
        });
        match done.unwrap().as_slice() {
            [Delivery::File { size, .. }] => *size,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pipe_is_written_to_and_a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        // A reader that waits for no writer.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = fs::OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(&pipe)
            .unwrap();
        assert_eq!(delivered(&pipe), 7);
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "archive");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

        let (link, file) = (dir.path().join("link"), dir.path().join("file"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        for before in [None, Some("old")] {
            if let Some(before) = before {
                fs::write(&file, before).unwrap();
            }
            assert_eq!(delivered(&link), 7);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(&file).unwrap(), "archive");
        }
    }
}
