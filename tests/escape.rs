//! Ways from a Dockerfile to what is not its own: links, the store, the environment, the user's ssh agent. What the kernel
//! offers an attacker is `sandbox::escape`.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use rustix::fs::CWD;
use rustix::fs::RenameFlags;
use snapbox::str;

use crate::support::Base;
use crate::support::TestEnv;

/// Every place a Dockerfile can name that a step has made a link of, to a directory of the user's.
#[test]
fn links_lead_nowhere_outside() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("file", "from the context");
    let victim = env.outside("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("kept"), "kept").unwrap();
    let at = victim.display();
    let dockerfile = format!(
        "FROM busybox AS links
         RUN mkdir -p /a && ln -s {at} /a/link && ln -s {at}/new /a/file
         RUN --mount=type=cache,id=c,target=/c ln -sfn {at} /c/link && ln -sf {at}/kept /c/file
         RUN --mount=type=cache,id=c,target=/c cp /bin/busybox /c/link/busybox || true
         FROM links
         COPY file /a/link/copied
         COPY file /a/file
         ADD file /a/link/
         WORKDIR /a/link/dir
         RUN --mount=type=cache,target=/a/link/cache touch /a/link/cache/x
         RUN --mount=type=tmpfs,target=/a/link/tmp touch /a/link/tmp/x
         RUN --mount=type=bind,target=/a/link/ctx test -f /a/link/ctx/file
         RUN --mount=type=cache,target=/d,from=links,source=/a ls /d/link/ > /seen || true
         RUN --mount=type=bind,target=/d,from=links,source=/a touch /d/link/x || true
         COPY --from=links /a /b
         RUN touch {at}/x 2> /dev/null; echo x > {at}/kept 2> /dev/null; ! grep -q kept /seen
        "
    );
    let env = env.file("Dockerfile", &dockerfile);
    env.rbuild(["-o", "out", "."]).success();
    env.rbuild(["-o", "type=local,dest=out", "--no-cache", "."])
        .success();
    env.rbuild(["prune", "--all", "--force"]).success();
    let left: Vec<_> = fs::read_dir(&victim)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["kept"]);
    assert_eq!(fs::read_to_string(victim.join("kept")).unwrap(), "kept");
}

/// What a step writes to, or links to, is its own.
#[test]
fn layers_and_contexts_are_not_written_through() {
    let dockerfile = "FROM busybox AS one
RUN echo one > /f
FROM one AS two
RUN echo two > /f; ln /f /g; echo three > /g
RUN --mount=type=bind,target=/ctx ! ln /ctx/file /file
RUN --mount=type=bind,target=/ctx,rw echo changed > /ctx/file
FROM one
RUN --mount=type=cache,target=/c cp /f /c/f && ! ln /c/f /h
RUN test \"$(cat /f)\" = one
";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("file", "from the context")
        .file("Dockerfile", dockerfile);
    env.rbuild(["--target=two", "."]).success();
    env.rbuild(["."]).success();
    assert_eq!(
        fs::read_to_string(env.path("file")).unwrap(),
        "from the context"
    );
}

#[test]
fn the_store_and_the_environment_are_out_of_reach() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let dockerfile = format!(
        "FROM busybox
RUN ! ls {store} && ! ls {home}
RUN ! ls /proc/1/root{store} && ! ls /proc/self/cwd/..{store}
RUN ! env | grep HOST_SECRET && ! grep -l HOST_SECRET /proc/[0-9]*/environ
RUN test $(ls /proc/self/fd | wc -l) = 4
RUN touch /proc/sys/kernel/core_pattern && exit 1; echo x > /etc/resolv.conf && exit 1; true
",
        store = env.store().display(),
        home = env.outside("home").display()
    );
    let env = env.file("Dockerfile", &dockerfile);
    let mut command = env.rbuild_command(["."]);
    env.run(command.env("HOST_SECRET", "swordfish")).success();
}

#[test]
fn flags_about_the_host_reach_steps() {
    let dockerfile = "FROM busybox
RUN df -k /dev/shm | grep -q ' 204800 '
RUN test $(ulimit -n) = 77 && test $(ulimit -Hn) = 99
RUN grep -E '^[0-9.]+[[:space:]]me$' /etc/hosts && grep -E '^10.1.2.3[[:space:]]db$' /etc/hosts
";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", dockerfile);
    let flags = [
        "--shm-size=200m",
        "--ulimit=nofile=77:99",
        "--add-host=me:host-gateway",
        "--add-host=db:10.1.2.3",
        ".",
    ];
    env.rbuild(flags).success();
}

#[test]
fn the_hosts_network_is_for_those_who_are_allowed() {
    let dockerfile = "FROM busybox\nRUN --network=host ls /sys/class/net > /n\n";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", dockerfile);
    env.rbuild(["."]).fails_with(str![[r#"
error: `RUN --network=host` is not allowed in this build
 --> Dockerfile:2:1
  |
2 | RUN --network=host ls /sys/class/net > /n
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: allow it with `--allow network.host` if you trust this file
[exit status: 2]

"#]]);
    env.rbuild(["--allow=network.host", "."]).success();
}

#[test]
fn an_agent_is_given_to_steps_that_ask() {
    let dockerfile = "FROM busybox
RUN ! env | grep SSH_AUTH_SOCK
RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && test $(stat -c %a:%u $SSH_AUTH_SOCK) = 600:0
RUN --mount=type=ssh,id=git,uid=7,mode=0640,target=/agent test $(stat -c %a:%u /agent) = 640:7
RUN --mount=type=ssh,id=absent ! test -e $SSH_AUTH_SOCK
";
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", dockerfile);
    let _agent = UnixListener::bind(env.outside("agent")).unwrap();
    let agent = env.outside("agent");
    let git = format!("--ssh=git={}", agent.display());
    let mut command = env.rbuild_command(["--ssh=default", &git, "."]);
    env.run(command.env("SSH_AUTH_SOCK", &agent)).success();
    // Keys, for which the build has an agent of its own.
    let key = env.outside("key");
    let key = key.to_str().unwrap();
    env.tool("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", key])
        .success();
    let keys = ["default", "git"].map(|id| format!("--ssh={id}={key}"));
    env.rbuild([&keys[0], &keys[1], "--no-cache", "."])
        .success();
    fs::write(key, "no key\n").unwrap();
    let refused = env.rbuild([&keys[0], &keys[1], "--no-cache", "."]);
    assert!(
        refused
            .stderr
            .contains("cannot use the keys of `--ssh default`: ")
            && refused.stderr.contains(key),
        "{}",
        refused.stderr
    );

    let env = env.file(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=ssh,required=true true\n",
    );
    env.rbuild(["."]).fails_with(str![[r#"
error: ssh agent `default` is required, and the build was given none of that name
 --> Dockerfile:2:22
  |
2 | RUN --mount=type=ssh,required=true true
  |                      ^^^^^^^^
  |
hint: name one with `--ssh ID`, `--ssh ID=SOCKET` or `--ssh ID=KEY`; without `required` the step runs without it
[exit status: 2]

"#]]);
}

/// Two names that change places as fast as they can, until it is dropped.
struct Swapping {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Swapping {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !seen.load(Ordering::Relaxed) {
                let flags = RenameFlags::EXCHANGE;
                // Whoever writes there may have taken one away.
                if rustix::fs::renameat_with(CWD, &one, CWD, &other, flags).is_ok() {
                    swaps += 1;
                }
            }
            swaps
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How often they did.
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What nobody may read or write: a directory of the user's, with this in its file.
const STOLEN: &str = "this is nobody's business";

fn victim(env: &TestEnv) -> PathBuf {
    let victim = env.outside("victim");
    fs::create_dir_all(victim.join("sub")).unwrap();
    fs::write(victim.join("f"), STOLEN).unwrap();
    victim
}

/// Nothing was written there.
#[track_caller]
fn untouched(victim: &Path) {
    let names = |dir: PathBuf| -> Vec<_> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(victim.to_owned()), ["f", "sub"]);
    assert!(names(victim.join("sub")).is_empty());
    assert_eq!(fs::read_to_string(victim.join("f")).unwrap(), STOLEN);
}

/// All files below a directory that have the stolen bytes in them.
fn with_stolen(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => with_stolen(&path, found),
            Ok(kind) if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                if bytes
                    .windows(STOLEN.len())
                    .any(|at| at == STOLEN.as_bytes())
                {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
}

/// A directory and a file of the context are links to somewhere else half of the time. A build has them, or says that
/// they are not there or have changed; what they link to it has never.
#[test]
fn contexts_that_change_places_with_links_are_not_followed_out() {
    let env = TestEnv::new()
        .file("dir/f", "of the context")
        .file("dir/sub/g", "of the context")
        .file("f", "of the context")
        .file(
            "Dockerfile",
            "FROM scratch\nCOPY dir /dir\nCOPY dir/f /one\nCOPY f /f\nCOPY . /all\n",
        );
    let victim = victim(&env);
    symlink(&victim, env.outside("dir")).unwrap();
    symlink(victim.join("f"), env.outside("f")).unwrap();
    let swapping = ["dir", "f"].map(|name| Swapping::start(env.path(name), env.outside(name)));
    for round in 0..12 {
        let out = format!("type=local,dest=../out{round}");
        let built = env.rbuild(["--no-cache", "-o", &out, "."]);
        assert!(matches!(built.status.code(), Some(0..=3)), "{built}");
    }
    let swaps = swapping.map(Swapping::stop);
    assert!(swaps.iter().all(|swaps| *swaps > 0), "{swaps:?}");
    let mut found = Vec::new();
    for round in 0..12 {
        with_stolen(&env.outside(&format!("out{round}")), &mut found);
    }
    with_stolen(&env.store(), &mut found);
    assert!(found.is_empty(), "{found:?}");
    untouched(&victim);
}

/// A directory that is written to as an output is a link to somewhere else half of the time: nothing gets there.
#[test]
fn outputs_that_change_places_with_links_are_not_written_through() {
    let env = TestEnv::new().file("f", "of the context").file(
        "Dockerfile",
        "FROM scratch\nCOPY f /dir/f\nCOPY f /dir/sub/f\nCOPY f /dir/sub/new\nCOPY f /dir/new/f\n",
    );
    let victim = victim(&env);
    fs::create_dir_all(env.outside("out/dir/sub")).unwrap();
    symlink(&victim, env.outside("link")).unwrap();
    let swapping = Swapping::start(env.outside("out/dir"), env.outside("link"));
    for more in ["", ",mode=delete"] {
        for _ in 0..10 {
            let out = format!("type=local,dest=../out{more}");
            let allow = "--allow=buildx.local.delete";
            let built = env.rbuild([allow, "-o", &out, "."]);
            assert!(matches!(built.status.code(), Some(0..=3)), "{built}");
        }
    }
    assert!(swapping.stop() > 0);
    untouched(&victim);
}

/// A directory of a cache that two steps share is a link to somewhere else half of the time, for each of the other's
/// mount points. Both are in file systems of their own, in which there is no such place.
#[test]
fn caches_that_change_places_with_links_lead_nowhere() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let victim = victim(&env);
    let at = victim.display();
    let mount = "--mount=type=cache,id=raced,target=/c";
    let mut dockerfile = format!(
        "FROM busybox AS swaps
RUN {mount} i=0; while [ $i -lt 400 ]; do i=$((i+1)); mkdir /c/dir 2>/dev/null; rm -rf /c/dir; ln -s {at} /c/dir; rm -f /c/dir; \
 ln -s {at}/made /c/secret; rm -f /c/secret; done
FROM busybox AS uses
COPY --from=busybox /bin/busybox /f
"
    );
    for round in 0..8 {
        dockerfile += &format!(
            "RUN {mount} --mount=type=tmpfs,target=/c/dir/sub/made cp /f /c/dir/copied{round} 2>/dev/null; \
             ls /c/dir/f 2>/dev/null && exit 9; ln /c/dir/f /hard 2>/dev/null && exit 9; true\n\
             RUN {mount} --mount=type=secret,id=s,target=/c/secret test -e /f\n"
        );
    }
    dockerfile += "FROM swaps\nCOPY --from=uses /f /\nRUN --mount=type=cache,id=raced,target=/c \
                   if [ -e /c/dir/f ]; then exit 9; fi\n";
    let env = env.file("Dockerfile", &dockerfile);
    fs::write(env.outside("s"), "a secret").unwrap();
    for _ in 0..2 {
        let secret = "--secret=id=s,src=../s";
        let built = env.rbuild(["--no-cache", "--progress=plain", secret, "."]);
        // A mount point may have been taken away before something was mounted there.
        assert!(!built.stderr.contains("exit code: 9"), "{built}");
        assert!(matches!(built.status.code(), Some(0 | 1 | 3)), "{built}");
    }
    let mut found = Vec::new();
    with_stolen(&env.store(), &mut found);
    assert!(found.is_empty(), "{found:?}");
    untouched(&victim);
}

/// A file of the context is a hard link to one or to another of the same size and time, as fast as they change places: what
/// is copied is one of them, whole, or the build says that it changed.
#[test]
fn files_that_change_places_with_hard_links_are_one_or_the_other() {
    let env = TestEnv::new().file(
        "Dockerfile",
        "FROM scratch\nCOPY f /one\nCOPY . /all\nCOPY --link f /linked\n",
    );
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    for (name, byte) in [("one", b'1'), ("two", b'2')] {
        let path = env.outside(name);
        fs::write(&path, vec![byte; 3 << 20]).unwrap();
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }
    fs::hard_link(env.outside("one"), env.path("f")).unwrap();
    fs::hard_link(env.outside("two"), env.outside("swapped")).unwrap();
    let swapping = Swapping::start(env.path("f"), env.outside("swapped"));
    for round in 0..8 {
        let out = env.outside(&format!("out{round}"));
        let dest = format!("type=local,dest={}", out.display());
        let built = env.rbuild(["--no-cache", "-o", &dest, "."]);
        assert!(matches!(built.status.code(), Some(0..=3)), "{built}");
        for name in ["one", "all/f", "linked"] {
            let Ok(bytes) = fs::read(out.join(name)) else {
                continue;
            };
            assert_eq!(bytes.len(), 3 << 20, "{name}");
            assert!(
                bytes.iter().all(|byte| *byte == bytes[0]),
                "{name} is of both"
            );
        }
    }
    assert!(swapping.stop() > 0);
    // Of those that are linked to nothing was written.
    for (name, byte) in [("one", b'1'), ("two", b'2')] {
        let bytes = fs::read(env.outside(name)).unwrap();
        assert!(bytes.len() == 3 << 20 && bytes.iter().all(|found| *found == byte));
    }
}

/// The name that a secret is mounted at in a shared cache is a hard link to a file of another step, half of the time: the
/// secret covers the name and is never in the file.
#[test]
fn secrets_do_not_get_into_hard_links() {
    let env = TestEnv::new().bases([Base::Busybox]);
    fs::write(env.outside("secret"), STOLEN).unwrap();
    let mount = "--mount=type=cache,id=linked,target=/c";
    let stolen = "grep -q business /c/own 2>/dev/null && exit 9; true";
    let mut dockerfile = format!(
        "FROM busybox AS swaps
RUN {mount} echo own > /c/own; i=0; while [ $i -lt 400 ]; do i=$((i+1)); ln /c/own /c/s 2>/dev/null; rm -f /c/s; done; {stolen}
FROM busybox AS uses
"
    );
    for round in 0..8 {
        dockerfile += &format!(
            "RUN {mount} --mount=type=secret,id=s,target=/c/s,mode=0666 echo {round}; cat /c/s > /dev/null; {stolen}\n"
        );
    }
    dockerfile += &format!("FROM swaps\nCOPY --from=uses /etc/passwd /p\nRUN {mount} {stolen}\n");
    let env = env.file("Dockerfile", &dockerfile);
    for _ in 0..2 {
        let secret = format!("--secret=id=s,src={}", env.outside("secret").display());
        let built = env.rbuild(["--no-cache", "--progress=plain", &secret, "."]);
        // A mount point may have been taken away before something was mounted there.
        assert!(!built.stderr.contains("exit code: 9"), "{built}");
        assert!(matches!(built.status.code(), Some(0 | 1 | 3)), "{built}");
    }
    let mut found = Vec::new();
    with_stolen(&env.store(), &mut found);
    assert!(found.is_empty(), "{found:?}");
}
