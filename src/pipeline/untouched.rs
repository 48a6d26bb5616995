//! Bases that nobody looks into. An image whose config alone changes, or that has files put on top of a base without a
//! look at what is there (`COPY --link`), needs the base's blobs where it goes, and nothing here: a registry that has them is
//! sent none, and an archive gets each as it is, downloaded once and not unpacked.
//!
//! This takes the steps that would only read such a base, and stack layers on it, out of what is solved.

use std::collections::BTreeMap;

use rbuild_cache::LayerRef;
use rbuild_cache::Snapshot;
use rbuild_llb::Op;
use rbuild_llb::VertexId;
use rbuild_llb::definition::Definition;
use rbuild_llb::definition::Edge;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Event;
use rbuild_llb::event::VertexEvent;

use crate::clock;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::ops::StepResult;
use crate::solver;
use crate::solver::Root;
use crate::solver::Solved;

/// What some layers of an output are.
#[derive(Debug)]
enum Part {
    /// Those of a base, in its place.
    Base(VertexId),
    /// What a step makes: an output of the [remaining](Untouched::remaining) graph.
    Made(usize),
}

/// What is left to solve, and how the outputs are put together of it.
#[derive(Debug)]
pub(super) struct Untouched {
    remaining: PrunedDefinition,
    outputs: BTreeMap<usize, Vec<Part>>,
}

impl Untouched {
    /// Looks for such outputs among those of which `whole` says that their layers are wanted as blobs, and nothing else of
    /// them is. `unread` are bases that nobody has looked into yet.
    pub(super) fn find(
        definition: &PrunedDefinition,
        whole: impl Fn(usize) -> bool,
        unread: impl Fn(&VertexId) -> bool,
    ) -> Option<Self> {
        let mut outputs = BTreeMap::new();
        let mut remaining: Vec<Output> = definition.outputs.clone();
        for (at, output) in definition.outputs.iter().enumerate() {
            let Some(root) = output.root.filter(|_| whole(at)) else {
                continue;
            };
            let edges = stacked(definition, root);
            if !edges.iter().any(|edge| unread(&edge.vertex)) {
                continue;
            }
            remaining[at].root = None;
            let parts = edges.into_iter().map(|edge| {
                if unread(&edge.vertex) {
                    return Part::Base(edge.vertex);
                }
                remaining.push(Output {
                    root: Some(edge),
                    ..output.clone()
                });
                Part::Made(remaining.len() - 1)
            });
            outputs.insert(at, parts.collect());
        }
        if outputs.is_empty() {
            return None;
        }
        let mut left = Definition::clone(definition);
        left.outputs = remaining;
        Some(Self {
            remaining: left.prune(),
            outputs,
        })
    }

    /// What must be solved all the same. It has the outputs of the whole graph, and more behind them.
    pub(super) fn remaining(&self) -> &PrunedDefinition {
        &self.remaining
    }

    /// The file system of an output, if it is one of these: layers alone.
    pub(super) fn snapshot(
        &self,
        output: usize,
        engine: &Engine<'_>,
        solved: &Solved<StepResult, OpError>,
    ) -> Result<Option<Snapshot>, OpError> {
        let Some(parts) = self.outputs.get(&output) else {
            return Ok(None);
        };
        let mut layers = Vec::new();
        for part in parts {
            match part {
                Part::Base(id) => {
                    if let Some(Op::Source(source)) =
                        engine.definition.get(id).map(|vertex| &vertex.op)
                    {
                        let origins = engine.base_layers(source)?;
                        layers.extend(origins.into_iter().map(LayerRef::unread));
                    }
                }
                Part::Made(at) => {
                    let edge = self.remaining.outputs[*at].root;
                    if let (Root::Made(made), Some(edge)) = (&solved.roots[*at], edge) {
                        layers.extend_from_slice(&made.outputs[edge.output as usize].layers);
                    }
                }
            }
        }
        Ok(Some(Snapshot {
            layers,
            ..engine.empty()
        }))
    }

    /// Shows the bases in the progress.
    pub(super) fn report(&self, definition: &Definition, send: impl Fn(Event)) {
        let parts = self.outputs.values().flatten();
        for part in parts {
            if let Part::Base(id) = part
                && let Some(vertex) = definition.get(id)
            {
                let now = Some(clock::now());
                send(Event::Vertex(VertexEvent {
                    digest: solver::event_digest(id),
                    inputs: Vec::new(),
                    name: vertex.meta.name.clone(),
                    started: now,
                    completed: now,
                    cached: false,
                    error: String::new(),
                    why: String::new(),
                    emulator: String::new(),
                }));
            }
        }
    }
}

/// What is stacked to make `root`, the lowest first.
fn stacked(definition: &Definition, root: Edge) -> Vec<Edge> {
    let mut open = vec![root];
    let mut parts = Vec::new();
    while let Some(edge) = open.pop() {
        match definition.get(&edge.vertex) {
            Some(vertex) if vertex.op == Op::Merge => open.extend(vertex.inputs.iter().rev()),
            _ => parts.push(edge),
        }
    }
    parts
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::Platform;
    use rbuild_llb::Vertex;
    use rbuild_llb::op::FileAction;
    use rbuild_llb::op::FileActionKind;
    use rbuild_llb::op::FileInput;
    use rbuild_llb::op::FileOp;
    use rbuild_llb::op::ImageSource;
    use rbuild_llb::op::SourceOp;

    fn vertex(op: Op, inputs: &[VertexId]) -> Vertex {
        Vertex {
            op,
            inputs: inputs.iter().copied().map(Edge::of).collect(),
            platform: Platform::host(),
            meta: Default::default(),
        }
    }

    fn image(name: &str) -> Op {
        Op::Source(SourceOp::Image(ImageSource {
            reference: name.into(),
            digest: None,
        }))
    }

    fn mkdir(path: &str, on: FileInput) -> Op {
        Op::File(FileOp {
            actions: vec![FileAction {
                input: on,
                secondary: FileInput::Scratch,
                output: Some(0),
                kind: FileActionKind::Mkdir {
                    path: path.into(),
                    mode: 0o755,
                    make_parents: true,
                    owner: None,
                    timestamp: None,
                },
            }],
        })
    }

    #[test]
    fn what_only_reads_and_stacks_an_unread_base_is_not_solved() {
        let mut graph = Definition::new();
        let base = graph.add(vertex(image("base"), &[]));
        let known = graph.add(vertex(image("known"), &[]));
        let files = graph.add(vertex(mkdir("/a", FileInput::Scratch), &[]));
        let more = graph.add(vertex(mkdir("/b", FileInput::Scratch), &[]));
        let upon = graph.add(vertex(mkdir("/c", FileInput::Input(0)), &[base]));
        let merged = graph.add(vertex(Op::Merge, &[base, files]));
        let twice = graph.add(vertex(Op::Merge, &[merged, more]));
        let above = graph.add(vertex(Op::Merge, &[upon, files]));
        let of_known = graph.add(vertex(Op::Merge, &[known, files]));
        // A root, whether its layers are wanted as blobs, and what it is put together of, where that is done: `None` is the
        // base. Then the steps that are left.
        type Parts = Option<Vec<Option<VertexId>>>;
        let cases: [(VertexId, bool, Parts, Vec<VertexId>); 7] = [
            (base, true, Some(vec![None]), vec![]),
            (base, false, None, vec![]),
            (merged, true, Some(vec![None, Some(files)]), vec![files]),
            (merged, false, None, vec![]),
            (
                twice,
                true,
                Some(vec![None, Some(files), Some(more)]),
                vec![files, more],
            ),
            (above, true, None, vec![]),
            (of_known, true, None, vec![]),
        ];
        for (root, whole, expected, left) in cases {
            let mut graph = graph.clone();
            graph.outputs.push(Output {
                name: "app".into(),
                platform: Platform::host(),
                root: Some(Edge::of(root)),
                config: Default::default(),
            });
            let found = Untouched::find(&graph.prune(), |_| whole, |step| *step == base);
            let parts = found.as_ref().map(|found| {
                let parts = found.outputs[&0].iter().map(|part| match part {
                    Part::Base(id) => {
                        assert_eq!(*id, base);
                        None
                    }
                    Part::Made(at) => found.remaining.outputs[*at].root.map(|edge| edge.vertex),
                });
                parts.collect()
            });
            assert_eq!(parts, expected);
            if let Some(found) = found {
                let steps: Vec<VertexId> = found.remaining.iter().map(|(id, _)| id).collect();
                assert_eq!(steps, left);
                assert_eq!(found.remaining.outputs[0].root, None);
            }
        }
    }
}
