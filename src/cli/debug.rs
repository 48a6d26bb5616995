//! `rbuild debug`: what happens inside.

use std::process::ExitCode;

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;
use rbuild_cache::FsckOptions;
use rbuild_llb::Definition;
use rbuild_llb::dump;
use rbuild_llb::proto;

use super::Failed;
use super::Session;
use super::build;
use super::completion;
use super::flags::BuildFlags;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::pipeline::fsck::fsck;
use crate::ui;
use crate::ui::Progress;
use crate::ui::ProgressMode;

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the graph of a build without running it
    #[command(args_override_self = true)]
    DumpLlb(Box<DumpFlags>),
    /// Look the whole store through for what is damaged
    ///
    /// Prints one line for each thing that is wrong: its path, and what about it. Exits with 1 if there are any that
    /// were not taken out.
    Fsck(FsckFlags),
    /// Write the manual pages, a file for each command
    Man(completion::ManFlags),
}

#[derive(Debug, Args)]
pub(crate) struct DumpFlags {
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    build: BuildFlags,
}

#[derive(Debug, Args)]
pub(crate) struct FsckFlags {
    /// Also read the files of unpacked layers
    #[arg(long)]
    deep: bool,
    /// Take what is damaged out of the store; what it was is made or fetched again. Names of images stay
    #[arg(long)]
    repair: bool,
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

pub(crate) fn run(command: &DebugCommand, session: &Session) -> Result<ExitCode, Failed> {
    match command {
        DebugCommand::DumpLlb(flags) => dump_llb(flags, session).map(|()| ExitCode::SUCCESS),
        DebugCommand::Fsck(flags) => Ok(check_store(flags, session)?),
        DebugCommand::Man(flags) => {
            completion::manual(flags)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check_store(flags: &FsckFlags, session: &Session) -> Result<ExitCode, BuildError> {
    let options = FsckOptions {
        deep: flags.deep,
        repair: flags.repair,
    };
    let Some(found) = fsck(&session.settings, options)? else {
        ui::say(&format!(
            "there is no store in `{}`",
            session.settings.root.display()
        ));
        return Ok(ExitCode::SUCCESS);
    };
    let mut lines = String::new();
    for problem in &found.problems {
        let done = if problem.repaired { " (taken out)" } else { "" };
        lines += &format!("{}: {}{done}\n", problem.path.display(), problem.what);
    }
    super::print(lines.as_bytes())?;
    for note in &found.notes {
        ui::say(&format!("note: {note}"));
    }
    let checked = found.checked.iter();
    let checked: Vec<String> = checked
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let left = found.problems.iter().filter(|problem| !problem.repaired);
    let left = left.count();
    let verdict = match (found.problems.len(), left) {
        (0, _) => "nothing is wrong".to_owned(),
        (all, 0) => format!("{all} taken out"),
        (all, left) if all == left => format!("{left} wrong"),
        (all, left) => format!("{left} wrong, {} taken out", all - left),
    };
    ui::say(&match checked.is_empty() {
        true => format!("the store is empty: {verdict}"),
        false => format!("looked at {}: {verdict}", checked.join(", ")),
    });
    if left > 0 && !flags.repair {
        ui::say("hint: `rbuild debug fsck --repair` takes out what can be made again");
    }
    Ok(match left {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn dump_llb(flags: &DumpFlags, session: &Session) -> Result<(), Failed> {
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
