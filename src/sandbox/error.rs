//! What can go wrong, told apart by what the user can do about it.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use rbuild_llb::Platform;

use super::probe::Report;
use super::wire::wire_enum;

/// Why a sandbox or a step in it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No rung of the ladder holds. The report tells why and what would mend it.
    #[error("cannot run steps here: {}", .report.reason())]
    Unavailable {
        /// What was tried.
        report: Report,
    },
    /// Programs of a platform can be executed neither by this machine nor by an emulator.
    #[error("steps for `{platform}` cannot run here: {why}")]
    Foreign {
        /// The platform.
        platform: Box<Platform>,
        /// Why not.
        why: String,
        /// What would mend it.
        fix: Option<String>,
    },
    /// A namespace can be entered by a process with one thread only.
    #[error("the user namespace must be entered before threads are started")]
    Threads,
    /// The helper process that starts steps could not be started, or is gone.
    #[error("cannot {doing}")]
    Zygote {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The step's surroundings could not be made.
    #[error("cannot {doing}")]
    Setup {
        /// What was being done, with the path it concerns.
        doing: String,
        /// What might mend it.
        hint: Option<String>,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// overlayfs refuses the layers, or the file system that they are on.
    #[error("cannot {doing}")]
    Overlay {
        /// What was being done.
        doing: String,
        /// What might mend it.
        hint: Option<String>,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The working directory is missing, or the user may not enter it.
    #[error("cannot enter the working directory `{}`", .path.display())]
    WorkingDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no such program. A shell would exit with 127.
    #[error("`{}` was not found {}", .command.display(), searched(.path.as_deref()))]
    NotFound {
        /// As the step names it.
        command: OsString,
        /// The `PATH` that was searched; `None` if the command has a slash in it.
        path: Option<String>,
    },
    /// The program is there and cannot be executed. A shell would exit with 126.
    #[error("cannot execute `{}`", .path.display())]
    NotExecutable {
        /// Where it is in the step.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process that keeps the owners of the step's files ended before the step did.
    #[error("the step was ended: the process that keeps the owners of its files {how}")]
    Supervisor {
        /// How it ended, as a clause.
        how: String,
    },
    /// A step that nothing confines but its namespaces has too few of them.
    #[error(
        "steps with `--security=insecure` cannot run here: `/proc` cannot be mounted, so they would see the builder's \
         processes, and could do with them what they like"
    )]
    Insecure,
    /// The limits that a step is to have cannot be set.
    #[error("steps cannot be given limits here: {why}")]
    Limits {
        /// Why not, as a clause.
        why: String,
        /// What would mend it.
        hint: Option<String>,
    },
    /// A port of this machine cannot be listened on.
    #[error("cannot listen on {address}")]
    Port {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The build was cancelled; nothing of the step is left.
    #[error("cancelled")]
    Cancelled,
}

fn searched(path: Option<&str>) -> String {
    match path {
        Some(path) => format!("in the PATH `{path}`"),
        None => "in the file system of the step".to_owned(),
    }
}

impl SandboxError {
    /// What a shell would exit with, for a command that is missing (127) or cannot be executed (126).
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::NotFound { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            _ => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unavailable { report } => report.fix(),
            Self::Setup { hint, .. } | Self::Overlay { hint, .. } | Self::Limits { hint, .. } => {
                hint.clone()
            }
            Self::Foreign { fix, .. } => fix.clone(),
            Self::Insecure => Some(
                "let a new `/proc` be mounted (podman: `--security-opt unmask=ALL`; docker: `systempaths=unconfined`; Kubernetes: `procMount: \
                 Unmasked`), or leave `--security=insecure` out"
                    .to_owned(),
            ),
            Self::NotExecutable { source, .. } => match source.raw_os_error()? {
                libc::ENOEXEC => Some(
                    "it is for another architecture, or a script without a `#!` line".to_owned(),
                ),
                libc::ENOENT => Some(
                    "its interpreter (the `#!` line or the dynamic loader) is missing".to_owned(),
                ),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Why a step's process did not come to execute the step's program: what its child reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Setup {
        doing: String,
        hint: Option<String>,
        errno: i32,
    },
    Overlay {
        doing: String,
        hint: Option<String>,
        errno: i32,
    },
    WorkingDirectory {
        path: PathBuf,
        errno: i32,
    },
    NotFound {
        command: OsString,
        path: Option<String>,
    },
    NotExecutable {
        path: PathBuf,
        errno: i32,
    },
    Supervisor {
        code: i32,
        signal: i32,
    },
}

wire_enum!(Failure {
    0 => Setup { doing, hint, errno },
    1 => WorkingDirectory { path, errno },
    2 => NotFound { command, path },
    3 => NotExecutable { path, errno },
    4 => Supervisor { code, signal },
    5 => Overlay { doing, hint, errno },
});

impl From<Failure> for SandboxError {
    fn from(failure: Failure) -> Self {
        let os = io::Error::from_raw_os_error;
        match failure {
            Failure::Setup { doing, hint, errno } => Self::Setup {
                doing,
                hint,
                source: os(errno),
            },
            Failure::Overlay { doing, hint, errno } => Self::Overlay {
                doing,
                hint,
                source: os(errno),
            },
            Failure::WorkingDirectory { path, errno } => Self::WorkingDirectory {
                path,
                source: os(errno),
            },
            Failure::NotFound { command, path } => Self::NotFound { command, path },
            Failure::NotExecutable { path, errno } => Self::NotExecutable {
                path,
                source: os(errno),
            },
            Failure::Supervisor { code, signal } => Self::Supervisor {
                how: match signal {
                    0 => format!("exited with {code}"),
                    signal => format!("was killed by signal {signal}"),
                },
            },
        }
    }
}

/// The error number of a failed call, 0 if it did not come from the kernel.
pub(super) trait Errno {
    fn errno(&self) -> i32;
}

impl Errno for io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(0)
    }
}

impl Errno for rustix::io::Errno {
    fn errno(&self) -> i32 {
        self.raw_os_error()
    }
}

/// Says what was being done when a call failed.
pub(super) trait During<T> {
    /// `doing` completes "cannot …".
    fn during(self, doing: impl Display) -> Result<T, Failure>;
}

impl<T, E: Errno> During<T> for Result<T, E> {
    fn during(self, doing: impl Display) -> Result<T, Failure> {
        self.map_err(|e| Failure::Setup {
            doing: doing.to_string(),
            hint: None,
            errno: e.errno(),
        })
    }
}
