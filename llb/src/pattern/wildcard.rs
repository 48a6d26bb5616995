//! Go's `filepath.Match`.

use std::iter::Peekable;
use std::str::Chars;

use super::PatternError;

/// What one character is matched by.
enum Part {
    /// `?`: anything but a slash.
    One,
    Char(char),
    /// `[…]`; a negated one matches a slash, unlike `?`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether `pattern` matches the whole of `name`: `*` and `?` match no slash, `[a-z]` and `[^a-z]` one character, a
/// backslash takes the next character literally.
///
/// # Errors
/// If the pattern is malformed in a piece (what stands between two `*`) that was looked at. As Go does it: whether
/// the rest is well formed does not matter once `name` cannot match.
pub fn wildcard(pattern: &str, name: &str) -> Result<bool, PatternError> {
    let malformed = |problem| PatternError::Malformed {
        pattern: pattern.to_owned(),
        problem,
    };
    let (mut pattern, mut name) = (pattern, name);
    while !pattern.is_empty() {
        let (star, piece, rest) = split(pattern);
        if star && piece.is_empty() {
            return Ok(!name.contains('/'));
        }
        pattern = rest;
        let parts = parse(piece).map_err(malformed)?;
        let fits = |name| {
            match_start(&parts, name).filter(|left: &&str| left.is_empty() || !rest.is_empty())
        };
        // Behind a `*`, the leftmost place where the piece fits is taken for good: a later one would not help.
        let reach = if star {
            name.find('/').unwrap_or(name.len())
        } else {
            0
        };
        let Some(left) = name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .take_while(|at| *at <= reach)
            .find_map(|at| fits(&name[at..]))
        else {
            return Ok(false);
        };
        name = left;
    }
    Ok(name.is_empty())
}

/// Splits off the first piece: whether `*` stands before it, the piece up to the next `*`, the rest from there.
fn split(pattern: &str) -> (bool, &str, &str) {
    let text = pattern.trim_start_matches('*');
    let star = text.len() < pattern.len();
    let mut in_class = false;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '[' => in_class = true,
            ']' => in_class = false,
            '*' if !in_class => return (star, &text[..at], &text[at..]),
            _ => {}
        }
    }
    (star, text, "")
}

/// What is left of `name` behind the parts, if it begins with them.
fn match_start<'a>(parts: &[Part], name: &'a str) -> Option<&'a str> {
    let mut chars = name.chars();
    for part in parts {
        let c = chars.next()?;
        let matches = match part {
            Part::One => c != '/',
            Part::Char(own) => c == *own,
            Part::Class { negated, ranges } => {
                ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c)) != *negated
            }
        };
        if !matches {
            return None;
        }
    }
    Some(chars.as_str())
}

fn parse(piece: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut rest = piece.chars().peekable();
    while let Some(c) = rest.next() {
        parts.push(match c {
            '?' => Part::One,
            '\\' => Part::Char(rest.next().ok_or("nothing follows the last backslash")?),
            '[' => class(&mut rest)?,
            c => Part::Char(c),
        });
    }
    Ok(parts)
}

/// What follows `[`.
fn class(rest: &mut Peekable<Chars<'_>>) -> Result<Part, &'static str> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    // A `]` that comes first does not end the class, and is not allowed in it either.
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let lo = bound(rest)?;
        let hi = match rest.next_if_eq(&'-') {
            Some(_) => bound(rest)?,
            None => lo,
        };
        ranges.push((lo, hi));
    }
    Ok(Part::Class { negated, ranges })
}

fn bound(rest: &mut Peekable<Chars<'_>>) -> Result<char, &'static str> {
    let c = match rest.next() {
        Some('-' | ']') => return Err("`-` and `]` need a backslash before them in a class"),
        Some('\\') => rest.next(),
        other => other,
    };
    c.ok_or("a class `[` has no `]`")
}
