//! Steps to the stages of a [`Program`].
//!
//! A step becomes a stage once for each set of values that it, and what it needs, reads of the arguments: outputs of
//! a matrix share all steps that do not depend on its axes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_dockerfile::program::Input as ProgramInput;
use rbuild_dockerfile::program::Program;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Start;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::NamedContext;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::OciLayoutSource;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::read_ignore_file;

use crate::modules::ModuleId;
use crate::modules::Modules;
use crate::modules::Thing;
use crate::paths;
use crate::read::Text;
use crate::schema::Arg;
use crate::schema::DockerfileInput;
use crate::schema::GitInput;
use crate::schema::Input;
use crate::schema::ModeRule;
use crate::schema::Scalar;
use crate::schema::Type;
use crate::schema::When;
use crate::values::Scope;

mod args;
mod body;
mod copy;
mod image;
mod mounts;
mod needs;

/// Values that outputs give to arguments, by their qualified names.
pub(crate) type World = BTreeMap<String, String>;

/// What was read of the arguments: qualified names, and the values found.
type Reads = BTreeMap<Read, Option<String>>;

/// What of an argument was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Read {
    /// Its value, be it the default.
    Value(String),
    /// The value that somebody gave it.
    Given(String),
}

/// A stage, and under which values of arguments it is the one.
#[derive(Debug, Clone)]
struct Made {
    reads: Reads,
    stage: StageId,
}

/// What a step starts from, or takes files from.
#[derive(Debug, Clone)]
pub(crate) enum From {
    Stage(StageId),
    Scratch,
    Image {
        source: SourceOp,
        platform: Option<Platform>,
    },
    /// A URL, with its SHA-256 and its mode.
    Url(Url),
    /// A git repository, as a Dockerfile's ADD has it.
    Git(Git),
    Local(LocalSource),
}

#[derive(Debug, Clone)]
pub(crate) struct Url {
    pub(crate) url: Text,
    pub(crate) checksum: Option<Text>,
    pub(crate) mode: Option<Text>,
    pub(crate) source: HttpSource,
}

#[derive(Debug, Clone)]
pub(crate) struct Git {
    /// `REMOTE#REF:SUBDIR`
    pub(crate) url: Text,
    pub(crate) commit: Option<Text>,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) source: SourceOp,
}

/// A plan on its way to a program.
pub(crate) struct Lowering<'a> {
    pub(crate) modules: &'a Modules,
    pub(crate) request: &'a FrontendRequest,
    pub(crate) program: Program,
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) world: World,
    steps: BTreeMap<(ModuleId, String), Vec<Made>>,
    /// Steps with which something is wrong, which has been said.
    failed: BTreeSet<(ModuleId, String)>,
    /// Inputs as stages to copy from, by what they are.
    sources: Vec<(SourceOp, Option<Platform>, StageId)>,
    dockerfiles: Vec<(ProgramInput, StageId)>,
    /// The steps being made, each with the place that asks for the next.
    stack: Vec<((ModuleId, String), Span)>,
    /// What each of them has read, and outside of them all.
    reads: Vec<Reads>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(modules: &'a Modules, request: &'a FrontendRequest) -> Self {
        Self {
            modules,
            request,
            program: Program::new(),
            errors: Vec::new(),
            world: World::new(),
            steps: BTreeMap::new(),
            failed: BTreeSet::new(),
            sources: Vec::new(),
            dockerfiles: Vec::new(),
            stack: Vec::new(),
            reads: vec![Reads::new()],
        }
    }

    /// What a name of a step or input stands for. Problems are noted, and then there is nothing.
    pub(crate) fn from(&mut self, module: ModuleId, name: &Text) -> Option<From> {
        let (thing, local) = match self.modules.thing(module, name) {
            Ok(found) => found,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let local = local.to_owned();
        match thing {
            Thing::Scratch => Some(From::Scratch),
            Thing::Step(at) => self.step(at, &local, &name.span).map(From::Stage),
            Thing::Input(at) => self.input(at, &local, &name.span),
        }
    }

    /// The same as files to copy or to mount; `None` in it is an empty file system.
    pub(crate) fn files(&mut self, module: ModuleId, name: &Text) -> Option<Option<StageId>> {
        let from = self.from(module, name)?;
        let at = self.place(module, name);
        Some(self.stage_of(&name.text, from, &at))
    }

    /// Where what a name stands for can be wrong: an input says what it is, a step only where it is asked for.
    pub(crate) fn place(&self, module: ModuleId, name: &Text) -> Span {
        let Ok((Thing::Input(at), local)) = self.modules.thing(module, name) else {
            return name.span.clone();
        };
        let text = match &self.modules.get(at).file.inputs[local].value {
            Input::Image(input) => &input.image.0,
            Input::Local(input) => &input.local.0,
            Input::Url(input) => &input.url.0,
            Input::Git(input) => &input.git.0,
            Input::Dockerfile(_) => name,
        };
        text.span.clone()
    }

    fn stage_of(&mut self, name: &str, from: From, at: &Span) -> Option<StageId> {
        let (source, platform) = match from {
            From::Stage(stage) => return Some(stage),
            From::Scratch => return None,
            From::Image { source, platform } => (source, platform),
            From::Url(url) => (SourceOp::Http(url.source), None),
            From::Git(git) => (git.source, None),
            From::Local(local) => (SourceOp::Local(local), None),
        };
        let mut made = self.sources.iter();
        if let Some((_, _, stage)) = made.find(|(s, p, _)| *s == source && *p == platform) {
            return Some(*stage);
        }
        let stage = self
            .program
            .source(name, source.clone(), platform.clone(), at);
        self.sources.push((source, platform, stage));
        Some(stage)
    }

    /// The same as what a stage starts from.
    pub(crate) fn start(&mut self, module: ModuleId, name: &Text) -> Option<Start> {
        Some(match self.from(module, name)? {
            From::Image { source, platform } => Start::Image { source, platform },
            From::Scratch => Start::Scratch,
            other => match self.stage_of(&name.text, other, &self.place(module, name)) {
                Some(stage) => Start::Stage(stage),
                None => Start::Scratch,
            },
        })
    }

    /// The stage that a step is.
    pub(crate) fn step(&mut self, module: ModuleId, name: &str, asked: &Span) -> Option<StageId> {
        let key = (module, name.to_owned());
        if let Some(made) = self.made(&key) {
            self.note(&made.reads);
            return Some(made.stage);
        }
        if self.stack.is_empty() && !self.needed_first(&key, asked) {
            return None;
        }
        let qualified = self.qualified(module, name);
        if let Some(start) = self.stack.iter().position(|(have, _)| *have == key) {
            let error = self.cycle(start, &qualified, asked);
            self.errors.push(error);
            return None;
        }
        self.alone(module, name, asked);
        let made = self.made(&key)?;
        self.note(&made.reads);
        Some(made.stage)
    }

    /// Makes all that a step needs, the first first, so that long chains of steps are no deep recursion. Whether there is
    /// an order in which that can be done.
    fn needed_first(&mut self, key: &(ModuleId, String), asked: &Span) -> bool {
        let mut open: Vec<(needs::Need, bool)> = vec![(
            needs::Need {
                module: key.0,
                name: key.1.clone(),
                span: asked.clone(),
            },
            false,
        )];
        // The steps on the way to the one at hand, and those that are behind it.
        let mut way: Vec<((ModuleId, String), Span)> = Vec::new();
        let mut done: BTreeSet<(ModuleId, String)> = BTreeSet::new();
        while let Some((need, ready)) = open.pop() {
            let at = (need.module, need.name.clone());
            if ready {
                way.pop();
                if at != *key && self.modules.get(at.0).file.step.contains_key(&at.1) {
                    let (_, reads) =
                        self.reading(|lowering| lowering.alone(at.0, &at.1, &need.span));
                    drop(reads);
                }
                done.insert(at);
                continue;
            }
            if done.contains(&at) {
                continue;
            }
            if let Some(start) = way.iter().position(|(have, _)| *have == at) {
                std::mem::swap(&mut self.stack, &mut way);
                let error = self.cycle(start, &self.qualified(at.0, &at.1), &need.span);
                std::mem::swap(&mut self.stack, &mut way);
                self.errors.push(error);
                return false;
            }
            way.push((at, need.span.clone()));
            let more = needs::of(self.modules, need.module, &need.name);
            open.push((need, true));
            open.extend(more.into_iter().rev().map(|need| (need, false)));
        }
        true
    }

    /// Makes a step whose needs are made.
    fn alone(&mut self, module: ModuleId, name: &str, asked: &Span) {
        let key = (module, name.to_owned());
        if self.failed.contains(&key) || self.made(&key).is_some() {
            return;
        }
        let modules = self.modules;
        let step = &modules.get(module).file.step[name];
        let qualified = self.qualified(module, name);
        self.stack.push((key.clone(), asked.clone()));
        self.reads.push(Reads::new());
        let stage = self.make_step(module, &qualified, &step.value);
        self.stack.pop();
        let reads = self.reads.pop().unwrap_or_default();
        self.note(&reads);
        match stage {
            Some(stage) => self
                .steps
                .entry(key)
                .or_default()
                .push(Made { reads, stage }),
            None => {
                self.failed.insert(key);
            }
        }
    }

    fn made(&self, key: &(ModuleId, String)) -> Option<Made> {
        let fits = |made: &&Made| {
            let mut reads = made.reads.iter();
            reads.all(|(read, value)| match read {
                Read::Value(name) => self.value_now(name) == *value,
                Read::Given(name) => self.given_now(name) == *value,
            })
        };
        self.steps.get(key)?.iter().find(fits).cloned()
    }

    /// Does something, and tells which arguments were read for it.
    pub(crate) fn reading<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (T, BTreeSet<String>) {
        self.reads.push(Reads::new());
        let done = act(self);
        let reads = self.reads.pop().unwrap_or_default();
        self.note(&reads);
        let names = reads.into_keys().map(|read| match read {
            Read::Value(name) | Read::Given(name) => name,
        });
        (done, names.collect())
    }

    fn note(&mut self, reads: &Reads) {
        if let Some(outer) = self.reads.last_mut() {
            outer.extend(
                reads
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
        }
    }

    pub(crate) fn qualified(&self, module: ModuleId, name: &str) -> String {
        format!("{}{name}", self.modules.get(module).prefix)
    }

    fn cycle(&self, start: usize, name: &str, asked: &Span) -> Diagnostic {
        let path = &self.stack[start..];
        let name_of = |(module, name): &(ModuleId, String)| self.qualified(*module, name);
        let mut names: Vec<String> = path.iter().map(|(key, _)| name_of(key)).collect();
        names.push(name.to_owned());
        let message = format!("steps need each other: `{}`", names.join("` → `"));
        // What asks for a step is in the step before it.
        let places = path[1..]
            .iter()
            .map(|(_, span)| span.clone())
            .chain([asked.clone()]);
        let mut places = places.enumerate().map(|(at, span)| {
            let label = format!("`{}` needs `{}`", names[at], names[at + 1]);
            (span, label)
        });
        let (span, label) = places.next().expect("a cycle has at least one edge");
        places.fold(
            Diagnostic::error(message, span, label),
            |error, (span, label)| error.also(span, label),
        )
    }

    /// Whether conditions hold.
    pub(crate) fn holds(&mut self, module: ModuleId, when: &When) -> Option<bool> {
        let mut holds = true;
        for (name, wanted) in when {
            let value = match name.as_str() {
                "platform" => Some(self.request.target_platform.to_string()),
                name => self.arg_value(module, name, &wanted.name)?,
            };
            let mut any = false;
            for text in &wanted.value.0 {
                any |= match name.as_str() {
                    "platform" => {
                        let platform = self.platform(text)?;
                        platform == self.request.target_platform
                    }
                    _ => Some(&text.text) == value.as_ref(),
                };
            }
            holds &= any;
        }
        Some(holds)
    }

    pub(crate) fn platform(&mut self, text: &Text) -> Option<Platform> {
        match text.text.parse() {
            Ok(platform) => Some(platform),
            Err(error) => {
                self.errors
                    .push(Diagnostic::error(error.to_string(), text.span.clone(), ""));
                None
            }
        }
    }

    /// What an input is.
    fn input(&mut self, module: ModuleId, name: &str, asked: &Span) -> Option<From> {
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        let modules = self.modules;
        let (dir, entry) = {
            let module = modules.get(module);
            (module.dir.as_str(), &module.file.inputs[name])
        };
        match &entry.value {
            Input::Image(input) => {
                let text = self.plain(&input.image, scope)?;
                let platform = match &input.platform {
                    None => None,
                    Some(word) if word.text == "build" => Some(self.request.build_platform.clone()),
                    Some(word) => {
                        let text = Text {
                            text: self.plain(word, scope)?,
                            span: word.span.clone(),
                        };
                        Some(self.platform(&text)?)
                    }
                };
                let source = self.image(&text, dir, &input.image.span)?;
                Some(From::Image { source, platform })
            }
            Input::Local(input) => {
                let local = self.plain(&input.local, scope)?;
                let patterns = |list: &Option<crate::read::List<Text>>| {
                    let list = list.iter().flat_map(|list| &list.value);
                    list.map(|text| text.text.clone()).collect::<Vec<String>>()
                };
                let modes = input.modes.as_ref().map(|modes| modes.value);
                let include = patterns(&input.include);
                let everything = include.iter().all(|pattern| pattern == "**");
                let local = LocalSource {
                    name: paths::join(dir, &local),
                    include: if everything { Vec::new() } else { include },
                    exclude: read_ignore_file(&patterns(&input.exclude).join("\n")),
                    modes: match modes.unwrap_or(ModeRule::Git) {
                        ModeRule::Git => FileModes::Git,
                        ModeRule::Exact => FileModes::Exact,
                    },
                };
                self.check_patterns(&input.include, &input.exclude)?;
                Some(From::Local(local))
            }
            Input::Url(input) => {
                let url = Text {
                    text: self.plain(&input.url, scope)?,
                    span: input.url.span.clone(),
                };
                if !url.text.starts_with("http://") && !url.text.starts_with("https://") {
                    let message = format!("`{}` is no URL of a web server", url.text);
                    let label = "it begins with `https://` or `http://`";
                    self.errors
                        .push(Diagnostic::error(message, url.span, label));
                    return None;
                }
                let checksum = match &input.sha256 {
                    None => None,
                    Some(text) => {
                        let digits = text.text.strip_prefix("sha256:").unwrap_or(&text.text);
                        let digest = format!("sha256:{digits}").parse();
                        let Ok(digest) = digest else {
                            let message = format!("`{}` is no SHA-256", text.text);
                            let label = "64 hexadecimal digits";
                            self.errors
                                .push(Diagnostic::error(message, text.span.clone(), label));
                            return None;
                        };
                        Some((digest, text.span.clone()))
                    }
                };
                let mode = match &input.mode {
                    None => None,
                    Some(mode) => Some((self.octal(mode)?, mode.clone())),
                };
                let mut source = rbuild_dockerfile::http_source(&url.text);
                source.checksum = checksum.as_ref().map(|(digest, _)| *digest);
                source.mode = mode.as_ref().map(|(bits, _)| *bits);
                Some(From::Url(Url {
                    url,
                    checksum: checksum.map(|(digest, span)| Text {
                        text: digest.to_string(),
                        span,
                    }),
                    mode: mode.map(|(_, text)| text),
                    source,
                }))
            }
            Input::Git(input) => self.git_input(input, scope).map(From::Git),
            Input::Dockerfile(input) => {
                let stage = self.dockerfile(module, name, input, asked)?;
                Some(From::Stage(stage))
            }
        }
    }

    fn image(&mut self, text: &str, dir: &str, span: &Span) -> Option<SourceOp> {
        if let Some(layout) = text.strip_prefix("oci-layout://") {
            let (path, reference) = match layout.rsplit_once(['@', ':']) {
                Some((path, tag)) if !tag.contains('/') && !path.ends_with("sha256") => {
                    (path, Some(tag.to_owned()))
                }
                _ => match layout.split_once('@') {
                    Some((path, digest)) => (path, Some(digest.to_owned())),
                    None => (layout, None),
                },
            };
            return Some(SourceOp::OciLayout(OciLayoutSource {
                path: paths::join(dir, path),
                reference,
                digest: None,
            }));
        }
        match rbuild_dockerfile::normalise_reference(text) {
            Ok(reference) => Some(SourceOp::Image(ImageSource {
                reference,
                digest: None,
            })),
            Err(error) => {
                let message = format!("`{text}` is no name of an image");
                self.errors
                    .push(Diagnostic::error(message, span.clone(), error.to_string()));
                None
            }
        }
    }

    fn git_input(&mut self, input: &GitInput, scope: Scope<'_>) -> Option<Git> {
        let mut url = self.plain(&input.git, scope)?;
        let reference = match &input.r#ref {
            Some(text) => self.plain(text, scope)?,
            None => String::new(),
        };
        let subdir = match &input.subdir {
            Some(text) => self.plain(text, scope)?,
            None => String::new(),
        };
        if url.contains('#') {
            let message = "the `git` of an input has no `#`";
            let label = "name a branch, tag or commit with `ref`, a directory with `subdir`";
            self.errors
                .push(Diagnostic::error(message, input.git.span.clone(), label));
            return None;
        }
        let remote = url.clone();
        match (reference.is_empty(), subdir.is_empty()) {
            (true, true) => {}
            (_, true) => url.push_str(&format!("#{reference}")),
            _ => url.push_str(&format!("#{reference}:{subdir}")),
        }
        let keep_git_dir = input.keep_git_dir.as_ref().map(|keep| keep.value);
        let commit = input.commit.as_ref().map(|commit| commit.text.as_str());
        match rbuild_dockerfile::git_source(&url, keep_git_dir, commit) {
            Some(Ok(source)) => Some(Git {
                url: Text {
                    text: url,
                    span: input.git.span.clone(),
                },
                commit: input.commit.clone(),
                keep_git_dir,
                source: SourceOp::Git(source),
            }),
            Some(Err(error)) => {
                let span = input.git.span.clone();
                self.errors.push(Diagnostic::error(error, span, ""));
                None
            }
            None => {
                let message = format!("`{remote}` is no URL of a git repository");
                let hint = "it ends with `.git`, or begins with `git://`, `ssh://` or `git@`";
                self.errors
                    .push(Diagnostic::error(message, input.git.span.clone(), "").hint(hint));
                None
            }
        }
    }

    /// The stage that a target of a Dockerfile is.
    fn dockerfile(
        &mut self,
        module: ModuleId,
        name: &str,
        input: &DockerfileInput,
        asked: &Span,
    ) -> Option<StageId> {
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        let key = (module, name.to_owned());
        let qualified = self.qualified(module, name);
        if let Some(start) = self.stack.iter().position(|(have, _)| *have == key) {
            let error = self.cycle(start, &qualified, asked);
            self.errors.push(error);
            return None;
        }
        let modules = self.modules;
        let dir = &modules.get(module).dir;
        let path = paths::join(dir, &input.dockerfile.text);
        let Some(source) = self.request.files.get(&path) else {
            let message = format!("the Dockerfile `{path}` does not exist");
            let span = input.dockerfile.span.clone();
            self.errors.push(Diagnostic::error(message, span, ""));
            return None;
        };
        let context = match &input.context {
            Some(context) => paths::join(dir, &context.text),
            None => paths::parent(&path),
        };
        let beside = format!("{path}.dockerignore");
        let ignores = [beside, paths::join(&context, ".dockerignore")];
        let ignore = ignores.iter().find_map(|path| self.request.files.get(path));
        let exclude = ignore.map_or_else(Vec::new, |file| read_ignore_file(&file.text));
        let mut build_args: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &self.request.build_args {
            if crate::values::is_predefined(name) {
                build_args.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &input.args {
            let value = self.plain(&value.value, scope)?;
            build_args.insert(name.clone(), value);
        }
        self.stack.push((key, asked.clone()));
        let mut contexts = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (name, from) in &input.contexts {
            let (stand_in, stage) = match self.from(module, &from.value) {
                Some(From::Image { source, .. }) => (NamedContext::Image(source), None),
                Some(other) => {
                    let at = self.place(module, &from.value);
                    let stage = self.stage_of(&from.value.text, other, &at);
                    (NamedContext::Step, stage)
                }
                None => continue,
            };
            named.insert(name.clone(), stand_in);
            contexts.extend(stage.map(|stage| (name.clone(), stage)));
        }
        self.stack.pop();
        let request = FrontendRequest {
            source: std::sync::Arc::clone(source),
            context: MainContext::Files(SourceOp::Local(LocalSource {
                name: context,
                include: Vec::new(),
                exclude,
                modes: FileModes::Exact,
            })),
            ignore: ignore.cloned(),
            targets: input
                .target
                .iter()
                .map(|target| target.text.clone())
                .collect(),
            build_args,
            contexts: named,
            labels: BTreeMap::new(),
            ..self.request.clone()
        };
        let input = ProgramInput { request, contexts };
        if let Some((_, stage)) = self.dockerfiles.iter().find(|(have, _)| *have == input) {
            return Some(*stage);
        }
        let stage = self.program.dockerfile(&qualified, input.clone(), asked);
        self.dockerfiles.push((input, stage));
        Some(stage)
    }
}

/// Whether a value fits the type of an argument.
pub(crate) fn fits(kind: Type, value: &str) -> bool {
    match kind {
        Type::String => true,
        Type::Bool => matches!(value, "true" | "false"),
        Type::Integer => value.parse::<i64>().is_ok(),
    }
}

impl Arg {
    pub(crate) fn default(&self) -> Option<&Scalar> {
        match self {
            Self::Default(default) => Some(default),
            Self::Table(table) => table.default.as_ref(),
        }
    }

    pub(crate) fn kind(&self) -> Type {
        match self {
            Self::Default(default) => default.kind,
            Self::Table(table) => table
                .r#type
                .as_ref()
                .map_or(Type::String, |kind| kind.value),
        }
    }
}
