//! `rbuild debug`: what happens inside.

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;
use rbuild_llb::Definition;
use rbuild_llb::dump;
use rbuild_llb::proto;

use super::Failed;
use super::Session;
use super::build;
use super::flags::BuildFlags;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::ui::Progress;
use crate::ui::ProgressMode;

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the graph of a build without running it
    #[command(args_override_self = true)]
    DumpLlb(Box<DumpFlags>),
}

#[derive(Debug, Args)]
pub(crate) struct DumpFlags {
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    build: BuildFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For reading
    Text,
    /// For programs
    Json,
    /// LLB's protobuf form, as `buildctl debug dump-llb` reads it
    Pb,
}

pub(crate) fn run(command: &DebugCommand, session: &Session) -> Result<(), Failed> {
    let DebugCommand::DumpLlb(flags) = command;
    let prepared = build::prepare(&flags.build, session).map_err(BuildError::request)?;
    let progress = Progress::start(ProgressMode::Quiet, session.terminal, prepared.secrets);
    let definition = pipeline::dump_llb(&prepared.request, &progress);
    progress.finish();
    let definition = definition?;
    let bytes = match flags.format {
        Format::Text => dump::text(&definition).into_bytes(),
        Format::Json => format!("{:#}\n", dump::json(&definition)).into_bytes(),
        Format::Pb => pb(&definition)?,
    };
    Ok(super::print(&bytes)?)
}

/// The protobuf form holds one file system: that of the first output.
fn pb(definition: &Definition) -> Result<Vec<u8>, BuildError> {
    let root = definition.outputs.first().and_then(|output| output.root);
    proto::encode(definition, root).map_err(|error| BuildError::new(ErrorKind::Request, error))
}
