//! The programs that are uplinks, and how they are told what to do.
//!
//! slirp4netns comes first: it is ready in a quarter of pasta's time (12 and 50 ms), and faster over TCP.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::MemfdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::process::PidfdFlags;

use super::super::userns;
use super::super::wire::wire_enum;
use super::super::wire::wire_struct;
use super::Plan;

/// Below the plan's network: the uplink's own addresses. The first two are slirp4netns' for its network.
const OWN: u32 = 0xff00;
const GATEWAY: u32 = OWN + 2;
pub(super) const RESOLVER: u32 = OWN + 3;
const TAP: u32 = OWN + 100;

/// How long a program may take to be ready, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    kind: Kind,
    pub(super) path: PathBuf,
}
wire_struct!(Program { kind, path });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Slirp4netns,
    Pasta,
}
wire_enum!(Kind { 0 => Slirp4netns, 1 => Pasta });

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }
}

/// Those there are.
pub(super) fn installed() -> Vec<Program> {
    let found = |kind: Kind| {
        let path = userns::helper(kind.name()).ok()?;
        Some(Program { kind, path })
    };
    let all = [Kind::Slirp4netns, Kind::Pasta];
    all.into_iter().filter_map(found).collect()
}

/// Starts the first program that works; its name. It stays a child of this process, or becomes one, which is process 1.
pub(super) fn run(plan: &Plan, netns: &OwnedFd) -> Result<String, String> {
    let path = super::named(netns, &plan.programs)
        .map_err(|e| format!("cannot name a network namespace: {e}"))?;
    let mut why = Vec::new();
    for program in &plan.programs {
        let started = match program.kind {
            Kind::Slirp4netns => slirp4netns(plan, program, &path),
            Kind::Pasta => pasta(plan, program, &path),
        };
        match started {
            Ok(()) => return Ok(program.kind.name().to_owned()),
            Err(said) => why.push(format!("{}: {said}", program.kind.name())),
        }
    }
    Err(why.join("; "))
}

fn address(plan: &Plan, own: u32) -> String {
    Ipv4Addr::from_bits(plan.network | own).to_string()
}

/// It stays in the foreground and writes to a descriptor when it is ready.
fn slirp4netns(plan: &Plan, program: &Program, netns: &Path) -> Result<(), String> {
    // Not close-on-exec: it is for the program.
    let (ready, tell) = rustix::pipe::pipe_with(PipeFlags::empty()).map_err(|e| e.to_string())?;
    let mut command = Command::new(&program.path);
    command
        .args(["--configure", "--mtu=65520", "--disable-host-loopback"])
        .arg(format!("--cidr={}/24", address(plan, OWN)))
        .arg(format!("--ready-fd={}", tell.as_raw_fd()))
        .arg("--netns-type=path")
        .arg(netns)
        .arg("tap0");
    let started = Started::new(command)?;
    drop(tell);
    match started.wait_for(Some(&ready)).map_err(|e| e.to_string())? {
        Waited::Ready if rustix::io::read(&ready, &mut [0_u8]) == Ok(1) => Ok(()),
        _ => Err(started.end()),
    }
}

/// It goes into the background when it is ready. Without being told it would hand on ports of the host's loopback
/// address, and its gateway's address would stand for that.
fn pasta(plan: &Plan, program: &Program, netns: &Path) -> Result<(), String> {
    let mut command = Command::new(&program.path);
    command
        .args(["--config-net", "--quiet", "--ipv4-only", "--no-map-gw"])
        .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
        .args([
            "--netns-only",
            "--no-netns-quit",
            "--ns-ifname",
            "tap0",
            "--runas",
            "0",
        ])
        .args(["--address", &address(plan, TAP), "--netmask", "24"])
        .args(["--gateway", &address(plan, GATEWAY)])
        .args(["--dns-forward", &address(plan, RESOLVER)])
        .arg("--netns")
        .arg(netns);
    let mut started = Started::new(command)?;
    match started.wait_for(None).map_err(|e| e.to_string())? {
        Waited::Ended if started.ended_well() => Ok(()),
        _ => Err(started.end()),
    }
}

enum Waited {
    Ready,
    Ended,
    TooLong,
}

/// A program that is starting.
struct Started {
    child: Child,
    said: File,
}

impl Started {
    fn new(mut command: Command) -> Result<Self, String> {
        let mut spawn = || -> io::Result<Self> {
            let said = File::from(rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC)?);
            command.env_clear().current_dir("/");
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(said.try_clone()?);
            let child = command.spawn()?;
            Ok(Self { child, said })
        };
        spawn().map_err(|e| e.to_string())
    }

    /// Waits for the program to end, or for something to be read.
    fn wait_for(&self, ready: Option<&OwnedFd>) -> io::Result<Waited> {
        let pid = Pid::from_child(&self.child);
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let deadline = Instant::now() + PATIENCE;
        let mut polled = vec![PollFd::new(&process, PollFlags::IN)];
        polled.extend(ready.map(|ready| PollFd::new(ready, PollFlags::IN)));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match rustix::event::poll(&mut polled, Some(&left)) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(0) => return Ok(Waited::TooLong),
                polled => polled?,
            };
            return Ok(
                match polled.get(1).is_some_and(|p| !p.revents().is_empty()) {
                    true => Waited::Ready,
                    false => Waited::Ended,
                },
            );
        }
    }

    fn ended_well(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Ends it; the last it said.
    fn end(mut self) -> String {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
        let mut said = String::new();
        let read = self
            .said
            .rewind()
            .and_then(|()| self.said.read_to_string(&mut said));
        let last = said
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        match (read, last) {
            (Ok(_), Some(line)) => line.to_owned(),
            _ => "it did not become ready".to_owned(),
        }
    }
}
