//! Machines that cannot do it: one clear error, exit code 3, nothing half written, and a store that still works.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use snapbox::str;

use crate::support::Base;
use crate::support::Image;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::list_tar;

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

/// What was there stays, nothing half written is left, and it is not the store's disk that is to be made room on.
#[test]
fn full_disk_of_an_output() {
    let dockerfile = "FROM scratch\nCOPY noise /\n";
    let env = TestEnv::new()
        .file("Dockerfile", dockerfile)
        .file("noise", noise(4 << 20))
        .file("before/Dockerfile", dockerfile)
        .file("before/noise", "before\n");
    let script = r#"
        mkdir out && mount -t tmpfs -o size=2m none out
        "$RBUILD" -q -o out before
        for output in local,dest=out oci,dest=out/x.tar docker,dest=out/x.tar tar,dest=out/x.tar; do
            "$RBUILD" --progress=none -o "type=$output" . 2>&1
            echo "$output: $?"
        done
        "$RBUILD" --progress=none -o type=oci . 2>&1 >out/redirected
        rm out/redirected
        ls -A out && cat out/noise
    "#;
    env.run(&mut in_namespace(&env, &["--map-root-user"], script))
        .success()
        .is(str![[r#"
error: cannot write `out/noise`
caused by: No space left on device (os error 28)
local,dest=out: 3
error: cannot write `out/x.tar`
caused by: No space left on device (os error 28)
oci,dest=out/x.tar: 3
error: cannot write `out/x.tar`
caused by: No space left on device (os error 28)
docker,dest=out/x.tar: 3
error: cannot write `out/x.tar`
caused by: No space left on device (os error 28)
tar,dest=out/x.tar: 3
error: cannot write to standard output
caused by: No space left on device (os error 28)
noise
before

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

/// All but executing a RUN: copies, archives, cached steps and what is copied from them, every way in and out.
#[test]
fn without_user_namespaces_all_else_works() {
    let registry = Registry::start();
    let app = format!("{}/app:1", registry.host());
    let dockerfile = "FROM busybox AS made
RUN echo made > /made && mkdir /dir && echo f > /dir/f
FROM busybox
COPY --from=made /dir /dir
RUN touch -d @1500000000 /seen
";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", dockerfile)
        .file("packed/there", "there\n");
    let owner = ["--owner=7", "--group=8"];
    env.tool(
        "tar",
        [owner[0], owner[1], "-czf", "packed.tar.gz", "packed"],
    )
    .success();
    let first = env.rbuild(["-q", "-t", "app", "."]).success().stdout;
    // What is new takes no process: it stands on what is cached.
    let more = "COPY --chown=5:7 packed/there /copied\nADD packed.tar.gz /added/\nWORKDIR /dir/of/its\nENV A=b\n";
    env.write("more", format!("{dockerfile}{more}"));
    let script = r#"
        echo 0 > /proc/sys/user/max_user_namespaces
        exec setpriv --inh-caps=-all --ambient-caps=-all /bin/sh -ec '
            "$RBUILD" -q -t app .
            "$RBUILD" build --progress=plain -t "$APP" -f more -o type=image -o type=oci,dest=more.tar . 2>said
            ! grep -q "error" said || cat said
            "$RBUILD" push -q "$APP"
            "$RBUILD" save -o saved.tar "$APP"
            "$RBUILD" rmi "$APP"
            "$RBUILD" pull -q "$APP"
            "$RBUILD" build -q -f more -o type=local,dest=../out .
            printf "FROM %s\nCOPY packed /more/\n" "$APP" > on
            "$RBUILD" build -q -f on -o type=tar,dest=on.tar .
        '
    "#;
    // The same user: what the others wrote is his.
    let user = format!("--map-user={}", rustix::process::geteuid().as_raw());
    let group = format!("--map-group={}", rustix::process::getegid().as_raw());
    let options = [&*user, &*group, "--keep-caps"];
    let mut command = in_namespace(&env, &options, script);
    let said = env.run(command.env("APP", &app)).success();
    assert!(said.stdout.starts_with(&first), "cached: {said}");
    // The same, as others read it.
    let built = Image::from_oci_tar(&env, "more.tar");
    let added: Vec<String> = (-3..0)
        .flat_map(|at| built.layer(at))
        .map(|entry| format!("{} {}", entry.owner, entry.path))
        .collect();
    for entry in ["5/7 copied", "7/8 added/packed/there", "0/0 dir/of/its"] {
        assert!(
            added.iter().any(|found| found == entry),
            "{entry}: {added:?}"
        );
    }
    let place = format!("docker://{app}");
    let pushed = env.tool(
        "skopeo",
        ["inspect", "--config", "--tls-verify=false", &place],
    );
    let pushed: Value = serde_json::from_str(&pushed.success().stdout).unwrap();
    assert_eq!(pushed["config"]["WorkingDir"], "/dir/of/its");
    assert_eq!(fs::read_to_string(env.outside("out/dir/f")).unwrap(), "f\n");
    assert_eq!(
        fs::read_to_string(env.outside("out/added/packed/there")).unwrap(),
        "there\n"
    );
    let names: Vec<String> = list_tar(&env.path("on.tar"))
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    for name in ["more/there", "copied", "seen"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
}

/// As on Ubuntu 23.10 and later for a program without a profile: a namespace is made, and has no power, so that the first
/// thing refused is its map of ids. Imitated: the kernel's switch is a file of ours, and nothing in /proc can be written to.
#[test]
fn user_namespaces_without_power() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN true\n");
    let refuse = |switch: &str| {
        let script = format!(
            r#"
            mount -t tmpfs none /proc/sys/kernel
            {switch}
            mount -o remount,bind,ro /proc
            exec setpriv --inh-caps=-all --ambient-caps=-all "$RBUILD" -q .
            "#
        );
        let options = ["--map-user=1000", "--map-group=1000", "--keep-caps"];
        env.run(&mut in_namespace(&env, &options, &script))
            .code(3)
            .says("the ids of the user namespace cannot be mapped: ")
    };
    let switch = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let rbuild = env!("CARGO_BIN_EXE_rbuild");
    refuse(&format!("echo 1 > {switch}"))
        .says("hint: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or for rbuild alone:\n")
        .says(&format!(
            "echo 'abi <abi/4.0>, profile rbuild \"{rbuild}\" flags=(unconfined) {{ userns, }}' | sudo tee \
             /etc/apparmor.d/rbuild && sudo apparmor_parser -r /etc/apparmor.d/rbuild\n"
        ));
    refuse(&format!("echo 0 > {switch}")).says("hint: see user_namespaces(7)");
}
