//! `semvercmp`: whether a version satisfies a constraint, as the Masterminds/semver library for Go has it.
//!
//! A constraint is alternatives parted by `||`; each is conditions parted by commas or spaces, of the forms `1.2`,
//! `1.x`, `= != > < >= <= ~ ^` before a version, and `1.2 - 2.3`. A version before a release satisfies only alternatives
//! that name such a version themselves.

use std::cmp::Ordering;

use super::Result;
use super::wrong;

struct Version {
    numbers: [u64; 3],
    before: String,
    /// How many of the numbers are given; the others are 0.
    given: usize,
}

pub(super) fn satisfies(version: &str, constraint: &str) -> Result<bool> {
    let version =
        parse(version, false).ok_or_else(|| wrong(0, format!("{version:?} is no version")))?;
    let mut satisfied = false;
    for alternative in constraint.split("||") {
        let conditions = conditions(alternative)
            .ok_or_else(|| wrong(1, format!("{constraint:?} is no constraint")))?;
        let released = conditions
            .iter()
            .all(|(_, wanted)| wanted.before.is_empty());
        satisfied |= (!released || version.before.is_empty())
            && conditions
                .iter()
                .all(|(operator, wanted)| holds(&version, operator, wanted));
    }
    Ok(satisfied)
}

fn parse(text: &str, wildcards: bool) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split_once('+').map_or(text, |(version, _)| version);
    let (core, before) = text.split_once('-').unwrap_or((text, ""));
    let mut numbers = [0; 3];
    let mut given = 0;
    for (at, part) in core.split('.').enumerate() {
        if at == 3 {
            return None;
        }
        if wildcards && matches!(part, "x" | "X" | "*") {
            break;
        }
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        numbers[at] = part.parse().ok()?;
        given = at + 1;
    }
    (given > 0 || wildcards).then(|| Version {
        numbers,
        before: before.to_owned(),
        given,
    })
}

fn conditions(text: &str) -> Option<Vec<(String, Version)>> {
    let mut found = Vec::new();
    let spread = text.replace(',', " ");
    let mut words = spread.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if words.next_if_eq(&"-").is_some() {
            found.push((">=".to_owned(), parse(word, true)?));
            found.push(("<=".to_owned(), parse(words.next()?, true)?));
            continue;
        }
        let start = word
            .find(|c: char| !"=!<>~^".contains(c))
            .unwrap_or(word.len());
        let (operator, version) = word.split_at(start);
        let version = if version.is_empty() {
            words.next()?
        } else {
            version
        };
        if ![
            "", "=", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "~>", "^",
        ]
        .contains(&operator)
        {
            return None;
        }
        found.push((operator.to_owned(), parse(version, true)?));
    }
    (!found.is_empty()).then_some(found)
}

fn holds(version: &Version, operator: &str, wanted: &Version) -> bool {
    let order = compare(version, wanted);
    let same = |count: usize| version.numbers[..count] == wanted.numbers[..count];
    match operator {
        "" | "=" if wanted.given < 3 => same(wanted.given),
        "" | "=" => order.is_eq(),
        "!=" if wanted.given < 3 => !same(wanted.given),
        "!=" => order.is_ne(),
        ">" if wanted.given < 3 => order.is_gt() && !same(wanted.given),
        ">" => order.is_gt(),
        "<" => order.is_lt(),
        ">=" | "=>" => order.is_ge(),
        "<=" | "=<" if wanted.given < 3 => order.is_lt() || same(wanted.given),
        "<=" | "=<" => order.is_le(),
        "~" | "~>" => order.is_ge() && same(wanted.given.min(2)),
        // The first number that is not 0 stays.
        _ => {
            let fixed = wanted.numbers[..wanted.given].iter().position(|n| *n > 0);
            order.is_ge() && same(fixed.map_or(wanted.given, |at| at + 1))
        }
    }
}

fn compare(a: &Version, b: &Version) -> Ordering {
    a.numbers
        .cmp(&b.numbers)
        .then_with(|| match (a.before.is_empty(), b.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => compare_before(&a.before, &b.before),
        })
}

/// semver.org, 11.4: numbers by size and before words, words by their letters, the longer one later.
fn compare_before(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}
