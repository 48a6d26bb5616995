//! How a build ends: [`BuildOutcome`], or [`BuildError`] as every other subcommand too. The kind of an error decides
//! the exit code, here and nowhere else.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_llb::Diagnostic;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::Span;

use crate::image::Descriptor;

/// What a build made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOutcome {
    /// The images and files, in the order of the targets.
    pub built: Vec<Built>,
    /// Files of targets that are no images: where they are, with the target's name if several were built.
    pub written: Vec<(Option<String>, PathBuf)>,
    /// The tests that passed, by their names.
    pub passed: Vec<String>,
    /// What emulated programs of other architectures, and how much of the work.
    pub emulated: Vec<Emulation>,
    /// Where each platform was built, if a builder has several nodes.
    pub ran: Vec<Ran>,
}

/// Where a platform of a target was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The target, if several were built.
    pub target: Option<String>,
    /// What for.
    pub platform: Platform,
    /// The node's name.
    pub node: String,
    /// Where that is.
    pub place: String,
    /// How many steps had to be emulated, since no node that could be reached is native to them.
    pub emulated: usize,
    /// The nodes that should have built it, and why they have not.
    pub failed: Vec<(String, String)>,
}

/// The steps that one emulator executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulation {
    /// `qemu-aarch64`
    pub by: String,
    /// How many steps.
    pub steps: usize,
    /// How long they ran, one after another.
    pub time: Duration,
}

/// One target that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its name, if several were built.
    pub name: Option<String>,
    /// The image, as the last output that is one has it; `None` if it is files alone.
    pub image: Option<BuiltImage>,
    /// Where it went, in the order of the outputs.
    pub deliveries: Vec<Delivery>,
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The image id, what `-q` and `--iidfile` give: the digest of the config, of the index for several platforms.
    pub id: OciDigest,
    /// What names the manifest or index.
    pub descriptor: Descriptor,
    /// Bytes of the layers as they are stored; 0 where only a daemon knows.
    pub size: u64,
    /// Names of the image, normalised.
    pub names: Vec<String>,
}

/// Where an output went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// rbuild's own store.
    Store {
        /// Normalised names; may be empty, then the id is its only name.
        names: Vec<String>,
    },
    /// A registry.
    Pushed {
        /// Normalised.
        name: String,
        /// Of what was pushed.
        digest: OciDigest,
    },
    /// Another program's store.
    Loaded {
        /// `docker` or `podman`.
        into: String,
        /// The names it has there.
        names: Vec<String>,
    },
    /// A file.
    File {
        /// As the user wrote it.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
    },
    /// A directory.
    Directory {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// Standard output: nothing is said about it.
    Stdout,
}

/// Whose turn it is to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A step's process failed: the author of the Dockerfile.
    Step,
    /// The request or a file is wrong: who typed it.
    Request,
    /// The machine, the network or the disk cannot do it: who runs it.
    Environment,
    /// The program that `rbuild run` was to run is not there or cannot be executed: who named it. With what a shell exits with.
    Program(u8),
    /// Ctrl-C or a termination signal: nobody.
    Interrupted,
}

impl ErrorKind {
    /// The process' exit code; 0 is success.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Step => 1,
            Self::Request => 2,
            Self::Environment => 3,
            Self::Program(code) => code,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command failed, with all that is to be told about it.
#[derive(Debug)]
pub struct BuildError {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// Findings about input files and flags. Printed first, each with its own hints.
    pub diagnostics: Vec<Diagnostic>,
    /// The failed step, for [`ErrorKind::Step`].
    pub step: Option<Box<StepFailure>>,
    /// What happened, outermost first: `error: …`, then one `caused by: …` a cause.
    pub source: Option<anyhow::Error>,
    /// What to do about it.
    pub hints: Vec<String>,
}

/// A step whose process failed.
#[derive(Debug)]
pub struct StepFailure {
    /// `digest` of the step in events: the last lines of its output are found by it.
    pub vertex: String,
    /// As progress shows it: `[build 2/5] RUN npm ci`.
    pub name: String,
    /// How the process ended: `exit code 1`, `killed by signal 9 (SIGKILL)`, `out of memory`.
    pub ended: String,
    /// The instruction.
    pub span: Option<Span>,
    /// Whether it had no network to reach.
    pub offline: bool,
    /// Whether what it left is kept.
    pub enterable: bool,
}

impl BuildError {
    /// A failure that is told by an error chain.
    pub fn new(kind: ErrorKind, source: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            diagnostics: Vec::new(),
            step: None,
            source: Some(source.into()),
            hints: Vec::new(),
        }
    }

    /// The request or its files are wrong.
    pub fn request(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            kind: ErrorKind::Request,
            diagnostics,
            step: None,
            source: None,
            hints: Vec::new(),
        }
    }

    /// A step's process failed.
    pub fn step(step: StepFailure) -> Self {
        Self {
            kind: ErrorKind::Step,
            diagnostics: Vec::new(),
            step: Some(Box::new(step)),
            source: None,
            hints: Vec::new(),
        }
    }

    /// The user or the system asked for an end.
    pub fn interrupted() -> Self {
        Self {
            kind: ErrorKind::Interrupted,
            diagnostics: Vec::new(),
            step: None,
            source: None,
            hints: Vec::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for BuildError {
    /// One line, for logs; the terminal gets [`crate::ui`]'s rendering.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.step, &self.source, self.diagnostics.first()) {
            (Some(step), _, _) => write!(f, "{}: {}", step.name, step.ended),
            (None, Some(source), _) => write!(f, "{source:#}"),
            (None, None, Some(diagnostic)) => f.write_str(&diagnostic.message),
            (None, None, None) => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for BuildError {}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn each_kind_has_its_exit_code() {
        let kinds = [
            ErrorKind::Step,
            ErrorKind::Request,
            ErrorKind::Environment,
            ErrorKind::Program(127),
            ErrorKind::Interrupted,
        ];
        assert_eq!(kinds.map(ErrorKind::exit_code), [1, 2, 3, 127, 130]);
    }

    #[test]
    fn one_line_names_the_whole_chain() {
        let cause = std::io::Error::other("disk full");
        let error = BuildError::new(
            ErrorKind::Environment,
            anyhow::Error::new(cause).context("cannot write `/v1/blobs`"),
        );
        assert_eq!(error.to_string(), "cannot write `/v1/blobs`: disk full");
    }
}
