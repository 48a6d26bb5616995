//! `rbuild check`, `--check` and `--call`: answers on standard output, and what the exit code says of them.

use snapbox::str;

use crate::support::Base;
use crate::support::TestEnv;

const FILE: &str =
    "FROM scratch AS Base\nCOPY a /\n# app is the result\nFROM base AS app\nARG VERSION=1\n";

#[test]
fn findings() {
    let env = TestEnv::new().file("Dockerfile", FILE);
    let check = env.rbuild(["check", "."]).code(1);
    check.is(str![[r#"
Check complete, 1 warning has been found!

WARNING: StageNameCasing - docs/lint/StageNameCasing.md
Stage name 'Base' should be lowercase
Dockerfile:1
--------------------
   1 | >>> FROM scratch AS Base
   2 |     COPY a /
   3 |     # app is the result
--------------------
[exit status: 1]

"#]]);
    for same in [["build", "--check", "."], ["--call", "lint", "."]] {
        assert_eq!(env.rbuild(same).code(1).stdout, check.stdout);
    }
    env.rbuild(["--call=check,ignorestatus=true", "."])
        .success();
    env.rbuild(["check", "--target", "nowhere", "."])
        .fails_with(str![[r#"
error: target stage `nowhere` could not be found
 --> Dockerfile:4:1
  |
4 | FROM base AS app
  | ^^^^^^^^^^^^^^^^ the last of the stages
  |
hint: the stages are `base`, `app`
[exit status: 2]

"#]]);
    env.write("Dockerfile", FILE.replace("Base", "base"));
    env.rbuild(["check", "."]).is(str![[r#"
Check complete, no warnings found.

"#]]);
}

/// What a base sets is known without its layers, and nothing is built or kept by a name.
#[test]
fn bases_are_asked_for_their_configs() {
    let file = "FROM busybox\nENV PATH=$PATH:/x HOME=$HOMEE\nRUN exit 1\n";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file);
    let json = env.rbuild(["--call=lint,format=json", "."]).code(1);
    let found: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let warnings = found["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{json}");
    assert_eq!(
        warnings[0]["detail"],
        "Usage of undefined variable '$HOMEE'"
    );
    env.rbuild(["images", "-q"]).success().is(str![[r#""#]]);
}

#[test]
fn other_languages() {
    let env = TestEnv::new().file("Dockerfile", "# syntax=docker/dockerfile:1\nFROM scratch\n");
    for args in [
        &["check", "."] as &[&str],
        &["."],
        &["--build-arg=BUILDKIT_SYNTAX=docker/dockerfile:1-labs", "."],
    ] {
        env.rbuild(args).success();
    }
    env.write("Dockerfile", "# syntax=example.org/me/mine:2\nanything\n");
    env.rbuild(["."]).code(2).is(str![[r#"
---- stderr ----
error: this file is for the frontend `example.org/me/mine:2`
 --> Dockerfile:1:10
  |
1 | # syntax=example.org/me/mine:2
  |          ^^^^^^^^^^^^^^^^^^^^^ an image that would read the file
  |
hint: rbuild reads what `docker/dockerfile` reads by itself, and runs no other frontend
hint: take the `syntax` out if this is a Dockerfile
[exit status: 2]

"#]]);
}

#[test]
fn files_that_cannot_be_built() {
    let env = TestEnv::new().file("Dockerfile", "# check=error=true\nFROM scratch as base\n");
    env.rbuild(["check", "."]).code(2).is(str![[r#"
Check complete, 1 warning has been found!

WARNING: FromAsCasing - docs/lint/FromAsCasing.md
'as' and 'FROM' keywords' casing do not match
Dockerfile:2
--------------------
   1 |     # check=error=true
   2 | >>> FROM scratch as base
   3 |     
--------------------
---- stderr ----
error: lint violation found for rules: FromAsCasing
hint: `# check=error=true` makes findings errors
[exit status: 2]

"#]]);
    env.write("Dockerfile", "FROM scratch AS Base\nCOPYY a /\n");
    let json = env.rbuild(["--call=check,format=json", "."]).code(2);
    json.is(str![[r#"
{
  "warnings": null,
  "sources": [
    {
      "filename": "Dockerfile",
      "data": "RlJPTSBzY3JhdGNoIEFTIEJhc2UKQ09QWVkgYSAvCg==",
      "language": "Dockerfile"
    }
  ],
  "buildError": {
    "message": "unknown instruction `COPYY`",
    "location": {
      "ranges": [
        {
          "start": {
            "line": 2
          },
          "end": {
            "line": 2
          }
        }
      ]
    }
  }
}
---- stderr ----
error: unknown instruction `COPYY`
 --> Dockerfile:2:1
  |
2 | COPYY a /
  | ^^^^^
  |
hint: did you mean `COPY`?
[exit status: 2]

"#]]);
}

#[test]
fn outline_and_targets() {
    let env = TestEnv::new().file("Dockerfile", FILE);
    env.rbuild(["--call=targets", "."]).is(str![[r#"
TARGET        DESCRIPTION
base
app (default) is the result

"#]]);
    env.rbuild(["--call=outline", "--build-arg", "VERSION=2", "."])
        .is(str![[r#"
TARGET:      app
DESCRIPTION: is the result

BUILD ARG   VALUE   DESCRIPTION
VERSION     2


"#]]);
    env.rbuild(["--call=outline,format=json", "-f", "-", "."])
        .code(2);
    let targets = env.rbuild(["--call=targets,format=json", "."]).success();
    let targets: serde_json::Value = serde_json::from_str(&targets.stdout).unwrap();
    assert_eq!(targets["targets"][1]["description"], "is the result");
}

/// The text is BuildKit's, the JSON that of its `subrequests.Request`.
#[test]
fn what_can_be_asked() {
    let env = TestEnv::new().file("Dockerfile", FILE);
    env.rbuild(["--call=subrequests.describe", "."])
        .is(str![[r#"
NAME                 VERSION DESCRIPTION
outline              1.0.0   List all parameters current build target supports
targets              1.0.0   List all targets current build supports
subrequests.describe 1.0.0   List available subrequest types

"#]]);
    let requests = env
        .rbuild(["--call=subrequests.describe,format=json", "."])
        .success();
    let requests: serde_json::Value = serde_json::from_str(&requests.stdout).unwrap();
    assert_eq!(
        requests[1],
        serde_json::json!({
            "name": "frontend.targets",
            "version": "1.0.0",
            "type": "rpc",
            "description": "List all targets current build supports",
            "opts": null,
            "inputs": null,
            "metadata": [
                { "name": "result.json", "description": "" },
                { "name": "result.txt", "description": "" },
            ],
            "refs": null,
        })
    );
    env.rbuild(["--call=subrequests", "."])
        .code(2)
        .says("there is no `subrequests`");
}

#[test]
fn plans_are_checked_too() {
    let plan = "schema = 1\n[step.app]\nfrom = \"scratch\"\nenv = { API_TOKEN = \"x\" }\nworkdir = \"app\"\n\
                [output.app]\nstep = \"app\"\n[output.other]\nstep = \"app\"\nplatforms = [\"linux/arm64\"]\n";
    let env = TestEnv::new().file("rbuild.toml", plan);
    let output = env.rbuild(["check", "."]).code(1);
    let rules: Vec<&str> = output
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("WARNING: "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        rules,
        ["SecretsUsedInArgOrEnv", "WorkdirRelativePath"],
        "{output}"
    );
    assert!(output.stdout.contains("rbuild.toml:4"), "{output}");

    env.write(
        "rbuild.toml",
        plan.replace("API_TOKEN", "MODE")
            .replace("workdir = \"", "workdir = \"/"),
    );
    let output = env.rbuild(["check", "."]).success();
    assert_eq!(output.stdout, "Check complete, no warnings found.\n");
    // A test is checked as well, though it is built only when it is asked for.
    env.write(
        "rbuild.toml",
        format!("{plan}[test.t]\nfrom = \"ap\"\nrun = [\"true\"]\n"),
    );
    env.rbuild(["check", "."])
        .code(2)
        .says("did you mean `app`?");
    env.rbuild(["--call=targets", "."])
        .code(2)
        .says("`rbuild ls`");
}
