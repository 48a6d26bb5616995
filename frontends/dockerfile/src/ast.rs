//! The syntax tree: every instruction with its parts typed and their places known, nothing expanded yet.

use std::borrow::Cow;
use std::sync::Arc;

use rbuild_llb::Span;
use rbuild_llb::config::Healthcheck;

use crate::lexer::EmptyContinuation;
use crate::lexer::Heredoc;

/// A word and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word, with quotes and variables as written.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// A Dockerfile.
#[derive(Debug)]
pub struct Ast {
    /// The escape character.
    pub escape: char,
    /// ARG instructions before the first FROM.
    pub meta: Vec<(Head, Vec<Arg>)>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Empty lines inside continued instructions.
    pub(crate) empty_continuations: Vec<EmptyContinuation>,
}

/// What all instructions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The keyword as written.
    pub keyword: Keyword,
    /// The whole instruction, here-documents included.
    pub span: Span,
    /// The logical line.
    pub text: String,
    /// The comment lines right above.
    pub comments: Vec<String>,
}

/// A keyword and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyword {
    /// As written, which is mostly as here.
    pub text: Cow<'static, str>,
    /// Its place.
    pub span: Span,
}

/// FROM and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Of the FROM.
    pub head: Head,
    /// Image or stage to start from.
    pub base: Word,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
    /// The stage's name as written.
    pub name: Option<Word>,
    /// `--platform`.
    pub platform: Option<Word>,
    /// Its instructions.
    pub commands: Vec<Arc<Instruction>>,
}

/// An instruction of a stage.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// Keyword, place, text.
    pub head: Head,
    /// Which one.
    pub kind: Kind,
}

/// The instructions but FROM.
#[derive(Debug, Clone)]
pub enum Kind {
    Add(Box<Transfer>),
    Arg(Vec<Arg>),
    Cmd(CommandLine),
    Copy(Box<Transfer>),
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

impl Kind {
    /// The keyword.
    pub(crate) fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// One `NAME[=default]` of an ARG.
#[derive(Debug, Clone)]
pub struct Arg {
    pub name: Word,
    pub default: Option<Word>,
}

/// One `KEY=value` of an ENV or LABEL.
#[derive(Debug, Clone)]
pub struct Pair {
    pub key: Word,
    pub value: Word,
    /// `KEY value`.
    pub legacy: bool,
}

/// The arguments of CMD, ENTRYPOINT and RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A JSON array.
    Exec(Vec<Cow<'static, str>>),
    /// A line for the shell; may be empty.
    Shell(String),
}

/// RUN.
#[derive(Debug, Clone)]
pub struct Run {
    pub command: CommandLine,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<Mount>,
    pub network: Option<Word>,
    pub security: Option<Word>,
    pub devices: Vec<Word>,
}

/// `--mount`, taken apart at its commas.
#[derive(Debug, Clone)]
pub struct Mount {
    pub span: Span,
    pub fields: Vec<MountField>,
}

/// `key[=value]`.
#[derive(Debug, Clone)]
pub struct MountField {
    /// Lower case.
    pub key: Cow<'static, str>,
    /// The value, with the place of the value; without one, the place of the field.
    pub value: Option<String>,
    pub span: Span,
}

impl Mount {
    /// The value of `from`.
    pub fn from(&self) -> Option<Word> {
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
pub struct Transfer {
    pub from: Option<Word>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<Word>,
    pub keep_git_dir: Option<bool>,
    pub checksum: Option<Word>,
    pub unpack: Option<bool>,
    pub paths: Vec<Word>,
    pub documents: Vec<Heredoc>,
    pub dest: Word,
}
