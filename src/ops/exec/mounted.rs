//! Mounts with something behind them: outputs of the step, and ssh agents.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::path::Path;
use std::path::PathBuf;
use std::sync::PoisonError;

use rbuild_cache::Follow;
use rbuild_cache::Snapshot;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;

use super::super::copy;
use super::super::ssh;
use super::super::workspace::WorkDirs;
use super::Engine;
use super::OpError;
use super::Wrote;
use crate::request::SshSource;
use crate::sandbox::MountSource;
use crate::solver::StepControl;

impl Engine<'_> {
    /// What is mounted where what is written is an output of the step: all of the input, of which the step sees what the
    /// mount selects.
    pub(super) fn mount_output(
        &self,
        mount: &Mount,
        inputs: &[&Snapshot],
        dir: &Path,
        step: &StepControl<'_>,
    ) -> Result<(MountSource, Wrote), OpError> {
        let empty = self.empty();
        let snapshot = mount.input.map_or(&empty, |index| inputs[index]);
        let path = copy::clean(&mount.selector);
        let trees = self.store.trees();
        if trees
            .lookup(&snapshot.root.tree, &path, Follow::All)?
            .is_none()
        {
            return Err(copy::CopyError::NotFound {
                src: mount.selector.clone(),
            }
            .into());
        }
        if !self.stacks() {
            let plain = self.plain_root(snapshot, step.cancel)?;
            let source = MountSource::Bind {
                path: plain.path().to_owned(),
                subpath: PathBuf::from(&mount.selector),
                readonly: false,
            };
            return Ok((source, Wrote::Changed(Box::new(plain))));
        }
        std::fs::create_dir(dir).map_err(|source| OpError::io("create", dir, source))?;
        let dirs = WorkDirs::make(dir)?;
        dirs.show(&trees.root(&snapshot.root.tree)?.meta, self.ownership)?;
        let source = MountSource::Overlay {
            lowers: self.lowers(snapshot, step.cancel)?,
            upper: Some(dirs.upper.clone()),
            work: dirs.work,
            subpath: PathBuf::from(&mount.selector),
        };
        Ok((source, Wrote::Upper(dirs.upper)))
    }

    /// The ssh agents that mounts ask for and the build was given, by the place of the mount.
    pub(super) fn agents(
        &self,
        op: &ExecOp,
        dir: &Path,
    ) -> Result<BTreeMap<usize, ssh::Forward>, OpError> {
        let mut agents = BTreeMap::new();
        for (index, mount) in op.mounts.iter().enumerate() {
            if let Some(agent) = self.agent(mount, dir, index)? {
                agents.insert(index, agent);
            }
        }
        Ok(agents)
    }

    /// The ssh agent that a mount asks for, if the build was given it.
    fn agent(
        &self,
        mount: &Mount,
        dir: &Path,
        index: usize,
    ) -> Result<Option<ssh::Forward>, OpError> {
        let MountKind::Ssh {
            id, uid, gid, mode, ..
        } = &mount.kind
        else {
            return Ok(None);
        };
        let Some(agent) = self.options.ssh.get(id) else {
            return Ok(None);
        };
        let access = ssh::Access {
            uid: *uid,
            gid: *gid,
            mode: *mode,
        };
        let socket = match agent {
            SshSource::Agent(socket) => socket.clone(),
            SshSource::Keys(files) => {
                let mut agents = self
                    .key_agents
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                match agents.entry(id.clone()) {
                    btree_map::Entry::Occupied(known) => known.get().socket().to_owned(),
                    btree_map::Entry::Vacant(place) => {
                        let agent =
                            ssh::KeyAgent::start(files).map_err(|why| OpError::SshKeys {
                                id: id.clone(),
                                why,
                            })?;
                        place.insert(agent).socket().to_owned()
                    }
                }
            }
        };
        ssh::Forward::start(&socket, dir, &format!("agent{index}"), access).map(Some)
    }
}
