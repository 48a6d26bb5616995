//! Errors of the rooms below as what the user is told: whose turn it is, where, and what to do.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::Definition;
use rbuild_llb::Diagnostic;
use rbuild_llb::Op;
use rbuild_llb::Span;
use rbuild_llb::Vertex;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::PatternError;
use rbuild_llb::suggest;

use super::plan::Plan;
use crate::exporter::ExportError;
use crate::ops::Engine;
use crate::ops::OpError;
use crate::ops::copy::CopyError;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::outcome::StepFailure;
use crate::registry::RegistryError;
use crate::request::Settings;
use crate::sandbox::Rung;
use crate::sandbox::Sandbox;
use crate::sandbox::SandboxError;
use crate::solver;
use crate::solver::PlanError;
use crate::solver::SolveError;

pub(super) fn store(error: rbuild_cache::StoreError) -> BuildError {
    BuildError::new(ErrorKind::Environment, error)
}

pub(super) fn blob(error: rbuild_cache::BlobError) -> BuildError {
    BuildError::new(ErrorKind::Environment, error)
}

/// What to do where the disk of the store is what a build failed for. A step's program says so in words of its own, if at
/// all: `filled` if the disk was full then.
pub(super) fn full_disk(
    error: &BuildError,
    store: &rbuild_cache::Store,
    filled: bool,
) -> Option<String> {
    use std::io::ErrorKind::QuotaExceeded;
    use std::io::ErrorKind::StorageFull;
    let causes = || error.source.iter().flat_map(anyhow::Error::chain);
    let said = causes()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| matches!(cause.kind(), StorageFull | QuotaExceeded));
    // Where something was to go may have a disk of its own.
    let written = causes().find_map(|cause| match cause.downcast_ref()? {
        ExportError::Write { path, .. } => Some(path.as_path()),
        ExportError::Stdout(_) => Some(Path::new("/dev/stdout")),
        _ => None,
    });
    if written.is_some_and(|path| !is_beside(path, store.path())) {
        return None;
    }
    (said || filled && error.kind == ErrorKind::Step).then(|| {
        format!(
            "the disk of the store `{}` is full: `rbuild prune` frees what can be made again, `--root` chooses another \
             place",
            store.path().display()
        )
    })
}

/// Whether what is, or would be, at a path is on the disk of a directory.
fn is_beside(path: &Path, dir: &Path) -> bool {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = whole.ancestors().find_map(|path| fs::metadata(path).ok());
    let disks = there.zip(fs::metadata(dir).ok());
    disks.is_some_and(|(file, dir)| file.dev() == dir.dev())
}

pub(super) fn registry(error: RegistryError) -> BuildError {
    let hint = error.hint();
    let error = BuildError::new(ErrorKind::Environment, error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The same of what is sent: no other host, and nothing that is there already, will do for it.
pub(super) fn sending(error: RegistryError) -> BuildError {
    let unreachable = matches!(error, RegistryError::Unreachable { .. });
    let mut error = registry(error);
    if unreachable {
        error.hints = vec!["proxies are taken from HTTPS_PROXY and HTTP_PROXY".to_owned()];
    }
    error
}

pub(super) fn sandbox(error: SandboxError) -> BuildError {
    let hint = error.hint();
    // As `docker run` has it, what is wrong with the program is told from what rbuild cannot do.
    let kind = error
        .exit_code()
        .map_or(ErrorKind::Environment, ErrorKind::Program);
    let mut error = BuildError::new(kind, error);
    error.hints.extend(hint);
    error
}

/// Refuses steps that would run with one id where more are asked for.
pub(super) fn enough_ids(settings: &Settings, sandbox: &Sandbox) -> Result<(), BuildError> {
    if !settings.ranges_only || sandbox.rung() == Rung::Full {
        return Ok(());
    }
    let rung = match sandbox.rung() {
        Rung::Full => 1,
        Rung::Single => 2,
        Rung::Chroot | Rung::None => 3,
    };
    let error = anyhow::anyhow!("steps would run on rung {rung}, which `--min-rung=1` refuses");
    let error = BuildError::new(ErrorKind::Environment, error);
    Err(sandbox.remark().into_iter().fold(error, BuildError::hint))
}

pub(super) fn export(error: ExportError) -> BuildError {
    match error {
        ExportError::Cancelled => BuildError::interrupted(),
        ExportError::Registry(error) => sending(error),
        ExportError::Several(errors) => several(errors.into_iter().map(export).collect()),
        ExportError::NoIndex => BuildError::new(ErrorKind::Request, error)
            .hint("use `-o type=oci,dest=FILE`, push, or build one platform at a time"),
        ExportError::Overlap { .. } => BuildError::new(ErrorKind::Request, error)
            .hint("leave `platform-split=false` out, and each has a directory of its own"),
        ExportError::NoContext { .. } => BuildError::new(ErrorKind::Environment, error)
            .hint("`docker context ls` lists those there are"),
        ExportError::NoLoader => BuildError::new(ErrorKind::Environment, error)
            .hint("write a file with `-o type=docker,dest=image.tar` and load it where docker is"),
        error => BuildError::new(ErrorKind::Environment, error),
    }
}

/// What went wrong at the same time, of which there is something, as one: the first is what ends the command, and the others
/// are findings beside it.
pub(super) fn several(errors: Vec<BuildError>) -> BuildError {
    let mut errors = errors.into_iter();
    let first = errors.next();
    let mut all = first.expect("who has no errors does not ask for one");
    for error in errors {
        if error.kind == ErrorKind::Interrupted {
            return error;
        }
        all.diagnostics.extend(error.diagnostics);
        if let Some(source) = error.source {
            all.diagnostics.push(Diagnostic {
                hints: error.hints,
                ..Diagnostic::unplaced(format!("{source:#}"))
            });
        }
    }
    all
}

/// The same of files that the text at `span` asks for.
pub(super) fn export_files(error: ExportError, span: &Span) -> BuildError {
    match error {
        ExportError::NotInStep { .. } => {
            let diagnostic = Diagnostic::error(error.to_string(), span.clone(), "");
            BuildError::request(vec![diagnostic])
        }
        error => export(error),
    }
}

/// Adds where an input was named.
pub(super) fn at(mut error: BuildError, span: Option<&Span>) -> BuildError {
    if let Some(span) = span
        && let Some(source) = error.source.take()
    {
        let mut chain = source.chain().map(ToString::to_string);
        let message = chain.next().unwrap_or_default();
        let label = chain.last().unwrap_or_default();
        let mut diagnostic = Diagnostic::error(message, span.clone(), label);
        diagnostic.hints = std::mem::take(&mut error.hints);
        error.diagnostics.push(diagnostic);
    }
    error
}

/// The same of a source that cannot be had.
pub(super) fn pinning(error: BuildError, request: &SourceRequest) -> BuildError {
    let mut error = at(error, request.span.as_ref());
    if let Some(stage) = &request.near
        && let Some(found) = error.diagnostics.first_mut()
    {
        let hint = format!("did you mean the stage `{stage}`?");
        found.hints.insert(0, hint);
    }
    error
}

/// An error of line 8 of the pipeline: of no step, but perhaps of what one took or gave.
pub(super) fn assembling(error: OpError, definition: &Definition) -> BuildError {
    match &error {
        OpError::Base { image, .. } => {
            let span = base_span(definition, image).cloned();
            at(op(error), span.as_ref())
        }
        _ => op(error),
    }
}

/// Where an image is named.
fn base_span<'a>(definition: &'a Definition, image: &str) -> Option<&'a Span> {
    let names = |op: &Op| match op {
        Op::Source(SourceOp::Image(source)) => {
            image == source.reference
                || image
                    .strip_prefix(&source.reference)
                    .is_some_and(|rest| rest.starts_with('@'))
        }
        Op::Source(SourceOp::OciLayout(layout)) => {
            image.strip_prefix("oci-layout://") == Some(&layout.path)
        }
        _ => false,
    };
    let (_, vertex) = definition.iter().find(|(_, vertex)| names(&vertex.op))?;
    vertex.meta.spans.first()
}

/// A file that changed is whoever's who is changing it: to run the build again is enough.
fn changed(path: &std::path::Path, span: &Span, source: Option<&std::io::Error>) -> BuildError {
    let message = format!("`{}` changed while it was read", path.display());
    let label = source.map_or_else(String::new, ToString::to_string);
    let diagnostic = Diagnostic::error(message, span.clone(), label)
        .hint("build again once nothing writes to it, or add it to `.dockerignore`");
    BuildError {
        kind: ErrorKind::Step,
        ..BuildError::request(vec![diagnostic])
    }
}

/// An error that belongs to no step.
pub(super) fn op(error: OpError) -> BuildError {
    match error {
        OpError::Changed {
            path, span, source, ..
        } => changed(&path, &span, source.as_ref()),
        OpError::Base { ref source, .. } => {
            let hint = match &**source {
                OpError::Registry(error) => error.hint(),
                _ => None,
            };
            let mut error = BuildError::new(ErrorKind::Environment, error);
            error.hints.extend(hint);
            error
        }
        OpError::Cancelled => BuildError::interrupted(),
        OpError::Registry(error) => registry(error),
        OpError::Sandbox(SandboxError::Cancelled) => BuildError::interrupted(),
        OpError::Sandbox(error) => sandbox(error),
        OpError::Layer(rbuild_cache::LayerError::Cancelled) => BuildError::interrupted(),
        error => {
            let kind = kind(&error);
            BuildError::new(kind, error)
        }
    }
}

fn kind(error: &OpError) -> ErrorKind {
    match error {
        OpError::Failed { .. } => ErrorKind::Step,
        OpError::Copy(CopyError::Tree(_)) => ErrorKind::Environment,
        OpError::Copy(_)
        | OpError::Owner(_)
        | OpError::NoContext
        | OpError::GitReference { .. }
        | OpError::GitChecksum { .. }
        | OpError::Pattern(_)
        | OpError::SshAgent { .. }
        | OpError::Unsupported { .. }
        | OpError::Secret { .. }
        | OpError::SshKeys { .. } => ErrorKind::Request,
        OpError::Context(error) if error.is_request() => ErrorKind::Request,
        OpError::Cancelled => ErrorKind::Interrupted,
        _ => ErrorKind::Environment,
    }
}

pub(super) fn signals(error: std::io::Error) -> BuildError {
    thread(error, "cannot listen for signals")
}

/// What needs a thread could not be done.
pub(super) fn thread(error: std::io::Error, what: impl Into<String>) -> BuildError {
    let refused = error.kind() == std::io::ErrorKind::WouldBlock;
    let error = anyhow::Error::new(error).context(what.into());
    let error = BuildError::new(ErrorKind::Environment, error);
    match refused {
        true => error.hint(
            "no more threads are to be had: raise `ulimit -u`, or `pids.max` of the cgroup (of a container: `--pids-limit`)",
        ),
        false => error,
    }
}

pub(super) fn plan(error: PlanError<OpError>, definition: &Definition, plan: &Plan) -> BuildError {
    match definition.get(&error.vertex) {
        Some(vertex) => step(error.source, vertex.meta.spans.first(), vertex, plan),
        None => op(error.source),
    }
}

pub(super) fn solve(
    error: SolveError<OpError>,
    engine: &Engine<'_>,
    definition: &Definition,
    plan: &Plan,
) -> BuildError {
    match error {
        SolveError::Cancelled => BuildError::interrupted(),
        SolveError::Failed {
            vertex: id, source, ..
        } => match definition.get(&id) {
            Some(vertex) => {
                let span = vertex.meta.spans.first();
                if let OpError::Failed { exit, .. } = &source {
                    return BuildError::step(StepFailure {
                        vertex: solver::event_digest(&id),
                        name: vertex.meta.name.clone(),
                        ended: exit.to_string(),
                        span: span.cloned(),
                        offline: has_no_network(vertex),
                        enterable: engine.is_enterable(&id),
                    });
                }
                if let OpError::Sandbox(error) = &source
                    && error.exit_code().is_some()
                {
                    // A command that is not there, or cannot be executed, is the step's failure as any exit code.
                    let failed = BuildError::step(StepFailure {
                        vertex: solver::event_digest(&id),
                        name: vertex.meta.name.clone(),
                        ended: error.to_string(),
                        span: span.cloned(),
                        offline: has_no_network(vertex),
                        enterable: engine.is_enterable(&id),
                    });
                    return match error.hint() {
                        Some(hint) => failed.hint(hint),
                        None => failed,
                    };
                }
                if let OpError::Base { .. } = &source {
                    return assembling(source, definition);
                }
                step(source, span, vertex, plan)
            }
            None => op(source),
        },
        SolveError::Thread { name, source } => {
            thread(source, format!("cannot start a thread for `{name}`"))
        }
        error => BuildError::new(
            ErrorKind::Environment,
            anyhow::Error::msg(error.to_string()),
        ),
    }
}

pub(super) fn has_no_network(vertex: &Vertex) -> bool {
    matches!(&vertex.op, Op::Exec(exec) if exec.network == NetworkMode::None)
}

/// An error of a step that did not come from a process: shown at its instruction.
fn step(error: OpError, span: Option<&Span>, vertex: &Vertex, plan: &Plan) -> BuildError {
    let Some(span) = span else { return op(error) };
    let (needle, message, label, hint) = match &error {
        OpError::Copy(CopyError::NotFound { src }) => {
            let written = written(span, src);
            let ignored = ignored(plan, src);
            let what = vertex
                .meta
                .name
                .split_whitespace()
                .find(|word| matches!(*word, "COPY" | "ADD" | "RUN"))
                .unwrap_or("COPY");
            let message = format!("`{what}` source `{written}` is not in {}", place(vertex));
            let label = match ignored {
                Some(_) => "nothing matches after `.dockerignore`",
                None => "nothing matches",
            };
            let from_context = place(vertex) == CONTEXT;
            let hint = ignored.or_else(|| match from_context {
                true if written.starts_with("..") => Some(format!(
                    "`..` stops at the context: `{written}` is `{src}` in it. Files from elsewhere take \
                     `--build-context NAME=DIR` and `--from=NAME`"
                )),
                true => near(plan, src),
                false => None,
            });
            (Some(written), message, label.to_owned(), hint)
        }
        OpError::Copy(CopyError::Pattern(PatternError::Malformed { pattern, .. })) => (
            Some(pattern.clone()),
            error.to_string(),
            String::new(),
            None,
        ),
        OpError::Copy(CopyError::Tree(_)) => return op(error),
        OpError::NoContext => (
            None,
            error.to_string(),
            String::new(),
            Some(
                "a directory: `rbuild -f - DIRECTORY`; or pipe in a tar that holds the Dockerfile"
                    .into(),
            ),
        ),
        OpError::SshAgent { .. } => (
            Some("required".to_owned()),
            error.to_string(),
            String::new(),
            Some("name one with `--ssh ID`, `--ssh ID=SOCKET` or `--ssh ID=KEY`; without `required` the step runs without it".into()),
        ),
        OpError::Secret { id } => (
            Some(format!("id={id}")),
            error.to_string(),
            String::new(),
            Some(format!(
                "give it: `--secret id={id},src=FILE` or `--secret id={id},env=VARIABLE`"
            )),
        ),
        OpError::Copy(_)
        | OpError::Owner(_)
        | OpError::Pattern(_)
        | OpError::Unsupported { .. }
        | OpError::SshKeys { .. } => (None, error.to_string(), String::new(), None),
        OpError::Git { .. }
        | OpError::GitReference { .. }
        | OpError::GitChecksum { .. }
        | OpError::NoGit { .. }
        | OpError::Offline { .. }
        | OpError::Registry(_) => return at(op(error), Some(span)),
        _ => return op(error),
    };
    let mut narrowed = span.clone();
    if let Some(needle) = needle
        && let Some(at) = find_word(span.text(), &needle)
    {
        narrowed.range = span.range.start + at..span.range.start + at + needle.len();
    }
    let mut diagnostic = Diagnostic::error(message, narrowed, label);
    diagnostic.hints.extend(hint);
    BuildError::request(vec![diagnostic])
}

/// A source as the user wrote it: the graph has it cleaned and absolute.
fn written(span: &Span, src: &str) -> String {
    let clean = crate::ops::copy::clean(src);
    let mut words = span
        .text()
        .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '='));
    words
        .find(|word| !word.is_empty() && crate::ops::copy::clean(word) == clean)
        .unwrap_or(src)
        .to_owned()
}

/// Where `needle` stands as a word of its own.
fn find_word(text: &str, needle: &str) -> Option<usize> {
    let separate = |c: Option<char>| {
        c.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '='))
    };
    text.match_indices(needle).map(|(at, _)| at).find(|&at| {
        separate(text[..at].chars().next_back())
            && separate(text[at + needle.len()..].chars().next())
    })
}

fn place(vertex: &Vertex) -> &'static str {
    if vertex.meta.name.contains("--from") {
        "what it copies from"
    } else {
        CONTEXT
    }
}

const CONTEXT: &str = "the build context";

/// What lies in the context under nearly the same name.
fn near(plan: &Plan, src: &str) -> Option<String> {
    let root = &plan.locals.get("context")?.path;
    let names: Vec<&str> = src.split('/').filter(|name| !name.is_empty()).collect();
    let missing = (0..names.len()).find(|&at| {
        let path: PathBuf = names[..=at].iter().collect();
        !root.join(path).exists()
    })?;
    let dir: PathBuf = names[..missing].iter().collect();
    let typed = names[missing];
    let there: Vec<String> = fs::read_dir(root.join(&dir))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    // In the order of no file system.
    let there = there.iter().map(String::as_str).collect::<BTreeSet<_>>();
    let same = there.iter().find(|name| name.eq_ignore_ascii_case(typed));
    let name = match same {
        Some(name) => name,
        None => suggest::nearest_name(typed, there.iter().copied())?,
    };
    let mut path = dir.join(name);
    path.extend(&names[missing + 1..]);
    let is_there = root.join(&path).exists();
    is_there.then(|| format!("did you mean `{}`?", path.display()))
}

/// The ignore rule that hides `src`, if the file is there on disk.
fn ignored(plan: &Plan, src: &str) -> Option<String> {
    let root = plan.locals.get("context")?;
    let relative = src.trim_start_matches('/');
    if relative.is_empty() || relative.contains("..") || !root.path.join(relative).exists() {
        return None;
    }
    let ignore = plan.ignore.as_ref()?;
    let mut last = None;
    for (number, line) in ignore.text.lines().enumerate() {
        let pattern = line.trim();
        if pattern.is_empty() || pattern.starts_with('#') {
            continue;
        }
        let (negated, bare) = pattern
            .strip_prefix('!')
            .map_or((false, pattern), |bare| (true, bare));
        let set = rbuild_llb::pattern::PatternSet::new(&[bare.to_owned()]).ok()?;
        if set.matches(relative) {
            last = (!negated).then_some((number + 1, pattern));
        }
    }
    let (line, pattern) = last?;
    Some(format!(
        "`{}:{line}` excludes `{pattern}`; add `!{relative}` after it to keep the file",
        ignore.name
    ))
}
