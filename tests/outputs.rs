//! Several targets in one build: outputs and tests of plans, `--target` and `--also-run` of Dockerfiles.

use std::fs;

use snapbox::str;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;

const PLAN: &str = r#"
schema = 1
[args]
word = { default = "hello", one-of = ["hello", "hi"] }
[inputs]
busybox = { image = "busybox" }
src = { local = "src" }
tests = { local = "tests" }
[step.base]
from = "busybox"
copy = [{ from = "src", to = "/src/" }]
run = ["cp /src/a /a"]
[step.app]
from = "base"
copy = [{ from = "base", path = "/a", to = "/app/" }]
run = ["echo {args.word} > /app/word"]
[test.word]
from = "app"
mounts = [{ from = "tests", to = "/t" }]
run = ["mkdir /out; echo report > /out/report; sh /t/check"]
export = [{ path = "/out/report", to = "reports/" }]
[output.web]
step = "app"
tags = ["web:{args.word}"]
require = ["test.word"]
image = { cmd = ["cat", "/app/word"] }
[output.files]
step = "app"
local = { path = "/app", to = "dist/" }
"#;

fn env() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("rbuild.toml", PLAN)
        .file("src/a", "a\n")
        .file("tests/check", "grep -q hello /app/word\n")
}

#[test]
fn outputs_and_their_tests_are_one_build_and_an_unchanged_one_runs_nothing() {
    let env = env();
    let first = env.rbuild(["--progress=plain", "."]).success();
    let ran = first.ran();
    let commands = ran.iter().filter(|step| !step.starts_with("load"));
    assert_eq!(commands.count(), 5, "{ran:?}");
    let read = |path: &str| fs::read_to_string(env.path(path)).unwrap();
    assert_eq!(
        (read("reports/report"), read("dist/word"), read("dist/a")),
        (
            "report\n".to_owned(),
            "hello\n".to_owned(),
            "a\n".to_owned()
        )
    );
    let again = env.rbuild(["--progress=plain", "."]).success();
    // Directories are looked at, each time.
    assert_eq!(again.ran(), ["load from client"; 2], "{again}");
    again
        .says("test.word passed")
        .says("wrote ")
        .says("web:hello");
    let run = env.rbuild(["run", "web:hello"]).success();
    assert_eq!(run.stdout, "hello\n");

    // Where a name is no directory, it is an output; another config runs nothing.
    let one = env.rbuild([
        "build",
        "--progress=plain",
        "web",
        "--set",
        "output.web.image.cmd=[\"cat\", \"/a\"]",
    ]);
    assert_eq!(one.success().ran(), ["load from client"; 2]);
    assert_eq!(env.rbuild(["run", "web:hello"]).success().stdout, "a\n");
}

#[test]
fn a_failing_test_holds_back_what_requires_it_and_still_gives_its_report() {
    let env = env();
    let failed = env.rbuild(["--build-arg", "word=hi", "--progress=quiet", "."]);
    failed.fails_with(str![[r#"
error: `[test.word 1/1] RUN mkdir /out; echo report > /out/report; sh /t/check` failed: exit code: 1
  --> rbuild.toml:20:8
   |
20 | run = ["mkdir /out; echo report > /out/report; sh /t/check"]
   |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ exit code: 1

it printed nothing

hint: steps before it are kept: the same command goes on from here
hint: the test `test.word` failed
hint: `web` was not written: it requires a test that failed
[exit status: 1]

"#]]);
    let read = |path: &str| fs::read_to_string(env.path(path)).ok();
    assert_eq!(read("reports/report").as_deref(), Some("report\n"));
    assert_eq!(
        read("dist/word").as_deref(),
        Some("hi\n"),
        "it requires no test"
    );
    assert!(!env.rbuild(["images"]).success().stdout.contains("web"));
    // A failure is not remembered.
    env.write("tests/check", "grep -q hi /app/word\n");
    let output = env.rbuild(["--build-arg", "word=hi", "."]).success();
    output.says("test.word passed");
}

#[test]
fn tests_alone() {
    let env = env();
    let output = env.rbuild(["test", "--progress=quiet"]).success();
    assert_eq!(output.stdout, "");
    assert!(env.path("reports/report").exists());
    assert!(!env.path("dist").exists());
    env.rbuild(["test", ".", "wrod"])
        .code(2)
        .fails_with(str![[r#"
error: there is no test `wrod`
hint: did you mean `word`?
[exit status: 2]

"#]]);
}

#[test]
fn layers_do_not_depend_on_when_and_where_they_are_made() {
    let digest = |umask: &str| {
        let env = env();
        let modes = format!("chmod -R {umask} src; touch -d 2001-01-01 src/a");
        env.tool("sh", ["-c", &modes]).success();
        env.rbuild(["build", "web", "-o", "type=oci,dest=out.tar"])
            .success();
        let image = Image::from_oci_tar(&env, "out.tar");
        image.layers()
    };
    let (mine, theirs) = (digest("u=rwX,go="), digest("a=rwX"));
    assert_eq!(mine[1], theirs[1], "the layer of src");
}

/// What a plan says of times it says of what it makes: a base's layers are the base's, byte for byte.
#[test]
fn the_layers_of_a_base_stay_as_they_came() {
    let env = env();
    let export = |name: &str, more: &[&str]| {
        let dest = format!("type=oci,dest={name}.tar");
        let args = ["build", "web", "-o", &dest]
            .into_iter()
            .chain(more.iter().copied());
        env.rbuild(args).success();
        Image::from_oci_tar(&env, &format!("{name}.tar"))
    };
    let clamped = export("clamped", &[]);
    let kept = export("kept", &["--set", "output.web.times=keep"]);
    let base = &clamped.layers()[0];
    assert_eq!(*base, kept.layers()[0]);
    assert_ne!(clamped.layers()[1], kept.layers()[1]);
    let blob = clamped.layer_blob(1);
    let listing = env
        .tool("tar", ["--utc", "-tvzf", blob.to_str().unwrap()])
        .success();
    let lines: Vec<&str> = listing.stdout.lines().collect();
    assert!(!lines.is_empty());
    assert!(
        lines.iter().all(|line| line.contains(" 1980-01-01 00:00 ")),
        "{listing}"
    );
}

#[test]
fn files_that_a_setting_names_are_read() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "rbuild.toml",
            "schema = 1\n[inputs]\nold = { dockerfile = \"Dockerfile\" }\n\
             [output.o]\nstep = \"old\"\ntags = [\"o\"]\n",
        )
        .file("Dockerfile", "FROM busybox\nCMD echo one\n")
        .file("other/Dockerfile", "FROM busybox\nCMD echo other\n");
    env.rbuild(["--set", "inputs.old.dockerfile=other/Dockerfile", "."])
        .success();
    assert_eq!(env.rbuild(["run", "o"]).success().stdout, "other\n");
}

#[test]
fn several_targets_of_a_dockerfile_and_stages_that_are_only_run() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox AS base\nRUN echo base > /f\n\
         FROM base AS a\nRUN echo a >> /f\nCMD cat /f\n\
         FROM base AS b\nRUN echo b >> /f\nCMD cat /f\n\
         FROM a AS check\nRUN ! grep x /f\n",
    );
    let args = [
        "--target", "a", "--target", "b", "-t", "a=one", "-t", "b=two",
    ];
    let both = env
        .rbuild(args.into_iter().chain(["--progress=plain", "."]))
        .success();
    assert_eq!(both.ran().len(), 3, "{both}");
    assert_eq!(env.rbuild(["run", "one"]).success().stdout, "base\na\n");
    assert_eq!(env.rbuild(["run", "two"]).success().stdout, "base\nb\n");

    let output = env.rbuild([
        "--target",
        "a",
        "--also-run",
        "check",
        "--progress=plain",
        ".",
    ]);
    assert_eq!(output.success().ran(), ["RUN ! grep x /f"]);
    let failing = "FROM busybox AS a\nFROM busybox AS check\nRUN false\nFROM a\n";
    env.write("Dockerfile", failing);
    let args = ["--also-run", "check", "-t", "kept", "--progress=quiet", "."];
    env.rbuild(args).code(1).says("the test `check` failed");
    assert!(!env.rbuild(["images"]).success().stdout.contains("kept"));

    env.rbuild(["--target", "a", "--target", "check", "-t", "x", "."])
        .code(2)
        .fails_with(str![[r#"
error: several targets are built, and one name cannot be that of all
hint: say whose it is: `-t TARGET=docker.io/library/x:latest`
[exit status: 2]

"#]]);
}

#[test]
fn values_of_git_are_those_of_the_work_tree() {
    let plan = "schema = 1\n[step.s]\nfrom = \"scratch\"\ncopy = [{ text = \"x\", to = \"/x\" }]\n\
                [output.o]\nstep = \"s\"\ntags = [\"o:{git.tag}-{git.branch}-{git.sha12}\"]\n";
    let env = TestEnv::new().file("rbuild.toml", plan);
    env.rbuild(["."])
        .code(2)
        .says("the plan is in no git work tree with a commit");
    let git = "git init -q -b main . && git add . && \
               git -c user.name=n -c user.email=e commit -qm m && git tag v1 && git rev-parse HEAD";
    let commit = env.tool("sh", ["-c", git]).success().stdout;
    let output = env.rbuild(["."]).success();
    output.says(&format!("o:v1-main-{}", &commit[..12]));
}

#[test]
fn what_there_is_to_build() {
    env().rbuild(["ls"]).is(str![[r#"
OUTPUT   files (default)   app
OUTPUT   web (default)     app
TEST     test.word         app
STEP     app               base
STEP     base              busybox

Arguments (--build-arg NAME=VALUE):
word=hello   hello | hi

"#]]);
}

#[test]
fn files_that_the_step_does_not_have_are_named_where_they_are_asked_for() {
    let env = env();
    let plan = PLAN.replace("path = \"/app\", to", "path = \"/ap\", to");
    env.write("rbuild.toml", plan);
    env.rbuild(["build", "-q", "files"]).is(str![[r#"
---- stderr ----
error: there is no `/ap` in the step's files
  --> rbuild.toml:29:18
   |
29 | local = { path = "/ap", to = "dist/" }
   |                  ^^^^^
[exit status: 2]

"#]]);
}

/// What a step says when it looks for a name on a network that it does not have.
#[test]
fn a_step_without_network_that_looks_for_a_name_is_told_so() {
    let env = env();
    let plan = PLAN.replace("cp /src/a /a", "wget http://example.org/a");
    env.write("rbuild.toml", plan);
    env.rbuild(["build", "web"])
        .code(1)
        .says("bad address")
        .says("hint: this step has no network; `network = true` gives it one");
}

/// Files that are in no image are not made again for that.
#[test]
fn a_step_of_a_local_output_alone_is_remembered() {
    let env = env();
    let plan = PLAN.replace(
        "[output.files]\nstep = \"app\"\nlocal = { path = \"/app\"",
        "[step.tree]\nfrom = \"scratch\"\ncopy = [{ from = \"app\", path = \"/app\", include = [\"word\"], to = \"/\" }]\n\
         [output.files]\nstep = \"tree\"\nlocal = { path = \"/\"",
    );
    assert_ne!(plan, PLAN);
    env.write("rbuild.toml", plan);
    env.rbuild(["build", "files"]).success();
    assert_eq!(
        fs::read_to_string(env.path("dist/word")).unwrap(),
        "hello\n"
    );
    let again = env.rbuild(["build", "--progress=plain", "files"]).success();
    assert_eq!(again.ran(), ["load from client"], "{again}");
    let plan = env.rbuild(["plan", "--format", "json", "files"]).success();
    assert!(!plan.stdout.contains("\"run\""), "{plan}");
}
