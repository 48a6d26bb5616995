//! What the README promises first: runs as an ordinary user with the rest, and once more as root.

use std::fs;

use snapbox::str;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;

/// The README's first command.
#[test]
fn hello_builds_and_runs() {
    let env = TestEnv::new().context("hello");
    env.rbuild(["-t", "hello", "."]).success();
    env.rbuild(["run", "hello"]).success().is(str![[r#"
hello from a RUN step: no root, no daemon, no set-up

"#]]);
}

/// A directory, a file and a link to one, as docker binds them.
#[test]
fn run_binds_what_a_path_leads_to() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("data/file", "content\n")
        .symlink("link", "data");
    let run = |volume: &str, file: &str| {
        env.rbuild(["run", "-v", volume, "busybox", "cat", file])
            .success()
            .stdout
    };
    assert_eq!(run("data:/there", "/there/file"), "content\n");
    assert_eq!(run("link:/there", "/there/file"), "content\n");
    assert_eq!(run("link/file:/there/one:ro", "/there/one"), "content\n");
}

#[test]
fn an_unchanged_build_runs_nothing() {
    let env = TestEnv::new().context("hello");
    let first = env.rbuild(["-q", "."]).success();
    let second = env
        .rbuild(["--progress=plain", "--iidfile", "iid", "."])
        .success();
    assert_eq!(second.ran(), [""; 0], "{second}");
    assert_eq!(second.cached().len(), 4, "{second}");
    let id = fs::read_to_string(env.path("iid")).unwrap();
    assert_eq!(
        id,
        first.stdout.trim_end(),
        "the same image, created time included"
    );
}

#[test]
fn quiet_prints_the_image_id_alone() {
    let env = TestEnv::new().context("hello");
    env.rbuild(["-q", "."]).success().is(str![[r#"
[DIGEST]

"#]]);
}

#[test]
fn a_step_runs_as_root_of_its_own_namespace() {
    let env = TestEnv::new().context("hello").file(
        "Dockerfile",
        "FROM scratch\nCOPY hello-amd64 hello-arm64 /\nRUN [\"/hello-amd64\"]\n",
    );
    env.rbuild(["-o", "type=oci,dest=out.tar", "."]).success();
    let image = Image::from_oci_tar(&env, "out.tar");
    let layers: Vec<String> = image.layer(-1).iter().map(ToString::to_string).collect();
    assert_eq!(layers, ["-rw-r--r-- 0/0 hello.txt"]);
}

#[test]
fn doctor_finds_a_way() {
    TestEnv::new().rbuild(["doctor"]).success();
}

/// What the root of the host owns is not the step's to write, even where the step's root is that root.
#[test]
fn a_step_cannot_write_the_kernels_settings() {
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN echo '|/bin/false' > /proc/sys/kernel/core_pattern\n",
    );
    env.rbuild(["."])
        .code(1)
        .says("/proc/sys/kernel/core_pattern: Read-only file system");
    assert_eq!(pattern(), before);
}
