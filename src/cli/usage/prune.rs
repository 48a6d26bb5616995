//! `rbuild prune`.

use std::time::Duration;

use clap::Args;
use rbuild_cache::Policy;
use rbuild_cache::Select;
use rbuild_cache::Usage;

use super::details;
use super::filter::Filter;
use super::largest_first;
use super::row;
use super::table;
use crate::cli::Session;
use crate::cli::values::problem;
use crate::clock;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::existing_store;
use crate::pipeline::prune as pipeline;
use crate::request::Space;
use crate::ui;

/// Remove caches that no image and no running build needs
///
/// Images keep what they are made of, and the steps that made it stay cached: `rbuild rmi` removes images. Cache mounts
/// go when they were not used for a week.
#[derive(Debug, Args)]
pub(crate) struct PruneFlags {
    /// Also remove what steps of images were cached by, and all cache mounts
    #[arg(short, long)]
    all: bool,
    /// Remove only what matches: `until=24h` (not used for that long), `type=exec.cachemount`, `description~=npm`, …
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove the least recently used until the store takes no more than this: `10GB`, `20%` of the disk
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<Space>,
    /// Remove the least recently used until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<Space>,
    /// Let the store take this much in any case
    // As buildx takes its older flag.
    #[arg(long, value_name = "SIZE", visible_alias = "keep-storage")]
    reserved_space: Option<Space>,
    /// Show all that is known of what was removed
    #[arg(long)]
    verbose: bool,
}

pub(crate) fn prune(flags: &PruneFlags, session: &Session) -> Result<(), BuildError> {
    let filter = Filter::parse(&flags.filter)?;
    if !flags.force && !agreed(flags)? {
        ui::say("nothing was removed");
        return Ok(());
    }
    let Some(store) = existing_store(&session.settings)? else {
        return crate::cli::print(format!("Total:   {}\n", ui::size(0)).as_bytes());
    };
    let disk = pipeline::space(&store)?;
    let bytes = |space: Option<Space>| space.map(|space| space.of(disk.total));
    let wanted = |item: &Usage| filter.chooses(item);
    let policy = Policy {
        select: Select {
            all: flags.all,
            mounts: filter.names_mounts(),
            unused_for: Duration::from_secs(filter.unused_for),
            wanted: Some(&wanted),
        },
        keep_duration: None,
        reserved: bytes(flags.reserved_space),
        max_used: bytes(flags.max_used_space),
        min_free: bytes(flags.min_free_space),
    };
    let mut collected = pipeline::collect(&store, &policy, &session.settings)?;
    largest_first(&mut collected.items);
    let now = clock::now();
    let rows = collected.items.iter().map(|item| {
        let mut row = row(item, now);
        // It has been.
        row["Reclaimable"] = true.into();
        row
    });
    let rows: Vec<_> = rows.collect();
    let mut printed = match (rows.is_empty(), flags.verbose) {
        (true, _) => String::new(),
        (false, true) => details(&rows),
        (false, false) => table(&rows),
    };
    printed += &format!("Total:   {}\n", ui::size(collected.freed));
    crate::cli::print(printed.as_bytes())?;
    if let Some((path, error)) = collected.failed.first() {
        let left = match collected.failed.len() {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        ui::remark(
            &format!("cannot delete `{}`{left}: {error}", path.display()),
            session.terminal,
        );
    }
    Ok(())
}

fn agreed(flags: &PruneFlags) -> Result<bool, BuildError> {
    let what = match (flags.all, flags.filter.is_empty()) {
        (true, true) => "This removes all caches but what images and running builds need.",
        (false, true) => "This removes the caches that no image and no running build needs.",
        (_, false) => "This removes the caches that match the filters.",
    };
    if !ui::can_ask() {
        let refused = problem("caches are only removed if somebody agrees");
        return Err(BuildError::request(vec![
            refused.hint("`rbuild prune --force` does not ask"),
        ]));
    }
    let answer = ui::ask(&format!("{what} Go on? [y/N] ")).map_err(|error| {
        let error = anyhow::Error::new(error).context("cannot read from standard input");
        BuildError::new(ErrorKind::Environment, error)
    })?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
