//! `type=tar`: the root file system as one tar.

use rbuild_cache::BlobOptions;
use rbuild_cache::Compression;
use rbuild_cache::Directory;
use rbuild_cache::FileBytes;
use rbuild_cache::FileNode;
use rbuild_cache::Node;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::deliver;
use super::only;
use crate::outcome::Delivery;
use crate::request::Destination;

/// `type=tar`.
#[derive(Debug)]
pub struct Tar {
    /// Where to.
    pub dest: Destination,
    /// Times later than this become it, Unix seconds.
    pub clamp: Option<i64>,
}

impl Exporter for Tar {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let image = only(export, "tar")?;
        let options = BlobOptions {
            compression: Compression::None,
            clamp: self.clamp,
        };
        let open = |path: &[u8], node: &FileNode| {
            (export.open)(&image.snapshot, path, node).map(FileBytes::from)
        };
        let trees = export.store.trees();
        // The archive holds what is below the root and not the root itself, as BuildKit's does.
        let mut root = trees.root(&image.snapshot.root.tree)?;
        if let Node::Dir(dir) = &mut root.node {
            dir.implied = true;
        }
        let root = trees.put(Directory {
            entries: vec![root],
        });
        deliver(&self.dest, &mut |mut out| {
            let tree = &root.tree;
            rbuild_cache::write_layer(trees, tree, &options, &open, &mut out, export.cancel)?;
            Ok(())
        })
    }
}
