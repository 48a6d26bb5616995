//! Which stages there are, what each starts from and takes files from, and which of them a target needs.

use std::sync::Arc;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::ImageConfig;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::NamedContext;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;

use crate::args::Declared;
use crate::args::Globals;
use crate::args::global_args;
use crate::ast::Ast;
use crate::ast::Head;
use crate::ast::Instruction;
use crate::ast::Kind;
use crate::ast::Word;
use crate::env::Env;
use crate::lint::Linter;
use crate::parse::parse_trigger;
use crate::reference::familiar;
use crate::reference::normalise_reference;
use crate::source::Site;
use crate::words::Shell;
use rbuild_llb::suggest::nearest;
use rbuild_llb::suggest::nearest_name;

mod from;

/// What a node starts from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, from a registry or an image layout.
    Image {
        /// Not pinned yet.
        source: SourceOp,
        /// The named context that said so.
        context: Option<String>,
    },
    /// The files of a named context.
    Files {
        /// Not pinned yet.
        source: SourceOp,
        /// Its name.
        context: String,
    },
    /// A stage of a Dockerfile that is an input of this program.
    Dockerfile(Box<Nested>),
    /// A stage of the program that this Dockerfile is an input of, by the name of the named context.
    Outer(String),
}

/// A target of a Dockerfile, as part of a program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Nested {
    /// The Dockerfile with its arguments and context.
    pub(crate) request: FrontendRequest,
    /// What its named contexts of the kind [`NamedContext::Step`] are.
    pub(crate) contexts: BTreeMap<String, usize>,
}

/// Which stages count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The target and what it needs.
    Target,
    /// All of the file.
    Everything,
}

/// A stage, or something that files are taken from without being one.
#[derive(Debug)]
pub(crate) struct Node {
    /// The stage's name, lower case, or `stage-N`; what was written for what is no stage.
    pub(crate) name: String,
    /// Whether it has a name in the file.
    pub(crate) named: bool,
    /// Of the FROM; `None` for what is no stage.
    pub(crate) head: Option<Head>,
    /// Where its base is named.
    pub(crate) at: Span,
    /// The base as written, variables expanded.
    pub(crate) base_name: String,
    /// Its base.
    pub(crate) base: Base,
    /// `--platform`.
    pub(crate) platform: Option<Platform>,
    /// The variables that its FROM takes.
    pub(crate) uses: BTreeSet<String>,
    /// Its instructions, triggers of the base first.
    pub(crate) commands: Vec<Command>,
    /// Whether a named context stands in for the stage, which then has no instructions.
    pub(crate) replaced: bool,
    /// Whether the triggers of the base have been added.
    pub(crate) triggered: bool,
}

/// An instruction and the nodes it takes files from.
#[derive(Debug)]
pub(crate) struct Command {
    /// The instruction.
    pub(crate) instruction: Arc<Instruction>,
    /// Whether it is a trigger of the base.
    pub(crate) onbuild: bool,
    /// COPY: its `--from`, if any. RUN: one for each mount; `None` is the build context, or nothing at all.
    pub(crate) sources: Vec<Option<usize>>,
}

/// All nodes; stages come first and have their numbers.
#[derive(Debug)]
pub(crate) struct Graph {
    /// The nodes.
    pub(crate) nodes: Vec<Node>,
    /// How many of them are stages.
    pub(crate) stages: usize,
    /// What is to be built.
    pub(crate) targets: Vec<usize>,
    pub(crate) scope: Scope,
    /// ARGs before the first FROM, and the platform variables.
    pub(crate) globals: Env,
    /// The former.
    pub(crate) declared: BTreeMap<String, Declared>,
    /// Whether names of steps leave out the stage: there is but one, and it takes nothing from elsewhere.
    pub(crate) alone: bool,
}

impl Graph {
    /// Builds the graph. Problems of all stages are collected.
    pub(crate) fn new(
        ast: &Ast,
        scope: Scope,
        request: &FrontendRequest,
        lint: &mut Linter,
    ) -> Result<Self, Vec<Diagnostic>> {
        let Globals { env, declared } = global_args(ast, request)?;
        let mut graph = Self {
            nodes: Vec::new(),
            stages: ast.stages.len(),
            targets: Vec::new(),
            scope,
            globals: env,
            declared,
            alone: false,
        };
        let mut errors = Vec::new();
        for stage in &ast.stages {
            match graph.stage(ast, stage, request, lint) {
                Ok(node) => graph.nodes.push(node),
                Err(error) => errors.push(*error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for (at, stage) in ast.stages.iter().enumerate() {
            if graph.nodes[at].replaced {
                continue;
            }
            for instruction in &stage.commands {
                match graph.command(Arc::clone(instruction), false, request) {
                    Ok(command) => graph.nodes[at].commands.push(command),
                    Err(error) => errors.push(*error),
                }
            }
        }
        graph.alone = graph.nodes.len() == 1 && !graph.takes_from_elsewhere();
        errors.extend(graph.cycle());
        match graph.find_target(ast, request) {
            Ok(target) => graph.targets.push(target),
            Err(error) => errors.push(*error),
        }
        match errors.is_empty() {
            true => Ok(graph),
            false => Err(errors),
        }
    }

    /// The first of what is to be built: of a Dockerfile the only one.
    pub(crate) fn target(&self) -> usize {
        self.targets[0]
    }

    /// BuildKit counts every mount as a source, also one that has none.
    fn takes_from_elsewhere(&self) -> bool {
        let mut commands = self.nodes.iter().flat_map(|node| &node.commands);
        commands.any(|command| !command.sources.is_empty())
    }

    /// The stage that a name refers to when everything is known: the last of that name.
    fn find(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.nodes[..self.stages.min(self.nodes.len())]
            .iter()
            .rposition(|node| node.named && node.name == name)
    }

    /// The stage that may be meant where an image is named.
    pub(crate) fn near(&self, node: &Node) -> Option<String> {
        let name = node.base_name.as_str();
        let is_bare = matches!(node.base, Base::Image { .. }) && !name.contains(['/', ':', '@']);
        let near = is_bare.then(|| nearest_name(name, self.names()));
        near.flatten().map(str::to_owned)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let stages = self.nodes.iter().take(self.stages);
        stages.filter(|n| n.named).map(|n| n.name.as_str())
    }

    fn find_target(&self, ast: &Ast, request: &FrontendRequest) -> Result<usize, Box<Diagnostic>> {
        let Some(target) = request.targets.first() else {
            return Ok(self.stages - 1);
        };
        self.find(target).ok_or_else(|| {
            let message = format!("target stage `{target}` could not be found");
            let span = match ast.stages.last() {
                Some(stage) => stage.head.span.clone(),
                None => Span::new(&request.source, 0..0),
            };
            let error = Diagnostic::error(message, span, "the last of the stages");
            Box::new(match nearest(target, self.names()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => {
                    let names = self.names().collect::<Vec<_>>().join("`, `");
                    match names.is_empty() {
                        true => error.hint("no stage has a name: give one with `FROM … AS NAME`"),
                        false => error.hint(format!("the stages are `{names}`")),
                    }
                }
            })
        })
    }

    /// Finds what an instruction takes files from.
    fn command(
        &mut self,
        instruction: Arc<Instruction>,
        onbuild: bool,
        request: &FrontendRequest,
    ) -> Result<Command, Box<Diagnostic>> {
        let mut sources = Vec::new();
        match &instruction.kind {
            Kind::Copy(copy) => {
                if let Some(from) = &copy.from {
                    sources.push(Some(self.copy_source(from, request)?));
                }
            }
            Kind::Run(run) => {
                for mount in &run.mounts {
                    sources.push(match mount.from() {
                        Some(from) => Some(self.source(&from, request)?),
                        None => None,
                    });
                }
            }
            _ => {}
        }
        Ok(Command {
            instruction,
            onbuild,
            sources,
        })
    }

    fn copy_source(
        &mut self,
        from: &Word,
        request: &FrontendRequest,
    ) -> Result<usize, Box<Diagnostic>> {
        let literal = Shell::new('\\').expand(&from.text, &Env::default());
        if literal.is_ok_and(|expansion| expansion.text != from.text) {
            let message = "variable expansion is not supported for `--from`";
            let hint = "define a stage, `FROM $NAME AS <stage>`, and copy from that";
            return Err(Box::new(
                Diagnostic::error(message, from.span.clone(), "").hint(hint),
            ));
        }
        match from.text.parse::<usize>() {
            Ok(index) if index < self.stages => Ok(index),
            Ok(index) => {
                let label = format!("the stages are numbered 0 to {}", self.stages - 1);
                Err(Box::new(Diagnostic::error(
                    format!("invalid stage index {index}"),
                    from.span.clone(),
                    label,
                )))
            }
            Err(_) => self.source(from, request),
        }
    }

    /// The stage of that name, else the image or named context.
    fn source(&mut self, from: &Word, request: &FrontendRequest) -> Result<usize, Box<Diagnostic>> {
        if let Some(stage) = self.find(&from.text) {
            return Ok(stage);
        }
        let others = self.nodes.iter().skip(self.stages);
        if let Some(at) = others.into_iter().position(|n| n.base_name == from.text) {
            return Ok(self.stages + at);
        }
        let base = self.base(from, request)?;
        self.nodes.push(Node {
            name: from.text.clone(),
            named: false,
            head: None,
            at: from.span.clone(),
            base_name: from.text.clone(),
            base,
            platform: None,
            uses: BTreeSet::new(),
            commands: Vec::new(),
            replaced: false,
            triggered: true,
        });
        Ok(self.nodes.len() - 1)
    }

    /// What a name that is no stage stands for.
    fn base(&self, name: &Word, request: &FrontendRequest) -> Result<Base, Box<Diagnostic>> {
        if name.text == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some((key, context)) = find_context(request, &name.text) {
            return Ok(context_base(key, context, request.modes));
        }
        match normalise_reference(&name.text) {
            Ok(reference) => Ok(Base::Image {
                source: SourceOp::Image(ImageSource {
                    reference,
                    digest: None,
                }),
                context: None,
            }),
            Err(error) => {
                let message = format!("`{}` is neither a stage nor an image", name.text);
                let error = Diagnostic::error(message, name.span.clone(), error.to_string());
                Err(Box::new(match nearest(&name.text, self.names()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => match self.find(&name.text) {
                        Some(at) => error.hint(format!(
                            "stage names after `FROM` are lower case: `{}`",
                            self.nodes[at].name
                        )),
                        None => error,
                    },
                }))
            }
        }
    }

    /// Reports one cycle of `--from`s.
    fn cycle(&self) -> Option<Diagnostic> {
        let mut done = BTreeSet::new();
        (0..self.stages).find_map(|at| self.cycle_from(at, &mut Vec::new(), &mut done))
    }

    fn cycle_from(
        &self,
        at: usize,
        path: &mut Vec<(usize, Span)>,
        done: &mut BTreeSet<usize>,
    ) -> Option<Diagnostic> {
        if done.contains(&at) {
            return None;
        }
        for command in &self.nodes[at].commands {
            for &to in command
                .sources
                .iter()
                .flatten()
                .filter(|to| **to < self.stages)
            {
                path.push((at, source_span(command)));
                if let Some(start) = path.iter().position(|(node, _)| *node == to) {
                    return Some(self.cycle_error(&path[start..]));
                }
                if let Some(error) = self.cycle_from(to, path, done) {
                    return Some(error);
                }
                path.pop();
            }
        }
        done.insert(at);
        None
    }

    fn cycle_error(&self, path: &[(usize, Span)]) -> Diagnostic {
        let names: Vec<&str> = path
            .iter()
            .chain(path.first())
            .map(|(at, _)| self.nodes[*at].name.as_str())
            .collect();
        let message = format!(
            "circular dependency detected on stage `{}`: {}",
            names[0],
            names.join(" → ")
        );
        let mut spans = path.iter().enumerate().map(|(i, (_, span))| {
            let label = format!("`{}` needs `{}`", names[i], names[i + 1]);
            (span.clone(), label)
        });
        let first = spans.next();
        let (span, label) = first.expect("a cycle has at least one edge");
        spans.fold(
            Diagnostic::error(message, span, label),
            |error, (span, label)| error.also(span, label),
        )
    }

    /// The nodes that the scope takes in, in order.
    pub(crate) fn reachable(&self) -> Vec<usize> {
        let mut reachable = vec![false; self.nodes.len()];
        let mut open = match self.scope {
            Scope::Target => self.targets.clone(),
            Scope::Everything => (0..self.stages).collect(),
        };
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut reachable[at], true) {
                continue;
            }
            let node = &self.nodes[at];
            match &node.base {
                Base::Stage(base) => open.push(*base),
                Base::Dockerfile(nested) => open.extend(nested.contexts.values()),
                Base::Scratch | Base::Image { .. } | Base::Files { .. } | Base::Outer(_) => {}
            }
            for command in &node.commands {
                open.extend(command.sources.iter().flatten());
            }
        }
        let nodes = reachable.into_iter().enumerate();
        nodes.filter_map(|(at, is)| is.then_some(at)).collect()
    }

    /// Puts the ONBUILD triggers of bases in front of the instructions of the stages that start from them, as far
    /// as the bases are known, and tells whether that changed anything.
    pub(crate) fn trigger(
        &mut self,
        request: &FrontendRequest,
        config: &dyn Fn(&Node) -> Option<ImageConfig>,
    ) -> Result<bool, Vec<Diagnostic>> {
        let mut changed = false;
        let mut errors = Vec::new();
        for at in self.reachable() {
            let node = &self.nodes[at];
            if node.triggered {
                continue;
            }
            let triggers: Vec<String> = match &node.base {
                Base::Stage(base) => {
                    let commands = self.nodes[*base].commands.iter();
                    let trigger = |c: &Command| match &c.instruction.kind {
                        Kind::Onbuild(trigger) => Some(trigger.clone()),
                        _ => None,
                    };
                    commands.filter_map(trigger).collect()
                }
                Base::Image { .. } => match config(node) {
                    Some(config) => config.config.on_build,
                    None => continue,
                },
                _ => Vec::new(),
            };
            let span = node.at.clone();
            self.nodes[at].triggered = true;
            if triggers.is_empty() {
                continue;
            }
            changed = true;
            let mut commands = Vec::new();
            for trigger in &triggers {
                match parse_trigger(&Site::trigger(trigger, &span)) {
                    Ok(instruction) => match self.command(Arc::new(instruction), true, request) {
                        Ok(command) => commands.push(command),
                        Err(error) => errors.push(*error),
                    },
                    Err(found) => errors.extend(found),
                }
            }
            let label = "a trigger of this base (`ONBUILD`)";
            for error in &mut errors {
                if let Some(place) = error.labels.first_mut().filter(|l| l.text.is_empty()) {
                    label.clone_into(&mut place.text);
                }
            }
            commands.append(&mut self.nodes[at].commands);
            self.nodes[at].commands = commands;
        }
        if changed && errors.is_empty() {
            errors.extend(self.cycle());
        }
        match errors.is_empty() {
            true => Ok(changed),
            false => Err(errors),
        }
    }

    /// The platform a node is built for.
    pub(crate) fn platform(&self, at: usize, request: &FrontendRequest) -> Platform {
        let node = &self.nodes[at];
        match (&node.base, &node.platform) {
            (Base::Stage(base), _) => self.platform(*base, request),
            (Base::Image { .. }, Some(platform)) => platform.clone(),
            _ => request.target_platform.clone(),
        }
    }
}

/// Where a command names its source.
pub(crate) fn source_span(command: &Command) -> Span {
    let from = match &command.instruction.kind {
        Kind::Copy(copy) => copy.from.clone(),
        Kind::Run(run) => run.mounts.iter().find_map(|mount| mount.from()),
        _ => None,
    };
    match from {
        Some(from) => from.span,
        None => command.instruction.head.span.clone(),
    }
}

/// The named context a name stands for, with the name it was given under.
fn find_context<'a>(
    request: &'a FrontendRequest,
    name: &str,
) -> Option<(&'a str, &'a NamedContext)> {
    let reserved = |reserved| name.eq_ignore_ascii_case(reserved);
    if request.contexts.is_empty() || reserved("scratch") || reserved("context") {
        return None;
    }
    let name = familiar(name);
    let mut contexts = request.contexts.iter();
    contexts
        .find(|(key, _)| familiar(key) == name)
        .map(|(key, context)| (key.as_str(), context))
}

fn context_base(key: &str, context: &NamedContext, modes: FileModes) -> Base {
    let name = key.to_owned();
    match context {
        NamedContext::Image(source) => Base::Image {
            source: source.clone(),
            context: Some(name),
        },
        NamedContext::Step => Base::Outer(name),
        NamedContext::Source(source) => Base::Files {
            source: source.clone(),
            context: name,
        },
        NamedContext::Local { exclude } => Base::Files {
            source: SourceOp::Local(LocalSource {
                name: name.clone(),
                include: Vec::new(),
                exclude: exclude.clone(),
                modes,
            }),
            context: name,
        },
    }
}
