//! What steps may use together: cgroups of version 2, in a part of the tree that is ours.
//!
//! Nothing is done to cgroups unless a step is to have limits. A cgroup whose children have controllers can have no
//! processes of its own (cgroups(7), "no internal processes"), so all that is in ours moves down first:
//!
//! ```text
//! the cgroup that is ours     the one this process is in, or `--cgroup-parent`
//! ├ rbuild                    this process, and what else was there
//! └ rbuild-PID-…              a build: its directory is locked as long as that lives
//!   └ 1                       a step: its limits, its processes
//! ```
//!
//! A step's process puts itself into its cgroup before anything of the step is done: it was made, and has its
//! namespaces, before its step was known, so `CLONE_INTO_CGROUP` comes too early. It is memory that is used from then on
//! that counts.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_llb::op::Limits;
use rustix::fs::Access;
use rustix::fs::FlockOperation;

use super::SandboxError;

/// Where builds go, and what was in their cgroup before.
const BUILDERS: &str = "rbuild";
/// What the names of builds' cgroups begin with.
const BUILD: &str = "rbuild-";
/// The file that lists processes, and moves one that is written to it.
const PROCESSES: &str = "cgroup.procs";
/// The file that gives children controllers.
const CHILDREN: &str = "cgroup.subtree_control";
/// How often processes are moved that were made while others were.
const ROUNDS: usize = 20;

/// How a user gets a cgroup of their own, and one that has a controller.
const DELEGATE: &str = "start the build with `systemd-run --user --scope -p Delegate=yes rbuild …`";
const DELEGATE_ALL: &str = "let systemd give users all controllers: `Delegate=cpu cpuset io memory pids` below `[Service]` in \
                            /etc/systemd/system/user@.service.d/delegate.conf, and log in anew";
/// How root does.
const ROOT: &str = "start the build with `systemd-run --scope -p Delegate=yes rbuild …`";
/// How a machine gets controllers of version 2.
const UNIFIED: &str = "boot with `systemd.unified_cgroup_hierarchy=1`";
/// How a container gets cgroups that can be written to.
const WRITABLE: &str = "start the container with `--privileged`, or with `--cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw`";

/// Why there are no limits to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The reason, as a clause.
    pub(super) why: String,
    /// What would mend it.
    pub(super) fix: Option<String>,
}

impl Refusal {
    fn new(why: impl Into<String>, fix: &str) -> Self {
        Self {
            why: why.into(),
            fix: Some(fix.to_owned()),
        }
    }

    /// `doing` an operation on a file failed.
    fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self {
            why: format!("cannot {doing} `{}`: {error}", path.display()),
            fix: None,
        }
    }
}

impl From<Refusal> for SandboxError {
    fn from(refusal: Refusal) -> Self {
        Self::Limits {
            why: refusal.why,
            hint: refusal.fix,
        }
    }
}

type Result<T> = std::result::Result<T, Refusal>;

/// A line of a cgroup's file.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// What limits are, as the kernel has them.
fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |file: &'static str, value: String| {
        let controller = file.split('.').next().unwrap_or(file);
        settings.push(Setting {
            controller,
            file,
            value,
        });
    };
    if let Some(bytes) = limits.memory {
        set("memory.max", bytes.to_string());
        // All of a step or nothing: a compiler that vanishes makes for a message that says nothing.
        set("memory.oom.group", "1".to_owned());
    }
    match (limits.memory_swap, limits.memory) {
        (Some(both @ 0..), Some(memory)) => {
            let swap = both.unsigned_abs().saturating_sub(memory);
            set("memory.swap.max", swap.to_string());
        }
        (Some(_), _) => set("memory.swap.max", "max".to_owned()),
        (None, _) => {}
    }
    if let Some(shares) = limits.cpu_shares {
        set("cpu.weight", weight(shares).to_string());
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits
            .cpu_quota
            .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let period = limits.cpu_period.unwrap_or(100_000);
        set("cpu.max", format!("{quota} {period}"));
    }
    if let Some(list) = &limits.cpuset_cpus {
        set("cpuset.cpus", list.clone());
    }
    if let Some(list) = &limits.cpuset_mems {
        set("cpuset.mems", list.clone());
    }
    settings
}

/// Version 2's weight (1 to 10,000, usually 100) for version 1's shares (2 to 262,144, usually 1024): the curve through
/// these three that runc and crun have since 2025.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// What the kernel says of this process' cgroup and of mounts.
#[derive(Debug)]
struct Machine {
    /// `/proc/self/cgroup`.
    own: String,
    /// `/proc/self/mountinfo`.
    mounts: String,
    /// Whether the user is root, outside of all user namespaces that rbuild makes.
    root: bool,
}

impl Machine {
    fn look(root: bool) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            own: read("/proc/self/cgroup"),
            mounts: read("/proc/self/mountinfo"),
            root,
        }
    }

    /// The directory of the cgroup `path`, or of this process' own.
    fn directory(&self, path: Option<&str>) -> Result<PathBuf> {
        let own = self.own.lines().find_map(|line| line.strip_prefix("0::"));
        let wanted = path.or(own).unwrap_or("/");
        let wanted = Path::new("/").join(wanted.trim_start_matches('/'));
        let mut elsewhere = false;
        for (root, at) in self.mounts.lines().filter_map(mount) {
            match wanted.strip_prefix(root) {
                // An empty path would leave a slash at the end.
                Ok(rest) => return Ok(at.components().chain(rest.components()).collect()),
                Err(_) => elsewhere = true,
            }
        }
        Err(match elsewhere {
            true => Refusal {
                why: format!("the cgroup `{}` is not mounted here", wanted.display()),
                fix: None,
            },
            false => Refusal::new("cgroups of version 2 are not mounted", UNIFIED),
        })
    }

    /// Refuses what is in use in a hierarchy of version 1: it is not there for version 2 (cgroups(7)).
    fn is_of_version_1(&self, wanted: &[&str]) -> Result<()> {
        let lines = self.mounts.lines();
        let options = lines.filter_map(|line| line.split_once(" - cgroup ")?.1.split(' ').nth(1));
        let used: Vec<&str> = options.flat_map(|options| options.split(',')).collect();
        match names(wanted.iter().filter(|name| used.contains(name))) {
            None => Ok(()),
            Some(names) => {
                let why = format!("cgroups of version 1 have the controllers for it: {names}");
                Err(Refusal::new(why, UNIFIED))
            }
        }
    }
}

/// Names as they stand in a message; none of none.
fn names<'a>(names: impl Iterator<Item = &'a &'a str>) -> Option<String> {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// What of the tree is mounted, and where, if this line of mountinfo is one of cgroups of version 2 (proc(5)).
fn mount(line: &str) -> Option<(&Path, &Path)> {
    let (fields, kind) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let found = (fields.next()?, fields.next()?);
    // A path with a space in it would be `\040`; /sys/fs/cgroup has none.
    kind.starts_with("cgroup2 ")
        .then(|| (Path::new(found.0), Path::new(found.1)))
}

/// A cgroup that is ours to make others in.
#[derive(Debug)]
struct Ours {
    machine: Machine,
    dir: PathBuf,
    /// What it can give to those in it.
    controllers: Vec<String>,
}

impl Ours {
    fn find(machine: Machine, parent: Option<&str>) -> Result<Self> {
        let mut dir = machine.directory(parent)?;
        match parent {
            Some(_) => {
                let made = fs::DirBuilder::new().recursive(true).create(&dir);
                made.map_err(|error| Refusal::io("make", &dir, &error))?;
            }
            None if dir.file_name().is_some_and(|name| name == BUILDERS) => _ = dir.pop(),
            None => {}
        }
        for file in ["", PROCESSES, CHILDREN] {
            let why = match rustix::fs::access(dir.join(file), Access::WRITE_OK) {
                Ok(()) => continue,
                Err(rustix::io::Errno::ROFS) => ("is mounted read-only", WRITABLE),
                Err(_) if machine.root => ("cannot be written to", ROOT),
                Err(_) => ("is not ours", DELEGATE),
            };
            let (what, fix) = why;
            return Err(Refusal::new(
                format!("the cgroup `{}` {what}", dir.display()),
                fix,
            ));
        }
        let list = dir.join("cgroup.controllers");
        let controllers =
            fs::read_to_string(&list).map_err(|error| Refusal::io("read", &list, &error))?;
        Ok(Self {
            machine,
            dir,
            controllers: words(&controllers),
        })
    }

    /// Whether it can give these to others.
    fn has(&self, wanted: &[&str]) -> Result<()> {
        let missing = |name: &&&str| !self.controllers.iter().any(|has| has == **name);
        let Some(names) = names(wanted.iter().filter(missing)) else {
            return Ok(());
        };
        let dir = self.dir.display();
        let why = format!("the cgroup `{dir}` does not have the controllers {names}");
        let fix = match self.machine.root {
            true => ROOT,
            false => DELEGATE_ALL,
        };
        Err(Refusal::new(why, fix))
    }

    /// Lets its children have controllers.
    fn hand_out(&self, wanted: &[&str]) -> Result<()> {
        // The root of all, which alone has no type, may have processes and children with controllers. Elsewhere some
        // controllers would be handed on all the same, and make children that no process can be moved to (cgroups(7),
        // "Thread mode").
        if self.dir.join("cgroup.type").exists() {
            self.clear()?;
        }
        match enable(&self.dir, wanted) {
            // One has come since.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                self.clear()?;
                enable(&self.dir, wanted)
            }
            done => done,
        }
        .map_err(|error| Refusal::io("hand on the controllers of", &self.dir, &error))
    }

    /// Moves what is in it to a child.
    fn clear(&self) -> Result<()> {
        let all = self.dir.join(PROCESSES);
        let below = self.dir.join(BUILDERS);
        for _ in 0..ROUNDS {
            let list =
                fs::read_to_string(&all).map_err(|error| Refusal::io("read", &all, &error))?;
            if list.is_empty() {
                return Ok(());
            }
            match fs::create_dir(&below) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Refusal::io("make", &below, &error));
                }
                _ => {}
            }
            for process in list.lines() {
                match write(&below.join(PROCESSES), process) {
                    // It has ended.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved.map_err(|error| {
                        Refusal::io(&format!("move process {process} to"), &below, &error)
                    })?,
                }
            }
        }
        let why = format!("processes keep coming into `{}`", self.dir.display());
        Err(Refusal { why, fix: None })
    }

    /// Makes the cgroup of a build, and removes those of builds that were killed.
    fn build(&self) -> Result<(PathBuf, File)> {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let is_build = entry.file_name().to_string_lossy().starts_with(BUILD);
            if is_build && lock(&entry.path()).is_ok() {
                remove(&entry.path());
            }
        }
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..ROUNDS {
            // Process ids are not the only ones of their kind where there are several pid namespaces.
            let name = format!("{BUILD}{}-{number}", std::process::id());
            let dir = self.dir.join(name);
            let made = fs::create_dir(&dir).and_then(|()| lock(&dir));
            match made {
                // Another build may have taken it for one that was left behind.
                Ok(lock) if dir.exists() => return Ok((dir, lock)),
                Ok(_) => {}
                Err(error) => last = error,
            }
        }
        Err(Refusal::io("make a cgroup in", &self.dir, &last))
    }
}

fn words(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    // Not truncated or made: the files are the kernel's.
    let mut file = File::options().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

fn enable(dir: &Path, controllers: &[&str]) -> io::Result<()> {
    let list: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    write(&dir.join(CHILDREN), &list.join(" "))
}

fn lock(dir: &Path) -> io::Result<File> {
    let dir = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(dir)?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
    Ok(dir)
}

/// Removes a build's cgroup and what is left of its steps.
fn remove(dir: &Path) {
    for step in fs::read_dir(dir).into_iter().flatten().flatten() {
        if step.file_type().is_ok_and(|kind| kind.is_dir()) {
            // The kernel has the last word: it keeps a cgroup that has processes.
            drop(fs::remove_dir(step.path()));
        }
    }
    drop(fs::remove_dir(dir));
}

/// The cgroups of a build's steps: one for each place they are asked to be in.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: bool,
    builds: Mutex<BTreeMap<Option<String>, Build>>,
}

impl Cgroups {
    /// To be called before this process enters a user namespace, in which everybody is root.
    pub(super) fn new() -> Self {
        Self {
            root: rustix::process::geteuid().is_root(),
            builds: Mutex::default(),
        }
    }

    /// A cgroup for a step with these limits; none if there are none.
    pub(super) fn step(&self, limits: &Limits) -> std::result::Result<Option<Group>, SandboxError> {
        if *limits == Limits::default() {
            return Ok(None);
        }
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        let build = match builds.entry(limits.cgroup_parent.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Build::make(Machine::look(self.root), limits)?),
        };
        Ok(Some(build.step(limits)?))
    }
}

#[derive(Debug)]
struct Build {
    ours: Ours,
    dir: PathBuf,
    /// Controllers that steps have.
    given: BTreeSet<&'static str>,
    steps: u64,
    _lock: File,
}

impl Build {
    fn make(machine: Machine, limits: &Limits) -> Result<Self> {
        let controllers = settings(limits)
            .into_iter()
            .map(|setting| setting.controller);
        machine.is_of_version_1(&controllers.collect::<Vec<_>>())?;
        let ours = Ours::find(machine, limits.cgroup_parent.as_deref())?;
        let (dir, lock) = ours.build()?;
        Ok(Self {
            ours,
            dir,
            given: BTreeSet::new(),
            steps: 0,
            _lock: lock,
        })
    }

    fn step(&mut self, limits: &Limits) -> Result<Group> {
        let settings = settings(limits);
        let wanted: BTreeSet<&str> = settings.iter().map(|setting| setting.controller).collect();
        let new: Vec<&str> = wanted.difference(&self.given).copied().collect();
        if !new.is_empty() {
            self.ours.has(&new)?;
            self.ours.hand_out(&new)?;
            enable(&self.dir, &new)
                .map_err(|error| Refusal::io("hand on the controllers of", &self.dir, &error))?;
            self.given.extend(wanted);
        }
        self.steps += 1;
        let dir = self.dir.join(self.steps.to_string());
        fs::create_dir(&dir).map_err(|error| Refusal::io("make", &dir, &error))?;
        let group = Group {
            dir,
            memory: limits.memory,
        };
        for Setting { file, value, .. } in settings {
            let path = group.dir.join(file);
            write(&path, &value)
                .map_err(|error| Refusal::io(&format!("write `{value}` to"), &path, &error))?;
        }
        Ok(group)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// The cgroup of a step, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
    memory: Option<u64>,
}

impl Group {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The limit for which the kernel killed the step, in bytes.
    pub(super) fn killed_for(&self) -> Option<u64> {
        let events = fs::read_to_string(self.dir.join("memory.events")).ok()?;
        super::oom::kills(&events).filter(|kills| *kills > 0)?;
        self.memory
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was killed may be there a moment longer; this one is tried again with the build's.
        drop(write(&self.dir.join("cgroup.kill"), "1"));
        drop(fs::remove_dir(&self.dir));
    }
}

/// Puts this process into the cgroup of its step.
pub(super) fn join(dir: &Path) -> io::Result<()> {
    write(&dir.join(PROCESSES), "0")
}

/// What `rbuild doctor` says of limits: the cgroup and its controllers for them, or why there are none.
pub(super) fn look() -> std::result::Result<(PathBuf, Vec<String>), Refusal> {
    const FOR_LIMITS: [&str; 3] = ["cpu", "cpuset", "memory"];
    let machine = Machine::look(rustix::process::geteuid().is_root());
    machine.is_of_version_1(&FOR_LIMITS)?;
    let mut ours = Ours::find(machine, None)?;
    ours.controllers
        .retain(|name| FOR_LIMITS.contains(&&**name));
    if ours.controllers.is_empty() {
        ours.has(&FOR_LIMITS)?;
    }
    Ok((ours.dir, ours.controllers))
}

#[cfg(test)]
mod t {
    use super::*;

    fn lines(limits: &Limits) -> Vec<String> {
        let settings = settings(limits).into_iter();
        settings
            .map(
                |Setting {
                     controller,
                     file,
                     value,
                 }| format!("{controller}: {file}={value}"),
            )
            .collect()
    }

    /// As runc has them (opencontainers/cgroups, `fs2`); shares by runc's own cases.
    #[test]
    fn limits_are_lines_of_files() {
        let none = Limits::default();
        assert!(lines(&none).is_empty());
        let memory = Some(1 << 30);
        for (limits, expected) in [
            (
                Limits {
                    memory,
                    ..none.clone()
                },
                vec![
                    "memory: memory.max=1073741824",
                    "memory: memory.oom.group=1",
                ],
            ),
            (
                Limits {
                    memory,
                    memory_swap: Some(3 << 29),
                    ..none.clone()
                },
                vec![
                    "memory: memory.max=1073741824",
                    "memory: memory.oom.group=1",
                    "memory: memory.swap.max=536870912",
                ],
            ),
            (
                Limits {
                    memory_swap: Some(-1),
                    ..none.clone()
                },
                vec!["memory: memory.swap.max=max"],
            ),
            (
                Limits {
                    cpu_quota: Some(50_000),
                    ..none.clone()
                },
                vec!["cpu: cpu.max=50000 100000"],
            ),
            (
                Limits {
                    cpu_period: Some(20_000),
                    ..none.clone()
                },
                vec!["cpu: cpu.max=max 20000"],
            ),
            (
                Limits {
                    cpuset_cpus: Some("0-1".to_owned()),
                    cpuset_mems: Some("0".to_owned()),
                    ..none.clone()
                },
                vec!["cpuset: cpuset.cpus=0-1", "cpuset: cpuset.mems=0"],
            ),
        ] {
            assert_eq!(lines(&limits), expected);
        }
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    const UNIFIED_MOUNT: &str =
        "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn machine(own: &str, mounts: &str) -> Machine {
        Machine {
            own: own.to_owned(),
            mounts: mounts.to_owned(),
            root: false,
        }
    }

    #[test]
    fn cgroups_are_found_where_they_are_mounted() {
        let scope = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n";
        let in_container = "40 30 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        for (own, mounts, parent, expected) in [
            (
                scope,
                UNIFIED_MOUNT,
                None,
                "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope",
            ),
            (
                scope,
                UNIFIED_MOUNT,
                Some("/builds"),
                "/sys/fs/cgroup/builds",
            ),
            (
                scope,
                UNIFIED_MOUNT,
                Some("builds/a"),
                "/sys/fs/cgroup/builds/a",
            ),
            ("0::/\n", UNIFIED_MOUNT, None, "/sys/fs/cgroup"),
            ("0::/docker/abc\n", in_container, None, "/sys/fs/cgroup"),
            (
                "4:memory:/x\n0::/y\n",
                hybrid,
                None,
                "/sys/fs/cgroup/unified/y",
            ),
        ] {
            let found = machine(own, mounts).directory(parent);
            assert_eq!(found, Ok(PathBuf::from(expected)));
        }
        let why = |own, mounts| machine(own, mounts).directory(None).unwrap_err().why;
        assert_eq!(why("0::/\n", ""), "cgroups of version 2 are not mounted");
        assert_eq!(
            why("0::/docker/else\n", in_container),
            "the cgroup `/docker/else` is not mounted here"
        );
        let machine = machine("0::/\n", hybrid);
        assert_eq!(machine.is_of_version_1(&["cpu"]), Ok(()));
        assert_eq!(
            machine.is_of_version_1(&["cpu", "memory"]).unwrap_err().why,
            "cgroups of version 1 have the controllers for it: `memory`"
        );
    }

    /// A cgroup as a directory of plain files: nothing happens when they are written to.
    fn tree(controllers: &str) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        fs::create_dir(&ours).unwrap();
        for (file, content) in [
            ("cgroup.controllers", controllers),
            (CHILDREN, ""),
            (PROCESSES, ""),
        ] {
            fs::write(ours.join(file), content).unwrap();
        }
        let mounts = format!(
            "30 24 0:26 / {} rw - cgroup2 cgroup2 rw\n",
            dir.path().display()
        );
        (dir, machine("0::/ours\n", &mounts))
    }

    #[test]
    fn what_is_missing_is_named_with_what_mends_it() {
        let limits = Limits {
            memory: Some(1),
            cpu_quota: Some(1),
            ..Limits::default()
        };
        let (dir, small) = tree("pids memory\n");
        let mut build = Build::make(small, &limits).unwrap();
        let refusal = build.step(&limits).unwrap_err();
        let ours = dir.path().join("ours");
        assert_eq!(
            refusal.why,
            format!(
                "the cgroup `{}` does not have the controllers `cpu`",
                ours.display()
            )
        );
        assert_eq!(refusal.fix.as_deref(), Some(DELEGATE_ALL));
        fs::remove_file(ours.join(CHILDREN)).unwrap();
        let (_, elsewhere) = (
            dir.path(),
            machine("0::/ours\n", &build.ours.machine.mounts),
        );
        let refusal = Build::make(elsewhere, &limits).unwrap_err();
        assert_eq!(
            refusal.why,
            format!("the cgroup `{}` is not ours", ours.display())
        );
        assert_eq!(refusal.fix.as_deref(), Some(DELEGATE));
    }

    #[test]
    fn cgroups_of_builds_that_were_killed_are_removed_and_others_are_not() {
        let (dir, machine) = tree("memory");
        let ours = dir.path().join("ours");
        let [dead, alive, foreign] = ["rbuild-1-0", "rbuild-2-0", "other"].map(|name| {
            let path = ours.join(name);
            fs::create_dir_all(path.join("1")).unwrap();
            path
        });
        let _lock = lock(&alive).unwrap();
        let build = Build::make(machine, &Limits::default()).unwrap();
        assert!(build.dir.starts_with(&ours) && build.dir.exists());
        assert_eq!(
            (dead.exists(), alive.exists(), foreign.exists()),
            (false, true, true)
        );
        let own = build.dir.clone();
        drop(build);
        assert!(!own.exists());
    }

    /// What is in a cgroup is moved to a child before that hands controllers on. Plain files do not empty themselves, so here it
    /// looks as if processes kept coming.
    #[test]
    fn processes_make_room_for_cgroups() {
        let (dir, machine) = tree("memory");
        let limits = Limits {
            memory: Some(1 << 30),
            ..Limits::default()
        };
        let ours = dir.path().join("ours");
        fs::write(ours.join("cgroup.type"), "domain\n").unwrap();
        fs::write(ours.join(PROCESSES), "4711\n").unwrap();
        let below = ours.join(BUILDERS);
        fs::create_dir(&below).unwrap();
        fs::write(below.join(PROCESSES), "").unwrap();
        let mut build = Build::make(machine, &limits).unwrap();
        let refusal = build.step(&limits).unwrap_err();
        assert_eq!(
            refusal.why,
            format!("processes keep coming into `{}`", ours.display())
        );
        assert_eq!(fs::read_to_string(below.join(PROCESSES)).unwrap(), "4711");
        assert_eq!(fs::read_to_string(ours.join(CHILDREN)).unwrap(), "");
    }

    /// A builder that was moved into a child finds its way back.
    #[test]
    fn those_that_were_moved_go_on_where_they_were() {
        let (dir, mut machine) = tree("memory");
        machine.own = "0::/ours/rbuild\n".to_owned();
        let ours = Ours::find(machine, None).unwrap();
        assert_eq!(ours.dir, dir.path().join("ours"));
    }
}
