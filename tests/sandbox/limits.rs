//! What a step may use. Where this machine gives no cgroup for it, that is said, as by `probe`.

use super::*;

/// A cgroup for this test, and where it is, if cgroups of version 2 are mounted.
fn parent(name: &str) -> (String, Option<PathBuf>) {
    let cgroup = format!("/rbuild-test-{}-{name}", std::process::id());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let dir = mount.map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let below = Path::new(&cgroup).strip_prefix(fields[3]).unwrap();
        Path::new(fields[4]).join(below)
    });
    (cgroup, dir)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a refusal gives a reason that holds here, and what mends it.
#[track_caller]
fn refused(outcome: &Outcome) {
    let text = outcome.text();
    assert!(
        text.contains("steps cannot be given limits here: "),
        "{text}"
    );
    let of_root = ["version", "is mounted read-only"];
    let is_of_root = of_root.iter().any(|reason| text.contains(reason));
    assert!(!is_root() || is_of_root, "{text}");
    assert!(text.contains("[exit status: 3]"), "{text}");
}

#[test]
fn a_step_is_in_the_cgroup_that_is_asked_for() {
    let fixture = Fixture::new();
    let (cgroup, dir) = parent("parent");
    let option = format!("--cgroup-parent={cgroup}");
    let outcome = fixture.sh(&[&option], "cat /proc/self/cgroup");
    if !is_root() || dir.is_none() {
        return refused(&outcome);
    }
    let said = outcome.stdout();
    let is_below = |line: &str| line.starts_with(&format!("0::{cgroup}/rbuild-"));
    assert!(said.lines().any(is_below), "{said}");
    // The build's and the step's are gone.
    fs::remove_dir(dir.unwrap()).unwrap();
}

#[test]
fn a_step_that_needs_more_memory_than_it_may_have_is_killed_with_all_its_processes() {
    let fixture = Fixture::new();
    let (cgroup, dir) = parent("memory");
    let options = [
        &format!("--cgroup-parent={cgroup}"),
        &format!("--memory={}", 64 << 20),
    ];
    let script = "echo begun; tail -c 300000000 /dev/zero | wc -c; echo went on";
    let outcome = fixture.sh(&options.map(String::as_str), script);
    let has_memory = dir.as_deref().is_some_and(|dir| {
        let controllers = fs::read_to_string(dir.join("cgroup.controllers"));
        controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"))
    });
    if !is_root() || !has_memory {
        refused(&outcome);
    } else {
        // What `sandbox_run` exits with then.
        assert_eq!(outcome.text(), "begun\n[exit status: 200]\n");
    }
    if let Some(dir) = dir.filter(|dir| dir.exists()) {
        fs::remove_dir(dir).unwrap();
    }
}

/// What `probe` finds and what a step meets is the same.
#[test]
fn probe_says_what_steps_meet() {
    let fixture = Fixture::new();
    let mut command = fixture.command();
    let probed = Outcome(command.arg("--probe").output().unwrap()).text();
    let Some((_, reason)) = probed.split_once("steps cannot be given limits (`--resource`): ")
    else {
        assert!(probed.contains("limits for steps"), "{probed}");
        let outcome = fixture.sh(&["--memory=100000000"], "echo ran");
        assert_eq!(outcome.text(), "ran\n");
        return;
    };
    let reason = reason.lines().next().unwrap();
    let outcome = fixture.sh(&["--memory=100000000"], "true");
    // Of version 1 probe names all controllers, and a step those it wants.
    let common = reason.split(": `").next().unwrap();
    assert!(
        outcome.text().contains(common),
        "{reason}: {}",
        outcome.text()
    );
    refused(&outcome);
}
