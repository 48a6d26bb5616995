//! `docs/plan.md`, done as it says: its files are written, its commands run, and they say what it shows.

use std::fs;
use std::path::Path;

use crate::support::Base;
use crate::support::TestEnv;

#[test]
fn the_page_can_be_followed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/plan.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, page) = page.split_once("\n## In ten minutes\n").unwrap();
    let page = page.split("\n## ").next().unwrap();
    let env = TestEnv::new().bases([Base::Busybox]);
    let mut commands = 0;
    for block in page.split("\n```").skip(1).step_by(2) {
        let (info, text) = block.split_once('\n').unwrap();
        match info.split_once(' ') {
            Some((_, file)) => env.write(file, format!("{text}\n")),
            None => {
                assert_eq!(info, "console");
                for command in text.split("$ rbuild ").skip(1) {
                    follow(&env, command);
                    commands += 1;
                }
            }
        }
    }
    assert!(commands >= 8, "{commands}");
}

/// A command, and the beginnings of lines that it says, in their order.
fn follow(env: &TestEnv, command: &str) {
    let (words, shown) = command.split_once('\n').unwrap_or((command, ""));
    let output = env.rbuild(words.split(' ')).success();
    let said = format!("{}\n{}", output.stderr, output.stdout);
    let mut said = said.lines();
    for line in shown.lines().filter(|line| !line.is_empty()) {
        assert!(
            said.any(|have| have.starts_with(line)),
            "`rbuild {words}` does not say `{line}` there:\n{output}"
        );
    }
}
