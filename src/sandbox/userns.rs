//! Into a user namespace, with as many ids as the system grants.

use std::cell::LazyCell;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::thread::UnshareFlags;

use super::sys;
use super::sys::Fork;

/// Between two looks at what the kernel does in its own time.
const PAUSE: Duration = Duration::from_micros(200);

/// A line of a `uid_map`: `count` ids from `inside` are `outside` and up in the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

/// The ids asked for, and who can grant them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) uids: Vec<Range>,
    pub(super) gids: Vec<Range>,
    pub(super) grant: Grant,
    /// Whether getsubids(1) had any of them.
    pub(super) elsewhere: bool,
}

/// Who writes the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    /// We may: we are root.
    Ourselves,
    /// The setuid programs of shadow-utils.
    Helpers { uid: PathBuf, gid: PathBuf },
}

/// How the namespace was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ids {
    /// With ranges.
    Full,
    /// With our own id alone, and why.
    Single(String),
}

/// Why no user namespace was entered.
#[derive(Debug)]
pub(super) enum EnterError {
    Threads,
    Unshare(io::Error),
    Map(String),
}

/// Directories that hold newuidmap, searched in order; the last is where NixOS keeps its setuid programs.
const HELPER_DIRECTORIES: [&str; 6] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/run/wrappers/bin",
];

/// What to ask for, or why there is nothing but the single id.
pub(super) fn plan() -> Result<Plan, String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        let identity = |file: &str| {
            let text = fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?;
            Ok::<_, String>(identity(&text))
        };
        let plan = Plan {
            uids: identity("/proc/self/uid_map")?,
            gids: identity("/proc/self/gid_map")?,
            grant: Grant::Ourselves,
            elsewhere: false,
        };
        // A namespace that its user made without help: setgroups(2) is forbidden in it and below.
        return match has_one_id(&plan.uids) || has_one_id(&plan.gids) {
            true => Err(NAMESPACE_OF_ONE.to_owned()),
            false => Ok(plan),
        };
    }
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return Err("no_new_privs is set, so newuidmap has no privileges".to_owned());
    }
    // Every build asks. A process is made only where a service has the ranges, and for a user whom this machine's own files do
    // not know, and who may have ranges all the same.
    let local = local_name(uid.as_raw());
    let far = LazyCell::new(|| far_name(uid.as_raw()));
    let elsewhere = asks_service();
    let ranges = |file: &str, own: u32| {
        let named = |user: Option<&str>| user.map_or_else(|| uid.to_string(), str::to_owned);
        let (ranges, whose, name) = if elsewhere {
            let name = named(local.as_deref().or_else(|| far.as_deref()));
            let ranges = ranges_elsewhere(&name, file == "/etc/subgid");
            (ranges, "what nsswitch.conf names for `subid`", name)
        } else {
            let text = fs::read_to_string(file).unwrap_or_default();
            let mut user = local.as_deref();
            let mut ranges = subordinate(&text, user, uid.as_raw());
            if ranges.is_empty() && user.is_none() && !text.trim().is_empty() {
                user = far.as_deref();
                ranges = subordinate(&text, user, uid.as_raw());
            }
            (ranges, file, named(user))
        };
        match ranges.is_empty() {
            false => Ok(stack(own, &ranges)),
            true => Err(format!("{whose} {NO_RANGE} {name}")),
        }
    };
    Ok(Plan {
        uids: ranges("/etc/subuid", uid.as_raw())?,
        gids: ranges("/etc/subgid", gid.as_raw())?,
        grant: Grant::Helpers {
            uid: helper("newuidmap")?,
            gid: helper("newgidmap")?,
        },
        elsewhere,
    })
}

/// What is said of a file or a service that gives a user nothing.
pub(super) const NO_RANGE: &str = "has no range for";

/// Why root has but one id.
pub(super) const NAMESPACE_OF_ONE: &str = "this is root of a user namespace that has no other id";

fn has_one_id(map: &[Range]) -> bool {
    matches!(map, [Range { count: 1, .. }])
}

/// Every id that exists here, mapped to itself.
fn identity(map: &str) -> Vec<Range> {
    parse_map(map)
        .map(|range| Range {
            outside: range.inside,
            ..range
        })
        .collect()
}

fn parse_map(map: &str) -> impl Iterator<Item = Range> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Range {
            inside: next()?,
            outside: next()?,
            count: next()?,
        })
    })
}

/// The ranges `/etc/subuid` gives a user, by name or number (subuid(5)).
fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            if owner != uid && Some(owner) != name {
                return None;
            }
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (count > 0).then_some((start, count))
        })
        .collect()
}

/// The ranges that a directory service gives a user, where nsswitch.conf(5) names one: only shadow's own program can ask it.
fn ranges_elsewhere(user: &str, groups: bool) -> Vec<(u32, u32)> {
    let Ok(program) = helper("getsubids") else {
        return Vec::new();
    };
    let mut command = Command::new(program);
    command.args(groups.then_some("-g")).arg(user);
    parse_subids(&said(command).unwrap_or_default())
}

/// Whether ranges are a directory service's, and there is a program to ask it. The files count for nobody then: newuidmap(1)
/// maps what the service gives.
pub(super) fn asks_service() -> bool {
    let services = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    names_service(&services) && helper("getsubids").is_ok()
}

/// Whether nsswitch.conf(5) names a service for `subid`. The first is the only one that counts (subuid(5)).
fn names_service(services: &str) -> bool {
    let mut lines = services.lines();
    let named = lines.find_map(|line| line.trim_start().strip_prefix("subid:"));
    let first = named.and_then(|names| names.split_whitespace().next());
    first.is_some_and(|name| name != "files")
}

/// Lines of getsubids(1): `0: alice 100000 65536`.
fn parse_subids(text: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut fields = line.split_whitespace().skip(2).map(str::parse);
        let mut next = || fields.next()?.ok();
        Some((next()?, next()?)).filter(|(_, count)| *count > 0)
    };
    text.lines().filter_map(range).collect()
}

/// What a program says that is asked something; `None` if it fails.
fn said(mut command: Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// 65536 ids that no line of `/etc/subuid` or `/etc/subgid` gives to anybody: behind the last that does, and from
/// 100000 on as useradd(8) hands them out.
pub(super) fn free_range() -> (u32, u32) {
    let texts =
        ["/etc/subuid", "/etc/subgid"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let first = first_free(&texts.join("\n"));
    (first, first.saturating_add(65_535))
}

fn first_free(text: &str) -> u32 {
    let ends = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':').skip(1).map(str::parse::<u32>);
        let (start, count) = (fields.next()?.ok()?, fields.next()?.ok()?);
        Some(start.saturating_add(count))
    });
    ends.max().unwrap_or(0).max(100_000)
}

/// Our own id as 0, the ranges from 1 on.
fn stack(own: u32, ranges: &[(u32, u32)]) -> Vec<Range> {
    let mut map = vec![Range {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside = 1_u32;
    for &(outside, count) in ranges {
        let count = count.min(u32::MAX - inside);
        map.push(Range {
            inside,
            outside,
            count,
        });
        inside += count;
    }
    map
}

/// A user's name in `/etc/passwd`, or else as getent(1) finds it. The C library's own lookup would want its plug-ins, which
/// a static program cannot load.
pub(super) fn user_name(uid: u32) -> Option<String> {
    local_name(uid).or_else(|| far_name(uid))
}

/// As /etc/passwd has it.
pub(super) fn local_name(uid: u32) -> Option<String> {
    name_in(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid)
}

/// As another service has it.
fn far_name(uid: u32) -> Option<String> {
    let mut command = Command::new(helper("getent").ok()?);
    command.args(["passwd", &uid.to_string()]);
    name_in(&said(command)?, uid)
}

/// Of lines as in passwd(5).
fn name_in(text: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

pub(super) fn helper(name: &str) -> Result<PathBuf, String> {
    HELPER_DIRECTORIES
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// Moves this process, which must have one thread, into new user and mount namespaces.
pub(super) fn enter(plan: Result<Plan, String>) -> Result<Ids, EnterError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let (granter, why_single) = match plan {
        Ok(plan) => match Granter::start(plan) {
            Ok(granter) => (Some(granter), String::new()),
            Err(e) if e.raw_os_error() == Some(libc::EDEADLK) => return Err(EnterError::Threads),
            Err(e) => (None, format!("cannot start a process: {e}")),
        },
        Err(why) => (None, why),
    };
    if let Err(e) = unshare_soon() {
        if let Some(granter) = granter {
            granter.dismiss();
        }
        return Err(e);
    }
    let why_single = match granter.map(Granter::grant) {
        Some(Ok(())) => return Ok(Ids::Full),
        Some(Err(why)) => why,
        None => why_single,
    };
    single(uid.as_raw(), gid.as_raw()).map_err(|e| {
        EnterError::Map(format!("{why_single}; mapping our own id failed too: {e}"))
    })?;
    Ok(Ids::Single(why_single))
}

/// Waits until the kernel counts no thread but this one: one that was joined may still be on its way out, and on a busy machine it
/// gets there late. One that is there after this long was not joined.
fn alone() -> io::Result<()> {
    let patience = Instant::now() + Duration::from_secs(10);
    while !sys::single_threaded()? && Instant::now() < patience {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// unshare(2) refuses `CLONE_NEWUSER` to a process with threads, also for a moment after it has stopped counting one.
fn unshare_soon() -> Result<(), EnterError> {
    // Without a /proc nobody counts, and the kernel says what it does not like.
    drop(alone());
    let patience = Instant::now() + Duration::from_millis(100);
    loop {
        match sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INVAL) if Instant::now() < patience => {
                std::thread::sleep(PAUSE);
            }
            Err(rustix::io::Errno::INVAL) if !sys::single_threaded().unwrap_or(true) => {
                return Err(EnterError::Threads);
            }
            Err(e) => return Err(EnterError::Unshare(e.into())),
        }
    }
}

/// Maps our own ids to 0. Without privileges the group map takes giving up setgroups(2) (user_namespaces(7)).
fn single(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Two children that stay outside, one a map, and write it when told to: once inside the namespace this process has no
/// power over its parent's ids.
struct Granter {
    go: OwnedFd,
    said: OwnedFd,
    children: [Pid; 2],
}

impl Granter {
    fn start(plan: Plan) -> io::Result<Self> {
        alone()?;
        let target = rustix::process::getpid();
        let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (said, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (uid, gid) = match &plan.grant {
            Grant::Ourselves => (None, None),
            Grant::Helpers { uid, gid } => (Some(uid), Some(gid)),
        };
        let maps = [("uid_map", &plan.uids, uid), ("gid_map", &plan.gids, gid)];
        let mut children = [target; 2];
        for (child, (map, ranges, helper)) in children.iter_mut().zip(maps) {
            match sys::fork(0)? {
                Fork::Parent(pid, _) => *child = pid,
                Fork::Child => {
                    drop(go);
                    // End of file: the parent is gone or did not come inside.
                    let told = rustix::io::read(&wait, &mut [0_u8]) == Ok(1);
                    let result = match told {
                        true => write_map(target, map, ranges, helper),
                        false => Ok(()),
                    };
                    if let Err(why) = &result {
                        // Nobody is left to hear of a failed write.
                        _ = rustix::io::write(&say, format!("{why}\n").as_bytes());
                    }
                    sys::exit_child(i32::from(result.is_err()));
                }
            }
        }
        Ok(Self { go, said, children })
    }

    /// Sends the children away, with nothing done.
    fn dismiss(self) {
        drop(self.go);
        for child in self.children {
            // Gone is what it is to be.
            _ = ended_well(child);
        }
    }

    /// Has the maps of this process, now inside, written.
    fn grant(self) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| format!("cannot have the id maps written: {e}");
        rustix::io::write(&self.go, &[0; 2]).map_err(|e| failed(&e))?;
        drop(self.go);
        let mut ok = true;
        for child in self.children {
            ok &= ended_well(child).map_err(|e| failed(&e))?;
        }
        if ok {
            return Ok(());
        }
        let mut said = String::new();
        fs::File::from(self.said)
            .read_to_string(&mut said)
            .map_err(|e| failed(&e))?;
        Err(said.trim().replace('\n', "; "))
    }
}

/// Waits for a child; whether it exited with 0.
fn ended_well(child: Pid) -> rustix::io::Result<bool> {
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED)
    })?;
    Ok(status.is_some_and(|s| s.exit_status() == Some(0)))
}

fn write_map(
    target: Pid,
    map: &str,
    ranges: &[Range],
    helper: Option<&PathBuf>,
) -> Result<(), String> {
    let target = target.as_raw_nonzero();
    let Some(helper) = helper else {
        let mut text = String::new();
        for r in ranges {
            writeln!(text, "{} {} {}", r.inside, r.outside, r.count)
                .expect("a string takes everything");
        }
        let path = format!("/proc/{target}/{map}");
        return fs::write(&path, text).map_err(|e| format!("cannot write {path}: {e}"));
    };
    let mut command = Command::new(helper);
    command.arg(target.to_string()).stdin(Stdio::null());
    for r in ranges {
        command.args([r.inside, r.outside, r.count].map(|n| n.to_string()));
    }
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{}: {}",
            helper.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(e) => Err(format!("cannot execute {}: {e}", helper.display())),
    }
}

/// A short name for the ids of the namespace this process is in: files written under one are not readable as the
/// same owners under another.
pub(super) fn domain() -> io::Result<String> {
    let read =
        |file: &str| Ok::<_, io::Error>(parse_map(&fs::read_to_string(file)?).collect::<Vec<_>>());
    Ok(domain_of(
        &read("/proc/self/uid_map")?,
        &read("/proc/self/gid_map")?,
    ))
}

/// The domain that [`enter`] leads to if it is granted what [`plan`] asks for, or else our own id alone.
pub(super) fn expected_domain() -> String {
    match plan() {
        Ok(plan) => domain_of(&plan.uids, &plan.gids),
        Err(_) => {
            let own = |outside| {
                [Range {
                    inside: 0,
                    outside,
                    count: 1,
                }]
            };
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            domain_of(&own(uid.as_raw()), &own(gid.as_raw()))
        }
    }
}

fn domain_of(uids: &[Range], gids: &[Range]) -> String {
    let mut hasher = blake3::Hasher::new();
    if has_one_id(uids) || has_one_id(gids) {
        // Owners are in attributes of the files, which those that were written without a supervisor do not have.
        hasher.update(b"recorded");
    }
    for map in [uids, gids] {
        for range in map {
            for number in [range.inside, range.outside, range.count] {
                hasher.update(&number.to_le_bytes());
            }
        }
        hasher.update(b"/");
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn subordinate_ranges_are_found_by_name_and_number() {
        let text = "alice:100000:65536\nbob:165536:65536\n1000:300000:10\nbob:1:0\nbad:x:1\n\n";
        let check = |name, uid, expected: &[(u32, u32)]| {
            assert_eq!(subordinate(text, name, uid), expected);
        };
        check(Some("alice"), 1000, &[(100_000, 65536), (300_000, 10)]);
        check(Some("bob"), 1001, &[(165_536, 65536)]);
        check(None, 1000, &[(300_000, 10)]);
        check(Some("bad"), 7, &[]);
    }

    /// As shadow 4.13 writes them.
    #[test]
    fn ranges_of_a_directory_service_are_read() {
        assert_eq!(
            parse_subids("0: alice 100000 65536\n1: alice 300000 10\n"),
            [(100_000, 65536), (300_000, 10)]
        );
        assert_eq!(parse_subids("Error fetching ranges\n"), []);
    }

    #[test]
    fn the_first_service_for_subordinate_ids_counts() {
        for named in ["subid: sss\n", "passwd: files\n  subid:\tsss files"] {
            assert!(names_service(named), "{named}");
        }
        for unnamed in [
            "",
            "passwd: sss",
            "subid:",
            "#subid: sss",
            "subid: files",
            "subid: files sss",
        ] {
            assert!(!names_service(unnamed), "{unnamed}");
        }
    }

    #[test]
    fn a_range_is_proposed_that_is_nobodys() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(
            first_free("alice:100000:65536\nbob:165536:65536\n"),
            231_072
        );
        assert_eq!(first_free("old:1000:10\nbad:x:1\n"), 100_000);
    }

    #[test]
    fn ranges_are_stacked_behind_our_own_id() {
        let range = |inside, outside, count| Range {
            inside,
            outside,
            count,
        };
        assert_eq!(
            stack(1000, &[(100_000, 65536), (300_000, 10)]),
            [
                range(0, 1000, 1),
                range(1, 100_000, 65536),
                range(65537, 300_000, 10)
            ]
        );
        assert_eq!(
            stack(0, &[(5, u32::MAX)]).last(),
            Some(&range(1, 5, u32::MAX - 1))
        );
    }

    #[test]
    fn one_id_is_one_range_of_one() {
        let has_one = |map: &str| has_one_id(&identity(map));
        assert!(has_one("         0       1000          1\n"));
        assert!(!has_one("         0          0 4294967295\n"));
        assert!(!has_one("0 1000 1\n1 100000 1\n"));
    }

    #[test]
    fn root_keeps_the_ids_it_has() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(
            identity(map),
            [
                Range {
                    inside: 0,
                    outside: 0,
                    count: 1
                },
                Range {
                    inside: 1,
                    outside: 1,
                    count: 65536
                }
            ]
        );
    }
}
