//! RUN.

use std::borrow::Cow;

use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::Op;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::SecurityMode;

use super::Building;
use super::Converted;
use super::Converter;
use super::HIDDEN;
use super::Inputs;
use super::State;
use super::meta;
use super::mount::Mounts;
use crate::ast::CommandLine;
use crate::ast::Head;
use crate::ast::Run;
use crate::env::Env;
use crate::lexer::heredoc_operator;
use crate::words::Shell;

/// Where programs look for memory to share.
const SHARED_MEMORY: &str = "/dev/shm";

/// Where the file of a here-document with a `#!` line is mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl Converter<'_> {
    /// RUN; `from` has the file system of each mount that names one.
    pub(super) fn run(
        &mut self,
        run: &Run,
        from: &[Option<Option<Edge>>],
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        if let Some(device) = run.devices.first() {
            let message = "`RUN --device` is not supported";
            let error = Diagnostic::error(message, device.span.clone(), "");
            return Err(Box::new(error.hint(
                "steps see no devices of the machine; BuildKit has the flag in `-labs` frontends only",
            )));
        }
        let mut inputs = Inputs::default();
        let mut mounts = Mounts {
            list: vec![Mount {
                input: to.state.root.map(|edge| inputs.add(edge)),
                selector: String::new(),
                dest: "/".to_owned(),
                output: Some(0),
                readonly: false,
                kind: MountKind::Bind,
            }],
            ..Mounts::default()
        };
        let mut title = Cow::Borrowed(head.text.as_str());
        let command = self.script(run, head, to, &mut inputs, &mut mounts, &mut title);
        for (mount, from) in run.mounts.iter().zip(from) {
            self.mount(mount, *from, head, to, &mut inputs, &mut mounts)?;
        }
        // As BuildKit's frontend has it.
        let size = self.request.shm_size;
        if size > 0 && !mounts.list.iter().any(|mount| mount.dest == SHARED_MEMORY) {
            mounts.list.push(Mount {
                input: None,
                selector: String::new(),
                dest: SHARED_MEMORY.to_owned(),
                output: None,
                readonly: false,
                kind: MountKind::Tmpfs { size },
            });
        }
        to.taken
            .mounts(&mounts.list, &mounts.secret_env, &head.span);
        let args = to.state.arguments(&command);
        if args.is_empty() {
            let message = "`RUN` has no command";
            return Err(Box::new(Diagnostic::error(message, head.span.clone(), "")));
        }
        let mut name = self.prefix(title.len(), to);
        let mut env = Cow::Borrowed(&to.state.env);
        let mut shown = Cow::Borrowed(&to.state.env);
        for secret in &mounts.secret_env {
            shown.to_mut().set(&secret.name, HIDDEN);
        }
        if let Some(socket) = mounts.ssh_socket()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.to_mut().set("SSH_AUTH_SOCK", socket);
        }
        let line = history(&args, &to.state.args, &to.state.env);
        let op = Op::Exec(ExecOp {
            args,
            env: env.pairs(),
            cwd: to.state.dir.clone(),
            user: to.state.user.clone(),
            mounts: mounts.list,
            network: network(run, self.request.network),
            security: security(run),
            secret_env: mounts.secret_env,
            hostname: self.build_arg("BUILDKIT_SANDBOX_HOSTNAME").to_owned(),
            extra_hosts: self.request.extra_hosts.clone(),
            ulimits: self.request.ulimits.clone(),
            proxy_env: self.proxy_env.clone(),
            limits: self.request.limits.clone(),
        });
        let shell = Shell {
            raw_quotes: true,
            keep_unset: true,
            ..self.shell
        };
        Self::append_title(shell, &title, &shown, &mut name);
        let meta = VertexMeta {
            args: arguments(&to.state),
            ..meta(name, head, to.ignore_cache)
        };
        self.step(op, inputs.list, meta, to);
        to.state.history(line, false);
        Ok(())
    }

    pub(super) fn build_arg(&self, name: &str) -> &str {
        self.build_args.get(name).map_or("", String::as_str)
    }

    /// The command with its here-documents put in: a single one is the script itself, which the shell runs, or the
    /// program its `#!` line names; more go to the shell as they are.
    fn script<'r>(
        &mut self,
        run: &'r Run,
        head: &Head,
        to: &Building,
        inputs: &mut Inputs,
        mounts: &mut Mounts,
        title: &mut Cow<'_, str>,
    ) -> Cow<'r, CommandLine> {
        let (CommandLine::Shell(line), Some(first)) = (&run.command, run.heredocs.first()) else {
            return Cow::Borrowed(&run.command);
        };
        if heredoc_operator(line).is_none() {
            let mut script = line.clone();
            for heredoc in &run.heredocs {
                script.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            return Cow::Owned(CommandLine::Shell(script));
        }
        title
            .to_mut()
            .push_str(&format!(" ({})", summary(&first.content)));
        let data = first.data();
        if !data.starts_with("#!") {
            return Cow::Owned(CommandLine::Shell(data));
        }
        let script = self.inline(&first.name, 0o755, data, head, to);
        mounts.list.push(Mount {
            input: Some(inputs.add(script)),
            selector: "/".to_owned(),
            dest: SCRIPTS.to_owned(),
            output: None,
            readonly: true,
            kind: MountKind::Bind,
        });
        let script = crate::paths::absolute(SCRIPTS, &first.name);
        Cow::Owned(CommandLine::Shell(script))
    }
}

/// `--network`; the default is what the request says.
fn network(run: &Run, default: NetworkMode) -> NetworkMode {
    match run.network.as_ref().map(|word| word.text.as_str()) {
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        _ => default,
    }
}

fn security(run: &Run) -> SecurityMode {
    match run.security.as_ref().map(|word| word.text.as_str()) {
        Some("insecure") => SecurityMode::Insecure,
        _ => SecurityMode::Sandbox,
    }
}

/// The variables that are build arguments, and nothing else: of one name an ENV is what counts.
fn arguments(state: &State) -> Vec<String> {
    let is_env = |name: &str| {
        let is = |pair: &String| {
            let value = pair.strip_prefix(name);
            value.is_some_and(|value| value.starts_with('='))
        };
        state.config.config.env.iter().any(is)
    };
    let declared = state.args.iter().map(|(name, _)| name);
    declared.filter(|name| !is_env(name)).cloned().collect()
}

/// `RUN |1 A=1 /bin/sh -c true # buildkit`: the build arguments in front, with the values the process sees.
fn history(args: &[Cow<'_, str>], declared: &[(String, Option<String>)], env: &Env) -> String {
    let mut shown: Vec<(&str, &str)> = Vec::with_capacity(declared.len());
    for (name, value) in declared {
        let value = match env.get(name) {
            Some(value) => value,
            None => value.as_deref().unwrap_or_default(),
        };
        match shown.iter_mut().find(|(have, _)| have == name) {
            Some((_, have)) => *have = value,
            None => shown.push((name, value)),
        }
    }
    let pairs: usize = shown
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    let words: usize = args.iter().map(|arg| arg.len() + 1).sum();
    let mut line = String::with_capacity(pairs + words + 32);
    line.push_str("RUN");
    if !shown.is_empty() {
        line.push_str(" |");
        line.push_str(&shown.len().to_string());
    }
    for (name, value) in shown {
        line.extend([" ", name, "=", value]);
    }
    for arg in args {
        line.extend([" ", arg]);
    }
    line.push_str(" # buildkit");
    line
}

/// The first line of a script, with dots if there are more.
fn summary(script: &str) -> String {
    let script = script.trim();
    match script.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => script.to_owned(),
    }
}
