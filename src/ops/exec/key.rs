//! What of a RUN is in its keys.

use std::collections::BTreeMap;

use rbuild_llb::KeyRecord;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::secrets::looks_secret;

use super::super::file::hidden;

/// The part of an exec's key that is its own: everything but its inputs.
pub(super) fn own_record(kind: &str, op: &ExecOp) -> KeyRecord {
    // Destructured: a new field must be put into the key or named here as left out.
    let ExecOp {
        args,
        env,
        cwd,
        user,
        mounts: _, // with the inputs
        network,
        security,
        secret_env,
        hostname,
        extra_hosts,
        ulimits,
        proxy_env: _, // never in the key
        limits: _,    // nor these: they decide whether a step succeeds, not what comes of it
    } = op;
    let mut record = KeyRecord::new(kind);
    record
        .field("args", args.iter().map(AsRef::as_ref).collect::<KeyValue>())
        .field(
            "env",
            env.iter().map(|pair| env_value(pair)).collect::<KeyValue>(),
        )
        .field("cwd", cwd.as_str())
        .field("user", user.as_str())
        .field("network", format!("{network:?}").to_lowercase())
        .field("security", format!("{security:?}").to_lowercase())
        .field(
            "secrets",
            secret_env
                .iter()
                .map(|s| format!("{}={}", s.name, s.id))
                .collect::<KeyValue>(),
        )
        .field("hostname", hostname.as_str())
        .field(
            "hosts",
            extra_hosts
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<KeyValue>(),
        )
        .field(
            "ulimits",
            ulimits
                .iter()
                .map(|u| format!("{}={}:{}", u.name, u.soft, u.hard))
                .collect::<KeyValue>(),
        );
    record
}

/// A variable, its value hidden where the name says that it is secret.
fn env_value(pair: &str) -> KeyValue {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    if looks_secret(name) {
        return KeyValue::Map(BTreeMap::from([(name.to_owned(), hidden(name, value))]));
    }
    pair.into()
}

/// A mount's own part of a key.
pub(super) fn mount_value(mount: &Mount) -> BTreeMap<String, KeyValue> {
    let kind: KeyValue = match &mount.kind {
        MountKind::Bind => "bind".into(),
        MountKind::Cache {
            id,
            sharing,
            mode,
            uid,
            gid,
        } => format!("cache {id} {sharing:?} {mode:o} {uid}:{gid}").into(),
        MountKind::Tmpfs { size } => format!("tmpfs {size}").into(),
        MountKind::Secret {
            id,
            uid,
            gid,
            mode,
            optional,
        } => format!("secret {id} {mode:o} {uid}:{gid} {optional}").into(),
        MountKind::Ssh {
            id,
            uid,
            gid,
            mode,
            optional,
        } => format!("ssh {id} {mode:o} {uid}:{gid} {optional}").into(),
    };
    BTreeMap::from([
        ("dest".to_owned(), mount.dest.as_str().into()),
        (
            "output".to_owned(),
            mount.output.map_or(-1, i64::from).into(),
        ),
        ("readonly".to_owned(), mount.readonly.into()),
        ("kind".to_owned(), kind),
    ])
}
