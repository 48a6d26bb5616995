//! What plans have commands for besides building: `test`, `ls`, `schema`.

use clap::Args;
use clap::ValueEnum;

use super::Failed;
use super::Session;
use super::build;
use super::flags::BuildFlags;
use crate::outcome::BuildError;
use crate::pipeline;
use crate::ui;

/// The flags of `rbuild test`: those of a build, whose words are tests.
pub(super) fn test(
    flags: &BuildFlags,
    session: &Session,
) -> Result<std::process::ExitCode, Failed> {
    let mut prepared = build::prepare(flags, session).map_err(BuildError::request)?;
    let targets = &mut prepared.request.targets;
    if targets.is_empty() {
        targets.push(rbuild_plan::ALL_TESTS.to_owned());
    }
    for target in targets {
        if !target.starts_with(rbuild_plan::TEST) {
            target.insert_str(0, rbuild_plan::TEST);
        }
    }
    build::run_prepared(prepared, session)
}

/// The flags of `rbuild ls`.
#[derive(Debug, Args)]
pub(super) struct ListFlags {
    #[command(flatten)]
    pub(super) build: Box<BuildFlags>,

    /// How to show it
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) format: ListFormat,
}

/// Forms of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Shows what there is to build, and what can be chosen.
pub(super) fn list(flags: &ListFlags, session: &Session) -> Result<(), Failed> {
    let prepared = build::prepare(&flags.build, session).map_err(BuildError::request)?;
    let contents = pipeline::inspect::contents(&prepared.request)?;
    let text = match flags.format {
        ListFormat::Text => ui::contents(&contents),
        ListFormat::Json => ui::contents_json(&contents),
    };
    Ok(super::print(text.as_bytes())?)
}

/// The flags of `rbuild schema`.
#[derive(Debug, Args)]
pub(super) struct SchemaFlags {
    /// `json`: a JSON Schema for editors; `markdown`: the reference
    #[arg(long, value_enum, default_value = "json", value_name = "FORMAT")]
    format: SchemaFormat,
}

/// Forms of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemaFormat {
    /// JSON Schema, draft 7.
    Json,
    /// The reference.
    Markdown,
}

/// Prints the language.
pub(super) fn schema(flags: &SchemaFlags) -> Result<(), BuildError> {
    let text = match flags.format {
        SchemaFormat::Json => rbuild_plan::json_schema(),
        SchemaFormat::Markdown => rbuild_plan::markdown(),
    };
    super::print(text.as_bytes())
}
