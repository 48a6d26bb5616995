//! What a step's processes may use together: `LinuxResources` in the metadata of its op, which BuildKit has had since 0.31
//! and the protobuf types here lack.
//!
//! It is read and written beside them: a message whose bytes stand behind those of another is one with it (protobuf's
//! encoding, "Last One Wins").

use std::collections::BTreeMap;

use prost::Message;

use super::DecodeError;
use crate::op::Limits;

/// The metadata of a `pb.Definition`, by itself.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
}

/// An entry of the map.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    op: String,
    #[prost(bytes = "vec", tag = "2")]
    metadata: Vec<u8>,
}

/// What is read of a `pb.OpMetadata`.
#[derive(Clone, PartialEq, Message)]
struct OpMetadata {
    #[prost(message, optional, tag = "7")]
    linux_resources: Option<LinuxResources>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxResources {
    #[prost(int64, tag = "1")]
    memory: i64,
    #[prost(int64, tag = "2")]
    memory_swap: i64,
    #[prost(uint64, tag = "3")]
    cpu_shares: u64,
    #[prost(uint64, tag = "4")]
    cpu_period: u64,
    #[prost(int64, tag = "5")]
    cpu_quota: i64,
    #[prost(string, tag = "6")]
    cpuset_cpus: String,
    #[prost(string, tag = "7")]
    cpuset_mems: String,
}

/// What the ops of a definition may use, by their digests.
pub(super) fn read(definition: &[u8]) -> Result<BTreeMap<String, Limits>, DecodeError> {
    let malformed = |source| DecodeError::Malformed { source };
    let mut all = BTreeMap::new();
    for entry in Metadata::decode(definition).map_err(malformed)?.entries {
        let metadata = OpMetadata::decode(entry.metadata.as_slice()).map_err(malformed)?;
        if let Some(resources) = metadata.linux_resources {
            let limits = limits(resources).map_err(|(field, value)| DecodeError::Value {
                op: entry.op.clone(),
                field,
                value: value.to_string(),
            })?;
            all.insert(entry.op, limits);
        }
    }
    Ok(all)
}

fn limits(resources: LinuxResources) -> Result<Limits, (&'static str, i64)> {
    let amount = |field, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(amount) => Ok(Some(amount)),
        Err(_) => Err((field, value)),
    };
    Ok(Limits {
        memory: amount("linux_resources.memory", resources.memory)?,
        memory_swap: match resources.memory_swap {
            0 => None,
            swap if swap >= -1 => Some(swap),
            swap => return Err(("linux_resources.memorySwap", swap)),
        },
        cpu_shares: Some(resources.cpu_shares).filter(|shares| *shares > 0),
        cpu_period: Some(resources.cpu_period).filter(|period| *period > 0),
        cpu_quota: amount("linux_resources.cpuQuota", resources.cpu_quota)?,
        cpuset_cpus: Some(resources.cpuset_cpus).filter(|cpus| !cpus.is_empty()),
        cpuset_mems: Some(resources.cpuset_mems).filter(|mems| !mems.is_empty()),
        cgroup_parent: None,
    })
}

/// Appends the metadata of an op to a definition: what it has, and its limits. The entry of a map that comes last is the
/// one that counts.
pub(super) fn append(definition: &mut Vec<u8>, op: &str, metadata: Vec<u8>, limits: &Limits) {
    let signed = |number: Option<u64>| i64::try_from(number.unwrap_or(0)).unwrap_or(i64::MAX);
    let resources = OpMetadata {
        linux_resources: Some(LinuxResources {
            memory: signed(limits.memory),
            memory_swap: limits.memory_swap.unwrap_or(0),
            cpu_shares: limits.cpu_shares.unwrap_or(0),
            cpu_period: limits.cpu_period.unwrap_or(0),
            cpu_quota: signed(limits.cpu_quota),
            cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        }),
    };
    let whole = Metadata {
        entries: vec![Entry {
            op: op.to_owned(),
            metadata: [metadata, resources.encode_to_vec()].concat(),
        }],
    };
    definition.extend(whole.encode_to_vec());
}
