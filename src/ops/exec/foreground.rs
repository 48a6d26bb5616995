//! Processes that a person runs: of `rbuild run`, and in what a failed step left.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rbuild_cache::FailedStep;
use rbuild_cache::Snapshot;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::ProxyEnv;
use rbuild_llb::op::SecurityMode;

use super::Engine;
use super::OpError;
use super::Place;
use super::failed::Entered;
use crate::request::Volume;
use crate::sandbox::Exit;
use crate::sandbox::Stdin;
use crate::sandbox::Stream;
use crate::solver::StepControl;

/// A process of `rbuild run`.
#[derive(Debug, Clone)]
pub struct Foreground {
    /// argv.
    pub args: Vec<String>,
    /// `KEY=value`; the last of equal keys counts.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: String,
    /// `user[:group]`.
    pub user: String,
    /// What it may reach.
    pub network: NetworkMode,
    /// Directories of this machine.
    pub volumes: Vec<Volume>,
    /// Standard input.
    pub stdin: Stdin,
}

/// A process in what a failed step left.
#[derive(Debug, Clone)]
pub struct Entry {
    /// argv.
    pub args: Vec<String>,
    /// `KEY=value`, besides what the step has; the last of equal keys counts.
    pub env: Vec<String>,
    /// Standard input.
    pub stdin: Stdin,
}

impl Engine<'_> {
    /// Runs a process on top of a snapshot; what it writes there is dropped.
    pub(crate) fn foreground(
        &self,
        root: &Snapshot,
        process: &Foreground,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, OpError> {
        let op = ExecOp {
            args: process.args.iter().cloned().map(Into::into).collect(),
            env: Arc::new(process.env.clone()),
            cwd: process.workdir.clone(),
            user: process.user.clone(),
            mounts: vec![Mount {
                input: Some(0),
                selector: String::new(),
                dest: "/".to_owned(),
                output: None,
                readonly: false,
                kind: MountKind::Bind,
            }],
            network: process.network,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            limits: Default::default(),
            proxy_env: ProxyEnv::default(),
        };
        let workspace = self.workspaces.take(self.store)?;
        let place = Place {
            volumes: &process.volumes,
            attended: Some(process.stdin.clone()),
            ..Place::new(&workspace)
        };
        self.attend(&op, &[root], &place, output)
    }

    /// Runs a process in what a failed step left, which is in the directory of `entered`: with the step's user, directory,
    /// environment, mounts and network. Secrets and agents that this build was not given are missing. What the process
    /// writes stays there.
    pub(crate) fn enter(
        &self,
        step: &FailedStep,
        entered: Entered<'_>,
        entry: &Entry,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, OpError> {
        let mut op = step.op.clone();
        op.args = entry.args.iter().cloned().map(Into::into).collect();
        Arc::make_mut(&mut op.env).extend(entry.env.iter().cloned());
        for secret in &mut op.secret_env {
            secret.optional = true;
        }
        for mount in &mut op.mounts {
            match &mut mount.kind {
                MountKind::Secret { optional, .. } | MountKind::Ssh { optional, .. } => {
                    *optional = true;
                }
                MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        if entered.root().is_some() {
            self.stacks.store(false, Ordering::Relaxed);
        }
        let workspace = self.workspaces.take(self.store)?;
        let place = Place {
            entered: Some(entered),
            attended: Some(entry.stdin.clone()),
            ..Place::new(&workspace)
        };
        let inputs: Vec<&Snapshot> = step.inputs.iter().collect();
        self.attend(&op, &inputs, &place, output)
    }

    fn attend(
        &self,
        op: &ExecOp,
        inputs: &[&Snapshot],
        place: &Place<'_>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, OpError> {
        let step = StepControl {
            cancel: self.cancel,
            digest: "",
            events: &|_| {},
            idle: &|wait| wait(),
        };
        let (ended, root) = self.process(op, inputs, place, &step, output)?;
        // Until here the process was in it.
        drop(root);
        Ok(ended?)
    }
}
