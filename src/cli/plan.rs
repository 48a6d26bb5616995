//! `rbuild plan`: the graph of a build, as text or a picture.

use clap::Args;
use clap::ValueEnum;

use super::Failed;
use super::Session;
use super::build;
use super::flags::BuildFlags;
use crate::outcome::BuildError;
use crate::picture;
use crate::pipeline::show::show;
use crate::ui::Progress;
use crate::ui::ProgressMode;

#[derive(Debug, Args)]
pub(crate) struct PlanFlags {
    /// How to show it
    #[arg(long, value_enum, default_value = "tree")]
    format: Format,
    #[command(flatten)]
    build: BuildFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    Tree,
    /// For programs: docs/plan-output.md
    Json,
    /// For Graphviz
    Dot,
    /// For mermaid
    Mermaid,
    /// A picture
    Svg,
}

pub(crate) fn run(flags: &PlanFlags, session: &Session) -> Result<(), Failed> {
    let prepared = build::prepare(&flags.build, session).map_err(BuildError::request)?;
    let progress = Progress::start(ProgressMode::Quiet, session.terminal, prepared.secrets);
    let view = show(&prepared.request, &progress);
    progress.finish();
    let view = view?;
    let text = match flags.format {
        Format::Tree => picture::tree(&view),
        Format::Json => picture::json(&view),
        Format::Dot => picture::dot(&view),
        Format::Mermaid => picture::mermaid(&view),
        Format::Svg => picture::svg(&view),
    };
    Ok(super::print(text.as_bytes())?)
}
