//! `--flags` of an instruction.

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;

use super::Input;
use super::Result1;
use crate::ast::Word;
use crate::lexer::Parts;
use rbuild_llb::suggest::nearest;

struct Flag {
    name: String,
    span: Span,
    /// With the value's place.
    value: Option<Word>,
    taken: bool,
}

/// The flags of one instruction. Each accessor takes the flags of one name out; what is left at the end is unknown.
pub(super) struct Flags<'a> {
    list: Vec<Flag>,
    known: Vec<&'a str>,
}

impl<'a> Flags<'a> {
    pub(super) fn new(input: &Input<'_>, parts: &Parts) -> Self {
        let list = parts.flags.iter().map(|raw| {
            let text = raw.text.strip_prefix("--").unwrap_or(&raw.text);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let written = input.slice(&raw.range);
            let value_at = raw.range.start + written.find('=').map_or(written.len(), |i| i + 1);
            Flag {
                name: name.to_owned(),
                span: input.span(&raw.range),
                value: value.map(|value| input.word(value, &(value_at..raw.range.end))),
                taken: false,
            }
        });
        Self {
            list: list.collect(),
            known: Vec::new(),
        }
    }

    /// All values of a flag that may be repeated.
    pub(super) fn strings(&mut self, name: &'a str) -> Result1<Vec<Word>> {
        if self.list.is_empty() {
            return Ok(Vec::new());
        }
        self.known.push(name);
        let mut values = Vec::new();
        for flag in self.list.iter_mut().filter(|flag| flag.name == name) {
            flag.taken = true;
            match &flag.value {
                Some(value) => values.push(value.clone()),
                None => return error(format!("missing a value on flag `--{name}`"), &flag.span),
            }
        }
        Ok(values)
    }

    /// The value of a flag that may stand once.
    pub(super) fn string(&mut self, name: &'a str) -> Result1<Option<Word>> {
        self.once(name)?;
        Ok(self.strings(name)?.pop())
    }

    /// The value of a flag that is `true` when it has none.
    pub(super) fn bool(&mut self, name: &'a str) -> Result1<Option<bool>> {
        if self.list.is_empty() {
            return Ok(None);
        }
        self.once(name)?;
        self.known.push(name);
        let Some(flag) = self.list.iter_mut().find(|flag| flag.name == name) else {
            return Ok(None);
        };
        flag.taken = true;
        let Some(value) = &flag.value else {
            return Ok(Some(true));
        };
        match value.text.to_lowercase().as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            "" => error(format!("missing a value on flag `--{name}`"), &flag.span),
            other => error(
                format!("flag `--{name}` wants `true` or `false`, not `{other}`"),
                &value.span,
            ),
        }
    }

    fn once(&self, name: &str) -> Result1<()> {
        match self.list.iter().filter(|flag| flag.name == name).nth(1) {
            Some(flag) => error(format!("duplicate flag `--{name}`"), &flag.span),
            None => Ok(()),
        }
    }

    /// Refuses flags nobody asked for.
    pub(super) fn finish(self) -> Result1<()> {
        let Some(flag) = self.list.into_iter().find(|flag| !flag.taken) else {
            return Ok(());
        };
        let mut error = Diagnostic::error(format!("unknown flag `--{}`", flag.name), flag.span, "");
        if let Some(near) = nearest(&flag.name, self.known) {
            error = error.hint(format!("did you mean `--{near}`?"));
        }
        Err(Box::new(error))
    }
}

fn error<T>(message: String, span: &Span) -> Result1<T> {
    Err(Box::new(Diagnostic::error(message, span.clone(), "")))
}
