//! `rbuild init`: the plans for the projects of `testdata/init`, whole, and where they are written.

use std::fs;
use std::path::Path;

use snapbox::Assert;
use snapbox::Data;
use snapbox::assert::DEFAULT_ACTION_ENV;
use snapbox::str;

use crate::support::TestEnv;

#[test]
fn each_project_gets_its_plan() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/init");
    let mut cases = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let case = entry.unwrap().file_name().into_string().unwrap();
        let env = TestEnv::new().testdata(&format!("init/{case}"));
        let name = env.outside(&case);
        fs::rename(env.path(""), &name).unwrap();
        fs::create_dir(env.path("")).unwrap();
        fs::remove_file(name.join("expected.toml")).unwrap();
        let output = env.rbuild(["init", "-o", "-", name.to_str().unwrap()]);
        let expected = Data::read_from(&dir.join(&case).join("expected.toml"), None);
        Assert::new()
            .action_env(DEFAULT_ACTION_ENV)
            .eq(output.success().stdout, expected.raw());
        cases += 1;
    }
    assert!(cases > 10, "{cases}");
}

#[test]
fn a_plan_is_not_written_over() {
    let env = TestEnv::new()
        .file("go.mod", "module a\n")
        .file("package.json", "{}");
    env.rbuild(["init"]).is(str![[r#"
---- stderr ----
wrote `rbuild.toml` for a Node.js project (package.json); `go.mod` is there as well, and not in the plan
look through it, then `rbuild build`

"#]]);
    let first = fs::read_to_string(env.path("rbuild.toml")).unwrap();
    env.rbuild(["ls"]).success();

    env.write("package.json", r#"{"name": "other"}"#);
    env.rbuild(["init", "."]).is(str![[r#"
---- stderr ----
error: `rbuild.toml` is there already
hint: write over it with `--force`, or look at a new one with `-o -`
[exit status: 2]

"#]]);
    assert_eq!(fs::read_to_string(env.path("rbuild.toml")).unwrap(), first);
    env.rbuild(["init", "--force"]).success();
    let second = fs::read_to_string(env.path("rbuild.toml")).unwrap();
    assert!(second.contains("tags = [\"other\"]"), "{second}");

    env.rbuild(["init", "-o", "sub/plan.toml"]).is(str![[r#"
---- stderr ----
error: cannot write `sub/plan.toml`
caused by: No such file or directory (os error 2)
[exit status: 3]

"#]]);
    env.rbuild(["init", "nowhere"]).is(str![[r#"
---- stderr ----
error: cannot read `nowhere`
caused by: No such file or directory (os error 2)
[exit status: 2]

"#]]);
}
