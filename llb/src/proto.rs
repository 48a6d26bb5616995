//! BuildKit's protobuf form of a graph (LLB, solver/pb/ops.proto), in and out.
//!
//! A `pb.Definition` is a list of marshalled ops. An op is known by the SHA-256 of its bytes, and names its inputs by
//! theirs; the last one has no work of its own and one input, the result. Names, spans and `ignore_cache` stand
//! beside the ops, by digest.
//!
//! What is said differently in the two forms:
//!
//! - Only images and execs have a platform in LLB. [`decode`] gives other steps that of their first input, else the
//!   one it was told.
//! - The mode and owner of a cache mount are, in LLB, those of a directory `/cache` that the mount starts from, made
//!   by a file op. [`encode`] adds that op, and [`decode`] takes it out again.
//! - `--parents` is, in LLB, include patterns with required paths.
//! - A pinned image is its reference with the digest behind an `@`; [`decode`] can't tell whether that is the
//!   platform's manifest or an index, so it leaves it there.
//!
//! [`encode`] makes the bytes BuildKit's own client would: same op, same digest. [`decode`] takes everything
//! BuildKit's Dockerfile frontend emits but devices, and refuses what a [`Definition`] can't say, by name, all of it at
//! once. It drops what has no influence on files: sessions, transfer hints and progress groups. What [`encode`] says,
//! [`decode`] reads back as it was (`tests/again.rs` has what that is for each field).
//!
//! The bytes may be anybody's. An op is known by the digest that it has, whatever others say, so there are no cycles;
//! what is not there is named; and all indices of a [`Definition`] that was decoded lead somewhere.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb;
use prost::Message;
use sha2::Digest;
use sha2::Sha256;

use crate::definition::Definition;
use crate::definition::Edge;
use crate::id::OciDigest;
use crate::id::VertexId;
use crate::platform::Platform;

mod decode;
mod encode;
mod resources;
mod source;
mod spans;
#[cfg(test)]
mod tests;
mod wire;

/// The metadata key under which a step's name travels.
const NAME: &str = "llb.customname";

/// A graph that has no protobuf form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The result, or an input, is no step of the graph.
    #[error("step `{vertex}` is not in the graph")]
    NoSuchStep {
        /// What was named.
        vertex: crate::VertexId,
    },
    /// An image layout that was not pinned; LLB names its images by digest.
    #[error("`{path}` has no digest yet")]
    Unpinned {
        /// The layout's path.
        path: String,
    },
    /// A git remote that is neither a URL nor of the form `host:path`.
    #[error("`{remote}` is not the address of a git repository")]
    Remote {
        /// The address.
        remote: String,
    },
    /// A proxy variable that LLB has no field for.
    #[error("LLB has no field for the proxy variable `{name}`")]
    ProxyVariable {
        /// The variable.
        name: String,
    },
    /// Limits of what a step may use.
    #[error("not every daemon has limits of steps")]
    Limits,
    /// A number that does not fit.
    #[error("{value} does not fit into the LLB field `{field}`")]
    Range {
        /// The field, with the messages above it.
        field: &'static str,
        /// The number.
        value: i128,
    },
}

/// Bytes that are no graph, or one that can't be said in a [`Definition`]. Ops are named by what they are called, and by
/// their digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or another message.
    #[error("not an LLB definition")]
    Malformed {
        /// What is wrong with the bytes.
        #[source]
        source: prost::DecodeError,
    },
    /// The bytes of an op are none.
    #[error("{op} is no op of LLB")]
    MalformedOp {
        /// The op.
        op: String,
        /// What is wrong with the bytes.
        #[source]
        source: prost::DecodeError,
    },
    /// The last op is not the kind that names the result.
    #[error("the definition names no result")]
    NoResult,
    /// An input that is not in the definition.
    #[error("{op} has an input {input} that is not in the definition")]
    NoSuchInput {
        /// The op.
        op: String,
        /// The digest of the input.
        input: String,
    },
    /// A field BuildKit added after this was written.
    #[error("{op} has the unknown field `{path}`")]
    UnknownField {
        /// The op.
        op: String,
        /// Its name if that is known, else field numbers from `pb.Op` inwards: `2.1.13`.
        path: String,
    },
    /// An op or field that a [`Definition`] has no place for.
    #[error("{op} has `{field}`, which is not supported")]
    Unsupported {
        /// The op.
        op: String,
        /// The field, with the messages above it.
        field: &'static str,
    },
    /// A kind of source that is not known.
    #[error("{op} has the source `{identifier}`, which is not supported")]
    UnknownSource {
        /// The op.
        op: String,
        /// The whole identifier.
        identifier: String,
    },
    /// An attribute of a source that is not known.
    #[error("{op} has the source attribute `{name}`, which is not supported")]
    UnknownAttribute {
        /// The op.
        op: String,
        /// Its name.
        name: String,
    },
    /// A value the field can't have.
    #[error("{op} has `{value}` for `{field}`")]
    Value {
        /// The op.
        op: String,
        /// The field, with the messages above it.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// The protobuf form of what `root` needs; of the empty file system for `None`. Equal graphs give equal bytes.
///
/// # Errors
/// If something in it has no protobuf form.
pub fn encode(definition: &Definition, root: Option<Edge>) -> Result<Vec<u8>, EncodeError> {
    let encode::Encoded {
        definition, limits, ..
    } = encode::definition(definition, root, None)?;
    let mut bytes = definition.encode_to_vec();
    for (op, limits) in limits {
        let metadata = definition.metadata.get(&op);
        let metadata = metadata.map_or(Vec::new(), Message::encode_to_vec);
        resources::append(&mut bytes, &op, metadata, &limits);
    }
    Ok(bytes)
}

/// The same, and which step each op is, by the digest that the op has: a daemon calls steps so. It builds what has one digest
/// once, whoever asks for it at the same time; so contexts get `build` among their attributes (`local.unique`), which is to be
/// another one for each build: one name stands for other files in each. No result is looked up by it.
///
/// # Errors
/// If something in it has no protobuf form that all daemons understand: those before 0.31 pass over limits.
pub fn encode_with_steps(
    definition: &Definition,
    root: Option<Edge>,
    build: &str,
) -> Result<(Vec<u8>, BTreeMap<String, VertexId>), EncodeError> {
    let encoded = encode::definition(definition, root, Some(build))?;
    if !encoded.limits.is_empty() {
        return Err(EncodeError::Limits);
    }
    let steps = encoded.digests.into_iter();
    let steps = steps.map(|(step, digest)| (digest, step));
    Ok((encoded.definition.encode_to_vec(), steps.collect()))
}

/// The graph of a protobuf form, with one output that has no name. `platform` is what steps are built for that do
/// not say so themselves.
///
/// # Errors
/// All reasons why the bytes are no graph, or one that can't be said in a [`Definition`].
pub fn decode(bytes: &[u8], platform: &Platform) -> Result<Definition, Vec<DecodeError>> {
    let definition =
        pb::Definition::decode(bytes).map_err(|source| vec![DecodeError::Malformed { source }])?;
    let limits = resources::read(bytes).map_err(|problem| vec![problem])?;
    decode::definition(&definition, limits, platform)
}

/// The ssh agent that a git source is fetched with, if its remote is reached by ssh.
pub const GIT_AGENT: &str = "default";

/// Whether git reaches a remote by ssh.
pub fn is_reached_by_ssh(remote: &str) -> bool {
    source::git_place(remote).is_ok_and(|(_, ssh)| ssh)
}

/// How an op is called: SHA-256 of its bytes.
fn digest_of(op: &[u8]) -> String {
    OciDigest::from_bytes(Sha256::digest(op).into()).to_string()
}

/// The input index of an empty file system, the output index of what is dropped, and the time that is not set.
const NOTHING: i64 = -1;

/// Where the file op of a cache mount makes the directory the mount starts from.
const CACHE_DIR: &str = "/cache";

type Attributes = BTreeMap<String, String>;
