//! What a step does, as instructions in their fixed order: functions, then arguments, variables, directory, user, files,
//! commands, and the image's config.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rbuild_dockerfile::program::Arg;
use rbuild_dockerfile::program::CommandLine;
use rbuild_dockerfile::program::Heredoc;
use rbuild_dockerfile::program::Kind;
use rbuild_dockerfile::program::Pair;
use rbuild_dockerfile::program::Run;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Step as Instruction;
use rbuild_dockerfile::program::Word;
use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::op::SecurityMode;
use rbuild_llb::suggest::nearest_name;

use super::Lowering;
use super::fits;
use crate::modules::ModuleId;
use crate::read::Text;
use crate::schema::Body;
use crate::schema::Command;
use crate::schema::INHERITED;
use crate::schema::Network;
use crate::schema::PairGroup;
use crate::schema::Pairs;
use crate::schema::Param;
use crate::schema::ParamType;
use crate::schema::Step;
use crate::schema::Test;
use crate::schema::Use;
use crate::schema::Value;
use crate::schema::When;
use crate::values::Given;
use crate::values::Scope;
use crate::values::is_predefined;

/// What runs commands that are strings.
pub(crate) const SHELL: [&str; 3] = ["/bin/sh", "-e", "-c"];

/// A step and a test, as far as they are alike.
struct Staged<'s> {
    from: &'s Text,
    when: &'s When,
    uses: &'s [Use],
    body: Body<'s>,
}

impl Lowering<'_> {
    pub(super) fn make_step(
        &mut self,
        module: ModuleId,
        name: &str,
        step: &Step,
    ) -> Option<StageId> {
        let staged = Staged {
            from: &step.from.0,
            when: &step.when,
            uses: &step.r#use,
            body: step.body(),
        };
        let (stage, does) = self.make(module, name, &staged)?;
        if !does {
            return Some(stage);
        }
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        let mut whole = true;
        if let Some(image) = &step.image {
            whole &= self.image_config(stage, image, scope).is_some();
        }
        for part in &step.then {
            whole &= self.body(stage, part.body(), scope, None).is_some();
            if let Some(image) = &part.image {
                whole &= self.image_config(stage, image, scope).is_some();
            }
        }
        whole.then_some(stage)
    }

    /// A test as a stage; `None` within if it has nothing to do.
    pub(crate) fn make_test(
        &mut self,
        module: ModuleId,
        name: &str,
        test: &Test,
    ) -> Option<Option<StageId>> {
        let staged = Staged {
            from: &test.from.0,
            when: &test.when,
            uses: &test.r#use,
            body: test.body(),
        };
        let (stage, does) = self.make(module, name, &staged)?;
        Some(does.then_some(stage))
    }

    fn make(
        &mut self,
        module: ModuleId,
        name: &str,
        staged: &Staged<'_>,
    ) -> Option<(StageId, bool)> {
        let start = self.start(module, staged.from);
        let holds = self.holds(module, staged.when);
        // Whatever else is wrong with the step is said as well.
        let stage = self.program.stage(
            name,
            start
                .clone()
                .unwrap_or(rbuild_dockerfile::program::Start::Scratch),
            &self.place(module, staged.from),
        );
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        let mut whole = start.is_some();
        if holds? {
            for used in staged.uses {
                whole &= self.function(module, stage, used).is_some();
            }
            whole &= self
                .body(stage, staged.body, scope, Some(staged.from))
                .is_some();
        }
        whole.then_some((stage, holds?))
    }

    /// Puts the instructions of a function into a stage.
    fn function(&mut self, from: ModuleId, stage: StageId, used: &Use) -> Option<()> {
        let modules = self.modules;
        let found = modules.find(from, &used.function, "function", |file| &file.function);
        let (module, name, function) = match found {
            Ok(found) => found,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let caller = Scope {
            module: from,
            params: None,
            matrix: None,
        };
        let mut params = BTreeMap::new();
        let mut whole = true;
        for (key, value) in &used.values {
            let Some(param) = function.params.get(key) else {
                let message = format!("the function `{name}` has no parameter `{key}`");
                let error = Diagnostic::error(message, value.name.clone(), "");
                let known = function.params.keys().map(String::as_str);
                self.errors.push(match nearest_name(key, known.clone()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => {
                        let known: Vec<&str> = known.collect();
                        error.hint(format!("its parameters are `{}`", known.join("`, `")))
                    }
                });
                whole = false;
                continue;
            };
            match self.given(key, param.value.kind(), &value.value, caller) {
                Some(given) => {
                    params.insert(key.clone(), given);
                }
                None => whole = false,
            }
        }
        let own = Scope {
            module,
            params: None,
            matrix: None,
        };
        for (key, param) in &function.params {
            // Of a wrong name and a missing one, the first is the cause.
            if used.values.contains_key(key) || !whole {
                continue;
            }
            let default = match &param.value {
                Param::Table(table) => table.default.as_ref(),
                Param::Type(_) => None,
            };
            match default {
                Some(value) => {
                    let given = self.given(key, param.value.kind(), value, own);
                    whole &= given.is_some();
                    params.extend(given.map(|given| (key.clone(), given)));
                }
                None => {
                    let message = format!("the function `{name}` needs `{key}`");
                    self.errors.push(
                        Diagnostic::error(message, used.span.clone(), "")
                            .also(param.name.clone(), "the parameter"),
                    );
                    whole = false;
                }
            }
        }
        if !whole {
            return None;
        }
        let scope = Scope {
            module,
            params: Some(&params),
            matrix: None,
        };
        self.body(stage, function.body(), scope, None)
    }

    fn given(
        &mut self,
        name: &str,
        kind: ParamType,
        value: &Value,
        scope: Scope<'_>,
    ) -> Option<Given> {
        let (message, span) = match (kind, value) {
            (ParamType::List, Value::List(list)) => {
                let mut words = Vec::new();
                for text in &list.value {
                    words.extend(self.arguments(text, scope)?);
                }
                return Some(Given::List(words));
            }
            (ParamType::One(kind), Value::One(scalar)) if fits(kind, &scalar.text) => {
                let text = Text {
                    text: scalar.text.clone(),
                    span: scalar.span.clone(),
                };
                return self.plain(&text, scope).map(Given::One);
            }
            (ParamType::List, Value::One(scalar)) => ("an array of strings", &scalar.span),
            (ParamType::One(_), Value::List(list)) => ("one value", &list.span),
            (ParamType::One(crate::schema::Type::Bool), Value::One(scalar)) => {
                ("`true` or `false`", &scalar.span)
            }
            (ParamType::One(_), Value::One(scalar)) => ("an integer", &scalar.span),
        };
        let message = format!("the parameter `{name}` takes {message}");
        self.errors
            .push(Diagnostic::error(message, span.clone(), ""));
        None
    }

    fn body(
        &mut self,
        stage: StageId,
        body: Body<'_>,
        scope: Scope<'_>,
        from: Option<&Text>,
    ) -> Option<()> {
        let mut whole = true;
        for group in body.args {
            whole &= self.declare(stage, group, scope).is_some();
        }
        if let Some(env) = body.env {
            whole &= self.pairs(stage, env, scope, Kind::Env).is_some();
        }
        for (text, kind) in [
            (body.workdir, Kind::Workdir as fn(Word) -> Kind),
            (body.user, Kind::User),
        ] {
            if let Some(text) = text {
                whole &= self.one_word(stage, text, scope, kind).is_some();
            }
        }
        for copy in body.copy {
            whole &= self.copy(stage, copy, scope).is_some();
        }
        let mounts = self.mounts(body, scope, from);
        whole &= mounts.is_some();
        let (mut mounts, mut sources) = mounts.unwrap_or_default();
        if body.run.is_empty() && !mounts.is_empty() {
            let message = "mounts, caches, secrets and agents are for commands, and there is none";
            self.errors
                .push(Diagnostic::error(message, body.span.clone(), "").hint("add `run`"));
            whole = false;
        }
        for (at, command) in body.run.iter().enumerate() {
            let last = at + 1 == body.run.len();
            let run = self.command(command, body, scope);
            whole &= run.is_some();
            let Some((run, title, at)) = run else {
                continue;
            };
            // The last command needs no copies.
            let (mounts, sources) = match last {
                true => (std::mem::take(&mut mounts), std::mem::take(&mut sources)),
                false => (mounts.clone(), sources.clone()),
            };
            let run = Run { mounts, ..run };
            self.program.push(
                stage,
                Instruction {
                    kind: Kind::Run(run),
                    sources,
                    title: Some(title),
                    at,
                },
            );
        }
        whole.then_some(())
    }

    /// Makes arguments variables of the commands, those of a group with one instruction.
    fn declare(&mut self, stage: StageId, group: &PairGroup, scope: Scope<'_>) -> Option<()> {
        let mut args = Vec::with_capacity(group.0.len());
        let mut whole = true;
        for text in &group.0 {
            // A stage has the arguments of what it starts from.
            if text.text == INHERITED {
                continue;
            }
            let arg = self.declared(text, scope);
            whole &= arg.is_some();
            args.extend(arg);
        }
        if let Some(first) = group.0.first().filter(|_| !args.is_empty()) {
            self.instruction(stage, Kind::Arg(args), &first.span);
        }
        whole.then_some(())
    }

    fn declared(&mut self, text: &Text, scope: Scope<'_>) -> Option<Arg> {
        let (name, own) = match text.text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.text.as_str(), None),
        };
        let own = match own {
            Some(value) => {
                let value = Text {
                    text: value.to_owned(),
                    span: text.span.clone(),
                };
                Some(self.word(&value, scope)?)
            }
            None => None,
        };
        let given = match (is_predefined(name), &own) {
            (true, _) => None,
            (false, None) => self.arg_value(scope.module, name, &text.span)?,
            (false, Some(_)) => self.given_value(scope.module, name),
        };
        // The variable has the argument's own name, whichever file the argument is from.
        let variable = name.rsplit('.').next().unwrap_or_default();
        let value = match given {
            Some(given) => Some(rbuild_dockerfile::program::literal(&given)),
            None => own,
        };
        Some(Arg {
            name: word(variable.to_owned(), &text.span),
            default: value.map(|value| word(value, &text.span)),
        })
    }

    pub(super) fn one_word(
        &mut self,
        stage: StageId,
        text: &Text,
        scope: Scope<'_>,
        kind: fn(Word) -> Kind,
    ) -> Option<()> {
        let value = self.word(text, scope)?;
        self.instruction(stage, kind(word(value, &text.span)), &text.span);
        Some(())
    }

    pub(super) fn instruction(&mut self, stage: StageId, kind: Kind, at: &Span) {
        self.program.push(
            stage,
            Instruction {
                kind,
                sources: Vec::new(),
                title: None,
                at: at.clone(),
            },
        );
    }

    /// ENV and LABEL: of a table one instruction with its names in order, of a list one for each entry.
    pub(super) fn pairs(
        &mut self,
        stage: StageId,
        pairs: &Pairs,
        scope: Scope<'_>,
        kind: fn(Vec<Pair>) -> Kind,
    ) -> Option<()> {
        let mut whole = true;
        match pairs {
            Pairs::Table(table) => {
                let mut list = Vec::with_capacity(table.len());
                for (name, value) in table {
                    match self.word(&value.value, scope) {
                        Some(text) => list.push(pair(name, text, &value.value.span)),
                        None => whole = false,
                    }
                }
                if let Some(first) = table.values().next() {
                    self.instruction(stage, kind(list), &first.name);
                }
            }
            Pairs::List(groups) => {
                for group in groups {
                    let mut list = Vec::with_capacity(group.0.len());
                    for text in &group.0 {
                        let Some((name, value)) = text.text.split_once('=') else {
                            let message = format!("`{}` is no variable", text.text);
                            let label = "`NAME=value`";
                            self.errors
                                .push(Diagnostic::error(message, text.span.clone(), label));
                            whole = false;
                            continue;
                        };
                        let value = Text {
                            text: value.to_owned(),
                            span: text.span.clone(),
                        };
                        match self.word(&value, scope) {
                            Some(value) => list.push(pair(name, value, &text.span)),
                            None => whole = false,
                        }
                    }
                    if let Some(first) = group.0.first() {
                        self.instruction(stage, kind(list), &first.span);
                    }
                }
            }
        }
        whole.then_some(())
    }

    /// A command with how people see it and its place.
    fn command(
        &mut self,
        command: &Command,
        body: Body<'_>,
        scope: Scope<'_>,
    ) -> Option<(Run, String, Span)> {
        let mut run = Run {
            command: CommandLine::Exec(Vec::new()),
            heredocs: Vec::new(),
            mounts: Vec::new(),
            network: match body.network {
                Some(network) => network_word(&network.value, &network.span),
                None => network_word(&Network::None, body.span),
            },
            security: body
                .security
                .filter(|security| security.value == SecurityMode::Insecure)
                .map(|security| word("insecure".to_owned(), &security.span)),
            devices: Vec::new(),
        };
        match command {
            Command::Line(text) if text.text.trim().is_empty() => {
                let message = "this command is empty";
                self.errors
                    .push(Diagnostic::error(message, text.span.clone(), ""));
                None
            }
            // A script of its own, which its first line says who runs.
            Command::Line(text) if text.text.starts_with("#!") => {
                let content = self.plain(text, scope)?;
                let end = if content.ends_with('\n') { "" } else { "\n" };
                let title = title(&content);
                run.command = CommandLine::Shell("<<EOF".to_owned());
                run.heredocs.push(Heredoc {
                    name: "EOF".to_owned(),
                    expand: false,
                    chomp: false,
                    content: content + end,
                });
                Some((run, title, text.span.clone()))
            }
            Command::Line(text) => {
                let line = self.line(text, scope)?;
                let title = title(&line);
                let mut args = Vec::with_capacity(SHELL.len() + 1);
                match body.shell {
                    Some(shell) => {
                        let words = shell.value.iter().map(|word| word.text.clone());
                        args.extend(words.map(Cow::Owned));
                    }
                    None => args.extend(SHELL.map(Cow::Borrowed)),
                }
                args.push(Cow::Owned(line));
                run.command = CommandLine::Exec(args);
                Some((run, title, text.span.clone()))
            }
            Command::Exec(list) => {
                let mut args = Vec::with_capacity(list.value.len());
                for text in &list.value {
                    args.extend(self.arguments(text, scope)?);
                }
                if args.is_empty() {
                    let message = "this command has no program";
                    self.errors
                        .push(Diagnostic::error(message, list.span.clone(), ""));
                    return None;
                }
                let title = title(&args.join(" "));
                run.command = CommandLine::Exec(args.into_iter().map(Cow::Owned).collect());
                Some((run, title, list.span.clone()))
            }
        }
    }
}

impl Param {
    fn kind(&self) -> ParamType {
        match self {
            Self::Type(kind) => kind.value,
            Self::Table(table) => table.r#type.value,
        }
    }
}

/// `None` is what builds have.
fn network_word(network: &Network, at: &Span) -> Option<Word> {
    match network {
        Network::None => Some(word("none".to_owned(), at)),
        Network::Host => Some(word("host".to_owned(), at)),
        Network::Default => None,
    }
}

/// A command as people see it: its first line.
fn title(command: &str) -> String {
    let command = command.trim();
    match command.split_once('\n') {
        Some((first, _)) => format!("RUN {} …", first.trim_end()),
        None => ["RUN ", command].concat(),
    }
}

pub(super) fn word(text: String, at: &Span) -> Word {
    Word {
        text,
        span: at.clone(),
    }
}

fn pair(name: &str, value: String, at: &Span) -> Pair {
    Pair {
        key: word(rbuild_dockerfile::program::literal(name), at),
        value: word(value, at),
        legacy: false,
    }
}
