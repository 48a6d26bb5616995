//! Shell patterns inside `${…}`: `*`, `?` and `\`; no brackets. Neither `*` nor `?` matches a line break.

use std::ops::Range;

use super::WordError;
use super::skip_mark;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Char(char),
}

/// A parsed pattern.
#[derive(Debug)]
struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, WordError> {
        let mut tokens = Vec::new();
        let mut chars = skip_mark(text).chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                // `}` and `/` would end the substitution, so they are escaped without being part of the pattern.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\')) => Token::Char(c),
                    other => {
                        return Err(WordError::Pattern {
                            pattern: text.to_owned(),
                            escaped: other.unwrap_or(' '),
                        });
                    }
                },
                c => Token::Char(c),
            });
        }
        Ok(Self { tokens })
    }

    /// How long the match at the start of `value` is: the longest or the shortest one. Runs all states at once, so that
    /// the time is bounded by the product of the lengths.
    fn matched(&self, value: &[char], longest: bool) -> Option<usize> {
        let tokens = &self.tokens;
        let close = |states: &mut Vec<bool>| {
            for i in 0..tokens.len() {
                if states[i] && tokens[i] == Token::Star {
                    states[i + 1] = true;
                }
            }
        };
        let mut states = vec![false; tokens.len() + 1];
        states[0] = true;
        close(&mut states);
        let mut end = None;
        for at in 0..=value.len() {
            if states[tokens.len()] {
                end = Some(at);
                if !longest {
                    break;
                }
            }
            let Some(&c) = value.get(at) else { break };
            let mut next = vec![false; states.len()];
            for (i, token) in tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                match token {
                    Token::Star if c != '\n' => next[i] = true,
                    Token::Any if c != '\n' => next[i + 1] = true,
                    Token::Char(want) if *want == c => next[i + 1] = true,
                    _ => {}
                }
            }
            states = next;
            close(&mut states);
            if !states.contains(&true) {
                break;
            }
        }
        end
    }

    /// The first or all of the leftmost longest matches, as ranges. As in Go's `regexp`, an empty match right after another
    /// one does not count.
    fn find(&self, value: &[char], all: bool) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while at <= value.len() && (all || found.is_empty()) {
            match self.matched(&value[at..], true) {
                Some(length) if length > 0 => {
                    found.push(at..at + length);
                    at += length;
                    continue;
                }
                Some(_) if found.last().is_none_or(|last| last.end != at) => found.push(at..at),
                _ => {}
            }
            at += 1;
        }
        found
    }
}

/// `${value#pattern}`, and `##` if the longest match is meant.
pub(super) fn trim_start(pattern: &str, value: &str, longest: bool) -> Result<String, WordError> {
    let chars: Vec<char> = value.chars().collect();
    let end = Pattern::parse(pattern)?.matched(&chars, longest);
    Ok(chars[end.unwrap_or(0)..].iter().collect())
}

/// `${value%pattern}`, and `%%` if the longest match is meant.
pub(super) fn trim_end(pattern: &str, value: &str, longest: bool) -> Result<String, WordError> {
    let chars: Vec<char> = value.chars().rev().collect();
    let end = Pattern::parse(&reversed(pattern))?.matched(&chars, longest);
    Ok(chars[end.unwrap_or(0)..].iter().rev().collect())
}

/// The pattern for values read backwards. A `\` at the end, which escapes nothing, comes to escape what it follows.
fn reversed(pattern: &str) -> String {
    let mut chars = pattern.chars();
    let mut pieces = Vec::new();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        pieces.push([Some(c), escaped]);
    }
    pieces.into_iter().rev().flatten().flatten().collect()
}

/// `${value/pattern/by}`, and `//` if all matches are meant.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    by: &str,
    all: bool,
) -> Result<String, WordError> {
    let chars: Vec<char> = value.chars().collect();
    let mut out = String::with_capacity(value.len());
    let mut at = 0;
    for found in Pattern::parse(pattern)?.find(&chars, all) {
        out.extend(&chars[at..found.start]);
        at = found.end;
        match all {
            true => expand(by, &chars[found], &mut out),
            false => out.push_str(by),
        }
    }
    out.extend(&chars[at..]);
    Ok(out)
}

/// Appends a replacement as Go's `Regexp.ReplaceAllString` does, which BuildKit uses for `//` only: `$0` is the match, `$$` a
/// dollar, and other `$name` and `${name}` are groups, which a pattern has none of.
fn expand(template: &str, found: &[char], out: &mut String) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{');
        let text = braced.unwrap_or(after);
        let end = text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        let name = &text[..text.len() - end.len()];
        let end = match braced {
            Some(_) => end.strip_prefix('}'),
            None => Some(end),
        };
        match end {
            Some(end) if !name.is_empty() => {
                if name == "0" {
                    out.extend(found);
                }
                rest = end;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
}
