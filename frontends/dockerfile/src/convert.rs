//! Stages to the build graph, with the semantics of BuildKit's dockerfile2llb.
//!
//! A stage is a [`State`] that its instructions change one after the other. Words of an instruction are expanded
//! with the variables as they were before it, whatever the instruction itself sets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use rbuild_llb::Definition;
use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::ImageConfig;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::Vertex;
use rbuild_llb::config::History;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::NoCache;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::ProxyEnv;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::read_ignore_file;
use rbuild_llb::secrets::looks_secret;

use crate::Dockerfile;
use crate::args::build_args;
use crate::args::proxy_env;
use crate::ast::Head;
use crate::ast::Kind;
use crate::ast::Word;
use crate::env::Env;
use crate::inspect::Taken;
use crate::lint::Linter;
use crate::lint::Rule;
use crate::stages::Base;
use crate::stages::Command;
use crate::stages::Graph;
use crate::words::Shell;
use rbuild_llb::suggest::nearest_variable;

mod base;
mod config;
mod copy;
mod ignored;
mod mount;
mod ports;
mod quote;
mod remote;
mod run;
mod signal;

use ignored::Ignored;
pub(crate) use mount::check as check_mounts;
pub(crate) use mount::needs_context as mounts_context;
pub(crate) use remote::foreseen;
pub use remote::http_source;

/// PATH where a base sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who made a history entry.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

type Converted<T> = Result<T, Box<Diagnostic>>;

/// A stage so far.
#[derive(Debug, Clone)]
struct State {
    /// The file system; `None` is an empty one.
    root: Option<Edge>,
    platform: Platform,
    /// What a RUN sees: ENV and ARG.
    env: Env,
    /// Absolute; the working directory of a RUN.
    dir: String,
    user: String,
    /// Without its history; a stage shares that of the one it starts from until it changes it.
    config: Rc<ImageConfig>,
    /// The history; a stage shares the entries of the one it starts from.
    history: Vec<Rc<History>>,
    /// ARGs declared, in order, with the values they had.
    args: Vec<(String, Option<String>)>,
    /// Whether a WORKDIR of this file, and not of the base, set the directory.
    workdir_set: bool,
}

/// A stage being converted.
struct Building {
    state: State,
    /// As names of steps show it; may be empty.
    name: String,
    /// Steps named so far, and in all.
    step: usize,
    total: usize,
    /// Whether the instruction at hand is a trigger of the base.
    onbuild: bool,
    ignore_cache: bool,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage.
    cmd: Option<Head>,
    entrypoint: Option<Head>,
    healthcheck: Option<Head>,
    taken: Taken,
}

/// Converts what a target needs.
pub(crate) struct Converter<'a> {
    request: &'a FrontendRequest,
    graph: &'a Graph,
    pins: &'a Pins,
    shell: Shell,
    build_args: BTreeMap<String, String>,
    proxy_env: ProxyEnv,
    context: SourceOp,
    /// Its files, once a step has asked for them.
    context_files: Option<Edge>,
    /// What is left out of it, for the rule that reports copies of such files.
    ignored: Option<Ignored>,
    lint: &'a mut Linter,
    /// Parses Dockerfiles that are inputs.
    dockerfiles: &'a Dockerfile,
    /// Stages of the program around this file, by the named contexts they are.
    outer: BTreeMap<String, State>,
    definition: Definition,
    /// What became of each node, as far as it is converted.
    states: Vec<Option<State>>,
    taken: BTreeMap<usize, Taken>,
    missing: Vec<SourceRequest>,
    errors: Vec<Diagnostic>,
}

/// What conversion gives.
pub(crate) struct Finished {
    pub(crate) definition: Definition,
    /// Sources that ADD names and that are not pinned yet; the graph is of no use while there are any.
    pub(crate) missing: Vec<SourceRequest>,
    /// What each node takes from whoever builds it.
    pub(crate) taken: BTreeMap<usize, Taken>,
}

fn ignored(request: &FrontendRequest) -> Vec<String> {
    let file = request.ignore.as_ref();
    file.map_or_else(Vec::new, |file| read_ignore_file(&file.text))
}

/// The main build context.
pub(crate) fn main_context(request: &FrontendRequest) -> SourceOp {
    match &request.context {
        MainContext::Local => SourceOp::Local(LocalSource {
            name: "context".to_owned(),
            include: Vec::new(),
            exclude: ignored(request),
            modes: request.modes,
        }),
        MainContext::Archive(source) | MainContext::Files(source) => source.clone(),
    }
}

/// Whether a source of ADD is not in the build context.
pub(crate) fn is_remote(path: &str) -> bool {
    copy::is_http(path) || crate::git::parse(path).is_some()
}

impl<'a> Converter<'a> {
    pub(crate) fn new(
        escape: char,
        request: &'a FrontendRequest,
        graph: &'a Graph,
        pins: &'a Pins,
        dockerfiles: &'a Dockerfile,
        lint: &'a mut Linter,
    ) -> Self {
        let build_args = build_args(request);
        Self {
            request,
            graph,
            pins,
            shell: Shell::new(escape),
            proxy_env: proxy_env(&build_args),
            build_args,
            context: main_context(request),
            context_files: None,
            ignored: Ignored::new(&ignored(request)),
            lint,
            dockerfiles,
            outer: BTreeMap::new(),
            definition: Definition::with_capacity(
                graph.nodes.iter().map(|n| n.commands.len()).sum(),
            ),
            states: graph.nodes.iter().map(|_| None).collect(),
            taken: BTreeMap::new(),
            missing: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Converts the target and all it needs. All problems are reported.
    pub(crate) fn convert(mut self) -> Result<Finished, Vec<Diagnostic>> {
        self.nodes();
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        for (at, &target) in self.graph.targets.iter().enumerate() {
            let last = !self.graph.targets[at + 1..].contains(&target);
            let state = match last {
                true => self.states[target].take(),
                false => self.states[target].clone(),
            };
            let Some(mut state) = state else {
                continue;
            };
            let entries = std::mem::take(&mut state.history).into_iter();
            let mut config = Rc::unwrap_or_clone(state.config);
            config.history = entries.map(Rc::unwrap_or_clone).collect();
            self.finish_config(&mut config);
            let node = &self.graph.nodes[target];
            self.definition.outputs.push(Output {
                name: match node.named {
                    true => node.name.clone(),
                    false => target.to_string(),
                },
                platform: self.request.target_platform.clone(),
                root: state.root,
                config,
            });
        }
        Ok(Finished {
            definition: self.definition,
            missing: self.missing,
            taken: self.taken,
        })
    }

    /// Converts all nodes that count, each after those it needs.
    fn nodes(&mut self) {
        let reachable = self.graph.reachable();
        let (stages, others): (Vec<usize>, Vec<usize>) =
            reachable.iter().partition(|at| **at < self.graph.stages);
        for at in others.into_iter().chain(stages) {
            if let Err(error) = self.node(at) {
                self.errors.push(*error);
            }
        }
    }

    fn node(&mut self, at: usize) -> Converted<()> {
        let node = &self.graph.nodes[at];
        let steps = node.commands.iter().filter(|command| {
            let kind = &command.instruction.kind;
            command.onbuild
                || matches!(
                    kind,
                    Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
                )
        });
        let from = matches!(node.base, Base::Image { .. } | Base::Files { .. });
        let stage = node.head.is_some() && !node.replaced;
        let total = if stage {
            steps.count() + usize::from(from)
        } else {
            0
        };
        let mut building = Building {
            state: self.start(at),
            name: match self.graph.alone {
                true => String::new(),
                false => node.name.clone(),
            },
            step: 0,
            total,
            onbuild: false,
            ignore_cache: self.ignores_cache(at),
            cmd: None,
            entrypoint: None,
            healthcheck: None,
            taken: Taken::default(),
        };
        self.base(at, &mut building)?;
        if stage {
            building.state.start();
            for command in &node.commands {
                building.onbuild = command.onbuild;
                if let Err(error) = self.command(at, command, &mut building) {
                    self.errors.push(*error);
                }
            }
        }
        self.states[at] = Some(building.state);
        self.taken.insert(at, building.taken);
        Ok(())
    }

    /// What a stage has before its base is looked at: all that the stage has which it starts from.
    fn start(&self, at: usize) -> State {
        if let Base::Stage(base) = self.graph.nodes[at].base
            && let Some(base) = &self.states[base]
        {
            return base.without_triggers();
        }
        State {
            root: None,
            platform: self.graph.platform(at, self.request),
            env: Env::default(),
            dir: "/".to_owned(),
            user: String::new(),
            config: Rc::default(),
            history: Vec::new(),
            args: Vec::new(),
            workdir_set: false,
        }
    }

    fn ignores_cache(&self, at: usize) -> bool {
        let node = &self.graph.nodes[at];
        match &self.request.no_cache {
            NoCache::Off => false,
            NoCache::All => true,
            NoCache::Stages(names) => {
                node.named && names.iter().any(|n| n.eq_ignore_ascii_case(&node.name))
            }
        }
    }

    fn command(&mut self, at: usize, command: &Command, to: &mut Building) -> Converted<()> {
        let head = &command.instruction.head;
        match &command.instruction.kind {
            Kind::Add(add) => {
                let from = self.copied(at, command)?;
                self.add(add, from, head, to)
            }
            Kind::Copy(copy) => {
                let from = self.copied(at, command)?;
                self.copy(copy, from, head, to)
            }
            Kind::Run(run) => {
                let mut from = Vec::new();
                for source in &command.sources {
                    from.push(match source {
                        Some(_) => Some(self.source(at, *source, command)?),
                        None => None,
                    });
                }
                self.run(run, &from, head, to)
            }
            Kind::Arg(args) => self.arg(args, head, to),
            Kind::Cmd(line) => self.cmd(line, head, to),
            Kind::Entrypoint(line) => self.entrypoint(line, head, to),
            Kind::Env(pairs) => self.env(pairs, head, to),
            Kind::Expose(ports) => self.expose(ports, head, to),
            Kind::Healthcheck(check) => self.healthcheck(check, head, to),
            Kind::Label(pairs) => self.label(pairs, head, to),
            Kind::Maintainer(word) => {
                to.state.config_mut().author.clone_from(&word.text);
                to.state.history(format!("MAINTAINER {}", word.text), true);
                Ok(())
            }
            Kind::Onbuild(trigger) => {
                to.state.config_mut().config.on_build.push(trigger.clone());
                Ok(())
            }
            Kind::Shell(shell) => {
                to.state.config_mut().config.shell = Some(shell.clone());
                let line = format!("SHELL [{}]", shell.join(" "));
                to.state.history(line, true);
                Ok(())
            }
            Kind::StopSignal(word) => self.stop_signal(word, head, to),
            Kind::User(word) => self.user(word, head, to),
            Kind::Volume(words) => self.volume(words, head, to),
            Kind::Workdir(word) => self.workdir(word, head, to),
        }
    }

    /// The file system that a copy names, if it names one.
    fn copied(&self, at: usize, command: &Command) -> Converted<Option<Option<Edge>>> {
        let from = command.sources.first();
        from.map(|source| self.source(at, *source, command))
            .transpose()
    }

    /// The file system of a node that an instruction of stage `at` takes files from.
    fn source(
        &self,
        at: usize,
        source: Option<usize>,
        command: &Command,
    ) -> Converted<Option<Edge>> {
        let Some(source) = source else {
            return Ok(None);
        };
        if let Some(state) = &self.states[source] {
            return Ok(state.root);
        }
        let (node, here) = (&self.graph.nodes[source], &self.graph.nodes[at]);
        let span = crate::stages::source_span(command);
        if source < at {
            // It had an error of its own, which is reported.
            return Ok(None);
        }
        let message = format!(
            "cannot take files from stage `{}`: it needs to be defined before stage `{}`",
            node.name, here.name
        );
        let error = Diagnostic::error(message, span, "");
        let defined = node.head.as_ref().map(|head| head.span.clone());
        Err(Box::new(match defined {
            Some(span) => error.also(span, "defined here"),
            None => error,
        }))
    }

    /// Expands a word of an instruction with the variables of the stage.
    fn expand(&mut self, word: &Word, head: &Head, to: &Building) -> Converted<String> {
        let shell = self.shell;
        self.expand_with(shell, &word.text, &word.span, head, to)
    }

    fn expand_with(
        &mut self,
        shell: Shell,
        text: &str,
        span: &Span,
        head: &Head,
        to: &Building,
    ) -> Converted<String> {
        let expanded = shell
            .expand(text, &to.state.env)
            .map_err(|error| Diagnostic::error(error.to_string(), span.clone(), ""))?;
        for name in &expanded.missing {
            self.undefined(name, span, head, to);
        }
        Ok(expanded.text)
    }

    fn expand_option(
        &mut self,
        word: Option<&Word>,
        head: &Head,
        to: &Building,
    ) -> Converted<Option<Word>> {
        let Some(word) = word else {
            return Ok(None);
        };
        let text = self.expand(word, head, to)?;
        let span = word.span.clone();
        Ok(Some(Word { text, span }).filter(|word| !word.text.is_empty()))
    }

    fn undefined(&mut self, name: &str, span: &Span, head: &Head, to: &Building) {
        if to.state.args.iter().any(|(arg, _)| arg == name) {
            return;
        }
        let mut message = format!("Usage of undefined variable '${name}'");
        if let Some(near) = nearest_variable(name, to.state.env.names()) {
            message.push_str(&format!(" (did you mean ${near}?)"));
        }
        self.lint.report(Rule::UndefinedVar, head, span, message);
    }

    /// Adds a step that no instruction stands for.
    fn internal(&mut self, op: Op, platform: &Platform, name: &str, span: &Span) -> Edge {
        Edge::of(self.definition.add(Vertex {
            op,
            inputs: Vec::new(),
            platform: platform.clone(),
            meta: VertexMeta {
                name: name.to_owned(),
                spans: vec![span.clone()],
                ..VertexMeta::default()
            },
        }))
    }

    /// Adds a step whose output 0 becomes the stage's file system.
    fn step(&mut self, op: Op, inputs: Vec<Edge>, meta: VertexMeta, to: &mut Building) {
        let id = self.definition.add(Vertex {
            op,
            inputs,
            platform: to.state.platform.clone(),
            meta,
        });
        to.state.root = Some(Edge::of(id));
    }

    /// Adds a step that knows nothing of the stage's file system, and lays its output 0 upon that: links of the stage
    /// are not followed, they are replaced.
    fn link(&mut self, op: Op, inputs: Vec<Edge>, meta: VertexMeta, to: &mut Building) {
        let below = to.state.root;
        let name = match meta.name.split_once("] ") {
            Some((step, title)) => format!("{step}] LINK {title}"),
            None => format!("LINK {}", meta.name),
        };
        let merged = VertexMeta {
            name,
            ..meta.clone()
        };
        self.step(op, inputs, meta, to);
        if let (Some(below), Some(above)) = (below, to.state.root) {
            self.step(Op::Merge, vec![below, above], merged, to);
        }
    }

    /// Appends the text of an instruction with its variables expanded, for people. BuildKit shows those too whose names
    /// say that they are secret.
    fn append_title(shell: Shell, text: &str, env: &Env, name: &mut String) {
        let start = name.len();
        let mut shown = Cow::Borrowed(env);
        if text.contains('$') {
            for secret in env.names().filter(|name| looks_secret(name)) {
                shown.to_mut().set(secret, HIDDEN);
            }
        }
        if shell.append(text, &shown, name).is_err() {
            name.truncate(start);
            name.push_str(text);
        }
        let keyword = name[start..].find(' ').map_or(name.len(), |at| start + at);
        match name[start..keyword].is_ascii() {
            true => name[start..keyword].make_ascii_uppercase(),
            false => name.replace_range(start..keyword, &name[start..keyword].to_uppercase()),
        }
    }

    /// What people see of a step: `[linux/amd64 build 2/5] COPY …`. Counts the step.
    fn name(&self, head: &Head, to: &mut Building) -> String {
        let mut name = self.prefix(head.text.len(), to);
        Self::append_title(self.shell, &head.text, &to.state.env, &mut name);
        name
    }

    /// `[linux/amd64 build 2/5] `, with room for `more` bytes; counts the step.
    fn prefix(&self, more: usize, to: &mut Building) -> String {
        if to.total == 0 {
            return String::with_capacity(more);
        }
        let mut name = String::with_capacity(more + to.name.len() + 40);
        name.push('[');
        if self.request.multi_platform {
            let platform = &to.state.platform;
            name.push_str(&format!("{platform}{} ", cross(platform, &to.state.env)));
        }
        if !to.name.is_empty() {
            name.push_str(&to.name);
            name.push(' ');
        }
        to.step += 1;
        let (step, total) = (to.step.to_string(), to.total.to_string());
        let blanks = total.len().saturating_sub(step.len());
        name.extend(std::iter::repeat_n(' ', blanks));
        let onbuild = if to.onbuild { "ONBUILD " } else { "" };
        name.extend([&step, "/", &total, "] ", onbuild]);
        name
    }
}

/// `->arm64` where the platform variables a stage declared say that it builds for another platform than it runs on.
fn cross(base: &Platform, env: &Env) -> String {
    let get = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let target = match get("TARGETPLATFORM").and_then(|text| text.parse::<Platform>().ok()) {
        Some(platform) => platform,
        None => Platform::new(
            get("TARGETOS").unwrap_or(&base.os),
            get("TARGETARCH").unwrap_or(&base.arch),
            get("TARGETVARIANT").unwrap_or_default(),
        ),
    };
    match (target.os == base.os, target.arch == base.arch) {
        (true, true) => String::new(),
        (true, false) if target.variant.is_empty() => format!("->{}", target.arch),
        (true, false) => format!("->{}/{}", target.arch, target.variant),
        (false, _) => format!("->{target}"),
    }
}

impl State {
    /// Prepares the state for the instructions of a stage, from the config it starts with.
    fn start(&mut self) {
        let env = &self.config.config.env;
        if !env.iter().any(|pair| pair.starts_with("PATH=")) {
            let path = format!("PATH={DEFAULT_PATH}");
            self.config_mut().config.env.push(path);
        }
        let config = &self.config.config;
        self.env.set_all(&config.env);
        if !config.working_dir.is_empty() {
            self.dir = crate::paths::absolute("/", &config.working_dir);
        }
        if !config.user.is_empty() {
            self.user.clone_from(&config.user);
        }
    }

    fn config_mut(&mut self) -> &mut ImageConfig {
        Rc::make_mut(&mut self.config)
    }

    /// A stage that starts from this one has no triggers of it: they were for that stage alone.
    fn without_triggers(&self) -> Self {
        let mut state = self.clone();
        if !state.config.config.on_build.is_empty() {
            state.config_mut().config.on_build.clear();
        }
        state
    }

    /// Notes an instruction in the image's history. Times are the engine's to fill in.
    fn history(&mut self, created_by: String, empty_layer: bool) {
        self.history.push(Rc::new(History {
            created_by,
            comment: HISTORY_COMMENT.into(),
            empty_layer,
            ..History::default()
        }));
    }
}

/// What is shown in the place of a secret, as by BuildKit.
const HIDDEN: &str = "****";

/// What is shown of the step that an instruction becomes.
fn meta(name: String, head: &Head, ignore_cache: bool) -> VertexMeta {
    VertexMeta {
        name,
        spans: vec![head.span.clone()],
        ignore_cache,
        args: Vec::new(),
    }
}

/// The inputs of a step, each once.
#[derive(Debug, Default)]
struct Inputs {
    list: Vec<Edge>,
}

impl Inputs {
    fn add(&mut self, edge: Edge) -> usize {
        match self.list.iter().position(|have| *have == edge) {
            Some(at) => at,
            None => {
                self.list.push(edge);
                self.list.len() - 1
            }
        }
    }
}
