//! What differs between two trees, path by path. Only directories whose content differs are read, so that one file that
//! changed among many costs one path of directories on either side.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rbuild_llb::TreeId;

use super::DirNode;
use super::Directory;
use super::Entry;
use super::Node;
use super::TreeError;
use super::Trees;
use super::join;

/// How two trees differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeChanges {
    /// What was found, in the order of the paths.
    pub list: Vec<PathChange>,
    /// Whether that is all: no more than was asked for is looked for.
    pub complete: bool,
}

/// What happened to one path. A directory stands here if it is not what it was itself, and for what is in it where it came or
/// went empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// Without a leading slash.
    pub path: Vec<u8>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// What is different; several things of one path may be.
    pub what: Vec<What>,
}

/// One thing that is different about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is a file where there was a link, or the like.
    Type,
    /// Its bytes.
    Content,
    /// Where a symbolic link leads, or which device it is.
    Target,
    /// Its permission bits.
    Mode {
        /// What they were.
        earlier: u32,
        /// What they are.
        now: u32,
    },
    /// Its user or group.
    Owner,
    /// Its extended attributes.
    Attributes,
}

impl Trees {
    /// What differs between the contents of two directory objects, up to `limit` paths. Modification times and hard links are
    /// no difference, as they are none in keys.
    ///
    /// # Errors
    /// If an object that must be looked into cannot be read.
    pub fn changes(
        &self,
        earlier: &TreeId,
        now: &TreeId,
        limit: usize,
    ) -> Result<TreeChanges, TreeError> {
        compare(&mut |id| self.get(id), earlier, now, limit)
    }

    /// How many files a tree has, directories not counted; `None` if that would mean to read objects from the disk.
    pub fn count_known(&self, root: &TreeId) -> Option<u64> {
        let memory = self.read();
        let mut count = 0;
        let mut open = vec![*root];
        while let Some(id) = open.pop() {
            for entry in &memory.get(&id)?.dir.entries {
                match &entry.node {
                    Node::Dir(dir) => open.push(dir.tree),
                    _ => count += 1,
                }
            }
        }
        Some(count)
    }
}

/// Reads an object.
type Get<'a> = dyn FnMut(&TreeId) -> Result<Arc<Directory>, TreeError> + 'a;

fn compare(
    get: &mut Get<'_>,
    earlier: &TreeId,
    now: &TreeId,
    limit: usize,
) -> Result<TreeChanges, TreeError> {
    let mut search = Search {
        get,
        limit,
        path: Vec::new(),
        list: Vec::new(),
    };
    let complete = earlier == now || search.dirs(Some(earlier), Some(now))?;
    Ok(TreeChanges {
        list: search.list,
        complete,
    })
}

struct Search<'a, 'g> {
    get: &'a mut Get<'g>,
    limit: usize,
    path: Vec<u8>,
    list: Vec<PathChange>,
}

/// Whether the search goes on.
type More = Result<bool, TreeError>;

impl Search<'_, '_> {
    /// Two directories, or one that came or went with all it has.
    fn dirs(&mut self, earlier: Option<&TreeId>, now: Option<&TreeId>) -> More {
        let mut read = |id: Option<&TreeId>| id.map(|id| (self.get)(id)).transpose();
        let (earlier, now) = (read(earlier)?, read(now)?);
        let entries = |dir: &Option<Arc<Directory>>| dir.clone().unwrap_or_default();
        let (earlier, now) = (entries(&earlier), entries(&now));
        for (old, new) in join(&earlier.entries, &now.entries) {
            let above = self.path.len();
            let name = old.or(new).map_or(&[][..], |entry| &entry.name);
            if above > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let more = self.entries(old, new)?;
            self.path.truncate(above);
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entries(&mut self, old: Option<&Entry>, new: Option<&Entry>) -> More {
        match (old, new) {
            (Some(old), Some(new)) => self.both(old, new),
            (Some(old), None) => self.one(old, What::Removed),
            (None, Some(new)) => self.one(new, What::Added),
            (None, None) => Ok(true),
        }
    }

    /// Something that came or went.
    fn one(&mut self, entry: &Entry, what: What) -> More {
        let Node::Dir(dir) = &entry.node else {
            return Ok(self.found(false, vec![what]));
        };
        let before = self.list.len();
        let more = match what {
            What::Removed => self.dirs(Some(&dir.tree), None)?,
            _ => self.dirs(None, Some(&dir.tree))?,
        };
        match more && self.list.len() == before {
            true => Ok(self.found(true, vec![what])),
            false => Ok(more),
        }
    }

    fn both(&mut self, old: &Entry, new: &Entry) -> More {
        let mut what = match (&old.node, &new.node) {
            (Node::File(old), Node::File(new)) => match (old.size, old.digest) {
                before if before == (new.size, new.digest) => Vec::new(),
                _ => vec![What::Content],
            },
            (Node::Dir(_), Node::Dir(_)) => Vec::new(),
            (Node::Dir(_), _) | (_, Node::Dir(_)) => {
                return Ok(self.one(old, What::Removed)? && self.one(new, What::Added)?);
            }
            (old, new) if old == new => Vec::new(),
            (old, new) if std::mem::discriminant(old) == std::mem::discriminant(new) => {
                vec![What::Target]
            }
            _ => vec![What::Type],
        };
        let implied = |node: &Node| matches!(node, Node::Dir(DirNode { implied: true, .. }));
        let (before, after) = (&old.meta, &new.meta);
        if !implied(&old.node) && !implied(&new.node) {
            if before.mode != after.mode {
                what.push(What::Mode {
                    earlier: before.mode,
                    now: after.mode,
                });
            }
            if (before.uid, before.gid) != (after.uid, after.gid) {
                what.push(What::Owner);
            }
            if before.xattrs != after.xattrs {
                what.push(What::Attributes);
            }
        }
        let is_dir = matches!(new.node, Node::Dir(_));
        if !what.is_empty() && !self.found(is_dir, what) {
            return Ok(false);
        }
        match (&old.node, &new.node) {
            (Node::Dir(old), Node::Dir(new)) if old.content != new.content => {
                self.dirs(Some(&old.tree), Some(&new.tree))
            }
            _ => Ok(true),
        }
    }

    fn found(&mut self, is_dir: bool, what: Vec<What>) -> bool {
        if self.list.len() == self.limit {
            return false;
        }
        self.list.push(PathChange {
            path: self.path.clone(),
            is_dir,
            what,
        });
        true
    }
}
