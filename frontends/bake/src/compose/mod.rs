//! Compose files: their services with a `build` are targets, all of them together the group `default`.
//!
//! Only `services` (their `build`, `image` and `environment`) and `secrets` are looked at. `include`, and `extends` from
//! another file, would need files that nobody named, and are refused.

mod interpolate;
mod merge;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;

use self::yaml::Kind;
use self::yaml::Node;
use crate::BakeOptions;
use crate::Fail;
use crate::fail;
use crate::flags::Attest;
use crate::flags::CacheEntry;
use crate::flags::Output;
use crate::flags::Secret;
use crate::flags::Ssh;
use crate::flags::attest_text;
use crate::flags::parse_bool;
use crate::select::Config;
use crate::syntax::Word;
use crate::target::Group;
use crate::target::Target;
use crate::target::merge_caches;
use crate::target::merge_outputs;
use crate::target::merge_secrets;
use crate::target::merge_ssh;
use rbuild_llb::paths::clean as clean_path;

/// The keys of `build`. `isolation` is for another system; buildx passes over `entitlements`, `privileged` and
/// `no_cache_filter`, and so do we.
const BUILD: [&str; 26] = [
    "additional_contexts",
    "args",
    "cache_from",
    "cache_to",
    "context",
    "dockerfile",
    "dockerfile_inline",
    "entitlements",
    "extra_hosts",
    "isolation",
    "labels",
    "network",
    "no_cache",
    "no_cache_filter",
    "platforms",
    "privileged",
    "provenance",
    "pull",
    "sbom",
    "secrets",
    "shm_size",
    "ssh",
    "tags",
    "target",
    "ulimits",
    "x-bake",
];

/// The keys of `x-bake`.
const X_BAKE: [&str; 11] = [
    "cache-from",
    "cache-to",
    "contexts",
    "no-cache",
    "no-cache-filter",
    "output",
    "platforms",
    "pull",
    "secret",
    "ssh",
    "tags",
];

/// Whether a file without an ending that says so is a compose file: a mapping with `services`.
pub(crate) fn looks_like_one(file: &Arc<SourceFile>) -> bool {
    yaml::parse(file).is_ok_and(|documents| {
        let mut documents = documents.iter();
        documents.any(|document| document.get("services").is_some())
    })
}

/// Adds the targets of the files, later files laid over earlier ones.
pub(crate) fn read(
    files: &[Arc<SourceFile>],
    options: &BakeOptions,
    config: &mut Config,
    warnings: &mut Vec<Diagnostic>,
) -> Result<(), Fail> {
    let mut environment = options.environment.clone();
    if let Some(file) = &options.dotenv {
        environment.extend(interpolate::dotenv(file, &options.environment)?);
    }
    environment.extend(options.variables.clone());
    let mut merged: Option<Node> = None;
    for file in files {
        let mut found = false;
        for mut document in yaml::parse(file)? {
            interpolate::interpolate(&mut document, &environment)?;
            let document = merge::prepare(document)?;
            found |= document
                .get("services")
                .or(document.get("secrets"))
                .is_some();
            merged = Some(match merged {
                Some(before) => merge::merge(before, document, &mut Vec::new())?,
                None => document,
            });
        }
        if !found {
            let message = "the compose file has no services";
            return Err(fail(message, Span::new(file, 0..0), ""));
        }
    }
    let Some(merged) = merged else {
        return Ok(());
    };
    let reader = Reader {
        environment,
        secrets: merged.get("secrets").cloned(),
    };
    let mut group = Group {
        name: "default".to_owned(),
        ..Group::default()
    };
    let Some(Kind::Map(services)) = merged.get("services").map(|services| &services.kind) else {
        return Ok(());
    };
    for (name, service) in services {
        if let Some(target) = reader.service(name, service, warnings)? {
            group.targets.push(target.name.clone());
            config.add_target(target);
        }
    }
    config.add_group(group);
    Ok(())
}

struct Reader {
    environment: BTreeMap<String, String>,
    secrets: Option<Node>,
}

type Pairs = BTreeMap<String, Option<String>>;

impl Reader {
    fn service(
        &self,
        name: &Word,
        service: &Node,
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Option<Target>, Fail> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.text.is_empty() || !name.text.chars().all(valid) {
            let message = format!("`{}` is no name of a service", name.text);
            let label = "letters, digits, `.`, `_` and `-` may be in it";
            return Err(fail(message, name.span.clone(), label));
        }
        let image = service
            .get("image")
            .filter(|image| !image.is_null())
            .map(text)
            .transpose()?;
        let Some(build) = service.get("build").filter(|build| !build.is_null()) else {
            if image.is_none() {
                let message = format!(
                    "the service `{}` has neither `build` nor `image`",
                    name.text
                );
                return Err(fail(message, name.span.clone(), ""));
            }
            return Ok(None);
        };
        let build = merge::as_build(build.clone());
        let Kind::Map(entries) = &build.kind else {
            let message = "`build` is a path or a mapping";
            return Err(fail(message, build.span, ""));
        };
        let mut target = Target {
            name: name.text.replace('.', "_"),
            span: Some(name.span.clone()),
            context: Some(".".to_owned()),
            ..Target::default()
        };
        for (key, value) in entries {
            if !value.is_null() || key.text == "x-bake" {
                self.field(&mut target, key, value)?;
            }
        }
        // What the service's environment has comes before that of the machine.
        let own = service
            .get("environment")
            .map(pairs)
            .transpose()?
            .unwrap_or_default();
        let mut unknown = Vec::new();
        for (name, value) in &mut target.args {
            if value.is_none() {
                let given = own.get(name).cloned().flatten();
                *value = given.or_else(|| self.environment.get(name).cloned());
            }
            if value.is_none() {
                unknown.push(name.clone());
            }
        }
        target.args.retain(|_, value| value.is_some());
        if let Some(file) = service.get("env_file").filter(|_| !unknown.is_empty()) {
            let names = unknown.join(", ");
            let message =
                format!("`env_file` is not read, and the build arguments {names} have no value");
            let mut warning = Diagnostic::error(message, file.span.clone(), "");
            warning.severity = rbuild_llb::Severity::Warning;
            warnings.push(warning);
        }
        if let Some(own) = build.get("x-bake") {
            x_bake(&mut target, own, warnings)?;
        }
        if let Some(ssh) = &mut target.ssh {
            ssh.sort_by(|a, b| (&a.id, &a.paths).cmp(&(&b.id, &b.paths)));
        }
        if target.tags.as_ref().is_none_or(Vec::is_empty)
            && let Some(image) = image.filter(|image| !image.is_empty())
        {
            target.tags = Some(vec![image]);
        }
        Ok(Some(target))
    }

    fn field(&self, target: &mut Target, key: &Word, value: &Node) -> Result<(), Fail> {
        match key.text.as_str() {
            "context" => target.context = Some(self.context(&text(value)?)),
            "dockerfile" => target.dockerfile = filled(text(value)?),
            "dockerfile_inline" => target.dockerfile_inline = filled(text(value)?),
            "target" => target.target = filled(text(value)?),
            "network" => target.network = filled(text(value)?),
            "args" => target.args = pairs(value)?,
            "labels" => {
                let labels = pairs(value)?.into_iter();
                target.labels = labels
                    .map(|(name, value)| (name, Some(value.unwrap_or_default())))
                    .collect();
            }
            "tags" => target.tags = Some(texts(value)?),
            "platforms" => target.platforms = Some(texts(value)?),
            "cache_from" => target.cache_from = Some(caches(value, &texts(value)?)?),
            "cache_to" => target.cache_to = Some(caches(value, &texts(value)?)?),
            "additional_contexts" => {
                for (name, place) in pairs(value)? {
                    let Some(place) = place else {
                        let message = format!("the context `{name}` has no place");
                        return Err(fail(message, value.span.clone(), ""));
                    };
                    target.contexts.insert(name, linked(&self.context(&place)));
                }
            }
            "extra_hosts" => target.extra_hosts = hosts(value)?,
            "shm_size" => target.shm_size = shm_size(value)?,
            "ulimits" => target.ulimits = Some(ulimits(value)?),
            "no_cache" => target.no_cache = flag(value)?.then_some(true),
            "pull" => target.pull = flag(value)?.then_some(true),
            "sbom" | "provenance" => {
                let attest = attest_text(&key.text, &text(value)?);
                let attest = Attest::parse(&attest).map_err(|why| wrong(value, &why))?;
                // `sbom` comes first, wherever it stands.
                let all = target.attest.get_or_insert_default();
                all.insert(if key.text == "sbom" { 0 } else { all.len() }, attest);
            }
            "ssh" => target.ssh = Some(self.ssh(value)?),
            "secrets" => target.secrets = Some(self.secrets(value)?),
            name if BUILD.contains(&name) || name.starts_with("x-") => {}
            name => {
                let near = rbuild_llb::suggest::nearest_name(name, BUILD);
                let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
                let message = format!("`build` has no `{name}`");
                return Err(fail(message, key.span.clone(), label));
            }
        }
        Ok(())
    }

    /// A path without its detours; a URL, or a service, as it is.
    fn context(&self, place: &str) -> String {
        let remote = [
            "https://",
            "http://",
            "git://",
            "ssh://",
            "github.com/",
            "git@",
            "service:",
        ];
        if place.contains("://")
            || place.is_empty()
            || remote.iter().any(|start| place.starts_with(start))
        {
            return place.to_owned();
        }
        self.path(place)
    }

    fn path(&self, path: &str) -> String {
        match (path.strip_prefix('~'), self.environment.get("HOME")) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                clean_path(&format!("{home}{rest}"))
            }
            _ if path.is_empty() => String::new(),
            _ => clean_path(path),
        }
    }

    fn ssh(&self, value: &Node) -> Result<Vec<Ssh>, Fail> {
        let mut all = Vec::new();
        for (id, path) in pairs(value)? {
            if path.is_none() && matches!(value.kind, Kind::List(_)) && id != "default" {
                let message = format!("the ssh key `{id}` has no path");
                return Err(fail(
                    message,
                    value.span.clone(),
                    format!("write `{id}=PATH`"),
                ));
            }
            let path = path
                .filter(|path| !path.is_empty())
                .map(|path| self.path(&path));
            all.push(Ssh {
                id,
                paths: path.into_iter().collect(),
            });
        }
        Ok(all)
    }

    fn secrets(&self, value: &Node) -> Result<Vec<Secret>, Fail> {
        let Kind::List(items) = &value.kind else {
            return Err(fail("`secrets` is a list", value.span.clone(), ""));
        };
        let mut all = Vec::new();
        for item in items {
            let source = match &item.kind {
                Kind::Map(_) => item
                    .get("source")
                    .map(text)
                    .transpose()?
                    .unwrap_or_default(),
                _ => text(item)?,
            };
            let known = self
                .secrets
                .as_ref()
                .and_then(|secrets| secrets.get(&source));
            let Some(known) = known else {
                let message = format!("there is no secret `{source}`");
                return Err(fail(message, item.span.clone(), "")
                    .hint("the secrets of a compose file are listed below `secrets` at its top"));
            };
            if known
                .get("external")
                .is_some_and(|external| matches!(external.kind, Kind::Bool(true)))
            {
                let message =
                    format!("the secret `{source}` is external, and a build cannot ask for it");
                return Err(fail(message, item.span.clone(), "")
                    .also(known.span.clone(), "here it is said to be external"));
            }
            let field = |name: &str| known.get(name).map(text).transpose();
            all.push(Secret {
                source: self.path(&field("file")?.unwrap_or_default()),
                env: field("environment")?.unwrap_or_default(),
                id: source,
            });
        }
        Ok(all)
    }
}

/// `service:NAME` is the target of that service.
fn linked(place: &str) -> String {
    let name = place
        .strip_prefix("service:")
        .or_else(|| place.strip_prefix("target:"));
    name.map_or_else(
        || place.to_owned(),
        |name| format!("target:{}", name.replace('.', "_")),
    )
}

/// Adds what the extension has that compose files have no key for.
fn x_bake(target: &mut Target, own: &Node, warnings: &mut Vec<Diagnostic>) -> Result<(), Fail> {
    let Kind::Map(entries) = &own.kind else {
        return match own.is_null() {
            true => Ok(()),
            false => Err(fail("`x-bake` is a mapping", own.span.clone(), "")),
        };
    };
    for (key, value) in entries {
        if value.is_null() {
            continue;
        }
        match key.text.as_str() {
            "tags" => extend(&mut target.tags, words(value)?),
            "platforms" => extend(&mut target.platforms, words(value)?),
            "no-cache-filter" => extend(&mut target.no_cache_filter, words(value)?),
            "cache-from" => merge_caches(
                &mut target.cache_from,
                &Some(caches(value, &words(value)?)?),
            ),
            "cache-to" => merge_caches(&mut target.cache_to, &Some(caches(value, &words(value)?)?)),
            "secret" => merge_secrets(&mut target.secrets, &Some(each(value, Secret::parse)?)),
            "ssh" => merge_ssh(
                &mut target.ssh,
                &Some(each(value, |text| Ok(Ssh::parse(text)))?),
            ),
            "output" => merge_outputs(&mut target.outputs, &Some(each(value, Output::parse)?)),
            "pull" => target.pull = Some(flag(value)?),
            "no-cache" => target.no_cache = Some(flag(value)?),
            "contexts" => {
                for (name, place) in pairs(value)? {
                    let place = linked(&place.unwrap_or_default());
                    target.contexts.entry(name).or_insert(place);
                }
            }
            name => {
                let near = rbuild_llb::suggest::nearest_name(name, X_BAKE);
                let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
                let message = format!("`x-bake` has no `{name}`, it is passed over");
                let mut warning = Diagnostic::error(message, key.span.clone(), label);
                warning.severity = rbuild_llb::Severity::Warning;
                warnings.push(warning);
            }
        }
    }
    Ok(())
}

fn extend(list: &mut Option<Vec<String>>, more: Vec<String>) {
    let all = list.get_or_insert_default();
    for text in more {
        if !all.contains(&text) {
            all.push(text);
        }
    }
}

fn each<T>(value: &Node, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, Fail> {
    let words = words(value)?;
    let parsed = words
        .iter()
        .filter(|word| !word.is_empty())
        .map(|word| parse(word));
    parsed
        .collect::<Result<_, _>>()
        .map_err(|why| wrong(value, &why))
}

fn caches(value: &Node, texts: &[String]) -> Result<Vec<CacheEntry>, Fail> {
    let mut all = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        all.extend(CacheEntry::parse(text).map_err(|why| wrong(value, &why))?);
    }
    Ok(all)
}

fn wrong(value: &Node, why: &str) -> Fail {
    fail(why, value.span.clone(), "")
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn text(value: &Node) -> Result<String, Fail> {
    value
        .text()
        .ok_or_else(|| fail("a string is required here", value.span.clone(), ""))
}

fn flag(value: &Node) -> Result<bool, Fail> {
    let flag = value.text().as_deref().and_then(parse_bool);
    flag.ok_or_else(|| fail("true or false is required here", value.span.clone(), ""))
}

/// A list of strings.
fn texts(value: &Node) -> Result<Vec<String>, Fail> {
    match &value.kind {
        Kind::List(items) => items.iter().map(text).collect(),
        _ => Err(fail("a list is required here", value.span.clone(), "")),
    }
}

/// A list of strings, or a string of words.
fn words(value: &Node) -> Result<Vec<String>, Fail> {
    match &value.kind {
        Kind::List(_) => texts(value),
        _ => Ok(text(value)?.split_whitespace().map(str::to_owned).collect()),
    }
}

/// A mapping, or a list of `key=value`.
fn pairs(value: &Node) -> Result<Pairs, Fail> {
    match &value.kind {
        Kind::Null => Ok(Pairs::new()),
        Kind::Map(entries) => entries
            .iter()
            .map(|(key, value)| {
                let text = if value.is_null() {
                    None
                } else {
                    Some(text(value)?)
                };
                Ok((key.text.clone(), text))
            })
            .collect(),
        Kind::List(items) => items
            .iter()
            .map(|item| {
                let text = text(item)?;
                Ok(match text.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (text, None),
                })
            })
            .collect(),
        _ => {
            let message = "a mapping or a list of `key=value` is required here";
            Err(fail(message, value.span.clone(), ""))
        }
    }
}

/// Addresses by name; several are joined by commas. Brackets around an address go.
fn hosts(value: &Node) -> Result<Pairs, Fail> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    match &value.kind {
        Kind::Map(entries) => {
            for (key, value) in entries {
                let addresses = match &value.kind {
                    Kind::List(_) => texts(value)?,
                    _ => vec![value.text().unwrap_or_default()],
                };
                found.insert(key.text.clone(), addresses);
            }
        }
        _ => {
            for text in texts(value)? {
                let Some((host, address)) = text.split_once('=').or_else(|| text.split_once(':'))
                else {
                    let message = format!("the host `{text}` has no address: it is `HOST=ADDRESS`");
                    return Err(fail(message, value.span.clone(), ""));
                };
                let addresses = address.split(',').map(str::to_owned);
                found.entry(host.to_owned()).or_default().extend(addresses);
            }
        }
    }
    let bare = |address: &String| {
        let inner = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(address).to_owned()
    };
    let joined = |addresses: &Vec<String>| addresses.iter().map(bare).collect::<Vec<_>>().join(",");
    Ok(found
        .iter()
        .map(|(host, all)| (host.clone(), Some(joined(all))))
        .collect())
}

fn ulimits(value: &Node) -> Result<Vec<String>, Fail> {
    let Kind::Map(entries) = &value.kind else {
        return Err(fail("`ulimits` is a mapping", value.span.clone(), ""));
    };
    let number = |node: &Node| {
        let number = node.text().and_then(|text| text.parse::<i64>().ok());
        number.ok_or_else(|| fail("a whole number is required here", node.span.clone(), ""))
    };
    let mut all = Vec::new();
    for (name, limit) in entries {
        let (soft, hard) = match &limit.kind {
            Kind::Map(_) => {
                let of = |name: &str| limit.get(name).map(number).transpose();
                (of("soft")?.unwrap_or(0), of("hard")?.unwrap_or(0))
            }
            _ => (number(limit)?, number(limit)?),
        };
        all.push(format!("{}={soft}:{hard}", name.text));
    }
    all.sort();
    Ok(all)
}

/// The size as buildx writes it: in the largest unit that it fills, with four digits.
fn shm_size(value: &Node) -> Result<Option<String>, Fail> {
    let text = text(value)?.to_lowercase();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = text[..text.len() - unit.len()].parse::<f64>().ok();
    let unit = unit
        .trim_start()
        .trim_end_matches("ib")
        .trim_end_matches('b');
    let power = ["", "k", "m", "g", "t", "p"]
        .iter()
        .position(|known| *known == unit);
    let (Some(number), Some(power)) = (number, power) else {
        return Err(fail(
            "this is no size such as `128m`",
            value.span.clone(),
            "",
        ));
    };
    let mut size = (number * 1024_f64.powi(i32::try_from(power).unwrap_or(0))).trunc();
    if size <= 0.0 {
        return Ok(None);
    }
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut at = 0;
    while size >= 1024.0 && at + 1 < units.len() {
        size /= 1024.0;
        at += 1;
    }
    Ok(Some(format!(
        "{}{}",
        crate::functions::four_digits(size),
        units[at]
    )))
}
