//! Where text comes from: a Dockerfile, or an ONBUILD trigger that a base image brought.

use std::ops::Range;
use std::sync::Arc;

use rbuild_llb::SourceFile;
use rbuild_llb::Span;

/// A text to parse, and how its byte ranges become spans of a file the user knows.
#[derive(Debug, Clone)]
pub(crate) struct Site<'a> {
    /// The text.
    pub(crate) text: &'a str,
    file: Arc<SourceFile>,
    /// Set for a trigger: all of it is shown as the `FROM` that brought it.
    fixed: Option<Range<usize>>,
}

impl<'a> Site<'a> {
    /// The file itself.
    pub(crate) fn file(file: &'a Arc<SourceFile>) -> Self {
        Self {
            text: &file.text,
            file: Arc::clone(file),
            fixed: None,
        }
    }

    /// A trigger, which is shown as `at`.
    pub(crate) fn trigger(text: &'a str, at: &Span) -> Self {
        Self {
            text,
            file: Arc::clone(&at.file),
            fixed: Some(at.range.clone()),
        }
    }

    /// The span of a range of the text.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        Span::new(&self.file, self.fixed.clone().unwrap_or(range))
    }
}
