//! Strings, patterns and paths.

use std::collections::BTreeMap;

use regex::Captures;
use regex::Regex;
use regex::RegexBuilder;

use super::ANY;
use super::Function;
use super::Result;
use super::elements;
use super::format;
use super::function;
use super::semver;
use super::text;
use super::texts;
use super::whole;
use super::wrong;
use crate::number::Number;
use crate::value::Value;

pub(super) const FUNCTIONS: &[Function] = &[
    function("basename", "basename(path)", (1, 1), |_, a| {
        Ok(Value::string(basename(&text(a, 0)?)))
    }),
    function("chomp", "chomp(string)", (1, 1), |_, a| {
        Ok(Value::string(text(a, 0)?.trim_end_matches(['\r', '\n'])))
    }),
    function("dirname", "dirname(path)", (1, 1), |_, a| {
        let path = text(a, 0)?;
        let end = path.rfind('/').map_or(0, |slash| slash + 1);
        Ok(Value::string(rbuild_llb::paths::clean(&path[..end])))
    }),
    function("format", "format(format, values...)", (1, ANY), |_, a| {
        Ok(Value::String(format::format(&text(a, 0)?, &a[1..])?))
    })
    .with_nulls(),
    function(
        "formatlist",
        "formatlist(format, lists...)",
        (1, ANY),
        |_, a| format_list(a),
    )
    .with_nulls(),
    function("indent", "indent(spaces, string)", (2, 2), |_, a| {
        let width = usize::try_from(whole(a, 0)?)
            .ok()
            .filter(|width| *width <= 1024);
        let width = width.ok_or_else(|| wrong(0, "the width is a number from 0 to 1024"))?;
        let pad = format!("\n{}", " ".repeat(width));
        Ok(Value::String(text(a, 1)?.replace('\n', &pad)))
    }),
    function("join", "join(separator, lists...)", (2, ANY), |_, a| {
        let mut all = Vec::new();
        for at in 1..a.len() {
            all.extend(texts(a, at)?);
        }
        Ok(Value::String(all.join(&text(a, 0)?)))
    }),
    function("lower", "lower(string)", (1, 1), |_, a| {
        Ok(Value::String(text(a, 0)?.to_lowercase()))
    }),
    function("regex", "regex(pattern, string)", (2, 2), |_, a| {
        let subject = text(a, 1)?;
        let pattern = pattern(a)?;
        match pattern.captures(&subject) {
            Some(found) => Ok(captured(&pattern, &found)),
            None => Err(wrong(1, "the pattern does not match")),
        }
    }),
    function(
        "regex_replace",
        "regex_replace(string, pattern, replacement)",
        (3, 3),
        |_, a| {
            let pattern = pattern(&a[1..])?;
            let replacement = text(a, 2)?;
            let replaced = pattern
                .replace_all(&text(a, 0)?, replacement.as_str())
                .into_owned();
            Ok(Value::String(replaced))
        },
    ),
    function("regexall", "regexall(pattern, string)", (2, 2), |_, a| {
        let subject = text(a, 1)?;
        let pattern = pattern(a)?;
        let all = pattern.captures_iter(&subject);
        Ok(Value::List(
            all.map(|found| captured(&pattern, &found)).collect(),
        ))
    }),
    function(
        "replace",
        "replace(string, part, replacement)",
        (3, 3),
        |_, a| {
            Ok(Value::String(
                text(a, 0)?.replace(&text(a, 1)?, &text(a, 2)?),
            ))
        },
    ),
    function("reverse", "reverse(string)", (1, 1), |_, a| {
        Ok(Value::String(text(a, 0)?.chars().rev().collect()))
    }),
    function("sanitize", "sanitize(string)", (1, 1), |_, a| {
        let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name = text(a, 0)?;
        Ok(Value::String(
            name.chars()
                .map(|c| if kept(c) { c } else { '_' })
                .collect(),
        ))
    }),
    function(
        "semvercmp",
        "semvercmp(version, constraint)",
        (2, 2),
        |_, a| semver::satisfies(&text(a, 0)?, &text(a, 1)?).map(Value::Bool),
    ),
    function("split", "split(separator, string)", (2, 2), |_, a| {
        let (separator, whole) = (text(a, 0)?, text(a, 1)?);
        Ok(if separator.is_empty() {
            Value::strings(whole.chars().map(String::from))
        } else {
            Value::strings(whole.split(separator.as_str()))
        })
    }),
    function("strlen", "strlen(string)", (1, 1), |_, a| {
        Ok(Value::Number(Number::from(text(a, 0)?.chars().count())))
    }),
    function(
        "substr",
        "substr(string, offset, length)",
        (3, 3),
        |_, a| substr(a),
    ),
    function("title", "title(string)", (1, 1), |_, a| {
        Ok(Value::String(title(&text(a, 0)?)))
    }),
    function("trim", "trim(string, characters)", (2, 2), |_, a| {
        let characters = text(a, 1)?;
        Ok(Value::string(
            text(a, 0)?.trim_matches(|c| characters.contains(c)),
        ))
    }),
    function(
        "trimprefix",
        "trimprefix(string, prefix)",
        (2, 2),
        |_, a| {
            let (whole, prefix) = (text(a, 0)?, text(a, 1)?);
            Ok(Value::string(
                whole.strip_prefix(prefix.as_str()).unwrap_or(&whole),
            ))
        },
    ),
    function("trimspace", "trimspace(string)", (1, 1), |_, a| {
        Ok(Value::string(text(a, 0)?.trim()))
    }),
    function(
        "trimsuffix",
        "trimsuffix(string, suffix)",
        (2, 2),
        |_, a| {
            let (whole, suffix) = (text(a, 0)?, text(a, 1)?);
            Ok(Value::string(
                whole.strip_suffix(suffix.as_str()).unwrap_or(&whole),
            ))
        },
    ),
    function("upper", "upper(string)", (1, 1), |_, a| {
        Ok(Value::String(text(a, 0)?.to_uppercase()))
    }),
];

/// As Go's `path.Base`.
fn basename(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    match path.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/".to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// Words start with a capital; they are parted by what is no letter, digit, underscore or apostrophe in them.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for c in text.chars() {
        match inside {
            true => out.push(c),
            false => out.extend(c.to_uppercase()),
        }
        inside = match c {
            c if c.is_ascii() => c.is_ascii_alphanumeric() || c == '_',
            c => !c.is_whitespace(),
        };
    }
    out
}

fn substr(arguments: &[Value]) -> Result<Value> {
    let chars: Vec<char> = text(arguments, 0)?.chars().collect();
    let (offset, length) = (whole(arguments, 1)?, whole(arguments, 2)?);
    let count = i64::try_from(chars.len()).unwrap_or(i64::MAX);
    // A negative offset counts from the end, a length of -1 goes to it.
    let start = match offset {
        negative if negative < 0 => (count + negative.max(-count)).max(0),
        offset => offset.min(count),
    };
    let end = match length {
        negative if negative < 0 => count,
        length => start.saturating_add(length).min(count),
    };
    let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
    Ok(Value::String(chars[range].iter().collect()))
}

fn pattern(arguments: &[Value]) -> Result<Regex> {
    let pattern = text(arguments, 0)?;
    RegexBuilder::new(&pattern)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| {
            let why = error.to_string();
            let last = why.lines().last().unwrap_or_default();
            wrong(
                0,
                format!(
                    "{pattern:?} is no pattern: {}",
                    last.trim_start_matches("error: ")
                ),
            )
        })
}

/// Without groups the match, with groups a tuple of theirs, with names an object.
fn captured(pattern: &Regex, found: &Captures) -> Value {
    let group = |at: usize| match found.get(at) {
        Some(text) => Value::string(text.as_str()),
        None => Value::Null,
    };
    let names: Vec<_> = pattern.capture_names().collect();
    if names.len() == 1 {
        return group(0);
    }
    if names.iter().any(Option::is_some) {
        let mut object = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            if let Some(name) = name {
                object.insert((*name).to_owned(), group(at));
            }
        }
        return Value::Object(object);
    }
    Value::Tuple((1..names.len()).map(group).collect())
}

/// Formats each row of the lists; what is no list is the same in every row.
fn format_list(arguments: &[Value]) -> Result<Value> {
    let spec = text(arguments, 0)?;
    let mut rows = None;
    for (at, value) in arguments.iter().enumerate().skip(1) {
        if value.elements().is_none() {
            continue;
        }
        let count = elements(arguments, at)?.len();
        if rows.is_some_and(|rows| rows != count) {
            return Err(wrong(at, "the lists must be of one length"));
        }
        rows = Some(count);
    }
    let row = |index: usize| -> Result<Value> {
        let values: Vec<Value> = arguments[1..]
            .iter()
            .map(|value| match value.elements() {
                Some(items) => items[index].clone(),
                None => value.clone(),
            })
            .collect();
        Ok(Value::String(format::format(&spec, &values)?))
    };
    let rows = (0..rows.unwrap_or(1)).map(row);
    Ok(Value::List(rows.collect::<Result<_>>()?))
}
