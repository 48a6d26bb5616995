//! A step that does real work: apt-get installs nginx-light, from packages that are there.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::measure::Bound;
use super::measure::Measured;
use super::measure::Times;
use super::measure::line;
use super::measure::run;
use super::place::Place;

const ROUNDS: usize = 5;
const INSTALL: &str =
    "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx-light";

pub(crate) fn packages() -> Measured<String> {
    let place = Place::new();
    let measured = measure(&place);
    // Files of other owners are removed where they can be.
    for store in ["store", "single"] {
        if place.beside(store).is_dir() {
            let reset = place.rbuild(store).args(["reset", "--force"]).output();
            drop(reset);
        }
    }
    drop(inside(&place, "rm -rf lower bare", &[]).status());
    measured
}

fn measure(place: &Place) -> Measured<String> {
    fs::set_permissions(place.beside("."), fs::Permissions::from_mode(0o755)).unwrap();
    base(place)?;
    let root = rustix::process::getuid().is_root();
    let (mut ours, mut single, mut bare) = (Times::default(), Times::default(), Times::default());
    for round in 0..=ROUNDS {
        let first = round == 0;
        let take = |times: &mut Times, time: Duration| {
            // The first has the base to unpack, and the caches of the file system to fill.
            if !first {
                times.push(time);
            }
        };
        place.dockerfile(&format!(
            "FROM scratch\nADD base.tar /\nENV ROUND={round}\nRUN --network=none {INSTALL}\n"
        ));
        take(&mut ours, run(place.build("store").arg("context"))?);
        take(&mut bare, install_bare(place)?);
        if !root {
            let mut build = with_one_id(&place.build("single"));
            take(&mut single, run(build.arg("context"))?);
        }
    }
    let what = "unshare, overlay and chroot";
    let mut text = line(&ours, &bare, what, &Bound::times(1.05));
    if !root {
        let single = line(&single, &bare, "the same", &Bound::times(1.25));
        write!(text, "\n{:<18} on rung 2: {single}", "").unwrap();
    }
    Ok(text)
}

/// A Debian whose apt has all it needs, as a tar in the context and as the directory `lower`.
fn base(place: &Place) -> Measured<()> {
    let release = fs::read_to_string("/etc/os-release").map_err(|error| error.to_string())?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .ok_or("this is no Debian")?;
    let sources = [
        "/etc/apt/sources.list.d/debian.sources",
        "/etc/apt/sources.list",
    ];
    let sources = sources.iter().find(|path| Path::new(path).exists());
    let mode = match rustix::process::getuid().is_root() {
        true => "root",
        false => "unshare",
    };
    let tar = place.context("base.tar");
    run(Command::new("mmdebstrap")
        // Its namespace must be able to pass through the temporary directory.
        .env("TMPDIR", "/var/tmp")
        .args([&format!("--mode={mode}"), "--variant=apt", "--quiet"])
        .arg("--skip=cleanup/apt")
        // As images of Debian have it: nothing is started.
        .arg("--customize-hook=printf '#!/bin/sh\\nexit 101\\n' > \"$1/usr/sbin/policy-rc.d\"; chmod 755 \"$1/usr/sbin/policy-rc.d\"")
        .arg(format!("--customize-hook=chroot \"$1\" sh -c '{INSTALL} --download-only'"))
        .arg(suite)
        .arg(&tar)
        .args(sources))?;
    run(&mut inside(
        place,
        "mkdir lower && tar -xf context/base.tar -C lower --exclude=./dev/*",
        &[],
    ))?;
    Ok(())
}

/// The same command on the same files, in a root that nothing is known of afterwards.
fn install_bare(place: &Place) -> Measured<Duration> {
    let prepare = "rm -rf bare && mkdir -p bare/upper bare/work bare/root";
    run(&mut inside(place, prepare, &[]))?;
    // Without it, new directories cannot be marked as hiding what is below, nor be renamed, by who is not root.
    let option = match rustix::process::getuid().is_root() {
        true => "",
        false => ",userxattr",
    };
    let script = format!(
        "mount -t overlay overlay -o lowerdir=lower,upperdir=bare/upper,workdir=bare/work{option} bare/root \
         && mount --rbind /dev bare/root/dev && mount -t proc proc bare/root/proc \
         && exec chroot bare/root /bin/sh -c \"$INSTALL\""
    );
    run(inside(place, &script, &["--mount", "--pid", "--fork"]).env("INSTALL", INSTALL))
}

/// A shell in the directory, with ids of its own unless it is root's.
fn inside(place: &Place, script: &str, namespaces: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-auto", "--map-root-user"]);
    }
    command
        .args(namespaces)
        .args(["--", "sh", "-c", script])
        .current_dir(place.beside("."));
    command
}

/// The same command by a process that gets no ranges of ids, since newuidmap has no privileges then: on rung 2.
fn with_one_id(build: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command
        .arg("--no-new-privs")
        .arg(build.get_program())
        .args(build.get_args())
        .env_clear();
    for (name, value) in build.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    if let Some(dir) = build.get_current_dir() {
        command.current_dir(dir);
    }
    command
}
