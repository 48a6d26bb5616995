//! Stages that another language puts together: the same instructions, converted by the same rules, without a
//! Dockerfile's text.
//!
//! Stages of a [`Program`] name each other by what [`Program::stage`] gives; that there are no cycles is for the language
//! to see to. Words
//! of its instructions are words of a Dockerfile, with `\` as the escape character; [`literal`] makes one of a text
//! that stands for itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::SourceOp;

pub use crate::ast::Arg;
pub use crate::ast::CommandLine;
pub use crate::ast::Kind;
pub use crate::ast::Mount;
pub use crate::ast::MountField;
pub use crate::ast::Pair;
pub use crate::ast::Run;
pub use crate::ast::Transfer;
pub use crate::ast::Word;
pub use crate::lexer::Heredoc;

use crate::Dockerfile;
use crate::Plan;
use crate::args::platform_args;
use crate::ast::Head;
use crate::ast::Instruction;
use crate::ast::Keyword;
use crate::convert::Converter;
use crate::lint::Linter;
use crate::needs_pin;
use crate::stages::Base;
use crate::stages::Command;
use crate::stages::Graph;
use crate::stages::Nested;
use crate::stages::Node;
use crate::stages::Scope;

mod print;
mod text;

pub use text::Text;
pub use text::Unsaid;

/// The escape character of words.
const ESCAPE: char = '\\';

/// A stage of a [`Program`], or something that files are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(usize);

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Nothing.
    Scratch,
    /// Another stage, with its files, its environment and its image config.
    Stage(StageId),
    /// An image, with the triggers it brings (ONBUILD).
    Image {
        /// Not pinned.
        source: SourceOp,
        /// For another platform than what is built for.
        platform: Option<Platform>,
    },
}

/// An instruction of a stage.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it does.
    pub kind: Kind,
    /// Where the files come from that it takes: for COPY and ADD one, for RUN one for each mount, which is `None` where
    /// the mount takes none.
    pub sources: Vec<Option<StageId>>,
    /// As people see it; `None` for the instruction as a Dockerfile has it.
    pub title: Option<String>,
    /// Where it is written.
    pub at: Span,
}

/// A target of a Dockerfile that takes part in a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The Dockerfile, its target, arguments, context and named contexts.
    pub request: FrontendRequest,
    /// What its named contexts of the kind [`NamedContext::Step`] are.
    pub contexts: BTreeMap<String, StageId>,
}

/// Stages, each after those it needs.
#[derive(Debug, Default)]
pub struct Program {
    nodes: Vec<Node>,
    targets: Vec<usize>,
}

/// A word that stands for `text`, whatever characters it has.
pub fn literal(text: &str) -> String {
    let special = |c: char| c.is_whitespace() || matches!(c, '$' | '\'' | '"' | ESCAPE | '<' | '#');
    if !text.is_empty() && !text.contains(special) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Program {
    /// A program without stages.
    pub fn new() -> Self {
        Self::default()
    }

    fn node(&mut self, node: Node) -> StageId {
        self.nodes.push(node);
        StageId(self.nodes.len() - 1)
    }

    /// Files from outside, or the files of an image: something to copy from, to mount, and to start from.
    pub fn source(
        &mut self,
        name: &str,
        source: SourceOp,
        platform: Option<Platform>,
        at: &Span,
    ) -> StageId {
        let base = match &source {
            SourceOp::Image(_) | SourceOp::OciLayout(_) => Base::Image {
                source,
                context: None,
            },
            SourceOp::Local(_) | SourceOp::Git(_) | SourceOp::Http(_) => Base::Files {
                source,
                context: name.to_owned(),
            },
        };
        let node = Node {
            platform,
            triggered: true,
            ..node(name, base, at)
        };
        self.node(node)
    }

    /// A target of a Dockerfile.
    pub fn dockerfile(&mut self, name: &str, input: Input, at: &Span) -> StageId {
        let contexts = input
            .contexts
            .into_iter()
            .map(|(name, StageId(at))| (name, at));
        let nested = Nested {
            contexts: contexts.collect(),
            request: input.request,
        };
        let node = Node {
            triggered: true,
            ..node(name, Base::Dockerfile(Box::new(nested)), at)
        };
        self.node(node)
    }

    /// A stage without instructions.
    pub fn stage(&mut self, name: &str, start: Start, at: &Span) -> StageId {
        let (base, platform) = match start {
            Start::Scratch => (Base::Scratch, None),
            Start::Stage(StageId(at)) => (Base::Stage(at), None),
            Start::Image { source, platform } => (
                Base::Image {
                    source,
                    context: None,
                },
                platform,
            ),
        };
        let base_name = match &base {
            Base::Scratch => "scratch".to_owned(),
            Base::Stage(at) => self.nodes[*at].name.clone(),
            Base::Image { source, .. } => shown(source),
            Base::Files { .. } | Base::Dockerfile(_) | Base::Outer(_) => String::new(),
        };
        let head = Head {
            keyword: Keyword {
                text: Cow::Borrowed("FROM"),
                span: at.clone(),
            },
            span: at.clone(),
            text: ["FROM ", &base_name, " AS ", name].concat(),
            comments: Vec::new(),
        };
        let node = Node {
            named: true,
            head: Some(head),
            base_name,
            platform,
            ..node(name, base, at)
        };
        self.node(node)
    }

    /// Adds an instruction to a stage.
    pub fn push(&mut self, stage: StageId, step: Step) {
        let text = match step.title {
            Some(title) => title,
            None => print::line(&step.kind),
        };
        let head = Head {
            keyword: Keyword {
                text: Cow::Borrowed(step.kind.keyword()),
                span: step.at.clone(),
            },
            span: step.at,
            text,
            comments: Vec::new(),
        };
        let sources = step.sources.into_iter();
        self.nodes[stage.0].commands.push(Command {
            instruction: Arc::new(Instruction {
                head,
                kind: step.kind,
            }),
            onbuild: false,
            sources: sources.map(|source| source.map(|StageId(at)| at)).collect(),
        });
    }

    /// Asks for a stage as an output of the graph. Outputs are in the order they were asked for.
    pub fn target(&mut self, stage: StageId) {
        self.targets.push(stage.0);
    }

    /// The same stages, each after those it needs.
    fn in_order(self) -> Self {
        let mut order: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut place: Vec<Option<usize>> = vec![None; self.nodes.len()];
        // What is open a second time has all it needs in place.
        let mut open: Vec<(usize, bool)> =
            self.targets.iter().rev().map(|at| (*at, false)).collect();
        while let Some((at, ready)) = open.pop() {
            if place[at].is_some() {
                continue;
            }
            if ready {
                place[at] = Some(order.len());
                order.push(at);
                continue;
            }
            open.push((at, true));
            open.extend(needs(&self.nodes[at]).map(|need| (need, false)));
        }
        if order.len() == self.nodes.len() && order.iter().enumerate().all(|(at, old)| at == *old) {
            return self;
        }
        let new = |at: usize| place[at].expect("what a stage needs is placed before it");
        let mut nodes: Vec<Option<Node>> = self.nodes.into_iter().map(Some).collect();
        let taken = order.iter().map(|at| {
            let mut node = nodes[*at].take().expect("the order has every stage once");
            match &mut node.base {
                Base::Stage(base) => *base = new(*base),
                Base::Dockerfile(nested) => {
                    nested.contexts.values_mut().for_each(|at| *at = new(*at));
                }
                Base::Scratch | Base::Image { .. } | Base::Files { .. } | Base::Outer(_) => {}
            }
            let sources = node
                .commands
                .iter_mut()
                .flat_map(|command| &mut command.sources);
            sources.flatten().for_each(|at| *at = new(*at));
            node
        });
        Self {
            nodes: taken.collect(),
            targets: self.targets.into_iter().map(new).collect(),
        }
    }

    /// Makes the program ready for conversions of `request`.
    ///
    /// # Errors
    /// What is wrong with mounts.
    pub fn prepare(self, request: FrontendRequest) -> Result<Prepared, Vec<Diagnostic>> {
        let Self { nodes, targets } = self.in_order();
        let graph = Graph {
            stages: nodes.len(),
            nodes,
            targets,
            scope: Scope::Target,
            globals: platform_args(&request, "default"),
            declared: BTreeMap::new(),
            alone: false,
        };
        let plan = Plan::of_graph(ESCAPE, graph, &request, &Pins::default())?;
        Ok(Prepared { plan, request })
    }
}

/// A program whose stages are in order.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    request: FrontendRequest,
}

impl Prepared {
    /// The sources that the targets need, each once.
    ///
    /// # Errors
    /// What is wrong with Dockerfiles that are inputs.
    pub fn sources(&self, dockerfiles: &Dockerfile) -> Result<Vec<SourceRequest>, Vec<Diagnostic>> {
        let mut lint = Linter::new(&self.request)?;
        all_sources(
            &self.plan,
            dockerfiles,
            &self.request,
            &Pins::default(),
            &mut lint,
        )
    }

    /// Converts what the targets need, or tells which sources must be pinned for that.
    ///
    /// # Errors
    /// What is wrong with instructions, and with Dockerfiles that are inputs.
    pub fn convert(
        &mut self,
        dockerfiles: &Dockerfile,
        pins: &Pins,
    ) -> Result<Conversion<Converted>, Vec<Diagnostic>> {
        let request = &self.request;
        let mut lint = Linter::new(request)?;
        self.plan.trigger(request, pins)?;
        let plan = &self.plan;
        let mut missing = all_sources(plan, dockerfiles, request, pins, &mut lint)?;
        missing.retain(|r| needs_pin(&r.source) && pins.get(&r.source, &r.platform).is_none());
        if !missing.is_empty() {
            return Ok(Conversion::NeedsSources(missing));
        }
        let converter = Converter::new(
            plan.escape,
            request,
            &plan.graph,
            pins,
            dockerfiles,
            &mut lint,
        );
        let finished = converter.convert()?;
        if !finished.missing.is_empty() {
            return Ok(Conversion::NeedsSources(finished.missing));
        }
        Ok(Conversion::Done(Converted {
            definition: finished.definition,
            goals: Vec::new(),
            warnings: lint.finish()?,
        }))
    }
}

/// The sources of a program, those of the Dockerfiles in it among them.
fn all_sources(
    plan: &Plan,
    dockerfiles: &Dockerfile,
    request: &FrontendRequest,
    pins: &Pins,
    lint: &mut Linter,
) -> Result<Vec<SourceRequest>, Vec<Diagnostic>> {
    let mut requests = plan.sources(request);
    for at in plan.graph.reachable() {
        let Base::Dockerfile(nested) = &plan.graph.nodes[at].base else {
            continue;
        };
        let ast = dockerfiles.parse(&nested.request.source)?;
        let inner = Plan::new(&ast, Scope::Target, &nested.request, pins, lint)?;
        for new in inner.sources(&nested.request) {
            let same =
                |have: &SourceRequest| have.source == new.source && have.platform == new.platform;
            if !requests.iter().any(same) {
                requests.push(new);
            }
        }
    }
    Ok(requests)
}

/// The stages that a stage needs.
fn needs(node: &Node) -> impl Iterator<Item = usize> {
    let (base, contexts) = match &node.base {
        Base::Stage(base) => (Some(*base), None),
        Base::Dockerfile(nested) => (None, Some(nested.contexts.values())),
        Base::Scratch | Base::Image { .. } | Base::Files { .. } | Base::Outer(_) => (None, None),
    };
    let sources = node.commands.iter().flat_map(|command| &command.sources);
    let base = base
        .into_iter()
        .chain(contexts.into_iter().flatten().copied());
    base.chain(sources.flatten().copied())
}

fn node(name: &str, base: Base, at: &Span) -> Node {
    Node {
        name: name.to_owned(),
        named: false,
        head: None,
        at: at.clone(),
        base_name: name.to_owned(),
        base,
        platform: None,
        uses: BTreeSet::new(),
        commands: Vec::new(),
        replaced: false,
        triggered: false,
    }
}

/// An image source as FROM has it.
fn shown(source: &SourceOp) -> String {
    match source {
        SourceOp::Image(image) => image.reference.clone(),
        SourceOp::OciLayout(layout) => layout.path.clone(),
        SourceOp::Local(local) => local.name.clone(),
        SourceOp::Git(git) => git.remote.clone(),
        SourceOp::Http(http) => http.url.clone(),
    }
}
