//! The forms of values: words, and what can be written in several ways.

use super::*;
use crate::document::Kind;
use crate::document::Value as Node;
use crate::read::TableShape;

/// What stands for what is inherited.
pub(crate) const INHERITED: &str = "...";

/// Makes of an enum the reader of a word.
macro_rules! words {
    ($(#[doc = $about:literal])* $name:ident = $target:ty { $( $word:literal => $value:expr, )* }) => {
        $(#[doc = $about])*
        pub(crate) type $name = At<$target>;

        impl Read for At<$target> {
            fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
                let all = [$( $word ),*];
                let text = Text::read(value, to)?;
                match text.text.as_str() {
                    $( $word => Some(At { value: $value, span: text.span }), )*
                    other => {
                        let message = format!("`{other}` is no value of {}", to.here());
                        let label = format!("one of `{}`", all.join("`, `"));
                        to.error(message, text.span, &label);
                        None
                    }
                }
            }

            fn shape() -> Shape {
                Shape::Choice(&[$( $word ),*])
            }
        }
    };
}

/// How modes of local files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModeRule {
    Git,
    Exact,
}

/// What becomes of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeRule {
    Clamp,
    Keep,
}

words! {
    /// How modes of local files count.
    Modes = ModeRule { "git" => ModeRule::Git, "exact" => ModeRule::Exact, }
}

words! {
    /// What becomes of times in layers.
    Times = TimeRule { "clamp" => TimeRule::Clamp, "keep" => TimeRule::Keep, }
}

words! {
    /// Who may use a cache at once.
    Sharing = rbuild_llb::op::CacheSharing {
        "shared" => rbuild_llb::op::CacheSharing::Shared,
        "private" => rbuild_llb::op::CacheSharing::Private,
        "locked" => rbuild_llb::op::CacheSharing::Locked,
    }
}

words! {
    /// How closely commands are confined.
    Security = rbuild_llb::op::SecurityMode {
        "sandbox" => rbuild_llb::op::SecurityMode::Sandbox,
        "insecure" => rbuild_llb::op::SecurityMode::Insecure,
    }
}

words! {
    /// What values of an argument look like.
    ArgType = Type {
        "string" => Type::String,
        "bool" => Type::Bool,
        "integer" => Type::Integer,
    }
}
words! {
    /// What a parameter takes.
    ParamWord = ParamType {
        "string" => ParamType::One(Type::String),
        "bool" => ParamType::One(Type::Bool),
        "integer" => ParamType::One(Type::Integer),
        "list" => ParamType::List,
    }
}

fn is_string(value: &Node<'_>) -> bool {
    matches!(&value.kind, Kind::String(_))
}

/// Makes an enum of what several types read: the first one whose kind of value it is.
macro_rules! either {
    ($name:ident, $wanted:literal: $( $pattern:pat => $variant:ident($ty:ty), )*) => {
        impl Read for $name {
            fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
                match &value.kind {
                    $( $pattern => <$ty as Read>::read(value, to).map($name::$variant), )*
                    #[allow(unreachable_patterns, reason = "some take any kind of value")]
                    _ => {
                        to.mismatch(value, $wanted);
                        None
                    }
                }
            }

            fn shape() -> Shape {
                Shape::OneOf(vec![$( <$ty as Read>::shape() ),*])
            }
        }
    };
}

either!(Include, "a path, or a table": Kind::String(_) => Path(Text), Kind::Table(_) => Named(NamedInclude),);
either!(Arg, "a default, or a table": Kind::Table(_) => Table(ArgTable), _ => Default(Scalar),);
either!(Command, "a string or an array of strings": Kind::String(_) => Line(Text), Kind::Array(_) => Exec(List<Text>),);
either!(SecretUse, "the id of a secret, or a table": Kind::String(_) => Id(Text), Kind::Table(_) => Table(Box<Secret>),);
either!(SshUse, "the id of an agent, or a table": Kind::String(_) => Id(Text), Kind::Table(_) => Table(Box<Ssh>),);
either!(Value, "a value": Kind::Array(_) => List(List<Text>), _ => One(Scalar),);
either!(Param, "a type, or a table": Kind::String(_) => Type(ParamWord), Kind::Table(_) => Table(ParamTable),);

impl Read for Scalar {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        let (text, kind) = match &value.kind {
            Kind::String(text) => (text.to_string(), Type::String),
            Kind::Boolean(value) => (value.to_string(), Type::Bool),
            Kind::Integer(_) => {
                let integer = At::<i64>::read(value, to)?;
                (integer.value.to_string(), Type::Integer)
            }
            _ => {
                to.mismatch(value, "a string, a boolean or an integer");
                return None;
            }
        };
        Some(Self { text, kind, span })
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Text, Shape::Bool, Shape::Integer])
    }
}

impl Read for Words {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        match &value.kind {
            Kind::Array(_) => List::<Text>::read(value, to).map(|list| Self(list.value)),
            _ if is_string(value) => Text::read(value, to).map(|text| Self(vec![text])),
            _ => {
                to.mismatch(value, "a string or an array of strings");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Text, <List<Text> as Read>::shape()])
    }
}

impl Read for PairGroup {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        Words::read(value, to).map(|words| Self(words.0))
    }

    fn shape() -> Shape {
        <Words as Read>::shape()
    }
}

impl Read for Pairs {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        match &value.kind {
            Kind::Table(_) => <Map<Text> as Read>::read(value, to).map(Self::Table),
            Kind::Array(_) => List::<PairGroup>::read(value, to).map(|list| Self::List(list.value)),
            _ => {
                to.mismatch(value, "a table, or an array of `NAME=value`");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![
            <Map<Text> as Read>::shape(),
            <List<PairGroup> as Read>::shape(),
        ])
    }
}

impl Read for At<Network> {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        let network = match &value.kind {
            Kind::Boolean(true) => Network::Default,
            Kind::Boolean(false) => Network::None,
            Kind::String(word) if word == "host" => Network::Host,
            _ => {
                to.mismatch(value, "`true`, `false` or `\"host\"`");
                return None;
            }
        };
        Some(Self {
            value: network,
            span,
        })
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Bool, Shape::Choice(&["host"])])
    }
}

impl Read for Health {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        match &value.kind {
            Kind::Boolean(false) => Some(Self::None),
            Kind::Table(_) => <Box<Healthcheck>>::read(value, to).map(Self::Check),
            _ => {
                to.mismatch(value, "a table, or `false`");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Healthcheck::shape(), Shape::Bool])
    }
}

impl<T: Read> Read for Item<T> {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        match &value.kind {
            Kind::String(text) if text == INHERITED => Some(Self::Inherited(to.span(value))),
            _ => T::read(value, to).map(Self::Own),
        }
    }

    fn shape() -> Shape {
        match T::shape() {
            // A string is among what it takes.
            Shape::OneOf(shapes) if shapes.iter().any(|one| matches!(one, Shape::Text)) => {
                Shape::OneOf(shapes)
            }
            Shape::Text => Shape::Text,
            own => Shape::OneOf(vec![own, Shape::Choice(&[INHERITED])]),
        }
    }
}

impl Read for Use {
    fn read(value: &Node<'_>, to: &mut Reader) -> Option<Self> {
        let span = to.span(value);
        let Kind::Table(table) = &value.kind else {
            to.mismatch(value, "a table");
            return None;
        };
        let (mut function, mut values) = (None, Map::default());
        for (key, value) in table.iter() {
            let name: &str = key.name();
            if name == "fn" {
                function = to.within(name, |to| <Text as Read>::read(value, to));
                continue;
            }
            let at = to.span(key);
            if let Some(value) = to.within(name, |to| Value::read(value, to)) {
                values.insert(name.to_owned(), crate::read::Entry { name: at, value });
            }
        }
        if function.is_none() {
            to.missing("fn", span.clone());
        }
        Some(Self {
            function: function?,
            values,
            span,
        })
    }

    fn shape() -> Shape {
        fn fields() -> Vec<crate::read::FieldShape> {
            vec![crate::read::FieldShape {
                key: "fn".to_owned(),
                about: &[" The function. All other keys are its parameters."],
                shape: Shape::Text,
                required: true,
            }]
        }
        static SHAPE: TableShape = TableShape {
            name: "Use",
            about: &[" The use of a function."],
            fields,
            open: true,
        };
        Shape::Table(&SHAPE)
    }
}
