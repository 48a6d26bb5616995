//! What a project comes to, and which of its steps may be answered from a cache: an interpreter that knows nothing of
//! the product's graph, keys, layers or trees.
//!
//! Two names a step: what it does to what, told so broadly that the product may not know a step by less (*loose*), and
//! so narrowly that it must know it again (*tight*). They differ where nobody outside can tell: whether a file that is
//! written again as it was belongs to the step's layer depends on its time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;

use sha2::Digest as _;
use sha2::Sha256;

use super::project::DIRS;
use super::project::IGNORED;
use super::project::Line;
use super::project::Mount;
use super::project::Project;
use super::project::SHARED;
use super::project::Stage;
use super::project::Step;
use super::project::Work;
use super::project::mark;

/// Absolute paths, without the base image's.
pub(crate) type Files = BTreeMap<String, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir(u32),
    File(u32, Vec<u8>),
}

type Name = [u8; 32];

/// What a project comes to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) files: Files,
    /// Each once, those that are needed; what a step needs comes before it.
    steps: Vec<Known>,
    /// The layers of the image, if all have names.
    layers: Option<Vec<Name>>,
}

/// What there is to know of a step.
#[derive(Clone, Debug)]
struct Known {
    /// Nothing if nobody reports it.
    id: Option<u32>,
    /// The step and the steps it needs, by what they say.
    said: Name,
    needs: Vec<Name>,
    loose: Name,
    /// Nothing if the step stands on something that depends on times.
    tight: Option<Name>,
    /// The layers of its result: of use only where the store has their bytes.
    result: Option<Vec<Name>>,
    /// The layers that get directories when it runs.
    unpacks: Vec<Name>,
}

/// The steps that were ever carried out upon a store, and those whose results are still there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    maybe: HashSet<Name>,
    surely: HashSet<Name>,
    said: HashSet<Name>,
    /// Layers whose bytes are there, and not only the list of their files.
    bytes: HashSet<Name>,
    /// Something was collected: a step that was not needed may be gone.
    holes: bool,
}

impl Memory {
    /// What is wrong with a build that carried out `ran`, while builds of `others` ran: then only that it did too little.
    pub(crate) fn check(
        &self,
        outcome: &Outcome,
        ran: &BTreeMap<u32, usize>,
        others: &[&Outcome],
    ) -> Result<(), String> {
        let wanted = self.wanted(outcome);
        for step in &outcome.steps {
            let Some(id) = step.id else { continue };
            let times = ran.get(&id).copied().unwrap_or_default();
            let theirs = others.iter().flat_map(|other| &other.steps);
            let by_another = theirs.into_iter().any(|theirs| theirs.loose == step.loose);
            let wrong = if times == 0 && !by_another && !self.maybe.contains(&step.loose) {
                "is new, and did not run"
            } else if !others.is_empty() {
                continue;
            } else if times > 0 && !wanted.contains(&step.said) {
                "is not needed, and ran"
            } else if times > 0 && self.has(step) {
                "is known, and ran"
            } else if times > 1 {
                "ran twice"
            } else {
                continue;
            };
            return Err(format!("{} {wrong}", mark(id)));
        }
        let ids: BTreeSet<u32> = outcome.steps.iter().filter_map(|step| step.id).collect();
        match ran.keys().find(|id| !ids.contains(id)) {
            Some(id) => Err(format!("{} is not of this build, and ran", mark(*id))),
            None => Ok(()),
        }
    }

    /// The steps whose results are looked for: a result that is there by what the step says spares all that it needs.
    fn wanted(&self, outcome: &Outcome) -> BTreeSet<Name> {
        let mut wanted: BTreeSet<Name> = outcome
            .steps
            .last()
            .map(|step| step.said)
            .into_iter()
            .collect();
        for step in outcome.steps.iter().rev() {
            let answered = self.said.contains(&step.said) && self.has_bytes(step);
            if wanted.contains(&step.said) && !answered {
                wanted.extend(&step.needs);
            }
        }
        wanted
    }

    fn has(&self, step: &Known) -> bool {
        let known = step.tight.is_some_and(|tight| self.surely.contains(&tight));
        (known || self.said.contains(&step.said)) && self.has_bytes(step)
    }

    fn has_bytes(&self, step: &Known) -> bool {
        let there = |layers: &Vec<Name>| layers.iter().all(|layer| self.bytes.contains(layer));
        step.result.as_ref().is_some_and(there)
    }

    /// A build was begun: it may have kept anything.
    pub(crate) fn begun(&mut self, outcome: &Outcome) {
        self.maybe
            .extend(outcome.steps.iter().map(|step| step.loose));
    }

    /// A build ended well.
    pub(crate) fn ended(&mut self, outcome: &Outcome, ran: &BTreeMap<u32, usize>) {
        self.begun(outcome);
        let ran = |step: &Known| step.id.is_some_and(|id| ran.contains_key(&id));
        for step in &outcome.steps {
            if ran(step) || !self.holes {
                self.surely.extend(step.tight);
                self.said.insert(step.said);
            }
            // Made anew, it has other times than the one whose bytes are there.
            if ran(step) && step.unpacks.is_empty() {
                let made = step.result.iter().flat_map(|layers| layers.last());
                for layer in made {
                    self.bytes.remove(layer);
                }
            }
        }
        let ran_last = outcome.steps.iter().filter(|step| ran(step));
        for step in ran_last.clone() {
            self.bytes.extend(&step.unpacks);
        }
        let is_last = outcome.steps.last().is_some_and(ran);
        let remade: BTreeSet<&Name> = ran_last
            .flat_map(|step| step.result.iter().flat_map(|layers| layers.last()))
            .collect();
        let kept = outcome.layers.iter().flatten();
        self.bytes
            .extend(kept.filter(|layer| is_last || !remade.contains(layer)));
    }

    /// Anything may be gone, or have been written anew by another builder, whose files nobody may have needed.
    pub(crate) fn collected(&mut self) {
        let maybe = std::mem::take(&mut self.maybe);
        *self = Self {
            maybe,
            holes: true,
            ..Self::default()
        };
    }
}

/// A stage so far.
#[derive(Clone, Debug)]
struct State {
    files: Files,
    loose: Name,
    tight: Option<Name>,
    /// Nothing if one depends on times.
    layers: Option<Vec<Name>>,
    said: Name,
    /// What the last step said.
    last: Option<Name>,
    env: Vec<(String, String)>,
    args: Vec<(String, String)>,
    cwd: String,
}

/// What a project comes to; nothing if something is missing that a step names.
pub(crate) fn evaluate(project: &Project) -> Option<Outcome> {
    let needed = needed(project)?;
    let mut stages: BTreeMap<&str, State> = BTreeMap::new();
    let mut steps = Vec::new();
    for stage in project
        .stages
        .iter()
        .filter(|stage| needed.contains(&stage.name))
    {
        let mut state = match &stage.below {
            Some(below) => stages.get(below.as_str())?.clone(),
            None => State {
                files: Files::new(),
                loose: name_of("base"),
                tight: Some(name_of("base")),
                layers: Some(Vec::new()),
                said: name_of("base"),
                last: None,
                env: Vec::new(),
                args: Vec::new(),
                cwd: "/".into(),
            },
        };
        for step in &stage.steps {
            match step {
                Step::Arg(name, default) => {
                    let value = project.args.get(name).unwrap_or(default).to_string();
                    set(&mut state.args, name, value);
                }
                Step::Env(name, value) => {
                    let value = match value.strip_prefix('$') {
                        Some(variable) => state.variable(variable),
                        None => value.clone(),
                    };
                    set(&mut state.env, name, value);
                }
                Step::Work(id, work) => {
                    steps.extend(state.work(*id, work, project, &stages)?);
                }
            }
        }
        stages.insert(&stage.name, state);
    }
    let State { files, layers, .. } = stages.remove(project.stages.last()?.name.as_str())?;
    Some(Outcome {
        files,
        steps,
        layers,
    })
}

/// The stages that the last one needs; nothing if one comes too late.
fn needed(project: &Project) -> Option<BTreeSet<String>> {
    let mut needed = BTreeSet::from([project.stages.last()?.name.clone()]);
    for (at, stage) in project.stages.iter().enumerate().rev() {
        let earlier: Vec<&String> = project.stages[..at].iter().map(|s| &s.name).collect();
        let named: Vec<&String> = uses(stage).collect();
        // One that is not needed must make sense too.
        if named.iter().any(|name| !earlier.contains(name)) {
            return None;
        }
        if needed.contains(&stage.name) {
            needed.extend(named.into_iter().cloned());
        }
    }
    Some(needed)
}

fn uses(stage: &Stage) -> impl Iterator<Item = &String> {
    let steps = stage.steps.iter().flat_map(|step| match step {
        Step::Work(_, Work::Copy { from, .. }) => from.iter().collect(),
        Step::Work(_, Work::Run { mounts, .. }) => mounts
            .iter()
            .filter_map(|mount| match mount {
                Mount::Stage { from, .. } => Some(from),
                Mount::Log | Mount::Context { .. } => None,
            })
            .collect(),
        _ => Vec::new(),
    });
    stage.below.iter().chain(steps)
}

impl State {
    /// ENV goes before ARG.
    fn variable(&self, name: &str) -> String {
        let all = self.env.iter().chain(&self.args);
        let mut found = all.filter(|(variable, _)| variable == name);
        found
            .next()
            .map_or_else(String::new, |(_, value)| value.clone())
    }

    fn work(
        &mut self,
        id: u32,
        work: &Work,
        project: &Project,
        stages: &BTreeMap<&str, State>,
    ) -> Option<Vec<Known>> {
        let before = self.clone();
        let (alone, told, writes) = match work {
            Work::Copy {
                from,
                sources,
                shared,
                chmod,
                link,
            } => {
                let context;
                let source = match from {
                    Some(stage) => &stages.get(stage.as_str())?.files,
                    None => {
                        context = context_files(project);
                        &context
                    }
                };
                let mut arriving = Vec::new();
                for path in sources {
                    arriving.extend(selected(source, path)?);
                }
                if let Some(to) = chmod {
                    for (_, files) in &mut arriving {
                        for node in files.values_mut() {
                            if let Node::File(mode, _) = node {
                                *mode = *to;
                            }
                        }
                    }
                }
                let to = match shared {
                    true => SHARED.to_owned(),
                    false => format!("/{}", mark(id)),
                };
                let told = format!("copy {to} {chmod:?} {arriving:?}");
                let writes = arriving
                    .into_iter()
                    .flat_map(|(_, files)| files)
                    .map(|(path, node)| (format!("{to}{path}"), node))
                    .collect();
                let dirs = vec![(to, Node::Dir(chmod.unwrap_or(0o755)))];
                (*link, told, [dirs, writes].concat())
            }
            Work::Inline { text, variable } => {
                let text = format!("{text} {}\n", self.variable(variable));
                let dir = format!("/{}", mark(id));
                let file = Node::File(0o644, text.clone().into_bytes());
                let writes = vec![(dir.clone(), Node::Dir(0o755)), (dir + "/inline", file)];
                (false, format!("inline {} {text:?}", mark(id)), writes)
            }
            Work::Workdir => {
                self.cwd = format!("/{}", mark(id));
                let writes = vec![(self.cwd.clone(), Node::Dir(0o755))];
                (false, format!("workdir {}", mark(id)), writes)
            }
            Work::Run { mounts, lines } => return self.run(id, mounts, lines, project, stages),
        };
        let mut again = false;
        for (path, node) in writes {
            let old = self.files.get(&path);
            again |= old == Some(&node) && path.rfind('/') != Some(0);
            // A directory that is there stays as it is.
            if !matches!((&node, old), (Node::Dir(_), Some(Node::Dir(_)))) {
                self.files.insert(path, node);
            }
        }
        let from = match work {
            Work::Copy {
                from: Some(from), ..
            } => stages.get(from.as_str()),
            _ => None,
        };
        self.stack(&before, again, &format!("{alone}"));
        let from_said = from.map(|from| from.said);
        let needs = from.into_iter().flat_map(|from| from.last);
        if !alone {
            let said = self.say(before.said, &format!("{told} {from_said:?}"));
            self.last = Some(said);
            return Some(vec![Known {
                id: Some(id),
                said,
                needs: needs.chain(before.last).collect(),
                loose: before.loosely(&told),
                tight: before.tightly(&told),
                result: self.layers.clone(),
                unpacks: Vec::new(),
            }]);
        }
        // Upon nothing, and then put upon what is below. The layer has no name of its own here.
        let scratch = name_of("base");
        let copy = Known {
            id: Some(id),
            said: name_of(&format!("{told} {from_said:?}")),
            needs: needs.collect(),
            loose: name_of(&format!("{scratch:?} {told}")),
            tight: None,
            result: None,
            unpacks: Vec::new(),
        };
        let said = self.say(before.said, &format!("link {:?}", copy.said));
        let merge = Known {
            id: None,
            said,
            needs: before.last.into_iter().chain([copy.said]).collect(),
            loose: said,
            tight: None,
            result: self.layers.clone(),
            unpacks: Vec::new(),
        };
        self.last = Some(said);
        Some(vec![copy, merge])
    }

    fn run(
        &mut self,
        id: u32,
        mounts: &[Mount],
        lines: &[Line],
        project: &Project,
        stages: &BTreeMap<&str, State>,
    ) -> Option<Vec<Known>> {
        let before = self.clone();
        let mut needs: Vec<Name> = before.last.into_iter().collect();
        let mut unpacks: Vec<Name> = before.layers.iter().flatten().copied().collect();
        let mut says = String::new();
        let mut seen = Files::new();
        let mut shown = String::new();
        for mount in mounts {
            let (at, files, path) = match mount {
                Mount::Log => continue,
                Mount::Context { source } => ("/ctx", context_files(project), source.as_str()),
                Mount::Stage { from, source } => {
                    let stage = stages.get(from.as_str())?;
                    needs.extend(stage.last);
                    unpacks.extend(stage.layers.iter().flatten());
                    says += &format!("{:?} ", stage.said);
                    ("/stage", stage.files.clone(), source.as_str())
                }
            };
            let below = below(&files, path)?;
            shown += &format!("{at} {below:?} ");
            seen.extend(
                below
                    .into_iter()
                    .map(|(path, node)| (format!("{at}{path}"), node)),
            );
        }
        let mut again = false;
        for line in lines {
            again |= self.line(line, &seen);
        }
        let text = format!("{mounts:?} {lines:?}");
        let mut sorted = [&before.env[..], &before.args].concat();
        sorted.sort();
        let loose = format!(
            "run {} {lines:?} {} {sorted:?} {shown}",
            mark(id),
            before.cwd
        );
        let tight = format!("{loose} {text} {:?} {:?}", before.env, before.args);
        self.stack(&before, again, "run");
        unpacks.extend(self.tight);
        let said = self.say(before.said, &format!("{tight} {says}"));
        self.last = Some(said);
        Some(vec![Known {
            id: Some(id),
            said,
            needs,
            loose: before.loosely(&loose),
            tight: before.tightly(&tight),
            result: self.layers.clone(),
            unpacks,
        }])
    }

    /// What a shell does; whether something was written that was there.
    fn line(&mut self, line: &Line, mounts: &Files) -> bool {
        let get = |path: &str| mounts.get(path).or_else(|| self.files.get(path));
        let all = |inputs: &[String]| {
            let mut all = Vec::new();
            for input in inputs {
                if let Some(Node::File(_, text)) = get(input) {
                    all.extend_from_slice(text);
                }
            }
            all
        };
        let (out, text) = match line {
            Line::Hash { out, inputs } => {
                let hash: Vec<String> = Sha256::digest(all(inputs))
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                (out, format!("{}  -", hash.concat()))
            }
            Line::Count { out, inputs } => (out, all(inputs).len().to_string()),
            Line::Names { out, dir } => {
                let names = match get(dir) {
                    Some(Node::File(..)) => vec![dir.clone()],
                    _ => self
                        .files
                        .keys()
                        .filter_map(|path| path.strip_prefix(dir.as_str())?.strip_prefix('/'))
                        .filter(|name| !name.contains('/'))
                        .map(str::to_owned)
                        .collect(),
                };
                (out, names.join("\n"))
            }
            Line::Variable { out, name } => (out, self.variable(name)),
            Line::Remove { path } => {
                let inside = format!("{path}/");
                self.files
                    .retain(|name, _| name != path && !name.starts_with(&inside));
                return false;
            }
            Line::Mode { path, mode } => {
                return match self.files.get_mut(path) {
                    Some(Node::File(old, _)) => std::mem::replace(old, *mode) == *mode,
                    _ => false,
                };
            }
        };
        let (mut dir, out) = (String::new(), out.clone());
        for part in out.split('/').skip(1) {
            if !dir.is_empty() {
                self.files.entry(dir.clone()).or_insert(Node::Dir(0o755));
            }
            dir = format!("{dir}/{part}");
        }
        let text = (text + "\n").into_bytes();
        match self.files.get_mut(&out) {
            Some(Node::File(_, old)) => std::mem::replace(old, text.clone()) == text,
            _ => {
                self.files.insert(out, Node::File(0o644, text));
                false
            }
        }
    }

    fn loosely(&self, step: &str) -> Name {
        name_of(&format!("{:?} {step}", self.loose))
    }

    fn tightly(&self, step: &str) -> Option<Name> {
        self.tight
            .map(|below| name_of(&format!("{below:?} {step}")))
    }

    fn say(&mut self, below: Name, step: &str) -> Name {
        self.said = name_of(&format!("{below:?} {step}"));
        self.said
    }

    /// One layer more than `before` had.
    fn stack(&mut self, before: &Self, again: bool, how: &str) {
        self.loose = name_of(&format!("{:?} {:?}", before.loose, self.files));
        let tight = before.tight.filter(|_| !again);
        self.tight = tight.map(|below| name_of(&format!("{below:?} {how} {:?}", self.files)));
        self.layers = before
            .layers
            .clone()
            .zip(self.tight)
            .map(|(mut layers, layer)| {
                layers.push(layer);
                layers
            });
    }
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: String) {
    match list.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => list.push((name.to_owned(), value)),
    }
}

fn name_of(text: &str) -> Name {
    Sha256::digest(text).into()
}

/// The context without what is ignored.
fn context_files(project: &Project) -> Files {
    let dirs = DIRS.map(|dir| (format!("/{dir}"), Node::Dir(0o755)));
    let files = project.files.iter();
    let files = files
        .filter(|(path, _)| path.rsplit('/').next() != Some(IGNORED))
        .map(|(path, file)| {
            (
                format!("/{path}"),
                Node::File(file.mode, file.text.clone().into_bytes()),
            )
        });
    dirs.into_iter().chain(files).collect()
}

/// What is at and below a path, with the path taken off; nothing if nothing is there.
fn below(files: &Files, path: &str) -> Option<Files> {
    let path = path.trim_matches(['/', '.']);
    let root = match path {
        "" => Node::Dir(0o755),
        _ => files.get(&format!("/{path}"))?.clone(),
    };
    let inside = match path {
        "" => String::new(),
        _ => format!("/{path}"),
    };
    let rest = files.iter().filter_map(|(name, node)| {
        let rest = name.strip_prefix(&inside)?;
        rest.starts_with('/')
            .then(|| (rest.to_owned(), node.clone()))
    });
    let mut found: Files = rest.collect();
    found.insert(String::new(), root);
    Some(found)
}

/// What COPY takes: of each source its name, and the files as they arrive below the destination.
fn selected(files: &Files, source: &str) -> Option<Vec<(String, Files)>> {
    if let Some(dir) = source.strip_suffix("/*") {
        let dir = format!("/{dir}/");
        let names = files.keys().filter_map(|path| path.strip_prefix(&dir));
        let names: Vec<&str> = names.filter(|name| !name.contains('/')).collect();
        let each = names
            .into_iter()
            .map(|name| selected(files, &format!("{dir}{name}")));
        let each: Vec<_> = each.collect::<Option<_>>()?;
        return (!each.is_empty()).then(|| each.concat());
    }
    let mut found = below(files, source)?;
    let name = source
        .trim_matches(['/', '.'])
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    if let Some(Node::File(..)) = found.get("") {
        let file = found.remove("")?;
        found.insert(format!("/{name}"), file);
    } else {
        found.remove("");
    }
    Some(vec![(name, found)])
}
