//! Targets and groups, and how one target is laid over another.

use std::collections::BTreeMap;

use rbuild_llb::Span;

use crate::flags::Attest;
use crate::flags::CacheEntry;
use crate::flags::Output;
use crate::flags::Policy;
use crate::flags::Resources;
use crate::flags::Secret;
use crate::flags::Ssh;

/// One build. The fields are those of buildx's bake files, named as there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// What it is for.
    pub description: String,
    /// `key=value`, with `index:` and the like before it. `None` for not given, here and below.
    pub annotations: Option<Vec<String>>,
    /// Provenance and software bills of materials.
    pub attest: Option<Vec<Attest>>,
    /// A directory, a URL, `target:NAME`; after [`crate::resolve`] always given and cleaned.
    pub context: Option<String>,
    /// Further contexts by name: `target:NAME`, `docker-image://…`, a directory, a URL.
    pub contexts: BTreeMap<String, String>,
    /// The Dockerfile's path in the context; after [`crate::resolve`] always given.
    pub dockerfile: Option<String>,
    /// The Dockerfile itself.
    pub dockerfile_inline: Option<String>,
    /// Build arguments. `None` is an argument that was set to null: it counts as not given.
    pub args: BTreeMap<String, Option<String>>,
    /// Labels of the image.
    pub labels: BTreeMap<String, Option<String>>,
    /// Names of the image.
    pub tags: Option<Vec<String>>,
    /// Caches to read.
    pub cache_from: Option<Vec<CacheEntry>>,
    /// Caches to write.
    pub cache_to: Option<Vec<CacheEntry>>,
    /// The stage.
    pub target: Option<String>,
    /// Secrets.
    pub secrets: Option<Vec<Secret>>,
    /// Ssh agents and keys.
    pub ssh: Option<Vec<Ssh>>,
    /// Platforms.
    pub platforms: Option<Vec<String>>,
    /// Outputs.
    pub outputs: Option<Vec<Output>>,
    /// Whether bases are looked up anew.
    pub pull: Option<bool>,
    /// Whether nothing is taken from the cache.
    pub no_cache: Option<bool>,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
    /// Stages that are not taken from the cache.
    pub no_cache_filter: Option<Vec<String>>,
    /// The size of `/dev/shm`.
    pub shm_size: Option<String>,
    /// `nofile=1024:1024`.
    pub ulimits: Option<Vec<String>>,
    /// Limits of the steps' processes.
    pub resources: Option<Resources>,
    /// What to do in place of a build: `check`, `outline`, `targets`.
    pub call: Option<String>,
    /// `network.host`, `security.insecure`.
    pub entitlements: Option<Vec<String>>,
    /// Lines of `/etc/hosts`: name to address.
    pub extra_hosts: BTreeMap<String, Option<String>>,
    /// Policies for sources.
    pub policy: Option<Vec<Policy>>,
    /// Whether it is built only since another target has it as a context. Its output is then `cacheonly`.
    pub linked: bool,
    /// Where its name stands. `None` after `resolve` only for what a file does not name.
    pub span: Option<Span>,
    pub(crate) name: String,
    pub(crate) inherits: Vec<String>,
}

/// Several targets under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// What it is for.
    pub description: String,
    /// Names of targets and groups.
    pub targets: Vec<String>,
    pub(crate) name: String,
    pub(crate) span: Option<Span>,
}

impl Target {
    /// Lays `over` over this target. Most lists are replaced; annotations, attestations, caches to read, secrets, ssh,
    /// policies, entitlements, ulimits and stages without cache add up.
    pub(crate) fn merge(&mut self, over: &Target) {
        if !over.description.is_empty() {
            self.description.clone_from(&over.description);
        }
        replace(&mut self.context, &over.context);
        replace(&mut self.dockerfile, &over.dockerfile);
        replace(&mut self.dockerfile_inline, &over.dockerfile_inline);
        replace(&mut self.tags, &over.tags);
        replace(&mut self.target, &over.target);
        replace(&mut self.call, &over.call);
        replace(&mut self.platforms, &over.platforms);
        replace(&mut self.cache_to, &over.cache_to);
        replace(&mut self.outputs, &over.outputs);
        replace(&mut self.pull, &over.pull);
        replace(&mut self.no_cache, &over.no_cache);
        replace(&mut self.network, &over.network);
        replace(&mut self.shm_size, &over.shm_size);
        self.contexts.extend(over.contexts.clone());
        for (mine, theirs) in [
            (&mut self.args, &over.args),
            (&mut self.labels, &over.labels),
            (&mut self.extra_hosts, &over.extra_hosts),
        ] {
            let given = theirs.iter().filter(|(_, value)| value.is_some());
            mine.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        }
        append(&mut self.annotations, &over.annotations);
        append(&mut self.policy, &over.policy);
        append(&mut self.no_cache_filter, &over.no_cache_filter);
        append(&mut self.ulimits, &over.ulimits);
        append(&mut self.entitlements, &over.entitlements);
        merge_attest(&mut self.attest, &over.attest);
        merge_secrets(&mut self.secrets, &over.secrets);
        merge_ssh(&mut self.ssh, &over.ssh);
        merge_caches(&mut self.cache_from, &over.cache_from);
        if let Some(over) = &over.resources {
            self.resources.get_or_insert_default().merge(over);
        }
        self.inherits.extend(over.inherits.iter().cloned());
        if over.span.is_some() {
            self.span.clone_from(&over.span);
        }
    }

    /// Takes out what is given twice, and adds what follows from other fields.
    pub(crate) fn normalize(&mut self) {
        for list in [
            &mut self.annotations,
            &mut self.tags,
            &mut self.platforms,
            &mut self.no_cache_filter,
            &mut self.ulimits,
        ] {
            once(list);
        }
        last_by(&mut self.attest, |attest| attest.kind.clone());
        last_by(&mut self.secrets, |secret| secret.id.clone());
        last_by(&mut self.ssh, |ssh| ssh.id.clone());
        for list in [&mut self.cache_from, &mut self.cache_to] {
            without_equals(list);
        }
        without_equals(&mut self.outputs);
        if self.network.as_deref() == Some("host") {
            let all = self.entitlements.get_or_insert_default();
            all.push("network.host".to_owned());
        }
        once(&mut self.entitlements);
        self.contexts.retain(|_, place| !place.is_empty());
    }
}

fn replace<T: Clone>(mine: &mut Option<T>, theirs: &Option<T>) {
    if theirs.is_some() {
        mine.clone_from(theirs);
    }
}

fn append<T: Clone>(mine: &mut Option<Vec<T>>, theirs: &Option<Vec<T>>) {
    if let Some(theirs) = theirs {
        mine.get_or_insert_default().extend(theirs.iter().cloned());
    }
}

pub(crate) fn merge_attest(mine: &mut Option<Vec<Attest>>, theirs: &Option<Vec<Attest>>) {
    append(mine, theirs);
    last_by(mine, |attest| attest.kind.clone());
}

pub(crate) fn merge_secrets(mine: &mut Option<Vec<Secret>>, theirs: &Option<Vec<Secret>>) {
    append(mine, theirs);
    last_by(mine, |secret| secret.id.clone());
}

pub(crate) fn merge_ssh(mine: &mut Option<Vec<Ssh>>, theirs: &Option<Vec<Ssh>>) {
    append(mine, theirs);
    last_by(mine, |ssh| ssh.id.clone());
}

pub(crate) fn merge_caches(mine: &mut Option<Vec<CacheEntry>>, theirs: &Option<Vec<CacheEntry>>) {
    append(mine, theirs);
    without_equals(mine);
}

pub(crate) fn merge_outputs(mine: &mut Option<Vec<Output>>, theirs: &Option<Vec<Output>>) {
    append(mine, theirs);
    without_equals(mine);
}

/// Each text once, at its first place, and none that is empty.
fn once(list: &mut Option<Vec<String>>) {
    if let Some(list) = list {
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|text| !text.is_empty() && seen.insert(text.clone()));
    }
}

/// Of those with the same key the last one, at the place of the first.
fn last_by<T>(list: &mut Option<Vec<T>>, key: fn(&T) -> String) {
    let Some(all) = list.take() else {
        return;
    };
    let mut places = BTreeMap::new();
    let mut kept: Vec<T> = Vec::new();
    for item in all {
        match places.get(&key(&item)) {
            Some(at) => kept[*at] = item,
            None => {
                places.insert(key(&item), kept.len());
                kept.push(item);
            }
        }
    }
    *list = (!kept.is_empty()).then_some(kept);
}

/// buildx walks from the end; for an item that comes again later, the later one is taken out and the last one put in
/// its place. The order that is left is seen by who builds, so it is kept.
fn without_equals<T: PartialEq>(list: &mut Option<Vec<T>>) {
    let Some(all) = list else {
        return;
    };
    for at in (0..all.len().saturating_sub(1)).rev() {
        if let Some(again) = (at + 1..all.len()).find(|later| all[at] == all[*later]) {
            drop(all.swap_remove(again));
        }
    }
    if all.is_empty() {
        *list = None;
    }
}
