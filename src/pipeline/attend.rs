//! A process that a person runs, by `rbuild run` or in what a failed step left: its standard input, and how it ended.

use rbuild_cache::Lease;
use rbuild_cache::Store;
use rbuild_llb::CancelToken;
use rbuild_llb::Definition;

use crate::ops::Engine;
use crate::ops::EngineOptions;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::sandbox::Exit;
use crate::sandbox::Sandbox;
use crate::sandbox::Size;
use crate::sandbox::Stdin;
use crate::ui;

/// What an engine for one process stands on.
pub(super) struct Ground<'a> {
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    /// An empty one.
    pub(super) definition: &'a Definition,
    pub(super) registry: &'a registry::Client,
    pub(super) cancel: &'a CancelToken,
}

impl<'a> Ground<'a> {
    /// An engine for one process in `sandbox`.
    pub(super) fn engine(&self, options: EngineOptions, sandbox: Sandbox) -> Engine<'a> {
        let mut engine = Engine::new(
            self.store,
            self.lease,
            self.definition,
            self.registry,
            self.cancel,
            options,
            String::new(),
        );
        engine.set_executor(Box::new(sandbox), 1);
        engine
    }
}

/// Runs a process with its standard input, and gives its exit code as a shell reports it: 128 and the number for a
/// signal. As long as a terminal is typed at, what is typed is the process's, Ctrl-C too.
pub(super) fn attended<E>(
    stdin: &Stdin,
    typed_at: bool,
    run: impl FnOnce() -> Result<Exit, E>,
    fail: impl FnOnce(E) -> BuildError,
) -> Result<u8, BuildError> {
    let raw = match (stdin, typed_at) {
        (Stdin::Terminal(_), true) => Some(ui::raw_terminal().map_err(no_terminal)?),
        _ => None,
    };
    let ended = run();
    drop(raw);
    Ok(match ended.map_err(fail)? {
        Exit::Code(code) => u8::try_from(code).unwrap_or(255),
        Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
        Exit::OutOfMemory { .. } => 137,
    })
}

/// The size of the terminal that somebody sits at, or the usual one.
pub(super) fn size() -> Size {
    Size::of_terminal().unwrap_or(Size {
        rows: 24,
        columns: 80,
    })
}

pub(super) fn no_terminal(error: std::io::Error) -> BuildError {
    let error = anyhow::Error::new(error).context("cannot write to the terminal");
    BuildError::new(ErrorKind::Environment, error)
}
