//! What may be reused, proven with random projects: after any change a build gives what an independent interpreter
//! ([`model`]) says, and carries out the steps that it says must run, and no others.
//!
//! Upon one store: changes and their reverts, several builders at once, and garbage collection with random policies.
//! [`engine`] does it in this process on a fake sandbox, [`program`] with the real program and real steps.

mod engine;
mod model;
pub(crate) mod program;
mod project;
mod random;

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use rbuild_cache::Policy;
use rbuild_cache::Select;
use rbuild_cache::Store;
use rustix::fs::XattrFlags;

use crate::support::Base;
use crate::support::TestEnv;
pub(crate) use model::Files;
use model::Memory;
use model::Outcome;
pub(crate) use project::Project;
pub(crate) use random::Maker;

/// Until when to go on, and the seed to begin with. `FUZZ_SECONDS` in the environment makes it long, and begins anew.
fn budget(seconds: u64) -> (Instant, u64) {
    #[expect(clippy::disallowed_methods, reason = "a test is told how long to run")]
    let asked = std::env::var("FUZZ_SECONDS").ok();
    let (seconds, seed) = match asked.and_then(|text| text.parse().ok()) {
        Some(asked) => {
            let now = std::time::SystemTime::now();
            let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            (asked, now.as_nanos() as u64)
        }
        None => (seconds, 1),
    };
    (Instant::now() + Duration::from_secs(seconds), seed)
}

/// What was done so far, shown when something is wrong.
struct Script(Vec<String>);

impl Script {
    #[track_caller]
    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n\nafter\n{}", self.0.join("\n"));
    }

    fn note(&mut self, what: &str, project: &Project) {
        let args = project.arguments().join(" ");
        let files = format!("{:?}", project.files);
        self.0.push(format!(
            "## {what}\n{args}\n{files}\n{}",
            project.dockerfile("base")
        ));
    }
}

fn difference(expected: &model::Files, got: &model::Files) -> Option<String> {
    let paths = expected.keys().chain(got.keys());
    let path = paths
        .into_iter()
        .find(|path| expected.get(*path) != got.get(*path))?;
    let show = |node: Option<&model::Node>| match node {
        None => "nothing".to_owned(),
        Some(model::Node::Dir(mode)) => format!("a directory {mode:o}"),
        Some(model::Node::File(mode, text)) => {
            format!("a file {mode:o} {:?}", String::from_utf8_lossy(text))
        }
    };
    Some(format!(
        "{path}: {} instead of {}",
        show(got.get(path)),
        show(expected.get(path))
    ))
}

/// What is wrong with the files of a build.
pub(crate) fn wrong_files(
    project: &Project,
    built: &program::Built,
    base: &Files,
) -> Option<String> {
    difference(
        &model::evaluate(project).unwrap().files,
        &built.own_files(base),
    )
}

/// A store, what must be known of it, and the projects that were built upon it.
struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
    maker: Maker,
    memory: Memory,
    history: Vec<Project>,
    script: Script,
    rounds: u64,
    seed: u64,
}

impl World {
    fn new(seed: u64, log: bool) -> Self {
        // A disk takes most of the time that the fake sandbox saves.
        let memory = tempfile::tempdir_in("/dev/shm").ok().filter(|dir| {
            let mark =
                rustix::fs::setxattr(dir.path(), "user.overlay.opaque", b"y", XattrFlags::empty());
            mark.is_ok()
        });
        let dir = memory.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let mut maker = Maker::new(seed, log);
        let project = maker.project();
        let mut script = Script(vec![format!("seed {seed}")]);
        script.note("new", &project);
        Self {
            root: dir.path().join("state"),
            _dir: dir,
            maker,
            memory: Memory::default(),
            history: vec![project],
            script,
            rounds: 0,
            seed,
        }
    }

    /// The next project: a change of the last one, or one that was built before.
    fn next(&mut self) -> Project {
        let project = match self.maker.random.percent(15) {
            true => {
                let project = self.maker.random.pick(&self.history).clone();
                self.script.note("back", &project);
                project
            }
            false => {
                let (what, project) = self.maker.edit(self.history.last().unwrap());
                self.script.note(&what, &project);
                project
            }
        };
        self.history.push(project.clone());
        project
    }
}

/// What a collector is told.
#[derive(Clone, Copy, Debug)]
struct Told {
    max_used: u64,
    all: bool,
    mounts: bool,
}

impl Told {
    fn make(random: &mut random::Random) -> Self {
        Self {
            max_used: match random.percent(30) {
                true => u64::MAX,
                false => random.below(3) as u64 * 100_000,
            },
            all: random.percent(50),
            mounts: random.percent(50),
        }
    }

    fn keeps_all(self) -> bool {
        self.max_used == u64::MAX
    }

    fn collect(self, root: &Path) {
        let policy = Policy {
            select: Select {
                all: self.all,
                mounts: self.mounts,
                ..Select::default()
            },
            max_used: Some(self.max_used),
            ..Policy::default()
        };
        Store::open(root).unwrap().collect(&policy).unwrap();
    }
}

/// Builds one or several projects at once, perhaps with a collector beside them, and compares.
fn round(world: &mut World) {
    // Every other world has one builder and no collector: there it is known exactly what must run.
    let crowded = world.seed.is_multiple_of(2);
    let builders = if crowded && world.maker.random.percent(30) {
        3
    } else {
        1
    };
    world.script.0.push(format!("# {builders} at once"));
    let projects: Vec<Project> = (0..builders).map(|_| world.next()).collect();
    let expected: Vec<Outcome> = projects
        .iter()
        .map(|project| model::evaluate(project).unwrap())
        .collect();
    let collect = match crowded && world.maker.random.percent(25) {
        true => Some(Told::make(&mut world.maker.random)),
        false => None,
    };
    if let Some(told) = collect {
        world.script.0.push(format!("## beside: {told:?}"));
        if !told.keeps_all() {
            world.memory.collected();
        }
    }
    let root = world.root.clone();
    let built: Vec<Result<engine::Built, String>> = std::thread::scope(|scope| {
        let collector = collect.map(|told| {
            let root = &root;
            scope.spawn(move || told.collect(root))
        });
        let builders: Vec<_> = projects
            .iter()
            .enumerate()
            .map(|(at, project)| {
                let (root, context) = (&root, context_of(&root, at));
                scope.spawn(move || engine::build(root, &context, project))
            })
            .collect();
        let built = builders
            .into_iter()
            .map(|builder| builder.join().unwrap())
            .collect();
        if let Some(collector) = collector {
            collector.join().unwrap();
        }
        built
    });
    for (at, built) in built.iter().enumerate() {
        let (files, ran, misses) = match built {
            Ok(built) => built,
            Err(error) => world.script.fail(&format!("builder {at}: {error}")),
        };
        if let Some(difference) = difference(&engine::digested(&expected[at].files), files) {
            world.script.fail(&format!("builder {at}: {difference}"));
        }
        let others: Vec<&Outcome> = expected
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .map(|(_, outcome)| outcome)
            .collect();
        if let Err(wrong) = world.memory.check(&expected[at], ran, &others) {
            world
                .script
                .fail(&format!("builder {at}: {wrong}\n{misses}"));
        }
    }
    for (expected, built) in expected.iter().zip(&built) {
        world.memory.ended(expected, &built.as_ref().unwrap().1);
    }
    if builders > 1 || collect.is_some_and(|told| !told.keeps_all()) {
        world.memory.collected();
    }
    world.rounds += 1;
}

/// One round with the real program: what builds say, what their steps did, and what a store says that knows nothing. In every
/// other world there are perhaps several of them at once, and `prune --all` beside them.
fn real_round(world: &mut World, env: &TestEnv, base: &model::Files) {
    let crowded = world.seed.is_multiple_of(2);
    let random = &mut world.maker.random;
    let builders = match crowded && random.percent(40) {
        true => 2 + random.below(2),
        false => 1,
    };
    let collects = (crowded && random.percent(30)).then(|| random.below(200) as u64);
    world.script.0.push(format!(
        "# {builders} at once, a collector after {collects:?} ms"
    ));
    let projects: Vec<Project> = (0..builders).map(|_| world.next()).collect();
    let expected: Vec<Outcome> = projects
        .iter()
        .map(|project| model::evaluate(project).unwrap())
        .collect();
    if collects.is_some() {
        world.memory.collected();
    }
    let state = world.root.clone();
    let build = |root: &Path, at: usize| {
        let context = context_of(&state, at);
        let out = state.with_file_name(format!("out{at}"));
        let mut command = program::command(env, &projects[at], root, &context, &out);
        program::finish(env, &mut command, &out)
    };
    let before = program::counted(&state);
    let (built, pruned) = std::thread::scope(|scope| {
        let (build, root) = (&build, &state);
        let builders: Vec<_> = (0..builders)
            .map(|at| scope.spawn(move || build(root, at)))
            .collect();
        let pruned = collects.map(|after| {
            std::thread::sleep(Duration::from_millis(after));
            let mut prune = env.rbuild_command(["prune", "--all", "--force"]);
            env.run(prune.env("RBUILD_ROOT", root))
        });
        let built = builders.into_iter().map(|builder| builder.join().unwrap());
        (built.collect::<Vec<_>>(), pruned)
    });
    if let Some(pruned) = pruned.filter(|pruned| !pruned.status.success()) {
        world.script.fail(&pruned.to_string());
    }
    let mut all = Vec::new();
    for (at, built) in built.into_iter().enumerate() {
        let fail = |why: String| -> ! { world.script.fail(&format!("builder {at}: {why}")) };
        let built = built.unwrap_or_else(|said| fail(said.to_string()));
        if let Some(difference) = difference(&expected[at].files, &built.own_files(base)) {
            fail(difference);
        }
        let others = expected
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        let others: Vec<&Outcome> = others.map(|(_, outcome)| outcome).collect();
        if let Err(wrong) = world.memory.check(&expected[at], &built.ran, &others) {
            fail(wrong);
        }
        all.push(built);
    }
    for (expected, built) in expected.iter().zip(&all) {
        world.memory.ended(expected, &built.ran);
    }
    if builders > 1 || collects.is_some() {
        world.memory.collected();
    }
    // What a collector takes is the cache mount with the counts, too.
    let counted = match collects {
        None => program::counted(&state),
        Some(_) => Default::default(),
    };
    for (id, times) in counted {
        let now = times - before.get(&id).copied().unwrap_or_default();
        let said = all.iter().filter_map(|built| built.ran.get(&id));
        let said: usize = said.sum();
        if projects.iter().any(|project| project.counts(id)) && now != said {
            let mark = project::mark(id);
            let wrong = format!("{mark} ran {now} times, and {said} are shown");
            world.script.fail(&wrong);
        }
    }
    let anew = world.maker.random.percent(25);
    if anew {
        let at = world.maker.random.below(builders);
        let fresh = world.root.with_file_name("fresh");
        let anew = build(&fresh, at).unwrap_or_else(|said| world.script.fail(&said.to_string()));
        if anew.digest != all[at].digest {
            world.script.fail(&format!(
                "{} from the cache, and {} from nothing",
                all[at].digest, anew.digest
            ));
        }
        // A process that nobody waits for may still write there.
        crate::faults::gone(&fresh);
        env.tool(
            "unshare",
            [
                "--map-root-user",
                "--map-auto",
                "rm",
                "-rf",
                fresh.to_str().unwrap(),
            ],
        )
        .success();
    }
    world.rounds += 1;
}

#[test]
fn the_program_runs_what_must_run() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let base = program::base(&env);
    let (end, mut seed) = budget(8);
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        let mut world = World::new(seed, true);
        world.root = env.outside(&format!("world{seed}/state"));
        for _ in 0..20 {
            if world.rounds == 0 || Instant::now() < end {
                real_round(&mut world, &env, &base);
            }
        }
        rounds += world.rounds;
        seed += 1;
    }
    println!("{rounds} rounds");
}

fn context_of(root: &Path, at: usize) -> PathBuf {
    let context = root.with_file_name(format!("ctx{at}"));
    std::fs::create_dir_all(&context).unwrap();
    context
}

#[test]
fn the_engine_runs_what_must_run() {
    let (end, mut seed) = budget(6);
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        let mut world = World::new(seed, false);
        for _ in 0..30 {
            round(&mut world);
        }
        rounds += world.rounds;
        seed += 1;
    }
    println!("{rounds} rounds");
}
