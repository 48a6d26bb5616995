//! A plan as a Dockerfile.

use rbuild_dockerfile::program::Unsaid;
use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::GoalKind;

use super::Rewritten;
use super::loss;
use crate::Plan;
use crate::modules::Module;
use crate::modules::Modules;
use crate::modules::ROOT;
use crate::read::Entry;
use crate::schema::Arg;
use crate::schema::Input;
use crate::schema::Output;
use crate::schema::TimeRule;
use crate::values::places;

impl Plan {
    /// Writes the Dockerfile that says what the outputs of a plan say. The default output is its last stage; `exclude`
    /// is what the ignore file there leaves out, by its patterns.
    ///
    /// # Errors
    /// What is wrong with the plan.
    pub fn to_dockerfile(
        &self,
        request: &FrontendRequest,
        exclude: &[String],
    ) -> Result<Rewritten, Vec<Diagnostic>> {
        let modules = self.load(request)?;
        let request = &FrontendRequest {
            targets: all_outputs(&modules),
            ..request.clone()
        };
        let (program, goals) = crate::program(&modules, request)?;
        let build = Some(&request.build_platform).filter(|build| !names_platform(&modules, build));
        let text = program.to_dockerfile(build, exclude);
        let mut losses = Losses::default();
        for unsaid in text.unsaid {
            let Unsaid { at, what, instead } = unsaid;
            losses.add(&at, &what, &instead);
        }
        losses.modules(&modules);
        let root = &modules.get(ROOT).file;
        let default = root.default.as_ref().map(|default| &default.value);
        let is_default = |name: &str| {
            default.is_none_or(|default| {
                let mut names = default.iter().map(|text| text.text.as_str());
                names.any(|one| one == name || root.groups.contains_key(one))
            })
        };
        let outputs = goals
            .iter()
            .filter(|goal| matches!(goal.kind, GoalKind::Output { .. }))
            .map(|goal| goal.name.as_str());
        let names: Vec<&str> = outputs.filter(|name| is_default(name)).collect();
        if let Some((last, others)) = names.split_last().filter(|(_, others)| !others.is_empty()) {
            let at = Span::new(&modules.get(ROOT).source, 0..0);
            let others = others.join("`, `");
            let instead =
                format!("it builds `{last}`; with `--target` it builds one of `{others}`");
            losses.add(&at, "several outputs of one build", &instead);
        }
        let mut list = losses.list;
        list.sort_by_key(|loss| loss.labels.first().map(|label| label.span.range.start));
        Ok(Rewritten {
            text: text.text,
            losses: list,
        })
    }
}

/// The outputs of a plan, those that are built where none is named last.
fn all_outputs(modules: &Modules) -> Vec<String> {
    let file = &modules.get(ROOT).file;
    let default: Vec<String> = match &file.default {
        Some(default) => default.value.iter().map(|name| name.text.clone()).collect(),
        None => Vec::new(),
    };
    let others = file.output.keys().filter(|name| !default.contains(name));
    others.cloned().chain(default.iter().cloned()).collect()
}

/// Whether an input names a platform that the builder has, and not the builder's.
fn names_platform(modules: &Modules, build: &rbuild_llb::Platform) -> bool {
    modules.iter().any(|(_, module)| {
        let mut inputs = module.file.inputs.values();
        inputs.any(|input| match &input.value {
            Input::Image(image) => {
                let platform = image.platform.as_ref();
                platform.is_some_and(|word| word.text.parse().as_ref() == Ok(build))
            }
            _ => false,
        })
    })
}

#[derive(Default)]
struct Losses {
    list: Vec<Diagnostic>,
}

impl Losses {
    fn add(&mut self, at: &Span, what: &str, instead: &str) {
        let loss = loss("a Dockerfile", at, what, instead);
        if !self.list.contains(&loss) {
            self.list.push(loss);
        }
    }

    /// What of plans has no place in a Dockerfile, whatever stages it makes.
    fn modules(&mut self, modules: &Modules) {
        for (_, module) in modules.iter() {
            self.values(module);
            for (name, arg) in &module.file.args {
                self.arg(name, arg);
            }
            for (name, test) in &module.file.test {
                let what = format!("the test `{name}`");
                self.add(
                    &test.name,
                    &what,
                    "nothing waits for it: it is a stage, if an output requires it",
                );
            }
            for (name, step) in &module.file.step {
                if !step.value.when.is_empty() {
                    let what = format!("when the step `{name}` does anything");
                    self.add(&step.name, &what, "it is written as what it does now");
                }
            }
            for (name, group) in &module.file.groups {
                let what = format!("the group `{name}`");
                self.add(&group.name, &what, "it is left out");
            }
            for (name, output) in &module.file.output {
                self.output(name, output);
            }
        }
    }

    /// Values that depend on something else than the plan.
    fn values(&mut self, module: &Module) {
        let text = &module.source.text;
        for (name, range) in places(text) {
            let line = text[..range.start].rsplit('\n').next().unwrap_or_default();
            // Comments have no values, and Dockerfiles have the variables of the environment.
            if line.trim_start().starts_with('#') || name.starts_with("env.") {
                continue;
            }
            let at = Span::new(&module.source, range);
            let what = format!("`{{{name}}}`");
            self.add(&at, &what, "it is written as what it is now");
        }
    }

    fn arg(&mut self, name: &str, arg: &Entry<Arg>) {
        let Arg::Table(table) = &arg.value else {
            return;
        };
        if table.r#type.is_some() || table.one_of.is_some() {
            let what = format!("which values the argument `{name}` takes");
            self.add(&arg.name, &what, "it takes any");
        }
    }

    fn output(&mut self, name: &str, entry: &Entry<Output>) {
        let output = &entry.value;
        let clamps = output
            .times
            .as_ref()
            .is_none_or(|times| times.value == TimeRule::Clamp);
        let instead = "it is a flag of the build";
        for (there, what, instead) in [
            (
                clamps,
                "times of files that are clamped",
                "they are kept: `times = \"keep\"` says that in a plan",
            ),
            (
                output.platforms.is_some(),
                "platforms",
                "`--platform` of the build",
            ),
            (
                !output.matrix.is_empty(),
                "a matrix",
                "each of its outputs is a stage",
            ),
            (
                !output.when.is_empty(),
                "when there is an output",
                "it is written as it is now",
            ),
            (
                !output.tags.is_empty(),
                "names of images",
                "`-t` of the build",
            ),
            (
                output.push.as_ref().is_some_and(|push| push.value),
                "push",
                "`--push` of the build",
            ),
            (
                !output.require.is_empty(),
                "tests that must have passed",
                "nothing is required",
            ),
            (output.local.is_some(), "local", instead),
            (output.oci.is_some(), "oci", instead),
            (output.docker.is_some(), "docker", instead),
            (output.tar.is_some(), "tar", instead),
        ] {
            if there {
                self.add(&entry.name, &format!("{what} (output `{name}`)"), instead);
            }
        }
    }
}
