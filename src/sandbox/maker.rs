//! Makers: processes that begin steps before these come.
//!
//! A copy of a process has a copy of its page tables, and a page fault for each page that it touches, some hundred in a step
//! that is begun: with what it takes to give all that back, as long as everything else in it. So a maker is a copy of the
//! [`zygote`](super::zygote) that stays, and the children it makes use its memory, as with vfork(2). It is not run meanwhile;
//! it goes on when its child has executed the step's program, to make the next one. Two take turns, so that one has a child
//! that waits while the other's is on its way to its program.
//!
//! What all of its children begin with, a maker has done for them to inherit ([`child::bequeath`]).
//!
//! ```text
//! zygote                maker                    child of the zygote
//!   Making   ─────────▶
//!                       clone         ─────────▶  takes the message
//!            ◀──────────────────────────────────  its id
//!            ◀──────────────────────────────────  network namespaces, once it is ready
//!   step     ──────────────────────────────────▶  execve
//! ```
//!
//! What always holds:
//! - A child that ends in another way than by executing a program may have left the memory as it must not be: its maker
//!   ends, too.
//! - What its children allocate is never freed, so a maker ends after some of them.
//! - Nobody waits for a maker or its child for long: one that does not come in time is done without.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::net::RecvFlags;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;

use super::child;
use super::child::Config;
use super::child::Inherited;
use super::step::Reach;
use super::step::Security;
use super::supervise;
use super::sys;
use super::sys::Fork;
use super::sys::Stack;
use super::uplink::Link;
use super::uplink::Way;
use super::wire;
use super::wire::wire_struct;
use super::zygote;
use super::zygote::SHORT;

/// How many there are.
const MAKERS: usize = 2;
/// How many children one makes before another takes its place: what they leave behind is some ten kilobytes each, and a copy
/// of the zygote takes as long as a few of them.
const MOST: u32 = 32;
/// How long a child is waited for that was to be ready.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a child is to be ready for. Along come its end of the socket for its job, that of its supervisor, and the descriptors
/// of the link.
struct Making {
    reach: Reach,
    supervised: bool,
    way: Option<Way>,
}
wire_struct!(Making {
    reach,
    supervised,
    way
});

/// The zygote's end of a maker.
struct Maker {
    pid: Pid,
    socket: OwnedFd,
    made: u32,
}

/// The makers of a zygote.
#[derive(Default)]
pub(super) struct Makers {
    /// The next one first.
    alive: VecDeque<Maker>,
    /// Those that were told to end, and are to be collected.
    ended: Vec<Pid>,
    /// They are of no use here.
    useless: bool,
}

/// A child that is being made.
pub(super) struct Made {
    maker: Pid,
    /// Where it says its id, and its job goes.
    job: OwnedFd,
}

impl Makers {
    /// Has a child made in the zygote's namespaces, and the step's own but for that of the network.
    pub(super) fn make(
        &mut self,
        config: &Config,
        reach: Reach,
        link: Option<&Link<'_>>,
        supervisor: Option<&OwnedFd>,
    ) -> Option<Made> {
        if self.useless {
            return None;
        }
        let (job, theirs) = zygote::pair().ok()?;
        let parts = link.map(Link::parts);
        let (way, linked) = match parts {
            Some((way, linked)) => (Some(way), Some(linked)),
            None => (None, None),
        };
        let mut fds = vec![theirs.as_fd()];
        fds.extend(supervisor.map(AsFd::as_fd));
        fds.extend(linked.into_iter().flatten());
        let making = wire::encode(&Making {
            reach,
            supervised: supervisor.is_some(),
            way,
        });
        for _ in 0..=MAKERS {
            let maker = self.next(config).ok()?;
            let (pid, sent) = (maker.pid, zygote::send(&maker.socket, &making, &fds));
            match sent {
                Ok(()) => {
                    drop(fds);
                    return Some(Made { maker: pid, job });
                }
                // It has ended, as its last child did.
                Err(_) => self.end(pid),
            }
        }
        None
    }

    /// The one whose turn it is.
    fn next(&mut self, config: &Config) -> io::Result<&mut Maker> {
        if self.alive.front().is_some_and(|maker| maker.made == MOST)
            && let Some(worn) = self.alive.pop_front()
        {
            self.retire(worn);
        }
        if self.alive.len() < MAKERS {
            self.alive.push_back(Maker::start(config)?);
        } else {
            self.alive.rotate_left(1);
        }
        let maker = self.alive.back_mut().expect("one was put there");
        maker.made += 1;
        Ok(maker)
    }

    /// Ends one, if it is not ending already.
    fn end(&mut self, pid: Pid) {
        if let Some(at) = self.alive.iter().position(|maker| maker.pid == pid)
            && let Some(maker) = self.alive.remove(at)
        {
            self.retire(maker);
        }
    }

    fn retire(&mut self, Maker { pid, socket, .. }: Maker) {
        // Its end is the order to end.
        drop(socket);
        self.ended.push(pid);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let collected = |pid: &Pid| rustix::process::waitid(WaitId::Pid(*pid), options);
        self.ended.retain(|pid| matches!(collected(pid), Ok(None)));
    }

    /// The process that was made; none if it does not come, or is no more.
    pub(super) fn take(&mut self, made: Made) -> Option<(Pid, OwnedFd, OwnedFd)> {
        let Made { maker, job } = made;
        let Some(pid) = said_id(&job) else {
            self.end(maker);
            return None;
        };
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Some((pid, process, job)),
            // A container's seccomp filter may forbid it.
            Err(_) => {
                _ = rustix::process::kill_process(pid, Signal::KILL);
                _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                self.end(maker);
                self.useless = true;
                None
            }
        }
    }
}

/// The id of a child of the zygote, as it says it itself.
fn said_id(job: &OwnedFd) -> Option<Pid> {
    let mut polled = [PollFd::new(job, PollFlags::IN)];
    let patience = PATIENCE.try_into().ok()?;
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&patience))).ok()?;
    if polled[0].revents().is_empty() {
        return None;
    }
    let (bytes, _) = zygote::receive::<SHORT>(job).ok()??;
    Pid::from_raw(wire::decode(&bytes)?)
}

impl Maker {
    fn start(config: &Config) -> io::Result<Self> {
        let (socket, theirs) = zygote::pair()?;
        match sys::fork(0)? {
            // The zygote collects it by its id, and it cannot be another's before.
            Fork::Parent(pid, _) => Ok(Self {
                pid,
                socket,
                made: 0,
            }),
            Fork::Child => sys::exit_child(i32::from(serve(config, theirs).is_err())),
        }
    }
}

/// A maker's life.
fn serve(config: &Config, socket: OwnedFd) -> io::Result<()> {
    let [socket] = supervise::keep_only([socket])?;
    let stack = Stack::new()?;
    let inherited = child::bequeath(config)?;
    let namespaces = zygote::namespaces(config);
    let visible = rustix::process::dumpable_behavior()?;
    loop {
        // The child takes it: what comes along is not for this process to have.
        let (len, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&socket, &mut [0; SHORT][..], RecvFlags::PEEK)
        })?;
        if len == 0 {
            return Ok(());
        }
        let executed = sys::share(&stack, namespaces, &mut |pid| {
            begin(config, &socket, inherited, pid)
        })?;
        if !executed {
            return Ok(());
        }
        // It hid itself, and with it the memory.
        rustix::process::set_dumpable_behavior(visible)?;
    }
}

/// The life of a child.
fn begin(config: &Config, socket: &OwnedFd, inherited: Inherited, pid: Pid) -> ! {
    let received = zygote::receive::<SHORT>(socket);
    let Ok(Some((bytes, fds))) = received else {
        sys::exit_child(1);
    };
    let mut fds = fds.into_iter();
    let (Some(making), Some(job)) = (wire::decode::<Making>(&bytes), fds.next()) else {
        sys::exit_child(1);
    };
    // The zygote is gone if this fails.
    _ = zygote::send(&job, &wire::encode(&pid.as_raw_nonzero().get()), &[]);
    let supervisor = making.supervised.then(|| fds.next()).flatten();
    let (router, left) = (fds.next(), fds.next());
    let link = making
        .way
        .zip(router.as_ref())
        .map(|(way, router)| Link::of(way, router.as_fd(), left));
    let mut prepared = child::prepare(config, making.reach, link, Security::Sandbox, inherited);
    if let Ok(prepared) = &mut prepared {
        let netns = prepared.netns_for_others();
        let fds: Vec<BorrowedFd<'_>> = netns.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            // As above.
            _ = zygote::send(&job, &[1], &fds);
        }
    }
    match zygote::receive::<SHORT>(&job) {
        Ok(Some((_, fds))) => zygote::carry_out(config, prepared, fds, supervisor),
        Ok(None) | Err(_) => sys::exit_child(0),
    }
}
