//! The text of the plan.

use super::Converter;
use super::Step;
use super::parts::Part;
use super::parts::Slot;
use super::stage::Building;
use super::write;
use super::write::Item;
use super::write::Value;
use crate::schema::VERSION;

impl Converter<'_> {
    /// The plan.
    pub(super) fn document(&mut self) -> String {
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
    pub(super) fn sections(&self, out: &mut String) {
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
    pub(super) fn triggers(&self) -> impl Iterator<Item = String> {
        let triggers = self.building.onbuild.iter();
        triggers.filter_map(|item| match &item.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    pub(super) fn write(&self, out: &mut String) {
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
pub(super) fn hoisted(stage: &mut Building) -> Part {
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
