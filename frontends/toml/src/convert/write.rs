//! TOML as a person would write it.

use crate::read::is_bare;

/// How long a line may get before a list has one line for each item.
const WIDTH: usize = 100;

/// What a level of nesting is indented by.
const INDENT: &str = "  ";

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(i64),
    List(Vec<Item>),
    /// On one line, but for texts of several lines in it.
    Table(Vec<(String, Value)>),
}

/// A value with the comment lines above it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) comments: Vec<String>,
    pub(super) value: Value,
}

impl Value {
    /// Does something with each text in it.
    pub(super) fn each_text(&self, act: &mut dyn FnMut(&str)) {
        match self {
            Self::Text(text) => act(text),
            Self::Flag(_) | Self::Number(_) => {}
            Self::List(items) => items.iter().for_each(|item| item.value.each_text(act)),
            Self::Table(fields) => fields.iter().for_each(|(_, value)| value.each_text(act)),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<Item>> for Value {
    fn from(list: Vec<Item>) -> Self {
        Self::List(list)
    }
}

impl From<Vec<String>> for Value {
    fn from(list: Vec<String>) -> Self {
        Self::List(list.into_iter().map(Item::from).collect())
    }
}

impl<V: Into<Value>> From<V> for Item {
    fn from(value: V) -> Self {
        Self {
            comments: Vec::new(),
            value: value.into(),
        }
    }
}

/// Writes comment lines.
pub(super) fn comments(lines: &[String], indent: &str, to: &mut String) {
    for line in lines {
        // What TOML has no place for in comments.
        let line: String = line
            .chars()
            .filter(|c| *c == '\t' || !c.is_control())
            .collect();
        to.push_str(format!("{indent}# {line}").trim_end());
        to.push('\n');
    }
}

/// Writes `key = value` with the comments of an item above it.
pub(super) fn entry(name: &str, item: &Item, to: &mut String) {
    comments(&item.comments, "", to);
    to.push_str(&key(name));
    to.push_str(" = ");
    let at = name.len() + 3;
    value(&item.value, "", at, to);
    to.push('\n');
}

/// Whether a table has too much in it for one line.
pub(super) fn is_long(name: &str, table: &[(String, Value)]) -> bool {
    match one_line(&Value::Table(table.to_vec())) {
        Some(line) => name.len() + 3 + line.chars().count() > WIDTH,
        None => true,
    }
}

/// A key, with quotes where it needs them.
pub(super) fn key(name: &str) -> String {
    match is_bare(name) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

fn value(value: &Value, indent: &str, at: usize, to: &mut String) {
    if let Some(line) = one_line(value)
        && (at + line.chars().count() <= WIDTH || !matches!(value, Value::List(_) | Value::Text(_)))
    {
        to.push_str(&line);
        return;
    }
    match value {
        Value::List(items) if items.is_empty() => to.push_str("[]"),
        Value::List(items) => list(items, indent, to),
        Value::Text(text) => long(text, indent, to),
        Value::Table(fields) => {
            let mut between = "{ ";
            for (name, field) in fields {
                to.push_str(between);
                to.push_str(&key(name));
                to.push_str(" = ");
                match one_line(field) {
                    Some(line) => to.push_str(&line),
                    None => self::value(field, indent, 0, to),
                }
                between = ", ";
            }
            to.push_str(" }");
        }
        Value::Flag(_) | Value::Number(_) => {}
    }
}

fn list(items: &[Item], indent: &str, to: &mut String) {
    let inner = format!("{indent}{INDENT}");
    to.push_str("[\n");
    for item in items {
        comments(&item.comments, &inner, to);
        to.push_str(&inner);
        value(&item.value, &inner, inner.len() + 1, to);
        to.push_str(",\n");
    }
    to.push_str(indent);
    to.push(']');
}

/// The value on one line, if it can be there.
fn one_line(value: &Value) -> Option<String> {
    Some(match value {
        Value::Text(text) => match text.trim_end_matches('\n').contains('\n') {
            true => return None,
            false => quoted(text),
        },
        Value::Flag(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::List(items) => {
            let mut parts = Vec::with_capacity(items.len());
            for item in items {
                if !item.comments.is_empty() {
                    return None;
                }
                parts.push(one_line(&item.value)?);
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Table(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Table(fields) => {
            let mut parts = Vec::with_capacity(fields.len());
            for (name, field) in fields {
                parts.push(format!("{} = {}", key(name), one_line(field)?));
            }
            format!("{{ {} }}", parts.join(", "))
        }
    })
}

/// A text on one line: literal where that saves escapes.
fn quoted(text: &str) -> String {
    let special = |c: char| c.is_control() && c != '\t';
    if text.contains(['"', '\\']) && !text.contains('\'') && !text.contains(special) {
        return format!("'{text}'");
    }
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A text between three quotes: its own lines, or a long line in pieces.
fn long(text: &str, indent: &str, to: &mut String) {
    if text.contains('\n') {
        let special = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        if !text.contains("'''") && !text.ends_with('\'') && !text.contains(special) {
            to.push_str(&format!("'''\n{text}'''"));
            return;
        }
        let lines: Vec<String> = text.split('\n').map(escaped).collect();
        to.push_str(&format!("\"\"\"\n{}\"\"\"", lines.join("\n")));
        return;
    }
    let pieces = pieces(text);
    if pieces.len() < 2 {
        to.push_str(&quoted(text));
        return;
    }
    // A line break behind a `\`, with the blanks after it, is not part of the text.
    to.push_str("\"\"\"");
    let blank = text.starts_with([' ', '\t']);
    if !blank {
        to.push_str("\\\n");
    }
    for (at, piece) in pieces.iter().enumerate() {
        // Blanks at the start of the text would be taken for indentation.
        if at == 0 && blank {
            to.push_str(&format!("{}\\\n", breakable(piece)));
            continue;
        }
        let more = if at == 0 { "" } else { INDENT };
        to.push_str(&format!("{indent}{INDENT}{more}{}\\\n", breakable(piece)));
    }
    to.push_str(indent);
    to.push_str("\"\"\"");
}

/// Inside of three quotes, quotes stand for themselves, but for three of them.
fn breakable(text: &str) -> String {
    escaped(text)
        .replace("\\\"", "\"")
        .replace("\"\"", "\"\\\"")
}

/// A long line cut where a person would: behind the blanks that a continued line leaves, else behind `&& ` and `; `.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut blanks) = (0, 0);
    let indented = text.contains("  ");
    for (at, c) in text.char_indices() {
        if matches!(c, ' ' | '\t') {
            blanks += 1;
            continue;
        }
        let before = text[start..at].trim_end_matches([' ', '\t']);
        let cut = match indented {
            true => blanks > 1,
            false => blanks == 1 && (before.ends_with("&&") || before.ends_with(';')),
        };
        if cut && !before.is_empty() {
            pieces.push(&text[start..at]);
            start = at;
        }
        blanks = 0;
    }
    pieces.push(&text[start..]);
    pieces
}

#[cfg(test)]
mod t {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> toml::Table {
        text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            texts in prop::collection::vec(prop_oneof!["[ -~\n\t\"'\\\\é\u{7f}\u{1}]{0,300}", "[ a&;\"]{0,300}"], 0..4),
            name in "[ -~é\n]{0,8}",
        ) {
            let item = Item {
                comments: vec![name.clone()],
                value: Value::Table(vec![
                    (name.clone(), Value::from(texts.clone())),
                    ("n".repeat(20), Value::Number(-3)),
                ]),
            };
            let mut out = String::new();
            entry(&name, &item, &mut out);
            entry(&format!("{name}2"), &Item::from(Value::from(texts.clone())), &mut out);
            let table = read(&out);
            let list = |value: &toml::Value| -> Vec<String> {
                let list = value.as_array().unwrap().iter();
                list.map(|text| text.as_str().unwrap().to_owned()).collect()
            };
            prop_assert_eq!(list(&table[&name][&name]), texts.clone());
            prop_assert_eq!(list(&table[&format!("{name}2")]), texts);
        }
    }

    #[test]
    fn long_lines_are_cut_where_they_were_continued() {
        let line = "apt-get update &&     apt-get install -y --no-install-recommends curl \"a b\" git &&     rm -rf /var/lib/apt/lists/*";
        let mut out = String::new();
        entry("run", &Item::from(vec![line.to_owned()]), &mut out);
        assert_eq!(
            out,
            "run = [\n  \"\"\"\\\n    apt-get update &&     \\\n      apt-get install -y --no-install-recommends curl \"a b\" git &&     \\\n      rm -rf /var/lib/apt/lists/*\\\n  \"\"\",\n]\n"
        );
        assert_eq!(read(&out)["run"][0].as_str(), Some(line));
    }
}
