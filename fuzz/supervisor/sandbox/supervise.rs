//! The supervisor as it is, but for what it asks the kernel ([`kernel`]).

#[path = "../../../src/sandbox/supervise/kernel.rs"]
mod actual;
#[path = "../../../src/sandbox/supervise/calls.rs"]
mod calls;
#[path = "../../../src/sandbox/supervise/ids.rs"]
mod ids;
mod kernel;
#[path = "../../../src/sandbox/supervise/memory.rs"]
mod memory;
#[path = "../../../src/sandbox/supervise/owners.rs"]
mod owners;
#[path = "../../../src/sandbox/supervise/service.rs"]
mod service;
#[path = "../../../src/sandbox/supervise/stat.rs"]
mod stat;
#[path = "../../../src/sandbox/supervise/target.rs"]
mod target;

mod round;
mod world;

pub(crate) use round::round;
pub(crate) use world::World;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

/// What follows is as in the supervisor's `mod.rs`, which starts processes and is not here.
const TO_LOOK: CapabilitySet = CapabilitySet::SYS_PTRACE;
const TO_RECORD: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::SETFCAP);
const SPARE: CapabilitySet = TO_LOOK.union(TO_RECORD);

fn insist<T>(
    spare: CapabilitySet,
    mut attempt: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match attempt() {
        Err(Errno::ACCESS | Errno::PERM) => {}
        done => return done,
    }
    let usual = rustix::thread::capabilities(None)?;
    let mut more = usual;
    more.effective |= spare & usual.permitted;
    rustix::thread::set_capabilities(None, more)?;
    let done = attempt();
    rustix::thread::set_capabilities(None, usual)?;
    done
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Beginning {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: u64,
    roots: bool,
}
