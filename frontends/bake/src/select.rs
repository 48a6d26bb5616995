//! From what files define to the targets of a build: names and patterns, groups, inheritance, linked contexts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rbuild_llb::Span;

use crate::BakeOptions;
use crate::BakePlan;
use crate::Fail;
use crate::check;
use crate::fail;
use crate::fail_nowhere;
use crate::flags::Output;
use crate::overrides;
use crate::overrides::Overrides;
use crate::target::Group;
use crate::target::Target;

/// All that the files define.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) groups: Vec<Group>,
    pub(crate) targets: Vec<Target>,
}

/// Groups in groups, targets that inherit or have others as contexts may be this deep. It bounds the stack.
const MAX_DEPTH: usize = 100;

impl Config {
    pub(crate) fn add_target(&mut self, target: Target) {
        match self
            .targets
            .iter_mut()
            .find(|known| known.name == target.name)
        {
            Some(known) => known.merge(&target),
            None => self.targets.push(target),
        }
    }

    /// A group replaces one of the same name.
    pub(crate) fn add_group(&mut self, mut group: Group) {
        dedup(&mut group.targets);
        match self
            .groups
            .iter_mut()
            .find(|known| known.name == group.name)
        {
            Some(known) => *known = group,
            None => self.groups.push(group),
        }
    }

    /// Adds the group only if there is none of its name.
    pub(crate) fn add_group_below(&mut self, mut group: Group) {
        dedup(&mut group.targets);
        if self.find_group(&group.name).is_none() {
            self.groups.push(group);
        }
    }

    fn find_group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    fn find_target(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name == name)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let groups = self.groups.iter().map(|group| group.name.as_str());
        groups.chain(self.targets.iter().map(|target| target.name.as_str()))
    }

    /// The targets that a pattern of `--set` stands for.
    pub(crate) fn targets_matching(&self, pattern: &str) -> Result<Vec<String>, Fail> {
        if self.find_target(pattern).is_some() {
            return Ok(vec![pattern.to_owned()]);
        }
        let names = self.targets.iter().map(|target| target.name.as_str());
        let found: Vec<_> = names
            .filter(|name| matches(pattern, name))
            .map(str::to_owned)
            .collect();
        if found.is_empty() {
            return Err(self.unknown("target", pattern, None));
        }
        Ok(found)
    }

    fn unknown(&self, kind: &str, name: &str, span: Option<&Span>) -> Fail {
        let label = rbuild_llb::suggest::nearest_name(name, self.names())
            .map_or_else(String::new, |near| format!("did you mean `{near}`?"));
        let message = format!("there is no {kind} `{name}`");
        let failure = match span {
            Some(span) => fail(message, span.clone(), label),
            None if label.is_empty() => fail_nowhere(message),
            None => fail_nowhere(message).hint(label),
        };
        let names: Vec<_> = self
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect();
        match names.is_empty() {
            true => failure.hint("the files have no targets"),
            false => failure.hint(format!("the targets are: {}", names.join(", "))),
        }
    }

    /// The targets and groups that a name of the command line or of a group stands for.
    fn expand(
        &self,
        name: &str,
        from: Option<&Span>,
        above: &mut Vec<String>,
        found: &mut Expanded,
    ) -> Result<(), Fail> {
        let group = self
            .find_group(name)
            .filter(|_| above.last().is_none_or(|last| last != name));
        let Some(group) = group else {
            if self.find_target(name).is_none() {
                return Err(self.unknown("target or group", name, from));
            }
            if !found.targets.iter().any(|known| known == name) {
                found.targets.push(name.to_owned());
            }
            return Ok(());
        };
        if above.iter().any(|known| known == name) {
            // A target of the name is meant, as it would be if the group were asked for by itself.
            if self.find_target(name).is_some() {
                found.targets.push(name.to_owned());
                return Ok(());
            }
            let path = format!("{} → {name}", above.join(" → "));
            let message = format!("the group `{name}` contains itself: {path}");
            return Err(at(group.span.as_ref(), message));
        }
        if found.groups.iter().any(|known| known == name) {
            return Ok(());
        }
        if above.len() == MAX_DEPTH {
            let message = format!("groups lie more than {MAX_DEPTH} deep in one another");
            return Err(at(group.span.as_ref(), message));
        }
        found.groups.push(name.to_owned());
        above.push(name.to_owned());
        for target in &group.targets {
            self.expand(target, group.span.as_ref(), above, found)?;
        }
        above.pop();
        Ok(())
    }

    /// The target with what it inherits and what the command line sets.
    fn target(
        &self,
        name: &str,
        from: Option<&Span>,
        overrides: &Overrides,
        above: &mut Vec<String>,
    ) -> Result<Target, Fail> {
        let Some(own) = self.find_target(name) else {
            return Err(self.unknown("target", name, from));
        };
        if above.len() == MAX_DEPTH {
            let message = format!("targets inherit more than {MAX_DEPTH} deep");
            return Err(at(own.span.as_ref(), message));
        }
        above.push(name.to_owned());
        let mut target = Target::default();
        for parent in &own.inherits {
            // What inherits from itself gets nothing from there: so it is with buildx.
            if !above.contains(parent) {
                target.merge(&self.target(parent, own.span.as_ref(), overrides, above)?);
            }
        }
        above.pop();
        target.merge(own);
        if let Some(overrides) = overrides.get(name) {
            overrides::apply(&mut target, overrides)
                .map_err(|why| fail_nowhere(format!("{} (target `{name}`)", why.message)))?;
        }
        target.normalize();
        target.name = name.to_owned();
        target.span.clone_from(&own.span);
        Ok(target)
    }

    fn resolved(
        &self,
        name: &str,
        from: Option<&Span>,
        overrides: &Overrides,
    ) -> Result<Target, Fail> {
        let mut target = self.target(name, from, overrides, &mut Vec::new())?;
        target.inherits.clear();
        target.context.get_or_insert_with(|| ".".to_owned());
        if target.dockerfile.as_deref().unwrap_or_default().is_empty() {
            target.dockerfile = Some("Dockerfile".to_owned());
        }
        Ok(target)
    }

    /// Adds the targets that are contexts of `name`, and theirs. They are built, but put out nowhere.
    fn link(
        &self,
        name: &str,
        overrides: &Overrides,
        targets: &mut BTreeMap<String, Target>,
        above: &mut Vec<String>,
    ) -> Result<(), Fail> {
        let Some(target) = targets.get(name).cloned() else {
            return Ok(());
        };
        if above.len() == MAX_DEPTH {
            let message = format!("targets are contexts of one another more than {MAX_DEPTH} deep");
            return Err(at(target.span.as_ref(), message));
        }
        above.push(name.to_owned());
        for (context, place) in &target.contexts {
            let Some(linked) = place.strip_prefix("target:") else {
                continue;
            };
            if above.iter().any(|known| known == linked) {
                let path = format!("{} → {linked}", above.join(" → "));
                let message = format!("the target `{linked}` has itself as a context: {path}");
                return Err(at(target.span.as_ref(), message));
            }
            if !targets.contains_key(linked) {
                let mut other = self.resolved(linked, target.span.as_ref(), overrides)?;
                other.outputs = Some(vec![Output {
                    kind: "cacheonly".to_owned(),
                    destination: String::new(),
                    attributes: BTreeMap::new(),
                }]);
                other.linked = true;
                targets.insert(linked.to_owned(), other);
            }
            self.link(linked, overrides, targets, above)?;
            let other = &targets[linked];
            let (wanted, built) = (
                target.platforms.iter().flatten(),
                other.platforms.iter().flatten(),
            );
            if wanted.clone().count() > 1
                && built.clone().count() > 1
                && let Some(missing) = wanted.clone().find(|one| !built.clone().any(|b| b == *one))
            {
                let message = format!(
                    "the target `{name}` is built for {missing}, but its context `{context}`, the target `{linked}`, is not"
                );
                return Err(at(target.span.as_ref(), message));
            }
            let inherited = other.entitlements.clone().unwrap_or_default();
            if let Some(target) = targets.get_mut(name) {
                for entitlement in inherited {
                    let all = target.entitlements.get_or_insert_default();
                    if !all.contains(&entitlement) {
                        all.push(entitlement);
                    }
                }
            }
        }
        above.pop();
        Ok(())
    }
}

fn at(span: Option<&Span>, message: String) -> Fail {
    match span {
        Some(span) => fail(message, span.clone(), ""),
        None => fail_nowhere(message),
    }
}

#[derive(Default)]
struct Expanded {
    targets: Vec<String>,
    groups: Vec<String>,
}

fn dedup(names: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
}

/// The plan for the targets that the command line names.
pub(crate) fn select(config: &Config, options: &BakeOptions) -> Result<BakePlan, Fail> {
    let mut wanted = Vec::new();
    let asked = match options.targets.is_empty() {
        true => vec!["default".to_owned()],
        // A service's name may have dots, which a target's has not.
        false => options
            .targets
            .iter()
            .map(|name| name.replace('.', "_"))
            .collect(),
    };
    for name in asked {
        if !name.contains(['*', '?', '[', ']']) {
            wanted.push(name);
            continue;
        }
        let before = wanted.len();
        wanted.extend(
            config
                .names()
                .filter(|known| matches(&name, known))
                .map(str::to_owned),
        );
        if wanted.len() == before {
            return Err(config.unknown("target that is like", &name, None));
        }
    }
    dedup(&mut wanted);
    let overrides = overrides::parse(&options.overrides, config, &options.environment)?;

    let mut plan = BakePlan::default();
    for name in &wanted {
        let mut found = Expanded::default();
        config.expand(name, None, &mut Vec::new(), &mut found)?;
        for target in found.targets {
            if let Entry::Vacant(entry) = plan.targets.entry(target) {
                let resolved = config.resolved(entry.key(), None, &overrides)?;
                entry.insert(resolved);
            }
        }
        for group in found.groups {
            if let Some(known) = config.find_group(&group) {
                plan.groups.insert(group, known.clone());
            }
        }
    }
    for name in &wanted {
        if name == "default" && plan.groups.contains_key("default") {
            continue;
        }
        plan.groups
            .entry("default".to_owned())
            .or_default()
            .targets
            .push(name.clone());
    }
    if let Some(group) = plan.groups.get_mut("default") {
        dedup(&mut group.targets);
        group.targets.sort();
    }
    let names: Vec<_> = plan.targets.keys().cloned().collect();
    for name in names {
        config.link(&name, &overrides, &mut plan.targets, &mut Vec::new())?;
    }
    for (name, target) in &mut plan.targets {
        check::finish(name, target, options)?;
    }
    Ok(plan)
}

/// Whether the name is one that the pattern stands for: `*`, `?`, `[a-z]`, `[^a]` and `\` as in Go's `path.Match`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // `reached[n]`: what of the pattern has been read can match the first `n` characters.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let (step, width) = match pattern[at] {
            '*' => {
                let mut open = false;
                for (index, slot) in reached.iter_mut().enumerate() {
                    open = *slot || (open && name[index - 1] != '/');
                    *slot = open;
                }
                at += 1;
                continue;
            }
            '?' => (Step::Any, 1),
            '[' => match class(&pattern[at..]) {
                Some(found) => found,
                None => return false,
            },
            '\\' => match pattern.get(at + 1) {
                Some(c) => (Step::One(*c), 2),
                None => return false,
            },
            c => (Step::One(c), 1),
        };
        for index in (0..name.len()).rev() {
            reached[index + 1] = reached[index] && step.takes(name[index]);
        }
        reached[0] = false;
        at += width;
    }
    reached[name.len()]
}

enum Step {
    Any,
    One(char),
    Class(bool, Vec<(char, char)>),
}

impl Step {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => c != '/',
            Self::One(wanted) => c == *wanted,
            Self::Class(negated, ranges) => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// A class at the start of the pattern, and how long it is.
fn class(pattern: &[char]) -> Option<(Step, usize)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        if pattern.get(at) == Some(&']') && !ranges.is_empty() {
            return Some((Step::Class(negated, ranges), at + 1));
        }
        let mut one = || {
            at += usize::from(pattern.get(at) == Some(&'\\'));
            let c = *pattern.get(at)?;
            at += 1;
            Some(c)
        };
        let low = one()?;
        let high = if pattern.get(at) == Some(&'-') {
            at += 1;
            let mut one = || {
                at += usize::from(pattern.get(at) == Some(&'\\'));
                let c = *pattern.get(at)?;
                at += 1;
                Some(c)
            };
            one()?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod t {
    use super::matches;

    #[test]
    fn patterns_match_as_gos_do() {
        for (pattern, name, expected) in [
            ("*", "app", true),
            ("a*", "app", true),
            ("*p", "app", true),
            ("a*x", "app", false),
            ("a?p", "app", true),
            ("[a-c]pp", "app", true),
            ("[^a]pp", "app", false),
            ("[", "[", false),
            ("a\\*", "a*", true),
            ("*-*", "a-b-c", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
