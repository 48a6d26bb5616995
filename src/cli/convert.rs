//! `rbuild convert`: a Dockerfile as a plan, a plan as a Dockerfile.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::ValueEnum;

use super::Failed;
use super::Session;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::convert::Language;
use crate::pipeline::convert::convert;
use crate::ui;

/// The flags of `rbuild convert`.
#[derive(Debug, Args)]
pub(super) struct ConvertFlags {
    /// A Dockerfile or a plan
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The language to write; without it the one that FILE is not in
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    to: Option<To>,

    /// Where to write it, if not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write nothing, and fail, if something cannot be said in the other language
    #[arg(long)]
    strict: bool,
}

/// Languages by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// An `rbuild.toml`
    Plan,
    /// A Dockerfile
    Dockerfile,
}

/// Writes a file in the other language, and says what that cannot say.
pub(super) fn run(flags: &ConvertFlags, session: &Session) -> Result<ExitCode, Failed> {
    let to = match flags.to {
        Some(To::Plan) => Language::Plan,
        Some(To::Dockerfile) => Language::Dockerfile,
        None => Language::other(&flags.file),
    };
    let rewritten = convert(&flags.file, to)?;
    for loss in &rewritten.losses {
        ui::finding(loss, session.terminal);
    }
    if flags.strict && !rewritten.losses.is_empty() {
        return Ok(ErrorKind::Request.exit_code().into());
    }
    match &flags.output {
        None => super::print(rewritten.text.as_bytes())?,
        Some(path) => std::fs::write(path, rewritten.text).map_err(|error| {
            let message = format!("cannot write `{}`", path.display());
            let error = anyhow::Error::new(error).context(message);
            BuildError::new(ErrorKind::Environment, error)
        })?,
    }
    Ok(ExitCode::SUCCESS)
}
