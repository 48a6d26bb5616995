//! The lower rungs of the ladder, inside an insecure step that takes something away.

use super::*;

/// Runs a script in an insecure step that has this program and, at `/inner`, a root file system for it; at `/plain` one that
/// may be written to.
pub(super) fn outer(script: &str) -> Outcome {
    let fixture = Fixture::new();
    fixture.attacker();
    fixture.lower(
        "etc/passwd",
        "root::0:0::/:/bin/sh\nbob::1000:1000::/:/bin/sh\n",
    );
    fs::create_dir(fixture.path("lower/mnt")).unwrap();
    let plain = fixture.path("upper/plain");
    for dir in ["bin", "etc", "mnt"] {
        fs::create_dir_all(plain.join(dir)).unwrap();
    }
    fs::copy(fixture.path("lower/etc/passwd"), plain.join("etc/passwd")).unwrap();
    for entry in fs::read_dir(fixture.path("lower/bin")).unwrap() {
        let from = entry.unwrap().path();
        let to = plain.join("bin").join(from.file_name().unwrap());
        match fs::read_link(&from) {
            Ok(target) => symlink(target, to).unwrap(),
            Err(_) => fs::hard_link(from, to).unwrap(),
        }
    }
    fs::copy(program(), fixture.path("lower/bin/sandbox_run")).unwrap();
    // Below a mount point, to chroot to.
    fs::create_dir_all(fixture.path("lower/usr/bin")).unwrap();
    fs::hard_link(
        fixture.path("lower/bin/sandbox_run"),
        fixture.path("lower/usr/bin/sandbox_run"),
    )
    .unwrap();
    let bind = |path: &str, place: &str| {
        let path = fixture.path(path);
        format!("--mount=type=bind,src={},dst={place}", path.display())
    };
    let (inner, plain) = (bind("lower", "/inner"), bind("upper/plain", "/plain"));
    fixture.sh(
        &["--insecure", "--mount=type=tmpfs,dst=/tmp", &inner, &plain],
        script,
    )
}

/// Runs a script in a sandbox in a sandbox, as `bob`, after `prepare` as root.
fn nested(prepare: &str, options: &str, script: &str) -> Outcome {
    outer(&format!(
        "{prepare}
         cat > /tmp/go <<'END'
sandbox_run --lower=/inner --store=/tmp {options} sh -c '{script}'
END
         su bob -c 'sh /tmp/go'"
    ))
}

#[test]
fn without_subordinate_ids_there_is_one() {
    let outcome = nested(
        "true",
        "",
        "id -u; touch /dev/f; chown 5 /dev/f; stat -c %u /dev/f; false",
    );
    assert_data_eq!(
        outcome.text(),
        str![[r#"
0
5
---- stderr ----
hint: only one user id is mapped (/etc/subuid has no range for bob), and owners of files are recorded (rung 2, docs/rootless.md); install newuidmap and newgidmap (package uidmap or shadow-utils)
[exit status: 1]

"#]]
    );
    let outcome = nested(
        "true",
        "--user=1000:1000",
        "id -u; id -g; grep CapEff /proc/self/status",
    );
    assert_data_eq!(
        outcome.text(),
        str![[r#"
1000
1000
CapEff:	0000000000000000

"#]]
    );
}

/// As `unshare --map-root-user` makes it: there setgroups(2) is forbidden, in all namespaces below as well.
#[test]
fn root_of_a_namespace_with_one_id_has_that_one() {
    let script = |options, script| {
        let outcome = outer(&format!(
            "cat > /tmp/go <<'END'
unshare -U -r sandbox_run --lower=/inner --store=/tmp {options} sh -c '{script}'
END
             su bob -c 'sh /tmp/go'"
        ));
        outcome.text()
    };
    assert_data_eq!(
        script(
            "",
            "id -u; touch /dev/f; chown 5 /dev/f; stat -c %u /dev/f; false"
        ),
        str![[r#"
0
5
---- stderr ----
hint: only one user id is mapped (this is root of a user namespace that has no other id), and owners of files are recorded (rung 2, docs/rootless.md); run rbuild outside of it, or make it with ranges of ids (`unshare --map-root-user --map-auto`)
[exit status: 1]

"#]]
    );
    assert_eq!(script("--user=1000:1000", "id -u; id -g"), "1000\n1000\n");
    let probed = script("--probe", "");
    assert!(
        probed.starts_with("Single\n") && !probed.contains("running as root"),
        "{probed}"
    );
}

#[test]
fn where_proc_is_masked_steps_share_process_ids() {
    // What container runtimes do to /proc; the kernel then refuses a new one in an inner user namespace.
    let mask = "mount --bind /dev/null /proc/version";
    let script = "[ $$ -gt 1 ] && echo shared; readlink /proc/self | grep -c .; \
                  for i in $(seq 20); do setsid sleep 86404.1 & done; exit 5";
    let after = "echo left: $(grep -l ^sleep.86404 /proc/[0-9]*/cmdline | wc -l)";
    let outcome = outer(&format!(
        "{mask}
         sandbox_run --lower=/inner --store=/tmp sh -c '{script}'
         echo code: $?
         {after}"
    ));
    assert_data_eq!(
        outcome.text(),
        str![[r#"
shared
1
code: 5
left: 0

"#]]
    );
}

#[test]
fn with_shared_process_ids_owners_are_kept_as_well() {
    let outcome = nested(
        "mount --bind /dev/null /proc/version",
        "",
        "[ $$ -gt 1 ] && echo shared; cd /dev/shm && touch f && chown 5:7 f && ln -s f l && chown -h 8 l; stat -c %u:%g f l; \
         stat -c %u /proc/self/cwd/f /dev/fd/0; su bob -c \"id -u; touch /dev/shm/his\"; stat -c %u his",
    );
    assert_data_eq!(
        outcome.text(),
        str![[r#"
shared
5:7
8:0
5
0
1000
1000

"#]]
    );
}

/// What there is of the builder's own: its processes, which the step sees, and files that they see.
#[test]
fn with_shared_process_ids_the_supervisor_reaches_no_further_than_its_step() {
    let attack = "for p in /proc/[0-9]*; do for at in root cwd/..; do
             echo x > $p/$at/tmp/victim/f$$; mkdir $p/$at/tmp/victim/d$$; ln -s x $p/$at/tmp/victim/l$$; \
             mknod $p/$at/tmp/victim/n$$ c 1 3; chown 5 $p/$at/tmp/victim; cat $p/$at/tmp/victim/kept; done; done 2>/dev/null";
    for (options, who) in [
        ("", "sh -c"),
        ("", "su bob -c"),
        ("--user=1000:1000", "sh -c"),
    ] {
        let outcome = outer(&format!(
            "mount --bind /dev/null /proc/version
             mkdir -m 777 /tmp/victim && echo nobodys > /tmp/victim/kept && chown -R bob /tmp/victim
             echo '{attack}' > /tmp/victim/attack
             cat > /tmp/go <<'END'
sandbox_run --lower=/inner --store=/tmp --mount=type=bind,src=/tmp/victim/attack,dst=/attack {options} {who} 'sh /attack; id -u'
END
             su bob -c 'sh /tmp/go'; ls /tmp/victim; stat -c %u /tmp/victim"
        ));
        let id = if options.is_empty() && who == "sh -c" {
            0
        } else {
            1000
        };
        assert_eq!(
            outcome.text(),
            format!("{id}\nattack\nkept\n1000\n"),
            "{options} {who}"
        );
    }
}

/// As a step can do where the kernel does not keep it from that: its reaper is killed, from outside.
#[test]
fn with_shared_process_ids_nothing_is_left_of_a_step_whose_reaper_is_killed() {
    let outcome = outer(
        "mount --bind /dev/null /proc/version
         mkfifo /tmp/ready
         sandbox_run --lower=/inner --store=/tmp sh -c '
             setsid sleep 86406 & sleep 86406 & echo $PPID; sleep 86406' > /tmp/ready 2>&1 &
         read reaper < /tmp/ready
         kill -KILL $reaper; wait $!; echo $?
         echo left: $(grep -l ^sleep.86406 /proc/[0-9]*/cmdline | wc -l)",
    );
    assert_eq!(outcome.stdout(), "137\nleft: 0\n");
}

/// It could do what it likes with the builder.
#[test]
fn with_shared_process_ids_no_step_is_insecure() {
    let outcome = outer(
        "mount --bind /dev/null /proc/version
         sandbox_run --lower=/inner --store=/tmp --insecure sh -c 'echo it runs'",
    );
    assert_data_eq!(
        outcome.text(),
        str![[r#"
---- stderr ----
error: steps with `--security=insecure` cannot run here: `/proc` cannot be mounted, so they would see the builder's processes, and could do with them what they like
hint: let a new `/proc` be mounted (podman: `--security-opt unmask=ALL`; docker: `systempaths=unconfined`; Kubernetes: `procMount: Unmasked`), or leave `--security=insecure` out
[exit status: 3]

"#]]
    );
}

/// All files are the user's, so what the kernel looks at is their modes: also of what the supervisor makes for the step,
/// which then belongs to the user, whatever its mode.
#[test]
fn modes_of_directories_hold_for_other_users_of_one_id() {
    let outcome = nested(
        "true",
        "--user=1000:1000",
        "cd /dev/shm; mkdir -m 555 d; for make in mkdir touch mkfifo \"ln -s x\"; do \
         $make d/new 2> /dev/null && echo \"$make\"; done; \
         umask 777; mkdir dir; touch file; mkfifo fifo; ln -s x link; stat -c \"%u:%g %a %n\" d dir file fifo link",
    );
    assert_eq!(
        outcome.stdout(),
        "1000:1000 555 d\n1000:1000 0 dir\n1000:1000 0 file\n1000:1000 0 fifo\n1000:1000 777 link\n"
    );
}

#[test]
fn with_shared_process_ids_nothing_is_left_either() {
    for signal in ["KILL", "TERM"] {
        let outcome = outer(&format!(
            "mount --bind /dev/null /proc/version
             mkfifo /tmp/ready
             sandbox_run --lower=/inner --store=/tmp sh -c '
                 trap : TERM; setsid sleep 86405 & sleep 86405 & echo ready; sleep 86405' > /tmp/ready 2>&1 &
             read ready < /tmp/ready; echo $ready
             kill -{signal} $!; wait $!
             while grep -q -s ^sleep.86405 /proc/[0-9]*/cmdline; do sleep 0.01; done
             echo none left"
        ));
        assert_eq!(outcome.stdout(), "ready\nnone left\n", "{signal}");
    }
}

#[test]
fn without_namespaces_the_reason_is_quoted() {
    let limit = "echo 0 > /proc/sys/user/max_user_namespaces";
    let outcome = nested(limit, "", "true");
    assert_data_eq!(
        outcome.text(),
        str![[r#"
---- stderr ----
error: cannot run steps here: the kernel refuses a user namespace: No space left on device (os error 28)
hint: sudo sysctl user.max_user_namespaces=10000
[exit status: 3]

"#]]
    );
}

/// The kernel refuses a user namespace there, whoever asks.
#[test]
fn in_a_chroot_the_reason_is_the_chroot() {
    let outcome = outer("chroot /inner/usr /bin/sandbox_run --lower=/ --store=/ true");
    assert_data_eq!(
        outcome.text(),
        str![[r#"
---- stderr ----
error: cannot run steps here: the kernel refuses a user namespace: Operation not permitted (os error 1)
hint: in a chroot(2) there are no user namespaces: enter it with pivot_root(2), as containers are, or run rbuild outside of it
[exit status: 3]

"#]]
    );
}

#[test]
fn the_probe_tells_the_rung() {
    let fixture = Fixture::new();
    let outcome = Outcome(fixture.command().arg("--probe").output().unwrap());
    let stdout = outcome.stdout();
    assert!(stdout.starts_with("Full\nGood: Linux "), "{stdout}");
    let outcome = nested("true", "--probe", "");
    let stdout = outcome.stdout();
    assert!(
        stdout.starts_with("Single\n") && stdout.contains("Limited: one user id only"),
        "{stdout}"
    );
}

/// Runs what follows on a kernel before Linux 5.6, as far as calls that are missing there make one.
pub(super) const OLD: &str = "attack without clone3,close_range,mount_setattr,openat2";

/// mount_setattr(2) makes a mount and all below it read-only at once. Where it is missing every mount of a step is as it would
/// have been; what others cover is out of reach.
#[test]
fn an_old_kernel_has_the_same_mounts() {
    let prepare = "
        mkdir -p /tmp/tree/sub '/tmp/tree/a b\\c' /tmp/tree/over/in /tmp/tree/twice
        for options in nosuid,nodev,noexec,noatime:sub nosuid,ro:sub/ro nodev:'a b\\c' noexec:over/in nosuid:over \
            nodev:twice noexec,nodiratime:twice; do
            at=/tmp/tree/${options#*:}; mkdir -p \"$at\"; mount -t tmpfs -o ${options%%:*} t \"$at\"
            touch \"$at/f\" 2> /dev/null
        done
        mkdir -p /tmp/tree/sub/ro; touch /tmp/tree/f /tmp/ca; mount --bind /tmp/ca /tmp/tree/f";
    let mounts = "--mount=type=bind,src=/tmp/tree,dst=/ro,ro=true --mount=type=bind,src=/tmp/tree/f,dst=/file,ro=true \
                  --mount=type=bind,src=/tmp/tree,dst=/part,sub=sub,ro=true --mount=type=bind,src=/tmp/tree,dst=/rw \
                  --mount=type=overlay,src=/inner,dst=/layers --mount=type=overlay,src=/inner,dst=/bins,sub=bin \
                  --mount=type=tmpfs,dst=/t,ro=true --mount=type=tmpfs,dst=/dev/own,ro=true \
                  --mount=type=file,data=x,dst=/run/secrets/x --hostname=other";
    let look = "cut -d\" \" -f5,6 /proc/self/mountinfo | grep -v -e /over -e /twice | sort; \
                for f in /ro/f /ro/sub/f /ro/sub/ro/f \"/ro/a b\\\\c/f\" /ro/over/f /ro/twice/f /file /part/f /layers/bin/sh \
                /bins/sh /t/f /dev/own/f /run/secrets/x /etc/hosts /etc/resolv.conf /proc/sys/kernel/core_pattern /new; do \
                touch \"$f\" 2>&1; done; touch /rw/sub/f /rw/new /dev/null && echo ok";
    for (user, options) in [
        ("root", "--ca=/tmp/ca"),
        ("root", "--no-network --readonly"),
        ("bob", "--cwd=/bin"),
        ("bob", "--no-network --user=1000"),
    ] {
        let said = |under: &str| {
            let outcome = outer(&format!(
                "{prepare}
                 chmod -R 777 /tmp/tree
                 cat > /tmp/go <<'END'
sandbox_run --lower=/inner --store=/tmp {options} {mounts} sh -c '{look}'
END
                 {under} su {user} -c 'sh /tmp/go'"
            ));
            outcome.stdout()
        };
        let (new, old) = (said(""), said(OLD));
        assert_eq!(old, new, "{user} {options}");
        for path in [
            "/ro ro,",
            "/ro/sub ro,nosuid,nodev,noexec,noatime",
            "/part ro,",
            "/t ro,",
            "/sys ro,",
        ] {
            assert!(new.contains(path), "{path}: {new}");
        }
        assert!(new.ends_with("ok\n"), "{new}");
    }
}

/// A mount in a directory that is closed to who builds, and may be open to a group of the step's, is not to be found.
#[test]
fn an_old_kernel_hides_a_mount_it_cannot_make_read_only() {
    let outcome = outer(&format!(
        "mkdir -p /tmp/tree/closed/in
         mount -t tmpfs t /tmp/tree/closed/in; mkdir /tmp/tree/closed/in/more
         mount -t tmpfs t /tmp/tree/closed/in/more; chmod 700 /tmp/tree/closed
         cat > /tmp/go <<'END'
sandbox_run --lower=/inner --store=/tmp --mount=type=bind,src=/tmp/tree,dst=/ro,ro=true sh -c '
    ls /ro; ls /ro/closed; touch /ro/closed/f || :'
END
         {OLD} su bob -c 'sh /tmp/go'"
    ));
    assert_data_eq!(
        outcome.text(),
        str![[r#"
closed
---- stderr ----
touch: /ro/closed/f: Read-only file system

"#]]
    );
}

/// Without ranges of ids; before Linux 5.5 its calls would wait for ever.
#[test]
fn one_id_takes_a_kernel_that_asks() {
    let run = |options: &str| {
        let script = format!(
            "attack without addfd su bob -c 'sandbox_run --lower=/inner --store=/tmp {options}'"
        );
        outer(&script)
    };
    assert_data_eq!(
        run("chown 5 /dev/shm").text(),
        str![[r#"
---- stderr ----
error: cannot have the owners of files kept
caused by: Invalid argument (os error 22)
hint: it takes seccomp user notification (Linux 5.9), or ranges of ids
[exit status: 3]

"#]]
    );
    let probed = run("--probe").stdout();
    assert!(
        probed.starts_with("None\n")
            && probed.contains(
                "Missing: a process that keeps the owners of a step's files: Invalid argument"
            ),
        "{probed}"
    );
}
