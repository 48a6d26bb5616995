//! `{name}` in values.
//!
//! What can stand between the braces: `args.NAME`, `matrix.NAME`, `git.sha`, `git.sha12`, `git.branch`, `git.tag`,
//! `platform` and `platform.os|arch|variant`, `build.platform` and its parts, `env.NAME` (`env.NAME:-word` for a word
//! where it is not set or empty, `env.NAME:+word` for one where it is), and in a function the names of its parameters. Other braces stand for themselves, so do those behind a `$`, which are the shell's, and
//! `{{args.NAME}}` is `{args.NAME}` literally.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use rbuild_dockerfile::program::literal;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::suggest::nearest_name;

use crate::lower::Lowering;
use crate::modules::ModuleId;
use crate::read::Text;

/// What a parameter is set to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Given {
    One(String),
    List(Vec<String>),
}

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) module: ModuleId,
    /// The parameters of the function that it stands in.
    pub(crate) params: Option<&'a BTreeMap<String, Given>>,
    /// The axes of the output that it stands in.
    pub(crate) matrix: Option<&'a BTreeMap<String, String>>,
}

/// A part of a value.
#[derive(Debug, Clone, PartialEq)]
enum Piece<'t> {
    /// As the file has it.
    Own(Cow<'t, str>),
    /// Put in.
    Text(String),
    /// A variable of the environment that the step has.
    Env(String),
    List(Vec<String>),
}

/// Words that begin a name between braces.
const ROOTS: [&str; 6] = ["args", "matrix", "git", "env", "platform", "build"];

/// A name between braces.
struct Braces<'t> {
    name: &'t str,
    /// Bytes of the value.
    from: usize,
    to: usize,
    /// Whether they are doubled, and so stand for themselves.
    doubled: bool,
}

/// The names between braces, whatever they mean.
fn braces(text: &str) -> impl Iterator<Item = Braces<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let open = at + text[at..].find('{')?;
            let name = text[open + 1..]
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
                .map_or(&text[open + 1..], |end| &text[open + 1..open + 1 + end]);
            let name = otherwise(&text[open + 1..], name).unwrap_or(name);
            let close = open + 1 + name.len();
            at = open + 1;
            if name.is_empty() || !text[close..].starts_with('}') {
                continue;
            }
            let before = text[..open].chars().next_back();
            if before == Some('$') {
                at = close + 1;
                continue;
            }
            let doubled = before == Some('{') && text[close + 1..].starts_with('}');
            at = close + 1 + usize::from(doubled);
            return Some(Braces {
                name,
                from: open - usize::from(doubled),
                to: at,
                doubled,
            });
        }
    })
}

/// A variable of the environment with what stands for it: `env.NAME:-word`, and `:+`.
fn otherwise<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let rest = &text[name.len()..];
    if !name.starts_with("env.") || !(rest.starts_with(":-") || rest.starts_with(":+")) {
        return None;
    }
    let end = rest.find(['{', '}', '$', '\'', '"', '\\', '\n'])?;
    rest[end..]
        .starts_with('}')
        .then_some(&text[..name.len() + end])
}

/// Whether some value of a text needs to know of git.
pub fn names_git(text: &str) -> bool {
    text.contains("{git.")
        && braces(text).any(|braces| !braces.doubled && braces.name.starts_with("git."))
}

/// Whether a name between braces can stand for something outside of functions.
fn is_name(name: &str) -> bool {
    let root = name.split('.').next().unwrap_or_default();
    ROOTS.contains(&root) && (name.contains('.') || name == "platform")
}

/// A text with what `value` gives for the names in it.
pub(crate) fn fill<E>(
    text: &str,
    mut value: impl FnMut(&str) -> Result<String, E>,
) -> Result<String, E> {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for found in braces(text).filter(|found| is_name(found.name)) {
        out.push_str(&text[done..found.from]);
        match found.doubled {
            true => out.push_str(&format!("{{{}}}", found.name)),
            false => out.push_str(&value(found.name)?),
        }
        done = found.to;
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// The names in a value that stand for something.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    braces(text)
        .filter(|braces| !braces.doubled && is_name(braces.name))
        .map(|braces| braces.name)
}

/// The names in a text that stand for something, each with its bytes.
pub(crate) fn places(text: &str) -> impl Iterator<Item = (&str, Range<usize>)> {
    braces(text)
        .filter(|braces| !braces.doubled && is_name(braces.name))
        .map(|braces| (braces.name, braces.from..braces.to))
}

/// The bytes of a text that would stand for something in a value, or for the same with fewer braces.
pub(crate) fn meant(text: &str) -> impl Iterator<Item = (usize, usize)> {
    braces(text)
        .filter(|braces| is_name(braces.name))
        .map(|braces| match braces.doubled {
            true => (braces.from + 1, braces.to - 1),
            false => (braces.from, braces.to),
        })
}

impl Lowering<'_> {
    fn pieces<'t>(&mut self, text: &'t Text, scope: Scope<'_>) -> Option<Vec<Piece<'t>>> {
        let value = text.text.as_str();
        let mut pieces = Vec::new();
        let mut done = 0;
        for Braces {
            name,
            from,
            to,
            doubled,
        } in braces(value)
        {
            let param = scope.params.and_then(|params| params.get(name));
            let ours = param.is_some() || is_name(name);
            if !ours {
                continue;
            }
            pieces.push(Piece::Own(value[done..from].into()));
            done = to;
            if doubled {
                pieces.push(Piece::Own(format!("{{{name}}}").into()));
                continue;
            }
            pieces.push(match param {
                Some(Given::One(value)) => Piece::Text(value.clone()),
                Some(Given::List(list)) => Piece::List(list.clone()),
                None => self.value(name, &text.span, scope)?,
            });
        }
        pieces.push(Piece::Own(value[done..].into()));
        Some(pieces)
    }

    /// What a name between braces stands for.
    fn value(&mut self, name: &str, span: &Span, scope: Scope<'_>) -> Option<Piece<'static>> {
        let (root, rest) = name.split_once('.').unwrap_or((name, ""));
        let unknown = |known: &[&str]| {
            let error = Diagnostic::error(format!("there is no `{{{name}}}`"), span.clone(), "");
            match nearest_name(rest, known.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{{{root}.{near}}}`?")),
                None => error.hint(format!(
                    "there are `{root}.{}`",
                    known.join(&format!("`, `{root}."))
                )),
            }
        };
        let text = match root {
            "args" => return self.arg(scope.module, rest, span).map(Piece::Text),
            "env" => return Some(Piece::Env(rest.to_owned())),
            "matrix" => match scope.matrix {
                Some(matrix) => match matrix.get(rest) {
                    Some(value) => value.clone(),
                    None => {
                        let known: Vec<&str> = matrix.keys().map(String::as_str).collect();
                        self.errors.push(match known.is_empty() {
                            true => Diagnostic::error(
                                format!("there is no `{{{name}}}`"),
                                span.clone(),
                                "",
                            )
                            .hint("the output has no `matrix`"),
                            false => unknown(&known),
                        });
                        return None;
                    }
                },
                None => {
                    let message = format!("`{{{name}}}` can stand in outputs only");
                    self.errors
                        .push(Diagnostic::error(message, span.clone(), "").hint(
                            "an axis with the name of an argument sets it: use `{args.…}` in steps",
                        ));
                    return None;
                }
            },
            "git" => match self.git(rest, span) {
                Some(Ok(value)) => value,
                Some(Err(())) => return None,
                None => {
                    self.errors
                        .push(unknown(&["sha", "sha12", "branch", "tag"]));
                    return None;
                }
            },
            _ => {
                let Some(value) = self.platform_part(name) else {
                    self.errors.push(match rest.starts_with("platform") {
                        false if root == "build" => unknown(&["platform"]),
                        _ => unknown(&["os", "arch", "variant"]),
                    });
                    return None;
                };
                value
            }
        };
        Some(Piece::Text(text))
    }

    /// What `platform` or `build.platform`, or a part of one, stands for.
    pub(crate) fn platform_part(&self, name: &str) -> Option<String> {
        let (platform, rest) = match name.strip_prefix("build.") {
            Some(rest) => (&self.request.build_platform, rest),
            None => (&self.request.target_platform, name),
        };
        let part = rest.strip_prefix("platform")?;
        match part.strip_prefix('.') {
            None if part.is_empty() => part_of(platform, ""),
            Some(part) if !part.is_empty() => part_of(platform, part),
            _ => None,
        }
    }

    /// `None` for a name that is none, an error where there is nothing to say.
    fn git(&mut self, name: &str, span: &Span) -> Option<Result<String, ()>> {
        if !["sha", "sha12", "branch", "tag"].contains(&name) {
            return None;
        }
        let Some(git) = &self.request.git else {
            let message = format!("`{{git.{name}}}` has no value");
            let label = "the plan is in no git work tree with a commit";
            self.errors
                .push(Diagnostic::error(message, span.clone(), label));
            return Some(Err(()));
        };
        let missing = match name {
            "sha" => return Some(Ok(git.commit.clone())),
            "sha12" => return Some(Ok(git.commit.chars().take(12).collect())),
            "branch" => match &git.branch {
                Some(branch) => return Some(Ok(branch.clone())),
                None => "no branch is checked out",
            },
            _ => match &git.tag {
                Some(tag) => return Some(Ok(tag.clone())),
                None => "the commit has no tag",
            },
        };
        let message = format!("`{{git.{name}}}` has no value");
        self.errors
            .push(Diagnostic::error(message, span.clone(), missing));
        Some(Err(()))
    }

    /// The value as it is; of a list, its words with blanks between.
    pub(crate) fn plain(&mut self, text: &Text, scope: Scope<'_>) -> Option<String> {
        if is_plain(text) {
            return Some(text.text.clone());
        }
        let pieces = self.pieces(text, scope)?;
        let mut value = String::new();
        for piece in pieces {
            match piece {
                Piece::Own(text) => value.push_str(&text),
                Piece::Text(text) => value.push_str(&text),
                Piece::List(list) => value.push_str(&list.join(" ")),
                Piece::Env(name) => {
                    self.no_env(&name, &text.span);
                    return None;
                }
            }
        }
        Some(value)
    }

    fn no_env(&mut self, name: &str, span: &Span) {
        let message = format!("`{{env.{name}}}` cannot stand here");
        let hint = "it can stand in `env`, `labels`, `workdir`, `user` and paths; a command has the variable itself";
        self.errors
            .push(Diagnostic::error(message, span.clone(), "").hint(hint));
    }

    /// The value as a word of an instruction.
    pub(crate) fn word(&mut self, text: &Text, scope: Scope<'_>) -> Option<String> {
        if is_plain(text) {
            return Some(literal(&text.text));
        }
        let pieces = self.pieces(text, scope)?;
        let mut word = String::new();
        let mut plain = String::new();
        let mut variables = false;
        for piece in pieces {
            match piece {
                Piece::Own(text) => plain.push_str(&text),
                Piece::Text(text) => plain.push_str(&text),
                Piece::List(list) => plain.push_str(&list.join(" ")),
                Piece::Env(name) => {
                    variables = true;
                    if !plain.is_empty() {
                        word.push_str(&literal(&std::mem::take(&mut plain)));
                    }
                    match name.split_once(':') {
                        None => word.push_str(&format!("${{{name}}}")),
                        Some((name, otherwise)) => {
                            let (kind, other) = otherwise.split_at(1);
                            word.push_str(&format!("${{{name}:{kind}{}}}", literal(other)));
                        }
                    }
                }
            }
        }
        if !plain.is_empty() || !variables {
            word.push_str(&literal(&plain));
        }
        Some(word)
    }

    /// The value as arguments of a program: a list that stands alone is several.
    pub(crate) fn arguments(&mut self, text: &Text, scope: Scope<'_>) -> Option<Vec<String>> {
        if is_plain(text) {
            return Some(vec![text.text.clone()]);
        }
        let pieces = self.pieces(text, scope)?;
        let mut alone = pieces
            .iter()
            .filter(|piece| **piece != Piece::Own(Cow::Borrowed("")));
        if let (Some(Piece::List(list)), None) = (alone.next(), alone.next()) {
            return Some(list.clone());
        }
        self.plain(text, scope).map(|value| vec![value])
    }

    /// The value as a line for the shell, with what is put in quoted where it must be.
    pub(crate) fn line(&mut self, text: &Text, scope: Scope<'_>) -> Option<String> {
        if is_plain(text) {
            return Some(text.text.clone());
        }
        let pieces = self.pieces(text, scope)?;
        let mut line = String::with_capacity(text.text.len());
        let mut quotes = Quotes::None;
        for piece in pieces {
            match piece {
                Piece::Own(text) => {
                    quotes = quotes.after(&text);
                    line.push_str(&text);
                }
                Piece::Text(text) => line.push_str(&quotes.quoted(&text)),
                Piece::List(list) => {
                    let list: Vec<String> = list.iter().map(|text| quotes.quoted(text)).collect();
                    line.push_str(&list.join(" "));
                }
                Piece::Env(name) => {
                    self.no_env(&name, &text.span);
                    return None;
                }
            }
        }
        Some(line)
    }
}

/// Whether nothing is put into a value.
fn is_plain(text: &Text) -> bool {
    !text.text.contains('{')
}

/// A platform, or its `os`, `arch` or `variant`.
fn part_of(platform: &Platform, part: &str) -> Option<String> {
    Some(match part {
        "" => platform.to_string(),
        "os" => platform.os.to_string(),
        "arch" => platform.arch.to_string(),
        "variant" => platform.variant.to_string(),
        _ => return None,
    })
}

/// Between which quotes of a shell a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    None,
    Single,
    Double,
}

impl Quotes {
    fn after(mut self, text: &str) -> Self {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            self = match (self, c) {
                (Self::None, '\'') => Self::Single,
                (Self::None, '"') => Self::Double,
                (Self::Single, '\'') | (Self::Double, '"') => Self::None,
                (Self::None | Self::Double, '\\') => {
                    chars.next();
                    self
                }
                _ => self,
            };
        }
        self
    }

    /// A text so that the shell takes it as it is.
    fn quoted(self, text: &str) -> String {
        let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,^".contains(c);
        match self {
            Self::None if !text.is_empty() && text.chars().all(safe) => text.to_owned(),
            Self::None => format!("'{}'", text.replace('\'', r"'\''")),
            Self::Single => text.replace('\'', r"'\''"),
            Self::Double => {
                let mut escaped = String::with_capacity(text.len());
                for c in text.chars() {
                    if matches!(c, '$' | '`' | '"' | '\\') {
                        escaped.push('\\');
                    }
                    escaped.push(c);
                }
                escaped
            }
        }
    }
}

/// The value of an argument.
impl Lowering<'_> {
    /// The value of the argument `name` as a file of the plan knows it.
    fn arg(&mut self, module: ModuleId, name: &str, span: &Span) -> Option<String> {
        match self.arg_value(module, name, span)? {
            Some(value) => Some(value),
            None => {
                let error = Diagnostic::error(
                    format!("the argument `{name}` has no value"),
                    span.clone(),
                    "",
                );
                self.errors
                    .push(error.hint(format!("give it one: `--build-arg {name}=…`")));
                None
            }
        }
    }
}

/// Whether a build argument needs no declaration: those that steer the build, proxies, platforms.
pub(crate) fn is_predefined(name: &str) -> bool {
    const PARTS: [&str; 5] = ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"];
    let part = name
        .strip_prefix("BUILD")
        .or_else(|| name.strip_prefix("TARGET"));
    let proxies = [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "no_proxy",
        "all_proxy",
    ];
    part.is_some_and(|part| PARTS.contains(&part))
        || name == "TARGETSTAGE"
        || name.starts_with("BUILDKIT_")
        || name == "SOURCE_DATE_EPOCH"
        || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
}
