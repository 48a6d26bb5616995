//! What a plan names besides sources: other files, directories, the state of its git work tree.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::Op;
use rbuild_llb::SourceFile;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::frontend::Files;
use rbuild_llb::frontend::GitState;
use rbuild_llb::op::SourceOp;
use rbuild_plan::FileKind;

use super::llb::Graph;
use super::plan;
use crate::ops::LocalRoot;
use crate::outcome::BuildError;

/// More files than this no plan includes.
const MAX_FILES: usize = 1000;

/// Whether a file is a plan, and not a Dockerfile.
pub(super) fn is_plan(source: &SourceFile) -> bool {
    source.language == "TOML"
}

/// The language of a file, by the frontend that reads it. One is asked several things of one file, which it reads once.
#[derive(Debug)]
pub(super) enum Language {
    Dockerfile(Dockerfile),
    Plan(Box<rbuild_plan::Plan>),
    /// A graph of another client.
    Llb(Box<Graph>),
}

impl Language {
    pub(super) fn of(source: &SourceFile) -> Self {
        match is_plan(source) {
            true => Self::Plan(Box::default()),
            false => Self::Dockerfile(Dockerfile::default()),
        }
    }

    pub(super) fn frontend(&self) -> &dyn Frontend {
        match self {
            Self::Dockerfile(dockerfile) => dockerfile,
            Self::Plan(plan) => plan.as_ref(),
            Self::Llb(graph) => graph.as_ref(),
        }
    }
}

/// Reads the files that a plan names, and those that they name. What is not there is left to
/// the frontend to report.
pub(super) fn read(
    language: &rbuild_plan::Plan,
    source: &Arc<SourceFile>,
    home: &plan::Home,
    settings: &[String],
) -> Result<Files, BuildError> {
    let mut files: BTreeMap<String, Arc<SourceFile>> = BTreeMap::new();
    let mut open = language.needs(source, "", settings);
    while let Some(need) = open.pop() {
        if files.contains_key(&need.path) || files.len() >= MAX_FILES {
            continue;
        }
        let shown = home.shown(&need.path);
        let path = match home.find(&need.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            found => found.map_err(|error| plan::unreadable(&shown, error))?,
        };
        let Some(text) = plan::read_file(&path)? else {
            continue;
        };
        let file = Arc::new(SourceFile {
            name: shown,
            text,
            language: match need.kind {
                FileKind::Plan => "TOML",
                FileKind::Dockerfile | FileKind::Ignore => "Dockerfile",
            },
        });
        if need.kind == FileKind::Plan {
            let inner = match need.path.rsplit_once('/') {
                Some((inner, _)) => inner,
                None => ".",
            };
            open.extend(language.needs(&file, inner, &[]));
        }
        files.insert(need.path, file);
    }
    Ok(Arc::new(files))
}

/// The state of the git work tree that `dir` is in, if some value of the plan names it.
pub(super) fn git_state(source: &SourceFile, files: &Files, dir: &Path) -> Option<GitState> {
    let mut texts = files.values().map(|file| &file.text);
    if !rbuild_plan::names_git(&source.text) && !texts.any(|text| rbuild_plan::names_git(text)) {
        return None;
    }
    let output = Command::new("git")
        .arg("-C")
        .arg(match dir.as_os_str().is_empty() {
            true => Path::new("."),
            false => dir,
        })
        .args(["log", "-1", "--decorate=full", "--format=%H%n%D"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (commit, names) = text.split_once('\n')?;
    let mut branch = None;
    let mut tags: Vec<String> = Vec::new();
    for name in names.trim().split(", ") {
        if let Some(head) = name.strip_prefix("HEAD -> refs/heads/") {
            branch = Some(head.to_owned());
        }
        tags.extend(name.strip_prefix("tag: refs/tags/").map(str::to_owned));
    }
    // Of several tags of one commit, the last by name: `v1.2` rather than `latest`.
    tags.sort();
    Some(GitState {
        commit: commit.to_owned(),
        branch,
        tag: tags.pop(),
    })
}

/// The directories behind all local sources of a graph: those that the request names, and those that the plan does.
pub(super) fn locals(
    plan: &plan::Plan,
    definition: &PrunedDefinition,
) -> Result<BTreeMap<String, LocalRoot>, BuildError> {
    let mut locals = plan.locals.clone();
    if !matches!(plan.language, Language::Plan(_)) {
        return Ok(locals);
    }
    let mut errors = Vec::new();
    for (_, vertex) in definition.iter() {
        let Op::Source(SourceOp::Local(local)) = &vertex.op else {
            continue;
        };
        let shown = plan.home.shown(&local.name);
        let found = plan.home.find(&local.name).and_then(|path| {
            let metadata = std::fs::metadata(&path)?;
            Ok((path, metadata.is_dir()))
        });
        let problem = match found {
            Ok((path, true)) => {
                locals.insert(local.name.clone(), LocalRoot { path, shown });
                continue;
            }
            Ok((_, false)) => "is not a directory".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "does not exist".to_owned()
            }
            Err(error) => format!("cannot be used: {error}"),
        };
        let message = format!("the directory `{shown}` {problem}");
        errors.push(match vertex.meta.spans.first() {
            Some(span) => Diagnostic::error(message, span.clone(), ""),
            None => Diagnostic::unplaced(message),
        });
    }
    match errors.is_empty() {
        true => Ok(locals),
        false => Err(BuildError::request(errors)),
    }
}
