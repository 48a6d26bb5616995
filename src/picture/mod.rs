//! A build's graph as text and pictures: [`tree`], [`json`], [`dot`], [`mermaid`], [`svg`].
//!
//! Pure: a [`GraphView`] goes in, a string comes out, the same for the same view. What the steps are, which of them are
//! cached and how long they took is found out by who makes the view; here it is only shown. Nothing is left out of a
//! view by a format but what it has no room for.

mod dot;
mod json;
mod layout;
mod mermaid;
mod svg;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;

use rbuild_llb::event::Timestamp;
use serde::Serialize;

pub use dot::dot;
pub use json::json;
pub use mermaid::mermaid;
pub use svg::svg;
pub use tree::tree;

/// A graph to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphView {
    /// What is made, in the order it was asked for.
    pub outputs: Vec<OutputView>,
    /// Every step once, inputs before users.
    pub steps: Vec<StepView>,
    /// Positions of the steps on the critical path, in the order they run: of all ways through the graph the one whose
    /// steps took longest together. Empty if no time is known.
    pub critical: Vec<usize>,
}

/// What the graph makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputView {
    /// Name of the target.
    pub name: String,
    /// As `os/architecture`.
    pub platform: String,
    /// Where its files come from; `None` for an empty file system.
    pub root: Option<InputView>,
}

/// One output of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InputView {
    /// The position of the step.
    pub step: usize,
    /// Which of its outputs.
    pub output: u32,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepView {
    /// What events call it.
    pub id: String,
    /// The key its result is looked up by, 64 hexadecimal digits.
    pub key: String,
    /// The kind of its op.
    pub kind: &'static str,
    /// As progress shows it: `[build 2/5] RUN npm ci`.
    pub name: String,
    /// The stage it belongs to, if its name says so; empty for the only one of a file.
    pub stage: Option<String>,
    /// As `os/architecture`.
    pub platform: String,
    /// What it works on, in the order the op means.
    pub inputs: Vec<InputView>,
    /// Which of the inputs it changes or runs in; the others it only reads.
    pub base: Option<usize>,
    /// What it does; nothing for steps that only stack or compare their inputs.
    pub detail: Option<Detail>,
    /// The instruction it comes from.
    pub at: Option<Place>,
    /// Whether it runs.
    pub state: StepState,
    /// Why it is not cached, if it is for what it is itself.
    pub why: Option<String>,
    /// Positions of the inputs that it is not cached for: they must be made first.
    pub waits_for: Vec<usize>,
    /// How long it took when it last ran, in milliseconds.
    pub millis: Option<u64>,
}

/// What a step does. Values that look secret are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Brings files in.
    Source {
        /// `image`, `oci-layout`, `local`, `git` or `http`.
        r#type: &'static str,
        /// Which: a reference, a path, a name, a URL.
        reference: String,
        /// What it was pinned to.
        digest: Option<String>,
        /// When it was last asked what a tag stands for, where nobody was asked now and that is worth telling.
        asked: Option<Timestamp>,
        /// How long ago that was, in words.
        #[serde(skip)]
        age: Option<String>,
    },
    /// Runs a process.
    Exec {
        /// argv.
        command: Vec<String>,
        /// The environment; no value where it is a secret.
        env: BTreeMap<String, Option<String>>,
        /// Working directory.
        cwd: String,
        /// User and group, empty for root.
        user: String,
        /// What is mounted besides the root file system.
        mounts: Vec<MountView>,
    },
    /// Changes files: one line an action.
    File {
        /// `copy`, `mkfile`, `mkdir`, `symlink` or `rm`, and the paths.
        actions: Vec<Vec<String>>,
    },
}

/// What a process finds somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountView {
    /// `bind`, `cache`, `tmpfs`, `secret` or `ssh`.
    pub r#type: &'static str,
    /// Where.
    pub target: String,
    /// The name of a cache, secret or agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Which of the step's inputs it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<usize>,
}

/// Lines of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// As the user knows it.
    pub file: String,
    /// The first, from 1.
    pub line: usize,
    /// The last.
    pub end_line: usize,
}

/// What a build would do about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Nothing: its result, or that of what uses it, is there.
    Cached,
    /// Run it.
    Run,
    /// Run it, unless what it works on comes out as it did before.
    Undecided,
    /// Look at files of this machine, as in every build.
    Read,
}

impl StepState {
    /// The word for it.
    fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Run => "run",
            Self::Undecided => "undecided",
            Self::Read => "read",
        }
    }
}

/// Figures about a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    cached: usize,
    run: usize,
    undecided: usize,
    /// Of all steps together, in milliseconds.
    millis: u64,
    /// Of those on the critical path.
    critical_millis: u64,
}

impl GraphView {
    /// Puts a view together and finds its critical path.
    ///
    /// # Panics
    /// If a step or an output names a step that does not stand before it.
    pub fn new(steps: Vec<StepView>, outputs: Vec<OutputView>) -> Self {
        for (position, step) in steps.iter().enumerate() {
            let mut inputs = step.inputs.iter();
            assert!(
                inputs.all(|input| input.step < position),
                "inputs stand before users"
            );
        }
        let mut roots = outputs.iter().filter_map(|output| output.root);
        assert!(roots.all(|root| root.step < steps.len()));
        Self {
            critical: critical_path(&steps),
            steps,
            outputs,
        }
    }

    /// Why a step is not cached, with the numbers of those it waits for.
    fn why(&self, at: usize) -> Option<String> {
        let StepView { why, waits_for, .. } = &self.steps[at];
        match (why, waits_for.as_slice()) {
            (None, []) => None,
            (Some(why), _) => Some(one_line(why)),
            (None, steps) => {
                let steps: Vec<String> = steps.iter().map(|at| format!("#{}", at + 1)).collect();
                Some(format!("waits for {}", steps.join(" ")))
            }
        }
    }

    fn is_critical(&self, step: usize) -> bool {
        self.critical.contains(&step)
    }

    /// Whether the critical path goes from `from` to `to`.
    fn is_critical_edge(&self, from: usize, to: usize) -> bool {
        self.critical.windows(2).any(|pair| pair == [from, to])
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (position, step) in self.steps.iter().enumerate() {
            match step.state {
                StepState::Cached => totals.cached += 1,
                StepState::Run => totals.run += 1,
                StepState::Undecided => totals.undecided += 1,
                StepState::Read => {}
            }
            let millis = step.millis.unwrap_or(0);
            totals.millis = totals.millis.saturating_add(millis);
            if self.is_critical(position) {
                totals.critical_millis = totals.critical_millis.saturating_add(millis);
            }
        }
        totals
    }

    /// `5 steps: 3 cached, 2 to run`.
    fn counts(&self) -> String {
        let totals = self.totals();
        let mut text = match self.steps.len() {
            1 => "1 step".to_owned(),
            n => format!("{n} steps"),
        };
        let parts = [
            (totals.cached, "cached"),
            (totals.run, "to run"),
            (totals.undecided, "to run if inputs change"),
        ];
        let mut separator = ": ";
        for (count, what) in parts {
            if count > 0 {
                text.push_str(&format!("{separator}{count} {what}"));
                separator = ", ";
            }
        }
        text
    }

    /// What the last runs took; empty if nothing is known.
    fn times(&self) -> String {
        let totals = self.totals();
        match totals.millis {
            0 => String::new(),
            all => format!(
                "last run {}, critical path {}",
                duration(all),
                duration(totals.critical_millis)
            ),
        }
    }

    /// The stages in the order of their first steps, each with its steps; steps of none are not among them. What is built
    /// for several platforms has a stage for each.
    fn stages(&self) -> Vec<(String, Vec<usize>)> {
        let mut platforms: Vec<&str> = self.steps.iter().map(|s| s.platform.as_str()).collect();
        platforms.sort_unstable();
        platforms.dedup();
        let mut stages: Vec<(String, Vec<usize>)> = Vec::new();
        for (position, step) in self.steps.iter().enumerate() {
            let Some(stage) = &step.stage else { continue };
            let name = match (stage.as_str(), platforms.len()) {
                ("", 1) => continue,
                (stage, 1) => stage.to_owned(),
                ("", _) => step.platform.clone(),
                (stage, _) => format!("{stage} · {}", step.platform),
            };
            match stages.iter_mut().find(|(known, _)| *known == name) {
                Some((_, steps)) => steps.push(position),
                None => stages.push((name, vec![position])),
            }
        }
        stages
    }
}

impl StepView {
    /// The name without the stage: `RUN npm ci`, on one line; `context src: load from client` of a context.
    fn label(&self) -> String {
        let name = self.name.as_str();
        let bare = match name
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "))
        {
            Some((context, what)) if context.starts_with("context ") => {
                format!("{context}: {what}")
            }
            Some((_, bare)) => bare.to_owned(),
            None => name.to_owned(),
        };
        match brief(&bare) {
            empty if empty.is_empty() => self.kind.to_owned(),
            label => label,
        }
    }
}

impl OutputView {
    fn label(&self) -> String {
        format!("{} ({})", one_line(&self.name), self.platform)
    }
}

/// The heaviest way through the graph by the times known; of equally heavy ones the first.
fn critical_path(steps: &[StepView]) -> Vec<usize> {
    let mut heaviest: Vec<(u64, Option<usize>)> = Vec::with_capacity(steps.len());
    for step in steps {
        let mut best: (u64, Option<usize>) = (0, None);
        for input in &step.inputs {
            let before = heaviest[input.step].0;
            if best.1.is_none() || before > best.0 {
                best = (before, Some(input.step));
            }
        }
        let own = step.millis.unwrap_or(0);
        heaviest.push((best.0.saturating_add(own), best.1));
    }
    let weights = heaviest.iter().map(|(weight, _)| *weight);
    let most = weights.max().filter(|&most| most > 0);
    let mut end: Option<usize> = None;
    for (position, &(weight, before)) in heaviest.iter().enumerate() {
        // What is made of the last step in no time is still on the way to the result.
        if Some(weight) == most && (end.is_none() || end == before) {
            end = Some(position);
        }
    }
    let mut path = Vec::new();
    while let Some(position) = end {
        path.push(position);
        end = heaviest[position].1.filter(|&at| heaviest[at].0 > 0);
    }
    path.reverse();
    path
}

/// A duration as people read it: `40ms`, `1.25s`, `31.2s`, `4m05s`, `1h02m`.
fn duration(millis: u64) -> String {
    let secs = millis as f64 / 1000.0;
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..9_995 => format!("{secs:.2}s"),
        9_995..59_950 => format!("{secs:.1}s"),
        _ => {
            let secs = millis.saturating_add(500) / 1000;
            match secs {
                0..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
                _ => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
            }
        }
    }
}

/// Text on one line: each run of white space is one space, control characters are left out.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|c| !c.is_control()).collect();
        if !word.is_empty() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
    }
    line
}

/// A name on one line, its digests short: with a tag an image's digest is left out, without one 12 digits are enough.
fn brief(name: &str) -> String {
    const DIGITS: usize = 64;
    let mut words: Vec<String> = Vec::new();
    for word in one_line(name).split(' ') {
        words.push(match word.split_once("@sha256:") {
            Some((image, digest)) if digest.len() == DIGITS && digest.is_ascii() => {
                let last = image.rsplit('/').next().unwrap_or(image);
                match last.contains(':') {
                    true => image.to_owned(),
                    false => format!("{image}@sha256:{}", &digest[..12]),
                }
            }
            _ => word.to_owned(),
        });
    }
    words.join(" ")
}

/// At most `chars` characters, an ellipsis for the rest.
fn shortened(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(chars.saturating_sub(1)).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}
