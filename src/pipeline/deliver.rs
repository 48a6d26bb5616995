//! Lines 8 and 9 of the pipeline: what becomes of each target.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::FileNode;
use rbuild_cache::Snapshot;
use rbuild_llb::CancelToken;
use rbuild_llb::Diagnostic;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::frontend::FilesExport;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::GoalExport;
use rbuild_llb::frontend::GoalKind;

use super::assemble;
use super::failure;
use super::plan;
use crate::exporter::Export;
use crate::exporter::Exporter;
use crate::exporter::archive;
use crate::exporter::load::Loader;
use crate::exporter::local;
use crate::exporter::local::Local;
use crate::exporter::push::Push;
use crate::exporter::store::OwnStore;
use crate::exporter::tar::Tar;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::ops::StepResult;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::request::BuildRequest;
use crate::request::Compression;
use crate::request::Destination;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::solver::Root;
use crate::solver::SolveError;
use crate::solver::Solved;
use crate::ui::EventSink;

/// The time that plans clamp times in layers to where SOURCE_DATE_EPOCH is not set: 1980-01-01, the first that zip
/// archives can hold.
const CLAMP: i64 = 315_532_800;

/// A target with what is to be done with it.
#[derive(Debug)]
pub(super) struct Target {
    name: String,
    /// Whether the request was for it alone: then its name is always said, as bake does it.
    own: bool,
    /// Its outputs in the definition, one a platform.
    outputs: Vec<usize>,
    require: Vec<String>,
    deeds: Deeds,
}

#[derive(Debug)]
enum Deeds {
    Output {
        names: Vec<String>,
        specs: Vec<OutputSpec>,
        files: Vec<FilesExport>,
        /// Unix seconds.
        clamp: Option<i64>,
    },
    Test {
        files: Vec<FilesExport>,
    },
}

/// An output without options.
pub(super) fn plain(kind: OutputKind) -> OutputSpec {
    OutputSpec {
        kind,
        compression: Compression::Default,
        force_compression: false,
        rewrite_timestamp: false,
    }
}

/// The goals of all platforms, by their names, with what the request says besides.
pub(super) fn targets(
    request: &BuildRequest,
    own: &BTreeMap<&str, &BuildRequest>,
    plan: &plan::Plan,
    goals: Vec<Goal>,
) -> Result<Vec<Target>, BuildError> {
    let mut grouped: Vec<(Goal, Vec<usize>)> = Vec::new();
    for (at, goal) in goals.into_iter().enumerate() {
        match grouped.iter_mut().find(|(have, _)| have.name == goal.name) {
            Some((_, outputs)) => outputs.push(at),
            None => grouped.push((goal, vec![at])),
        }
    }
    let is_output = |goal: &Goal| matches!(goal.kind, GoalKind::Output { .. });
    let several = grouped.iter().filter(|(goal, _)| is_output(goal)).count() > 1;
    let mut problems = Vec::new();
    for tag in &request.tags {
        let known = |name: &String| {
            grouped
                .iter()
                .any(|(goal, _)| is_output(goal) && goal.name == *name)
        };
        match &tag.target {
            None if several => problems.push(
                Diagnostic::unplaced(
                    "several targets are built, and one name cannot be that of all",
                )
                .hint(format!("say whose it is: `-t TARGET={}`", tag.name)),
            ),
            Some(target) if !known(target) => {
                problems.push(Diagnostic::unplaced(format!(
                    "`-t {target}=…` names no target that is built"
                )));
            }
            _ => {}
        }
    }
    let targets: Vec<Target> = grouped
        .into_iter()
        .map(|(goal, outputs)| match own.get(goal.name.as_str()) {
            Some(own) => Target {
                own: true,
                ..target(own, plan, goal, outputs, false)
            },
            None => target(request, plan, goal, outputs, several),
        })
        .collect();
    for target in &targets {
        if let Deeds::Output { names, specs, .. } = &target.deeds {
            let pushes = |spec: &OutputSpec| spec.kind == OutputKind::Image { push: true };
            if names.is_empty() && specs.iter().any(pushes) {
                let hint = "add `-t registry.example.org/name:tag`";
                problems.push(
                    Diagnostic::unplaced("there is no name to push the image under").hint(hint),
                );
            }
        }
    }
    problems.extend(clashes(&targets));
    match problems.is_empty() {
        true => Ok(targets),
        false => Err(BuildError::request(problems)),
    }
}

fn target(
    request: &BuildRequest,
    plan: &plan::Plan,
    goal: Goal,
    outputs: Vec<usize>,
    several: bool,
) -> Target {
    let Goal {
        name,
        require,
        kind,
        ..
    } = goal;
    let deeds = match kind {
        GoalKind::Test { exports } => Deeds::Test {
            files: exports
                .into_iter()
                .map(|files| from_plan(plan, files))
                .collect(),
        },
        GoalKind::Output {
            tags,
            push,
            clamp,
            exports,
        } => {
            let own = |tag: &&crate::request::Tag| {
                tag.target.as_ref().is_none_or(|target| *target == name)
            };
            let asked: Vec<String> = request
                .tags
                .iter()
                .filter(own)
                .map(|tag| tag.name.clone())
                .collect();
            let named = !asked.is_empty();
            let names = if named { asked } else { tags };
            let mut files = Vec::new();
            let mut specs: Vec<OutputSpec> = request.outputs.clone();
            if several {
                specs
                    .iter_mut()
                    .for_each(|spec| apart(&mut spec.kind, &name));
            }
            if specs.is_empty() {
                for export in exports {
                    match export {
                        GoalExport::Files(export) => files.push(from_plan(plan, export)),
                        GoalExport::Oci { to, tar } => specs.push(plain(OutputKind::Oci {
                            dest: Destination::File(plan.dir.join(to)),
                            tar,
                        })),
                        GoalExport::Docker { to } => specs.push(plain(OutputKind::Docker {
                            dest: Destination::File(plan.dir.join(to)),
                        })),
                        GoalExport::Tar { to } => specs.push(plain(OutputKind::Tar {
                            dest: Destination::File(plan.dir.join(to)),
                        })),
                    }
                }
                // What is only files is no image.
                if (specs.is_empty() && files.is_empty()) || !names.is_empty() {
                    specs.push(plain(OutputKind::Image { push }));
                }
            }
            Deeds::Output {
                names,
                specs,
                files,
                clamp: clamp.then(|| request.source_date_epoch.unwrap_or(CLAMP)),
            }
        }
    };
    Target {
        name,
        own: false,
        outputs,
        require,
        deeds,
    }
}

/// Gives one of several targets its own directory.
fn apart(kind: &mut OutputKind, name: &str) {
    if let OutputKind::Local { dest } = kind {
        dest.push(name.replace('/', "_"));
    }
}

fn from_plan(plan: &plan::Plan, files: FilesExport) -> FilesExport {
    let to = plan.dir.join(&files.to).display().to_string();
    FilesExport { to, ..files }
}

/// Files that several targets would write.
fn clashes(targets: &[Target]) -> Vec<Diagnostic> {
    let mut seen: Vec<(&Destination, &str)> = Vec::new();
    let mut problems = Vec::new();
    for target in targets {
        let Deeds::Output { specs, .. } = &target.deeds else {
            continue;
        };
        for spec in specs {
            let dest = match &spec.kind {
                OutputKind::Oci { dest, .. }
                | OutputKind::Docker { dest }
                | OutputKind::Tar { dest } => dest,
                _ => continue,
            };
            if let Some((_, other)) = seen.iter().find(|(have, _)| *have == dest) {
                let place = match dest {
                    Destination::Stdout => "standard output".to_owned(),
                    Destination::File(path) => format!("`{}`", path.display()),
                };
                let message = format!(
                    "`{other}` and `{}` would both be written to {place}",
                    target.name
                );
                problems.push(
                    Diagnostic::unplaced(message)
                        .hint("build one of them, or give each its own place in the plan"),
                );
            }
            seen.push((dest, &target.name));
        }
    }
    problems
}

/// The steps that only tests need: they may fail, and what they leave may be exported.
pub(super) struct Tests {
    own: BTreeSet<VertexId>,
    exporting: bool,
}

impl Tests {
    pub(super) fn new(targets: &[Target], definition: &PrunedDefinition) -> Self {
        let (mut of_tests, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut exporting = false;
        if targets
            .iter()
            .all(|target| matches!(target.deeds, Deeds::Output { .. }))
        {
            return Self {
                own: of_tests,
                exporting,
            };
        }
        for target in targets {
            let reached = match &target.deeds {
                Deeds::Test { files } => {
                    exporting |= !files.is_empty();
                    &mut of_tests
                }
                Deeds::Output { .. } => &mut others,
            };
            for &at in &target.outputs {
                let root = definition.outputs[at].root.map(|edge| edge.vertex);
                reach(definition, root, reached);
            }
        }
        Self {
            own: of_tests.difference(&others).copied().collect(),
            exporting,
        }
    }

    pub(super) fn may_fail(&self, step: &VertexId) -> bool {
        self.own.contains(step)
    }

    pub(super) fn kept(&self) -> BTreeSet<VertexId> {
        match self.exporting {
            true => self.own.clone(),
            false => BTreeSet::new(),
        }
    }
}

fn reach(definition: &PrunedDefinition, from: Option<VertexId>, reached: &mut BTreeSet<VertexId>) {
    let mut open: Vec<VertexId> = from.into_iter().collect();
    while let Some(id) = open.pop() {
        if reached.insert(id)
            && let Some(vertex) = definition.get(&id)
        {
            open.extend(vertex.inputs.iter().map(|edge| edge.vertex));
        }
    }
}

/// An output with what writes it; `None` for `type=cacheonly`.
type Out<'a> = (&'a OutputSpec, Option<Box<dyn Exporter>>);

/// The exporters of all targets, ready: what must be started outside the user namespace is.
pub(super) fn exporters<'a>(
    request: &BuildRequest,
    targets: &'a [Target],
) -> Result<Vec<Vec<Out<'a>>>, BuildError> {
    let exporter =
        |spec: &OutputSpec, clamp: Option<i64>| -> Result<Option<Box<dyn Exporter>>, BuildError> {
            Ok(Some(match &spec.kind {
                OutputKind::CacheOnly => return Ok(None),
                OutputKind::Image { push: false } => Box::new(OwnStore),
                OutputKind::Image { push: true } => Box::new(Push),
                OutputKind::Oci { dest, tar } => Box::new(archive::Oci {
                    dest: dest.clone(),
                    tar: *tar,
                }),
                OutputKind::Docker { dest } => Box::new(archive::Docker { dest: dest.clone() }),
                OutputKind::Load => Box::new(Loader::start().map_err(failure::export)?),
                OutputKind::Tar { dest } => {
                    let rewritten = spec
                        .rewrite_timestamp
                        .then_some(request.source_date_epoch)
                        .flatten();
                    Box::new(Tar {
                        dest: dest.clone(),
                        clamp: rewritten.or(clamp),
                    })
                }
                OutputKind::Local { dest } => Box::new(Local { dest: dest.clone() }),
            }))
        };
    let of_target = |target: &'a Target| match &target.deeds {
        Deeds::Test { .. } => Ok(Vec::new()),
        Deeds::Output { specs, clamp, .. } => specs
            .iter()
            .map(|spec| Ok((spec, exporter(spec, *clamp)?)))
            .collect(),
    };
    targets.iter().map(of_target).collect()
}

/// Whether more is done than to name images in rbuild's own store.
pub(super) fn writes_files(request: &BuildRequest, targets: &[Target]) -> bool {
    let writes = |target: &Target| match &target.deeds {
        Deeds::Test { files } => !files.is_empty(),
        Deeds::Output { specs, files, .. } => {
            !files.is_empty()
                || specs
                    .iter()
                    .any(|spec| spec.kind != OutputKind::Image { push: false })
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
        outputs.any(|at| matches!(self.solved.roots[*at], Root::Lost))
    }

    fn snapshot(&self, output: usize) -> Option<Snapshot> {
        match (
            &self.solved.roots[output],
            self.definition.outputs[output].root,
        ) {
            (Root::Made(made), Some(edge)) => Some(made.outputs[edge.output as usize].clone()),
            (Root::Lost, _) => self.left_by(output),
            _ => Some(self.engine.empty()),
        }
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
            if matches!(self.solved.roots[at], Root::Lost)
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
        let mut built: Option<Built> = None;
        for (spec, exporter) in outs {
            let mut images = Vec::with_capacity(target.outputs.len());
            for &at in &target.outputs {
                let snapshot = self.snapshot(at).unwrap_or_else(|| self.engine.empty());
                let output = &self.definition.outputs[at];
                let image = assemble::image(
                    self.request,
                    spec,
                    clamp,
                    self.engine,
                    &assemble::Made {
                        output,
                        definition: self.definition,
                    },
                    snapshot,
                    self.cancel,
                )
                .map_err(|error| failure::assembling(error, self.definition))?;
                images.push(image);
            }
            let index = assemble::index(&images);
            if matches!(spec.kind, OutputKind::Tar { .. } | OutputKind::Local { .. }) {
                for image in &images {
                    self.engine
                        .prepare_files(&image.snapshot)
                        .map_err(|error| failure::assembling(error, self.definition))?;
                }
            }
            let open = |snapshot: &Snapshot, path: &[u8], node: &FileNode| {
                self.engine.open_in(snapshot, path, node)
            };
            let export = Export {
                images: &images,
                index: index.as_ref(),
                names,
                store: self.engine.store(),
                lease: self.engine.lease(),
                registry: self.engine.registry(),
                open: &open,
                cancel: self.cancel,
            };
            let delivery = exporter.map(|exporter| {
                let step = assemble::ExportStep::start(spec, &target.name, self.events);
                let delivery = exporter.export(&export);
                step.end(
                    delivery.as_ref().err().map(ToString::to_string),
                    self.events,
                );
                delivery
            });
            let delivery = delivery.transpose().map_err(failure::export)?;
            let top = export.top().digest;
            let built = built.get_or_insert_with(|| Built {
                name: None,
                id: if index.is_none() { images[0].id } else { top },
                digest: top,
                size: images.iter().map(crate::exporter::ReadyImage::size).sum(),
                names: names.to_vec(),
                deliveries: Vec::new(),
            });
            built.deliveries.extend(delivery.unwrap_or_default());
        }
        Ok(built)
    }

    /// Tests failed: the first step that did, and what else must be known.
    fn failure(self, failed: &[&str], held: &[&str]) -> BuildError {
        let first = self.solved.failed.into_iter().next();
        let mut error = match first {
            Some(first) => failure::solve(first, self.definition, self.plan),
            None => BuildError::new(ErrorKind::Step, anyhow::anyhow!("a test failed")),
        };
        let list = |names: &[&str]| format!("`{}`", names.join("`, `"));
        error.hints.push(match failed {
            [one] => format!("the test `{one}` failed"),
            several => format!("the tests {} failed", list(several)),
        });
        if let Some(text) = match held {
            [] => None,
            [one] => Some(format!(
                "`{one}` was not written: it requires a test that failed"
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
}

/// `--iidfile` and `--metadata-file`: last, and each at once.
fn write_reports(request: &BuildRequest, outcome: &BuildOutcome) -> Result<(), BuildError> {
    if let Some(path) = &request.iidfile {
        let ids: Vec<String> = outcome
            .built
            .iter()
            .map(|built| built.id.to_string())
            .collect();
        write_whole(path, ids.join("\n").as_bytes())?;
    }
    if let Some(path) = &request.metadata_file {
        let of = |built: &Built| {
            let mut metadata = serde_json::json!({
                "containerimage.config.digest": built.id.to_string(),
                "containerimage.digest": built.digest.to_string(),
            });
            if !built.names.is_empty() {
                metadata["image.name"] = built.names.join(",").into();
            }
            metadata
        };
        // Of several targets each has its own, as bake writes them.
        let metadata = match outcome.built.as_slice() {
            [built] if built.name.is_none() => of(built),
            several => several
                .iter()
                .map(|built| (built.name.clone().unwrap_or_default(), of(built)))
                .collect(),
        };
        let text =
            serde_json::to_vec_pretty(&metadata).expect("a JSON value can always be written");
        write_whole(path, &text)?;
    }
    Ok(())
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    use std::io::Write as _;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut aside = tempfile::Builder::new()
            .prefix(".rbuild-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent)?;
        aside.write_all(bytes)?;
        aside.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot write `{}`", path.display()));
        BuildError::new(ErrorKind::Environment, error)
    })
}
