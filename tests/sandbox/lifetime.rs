//! How steps end, and that nothing is left of them.

use super::*;
use std::os::unix::process::CommandExt as _;

/// A time to sleep that no other test, and no other run of the tests, uses.
fn mark(test: u32) -> String {
    format!("86400.{test}{}", std::process::id())
}

/// A run whose step has written `ready`, with a mark in its arguments to know its processes by.
fn started(fixture: &Fixture, mark: &str, script: &str) -> Child {
    let mut command = fixture.command();
    command.args(["sh", "-c", &format!("{script}\necho ready\nsleep {mark}")]);
    ready(&mut command)
}

/// A run, in a process group of its own, whose step has written `ready`.
pub(super) fn ready(command: &mut Command) -> Child {
    let mut child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// Processes of this machine with `mark` in their arguments.
fn processes(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let arguments =
        entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    arguments.filter(|args| args.contains(mark)).collect()
}

pub(super) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// All processes below `pid`: number, name and when they began, which together no other process ever has.
pub(super) fn descendants(pid: u32) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats: Vec<String> = entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .collect();
    let mut found = vec![pid.to_string()];
    let mut at = 0;
    let mut below = Vec::new();
    while let Some(parent) = found.get(at).cloned() {
        for stat in &stats {
            let (head, tail) = stat.rsplit_once(')').unwrap();
            let fields: Vec<&str> = tail.split_whitespace().collect();
            if fields[1] == parent {
                found.push(head.split(' ').next().unwrap().to_owned());
                below.push(format!("{head}) {}", fields[19]));
            }
        }
        at += 1;
    }
    below
}

/// Waits until none of these [`descendants`] is left.
#[track_caller]
pub(super) fn all_gone(below: &[String]) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let lives = |process: &&String| {
        let (pid, _) = process.split_once(' ').unwrap();
        let (head, began) = process.rsplit_once(' ').unwrap();
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            let tail = stat.strip_prefix(head).unwrap_or_default();
            let state = tail.split_whitespace().next();
            tail.split_whitespace().nth(19) == Some(began) && state != Some("Z")
        })
    };
    while let Some(process) = below.iter().find(lives) {
        assert!(std::time::Instant::now() < patience, "{process} lives");
        std::thread::yield_now();
    }
}

/// Waits until no process has `mark`: they end with the builder, but after it.
#[track_caller]
fn none_left(mark: &str) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !processes(mark).is_empty() {
        assert!(
            std::time::Instant::now() < patience,
            "{:?}",
            processes(mark)
        );
        std::thread::yield_now();
    }
}

#[test]
fn nothing_outlives_a_killed_builder() {
    let fixture = Fixture::new();
    let mark = &mark(1);
    let mut child = started(
        &fixture,
        mark,
        &format!("setsid sleep {mark} & sleep {mark} &"),
    );
    assert!(processes(mark).len() >= 3);
    signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    none_left(mark);
}

#[test]
fn an_interrupt_ends_the_step_and_then_the_builder() {
    let fixture = Fixture::new();
    let mark = &mark(2);
    let child = started(
        &fixture,
        mark,
        &format!("trap '' INT TERM; setsid sleep {mark} &"),
    );
    // As a terminal does: to the whole foreground group.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(pid, rustix::process::Signal::INT).unwrap();
    let outcome = child.wait_with_output().unwrap();
    assert_eq!(processes(mark), [""; 0]);
    assert_eq!(outcome.status.code(), Some(3));
}

#[test]
fn daemons_end_with_the_step() {
    let fixture = Fixture::new();
    let mark = &mark(3);
    let script = format!("for i in $(seq 200); do setsid sleep {mark} & done; echo started");
    assert_eq!(fixture.sh(&[], &script).stdout(), "started\n");
    assert_eq!(processes(mark), [""; 0]);
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let fixture = Fixture::new();
    let code = |script: &str| fixture.sh(&[], script).0.status.code();
    assert_eq!(code("exit 3"), Some(3));
    assert_eq!(code("sh -c 'kill -9 $$'; exit $?"), Some(137));
    // Process 1 of a pid namespace is spared the signals it has no handler for, as in docker.
    assert_eq!(code("kill -9 $$; exit 4"), Some(4));
}

#[test]
fn all_output_arrives() {
    let outcome = Fixture::new().sh(&[], "seq 100000; seq 3 >&2");
    assert_eq!(outcome.0.stdout.len(), 588_895);
    assert_eq!(outcome.0.stderr, b"1\n2\n3\n");
}

#[test]
fn a_command_that_cannot_run_is_told_as_a_shell_would() {
    let fixture = Fixture::new();
    fixture.lower("bin/plain", "text");
    fixture.lower("bin/script", "#!/no/such\n");
    for name in ["plain", "script"] {
        let path = fixture.path("lower/bin").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = |args: &[&str]| Outcome(fixture.command().args(args).output().unwrap()).text();
    let all = [
        run(&["--env=PATH=/none:/bin", "absent", "-x"]),
        run(&["/bin/absent"]),
        run(&["/bin"]),
        run(&["plain"]),
        run(&["script"]),
        run(&["--cwd=/none", "true"]),
    ];
    assert_data_eq!(
        all.concat(),
        str![[r#"
---- stderr ----
error: `absent` was not found in the PATH `/none:/bin`
[exit status: 127]
---- stderr ----
error: `/bin/absent` was not found in the file system of the step
[exit status: 127]
---- stderr ----
error: cannot execute `/bin`
caused by: Permission denied (os error 13)
[exit status: 126]
---- stderr ----
error: cannot execute `/bin/plain`
caused by: Exec format error (os error 8)
hint: it is for another architecture, or a script without a `#!` line
[exit status: 126]
---- stderr ----
error: cannot execute `/bin/script`
caused by: No such file or directory (os error 2)
hint: its interpreter (the `#!` line or the dynamic loader) is missing
[exit status: 126]
---- stderr ----
error: cannot enter the working directory `/none`
caused by: Read-only file system (os error 30)
[exit status: 3]

"#]]
    );
}

#[test]
fn a_hundred_steps_at_once() {
    let fixture = Fixture::new();
    let mut command = fixture.command();
    command.args(["--threads=100", "--times=1", "--work=/unused"]);
    command.arg("--upper").arg(fixture.path("upper"));
    let script = "echo $$ > /f && cat /f";
    let outcome = Outcome(command.args(["sh", "-c", script]).output().unwrap());
    let stdout = outcome.stdout();
    assert_eq!(
        stdout.lines().filter(|line| *line == "1").count(),
        100,
        "{stdout}"
    );
    let written = (0..100).filter(|n| fixture.path(&format!("upper/{n}-0/upper/f")).exists());
    assert_eq!(written.count(), 100);
}
