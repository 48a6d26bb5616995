//! Steps to the stages of a [`Program`].
//!
//! A step becomes a stage once for each set of values that it, and what it needs, reads of the arguments: outputs of
//! a matrix share all steps that do not depend on its axes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;

use foldhash::HashMap;
use foldhash::HashSet;
use rbuild_dockerfile::program::Input as ProgramInput;
use rbuild_dockerfile::program::Program;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Start;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;

use crate::modules::ModuleId;
use crate::modules::Modules;
use crate::modules::Thing;
use crate::read::Text;
use crate::schema::Arg;
use crate::schema::Input;
use crate::schema::Scalar;
use crate::schema::Type;
use crate::schema::When;

mod args;
mod body;
mod copy;
mod image;
mod inputs;
mod mounts;
mod needs;

/// Values that outputs give to arguments, by their qualified names.
pub(crate) type World = BTreeMap<String, String>;

/// What was read of the arguments: qualified names, and the values found.
type Reads = BTreeMap<Read, Option<Rc<str>>>;

/// What of an argument was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Read {
    /// Its value, be it the default.
    Value(Rc<str>),
    /// The value that somebody gave it.
    Given(Rc<str>),
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
    world: World,
    /// The values that arguments have in it, as far as they were asked for.
    values: RefCell<HashMap<Rc<str>, Option<Rc<str>>>>,
    steps: HashMap<Thing, Vec<Made>>,
    /// Steps with which something is wrong, which has been said.
    failed: HashSet<Thing>,
    /// Inputs as stages to copy from, by what they are.
    sources: Vec<(SourceOp, Option<Platform>, StageId)>,
    dockerfiles: Vec<(ProgramInput, StageId)>,
    /// The steps being made, each with the place that asks for the next.
    stack: Vec<(Thing, Span)>,
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
            values: RefCell::default(),
            steps: HashMap::default(),
            failed: HashSet::default(),
            sources: Vec::new(),
            dockerfiles: Vec::new(),
            stack: Vec::new(),
            reads: vec![Reads::new()],
        }
    }

    /// Gives arguments the values of an output.
    pub(crate) fn set_world(&mut self, world: World) {
        self.world = world;
        self.values.get_mut().clear();
    }

    /// What a name of a step or input stands for. Problems are noted, and then there is nothing.
    pub(crate) fn from(&mut self, module: ModuleId, name: &Text) -> Option<From> {
        match self.modules.thing(module, name) {
            Ok(Thing::Scratch) => Some(From::Scratch),
            Ok(step @ Thing::Step(..)) => self.step(step, &name.span).map(From::Stage),
            Ok(Thing::Input(module, at)) => self.input(module, at, &name.span),
            Err(error) => {
                self.errors.push(error);
                None
            }
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
        let Ok(Thing::Input(module, at)) = self.modules.thing(module, name) else {
            return name.span.clone();
        };
        let text = match self.modules.input(module, at) {
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
    pub(crate) fn step(&mut self, step: Thing, asked: &Span) -> Option<StageId> {
        if let Some(stage) = self.made(step) {
            return Some(stage);
        }
        if self.stack.is_empty() && !self.needed_first(step, asked) {
            return None;
        }
        if let Some(start) = self.stack.iter().position(|(have, _)| *have == step) {
            let error = self.cycle(start, step, asked);
            self.errors.push(error);
            return None;
        }
        self.alone(step, asked);
        self.made(step)
    }

    /// Makes all that a step needs, the first first, so that long chains of steps are no deep recursion. Whether there is
    /// an order in which that can be done.
    fn needed_first(&mut self, step: Thing, asked: &Span) -> bool {
        let mut open: Vec<(needs::Need, bool)> = vec![(
            needs::Need {
                thing: step,
                span: asked.clone(),
            },
            false,
        )];
        // The things on the way to the one at hand, and those that are behind it: `false` and `true`.
        let mut way: Vec<(Thing, Span)> = Vec::new();
        let mut seen: HashMap<Thing, bool> = HashMap::default();
        while let Some((need, ready)) = open.pop() {
            let at = need.thing;
            if ready {
                way.pop();
                seen.insert(at, true);
                if at != step && matches!(at, Thing::Step(..)) {
                    self.reads.push(Reads::new());
                    self.alone(at, &need.span);
                    self.reads.pop();
                }
                continue;
            }
            match seen.insert(at, false) {
                None => {}
                Some(true) => {
                    seen.insert(at, true);
                    continue;
                }
                Some(false) => {
                    let start = way.iter().position(|(have, _)| *have == at);
                    let start = start.expect("what is not behind the way is on it");
                    std::mem::swap(&mut self.stack, &mut way);
                    let error = self.cycle(start, at, &need.span);
                    std::mem::swap(&mut self.stack, &mut way);
                    self.errors.push(error);
                    return false;
                }
            }
            way.push((at, need.span.clone()));
            let more = needs::of(self.modules, at);
            open.push((need, true));
            open.extend(more.into_iter().rev().map(|need| (need, false)));
        }
        true
    }

    /// Makes a step whose needs are made.
    fn alone(&mut self, step: Thing, asked: &Span) {
        let Thing::Step(module, at) = step else {
            return;
        };
        if self.failed.contains(&step) || self.made(step).is_some() {
            return;
        }
        let modules = self.modules;
        let qualified = modules.qualified(step);
        self.stack.push((step, asked.clone()));
        self.reads.push(Reads::new());
        let stage = self.make_step(module, &qualified, modules.step(module, at));
        self.stack.pop();
        let reads = self.reads.pop().unwrap_or_default();
        self.note(&reads);
        match stage {
            Some(stage) => self
                .steps
                .entry(step)
                .or_default()
                .push(Made { reads, stage }),
            None => {
                self.failed.insert(step);
            }
        }
    }

    /// The stage that a step is under the values that arguments have now, if it was made. What it reads is read.
    fn made(&mut self, step: Thing) -> Option<StageId> {
        let made = self.steps.get(&step)?;
        let fits = |made: &&Made| {
            let mut reads = made.reads.iter();
            reads.all(|(read, value)| match read {
                Read::Value(name) => self.value_now(name) == *value,
                Read::Given(name) => self.given_now(name).map(Rc::from) == *value,
            })
        };
        let made = made.iter().find(fits)?;
        if let Some(outer) = self.reads.last_mut() {
            outer.extend(
                made.reads
                    .iter()
                    .map(|(read, value)| (read.clone(), value.clone())),
            );
        }
        Some(made.stage)
    }

    /// Does something, and tells which arguments were read for it.
    pub(crate) fn reading<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (T, BTreeSet<String>) {
        self.reads.push(Reads::new());
        let done = act(self);
        let reads = self.reads.pop().unwrap_or_default();
        self.note(&reads);
        let names = reads.into_keys().map(|read| match read {
            Read::Value(name) | Read::Given(name) => name.as_ref().to_owned(),
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
        [&self.modules.get(module).prefix, name].concat()
    }

    fn cycle(&self, start: usize, thing: Thing, asked: &Span) -> Diagnostic {
        let path = &self.stack[start..];
        let things = path.iter().map(|(have, _)| *have).chain([thing]);
        let names: Vec<String> = things.map(|have| self.modules.qualified(have)).collect();
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
