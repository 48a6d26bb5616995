//! Which steps a step needs, as its names tell.

use rbuild_llb::Span;

use crate::modules::ModuleId;
use crate::modules::Modules;
use crate::modules::Thing;
use crate::read::Text;
use crate::schema::Body;
use crate::schema::Input;
use crate::schema::Item;
use crate::schema::Mount;
use crate::schema::Use;

/// A step, or a Dockerfile that is an input, and where it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Need {
    pub(super) module: ModuleId,
    pub(super) name: String,
    pub(super) span: Span,
}

/// What a step, or a Dockerfile that is an input, needs directly. Names that mean nothing are reported elsewhere.
pub(super) fn of(modules: &Modules, module: ModuleId, name: &str) -> Vec<Need> {
    let mut needs = Needs {
        modules,
        list: Vec::new(),
    };
    let file = &modules.get(module).file;
    if let Some(step) = file.step.get(name) {
        needs.name(module, &step.value.from);
        needs.uses(module, &step.value.r#use);
        needs.body(module, step.value.body());
        for part in &step.value.then {
            needs.body(module, part.body());
        }
    } else if let Some(input) = file.inputs.get(name)
        && let Input::Dockerfile(input) = &input.value
    {
        for from in input.contexts.values() {
            needs.name(module, &from.value);
        }
    }
    needs.list
}

struct Needs<'m> {
    modules: &'m Modules,
    list: Vec<Need>,
}

impl Needs<'_> {
    fn name(&mut self, from: ModuleId, text: &Text) {
        let found = self.modules.thing(from, text);
        let (module, name) = match found {
            Ok((Thing::Step(module), name)) => (module, name),
            Ok((Thing::Input(module), name)) => {
                let input = &self.modules.get(module).file.inputs[name].value;
                match input {
                    Input::Dockerfile(_) => (module, name),
                    _ => return,
                }
            }
            Ok((Thing::Scratch, _)) | Err(_) => return,
        };
        self.list.push(Need {
            module,
            name: name.to_owned(),
            span: text.span.clone(),
        });
    }

    fn uses(&mut self, from: ModuleId, uses: &[Use]) {
        for used in uses {
            let found = self
                .modules
                .find(from, &used.function, "function", |file| &file.function);
            if let Ok((module, _, function)) = found {
                self.body(module, function.body());
            }
        }
    }

    fn body(&mut self, module: ModuleId, body: Body<'_>) {
        for from in body.copy.iter().filter_map(|copy| copy.from.as_ref()) {
            self.name(module, from);
        }
        for mount in body.mounts {
            match mount {
                Item::Own(Mount::Bind(bind)) => self.name(module, &bind.from),
                Item::Own(Mount::Cache(cache)) => self.cache(module, &cache.cache),
                _ => {}
            }
        }
        for item in body.caches {
            if let Item::Own(name) = item {
                self.cache(module, name);
            }
        }
    }

    fn cache(&mut self, from: ModuleId, name: &Text) {
        let found = self.modules.find(from, name, "cache", |file| &file.caches);
        if let Ok((module, _, cache)) = found
            && let Some(from) = &cache.from
        {
            self.name(module, from);
        }
    }
}
