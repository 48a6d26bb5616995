//! Damaged plans: each is read or refused with diagnostics whose places are in the file; nothing panics.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use super::amd64;
use super::build;
use super::request;
use super::source;
use crate::Plan;

/// Plans with something of everything.
const SEEDS: [&str; 2] = [
    include_str!("fuzz/all.toml"),
    "schema = 1\n[step.s]\nfrom = 'scratch'\nrun = ['x {args.v} ${y} {{z}} {']\n[output.o]\nstep = 's'\n",
];

const BITS: [&str; 24] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "=",
    ",",
    ".",
    "\n",
    "\\",
    "{args.",
    "{env.X}",
    "...",
    "[step.",
    "true",
    "0x7f",
    "1979-05-27",
    "\u{feff}",
    "é",
    "\0",
    "scratch",
    "\"\"\"",
    "inf",
];

/// Cuts a piece out, doubles it, or puts something in its place.
fn damage(text: &str, at: usize, len: usize, kind: u8, bit: usize) -> String {
    let edge = |mut at: usize| {
        at %= text.len() + 1;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let from = edge(at);
    let to = edge((from + len).min(text.len())).max(from);
    let piece = match kind % 3 {
        0 => String::new(),
        1 => text[from..to].repeat(2),
        _ => BITS[bit % BITS.len()].to_owned(),
    };
    format!("{}{piece}{}", &text[..from], &text[to..])
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn try_one(text: &str) {
    let request = request(text);
    let Err(errors) = build(&Plan::default(), &request) else {
        let docker = Plan::default().to_dockerfile(&request, &[]).unwrap();
        let back = crate::to_plan(&source("Dockerfile", &docker.text), None, &amd64());
        assert!(back.is_ok(), "{}\n{back:?}", docker.text);
        return;
    };
    assert!(!errors.is_empty(), "refused without a reason");
    for error in errors {
        assert!(!error.message.is_empty());
        for label in &error.labels {
            let (range, file) = (&label.span.range, &label.span.file.text);
            assert!(
                range.start <= range.end && file.get(range.clone()).is_some(),
                "{range:?} is no place in the file"
            );
        }
    }
}

#[test]
fn damaged_plans_are_built_or_refused() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long to go on is the caller's to say"
    )]
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|text| text.parse().unwrap());
    let started = Instant::now();
    let mut seed = match seconds {
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() << 32,
        None => 0,
    };
    let mut built = 0;
    loop {
        let mut random = Random(seed);
        let mut text = SEEDS[random.below(SEEDS.len())].to_owned();
        for _ in 0..=random.below(3) {
            let (at, len) = (random.below(1 << 20), random.below(40));
            text = damage(
                &text,
                at,
                len,
                random.next() as u8,
                random.below(BITS.len()),
            );
        }
        if let Err(panic) = std::panic::catch_unwind(|| try_one(&text)) {
            eprintln!("seed {seed}: {text:?}");
            std::panic::resume_unwind(panic);
        }
        built += u32::from(build(&Plan::default(), &request(&text)).is_ok());
        seed += 1;
        let enough = match seconds {
            Some(seconds) => started.elapsed() >= Duration::from_secs(seconds),
            None => seed == 2_000,
        };
        if enough {
            break;
        }
    }
    assert!(built > 0, "no damage was small enough to be built");
}
