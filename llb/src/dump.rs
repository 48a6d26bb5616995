//! A graph as people and programs read it: `rbuild debug dump-llb`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use serde_json::json;

use crate::definition::Definition;
use crate::definition::Edge;
use crate::op::CacheSharing;
use crate::op::CopyAction;
use crate::op::ExecOp;
use crate::op::FileAction;
use crate::op::FileActionKind;
use crate::op::FileInput;
use crate::op::Limits;
use crate::op::ModeChange;
use crate::op::Mount;
use crate::op::MountKind;
use crate::op::NetworkMode;
use crate::op::Op;
use crate::op::Owner;
use crate::op::SecurityMode;
use crate::op::SourceOp;
use crate::op::UserRef;

/// One line a step, inputs before users: short id, kind, platform, name, inputs; then one line a result.
///
/// ```text
/// 3f3a32367fae source  linux/amd64  docker.io/library/alpine:3.20
/// a1b2c3d4e5f6 exec    linux/amd64  [2/2] RUN true  <- 3f3a32367fae
/// = a1b2c3d4e5f6  build  linux/amd64
/// ```
pub fn text(definition: &Definition) -> String {
    let mut text = String::new();
    for (id, vertex) in definition.iter() {
        let kind = vertex.op.kind();
        let name = vertex.meta.name.replace('\n', "\\n");
        let _ = write!(text, "{} {kind:<7} {}  {name}", id.short(), vertex.platform);
        let inputs: Vec<String> = vertex.inputs.iter().map(short).collect();
        if !inputs.is_empty() {
            let _ = write!(text, "  <- {}", inputs.join(" "));
        }
        text.push_str(if vertex.meta.ignore_cache {
            "  (no cache)\n"
        } else {
            "\n"
        });
    }
    for output in &definition.outputs {
        let root = output
            .root
            .as_ref()
            .map_or_else(|| "scratch".to_owned(), short);
        let _ = writeln!(text, "= {root}  {}  {}", output.name, output.platform);
    }
    text
}

/// Output 0 is what nearly all steps have, so only others are said.
fn short(edge: &Edge) -> String {
    match edge.output {
        0 => edge.vertex.short(),
        output => format!("{}:{output}", edge.vertex.short()),
    }
}

/// Everything, as `{"steps": […], "outputs": […]}`. Field names are those of [`crate::op`]; an option that is not
/// there is `null`.
pub fn json(definition: &Definition) -> Value {
    let steps = definition.iter().map(|(id, vertex)| {
        json!({
            "id": id.to_string(),
            "kind": vertex.op.kind(),
            "name": vertex.meta.name,
            "platform": vertex.platform.to_string(),
            "inputs": vertex.inputs.iter().map(edge).collect::<Vec<_>>(),
            "ignore_cache": vertex.meta.ignore_cache,
            "at": vertex.meta.spans.iter().map(crate::Span::location).collect::<Vec<_>>(),
            "op": op(&vertex.op),
        })
    });
    let outputs = definition.outputs.iter().map(|output| {
        json!({
            "name": output.name,
            "platform": output.platform.to_string(),
            "root": output.root.as_ref().map(edge),
            "config": output.config,
        })
    });
    json!({
        "steps": steps.collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
    })
}

fn edge(edge: &Edge) -> Value {
    json!({ "step": edge.vertex.to_string(), "output": edge.output })
}

fn op(op: &Op) -> Value {
    match op {
        Op::Source(source) => source_op(source),
        Op::Exec(exec) => exec_op(exec),
        Op::File(file) => json!({ "actions": file.actions.iter().map(action).collect::<Vec<_>>() }),
        Op::Merge | Op::Diff => json!({}),
    }
}

fn source_op(source: &SourceOp) -> Value {
    match source {
        SourceOp::Image(image) => json!({ "image": {
            "reference": image.reference,
            "digest": image.digest,
        } }),
        SourceOp::OciLayout(layout) => json!({ "oci_layout": {
            "path": layout.path,
            "reference": layout.reference,
            "digest": layout.digest,
        } }),
        SourceOp::Local(local) => json!({ "local": {
            "name": local.name,
            "include": local.include,
            "exclude": local.exclude,
        } }),
        SourceOp::Git(git) => json!({ "git": {
            "remote": git.remote,
            "reference": git.reference,
            "subdir": git.subdir,
            "keep_git_dir": git.keep_git_dir,
            "skip_submodules": git.skip_submodules,
            "checksum": git.checksum,
            "commit": git.commit,
        } }),
        SourceOp::Http(http) => json!({ "http": {
            "url": http.url,
            "checksum": http.checksum,
            "filename": http.filename,
            "mode": http.mode.map(octal),
        } }),
    }
}

fn exec_op(exec: &ExecOp) -> Value {
    let ExecOp {
        args,
        env,
        cwd,
        user,
        mounts,
        network,
        security,
        secret_env,
        hostname,
        extra_hosts,
        ulimits,
        proxy_env,
        limits,
    } = exec;
    let secrets = secret_env.iter();
    let secrets = secrets.map(|s| json!({ "id": s.id, "name": s.name, "optional": s.optional }));
    let ulimits = ulimits.iter();
    let ulimits = ulimits.map(|u| (u.name.clone(), json!({ "soft": u.soft, "hard": u.hard })));
    // A proxy's URL may hold a password; which variables are set is all a reader needs.
    let proxies = proxy_env.env.iter().map(|p| p.split('=').next());
    let Limits {
        memory,
        memory_swap,
        cpu_shares,
        cpu_period,
        cpu_quota,
        cpuset_cpus,
        cpuset_mems,
        cgroup_parent,
    } = limits.as_ref();
    let mut exec = json!({
        "args": args,
        "env": **env,
        "cwd": cwd,
        "user": user,
        "mounts": mounts.iter().map(mount).collect::<Vec<_>>(),
        "network": match network {
            NetworkMode::Default => "default",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
        },
        "security": match security {
            SecurityMode::Sandbox => "sandbox",
            SecurityMode::Insecure => "insecure",
        },
        "secret_env": secrets.collect::<Vec<_>>(),
        "hostname": hostname,
        "extra_hosts": extra_hosts,
        "ulimits": ulimits.collect::<BTreeMap<_, _>>(),
        "proxy_env": proxies.collect::<Vec<_>>(),
    });
    if **limits != Limits::default() {
        exec["limits"] = json!({
            "memory": memory,
            "memory_swap": memory_swap,
            "cpu_shares": cpu_shares,
            "cpu_period": cpu_period,
            "cpu_quota": cpu_quota,
            "cpuset_cpus": cpuset_cpus,
            "cpuset_mems": cpuset_mems,
            "cgroup_parent": cgroup_parent,
        });
    }
    exec
}

fn mount(mount: &Mount) -> Value {
    let Mount {
        input,
        selector,
        dest,
        output,
        readonly,
        kind,
    } = mount;
    let kind = match kind {
        MountKind::Bind => json!("bind"),
        MountKind::Cache {
            id,
            sharing,
            mode,
            uid,
            gid,
        } => json!({ "cache": {
            "id": id,
            "sharing": match sharing {
                CacheSharing::Shared => "shared",
                CacheSharing::Private => "private",
                CacheSharing::Locked => "locked",
            },
            "mode": octal(*mode),
            "uid": uid,
            "gid": gid,
        } }),
        MountKind::Tmpfs { size } => json!({ "tmpfs": { "size": size } }),
        MountKind::Secret {
            id,
            uid,
            gid,
            mode,
            optional,
        } => json!({ "secret": file_from_outside(id, *uid, *gid, *mode, *optional) }),
        MountKind::Ssh {
            id,
            uid,
            gid,
            mode,
            optional,
        } => json!({ "ssh": file_from_outside(id, *uid, *gid, *mode, *optional) }),
    };
    json!({
        "input": input,
        "selector": selector,
        "dest": dest,
        "output": output,
        "readonly": readonly,
        "kind": kind,
    })
}

fn file_from_outside(id: &str, uid: u32, gid: u32, mode: u32, optional: bool) -> Value {
    json!({ "id": id, "uid": uid, "gid": gid, "mode": octal(mode), "optional": optional })
}

fn action(action: &FileAction) -> Value {
    let kind = match &action.kind {
        FileActionKind::Copy(copy) => json!({ "copy": copy_action(copy) }),
        FileActionKind::Mkfile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } => json!({ "mkfile": {
            "path": path,
            "mode": octal(*mode),
            "data": String::from_utf8_lossy(data),
            "owner": owner.as_ref().map(chown),
            "timestamp": timestamp,
        } }),
        FileActionKind::Mkdir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } => json!({ "mkdir": {
            "path": path,
            "mode": octal(*mode),
            "make_parents": make_parents,
            "owner": owner.as_ref().map(chown),
            "timestamp": timestamp,
        } }),
        FileActionKind::Symlink {
            target,
            path,
            owner,
            timestamp,
        } => json!({ "symlink": {
            "target": target,
            "path": path,
            "owner": owner.as_ref().map(chown),
            "timestamp": timestamp,
        } }),
        FileActionKind::Rm {
            path,
            allow_not_found,
            allow_wildcard,
        } => json!({ "rm": {
            "path": path,
            "allow_not_found": allow_not_found,
            "allow_wildcard": allow_wildcard,
        } }),
    };
    json!({
        "input": file_input(action.input),
        "secondary": file_input(action.secondary),
        "output": action.output,
        "kind": kind,
    })
}

fn copy_action(copy: &CopyAction) -> Value {
    let CopyAction {
        src,
        dest,
        owner,
        mode,
        follow_symlinks,
        dir_copy_contents,
        attempt_unpack,
        create_dest_path,
        allow_wildcard,
        allow_empty_wildcard,
        include,
        exclude,
        always_replace_existing_dest_paths,
        timestamp,
        parents,
    } = copy;
    json!({
        "src": src,
        "dest": dest,
        "owner": owner.as_ref().map(chown),
        "mode": mode.as_ref().map(|mode| match mode {
            ModeChange::Octal(mode) => octal(*mode),
            ModeChange::Symbolic(text) => text.clone(),
        }),
        "follow_symlinks": follow_symlinks,
        "dir_copy_contents": dir_copy_contents,
        "attempt_unpack": attempt_unpack,
        "create_dest_path": create_dest_path,
        "allow_wildcard": allow_wildcard,
        "allow_empty_wildcard": allow_empty_wildcard,
        "include": include,
        "exclude": exclude,
        "always_replace_existing_dest_paths": always_replace_existing_dest_paths,
        "timestamp": timestamp,
        "parents": parents,
    })
}

fn file_input(input: FileInput) -> Value {
    match input {
        FileInput::Scratch => json!("scratch"),
        FileInput::Input(index) => json!({ "input": index }),
        FileInput::Action(index) => json!({ "action": index }),
    }
}

fn chown(owner: &Owner) -> String {
    let part = |part: &UserRef| match part {
        UserRef::Id(id) => id.to_string(),
        UserRef::Name(name) => name.clone(),
    };
    match &owner.group {
        None => part(&owner.user),
        Some(group) => format!("{}:{}", part(&owner.user), part(group)),
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::Platform;
    use crate::proto;

    fn dockerfile() -> Definition {
        let copy = include_bytes!("../testdata/buildkit/copy.pb");
        proto::decode(copy, &Platform::new("linux", "amd64", "")).unwrap()
    }

    #[test]
    fn a_line_a_step_and_a_line_a_result() {
        let definition = dockerfile();
        let text = text(&definition);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), definition.len() + 1);
        let ids: Vec<String> = definition.iter().map(|(id, _)| id.short()).collect();
        for (line, id) in lines.iter().zip(&ids) {
            assert!(line.starts_with(id.as_str()), "{line}");
            // Every input is a line above.
            let inputs = line.split_once("  <- ").map_or("", |(_, inputs)| inputs);
            for input in inputs.split(' ').filter(|input| !input.is_empty()) {
                assert!(ids.iter().take_while(|i| *i != id).any(|i| i == input));
            }
        }
        assert_eq!(
            lines[0],
            format!(
                "{} source  linux/amd64  [context lay] OCI load from client",
                ids[0]
            )
        );
        let last = format!("= {}    linux/amd64", ids[ids.len() - 1]);
        assert_eq!(lines[lines.len() - 1], last);
    }

    #[test]
    fn the_json_form_holds_what_the_dockerfile_says() {
        let value = json(&dockerfile());
        let steps = value["steps"].as_array().unwrap();
        let named = |name: &str| {
            let mut steps = steps.iter();
            let step = steps.find(|step| step["name"].as_str().unwrap().contains(name));
            step.unwrap_or_else(|| panic!("{name}"))
        };
        let copy = &named("--chmod=u=rwX")["op"]["actions"][0]["kind"]["copy"];
        assert_eq!(copy["src"], "/src");
        assert_eq!(copy["owner"], "app:app");
        assert_eq!(copy["mode"], "u=rwX");
        let parents = &named("--parents --exclude")["op"]["actions"][0]["kind"]["copy"];
        assert_eq!(parents["include"], json!(["x/y"]));
        assert_eq!(parents["parents"], true);
        assert_eq!(
            named("load build context")["op"]["local"]["exclude"],
            json!(["*.o", "!keep.o"])
        );
        let git = &named("--keep-git-dir")["op"];
        assert_eq!(git["git"]["subdir"], "sub");
        assert_eq!(named("ADD a.tar.gz")["at"], json!(["Dockerfile:8:1"]));
    }

    #[test]
    fn proxies_are_named_but_not_shown() {
        let run = include_bytes!("../testdata/buildkit/run.pb");
        let definition = proto::decode(run, &Platform::new("linux", "amd64", "")).unwrap();
        let value = json(&definition);
        let steps = value["steps"].as_array().unwrap();
        let exec = steps.iter().find(|step| step["kind"] == "exec").unwrap();
        let want = json!(["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"]);
        assert_eq!(exec["op"]["proxy_env"], want);
    }
}
