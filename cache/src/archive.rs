//! Archives that hold images, as `docker save` and `skopeo copy oci-archive:` write them, taken apart.
//!
//! What a file in one is for is said by others of its files, which may come later, and the archive may come through a
//! pipe: so all files are kept in a scratch directory, under numbers, hashed as they pass. Nothing is made under a name
//! that the archive gives, so no name leads anywhere. What is an image is for others to say; files that they want are
//! renamed into the store, and the rest is gone with [`Unpacked`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use sha2::Digest as _;
use sha2::Sha256;

use crate::blobs::BlobError;
use crate::layer::LayerError;
use crate::layer::read::normal;
use crate::layer::show;
use crate::layer::stream::with_tar;
use crate::store::Scratch;
use crate::store::Store;
use crate::store::StoreError;
use crate::tar::read::Kind;
use crate::tar::read::Reader;
use crate::tar::read::TarError;

/// More entries than this are refused. An image of 127 layers, docker's limit, has about 500 in docker's old form.
const MAX_ENTRIES: usize = 100_000;
/// Links to links.
const MAX_LINKS: usize = 8;
const CHUNK: usize = 256 << 10;

/// Why an archive cannot be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is malformed or could not be read.
    #[error("it cannot be read as a tar, compressed or not")]
    Tar {
        /// Why.
        #[from]
        source: TarError,
    },
    /// It has an entry that no archive of images has.
    #[error("its entry `{path}` {problem}")]
    Entry {
        /// The entry's name.
        path: String,
        /// What about it, as the rest of the sentence.
        problem: &'static str,
    },
    /// A name that leads out of it, or that is too long.
    #[error("it has a name that cannot be")]
    Name {
        /// Which, and why.
        #[source]
        source: LayerError,
    },
    /// It has too many entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no thread to read it on.
    #[error(transparent)]
    Thread(LayerError),
    /// Who asked for it wants it no more.
    #[error("cancelled")]
    Cancelled,
}

/// The files of an archive. Gone when it is dropped.
#[derive(Debug)]
pub struct Unpacked {
    scratch: Scratch,
    files: BTreeMap<String, ArchivedFile>,
    /// Symbolic and hard links, to normalised names.
    links: BTreeMap<String, String>,
}

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedFile {
    /// SHA-256 of it.
    pub digest: OciDigest,
    /// Its bytes.
    pub size: u64,
    number: usize,
}

impl Store {
    /// Takes an archive apart, compressed or not.
    ///
    /// # Errors
    /// If it is none, or one that nobody means well with; then nothing of it is left.
    pub fn unpack_archive(
        &self,
        input: impl Read + Send,
        cancel: &CancelToken,
    ) -> Result<Unpacked, ArchiveError> {
        let mut unpacked = Unpacked {
            scratch: self.scratch()?,
            files: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let read = with_tar(
            input,
            |tar| Ok(unpacked.read(&mut Reader::new(tar), cancel)),
        );
        match read {
            Ok(read) => read?,
            Err(source) => return Err(ArchiveError::Thread(source)),
        }
        Ok(unpacked)
    }

    /// Makes a file of an archive a blob of this store, under the digest that its bytes had when they passed.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn adopt_file(&self, from: &Unpacked, file: &ArchivedFile) -> Result<(), BlobError> {
        if self.blobs().contains(&file.digest) {
            return Ok(());
        }
        self.blobs().adopt(&from.path(file), &file.digest)
    }
}

impl Unpacked {
    fn read(
        &mut self,
        reader: &mut Reader<impl Read>,
        cancel: &CancelToken,
    ) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; CHUNK];
        let mut entries = 0;
        while let Some(entry) = reader.next()? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(ArchiveError::TooMany);
            }
            let bad = |problem| ArchiveError::Entry {
                path: show(&entry.path),
                problem,
            };
            let name = name(&entry.path)?.ok_or_else(|| bad("is not UTF-8"))?;
            match entry.kind {
                Kind::Dir => continue,
                Kind::File | Kind::Symlink | Kind::Link => {}
                _ => return Err(bad("is a device or pipe, which no archive of images has")),
            }
            if self.files.contains_key(&name) || self.links.contains_key(&name) {
                return Err(bad("is there twice, so that nobody knows which counts"));
            }
            let target = match entry.kind {
                Kind::Symlink => {
                    // Relative to where the link is, as docker's old archives point at layers they share.
                    let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                    [dir.as_bytes(), &entry.link].join(&b'/')
                }
                Kind::Link => entry.link.clone(),
                _ => {
                    let file = self.keep(reader, &mut buffer, cancel)?;
                    self.files.insert(name, file);
                    continue;
                }
            };
            let target = self::name(&target)?.ok_or_else(|| bad("points at what is not UTF-8"))?;
            self.links.insert(name, target);
        }
        Ok(())
    }

    fn keep(
        &self,
        reader: &mut Reader<impl Read>,
        buffer: &mut [u8],
        cancel: &CancelToken,
    ) -> Result<ArchivedFile, ArchiveError> {
        let number = self.files.len();
        let path = self.numbered(number);
        let mut file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        loop {
            if cancel.is_cancelled() {
                return Err(ArchiveError::Cancelled);
            }
            let count = reader.read_body(buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            let written = file.write_all(&buffer[..count]);
            written.map_err(StoreError::io("write", &path))?;
            size += count as u64;
        }
        Ok(ArchivedFile {
            digest: OciDigest::from_bytes(hasher.finalize().into()),
            size,
            number,
        })
    }

    /// The file called `name`, through links.
    pub fn get(&self, name: &str) -> Option<&ArchivedFile> {
        let normal = self::name(name.as_bytes()).ok()??;
        let mut name = &normal;
        for _ in 0..MAX_LINKS {
            if let Some(file) = self.files.get(name) {
                return Some(file);
            }
            name = self.links.get(name)?;
        }
        None
    }

    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(&self, file: &ArchivedFile) -> io::Result<File> {
        File::open(self.path(file))
    }

    fn path(&self, file: &ArchivedFile) -> PathBuf {
        self.numbered(file.number)
    }

    fn numbered(&self, number: usize) -> PathBuf {
        self.scratch.path().join(number.to_string())
    }
}

/// The name of an entry without what makes two spellings of it; `None` if it is not UTF-8.
fn name(path: &[u8]) -> Result<Option<String>, ArchiveError> {
    let parts = normal(path).map_err(|source| ArchiveError::Name { source })?;
    Ok(String::from_utf8(parts.join(&b'/')).ok())
}

impl crate::blobs::Blobs {
    /// Renames a file of the same file system into its place.
    fn adopt(&self, from: &Path, digest: &OciDigest) -> Result<(), BlobError> {
        let to = self.path(digest);
        let parent = to.parent().unwrap_or(from);
        std::fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        self.journal().note()?;
        std::fs::rename(from, &to).map_err(StoreError::io("write", &to))?;
        Ok(())
    }
}

#[cfg(test)]
mod t {
    use super::*;

    enum Thing<'a> {
        File(&'a [u8]),
        Symlink(&'a str),
        Link(&'a str),
        Fifo,
    }

    fn archive(entries: &[(&str, Thing<'_>)]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (name, thing) in entries {
            let mut header = tar::Header::new_gnu();
            // By hand: the crate refuses the names that hostile archives have.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let (kind, link, body): (_, _, &[u8]) = match thing {
                Thing::File(body) => (tar::EntryType::Regular, "", body),
                Thing::Symlink(target) => (tar::EntryType::Symlink, *target, b""),
                Thing::Link(target) => (tar::EntryType::Link, *target, b""),
                Thing::Fifo => (tar::EntryType::Fifo, "", b""),
            };
            header.set_entry_type(kind);
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            out.append(&header, body).unwrap();
        }
        out.into_inner().unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn files_are_found_through_links_and_become_blobs() {
        let (_dir, store) = store();
        let bytes = archive(&[
            ("./a/layer.tar", Thing::File(b"one")),
            ("b/layer.tar", Thing::Symlink("../a/layer.tar")),
            ("c", Thing::Link("b/layer.tar")),
            ("loop", Thing::Symlink("loop")),
        ]);
        let unpacked = store
            .unpack_archive(&bytes[..], &CancelToken::new())
            .unwrap();
        // From sha256sum(1).
        let digest = "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
        for name in ["a/layer.tar", "b/layer.tar", "c"] {
            assert_eq!(unpacked.get(name).unwrap().digest.to_string(), digest);
        }
        assert_eq!(unpacked.get("loop"), None);
        assert_eq!(unpacked.get("../a/layer.tar"), None);
        let file = unpacked.get("c").unwrap();
        store.adopt_file(&unpacked, file).unwrap();
        assert_eq!(store.blobs().read(&file.digest, 3).unwrap(), b"one");
    }

    #[test]
    fn what_no_archive_of_images_has_is_refused() {
        let (dir, store) = store();
        let long = vec![b'x'; 300];
        let cut = &archive(&[("a", Thing::File(&long))])[..600];
        for (bytes, want) in [
            (archive(&[("../a", Thing::File(b""))]), "leads out"),
            (archive(&[("a", Thing::Symlink("../../b"))]), "leads out"),
            (archive(&[("a", Thing::Fifo)]), "device or pipe"),
            (
                archive(&[("a", Thing::File(b"1")), ("./a", Thing::File(b"2"))]),
                "twice",
            ),
            (cut.to_vec(), "cut off"),
            (b"hello".to_vec(), "cut off"),
        ] {
            let error = store.unpack_archive(&bytes[..], &CancelToken::new());
            let mut error: &dyn std::error::Error = &error.unwrap_err();
            let mut said = error.to_string();
            while let Some(source) = error.source() {
                error = source;
                said.push_str(&format!(": {error}"));
            }
            assert!(said.contains(want), "{want}: {said}");
        }
        let left = std::fs::read_dir(dir.path().join("v1/tmp")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
