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
    pub(super) thing: Thing,
    pub(super) span: Span,
}

/// What a step, or a Dockerfile that is an input, needs directly. Names that mean nothing are reported elsewhere.
pub(super) fn of(modules: &Modules, thing: Thing) -> Vec<Need> {
    let mut needs = Needs {
        modules,
        list: Vec::new(),
    };
    match thing {
        Thing::Scratch => {}
        Thing::Step(module, at) => {
            let step = modules.step(module, at);
            needs.name(module, &step.from);
            needs.uses(module, &step.r#use);
            needs.body(module, step.body());
            for part in &step.then {
                needs.body(module, part.body());
            }
        }
        Thing::Input(module, at) => {
            if let Input::Dockerfile(input) = modules.input(module, at) {
                for from in input.contexts.values() {
                    needs.name(module, &from.value);
                }
            }
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
        let Ok(thing) = self.modules.thing(from, text) else {
            return;
        };
        let needed = match thing {
            Thing::Scratch => false,
            Thing::Step(..) => true,
            Thing::Input(module, at) => {
                matches!(self.modules.input(module, at), Input::Dockerfile(_))
            }
        };
        if needed {
            self.list.push(Need {
                thing,
                span: text.span.clone(),
            });
        }
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
