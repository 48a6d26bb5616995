//! `rbuild shell`: into what a failed step left.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use rbuild_cache::Failure;
use rbuild_llb::event::Timestamp;

use super::Session;
use super::proxies;
use super::sources;
use super::values;
use crate::clock;
use crate::outcome::BuildError;
use crate::pipeline::shell;
use crate::request::ShellCommand;
use crate::request::ShellRequest;
use crate::ui;

#[derive(Debug, Default, Args)]
pub(crate) struct ShellFlags {
    /// List the failed steps that can be entered
    #[arg(short, long, conflicts_with_all = ["id", "again", "command"])]
    list: bool,
    /// Enter this one of the list, not the last that failed; the beginning of its id will do
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Run the step's own command again
    #[arg(long, conflicts_with = "command")]
    again: bool,
    /// Set a variable: `KEY=value`, or `KEY` to take it from the environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// A secret that the step asks for: `id=name,src=file`, `id=name,env=VARIABLE`
    #[arg(long, value_name = "OPTIONS")]
    secret: Vec<String>,
    /// An ssh agent, or keys, that the step asks for: `default`, `id=socket`, `id=key`
    #[arg(long, value_name = "ID[=SOCKET]")]
    ssh: Vec<String>,
    /// A command, instead of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// Ends with the command's own exit code.
pub(crate) fn run(flags: &ShellFlags, session: &Session) -> Result<ExitCode, BuildError> {
    let request = request(flags, session)?;
    if flags.list {
        let failures = shell::failures(&request)?;
        super::print_text(&table(&failures, clock::now()), session)?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(shell::shell(&request)?.into())
}

fn request(flags: &ShellFlags, session: &Session) -> Result<ShellRequest, BuildError> {
    let mut problems = Vec::new();
    let mut env = BTreeMap::new();
    for text in &flags.env {
        match values::key_value("env", text) {
            Ok((key, value)) => {
                let own = || Some(session.env.get(key)?.to_string_lossy().into_owned());
                let value = value.map(str::to_owned).or_else(own);
                env.extend(value.map(|value| (key.to_owned(), value)));
            }
            Err(problem) => problems.push(problem),
        }
    }
    let mut secrets = BTreeMap::new();
    for text in &flags.secret {
        match sources::secret(text, &session.env) {
            Ok((id, source, _)) => drop(secrets.insert(id, source)),
            Err(problem) => problems.push(problem),
        }
    }
    let mut ssh = BTreeMap::new();
    for text in &flags.ssh {
        match sources::ssh(text, &session.env) {
            Ok((id, socket)) => drop(ssh.insert(id, socket)),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(BuildError::request(problems));
    }
    Ok(ShellRequest {
        id: flags.id.clone(),
        command: match (flags.again, flags.command.is_empty()) {
            (true, _) => ShellCommand::Again,
            (false, true) => ShellCommand::Interactive,
            (false, false) => ShellCommand::Other(flags.command.clone()),
        },
        env,
        term: session.env.text("TERM"),
        proxy_args: proxies::of_steps(session.docker_proxies(), &session.env),
        secrets,
        ssh,
        settings: session.settings.clone(),
    })
}

fn table(failures: &[Failure], now: Timestamp) -> String {
    let mut rows = vec![
        ["ID", "FAILED", "STEP", "ENDED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(failures.iter().filter_map(|failure| {
        let step = failure.step.as_ref()?;
        Some(vec![
            failure.id.clone(),
            ui::age(Timestamp(step.failed), now),
            step.name.clone(),
            step.ended.clone(),
        ])
    }));
    ui::table(&rows, 3)
}
