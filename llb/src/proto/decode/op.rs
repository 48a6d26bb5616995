//! What is inside one op.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use bollard_buildkit_proto::pb;

use super::super::DecodeError;
use super::super::NOTHING;
use super::super::encode::CACHE_MODE;
use super::super::encode::base_of;
use super::super::encode::below;
use super::note;
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
use crate::paths;
use crate::platform::Platform;

const SECOND: i64 = 1_000_000_000;

/// The limits of `setrlimit(2)`, by the names they have in LLB.
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Decodes what is inside one op. What is wrong with it is noted, and something harmless takes its place, so that all
/// of it is found.
pub(in crate::proto) struct OpDecoder<'a> {
    /// What messages call it.
    pub(in crate::proto) op: &'a str,
    /// How many inputs it has.
    pub(in crate::proto) inputs: usize,
    pub(in crate::proto) problems: &'a RefCell<Vec<DecodeError>>,
}

impl OpDecoder<'_> {
    pub(in crate::proto) fn unsupported(&self, field: &'static str) {
        note(self.problems, || DecodeError::Unsupported {
            op: self.op.to_owned(),
            field,
        });
    }

    pub(in crate::proto) fn value(&self, field: &'static str, value: impl ToString) {
        note(self.problems, || DecodeError::Value {
            op: self.op.to_owned(),
            field,
            value: value.to_string(),
        });
    }

    pub(in crate::proto) fn unknown_source(&self, identifier: &str) {
        note(self.problems, || DecodeError::UnknownSource {
            op: self.op.to_owned(),
            identifier: identifier.to_owned(),
        });
    }

    pub(in crate::proto) fn unknown_attribute(&self, name: String) {
        note(self.problems, || DecodeError::UnknownAttribute {
            op: self.op.to_owned(),
            name,
        });
    }

    /// A text that becomes a name or an argument: the kernel takes none with a zero byte.
    fn text(&self, field: &'static str, text: &str) -> String {
        if text.contains('\0') {
            self.value(field, text.escape_debug());
        }
        text.to_owned()
    }

    /// Where a mount is, without detours: `..` leads nowhere that it does not name.
    fn dest(&self, cwd: &str, path: &str) -> String {
        let path = self.text("exec.mounts.dest", path);
        match path.starts_with('/') {
            true => paths::clean(&path),
            false => paths::clean(&format!("/{cwd}/{path}")),
        }
    }

    /// A number that may be nothing.
    fn index<T: TryFrom<i64>>(&self, field: &'static str, index: i64) -> Option<T> {
        if index == NOTHING {
            return None;
        }
        let number = T::try_from(index).ok();
        if number.is_none() {
            self.value(field, index);
        }
        number
    }

    fn number<T: TryFrom<i64> + Default>(&self, field: &'static str, number: i64) -> T {
        T::try_from(number).unwrap_or_else(|_| {
            self.value(field, number);
            T::default()
        })
    }

    /// The inputs that `order` names.
    pub(super) fn reorder(&self, field: &'static str, order: &[i64], inputs: &[Edge]) -> Vec<Edge> {
        let input = |&index: &i64| {
            let edge = usize::try_from(index).ok().and_then(|at| inputs.get(at));
            if edge.is_none() {
                self.value(field, index);
            }
            edge.copied()
        };
        order.iter().filter_map(input).collect()
    }

    pub(super) fn platform(&self, platform: &pb::Platform) -> Platform {
        let pb::Platform {
            architecture,
            os,
            variant,
            os_version,
            os_features,
        } = platform;
        if !os_version.is_empty() || !os_features.is_empty() {
            self.unsupported("platform.os_version");
        }
        // They become names of directories, and are printed.
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let bounded = |part: &str| part.len() <= 64 && part.chars().all(fits);
        for (field, part) in [
            ("platform.os", os),
            ("platform.architecture", architecture),
            ("platform.variant", variant),
        ] {
            if !bounded(part) || matches!(part.as_str(), "." | "..") {
                self.value(field, part.escape_debug());
            }
        }
        Platform::new(os, architecture, variant)
    }

    /// Outputs are numbered from 0 on, each once: whoever takes one names its number.
    fn outputs(&self, field: &'static str, outputs: impl Iterator<Item = u32>) {
        let mut outputs: Vec<u32> = outputs.collect();
        outputs.sort_unstable();
        let wrong = (0..).zip(&outputs).find(|(wanted, found)| wanted != *found);
        if let Some((_, found)) = wrong {
            self.value(field, found);
        }
    }

    pub(super) fn exec(&self, exec: &pb::ExecOp) -> ExecOp {
        let pb::ExecOp {
            meta,
            mounts,
            network,
            security,
            secretenv,
            cdi_devices,
        } = exec;
        let none = pb::Meta::default();
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
        } = meta.as_ref().unwrap_or(&none);
        if meta.is_none() {
            self.value("exec.meta", "");
        } else if args.is_empty() {
            self.value("exec.meta.args", "");
        } else if !remove_mount_stubs_recursive {
            self.value("exec.meta.remove_mount_stubs_recursive", false);
        }
        if !cdi_devices.is_empty() {
            self.unsupported("exec.cdi_devices");
        }
        if !valid_exit_codes.is_empty() {
            self.unsupported("exec.meta.valid_exit_codes");
        }
        let decoded: Vec<Mount> = mounts.iter().map(|mount| self.mount(mount, cwd)).collect();
        let mut roots = decoded.iter().filter(|mount| mount.dest == "/");
        match (roots.next(), roots.next()) {
            (Some(root), None) => {
                if root.kind != MountKind::Bind || !matches!(root.selector.as_str(), "" | "/") {
                    self.value("exec.mounts", "no plain mount of /");
                }
            }
            _ => self.value("exec.mounts", "no single mount of /"),
        }
        self.outputs(
            "exec.mounts.output",
            decoded.iter().filter_map(|mount| mount.output),
        );
        let cwd = match cwd.as_str() {
            "" => String::new(),
            path if path.starts_with('/') => self.text("exec.meta.cwd", path),
            path => {
                self.value("exec.meta.cwd", path);
                String::new()
            }
        };
        let all = |field, list: &[String]| -> Vec<String> {
            list.iter().map(|text| self.text(field, text)).collect()
        };
        ExecOp {
            args: all("exec.meta.args", args)
                .into_iter()
                .map(Cow::Owned)
                .collect(),
            env: all("exec.meta.env", env).into(),
            cwd,
            user: self.text("exec.meta.user", user),
            mounts: decoded,
            network: match pb::NetMode::try_from(*network) {
                Ok(pb::NetMode::Unset) => NetworkMode::Default,
                Ok(pb::NetMode::Host) => NetworkMode::Host,
                Ok(pb::NetMode::None) => NetworkMode::None,
                Err(_) => {
                    self.value("exec.network", network);
                    NetworkMode::None
                }
            },
            security: match pb::SecurityMode::try_from(*security) {
                Ok(pb::SecurityMode::Sandbox) => SecurityMode::Sandbox,
                Ok(pb::SecurityMode::Insecure) => SecurityMode::Insecure,
                Err(_) => {
                    self.value("exec.security", security);
                    SecurityMode::Sandbox
                }
            },
            secret_env: secretenv
                .iter()
                .map(|secret| SecretEnv {
                    id: secret.id.clone(),
                    name: self.text("exec.secretenv.name", &secret.name),
                    optional: secret.optional,
                })
                .collect(),
            hostname: self.text("exec.meta.hostname", hostname),
            extra_hosts: extra_hosts
                .iter()
                .map(|host| (host.host.clone(), host.ip.clone()))
                .collect(),
            ulimits: ulimit.iter().map(|limit| self.ulimit(limit)).collect(),
            proxy_env: proxy_env.as_ref().map(decode_proxy_env).unwrap_or_default(),
            limits: Arc::new(Limits {
                cgroup_parent: Some(self.cgroup(cgroup_parent)).filter(|parent| !parent.is_empty()),
                ..Limits::default()
            }),
        }
    }

    fn ulimit(&self, limit: &pb::Ulimit) -> Ulimit {
        if !LIMITS.contains(&limit.name.as_str()) {
            self.value("exec.meta.ulimit.name", limit.name.escape_debug());
        }
        for number in [limit.soft, limit.hard] {
            if number < -1 {
                self.value("exec.meta.ulimit", number);
            }
        }
        Ulimit {
            name: limit.name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        }
    }

    fn cgroup(&self, parent: &str) -> String {
        if parent.split('/').any(|part| part == "..") {
            self.value("exec.meta.cgroup_parent", parent);
        }
        self.text("exec.meta.cgroup_parent", parent)
    }

    fn mount(&self, mount: &pb::Mount, cwd: &str) -> Mount {
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
            self.unsupported("exec.mounts.result_id");
        }
        if *content_cache != i32::from(pb::MountContentCache::Default) {
            self.unsupported("exec.mounts.content_cache");
        }
        let mut input: Option<usize> = self.index("exec.mounts.input", *input);
        if let Some(index) = input.take_if(|index| *index >= self.inputs) {
            self.value("exec.mounts.input", index);
        }
        let kind = self.mount_kind(mount);
        let output = match kind {
            MountKind::Bind if !readonly => self.index("exec.mounts.output", *output),
            // BuildKit's client does not set the output of files from outside, which reads as 0.
            MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
            _ => {
                if *output != NOTHING {
                    self.value("exec.mounts.output", output);
                }
                None
            }
        };
        Mount {
            input,
            selector: self.text("exec.mounts.selector", selector),
            dest: self.dest(cwd, dest),
            output,
            readonly: *readonly,
            kind,
        }
    }

    fn mount_kind(&self, mount: &pb::Mount) -> MountKind {
        let lacks = |what| {
            self.value(what, "");
            MountKind::Bind
        };
        match pb::MountType::try_from(mount.mount_type) {
            Ok(pb::MountType::Bind) => MountKind::Bind,
            Ok(pb::MountType::Cache) => {
                let Some(cache) = &mount.cache_opt else {
                    return lacks("exec.mounts.cache_opt");
                };
                MountKind::Cache {
                    id: cache.id.clone(),
                    sharing: match pb::CacheSharingOpt::try_from(cache.sharing) {
                        Ok(pb::CacheSharingOpt::Shared) => CacheSharing::Shared,
                        Ok(pb::CacheSharingOpt::Private) => CacheSharing::Private,
                        Ok(pb::CacheSharingOpt::Locked) => CacheSharing::Locked,
                        Err(_) => {
                            self.value("exec.mounts.cache_opt.sharing", cache.sharing);
                            CacheSharing::Private
                        }
                    },
                    mode: CACHE_MODE,
                    uid: 0,
                    gid: 0,
                }
            }
            Ok(pb::MountType::Tmpfs) => MountKind::Tmpfs {
                size: self.number(
                    "exec.mounts.tmpfs_opt.size",
                    mount.tmpfs_opt.map_or(0, |tmpfs| tmpfs.size),
                ),
            },
            Ok(pb::MountType::Secret) => {
                let Some(secret) = &mount.secret_opt else {
                    return lacks("exec.mounts.secret_opt");
                };
                MountKind::Secret {
                    id: secret.id.clone(),
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                }
            }
            Ok(pb::MountType::Ssh) => {
                let Some(ssh) = &mount.ssh_opt else {
                    return lacks("exec.mounts.ssh_opt");
                };
                MountKind::Ssh {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }
            }
            Err(_) => {
                self.value("exec.mounts.mount_type", mount.mount_type);
                MountKind::Bind
            }
        }
    }

    pub(super) fn file(&self, file: &pb::FileOp) -> FileOp {
        if file.actions.is_empty() {
            self.value("file.actions", "");
        }
        let mut decoded = FileOp {
            actions: Vec::with_capacity(file.actions.len()),
        };
        let mut bases = Vec::with_capacity(file.actions.len());
        for action in &file.actions {
            let input = self.file_input("file.actions.input", action.input, &decoded);
            let secondary = self.file_input(
                "file.actions.secondary_input",
                action.secondary_input,
                &decoded,
            );
            let base = base_of(&bases, input);
            let Some(kind) = self.action(action.action.as_ref(), base) else {
                self.unsupported("file.actions.action");
                continue;
            };
            bases.push(base);
            decoded.actions.push(FileAction {
                input,
                secondary,
                output: self.index("file.actions.output", action.output),
                kind,
            });
        }
        let outputs = decoded.actions.iter().filter_map(|action| action.output);
        self.outputs("file.actions.output", outputs);
        decoded
    }

    fn file_input(&self, field: &'static str, index: i64, before: &FileOp) -> FileInput {
        match self.index::<usize>(field, index) {
            None => FileInput::Scratch,
            Some(at) if at < self.inputs => FileInput::Input(at),
            Some(at) if at - self.inputs < before.actions.len() => {
                FileInput::Action(at - self.inputs)
            }
            Some(_) => {
                self.value(field, index);
                FileInput::Scratch
            }
        }
    }

    fn action(
        &self,
        action: Option<&pb::file_action::Action>,
        base: FileInput,
    ) -> Option<FileActionKind> {
        use pb::file_action::Action;
        let time = |nanoseconds: i64| match nanoseconds {
            NOTHING => None,
            whole if whole % SECOND == 0 => Some(whole / SECOND),
            other => {
                self.value("file.actions.timestamp", other);
                None
            }
        };
        let owner = |owner: &Option<pb::ChownOpt>| {
            let owner = owner.as_ref()?;
            self.owner(owner, base)
        };
        Some(match action? {
            Action::Copy(copy) => {
                FileActionKind::Copy(self.copy(copy, owner(&copy.owner), time(copy.timestamp)))
            }
            Action::Mkfile(file) => FileActionKind::Mkfile {
                path: self.text("file.actions.mkfile.path", &file.path),
                mode: self.number("file.actions.mkfile.mode", file.mode.into()),
                data: file.data.clone(),
                owner: owner(&file.owner),
                timestamp: time(file.timestamp),
            },
            Action::Mkdir(dir) => FileActionKind::Mkdir {
                path: self.text("file.actions.mkdir.path", &dir.path),
                mode: self.number("file.actions.mkdir.mode", dir.mode.into()),
                make_parents: dir.make_parents,
                owner: owner(&dir.owner),
                timestamp: time(dir.timestamp),
            },
            Action::Symlink(link) => FileActionKind::Symlink {
                target: self.text("file.actions.symlink.oldpath", &link.oldpath),
                path: self.text("file.actions.symlink.newpath", &link.newpath),
                owner: owner(&link.owner),
                timestamp: time(link.timestamp),
            },
            Action::Rm(rm) => FileActionKind::Rm {
                path: self.text("file.actions.rm.path", &rm.path),
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            },
        })
    }

    fn copy(
        &self,
        copy: &pb::FileActionCopy,
        owner: Option<Owner>,
        timestamp: Option<i64>,
    ) -> CopyAction {
        // Not all patterns below the source at once: that is as much as the one times the other.
        let inside = || {
            let patterns = copy.include_patterns.iter();
            patterns.map(|pattern| below(&copy.src, pattern))
        };
        let required = match copy.required_paths.as_slice() {
            [] => false,
            paths if copy.allow_empty_wildcard && inside().eq(paths.iter().cloned()) => true,
            paths => {
                self.value("file.actions.copy.required_paths", paths.join(" "));
                false
            }
        };
        CopyAction {
            src: self.text("file.actions.copy.src", &copy.src),
            dest: self.text("file.actions.copy.dest", &copy.dest),
            owner,
            mode: match (copy.mode, copy.mode_str.as_str()) {
                (-1, "") => None,
                (mode, "") => Some(ModeChange::Octal(
                    self.number("file.actions.copy.mode", mode.into()),
                )),
                (0, text) => Some(ModeChange::Symbolic(text.to_owned())),
                (mode, _) => {
                    self.value("file.actions.copy.mode", mode);
                    None
                }
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
        }
    }

    fn owner(&self, owner: &pb::ChownOpt, base: FileInput) -> Option<Owner> {
        let user = owner.user.as_ref().and_then(|user| self.user(user, base));
        let group = owner
            .group
            .as_ref()
            .and_then(|group| self.user(group, base));
        if owner.user.is_none() && group.is_some() {
            self.value("file.actions.owner.user", "");
        }
        Some(Owner { user: user?, group })
    }

    /// Names are looked up in what the actions began with; LLB could say another input, but no frontend does.
    fn user(&self, user: &pb::UserOpt, base: FileInput) -> Option<UserRef> {
        let wanted = match base {
            FileInput::Input(index) => index as i64,
            FileInput::Scratch | FileInput::Action(_) => NOTHING,
        };
        match &user.user {
            Some(pb::user_opt::User::ById(id)) => Some(UserRef::Id(*id)),
            Some(pb::user_opt::User::ByName(name)) => {
                if name.input != wanted {
                    self.value("file.actions.owner.by_name.input", name.input);
                }
                Some(UserRef::Name(name.name.clone()))
            }
            None => {
                self.value("file.actions.owner", "");
                None
            }
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
