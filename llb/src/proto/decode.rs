//! A graph from its protobuf form.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb;
use prost::Message;

use super::DecodeError;
use super::NAME;
use super::digest_of;
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
use crate::op::Op;
use crate::op::SourceOp;
use crate::platform::Platform;

mod op;

use op::OpDecoder;
use op::unsupported;
use op::value;

/// The graph of a protobuf form.
pub(super) fn definition(
    encoded: &pb::Definition,
    platform: &Platform,
) -> Result<Definition, DecodeError> {
    let mut definition = Definition::new();
    let mut output = Output {
        name: String::new(),
        platform: platform.clone(),
        root: None,
        config: ImageConfig::scratch(platform),
    };
    if let Some((last, steps)) = encoded.def.split_last() {
        let mut ops = BTreeMap::new();
        for bytes in steps {
            let digest = digest_of(bytes);
            let op = parse(&digest, bytes)?;
            ops.insert(digest, op);
        }
        let result = parse(&digest_of(last), last)?;
        let ([root], None) = (result.inputs.as_slice(), &result.op) else {
            return Err(DecodeError::NoResult);
        };
        let mut decoder = Decoder {
            ops,
            encoded,
            files: encoded.source.as_ref().map_or(Vec::new(), spans::files),
            platform,
            ids: BTreeMap::new(),
            definition,
        };
        let edge = decoder.edge(&digest_of(last), root)?;
        definition = decoder.definition;
        if let Some(step) = definition.get(&edge.vertex) {
            output.platform = step.platform.clone();
            output.config = ImageConfig::scratch(&step.platform);
        }
        output.root = Some(edge);
    }
    definition.outputs.push(output);
    Ok(definition)
}

/// One op, with nothing dropped.
fn parse(digest: &str, bytes: &[u8]) -> Result<pb::Op, DecodeError> {
    let op = pb::Op::decode(bytes).map_err(|source| DecodeError::Malformed { source })?;
    match wire::dropped(bytes, &op.encode_to_vec()) {
        None => Ok(op),
        Some(path) => {
            let numbers: Vec<String> = path.iter().map(u32::to_string).collect();
            Err(DecodeError::UnknownField {
                op: digest.to_owned(),
                path: numbers.join("."),
            })
        }
    }
}

struct Decoder<'a> {
    ops: BTreeMap<String, pb::Op>,
    encoded: &'a pb::Definition,
    files: Vec<std::sync::Arc<crate::SourceFile>>,
    platform: &'a Platform,
    ids: BTreeMap<String, VertexId>,
    definition: Definition,
}

impl Decoder<'_> {
    /// Adds the step an input names, after all it needs. Ops may stand in any order; a digest can't be part of
    /// what it is the digest of, so there are no cycles.
    fn edge(&mut self, user: &str, input: &pb::Input) -> Result<Edge, DecodeError> {
        let mut open = vec![(input.digest.clone(), user.to_owned())];
        while let Some((digest, user)) = open.last().cloned() {
            let Some(op) = self.ops.get(&digest) else {
                return Err(DecodeError::NoSuchInput {
                    op: user,
                    input: digest,
                });
            };
            // The first input is added first, as in BuildKit's order.
            let missing = op.inputs.iter().rev().map(|input| &input.digest);
            let missing = missing.filter(|input| !self.ids.contains_key(*input));
            let before = open.len();
            open.extend(missing.map(|input| (input.clone(), digest.clone())));
            if open.len() == before {
                open.pop();
                if !self.ids.contains_key(&digest) {
                    let vertex = self.vertex(&digest)?;
                    let id = self.definition.add(vertex);
                    self.ids.insert(digest, id);
                }
            }
        }
        self.known(user, input)
    }

    /// An input whose step was added.
    fn known(&self, op: &str, input: &pb::Input) -> Result<Edge, DecodeError> {
        let output = u32::try_from(input.index);
        Ok(Edge {
            vertex: self.ids[&input.digest],
            output: output.map_err(|_| value(op, "inputs.index", input.index))?,
        })
    }

    fn vertex(&self, digest: &str) -> Result<Vertex, DecodeError> {
        let op = &self.ops[digest];
        let mut inputs: Vec<Edge> = op
            .inputs
            .iter()
            .map(|input| self.known(digest, input))
            .collect::<Result<_, _>>()?;
        if op
            .constraints
            .as_ref()
            .is_some_and(|c| !c.filter.is_empty())
        {
            return Err(unsupported(digest, "constraints.filter"));
        }
        let decode = OpDecoder {
            op: digest,
            inputs: inputs.len(),
        };
        let decoded = match &op.op {
            None => return Err(unsupported(digest, "op")),
            Some(pb::op::Op::Source(op)) => Op::Source(source::decode(digest, op)?),
            Some(pb::op::Op::Exec(op)) => Op::Exec(decode.exec(op)?),
            Some(pb::op::Op::File(op)) => Op::File(decode.file(op)?),
            Some(pb::op::Op::Build(_)) => return Err(unsupported(digest, "build")),
            Some(pb::op::Op::Merge(op)) => {
                let order: Vec<i64> = op.inputs.iter().map(|input| input.input).collect();
                inputs = decode.reorder("merge.inputs", &order, &inputs)?;
                Op::Merge
            }
            Some(pb::op::Op::Diff(op)) => {
                let lower = op.lower.map_or(0, |lower| lower.input);
                let upper = op.upper.map_or(0, |upper| upper.input);
                inputs = decode.reorder("diff", &[lower, upper], &inputs)?;
                Op::Diff
            }
        };
        let platform = match &op.platform {
            Some(platform) => decode.platform(platform)?,
            None => {
                let first = inputs.first().and_then(|i| self.definition.get(&i.vertex));
                first.map_or(self.platform, |first| &first.platform).clone()
            }
        };
        Ok(Vertex {
            meta: self.meta(digest, &decoded),
            op: decoded,
            inputs,
            platform,
        })
    }

    fn meta(&self, digest: &str, op: &Op) -> VertexMeta {
        let metadata = self.encoded.metadata.get(digest);
        let source = self.encoded.source.as_ref();
        let locations = source.and_then(|source| source.locations.get(digest));
        VertexMeta {
            name: metadata
                .and_then(|metadata| metadata.description.get(NAME).cloned())
                .unwrap_or_else(|| default_name(op)),
            spans: locations.map_or(Vec::new(), |at| spans::spans(at, &self.files)),
            ignore_cache: metadata.is_some_and(|metadata| metadata.ignore_cache),
            args: Vec::new(),
        }
    }
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
