//! The stat cache: what the files of a context hashed to when they looked as they look now.
//!
//! One flat file a context and selection, as git's index, replaced as a whole:
//!
//! ```text
//! magic "rbstat\0" and version          8 bytes
//! BLAKE3 of the index                  32 bytes
//! length of the index                  u32
//! the index, a line per directory with files, sorted by path:
//!     path                             u32 length, bytes
//!     length of its block              u32
//!     BLAKE3 of its block              32 bytes
//! the blocks in the same order, an entry per file, sorted by name:
//!     name                             u16 length, bytes
//!     device, inode, size              u64 each
//!     mtime, ctime                     i64 seconds and u32 nanoseconds each
//!     mode                             u32
//!     BLAKE3 of the file               32 bytes
//!     security.capability              u16 length, bytes
//! ```
//!
//! Numbers are little-endian. A file whose index is damaged, or of another version, is as good as none, and so is a
//! damaged block: each is checked by the thread that looks into the directory.
//!
//! An entry is never *racy* (git's word): a file that was changed as late as the scan began may be changed again
//! without its times moving on, so it is not remembered and read again next time.

use std::cmp::Ordering;
use std::io;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use rbuild_llb::FileDigest;

use crate::tree::Timestamp;

const MAGIC: &[u8; 8] = b"rbstat\0\x02";

/// What stat(2) says of a file. While all of it stays, so does the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) mode: u32,
}

impl FileStat {
    /// Whether the file may change, after it was read in a scan that began at `started`, and look as it does now.
    /// `started` must come from the clock the kernel takes file times from, which moves in ticks.
    pub(crate) fn is_racy(&self, started: Timestamp) -> bool {
        let changed = self.mtime.max(self.ctime);
        // A time without a fraction may be that of a file system which keeps whole seconds, or even ones only (FAT).
        let step = if changed.nanos == 0 { 2 } else { 0 };
        let end = Timestamp {
            secs: changed.secs.saturating_add(step),
            ..changed
        };
        end >= started
    }
}

/// What is remembered of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) stat: FileStat,
    pub(crate) digest: FileDigest,
    /// The value of `security.capability`, or nothing.
    pub(crate) capability: Vec<u8>,
}

/// The files to be remembered of one directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DirStats {
    /// Those that the last cache has.
    Same,
    /// These, by name.
    Files(Vec<(Vec<u8>, Remembered)>),
}

/// A stat cache as it was read.
#[derive(Debug, Default)]
pub(crate) struct StatCache {
    bytes: Vec<u8>,
    /// In the order of the paths.
    blocks: Vec<Block>,
}

/// Where the path and the entries of a directory are.
#[derive(Debug)]
struct Block {
    path: Range<usize>,
    entries: Range<usize>,
    sum: Range<usize>,
}

/// Whether a cache of this version is not as it was written.
pub(crate) fn is_damaged(bytes: &[u8]) -> bool {
    let version = MAGIC.len() - 1;
    match bytes.strip_prefix(&MAGIC[..version]) {
        Some([found, ..]) if *found != MAGIC[version] => false,
        _ => StatCache::parse(bytes.to_vec())
            .is_none_or(|cache| !cache.blocks.iter().all(|block| cache.is_whole(block))),
    }
}

impl StatCache {
    /// Reads a cache; an empty one if there is none that can be used.
    pub(crate) fn load(path: &Path) -> Self {
        std::fs::read(path)
            .ok()
            .and_then(Self::parse)
            .unwrap_or_default()
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut body = Reader(bytes.strip_prefix(MAGIC)?);
        let sum = body.take(blake3::OUT_LEN)?;
        let len = body.u32()? as usize;
        let index = body.take(len)?;
        if blake3::hash(index).as_bytes() != sum {
            return None;
        }
        let mut start = bytes.len() - body.0.len();
        let at = |part: &[u8], rest: &Reader<'_>| {
            let end = bytes.len() - body.0.len() - rest.0.len();
            end - part.len()..end
        };
        let mut blocks = Vec::new();
        let mut rest = Reader(index);
        while !rest.0.is_empty() {
            let len = rest.u32()? as usize;
            let path = at(rest.take(len)?, &rest);
            let entries = start..start.checked_add(rest.u32()? as usize)?;
            let sum = at(rest.take(blake3::OUT_LEN)?, &rest);
            start = entries.end;
            blocks.push(Block { path, entries, sum });
        }
        (start == bytes.len()).then_some(Self { blocks, bytes })
    }

    /// The files remembered of the directory `path`, in the order of their names.
    pub(crate) fn dir(&self, path: &[u8]) -> Remembering<'_> {
        Remembering {
            rest: Reader(self.block(path).unwrap_or_default()),
            next: None,
            read: 0,
        }
    }

    /// The entries of a directory, if they are whole.
    fn block(&self, path: &[u8]) -> Option<&[u8]> {
        let found = self
            .blocks
            .binary_search_by(|block| self.bytes[block.path.clone()].cmp(path));
        let block = &self.blocks[found.ok()?];
        self.is_whole(block)
            .then(|| &self.bytes[block.entries.clone()])
    }

    fn is_whole(&self, block: &Block) -> bool {
        let sum = blake3::hash(&self.bytes[block.entries.clone()]);
        sum.as_bytes() == &self.bytes[block.sum.clone()]
    }

    /// Of how many directories files are remembered.
    pub(crate) fn dirs(&self) -> usize {
        self.blocks.len()
    }
}

/// Looks names up in a directory, in ascending order.
pub(crate) struct Remembering<'a> {
    rest: Reader<'a>,
    next: Option<(&'a [u8], Remembered)>,
    read: usize,
}

impl Remembering<'_> {
    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.read == 0 && self.rest.0.is_empty()
    }

    /// What is remembered of `name`, which is not before any name asked for earlier.
    pub(crate) fn get(&mut self, name: &[u8]) -> Option<&Remembered> {
        loop {
            if self.next.is_none() {
                self.advance()?;
            }
            let (found, _) = self.next.as_ref()?;
            match (*found).cmp(name) {
                Ordering::Less => self.next = None,
                Ordering::Equal => return self.next.as_ref().map(|(_, remembered)| remembered),
                Ordering::Greater => return None,
            }
        }
    }

    fn advance(&mut self) -> Option<()> {
        self.next = Some(self.rest.entry()?);
        self.read += 1;
        Some(())
    }

    /// How many files are remembered, those that were never asked for among them.
    pub(crate) fn count(mut self) -> usize {
        while self.advance().is_some() {}
        self.read
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp {
            secs: self.array().map(i64::from_le_bytes)?,
            nanos: self.u32()?,
        })
    }

    fn entry(&mut self) -> Option<(&'a [u8], Remembered)> {
        let len = self.u16()?;
        let name = self.take(len.into())?;
        let stat = FileStat {
            dev: self.u64()?,
            ino: self.u64()?,
            size: self.u64()?,
            mtime: self.time()?,
            ctime: self.time()?,
            mode: self.u32()?,
        };
        let digest = FileDigest::from_bytes(self.array()?);
        let len = self.u16()?;
        let capability = self.take(len.into())?.to_vec();
        let remembered = Remembered {
            stat,
            digest,
            capability,
        };
        Some((name, remembered))
    }
}

/// Replaces the cache at `path`, of which `last` was read. Directories and the files in them may come in any order.
///
/// # Errors
/// If it cannot be written; then the old one is still there.
pub(crate) fn save(
    path: &Path,
    last: &StatCache,
    mut dirs: Vec<(Vec<u8>, DirStats)>,
) -> io::Result<()> {
    dirs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let (mut index, mut blocks) = (Vec::new(), Vec::new());
    for (dir, stats) in &mut dirs {
        let start = blocks.len();
        match stats {
            DirStats::Same => blocks.extend_from_slice(last.block(dir).unwrap_or_default()),
            DirStats::Files(files) => {
                files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                for (name, remembered) in files {
                    encode(&mut blocks, name, remembered);
                }
            }
        }
        let block = &blocks[start..];
        index.extend((dir.len() as u32).to_le_bytes());
        index.extend_from_slice(dir);
        index.extend((block.len() as u32).to_le_bytes());
        index.extend_from_slice(blake3::hash(block).as_bytes());
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    // Mode 0600, as all that tempfile makes.
    let mut aside = tempfile::Builder::new()
        .prefix(".aside-")
        .tempfile_in(parent)?;
    aside.write_all(MAGIC)?;
    aside.write_all(blake3::hash(&index).as_bytes())?;
    aside.write_all(&(index.len() as u32).to_le_bytes())?;
    aside.write_all(&index)?;
    aside.write_all(&blocks)?;
    aside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn encode(body: &mut Vec<u8>, name: &[u8], remembered: &Remembered) {
    let Remembered {
        stat,
        digest,
        capability,
    } = remembered;
    // Neither a name nor an attribute can be longer: NAME_MAX, XATTR_SIZE_MAX. What is cut off does not match again.
    let text = |body: &mut Vec<u8>, text: &[u8]| {
        let len = text.len().min(u16::MAX.into());
        body.extend((len as u16).to_le_bytes());
        body.extend_from_slice(&text[..len]);
    };
    text(body, name);
    for number in [stat.dev, stat.ino, stat.size] {
        body.extend(number.to_le_bytes());
    }
    for time in [stat.mtime, stat.ctime] {
        body.extend(time.secs.to_le_bytes());
        body.extend(time.nanos.to_le_bytes());
    }
    body.extend(stat.mode.to_le_bytes());
    body.extend_from_slice(digest.as_bytes());
    text(body, capability);
}

#[cfg(test)]
mod t {
    use super::*;

    fn time(secs: i64, nanos: u32) -> Timestamp {
        Timestamp { secs, nanos }
    }

    fn remembered(seed: u8) -> Remembered {
        Remembered {
            stat: FileStat {
                dev: 1,
                ino: u64::from(seed),
                size: 2,
                mtime: time(-5, 6),
                ctime: time(7, 8),
                mode: 0o100_644,
            },
            digest: FileDigest::from_bytes([seed; 32]),
            capability: vec![seed; usize::from(seed % 3)],
        }
    }

    fn files(names: &[&[u8]]) -> DirStats {
        let entry = |(at, name): (usize, &&[u8])| (name.to_vec(), remembered(at as u8));
        DirStats::Files(names.iter().enumerate().map(entry).collect())
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        assert_eq!(StatCache::load(&path).dirs(), 0, "no file");
        let dirs = vec![
            (b"b/c".to_vec(), files(&[b"z", b"a", b"\xff\n"])),
            (b"".to_vec(), files(&[b"x"])),
            (b"b".to_vec(), files(&[])),
        ];
        save(&path, &StatCache::default(), dirs).unwrap();
        let cache = StatCache::load(&path);
        assert_eq!(cache.dirs(), 3);
        let mut below = cache.dir(b"b/c");
        assert_eq!(below.get(b"Z"), None);
        assert_eq!(below.get(b"a"), Some(&remembered(1)));
        assert_eq!(below.get(b"b"), None);
        assert_eq!(below.get(b"z"), Some(&remembered(0)));
        assert_eq!(below.get(b"\xff\n"), Some(&remembered(2)));
        assert_eq!(below.get(b"\xff\xff"), None);
        assert_eq!(cache.dir(b"b/c").count(), 3);
        assert!(cache.dir(b"b").is_empty() && !cache.dir(b"b/c").is_empty());
        assert_eq!(cache.dir(b"").get(b"x"), Some(&remembered(0)));
        assert_eq!(cache.dir(b"b").get(b"x"), None);
        assert_eq!(cache.dir(b"none").get(b"x"), None);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left aside"
        );
    }

    #[test]
    fn what_stayed_the_same_is_saved_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let dirs = vec![
            (b"a".to_vec(), files(&[b"x", b"y"])),
            (b"b".to_vec(), files(&[b"x"])),
        ];
        save(&path, &StatCache::default(), dirs).unwrap();
        let first = std::fs::read(&path).unwrap();
        let last = StatCache::load(&path);
        let both = vec![
            (b"b".to_vec(), DirStats::Same),
            (b"a".to_vec(), DirStats::Same),
        ];
        save(&path, &last, both).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let changed = vec![
            (b"b".to_vec(), DirStats::Same),
            (b"c".to_vec(), files(&[b"y"])),
        ];
        save(&path, &last, changed).unwrap();
        let cache = StatCache::load(&path);
        assert_eq!(cache.dir(b"b").get(b"x"), Some(&remembered(0)));
        assert_eq!(cache.dir(b"c").get(b"y"), Some(&remembered(0)));
        assert!(cache.dir(b"a").is_empty());
    }

    #[test]
    fn what_is_damaged_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let names: &[&[u8]] = &[b"x", b"y"];
        let dirs = [b"a", b"b"].map(|dir| (dir.to_vec(), files(names)));
        save(&path, &StatCache::default(), dirs.into()).unwrap();
        let good = std::fs::read(&path).unwrap();
        for damage in 0..good.len() {
            let mut bad = good.clone();
            bad[damage] ^= 0x10;
            // Another version is another version's affair.
            assert!(
                damage + 1 == MAGIC.len() || is_damaged(&bad),
                "byte {damage}"
            );
            if let Some(cache) = StatCache::parse(bad) {
                let [a, b] = [b"a", b"b"].map(|dir| {
                    let mut found = cache.dir(dir);
                    let both = [found.get(b"x").cloned(), found.get(b"y").cloned()];
                    assert!(
                        both == [None, None] || both == [0, 1].map(|at| Some(remembered(at))),
                        "byte {damage}"
                    );
                    both[0].is_some()
                });
                assert!(a != b, "one block has it: byte {damage}");
            }
            assert!(
                StatCache::parse(good[..damage].to_vec()).is_none(),
                "cut at {damage}"
            );
        }
    }

    #[test]
    fn racy_files() {
        let at = |mtime, ctime| FileStat {
            mtime,
            ctime,
            ..remembered(0).stat
        };
        let started = time(100, 500);
        for (mtime, ctime, racy) in [
            (time(1, 1), time(100, 499), false),
            (time(1, 1), time(100, 500), true),
            (time(1, 1), time(101, 1), true),
            (time(200, 1), time(1, 1), true),
            (time(1, 1), time(98, 1), false),
            (time(1, 1), time(99, 0), true),
            (time(1, 1), time(98, 0), false),
        ] {
            assert_eq!(
                at(mtime, ctime).is_racy(started),
                racy,
                "{mtime:?} {ctime:?}"
            );
        }
    }
}
