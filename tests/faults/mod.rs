//! What a store comes through: killed builds and syncs, full disks, system calls that fail, power cuts, odd times.
//!
//! Each round does something bad to a build of a random project, and then builds it again, undisturbed: that must work
//! and give what an interpreter of projects says (`reuse`), from time to time also what a store gives that knows nothing.
//! Nothing may be left mounted, no process may be left, and `debug fsck` must find nothing, which from time to time reads
//! the files of directory forms as well. In some rounds it also looks through what the fault left, before the build: there,
//! too, it finds nothing but after a power cut, and then takes it out.
//!
//! `FAULT_ROUNDS=1000` in the environment makes that many rounds of each, from new seeds.

mod kill;
mod machine;
mod power;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use crate::reuse;
use crate::reuse::Maker;
use crate::reuse::Project;
use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;

/// How many rounds to make, and the seed.
fn rounds(few: u64) -> (u64, u64) {
    #[expect(clippy::disallowed_methods, reason = "a test is told how long to run")]
    let asked = std::env::var("FAULT_ROUNDS").ok();
    match asked.and_then(|text| text.parse().ok()) {
        Some(asked) => {
            let now = std::time::SystemTime::now();
            let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            (asked, now.as_nanos() as u64)
        }
        None => (few, 1),
    }
}

/// A store, a project that changes, and what has become of them.
struct Victim {
    env: TestEnv,
    root: PathBuf,
    maker: Maker,
    project: Project,
    base: reuse::Files,
    rounds: u64,
    seed: u64,
}

impl Victim {
    fn new(seed: u64) -> Self {
        let env = TestEnv::new().bases([Base::Busybox]);
        let mut maker = Maker::new(seed, true);
        let project = maker.project();
        let base = reuse::program::base(&env);
        Self {
            root: env.outside("store"),
            env,
            maker,
            project,
            base,
            rounds: 0,
            seed,
        }
    }

    /// Another project after a few rounds, a change of it otherwise.
    fn change(&mut self) {
        self.rounds += 1;
        self.project = match self.rounds % 25 {
            0 => self.maker.project(),
            _ => self.maker.edit(&self.project).1,
        };
    }

    /// The command that builds the project.
    fn command(&self) -> Command {
        let (context, out) = (self.env.path("."), self.env.outside("out"));
        reuse::program::command(&self.env, &self.project, &self.root, &context, &out)
    }

    #[track_caller]
    fn wrong(&self, why: &str) -> ! {
        panic!(
            "seed {}, round {}: {why}\n\n{}",
            self.seed,
            self.rounds,
            self.project.dockerfile("busybox")
        );
    }

    /// An undisturbed build must work, and give the right thing.
    #[track_caller]
    fn must_build(&mut self, after: &str) {
        let out = self.env.outside("out");
        let built = match reuse::program::finish(&self.env, &mut self.command(), &out) {
            Ok(built) => built,
            Err(said) => self.wrong(&format!("after {after}: {}", errors(&said))),
        };
        self.must_be_right(&built, after);
        if self.maker.random.percent(5) {
            let root = std::mem::replace(&mut self.root, self.env.outside("fresh"));
            let anew = reuse::program::finish(&self.env, &mut self.command(), &out);
            let fresh = std::mem::replace(&mut self.root, root);
            let anew = anew.unwrap_or_else(|said| self.wrong(&errors(&said)));
            if anew.digest != built.digest {
                self.wrong(&format!(
                    "after {after}: {}, and {} from nothing",
                    built.digest, anew.digest
                ));
            }
            self.remove(&fresh);
        }
        self.nothing_is_left(after);
        self.must_be_clean(after);
    }

    /// Nothing in the store may be damaged.
    #[track_caller]
    fn must_be_clean(&mut self, after: &str) {
        let deep = self.maker.random.percent(20);
        let found = self.fsck(deep.then_some("--deep"));
        if !found.status.success() {
            self.wrong(&format!("after {after}: {found}"));
        }
    }

    /// The same of what a fault left, in some rounds.
    #[track_caller]
    fn may_be_clean_already(&mut self, after: &str) {
        if self.maker.random.percent(30) {
            self.must_be_clean(after);
        }
    }

    /// In some rounds, what a fault may have damaged is taken out by hand.
    #[track_caller]
    fn may_be_repaired(&mut self, after: &str) {
        if !self.maker.random.percent(30) {
            return;
        }
        let found = self.fsck(None);
        let repaired = self.fsck(Some("--repair"));
        if !matches!(found.status.code(), Some(0 | 1)) || !repaired.status.success() {
            self.wrong(&format!("after {after}: {found}\n{repaired}"));
        }
        self.must_be_clean(after);
    }

    fn fsck(&self, how: Option<&str>) -> Output {
        let root = self.root.to_str().unwrap();
        let words = ["debug", "fsck", "--root", root].into_iter().chain(how);
        self.env.rbuild(words)
    }

    /// What the last build of [`command`](Self::command) left must be right.
    #[track_caller]
    fn must_have_built(&self, after: &str) {
        self.must_be_right(&reuse::program::made(&self.env.outside("out")), after);
        self.nothing_is_left(after);
    }

    #[track_caller]
    fn must_be_right(&self, built: &reuse::program::Built, after: &str) {
        if let Some(difference) = reuse::wrong_files(&self.project, built, &self.base) {
            self.wrong(&format!("after {after}: {difference}"));
        }
    }

    /// Removes what may have files of other owners.
    fn remove(&self, path: &Path) {
        gone(path);
        if fs::remove_dir_all(path).is_ok() {
            return;
        }
        let options = ["--map-root-user", "--map-auto", "rm", "-rf"];
        let path = path.to_str().unwrap();
        self.env
            .tool("unshare", options.iter().chain([&path]))
            .success();
    }

    /// No mount and no process that has to do with the store, but for the sync of a build that ended well. What was killed
    /// ends on the kernel's own time.
    #[track_caller]
    fn nothing_is_left(&self, after: &str) {
        self.wait_for_the_end(after, false);
    }

    #[track_caller]
    fn wait_for_the_end(&self, after: &str, of_syncs: bool) {
        let root = self.root.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        if mounts.contains(&format!("{root}/")) {
            self.wrong(&format!("after {after}: something is mounted: {mounts}"));
        }
        let start = Instant::now();
        while let Some(process) = process_of(root, of_syncs) {
            if start.elapsed() > Duration::from_secs(60) {
                self.wrong(&format!("after {after}: `{process}` is still running"));
            }
            std::thread::yield_now();
        }
    }
}

/// Waits for the processes that have to do with a store: one that nobody waits for may still write there.
#[track_caller]
pub(crate) fn gone(root: &Path) {
    let root = root.to_str().unwrap();
    let start = Instant::now();
    while let Some(process) = process_of(root, true) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "`{process}` is still running"
        );
        std::thread::yield_now();
    }
}

/// A process that has the path on its command line or in its environment.
fn process_of(path: &str, of_syncs: bool) -> Option<String> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let has = |file: &str| {
            fs::read(entry.path().join(file))
                .ok()
                .map(|text| String::from_utf8_lossy(&text).replace('\0', " "))
                .filter(|text| text.contains(path))
        };
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let found = has("cmdline").or_else(|| has("environ"))?;
        (of_syncs || !is_sync(&entry.path())).then_some(found)
    })
}

fn is_sync(process: &Path) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|word| word == b"__sync-store")
}

/// What a build said, without its progress.
fn errors(said: &Output) -> String {
    let lines = said.to_string();
    let lines = lines.lines().filter(|line| !line.starts_with('{'));
    lines.collect::<Vec<_>>().join("\n")
}
