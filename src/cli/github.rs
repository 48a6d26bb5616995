//! `rbuild github-action`: what `action.yml` runs on a runner of GitHub Actions, or of another service that speaks like it.
//!
//! A build like any other, whose flags come from the action's inputs ([`inputs`]), and whose end is told in the runner's
//! language: outputs, annotations, a job summary. Everything is said on standard error, commands to the runner too, which
//! reads both streams: so they stand in one order with the output of steps. While anything is shown that others wrote (the
//! command with its inputs, the output of steps, errors), the runner takes no commands from this process.
//!
//! Nothing is changed on the machine, but for one setting that hosted runners, which are thrown away, can do without
//! ([`allow_namespaces`]).

mod inputs;

use std::cell::OnceCell;
use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;

use super::Cmd;
use super::Failed;
use super::Session;
use super::build;
use super::env::Env;
use super::values;
use super::values::problem;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::ui;
use crate::ui::Progress;
use crate::ui::ProgressMode;
use crate::ui::github as said;
use crate::ui::github::Level;
use inputs::Inputs;

/// What the runner says about itself and the event, in its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Runner {
    /// `https://host`
    server: String,
    /// `owner/name`
    repository: String,
    /// The commit of the event.
    sha: String,
    /// A branch, tag or pull request: `refs/…`
    reference: String,
    /// It is a machine that is thrown away after the job.
    hosted: bool,
    /// Files that the runner reads afterwards.
    output: Option<PathBuf>,
    summary: Option<PathBuf>,
    temp: Option<PathBuf>,
}

impl Runner {
    fn of(env: &Env) -> Self {
        let text = |name: &str| env.text(name).unwrap_or_default();
        let mut runner = Self {
            server: text("GITHUB_SERVER_URL").trim_end_matches('/').to_owned(),
            repository: text("GITHUB_REPOSITORY"),
            sha: text("GITHUB_SHA"),
            reference: text("GITHUB_REF"),
            hosted: text("RUNNER_ENVIRONMENT") == "github-hosted",
            output: env.path("GITHUB_OUTPUT"),
            summary: env.path("GITHUB_STEP_SUMMARY"),
            temp: env.path("RUNNER_TEMP"),
        };
        // The commit of a pull request's event is that of a merge; who asks for it gets the branch's own.
        let heads = env.text("DOCKER_DEFAULT_GIT_CONTEXT_PR_HEAD_REF");
        if heads.is_some_and(|value| values::boolean(&value) == Ok(true))
            && runner.reference.starts_with("refs/pull/")
            && let Some(head) = runner.reference.strip_suffix("/merge")
        {
            runner.reference = format!("{head}/head");
            runner.sha = head_of_pull_request(env).unwrap_or_default();
        }
        runner
    }

    /// The repository at the commit of the event; empty if there is no event.
    fn default_context(&self) -> String {
        let at = match self.sha.as_str() {
            "" => &self.reference,
            sha => sha,
        };
        match [&self.server, &self.repository, at]
            .iter()
            .any(|part| part.is_empty())
        {
            true => String::new(),
            false => format!("{}/{}.git#{at}", self.server, self.repository),
        }
    }
}

fn head_of_pull_request(env: &Env) -> Option<String> {
    let event = fs::read(env.path("GITHUB_EVENT_PATH")?).ok()?;
    let event: serde_json::Value = serde_json::from_slice(&event).ok()?;
    let sha = event.pointer("/pull_request/head/sha")?;
    sha.as_str().map(str::to_owned)
}

/// Runs the command.
pub(crate) fn run(session: &Session) -> Result<ExitCode, Failed> {
    let runner = Runner::of(&session.env);
    let inputs = match Inputs::read(&session.env, &runner) {
        Ok(inputs) => inputs,
        Err(wrong) => {
            let stop = stop()?;
            let wrong = wrong.into_iter().map(problem).collect();
            return Ok(failed(&BuildError::request(wrong), &stop, session));
        }
    };
    authorise_git(&inputs.headers, &session.env)?;
    for secret in &inputs.masked {
        ui::say(&said::command("add-mask", &[], secret));
    }
    for remark in &inputs.remarks {
        ui::say(&said::annotation(Level::Warning, None, "rbuild", remark));
    }
    allow_namespaces(&runner, Path::new("/proc/sys"));

    let stop = stop()?;
    let result = build(session, &runner, &inputs, &stop);
    result.or_else(|error| Ok(failed(&error, &stop, session)))
}

/// Tells the runner to take no commands until it is told the word that is returned.
fn stop() -> Result<String, BuildError> {
    let stop = random()?;
    ui::say(&said::command("stop-commands", &[], &stop));
    Ok(stop)
}

/// The runner takes commands again.
fn go_on(stop: &str) {
    // What was said last may have no line end.
    ui::say("");
    ui::say(&said::command(stop, &[], ""));
}

/// Builds, and tells how it ended; the runner has been told to [`stop`]. Of an error that is returned nothing was told.
fn build(
    session: &Session,
    runner: &Runner,
    inputs: &Inputs,
    stop: &str,
) -> Result<ExitCode, BuildError> {
    let temp = temporary(runner)?;
    let metadata = temp.path().join("metadata.json");
    let mut argv = vec!["rbuild".to_owned(), "build".to_owned()];
    argv.extend(inputs.arguments.iter().cloned());
    ui::say(&spelled(&argv));
    argv.insert(2, format!("--metadata-file={}", metadata.display()));
    let prepared = prepare(argv, inputs, session)?;

    if let Some(call) = &prepared.call {
        let code = call.run(&prepared.request)?;
        go_on(stop);
        return Ok(code);
    }
    let mode = match prepared.talk.mode {
        ProgressMode::Auto | ProgressMode::Tty => ProgressMode::Plain,
        mode => mode,
    };
    let progress = Progress::start(mode, session.terminal, prepared.secrets);
    let result = pipeline::build(&prepared.request, &progress);
    progress.finish();
    ui::warnings(&progress, session.debug, session.terminal);
    match &result {
        Ok(outcome) => ui::success(outcome, &progress),
        Err(error) => ui::failure(error, Some(&progress), session.terminal),
    }
    go_on(stop);

    if inputs::is_on(&session.env, "DOCKER_BUILD_CHECKS_ANNOTATIONS") {
        for line in said::warnings(&progress) {
            ui::say(&line);
        }
    }
    if inputs::is_on(&session.env, "DOCKER_BUILD_SUMMARY")
        && let Some(file) = &runner.summary
    {
        let added = append(file, &said::summary(&result, &progress));
        if let Err(error) = added {
            return Ok(failed(&error, &self::stop()?, session));
        }
    }
    match result {
        Ok(outcome) => {
            let metadata =
                fs::read_to_string(&metadata).map_err(|error| cannot("read", &metadata, error));
            let written = metadata.and_then(|metadata| write_outputs(runner, &outcome, &metadata));
            match written {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => Ok(failed(&error, &self::stop()?, session)),
            }
        }
        Err(error) => {
            for line in said::failure(&error, &progress) {
                ui::say(&line);
            }
            Ok(error.kind.exit_code().into())
        }
    }
}

/// The request, of arguments that are read as those of `rbuild build`.
fn prepare(
    argv: Vec<String>,
    inputs: &Inputs,
    session: &Session,
) -> Result<build::Prepared, BuildError> {
    let argv = argv.into_iter().map(Into::into).collect();
    let cli = super::parse(argv).map_err(|error| {
        BuildError::request(vec![problem(
            error.to_string().trim_start_matches("error: ").to_owned(),
        )])
    })?;
    let Cmd::Build(flags) = cli.command else {
        unreachable!("the command is written out: `build`");
    };
    let mut env = session.env.clone();
    for (name, value) in &inputs.variables {
        env.set(name, value);
    }
    let session = Session {
        settings: session.settings.clone(),
        env,
        docker_proxies: OnceCell::new(),
        terminal: session.terminal,
        stdout_is_terminal: session.stdout_is_terminal,
        debug: session.debug,
        of_steps_here: session.of_steps_here.clone(),
    };
    build::prepare(&flags, &session).map_err(BuildError::request)
}

/// Tells a failure as any command does, after which the runner takes commands again, and in its language.
fn failed(error: &BuildError, stop: &str, session: &Session) -> ExitCode {
    ui::failure(error, None, session.terminal);
    go_on(stop);
    for line in said::failure_before(error) {
        ui::say(&line);
    }
    error.kind.exit_code().into()
}

/// The command as it could be typed, in one line.
fn spelled(argv: &[String]) -> String {
    let words = argv.iter().map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
        match !word.is_empty() && word.chars().all(plain) {
            true => word.clone(),
            false => format!(
                "'{}'",
                word.replace('\'', "'\\''").replace('\n', "'$'\\n''")
            ),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Gives git the tokens that are for it: in its environment, which this process can only have from its beginning. Therefore
/// it begins once more.
fn authorise_git(headers: &[(String, String)], env: &Env) -> Result<(), BuildError> {
    const MARK: &str = "RBUILD_ACTION_GIT";
    if headers.is_empty() || env.get(MARK).is_some() {
        return Ok(());
    }
    let given = env
        .text("GIT_CONFIG_COUNT")
        .and_then(|count| count.parse::<usize>().ok());
    let mut count = given.unwrap_or(0);
    let argv = super::env::argv();
    let mut again = Command::new("/proc/self/exe");
    again.args(argv.iter().skip(1)).env(MARK, "1");
    for (place, header) in headers {
        let key = format!("http.{place}/.extraheader");
        // The empty value takes away what the user's configuration may have: two such headers are refused.
        for value in ["", header] {
            again.env(format!("GIT_CONFIG_KEY_{count}"), &key);
            again.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
    }
    let error = again.env("GIT_CONFIG_COUNT", count.to_string()).exec();
    Err(cannot("run", Path::new("/proc/self/exe"), error))
}

/// Ubuntu lets AppArmor take the power out of user namespaces that an ordinary user makes, and then no step runs. A hosted
/// runner is a machine of the job's own, with `sudo`: it is told not to. On others that is their owner's to decide, and
/// the error of the first step that cannot run says how.
fn allow_namespaces(runner: &Runner, settings: &Path) {
    const SETTING: &str = "kernel/apparmor_restrict_unprivileged_userns";
    let restricted = fs::read_to_string(settings.join(SETTING));
    if !restricted.is_ok_and(|value| value.trim() == "1") || !runner.hosted {
        return;
    }
    let assignment = format!("{}=0", SETTING.replace('/', "."));
    let set = Command::new("sudo")
        .args(["-n", "sysctl", "-q", "-w", &assignment])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output();
    let text = match set {
        Ok(done) if done.status.success() => {
            return ui::say(&format!(
                "set {assignment}, so that steps run in user namespaces"
            ));
        }
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!(
        "AppArmor restricts user namespaces here, and `sudo sysctl -w {assignment}` failed: {text}"
    );
    ui::say(&said::annotation(Level::Warning, None, "rbuild", &text));
}

/// A directory for what the build writes for this command alone.
fn temporary(runner: &Runner) -> Result<tempfile::TempDir, BuildError> {
    let mut made = tempfile::Builder::new();
    made.prefix("rbuild-");
    let (dir, made) = match &runner.temp {
        Some(dir) => (dir.clone(), made.tempdir_in(dir)),
        None => ("a temporary directory".into(), made.tempdir()),
    };
    made.map_err(|error| cannot("write in", &dir, error))
}

/// `imageid`, `digest` and `metadata`, as far as there are any.
fn write_outputs(
    runner: &Runner,
    outcome: &BuildOutcome,
    metadata: &str,
) -> Result<(), BuildError> {
    let image = outcome.built.iter().find_map(|built| built.image.as_ref());
    let image = image.map(|image| (image.id.to_string(), image.descriptor.digest.to_string()));
    let (id, digest) = image.unzip();
    let outputs = [
        ("imageid", id),
        ("digest", digest),
        ("metadata", Some(metadata.to_owned())),
    ];
    let Some(file) = &runner.output else {
        return Ok(());
    };
    let mark = random()?;
    let mut text = String::new();
    for (name, value) in outputs {
        if let Some(value) = value {
            text += &format!("{name}<<{mark}\n{value}\n{mark}\n");
        }
    }
    append(file, &text)
}

/// Adds to a file that the runner reads when this process has ended.
fn append(path: &Path, text: &str) -> Result<(), BuildError> {
    let opened = fs::OpenOptions::new().append(true).create(true).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| cannot("write", path, error))
}

/// A word that nobody can guess.
fn random() -> Result<String, BuildError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| cannot("read", source, error))?;
    Ok(format!("rbuild-{:032x}", u128::from_ne_bytes(bytes)))
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> BuildError {
    let error = anyhow::Error::new(error).context(format!("cannot {what} `{}`", path.display()));
    BuildError::new(ErrorKind::Environment, error)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn the_context_of_an_event_is_its_commit() {
        let vars = [
            ("GITHUB_SERVER_URL", "https://git.example"),
            ("GITHUB_REPOSITORY", "me/app"),
            ("GITHUB_REF", "refs/pull/7/merge"),
            ("GITHUB_SHA", "aaaa"),
        ];
        let mut env = Env::of(vars);
        let context = |env: &Env| Runner::of(env).default_context();
        assert_eq!(context(&env), "https://git.example/me/app.git#aaaa");
        let dir = tempfile::tempdir().unwrap();
        let event = dir.path().join("event.json");
        fs::write(&event, r#"{"pull_request": {"head": {"sha": "bbbb"}}}"#).unwrap();
        env.set("DOCKER_DEFAULT_GIT_CONTEXT_PR_HEAD_REF", "true");
        assert_eq!(
            context(&env),
            "https://git.example/me/app.git#refs/pull/7/head"
        );
        env.set("GITHUB_EVENT_PATH", event.to_str().unwrap());
        assert_eq!(context(&env), "https://git.example/me/app.git#bbbb");
        env.set("GITHUB_REPOSITORY", "");
        assert_eq!(context(&env), "");
    }

    #[test]
    fn the_command_can_be_typed() {
        let argv = ["rbuild", "--build-arg=A=it's\nb c", "--", "."].map(str::to_owned);
        let typed = spelled(&argv);
        let said = Command::new("/bin/bash")
            .args(["-c", &format!("printf '%s|' {typed}")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), argv.join("|") + "|");
        assert_eq!(typed.lines().count(), 1);
    }
}
