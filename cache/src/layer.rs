//! A layer's blob: its tree to a tar and back.
//!
//! The tar holds the tree's entries in the order of [`Trees::walk`]; what its headers look like is said in
//! [`crate::tar::write`]. `/` itself is written (as `./`) only if the layer describes it: containerd and BuildKit never
//! write it and containerd ignores it, moby and podman apply it, so a changed mode of `/` survives where it can.
//! Whiteouts are empty files with mode 0 and mtime 0. Hard links: the group's first member in walk order is the file, the
//! others refer to it.

mod bytes;
mod frames;
mod locate;
mod pack;
mod plan;
pub(crate) mod read;
mod room;
pub(crate) mod stream;
mod window;
mod write;

use std::fs::File;
use std::io;

use rbuild_llb::OciDigest;
use serde::Deserialize;
use serde::Serialize;

pub use bytes::FileBytes;
pub use frames::EarlierFrames;
pub use frames::FindFrames;
pub use frames::FrameTable;
pub use frames::Reuse;
pub use locate::locate_files;
pub use read::ReadLayer;
pub use read::TakeFile;
pub use read::extract_files;
pub use read::is_archive;
pub use read::read_layer;
pub use write::digest_layer;
pub use write::write_layer;
pub use write::write_layer_again;

use crate::frame::Compression;
use crate::frame::FrameError;
use crate::tar::read::TarError;
use crate::tree::FileNode;
use crate::tree::TreeError;

/// Changes when the same tree and options would give other bytes: tar headers, cut points, compressor versions.
pub const BLOB_VERSION: u32 = 2;

/// What decides a blob's bytes beside the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobOptions {
    /// How it is compressed.
    pub compression: Compression,
    /// Times after this one (seconds since 1970) become it.
    pub clamp: Option<i64>,
}

/// What is in a blob's tar beside the layer's entries, and how it is cut: for whoever fetches parts of it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Nothing, in frames as [`BLOB_VERSION`](crate::BLOB_VERSION) says.
    #[default]
    Tar,
    /// One that a later version of rbuild has. Such a blob has the bytes of the layer's files, and is none that this version
    /// would write.
    #[serde(other)]
    Other,
}

impl Layout {
    fn is_tar(&self) -> bool {
        *self == Self::Tar
    }
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// SHA-256 of the blob.
    pub digest: OciDigest,
    /// SHA-256 of the tar in it.
    pub diff_id: OciDigest,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// How it is laid out.
    #[serde(default, skip_serializing_if = "Layout::is_tar")]
    pub layout: Layout,
}

impl LayerBlob {
    /// Its type in a manifest (OCI image-spec, media-types.md).
    pub fn media_type(&self) -> &'static str {
        match self.compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip { .. } => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Opens a file of a layer by its path. Called from several threads.
pub type OpenFile<'a> = dyn Fn(&[u8], &FileNode) -> io::Result<File> + Sync + 'a;

/// Finds the bytes of a file of a layer by its path. Called from several threads.
pub type OpenBytes<'a> = dyn Fn(&[u8], &FileNode) -> io::Result<FileBytes> + Sync + 'a;

/// What can go wrong with layers.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's tree could not be read.
    #[error("cannot read the layer's tree")]
    Tree {
        /// Why.
        #[from]
        source: TreeError,
    },
    /// The layer could not be compressed.
    #[error("cannot compress the layer")]
    Frame {
        /// Why.
        #[from]
        source: FrameError,
    },
    /// The layer's archive is malformed or could not be read.
    #[error("cannot read the layer's archive")]
    Archive {
        /// Why.
        #[from]
        source: TarError,
    },
    /// The archive has an entry that no layer may have.
    #[error("the layer's entry `{path}` {problem}")]
    Entry {
        /// The entry's name.
        path: String,
        /// What about it, as the rest of the sentence.
        problem: &'static str,
    },
    /// The archive has more entries than any layer needs.
    #[error("the layer has more than {limit} entries")]
    Entries {
        /// How many it may have.
        limit: u64,
    },
    /// A file is not what it was when the tree was made.
    #[error("`{path}` changed while it was read")]
    FileChanged {
        /// Its path in the layer.
        path: String,
    },
    /// A name that layers use for whiteouts.
    #[error(
        "`{path}` cannot be in an image: names that start with `.wh.` are reserved for deletions"
    )]
    Reserved {
        /// Its path in the layer.
        path: String,
    },
    /// A file could not be opened or read.
    #[error("cannot read `{path}`")]
    ReadFile {
        /// Its path in the layer.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    WriteBlob {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An earlier blob, which begins as this one does, cannot be read or is damaged: it is written without it.
    #[error("cannot read an earlier blob of the layer")]
    EarlierBlob {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something could not be made in, or read from, a directory.
    #[error("cannot {action} `{path}`")]
    Directory {
        /// What was being done.
        action: &'static str,
        /// The path in the layer; empty for `/`.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An owner that does not exist in the user namespace.
    #[error("`{path}` belongs to {uid}:{gid}, which is no owner in this user namespace")]
    Owner {
        /// The path in the layer.
        path: String,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// No thread could be had.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// A path for people.
pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
