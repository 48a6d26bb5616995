//! The lint rule about copies of files that `.dockerignore` leaves out.

use rbuild_llb::pattern::PatternSet;

use super::Converter;
use crate::ast::Head;
use crate::ast::Word;
use crate::lint::Rule;
use crate::paths::clean;

/// What is left out of the build context.
pub(super) struct Ignored {
    patterns: PatternSet,
    /// Whether a pattern leaves out everything.
    all: bool,
}

impl Ignored {
    /// `None` where the rule has nothing to say: no patterns, patterns with exceptions (a directory may be left out
    /// and a file in it be taken back), and bad ones, which reading the context reports.
    pub(super) fn new(patterns: &[String]) -> Option<Self> {
        if patterns.is_empty() || patterns.iter().any(|p| p.starts_with('!')) {
            return None;
        }
        let all = |p: &String| matches!(p.as_str(), "*" | "**" | "**/*");
        Some(Self {
            patterns: PatternSet::new(patterns).ok()?,
            all: patterns.iter().any(all),
        })
    }

    fn holds(&self, path: &str) -> bool {
        match path {
            "." | "/" => self.all && self.patterns.matches(path),
            path => self.patterns.matches(path),
        }
    }
}

impl Converter<'_> {
    /// Reports a source of COPY (`Copy`) or ADD (`Add`) that cannot be there.
    pub(super) fn check_ignored(&mut self, instruction: &str, path: &Word, head: &Head) {
        let cleaned = clean(&path.text);
        if self.ignored.as_ref().is_some_and(|i| i.holds(&cleaned)) {
            let message = format!(
                "Attempting to {instruction} file \"{cleaned}\" that is excluded by .dockerignore"
            );
            let rule = Rule::CopyIgnoredFile;
            self.lint.report(rule, head, &path.span, message);
        }
    }
}
