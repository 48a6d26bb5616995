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

use crate::values::is_predefined;

mod back;
mod document;
mod inputs;
mod parts;
mod stage;
mod transfer;
mod values;
mod write;

use inputs::unique;
use stage::Building;
use values::Said;
use values::Variable;
use values::Variables;
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
                ("OS", ".os", platform.os.to_string()),
                ("ARCH", ".arch", platform.arch.to_string()),
                ("VARIANT", ".variant", platform.variant.to_string()),
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

#[cfg(test)]
mod tests;
