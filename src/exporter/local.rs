//! `type=local`: the root file system as a directory of the user's own files.
//!
//! Owners are the user's, as BuildKit's client makes them; modes and times are the image's. What is there already
//! stays unless the image has the same name. Device nodes are left out. Every write goes through a handle of the
//! destination, so that no link of the image leads outside of it.

use std::ffi::OsStr;
use std::io;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use cap_std::fs::OpenOptions;
use cap_std::fs::OpenOptionsExt as _;
use cap_std::fs::Permissions;
use cap_std::fs::PermissionsExt as _;
use rustix::fs::AtFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use rbuild_cache::Entry;
use rbuild_cache::Meta;
use rbuild_cache::Node;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_llb::CancelToken;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::OpenMerged;
use crate::outcome::Delivery;

/// `type=local`.
#[derive(Debug)]
pub struct Local {
    /// The directory.
    pub dest: PathBuf,
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
    };
    write(&writing, &dest)
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
}

impl Exporter for Local {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        for image in export.images {
            let mut dest = self.dest.clone();
            if export.images.len() > 1 {
                dest.push(image.platform.to_string().replace('/', "_"));
            }
            let writing = Writing {
                store: export.store,
                snapshot: &image.snapshot,
                open: export.open,
                cancel: export.cancel,
                wanted: Path::new(""),
                base: Path::new(""),
                rename: None,
            };
            write(&writing, &dest)?;
        }
        Ok(vec![Delivery::Directory {
            path: self.dest.clone(),
        }])
    }
}

fn write(writing: &Writing<'_>, dest: &Path) -> Result<(), ExportError> {
    let fail = |path: &Path| {
        let path = dest.join(path);
        move |source| ExportError::Write { path, source }
    };
    std::fs::create_dir_all(dest).map_err(fail(Path::new("")))?;
    let root = Dir::open_ambient_dir(dest, ambient_authority()).map_err(fail(Path::new("")))?;
    let mut directories: Vec<(PathBuf, Meta)> = Vec::new();
    let mut links: std::collections::BTreeMap<u32, PathBuf> = std::collections::BTreeMap::new();
    let mut result = Ok(());
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
            let at = writing.rename.unwrap_or(at);
            let written = if writing.cancel.is_cancelled() {
                Err(ExportError::Cancelled)
            } else {
                place(writing, &root, at, whole, entry, &mut links)
                    .map_err(|source| fail(at)(source))
            };
            match written {
                Ok(()) => {
                    if matches!(entry.node, Node::Dir(_)) {
                        directories.push((at.to_owned(), entry.meta.clone()));
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    result = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
    result?;
    // Directories last, deepest first: writing into them changes their times, and may need modes they will not have.
    for (path, meta) in directories.iter().rev() {
        let set = |path: &Path| -> io::Result<()> {
            root.set_permissions(path, Permissions::from_mode(meta.mode & 0o7777))?;
            set_times(&root, path, meta)
        };
        set(path).map_err(fail(path))?;
    }
    Ok(())
}

fn place(
    writing: &Writing<'_>,
    root: &Dir,
    path: &Path,
    whole: &Path,
    entry: &Entry,
    links: &mut std::collections::BTreeMap<u32, PathBuf>,
) -> io::Result<()> {
    let there = root.symlink_metadata(path).ok();
    if let Node::Dir(_) = &entry.node {
        return match there {
            Some(there) if there.is_dir() => Ok(()),
            Some(_) => root.remove_file(path).and_then(|()| root.create_dir(path)),
            None => root.create_dir(path),
        };
    }
    match there {
        Some(there) if there.is_dir() => root.remove_dir_all(path)?,
        Some(_) => root.remove_file(path)?,
        None => {}
    }
    match &entry.node {
        Node::File(node) => {
            if let Some(first) = node.link.and_then(|link| links.get(&link)) {
                return root.hard_link(first, root, path);
            }
            let mut from = (writing.open)(writing.snapshot, whole.as_os_str().as_bytes(), node)?;
            let mut to = root.open_with(
                path,
                OpenOptions::new().write(true).create_new(true).mode(0o600),
            )?;
            copy_checked(&mut from, &mut to, node)?;
            to.set_permissions(Permissions::from_mode(entry.meta.mode & 0o7777))?;
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

/// Copies a file, checking that it is the one the tree means.
fn copy_checked(
    from: &mut impl io::Read,
    to: &mut impl io::Write,
    node: &rbuild_cache::FileNode,
) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut from = from.take(node.size + 1);
    loop {
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
