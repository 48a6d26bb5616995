//! `rbuild lock` and `rbuild update`: what writes the lock file.

use std::path::PathBuf;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;

use super::Lock;
use super::Locked;
use super::Name;
use super::Rule;
use super::file;
use super::file::LockFile;
use super::none;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::Opened;
use crate::pipeline::definition;
use crate::pipeline::deliver::write_whole;
use crate::pipeline::frontend_request;
use crate::pipeline::open;
use crate::pipeline::pin::Pinner;
use crate::pipeline::pin::side_by_side;
use crate::pipeline::plan::Plan;
use crate::request::BuildRequest;
use crate::request::ContextSource;
use crate::ui::Progress;

/// How [`lock`] goes about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockOptions {
    /// Keep entries that nothing asks for: other build arguments may.
    pub keep: bool,
    /// Write nothing.
    pub dry_run: bool,
}

/// What became of a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The file.
    pub path: PathBuf,
    /// By name.
    pub list: Vec<Change>,
    /// Whether it is another file now, or would be.
    pub differs: bool,
    /// How many sources were looked at.
    pub sources: usize,
    /// Images that are not in it, since only rbuild's own store has them.
    pub own: Vec<String>,
}

/// What became of an entry: digests and commits by their first digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The source.
    pub name: String,
    /// What it was; `None` if it is new.
    pub old: Option<String>,
    /// What it is; `None` if it is there no more.
    pub new: Option<String>,
}

/// Adds what is missing from the lock file of a plan, and drops what nothing asks for any more. Entries that are there
/// stay as they are. If the request names targets, it is only about what they need, and nothing is dropped.
///
/// # Errors
/// As a build has them, up to where something would run.
pub fn lock(
    request: &BuildRequest,
    options: LockOptions,
    progress: &Progress,
) -> Result<Changes, BuildError> {
    let Opened {
        store,
        lease,
        registry,
        plan,
    } = opened(request)?;
    let old = read(&plan)?.unwrap_or_default();
    let lock = Lock::new(Rule::Add, &plan, old.sources.clone());
    let pinner = Pinner::new(request, &lock, &store, &lease, &registry);
    let frontend = plan.language.frontend();
    let mut platforms = old.platforms.clone();
    platforms.extend(request.platforms.iter().cloned());
    let mut asked = BuildRequest {
        platforms: platforms.iter().cloned().collect(),
        ..request.clone()
    };
    let events = progress.events();
    let ask = |asked: &BuildRequest| definition(asked, &plan, &*frontend, &pinner, &events);
    ask(&asked)?;
    let whole = asked.targets.is_empty();
    if whole {
        let first = frontend_request(&asked, &plan, &Platform::host(), false)?;
        asked.targets = frontend.all_targets(&first).map_err(BuildError::request)?;
        if !asked.targets.is_empty() {
            ask(&asked)?;
        }
    }
    let state = std::mem::take(&mut *lock.state());
    let mut sources = state.sources;
    if whole && !options.keep {
        sources.retain(|name, _| state.used.contains(name));
    }
    let new = LockFile { platforms, sources };
    let changes = write(&plan, &old, &new, options.dry_run)?;
    Ok(Changes {
        own: state.missing.iter().map(ToString::to_string).collect(),
        ..changes
    })
}

/// Asks anew what sources are: those that are `named`, or all.
///
/// # Errors
/// If there is no lock file, no such entry, or somebody cannot be asked.
pub fn update(
    request: &BuildRequest,
    named: &[String],
    dry_run: bool,
) -> Result<Changes, BuildError> {
    let Opened {
        store,
        lease,
        registry,
        plan,
    } = opened(request)?;
    let Some(old) = read(&plan)? else {
        return Err(none(&plan, "`rbuild update` would change"));
    };
    let lock = Lock::new(Rule::Add, &plan, old.sources.clone());
    let pinner = Pinner::new(request, &lock, &store, &lease, &registry);
    let mut chosen: Vec<(&Name, &Locked)> = old.sources.iter().collect();
    if !named.is_empty() {
        check_names(&lock, named, &old)?;
        chosen.retain(|(name, _)| named.iter().any(|word| name.is_meant_by(word)));
    }
    let answers = side_by_side(&chosen, |(name, locked)| {
        pinner.again(name, locked, &old.platforms)
    });
    let mut new = old.clone();
    let sources = chosen.len();
    for ((name, _), answer) in chosen.into_iter().zip(answers) {
        new.sources.insert(name.clone(), answer?);
    }
    let changes = write(&plan, &old, &new, dry_run)?;
    Ok(Changes { sources, ..changes })
}

/// A plan that has a place for a lock file. What is elsewhere is not fetched to be told that it has none.
fn opened(request: &BuildRequest) -> Result<Opened, BuildError> {
    match &request.context {
        ContextSource::Directory(_) => open(request),
        ContextSource::Stdin | ContextSource::Remote(_) => {
            let error =
                anyhow::anyhow!("a lock file lies beside the file it is for: name a directory");
            Err(BuildError::new(ErrorKind::Request, error))
        }
    }
}

/// Refuses words that mean no entry.
fn check_names(lock: &Lock, named: &[String], old: &LockFile) -> Result<(), BuildError> {
    let names: Vec<String> = old.sources.keys().map(|name| format!("`{name}`")).collect();
    let unknown = named.iter().filter(|word| {
        let mut names = old.sources.keys();
        !names.any(|name| name.is_meant_by(word))
    });
    let problems = unknown.map(|word| {
        let message = format!("`{}` has no entry for `{word}`", lock.shown);
        Diagnostic::unplaced(message).hint(match names.is_empty() {
            true => "it has none at all; `rbuild lock` adds what is missing".to_owned(),
            false => format!("it has {}", names.join(", ")),
        })
    });
    let problems: Vec<Diagnostic> = problems.collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(BuildError::request(problems)),
    }
}

fn read(plan: &Plan) -> Result<Option<LockFile>, BuildError> {
    let parsed = plan.locks.first().map(file::parse).transpose();
    parsed.map_err(|error| BuildError::request(vec![*error]))
}

/// Writes the file if it is another one now.
fn write(
    plan: &Plan,
    old: &LockFile,
    new: &LockFile,
    dry_run: bool,
) -> Result<Changes, BuildError> {
    let path = plan.lock_path.clone();
    let path = path.ok_or_else(|| none(plan, "could be written"))?;
    let differs = plan.locks.is_empty() || old != new;
    if differs && !dry_run {
        write_whole(&path, new.render().as_bytes())?;
    }
    Ok(Changes {
        path,
        list: changes(old, new),
        differs,
        sources: new.sources.len(),
        own: Vec::new(),
    })
}

fn changes(old: &LockFile, new: &LockFile) -> Vec<Change> {
    let mut list = Vec::new();
    let mut names: Vec<&Name> = old.sources.keys().chain(new.sources.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (was, is) = (old.sources.get(name), new.sources.get(name));
        match (was, is) {
            (Some(Locked::Image(was)), Some(Locked::Image(is)))
                if was.index == is.index && is.index.is_some() =>
            {
                // An index that does not say what its entries are for was asked for more of them.
                let more = is
                    .platforms
                    .iter()
                    .filter(|(p, _)| !was.platforms.contains_key(p));
                list.extend(more.map(|(platform, digest)| Change {
                    name: format!("{name} for {platform}"),
                    old: None,
                    new: Some(digest.short()),
                }));
            }
            (was, is) if was == is => {}
            (was, is) => list.push(Change {
                name: name.to_string(),
                old: was.map(Locked::short),
                new: is.map(Locked::short),
            }),
        }
    }
    list
}
