//! Arguments.

use std::rc::Rc;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::suggest::nearest_name;

use super::Lowering;
use super::Read;
use super::fits;
use crate::modules::ModuleId;
use crate::read::Text;
use crate::schema::Arg;
use crate::schema::Type;
use crate::values::fill;
use crate::values::is_predefined;

impl Lowering<'_> {
    /// The value of an argument, which may have none. Remembers that it was read.
    pub(crate) fn arg_value(
        &mut self,
        from: ModuleId,
        name: &str,
        span: &Span,
    ) -> Option<Option<String>> {
        let text = Text {
            text: name.to_owned(),
            span: span.clone(),
        };
        let found = self
            .modules
            .find(from, &text, "argument", |file| &file.args);
        let (module, name, _) = match found {
            Ok(found) => found,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let qualified = Rc::from(self.qualified(module, name));
        let value = self.value_now(&qualified);
        if let Some(reads) = self.reads.last_mut() {
            reads.insert(Read::Value(qualified), value.clone());
        }
        Some(value.as_deref().map(str::to_owned))
    }

    /// The value that somebody gave an argument, if it is one and somebody did. Remembers that it was read.
    pub(super) fn given_value(&mut self, from: ModuleId, name: &str) -> Option<String> {
        let (module, name) = self.modules.locate(from, name);
        if !self.modules.get(module).file.args.contains_key(name) {
            return None;
        }
        let qualified = self.qualified(module, name);
        let value = self.given_now(&qualified).map(str::to_owned);
        if let Some(reads) = self.reads.last_mut() {
            let value = value.as_deref().map(Rc::from);
            reads.insert(Read::Given(Rc::from(qualified)), value);
        }
        value
    }

    /// What an output or the user says an argument is.
    pub(super) fn given_now(&self, qualified: &str) -> Option<&str> {
        let given = self.world.get(qualified);
        let given = given.or_else(|| self.request.build_args.get(qualified));
        given.map(String::as_str)
    }

    /// The value an argument has: given, else its default.
    pub(super) fn value_now(&self, qualified: &Rc<str>) -> Option<Rc<str>> {
        let mut values = self.values.borrow_mut();
        if let Some(known) = values.get(qualified) {
            return known.clone();
        }
        let value = self.worked_out(qualified).map(Rc::from);
        values.insert(Rc::clone(qualified), value.clone());
        value
    }

    fn worked_out(&self, qualified: &str) -> Option<String> {
        if let Some(given) = self.given_now(qualified) {
            return Some(given.to_owned());
        }
        let (module, name) = self.modules.locate(crate::modules::ROOT, qualified);
        let arg = self.modules.get(module).file.args.get(name)?;
        let default = arg.value.default()?;
        // What is wrong with it is reported once, by the check of all arguments.
        self.filled(module, &default.text, &mut vec![qualified.to_owned()])
            .ok()
    }

    /// A default with the arguments and platforms that it names put in. `open` has the arguments that are being asked
    /// for. The error says what is wrong.
    fn filled(
        &self,
        module: ModuleId,
        text: &str,
        open: &mut Vec<String>,
    ) -> Result<String, String> {
        fill(text, |name| {
            if let Some(value) = self.platform_part(name) {
                return Ok(value);
            }
            let Some(name) = name.strip_prefix("args.") else {
                return Err(format!("`{{{name}}}` cannot stand in a default"));
            };
            let (module, name) = self.modules.locate(module, name);
            let qualified = self.qualified(module, name);
            if let Some(given) = self.given_now(&qualified) {
                return Ok(given.to_owned());
            }
            if open.contains(&qualified) {
                return Err(format!("it needs itself, by way of `{qualified}`"));
            }
            let arg = self.modules.get(module).file.args.get(name);
            let arg = arg.ok_or_else(|| format!("there is no argument `{qualified}`"))?;
            let default = arg.value.default();
            let default = default.ok_or_else(|| format!("`{qualified}` has no value"))?;
            open.push(qualified);
            let value = self.filled(module, &default.text, open)?;
            open.pop();
            Ok(value)
        })
    }

    /// Checks the values that arguments are given, and their defaults.
    pub(crate) fn check_args(&mut self) {
        let modules = self.modules;
        let mut known: Vec<String> = Vec::new();
        for (id, module) in modules.iter() {
            for (name, arg) in &module.file.args {
                let qualified = format!("{}{name}", module.prefix);
                let default = arg.value.default();
                let filled = default.map(|default| {
                    let mut open = vec![qualified.clone()];
                    self.filled(id, &default.text, &mut open)
                });
                match (filled, default) {
                    (Some(Err(problem)), Some(default)) => {
                        let message = format!("the default of the argument `{name}` has no value");
                        let span = default.span.clone();
                        self.errors.push(Diagnostic::error(message, span, problem));
                    }
                    (Some(Ok(value)), _) => {
                        self.check_default(name, &arg.value, Some(&value), &arg.name);
                    }
                    (None, _) | (Some(Err(_)), None) => {
                        self.check_default(name, &arg.value, None, &arg.name);
                    }
                }
                if let Some(given) = self.request.build_args.get(&qualified)
                    && let Some(problem) = problem(&arg.value, given)
                {
                    let message = format!("`{given}` is no value of the argument `{qualified}`");
                    self.errors
                        .push(Diagnostic::error(message, arg.name.clone(), problem));
                }
                known.push(qualified);
            }
        }
        let given = self.request.build_args.keys();
        for name in given.filter(|name| !known.contains(name) && !is_predefined(name)) {
            let message = format!("the plan has no argument `{name}`");
            let error = Diagnostic::unplaced(message);
            let (module, local) = modules.locate(crate::modules::ROOT, name);
            let qualified = self.qualified(module, local);
            let near = nearest_name(name, known.iter().map(String::as_str));
            self.errors.push(match near {
                _ if known.contains(&qualified) => {
                    error.hint(format!("its shortest name counts: `{qualified}`"))
                }
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None if known.is_empty() => error.hint("arguments are declared in `[args]`"),
                None => error.hint(format!("the arguments are `{}`", known.join("`, `"))),
            });
        }
    }

    fn check_default(&mut self, name: &str, arg: &Arg, value: Option<&str>, at: &Span) {
        let Arg::Table(table) = arg else {
            return;
        };
        for scalar in table.one_of.iter().flat_map(|list| &list.value) {
            if !fits(arg.kind(), &scalar.text) {
                let message = format!("`{}` is no value of the argument `{name}`", scalar.text);
                let label = wanted(arg.kind());
                self.errors
                    .push(Diagnostic::error(message, scalar.span.clone(), label));
            }
        }
        if let (Some(default), Some(value)) = (&table.default, value)
            && let Some(problem) = problem(arg, value)
        {
            let message = format!("the default of the argument `{name}` is none of its values");
            self.errors.push(
                Diagnostic::error(message, default.span.clone(), problem)
                    .also(at.clone(), "the argument"),
            );
        }
    }

    /// Whether an output may set an argument to a value.
    pub(crate) fn check_axis(&mut self, qualified: &str, value: &str, span: &Span) {
        let (module, name) = self.modules.locate(crate::modules::ROOT, qualified);
        let modules = self.modules;
        if let Some(arg) = modules.get(module).file.args.get(name)
            && let Some(problem) = problem(&arg.value, value)
        {
            let message = format!("`{value}` is no value of the argument `{qualified}`");
            self.errors.push(
                Diagnostic::error(message, span.clone(), problem)
                    .also(arg.name.clone(), "the argument"),
            );
        }
    }
}

/// What is wrong with a value.
fn problem(arg: &Arg, value: &str) -> Option<String> {
    if !fits(arg.kind(), value) {
        return Some(wanted(arg.kind()).to_owned());
    }
    let Arg::Table(table) = arg else {
        return None;
    };
    let list = table.one_of.as_ref()?;
    let values: Vec<&str> = list.value.iter().map(|one| one.text.as_str()).collect();
    (!values.contains(&value)).then(|| format!("one of `{}`", values.join("`, `")))
}

fn wanted(kind: Type) -> &'static str {
    match kind {
        Type::String => "a string",
        Type::Bool => "`true` or `false`",
        Type::Integer => "an integer",
    }
}
