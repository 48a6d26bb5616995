//! What is asked at a terminal, and what it does not get; the end of a store.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::process::Stdio;

use super::built;
use crate::support::Gate;
use crate::support::Output;
use crate::support::TestEnv;

/// Runs rbuild at a terminal. Once it has shown `prompt`, `typed` is typed; what is said after that is in the output.
pub(super) fn at_a_terminal(env: &TestEnv, words: &str, prompt: &str, typed: &str) -> Output {
    let line = format!("{} {words}", env!("CARGO_BIN_EXE_rbuild"));
    shell_at_a_terminal(env, &line, prompt, || typed)
}

/// The same with a line of shell; what is typed is only known once there is a prompt.
pub(super) fn shell_at_a_terminal<'t>(
    env: &TestEnv,
    line: &str,
    prompt: &str,
    typed: impl FnOnce() -> &'t str,
) -> Output {
    let mut command = env.tool_command("script");
    command
        .args(["-q", "-e", "-c", line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(prompt) {
        let mut byte = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        said.extend(byte);
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed().as_bytes()).unwrap();
    drop(stdin);
    env.finished(child)
}

#[test]
fn a_terminal_gets_no_archive() {
    let env = built();
    let said = at_a_terminal(&env, "save app:1", "", "").code(2);
    assert!(
        said.stdout.contains("standard output is a terminal"),
        "{said}"
    );
    let said = at_a_terminal(&env, "load", "", "").code(2);
    assert!(
        said.stdout.contains("standard input is a terminal"),
        "{said}"
    );
}

#[test]
fn labels_do_not_drive_a_terminal() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nLABEL x=\"a\x1b[2Jb\"\n");
    env.rbuild(["-t", "app", "."]).success();
    let template = "{{index .Config.Labels \"x\"}}";
    let format = format!("inspect -f '{template}' app");
    let said = at_a_terminal(&env, &format, "", "").success();
    assert_eq!(said.stdout.trim_end(), "a\\u{1b}[2Jb");
    // What programs get is as it is.
    let said = env.rbuild(["inspect", "-f", template, "app"]).success();
    assert_eq!(said.stdout, "a\x1b[2Jb\n");
}

#[test]
fn a_reset_removes_the_store_and_nothing_else() {
    let env = built();
    let store = env.store();
    fs::write(store.join("mine"), "").unwrap();
    env.rbuild(["reset"])
        .code(2)
        .says("only removed if somebody agrees");
    let said = at_a_terminal(&env, "reset", "[y/N] ", "n\n").success();
    assert!(said.stdout.contains("nothing was removed"), "{said}");
    assert!(store.join("v1").is_dir());

    let gate = Gate::new();
    env.write(
        "slow/Dockerfile",
        format!("FROM busybox\nRUN {}\n", gate.pass()),
    );
    let mut build = env.rbuild_command(["slow"]);
    build
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let build = build.spawn().unwrap();
    let waiting = gate.wait();
    env.rbuild(["reset", "--force"])
        .code(3)
        .says("is in use by another build");
    waiting.go_on();
    env.finished(build).success();

    let said = at_a_terminal(&env, "reset", "[y/N] ", "y\n").success();
    assert!(said.stdout.contains("where other things are"), "{said}");
    let left: Vec<_> = fs::read_dir(&store)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["mine"]);
    fs::remove_file(store.join("mine")).unwrap();
    env.rbuild(["reset"]).success().says("there is no store");
    env.rbuild(["-t", "again", "."]).success();
    env.rbuild(["reset", "-f"]).success();
    assert!(!store.exists());

    let precious = env.outside("precious/v1/images");
    fs::create_dir_all(&precious).unwrap();
    let root = env.outside("precious");
    env.rbuild(["reset", "-f", "--root", root.to_str().unwrap()])
        .code(2)
        .says("is no store of rbuild");
    assert!(precious.is_dir());
}
