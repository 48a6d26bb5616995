//! `type=tar`: the root file system as one tar; of several platforms each in a directory.

use rbuild_cache::BlobOptions;
use rbuild_cache::Compression;
use rbuild_cache::DirNode;
use rbuild_cache::Directory;
use rbuild_cache::Entry;
use rbuild_cache::FileBytes;
use rbuild_cache::FileNode;
use rbuild_cache::Meta;
use rbuild_cache::Node;
use rbuild_cache::Timestamp;
use rbuild_cache::TreeError;
use rbuild_cache::TreeRef;
use rbuild_cache::Trees;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::Root;
use super::deliver;
use crate::outcome::Delivery;
use crate::request::Destination;

/// `type=tar`.
#[derive(Debug)]
pub struct Tar {
    /// Where to.
    pub dest: Destination,
    /// A directory for each platform; `None` for one if there are several, which cannot be without.
    pub split: Option<bool>,
    /// Times later than this become it, Unix seconds. Where there is a SOURCE_DATE_EPOCH, all times are that.
    pub clamp: Option<i64>,
}

impl Exporter for Tar {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let options = BlobOptions {
            compression: Compression::None,
            clamp: self.clamp.filter(|_| export.epoch.is_none()),
        };
        let trees = export.store.trees();
        let split = self.split.unwrap_or(export.several);
        let root = match export.roots {
            [root] if !split => whole(trees, root)?.node,
            roots => directories(trees, roots, export.epoch)?,
        };
        let mut root = Entry {
            name: Vec::new(),
            meta: Meta::default(),
            node: root,
        };
        // The archive holds what is below the root and not the root itself, as BuildKit's does.
        if let Node::Dir(dir) = &mut root.node {
            dir.implied = true;
        }
        let root = trees.put(Directory {
            entries: vec![root],
        });
        let tree = match export.epoch {
            Some(epoch) => all_at(trees, &root.tree, epoch)?.tree,
            None => root.tree,
        };
        let open = |path: &[u8], node: &FileNode| {
            let (root, path) = match split {
                false => (&export.roots[0], path),
                true => within(export.roots, path),
            };
            (export.open)(&root.snapshot, path, node).map(FileBytes::from)
        };
        deliver(&self.dest, &mut |mut out| {
            rbuild_cache::write_layer(trees, &tree, &options, &open, &mut out, export.cancel)?;
            Ok(())
        })
    }
}

/// The root directory of a platform.
fn whole(trees: &Trees, root: &Root) -> Result<Entry, TreeError> {
    trees.root(&root.snapshot.root.tree)
}

/// A directory with one for each platform, whose metadata is what BuildKit gives it.
fn directories(trees: &Trees, roots: &[Root], epoch: Option<i64>) -> Result<Node, TreeError> {
    let mut entries = Vec::with_capacity(roots.len());
    for root in roots {
        entries.push(Entry {
            name: root.directory().into_bytes(),
            meta: Meta {
                mode: 0o755,
                mtime: at(epoch.unwrap_or(0)),
                ..Meta::default()
            },
            node: whole(trees, root)?.node,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Node::Dir(DirNode::of(trees.put(Directory { entries }))))
}

/// The platform whose directory a path is in, and the path in there.
fn within<'a, 'p>(roots: &'a [Root], path: &'p [u8]) -> (&'a Root, &'p [u8]) {
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(0);
    let (directory, rest) = path.split_at(end);
    let own = roots
        .iter()
        .find(|root| root.directory().as_bytes() == directory);
    let own = own.expect("every path begins with the directory of a platform");
    (own, &rest[1..])
}

fn at(seconds: i64) -> Timestamp {
    Timestamp {
        secs: seconds,
        nanos: 0,
    }
}

/// The same tree with one time on all it has.
fn all_at(trees: &Trees, tree: &rbuild_llb::TreeId, epoch: i64) -> Result<TreeRef, TreeError> {
    let mut directory = (*trees.get(tree)?).clone();
    for entry in &mut directory.entries {
        entry.meta.mtime = at(epoch);
        if let Node::Dir(dir) = &mut entry.node {
            let timed = all_at(trees, &dir.tree, epoch)?;
            (dir.tree, dir.content) = (timed.tree, timed.content);
        }
    }
    Ok(trees.put(directory))
}
