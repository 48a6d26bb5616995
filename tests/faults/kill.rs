//! `kill -9` at any moment.

use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::Victim;
use super::rounds;

/// What a build says to the process that it leaves behind, where nothing that can be made again is to stay.
const COLLECT_ALL: &str = r#"{"enabled":true,"reserved_space":{"Bytes":0},"max_used_space":{"Bytes":0},"keep_duration":0}"#;

/// Builds are killed, several of them on one store, and so are the syncs that follow a build.
#[test]
fn killed_at_any_moment() {
    let (count, seed) = rounds(10);
    let mut victim = Victim::new(seed);
    let mut longest = Duration::from_millis(300);
    for _ in 0..count {
        victim.change();
        let wait = longest.mul_f64(victim.maker.random.below(1000) as f64 / 1000.0);
        let mut build = victim.command();
        let mut build = build
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        // Neither asleep for too long nor busy: the moment counts.
        while begun.elapsed() < wait && build.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        build.kill().unwrap();
        build.wait().unwrap();
        let after = format!("a kill after {wait:?}");
        victim.may_be_clean_already(&after);
        let begun = Instant::now();
        victim.must_build(&after);
        longest = (longest * 7 + begun.elapsed()) / 8;
    }
    println!("{count} kills of builds, seed {seed}");
}

/// What makes a store durable, and what collects garbage in it, after a build or by hand.
#[test]
fn syncs_and_collectors_killed_at_any_moment() {
    let (count, seed) = rounds(5);
    let mut victim = Victim::new(seed);
    for _ in 0..count {
        victim.change();
        victim.must_build("a killed sync or collector");
        let root = victim.root.to_str().unwrap();
        let words = match victim.maker.random.percent(40) {
            true => ["__sync-store", root, COLLECT_ALL],
            false => ["prune", "--all", "--force"],
        };
        let mut killed = victim.env.rbuild_command(words);
        let mut killed = killed
            .env("RBUILD_ROOT", root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let wait = Duration::from_micros(victim.maker.random.below(30_000) as u64);
        std::thread::sleep(wait);
        killed.kill().unwrap();
        killed.wait().unwrap();
        victim.must_be_clean("a killed sync or collector");
    }
    victim.must_build("killed syncs and collectors");
    println!("{count} kills of syncs and collectors, seed {seed}");
}
