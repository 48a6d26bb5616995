//! A file as values, each with its place.
//!
//! What plans are written with — tables with a header of their own, keys without dots, strings, booleans, integers, arrays,
//! inline tables — becomes values straight from the parser's events. What is more than that, and what is wrong, is left to
//! the `toml` crate: it alone says what the rest means, and what is no TOML. The tree that it makes first is most of what its
//! reading takes: the lexer and the parser have 0.5 of its 1.3 ms for a plan of 500 steps.

use std::borrow::Cow;
use std::ops::Range;

use foldhash::HashSet;
use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;
use toml_parser::ErrorSink;
use toml_parser::ParseError;
use toml_parser::Source;
use toml_parser::Span;
use toml_parser::decoder::Encoding;
use toml_parser::decoder::ScalarKind;
use toml_parser::parser::EventReceiver;
use toml_parser::parser::ValidateWhitespace;
use toml_parser::parser::parse_document;

/// Arrays and inline tables within each other that are read straight.
const MAX_DEPTH: usize = 16;
/// Few tables of a header have more keys of their own.
const MANY: usize = 8;
/// Tables with more keys than this are checked for names that are there twice by hashing them.
const FEW: usize = 12;

/// A value and the bytes of the file that it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value<'t> {
    pub(crate) kind: Kind<'t>,
    span: Range<usize>,
}

/// What kind of value it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind<'t> {
    String(Cow<'t, str>),
    Integer(Integer<'t>),
    Boolean(bool),
    /// Which no plan has.
    Float,
    /// Which no plan has.
    Date,
    Array(Vec<Value<'t>>),
    Table(Table<'t>),
}

/// A number as digits, with its sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Integer<'t> {
    digits: Cow<'t, str>,
    radix: u32,
}

/// Names with values, in the order of the file; each name once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Table<'t> {
    entries: Vec<(Key<'t>, Value<'t>)>,
    /// Whether it is written between braces, so that headers cannot add to it.
    inline: bool,
}

/// A name and the bytes of the file that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key<'t> {
    name: Cow<'t, str>,
    span: Range<usize>,
}

/// What has a place in the file.
pub(crate) trait Placed {
    /// Its bytes.
    fn range(&self) -> Range<usize>;
}

impl Placed for Value<'_> {
    fn range(&self) -> Range<usize> {
        self.span.clone()
    }
}

impl Placed for Key<'_> {
    fn range(&self) -> Range<usize> {
        self.span.clone()
    }
}

impl Key<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Integer<'_> {
    /// The number, if 64 bits can hold it.
    pub(crate) fn value(&self) -> Option<i64> {
        i64::from_str_radix(&self.digits, self.radix).ok()
    }
}

impl<'t> Table<'t> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key<'t>, &Value<'t>)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.name == name)
    }

    /// Whether a name is there twice, here or further down.
    fn repeats(&self) -> bool {
        let names = || self.entries.iter().map(|(key, _)| key.name.as_ref());
        let here = match self.entries.len() {
            0 | 1 => false,
            len @ 2..=FEW => (1..len).any(|at| {
                let name = &self.entries[at].0.name;
                names().take(at).any(|before| before == name)
            }),
            len => names().collect::<HashSet<&str>>().len() < len,
        };
        here || self.entries.iter().any(|(_, value)| value.repeats())
    }
}

impl<'t> Value<'t> {
    fn repeats(&self) -> bool {
        match &self.kind {
            Kind::Array(items) => items.iter().any(Self::repeats),
            Kind::Table(table) => table.repeats(),
            _ => false,
        }
    }

    /// Values as the `toml` crate has them.
    pub(crate) fn of_table(table: Spanned<DeTable<'t>>) -> Self {
        let span = table.span();
        Self::of(Spanned::new(span, DeValue::Table(table.into_inner())))
    }

    fn of(value: Spanned<DeValue<'t>>) -> Self {
        let span = value.span();
        let kind = match value.into_inner() {
            DeValue::String(text) => Kind::String(text),
            DeValue::Integer(integer) => Kind::Integer(Integer {
                radix: integer.radix(),
                digits: integer.as_str().to_owned().into(),
            }),
            DeValue::Boolean(value) => Kind::Boolean(value),
            DeValue::Float(_) => Kind::Float,
            DeValue::Datetime(_) => Kind::Date,
            DeValue::Array(items) => Kind::Array(items.into_iter().map(Self::of).collect()),
            DeValue::Table(table) => {
                let entries = table.into_iter().map(|(key, value)| {
                    let span = key.span();
                    let name = key.into_inner();
                    (Key { name, span }, Self::of(value))
                });
                Kind::Table(Table {
                    entries: entries.collect(),
                    inline: false,
                })
            }
        };
        Self { kind, span }
    }
}

/// Reads a whole file straight. `None` says nothing of it: the `toml` crate has to read it.
pub(crate) fn straight(text: &str) -> Option<Value<'_>> {
    let source = Source::new(text);
    // A token is two bytes or more in nearly any file.
    let mut tokens = Vec::with_capacity(text.len() / 2 + 16);
    tokens.extend(source.lex());
    let mut builder = Builder::new(source);
    let mut problem: Option<ParseError> = None;
    let mut receiver = ValidateWhitespace::new(&mut builder, source);
    parse_document(&tokens, &mut receiver, &mut problem);
    let root = builder.done()?;
    (problem.is_none() && !root.repeats()).then_some(Value {
        kind: Kind::Table(root),
        span: 0..0,
    })
}

/// A bare key, or a string in double quotes, that is as it is written: most are, and the library looks more closely.
fn plain(text: &str, encoding: Option<Encoding>) -> Option<Cow<'_, str>> {
    let text = match encoding {
        None => text,
        Some(Encoding::BasicString) => text.strip_prefix('"')?.strip_suffix('"')?,
        Some(_) => return None,
    };
    let in_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let in_string = |byte: u8| !matches!(byte, ..b' ' | b'"' | b'\\' | 0x7f);
    let plain = match encoding {
        None => text.bytes().all(in_key),
        Some(_) => text.bytes().all(in_string),
    };
    (plain && !text.is_empty()).then_some(Cow::Borrowed(text))
}

/// Makes values of events.
struct Builder<'t> {
    source: Source<'t>,
    /// Whether there is something that is not read straight.
    odd: bool,
    root: Table<'t>,
    /// The keys of the table that key-value pairs go to now, and the way to its place: which entry of the table before.
    current: Vec<(Key<'t>, Value<'t>)>,
    place: Vec<usize>,
    /// The header at hand: where it begins, and its keys.
    header: Option<(usize, Vec<Key<'t>>)>,
    /// Arrays and inline tables that are not closed.
    open: Vec<Open<'t>>,
    /// The key at hand of the table of a header.
    key: Option<Key<'t>>,
}

/// An array or inline table that is not closed.
enum Open<'t> {
    Array(usize, Vec<Value<'t>>),
    Table(usize, Table<'t>, Option<Key<'t>>),
}

impl<'t> Builder<'t> {
    fn new(source: Source<'t>) -> Self {
        Self {
            source,
            odd: false,
            root: Table::default(),
            current: Vec::new(),
            place: Vec::new(),
            header: None,
            open: Vec::new(),
            key: None,
        }
    }

    fn done(mut self) -> Option<Table<'t>> {
        self.settle();
        let whole = !self.odd && self.open.is_empty() && self.header.is_none();
        whole.then_some(self.root)
    }

    /// The table of a header is complete but for those with longer headers.
    fn settle(&mut self) {
        let entries = std::mem::replace(&mut self.current, Vec::with_capacity(MANY));
        let mut table = &mut self.root;
        for at in &self.place {
            match table.entries.get_mut(*at).map(|(_, value)| &mut value.kind) {
                Some(Kind::Table(inner)) => table = inner,
                _ => {
                    self.odd = true;
                    return;
                }
            }
        }
        match table.entries.is_empty() {
            true => table.entries = entries,
            false => self.odd |= !entries.is_empty(),
        }
    }

    /// Makes the place of a table. `None` where headers do more than to name tables that are not there yet.
    fn begin(&mut self, header: Range<usize>, mut keys: Vec<Key<'t>>) -> Option<()> {
        let last = keys.pop()?;
        self.place.clear();
        let mut table = &mut self.root;
        for key in keys {
            // Tables of one kind stand together in most files.
            let found = table
                .entries
                .iter()
                .rposition(|(have, _)| have.name == key.name);
            let at = found.unwrap_or(table.entries.len());
            if found.is_none() {
                let span = key.span.clone();
                table.entries.push((
                    key,
                    Value {
                        kind: Kind::Table(Table::default()),
                        span,
                    },
                ));
            }
            self.place.push(at);
            table = match &mut table.entries[at].1.kind {
                Kind::Table(inner) if !inner.inline => inner,
                _ => return None,
            };
        }
        self.place.push(table.entries.len());
        let kind = Kind::Table(Table::default());
        table.entries.push((last, Value { kind, span: header }));
        Some(())
    }

    fn value(&mut self, value: Value<'t>) {
        match self.open.last_mut() {
            Some(Open::Array(_, items)) => items.push(value),
            Some(Open::Table(_, table, key)) => match key.take() {
                Some(key) => table.entries.push((key, value)),
                None => self.odd = true,
            },
            None => match self.key.take() {
                Some(key) => self.current.push((key, value)),
                None => self.odd = true,
            },
        }
    }

    fn enter(&mut self, open: Open<'t>) -> bool {
        let fits = self.open.len() < MAX_DEPTH;
        match fits {
            true => self.open.push(open),
            false => self.odd = true,
        }
        fits
    }
}

impl EventReceiver for Builder<'_> {
    fn std_table_open(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        self.settle();
        self.header = Some((span.start(), Vec::new()));
    }

    fn std_table_close(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        let begun = self
            .header
            .take()
            .and_then(|(start, keys)| self.begin(start..span.end(), keys));
        self.odd |= begun.is_none();
    }

    fn array_table_open(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.odd = true;
    }

    fn inline_table_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        let table = Table {
            inline: true,
            ..Table::default()
        };
        self.enter(Open::Table(span.start(), table, None))
    }

    fn inline_table_close(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        match self.open.pop() {
            Some(Open::Table(start, table, None)) => self.value(Value {
                kind: Kind::Table(table),
                span: start..span.end(),
            }),
            _ => self.odd = true,
        }
    }

    fn array_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        self.enter(Open::Array(span.start(), Vec::new()))
    }

    fn array_close(&mut self, span: Span, _error: &mut dyn ErrorSink) {
        match self.open.pop() {
            Some(Open::Array(start, items)) => self.value(Value {
                kind: Kind::Array(items),
                span: start..span.end(),
            }),
            _ => self.odd = true,
        }
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let range = span.start()..span.end();
        let Some(text) = self.source.input().get(range.clone()) else {
            self.odd = true;
            return;
        };
        let name = plain(text, encoding).unwrap_or_else(|| {
            let mut name = Cow::Borrowed("");
            toml_parser::Raw::new_unchecked(text, encoding, span).decode_key(&mut name, error);
            name
        });
        let key = Key { name, span: range };
        let before = match (&mut self.header, self.open.last_mut()) {
            (Some((_, keys)), _) => {
                keys.push(key);
                None
            }
            (None, Some(Open::Table(_, _, at_hand))) => at_hand.replace(key),
            (None, Some(Open::Array(..))) => Some(key),
            (None, None) => self.key.replace(key),
        };
        self.odd |= before.is_some();
    }

    fn key_sep(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        // Dotted keys; in a header they are the way to the table.
        self.odd |= self.header.is_none();
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let range = span.start()..span.end();
        let Some(text) = self.source.input().get(range.clone()) else {
            self.odd = true;
            return;
        };
        if encoding.is_some()
            && let Some(text) = plain(text, encoding)
        {
            let kind = Kind::String(text);
            return self.value(Value { kind, span: range });
        }
        let mut decoded = Cow::Borrowed("");
        let raw = toml_parser::Raw::new_unchecked(text, encoding, span);
        let kind = match raw.decode_scalar(&mut decoded, error) {
            ScalarKind::String => Kind::String(decoded),
            ScalarKind::Boolean(value) => Kind::Boolean(value),
            ScalarKind::Integer(radix) => Kind::Integer(Integer {
                digits: decoded,
                radix: radix.value(),
            }),
            ScalarKind::Float | ScalarKind::DateTime => {
                self.odd = true;
                return;
            }
        };
        self.value(Value { kind, span: range });
    }

    fn error(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.odd = true;
    }
}

#[cfg(test)]
mod t {
    use proptest::prelude::*;

    use super::*;

    fn by_the_library(text: &str) -> Option<Value<'_>> {
        DeTable::parse(text).ok().map(Value::of_table)
    }

    /// The same but for what is not read but only used while it is made.
    fn bare(mut value: Value<'_>) -> Value<'_> {
        fn strip(value: &mut Value<'_>) {
            match &mut value.kind {
                Kind::Array(items) => items.iter_mut().for_each(strip),
                Kind::Table(table) => {
                    table.inline = false;
                    table.entries.iter_mut().for_each(|(_, value)| strip(value));
                }
                _ => {}
            }
        }
        strip(&mut value);
        value
    }

    const PLAIN: [&str; 9] = [
        "",
        "schema = 1\n",
        "a = [1, 0x1f, 1_000, -3, \"x\\n\", 'y', true, [], [{ b = {} }]]",
        "[a]\nx = 1\n[a.b]\ny = 2 # c\n[a.b.c]\n[d.e]\n[d.f]\nz = \"\"\"\nm\"\"\"\n",
        "[a.b]\nx = { y = [1,\n2,\n], \"z w\" = 'q' }\n[a.c]\n[\"q.r\".s]\n",
        "\u{feff}a = 1",
        "\"a\" = 1\r\nb = 2\r\n",
        "a = { b = 1,\n c = 2,\n}\n",
        "\"é.ü\" = \"ö\t\\u00e4'\"\n\"\" = \"\"\n-_1 = '\"'\n",
    ];

    /// Valid and not, none of it read straight.
    const ODD: [&str; 26] = [
        "a.b = 1",
        "a = { b.c = 1 }",
        "[[a]]\nx = 1\n[[a]]\n",
        "[a.b]\n[a]\nx = 1\n",
        "a = 1.5",
        "a = 1979-05-27",
        "a = 1\na = 2",
        "[a]\n[a]\n",
        "[a]\nb = 1\n[a.b]\n",
        "a = { b = 1 }\n[a.c]\n",
        "a = [1]\n[a.b]\n",
        "a = { b = 1, b = 2 }",
        "a = ",
        "a = [1",
        "a = {",
        "= 1",
        "[a\nb = 1",
        "a = \"\\q\"",
        "a = \"\u{1}\"",
        "a = \"\u{7f}\"",
        "a = \"x",
        "ä = 1",
        "a = nope",
        "a = 1 # \u{7}\n",
        "a = 01",
        "a = [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]",
    ];

    #[test]
    fn what_is_read_straight_is_what_the_library_reads() {
        for text in PLAIN {
            let ours = straight(text).map(bare);
            assert!(ours.is_some(), "{text}");
            assert_eq!(ours, by_the_library(text), "{text}");
        }
        for text in ODD {
            assert_eq!(straight(text), None, "{text}");
        }
    }

    proptest! {
        /// Of pieces that files are made of, in any order: whatever is read straight the library reads alike.
        #[test]
        fn there_is_one_judge(pieces in proptest::collection::vec(0..22usize, 0..14)) {
            const PIECES: [&str; 22] = [
                "[a]\n", "[a.b]\n", "[b]\n", "[a.b.c]\n", "[[a]]\n", "a = ", "b = ", "\"a\" = ", "1\n", "\"x\"\n",
                "'y'\n", "[", "]\n", "{ ", " }\n", ", ", "a = 1", "b.c = 2\n", "true\n", "# c\n", "\n", "\\",
            ];
            let text: String = pieces.iter().map(|at| PIECES[*at]).collect();
            if let Some(ours) = straight(&text) {
                prop_assert_eq!(Some(bare(ours)), by_the_library(&text), "{}", text);
            }
        }
    }
}
