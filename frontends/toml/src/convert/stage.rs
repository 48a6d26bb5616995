//! Instructions of a stage.

use std::collections::BTreeSet;

use rbuild_dockerfile::file;
use rbuild_dockerfile::file::Instruction;
use rbuild_dockerfile::file::format_duration;
use rbuild_dockerfile::program::Arg;
use rbuild_dockerfile::program::CommandLine;
use rbuild_dockerfile::program::Heredoc;
use rbuild_dockerfile::program::Kind;
use rbuild_dockerfile::program::Pair;
use rbuild_dockerfile::program::Run;
use rbuild_dockerfile::program::Transfer;
use rbuild_dockerfile::program::Word;
use rbuild_llb::Span;
use rbuild_llb::config::Healthcheck;

use super::Converter;
use super::parts::Parts;
use super::parts::Settings;
use super::parts::Slot;
use super::values::Variable;
use super::values::Variables;
use super::values::escape;
use super::write::Item;
use super::write::Value;

/// What runs shell lines where no SHELL says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A stage, as far as it is said.
#[derive(Debug, Clone, Default)]
pub(super) struct Building {
    /// Which of the file's stages it is.
    pub(super) index: usize,
    pub(super) variables: Variables,
    /// ARGs of it, and of what it starts from.
    pub(super) declared: BTreeSet<String>,
    pub(super) shell: Option<Vec<String>>,
    pub(super) parts: Parts,
    pub(super) onbuild: Vec<Item>,
}

impl Building {
    /// A stage that starts from this one.
    pub(super) fn child(&self, index: usize) -> Self {
        Self {
            index,
            parts: Parts::default(),
            onbuild: Vec::new(),
            ..self.clone()
        }
    }

    fn shell(&self) -> Vec<String> {
        match &self.shell {
            Some(shell) => shell.clone(),
            None => SHELL.map(str::to_owned).to_vec(),
        }
    }
}

impl Converter<'_> {
    /// Says what a stage does.
    pub(super) fn instructions(&mut self, commands: &[&Instruction], to: &mut Building) {
        let does = |kind: &Kind| {
            matches!(
                kind,
                Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Arg(_)
            )
        };
        let last = commands.iter().rposition(|one| does(&one.kind));
        for (at, instruction) in commands.iter().enumerate() {
            // Behind the last command nothing but the image's config is left.
            let config = last.is_none_or(|last| at > last);
            self.instruction(instruction, config, to);
        }
    }

    fn instruction(&mut self, instruction: &Instruction, config: bool, to: &mut Building) {
        let at = &instruction.head.span;
        let choose = |body: Slot, image: Slot| if config { image } else { body };
        let (slot, value) = match &instruction.kind {
            Kind::Add(add) => return self.copies(add, instruction, true, to),
            Kind::Copy(copy) => return self.copies(copy, instruction, false, to),
            Kind::Run(run) => return self.run(run, instruction, to),
            Kind::Arg(args) => (Slot::Args, self.args(args, to)),
            Kind::Env(pairs) => {
                let value = self.pairs(pairs, to);
                // All of an instruction are expanded with what was there before it.
                let set = pairs.iter().map(|pair| {
                    let name = self.name(&pair.key, to);
                    let value = to.variables.variable(&pair.value.text, self.ast.escape);
                    (name, value)
                });
                let set: Vec<(String, Variable)> = set.collect();
                to.variables.known.extend(set);
                (choose(Slot::Env, Slot::ImageEnv), value)
            }
            Kind::Label(pairs) => (Slot::Labels, self.pairs(pairs, to)),
            Kind::Workdir(word) => {
                let value = self.word(word, to).into();
                (choose(Slot::Workdir, Slot::ImageWorkdir), value)
            }
            Kind::User(word) => {
                let value = self.word(word, to).into();
                (choose(Slot::User, Slot::ImageUser), value)
            }
            Kind::Maintainer(word) => (Slot::Author, escape(&word.text).into()),
            Kind::Shell(shell) => {
                to.shell = Some(shell.clone());
                (Slot::Shell, literal_list(shell))
            }
            Kind::StopSignal(word) => (Slot::StopSignal, self.word(word, to).into()),
            Kind::Expose(words) => (Slot::Expose, self.list(words, to)),
            Kind::Volume(words) => (Slot::Volumes, self.list(words, to)),
            Kind::Entrypoint(line) => (Slot::Entrypoint, arguments(line, to)),
            Kind::Cmd(line) => (Slot::Cmd, arguments(line, to)),
            Kind::Healthcheck(check) => (Slot::Healthcheck, healthcheck(check)),
            Kind::Onbuild(trigger) => {
                to.onbuild.push(Item {
                    comments: instruction.head.comments.clone(),
                    value: escape(trigger).into(),
                });
                return;
            }
        };
        if value == Value::List(Vec::new()) && slot == Slot::Args {
            self.lose(at, "an ARG whose name a plan cannot have", "it is left out");
            return;
        }
        let item = Item {
            comments: instruction.head.comments.clone(),
            value,
        };
        to.parts.push(slot, item, Settings::new());
    }

    fn copies(
        &mut self,
        transfer: &Transfer,
        instruction: &Instruction,
        adds: bool,
        to: &mut Building,
    ) {
        let mut comments = instruction.head.comments.clone();
        for fields in self.transfer(transfer, instruction, adds, to) {
            let item = Item {
                comments: std::mem::take(&mut comments),
                value: Value::Table(fields),
            };
            to.parts.push(Slot::Copy, item, Settings::new());
        }
    }

    fn run(&mut self, run: &Run, instruction: &Instruction, to: &mut Building) {
        let at = &instruction.head.span;
        let mut settings = Settings::new();
        let value = match &run.command {
            CommandLine::Exec(args) => literal_list(args),
            CommandLine::Shell(line) => {
                let script = self.script(line, &run.heredocs, at);
                let document = !run.heredocs.is_empty() && file::is_heredoc(line);
                match script.trim().is_empty() || (script.starts_with("#!") && !document) {
                    // A string would be no command, or a script.
                    true => {
                        let mut args = to.shell();
                        args.push(script);
                        literal_list(&args)
                    }
                    false => escape(&script).into(),
                }
            }
        };
        if matches!(value, Value::Text(_)) {
            settings.push(("shell", literal_list(&to.shell())));
        }
        let network = run.network.as_ref().map(|word| word.text.as_str());
        settings.push((
            "network",
            match network {
                Some("none") => Value::Flag(false),
                Some("host") => "host".into(),
                _ => Value::Flag(true),
            },
        ));
        if run.security.as_ref().is_some_and(|w| w.text == "insecure") {
            settings.push(("security", "insecure".into()));
        }
        settings.extend(self.mounts(&run.mounts, to));
        if !run.devices.is_empty() {
            self.lose(at, "`--device`", "it is left out");
        }
        let item = Item {
            comments: instruction.head.comments.clone(),
            value,
        };
        to.parts.push(Slot::Run, item, settings);
    }

    /// A shell line with its here-documents.
    fn script(&mut self, line: &str, heredocs: &[Heredoc], at: &Span) -> String {
        let Some(first) = heredocs.first() else {
            return line.to_owned();
        };
        if !file::is_heredoc(line) {
            let mut script = line.to_owned();
            for heredoc in heredocs {
                script.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            return script;
        }
        let data = first.data();
        if data.starts_with("#!") && first.name != "EOF" {
            let what = format!("the name `{}` of a script", first.name);
            self.lose(
                at,
                &what,
                "it is `EOF`, which the history of the image says",
            );
        }
        data
    }

    /// ARG: `NAME`, or `NAME=value` where the value is not that of the plan's argument.
    fn args(&mut self, args: &[Arg], to: &mut Building) -> Value {
        let mut list: Vec<Item> = Vec::with_capacity(args.len());
        for arg in args {
            let name = &arg.name.text;
            to.declared.insert(name.clone());
            let own = arg
                .default
                .as_ref()
                .map(|default| (default, self.word(default, to)));
            let plan = self.args.get(name);
            let global = self.globals.known.get(name).cloned();
            let (text, variable) = match own {
                Some((default, _)) if plan.is_some_and(|plan| plan.is(&default.text)) => {
                    let mut variable = to.variables.variable(&default.text, self.ast.escape);
                    variable.template = Some(format!("{{args.{name}}}"));
                    variable.fixed = false;
                    (name.clone(), variable)
                }
                Some((default, text)) => {
                    let mut variable = to.variables.variable(&default.text, self.ast.escape);
                    variable.template = None;
                    variable.fixed = false;
                    (format!("{name}={text}"), variable)
                }
                None if name == "TARGETSTAGE" => {
                    let target = self.target();
                    if target != "default" || self.ast.stages.len() > 1 {
                        let instead = format!("it is always `{target}`");
                        self.lose(&arg.name.span, "the stage that is built", &instead);
                    }
                    (format!("{name}={target}"), Variable::fixed(&target))
                }
                None if global.is_some() && plan.is_none() && self.redefined.contains(name) => {
                    let global = global.unwrap_or_default();
                    let value = global.template.clone().unwrap_or_default();
                    (format!("{name}={value}"), global)
                }
                None => (name.clone(), global.unwrap_or_default()),
            };
            if name.contains(['.', '{', '}', '[', ']', '=']) {
                continue;
            }
            // One without a value leaves the variable that is there.
            if variable.value.is_some()
                || arg.default.is_some()
                || !to.variables.known.contains_key(name)
            {
                to.variables.known.insert(name.clone(), variable);
            }
            list.push(text.into());
        }
        match list.len() {
            1 => list.remove(0).value,
            _ => Value::List(list),
        }
    }

    /// The name of a variable or label.
    fn name(&mut self, key: &Word, to: &Building) -> String {
        let said = to.variables.current(&key.text, self.ast.escape);
        self.take(said, &key.span)
    }

    /// ENV and LABEL: one `NAME=value`, or all of an instruction.
    fn pairs(&mut self, pairs: &[Pair], to: &Building) -> Value {
        let mut list: Vec<Item> = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let name = self.name(&pair.key, to);
            list.push(format!("{name}={}", self.word(&pair.value, to)).into());
        }
        match list.len() {
            1 => list.remove(0).value,
            _ => Value::List(list),
        }
    }

    fn list(&mut self, words: &[Word], to: &Building) -> Value {
        let list: Vec<String> = words.iter().map(|word| self.word(word, to)).collect();
        list.into()
    }
}

fn literal_list<T: AsRef<str>>(list: &[T]) -> Value {
    let list: Vec<String> = list.iter().map(|text| escape(text.as_ref())).collect();
    list.into()
}

/// The arguments of CMD and ENTRYPOINT, with the shell in front of a line.
fn arguments(line: &CommandLine, to: &Building) -> Value {
    match line {
        CommandLine::Exec(args) => literal_list(args),
        CommandLine::Shell(line) => {
            let mut args = to.shell();
            args.push(line.clone());
            literal_list(&args)
        }
    }
}

fn healthcheck(check: &Healthcheck) -> Value {
    let command = match check.test.as_slice() {
        [kind, line] if kind == "CMD-SHELL" => Value::from(escape(line)),
        [kind, args @ ..] if kind == "CMD" => literal_list(args),
        _ => return Value::Flag(false),
    };
    let mut fields = vec![("cmd".to_owned(), command)];
    for (name, value) in [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
    ] {
        if value != 0 {
            fields.push((name.to_owned(), format_duration(value).into()));
        }
    }
    if check.retries != 0 {
        fields.push(("retries".to_owned(), Value::Number(check.retries)));
    }
    Value::Table(fields)
}
