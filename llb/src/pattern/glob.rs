//! Patterns as moby compiles them: the translation to a regular expression, and the subset of Go's `regexp` that can come out.

use super::Form;
use super::PatternError;
use super::ends_with;
use super::starts_with;

/// A compiled pattern that is more than a prefix or a suffix. Matching takes time in proportion to both lengths.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    items: Vec<Item>,
    /// How every match ends.
    suffix: String,
    /// Where that is not known by the letter: what its last characters are, the last one first.
    ends: Vec<Item>,
    /// Only the last name counts, by the items from here on: `**/` and then nothing that matches a slash.
    name_from: Option<usize>,
    /// How that last name begins.
    name_prefix: String,
}

/// One state of the automaton: what is matched next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Char(char),
    /// `[^/]`
    NotSlash,
    /// `[^/]*`
    NotSlashes,
    /// `.*`, which stops at a newline.
    Rest,
    /// `(…)?`: goes on with the next state or the one after it.
    Optional,
    /// `.*/`
    Dirs,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
        repeated: bool,
    },
    /// Anything at all, newlines too: what an alternative is not anchored by.
    Anything,
    /// `^`
    Start,
    /// `$` and `\z`
    End,
    /// `\b` (true) and `\B`
    Boundary(bool),
}

/// The literal prefix and the form of a cleaned pattern without its `!`.
pub(super) fn compile(pattern: &str) -> Result<(String, Form), PatternError> {
    // moby reads the pattern with Go's `text/scanner`, which passes over a byte-order mark.
    let unmarked = pattern.strip_prefix('\u{feff}');
    match translate(unmarked.unwrap_or(pattern)) {
        Translation::Exact => Ok((pattern.to_owned(), Form::Exact)),
        Translation::Prefix => Ok((pattern[..pattern.len() - 2].to_owned(), Form::Prefix)),
        // Two bytes less are then a piece of the mark, and no text ends with that.
        Translation::Suffix if unmarked.is_some() => Ok((String::new(), Form::Globs(Vec::new()))),
        Translation::Suffix => Ok((String::new(), Form::Suffix(pattern[2..].to_owned()))),
        Translation::Regexp(regexp) => {
            let parser = Parser {
                pattern,
                rest: &regexp,
            };
            let mut alternatives = parser.parse()?;
            let (prefix, form) = match (alternatives.pop(), alternatives.is_empty()) {
                (Some(only), true) => (literal(only.iter()), Form::Glob(Glob::new(only))),
                (last, _) => {
                    let mut globs = Vec::new();
                    // `^a|b|c$`: `|` binds less than the anchors do.
                    alternatives.extend(last);
                    let end = alternatives.len() - 1;
                    for (at, mut items) in alternatives.into_iter().enumerate() {
                        if at > 0 {
                            items.insert(0, Item::Anything);
                        }
                        if at < end {
                            items.push(Item::Anything);
                        }
                        globs.push(Glob::new(items));
                    }
                    (String::new(), Form::Globs(globs))
                }
            };
            Ok((prefix, form))
        }
    }
}

enum Translation {
    Exact,
    Prefix,
    Suffix,
    /// Anchored at both ends, without the anchors.
    Regexp(String),
}

/// moby's translation, with all it does without meaning to: it does not know that it is inside a class, takes an
/// escaped letter for one of `regexp`'s and lets `^`, `|`, `{` and `}` through (its table of characters to escape has
/// eight bits a row where sixteen are needed).
fn translate(pattern: &str) -> Translation {
    #[derive(PartialEq)]
    enum Kind {
        Exact,
        Prefix,
        Suffix,
        Regexp,
    }
    let mut regexp = String::new();
    let mut kind = Kind::Exact;
    let mut rest = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                let _ = rest.next_if_eq(&'/');
                if rest.peek().is_some() {
                    regexp.push_str("(.*/)?");
                    kind = Kind::Regexp;
                } else if kind == Kind::Exact {
                    kind = Kind::Prefix;
                } else {
                    regexp.push_str(".*");
                    kind = Kind::Regexp;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                regexp.push_str("[^/]*");
                kind = Kind::Regexp;
            }
            '?' => {
                regexp.push_str("[^/]");
                kind = Kind::Regexp;
            }
            '.' | '+' | '(' | ')' | '$' => regexp.extend(['\\', c]),
            '\\' => {
                regexp.push('\\');
                if let Some(next) = rest.next() {
                    regexp.push(next);
                    kind = Kind::Regexp;
                }
            }
            '[' | ']' => {
                regexp.push(c);
                kind = Kind::Regexp;
            }
            c => regexp.push(c),
        }
        first = false;
    }
    match kind {
        Kind::Exact => Translation::Exact,
        Kind::Prefix => Translation::Prefix,
        Kind::Suffix => Translation::Suffix,
        Kind::Regexp => Translation::Regexp(regexp),
    }
}

/// The characters up to the first item that is none.
fn literal<'a>(items: impl Iterator<Item = &'a Item>) -> String {
    items
        .map_while(|item| match item {
            Item::Char(c) => Some(*c),
            _ => None,
        })
        .collect()
}

impl Glob {
    fn new(items: Vec<Item>) -> Self {
        let from = if items.starts_with(&[Item::Optional, Item::Dirs]) {
            2
        } else {
            0
        };
        let within_name = |item: &Item| match item {
            Item::NotSlash | Item::NotSlashes => true,
            Item::Char(_) | Item::Class { .. } => item.step('/') == (false, false),
            _ => false,
        };
        let one_char = |item: &&Item| {
            matches!(item, Item::Char(_) | Item::NotSlash)
                || matches!(item, Item::Class { repeated, .. } if !repeated)
        };
        // What may be left out is no end that all matches have.
        let optional = items.iter().rposition(|item| *item == Item::Optional);
        let certain = &items[optional.map_or(0, |at| at + 2)..];
        let suffix: String = literal(certain.iter().rev()).chars().rev().collect();
        let ends = certain.iter().rev().take_while(one_char).cloned();
        let name_from = (from > 0 && items[from..].iter().all(within_name)).then_some(from);
        Self {
            ends: if suffix.is_empty() {
                ends.collect()
            } else {
                Vec::new()
            },
            suffix,
            name_prefix: literal(items[from..].iter()),
            name_from,
            items,
        }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        if !ends_with(path, &self.suffix) {
            return false;
        }
        let mut last = path.chars().rev();
        let ends = |item: &Item| last.next().is_some_and(|c| item.step(c).1);
        if !self.ends.iter().all(ends) {
            return false;
        }
        match self.name_from {
            // `.` does not match a newline, so a directory's name with one in it is not skipped.
            Some(from) if !path.contains('\n') => {
                let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
                starts_with(name, &self.name_prefix) && run(&self.items[from..], name)
            }
            _ => run(&self.items, path),
        }
    }
}

/// Runs the automaton: all states it can be in at once, as bits.
fn run(items: &[Item], text: &str) -> bool {
    const INLINE: usize = 4;
    let words = items.len() / 64 + 1;
    if words <= INLINE {
        let mut bits = [0; 2 * INLINE];
        let (now, next) = bits.split_at_mut(INLINE);
        step_through(items, text, &mut now[..words], &mut next[..words])
    } else {
        step_through(items, text, &mut vec![0; words], &mut vec![0; words])
    }
}

fn step_through<'a>(
    items: &[Item],
    text: &str,
    mut now: &'a mut [u64],
    mut next: &'a mut [u64],
) -> bool {
    let mut around = Around {
        before: None,
        after: text.chars().next(),
    };
    add(items, now, 0, around);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        around = Around {
            before: Some(c),
            after: rest.clone().next(),
        };
        next.fill(0);
        for (word, bits) in now.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(item) = items.get(at) else { continue };
                let (stay, advance) = item.step(c);
                if stay {
                    add(items, next, at, around);
                }
                if advance {
                    add(items, next, at + 1, around);
                }
            }
        }
        std::mem::swap(&mut now, &mut next);
        if now.iter().all(|word| *word == 0) {
            return false;
        }
    }
    now[items.len() / 64] >> (items.len() % 64) & 1 == 1
}

/// The characters on both sides of a position.
#[derive(Clone, Copy)]
struct Around {
    before: Option<char>,
    after: Option<char>,
}

/// Enters state `at` and those that follow from it without a character.
fn add(items: &[Item], states: &mut [u64], mut at: usize, around: Around) {
    loop {
        let bit = 1 << (at % 64);
        if states[at / 64] & bit != 0 {
            return;
        }
        states[at / 64] |= bit;
        let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        at += match items.get(at) {
            Some(Item::Optional) => {
                add(items, states, at + 1, around);
                2
            }
            Some(
                Item::NotSlashes | Item::Rest | Item::Anything | Item::Class { repeated: true, .. },
            ) => 1,
            Some(Item::Start) if around.before.is_none() => 1,
            Some(Item::End) if around.after.is_none() => 1,
            Some(Item::Boundary(wanted))
                if (word(around.before) != word(around.after)) == *wanted =>
            {
                1
            }
            _ => return,
        };
    }
}

impl Item {
    /// Any number of it. Of an assertion that is nothing.
    fn repeated(self) -> Option<Self> {
        match self {
            Self::Char(c) => Some(Self::Class {
                negated: false,
                ranges: vec![(c, c)],
                repeated: true,
            }),
            Self::NotSlash => Some(Self::NotSlashes),
            Self::Class {
                negated, ranges, ..
            } => Some(Self::Class {
                negated,
                ranges,
                repeated: true,
            }),
            _ => None,
        }
    }

    /// Whether this state stays after `c`, and whether the next one is entered.
    fn step(&self, c: char) -> (bool, bool) {
        match self {
            Self::Char(own) => (false, c == *own),
            Self::NotSlash => (false, c != '/'),
            Self::NotSlashes => (c != '/', false),
            Self::Rest => (c != '\n', false),
            Self::Anything => (true, false),
            Self::Dirs => (c != '\n', c == '/'),
            Self::Class {
                negated,
                ranges,
                repeated,
            } => {
                let matched = ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c)) != *negated;
                (matched && *repeated, matched && !*repeated)
            }
            Self::Optional | Self::Start | Self::End | Self::Boundary(_) => (false, false),
        }
    }
}

/// Reads a translation by the rules of Go's `regexp/syntax`.
struct Parser<'a> {
    /// For errors.
    pattern: &'a str,
    rest: &'a str,
}

/// The largest count `regexp` takes.
const MAX_COUNT: usize = 1000;

/// A count in braces (`{2}`, `{2,}`, `{2,3}`: least and most) at the start of `text`, and what follows it. Other braces are literal.
fn count(text: &str) -> Option<((usize, Option<usize>), &str)> {
    // Numbers that are too long are as good as too large.
    let number = |digits: &str| match digits {
        "0" => Some(0),
        _ if digits.starts_with('0') || digits.is_empty() => None,
        _ if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().unwrap_or(usize::MAX))
        }
        _ => None,
    };
    let (body, rest) = text.strip_prefix('{')?.split_once('}')?;
    let bounds = match body.split_once(',') {
        None => (number(body)?, Some(number(body)?)),
        Some((min, "")) => (number(min)?, None),
        Some((min, max)) => (number(min)?, Some(number(max)?)),
    };
    Some((bounds, rest))
}

type Ranges = &'static [(char, char)];

const DIGITS: Ranges = &[('0', '9')];
const SPACES: Ranges = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
const WORDS: Ranges = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
/// `[:name:]` inside a class.
const POSIX: &[(&str, Ranges)] = &[
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("ascii", &[('\0', '\x7f')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit", DIGITS),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("word", WORDS),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

/// What a backslash and what follows it stand for.
enum Escape {
    Char(char),
    Class(bool, Ranges),
    Anchor(Item),
}

impl Parser<'_> {
    /// The alternatives.
    fn parse(mut self) -> Result<Vec<Vec<Item>>, PatternError> {
        let mut alternatives = Vec::new();
        let mut items = Vec::new();
        // Behind the anchor that is in front of the translation, a count is one of the anchor.
        if let Some(((min, _), _)) = count(self.rest) {
            self.counted(Item::Start, &mut items)?;
            if min == 0 {
                items = vec![Item::Anything];
            }
        }
        loop {
            if let Some(rest) = self.rest.strip_prefix("(.*/)?") {
                self.rest = rest;
                items.extend([Item::Optional, Item::Dirs]);
                self.no_count()?;
            } else if let Some(rest) = self.rest.strip_prefix(".*") {
                self.rest = rest;
                items.push(Item::Rest);
            } else if self.rest == "\\" {
                // It escapes the anchor behind the translation.
                self.rest = "";
                items.extend([Item::Char('$'), Item::Anything]);
            } else if self.eat('|') {
                alternatives.push(std::mem::take(&mut items));
                if count(self.rest).is_some() {
                    return Err(
                        self.malformed("there is nothing that a count in braces could repeat")
                    );
                }
            } else if let Some(c) = self.next() {
                let item = match c {
                    '[' => self.class()?,
                    '^' => Item::Start,
                    '\\' => match self.escape()? {
                        Escape::Char(c) => Item::Char(c),
                        Escape::Class(negated, ranges) => Item::Class {
                            negated,
                            ranges: ranges.to_vec(),
                            repeated: false,
                        },
                        Escape::Anchor(item) => item,
                    },
                    c => Item::Char(c),
                };
                self.counted(item, &mut items)?;
            } else {
                alternatives.push(items);
                return Ok(alternatives);
            }
        }
    }

    /// Appends an item as often as the count in braces behind it says.
    fn counted(&mut self, item: Item, items: &mut Vec<Item>) -> Result<(), PatternError> {
        let Some(((min, max), rest)) = count(self.rest) else {
            items.push(item);
            return Ok(());
        };
        if matches!(item, Item::NotSlashes | Item::Class { repeated: true, .. }) {
            return Err(self.malformed("a count in braces follows another repetition"));
        }
        self.rest = rest;
        if min > MAX_COUNT || max.is_some_and(|max| max < min || max > MAX_COUNT) {
            return Err(self.malformed("a count in braces is too large, or reversed"));
        }
        self.no_count()?;
        items.extend(std::iter::repeat_n(item.clone(), min));
        let Some(max) = max else {
            items.extend(item.repeated());
            return Ok(());
        };
        for _ in min..max {
            items.extend([Item::Optional, item.clone()]);
        }
        Ok(())
    }

    fn no_count(&self) -> Result<(), PatternError> {
        match count(self.rest) {
            Some(_) => Err(self.malformed("a count in braces follows another repetition")),
            None => Ok(()),
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn malformed(&self, problem: &'static str) -> PatternError {
        PatternError::Malformed {
            pattern: self.pattern.to_owned(),
            problem,
        }
    }

    fn class(&mut self) -> Result<Item, PatternError> {
        let negated = self.eat('^');
        let mut ranges: Vec<(char, char)> = Vec::new();
        let mut first = true;
        while first || !self.eat(']') {
            first = false;
            if let Some((negated, found)) = self.posix()? {
                extend(&mut ranges, negated, found);
                continue;
            }
            let lo = match self.class_char()? {
                Escape::Char(c) => c,
                Escape::Class(negated, found) => {
                    extend(&mut ranges, negated, found);
                    continue;
                }
                Escape::Anchor(_) => return Err(self.malformed("an anchor is inside a class")),
            };
            let mut hi = lo;
            if self.rest.starts_with('-') && !self.rest[1..].starts_with(']') && self.rest.len() > 1
            {
                self.next();
                let Escape::Char(c) = self.class_char()? else {
                    return Err(self.malformed("a range in a class ends in a class"));
                };
                hi = c;
                if hi < lo {
                    return Err(self.malformed("a range in a class is reversed"));
                }
            }
            ranges.push((lo, hi));
        }
        let repeated = self.eat('*');
        if negated && ranges == [('/', '/')] {
            return Ok(if repeated {
                Item::NotSlashes
            } else {
                Item::NotSlash
            });
        }
        Ok(Item::Class {
            negated,
            ranges,
            repeated,
        })
    }

    fn eat(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn class_char(&mut self) -> Result<Escape, PatternError> {
        match self.next() {
            None => Err(self.malformed("a class `[` has no `]`")),
            Some('\\') => self.escape(),
            Some(c) => Ok(Escape::Char(c)),
        }
    }

    /// `[:name:]` or `[:^name:]`, if that comes next.
    fn posix(&mut self) -> Result<Option<(bool, Ranges)>, PatternError> {
        let Some((name, rest)) = self
            .rest
            .strip_prefix("[:")
            .and_then(|rest| rest.split_once(":]"))
        else {
            return Ok(None);
        };
        let (negated, name) = match name.strip_prefix('^') {
            Some(name) => (true, name),
            None => (false, name),
        };
        let (_, ranges) = POSIX
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| self.malformed("the named class is not known"))?;
        self.rest = rest;
        Ok(Some((negated, ranges)))
    }

    fn escape(&mut self) -> Result<Escape, PatternError> {
        let Some(c) = self.next() else {
            return Err(self.malformed("nothing follows the last backslash"));
        };
        Ok(match c {
            'd' | 'D' => Escape::Class(c == 'D', DIGITS),
            's' | 'S' => Escape::Class(c == 'S', SPACES),
            'w' | 'W' => Escape::Class(c == 'W', WORDS),
            'A' => Escape::Anchor(Item::Start),
            'z' => Escape::Anchor(Item::End),
            'b' | 'B' => Escape::Anchor(Item::Boundary(c == 'b')),
            'a' => Escape::Char('\x07'),
            'f' => Escape::Char('\x0c'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            't' => Escape::Char('\t'),
            'v' => Escape::Char('\x0b'),
            'x' => Escape::Char(self.hex()?),
            // A single digit but zero is a back reference, which there are none of.
            '0'..='7' if c == '0' || self.rest.starts_with(|c| ('0'..='7').contains(&c)) => {
                let mut value = c as u32 - '0' as u32;
                for _ in 0..2 {
                    match self.rest.chars().next().and_then(|c| c.to_digit(8)) {
                        Some(digit) => value = value * 8 + digit,
                        None => break,
                    }
                    self.next();
                }
                Escape::Char(char::from_u32(value).expect("three octal digits are below U+D800"))
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Escape::Char(c),
            _ => {
                return Err(self.malformed("a backslash is followed by what it cannot escape"));
            }
        })
    }

    /// What follows `\x`: two digits, or any number in braces.
    fn hex(&mut self) -> Result<char, PatternError> {
        let braced = self
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let (digits, rest) = match braced {
            Some(braced) => braced,
            None => self.rest.split_at_checked(2).unwrap_or_default(),
        };
        self.rest = rest;
        Some(digits)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32)
            .ok_or_else(|| self.malformed("`\\x` needs two hexadecimal digits, or some in braces"))
    }
}

fn extend(ranges: &mut Vec<(char, char)>, negated: bool, more: &[(char, char)]) {
    if !negated {
        ranges.extend_from_slice(more);
        return;
    }
    let mut from = Some('\0');
    for (lo, hi) in more {
        if let (Some(from), Some(last)) =
            (from, (*lo as u32).checked_sub(1).and_then(char::from_u32))
            && from <= last
        {
            ranges.push((from, last));
        }
        from = char::from_u32(*hi as u32 + 1);
    }
    ranges.extend(from.map(|from| (from, char::MAX)));
}
