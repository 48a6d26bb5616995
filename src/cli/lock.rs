//! `rbuild lock` and `rbuild update`: the lock file beside a Dockerfile or plan.

use std::path::PathBuf;

use clap::Args;

use super::Failed;
use super::Session;
use super::build;
use super::flags::BuildFlags;
use super::values::problem;
use crate::outcome::BuildError;
use crate::pipeline::lock;
use crate::pipeline::lock::Change;
use crate::pipeline::lock::Changes;
use crate::pipeline::lock::LockOptions;
use crate::request::BuildRequest;
use crate::ui;
use crate::ui::Progress;
use crate::ui::ProgressMode;

#[derive(Debug, Args)]
pub(crate) struct LockFlags {
    /// Directory to lock the sources of
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: PathBuf,
    /// Set a build argument that sources depend on: `KEY=value`, or `KEY` to take it from the environment
    #[arg(long, value_name = "KEY[=VALUE]")]
    build_arg: Vec<String>,
    /// Another context, as for a build
    #[arg(long, value_name = "NAME=SOURCE")]
    build_context: Vec<String>,
    /// Write nothing, and fail if something would be written
    #[arg(long)]
    check: bool,
    /// The Dockerfile or plan, or `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Keep entries that nothing asks for: other build arguments may
    #[arg(long)]
    keep: bool,
    /// Platforms to lock for, besides those the lock file is for already
    #[arg(long, value_name = "OS/ARCH,…")]
    platform: Vec<String>,
    /// Set a value of a plan, as for a build
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only add what this stage or output needs
    #[arg(long, value_name = "STAGE")]
    target: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateFlags {
    /// What to ask about: image references, URLs, git remotes; all by default
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Directory whose lock file is meant
    #[arg(long, value_name = "DIR", default_value = ".")]
    context: PathBuf,
    /// Write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// The Dockerfile or plan whose lock file is meant [default: the one in the directory]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(crate) fn lock(flags: &LockFlags, session: &Session) -> Result<(), Failed> {
    let build = BuildFlags {
        words: vec![flags.context.clone()],
        build_arg: flags.build_arg.clone(),
        build_context: flags.build_context.clone(),
        file: flags.file.clone(),
        platform: flags.platform.clone(),
        set: flags.set.clone(),
        target: flags.target.clone(),
        ..BuildFlags::default()
    };
    let options = LockOptions {
        keep: flags.keep,
        dry_run: flags.check,
    };
    let request = request(&build, session)?;
    let progress = Progress::start(ProgressMode::Quiet, session.terminal, Vec::new());
    let changes = lock::lock(&request, options, &progress);
    progress.finish();
    let changes = changes?;
    let file = changes.path.display();
    print(&changes)?;
    for name in &changes.own {
        let name = ui::familiar(name);
        let text = format!("`{name}` is in rbuild's own store alone, and is not locked");
        ui::remark(&text, session.terminal);
    }
    match (changes.differs, flags.check) {
        (false, _) => ui::say(&format!("`{file}` is up to date")),
        (true, false) => ui::say(&format!("wrote `{file}`")),
        (true, true) => {
            let stale = problem(format!("`{file}` is not up to date")).hint("run `rbuild lock`");
            return Err(BuildError::request(vec![stale]).into());
        }
    }
    Ok(())
}

pub(crate) fn update(flags: &UpdateFlags, session: &Session) -> Result<(), Failed> {
    let build = BuildFlags {
        words: vec![flags.context.clone()],
        file: flags.file.clone(),
        ..BuildFlags::default()
    };
    let changes = lock::update(&request(&build, session)?, &flags.names, flags.dry_run)?;
    print(&changes)?;
    let file = changes.path.display();
    match (changes.differs, flags.dry_run) {
        (false, _) => ui::say(&format!(
            "nothing has changed: {} asked for",
            match changes.sources {
                1 => "1 source was".to_owned(),
                several => format!("{several} sources were"),
            }
        )),
        (true, false) => ui::say(&format!("wrote `{file}`")),
        (true, true) => ui::say(&format!("`{file}` is as it was: `--dry-run`")),
    }
    Ok(())
}

fn request(flags: &BuildFlags, session: &Session) -> Result<BuildRequest, BuildError> {
    let prepared = build::prepare(flags, session).map_err(BuildError::request)?;
    Ok(prepared.request)
}

fn print(changes: &Changes) -> Result<(), BuildError> {
    let lines: String = changes.list.iter().map(line).collect();
    super::print(lines.as_bytes())
}

fn line(change: &Change) -> String {
    let name = ui::familiar(&change.name);
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("updated {name} {old} → {new}\n"),
        (None, Some(new)) => format!("added {name} {new}\n"),
        (Some(old), None) => format!("removed {name} {old}\n"),
        (None, None) => String::new(),
    }
}
