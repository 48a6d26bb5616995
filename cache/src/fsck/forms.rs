//! Directory forms, compared with their trees.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rbuild_llb::FileDigest;
use rbuild_llb::TreeId;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::Fsck;
use super::Remedy;
use super::is_hex;
use super::name;
use crate::file;
use crate::store::StoreError;
use crate::tree::Entry;
use crate::tree::Node;
use crate::tree::TreeError;

/// Why a form is not what its tree says.
enum Differs {
    /// What, at which path.
    Entry(Vec<u8>, String),
    /// It may not be looked into.
    Closed,
    /// The tree is not to be had.
    Tree,
}

impl Fsck<'_> {
    pub(super) fn forms(&mut self) -> Result<(), StoreError> {
        for path in file::below(&self.path("layers"), 2)? {
            let layer = name(&path);
            let shard = path.parent().map(name).unwrap_or_default();
            let id = layer.parse::<TreeId>().ok();
            let Some(id) = id.filter(|_| is_hex(&layer) && layer.starts_with(&shard)) else {
                self.wrong(&path, "has a name nothing goes by", Remedy::TakeOut)?;
                continue;
            };
            // A form gets its name before its tree is written: then nothing names it yet, and it is right by itself.
            if self.lacking(&id).is_some() {
                continue;
            }
            for form in file::list(&path)? {
                self.count("directories of layers");
                self.form(&form, &id)?;
            }
        }
        Ok(())
    }

    fn form(&mut self, form: &Path, id: &TreeId) -> Result<(), StoreError> {
        let name = name(form);
        let mut shown = vec![form.to_owned()];
        if let Some(domain) = name.strip_suffix(".delta") {
            match self.store.layer_form(id, domain) {
                // The whole layer is there as well, which is what builds take.
                Some(whole) if whole.over().is_empty() && !whole.is_plain() => return Ok(()),
                Some(stacked) if !stacked.is_plain() => {
                    shown = stacked.dirs().iter().rev().cloned().collect();
                }
                _ => {
                    let what = "stands over a directory that is not there";
                    return self.wrong(form, what, Remedy::TakeOut);
                }
            }
        }
        let lacks_whiteouts = name.ends_with(crate::store::PLAIN);
        let mut dirs = Vec::new();
        for dir in &shown {
            match open_dir(CWD, dir.as_os_str().as_bytes()) {
                Ok(dir) => dirs.push(dir),
                Err(Errno::NOENT) => return Ok(()),
                Err(_) => return self.wrong(dir, "is not a directory", Remedy::TakeOut),
            }
        }
        let compared = self
            .store
            .trees()
            .on_disk(id)
            .map_err(Differs::from)
            .and_then(|dir| match dir.entries.as_slice() {
                [entry] => self.entry(&dirs, entry, &mut Vec::new(), lacks_whiteouts),
                _ => Err(Differs::Tree),
            });
        match compared {
            Ok(()) | Err(Differs::Tree) => Ok(()),
            Err(Differs::Closed) => {
                self.closed += 1;
                Ok(())
            }
            Err(Differs::Entry(path, what)) => {
                let path = String::from_utf8_lossy(&path);
                self.wrong(
                    form,
                    format!("is not as its tree: `/{path}` {what}"),
                    Remedy::TakeOut,
                )
            }
        }
    }

    /// Compares directories that stand over each other, the topmost first, with the entry of what they show, and all that the
    /// tree has below. There may be more in them: what a step only touched is in its upper directory and not in the tree.
    fn entry(
        &self,
        dirs: &[OwnedFd],
        entry: &Entry,
        path: &mut Vec<u8>,
        lacks_whiteouts: bool,
    ) -> Result<(), Differs> {
        let (Node::Dir(node), [top, ..]) = (&entry.node, dirs) else {
            return Ok(());
        };
        let differs = |path: &[u8], what: String| Differs::Entry(path.to_vec(), what);
        let failed = |path: &[u8], errno: Errno| match errno {
            Errno::ACCESS | Errno::PERM => Differs::Closed,
            Errno::NOENT => differs(path, "is missing".to_owned()),
            errno => differs(path, format!("cannot be read: {}", io::Error::from(errno))),
        };
        let stat = rustix::fs::fstat(top).map_err(|errno| failed(path, errno))?;
        if !node.implied && stat.st_mode & 0o7777 != entry.meta.mode {
            let what = format!(
                "has the mode {:04o} instead of {:04o}",
                stat.st_mode & 0o7777,
                entry.meta.mode
            );
            return Err(differs(path, what));
        }
        let before = path.len();
        for entry in &self.store.trees().on_disk(&node.tree)?.entries {
            path.truncate(before);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            let found = dirs.iter().enumerate().find_map(|(at, dir)| {
                match rustix::fs::statat(dir, entry.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => None,
                    found => Some((at, found)),
                }
            });
            let (at, stat) = match found {
                Some((at, found)) => (at, found.map_err(|errno| failed(path, errno))?),
                // Nobody may make devices in a user namespace.
                None if matches!(entry.node, Node::Char { .. } | Node::Block { .. }) => continue,
                None if lacks_whiteouts && entry.node == Node::Whiteout => continue,
                None => return Err(failed(path, Errno::NOENT)),
            };
            let dir = &dirs[at];
            if let Some(what) = difference(entry, &stat) {
                return Err(differs(path, what));
            }
            match &entry.node {
                Node::Dir(_) => {
                    let mut below = Vec::new();
                    for dir in &dirs[at..] {
                        match open_dir(dir, &entry.name) {
                            Ok(dir) => below.push(dir),
                            Err(Errno::NOENT) => {}
                            // What is no directory hides what is further below.
                            Err(Errno::NOTDIR | Errno::LOOP) => break,
                            Err(errno) => return Err(failed(path, errno)),
                        }
                    }
                    self.entry(&below, entry, path, lacks_whiteouts)?;
                }
                Node::Symlink { target } => {
                    let found = rustix::fs::readlinkat(dir, entry.name.as_slice(), Vec::new())
                        .map_err(|errno| failed(path, errno))?;
                    if found.as_bytes() != target {
                        return Err(differs(path, "leads elsewhere".to_owned()));
                    }
                }
                Node::File(file) if self.options.deep => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let opened =
                        rustix::fs::openat(dir, entry.name.as_slice(), flags, Mode::empty())
                            .map_err(|errno| failed(path, errno))?;
                    let mut hasher = blake3::Hasher::new();
                    hasher
                        .update_reader(File::from(opened))
                        .map_err(|error| differs(path, format!("cannot be read: {error}")))?;
                    if FileDigest::from_bytes(*hasher.finalize().as_bytes()) != file.digest {
                        return Err(differs(path, "has other content".to_owned()));
                    }
                }
                _ => {}
            }
        }
        path.truncate(before);
        Ok(())
    }
}

fn open_dir(at: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

impl From<TreeError> for Differs {
    fn from(_: TreeError) -> Self {
        Self::Tree
    }
}

/// What tells a name in a form from its entry, as far as stat(2) shows it.
fn difference(entry: &Entry, stat: &Stat) -> Option<String> {
    let found = FileType::from_raw_mode(stat.st_mode);
    let wanted = match &entry.node {
        Node::File(_) => FileType::RegularFile,
        Node::Dir(_) => FileType::Directory,
        Node::Symlink { .. } => FileType::Symlink,
        Node::Char { .. } | Node::Whiteout => FileType::CharacterDevice,
        Node::Block { .. } => FileType::BlockDevice,
        Node::Fifo => FileType::Fifo,
    };
    if found != wanted {
        return Some(format!(
            "is a {} instead of a {}",
            kind(found),
            kind(wanted)
        ));
    }
    let mode = stat.st_mode & 0o7777;
    match &entry.node {
        Node::File(file) if file.size != stat.st_size.cast_unsigned() => Some(format!(
            "has {} bytes instead of {}",
            stat.st_size, file.size
        )),
        Node::File(_) | Node::Fifo if mode != entry.meta.mode => Some(format!(
            "has the mode {mode:04o} instead of {:04o}",
            entry.meta.mode
        )),
        _ => None,
    }
}

fn kind(of: FileType) -> &'static str {
    match of {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "pipe",
        FileType::Socket | FileType::Unknown => "socket",
    }
}

/// Whether a directory has a form of a layer in it.
pub(super) fn has_form(forms: &Path) -> bool {
    file::list(forms).is_ok_and(|list| !list.is_empty())
}
