//! Text to logical lines, by BuildKit's rules (frontend/dockerfile/parser).
//!
//! - A byte-order mark at the start is dropped; a line ends with `\n` or `\r\n`.
//! - Directives (`# escape=`) stand at the very top, each once; the first line that is none ends them.
//! - A line whose last character but blanks is the escape character goes on in the next one, unless the character
//!   before it is the escape character too. Comments and empty lines inside a continued line are skipped.
//! - Blanks in front of an instruction are dropped, those in front of a continuation are kept.
//! - After an ADD, COPY or RUN (also below ONBUILD) that is not in JSON form, `<<NAME` words take the lines up to
//!   one that is `NAME`.
//!
//! A logical line is not a slice of the file; [`Line`] knows where in the file each of its bytes came from.

use std::ops::Range;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;

use crate::env::Env;
use crate::source::Site;
use crate::words::Shell;

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, without quotes.
    pub name: String,
    /// Whether variables in it are expanded (COPY and ADD): the name was not quoted.
    pub expand: bool,
    /// `<<-`: tabs at the start of lines are dropped.
    pub chomp: bool,
    /// The lines, as they stand in the file.
    pub content: String,
}

impl Heredoc {
    /// The content, without leading tabs if the operator was `<<-`.
    pub fn data(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// A flag as it stands on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFlag {
    /// With quotes and escapes taken away: `--from=build`.
    pub(crate) text: String,
    /// Its bytes in the logical line.
    pub(crate) range: Range<usize>,
}

/// An instruction's parts, as byte ranges of the logical line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The first word.
    pub(crate) keyword: Range<usize>,
    /// `--flags` that follow it.
    pub(crate) flags: Vec<RawFlag>,
    /// The remainder, without blanks around it.
    pub(crate) rest: Range<usize>,
}

/// One instruction with its continuations joined.
#[derive(Debug, Default)]
pub(crate) struct Line {
    text: String,
    /// Where pieces of the text start: in the text, and in the file.
    pieces: Vec<(usize, usize)>,
    /// First to last byte in the file, here-documents included, the last line break not.
    pub(crate) extent: Range<usize>,
    /// The comment lines right above it, without `#`.
    pub(crate) comments: Vec<String>,
    /// The here-documents, in the order of their operators.
    pub(crate) heredocs: Vec<Heredoc>,
    /// Its parts.
    pub(crate) parts: Parts,
}

impl Line {
    /// The logical line.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A part of the logical line.
    pub(crate) fn slice(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// The bytes of the file that a part of the logical line came from.
    pub(crate) fn source(&self, range: &Range<usize>) -> Range<usize> {
        let at = |offset: usize| {
            let piece = self.pieces.partition_point(|(text, _)| *text <= offset);
            match piece.checked_sub(1).map(|i| self.pieces[i]) {
                Some((text, file)) => file + (offset - text),
                None => self.extent.start,
            }
        };
        let start = at(range.start);
        match range.end.checked_sub(1) {
            Some(last) if last >= range.start => start..at(last) + 1,
            _ => start..start,
        }
    }

    fn push(&mut self, piece: &str, at: usize) {
        if !piece.is_empty() {
            self.pieces.push((self.text.len(), at));
            self.text.push_str(piece);
        }
    }
}

/// An instruction that is continued over empty lines.
#[derive(Debug)]
pub(crate) struct EmptyContinuation {
    /// The first of the empty lines.
    pub(crate) empty: Span,
    /// The last line of the instruction, where BuildKit reports it.
    pub(crate) last: Span,
}

/// What lexing gives. Problems do not stop it.
#[derive(Debug)]
pub(crate) struct Lexed {
    /// The escape character.
    pub(crate) escape: char,
    /// The names of the directives so far.
    directives: Vec<String>,
    /// The instructions.
    pub(crate) lines: Vec<Line>,
    /// Empty lines inside continued instructions.
    pub(crate) empty_continuations: Vec<EmptyContinuation>,
    /// Problems.
    pub(crate) errors: Vec<Diagnostic>,
}

/// One line of the file, without its line break.
#[derive(Clone, Copy)]
struct Physical<'a> {
    text: &'a str,
    at: usize,
    /// With its line break.
    whole: &'a str,
}

impl Physical<'_> {
    fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with('#')
    }

    fn range(&self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }
}

struct Reader<'a> {
    site: &'a Site<'a>,
    /// Offset of the next line.
    next: usize,
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> Option<Physical<'a>> {
        let rest = self.site.text.get(self.next..).filter(|r| !r.is_empty())?;
        let whole = rest.split_inclusive('\n').next()?;
        let at = self.next;
        self.next += whole.len();
        let text = whole.trim_end_matches(['\r', '\n']);
        Some(Physical { text, at, whole })
    }
}

/// Cuts the text into logical lines.
pub(crate) fn lex(site: &Site<'_>) -> Lexed {
    let mut lexed = Lexed {
        escape: '\\',
        directives: Vec::new(),
        // Lines of Dockerfiles have some 40 bytes.
        lines: Vec::with_capacity(site.text.len() / 40),
        empty_continuations: Vec::new(),
        errors: Vec::new(),
    };
    let bom = if site.text.starts_with('\u{feff}') {
        3
    } else {
        0
    };
    let mut reader = Reader { site, next: bom };
    let mut directives = true;
    let mut comments = Vec::new();
    while let Some(mut physical) = reader.line() {
        let blanks = physical.text.len() - physical.text.trim_start().len();
        physical.text = &physical.text[blanks..];
        physical.at += blanks;
        if directives {
            directives = directive(&physical, site, &mut lexed);
            if directives {
                continue;
            }
        }
        if physical.is_comment() {
            // BuildKit takes away the first character of the line, whether that is the `#` or a blank in front of it.
            let comment = match blanks {
                0 => &physical.text[1..],
                _ => physical.text,
            };
            match comment.trim() {
                "" => comments.clear(),
                comment => comments.push(comment.to_owned()),
            }
            continue;
        }
        if physical.text.is_empty() {
            continue;
        }
        let mut line = logical(physical, &mut reader, &mut lexed);
        line.comments = std::mem::take(&mut comments);
        let all = 0..line.text.len();
        line.parts = split(&line.text, all, lexed.escape);
        if takes_heredocs(&line, &line.parts, lexed.escape) {
            heredocs(&mut line, &mut reader, &mut lexed.errors);
        }
        lexed.lines.push(line);
    }
    lexed
}

/// Reads a directive; tells whether there was one, or something that was meant to be one.
fn directive(line: &Physical<'_>, site: &Site<'_>, to: &mut Lexed) -> bool {
    let Some((name, value)) = line
        .text
        .strip_prefix('#')
        .and_then(|text| text.split_once('='))
    else {
        return false;
    };
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    if !matches!(name.as_str(), "syntax" | "escape" | "check") || value.is_empty() {
        return false;
    }
    if to.directives.contains(&name) {
        let message = format!("only one `{name}` parser directive can be used");
        to.errors
            .push(Diagnostic::error(message, site.span(line.range()), ""));
        return true;
    }
    if name == "escape" {
        match value {
            "\\" | "`" => to.escape = if value == "`" { '`' } else { '\\' },
            _ => {
                let start = line.at + line.text.trim_end().len() - value.len();
                to.errors.push(Diagnostic::error(
                    format!("invalid escape token `{value}`"),
                    site.span(start..start + value.len()),
                    "neither `\\` nor a back-tick",
                ));
            }
        }
    }
    to.directives.push(name);
    true
}

/// The text of a line before its continuation character, or `None` if it has none.
fn continued(text: &str, escape: char) -> Option<&str> {
    let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// Joins a line with those it goes on in.
fn logical(first: Physical<'_>, reader: &mut Reader<'_>, lexed: &mut Lexed) -> Line {
    let mut line = Line {
        extent: first.range(),
        ..Line::default()
    };
    let mut physical = first;
    let (mut empty, mut last) = (None, first.range());
    while let Some(piece) = continued(physical.text, lexed.escape) {
        line.push(piece, physical.at);
        let next = loop {
            let Some(next) = reader.line() else {
                break None;
            };
            last = next.range();
            if next.is_comment() {
                continue;
            }
            if next.text.trim_start().is_empty() {
                empty.get_or_insert(next.range());
                continue;
            }
            break Some(next);
        };
        let Some(next) = next else {
            physical.text = "";
            break;
        };
        physical = next;
        line.extent.end = physical.at + physical.text.len();
    }
    line.push(physical.text, physical.at);
    if let Some(empty) = empty {
        lexed.empty_continuations.push(EmptyContinuation {
            empty: reader.site.span(empty),
            last: reader.site.span(last),
        });
    }
    line
}

/// Finds keyword, flags and the rest in `range` of a logical line.
pub(crate) fn split(text: &str, range: Range<usize>, escape: char) -> Parts {
    let range = trimmed(text, range);
    let blank = |c: char| matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ');
    let line = &text[range.clone()];
    let keyword = range.start..range.start + line.find(blank).unwrap_or(line.len());
    let mut flags = Vec::new();
    let mut at = keyword.end;
    loop {
        let tail = &text[at..range.end];
        at += tail.len() - tail.trim_start().len();
        if !text[at..range.end].starts_with("--") {
            break;
        }
        let (flag, end) = flag(text, at..range.end, escape);
        let stop = flag == "--";
        if !flag.is_empty() && !stop {
            flags.push(RawFlag {
                text: flag,
                range: at..end,
            });
        }
        at = end;
        if stop {
            break;
        }
    }
    Parts {
        keyword,
        flags,
        rest: trimmed(text, at..range.end),
    }
}

/// Reads the word at the start of `range`: its text without quotes and escapes, and where it ends.
fn flag(text: &str, range: Range<usize>, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices();
    while let Some((i, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, range.start + i),
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
            _ => word.push(c),
        }
    }
    (word, range.end)
}

/// `range` without white space at its ends.
pub(crate) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

fn takes_heredocs(line: &Line, parts: &Parts, escape: char) -> bool {
    let keyword = line.slice(&parts.keyword);
    let is = |name: &&str| keyword.eq_ignore_ascii_case(name);
    match ["ADD", "COPY", "RUN", "ONBUILD"].into_iter().find(is) {
        Some("ADD" | "COPY" | "RUN") => json(line.slice(&parts.rest)).is_none(),
        Some(_) => {
            let inner = split(&line.text, parts.rest.clone(), escape);
            let nested = line.slice(&inner.keyword).eq_ignore_ascii_case("onbuild");
            !nested && takes_heredocs(line, &inner, escape)
        }
        None => false,
    }
}

/// The JSON array that `text` is.
pub(crate) fn json(text: &str) -> Option<Vec<serde_json::Value>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

/// Takes the bodies of the line's here-documents from the lines that follow.
fn heredocs(line: &mut Line, reader: &mut Reader<'_>, errors: &mut Vec<Diagnostic>) {
    if !line.text.contains("<<") {
        return;
    }
    let shell = Shell {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Shell::new('\\')
    };
    // A line that is no sequence of shell words has no here-documents; what is wrong with it is said later.
    let Ok(expansion) = shell.split(&line.text, &Env::default()) else {
        return;
    };
    for word in &expansion.words {
        let Some(mut heredoc) = heredoc_operator(word) else {
            continue;
        };
        loop {
            let Some(physical) = reader.line() else {
                let operator = line.text.find("<<").unwrap_or_default();
                let at = line.text.find(word.as_str()).unwrap_or(operator);
                let span = line.source(&(at..at + word.len().min(line.text.len() - at)));
                let label = format!("no line is `{}`", heredoc.name);
                let span = reader.site.span(span);
                errors.push(Diagnostic::error("unterminated heredoc", span, label));
                return;
            };
            let end = match heredoc.chomp {
                true => physical.text.trim_start_matches('\t'),
                false => physical.text,
            };
            line.extent.end = physical.at + physical.text.len();
            if end == heredoc.name {
                break;
            }
            heredoc.content.push_str(physical.whole);
        }
        line.heredocs.push(heredoc);
    }
}

/// Reads `word` as `[fd]<<[-]NAME`.
pub(crate) fn heredoc_operator(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name = |raw_quotes| {
        let shell = Shell {
            raw_quotes,
            keep_unset: true,
            ..Shell::new('\\')
        };
        let mut words = shell.split(rest, &Env::default()).ok()?.words;
        (words.len() == 1).then(|| words.remove(0))
    };
    let (plain, raw) = (name(false)?, name(true)?);
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Heredoc {
        expand: quotes(&plain) == quotes(&raw),
        name: plain,
        chomp,
        content: String::new(),
    })
}
