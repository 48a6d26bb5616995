//! The syntax tree of a Dockerfile, for languages that say the same in their own way.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;

pub use crate::ast::Ast;
pub use crate::ast::Head;
pub use crate::ast::Instruction;
pub use crate::ast::Stage;
pub use crate::parse::format_duration;
pub use crate::words::Piece;

use crate::env::Env;
use crate::source::Site;
use crate::words::Shell;

/// Parses a Dockerfile.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(source: &Arc<SourceFile>) -> Result<Ast, Vec<Diagnostic>> {
    crate::parse::parse(&Site::file(source))
}

/// The parts of a word.
///
/// # Errors
/// What is wrong with its quotes or substitutions.
pub fn pieces(word: &str, escape: char) -> Result<Vec<Piece>, String> {
    crate::words::pieces(Shell::new(escape), word).map_err(|error| error.to_string())
}

/// The parts of a here-document's data, in which quotes are ordinary characters.
///
/// # Errors
/// What is wrong with its substitutions.
pub fn document_pieces(data: &str) -> Result<Vec<Piece>, String> {
    let shell = Shell {
        skip_quotes: true,
        ..Shell::new('\\')
    };
    crate::words::pieces(shell, data).map_err(|error| error.to_string())
}

/// What a word expands to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The whole.
    pub text: String,
    /// The variables it asked for, those that are not set too.
    pub names: BTreeSet<String>,
}

/// Expands a word with these variables.
///
/// # Errors
/// What is wrong with its quotes or substitutions.
pub fn expand(
    word: &str,
    escape: char,
    variables: &BTreeMap<String, String>,
) -> Result<Expanded, String> {
    let mut env = Env::default();
    for (name, value) in variables {
        env.set(name, value.as_str());
    }
    match Shell::new(escape).expand(word, &env) {
        Ok(expansion) => Ok(Expanded {
            text: expansion.text,
            names: expansion
                .used
                .into_iter()
                .chain(expansion.missing)
                .collect(),
        }),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a source of ADD is a git repository.
pub fn is_git(path: &str) -> bool {
    crate::git::parse(path).is_some()
}

/// Whether a RUN's line is nothing but the start of a here-document, which then is the script.
pub fn is_heredoc(line: &str) -> bool {
    crate::lexer::heredoc_operator(line).is_some()
}
