//! Sources: contexts are scanned, images become trees as their layers stream in.

use std::io;
use std::io::Read;
use std::io::Write;
use std::sync::Arc;

use rbuild_cache::ContextFiles;
use rbuild_cache::KnownLayer;
use rbuild_cache::LayerError;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Origin;
use rbuild_cache::Scan;
use rbuild_cache::Snapshot;
use rbuild_llb::KeyRecord;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::Selection;

use super::Engine;
use super::LocalRoot;
use super::OpError;
use super::transfer::Reporter;
use super::transfer::Transfer;
use crate::image::Document;
use crate::registry::Layout;
use crate::registry::MAX_DOCUMENT;
use crate::registry::Reference;
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
        let files = Arc::new(ContextFiles::open_root(&self.local(local)?.path)?);
        self.place_context(&tree, &files)?;
        Ok(Snapshot {
            layers: vec![LayerRef {
                layer: tree,
                origin: None,
                created: None,
            }],
            root: tree,
        })
    }

    pub(super) fn source(
        &self,
        source: &SourceOp,
        step: &StepControl<'_>,
    ) -> Result<Snapshot, OpError> {
        match source {
            SourceOp::Local(local) => self.context(local),
            SourceOp::Image(image) => {
                let origin = match image.digest {
                    Some(digest) if !image.reference.contains('@') => {
                        format!("{}@{digest}", image.reference)
                    }
                    _ => image.reference.clone(),
                };
                self.image(image.digest, Some(origin), &Reporter::of(step))
            }
            SourceOp::OciLayout(layout) => self.image(
                layout.digest,
                Some(format!("oci-layout://{}", layout.path)),
                &Reporter::of(step),
            ),
            SourceOp::Git(git) => self.git(git),
            SourceOp::Http(http) => self.url(http),
        }
    }

    /// The snapshot of a pinned image, whose manifest and config pinning has put into the store.
    fn image(
        &self,
        digest: Option<rbuild_llb::OciDigest>,
        source: Option<String>,
        step: &Reporter<'_>,
    ) -> Result<Snapshot, OpError> {
        let digest = digest.ok_or_else(|| OpError::Unsupported {
            what: "an image that was not pinned".into(),
        })?;
        let blobs = self.store.blobs();
        let bytes = blobs.read(&digest, MAX_DOCUMENT)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else {
            return Err(OpError::Unsupported {
                what: format!("image {digest}, whose manifest cannot be read,"),
            });
        };
        let config = blobs.read(&manifest.config.digest, MAX_DOCUMENT)?;
        let config: rbuild_llb::ImageConfig = serde_json::from_slice(&config).map_err(|error| {
            OpError::io(
                "read the config of",
                digest.to_string().as_ref(),
                io::Error::other(error),
            )
        })?;
        let origins: Vec<Origin> = manifest
            .layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .map(|(layer, diff_id)| Origin {
                digest: layer.digest,
                size: layer.size,
                media_type: layer.media_type.clone(),
                diff_id: *diff_id,
                source: source.clone(),
                urls: layer.urls.clone(),
            })
            .collect();
        if origins.len() != manifest.layers.len() {
            return Err(OpError::Unsupported {
                what: format!("image {digest}, whose config does not name all of its layers,"),
            });
        }
        // Layers come in side by side: waiting for the network is not work, so these are threads of their own.
        let known: Vec<Result<KnownLayer, OpError>> = std::thread::scope(|scope| {
            let running: Vec<_> = origins
                .iter()
                .map(|origin| scope.spawn(|| self.layer(origin, step)))
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let mut snapshot = self.empty();
        for (origin, known) in origins.into_iter().zip(known) {
            let layer = known?.layer;
            // A layer this store made itself is not fetched from anywhere: its own forms are its bytes.
            let made_here = self
                .store
                .all_layer_blobs(&layer.tree)?
                .iter()
                .any(|blob| blob.digest == origin.digest);
            let layer = LayerRef {
                layer,
                origin: (!made_here).then_some(origin),
                created: None,
            };
            snapshot = self.stack(&snapshot, layer)?;
        }
        Ok(snapshot)
    }

    /// The snapshot of an image outside any step.
    pub(crate) fn image_snapshot(
        &self,
        digest: rbuild_llb::OciDigest,
        reference: &str,
        events: &(dyn Fn(rbuild_llb::event::Event) + Sync),
    ) -> Result<Snapshot, OpError> {
        let origin = format!(
            "{}@{digest}",
            reference.split('@').next().unwrap_or(reference)
        );
        self.image(Some(digest), Some(origin), &Reporter { digest: "", events })
    }

    /// The tree of a base image's layer, worked out while the blob streams in.
    fn layer(&self, origin: &Origin, step: &Reporter<'_>) -> Result<KnownLayer, OpError> {
        self.read_origin(origin, step)
            .map_err(|error| of_base(origin, error))
    }

    fn read_origin(&self, origin: &Origin, step: &Reporter<'_>) -> Result<KnownLayer, OpError> {
        if let Some(known) = self.store.known_layer(&origin.digest)? {
            return Ok(known);
        }
        self.lease.protect(LeaseRoot::Blob(origin.digest))?;
        let trees = self.store.trees();
        let read = if self.store.blobs().contains(&origin.digest) {
            rbuild_cache::read_layer(trees, self.store.blobs().open(&origin.digest)?, None)?
        } else {
            let mut progress = Transfer::start(step, &origin.digest.to_string(), origin.size);
            let mut writer = self.store.blobs().writer()?;
            let mut tee = Tee {
                from: self.open_origin(origin)?,
                to: &mut writer,
                progress: &mut progress,
            };
            let read = rbuild_cache::read_layer(trees, &mut tee, None)?;
            // What follows the archive belongs to the blob all the same.
            io::copy(&mut tee, &mut io::sink()).map_err(|error| {
                OpError::io("download", origin.digest.to_string().as_ref(), error)
            })?;
            writer.commit(Some((&origin.digest, origin.size)))?;
            progress.done();
            read
        };
        if read.diff_id != origin.diff_id {
            return Err(OpError::DiffId {
                digest: origin.digest,
                wanted: origin.diff_id,
            });
        }
        let known = KnownLayer {
            layer: read.layer,
            diff_id: read.diff_id,
            tar_size: read.tar_size,
        };
        trees.persist(&known.layer.tree)?;
        self.store.set_known_layer(&origin.digest, &known)?;
        Ok(known)
    }

    /// Makes sure that the blob is in the store.
    pub(crate) fn fetch_origin(&self, origin: &Origin) -> Result<(), OpError> {
        self.lease.protect(LeaseRoot::Blob(origin.digest))?;
        if self.store.blobs().contains(&origin.digest) {
            return Ok(());
        }
        let fetch = || -> Result<(), OpError> {
            let mut writer = self.store.blobs().writer()?;
            io::copy(&mut self.open_origin(origin)?, &mut writer).map_err(|error| {
                OpError::io("download", origin.digest.to_string().as_ref(), error)
            })?;
            writer.commit(Some((&origin.digest, origin.size)))?;
            Ok(())
        };
        fetch().map_err(|error| of_base(origin, error))
    }

    fn open_origin(&self, origin: &Origin) -> Result<Box<dyn Read + Send>, OpError> {
        let source = origin.source.as_deref().unwrap_or_default();
        if let Some(path) = source.strip_prefix("oci-layout://") {
            return Ok(Box::new(
                Layout::open(path.as_ref())?.blob(&origin.digest, origin.size)?,
            ));
        }
        if self.options.offline {
            return Err(OpError::Unsupported {
                what: format!("downloading {} with `--offline`", origin.digest),
            });
        }
        let reference: Reference = source.parse().map_err(|_| OpError::Unsupported {
            what: format!("a layer that comes from nowhere ({source})"),
        })?;
        Ok(Box::new(self.registry.blob_elsewhere(
            &reference,
            &origin.urls,
            &origin.digest,
            origin.size,
        )?))
    }
}

/// Names the image that a layer is of, where it is at fault and not this machine.
fn of_base(origin: &Origin, error: OpError) -> OpError {
    match (error, &origin.source) {
        (
            error @ (OpError::Registry(_)
            | OpError::Layer(LayerError::Archive { .. } | LayerError::Entry { .. })
            | OpError::DiffId { .. }
            | OpError::Io { .. }),
            Some(source),
        ) => OpError::Base {
            image: source.clone(),
            source: Box::new(error),
        },
        (error, _) => error,
    }
}

/// Passes a blob on while it is kept.
struct Tee<'a, 's, R, W> {
    from: R,
    to: &'a mut W,
    progress: &'a mut Transfer<'s>,
}

impl<R: Read, W: Write> Read for Tee<'_, '_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        self.progress.add(count as u64);
        Ok(count)
    }
}
