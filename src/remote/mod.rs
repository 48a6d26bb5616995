//! Caches that several machines share. [`export`](export::export) writes one, [`Imports`] answers from it.
//!
//! A cache is one *catalogue*, and blobs that it names. As an OCI image layout (image-spec, image-layout.md):
//!
//! ```text
//! DIR/oci-layout
//! DIR/index.json                an entry a tag, `org.opencontainers.image.ref.name`; written last, renamed
//! DIR/blobs/sha256/…            a manifest; its config is the catalogue, its layers are the other blobs:
//!                                 lists of files     the objects of a layer's tree   (rbuild_cache::Trees::pack)
//!                                 layers             the blobs that images have
//! ```
//!
//! The catalogue ([`catalogue`]) is flat: key → result → layers. It is read once, and a key is then found in memory.
//!
//! Always true:
//! - What goes out holds keys and results, and nothing of what keys are made of: no arguments, variables, commands or paths
//!   of this machine. Layers have the files that steps made, with their names, as images have.
//! - What comes in is compared with its digest before it is used, bounded, and answers the keys that are asked for. That a
//!   key has the right result nobody can check: who may write a cache decides what is built with it.
//! - The same results make the same catalogue, whatever they are exported from and whenever.
//! - A layer that a registry has is named and not copied. All others are there.
//! - A cache that cannot be read makes a build slower and nothing else.
//!
//! What other places than a directory need is what [`directory`] does: to say whether it has a blob, to take and give one,
//! and to name a manifest at the end.

pub mod catalogue;
pub mod directory;
pub mod export;
pub mod import;

pub use catalogue::Known;
pub use export::ExportError;
pub use export::export;
pub use import::Imports;

/// `artifactType` of the manifest, by which it is told from an image.
pub const CACHE: &str = "application/vnd.rbuild.cache.v1+json";
/// The type of the catalogue.
const CATALOGUE: &str = "application/vnd.rbuild.cache.catalogue.v1+json";
/// The type of a list of files.
const FILES: &str = "application/vnd.rbuild.cache.files.v1+zstd";
