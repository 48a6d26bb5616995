//! Damaged files: whatever the input, there is a graph or an error that points into the file, and never a panic.
//!
//! The corpus is cut up, shuffled and spoilt by a generator with a seed. `FUZZ_SECONDS=300 cargo test -p
//! rbuild-dockerfile fuzz` goes on for longer, from another seed each time, which a failure names.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use super::build;
use super::cases;
use super::request;

/// What damage is made of.
const PIECES: [&str; 36] = [
    "\n",
    "\\\n",
    "\\",
    "`",
    " ",
    "\t",
    "\r\n",
    "\u{feff}",
    "\0",
    "é",
    "\u{a0}",
    "$",
    "${",
    "}",
    "${x:-",
    "${x/",
    "\"",
    "'",
    "<<EOF",
    "<<-\"E\"",
    "EOF\n",
    "--",
    "--from=",
    "--mount=",
    "type=cache,",
    "=",
    ",",
    "[\"",
    "\"]",
    "#",
    "# escape=`\n",
    "# check=",
    "FROM ",
    "ONBUILD ",
    "ARG x\n",
    "COPY a b\n",
];

/// Steele and Vigna's SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// An offset of `text` at which a character begins.
    fn place(&mut self, text: &str) -> usize {
        let mut at = self.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

fn damaged(texts: &[String], random: &mut Random) -> String {
    let mut text = texts[random.below(texts.len())].clone();
    for _ in 0..=random.below(6) {
        let (a, b) = (random.place(&text), random.place(&text));
        let range = a.min(b)..a.max(b).min(a.min(b) + 40);
        match random.below(4) {
            0 => text.insert_str(a, PIECES[random.below(PIECES.len())]),
            1 if text.is_char_boundary(range.end) => text.replace_range(range, ""),
            2 => {
                let other = &texts[random.below(texts.len())];
                let lines: Vec<&str> = other.lines().collect();
                let line = lines[random.below(lines.len())].to_owned();
                text.insert_str(a, &line);
            }
            _ => text.truncate(a),
        }
    }
    text
}

fn try_one(text: &str) {
    let request = request(text);
    let Err(errors) = build(None, &request) else {
        return;
    };
    assert!(!errors.is_empty(), "refused without a reason");
    for label in errors.iter().flat_map(|error| &error.labels) {
        let (range, file) = (&label.span.range, &label.span.file.text);
        assert!(
            range.start <= range.end && file.get(range.clone()).is_some(),
            "{range:?} is no place in the file"
        );
    }
}

#[test]
fn damaged_files_are_built_or_refused() {
    let texts: Vec<String> = cases()
        .iter()
        .map(|case| std::fs::read_to_string(case.join("Dockerfile")).unwrap())
        .filter(|text| text.len() < 10_000 && !text.trim().is_empty())
        .collect();
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
    loop {
        let text = damaged(&texts, &mut Random(seed));
        if let Err(panic) = std::panic::catch_unwind(|| try_one(&text)) {
            eprintln!("seed {seed}: {text:?}");
            std::panic::resume_unwind(panic);
        }
        seed += 1;
        let enough = match seconds {
            Some(seconds) => started.elapsed() >= Duration::from_secs(seconds),
            None => seed == 2_000,
        };
        if enough {
            break;
        }
    }
}

/// What damage once found.
#[test]
fn found_before() {
    for text in [
        "FROM scratch\nRUN --mount=from=busybox\u{e9},target=/x true\n",
        "FROM scratch\nRUN --mount=from=\u{e9} true\n",
    ] {
        try_one(text);
    }
}
