//! Wrong files, wrong inputs, wrong machines: one clear error, the right exit code, nothing half written, and a
//! store that still works. 2: the request or file is wrong; 3: the environment cannot do it; 1: a step failed.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use snapbox::IntoData;
use snapbox::str;

use crate::support::Base;
use crate::support::Gate;
use crate::support::Image;
use crate::support::Output;
use crate::support::Registry;
use crate::support::TestEnv;

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
    check_file("FROM scratch\nCOPPY there /\n", str![]);
}

#[test]
fn missing_file() {
    check_file("FROM scratch\nCOPY there gone /dir/\n", str![]);
}

#[test]
fn file_hidden_by_dockerignore() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY app.py /\n")
        .file("app.py", "")
        .file(".dockerignore", "# comment\n*.py\n");
    check(&env, 2, str![], |env| {
        env.write(".dockerignore", "*.py\n!app.py\n")
    });
}

#[test]
fn from_a_stage_that_is_not_there() {
    check_file("FROM scratch\nCOPY --from=5 /a /\n", str![]);
}

#[test]
fn stage_cycle() {
    check_file(
        "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nCOPY --from=a / /\n",
        str![],
    );
}

#[test]
fn stage_from_itself() {
    check_file("FROM scratch AS a\nCOPY --from=a / /\n", str![]);
}

#[test]
fn empty_file() {
    check_file("", str![]);
    check_file("# only a comment\n", str![]);
}

#[test]
fn no_from() {
    check_file("RUN true\n", str![]);
}

#[test]
fn unknown_target() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch AS build\nCOPY there /\n")
        .file("there", "");
    env.rbuild(["--target=biuld", "."])
        .code(2)
        .fails_with(str![]);
}

#[test]
fn no_dockerfile() {
    let env = TestEnv::new();
    env.rbuild(["."]).code(2).fails_with(str![]);
    env.rbuild(["-f", "no/such", "."])
        .code(2)
        .fails_with(str![]);
    env.rbuild(["no/context"]).code(2).fails_with(str![]);
}

/// All problems of a file at once.
#[test]
fn several_problems() {
    check_file(
        "FORM scratch\nFROM scratch\nCOPY --form=x a b\nEXPOSE 99999999\n",
        str![],
    );
}

#[test]
fn image_that_does_not_exist() {
    let image = format!("{}/no/such:1", Registry::shared().host());
    let env = TestEnv::new()
        .file("Dockerfile", format!("FROM {image}\n"))
        .file("there", "");
    check(&env, 3, str![], |env| {
        env.write("Dockerfile", "FROM scratch\nCOPY there /\n")
    });
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
    check(&env, 3, str![], |env| {
        env.write("Dockerfile", "FROM scratch\nCOPY there /\n")
    });
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
    check(&env, 3, str![], |_| fs::write(&blob, &whole).unwrap());
}

#[test]
fn truncated_blob() {
    let (_registry, env, whole, blob) = damaged_registry();
    fs::write(&blob, &whole[..whole.len() - 1000]).unwrap();
    check(&env, 3, str![], |_| fs::write(&blob, &whole).unwrap());
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
    env.rbuild([&context, "."]).code(3).fails_with(str![]);
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
    check(&env, 2, str![], |env| {
        env.write("Dockerfile", "FROM scratch\nCOPY ../there /\n")
    });

    let env = env.symlink("up", "..").symlink("absolute", "/etc");
    for source in ["up/secret", "absolute/passwd"] {
        env.write("Dockerfile", format!("FROM scratch\nCOPY {source} /\n"));
        build(&env).code(2).says(source);
    }
}

#[test]
fn dockerfile_through_a_link_out_of_the_context() {
    let env = TestEnv::new().symlink("Dockerfile", "../elsewhere");
    fs::write(
        env.outside("elsewhere"),
        "FROM scratch\nCOPY Dockerfile /\n",
    )
    .unwrap();
    // docker reads it too: the file is named by the user, not by what is built. The image gets the link.
    env.rbuild(["-o", "out", "."]).success();
    assert_eq!(
        fs::read_link(env.path("out/Dockerfile")).unwrap().to_str(),
        Some("../elsewhere")
    );
}

#[test]
fn special_file() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY . /\n");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        env.path("pipe"),
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .unwrap();
    check(&env, 2, str![], |env| {
        fs::remove_file(env.path("pipe")).unwrap()
    });
}

#[test]
fn unreadable_file() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY . /\n")
        .file("private", "x");
    let set =
        |mode| fs::set_permissions(env.path("private"), fs::Permissions::from_mode(mode)).unwrap();
    set(0);
    check(&env, 2, str![], |_| set(0o600));
}

/// The step waits while the file is changed, so it changes after it was looked at and before its bytes are taken.
#[test]
fn file_that_changes_during_the_build() {
    let gate = Gate::new();
    let env = TestEnv::new().bases([Base::Busybox]).file("data", "before").file(
        "Dockerfile",
        format!("FROM busybox AS wait\nRUN {}; touch /done\nFROM scratch\nCOPY --from=wait /done /\nCOPY data /\n", gate.pass()),
    );
    let build = env
        .rbuild_command(["--iidfile", "iid", "-o", "type=oci,dest=out.tar", "."])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let waiting = gate.wait();
    OpenOptions::new()
        .write(true)
        .open(env.path("data"))
        .unwrap()
        .write_all(b"after!")
        .unwrap();
    waiting.go_on();
    let output = env.finished(build).code(1);
    assert!(!env.path("iid").exists() && !env.path("out.tar").exists());
    output.fails_with(str![]);
    // The same build again, with the file at rest.
    build_with_content(&env, "after!");
}

#[track_caller]
fn build_with_content(env: &TestEnv, content: &str) {
    env.rbuild(["-o", "out", "."]).success();
    assert_eq!(fs::read_to_string(env.path("out/data")).unwrap(), content);
}

/// A command line for a shell that has a mount namespace of its own, with `$RBUILD` and the store's path.
fn in_namespace(env: &TestEnv, options: &[&str], script: &str) -> Command {
    fs::create_dir_all(env.store()).unwrap();
    let mut command = env.tool_command("unshare");
    command
        .args(["--user", "--mount"])
        .args(options)
        .args(["--", "/bin/sh", "-c", script])
        .env("RBUILD", env!("CARGO_BIN_EXE_rbuild"));
    command
}

#[test]
fn full_disk() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY noise /\n")
        .file("noise", noise(8 << 20));
    let script = r#"
        mount -t tmpfs -o size=2m none "$RBUILD_ROOT"
        "$RBUILD" -q -t app -o type=image --iidfile iid .
        echo "full: $?"
        ls iid
        mount -o remount,size=64m "$RBUILD_ROOT"
        "$RBUILD" -q -t app . | cut -c 1-7
    "#;
    env.run(&mut in_namespace(&env, &["--map-root-user"], script))
        .success()
        .is(str![]);
}

/// Bytes that do not compress: xorshift.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

#[test]
fn read_only_store() {
    let env = TestEnv::new().context("hello");
    let script = r#"
        mount -t tmpfs none "$RBUILD_ROOT"
        mount -o remount,ro "$RBUILD_ROOT"
        "$RBUILD" -q .
    "#;
    env.run(&mut in_namespace(&env, &["--map-root-user"], script))
        .code(3)
        .is(str![]);
}

#[test]
fn another_users_store() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY there /\n")
        .file("there", "");
    env.rbuild(["-q", "."]).success();
    let chown = |owner: &str| {
        env.tool(
            "unshare",
            [
                "--map-root-user",
                "--map-auto",
                "chown",
                "-R",
                owner,
                env.store().to_str().unwrap(),
            ],
        )
        .success();
    };
    chown("1:1");
    env.rbuild(["-q", "."]).code(3).is(str![]);
    chown("0:0");
    env.rbuild(["-q", "."]).success();
}

/// No user namespace can be made: copies still work, and a RUN is refused with what to do about it.
#[test]
fn no_user_namespaces() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nCOPY there /\n")
        .file("there", "");
    let script = r#"
        echo 0 > /proc/sys/user/max_user_namespaces
        exec setpriv --inh-caps=-all --ambient-caps=-all "$RBUILD" -q .
    "#;
    let options = ["--map-user=1000", "--map-group=1000", "--keep-caps"];
    env.run(&mut in_namespace(&env, &options, script)).success();
    env.write("Dockerfile", "FROM busybox\nCOPY there /\nRUN true\n");
    env.run(&mut in_namespace(&env, &options, script))
        .code(3)
        .is(str![]);
    env.rbuild(["-q", "."]).success();
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
    check(&env, 1, str![], |env| {
        env.write("Dockerfile", "FROM busybox\nRUN true\n")
    });
}

#[test]
fn step_that_is_killed() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN kill -9 $$\n");
    check(&env, 1, str![], |env| {
        env.write("Dockerfile", "FROM busybox\nRUN true\n")
    });
}

#[test]
fn command_that_is_not_there() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN [\"/bin/nothing\"]\n");
    check(&env, 1, str![], |env| {
        env.write("Dockerfile", "FROM busybox\nRUN true\n")
    });
}

#[test]
fn wrong_flags() {
    let env = TestEnv::new().context("hello");
    env.rbuild(["--no-such-flag", "."])
        .code(2)
        .fails_with(str![]);
    env.rbuild(["-o", "type=zip", "."])
        .code(2)
        .fails_with(str![]);
    env.rbuild(["-t", "Not A Name", "."])
        .code(2)
        .fails_with(str![]);
    env.rbuild(["--platform=plan9/vax/1/2", "."])
        .code(2)
        .fails_with(str![]);
}
