//! Rung 2: one user id. With no_new_privs newuidmap has no power, and a user with subuids is as one without.

use std::fs;

use snapbox::assert_data_eq;
use snapbox::str;

use crate::support::Base;
use crate::support::Gate;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::list_tar;

/// A build on rung 2.
pub(crate) fn build(env: &TestEnv, args: &[&str]) -> Output {
    env.run(
        env.tool_command("setpriv")
            .args(["--no-new-privs", env!("CARGO_BIN_EXE_rbuild")])
            .args(args),
    )
}

/// What a step printed.
fn printed(output: &Output) -> String {
    let lines = output.stderr.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
        let (time, said) = rest.split_once(' ')?;
        let is_log = number.parse::<u32>().is_ok() && time.parse::<f64>().is_ok();
        is_log.then(|| said.to_owned() + "\n")
    });
    lines.collect()
}

/// What programs do with owners, in the order in which a build might.
const FLOWS: &str = r#"FROM debian
COPY --chown=www-data:0 given /srv/given
RUN adduser --disabled-password --gecos '' --uid 1000 app && useradd -u 1001 -m dev && groupadd -g 2000 staff2
RUN mkdir /t && cd /t && touch f g && chown 1:2 f && ln -s f l && chown -h 3:4 l && ln f hard && mkfifo p && chown 5:6 p \
 && install -o app -g shadow -m 4755 /bin/true suid && install -d -o dev -m 2770 shared && touch shared/inherits && mkdir shared/too \
 && cp -a /t /copy && tar -c . | (mkdir /unpacked && tar -C /unpacked -xp) && cp -r /t/f /t/plain-copy
RUN cd /t && mv f moved && rm hard && touch hard && chown -h 0:0 l && chown app suid && chown :7 g && mv /copy /copied \
 && chown -R dev:dev /copied && chown --from=1:2 9 moved && chmod u+s g && chown app /etc/shadow && cp -a /etc/gshadow /etc/cp
RUN su app -c 'touch /tmp/his && mkdir /tmp/his-dir && ln -s x /tmp/his-link && echo a > /tmp/his-dir/file && id' \
 && setpriv --reuid=1001 --regid=1001 --clear-groups sh -c 'id; touch /tmp/hers; chown 0 /tmp/hers 2>&1 || echo refused'
USER app
RUN id && touch /home/app/made && mkdir -p /home/app/a/b && mkdir /home/app/slash// && ln -s made /home/app/link && stat -c '%u:%g' / /home/app /home/app/made /etc/passwd
USER dev:shadow
WORKDIR /home/dev/made-by-workdir
RUN exec 2>&1; id -u; id -g; touch /home/dev/made; chown dev:dev /home/dev/made; chown 0 /home/dev/made 2>&1 || echo refused
USER 0
RUN cd / && stat -c '%u:%g %a %F %n' /t /t/* /t/shared/* /unpacked/* /copied/* /tmp/* /home/*/* /etc/*shadow* /etc/cp /srv/given /var/mail
"#;

/// The same digest, and the same said on the way: what the steps write depends on nothing but owners.
#[test]
fn steps_see_and_leave_the_owners_of_a_machine_with_ranges_of_ids() {
    let env = || {
        TestEnv::new()
            .bases([Base::Debian])
            .file("Dockerfile", FLOWS)
            .file("given", "")
    };
    let args = [
        "build",
        "--progress=plain",
        // Backups and locks of passwd and its kin have times in no file of theirs but that of the last change: the day.
        "--build-arg=SOURCE_DATE_EPOCH=1700000000",
        "--output=type=tar,dest=out.tar,rewrite-timestamp=true",
        ".",
    ];
    let (ranges, single) = (env(), env());
    let said = ranges.rbuild(args).success();
    let said_there = build(&single, &args).success();
    assert_eq!(printed(&said_there), printed(&said));
    // It is not empty that is compared.
    let printed = printed(&said);
    for line in [
        "1:2 644 regular empty file /unpacked/f",
        "0:42 640 regular file /etc/cp",
        "refused",
    ] {
        assert!(
            printed.lines().any(|l| l == line),
            "{line} is not in:\n{printed}"
        );
    }
    let list = |env: &TestEnv| {
        let entries = list_tar(&env.path("out.tar")).into_iter();
        let lines: Vec<String> = entries.map(|entry| entry.to_string()).collect();
        lines.join("\n")
    };
    assert_data_eq!(list(&single), list(&ranges));
    let bytes = |env: &TestEnv| fs::read(env.path("out.tar")).unwrap();
    assert!(bytes(&single) == bytes(&ranges), "files differ");
}

/// Nobody may make devices in a user namespace; here they are what the layer says they are.
#[test]
fn devices_are_recorded() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox
RUN umask 0 && mknod c c 1 3 && mknod b b 259 300 && chown 7:8 c && chmod 640 c
RUN mv c moved && stat -c '%u:%g %a %F %t,%T' moved b && test -c moved && test -b b && cp -a b copy && cat moved
",
    );
    let args = [
        "build",
        "--progress=plain",
        "--output=type=tar,dest=out.tar",
        ".",
    ];
    let output = build(&env, &args).success();
    assert_data_eq!(
        printed(&output),
        str![[r#"
7:8 640 character special file 1,3
0:0 666 block special file 103,12c

"#]]
    );
    let tar = env.tool(
        "tar",
        ["--numeric-owner", "-tvf", "out.tar", "moved", "b", "copy"],
    );
    let devices: Vec<String> = tar
        .success()
        .stdout
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {} {}", fields[0], fields[1], fields[2], fields[5])
        })
        .collect();
    assert_eq!(
        devices,
        [
            "brw-rw-rw- 0/0 259,300 b",
            "brw-rw-rw- 0/0 259,300 copy",
            "crw-r----- 7/8 1,3 moved"
        ]
    );
}

/// Upwards, by links, in another root: none leads the supervisor elsewhere than the kernel leads the step.
#[test]
fn paths_lead_where_they_lead_for_the_step() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox
RUN mkdir -p /j/bin /j/d /w && cp /bin/busybox /j/bin/ && cd /j && touch /x x && ln -s ../../../../x d/up && ln -s /x abs && ln -s loop loop \\
 && chown 1 d/up && stat -c %u /x x && chown 2 ../j/d/../x && stat -c %u /x x && cd d && stat -L -c %u up ../abs ../../j/x ../../../../../x \\
 && cd / && chroot /j busybox chown 3:4 /d/up && stat -c %u:%g /x /j/x && chroot /j busybox chown 7:8 abs && stat -c %u:%g /x /j/x \\
 && cd /w && chown 5 . && stat -c %u . ../w/ ; chown 6 /j/loop 2>/dev/null || chown 6 /x/y 2>/dev/null || echo none
",
    );
    let output = build(&env, &["build", "--progress=plain", "."]).success();
    assert_eq!(
        printed(&output).lines().collect::<Vec<_>>(),
        [
            "1", "0", "1", "2", "1", "1", "2", "1", "1:0", "3:4", "1:0", "7:8", "5", "5", "none"
        ]
    );
}

#[test]
fn secrets_and_caches_have_the_owners_that_are_asked_for() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox
RUN --mount=type=secret,id=s,uid=5,gid=7,mode=0400 --mount=type=cache,target=/c,uid=8,gid=9 \\
    stat -c '%u:%g %a' /run/secrets/s /c && touch /c/f && chown 3 /c/f
RUN --mount=type=cache,target=/c,uid=8,gid=9 stat -c '%u:%g %a' /c/f
",
    );
    fs::write(env.path("s"), "secret").unwrap();
    let args = ["build", "--progress=plain", "--secret=id=s,src=s", "."];
    let output = build(&env, &args).success();
    assert_eq!(printed(&output), "5:7 400\n8:9 755\n3:0 644\n");
}

#[test]
fn the_attribute_of_an_owner_does_not_show() {
    let env = TestEnv::new().bases([Base::Python]).file(
        "Dockerfile",
        r#"FROM python
RUN touch f && chown 5:7 f && ln -s f l && chown -h 5:7 l && python3 -c 'import os; \
  os.setxattr("f", "user.mine", b"1"); \
  print(os.listxattr("f"), os.listxattr("l", follow_symlinks=False)); \
  print([os.stat(p, follow_symlinks=False).st_uid for p in ("f", "l", "/proc/self/cwd/f", "/proc/thread-self/root/f")]); \
  fd = os.open("f", os.O_RDONLY); print(os.stat(fd).st_gid, os.stat(f"/proc/self/fd/{fd}").st_uid, os.stat(f"/dev/fd/{fd}").st_uid); \
  os.unlink("f"); print(os.stat(fd).st_uid); os.fchown(fd, 9, 9); print(os.stat(fd).st_uid); \
  open("f", "w"); print(os.stat("f").st_uid)'
"#,
    );
    let output = build(&env, &["build", "--progress=plain", "."]).success();
    assert_data_eq!(
        printed(&output),
        str![[r#"
['user.mine'] []
[5, 5, 5, 5]
7 5 5
5
9
0

"#]]
    );
}

#[test]
fn results_of_one_id_are_told_and_can_be_refused() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox AS made\nRUN touch /a && chown 5 /a\nFROM busybox\nCOPY --from=made /a /\nRUN true\n",
    );
    let refused = build(&env, &["build", "--min-rung=1", "."]).code(3);
    refused.fails_with(str![[r#"
error: steps would run on rung 2, which `--min-rung=1` refuses
hint: only one user id is mapped (no_new_privs is set, so newuidmap has no privileges), and owners of files are recorded (rung 2, docs/rootless.md); allow setuid programs (docker, podman: without `--security-opt no-new-privileges`; Kubernetes: `allowPrivilegeEscalation: true`)
[exit status: 3]

"#]]);
    build(&env, &["build", "-t", "app", "."]).success();
    env.rbuild(["tag", "app", "other"]).success();
    let rungs = |names: &[&str]| {
        let args = ["inspect", "--format={{.Metadata.Rung}}"].iter();
        env.rbuild(args.chain(names)).success().stdout
    };
    assert_eq!(rungs(&["app", "other"]), "2\n2\n");
    // The rung is in no key.
    let explained = env.rbuild(["explain", "COPY"]).success();
    assert!(explained.stdout.contains("made on rung 2"), "{explained}");
    // All is there, and the rung is in no key.
    let cached = build(&env, &["build", "--progress=plain", "."]).success();
    assert_eq!(cached.ran(), [""; 0], "{cached}");
    build(&env, &["build", "--min-rung=1", "."])
        .code(3)
        .says("error: steps would run on rung 2");
    let anew = env
        .rbuild([
            "build",
            "--progress=plain",
            "--min-rung=1",
            "-t",
            "app",
            ".",
        ])
        .success();
    assert_eq!(anew.ran().len(), 3, "{anew}");
    assert_eq!(rungs(&["app", "other"]), "1\n2\n");
    env.rbuild(["save", "-o", "app.tar", "app"]).success();
    env.rbuild(["rmi", "app"]).success();
    env.rbuild(["load", "-i", "app.tar"]).success();
    assert_eq!(rungs(&["app"]), "<nil>\n", "nobody knows");
    let explained = env.rbuild(["explain", "COPY"]).success();
    assert!(
        !explained.stdout.contains("\n  made on rung 2"),
        "{explained}"
    );
    let cached = env
        .rbuild(["build", "--progress=plain", "--min-rung=1", "."])
        .success();
    assert_eq!(cached.ran(), [""; 0], "{cached}");
}

/// The supervisors of a build, in the zygote's pid namespace.
fn supervisors(env: &TestEnv) -> Vec<i32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        if read("comm").trim_end() != "supervisor" {
            continue;
        }
        let status = read("status");
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let ids: Vec<i32> = ids
            .unwrap_or_default()
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        let builder = parent(&parent(
            &ids.first().map(i32::to_string).unwrap_or_default(),
        ));
        let ours = fs::read(format!("/proc/{builder}/environ")).unwrap_or_default();
        let ours = String::from_utf8_lossy(&ours).contains(env.store().to_str().unwrap());
        if ours && ids.len() == 2 {
            found.push(ids[0]);
        }
    }
    found
}

fn parent(pid: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.unwrap_or_default().trim().to_owned()
}

/// A build on its way that has one id.
fn confined(env: &TestEnv) -> std::process::Child {
    env.tool_command("setpriv")
        .args(["--no-new-privs", env!("CARGO_BIN_EXE_rbuild"), "build", "."])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn without_its_supervisor_a_step_fails_and_says_so() {
    let gate = Gate::new();
    let dockerfile = format!(
        "FROM busybox\nRUN {}; touch /a; chown 5 /a; sleep 1000\n",
        gate.pass()
    );
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", dockerfile);
    let child = confined(&env);
    let waiting = gate.wait();
    let supervisors = supervisors(&env);
    assert_eq!(supervisors.len(), 1);
    let pid = rustix::process::Pid::from_raw(supervisors[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let output = env.finished(child).code(3);
    drop(waiting);
    assert!(
        output.stderr.contains(
            "the step was ended: the process that keeps the owners of its files was killed by signal 9"
        ),
        "{output}"
    );
}

#[test]
fn a_step_that_ends_leaves_no_supervisor() {
    let gate = Gate::new();
    let dockerfile = format!(
        "FROM busybox\nRUN touch /a && chown 5 /a\nRUN {}; sleep 1000\n",
        gate.pass()
    );
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", dockerfile);
    let child = confined(&env);
    let waiting = gate.wait();
    let supervisors = supervisors(&env);
    assert_eq!(supervisors.len(), 1, "that of the first step has ended");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    env.finished(child).code(130);
    drop(waiting);
    for pid in supervisors {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "{pid}");
    }
}
