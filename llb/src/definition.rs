//! Steps wired into a graph.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use foldhash::HashMap;
use foldhash::HashMapExt as _;

use crate::config::ImageConfig;
use crate::diagnostic::Span;
use crate::encode::Encoder;
use crate::encode::canonical_struct;
use crate::id::VertexId;
use crate::op::Op;
use crate::platform::Platform;

/// One output of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The step.
    pub vertex: VertexId,
    /// Which of its outputs.
    pub output: u32,
}

canonical_struct!(Edge { vertex, output });

impl Edge {
    /// Output 0 of `vertex`.
    pub fn of(vertex: VertexId) -> Self {
        Self { vertex, output: 0 }
    }
}

/// A step. Two steps with the same op, inputs and platform are one step, wherever they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// What it works on, in the order the op's indices mean.
    pub inputs: Vec<Edge>,
    /// What it is built for. Always known, also where the op does not care.
    pub platform: Platform,
    /// What does not change the result.
    pub meta: VertexMeta,
}

/// What people see of a step; in no id and no key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VertexMeta {
    /// As progress shows it: `[build 2/5] RUN npm ci`.
    pub name: String,
    /// The instruction it comes from.
    pub spans: Vec<Span>,
    /// Run it even if a cached result is there.
    pub ignore_cache: bool,
    /// Which of its variables are build arguments, to call them what they are called where they are declared.
    pub args: Vec<String>,
}

impl Vertex {
    /// The id: BLAKE3 over the canonical encoding of op, inputs and platform.
    pub fn id(&self) -> VertexId {
        // One buffer for all of a graph's steps: theirs are made one after the other.
        thread_local! {
            static ENCODER: RefCell<Encoder> = RefCell::default();
        }
        ENCODER.with_borrow_mut(|encoder| {
            encoder.clear();
            encoder
                .put("rbuild vertex 1")
                .put(&self.op)
                .put(&self.inputs)
                .put(&self.platform);
            VertexId::from_bytes(encoder.blake3())
        })
    }
}

/// What a build is to make: one file system with its config, for one platform.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Name of the target: the stage name, or its number.
    pub name: String,
    /// For which platform.
    pub platform: Platform,
    /// The file system; `None` is an empty one.
    pub root: Option<Edge>,
    /// The image config, without what only the finished layers tell (`rootfs`, times).
    pub config: ImageConfig,
}

/// A graph of steps, inputs before users, with the outputs asked of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Definition {
    vertices: Vec<Vertex>,
    /// Where each is. Nothing may depend on the order of this map.
    index: HashMap<VertexId, usize>,
    /// What to make.
    pub outputs: Vec<Output>,
}

impl Definition {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty graph with room for `steps`.
    pub fn with_capacity(steps: usize) -> Self {
        Self {
            vertices: Vec::with_capacity(steps),
            index: HashMap::with_capacity(steps),
            outputs: Vec::new(),
        }
    }

    /// Adds a step and returns its id. A step that is there already keeps its first name; it runs uncached if
    /// either wants that.
    ///
    /// # Panics
    /// If an input is not in the graph: inputs come first.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        for input in &vertex.inputs {
            assert!(
                self.index.contains_key(&input.vertex),
                "a step's inputs are added before it"
            );
        }
        let id = vertex.id();
        match self.index.entry(id) {
            Entry::Occupied(at) => {
                self.vertices[*at.get()].meta.ignore_cache |= vertex.meta.ignore_cache;
            }
            Entry::Vacant(at) => {
                at.insert(self.vertices.len());
                self.vertices.push(vertex);
            }
        }
        id
    }

    /// Adds the steps and outputs of another graph.
    pub fn extend(&mut self, other: Self) {
        if self.is_empty() && self.outputs.is_empty() {
            *self = other;
            return;
        }
        for vertex in other.vertices {
            self.add(vertex);
        }
        self.outputs.extend(other.outputs);
    }

    /// The step `id`.
    pub fn get(&self, id: &VertexId) -> Option<&Vertex> {
        self.index.get(id).map(|&at| &self.vertices[at])
    }

    /// All steps with their ids, inputs before users.
    pub fn iter(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.ids().into_iter().zip(&self.vertices)
    }

    /// The ids of all steps, in their order.
    fn ids(&self) -> Vec<VertexId> {
        let mut ids: Vec<VertexId> = vec![VertexId::from_bytes([0; 32]); self.vertices.len()];
        self.index.iter().for_each(|(id, &at)| ids[at] = *id);
        ids
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// Has every step run, whatever is cached.
    pub fn ignore_caches(&mut self) {
        let steps = self.vertices.iter_mut();
        steps.for_each(|vertex| vertex.meta.ignore_cache = true);
    }

    /// Leaves only what the outputs need.
    pub fn prune(self) -> PrunedDefinition {
        let mut needed: BTreeSet<VertexId> = BTreeSet::new();
        let mut open: Vec<VertexId> = self
            .outputs
            .iter()
            .filter_map(|o| o.root)
            .map(|edge| edge.vertex)
            .collect();
        while let Some(id) = open.pop() {
            if needed.insert(id) {
                open.extend(
                    self.vertices[self.index[&id]]
                        .inputs
                        .iter()
                        .map(|edge| edge.vertex),
                );
            }
        }
        let ids = self.ids();
        let mut pruned = Definition {
            outputs: self.outputs,
            ..Definition::with_capacity(needed.len())
        };
        for (id, vertex) in ids.into_iter().zip(self.vertices) {
            if needed.contains(&id) {
                pruned.index.insert(id, pruned.vertices.len());
                pruned.vertices.push(vertex);
            }
        }
        PrunedDefinition(pruned)
    }
}

/// A graph in which every step is needed by some output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrunedDefinition(Definition);

impl From<PrunedDefinition> for Definition {
    fn from(pruned: PrunedDefinition) -> Self {
        pruned.0
    }
}

impl std::ops::Deref for PrunedDefinition {
    type Target = Definition;

    fn deref(&self) -> &Definition {
        &self.0
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::op::FileAction;
    use crate::op::FileActionKind;
    use crate::op::FileInput;
    use crate::op::FileOp;

    fn mkdir(path: &str, inputs: Vec<Edge>) -> Vertex {
        let input = if inputs.is_empty() {
            FileInput::Scratch
        } else {
            FileInput::Input(0)
        };
        let kind = FileActionKind::Mkdir {
            path: path.into(),
            mode: 0o755,
            make_parents: false,
            owner: None,
            timestamp: None,
        };
        let action = FileAction {
            input,
            secondary: FileInput::Scratch,
            output: Some(0),
            kind,
        };
        Vertex {
            op: Op::File(FileOp {
                actions: vec![action],
            }),
            inputs,
            platform: Platform::new("linux", "amd64", ""),
            meta: VertexMeta::default(),
        }
    }

    #[test]
    fn equal_steps_are_one_and_pruning_keeps_order() {
        let mut definition = Definition::new();
        let a = definition.add(mkdir("/a", vec![]));
        let unused = definition.add(mkdir("/unused", vec![Edge::of(a)]));
        let b = definition.add(mkdir("/b", vec![Edge::of(a)]));
        assert_eq!(definition.add(mkdir("/a", vec![])), a);
        assert_eq!(definition.len(), 3);
        definition.outputs.push(Output {
            name: "0".into(),
            platform: Platform::new("linux", "amd64", ""),
            root: Some(Edge::of(b)),
            config: ImageConfig::default(),
        });
        let pruned = definition.prune();
        assert_eq!(pruned.iter().map(|(id, _)| id).collect::<Vec<_>>(), [a, b]);
        assert!(pruned.get(&unused).is_none());
    }

    /// Guards the encoding: stored keys rest on it. If this fails, either the change was not meant, or
    /// `KEY_VERSION` goes up with it.
    #[test]
    fn golden_vertex_id() {
        let mut first = mkdir("/a", vec![]);
        first.meta.name = "names are not hashed".into();
        assert_eq!(
            first.id().hex(),
            "3f3a32367fae9f8a6508b8d9c39fe68fe898d9386a879a06de5c5843ba931489"
        );
    }
}
