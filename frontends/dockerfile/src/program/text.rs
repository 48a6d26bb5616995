//! A program as a Dockerfile.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;

use super::Program;
use super::print;
use crate::ast::CommandLine;
use crate::ast::Kind;
use crate::ast::Run;
use crate::ast::Transfer;
use crate::ast::Word;
use crate::lexer::Heredoc;
use crate::parse::parse_trigger;
use crate::reference::familiar;
use crate::source::Site;
use crate::stages::Base;
use crate::stages::Command;
use crate::stages::Node;

/// What a Dockerfile runs shell lines with where no SHELL says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Text {
    pub text: String,
    /// What it does not say.
    pub unsaid: Vec<Unsaid>,
}

/// Something that a Dockerfile cannot say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsaid {
    /// Where it is written.
    pub at: Span,
    pub what: String,
    /// What the Dockerfile says instead.
    pub instead: String,
}

/// How others name a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reference {
    /// The main build context.
    Context,
    /// A stage, an image or a named context.
    Name(String),
}

impl Program {
    /// Writes the stages that the targets need as a Dockerfile; the last target is the last stage.
    ///
    /// `build` is the platform that `$BUILDPLATFORM` stands for, `exclude` what the ignore file leaves out of the
    /// context, by its patterns.
    pub fn to_dockerfile(self, build: Option<&Platform>, exclude: &[String]) -> Text {
        let program = self.in_order();
        let mut writer = Writer {
            program: &program,
            build,
            exclude,
            context: None,
            taken: BTreeSet::from(["scratch".to_owned(), "context".to_owned()]),
            references: BTreeMap::new(),
            shells: BTreeMap::new(),
            out: Text::default(),
        };
        writer.name();
        for at in 0..program.nodes.len() {
            writer.node(at);
        }
        writer.out
    }
}

struct Writer<'p> {
    program: &'p Program,
    build: Option<&'p Platform>,
    exclude: &'p [String],
    /// What the main context is.
    context: Option<LocalSource>,
    /// Names that something has.
    taken: BTreeSet<String>,
    references: BTreeMap<usize, Reference>,
    /// The shells of stages that have one.
    shells: BTreeMap<usize, Vec<String>>,
    out: Text,
}

impl Writer<'_> {
    fn lose(&mut self, at: &Span, what: impl Into<String>, instead: impl Into<String>) {
        let unsaid = Unsaid {
            at: at.clone(),
            what: what.into(),
            instead: instead.into(),
        };
        if !self.out.unsaid.contains(&unsaid) {
            self.out.unsaid.push(unsaid);
        }
    }

    /// Chooses the names of stages: targets have theirs, whatever else is called so.
    fn name(&mut self) {
        let targets = self.program.targets.iter().rev().copied();
        let others = 0..self.program.nodes.len();
        for at in targets.chain(others) {
            let node = &self.program.nodes[at];
            if node.head.is_none() || self.references.contains_key(&at) {
                continue;
            }
            let name = self.unique(&node.name);
            self.references.insert(at, Reference::Name(name));
        }
        // An output that adds nothing but image config to its step is that step.
        for at in (0..self.program.nodes.len()).rev() {
            let Some(base) = self.same(at) else {
                continue;
            };
            let Some(own) = self.references.get(&at).cloned() else {
                continue;
            };
            self.references.insert(base, own);
        }
    }

    /// The stage right before this one, if both can be written as one.
    fn same(&self, at: usize) -> Option<usize> {
        let node = &self.program.nodes[at];
        let Base::Stage(base) = node.base else {
            return None;
        };
        let below = &self.program.nodes[base];
        let kinds = |node: &Node, is: fn(&Kind) -> bool| {
            let mut commands = node.commands.iter();
            commands.any(|command| is(&command.instruction.kind))
        };
        let apart = base + 1 != at
            || below.head.is_none()
            || self.program.targets.contains(&base)
            // They fire where a stage begins.
            || kinds(below, |kind| matches!(kind, Kind::Onbuild(_)));
        if apart {
            return None;
        }
        if node.commands.is_empty() {
            return Some(base);
        }
        let others = self.program.nodes.iter().enumerate();
        let used = others
            .filter(|(other, _)| *other != at)
            .any(|(_, other)| super::needs(other).any(|need| need == base));
        let does = kinds(node, |kind| {
            matches!(
                kind,
                Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Arg(_) | Kind::Workdir(_)
            )
        });
        // A new stage forgets whose CMD it is, and that an ARG stands in front of an ENV.
        let forgets = (kinds(node, |kind| matches!(kind, Kind::Entrypoint(_)))
            && kinds(below, |kind| matches!(kind, Kind::Cmd(_))))
            || kinds(below, |kind| matches!(kind, Kind::Arg(_)))
                && node
                    .commands
                    .iter()
                    .any(|command| print::line(&command.instruction.kind).contains('$'));
        (!used && !does && !forgets).then_some(base)
    }

    fn unique(&mut self, name: &str) -> String {
        let plain = |c: char| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
            _ => '-',
        };
        let mut name: String = name.chars().map(plain).collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            name.insert_str(0, "stage-");
        }
        let mut found = name.clone();
        let mut number = 1;
        while !self.taken.insert(found.clone()) {
            found = match number {
                1 => format!("{name}-step"),
                number => format!("{name}-step-{number}"),
            };
            number += 1;
        }
        found
    }

    fn node(&mut self, at: usize) {
        let node = &self.program.nodes[at];
        if node.head.is_none() {
            self.source(at, node);
            return;
        }
        if let Base::Stage(base) = node.base
            && let Some(shell) = self.shells.get(&base)
        {
            let shell = shell.clone();
            self.shells.insert(at, shell);
        }
        if self.same(at).is_some() {
            for command in &node.commands {
                self.command(at, command);
            }
            return;
        }
        let base = match &node.base {
            Base::Scratch => "scratch".to_owned(),
            Base::Stage(base) => self.named(*base, &node.at),
            Base::Image { source, .. } => self.image(source, &node.at),
            Base::Files { .. } | Base::Dockerfile(_) | Base::Outer(_) => return,
        };
        let platform = self.platform(node);
        let name = self.named(at, &node.at);
        self.begin(&format!("FROM {platform}{base} AS {name}\n"));
        for command in &node.commands {
            self.command(at, command);
        }
    }

    /// Appends the first line of a stage.
    fn begin(&mut self, line: &str) {
        if !self.out.text.is_empty() {
            self.out.text.push('\n');
        }
        self.out.text.push_str(line);
    }

    fn platform(&self, node: &Node) -> String {
        match &node.platform {
            None => String::new(),
            Some(platform) if self.build == Some(platform) => {
                "--platform=$BUILDPLATFORM ".to_owned()
            }
            Some(platform) => format!("--platform={platform} "),
        }
    }

    /// The name of a node where one must be: the main context has none.
    fn named(&mut self, at: usize, asked: &Span) -> String {
        match self.references.get(&at) {
            Some(Reference::Name(name)) => name.clone(),
            Some(Reference::Context) => {
                let what = "files of the machine to start from";
                let instead = "it is the named context `local`: `--build-context local=.`";
                self.lose(asked, what, instead);
                "local".to_owned()
            }
            None => "scratch".to_owned(),
        }
    }

    fn image(&mut self, source: &SourceOp, at: &Span) -> String {
        match source {
            SourceOp::Image(image) => {
                let short = familiar(&image.reference);
                let clear = !self.taken.contains(&*short) && short.parse::<usize>().is_err();
                match clear {
                    true => short.to_string(),
                    false => image.reference.clone(),
                }
            }
            SourceOp::OciLayout(layout) => {
                let name = self.unique(layout.path.rsplit('/').next().unwrap_or_default());
                let place = match &layout.reference {
                    Some(reference) => format!("{}:{reference}", layout.path),
                    None => layout.path.clone(),
                };
                let what = "an image in a directory";
                let instead =
                    format!("give it to the build: `--build-context {name}=oci-layout://{place}`");
                self.lose(at, what, instead);
                name
            }
            SourceOp::Local(_) | SourceOp::Git(_) | SourceOp::Http(_) => "scratch".to_owned(),
        }
    }

    /// Something that files are taken from.
    fn source(&mut self, at: usize, node: &Node) {
        let reference = match &node.base {
            Base::Image { source, .. } => {
                let image = self.image(source, &node.at);
                match &node.platform {
                    None => image,
                    Some(_) => {
                        let platform = self.platform(node);
                        let name = self.unique(&node.name);
                        self.begin(&format!("FROM {platform}{image} AS {name}\n"));
                        name
                    }
                }
            }
            Base::Files { source, .. } => match source {
                SourceOp::Local(local) => {
                    let reference = self.local(local, node);
                    self.references.insert(at, reference);
                    return;
                }
                SourceOp::Git(_) | SourceOp::Http(_) => self.remote(source, node),
                SourceOp::Image(_) | SourceOp::OciLayout(_) => return,
            },
            Base::Dockerfile(_) => {
                let name = self.unique(&node.name);
                let what = "a stage of another Dockerfile";
                let instead = format!(
                    "build that first, and give it to the build: `--build-context {name}=docker-image://…`"
                );
                self.lose(&node.at, what, instead);
                name
            }
            Base::Scratch | Base::Stage(_) | Base::Outer(_) => return,
        };
        self.references.insert(at, Reference::Name(reference));
    }

    /// Files of the machine: the main context, or a named one.
    fn local(&mut self, local: &LocalSource, node: &Node) -> Reference {
        if local.modes == FileModes::Git {
            let what = "modes of files as git has them";
            self.lose(&node.at, what, "they are what they are on the machine");
        }
        if !local.include.is_empty() {
            let what = "`include` of files of the machine";
            self.lose(
                &node.at,
                what,
                "all of the directory is there, as far as nothing leaves it out",
            );
        }
        let is_context = match &self.context {
            Some(context) => context == local,
            None => local.name == ".",
        };
        if !is_context {
            let name = self.unique(&node.name);
            let dir = &local.name;
            let instead = format!("give it to the build: `--build-context {name}={dir}`");
            self.lose(&node.at, format!("files of `{dir}`"), instead);
            return Reference::Name(name);
        }
        if self.context.is_none() && local.exclude != self.exclude {
            let lines = local.exclude.join("`, `");
            let instead = match local.exclude.is_empty() {
                true => "the `.dockerignore` that is there must go".to_owned(),
                false => format!("write them to `.dockerignore`: `{lines}`"),
            };
            self.lose(&node.at, "what the context leaves out", instead);
        }
        self.context = Some(local.clone());
        Reference::Context
    }

    /// Files of a server or repository, as a stage that holds them.
    fn remote(&mut self, source: &SourceOp, node: &Node) -> String {
        let name = self.unique(&node.name);
        let (url, checksum) = match source {
            SourceOp::Git(git) => {
                let reference = git.reference.as_str();
                let fragment = match (reference, git.subdir.as_str()) {
                    ("", "") => String::new(),
                    (reference, "") => format!("#{reference}"),
                    (reference, subdir) => format!("#{reference}:{subdir}"),
                };
                let commit = git.commit.clone().or(git.checksum.clone());
                (format!("{}{fragment}", git.remote), commit)
            }
            SourceOp::Http(http) => {
                let checksum = http.checksum.map(|digest| digest.to_string());
                (http.url.clone(), checksum)
            }
            SourceOp::Image(_) | SourceOp::OciLayout(_) | SourceOp::Local(_) => return name,
        };
        let checksum = checksum.map_or_else(String::new, |sum| format!("--checksum={sum} "));
        self.begin(&format!("FROM scratch AS {name}\nADD {checksum}{url} /\n"));
        let what = format!("files of `{url}` without a step that adds them");
        self.lose(
            &node.at,
            what,
            "a stage adds them, which is a step of its own",
        );
        name
    }

    fn command(&mut self, at: usize, command: &Command) {
        let span = &command.instruction.head.span;
        let mut kind = command.instruction.kind.clone();
        match &mut kind {
            Kind::Copy(copy) => self.transfer(copy, command),
            Kind::Add(add) => {
                self.transfer(add, command);
                if let Some(from) = add.from.take() {
                    let what = "archives of a step that are unpacked";
                    self.lose(span, what, "they are copied as they are");
                    add.from = Some(from);
                    add.unpack = None;
                    kind = Kind::Copy(add.clone());
                }
            }
            Kind::Run(run) => {
                for (mount, source) in run.mounts.iter_mut().zip(&command.sources) {
                    let Some(source) = source else {
                        continue;
                    };
                    match self.references.get(source) {
                        Some(Reference::Name(name)) => {
                            for field in &mut mount.fields {
                                if field.key == "from" {
                                    field.value = Some(name.clone());
                                }
                            }
                        }
                        _ => mount.fields.retain(|field| field.key != "from"),
                    }
                }
                self.shorten(at, run);
            }
            Kind::Shell(shell) => {
                self.shells.insert(at, shell.clone());
            }
            Kind::Onbuild(trigger) if trigger.contains("from=") => {
                let what = format!("`ONBUILD {trigger}` where that is no stage");
                self.lose(span, what, "a stage of that name is meant, if there is one");
            }
            _ => {}
        }
        let text = instruction(&kind);
        if !is_kept(&kind, &text) {
            let keyword = text.split(' ').next().unwrap_or_default();
            let what = format!("this {keyword}, with line breaks or quotes as it has them");
            self.lose(span, what, "it is written as nearly as can be");
        }
        let wrapped = wrapped(&kind, &text);
        self.out
            .text
            .push_str(match reads_as(&kind, &text, &wrapped) {
                true => &wrapped,
                false => &text,
            });
    }

    /// Gives a copy the names that sources have here.
    fn transfer(&mut self, transfer: &mut Transfer, command: &Command) {
        if let Some(Some(source)) = command.sources.first() {
            let span = &command.instruction.head.span;
            transfer.from = match self.references.get(source) {
                Some(Reference::Name(name)) => Some(Word {
                    text: name.clone(),
                    span: span.clone(),
                }),
                _ => None,
            };
        }
    }

    /// Writes what the shell of the stage runs as a line, or as a here-document.
    fn shorten(&self, at: usize, run: &mut Run) {
        let CommandLine::Exec(args) = &run.command else {
            return;
        };
        let Some((line, shell)) = args.split_last() else {
            return;
        };
        let ours = match self.shells.get(&at) {
            Some(own) => own.as_slice() == shell,
            None => shell == SHELL,
        };
        if !ours {
            return;
        }
        let mut short = run.clone();
        if line.contains('\n') {
            let ends = line.lines().any(|line| line == "EOF");
            if ends || !line.ends_with('\n') || line.starts_with("#!") {
                return;
            }
            short.command = CommandLine::Shell("<<EOF".to_owned());
            short.heredocs.push(Heredoc {
                name: "EOF".to_owned(),
                expand: true,
                chomp: false,
                content: line.to_string(),
            });
        } else {
            short.command = CommandLine::Shell(line.to_string());
        }
        let kind = Kind::Run(short.clone());
        if is_kept(&kind, &instruction(&kind)) {
            *run = short;
        }
    }
}

/// An instruction with its here-documents.
fn instruction(kind: &Kind) -> String {
    format!("{}\n{}", print::line(kind), print::documents(kind))
}

/// A RUN with its flags, and what was once on lines of its own, on lines of their own again.
fn wrapped(kind: &Kind, text: &str) -> String {
    let Kind::Run(run) = kind else {
        return text.to_owned();
    };
    let line = print::command(&run.command);
    let (flags, command) = text.split_at(text.find(&line).unwrap_or(text.len()));
    let flags = match run.mounts.len() {
        0 | 1 => flags.to_owned(),
        _ => flags
            .replacen(" --", "\u{0}", 1)
            .replace(" --", " \\\n    --")
            .replace('\u{0}', " --"),
    };
    if !run.heredocs.is_empty() {
        return flags + command;
    }
    let mut out = match run.mounts.len() {
        0 => flags,
        1 if line.len() < 60 => flags,
        _ => format!("{flags}\\\n    "),
    };
    if matches!(run.command, CommandLine::Exec(_)) {
        return out + command;
    }
    let mut blanks = 0;
    for c in command.chars() {
        blanks = if c == ' ' { blanks + 1 } else { 0 };
        // The blanks of a line that continues another are part of the command.
        if blanks == 2 {
            out.push_str("\\\n");
        }
        out.push(c);
    }
    out
}

/// Whether an instruction is read as it was meant.
fn is_kept(kind: &Kind, text: &str) -> bool {
    reads_as(kind, text, text)
}

/// Whether what is `written` is read as what `text` says.
fn reads_as(kind: &Kind, text: &str, written: &str) -> bool {
    let file = Arc::new(SourceFile {
        name: String::new(),
        text: String::new(),
        language: "Dockerfile",
    });
    let read = parse_trigger(&Site::trigger(written, &Span::new(&file, 0..0)));
    let documents = |kind: &Kind| match kind {
        // The shell expands those, whether the name has quotes or not.
        Kind::Run(Run { heredocs, .. }) => heredocs
            .iter()
            .map(|heredoc| Heredoc {
                expand: true,
                ..heredoc.clone()
            })
            .collect(),
        Kind::Add(transfer) | Kind::Copy(transfer) => transfer.documents.clone(),
        _ => Vec::new(),
    };
    let is_line = |kind: &Kind| match kind {
        Kind::Run(run) => matches!(run.command, CommandLine::Shell(_)),
        _ => false,
    };
    read.is_ok_and(|read| {
        instruction(&read.kind) == text
            && documents(&read.kind) == documents(kind)
            && is_line(&read.kind) == is_line(kind)
    })
}
