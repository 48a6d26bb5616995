//! The walk: jobs that list a directory or read files, on one thread or many.

use std::io;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::op::FileModes;
use rbuild_llb::pattern::Above;
use rbuild_llb::pattern::Selection;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::io::Errno;
use rustix::time::ClockId;

use super::ContextError;
use super::ContextFiles;
use super::Scan;
use super::links::Links;
use crate::stat::DirStats;
use crate::stat::FileStat;
use crate::stat::Remembered;
use crate::stat::StatCache;
use crate::tree::DirNode;
use crate::tree::Directory;
use crate::tree::Entry;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::Timestamp;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// Entries looked at, and bytes found that have to be read, before threads are worth starting (about 100 µs each).
const ALONE_ENTRIES: u64 = 1000;
const ALONE_BYTES: u64 = 4 << 20;
/// How much of a directory's reading is one job.
const CHUNK_FILES: usize = 64;
const CHUNK_BYTES: u64 = 1 << 20;
/// More threads only wait for each other in the kernel.
const MAX_THREADS: usize = 16;
const LIST_BUFFER: usize = 32 << 10;
const READ_BUFFER: usize = 128 << 10;

/// What a walk yields.
pub(super) struct Walked {
    pub(super) scan: Scan,
    /// For the next stat cache.
    pub(super) dirs: Vec<(Vec<u8>, DirStats)>,
    /// Files in it that the last one has not.
    pub(super) learnt: u64,
    /// Files that the last one has and it has not, in directories that are still there.
    pub(super) forgotten: u64,
    /// Directories that are still there of those of which the last one has files.
    pub(super) visited: u64,
}

pub(super) fn walk(
    files: &ContextFiles,
    select: &Selection,
    modes: FileModes,
    cache: &StatCache,
    trees: &Trees,
    cancel: &CancelToken,
) -> Result<Walked, ContextError> {
    // The coarse clock is the one that file times are taken from.
    let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    let walk = Walk {
        files,
        select,
        modes,
        cache,
        trees,
        cancel,
        started: Timestamp {
            secs: now.tv_sec,
            nanos: now.tv_nsec as u32,
        },
        counts: Counts::default(),
        links: Links::default(),
        done: Mutex::default(),
    };
    let root = Arc::new(Dir {
        parent: None,
        path: Vec::new(),
        meta: Meta {
            mode: 0o755,
            ..Meta::default()
        },
        selected: true,
        above: Above::default(),
        pending: AtomicUsize::new(1),
        gathered: Mutex::default(),
    });
    walk.run_all(Job::List(root));
    let Walk {
        counts,
        links,
        done,
        ..
    } = walk;
    let done = done.into_inner().expect("no job panics");
    if cancel.is_cancelled() {
        return Err(ContextError::Cancelled {
            path: files.display(b""),
        });
    }
    if let Some(problem) = Problem::first(done.problems, files) {
        return Err(problem);
    }
    let tree = done.tree.expect("the root was finished last");
    let tree = links.put_into(tree, trees)?;
    Ok(Walked {
        scan: Scan {
            tree,
            files: counts.files.into_inner(),
            bytes: counts.bytes.into_inner(),
            read: counts.read.into_inner(),
        },
        dirs: done.dirs,
        learnt: counts.learnt.into_inner(),
        forgotten: counts.forgotten.into_inner(),
        visited: counts.visited.into_inner(),
    })
}

struct Walk<'a> {
    files: &'a ContextFiles,
    select: &'a Selection,
    modes: FileModes,
    cache: &'a StatCache,
    trees: &'a Trees,
    cancel: &'a CancelToken,
    started: Timestamp,
    counts: Counts,
    links: Links,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Counts {
    entries: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    read: AtomicU64,
    learnt: AtomicU64,
    forgotten: AtomicU64,
    visited: AtomicU64,
}

impl Counts {
    /// Counts files; not one by one where there are many, for all threads count here.
    fn found(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Done {
    tree: Option<TreeRef>,
    dirs: Vec<(Vec<u8>, DirStats)>,
    /// Files with more than one name.
    problems: Vec<Problem>,
}

/// Something that is wrong with a path.
struct Problem {
    path: Vec<u8>,
    /// `None`: the file keeps changing.
    error: Option<Errno>,
}

impl Problem {
    /// The first in the order of paths, whichever thread came upon it when.
    fn first(mut problems: Vec<Self>, files: &ContextFiles) -> Option<ContextError> {
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        let more = problems.len().saturating_sub(1);
        let Self { path, error } = problems.into_iter().next()?;
        let path = files.display(&path);
        Some(match error {
            None => ContextError::Changing { path, more },
            Some(error @ (Errno::ACCESS | Errno::PERM)) => ContextError::Unreadable {
                path,
                more,
                source: error.into(),
            },
            Some(error) => ContextError::Io {
                path,
                more,
                source: error.into(),
            },
        })
    }
}

/// A directory whose entries are being gathered.
struct Dir {
    parent: Option<Arc<Dir>>,
    path: Vec<u8>,
    meta: Meta,
    selected: bool,
    above: Above,
    /// Jobs that still have something to add, its own listing included.
    pending: AtomicUsize,
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    entries: Vec<Entry>,
    stats: Vec<(Vec<u8>, Remembered)>,
    /// All that is to be remembered is what the last stat cache has.
    same: bool,
}

impl Gathered {
    /// Most directories are gathered by one job, so that there is nothing to copy.
    fn add(&mut self, mut more: Self) {
        if self.entries.is_empty() && self.stats.is_empty() {
            *self = more;
        } else {
            self.entries.append(&mut more.entries);
            self.stats.append(&mut more.stats);
            self.same |= more.same;
        }
    }
}

impl Dir {
    fn below(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        if !self.path.is_empty() {
            path.extend_from_slice(&self.path);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().expect("no job panics")
    }
}

enum Job {
    List(Arc<Dir>),
    Read {
        dir: Arc<Dir>,
        names: Vec<Vec<u8>>,
        bytes: u64,
    },
}

impl Walk<'_> {
    /// Runs a job and all that follow from it.
    fn run_all(&self, first: Job) {
        let mut lists = vec![first];
        let mut reads = Vec::new();
        while let Some(job) = lists.pop() {
            self.run(job, &mut |job| match job {
                Job::List(_) => lists.push(job),
                Job::Read { .. } => reads.push(job),
            });
            if self.counts.entries.load(Ordering::Relaxed) > ALONE_ENTRIES {
                break;
            }
        }
        let bytes: u64 = reads.iter().map(Job::bytes).sum();
        let little = lists.is_empty() && bytes < ALONE_BYTES && reads.len() < CHUNK_FILES;
        reads.append(&mut lists);
        if little {
            return self.run_here(reads);
        }
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        if threads == 1 {
            return self.run_here(reads);
        }
        let jobs = Mutex::new(reads);
        let take = || std::mem::take(&mut *jobs.lock().expect("no job panics"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.min(MAX_THREADS));
        let ran = pool.build_scoped(rayon::ThreadBuilder::run, |pool| {
            pool.scope(|scope| {
                for job in take() {
                    scope.spawn(move |scope| self.run_in(scope, job));
                }
            });
        });
        if ran.is_err() {
            // No threads to be had (RLIMIT_NPROC, pids.max): it works without.
            self.run_here(take());
        }
    }

    fn run_here(&self, mut jobs: Vec<Job>) {
        while let Some(job) = jobs.pop() {
            self.run(job, &mut |job| jobs.push(job));
        }
    }

    fn run_in<'s>(&'s self, scope: &rayon::Scope<'s>, job: Job) {
        self.run(job, &mut |job| {
            scope.spawn(move |scope| self.run_in(scope, job));
        });
    }

    fn run(&self, job: Job, more: &mut dyn FnMut(Job)) {
        let dir = match job {
            _ if self.cancel.is_cancelled() => return,
            Job::List(dir) => {
                self.list(&dir, more);
                dir
            }
            Job::Read { dir, names, .. } => {
                self.read(&dir, names);
                dir
            }
        };
        self.finish(dir);
    }

    /// The permission bits that count.
    fn mode(&self, mode: u32) -> u32 {
        match (self.modes, FileType::from_raw_mode(mode)) {
            (FileModes::Git, FileType::Directory) => 0o755,
            (FileModes::Git, FileType::RegularFile) if mode & 0o100 == 0 => 0o644,
            (FileModes::Git, FileType::RegularFile) => 0o755,
            _ => mode & 0o7777,
        }
    }

    fn problem(&self, path: Vec<u8>, error: Option<Errno>) {
        let mut done = self.done.lock().expect("no job panics");
        done.problems.push(Problem { path, error });
    }

    /// Takes note that a job of `dir` has ended. The last one puts the directory into the one above.
    fn finish(&self, mut dir: Arc<Dir>) {
        while dir.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let Gathered {
                mut entries,
                stats,
                same,
            } = std::mem::take(&mut *dir.gathered());
            let empty = entries.is_empty();
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            let tree = (dir.selected || !empty).then(|| self.trees.put(Directory { entries }));
            let mut done = self.done.lock().expect("no job panics");
            if same {
                done.dirs.push((dir.path.clone(), DirStats::Same));
            } else if !stats.is_empty() {
                done.dirs.push((dir.path.clone(), DirStats::Files(stats)));
            }
            let Some(parent) = &dir.parent else {
                let tree = tree.expect("the root is always selected");
                done.tree = Some(self.trees.put_root(dir.meta.clone(), DirNode::of(tree)));
                return;
            };
            drop(done);
            if let Some(tree) = tree {
                let slash = dir.path.iter().rposition(|b| *b == b'/');
                parent.gathered().entries.push(Entry {
                    name: dir.path[slash.map_or(0, |at| at + 1)..].to_vec(),
                    meta: dir.meta.clone(),
                    node: Node::Dir(DirNode::of(tree)),
                });
            }
            dir = Arc::clone(parent);
        }
    }

    /// Lists a directory: what is known is added, what has to be read or listed becomes a job.
    fn list(&self, dir: &Arc<Dir>, more: &mut dyn FnMut(Job)) {
        let listed = self.files.open_dir(&dir.path).and_then(|fd| {
            let names = names(fd.as_fd())?;
            Ok((fd, names))
        });
        let (fd, names) = match listed {
            Ok(listed) => listed,
            // Removed meanwhile; or in the way of an exception below an excluded directory, which does not make it wanted.
            Err(Errno::NOENT) => return,
            Err(Errno::ACCESS) if !dir.selected => return,
            Err(error) => return self.problem(dir.path.clone(), Some(error)),
        };
        self.counts
            .entries
            .fetch_add(names.len() as u64, Ordering::Relaxed);
        let mut remembered = self.cache.dir(&dir.path);
        let is_visited = !remembered.is_empty();
        let mut unread = Unread::default();
        let mut gathered = Gathered {
            entries: Vec::with_capacity(names.len()),
            ..Gathered::default()
        };
        let (mut known, mut bytes) = (0, 0);
        for (name, kind) in names {
            match self.entry(dir, fd.as_fd(), &name, kind, more) {
                Ok(Seen::Nothing) => {}
                Ok(Seen::Node(meta, node)) => gathered.entries.push(Entry { name, meta, node }),
                Ok(Seen::File(stat)) => match remembered.get(&name) {
                    Some(file) if file.stat == stat && !stat.is_racy(self.started) => {
                        known += 1;
                        bytes += stat.size;
                        gathered.entries.push(self.file(name, file));
                    }
                    _ => unread.push(name, stat.size, |names, bytes| {
                        more(self.reading(dir, names, bytes));
                    }),
                },
                Err(Errno::NOENT) => {}
                Err(error) => self.problem(dir.below(&name), Some(error)),
            }
        }
        let nothing_to_read = unread.count == 0;
        if !unread.names.is_empty() {
            more(self.reading(dir, unread.names, unread.bytes));
        }
        self.counts.found(known, bytes);
        if is_visited {
            let forgotten = remembered.count() as u64 - known;
            gathered.same = nothing_to_read && forgotten == 0;
            self.counts.visited.fetch_add(1, Ordering::Relaxed);
            self.counts
                .forgotten
                .fetch_add(forgotten, Ordering::Relaxed);
            if !gathered.same {
                gathered.stats = self.still_known(&dir.path, &gathered.entries);
            }
        }
        dir.gathered().add(gathered);
    }

    /// What is remembered of the files of a directory whose entries were made of it.
    fn still_known(&self, dir: &[u8], entries: &[Entry]) -> Vec<(Vec<u8>, Remembered)> {
        let mut remembered = self.cache.dir(dir);
        let files = entries
            .iter()
            .filter(|entry| matches!(entry.node, Node::File(_)));
        let known = files.filter_map(|entry| {
            let file = remembered.get(&entry.name)?.clone();
            Some((entry.name.clone(), file))
        });
        known.collect()
    }

    fn reading(&self, dir: &Arc<Dir>, names: Vec<Vec<u8>>, bytes: u64) -> Job {
        dir.pending.fetch_add(1, Ordering::Relaxed);
        Job::Read {
            dir: Arc::clone(dir),
            names,
            bytes,
        }
    }

    /// Looks at one name in a directory.
    fn entry(
        &self,
        dir: &Arc<Dir>,
        fd: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
        more: &mut dyn FnMut(Job),
    ) -> Result<Seen, Errno> {
        // Not every file system tells the kind while listing.
        let known = kind != FileType::Unknown;
        let all = self.select.is_all();
        let path;
        let text = if all {
            "".into()
        } else {
            path = dir.below(name);
            String::from_utf8_lossy(&path)
        };
        if known && kind != FileType::Directory && !all && !self.select.file(&text, &dir.above) {
            return Ok(Seen::Nothing);
        }
        let decision = |kind| {
            (kind == FileType::Directory && !all).then(|| self.select.dir(&text, &dir.above))
        };
        let early = decision(kind);
        if early.as_ref().is_some_and(|decision| !decision.descend) {
            return Ok(Seen::Nothing);
        }
        let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let now = FileType::from_raw_mode(stat.st_mode);
        let meta = Meta {
            mode: self.mode(stat.st_mode),
            mtime: file_stat(&stat).mtime,
            ..Meta::default()
        };
        if now == FileType::Directory {
            let decision = early.or_else(|| decision(now));
            let (selected, descend, above) = match decision {
                Some(decision) => (decision.selected, decision.descend, decision.above),
                None => (true, true, Above::default()),
            };
            if descend {
                dir.pending.fetch_add(1, Ordering::Relaxed);
                more(Job::List(Arc::new(Dir {
                    parent: Some(Arc::clone(dir)),
                    path: dir.below(name),
                    meta,
                    selected,
                    above,
                    pending: AtomicUsize::new(1),
                    gathered: Mutex::default(),
                })));
            }
            return Ok(Seen::Nothing);
        }
        if (!known || kind == FileType::Directory) && !all && !self.select.file(&text, &dir.above) {
            return Ok(Seen::Nothing);
        }
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        Ok(match now {
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    self.links.note(stat.st_dev, stat.st_ino, dir.below(name));
                }
                Seen::File(file_stat(&stat))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, name, Vec::new())?.into_bytes();
                Seen::Node(meta, Node::Symlink { target })
            }
            FileType::Fifo => Seen::Node(meta, Node::Fifo),
            FileType::CharacterDevice => Seen::Node(meta, Node::Char { major, minor }),
            FileType::BlockDevice => Seen::Node(meta, Node::Block { major, minor }),
            _ => Seen::Nothing,
        })
    }

    fn file(&self, name: Vec<u8>, file: &Remembered) -> Entry {
        let Remembered {
            stat,
            digest,
            capability,
        } = file;
        let mut meta = Meta {
            mode: self.mode(stat.mode),
            mtime: stat.mtime,
            ..Meta::default()
        };
        if !capability.is_empty() {
            meta.xattrs.insert(CAPABILITY.into(), capability.clone());
        }
        Entry {
            name,
            meta,
            node: Node::File(FileNode {
                size: stat.size,
                digest: *digest,
                link: None,
            }),
        }
    }

    /// Reads files of a directory.
    fn read(&self, dir: &Dir, names: Vec<Vec<u8>>) {
        let fd = match self.files.open_dir(&dir.path) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return,
            Err(error) => return self.problem(dir.path.clone(), Some(error)),
        };
        let mut buffer = vec![0; READ_BUFFER];
        let mut gathered = Gathered::default();
        for name in names {
            if self.cancel.is_cancelled() {
                return;
            }
            match read_file(fd.as_fd(), &name, &mut buffer) {
                Ok(Some(file)) => {
                    self.counts.read.fetch_add(1, Ordering::Relaxed);
                    self.counts.found(1, file.stat.size);
                    gathered.entries.push(self.file(name.clone(), &file));
                    if !file.stat.is_racy(self.started) {
                        self.counts.learnt.fetch_add(1, Ordering::Relaxed);
                        gathered.stats.push((name, file));
                    }
                }
                Ok(None) => self.problem(dir.below(&name), None),
                Err(Errno::NOENT) => {}
                Err(error) => self.problem(dir.below(&name), Some(error)),
            }
        }
        dir.gathered().add(gathered);
    }
}

const CAPABILITY: &str = "security.capability";

/// What a name turned out to be.
enum Seen {
    /// Not wanted, or its own job.
    Nothing,
    Node(Meta, Node),
    File(FileStat),
}

/// Files that have to be read, cut into jobs.
#[derive(Default)]
struct Unread {
    names: Vec<Vec<u8>>,
    bytes: u64,
    /// All there were so far.
    count: usize,
}

impl Unread {
    fn push(&mut self, name: Vec<u8>, size: u64, full: impl FnOnce(Vec<Vec<u8>>, u64)) {
        self.names.push(name);
        self.bytes += size;
        self.count += 1;
        if self.names.len() == CHUNK_FILES || self.bytes >= CHUNK_BYTES {
            let names = std::mem::take(&mut self.names);
            full(names, std::mem::take(&mut self.bytes));
        }
    }
}

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Self::List(_) => 0,
            Self::Read { bytes, .. } => *bytes,
        }
    }
}

/// The names in a directory with their kinds, sorted.
fn names(fd: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); LIST_BUFFER];
    let mut list = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = list.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

fn file_stat(stat: &rustix::fs::Stat) -> FileStat {
    let time = |secs: i64, nanos| Timestamp {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    };
    FileStat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        mode: stat.st_mode,
    }
}

/// Hashes a file; `None` if it was written to meanwhile, twice.
fn read_file(
    dir: BorrowedFd<'_>,
    name: &[u8],
    buffer: &mut [u8],
) -> Result<Option<Remembered>, Errno> {
    for _ in 0..2 {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            // A symbolic link has taken its place.
            Err(Errno::LOOP) => continue,
            Err(error) => return Err(error),
        };
        let before = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            continue;
        }
        let capability = capability(fd.as_fd())?;
        let mut file = std::fs::File::from(fd);
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        let stat = file_stat(&before);
        if size == stat.size && file_stat(&rustix::fs::fstat(&file)?) == stat {
            return Ok(Some(Remembered {
                stat,
                digest: FileDigest::from_bytes(*hasher.finalize().as_bytes()),
                capability,
            }));
        }
    }
    Ok(None)
}

fn capability(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    // `struct vfs_ns_cap_data` has 24 bytes.
    let mut value = [0_u8; 64];
    match rustix::fs::fgetxattr(fd, CAPABILITY, &mut value) {
        Ok(len) => Ok(value[..len].to_vec()),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
