//! Ignore files at random: whatever the text, its patterns are refused or decide every path, in bounded time and by the laws
//! that a reader of the file counts on.
//!
//! Files and paths come from a generator with a seed. `FUZZ_SECONDS=300 cargo test -p rbuild-llb fuzz` goes on for longer,
//! from another seed each time, which a failure names.

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use super::*;

/// What the lines of ignore files are made of.
const PIECES: [&str; 60] = [
    "*",
    "*",
    "**",
    "**/",
    "/**",
    "?",
    "/",
    "/",
    "a",
    "a",
    "b",
    "ab",
    "a/b",
    "c",
    ".",
    "..",
    "./",
    "../",
    "é",
    "x1",
    "_",
    "-",
    "[ab]",
    "[^a]",
    "[a-c]*",
    "[!a]",
    "[*]",
    "[[:alpha:]]",
    "[^/]",
    "[/]",
    "[",
    "]",
    "[a-",
    "\\",
    "\\*",
    "\\[",
    "\\d",
    "\\W",
    "\\b",
    "\\A",
    "\\x61",
    "\\012",
    "{2}",
    "{0,3}",
    "{1,}",
    "{",
    "}",
    "|",
    "^",
    "$",
    "(",
    ")",
    "+",
    "#",
    " ",
    "\t",
    "\r",
    "\u{feff}",
    "\0",
    "\u{a0}",
];

/// What the names in paths are made of.
const NAMES: [&str; 20] = [
    "a", "a", "b", "b", "c", "ab", "aa", "aab", "é", "x1", "_", "-", ".", " ", "*", "[", "\\",
    "\n", "^", "|",
];

/// What takes exponential time if a `*` is matched by trying, or much if counts are unrolled.
const HEAVY: [&str; 7] = ["*a", "**/a", "?*", "[ab]*", "a{0,1000}", "**a/", "b|*"];

/// Far more than any case takes, far less than one that blows up.
const TOO_LONG: Duration = Duration::from_secs(20);

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
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn pick(&mut self, pieces: &[&'static str]) -> &'static str {
        pieces[self.below(pieces.len())]
    }

    fn pattern(&mut self) -> String {
        let mut line = String::new();
        if self.below(3) == 0 {
            line.push('!');
        }
        if self.below(12) == 0 {
            let piece = self.pick(&HEAVY);
            line.push_str(&piece.repeat(1 + self.below(40)));
        }
        for _ in 0..self.below(5) {
            line.push_str(self.pick(&PIECES));
        }
        line
    }

    fn ignore_file(&mut self) -> String {
        let lines = (0..=self.below(6)).map(|_| self.pattern());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn path(&mut self) -> String {
        let mut names = Vec::new();
        for _ in 0..=self.below(4) {
            let mut name = String::new();
            for _ in 0..=self.below(2) {
                name.push_str(self.pick(&NAMES));
            }
            if self.below(20) == 0 {
                name = name.repeat(1 + self.below(60));
            }
            if !matches!(name.as_str(), "." | "..") {
                names.push(name);
            }
        }
        match names.is_empty() {
            true => "a".to_owned(),
            false => names.join("/"),
        }
    }
}

fn try_one(text: &str, paths: &[String], last: &str) {
    let started = Instant::now();
    let patterns = read_ignore_file(text);
    if !text.starts_with('\u{feff}') {
        let other = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        assert_eq!(read_ignore_file(&other), patterns, "with CRLF and BOM");
    }
    match PatternSet::new(&patterns) {
        Ok(set) => {
            for path in paths {
                order_decides(&set, &patterns, last, path);
            }
            for (include, exclude) in [
                (&[][..], &*patterns),
                (&*patterns, &[]),
                (&*patterns, &*patterns),
            ] {
                let selection = Selection::new(include, exclude);
                let Ok(selection) = selection else { continue };
                for path in paths {
                    pruning_changes_nothing(&selection, path);
                }
            }
        }
        Err(PatternError::Malformed { pattern, problem }) => {
            let source = patterns
                .iter()
                .any(|text| clean(text.trim()).contains(&pattern));
            assert!(source && !problem.is_empty(), "{pattern}: {problem}");
        }
        Err(PatternError::EmptyException) => {
            assert!(patterns.iter().any(|text| clean(text.trim()) == "!"));
        }
    }
    assert!(started.elapsed() < TOO_LONG, "{:?}", started.elapsed());
}

/// The last pattern that matches decides.
fn order_decides(set: &PatternSet, patterns: &[String], last: &str, path: &str) {
    let matched = set.matches(path);
    let with = |pattern: &str| {
        let longer: Vec<String> = [patterns, &[pattern.to_owned()]].concat();
        PatternSet::new(&longer)
    };
    assert!(with("**").unwrap().matches(path), "** takes all");
    assert!(!with("!**").unwrap().matches(path), "!** leaves all");
    if patterns
        .iter()
        .all(|text| !clean(text.trim()).starts_with('!'))
    {
        assert_eq!(walked(set, path), matched, "walked");
    }
    if let (Ok(more), Ok(alone)) = (with(last), PatternSet::new(&[last.to_owned()])) {
        let exception = clean(last.trim()).starts_with('!');
        let own = alone.patterns.iter().any(|one| one.matches_or_above(path));
        let expected = if own { !exception } else { matched };
        assert_eq!(more.matches(path), expected, "{last:?} at the end");
    }
}

/// A directory that is not entered has nothing in it that is selected.
fn pruning_changes_nothing(selection: &Selection, path: &str) {
    let (mut above, mut pruned) = (Above::default(), None);
    for (at, _) in path.match_indices('/') {
        let decision = selection.dir(&path[..at], &above);
        above = decision.above;
        if !decision.descend {
            pruned.get_or_insert(&path[..at]);
        }
        assert!(
            pruned.is_none() || !decision.selected,
            "{pruned:?} is not entered"
        );
    }
    assert!(
        pruned.is_none() || !selection.file(path, &above),
        "{pruned:?} is not entered"
    );
}

#[test]
fn random_files_decide_or_are_refused() {
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
        let mut random = Random(seed);
        let text = random.ignore_file();
        let paths: Vec<String> = (0..8).map(|_| random.path()).collect();
        let last = random.pattern();
        let tried = std::panic::catch_unwind(|| try_one(&text, &paths, &last));
        if let Err(panic) = tried {
            eprintln!("seed {seed}: {text:?} {paths:?} {last:?}");
            std::panic::resume_unwind(panic);
        }
        seed += 1;
        let enough = match seconds {
            Some(seconds) => started.elapsed() >= Duration::from_secs(seconds),
            None => seed == 1_000,
        };
        if enough {
            break;
        }
    }
}

/// What once went wrong: an exception of nothing but white space, and the end of a text that is optional.
#[test]
fn found_before() {
    let paths = ["a", "ab", "b/ab[", "x/jpg"].map(str::to_owned);
    for (text, last) in [
        ("!/\t/\n![\\*\n!]", "_"),
        ("a\n!ab\\[{0,3}\n*.jpe{0,1}g", "!ab\\[{0,3}"),
        ("\n\u{feff}**/a\n{0,3}b*", "*\\"),
    ] {
        try_one(text, &paths, last);
    }
}
