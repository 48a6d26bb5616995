//! Several builds at once, and builds that are stopped.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;

use crate::support::Base;
use crate::support::Gate;
use crate::support::TestEnv;

fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether a process with this word on its command line is alive, anywhere.
fn is_running(word: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|argument| argument == word.as_bytes())
        })
    })
}

/// The kernel ends a killed namespace's processes on its own time.
#[track_caller]
fn wait_until_gone(word: &str) {
    let start = Instant::now();
    while is_running(word) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "`{word}` is still running"
        );
        std::thread::yield_now();
    }
}

/// A step that meets the gate with a process beside it that would run for long, had it not been told apart by `mark`.
fn at_the_gate(gate: &Gate, mark: &str) -> TestEnv {
    let file = format!(
        "FROM busybox\nRUN echo first > /first\nRUN sleep {mark} & {}\n",
        gate.pass()
    );
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file)
}

#[test]
fn builds_share_a_store() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox\nCOPY data /\nRUN cat /data > /copy\nRUN echo $RANDOM > /random\n",
        )
        .file("data", "x".repeat(100_000));
    let builds: Vec<Child> = (0..3)
        .map(|_| start(&mut env.rbuild_command(["-q", "."])))
        .collect();
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // They agree afterwards, whichever of them was first.
    let (one, other) = (
        env.rbuild(["-q", "."]).success(),
        env.rbuild(["-q", "."]).success(),
    );
    assert_eq!(one.stdout, other.stdout);
}

/// Stages that do not need each other run at the same time: each waits for the other to have begun.
#[test]
fn independent_stages_run_at_once() {
    let (left, right) = (Gate::new(), Gate::new());
    let file = format!(
        "FROM busybox AS left\nRUN {}; echo l > /l\nFROM busybox AS right\nRUN {}; echo r > /r\n\
         FROM scratch\nCOPY --from=left /l /\nCOPY --from=right /r /\n",
        left.pass(),
        right.pass()
    );
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file);
    let build = start(&mut env.rbuild_command(["-o", "out", "."]));
    let waiting = (left.wait(), right.wait());
    waiting.0.go_on();
    waiting.1.go_on();
    let output = build.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read_to_string(env.path("out/r")).unwrap(), "r\n");
}

#[test]
fn a_killed_build_leaves_no_process_and_no_wrong_record() {
    let gate = Gate::new();
    let env = at_the_gate(&gate, "10001");
    let mut build = start(&mut env.rbuild_command(["-q", "."]));
    let waiting = gate.wait();
    build.kill().unwrap();
    assert_eq!(build.wait().unwrap().signal(), Some(9));
    drop(waiting);
    wait_until_gone("10001");

    let again = start(&mut env.rbuild_command(["--progress=plain", "-o", "out", "."]));
    gate.wait().go_on();
    let output = again.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        fs::read_to_string(env.path("out/first")).unwrap(),
        "first\n"
    );
    wait_until_gone("10001");
}

#[test]
fn an_interrupted_build_says_so_and_cleans_up() {
    for (signal, mark) in [(Signal::INT, "10002"), (Signal::TERM, "10003")] {
        let gate = Gate::new();
        let env = at_the_gate(&gate, mark);
        let build = start(&mut env.rbuild_command([
            "--iidfile",
            "iid",
            "-o",
            "type=oci,dest=out.tar",
            ".",
        ]));
        let _waiting = gate.wait();
        rustix::process::kill_process(Pid::from_child(&build), signal).unwrap();
        let output = build.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert!(!is_running(mark));
        assert!(!env.path("iid").exists() && !env.path("out.tar").exists());
        let left: Vec<_> = fs::read_dir(env.outside("tmp"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The first failure ends the build at once, with the other steps.
#[test]
fn a_failing_step_stops_the_others() {
    let (slow, failing) = (Gate::new(), Gate::new());
    let file = format!(
        "FROM busybox AS slow\nRUN sleep 10004 & {}; sleep 10004\nFROM busybox AS failing\nRUN {}; echo no; exit 7\n\
         FROM scratch\nCOPY --from=slow /etc /\nCOPY --from=failing /etc /\n",
        slow.pass(),
        failing.pass()
    );
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file);
    let build = start(&mut env.rbuild_command(["."]));
    slow.wait().go_on();
    failing.wait().go_on();
    let output = build.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!is_running("10004"));
}
