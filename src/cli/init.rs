//! `rbuild init`: a first plan for the project in a directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use rbuild_plan::init;
use rbuild_plan::init::FILES;
use rbuild_plan::init::Project;
use rbuild_plan::init::Start;

use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::ui;

/// What the plan is called, and where it is.
const PLAN: &str = "rbuild.toml";

/// More of a file than this is not read: a lock file says at its beginning what it is.
const LIMIT: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct InitFlags {
    /// The project's directory
    #[arg(default_value = ".", hide_default_value = true)]
    dir: PathBuf,
    /// Where the plan is written, or `-` for standard output [default: DIR/rbuild.toml]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// Writes a first plan.
pub(super) fn run(flags: &InitFlags) -> Result<(), BuildError> {
    let project = look(&flags.dir)?;
    let Start { text, kind, others } = init::start(&project);
    let others = others
        .iter()
        .map(|other| format!("; `{other}` is there as well, and not in the plan"));
    let others: String = others.collect();
    if flags.output.as_deref() == Some(Path::new("-")) {
        ui::say(&format!("for {kind}{others}"));
        return super::print(text.as_bytes());
    }
    let path = match &flags.output {
        Some(path) => path.clone(),
        None => tidy(&flags.dir).join(PLAN),
    };
    write(&path, &text, flags.force)?;
    ui::say(&format!(
        "wrote `{}` for {kind}{others}\nlook through it, then `rbuild build`\n",
        path.display()
    ));
    Ok(())
}

/// `./rbuild.toml` is shown as `rbuild.toml`.
fn tidy(dir: &Path) -> &Path {
    dir.strip_prefix(".").unwrap_or(dir)
}

fn look(dir: &Path) -> Result<Project, BuildError> {
    let failed = |path: &Path, source: io::Error| {
        let error = anyhow::Error::new(source).context(format!("cannot read `{}`", path.display()));
        BuildError::new(ErrorKind::Request, error)
    };
    let mut project = Project::default();
    let whole = fs::canonicalize(dir).map_err(|source| failed(dir, source))?;
    if let Some(name) = whole.file_name() {
        project.dir = name.to_string_lossy().into_owned();
    }
    for entry in fs::read_dir(dir).map_err(|source| failed(dir, source))? {
        let entry = entry.map_err(|source| failed(dir, source))?;
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            name.push('/');
        }
        project.names.insert(name);
    }
    let mut files = BTreeMap::new();
    for name in FILES
        .into_iter()
        .filter(|name| project.names.contains(*name))
    {
        let path = dir.join(name);
        let mut bytes = Vec::new();
        let file = fs::File::open(&path);
        file.and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
            .map_err(|source| failed(&path, source))?;
        files.insert(
            name.to_owned(),
            String::from_utf8_lossy(&bytes).into_owned(),
        );
    }
    project.files = files;
    Ok(project)
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), BuildError> {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => {
            let error = anyhow::anyhow!("`{}` is there already", path.display());
            BuildError::new(ErrorKind::Request, error)
                .hint("write over it with `--force`, or look at a new one with `-o -`")
        }
        _ => {
            let error =
                anyhow::Error::new(source).context(format!("cannot write `{}`", path.display()));
            BuildError::new(ErrorKind::Environment, error)
        }
    })
}
