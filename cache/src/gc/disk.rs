//! What things take on disk.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use rbuild_llb::TreeId;

use crate::store::Store;
use crate::tree::Entry;
use crate::tree::Follow;
use crate::tree::Node;
use crate::tree::Trees;

/// What is taken for the block of a file system where a directory may not be read.
const BLOCK: u64 = 4096;
/// So few things are not worth a thread.
const FEW: usize = 16;

/// Measures directories; what several names are of counts once.
pub(super) struct Disk<'a> {
    trees: &'a Trees,
    /// Device and inode of files with several names.
    seen: Mutex<HashSet<(u64, u64)>>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            trees: store.trees(),
            seen: Mutex::default(),
        }
    }

    /// What a file or directory takes. What may not be looked into does not count.
    pub(super) fn usage(&self, path: &Path) -> u64 {
        self.below(path, &mut Vec::new())
    }

    /// What the directory forms in `dir` take that were made of the tree `layer`. What may not be looked into (directories
    /// of subordinate ids) counts as the tree says.
    pub(super) fn forms(&self, dir: &Path, layer: Option<&TreeId>) -> u64 {
        let forms = fs::read_dir(dir).into_iter().flatten().flatten();
        let forms = forms.map(|form| {
            let mut closed = Vec::new();
            let seen = self.below(&form.path(), &mut closed);
            let unseen = closed.iter().filter_map(|path| {
                let path = path.strip_prefix(form.path()).ok()?;
                self.told(layer?, path.as_os_str().as_encoded_bytes())
            });
            seen + unseen.sum::<u64>()
        });
        file_usage(dir) + forms.sum::<u64>()
    }

    fn below(&self, path: &Path, closed: &mut Vec<PathBuf>) -> u64 {
        let Ok(found) = fs::symlink_metadata(path) else {
            return 0;
        };
        let own = found.blocks() * 512;
        if !found.is_dir() {
            let first = found.nlink() < 2 || self.is_first(found.dev(), found.ino());
            return if first { own } else { 0 };
        }
        match fs::read_dir(path) {
            Ok(entries) => {
                let entries = entries.flatten();
                let below = entries.map(|entry| self.below(&entry.path(), closed));
                own + below.sum::<u64>()
            }
            Err(_) => {
                closed.push(path.to_owned());
                own
            }
        }
    }

    /// What a tree says that is below a directory.
    fn told(&self, layer: &TreeId, path: &[u8]) -> Option<u64> {
        let found = self.trees.lookup(layer, path, Follow::NotLast).ok()??;
        let tree = self.trees.subtree(&found.entry);
        let mut told = 0;
        let mut add = |path: &[u8], entry: &Entry| {
            told += match &entry.node {
                Node::File(file) => file.size.next_multiple_of(BLOCK),
                Node::Dir(_) if !path.is_empty() => BLOCK,
                _ => 0,
            };
            ControlFlow::Continue(())
        };
        self.trees.walk(&tree.tree, &mut add).ok()?;
        Some(told)
    }

    fn is_first(&self, device: u64, inode: u64) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((device, inode))
    }
}

/// What one file or directory takes by itself.
pub(super) fn file_usage(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512)
}

/// Does something with each of many things, on threads that have ended when this returns: its caller may be about to enter
/// a user namespace.
pub(super) fn side_by_side<T: Sync, R: Send>(
    things: &[T],
    deed: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    if things.len() <= FEW || workers == 1 {
        return things.iter().map(deed).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match things.get(at) {
                Some(thing) => done.push((at, deed(thing))),
                None => return done,
            }
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = running.into_iter().flat_map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
