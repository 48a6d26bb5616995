//! What a step may not do, and what it may.

use super::*;

#[test]
fn kernel_settings_cannot_be_written() {
    let files = "/proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sysrq-trigger /proc/irq/default_smp_affinity \
                 /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state";
    // Opened for appending, nothing is written even if it works.
    let script = format!("for f in {files}; do [ -e $f ] && ( : >> $f ) && echo $f; done");
    let outcome = Fixture::new().sh(&[], &script);
    assert_eq!(outcome.0.stdout, b"", "{}", outcome.text());
    assert!(
        outcome
            .text()
            .contains("can't create /proc/sys/kernel/core_pattern"),
        "{}",
        outcome.text()
    );
}

#[test]
fn mounts_and_namespaces_of_the_steps_are_refused() {
    let fixture = Fixture::new();
    for script in [
        "mount -t tmpfs t /bin",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "unshare -m true",
        "mknod /dev/mem c 1 1 && cat /dev/mem",
    ] {
        let outcome = fixture.write(&[], script);
        assert!(!outcome.0.status.success(), "{script}: {}", outcome.text());
    }
}

/// As bubblewrap, browsers and other builders do it.
#[test]
fn a_step_may_have_namespaces_of_its_own_unless_that_is_refused() {
    let script = "unshare -U -r -m -p -n -i -u -f sh -c 'mount -t tmpfs t /dev && echo $$'";
    for user in ["--user=0:0", "--user=1000:1000"] {
        let fixture = Fixture::new();
        assert_eq!(fixture.write(&[user], script).stdout(), "1\n");
        let refused = Fixture::new().write(&[user, "--no-nested"], script);
        assert!(
            refused.text().contains("not permitted"),
            "{}",
            refused.text()
        );
    }
}

#[test]
fn capabilities_are_dockers() {
    let fixture = Fixture::new();
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    assert_data_eq!(
        fixture.sh(&[], script).text(),
        str![[r#"
CapInh:	0000000000000000
CapPrm:	00000000a80425fb
CapEff:	00000000a80425fb
CapBnd:	00000000a80425fb
CapAmb:	0000000000000000
NoNewPrivs:	0
Seccomp:	2

"#]]
    );
    assert_data_eq!(
        fixture
            .sh(&["--user=7:8:9"], &format!("id -u; id -G; {script}"))
            .text(),
        str![[r#"
7
8 9
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	00000000a80425fb
CapAmb:	0000000000000000
NoNewPrivs:	0
Seccomp:	2

"#]]
    );
}

/// Most are begun before they come, many in the memory of one process, from which they have some of this.
#[test]
fn the_last_of_many_steps_is_as_the_first() {
    const STEPS: usize = 70;
    let script = "touch /dev/shm/one
        echo $$ $(ls /dev/shm) $(grep -E '^(CapEff|CapBnd|Seccomp_filters):' /proc/self/status | cut -f 2)";
    for (user, effective) in [("0:0", "00000000a80425fb"), ("7:8", "0000000000000000")] {
        let fixture = Fixture::new();
        let options = [&format!("--user={user}"), &format!("--times={STEPS}")];
        let text = fixture.write(&options.map(String::as_str), script).stdout();
        let steps: Vec<&str> = text
            .lines()
            .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        let expected = format!("1 one {effective} 00000000a80425fb 1");
        assert_eq!(steps, vec![expected.as_str(); STEPS]);
    }
}

#[test]
fn an_insecure_step_may_mount() {
    let fixture = Fixture::new();
    let outcome = fixture.sh(
        &["--insecure"],
        "unshare -m true && cp /bin/busybox /dev/shm/ && mount -t tmpfs t /bin && echo mounted",
    );
    assert_eq!(outcome.stdout(), "mounted\n");
}

#[test]
fn nothing_of_the_host_is_seen() {
    let fixture = Fixture::new();
    let script = "ls /; ls /..; cut -d' ' -f5 /proc/self/mountinfo | grep -v -E '^/(proc|sys|dev|etc)'; \
                  set -- /proc/[0-9]*; echo $#; readlink /proc/self/fd/3; pwd";
    let options = ["--cwd=/bin"];
    let outcome = fixture.sh(&options, script);
    assert_data_eq!(
        outcome.text(),
        str![[r#"
bin
dev
etc
proc
sys
bin
dev
etc
proc
sys
/
1
/bin

"#]]
    );
}

#[test]
fn other_users_are_real() {
    let fixture = Fixture::new();
    fixture.lower(
        "etc/passwd",
        "root::0:0::/:/bin/sh\nbob::1000:1000::/:/bin/sh\n",
    );
    fixture.lower("etc/group", "root:x:0:\nbob:x:1000:\n");
    let outcome = fixture.write(
        &[],
        "su bob -c 'id -u'
         touch /f && chown 33:34 /f && stat -c %u:%g /f
         mkdir /suid && cp /bin/busybox /suid/su && /bin/busybox chmod 4755 /suid/su
         su bob -c '/suid/su root -c \"id -u\"'",
    );
    assert_data_eq!(
        outcome.text(),
        str![[r#"
1000
33:34
0

"#]]
    );
}

#[test]
fn the_network_is_the_hosts_or_loopback_if_that_is_asked_for() {
    let fixture = Fixture::new();
    let outcome = fixture.sh(
        &["--no-network"],
        "ls /sys/class/net; ip -o addr | grep -c 127.0.0.1/8",
    );
    assert_eq!(outcome.stdout(), "lo\n1\n");
    let devices = fs::read_dir("/sys/class/net").unwrap().count();
    let outcome = fixture.sh(&["--host-network"], "ls /sys/class/net | wc -l");
    assert_eq!(outcome.stdout(), format!("{devices}\n"));
}

#[test]
fn devices_work() {
    let script = "
        echo x > /dev/null && [ -c /dev/null ] && echo null
        /bin/busybox head -c 3 /dev/zero | wc -c
        /bin/busybox head -c 3 /dev/urandom | wc -c
        echo shm > /dev/shm/f && cat /dev/shm/f
        readlink /dev/stdout
        [ -c /dev/ptmx ] && ls /dev/pts
        echo fd > /dev/stdout
        touch /dev/new && echo new";
    assert_data_eq!(
        Fixture::new().sh(&[], script).text(),
        str![[r#"
null
3
3
shm
/proc/self/fd/1
ptmx
fd
new

"#]]
    );
}

#[test]
fn names_and_limits_are_set() {
    let options = [
        "--hostname=box",
        "--host=db=10.0.0.7",
        "--ulimit=nofile=100:200",
        "--stdin=in",
    ];
    let script = "hostname; grep db /etc/hosts; ulimit -n; ulimit -Hn; cat; echo; umask";
    assert_data_eq!(
        Fixture::new().sh(&options, script).text(),
        str![[r#"
box
10.0.0.7	db
100
200
in
0022

"#]]
    );
    let outcome = Fixture::new().sh(&["--ulimit=bogus=1:1"], "true");
    assert_data_eq!(
        outcome.text(),
        str![[r#"
---- stderr ----
error: cannot set the limit bogus=1:1
caused by: Invalid argument (os error 22)
[exit status: 3]

"#]]
    );
}
