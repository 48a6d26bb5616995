//! Tree objects on disk.
//!
//! An object is the file `<first two hex digits>/<the other 62>`. Those that are written together are one file, of which each
//! has its name as a hard link: most take some hundred bytes, and a file of its own takes a block. A file is either
//!
//! ```text
//! zstd frame                                                      one object, as object.rs encodes it
//! "rbtrees\x01"  count: u32  (id: 32 bytes, length: u32) × count  zstd frame × count     numbers little endian
//! ```
//!
//! - A file has all of its objects before it gets the first of its names: a name that is there leads to what it says, when the
//!   writer was killed as well.
//! - A name goes by itself, as that of a single object does; the kernel frees the file with the last. So what is left of a
//!   file holds the rest of it, and [`MAX_FILE`] is how much that can be.
//! - Where there are no hard links each object is a file.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_llb::TreeId;

use super::Directory;
use super::TreeError;
use super::Trees;
use super::child_trees;
use super::object;
use crate::file;

/// No directory's object may be larger than this when it is decompressed: some millions of entries.
const MAX_OBJECT: u64 = 1 << 30;
/// Tree objects are small and written often; level 1 is within 4 % of level 3 on them.
const OBJECT_LEVEL: i32 = 1;

const MAGIC: &[u8; 8] = b"rbtrees\x01";
const PREFIX: usize = MAGIC.len() + size_of::<u32>();
/// An object's row in the table at the beginning of a file.
const ROW: usize = 32 + size_of::<u32>();
/// A file of several objects is no larger, in bytes: on average half a block of it is not used, an eighth.
const MAX_FILE: usize = 16 << 10;
/// So many objects are in a file at most. With their table, and usually all of them, they are in the first [`HEAD`] bytes.
const MAX_OBJECTS: usize = 64;
/// What is read of a file at first.
const HEAD: usize = 8 << 10;

/// Contexts of the compressor that are not in use: making one takes longer than compressing a small directory.
#[derive(Default)]
pub(super) struct Codec {
    compressors: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
    decompressors: Mutex<Vec<zstd::bulk::Decompressor<'static>>>,
}

impl Codec {
    fn compress(&self, object: &[u8]) -> io::Result<Vec<u8>> {
        let mut compressor = match pop(&self.compressors) {
            Some(compressor) => compressor,
            None => zstd::bulk::Compressor::new(OBJECT_LEVEL)?,
        };
        let compressed = compressor.compress(object);
        push(&self.compressors, compressor);
        compressed
    }

    /// An object as it was before it was compressed, if it can be.
    fn decompress(&self, compressed: &[u8]) -> Option<Vec<u8>> {
        // Written in one piece, it says how long it is.
        let len = zstd::zstd_safe::get_frame_content_size(compressed).ok()??;
        let len = usize::try_from(len).ok().filter(|_| len <= MAX_OBJECT)?;
        let mut decompressor = match pop(&self.decompressors) {
            Some(decompressor) => decompressor,
            None => zstd::bulk::Decompressor::new().ok()?,
        };
        let bytes = decompressor.decompress(compressed, len).ok();
        push(&self.decompressors, decompressor);
        bytes
    }
}

fn pop<T>(idle: &Mutex<Vec<T>>) -> Option<T> {
    idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn push<T>(idle: &Mutex<Vec<T>>, one: T) {
    idle.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(one);
}

/// Gives a file a second name: link(2), but in tests.
type Link<'a> = &'a dyn Fn(&Path, &Path) -> io::Result<()>;

/// Objects on their way to the disk, each after what it points to.
pub(super) struct Writer<'a> {
    trees: &'a Trees,
    link: Link<'a>,
    /// What is to become the next file.
    objects: Vec<(TreeId, Vec<u8>)>,
    size: usize,
    taken: HashSet<TreeId>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(trees: &'a Trees) -> Self {
        Self::with_link(trees, &|from, to| fs::hard_link(from, to))
    }

    fn with_link(trees: &'a Trees, link: Link<'a>) -> Self {
        Self {
            trees,
            link,
            objects: Vec::new(),
            size: PREFIX,
            taken: HashSet::new(),
        }
    }

    /// Whether an object was given to this writer.
    pub(super) fn has(&self, id: &TreeId) -> bool {
        self.taken.contains(id)
    }

    pub(super) fn add(&mut self, id: TreeId, dir: &Directory) -> Result<(), TreeError> {
        self.taken.insert(id);
        let path = self.trees.path(&id);
        // A file of no bytes is what a power cut leaves of a rename that was not synced.
        if fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
            return Ok(());
        }
        let frame = self.trees.codec.compress(&object::encode(dir).0);
        let frame = frame.map_err(|source| TreeError::Io { path, source })?;
        let more = ROW + frame.len();
        if self.size + more > MAX_FILE || self.objects.len() == MAX_OBJECTS {
            self.flush()?;
        }
        self.size += more;
        self.objects.push((id, frame));
        Ok(())
    }

    /// Writes what is left, and gives all objects that are on the disk now.
    pub(super) fn finish(mut self) -> Result<HashSet<TreeId>, TreeError> {
        self.flush()?;
        Ok(self.taken)
    }

    fn flush(&mut self) -> Result<(), TreeError> {
        let objects = std::mem::take(&mut self.objects);
        self.size = PREFIX;
        self.write(&objects)
    }

    fn write(&self, objects: &[(TreeId, Vec<u8>)]) -> Result<(), TreeError> {
        let Some(((last, frame), others)) = objects.split_last() else {
            return Ok(());
        };
        let path = self.trees.path(last);
        let failed = |source| TreeError::Io {
            path: path.clone(),
            source,
        };
        let shard = path.parent().expect("an object's path has two parts");
        fs::create_dir_all(shard).map_err(failed)?;
        let mut aside = tempfile::Builder::new()
            .prefix(file::ASIDE)
            .tempfile_in(shard)
            .map_err(failed)?;
        let written = match others {
            [] => aside.write_all(frame),
            _ => aside.write_all(&encode(objects)),
        };
        written.map_err(failed)?;
        for (id, _) in others {
            match self.name(aside.path(), &self.trees.path(id)) {
                Ok(()) => {}
                // No hard links on this file system, or not so many: each for itself. A name that somebody else has made
                // does not tell.
                Err(error) if cannot_link(&error) => {
                    let mut each = objects.chunks(1);
                    return each.try_for_each(|object| self.write(object));
                }
                Err(source) => {
                    let path = self.trees.path(id);
                    return Err(TreeError::Io { path, source });
                }
            }
        }
        aside.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Gives the file `aside` the name of an object, unless there is one that somebody else has written.
    fn name(&self, aside: &Path, path: &Path) -> io::Result<()> {
        let linked = match (self.link)(aside, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let shard = path.parent().expect("an object's path has two parts");
                fs::create_dir_all(shard)?;
                (self.link)(aside, path)
            }
            linked => linked,
        };
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::metadata(path).is_ok_and(|found| found.len() > 0) {
                    return Ok(());
                }
                let second = aside.with_extension("again");
                (self.link)(aside, &second)?;
                fs::rename(&second, path)
            }
            linked => linked,
        }
    }
}

/// Whether link(2) says that there are no hard links here.
fn cannot_link(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let no = [
        Errno::PERM,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::XDEV,
        Errno::MLINK,
    ];
    Errno::from_io_error(error).is_some_and(|errno| no.contains(&errno))
}

fn encode(objects: &[(TreeId, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((objects.len() as u32).to_le_bytes());
    for (id, frame) in objects {
        bytes.extend(id.as_bytes());
        bytes.extend((frame.len() as u32).to_le_bytes());
    }
    for (_, frame) in objects {
        bytes.extend(frame);
    }
    bytes
}

/// The table of a file: ids, and where their frames are. `None` if it is damaged.
fn table(head: &[u8]) -> Option<Vec<(TreeId, std::ops::Range<usize>)>> {
    let (count, rest) = head.strip_prefix(MAGIC)?.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    let rows = rest.get(..count.checked_mul(ROW)?)?;
    let mut at = PREFIX + rows.len();
    let rows = rows.chunks_exact(ROW).map(|row| {
        let (id, len) = row.split_first_chunk()?;
        let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
        let range = at..at.checked_add(len).filter(|end| *end <= MAX_FILE)?;
        at = range.end;
        Some((TreeId::from_bytes(*id), range))
    });
    rows.collect()
}

impl Trees {
    /// The file an object has on disk, which may have others as well.
    pub fn path(&self, id: &TreeId) -> PathBuf {
        let hex = id.hex();
        self.dir.join(&hex[..2]).join(&hex[2..])
    }

    /// An object as it is on disk, kept in no memory; one that is damaged stays where it is.
    pub(crate) fn on_disk(&self, id: &TreeId) -> Result<Directory, TreeError> {
        let path = self.path(id);
        let frame = match frame_of(&path, id) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TreeError::Missing { id: *id });
            }
            Err(source) => return Err(TreeError::Io { path, source }),
        };
        frame
            .and_then(|frame| self.codec.decompress(&frame))
            .filter(|bytes| blake3::hash(bytes).as_bytes() == id.as_bytes())
            .and_then(|bytes| object::decode(&bytes))
            .ok_or(TreeError::Corrupt { path })
    }

    /// Takes the name of an object away that is damaged, and those of the others in its file that are: one thing that went
    /// wrong is one error.
    pub(super) fn forget_damaged(&self, id: &TreeId) {
        let path = self.path(id);
        let table = table(&file::peek(&path).unwrap_or_default()).unwrap_or_default();
        for other in table.into_iter().map(|(id, _)| id).chain([*id]) {
            if let Err(TreeError::Corrupt { path }) = self.on_disk(&other) {
                drop(fs::remove_file(path));
            }
        }
    }

    /// What the objects of a file name, by their ids; those that are damaged are left out.
    pub(crate) fn links_in(&self, bytes: &[u8]) -> Vec<(TreeId, Vec<TreeId>)> {
        let frames = match bytes.starts_with(MAGIC) {
            false => vec![bytes],
            true => {
                let table = table(bytes).unwrap_or_default();
                let ranges = table.into_iter().map(|(_, range)| range);
                ranges.filter_map(|range| bytes.get(range)).collect()
            }
        };
        let links = frames.into_iter().filter_map(|frame| {
            let bytes = self.codec.decompress(frame)?;
            let dir = object::decode(&bytes)?;
            let id = TreeId::from_bytes(*blake3::hash(&bytes).as_bytes());
            Some((id, child_trees(&dir).collect()))
        });
        links.collect()
    }
}

/// The frame of an object in a file; `None` if the file is damaged, or has it not.
fn frame_of(path: &Path, id: &TreeId) -> io::Result<Option<Vec<u8>>> {
    let mut file = file::open_to_peek(path)?;
    let mut bytes = Vec::with_capacity(HEAD);
    (&mut file).take(HEAD as u64).read_to_end(&mut bytes)?;
    if !bytes.starts_with(MAGIC) {
        if bytes.len() == HEAD {
            file.read_to_end(&mut bytes)?;
        }
        return Ok(Some(bytes));
    }
    let own = |(found, _): &(TreeId, _)| found == id;
    let Some((_, range)) = table(&bytes).and_then(|table| table.into_iter().find(own)) else {
        return Ok(None);
    };
    if range.end <= bytes.len() {
        bytes.truncate(range.end);
        return Ok(Some(bytes.split_off(range.start)));
    }
    let mut frame = vec![0; range.len()];
    match file.read_exact_at(&mut frame, range.start as u64) {
        Ok(()) => Ok(Some(frame)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
