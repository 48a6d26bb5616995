//! Shell words: quotes, escapes and variables, as BuildKit's frontend/dockerfile/shell has them.
//!
//! `$v ${v} ${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?w} ${v?w} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`.
//! Nothing is executed and there is no globbing of files.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::env::Env;

mod pattern;
mod pieces;

pub use pieces::Piece;
pub(crate) use pieces::pieces;

/// Nested expansions deeper than this are refused, so that no input can exhaust the stack.
const MAX_DEPTH: usize = 64;

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shell {
    /// The escape character.
    pub(crate) escape: char,
    /// Quotes stay in the result.
    pub(crate) raw_quotes: bool,
    /// Escape characters stay in the result.
    pub(crate) raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub(crate) skip_quotes: bool,
    /// Variables that are not set stay as they are written.
    pub(crate) keep_unset: bool,
}

/// What a word expands to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expansion {
    /// As one word.
    pub(crate) text: String,
    /// Split at white space outside quotes, after expansion; empty if only [`Shell::expand`] was asked.
    pub(crate) words: Vec<String>,
    /// Variables that were set.
    pub(crate) used: BTreeSet<String>,
    /// Variables that were not set.
    pub(crate) missing: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    #[error("a single quote is not closed")]
    SingleQuote,
    #[error("a double quote is not closed")]
    DoubleQuote,
    #[error("missing `}}` after `${{`")]
    Brace,
    #[error("missing `/` in a `${{name/pattern/replacement}}`")]
    Slash,
    #[error("bad substitution")]
    Substitution,
    #[error("unsupported modifier `{modifier}` in a substitution")]
    Modifier { modifier: String },
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("invalid pattern `{pattern}` in a substitution: `\\{escaped}` is no escape")]
    Pattern { pattern: String, escaped: char },
    #[error("expansions are nested more than {MAX_DEPTH} deep")]
    Depth,
}

impl Shell {
    /// The rules for words of a Dockerfile whose escape character is `escape`.
    pub(crate) fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            keep_unset: false,
        }
    }

    /// Expands `word`, as one word.
    pub(crate) fn expand(&self, word: &str, env: &Env) -> Result<Expansion, WordError> {
        self.scan(word, env, false)
    }

    /// Expands `word`, and splits the result into words.
    pub(crate) fn split(&self, word: &str, env: &Env) -> Result<Expansion, WordError> {
        self.scan(word, env, true)
    }

    /// Appends what `word` expands to. On an error, some of it may have been appended.
    pub(crate) fn append(&self, word: &str, env: &Env, to: &mut String) -> Result<(), WordError> {
        let mut scan = Scan::new(*self, word, env);
        scan.note = false;
        let mut out = Out {
            text: std::mem::take(to),
            ..Out::default()
        };
        let result = scan.until(None, self.raw_escapes, &mut out);
        *to = out.text;
        result
    }

    fn scan(&self, word: &str, env: &Env, split: bool) -> Result<Expansion, WordError> {
        let mut scan = Scan::new(*self, word, env);
        let mut out = Out {
            text: String::with_capacity(word.len()),
            split,
            ..Out::default()
        };
        scan.until(None, self.raw_escapes, &mut out)?;
        out.end_word();
        Ok(Expansion {
            text: out.text,
            words: out.words,
            ..scan.found
        })
    }
}

/// Collects the result as one word and, if asked to, as words.
#[derive(Default)]
struct Out {
    text: String,
    split: bool,
    words: Vec<String>,
    word: String,
}

impl Out {
    /// A character that stands for itself, blanks included.
    fn raw(&mut self, c: char) {
        self.text.push(c);
        if self.split {
            self.word.push(c);
        }
    }

    fn raw_str(&mut self, text: &str) {
        self.text.push_str(text);
        if self.split {
            self.word.push_str(text);
        }
    }

    /// Text whose white space ends words.
    fn splitting(&mut self, text: &str) {
        self.text.push_str(text);
        if !self.split {
            return;
        }
        for (at, piece) in text.split(char::is_whitespace).enumerate() {
            if at > 0 {
                self.end_word();
            }
            self.word.push_str(piece);
        }
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

struct Scan<'w, 'e> {
    shell: Shell,
    source: &'w str,
    /// Byte offset of what comes next.
    at: usize,
    depth: usize,
    /// A nested word has been read since this was last looked at.
    nested: bool,
    env: &'e Env,
    /// Whether to note the variables found.
    note: bool,
    found: Expansion,
}

impl<'w, 'e> Scan<'w, 'e> {
    fn new(shell: Shell, word: &'w str, env: &'e Env) -> Self {
        Self {
            shell,
            source: skip_mark(word),
            at: 0,
            depth: 0,
            nested: false,
            env,
            note: true,
            found: Expansion::default(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.source[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Whether `c` stands for itself wherever it is, but for the end of something nested.
    fn is_plain(&self, c: char) -> bool {
        match c {
            '$' | '<' => false,
            '\'' | '"' => self.shell.skip_quotes,
            c => c != self.shell.escape,
        }
    }

    /// Reads up to and with `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, raw: bool, out: &mut Out) -> Result<(), WordError> {
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += 1;
                return Ok(());
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.forget_word(out);
                    out.splitting(&value);
                }
                '<' => self.heredoc(out),
                '\'' if !self.shell.skip_quotes => self.single(out)?,
                '"' if !self.shell.skip_quotes => self.double(raw, out)?,
                _ if c == self.shell.escape => {
                    self.at += 1;
                    if raw {
                        out.raw(c);
                    }
                    match self.next() {
                        Some(c) => out.raw(c),
                        None => break,
                    }
                }
                _ => {
                    let rest = &self.source[self.at..];
                    // All that means something is ASCII: bytes of other characters are like none of it.
                    let means = |byte: u8| {
                        let c = char::from(byte);
                        Some(c) == stop || !self.is_plain(c)
                    };
                    let plain = rest.bytes().position(means);
                    let plain = &rest[..plain.unwrap_or(rest.len())];
                    self.at += plain.len();
                    out.splitting(plain);
                }
            }
        }
        match stop {
            Some('/') => Err(WordError::Slash),
            Some(_) => Err(WordError::Brace),
            None => Ok(()),
        }
    }

    /// `<<` with the blanks after it is one word with what follows.
    fn heredoc(&mut self, out: &mut Out) {
        self.at += 1;
        out.raw('<');
        if self.peek() == Some('<') {
            self.at += 1;
            out.raw('<');
            while let Some(c @ ('\t' | '\r' | ' ')) = self.peek() {
                self.at += 1;
                out.raw(c);
            }
        }
    }

    fn single(&mut self, out: &mut Out) -> Result<(), WordError> {
        let rest = &self.source[self.at + 1..];
        let end = rest.find('\'').ok_or(WordError::SingleQuote)?;
        self.at += end + 2;
        self.quoted('\'', &rest[..end], out);
        Ok(())
    }

    fn double(&mut self, raw: bool, out: &mut Out) -> Result<(), WordError> {
        let mut value = String::new();
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(WordError::DoubleQuote),
                Some('"') => break self.at += 1,
                Some('$') => value.push_str(&self.dollar()?),
                Some(c) => {
                    self.at += c.len_utf8();
                    if c != self.shell.escape {
                        value.push(c);
                        continue;
                    }
                    if raw {
                        value.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if matches!(next, '"' | '$') || next == c => {
                            self.at += 1;
                            value.push(next);
                        }
                        Some(_) => value.push(c),
                    }
                }
            }
        }
        self.forget_word(out);
        self.quoted('"', &value, out);
        Ok(())
    }

    fn quoted(&self, quote: char, value: &str, out: &mut Out) {
        let quotes = self.shell.raw_quotes;
        if quotes {
            out.raw(quote);
        }
        out.raw_str(value);
        if quotes {
            out.raw(quote);
        }
    }

    fn lookup(&mut self, name: &'w str) -> Option<&'e str> {
        let value = self.env.get(name);
        let names = match value {
            Some(_) => &mut self.found.used,
            None => &mut self.found.missing,
        };
        if self.note && !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }

    /// A word nested in `${…}`, as text.
    fn nested(&mut self, stop: char, raw: bool) -> Result<String, WordError> {
        let mut out = Out::default();
        self.until(Some(stop), raw, &mut out)?;
        self.nested = true;
        Ok(out.text)
    }

    /// BuildKit has one buffer for the word at hand, which reading a nested word empties. What stands before a `${v:-w}`
    /// is therefore missing from the words, though not from the text: `EXPOSE 80${v:-81}` is port 81.
    fn forget_word(&mut self, out: &mut Out) {
        if std::mem::take(&mut self.nested) {
            out.word.clear();
        }
    }

    fn dollar(&mut self) -> Result<Cow<'e, str>, WordError> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok(Cow::Borrowed("$"));
            }
            return Ok(match self.lookup(name) {
                Some(value) => Cow::Borrowed(value),
                None if self.shell.keep_unset => format!("${name}").into(),
                None => Cow::default(),
            });
        }
        self.at += 1;
        if self.depth == MAX_DEPTH {
            return Err(WordError::Depth);
        }
        self.depth += 1;
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// What stands between `${` and `}`.
    fn braces(&mut self) -> Result<Cow<'e, str>, WordError> {
        match self.peek() {
            None => return Err(WordError::Brace),
            Some('{' | '}' | ':') => return Err(WordError::Substitution),
            Some(_) => {}
        }
        let name = self.name();
        let first = self.next().ok_or(WordError::Brace)?;
        let unsupported = |modifier: String| Err(WordError::Modifier { modifier });
        match first {
            '}' => {
                let value = self.lookup(name);
                Ok(match value {
                    Some(value) => Cow::Borrowed(value),
                    None if self.shell.keep_unset => format!("${{{name}}}").into(),
                    None => Cow::default(),
                })
            }
            ':' => match self.next() {
                Some(c @ ('-' | '+' | '?')) => self.conditional(name, c, true),
                Some(c @ ('#' | '%')) => unsupported(format!(":{c}")),
                // A shell's `${v:=w}`: nothing to refuse where the shell gets it as it is.
                Some(c) if self.shell.keep_unset => self.conditional(name, c, true),
                Some(c) => unsupported(format!(":{c}")),
                None => Err(WordError::Brace),
            },
            '-' | '+' | '?' => self.conditional(name, first, false),
            '#' | '%' => self.trim(name, first).map(Cow::Owned),
            '/' => self.replace(name).map(Cow::Owned),
            c => unsupported(c.to_string()),
        }
    }

    fn conditional(
        &mut self,
        name: &'w str,
        op: char,
        colon: bool,
    ) -> Result<Cow<'e, str>, WordError> {
        let word = self.nested('}', false)?;
        let value = self.lookup(name);
        if self.shell.keep_unset && value.is_none() {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{op}{word}}}").into());
        }
        let given = value.is_some_and(|value| !(colon && value.is_empty()));
        match (op, given) {
            ('-', false) | ('+', true) => Ok(word.into()),
            ('+', false) => Ok(Cow::default()),
            ('?', false) => {
                let message = match (word.is_empty(), &value) {
                    (false, _) => word,
                    (true, None) => "is not allowed to be unset".to_owned(),
                    (true, Some(_)) => "is not allowed to be empty".to_owned(),
                };
                let name = name.to_owned();
                Err(WordError::Required { name, message })
            }
            ('-' | '?', true) => Ok(value.unwrap_or_default().into()),
            (op, _) => Err(WordError::Modifier {
                modifier: format!(":{op}"),
            }),
        }
    }

    fn trim(&mut self, name: &'w str, op: char) -> Result<String, WordError> {
        let word = self.nested('}', true)?;
        let Some(value) = self.lookup(name).or_else(|| self.empty()) else {
            return Ok(format!("${{{name}{op}{word}}}"));
        };
        let (longest, word) = match word.strip_prefix(op) {
            Some(word) => (true, word),
            None => (false, word.as_str()),
        };
        match op {
            '#' => pattern::trim_start(word, value, longest),
            _ => pattern::trim_end(word, value, longest),
        }
    }

    fn replace(&mut self, name: &'w str) -> Result<String, WordError> {
        let all = self.peek() == Some('/');
        if all {
            self.at += 1;
        }
        let word = self.nested('/', true)?;
        let replacement = self.nested('}', true)?;
        let Some(value) = self.lookup(name).or_else(|| self.empty()) else {
            return Ok(format!("${{{name}/{word}/{replacement}}}"));
        };
        pattern::replace(&word, value, &replacement, all)
    }

    /// What an unset variable counts as, if it is not to be kept as written.
    fn empty(&self) -> Option<&'e str> {
        (!self.shell.keep_unset).then_some("")
    }

    /// A name, a number or one special character; empty if there is none.
    fn name(&mut self) -> &'w str {
        let rest = &self.source[self.at..];
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let name = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.trim_start_matches(char::is_numeric),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => &rest[1..],
            _ => rest.trim_start_matches(part),
        };
        let name = &rest[..rest.len() - name.len()];
        self.at += name.len();
        name
    }
}

/// Without a byte-order mark at the start, which Go's `text/scanner` passes over in whatever it reads.
fn skip_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
