//! Everything there is in a store, what each takes on disk, and what it names.
//!
//! It is read in one pass, side by side, and takes some 100 bytes of memory a file. What changes meanwhile may be in it or
//! not: whoever removes something looks again.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use serde::de::DeserializeOwned;

use super::disk::Disk;
use super::disk::Found;
use super::disk::file_usage;
use super::disk::side_by_side;
use crate::blobs::digest_in;
use crate::failures::FAILURES;
use crate::failures::Failure;
use crate::file;
use crate::mounts::CacheMountInfo;
use crate::records;
use crate::records::Record;
use crate::records::Snapshot;
use crate::store::KnownLayer;
use crate::store::LayerBlobs;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::StoredPin;
use crate::store::StoredUrl;
use crate::tree::Timestamp;
use crate::tree::child_trees;

/// Something that can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    Tree(TreeId),
    /// A blob, what it unpacks to and its frames.
    Blob(OciDigest),
    /// What blobs were made of a layer.
    Layer(TreeId),
    /// The directory forms of a layer, which those of others may stand over.
    Form(TreeId),
    Record(CacheKey),
    /// A file that nothing names.
    Alone(u32),
}

/// The number of a thing.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) thing: Thing,
    /// What its files take on disk.
    pub(super) bytes: u64,
    /// Whether it is there, and as it should be.
    pub(super) whole: bool,
    /// What it is nothing without.
    pub(super) links: Vec<Id>,
    /// What is there to explain it.
    pub(super) listings: Vec<Id>,
}

/// A file or directory of the store, which goes if its thing is not live.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) path: PathBuf,
    pub(super) of: Id,
    /// What it takes on disk; of what shares a file with others, a share of that.
    pub(super) bytes: u64,
    pub(super) changed: Timestamp,
    pub(super) by: Published,
}

/// What tells when a piece got its name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Published {
    /// The time its file last changed, which no program can set.
    ByChange,
    /// The time its file was written, or that of a record used. What changes it is also that others of its names come and go.
    ByWrite,
}

impl Published {
    pub(super) fn time(self, found: &Found) -> Timestamp {
        match self {
            Self::ByChange => found.changed,
            Self::ByWrite => found.modified,
        }
    }
}

/// What an item is; the names are those of buildx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageKind {
    /// What a step made.
    Regular,
    /// What files of a context looked like.
    SourceLocal,
    /// A clone of a git repository.
    SourceGitCheckout,
    /// What a URL gave.
    SourceHttp,
    /// A cache mount.
    ExecCacheMount,
    /// What a step left that failed.
    ExecFailed,
    /// An image, as far as no step of this store made it.
    Image,
    /// What rbuild keeps for itself.
    Internal,
}

impl UsageKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Regular,
        Self::SourceLocal,
        Self::SourceGitCheckout,
        Self::SourceHttp,
        Self::ExecCacheMount,
        Self::ExecFailed,
        Self::Image,
        Self::Internal,
    ];

    /// As buildx calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::SourceLocal => "source.local",
            Self::SourceGitCheckout => "source.git.checkout",
            Self::SourceHttp => "source.http",
            Self::ExecCacheMount => "exec.cachemount",
            Self::ExecFailed => "exec.failed",
            Self::Image => "image",
            Self::Internal => "internal",
        }
    }
}

/// Something that stays or goes as a whole: a step's result under all its keys, a cache mount, a pin, …
#[derive(Debug)]
pub(super) struct Item {
    pub(super) nodes: Vec<Id>,
    pub(super) kind: UsageKind,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created: Timestamp,
    pub(super) used: Timestamp,
    /// When the last of its files was published, or used, by the clock of the file system.
    pub(super) changed: Timestamp,
    /// The layer it is there for.
    pub(super) layer: Option<Id>,
    pub(super) mount: Option<CacheMountInfo>,
    pub(super) failure: Option<Failure>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) nodes: Vec<Node>,
    ids: HashMap<Thing, Id>,
    pub(super) pieces: Vec<Piece>,
    pub(super) items: Vec<Item>,
    /// Named images, with all they name.
    pub(super) images: Vec<(String, Id)>,
    /// What kinds of files take, by the store's directories.
    pub(super) kinds: Vec<(&'static str, u64)>,
    pub(super) total: u64,
}

/// A file of a sharded kind.
struct Listed {
    path: PathBuf,
    /// The hexadecimal digits it goes by.
    hex: String,
    found: Found,
}

/// When a file was written or read, the latter to within a day (mount(8), relatime) and only where the file system keeps it.
/// What is read here is read without that ([`file::peek`]).
fn used(found: &Found) -> Timestamp {
    Timestamp {
        secs: found.modified.secs.max(found.accessed),
        nanos: 0,
    }
}

impl Inventory {
    /// Reads a store.
    pub(super) fn read(store: &Store) -> Result<Self, StoreError> {
        let mut all = Self::default();
        let disk = Disk::open(store)?;
        let records = all.records(store, &disk)?;
        all.slots(store, &disk, &records)?;
        all.files_alone(store, &disk)?;
        all.blobs(store, &disk)?;
        all.layers(store, &disk)?;
        all.trees(store, &disk)?;
        all.mounts(store, &disk)?;
        all.failures(store, &disk)?;
        all.images(store)?;
        all.rest(store, &disk)?;
        Ok(all)
    }

    /// The number of a thing, if it is there or named.
    pub(super) fn find(&self, thing: Thing) -> Option<Id> {
        self.ids.get(&thing).copied()
    }

    fn id(&mut self, thing: Thing) -> Id {
        let next = self.nodes.len();
        *self.ids.entry(thing).or_insert_with(|| {
            self.nodes.push(Node {
                thing,
                bytes: 0,
                whole: false,
                links: Vec::new(),
                listings: Vec::new(),
            });
            next
        })
    }

    fn ids(&mut self, things: impl IntoIterator<Item = Thing>) -> Vec<Id> {
        things.into_iter().map(|thing| self.id(thing)).collect()
    }

    fn alone(&mut self) -> Id {
        let number = self.nodes.len() as u32;
        self.id(Thing::Alone(number))
    }

    fn add(&mut self, kind: &'static str, of: Id, path: PathBuf, found: &Found) {
        self.add_sized(kind, of, path, Published::ByChange, found, found.bytes);
    }

    fn add_sized(
        &mut self,
        kind: &'static str,
        of: Id,
        path: PathBuf,
        by: Published,
        found: &Found,
        bytes: u64,
    ) {
        self.count(kind, bytes);
        self.nodes[of].bytes += bytes;
        self.pieces.push(Piece {
            path,
            of,
            bytes,
            changed: by.time(found),
            by,
        });
    }

    fn count(&mut self, kind: &'static str, bytes: u64) {
        self.total += bytes;
        match self.kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += bytes,
            None => self.kinds.push((kind, bytes)),
        }
    }

    /// What is in a sharded directory.
    fn sharded(
        &mut self,
        store: &Store,
        disk: &Disk<'_>,
        kind: &'static str,
    ) -> Result<Vec<Listed>, StoreError> {
        let shards = file::list(&store.path().join(kind))?;
        let lists = side_by_side(&shards, |shard| {
            let prefix = match kind {
                "trees" => shard.file_name().unwrap_or_default().to_string_lossy(),
                _ => "".into(),
            };
            let (files, own) = disk.list(shard);
            let listed = files.into_iter().map(|(name, found)| {
                let path = shard.join(OsStr::from_bytes(name.as_bytes()));
                let name = name.to_string_lossy();
                let name = name.strip_suffix(".json").unwrap_or(&name);
                let hex = format!("{prefix}{name}");
                Listed { path, hex, found }
            });
            (listed.collect::<Vec<_>>(), own)
        });
        let mut all = Vec::new();
        for (listed, directory) in lists {
            self.count("directories", directory);
            all.extend(listed);
        }
        Ok(all)
    }

    /// Records, by the inodes of their files.
    fn records(
        &mut self,
        store: &Store,
        disk: &Disk<'_>,
    ) -> Result<HashMap<u64, CacheKey>, StoreError> {
        let listed = self.sharded(store, disk, "records")?;
        let read = side_by_side(&listed, |listed| {
            let bytes = disk.bytes(listed)?;
            let record = records::decode(&bytes)?;
            (record.key.hex() == listed.hex).then_some(record)
        });
        // A step's result goes by up to two keys.
        let mut inodes = HashMap::new();
        let mut same: HashMap<(String, u128, Vec<Id>), usize> = HashMap::new();
        for (Listed { path, found, .. }, record) in listed.into_iter().zip(read) {
            let Some(record) = record else {
                let of = self.alone();
                self.add("records", of, path, &found);
                continue;
            };
            inodes.insert(found.inode, record.key);
            let id = self.record(&record);
            let used = found.modified;
            let by = Published::ByWrite;
            self.add_sized("records", id, path, by, &found, found.bytes);
            let links = self.nodes[id].links.clone();
            let group = (record.slot, record.created, links);
            if let Some(&at) = same.get(&group) {
                let item = &mut self.items[at];
                item.nodes.push(id);
                item.used = item.used.max(used);
                item.changed = item.used;
                continue;
            }
            same.insert(group, self.items.len());
            let top = record.outputs.last().and_then(|out| out.layers.last());
            let layer = top.map(|top| self.id(Thing::Layer(top.layer.tree)));
            self.items.push(Item {
                nodes: vec![id],
                kind: UsageKind::Regular,
                id: record.key.hex(),
                name: record.name,
                created: nanoseconds(record.created),
                used,
                changed: used,
                layer,
                mount: None,
                failure: None,
            });
        }
        Ok(inodes)
    }

    fn record(&mut self, record: &Record) -> Id {
        let links = self.snapshots(&record.outputs);
        let listings = self.ids(record.record.trees().into_iter().map(Thing::Tree));
        let id = self.id(Thing::Record(record.key));
        let node = &mut self.nodes[id];
        node.whole = true;
        node.links = links;
        node.listings = listings;
        id
    }

    /// All that snapshots name.
    fn snapshots(&mut self, snapshots: &[Snapshot]) -> Vec<Id> {
        let mut links = Vec::new();
        for snapshot in snapshots {
            links.push(Thing::Tree(snapshot.root.tree));
            for layer in snapshot.layers.iter().filter(|layer| layer.is_read()) {
                links.push(Thing::Tree(layer.layer.tree));
                links.push(Thing::Layer(layer.layer.tree));
            }
            let origins = snapshot.layers.iter().flat_map(|layer| &layer.origin);
            links.extend(origins.map(|origin| Thing::Blob(origin.digest)));
        }
        self.ids(links)
    }

    /// Most are names of records, by whose inodes they are known.
    fn slots(
        &mut self,
        store: &Store,
        disk: &Disk<'_>,
        records: &HashMap<u64, CacheKey>,
    ) -> Result<(), StoreError> {
        let listed = self.sharded(store, disk, "slots")?;
        let keys = side_by_side(&listed, |listed| match records.get(&listed.found.inode) {
            Some(key) => (Some(*key), 0),
            None => {
                let bytes = disk.bytes(listed).unwrap_or_default();
                (records::key_in_slot(&bytes), listed.found.bytes)
            }
        });
        for (Listed { path, found, .. }, (key, bytes)) in listed.into_iter().zip(keys) {
            let of = self.id_or_alone(key.map(Thing::Record));
            self.add_sized("records", of, path, Published::ByWrite, &found, bytes);
        }
        Ok(())
    }

    /// Pins, files by URL, stats and reports of builds.
    fn files_alone(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        for listed in self.sharded(store, disk, "pins")? {
            let pin = disk.json::<StoredPin>(&listed);
            let links = pin.map(|pin| {
                let config = store.blobs().document(&pin.manifest);
                let config = config.and_then(|json| digest_in(&json["config"]));
                let blobs = [Some(pin.manifest), pin.index, config];
                blobs.into_iter().flatten().map(Thing::Blob).collect()
            });
            self.item_alone(
                "pins",
                UsageKind::Internal,
                "what a tag stood for",
                listed,
                links,
            );
        }
        for listed in self.sharded(store, disk, "urls")? {
            let url = disk.json::<StoredUrl>(&listed);
            let links = url.map(|url| vec![Thing::Blob(url.checksum)]);
            self.item_alone(
                "urls",
                UsageKind::SourceHttp,
                "what a URL gave",
                listed,
                links,
            );
        }
        let flat = [
            ("stats", UsageKind::SourceLocal, "local source for context"),
            ("builds", UsageKind::Internal, "what a build did"),
        ];
        for (kind, of, name) in flat {
            for path in file::list(&store.path().join(kind))? {
                let hex = path.file_name().unwrap_or_default().to_string_lossy();
                let hex = hex.into_owned();
                if let Ok(found) = fs::symlink_metadata(&path) {
                    let found = found.into();
                    let listed = Listed { path, hex, found };
                    self.item_alone(kind, of, name, listed, Some(Vec::new()));
                }
            }
        }
        Ok(())
    }

    fn item_alone(
        &mut self,
        kind: &'static str,
        of: UsageKind,
        name: &str,
        listed: Listed,
        links: Option<Vec<Thing>>,
    ) {
        let id = self.alone();
        let Listed { path, hex, found } = listed;
        self.add(kind, id, path, &found);
        // Damaged: garbage.
        let Some(links) = links else {
            return;
        };
        self.nodes[id].links = self.ids(links);
        self.nodes[id].whole = true;
        self.items.push(Item {
            nodes: vec![id],
            kind: of,
            id: hex,
            name: name.to_owned(),
            created: found.modified,
            used: used(&found),
            changed: found.changed,
            layer: None,
            mount: None,
            failure: None,
        });
    }

    fn blobs(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        let blob = |hex: &str| format!("sha256:{hex}").parse().ok().map(Thing::Blob);
        for listed in self.sharded(store, disk, "blobs/sha256")? {
            let id = self.id_or_alone(blob(&listed.hex));
            self.nodes[id].whole = true;
            self.add("blobs", id, listed.path, &listed.found);
        }
        let known = self.sharded(store, disk, "known")?;
        let read = side_by_side(&known, |listed| disk.json::<KnownLayer>(listed));
        for (listed, known) in known.into_iter().zip(read) {
            let id = self.id_or_alone(blob(&listed.hex));
            self.add("tables", id, listed.path, &listed.found);
            if let Some(known) = known {
                let tree = known.layer.tree;
                let links = self.ids([Thing::Tree(tree), Thing::Layer(tree)]);
                self.nodes[id].links.extend(links);
            }
        }
        for listed in self.sharded(store, disk, "frames")? {
            let id = self.id_or_alone(blob(&listed.hex));
            self.add("tables", id, listed.path, &listed.found);
        }
        Ok(())
    }

    fn id_or_alone(&mut self, thing: Option<Thing>) -> Id {
        match thing {
            Some(thing) => self.id(thing),
            None => self.alone(),
        }
    }

    fn layers(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        let layer = |hex: &str| hex.parse::<TreeId>().ok();
        let forms = self.sharded(store, disk, "layers")?;
        let read = side_by_side(&forms, |listed| {
            let tree = layer(&listed.hex);
            let (bytes, differs) = disk.forms(&listed.path, tree.as_ref());
            let over = match tree.filter(|_| differs) {
                Some(tree) => store.stands_over(&tree)?,
                None => Vec::new(),
            };
            Ok::<_, StoreError>((tree, bytes, over))
        });
        for (listed, read) in forms.into_iter().zip(read) {
            let (tree, bytes, over) = read?;
            let id = self.id_or_alone(tree.map(Thing::Form));
            let by = Published::ByChange;
            self.add_sized("layers", id, listed.path, by, &listed.found, bytes);
            let Some(tree) = tree else { continue };
            self.nodes[id].whole = true;
            // What is only a difference is nothing without what it stands over, and the next is worked out from its tree.
            let near = over
                .into_iter()
                .flat_map(|near| [Thing::Form(near), Thing::Tree(near)]);
            let links = self.ids(near);
            self.nodes[id].links.extend(links);
            let layer = self.id(Thing::Layer(tree));
            self.nodes[layer].links.push(id);
            let links = self.ids([Thing::Tree(tree)]);
            self.nodes[layer].links.extend(links);
            self.nodes[layer].whole = true;
        }
        let places = self.sharded(store, disk, "near")?;
        let read = side_by_side(&places, |listed| layer(&disk.text(listed)?));
        for (listed, tree) in places.into_iter().zip(read) {
            let id = self.id_or_alone(tree.map(Thing::Form));
            self.add("records", id, listed.path, &listed.found);
        }
        let tables = self.sharded(store, disk, "layer-blobs")?;
        let read = side_by_side(&tables, |listed| disk.json::<LayerBlobs>(listed));
        for (listed, blobs) in tables.into_iter().zip(read) {
            let id = self.id_or_alone(layer(&listed.hex).map(Thing::Layer));
            self.add("tables", id, listed.path, &listed.found);
            let blobs = blobs.map(|blobs| blobs.digests()).unwrap_or_default();
            let links = self.ids(blobs.into_iter().map(Thing::Blob));
            self.nodes[id].links.extend(links);
        }
        Ok(())
    }

    fn trees(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        // By the file that they are in, which is read once, and whose bytes they share.
        let mut files: BTreeMap<u64, Vec<Listed>> = BTreeMap::new();
        for listed in self.sharded(store, disk, "trees")? {
            files.entry(listed.found.inode).or_default().push(listed);
        }
        let files: Vec<Vec<Listed>> = files.into_values().collect();
        let read = side_by_side(&files, |names| {
            let bytes = names.first().and_then(|name| disk.bytes(name));
            let links = store.trees().links_in(&bytes.unwrap_or_default());
            HashMap::<TreeId, Vec<TreeId>>::from_iter(links)
        });
        for (names, mut objects) in files.into_iter().zip(read) {
            let mut left = names.len() as u64;
            let mut bytes = names.first().map_or(0, |name| name.found.bytes);
            for Listed { path, hex, found } in names {
                let tree = hex.parse().ok();
                let id = self.id_or_alone(tree.map(Thing::Tree));
                // One that was taken out of the file since, or whose file was, is where its name is now.
                let elsewhere = |tree: &TreeId| {
                    let dir = store.trees().on_disk(tree).ok()?;
                    Some(child_trees(&dir).collect())
                };
                let children =
                    tree.and_then(|tree| objects.remove(&tree).or_else(|| elsewhere(&tree)));
                if let Some(children) = children {
                    self.nodes[id].links = self.ids(children.into_iter().map(Thing::Tree));
                    self.nodes[id].whole = true;
                }
                let share = bytes / left;
                bytes -= share;
                left -= 1;
                self.add_sized("trees", id, path, Published::ByWrite, &found, share);
            }
        }
        Ok(())
    }

    fn mounts(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        let mounts = store.cache_mounts()?;
        let sizes = side_by_side(&mounts, |mount| disk.usage(&mount.path));
        for (mount, bytes) in mounts.into_iter().zip(sizes) {
            let id = self.alone();
            self.count("mounts", bytes);
            self.nodes[id].bytes = bytes;
            self.nodes[id].whole = true;
            let git = mount.name.as_ref().is_some_and(|name| name.domain == "git");
            let shown = mount.name.as_ref().map_or("", |name| &name.id);
            let hex = mount.path.file_name().unwrap_or_default().to_string_lossy();
            self.items.push(Item {
                nodes: vec![id],
                kind: match git {
                    true => UsageKind::SourceGitCheckout,
                    false => UsageKind::ExecCacheMount,
                },
                id: hex.into_owned(),
                name: match git {
                    true => format!("git repository {shown}"),
                    false => format!("cache mount {shown}"),
                },
                created: mount.created,
                used: mount.used,
                changed: mount.created,
                layer: None,
                mount: Some(mount),
                failure: None,
            });
        }
        for path in file::list(&store.path().join("mounts"))? {
            // Whatever has a lock may be somebody's.
            let lock = fs::symlink_metadata(path.join("lock"));
            if lock.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                && let Ok(found) = fs::symlink_metadata(&path)
            {
                let (of, bytes) = (self.alone(), disk.usage(&path));
                self.add_sized(
                    "mounts",
                    of,
                    path,
                    Published::ByChange,
                    &found.into(),
                    bytes,
                );
            }
        }
        Ok(())
    }

    fn failures(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        for failure in store.failures()? {
            let (id, bytes) = (self.alone(), disk.usage(&failure.path));
            let Some(step) = &failure.step else {
                let found = Found {
                    changed: failure.published,
                    ..Found::nothing()
                };
                let by = Published::ByChange;
                self.add_sized(FAILURES, id, failure.path, by, &found, bytes);
                continue;
            };
            self.count(FAILURES, bytes);
            let links = self.snapshots(&step.inputs);
            let node = &mut self.nodes[id];
            node.bytes = bytes;
            node.whole = true;
            node.links = links;
            self.items.push(Item {
                nodes: vec![id],
                kind: UsageKind::ExecFailed,
                id: failure.id.clone(),
                name: format!("failed step {}", step.name),
                created: failure.created,
                used: failure.used,
                changed: failure.published,
                layer: None,
                mount: None,
                failure: Some(failure),
            });
        }
        Ok(())
    }

    fn images(&mut self, store: &Store) -> Result<(), StoreError> {
        for path in file::list(&store.path().join("images"))? {
            self.count("images", file_usage(&path));
        }
        for (name, image) in store.images().list()? {
            let mut links = vec![Thing::Blob(image.id)];
            let mut stack = image.referrers;
            stack.push(image.digest);
            while let Some(manifest) = stack.pop() {
                links.push(Thing::Blob(manifest));
                let Some(json) = store.blobs().document(&manifest) else {
                    continue;
                };
                let list = |name: &str| {
                    let list = json[name].as_array().into_iter().flatten();
                    list.filter_map(digest_in)
                };
                let new = |inner: &OciDigest| !links.contains(&Thing::Blob(*inner));
                stack.extend(list("manifests").filter(new));
                links.extend(
                    list("layers")
                        .chain(digest_in(&json["config"]))
                        .map(Thing::Blob),
                );
            }
            let id = self.alone();
            self.nodes[id].links = self.ids(links);
            self.nodes[id].whole = true;
            self.images.push((name, id));
        }
        Ok(())
    }

    /// What is no thing: directories, work in progress, leases.
    fn rest(&mut self, store: &Store, disk: &Disk<'_>) -> Result<(), StoreError> {
        self.count("directories", file_usage(store.path()));
        for path in file::list(store.path())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match &*name {
                "tmp" | "trash" | "leases" | "unsynced" | "running" => {
                    self.count("work in progress", disk.usage(&path));
                }
                "blobs" => {
                    let below = file_usage(&path.join("sha256"));
                    self.count("directories", file_usage(&path) + below);
                }
                _ => self.count("directories", file_usage(&path)),
            }
        }
        Ok(())
    }
}

impl Disk<'_> {
    fn bytes(&self, listed: &Listed) -> Option<Vec<u8>> {
        self.read(&listed.path, listed.found.size).ok()
    }

    fn text(&self, listed: &Listed) -> Option<String> {
        String::from_utf8(self.bytes(listed)?).ok()
    }

    fn json<T: DeserializeOwned>(&self, listed: &Listed) -> Option<T> {
        serde_json::from_slice(&self.bytes(listed)?).ok()
    }
}

fn nanoseconds(since_1970: u128) -> Timestamp {
    Timestamp {
        secs: i64::try_from(since_1970 / 1_000_000_000).unwrap_or(i64::MAX),
        nanos: (since_1970 % 1_000_000_000) as u32,
    }
}
