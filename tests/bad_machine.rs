//! Machines that cannot do it: one clear error, exit code 3, nothing half written, and a store that still works.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use snapbox::str;

use crate::support::Base;
use crate::support::TestEnv;

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
        test ! -e iid && find "$RBUILD_ROOT" -size +0 -name ".aside*"
        mount -t tmpfs -o remount,size=64m none "$RBUILD_ROOT"
        "$RBUILD" -q -t app . | cut -c 1-7
    "#;
    env.run(&mut in_namespace(&env, &["--map-root-user"], script))
        .success()
        .is(str![[r#"
full: 3
sha256:
---- stderr ----
error: cannot write the layer's blob
caused by: No space left on device (os error 28)
hint: the disk of the store `[ROOT]/state/v1` is full: `rbuild prune` frees what can be made again, `--root` chooses another place

"#]]);
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
        mount -t tmpfs -o remount,ro none "$RBUILD_ROOT"
        "$RBUILD" -q .
    "#;
    env.run(&mut in_namespace(&env, &["--map-root-user"], script))
        .code(3)
        .is(str![[r#"
---- stderr ----
error: cannot create a directory in `[ROOT]/state` in the store: the file system is read-only (choose another place with `--root`)
caused by: read-only filesystem or storage medium
[exit status: 3]

"#]]);
}

#[test]
fn another_users_store() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY there /\n")
        .file("there", "");
    env.rbuild(["-q", "."]).success();
    let chown = |owner: &str, path: &str| {
        let path = env.outside(path);
        let path = path.to_str().unwrap();
        let options = ["--map-root-user", "--map-auto", "chown", "-R"];
        env.tool("unshare", options.iter().chain([&owner, &path]))
            .success();
    };
    let user = rustix::process::geteuid().as_raw();
    let refused = |root: &Path, said: String| {
        let root = root.to_str().unwrap();
        let output = env.rbuild(["-q", "--root", root, "."]).code(3);
        assert_eq!(output.stderr, format!("error: the store `{root}` {said}\n"));
    };
    let elsewhere = "choose another with `--root`";
    chown("1:1", "state");
    let owner = fs::metadata(env.store()).unwrap().uid();
    refused(
        &env.store(),
        format!("belongs to user {owner}, and this is user {user}: {elsewhere}"),
    );
    chown("0:0", "state");
    env.rbuild(["-q", "."]).success();

    // A store within somebody else's home.
    let home = env.outside("tmp");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    chown("1:1", "tmp");
    refused(
        &home.join("share/rbuild"),
        format!(
            "cannot be reached: `{}` belongs to user {owner} and is closed to user {user}: {elsewhere}",
            home.display()
        ),
    );
    chown("0:0", "tmp");
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
        .is(str![[r#"
---- stderr ----
error: cannot run steps here: the kernel refuses a user namespace: No space left on device (os error 28)
 --> Dockerfile:3:1
  |
3 | RUN true
  | ^^^^^^^^
  |
hint: sudo sysctl user.max_user_namespaces=10000
[exit status: 3]

"#]]);
    env.rbuild(["-q", "."]).success();
}
