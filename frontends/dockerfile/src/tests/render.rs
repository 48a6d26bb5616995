//! Graphs as text: one block a step, its inputs by name.

use std::fmt::Write as _;

use rbuild_llb::Definition;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::Vertex;
use rbuild_llb::op::CacheSharing;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::ModeChange;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::Owner;
use rbuild_llb::op::SecurityMode;
use rbuild_llb::op::SourceOp;
use rbuild_llb::op::UserRef;

/// What files from the web are pinned to; not shown, because BuildKit's graphs have no such pins.
pub(super) const PINNED_FILE: OciDigest = OciDigest::from_bytes([0xcd; 32]);

pub(super) fn steps(definition: &Definition) -> Vec<String> {
    definition
        .iter()
        .map(|(_, vertex)| step(definition, vertex))
        .collect()
}

fn step(definition: &Definition, vertex: &Vertex) -> String {
    let mut out = vertex.meta.name.clone();
    if vertex.meta.ignore_cache {
        out.push_str("\n  uncached");
    }
    let names: Vec<String> = vertex
        .inputs
        .iter()
        .map(|edge| format!("<{}>", definition.get(&edge.vertex).unwrap().meta.name))
        .collect();
    match &vertex.op {
        Op::Source(op) => source(&mut out, op, vertex),
        Op::Exec(op) => exec(&mut out, op, vertex, &names),
        Op::File(op) => op
            .actions
            .iter()
            .for_each(|action| file(&mut out, action, &names)),
        Op::Merge | Op::Diff => panic!("a Dockerfile has no such steps"),
    }
    out
}

fn source(out: &mut String, op: &SourceOp, vertex: &Vertex) {
    match op {
        SourceOp::Image(image) => {
            let digest = image.digest.unwrap();
            let platform = &vertex.platform;
            let name = image.reference.split('@').next().unwrap();
            write!(out, "\n  image {name}@{digest} {platform}").unwrap();
        }
        SourceOp::Local(local) => {
            write!(out, "\n  local {}", local.name).unwrap();
            for pattern in &local.exclude {
                write!(out, "\n  exclude {pattern}").unwrap();
            }
        }
        SourceOp::Http(http) => {
            write!(out, "\n  http {} {}", http.url, http.filename).unwrap();
            if let Some(checksum) = http.checksum.filter(|c| *c != PINNED_FILE) {
                write!(out, " {checksum}").unwrap();
            }
        }
        SourceOp::Git(git) => {
            let colon = if git.subdir.is_empty() { "" } else { ":" };
            let what = format!("{}{colon}{}", git.reference, git.subdir);
            write!(
                out,
                "\n  git {} {what} keep={}",
                git.remote, git.keep_git_dir
            )
            .unwrap();
        }
        SourceOp::OciLayout(layout) => write!(out, "\n  layout {}", layout.path).unwrap(),
    }
}

fn exec(out: &mut String, op: &ExecOp, vertex: &Vertex, names: &[String]) {
    // Python's separators.
    let args: Vec<String> = op
        .args
        .iter()
        .map(|arg| serde_json::to_string(arg).unwrap())
        .collect();
    write!(out, "\n  exec [{}] {}", args.join(", "), vertex.platform).unwrap();
    write!(out, "\n  cwd {}", op.cwd).unwrap();
    if !op.user.is_empty() {
        write!(out, " user {}", op.user).unwrap();
    }
    for pair in op.env.iter() {
        write!(out, "\n  env {pair}").unwrap();
    }
    for pair in &op.proxy_env.env {
        write!(out, "\n  proxy {pair}").unwrap();
    }
    match op.network {
        NetworkMode::Default => {}
        NetworkMode::Host => out.push_str("\n  network HOST"),
        NetworkMode::None => out.push_str("\n  network NONE"),
    }
    if op.security == SecurityMode::Insecure {
        out.push_str("\n  security INSECURE");
    }
    if !op.hostname.is_empty() {
        write!(out, "\n  hostname {}", op.hostname).unwrap();
    }
    for secret in &op.secret_env {
        let optional = if secret.optional { " optional" } else { "" };
        write!(out, "\n  secretenv {}={}{optional}", secret.name, secret.id).unwrap();
    }
    let mut mounts: Vec<String> = op.mounts.iter().map(|m| mount(m, names)).collect();
    mounts.sort();
    for mount in mounts {
        write!(out, "\n  mount {mount}").unwrap();
    }
}

fn mount(mount: &Mount, names: &[String]) -> String {
    let input = mount.input.map_or("none", |at| names[at].as_str());
    let selector = match mount.selector.as_str() {
        "" | "/" => String::new(),
        selector => format!(" {selector}"),
    };
    let readonly = if mount.readonly { " ro" } else { "" };
    let flag = |optional: bool| if optional { " optional" } else { "" };
    let kind = match &mount.kind {
        MountKind::Bind => {
            let output = if mount.output == Some(0) { " out" } else { "" };
            format!("bind {input}{selector}{readonly}{output}")
        }
        MountKind::Cache {
            id,
            sharing,
            mode,
            uid,
            gid,
        } => {
            let sharing = match sharing {
                CacheSharing::Shared => "shared",
                CacheSharing::Private => "private",
                CacheSharing::Locked => "locked",
            };
            let owner = match (mode, uid, gid) {
                (0o755, 0, 0) => String::new(),
                _ => format!(" mode={mode:o} owner={uid}:{gid}"),
            };
            format!("cache {id} {sharing} {input}{selector}{readonly}{owner}")
        }
        MountKind::Tmpfs { size } => format!("tmpfs {size}"),
        MountKind::Secret {
            id,
            uid,
            gid,
            mode,
            optional,
        } => format!("secret {id} {uid}:{gid} {mode:o}{}", flag(*optional)),
        MountKind::Ssh {
            id,
            uid,
            gid,
            mode,
            optional,
        } => format!("ssh {id} {uid}:{gid} {mode:o}{}", flag(*optional)),
    };
    format!("{} {kind}", mount.dest)
}

fn file(out: &mut String, action: &FileAction, names: &[String]) {
    let input = |input: &FileInput| match input {
        FileInput::Scratch => "scratch".to_owned(),
        FileInput::Input(at) => names[*at].clone(),
        FileInput::Action(at) => format!("action {at}"),
    };
    let change = match &action.kind {
        FileActionKind::Mkdir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } => {
            let parents = if *make_parents { " parents" } else { "" };
            let (owner, time) = (shown(owner), timestamp.map_or(String::new(), at));
            format!("mkdir {path} {mode:o}{parents}{owner}{time}")
        }
        FileActionKind::Mkfile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } => {
            let data = serde_json::to_string(std::str::from_utf8(data).unwrap()).unwrap();
            let (owner, time) = (shown(owner), timestamp.map_or(String::new(), at));
            format!("mkfile {path} {mode:o} {data}{owner}{time}")
        }
        FileActionKind::Copy(action_copy) => copy(action_copy, &input(&action.secondary)),
        other => panic!("a Dockerfile has no such action: {other:?}"),
    };
    let kept = if action.output.is_none() {
        " (kept)"
    } else {
        ""
    };
    write!(out, "\n  {change} on {}{kept}", input(&action.input)).unwrap();
}

fn copy(copy: &CopyAction, from: &str) -> String {
    let mut flags: Vec<String> = [
        (copy.follow_symlinks, "follow"),
        (copy.dir_copy_contents, "contents"),
        (copy.attempt_unpack, "unpack"),
        (copy.create_dest_path, "mkdest"),
        (copy.allow_wildcard, "wildcard"),
        (copy.allow_empty_wildcard, "empty"),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .map(|(_, word)| (*word).to_owned())
    .collect();
    flags.extend(copy.include.iter().map(|p| format!("include={p}")));
    flags.extend(copy.exclude.iter().map(|p| format!("exclude={p}")));
    let mode = match &copy.mode {
        None => String::new(),
        Some(ModeChange::Octal(mode)) => format!(" mode={mode:o}"),
        Some(ModeChange::Symbolic(mode)) => format!(" mode={mode}"),
    };
    let (owner, time) = (shown(&copy.owner), copy.timestamp.map_or(String::new(), at));
    let (src, dest, flags) = (&copy.src, &copy.dest, flags.join(" "));
    format!("copy {from} {src} -> {dest}{owner}{mode}{time} [{flags}]")
}

fn at(seconds: i64) -> String {
    format!(" at={seconds}")
}

fn shown(owner: &Option<Owner>) -> String {
    let part = |part: &UserRef| match part {
        UserRef::Id(id) => id.to_string(),
        UserRef::Name(name) => name.clone(),
    };
    match owner {
        None => String::new(),
        Some(Owner { user, group: None }) => format!(" owner={}", part(user)),
        Some(Owner {
            user,
            group: Some(group),
        }) => format!(" owner={}:{}", part(user), part(group)),
    }
}
