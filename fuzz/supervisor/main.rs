//! Any call with any arguments, from a process whose memory has anything in it: what the supervisor of rung 2 makes of it,
//! guided by the code that it reaches.
//!
//! The supervisor's own files are compiled into this program, with a memory and a listener that are made up in the place of
//! the kernel's. Files, roots, working directories, descriptors and links of proc(5) are real: this process enters a user
//! namespace of one id as rbuild does on rung 2, and its caller is a process in a chroot(2) there.
//!
//! What is looked at in each round:
//! - nothing panics, and no path takes more than a few reads;
//! - a path leads to the file to which the kernel leads a process with that root;
//! - nothing is made, changed or given an owner outside of the root;
//! - nothing is answered to who does not wait any more, and nothing is written to other memory than the caller's;
//! - nobody becomes root who has no id of root's.
#![no_main]
#![allow(dead_code, reason = "the rest of the supervisor is what uses it")]
#![allow(unexpected_cfgs, reason = "libfuzzer-sys has its own")]

// The supervisor's files know the owner of a file by that name.
extern crate self as rbuild_cache;

#[path = "../../cache/src/dir/owner.rs"]
mod owner;
mod sandbox;

pub(crate) use owner::Device;
pub(crate) use owner::OWNER;
pub(crate) use owner::Owner;

use std::sync::OnceLock;

use sandbox::supervise::World;

static WORLD: OnceLock<World> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let made = WORLD.set(World::make());
        assert!(made.is_ok(), "made once");
    },
    |input: &[u8]| {
        sandbox::supervise::round(WORLD.get().expect("made before"), input);
    }
);
