//! The default network of steps: one user-mode uplink a build, and a network namespace for every step.
//!
//! ```text
//! host     slirp4netns or pasta: a process that speaks for the build, without privileges
//!            │
//! router   tap0 x.255.100    a namespace in which nobody listens; forwards, and masquerades
//!          s0 x.0.1   s1 x.0.5   …
//!            │          │
//! steps    eth0 x.0.2 eth0 x.0.6 …
//! ```
//!
//! So two steps that listen on one port do not meet, and what listens on the host's loopback addresses or abstract
//! sockets is out of reach. What the host reaches by its other addresses, a step does too, as with docker. IPv4 only.
//!
//! The uplink has a guard, process 1 of a pid namespace below the zygote's, which starts the programs and says how that
//! went: they end with the build, however it ends, those whose start failed half-way too. Nobody waits for it but the
//! first step that wants the network.
//!
//! A step's end of its pair of links is made by the step itself, before its program begins. That takes longer than all the
//! rest of a short step, and taking it down as long again. So when all processes of a step have ended, the next one gets its
//! namespace if it is [as new](is_as_new): no socket is left in it, nor one that has ended and keeps its port for a minute.
//! What stays is what the kernel itself remembers: the router's hardware address, how large packets may be. All else takes
//! CAP_NET_ADMIN to change, and steps that have it leave their namespaces to nobody.

mod netlink;
mod programs;
mod state;

use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Access;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::net::AddressFamily;
use rustix::net::SocketType;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::thread::LinkNameSpaceType;
use rustix::thread::UnshareFlags;

use super::mounts;
use super::sys;
use super::sys::Fork;
use super::wire;
use super::wire::wire_enum;
use super::wire::wire_struct;
use super::zygote;
pub(super) use state::Uplink;

use netlink::Netlink;
use programs::Program;

/// How the uplink's start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This program is it.
    Up { program: String },
    /// There is none.
    Down { why: String },
}
wire_enum!(Outcome {
    0 => Up { program },
    1 => Down { why },
});

/// What is to be started, and the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The first address of the 65536 that are used.
    network: u32,
    /// The address by which others reach this machine, if any do.
    host: Option<u32>,
    /// To be tried in this order.
    programs: Vec<Program>,
}
wire_struct!(Plan {
    network,
    host,
    programs
});

/// Networks that may be used, the first that this machine has no route to. None is a default of docker, podman,
/// libvirt or Kubernetes.
const NETWORKS: [[u8; 4]; 4] = [
    [10, 187, 0, 0],
    [172, 30, 0, 0],
    [10, 214, 0, 0],
    [192, 168, 0, 0],
];

/// Of a step's link and the router's end of it: four addresses each.
const LINK_BITS: u8 = 30;
/// How many of them there are, less those of the uplink's own network.
const LINKS: u32 = 0xff00 / 4;
/// A step's own number of its link; loopback is 1.
const STEP_INDEX: u32 = 2;
/// The first number of the router's ends. The tap has a small one.
const ROUTER_INDEX: u32 = 1000;

/// Why there is nothing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("this machine speaks IPv6 only")]
    Ipv4,
    #[error("neither slirp4netns nor pasta is installed")]
    Programs,
}

impl Plan {
    /// What this machine has, or why there is nothing to try. Asks no program.
    pub(super) fn make() -> Result<Self, Lack> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let routes = parse_routes(&read("/proc/net/route"));
        let reaches = |(network, mask): &(u32, u32)| (*network, *mask) == (0, 0);
        if !routes.iter().any(reaches) && read("/proc/net/ipv6_route").contains(DEFAULT_IPV6) {
            return Err(Lack::Ipv4);
        }
        let programs = programs::installed();
        if programs.is_empty() {
            return Err(Lack::Programs);
        }
        Ok(Self {
            network: free_network(&routes),
            host: outward(),
            programs,
        })
    }

    /// The address by which a step reaches this machine.
    pub(super) fn host(&self) -> Option<String> {
        Some(Ipv4Addr::from_bits(self.host?).to_string())
    }

    /// The address at which the uplink answers questions about names.
    pub(super) fn resolver(&self) -> [u8; 4] {
        (self.network | programs::RESOLVER).to_be_bytes()
    }
}

/// In `/proc/net/ipv6_route` a default route that is not the one that refuses.
const DEFAULT_IPV6: &str =
    "\n00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80";

/// Destinations and masks of `/proc/net/route`, whose numbers are in the machine's order of bytes.
fn parse_routes(text: &str) -> Vec<(u32, u32)> {
    let number = |field: &str| Some(u32::from_be(u32::from_str_radix(field, 16).ok()?));
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            Some((number(fields.get(1)?)?, number(fields.get(7)?)?))
        })
        .collect()
}

/// The address of ours that packets to the outside bear. None is sent.
fn outward() -> Option<u32> {
    let kind = (AddressFamily::INET, SocketType::DGRAM);
    let socket = rustix::net::socket(kind.0, kind.1, None).ok()?;
    let somewhere = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
    rustix::net::connect(&socket, &somewhere).ok()?;
    let own = SocketAddrV4::try_from(rustix::net::getsockname(&socket).ok()?).ok()?;
    Some(own.ip().to_bits())
}

fn free_network(routes: &[(u32, u32)]) -> u32 {
    let networks = NETWORKS.map(u32::from_be_bytes);
    let is_free = |wanted: &u32| {
        !routes.iter().any(|(network, mask)| {
            let common = mask & 0xffff_0000;
            *mask != 0 && wanted & common == network & common
        })
    };
    networks.into_iter().find(is_free).unwrap_or(networks[0])
}

/// An uplink that is being started.
pub(super) struct Starting {
    guard: OwnedFd,
    /// Where the guard says how it went.
    pub(super) told: OwnedFd,
}

/// Has the guard started, in the network namespace of this process.
pub(super) fn start(plan: &Plan) -> io::Result<Starting> {
    let (told, tell) = zygote::pair()?;
    match sys::fork(libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC)? {
        Fork::Parent(_, guard) => Ok(Starting { guard, told }),
        Fork::Child => {
            drop(told);
            guard(plan, &tell)
        }
    }
}

impl Starting {
    /// What the guard says, once it can be read.
    pub(super) fn finish(self, plan: &Plan) -> (Outcome, Option<Router>) {
        let down = |why: &str| Outcome::Down {
            why: why.to_owned(),
        };
        let said = zygote::receive::<LONGEST>(&self.told);
        let (outcome, netns) = match said {
            Ok(Some((bytes, fds))) => (wire::decode(&bytes), fds.into_iter().next()),
            Ok(None) | Err(_) => (None, None),
        };
        match (outcome, netns) {
            (Some(outcome @ Outcome::Up { .. }), Some(netns)) => {
                let router = Router {
                    netns,
                    network: plan.network,
                    link: 0,
                    left: VecDeque::new(),
                    guard: self.guard,
                };
                (outcome, Some(router))
            }
            (Some(outcome @ Outcome::Down { .. }), _) => (outcome, None),
            _ => (down("the process that starts it ended"), None),
        }
    }
}

/// Of an [`Outcome`], in bytes.
pub(super) const LONGEST: usize = 4096;

/// The namespace through which steps reach the uplink.
pub(super) struct Router {
    netns: OwnedFd,
    network: u32,
    /// The number of the link that the next step gets.
    link: u32,
    /// Network namespaces of steps that have ended.
    left: VecDeque<OwnedFd>,
    guard: OwnedFd,
}

/// How many network namespaces are kept of steps that have ended: as many as there are steps side by side in most builds.
const MOST_LEFT: usize = 8;

/// A way to the uplink, for one step.
pub(super) struct Link<'a> {
    /// The router's network namespace.
    router: BorrowedFd<'a>,
    /// The first address of the uplink's.
    network: u32,
    /// The link's number.
    number: u32,
    /// The network namespace of a step that has ended.
    left: Option<OwnedFd>,
}

/// What of a [`Link`] is no descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    network: u32,
    number: u32,
}
wire_struct!(Way { network, number });

impl Router {
    /// A way for the next step.
    fn link(&mut self) -> Link<'_> {
        let left = self.left.pop_front();
        self.link = (self.link + 1) % LINKS;
        Link {
            router: self.netns.as_fd(),
            network: self.network,
            number: self.link,
            left,
        }
    }

    /// Keeps the network namespace of a step all of whose processes have ended, and which could not change the network. It is
    /// the last to be used again: its sockets may take a moment to go.
    fn keep(&mut self, netns: OwnedFd) {
        if self.left.len() < MOST_LEFT {
            self.left.push_back(netns);
        }
    }
}

impl<'a> Link<'a> {
    /// What is sent to the process that it is for, with these descriptors.
    pub(super) fn parts(&self) -> (Way, impl Iterator<Item = BorrowedFd<'_>>) {
        let way = Way {
            network: self.network,
            number: self.number,
        };
        let left = self.left.as_ref().map(AsFd::as_fd);
        (way, std::iter::once(self.router).chain(left))
    }

    /// The same, received: the router's network namespace, and perhaps one that was left.
    pub(super) fn of(way: Way, router: BorrowedFd<'a>, left: Option<OwnedFd>) -> Self {
        Self {
            router,
            network: way.network,
            number: way.number,
            left,
        }
    }

    /// Moves this process into a new network namespace, with a link to the router.
    fn connect(&self) -> io::Result<()> {
        move_into(self.router)?;
        let router = Netlink::route()?;
        sys::unshare(UnshareFlags::NEWNET)?;
        let step = Netlink::route()?;
        sys::loopback_up()?;
        let (name, index) = (format!("s{}", self.number), ROUTER_INDEX + self.number);
        step.pair(("eth0", STEP_INDEX), (&name, index), self.router)?;
        let gateway = self.network + 4 * self.number + 1;
        router.up(index, gateway, LINK_BITS)?;
        step.up(STEP_INDEX, gateway + 1, LINK_BITS)?;
        step.default_route(gateway, STEP_INDEX)
    }

    /// Moves this process, of which `proc` is the `/proc`, into a network namespace of its own that is connected. Gives one
    /// that was left and cannot be that, yet.
    pub(super) fn join(self, proc: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        if let Some(left) = &self.left {
            move_into(left.as_fd())?;
            if is_as_new(proc) {
                return Ok(None);
            }
        }
        self.connect()?;
        Ok(self.left)
    }
}

fn move_into(netns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(netns, kind)
}

/// Whether nothing is left of who was in this process' network namespace before. The kernel takes some 10 ms to forget a
/// socket that is closed.
fn is_as_new(proc: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "self/net/sockstat", flags, Mode::empty());
    let mut text = String::new();
    file.is_ok_and(|file| File::from(file).read_to_string(&mut text).is_ok())
        && has_no_sockets(&text)
}

/// What `/proc/net/sockstat` says when there is no socket of any kind, and none that has ended and keeps its port (`tw`:
/// TIME_WAIT).
fn has_no_sockets(text: &str) -> bool {
    let is_none = |line: &str, name: &str| {
        let mut words = text
            .lines()
            .find_map(|l| l.strip_prefix(line))
            .unwrap_or_default()
            .split_ascii_whitespace();
        words.find(|word| *word == name).and(words.next()) == Some("0")
    };
    is_none("sockets:", "used") && is_none("TCP:", "tw")
}

/// The guard's life: it says how the start went, and stays to collect what ends.
fn guard(plan: &Plan, tell: &OwnedFd) -> ! {
    let (outcome, netns) = match begin(plan) {
        Ok((program, netns)) => (Outcome::Up { program }, Some(netns)),
        Err(why) => (Outcome::Down { why }, None),
    };
    let fds: Vec<_> = netns.iter().map(|fd| fd.as_fd()).collect();
    let told = zygote::send(tell, &wire::encode(&outcome), &fds);
    drop(fds);
    drop(netns);
    // As process 1 it takes everybody with it when it ends.
    if matches!(outcome, Outcome::Down { .. }) || told.is_err() {
        sys::exit_child(0);
    }
    while rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED).is_ok() {}
    sys::exit_child(0);
}

fn begin(plan: &Plan) -> Result<(String, OwnedFd), String> {
    let failed = |doing: &'static str| move |e: io::Error| format!("cannot {doing}: {e}");
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    drop(tun.map_err(|e| format!("cannot open /dev/net/tun: {e}"))?);
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("proc", "/proc", "proc", flags, None)
        .map_err(|e| failed("mount /proc")(e.into()))?;
    let netns = router().map_err(failed("make a network namespace that forwards"))?;
    programs::run(plan, &netns).map(|program| (program, netns))
}

/// A network namespace that forwards and masquerades. It lives as long as somebody has it.
fn router() -> io::Result<OwnedFd> {
    let (ours, theirs) = zygote::pair()?;
    match sys::fork(libc::CLONE_NEWNET)? {
        Fork::Parent(pid, _) => {
            drop(theirs);
            let said = zygote::receive::<64>(&ours)?;
            rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)?;
            let (bytes, fds) = said.ok_or(io::ErrorKind::UnexpectedEof)?;
            match fds.into_iter().next() {
                Some(netns) => Ok(netns),
                None => Err(io::Error::from_raw_os_error(
                    wire::decode(&bytes).unwrap_or(libc::EPROTO),
                )),
            }
        }
        Fork::Child => {
            let sent = match make_router() {
                Ok(netns) => zygote::send(&theirs, &[0], &[netns.as_fd()]),
                Err(e) => {
                    let errno = e.raw_os_error().unwrap_or(libc::EIO);
                    zygote::send(&theirs, &wire::encode(&errno), &[])
                }
            };
            sys::exit_child(i32::from(sent.is_err()));
        }
    }
}

fn make_router() -> io::Result<OwnedFd> {
    sys::loopback_up()?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Netlink::rules()?.masquerade()?;
    let netns: OwnedFd = File::open("/proc/self/ns/net")?.into();
    // What every step will do: better known now that it works.
    let links = Netlink::route()?;
    links.pair(("t0", 2), ("t1", 3), netns.as_fd())?;
    Ok(netns)
}

/// Starts the uplink and ends it again: what it is, or why there is none.
pub(super) fn try_out() -> Result<String, String> {
    let plan = Plan::make().map_err(|lack| lack.to_string())?;
    let starting = start(&plan).map_err(|e| format!("cannot start a process: {e}"))?;
    let (outcome, router) = starting.finish(&plan);
    if let Some(router) = router {
        // With the guard all of it ends; if it has ended already, that is as well.
        _ = rustix::process::pidfd_send_signal(&router.guard, rustix::process::Signal::KILL);
    }
    match outcome {
        Outcome::Up { program } => Ok(program),
        Outcome::Down { why } => Err(why),
    }
}

/// What would mend it that there is no uplink, or else what to do without.
pub(super) fn fix() -> &'static str {
    let tun = rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK);
    match (Plan::make(), tun) {
        (Err(Lack::Programs), _) => "install slirp4netns, or pasta (package passt)",
        (Ok(_), Err(_)) => {
            "sudo chmod 666 /dev/net/tun (in a container: `--device /dev/net/tun`), as distributions ship it: who opens it has \
             power over network namespaces of their own only"
        }
        _ => "steps work; `--network=none` keeps those from the network that need none",
    }
}

/// The resolver configuration of a step with an uplink: the uplink asks in its stead, also a resolver that only the
/// host can reach. Search domains and options stay.
pub(super) fn resolv_conf(host: &[u8], resolver: [u8; 4]) -> Vec<u8> {
    let [a, b, c, d] = resolver;
    let mut text = format!("nameserver {a}.{b}.{c}.{d}\n").into_bytes();
    for line in host.split_inclusive(|&b| b == b'\n') {
        let word = line.trim_ascii();
        if word.starts_with(b"search")
            || word.starts_with(b"options")
            || word.starts_with(b"domain")
        {
            text.extend(line);
        }
    }
    text
}

/// What the programs need to be able to open.
const TUN: &str = "/dev/net/tun";

/// Where the network namespace is to be found by the programs: the AppArmor profile that distributions have for pasta lets
/// it open files in few places, of which this one is mostly there. The other always is.
const NETNS_DIRS: [&str; 2] = ["/tmp", "/proc/driver"];

/// A path for a network namespace that `programs` can open, whatever they do to `/proc` first.
fn named(netns: &OwnedFd, programs: &[Program]) -> rustix::io::Result<PathBuf> {
    let mount = |dir: &str| {
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("tmpfs", dir, "tmpfs", flags, None)
    };
    let [first, second] = NETNS_DIRS;
    // What is covered cannot be executed.
    let covers = |program: &Program| program.path.starts_with(first);
    let dir = match programs.iter().any(covers) || mount(first).is_err() {
        false => first,
        true => mount(second).map(|()| second)?,
    };
    let path = Path::new(dir).join("netns");
    mounts::make_file(rustix::fs::CWD, &path)?;
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), &path)?;
    Ok(path)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_network_is_chosen_that_the_machine_has_no_route_to() {
        // From a machine with `ip route add 10.0.0.0/8 via …` and a default route.
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let eth = "eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\neth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        let vpn = "tun0 0000000A 010200C0 0003 0 0 0 000000FF 0 0 0\n";
        let check = |text: &str, want: [u8; 4]| {
            let network = free_network(&parse_routes(text));
            assert_eq!(network.to_be_bytes(), want, "{text}");
        };
        check(&format!("{head}{eth}"), [10, 187, 0, 0]);
        check(&format!("{head}{eth}{vpn}"), [172, 30, 0, 0]);
        let one = "eth1 0005BB0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        check(&format!("{head}{one}"), [172, 30, 0, 0]);
        let all = "a 0000000A 0 0 0 0 0 000000FF\na 000010AC 0 0 0 0 0 0000F0FF\na 0000A8C0 0 0 0 0 0 0000FFFF\n";
        check(all, [10, 187, 0, 0]);
    }

    /// As Linux 6.18 says it: of a namespace in which nothing was, while something listens, and after that.
    #[test]
    fn a_namespace_is_as_new_without_sockets_and_ports_that_are_kept() {
        let text = |used: u32, kept: u32| {
            format!(
                "sockets: used {used}\nTCP: inuse 0 orphan 0 tw {kept} alloc 84 mem 68\nUDP: inuse 0 mem 256\n\
                 UDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
            )
        };
        assert!(has_no_sockets(&text(0, 0)));
        assert!(!has_no_sockets(&text(1, 0)));
        assert!(!has_no_sockets(&text(0, 1)));
        assert!(!has_no_sockets("sockets: used 0\n"));
        assert!(!has_no_sockets("TCP: inuse 0 orphan 0 tw 0\n"));
        assert!(!has_no_sockets(""));
    }

    #[test]
    fn names_are_asked_of_the_uplink() {
        let host = b"# x\nnameserver 127.0.0.53\nsearch a.example b.example\noptions edns0\nnameserver ::1\n";
        assert_eq!(
            String::from_utf8(resolv_conf(host, [10, 187, 255, 3])).unwrap(),
            "nameserver 10.187.255.3\nsearch a.example b.example\noptions edns0\n"
        );
    }
}
