//! What the HCL and JSON files of a bake define together, worked out when something asks for it.
//!
//! Files are read as if they were one: later variables and functions replace earlier ones of the same name, targets are
//! laid over one another. Variables, functions and attributes of targets may refer to each other in any order; what
//! refers to itself is an error.

mod variables;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;

use self::variables::primitive;
use crate::BakeOptions;
use crate::Fail;
use crate::decode;
use crate::eval::Definitions;
use crate::eval::Evaluator;
use crate::eval::Limits;
use crate::eval::Locals;
use crate::eval::unknown_function;
use crate::eval::weight;
use crate::fail;
use crate::functions;
use crate::functions::World;
use crate::syntax::Attribute;
use crate::syntax::Block;
use crate::syntax::Body;
use crate::syntax::Expr;
use crate::syntax::Kind;
use crate::syntax::Word;
use crate::target::Group;
use crate::target::Target;
use crate::value::Value;

/// Definitions may refer to definitions this deep. It bounds the stack.
const MAX_DEPTH: u32 = 50;

/// What the files define, as groups and targets, in the order of the files; equal names not yet laid over one another.
pub(crate) struct Defined {
    pub(crate) groups: Vec<Group>,
    pub(crate) targets: Vec<Target>,
    /// The groups that blocks with a matrix are: their label, with the names of the targets of all blocks that have it.
    pub(crate) matrices: Vec<Group>,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Works out everything in the files.
pub(crate) fn define(bodies: &[Body], options: &BakeOptions) -> Result<Defined, Vec<Diagnostic>> {
    let mut files = Files::new(bodies, options)?;
    for (name, block) in &files.variables {
        let _value = files.variable(name, &block.labels[0].span)?;
    }
    files.validate_variables()?;
    for name in files.functions.keys() {
        files.check_function(name)?;
    }
    files.name_blocks()?;
    let mut defined = Defined {
        groups: Vec::new(),
        targets: Vec::new(),
        matrices: Vec::new(),
        warnings: files.unknown_blocks(bodies),
    };
    let mut labels: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (index, found) in files.blocks.iter().enumerate() {
        let label = found.block.label()?;
        if found.kind == "group" {
            defined.groups.push(files.group(index)?);
            continue;
        }
        for instance in 0..found.instances.len() {
            defined.targets.push(files.target(index, instance)?);
        }
        defined.warnings.extend(unknown_attributes(found.block));
        let names = found.instances.iter().map(|i| i.name.clone());
        labels.entry(&label.text).or_default().extend(names);
    }
    for (label, mut targets) in labels {
        targets.dedup();
        if !targets.is_empty() && targets != [label.as_str()] {
            defined.matrices.push(Group {
                name: label.clone(),
                targets,
                ..Group::default()
            });
        }
    }
    for (name, attribute) in &files.attributes {
        let _value = files.variable(name, &attribute.name.span)?;
    }
    Ok(defined)
}

/// buildx passes over attributes that it does not know, so a slip of the pen goes unseen.
fn unknown_attributes(block: &Block) -> Vec<Diagnostic> {
    let known = || decode::ATTRIBUTES.into_iter().chain(["matrix", "name"]);
    let mut found = Vec::new();
    for attribute in &block.body.attributes {
        let name = &attribute.name.text;
        if !known().any(|known| known == name) {
            let label = rbuild_llb::suggest::nearest_name(name, known())
                .map_or_else(String::new, |near| format!("did you mean `{near}`?"));
            let message = format!("a target has no attribute `{name}`, it is passed over");
            found.push(warning(message, &attribute.name.span, label));
        }
    }
    for inner in &block.body.blocks {
        let kind = &inner.kind;
        let message = format!("a target has no `{}` blocks, it is passed over", kind.text);
        found.push(warning(message, &kind.span, String::new()));
    }
    found
}

fn warning(message: String, span: &Span, label: String) -> Diagnostic {
    let mut warning = Diagnostic::error(message, span.clone(), label);
    warning.severity = rbuild_llb::Severity::Warning;
    warning
}

/// One target of a block: a block with a matrix has several.
struct Instance {
    name: String,
    names: BTreeMap<String, Value>,
}

struct Found<'f> {
    kind: &'static str,
    block: &'f Block,
    instances: Vec<Instance>,
}

enum State<T> {
    InProgress,
    Done(T),
}

struct Files<'f> {
    options: &'f BakeOptions,
    world: World,
    limits: Limits,
    depth: Cell<u32>,
    variables: BTreeMap<&'f str, &'f Block>,
    attributes: BTreeMap<&'f str, &'f Attribute>,
    functions: BTreeMap<&'f str, &'f Block>,
    blocks: Vec<Found<'f>>,
    values: RefCell<BTreeMap<String, State<Value>>>,
    checked: RefCell<BTreeMap<&'f str, State<()>>>,
    /// The attributes of targets, by block and instance.
    decoded: RefCell<BTreeMap<(usize, usize, String), State<Target>>>,
}

impl<'f> Files<'f> {
    fn new(bodies: &'f [Body], options: &'f BakeOptions) -> Result<Self, Fail> {
        let mut files = Self {
            options,
            world: World { now: options.now },
            limits: Limits::default(),
            depth: Cell::new(0),
            variables: BTreeMap::new(),
            attributes: BTreeMap::new(),
            functions: BTreeMap::new(),
            blocks: Vec::new(),
            values: RefCell::default(),
            checked: RefCell::default(),
            decoded: RefCell::default(),
        };
        for body in bodies {
            for attribute in &body.attributes {
                if matches!(attribute.name.text.as_str(), "target" | "group") {
                    let kind = &attribute.name.text;
                    let message = format!("`{kind}` is a block: `{kind} \"NAME\" {{ … }}`");
                    return Err(fail(message, attribute.name.span.clone(), ""));
                }
                files.attributes.insert(&attribute.name.text, attribute);
            }
            for block in &body.blocks {
                let kind = match block.kind.text.as_str() {
                    "target" => "target",
                    "group" => "group",
                    "variable" => {
                        files.variables.insert(&block.label()?.text, block);
                        continue;
                    }
                    "function" => {
                        files.functions.insert(&block.label()?.text, block);
                        continue;
                    }
                    _ => continue,
                };
                block.label()?;
                files.blocks.push(Found {
                    kind,
                    block,
                    instances: Vec::new(),
                });
            }
        }
        for builtin in ["BAKE_CMD_CONTEXT", "BAKE_LOCAL_PLATFORM", "target", "group"] {
            files.variables.remove(builtin);
            files.attributes.remove(builtin);
        }
        Ok(files)
    }

    fn unknown_blocks(&self, bodies: &[Body]) -> Vec<Diagnostic> {
        let known = ["target", "group", "variable", "function"];
        let blocks = bodies.iter().flat_map(|body| &body.blocks);
        blocks
            .filter(|block| !known.contains(&block.kind.text.as_str()))
            .map(|block| {
                let kind = &block.kind.text;
                let label = rbuild_llb::suggest::nearest_name(kind, known)
                    .map_or_else(String::new, |near| format!("did you mean `{near}`?"));
                let message = format!("a bake file has no `{kind}` blocks, it is passed over");
                warning(message, &block.kind.span, label)
            })
            .collect()
    }

    fn eval(&self, expr: &Expr, locals: &Locals) -> Result<Value, Fail> {
        Evaluator { definitions: self }.eval(expr, locals)
    }

    /// Runs what is one definition deeper.
    fn deeper<T>(&self, span: &Span, run: impl FnOnce() -> Result<T, Fail>) -> Result<T, Fail> {
        if self.depth.get() == MAX_DEPTH {
            let message = format!("definitions refer to one another more than {MAX_DEPTH} deep");
            return Err(fail(message, span.clone(), "the limit is reached here"));
        }
        self.depth.set(self.depth.get() + 1);
        let result = run();
        self.depth.set(self.depth.get() - 1);
        result
    }

    /// The names of a function's parameters, and that of the rest.
    fn parameters(&self, block: &'f Block) -> Result<(Vec<&'f str>, Option<&'f str>), Fail> {
        let word = |expr: &'f Expr| {
            expr.keyword()
                .ok_or_else(|| fail("a parameter is a name", expr.span.clone(), ""))
        };
        let Some(params) = block.body.attribute("params") else {
            let message = format!("the function `{}` needs `params`", block.labels[0].text);
            return Err(fail(message, block.labels[0].span.clone(), "")
                .hint("without parameters it is `params = []`"));
        };
        let Kind::Tuple(items) = &params.value.kind else {
            let message = "`params` is a list of names, such as `[a, b]`";
            return Err(fail(message, params.value.span.clone(), ""));
        };
        let names = items.iter().map(word).collect::<Result<_, _>>()?;
        let rest = block.body.attribute("variadic_params");
        Ok((names, rest.map(|a| word(&a.value)).transpose()?))
    }

    fn result_of(&self, block: &'f Block) -> Result<&'f Expr, Fail> {
        match block.body.attribute("result") {
            Some(attribute) => Ok(&attribute.value),
            None => {
                let label = &block.labels[0];
                let message = format!("the function `{}` needs `result`", label.text);
                Err(fail(message, label.span.clone(), ""))
            }
        }
    }

    /// A function must not call itself, and what it refers to must be there, whether or not it is called.
    fn check_function(&self, name: &str) -> Result<(), Fail> {
        let Some((name, block)) = self.functions.get_key_value(name) else {
            return Ok(());
        };
        match self.checked.borrow().get(name) {
            Some(State::Done(())) => return Ok(()),
            Some(State::InProgress) => {
                let message = format!("the function `{name}` calls itself");
                return Err(fail(message, block.labels[0].span.clone(), ""));
            }
            None => {}
        }
        self.checked.borrow_mut().insert(name, State::InProgress);
        let (names, rest) = self.parameters(block)?;
        let mut local: Vec<_> = names.into_iter().chain(rest).collect();
        let mut calls = Vec::new();
        let mut variables = Vec::new();
        self.result_of(block)?
            .walk(&mut local, &mut |expr, local| match &expr.kind {
                Kind::Call(call) => calls.push(&call.name),
                Kind::Variable(name) if !local.contains(&name.as_str()) => {
                    variables.push((name.as_str(), &expr.span));
                }
                _ => {}
            });
        for word in calls {
            let special = matches!(word.text.as_str(), "try" | "can" | "convert");
            if special || functions::find(&word.text).is_some() {
                continue;
            }
            if !self.functions.contains_key(word.text.as_str()) {
                return Err(unknown_function(&word.text, &word.span, self));
            }
            self.deeper(&word.span, || self.check_function(&word.text))?;
        }
        for (name, span) in variables {
            if !self.is_block_kind(name) {
                let _value = self.variable(name, span)?;
            }
        }
        self.checked.borrow_mut().insert(name, State::Done(()));
        Ok(())
    }

    /// Gives each target of a matrix its name.
    fn name_blocks(&mut self) -> Result<(), Fail> {
        for index in 0..self.blocks.len() {
            let instances = self.instances(&self.blocks[index])?;
            self.blocks[index].instances = instances;
        }
        Ok(())
    }

    fn instances(&self, found: &Found) -> Result<Vec<Instance>, Fail> {
        let label = found.block.label()?;
        check_name(&label.text, &label.span)?;
        let body = &found.block.body;
        let (matrix, name) = (body.attribute("matrix"), body.attribute("name"));
        if found.kind == "group"
            && let Some(attribute) = matrix.or(name)
        {
            let message = format!("a group has no `{}`", attribute.name.text);
            return Err(fail(message, attribute.name.span.clone(), ""));
        }
        let Some(matrix) = matrix else {
            return match name {
                Some(name) => Err(fail(
                    "`name` is for targets with a `matrix`",
                    name.name.span.clone(),
                    "a target's name is its label",
                )),
                None => Ok(vec![Instance {
                    name: label.text.clone(),
                    names: BTreeMap::new(),
                }]),
            };
        };
        let mut instances: Vec<Instance> = Vec::new();
        for names in self.matrix(&matrix.value)? {
            let locals = Locals { names, outer: None };
            let text = match name {
                Some(name) => {
                    let value = self.eval(&name.value, &locals)?;
                    let text = value.to_text().ok_or_else(|| {
                        fail("a name must be a string", name.value.span.clone(), "")
                    })?;
                    check_name(&text, &name.value.span)?;
                    text
                }
                None => label.text.clone(),
            };
            if instances.iter().any(|other| other.name == text) {
                let at = name.map_or(&label.span, |name| &name.value.span);
                let message = format!("the matrix makes two targets of the name `{text}`");
                return Err(fail(message, at.clone(), "")
                    .hint("`name` must tell them apart: `name = \"app-${item}\"`"));
            }
            instances.push(Instance {
                name: text,
                names: locals.names,
            });
        }
        Ok(instances)
    }

    /// The combinations of a matrix. The first key in the order of the alphabet changes fastest.
    fn matrix(&self, expr: &Expr) -> Result<Vec<BTreeMap<String, Value>>, Fail> {
        let value = self.eval(expr, &Locals::default())?;
        let Some(entries) = value.entries() else {
            let message = "a matrix is an object of lists: `{ item = [\"a\", \"b\"] }`";
            return Err(fail(message, expr.span.clone(), ""));
        };
        let mut all = vec![BTreeMap::new()];
        for (name, items) in entries {
            let items: Vec<Value> = match items.elements() {
                Some(items) => items.to_vec(),
                None => match items.entries() {
                    Some(entries) => entries.values().cloned().collect(),
                    None => {
                        let message = format!("`{name}` of the matrix is not a list");
                        return Err(fail(message, expr.span.clone(), ""));
                    }
                },
            };
            let work = (all.len() * items.len()) as u64 * (1 + weight(&value));
            Evaluator { definitions: self }.spend(work, &expr.span)?;
            all = items
                .iter()
                .flat_map(|item| {
                    all.iter().map(|row: &BTreeMap<String, Value>| {
                        let mut row = row.clone();
                        row.insert(name.clone(), item.clone());
                        row
                    })
                })
                .collect();
        }
        Ok(all)
    }

    fn group(&self, index: usize) -> Result<Group, Fail> {
        let block = self.blocks[index].block;
        let label = block.label()?;
        let mut target = Target::default();
        let mut given = false;
        for attribute in &block.body.attributes {
            // A group's targets are a list of names, as are those that a target inherits from.
            let field = match attribute.name.text.as_str() {
                "targets" => {
                    given = true;
                    "inherits"
                }
                "description" => "description",
                _ => continue,
            };
            let value = self.eval(&attribute.value, &Locals::default())?;
            decode::set(&mut target, field, &value).map_err(|why| wrong_value(attribute, &why))?;
        }
        if !given {
            let message = format!("the group `{}` needs `targets`", label.text);
            return Err(fail(message, label.span.clone(), ""));
        }
        Ok(Group {
            name: label.text.clone(),
            description: target.description,
            targets: target.inherits,
            span: Some(label.span.clone()),
        })
    }

    fn target(&self, index: usize, instance: usize) -> Result<Target, Fail> {
        let found = &self.blocks[index];
        let mut target = Target {
            name: found.instances[instance].name.clone(),
            span: Some(found.block.label()?.span.clone()),
            ..Target::default()
        };
        for name in decode::ATTRIBUTES {
            if found.block.body.attribute(name).is_some() {
                target.merge(&self.attribute(index, instance, name)?);
            }
        }
        Ok(target)
    }

    /// A target that has this one attribute.
    fn attribute(&self, index: usize, instance: usize, name: &str) -> Result<Target, Fail> {
        let found = &self.blocks[index];
        let instance_name = &found.instances[instance].name;
        let Some(attribute) = found.block.body.attribute(name) else {
            return Ok(Target::default());
        };
        let key = (index, instance, name.to_owned());
        match self.decoded.borrow().get(&key) {
            Some(State::Done(target)) => return Ok(target.clone()),
            Some(State::InProgress) => {
                let message = format!("`target.{instance_name}.{name}` refers to itself");
                return Err(fail(message, attribute.name.span.clone(), ""));
            }
            None => {}
        }
        self.decoded
            .borrow_mut()
            .insert(key.clone(), State::InProgress);
        let locals = Locals {
            names: found.instances[instance].names.clone(),
            outer: None,
        };
        let mut target = Target::default();
        let value = self.deeper(&attribute.name.span, || {
            self.eval(&attribute.value, &locals)
        });
        let set = value.and_then(|value| {
            decode::set(&mut target, name, &value).map_err(|why| wrong_value(attribute, &why))
        });
        if let Err(why) = set {
            // `try` may ask again, and gets the same answer then.
            self.decoded.borrow_mut().remove(&key);
            return Err(why);
        }
        self.decoded
            .borrow_mut()
            .insert(key, State::Done(target.clone()));
        Ok(target)
    }
}

fn wrong_value(attribute: &Attribute, why: &str) -> Fail {
    let message = format!("`{}`: {why}", attribute.name.text);
    fail(message, attribute.value.span.clone(), "")
}

fn check_name(name: &str, span: &Span) -> Result<(), Fail> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(valid) {
        return Ok(());
    }
    let message = format!("`{name}` is no name of a target or group");
    Err(fail(
        message,
        span.clone(),
        "letters, digits, `_` and `-` may be in it",
    ))
}

impl Definitions for Files<'_> {
    fn variable(&self, name: &str, span: &Span) -> Result<Value, Fail> {
        match name {
            "BAKE_CMD_CONTEXT" => return Ok(Value::string(&self.options.command_context)),
            "BAKE_LOCAL_PLATFORM" => return Ok(Value::string(&self.options.local_platform)),
            _ => {}
        }
        match self.values.borrow().get(name) {
            Some(State::Done(value)) => return Ok(value.clone()),
            Some(State::InProgress) => {
                let message = format!("the variable `{name}` refers to itself");
                return Err(fail(message, span.clone(), ""));
            }
            None => {}
        }
        let attribute = self.attributes.get(name);
        let block = self.variables.get(name);
        if attribute.is_none() && block.is_none() {
            let known = self.attributes.keys().chain(self.variables.keys()).copied();
            let near = rbuild_llb::suggest::nearest_name(name, known);
            let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
            let message = format!("there is no variable `{name}`");
            return Err(fail(message, span.clone(), label));
        }
        self.values
            .borrow_mut()
            .insert(name.to_owned(), State::InProgress);
        let value = self.deeper(span, || match (attribute, block) {
            (Some(attribute), _) => {
                let value = self.eval(&attribute.value, &Locals::default())?;
                // A variable of the same name makes the attribute its default.
                match block.and_then(|_| self.given(name, false)) {
                    Some((text, _)) if value.type_of().is_primitive() => {
                        primitive(text, &value.type_of())
                            .map_err(|why| fail(why, attribute.name.span.clone(), ""))
                    }
                    _ => Ok(value),
                }
            }
            (None, Some(block)) => self.variable_of(name, block),
            (None, None) => Ok(Value::Null),
        });
        let state = match &value {
            Ok(value) => Some(State::Done(value.clone())),
            Err(_) => None,
        };
        let mut values = self.values.borrow_mut();
        match state {
            Some(state) => values.insert(name.to_owned(), state),
            None => values.remove(name),
        };
        value
    }

    fn is_block_kind(&self, name: &str) -> bool {
        matches!(name, "target" | "group")
    }

    fn block(&self, kind: &str, name: &Word, attribute: Option<&Word>) -> Result<Value, Fail> {
        let span = &attribute.unwrap_or(name).span;
        // With several blocks of one name the last counts, as with buildx: they are laid over one another later.
        let found = self
            .blocks
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, found)| {
                let at = found.instances.iter().position(|i| i.name == name.text)?;
                (found.kind == kind).then_some((index, at))
            });
        let Some((index, instance)) = found else {
            let all = self.blocks.iter().filter(|found| found.kind == kind);
            let names = all
                .flat_map(|found| &found.instances)
                .map(|i| i.name.as_str());
            let near = rbuild_llb::suggest::nearest_name(&name.text, names);
            let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
            let message = format!("there is no {kind} `{}`", name.text);
            return Err(fail(message, name.span.clone(), label));
        };
        if kind == "group" {
            let group = self.deeper(span, || self.group(index))?;
            let fields = BTreeMap::from([
                ("name".to_owned(), Value::string(group.name)),
                ("description".to_owned(), Value::string(group.description)),
                ("targets".to_owned(), Value::strings(group.targets)),
            ]);
            return match attribute {
                None => Ok(Value::Object(fields)),
                Some(field) => fields.get(&field.text).cloned().ok_or_else(|| {
                    let message = format!("a group has no `{}`", field.text);
                    fail(message, span.clone(), "")
                }),
            };
        }
        let field = |field: &str| -> Result<Value, Fail> {
            let mut target = self.attribute(index, instance, field)?;
            target.name.clone_from(&name.text);
            decode::get(&target, field).ok_or_else(|| {
                let near = rbuild_llb::suggest::nearest_name(field, decode::ATTRIBUTES);
                let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
                fail(format!("a target has no `{field}`"), span.clone(), label)
            })
        };
        match attribute {
            Some(word) => field(&word.text),
            None => {
                let names = decode::ATTRIBUTES.into_iter().chain(["name"]);
                let fields = names.map(|name| Ok((name.to_owned(), field(name)?)));
                Ok(Value::Object(fields.collect::<Result<_, Fail>>()?))
            }
        }
    }

    fn call(&self, name: &str, arguments: &[Value], span: &Span) -> Option<Result<Value, Fail>> {
        if functions::find(name).is_some() || functions::refused(name).is_some() {
            return None;
        }
        let block = *self.functions.get(name)?;
        Some(self.check_function(name).and_then(|()| {
            let (names, rest) = self.parameters(block)?;
            let fits = match rest {
                Some(_) => arguments.len() >= names.len(),
                None => arguments.len() == names.len(),
            };
            if !fits {
                let message = format!(
                    "`{name}` takes {} arguments, not {}",
                    names.len(),
                    arguments.len()
                );
                return Err(fail(message, span.clone(), ""));
            }
            if arguments.contains(&Value::Null) {
                let message = format!("`{name}`: an argument is null");
                return Err(fail(message, span.clone(), ""));
            }
            let mut locals = Locals::default();
            for (name, value) in names.iter().zip(arguments) {
                locals.names.insert((*name).to_owned(), value.clone());
            }
            if let Some(rest) = rest {
                let values = arguments[names.len()..].to_vec();
                locals.names.insert(rest.to_owned(), Value::Tuple(values));
            }
            let result = self.result_of(block)?;
            self.deeper(span, || self.eval(result, &locals))
        }))
    }

    fn function_names(&self) -> Vec<String> {
        self.functions
            .keys()
            .map(|name| (*name).to_owned())
            .collect()
    }

    fn world(&self) -> &World {
        &self.world
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }
}
