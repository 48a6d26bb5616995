//! What a command said, as one text that a snapshot can pin.

use std::fmt;
use std::process::ExitStatus;

use regex::Regex;
use snapbox::Assert;
use snapbox::IntoData;
use snapbox::Redactions;

/// A finished command.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
    /// The environment's directory, hidden in snapshots.
    root: String,
}

impl Output {
    pub(super) fn new(output: std::process::Output, root: &str) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status,
            root: root.to_owned(),
        }
    }

    /// Panics with everything the command said unless it exited with 0.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Panics with everything the command said unless it exited with `code`.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Panics unless standard error has `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no `{text}` in:\n{self}");
        self
    }

    /// Compares everything with a snapshot.
    #[track_caller]
    pub(crate) fn is(&self, expected: impl IntoData) {
        self.redacting().eq(self.to_string(), expected);
    }

    /// Compares what stands from the first `error` on, and the exit status: progress before it is not pinned.
    #[track_caller]
    pub(crate) fn fails_with(&self, expected: impl IntoData) {
        let text = self.to_string();
        let start = text
            .match_indices("error")
            .map(|(at, _)| at)
            .find(|at| *at == 0 || text[..*at].ends_with('\n'))
            .unwrap_or_else(|| panic!("no error in:\n{text}"));
        self.redacting().eq(&text[start..], expected);
    }

    /// The instructions that were carried out and not answered from the cache, of a build with `--progress=plain`.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.steps(false)
    }

    /// The instructions that were answered from the cache.
    pub(crate) fn cached(&self) -> Vec<String> {
        self.steps(true)
    }

    /// `#5 [build 2/4] RUN make` names a step, `#5 CACHED` says that it was not carried out. FROM is no step here.
    fn steps(&self, cached: bool) -> Vec<String> {
        let mut names: Vec<(&str, &str)> = Vec::new();
        let mut hits: Vec<&str> = Vec::new();
        for (id, rest) in self.stderr.lines().filter_map(|line| line.split_once(' ')) {
            if !id.starts_with('#') {
                continue;
            }
            if rest == "CACHED" {
                hits.push(id);
            }
            if let Some((_, instruction)) = rest
                .strip_prefix('[')
                .and_then(|rest| rest.split_once("] "))
            {
                let is_step = !rest.starts_with("[internal]") && !instruction.starts_with("FROM ");
                if is_step && !names.contains(&(id, instruction)) {
                    names.push((id, instruction));
                }
            }
        }
        let mut found: Vec<String> = names
            .into_iter()
            .filter(|(id, _)| hits.contains(id) == cached)
            .map(|(_, instruction)| instruction.to_owned())
            .collect();
        found.sort();
        found
    }

    fn redacting(&self) -> Assert {
        let patterns = [
            ("[DIGEST]", r"sha256:[0-9a-f]{64}|\b[0-9a-f]{64}\b"),
            ("[ID]", r"\b[0-9a-f]{12}\b"),
            ("[PORT]", r"127\.0\.0\.1:(?<redacted>[0-9]+)"),
            ("[TIME]", r"\b([0-9]+\.[0-9]{3}|[0-9]+(\.[0-9]+)?m?s)\b"),
            ("[ASIDE]", r"\.aside-(?<redacted>[A-Za-z0-9]{6})\b"),
            ("[SIZE]", r"\b[0-9]+(\.[0-9]+)? ?([kKMG]i?)?B\b"),
        ];
        let mut redactions = Redactions::new();
        redactions.insert("[ROOT]", self.root.clone()).unwrap();
        for (placeholder, pattern) in patterns {
            redactions
                .insert(placeholder, Regex::new(pattern).unwrap())
                .unwrap();
        }
        Assert::new()
            .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
            .redact_with(redactions)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stdout)?;
        if !self.stderr.is_empty() {
            write!(f, "---- stderr ----\n{}", self.stderr)?;
        }
        if !self.status.success() {
            match self.status.code() {
                Some(code) => writeln!(f, "[exit status: {code}]")?,
                None => writeln!(f, "[{}]", self.status)?,
            }
        }
        Ok(())
    }
}
