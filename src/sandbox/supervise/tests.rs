//! Calls at random: whatever a process passes, arguments are understood as the kernel's own reading of them, or left to
//! it, and nothing panics.
//!
//! `FUZZ_SECONDS=300 cargo test --lib supervise::tests::fuzz` goes on for longer, from another seed each time, which a
//! failure names.

use std::time::Duration;
use std::time::Instant;

use rbuild_cache::Owner;
use rustix::io::Errno;

use super::calls;
use super::calls::CALLS;
use super::calls::Call;
use super::calls::New;
use super::ids::Credentials;
use super::memory;

/// xorshift64*, which needs no crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// What programs pass, and what nobody passes.
    fn argument(&mut self) -> u64 {
        const OF_INTEREST: [u64; 12] = [
            0,
            1,
            u64::MAX,
            u32::MAX as u64,
            1 << 31,
            1 << 63,
            libc::AT_FDCWD as u64,
            libc::AT_SYMLINK_NOFOLLOW as u64,
            libc::AT_EMPTY_PATH as u64,
            libc::O_CREAT as u64,
            libc::S_IFCHR as u64,
            libc::S_IFBLK as u64 | 0o660,
        ];
        match self.below(3) {
            0 => OF_INTEREST[self.below(12) as usize],
            1 => self.below(2000),
            _ => self.next(),
        }
    }
}

/// A process' memory: some pages next to each other, and nothing around them.
struct Memory {
    from: u64,
    bytes: Vec<u8>,
}

impl Memory {
    fn random(random: &mut Random) -> Self {
        let pages = random.below(4);
        let from = match random.below(8) {
            // Up to the last address there is.
            0 => 0_u64.wrapping_sub(pages * 4096),
            _ => random.below(1 << 36) * 4096,
        };
        let zeroes = 1 + random.below(6000);
        let byte = |random: &mut Random| match random.below(zeroes) {
            0 => 0,
            _ => b"/abc./"[random.below(6) as usize],
        };
        let bytes = (0..pages * 4096).map(|_| byte(random)).collect();
        Self { from, bytes }
    }

    /// process_vm_readv(2): as much as is there, and an error if nothing is.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let offset = address.wrapping_sub(self.from);
        let there = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.bytes.get(offset..))
            .filter(|there| !there.is_empty())
            .ok_or(Errno::FAULT)?;
        let len = there.len().min(into.len());
        into[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    /// What strncpy_from_user() makes of it.
    fn path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut path = Vec::new();
        while path.len() < 4096 {
            let mut byte = [0];
            let at = address.checked_add(path.len() as u64).ok_or(Errno::FAULT)?;
            self.read(at, &mut byte)?;
            match byte {
                [0] => return Ok(path),
                [byte] => path.push(byte),
            }
        }
        Err(Errno::NAMETOOLONG)
    }
}

fn round(seed: u64) {
    let mut random = Random(seed | 1);
    let memory = Memory::random(&mut random);
    let near = |random: &mut Random| {
        let inside = random.below(memory.bytes.len() as u64 + 2);
        memory.from.wrapping_add(inside)
    };
    for _ in 0..16 {
        let address = near(&mut random);
        let mut reads = 0;
        let read = |address: u64, into: &mut [u8]| {
            reads += 1;
            memory.read(address, into)
        };
        let got = memory::path(address, read);
        assert_eq!(
            got,
            memory.path(address),
            "seed {seed}: path at {address:x}"
        );
        assert!(reads <= 3, "seed {seed}: {reads} reads");
        if let Some((dir, name)) = got.as_deref().ok().and_then(memory::split) {
            assert!(!name.contains(&b'/') && !dir.is_empty(), "seed {seed}");
        }
        let count = random.below(64) as usize;
        let words = memory::words(address, count, |a, into: &mut [u8]| memory.read(a, into));
        assert!(words.is_err() || words.is_ok_and(|words| words.len() == count));
    }
    let mut ids = Credentials::new(random.below(3) as u32, random.below(3) as u32, vec![2]);
    for _ in 0..64 {
        let (name, _) = CALLS[random.below(CALLS.len() as u64) as usize];
        let args = [(); 6].map(|()| random.argument());
        match calls::decode(name, args) {
            Some(Call::Ids(order)) => {
                let was_root = ids.is_root();
                if let Some(Ok(after)) = ids.after(order, &[1, 2]) {
                    // Nobody becomes root who has no id of root's.
                    let had = [ids.user.real, ids.user.effective, ids.user.saved].contains(&0);
                    assert!(
                        was_root || had || !after.is_root(),
                        "seed {seed}: {order:?}"
                    );
                    ids = after;
                }
            }
            Some(Call::Create {
                new: New::Device { device, .. },
                ..
            }) => assert!(device.major < 1 << 12 && device.minor < 1 << 20),
            _ => {}
        }
        let how: Vec<u8> = (0..24).map(|_| random.argument() as u8).collect();
        let _ = calls::open_how(&how.try_into().expect("24 bytes"));
    }
    let len = random.below(40) as usize;
    let value: Vec<u8> = (0..len)
        .map(|_| b"0123456789:bc+-\0\x02\x03rbld"[random.below(21) as usize])
        .collect();
    if let Some(owner) = Owner::from_text(&value) {
        let text = owner.to_text();
        assert_eq!(
            Owner::from_text(text.as_bytes()),
            Some(owner),
            "seed {seed}"
        );
    }
    let _ = Owner::from_capability(&value);
}

#[test]
fn fuzz() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long to go on is the caller's to say"
    )]
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let until = seconds
        .and_then(|seconds| seconds.parse().ok())
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = match until {
        Some(_) => u64::from(std::process::id()) << 32,
        None => 0,
    };
    let mut rounds = 0_u64;
    while rounds < 500 || until.is_some_and(|until| Instant::now() < until) {
        round(seed);
        seed = seed.wrapping_add(2);
        rounds += 1;
    }
    if until.is_some() {
        println!("{rounds} rounds");
    }
}
