//! The Dockerfile frontend: text to build graph, with BuildKit's reference and behaviour as the specification.
//!
//! It does no I/O and runs nothing. [`Dockerfile`] is the way in; the way through:
//!
//! - `lexer`: logical lines, with the place of every byte; `parse`: the syntax tree (`ast`), all problems at once
//! - `words`: quotes, escapes and variables; `args`: ARG outside stages
//! - `stages`: which stages there are, what they need, what the target needs
//! - `convert`: stages to vertices and image configs; `lint`: BuildKit's rules
//! - `program`: stages that another language puts together, converted by the same rules
//! - `file`: the syntax tree for other languages, which say the same in their own way
//! - `inspect`: what can be asked of a file besides a graph: findings, targets, parameters
//!
//! Sources of files (contexts, git, http) do not depend on what is built for, so they are asked for, and stand in the
//! graph, with the build platform: builds for several platforms share them.

mod args;
mod ast;
mod convert;
mod env;
pub mod file;
mod git;
mod inspect;
mod lexer;
mod lint;
mod parse;
mod paths;
pub mod program;
mod reference;
mod source;
mod stages;

mod syntax;
mod words;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::ImageConfig;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::definition::Output;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::Outline;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::SourceOp;

pub use convert::http_source;
pub use git::git_context;
pub use git::git_source;
pub use lint::rules;
pub use parse::parse_duration;
pub use reference::ReferenceError;
pub use reference::normalise_reference;

use ast::Ast;
use ast::Kind;
use convert::Converter;
use convert::Finished;
use convert::main_context;
use lint::Linter;
use source::Site;
use stages::Base;
use stages::Graph;
use stages::Node;
use stages::Scope;

/// The language of Dockerfiles. It remembers the file it parsed last: a build asks several things of the same one.
#[derive(Debug, Default)]
pub struct Dockerfile {
    parsed: Mutex<Option<(Arc<SourceFile>, Arc<Ast>)>>,
}

/// What every question about a file starts with.
#[derive(Debug)]
struct Plan {
    escape: char,
    graph: Graph,
}

impl Plan {
    fn new(
        ast: &Ast,
        scope: Scope,
        request: &FrontendRequest,
        pins: &Pins,
        lint: &mut Linter,
    ) -> Result<Self, Vec<Diagnostic>> {
        lint::check(ast, lint);
        Graph::check_defaults(ast, request, lint);
        let graph = Graph::new(ast, scope, request, lint)?;
        Self::of_graph(ast.escape, graph, request, pins)
    }

    /// A plan whose bases have added their triggers, as far as they are known.
    fn of_graph(
        escape: char,
        graph: Graph,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut plan = Self { escape, graph };
        plan.add_triggers(request, pins)?;
        plan.check_mounts()?;
        Ok(plan)
    }

    /// Adds the triggers of bases that have become known.
    fn trigger(&mut self, request: &FrontendRequest, pins: &Pins) -> Result<(), Vec<Diagnostic>> {
        match self.add_triggers(request, pins)? {
            true => self.check_mounts(),
            false => Ok(()),
        }
    }

    /// Adds the triggers of bases that are known. Whether there were any.
    fn add_triggers(
        &mut self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<bool, Vec<Diagnostic>> {
        let mut any = false;
        // A trigger may make stages reachable whose own bases have triggers.
        while self
            .graph
            .trigger(request, &|node| pinned_config(node, request, pins))?
        {
            any = true;
        }
        Ok(any)
    }

    fn check_mounts(&self) -> Result<(), Vec<Diagnostic>> {
        let mut errors = Vec::new();
        for at in self.graph.reachable() {
            for command in &self.graph.nodes[at].commands {
                if let Kind::Run(run) = &command.instruction.kind {
                    errors.extend(convert::check_mounts(run));
                }
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    /// What the target needs from outside.
    fn sources(&self, request: &FrontendRequest) -> Vec<SourceRequest> {
        /// The request, if it is the first for its source.
        fn add(
            requests: &mut Vec<SourceRequest>,
            new: SourceRequest,
        ) -> Option<&mut SourceRequest> {
            let same =
                |have: &SourceRequest| have.source == new.source && have.platform == new.platform;
            if requests.iter().any(same) {
                return None;
            }
            requests.push(new);
            requests.last_mut()
        }
        let mut requests: Vec<SourceRequest> = Vec::new();
        let reachable = self.graph.reachable();
        for &at in &reachable {
            let node = &self.graph.nodes[at];
            let (source, platform) = match &node.base {
                Base::Image { source, .. } => (source, self.graph.platform(at, request)),
                Base::Files { source, .. } => (source, request.build_platform.clone()),
                Base::Scratch | Base::Stage(_) | Base::Dockerfile(_) | Base::Outer(_) => continue,
            };
            let new = SourceRequest {
                source: source.clone(),
                platform,
                span: Some(node.at.clone()),
                near: None,
            };
            if let Some(added) = add(&mut requests, new) {
                added.near = self.graph.near(node);
            }
        }
        let mut context = (request.context == MainContext::Local).then(|| main_context(request));
        for at in reachable {
            for command in &self.graph.nodes[at].commands {
                let local = context.is_some()
                    && match &command.instruction.kind {
                        Kind::Add(add) => {
                            add.paths.iter().any(|path| !convert::is_remote(&path.text))
                        }
                        Kind::Copy(copy) => copy.from.is_none() && !copy.paths.is_empty(),
                        Kind::Run(run) => convert::mounts_context(run),
                        _ => false,
                    };
                if let Some(source) = context.take_if(|_| local) {
                    let new = SourceRequest {
                        source,
                        platform: request.build_platform.clone(),
                        span: Some(command.instruction.head.span.clone()),
                        near: None,
                    };
                    add(&mut requests, new);
                }
                if let Kind::Add(transfer) = &command.instruction.kind {
                    for new in convert::foreseen(transfer, request) {
                        add(&mut requests, new);
                    }
                }
            }
        }
        requests
    }
}

impl Dockerfile {
    /// Parses the file, and reads what it says of lint rules.
    fn read(&self, request: &FrontendRequest) -> Result<(Arc<Ast>, Linter), Vec<Diagnostic>> {
        syntax::check(request).map_err(|error| vec![*error])?;
        let ast = self.parse(&request.source)?;
        let lint = Linter::new(request)?;
        Ok((ast, lint))
    }

    fn parse(&self, source: &Arc<SourceFile>) -> Result<Arc<Ast>, Vec<Diagnostic>> {
        // A thread that panicked here left what was there.
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((file, ast)) = &*parsed
            && Arc::ptr_eq(file, source)
        {
            return Ok(Arc::clone(ast));
        }
        let ast = Arc::new(parse::parse(&Site::file(source))?);
        *parsed = Some((Arc::clone(source), Arc::clone(&ast)));
        Ok(ast)
    }
}

/// Converts what the scope says, or tells which sources must be pinned for that.
fn convert_scope(
    dockerfiles: &Dockerfile,
    ast: &Ast,
    scope: Scope,
    request: &FrontendRequest,
    pins: &Pins,
    lint: &mut Linter,
) -> Result<Conversion<(Finished, Graph)>, Vec<Diagnostic>> {
    let plan = Plan::new(ast, scope, request, pins, lint)?;
    let missing: Vec<SourceRequest> = plan
        .sources(request)
        .into_iter()
        .filter(|r| needs_pin(&r.source) && pins.get(&r.source, &r.platform).is_none())
        .collect();
    if !missing.is_empty() {
        return Ok(Conversion::NeedsSources(missing));
    }
    let finished =
        Converter::new(plan.escape, request, &plan.graph, pins, dockerfiles, lint).convert()?;
    match finished.missing.is_empty() {
        true => Ok(Conversion::Done((finished, plan.graph))),
        false => Ok(Conversion::NeedsSources(finished.missing)),
    }
}

fn pinned_config(node: &Node, request: &FrontendRequest, pins: &Pins) -> Option<ImageConfig> {
    let Base::Image { source, .. } = &node.base else {
        return None;
    };
    let platform = node.platform.as_ref().unwrap_or(&request.target_platform);
    match pins.get(source, platform) {
        Some(Pin::Image { config, .. }) => Some((**config).clone()),
        _ => None,
    }
}

/// Whether conversion cannot go on without a pin for the source.
fn needs_pin(source: &SourceOp) -> bool {
    match source {
        SourceOp::Image(_) | SourceOp::OciLayout(_) => true,
        SourceOp::Local(_) => false,
        SourceOp::Git(git) => git.commit.is_none(),
        SourceOp::Http(http) => http.checksum.is_none(),
    }
}

/// The request for each of its targets by itself: TARGETSTAGE, and what stages make of it, differs between them.
fn each_target(request: &FrontendRequest) -> Vec<Cow<'_, FrontendRequest>> {
    let one = |target: &String| {
        Cow::Owned(FrontendRequest {
            targets: vec![target.clone()],
            ..request.clone()
        })
    };
    match request.targets.as_slice() {
        [] | [_] => vec![Cow::Borrowed(request)],
        several => several.iter().map(one).collect(),
    }
}

impl Frontend for Dockerfile {
    fn platforms(&self, request: &FrontendRequest) -> Result<Vec<Platform>, Vec<Diagnostic>> {
        Ok(vec![request.build_platform.clone()])
    }

    /// Stages without a name are built for others alone.
    fn all_targets(&self, request: &FrontendRequest) -> Result<Vec<String>, Vec<Diagnostic>> {
        let stages = self.targets(request)?.into_iter();
        Ok(stages.filter_map(|stage| stage.name).collect())
    }

    fn outline(&self, request: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>> {
        let mut all = Outline::default();
        for request in each_target(request) {
            let (ast, mut lint) = self.read(&request)?;
            let plan = Plan::new(&ast, Scope::Target, &request, &Pins::default(), &mut lint)?;
            let reachable = plan.graph.reachable();
            let stages = reachable.iter().filter(|at| **at < plan.graph.stages);
            let names = stages.map(|at| plan.graph.nodes[*at].name.clone());
            add_new(&mut all.reachable, names);
            add_new(&mut all.sources, plan.sources(&request));
            add_new(&mut all.warnings, lint.finish()?);
        }
        Ok(all)
    }

    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>> {
        let mut all: Option<Converted> = None;
        for request in each_target(request) {
            let (ast, mut lint) = self.read(&request)?;
            let finished =
                match convert_scope(self, &ast, Scope::Target, &request, pins, &mut lint)? {
                    Conversion::NeedsSources(sources) => {
                        return Ok(Conversion::NeedsSources(sources));
                    }
                    Conversion::Done((finished, _)) => finished,
                };
            let warnings = lint.finish()?;
            match &mut all {
                None => {
                    all = Some(Converted {
                        definition: finished.definition,
                        goals: Vec::new(),
                        warnings,
                    });
                }
                Some(all) => {
                    all.definition.extend(finished.definition);
                    add_new(&mut all.warnings, warnings);
                }
            }
        }
        let mut all = all.expect("a request without targets is one for the default target");
        let goal = |output: &Output| Goal {
            name: output.name.clone(),
            ..Goal::default()
        };
        all.goals = all.definition.outputs.iter().map(goal).collect();
        Ok(Conversion::Done(all))
    }
}

fn add_new<T: PartialEq>(to: &mut Vec<T>, from: impl IntoIterator<Item = T>) {
    for new in from {
        if !to.contains(&new) {
            to.push(new);
        }
    }
}

#[cfg(test)]
mod tests;
