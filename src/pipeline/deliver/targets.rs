//! What is to become of each target, from the goals of the frontend and the request; and what cannot.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::frontend::FilesExport;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::GoalExport;
use rbuild_llb::frontend::GoalKind;

use crate::outcome::BuildError;
use crate::pipeline::plan;
use crate::request::AnnotationLevel;
use crate::request::BuildRequest;
use crate::request::Destination;
use crate::request::Epoch;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Push;

/// The time that plans clamp times in layers to where SOURCE_DATE_EPOCH is not set: 1980-01-01, the first that zip
/// archives can hold.
const CLAMP: i64 = 315_532_800;

/// A target with what is to be done with it.
#[derive(Debug)]
pub(in crate::pipeline) struct Target {
    pub(in crate::pipeline) name: String,
    /// Whether the request was for it alone: then its name is always said, as bake does it.
    pub(in crate::pipeline) own: bool,
    /// Its outputs in the definition, one a platform.
    pub(in crate::pipeline) outputs: Vec<usize>,
    /// Whether it is written as for several platforms: with an index, with directories for each.
    pub(in crate::pipeline) several: bool,
    pub(in crate::pipeline) require: Vec<String>,
    pub(super) deeds: Deeds,
}

impl Target {
    pub(in crate::pipeline) fn is_test(&self) -> bool {
        matches!(self.deeds, Deeds::Test { .. })
    }

    /// What is made of it.
    pub(in crate::pipeline) fn specs(&self) -> &[OutputSpec] {
        match &self.deeds {
            Deeds::Output { specs, .. } => specs,
            Deeds::Test { .. } => &[],
        }
    }

    /// Names of its image, normalised.
    pub(in crate::pipeline) fn names(&self) -> &[String] {
        match &self.deeds {
            Deeds::Output { names, .. } => names,
            Deeds::Test { .. } => &[],
        }
    }

    /// What times in its layers are clamped to, Unix seconds.
    pub(in crate::pipeline) fn clamp(&self) -> Option<i64> {
        match &self.deeds {
            Deeds::Output { clamp, .. } => *clamp,
            Deeds::Test { .. } => None,
        }
    }

    /// Files of its last step that are written by themselves.
    pub(in crate::pipeline) fn files(&self) -> &[FilesExport] {
        match &self.deeds {
            Deeds::Output { files, .. } | Deeds::Test { files } => files,
        }
    }

    /// One of its platforms, of which nothing but these outputs is made.
    pub(in crate::pipeline) fn part(&self, output: usize, specs: Vec<OutputSpec>) -> Self {
        Self {
            name: self.name.clone(),
            own: self.own,
            outputs: vec![output],
            several: false,
            require: Vec::new(),
            deeds: Deeds::Output {
                names: self.names().to_vec(),
                specs,
                files: Vec::new(),
                clamp: self.clamp(),
            },
        }
    }

    fn is_annotated(&self) -> bool {
        match &self.deeds {
            Deeds::Output { specs, .. } => specs.iter().any(|spec| !spec.annotations.is_empty()),
            Deeds::Test { .. } => false,
        }
    }
}

#[derive(Debug)]
pub(super) enum Deeds {
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

/// The goals of all platforms, by their names, with what the request says besides.
pub(in crate::pipeline) fn targets(
    request: &BuildRequest,
    own: &BTreeMap<&str, &BuildRequest>,
    plan: &plan::Plan,
    definition: &PrunedDefinition,
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
    let by_plan = |goal: &Goal| request.outputs.is_empty() || !is_output(goal);
    let goals = grouped.iter().map(|(goal, _)| goal);
    let mut problems: Vec<Diagnostic> = goals
        .filter(|goal| by_plan(goal))
        .flat_map(|goal| strays(plan, goal))
        .collect();
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
            let platforms = target
                .outputs
                .iter()
                .map(|&at| &definition.outputs[at].platform);
            let platforms: Vec<&Platform> = platforms.collect();
            for spec in specs {
                problems.extend(unfit(spec, target.several, &platforms));
            }
            let nameless = |spec: &OutputSpec| match &spec.kind {
                OutputKind::Image(image) => image.push != Push::No && image.dangling.is_none(),
                _ => false,
            };
            if names.is_empty() && specs.iter().any(nameless) {
                let hint = "add `-t registry.example.org/name:tag`";
                problems.push(
                    Diagnostic::unplaced("there is no name to push the image under").hint(hint),
                );
            }
        }
    }
    let requests = own.values().copied().chain([request]);
    let wanted = requests.flat_map(|request| &request.annotations).next();
    if wanted.is_some() && !targets.iter().any(Target::is_annotated) {
        let message = "`--annotation` annotates images, and none is made";
        let hint = "leave it out, or add an output that is an image";
        problems.push(Diagnostic::unplaced(message).hint(hint));
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
                        GoalExport::Oci { to, tar } => {
                            specs.push(OutputSpec::plain(OutputKind::Oci {
                                dest: Destination::File(plan.home.output(&to)),
                                tar,
                            }))
                        }
                        GoalExport::Docker { to } => {
                            specs.push(OutputSpec::plain(OutputKind::Docker {
                                dest: Destination::File(plan.home.output(&to)),
                                tar: true,
                            }))
                        }
                        GoalExport::Tar { to } => specs.push(OutputSpec::plain(OutputKind::Tar {
                            dest: Destination::File(plan.home.output(&to)),
                            split: None,
                        })),
                    }
                }
                // What is only files is no image.
                if (specs.is_empty() && files.is_empty()) || !names.is_empty() {
                    let push = match push {
                        true => Push::ByName,
                        false => Push::No,
                    };
                    specs.push(OutputSpec::plain(OutputKind::Image(
                        ImageOutput::with_push(push),
                    )));
                }
            }
            for spec in &mut specs {
                if spec.kind.is_image() {
                    spec.annotations.extend(request.annotations.iter().cloned());
                }
                // Of several requests in one build each has its own.
                if let (Epoch::OfBuild, Some(epoch)) = (spec.epoch, request.source_date_epoch) {
                    spec.epoch = Epoch::At(epoch);
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
        several: outputs.len() > 1 || request.multi_platform,
        outputs,
        require,
        deeds,
    }
}

/// What an output asks for that images for these platforms do not have.
fn unfit(spec: &OutputSpec, several: bool, platforms: &[&Platform]) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for annotation in &spec.annotations {
        let key = &annotation.key;
        if annotation.level.is_of_index() && !several {
            let message =
                format!("the annotation `{key}` is for an index, and one platform has none");
            let hint = "annotate the manifest, build several platforms, or set `--build-arg BUILDKIT_MULTI_PLATFORM=1`";
            problems.push(Diagnostic::unplaced(message).hint(hint));
        } else if spec.docker_types && annotation.level != AnnotationLevel::Manifest {
            let message = format!("the annotation `{key}` has no place in docker's media types");
            let hint = "leave `oci-mediatypes=false` out, or annotate the manifest";
            problems.push(Diagnostic::unplaced(message).hint(hint));
        }
        if let Some(platform) = &annotation.platform
            && !platforms.contains(&platform)
        {
            let message = format!("the annotation `{key}` is for {platform}, which is not built");
            let built: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            let hint = format!("what is built is {}", built.join(", "));
            problems.push(Diagnostic::unplaced(message).hint(hint));
        }
    }
    if let OutputKind::Tar {
        split: Some(false), ..
    } = spec.kind
        && platforms.len() > 1
    {
        let message = "`type=tar` has a directory for each of several platforms";
        let hint = "leave `platform-split=false` out, or use `type=local`";
        problems.push(Diagnostic::unplaced(message).hint(hint));
    }
    problems
}

/// Gives one of several targets its own directory.
fn apart(kind: &mut OutputKind, name: &str) {
    if let OutputKind::Local { dest, .. } = kind {
        dest.push(name.replace('/', "_"));
    }
}

fn from_plan(plan: &plan::Plan, files: FilesExport) -> FilesExport {
    let to = plan.home.output(&files.to).display().to_string();
    FilesExport { to, ..files }
}

/// What a plan from elsewhere has no business to do: it is not the user's, as one in a directory is.
fn strays(plan: &plan::Plan, goal: &Goal) -> Vec<Diagnostic> {
    let of_files = |files: &FilesExport| (files.to.clone(), Some(files.span.clone()));
    let (places, push): (Vec<_>, bool) = match &goal.kind {
        GoalKind::Test { exports } => (exports.iter().map(of_files).collect(), false),
        GoalKind::Output { exports, push, .. } => {
            let places = exports.iter().map(|export| match export {
                GoalExport::Files(files) => of_files(files),
                GoalExport::Oci { to, .. } | GoalExport::Docker { to } | GoalExport::Tar { to } => {
                    (to.clone(), None)
                }
            });
            (places.collect(), *push)
        }
    };
    let strays = places
        .into_iter()
        .filter(|(to, _)| !plan.home.may_write(to));
    let mut refused: Vec<Diagnostic> = strays
        .map(|(to, span)| {
            let message = format!(
                "`{to}` is not below the working directory, and a plan from elsewhere writes nowhere else"
            );
            let diagnostic = match span {
                Some(span) => Diagnostic::error(message, span, ""),
                None => Diagnostic::unplaced(message),
            };
            diagnostic
                .hint("name another place with `-o`, or fetch the plan and build its directory")
        })
        .collect();
    if push && plan.home.fence.is_some() {
        let message = format!(
            "the plan comes from elsewhere, and wants `{}` pushed",
            goal.name
        );
        refused.push(Diagnostic::unplaced(message).hint("`--push` says that you want it as well"));
    }
    refused
}

/// Files that several targets would write.
fn clashes(targets: &[Target]) -> Vec<Diagnostic> {
    let mut seen: Vec<(Destination, &str)> = Vec::new();
    let mut problems = Vec::new();
    for target in targets {
        let Deeds::Output { specs, .. } = &target.deeds else {
            continue;
        };
        for spec in specs {
            let dest = match &spec.kind {
                OutputKind::Oci { dest, .. }
                | OutputKind::Docker { dest, .. }
                | OutputKind::Tar { dest, .. } => dest,
                _ => continue,
            };
            let place = match dest {
                Destination::Stdout => "standard output".to_owned(),
                Destination::File(path) => format!("`{}`", path.display()),
            };
            // However it is written.
            let dest = match dest {
                Destination::File(path) => {
                    let whole = std::path::absolute(path);
                    Destination::File(whole.unwrap_or_else(|_| path.clone()))
                }
                Destination::Stdout => Destination::Stdout,
            };
            match seen.iter().find(|(have, _)| *have == dest) {
                Some((_, other)) if *other == target.name => {
                    let message = format!("two outputs would be written to {place}");
                    let hint = "give each its own with `dest=`";
                    problems.push(Diagnostic::unplaced(message).hint(hint));
                }
                Some((_, other)) => {
                    let message = format!(
                        "`{other}` and `{}` would both be written to {place}",
                        target.name
                    );
                    let hint = "build one of them, or give each its own place in the plan";
                    problems.push(Diagnostic::unplaced(message).hint(hint));
                }
                None => {}
            }
            seen.push((dest, &target.name));
        }
    }
    problems
}

/// The steps that only tests need: they may fail, and what they leave may be exported.
pub(in crate::pipeline) struct Tests {
    own: BTreeSet<VertexId>,
    exporting: bool,
}

impl Tests {
    pub(in crate::pipeline) fn new(targets: &[Target], definition: &PrunedDefinition) -> Self {
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

    pub(in crate::pipeline) fn may_fail(&self, step: &VertexId) -> bool {
        self.own.contains(step)
    }

    pub(in crate::pipeline) fn kept(&self) -> BTreeSet<VertexId> {
        match self.exporting {
            true => self.own.clone(),
            false => BTreeSet::new(),
        }
    }
}

pub(in crate::pipeline) fn reach(
    definition: &PrunedDefinition,
    from: Option<VertexId>,
    reached: &mut BTreeSet<VertexId>,
) {
    let mut open: Vec<VertexId> = from.into_iter().collect();
    while let Some(id) = open.pop() {
        if reached.insert(id)
            && let Some(vertex) = definition.get(&id)
        {
            open.extend(vertex.inputs.iter().map(|edge| edge.vertex));
        }
    }
}
