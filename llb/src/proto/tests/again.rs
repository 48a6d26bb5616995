//! The law of the protobuf form: what is encoded, decodes to what it was. For all ops and all their fields, with what LLB
//! has no words for left out, as [`settled`] and the strategies below say:
//!
//! - steps other than images and processes are for the platform of their first input;
//! - steps stand in the order in which the result needs them, and have names;
//! - an image has its digest in its reference, and a layout in its reference too;
//! - a commit is one by its form; proxy variables are there in both spellings;
//! - cache mounts have a mode or owner where they start from all of an input;
//! - a copy of included paths that needs none to be there is one of `--parents`.

use std::borrow::Cow;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::sample::select;

use super::super::*;
use crate::ImageConfig;
use crate::OciDigest;
use crate::Op;
use crate::SourceFile;
use crate::Span;
use crate::Vertex;
use crate::definition::Output;
use crate::definition::VertexMeta;
use crate::op::*;

/// A step whose inputs are still to be chosen.
#[derive(Debug, Clone)]
struct Draft {
    op: Op,
    inputs: Vec<(Index, Index)>,
    platform: Platform,
    meta: VertexMeta,
}

fn host() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-zA-Z0-9=ä ]{0,6}",
        1 => any::<String>().prop_map(|text| text.replace('\0', "")),
    ]
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-zä.]{0,2}[a-z]){1,3}"
}

fn digest() -> impl Strategy<Value = OciDigest> {
    any::<[u8; 32]>().prop_map(OciDigest::from_bytes)
}

fn platform() -> impl Strategy<Value = Platform> {
    select(vec![
        host(),
        Platform::new("linux", "arm64", ""),
        Platform::new("linux", "arm", "v7"),
    ])
}

fn commit() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9a-f]{40}", "[0-9a-f]{64}"]
}

fn image() -> impl Strategy<Value = SourceOp> {
    ("[a-z]{1,4}(:[a-z]{1,3})?", option::of(digest())).prop_map(|(name, digest)| {
        let digest = digest.map(|digest| format!("@{digest}"));
        SourceOp::Image(ImageSource {
            reference: format!("docker.io/library/{name}{}", digest.unwrap_or_default()),
            digest: None,
        })
    })
}

fn layout() -> impl Strategy<Value = SourceOp> {
    (text(), digest()).prop_map(|(path, digest)| {
        SourceOp::OciLayout(OciLayoutSource {
            path,
            reference: Some(digest.to_string()),
            digest: None,
        })
    })
}

fn local() -> impl Strategy<Value = SourceOp> {
    let modes = select(vec![FileModes::Exact, FileModes::Git]);
    (text(), vec(text(), 0..3), vec(text(), 0..3), modes).prop_map(
        |(name, include, exclude, modes)| {
            SourceOp::Local(LocalSource {
                name,
                include,
                exclude,
                modes,
            })
        },
    )
}

fn git() -> impl Strategy<Value = SourceOp> {
    // What is checked: nothing, the first digits of what the name means, or the commit; or the name is the commit.
    let pins = prop_oneof![
        ("[a-z]{0,4}").prop_map(|name| (name, None, None)),
        ("[a-z]{1,4}", "[0-9a-f]{1,39}").prop_map(|(name, digits)| (name, Some(digits), None)),
        ("[a-z]{1,4}", commit()).prop_map(|(name, commit)| (name, None, Some(commit))),
        commit().prop_map(|commit| (commit.clone(), None, Some(commit))),
    ];
    let remote = select(vec![
        "https://example.com/a/b.git",
        "http://example.com:8080/a",
        "ssh://git@example.com:22/a/b",
        "git@example.com:a/b.git",
    ]);
    let subdir = "([a-z]{1,3}(/[a-z]{1,3})?)?";
    (remote, pins, subdir, any::<bool>(), any::<bool>()).prop_map(
        |(remote, (reference, checksum, commit), subdir, keep_git_dir, skip_submodules)| {
            SourceOp::Git(GitSource {
                remote: remote.to_owned(),
                reference,
                subdir,
                keep_git_dir,
                skip_submodules,
                checksum,
                commit,
            })
        },
    )
}

fn http() -> impl Strategy<Value = SourceOp> {
    let url = "https?://[a-z.]{1,8}(/[a-z%?=]{0,5})?";
    let mode = option::of(0..=0o7777u32);
    (url, option::of(digest()), text(), mode).prop_map(|(url, checksum, filename, mode)| {
        SourceOp::Http(HttpSource {
            url,
            checksum,
            filename,
            mode,
        })
    })
}

fn source() -> impl Strategy<Value = Op> {
    prop_oneof![image(), layout(), local(), git(), http()].prop_map(Op::Source)
}

/// Indices that the vertex has no inputs for become `None` in [`settled`].
fn input() -> impl Strategy<Value = Option<usize>> {
    option::of(0..4usize)
}

fn bind() -> impl Strategy<Value = Mount> {
    let output = option::of(Just(0));
    (input(), text(), path(), output, any::<bool>()).prop_map(
        |(input, selector, dest, output, readonly)| Mount {
            input,
            selector,
            dest,
            output: output.filter(|_| !readonly),
            readonly,
            kind: MountKind::Bind,
        },
    )
}

fn other_mount() -> impl Strategy<Value = Mount> {
    let sharing = select(vec![
        CacheSharing::Shared,
        CacheSharing::Private,
        CacheSharing::Locked,
    ]);
    let owner = || (any::<u32>(), any::<u32>(), 0..=0o7777u32);
    let kind = prop_oneof![
        (text(), sharing, owner()).prop_map(|(id, sharing, (uid, gid, mode))| MountKind::Cache {
            id,
            sharing,
            mode,
            uid,
            gid,
        }),
        (0..=i64::MAX as u64).prop_map(|size| MountKind::Tmpfs { size }),
        (text(), owner(), any::<bool>()).prop_map(|(id, (uid, gid, mode), optional)| {
            MountKind::Secret {
                id,
                uid,
                gid,
                mode,
                optional,
            }
        }),
        (text(), owner(), any::<bool>()).prop_map(|(id, (uid, gid, mode), optional)| {
            MountKind::Ssh {
                id,
                uid,
                gid,
                mode,
                optional,
            }
        }),
    ];
    let selector = prop_oneof![2 => Just(String::new()), 1 => path()];
    (input(), selector, path(), any::<bool>(), kind).prop_map(
        |(input, selector, dest, readonly, mut kind)| {
            // One that starts from a directory of an input has that directory's mode and owner.
            if let MountKind::Cache { mode, uid, gid, .. } = &mut kind
                && !selector.is_empty()
            {
                (*mode, *uid, *gid) = (0o755, 0, 0);
            }
            Mount {
                input,
                selector,
                dest,
                output: None,
                readonly,
                kind,
            }
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let number = || option::of(1..=i64::MAX as u64);
    (
        number(),
        option::of(prop_oneof![Just(-1), 1..=i64::MAX]),
        number(),
        number(),
        number(),
        option::of("[0-9,-]{1,5}"),
        option::of("[0-9,-]{1,5}"),
        option::of(path()),
    )
        .prop_map(
            |(memory, swap, shares, period, quota, cpus, mems, parent)| Limits {
                memory,
                memory_swap: swap,
                cpu_shares: shares,
                cpu_period: period,
                cpu_quota: quota,
                cpuset_cpus: cpus,
                cpuset_mems: mems,
                cgroup_parent: parent,
            },
        )
}

fn proxies() -> impl Strategy<Value = ProxyEnv> {
    let value = || option::of("[a-z:/]{1,6}");
    [value(), value(), value(), value(), value()].prop_map(|values| {
        let names = [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "FTP_PROXY",
            "NO_PROXY",
            "ALL_PROXY",
        ];
        let set = names.iter().zip(values);
        let set = set.filter_map(|(name, value)| Some((name, value?)));
        let both = set.flat_map(|(name, value)| {
            [name.to_string(), name.to_lowercase()].map(|name| format!("{name}={value}"))
        });
        ProxyEnv {
            env: both.collect(),
        }
    })
}

fn exec() -> impl Strategy<Value = Op> {
    let mounts = (
        input(),
        option::of(Just(0)),
        any::<bool>(),
        vec(prop_oneof![bind(), other_mount()], 0..4),
        any::<Index>(),
    );
    let process = (
        vec(text(), 1..4),
        vec(text(), 0..3),
        prop_oneof![Just(String::new()), path()],
        text(),
        text(),
    );
    let reach = (
        select(vec![
            NetworkMode::Default,
            NetworkMode::Host,
            NetworkMode::None,
        ]),
        select(vec![SecurityMode::Sandbox, SecurityMode::Insecure]),
        vec((text(), text(), any::<bool>()), 0..3),
        vec((text(), text()), 0..3),
    );
    let ulimits = vec(
        (
            select(vec!["nofile", "core", "as"]),
            -1..i64::MAX,
            -1..i64::MAX,
        ),
        0..3,
    );
    (mounts, process, reach, ulimits, proxies(), limits()).prop_map(
        |(mounts, process, reach, ulimits, proxy_env, limits)| {
            let (input, output, readonly, mut others, at) = mounts;
            let root = Mount {
                input,
                selector: String::new(),
                dest: "/".to_owned(),
                output: output.filter(|_| !readonly),
                readonly,
                kind: MountKind::Bind,
            };
            others.insert(at.index(others.len() + 1), root);
            let (args, env, cwd, user, hostname) = process;
            let (network, security, secrets, extra_hosts) = reach;
            let secret = |(id, name, optional)| SecretEnv { id, name, optional };
            Op::Exec(ExecOp {
                args: args.into_iter().map(Cow::Owned).collect(),
                env: env.into(),
                cwd,
                user,
                mounts: others,
                network,
                security,
                secret_env: secrets.into_iter().map(secret).collect(),
                hostname,
                extra_hosts,
                ulimits: ulimits
                    .into_iter()
                    .map(|(name, soft, hard)| Ulimit {
                        name: name.to_owned(),
                        soft,
                        hard,
                    })
                    .collect(),
                proxy_env,
                limits: Arc::new(limits),
            })
        },
    )
}

fn file_input() -> impl Strategy<Value = FileInput> {
    prop_oneof![
        Just(FileInput::Scratch),
        (0..4usize).prop_map(FileInput::Input),
        (0..4usize).prop_map(FileInput::Action),
    ]
}

fn user() -> impl Strategy<Value = UserRef> {
    prop_oneof![
        any::<u32>().prop_map(UserRef::Id),
        text().prop_map(UserRef::Name)
    ]
}

fn owner() -> impl Strategy<Value = Option<Owner>> {
    option::of((user(), option::of(user())).prop_map(|(user, group)| Owner { user, group }))
}

fn time() -> impl Strategy<Value = Option<i64>> {
    option::of(-9_000_000_000..9_000_000_000_i64)
}

fn copy() -> impl Strategy<Value = FileActionKind> {
    let mode = option::of(prop_oneof![
        (0..=0o7777u32).prop_map(ModeChange::Octal),
        "[ugo+=rwX,]{1,6}".prop_map(ModeChange::Symbolic),
    ]);
    let flags = any::<[bool; 7]>();
    (
        (text(), text(), owner(), mode, time()),
        (flags, vec(text(), 0..3), vec(text(), 0..3), any::<bool>()),
    )
        .prop_map(
            |((src, dest, owner, mode, timestamp), (flags, include, exclude, parents))| {
                let [follow, contents, unpack, create, wild, empty, replace] = flags;
                let parents = !include.is_empty() && (parents || empty);
                FileActionKind::Copy(CopyAction {
                    src,
                    dest,
                    owner,
                    mode,
                    follow_symlinks: follow,
                    dir_copy_contents: contents,
                    attempt_unpack: unpack,
                    create_dest_path: create,
                    allow_wildcard: wild,
                    allow_empty_wildcard: empty,
                    include,
                    exclude,
                    always_replace_existing_dest_paths: replace,
                    timestamp,
                    parents,
                })
            },
        )
}

fn action() -> impl Strategy<Value = FileAction> {
    let mode = || 0..=0o7777u32;
    let kind = prop_oneof![
        copy(),
        (text(), mode(), any::<Vec<u8>>(), owner(), time()).prop_map(
            |(path, mode, data, owner, timestamp)| FileActionKind::Mkfile {
                path,
                mode,
                data,
                owner,
                timestamp,
            }
        ),
        (text(), mode(), any::<bool>(), owner(), time()).prop_map(
            |(path, mode, make_parents, owner, timestamp)| FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                owner,
                timestamp,
            }
        ),
        (text(), text(), owner(), time()).prop_map(|(target, path, owner, timestamp)| {
            FileActionKind::Symlink {
                target,
                path,
                owner,
                timestamp,
            }
        }),
        (text(), any::<bool>(), any::<bool>()).prop_map(
            |(path, allow_not_found, allow_wildcard)| FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            }
        ),
    ];
    (file_input(), file_input(), option::of(Just(0)), kind).prop_map(
        |(input, secondary, output, kind)| FileAction {
            input,
            secondary,
            output,
            kind,
        },
    )
}

fn file() -> impl Strategy<Value = Op> {
    vec(action(), 1..4).prop_map(|actions| Op::File(FileOp { actions }))
}

fn meta() -> impl Strategy<Value = VertexMeta> {
    let spans = vec(select(vec![(0, 7), (8, 22), (12, 13)]), 0..3);
    (any::<bool>(), "[a-zä ]{1,5}", spans, any::<bool>()).prop_map(
        |(ignore_cache, name, spans, other)| {
            let file = Arc::new(SourceFile {
                name: if other { "Other" } else { "Dockerfile" }.to_owned(),
                text: "FROM ä\nRUN x \\\n  && y\n".to_owned(),
                language: "Dockerfile",
            });
            let span = |(start, end)| Span::new(&file, start..end);
            VertexMeta {
                name,
                spans: spans.into_iter().map(span).collect(),
                ignore_cache,
                args: Vec::new(),
            }
        },
    )
}

fn draft() -> impl Strategy<Value = Draft> {
    let op = prop_oneof![source(), exec(), file(), Just(Op::Merge), Just(Op::Diff)];
    let inputs = vec(any::<(Index, Index)>(), 0..4);
    (op, inputs, platform(), meta()).prop_map(|(op, inputs, platform, meta)| Draft {
        op,
        inputs,
        platform,
        meta,
    })
}

/// How many outputs a step has.
fn outputs(op: &Op) -> usize {
    match op {
        Op::Exec(exec) => exec.mounts.iter().filter(|m| m.output.is_some()).count(),
        Op::File(file) => file.actions.iter().filter(|a| a.output.is_some()).count(),
        _ => 1,
    }
}

/// A graph of drafts, as the module says: each takes what stands before it.
fn settled(drafts: Vec<Draft>) -> Definition {
    let mut all: Vec<Vertex> = Vec::new();
    let mut definition = Definition::new();
    for draft in drafts {
        let mut takeable: Vec<Edge> = Vec::new();
        for vertex in &all {
            let count = outputs(&vertex.op) as u32;
            let vertex = vertex.id();
            takeable.extend((0..count).map(|output| Edge { vertex, output }));
        }
        let Draft {
            mut op,
            inputs: wanted,
            platform,
            meta,
        } = draft;
        let mut inputs: Vec<Edge> = Vec::new();
        for (index, _) in wanted.iter().filter(|_| !takeable.is_empty()) {
            let edge = *index.get(&takeable);
            if !inputs.contains(&edge) {
                inputs.push(edge);
            }
        }
        match &mut op {
            Op::Source(_) => inputs.clear(),
            Op::Merge if inputs.is_empty() => continue,
            Op::Merge => {}
            Op::Diff if inputs.is_empty() => continue,
            Op::Diff => inputs.truncate(2),
            Op::Exec(exec) => {
                let mut output = 0..;
                for mount in &mut exec.mounts {
                    mount.input = mount.input.filter(|index| *index < inputs.len());
                    mount.output = mount.output.and_then(|_| output.next());
                }
            }
            Op::File(file) => {
                let mut output = 0..;
                for (at, action) in file.actions.iter_mut().enumerate() {
                    for input in [&mut action.input, &mut action.secondary] {
                        *input = match *input {
                            FileInput::Input(index) if index < inputs.len() => *input,
                            FileInput::Action(index) if index < at => *input,
                            _ => FileInput::Scratch,
                        };
                    }
                    action.output = action.output.and_then(|_| output.next());
                }
            }
        }
        let own = matches!(
            op,
            Op::Exec(_) | Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_))
        );
        let first = inputs.first().and_then(|edge| definition.get(&edge.vertex));
        let platform = match own {
            true => platform,
            false => first.map_or(host(), |first| first.platform.clone()),
        };
        let vertex = Vertex {
            op,
            inputs,
            platform,
            meta,
        };
        if definition.get(&vertex.id()).is_none() {
            definition.add(vertex.clone());
            all.push(vertex);
        }
    }
    let last = all.iter().rev().find(|vertex| outputs(&vertex.op) > 0);
    let root = last.map(|vertex| Edge {
        vertex: vertex.id(),
        output: outputs(&vertex.op) as u32 - 1,
    });
    let mut ordered = Definition::new();
    let mut open: Vec<VertexId> = root.iter().map(|root| root.vertex).collect();
    while let Some(id) = open.last() {
        let vertex = definition.get(id).unwrap();
        let missing = vertex.inputs.iter().rev().map(|input| input.vertex);
        let missing: Vec<VertexId> = missing.filter(|id| ordered.get(id).is_none()).collect();
        if missing.is_empty() {
            ordered.add(vertex.clone());
            open.pop();
        }
        open.extend(missing);
    }
    let platform = last.map_or(host(), |vertex| vertex.platform.clone());
    ordered.outputs.push(Output {
        name: String::new(),
        config: ImageConfig::scratch(&platform),
        platform,
        root,
    });
    ordered
}

fn graph() -> impl Strategy<Value = Definition> {
    vec(draft(), 0..8).prop_map(settled)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_what_it_was(definition in graph()) {
        let bytes = encode(&definition, definition.outputs[0].root).unwrap();
        prop_assert_eq!(decode(&bytes, &host()).unwrap(), definition);
    }

    #[test]
    fn damaged_bytes_are_errors(definition in graph(), damage in vec(any::<(Index, u8)>(), 1..4)) {
        let mut bytes = encode(&definition, definition.outputs[0].root).unwrap();
        for (at, byte) in damage.iter().filter(|_| !definition.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        // It may be another graph. That is a whole one then, which can be encoded.
        if let Ok(other) = decode(&bytes, &host()) {
            for (_, vertex) in other.iter() {
                for input in &vertex.inputs {
                    let from = other.get(&input.vertex).unwrap();
                    prop_assert!((input.output as usize) < outputs(&from.op));
                }
            }
            drop(encode(&other, other.outputs[0].root));
        }
    }
}
