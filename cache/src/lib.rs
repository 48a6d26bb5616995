//! The store.

pub mod builder;
pub mod dir;
#[cfg(test)]
mod fixture;
pub mod frame;
pub mod layer;
pub mod merge;
mod tar;
pub mod tree;

pub use builder::NewNode;
pub use builder::TreeBuilder;
pub use dir::Ownership;
pub use dir::ScanKind;
pub use dir::Unpack;
pub use dir::scan_dir;
pub use dir::write_dir;
pub use frame::Compression;
pub use frame::FrameError;
pub use layer::BLOB_VERSION;
pub use layer::BlobOptions;
pub use layer::LayerBlob;
pub use layer::LayerError;
pub use layer::OpenFile;
pub use layer::ReadLayer;
pub use layer::TakeFile;
pub use layer::extract_files;
pub use layer::read_layer;
pub use layer::write_layer;
pub use tar::read::TarError;
pub use tree::DirNode;
pub use tree::Directory;
pub use tree::Entry;
pub use tree::FileNode;
pub use tree::Follow;
pub use tree::Found;
pub use tree::MAX_DEPTH;
pub use tree::Meta;
pub use tree::Node;
pub use tree::Resolved;
pub use tree::Timestamp;
pub use tree::TreeError;
pub use tree::TreeRef;
pub use tree::Trees;
