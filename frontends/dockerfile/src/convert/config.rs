//! Instructions that change the image config, and those that change variables.

use std::borrow::Cow;

use rbuild_llb::Diagnostic;
use rbuild_llb::Op;
use rbuild_llb::config::Empty;
use rbuild_llb::config::Healthcheck;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileOp;
use rbuild_llb::secrets::holds_secret;

use super::Building;
use super::Converted;
use super::Converter;
use super::State;
use super::copy::owner;
use super::meta;
use super::ports;
use super::quote::quote_all;
use super::signal::is_signal;
use crate::ast::Arg;
use crate::ast::CommandLine;
use crate::ast::Head;
use crate::ast::Pair;
use crate::ast::Word;
use crate::lint::Rule;
use crate::parse::format_duration;
use crate::paths;

/// Variables that steer the build and never reach a process.
const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Converter<'_> {
    pub(super) fn arg(&mut self, args: &[Arg], head: &Head, to: &mut Building) -> Converted<()> {
        let mut line = "ARG".to_owned();
        for arg in args {
            let name = &arg.name.text;
            self.secret("ARG", &arg.name, head);
            let value = match (self.build_args.get(name), &arg.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default, head, to)?),
                (None, None) => self.graph.globals.get(name).map(str::to_owned),
            };
            let given = self.build_args.contains_key(name) || arg.default.is_some();
            let inherited = !given && value.is_some();
            to.taken.arg(name, value.as_deref(), inherited, head);
            line.push_str(&format!(" {name}"));
            if let Some(value) = &value {
                line.push_str(&format!("={value}"));
                if !NOT_IN_ENV.contains(&name.as_str()) {
                    to.state.env.set(name, value);
                }
            }
            to.state.args.push((name.clone(), value));
        }
        to.state.history(line, true);
        Ok(())
    }

    pub(super) fn env(&mut self, pairs: &[Pair], head: &Head, to: &mut Building) -> Converted<()> {
        let mut line = "ENV".to_owned();
        let pairs = self.pairs(pairs, head, to)?;
        for (key, value) in &pairs {
            self.secret("ENV", key, head);
            line.push_str(&format!(" {}={value}", key.text));
            to.state.set_env(&key.text, value);
        }
        to.state.history(line, true);
        Ok(())
    }

    pub(super) fn label(
        &mut self,
        pairs: &[Pair],
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let mut line = "LABEL".to_owned();
        for (key, value) in self.pairs(pairs, head, to)? {
            line.push_str(&format!(" {}={value}", key.text));
            to.state.config_mut().config.labels.insert(key.text, value);
        }
        to.state.history(line, true);
        Ok(())
    }

    /// Expands the pairs of one instruction, all with the same variables.
    fn pairs(
        &mut self,
        pairs: &[Pair],
        head: &Head,
        to: &Building,
    ) -> Converted<Vec<(Word, String)>> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if pair.legacy {
                let name = &head.keyword.text;
                let message = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                let rule = Rule::LegacyKeyValueFormat;
                self.lint.report(rule, head, &head.span, message);
            }
            let key = Word {
                text: self.expand(&pair.key, head, to)?,
                span: pair.key.span.clone(),
            };
            expanded.push((key, self.expand(&pair.value, head, to)?));
        }
        Ok(expanded)
    }

    fn secret(&mut self, instruction: &str, name: &Word, head: &Head) {
        if holds_secret(&name.text) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} \"{}\")",
                name.text
            );
            let rule = Rule::SecretsUsedInArgOrEnv;
            self.lint.report(rule, head, &name.span, message);
        }
    }

    pub(super) fn cmd(
        &mut self,
        line: &CommandLine,
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let before = to.cmd.replace(head.clone());
        self.once(before, head);
        let args = self.arguments(line, head, to);
        to.state.history(format!("CMD {}", quote_all(&args)), true);
        to.state.config_mut().config.cmd = Some(args).filter(|args| !args.is_empty());
        // BuildKit sets it on every platform, so images built by either are the same.
        to.state.config_mut().config.args_escaped = true;
        Ok(())
    }

    pub(super) fn entrypoint(
        &mut self,
        line: &CommandLine,
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let before = to.entrypoint.replace(head.clone());
        self.once(before, head);
        let args = self.arguments(line, head, to);
        let shown = format!("ENTRYPOINT {}", quote_all(&args));
        to.state.history(shown, true);
        let config = &mut to.state.config_mut().config;
        config.entrypoint = Some(args).filter(|args| !args.is_empty());
        // A CMD of the base was meant for the base's entry point.
        if to.cmd.is_none() {
            config.cmd = None;
        }
        Ok(())
    }

    fn arguments(&mut self, line: &CommandLine, head: &Head, to: &Building) -> Vec<String> {
        if let CommandLine::Shell(_) = line
            && to
                .state
                .config
                .config
                .shell
                .as_ref()
                .is_none_or(Vec::is_empty)
        {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                head.keyword.text
            );
            let rule = Rule::JsonArgsRecommended;
            self.lint.report(rule, head, &head.span, message);
        }
        let args = to.state.arguments(line).into_iter();
        args.map(Cow::into_owned).collect()
    }

    /// Reports the instruction that the one at hand makes useless.
    fn once(&mut self, before: Option<Head>, head: &Head) {
        if let Some(before) = before {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                head.keyword.text
            );
            let rule = Rule::MultipleInstructionsDisallowed;
            self.lint.report(rule, head, &before.span, message);
        }
    }

    pub(super) fn healthcheck(
        &mut self,
        check: &Healthcheck,
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let before = to.healthcheck.replace(head.clone());
        self.once(before, head);
        let line = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            check.test.join(" "),
            format_duration(check.interval),
            format_duration(check.timeout),
            format_duration(check.start_period),
            format_duration(check.start_interval),
            check.retries
        );
        to.state.history(line, true);
        to.state.config_mut().config.healthcheck = Some(check.clone());
        Ok(())
    }

    pub(super) fn expose(
        &mut self,
        words: &[Word],
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        let mut all = Vec::new();
        for word in words {
            let expanded = self
                .shell
                .split(&word.text, &to.state.env)
                .map_err(|error| Diagnostic::error(error.to_string(), word.span.clone(), ""))?;
            for port in &expanded.words {
                let ports = ports::parse(port).map_err(|error| {
                    let message = format!("invalid port `{port}`");
                    Diagnostic::error(message, word.span.clone(), error.to_string())
                })?;
                if ports.odd_case {
                    let message = format!(
                        "Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    );
                    let rule = Rule::ExposeProtoCasing;
                    self.lint.report(rule, head, &word.span, message);
                }
                if ports.mapping {
                    let message = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    );
                    let rule = Rule::ExposeInvalidFormat;
                    self.lint.report(rule, head, &word.span, message);
                }
                all.extend(ports.list);
            }
        }
        to.state
            .history(format!("EXPOSE [{}]", all.join(" ")), true);
        let all = all.into_iter().map(|port| (port, Empty {}));
        to.state.config_mut().config.exposed_ports.extend(all);
        Ok(())
    }

    pub(super) fn volume(
        &mut self,
        words: &[Word],
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let mut all = Vec::new();
        for word in words {
            let path = self.expand(word, head, to)?;
            if path.is_empty() {
                let message = "`VOLUME` specified can not be an empty string";
                return Err(Box::new(Diagnostic::error(
                    message,
                    word.span.clone(),
                    "expands to nothing",
                )));
            }
            all.push(path);
        }
        to.state
            .history(format!("VOLUME [{}]", all.join(" ")), true);
        let all = all.into_iter().map(|path| (path, Empty {}));
        to.state.config_mut().config.volumes.extend(all);
        Ok(())
    }

    pub(super) fn stop_signal(
        &mut self,
        word: &Word,
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let signal = self.expand(word, head, to)?;
        if !is_signal(&signal) {
            let message = format!("invalid signal `{signal}`");
            let label = "a number or a name such as `SIGTERM`";
            return Err(Box::new(Diagnostic::error(
                message,
                word.span.clone(),
                label,
            )));
        }
        to.state.history(format!("STOPSIGNAL {signal}"), true);
        to.state.config_mut().config.stop_signal = signal;
        Ok(())
    }

    pub(super) fn user(&mut self, word: &Word, head: &Head, to: &mut Building) -> Converted<()> {
        let user = self.expand(word, head, to)?;
        to.state.history(format!("USER {user}"), true);
        to.state.user.clone_from(&user);
        to.state.config_mut().config.user = user;
        Ok(())
    }

    /// WORKDIR makes the directory, in a layer of its own, unless it is `/`.
    pub(super) fn workdir(&mut self, word: &Word, head: &Head, to: &mut Building) -> Converted<()> {
        let path = self.expand(word, head, to)?;
        if !to.state.workdir_set && !path.starts_with('/') {
            let message = format!(
                "Relative workdir \"{path}\" can have unexpected results if the base image changes"
            );
            let rule = Rule::WorkdirRelativePath;
            self.lint.report(rule, head, &word.span, message);
        }
        to.state.workdir_set = true;
        let dir = match path.starts_with('/') {
            // Absolute ones are kept as written, also in the config.
            true => path,
            false => paths::absolute(&to.state.config.config.working_dir, &path),
        };
        to.state.config_mut().config.working_dir.clone_from(&dir);
        to.state.dir = paths::clean(&dir);
        to.state.history(format!("WORKDIR {dir}"), dir == "/");
        if dir == "/" {
            return Ok(());
        }
        let root = to.state.root;
        let op = Op::File(FileOp {
            actions: vec![FileAction {
                input: root.map_or(FileInput::Scratch, |_| FileInput::Input(0)),
                secondary: FileInput::Scratch,
                output: Some(0),
                kind: FileActionKind::Mkdir {
                    path: to.state.dir.clone(),
                    mode: 0o755,
                    make_parents: true,
                    owner: owner(&to.state.config.config.user),
                    timestamp: self.request.source_date_epoch,
                },
            }],
        });
        let name = self.name(head, to);
        self.step(op, root.into_iter().collect(), meta(name, head, false), to);
        Ok(())
    }
}

impl State {
    /// The argv of a command line: with the shell in front if it is not in JSON form.
    pub(super) fn arguments(&self, line: &CommandLine) -> Vec<Cow<'static, str>> {
        match line {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(line) => {
                let line = || std::iter::once(Cow::Owned(line.clone()));
                match self.config.config.shell.as_deref() {
                    None | Some([]) => {
                        let shell = ["/bin/sh", "-c"].map(Cow::Borrowed);
                        shell.into_iter().chain(line()).collect()
                    }
                    Some(shell) => shell
                        .iter()
                        .cloned()
                        .map(Cow::Owned)
                        .chain(line())
                        .collect(),
                }
            }
        }
    }

    fn set_env(&mut self, key: &str, value: &str) {
        self.env.set(key, value);
        let pair = format!("{key}={value}");
        let list = &mut self.config_mut().config.env;
        let same = |have: &&mut String| have.split('=').next() == Some(key);
        match list.iter_mut().find(same) {
            Some(have) => *have = pair,
            None => list.push(pair),
        }
    }
}
