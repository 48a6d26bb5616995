//! The syntax tree: every instruction with its parts typed and their places known, nothing expanded yet.

use std::sync::Arc;

use rbuild_llb::Span;
use rbuild_llb::config::Healthcheck;

use crate::lexer::EmptyContinuation;
use crate::lexer::Heredoc;

/// A word and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// The word, with quotes and variables as written.
    pub(crate) text: String,
    /// Its place.
    pub(crate) span: Span,
}

/// A Dockerfile.
#[derive(Debug)]
pub(crate) struct Ast {
    /// The escape character.
    pub(crate) escape: char,
    /// ARG instructions before the first FROM.
    pub(crate) meta: Vec<(Head, Vec<Arg>)>,
    /// The stages.
    pub(crate) stages: Vec<Stage>,
    /// Empty lines inside continued instructions.
    pub(crate) empty_continuations: Vec<EmptyContinuation>,
}

/// What all instructions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The keyword as written.
    pub(crate) keyword: Word,
    /// The whole instruction, here-documents included.
    pub(crate) span: Span,
    /// The logical line.
    pub(crate) text: String,
    /// The comment lines right above.
    pub(crate) comments: Vec<String>,
}

/// FROM and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// Of the FROM.
    pub(crate) head: Head,
    /// Image or stage to start from.
    pub(crate) base: Word,
    /// `AS` as written.
    pub(crate) as_keyword: Option<Word>,
    /// The stage's name as written.
    pub(crate) name: Option<Word>,
    /// `--platform`.
    pub(crate) platform: Option<Word>,
    /// Its instructions.
    pub(crate) commands: Vec<Arc<Instruction>>,
}

/// An instruction of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    /// Keyword, place, text.
    pub(crate) head: Head,
    /// Which one.
    pub(crate) kind: Kind,
}

/// The instructions but FROM.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Add(Transfer),
    Arg(Vec<Arg>),
    Cmd(CommandLine),
    Copy(Transfer),
    Entrypoint(CommandLine),
    Env(Vec<Pair>),
    Expose(Vec<Word>),
    Healthcheck(Healthcheck),
    Label(Vec<Pair>),
    Maintainer(Word),
    /// The trigger as text, here-documents included.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

/// One `NAME[=default]` of an ARG.
#[derive(Debug, Clone)]
pub(crate) struct Arg {
    pub(crate) name: Word,
    pub(crate) default: Option<Word>,
}

/// One `KEY=value` of an ENV or LABEL.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) key: Word,
    pub(crate) value: Word,
    /// `KEY value`.
    pub(crate) legacy: bool,
}

/// The arguments of CMD, ENTRYPOINT and RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandLine {
    /// A JSON array.
    Exec(Vec<String>),
    /// A line for the shell; may be empty.
    Shell(String),
}

/// RUN.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) command: CommandLine,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) network: Option<Word>,
    pub(crate) security: Option<Word>,
    pub(crate) devices: Vec<Word>,
}

/// `--mount`, taken apart at its commas.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) span: Span,
    pub(crate) fields: Vec<MountField>,
}

/// `key[=value]`.
#[derive(Debug, Clone)]
pub(crate) struct MountField {
    /// Lower case.
    pub(crate) key: String,
    /// The value, with the place of the value; without one, the place of the field.
    pub(crate) value: Option<String>,
    pub(crate) span: Span,
}

impl Mount {
    /// The value of `from`.
    pub(crate) fn from(&self) -> Option<Word> {
        let field = self.fields.iter().rfind(|f| f.key == "from")?;
        let text = field.value.clone().filter(|from| !from.is_empty())?;
        Some(Word {
            text,
            span: field.span.clone(),
        })
    }
}

/// COPY and ADD.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) from: Option<Word>,
    pub(crate) chown: Option<Word>,
    pub(crate) chmod: Option<Word>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) exclude: Vec<Word>,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) checksum: Option<Word>,
    pub(crate) unpack: Option<bool>,
    pub(crate) paths: Vec<Word>,
    pub(crate) documents: Vec<Heredoc>,
    pub(crate) dest: Word,
}
