//! What is inside one op.

use std::borrow::Cow;
use std::sync::Arc;

use bollard_buildkit_proto::pb;

use super::super::DecodeError;
use super::super::NOTHING;
use super::super::encode::base_of;
use super::super::encode::below;
use crate::definition::Edge;
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
use crate::op::Owner;
use crate::op::ProxyEnv;
use crate::op::SecretEnv;
use crate::op::SecurityMode;
use crate::op::Ulimit;
use crate::op::UserRef;
use crate::platform::Platform;

const SECOND: i64 = 1_000_000_000;

/// Decodes what is inside one op.
pub(super) struct OpDecoder<'a> {
    /// Its digest.
    pub op: &'a str,
    /// How many inputs it has.
    pub inputs: usize,
}

impl OpDecoder<'_> {
    fn unsupported(&self, field: &'static str) -> DecodeError {
        unsupported(self.op, field)
    }

    fn value(&self, field: &'static str, text: impl ToString) -> DecodeError {
        value(self.op, field, text)
    }

    /// A number that may be nothing.
    fn index<T: TryFrom<i64>>(
        &self,
        field: &'static str,
        index: i64,
    ) -> Result<Option<T>, DecodeError> {
        match index {
            NOTHING => Ok(None),
            _ => match T::try_from(index) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.value(field, index)),
            },
        }
    }

    fn number<T: TryFrom<i64>>(&self, field: &'static str, number: i64) -> Result<T, DecodeError> {
        T::try_from(number).map_err(|_| self.value(field, number))
    }

    pub(super) fn reorder(
        &self,
        field: &'static str,
        order: &[i64],
        inputs: &[Edge],
    ) -> Result<Vec<Edge>, DecodeError> {
        let input = |&index: &i64| {
            let edge = usize::try_from(index).ok().and_then(|at| inputs.get(at));
            edge.copied().ok_or_else(|| self.value(field, index))
        };
        order.iter().map(input).collect()
    }

    pub(super) fn platform(&self, platform: &pb::Platform) -> Result<Platform, DecodeError> {
        let pb::Platform {
            architecture,
            os,
            variant,
            os_version,
            os_features,
        } = platform;
        if !os_version.is_empty() || !os_features.is_empty() {
            return Err(self.unsupported("platform.os_version"));
        }
        Ok(Platform::new(os, architecture, variant))
    }

    pub(super) fn exec(&self, exec: &pb::ExecOp) -> Result<ExecOp, DecodeError> {
        let pb::ExecOp {
            meta,
            mounts,
            network,
            security,
            secretenv,
            cdi_devices,
        } = exec;
        let pb::Meta {
            args,
            env,
            cwd,
            user,
            proxy_env,
            extra_hosts,
            hostname,
            ulimit,
            cgroup_parent,
            remove_mount_stubs_recursive,
            valid_exit_codes,
        } = meta.as_ref().ok_or_else(|| self.value("exec.meta", ""))?;
        if !cdi_devices.is_empty() {
            return Err(self.unsupported("exec.cdi_devices"));
        }
        if !valid_exit_codes.is_empty() {
            return Err(self.unsupported("exec.meta.valid_exit_codes"));
        }
        if !remove_mount_stubs_recursive {
            return Err(self.value("exec.meta.remove_mount_stubs_recursive", false));
        }
        if mounts.iter().filter(|mount| mount.dest == "/").count() != 1 {
            return Err(self.value("exec.mounts", "no single mount of /"));
        }
        Ok(ExecOp {
            args: args.iter().cloned().map(Cow::Owned).collect(),
            env: env.clone().into(),
            cwd: cwd.clone(),
            user: user.clone(),
            mounts: mounts
                .iter()
                .map(|mount| self.mount(mount))
                .collect::<Result<_, _>>()?,
            network: match pb::NetMode::try_from(*network) {
                Ok(pb::NetMode::Unset) => NetworkMode::Default,
                Ok(pb::NetMode::Host) => NetworkMode::Host,
                Ok(pb::NetMode::None) => NetworkMode::None,
                Err(_) => return Err(self.value("exec.network", network)),
            },
            security: match pb::SecurityMode::try_from(*security) {
                Ok(pb::SecurityMode::Sandbox) => SecurityMode::Sandbox,
                Ok(pb::SecurityMode::Insecure) => SecurityMode::Insecure,
                Err(_) => return Err(self.value("exec.security", security)),
            },
            secret_env: secretenv
                .iter()
                .map(|secret| SecretEnv {
                    id: secret.id.clone(),
                    name: secret.name.clone(),
                    optional: secret.optional,
                })
                .collect(),
            hostname: hostname.clone(),
            extra_hosts: extra_hosts
                .iter()
                .map(|host| (host.host.clone(), host.ip.clone()))
                .collect(),
            ulimits: ulimit
                .iter()
                .map(|limit| Ulimit {
                    name: limit.name.clone(),
                    soft: limit.soft,
                    hard: limit.hard,
                })
                .collect(),
            proxy_env: proxy_env.as_ref().map(decode_proxy_env).unwrap_or_default(),
            limits: Arc::new(Limits {
                cgroup_parent: Some(cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
                ..Limits::default()
            }),
        })
    }

    fn mount(&self, mount: &pb::Mount) -> Result<Mount, DecodeError> {
        let pb::Mount {
            input,
            selector,
            dest,
            output,
            readonly,
            result_id,
            content_cache,
            // Read by `mount_kind`.
            mount_type: _,
            tmpfs_opt: _,
            cache_opt: _,
            secret_opt: _,
            ssh_opt: _,
        } = mount;
        if !result_id.is_empty() {
            return Err(self.unsupported("exec.mounts.result_id"));
        }
        if *content_cache != i32::from(pb::MountContentCache::Default) {
            return Err(self.unsupported("exec.mounts.content_cache"));
        }
        let input: Option<usize> = self.index("exec.mounts.input", *input)?;
        if let Some(index) = input.filter(|index| *index >= self.inputs) {
            return Err(self.value("exec.mounts.input", index));
        }
        let output = self.index("exec.mounts.output", *output)?;
        let kind = self.mount_kind(mount)?;
        // BuildKit's client does not set the output of files from outside, which reads as 0.
        let from_outside = matches!(kind, MountKind::Secret { .. } | MountKind::Ssh { .. });
        Ok(Mount {
            input,
            selector: selector.clone(),
            dest: dest.clone(),
            output: output.filter(|_| !from_outside),
            readonly: *readonly,
            kind,
        })
    }

    fn mount_kind(&self, mount: &pb::Mount) -> Result<MountKind, DecodeError> {
        let lacks = |what| move || self.value(what, "");
        Ok(match pb::MountType::try_from(mount.mount_type) {
            Ok(pb::MountType::Bind) => MountKind::Bind,
            Ok(pb::MountType::Cache) => {
                let cache = mount
                    .cache_opt
                    .as_ref()
                    .ok_or_else(lacks("exec.mounts.cache_opt"))?;
                MountKind::Cache {
                    id: cache.id.clone(),
                    sharing: match pb::CacheSharingOpt::try_from(cache.sharing) {
                        Ok(pb::CacheSharingOpt::Shared) => CacheSharing::Shared,
                        Ok(pb::CacheSharingOpt::Private) => CacheSharing::Private,
                        Ok(pb::CacheSharingOpt::Locked) => CacheSharing::Locked,
                        Err(_) => {
                            return Err(self.value("exec.mounts.cache_opt.sharing", cache.sharing));
                        }
                    },
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                }
            }
            Ok(pb::MountType::Tmpfs) => MountKind::Tmpfs {
                size: self.number(
                    "exec.mounts.tmpfs_opt.size",
                    mount.tmpfs_opt.map_or(0, |tmpfs| tmpfs.size),
                )?,
            },
            Ok(pb::MountType::Secret) => {
                let secret = mount
                    .secret_opt
                    .as_ref()
                    .ok_or_else(lacks("exec.mounts.secret_opt"))?;
                MountKind::Secret {
                    id: secret.id.clone(),
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                }
            }
            Ok(pb::MountType::Ssh) => {
                let ssh = mount
                    .ssh_opt
                    .as_ref()
                    .ok_or_else(lacks("exec.mounts.ssh_opt"))?;
                MountKind::Ssh {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }
            }
            Err(_) => {
                return Err(self.value("exec.mounts.mount_type", mount.mount_type));
            }
        })
    }

    pub(super) fn file(&self, file: &pb::FileOp) -> Result<FileOp, DecodeError> {
        let mut decoded = FileOp {
            actions: Vec::with_capacity(file.actions.len()),
        };
        for action in &file.actions {
            let input = self.file_input("file.actions.input", action.input, &decoded)?;
            let secondary = self.file_input(
                "file.actions.secondary_input",
                action.secondary_input,
                &decoded,
            )?;
            let base = base_of(&decoded, input);
            decoded.actions.push(FileAction {
                input,
                secondary,
                output: self.index("file.actions.output", action.output)?,
                kind: self.action(action.action.as_ref(), base)?,
            });
        }
        Ok(decoded)
    }

    fn file_input(
        &self,
        field: &'static str,
        index: i64,
        before: &FileOp,
    ) -> Result<FileInput, DecodeError> {
        Ok(match self.index::<usize>(field, index)? {
            None => FileInput::Scratch,
            Some(at) if at < self.inputs => FileInput::Input(at),
            Some(at) if at - self.inputs < before.actions.len() => {
                FileInput::Action(at - self.inputs)
            }
            Some(_) => return Err(self.value(field, index)),
        })
    }

    fn action(
        &self,
        action: Option<&pb::file_action::Action>,
        base: FileInput,
    ) -> Result<FileActionKind, DecodeError> {
        use pb::file_action::Action;
        let time = |nanoseconds: i64| match nanoseconds {
            NOTHING => Ok(None),
            whole if whole % SECOND == 0 => Ok(Some(whole / SECOND)),
            other => Err(self.value("file.actions.timestamp", other)),
        };
        let owner = |owner: &Option<pb::ChownOpt>| match owner {
            None => Ok(None),
            Some(owner) => self.owner(owner, base),
        };
        match action {
            None => Err(self.unsupported("file.actions.action")),
            Some(Action::Copy(copy)) => {
                let (owner, timestamp) = (owner(&copy.owner)?, time(copy.timestamp)?);
                self.copy(copy, owner, timestamp).map(FileActionKind::Copy)
            }
            Some(Action::Mkfile(file)) => Ok(FileActionKind::Mkfile {
                path: file.path.clone(),
                mode: self.number("file.actions.mkfile.mode", file.mode.into())?,
                data: file.data.clone(),
                owner: owner(&file.owner)?,
                timestamp: time(file.timestamp)?,
            }),
            Some(Action::Mkdir(dir)) => Ok(FileActionKind::Mkdir {
                path: dir.path.clone(),
                mode: self.number("file.actions.mkdir.mode", dir.mode.into())?,
                make_parents: dir.make_parents,
                owner: owner(&dir.owner)?,
                timestamp: time(dir.timestamp)?,
            }),
            Some(Action::Symlink(link)) => Ok(FileActionKind::Symlink {
                target: link.oldpath.clone(),
                path: link.newpath.clone(),
                owner: owner(&link.owner)?,
                timestamp: time(link.timestamp)?,
            }),
            Some(Action::Rm(rm)) => Ok(FileActionKind::Rm {
                path: rm.path.clone(),
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }),
        }
    }

    fn copy(
        &self,
        copy: &pb::FileActionCopy,
        owner: Option<Owner>,
        timestamp: Option<i64>,
    ) -> Result<CopyAction, DecodeError> {
        let required: Vec<String> = copy
            .include_patterns
            .iter()
            .map(|pattern| below(&copy.src, pattern))
            .collect();
        let required = match copy.required_paths.as_slice() {
            [] => false,
            paths if paths == required && copy.allow_empty_wildcard => true,
            paths => return Err(self.value("file.actions.copy.required_paths", paths.join(" "))),
        };
        Ok(CopyAction {
            src: copy.src.clone(),
            dest: copy.dest.clone(),
            owner,
            mode: match (copy.mode, copy.mode_str.as_str()) {
                (-1, "") => None,
                (mode, "") => Some(ModeChange::Octal(
                    self.number("file.actions.copy.mode", mode.into())?,
                )),
                (0, text) => Some(ModeChange::Symbolic(text.to_owned())),
                (mode, _) => return Err(self.value("file.actions.copy.mode", mode)),
            },
            follow_symlinks: copy.follow_symlink,
            dir_copy_contents: copy.dir_copy_contents,
            attempt_unpack: copy.attempt_unpack_docker_compatibility,
            create_dest_path: copy.create_dest_path,
            allow_wildcard: copy.allow_wildcard,
            allow_empty_wildcard: copy.allow_empty_wildcard && !required,
            include: copy.include_patterns.clone(),
            exclude: copy.exclude_patterns.clone(),
            always_replace_existing_dest_paths: copy.always_replace_existing_dest_paths,
            timestamp,
            parents: !copy.include_patterns.is_empty() && copy.allow_empty_wildcard,
        })
    }

    fn owner(&self, owner: &pb::ChownOpt, base: FileInput) -> Result<Option<Owner>, DecodeError> {
        let user = owner.user.as_ref().map(|user| self.user(user, base));
        let group = owner.group.as_ref().map(|group| self.user(group, base));
        match (user.transpose()?, group.transpose()?) {
            (None, None) => Ok(None),
            (Some(user), group) => Ok(Some(Owner { user, group })),
            (None, Some(_)) => Err(self.value("file.actions.owner.user", "")),
        }
    }

    /// Names are looked up in what the actions began with; LLB could say another input, but no frontend does.
    fn user(&self, user: &pb::UserOpt, base: FileInput) -> Result<UserRef, DecodeError> {
        let wanted = match base {
            FileInput::Input(index) => index as i64,
            FileInput::Scratch | FileInput::Action(_) => NOTHING,
        };
        match &user.user {
            Some(pb::user_opt::User::ById(id)) => Ok(UserRef::Id(*id)),
            Some(pb::user_opt::User::ByName(name)) if name.input == wanted => {
                Ok(UserRef::Name(name.name.clone()))
            }
            Some(pb::user_opt::User::ByName(name)) => {
                Err(self.value("file.actions.owner.by_name.input", name.input))
            }
            None => Err(self.value("file.actions.owner", "")),
        }
    }
}

/// Processes get each variable in both spellings, as BuildKit's executor hands them over.
fn decode_proxy_env(proxy: &pb::ProxyEnv) -> ProxyEnv {
    let variables = [
        ("HTTP_PROXY", &proxy.http_proxy),
        ("HTTPS_PROXY", &proxy.https_proxy),
        ("FTP_PROXY", &proxy.ftp_proxy),
        ("NO_PROXY", &proxy.no_proxy),
        ("ALL_PROXY", &proxy.all_proxy),
    ];
    let set = variables.iter().filter(|(_, value)| !value.is_empty());
    let both = set.flat_map(|(name, value)| {
        [
            format!("{name}={value}"),
            format!("{}={value}", name.to_ascii_lowercase()),
        ]
    });
    ProxyEnv {
        env: both.collect(),
    }
}

pub(super) fn unsupported(op: &str, field: &'static str) -> DecodeError {
    DecodeError::Unsupported {
        op: op.to_owned(),
        field,
    }
}

pub(super) fn value(op: &str, field: &'static str, value: impl ToString) -> DecodeError {
    DecodeError::Value {
        op: op.to_owned(),
        field,
        value: value.to_string(),
    }
}
