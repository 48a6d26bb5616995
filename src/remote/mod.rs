//! Caches that several machines share. [`export`](export::export) writes one, [`Imports`] answers from it.
//!
//! A cache is one *catalogue*, and blobs that it names. As an OCI image layout (image-spec, image-layout.md):
//!
//! ```text
//! DIR/oci-layout
//! DIR/index.json                an entry a tag, `org.opencontainers.image.ref.name`; written last, renamed
//! DIR/blobs/sha256/…            a manifest; its config is the catalogue, its layers are the other blobs:
//!                                 lists of files     the objects of a layer's tree   (rbuild_cache::Trees::pack)
//!                                 packs              small lists of files behind each other   ([`pack`])
//!                                 layers             the blobs that images have
//!                                 cache mounts       lists and packs   ([`mounts`])
//! ```
//!
//! In a registry it is the same manifest, under a tag. The catalogue ([`catalogue`]) is flat: key → result → layers. It is
//! read once, and a key is then found in memory. An image may have a small cache in its config instead ([`inline`]).
//!
//! Where caches are is behind two traits, [`CacheReader`] and [`CacheWriter`] ([`place`]); [`directory`], [`repository`],
//! [`actions`] and [`objects`] implement them, and a map in memory in the tests.
//!
//! Always true:
//! - What goes out holds keys and results, and nothing of what keys are made of: no arguments, variables, commands or paths
//!   of this machine. Layers have the files that steps made, with their names, as images have.
//! - What comes in is compared with its digest before it is used, bounded, and answers the keys that are asked for. That a
//!   key has the right result nobody can check: who may write a cache decides what is built with it.
//! - The same results make the same catalogue, whatever they are exported from and whenever.
//! - A layer that a registry has is named and not copied. All others are there.
//! - A cache that cannot be read makes a build slower and nothing else. One that fails as a whole is asked nothing more.

pub mod actions;
pub mod catalogue;
pub mod directory;
pub mod export;
pub mod import;
pub mod inline;
pub mod mounts;
pub mod objects;
mod pack;
pub mod place;
pub mod repository;
#[cfg(test)]
mod tests;

pub use catalogue::Known;
pub use export::ExportError;
pub use export::export;
pub use export::layer_written;
pub use import::Imports;
pub use mounts::Mount;
pub use place::CacheReader;
pub use place::CacheWriter;

use std::io::Read as _;

use rbuild_llb::OciDigest;

use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Manifest;
use place::Trouble;

/// `artifactType` of the manifest, by which it is told from an image.
pub const CACHE: &str = "application/vnd.rbuild.cache.v1+json";
/// The type of the catalogue.
const CATALOGUE: &str = "application/vnd.rbuild.cache.catalogue.v1+json";
/// The type of a list of files.
const FILES: &str = "application/vnd.rbuild.cache.files.v1+zstd";
/// The type of a pack.
const PACK: &str = "application/vnd.rbuild.cache.pack.v1";
/// A catalogue may not be larger, bytes: some hundred thousand steps.
const MAX_CATALOGUE: u64 = 256 << 20;
/// Neither may a list of files, or a pack.
const MAX_FILES: u64 = 512 << 20;

/// The manifest of a cache.
fn manifest(catalogue: Descriptor, blobs: Vec<Descriptor>) -> Vec<u8> {
    let manifest = Manifest {
        artifact_type: Some(CACHE.to_owned()),
        ..Manifest::new(Format::Oci, catalogue, blobs)
    };
    manifest.to_json()
}

/// Reads a blob whole, as its digest and length have it.
fn read_whole(
    reader: &dyn CacheReader,
    digest: &OciDigest,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, Trouble> {
    read_whole_from(
        &|digest, size| reader.blob(digest, size),
        digest,
        size,
        limit,
    )
}

/// The same from whatever opens it.
fn read_whole_from(
    open: &mounts::OpenAt<'_>,
    digest: &OciDigest,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, Trouble> {
    if size > limit {
        let what = format!("has {size} bytes, and {limit} are the most");
        return Err(Trouble::with(what));
    }
    let failed = |trouble: Trouble| Trouble {
        what: format!("cannot be read: {}", trouble.what),
        ..trouble
    };
    let mut blob = open(digest, size).map_err(failed)?;
    let mut bytes = Vec::new();
    let read = blob.read_to_end(&mut bytes);
    read.map_err(|error| failed(Trouble::with(chain(&error))))?;
    Ok(bytes)
}

/// An error with what brought it about.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
