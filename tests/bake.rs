//! `rbuild bake`: the targets of a bake file as one build. What the files mean is compared with buildx in `rbuild-bake`.

use std::fs;

use snapbox::str;

use crate::support::Base;
use crate::support::TestEnv;

const BAKE: &str = r#"
variable "TAG" { default = "v1" }
group "default" { targets = ["web", "job"] }
target "base" {
  context = "lib"
  args = { X = "1" }
}
target "web" {
  context = "web"
  contexts = { base = "target:base" }
  tags = ["web:${TAG}"]
  labels = { who = "me" }
}
target "job" {
  name = "job-${n}"
  matrix = { n = ["a", "b"] }
  contexts = { base = "target:base" }
  context = "web"
  dockerfile-inline = "FROM base\nARG N\nRUN echo $N > /job\nCMD cat /job\n"
  args = { N = n }
  tags = ["job:${n}"]
}
"#;

fn env() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("docker-bake.hcl", BAKE)
        .file("lib/Dockerfile", "FROM busybox\nARG X\nRUN echo $X > /x\n")
        .file("web/Dockerfile", "FROM base\nCOPY f /f\nCMD cat /x /f\n")
        .file("web/f", "f\n")
        .file("web/.dockerignore", "Dockerfile\n")
}

#[test]
fn targets_of_a_file_are_one_graph() {
    let env = env();
    let args = ["bake", "--progress=plain", "--metadata-file", "m.json"];
    let output = env.rbuild(args).success();
    let ran = output.ran();
    let base = ran.iter().filter(|step| step.starts_with("RUN echo 1"));
    assert_eq!(base.count(), 1, "{ran:?}");
    let run = |image: &str| env.rbuild(["run", image]).success().stdout;
    assert_eq!(run("web:v1"), "1\nf\n");
    assert_eq!((run("job:a"), run("job:b")), ("a\n".into(), "b\n".into()));
    let metadata = fs::read_to_string(env.path("m.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let names: Vec<&String> = metadata.as_object().unwrap().keys().collect();
    assert_eq!(names, ["job-a", "job-b", "web"]);
    assert_eq!(metadata["web"]["image.name"], "docker.io/library/web:v1");

    // buildx writes a target's name also where there is one (commands/bake.go).
    env.rbuild(["bake", "web", "--metadata-file", "one.json"])
        .success();
    let one = fs::read_to_string(env.path("one.json")).unwrap();
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["web"], metadata["web"]);

    // Its own command line is as good: the same steps.
    let alone = [
        "--build-context",
        "base=docker-image://job:a",
        "--progress=plain",
        "web",
    ];
    env.rbuild(alone).success();
    let again = env.rbuild(["bake", "--progress=plain", "web", "--set", "base.args.X=2"]);
    let ran = again.success().ran();
    assert!(ran.contains(&"RUN echo 2 > /x".to_owned()), "{ran:?}");
    assert_eq!(run("web:v1"), "2\nf\n");
}

#[test]
fn what_is_wrong_names_the_target() {
    let env = env();
    env.rbuild(["bake", "wbe"]).fails_with(str![[r#"
error: there is no target or group `wbe`
hint: did you mean `web`?
hint: the targets are: base, web, job-a, job-b
[exit status: 2]

"#]]);
    env.write("web/Dockerfile", "FROM base\nCOPI f /f\n");
    env.rbuild(["bake", "web"])
        .code(2)
        .says("did you mean `COPY`?");
    env.rbuild(["bake", "web", "--set", "web.platform=linux/amd64x/1/2"])
        .code(2)
        .says("target `web`: ");
}
