//! What works here, found out by doing it in a process that then ends; and what would mend the rest.

use std::fs;
use std::io;
use std::io::Read as _;
use std::path::Path;

use rustix::mount::MountAttrFlags;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;

use super::Foreign;
use super::Rung;
use super::Settings;
use super::foreign;
use super::foreign::Survey;
use super::ground;
use super::machine;
use super::mounts;
use super::seccomp::Nesting;
use super::supervise;
use super::sys;
use super::sys::Fork;
use super::uplink;
use super::userns;
use super::userns::EnterError;
use super::userns::Ids;
use super::wire;
use super::wire::wire_enum;
use super::wire::wire_struct;

/// What `rbuild doctor` shows of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The best rung that holds.
    pub rung: Rung,
    /// Whether roots of steps are made by overlayfs there.
    pub stacks: bool,
    /// Whether steps have a network of their own if nothing is said.
    pub uplink: bool,
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

    /// Which network steps have if nothing is said.
    pub fn network(&self) -> &'static str {
        match (self.rung, self.uplink) {
            (Rung::None, _) => "none",
            (_, true) => "own",
            (_, false) => "host",
        }
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

pub(super) fn finding(what: impl Into<String>, state: State, fix: Option<&str>) -> Finding {
    Finding {
        what: what.into(),
        state,
        fix: fix.map(str::to_owned),
    }
}

/// Tries out the sandbox. The process must have one thread; it stays where it is.
pub fn probe(settings: &Settings) -> Report {
    let user = rustix::process::geteuid().as_raw();
    if settings.chroot {
        return chroot_report();
    }
    let mut findings = vec![kernel()];
    findings.extend(machine::apparmor());
    let place = place_for(settings);
    let plan = ground::plan(place);
    findings.extend(plan.as_ref().ok().map(|plan| granted(plan, user)));
    findings.extend(machine::helpers(user));
    let mut stacks = false;
    let inside = plan.clone();
    let mut rung = Rung::None;
    let mut survey = None;
    let tried = in_child(0, || wire::encode(&try_out(plan, place, &settings.foreign)));
    match tried.map(|bytes| wire::decode(&bytes)) {
        Ok(Some(Trial {
            entered,
            checks,
            foreign,
        })) => {
            survey = foreign;
            findings.extend(match entered {
                Entered::Full => {
                    rung = Rung::Full;
                    vec![finding(
                        "a user namespace with ranges of ids",
                        State::Good,
                        None,
                    )]
                }
                Entered::Single { why } => {
                    rung = Rung::Single;
                    vec![single(&why, user)]
                }
                Entered::Refused { errno } => no_namespace(&os(errno)).findings,
                Entered::Unmapped { why } => no_map(&why, user).findings,
            });
            findings.extend(checks.iter().map(|check| judge(check, place)));
            stacks = checks
                .iter()
                .any(|check| check.name == OVERLAY && check.errno == 0);
        }
        tried => {
            let error = tried.err();
            let old = error.as_ref().is_some_and(|e| errno(e) == libc::ENOSYS);
            let why = error.map_or("the child ended early".to_owned(), |e| e.to_string());
            findings.push(finding(
                format!("nothing can be tried: {why}"),
                State::Missing,
                old.then_some(SINCE),
            ));
        }
    }
    if findings.iter().any(|f| f.state == State::Missing) {
        rung = Rung::None;
        findings.extend(chroot().is_ok().then(|| {
            finding(
                "chroot(2), which `--isolation=chroot` makes do with",
                State::Good,
                None,
            )
        }));
    }
    let mut has_uplink = false;
    if rung != Rung::None {
        let tried = uplink(inside);
        has_uplink = tried.state == State::Good;
        findings.push(tried);
    }
    findings.extend(survey.iter().flat_map(machine::foreign));
    findings.push(machine::cgroup());
    findings.extend(machine::disk(place));
    Report {
        rung,
        stacks: stacks && rung != Rung::None,
        uplink: has_uplink,
        findings,
    }
}

/// Where mounts are tried out: in the store, or what is there of the way to it, since that is its file system; else where
/// temporary files are.
fn place_for(settings: &Settings) -> &Path {
    let mut way = settings.store.ancestors();
    let there = way.find(|dir| dir.is_dir());
    there
        .filter(|dir| rustix::fs::access(*dir, rustix::fs::Access::WRITE_OK).is_ok())
        .unwrap_or(&settings.temp_dir)
}

/// Of `--isolation=chroot`.
fn chroot_report() -> Report {
    match chroot() {
        Err(report) => report,
        Ok(()) => Report {
            rung: Rung::Chroot,
            stacks: false,
            uplink: false,
            findings: vec![
                kernel(),
                finding("chroot(2)", State::Good, None),
                finding(
                    "steps are kept apart by `--isolation=chroot` alone: what this container holds they can reach",
                    State::Limited,
                    Some("leave it out, where namespaces are allowed"),
                ),
            ],
        },
    }
}

/// The default network of steps, by starting it.
fn uplink(plan: Result<userns::Plan, String>) -> Finding {
    let tried = in_child(0, || {
        let entered = userns::enter(plan).map_err(|_| "there is no user namespace".to_owned());
        let made_private = |_| mounts::make_private().map_err(|e| e.to_string());
        wire::encode(&match entered
            .and_then(made_private)
            .and_then(|()| uplink::try_out())
        {
            Ok(program) => uplink::Outcome::Up { program },
            Err(why) => uplink::Outcome::Down { why },
        })
    });
    match tried.ok().and_then(|bytes| wire::decode(&bytes)) {
        Some(uplink::Outcome::Up { program }) => finding(
            format!("a network of their own for steps, through {program}"),
            State::Good,
            None,
        ),
        Some(uplink::Outcome::Down { why }) => Finding {
            fix: Some(uplink::fix().to_owned()),
            what: format!("steps use this machine's own network: {why}"),
            state: State::Limited,
        },
        None => finding(
            "steps use this machine's own network: nothing can be tried",
            State::Limited,
            None,
        ),
    }
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn granted(plan: &userns::Plan, user: u32) -> Finding {
    let what = match user {
        0 => "running as root".to_owned(),
        _ => format!(
            "{} user ids and {} group ids {}",
            count(&plan.uids),
            count(&plan.gids),
            match plan.elsewhere {
                true => "by getsubids, from what nsswitch.conf names for `subid`",
                false => "in /etc/subuid and /etc/subgid",
            }
        ),
    };
    finding(what, State::Good, None)
}

fn count(ranges: &[userns::Range]) -> u64 {
    ranges.iter().skip(1).map(|r| u64::from(r.count)).sum()
}

/// Of the kernel, as far as it says.
pub(super) fn kernel_version() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy())
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    match version(&release) < ground::OVERLAY_SINCE {
        true => finding(
            format!(
                "Linux {release} has no overlayfs for user namespaces: steps run in a copy of their layers"
            ),
            State::Limited,
            Some(OVERLAY_KERNEL),
        ),
        false => finding(format!("Linux {release}"), State::Good, None),
    }
}

/// The first that has clone(2) with pidfds, open_tree(2) and move_mount(2), and pidfd_open(2).
const SINCE: &str = "Linux 5.3 or later";

pub(super) fn sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn single(why: &str, user: u32) -> Finding {
    Finding {
        what: format!("one user id only: {why}"),
        state: State::Limited,
        fix: Some(single_fix(why, user)),
    }
}

fn single_fix(why: &str, user: u32) -> String {
    if why.ends_with(ground::GIVES_NOTHING_AWAY) {
        return LOCAL_STORE.to_owned();
    }
    if user == 0 {
        return match why {
            userns::NAMESPACE_OF_ONE => {
                "run rbuild outside of it, or make it with ranges of ids (`unshare --map-root-user --map-auto`)"
            }
            _ => ROOT_FIX,
        }
        .to_owned();
    }
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return "allow setuid programs (docker, podman: without `--security-opt no-new-privileges`; Kubernetes: \
                `allowPrivilegeEscalation: true`)"
            .to_owned();
    }
    let helpers = machine::HELPERS.map(userns::helper);
    if helpers.iter().any(Result::is_err) {
        return "install newuidmap and newgidmap (package uidmap or shadow-utils)".to_owned();
    }
    let Some(name) = userns::user_name(user) else {
        return format!(
            "give user {user} a name, in /etc/passwd or in a directory service: newuidmap maps nothing for who has none"
        );
    };
    if !why.contains(userns::NO_RANGE) {
        // There are ranges, and nobody mapped them.
        let mut powerless = helpers
            .iter()
            .flatten()
            .filter_map(|path| machine::powerless(path));
        return powerless.next().map_or_else(
            || {
                "newuidmap(1) and newgidmap(1) tell when they refuse; in a container they need CAP_SETUID and CAP_SETGID"
                    .to_owned()
            },
            |powerless| powerless.fix,
        );
    }
    if userns::asks_service() {
        return format!(
            "have the service that /etc/nsswitch.conf names for `subid` give {name} ranges, as `getsubids {name}` and `getsubids -g \
             {name}` show them"
        );
    }
    let (first, last) = userns::free_range();
    if userns::local_name(user).is_none() {
        // usermod(8) changes users of /etc/passwd.
        return format!("echo {name}:{first}:65536 | sudo tee -a /etc/subuid /etc/subgid");
    }
    format!("sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name}")
}

/// What steps on [`Rung::Single`] cannot do; `user` is who started the program.
pub(super) fn single_remark(why: &str, user: u32) -> String {
    format!(
        "only one user id is mapped ({why}), and owners of files are recorded (rung 2, docs/rootless.md); {}",
        single_fix(why, user)
    )
}

/// The report when owners cannot be recorded at `place`.
pub(super) fn no_owners(error: &io::Error, place: &Path) -> Report {
    let place = place.display();
    none(format!("{OWNERS}: {error} (in `{place}`)"), LOCAL_STORE)
}

/// The report when unshare(2) failed.
pub(super) fn no_namespace(error: &io::Error) -> Report {
    let is = |name: &str, value: &str| sysctl(name).as_deref() == Some(value);
    let contained = can_make_do();
    let allow = machine::unrestrict();
    let fix = match error.raw_os_error() {
        Some(libc::ENOSPC) if is("user/max_user_namespaces", "0") => {
            "sudo sysctl user.max_user_namespaces=10000"
        }
        Some(libc::ENOSPC) => "user.max_user_namespaces is used up: end other builds, or raise it",
        Some(libc::EINVAL | libc::ENOSYS) => "a kernel with CONFIG_USER_NS",
        _ if is("kernel/unprivileged_userns_clone", "0") => {
            "sudo sysctl kernel.unprivileged_userns_clone=1"
        }
        // A container's seccomp filter says EPERM, whatever the machine's switch says.
        Some(libc::EACCES) if machine::restricted() => &allow,
        Some(libc::EPERM) if machine::restricted() && !machine::is_filtered() => &allow,
        Some(libc::EACCES) => {
            "a security module denies them to rbuild or to what started it: allow them in its policy (AppArmor: `userns,`; \
             SELinux: `allow … self:user_namespace create;`)"
        }
        // user_namespaces(7): EPERM for a process whose root is not that of its mount namespace.
        Some(libc::EPERM) if in_chroot() => {
            "in a chroot(2) there are no user namespaces: enter it with pivot_root(2), as containers are, or run \
             rbuild outside of it"
        }
        _ if contained => {
            "allow unshare, clone and mount with another seccomp profile (docker: `--security-opt \
             seccomp=unconfined`; Kubernetes: `seccompProfile: {type: Unconfined}`), or run steps with less: \
             `--isolation=chroot`"
        }
        _ => {
            "in a container: a seccomp profile that allows unshare, clone and mount (docker: `--security-opt \
             seccomp=unconfined`; Kubernetes: `seccompProfile: {type: Unconfined}`)"
        }
    };
    none(format!("the kernel refuses a user namespace: {error}"), fix)
}

/// Whether `--isolation=chroot` would do, for root of a container.
fn can_make_do() -> bool {
    rustix::process::geteuid().is_root() && !administers() && chroot().is_ok()
}

/// Whether this root is one that may mount: on a machine of its own, or in a container that is not contained.
fn administers() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|capabilities| {
        capabilities
            .effective
            .contains(rustix::thread::CapabilitySet::SYS_ADMIN)
    })
}

/// Whether `/` is a directory within a mount. A mount point one has changed the root to is not found out.
fn in_chroot() -> bool {
    let found = rustix::fs::statx(
        rustix::fs::CWD,
        "/",
        rustix::fs::AtFlags::empty(),
        rustix::fs::StatxFlags::empty(),
    );
    let is_mount = rustix::fs::StatxAttributes::MOUNT_ROOT;
    found.is_ok_and(|found| {
        found.stx_attributes_mask.contains(is_mount) && !found.stx_attributes.contains(is_mount)
    })
}

/// user_namespaces(7): who maps id 0 of the parent needs CAP_SETFCAP there since Linux 5.12.
const ROOT_FIX: &str = "as root in a container rbuild needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP: run it as another \
                        user, or do not drop them";

/// Whether steps can run without namespaces, or why not.
pub(super) fn chroot() -> Result<(), Report> {
    if !rustix::process::geteuid().is_root() {
        return Err(none(
            "`--isolation=chroot` is for root in a container, and this is another user".to_owned(),
            "leave it out, or run the container as root",
        ));
    }
    let trial = || alone(0, || Ok(rustix::process::chroot("/")?));
    trial().map_err(|error| {
        none(
            format!("chroot(2) is refused: {error}"),
            "give the container CAP_SYS_CHROOT",
        )
    })
}

/// The report when the namespace has no ids.
pub(super) fn no_map(why: &str, user: u32) -> Report {
    let allow = machine::unrestrict();
    let fix = match user {
        0 => ROOT_FIX,
        // Namespaces can be made there, and have no power: writing a map is the first thing that takes some.
        _ if machine::restricted() => &allow,
        _ => "see user_namespaces(7), \"Defining user and group ID mappings\"",
    };
    none(
        format!("the ids of the user namespace cannot be mapped: {why}"),
        fix,
    )
}

/// The report when the namespace gives no power over mounts.
pub(super) fn no_mounts(error: &io::Error) -> Report {
    let allow = machine::unrestrict();
    let fix = match machine::restricted() {
        _ if errno(error) == libc::ENOSYS => SINCE,
        true => &*allow,
        false => {
            "a security module or a seccomp filter denies mounts in user namespaces: allow them, or, as root of a \
             container, run steps with less: `--isolation=chroot`"
        }
    };
    none(
        format!("mounts are refused in the user namespace: {error}"),
        fix,
    )
}

/// The report when a step's root cannot become its `/`.
pub(super) fn no_root(error: &io::Error) -> Report {
    none(
        format!("pivot_root(2) is refused in the user namespace: {error}"),
        "allow pivot_root with another seccomp profile (docker: `--security-opt seccomp=unconfined`), or, as root of a \
         container, run steps with less: `--isolation=chroot`",
    )
}

fn none(what: String, fix: &str) -> Report {
    Report {
        rung: Rung::None,
        stacks: false,
        uplink: false,
        findings: vec![finding(what, State::Missing, Some(fix))],
    }
}

fn judge(check: &Check, place: &Path) -> Finding {
    let name = &check.name;
    if check.errno == 0 {
        return finding(name.as_str(), State::Good, None);
    }
    let error = os(check.errno);
    let (state, fix) = match name.as_str() {
        MOUNTS => return no_mounts(&error).findings.remove(0),
        ROOT => return no_root(&error).findings.remove(0),
        OWNERS => (State::Missing, LOCAL_STORE),
        STORE => (
            State::Missing,
            "choose another place for the store with `--root` or RBUILD_ROOT",
        ),
        SUPERVISOR => (
            State::Missing,
            supervise::fix(&error).unwrap_or("a kernel with CONFIG_SECCOMP_FILTER"),
        ),
        OVERLAY if kernel_version() < ground::OVERLAY_SINCE => (State::Limited, OVERLAY_KERNEL),
        OVERLAY => (State::Limited, OVERLAY_FIX),
        PROC => (
            State::Limited,
            "steps share the builder's process ids; in a container, an unmasked /proc (podman: `--security-opt \
             unmask=ALL`; docker: `--security-opt systempaths=unconfined`)",
        ),
        NETWORK => (State::Limited, "`--network=none` fails"),
        _ => (State::Missing, "a kernel with CONFIG_SECCOMP_FILTER"),
    };
    let place = match name.as_str() {
        STORE | OWNERS => format!(" (in `{}`)", place.display()),
        OVERLAY => format!(
            " (in `{}`): steps run in a copy of their layers",
            place.display()
        ),
        _ => String::new(),
    };
    finding(format!("{name}: {error}{place}"), state, Some(fix))
}

/// What mends a store whose files cannot have the owners that steps give them.
const LOCAL_STORE: &str =
    "put the store (`--root` or RBUILD_ROOT) on a local file system: ext4, xfs, btrfs";

/// What mends a kernel whose overlayfs is not for user namespaces.
const OVERLAY_KERNEL: &str = "Linux 5.11 or later";

/// What mends a store overlayfs refuses.
pub(super) const OVERLAY_FIX: &str = "put the store (`--root` or RBUILD_ROOT) on a file system that takes overlay \
                                      uppers and user xattrs: ext4, xfs, btrfs, tmpfs; not NFS, and not a container's \
                                      own root";

const MOUNTS: &str = "mounts in the user namespace";
const ROOT: &str = "a root of its own for each step";
const STORE: &str = "writing to the store";
const OWNERS: &str = "owners of files, recorded as xattrs on the store's file system";
const SUPERVISOR: &str = "a process that keeps the owners of a step's files";
const OVERLAY: &str = "overlayfs with user xattrs on the store's file system";
const PROC: &str = "a /proc of its own for each step";
const NETWORK: &str = "a network namespace with loopback";
const SECCOMP: &str = "a seccomp filter";

/// What the child found.
struct Trial {
    entered: Entered,
    checks: Vec<Check>,
    /// Where there is a namespace.
    foreign: Option<Survey>,
}
wire_struct!(Trial {
    entered,
    checks,
    foreign
});

enum Entered {
    Full,
    Single { why: String },
    Refused { errno: i32 },
    Unmapped { why: String },
}
wire_enum!(Entered {
    0 => Full,
    1 => Single { why },
    2 => Refused { errno },
    3 => Unmapped { why },
});

/// Something tried, with the error number it failed with or 0.
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

fn try_out(plan: Result<userns::Plan, String>, place: &Path, foreign: &Foreign) -> Trial {
    let failed = |entered| Trial {
        entered,
        checks: Vec::new(),
        foreign: None,
    };
    let entered = match userns::enter(plan) {
        Ok(Ids::Full) => Entered::Full,
        Ok(Ids::Single(why)) => Entered::Single { why },
        Err(EnterError::Unshare(e)) => {
            return failed(Entered::Refused { errno: errno(&e) });
        }
        Err(EnterError::Threads) => {
            return failed(Entered::Refused {
                errno: libc::EINVAL,
            });
        }
        Err(EnterError::Map(why)) => return failed(Entered::Unmapped { why }),
    };
    let mut tried = vec![(MOUNTS, mounts::may_mount().map_err(Into::into))];
    if tried[0].1.is_ok() {
        tried.push((ROOT, mounts::may_pivot().map_err(Into::into)));
    }
    let single = matches!(entered, Entered::Single { .. });
    match ground::trial(place) {
        Ok(dir) => {
            tried.push((STORE, Ok(())));
            if single {
                tried.push((OWNERS, ground::records(dir.path())));
            }
            tried.push((OVERLAY, ground::overlay(dir.path())));
        }
        Err(error) => tried.push((STORE, Err(error))),
    }
    tried.push((
        PROC,
        alone(libc::CLONE_NEWPID, || {
            mounts::new("proc", &[], MountAttrFlags::empty())?;
            Ok(())
        }),
    ));
    tried.push((NETWORK, alone(libc::CLONE_NEWNET, sys::loopback_up)));
    if single {
        tried.push((SUPERVISOR, alone(0, supervise::try_out)));
    }
    tried.push((
        SECCOMP,
        alone(0, || {
            sys::install_filter(super::seccomp::program(Nesting::Refused))
        }),
    ));
    let check = |(name, result): (&str, io::Result<()>)| Check {
        name: name.to_owned(),
        errno: result.err().map_or(0, |e| errno(&e)),
    };
    Trial {
        entered,
        checks: tried.into_iter().map(check).collect(),
        foreign: Some(foreign::survey(foreign, single)),
    }
}

fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// One trial in a child of its own.
pub(super) fn alone(namespaces: i32, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let bytes = in_child(namespaces, || {
        wire::encode(&work().err().map_or(0, |e| errno(&e)))
    })?;
    match wire::decode(&bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(os(errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_report_quotes_the_first_of_its_worst_findings() {
        let report = Report {
            rung: Rung::None,
            stacks: false,
            uplink: false,
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
