//! The graph as a daemon takes it.
//!
//! LLB has all that our graph says, but for these:
//!
//! - The modes of files of contexts, and which of them a step takes: the client sends what is wanted as it is wanted
//!   ([`super::contexts`]), so to the daemon each context is a directory of its own, whole.
//! - Daemons before 0.10 cannot merge (`COPY --link`): they copy the upper files over the lower ones, which gives the same
//!   files, and another cache.
//!
//! What else a daemon may be too old for is named before anything is solved.

use std::collections::BTreeMap;

use rbuild_llb::Definition;
use rbuild_llb::Edge;
use rbuild_llb::Platform;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::FileOp;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::ModeChange;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::Op;
use rbuild_llb::op::SecurityMode;
use rbuild_llb::op::SourceOp;
use rbuild_llb::proto;

use super::Steps;
use crate::buildkit::Capabilities;
use crate::buildkit::EngineError;
use crate::request::BuilderAddress;

/// A graph for one daemon.
pub(super) struct Lowered {
    definition: Definition,
    /// What each of our steps became.
    edges: BTreeMap<VertexId, VertexId>,
    /// And back.
    steps: BTreeMap<VertexId, VertexId>,
    /// Tells this build's contexts from those of others on the same daemon.
    build: String,
}

/// Makes the graph one that a daemon with these capabilities takes. `names` are what the contexts are called in `build`.
pub(super) fn lower(
    definition: &PrunedDefinition,
    names: &BTreeMap<VertexId, String>,
    build: &str,
    capabilities: &Capabilities,
    address: &BuilderAddress,
) -> Result<Lowered, EngineError> {
    let mut lowered = Lowered {
        definition: Definition::with_capacity(definition.len()),
        edges: BTreeMap::new(),
        steps: BTreeMap::new(),
        build: build.to_owned(),
    };
    for (id, vertex) in definition.iter() {
        for (capability, what) in needs(&vertex.op) {
            if !capabilities.has(capability) {
                return Err(EngineError::Missing {
                    address: address.to_string(),
                    what: format!("{what}, which `{}` asks for", vertex.meta.name),
                    capability,
                });
            }
        }
        let mut step = vertex.clone();
        for input in &mut step.inputs {
            input.vertex = lowered.edges[&input.vertex];
        }
        if let (Op::Source(SourceOp::Local(_)), Some(name)) = (&step.op, names.get(&id)) {
            step.op = Op::Source(SourceOp::Local(LocalSource {
                name: name.clone(),
                include: Vec::new(),
                exclude: Vec::new(),
                modes: FileModes::Exact,
            }));
        }
        let new = match step.op {
            Op::Merge if !capabilities.has("mergeop") => copied(&mut lowered.definition, step),
            _ => lowered.definition.add(step),
        };
        lowered.edges.insert(id, new);
        lowered.steps.insert(new, id);
    }
    Ok(lowered)
}

impl Lowered {
    /// The form of what `path` is in an output: the file or directory alone, under its name; of `/` all that is in it.
    pub(super) fn encode_file(
        mut self,
        root: Edge,
        platform: &Platform,
        path: &str,
    ) -> Result<(Vec<u8>, Steps), EngineError> {
        let copy = CopyAction {
            src: path.to_owned(),
            dest: "/".to_owned(),
            dir_copy_contents: path == "/",
            create_dest_path: true,
            ..CopyAction::default()
        };
        let below = Edge {
            vertex: self.edges[&root.vertex],
            ..root
        };
        let action = FileAction {
            input: FileInput::Scratch,
            secondary: FileInput::Input(0),
            output: Some(0),
            kind: FileActionKind::Copy(copy),
        };
        let taken = self.definition.add(Vertex {
            op: Op::File(FileOp {
                actions: vec![action],
            }),
            inputs: vec![below],
            platform: platform.clone(),
            meta: VertexMeta {
                name: format!("[output] {path}"),
                ..VertexMeta::default()
            },
        });
        // The root is one of this graph.
        self.edges.insert(taken, taken);
        self.encode(Some(Edge::of(taken)))
    }

    /// The protobuf form of what an output of the original graph needs, and which step each op is.
    pub(super) fn encode(&self, root: Option<Edge>) -> Result<(Vec<u8>, Steps), EngineError> {
        let root = root.map(|edge| Edge {
            vertex: self.edges[&edge.vertex],
            ..edge
        });
        let encoded = proto::encode_with_steps(&self.definition, root, &self.build);
        let (bytes, ops) = encoded.map_err(|error| EngineError::Failed {
            message: error.to_string(),
            op: None,
        })?;
        let ours = |(op, step)| Some((op, *self.steps.get(&step)?));
        Ok((bytes, ops.into_iter().filter_map(ours).collect()))
    }
}

/// A capability, by BuildKit's name, and what takes it.
type Ability = (&'static str, &'static str);

const DIFF: Ability = ("diffop", "the difference of two file systems");
const SUBMODULES: Ability = (
    "source.git.skipsubmodules",
    "repositories without submodules",
);
const CGROUP_PARENT: Ability = ("exec.meta.cgroup.parent", "`--cgroup-parent`");
const SECRET_ENV: Ability = ("exec.secretenv", "secrets in variables");
const ULIMIT: Ability = ("exec.meta.ulimit", "limits of processes");
const INSECURE: Ability = ("exec.meta.security", "`--security=insecure`");
const TMPFS_SIZE: Ability = ("exec.mount.tmpfs.size", "the size of a tmpfs");
const SYMLINK: Ability = ("file.symlink.create", "making symbolic links");
const PATTERNS: Ability = ("file.copy.includeexcludepatterns", "copying by patterns");

/// What builds may ask for that not all daemons can do. Where they cannot merge, layers of `COPY --link` are copied.
pub(in crate::pipeline) const ABILITIES: [Ability; 10] = [
    ("mergeop", "`COPY --link` without copying"),
    DIFF,
    SUBMODULES,
    CGROUP_PARENT,
    SECRET_ENV,
    ULIMIT,
    INSECURE,
    TMPFS_SIZE,
    SYMLINK,
    PATTERNS,
];

/// Capabilities that an op needs besides those that all daemons have had since 0.8 (that of docker 20.10), and in words
/// what for.
fn needs(op: &Op) -> Vec<Ability> {
    let mut needs = Vec::new();
    match op {
        Op::Exec(exec) => of_exec(exec, &mut needs),
        Op::File(file) => {
            for action in &file.actions {
                of_action(&action.kind, &mut needs);
            }
        }
        Op::Diff => needs.push(DIFF),
        Op::Source(SourceOp::Git(git)) if git.skip_submodules => {
            needs.push(SUBMODULES);
        }
        Op::Source(_) | Op::Merge => {}
    }
    needs
}

fn of_exec(exec: &ExecOp, needs: &mut Vec<Ability>) {
    if exec.limits.cgroup_parent.is_some() {
        needs.push(CGROUP_PARENT);
    }
    if !exec.secret_env.is_empty() {
        needs.push(SECRET_ENV);
    }
    if !exec.ulimits.is_empty() {
        needs.push(ULIMIT);
    }
    if exec.security == SecurityMode::Insecure {
        needs.push(INSECURE);
    }
    let sized = |kind: &MountKind| matches!(kind, MountKind::Tmpfs { size } if *size > 0);
    if exec.mounts.iter().any(|mount| sized(&mount.kind)) {
        needs.push(TMPFS_SIZE);
    }
}

fn of_action(kind: &FileActionKind, needs: &mut Vec<Ability>) {
    match kind {
        FileActionKind::Symlink { .. } => {
            needs.push(SYMLINK);
        }
        FileActionKind::Copy(copy) => {
            if !copy.include.is_empty() || !copy.exclude.is_empty() {
                needs.push(PATTERNS);
            }
            if matches!(copy.mode, Some(ModeChange::Symbolic(_))) {
                // It has a capability of its own since 0.17, which no BuildKit lists; this came with the next one.
                needs.push((SYMLINK.0, "a symbolic `--chmod`"));
            }
        }
        FileActionKind::Mkfile { .. }
        | FileActionKind::Mkdir { .. }
        | FileActionKind::Rm { .. } => {}
    }
}

/// What a merge is to a daemon that cannot: the files of all inputs, copied onto the first one by one.
fn copied(definition: &mut Definition, merge: Vertex) -> VertexId {
    let mut actions: Vec<FileAction> = Vec::new();
    for upper in 1..merge.inputs.len() {
        let input = match upper {
            1 => FileInput::Input(0),
            _ => FileInput::Action(upper - 2),
        };
        actions.push(FileAction {
            input,
            secondary: FileInput::Input(upper),
            output: (upper + 1 == merge.inputs.len()).then_some(0),
            kind: FileActionKind::Copy(CopyAction {
                src: "/".to_owned(),
                dest: "/".to_owned(),
                dir_copy_contents: true,
                create_dest_path: true,
                ..CopyAction::default()
            }),
        });
    }
    definition.add(Vertex {
        op: Op::File(FileOp { actions }),
        ..merge
    })
}

#[cfg(test)]
mod t {
    use rbuild_llb::config::ImageConfig;
    use rbuild_llb::definition::Output;

    use super::*;

    fn vertex(op: Op, inputs: Vec<Edge>, name: &str) -> Vertex {
        Vertex {
            op,
            inputs,
            platform: Platform::new("linux", "amd64", ""),
            meta: VertexMeta {
                name: name.to_owned(),
                ..VertexMeta::default()
            },
        }
    }

    fn local(name: &str) -> Op {
        Op::Source(SourceOp::Local(LocalSource {
            name: name.into(),
            include: vec!["a".into()],
            exclude: Vec::new(),
            modes: FileModes::Git,
        }))
    }

    fn graph(top: Op) -> PrunedDefinition {
        let mut definition = Definition::new();
        let inputs = ["a", "b"].map(|name| definition.add(vertex(local(name), vec![], name)));
        let top = vertex(top, inputs.map(Edge::of).to_vec(), "COPY --link a b");
        let root = Some(Edge::of(definition.add(top)));
        definition.outputs.push(Output {
            name: String::new(),
            platform: Platform::new("linux", "amd64", ""),
            root,
            config: ImageConfig::default(),
        });
        definition.prune()
    }

    fn unix() -> BuilderAddress {
        "unix:///b.sock".parse().unwrap()
    }

    #[test]
    fn a_merge_is_copied_where_there_is_none() {
        let graph = graph(Op::Merge);
        let root = graph.outputs[0].root;
        let names = BTreeMap::new();
        for (capabilities, want) in [
            (Capabilities::from_iter(["mergeop"]), "merge"),
            (Capabilities::default(), "file"),
        ] {
            let lowered = lower(&graph, &names, "build", &capabilities, &unix()).unwrap();
            let top = lowered.edges[&root.unwrap().vertex];
            assert_eq!(lowered.definition.get(&top).unwrap().op.kind(), want);
            let (bytes, steps) = lowered.encode(root).unwrap();
            let platform = Platform::new("linux", "amd64", "");
            assert_eq!(proto::decode(&bytes, &platform).unwrap().len(), 3);
            // Whatever became of it, it is the step that the user wrote.
            let step = steps.values().find(|step| **step == root.unwrap().vertex);
            assert!(step.is_some());
        }
    }

    #[test]
    fn contexts_go_by_their_names_alone() {
        let graph = graph(Op::Merge);
        let ids: Vec<VertexId> = graph.iter().map(|(id, _)| id).collect();
        let names = BTreeMap::from([(ids[0], "first".into()), (ids[1], "second".into())]);
        let lowered = lower(&graph, &names, "build", &Capabilities::default(), &unix()).unwrap();
        let sources = lowered.definition.iter().filter_map(|(_, v)| match &v.op {
            Op::Source(SourceOp::Local(local)) => Some(local.clone()),
            _ => None,
        });
        let sources: Vec<LocalSource> = sources.collect();
        assert_eq!(sources[0].name, "first");
        assert_eq!(sources[1].name, "second");
        assert!(
            sources
                .iter()
                .all(|s| s.include.is_empty() && s.modes == FileModes::Exact)
        );
    }

    /// A daemon builds what has one digest once for all who ask for it at the same time: the contexts of two builds are never
    /// one, those of one build are, and all else that is equal is shared.
    #[test]
    fn no_build_gets_the_context_of_another() {
        let digests = |build: &str| {
            let graph = graph(Op::Merge);
            let ids: Vec<VertexId> = graph.iter().map(|(id, _)| id).collect();
            let names = BTreeMap::from([(ids[0], "context".into()), (ids[1], "other".into())]);
            let capabilities = Capabilities::from_iter(["mergeop"]);
            let lowered = lower(&graph, &names, build, &capabilities, &unix()).unwrap();
            let (_, steps) = lowered.encode(graph.outputs[0].root).unwrap();
            let of: BTreeMap<VertexId, String> =
                steps.into_iter().map(|(op, step)| (step, op)).collect();
            [of[&ids[0]].clone(), of[&ids[1]].clone()]
        };
        let (one, again, other) = (digests("one"), digests("one"), digests("other"));
        assert_eq!(one, again);
        assert!(
            one.iter().all(|digest| !other.contains(digest)),
            "{one:?} {other:?}"
        );
    }

    #[test]
    fn what_a_daemon_is_too_old_for_is_named() {
        let error = lower(
            &graph(Op::Diff),
            &BTreeMap::new(),
            "build",
            &Capabilities::default(),
            &unix(),
        );
        let Err(error) = error else {
            panic!("nothing else gives a difference");
        };
        assert_eq!(
            error.to_string(),
            "the builder `unix:///b.sock` is too old for the difference of two file systems, which `COPY --link a b` asks for"
        );
    }
}
