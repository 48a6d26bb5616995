//! What a place that keeps caches must be able to do: one trait to read, one to write.
//!
//! Places are written to by several at once and know nothing of each other; a place takes blobs by their digests, and in the
//! end what names them. What has been named stays readable until something else has its name.

use std::io::Read;

use rbuild_llb::OciDigest;

use super::ExportError;
use super::catalogue::Catalogue;
use super::inline::OfImage;
use super::mounts::Mount;
use crate::image::Descriptor;
use crate::registry::OpenBlob;

/// Why something cannot be had from a place.
#[derive(Debug)]
pub struct Trouble {
    /// As the rest of a sentence that begins with the place.
    pub what: String,
    /// Whether it is the place's: then nothing else can be had from it, either.
    pub lasting: bool,
}

impl Trouble {
    /// Trouble with one thing.
    pub fn with(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            lasting: false,
        }
    }

    /// The same of a part of what was wanted.
    pub fn of(self, part: &str) -> Self {
        Self {
            what: format!("{part} {}", self.what),
            ..self
        }
    }
}

/// What is found at a place.
#[derive(Debug)]
pub enum Contents {
    /// Catalogues, each of which names all the rest: those of several branches, say.
    Catalogues(Vec<Vec<u8>>),
    /// What images have in them, one a platform.
    Images(Vec<OfImage>),
}

/// A blob on its way. It is compared with its digest as it passes; an error stands in place of the last bytes if it differs.
pub type Blob = Box<dyn Read + Send>;

/// A cache to read.
pub trait CacheReader: Send + Sync {
    /// What it knows.
    ///
    /// # Errors
    /// Why there is nothing that can be used.
    fn contents(&self) -> Result<Contents, Trouble>;

    /// Opens a blob.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble>;

    /// Whether it has a blob, as far as can be told without asking anybody.
    fn may_have(&self, digest: &OciDigest, size: u64) -> bool;
}

/// A place to write a cache to.
pub trait CacheWriter: Send + Sync {
    /// What the cache knows that is to be replaced, where asking for that is cheaper than to find out again.
    fn earlier(&self) -> Option<&Catalogue>;

    /// The cache mounts that are in the cache that is to be replaced.
    fn mounts(&self) -> Vec<Mount> {
        let earlier = self.earlier();
        earlier.map_or_else(Vec::new, |earlier| earlier.mounts.clone())
    }

    /// Opens a blob that is there.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble>;

    /// Whether it has a blob.
    ///
    /// # Errors
    /// If it cannot be asked.
    fn has(&self, digest: &OciDigest, size: u64) -> Result<bool, ExportError>;

    /// The most bytes that a blob may have.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// Takes a blob, unless it is there; whether it was sent.
    ///
    /// # Errors
    /// If it does not take it.
    fn put(&self, digest: &OciDigest, size: u64, open: &OpenBlob<'_>) -> Result<bool, ExportError>;

    /// Takes a blob that is at hand. Where that costs little, what is there already is compared with it.
    ///
    /// # Errors
    /// If it does not take it.
    fn put_bytes(&self, digest: &OciDigest, bytes: &[u8]) -> Result<bool, ExportError> {
        self.put(digest, bytes.len() as u64, &|| Ok(Box::new(bytes)))
    }

    /// Says that a blob was brought there a moment ago: it need not be asked for.
    fn trust(&self, digest: &OciDigest);

    /// Says that what it has of a blob is not what it should be.
    ///
    /// # Errors
    /// If that cannot be changed.
    fn mistrust(&self, digest: &OciDigest) -> Result<(), ExportError>;

    /// Makes what was put the cache, in the place of what was it: a catalogue, and the blobs that it names. `did` is told what
    /// was sent.
    ///
    /// # Errors
    /// If it does not take it.
    fn publish(
        self: Box<Self>,
        catalogue: &[u8],
        blobs: Vec<Descriptor>,
        did: &dyn Fn(&str),
    ) -> Result<(), ExportError>;
}
