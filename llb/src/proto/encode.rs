//! A graph into its protobuf form.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use bollard_buildkit_proto::pb;
use prost::Message;

use super::CACHE_DIR;
use super::EncodeError;
use super::NAME;
use super::NOTHING;
use super::digest_of;
use super::source;
use super::spans::SourceMap;
use crate::definition::Definition;
use crate::definition::Edge;
use crate::definition::Vertex;
use crate::definition::VertexMeta;
use crate::id::VertexId;
use crate::op::CacheSharing;
use crate::op::CopyAction;
use crate::op::ExecOp;
use crate::op::FileAction;
use crate::op::FileActionKind;
use crate::op::FileInput;
use crate::op::FileOp;
use crate::op::Limits;
use crate::op::ModeChange;
use crate::op::Mount;
use crate::op::MountKind;
use crate::op::NetworkMode;
use crate::op::Op;
use crate::op::Owner;
use crate::op::ProxyEnv;
use crate::op::SecurityMode;
use crate::op::SourceOp;
use crate::op::UserRef;

/// Mode of a cache mount's directory if nobody asks for another.
pub(super) const CACHE_MODE: u32 = 0o755;
const SECOND: i64 = 1_000_000_000;

/// A graph in its protobuf form.
#[derive(Default)]
pub(super) struct Encoded {
    pub(super) definition: pb::Definition,
    /// The digests of its steps.
    pub(super) digests: BTreeMap<VertexId, String>,
    /// What ops may use, by their digests; those that may use anything are not here.
    pub(super) limits: BTreeMap<String, Limits>,
}

/// The protobuf form of what `root` needs, with what tells contexts of this build from those of others, if that is wanted.
pub(super) fn definition(
    definition: &Definition,
    root: Option<Edge>,
    build: Option<&str>,
) -> Result<Encoded, EncodeError> {
    let Some(root) = root else {
        return Ok(Encoded::default());
    };
    let steps: Vec<(VertexId, &Vertex)> = definition.iter().collect();
    let mut needed = BTreeSet::from([root.vertex]);
    for (id, vertex) in steps.iter().rev() {
        if needed.contains(id) {
            needed.extend(vertex.inputs.iter().map(|edge| edge.vertex));
        }
    }
    let mut encoder = Encoder {
        build: build.map(str::to_owned),
        ..Encoder::default()
    };
    for (id, vertex) in steps {
        if needed.contains(&id) {
            let op = encoder.op(vertex)?;
            let digest = encoder.add(op, &vertex.meta);
            if let Op::Exec(exec) = &vertex.op {
                encoder.limit(&digest, &exec.limits);
            }
            encoder.digests.insert(id, digest);
        }
    }
    let result = pb::Op {
        inputs: vec![encoder.input(&root)?],
        ..pb::Op::default()
    };
    encoder.add(result, &VertexMeta::default());
    let definition = pb::Definition {
        def: encoder.ops,
        metadata: encoder.metadata,
        source: Some(pb::Source {
            locations: encoder.locations,
            infos: encoder.map.into_infos(),
        }),
    };
    Ok(Encoded {
        definition,
        digests: encoder.digests,
        limits: encoder.limits,
    })
}

#[derive(Default)]
struct Encoder {
    ops: Vec<Vec<u8>>,
    digests: BTreeMap<VertexId, String>,
    metadata: BTreeMap<String, pb::OpMetadata>,
    locations: BTreeMap<String, pb::Locations>,
    map: SourceMap,
    limits: BTreeMap<String, Limits>,
    /// Goes with contexts.
    build: Option<String>,
}

impl Encoder {
    /// Notes what an op may use. The cgroup it is below is in the op itself.
    fn limit(&mut self, digest: &str, limits: &Limits) {
        let limits = Limits {
            cgroup_parent: None,
            ..limits.clone()
        };
        if limits != Limits::default() {
            self.limits.insert(digest.to_owned(), limits);
        }
    }

    /// Adds an op. Steps that differ only in what LLB does not say, such as the platform of a file op, are one op.
    fn add(&mut self, op: pb::Op, meta: &VertexMeta) -> String {
        let bytes = op_bytes(op);
        let digest = digest_of(&bytes);
        if let Some(known) = self.metadata.get_mut(&digest) {
            known.ignore_cache |= meta.ignore_cache;
            return digest;
        }
        let mut metadata = pb::OpMetadata {
            ignore_cache: meta.ignore_cache,
            ..pb::OpMetadata::default()
        };
        if !meta.name.is_empty() {
            metadata
                .description
                .insert(NAME.to_owned(), meta.name.clone());
        }
        if !meta.spans.is_empty() {
            let locations = self.map.locations(&meta.spans);
            self.locations.insert(digest.clone(), locations);
        }
        self.metadata.insert(digest.clone(), metadata);
        self.ops.push(bytes);
        digest
    }

    fn input(&self, edge: &Edge) -> Result<pb::Input, EncodeError> {
        let digest = self.digests.get(&edge.vertex);
        let digest = digest.ok_or(EncodeError::NoSuchStep {
            vertex: edge.vertex,
        })?;
        Ok(pb::Input {
            digest: digest.clone(),
            index: edge.output.into(),
        })
    }

    fn op(&mut self, vertex: &Vertex) -> Result<pb::Op, EncodeError> {
        let mut inputs: Vec<pb::Input> = vertex
            .inputs
            .iter()
            .map(|edge| self.input(edge))
            .collect::<Result<_, _>>()?;
        let (op, has_platform) = match &vertex.op {
            Op::Source(source) => {
                let mut op = source::encode(source)?;
                if let (SourceOp::Local(_), Some(build)) = (source, &self.build) {
                    op.attrs
                        .insert(source::LOCAL_UNIQUE.to_owned(), build.clone());
                }
                let is_image = op.identifier.starts_with("docker-image://")
                    || op.identifier.starts_with("oci-layout://");
                (pb::op::Op::Source(op), is_image)
            }
            Op::Exec(exec) => (pb::op::Op::Exec(self.exec(exec, &mut inputs)?), true),
            Op::File(file) => (pb::op::Op::File(file_op(file, inputs.len())?), false),
            Op::Merge => (pb::op::Op::Merge(merge_op(inputs.len())), false),
            Op::Diff => (pb::op::Op::Diff(diff_op(inputs.len())), false),
        };
        Ok(pb::Op {
            inputs,
            platform: has_platform.then(|| pb::Platform {
                architecture: vertex.platform.arch.to_string(),
                os: vertex.platform.os.to_string(),
                variant: vertex.platform.variant.to_string(),
                ..pb::Platform::default()
            }),
            constraints: Some(pb::WorkerConstraints::default()),
            op: Some(op),
        })
    }

    fn exec(
        &mut self,
        exec: &ExecOp,
        inputs: &mut Vec<pb::Input>,
    ) -> Result<pb::ExecOp, EncodeError> {
        let mut mounts = Vec::with_capacity(exec.mounts.len());
        for mount in &exec.mounts {
            let mut encoded = encode_mount(mount)?;
            if let Some(directory) = self.cache_directory(mount, inputs)? {
                encoded.input = inputs.len() as i64;
                CACHE_DIR.clone_into(&mut encoded.selector);
                inputs.push(directory);
            }
            mounts.push(encoded);
        }
        let hosts = exec.extra_hosts.iter().map(|(host, ip)| pb::HostIp {
            host: host.clone(),
            ip: ip.clone(),
        });
        let ulimits = exec.ulimits.iter().map(|limit| pb::Ulimit {
            name: limit.name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        });
        let secrets = exec.secret_env.iter().map(|secret| pb::SecretEnv {
            id: secret.id.clone(),
            name: secret.name.clone(),
            optional: secret.optional,
        });
        Ok(pb::ExecOp {
            meta: Some(pb::Meta {
                args: exec.args.iter().map(ToString::to_string).collect(),
                env: exec.env.to_vec(),
                cwd: exec.cwd.clone(),
                user: exec.user.clone(),
                proxy_env: proxy_env(&exec.proxy_env)?,
                extra_hosts: hosts.collect(),
                hostname: exec.hostname.clone(),
                ulimit: ulimits.collect(),
                cgroup_parent: exec.limits.cgroup_parent.clone().unwrap_or_default(),
                // What BuildKit's client always asks for, and what rbuild's sandbox always does.
                remove_mount_stubs_recursive: true,
                ..pb::Meta::default()
            }),
            mounts,
            network: match exec.network {
                NetworkMode::Default => pb::NetMode::Unset,
                NetworkMode::Host => pb::NetMode::Host,
                NetworkMode::None => pb::NetMode::None,
            }
            .into(),
            security: match exec.security {
                SecurityMode::Sandbox => pb::SecurityMode::Sandbox,
                SecurityMode::Insecure => pb::SecurityMode::Insecure,
            }
            .into(),
            secretenv: secrets.collect(),
            cdi_devices: Vec::new(),
        })
    }

    /// The op that makes the directory a cache mount starts from, if the mount asks for a mode or owner. As in
    /// BuildKit's frontend, one that starts from a directory of its input takes mode and owner of that instead.
    fn cache_directory(
        &mut self,
        mount: &Mount,
        inputs: &[pb::Input],
    ) -> Result<Option<pb::Input>, EncodeError> {
        let MountKind::Cache { mode, uid, gid, .. } = mount.kind else {
            return Ok(None);
        };
        if (mode, uid, gid) == (CACHE_MODE, 0, 0) || !matches!(mount.selector.as_str(), "" | "/") {
            return Ok(None);
        }
        let base = mount.input.and_then(|index| inputs.get(index).cloned());
        let owner = Owner {
            user: UserRef::Id(uid),
            group: Some(UserRef::Id(gid)),
        };
        let file = FileOp {
            actions: vec![FileAction {
                input: base
                    .as_ref()
                    .map_or(FileInput::Scratch, |_| FileInput::Input(0)),
                secondary: FileInput::Scratch,
                output: Some(0),
                kind: FileActionKind::Mkdir {
                    path: CACHE_DIR.to_owned(),
                    mode,
                    make_parents: false,
                    owner: Some(owner),
                    timestamp: None,
                },
            }],
        };
        let inputs: Vec<pb::Input> = base.into_iter().collect();
        let op = pb::Op {
            op: Some(pb::op::Op::File(file_op(&file, inputs.len())?)),
            inputs,
            platform: None,
            constraints: Some(pb::WorkerConstraints::default()),
        };
        let meta = VertexMeta {
            name: "[internal] setting cache mount permissions".to_owned(),
            ..VertexMeta::default()
        };
        Ok(Some(pb::Input {
            digest: self.add(op, &meta),
            index: 0,
        }))
    }
}

/// An op as Go marshals it: what is in a `oneof` last, while prost goes by field numbers. The digests depend on it.
pub(super) fn op_bytes(mut op: pb::Op) -> Vec<u8> {
    let kind = op.op.take();
    let mut bytes = op.encode_to_vec();
    let kind = pb::Op {
        op: kind,
        ..pb::Op::default()
    };
    bytes.extend(kind.encode_to_vec());
    bytes
}

fn range<T, U: TryFrom<T>>(field: &'static str, value: T) -> Result<U, EncodeError>
where
    T: Copy + Into<i128>,
{
    U::try_from(value).map_err(|_| EncodeError::Range {
        field,
        value: value.into(),
    })
}

fn encode_mount(mount: &Mount) -> Result<pb::Mount, EncodeError> {
    let mut encoded = pb::Mount {
        input: mount.input.map_or(NOTHING, |index| index as i64),
        selector: mount.selector.clone(),
        dest: mount.dest.clone(),
        output: mount.output.map_or(NOTHING, i64::from),
        readonly: mount.readonly,
        ..pb::Mount::default()
    };
    let kind = match &mount.kind {
        MountKind::Bind => pb::MountType::Bind,
        MountKind::Cache { id, sharing, .. } => {
            let sharing = match sharing {
                CacheSharing::Shared => pb::CacheSharingOpt::Shared,
                CacheSharing::Private => pb::CacheSharingOpt::Private,
                CacheSharing::Locked => pb::CacheSharingOpt::Locked,
            };
            encoded.cache_opt = Some(pb::CacheOpt {
                id: id.clone(),
                sharing: sharing.into(),
            });
            pb::MountType::Cache
        }
        MountKind::Tmpfs { size } => {
            let size = range("exec.mounts.tmpfs_opt.size", *size)?;
            encoded.tmpfs_opt = Some(pb::TmpfsOpt { size });
            pb::MountType::Tmpfs
        }
        MountKind::Secret {
            id,
            uid,
            gid,
            mode,
            optional,
        } => {
            encoded.output = 0;
            encoded.secret_opt = Some(pb::SecretOpt {
                id: id.clone(),
                uid: *uid,
                gid: *gid,
                mode: *mode,
                optional: *optional,
            });
            pb::MountType::Secret
        }
        MountKind::Ssh {
            id,
            uid,
            gid,
            mode,
            optional,
        } => {
            encoded.output = 0;
            encoded.ssh_opt = Some(pb::SshOpt {
                id: id.clone(),
                uid: *uid,
                gid: *gid,
                mode: *mode,
                optional: *optional,
            });
            pb::MountType::Ssh
        }
    };
    encoded.mount_type = kind.into();
    Ok(encoded)
}

/// LLB has one field for both spellings of a variable; of two values the later one counts.
fn proxy_env(proxy: &ProxyEnv) -> Result<Option<pb::ProxyEnv>, EncodeError> {
    if proxy.env.is_empty() {
        return Ok(None);
    }
    let mut encoded = pb::ProxyEnv::default();
    for variable in &proxy.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        let field = match name.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut encoded.http_proxy,
            "https_proxy" => &mut encoded.https_proxy,
            "ftp_proxy" => &mut encoded.ftp_proxy,
            "no_proxy" => &mut encoded.no_proxy,
            "all_proxy" => &mut encoded.all_proxy,
            _ => {
                return Err(EncodeError::ProxyVariable {
                    name: name.to_owned(),
                });
            }
        };
        value.clone_into(field);
    }
    Ok(Some(encoded))
}

/// `inputs` is how many inputs the op has: LLB counts the results of actions from there on.
fn file_op(file: &FileOp, inputs: usize) -> Result<pb::FileOp, EncodeError> {
    let index = |input: FileInput| match input {
        FileInput::Scratch => NOTHING,
        FileInput::Input(index) => index as i64,
        FileInput::Action(index) => (inputs + index) as i64,
    };
    let mut actions = Vec::with_capacity(file.actions.len());
    let mut bases = Vec::with_capacity(file.actions.len());
    for action in &file.actions {
        let base = base_of(&bases, action.input);
        bases.push(base);
        let base = index(base);
        actions.push(pb::FileAction {
            input: index(action.input),
            secondary_input: index(action.secondary),
            output: action.output.map_or(NOTHING, i64::from),
            action: Some(action_kind(&action.kind, base)?),
        });
    }
    Ok(pb::FileOp { actions })
}

/// The input that a chain of actions began with: names of users are looked up there. `bases` has those of the actions before.
pub(super) fn base_of(bases: &[FileInput], input: FileInput) -> FileInput {
    match input {
        FileInput::Action(index) => bases.get(index).copied().unwrap_or(input),
        FileInput::Input(_) | FileInput::Scratch => input,
    }
}

fn action_kind(kind: &FileActionKind, base: i64) -> Result<pb::file_action::Action, EncodeError> {
    use pb::file_action::Action;
    Ok(match kind {
        FileActionKind::Copy(copy) => Action::Copy(copy_action(copy, base)?),
        FileActionKind::Mkfile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } => Action::Mkfile(pb::FileActionMkFile {
            path: path.clone(),
            mode: range("file.actions.mkfile.mode", *mode)?,
            data: data.clone(),
            owner: chown(owner.as_ref(), base),
            timestamp: nanoseconds(*timestamp)?,
        }),
        FileActionKind::Mkdir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } => Action::Mkdir(pb::FileActionMkDir {
            path: path.clone(),
            mode: range("file.actions.mkdir.mode", *mode)?,
            make_parents: *make_parents,
            owner: chown(owner.as_ref(), base),
            timestamp: nanoseconds(*timestamp)?,
        }),
        FileActionKind::Symlink {
            target,
            path,
            owner,
            timestamp,
        } => Action::Symlink(pb::FileActionSymlink {
            oldpath: target.clone(),
            newpath: path.clone(),
            owner: chown(owner.as_ref(), base),
            timestamp: nanoseconds(*timestamp)?,
        }),
        FileActionKind::Rm {
            path,
            allow_not_found,
            allow_wildcard,
        } => Action::Rm(pb::FileActionRm {
            path: path.clone(),
            allow_not_found: *allow_not_found,
            allow_wildcard: *allow_wildcard,
        }),
    })
}

fn copy_action(copy: &CopyAction, base: i64) -> Result<pb::FileActionCopy, EncodeError> {
    let (mode, mode_str) = match &copy.mode {
        None => (-1, String::new()),
        Some(ModeChange::Octal(mode)) => (range("file.actions.copy.mode", *mode)?, String::new()),
        Some(ModeChange::Symbolic(text)) => (0, text.clone()),
    };
    // With include patterns, a source that must be there is not one that must match, but a required path.
    let required = copy.parents && !copy.allow_empty_wildcard;
    let required_paths = copy.include.iter().filter(|_| required);
    Ok(pb::FileActionCopy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        owner: chown(copy.owner.as_ref(), base),
        mode,
        follow_symlink: copy.follow_symlinks,
        dir_copy_contents: copy.dir_copy_contents,
        attempt_unpack_docker_compatibility: copy.attempt_unpack,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard || copy.parents,
        timestamp: nanoseconds(copy.timestamp)?,
        required_paths: required_paths
            .map(|pattern| below(&copy.src, pattern))
            .collect(),
        include_patterns: copy.include.clone(),
        exclude_patterns: copy.exclude.clone(),
        always_replace_existing_dest_paths: copy.always_replace_existing_dest_paths,
        mode_str,
    })
}

/// `pattern` below the directory `source`.
pub(super) fn below(source: &str, pattern: &str) -> String {
    match (source.trim_end_matches('/'), pattern) {
        ("", pattern) => format!("/{pattern}"),
        (source, "") => source.to_owned(),
        (source, pattern) => format!("{source}/{pattern}"),
    }
}

fn chown(owner: Option<&Owner>, base: i64) -> Option<pb::ChownOpt> {
    use pb::user_opt::User;
    let part = |part: &UserRef| pb::UserOpt {
        user: Some(match part {
            UserRef::Id(id) => User::ById(*id),
            UserRef::Name(name) => User::ByName(pb::NamedUserOpt {
                name: name.clone(),
                input: base,
            }),
        }),
    };
    owner.map(|owner| pb::ChownOpt {
        user: Some(part(&owner.user)),
        group: owner.group.as_ref().map(part),
    })
}

fn nanoseconds(seconds: Option<i64>) -> Result<i64, EncodeError> {
    let Some(seconds) = seconds else {
        return Ok(NOTHING);
    };
    seconds.checked_mul(SECOND).ok_or(EncodeError::Range {
        field: "file.actions.timestamp",
        value: i128::from(seconds) * i128::from(SECOND),
    })
}

fn merge_op(inputs: usize) -> pb::MergeOp {
    let input = |index: usize| pb::MergeInput {
        input: index as i64,
    };
    pb::MergeOp {
        inputs: (0..inputs).map(input).collect(),
    }
}

fn diff_op(inputs: usize) -> pb::DiffOp {
    let upper = if inputs < 2 { NOTHING } else { 1 };
    pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: 0 }),
        upper: Some(pb::UpperDiffInput { input: upper }),
    }
}
