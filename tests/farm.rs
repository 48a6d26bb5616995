//! `--builder`: a BuildKit daemon in the place of this machine. The daemon is that inside Debian's dockerd, which is old
//! (BuildKit 0.8): it has no merge, no patterns for copies, and sessions of its own kind. What goes wrong between a daemon
//! and us is `src/buildkit/tests.rs`, with a daemon that does it on purpose.

mod plans;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::Dockerd;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::tools;

/// Everything that a step may take of a context.
const DOCKERFILE: &str = r#"
FROM scratch AS made
COPY busybox /bin/sh
ENV WHAT=made
RUN --network=none --mount=type=bind,source=mounted,target=/m --mount=type=secret,id=word \
    --mount=type=cache,target=/cache,id=farm \
    read w < /run/secrets/word; read m < /m/file; echo $WHAT $w $m > /made; echo x > /cache/x
FROM scratch
COPY --link --from=made /made /made
COPY --chown=5:6 --chmod=640 one /
COPY tree /tree/
COPY link/file /linked
COPY t*/tool /
LABEL a=b
WORKDIR /srv
CMD ["/made"]
"#;

fn project() -> TestEnv {
    let env = TestEnv::new()
        .file("Dockerfile", DOCKERFILE)
        .file(".dockerignore", "tree/ignored\n")
        .file("one", "1")
        .file("unused", "nobody takes it")
        .file("mounted/file", "mount\n")
        .file("tree/deep/er/file", "deep")
        .file("tree/tool", "#!/bin/sh\n")
        .file("tree/ignored", "")
        .symlink("link", "tree/deep/er")
        .symlink("tree/dangling", "nowhere")
        .file("busybox", fs::read(tools::find("busybox")).unwrap());
    fs::write(env.outside("word"), "secret\n").unwrap();
    for (path, mode) in [
        ("busybox", 0o755),
        ("tree/tool", 0o751),
        ("tree/deep", 0o711),
    ] {
        fs::set_permissions(env.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(env.path("tree/tool"), env.path("tree/twin")).unwrap();
    env
}

fn address(env: &TestEnv) -> String {
    format!("docker://{}", env.outside("docker/socket").display())
}

/// All that two directories may differ in, but for times.
fn files(env: &TestEnv, dir: &str) -> Output {
    let script = r#"cd "$1" && find . -printf '%P %y %m %n %l\n' | sort && find . -type f -exec sha256sum {} + | sort"#;
    env.tool("sh", ["-c", script, "sh", dir])
}

#[test]
fn a_builder_makes_what_is_made_here() {
    let env = project();
    let docker = Dockerd::start(&env);
    let (builder, secret) = (address(&env), "id=word,src=../word");
    let there = ["--builder", &builder, "--secret", secret];
    env.rbuild(["--secret", secret, "-o", "../here", "."])
        .success();
    let first = env.rbuild(
        there
            .into_iter()
            .chain(["--progress", "plain", "-o", "../there", "."]),
    );
    let first = first.success();
    assert_eq!(
        files(&env, "../there").success().stdout,
        files(&env, "../here").success().stdout
    );
    first.says("[made 2/2] ");

    // The image is docker's own; its config is what it would be here.
    env.rbuild(["--secret", secret, "-t", "here", "."])
        .success();
    let again = ["--progress", "plain", "-t", "there", "."];
    let again = env.rbuild(there.into_iter().chain(again)).success();
    again.says("CACHED");
    let format =
        "{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Labels}} {{.Config.WorkingDir}}";
    let here = env.rbuild(["inspect", "--format", format, "here"]);
    let inspect = ["image", "inspect", "--format", format, "there"];
    assert_eq!(
        docker.client(&env, inspect).success().stdout,
        here.success().stdout
    );
}

#[test]
fn what_an_old_builder_cannot_do_is_said_before_it_runs() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY --exclude=b . /\n")
        .file("a", "")
        .file("b", "");
    let _docker = Dockerd::start(&env);
    env.rbuild(["--builder", &address(&env), "-o", "../there", "."])
        .code(3)
        .says("is too old for copying by patterns, which `[1/1] COPY --exclude=b . /` asks for");
    assert!(!env.outside("there").exists());
}

/// What is written down by `rbuild builder` is what builds use; the old daemon says what it lacks.
#[test]
fn builders_go_by_their_names() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY a /\n")
        .file("a", "");
    let _docker = Dockerd::start(&env);
    let address = address(&env);
    let create = ["builder", "create", "old", &address, "--use"];
    env.rbuild(create).success();
    env.rbuild(create)
        .code(2)
        .says("there is a builder `old` already");
    let inspected = env.rbuild(["builder", "inspect", "--bootstrap"]).success();
    for line in [
        "Status:    running",
        "Version:   BuildKit, older than 0.11",
        "Lacks:     `COPY --link` without copying (mergeop)",
        "Lacks:     copying by patterns (file.copy.includeexcludepatterns)",
    ] {
        assert!(inspected.stdout.contains(line), "{}", inspected.stdout);
    }
    let built = env.rbuild(["--progress", "plain", "-o", "../there", "."]);
    built.success().says(&format!("connecting to {address}"));
    assert!(env.outside("there/a").exists());

    // A second node, which is not there.
    let gone = format!("unix://{}", env.outside("none").display());
    env.rbuild([
        "builder", "create", "old", "--append", "--node", "gone", &gone,
    ])
    .success();
    env.rbuild(["builder", "inspect", "old", "--bootstrap"])
        .code(3)
        .says("of the builder `old` cannot be reached: `gone`");
    let built = env.rbuild(["-o", "../farm", "."]).success();
    built.says("was built on old0");
    assert!(env.outside("farm/a").exists());

    env.rbuild(["builder", "rm", "old"]).success();
    env.rbuild(["--builder", "old", "."])
        .code(2)
        .says("there is no builder `old`");
    env.rbuild(["-o", "../here", "."]).success();
    assert!(env.outside("here/a").exists());
}
