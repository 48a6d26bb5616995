//! An attacker in a step, with what the kernel offers to one (`examples/attack.rs`).

use super::rungs;
use super::rungs::outer;
use super::*;
use crate::support::AtTerminal;

/// Whether a line of `attack` is the refusal that is wanted.
#[track_caller]
fn refused(said: &str, expected: &[(&str, &str)]) {
    let said: Vec<&str> = said.lines().collect();
    let wanted: Vec<String> = expected
        .iter()
        .map(|(attack, error)| {
            let attack = attack.strip_prefix("nested ").unwrap_or(attack);
            format!("{}: {error}", attack.split(' ').next().unwrap())
        })
        .collect();
    for ((said, wanted), (attack, _)) in said.iter().zip(&wanted).zip(expected) {
        assert_eq!(said, wanted, "{attack}");
    }
    assert_eq!(said.len(), expected.len(), "{said:?}");
}

/// Processes that live outside. They are more than a step has: where it has process ids of its own, some of its processes may
/// have the numbers of some of these.
struct Victims(Vec<Child>);

impl Victims {
    fn start() -> Self {
        let mut sleep = Command::new("sleep");
        sleep.arg("infinity").stdout(Stdio::null());
        Self((0..32).map(|_| sleep.spawn().unwrap()).collect())
    }

    /// A script of attacks, some of them on these.
    fn script(&self, attacks: &[(&str, &str)]) -> String {
        let lines = attacks
            .iter()
            .map(|(attack, _)| format!("attack {attack}\n"));
        let numbers: Vec<_> = self
            .0
            .iter()
            .map(|victim| victim.id().to_string())
            .collect();
        lines
            .collect::<String>()
            .replace("VICTIMS", &numbers.join(","))
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        for victim in &mut self.0 {
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
    }
}

/// As root of the step, which has docker's capabilities.
const BY_ROOT: &[(&str, &str)] = &[
    ("mount proc", "EPERM"),
    ("mount sysfs", "EPERM"),
    ("mount tmpfs", "EPERM"),
    ("mount overlay", "EPERM"),
    ("mount cgroup2", "EPERM"),
    ("mount binfmt_misc", "EPERM"),
    ("bind /", "EPERM"),
    ("bind /proc/1/root", "EPERM"),
    ("remount /proc/sys", "EPERM"),
    ("remount /sys", "EPERM"),
    ("remount /etc/resolv.conf", "EPERM"),
    ("umount /proc/sys", "EPERM"),
    ("umount /proc/kcore", "EPERM"),
    ("umount /proc", "EPERM"),
    ("umount /", "EPERM"),
    ("fsopen proc", "EPERM"),
    ("open_tree /", "EPERM"),
    ("pivot_root", "EPERM"),
    ("unshare", "EPERM"),
    ("clone3", "ENOSYS"),
    ("setns /proc/self/ns/user", "EPERM"),
    ("setns /proc/1/ns/mnt", "EPERM"),
    ("setns /proc/self/ns/net", "EPERM"),
    ("write /proc/sys/kernel/core_pattern", "EROFS|EACCES|ENOENT"),
    ("write /proc/sys/kernel/modprobe", "EROFS|EACCES|ENOENT"),
    ("write /proc/sys/vm/drop_caches", "EROFS|EACCES|ENOENT"),
    (
        "write /proc/sys/fs/binfmt_misc/register",
        "EROFS|ENOENT|EPERM|EACCES",
    ),
    ("write /proc/sysrq-trigger", "EROFS|EACCES|ENOENT"),
    (
        "write /proc/irq/default_smp_affinity",
        "EROFS|ENOENT|EACCES",
    ),
    ("write /sys/kernel/uevent_helper", "EROFS|EACCES|ENOENT"),
    ("write /sys/power/state", "EROFS|EACCES|ENOENT"),
    ("write /etc/resolv.conf", "EROFS"),
    ("write /etc/hosts", "EROFS"),
    ("write /proc/1/oom_score_adj", "done"),
    ("chroot", "EPERM"),
    ("handle", "EPERM"),
    ("mknod /memory", "EPERM|EROFS"),
    ("read /dev/mem", "ENOENT"),
    ("read /dev/kmsg", "ENOENT"),
    ("read /dev/net/tun", "ENOENT"),
    ("read /dev/fuse", "ENOENT"),
    ("read /dev/tty", "ENXIO"),
    ("tiocsti", "ENOTTY"),
    ("fds", "EBADF"),
    ("key rbuild-test", "EPERM"),
    ("kill VICTIMS", "ESRCH"),
    ("ptrace VICTIMS", "ESRCH"),
    ("others kill", "ESRCH"),
    ("others root", "ESRCH"),
    ("bpf", "EPERM"),
    ("perf", "EPERM"),
    ("io_uring", "EPERM"),
    ("userfaultfd", "EPERM"),
    ("module", "EPERM|ENOSYS"),
    ("kexec", "EPERM|ENOSYS"),
    ("clock", "EPERM"),
    ("swapon /x", "EPERM|ENOSYS"),
    ("reboot", "EPERM"),
    ("syslog", "EPERM"),
];

/// Each attack's answer is one of those named.
#[track_caller]
fn hold(said: &str, attacks: &[(&str, &str)]) {
    let chosen: Vec<(&str, &str)> = attacks
        .iter()
        .zip(said.lines())
        .map(|((attack, errors), line)| {
            let is_said = |error: &&str| line.ends_with(&format!(": {error}"));
            let error = errors.split('|').find(is_said);
            (*attack, error.unwrap_or(errors))
        })
        .collect();
    assert_eq!(chosen.len(), attacks.len(), "{said}");
    refused(said, &chosen);
}

/// What the kernel itself answers where docker's filter does not.
const BY_KERNEL: &[(&str, &str)] = &[
    ("unshare", "done"),
    ("setns /proc/self/ns/user", "EINVAL"),
    // Not every kernel has one to be masked.
    ("umount /proc/kcore", "EPERM|ENOENT"),
];

/// `attacks`, some with another answer.
fn but(
    attacks: &[(&'static str, &'static str)],
    others: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    let other = |attack| others.iter().find(|(other, _)| *other == attack);
    let answered = attacks.iter().map(|row| *other(row.0).unwrap_or(row));
    answered.collect()
}

#[test]
fn root_of_a_step_gets_nowhere() {
    let fixture = Fixture::new();
    fixture.attacker();
    fs::create_dir(fixture.path("lower/mnt")).unwrap();
    let attacks = but(BY_ROOT, BY_KERNEL);
    let victims = Victims::start();
    let outcome = fixture.write(&[], &victims.script(&attacks));
    hold(&outcome.stdout(), &attacks);
}

/// Docker's answers, word for word.
#[test]
fn nor_where_it_may_have_no_namespaces() {
    let fixture = Fixture::new();
    fixture.attacker();
    fs::create_dir(fixture.path("lower/mnt")).unwrap();
    let victims = Victims::start();
    let outcome = fixture.write(&["--no-nested"], &victims.script(BY_ROOT));
    hold(&outcome.stdout(), BY_ROOT);
}

/// As root of a user namespace below the step's, with all capabilities there.
const NESTED: &[(&str, &str)] = &[
    // It may mount what is its own.
    ("mount tmpfs", "done"),
    ("hostname", "done"),
    ("unshare", "done"),
    // What a new one would show is masked in the one there is.
    ("new proc", "EPERM"),
    ("new sysfs", "EPERM"),
    ("new cgroup", "EPERM"),
    ("new cgroup2", "EPERM"),
    ("new bpf", "EPERM"),
    ("new debugfs", "EPERM"),
    ("new tracefs", "EPERM"),
    ("new securityfs", "EPERM"),
    ("new ext4", "EPERM|ENODEV"),
    ("unshare_cgroup", "EPERM"),
    ("clone_cgroup", "EPERM"),
    ("clone3", "ENOSYS"),
    ("reveal /proc keys", "EPERM"),
    ("reveal /proc kcore", "EPERM"),
    ("reveal /proc timer_list", "EPERM"),
    ("reveal /proc interrupts", "EPERM"),
    ("reveal /sys firmware", "EPERM"),
    ("reveal /etc hosts", "EPERM"),
    ("umount /proc", "EINVAL"),
    ("umount /sys", "EINVAL"),
    ("umount /dev", "EINVAL"),
    ("umount /dev/null", "EINVAL"),
    ("umount /", "EINVAL"),
    ("writable /proc/sys", "EPERM"),
    ("writable /proc/bus", "EPERM"),
    ("writable /proc/irq", "EPERM"),
    ("writable /proc/sysrq-trigger", "EPERM"),
    ("writable /sys", "EPERM"),
    ("writable /etc/hosts", "EPERM"),
    ("writable /etc/resolv.conf", "EPERM"),
    ("bind /proc/1/root", "EACCES|EPERM"),
    ("read /proc/1/root", "EACCES"),
    ("read /proc/1/environ", "EACCES"),
    ("read /proc/1/mem", "EACCES"),
    ("setns /proc/1/ns/user", "EACCES"),
    ("setns /proc/1/ns/mnt", "EACCES"),
    ("setns /proc/1/ns/net", "EACCES"),
    ("setns /proc/1/ns/cgroup", "EACCES"),
    ("ptrace 1", "EPERM"),
    ("map", "EPERM"),
    ("write /proc/sys/kernel/core_pattern", "EROFS|EACCES|ENOENT"),
    ("write /proc/sys/kernel/modprobe", "EROFS|EACCES|ENOENT"),
    ("write /proc/sysrq-trigger", "EROFS|EACCES|ENOENT"),
    ("write /sys/kernel/uevent_helper", "EROFS|EACCES|ENOENT"),
    ("write /etc/hosts", "EROFS|EACCES"),
    ("handle", "EPERM"),
    ("mknod /memory", "EPERM|EACCES"),
    ("read /dev/mem", "ENOENT"),
    ("tiocsti", "ENOTTY"),
    ("key rbuild-test", "EPERM"),
    ("bpf", "EPERM"),
    ("perf", "EPERM"),
    ("io_uring", "EPERM"),
    ("userfaultfd", "EPERM"),
    ("module", "EPERM|ENOSYS"),
    ("kexec", "EPERM|ENOSYS"),
    ("clock", "EPERM"),
    ("swapon /x", "EPERM|ENOSYS"),
    ("reboot", "EPERM"),
    ("syslog", "EPERM"),
];

/// Programs that make namespaces of their own work in a step, and nothing that it is kept from can be had in them.
#[test]
fn nor_does_one_that_nests() {
    for user in ["0:0", "1000:1000"] {
        let fixture = Fixture::new();
        fixture.attacker();
        fs::create_dir(fixture.path("lower/mnt")).unwrap();
        let user = format!("--user={user}");
        let script: String = NESTED
            .iter()
            .map(|(attack, _)| format!("attack nested {attack}\n"))
            .collect();
        let outcome = fixture.write(&[&user], &script);
        hold(&outcome.stdout(), NESTED);
        let fixture = Fixture::new();
        fixture.attacker();
        let refused = fixture.write(&[&user, "--no-nested"], "attack nested unshare");
        assert_eq!(refused.stdout(), "nested: EPERM\n");
    }
}

/// What uid 0 may do to itself, others may not.
fn by_another(attacks: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let answered = attacks.iter().map(|(attack, errors)| match *attack {
        "write /proc/1/oom_score_adj" => (*attack, "done|EACCES"),
        "write /etc/resolv.conf" | "write /etc/hosts" => (*attack, "EACCES|EROFS"),
        "mknod /memory" => (*attack, "EPERM|EACCES|EROFS"),
        attack if attack.starts_with("write ") => (attack, "EROFS|ENOENT|EACCES|EPERM"),
        _ => (*attack, *errors),
    });
    answered.collect()
}

#[test]
fn nor_does_another_user() {
    let fixture = Fixture::new();
    fixture.attacker();
    fs::create_dir(fixture.path("lower/mnt")).unwrap();
    let others = by_another(&but(BY_ROOT, BY_KERNEL));
    let victims = Victims::start();
    let outcome = fixture.write(&["--user=1000:1000"], &victims.script(&others));
    hold(&outcome.stdout(), &others);
}

/// What a process may not do to others where it sees the builder's: by itself, and by what acts for it on rung 2. They have
/// a directory `/tmp/victim`, which all may write to.
const TO_OTHERS: &[(&str, &str)] = &[
    ("others root", "EACCES"),
    ("others cwd", "EACCES"),
    ("others fds", "EACCES"),
    ("others environ", "EACCES"),
    ("others mem", "EACCES"),
    ("others maps", "EACCES"),
    ("others memory", "EACCES"),
    ("others exe", "EACCES"),
    ("others ns/user", "EACCES"),
    ("others ns/mnt", "EACCES"),
    ("others setns", "EACCES"),
    ("others ptrace", "EPERM"),
    ("others kill", "EPERM"),
    ("others file /tmp/victim", "EACCES"),
    ("others directory /tmp/victim", "EACCES"),
    ("others link /tmp/victim", "EACCES"),
    ("others fifo /tmp/victim", "EACCES"),
    ("others device /tmp/victim", "EACCES|EPERM"),
    ("others owner /tmp/victim", "EACCES"),
];

/// Where steps see those. Process 1 is none of the step's.
fn with_others(attacks: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let alone = attacks
        .iter()
        .filter(|(attack, _)| !attack.starts_with("others "));
    let all: Vec<_> = alone.chain(TO_OTHERS).copied().collect();
    let mut answers = vec![
        ("setns /proc/1/ns/mnt", "EACCES"),
        ("write /proc/1/oom_score_adj", "done|EACCES"),
    ];
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(12)) {
        // Nobody has a scope of signals.
        answers.push(("others kill", "EPERM|done"));
    }
    but(&all, &answers)
}

/// Where a step runs.
struct Place {
    /// Without a `/proc` of its own.
    shared: bool,
    /// With one id.
    single: bool,
    root: &'static str,
    options: &'static str,
    shell: &'static str,
    attacks: Vec<(&'static str, &'static str)>,
}

#[test]
fn nor_on_the_lower_rungs() {
    nor_on_lower_rungs("");
}

/// Where mounts become read-only one by one.
#[test]
fn nor_on_those_of_an_old_kernel() {
    nor_on_lower_rungs(rungs::OLD);
}

/// One id, the builder's process ids, a directory as root: where steps have less around them, and several of these at once;
/// below the program `under`.
fn nor_on_lower_rungs(under: &str) {
    const LAYERS: &str = "--lower=/inner --upper=/tmp/upperN --work=/tmp/workN";
    const DIRECTORY: &str = "--root=/plain";
    const ROOT: &str = "--user=0:0";
    const BOB: &str = "--user=1000:1000";
    const SH: &str = "sh -c";
    let place = |shared, single, root, (options, shell), attacks| Place {
        shared,
        single,
        root,
        options,
        shell,
        attacks,
    };
    let kernel = but(BY_ROOT, BY_KERNEL);
    // The device is one in the image, and an empty file here.
    let single = but(BY_ROOT, &[("mknod /memory", "done")]);
    let single_bob = by_another(BY_ROOT);
    let nested: Vec<_> = NESTED.to_vec();
    let places = [
        place(false, false, LAYERS, (ROOT, SH), kernel.clone()),
        place(false, false, LAYERS, (BOB, SH), nested.clone()),
        place(false, true, LAYERS, (ROOT, SH), single.clone()),
        place(false, true, LAYERS, (BOB, SH), single_bob.clone()),
        place(false, false, DIRECTORY, (ROOT, SH), kernel.clone()),
        place(true, true, LAYERS, (ROOT, SH), with_others(&single)),
        place(true, true, LAYERS, (BOB, SH), with_others(&single_bob)),
        place(
            true,
            true,
            DIRECTORY,
            (ROOT, "su bob -s /bin/sh -c"),
            with_others(BY_ROOT),
        ),
        place(true, false, LAYERS, (ROOT, SH), with_others(&kernel)),
        place(
            true,
            false,
            LAYERS,
            (BOB, SH),
            with_others(&by_another(&kernel)),
        ),
        place(true, false, LAYERS, (ROOT, SH), nested),
    ];
    let victims = Victims::start();
    let mut script = "mkdir -m 777 /tmp/victim; chown bob /plain /plain/*\n".to_owned();
    let mut masked = false;
    for (number, place) in places.iter().enumerate() {
        if place.shared && !masked {
            script += "mount --bind /dev/null /proc/version\n";
            masked = true;
        }
        let mut attacks = victims.script(&place.attacks);
        if place.attacks == NESTED {
            attacks = attacks.replace("attack ", "attack nested ");
        }
        let user = if place.single { "bob" } else { "root" };
        let Place {
            root,
            options,
            shell,
            ..
        } = place;
        let text = format!(
            "echo == {number}
cat > /tmp/goN <<'END'
mkdir /tmp/upperN /tmp/workN
sandbox_run --store=/tmp {root} {options} {shell} '{attacks}'
END
{under} su {user} -c 'sh /tmp/goN'
"
        );
        script += &text
            .replace("/tmp/goN", &format!("/tmp/go{number}"))
            .replace("/tmp/upperN", &format!("/tmp/upper{number}"))
            .replace("/tmp/workN", &format!("/tmp/work{number}"));
    }
    script += "echo == end; ls /tmp/victim; stat -c %u /tmp/victim\n";
    let said = outer(&script).stdout();
    let mut parts = said.split("== ").skip(1);
    for (number, place) in places.iter().enumerate() {
        let (heading, answers) = parts.next().unwrap().split_once('\n').unwrap();
        assert_eq!(heading, number.to_string());
        hold(answers, &place.attacks);
    }
    assert_eq!(parts.next(), Some("end\n0\n"), "nothing was made there");
}

/// The terminal that the builder was started at is neither a stream of the step nor to be had by its name.
#[test]
fn the_terminal_of_the_builder_is_not_the_steps() {
    let fixture = Fixture::new();
    fixture.attacker();
    let mut command = fixture.command();
    command.args([
        "sh",
        "-c",
        "attack tiocsti; attack read /dev/tty; attack read /dev/console",
    ]);
    let (shown, _) = AtTerminal::start(&command).ends();
    let said: Vec<&str> = shown.lines().collect();
    assert_eq!(said, ["tiocsti: ENOTTY", "read: ENXIO", "read: ENOENT"]);
    // It would have been found.
    let mut command = Command::new(example("attack"));
    let (shown, _) = AtTerminal::start(command.arg("tiocsti")).ends();
    assert_eq!(shown.lines().collect::<Vec<_>>(), ["tiocsti: done"]);
}

/// What is masked shows nothing.
#[test]
fn masked_files_are_empty() {
    let script = "cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts | wc -c
         ls /proc/scsi /proc/acpi /sys/firmware 2> /dev/null | grep -v : | wc -w";
    assert_eq!(Fixture::new().sh(&[], script).stdout(), "0\n0\n");
}

/// An insecure step may do what it likes in its own namespaces, and no more.
#[test]
fn an_insecure_step_is_still_in_its_namespaces() {
    let fixture = Fixture::new();
    fixture.attacker();
    fs::create_dir(fixture.path("lower/mnt")).unwrap();
    let attacks = [
        ("unshare", "done"),
        ("mount proc", "done"),
        ("mount tmpfs", "done"),
        // Nothing is masked that it would reveal: the same attack is refused below a step that is confined.
        ("nested new proc", "done"),
        ("nested new sysfs", "done"),
        ("chroot", "EPERM"),
        ("handle", "EPERM"),
        ("mknod /memory", "EPERM"),
        ("tiocsti", "ENOTTY"),
        ("fds", "EBADF"),
        ("ptrace VICTIMS", "ESRCH"),
        ("others ptrace", "ESRCH"),
        ("module", "EPERM|ENOSYS"),
        ("kexec", "EPERM|ENOSYS"),
        ("clock", "EPERM"),
        ("swapon /x", "EPERM|ENOSYS"),
        ("reboot", "EPERM|EINVAL"),
    ];
    let victims = Victims::start();
    let outcome = fixture.write(&["--insecure"], &victims.script(&attacks));
    hold(&outcome.stdout(), &attacks);
}

/// The user's keys are in keyrings of its session and its id.
#[test]
fn keys_of_the_user_are_not_found() {
    let fixture = Fixture::new();
    fixture.attacker();
    let key = format!("rbuild-test-{}", std::process::id());
    let outside = |way: &str| {
        let mut command = Command::new(example("attack"));
        let said = command.args([way, &key]).output().unwrap().stdout;
        String::from_utf8(said).unwrap()
    };
    // Where keys are forbidden to us there are none to be found.
    let added = outside("addkey") == "addkey: done\n";
    assert_eq!(outside("key") == "key: done\n", added);
    let said = fixture
        .sh(&["--insecure"], &format!("attack key {key}"))
        .stdout();
    match added {
        true => assert_eq!(said, "key: ENOKEY\n"),
        false => assert_ne!(said, "key: done\n"),
    }
}

/// CVE-2019-5736: a step whose program is a script with `/proc/self/exe` as its interpreter executes rbuild's own file,
/// which its user may write. Until then process 1 of a step is what the zygote is.
#[test]
fn the_program_that_starts_a_step_lies_on_a_read_only_mount() {
    let fixture = Fixture::new();
    fixture.attacker();
    let mut child = fixture
        .command()
        .args(["--insecure", "sh", "-c", "echo ready; sleep 86400"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let zygotes: Vec<String> = lifetime::descendants(child.id())
        .into_iter()
        .filter_map(|process| Some(process.split_once(' ')?.0.to_owned()))
        .filter(|pid| {
            let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            cmdline.is_ok_and(|words| words.contains("__zygote"))
        })
        .collect();
    assert!(!zygotes.is_empty());
    for pid in zygotes {
        let mut command = Command::new(example("attack"));
        let said = command.args(["exe", &pid]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap(), "exe: EROFS\n");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The builder's environment and arguments are not the step's.
#[test]
fn the_environment_is_the_steps_alone() {
    let fixture = Fixture::new();
    let mut command = fixture.command();
    command.env("HOST_SECRET", "host secret");
    let script = "env | sort; cat /proc/[0-9]*/environ | grep -c 'host secret'";
    let outcome = Outcome(command.args(["sh", "-c", script]).output().unwrap());
    assert_data_eq!(
        outcome.text(),
        str![[r#"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PWD=/
SHLVL=1
0
[exit status: 1]

"#]]
    );
}

/// Descriptors that the builder has open, and does not close when it executes something, are not the step's.
#[test]
fn descriptors_do_not_leak() {
    let fixture = Fixture::new();
    fixture.attacker();
    for options in [&[] as &[&str], &["--insecure"]] {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 7< /etc/passwd 9>&2; exec \"$0\" \"$@\""]);
        command
            .arg(program())
            .arg("--store")
            .arg(fixture.dir.path());
        command.arg("--lower").arg(fixture.path("lower"));
        command.args(options).args(["attack", "fds"]);
        let outcome = Outcome(command.output().unwrap());
        assert_eq!(outcome.text(), "fds: EBADF\n");
    }
}

/// It forks until it may not any more.
#[test]
fn a_fork_bomb_ends_with_the_step() {
    let fixture = Fixture::new();
    let mut command = fixture.command();
    let bomb =
        "bomb() { (bomb) & (bomb) & sleep 86400; }; echo ready; bomb 2> /dev/null & sleep 86400";
    command.args([
        "--ulimit=nproc=200:200",
        "--user=1000:1000",
        "sh",
        "-c",
        bomb,
    ]);
    let mut child = lifetime::ready(&mut command);
    let mut below = Vec::new();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while below.len() < 100 && std::time::Instant::now() < patience {
        below = lifetime::descendants(child.id());
    }
    assert!(below.len() >= 100, "{}", below.len());
    lifetime::signal(&child, rustix::process::Signal::INT);
    child.wait().unwrap();
    lifetime::all_gone(&below);
    assert_eq!(lifetime::descendants(child.id()), [""; 0]);
}
