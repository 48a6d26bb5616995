//! Attributes of a target: from values of the language to fields, and back for who refers to `target.NAME.attribute`.

use std::collections::BTreeMap;

use crate::flags::Attest;
use crate::flags::Attributes;
use crate::flags::CacheEntry;
use crate::flags::Output;
use crate::flags::Policy;
use crate::flags::Resources;
use crate::flags::Secret;
use crate::flags::Ssh;
use crate::number::Number;
use crate::target::Target;
use crate::value::Type;
use crate::value::Value;
use crate::value::convert;

/// The attributes of a target, but for `matrix` and `name`, which make several of one.
pub(crate) const ATTRIBUTES: [&str; 29] = [
    "annotations",
    "args",
    "attest",
    "cache-from",
    "cache-to",
    "call",
    "context",
    "contexts",
    "description",
    "dockerfile",
    "dockerfile-inline",
    "entitlements",
    "extra-hosts",
    "inherits",
    "labels",
    "network",
    "no-cache",
    "no-cache-filter",
    "output",
    "platforms",
    "policy",
    "pull",
    "resources",
    "secret",
    "shm-size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

type Result<T> = std::result::Result<T, String>;

/// Sets a field of the target. The name is one of [`ATTRIBUTES`].
pub(crate) fn set(target: &mut Target, name: &str, value: &Value) -> Result<()> {
    match name {
        "description" => target.description = text(value)?.ok_or(NULL)?,
        "inherits" => target.inherits = texts(value)?.unwrap_or_default(),
        "annotations" => target.annotations = texts(value)?,
        "tags" => target.tags = texts(value)?,
        "platforms" => target.platforms = texts(value)?,
        "no-cache-filter" => target.no_cache_filter = texts(value)?,
        "ulimits" => target.ulimits = texts(value)?,
        "entitlements" => target.entitlements = texts(value)?,
        "context" => target.context = text(value)?,
        "dockerfile" => target.dockerfile = text(value)?,
        "dockerfile-inline" => target.dockerfile_inline = text(value)?,
        "target" => target.target = text(value)?,
        "network" => target.network = text(value)?,
        "shm-size" => target.shm_size = text(value)?,
        "call" => target.call = text(value)?,
        "pull" => target.pull = flag(value)?,
        "no-cache" => target.no_cache = flag(value)?,
        "args" => target.args = map(value)?,
        "labels" => target.labels = map(value)?,
        "extra-hosts" => target.extra_hosts = map(value)?,
        "contexts" => {
            let all = map(value)?.into_iter();
            target.contexts = all
                .map(|(name, place)| Ok((name, place.ok_or(NULL)?)))
                .collect::<Result<_>>()?;
        }
        "attest" => target.attest = Some(entries(value, attest)?),
        "cache-from" => target.cache_from = Some(entries(value, cache)?),
        "cache-to" => target.cache_to = Some(entries(value, cache)?),
        "output" => target.outputs = Some(entries(value, output)?),
        "secret" => target.secrets = Some(entries(value, secret)?),
        "ssh" => target.ssh = Some(entries(value, ssh)?),
        "policy" => target.policy = Some(entries(value, policy)?),
        "resources" => target.resources = Some(resources(value)?),
        _ => return Err(format!("a target has no `{name}`")),
    }
    Ok(())
}

const NULL: &str = "it must not be null";

fn text(value: &Value) -> Result<Option<String>> {
    Ok(convert(value, &Type::String)?.to_text())
}

fn flag(value: &Value) -> Result<Option<bool>> {
    match convert(value, &Type::Bool)? {
        Value::Bool(value) => Ok(Some(value)),
        _ => Ok(None),
    }
}

fn texts(value: &Value) -> Result<Option<Vec<String>>> {
    let list = convert(value, &Type::List(Box::new(Type::String)))?;
    let Some(items) = list.elements() else {
        return Ok(None);
    };
    let text = |(at, item): (usize, &Value)| {
        item.to_text()
            .ok_or_else(|| format!("element {at}: {NULL}"))
    };
    items
        .iter()
        .enumerate()
        .map(text)
        .collect::<Result<_>>()
        .map(Some)
}

fn map(value: &Value) -> Result<BTreeMap<String, Option<String>>> {
    let map = convert(value, &Type::Map(Box::new(Type::String)))?;
    let entries = map.entries().into_iter().flatten();
    Ok(entries
        .map(|(name, value)| (name.clone(), value.to_text()))
        .collect())
}

/// The entries of a list; those that are empty texts are passed over.
fn entries<T>(value: &Value, read: fn(&Value) -> Result<Vec<T>>) -> Result<Vec<T>> {
    let items = match value {
        Value::Tuple(items) | Value::List(items) => items,
        Value::Null => return Err(NULL.to_owned()),
        other => return Err(format!("list required, but have {}", other.type_of())),
    };
    let mut all = Vec::new();
    for (at, item) in items.iter().enumerate() {
        match item {
            Value::String(text) if text.is_empty() => {}
            Value::Null => return Err(format!("element {at}: {NULL}")),
            item => all.extend(read(item).map_err(|why| format!("element {at}: {why}"))?),
        }
    }
    Ok(all)
}

fn attributes(value: &Value) -> Result<Attributes> {
    let given = map(value)?.into_iter();
    given
        .map(|(name, value)| {
            let value = value.ok_or_else(|| format!("`{name}`: {NULL}"))?;
            Ok((name, value))
        })
        .collect()
}

fn attest(value: &Value) -> Result<Vec<Attest>> {
    match value {
        Value::String(text) => Ok(vec![Attest::parse(text)?]),
        value => Ok(vec![Attest::from_attributes(attributes(value)?)?]),
    }
}

fn cache(value: &Value) -> Result<Vec<CacheEntry>> {
    match value {
        Value::String(text) => CacheEntry::parse(text),
        value => Ok(vec![CacheEntry::from_attributes(attributes(value)?)?]),
    }
}

fn output(value: &Value) -> Result<Vec<Output>> {
    match value {
        Value::String(text) => Ok(vec![Output::parse(text)?]),
        value => Ok(vec![Output::from_attributes(attributes(value)?)?]),
    }
}

fn secret(value: &Value) -> Result<Vec<Secret>> {
    if let Value::String(text) = value {
        return Ok(vec![Secret::parse(text)?]);
    }
    let optional = |name: &str| (name.to_owned(), (Type::String, true));
    let ty = Type::Object(["id", "src", "env"].map(optional).into());
    let object = convert(value, &ty)?;
    let field = |name: &str| -> String {
        let value = object.entries().and_then(|entries| entries.get(name));
        value.and_then(Value::to_text).unwrap_or_default()
    };
    Ok(vec![Secret {
        id: field("id"),
        source: field("src"),
        env: field("env"),
    }])
}

fn ssh(value: &Value) -> Result<Vec<Ssh>> {
    if let Value::String(text) = value {
        return Ok(vec![Ssh::parse(text)]);
    }
    let list = Type::List(Box::new(Type::String));
    let ty = Type::Object(BTreeMap::from([
        ("id".to_owned(), (Type::String, true)),
        ("paths".to_owned(), (list, true)),
    ]));
    let object = convert(value, &ty)?;
    let field = |name: &str| object.entries().and_then(|entries| entries.get(name));
    Ok(vec![Ssh {
        id: field("id").and_then(Value::to_text).unwrap_or_default(),
        paths: field("paths")
            .map(texts)
            .transpose()?
            .flatten()
            .unwrap_or_default(),
    }])
}

fn policy(value: &Value) -> Result<Vec<Policy>> {
    if let Value::String(text) = value {
        return Ok(vec![Policy::parse(text)?]);
    }
    let Some(entries) = value.entries() else {
        return Err(format!(
            "map of string required, but have {}",
            value.type_of()
        ));
    };
    let mut pairs = Vec::new();
    for (name, value) in entries {
        if *value != Value::Null {
            let text = value.to_text().ok_or_else(|| {
                format!("`{name}`: string required, but have {}", value.type_of())
            })?;
            pairs.push((name.as_str(), text));
        }
    }
    pairs.retain(|(_, text)| !text.is_empty());
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    Ok(vec![Policy::from_pairs(&pairs)?])
}

fn resources(value: &Value) -> Result<Resources> {
    if *value == Value::Null {
        return Err(NULL.to_owned());
    }
    let field = |name: &str| {
        let number = name.starts_with("cpu-");
        let ty = if number { Type::Number } else { Type::String };
        (name.to_owned(), (ty, true))
    };
    let ty = Type::Object(Resources::NAMES.map(field).into());
    let object = convert(value, &ty)?;
    let mut resources = Resources::default();
    for (name, value) in object.entries().into_iter().flatten() {
        if let Some(text) = value.to_text() {
            resources.set(name, &text)?;
        }
    }
    Ok(resources)
}

/// A field as a value. What is not given is null, or an empty list where entries have a form of their own.
pub(crate) fn get(target: &Target, name: &str) -> Option<Value> {
    let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::String);
    let texts = |list: &Option<Vec<String>>| list.as_ref().map_or(Value::Null, Value::strings);
    let flag = |flag: Option<bool>| flag.map_or(Value::Null, Value::Bool);
    Some(match name {
        "name" => Value::string(&target.name),
        "description" => Value::string(&target.description),
        "inherits" if target.inherits.is_empty() => Value::Null,
        "inherits" => Value::strings(&target.inherits),
        "annotations" => texts(&target.annotations),
        "tags" => texts(&target.tags),
        "platforms" => texts(&target.platforms),
        "no-cache-filter" => texts(&target.no_cache_filter),
        "ulimits" => texts(&target.ulimits),
        "entitlements" => texts(&target.entitlements),
        "context" => text(&target.context),
        "dockerfile" => text(&target.dockerfile),
        "dockerfile-inline" => text(&target.dockerfile_inline),
        "target" => text(&target.target),
        "network" => text(&target.network),
        "shm-size" => text(&target.shm_size),
        "call" => text(&target.call),
        "pull" => flag(target.pull),
        "no-cache" => flag(target.no_cache),
        "args" => map_value(&target.args),
        "labels" => map_value(&target.labels),
        "extra-hosts" => map_value(&target.extra_hosts),
        "contexts" if target.contexts.is_empty() => Value::Null,
        "contexts" => attributes_value(&target.contexts),
        "attest" => list(&target.attest, |a| attributes_value(&a.to_attributes())),
        "cache-from" => list(&target.cache_from, |c| attributes_value(&c.to_attributes())),
        "cache-to" => list(&target.cache_to, |c| attributes_value(&c.to_attributes())),
        "output" => list(&target.outputs, output_value),
        "secret" => list(&target.secrets, secret_value),
        "ssh" => list(&target.ssh, ssh_value),
        "policy" => list(&target.policy, policy_value),
        "resources" => target
            .resources
            .as_ref()
            .map_or(Value::Null, resources_value),
        _ => return None,
    })
}

fn map_value(map: &BTreeMap<String, Option<String>>) -> Value {
    if map.is_empty() {
        return Value::Null;
    }
    let entries = map.iter().map(|(name, value)| {
        let value = value.clone().map_or(Value::Null, Value::String);
        (name.clone(), value)
    });
    Value::Map(entries.collect())
}

fn attributes_value(attributes: &Attributes) -> Value {
    let entries = attributes
        .iter()
        .map(|(name, value)| (name.clone(), Value::string(value)));
    Value::Map(entries.collect())
}

fn list<T>(list: &Option<Vec<T>>, value: fn(&T) -> Value) -> Value {
    Value::List(list.iter().flatten().map(value).collect())
}

fn output_value(output: &Output) -> Value {
    let mut all = output.to_attributes();
    all.entry("dest".to_owned()).or_default();
    attributes_value(&all)
}

fn secret_value(secret: &Secret) -> Value {
    let fields = [
        ("id", &secret.id),
        ("src", &secret.source),
        ("env", &secret.env),
    ];
    let fields = fields.map(|(name, text)| (name.to_owned(), Value::string(text)));
    Value::Object(fields.into())
}

fn ssh_value(ssh: &Ssh) -> Value {
    Value::Object(BTreeMap::from([
        ("id".to_owned(), Value::string(&ssh.id)),
        ("paths".to_owned(), Value::strings(&ssh.paths)),
    ]))
}

fn policy_value(policy: &Policy) -> Value {
    let fields = [
        ("filename", policy.files.first().cloned()),
        ("reset", policy.reset.then(|| "true".to_owned())),
        ("disabled", policy.disabled.then(|| "true".to_owned())),
        ("strict", policy.strict.map(|strict| strict.to_string())),
        ("log-level", policy.log_level.clone()),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), Value::String(text?))));
    Value::Map(given.collect())
}

fn resources_value(resources: &Resources) -> Value {
    let field = |name: &str| {
        let text = resources.get(name);
        let number = name.starts_with("cpu-");
        let value = match (text, number) {
            (None, _) => Value::Null,
            (Some(text), true) => Number::parse(&text).map_or(Value::Null, Value::Number),
            (Some(text), false) => Value::String(text),
        };
        (name.to_owned(), value)
    };
    Value::Object(Resources::NAMES.map(field).into())
}
