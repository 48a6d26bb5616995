//! YAML as compose files have it: read by the `saphyr-parser` crate, which only this file knows, into a tree with places.
//!
//! Anchors, merge keys (`<<`) and compose's tags `!reset` and `!override` are carried out or kept; plain scalars get the
//! types of YAML 1.2's core schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use saphyr_parser::Event;
use saphyr_parser::Parser;
use saphyr_parser::ScalarStyle;

use crate::Fail;
use crate::fail;
use crate::syntax::Word;

/// Values may lie this deep in one another.
const MAX_DEPTH: usize = 64;

/// A file has no more values than this, those counted that aliases repeat.
const MAX_NODES: usize = 100_000;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) span: Span,
    pub(super) tag: Tag,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// A number, as Go prints it.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Word, Node)>),
}

/// What a value does to that of an earlier file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    None,
    /// `!reset`: it is as if neither were there.
    Reset,
    /// `!override`: it takes its place.
    Override,
}

impl Node {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => {
                let found = entries.iter().find(|(key, _)| key.text == name);
                found.map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// A scalar as text; none for null, lists and maps.
    pub(super) fn text(&self) -> Option<String> {
        match &self.kind {
            Kind::Bool(value) => Some(value.to_string()),
            Kind::Number(text) | Kind::Text(text) => Some(text.clone()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }
}

/// Reads the documents of a file.
pub(super) fn parse(file: &Arc<SourceFile>) -> Result<Vec<Node>, Fail> {
    let mut reader = Reader {
        file,
        offsets: file.text.char_indices().map(|(at, _)| at).collect(),
        events: Parser::new_from_str(&file.text),
        anchors: BTreeMap::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event => documents.push(reader.node(event, span, 0)?),
        }
    }
}

struct Reader<'r> {
    file: &'r Arc<SourceFile>,
    /// The byte offset of each character: the parser counts characters.
    offsets: Vec<usize>,
    events: Parser<'r, saphyr_parser::StrInput<'r>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'r> Reader<'r> {
    fn next(&mut self) -> Result<(Event<'r>, Span), Fail> {
        match self.events.next_event() {
            Some(Ok((event, span))) => {
                let (start, end) = (span.start.index(), span.end.index());
                Ok((event, self.span(start, end)))
            }
            Some(Err(error)) => {
                let at = error.marker().index();
                let span = self.span(at, at + 1);
                Err(fail(format!("not valid YAML: {}", error.info()), span, ""))
            }
            None => Ok((Event::StreamEnd, self.span(0, 0))),
        }
    }

    fn span(&self, start: usize, end: usize) -> Span {
        let byte = |at: usize| {
            self.offsets
                .get(at)
                .copied()
                .unwrap_or(self.file.text.len())
        };
        Span::new(self.file, byte(start)..byte(end.max(start)))
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Fail> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} values");
            return Err(fail(message, span.clone(), "the limit is reached here"));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'r>, span: Span, depth: usize) -> Result<Node, Fail> {
        self.count(1, &span)?;
        if depth == MAX_DEPTH {
            let message = format!("values lie more than {MAX_DEPTH} deep in one another");
            return Err(fail(message, span, ""));
        }
        let (kind, anchor, tag, end) = match event {
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(fail("an alias cannot stand for what it is in", span, ""));
                };
                self.count(size(&node), &span)?;
                if depth + height(&node) > MAX_DEPTH {
                    let message = format!("values lie more than {MAX_DEPTH} deep in one another");
                    return Err(fail(message, span, ""));
                }
                return Ok(Node { span, ..node });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| tag.suffix.clone());
                let plain = matches!(style, ScalarStyle::Plain) && tag.as_deref() != Some("str");
                let kind = match plain {
                    true => scalar(&text),
                    false => Kind::Text(text.into_owned()),
                };
                (kind, anchor, tag, span.range.end)
            }
            Event::SequenceStart(anchor, tag) => {
                let tag = tag.map(|tag| tag.suffix.clone());
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break (Kind::List(items), anchor, tag, span.range.end);
                    }
                    items.push(self.node(event, span, depth + 1)?);
                }
            }
            Event::MappingStart(anchor, tag) => {
                let tag = tag.map(|tag| tag.suffix.clone());
                let (entries, end) = self.entries(depth)?;
                (Kind::Map(entries), anchor, tag, end)
            }
            _ => return Err(fail("not valid YAML: a value is required here", span, "")),
        };
        let start = span.range.start;
        let node = Node {
            kind,
            span: Span::new(self.file, start..end.max(start)),
            tag: match tag.as_deref() {
                Some("reset") => Tag::Reset,
                Some("override") => Tag::Override,
                _ => Tag::None,
            },
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The entries of a mapping, and where it ends.
    fn entries(&mut self, depth: usize) -> Result<(Vec<(Word, Node)>, usize), Fail> {
        let mut entries: Vec<(Word, Node)> = Vec::new();
        let mut merged = Vec::new();
        let end = loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break span.range.end;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Kind::Text(text) = key.kind else {
                return Err(fail("a key must be a string", key.span, "").hint("put it in quotes"));
            };
            if text == "<<" {
                merged.push(value);
                continue;
            }
            if let Some((first, _)) = entries.iter().find(|(known, _)| known.text == text) {
                let message = format!("the key `{text}` is there twice");
                return Err(fail(message, key.span, "").also(first.span.clone(), "here first"));
            }
            let span = key.span;
            entries.push((Word { text, span }, value));
        };
        for value in merged {
            self.merge(value, &mut entries)?;
        }
        Ok((entries, end))
    }

    /// Adds the entries of a mapping, or of several, that are not there yet.
    fn merge(&mut self, value: Node, entries: &mut Vec<(Word, Node)>) -> Result<(), Fail> {
        match value.kind {
            Kind::Map(more) => {
                for (key, value) in more {
                    if !entries.iter().any(|(known, _)| known.text == key.text) {
                        entries.push((key, value));
                    }
                }
                Ok(())
            }
            Kind::List(items) => items.into_iter().try_for_each(|item| match &item.kind {
                Kind::Map(_) => self.merge(item, entries),
                _ => Err(fail("`<<` takes mappings", item.span, "")),
            }),
            _ => Err(fail(
                "`<<` takes a mapping or a list of mappings",
                value.span,
                "",
            )),
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Map(entries) => entries.iter().map(|(_, value)| size(value)).sum(),
        _ => 0,
    }
}

fn height(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(height).max().unwrap_or(0),
        Kind::Map(entries) => entries
            .iter()
            .map(|(_, value)| height(value))
            .max()
            .unwrap_or(0),
        _ => 0,
    }
}

/// A scalar without quotes.
fn scalar(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let number = integer(text).or_else(|| float(text));
    number.map_or_else(|| Kind::Text(text.to_owned()), Kind::Number)
}

fn integer(text: &str) -> Option<String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()?
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i128::from_str_radix(octal, 8).ok()?
    } else if let Some(binary) = digits.strip_prefix("0b") {
        i128::from_str_radix(binary, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(&digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    let value = if text.starts_with('-') { -value } else { value };
    i64::try_from(value).is_ok().then(|| value.to_string())
}

fn float(text: &str) -> Option<String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.starts_with(|c: char| c.is_ascii_digit())
        || unsigned
            .strip_prefix('.')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let allowed = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
    if !digits || !text.chars().all(allowed) {
        return None;
    }
    let value: f64 = text.replace('_', "").parse().ok()?;
    value.is_finite().then(|| crate::functions::go_float(value))
}
