//! Random projects, and random changes to them.

use std::collections::BTreeMap;

use super::model;
use super::project::File;
use super::project::Line;
use super::project::Mount;
use super::project::Project;
use super::project::SHARED;
use super::project::Stage;
use super::project::Step;
use super::project::Work;

/// Numbers from a seed: SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

const FILES: [&str; 10] = [
    "f0",
    "f1",
    "d0/a",
    "d0/b",
    "d1/a",
    "d1/c",
    "d1/sub/a",
    "d1/sub/e",
    "ignored",
    "d0/ignored",
];
/// Files that copies name, and so are always there.
const NAMED: [&str; 3] = ["f0", "f1", "d0/a"];
const MODES: [u32; 4] = [0o644, 0o755, 0o600, 0o640];
const OUTPUTS: [&str; 7] = [
    "/all/o0",
    "/all/o1",
    "/all/sub/o2",
    "/out/o0",
    "/out/o3",
    "/out/sub/o1",
    "/out/sub/o4",
];

/// Makes projects, and changes them. Steps never get a number again that another had.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) random: Random,
    steps: u32,
    /// Whether steps count themselves in a cache mount.
    log: bool,
    texts: u32,
}

impl Maker {
    pub(crate) fn new(seed: u64, log: bool) -> Self {
        Self {
            random: Random::new(seed),
            steps: 0,
            log,
            texts: 0,
        }
    }

    /// A project that can be built.
    pub(crate) fn project(&mut self) -> Project {
        loop {
            let mut files = BTreeMap::new();
            for name in FILES {
                if NAMED.contains(&name) || self.random.percent(60) {
                    files.insert(name.to_owned(), self.file());
                }
            }
            let mut project = Project {
                stages: Vec::new(),
                args: BTreeMap::new(),
                files,
            };
            for at in 0..1 + self.random.below(4) {
                let below = project.stages.iter().map(|stage| stage.name.clone());
                let below: Vec<String> = below.collect();
                let below = match below.is_empty() || self.random.percent(70) {
                    true => None,
                    false => Some(self.random.pick(&below).clone()),
                };
                let name = format!("s{at}");
                let steps = Vec::new();
                project.stages.push(Stage { name, below, steps });
                for _ in 0..1 + self.random.below(5) {
                    let step = self.step(&project, at);
                    project.stages[at].steps.push(step);
                }
            }
            // What nobody looks at proves nothing.
            let whole = Step::Work(
                self.number(),
                Work::Run {
                    mounts: self.log(),
                    lines: vec![Line::Hash {
                        out: "/out/end".to_owned(),
                        inputs: OUTPUTS.map(str::to_owned).to_vec(),
                    }],
                },
            );
            project.stages.last_mut().unwrap().steps.push(whole);
            if model::evaluate(&project).is_some() {
                return project;
            }
        }
    }

    /// The project with one change, which can be built too; and what was changed.
    pub(crate) fn edit(&mut self, project: &Project) -> (String, Project) {
        loop {
            let mut edited = project.clone();
            let what = self.change(&mut edited);
            if edited != *project && model::evaluate(&edited).is_some() {
                return (what, edited);
            }
        }
    }

    fn change(&mut self, project: &mut Project) -> String {
        let name = (*self.random.pick(&FILES)).to_owned();
        match self.random.below(16) {
            0..=3 => {
                let file = self.file();
                project.files.insert(name.clone(), file);
                format!("write {name}")
            }
            4 => {
                if !NAMED.contains(&name.as_str()) {
                    project.files.remove(&name);
                }
                format!("remove {name}")
            }
            5 => {
                let to = (*self.random.pick(&FILES)).to_owned();
                if !NAMED.contains(&name.as_str())
                    && let Some(file) = project.files.remove(&name)
                {
                    project.files.insert(to.clone(), file);
                }
                format!("rename {name} to {to}")
            }
            6 => {
                let mode = *self.random.pick(&MODES);
                if let Some(file) = project.files.get_mut(&name) {
                    file.mode = mode;
                }
                format!("chmod {mode:o} {name}")
            }
            7 | 8 => {
                let age = self.random.below(1000) as u32;
                if let Some(file) = project.files.get_mut(&name) {
                    file.age = age;
                }
                format!("touch {name}")
            }
            9 => {
                let arg = format!("A{}", self.random.below(3));
                let value = self.random.below(4) as u32;
                project.args.insert(arg.clone(), value);
                format!("--build-arg={arg}={value}")
            }
            10 if project.stages.len() > 1 => {
                let at = self.random.below(project.stages.len() - 1);
                project.stages.swap(at, at + 1);
                format!("swap stages {at} and {}", at + 1)
            }
            11 => {
                let at = self.random.below(project.stages.len());
                let step = self.step(project, at);
                let steps = &mut project.stages[at].steps;
                let place = self.random.below(steps.len() + 1);
                steps.insert(place, step);
                format!("insert a step into stage {at} at {place}")
            }
            12 => {
                let at = self.random.below(project.stages.len());
                let steps = &mut project.stages[at].steps;
                let place = self.random.below(steps.len().max(1));
                if place < steps.len() {
                    steps.remove(place);
                }
                format!("remove step {place} of stage {at}")
            }
            13 => {
                let at = self.random.below(project.stages.len());
                let steps = &mut project.stages[at].steps;
                if steps.len() > 1 {
                    let place = self.random.below(steps.len() - 1);
                    steps.swap(place, place + 1);
                }
                format!("swap two steps of stage {at}")
            }
            _ => {
                let at = self.random.below(project.stages.len());
                let step = self.step(project, at);
                let steps = &mut project.stages[at].steps;
                let place = self.random.below(steps.len().max(1));
                // With the number of the one before: the same place, which may come to do the same.
                match (steps.get_mut(place), step) {
                    (Some(Step::Work(_, old)), Step::Work(_, new)) => *old = new,
                    (Some(old), new) => *old = new,
                    (None, _) => {}
                }
                format!("change step {place} of stage {at}")
            }
        }
    }

    fn file(&mut self) -> File {
        // Few texts, of few lengths: some changes come to the same.
        self.texts += 1;
        let text = match self.random.percent(50) {
            true => format!("text {}\n", self.random.below(4)),
            false => format!("text {:06}\n", self.texts),
        };
        let modes = match self.random.percent(80) {
            true => &MODES[..1],
            false => &MODES[..],
        };
        File {
            mode: *self.random.pick(modes),
            text,
            age: self.random.below(1000) as u32,
        }
    }

    fn number(&mut self) -> u32 {
        self.steps += 1;
        self.steps
    }

    fn log(&self) -> Vec<Mount> {
        match self.log {
            true => vec![Mount::Log],
            false => Vec::new(),
        }
    }

    /// A step for stage `at`. What it takes need not be there.
    fn step(&mut self, project: &Project, at: usize) -> Step {
        let earlier: Vec<&str> = project.stages[..at]
            .iter()
            .map(|s| s.name.as_str())
            .collect();
        let number = self.number();
        let work = match self.random.below(20) {
            0 => {
                let name = format!("A{}", self.random.below(3));
                return Step::Arg(name, self.random.below(4) as u32);
            }
            1 => {
                let name = format!("E{}", self.random.below(2));
                let value = match self.random.percent(50) {
                    true => format!("$A{}", self.random.below(3)),
                    false => self.random.below(4).to_string(),
                };
                return Step::Env(name, value);
            }
            2 => Work::Workdir,
            3 => Work::Inline {
                text: format!("line {}", self.random.below(3)),
                variable: self.variable(),
            },
            4..=7 => self.copy(),
            8..=11 if !earlier.is_empty() => Work::Copy {
                from: Some((*self.random.pick(&earlier)).to_owned()),
                sources: vec![self.path()],
                shared: self.random.percent(40),
                chmod: None,
                link: self.random.percent(20),
            },
            _ => self.run(&earlier),
        };
        Step::Work(number, work)
    }

    fn copy(&mut self) -> Work {
        let lists: [&[&str]; 8] = [
            &["f0"],
            &["f0", "f1"],
            &["d0"],
            &["d1"],
            &["d0", "d1"],
            &["d0/*"],
            &["d1/sub/"],
            &["."],
        ];
        let sources = self.random.pick(&lists);
        let files = sources.iter().all(|source| source.starts_with('f'));
        Work::Copy {
            from: None,
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            shared: self.random.percent(40),
            chmod: (files && self.random.percent(20)).then(|| *self.random.pick(&[0o755, 0o711])),
            link: self.random.percent(20),
        }
    }

    fn run(&mut self, earlier: &[&str]) -> Work {
        let mut mounts = self.log();
        if self.random.percent(25) {
            let source = *self.random.pick(&["", "d0", "d1", "d1/sub", "f1"]);
            mounts.push(Mount::Context {
                source: source.to_owned(),
            });
        }
        if !earlier.is_empty() && self.random.percent(25) {
            mounts.push(Mount::Stage {
                from: (*self.random.pick(earlier)).to_owned(),
                source: match self.random.percent(50) {
                    true => "/".to_owned(),
                    false => self.path(),
                },
            });
        }
        let lines = (0..1 + self.random.below(3)).map(|_| self.line(&mounts));
        let lines = lines.collect();
        Work::Run { mounts, lines }
    }

    fn line(&mut self, mounts: &[Mount]) -> Line {
        let out = (*self.random.pick(&OUTPUTS)).to_owned();
        match self.random.below(12) {
            0..=3 => Line::Hash {
                out,
                inputs: self.inputs(mounts),
            },
            4..=6 => Line::Count {
                out,
                inputs: self.inputs(mounts),
            },
            7 => Line::Names {
                out,
                dir: self.path(),
            },
            8 => Line::Variable {
                out,
                name: self.variable(),
            },
            9 | 10 => Line::Remove { path: self.path() },
            _ => Line::Mode {
                path: out,
                mode: *self.random.pick(&MODES),
            },
        }
    }

    fn inputs(&mut self, mounts: &[Mount]) -> Vec<String> {
        let mut inputs = vec![self.path() + "/a", (*self.random.pick(&OUTPUTS)).to_owned()];
        for mount in mounts {
            match mount {
                Mount::Log => {}
                Mount::Context { .. } => {
                    for name in ["", "/a", "/f0", "/d0/b", "/sub/a"] {
                        inputs.push(format!("/ctx{name}"));
                    }
                }
                Mount::Stage { .. } => {
                    for name in ["/o0", "/out/o3", "/sub/o1", "/all/o1", "/a"] {
                        inputs.push(format!("/stage{name}"));
                    }
                }
            }
        }
        inputs
    }

    /// A directory that may be there, or a file.
    fn path(&mut self) -> String {
        let shared = format!("{SHARED}/sub");
        let paths = [
            SHARED, &shared, "/out", "/out/sub", "/out/o3", "/all/o0", "/all/a",
        ];
        (*self.random.pick(&paths)).to_owned()
    }

    fn variable(&mut self) -> String {
        (*self.random.pick(&["A0", "A1", "A2", "E0", "E1"])).to_owned()
    }
}
