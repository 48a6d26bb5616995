//! Definitions of BuildKit's own frontend (`testdata/buildkit`), decoded and encoded again.

mod again;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::*;
use crate::Op;
use crate::Vertex;
use crate::definition::VertexMeta;
use crate::op::CacheSharing;
use crate::op::ExecOp;
use crate::op::FileAction;
use crate::op::FileActionKind;
use crate::op::FileInput;
use crate::op::FileOp;
use crate::op::LocalSource;
use crate::op::Mount;
use crate::op::MountKind;
use crate::op::NetworkMode;
use crate::op::ProxyEnv;
use crate::op::SecurityMode;
use crate::op::SourceOp;

const RUN: &[u8] = include_bytes!("../../testdata/buildkit/run.pb");
const COPY: &[u8] = include_bytes!("../../testdata/buildkit/copy.pb");

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn again(bytes: &[u8]) -> Vec<u8> {
    let definition = decode(bytes, &amd64()).unwrap();
    encode(&definition, definition.outputs[0].root).unwrap()
}

/// Graphs of BuildKit's Go client; `testdata/llb/README.md` says what is in them.
const STATES: [&[u8]; 14] = [
    include_bytes!("../../../testdata/llb/copies.pb"),
    include_bytes!("../../../testdata/llb/diff.pb"),
    include_bytes!("../../../testdata/llb/diff-everything.pb"),
    include_bytes!("../../../testdata/llb/diff-removed.pb"),
    include_bytes!("../../../testdata/llb/files.pb"),
    include_bytes!("../../../testdata/llb/insecure.pb"),
    include_bytes!("../../../testdata/llb/local.pb"),
    include_bytes!("../../../testdata/llb/merge.pb"),
    include_bytes!("../../../testdata/llb/mount-all.pb"),
    include_bytes!("../../../testdata/llb/owners.pb"),
    include_bytes!("../../../testdata/llb/readonly.pb"),
    include_bytes!("../../../testdata/llb/sources.pb"),
    include_bytes!("../../../testdata/llb/told.pb"),
    include_bytes!("../../../testdata/llb/user.pb"),
];

/// The ops by digest, with what `decode` says it drops taken out of sources.
fn normalised(definition: &pb::Definition) -> Vec<(String, pb::Op)> {
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut ops = Vec::new();
    for bytes in &definition.def {
        let mut op = pb::Op::decode(bytes.as_slice()).unwrap();
        for input in &mut op.inputs {
            input.digest.clone_from(&renamed[&input.digest]);
        }
        if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
            // From the working directory, which is `/` in all of them where it counts.
            for mount in exec.mounts.iter_mut().filter(|m| !m.dest.starts_with('/')) {
                mount.dest.insert(0, '/');
            }
        }
        if let Some(pb::op::Op::Source(source)) = &mut op.op {
            for attribute in ["local.unique", "local.followpaths", "local.differ"] {
                source.attrs.remove(attribute);
            }
            // Ours always says what the context is called.
            if let Some(name) = source.identifier.strip_prefix("local://") {
                let hint = "local.sharedkeyhint".to_owned();
                source.attrs.insert(hint, name.to_owned());
            }
            if let Some((_, digest)) = source
                .identifier
                .split_once("oci-layout://docker.io/library/lay@")
            {
                source.identifier = format!("oci-layout://layout@{digest}");
            }
        }
        let digest = digest_of(&encode::op_bytes(op.clone()));
        renamed.insert(digest_of(bytes), digest.clone());
        ops.push((digest, op));
    }
    ops
}

#[test]
fn a_definition_of_buildkit_keeps_its_digests() {
    // Nothing in it is dropped: not a byte of an op may change, nor the order.
    let (theirs, ours) = (
        pb::Definition::decode(RUN).unwrap(),
        pb::Definition::decode(again(RUN).as_slice()).unwrap(),
    );
    assert_eq!(theirs.def.len(), 9);
    assert_eq!(ours.def, theirs.def);
}

#[test]
fn only_what_is_dropped_is_lost() {
    for bytes in [RUN, COPY].into_iter().chain(STATES) {
        let theirs = pb::Definition::decode(bytes).unwrap();
        let ours = pb::Definition::decode(again(bytes).as_slice()).unwrap();
        let want = normalised(&theirs);
        // The order differs where two inputs do not need one another; the result is last in both.
        let by_digest: BTreeMap<_, _> = normalised(&ours).into_iter().collect();
        assert_eq!(by_digest, want.iter().cloned().collect());
        assert_eq!(
            ours.def.last().map(|op| digest_of(op)),
            want.last().map(|op| op.0.clone())
        );
        for ((digest, _), bytes) in want.iter().zip(&theirs.def) {
            let (mine, meta) = (&ours.metadata[digest], &theirs.metadata[&digest_of(bytes)]);
            assert_eq!(mine.ignore_cache, meta.ignore_cache);
            // One that has none gets one.
            if let Some(name) = meta.description.get(NAME) {
                assert_eq!(mine.description.get(NAME), Some(name));
            }
        }
    }
    let forced = decode(RUN, &amd64()).unwrap();
    let forced: BTreeSet<bool> = forced.iter().map(|(_, v)| v.meta.ignore_cache).collect();
    assert_eq!(forced.len(), 2, "the definition has both");
}

#[test]
fn names_platforms_and_lines_are_found() {
    let definition = decode(RUN, &amd64()).unwrap();
    let steps: Vec<String> = definition
        .iter()
        .map(|(_, v)| {
            let lines: Vec<String> = v
                .meta
                .spans
                .iter()
                .map(|s| format!("{:?}", s.lines()))
                .collect();
            let name = v.meta.name.split(" --").next().unwrap();
            format!(
                "{} {} {}",
                v.platform,
                lines.join(""),
                name.split('\n').next().unwrap()
            )
        })
        .collect();
    // The lines are those of run.Dockerfile.
    let image = "FROM docker.io/library/alpine:3.20@sha256:b369c26207663c1e92b170cda6fcf3ef95eca5a4fa5f22d2eb7bca185fa64f7e";
    let want = [
        &format!("linux/arm/v7 (16, 16) [stage-1 1/2] {image}"),
        &format!("linux/amd64 (1, 1) {image}"),
        "linux/amd64 (5, 5) [base 2/5] WORKDIR /srv",
        "linux/amd64 (6, 6)(7, 7)(8, 8) [base 3/5] RUN",
        "linux/amd64 (9, 9)(10, 10) [base 4/5] RUN",
        "linux/amd64 (12, 12)(13, 13)(14, 14)(15, 15) [base 5/5] RUN",
        "linux/arm/v7 (17, 17) [stage-1 2/2] RUN",
    ];
    assert_eq!(steps, want);
    let output = &definition.outputs[0];
    assert_eq!(output.platform.to_string(), "linux/arm/v7");
    assert_eq!(output.root.map(|root| root.output), Some(0));
}

#[test]
fn an_empty_definition_is_an_empty_file_system() {
    assert_eq!(encode(&Definition::new(), None), Ok(Vec::new()));
    let definition = decode(&[], &amd64()).unwrap();
    assert_eq!((definition.len(), definition.outputs[0].root), (0, None));
}

fn exec(mounts: Vec<Mount>) -> ExecOp {
    ExecOp {
        args: vec!["true".into()],
        env: std::sync::Arc::default(),
        cwd: "/".into(),
        user: String::new(),
        mounts,
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        hostname: String::new(),
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        proxy_env: ProxyEnv::default(),
        limits: std::sync::Arc::default(),
    }
}

fn mount(dest: &str, kind: MountKind) -> Mount {
    Mount {
        input: None,
        selector: String::new(),
        dest: dest.into(),
        output: None,
        readonly: false,
        kind,
    }
}

fn encode_one(op: Op) -> Result<pb::Definition, EncodeError> {
    let mut definition = Definition::new();
    let id = definition.add(Vertex {
        op,
        inputs: Vec::new(),
        platform: amd64(),
        meta: VertexMeta::default(),
    });
    let bytes = encode(&definition, Some(Edge::of(id)))?;
    Ok(pb::Definition::decode(bytes.as_slice()).unwrap())
}

#[test]
fn the_owner_of_a_cache_mount_is_a_directory_it_starts_from() {
    let cache = MountKind::Cache {
        id: "/c".into(),
        sharing: CacheSharing::Locked,
        mode: 0o700,
        uid: 1,
        gid: 0,
    };
    let root = mount("/", MountKind::Bind);
    let op = Op::Exec(exec(vec![root, mount("/root/.cache", cache)]));
    let ours = encode_one(op).unwrap();
    // The same mount as in run.Dockerfile.
    let theirs = pb::Definition::decode(RUN).unwrap();
    assert!(theirs.def.contains(&ours.def[0]));
    let exec = pb::Op::decode(ours.def[1].as_slice()).unwrap();
    assert_eq!(exec.inputs[0].digest, digest_of(&ours.def[0]));
    let Some(pb::op::Op::Exec(exec)) = exec.op else {
        panic!("the second op is the exec");
    };
    let mount = &exec.mounts[1];
    assert_eq!((mount.input, mount.selector.as_str()), (0, "/cache"));
}

#[test]
fn what_has_no_protobuf_form_is_refused() {
    let root = mount("/", MountKind::Bind);
    let mut proxy = exec(vec![root.clone()]);
    proxy.proxy_env.env = vec!["http_proxy=x".into(), "RSYNC_PROXY=x".into()];
    let size = u64::MAX;
    let tmpfs = exec(vec![root, mount("/t", MountKind::Tmpfs { size })]);
    let late = FileOp {
        actions: vec![FileAction {
            input: FileInput::Scratch,
            secondary: FileInput::Scratch,
            output: Some(0),
            kind: FileActionKind::Mkdir {
                path: "/a".into(),
                mode: 0o755,
                make_parents: false,
                owner: None,
                timestamp: Some(i64::MAX),
            },
        }],
    };
    for (op, want) in [
        (
            Op::Exec(proxy),
            "LLB has no field for the proxy variable `RSYNC_PROXY`",
        ),
        (
            Op::Exec(tmpfs),
            "18446744073709551615 does not fit into the LLB field `exec.mounts.tmpfs_opt.size`",
        ),
        (
            Op::File(late),
            "9223372036854775807000000000 does not fit into the LLB field `file.actions.timestamp`",
        ),
    ] {
        assert_eq!(encode_one(op).unwrap_err().to_string(), want);
    }
    let nowhere = Edge::of(crate::VertexId::from_bytes([7; 32]));
    assert!(matches!(
        encode(&Definition::new(), Some(nowhere)),
        Err(EncodeError::NoSuchStep { .. })
    ));
}

/// Decodes an op that nothing is wrong with but what `change` does to it.
fn decode_changed(change: impl FnOnce(&mut pb::Op)) -> String {
    let local = Op::Source(SourceOp::Local(LocalSource {
        name: "context".into(),
        include: Vec::new(),
        exclude: Vec::new(),
        modes: Default::default(),
    }));
    let good = encode_one(local).unwrap();
    let input = pb::Input {
        digest: digest_of(&good.def[0]),
        index: 0,
    };
    let mut op = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    };
    change(&mut op);
    let op = op.encode_to_vec();
    let result = pb::Op {
        inputs: vec![pb::Input {
            digest: digest_of(&op),
            index: 0,
        }],
        ..pb::Op::default()
    };
    let definition = pb::Definition {
        def: vec![good.def[0].clone(), op.clone(), result.encode_to_vec()],
        ..pb::Definition::default()
    };
    let decoded = decode(&definition.encode_to_vec(), &amd64());
    let said = |errors: Vec<DecodeError>| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("; ")
    };
    let text = decoded.map_or_else(said, |_| "fine".to_owned());
    text.replace(&digest_of(&op), "OP")
}

#[test]
fn what_a_definition_cannot_say_is_refused_by_name() {
    use pb::file_action::Action;
    let changed_exec = |change: fn(&mut pb::ExecOp)| {
        decode_changed(|op| {
            let mut exec = pb::ExecOp {
                meta: Some(pb::Meta {
                    args: vec!["x".into()],
                    remove_mount_stubs_recursive: true,
                    ..pb::Meta::default()
                }),
                mounts: vec![pb::Mount {
                    dest: "/".into(),
                    ..pb::Mount::default()
                }],
                ..pb::ExecOp::default()
            };
            change(&mut exec);
            op.op = Some(pb::op::Op::Exec(exec));
        })
        .replace("`x` (OP)", "OP")
    };
    assert_eq!(changed_exec(|_| {}), "fine");
    for (change, want) in [
        (
            (|exec| exec.cdi_devices.push(pb::CdiDevice::default())) as fn(&mut pb::ExecOp),
            "OP has `exec.cdi_devices`, which is not supported",
        ),
        (
            |exec| exec.meta.as_mut().unwrap().valid_exit_codes.push(1),
            "OP has `exec.meta.valid_exit_codes`, which is not supported",
        ),
        (
            |exec| exec.meta.as_mut().unwrap().remove_mount_stubs_recursive = false,
            "OP has `false` for `exec.meta.remove_mount_stubs_recursive`",
        ),
        (|exec| exec.network = 9, "OP has `9` for `exec.network`"),
        (
            |exec| exec.mounts[0].dest.push('x'),
            "OP has `no single mount of /` for `exec.mounts`",
        ),
        (
            |exec| exec.mounts[0].input = 1,
            "OP has `1` for `exec.mounts.input`",
        ),
        (
            |exec| exec.mounts[0].input = -2,
            "OP has `-2` for `exec.mounts.input`",
        ),
        (
            |exec| exec.mounts[0].mount_type = 3,
            "OP has `` for `exec.mounts.cache_opt`",
        ),
        (
            |exec| exec.mounts[0].content_cache = 2,
            "OP has `exec.mounts.content_cache`, which is not supported",
        ),
        (
            |exec| exec.mounts[0].readonly = true,
            "OP has `0` for `exec.mounts.output`",
        ),
        (
            |exec| exec.mounts[0].output = 1,
            "OP has `1` for `exec.mounts.output`",
        ),
        (
            |exec| exec.mounts[0].selector = "/srv".into(),
            "OP has `no plain mount of /` for `exec.mounts`",
        ),
        (
            |exec| {
                let mut again = exec.mounts[0].clone();
                again.dest = "/x/..".into();
                again.output = 1;
                exec.mounts.push(again);
            },
            "OP has `no single mount of /` for `exec.mounts`",
        ),
        (
            |exec| exec.meta.as_mut().unwrap().args[0].push('\0'),
            "`x\0` (OP) has `x\\0` for `exec.meta.args`",
        ),
        (
            |exec| exec.meta.as_mut().unwrap().cwd = "srv".into(),
            "OP has `srv` for `exec.meta.cwd`",
        ),
        (
            |exec| {
                let meta = exec.meta.as_mut().unwrap();
                meta.cgroup_parent = "/a/../../b".into();
                let limit = |name: &str, soft| pb::Ulimit {
                    name: name.into(),
                    soft,
                    hard: -1,
                };
                meta.ulimit = vec![limit("NOFILE", 1), limit("core", -2)];
            },
            "OP has `NOFILE` for `exec.meta.ulimit.name`; OP has `-2` for `exec.meta.ulimit`; OP has `/a/../../b` for \
             `exec.meta.cgroup_parent`",
        ),
        (|exec| exec.meta = None, "OP has `` for `exec.meta`"),
        (
            |exec| exec.mounts.clear(),
            "OP has `no single mount of /` for `exec.mounts`",
        ),
    ] {
        assert_eq!(changed_exec(change), want);
    }

    let file = |action: pb::FileAction| {
        decode_changed(|op| {
            let actions = vec![action];
            op.op = Some(pb::op::Op::File(pb::FileOp { actions }));
        })
    };
    let mkdir = |input, change: fn(&mut pb::FileActionMkDir)| {
        let mut mkdir = pb::FileActionMkDir {
            timestamp: -1,
            ..pb::FileActionMkDir::default()
        };
        change(&mut mkdir);
        file(pb::FileAction {
            input,
            secondary_input: -1,
            output: 0,
            action: Some(Action::Mkdir(mkdir)),
        })
    };
    assert_eq!(mkdir(0, |_| {}), "fine");
    // Input 1 would be the result of the action itself.
    assert_eq!(mkdir(1, |_| {}), "OP has `1` for `file.actions.input`");
    assert_eq!(
        mkdir(0, |d| d.mode = -1),
        "OP has `-1` for `file.actions.mkdir.mode`"
    );
    assert_eq!(
        mkdir(0, |d| d.timestamp = 5),
        "OP has `5` for `file.actions.timestamp`"
    );
    let of_another_root = |d: &mut pb::FileActionMkDir| {
        let name = pb::NamedUserOpt {
            name: "app".into(),
            input: 3,
        };
        let user = Some(pb::UserOpt {
            user: Some(pb::user_opt::User::ByName(name)),
        });
        d.owner = Some(pb::ChownOpt { user, group: None });
    };
    assert_eq!(
        mkdir(0, of_another_root),
        "OP has `3` for `file.actions.owner.by_name.input`"
    );
    let required = pb::FileActionCopy {
        mode: -1,
        timestamp: -1,
        required_paths: vec!["/x".into()],
        ..pb::FileActionCopy::default()
    };
    let copy = pb::FileAction {
        action: Some(Action::Copy(required)),
        ..pb::FileAction::default()
    };
    assert_eq!(
        file(copy),
        "OP has `/x` for `file.actions.copy.required_paths`"
    );
}

#[test]
fn ops_and_fields_of_other_versions_are_refused_by_name() {
    assert_eq!(
        decode_changed(|op| op.op = Some(pb::op::Op::Build(pb::BuildOp::default()))),
        "OP has `build`, which is not supported"
    );
    assert_eq!(
        decode_changed(|op| {
            let filter = vec!["x".into()];
            op.constraints = Some(pb::WorkerConstraints { filter });
            op.op = Some(pb::op::Op::Merge(pb::MergeOp {
                inputs: vec![pb::MergeInput::default()],
            }));
        }),
        "OP has `constraints.filter`, which is not supported"
    );
    assert_eq!(
        decode_changed(|_| {}),
        "OP has `op`, which is not supported"
    );
    let diff = |lower, upper| {
        decode_changed(|op| {
            op.op = Some(pb::op::Op::Diff(pb::DiffOp {
                lower: Some(pb::LowerDiffInput { input: lower }),
                upper: Some(pb::UpperDiffInput { input: upper }),
            }));
        })
    };
    assert_eq!(diff(0, 0), "fine");
    assert_eq!(diff(-1, 0), "fine");
    assert_eq!(diff(0, -1), "fine");
    assert_eq!(diff(-1, -1), "OP has `-1` for `diff.upper`");
    assert_eq!(diff(7, 8), "OP has `7` for `diff`; OP has `8` for `diff`");

    // A passthrough op, which has the number 8, and a field 13 of exec's meta.
    for (op, want) in [
        (&[0x42, 2, 0x0a, 0][..], "passthrough"),
        (&[0x12, 4, 0x0a, 2, 0x68, 1], "2.1.13"),
    ] {
        let definition = pb::Definition {
            def: vec![op.to_vec(), Vec::new()],
            ..pb::Definition::default()
        };
        let errors = decode(&definition.encode_to_vec(), &amd64()).unwrap_err();
        let (op, path) = (digest_of(op), want.to_owned());
        let want = [
            DecodeError::UnknownField { op, path },
            DecodeError::NoResult,
        ];
        assert_eq!(errors, want);
    }
}

#[test]
fn broken_definitions_are_errors() {
    let run = pb::Definition::decode(RUN).unwrap();
    let with = |change: fn(&mut Vec<Vec<u8>>)| {
        let mut broken = run.clone();
        change(&mut broken.def);
        decode(&broken.encode_to_vec(), &amd64()).unwrap_err()
    };
    assert_eq!(with(|def| drop(def.pop())), [DecodeError::NoResult]);
    let missing = with(|def| drop(def.remove(0)));
    assert!(
        matches!(missing.as_slice(), [DecodeError::NoSuchInput { .. }]),
        "{missing:?}"
    );
    for bytes in [RUN, COPY] {
        for end in (1..bytes.len()).step_by(5) {
            // It may end between two ops, and be right; what counts is that nothing panics.
            drop(decode(&bytes[..end], &amd64()));
        }
    }
}
