//! Lines 8 and 9 of the pipeline: what becomes of each target.

mod report;
mod targets;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::FileNode;
use rbuild_cache::LayerRef;
use rbuild_cache::Snapshot;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::frontend::FilesExport;

use super::assemble;
use super::failure;
use super::once::once_each;
use super::plan;
use super::untouched::Untouched;
use crate::exporter::Export;
use crate::exporter::ExportError;
use crate::exporter::Exporter;
use crate::exporter::ReadyImage;
use crate::exporter::ReadyIndex;
use crate::exporter::Root;
use crate::exporter::archive;
use crate::exporter::begun::Begun;
use crate::exporter::has_place;
use crate::exporter::load::Loader;
use crate::exporter::local;
use crate::exporter::local::Local;
use crate::exporter::push::Push;
use crate::exporter::store;
use crate::exporter::store::OwnStore;
use crate::exporter::tar::Tar;
use crate::image::Descriptor;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::ops::StepResult;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::BuiltImage;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::registry::Reference;
use crate::remote::Known;
use crate::request;
use crate::request::BuildRequest;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::solver;
use crate::solver::SolveError;
use crate::solver::Solved;
use crate::ui::EventSink;
pub(super) use report::write_reports;
pub(super) use report::write_whole;
pub(super) use targets::Target;
pub(super) use targets::Tests;
pub(super) use targets::reach;
pub(super) use targets::targets;

use targets::Deeds;

/// The annotation of archives that says when (OCI image-spec, annotations.md).
const CREATED: &str = "org.opencontainers.image.created";

/// The images of a target, for one of its outputs.
struct Made {
    images: Vec<ReadyImage>,
    index: Option<ReadyIndex>,
    /// What names the whole.
    top: Descriptor,
    names: Vec<String>,
}

impl Made {
    fn built(self) -> BuiltImage {
        BuiltImage {
            id: match self.index {
                Some(_) => self.top.digest,
                None => self.images[0].id,
            },
            size: self.images.iter().map(ReadyImage::size).sum(),
            descriptor: self.top,
            names: self.names,
        }
    }
}

/// An output with what writes it; `None` for `type=cacheonly`.
type Out<'a> = (&'a OutputSpec, Option<Box<dyn Exporter>>);

/// Makes sure that each file has a directory to be in, or gets one: not to have built for nothing.
pub(super) fn places(request: &BuildRequest, targets: &[Target]) -> Result<(), BuildError> {
    let (mut files, mut made) = (Vec::new(), Vec::new());
    let specs = targets.iter().flat_map(Target::specs);
    for (path, is_directory) in specs.filter_map(|spec| spec.kind.path()) {
        match is_directory {
            true => made.push(path),
            false => files.push(path),
        }
    }
    let reports = request.iidfile.iter().chain(&request.metadata_file);
    files.extend(reports.map(PathBuf::as_path));
    let of_steps = targets.iter().flat_map(Target::files);
    made.extend(of_steps.map(|files| Path::new(&files.to)));
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let made: Vec<PathBuf> = made.into_iter().map(absolute).collect();
    for path in files {
        let whole = absolute(path);
        let parent = whole.parent().unwrap_or(Path::new("/"));
        let mut made = made.iter();
        if !made.any(|made| made.starts_with(parent) || parent.starts_with(made)) {
            has_place(path).map_err(failure::export)?;
        }
    }
    Ok(())
}

/// The exporters of all targets, ready: what must be started outside the user namespace is.
pub(super) fn exporters<'a>(
    request: &BuildRequest,
    targets: &'a [Target],
) -> Result<Vec<Vec<Out<'a>>>, BuildError> {
    let exporter = |spec: &OutputSpec,
                    clamp: Option<i64>,
                    platforms: usize|
     -> Result<Option<Box<dyn Exporter>>, BuildError> {
        let index = platforms > 1 || request.multi_platform;
        let no_index = |takes_it: bool| match index && !takes_it {
            true => Err(failure::export(ExportError::NoIndex)),
            false => Ok(()),
        };
        Ok(Some(match &spec.kind {
            OutputKind::CacheOnly => return Ok(None),
            OutputKind::Image(image) => match of_image(request, image) {
                Some(exporter) => exporter,
                None => return Ok(None),
            },
            OutputKind::Oci { dest, tar } => Box::new(archive::Oci {
                dest: dest.clone(),
                tar: *tar,
            }),
            OutputKind::Docker { dest, tar } => {
                no_index(!tar)?;
                Box::new(archive::Docker {
                    dest: dest.clone(),
                    tar: *tar,
                })
            }
            OutputKind::Load { context } => {
                let loader = Loader::start(context.as_deref()).map_err(failure::export)?;
                no_index(loader.takes_indexes())?;
                Box::new(loader)
            }
            OutputKind::Tar { dest, split } => Box::new(Tar {
                dest: dest.clone(),
                split: *split,
                clamp,
            }),
            OutputKind::Local {
                dest,
                split,
                delete,
            } => Box::new(Local {
                dest: dest.clone(),
                split: *split,
                delete: *delete,
            }),
        }))
    };
    let of_target = |target: &'a Target| match &target.deeds {
        Deeds::Test { .. } => Ok(Vec::new()),
        Deeds::Output { specs, clamp, .. } => specs
            .iter()
            .map(|spec| Ok((spec, exporter(spec, *clamp, target.outputs.len())?)))
            .collect(),
    };
    targets.iter().map(of_target).collect()
}

/// Refuses images for Windows: what has a root directory here is in `Files` there, beside the `Hives` of the registry.
pub(super) fn no_windows_images(
    targets: &[Target],
    definition: &PrunedDefinition,
) -> Result<(), BuildError> {
    for target in targets {
        let Deeds::Output { specs, .. } = &target.deeds else {
            continue;
        };
        let platforms = target
            .outputs
            .iter()
            .map(|at| &definition.outputs[*at].platform);
        let windows = platforms
            .into_iter()
            .find(|platform| platform.os == "windows");
        if let Some(platform) = windows
            && specs.iter().any(|spec| spec.kind.is_image())
        {
            let error = anyhow::anyhow!("rbuild makes no images for `{platform}`, only files");
            return Err(BuildError::new(ErrorKind::Request, error)
                .hint("write the files with `-o type=local,dest=DIR`"));
        }
    }
    Ok(())
}

/// Whether an output's layers are only wanted as blobs, and those of a base as they came.
pub(super) fn takes_blobs_whole(targets: &[Target], output: usize) -> bool {
    let whole = |spec: &OutputSpec| {
        let blobs = match &spec.kind {
            OutputKind::Image(output) => output.push != request::Push::No,
            kind => kind.is_image(),
        };
        blobs && !spec.force_compression && !spec.rewrite_timestamp
    };
    let mut users = targets
        .iter()
        .filter(|target| target.outputs.contains(&output));
    users.all(|target| match &target.deeds {
        Deeds::Test { .. } => false,
        Deeds::Output { specs, files, .. } => files.is_empty() && specs.iter().all(whole),
    })
}

/// What sends or names an image, if it is either.
fn of_image(request: &BuildRequest, output: &ImageOutput) -> Option<Box<dyn Exporter>> {
    let store = output.store.then_some(OwnStore {
        canonical: output.canonical,
    });
    if output.push == request::Push::No {
        return store.map(|store| Box::new(store) as Box<dyn Exporter>);
    }
    Some(Box::new(Push {
        store,
        insecure: output.insecure.then(|| request.settings.clone()),
    }))
}

/// Whether an output's bytes go somewhere, and be it into the store as an image's.
pub(super) fn takes_bytes(targets: &[Target], output: usize) -> bool {
    let taken = |target: &Target| match &target.deeds {
        Deeds::Test { files } => !files.is_empty(),
        Deeds::Output { specs, files, .. } => {
            !files.is_empty() || specs.iter().any(|spec| spec.kind != OutputKind::CacheOnly)
        }
    };
    let mut users = targets
        .iter()
        .filter(|target| target.outputs.contains(&output));
    users.any(taken)
}

/// The repositories that all images made of an output are pushed to, if that is all that becomes of it.
pub(super) fn pushed_to(targets: &[Target], output: usize) -> Option<Vec<Reference>> {
    let mut to = Vec::new();
    for target in targets
        .iter()
        .filter(|target| target.outputs.contains(&output))
    {
        let Deeds::Output { specs, files, .. } = &target.deeds else {
            return None;
        };
        let by_name = |spec: &OutputSpec| match &spec.kind {
            OutputKind::Image(image) => image.push != request::Push::No && !image.insecure,
            _ => false,
        };
        if !files.is_empty() || specs.is_empty() || !specs.iter().all(by_name) {
            return None;
        }
        for name in target.names() {
            to.push(name.parse().ok()?);
        }
    }
    Some(to).filter(|to| !to.is_empty())
}

/// Whether more is done than to name images in rbuild's own store.
pub(super) fn writes_files(request: &BuildRequest, targets: &[Target]) -> bool {
    let writes = |target: &Target| match &target.deeds {
        Deeds::Test { files } => !files.is_empty(),
        Deeds::Output { specs, files, .. } => {
            !files.is_empty()
                || specs
                    .iter()
                    .any(|spec| !matches!(spec.kind, OutputKind::Image(_)) || spec.kind.pushes())
        }
    };
    !request.outputs.is_empty() || targets.iter().any(writes)
}

/// What delivering needs.
pub(super) struct Delivering<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) engine: &'a Engine<'a>,
    pub(super) plan: &'a plan::Plan,
    pub(super) definition: &'a PrunedDefinition,
    pub(super) untouched: Option<&'a Untouched>,
    /// What is known of the steps, by the names of targets whose images are to have it in them; `""` stands for all.
    pub(super) inline: &'a BTreeMap<String, Vec<Known>>,
    pub(super) solved: Solved<StepResult, OpError>,
    pub(super) cancel: &'a CancelToken,
    pub(super) events: &'a EventSink,
}

impl Delivering<'_> {
    /// Delivers all targets whose tests have passed.
    pub(super) fn deliver(
        self,
        targets: &[Target],
        exporters: Vec<Vec<Out<'_>>>,
    ) -> Result<BuildOutcome, BuildError> {
        let mut outcome = BuildOutcome::default();
        let mut failed: Vec<&str> = Vec::new();
        for target in targets {
            let Deeds::Test { files } = &target.deeds else {
                continue;
            };
            for export in files {
                self.export_files(target, export)?;
            }
            match self.lost(target) {
                true => failed.push(&target.name),
                false => outcome.passed.push(target.name.clone()),
            }
        }
        let several = targets.len() - outcome.passed.len() - failed.len() > 1;
        let mut held: Vec<&str> = Vec::new();
        for (target, outs) in targets.iter().zip(exporters) {
            let Deeds::Output {
                names,
                files,
                clamp,
                ..
            } = &target.deeds
            else {
                continue;
            };
            if target
                .require
                .iter()
                .any(|test| failed.contains(&test.as_str()))
            {
                held.push(&target.name);
                continue;
            }
            for export in files {
                self.export_files(target, export)?;
            }
            let mut built = self.images(target, names, *clamp, outs)?;
            if built.as_ref().is_none_or(|built| built.image.is_none()) {
                self.keep(target)?;
            }
            let name = (several || target.own).then(|| target.name.clone());
            for export in files {
                let path = PathBuf::from(&export.to);
                match &mut built {
                    Some(built) => built.deliveries.push(Delivery::Directory { path }),
                    None => outcome.written.push((name.clone(), path)),
                }
            }
            outcome
                .built
                .extend(built.map(|built| Built { name, ..built }));
        }
        if failed.is_empty() {
            write_reports(self.request, &outcome)?;
            return Ok(outcome);
        }
        Err(self.failure(&failed, &held))
    }

    fn lost(&self, target: &Target) -> bool {
        let mut outputs = target.outputs.iter();
        outputs.any(|at| matches!(self.solved.roots[*at], solver::Root::Lost))
    }

    fn snapshot(&self, output: usize) -> Option<Snapshot> {
        match (
            &self.solved.roots[output],
            self.definition.outputs[output].root,
        ) {
            (solver::Root::Made(made), Some(edge)) => {
                Some(made.outputs[edge.output as usize].clone())
            }
            (solver::Root::Lost, _) => self.left_by(output),
            _ => Some(self.engine.empty()),
        }
    }

    /// The layers of an output, those of a base too that nobody looked into.
    pub(super) fn root(&self, output: usize) -> Result<Option<Snapshot>, BuildError> {
        let untouched = self.untouched.map_or(Ok(None), |untouched| {
            untouched.snapshot(output, self.engine, &self.solved)
        });
        let untouched = untouched.map_err(|error| failure::assembling(error, self.definition))?;
        Ok(untouched.or_else(|| self.snapshot(output)))
    }

    /// What the failed step of a target left.
    fn left_by(&self, output: usize) -> Option<Snapshot> {
        let mut reached = BTreeSet::new();
        let root = self.definition.outputs[output].root.map(|edge| edge.vertex);
        reach(self.definition, root, &mut reached);
        let mut failed = self.solved.failed.iter();
        failed.find_map(|error| match error {
            SolveError::Failed { vertex, .. } if reached.contains(vertex) => {
                self.engine.left_by(vertex)
            }
            _ => None,
        })
    }

    /// Writes files of a target. What a failed test would have written may be missing.
    fn export_files(&self, target: &Target, export: &FilesExport) -> Result<(), BuildError> {
        let several = target.outputs.len() > 1;
        for &at in &target.outputs {
            let Some(snapshot) = self.snapshot(at) else {
                continue;
            };
            let path = Path::new(&export.path);
            if matches!(self.solved.roots[at], solver::Root::Lost)
                && !local::holds(self.engine.store(), &snapshot, path).map_err(failure::export)?
            {
                continue;
            }
            self.engine
                .prepare_files(&snapshot)
                .map_err(|error| failure::assembling(error, self.definition))?;
            let mut to = PathBuf::from(&export.to);
            if several {
                let platform = self.definition.outputs[at].platform.to_string();
                to = to.join(platform.replace('/', "_")).join("");
            }
            let open = |snapshot: &Snapshot, path: &[u8], node: &FileNode| {
                self.engine.open_in(snapshot, path, node)
            };
            local::extract(
                self.engine.store(),
                &snapshot,
                &open,
                path,
                &to,
                self.cancel,
            )
            .map_err(|error| failure::export_files(error, &export.span))?;
        }
        Ok(())
    }

    fn images(
        &self,
        target: &Target,
        names: &[String],
        clamp: Option<i64>,
        outs: Vec<Out<'_>>,
    ) -> Result<Option<Built>, BuildError> {
        if outs.is_empty() {
            return Ok(None);
        }
        let mut roots = Vec::with_capacity(target.outputs.len());
        for &at in &target.outputs {
            roots.push(Root {
                platform: self.definition.outputs[at].platform.clone(),
                snapshot: self.root(at)?.unwrap_or_else(|| self.engine.empty()),
            });
        }
        let mut built = Built {
            name: None,
            image: None,
            deliveries: Vec::new(),
        };
        for (spec, exporter) in outs {
            let begun = match &spec.kind {
                OutputKind::Oci { dest, tar: true } | OutputKind::Docker { dest, tar: true } => {
                    Begun::new(dest)
                }
                _ => None,
            };
            let begun = begun.as_ref();
            let made = match spec.kind.is_image() {
                true => Some(self.image(target, spec, names, clamp, &roots, begun)?),
                false => None,
            };
            if matches!(spec.kind, OutputKind::Tar { .. } | OutputKind::Local { .. }) {
                for root in &roots {
                    self.engine
                        .prepare_files(&root.snapshot)
                        .map_err(|error| failure::assembling(error, self.definition))?;
                }
            }
            let open = |snapshot: &Snapshot, path: &[u8], node: &FileNode| {
                self.engine.open_in(snapshot, path, node)
            };
            let fetch = |layer: &LayerRef, blob: &OciDigest| {
                let fetched = match &layer.origin {
                    Some(origin) => self.engine.fetch_blob(origin),
                    None => self.engine.fetch_own_blob(layer, blob),
                };
                fetched.map_err(io::Error::other)
            };
            let near = |layer: &LayerRef, blob: &OciDigest, registry: &str| {
                self.engine.near(layer, blob, registry)
            };
            let here = |layer: &LayerRef| self.engine.is_here(layer);
            let export = Export {
                fetch: &fetch,
                near: &near,
                here: &here,
                begun,
                roots: &roots,
                several: target.several,
                images: made.as_ref().map_or(&[], |made| &made.images),
                index: made.as_ref().and_then(|made| made.index.as_ref()),
                top: made.as_ref().map(|made| &made.top),
                names: made.as_ref().map_or(&[], |made| &made.names),
                epoch: spec.epoch.or(self.request.source_date_epoch),
                store: self.engine.store(),
                lease: self.engine.lease(),
                registry: self.engine.registry(),
                open: &open,
                cancel: self.cancel,
            };
            if let Some(exporter) = exporter {
                let task = assemble::begin(spec, &target.name, self.events);
                let delivered = exporter.export(&export);
                task.end(delivered.as_ref().err().map(ToString::to_string));
                built.deliveries.extend(delivered.map_err(failure::export)?);
            }
            built.image = made.map(Made::built).or(built.image);
        }
        Ok(Some(built))
    }

    /// Leaves in the store what the next build goes on from: images have blobs of their layers, files alone have none.
    fn keep(&self, target: &Target) -> Result<(), BuildError> {
        let failed = |error| failure::assembling(error, self.definition);
        let roots = target.outputs.iter().filter_map(|&at| self.snapshot(at));
        let mut lost = Vec::new();
        for layer in roots.flat_map(|root| root.layers) {
            if !self.engine.is_kept(&layer).map_err(failed)? {
                lost.push(layer);
            }
        }
        // An unchanged build must not start threads to find that out.
        if lost.is_empty() {
            return Ok(());
        }
        let keep = |layer: &LayerRef| self.engine.keep_bytes(layer, self.cancel);
        let kept = once_each(&lost, |layer| layer.layer.tree, keep);
        kept.map(drop).map_err(failed)
    }

    /// The images of a target as an output has them.
    fn image(
        &self,
        target: &Target,
        spec: &OutputSpec,
        names: &[String],
        clamp: Option<i64>,
        roots: &[Root],
        begun: Option<&Begun>,
    ) -> Result<Made, BuildError> {
        let mut images = Vec::with_capacity(roots.len());
        let mut created = None;
        let known = self.inline.get(target.name.as_str());
        let known = known.or_else(|| self.inline.get(""));
        for (&at, root) in target.outputs.iter().zip(roots) {
            // Where layers of the others are to be is known when these are made.
            let begun = begun.filter(|_| images.is_empty());
            let (image, when) = assemble::image(
                self.request,
                spec,
                clamp,
                self.engine,
                &assemble::Made {
                    output: &self.definition.outputs[at],
                    definition: self.definition,
                    known: known.map(Vec::as_slice),
                    begun,
                },
                &root.snapshot,
                self.cancel,
            )
            .map_err(|error| failure::assembling(error, self.definition))?;
            images.push(image);
            created = created.max(when);
        }
        let index = target.several.then(|| assemble::index(spec, &images));
        let mut top = match &index {
            Some(index) => index.descriptor.clone(),
            None => images[0].descriptor.clone(),
        };
        let names = match &spec.kind {
            OutputKind::Image(output) => {
                store::names(output, names, top.digest).map_err(failure::export)?
            }
            _ => {
                // When the image was made: BuildKit has when it was exported, so that no two archives are equal.
                if let Some(created) = created {
                    top.annotations.entry(CREATED.to_owned()).or_insert(created);
                }
                names.to_vec()
            }
        };
        Ok(Made {
            images,
            index,
            top,
            names,
        })
    }

    /// Tests failed: the first step that did, and what else must be known.
    fn failure(self, failed: &[&str], held: &[&str]) -> BuildError {
        let first = self.solved.failed.into_iter().next();
        let error = match first {
            Some(first) => failure::solve(first, self.engine, self.definition, self.plan),
            None => BuildError::new(ErrorKind::Step, anyhow::anyhow!("a test failed")),
        };
        tests_failed(error, failed, held)
    }
}

/// Adds which tests failed, and what was held back for them, to why the first one did.
pub(super) fn tests_failed<S: AsRef<str>>(
    mut error: BuildError,
    failed: &[S],
    held: &[S],
) -> BuildError {
    let list = |names: &[S]| {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        format!("`{}`", names.join("`, `"))
    };
    error.hints.push(match failed {
        [one] => format!("the test `{}` failed", one.as_ref()),
        several => format!("the tests {} failed", list(several)),
    });
    if let Some(text) = match held {
        [] => None,
        [one] => Some(format!(
            "`{}` was not written: it requires a test that failed",
            one.as_ref()
        )),
        several => Some(format!(
            "{} were not written: they require tests that failed",
            list(several)
        )),
    } {
        error.hints.push(text);
    }
    error
}
