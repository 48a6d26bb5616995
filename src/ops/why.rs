//! Why a step was not cached, in the words of a Dockerfile: what differs between its record and the nearest earlier one, and
//! which files do. It reads what the other modules here write into records, and only that.
//!
//! What must not be shown is not: values that were hidden in the record, and those that [`Words::conceal`] takes out of texts. An
//! earlier text that may hold a value which nobody knows any more is not shown either.

mod files;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

use rbuild_cache::Trees;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::key::KeyValue;

use crate::solver::Difference;
use crate::solver::Miss;
use files::Files;
use text::contrast;
use text::quoted;

/// Reasons that are told; the rest is counted.
const TOLD: usize = 4;

/// What it takes to say why.
pub struct Words<'a> {
    /// Where files can be listed.
    pub trees: &'a Trees,
    /// Takes out of a text what must not be shown.
    pub conceal: &'a dyn Fn(&str) -> String,
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").finish_non_exhaustive()
    }
}

impl Words<'_> {
    /// Why a step must run, in one line; `input` is the name of the step that one of its inputs is.
    pub fn why(&self, vertex: &Vertex, miss: &Miss, input: impl Fn(usize) -> String) -> String {
        match miss {
            Miss::NoCache => "--no-cache".to_owned(),
            Miss::FirstTime => "first time".to_owned(),
            Miss::Removed => "removed from the cache".to_owned(),
            Miss::Unusable { reason } => (self.conceal)(reason),
            Miss::Inputs(inputs) => {
                let mut names: Vec<String> = Vec::new();
                for name in inputs.iter().map(|&at| (self.conceal)(&input(at))) {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                let plural = if names.len() == 1 { "" } else { "s" };
                format!("input{plural} rebuilt: {}", names.join(", "))
            }
            Miss::Changed(difference) => {
                let mut reasons = self.reasons(vertex, difference);
                if reasons.len() > TOLD {
                    let more = reasons.len() - TOLD;
                    reasons.truncate(TOLD);
                    reasons.push(format!("and {more} more"));
                }
                reasons.join("; ")
            }
        }
    }

    fn reasons(&self, vertex: &Vertex, difference: &Difference) -> Vec<String> {
        let Difference { earlier, now } = difference;
        let mut telling = Telling {
            words: self,
            hide: secrets(earlier).any(|secret| secrets(now).all(|other| other != secret)),
            reasons: Vec::new(),
        };
        match now.kind.split('/').next() {
            Some("exec") => telling.exec(vertex, earlier, now),
            Some("file") => telling.file(earlier, now),
            Some("source") => telling.source(earlier, now),
            _ => {}
        }
        telling.plain("platform", "platform", earlier, now);
        telling.plain(EPOCH, EPOCH, earlier, now);
        if telling.reasons.is_empty() {
            telling.reasons.push("other inputs".to_owned());
        }
        telling.reasons
    }
}

const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Where nothing is set.
const NONE: &KeyValue = &KeyValue::List(Vec::new());

/// The variables of a record whose values are hidden.
fn secrets(record: &KeyRecord) -> impl Iterator<Item = &KeyValue> {
    let env = record.fields.get("env").and_then(list).unwrap_or_default();
    env.iter().filter(|pair| matches!(pair, KeyValue::Map(_)))
}

fn list(value: &KeyValue) -> Option<&[KeyValue]> {
    match value {
        KeyValue::List(list) => Some(list),
        _ => None,
    }
}

fn map(value: &KeyValue) -> Option<&BTreeMap<String, KeyValue>> {
    match value {
        KeyValue::Map(map) => Some(map),
        _ => None,
    }
}

/// A value as people write it.
fn shown(value: &KeyValue) -> String {
    match value {
        KeyValue::Text(text) => text.clone(),
        KeyValue::Number(number) => number.to_string(),
        KeyValue::Oci(digest) => format!("sha256:{}", &digest.hex()[..12]),
        KeyValue::List(list) => list.iter().map(shown).collect::<Vec<_>>().join(" "),
        KeyValue::Listed { value, .. } => shown(value),
        KeyValue::Content { content, .. } => content.short(),
        KeyValue::Input(_) | KeyValue::Map(_) | KeyValue::Hidden(_) => "***".to_owned(),
    }
}

/// The reasons of one step.
struct Telling<'a> {
    words: &'a Words<'a>,
    /// Earlier texts may hold a secret that is not known any more.
    hide: bool,
    reasons: Vec<String>,
}

impl Telling<'_> {
    fn tell(&mut self, reason: String) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Two texts under what they are called; an empty one is none.
    fn texts(&mut self, called: &str, old: &str, new: &str) {
        if old == new {
            return;
        }
        let conceal = self.words.conceal;
        let reason = match (self.hide || conceal(new) != new, old, new) {
            (true, _, _) => format!("{called} changed"),
            (false, "", new) => format!("{called} {} added", quoted(&contrast("", new).1)),
            (false, old, "") => {
                let old = contrast(&conceal(old), "").0;
                format!("{called} {} removed", quoted(&old))
            }
            (false, old, new) => {
                let (old, new) = contrast(&conceal(old), new);
                format!("{called} {} → {}", quoted(&old), quoted(&new))
            }
        };
        self.tell(reason);
    }

    /// A field that is one value.
    fn plain(&mut self, field: &str, called: &str, earlier: &KeyRecord, now: &KeyRecord) {
        let of = |record: &KeyRecord| shown(record.fields.get(field).unwrap_or(NONE));
        self.texts(called, &of(earlier), &of(now));
    }

    /// A field that is several words, each for itself.
    fn each(&mut self, called: &str, old: &KeyValue, new: &KeyValue) {
        let words = |value| -> Vec<String> {
            let words = list(value).unwrap_or_default();
            words.iter().map(shown).collect()
        };
        let (old, new) = (words(old), words(new));
        for word in old.iter().filter(|word| !new.contains(word)) {
            self.texts(called, word, "");
        }
        for word in new.iter().filter(|word| !old.contains(word)) {
            self.texts(called, "", word);
        }
    }

    fn exec(&mut self, vertex: &Vertex, earlier: &KeyRecord, now: &KeyRecord) {
        let of = |record: &KeyRecord, field: &str| -> KeyValue {
            record.fields.get(field).unwrap_or(NONE).clone()
        };
        self.command(&of(earlier, "args"), &of(now, "args"));
        self.env(vertex, &of(earlier, "env"), &of(now, "env"));
        self.plain("cwd", "WORKDIR", earlier, now);
        self.user(&of(earlier, "user"), &of(now, "user"));
        self.plain("network", "--network", earlier, now);
        self.plain("security", "--security", earlier, now);
        let secrets = "variable from a secret";
        self.each(secrets, &of(earlier, "secrets"), &of(now, "secrets"));
        self.plain("hostname", "host name", earlier, now);
        self.each("--add-host", &of(earlier, "hosts"), &of(now, "hosts"));
        self.each("--ulimit", &of(earlier, "ulimits"), &of(now, "ulimits"));
        self.mounts(&of(earlier, "mounts"), &of(now, "mounts"));
    }

    /// Of the words in front of a shell's script, or of a program's arguments, those are left out that are equal.
    fn command(&mut self, old: &KeyValue, new: &KeyValue) {
        let (old, new) = (list(old).unwrap_or_default(), list(new).unwrap_or_default());
        let script = |words: &[KeyValue]| {
            words.len() > 1 && words[..words.len() - 1] == old[..old.len().saturating_sub(1)]
        };
        let of = |words: &[KeyValue]| match (old.len() == new.len() && script(new), words) {
            (true, [.., script]) => shown(script),
            (_, words) => words.iter().map(shown).collect::<Vec<_>>().join(" "),
        };
        self.texts("command", &of(old), &of(new));
    }

    fn user(&mut self, old: &KeyValue, new: &KeyValue) {
        let name = |value| match shown(value) {
            name if name.is_empty() => "root".to_owned(),
            name => name,
        };
        self.texts("USER", &name(old), &name(new));
    }

    fn env(&mut self, vertex: &Vertex, old: &KeyValue, new: &KeyValue) {
        /// The value of a variable, unless it is hidden; then its digest.
        type Variables<'v> = BTreeMap<&'v str, Result<&'v str, &'v KeyValue>>;
        fn variables(env: &KeyValue) -> Variables<'_> {
            let mut variables = Variables::new();
            for pair in list(env).unwrap_or_default() {
                match pair {
                    KeyValue::Text(pair) => {
                        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                        variables.insert(name, Ok(value));
                    }
                    KeyValue::Map(hidden) => {
                        let hidden = hidden.iter();
                        variables.extend(hidden.map(|(name, value)| (name.as_str(), Err(value))));
                    }
                    _ => {}
                }
            }
            variables
        }
        let (old, new) = (variables(old), variables(new));
        for (&name, value) in &new {
            let word = match vertex.meta.args.iter().any(|arg| arg == name) {
                true => "ARG",
                false => "ENV",
            };
            let called = format!("{word} {name}");
            match (old.get(name), value) {
                (Some(before), value) if before == value => {}
                (Some(Ok(before)), Ok(value)) => {
                    if self.hide || (self.words.conceal)(value) != *value {
                        self.tell(format!("{called} changed"));
                        continue;
                    }
                    let (before, value) = contrast(&(self.words.conceal)(before), value);
                    self.tell(format!("{called} {} → {}", quoted(&before), quoted(&value)));
                }
                (Some(_), _) => self.tell(format!("{called} changed (its value is not shown)")),
                (None, Ok(value)) if !self.hide && (self.words.conceal)(value) == *value => {
                    let value = contrast("", value).1;
                    self.tell(format!("{called}={} added", quoted(&value)));
                }
                (None, _) => self.tell(format!("{called} added")),
            }
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.tell(format!("variable {name} removed"));
        }
    }

    fn mounts(&mut self, old: &KeyValue, new: &KeyValue) {
        type Fields = BTreeMap<String, KeyValue>;
        fn by_target(mounts: &KeyValue) -> BTreeMap<String, &Fields> {
            let mounts = list(mounts).unwrap_or_default().iter().filter_map(map);
            mounts
                .map(|fields| (shown(fields.get("dest").unwrap_or(NONE)), fields))
                .collect()
        }
        let (old, new) = (by_target(old), by_target(new));
        for (target, fields) in &new {
            let called = format!("--mount target={target}");
            let Some(before) = old.get(target) else {
                self.texts("--mount", "", &text::mount(target, fields));
                continue;
            };
            self.mount(target, &called, before, fields);
        }
        for (target, fields) in old.iter().filter(|(target, _)| !new.contains_key(*target)) {
            self.texts("--mount", &text::mount(target, fields), "");
        }
    }

    fn mount(
        &mut self,
        target: &str,
        called: &str,
        before: &BTreeMap<String, KeyValue>,
        fields: &BTreeMap<String, KeyValue>,
    ) {
        let of = |fields: &BTreeMap<String, KeyValue>, name: &str| {
            fields.get(name).unwrap_or(NONE).clone()
        };
        let (old, new) = (text::kind(before), text::kind(fields));
        for (name, value) in &new {
            let was = old.iter().find(|(old, _)| old == name);
            let was = was.map_or("", |(_, value)| value);
            self.texts(&format!("{called} {name}"), was, value);
        }
        let readonly = |fields| match of(fields, "readonly") {
            KeyValue::Number(0) => "writable".to_owned(),
            _ => "read-only".to_owned(),
        };
        self.texts(called, &readonly(before), &readonly(fields));
        let selector = |fields| shown(&of(fields, "selector"));
        self.texts(
            &format!("{called} source"),
            &selector(before),
            &selector(fields),
        );
        let mut files = Files::default();
        files.add(
            self.words.trees,
            before.get("content"),
            fields.get("content"),
        );
        if let Some(text) = files.text() {
            self.tell(match target {
                "/" => format!("in what it runs on: {text}"),
                _ => format!("{called}: {text}"),
            });
        } else if of(before, "layers") != of(fields, "layers") {
            self.tell("the layers it runs on changed".to_owned());
        }
    }

    fn file(&mut self, earlier: &KeyRecord, now: &KeyRecord) {
        let actions = |record: &KeyRecord| -> Vec<KeyValue> {
            let actions = record.fields.get("actions").and_then(list);
            actions.unwrap_or_default().to_vec()
        };
        let (old, new) = (actions(earlier), actions(now));
        let mut files = Files::default();
        let mut below = Files::default();
        for (old, new) in paired(&old, &new) {
            let of = |value: Option<&KeyValue>, name: &str| {
                value
                    .and_then(map)
                    .and_then(|fields| fields.get(name))
                    .cloned()
            };
            let trees = self.words.trees;
            files.add(trees, of(old, "files").as_ref(), of(new, "files").as_ref());
            let (Some(old), Some(new)) = (old.and_then(map), new.and_then(map)) else {
                let word = if new.is_some() { "added" } else { "removed" };
                let path = of(new.or(old), "path").or_else(|| of(new.or(old), "src"));
                if let Some(path) = path {
                    self.tell(format!(
                        "{} {word}",
                        quoted(&(self.words.conceal)(&shown(&path)))
                    ));
                }
                continue;
            };
            below.add(trees, old.get("base"), new.get("base"));
            self.action(old, new);
        }
        let is_set = |reason: &String| reason.starts_with("--ch");
        if let Some(text) = files.text()
            && !(files.is_meta() && self.reasons.iter().any(is_set))
        {
            self.reasons.insert(0, text);
        }
        if let Some(text) = below.text() {
            self.tell(format!("in what it is put on: {text}"));
        }
    }

    /// Two actions of one kind, but for the files they copy.
    fn action(&mut self, old: &BTreeMap<String, KeyValue>, new: &BTreeMap<String, KeyValue>) {
        let of = |fields: &BTreeMap<String, KeyValue>, name: &str| {
            fields.get(name).unwrap_or(NONE).clone()
        };
        for (field, called) in [
            ("action", "what is done:"),
            ("src", "source"),
            ("dest", "destination"),
            ("path", "path"),
            ("target", "where the link leads:"),
            ("chown", "--chown"),
        ] {
            let (old, new) = (of(old, field), of(new, field));
            self.texts(
                called,
                &text::unset(&shown(&old)),
                &text::unset(&shown(&new)),
            );
        }
        let mode = |fields| text::mode(&of(fields, "chmod"), &of(fields, "mode"));
        self.texts("--chmod", &mode(old), &mode(new));
        self.each("--exclude", &of(old, "exclude"), &of(new, "exclude"));
        self.each("--parents", &of(old, "include"), &of(new, "include"));
        for (field, called) in [
            ("data", "the text changed"),
            ("timestamp", "the time files get changed"),
            ("flags", "the way it copies changed"),
            ("wildcard", "the way it copies changed"),
        ] {
            if of(old, field) != of(new, field) {
                self.tell(called.to_owned());
            }
        }
        let base = |fields| match of(fields, "base") {
            KeyValue::Content { content, .. } => Some(content),
            _ => None,
        };
        if base(old) == base(new) && of(old, "layers") != of(new, "layers") {
            self.tell("the layers it is put on changed".to_owned());
        }
    }

    fn source(&mut self, earlier: &KeyRecord, now: &KeyRecord) {
        for (field, called) in [
            ("image", "digest"),
            ("commit", "commit"),
            ("subdir", "subdirectory"),
            ("checksum", "digest"),
            ("filename", "file name"),
        ] {
            self.plain(field, called, earlier, now);
        }
        let of = |record: &KeyRecord, field: &str| record.fields.get(field).cloned();
        for (field, called) in [
            ("keep-git-dir", "whether `.git` is kept changed"),
            ("skip-submodules", "whether submodules are fetched changed"),
            ("mode", "mode changed"),
        ] {
            if of(earlier, field) != of(now, field) {
                self.tell(called.to_owned());
            }
        }
    }
}

/// The actions of two file operations, those together that are equal; of the others the first with the first.
fn paired<'a>(
    old: &'a [KeyValue],
    new: &'a [KeyValue],
) -> Vec<(Option<&'a KeyValue>, Option<&'a KeyValue>)> {
    let mut left: Vec<&KeyValue> = old.iter().filter(|value| !new.contains(value)).collect();
    if old.len() == new.len() {
        return old
            .iter()
            .zip(new)
            .map(|(o, n)| (Some(o), Some(n)))
            .collect();
    }
    left.reverse();
    let mut pairs = Vec::new();
    for value in new {
        let before = old.iter().find(|before| *before == value);
        pairs.push((before.or_else(|| left.pop()), Some(value)));
    }
    left.reverse();
    pairs.extend(left.into_iter().map(|value| (Some(value), None)));
    pairs
}
