//! What a failed step leaves: it is kept, entered, and goes; and no secret is in it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use snapbox::assert_data_eq;
use snapbox::str;

use crate::single_id;
use crate::support::AtTerminal;
use crate::support::Base;
use crate::support::Gate;
use crate::support::Output;
use crate::support::TestEnv;

/// A step that is told apart from all others by what it has, and fails when it has written something.
const FAILING: &str = "FROM busybox
RUN echo dev:x:1234:1234::/home/dev:/bin/sh >> /etc/passwd && mkdir /work && chown dev /work
USER dev
ENV COLOUR=green
WORKDIR /work
RUN echo half > made; rm -f /tmp/x; exit 7
";

fn failing() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", FAILING)
}

impl TestEnv {
    /// What is kept.
    fn failures(&self) -> Vec<PathBuf> {
        let kept = fs::read_dir(self.store().join("v1/failures"));
        kept.map_or_else(
            |_| Vec::new(),
            |list| list.map(|entry| entry.unwrap().path()).collect(),
        )
    }

    /// Fails, and keeps the step.
    fn fails(&self, args: &[&str]) -> Output {
        let output = self.rbuild(args.iter().chain(&["."])).code(1);
        self.rbuild(["debug", "fsck", "--deep"]).success();
        output
    }

    /// What a command prints in the step that failed last.
    fn inside(&self, script: &str) -> String {
        let output = self.rbuild(["shell", "--", "sh", "-c", script]);
        output.success().stdout
    }
}

/// All files below a directory that hold a word.
fn holding(dir: &Path, word: &str) -> String {
    let found = Command::new("grep").args(["-rlaF", word]).arg(dir).output();
    String::from_utf8(found.unwrap().stdout).unwrap()
}

#[test]
fn it_is_as_the_step_left_it() {
    let env = failing();
    env.fails(&[]);
    assert_data_eq!(
        env.inside("cat made; pwd; id -un; echo $COLOUR $HOME; touch here; cat here made"),
        str![[r#"
half
/work
dev
green /home/dev
half

"#]]
    );
    // What was changed stays, and gets nowhere else.
    assert_eq!(env.inside("ls"), "here\nmade\n");
    env.rbuild(["shell", "--", "false"]).code(1);
    env.rbuild(["shell", "sh", "-c", "kill -9 $$"]).code(137);
    // The step's own command, once more.
    env.rbuild(["shell", "--again"]).code(7);
    env.rbuild([
        "shell",
        "-e",
        "COLOUR=red",
        "--",
        "sh",
        "-c",
        "echo $COLOUR",
    ])
    .success()
    .is(str![[r#"
red

"#]]);
    let list = env.rbuild(["shell", "--list"]).success().stdout;
    let mut lines = list.lines().map(|line| line.split_whitespace());
    assert_eq!(
        lines.next().unwrap().collect::<Vec<_>>(),
        ["ID", "FAILED", "STEP", "ENDED"]
    );
    let id = lines.next().unwrap().next().unwrap().to_owned();
    assert!(list.contains("RUN echo half > made") && list.contains("exit code: 7"));
    assert_eq!(lines.count(), 0);
    env.rbuild(["shell", "--id", &id[..5], "cat", "made"])
        .success();

    // Nothing that was done in there is in what is built afterwards; and then nothing is kept any more.
    env.write("Dockerfile", FAILING.replace("exit 7", "exit 0"));
    env.rbuild(["-t", "app", "."]).success();
    assert_eq!(env.failures().len(), 0);
    assert_eq!(env.rbuild(["run", "app", "ls"]).success().stdout, "made\n");
    env.rbuild(["shell"]).code(2).fails_with(str![[r#"
error: no failed step is kept in this store
hint: when a RUN fails, `rbuild shell` enters what it left
[exit status: 2]

"#]]);
}

#[test]
fn mounts_are_those_of_the_step() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("given", "from the context\n")
        .file(
            "Dockerfile",
            "FROM busybox AS other
RUN echo other > /other
FROM busybox
RUN --mount=target=/ctx,rw --mount=from=other,target=/o --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \\
    echo cached > /c/f; echo gone > /t/f; echo written > /ctx/new; false
",
        );
    for stacker in ["overlay", "link"] {
        let root = format!("--root=../{stacker}");
        let flags = [&*root, &*format!("--stacker={stacker}")];
        env.rbuild(flags.iter().chain(&["."])).code(1);
        // The context is what it was, also if it is another now.
        env.write("given", "something else\n");
        let script =
            "cat /ctx/given /ctx/new /o/other /c/f; ls /t | wc -l; grep -c ' /c ' /proc/mounts";
        let args = ["shell", &root, "--", "sh", "-c", script];
        env.rbuild(args).success().is(str![[r#"
from the context
written
other
cached
0
1

"#]]);
        env.rbuild(["debug", "fsck", "--deep", &root]).success();
        env.write("given", "from the context\n");
    }
}

#[test]
fn both_stackers_and_both_rungs_keep_it() {
    let link = failing();
    link.fails(&["--stacker=link"]);
    assert_eq!(link.inside("cat made; id -un; pwd"), "half\ndev\n/work\n");
    let env = failing();
    single_id::build(&env, &["."]).code(1);
    let inside = [
        "shell",
        "--",
        "sh",
        "-c",
        "cat made; id -un; stat -c %U made .",
    ];
    let output = single_id::build(&env, &inside).success();
    assert_eq!(output.stdout, "half\ndev\ndev\ndev\n");
    // The ids are others then.
    env.rbuild(["shell", "true"])
        .code(3)
        .says("under other user ids");
}

#[test]
fn a_command_that_is_not_there_is_a_failure_too() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN [\"/nowhere\", \"-x\"]\n");
    env.fails(&[]);
    assert_eq!(env.inside("ls /bin/sh"), "/bin/sh\n");

    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin/busybox /busybox\nRUN [\"/busybox\", \"false\"]\n");
    env.fails(&[]);
    env.rbuild(["shell", "/busybox", "echo", "here"])
        .success()
        .is(str![[r#"
here

"#]]);
    env.run(&mut env.rbuild_command(["shell"]))
        .code(127)
        .fails_with(str![[r#"
error: `/bin/sh` was not found in the file system of the step
hint: name a program that is there, as in `rbuild shell -- /bin/app --help`
[exit status: 127]

"#]]);
}

#[test]
fn what_is_secret_is_asked_for_again() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox
ARG NPM_TOKEN
RUN --mount=type=secret,id=key --mount=type=secret,id=pw,env=PW cp /run/secrets/key /copied; false
",
        )
        .file("key", "aVerySecretKey\n");
    let secrets = ["--secret=id=key,src=key", "--secret=id=pw,src=key"];
    let args = |keep: &'static str| {
        let all = [
            &[keep, "--build-arg=NPM_TOKEN=tokenTokenToken"],
            &secrets[..],
        ];
        all.concat()
    };
    // It may have written them down, so it is not kept.
    env.fails(&args("--keep-failed=auto"));
    assert_eq!(env.failures().len(), 0);
    assert_eq!(holding(&env.store(), "aVerySecretKey"), "");
    env.rbuild(["shell", "true"])
        .code(2)
        .says("nothing of it is kept");
    // Without them there is nothing to fear.
    env.fails(&["--build-arg=NPM_TOKEN=tokenTokenToken"]);
    assert_eq!(holding(&env.store(), "tokenTokenToken"), "");
    let script = "cp /run/secrets/key /copied; cat /copied; echo $PW $NPM_TOKEN";
    let again = ["shell", "-e", "NPM_TOKEN=x", "--", "sh", "-c", script];
    let given = secrets.iter().chain(&again[1..]);
    env.rbuild(again[..1].iter().chain(given))
        .success()
        .is(str![[r#"
aVerySecretKey
aVerySecretKey x
---- stderr ----
it is given secrets, so nothing of it is kept after this

"#]]);
    // What ran there has written them down, too.
    assert_eq!(env.failures().len(), 0);
    assert_eq!(holding(&env.store(), "aVerySecretKey"), "");
    env.fails(&["--build-arg=NPM_TOKEN=tokenTokenToken"]);
    let said = env.rbuild(["shell", "true"]).success().stderr;
    assert_data_eq!(
        said,
        str![[r#"
the secret `key` is not there: `--secret id=key,src=FILE` gives it
the secret `pw` is not there: `--secret id=pw,src=FILE` gives it
the variable `NPM_TOKEN` was not kept, since its value looks secret: `-e NPM_TOKEN=VALUE` gives it

"#]]
    );
    assert_eq!(holding(&env.store(), "aVerySecretKey"), "");
    assert_eq!(holding(&env.store(), "tokenTokenToken"), "");
    // Who says so has it kept all the same.
    env.fails(&args("--keep-failed=always"));
    assert_eq!(env.failures().len(), 1);
    env.fails(&["--keep-failed=never", "--no-cache"]);
    assert_eq!(env.failures().len(), 1, "that of before");
}

#[test]
fn where_nothing_ran_there_is_nothing_to_enter() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN false\n")
        .file(
            "other",
            "FROM busybox\nRUN true\nCOPY --from=busybox /nowhere /\n",
        );
    env.fails(&[]);
    env.rbuild(["-f", "other", "."]).code(2);
    let said = env.rbuild(["shell"]).code(2).stderr;
    assert!(
        said.starts_with("error: `[stage-0 3/3] COPY --from=busybox /nowhere /` failed last, and no process ran there: there is nothing to enter\nhint: `rbuild shell --id "),
        "{said}"
    );
    assert!(
        said.ends_with(" enters `[2/2] RUN false`, which failed before that\n"),
        "{said}"
    );
}

#[test]
fn three_are_kept_each_of_another_plan() {
    let env = TestEnv::new().bases([Base::Busybox]);
    for number in 0..5 {
        let name = format!("Dockerfile.{number}");
        env.write(
            &name,
            format!("FROM busybox\nRUN echo {number} > /n; false\n"),
        );
        for _ in 0..2 {
            env.rbuild(["-f", &name, "."]).code(1);
        }
    }
    assert_eq!(env.failures().len(), 3);
    assert_eq!(env.inside("cat /n"), "4\n");
    let list = env.rbuild(["shell", "--list"]).success().stdout;
    let oldest = list.lines().last().unwrap().split(' ').next().unwrap();
    let found = env.rbuild(["shell", "--id", oldest, "cat", "/n"]).success();
    assert_eq!(found.stdout, "2\n");
    env.rbuild(["debug", "fsck", "--deep"]).success();
}

/// `du` counts it, what it stands on stays, and it goes first.
#[test]
fn space_is_accounted_for_and_given_back() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN head -c 4000000 /dev/zero > /below\nRUN head -c 3000000 /dev/zero > /above; false\n",
    );
    env.fails(&[]);
    let row = || {
        let filter = [
            "du",
            "--filter",
            "type=exec.failed",
            "--format={{.Bytes}} {{.Description}}",
        ];
        env.rbuild(filter).success().stdout
    };
    let found = row();
    let (bytes, what) = found.split_once(' ').unwrap();
    assert!(bytes.parse::<u64>().unwrap() >= 3_000_000, "{found}");
    assert_eq!(
        what,
        "failed step [3/3] RUN head -c 3000000 /dev/zero > /above; false\n"
    );
    // All else goes, but what it stands on.
    env.rbuild(["prune", "--all", "--force", "--filter", "type!=exec.failed"])
        .success();
    assert_eq!(env.inside("ls /above /below"), "/above\n/below\n");
    env.rbuild(["debug", "fsck", "--deep"]).success();
    env.rbuild(["prune", "--force"]).success();
    assert_eq!((row().as_str(), env.failures().len()), ("", 0));
    env.rbuild(["shell"]).code(2);
    env.rbuild(["debug", "fsck", "--deep"]).success();

    env.fails(&[]);
    env.rbuild(["reset", "--force"]).success();
    assert!(!env.store().join("v1").exists());
}

#[test]
fn who_is_in_it_is_not_disturbed() {
    let env = failing();
    env.fails(&[]);
    let gate = Gate::new();
    let script = format!("{}; cat made", gate.pass());
    let inside = env
        .rbuild_command(["shell", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let waiting = gate.wait();
    env.rbuild(["shell", "true"])
        .code(2)
        .says("somebody else is in");
    env.rbuild(["prune", "--all", "--force"]).success();
    // Another failure of the plan takes the place of those that nobody is in.
    env.rbuild(["--no-cache", "."]).code(1);
    assert_eq!(env.failures().len(), 2);
    waiting.go_on();
    assert_eq!(env.finished(inside).success().stdout, "half\n");
    env.rbuild(["prune", "--all", "--force"]).success();
    assert_eq!(env.failures().len(), 0);
}

/// Killed at each renaming, of which keeping is one: there is all of it or nothing, and the next build keeps its own.
#[test]
fn a_build_that_is_killed_keeps_it_whole_or_not_at_all() {
    let env = failing();
    env.fails(&[]);
    for at in 1.. {
        env.rbuild(["prune", "--force", "--filter", "type=exec.failed"])
            .success();
        let inject = format!("inject=/^rename:signal=SIGKILL:when={at}");
        let mut traced = env.tool_command("strace");
        traced.args([
            "-f",
            "-qqq",
            "-b",
            "execve",
            "-o",
            "/dev/null",
            "-e",
            &inject,
        ]);
        traced.args([env!("CARGO_BIN_EXE_rbuild"), "--no-cache", "."]);
        let code = env.run(&mut traced).status.code();
        env.rbuild(["debug", "fsck", "--deep"]).success();
        assert!(env.failures().len() < 2);
        // Killed behind a name, or in front of it.
        for failure in env.failures() {
            assert!(failure.join("about.json").is_file() && failure.join("upper").is_dir());
        }
        if code == Some(1) {
            assert!(at > 2, "it was never killed");
            break;
        }
    }
    env.fails(&["--no-cache"]);
    assert_eq!(env.inside("cat made"), "half\n");
}

#[test]
fn builds_that_fail_at_once_each_keep_theirs() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let gates = [Gate::new(), Gate::new()];
    let builds = [0, 1].map(|number: usize| {
        let name = format!("Dockerfile.{number}");
        let pass = gates[number].pass();
        env.write(
            &name,
            format!("FROM busybox\nRUN {pass}; echo {number} > /n; false\n"),
        );
        env.rbuild_command(["-f", &name, "."])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let [one, other] = gates.map(|gate| gate.wait());
    one.go_on();
    other.go_on();
    for build in builds {
        env.finished(build).code(1);
    }
    assert_eq!(env.failures().len(), 2);
    env.rbuild(["debug", "fsck", "--deep"]).success();
}

#[test]
fn failed_tests_are_steps_as_well() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "rbuild.toml",
        r#"
schema = 1

[inputs]
busybox = { image = "busybox" }

[step.app]
from = "busybox"
run = ["echo app > /app"]

[test.unit]
from = "app"
run = ["mkdir /reports && echo report > /reports/r; false"]
export = [{ path = "/reports/r", to = "reports/" }]
"#,
    );
    let tested = env.rbuild(["test", "."]);
    tested.code(1);
    assert_eq!(env.inside("cat /app /reports/r"), "app\nreport\n");
    env.rbuild(["debug", "fsck", "--deep"]).success();
}

#[test]
fn a_person_is_at_home_there() {
    let env = failing();
    env.fails(&[]);
    let mut shell = AtTerminal::start(env.rbuild_command(["shell"]).env("TERM", "vt100"));
    shell
        .shows("exit code: 7")
        .shows("its command:")
        .shows("echo half > made; rm -f /tmp/x; exit 7")
        .shows("$ ")
        .types("tty; stty size; echo $TERM; id -un\r")
        .shows("/dev/pts/0")
        .shows("40 100")
        .shows("vt100")
        .shows("dev")
        .shows("$ ")
        // Ctrl-C is for what runs there; that says itself when it runs, since the shell has a moment in which it is
        // between two commands, and forgets it.
        .types("sh -c 'trap \"echo in${x}terrupted; exit\" INT; echo be${x}gun; while :; do sleep 1; done'\r")
        .shows("begun")
        .types("\x03")
        .shows("interrupted")
        .shows("$ ")
        .types("cat made; exit 5\r")
        .shows("half");
    assert_eq!(shell.ends().1, Some(5));
    // Of one that is over at once nothing is lost.
    let quick =
        AtTerminal::start(&env.rbuild_command(["shell", "--", "sh", "-c", "test -t 0 && tty"]));
    assert_eq!(quick.ends(), ("/dev/pts/0\r\n".to_owned(), Some(0)));
}

#[test]
fn the_shell_opens_at_once_if_that_is_asked_for() {
    let env = failing().file("key", "aVerySecretKey\n");
    for (flags, kept) in [
        (&["--progress=plain"][..], 1),
        (&["--progress=tty", "--stacker=link"], 1),
        (&["--keep-failed=never"], 0),
    ] {
        let args = ["--shell-on-fail", "--no-cache", "."];
        let mut build = AtTerminal::start(
            env.rbuild_command(flags.iter().chain(&args))
                .env("TERM", "vt100")
                .env("NO_COLOR", "1"),
        );
        build
            .shows("exit code: 7")
            .shows("its command:")
            .shows("$ ")
            .types("cat made && touch in-there && exit\r")
            .shows("half")
            .shows("error: ");
        let (shown, code) = build.ends();
        assert_eq!(code, Some(1), "{shown}");
        assert_eq!(env.failures().len(), kept, "{shown}");
        if kept == 1 {
            assert!(shown.contains("hint: `rbuild shell` enters"), "{shown}");
            assert_eq!(env.inside("ls"), "in-there\nmade\n");
            env.rbuild(["prune", "--force"]).success();
        }
        env.rbuild(["debug", "fsck", "--deep"]).success();
    }
    // The build has the secrets, and they are nowhere afterwards.
    env.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=key cp /run/secrets/key /k; false\n",
    );
    let args = ["--shell-on-fail", "--secret=id=key,src=key", "."];
    let mut build = AtTerminal::start(&env.rbuild_command(args));
    build
        .shows("nothing of it is kept")
        .shows("# ")
        .types("cat /k /run/secrets/key; exit\r")
        .shows("aVerySecretKey")
        .shows("aVerySecretKey");
    assert_eq!(build.ends().1, Some(1));
    assert_eq!(holding(&env.store(), "aVerySecretKey"), "");
    env.rbuild(["--shell-on-fail", "."])
        .code(2)
        .fails_with(str![[r#"
error: `--shell-on-fail` takes a terminal, and standard input and output are none
hint: leave it out: `rbuild shell` enters what a failed step left, later too
[exit status: 2]

"#]]);
}
