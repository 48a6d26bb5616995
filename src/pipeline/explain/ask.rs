//! `rbuild explain`: what the last build did, from what it left behind. Nothing is built, looked up or pinned.

use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::BuiltStep;
use rbuild_cache::CacheBackend as _;
use rbuild_cache::Fate;
use rbuild_cache::Kept;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_llb::event::Timestamp;

use super::super::existing_store;
use super::super::failure;
use super::super::plan;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::Settings;
use crate::solver::StepName;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The file that was built; without one, that in the working directory.
    pub file: Option<PathBuf>,
    /// Which steps; all, if it says nothing.
    pub step: Option<String>,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The file it was of.
    pub plan: String,
    /// The file that was asked for, if that was never built and this is another's build.
    pub instead_of: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds, up to the end of its last step.
    pub millis: u64,
    /// Whether it failed.
    pub failed: bool,
    /// When a build found nothing to do since.
    pub confirmed: Option<Timestamp>,
    /// The steps that were asked for, inputs before users.
    pub steps: Vec<ExplainedStep>,
    /// Whether these are not all.
    pub chosen: bool,
}

/// What a build did about a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedStep {
    /// What events called it.
    pub id: String,
    /// As progress showed it.
    pub name: String,
    /// The stage it belongs to.
    pub stage: Option<String>,
    /// As `os/architecture`.
    pub platform: String,
    /// File, first and last line of the instruction it comes from.
    pub at: Option<(String, usize, usize)>,
    /// Its definition key, 64 hexadecimal digits.
    pub key: String,
    /// What became of it.
    pub end: End,
    /// Why it was not cached, if it was for what it is itself.
    pub why: Option<String>,
    /// The names of the steps that it was not cached for.
    pub waited_for: Vec<String>,
    /// How long it ran, in milliseconds, if it did.
    pub millis: Option<u64>,
    /// Where its result came from, if it was cached and its record is still there.
    pub cause: Option<Cause>,
    /// The rung its result was made on, 2 also if only what it was made of was; `None` if its record is gone, or nothing
    /// was made.
    pub rung: Option<u8>,
    /// Of an image whose registry was not asked what its tag stands for, when that had last been, if that was worth telling.
    pub asked: Option<Timestamp>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was looked at, as files of this machine are in every build.
    Read,
    /// Nothing needed it: all that is made of it was cached.
    Unneeded,
    /// It was cached.
    Cached,
    /// It was cached, which its inputs had to be made for to be known.
    Found,
    /// It ran.
    Ran,
    /// It failed.
    Failed,
    /// The build ended before it did.
    Stopped,
}

/// The record that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Whether it was found by what the inputs hold, and not by what they were made of.
    pub by_content: bool,
    /// When the step ran.
    pub made: Timestamp,
    /// How long it took then, in milliseconds.
    pub millis: u64,
}

/// What the last build did.
///
/// # Errors
/// If there was none, or none of its steps is asked for, or more than one where one is meant.
pub fn explain(settings: &Settings, asked: &Asked) -> Result<Explained, BuildError> {
    let Some(store) = existing_store(settings)? else {
        return Err(unknown(&meant(asked.file.as_deref())));
    };
    let (kept, instead_of) = last(&store, asked.file.as_deref())?;
    let report = &kept.report;
    let chosen = match &asked.step {
        None => (0..report.steps.len()).collect(),
        Some(text) => choose(&report.steps, text)?,
    };
    let steps = chosen.into_iter().map(|at| {
        let step = &report.steps[at];
        let waited_for = step
            .waited_for
            .iter()
            .filter_map(|&at| report.steps.get(at));
        let (end, millis) = end(step.fate);
        ExplainedStep {
            id: step.id.clone(),
            name: step.name.clone(),
            stage: StepName::of(&step.name).stage(),
            platform: step.platform.clone(),
            at: step.at.clone(),
            key: step.key.hex(),
            end,
            why: Some(step.why.clone()).filter(|why| !why.is_empty()),
            waited_for: waited_for.map(|step| step.name.clone()).collect(),
            millis,
            cause: cause(&store, step),
            rung: rung(&store, step),
            asked: step.asked.map(Timestamp),
        }
    });
    let confirmed = u128::try_from(kept.confirmed.secs).unwrap_or_default() * 1_000_000_000;
    // The file's own time is a little later than the build's end.
    let later = confirmed > report.completed + 1_000_000_000;
    Ok(Explained {
        plan: report.plan.clone(),
        instead_of,
        started: Timestamp(report.started),
        millis: u64::try_from(report.completed.saturating_sub(report.started) / 1_000_000)
            .unwrap_or(u64::MAX),
        failed: report.failed,
        confirmed: later.then_some(Timestamp(confirmed)),
        chosen: asked.step.is_some(),
        steps: steps.collect(),
    })
}

/// The last build of a file; of another one, and whose it is instead, if there was none.
fn last(store: &Store, file: Option<&Path>) -> Result<(Kept, Option<String>), BuildError> {
    let whole = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    };
    let wanted: Vec<String> = match file {
        Some(file) => vec![whole(file)],
        None => plan::NAMES
            .iter()
            .map(|name| whole(Path::new(name)))
            .collect(),
    };
    let mut own: Vec<Kept> = wanted
        .iter()
        .filter_map(|plan| store.builds().last(plan))
        .collect();
    own.sort_by_key(|kept| std::cmp::Reverse(kept.confirmed));
    if let Some(kept) = own.into_iter().next() {
        return Ok((kept, None));
    }
    let newest = match file {
        None => store
            .builds()
            .all()
            .map_err(failure::store)?
            .into_iter()
            .next(),
        // Whoever names a file means that.
        Some(_) => None,
    };
    let meant = meant(file);
    newest
        .ok_or_else(|| unknown(&meant))
        .map(|kept| (kept, Some(meant)))
}

fn meant(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("`{}`", file.display()),
        None => "the working directory".to_owned(),
    }
}

fn unknown(meant: &str) -> BuildError {
    let error = anyhow::anyhow!("no build of {meant} is known");
    BuildError::new(ErrorKind::Request, error)
        .hint("what a build did is known once it is over; `rbuild plan` says what one would do")
}

/// The steps that a text means: a line, a stage, a name, a part of one.
fn choose(steps: &[BuiltStep], text: &str) -> Result<Vec<usize>, BuildError> {
    let all = |is: &dyn Fn(&BuiltStep) -> bool| -> Vec<usize> {
        let steps = steps.iter().enumerate();
        steps
            .filter(|(_, step)| is(step))
            .map(|(at, _)| at)
            .collect()
    };
    let (file, line) = match text.rsplit_once(':') {
        Some((file, line)) => (file, line),
        None => ("", text),
    };
    if let Ok(line) = line.parse::<usize>() {
        // The context comes from the line that first takes something of it, and is not what is meant.
        let at_line = all(&|step| {
            step.fate != Fate::Read
                && step.at.as_ref().is_some_and(|(name, from, to)| {
                    (file.is_empty() || file == name) && (*from..=*to).contains(&line)
                })
        });
        if !at_line.is_empty() {
            return Ok(at_line);
        }
    }
    let text_of = |step: &BuiltStep| StepName::of(&step.name).text.to_owned();
    let named = all(&|step| step.name == text || text_of(step) == text);
    if !named.is_empty() {
        return Ok(named);
    }
    let stage = all(&|step| {
        let stage = StepName::of(&step.name).stage();
        stage.is_some_and(|stage| !stage.is_empty() && stage == text)
    });
    if !stage.is_empty() {
        return Ok(stage);
    }
    let part = text.to_lowercase();
    let found = all(&|step| step.name.to_lowercase().contains(&part));
    match found.as_slice() {
        [] => {
            let error = anyhow::anyhow!("the build had no step `{text}`");
            Err(BuildError::new(ErrorKind::Request, error).hint("`rbuild explain` lists its steps"))
        }
        [_] => Ok(found),
        several => {
            let error = anyhow::anyhow!("`{text}` is in the names of {} steps", several.len());
            let error = BuildError::new(ErrorKind::Request, error);
            Err(several
                .iter()
                .fold(error, |error, &at| error.hint(steps[at].name.clone())))
        }
    }
}

fn end(fate: Fate) -> (End, Option<u64>) {
    match fate {
        Fate::Read => (End::Read, None),
        Fate::Unneeded => (End::Unneeded, None),
        Fate::Cached { .. } => (End::Cached, None),
        Fate::Found => (End::Found, None),
        Fate::Ran { millis } => (End::Ran, Some(millis)),
        Fate::Failed { millis } => (End::Failed, Some(millis)),
        Fate::Stopped => (End::Stopped, None),
    }
}

fn cause(store: &Store, step: &BuiltStep) -> Option<Cause> {
    let key = match step.fate {
        Fate::Cached { by } => by,
        Fate::Unneeded | Fate::Found => step.key,
        Fate::Read | Fate::Ran { .. } | Fate::Failed { .. } | Fate::Stopped => return None,
    };
    let record = store.records().lookup(&key).ok().flatten()?;
    Some(Cause {
        by_content: key != step.key || step.fate == Fate::Found,
        made: Timestamp(record.created),
        millis: record.duration_ms,
    })
}

fn rung(store: &Store, step: &BuiltStep) -> Option<u8> {
    let key = match step.fate {
        Fate::Cached { by } => by,
        Fate::Unneeded | Fate::Found | Fate::Ran { .. } => step.key,
        Fate::Read | Fate::Failed { .. } | Fate::Stopped => return None,
    };
    let record = store.records().lookup(&key).ok().flatten()?;
    let single = record.outputs.iter().any(Snapshot::is_single);
    Some(if single { 2 } else { 1 })
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::CacheKey;

    fn steps() -> Vec<BuiltStep> {
        let names = [
            ("[internal] load build context", None),
            ("[build 1/3] FROM docker.io/library/node:20", Some((1, 1))),
            ("[build 2/3] RUN npm ci", Some((2, 3))),
            ("[build 3/3] RUN npm run build", Some((4, 4))),
            ("[1/2] FROM docker.io/library/nginx:1", Some((5, 5))),
            ("[2/2] COPY --from=build /dist /", Some((6, 6))),
        ];
        let step = |(name, at): (&str, Option<(usize, usize)>)| BuiltStep {
            id: String::new(),
            name: name.to_owned(),
            platform: "linux/amd64".to_owned(),
            at: at.map(|(from, to)| ("Dockerfile".to_owned(), from, to)),
            fate: Fate::Unneeded,
            why: String::new(),
            waited_for: Vec::new(),
            key: CacheKey::from_bytes([0; 32]),
            known: None,
            asked: None,
        };
        names.into_iter().map(step).collect()
    }

    #[test]
    fn steps_by_line_stage_name_and_part() {
        for (text, want) in [
            ("3", Ok(&[2][..])),
            ("Dockerfile:4", Ok(&[3])),
            (":6", Ok(&[5])),
            ("build", Ok(&[1, 2, 3])),
            ("RUN npm ci", Ok(&[2])),
            ("[build 2/3] RUN npm ci", Ok(&[2])),
            ("NPM CI", Ok(&[2])),
            ("build 3/3", Ok(&[3])),
            ("nginx", Ok(&[4])),
            ("npm", Err("`npm` is in the names of 2 steps")),
            ("go build", Err("the build had no step `go build`")),
            ("77", Err("the build had no step `77`")),
            ("other:4", Err("the build had no step `other:4`")),
        ] {
            let got = choose(&steps(), text);
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{text}"),
                (Err(got), Err(want)) => {
                    assert_eq!(got.source.unwrap().to_string(), want, "{text}")
                }
                (got, want) => panic!("{text}: {got:?}, and not {want:?}"),
            }
        }
        let error = choose(&steps(), "npm").unwrap_err();
        let names = ["[build 2/3] RUN npm ci", "[build 3/3] RUN npm run build"];
        assert_eq!(error.hints, names);
    }
}
