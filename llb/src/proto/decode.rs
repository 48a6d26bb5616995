//! A graph from its protobuf form.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_buildkit_proto::pb;
use prost::Message;

use super::CACHE_DIR;
use super::DecodeError;
use super::NAME;
use super::NOTHING;
use super::digest_of;
use super::encode::CACHE_MODE;
use super::encode::below;
use super::source;
use super::spans;
use super::wire;
use crate::config::ImageConfig;
use crate::definition::Definition;
use crate::definition::Edge;
use crate::definition::Output;
use crate::definition::Vertex;
use crate::definition::VertexMeta;
use crate::id::VertexId;
use crate::op::ExecOp;
use crate::op::FileActionKind;
use crate::op::FileInput;
use crate::op::FileOp;
use crate::op::Limits;
use crate::op::MountKind;
use crate::op::Op;
use crate::op::Owner;
use crate::op::SourceOp;
use crate::op::UserRef;
use crate::paths;
use crate::platform::Platform;

mod op;

pub(super) use op::OpDecoder;

/// Of a step's name this much is in messages.
const MAX_NAME: usize = 80;
/// So many problems are told: who sends more has sent no graph.
const MAX_PROBLEMS: usize = 100;
/// The longest path that the kernel takes (PATH_MAX).
const MAX_PATH: usize = 4096;

/// Remembers a problem, unless there are enough.
fn note(problems: &RefCell<Vec<DecodeError>>, problem: impl FnOnce() -> DecodeError) {
    let mut problems = problems.borrow_mut();
    if problems.len() < MAX_PROBLEMS {
        problems.push(problem());
    }
}

/// The graph of a protobuf form, and all that is wrong with it.
pub(super) fn definition(
    encoded: &pb::Definition,
    limits: BTreeMap<String, Limits>,
    platform: &Platform,
) -> Result<Definition, Vec<DecodeError>> {
    let mut definition = Definition::new();
    let mut output = Output {
        name: String::new(),
        platform: platform.clone(),
        root: None,
        config: ImageConfig::scratch(platform),
    };
    if let Some((last, steps)) = encoded.def.split_last() {
        let mut decoder = Decoder {
            ops: BTreeMap::new(),
            encoded,
            files: encoded.source.as_ref().map_or(Vec::new(), spans::files),
            platform,
            ids: BTreeMap::new(),
            outputs: BTreeMap::new(),
            definition,
            problems: RefCell::default(),
            broken: BTreeSet::new(),
            limits,
            root: None,
        };
        for bytes in steps {
            let digest = digest_of(bytes);
            if !decoder.ops.contains_key(&digest) {
                let op = decoder.parse(&digest, bytes);
                decoder.ops.insert(digest, op);
            }
        }
        let digest = digest_of(last);
        let root = match decoder.parse(&digest, last) {
            Some(pb::Op {
                inputs, op: None, ..
            }) => match inputs.as_slice() {
                [root] => {
                    decoder.root = Some(root.digest.clone());
                    Some(decoder.edge(&digest, root))
                }
                _ => None,
            },
            Some(_) => None,
            // What it is has been said.
            None => return Err(decoder.problems.into_inner()),
        };
        let Some(root) = root else {
            decoder.problems.borrow_mut().push(DecodeError::NoResult);
            return Err(decoder.problems.into_inner());
        };
        decoder.followed();
        let problems = decoder.problems.into_inner();
        if !problems.is_empty() {
            return Err(problems);
        }
        definition = decoder.definition;
        if let Some(step) = definition.get(&root.vertex) {
            output.platform = step.platform.clone();
            output.config = ImageConfig::scratch(&step.platform);
        }
        output.root = Some(root);
    }
    definition.outputs.push(output);
    // Without the directories that cache mounts started from.
    Ok(definition.prune().into())
}

struct Decoder<'a> {
    /// By digest; nothing for one that is none.
    ops: BTreeMap<String, Option<pb::Op>>,
    encoded: &'a pb::Definition,
    files: Vec<std::sync::Arc<crate::SourceFile>>,
    platform: &'a Platform,
    ids: BTreeMap<String, VertexId>,
    /// How many outputs steps have, of those that have more than one or none.
    outputs: BTreeMap<VertexId, usize>,
    definition: Definition,
    problems: RefCell<Vec<DecodeError>>,
    /// The ops that something is wrong with.
    broken: BTreeSet<String>,
    /// What ops may use, by their digests.
    limits: BTreeMap<String, Limits>,
    /// What the result is an output of.
    root: Option<String>,
}

impl Decoder<'_> {
    fn problem(&self, problem: impl FnOnce() -> DecodeError) {
        note(&self.problems, problem);
    }

    /// One op, with nothing dropped.
    fn parse(&self, digest: &str, bytes: &[u8]) -> Option<pb::Op> {
        let op = match pb::Op::decode(bytes) {
            Ok(op) => op,
            Err(source) => {
                let op = digest.to_owned();
                self.problem(|| DecodeError::MalformedOp { op, source });
                return None;
            }
        };
        if let Some(path) = wire::dropped(bytes, &op.encode_to_vec()) {
            self.problem(|| DecodeError::UnknownField {
                op: self.label(digest, Some(&op)),
                path: wire::name(&path),
            });
            return None;
        }
        Some(op)
    }

    /// What messages call an op.
    fn label(&self, digest: &str, op: Option<&pb::Op>) -> String {
        let kind = op.and_then(|op| op.op.as_ref());
        let named = self.name(digest).map(str::to_owned);
        let name = named.or_else(|| match kind? {
            pb::op::Op::Source(source) => Some(source.identifier.clone()),
            pb::op::Op::Exec(exec) => exec.meta.as_ref().map(|meta| meta.args.join(" ")),
            _ => None,
        });
        match name.filter(|name| !name.is_empty()) {
            // A name may have a whole heredoc in it.
            Some(name) => {
                let line = name.lines().next().unwrap_or_default();
                let short: String = line.chars().take(MAX_NAME).collect();
                let more = if short.len() < name.len() { "…" } else { "" };
                format!("`{short}{more}` ({digest})")
            }
            None => digest.to_owned(),
        }
    }

    fn name(&self, digest: &str) -> Option<&str> {
        let metadata = self.encoded.metadata.get(digest)?;
        metadata.description.get(NAME).map(String::as_str)
    }

    /// Adds the step an input names, after all it needs. Ops may stand in any order; a digest can't be part of
    /// what it is the digest of, so there are no cycles.
    fn edge(&mut self, user: &str, input: &pb::Input) -> Edge {
        self.add(user, &input.digest);
        self.known(user, input)
    }

    /// Adds a step, after all it needs.
    fn add(&mut self, user: &str, digest: &str) {
        let mut open = vec![(digest.to_owned(), user.to_owned())];
        while let Some((digest, user)) = open.last().cloned() {
            // Several may have asked for it.
            if self.ids.contains_key(&digest) {
                open.pop();
                continue;
            }
            let Some(Some(op)) = self.ops.get(&digest) else {
                if !self.ops.contains_key(&digest) {
                    let op = self.ops.get(&user).and_then(Option::as_ref);
                    self.problem(|| DecodeError::NoSuchInput {
                        op: self.label(&user, op),
                        input: digest.clone(),
                    });
                }
                let id = self.definition.add(self.placeholder());
                self.ids.insert(digest, id);
                continue;
            };
            // The first input is added first, as in BuildKit's order.
            let missing = op.inputs.iter().rev().map(|input| &input.digest);
            let missing = missing.filter(|input| !self.ids.contains_key(*input));
            let before = open.len();
            open.extend(missing.map(|input| (input.clone(), digest.clone())));
            if open.len() == before {
                open.pop();
                let before = self.problems.borrow().len();
                let vertex = self.vertex(&digest);
                if self.problems.borrow().len() > before {
                    self.broken.insert(digest.clone());
                }
                let outputs = match &vertex.op {
                    Op::Exec(exec) => exec.mounts.iter().filter(|m| m.output.is_some()).count(),
                    Op::File(file) => file.actions.iter().filter(|a| a.output.is_some()).count(),
                    _ => 1,
                };
                let id = self.definition.add(vertex);
                if outputs != 1 {
                    self.outputs.insert(id, outputs);
                }
                self.ids.insert(digest, id);
            }
        }
    }

    /// Followed paths say which files a client sends. What is built must not depend on it, for here all are at hand: so
    /// steps may copy just those.
    fn followed(&self) {
        let parsed = || {
            self.ops
                .iter()
                .filter_map(|(d, op)| Some((d, op.as_ref()?)))
        };
        let mut followed: BTreeMap<&str, (&pb::Op, &String, Option<Followed>)> = BTreeMap::new();
        for (digest, op) in parsed() {
            if let Some(pb::op::Op::Source(source)) = &op.op
                && let Some(text) = source.attrs.get(source::LOCAL_FOLLOW)
            {
                let is_root = self.root.as_deref() == Some(digest.as_str());
                let paths = Followed::parse(text).filter(|_| !is_root);
                followed.insert(digest, (op, text, paths));
            }
        }
        if followed.is_empty() {
            return;
        }
        for (_, user) in parsed() {
            // A local that somebody takes more of has no paths any more.
            takings(user, &mut |local, copy| {
                if let Some((_, _, paths)) = followed.get_mut(local) {
                    paths.take_if(|paths| !copy.is_some_and(|copy| paths.have(copy)));
                }
            });
        }
        for (digest, (op, text, paths)) in followed {
            if paths.is_none() {
                self.problem(|| DecodeError::Value {
                    op: self.label(digest, Some(op)),
                    field: source::LOCAL_FOLLOW,
                    value: text.clone(),
                });
            }
        }
    }

    /// Stands for what is not there, so that what takes it can be looked at.
    fn placeholder(&self) -> Vertex {
        Vertex {
            op: Op::Merge,
            inputs: Vec::new(),
            platform: self.platform.clone(),
            meta: VertexMeta::default(),
        }
    }

    /// An input whose step was added.
    fn known(&self, user: &str, input: &pb::Input) -> Edge {
        let vertex = self.ids[&input.digest];
        let outputs = self.outputs.get(&vertex).copied().unwrap_or(1);
        let output = u32::try_from(input.index).ok();
        let output = output.filter(|output| (*output as usize) < outputs);
        // Of one that is not understood nobody knows how many it has.
        let understood = matches!(self.ops.get(&input.digest), Some(Some(_)))
            && !self.broken.contains(&input.digest);
        if output.is_none() && understood {
            let op = self.ops.get(user).and_then(Option::as_ref);
            self.problem(|| DecodeError::Value {
                op: self.label(user, op),
                field: "inputs.index",
                value: input.index.to_string(),
            });
        }
        Edge {
            vertex,
            output: output.unwrap_or(0),
        }
    }

    fn vertex(&self, digest: &str) -> Vertex {
        let Some(Some(op)) = self.ops.get(digest) else {
            return self.placeholder();
        };
        let mut inputs: Vec<Edge> = op
            .inputs
            .iter()
            .map(|input| self.known(digest, input))
            .collect();
        let decode = OpDecoder {
            op: &self.label(digest, Some(op)),
            inputs: inputs.len(),
            problems: &self.problems,
        };
        if op
            .constraints
            .as_ref()
            .is_some_and(|c| !c.filter.is_empty())
        {
            decode.unsupported("constraints.filter");
        }
        let decoded = match &op.op {
            None => {
                decode.unsupported("op");
                Op::Merge
            }
            Some(pb::op::Op::Source(source)) => {
                if !inputs.is_empty() {
                    decode.unsupported("inputs");
                }
                match source::decode(&decode, source) {
                    Some(source) => Op::Source(source),
                    None => Op::Merge,
                }
            }
            Some(pb::op::Op::Exec(op)) => {
                let mut exec = decode.exec(op);
                if let Some(limits) = self.limits.get(digest) {
                    let all = Arc::make_mut(&mut exec.limits);
                    let cgroup_parent = all.cgroup_parent.take();
                    *all = Limits {
                        cgroup_parent,
                        ..limits.clone()
                    };
                }
                self.fold_caches(&mut exec, &mut inputs);
                Op::Exec(exec)
            }
            Some(pb::op::Op::File(op)) => Op::File(decode.file(op)),
            Some(pb::op::Op::Build(_)) => {
                decode.unsupported("build");
                Op::Merge
            }
            Some(pb::op::Op::Merge(op)) => {
                let order: Vec<i64> = op.inputs.iter().map(|input| input.input).collect();
                inputs = decode.reorder("merge.inputs", &order, &inputs);
                if order.is_empty() {
                    decode.value("merge.inputs", "");
                }
                Op::Merge
            }
            Some(pb::op::Op::Diff(op)) => {
                let lower = op.lower.map_or(0, |lower| lower.input);
                let upper = op.upper.map_or(0, |upper| upper.input);
                match (lower, upper) {
                    // All that there is, on top of nothing.
                    (NOTHING, upper) => {
                        inputs = decode.reorder("diff.upper", &[upper], &inputs);
                        Op::Merge
                    }
                    // Nothing, on top of all that there is.
                    (lower, NOTHING) => {
                        inputs = decode.reorder("diff.lower", &[lower], &inputs);
                        Op::Diff
                    }
                    _ => {
                        inputs = decode.reorder("diff", &[lower, upper], &inputs);
                        Op::Diff
                    }
                }
            }
        };
        let platform = match &op.platform {
            Some(platform) => decode.platform(platform),
            None => {
                let first = inputs.first().and_then(|i| self.definition.get(&i.vertex));
                first.map_or(self.platform, |first| &first.platform).clone()
            }
        };
        if matches!(decoded, Op::Exec(_)) && *platform.os != *"linux" {
            decode.value("platform.os", platform.os.escape_debug());
        }
        Vertex {
            meta: self.meta(digest, &decoded),
            op: decoded,
            inputs,
            platform,
        }
    }

    /// Gives cache mounts the mode and owner of the directory that was made for them to start from (see `encode`).
    fn fold_caches(&self, exec: &mut ExecOp, inputs: &mut Vec<Edge>) {
        // Counted and found once: there may be as many mounts and inputs as there are bytes.
        let mut users = vec![0_usize; inputs.len()];
        for input in exec.mounts.iter().filter_map(|mount| mount.input) {
            users[input] += 1;
        }
        let mut first = BTreeMap::new();
        for (at, edge) in inputs.iter().enumerate() {
            first.entry(*edge).or_insert(at);
        }
        // They were added behind the op's own, in the order of the mounts.
        for at in (0..exec.mounts.len()).rev() {
            let last = inputs.len().wrapping_sub(1);
            let mount = &exec.mounts[at];
            let MountKind::Cache { .. } = mount.kind else {
                continue;
            };
            if mount.input != Some(last) || mount.selector != CACHE_DIR {
                continue;
            }
            let only = users[last] == 1;
            let made = self.definition.get(&inputs[last].vertex);
            let Some((made, from)) = made.filter(|_| only).and_then(cache_directory) else {
                continue;
            };
            let input = match from {
                None => None,
                // What it was made in has to be an input of the exec as well.
                Some(edge) => match first.get(&edge) {
                    Some(input) if *input < last => {
                        users[*input] += 1;
                        Some(*input)
                    }
                    _ => continue,
                },
            };
            let mount = &mut exec.mounts[at];
            mount.input = input;
            mount.selector.clear();
            if let MountKind::Cache { mode, uid, gid, .. } = &mut mount.kind {
                (*mode, *uid, *gid) = made;
            }
            inputs.pop();
        }
    }

    fn meta(&self, digest: &str, op: &Op) -> VertexMeta {
        let metadata = self.encoded.metadata.get(digest);
        let source = self.encoded.source.as_ref();
        let locations = source.and_then(|source| source.locations.get(digest));
        VertexMeta {
            name: self
                .name(digest)
                .map_or_else(|| default_name(op), str::to_owned),
            spans: locations.map_or(Vec::new(), |at| spans::spans(at, &self.files)),
            ignore_cache: metadata.is_some_and(|metadata| metadata.ignore_cache),
            args: Vec::new(),
        }
    }
}

/// The paths that are sent of a directory, none of them below another, in order.
struct Followed(Vec<PathBuf>);

impl Followed {
    fn parse(text: &str) -> Option<Self> {
        let paths: Vec<String> = serde_json::from_str(text).ok()?;
        let mut paths: Vec<PathBuf> = paths.iter().map(|path| plain(path)).collect();
        paths.sort_unstable();
        paths.dedup_by(|path, before| path.starts_with(before));
        Some(Self(paths))
    }

    /// Whether a path is among them, or below one.
    fn has(&self, path: &str) -> bool {
        let path = plain(path);
        // Paths are in the order of their components: what is between one and a path below it is below it as well.
        let after = self.0.partition_point(|sent| *sent <= path);
        after > 0 && path.starts_with(&self.0[after - 1])
    }

    /// Whether nothing else is copied.
    fn have(&self, copy: &pb::FileActionCopy) -> bool {
        let mut inside = copy.include_patterns.iter();
        copy.src.len() <= MAX_PATH
            && (self.has(&copy.src)
                || (!copy.include_patterns.is_empty()
                    && inside.all(|path| self.has(&below(&copy.src, path)))))
    }
}

fn plain(path: &str) -> PathBuf {
    paths::clean(&format!("/{path}")).into()
}

/// Says what an op takes of its inputs, by their digests: a copy, or more than that.
fn takings<'a>(user: &'a pb::Op, taken: &mut dyn FnMut(&str, Option<&'a pb::FileActionCopy>)) {
    let Some(pb::op::Op::File(file)) = &user.op else {
        for input in &user.inputs {
            taken(&input.digest, None);
        }
        return;
    };
    let mut take = |index: i64, copy| {
        let input = usize::try_from(index).ok();
        if let Some(input) = input.and_then(|index| user.inputs.get(index)) {
            taken(&input.digest, copy);
        }
    };
    for action in &file.actions {
        take(action.input, None);
        take(
            action.secondary_input,
            match &action.action {
                Some(pb::file_action::Action::Copy(copy)) => Some(copy),
                _ => None,
            },
        );
    }
}

/// Mode, owner and group of the directory that a cache mount starts from, if that is all a step makes; and what it is
/// made in.
fn cache_directory(vertex: &Vertex) -> Option<((u32, u32, u32), Option<Edge>)> {
    let Op::File(FileOp { actions }) = &vertex.op else {
        return None;
    };
    let [action] = actions.as_slice() else {
        return None;
    };
    let FileActionKind::Mkdir {
        path,
        mode,
        make_parents: false,
        owner:
            Some(Owner {
                user: UserRef::Id(uid),
                group: Some(UserRef::Id(gid)),
            }),
        timestamp: None,
    } = &action.kind
    else {
        return None;
    };
    let from = match (action.input, vertex.inputs.as_slice()) {
        (FileInput::Scratch, []) => None,
        (FileInput::Input(0), [edge]) => Some(*edge),
        _ => return None,
    };
    // Without any of the three the mount would start from an empty directory without such an op.
    let plain = (*mode, *uid, *gid) == (CACHE_MODE, 0, 0);
    (path == CACHE_DIR && !plain).then_some(((*mode, *uid, *gid), from))
}

/// What to call a step that has no name.
fn default_name(op: &Op) -> String {
    match op {
        Op::Source(SourceOp::Image(image)) => image.reference.clone(),
        Op::Source(SourceOp::OciLayout(layout)) => layout.path.clone(),
        Op::Source(SourceOp::Local(local)) => local.name.clone(),
        Op::Source(SourceOp::Git(git)) => git.remote.clone(),
        Op::Source(SourceOp::Http(http)) => http.url.clone(),
        Op::Exec(exec) => exec.args.join(" "),
        Op::File(_) | Op::Merge | Op::Diff => op.kind().to_owned(),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn what_is_below_followed_paths_is_sent() {
        let followed = Followed::parse(r#"["a","a/b","/c/d/","a-b"]"#).unwrap();
        for sent in ["a", "/a/b/c", "a/../a", "c/d", "/c/d/e", "a-b/x"] {
            assert!(followed.has(sent), "{sent}");
        }
        for other in ["/", "", "ab", "a-", "c", "c/da", "b"] {
            assert!(!followed.has(other), "{other}");
        }
        assert!(Followed::parse(r#"["/"]"#).unwrap().has("x"));
        assert!(!Followed::parse("[]").unwrap().has("x"));
    }

    #[test]
    fn problems_of_a_hostile_graph_are_bounded() {
        let attrs = (0..1000).map(|number| (format!("other{number}"), String::new()));
        let source = pb::Op {
            op: Some(pb::op::Op::Source(pb::SourceOp {
                identifier: "local://x".to_owned(),
                attrs: attrs.collect(),
            })),
            ..pb::Op::default()
        };
        let source = source.encode_to_vec();
        let result = pb::Op {
            inputs: vec![pb::Input {
                digest: digest_of(&source),
                index: 0,
            }],
            ..pb::Op::default()
        };
        let encoded = pb::Definition {
            def: vec![source, result.encode_to_vec()],
            ..pb::Definition::default()
        };
        let platform = Platform::new("linux", "amd64", "");
        let problems = definition(&encoded, BTreeMap::new(), &platform).unwrap_err();
        assert_eq!(problems.len(), MAX_PROBLEMS);
    }
}
