//! Programs of other architectures: which of them run here as they are, and an emulator for the rest.
//!
//! Since Linux 6.7 a user namespace can have a binfmt_misc of its own. There the emulators that a build needs are
//! registered, through a mount that is attached nowhere: no step sees it, nothing is left of it when the build ends, and
//! what is registered on the machine stays as it is. It counts no longer, though, from the moment that there is one of our
//! own, even an empty one. So a build has all its emulators this way, or else all by what is registered on the machine.
//!
//! That programs run is never concluded from anything: one of a few instructions is executed ([`programs`]), in a root in
//! which there is no emulator, as there is none in an image.

mod programs;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::Platform;
use rustix::fs::Access;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use rustix::mount::MountAttrFlags;
use rustix::pipe::PipeFlags;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::WaitIdStatus;

use super::error::SandboxError;
use super::mounts;
use super::sys;
use super::sys::Fork;
use super::wire::wire_struct;
use super::zygote;
use programs::MACHINES;
use programs::Machine;

/// What steps are for, and where emulators are.
#[derive(Debug, Clone, Default)]
pub struct Foreign {
    /// The platforms of the steps that will run; this machine's may be among them.
    pub platforms: Vec<Platform>,
    /// Emulators that the user chose, by architecture.
    pub chosen: BTreeMap<String, PathBuf>,
    /// Directories that have programs, `PATH`.
    pub path: Vec<PathBuf>,
}

/// What was done about them.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    /// Registrations last as long as it.
    _mount: Option<OwnedFd>,
    /// Emulators by architecture, as they are told of.
    emulators: BTreeMap<&'static str, String>,
}

impl Arranged {
    /// What executes the programs of a platform; `None` if this machine does.
    pub(super) fn emulator(&self, platform: &Platform) -> Option<&str> {
        self.emulators.get(&*platform.arch).map(String::as_str)
    }
}

/// Why programs cannot be emulated here.
#[derive(Debug)]
struct Lack {
    why: String,
    fix: String,
}

impl Lack {
    /// Of programs that this machine would execute itself.
    fn for_one_id(self) -> Self {
        let why = format!(
            "programs of 32 bits can have the owners of their files kept under an emulator alone where there is one user id \
             (rung 2, docs/rootless.md), and {}",
            self.why
        );
        Self { why, ..self }
    }
}

/// An emulator that can be registered.
struct Emulator {
    path: PathBuf,
}

impl Emulator {
    /// As it is told of: `qemu-aarch64`.
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_suffix("-static").unwrap_or(&name).to_owned()
    }
}

/// Sees to it that steps of these platforms can run. With `own`, this process is root in a user namespace that was made
/// for the build; else nothing may be registered. With `single`, there is one user id: calls of the CPU's 32-bit sister are
/// not supervised there, so its programs are emulated like all others, which gives them this machine's calls. It must have
/// one thread.
///
/// # Errors
/// [`SandboxError::Foreign`] for the first platform whose programs cannot be executed.
pub(super) fn arrange(
    foreign: &Foreign,
    own: bool,
    single: bool,
) -> Result<Arranged, SandboxError> {
    let host = Platform::host();
    let mut missing: Vec<(&Platform, &'static Machine)> = Vec::new();
    for platform in &foreign.platforms {
        let refuse = |why: String| SandboxError::Foreign {
            platform: Box::new(platform.clone()),
            why,
            fix: None,
        };
        if platform.os != host.os {
            return Err(refuse("this is Linux".to_owned()));
        }
        if platform.arch == host.arch || missing.iter().any(|(_, m)| m.arch == platform.arch) {
            continue;
        }
        let Some(machine) = Machine::of(&platform.arch) else {
            return Err(refuse("no emulator is known for them".to_owned()));
        };
        if single || foreign.chosen.contains_key(machine.arch) || !runs_here(&host, machine) {
            missing.push((platform, machine));
        }
    }
    if missing.is_empty() {
        return Ok(Arranged::default());
    }
    let native = |machine: &Machine| single && runs_here(&host, machine);
    let found = missing.iter().map(|(platform, machine)| {
        let emulator = find(foreign, machine).map_err(|lack| match native(machine) {
            true => (*platform, lack.for_one_id()),
            false => (*platform, lack),
        })?;
        Ok((*platform, *machine, emulator))
    });
    let found: Result<Vec<_>, (&Platform, Lack)> = found.collect();
    let mounted = found.and_then(|found| match mount(own) {
        Ok(mount) => Ok((found, mount)),
        Err(lack) => Err((missing[0].0, lack)),
    });
    let refuse = |platform: &Platform, lack: Lack| SandboxError::Foreign {
        platform: Box::new(platform.clone()),
        why: lack.why,
        fix: Some(lack.fix),
    };
    match mounted {
        Ok((found, mount)) => register_all(foreign, &host, found, mount)
            .map_err(|(platform, lack)| refuse(&platform, lack)),
        Err((platform, lack)) => {
            let chosen = missing
                .iter()
                .any(|(_, m)| foreign.chosen.contains_key(m.arch));
            // What this machine executes itself would pass the trial.
            let registered = |machine: &Machine| !native(machine) && trial(machine).is_ok();
            if chosen || !missing.iter().all(|(_, machine)| registered(machine)) {
                return Err(refuse(platform, lack));
            }
            let registered = missing
                .iter()
                .map(|(_, machine)| (machine.arch, usual_name(machine)));
            Ok(Arranged {
                _mount: None,
                emulators: registered.collect(),
            })
        }
    }
}

fn usual_name(machine: &Machine) -> String {
    format!("qemu-{}", machine.qemu)
}

/// Whether this machine executes such programs itself: of its 32-bit sister, if CPU and kernel still know it.
fn runs_here(host: &Platform, machine: &Machine) -> bool {
    let sister = Machine::of(&host.arch).and_then(Machine::sister);
    sister == Some(machine) && trial(machine).is_ok()
}

/// Registers emulators, and tries each out; those of sisters besides, where they are there, since an image may have
/// programs of both.
fn register_all(
    foreign: &Foreign,
    host: &Platform,
    found: Vec<(&Platform, &'static Machine, Emulator)>,
    mount: OwnedFd,
) -> Result<Arranged, (Platform, Lack)> {
    let mut emulators = BTreeMap::new();
    for (platform, machine, emulator) in found {
        let registered = register(&mount, machine, &emulator)
            .map_err(|error| format!("registering it: {error}"))
            .and_then(|()| trial(machine));
        registered.map_err(|why| {
            let lack = Lack {
                why: format!("`{}` does not emulate them: {why}", emulator.path.display()),
                fix: format!("choose another with `--emulator {}=FILE`", machine.arch),
            };
            (platform.clone(), lack)
        })?;
        emulators.insert(machine.arch, emulator.name());
    }
    let wanted: Vec<&str> = emulators.keys().copied().collect();
    let sisters = wanted.iter().filter_map(|arch| Machine::of(arch)?.sister());
    for sister in sisters.filter(|sister| sister.arch != host.arch) {
        if !wanted.contains(&sister.arch)
            && let Ok(emulator) = find(foreign, sister)
            && register(&mount, sister, &emulator).is_ok()
        {
            emulators.insert(sister.arch, emulator.name());
        }
    }
    Ok(Arranged {
        _mount: Some(mount),
        emulators,
    })
}

/// The emulator for a machine: the one that was chosen, or else QEMU's from the directories of programs.
fn find(foreign: &Foreign, machine: &Machine) -> Result<Emulator, Lack> {
    let fix = || {
        format!(
            "install QEMU's static user emulators (Debian, Ubuntu, Fedora, Arch: package qemu-user-static; Alpine: \
             qemu-{}), or name one with `--emulator {}=FILE`",
            machine.qemu, machine.arch
        )
    };
    if let Some(path) = foreign.chosen.get(machine.arch) {
        return usable(path).map_err(|why| Lack { why, fix: fix() });
    }
    let names = [usual_name(machine) + "-static", usual_name(machine)];
    let candidates = names
        .iter()
        .flat_map(|name| foreign.path.iter().map(move |dir| dir.join(name)))
        .filter(|path| path.is_absolute() && path.is_file());
    let mut why = format!(
        "there is no `{}` or `{}` in PATH, and none is registered on this machine",
        names[0], names[1]
    );
    for path in candidates {
        match usable(&path) {
            Ok(emulator) => return Ok(emulator),
            Err(unusable) => why = unusable,
        }
    }
    Err(Lack { why, fix: fix() })
}

/// An emulator has no libraries in the root of a step.
fn usable(path: &Path) -> Result<Emulator, String> {
    let shown = path.display();
    let path = std::path::absolute(path).map_err(|error| format!("`{shown}`: {error}"))?;
    rustix::fs::access(&path, Access::EXEC_OK).map_err(|error| format!("`{shown}`: {error}"))?;
    match is_static(&path) {
        Ok(true) => Ok(Emulator { path }),
        Ok(false) => Err(format!(
            "`{shown}` is not a static program, and its libraries are not in the images"
        )),
        Err(error) => Err(format!("cannot read `{shown}`: {error}")),
    }
}

/// Whether an ELF program names no interpreter (`PT_INTERP`). Anything else is for the kernel to judge.
fn is_static(path: &Path) -> io::Result<bool> {
    /// Linkers put the program headers right behind the file's.
    const HEAD: u64 = 4096;
    const PT_INTERP: u32 = 3;
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = head.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte)),
        )
    };
    // `e_phoff`, `e_phentsize` and `e_phnum`; this program runs on 64-bit machines of little byte order.
    let table = || {
        Some((
            number(32, 8)? as usize,
            number(54, 2)? as usize,
            number(56, 2)? as usize,
        ))
    };
    let Some((at, size, count)) = table().filter(|_| head.starts_with(b"\x7fELF\x02\x01")) else {
        return Ok(true);
    };
    let types = (0..count).filter_map(|i| number(at.checked_add(size * i)?, 4));
    Ok(!types.into_iter().any(|kind| kind == u64::from(PT_INTERP)))
}

/// A binfmt_misc of this user namespace's own.
fn mount(own: bool) -> Result<OwnedFd, Lack> {
    if !own {
        return Err(Lack {
            why: "without a user namespace no emulator can be registered for the build alone, and none is registered on \
                  this machine"
                .to_owned(),
            fix: ON_THE_MACHINE.to_owned(),
        });
    }
    mounts::new("binfmt_misc", &[], MountAttrFlags::empty()).map_err(|error| {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Lack {
            why: format!(
                "Linux {release} gives this user namespace no binfmt_misc ({error}), and nothing is registered on this \
                 machine that serves images"
            ),
            fix: format!("it takes Linux 6.7 or later; or {ON_THE_MACHINE}"),
        }
    })
}

/// For the whole machine, with the flag F.
const ON_THE_MACHINE: &str = "register QEMU for the whole machine: install qemu-user-static and binfmt-support, or \
                              `docker run --privileged --rm tonistiigi/binfmt --install all`";

/// Tells the kernel (binfmt-misc.rst) to start the emulator for such programs. F: it is opened now, and found in every root.
/// C: a setuid program's rights are the program's, so that su and sudo work. P: the program gets its own `argv[0]`.
fn register(mount: &OwnedFd, machine: &Machine, emulator: &Emulator) -> io::Result<()> {
    // Any byte separates the fields that is in none of them.
    const SEPARATOR: u8 = 0x1f;
    let escaped = |bytes: &[u8]| -> Vec<u8> {
        let escaped = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
        escaped.collect::<String>().into_bytes()
    };
    let (magic, mask) = machine.magic();
    let name = format!("rbuild-{}", machine.qemu);
    let fields: [&[u8]; 7] = [
        name.as_bytes(),
        b"M",
        b"",
        &escaped(&magic),
        &escaped(&mask),
        emulator.path.as_os_str().as_bytes(),
        b"FCP",
    ];
    let mut line = Vec::new();
    for field in fields {
        line.push(SEPARATOR);
        line.extend_from_slice(field);
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(mount, "register", flags, Mode::empty())?;
    io::Write::write_all(&mut File::from(file), &line)
}

/// Executes a program of the machine, in a root that has nothing but `/proc`'s files, or says why that does not work.
fn trial(machine: &Machine) -> Result<(), String> {
    let ended = execute(&machine.program()).map_err(|error| error.to_string())?;
    match (ended.exit_status(), ended.terminating_signal()) {
        (Some(1), _) => Ok(()),
        (Some(2), _) => Err(
            "it takes `argv[0]` for one argument more, which QEMU does not since 6.0".to_owned(),
        ),
        (Some(code), _) => Err(format!("a program that exits with 1 exits with {code}")),
        (None, signal) => Err(format!("signal {} ends a program", signal.unwrap_or(0))),
    }
}

/// How a program ends, or why it was not executed.
fn execute(program: &[u8]) -> io::Result<WaitIdStatus> {
    let program = zygote::memory("trial", program)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let pid = match sys::fork(0)? {
        Fork::Parent(pid, _) => pid,
        Fork::Child => {
            let path = enter_trial(&program, &null);
            let error = match path {
                Ok(path) => sys::exec(&path, &[c"trial".into()], &[]),
                Err(error) => error,
            };
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let told = rustix::io::write(&tell, &errno.to_ne_bytes());
            sys::exit_child(i32::from(told.is_err()));
        }
    };
    drop(tell);
    let mut errno = Vec::new();
    File::from(told).read_to_end(&mut errno)?;
    let ended = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)
    })?;
    match <[u8; 4]>::try_from(errno) {
        Ok(errno) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
        Err(_) => ended.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
    }
}

/// In a child: silence, and the program's path in what is its root from now on.
fn enter_trial(program: &OwnedFd, null: &OwnedFd) -> io::Result<CString> {
    for stream in 0..3 {
        sys::dup_to(null, stream)?;
    }
    // The emulator opens the program by its name.
    rustix::io::fcntl_setfd(program, FdFlags::empty())?;
    rustix::process::chroot("/proc")?;
    Ok(CString::new(format!("/self/fd/{}", program.as_raw_fd()))?)
}

/// What `rbuild doctor` tells of other architectures, by their names.
pub(super) struct Survey {
    /// This machine's CPU executes them.
    pub(super) native: Vec<String>,
    /// They are emulated, by what is registered for a build alone.
    pub(super) own: Vec<String>,
    /// They are emulated, by what is registered on this machine.
    pub(super) registered: Vec<String>,
    /// Why others are not, and what mends it.
    pub(super) lack: (String, String),
}
wire_struct!(Survey {
    native,
    own,
    registered,
    lack
});

/// Tries all architectures; in a process that is to end, as root in a user namespace of its own, with `single` one of one
/// user id ([`arrange`]).
pub(super) fn survey(foreign: &Foreign, single: bool) -> Survey {
    let host = Platform::host();
    let others = || MACHINES.iter().filter(|machine| machine.arch != host.arch);
    let mut survey = Survey {
        native: Vec::new(),
        own: Vec::new(),
        registered: Vec::new(),
        lack: Default::default(),
    };
    // Before there is a binfmt_misc of our own, which hides the machine's.
    for machine in others().filter(|machine| trial(machine).is_ok()) {
        let list = match (runs_here(&host, machine), single) {
            (true, false) => &mut survey.native,
            (true, true) => continue,
            (false, _) => &mut survey.registered,
        };
        list.push(machine.arch.to_owned());
    }
    let mount = match mount(true) {
        Ok(mount) => mount,
        Err(lack) => {
            survey.lack = (lack.why, lack.fix);
            return survey;
        }
    };
    for machine in others().filter(|machine| !survey.native.iter().any(|n| n == machine.arch)) {
        match find(foreign, machine) {
            Ok(emulator) => {
                let registered = register(&mount, machine, &emulator);
                if registered.is_ok() && trial(machine).is_ok() {
                    survey.own.push(machine.arch.to_owned());
                }
            }
            Err(lack) => survey.lack = (lack.why, lack.fix),
        }
    }
    survey.registered.retain(|arch| !survey.own.contains(arch));
    survey
}

#[cfg(test)]
mod t {
    use super::*;

    fn platforms(names: &[&str]) -> Vec<Platform> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn refusal(foreign: &Foreign) -> String {
        match arrange(foreign, false, false).map(|_| ()) {
            Err(SandboxError::Foreign { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_done_for_this_machines_own_programs() {
        let host = Platform::host();
        let variant = Platform::new("linux", &host.arch, "v3");
        let foreign = Foreign {
            platforms: vec![host.clone(), variant.clone()],
            ..Foreign::default()
        };
        let arranged = arrange(&foreign, true, false).unwrap();
        assert!(arranged._mount.is_none());
        assert_eq!(arranged.emulator(&variant), None);
    }

    #[test]
    fn what_cannot_be_emulated_is_said() {
        let of = |names: &[&str]| Foreign {
            platforms: platforms(names),
            ..Foreign::default()
        };
        assert_eq!(refusal(&of(&["windows/amd64"])), "this is Linux");
        assert_eq!(
            refusal(&of(&["linux/sparc64"])),
            "no emulator is known for them"
        );
        assert_eq!(
            refusal(&of(&["linux/loong64"])),
            "there is no `qemu-loongarch64-static` or `qemu-loongarch64` in PATH, and none is registered on this machine"
        );
    }

    #[test]
    fn an_emulator_must_be_static() {
        let dir = tempfile::tempdir().unwrap();
        let dynamic = dir.path().join("qemu-loongarch64");
        std::fs::copy("/bin/sh", &dynamic).unwrap();
        let foreign = Foreign {
            platforms: platforms(&["linux/loong64"]),
            path: vec!["relative".into(), dir.path().to_owned()],
            ..Foreign::default()
        };
        let why = format!(
            "`{}` is not a static program, and its libraries are not in the images",
            dynamic.display()
        );
        assert_eq!(refusal(&foreign), why);
        let machine = Machine::of("loong64").unwrap();
        let program = dir.path().join("qemu-loongarch64-static");
        std::fs::write(&program, Machine::of("amd64").unwrap().program()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let found = find(&foreign, machine).unwrap();
        assert_eq!(
            (found.name(), found.path),
            ("qemu-loongarch64".to_owned(), program)
        );
    }
}
