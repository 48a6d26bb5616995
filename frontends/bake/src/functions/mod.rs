//! The functions that bake files may call, by buildx's names and with its results.
//!
//! `try`, `can` and `convert` do not work on values and are in `eval.rs`. What is left out, and why, is in [`REFUSED`].

mod collections;
mod encoding;
mod format;
mod numbers;
mod semver;
mod strings;
mod time;

pub(crate) use self::format::four_digits;
pub(crate) use self::format::go_float;
use crate::number::Number;
use crate::value::Type;
use crate::value::Value;
use crate::value::convert;

/// What functions may know that is in no file.
pub(crate) struct World {
    /// Seconds since 1970.
    pub(crate) now: i64,
}

/// Why a function has no result.
pub(crate) struct Why {
    pub(crate) message: String,
    /// Which argument is to blame, counted from 0.
    pub(crate) argument: Option<usize>,
}

impl From<String> for Why {
    fn from(message: String) -> Self {
        Self {
            message,
            argument: None,
        }
    }
}

impl From<&str> for Why {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// Blames an argument.
fn wrong(argument: usize, message: impl Into<String>) -> Why {
    Why {
        message: message.into(),
        argument: Some(argument),
    }
}

type Result<T> = std::result::Result<T, Why>;

/// A function, with how many arguments it takes.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// How it is called, for messages and the documentation.
    pub(crate) usage: &'static str,
    least: usize,
    most: usize,
    /// Whether arguments may be null.
    nulls: bool,
    pub(crate) run: fn(&World, &[Value]) -> Result<Value>,
}

const fn function(
    name: &'static str,
    usage: &'static str,
    count: (usize, usize),
    run: fn(&World, &[Value]) -> Result<Value>,
) -> Function {
    Function {
        name,
        usage,
        least: count.0,
        most: count.1,
        nulls: false,
        run,
    }
}

impl Function {
    const fn with_nulls(self) -> Self {
        Self {
            nulls: true,
            ..self
        }
    }
}

/// No limit.
const ANY: usize = usize::MAX;

/// The functions of the evaluator: name and usage.
const SPECIAL: [(&str, &str); 3] = [
    ("can", "can(expression)"),
    ("convert", "convert(value, type)"),
    ("try", "try(expressions...)"),
];

/// buildx's functions that are not here.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    (
        "bcrypt",
        "its result differs from run to run, so nothing built with it would be cached",
    ),
    ("byteslen", "the language has no bytes"),
    ("bytesslice", "the language has no bytes"),
    (
        "cidrhost",
        "the addresses of a build are not its file's to choose",
    ),
    (
        "cidrnetmask",
        "the addresses of a build are not its file's to choose",
    ),
    (
        "cidrsubnet",
        "the addresses of a build are not its file's to choose",
    ),
    (
        "cidrsubnets",
        "the addresses of a build are not its file's to choose",
    ),
    ("csvdecode", "`split` and `jsondecode` read lists"),
    (
        "homedir",
        "a bake file does not know the machine: pass the path as a variable",
    ),
    (
        "rsadecrypt",
        "a private key has no place in a bake file: use a secret",
    ),
    (
        "uuidv4",
        "its result differs from run to run, so nothing built with it would be cached",
    ),
];

fn tables() -> impl Iterator<Item = &'static Function> {
    numbers::FUNCTIONS
        .iter()
        .chain(strings::FUNCTIONS)
        .chain(collections::FUNCTIONS)
        .chain(encoding::FUNCTIONS)
        .chain(time::FUNCTIONS)
}

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    tables().find(|function| function.name == name)
}

/// Why a function of buildx's is not supported.
pub(crate) fn refused(name: &str) -> Option<&'static str> {
    REFUSED
        .iter()
        .find(|(refused, _)| *refused == name)
        .map(|(_, why)| *why)
}

/// All names, sorted.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().into_iter().map(|(name, _)| name)
}

/// All names with how they are called, sorted.
pub(crate) fn all() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = tables().map(|f| (f.name, f.usage)).chain(SPECIAL).collect();
    all.sort_unstable();
    all
}

/// Whether a function takes these arguments.
pub(crate) fn check(function: &Function, arguments: &[Value]) -> Result<()> {
    let count = arguments.len();
    if count < function.least {
        return Err(format!("{} arguments are too few", count).into());
    }
    if count > function.most {
        return Err(wrong(
            function.most,
            format!("{} arguments are too many", count),
        ));
    }
    let null = arguments.iter().position(|value| *value == Value::Null);
    match null.filter(|_| !function.nulls) {
        Some(at) => Err(wrong(at, "the argument must not be null")),
        None => Ok(()),
    }
}

fn text(arguments: &[Value], at: usize) -> Result<String> {
    arguments[at].to_text().ok_or_else(|| {
        wrong(
            at,
            format!("a string is required, but have {}", arguments[at].type_of()),
        )
    })
}

fn number(arguments: &[Value], at: usize) -> Result<Number> {
    match convert(&arguments[at], &Type::Number) {
        Ok(Value::Number(number)) => Ok(number),
        Ok(_) => Err(wrong(at, "a number is required")),
        Err(why) => Err(wrong(at, why)),
    }
}

fn whole(arguments: &[Value], at: usize) -> Result<i64> {
    number(arguments, at)?
        .to_i64()
        .ok_or_else(|| wrong(at, "a whole number is required"))
}

fn boolean(arguments: &[Value], at: usize) -> Result<bool> {
    match convert(&arguments[at], &Type::Bool) {
        Ok(Value::Bool(value)) => Ok(value),
        Ok(_) => Err(wrong(at, "a bool is required")),
        Err(why) => Err(wrong(at, why)),
    }
}

/// The elements of a list, set or tuple.
fn elements(arguments: &[Value], at: usize) -> Result<&[Value]> {
    arguments[at].elements().ok_or_else(|| {
        wrong(
            at,
            format!("a list is required, but have {}", arguments[at].type_of()),
        )
    })
}

/// The elements of a list of strings.
fn texts(arguments: &[Value], at: usize) -> Result<Vec<String>> {
    elements(arguments, at)?
        .iter()
        .map(|value| {
            value
                .to_text()
                .ok_or_else(|| wrong(at, "a list of strings is required"))
        })
        .collect()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let all: Vec<_> = names()
            .chain(REFUSED.iter().map(|(name, _)| *name))
            .collect();
        let mut once = all.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(all.len(), once.len());
        for (name, usage) in super::all() {
            assert!(usage.starts_with(&format!("{name}(")), "{usage}");
        }
    }
}
