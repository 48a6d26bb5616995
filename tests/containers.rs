//! `rbuild run` as a person uses it: signals, ports, and containers that go on in the background.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;

use crate::support::AtTerminal;
use crate::support::Base;
use crate::support::TestEnv;

/// A container whose process has written `ready`.
fn ready(env: &TestEnv, script: &str) -> Child {
    let mut command = env.rbuild_command(["run", "busybox", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn signals_are_the_processes() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let exit = |script: &str, signal: Signal| {
        let mut child = ready(&env, script);
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait().unwrap().code()
    };
    let traps = "trap 'exit 7' TERM; trap 'exit 8' INT; trap 'exit 9' WINCH; echo ready; sleep 86400 & wait";
    assert_eq!(exit(traps, Signal::TERM), Some(7));
    assert_eq!(exit(traps, Signal::INT), Some(8));
    assert_eq!(exit(traps, Signal::WINCH), Some(9));
    // What the process does not handle ends it.
    assert_eq!(
        exit("echo ready; exec sleep 86400", Signal::TERM),
        Some(143)
    );
    assert_eq!(exit("echo ready; exec sleep 86400", Signal::HUP), Some(129));
    // Other ends than that of the container's first process do not count.
    let left = env.rbuild([
        "run",
        "busybox",
        "sh",
        "-c",
        "sleep 86400 & kill -9 $!; wait; exit 5",
    ]);
    left.code(5);
}

/// The address in `0.0.0.0:1234 leads to port 8080`.
fn address(env: &TestEnv, id: &str) -> String {
    let said = env.rbuild(["logs", id]).success().stdout;
    let line = said
        .lines()
        .find(|line| line.ends_with(" leads to port 8080"));
    line.unwrap_or_else(|| panic!("{said}"))
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn a_container_goes_on_in_the_background_until_it_is_stopped() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let script =
        "trap 'echo over; exit 0' TERM; while :; do echo hello | nc -l -p 8080; done & wait";
    let flags = [
        "run",
        "-d",
        "-p",
        "127.0.0.1::8080",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let id = env.rbuild(flags).success().stdout;
    let id = id.trim();
    let address = address(&env, id);
    let patience = Instant::now() + Duration::from_secs(60);
    let mut answer = String::new();
    // Until its process listens connections are taken and closed.
    while answer.is_empty() {
        assert!(Instant::now() < patience);
        let mut stream = TcpStream::connect(&address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(stream.read_to_string(&mut answer));
    }
    assert_eq!(answer, "hello\n");
    let stopped = env.rbuild(["stop", "--time=60", &id[..6]]).success();
    assert_eq!(stopped.stdout, format!("{}\n", &id[..6]));
    let log = env.rbuild(["logs", "--follow", id]).success().stdout;
    assert!(log.ends_with("over\n"), "{log}");
    assert!(TcpStream::connect(&address).is_err());
    // It has ended: nothing to do.
    assert_eq!(env.rbuild(["stop", id]).success().stdout, "");
}

#[test]
fn what_does_not_end_by_itself_is_killed() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let script = "trap '' TERM; echo deaf; sleep 86400";
    let id = env
        .rbuild(["run", "-d", "busybox", "sh", "-c", script])
        .success()
        .stdout;
    let deaf = || env.rbuild(["logs", id.trim()]).success().stdout == "deaf\n";
    assert!(
        (0..2000).any(|_| deaf()),
        "it has its trap before it says so"
    );
    env.rbuild(["stop", "--time=0", id.trim()]).success();
    assert_eq!(env.rbuild(["stop", id.trim()]).success().stdout, "");
}

#[test]
fn what_cannot_start_is_told_at_once() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{}:80", taken.local_addr().unwrap());
    env.rbuild(["run", "-d", "-p", &port, "busybox", "true"])
        .code(3)
        .says("error: cannot listen on 127.0.0.1:");
    env.rbuild(["logs", "nothing"])
        .code(2)
        .says("error: there is no container `nothing`");
}

/// The exit codes of `docker run` (Docker's reference, "Exit status").
#[test]
fn a_program_that_is_not_there_is_told_from_one_that_cannot_be_executed() {
    let env = TestEnv::new().bases([Base::Busybox]);
    for (program, code, error) in [
        ("nosuch", 127, "error: `nosuch` was not found in the PATH"),
        ("/etc/passwd", 126, "error: cannot execute `/etc/passwd`"),
        ("/etc", 126, "error: cannot execute `/etc`"),
    ] {
        env.rbuild(["run", "busybox", program])
            .code(code)
            .says(error);
    }
}

#[test]
fn a_container_at_a_terminal_has_one_of_its_own() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let mut at = AtTerminal::start(&env.rbuild_command(["run", "-it", "busybox", "sh"]));
    // What is typed before the shell reads lines may be lost to it.
    at.shows("# ");
    at.types("tty; stty size; echo kind: $TERM\n")
        .shows("/dev/pts/0")
        .shows("40 100")
        .shows("kind: xterm");
    at.types("echo lo''op; while [ \"$(stty size)\" = '40 100' ]; do :; done; stty size\n");
    // A line editor that is told of another size while it reads a line may lose some of it.
    at.shows("loop");
    at.is_resized(30, 90).shows("30 90");
    // Ctrl-C is for what runs there: it says that it is in the foreground, and may be between two sleeps.
    at.types("sh -c 'trap \"echo caught; exit\" INT; echo re\"\"ady; while :; do sleep 1; done'\n")
        .shows("ready")
        .types("\x03")
        .shows("caught")
        .shows("# ");
    at.types("exit 7\n");
    assert_eq!(at.ends().1, Some(7));
    // Where nobody sits.
    env.rbuild(["run", "-it", "busybox", "true"])
        .code(2)
        .says("error: `-it` takes a terminal, and standard input is none");
    // A terminal that nobody types at.
    let shown = env.rbuild(["run", "-t", "busybox", "sh", "-c", "test -t 0 && stty size"]);
    assert_eq!(shown.success().stdout, "24 80\r\n");
    let mut at = AtTerminal::start(&env.rbuild_command(["run", "-t", "busybox", "stty", "size"]));
    at.shows("40 100");
    assert_eq!(at.ends().1, Some(0));
}

#[test]
fn standard_input_is_handed_on_if_it_is_asked_for() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let say = |flags: &[&str]| {
        let args = [&["run"], flags, &["busybox", "cat"]].concat();
        let mut child = env
            .rbuild_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody may read it.
        drop(child.stdin.take().unwrap().write_all(b"said\n"));
        env.finished(child).success().stdout
    };
    assert_eq!(say(&["-i"]), "said\n");
    assert_eq!(say(&[]), "");
    // At a terminal it is what is typed, and the terminal is none of the container's.
    let script = "test -t 0 && exit 9; echo re''ady; read word; echo got $word; exit 3";
    let mut at =
        AtTerminal::start(&env.rbuild_command(["run", "-i", "busybox", "sh", "-c", script]));
    at.shows("ready").types("word\n").shows("got word");
    assert_eq!(at.ends().1, Some(3));
    env.rbuild(["run", "-di", "busybox", "cat"])
        .code(2)
        .says("error: `-i` hands on standard input, and with `-d` there is none");
}
