//! `rbuild shell` and `--shell-on-fail`: a process in what a failed step left, with all that the step's process was given.

use std::collections::BTreeMap;

use rbuild_cache::FailedStep;
use rbuild_cache::Failure;
use rbuild_cache::Fate;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Store;
use rbuild_cache::Written;
use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::event::Timestamp;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::ProxyEnv;

use super::attend::Ground;
use super::attend::attended;
use super::attend::no_terminal;
use super::existing_store;
use super::failure;
use super::sandbox_settings;
use crate::clock;
use crate::ops::Engine;
use crate::ops::EngineOptions;
use crate::ops::OpError;
use crate::ops::exec::Entered;
use crate::ops::exec::Entry;
use crate::ops::exec::HeldFailure;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::request::KeepFailed;
use crate::request::ShellCommand;
use crate::request::ShellRequest;
use crate::sandbox;
use crate::sandbox::Size;
use crate::sandbox::Stacking;
use crate::sandbox::Stdin;
use crate::sandbox::Stream;
use crate::ui;
use crate::ui::Progress;

/// The steps that can be entered, the newest first.
///
/// # Errors
/// If the store cannot be read.
pub fn failures(request: &ShellRequest) -> Result<Vec<Failure>, BuildError> {
    let Some(store) = existing_store(&request.settings)? else {
        return Ok(Vec::new());
    };
    let mut failures = store.failures().map_err(failure::store)?;
    failures.retain(|failure| failure.step.is_some());
    Ok(failures)
}

/// Runs a process in what a failed step left, and gives its exit code as a shell reports it.
///
/// # Errors
/// If there is none, or it could not be started.
pub fn shell(request: &ShellRequest) -> Result<u8, BuildError> {
    let kept = failures(request)?;
    let Some(store) = existing_store(&request.settings)? else {
        return Err(nothing_failed());
    };
    let (failure, mut step) = choose(&store, kept, request.id.as_deref())?;
    let Some(entered) = failure.enter().map_err(failure::store)? else {
        let error = anyhow::anyhow!("somebody else is in `{}`", step.name);
        return Err(BuildError::new(ErrorKind::Request, error).hint("wait until they have left"));
    };
    let lease = store.lease().map_err(failure::store)?;
    let roots: Vec<LeaseRoot> = step
        .trees()
        .flat_map(|tree| [LeaseRoot::Tree(tree), LeaseRoot::LayerDir(tree)])
        .collect();
    lease.protect_all(&roots).map_err(failure::store)?;
    step.op.proxy_env = ProxyEnv {
        env: pairs(&request.proxy_args),
    };
    let visit = Visit::plan(request, &step)?;

    let mut sandboxing = sandbox_settings(&request.settings, &store);
    sandboxing.foreign.platforms.push(step.platform.clone());
    let sandbox = sandbox::enter(&sandboxing).map_err(failure::sandbox)?;
    fits(&step, &sandbox)?;
    let cancel = CancelToken::new();
    super::begin(&cancel)?;
    let registry = registry::Client::new(&request.settings);
    let definition = Definition::new();
    let options = EngineOptions {
        secrets: request.secrets.clone(),
        ssh: request.ssh.clone(),
        ..EngineOptions::default()
    };
    let ground = Ground {
        store: &store,
        lease: &lease,
        definition: &definition,
        registry: &registry,
        cancel: &cancel,
    };
    let engine = ground.engine(options, sandbox);
    for missing in missing(&step, request) {
        ui::say(&missing);
    }
    // What runs there may write them down.
    let goes = engine.gives_secrets(&step.op) && request.settings.keep_failed != KeepFailed::Always;
    if goes {
        ui::say("it is given secrets, so nothing of it is kept after this");
    }
    if request.command == ShellCommand::Interactive && visit.terminal {
        ui::say(&introduction(&step, clock::now()));
    }
    let files = Entered {
        dir: entered.path(),
        wrote: step.wrote,
    };
    let paid = visit.pay(&engine, &step, files);
    if goes {
        entered.discard(&store).map_err(failure::store)?;
    }
    paid
}

/// Enters the step that this build holds, on the terminal that the build was started at. Where that cannot be it says so: the
/// build ends with what failed in it.
pub(super) fn enter_held(
    engine: &Engine<'_>,
    held: &HeldFailure,
    term: Option<&str>,
    progress: &Progress,
) {
    let step = &held.step;
    let files = Entered {
        dir: held.dir(),
        wrote: step.wrote,
    };
    let visit = Visit {
        args: interactive(&step.op),
        env: term_for(&step.op, term),
        terminal: true,
    };
    let log = progress.tail(&step.vertex);
    progress.aside(|| {
        for line in log {
            ui::say(&format!("  {line}"));
        }
        ui::say(&introduction(step, clock::now()));
        if !held.is_kept() {
            ui::say("nothing of it is kept when the shell ends");
        }
        if let Err(error) = visit.pay(engine, step, files) {
            let why = error
                .source
                .map_or_else(String::new, |why| format!(": {why:#}"));
            ui::say(&format!("no shell there{why}"));
        }
    });
}

/// What a process is in a step.
struct Visit {
    args: Vec<String>,
    env: Vec<String>,
    terminal: bool,
}

impl Visit {
    fn plan(request: &ShellRequest, step: &FailedStep) -> Result<Self, BuildError> {
        let terminal = ui::has_terminal();
        let args = match &request.command {
            ShellCommand::Interactive if !terminal && ui::can_ask() => {
                let error = anyhow::anyhow!("a shell takes a terminal on standard output too");
                return Err(BuildError::new(ErrorKind::Request, error)
                    .hint("name a command: `rbuild shell -- COMMAND`"));
            }
            ShellCommand::Interactive => interactive(&step.op),
            ShellCommand::Again => step.op.args.iter().map(ToString::to_string).collect(),
            ShellCommand::Other(args) => args.clone(),
        };
        let mut env = match terminal {
            true => term_for(&step.op, request.term.as_deref()),
            false => Vec::new(),
        };
        env.extend(pairs(&request.env));
        Ok(Self {
            args,
            env,
            terminal,
        })
    }

    /// Runs it to its end.
    fn pay(
        &self,
        engine: &Engine<'_>,
        step: &FailedStep,
        files: Entered<'_>,
    ) -> Result<u8, BuildError> {
        let size = Size::of_terminal().filter(|_| self.terminal);
        let entry = Entry {
            args: self.args.clone(),
            env: self.env.clone(),
            stdin: match size {
                Some(size) => Stdin::Terminal(size),
                // A terminal is for who can be seen there to type in it.
                None if ui::can_ask() => Stdin::Null,
                None => Stdin::Own,
            },
        };
        let mut written = Ok(());
        let mut output = |stream, bytes: &[u8]| match stream {
            Stream::Stdout if written.is_ok() => written = ui::data(bytes),
            Stream::Stdout => {}
            Stream::Stderr => ui::relay(bytes),
        };
        let run = || engine.enter(step, files, &entry, &mut output);
        let code = attended(&entry.stdin, true, run, not_started)?;
        written.map_err(no_terminal)?;
        Ok(code)
    }
}

fn not_started(error: OpError) -> BuildError {
    let absent = matches!(&error, OpError::Sandbox(error) if error.exit_code().is_some());
    let error = failure::op(error);
    match absent {
        true => error.hint("name a program that is there, as in `rbuild shell -- /bin/app --help`"),
        false => error,
    }
}

fn pairs(variables: &BTreeMap<String, String>) -> Vec<String> {
    let pairs = variables.iter();
    pairs
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// What tells programs about the terminal, unless the step says that itself.
fn term_for(op: &ExecOp, term: Option<&str>) -> Vec<String> {
    let says = op.env.iter().any(|pair| pair.starts_with("TERM="));
    let term = term.filter(|_| !says);
    term.map(|term| format!("TERM={term}"))
        .into_iter()
        .collect()
}

/// Which is meant.
fn choose(
    store: &Store,
    kept: Vec<Failure>,
    id: Option<&str>,
) -> Result<(Failure, FailedStep), BuildError> {
    if let Some(id) = id {
        let mut found = kept
            .into_iter()
            .filter(|failure| failure.id.starts_with(id));
        let (first, second) = (found.next(), found.next());
        return match first.filter(|_| !id.is_empty() && second.is_none()) {
            Some(failure) => whole(failure),
            None => {
                let error = anyhow::anyhow!("no failed step that is kept goes by `{id}`");
                Err(BuildError::new(ErrorKind::Request, error)
                    .hint("`rbuild shell --list` shows those that are"))
            }
        };
    }
    let newest = kept.into_iter().next();
    let last = last_failed(store)?;
    match (newest, last) {
        (Some(failure), Some(last)) if last.is_later_than(&failure) => {
            let name = failure.step.as_ref().map_or("", |step| &step.name);
            Err(last.explain().hint(format!(
                "`rbuild shell --id {}` enters `{name}`, which failed before that",
                &failure.id[..4]
            )))
        }
        (Some(failure), _) => whole(failure),
        (None, Some(last)) => Err(last.explain()),
        (None, None) => Err(nothing_failed()),
    }
}

fn whole(mut failure: Failure) -> Result<(Failure, FailedStep), BuildError> {
    let step = failure.step.take().ok_or_else(nothing_failed)?;
    Ok((failure, step))
}

fn nothing_failed() -> BuildError {
    BuildError::new(
        ErrorKind::Request,
        anyhow::anyhow!("no failed step is kept in this store"),
    )
    .hint("when a RUN fails, `rbuild shell` enters what it left")
}

/// A step of the build that failed last.
struct Last {
    /// When its build began, nanoseconds since the epoch.
    started: u128,
    name: String,
}

impl Last {
    /// Whether its build is later than the one that left something.
    fn is_later_than(&self, failure: &Failure) -> bool {
        let failed = failure.step.as_ref().map_or(0, |step| step.failed);
        failed < self.started
    }

    fn explain(&self) -> BuildError {
        let (_, instruction) = self.name.split_once("] ").unwrap_or(("", &self.name));
        let name = &self.name;
        if instruction.starts_with("RUN") {
            let error = anyhow::anyhow!("`{name}` failed last, and nothing of it is kept");
            return BuildError::new(ErrorKind::Request, error).hint(
                "it is gone (`rbuild prune`, a full disk), was not to be kept (`--keep-failed=never`), was given secrets \
                 (`--keep-failed=always` keeps such), or its process never ran; `--shell-on-fail` enters any that ran, at once",
            );
        }
        let error = anyhow::anyhow!(
            "`{name}` failed last, and no process ran there: there is nothing to enter"
        );
        BuildError::new(ErrorKind::Request, error)
    }
}

/// What failed in the build that failed last.
fn last_failed(store: &Store) -> Result<Option<Last>, BuildError> {
    let builds = store.builds().all().map_err(failure::store)?;
    let failed = |kept: &rbuild_cache::Kept| {
        let report = &kept.report;
        let mut steps = report.steps.iter();
        let step = steps.find(|step| matches!(step.fate, Fate::Failed { .. }))?;
        Some(Last {
            started: report.started,
            name: step.name.clone(),
        })
    };
    Ok(builds
        .iter()
        .filter_map(failed)
        .max_by_key(|last| last.started))
}

/// Whether the sandbox can show what the step saw.
fn fits(step: &FailedStep, sandbox: &sandbox::Sandbox) -> Result<(), BuildError> {
    let problem = if step.domain != sandbox.domain() {
        "its files were written under other user ids than there are now"
    } else if step.wrote == Written::Upper && sandbox.stacking() == Stacking::Cannot {
        "its layers were stacked by overlayfs, which is not to be had now"
    } else {
        return Ok(());
    };
    let error = anyhow::anyhow!("`{}` cannot be entered: {problem}", step.name);
    Err(BuildError::new(ErrorKind::Environment, error)
        .hint("build it again, or enter it as it was built"))
}

/// What the step had and who enters does not give again.
fn missing(step: &FailedStep, request: &ShellRequest) -> Vec<String> {
    let mut said = Vec::new();
    let mut secrets: Vec<&str> = Vec::new();
    let mut agents: Vec<&str> = Vec::new();
    for mount in &step.op.mounts {
        match &mount.kind {
            MountKind::Secret { id, .. } => secrets.push(id),
            MountKind::Ssh { id, .. } => agents.push(id),
            MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
        }
    }
    secrets.extend(step.op.secret_env.iter().map(|secret| secret.id.as_str()));
    secrets.sort_unstable();
    secrets.dedup();
    for id in secrets
        .iter()
        .filter(|id| !request.secrets.contains_key(**id))
    {
        said.push(format!(
            "the secret `{id}` is not there: `--secret id={id},src=FILE` gives it"
        ));
    }
    for id in agents.iter().filter(|id| !request.ssh.contains_key(**id)) {
        said.push(format!(
            "the ssh agent `{id}` is not there: `--ssh {id}` gives it"
        ));
    }
    for name in step
        .withheld
        .iter()
        .filter(|name| !request.env.contains_key(*name))
    {
        said.push(format!(
            "the variable `{name}` was not kept, since its value looks secret: `-e {name}=VALUE` gives it"
        ));
    }
    said
}

/// The shell that the step's command was for, or the usual one.
fn interactive(op: &ExecOp) -> Vec<String> {
    let shell = scripted(op).map_or("/bin/sh", |(shell, _)| shell);
    vec![shell.to_owned()]
}

/// The shell and the script of a command that is a shell's, `sh -ec 'npm ci'`; one is known by its name, since `gcc -c main.c`
/// looks the same.
fn scripted(op: &ExecOp) -> Option<(&str, &str)> {
    const SHELLS: [&str; 11] = [
        "sh", "ash", "bash", "csh", "dash", "fish", "ksh", "mksh", "pwsh", "tcsh", "zsh",
    ];
    let [shell, .., option, script] = op.args.as_slice() else {
        return None;
    };
    let name = shell.rsplit('/').next()?;
    let known = SHELLS.contains(&name) || name.starts_with("python");
    let option = option.strip_prefix('-')?;
    (known && !option.starts_with('-') && option.ends_with('c')).then_some((shell, script))
}

/// What somebody should know who finds themselves there.
fn introduction(step: &FailedStep, now: Timestamp) -> String {
    let command = match scripted(&step.op) {
        Some((_, script)) => script.to_owned(),
        None => step.op.args.join(" "),
    };
    format!(
        "`{}` failed {}: {}\nthis is what it left; changes stay here, and get into no image\nits command:\n  {}",
        step.name,
        ui::age(Timestamp(step.failed), now),
        step.ended,
        ui::harmless(&command).trim_end().replace('\n', "\n  "),
    )
}

#[cfg(test)]
mod t {
    use std::sync::Arc;

    use rbuild_llb::op::NetworkMode;
    use rbuild_llb::op::SecurityMode;

    use super::*;

    fn op(args: &[&'static str]) -> ExecOp {
        ExecOp {
            args: args.iter().map(|arg| (*arg).into()).collect(),
            env: Arc::default(),
            cwd: "/".into(),
            user: String::new(),
            mounts: Vec::new(),
            network: NetworkMode::None,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            limits: Default::default(),
            proxy_env: ProxyEnv::default(),
        }
    }

    #[test]
    fn the_shell_is_the_one_of_the_step() {
        for (args, wanted) in [
            (&["/bin/sh", "-c", "npm ci"][..], "/bin/sh"),
            (
                &["/bin/bash", "-o", "pipefail", "-ec", "a | b"],
                "/bin/bash",
            ),
            (&["python3", "-c", "import x"], "python3"),
            (&["/app", "--check"], "/bin/sh"),
            (&["/app", "--sync", "x"], "/bin/sh"),
            (&["/bin/sh", "--sync", "x"], "/bin/sh"),
            (&["gcc", "-c", "a.c"], "/bin/sh"),
            (&["/app"], "/bin/sh"),
            (&[], "/bin/sh"),
        ] {
            assert_eq!(interactive(&op(args)), [wanted], "{args:?}");
        }
    }

    #[test]
    fn a_terminal_is_told_of_unless_the_step_says_what_it_is() {
        let mut step = op(&["sh"]);
        assert_eq!(term_for(&step, Some("xterm")), ["TERM=xterm"]);
        assert!(term_for(&step, None).is_empty());
        step.env = Arc::new(vec!["TERM=dumb".into()]);
        assert!(term_for(&step, Some("xterm")).is_empty());
    }
}
