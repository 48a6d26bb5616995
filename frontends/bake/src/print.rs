//! What `docker buildx bake --print` writes: the plan as JSON, indented by two spaces.

use std::collections::BTreeMap;

use crate::BakePlan;
use crate::flags::Attest;
use crate::flags::Attributes;
use crate::flags::CacheEntry;
use crate::flags::Output;
use crate::flags::Policy;
use crate::flags::Resources;
use crate::flags::Secret;
use crate::flags::Ssh;
use crate::json::quoted;
use crate::target::Group;
use crate::target::Target;

/// A JSON value with its order kept.
enum Json {
    Text(String),
    /// `true`, `1`, `null`.
    Plain(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The plan as buildx prints it, with the line break at the end.
pub fn print(plan: &BakePlan) -> String {
    let mut fields = Fields::default();
    if !plan.groups.is_empty() {
        fields.add("group", named(&plan.groups, group));
    }
    fields.add("target", named(&plan.targets, target));
    let mut out = String::new();
    write(&Json::Object(fields.0), 0, &mut out);
    out.push('\n');
    out
}

fn named<T>(all: &BTreeMap<String, T>, json: fn(&T) -> Json) -> Json {
    Json::Object(
        all.iter()
            .map(|(name, item)| (name.clone(), json(item)))
            .collect(),
    )
}

fn write(json: &Json, depth: usize, out: &mut String) {
    let mut lines = |open: char, close: char, items: Vec<(Option<&str>, &Json)>| {
        out.push(open);
        for (at, (name, item)) in items.iter().enumerate() {
            out.push_str(if at == 0 { "\n" } else { ",\n" });
            out.push_str(&"  ".repeat(depth + 1));
            if let Some(name) = name {
                out.push_str(&quoted(name));
                out.push_str(": ");
            }
            write(item, depth + 1, out);
        }
        if !items.is_empty() {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
        out.push(close);
    };
    match json {
        Json::Text(text) => out.push_str(&quoted(text)),
        Json::Plain(text) => out.push_str(text),
        Json::List(items) => lines('[', ']', items.iter().map(|item| (None, item)).collect()),
        Json::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(name, item)| (Some(name.as_str()), item));
            lines('{', '}', entries.collect());
        }
    }
}

#[derive(Default)]
struct Fields(Vec<(String, Json)>);

impl Fields {
    fn add(&mut self, name: &str, json: Json) {
        self.0.push((name.to_owned(), json));
    }

    /// Fields that are not given are left out; so are empty texts of Go strings, but not of pointers to them.
    fn text(&mut self, name: &str, text: Option<&String>) {
        if let Some(text) = text {
            self.add(name, Json::Text(text.clone()));
        }
    }

    fn filled(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.add(name, Json::Text(text.to_owned()));
        }
    }

    fn flag(&mut self, name: &str, flag: Option<bool>) {
        if let Some(flag) = flag {
            self.add(name, Json::Plain(flag.to_string()));
        }
    }

    fn list<T>(&mut self, name: &str, list: Option<&Vec<T>>, json: fn(&T) -> Json) {
        match list {
            Some(list) if !list.is_empty() => {
                self.add(name, Json::List(list.iter().map(json).collect()));
            }
            _ => {}
        }
    }

    fn texts(&mut self, name: &str, list: Option<&Vec<String>>) {
        self.list(name, list, |text| Json::Text(text.clone()));
    }

    fn map(&mut self, name: &str, map: &BTreeMap<String, Option<String>>) {
        let entry = |(name, value): (&String, &Option<String>)| {
            let value = match value {
                Some(value) => Json::Text(escaped(value)),
                None => Json::Plain("null".to_owned()),
            };
            (name.clone(), value)
        };
        if !map.is_empty() {
            self.add(name, Json::Object(map.iter().map(entry).collect()));
        }
    }
}

/// The output is a bake file too: what would be a template there is escaped.
fn escaped(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

fn group(group: &Group) -> Json {
    let mut fields = Fields::default();
    fields.filled("description", &group.description);
    let targets = group.targets.iter().cloned().map(Json::Text).collect();
    // The group of a compose file that builds nothing has no list at all.
    let json = match group.targets.is_empty() && group.span.is_none() {
        true => Json::Plain("null".to_owned()),
        false => Json::List(targets),
    };
    fields.add("targets", json);
    Json::Object(fields.0)
}

fn target(target: &Target) -> Json {
    let mut fields = Fields::default();
    fields.filled("description", &target.description);
    fields.list("annotations", target.annotations.as_ref(), |text| {
        Json::Text(escaped(text))
    });
    fields.list("attest", target.attest.as_ref(), attest);
    fields.text("context", target.context.as_ref());
    if !target.contexts.is_empty() {
        fields.add("contexts", attributes(&target.contexts));
    }
    fields.text("dockerfile", target.dockerfile.as_ref());
    let inline = target.dockerfile_inline.as_deref().map(escaped);
    fields.text("dockerfile-inline", inline.as_ref());
    fields.map("args", &target.args);
    fields.map("labels", &target.labels);
    fields.texts("tags", target.tags.as_ref());
    fields.list("cache-from", target.cache_from.as_ref(), cache);
    fields.list("cache-to", target.cache_to.as_ref(), cache);
    fields.text("target", target.target.as_ref());
    fields.list("secret", target.secrets.as_ref(), secret);
    fields.list("ssh", target.ssh.as_ref(), ssh);
    fields.texts("platforms", target.platforms.as_ref());
    fields.list("output", target.outputs.as_ref(), output);
    fields.flag("pull", target.pull);
    fields.flag("no-cache", target.no_cache);
    fields.text("network", target.network.as_ref());
    fields.texts("no-cache-filter", target.no_cache_filter.as_ref());
    fields.text("shm-size", target.shm_size.as_ref());
    fields.texts("ulimits", target.ulimits.as_ref());
    if let Some(limits) = &target.resources {
        fields.add("resources", resources(limits));
    }
    fields.text("call", target.call.as_ref());
    fields.texts("entitlements", target.entitlements.as_ref());
    fields.map("extra-hosts", &target.extra_hosts);
    fields.list("policy", target.policy.as_ref(), policy);
    Json::Object(fields.0)
}

fn attributes(all: &Attributes) -> Json {
    let entries = all
        .iter()
        .map(|(name, value)| (name.clone(), Json::Text(value.clone())));
    Json::Object(entries.collect())
}

fn attest(attest: &Attest) -> Json {
    let entries = attest.to_attributes().into_iter().map(|(name, value)| {
        let flag = attest.disabled && name == "disabled";
        let value = if flag {
            Json::Plain(value)
        } else {
            Json::Text(value)
        };
        (name, value)
    });
    Json::Object(entries.collect())
}

fn cache(entry: &CacheEntry) -> Json {
    attributes(&entry.to_attributes())
}

fn output(output: &Output) -> Json {
    attributes(&output.to_attributes())
}

fn secret(secret: &Secret) -> Json {
    let mut fields = Fields::default();
    fields.filled("id", &secret.id);
    fields.filled("src", &secret.source);
    fields.filled("env", &secret.env);
    Json::Object(fields.0)
}

fn ssh(ssh: &Ssh) -> Json {
    let mut fields = Fields::default();
    fields.filled("id", &ssh.id);
    fields.texts("paths", Some(&ssh.paths));
    Json::Object(fields.0)
}

fn resources(limits: &Resources) -> Json {
    let mut fields = Fields::default();
    for name in Resources::NAMES {
        if let Some(value) = limits.get(name) {
            let number = matches!(name, "cpu-shares" | "cpu-period" | "cpu-quota");
            fields.add(
                name,
                if number {
                    Json::Plain(value)
                } else {
                    Json::Text(value)
                },
            );
        }
    }
    Json::Object(fields.0)
}

fn policy(policy: &Policy) -> Json {
    let null = || Json::Plain("null".to_owned());
    let files = policy.files.iter().map(|name| {
        Json::Object(vec![
            ("Filename".to_owned(), Json::Text(name.clone())),
            ("Data".to_owned(), null()),
        ])
    });
    let mut fields = Fields::default();
    fields.add(
        "Files",
        if policy.files.is_empty() {
            null()
        } else {
            Json::List(files.collect())
        },
    );
    fields.add("Reset", Json::Plain(policy.reset.to_string()));
    fields.add("Disabled", Json::Plain(policy.disabled.to_string()));
    let strict = policy.strict.map(|strict| Json::Plain(strict.to_string()));
    fields.add("Strict", strict.unwrap_or_else(null));
    let level = policy.log_level.clone().map(Json::Text);
    fields.add("LogLevel", level.unwrap_or_else(null));
    Json::Object(fields.0)
}
