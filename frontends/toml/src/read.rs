//! TOML values to typed ones: all problems at once, each with its place.
//!
//! What can stand in a file is described once, by the types of [`schema`](crate::schema): the macro [`table`] makes of
//! a struct its reader and its [`Shape`], from which the JSON Schema and the reference are written. serde's derive
//! stops at the first problem, so it is not used here.

use std::sync::Arc;

use indexmap::IndexMap;
use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::suggest::nearest_name;
use toml::de::DeTable;

use crate::document;
use crate::document::Kind;
use crate::document::Placed;
use crate::document::Value;
use crate::set::Settings;

/// What can stand in a place.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Text,
    Choice(&'static [&'static str]),
    Bool,
    Integer,
    List(Box<Shape>),
    /// Names that the file chooses, each with a value.
    Map(Box<Shape>),
    Table(&'static TableShape),
    OneOf(Vec<Shape>),
}

/// A table with fixed keys.
#[derive(Debug)]
pub(crate) struct TableShape {
    /// As other places refer to it.
    pub(crate) name: &'static str,
    pub(crate) about: &'static [&'static str],
    pub(crate) fields: fn() -> Vec<FieldShape>,
    /// Whether it takes keys that are not among the fields.
    pub(crate) open: bool,
}

/// A key of a table.
#[derive(Debug)]
pub(crate) struct FieldShape {
    pub(crate) key: String,
    pub(crate) about: &'static [&'static str],
    pub(crate) shape: Shape,
    pub(crate) required: bool,
}

/// A value that a place of a file can have.
pub(crate) trait Read: Sized {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self>;
    fn shape() -> Shape;
}

/// A key's value, which may be left out.
pub(crate) trait Field: Sized {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self>;
    /// The value where the key is not there; `None` if it must be.
    fn absent() -> Option<Self>;
    fn shape() -> Shape;
}

/// Reads one file.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Arc<SourceFile>,
    /// Keys down to the value at hand, each with a dot before it.
    path: String,
    /// What stands in the place of values of the file.
    settings: Arc<Settings>,
    pub(crate) errors: Vec<Diagnostic>,
}

/// A string and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A list and its place.
pub(crate) type List<T> = At<Vec<T>>;

/// What stands under names of the file's choice, in the order of the names.
pub(crate) type Map<T> = IndexMap<String, Entry<T>, foldhash::fast::RandomState>;

/// A named value and the place of its name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry<T> {
    pub(crate) name: Span,
    pub(crate) value: T,
}

impl Reader {
    pub(crate) fn new(file: &Arc<SourceFile>) -> Self {
        Self {
            file: Arc::clone(file),
            path: String::new(),
            settings: Arc::default(),
            errors: Vec::new(),
        }
    }

    /// A reader of a file with some of its values set otherwise.
    pub(crate) fn with(file: &Arc<SourceFile>, settings: &[String]) -> Self {
        Self {
            settings: Arc::new(Settings::new(settings)),
            ..Self::new(file)
        }
    }

    /// Parses and reads a whole file.
    pub(crate) fn file<T: Read>(&mut self) -> Option<T> {
        let file = Arc::clone(&self.file);
        let settings = Arc::clone(&self.settings);
        if settings.is_empty()
            && let Some(root) = document::straight(&file.text)
        {
            return T::read(&root, self);
        }
        let (mut table, problems) = DeTable::parse_recoverable(&file.text);
        let mut twice: Option<usize> = None;
        for problem in problems {
            let range = problem.span().unwrap_or(0..0);
            let span = Span::new(&file, range.clone());
            let message = problem.message().trim();
            if message != "duplicate key" {
                let message = format!("this is not TOML: {message}");
                self.errors.push(Diagnostic::error(message, span, ""));
                continue;
            }
            // Of a table that is there twice, not all keys as well.
            let within = |from| {
                let between = file.text.get(from..range.start);
                between.is_some_and(|text: &str| !text.contains("\n["))
            };
            if !twice.is_some_and(within) {
                let key = file.text.get(range.clone()).unwrap_or_default();
                let message = format!("`{key}` is there twice");
                self.errors.push(Diagnostic::error(message, span, ""));
                twice = is_header(&file.text, range.start).then_some(range.end);
            }
        }
        self.errors.extend(settings.apply(table.get_mut()));
        if !self.errors.is_empty() {
            return None;
        }
        T::read(&Value::of_table(table), self)
    }

    pub(crate) fn span(&self, placed: &impl Placed) -> Span {
        let range = placed.range();
        match self.settings.span(range.start, range.end) {
            Some(span) => span,
            None => Span::new(&self.file, range),
        }
    }

    /// The value at hand, for messages: `step.app.run`.
    pub(crate) fn here(&self) -> String {
        match self.path.is_empty() {
            true => "the file".to_owned(),
            false => format!("`{}`", &self.path[1..]),
        }
    }

    pub(crate) fn error(&mut self, message: impl Into<String>, span: Span, label: &str) {
        self.errors.push(Diagnostic::error(message, span, label));
    }

    /// Reports a value of another type than `wanted`.
    pub(crate) fn mismatch(&mut self, value: &Value<'_>, wanted: &str) {
        let found = match &value.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float => "a float",
            Kind::Boolean(_) => "a boolean",
            Kind::Date => "a date",
            Kind::Array(_) => "an array",
            Kind::Table(_) => "a table",
        };
        let message = format!("{} must be {wanted}, not {found}", self.here());
        let span = self.span(value);
        self.error(message, span, "");
    }

    /// Does something one key further down.
    pub(crate) fn within<T>(&mut self, key: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.path.len();
        self.path.push('.');
        match is_bare(key) {
            true => self.path.push_str(key),
            false => self.path.push_str(&format!("{key:?}")),
        }
        let done = act(self);
        self.path.truncate(before);
        done
    }

    /// Reports keys that nothing reads.
    pub(crate) fn unknown(&mut self, key: &str, span: Span, known: &[String]) {
        let place = match self.path.is_empty() {
            true => String::new(),
            false => format!(" in {}", self.here()),
        };
        let error = Diagnostic::error(format!("unknown key `{key}`{place}"), span, "");
        self.errors
            .push(match nearest_name(key, known.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("the keys are `{}`", known.join("`, `"))),
            });
    }

    /// A value as the file has it, unless it was set otherwise.
    fn written(&self, value: &Value<'_>) -> Option<&str> {
        let range = value.range();
        match self.settings.span(range.start, range.end) {
            Some(_) => None,
            None => self.file.text.get(range),
        }
    }

    /// Adds what to do to the last error.
    fn hint(&mut self, hint: &str) {
        if let Some(error) = self.errors.pop() {
            self.errors.push(error.hint(hint));
        }
    }

    pub(crate) fn missing(&mut self, key: &str, span: Span) {
        let message = format!("{} has no `{key}`", self.here());
        let error = Diagnostic::error(message, span, "");
        self.errors.push(match key {
            "schema" => error.hint("begin it with `schema = 1`"),
            _ => error,
        });
    }
}

/// Whether a place is in a line that begins a table.
fn is_header(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    line.trim_start().starts_with('[')
}

/// A number's digits, without a string of their own: every item of every array is asked for them.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &str {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[start..]).expect("digits are ASCII")
}

/// Whether TOML takes a key without quotes.
pub(crate) fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// `one_of` of a struct is `one-of` of a table.
pub(crate) fn key_of(field: &str) -> String {
    field.trim_start_matches("r#").replace('_', "-")
}

/// Whether a key of a table is a field of a struct.
pub(crate) fn is_key(key: &str, field: &str) -> bool {
    let field = field.strip_prefix("r#").unwrap_or(field).bytes();
    key.len() == field.len()
        && key
            .bytes()
            .zip(field)
            .all(|(k, f)| k == f || (k, f) == (b'-', b'_'))
}

impl Read for Text {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        match &value.kind {
            Kind::String(text) => Some(Self {
                text: text.to_string(),
                span,
            }),
            other => {
                to.mismatch(value, "a string");
                let scalar = !matches!(other, Kind::Array(_) | Kind::Table(_));
                if let Some(written) = to.written(value).filter(|_| scalar) {
                    to.hint(&format!("put it in quotes: `\"{written}\"`"));
                }
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Text
    }
}

impl Read for At<bool> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        match &value.kind {
            Kind::Boolean(value) => Some(Self {
                value: *value,
                span,
            }),
            _ => {
                to.mismatch(value, "`true` or `false`");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Bool
    }
}

impl Read for At<i64> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        let Kind::Integer(integer) = &value.kind else {
            to.mismatch(value, "an integer");
            return None;
        };
        match integer.value() {
            Some(value) => Some(Self { value, span }),
            None => {
                let message = format!("{} is too large", to.here());
                to.error(message, span, "");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Integer
    }
}

impl<T: Read> Read for List<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        let Kind::Array(array) = &value.kind else {
            to.mismatch(value, "an array");
            if matches!(&value.kind, Kind::String(_) | Kind::Table(_)) {
                to.hint("put it in brackets: `[…]`");
            }
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for (at, item) in array.iter().enumerate() {
            let mut digits = [0; 20];
            list.extend(to.within(decimal(at, &mut digits), |to| T::read(item, to)));
        }
        Some(Self { value: list, span })
    }

    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

impl<T: Read> Read for Map<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        let Kind::Table(table) = &value.kind else {
            to.mismatch(value, "a table");
            return None;
        };
        let mut map = Self::with_capacity_and_hasher(table.len(), Default::default());
        for (key, value) in table.iter() {
            let name = to.span(key);
            let key = key.name().to_owned();
            if let Some(value) = to.within(&key, |to| T::read(value, to)) {
                map.insert(key, Entry { name, value });
            }
        }
        // Their order in the file means nothing.
        map.sort_unstable_keys();
        Some(map)
    }

    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}

impl<T: Read> Read for Box<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        T::read(value, to).map(Box::new)
    }

    fn shape() -> Shape {
        T::shape()
    }
}

impl<T: Read> Field for Option<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        T::read(value, to).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn shape() -> Shape {
        T::shape()
    }
}

/// A list that may be left out.
impl<T: Read> Field for Vec<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        List::<T>::read(value, to).map(|list| list.value)
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

impl<T: Read> Field for Map<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        <Self as Read>::read(value, to)
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn shape() -> Shape {
        <Self as Read>::shape()
    }
}

/// A value that must be there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Need<T>(pub(crate) T);

impl<T> std::ops::Deref for Need<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Read> Field for Need<T> {
    fn read(value: &Value<'_>, to: &mut Reader) -> Option<Self> {
        T::read(value, to).map(Self)
    }

    fn absent() -> Option<Self> {
        None
    }

    fn shape() -> Shape {
        T::shape()
    }
}

/// Makes of a struct the reader and the shape of a table. All fields are [`Field`]s; `span` is added.
macro_rules! table {
    (
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $field_about:literal])* $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $field_about])* pub(crate) $field: $ty, )*
            /// The table's place.
            pub(crate) span: rbuild_llb::Span,
        }

        impl $name {
            fn fields() -> Vec<$crate::read::FieldShape> {
                vec![$( $crate::read::FieldShape {
                    key: $crate::read::key_of(stringify!($field)),
                    about: &[$($field_about),*],
                    shape: <$ty as $crate::read::Field>::shape(),
                    required: <$ty as $crate::read::Field>::absent().is_none(),
                }, )*]
            }
        }

        impl $crate::read::Read for $name {
            fn read(
                value: &$crate::document::Value<'_>,
                to: &mut $crate::read::Reader,
            ) -> Option<Self> {
                let span = to.span(value);
                let $crate::document::Kind::Table(table) = &value.kind else {
                    to.mismatch(value, "a table");
                    return None;
                };
                let mut whole = true;
                $( let mut $field: Option<$ty> = None; )*
                for (key, value) in table.iter() {
                    let text: &str = key.name();
                    $( if $crate::read::is_key(text, stringify!($field)) {
                        $field = to.within(text, |to| <$ty as $crate::read::Field>::read(value, to));
                        whole &= $field.is_some();
                        continue;
                    } )*
                    let known: Vec<String> = Self::fields().into_iter().map(|field| field.key).collect();
                    let at = to.span(key);
                    to.unknown(text, at, &known);
                    whole = false;
                }
                $( let $field = match $field {
                    Some(value) => Some(value),
                    None => {
                        let absent = <$ty as $crate::read::Field>::absent();
                        if absent.is_none() {
                            let key = $crate::read::key_of(stringify!($field));
                            if !table.has(&key) {
                                to.missing(&key, span.clone());
                            }
                        }
                        absent
                    }
                }; )*
                if !whole {
                    return None;
                }
                Some(Self { $( $field: $field?, )* span })
            }

            fn shape() -> $crate::read::Shape {
                static SHAPE: $crate::read::TableShape = $crate::read::TableShape {
                    name: stringify!($name),
                    about: &[$($about),*],
                    fields: $name::fields,
                    open: false,
                };
                $crate::read::Shape::Table(&SHAPE)
            }
        }
    };
}

/// Makes of an enum the reader of a table whose kind one of its keys tells.
macro_rules! kinds {
    (
        $(#[doc = $about:literal])*
        $vis:vis enum $name:ident ($what:literal) { $( $key:literal => $variant:ident($ty:ty), )* }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        $vis enum $name { $( $variant($ty), )* }

        impl $crate::read::Read for $name {
            fn read(
                value: &$crate::document::Value<'_>,
                to: &mut $crate::read::Reader,
            ) -> Option<Self> {
                let $crate::document::Kind::Table(table) = &value.kind else {
                    to.mismatch(value, "a table");
                    return None;
                };
                let kinds = [$( $key ),*];
                let found: Vec<&str> = kinds.into_iter().filter(|kind| table.has(kind)).collect();
                $( if found == [$key] {
                    return <$ty as $crate::read::Read>::read(value, to).map($name::$variant);
                } )*
                let span = to.span(value);
                let here = to.here();
                let message = match found.as_slice() {
                    [first, second, ..] => format!("{here} has both `{first}` and `{second}`"),
                    _ => format!("{here} does not say what it is"),
                };
                let label = format!("{} is one of `{}`", $what, kinds.join("`, `"));
                to.error(message, span, &label);
                None
            }

            fn shape() -> $crate::read::Shape {
                $crate::read::Shape::OneOf(vec![$( <$ty as $crate::read::Read>::shape() ),*])
            }
        }
    };
}

pub(crate) use kinds;
pub(crate) use table;
