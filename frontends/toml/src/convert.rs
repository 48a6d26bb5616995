//! A Dockerfile as a plan; `back`: a plan as a Dockerfile.
//!
//! Nothing in the plan rests on what languages do where nothing is said: shells, the network, modes of the context's
//! files and times are all written down. What a plan cannot say is a loss, which is named.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_dockerfile::file;
use rbuild_dockerfile::file::Ast;
use rbuild_dockerfile::file::Stage;
use rbuild_dockerfile::program::Word;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::Severity;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::pattern::PatternSet;

use crate::schema::VERSION;
use crate::values::is_predefined;

mod back;
mod parts;
mod stage;
mod transfer;
mod values;
mod write;

use parts::Part;
use parts::Slot;
use stage::Building;
use values::Said;
use values::Variable;
use values::Variables;
use write::Item;
use write::Value;

/// PATH where there is no base image.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a file becomes in the other language.
#[derive(Debug)]
pub struct Rewritten {
    pub text: String,
    /// What it cannot say, as warnings.
    pub losses: Vec<Diagnostic>,
}

/// Writes the plan that says what a Dockerfile says; `ignore` is its `.dockerignore`, `platform` the builder's own.
///
/// # Errors
/// What is wrong with the Dockerfile.
pub fn to_plan(
    source: &Arc<SourceFile>,
    ignore: Option<&str>,
    platform: &Platform,
) -> Result<Rewritten, Vec<Diagnostic>> {
    let ast = file::parse(source)?;
    let mut converter = Converter::new(&ast, ignore, platform);
    converter.arguments();
    for index in 0..ast.stages.len() {
        converter.stage(index);
    }
    let text = converter.document();
    let mut losses = converter.losses;
    losses.sort_by_key(|loss| loss.labels.first().map(|label| label.span.range.start));
    losses.dedup();
    Ok(Rewritten { text, losses })
}

/// An argument of the plan.
#[derive(Debug, Clone, Default)]
struct PlanArg {
    comments: Vec<String>,
    /// Its default in the plan.
    default: Option<String>,
    /// The default as the Dockerfile has it.
    written: Option<String>,
}

impl PlanArg {
    /// Whether a default is the plan's.
    fn is(&self, written: &str) -> bool {
        self.written.as_deref() == Some(written)
    }
}

/// A stage that is a step.
#[derive(Debug)]
struct Step {
    /// Its name in the plan.
    name: String,
    from: String,
    building: Building,
    comments: Vec<String>,
}

/// A Dockerfile on its way to a plan.
struct Converter<'a> {
    ast: &'a Ast,
    ignore: Option<&'a str>,
    losses: Vec<Diagnostic>,
    globals: Variables,
    args: BTreeMap<String, PlanArg>,
    /// Predefined arguments that the file gives a default.
    redefined: BTreeSet<String>,
    inputs: Vec<(String, Vec<(String, Value)>)>,
    caches: Vec<(String, Vec<(String, Value)>)>,
    /// Names of steps and inputs.
    taken: BTreeSet<String>,
    /// The names that stages have as steps.
    names: Vec<String>,
    steps: Vec<Step>,
    /// Stages that others start from or take files from.
    used: BTreeSet<usize>,
}

impl<'a> Converter<'a> {
    fn new(ast: &'a Ast, ignore: Option<&'a str>, platform: &Platform) -> Self {
        let mut taken = BTreeSet::from(["scratch".to_owned()]);
        let last = ast.stages.len() - 1;
        let mut names = Vec::with_capacity(ast.stages.len());
        for (at, stage) in ast.stages.iter().enumerate() {
            let name = match &stage.name {
                Some(name) => name.text.to_lowercase(),
                None if at == last => "app".to_owned(),
                None => format!("stage-{at}"),
            };
            names.push(unique(&name, &mut taken));
        }
        let mut converter = Self {
            ast,
            ignore,
            losses: Vec::new(),
            globals: Variables::default(),
            args: BTreeMap::new(),
            redefined: BTreeSet::new(),
            inputs: Vec::new(),
            caches: Vec::new(),
            taken,
            names,
            steps: Vec::new(),
            used: BTreeSet::new(),
        };
        for (prefix, root) in [("BUILD", "build.platform"), ("TARGET", "platform")] {
            for (suffix, part, value) in [
                ("PLATFORM", "", platform.to_string()),
                ("OS", ".os", platform.os.clone()),
                ("ARCH", ".arch", platform.arch.clone()),
                ("VARIANT", ".variant", platform.variant.clone()),
            ] {
                let variable = Variable {
                    template: Some(format!("{{{root}{part}}}")),
                    value: Some(value),
                    fixed: false,
                };
                converter
                    .globals
                    .known
                    .insert(format!("{prefix}{suffix}"), variable);
            }
            let name = format!("{prefix}OSVERSION");
            converter.globals.known.insert(name, Variable::fixed(""));
        }
        converter
    }

    /// The stage that is built where none is named.
    fn target(&self) -> String {
        let name = self.ast.stages.last().and_then(|stage| stage.name.as_ref());
        name.map_or_else(|| "default".to_owned(), |name| name.text.to_lowercase())
    }

    /// Notes what the plan does not say.
    fn lose(&mut self, span: &Span, what: &str, instead: &str) {
        self.losses.push(loss("a plan", span, what, instead));
    }

    /// The text of a value, with its losses noted.
    fn take(&mut self, said: Result<Said, String>, span: &Span) -> String {
        match said {
            Ok(said) => {
                for (written, value) in &said.frozen {
                    let instead = match value.is_empty() {
                        true => {
                            "nothing is written in its place, which is what it is now".to_owned()
                        }
                        false => format!("it is written as what it is now: `{value}`"),
                    };
                    self.lose(span, &format!("`{written}`"), &instead);
                }
                said.text
            }
            Err(problem) => {
                self.lose(span, &problem, "it is left out");
                String::new()
            }
        }
    }

    /// A word where `{env.NAME}` can stand.
    fn word(&mut self, word: &Word, to: &Building) -> String {
        let said = to.variables.word(&word.text, self.ast.escape);
        self.take(said, &word.span)
    }

    /// The arguments of the plan.
    fn arguments(&mut self) {
        let escape = self.ast.escape;
        let ast = self.ast;
        for (head, args) in &ast.meta {
            for arg in args {
                let name = &arg.name.text;
                let said = arg.default.as_ref().map(|default| {
                    let said = self.globals.plain(&default.text, escape);
                    (self.take(said, &default.span), default)
                });
                let value = said
                    .as_ref()
                    .and_then(|(_, default)| self.globals.variable(&default.text, escape).value);
                if name == "SOURCE_DATE_EPOCH" {
                    self.lose(&head.span, "SOURCE_DATE_EPOCH", "give it to the build");
                }
                if is_predefined(name) {
                    if let Some((text, _)) = said {
                        let variable = Variable {
                            template: Some(text),
                            value,
                            fixed: false,
                        };
                        self.globals.known.insert(name.clone(), variable);
                        self.redefined.insert(name.clone());
                    }
                    continue;
                }
                let plan = self.args.entry(name.clone()).or_default();
                plan.comments.extend(head.comments.iter().cloned());
                let variable = self.globals.known.entry(name.clone()).or_default();
                if let Some((text, default)) = said {
                    plan.default = Some(text);
                    plan.written = Some(default.text.clone());
                    variable.template = Some(format!("{{args.{name}}}"));
                    variable.value = value;
                }
            }
        }
        let stages = self.stage_defaults();
        for (name, plan) in &mut self.args {
            // Where only FROM asks for it, no value is the same as an empty one.
            if plan.default.is_none() && !stages.contains_key(name) {
                plan.default = Some(String::new());
                let variable = self.globals.known.entry(name.clone()).or_default();
                variable.template = Some(format!("{{args.{name}}}"));
                variable.value = Some(String::new());
            }
        }
        for (name, defaults) in stages {
            if is_predefined(&name) || self.args.contains_key(&name) {
                continue;
            }
            let mut plan = PlanArg::default();
            if let [Some(default)] = defaults.iter().collect::<Vec<_>>().as_slice()
                && let said = Variables::default().plain(default, escape)
                && let Ok(said) = said
                && file::pieces(default, escape)
                    .is_ok_and(|pieces| pieces.iter().all(|p| matches!(p, file::Piece::Text(_))))
            {
                plan.default = Some(said.text);
                plan.written = Some(default.clone());
            }
            self.args.insert(name, plan);
        }
    }

    /// The defaults that stages give each argument.
    fn stage_defaults(&self) -> BTreeMap<String, BTreeSet<Option<String>>> {
        let mut defaults: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
        let commands = self.ast.stages.iter().flat_map(|stage| &stage.commands);
        for command in commands {
            let rbuild_dockerfile::program::Kind::Arg(args) = &command.kind else {
                continue;
            };
            for arg in args {
                let default = arg.default.as_ref().map(|word| word.text.clone());
                defaults
                    .entry(arg.name.text.clone())
                    .or_default()
                    .insert(default);
            }
        }
        defaults
    }

    fn stage(&mut self, index: usize) {
        let ast = self.ast;
        let stage = &ast.stages[index];
        let (from, mut building) = self.base(stage, index);
        let commands: Vec<_> = stage.commands.iter().map(|command| &**command).collect();
        self.instructions(&commands, &mut building);
        self.steps.push(Step {
            name: self.names[index].clone(),
            from,
            building,
            comments: stage.head.comments.clone(),
        });
    }

    /// What a stage starts from, and the stage as it is then.
    fn base(&mut self, stage: &Stage, index: usize) -> (String, Building) {
        let escape = self.ast.escape;
        let said = self.globals.plain(&stage.base.text, escape);
        let now = self.globals.variable(&stage.base.text, escape);
        let value = now.value.unwrap_or_default();
        let earlier = self.ast.stages[..index].iter().rposition(|stage| {
            let name = stage.name.as_ref();
            name.is_some_and(|name| name.text.to_lowercase() == value)
        });
        if (earlier.is_some() || value == "scratch") && !now.fixed {
            let instead = format!("it is `{value}`, whatever the argument is");
            self.lose(
                &stage.base.span,
                "the name of a stage in an argument",
                &instead,
            );
        }
        if let Some(earlier) = earlier {
            self.used.insert(earlier);
            self.triggers(stage, earlier);
            let step = &self.steps[earlier];
            return (step.name.clone(), step.building.child(index));
        }
        let mut building = Building {
            index,
            ..Building::default()
        };
        if value == "scratch" {
            let path = Variable::fixed(DEFAULT_PATH);
            building.variables.known.insert("PATH".to_owned(), path);
            return (value, building);
        }
        building.variables.open = true;
        let image = self.take(said, &stage.base.span);
        let platform = stage.platform.as_ref().map(|word| {
            let said = self.globals.plain(&word.text, escape);
            self.take(said, &word.span)
        });
        (self.image(&image, platform.as_deref()), building)
    }

    /// Notes what triggers of a stage that another starts from cannot take from the plan.
    fn triggers(&mut self, stage: &Stage, from: usize) {
        let triggers: Vec<String> = self.steps[from].triggers().collect();
        for trigger in triggers {
            let keyword = trigger.split_whitespace().next().unwrap_or_default();
            if keyword.eq_ignore_ascii_case("arg") {
                let what = format!("`ONBUILD {trigger}` in a stage that this one starts from");
                let instead = "it has its default, whatever the build is given";
                self.lose(&stage.base.span, &what, instead);
            } else if trigger.contains("from=") {
                let what = format!("`ONBUILD {trigger}` in a stage that this one starts from");
                let instead = "it cannot name a stage of the file";
                self.lose(&stage.base.span, &what, instead);
            }
        }
    }

    /// What the `--from` of a COPY means: also the number of a stage.
    fn copy_source(&mut self, from: &str, index: usize) -> String {
        match from.parse::<usize>() {
            Ok(stage) if stage < self.names.len() => {
                self.used.insert(stage);
                self.names[stage].clone()
            }
            _ => self.source(from, index),
        }
    }

    /// What the `from` of a mount means.
    fn source(&mut self, from: &str, index: usize) -> String {
        let stages = &self.ast.stages;
        let named = stages.iter().rposition(|stage| {
            let name = stage.name.as_ref();
            name.is_some_and(|name| name.text.to_lowercase() == from.to_lowercase())
        });
        match named {
            Some(stage) => {
                if stage != index {
                    self.used.insert(stage);
                }
                self.names[stage].clone()
            }
            None if from == "scratch" => from.to_owned(),
            None => self.image(from, None),
        }
    }

    fn image(&mut self, image: &str, platform: Option<&str>) -> String {
        let mut fields = vec![("image".to_owned(), Value::from(image))];
        match platform {
            None | Some("{platform}") => {}
            Some("{build.platform}") => fields.push(("platform".to_owned(), "build".into())),
            Some(other) => fields.push(("platform".to_owned(), other.into())),
        }
        let name = image.split('@').next().unwrap_or_default();
        let last = name.rsplit('/').next().unwrap_or_default();
        let name = match last.split(':').next().unwrap_or_default() {
            // An argument stands for the name: `{args.BASE}`.
            "" => "base",
            name if name.contains('{') => "base",
            name => name,
        };
        self.input(name, fields)
    }

    /// The build context.
    fn context(&mut self, at: &Span) -> String {
        let mut fields = vec![("local".to_owned(), Value::from("."))];
        let lines = self.ignore.unwrap_or_default().lines();
        let lines = lines
            .map(|line| line.trim_start_matches('\u{feff}'))
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let mut patterns: Vec<String> = Vec::new();
        for line in lines {
            let pattern = match line.trim() {
                // Only at the very start of a line it is a comment.
                pattern if pattern.starts_with('#') => line,
                pattern => pattern,
            };
            let plain = pattern.trim().trim_start_matches('!').to_owned();
            if PatternSet::new(&[plain]).is_err() {
                let what = format!("the pattern `{}` of the ignore file", pattern.trim());
                self.lose(at, &what, "it is left out: nothing is built with it");
                continue;
            }
            patterns.push(pattern.to_owned());
        }
        if !patterns.is_empty() {
            fields.push(("exclude".to_owned(), patterns.into()));
        }
        fields.push(("modes".to_owned(), "exact".into()));
        self.input("context", fields)
    }

    /// The name of an input.
    fn input(&mut self, name: &str, fields: Vec<(String, Value)>) -> String {
        if let Some((name, _)) = self.inputs.iter().find(|(_, have)| *have == fields) {
            return name.clone();
        }
        let kind = fields
            .first()
            .map_or("", |(kind, _)| kind.as_str())
            .to_owned();
        let name = simple(name);
        let name = match self.taken.contains(&name) {
            true => unique(&format!("{name}-{kind}"), &mut self.taken),
            false => unique(&name, &mut self.taken),
        };
        self.inputs.push((name.clone(), fields));
        name
    }

    /// The name of a cache.
    fn cache(&mut self, name: &str, fields: Vec<(String, Value)>) -> String {
        if let Some((name, _)) = self.caches.iter().find(|(_, have)| *have == fields) {
            return name.clone();
        }
        let mut taken: BTreeSet<String> =
            self.caches.iter().map(|(name, _)| name.clone()).collect();
        let name = simple(name.trim_matches('/'));
        let name = unique(&name, &mut taken);
        self.caches.push((name.clone(), fields));
        name
    }

    /// The plan.
    fn document(&mut self) -> String {
        let outputs: Vec<usize> = (0..self.steps.len())
            .filter(|at| !self.used.contains(at) || at + 1 == self.steps.len())
            .collect();
        let mut out = format!("schema = {VERSION}\n");
        if outputs.len() > 1
            && let Some(last) = self.names.last()
        {
            write::entry("default", &Item::from(vec![last.clone()]), &mut out);
        }
        self.sections(&mut out);
        let steps = std::mem::take(&mut self.steps);
        for (at, mut step) in steps.into_iter().enumerate() {
            let is_output = outputs.contains(&at);
            let mut image = Part::default();
            if is_output {
                image = hoisted(&mut step.building);
            }
            let onbuild = std::mem::take(&mut step.building.onbuild);
            if !is_output {
                // Their place among other instructions makes no difference.
                for trigger in onbuild {
                    step.building.parts.push(Slot::Onbuild, trigger, Vec::new());
                }
            } else {
                // A step that starts from one with triggers runs them, and an output is one.
                for trigger in onbuild {
                    image.push(Slot::Onbuild, trigger);
                }
            }
            let empty = step.building.parts.list.is_empty();
            let base = match empty && is_output && !self.used.contains(&at) {
                true => step.from.clone(),
                false => {
                    step.write(&mut out);
                    step.name.clone()
                }
            };
            if is_output {
                if base != step.name {
                    out.push('\n');
                    write::comments(&step.comments, "", &mut out);
                    out.push_str(&format!("[output.{}]\n", step.name));
                } else {
                    out.push_str(&format!("\n[output.{}]\n", step.name));
                }
                write::entry("step", &Item::from(base), &mut out);
                write::entry("times", &Item::from("keep"), &mut out);
                image.write_image(&format!("output.{}.image", step.name), &mut out);
            }
        }
        out
    }

    /// Arguments, inputs and caches.
    fn sections(&self, out: &mut String) {
        if !self.args.is_empty() {
            out.push_str("\n[args]\n");
            for (name, arg) in &self.args {
                let item = Item {
                    comments: arg.comments.clone(),
                    value: match &arg.default {
                        Some(default) => default.as_str().into(),
                        None => Value::Table(Vec::new()),
                    },
                };
                write::entry(name, &item, out);
            }
        }
        for (section, list) in [("inputs", &self.inputs), ("caches", &self.caches)] {
            if list.is_empty() {
                continue;
            }
            let (long, short): (Vec<_>, Vec<_>) = list
                .iter()
                .partition(|(name, fields)| write::is_long(name, fields));
            if !short.is_empty() {
                out.push_str(&format!("\n[{section}]\n"));
            }
            for (name, fields) in short {
                write::entry(name, &Item::from(Value::Table(fields.clone())), out);
            }
            for (name, fields) in long {
                out.push_str(&format!("\n[{section}.{}]\n", write::key(name)));
                for (name, value) in fields {
                    write::entry(name, &Item::from(value.clone()), out);
                }
            }
        }
    }
}

impl Step {
    fn triggers(&self) -> impl Iterator<Item = String> {
        let triggers = self.building.onbuild.iter();
        triggers.filter_map(|item| match &item.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    fn write(&self, out: &mut String) {
        let table = format!("step.{}", self.name);
        out.push('\n');
        write::comments(&self.comments, "", out);
        out.push_str(&format!("[{table}]\n"));
        write::entry("from", &Item::from(self.from.as_str()), out);
        let mut parts = self.building.parts.list.iter();
        if let Some(first) = parts.next() {
            first.write(&table, out);
        }
        for part in parts {
            let table = format!("{table}.then");
            out.push_str(&format!("\n[[{table}]]\n"));
            part.write(&table, out);
        }
    }
}

/// Takes from a stage the image config at its end that makes the same image when an output has it.
fn hoisted(stage: &mut Building) -> Part {
    let parts = &mut stage.parts.list;
    let Some((last, before)) = parts.split_last_mut() else {
        return Part::default();
    };
    let image = last.clone().take_image();
    // An entry point drops the CMD that another step has.
    let drops = image.has(Slot::Entrypoint) && before.iter().any(|part| part.has(Slot::Cmd));
    // A step that starts from another has its ENV anew, so an ARG of the same name is not in front of it any more.
    let mut names = Vec::new();
    for value in image.values() {
        value.each_text(&mut |text| names.extend(crate::values::names(text).map(str::to_owned)));
    }
    let declared = names
        .iter()
        .filter_map(|name| name.strip_prefix("env.")?.split(':').next())
        .any(|name| stage.declared.contains(name));
    if drops || declared {
        return Part::default();
    }
    let image = last.take_image();
    if last.is_empty() {
        parts.pop();
    }
    image
}

/// A warning that `language` cannot say something.
fn loss(language: &str, span: &Span, what: &str, instead: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        ..Diagnostic::error(
            format!("{language} cannot say this: {what}"),
            span.clone(),
            instead,
        )
    }
}

/// Letters, digits, `-` and `_`.
fn simple(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '_' => c,
        _ => '-',
    };
    let name: String = name.chars().map(plain).collect();
    let mut short = name.trim_matches('-').to_owned();
    while short.contains("--") {
        short = short.replace("--", "-");
    }
    match short.is_empty() {
        true => "input".to_owned(),
        false => short,
    }
}

/// A name that nothing else has.
fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let name = simple(name);
    let mut found = name.clone();
    let mut number = 2;
    while !taken.insert(found.clone()) {
        found = format!("{name}-{number}");
        number += 1;
    }
    found
}

#[cfg(test)]
mod tests;
