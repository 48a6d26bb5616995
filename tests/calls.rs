//! `rbuild check`, `--check` and `--call`: answers on standard output, and what the exit code says of them.

use snapbox::str;

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
