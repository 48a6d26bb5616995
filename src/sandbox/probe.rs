//! What works here, found out by doing it in a process that then ends; and what would mend the rest.

use std::fs;
use std::io;
use std::io::Read as _;
use std::path::Path;

use rustix::mount::MountAttrFlags;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;

use super::Rung;
use super::Settings;
use super::mounts;
use super::sys;
use super::sys::Fork;
use super::userns;
use super::userns::EnterError;
use super::userns::Ids;
use super::wire;
use super::wire::wire_struct;

/// What `rbuild doctor` shows of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The best rung that holds.
    pub rung: Rung,
    /// What was looked at or tried, in order.
    pub findings: Vec<Finding>,
}

/// One thing looked at or tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, and how it came out.
    pub what: String,
    /// How much that matters.
    pub state: State,
    /// What would mend it.
    pub fix: Option<String>,
}

/// How a finding came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Good,
    /// Some steps fail, or are slower.
    Limited,
    /// No step can run.
    Missing,
}

impl Report {
    /// The worst finding, for a message.
    pub fn reason(&self) -> &str {
        self.worst()
            .map_or("nothing is known to be wrong", |f| f.what.as_str())
    }

    /// What would mend the worst finding.
    pub fn fix(&self) -> Option<String> {
        self.worst()?.fix.clone()
    }

    fn worst(&self) -> Option<&Finding> {
        // The first of the worst: later ones may follow from it.
        let bad = self.findings.iter().filter(|f| f.state != State::Good);
        bad.rev().max_by_key(|f| f.state)
    }
}

fn finding(what: impl Into<String>, state: State, fix: Option<&str>) -> Finding {
    Finding {
        what: what.into(),
        state,
        fix: fix.map(str::to_owned),
    }
}

/// Tries out the sandbox. The process must have one thread; it stays where it is.
pub fn probe(settings: &Settings) -> Report {
    let mut findings = vec![kernel()];
    let plan = userns::plan();
    findings.push(match &plan {
        Ok(_) if rustix::process::geteuid().is_root() => {
            finding("running as root", State::Good, None)
        }
        Ok(plan) => finding(
            format!(
                "{} user ids and {} group ids in /etc/subuid and /etc/subgid",
                count(&plan.uids),
                count(&plan.gids)
            ),
            State::Good,
            None,
        ),
        Err(why) => single(why),
    });
    let place = match settings.store.is_dir() {
        true => &settings.store,
        false => &settings.temp_dir,
    };
    let trial = match try_in_child(plan, place) {
        Ok(trial) => trial,
        Err(e) => {
            findings.push(finding(
                format!("cannot try anything: {e}"),
                State::Missing,
                None,
            ));
            return Report {
                rung: Rung::None,
                findings,
            };
        }
    };
    let rung = match trial.entered.as_str() {
        FULL => Rung::Full,
        SINGLE => Rung::Single,
        _ => Rung::None,
    };
    match trial.entered.as_str() {
        FULL => findings.push(finding(
            "user namespace with ranges of ids",
            State::Good,
            None,
        )),
        SINGLE => findings.push(single(&trial.why)),
        UNSHARE => {
            findings.extend(no_namespace(&io::Error::from_raw_os_error(trial.errno)).findings)
        }
        _ => findings.extend(no_map(&trial.why).findings),
    }
    for check in trial.checks {
        findings.push(judge(&check, place));
    }
    let blocked = findings.iter().any(|f| f.state == State::Missing);
    Report {
        rung: if blocked { Rung::None } else { rung },
        findings,
    }
}

fn count(ranges: &[userns::Range]) -> u64 {
    ranges.iter().skip(1).map(|r| u64::from(r.count)).sum()
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0_u32);
    match (next(), next()) < (5, 11) {
        true => finding(
            format!("Linux {release} has no overlayfs for user namespaces"),
            State::Missing,
            Some("Linux 5.11 or later"),
        ),
        false => finding(format!("Linux {release}"), State::Good, None),
    }
}

fn sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn single(why: &str) -> Finding {
    Finding {
        what: format!("one user id only: {why}"),
        state: State::Limited,
        fix: Some(single_fix()),
    }
}

fn single_fix() -> String {
    let user = userns::user_name(rustix::process::getuid().as_raw())
        .unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
    if userns::helper("newuidmap").is_err() {
        return "install newuidmap and newgidmap (package uidmap or shadow-utils)".to_owned();
    }
    format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
}

/// What steps on [`Rung::Single`] cannot do.
pub(super) fn single_remark(why: &str) -> String {
    format!(
        "only one user id is mapped ({why}): changing a file's owner fails with `Invalid argument`; {}",
        single_fix()
    )
}

/// The report when unshare(2) failed.
pub(super) fn no_namespace(error: &io::Error) -> Report {
    let is = |name: &str, value: &str| sysctl(name).as_deref() == Some(value);
    let fix = match error.raw_os_error() {
        Some(libc::ENOSPC) if is("user/max_user_namespaces", "0") => {
            "sudo sysctl user.max_user_namespaces=10000"
        }
        Some(libc::ENOSPC) => "user.max_user_namespaces is used up: end other builds, or raise it",
        Some(libc::EINVAL | libc::ENOSYS) => "a kernel with CONFIG_USER_NS",
        _ if is("kernel/unprivileged_userns_clone", "0") => {
            "sudo sysctl kernel.unprivileged_userns_clone=1"
        }
        _ if is("kernel/apparmor_restrict_unprivileged_userns", "1") => APPARMOR,
        _ => {
            "in a container: a seccomp profile that allows unshare, clone and mount (docker: `--security-opt \
             seccomp=unconfined`; Kubernetes: `seccompProfile: {type: Unconfined}`)"
        }
    };
    none(format!("the kernel refuses a user namespace: {error}"), fix)
}

const APPARMOR: &str = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with \
                        `userns,` for rbuild";

/// The report when the namespace has no ids.
pub(super) fn no_map(why: &str) -> Report {
    let fix = match rustix::process::getuid().is_root() {
        // user_namespaces(7): who maps id 0 of the parent needs CAP_SETFCAP there since Linux 5.12.
        true => {
            "as root in a container rbuild needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP: run it as another user, \
                 or do not drop them"
        }
        false => "see user_namespaces(7), \"Defining user and group ID mappings\"",
    };
    none(
        format!("the ids of the user namespace cannot be mapped: {why}"),
        fix,
    )
}

/// The report when the namespace gives no power over mounts.
pub(super) fn no_mounts(error: &io::Error) -> Report {
    let fix = match sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() {
        Some("1") => APPARMOR,
        _ => "a security module denies mounts in user namespaces: see the kernel's log",
    };
    none(
        format!("mounts are refused in the user namespace: {error}"),
        fix,
    )
}

fn none(what: String, fix: &str) -> Report {
    Report {
        rung: Rung::None,
        findings: vec![finding(what, State::Missing, Some(fix))],
    }
}

fn judge(check: &Check, place: &Path) -> Finding {
    let name = &check.name;
    if check.errno == 0 {
        return finding(name.as_str(), State::Good, None);
    }
    let error = io::Error::from_raw_os_error(check.errno);
    let what = format!("{name}: {error}");
    match name.as_str() {
        MOUNTS => no_mounts(&error).findings.remove(0),
        OVERLAY => Finding {
            what: format!("{what} (in `{}`)", place.display()),
            state: State::Missing,
            fix: Some(
                "put the store (`--root`, RBUILD_ROOT) on ext4, xfs, btrfs or tmpfs; not on NFS or a container's own \
                 root"
                    .to_owned(),
            ),
        },
        PROC => finding(
            what,
            State::Limited,
            Some(
                "steps share the builder's process ids; in a container, an unmasked /proc (podman: `--security-opt \
                 unmask=ALL`)",
            ),
        ),
        NETWORK => finding(what, State::Limited, Some("`--network=none` will fail")),
        _ => finding(what, State::Missing, None),
    }
}

const FULL: &str = "full";
const SINGLE: &str = "single";
const UNSHARE: &str = "unshare";
const MAP: &str = "map";

const MOUNTS: &str = "mounts in the user namespace";
const OVERLAY: &str = "overlayfs with user xattrs on the store's file system";
const PROC: &str = "a /proc of its own for each step";
const NETWORK: &str = "a network namespace with loopback";
const SECCOMP: &str = "seccomp filters";

/// What the child found.
struct Trial {
    /// `FULL`, `SINGLE`, `UNSHARE` or `MAP`.
    entered: String,
    errno: i32,
    why: String,
    checks: Vec<Check>,
}
wire_struct!(Trial {
    entered,
    errno,
    why,
    checks
});

struct Check {
    name: String,
    errno: i32,
}
wire_struct!(Check { name, errno });

/// Runs `work` in a child, in new namespaces, and takes back what it sends.
fn in_child(namespaces: i32, work: impl FnOnce() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::fork(namespaces)? {
        Fork::Child => {
            let sent = io::Write::write_all(&mut fs::File::from(write), &work());
            sys::exit_child(i32::from(sent.is_err()));
        }
        Fork::Parent(pid, _) => {
            drop(write);
            let mut bytes = Vec::new();
            fs::File::from(read).read_to_end(&mut bytes)?;
            rustix::io::retry_on_intr(|| {
                rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)
            })?;
            Ok(bytes)
        }
    }
}

fn try_in_child(plan: Result<userns::Plan, String>, place: &Path) -> io::Result<Trial> {
    let bytes = in_child(0, || wire::encode(&try_out(plan, place)))?;
    Ok(wire::decode(&bytes).ok_or(io::ErrorKind::UnexpectedEof)?)
}

fn try_out(plan: Result<userns::Plan, String>, place: &Path) -> Trial {
    let mut trial = Trial {
        entered: FULL.to_owned(),
        errno: 0,
        why: String::new(),
        checks: Vec::new(),
    };
    match userns::enter(plan) {
        Ok(Ids::Full) => {}
        Ok(Ids::Single(why)) => {
            SINGLE.clone_into(&mut trial.entered);
            trial.why = why;
        }
        Err(EnterError::Unshare(e)) => {
            UNSHARE.clone_into(&mut trial.entered);
            trial.errno = e.raw_os_error().unwrap_or(0);
            return trial;
        }
        Err(EnterError::Threads) => {
            UNSHARE.clone_into(&mut trial.entered);
            trial.errno = libc::EINVAL;
            return trial;
        }
        Err(EnterError::Map(why)) => {
            MAP.clone_into(&mut trial.entered);
            trial.why = why;
            return trial;
        }
    }
    let mut check = |name: &str, result: io::Result<()>| {
        trial.checks.push(Check {
            name: name.to_owned(),
            errno: result
                .err()
                .map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO)),
        });
    };
    check(
        MOUNTS,
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC,
        )
        .map_err(io::Error::from),
    );
    check(OVERLAY, overlay(place));
    check(
        PROC,
        alone(libc::CLONE_NEWPID, || {
            mounts::new("proc", &[], MountAttrFlags::empty())?;
            Ok(())
        }),
    );
    check(NETWORK, alone(libc::CLONE_NEWNET, sys::loopback_up));
    check(
        SECCOMP,
        alone(0, || sys::install_filter(&super::seccomp::program())),
    );
    trial
}

/// One trial in a child of its own.
fn alone(namespaces: i32, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let errno = |e: io::Error| e.raw_os_error().unwrap_or(libc::EIO);
    let bytes = in_child(namespaces, || {
        let result = work().err().map_or(0, errno);
        result.to_le_bytes().to_vec()
    })?;
    match wire::decode(&bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Replaces a directory of a lower layer, which takes an upper, a whiteout and an xattr.
fn overlay(place: &Path) -> io::Result<()> {
    let dir = tempfile::Builder::new().prefix("probe").tempdir_in(place)?;
    for name in ["l/d", "u", "w"] {
        fs::create_dir_all(dir.path().join(name))?;
    }
    let before = std::env::current_dir()?;
    std::env::set_current_dir(dir.path())?;
    let tried = (|| -> io::Result<()> {
        let mount = mounts::overlay(&["l".to_owned()], Some(["u", "w"]))?;
        rustix::fs::unlinkat(&mount, "d", rustix::fs::AtFlags::REMOVEDIR)?;
        Ok(mounts::make_dirs(&mount, Path::new("d"))?)
    })();
    std::env::set_current_dir(before)?;
    dir.close()?;
    tried
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_report_quotes_the_first_of_its_worst_findings() {
        let report = Report {
            rung: Rung::None,
            findings: vec![
                finding("fine", State::Good, None),
                finding("slow", State::Limited, Some("a")),
                finding("broken", State::Missing, Some("b")),
                finding("broken by that", State::Missing, Some("c")),
            ],
        };
        assert_eq!(report.reason(), "broken");
        assert_eq!(report.fix().as_deref(), Some("b"));
    }
}
