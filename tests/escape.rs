//! Ways from a Dockerfile to what is not its own: links, the store, the environment, the user's ssh agent. What the kernel
//! offers an attacker is `sandbox::escape`.

use std::fs;
use std::os::unix::net::UnixListener;

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
