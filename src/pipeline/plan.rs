//! Line 2 of the pipeline: finding and reading the plan file, its ignore file, and the context.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::Scratch;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Files;
use rbuild_llb::frontend::GitState;
use rbuild_llb::frontend::MainContext;

use super::files;
use super::files::Language;
use super::llb;
use super::lock;
use crate::ops::LocalRoot;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::BuildRequest;
use crate::request::ContextSource;
use crate::request::NamedContextSource;
use crate::request::PlanFile;

/// A Dockerfile or plan with what surrounds it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Arc<SourceFile>,
    pub(super) language: Language,
    pub(super) context: MainContext,
    pub(super) ignore: Option<Arc<SourceFile>>,
    /// Directories behind local sources.
    pub(super) locals: BTreeMap<String, LocalRoot>,
    /// Where the paths in a plan start from.
    pub(super) home: Home,
    /// Other files that a plan names.
    pub(super) files: Files,
    /// The state of the work tree, if the plan wants to know.
    pub(super) git: Option<GitState>,
    /// What identifies this plan among all plans of this machine.
    pub(super) identity: String,
    /// Where its lock file is or would be; `None` if it is in no directory of this machine.
    pub(super) lock_path: Option<PathBuf>,
    /// The lock file; of several plans, those that there are.
    pub(super) locks: Vec<Arc<SourceFile>>,
    /// Something worth saying about the choice.
    pub(super) remark: Option<String>,
}

/// The directory of a plan's file, which paths in it start from.
#[derive(Debug, Default)]
pub(super) struct Home {
    pub(super) dir: PathBuf,
    /// As the user knows it; also where outputs go.
    pub(super) shown: PathBuf,
    /// Set for a plan from elsewhere, which is kept to its own files and to the working directory.
    pub(super) fence: Option<Scratch>,
}

impl Home {
    pub(super) fn local(dir: PathBuf) -> Self {
        Self {
            shown: dir.clone(),
            dir,
            fence: None,
        }
    }

    /// A file or directory that the plan names.
    pub(super) fn find(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(name);
        if let Some(fence) = &self.fence {
            let inside = fs::canonicalize(fence.path())?;
            if !fs::canonicalize(&path)?.starts_with(inside) {
                let why = "it is outside of the context that the plan came with";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        Ok(path)
    }

    /// What messages call it.
    pub(super) fn shown(&self, name: &str) -> String {
        tidy(&self.shown.join(name)).display().to_string()
    }

    /// Where an output of the plan goes.
    pub(super) fn output(&self, to: &str) -> PathBuf {
        match &self.fence {
            None => self.shown.join(to),
            Some(_) => PathBuf::from(to),
        }
    }

    /// Whether an output may go there: a plan from elsewhere writes below the working directory only.
    pub(super) fn may_write(&self, to: &str) -> bool {
        let below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        self.fence.is_none() || Path::new(to).components().all(below)
    }
}

/// Tried in this order when `-f` is not given.
pub(super) const NAMES: [&str; 3] = ["rbuild.toml", "Dockerfile", "Containerfile"];

/// A file larger than this is no Dockerfile.
const LIMIT: u64 = 16 << 20;

/// Reads the plan of a context that is a directory; `None` if it is no directory, see [`remote`](super::remote).
pub(super) fn read(request: &BuildRequest) -> Result<Option<Plan>, BuildError> {
    if let Some(input) = &request.llb {
        return llb::read(request, input).map(Some);
    }
    let ContextSource::Directory(dir) = &request.context else {
        return Ok(None);
    };
    let mut remark = None;
    let (path, text) = match &request.file {
        Some(PlanFile::Url(_)) => return Ok(None),
        Some(PlanFile::Stdin) => (None, stdin()?),
        Some(PlanFile::Path(path)) => {
            let text = read_file(path)?.ok_or_else(|| missing(path))?;
            (Some(path.clone()), text)
        }
        None => {
            let (path, text, others) = find(dir)?;
            if let Some(other) = others {
                let message = format!(
                    "using `{}`; `{other}` is there as well (choose with `-f`)",
                    path.display()
                );
                remark = Some((other.to_string(), message));
            }
            (Some(path), text)
        }
    };
    let (name, identity) = match &path {
        Some(path) => {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            (path.display().to_string(), whole.display().to_string())
        }
        None => ("-".to_owned(), "-".to_owned()),
    };
    let mut plan = beside(request, dir, path.as_deref(), source_file(name, text))?;
    // A plan that names the other file uses it.
    if let Some((other, message)) = remark {
        plan.remark = (!plan.files.contains_key(&other)).then_some(message);
    }
    plan.identity = identity;
    Ok(Some(plan))
}

/// A Dockerfile that is given as text, with a directory as its context.
pub(super) fn inline(request: &BuildRequest, name: &str, text: &str) -> Result<Plan, BuildError> {
    let ContextSource::Directory(dir) = &request.context else {
        let error = anyhow::anyhow!(
            "the target `{name}` has its Dockerfile inline, and no directory as its context"
        );
        return Err(BuildError::new(ErrorKind::Request, error));
    };
    let source = source_file(format!("{name} (dockerfile-inline)"), text.to_owned());
    beside(request, dir, None, source)
}

/// What several plans of one build are together.
pub(super) fn together(request: &BuildRequest, plans: &[Plan]) -> Plan {
    let mut locks: Vec<Arc<SourceFile>> = Vec::new();
    for lock in plans.iter().flat_map(|plan| &plan.locks) {
        if !locks.iter().any(|have| have.name == lock.name) {
            locks.push(Arc::clone(lock));
        }
    }
    let identities = plans.iter().map(|plan| plan.identity.as_str());
    let source = source_file("bake".to_owned(), String::new());
    Plan {
        language: Language::of(&source),
        source,
        context: MainContext::Local,
        ignore: None,
        locals: BTreeMap::new(),
        home: match &request.context {
            ContextSource::Directory(dir) => Home::local(dir.clone()),
            ContextSource::Stdin | ContextSource::Remote(_) => Home::default(),
        },
        files: Files::default(),
        git: None,
        identity: identities.collect::<Vec<_>>().join(" "),
        lock_path: None,
        locks,
        remark: None,
    }
}

/// A plan with the directory `dir` as its context.
pub(super) fn beside(
    request: &BuildRequest,
    dir: &Path,
    path: Option<&Path>,
    source: Arc<SourceFile>,
) -> Result<Plan, BuildError> {
    check_directory(dir)?;
    let mut locals = named_directories(request)?;
    locals.insert(
        "context".to_owned(),
        LocalRoot {
            path: dir.to_owned(),
            shown: dir.display().to_string(),
        },
    );
    let own = match path.and_then(Path::parent) {
        Some(parent) => parent.to_owned(),
        None => dir.to_owned(),
    };
    let lock_path = lock::path(&own, path);
    let lock = read_file(&lock_path)?;
    let lock = lock.map(|text| lock::source_file(lock_path.display().to_string(), text));
    let (mut files, mut git) = (Files::default(), None);
    let language = Language::of(&source);
    let home = Home::local(own);
    if let Language::Plan(plan) = &language {
        files = files::read(plan, &source, &home, &request.set)?;
        git = files::git_state(&source, &files, &home.dir);
    }
    Ok(Plan {
        identity: source.name.clone(),
        context: MainContext::Local,
        ignore: read_ignore(path, dir)?,
        locals,
        home,
        files,
        git,
        source,
        language,
        lock_path: Some(lock_path),
        locks: lock.into_iter().collect(),
        remark: None,
    })
}

/// The plan as diagnostics show it.
pub(super) fn source_file(name: String, text: String) -> Arc<SourceFile> {
    let language = if name.ends_with(".toml") {
        "TOML"
    } else {
        "Dockerfile"
    };
    Arc::new(SourceFile {
        name,
        text,
        language,
    })
}

/// The directories that `--build-context` names.
pub(super) fn named_directories(
    request: &BuildRequest,
) -> Result<BTreeMap<String, LocalRoot>, BuildError> {
    let mut locals = BTreeMap::new();
    for (name, context) in &request.named_contexts {
        if let NamedContextSource::Directory(dir) = context {
            check_directory(dir)?;
            locals.insert(
                name.clone(),
                LocalRoot {
                    path: dir.clone(),
                    shown: dir.display().to_string(),
                },
            );
        }
    }
    Ok(locals)
}

fn check_directory(dir: &Path) -> Result<(), BuildError> {
    let shown = dir.display();
    let error = match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => anyhow::anyhow!("the context `{shown}` is not a directory"),
        Err(error) => {
            anyhow::Error::new(error).context(format!("cannot use the context `{shown}`"))
        }
    };
    Err(BuildError::new(ErrorKind::Request, error))
}

/// The first of the default names that is in `dir`, and another one if there are two.
fn find(dir: &Path) -> Result<(PathBuf, String, Option<&'static str>), BuildError> {
    check_directory(dir)?;
    let mut found: Option<(PathBuf, String)> = None;
    for name in NAMES {
        let path = tidy(&dir.join(name));
        match (read_file(&path)?, found.take()) {
            (Some(_), Some((path, text))) => return Ok((path, text, Some(name))),
            (Some(text), None) => found = Some((path, text)),
            (None, earlier) => found = earlier,
        }
    }
    found.map(|(path, text)| (path, text, None)).ok_or_else(|| {
        let names = NAMES.map(|name| format!("`{name}`")).join(", ");
        let error = anyhow::anyhow!("there is none of {names} in `{}`", dir.display());
        let error = BuildError::new(ErrorKind::Request, error);
        let mut bake_files = rbuild_bake::DEFAULT_FILES.iter();
        match bake_files.find(|name| dir.join(name).is_file()) {
            Some(name) => error.hint(format!(
                "`rbuild bake -f {}` builds what that file names",
                tidy(&dir.join(name)).display()
            )),
            None => error.hint("name the file with `-f`"),
        }
    })
}

/// `./Dockerfile` is shown as `Dockerfile`.
pub(super) fn tidy(path: &Path) -> PathBuf {
    path.strip_prefix(".")
        .map_or_else(|_| path.to_owned(), Path::to_owned)
}

fn missing(path: &Path) -> BuildError {
    let error = anyhow::anyhow!("`{}` does not exist", path.display());
    BuildError::new(ErrorKind::Request, error)
        .hint("`-f` is taken from the working directory, not from the context")
}

/// The text of a file, or `None` if there is none. Bytes that are not UTF-8 are replaced.
pub(super) fn read_file(path: &Path) -> Result<Option<String>, BuildError> {
    let fail = |error: io::Error| {
        let error = anyhow::Error::new(error).context(format!("cannot read `{}`", path.display()));
        BuildError::new(ErrorKind::Request, error)
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    read_text(file).map(Some).map_err(fail)
}

/// A plan that comes on standard input.
pub(super) fn stdin() -> Result<String, BuildError> {
    read_text(io::stdin()).map_err(|error| unreadable("standard input", error))
}

pub(super) fn unreadable(what: &str, error: io::Error) -> BuildError {
    let error = anyhow::Error::new(error).context(format!("cannot read {what}"));
    BuildError::new(ErrorKind::Request, error)
}

/// The text of a plan. Bytes that are not UTF-8 are replaced.
pub(super) fn read_text(from: impl io::Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 16 MiB",
        ));
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// `<plan>.dockerignore` beside the plan, else `.dockerignore` in the context.
pub(super) fn read_ignore(
    plan: Option<&Path>,
    context: &Path,
) -> Result<Option<Arc<SourceFile>>, BuildError> {
    let beside = plan.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside
        .into_iter()
        .chain([tidy(&context.join(".dockerignore"))])
    {
        if let Some(text) = read_file(&path)? {
            let name = path.display().to_string();
            return Ok(Some(Arc::new(SourceFile {
                name,
                text,
                language: "Dockerfile",
            })));
        }
    }
    Ok(None)
}
