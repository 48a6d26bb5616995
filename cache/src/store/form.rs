//! Directory forms of layers: one directory, or a small one that stands over those of a near layer.
//!
//! ```text
//! layers/ab/abcd…/DOMAIN             the whole layer
//! layers/ab/abcd…/DOMAIN.plain       the same without whiteouts and marks, if it needs any   (crate::dir)
//! layers/ab/abcd…/DOMAIN.delta/fs    what differs from the directory form of a near layer   (crate::merge::Delta)
//!                             /over  the near layer's tree, a line end; the paths that must
//!                                    lead nowhere in the layers below, a NUL after each
//! near/ab/abcd…                      place in a plan and domain → the layer that got a form there last
//! ```
//!
//! A form that is whole goes before a difference, and that before a plain one, which has the bytes and cannot be stacked. A near layer's form stays as long as what stands over it
//! ([`Store::stands_over`]).

use std::collections::HashSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::TreeId;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::Store;
use super::StoreError;
use super::hash;
use crate::context::name_by_name;
use crate::file;
use crate::merge::Delta;
use crate::tree::Node;
use crate::tree::TreeError;
use crate::tree::Trees;

/// How many differences may stand on each other: each is one more directory that overlayfs looks into.
pub const MAX_DELTAS: usize = 8;

const DELTA: &str = ".delta";
pub(crate) const PLAIN: &str = ".plain";

/// The directories that show a layer in an overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerForm {
    dirs: Vec<PathBuf>,
    over: Vec<TreeId>,
    bare: Vec<Vec<u8>>,
    plain: bool,
}

impl LayerForm {
    /// One directory that has all of the layer.
    pub fn whole(dir: PathBuf) -> Self {
        Self {
            dirs: vec![dir],
            over: Vec::new(),
            bare: Vec::new(),
            plain: false,
        }
    }

    /// Whether it lacks what the layer takes away, so that no overlay can be made of it.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The directories, the lowest first.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The layers whose directories it stands on, the lowest first; none if it is whole.
    pub fn over(&self) -> &[TreeId] {
        &self.over
    }

    /// Paths that must lead nowhere in the layers below this one, or it hides too much of them.
    pub fn bare(&self) -> &[Vec<u8>] {
        &self.bare
    }

    /// Opens a file of the layer, whatever links the layer holds: none is followed, none leads out.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn open(&self, path: &[u8]) -> io::Result<File> {
        // What the layer has and the topmost directory has not is as it was below.
        for dir in self.dirs.iter().rev() {
            match open_beneath(&open_root(dir)?, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// For whoever opens many of its files.
    ///
    /// # Errors
    /// If its directories cannot be read.
    pub fn reader(&self) -> io::Result<FormReader> {
        let [whole, deltas @ ..] = self.dirs.as_slice() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let deltas = deltas.iter().rev().map(|dir| {
            let mut files = HashSet::new();
            files_below(dir, &mut Vec::new(), &mut files)?;
            Ok((open_root(dir)?, files))
        });
        Ok(FormReader {
            deltas: deltas.collect::<io::Result<_>>()?,
            whole: open_root(whole)?,
        })
    }
}

/// The open directories of a layer's form.
#[derive(Debug)]
pub struct FormReader {
    /// The topmost first, with the names that each has: few, as it is a difference.
    deltas: Vec<(OwnedFd, HashSet<Vec<u8>>)>,
    whole: OwnedFd,
}

impl FormReader {
    /// Opens a file of the layer, as [`LayerForm::open`] does.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn open(&self, path: &[u8]) -> io::Result<File> {
        let has = |(_, files): &&(OwnedFd, HashSet<Vec<u8>>)| files.contains(path);
        let root = self.deltas.iter().find(has).map(|(root, _)| root);
        open_beneath(root.unwrap_or(&self.whole), path)
    }
}

/// The paths of all that is no directory.
fn files_below(dir: &Path, path: &mut Vec<u8>, to: &mut HashSet<Vec<u8>>) -> io::Result<()> {
    let before = path.len();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        path.truncate(before);
        if before > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(entry.file_name().as_bytes());
        match entry.file_type()?.is_dir() {
            true => files_below(&entry.path(), path, to)?,
            false => drop(to.insert(path.clone())),
        }
    }
    path.truncate(before);
    Ok(())
}

impl Store {
    /// The directory that holds the directory forms of a layer.
    pub(crate) fn layer_forms(&self, layer: &TreeId) -> PathBuf {
        let hex = layer.hex();
        self.path.join("layers").join(&hex[..2]).join(hex)
    }

    fn layer_dir_path(&self, layer: &TreeId, domain: &str) -> PathBuf {
        let safe: String = domain
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || matches!(c, '-' | '+') {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        self.layer_forms(layer).join(safe)
    }

    /// The directory form of a layer that was written in the ownership domain `domain`, if all of it is there.
    pub fn layer_form(&self, layer: &TreeId, domain: &str) -> Option<LayerForm> {
        self.stacked_form(layer, domain).or_else(|| {
            let dir = with_suffix(self.layer_dir_path(layer, domain), PLAIN);
            dir.is_dir().then(|| LayerForm {
                plain: true,
                ..LayerForm::whole(dir)
            })
        })
    }

    fn stacked_form(&self, layer: &TreeId, domain: &str) -> Option<LayerForm> {
        let (mut dirs, mut over, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        let mut layer = *layer;
        while dirs.len() <= MAX_DELTAS {
            let whole = self.layer_dir_path(&layer, domain);
            if whole.is_dir() {
                dirs.push(whole);
                dirs.reverse();
                over.reverse();
                return Some(LayerForm {
                    dirs,
                    over,
                    bare,
                    plain: false,
                });
            }
            let delta = with_suffix(whole, DELTA);
            let (near, mut paths) = read_over(&delta)?;
            dirs.push(delta.join("fs"));
            over.push(near);
            bare.append(&mut paths);
            layer = near;
        }
        None
    }

    /// The directory form of a layer that stands on no other layer's, if there is one.
    pub fn layer_dir(&self, layer: &TreeId, domain: &str) -> Option<PathBuf> {
        Some(self.layer_dir_path(layer, domain)).filter(|path| path.is_dir())
    }

    /// Moves a finished directory form into its place. If there is one already, that one stays.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn adopt_layer_dir(
        &self,
        layer: &TreeId,
        domain: &str,
        from: &Path,
    ) -> Result<PathBuf, StoreError> {
        let to = self.layer_dir_path(layer, domain);
        self.adopt(from, &to)?;
        Ok(to)
    }

    /// Moves a finished plain form into its place. That of a layer that takes nothing away is as any other.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn adopt_plain_dir(
        &self,
        layer: &TreeId,
        domain: &str,
        from: &Path,
    ) -> Result<LayerForm, StoreError> {
        let whole = self.layer_dir_path(layer, domain);
        // A tree that cannot be read may say anything.
        let plain = needs_marks(&self.trees, layer).unwrap_or(true);
        let to = match plain {
            true => with_suffix(whole, PLAIN),
            false => whole,
        };
        self.adopt(from, &to)?;
        Ok(LayerForm {
            plain,
            ..LayerForm::whole(to)
        })
    }

    /// Moves the directory form of a [`Delta`] over `near` into its place, out of the scratch directory `from`, where it
    /// is called `fs`. `None` if one is there that something is missing of.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn adopt_layer_delta(
        &self,
        layer: &TreeId,
        domain: &str,
        near: &TreeId,
        delta: &Delta,
        from: &Path,
    ) -> Result<Option<LayerForm>, StoreError> {
        let over = from.join("over");
        let mut text = near.hex().into_bytes();
        text.push(b'\n');
        for path in &delta.bare {
            text.extend_from_slice(path);
            text.push(0);
        }
        File::create_new(&over)
            .and_then(|mut file| file.write_all(&text))
            .map_err(StoreError::io("write", &over))?;
        self.adopt(
            from,
            &with_suffix(self.layer_dir_path(layer, domain), DELTA),
        )?;
        Ok(self.layer_form(layer, domain))
    }

    fn adopt(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let parent = to.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        self.journal.note()?;
        match fs::rename(from, to) {
            Ok(()) => Ok(()),
            // An equal form that another build was quicker to make, with files in it or without.
            Err(_) if to.is_dir() => Ok(()),
            Err(error) => Err(StoreError::io("write", to)(error)),
        }
    }

    /// The layers that the directory forms of a layer stand on, in whatever domain: without these they show nothing.
    ///
    /// # Errors
    /// If the forms cannot be listed.
    pub fn stands_over(&self, layer: &TreeId) -> Result<Vec<TreeId>, StoreError> {
        let forms = file::list(&self.layer_forms(layer))?;
        let over = forms.iter().filter_map(|form| Some(read_over(form)?.0));
        Ok(over.collect())
    }

    /// The layer that last got a directory form in `domain` at a place in a plan.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn near(&self, place: &str, domain: &str) -> Result<Option<TreeId>, StoreError> {
        let hex = file::read(&self.near_path(place, domain))?;
        Ok(hex.and_then(|hex| String::from_utf8(hex).ok()?.parse().ok()))
    }

    /// Remembers it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_near(&self, place: &str, domain: &str, layer: &TreeId) -> Result<(), StoreError> {
        let path = self.near_path(place, domain);
        self.journal.write(&path, layer.hex().as_bytes())
    }

    fn near_path(&self, place: &str, domain: &str) -> PathBuf {
        let hex = hash(&format!("{domain}\0{place}"));
        self.path.join("near").join(&hex[..2]).join(hex)
    }
}

fn with_suffix(whole: PathBuf, suffix: &str) -> PathBuf {
    let mut name = whole.into_os_string();
    name.push(suffix);
    name.into()
}

/// Whether the form of a layer that overlayfs reads differs from the plain one.
fn needs_marks(trees: &Trees, layer: &TreeId) -> Result<bool, TreeError> {
    let mut needs = false;
    trees.walk(layer, &mut |_, entry| {
        needs |= match &entry.node {
            Node::Whiteout => true,
            Node::Dir(dir) => dir.opaque,
            _ => false,
        };
        let mut names = entry.meta.xattrs.keys();
        needs |= names.any(|name| name.starts_with(crate::dir::OVERLAY));
        match needs {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(needs)
}

/// What the difference `form` stands over, and the paths that must be bare; `None` if it is no difference, or damaged.
fn read_over(form: &Path) -> Option<(TreeId, Vec<Vec<u8>>)> {
    if form.extension().is_none_or(|suffix| suffix != "delta") {
        return None;
    }
    let text = fs::read(form.join("over")).ok()?;
    let line = text.iter().position(|b| *b == b'\n')?;
    let near = std::str::from_utf8(&text[..line]).ok()?.parse().ok()?;
    let mut paths: Vec<Vec<u8>> = text[line + 1..].split(|b| *b == 0).map(Vec::from).collect();
    // What comes after the last NUL is nothing, unless the file was cut off.
    let rest = paths.pop()?;
    rest.is_empty().then_some((near, paths))
}

fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn open_beneath(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    // A rename anywhere on the machine may make the kernel ask to try again (openat2(2), EAGAIN).
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(file.into()),
            Err(Errno::AGAIN) => {}
            // No openat2 (Linux before 5.6; seccomp filters that do not know it say EPERM).
            Err(Errno::NOSYS | Errno::PERM) => {
                return Ok(name_by_name(root.as_fd(), path, flags)?.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
