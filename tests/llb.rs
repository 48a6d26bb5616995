//! `--llb`: graphs of BuildKit's own client, and what its daemon made of them (`testdata/llb/README.md`).

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

use rbuild_llb::OciDigest;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use snapbox::str;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::tools;

fn graph(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/llb");
    dir.join(format!("{name}.pb"))
}

fn facts(file: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/llb");
    fs::read_to_string(dir.join(file)).unwrap()
}

/// The context that the facts were recorded with, and a directory with a static busybox.
fn env() -> TestEnv {
    let env = TestEnv::new()
        .file("context/dir/f", "f\n")
        .file("context/dir/sub/g", "g\n")
        .file("context/one.txt", "one\n")
        .file("context/two.txt", "two\n")
        .symlink("context/link", "one.txt")
        .file("tarred/in", "t\n")
        .file("secret", "hush");
    for path in ["context", "context/dir", "context/dir/sub", "tarred"] {
        fs::set_permissions(env.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for path in ["dir/f", "dir/sub/g", "one.txt", "two.txt"] {
        let path = env.path("context").join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(env.path("tarred/in"), fs::Permissions::from_mode(0o644)).unwrap();
    env.tool(
        "tar",
        [
            "--owner=3",
            "--group=4",
            "--numeric-owner",
            "--mtime=@1000000000",
            "-cf",
            "context/a.tar",
            "tarred",
        ],
    )
    .success();
    fs::create_dir(env.path("tools")).unwrap();
    fs::copy(tools::find("busybox"), env.path("tools/busybox")).unwrap();
    fs::set_permissions(env.path("tools/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    env
}

fn build(env: &TestEnv, name: &str, more: &[&str]) -> Output {
    let file = format!("{name}.pb");
    fs::copy(graph(name), env.path(&file)).unwrap();
    let args = [
        "build",
        "--llb",
        &file,
        "--local=context=context",
        "--local=busybox=tools",
        "--secret=id=s,src=secret",
    ];
    env.rbuild(args.iter().chain(more))
}

/// The files of an archive in the form of the facts.
fn listing(tar: &Path) -> String {
    let mut archive = tar::Archive::new(File::open(tar).unwrap());
    let mut lines = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let path = format!("/{}", path.trim_start_matches("./").trim_matches('/'));
        if matches!(path.as_str(), "/" | "/dev" | "/proc" | "/sys") {
            continue;
        }
        let header = entry.header().clone();
        let (kind, what) = match header.entry_type() {
            tar::EntryType::Directory => ("dir", "-".to_owned()),
            tar::EntryType::Symlink => {
                let link = entry.link_name().unwrap().unwrap();
                ("link", link.display().to_string())
            }
            tar::EntryType::Regular if path == "/bin/busybox" => ("file", "-".to_owned()),
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let digest = OciDigest::from_bytes(Sha256::digest(&content).into());
                ("file", digest.hex())
            }
            other => panic!("{path} is {other:?}"),
        };
        let time = header.mtime().unwrap();
        let time = match kind != "dir" && time < 1_700_000_000 {
            true => time.to_string(),
            false => "-".to_owned(),
        };
        let line = format!(
            "{path} {kind} {:o} {}:{} {time} {what}\n",
            header.mode().unwrap() & 0o7777,
            header.uid().unwrap(),
            header.gid().unwrap()
        );
        lines.insert(path, line);
    }
    lines.into_values().collect()
}

#[test]
fn graphs_of_files_are_built_as_buildkit_builds_them() {
    let env = env();
    for name in [
        "files",
        "copies",
        "local",
        "merge",
        "diff",
        "diff-unrelated",
        "diff-removed",
        "diff-everything",
        "owners",
    ] {
        build(&env, name, &["-o", "type=tar,dest=out.tar"]).success();
        let ours = listing(&env.path("out.tar"));
        assert_eq!(ours, facts(&format!("{name}.tree")), "{name}");
    }
}

#[test]
fn graphs_with_processes_are_built_as_buildkit_builds_them() {
    for stacker in ["overlay", "link"] {
        let env = env();
        for name in [
            "mount-root",
            "mount-out",
            "mount-selected",
            "mount-all",
            "readonly",
            "told",
            "user",
        ] {
            let output = ["-o", "type=tar,dest=out.tar", "--stacker", stacker];
            build(&env, name, &output).success();
            if name == "told" {
                let told = env.tool("tar", ["-xOf", "out.tar", "told"]).success();
                assert_eq!(told.stdout, facts("told.txt"));
            }
            let ours = listing(&env.path("out.tar"));
            assert_eq!(ours, facts(&format!("{name}.tree")), "{name}, {stacker}");
        }
    }
}

#[test]
fn what_cannot_be_run_is_named_before_anything_runs() {
    let env = env();
    build(&env, "refused", &[]).is(str![[r#"
---- stderr ----
error: `refused.pb`: `may fail` ([DIGEST]) has `exec.meta.valid_exit_codes`, which is not supported

error: `refused.pb`: `wants a device` ([DIGEST]) has `exec.cdi_devices`, which is not supported
[exit status: 2]

"#]]);
    build(&env, "insecure", &[]).is(str![[r#"
---- stderr ----
error: `/bin/busybox sh -ec true`: `RUN --security=insecure` is not allowed in this build
hint: allow it with `--allow security.insecure` if you trust this file

error: `/bin/busybox sh -ec true`: `RUN --network=host` is not allowed in this build
hint: allow it with `--allow network.host` if you trust this file
[exit status: 2]

"#]]);
    // Nobody said where its sources are; the others are asked for later.
    build(&env, "sources", &[]).is(str![[r#"
---- stderr ----
error: no image layout is called `store`
hint: say where it is: `--oci-layout store=DIR`
[exit status: 2]

"#]]);
    env.rbuild(["build", "--llb=refused.pb", "--llb=insecure.pb"])
        .is(str![[r#"
---- stderr ----
error: no directory is called `busybox`
hint: say which it is: `--local busybox=DIR`
[exit status: 2]

"#]]);
    assert!(!env.store().join("v1/records").exists());

    env.write("empty", "");
    env.write("text", "FROM scratch\n");
    env.rbuild(["build", "--llb=empty"]).is(str![[r#"
---- stderr ----
error: `empty` is empty
[exit status: 2]

"#]]);
    env.rbuild(["build", "--llb=text"]).is(str![[r#"
---- stderr ----
error: `text`: not an LLB definition: failed to decode Protobuf message: invalid wire type value: 6
hint: it takes what BuildKit's clients marshal, `pb.Definition`; of a Dockerfile, `rbuild debug dump-llb --format pb` writes that
[exit status: 2]

"#]]);
    env.rbuild(["build", "--llb=absent"]).is(str![[r#"
---- stderr ----
error: cannot read `absent`
caused by: No such file or directory (os error 2)
[exit status: 2]

"#]]);
    env.rbuild(["build", "--local=a=context", "."]).is(str![[r#"
---- stderr ----
error: `--local` is for graphs, and there is no `--llb`
hint: for a Dockerfile, `--build-context NAME=DIR` names directories and layouts
[exit status: 2]

"#]]);
    let flags = ["--target=x", "-f=y", "--build-arg=A=b", "--locked"];
    build(&env, "merge", &flags).is(str![[r#"
---- stderr ----
error: `-f` means nothing to the graph of `--llb`
hint: a graph says itself what its steps do: its author decides

error: `--target` means nothing to the graph of `--llb`
hint: a graph says itself what its steps do: its author decides

error: `--build-arg` means nothing to the graph of `--llb`
hint: a graph says itself what its steps do: its author decides

error: `--locked` means nothing to the graph of `--llb`
hint: a graph says itself what its steps do: its author decides
[exit status: 2]

"#]]);
    let contexts = [
        "--build-context=base=docker-image://alpine",
        "--build-context=dir=context",
        "--build-context=layout=oci-layout://context",
        "--build-context=one=oci-layout://context:latest",
        "--build-context=repo=https://git.example/a.git",
    ];
    build(&env, "merge", &contexts).is(str![[r#"
---- stderr ----
error: `--build-context base=…` means nothing to the graph of `--llb`
hint: the graph names its images, repositories and URLs itself; directories are given: `--local NAME=DIR`

error: `--build-context one=…` means nothing to the graph of `--llb`
hint: the graph says which image of a layout it takes: `--oci-layout NAME=DIR`

error: `--build-context repo=…` means nothing to the graph of `--llb`
hint: the graph names its images, repositories and URLs itself; directories are given: `--local NAME=DIR`
[exit status: 2]

"#]]);
}

#[test]
fn an_image_has_the_config_that_is_given() {
    let env = env();
    let config = |more: &[&str]| -> Value {
        let args = [&["-o", "type=oci,dest=made.tar"], more].concat();
        build(&env, "merge", &args).success();
        let inspect = ["inspect", "--config", "--raw", "oci-archive:made.tar"];
        let config = env.tool("skopeo", inspect).success().stdout;
        serde_json::from_str(&config).unwrap()
    };
    // As the daemon's exporter writes it where it is told nothing.
    let told_nothing = config(&[]);
    assert_eq!(
        told_nothing["config"],
        json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        })
    );
    // Of each layer it says what made it: there are four file ops.
    assert_eq!(told_nothing["history"].as_array().unwrap().len(), 4);
    env.write(
        "config.json",
        r#"{"architecture":"arm64","os":"linux","config":{"Cmd":["/a"],"Labels":{"x":"y"}}}"#,
    );
    let given = config(&["--llb-config=config.json", "--label=z=1"]);
    assert_eq!(
        given["config"],
        json!({"Cmd": ["/a"], "Labels": {"x": "y", "z": "1"}})
    );
    assert_eq!(given["architecture"], "arm64");
    env.write("config.json", "[]");
    let wrong = build(&env, "merge", &["--llb-config=config.json"]);
    wrong.fails_with(str![[r#"
error: `config.json` is no image config
caused by: invalid type: sequence, expected a map at line 1 column 0
hint: wanted the JSON of the image-spec's config.md: `{"config":{"Cmd":["/app"]}}`
[exit status: 2]

"#]]);
}

#[test]
fn the_graph_of_a_dockerfile_builds_the_same_from_a_pipe() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox AS base\nRUN echo a > /a\nFROM base AS side\nRUN echo b > /b\nFROM base\nCOPY --from=side /b /c\n\
             COPY --chown=app f /f\nRUN --mount=type=cache,target=/cache,uid=5,mode=0700 ls -ld /cache > /d\n",
        )
        .file("f", "f\n");
    let built = ["build", "-q", "-o", "type=tar,dest=direct.tar", "."];
    env.rbuild(built).success();
    let mut dump = env.rbuild_command(["debug", "dump-llb", "--format=pb", "."]);
    let dumped = dump.stdin(Stdio::null()).output().unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    env.write("graph.pb", dumped.stdout);
    let child = env
        .rbuild_command([
            "build",
            "--progress=plain",
            "--llb=-",
            "-o",
            "type=tar,dest=piped.tar",
            ".",
        ])
        .stdin(File::open(env.path("graph.pb")).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let piped = env.finished(child).success();
    // They are the same steps: all of them have a result.
    let cached = piped
        .stderr
        .lines()
        .filter(|line| line.ends_with(" CACHED"));
    assert_eq!(cached.count(), 6, "{piped}");
    assert_eq!(
        fs::read(env.path("piped.tar")).unwrap(),
        fs::read(env.path("direct.tar")).unwrap()
    );
}
