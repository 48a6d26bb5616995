//! What can be asked of a Dockerfile besides its graph, with the answers of BuildKit's `frontend.lint`,
//! `frontend.targets` and `frontend.outline`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pins;
use rbuild_llb::inspect::Argument;
use rbuild_llb::inspect::Findings;
use rbuild_llb::inspect::Need;
use rbuild_llb::inspect::Parameters;
use rbuild_llb::inspect::Target;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::SecretEnv;

use crate::Dockerfile;
use crate::args::Declared;
use crate::ast::Head;
use crate::convert_scope;
use crate::stages::Base;
use crate::stages::Graph;
use crate::stages::Scope;

impl Dockerfile {
    /// Checks a target, or all stages if the request names none. Findings do not depend on what was built before,
    /// but some need the configs of bases.
    pub fn check(&self, request: &FrontendRequest, pins: &Pins) -> Conversion<Findings> {
        let failed = |errors| {
            Conversion::Done(Findings {
                warnings: Vec::new(),
                errors,
            })
        };
        let (ast, mut lint) = match self.read(request) {
            Ok(read) => read,
            Err(errors) => return failed(errors),
        };
        let scope = match request.targets.is_empty() {
            false => Scope::Target,
            true => Scope::Everything,
        };
        let errors = match convert_scope(self, &ast, scope, request, pins, &mut lint) {
            Ok(Conversion::NeedsSources(sources)) => return Conversion::NeedsSources(sources),
            Ok(Conversion::Done(_)) => Vec::new(),
            Err(errors) => errors,
        };
        let (warnings, forbidden) = lint.findings();
        Conversion::Done(Findings {
            warnings,
            errors: match errors.is_empty() {
                true => forbidden.into_iter().collect(),
                false => errors,
            },
        })
    }

    /// The stages, in order.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn targets(&self, request: &FrontendRequest) -> Result<Vec<Target>, Vec<Diagnostic>> {
        let (ast, _) = self.read(request)?;
        let last = ast.stages.len().saturating_sub(1);
        let stages = ast.stages.iter().enumerate();
        let targets = stages.map(|(at, stage)| {
            let name = stage.name.as_ref().map(|name| name.text.to_lowercase());
            Target {
                description: name
                    .as_ref()
                    .and_then(|name| description(&stage.head, name)),
                name,
                default: at == last,
                base: stage.base.text.clone(),
                platform: stage.platform.as_ref().map(|word| word.text.clone()),
                at: stage.head.span.clone(),
            }
        });
        Ok(targets.collect())
    }

    /// What the target takes from whoever builds it.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn parameters(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion<Parameters>, Vec<Diagnostic>> {
        let (ast, mut lint) = self.read(request)?;
        let (finished, graph) =
            match convert_scope(self, &ast, Scope::Target, request, pins, &mut lint)? {
                Conversion::NeedsSources(sources) => return Ok(Conversion::NeedsSources(sources)),
                Conversion::Done(done) => done,
            };
        lint.finish()?;
        Ok(Conversion::Done(parameters(&graph, &finished.taken)))
    }
}

/// What the comments above an instruction say of a name: `# name description`.
pub(crate) fn description(head: &Head, name: &str) -> Option<String> {
    let mut comments = head.comments.iter();
    comments.find_map(|comment| Some(comment.strip_prefix(name)?.strip_prefix(' ')?.to_owned()))
}

/// What a stage takes from whoever builds it.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// ARGs with a value of the stage's own.
    declared: BTreeMap<String, Declared>,
    /// All ARGs.
    used: BTreeSet<String>,
    secrets: Vec<Need>,
    ssh: Vec<Need>,
    caches: Vec<Need>,
}

impl Taken {
    /// Notes an ARG. One that only hands on what was declared before the first FROM is not a declaration.
    pub(crate) fn arg(&mut self, name: &str, value: Option<&str>, inherited: bool, head: &Head) {
        self.used.insert(name.to_owned());
        if !inherited {
            let declared = Declared {
                value: value.map(str::to_owned),
                uses: BTreeSet::new(),
                description: description(head, name),
                at: head.span.clone(),
            };
            self.declared.insert(name.to_owned(), declared);
        }
    }

    /// Notes what the mounts of a step ask for.
    pub(crate) fn mounts(&mut self, mounts: &[Mount], variables: &[SecretEnv], at: &Span) {
        for mount in mounts {
            match &mount.kind {
                MountKind::Secret { id, optional, .. } => {
                    note(&mut self.secrets, id, !optional, at)
                }
                MountKind::Ssh { id, optional, .. } => note(&mut self.ssh, id, !optional, at),
                MountKind::Cache { id, .. } => note(&mut self.caches, id, false, at),
                _ => {}
            }
        }
        for variable in variables {
            note(&mut self.secrets, &variable.id, !variable.optional, at);
        }
    }
}

fn note(needs: &mut Vec<Need>, id: &str, required: bool, at: &Span) {
    if !needs.iter().any(|need| need.id == id) {
        needs.push(Need {
            id: id.to_owned(),
            required,
            at: at.clone(),
        });
    }
}

/// What the target and all stages it needs take: of a name that several take, what the nearest to the target says.
fn parameters(graph: &Graph, taken: &BTreeMap<usize, Taken>) -> Parameters {
    let node = &graph.nodes[graph.target()];
    let name = node.named.then(|| node.name.clone());
    let described = |name: &String| description(node.head.as_ref()?, name);
    let mut all = Parameters {
        description: name.as_ref().and_then(described),
        name,
        ..Parameters::default()
    };
    for at in nearest_first(graph) {
        let Some(taken) = taken.get(&at) else {
            continue;
        };
        for (name, declared) in arguments(graph, at, taken) {
            if !all.args.iter().any(|arg| arg.name == name) {
                all.args.push(Argument {
                    name,
                    description: declared.description.clone(),
                    value: declared.value.clone(),
                    at: declared.at.clone(),
                });
            }
        }
        for (from, to) in [
            (&taken.secrets, &mut all.secrets),
            (&taken.ssh, &mut all.ssh),
            (&taken.caches, &mut all.caches),
        ] {
            for need in from {
                note(to, &need.id, need.required, &need.at);
            }
        }
    }
    all.args.sort_by_key(|arg| arg.at.range.start);
    for needs in [&mut all.secrets, &mut all.ssh, &mut all.caches] {
        needs.sort_by_key(|need| need.at.range.start);
    }
    all
}

/// The target, then what it starts from, then what it takes files from, each with its own in the same way.
fn nearest_first(graph: &Graph) -> Vec<usize> {
    let mut order = Vec::new();
    let mut open = vec![graph.target()];
    while let Some(at) = open.pop() {
        if order.contains(&at) {
            continue;
        }
        order.push(at);
        let node = &graph.nodes[at];
        let sources = node.commands.iter().flat_map(|command| &command.sources);
        let before = open.len();
        open.extend(sources.flatten());
        open[before..].reverse();
        if let Base::Stage(base) = node.base {
            open.push(base);
        }
    }
    order
}

/// The arguments that a stage's ARGs and its FROM take, and those that the defaults of these take.
fn arguments<'a>(
    graph: &'a Graph,
    at: usize,
    taken: &'a Taken,
) -> impl Iterator<Item = (String, &'a Declared)> {
    let find = |name: &str| taken.declared.get(name).or(graph.declared.get(name));
    let mut names = BTreeSet::new();
    let mut open: Vec<String> = taken.used.iter().cloned().collect();
    let mut from = Some(at);
    while let Some(node) = from.map(|at| &graph.nodes[at]) {
        if !node.replaced {
            open.extend(node.uses.iter().cloned());
        }
        from = match node.base {
            Base::Stage(base) => Some(base),
            _ => None,
        };
    }
    while let Some(name) = open.pop() {
        if let Some(declared) = find(&name) {
            open.extend(
                declared
                    .uses
                    .iter()
                    .filter(|u| !names.contains(*u))
                    .cloned(),
            );
        }
        names.insert(name);
    }
    names
        .into_iter()
        .filter_map(move |name| find(&name).map(|declared| (name.clone(), declared)))
}
