//! Shell patterns inside `${…}`: `*`, `?` and `\`; no brackets. Neither `*` nor `?` matches a line break.

use super::WordError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Char(char),
}

/// A parsed pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, WordError> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
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

    /// Where a match that starts at `from` ends: the longest or the shortest one. Runs all states at once, so that
    /// the time is bounded by the product of the lengths.
    fn matched(tokens: &[Token], value: &[char], from: usize, longest: bool) -> Option<usize> {
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
        for at in from..=value.len() {
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

    pub(super) fn trim_start(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let end = Self::matched(&self.tokens, &chars, 0, longest).unwrap_or(0);
        chars[end..].iter().collect()
    }

    pub(super) fn trim_end(&self, value: &str, longest: bool) -> String {
        let tokens: Vec<Token> = self.tokens.iter().rev().copied().collect();
        let chars: Vec<char> = value.chars().rev().collect();
        let end = Self::matched(&tokens, &chars, 0, longest).unwrap_or(0);
        chars[end..].iter().rev().collect()
    }

    /// Replaces the first or all of the leftmost longest matches. As in Go's `regexp`, an empty match right after
    /// another one does not count.
    pub(super) fn replace(&self, value: &str, by: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::with_capacity(value.len());
        let (mut at, mut after_match, mut done) = (0, false, false);
        while at <= chars.len() {
            let end = match done {
                true => None,
                false => Self::matched(&self.tokens, &chars, at, true),
            };
            match end {
                Some(end) if end > at => {
                    out.push_str(by);
                    at = end;
                    (after_match, done) = (true, !all);
                    continue;
                }
                Some(_) if !after_match => {
                    out.push_str(by);
                    done = !all;
                }
                _ => {}
            }
            after_match = false;
            out.extend(chars.get(at));
            at += 1;
        }
        out
    }
}
