//! What is kept of a step that failed.
//!
//! Nothing is copied: what the process wrote gets another name. A step that was given secrets may have written them down, and
//! no secret is to stay in the store; of such a step nothing is kept unless that is asked for.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;

use rbuild_cache::FailedStep;
use rbuild_cache::Snapshot;
use rbuild_cache::Written;
use rbuild_llb::Op;
use rbuild_llb::TreeId;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::MountKind;
use rbuild_llb::secrets::looks_secret;

use super::super::workspace::UPPER;
use super::super::workspace::Workspace;
use super::Engine;
use super::Left;
use super::OpError;
use super::Wrote;
use super::root_mount;
use crate::clock;
use crate::request::KeepFailed;
use crate::solver;

/// What is done about steps that fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failing {
    /// Which are kept.
    pub keep: KeepFailed,
    /// Whether the first is held, so that it can be entered before the build ends.
    pub hold: bool,
}

/// The failed step of this build that somebody is about to enter.
#[derive(Debug)]
pub struct HeldFailure {
    /// The step, with all that its process was given but the values of secrets.
    pub step: FailedStep,
    /// Where its files are.
    place: Held,
}

#[derive(Debug)]
enum Held {
    /// In the store, where no later failure makes it go as long as it is entered.
    Kept(rbuild_cache::Entered),
    /// In a directory that goes with this.
    Here { _workspace: Workspace, dir: PathBuf },
}

impl HeldFailure {
    /// Whether its files stay when the build is over.
    pub fn is_kept(&self) -> bool {
        matches!(self.place, Held::Kept(_))
    }

    /// The directory with its files.
    pub fn dir(&self) -> &Path {
        match &self.place {
            Held::Kept(entered) => entered.path(),
            Held::Here { dir, .. } => dir,
        }
    }
}

/// The files of a failed step, for a process that goes there.
#[derive(Debug, Clone, Copy)]
pub struct Entered<'a> {
    /// Where they are.
    pub dir: &'a Path,
    /// What they are.
    pub wrote: Written,
}

impl Entered<'_> {
    /// The upper directory of its root.
    pub(super) fn upper(self) -> Option<PathBuf> {
        (self.wrote == Written::Upper).then(|| self.dir.join(UPPER))
    }

    /// Its root, if that is a directory of its own.
    pub(super) fn root(self) -> Option<PathBuf> {
        (self.wrote == Written::Root).then(|| self.dir.join(ROOT))
    }
}

/// The directory of a root that is no stack.
const ROOT: &str = "root";

impl Engine<'_> {
    /// Keeps a step that failed, as far as that is wanted. Should it not work, the build fails as it would have.
    pub(super) fn keep_failure(
        &self,
        vertex: &Vertex,
        op: &ExecOp,
        inputs: &[&Snapshot],
        workspace: Workspace,
        left: Left,
        error: &OpError,
    ) {
        let Failing { keep, hold } = self.options.failing;
        let keeps = match keep {
            KeepFailed::Never => false,
            KeepFailed::Auto => !self.gives_secrets(op),
            KeepFailed::Always => true,
        };
        // The space it takes is wanted.
        let keeps = keeps && !self.disk_was_full();
        let holds = hold && self.held().is_none();
        if !keeps && !holds {
            return;
        }
        let mut step = FailedStep {
            plan: self.options.plan.clone(),
            build: self.build.clone(),
            slot: self.slot(vertex),
            vertex: solver::event_digest(&vertex.id()),
            name: vertex.meta.name.clone(),
            ended: ended(error),
            failed: clock::now().0,
            platform: vertex.platform.clone(),
            domain: self.domain.clone(),
            op: op.clone(),
            withheld: Vec::new(),
            inputs: inputs.iter().map(|input| (*input).clone()).collect(),
            wrote: Written::Layer,
        };
        let dir = workspace.path().join("failure");
        let Ok(()) = self.gather_failure(&mut step, &dir, workspace.path(), left) else {
            return;
        };
        let kept = match keeps {
            true => self.store.keep_failure(&dir, &concealed(&step)).ok(),
            false => None,
        };
        if kept.is_some() {
            let mut enterable = self
                .enterable
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            enterable.insert(vertex.id());
        }
        if holds {
            let place = match kept {
                Some(failure) => match failure.enter() {
                    Ok(Some(entered)) => Held::Kept(entered),
                    // Somebody was quicker: they are there now.
                    _ => return,
                },
                None => Held::Here {
                    _workspace: workspace,
                    dir,
                },
            };
            self.held().get_or_insert(HeldFailure { step, place });
        }
    }

    /// Moves into the new directory `dir` what the process wrote.
    fn gather_failure(
        &self,
        step: &mut FailedStep,
        dir: &Path,
        scratch: &Path,
        left: Left,
    ) -> Result<(), OpError> {
        fs::create_dir(dir).map_err(|source| OpError::io("create", dir, source))?;
        let into = |from: &Path, name: &str| {
            fs::rename(from, dir.join(name)).map_err(|source| OpError::io("move", from, source))
        };
        match left {
            Left::Files(Wrote::Upper(upper)) => {
                into(&upper, UPPER)?;
                step.wrote = Written::Upper;
            }
            Left::Files(Wrote::Changed(root)) => {
                into(root.path(), ROOT)?;
                step.wrote = Written::Root;
            }
            Left::Layer(snapshot) => match root_mount(&step.op).and_then(|mount| mount.input) {
                Some(index) => step.inputs[index] = snapshot,
                None => {
                    let root = step.op.mounts.iter_mut().find(|mount| mount.dest == "/");
                    let place = step.inputs.len();
                    root.into_iter().for_each(|root| root.input = Some(place));
                    step.inputs.push(snapshot);
                }
            },
        }
        for index in 0..step.op.mounts.len() {
            for name in [format!("mount{index}"), format!("copy{index}")] {
                match fs::rename(scratch.join(&name), dir.join(&name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(OpError::io("move", &scratch.join(&name), error));
                    }
                    _ => {}
                }
            }
        }
        // Those of contexts are nobody else's.
        let trees: Vec<TreeId> = step.trees().collect();
        self.keep_trees(&trees)
    }

    /// Whether a step is given the value of a secret.
    pub fn gives_secrets(&self, op: &ExecOp) -> bool {
        let mounted = op.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, .. } => Some(id),
            _ => None,
        });
        let mut all = mounted.chain(op.secret_env.iter().map(|secret| &secret.id));
        all.any(|id| self.options.secrets.contains_key(id))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<HeldFailure>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first step that failed, if it was to be held.
    pub fn take_held(&self) -> Option<HeldFailure> {
        self.held().take()
    }

    /// Whether a step failed of this build, and can be entered.
    pub fn is_enterable(&self, step: &VertexId) -> bool {
        let enterable = self
            .enterable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        enterable.contains(step)
    }

    /// Forgets what earlier builds of this plan kept of steps that all have a result now. What cannot be removed stays until gc
    /// comes by.
    pub fn forget_failures(&self) {
        let succeeded = |slot: &str| {
            let mut steps = self.definition.iter();
            steps.any(|(_, vertex)| matches!(vertex.op, Op::Exec(_)) && self.slot(vertex) == slot)
        };
        let plan = &self.options.plan;
        drop(self.store.forget_failures(plan, &succeeded));
    }
}

/// How a step ended, as a clause.
fn ended(error: &OpError) -> String {
    match error {
        OpError::Failed { exit, .. } => exit.to_string(),
        error => error.to_string(),
    }
}

/// A step without the values of variables that look secret.
fn concealed(step: &FailedStep) -> FailedStep {
    let mut step = step.clone();
    let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
    let env = Arc::make_mut(&mut step.op.env);
    let secret = |pair: &String| looks_secret(&name(pair));
    step.withheld = env.iter().filter(|pair| secret(pair)).map(name).collect();
    env.retain(|pair| !secret(pair));
    step
}
