//! `rbuild du` and `rbuild prune`, with the flags, filters and tables of buildx.

mod filter;
mod prune;

pub(crate) use prune::PruneFlags;
pub(crate) use prune::prune;

use std::fmt::Write as _;

use clap::Args;
use rbuild_cache::StoreUsage;
use rbuild_cache::Usage;
use rbuild_llb::event::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::Session;
use super::images::Format;
use super::images::docker_time;
use crate::clock;
use crate::outcome::BuildError;
use crate::pipeline::existing_store;
use crate::pipeline::prune as pipeline;
use crate::ui;
use filter::Filter;

#[derive(Debug, Args)]
pub(crate) struct DuFlags {
    /// Show only what matches: `type=exec.cachemount`, `until=24h`, `description~=npm`, `shared`, `inuse`, `id=…`
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// How to print it: `table`, `json` (one object a line), or a template: `{{.ID}} {{.Size}}`
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    format: String,
    /// Show all that is known of each, and what kinds of files take
    #[arg(long, conflicts_with = "format")]
    verbose: bool,
}

pub(crate) fn du(flags: &DuFlags, session: &Session) -> Result<(), BuildError> {
    let format = Format::parse(&flags.format)?;
    let filter = Filter::parse(&flags.filter)?;
    let mut usage = match existing_store(&session.settings)? {
        Some(store) => pipeline::usage(&store)?,
        None => StoreUsage::default(),
    };
    let now = clock::now();
    usage.items.retain(|item| filter.matches(item, now));
    largest_first(&mut usage.items);
    let rows: Vec<Value> = usage.items.iter().map(|item| row(item, now)).collect();
    let printed = match (flags.verbose, flags.filter.is_empty()) {
        (true, all) => details(&rows) + &kinds(&usage) + &totals(&usage, all),
        (false, all) => format.print(&rows, "ID", || table(&rows) + &totals(&usage, all))?,
    };
    super::print(printed.as_bytes())
}

fn largest_first(items: &mut [Usage]) {
    items.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
}

fn nanoseconds(at: rbuild_cache::Timestamp) -> u128 {
    u128::try_from(at.secs).unwrap_or_default() * 1_000_000_000 + u128::from(at.nanos)
}

/// buildx's fields, and the bytes as a number.
fn row(item: &Usage, now: Timestamp) -> Value {
    let used = nanoseconds(item.used);
    let time = |at: rbuild_cache::Timestamp| match at.secs {
        0 => String::new(),
        secs => docker_time(secs),
    };
    json!({
        "ID": short(item),
        "Type": item.kind.name(),
        "Description": item.description,
        "CreatedAt": time(item.created),
        "LastUsedAt": time(item.used),
        "LastUsedSince": if used == 0 { String::new() } else { ui::age(Timestamp(used), now) },
        "InUse": item.in_use,
        "Mutable": item.is_mutable(),
        "Reclaimable": item.is_reclaimable(),
        "Shared": item.shared,
        "Size": ui::size(item.size),
        "Bytes": item.size,
    })
}

/// As much of an id as tells one item from another.
fn short(item: &Usage) -> String {
    item.id.chars().take(12).collect()
}

fn text(row: &Value, field: &str) -> String {
    match &row[field] {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// As buildx lists them: what builds write to has a star.
fn table(rows: &[Value]) -> String {
    let heads = ["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let star = if row["Mutable"] == true { "*" } else { "" };
        let id = match text(row, "ID") {
            id if id.is_empty() => format!("({})", text(row, "Type")),
            id => id + star,
        };
        lines.push(vec![
            id,
            text(row, "Reclaimable"),
            text(row, "Size"),
            text(row, "LastUsedSince"),
        ]);
    }
    ui::table(&lines, 3)
}

/// All that is known of each, as `--verbose` of buildx prints it.
fn details(rows: &[Value]) -> String {
    let fields = [
        ("ID", "ID"),
        ("Created at", "CreatedAt"),
        ("Mutable", "Mutable"),
        ("Reclaimable", "Reclaimable"),
        ("Shared", "Shared"),
        ("In use", "InUse"),
        ("Size", "Size"),
        ("Description", "Description"),
        ("Last used", "LastUsedSince"),
        ("Type", "Type"),
    ];
    let mut out = String::new();
    for row in rows {
        let known = fields.iter().filter(|(_, field)| row[*field] != "");
        let lines: Vec<Vec<String>> = known
            .map(|(head, field)| vec![format!("{head}:"), text(row, field)])
            .collect();
        out += &ui::table(&lines, 3);
        out.push('\n');
    }
    out
}

/// What kinds of files take.
fn kinds(usage: &StoreUsage) -> String {
    let mut kinds = usage.kinds.clone();
    kinds.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut lines = vec![vec!["FILES".to_owned(), "SIZE".to_owned()]];
    lines.extend(
        kinds
            .into_iter()
            .map(|(kind, size)| vec![kind.to_owned(), ui::size(size)]),
    );
    ui::table(&lines, 3) + "\n"
}

fn totals(usage: &StoreUsage, all: bool) -> String {
    let mut out = String::new();
    let mut line = |head: &str, bytes: u64| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<15}{}", format!("{head}:"), ui::size(bytes));
    };
    let sum = |wanted: &dyn Fn(&Usage) -> bool| {
        let wanted = usage.items.iter().filter(|item| wanted(item));
        wanted.map(|item| item.size).sum::<u64>()
    };
    let shared = sum(&|item| item.shared);
    if shared > 0 {
        line("Shared", shared);
        line("Private", sum(&|item| !item.shared));
    }
    match all {
        true => {
            line("Reclaimable", usage.reclaimable);
            line("Total", usage.total);
        }
        false => {
            line("Reclaimable", sum(&Usage::is_reclaimable));
            line("Total", sum(&|_| true));
        }
    }
    out
}
