//! The store: everything that lies under `$RBUILD_ROOT`, and what is done with it. Nothing here knows a network, a
//! Dockerfile or a process.
//!
//! ```text
//! $RBUILD_ROOT/v1/              mode 0700, the user's own; another layout would be another number
//!   blobs/sha256/ab/abcd…       OCI blobs: layers, configs, manifests                       [blobs]
//!   trees/ab/cdef…              directory objects, zstd; those of one writing share a file [tree]
//!   layers/ab/abcd…/DOMAIN      directory forms of layers, by the id map they were made in  [store]
//!   layers/ab/abcd…/DOMAIN.plain  the same, of a layer that takes something away, without marks for that [store]
//!   layers/ab/abcd…/DOMAIN.delta  what differs from that of a near layer                    [store]
//!   near/ab/abcd…               place in a plan → the layer that got a directory form there [store]
//!   layer-blobs/ab/abcd….json   tree → the blobs made of it                                 [store]
//!   frames/ab/abcd…             blob, also one that was only hashed → its frames            [store]
//!   known/ab/abcd….json         blob → the tree it unpacks to                               [store]
//!   records/ab/abcd…            cache key → result, with what the key was made of           [records]
//!   slots/ab/abcd…              place in a plan → its newest record, to explain misses      [records]
//!   builds/abcd…                what the last build of a plan did, step by step, and why    [builds]
//!   pins/ab/abcd….json          tag and platform → manifest digest, and when it was asked   [store]
//!   images/NAME                 name → image                                                [images]
//!   stats/abcd…                 what a context's files looked like when they were hashed    [stat]
//!   mounts/abcd….N/data         cache mounts                                                [mounts]
//!   failures/ABCD               steps that failed, to be entered                            [failures]
//!   leases/RANDOM               what living builds use; locked while they live              [lease]
//!   running/abcd…               what is being made; locked by whoever makes it              [claims]
//!   tmp/RANDOM{,.d}             work in progress; locked while somebody works on it         [store]
//!   trash/                      what is being deleted                                       [gc]
//!   collecting                  locked by whoever collects garbage                          [lease]
//!   collected                   its time: when that was last done by itself                 [gc]
//!   unsynced/BOOT-ID            there while something is not synced                         [journal]
//! ```
//!
//! What always holds:
//! - What has its final name is complete: everything is written aside and renamed.
//! - Nothing waits for a disk: durability comes later, and what a power cut may have damaged is known (`journal`).
//! - Any number of processes use one store; they meet in files and flock(2) alone.
//! - Bytes that come back out are checked: blobs by SHA-256, trees by their id, files by the BLAKE3 in their tree.

pub mod archive;
pub mod blobs;
pub mod builder;
pub mod builds;
pub mod claims;
pub mod containers;
pub mod context;
pub mod dir;
pub mod failures;
mod file;
#[cfg(test)]
mod fixture;
mod flock;
pub mod frame;
pub mod fsck;
pub mod gc;
pub mod images;
mod journal;
pub mod layer;
pub mod lease;
pub mod merge;
pub mod mounts;
pub mod records;
pub mod reset;
mod stat;
pub mod store;
mod tar;
pub mod threads;
pub mod tree;
pub mod wait;

pub use archive::ArchiveError;
pub use archive::ArchivedFile;
pub use archive::Unpacked;
pub use blobs::BlobError;
pub use blobs::BlobWriter;
pub use blobs::Blobs;
pub use blobs::Growing;
pub use builder::NewNode;
pub use builder::TreeBuilder;
pub use builds::BuildReport;
pub use builds::Builds;
pub use builds::BuiltStep;
pub use builds::Fate;
pub use builds::Kept;
pub use claims::Claim;
pub use claims::Claimed;
pub use context::ContextError;
pub use context::ContextFiles;
pub use context::Scan;
pub use context::scan_context;
pub use dir::Device;
pub use dir::OWNER;
pub use dir::Owner;
pub use dir::Ownership;
pub use dir::Pack;
pub use dir::PackError;
pub use dir::PackedFiles;
pub use dir::PlainDir;
pub use dir::ScanKind;
pub use dir::Unpack;
pub use dir::scan_dir;
pub use dir::write_dir;
pub use dir::write_plain;
pub use failures::Entered;
pub use failures::FailedStep;
pub use failures::Failure;
pub use failures::Written;
pub use frame::Compression;
pub use frame::FrameError;
pub use fsck::FsckOptions;
pub use fsck::Fscked;
pub use fsck::Problem;
pub use gc::Collected;
pub use gc::Policy;
pub use gc::Select;
pub use gc::Space;
pub use gc::StoreUsage;
pub use gc::Usage;
pub use gc::UsageKind;
pub use images::Images;
pub use images::StoredImage;
pub use layer::BLOB_VERSION;
pub use layer::BlobOptions;
pub use layer::EarlierFrames;
pub use layer::FileBytes;
pub use layer::FindFrames;
pub use layer::FrameTable;
pub use layer::LayerBlob;
pub use layer::LayerError;
pub use layer::Layout;
pub use layer::OpenBytes;
pub use layer::OpenFile;
pub use layer::ReadLayer;
pub use layer::Reuse;
pub use layer::TakeFile;
pub use layer::digest_layer;
pub use layer::extract_files;
pub use layer::is_archive;
pub use layer::locate_files;
pub use layer::read_layer;
pub use layer::write_layer;
pub use layer::write_layer_again;
pub use lease::Lease;
pub use lease::LeaseRoot;
pub use merge::Delta;
pub use mounts::CacheMount;
pub use mounts::CacheMountInfo;
pub use mounts::CacheMountName;
pub use mounts::Resting;
pub use mounts::RestingMount;
pub use mounts::empty_mount;
pub use mounts::lend;
pub use mounts::take_back;
pub use records::Answer;
pub use records::CACHE;
pub use records::CacheBackend;
pub use records::Elsewhere;
pub use records::LayerRef;
pub use records::Origin;
pub use records::Record;
pub use records::RecordError;
pub use records::Records;
pub use records::RemoteCache;
pub use records::RemoteError;
pub use records::Snapshot;
pub use records::Unread;
pub use reset::ResetError;
pub use store::FormReader;
pub use store::KnownLayer;
pub use store::LayerForm;
pub use store::MAX_DELTAS;
pub use store::Scratch;
pub use store::Store;
pub use store::StoreError;
pub use store::StoredPin;
pub use store::StoredUrl;
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
pub use tree::changes::PathChange;
pub use tree::changes::TreeChanges;
pub use tree::changes::What;
