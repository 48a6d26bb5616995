//! What runs again, and what does not.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use std::time::SystemTime;

use crate::support::Base;
use crate::support::TestEnv;

const PLAIN: [&str; 2] = ["--progress=plain", "."];

fn two_copies() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox\nCOPY first /\nRUN cat /first\nCOPY second /\nRUN cat /second\n",
        )
        .file(".dockerignore", "ignored\n")
        .file("first", "1\n")
        .file("second", "2\n")
        .file("ignored", "3\n")
}

#[test]
fn times_and_ignored_files_change_nothing() {
    let env = two_copies();
    env.rbuild(PLAIN).success();
    let later = SystemTime::now() + Duration::from_secs(60);
    for name in ["first", "second"] {
        File::open(env.path(name))
            .unwrap()
            .set_modified(later)
            .unwrap();
    }
    env.write("ignored", "other\n");
    let again = env.rbuild(PLAIN).success();
    assert_eq!(again.ran(), [""; 0], "{again}");
    assert_eq!(again.cached().len(), 4, "{again}");
}

#[test]
fn a_changed_file_runs_its_copy_and_what_follows() {
    let env = two_copies();
    env.rbuild(PLAIN).success();
    env.write("second", "changed\n");
    let again = env.rbuild(PLAIN).success();
    assert_eq!(again.ran(), ["COPY second /", "RUN cat /second"], "{again}");
    // Back to what it was: that is in the cache too.
    env.write("second", "2\n");
    let back = env.rbuild(PLAIN).success();
    assert_eq!(back.ran(), [""; 0], "{back}");
}

/// What git keeps of modes, a check-out under another umask has, too; BuildKit takes them as they are.
#[test]
fn modes_of_the_context_may_count_as_git_keeps_them() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY . /\n")
        .file("src/text", "1\n")
        .file("src/program", "2\n");
    let checkout = |umask: u32| {
        for (path, mode) in [("src", 0o777), ("src/text", 0o666), ("src/program", 0o777)] {
            let mode = fs::Permissions::from_mode(mode & !umask);
            fs::set_permissions(env.path(path), mode).unwrap();
        }
    };
    let ran = |modes: &str| {
        let to = "type=tar,dest=../out.tar";
        let args = ["--progress=plain", modes, "-o", to, "."];
        env.rbuild(args).success().ran()
    };
    let modes = || {
        let list = ["-tvf", "../out.tar", "src"];
        let listed = env.tool("tar", list).success().stdout;
        let words = listed
            .lines()
            .map(|line| line.split(' ').next().unwrap().to_owned());
        words.collect::<Vec<_>>()
    };
    checkout(0o077);
    assert_eq!(ran("--context-modes=git"), ["COPY . /"]);
    assert_eq!(modes(), ["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"]);
    checkout(0o002);
    assert_eq!(ran("--context-modes=git"), [""; 0]);
    assert_eq!(modes(), ["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"]);
    assert_eq!(ran("--context-modes=keep"), ["COPY . /"]);
    assert_eq!(modes(), ["drwxrwxr-x", "-rwxrwxr-x", "-rw-rw-r--"]);
    checkout(0o077);
    assert_eq!(ran("--context-modes=keep"), ["COPY . /"]);
}

/// A step that ran again and left the same files cuts the rebuild off: what is copied from it did not change.
#[test]
fn equal_output_cuts_the_rebuild_off() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox AS count\nCOPY list /\nRUN wc -l < /list > /lines\n\
             FROM busybox\nCOPY --from=count /lines /\nRUN cat /lines\n",
        )
        .file("list", "a\nb\n");
    env.rbuild(PLAIN).success();
    env.write("list", "c\nd\n");
    let same = env.rbuild(PLAIN).success();
    assert_eq!(
        same.ran(),
        ["COPY list /", "RUN wc -l < /list > /lines"],
        "{same}"
    );
    env.write("list", "one\n");
    let other = env.rbuild(PLAIN).success();
    assert_eq!(other.ran().len(), 4, "{other}");
}

#[test]
fn no_cache_runs_everything_or_a_stage() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox AS a\nRUN echo a > /a\nFROM busybox AS b\nCOPY --from=a /a /\nRUN echo b > /b\n");
    env.rbuild(PLAIN).success();
    let all = env
        .rbuild(["--no-cache", "--progress=plain", "."])
        .success();
    assert_eq!(
        all.ran(),
        ["COPY --from=a /a /", "RUN echo a > /a", "RUN echo b > /b"],
        "{all}"
    );
    let stage = env
        .rbuild(["--no-cache-filter=a", "--progress=plain", "."])
        .success();
    assert_eq!(stage.ran(), ["RUN echo a > /a"], "{stage}");
}

/// Arguments are in the key where they are declared, and only from there on.
#[test]
fn a_build_argument_counts_from_its_declaration() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN echo before\nARG VERSION\nRUN echo $VERSION\n",
    );
    env.rbuild(["--build-arg=VERSION=1", "--progress=plain", "."])
        .success();
    let other = env
        .rbuild(["--build-arg=VERSION=2", "--progress=plain", "."])
        .success();
    assert_eq!(other.ran(), ["RUN echo 2"], "{other}");
    // Of the predefined proxies only the declared ones count.
    let proxied = env
        .rbuild([
            "--build-arg=VERSION=2",
            "--build-arg=HTTP_PROXY=http://proxy.example.org",
            "--progress=plain",
            ".",
        ])
        .success();
    assert_eq!(proxied.ran(), [""; 0], "{proxied}");
}

/// Nothing of a stage that the target does not need is looked at.
#[test]
fn unreachable_stages_cost_nothing() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM no.such.registry.invalid/x AS unused\nRUN false\nFROM busybox\nRUN true\n",
    );
    let output = env.rbuild(PLAIN).success();
    assert_eq!(output.ran(), ["RUN true"], "{output}");
}

/// An unchanged build needs neither the network nor a user namespace.
#[test]
fn an_unchanged_build_is_answered_from_records_alone() {
    let env = two_copies();
    let first = env.rbuild(["-q", "."]).success();
    let traced = env
        .run(
            env.tool_command("strace")
                .args([
                    "-f",
                    "-qq",
                    "-e",
                    "trace=unshare,clone3,setns,connect,fsync,fdatasync,syncfs",
                    "-o",
                    "trace",
                ])
                .arg(env!("CARGO_BIN_EXE_rbuild"))
                .args(["-q", "."]),
        )
        .success();
    assert_eq!(traced.stdout, first.stdout);
    let trace = std::fs::read_to_string(env.path("trace")).unwrap();
    let calls: Vec<&str> = trace
        .lines()
        .filter(|line| !line.contains("CLONE_THREAD"))
        .collect();
    assert_eq!(calls, [""; 0]);
}

#[test]
fn each_source_date_epoch_has_its_own_times() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY <<E /dir/file\nE\n");
    let times = |epoch: u64| -> Vec<String> {
        let epoch = format!("SOURCE_DATE_EPOCH={epoch}");
        env.rbuild(["--build-arg", &epoch, "-o", "type=tar,dest=out.tar", "."])
            .success();
        let listed = env.tool("tar", ["-tvf", "out.tar", "--full-time", "--utc"]);
        let listed = listed.success().stdout;
        let day = |line: &str| line.split_whitespace().nth(3).unwrap().to_owned();
        listed.lines().map(day).collect()
    };
    assert_eq!(times(1_500_000_000), ["2017-07-14", "2017-07-14"]);
    assert_eq!(times(1_600_000_000), ["2020-09-13", "2020-09-13"]);
    assert_eq!(times(1_500_000_000), ["2017-07-14", "2017-07-14"]);
}

/// overlayfs refuses a directory that stands twice among its layers. What changes nothing in a base whose `/` has a time
/// of its own makes one layer again and again, and so does what brings the same file back.
#[test]
fn layers_may_be_equal() {
    let env = TestEnv::new()
        .bases([Base::Debian])
        .file("one", "1\n")
        .file(
            "Dockerfile",
            "FROM debian\nRUN true\nRUN [ -d / ]\nCOPY one /f\nRUN rm /f\nCOPY one /f\nRUN grep -q 1 /f\nRUN rm /f; ls /etc/passwd\n",
        );
    env.rbuild(["-t", "equal", "."]).success();
    env.rbuild(["run", "equal", "test", "!", "-e", "/f"])
        .success();
}

/// A large layer of which one file changed is made of what an earlier export compressed, and is the layer that a store
/// makes that knows nothing.
#[test]
fn a_layer_exported_again_is_the_layer_that_is_exported_first() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY files /files\n");
    let mut state = 1_u64;
    for name in 0..40 {
        // A generator of Marsaglia's (xorshift64): half of it noise, half of it repeated.
        let mut bytes = Vec::new();
        while bytes.len() < 150_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
            bytes.extend_from_slice(b"the same");
        }
        env.write(&format!("files/{name:02}"), bytes);
    }
    let digest = |root: &[&str]| {
        // The directory that COPY makes has the time of the step.
        let time = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
        let export = [time, "-o", "type=oci,dest=../out.tar", "."];
        env.rbuild([root, &export].concat()).success();
        let inspect = ["inspect", "--format={{.Digest}}", "oci-archive:../out.tar"];
        env.tool("skopeo", inspect).success().stdout
    };
    let first = digest(&[]);
    env.write("files/17", "changed\n");
    let again = digest(&[]);
    assert_ne!(again, first);
    // What was compressed is damaged on the disk since.
    let shards = fs::read_dir(env.store().join("v1/blobs/sha256")).unwrap();
    let blobs = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    for blob in blobs.map(|blob| blob.unwrap().path()) {
        let mut bytes = fs::read(&blob).unwrap();
        if let Some(byte) = bytes.get_mut(100_000) {
            *byte ^= 1;
            fs::write(blob, bytes).unwrap();
        }
    }
    env.write("files/39", "changed as well\n");
    let again = digest(&[]);
    let elsewhere = env.outside("elsewhere");
    let root = format!("--root={}", elsewhere.display());
    assert_eq!(digest(&[&root]), again);
    // umoci compares every digest and every size as it unpacks.
    let archive = ["copy", "oci-archive:../out.tar", "oci:../layout:it"];
    env.tool("skopeo", archive).success();
    let unpack = [
        "unpack",
        "--rootless",
        "--image=../layout:it",
        "../unpacked",
    ];
    env.tool("umoci", unpack).success();
    for name in 0..40 {
        let path = format!("files/{name:02}");
        let unpacked = env.outside("unpacked/rootfs").join(&path);
        assert_eq!(
            fs::read(unpacked).unwrap(),
            fs::read(env.path(&path)).unwrap()
        );
    }
}

/// Files that others than the user own can be read inside of a user namespace only, also those of a base that no record
/// is of.
#[test]
fn a_new_name_for_known_layers_can_be_copied_from() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nADD secret.tar /\nRUN true\n")
        .file("secret", "only for its owner\n");
    let pack = [
        "--owner=1000",
        "--group=1000",
        "--mode=600",
        "-cf",
        "secret.tar",
        "secret",
    ];
    env.tool("tar", pack).success();
    env.rbuild(["-q", "-t", "base", "."]).success();
    env.write(
        "Dockerfile",
        "FROM scratch\nCOPY --from=base /secret /got\n",
    );
    env.rbuild(["-q", "-o", "type=tar,dest=out.tar", "."])
        .success();
    let listed = env.tool("tar", ["-xOf", "out.tar", "got"]).success();
    assert_eq!(listed.stdout, "only for its owner\n");
}

/// Steps are started in another directory than the one a relative path counts from.
#[test]
fn a_store_may_be_named_from_the_working_directory() {
    let env = two_copies();
    env.write(".dockerignore", "ignored\nstore\n");
    let args = ["--root", "store", "--progress=plain", "."];
    env.rbuild(args).success();
    let again = env.rbuild(args).success();
    assert_eq!(again.ran(), [""; 0], "{again}");
    env.rbuild(["--root", "store", "reset", "--force"])
        .success();
    assert!(!env.path("store").exists());
}
