//! Projects to build, as data: a Dockerfile and the files beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A Dockerfile, its arguments and its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Project {
    /// The last is built.
    pub(super) stages: Vec<Stage>,
    /// `--build-arg`.
    pub(super) args: BTreeMap<String, u32>,
    /// The context's files by path. The directories of [`DIRS`] are always there.
    pub(super) files: BTreeMap<String, File>,
}

/// The context's directories.
pub(super) const DIRS: [&str; 3] = ["d0", "d1", "d1/sub"];
/// What the ignore file leaves out, wherever it is.
pub(super) const IGNORED: &str = "ignored";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) mode: u32,
    pub(super) text: String,
    /// Changed by `touch`, and by nothing else: seconds after a day in 2001.
    pub(super) age: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// A name that stays when stages change places.
    pub(super) name: String,
    /// The stage below it, or the base image.
    pub(super) below: Option<String>,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `ARG name=default`
    Arg(String, u32),
    /// `ENV name=value`
    Env(String, String),
    /// The others, by the number that tells them apart in what the build reports.
    Work(u32, Work),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// `COPY`, from a stage or the context.
    Copy {
        from: Option<String>,
        sources: Vec<String>,
        shared: bool,
        chmod: Option<u32>,
        link: bool,
    },
    /// `COPY <<E`, with a variable in it.
    Inline { text: String, variable: String },
    /// `WORKDIR`
    Workdir,
    /// `RUN`
    Run {
        mounts: Vec<Mount>,
        lines: Vec<Line>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mount {
    /// A cache that counts how often which step ran, at `/log`.
    Log,
    /// `source` of the context at `/ctx`.
    Context { source: String },
    /// `source` of a stage at `/stage`.
    Stage { from: String, source: String },
}

/// A line of a shell script. Inputs that are not there are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The SHA-256 of all inputs together.
    Hash {
        out: String,
        inputs: Vec<String>,
    },
    /// The length of all inputs together: the same for many.
    Count {
        out: String,
        inputs: Vec<String>,
    },
    /// The names in a directory.
    Names {
        out: String,
        dir: String,
    },
    /// The value of a variable.
    Variable {
        out: String,
        name: String,
    },
    Remove {
        path: String,
    },
    /// A file's mode.
    Mode {
        path: String,
        mode: u32,
    },
}

/// What a step is called in the build's progress: its text has this in it, and no other step's.
pub(super) fn mark(id: u32) -> String {
    format!("m{id}m")
}

/// The directory that steps share to write to.
pub(super) const SHARED: &str = "/all";

/// Where a copy goes: its own directory or the shared one, spelled so that both have the step's mark.
pub(super) fn destination(id: u32, shared: bool) -> String {
    match shared {
        true => format!("/{}/..{SHARED}/", mark(id)),
        false => format!("/{}/", mark(id)),
    }
}

impl Project {
    /// The Dockerfile upon `base`.
    pub(crate) fn dockerfile(&self, base: &str) -> String {
        let mut text = String::new();
        for stage in &self.stages {
            let below = stage.below.as_deref().unwrap_or(base);
            writeln!(text, "FROM {below} AS {}", stage.name).unwrap();
            for step in &stage.steps {
                text.push_str(&step.text());
                text.push('\n');
            }
        }
        text
    }

    /// Makes `dir`, which may have another project's files, this project's context.
    pub(crate) fn write(&self, dir: &Path, base: &str) {
        for name in ["f0", "f1", "d0", "d1", IGNORED] {
            let path = dir.join(name);
            drop(fs::remove_dir_all(&path));
            drop(fs::remove_file(&path));
        }
        for name in DIRS {
            let path = dir.join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (name, file) in &self.files {
            let path = dir.join(name);
            fs::write(&path, &file.text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
            let time = std::time::UNIX_EPOCH
                + std::time::Duration::from_secs(1_000_000_000 + u64::from(file.age));
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        fs::write(dir.join("Dockerfile"), self.dockerfile(base)).unwrap();
        let ignore = format!("Dockerfile\n.dockerignore\n**/{IGNORED}\n");
        fs::write(dir.join(".dockerignore"), ignore).unwrap();
    }

    /// Whether the step counts itself in a cache mount.
    pub(super) fn counts(&self, id: u32) -> bool {
        let steps = self.stages.iter().flat_map(|stage| &stage.steps);
        steps.into_iter().any(|step| match step {
            Step::Work(number, Work::Run { mounts, .. }) => {
                *number == id && mounts.contains(&Mount::Log)
            }
            _ => false,
        })
    }

    /// `--build-arg` and its values.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let args = self.args.iter();
        args.map(|(name, value)| format!("--build-arg={name}={value}"))
            .collect()
    }
}

impl Step {
    fn text(&self) -> String {
        match self {
            Self::Arg(name, default) => format!("ARG {name}={default}"),
            Self::Env(name, value) => format!("ENV {name}={value}"),
            Self::Work(id, work) => work.text(*id),
        }
    }
}

impl Work {
    fn text(&self, id: u32) -> String {
        match self {
            Self::Copy {
                from,
                sources,
                shared,
                chmod,
                link,
            } => {
                let mut text = String::from("COPY ");
                if let Some(from) = from {
                    write!(text, "--from={from} ").unwrap();
                }
                if let Some(mode) = chmod {
                    write!(text, "--chmod={mode:o} ").unwrap();
                }
                if *link {
                    text.push_str("--link ");
                }
                text + &sources.join(" ") + " " + &destination(id, *shared)
            }
            Self::Inline { text, variable } => {
                format!("COPY <<E /{}/inline\n{text} ${variable}\nE", mark(id))
            }
            Self::Workdir => format!("WORKDIR /{}", mark(id)),
            Self::Run { mounts, lines } => {
                let mut text = String::from("RUN ");
                for mount in mounts {
                    text.push_str(&match mount {
                        Mount::Log => "--mount=type=cache,id=log,target=/log ".to_owned(),
                        Mount::Context { source } => {
                            format!("--mount=type=bind,source=./{source},target=/ctx ")
                        }
                        Mount::Stage { from, source } => {
                            format!("--mount=type=bind,from={from},source={source},target=/stage ")
                        }
                    });
                }
                write!(text, "set -e; : {}", mark(id)).unwrap();
                if mounts.contains(&Mount::Log) {
                    write!(text, "; echo {} >> /log/ran", mark(id)).unwrap();
                }
                for line in lines {
                    write!(text, "; {}", line.text()).unwrap();
                }
                text
            }
        }
    }
}

impl Line {
    fn text(&self) -> String {
        let into = |out: &str, value: &str| {
            let (dir, _) = out.rsplit_once('/').unwrap();
            format!("v=\"{value}\"; mkdir -p {dir}; echo \"$v\" > {out}")
        };
        match self {
            Self::Hash { out, inputs } => {
                let inputs = inputs.join(" ");
                into(out, &format!("$(cat {inputs} 2>/dev/null | sha256sum)"))
            }
            Self::Count { out, inputs } => {
                let inputs = inputs.join(" ");
                into(out, &format!("$(cat {inputs} 2>/dev/null | wc -c)"))
            }
            Self::Names { out, dir } => into(out, &format!("$(ls -A {dir} 2>/dev/null || :)")),
            Self::Variable { out, name } => into(out, &format!("${name}")),
            Self::Remove { path } => format!("rm -rf {path}"),
            Self::Mode { path, mode } => {
                format!("if [ -f {path} ]; then chmod {mode:o} {path}; fi")
            }
        }
    }
}
