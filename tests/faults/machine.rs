//! Disks that are full or read-only, system calls that fail, and times that cannot be.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use super::Victim;
use super::errors;
use super::rounds;
use crate::support::Output;

/// A command line as a shell takes it.
fn quoted(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_str().unwrap()));
    quoted.collect::<Vec<_>>().join(" ")
}

/// A store on a tmpfs that is too small for what is built: each build fails as a build on a full disk does or works, and
/// once there is room all is well.
#[test]
fn full_disks() {
    let (count, seed) = rounds(4);
    let mut victim = Victim::new(seed);
    fs::create_dir(&victim.root).unwrap();
    for _ in 0..count {
        victim.change();
        let build = quoted(&victim.command());
        let root = victim.root.display();
        let fsck = ["debug", "fsck", "--root", victim.root.to_str().unwrap()];
        let fsck = quoted(&victim.env.rbuild_command(fsck));
        let mut script = format!("mount -t tmpfs -o size=64m none {root}\n");
        // What is there from an earlier state of the project.
        if victim.maker.random.percent(50) {
            script += &format!(
                "{build} >/dev/null 2>&1\nrm -rf {}/*\n",
                victim.env.outside("out").display()
            );
        }
        let mut files = Vec::new();
        for _ in 0..3 {
            let room = victim.maker.random.below(4000) as u64;
            let file = victim.env.outside(&format!("said{}", files.len()));
            script += &format!(
                "used=$(df -k --output=used {root} | tail -1)\n\
                 mount -o remount,size=$((used + {room}))k {root}\n\
                 {build} >{file} 2>&1; echo exit $? >>{file}\n",
                file = file.display()
            );
            files.push(file);
        }
        // Also before anything is healed.
        script += &format!(
            "mount -o remount,size=256m {root}\n{fsck} || exit\n{build} || exit\n{fsck} --deep\n"
        );
        let done = victim.env.run(victim.env.tool_command("unshare").args([
            "--user",
            "--mount",
            "--map-root-user",
            "--map-auto",
            "--",
            "/bin/sh",
            "-c",
            &script,
        ]));
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            let said = [
                "No space left on device",
                "the disk is full",
                "error: the disk of the store",
            ];
            let refused = text.ends_with("exit 3\n") && said.iter().any(|said| text.contains(said));
            // A step itself may be the one that finds no room.
            let step = text.ends_with("exit 1\n") && text.to_lowercase().contains("no space left");
            if !refused && !step && !text.ends_with("exit 0\n") {
                let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
                victim.wrong(&format!("on a full disk: {}", lines.join("\n")));
            }
        }
        if !done.status.success() {
            victim.wrong(&format!("once there was room: {}", errors(&done)));
        }
        victim.must_have_built("a full disk");
    }
    println!("{count} full disks, seed {seed}");
}

/// Any system call of a build fails once. The build may fail or not.
#[test]
fn failing_system_calls() {
    let (count, seed) = rounds(8);
    let mut victim = Victim::new(seed);
    let mut injected = 0;
    for _ in 0..count {
        victim.change();
        let trace = victim.env.outside("trace");
        let calls = match victim.rounds % 25 {
            1 => Vec::new(),
            _ => calls_of(&trace),
        };
        let inject = match calls.is_empty() {
            true => "trace=all".to_owned(),
            false => {
                let (name, times) = victim.maker.random.pick(&calls).clone();
                let errors: &[&str] = match name.as_str() {
                    // No more threads or processes (clone(2)).
                    "clone" | "clone3" => &["EAGAIN"],
                    // A process without memory ends at once.
                    "mmap" | "mremap" => &["ENOMEM"],
                    _ => &["EIO", "ENOSPC", "EMFILE", "ENOMEM", "EACCES"],
                };
                let error = *victim.maker.random.pick(errors);
                injected += 1;
                format!(
                    "inject={name}:error={error}:when={}",
                    1 + victim.maker.random.below(times)
                )
            }
        };
        let done = traced(&victim, &trace, &inject);
        if done.status.success() {
            victim.must_have_built(&inject);
        }
        // That a library gives up where a process has no number, say, is its way. That there is no thread is not to get so far.
        let ours =
            ["src/", "cache/", "llb/", "frontends/"].map(|dir| format!(" panicked at {dir}"));
        let threads = inject.starts_with("inject=clone") && done.stderr.contains(" panicked at ");
        if threads || ours.iter().any(|ours| done.stderr.contains(ours)) {
            victim.wrong(&format!("{inject}: {}", errors(&done)));
        }
        victim.may_be_clean_already(&inject);
        victim.must_build(&inject);
    }
    println!("{injected} failing system calls, seed {seed}");
}

/// From some moment on a build gets neither threads nor processes (RLIMIT_NPROC, pids.max): it makes do without them, or
/// says so.
#[test]
fn no_more_threads() {
    let (count, seed) = rounds(4);
    let mut victim = Victim::new(seed);
    let trace = victim.env.outside("trace");
    let mut refused = 0;
    for round in 0..count {
        victim.change();
        // The first round has none at all.
        let had = match round {
            0 => 0,
            _ => victim.maker.random.below(24),
        };
        let inject = format!("inject=clone,clone3:error=EAGAIN:when={}+", had + 1);
        let done = traced(&victim, &trace, &inject);
        let said = "Resource temporarily unavailable";
        match done.status.code() {
            Some(0) => victim.must_have_built(&inject),
            Some(3) if done.stderr.contains(said) => refused += 1,
            _ => victim.wrong(&format!("{inject}: {}", errors(&done))),
        }
        if done.stderr.contains(" panicked at ") {
            victim.wrong(&format!("{inject}: {}", errors(&done)));
        }
        victim.may_be_clean_already(&inject);
        victim.must_build(&inject);
    }
    println!("{count} builds without threads, {refused} refused, seed {seed}");
    assert!(refused > 0);
}

/// A build of the project in which system calls fail as `inject` says, in the words of strace.
#[track_caller]
fn traced(victim: &Victim, trace: &Path, inject: &str) -> Output {
    let command = victim.command();
    let mut traced = victim.env.tool_command("timeout");
    traced.args(["--kill-after=1", "300", "strace"]);
    traced.args(["-f", "-b", "execve", "-qq", "-o"]).arg(trace);
    traced.args(["-e", inject, "-e", "signal=none"]);
    traced.arg(command.get_program()).args(command.get_args());
    let done = victim.env.run(&mut traced);
    if matches!(done.status.code(), Some(124 | 137)) {
        victim.wrong(&format!("{inject}: it hangs"));
    }
    done
}

/// The system calls in a trace by name, and how often the busiest of its processes made them. Those whose failure nobody
/// can live with (locks, giving memory back, the end) are left out.
fn calls_of(trace: &Path) -> Vec<(String, usize)> {
    let left_out = [
        "brk",
        // A close(2) that fails has closed (its page, "Dealing with error returns from close()"); one that is kept from the
        // kernel has not, and whoever waits for the end of a pipe waits for ever.
        "close",
        "execve",
        "exit",
        "exit_group",
        "futex",
        "madvise",
        "mprotect",
        "munmap",
        // Rust's library cannot live with it.
        "poll",
        "restart_syscall",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sched_yield",
        "set_robust_list",
        "set_tid_address",
        "sigaltstack",
        "arch_prctl",
    ];
    let text = fs::read_to_string(trace).unwrap_or_default();
    let mut times = std::collections::BTreeMap::new();
    for line in text.lines() {
        let Some((process, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !left_out.contains(&name)
        {
            *times
                .entry((name.to_owned(), process.to_owned()))
                .or_insert(0) += 1;
        }
    }
    let mut most = std::collections::BTreeMap::new();
    for ((name, _), count) in times {
        let known: &mut usize = most.entry(name).or_default();
        *known = count.max(*known);
    }
    most.into_iter().collect()
}

/// A store that was written, and can only be read now: the build says so and what to do, and leaves all as it was.
#[test]
fn read_only_stores() {
    let mut victim = Victim::new(1);
    fs::create_dir(&victim.root).unwrap();
    victim.change();
    let build = quoted(&victim.command());
    let root = victim.root.display();
    let script = format!(
        "mount -t tmpfs -o size=64m none {root}\n{build} >/dev/null 2>&1 || exit 10\n\
         mount -o remount,ro {root}\n{build} 2>&1 | grep -v '^{{'\n\
         mount -o remount,rw {root}\n{build} >/dev/null 2>&1\n"
    );
    let done = victim.env.run(victim.env.tool_command("unshare").args([
        "--user",
        "--mount",
        "--map-root-user",
        "--map-auto",
        "--",
        "/bin/sh",
        "-c",
        &script,
    ]));
    assert!(
        done.stdout
            .contains("the file system is read-only (choose another place with `--root`)"),
        "{done}"
    );
    let done = done.success();
    assert_eq!(done.stdout.matches("error: ").count(), 1, "{done}");
    victim.must_have_built("a store that could only be read");
}

/// The times of the store's files, and when registries were asked, are in the future or in the past. It stands for a clock that
/// jumped: a time namespace has no CLOCK_REALTIME of its own (time_namespaces(7)), and a static program takes no library that
/// tells it another time.
#[test]
fn impossible_times() {
    let (count, seed) = rounds(4);
    let mut victim = Victim::new(seed);
    for _ in 0..count {
        victim.change();
        victim.must_build("nothing");
        let mut files = Vec::new();
        list(&victim.root.join("v1"), 3, &mut files);
        for file in files {
            let secs =
                *victim
                    .maker
                    .random
                    .pick(&[0, 1, 1_000_000_000, 4_000_000_000, 9_000_000_000]);
            if !victim.maker.random.percent(70) {
                continue;
            }
            if file.starts_with(victim.root.join("v1/pins")) && file.is_file() {
                let mut pin: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
                pin["checked"] = secs.into();
                fs::write(&file, pin.to_string()).unwrap();
            }
            // Directories of other owners stay as they are.
            if let Ok(file) = fs::File::open(file) {
                drop(file.set_modified(UNIX_EPOCH + Duration::from_secs(secs)));
            }
        }
        if victim.maker.random.percent(50) {
            victim.change();
        }
        victim.must_build("times that cannot be");
    }
    println!("{count} times, seed {seed}");
}

/// What is in a directory, some levels deep: not what layers are made of.
fn list(dir: &Path, depth: usize, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().unwrap().is_dir() {
            list(&entry.path(), depth - 1, into);
        }
        into.push(entry.path());
    }
}
