//! Include and exclude patterns, wildcards, and the reader of ignore files.
//!
//! Three languages that look alike and are not:
//!
//! - [`PatternSet`]: the lists of `.dockerignore` and `--exclude`, as moby's `patternmatcher` reads them: `*`, `?`, classes,
//!   `**`, `!` exceptions where the last match wins, and a match of a directory counts for all below it
//! - [`wildcard`]: the patterns of `COPY` and `ADD` sources, Go's `filepath.Match`: no `**`, `*` stays within a name
//! - [`read_ignore_file`]: lines to patterns, moby's `ignorefile`
//!
//! Patterns are text. A path whose bytes are not UTF-8 is matched by its lossy form.
//!
//! moby translates a pattern into a regular expression without caring where it is, so that a `*` inside `[…]`, an
//! escaped letter (`\d`), a `|` or a `^` mean what they mean to Go's `regexp`. Existing ignore files are read by that, so it is
//! kept: [`glob`] has the subset of `regexp` which translations can hold. Refused where moby would accept it are only
//! `\p`, `\P` and `\Q`.

mod glob;
#[cfg(test)]
mod tests;
mod wildcard;

use crate::paths::clean;
use glob::Glob;
pub use wildcard::wildcard;

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A class without end or with a reversed range, or a backslash at the end.
    #[error("`{pattern}` is not a valid pattern: {problem}")]
    Malformed {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `!` on its own.
    #[error("the pattern `!` excepts nothing")]
    EmptyException,
}

/// A list of patterns in order. The last one that matches decides; one with `!` before it takes paths back.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    exception: bool,
    /// How every path begins that it matches.
    prefix: String,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// The prefix and nothing else.
    Exact,
    /// Anything after the prefix: `dir/**`.
    Prefix,
    /// `**/name` (the tail with its slash) or `**tail`.
    Suffix(String),
    Glob(Glob),
    /// Any of them.
    Globs(Vec<Glob>),
}

/// Which patterns of a set matched a directory or one above it, in the way moby's walk remembers them: patterns that could
/// not change the outcome have not been tried and count as not matched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matches {
    bits: Vec<u64>,
}

impl Matches {
    fn get(&self, at: usize) -> bool {
        self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    fn set(&mut self, at: usize) {
        self.bits[at / 64] |= 1 << (at % 64);
    }

    /// One past the last pattern that matched.
    fn end(&self) -> usize {
        let word = self.bits.iter().rposition(|&word| word != 0);
        word.map_or(0, |at| {
            at * 64 + 64 - self.bits[at].leading_zeros() as usize
        })
    }
}

impl PatternSet {
    /// Compiles patterns. Blank ones are left out; paths in them are cleaned (`./a//b/` is `a/b`).
    ///
    /// # Errors
    /// The first pattern that is malformed.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let patterns = patterns
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .map(Pattern::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` (slashes between names, none at its ends) is matched, itself or by a directory above it.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.exception == matched && pattern.matches_or_above(path) {
                matched = !pattern.exception;
            }
        }
        matched
    }

    /// Whether `path` is matched, given what [`enter`](Self::enter) returned for its directory (`None` at the top).
    pub fn matches_below(&self, path: &str, above: Option<&Matches>) -> bool {
        let mut matched = false;
        for (at, pattern) in self.patterns.iter().enumerate() {
            if above.is_some_and(|above| above.get(at))
                || pattern.exception == matched && pattern.matches(path)
            {
                matched = !pattern.exception;
            }
        }
        matched
    }

    /// Whether the directory `path` is matched, and what to remember for the paths in it.
    pub fn enter(&self, path: &str, above: Option<&Matches>) -> (bool, Matches) {
        let mut matched = false;
        let mut matches = above.cloned().unwrap_or_else(|| Matches {
            bits: vec![0; self.patterns.len().div_ceil(64)],
        });
        for (at, pattern) in self.patterns.iter().enumerate() {
            let inherited = matches.get(at);
            if inherited || pattern.exception == matched && pattern.matches(path) {
                matches.set(at);
                matched = !pattern.exception;
            }
        }
        (matched, matches)
    }

    /// Whether something below the directory `path`, which came out as `matched`, may come out otherwise.
    ///
    /// What lies below inherits all matches of the directory; it can only differ by a pattern of the other kind that comes after
    /// the last of those and matches it directly.
    pub fn may_change_below(&self, path: &str, matched: bool, matches: &Matches) -> bool {
        self.patterns
            .iter()
            .skip(matches.end())
            .any(|pattern| pattern.exception == matched && pattern.may_match_below(path))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
        // Cleaned before `!` is looked for, as moby does: `!a/../b` is `b`.
        let cleaned = clean(text);
        let (exception, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::EmptyException),
            Some(rest) => (true, rest),
            None => (false, cleaned.as_str()),
        };
        // moby's check of the syntax. What it does not look at may still be refused below.
        wildcard(text, ".")?;
        let (prefix, form) = glob::compile(text)?;
        Ok(Self {
            exception,
            prefix,
            form,
        })
    }

    fn matches(&self, path: &str) -> bool {
        match &self.form {
            Form::Exact => path == self.prefix,
            Form::Prefix => starts_with(path, &self.prefix),
            Form::Suffix(tail) => {
                ends_with(path, tail)
                    || tail.len() == path.len() + 1 && tail.strip_prefix('/') == Some(path)
            }
            Form::Glob(glob) => starts_with(path, &self.prefix) && glob.matches(path),
            Form::Globs(globs) => globs.iter().any(|glob| glob.matches(path)),
        }
    }

    fn matches_or_above(&self, path: &str) -> bool {
        self.matches(path)
            || path
                .match_indices('/')
                .any(|(at, _)| self.matches(&path[..at]))
    }

    /// Whether it may match something in the directory `dir`, going by its literal prefix.
    fn may_match_below(&self, dir: &str) -> bool {
        match self.prefix.as_bytes().get(dir.len()) {
            Some(b'/') => self.prefix.starts_with(dir),
            Some(_) => false,
            None => !matches!(self.form, Form::Exact) && dir.starts_with(&self.prefix),
        }
    }
}

/// Which paths of a directory tree are wanted: those matched by `include` (all, if there is none) and not by `exclude`.
/// Made for a walker that carries what it learnt about a directory down to what is in it.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: PatternSet,
    exclude: PatternSet,
}

/// What a walker remembers of a directory; the default is the top.
#[derive(Debug, Clone, Default)]
pub struct Above {
    include: Option<Matches>,
    exclude: Option<Matches>,
}

/// What to do with a directory.
#[derive(Debug, Clone)]
pub struct DirDecision {
    /// It is wanted, even if nothing in it is. One that is not still stands above the wanted paths in it.
    pub selected: bool,
    /// Something in it may be wanted.
    pub descend: bool,
    /// For the paths in it.
    pub above: Above,
}

impl Selection {
    /// Compiles both lists. `/` before a path means nothing here and is dropped; an include of `.` is the whole tree.
    ///
    /// # Errors
    /// The first pattern that is malformed.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        let relative = |pattern: &String| match pattern.strip_prefix('!') {
            Some(rest) => format!("!{}", rest.trim_start_matches('/')),
            None => pattern.trim_start_matches('/').to_owned(),
        };
        let include: Vec<String> = include.iter().map(relative).collect();
        let exclude: Vec<String> = exclude.iter().map(relative).collect();
        let whole = include.iter().any(|text| clean(text.trim()) == ".");
        Ok(Self {
            include: PatternSet::new(if whole { &[] } else { &include })?,
            exclude: PatternSet::new(&exclude)?,
        })
    }

    /// Whether every path is wanted.
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether `path` is wanted, for a caller that does not walk.
    pub fn selects(&self, path: &str) -> bool {
        (self.include.is_empty() || self.include.matches(path)) && !self.exclude.matches(path)
    }

    /// Whether `path`, which is no directory, is wanted.
    pub fn file(&self, path: &str, above: &Above) -> bool {
        (self.include.is_empty() || self.include.matches_below(path, above.include.as_ref()))
            && !self.exclude.matches_below(path, above.exclude.as_ref())
    }

    /// What to do with the directory `path`.
    pub fn dir(&self, path: &str, above: &Above) -> DirDecision {
        let mut decision = DirDecision {
            selected: true,
            descend: true,
            above: Above::default(),
        };
        if !self.include.is_empty() {
            let (matched, matches) = self.include.enter(path, above.include.as_ref());
            decision.selected &= matched;
            decision.descend &= matched || self.include.may_change_below(path, false, &matches);
            decision.above.include = Some(matches);
        }
        if !self.exclude.is_empty() {
            let (matched, matches) = self.exclude.enter(path, above.exclude.as_ref());
            decision.selected &= !matched;
            decision.descend &= !matched || self.exclude.may_change_below(path, true, &matches);
            decision.above.exclude = Some(matches);
        }
        decision
    }
}

/// `str::starts_with`, looking at one byte first: most paths differ there, and comparing memory is a call, which was
/// four fifths of the time that matching took.
fn starts_with(text: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || text.as_bytes().first() == prefix.as_bytes().first() && text.starts_with(prefix)
}

/// `str::ends_with` in the same manner.
fn ends_with(text: &str, suffix: &str) -> bool {
    suffix.is_empty()
        || text.as_bytes().last() == suffix.as_bytes().last() && text.ends_with(suffix)
}

/// The patterns in the text of a `.dockerignore`: comments (`#` in the first column) and blank lines dropped, paths
/// cleaned and made relative. A byte-order mark at the start is skipped.
pub fn read_ignore_file(text: &str) -> Vec<String> {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .split('\n')
        .filter(|line| !line.starts_with('#'))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| match line.strip_prefix('!') {
            Some(rest) => format!("!{}", clean_relative(rest.trim())),
            None => clean_relative(line),
        })
        .collect()
}

fn clean_relative(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let path = clean(path);
    match path.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => path,
    }
}
