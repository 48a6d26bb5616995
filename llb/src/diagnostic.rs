//! Source files, spans and diagnostics.
//!
//! Spans are byte offsets into the text as it was read, from the lexer on; lines and columns are derived where
//! something is printed. A diagnostic holds everything the terminal needs, and knows nothing of terminals.

use std::ops::Range;
use std::sync::Arc;

/// A source file that spans point into.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// How the user knows the file, relative to where they are: `Dockerfile`, `sub/rbuild.toml`, `-`.
    pub name: String,
    /// The whole text. Bytes that were not UTF-8 have been replaced, so offsets are those of this text.
    pub text: String,
    /// The language, as BuildKit's source map names it: `Dockerfile`, `TOML`.
    pub language: &'static str,
}

impl SourceFile {
    /// The 1-based line and column (in characters) of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = (0..=offset.min(self.text.len()))
            .rev()
            .find(|&o| self.text.is_char_boundary(o))
            .unwrap_or(0);
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// A byte range in one source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Byte offsets, end excluded. Never reversed, never past the end.
    pub range: Range<usize>,
}

impl Span {
    /// Points at `range` of `file`, clipped to the file.
    pub fn new(file: &Arc<SourceFile>, range: Range<usize>) -> Self {
        let end = range.end.min(file.text.len());
        Self {
            file: Arc::clone(file),
            range: range.start.min(end)..end,
        }
    }

    /// The text the span covers.
    pub fn text(&self) -> &str {
        self.file.text.get(self.range.clone()).unwrap_or_default()
    }

    /// 1-based first and last line.
    pub fn lines(&self) -> (usize, usize) {
        let last = self.range.end.saturating_sub(1).max(self.range.start);
        (
            self.file.position(self.range.start).0,
            self.file.position(last).0,
        )
    }

    /// `file:line:column` of the start.
    pub fn location(&self) -> String {
        let (line, column) = self.file.position(self.range.start);
        format!("{}:{line}:{column}", self.file.name)
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Lint findings: the build goes on.
    Warning,
    /// The request cannot be carried out.
    Error,
}

/// A place a diagnostic points at, with what is to be said there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What to say under it; may be empty for the primary place.
    pub text: String,
}

/// One finding about an input file. Messages follow one form: back-ticks round code and paths, no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Name of the lint rule, as BuildKit names it, for warnings that come from one.
    pub rule: Option<&'static str>,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The places; the first is the primary one. Empty only where no file is at hand.
    pub labels: Vec<Label>,
    /// The instruction that the first place is in, for tools that take BuildKit's findings: those have its lines.
    pub statement: Option<Span>,
    /// What to do about it, each printed after `hint: `.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(message: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self {
            labels: vec![Label {
                span,
                text: label.into(),
            }],
            ..Self::unplaced(message)
        }
    }

    /// An error that is about no place in a file: about the command line, or about several files.
    pub fn unplaced(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            labels: Vec::new(),
            statement: None,
            hints: Vec::new(),
        }
    }

    /// A warning of the lint rule `rule` at `span`.
    pub fn warning(
        rule: &'static str,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            rule: Some(rule),
            ..Self::error(message, span, label)
        }
    }

    /// First and last line as BuildKit counts them: of the whole instruction.
    pub fn lines(&self) -> Option<(usize, usize)> {
        let first = self.labels.first().map(|label| &label.span);
        self.statement.as_ref().or(first).map(Span::lines)
    }

    /// Says which instruction it is about.
    #[must_use]
    pub fn within(mut self, statement: Span) -> Self {
        self.statement = Some(statement);
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a secondary place.
    #[must_use]
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push(Label {
            span,
            text: label.into(),
        });
        self
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn positions_count_characters_and_survive_any_offset() {
        let file = Arc::new(SourceFile {
            name: "D".into(),
            text: "FROM ä\nRUN x\n".into(),
            language: "Dockerfile",
        });
        assert_eq!(file.position(0), (1, 1));
        assert_eq!(file.position(7), (1, 7));
        assert_eq!(
            file.position(6),
            (1, 6),
            "inside a character counts as its start"
        );
        assert_eq!(file.position(8), (2, 1));
        assert_eq!(file.position(999), (3, 1));
        let span = Span::new(&file, 8..9999);
        assert_eq!(
            (span.text(), span.lines(), span.location()),
            ("RUN x\n", (2, 2), "D:2:1".to_owned())
        );
    }
}
