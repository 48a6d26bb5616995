//! Wrong plans: each directory of `testdata/plan/errors` has one, with all that is said of it in `expected.txt`; `args`
//! has more words of the command line.

use std::fs;
use std::path::Path;

use snapbox::Assert;
use snapbox::Data;
use snapbox::assert::DEFAULT_ACTION_ENV;

use crate::support::TestEnv;

#[test]
fn wrong_plans_are_refused_with_what_to_do() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan/errors");
    let entries = fs::read_dir(&dir).unwrap();
    let mut cases: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        let expected = dir.join(&case).join("expected.txt");
        let env = TestEnv::new().testdata(&format!("plan/errors/{case}"));
        fs::create_dir_all(env.path("src")).unwrap();
        let args = fs::read_to_string(env.path("args")).unwrap_or_default();
        let args = ["build", "--offline"]
            .into_iter()
            .chain(args.split_whitespace());
        let output = env.rbuild(args);
        assert_eq!(output.stdout, "", "{case}");
        // Not as `Output` compares: nothing in these is different from run to run.
        Assert::new()
            .action_env(DEFAULT_ACTION_ENV)
            .eq(output.to_string(), Data::read_from(&expected, None));
        assert_eq!(output.status.code(), Some(2), "{case}: {output}");
    }
}
