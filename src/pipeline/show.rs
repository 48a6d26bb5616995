//! The graph of a plan as it is shown: what it consists of, what is cached, what must run and why, and how long each
//! step took the last time. Nothing runs; sources are pinned and keys looked up as a build does it.

use std::collections::BTreeMap;

use rbuild_llb::CancelToken;
use rbuild_llb::Edge;
use rbuild_llb::Op;
use rbuild_llb::Span;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Timestamp;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::SourceOp;
use rbuild_llb::secrets::looks_secret;

use super::Opened;
use super::Planned;
use super::caches;
use super::conceal::Conceal;
use super::definition;
use super::failure;
use super::files;
use super::lock;
use super::open;
use super::pin;
use crate::clock;
use crate::ops::Engine;
use crate::ops::EngineOptions;
use crate::ops::why::Words;
use crate::outcome::BuildError;
use crate::picture::Detail;
use crate::picture::GraphView;
use crate::picture::InputView;
use crate::picture::MountView;
use crate::picture::OutputView;
use crate::picture::Place;
use crate::picture::StepState;
use crate::picture::StepView;
use crate::request::BuildRequest;
use crate::sandbox;
use crate::solver;
use crate::solver::Miss;
use crate::solver::PlannedState;
use crate::solver::PlannedStep;
use crate::solver::StepName;
use crate::ui;
use crate::ui::Progress;

/// The graph of a plan, for `rbuild plan`.
///
/// # Errors
/// As [`build`](super::build), up to where something would run.
pub fn show(request: &BuildRequest, progress: &Progress) -> Result<GraphView, BuildError> {
    let Opened {
        store,
        lease,
        registry,
        plan,
    } = open(request)?;
    let lock = lock::Lock::of(request, &plan)?;
    let pinner = pin::Pinner::new(request, &lock, &store, &lease, &registry);
    let frontend = plan.language.frontend();
    let Planned { definition, .. } =
        definition(request, &plan, frontend, &pinner, &progress.events())?;
    let locals = files::locals(&plan, &definition)?;
    let options = EngineOptions {
        locals,
        secrets: request.secrets.clone(),
        ssh: request.ssh.clone(),
        plan: plan.identity.clone(),
        source_date_epoch: request.source_date_epoch,
        offline: request.offline,
        ranges_only: request.settings.ranges_only,
        ..EngineOptions::default()
    };
    let cancel = CancelToken::new();
    let mut engine = Engine::new(
        &store,
        &lease,
        &definition,
        &registry,
        &cancel,
        options,
        sandbox::expected_domain(),
    );
    let imports = caches::import(
        request,
        &BTreeMap::new(),
        &store,
        &registry,
        &progress.events(),
    );
    if let Some(imports) = &imports {
        engine.set_remote(imports);
    }
    let planned = solver::plan(&definition, &engine)
        .map_err(|error| failure::plan(error, &definition, &plan))?;
    let conceal = Conceal::new(&definition, [&request.build_args]);
    let words = Words {
        trees: store.trees(),
        conceal: &|text| conceal.text(text),
    };
    let why = |step: &PlannedStep<'_>, miss: &Miss| words.why(step.vertex, miss, |_| String::new());
    let mut view = view(&definition, planned.steps(), &conceal, why, |step| {
        engine.last_took(step)
    });
    tell_ages(&mut view, &pinner.checked());
    Ok(view)
}

/// Says of images when their tags were asked for, by name.
fn tell_ages(view: &mut GraphView, checked: &BTreeMap<String, Timestamp>) {
    let now = clock::now();
    for step in &mut view.steps {
        if let Some(Detail::Source {
            r#type: "image",
            reference,
            asked,
            age,
            ..
        }) = &mut step.detail
        {
            *asked = checked.get(reference).copied();
            *age = asked.map(|then| ui::age(then, now));
        }
    }
}

/// The view of a definition, of what is planned about each of its steps, and of the milliseconds it took.
fn view<'p>(
    definition: &PrunedDefinition,
    planned: impl Iterator<Item = PlannedStep<'p>>,
    conceal: &Conceal,
    why: impl Fn(&PlannedStep<'p>, &Miss) -> String,
    took: impl Fn(&PlannedStep<'p>) -> Option<u64>,
) -> GraphView {
    let mut positions: BTreeMap<VertexId, usize> = BTreeMap::new();
    let mut steps: Vec<StepView> = Vec::with_capacity(definition.len());
    for step in planned {
        let inputs: Vec<InputView> = step
            .vertex
            .inputs
            .iter()
            .map(|edge| input(&positions, edge))
            .collect();
        let name = conceal.text(&step.vertex.meta.name);
        let (state, miss) = state(&step);
        let (why, waits_for) = reasons(miss, &inputs, |miss| why(&step, miss));
        steps.push(StepView {
            id: solver::event_digest(&step.id),
            key: step.key.hex(),
            kind: step.vertex.op.kind(),
            stage: StepName::of(&name).stage(),
            name,
            platform: step.vertex.platform.to_string(),
            base: base(step.vertex),
            inputs,
            detail: detail(&step.vertex.op, conceal),
            at: step.vertex.meta.spans.first().map(place),
            state,
            why,
            waits_for,
            millis: took(&step),
        });
        positions.insert(step.id, steps.len() - 1);
    }
    let outputs = definition.outputs.iter().map(|output| OutputView {
        name: output.name.clone(),
        platform: output.platform.to_string(),
        root: output.root.as_ref().map(|edge| input(&positions, edge)),
    });
    GraphView::new(steps, outputs.collect())
}

fn input(positions: &BTreeMap<VertexId, usize>, edge: &Edge) -> InputView {
    InputView {
        step: positions[&edge.vertex],
        output: edge.output,
    }
}

fn state<'p>(step: &PlannedStep<'p>) -> (StepState, Option<&'p Miss>) {
    match (&step.vertex.op, &step.state) {
        // A context is looked at in every build: it is never what people mean by cached.
        (Op::Source(SourceOp::Local(_)), _) => (StepState::Read, None),
        (_, PlannedState::Unneeded | PlannedState::Cached { .. }) => (StepState::Cached, None),
        (_, PlannedState::Run(miss)) => (StepState::Run, Some(miss)),
        // These two have no key but that of their definition.
        (Op::Merge | Op::Diff, PlannedState::Undecided(miss)) => (StepState::Run, Some(miss)),
        // What never ran in this place can only be known by its content from another: that is not expected.
        (_, PlannedState::Undecided(miss @ Miss::FirstTime)) => (StepState::Run, Some(miss)),
        (_, PlannedState::Undecided(miss)) => (StepState::Undecided, Some(miss)),
    }
}

/// Why a step misses in words, and the steps it misses for.
fn reasons(
    miss: Option<&Miss>,
    inputs: &[InputView],
    why: impl FnOnce(&Miss) -> String,
) -> (Option<String>, Vec<usize>) {
    match miss {
        None => (None, Vec::new()),
        Some(Miss::Inputs(rebuilt)) => {
            let mut steps: Vec<usize> = rebuilt.iter().map(|&at| inputs[at].step).collect();
            steps.sort_unstable();
            steps.dedup();
            (None, steps)
        }
        Some(miss) => (Some(why(miss)), Vec::new()),
    }
}

/// The input whose files a step begins with: the root file system of a process, what a file operation changes.
fn base(vertex: &Vertex) -> Option<usize> {
    match &vertex.op {
        Op::Source(_) => None,
        Op::Exec(exec) => exec.mounts.iter().find(|m| m.dest == "/")?.input,
        Op::File(file) => match file.actions.first()?.input {
            FileInput::Input(input) => Some(input),
            FileInput::Scratch | FileInput::Action(_) => None,
        },
        Op::Merge | Op::Diff => (!vertex.inputs.is_empty()).then_some(0),
    }
}

fn place(span: &Span) -> Place {
    let (line, end_line) = span.lines();
    Place {
        file: span.file.name.clone(),
        line,
        end_line,
    }
}

fn detail(op: &Op, conceal: &Conceal) -> Option<Detail> {
    Some(match op {
        Op::Source(source) => {
            let (r#type, reference, digest) = match source {
                SourceOp::Image(image) => {
                    let digest = image.digest.map(|digest| digest.to_string());
                    ("image", &image.reference, digest)
                }
                SourceOp::OciLayout(layout) => {
                    let digest = layout.digest.map(|digest| digest.to_string());
                    ("oci-layout", &layout.path, digest)
                }
                SourceOp::Local(local) => ("local", &local.name, None),
                SourceOp::Git(git) => ("git", &git.remote, git.commit.clone()),
                SourceOp::Http(http) => {
                    let digest = http.checksum.map(|digest| digest.to_string());
                    ("http", &http.url, digest)
                }
            };
            Detail::Source {
                r#type,
                reference: conceal.text(reference),
                digest,
                asked: None,
                age: None,
            }
        }
        Op::Exec(exec) => exec_detail(exec, conceal),
        Op::File(file) => Detail::File {
            actions: file
                .actions
                .iter()
                .map(|action| {
                    let words = action_words(action).into_iter();
                    words.map(|word| conceal.text(&word)).collect()
                })
                .collect(),
        },
        Op::Merge | Op::Diff => return None,
    })
}

fn exec_detail(exec: &ExecOp, conceal: &Conceal) -> Detail {
    let env = exec.env.iter().map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = (!looks_secret(name)).then(|| conceal.text(value));
        (name.to_owned(), value)
    });
    let mounts = exec.mounts.iter().filter(|mount| mount.dest != "/");
    Detail::Exec {
        command: exec.args.iter().map(|word| conceal.text(word)).collect(),
        env: env.collect(),
        cwd: exec.cwd.clone(),
        user: exec.user.clone(),
        mounts: mounts.map(mount_view).collect(),
    }
}

fn mount_view(mount: &Mount) -> MountView {
    let (r#type, id) = match &mount.kind {
        MountKind::Bind => ("bind", None),
        MountKind::Cache { id, .. } => ("cache", Some(id)),
        MountKind::Tmpfs { .. } => ("tmpfs", None),
        MountKind::Secret { id, .. } => ("secret", Some(id)),
        MountKind::Ssh { id, .. } => ("ssh", Some(id)),
    };
    MountView {
        r#type,
        target: mount.dest.clone(),
        id: id.cloned(),
        input: mount.input,
    }
}

/// The kind of an action and its paths. What a file is to hold is not shown.
fn action_words(action: &FileAction) -> Vec<String> {
    let words: Vec<&str> = match &action.kind {
        FileActionKind::Copy(copy) => vec!["copy", &copy.src, &copy.dest],
        FileActionKind::Mkfile { path, .. } => vec!["mkfile", path],
        FileActionKind::Mkdir { path, .. } => vec!["mkdir", path],
        FileActionKind::Symlink { target, path, .. } => vec!["symlink", target, path],
        FileActionKind::Rm { path, .. } => vec!["rm", path],
    };
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
