//! Outputs and tests: which of them a request means, for which platforms, and what becomes of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Start;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::frontend::FilesExport;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::GoalExport;
use rbuild_llb::frontend::GoalKind;
use rbuild_llb::suggest::nearest_name;

use crate::ALL_TESTS;
use crate::lower::Lowering;
use crate::lower::World;
use crate::modules::ModuleId;
use crate::modules::Modules;
use crate::modules::ROOT;
use crate::modules::Thing;
use crate::paths;
use crate::read::Entry;
use crate::read::Text;
use crate::schema::Export;
use crate::schema::Output;
use crate::schema::TimeRule;
use crate::values::Scope;

/// What a name on the command line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted<'m> {
    Output(ModuleId, &'m str),
    /// One output of a matrix, by its whole name.
    Instance(ModuleId, &'m str, usize),
    Test(ModuleId, &'m str),
    Step(ModuleId, &'m str),
}

/// An output with the values of its matrix.
#[derive(Debug, Clone)]
pub(crate) struct Instance<'m> {
    pub(crate) module: ModuleId,
    pub(crate) output: &'m Entry<Output>,
    /// Its name, and the values.
    pub(crate) name: String,
    pub(crate) matrix: BTreeMap<String, String>,
}

/// What word introduces tests where outputs could be meant.
pub const TEST: &str = "test.";

/// The outputs that a matrix makes of an output: their order is that of the axes' names, and of the values in the file.
pub(crate) fn instances<'m>(
    modules: &'m Modules,
    module: ModuleId,
    name: &str,
) -> Vec<Instance<'m>> {
    let file = modules.get(module);
    let output = &file.file.output[name];
    let mut combinations: Vec<BTreeMap<String, String>> = vec![BTreeMap::new()];
    for (axis, values) in &output.value.matrix {
        combinations = combinations
            .iter()
            .flat_map(|combination| {
                values.value.value.iter().map(move |value| {
                    let mut more = combination.clone();
                    more.insert(axis.clone(), value.text.clone());
                    more
                })
            })
            .collect();
    }
    let instance = |matrix: BTreeMap<String, String>| {
        let values = matrix.values().map(|value| format!("-{value}"));
        Instance {
            module,
            output,
            name: format!("{}{name}{}", file.prefix, values.collect::<String>()),
            matrix,
        }
    };
    combinations.into_iter().map(instance).collect()
}

/// All outputs and tests, as they are named on the command line.
pub(crate) fn all(modules: &Modules) -> Vec<String> {
    let root = &modules.get(ROOT).file;
    let tests = root.test.keys().map(|name| format!("{TEST}{name}"));
    root.output.keys().cloned().chain(tests).collect()
}

/// What the targets of a request mean.
pub(crate) fn wanted<'m>(
    modules: &'m Modules,
    targets: &[String],
) -> Result<Vec<Wanted<'m>>, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let mut found = Vec::new();
    let root = &modules.get(ROOT).file;
    if !targets.is_empty() {
        for target in targets {
            let at = Span::new(&modules.get(ROOT).source, 0..0);
            let text = Text {
                text: target.clone(),
                span: at,
            };
            if let Err(error) = add(modules, ROOT, &text, &mut Vec::new(), &mut found) {
                // It is not the file that names it.
                errors.push(Diagnostic {
                    labels: Vec::new(),
                    ..error
                });
            }
        }
    } else if let Some(default) = &root.default {
        for text in &default.value {
            if let Err(error) = add(modules, ROOT, text, &mut Vec::new(), &mut found) {
                errors.push(error);
            }
        }
    } else {
        found.extend(root.output.keys().map(|name| Wanted::Output(ROOT, name)));
        if found.is_empty() {
            let at = Span::new(&modules.get(ROOT).source, 0..0);
            let error = Diagnostic::error("the plan has no output", at, "");
            errors.push(error.hint("add `[output.NAME]` with `step = \"…\"`"));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|one| seen.insert(*one));
    match errors.is_empty() {
        true => Ok(found),
        false => Err(errors),
    }
}

fn add<'m>(
    modules: &'m Modules,
    from: ModuleId,
    text: &Text,
    groups: &mut Vec<String>,
    to: &mut Vec<Wanted<'m>>,
) -> Result<(), Diagnostic> {
    if text.text == ALL_TESTS {
        let tests = modules.get(ROOT).file.test.keys();
        to.extend(tests.map(|name| Wanted::Test(ROOT, name)));
        if to.is_empty() {
            let error = Diagnostic::error("the plan has no test", text.span.clone(), "");
            return Err(error.hint("add `[test.NAME]`"));
        }
        return Ok(());
    }
    if let Some(name) = text.text.strip_prefix(TEST) {
        let name = Text {
            text: name.to_owned(),
            span: text.span.clone(),
        };
        let (module, name, _) = modules.find(from, &name, "test", |file| &file.test)?;
        to.push(Wanted::Test(module, name));
        return Ok(());
    }
    let (module, rest) = modules.locate(from, &text.text);
    let file = &modules.get(module).file;
    if let Some((name, _)) = file.output.get_key_value(rest) {
        to.push(Wanted::Output(module, name));
        return Ok(());
    }
    if let Some((name, group)) = file.groups.get_key_value(rest) {
        let qualified = format!("{}{name}", modules.get(module).prefix);
        if groups.contains(&qualified) {
            groups.push(qualified);
            let message = format!("groups hold each other: `{}`", groups.join("` → `"));
            return Err(Diagnostic::error(message, text.span.clone(), ""));
        }
        groups.push(qualified);
        for member in &group.value.value {
            add(modules, module, member, groups, to)?;
        }
        groups.pop();
        return Ok(());
    }
    for name in file.output.keys() {
        let all = instances(modules, module, name);
        let prefix = &modules.get(module).prefix;
        let whole = format!("{prefix}{rest}");
        if let Some(at) = all.iter().position(|one| one.name == whole) {
            to.push(Wanted::Instance(module, name, at));
            return Ok(());
        }
    }
    if let Some((name, _)) = file.step.get_key_value(rest) {
        to.push(Wanted::Step(module, name));
        return Ok(());
    }
    let names: Vec<&str> = file
        .output
        .keys()
        .chain(file.groups.keys())
        .chain(file.step.keys())
        .map(String::as_str)
        .collect();
    let message = format!("there is no output or group `{}`", text.text);
    let error = Diagnostic::error(message, text.span.clone(), "");
    Err(match nearest_name(rest, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if file.test.contains_key(rest) => error.hint(format!("the test is `{TEST}{rest}`")),
        None => {
            let outputs: Vec<&str> = file.output.keys().map(String::as_str).collect();
            error.hint(format!("the outputs are `{}`", outputs.join("`, `")))
        }
    })
}

/// The outputs that are wanted, one for each combination of their matrices.
fn chosen<'m>(modules: &'m Modules, wanted: &[Wanted<'m>]) -> Vec<Instance<'m>> {
    let mut chosen: Vec<Instance<'m>> = Vec::new();
    for one in wanted {
        let more = match one {
            Wanted::Output(module, name) => instances(modules, *module, name),
            Wanted::Instance(module, name, at) => instances(modules, *module, name)
                .into_iter()
                .skip(*at)
                .take(1)
                .collect(),
            Wanted::Test(..) | Wanted::Step(..) => continue,
        };
        for instance in more {
            if !chosen
                .iter()
                .any(|have| have.name == instance.name && have.module == instance.module)
            {
                chosen.push(instance);
            }
        }
    }
    chosen
}

/// What outputs are built for: of all that are wanted, each once.
pub(crate) fn platforms(
    modules: &Modules,
    request: &FrontendRequest,
) -> Result<Vec<Platform>, Vec<Diagnostic>> {
    let wanted = wanted(modules, &request.targets)?;
    let mut all: Vec<Platform> = Vec::new();
    let mut errors = Vec::new();
    let mut own = false;
    for instance in chosen(modules, &wanted) {
        match &instance.output.value.platforms {
            None => own = true,
            Some(list) => {
                for text in &list.value {
                    match text.text.parse::<Platform>() {
                        Ok(platform) if all.contains(&platform) => {}
                        Ok(platform) => all.push(platform),
                        Err(error) => {
                            let span = text.span.clone();
                            errors.push(Diagnostic::error(error.to_string(), span, ""));
                        }
                    }
                }
            }
        }
    }
    own |= wanted
        .iter()
        .any(|one| matches!(one, Wanted::Test(..) | Wanted::Step(..)));
    if (own || all.is_empty()) && !all.contains(&request.build_platform) {
        all.push(request.build_platform.clone());
    }
    match errors.is_empty() {
        true => Ok(all),
        false => Err(errors),
    }
}

/// A test that is an output of the graph.
struct Tested {
    module: ModuleId,
    test: String,
    world: World,
    /// `None` if it has nothing to do here.
    goal: Option<String>,
}

/// Makes outputs of a program.
struct Outputs<'l, 'a> {
    lowering: &'l mut Lowering<'a>,
    goals: Vec<Goal>,
    tests: Vec<Tested>,
    tags: BTreeMap<String, (String, Span)>,
}

/// Adds what is wanted to the program as its targets. What becomes of them, in their order.
pub(crate) fn lower(
    lowering: &mut Lowering<'_>,
    wanted: &[Wanted<'_>],
    explicit: bool,
) -> Vec<Goal> {
    let modules = lowering.modules;
    let mut outputs = Outputs {
        lowering,
        goals: Vec::new(),
        tests: Vec::new(),
        tags: BTreeMap::new(),
    };
    outputs.check_names(modules);
    for instance in chosen(modules, wanted) {
        outputs.output(&instance, explicit);
    }
    for one in wanted {
        match one {
            Wanted::Test(module, name) => {
                let at = modules.get(*module).file.test[*name].name.clone();
                outputs.test(*module, name, &at, &World::new());
            }
            Wanted::Step(module, name) => outputs.bare_step(*module, name),
            Wanted::Output(..) | Wanted::Instance(..) => {}
        }
    }
    outputs.goals
}

impl Outputs<'_, '_> {
    /// Reports outputs of matrices that have the same name as others.
    fn check_names(&mut self, modules: &Modules) {
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        for (id, module) in modules.iter() {
            for (name, output) in &module.file.output {
                for (axis, values) in &output.value.matrix {
                    if values.value.value.is_empty() {
                        let message = format!("the axis `{axis}` has no values");
                        let label = format!("so there is no output `{name}`");
                        self.lowering.errors.push(Diagnostic::error(
                            message,
                            values.value.span.clone(),
                            label,
                        ));
                    }
                }
                for instance in instances(modules, id, name) {
                    if let Some(other) = names.insert(instance.name.clone(), output.name.clone()) {
                        let message = format!("two outputs are called `{}`", instance.name);
                        let error = Diagnostic::error(message, output.name.clone(), "");
                        let error = match other == output.name {
                            true => error
                                .hint("values of its matrix are equal when they are joined by `-`"),
                            false => error.also(other, "the other"),
                        };
                        self.lowering.errors.push(error);
                    }
                }
            }
        }
    }

    fn output(&mut self, instance: &Instance<'_>, explicit: bool) {
        let output = &instance.output.value;
        let module = instance.module;
        if !explicit && let Some(list) = &output.platforms {
            let target = &self.lowering.request.target_platform;
            let mut platforms = list.value.iter();
            if !platforms.any(|text| text.text.parse().as_ref() == Ok(target)) {
                return;
            }
        } else if !explicit
            && output.platforms.is_none()
            && self.lowering.request.target_platform != self.lowering.request.build_platform
        {
            return;
        }
        let mut world = World::new();
        for (axis, value) in &instance.matrix {
            let at = Text {
                text: axis.clone(),
                span: output.matrix[axis].name.clone(),
            };
            // An axis need not be an argument.
            if let Ok((owner, name, _)) =
                self.lowering
                    .modules
                    .find(module, &at, "argument", |file| &file.args)
            {
                let qualified = self.lowering.qualified(owner, name);
                let mut values = output.matrix[axis].value.value.iter();
                if let Some(scalar) = values.find(|scalar| scalar.text == *value) {
                    self.lowering.check_axis(&qualified, value, &scalar.span);
                }
                world.insert(qualified, value.clone());
            }
        }
        self.lowering.set_world(world.clone());
        if self.lowering.holds(module, &output.when) == Some(false) {
            self.lowering.set_world(World::new());
            return;
        }
        let scope = Scope {
            module,
            params: None,
            matrix: Some(&instance.matrix),
        };
        let stage = self.stage(instance, scope);
        let kind = self.kind(instance, scope);
        let mut require = Vec::new();
        for text in &output.require {
            let name = Text {
                text: text
                    .text
                    .strip_prefix(TEST)
                    .unwrap_or(&text.text)
                    .to_owned(),
                span: text.span.clone(),
            };
            let found = self
                .lowering
                .modules
                .find(module, &name, "test", |file| &file.test);
            match found {
                Ok((owner, test, _)) => {
                    let test = test.to_owned();
                    require.extend(self.test(owner, &test, &text.span, &world));
                }
                Err(error) => self.lowering.errors.push(error),
            }
        }
        self.lowering.set_world(World::new());
        if let (Some(stage), Some(kind)) = (stage, kind) {
            self.lowering.program.target(stage);
            self.goals.push(Goal {
                name: instance.name.clone(),
                span: Some(instance.output.name.clone()),
                require,
                kind,
            });
        }
    }

    /// The output's step with its image config, as a stage of its own.
    fn stage(&mut self, instance: &Instance<'_>, scope: Scope<'_>) -> Option<StageId> {
        let output = &instance.output.value;
        let start = self.lowering.start(instance.module, &output.step)?;
        let at = self.lowering.place(instance.module, &output.step);
        let stage = self.lowering.program.stage(&instance.name, start, &at);
        if let Some(image) = &output.image {
            self.lowering.image_config(stage, image, scope)?;
        }
        Some(stage)
    }

    fn kind(&mut self, instance: &Instance<'_>, scope: Scope<'_>) -> Option<GoalKind> {
        let output = &instance.output.value;
        let dir = self.lowering.modules.get(instance.module).dir.clone();
        let mut whole = true;
        let mut tags = Vec::new();
        for text in &output.tags {
            let tag = self.lowering.plain(text, scope)?;
            match rbuild_dockerfile::normalise_reference(&tag) {
                Ok(reference) => {
                    let mine = (instance.name.clone(), text.span.clone());
                    if let Some((other, at)) = self.tags.get(&reference) {
                        let message = format!(
                            "the outputs `{other}` and `{}` both give the image `{tag}`",
                            instance.name
                        );
                        let error = Diagnostic::error(message, text.span.clone(), "");
                        let error = match *at == text.span {
                            true => {
                                error.hint("put a value of the matrix into the name: `{matrix.…}`")
                            }
                            false => error.also(at.clone(), "here as well"),
                        };
                        self.lowering.errors.push(error);
                        whole = false;
                    } else {
                        self.tags.insert(reference.clone(), mine);
                    }
                    tags.push(reference);
                }
                Err(error) => {
                    let message = format!("`{tag}` is no name of an image");
                    let span = text.span.clone();
                    self.lowering
                        .errors
                        .push(Diagnostic::error(message, span, error.to_string()));
                    whole = false;
                }
            }
        }
        let push = output.push.as_ref().is_some_and(|push| push.value);
        if let Some(flag) = output.push.as_ref().filter(|_| push && tags.is_empty()) {
            let message = "an image without `tags` cannot be sent anywhere";
            self.lowering
                .errors
                .push(Diagnostic::error(message, flag.span.clone(), ""));
            whole = false;
        }
        let mut exports = Vec::new();
        if let Some(local) = &output.local {
            exports.push(GoalExport::Files(self.export(local, &dir, scope)?));
        }
        if let Some(text) = &output.oci {
            let to = paths::join_to(&dir, &self.lowering.plain(text, scope)?);
            exports.push(GoalExport::Oci {
                tar: !to.ends_with('/'),
                to,
            });
        }
        if let Some(text) = &output.docker {
            let to = paths::join(&dir, &self.lowering.plain(text, scope)?);
            exports.push(GoalExport::Docker { to });
        }
        if let Some(text) = &output.tar {
            let to = paths::join(&dir, &self.lowering.plain(text, scope)?);
            exports.push(GoalExport::Tar { to });
        }
        let times = output.times.as_ref().map(|times| times.value);
        whole.then_some(GoalKind::Output {
            tags,
            push,
            clamp: times.unwrap_or(TimeRule::Clamp) == TimeRule::Clamp,
            exports,
        })
    }

    fn export(&mut self, export: &Export, dir: &str, scope: Scope<'_>) -> Option<FilesExport> {
        let path = self.lowering.plain(&export.path, scope)?;
        let to = self.lowering.plain(&export.to, scope)?;
        let path = match path.starts_with('/') {
            true => paths::clean(&path),
            false => paths::clean(&format!("/{path}")),
        };
        Some(FilesExport {
            path,
            to: paths::join_to(dir, &to),
            span: export.path.span.clone(),
        })
    }

    /// Makes a test a target. Its goal's name, if it has anything to do.
    fn test(
        &mut self,
        module: ModuleId,
        name: &str,
        asked: &Span,
        world: &World,
    ) -> Option<String> {
        let modules = self.lowering.modules;
        let test = &modules.get(module).file.test[name];
        self.lowering.set_world(world.clone());
        let (stage, reads) = self.lowering.reading(|lowering| {
            let qualified = format!("{TEST}{}", lowering.qualified(module, name));
            lowering.make_test(module, &qualified, &test.value)
        });
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        let mut exports = Vec::new();
        let dir = modules.get(module).dir.clone();
        for export in &test.value.export {
            exports.extend(self.export(export, &dir, scope));
        }
        self.lowering.set_world(World::new());
        // Axes that it does not depend on make no other test of it.
        let world: World = world
            .iter()
            .filter(|(name, _)| reads.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut tests = self.tests.iter();
        if let Some(have) = tests.find(|t| t.module == module && t.test == name && t.world == world)
        {
            return have.goal.clone();
        }
        let values = world.values().map(|value| format!("-{value}"));
        let goal = format!(
            "{TEST}{}{}",
            self.lowering.qualified(module, name),
            values.collect::<String>()
        );
        let does = match stage {
            Some(Some(stage)) => {
                self.lowering.program.target(stage);
                self.goals.push(Goal {
                    name: goal.clone(),
                    span: Some(asked.clone()),
                    require: Vec::new(),
                    kind: GoalKind::Test { exports },
                });
                Some(goal)
            }
            _ => None,
        };
        self.tests.push(Tested {
            module,
            test: name.to_owned(),
            world,
            goal: does.clone(),
        });
        does
    }

    /// A step that was asked for by its name.
    fn bare_step(&mut self, module: ModuleId, name: &str) {
        let steps = &self.lowering.modules.get(module).file.step;
        let Some((place, _, step)) = steps.get_full(name) else {
            return;
        };
        let at = step.name.clone();
        let qualified = self.lowering.qualified(module, name);
        let Some(step) = self.lowering.step(Thing::Step(module, place), &at) else {
            return;
        };
        let stage = self
            .lowering
            .program
            .stage(&qualified, Start::Stage(step), &at);
        self.lowering.program.target(stage);
        self.goals.push(Goal {
            name: qualified,
            span: Some(at),
            require: Vec::new(),
            kind: GoalKind::Output {
                tags: Vec::new(),
                push: false,
                clamp: true,
                exports: Vec::new(),
            },
        });
    }
}
