//! Words of a Dockerfile as values of a plan.

use std::collections::BTreeMap;

use rbuild_dockerfile::file;
use rbuild_dockerfile::file::Piece;

use crate::values::names;

/// What a variable is, as far as the file tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Variable {
    /// A value of a plan that stands for it wherever there is no environment; without one it has none.
    pub(super) template: Option<String>,
    /// The value it has now; `None` if it is not known.
    pub(super) value: Option<String>,
    /// Whether nothing can give it another value.
    pub(super) fixed: bool,
}

/// The variables at some place.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables {
    pub(super) known: BTreeMap<String, Variable>,
    /// Whether there may be more of them: those of a base image.
    pub(super) open: bool,
}

/// A value of a plan, and what it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: String,
    /// What is written as the value it has now, with that value.
    pub(super) frozen: Vec<(String, String)>,
}

impl Variable {
    /// One with a value that the file itself gives.
    pub(super) fn fixed(value: &str) -> Self {
        Self {
            template: Some(escape(value)),
            value: Some(value.to_owned()),
            fixed: true,
        }
    }
}

impl Variables {
    /// The values that are known, for a word that names variables.
    fn values(&self, word: &str) -> BTreeMap<String, String> {
        if !word.contains('$') {
            return BTreeMap::new();
        }
        let known = self.known.iter();
        known
            .filter_map(|(name, variable)| Some((name.clone(), variable.value.clone()?)))
            .collect()
    }

    fn is_fixed(&self, name: &str) -> bool {
        match self.known.get(name) {
            Some(variable) => variable.fixed,
            None => !self.open,
        }
    }

    /// The value that a part of a word has now, and whether it always has.
    fn now(&self, written: &str, escape: char) -> Result<(String, bool), String> {
        let expanded = file::expand(written, escape, &self.values(written))?;
        let fixed = expanded.names.iter().all(|name| self.is_fixed(name));
        Ok((expanded.text, fixed))
    }

    /// A word where `{env.NAME}` can stand.
    pub(super) fn word(&self, word: &str, escape: char) -> Result<Said, String> {
        let pieces = file::pieces(word, escape)?;
        self.say(&pieces, escape, |piece| match piece {
            Piece::Text(_) => None,
            Piece::Variable(name) => Some(format!("{{env.{name}}}")),
            Piece::Substitution(written) => conditional(written, escape),
        })
    }

    /// A word where it cannot.
    pub(super) fn plain(&self, word: &str, escape: char) -> Result<Said, String> {
        let pieces = file::pieces(word, escape)?;
        self.templates(&pieces, escape)
    }

    /// The data of a here-document.
    pub(super) fn document(&self, data: &str) -> Result<Said, String> {
        self.templates(&file::document_pieces(data)?, '\\')
    }

    /// The value that a word has now, for where nothing can stand for a variable.
    pub(super) fn current(&self, word: &str, escape: char) -> Result<Said, String> {
        let (text, fixed) = self.now(word, escape)?;
        let frozen = match fixed {
            true => Vec::new(),
            false => vec![(word.to_owned(), text.clone())],
        };
        Ok(Said { text, frozen })
    }

    fn templates(&self, pieces: &[Piece], escape: char) -> Result<Said, String> {
        self.say(pieces, escape, |piece| match piece {
            Piece::Variable(name) => self.known.get(name)?.template.clone(),
            Piece::Text(_) | Piece::Substitution(_) => None,
        })
    }

    /// What stands for a word in a place without an environment, if something does.
    pub(super) fn template(&self, word: &str, escape: char) -> Option<String> {
        let said = self.plain(word, escape).ok()?;
        said.frozen.is_empty().then_some(said.text)
    }

    /// The variable that is set to a word.
    pub(super) fn variable(&self, word: &str, escape: char) -> Variable {
        let now = self.now(word, escape).ok();
        let known = match file::expand(word, escape, &self.values(word)) {
            Ok(expanded) => expanded.names.iter().all(|name| {
                let known = self.known.get(name);
                known.is_some_and(|known| known.value.is_some()) || !self.open
            }),
            Err(_) => false,
        };
        Variable {
            template: self.template(word, escape),
            fixed: now.as_ref().is_some_and(|(_, fixed)| *fixed),
            value: now.map(|(text, _)| text).filter(|_| known),
        }
    }

    fn say(
        &self,
        pieces: &[Piece],
        escape: char,
        stand_in: impl Fn(&Piece) -> Option<String>,
    ) -> Result<Said, String> {
        let whole = self.compose(pieces, escape, &stand_in)?;
        // Text next to a variable can change what its braces mean.
        let stand_ins = pieces.iter().filter_map(&stand_in);
        let want: Vec<String> = stand_ins
            .flat_map(|text| names(&text).map(str::to_owned).collect::<Vec<_>>())
            .collect();
        if names(&whole.text).eq(want.iter().map(String::as_str)) {
            return Ok(whole);
        }
        self.compose(pieces, escape, &|_| None)
    }

    fn compose(
        &self,
        pieces: &[Piece],
        escape: char,
        stand_in: &dyn Fn(&Piece) -> Option<String>,
    ) -> Result<Said, String> {
        let mut said = Said::default();
        // Texts that follow each other are escaped together.
        let mut own = String::new();
        for piece in pieces {
            if let Some(text) = stand_in(piece) {
                said.text.push_str(&self::escape(&std::mem::take(&mut own)));
                said.text.push_str(&text);
                continue;
            }
            let written = match piece {
                Piece::Text(text) => {
                    own.push_str(text);
                    continue;
                }
                Piece::Variable(name) => format!("${{{name}}}"),
                Piece::Substitution(written) => written.clone(),
            };
            let (value, fixed) = self.now(&written, escape)?;
            own.push_str(&value);
            if !fixed {
                said.frozen.push((written, value));
            }
        }
        said.text.push_str(&self::escape(&own));
        Ok(said)
    }
}

/// `${NAME:-word}` and `${NAME:+word}` as a plan has them, where the word is one that a plan can have there.
fn conditional(written: &str, escape: char) -> Option<String> {
    let inner = written.strip_prefix("${")?.strip_suffix('}')?;
    let (name, otherwise) = inner.split_once(':')?;
    let kind = otherwise
        .get(..1)
        .filter(|kind| ["-", "+"].contains(kind))?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let word = match file::pieces(&otherwise[1..], escape).ok()?.as_slice() {
        [] => String::new(),
        [Piece::Text(text)] => text.clone(),
        _ => return None,
    };
    let special = ['{', '}', '$', '\'', '"', '\\', '\n'];
    (name.bytes().all(plain) && !word.contains(special))
        .then(|| format!("{{env.{name}:{kind}{word}}}"))
}

/// A text whose braces stand for themselves.
pub(super) fn escape(text: &str) -> String {
    if !text.contains('{') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (from, to) in crate::values::meant(text) {
        out.push_str(&text[done..from]);
        out.push('{');
        out.push_str(&text[from..to]);
        out.push('}');
        done = to;
    }
    out.push_str(&text[done..]);
    out
}
