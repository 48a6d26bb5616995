//! The directories a process writes to.
//!
//! Making them, and removing what is left in them, takes as long as a short step where the file system is slow to make
//! and remove names. Both is done while a result is published, when steps that need the result may already run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_cache::Meta;
use rbuild_cache::Owner;
use rbuild_cache::Ownership;
use rbuild_cache::Scratch;
use rbuild_cache::Store;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use super::OpError;

/// The directory that an overlay writes to.
pub(super) const UPPER: &str = "upper";

/// The usual mode of `/`.
const MODE: u32 = 0o755;

/// A scratch directory with an upper and a work directory for overlayfs.
#[derive(Debug)]
pub(super) struct Workspace {
    scratch: Scratch,
    pub(super) dirs: WorkDirs,
}

/// What an overlay writes to.
#[derive(Debug)]
pub(super) struct WorkDirs {
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
}

impl Workspace {
    pub(super) fn make(store: &Store) -> Result<Self, OpError> {
        let scratch = store.scratch()?;
        let dirs = WorkDirs::make(scratch.path())?;
        Ok(Self { scratch, dirs })
    }

    /// Where there is room for more.
    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }
}

impl WorkDirs {
    /// Makes both in `parent`.
    pub(super) fn make(parent: &Path) -> Result<Self, OpError> {
        let (upper, work) = (parent.join(UPPER), parent.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir(dir).map_err(|source| OpError::io("create", dir, source))?;
        }
        // Its mode is that of `/` in the step, and seldom another one.
        fs::set_permissions(&upper, fs::Permissions::from_mode(MODE))
            .map_err(|source| OpError::io("set the mode of", &upper, source))?;
        Ok(Self { upper, work })
    }

    /// Gives the upper directory the mode, owner and time of the root that a step sees in its place.
    pub(super) fn show(&self, root: &Meta, owners: Ownership) -> Result<(), OpError> {
        let upper = &self.upper;
        if root.mode != MODE {
            fs::set_permissions(upper, fs::Permissions::from_mode(root.mode))
                .map_err(|source| OpError::io("set the mode of", upper, source))?;
        }
        if (root.uid, root.gid) != (0, 0) {
            let given = match owners {
                Ownership::Keep => std::os::unix::fs::chown(upper, Some(root.uid), Some(root.gid)),
                Ownership::Recorded => {
                    let recorded = Owner::of(root.uid, root.gid).record(upper);
                    recorded.map_err(Into::into)
                }
                Ownership::Single | Ownership::Logical => Ok(()),
            };
            given.map_err(|source| OpError::io("set the owner of", upper, source))?;
        }
        let time = Timespec {
            tv_sec: root.mtime.secs,
            tv_nsec: root.mtime.nanos.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, upper, &times, AtFlags::empty())
            .map_err(|errno| OpError::io("set the time of", upper, errno.into()))
    }
}

/// The workspaces of a build.
#[derive(Debug, Default)]
pub(super) struct Workspaces(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Steps that are still to ask for one, as far as is known.
    expected: usize,
    ready: Option<Workspace>,
    used: Vec<Workspace>,
}

impl Workspaces {
    /// For a build of which `expected` steps run a process.
    pub(super) fn expecting(expected: usize) -> Self {
        Self(Mutex::new(State {
            expected,
            ..State::default()
        }))
    }

    // A thread that panicked has taken something out or put something in, and nothing else.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether steps are still to come that run a process, as far as is known.
    pub(super) fn expects_more(&self) -> bool {
        self.state().expected > 0
    }

    /// One for a step.
    pub(super) fn take(&self, store: &Store) -> Result<Workspace, OpError> {
        let ready = {
            let mut state = self.state();
            state.expected = state.expected.saturating_sub(1);
            state.ready.take()
        };
        ready.map_or_else(|| Workspace::make(store), Ok)
    }

    /// Takes one back whose step has ended.
    pub(super) fn give_back(&self, used: Workspace) {
        self.state().used.push(used);
    }

    /// Removes what was given back, and makes one for the next step.
    pub(super) fn tidy(&self, store: &Store) {
        let (used, wanted) = {
            let mut state = self.state();
            let wanted = state.expected > 0 && state.ready.is_none();
            (std::mem::take(&mut state.used), wanted)
        };
        // Why it cannot be made, the step that asks for it will say.
        if wanted && let Ok(made) = Workspace::make(store) {
            self.state().ready.get_or_insert(made);
        }
        drop(used);
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn one_is_ready_as_long_as_steps_are_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let in_progress = || {
            let entries = fs::read_dir(store.path().join("tmp")).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            paths.filter(|path| path.is_dir()).count()
        };
        let workspaces = Workspaces::expecting(2);
        let first = workspaces.take(&store).unwrap();
        fs::write(first.dirs.upper.join("left"), "").unwrap();
        workspaces.tidy(&store);
        workspaces.tidy(&store);
        assert_eq!(in_progress(), 2, "that of the step, and the next one's");
        workspaces.give_back(first);
        assert_eq!(in_progress(), 2);
        let second = workspaces.take(&store).unwrap();
        assert_eq!(in_progress(), 2, "it was ready");
        assert_eq!(fs::read_dir(&second.dirs.upper).unwrap().count(), 0);
        workspaces.tidy(&store);
        assert_eq!(in_progress(), 1, "no more are to come");
        workspaces.give_back(second);
        drop(workspaces);
        assert_eq!(in_progress(), 0);
    }
}
