//! What the README promises first: runs as an ordinary user with the rest, and once more as root.

use std::fs;

use snapbox::str;

use crate::support::Image;
use crate::support::TestEnv;

/// The README's first command.
#[test]
fn hello_builds_and_runs() {
    let env = TestEnv::new().context("hello");
    env.rbuild(["-t", "hello", "."]).success();
    env.rbuild(["run", "hello"]).success().is(str![]);
}

#[test]
fn an_unchanged_build_runs_nothing() {
    let env = TestEnv::new().context("hello");
    let first = env.rbuild(["-q", "."]).success();
    let second = env
        .rbuild(["--progress=plain", "--iidfile", "iid", "."])
        .success();
    let cached = second
        .stderr
        .lines()
        .filter(|line| line.ends_with(" CACHED"))
        .count();
    assert_eq!(
        cached, 4,
        "two COPY of the result, and the COPY and RUN that made it:\n{second}"
    );
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
    env.rbuild(["-q", "."]).success().is(str![]);
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
