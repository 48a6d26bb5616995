//! `rbuild explain`: what the last build did, and why.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use super::Session;
use crate::clock;
use crate::outcome::BuildError;
use crate::pipeline::explain;
use crate::pipeline::explain::Asked;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct ExplainFlags {
    /// Only this step: a line of the file (`7`, `Dockerfile:7`), a stage, or a part of the name that progress shows
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// The file that was built; without it, the one in the working directory, or else the last that was built anywhere
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to show it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: docs/explain-output.md
    Json,
}

pub(crate) fn run(flags: &ExplainFlags, session: &Session) -> Result<(), BuildError> {
    let asked = Asked {
        file: flags.file.clone(),
        step: flags.step.clone(),
    };
    let explained = explain::explain(&session.settings, &asked)?;
    if let Some(wanted) = &explained.instead_of {
        let plan = &explained.plan;
        let text = format!("no build of {wanted} is known; this is the last one here, of `{plan}`");
        ui::remark(&text, session.terminal);
    }
    let text = match flags.format {
        Format::Text => ui::explained(&explained, clock::now()),
        Format::Json => ui::explained_json(&explained),
    };
    super::print(text.as_bytes())
}
