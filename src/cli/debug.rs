//! `rbuild debug`: what happens inside.

use std::fmt::Write as _;

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;
use rbuild_llb::Definition;
use rbuild_llb::Op;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use serde_json::Value;
use serde_json::json;

use super::Failed;
use super::Session;
use super::build;
use super::flags::BuildFlags;
use crate::outcome::BuildError;
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
    /// For reading: a step a paragraph
    Text,
    /// One JSON array
    Json,
}

pub(crate) fn run(command: &DebugCommand, session: &Session) -> Result<(), Failed> {
    let DebugCommand::DumpLlb(flags) = command;
    let prepared = build::prepare(&flags.build, session).map_err(BuildError::request)?;
    let progress = Progress::start(ProgressMode::Quiet, session.terminal, prepared.secrets);
    let definition = pipeline::dump_llb(&prepared.request, &progress);
    progress.finish();
    let definition = definition?;
    let text = match flags.format {
        Format::Text => text(&definition),
        Format::Json => format!("{:#}\n", json(&definition)),
    };
    Ok(super::print(text.as_bytes())?)
}

/// A step a paragraph: its id, kind, platform and name, what it works on, and its fields.
fn text(definition: &Definition) -> String {
    let mut text = String::new();
    for (id, vertex) in definition.iter() {
        let _ = writeln!(
            text,
            "{} {} {} {}",
            id.short(),
            kind(&vertex.op),
            vertex.platform,
            vertex.meta.name
        );
        let inputs = vertex
            .inputs
            .iter()
            .map(|edge| format!("{}:{}", edge.vertex.short(), edge.output));
        let inputs: Vec<String> = inputs.collect();
        if !inputs.is_empty() {
            let _ = writeln!(text, "  inputs: {}", inputs.join(" "));
        }
        for line in format!("{:#?}", vertex.op).lines() {
            let _ = writeln!(text, "  {line}");
        }
        text.push('\n');
    }
    for output in &definition.outputs {
        let root = output
            .root
            .map_or("an empty file system".to_owned(), |edge| {
                format!("{}:{}", edge.vertex.short(), edge.output)
            });
        let _ = writeln!(
            text,
            "output {} for {}: {root}",
            output.name, output.platform
        );
    }
    text
}

fn json(definition: &Definition) -> Value {
    definition
        .iter()
        .map(|(id, vertex)| step_json(&id, vertex))
        .collect()
}

fn step_json(id: &VertexId, vertex: &Vertex) -> Value {
    let inputs = vertex
        .inputs
        .iter()
        .map(|edge| json!({ "id": edge.vertex.to_string(), "output": edge.output }));
    json!({
        "id": id.to_string(),
        "kind": kind(&vertex.op),
        "platform": vertex.platform,
        "name": vertex.meta.name,
        "inputs": inputs.collect::<Vec<_>>(),
        "source": vertex.meta.spans.iter().map(|span| span.location()).collect::<Vec<_>>(),
        "ignoreCache": vertex.meta.ignore_cache,
    })
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Source(_) => "source",
        Op::Exec(_) => "exec",
        Op::File(_) => "file",
        Op::Merge => "merge",
        Op::Diff => "diff",
    }
}
