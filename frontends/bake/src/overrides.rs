//! `--set TARGET.KEY=VALUE`: what the command line puts in place of what files say.

use std::collections::BTreeMap;

use crate::Fail;
use crate::Problem;
use crate::flags::Attest;
use crate::flags::Attributes;
use crate::flags::CacheEntry;
use crate::flags::Output;
use crate::flags::Policy;
use crate::flags::Secret;
use crate::flags::Ssh;
use crate::flags::parse_bool;
use crate::select::Config;
use crate::target::Target;
use crate::target::merge_attest;
use crate::target::merge_caches;
use crate::target::merge_outputs;
use crate::target::merge_secrets;
use crate::target::merge_ssh;

/// The values that one key of one target is given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Override {
    /// The one value of keys that have one.
    value: String,
    /// The values of keys that have several, each from a `--set` of its own.
    values: Vec<String>,
    /// `+=`
    append: bool,
}

/// What is to be set: by target, then by key.
pub(crate) type Overrides = BTreeMap<String, BTreeMap<String, Override>>;

/// The keys that may be set.
const KEYS: [&str; 29] = [
    "annotations",
    "args",
    "attest",
    "cache-from",
    "cache-to",
    "call",
    "context",
    "contexts",
    "dockerfile",
    "entitlements",
    "extra-hosts",
    "labels",
    "load",
    "network",
    "no-cache",
    "no-cache-filter",
    "output",
    "platform",
    "policy",
    "pull",
    "push",
    "resources",
    "secret",
    "secrets",
    "shm-size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

/// The keys with several values.
const LISTS: [&str; 12] = [
    "output",
    "cache-to",
    "cache-from",
    "tags",
    "platform",
    "secrets",
    "ssh",
    "attest",
    "entitlements",
    "network",
    "annotations",
    "policy",
];

/// The keys that have a name behind them: `args.NAME`.
const NAMED: [&str; 6] = [
    "args",
    "contexts",
    "extra-hosts",
    "labels",
    "resources",
    "secret",
];

type Result<T> = std::result::Result<T, String>;

pub(crate) fn parse(
    given: &[String],
    config: &Config,
    environment: &BTreeMap<String, String>,
) -> std::result::Result<Overrides, Fail> {
    let mut all = Overrides::new();
    for text in given {
        let failure =
            |why: String| -> Fail { crate::fail_nowhere(format!("`--set {text}`: {why}")) };
        let (path, value) = match text.split_once('=') {
            Some((path, value)) => (path, Some(value)),
            None => (text.as_str(), None),
        };
        let (path, append) = match path.strip_suffix('+') {
            Some(path) => (path, true),
            None => (path, false),
        };
        let Some((pattern, key)) = path.split_once('.') else {
            return Err(failure(
                "it must be of the form `TARGET.KEY=VALUE`".to_owned(),
            ));
        };
        let (field, name) = match key.split_once('.') {
            Some((field, name)) => (field, Some(name)),
            None => (key, None),
        };
        check_key(field, name, append).map_err(failure)?;
        if value.is_none() && field != "args" {
            return Err(failure("it has no `=VALUE`".to_owned()));
        }
        let names = config
            .targets_matching(pattern)
            .map_err(|why| why.prefixed(&format!("`--set {text}`")))?;
        for target in names {
            let value = match (value, name) {
                (Some(value), _) => value,
                (None, Some(name)) => match environment.get(name) {
                    Some(value) => value,
                    None => continue,
                },
                (None, None) => continue,
            };
            let entry = all
                .entry(target)
                .or_default()
                .entry(key.to_owned())
                .or_default();
            if LISTS.contains(&field) {
                entry.append = append;
                entry.values.push(value.to_owned());
            } else {
                entry.value = value.to_owned();
            }
            if field == "network" {
                // buildx has `network` among the lists and then takes the one value, which is empty: `--set
                // x.network=host` would switch it off. What was meant is clear.
                entry.value = value.to_owned();
            }
        }
    }
    Ok(all)
}

fn check_key(field: &str, name: Option<&str>, append: bool) -> Result<()> {
    if !KEYS.contains(&field) {
        let hint = match rbuild_llb::suggest::nearest_name(field, KEYS) {
            Some(near) => format!(", did you mean `{near}`?"),
            None => format!("; there are: {}", KEYS.join(", ")),
        };
        return Err(format!("there is no key `{field}`{hint}"));
    }
    let named = NAMED.contains(&field);
    match name {
        None | Some("") if named => Err(format!("`{field}` needs a name: `{field}.NAME=VALUE`")),
        Some(_) if append && matches!(field, "resources" | "secret") => {
            Err(format!("`+=` cannot be used with `{field}`"))
        }
        _ => Ok(()),
    }
}

/// Carries out the overrides of one target: outputs first, which `load` and `push` then change.
pub(crate) fn apply(
    target: &mut Target,
    overrides: &BTreeMap<String, Override>,
) -> std::result::Result<(), Problem> {
    let last = |key: &str| matches!(key, "load" | "push") || key.starts_with("secret.");
    let (late, early): (Vec<_>, Vec<_>) = overrides.iter().partition(|(key, _)| last(key));
    for (key, value) in early.into_iter().chain(late) {
        apply_one(target, key, value).map_err(|why| Problem {
            message: format!("`--set` of `{key}`: {why}"),
        })?;
    }
    Ok(())
}

fn apply_one(target: &mut Target, key: &str, given: &Override) -> Result<()> {
    let (field, name) = key.split_once('.').unwrap_or((key, ""));
    let name = name.to_owned();
    let value = || Some(given.value.clone());
    let flag = || {
        parse_bool(&given.value)
            .ok_or_else(|| format!("`{}` is neither true nor false", given.value))
    };
    match field {
        "context" => target.context = value(),
        "dockerfile" => target.dockerfile = value(),
        "target" => target.target = value(),
        "call" => target.call = value(),
        "shm-size" => target.shm_size = value(),
        "network" => target.network = value(),
        "args" => drop(target.args.insert(name, value())),
        "labels" => drop(target.labels.insert(name, value())),
        "extra-hosts" => drop(target.extra_hosts.insert(name, value())),
        "contexts" => drop(target.contexts.insert(name, given.value.clone())),
        "tags" => texts(&mut target.tags, given),
        "platform" => texts(&mut target.platforms, given),
        // buildx keeps one value of these two and then takes the list, which is empty.
        "no-cache-filter" => texts(&mut target.no_cache_filter, &given.as_list()),
        "ulimits" => texts(&mut target.ulimits, &given.as_list()),
        "entitlements" => target
            .entitlements
            .get_or_insert_default()
            .extend(given.values.clone()),
        "annotations" => target
            .annotations
            .get_or_insert_default()
            .extend(given.values.clone()),
        "no-cache" => target.no_cache = Some(flag()?),
        "pull" => target.pull = Some(flag()?),
        "push" => set_push(&mut target.outputs, flag()?),
        "load" => set_load(&mut target.outputs, flag()?),
        "resources" => target
            .resources
            .get_or_insert_default()
            .set(&name, &given.value)?,
        "secret" => set_secret(target, &name, &given.value)?,
        "policy" => {
            let all = each(given, Policy::parse)?;
            if !given.append {
                target.policy = None;
            }
            target.policy.get_or_insert_default().extend(all);
        }
        "attest" => merge_attest(&mut target.attest, &Some(each(given, Attest::parse)?)),
        "cache-from" => {
            let all = each(given, CacheEntry::parse)?.concat();
            list(&mut target.cache_from, all, given, merge_caches);
        }
        "cache-to" => {
            let all = each(given, CacheEntry::parse)?.concat();
            list(&mut target.cache_to, all, given, merge_caches);
        }
        "secrets" => list(
            &mut target.secrets,
            each(given, Secret::parse)?,
            given,
            merge_secrets,
        ),
        "ssh" => {
            let all = each(given, |text| Ok(Ssh::parse(text)))?;
            list(&mut target.ssh, all, given, merge_ssh);
        }
        "output" => list(
            &mut target.outputs,
            each(given, Output::parse)?,
            given,
            merge_outputs,
        ),
        _ => return Err(format!("there is no key `{field}`")),
    }
    Ok(())
}

impl Override {
    fn as_list(&self) -> Self {
        Self {
            values: vec![self.value.clone()],
            ..self.clone()
        }
    }
}

fn texts(field: &mut Option<Vec<String>>, given: &Override) {
    if !given.append {
        *field = None;
    }
    field.get_or_insert_default().extend(given.values.clone());
}

fn each<T>(given: &Override, parse: fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let filled = given.values.iter().filter(|text| !text.is_empty());
    filled.map(|text| parse(text)).collect()
}

fn list<T>(
    field: &mut Option<Vec<T>>,
    all: Vec<T>,
    given: &Override,
    merge: fn(&mut Option<Vec<T>>, &Option<Vec<T>>),
) {
    if given.append {
        merge(field, &Some(all));
    } else {
        *field = Some(all);
    }
}

fn set_secret(target: &mut Target, id: &str, value: &str) -> Result<()> {
    let mut declared = target.secrets.iter_mut().flatten();
    let Some(secret) = declared.find(|secret| secret.id == id) else {
        return Err(format!("the target has no secret `{id}` that could be set"));
    };
    let given = Secret::parse(value)?;
    if !given.id.is_empty() && given.id != id {
        return Err(format!("`id={}` is not the secret `{id}`", given.id));
    }
    secret.env = given.env;
    secret.source = given.source;
    Ok(())
}

fn new_output(kind: &str, attributes: Attributes) -> Output {
    Output {
        kind: kind.to_owned(),
        destination: String::new(),
        attributes,
    }
}

/// `--push`: images are pushed; where there is no other output than `docker`, an image that is pushed is added.
fn set_push(outputs: &mut Option<Vec<Output>>, push: bool) {
    let all = outputs.get_or_insert_default();
    if !push {
        let mut at = 0;
        while at < all.len() {
            match all[at].kind.as_str() {
                "registry" => drop(all.swap_remove(at)),
                kind => {
                    if kind == "image" {
                        all[at]
                            .attributes
                            .insert("push".to_owned(), "false".to_owned());
                    }
                    at += 1;
                }
            }
        }
        return;
    }
    let only_docker = all.iter().all(|output| output.kind == "docker");
    for output in all.iter_mut().filter(|output| output.kind == "image") {
        output
            .attributes
            .insert("push".to_owned(), "true".to_owned());
    }
    if only_docker {
        let pushed = BTreeMap::from([("push".to_owned(), "true".to_owned())]);
        all.push(new_output("image", pushed));
    }
}

/// `--load`: a `docker` output is added to outputs that are images.
fn set_load(outputs: &mut Option<Vec<Output>>, load: bool) {
    if !load {
        return;
    }
    let all = outputs.get_or_insert_default();
    for output in all.iter() {
        match output.kind.as_str() {
            "docker" if output.destination.is_empty() => return,
            "docker" | "image" | "registry" | "oci" => {}
            _ => return,
        }
    }
    all.push(new_output("docker", Attributes::new()));
}
