//! Wrong files, wrong inputs, steps that fail: one clear error, the right exit code, nothing half written, and a
//! store that still works. 2: the request or file is wrong; 3: the environment cannot do it; 1: a step failed.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use rustix::fs::FileType;
use snapbox::IntoData;
use snapbox::str;

use crate::support::Base;
use crate::support::Gate;
use crate::support::Image;
use crate::support::Output;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::list_tar;

/// Builds to an archive and an image id file, neither of which a failure may leave behind.
fn build(env: &TestEnv) -> Output {
    env.rbuild(["--iidfile", "iid", "-o", "type=oci,dest=out.tar", "."])
}

/// Fails in the way the snapshot shows, leaves nothing, and builds again once `mend` has put things right.
#[track_caller]
fn check(env: &TestEnv, code: i32, expected: impl IntoData, mend: impl FnOnce(&TestEnv)) {
    let output = build(env).code(code);
    assert!(!output.stderr.contains("panicked"), "{output}");
    let left: Vec<_> = ["iid", "out.tar"]
        .into_iter()
        .filter(|name| env.path(name).exists())
        .collect();
    assert!(left.is_empty(), "{left:?} left behind:\n{output}");
    output.fails_with(expected);
    mend(env);
    build(env).success();
}

/// A wrong Dockerfile, mended by a right one.
#[track_caller]
fn check_file(dockerfile: &str, expected: impl IntoData) {
    let env = TestEnv::new()
        .file("Dockerfile", dockerfile)
        .file("there", "x");
    check(&env, 2, expected, |env| {
        env.write("Dockerfile", "FROM scratch\nCOPY there /\n")
    });
}

#[test]
fn unknown_instruction() {
    check_file(
        "FROM scratch\nCOPPY there /\n",
        str![[r#"
error: unknown instruction `COPPY`
 --> Dockerfile:2:1
  |
2 | COPPY there /
  | ^^^^^
  |
hint: did you mean `COPY`?
[exit status: 2]

"#]],
    );
}

#[test]
fn missing_file() {
    check_file(
        "FROM scratch\nCOPY there gone /dir/\n",
        str![[r#"
error: `COPY` source `gone` is not in the build context
 --> Dockerfile:2:12
  |
2 | COPY there gone /dir/
  |            ^^^^ nothing matches
[exit status: 2]

"#]],
    );
}

#[test]
fn file_hidden_by_dockerignore() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY app.py /\n")
        .file("app.py", "")
        .file(".dockerignore", "# comment\n*.py\n");
    check(
        &env,
        2,
        str![[r#"
error: `COPY` source `app.py` is not in the build context
 --> Dockerfile:2:6
  |
2 | COPY app.py /
  |      ^^^^^^ nothing matches after `.dockerignore`
  |
hint: `.dockerignore:2` excludes `*.py`; add `!app.py` after it to keep the file
[exit status: 2]

"#]],
        |env| env.write(".dockerignore", "*.py\n!app.py\n"),
    );
}

#[test]
fn from_a_stage_that_is_not_there() {
    check_file(
        "FROM scratch\nCOPY --from=5 /a /\n",
        str![[r#"
error: invalid stage index 5
 --> Dockerfile:2:13
  |
2 | COPY --from=5 /a /
  |             ^ the stages are numbered 0 to 0
[exit status: 2]

"#]],
    );
}

#[test]
fn stage_cycle() {
    check_file(
        "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nCOPY --from=a / /\n",
        str![[r#"
error: circular dependency detected on stage `a`: a → b → a
 --> Dockerfile:2:13
  |
2 | COPY --from=b / /
  |             ^ `a` needs `b`
3 | FROM scratch AS b
4 | COPY --from=a / /
  |             - `b` needs `a`
[exit status: 2]

"#]],
    );
}

#[test]
fn stage_from_itself() {
    check_file(
        "FROM scratch AS a\nCOPY --from=a / /\n",
        str![[r#"
error: circular dependency detected on stage `a`: a → a
 --> Dockerfile:2:13
  |
2 | COPY --from=a / /
  |             ^ `a` needs `a`
[exit status: 2]

"#]],
    );
}

#[test]
fn empty_file() {
    check_file(
        "",
        str![[r#"
error: file with no instructions
 --> Dockerfile:1:1
  |
1 |
  | ^
  |
hint: start with `FROM <image>`
[exit status: 2]

"#]],
    );
    check_file(
        "# only a comment\n",
        str![[r#"
error: file with no instructions
 --> Dockerfile:1:1
  |
1 | # only a comment
  | ^
  |
hint: start with `FROM <image>`
[exit status: 2]

"#]],
    );
}

#[test]
fn no_from() {
    check_file(
        "RUN true\n",
        str![[r#"
error: no build stage in current context
 --> Dockerfile:1:1
  |
1 | RUN true
  | ^^^ before the first `FROM`
  |
hint: only `ARG` may stand before the first `FROM`
[exit status: 2]

"#]],
    );
}

#[test]
fn unknown_target() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch AS build\nCOPY there /\n")
        .file("there", "");
    env.rbuild(["--target=biuld", "."])
        .code(2)
        .fails_with(str![[r#"
error: target stage `biuld` could not be found
 --> Dockerfile:1:1
  |
1 | FROM scratch AS build
  | ^^^^^^^^^^^^^^^^^^^^^ the last of the stages
  |
hint: did you mean `build`?
[exit status: 2]

"#]]);
}

#[test]
fn no_dockerfile() {
    let env = TestEnv::new();
    env.rbuild(["."]).code(2).fails_with(str![[r#"
error: there is none of `rbuild.toml`, `Dockerfile`, `Containerfile` in `.`
hint: name the file with `-f`
[exit status: 2]

"#]]);
    env.rbuild(["-f", "no/such", "."])
        .code(2)
        .fails_with(str![[r#"
error: `no/such` does not exist
hint: `-f` is taken from the working directory, not from the context
[exit status: 2]

"#]]);
    env.rbuild(["no/context"]).code(2).fails_with(str![[r#"
error: the build context `no/context` does not exist
[exit status: 2]

"#]]);
}

/// All problems of a file at once.
#[test]
fn several_problems() {
    check_file(
        "FORM scratch\nFROM scratch\nCOPY --form=x a b\nEXPOSE 99999999\n",
        str![[r#"
error: unknown instruction `FORM`
 --> Dockerfile:1:1
  |
1 | FORM scratch
  | ^^^^
  |
hint: did you mean `FROM`?

error: unknown flag `--form`
 --> Dockerfile:3:6
  |
3 | COPY --form=x a b
  |      ^^^^^^^^
  |
hint: did you mean `--from`?
[exit status: 2]

"#]],
    );
}

#[test]
fn image_that_does_not_exist() {
    let image = format!("{}/no/such:1", Registry::shared().host());
    let env = TestEnv::new()
        .file("Dockerfile", format!("FROM {image}\n"))
        .file("there", "");
    check(
        &env,
        3,
        str![[r#"
error: `127.0.0.1:[PORT]` has no `127.0.0.1:[PORT]/no/such:1`: manifest unknown
 --> Dockerfile:1:6
  |
1 | FROM 127.0.0.1:[PORT]/no/such:1
  |      ^^^^^^^^^^^^^^^^^^^^^^^^^
[exit status: 3]

"#]],
        |env| env.write("Dockerfile", "FROM scratch\nCOPY there /\n"),
    );
}

#[test]
fn registry_that_does_not_answer() {
    // Bound and not listening: nobody else gets the port, and connections are refused.
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(
        &socket,
        &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0),
    )
    .unwrap();
    let address =
        std::net::SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let env = TestEnv::new()
        .file("Dockerfile", format!("FROM {address}/some/image:1\n"))
        .file("there", "");
    check(
        &env,
        3,
        str![[r#"
error: `127.0.0.1:[PORT]` cannot be reached
 --> Dockerfile:1:6
  |
1 | FROM 127.0.0.1:[PORT]/some/image:1
  |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ io: Connection refused (os error 111)
  |
hint: proxies are taken from HTTPS_PROXY and HTTP_PROXY; `--offline` builds with what is there already; `[registry."127.0.0.1:[PORT]"] mirrors` in config.toml names other hosts
[exit status: 3]

"#]],
        |env| env.write("Dockerfile", "FROM scratch\nCOPY there /\n"),
    );
}

/// A registry of its own with busybox, and a build that needs every file of it.
fn damaged_registry() -> (Registry, TestEnv, Vec<u8>, std::path::PathBuf) {
    let registry = Registry::start();
    Base::Busybox.publish(&registry);
    let layer = Image::from_layout(&Base::Busybox.layout())
        .layers()
        .remove(0);
    let blob = registry.blob(&layer);
    let whole = fs::read(&blob).unwrap();
    let file = format!("FROM {}/library/busybox\nRUN true\n", registry.host());
    (
        registry,
        TestEnv::new().file("Dockerfile", file),
        whole,
        blob,
    )
}

#[test]
fn digest_mismatch() {
    let (_registry, env, whole, blob) = damaged_registry();
    let mut other = whole.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    fs::write(&blob, other).unwrap();
    check(
        &env,
        3,
        str![[r#"
error: a layer of `127.0.0.1:[PORT]/library/busybox:latest` cannot be used
 --> Dockerfile:1:1
  |
1 | FROM 127.0.0.1:[PORT]/library/busybox
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `[DIGEST]` should have digest [DIGEST], but has [DIGEST]
[exit status: 3]

"#]],
        |_| fs::write(&blob, &whole).unwrap(),
    );
}

#[test]
fn truncated_blob() {
    let (_registry, env, whole, blob) = damaged_registry();
    fs::write(&blob, &whole[..whole.len() - 1000]).unwrap();
    check(
        &env,
        3,
        str![[r#"
error: a layer of `127.0.0.1:[PORT]/library/busybox:latest` cannot be used
 --> Dockerfile:1:1
  |
1 | FROM 127.0.0.1:[PORT]/library/busybox
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `[DIGEST]` should have 1088015 bytes, but has 1087015
  |
hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
[exit status: 3]

"#]],
        |_| fs::write(&blob, &whole).unwrap(),
    );
}

#[test]
fn damaged_image_layout() {
    let env = TestEnv::new().file("Dockerfile", "FROM base\nRUN true\n");
    Base::Busybox.copy_to(&format!("oci:{}:latest", env.outside("layout").display()));
    let layer = Image::from_layout(&env.outside("layout")).layer_blob(0);
    let whole = fs::read(&layer).unwrap();
    fs::write(&layer, &whole[1..]).unwrap();
    let context = format!(
        "--build-context=base=oci-layout://{}",
        env.outside("layout").display()
    );
    env.rbuild([&context, "."]).code(3).fails_with(str![[r#"
error: a layer of `oci-layout://[ROOT]/layout` cannot be used
 --> Dockerfile:1:1
  |
1 | FROM base
  | ^^^^^^^^^ `[DIGEST]` should have 1088015 bytes, but has 1088014
  |
hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
[exit status: 3]

"#]]);
    fs::write(&layer, &whole).unwrap();
    env.rbuild([&context, "."]).success();
}

/// Paths are confined to the context: `..` stops at it, and a link means what it would mean with the context as `/`.
#[test]
fn paths_do_not_leave_the_context() {
    let env = TestEnv::new()
        .file("there", "x")
        .file("Dockerfile", "FROM scratch\nCOPY ../secret /\n");
    fs::write(env.outside("secret"), "outside").unwrap();
    check(
        &env,
        2,
        str![[r#"
error: `COPY` source `../secret` is not in the build context
 --> Dockerfile:2:6
  |
2 | COPY ../secret /
  |      ^^^^^^^^^ nothing matches
  |
hint: `..` stops at the context: `../secret` is `/secret` in it. Files from elsewhere take `--build-context NAME=DIR` and `--from=NAME`
[exit status: 2]

"#]],
        |env| env.write("Dockerfile", "FROM scratch\nCOPY ../there /\n"),
    );

    let env = env.symlink("up", "..").symlink("absolute", "/etc");
    for source in ["up/secret", "absolute/passwd"] {
        env.write("Dockerfile", format!("FROM scratch\nCOPY {source} /\n"));
        build(&env).code(2).says(source);
    }
}

/// The file to build from is named by the user, not by what is built: it may lie anywhere. Its link is copied as one.
#[test]
fn dockerfile_through_a_link_out_of_the_context() {
    let env = TestEnv::new().symlink("Dockerfile", "../elsewhere");
    fs::write(env.outside("elsewhere"), "FROM scratch\nCOPY . /\n").unwrap();
    env.rbuild(["-o", "out", "."]).success();
    assert_eq!(
        fs::read_link(env.path("out/Dockerfile")).unwrap().to_str(),
        Some("../elsewhere")
    );
}

/// As BuildKit does: a pipe is copied as one, and never opened; a socket is left out.
#[test]
fn special_files() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY . /\n")
        .file(".dockerignore", "Dockerfile\n");
    for (name, kind) in [("pipe", FileType::Fifo), ("socket", FileType::Socket)] {
        rustix::fs::mknodat(rustix::fs::CWD, env.path(name), kind, 0o644.into(), 0).unwrap();
    }
    env.rbuild(["-o", "type=tar,dest=out.tar", "."]).success();
    let found: Vec<String> = list_tar(&env.path("out.tar"))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        found.contains(&"prw-r--r-- 0/0 pipe".to_owned()),
        "{found:?}"
    );
    assert!(
        found.iter().all(|entry| !entry.contains("socket")),
        "{found:?}"
    );
}

/// A file the user may not read is refused before anything runs, whether it could be read earlier or not, and though
/// the user namespace of a RUN has power over it: a file of mode 0, or one of another user whose id is mapped there.
#[test]
fn unreadable_file() {
    let env = TestEnv::new().bases([Base::Busybox]).file("private", "x");
    let set = |mode: &str, owner: &str| {
        let script = format!("chown {owner} private && chmod {mode} private");
        let options = ["--map-root-user", "--map-auto", "sh", "-c", &script];
        env.tool("unshare", options).success();
    };
    for (mode, owner) in [("0", "0"), ("600", "1")] {
        for step in ["", "RUN cat /private"] {
            let unique = format!("LABEL now={mode}{step:?}");
            env.write(
                "Dockerfile",
                format!("FROM busybox\n{unique}\nCOPY . /\n{step}\n"),
            );
            let refused = || {
                let output = build(&env).code(2);
                assert!(!env.path("iid").exists() && !env.path("out.tar").exists());
                assert_eq!(output.ran(), [""; 0], "{output}");
                output.fails_with(str![[r#"
error: `./private` cannot be read: add it to `.dockerignore` if the build does not need it
caused by: Permission denied (os error 13)
[exit status: 2]

"#]]);
            };
            set(mode, owner);
            refused();
            set("600", "0");
            build(&env).success();
            for made in ["iid", "out.tar"] {
                fs::remove_file(env.path(made)).unwrap();
            }
            set(mode, owner);
            refused();
        }
    }
    set("600", "0");
}

#[test]
fn file_that_changes_during_the_build() {
    let write = |path: &Path| {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(b"after!").unwrap();
    };
    change_during_the_build(
        &write,
        str![[r#"
error: `./data` changed while it was read
 --> Dockerfile:5:1
  |
5 | COPY data /
  | ^^^^^^^^^^^
  |
hint: build again once nothing writes to it, or add it to `.dockerignore`
[exit status: 1]

"#]],
    );
}

#[test]
fn file_that_goes_away_during_the_build() {
    change_during_the_build(
        &|path| fs::remove_file(path).unwrap(),
        str![[r#"
error: `./data` changed while it was read
 --> Dockerfile:5:1
  |
5 | COPY data /
  | ^^^^^^^^^^^ No such file or directory (os error 2)
  |
hint: build again once nothing writes to it, or add it to `.dockerignore`
[exit status: 1]

"#]],
    );
}

/// A step waits while the file is changed, so it changes after it was looked at and before its bytes are taken: for the
/// image, or for a step that needs it.
#[track_caller]
fn change_during_the_build(change: &dyn Fn(&Path), expected: impl IntoData + Clone) {
    for last in ["USER nobody", "RUN cat /data"] {
        let gate = Gate::new();
        let env = TestEnv::new().bases([Base::Busybox]).file("data", "before").file(
            "Dockerfile",
            format!(
                "FROM busybox AS wait\nRUN {}; touch /done\nFROM busybox\nCOPY --from=wait /done /\nCOPY data /\n{last}\n",
                gate.pass()
            ),
        );
        let build = env
            .rbuild_command(["--iidfile", "iid", "-o", "type=oci,dest=out.tar", "."])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let waiting = gate.wait();
        change(&env.path("data"));
        waiting.go_on();
        let output = env.finished(build).code(1);
        assert!(!env.path("iid").exists() && !env.path("out.tar").exists());
        output.fails_with(expected.clone());
        // The same build again, with the file at rest.
        env.write("data", "after!");
        build_with_content(&env, "after!");
    }
}

#[track_caller]
fn build_with_content(env: &TestEnv, content: &str) {
    env.rbuild(["-o", "out", "."]).success();
    assert_eq!(fs::read_to_string(env.path("out/data")).unwrap(), content);
}

#[test]
fn failing_step() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox\nCOPY there /\nRUN echo to stdout; echo to stderr >&2; exit 42\n",
        )
        .file("there", "");
    check(
        &env,
        1,
        str![[r#"
error: `[3/3] RUN echo to stdout; echo to stderr >&2; exit 42` failed: exit code: 42
 --> Dockerfile:3:1
  |
3 | RUN echo to stdout; echo to stderr >&2; exit 42
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ exit code: 42

the last 2 lines of its output:
  [TIME] to stdout
  [TIME] to stderr

hint: steps before it are kept: the same command goes on from here
[exit status: 1]

"#]],
        |env| env.write("Dockerfile", "FROM busybox\nRUN true\n"),
    );
}

#[test]
fn step_that_is_killed() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n",
    );
    check(
        &env,
        1,
        str![[r#"
error: `[2/2] RUN sh -c 'kill -9 $$'; exit $?` failed: exit code: 137
 --> Dockerfile:2:1
  |
2 | RUN sh -c 'kill -9 $$'; exit $?
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ exit code: 137

the last line of its output:
  [TIME] Killed

hint: steps before it are kept: the same command goes on from here
[exit status: 1]

"#]],
        |env| env.write("Dockerfile", "FROM busybox\nRUN true\n"),
    );
}

#[test]
fn command_that_is_not_there() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN [\"/bin/nothing\"]\n");
    check(
        &env,
        1,
        str![[r#"
error: `[2/2] RUN ["/bin/nothing"]` failed: `/bin/nothing` was not found in the file system of the step
 --> Dockerfile:2:1
  |
2 | RUN ["/bin/nothing"]
  | ^^^^^^^^^^^^^^^^^^^^ `/bin/nothing` was not found in the file system of the step

it printed nothing

hint: steps before it are kept: the same command goes on from here
[exit status: 1]

"#]],
        |env| env.write("Dockerfile", "FROM busybox\nRUN true\n"),
    );
}

#[test]
fn wrong_flags() {
    let env = TestEnv::new().context("hello");
    env.rbuild(["--no-such-flag", "."])
        .code(2)
        .fails_with(str![[r#"
error: unexpected argument '--no-such-flag' found

  tip: a similar argument exists: '--no-cache-filter'

Usage: rbuild build --no-cache-filter <STAGE,…> [CONTEXT]...

For more information, try '--help'.
[exit status: 2]

"#]]);
    env.rbuild(["-o", "type=zip", "."])
        .code(2)
        .fails_with(str![[r#"
error: `--output type=zip`: there is no output type `zip`
hint: the types are `image`, `registry`, `oci`, `docker`, `tar`, `local` and `cacheonly`
[exit status: 2]

"#]]);
    env.rbuild(["-t", "Not A Name", "."])
        .code(2)
        .fails_with(str![[r#"
error: `--tag`: `Not A Name` is not an image reference: a repository is written in lower case
[exit status: 2]

"#]]);
    env.rbuild(["--platform=plan9/vax/1/2", "."])
        .code(2)
        .fails_with(str![[r#"
error: `--platform plan9/vax/1/2`: `plan9/vax/1/2` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
[exit status: 2]

"#]]);
}
