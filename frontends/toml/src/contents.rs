//! What a plan holds, for `rbuild ls`.

use rbuild_llb::Diagnostic;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::inspect::Choice;
use rbuild_llb::inspect::Contents;
use rbuild_llb::inspect::Item;

use crate::Plan;
use crate::modules::Modules;
use crate::outputs;
use crate::outputs::TEST;
use crate::outputs::Wanted;
use crate::read::Text;
use crate::schema::Arg;
use crate::schema::Type;

impl Plan {
    /// What can be asked for, included plans too, and what can be chosen.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn contents(&self, request: &FrontendRequest) -> Result<Contents, Vec<Diagnostic>> {
        let modules = self.load(request)?;
        let default = outputs::wanted(&modules, &[]).unwrap_or_default();
        Ok(contents(&modules, &default))
    }
}

fn contents(modules: &Modules, default: &[Wanted<'_>]) -> Contents {
    let mut contents = Contents::default();
    let (mut groups, mut tests, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    for (id, module) in modules.iter() {
        let qualified = |name: &str| format!("{}{name}", module.prefix);
        for (name, entry) in &module.file.output {
            let output = &entry.value;
            for instance in outputs::instances(modules, id, name) {
                contents.items.push(Item {
                    kind: "output",
                    default: default.contains(&Wanted::Output(id, name)),
                    name: instance.name,
                    help: text(output.help.as_ref()),
                    from: vec![output.step.text.clone()],
                    platforms: output.platforms.as_ref().map_or_else(Vec::new, |list| {
                        list.value.iter().map(|one| one.text.clone()).collect()
                    }),
                });
            }
        }
        for (name, group) in &module.file.groups {
            let members = group.value.value.iter();
            let from = members.map(|member| member.text.clone()).collect();
            groups.push(item("group", qualified(name), None, from));
        }
        for (name, test) in &module.file.test {
            let (help, from) = (text(test.value.help.as_ref()), test.value.from.text.clone());
            tests.push(item(
                "test",
                format!("{TEST}{}", qualified(name)),
                help,
                vec![from],
            ));
        }
        for (name, step) in &module.file.step {
            let (help, from) = (text(step.value.help.as_ref()), step.value.from.text.clone());
            steps.push(item("step", qualified(name), help, vec![from]));
        }
        for (name, arg) in &module.file.args {
            contents.args.push(choice(qualified(name), &arg.value));
        }
    }
    contents.items.extend(groups);
    contents.items.extend(tests);
    contents.items.extend(steps);
    contents
}

fn item(kind: &'static str, name: String, help: Option<String>, from: Vec<String>) -> Item {
    Item {
        kind,
        name,
        help,
        default: false,
        from,
        platforms: Vec::new(),
    }
}

fn text(text: Option<&Text>) -> Option<String> {
    text.map(|text| text.text.clone())
}

fn choice(name: String, arg: &Arg) -> Choice {
    let (help, one_of) = match arg {
        Arg::Default(_) => (None, Vec::new()),
        Arg::Table(table) => {
            let values = table.one_of.iter().flat_map(|list| &list.value);
            let values = values.map(|value| value.text.clone()).collect();
            (text(table.help.as_ref()), values)
        }
    };
    Choice {
        name,
        help,
        kind: match arg.kind() {
            Type::String => "string",
            Type::Bool => "bool",
            Type::Integer => "integer",
        },
        default: arg.default().map(|default| default.text.clone()),
        one_of,
    }
}
