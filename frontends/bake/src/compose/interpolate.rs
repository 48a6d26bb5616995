//! `$NAME`, `${NAME}` and `${NAME:-default}` in compose files (compose-spec, interpolation.md), and `.env` files.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_llb::SourceFile;
use rbuild_llb::Span;

use super::yaml::Kind;
use super::yaml::Node;
use crate::Fail;
use crate::fail;

/// Defaults may have defaults this deep.
const MAX_DEPTH: usize = 32;

/// How the message starts that a variable must be set.
const UNSET: &str = "the variable";

type Variables = BTreeMap<String, String>;

/// Carries the references out in all strings of the tree, but not in keys.
pub(super) fn interpolate(node: &mut Node, variables: &Variables) -> Result<(), Fail> {
    match &mut node.kind {
        Kind::Text(text) if text.contains('$') => {
            *text = expand(text, variables, 0).map_err(|why| {
                let must_be_set = why.starts_with(UNSET);
                let failure = fail(why, node.span.clone(), "");
                match must_be_set {
                    true => failure,
                    false => failure.hint("a `$` that stands for itself is written `$$`"),
                }
            })?;
        }
        Kind::List(items) => {
            for item in items {
                interpolate(item, variables)?;
            }
        }
        Kind::Map(entries) => {
            for (_, value) in entries {
                interpolate(value, variables)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn expand(text: &str, variables: &Variables, depth: usize) -> Result<String, String> {
    if depth == MAX_DEPTH {
        return Err(format!(
            "defaults lie more than {MAX_DEPTH} deep in one another"
        ));
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = after.strip_prefix('{') {
            let end = closing(inside).ok_or_else(|| format!("`${{{inside}` has no `}}`"))?;
            out.push_str(&braced(&inside[..end], variables, depth)?);
            rest = &inside[end + 1..];
        } else {
            let end = name_end(after);
            if end == 0 {
                // A `$` before anything else stands for itself.
                out.push('$');
            } else {
                out.push_str(variables.get(&after[..end]).map_or("", String::as_str));
            }
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// How long the name at the start is.
fn name_end(text: &str) -> usize {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    match text.starts_with(|c: char| c.is_ascii_digit()) {
        true => 0,
        false => end,
    }
}

/// Where the brace closes that opens before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn braced(inside: &str, variables: &Variables, depth: usize) -> Result<String, String> {
    let (name, rest) = inside.split_at(name_end(inside));
    if name.is_empty() {
        return Err(format!(
            "`${{{inside}}}` does not start with the name of a variable"
        ));
    }
    let value = variables.get(name);
    let filled = value.filter(|value| !value.is_empty());
    let operators = [":-", "-", ":+", "+", ":?", "?"];
    let found = operators
        .into_iter()
        .find_map(|operator| rest.strip_prefix(operator).map(|word| (operator, word)));
    let word = |word: &str| expand(word, variables, depth + 1);
    match found {
        None if rest.is_empty() => Ok(value.cloned().unwrap_or_default()),
        None => Err(format!(
            "`${{{inside}}}`: after the name come `-`, `+` or `?`, or `:` and one of them"
        )),
        Some((":-", default)) => filled.cloned().map_or_else(|| word(default), Ok),
        Some(("-", default)) => value.cloned().map_or_else(|| word(default), Ok),
        Some((":+", other)) => filled.map_or(Ok(String::new()), |_| word(other)),
        Some(("+", other)) => value.map_or(Ok(String::new()), |_| word(other)),
        Some((operator, message)) => {
            let given = if operator == ":?" { filled } else { value };
            match given {
                Some(value) => Ok(value.clone()),
                None => Err(match word(message)? {
                    message if message.is_empty() => format!("{UNSET} `{name}` must be set"),
                    message => format!("{UNSET} `{name}` must be set: {message}"),
                }),
            }
        }
    }
}

/// The variables of a `.env` file: `NAME=value` a line, `export` before it allowed; quotes keep spaces, double quotes know
/// `\n` and variables, single quotes nothing.
pub(super) fn dotenv(file: &Arc<SourceFile>, environment: &Variables) -> Result<Variables, Fail> {
    let mut known = environment.clone();
    let mut found = Variables::new();
    let mut rest = file.text.as_str();
    while !rest.is_empty() {
        let start = file.text.len() - rest.len();
        let line = rest.lines().next().unwrap_or_default();
        let span = Span::new(file, start..start + line.len());
        let statement = line.trim_start();
        if statement.is_empty() || statement.starts_with('#') {
            rest = after_line(rest);
            continue;
        }
        let statement = statement
            .strip_prefix("export ")
            .unwrap_or(statement)
            .trim_start();
        let at = file.text.len() - rest.len() + (line.len() - statement.len());
        let end = statement.find(['=', ':']).unwrap_or(statement.len());
        let name = statement[..end].trim_end();
        let valid = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
        if name.is_empty() || !name.chars().all(valid) {
            return Err(fail("this is no line of the form `NAME=value`", span, ""));
        }
        if end == statement.len() {
            // Without a value it is the environment's.
            rest = after_line(rest);
            continue;
        }
        let text = &file.text[at + end + 1..];
        let text = text.trim_start_matches([' ', '\t']);
        let (value, after) = value(text, &known).map_err(|why| fail(why, span, ""))?;
        if !environment.contains_key(name) {
            known.insert(name.to_owned(), value.clone());
            found.insert(name.to_owned(), value);
        }
        rest = after;
    }
    Ok(found)
}

fn after_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

/// The value at the start, and what follows it.
fn value<'t>(text: &'t str, known: &Variables) -> Result<(String, &'t str), String> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        let line = line.split_once(" #").map_or(line, |(value, _)| value);
        return Ok((expand(line.trim_end(), known, 0)?, rest));
    };
    let mut inside = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            let value = match quote {
                '"' => expand(&unescape(&inside), known, 0)?,
                _ => inside,
            };
            return Ok((value, &text[at + 1..]));
        }
        if escaped && c != quote {
            inside.push('\\');
        }
        escaped = c == '\\' && !escaped;
        if !escaped {
            inside.push(c);
        }
    }
    Err(format!("the value has no closing {quote}"))
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('\\') => out.push('\\'),
            // `$$` is a `$` for what expands the text next.
            Some('$') => out.push_str("$$"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}
