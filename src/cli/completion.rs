//! What the flags are, for shells and for man: made of clap's description of them, as `--help` is.

use std::path::PathBuf;

use clap::Args;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;

/// The flags of `rbuild completion`.
#[derive(Debug, Args)]
pub(super) struct CompletionFlags {
    /// The shell that completes
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// The flags of `rbuild debug man`.
#[derive(Debug, Args)]
pub(super) struct ManFlags {
    /// Where they go
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn print(flags: &CompletionFlags) -> Result<(), BuildError> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "rbuild", &mut script);
    super::print(&script)
}

pub(super) fn manual(flags: &ManFlags) -> Result<(), BuildError> {
    clap_mangen::generate_to(Cli::command(), &flags.dir).map_err(|error| {
        let what = format!("cannot write manual pages into `{}`", flags.dir.display());
        BuildError::new(
            ErrorKind::Environment,
            anyhow::Error::new(error).context(what),
        )
    })
}
