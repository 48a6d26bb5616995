//! `type=local`: the root file system as a directory of the user's own files.
//!
//! Owners are the user's, as BuildKit's client makes them; modes and times are the image's, or all times are
//! SOURCE_DATE_EPOCH. What is there already stays unless the image has the same name, or all of it goes with
//! `mode=delete`. Device nodes are left out. Every write goes through a handle of the destination, so that no link of the
//! image leads outside of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use cap_std::fs::File;
use cap_std::fs::OpenOptions;
use cap_std::fs::OpenOptionsExt as _;
use cap_std::fs::Permissions;
use cap_std::fs::PermissionsExt as _;
use rustix::fs::AtFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use rbuild_cache::DirNode;
use rbuild_cache::Entry;
use rbuild_cache::Meta;
use rbuild_cache::Node;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::Timestamp;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::OpenMerged;
use super::Root;
use crate::outcome::Delivery;

/// `type=local`.
#[derive(Debug)]
pub struct Local {
    /// The directory.
    pub dest: PathBuf,
    /// A directory for each platform; `None` for one if it is written as for several.
    pub split: Option<bool>,
    /// Delete what no platform has.
    pub delete: bool,
}

/// Writes a file, or what a directory holds, of a snapshot. A file keeps its name if `to` ends with a slash or is a
/// directory.
///
/// # Errors
/// If it is not there, is no file and no directory, or cannot be written.
pub fn extract(
    store: &Store,
    snapshot: &Snapshot,
    open: &OpenMerged<'_>,
    path: &Path,
    to: &Path,
    cancel: &CancelToken,
) -> Result<(), ExportError> {
    let wanted = path.strip_prefix("/").unwrap_or(path);
    let directory = to.as_os_str().as_bytes().ends_with(b"/") || to.is_dir();
    let found = find(store, snapshot, wanted)?;
    let (dest, base): (PathBuf, PathBuf) = match found {
        None => {
            return Err(ExportError::NotInStep {
                path: path.to_owned(),
            });
        }
        Some(Kind::Directory) => (to.to_owned(), wanted.to_owned()),
        Some(Kind::Other) if directory => (
            to.to_owned(),
            wanted.parent().unwrap_or(Path::new("")).to_owned(),
        ),
        Some(Kind::Other) => {
            let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).to_owned();
            (parent, wanted.parent().unwrap_or(Path::new("")).to_owned())
        }
    };
    let rename = match found {
        Some(Kind::Other) if !directory => to.file_name().map(PathBuf::from),
        _ => None,
    };
    let writing = Writing {
        store,
        snapshot,
        open,
        cancel,
        wanted,
        base: &base,
        rename: rename.as_deref(),
        epoch: None,
        below: Path::new(""),
    };
    write(&[writing], &dest, false)
}

/// Whether a snapshot has something at a path.
///
/// # Errors
/// If its tree cannot be read.
pub fn holds(store: &Store, snapshot: &Snapshot, path: &Path) -> Result<bool, ExportError> {
    let wanted = path.strip_prefix("/").unwrap_or(path);
    Ok(find(store, snapshot, wanted)?.is_some())
}

/// What is at the path that is to be written.
#[derive(Clone, Copy)]
enum Kind {
    Directory,
    Other,
}

fn find(store: &Store, snapshot: &Snapshot, wanted: &Path) -> Result<Option<Kind>, ExportError> {
    if wanted.as_os_str().is_empty() {
        return Ok(Some(Kind::Directory));
    }
    let mut found = None;
    store
        .trees()
        .walk(&snapshot.root.tree, &mut |path, entry| {
            if path == wanted.as_os_str().as_bytes() {
                found = Some(match entry.node {
                    Node::Dir(_) => Kind::Directory,
                    _ => Kind::Other,
                });
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
    Ok(found)
}

/// What is written of a snapshot.
struct Writing<'a> {
    store: &'a Store,
    snapshot: &'a Snapshot,
    open: &'a OpenMerged<'a>,
    cancel: &'a CancelToken,
    /// Only this, and what is below; empty for all.
    wanted: &'a Path,
    /// Paths are written as they are from here.
    base: &'a Path,
    /// The new name of the only file.
    rename: Option<&'a Path>,
    /// The time of everything, Unix seconds.
    epoch: Option<i64>,
    /// The directory for it in the destination; empty for that itself.
    below: &'a Path,
}

impl Exporter for Local {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let split = self.split.unwrap_or(export.several);
        if !split && export.roots.len() > 1 {
            no_overlap(export)?;
        }
        let directory = |root: &Root| match split {
            true => PathBuf::from(root.directory()),
            false => PathBuf::new(),
        };
        let directories: Vec<PathBuf> = export.roots.iter().map(directory).collect();
        let writings = export.roots.iter().zip(&directories);
        let writings: Vec<Writing<'_>> = writings
            .map(|(root, below)| Writing {
                store: export.store,
                snapshot: &root.snapshot,
                open: export.open,
                cancel: export.cancel,
                wanted: Path::new(""),
                base: Path::new(""),
                rename: None,
                epoch: export.epoch,
                below,
            })
            .collect();
        write(&writings, &self.dest, self.delete)?;
        Ok(vec![Delivery::Directory {
            path: self.dest.clone(),
        }])
    }
}

/// Makes sure that platforms which share a directory share no name in it but those of directories.
fn no_overlap(export: &Export<'_>) -> Result<(), ExportError> {
    let mut seen: BTreeMap<Vec<u8>, (&Platform, bool)> = BTreeMap::new();
    for root in export.roots {
        let mut overlap = None;
        let tree = &root.snapshot.root.tree;
        export.store.trees().walk(tree, &mut |path, entry| {
            let is_dir = matches!(entry.node, Node::Dir(_));
            match seen.insert(path.to_vec(), (&root.platform, is_dir)) {
                Some((first, was_dir)) if !(was_dir && is_dir) => {
                    overlap = Some((first, PathBuf::from(OsStr::from_bytes(path))));
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        })?;
        if let Some((first, path)) = overlap {
            return Err(ExportError::Overlap {
                path,
                first: Box::new(first.clone()),
                second: Box::new(root.platform.clone()),
            });
        }
    }
    Ok(())
}

/// What was put into a directory.
#[derive(Default)]
struct Placed {
    /// With what they are to be like when nothing is written any more.
    directories: Vec<(PathBuf, Meta)>,
    all: BTreeSet<PathBuf>,
}

fn write(writings: &[Writing<'_>], dest: &Path, delete: bool) -> Result<(), ExportError> {
    let fail = |path: &Path| {
        let path = dest.join(path);
        move |source| ExportError::Write { path, source }
    };
    std::fs::create_dir_all(dest).map_err(fail(Path::new("")))?;
    let root = Dir::open_ambient_dir(dest, ambient_authority()).map_err(fail(Path::new("")))?;
    let mut placed = Placed::default();
    for writing in writings {
        place_all(writing, &root, dest, &mut placed)?;
    }
    if delete {
        prune(&root, Path::new(""), &placed.all).map_err(|(path, source)| fail(&path)(source))?;
    }
    // Directories last, deepest first: writing into them changes their times, and may need modes they will not have.
    for (path, meta) in placed.directories.iter().rev() {
        let set = |path: &Path| -> io::Result<()> {
            root.set_permissions(path, Permissions::from_mode(meta.mode & 0o7777))?;
            set_times(&root, path, meta)
        };
        set(path).map_err(fail(path))?;
    }
    Ok(())
}

/// Writes one file system.
fn place_all(
    writing: &Writing<'_>,
    root: &Dir,
    dest: &Path,
    placed: &mut Placed,
) -> Result<(), ExportError> {
    let fail = |path: &Path| {
        let path = dest.join(path);
        move |source| ExportError::Write { path, source }
    };
    let mut links: BTreeMap<u32, PathBuf> = BTreeMap::new();
    let mut result = Ok(());
    let mut put = |at: &Path, whole: &Path, entry: &Entry| {
        if writing.cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        let at = writing.below.join(at);
        let mut entry = entry.clone();
        if let Some(epoch) = writing.epoch {
            entry.meta.mtime = Timestamp {
                secs: epoch,
                nanos: 0,
            };
        }
        place(writing, root, &at, whole, &entry, &mut links).map_err(|error| {
            match writing.cancel.is_cancelled() {
                true => ExportError::Cancelled,
                false => fail(&at)(error),
            }
        })?;
        if matches!(entry.node, Node::Dir(_)) {
            placed.directories.push((at.clone(), entry.meta));
        }
        placed.all.insert(at);
        Ok(())
    };
    if writing.below != Path::new("") {
        // As BuildKit makes them.
        let directory = Entry {
            name: Vec::new(),
            meta: Meta {
                mode: 0o755,
                ..Meta::default()
            },
            node: Node::Dir(DirNode::of(writing.snapshot.root)),
        };
        put(Path::new(""), Path::new(""), &directory)?;
    }
    writing
        .store
        .trees()
        .walk(&writing.snapshot.root.tree, &mut |path, entry| {
            let whole = Path::new(OsStr::from_bytes(path));
            let Ok(at) = whole.strip_prefix(writing.base) else {
                return ControlFlow::Continue(());
            };
            if at.as_os_str().is_empty() || !whole.starts_with(writing.wanted) {
                return ControlFlow::Continue(());
            }
            match put(writing.rename.unwrap_or(at), whole, entry) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
    result
}

/// Deletes what is in a directory, and below, and was not put there.
fn prune(root: &Dir, at: &Path, kept: &BTreeSet<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| (path, source)
    };
    let entries = match at.as_os_str().is_empty() {
        true => root.entries(),
        false => root.read_dir(at),
    };
    for entry in entries.map_err(fail(at))? {
        let entry = entry.map_err(fail(at))?;
        let path = at.join(entry.file_name());
        let is_dir = entry.file_type().map_err(fail(&path))?.is_dir();
        match (kept.contains(&path), is_dir) {
            (true, true) => prune(root, &path, kept)?,
            (true, false) => {}
            (false, true) => root.remove_dir_all(&path).map_err(fail(&path))?,
            (false, false) => root.remove_file(&path).map_err(fail(&path))?,
        }
    }
    Ok(())
}

fn place(
    writing: &Writing<'_>,
    root: &Dir,
    path: &Path,
    whole: &Path,
    entry: &Entry,
    links: &mut BTreeMap<u32, PathBuf>,
) -> io::Result<()> {
    let there = root.symlink_metadata(path).ok();
    if let Node::Dir(_) = &entry.node {
        return match there {
            // An earlier export may have left it without the right to write in it.
            Some(there) if there.is_dir() => match there.permissions().mode() & 0o700 {
                0o700 => Ok(()),
                _ => root.set_permissions(path, Permissions::from_mode(0o700)),
            },
            Some(_) => root.remove_file(path).and_then(|()| root.create_dir(path)),
            None => root.create_dir(path),
        };
    }
    let first = match &entry.node {
        Node::File(node) => node.link.and_then(|link| links.get(&link)),
        _ => None,
    };
    let copied = matches!(entry.node, Node::File(_)) && first.is_none();
    match &there {
        Some(there) if there.is_dir() => root.remove_dir_all(path)?,
        // What is there stays until what is copied is whole.
        Some(_) if !copied => root.remove_file(path)?,
        _ => {}
    }
    match &entry.node {
        Node::File(node) => {
            if let Some(first) = first {
                return root.hard_link(first, root, path);
            }
            let mut from = (writing.open)(writing.snapshot, whole.as_os_str().as_bytes(), node)?;
            // What one call writes may as well be written where it belongs.
            let (mut to, new) = match there.is_some() || node.size > BUFFER as u64 {
                true => aside(root, path)?,
                false => (root.open_with(path, &created())?, path.to_owned()),
            };
            let mut copy = || {
                copy_checked(&mut from, &mut to, node, writing.cancel)?;
                to.set_permissions(Permissions::from_mode(entry.meta.mode & 0o7777))?;
                match new == path {
                    true => Ok(()),
                    false => root.rename(&new, root, path),
                }
            };
            if let Err(error) = copy() {
                drop(root.remove_file(&new));
                return Err(error);
            }
            if let Some(link) = node.link {
                links.insert(link, path.to_owned());
            }
        }
        Node::Symlink { target } => root.symlink_contents(OsStr::from_bytes(target), path)?,
        Node::Fifo => {
            let mode = rustix::fs::Mode::from_raw_mode(entry.meta.mode & 0o7777);
            rustix::fs::mknodat(root, path, rustix::fs::FileType::Fifo, mode, 0)?;
        }
        Node::Dir(_) | Node::Char { .. } | Node::Block { .. } | Node::Whiteout => return Ok(()),
    }
    set_times(root, path, &entry.meta)
}

/// What a file is copied through.
const BUFFER: usize = 1 << 16;

fn created() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

/// A new file beside the one that it is to become, with a name that nothing has. Another build may write there as well.
fn aside(root: &Dir, path: &Path) -> io::Result<(File, PathBuf)> {
    for attempt in 0.. {
        let name = format!(".rbuild-{}-{attempt}", std::process::id());
        let new = path.with_file_name(name);
        match root.open_with(&new, &created()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return Ok((opened?, new)),
        }
    }
    unreachable!("there are more numbers than files")
}

/// Copies a file, checking that it is the one the tree means.
fn copy_checked(
    from: &mut impl io::Read,
    to: &mut impl io::Write,
    node: &rbuild_cache::FileNode,
    cancel: &CancelToken,
) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    let mut from = from.take(node.size + 1);
    loop {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
    if hasher.finalize().as_bytes() != node.digest.as_bytes() {
        return Err(io::Error::other("it changed while the build was running"));
    }
    to.flush()
}

fn set_times(root: &Dir, path: &Path, meta: &Meta) -> io::Result<()> {
    let time = Timespec {
        tv_sec: meta.mtime.secs,
        tv_nsec: meta.mtime.nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        root,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
