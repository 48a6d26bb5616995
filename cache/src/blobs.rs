//! OCI blobs, found by their SHA-256.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc;

use rbuild_llb::OciDigest;
use serde_json::Value;
use sha2::Digest as _;
use sha2::Sha256;

use crate::journal::Journal;
use crate::store::StoreError;

/// Larger manifests are refused when they are pulled.
const MAX_DOCUMENT: u64 = 8 << 20;
/// What is written at once. For more the kernel wants as large pieces of memory in a row, and where files fill the memory, as
/// they do sooner or later, it moves others out of the way for them: that took half of the time of the writing.
const AT_ONCE: usize = 64 << 10;
/// Who copies a blob while it is written is not woken for less.
const WORTH: usize = 1 << 20;
/// How many such pieces may wait there, before who writes the blob waits.
const WAITING: usize = 3;

/// The blobs of a store.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    journal: Journal,
}

/// What can go wrong with blobs.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The content is not what it was said to be.
    #[error("blob {wanted} has the content of {got}")]
    Digest {
        /// What was asked for.
        wanted: OciDigest,
        /// What came.
        got: OciDigest,
    },
    /// The content is longer or shorter than it was said to be.
    #[error("blob {digest} has {got} bytes instead of {wanted}")]
    Size {
        /// The blob.
        digest: OciDigest,
        /// Bytes that were announced.
        wanted: u64,
        /// Bytes that came.
        got: u64,
    },
    /// It is not in the store.
    #[error("blob {digest} is not in the store")]
    Missing {
        /// The blob.
        digest: OciDigest,
    },
    /// It is larger than the caller can take.
    #[error("blob {digest} is larger than {limit} bytes")]
    TooLarge {
        /// The blob.
        digest: OciDigest,
        /// Bytes that would do.
        limit: u64,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf, journal: Journal) -> Self {
        Self { dir, journal }
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &OciDigest) -> PathBuf {
        let hex = digest.hex();
        self.dir.join(&hex[..2]).join(hex)
    }

    /// Whether the blob is there.
    pub fn contains(&self, digest: &OciDigest) -> bool {
        self.path(digest).exists()
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open(&self, digest: &OciDigest) -> Result<File, BlobError> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::Missing { digest: *digest },
            _ => StoreError::io("open", &path)(error).into(),
        })
    }

    /// Reads a blob of at most `limit` bytes, checking its digest.
    ///
    /// # Errors
    /// If it is not there, too large or damaged; a damaged one is removed.
    pub fn read(&self, digest: &OciDigest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read = self.open(digest)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(StoreError::io("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(BlobError::TooLarge {
                digest: *digest,
                limit,
            });
        }
        let got = sha256(&bytes);
        if got != *digest {
            drop(fs::remove_file(&path));
            return Err(BlobError::Digest {
                wanted: *digest,
                got,
            });
        }
        Ok(bytes)
    }

    /// A manifest, an index or a config; nothing if it is not there, or not what its digest says. Whatever it is, it stays.
    pub(crate) fn document(&self, digest: &OciDigest) -> Option<Value> {
        let path = self.path(digest);
        if fs::metadata(&path).ok()?.len() > MAX_DOCUMENT {
            return None;
        }
        let bytes = crate::file::peek(&path).ok()?;
        let right = sha256(&bytes) == *digest;
        serde_json::from_slice(&bytes).ok().filter(|_| right)
    }

    /// Stores bytes that are at hand. Nothing is written if they are there already.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<OciDigest, BlobError> {
        let digest = sha256(bytes);
        let there =
            fs::metadata(self.path(&digest)).is_ok_and(|there| there.len() == bytes.len() as u64);
        if !there {
            let path = self.path(&digest);
            self.journal.write(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Starts a blob whose content comes in pieces.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn writer(&self) -> Result<BlobWriter<'_>, BlobError> {
        Ok(BlobWriter {
            hasher: Some(Sha256::new()),
            ..self.unhashed_writer()?
        })
    }

    /// Starts a blob whose digest whoever writes it works out; it is committed with [`BlobWriter::commit_as`].
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn unhashed_writer(&self) -> Result<BlobWriter<'_>, BlobError> {
        let file = crate::file::aside(&self.dir)?;
        Ok(BlobWriter {
            blobs: self,
            file,
            hasher: None,
            size: 0,
            growth: None,
        })
    }
}

/// The digest that a descriptor of a manifest or index names.
pub(crate) fn digest_in(descriptor: &Value) -> Option<OciDigest> {
    descriptor["digest"].as_str()?.parse().ok()
}

pub(crate) fn sha256(bytes: &[u8]) -> OciDigest {
    OciDigest::from_bytes(Sha256::digest(bytes).into())
}

/// The digest of what a file holds.
pub(crate) fn digest_of(path: &Path) -> io::Result<OciDigest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(OciDigest::from_bytes(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// A blob that is being written. Dropped without a commit, it is gone.
pub struct BlobWriter<'a> {
    blobs: &'a Blobs,
    file: tempfile::NamedTempFile,
    /// `None` where the writer's user hashes what passes anyway.
    hasher: Option<Sha256>,
    size: u64,
    /// Of interest to who copies it meanwhile.
    growth: Option<Growth>,
}

impl std::fmt::Debug for BlobWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter")
            .field("file", &self.file.path())
            .field("size", &self.size)
            .finish()
    }
}

impl BlobWriter<'_> {
    /// Lets another thread copy the blob while it is written, from its beginning. Nobody follows one that did before.
    pub fn follow(&mut self) -> Growing {
        let (pieces, coming) = mpsc::sync_channel(WAITING);
        let (copied, free) = mpsc::channel();
        self.growth = Some(Growth {
            pieces,
            free,
            filling: Vec::new(),
        });
        Growing {
            pieces: coming,
            copied,
        }
    }

    /// Publishes what was written, checked against what was announced.
    ///
    /// # Errors
    /// If it is something else, or cannot be stored.
    pub fn commit(
        self,
        expected: Option<(&OciDigest, u64)>,
    ) -> Result<(OciDigest, u64), BlobError> {
        let hasher = self
            .hasher
            .clone()
            .expect("a writer that does not hash is committed with `commit_as`");
        let digest = OciDigest::from_bytes(hasher.finalize().into());
        let size = self.size;
        if let Some((wanted, announced)) = expected {
            if size != announced {
                return Err(BlobError::Size {
                    digest: *wanted,
                    wanted: announced,
                    got: size,
                });
            }
            if digest != *wanted {
                return Err(BlobError::Digest {
                    wanted: *wanted,
                    got: digest,
                });
            }
        }
        self.publish(&digest)?;
        Ok((digest, size))
    }

    /// Publishes what was written under a digest its writer has worked out.
    ///
    /// # Errors
    /// If it has another length, or cannot be stored.
    pub fn commit_as(self, digest: &OciDigest, size: u64) -> Result<(), BlobError> {
        if self.size != size {
            return Err(BlobError::Size {
                digest: *digest,
                wanted: size,
                got: self.size,
            });
        }
        self.publish(digest)
    }

    fn publish(self, digest: &OciDigest) -> Result<(), BlobError> {
        let path = self.blobs.path(digest);
        let parent: &Path = path.parent().unwrap_or(&self.blobs.dir);
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        self.blobs.journal.note()?;
        self.file
            .persist(&path)
            .map_err(|error| StoreError::io("write", &path)(error.error))?;
        if let Some(growth) = self.growth {
            growth.end(*digest, self.size);
        }
        Ok(())
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Its own file, not the handle: errors of the handle tell its random name.
        let bytes = &bytes[..bytes.len().min(AT_ONCE)];
        let count = self.file.as_file_mut().write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..count]);
        }
        self.size += count as u64;
        if let Some(growth) = &mut self.growth
            && !growth.add(&bytes[..count])
        {
            self.growth = None;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What passes from who writes a blob to who copies it.
#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    /// It was published as this.
    Whole(OciDigest, u64),
}

/// The writer's side: when it is gone, nothing comes any more. The bytes are handed over as they are, for reading them from the
/// file costs more, most of all on Btrfs: there each copy between files first waits for the disk.
#[derive(Debug)]
struct Growth {
    pieces: mpsc::SyncSender<Piece>,
    /// Buffers to be filled again.
    free: mpsc::Receiver<Vec<u8>>,
    filling: Vec<u8>,
}

impl Growth {
    /// Hands bytes on; whether anybody still copies them.
    fn add(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.filling.capacity() == 0 {
                let free = self.free.try_recv();
                self.filling = free.unwrap_or_else(|_| Vec::with_capacity(WORTH));
            }
            let (now, later) = bytes.split_at(bytes.len().min(WORTH - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
            if self.filling.len() == WORTH {
                let piece = Piece::Bytes(std::mem::take(&mut self.filling));
                if self.pieces.send(piece).is_err() {
                    return false;
                }
            }
        }
        true
    }

    fn end(self, digest: OciDigest, size: u64) {
        // Who has given up copying does not wait for the rest.
        let rest = self.pieces.send(Piece::Bytes(self.filling));
        drop(rest.and_then(|()| self.pieces.send(Piece::Whole(digest, size))));
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub struct Growing {
    pieces: mpsc::Receiver<Piece>,
    copied: mpsc::Sender<Vec<u8>>,
}

impl Growing {
    /// Copies it to `to` until it is published; as what, or nothing if it never was. Who writes it may have to wait for this.
    ///
    /// # Errors
    /// If `to` cannot be written.
    pub fn copy_to(self, to: &mut dyn Write) -> io::Result<Option<(OciDigest, u64)>> {
        for piece in self.pieces {
            match piece {
                Piece::Bytes(mut bytes) => {
                    for part in bytes.chunks(AT_ONCE) {
                        to.write_all(part)?;
                    }
                    bytes.clear();
                    // Nobody needs it any more once the blob is written.
                    drop(self.copied.send(bytes));
                }
                Piece::Whole(digest, size) => return Ok(Some((digest, size))),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::store::Store;

    #[test]
    fn a_blob_is_copied_while_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let bytes: Vec<u8> = (0..9 * WORTH + 7).map(|n| (n / 3 % 251) as u8).collect();
        // One that is published, one that is given up, and one of which nothing comes.
        for (parts, commit) in [(9, true), (9, false), (0, true), (0, false)] {
            let mut copy = b"before".to_vec();
            let mut writer = store.blobs().writer().unwrap();
            let growing = writer.follow();
            let (written, copied) = std::thread::scope(|scope| {
                let copying = scope.spawn(|| growing.copy_to(&mut copy));
                let parts = bytes.chunks(bytes.len() / 9 + 1).take(parts);
                for part in parts {
                    writer.write_all(part).unwrap();
                }
                // If not, it is given up here.
                let written = Some(writer).filter(|_| commit);
                let written = written.map(|writer| writer.commit(None).unwrap());
                (written, copying.join().unwrap().unwrap())
            });
            assert_eq!(copied, written);
            if let Some((digest, size)) = written {
                let blob = store.blobs().read(&digest, size).unwrap();
                assert!(copy == [b"before", &blob[..]].concat());
            }
        }
    }

    #[test]
    fn a_blob_is_written_whether_or_not_its_copy_is() {
        /// A full disk.
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let bytes = vec![7; 2 * (WAITING + 2) * WORTH];
        for copies in [true, false] {
            let mut writer = store.blobs().writer().unwrap();
            let growing = writer.follow();
            std::thread::scope(|scope| {
                let copying = scope.spawn(move || match copies {
                    true => growing.copy_to(&mut Full).unwrap_err().kind(),
                    false => io::ErrorKind::StorageFull,
                });
                writer.write_all(&bytes).unwrap();
                assert_eq!(copying.join().unwrap(), io::ErrorKind::StorageFull);
            });
            let (digest, size) = writer.commit(None).unwrap();
            assert_eq!((digest, size), (sha256(&bytes), bytes.len() as u64));
        }
    }
}
