//! What takes how much, item by item.

use super::inventory::Id;
use super::inventory::Inventory;
use super::inventory::Item;
use super::inventory::UsageKind;
use super::live::Live;
use crate::lease::Leases;
use crate::store::Store;
use crate::store::StoreError;
use crate::tree::Timestamp;

/// An item of the store, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// What it goes by: hexadecimal digits.
    pub id: String,
    /// What it is.
    pub kind: UsageKind,
    /// For people: the step that made it, the name of a mount.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used: a step's result to within an hour, a cache mount exactly, and what else there is to within a day,
    /// where the file system keeps times of access.
    pub used: Timestamp,
    /// Bytes on disk. What several items need counts for the first that was made.
    pub size: u64,
    /// Whether an image needs it as well.
    pub shared: bool,
    /// Whether a living build uses it.
    pub in_use: bool,
}

impl Usage {
    /// Whether it may go.
    pub fn is_reclaimable(&self) -> bool {
        !self.shared && !self.in_use
    }

    /// Whether builds write to it.
    pub fn is_mutable(&self) -> bool {
        matches!(
            self.kind,
            UsageKind::ExecCacheMount | UsageKind::SourceGitCheckout | UsageKind::SourceLocal
        )
    }
}

/// What a store takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// All items, in no order. Together with [`garbage`](Self::garbage) and [`rest`](Self::rest) they are
    /// [`total`](Self::total).
    pub items: Vec<Usage>,
    /// Bytes that no item needs: what interrupted builds left, and what was removed from images.
    pub garbage: u64,
    /// Bytes of the store's own directories and of work in progress.
    pub rest: u64,
    /// All bytes on disk.
    pub total: u64,
    /// Those that neither images nor living builds need.
    pub reclaimable: u64,
    /// The same bytes by what they are: `layers`, `blobs`, `trees`, …
    pub kinds: Vec<(&'static str, u64)>,
}

/// Space on the disk that a store is on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What this user may still fill; no end of it where a file system counts nothing, as ramfs.
    pub free: u64,
}

impl Store {
    /// What the store takes, and what for.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn usage(&self) -> Result<StoreUsage, StoreError> {
        let leases = Leases::of_the_living(&self.path().join("leases"))?;
        let all = Inventory::read(self)?;
        let live = Live::needed(self, &all, &leases.roots);
        let every = |_: Id| true;
        let mut order: Vec<&Item> = all.items.iter().collect();
        order.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
        let mut owned = Owned::new(&all);
        let mut items = owned.by_items(&live, &order, &every);
        for (name, image) in &all.images {
            let size = owned.take(&[*image], &every);
            items.push(Usage {
                id: String::new(),
                kind: UsageKind::Image,
                description: name.clone(),
                created: Timestamp::default(),
                used: Timestamp::default(),
                size,
                shared: true,
                in_use: false,
            });
        }
        let sum = |wanted: &dyn Fn(Id) -> bool| {
            let wanted = (0..all.nodes.len()).filter(|id| wanted(*id));
            wanted.map(|id| all.nodes[id].bytes).sum::<u64>()
        };
        let mounted: u64 = items
            .iter()
            .filter(|item| item.in_use && item.is_mutable())
            .map(|item| item.size)
            .sum();
        Ok(StoreUsage {
            garbage: sum(&|id| !owned.taken[id]),
            rest: all.total - sum(&|_| true),
            reclaimable: sum(&|id| !live.needed[id]).saturating_sub(mounted),
            items,
            total: all.total,
            kinds: all.kinds,
        })
    }

    /// The space on the store's disk.
    ///
    /// # Errors
    /// If the file system does not say.
    pub fn space(&self) -> Result<Space, StoreError> {
        let found = rustix::fs::statvfs(self.path())
            .map_err(|error| StoreError::io("read the free space of", self.path())(error.into()))?;
        Ok(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: match found.f_blocks {
                0 => u64::MAX,
                _ => found.f_bavail.saturating_mul(found.f_frsize),
            },
        })
    }
}

impl Live<'_> {
    /// An item as others see it.
    pub(super) fn usage(&self, item: &Item, size: u64) -> Usage {
        Usage {
            id: item.id.clone(),
            kind: item.kind,
            description: item.name.clone(),
            created: item.created,
            used: item.used,
            size,
            shared: self.is_shared(item),
            in_use: self.in_use(item),
        }
    }

    /// What items took that go, each what nothing that stays needs; and, last, what nothing named.
    pub(super) fn removed(&self, gone: &[&Item], began: Timestamp) -> Vec<Usage> {
        let mut order = gone.to_vec();
        order.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
        let dead = |id: Id| !self.has(id);
        let mut owned = Owned::new(self.all);
        let mut removed = owned.by_items(self, &order, &dead);
        let unnamed = self
            .all
            .pieces
            .iter()
            .filter(|piece| dead(piece.of) && !owned.taken[piece.of] && piece.changed < began);
        let size = unnamed.map(|piece| piece.bytes).sum();
        if size > 0 {
            removed.push(Usage {
                id: String::new(),
                kind: UsageKind::Internal,
                description: "what nothing needs any more".to_owned(),
                created: Timestamp::default(),
                used: Timestamp::default(),
                size,
                shared: false,
                in_use: false,
            });
        }
        removed
    }
}

/// Which things have been counted.
struct Owned<'a> {
    all: &'a Inventory,
    taken: Vec<bool>,
}

impl<'a> Owned<'a> {
    fn new(all: &'a Inventory) -> Self {
        Self {
            all,
            taken: vec![false; all.nodes.len()],
        }
    }

    fn by_items(
        &mut self,
        live: &Live<'_>,
        items: &[&Item],
        counts: &dyn Fn(Id) -> bool,
    ) -> Vec<Usage> {
        let mut usages = Vec::new();
        for item in items {
            let size = self.take(&item.nodes, counts);
            usages.push(live.usage(item, size));
        }
        usages
    }

    /// What things take with all they name that has not been counted yet.
    fn take(&mut self, roots: &[Id], counts: &dyn Fn(Id) -> bool) -> u64 {
        let mut stack = roots.to_vec();
        let mut bytes = 0;
        while let Some(id) = stack.pop() {
            if !counts(id) || std::mem::replace(&mut self.taken[id], true) {
                continue;
            }
            let node = &self.all.nodes[id];
            bytes += node.bytes;
            stack.extend(&node.links);
            stack.extend(&node.listings);
        }
        bytes
    }
}
