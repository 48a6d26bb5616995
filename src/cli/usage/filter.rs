//! `--filter` of `du` and `prune`: conditions of buildx, all of which must hold. Of several of one key with `=` any will do.

use std::collections::BTreeMap;

use rbuild_cache::Usage;
use rbuild_cache::UsageKind;
use rbuild_llb::event::Timestamp;
use regex::Regex;

use super::nanoseconds;
use crate::cli::values;
use crate::cli::values::problem;
use crate::outcome::BuildError;

/// Conditions, as they were written.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// What was not used for this long, in seconds.
    pub(super) unused_for: u64,
    conditions: Vec<Condition>,
}

#[derive(Debug)]
struct Condition {
    key: Key,
    compare: Compare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Id,
    Type,
    Description,
    InUse,
    Shared,
    Private,
    Mutable,
    Immutable,
}

#[derive(Debug)]
enum Compare {
    Is(String),
    IsNot(String),
    Matches(Regex),
}

const KEYS: [(&str, Key); 8] = [
    ("id", Key::Id),
    ("type", Key::Type),
    ("description", Key::Description),
    ("inuse", Key::InUse),
    ("shared", Key::Shared),
    ("private", Key::Private),
    ("mutable", Key::Mutable),
    ("immutable", Key::Immutable),
];

impl Filter {
    pub(super) fn parse(texts: &[String]) -> Result<Self, BuildError> {
        let mut filter = Self::default();
        let mut problems = Vec::new();
        for text in texts {
            let fields = values::csv(text).map_err(|why| values::invalid("filter", text, why));
            match fields {
                Ok(fields) => fields.iter().for_each(|field| {
                    if let Err(why) = filter.add(field) {
                        problems.push(problem(format!("`--filter {text}`: {why}")));
                    }
                }),
                Err(why) => problems.push(why),
            }
        }
        match problems.is_empty() {
            true => Ok(filter),
            false => Err(BuildError::request(problems)),
        }
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let (key, how, value) = split(text);
        if matches!(key, "until" | "unused-for") {
            let seconds = values::duration(value)?;
            if how != "=" {
                return Err(format!("`{key}` takes `=` and a duration: `{key}=24h`"));
            }
            self.unused_for = self.unused_for.max(seconds);
            return Ok(());
        }
        let known = KEYS.iter().find(|(name, _)| *name == key);
        let Some((_, key)) = known else {
            let names = KEYS.map(|(name, _)| format!("`{name}`")).join(", ");
            return Err(format!("there is no `{key}`, only `until`, {names}"));
        };
        if *key == Key::Type && how != "~=" && !UsageKind::ALL.iter().any(|k| k.name() == value) {
            let names = UsageKind::ALL.map(|kind| format!("`{}`", kind.name()));
            return Err(format!(
                "there is no type `{value}`, only {}",
                names.join(", ")
            ));
        }
        let flag = !matches!(key, Key::Id | Key::Type | Key::Description);
        let value = match (flag, how) {
            (true, "") => "true".to_owned(),
            (true, _) => values::boolean(value)?.to_string(),
            (false, "") => return Err(format!("`{text}` is not of the form `key=value`")),
            (false, _) => value.to_owned(),
        };
        let compare = match how {
            "~=" => Compare::Matches(Regex::new(&value).map_err(|error| error.to_string())?),
            "!=" => Compare::IsNot(value),
            _ => Compare::Is(value),
        };
        let key = *key;
        self.conditions.push(Condition { key, compare });
        Ok(())
    }

    /// Whether cache mounts were spoken of: what leaves something else out does not.
    pub(super) fn names_mounts(&self) -> bool {
        let names = |condition: &Condition| {
            let could = matches!(condition.key, Key::Type | Key::Id | Key::Mutable);
            could && !matches!(condition.compare, Compare::IsNot(_))
        };
        self.conditions.iter().any(names)
    }

    pub(super) fn matches(&self, item: &Usage, now: Timestamp) -> bool {
        let age = now.0.saturating_sub(nanoseconds(item.used)) / 1_000_000_000;
        age >= u128::from(self.unused_for) && self.chooses(item)
    }

    /// The same, whenever it was used.
    pub(super) fn chooses(&self, item: &Usage) -> bool {
        let mut alternatives: BTreeMap<Key, bool> = BTreeMap::new();
        for condition in &self.conditions {
            let found = match condition.key {
                Key::Id => item.id.clone(),
                Key::Type => item.kind.name().to_owned(),
                Key::Description => item.description.clone(),
                Key::InUse => item.in_use.to_string(),
                Key::Shared => item.shared.to_string(),
                Key::Private => (!item.shared).to_string(),
                Key::Mutable => item.is_mutable().to_string(),
                Key::Immutable => (!item.is_mutable()).to_string(),
            };
            let equal = |value: &String| match condition.key {
                Key::Id => found.starts_with(value),
                _ => found == *value,
            };
            match &condition.compare {
                Compare::Is(value) => {
                    *alternatives.entry(condition.key).or_default() |= equal(value);
                }
                Compare::IsNot(value) if equal(value) => return false,
                Compare::Matches(regex) if !regex.is_match(&found) => return false,
                Compare::IsNot(_) | Compare::Matches(_) => {}
            }
        }
        alternatives.values().all(|holds| *holds)
    }
}

/// `type~=x` in its three parts; the last two may be empty.
fn split(text: &str) -> (&str, &str, &str) {
    let Some(at) = text.find('=') else {
        return (text.trim(), "", "");
    };
    let value = text[at + 1..].trim_start_matches('=');
    match text[..at].strip_suffix(['!', '~']) {
        Some(key) => (key.trim(), &text[key.len()..=at], value),
        None => (text[..at].trim(), "=", value),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn item(kind: UsageKind, description: &str, shared: bool) -> Usage {
        Usage {
            id: "abcdef".into(),
            kind,
            description: description.into(),
            created: rbuild_cache::Timestamp::default(),
            used: rbuild_cache::Timestamp {
                secs: 1000,
                nanos: 0,
            },
            size: 0,
            shared,
            in_use: false,
        }
    }

    #[test]
    fn conditions_as_buildx_takes_them() {
        let npm = item(UsageKind::ExecCacheMount, "cache mount /root/.npm", false);
        let step = item(UsageKind::Regular, "[2/3] RUN npm ci", true);
        for (filters, wanted) in [
            (&[][..], (true, true)),
            (&["type=exec.cachemount"], (true, false)),
            (&["type==exec.cachemount"], (true, false)),
            (&["type!=exec.cachemount"], (false, true)),
            (&["type=exec.cachemount,type=regular"], (true, true)),
            (&["type=regular", "shared=false"], (false, false)),
            (&["description~=npm ci$"], (false, true)),
            (&["shared"], (false, true)),
            (&["private"], (true, false)),
            (&["mutable=true"], (true, false)),
            (&["immutable"], (false, true)),
            (&["inuse"], (false, false)),
            (&["id=abc"], (true, true)),
            (&["id=bcd"], (false, false)),
            (&["until=10m"], (true, true)),
            (&["unused-for=2h"], (false, false)),
        ] {
            let texts: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
            let filter = Filter::parse(&texts).unwrap();
            let now = Timestamp(3000 * 1_000_000_000);
            let found = (filter.matches(&npm, now), filter.matches(&step, now));
            assert_eq!(found, wanted, "{filters:?}");
        }
    }

    #[test]
    fn who_speaks_of_mounts_means_them() {
        for (filter, wanted) in [
            ("type=exec.cachemount", true),
            ("id=npm", true),
            ("mutable", true),
            ("type!=source.local", false),
            ("until=1h", false),
        ] {
            let parsed = Filter::parse(&[filter.to_owned()]).unwrap();
            assert_eq!(parsed.names_mounts(), wanted, "{filter}");
        }
    }

    #[test]
    fn what_is_no_condition_is_said() {
        for (text, wanted) in [
            ("size=3", "there is no `size`, only `until`, `id`, "),
            (
                "type=image.layer",
                "there is no type `image.layer`, only `regular`, ",
            ),
            ("until=soon", "`soon` is not a duration"),
            ("until!=1h", "`until` takes `=`"),
            ("shared=maybe", "maybe"),
            ("id", "`id` is not of the form `key=value`"),
            ("description~=(", "unclosed group"),
        ] {
            let error = Filter::parse(&[text.to_owned()]).unwrap_err();
            let message = &error.diagnostics[0].message;
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }
}
