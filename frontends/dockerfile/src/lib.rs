//! The Dockerfile frontend: text to build graph, with BuildKit's reference and behaviour as the specification.
//!
//! It does no I/O and runs nothing. [`Dockerfile`] is the way in; the way through:
//!
//! - `lexer`: logical lines, with the place of every byte; `parse`: the syntax tree (`ast`), all problems at once
//! - `words`: quotes, escapes and variables; `args`: ARG outside stages
//! - `stages`: which stages there are, what they need, what the target needs
//! - `convert`: stages to vertices and image configs; `lint`: BuildKit's rules
//!
//! Sources of files (contexts, git, http) do not depend on what is built for, so they are asked for, and stand in the
//! graph, with the build platform: builds for several platforms share them.

mod args;
mod ast;
mod convert;
mod env;
mod git;
mod lexer;
mod lint;
mod parse;
mod paths;
mod reference;
mod source;
mod stages;
mod suggest;
mod words;

use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::ImageConfig;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Outline;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::SourceOp;

pub use reference::ReferenceError;
pub use reference::normalise_reference;

use ast::Ast;
use ast::Kind;
use convert::Converter;
use convert::main_context;
use lint::Linter;
use source::Site;
use stages::Base;
use stages::Graph;
use stages::Node;

/// The language of Dockerfiles.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dockerfile;

/// What both calls start with.
struct Plan {
    ast: Ast,
    graph: Graph,
    lint: Linter,
}

impl Plan {
    fn new(request: &FrontendRequest, pins: &Pins) -> Result<Self, Vec<Diagnostic>> {
        let ast = parse::parse(&Site::file(&request.source))?;
        let check = request.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        let mut lint = Linter::new(&ast, check.map(String::as_str))?;
        lint::check(&ast, &mut lint);
        Graph::check_defaults(&ast, request, &mut lint);
        let mut graph = Graph::new(&ast, request, &mut lint)?;
        // A trigger may make stages reachable whose own bases have triggers.
        while graph.trigger(request, &|node| pinned_config(node, request, pins))? {}
        let mut errors = Vec::new();
        for at in graph.reachable() {
            for command in &graph.nodes[at].commands {
                if let Kind::Run(run) = &command.instruction.kind {
                    errors.extend(convert::check_mounts(run));
                }
            }
        }
        match errors.is_empty() {
            true => Ok(Self { ast, graph, lint }),
            false => Err(errors),
        }
    }

    /// What the target needs from outside.
    fn sources(&self, request: &FrontendRequest) -> Vec<SourceRequest> {
        let mut requests: Vec<SourceRequest> = Vec::new();
        let mut add = |new: SourceRequest| {
            let same =
                |have: &SourceRequest| have.source == new.source && have.platform == new.platform;
            if !requests.iter().any(same) {
                requests.push(new);
            }
        };
        for at in self.graph.reachable() {
            let node = &self.graph.nodes[at];
            let (source, platform) = match &node.base {
                Base::Image { source, .. } => (source, self.graph.platform(at, request)),
                Base::Files { source, .. } => (source, request.build_platform.clone()),
                Base::Scratch | Base::Stage(_) => continue,
            };
            add(SourceRequest {
                source: source.clone(),
                platform,
                span: Some(node.at.clone()),
            });
        }
        for at in self.graph.reachable() {
            for command in &self.graph.nodes[at].commands {
                let local = match &command.instruction.kind {
                    Kind::Add(add) => add.paths.iter().any(|path| !convert::is_remote(&path.text)),
                    Kind::Copy(copy) => copy.from.is_none() && !copy.paths.is_empty(),
                    Kind::Run(run) => convert::mounts_context(run),
                    _ => false,
                };
                if local {
                    add(SourceRequest {
                        source: main_context(request),
                        platform: request.build_platform.clone(),
                        span: Some(command.instruction.head.span.clone()),
                    });
                }
                if let Kind::Add(transfer) = &command.instruction.kind {
                    convert::foreseen(transfer, request)
                        .into_iter()
                        .for_each(&mut add);
                }
            }
        }
        requests
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

impl Frontend for Dockerfile {
    fn outline(&self, request: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>> {
        let plan = Plan::new(request, &Pins::default())?;
        let reachable: BTreeSet<usize> = plan.graph.reachable();
        let stages = reachable.iter().filter(|at| **at < plan.graph.stages);
        Ok(Outline {
            sources: plan.sources(request),
            reachable: stages
                .map(|at| plan.graph.nodes[*at].name.clone())
                .collect(),
            warnings: plan.lint.finish()?,
        })
    }

    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>> {
        let plan = Plan::new(request, pins)?;
        let missing: Vec<SourceRequest> = plan
            .sources(request)
            .into_iter()
            .filter(|r| needs_pin(&r.source) && pins.get(&r.source, &r.platform).is_none())
            .collect();
        if !missing.is_empty() {
            return Ok(Conversion::NeedsSources(missing));
        }
        let converter = Converter::new(&plan.ast, request, &plan.graph, pins, plan.lint);
        let result = converter.convert()?;
        if !result.missing.is_empty() {
            return Ok(Conversion::NeedsSources(result.missing));
        }
        Ok(Conversion::Done(Converted {
            definition: result.definition,
            warnings: result.lint.finish()?,
        }))
    }
}

#[cfg(test)]
mod tests;
