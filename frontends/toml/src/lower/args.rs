//! Arguments.

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::suggest::nearest_name;

use super::Lowering;
use super::fits;
use crate::modules::ModuleId;
use crate::read::Text;
use crate::schema::Arg;
use crate::schema::Type;
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
        let qualified = self.qualified(module, name);
        let value = match self.world.get(&qualified) {
            Some(value) => Some(value.clone()),
            None => self.settled(&qualified),
        };
        if let Some(reads) = self.reads.last_mut() {
            reads.insert(qualified, value.clone());
        }
        Some(value)
    }

    /// The value an argument has where no output says otherwise.
    pub(super) fn settled(&self, qualified: &str) -> Option<String> {
        if let Some(given) = self.request.build_args.get(qualified) {
            return Some(given.clone());
        }
        let (module, name) = self.modules.locate(crate::modules::ROOT, qualified);
        let arg = self.modules.get(module).file.args.get(name)?;
        arg.value.default().map(|default| default.text.clone())
    }

    /// Checks the values that arguments are given, and their defaults.
    pub(crate) fn check_args(&mut self) {
        let modules = self.modules;
        let mut known: Vec<String> = Vec::new();
        for (_, module) in modules.iter() {
            for (name, arg) in &module.file.args {
                let qualified = format!("{}{name}", module.prefix);
                self.check_default(name, &arg.value, &arg.name);
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
            let at = Span::new(&modules.get(crate::modules::ROOT).source, 0..0);
            let error = Diagnostic {
                labels: Vec::new(),
                ..Diagnostic::error(message, at, "")
            };
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

    fn check_default(&mut self, name: &str, arg: &Arg, at: &Span) {
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
        if let Some(default) = &table.default
            && let Some(problem) = problem(arg, &default.text)
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
