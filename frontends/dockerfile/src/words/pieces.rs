//! Words taken apart instead of expanded.

use super::Scan;
use super::Shell;
use super::WordError;
use crate::env::Env;

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Characters that stand for themselves, without the quotes and escape characters around them.
    Text(String),
    /// `$NAME` or `${NAME}`.
    Variable(String),
    /// Another substitution as written, such as `${NAME:-word}`.
    Substitution(String),
}

/// The parts of a word, next to each other no two texts. A here-document's data has no quotes.
pub(crate) fn pieces(shell: Shell, word: &str) -> Result<Vec<Piece>, WordError> {
    let env = Env::default();
    let mut scan = Scan::new(shell, word, &env);
    let mut list = List::default();
    while let Some(c) = scan.peek() {
        match c {
            '$' => scan.variable(&mut list)?,
            '\'' if !shell.skip_quotes => {
                let rest = &scan.source[scan.at + 1..];
                let end = rest.find('\'').ok_or(WordError::SingleQuote)?;
                scan.at += end + 2;
                list.text.push_str(&rest[..end]);
            }
            '"' if !shell.skip_quotes => scan.double_pieces(&mut list)?,
            c if c == shell.escape => {
                scan.at += 1;
                list.text.extend(scan.next());
            }
            c => {
                scan.at += c.len_utf8();
                list.text.push(c);
            }
        }
    }
    list.end();
    Ok(list.pieces)
}

#[derive(Default)]
struct List {
    pieces: Vec<Piece>,
    /// At the end of it.
    text: String,
}

impl List {
    fn end(&mut self) {
        if !self.text.is_empty() {
            self.pieces
                .push(Piece::Text(std::mem::take(&mut self.text)));
        }
    }
}

impl Scan<'_, '_> {
    /// What a `$` begins.
    fn variable(&mut self, to: &mut List) -> Result<(), WordError> {
        let start = self.at;
        match self.dollar() {
            // A variable that must be set is not, here.
            Ok(_) | Err(WordError::Required { .. }) => {}
            Err(error) => return Err(error),
        }
        let written = &self.source[start..self.at];
        if written == "$" {
            to.text.push('$');
            return Ok(());
        }
        to.end();
        let name = written.trim_start_matches('$');
        let name = name
            .strip_prefix('{')
            .map_or(name, |name| name.trim_end_matches('}'));
        let mut bytes = name.bytes();
        let plain = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        to.pieces.push(match plain {
            true => Piece::Variable(name.to_owned()),
            false => Piece::Substitution(written.to_owned()),
        });
        Ok(())
    }

    /// Between double quotes.
    fn double_pieces(&mut self, to: &mut List) -> Result<(), WordError> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(WordError::DoubleQuote),
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('$') => self.variable(to)?,
                Some(c) => {
                    self.at += c.len_utf8();
                    match self.peek() {
                        Some(next)
                            if c == self.shell.escape
                                && (matches!(next, '"' | '$') || next == c) =>
                        {
                            self.at += next.len_utf8();
                            to.text.push(next);
                        }
                        // A lone escape character stays, but for the last one of all.
                        None if c == self.shell.escape => {}
                        _ => to.text.push(c),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// Words of the form that BuildKit's own expansions are recorded for.
    #[test]
    fn pieces_put_together_are_what_words_expand_to() {
        let mut env = Env::default();
        env.set("A", "1 2");
        env.set("B", "");
        let shell = Shell::new('\\');
        for word in [
            "plain",
            "a$A",
            "'$A'\"$A\"",
            r#""a\"b\$A\c""#,
            r"a\ b\\",
            "${A}x${B:-$A}${C-z}",
            "$",
            "$$x",
            "\"$\"",
            "<< a",
            "${A#1}",
            "$1y",
            "",
        ] {
            let want = shell.expand(word, &env).unwrap().text;
            let got: String = pieces(shell, word)
                .unwrap()
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text,
                    Piece::Variable(name) => env.get(&name).unwrap_or_default().to_owned(),
                    Piece::Substitution(text) => shell.expand(&text, &env).unwrap().text,
                })
                .collect();
            assert_eq!(got, want, "{word}");
        }
        assert_eq!(
            pieces(shell, "a\"$A\"${B:-x}"),
            Ok(vec![
                Piece::Text("a".into()),
                Piece::Variable("A".into()),
                Piece::Substitution("${B:-x}".into()),
            ])
        );
    }
}
