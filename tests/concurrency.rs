//! Several builds at once, and builds that are stopped.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
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

/// Longer than anything here takes; only a test that fails waits for it.
const FOREVER: Duration = Duration::from_secs(60);
/// What a build says that waits for another one.
const WAITS: &str = "waiting for another build that runs this step";

/// A build that can be listened to while it runs.
struct Build {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Build {
    fn start(env: &TestEnv, args: &[&str]) -> Self {
        Self::of(env.rbuild_command(["--progress=plain"]).args(args))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = start(command);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                if tell.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            said: String::new(),
        }
    }

    /// Waits until it says something with `text` in it.
    #[track_caller]
    fn until(&mut self, text: &str) {
        loop {
            let line = self.lines.recv_timeout(FOREVER);
            let line = line.unwrap_or_else(|_| panic!("no `{text}` in:\n{}", self.said));
            self.said += &line;
            self.said.push('\n');
            if line.contains(text) {
                return;
            }
        }
    }

    fn interrupt(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.said.extend(self.lines.iter().map(|line| line + "\n"));
        (status, self.said)
    }

    #[track_caller]
    fn ends_with(self, code: i32) -> String {
        let (status, said) = self.end();
        assert_eq!(status.code(), Some(code), "{said}");
        said
    }
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
        assert!(start.elapsed() < FOREVER, "`{word}` is still running");
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

/// What of a test's own directory is mounted, in the mount namespace of any process.
fn mounted(env: &TestEnv) -> Vec<String> {
    let place = env.outside("").display().to_string();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
        let ours = mounts.lines().filter(|line| line.contains(&place));
        found.extend(ours.map(str::to_owned));
    }
    found
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
        assert!(!mounted(&env).is_empty(), "a step has its layers");
        rustix::process::kill_process(Pid::from_child(&build), signal).unwrap();
        let output = build.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert!(!is_running(mark));
        assert_eq!(mounted(&env), [""; 0]);
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

/// A step that comes out differently each time, and meets the gate.
fn random_at(gate: &Gate) -> TestEnv {
    let file = format!(
        "FROM busybox\nRUN {}; cat /proc/sys/kernel/random/uuid > /random\n",
        gate.pass()
    );
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file)
}

#[test]
fn a_step_that_several_builds_want_runs_once() {
    let gate = Gate::new();
    let env = random_at(&gate);
    let first = Build::start(&env, &["-o", "first", "."]);
    let running = gate.wait();
    let mut others: Vec<Build> = ["second", "third"]
        .map(|out| Build::start(&env, &["-o", out, "."]))
        .into();
    others.iter_mut().for_each(|other| other.until(WAITS));
    running.go_on();
    assert!(!first.ends_with(0).contains("CACHED"));
    for other in others {
        let said = other.ends_with(0);
        assert!(said.contains("CACHED"), "{said}");
    }
    let random = |out: &str| fs::read(env.path(out).join("random")).unwrap();
    assert_eq!(random("first"), random("second"));
    assert_eq!(random("first"), random("third"));
}

#[test]
fn of_those_who_wait_one_takes_over_from_a_build_that_is_killed() {
    let gate = Gate::new();
    let env = random_at(&gate);
    let mut first = Build::start(&env, &["-o", "first", "."]);
    let running = gate.wait();
    let mut others: Vec<Build> = ["second", "third"]
        .map(|out| Build::start(&env, &["-o", out, "."]))
        .into();
    others.iter_mut().for_each(|other| other.until(WAITS));
    first.child.kill().unwrap();
    first.end();
    drop(running);
    gate.wait().go_on();
    for other in others {
        other.ends_with(0);
    }
    let random = |out: &str| fs::read(env.path(out).join("random")).unwrap();
    assert_eq!(random("second"), random("third"));
}

/// Which it probably does again: they find it out at the same time, and not one after the other.
#[test]
fn those_who_waited_for_a_step_that_failed_run_it_themselves() {
    let gate = Gate::new();
    let file = format!("FROM busybox\nRUN {}; exit 3\n", gate.pass());
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file);
    let first = Build::start(&env, &["."]);
    let running = gate.wait();
    let mut others: Vec<Build> = (0..2).map(|_| Build::start(&env, &["."])).collect();
    others.iter_mut().for_each(|other| other.until(WAITS));
    running.go_on();
    first.ends_with(1);
    let both = [gate.wait(), gate.wait()];
    both.into_iter().for_each(|waiting| waiting.go_on());
    for other in others {
        let said = other.ends_with(1);
        assert!(said.contains("exit code: 3"), "{said}");
    }
}

#[test]
fn who_waits_and_is_interrupted_leaves_at_once() {
    let gate = Gate::new();
    let env = random_at(&gate);
    let first = Build::start(&env, &["-o", "first", "."]);
    let running = gate.wait();
    let mut second = Build::start(&env, &["."]);
    second.until(WAITS);
    second.interrupt();
    let said = second.ends_with(130);
    assert!(said.contains("interrupted"), "{said}");
    running.go_on();
    first.ends_with(0);
    assert!(env.path("first/random").exists());
}

#[test]
fn what_several_builds_fetch_is_fetched_once() {
    let gate = Gate::new();
    // What the gate answers: nothing.
    let url = gate.pass().split_whitespace().last().unwrap().to_owned();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let file = format!("FROM scratch\nADD --checksum=sha256:{empty} {url}file /file\n");
    let env = TestEnv::new().file("Dockerfile", file);
    let first = Build::start(&env, &["-o", "first", "."]);
    let asked = gate.wait();
    let mut second = Build::start(&env, &["-o", "second", "."]);
    second.until(WAITS);
    asked.go_on();
    first.ends_with(0);
    second.ends_with(0);
    assert_eq!(fs::read(env.path("second/file")).unwrap(), b"");
}

/// It asks for a run of its own; those who do not may wait for it all the same.
#[test]
fn no_cache_waits_for_nobody() {
    let gate = Gate::new();
    let env = random_at(&gate);
    let first = Build::start(&env, &["-o", "first", "."]);
    let running = gate.wait();
    let second = Build::start(&env, &["--no-cache", "-o", "second", "."]);
    gate.wait().go_on();
    second.ends_with(0);
    running.go_on();
    first.ends_with(0);

    let third = Build::start(&env, &["--no-cache", "-o", "third", "."]);
    let running = gate.wait();
    // The store has a result, but another one is asked for in the meantime.
    env.rbuild(["-q", "."]).success();
    running.go_on();
    third.ends_with(0);
    let random = |out: &str| fs::read(env.path(out).join("random")).unwrap();
    assert_ne!(random("first"), random("second"));
    assert_ne!(random("second"), random("third"));
}

/// As containers that share the store have: a pid would not tell one build from another.
#[test]
fn builds_in_pid_namespaces_of_their_own_wait_for_each_other() {
    let gate = Gate::new();
    let env = random_at(&gate);
    let start = |out: &str| {
        let rbuild = env.rbuild_command(["--progress=plain", "-o", out, "."]);
        let mut unshare = env.tool_command("unshare");
        unshare
            .args(["--map-current-user", "--pid", "--fork", "--mount-proc"])
            .arg(rbuild.get_program())
            .args(rbuild.get_args());
        Build::of(&mut unshare)
    };
    let first = start("first");
    let running = gate.wait();
    let outs = ["second", "third", "fourth", "fifth"];
    let mut others: Vec<Build> = outs.into_iter().map(start).collect();
    others.iter_mut().for_each(|other| other.until(WAITS));
    running.go_on();
    first.ends_with(0);
    for other in others {
        other.ends_with(0);
    }
    let random = |out: &str| fs::read(env.path(out).join("random")).unwrap();
    for out in outs {
        assert_eq!(random("first"), random(out));
    }
}

/// Each of two builds has what the other one waits for.
#[test]
fn builds_that_want_the_same_steps_in_another_order_do_not_wait_in_a_circle() {
    let (left, right) = (Gate::new(), Gate::new());
    let stage = |name: &str, gate: &Gate| {
        format!(
            "FROM busybox AS {name}\nRUN {}; echo {name} > /{name}\n",
            gate.pass()
        )
    };
    let (l, r) = (stage("l", &left), stage("r", &right));
    let end = "FROM scratch\nCOPY --from=l /l /\nCOPY --from=r /r /\n";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", format!("{l}{r}{end}"))
        .file("other", format!("{r}{l}{end}"));
    let one = Build::start(&env, &["--jobs=1", "-o", "one", "."]);
    let first = left.wait();
    let other = Build::start(&env, &["--jobs=1", "-f", "other", "-o", "other-out", "."]);
    let second = right.wait();
    first.go_on();
    second.go_on();
    one.ends_with(0);
    other.ends_with(0);
    assert_eq!(fs::read_to_string(env.path("one/r")).unwrap(), "r\n");
    assert_eq!(fs::read_to_string(env.path("other-out/l")).unwrap(), "l\n");
}

/// With one place for steps, the second stage runs while the first waits for another build.
#[test]
fn a_step_that_waits_leaves_its_place_to_others() {
    let (shared, own) = (Gate::new(), Gate::new());
    let stage = format!("FROM busybox AS a\nRUN {}; touch /a\n", shared.pass());
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", &stage)
        .file(
            "two",
            format!(
                "{stage}FROM busybox AS b\nRUN {}; touch /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
                own.pass()
            ),
        );
    let first = Build::start(&env, &["."]);
    let running = shared.wait();
    let mut second = Build::start(&env, &["--jobs=1", "-f", "two", "-o", "out", "."]);
    second.until(WAITS);
    own.wait().go_on();
    running.go_on();
    first.ends_with(0);
    second.ends_with(0);
    assert!(env.path("out/a").exists() && env.path("out/b").exists());
}

/// Two steps of one build that see the same files, whatever those were made of.
#[test]
fn equal_steps_of_one_build_run_once() {
    let stage = |name: &str| {
        format!(
            "FROM busybox AS {name}\nCOPY {name} /file\nRUN cat /proc/sys/kernel/random/uuid > /u\n"
        )
    };
    let (a, b) = (stage("a"), stage("b"));
    let end = "FROM scratch\nCOPY --from=a /u /a\nCOPY --from=b /u /b\n";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", format!("{a}{b}{end}"))
        .file("a", "same")
        .file("b", "same");
    env.rbuild(["-o", "out", "."]).success();
    let read = |name: &str| fs::read(env.path("out").join(name)).unwrap();
    assert_eq!(read("a"), read("b"));
}

/// A step with a cache mount, which writes `word` to it and meets the gate.
fn with_cache(sharing: &str, word: &str, gate: &Gate) -> String {
    format!(
        "FROM busybox\nRUN --mount=type=cache,id=both,target=/c,sharing={sharing} echo {word} >> /c/words; {}; \
         cp /c/words /words\n",
        gate.pass()
    )
}

#[test]
fn a_locked_cache_mount_is_had_by_one_build_at_a_time_and_freed_by_one_that_is_killed() {
    let (one, two, three) = (Gate::new(), Gate::new(), Gate::new());
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("1", with_cache("locked", "one", &one))
        .file("2", with_cache("locked", "two", &two))
        .file("3", with_cache("locked", "three", &three));
    let waits = "waiting for the cache mount `both`";
    let first = Build::start(&env, &["-f", "1", "."]);
    let running = one.wait();
    let mut second = Build::start(&env, &["-f", "2", "."]);
    second.until(waits);
    running.go_on();
    first.ends_with(0);
    let running = two.wait();
    let mut third = Build::start(&env, &["-f", "3", "-o", "out", "."]);
    third.until(waits);
    second.child.kill().unwrap();
    second.end();
    drop(running);
    three.wait().go_on();
    third.ends_with(0);
    let words = fs::read_to_string(env.path("out/words")).unwrap();
    assert_eq!(words, "one\ntwo\nthree\n");
}

#[test]
fn who_waits_for_a_cache_mount_and_is_interrupted_leaves_at_once() {
    let (one, two) = (Gate::new(), Gate::new());
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("1", with_cache("locked", "one", &one))
        .file("2", with_cache("shared", "two", &two));
    let first = Build::start(&env, &["-f", "1", "."]);
    let running = one.wait();
    let mut second = Build::start(&env, &["-f", "2", "."]);
    second.until("waiting for the cache mount");
    second.interrupt();
    second.ends_with(130);
    running.go_on();
    first.ends_with(0);
}

/// Both meet, so neither waits.
#[test]
fn shared_cache_mounts_are_one_and_private_ones_are_not() {
    for (sharing, want) in [("shared", "one\ntwo\n"), ("private", "two\n")] {
        let (one, two) = (Gate::new(), Gate::new());
        let env = TestEnv::new()
            .bases([Base::Busybox])
            .file("1", with_cache(sharing, "one", &one))
            .file("2", with_cache(sharing, "two", &two));
        let first = Build::start(&env, &["-f", "1", "."]);
        let first_runs = one.wait();
        let second = Build::start(&env, &["-f", "2", "-o", "out", "."]);
        let second_runs = two.wait();
        first_runs.go_on();
        second_runs.go_on();
        first.ends_with(0);
        second.ends_with(0);
        let words = fs::read_to_string(env.path("out/words")).unwrap();
        assert_eq!(words, want, "{sharing}");
    }
}

/// Each has the mount that the other wants next, had they taken them as they are written.
#[test]
fn two_cache_mounts_in_another_order_are_no_circle() {
    let mount = |id: &str| format!("--mount=type=cache,sharing=locked,id={id},target=/{id}");
    let line = |first: &str, second: &str, n: u32| {
        format!(
            "FROM busybox\nRUN {} {} echo {n}\n",
            mount(first),
            mount(second)
        )
    };
    let env = TestEnv::new().bases([Base::Busybox]);
    for n in 0..8 {
        let (a, b) = [("a", "b"), ("b", "a")][n as usize % 2];
        env.write(&n.to_string(), line(a, b, n));
    }
    let builds: Vec<Build> = (0..8)
        .map(|n| Build::start(&env, &["-f", &n.to_string(), "."]))
        .collect();
    for build in builds {
        build.ends_with(0);
    }
}

#[test]
fn eight_unchanged_builds_agree() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox\nCOPY data /\nRUN cat /data > /copy\n",
        )
        .file("data", "data");
    let id = env.rbuild(["-q", "."]).success().stdout;
    let builds: Vec<Child> = (0..8)
        .map(|_| start(&mut env.rbuild_command(["-q", "."])))
        .collect();
    for build in builds {
        assert_eq!(env.finished(build).success().stdout, id);
    }
}
