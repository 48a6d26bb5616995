//! The stat cache: what the files of a context hashed to when they looked as they look now.
//!
//! One flat file a context and selection, as git's index, replaced as a whole:
//!
//! ```text
//! magic "rbstat\0" and version          8 bytes
//! BLAKE3 of everything below           32 bytes
//! a block per directory, sorted by path:
//!     path                             u32 length, bytes
//!     length of the rest of the block  u32
//!     an entry per file, sorted by name:
//!         name                         u16 length, bytes
//!         device, inode, size          u64 each
//!         mtime, ctime                 i64 seconds and u32 nanoseconds each
//!         mode                         u32
//!         BLAKE3 of the file           32 bytes
//!         security.capability          u16 length, bytes
//! ```
//!
//! Numbers are little-endian. A file that is damaged, or of another version, is as good as none.
//!
//! An entry is never *racy* (git's word): a file that was changed as late as the scan began may be changed again
//! without its times moving on, so it is not remembered and read again next time.

use std::cmp::Ordering;
use std::io;
use std::io::Write as _;
use std::path::Path;

use rbuild_llb::FileDigest;

use crate::tree::Timestamp;

const MAGIC: &[u8; 8] = b"rbstat\0\x01";

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

/// The files remembered of one directory, by name.
pub(crate) type DirStats = Vec<(Vec<u8>, Remembered)>;

/// A stat cache as it was read.
#[derive(Debug, Default)]
pub(crate) struct StatCache {
    bytes: Vec<u8>,
    /// Where paths and entries are in `bytes`, in the order of the paths.
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    path: std::ops::Range<usize>,
    entries: std::ops::Range<usize>,
}

/// Whether a cache of this version is not as it was written.
pub(crate) fn is_damaged(bytes: &[u8]) -> bool {
    let version = MAGIC.len() - 1;
    match bytes.strip_prefix(&MAGIC[..version]) {
        Some([found, ..]) if *found != MAGIC[version] => false,
        _ => StatCache::parse(bytes.to_vec()).is_none(),
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
        let body = bytes.strip_prefix(MAGIC)?;
        let (sum, body) = body.split_at_checked(blake3::OUT_LEN)?;
        if blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let at = |rest: &[u8]| bytes.len() - rest.len();
        let mut blocks = Vec::new();
        let mut rest = Reader(body);
        while !rest.0.is_empty() {
            let len = rest.u32()? as usize;
            let path = at(rest.0)..at(rest.0) + rest.take(len)?.len();
            let len = rest.u32()? as usize;
            let entries = at(rest.0)..at(rest.0) + rest.take(len)?.len();
            blocks.push(Block { path, entries });
        }
        Some(Self { blocks, bytes })
    }

    /// The files remembered of the directory `path`, in the order of their names.
    pub(crate) fn dir(&self, path: &[u8]) -> Remembering<'_> {
        let found = self
            .blocks
            .binary_search_by(|block| self.bytes[block.path.clone()].cmp(path));
        let entries = found.map_or(0..0, |at| self.blocks[at].entries.clone());
        Remembering {
            rest: Reader(&self.bytes[entries]),
            next: None,
        }
    }

    /// How many files are remembered.
    pub(crate) fn len(&self) -> usize {
        let count = |block: &Block| {
            let mut rest = Reader(&self.bytes[block.entries.clone()]);
            std::iter::from_fn(|| rest.entry()).count()
        };
        self.blocks.iter().map(count).sum()
    }
}

/// Looks names up in a directory, in ascending order.
pub(crate) struct Remembering<'a> {
    rest: Reader<'a>,
    next: Option<(&'a [u8], Remembered)>,
}

impl Remembering<'_> {
    /// What is remembered of `name`, which is not before any name asked for earlier.
    pub(crate) fn get(&mut self, name: &[u8]) -> Option<&Remembered> {
        loop {
            if self.next.is_none() {
                self.next = Some(self.rest.entry()?);
            }
            let (found, _) = self.next.as_ref()?;
            match (*found).cmp(name) {
                Ordering::Less => self.next = None,
                Ordering::Equal => return self.next.as_ref().map(|(_, remembered)| remembered),
                Ordering::Greater => return None,
            }
        }
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

/// Replaces the cache at `path`. Directories and the files in them may come in any order.
///
/// # Errors
/// If it cannot be written; then the old one is still there.
pub(crate) fn save(path: &Path, mut dirs: Vec<(Vec<u8>, DirStats)>) -> io::Result<()> {
    dirs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut body = Vec::new();
    for (dir, files) in &mut dirs {
        files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        body.extend((dir.len() as u32).to_le_bytes());
        body.extend_from_slice(dir);
        let at = body.len();
        body.extend([0; 4]);
        for (name, remembered) in files {
            encode(&mut body, name, remembered);
        }
        let len = (body.len() - at - 4) as u32;
        body[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    // Mode 0600, as all that tempfile makes.
    let mut aside = tempfile::Builder::new()
        .prefix(".aside-")
        .tempfile_in(parent)?;
    aside.write_all(MAGIC)?;
    aside.write_all(blake3::hash(&body).as_bytes())?;
    aside.write_all(&body)?;
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

    #[test]
    fn what_is_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        assert_eq!(StatCache::load(&path).len(), 0, "no file");
        let files = |names: &[&[u8]]| -> DirStats {
            let entry = |(at, name): (usize, &&[u8])| (name.to_vec(), remembered(at as u8));
            names.iter().enumerate().map(entry).collect()
        };
        let dirs = vec![
            (b"b/c".to_vec(), files(&[b"z", b"a", b"\xff\n"])),
            (b"".to_vec(), files(&[b"x"])),
            (b"b".to_vec(), Vec::new()),
        ];
        save(&path, dirs).unwrap();
        let cache = StatCache::load(&path);
        assert_eq!(cache.len(), 4);
        let mut below = cache.dir(b"b/c");
        assert_eq!(below.get(b"Z"), None);
        assert_eq!(below.get(b"a"), Some(&remembered(1)));
        assert_eq!(below.get(b"b"), None);
        assert_eq!(below.get(b"z"), Some(&remembered(0)));
        assert_eq!(below.get(b"\xff\n"), Some(&remembered(2)));
        assert_eq!(below.get(b"\xff\xff"), None);
        assert_eq!(cache.dir(b"").get(b"x"), Some(&remembered(0)));
        assert_eq!(cache.dir(b"b").get(b"x"), None);
        assert_eq!(cache.dir(b"none").get(b"x"), None);

        let good = std::fs::read(&path).unwrap();
        for damage in 0..good.len() {
            let mut bad = good.clone();
            bad[damage] ^= 0x10;
            assert!(StatCache::parse(bad).is_none(), "byte {damage}");
            assert!(
                StatCache::parse(good[..damage].to_vec()).is_none(),
                "cut at {damage}"
            );
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left aside"
        );
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
