//! Scanning a build context: which files are selected, what they hash to, and the tree they make.
//!
//! Owners are dropped (everything is root's, as with BuildKit's filesync), modes and times stay as they are on disk, symbolic
//! and hard links stay links, pipes and devices are kept as such, sockets are left out. Of the extended attributes only `security.capability` is
//! content: the others (`user.xdg.origin.url`, `com.apple.…`) come from whoever's machine it is. The root itself is always
//! 0755 of time 0.
//!
//! A directory stands in the tree if it is selected, or if something in it is.
//!
//! The work is a walk by directory handle and stat(2); a file is read only if the stat cache does not know it.
//! Small contexts are walked on the calling thread. Larger ones get threads that have ended when [`scan_context`] returns: its caller
//! may be about to enter a user namespace, which a process with a second thread cannot.

mod files;
mod links;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::path::Path;
use std::path::PathBuf;

pub use files::ContextFiles;
pub(crate) use files::name_by_name;
use rbuild_llb::CancelToken;
use rbuild_llb::op::FileModes;
use rbuild_llb::pattern::Selection;

use crate::stat;
use crate::stat::StatCache;
use crate::tree::TreeError;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// A file system whose `/` is the context.
    pub tree: TreeRef,
    /// Selected regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them had to be read.
    pub read: u64,
}

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Its directory cannot be opened.
    #[error("cannot open the context `{}`", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The user may not read something that is selected.
    #[error("`{}` cannot be read{}: add it to `.dockerignore` if the build does not need it", path.display(), and_more(*more))]
    Unreadable {
        /// The file or directory; the first in order.
        path: PathBuf,
        /// How many others there are.
        more: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file was written to while it was read, twice.
    #[error("`{}` is changing while it is read{}: wait for what writes to it, or add it to `.dockerignore`", path.display(), and_more(*more))]
    Changing {
        /// The file; the first in order.
        path: PathBuf,
        /// How many other files there is something wrong with.
        more: usize,
    },
    /// Reading failed otherwise.
    #[error("cannot read `{}`{}", path.display(), and_more(*more))]
    Io {
        /// The file or directory; the first in order.
        path: PathBuf,
        /// How many other files there is something wrong with.
        more: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled.
    #[error("cancelled while reading the context `{}`", path.display())]
    Cancelled {
        /// The context.
        path: PathBuf,
    },
    /// The tree of what was found.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

fn and_more(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    }
}

impl ContextError {
    /// Whether it is for the user to mend the context, rather than the machine's fault.
    pub fn is_request(&self) -> bool {
        match self {
            Self::Root { .. } | Self::Unreadable { .. } | Self::Changing { .. } => true,
            Self::Io { .. } | Self::Tree(_) | Self::Cancelled { .. } => false,
        }
    }
}

/// Scans the selected part of the directory `root` into `trees`. `stats` is the file of its stat cache, which is replaced if
/// anything in it changed; that it cannot be is no error, since all it does is to save time.
///
/// # Errors
/// If something that is selected cannot be read. All is looked at before, and the first in order is named.
pub fn scan_context(
    root: &Path,
    select: &Selection,
    modes: FileModes,
    stats: &Path,
    trees: &Trees,
    cancel: &CancelToken,
) -> Result<Scan, ContextError> {
    let files = ContextFiles::open_root(root)?;
    let cache = StatCache::load(stats);
    let walked = walk::walk(&files, select, modes, &cache, trees, cancel)?;
    if walked.learnt > 0 || walked.forgotten > 0 || walked.visited as usize != cache.dirs() {
        drop(stat::save(stats, &cache, walked.dirs));
    }
    Ok(walked.scan)
}
