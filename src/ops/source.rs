//! Sources: contexts are scanned; images are in [`pull`](super::pull).

use std::sync::Arc;

use rbuild_cache::ContextFiles;
use rbuild_cache::LayerRef;
use rbuild_cache::Scan;
use rbuild_cache::Snapshot;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::Selection;

use super::Engine;
use super::LocalRoot;
use super::OpError;
use super::transfer::Reporter;
use crate::solver::StepControl;

impl Engine<'_> {
    pub(super) fn source_record(&self, source: &SourceOp) -> Result<KeyRecord, OpError> {
        let mut record = KeyRecord::new("source");
        let digest = |digest: &Option<rbuild_llb::OciDigest>| {
            digest.map_or("unpinned".into(), KeyValue::from)
        };
        match source {
            SourceOp::Image(image) => record.field("image", digest(&image.digest)),
            // The same digest is the same image, wherever it was read.
            SourceOp::OciLayout(layout) => record.field("image", digest(&layout.digest)),
            SourceOp::Local(local) => {
                let tree = self.scan(local)?.tree;
                record.field(
                    "files",
                    KeyValue::Content {
                        content: tree.content,
                        tree: Some(tree.tree),
                    },
                )
            }
            SourceOp::Git(git) => record
                .field("commit", git.commit.as_deref().unwrap_or("unpinned"))
                .field("subdir", git.subdir.as_str())
                .field("keep-git-dir", git.keep_git_dir)
                .field("skip-submodules", git.skip_submodules),
            SourceOp::Http(http) => record
                .field("checksum", digest(&http.checksum))
                .field("filename", http.filename.as_str())
                .field("mode", i64::from(http.mode.unwrap_or(0o600))),
        };
        Ok(record)
    }

    /// The root of a local source.
    fn local(&self, local: &LocalSource) -> Result<&LocalRoot, OpError> {
        self.options
            .locals
            .get(&local.name)
            .ok_or(OpError::NoContext)
    }

    /// A local source's tree; each is scanned once a build.
    pub(crate) fn scan(&self, local: &LocalSource) -> Result<Arc<Scan>, OpError> {
        let mut scans = self.scans.lock().expect("scans do not panic");
        if let Some(scan) = scans.get(local) {
            return Ok(Arc::clone(scan));
        }
        let root = self.local(local)?;
        let select = Selection::new(&local.include, &local.exclude)?;
        let selection = format!("{:?} {:?}", local.include, local.exclude);
        let stats = self.store.stat_cache(&root.path, &selection);
        let scan = rbuild_cache::scan_context(
            &root.path,
            &select,
            local.modes,
            &stats,
            self.store.trees(),
            self.cancel,
        )?;
        let scan = Arc::new(scan);
        scans.insert(local.clone(), Arc::clone(&scan));
        Ok(scan)
    }

    /// The snapshot a context is: one layer that is only a tree, its bytes where they are.
    pub(super) fn context(&self, local: &LocalSource) -> Result<Snapshot, OpError> {
        let tree = self.scan(local)?.tree;
        let root = self.local(local)?;
        let files = Arc::new(ContextFiles::open_root(&root.path)?);
        self.place_context(&tree, &files)?;
        self.bytes.place_layer(tree.tree, || {
            let selection = (&local.include, &local.exclude, local.modes);
            format!("context\0{}\0{selection:?}", root.path.display())
        });
        Ok(Snapshot {
            layers: vec![LayerRef {
                layer: tree,
                origin: None,
                created: None,
                single: false,
            }],
            root: tree,
        })
    }

    pub(super) fn source(
        &self,
        vertex: &Vertex,
        source: &SourceOp,
        step: &StepControl<'_>,
    ) -> Result<Snapshot, OpError> {
        match source {
            SourceOp::Local(local) => self.context(local),
            SourceOp::Image(_) | SourceOp::OciLayout(_) => {
                let forms = self.pulls.forms(&vertex.id());
                self.image(&self.base_layers(source)?, forms, &Reporter::of(step))
            }
            SourceOp::Git(git) => self.git(git),
            SourceOp::Http(http) => self.url(http),
        }
    }
}
