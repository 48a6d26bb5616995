//! What is live: what images and living builds need, and what a policy leaves besides.

use std::collections::BTreeSet;
use std::fs;

use rbuild_llb::CacheKey;
use rbuild_llb::TreeId;

use super::Policy;
use super::inventory::Id;
use super::inventory::Inventory;
use super::inventory::Item;
use super::inventory::Thing;
use super::inventory::UsageKind;
use crate::lease::LeaseRoot;
use crate::records;
use crate::records::Record;
use crate::store::Store;
use crate::tree::Timestamp;
use crate::tree::child_trees;

/// Everything reached so far.
pub(super) struct Live<'a> {
    store: &'a Store,
    pub(super) all: &'a Inventory,
    reached: Vec<bool>,
    /// What that takes, and what is no thing: directories and work in progress.
    bytes: u64,
    /// What the item at hand has added.
    trial: Option<Vec<Id>>,
    /// Reached by images.
    pub(super) of_images: Vec<bool>,
    /// Reached by images and living builds.
    pub(super) needed: Vec<bool>,
    /// Of tree objects: whether all below is there, where that is known.
    complete: Vec<Option<bool>>,
    /// Tree objects that were written since everything was read, and have been looked into.
    new_trees: BTreeSet<TreeId>,
}

impl<'a> Live<'a> {
    /// What images and living builds need.
    pub(super) fn needed(
        store: &'a Store,
        all: &'a Inventory,
        roots: &BTreeSet<LeaseRoot>,
    ) -> Self {
        let things: u64 = all.nodes.iter().map(|node| node.bytes).sum();
        let mut live = Self {
            store,
            all,
            reached: vec![false; all.nodes.len()],
            bytes: all.total.saturating_sub(things),
            trial: None,
            of_images: Vec::new(),
            needed: Vec::new(),
            complete: vec![None; all.nodes.len()],
            new_trees: BTreeSet::new(),
        };
        for (_, image) in &all.images {
            live.reach(*image);
        }
        live.of_images = live.reached.clone();
        live.leased(roots);
        live.needed = live.reached.clone();
        live
    }

    pub(super) fn has(&self, id: Id) -> bool {
        self.reached[id]
    }

    /// Everything that living builds say they use. What was not there when everything was read is new, and stays anyway.
    pub(super) fn leased(&mut self, roots: &BTreeSet<LeaseRoot>) {
        for root in roots {
            let thing = match root {
                LeaseRoot::Tree(id) => Thing::Tree(*id),
                LeaseRoot::Blob(digest) => Thing::Blob(*digest),
                LeaseRoot::LayerDir(id) => Thing::Layer(*id),
                LeaseRoot::Record(key) => {
                    self.record_of(key);
                    Thing::Record(*key)
                }
            };
            match thing {
                Thing::Tree(tree) => self.reach_tree(tree),
                thing => self.reach_known(thing),
            }
        }
    }

    fn reach_known(&mut self, thing: Thing) {
        if let Some(id) = self.all.find(thing) {
            self.reach(id);
        }
    }

    /// Reaches a tree, also one that was written since everything was read: what is in it may be older.
    fn reach_tree(&mut self, root: TreeId) {
        let mut stack = vec![root];
        while let Some(tree) = stack.pop() {
            if let Some(id) = self.all.find(Thing::Tree(tree)) {
                self.reach(id);
            } else if self.new_trees.insert(tree)
                && let Ok(dir) = self.store.trees().on_disk(&tree)
            {
                stack.extend(child_trees(&dir));
            }
        }
    }

    /// What a record names now: it may have been written anew since everything was read.
    fn record_of(&mut self, key: &CacheKey) {
        let path = self.store.records().path(key);
        let record: Option<Record> = fs::read(path).ok().and_then(|b| records::decode(&b));
        for snapshot in record.iter().flat_map(|record| &record.outputs) {
            self.reach_tree(snapshot.root.tree);
            for layer in &snapshot.layers {
                self.reach_known(Thing::Layer(layer.layer.tree));
                self.reach_tree(layer.layer.tree);
                if let Some(origin) = &layer.origin {
                    self.reach_known(Thing::Blob(origin.digest));
                }
            }
        }
    }

    /// Items by the policy. `now` is the time; what came after `began` stays. Gives those that go.
    pub(super) fn items(
        &mut self,
        policy: &Policy<'_>,
        free: u64,
        now: Timestamp,
        began: Timestamp,
    ) -> Vec<&'a Item> {
        let room = Room::of(policy, self.all.total, free);
        let mut candidates = Vec::new();
        for item in &self.all.items {
            let fresh = item.changed >= began;
            let stays = fresh || self.in_use(item) || !self.may_go(item, policy, now);
            // What lacks something is no use to anybody, whatever the policy says.
            let whole = item.nodes.iter().any(|id| self.is_whole(*id));
            match stays && (fresh || whole) {
                true => self.reach_all(item),
                false => candidates.push((item, whole)),
            }
        }
        // The newest first; of two that were used at once, by their names. What failed is of use to nobody who builds.
        candidates.sort_by(|(a, _), (b, _)| {
            let failed = |item: &Item| item.kind == UsageKind::ExecFailed;
            (failed(a).cmp(&failed(b)))
                .then_with(|| b.used.cmp(&a.used))
                .then_with(|| a.id.cmp(&b.id))
        });
        let mut gone = Vec::new();
        let mut full = false;
        for (item, whole) in candidates {
            let age = now.secs.saturating_sub(item.used.secs);
            let old = policy
                .keep_duration
                .is_some_and(|keep| age > i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
            let limit = if old { room.old } else { room.young };
            self.trial = Some(Vec::new());
            self.reach_all(item);
            let trial = self.trial.take().unwrap_or_default();
            full |= self.bytes > limit;
            if full || !whole || self.is_stale(item, now) {
                for id in trial {
                    self.reached[id] = false;
                    self.bytes -= self.all.nodes[id].bytes;
                }
                gone.push(item);
            }
        }
        gone
    }

    pub(super) fn in_use(&self, item: &Item) -> bool {
        item.mount.as_ref().is_some_and(|mount| mount.in_use)
            || item.failure.as_ref().is_some_and(|failure| failure.in_use)
            || item
                .nodes
                .iter()
                .any(|id| self.needed[*id] && !self.of_images[*id])
    }

    /// Whether an image has the layer that an item is there for.
    pub(super) fn is_shared(&self, item: &Item) -> bool {
        item.layer.is_some_and(|layer| self.of_images[layer])
    }

    /// Whether the policy speaks of an item.
    fn may_go(&self, item: &Item, policy: &Policy<'_>, now: Timestamp) -> bool {
        let age = now.secs.saturating_sub(item.used.secs);
        let select = &policy.select;
        let unused = select.unused_for.as_secs();
        let old = u64::try_from(age).is_ok_and(|age| age >= unused);
        let wanted = select
            .wanted
            .is_none_or(|wanted| wanted(&self.usage(item, 0)));
        let by_default = match item.kind {
            UsageKind::Internal | UsageKind::Image => select.all,
            UsageKind::ExecCacheMount | UsageKind::SourceGitCheckout => {
                select.all || select.mounts || age >= MOUNTS_STAY
            }
            _ => select.all || !self.is_shared(item),
        };
        old && wanted && by_default
    }

    /// Whether a thing has all it is nothing without. What a layer or blob lacks can be made or fetched; a tree cannot.
    fn is_whole(&mut self, id: Id) -> bool {
        if !self.all.nodes[id].whole {
            return false;
        }
        let trees = self.all.nodes[id].links.iter().copied();
        let trees: Vec<Id> = trees
            .filter(|id| matches!(self.all.nodes[*id].thing, Thing::Tree(_)))
            .collect();
        trees.into_iter().all(|tree| self.is_complete(tree))
    }

    fn is_complete(&mut self, tree: Id) -> bool {
        // Children before parents: an object met a second time has had its children looked at.
        let mut stack = vec![(tree, false)];
        while let Some((id, ready)) = stack.pop() {
            let node = &self.all.nodes[id];
            if self.complete[id].is_some() {
                continue;
            }
            if ready || !node.whole {
                let below = node.links.iter().all(|id| self.complete[*id] == Some(true));
                self.complete[id] = Some(node.whole && below);
            } else {
                stack.push((id, true));
                stack.extend(node.links.iter().map(|id| (*id, false)));
            }
        }
        self.complete[tree] == Some(true)
    }

    /// Whether nobody will come back to it.
    fn is_stale(&self, item: &Item, now: Timestamp) -> bool {
        let age = now.secs.saturating_sub(item.used.secs);
        item.kind == UsageKind::ExecFailed && age >= FAILURES_STAY
    }

    fn reach_all(&mut self, item: &Item) {
        for id in &item.nodes {
            self.reach(*id);
        }
    }

    fn reach(&mut self, root: Id) {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut self.reached[id], true) {
                continue;
            }
            let node = &self.all.nodes[id];
            self.bytes += node.bytes;
            if let Some(trial) = &mut self.trial {
                trial.push(id);
            }
            stack.extend(&node.links);
            stack.extend(&node.listings);
        }
    }
}

/// So long cache mounts stay if nobody speaks of them, in seconds: a week. They take long to fill again.
const MOUNTS_STAY: i64 = 7 * 24 * 3600;

/// And what failed steps left, whatever the limits are: who did not look into it by then has mended what was wrong.
const FAILURES_STAY: i64 = 7 * 24 * 3600;

/// How much may be live, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// For what was used within [`Policy::keep_duration`].
    young: u64,
    /// For what was not.
    old: u64,
}

impl Room {
    /// As BuildKit's daemon works it out (buildkitd.toml, `gcpolicy`): as much as may be used, less if the disk has too
    /// little free, but never less than is reserved. Without a limit nothing stays that may go, but what
    /// [`Policy::keep_duration`] keeps.
    fn of(policy: &Policy<'_>, total: u64, free: u64) -> Self {
        let reserved = policy.reserved.unwrap_or(0);
        let no_limit = u64::MAX;
        let by_free = policy.min_free.map(|wanted| match wanted > free {
            true => total.saturating_sub(wanted - free),
            false => no_limit,
        });
        let most = match (policy.max_used, by_free) {
            (None, None) if policy.keep_duration.is_none() => 0,
            (by_used, by_free) => by_used.unwrap_or(no_limit).min(by_free.unwrap_or(no_limit)),
        };
        Self {
            young: most.max(reserved),
            old: reserved,
        }
    }
}

#[cfg(test)]
mod t {
    use std::time::Duration;

    use super::*;

    #[test]
    fn room_is_worked_out_as_buildkit_does() {
        // buildkitd.toml(5): reservedSpace, maxUsedSpace, minFreeSpace.
        let policy = |reserved, max_used, min_free, keep: Option<u64>| Policy {
            reserved,
            max_used,
            min_free,
            keep_duration: keep.map(Duration::from_secs),
            ..Policy::default()
        };
        let cases = [
            (policy(None, None, None, None), (0, 0)),
            (policy(Some(10), None, None, None), (10, 10)),
            (policy(None, Some(60), None, None), (60, 0)),
            (policy(Some(70), Some(60), None, None), (70, 70)),
            // 30 are free of a disk, 100 are used by the store.
            (policy(None, None, Some(50), None), (80, 0)),
            (policy(Some(90), None, Some(50), None), (90, 90)),
            (policy(None, Some(60), Some(50), None), (60, 0)),
            (policy(None, None, Some(20), None), (u64::MAX, 0)),
            (policy(None, None, Some(1000), None), (0, 0)),
            (policy(None, None, None, Some(5)), (u64::MAX, 0)),
            (policy(Some(10), Some(60), None, Some(5)), (60, 10)),
        ];
        for (policy, (young, old)) in cases {
            assert_eq!(
                Room::of(&policy, 100, 30),
                Room { young, old },
                "{policy:?}"
            );
        }
    }
}
