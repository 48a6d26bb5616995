//! What is live, and how much it takes.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use serde_json::Value;

use super::Policy;
use super::Thing;
use super::changed;
use crate::file;
use crate::lease::LeaseRoot;
use crate::records::Record;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::StoredPin;
use crate::store::StoredUrl;
use crate::tree::Node;
use crate::tree::Timestamp;
use crate::tree::Trees;

/// Larger manifests are refused when they are pulled.
const MAX_MANIFEST: u64 = 8 << 20;

/// Everything reached so far.
pub(super) struct Live<'a> {
    store: &'a Store,
    /// Its own: what it reads once it does not keep in memory for builds in this process.
    trees: Trees,
    reached: Reached,
    /// Files that stay and are nothing else: pins, stat caches, slots.
    files: HashSet<PathBuf>,
    pub(super) bytes: u64,
    /// What the candidate at hand has added.
    trial: Option<Trial>,
}

#[derive(Default)]
struct Reached {
    trees: HashSet<TreeId>,
    blobs: HashSet<OciDigest>,
    layers: HashSet<TreeId>,
    /// Layers whose directory forms stay, whether or not anything else of them does.
    forms: HashSet<TreeId>,
    records: HashSet<CacheKey>,
}

#[derive(Default)]
struct Trial {
    reached: Vec<Thing>,
    bytes: u64,
}

/// Something that stays if it is new enough, or if there is room.
struct Candidate {
    path: PathBuf,
    used: Timestamp,
    changed: Timestamp,
    kind: Kind,
}

enum Kind {
    Record(Box<Record>),
    Pin(StoredPin),
    Url(StoredUrl),
    /// What a context's files looked like, or what a build did: a file that names nothing.
    Alone,
}

impl<'a> Live<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            trees: Trees::open(&store.path().join("trees")),
            store,
            reached: Reached::default(),
            files: HashSet::new(),
            bytes: 0,
            trial: None,
        }
    }

    pub(super) fn has(&self, thing: Thing) -> bool {
        match thing {
            Thing::Tree(id) => self.reached.trees.contains(&id),
            Thing::Blob(digest) => self.reached.blobs.contains(&digest),
            Thing::Layer(id) => self.reached.layers.contains(&id),
            Thing::Form(id) => self.reached.forms.contains(&id),
            Thing::Record(key) => self.reached.records.contains(&key),
            Thing::Other => false,
        }
    }

    pub(super) fn stays(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    /// Everything images need.
    pub(super) fn images(&mut self) -> Result<(), StoreError> {
        for (_, image) in self.store.images().list()? {
            self.manifest(&image.digest)?;
            self.blob(&image.id)?;
        }
        Ok(())
    }

    /// Everything that living builds say they use.
    pub(super) fn leased(&mut self, roots: &BTreeSet<LeaseRoot>) -> Result<(), StoreError> {
        for root in roots {
            match root {
                LeaseRoot::Tree(id) => {
                    self.tree(id);
                }
                LeaseRoot::Blob(digest) => {
                    self.blob(digest)?;
                }
                LeaseRoot::LayerDir(id) => {
                    self.tree(id);
                    self.layer(id)?;
                }
                LeaseRoot::Record(key) => {
                    // That there is none, or none that is whole, is for the build to find out.
                    if let Ok(Some((record, _))) = self.store.records().load(key) {
                        self.record(&record)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Records, pins, files by URL and stat caches by the policy. `now` is the time; what came after `began` is not looked at twice.
    pub(super) fn cached(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        began: Timestamp,
    ) -> Result<(), StoreError> {
        let mut candidates = self.candidates()?;
        candidates.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        let age = i64::try_from(policy.keep_newer_than.as_secs()).unwrap_or(i64::MAX);
        let young = now.secs.saturating_sub(age);
        let mut room = true;
        for candidate in candidates {
            let must = candidate.changed >= began || (age > 0 && candidate.used.secs >= young);
            if !must && !room {
                continue;
            }
            self.trial = Some(Trial::default());
            self.add(file_usage(&candidate.path));
            let whole = match &candidate.kind {
                Kind::Record(record) => self.record(record)?,
                Kind::Pin(pin) => {
                    self.pin(pin)?;
                    true
                }
                Kind::Url(url) => {
                    self.blob(&url.checksum)?;
                    true
                }
                Kind::Alone => true,
            };
            let trial = self.trial.take().unwrap_or_default();
            room &= must || self.bytes <= policy.max_bytes;
            if whole && (must || room) {
                self.files.insert(candidate.path);
            } else {
                self.undo(trial);
            }
        }
        self.places()
    }

    /// The places in plans whose newest record stays, or whose newest directory form.
    fn places(&mut self) -> Result<(), StoreError> {
        for (kind, is_slot) in [("slots", true), ("near", false)] {
            for path in file::below(&self.store.path().join(kind), 2)? {
                let hex = file::read(&path)?.unwrap_or_default();
                let hex = String::from_utf8_lossy(&hex);
                let stays = match is_slot {
                    true => hex.parse().is_ok_and(|key| self.has(Thing::Record(key))),
                    false => hex.parse().is_ok_and(|layer| self.has(Thing::Form(layer))),
                };
                if stays {
                    self.files.insert(path);
                }
            }
        }
        Ok(())
    }

    fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let mut candidates = Vec::new();
        for (name, depth) in [
            ("records", 2),
            ("pins", 2),
            ("urls", 2),
            ("stats", 1),
            ("builds", 1),
        ] {
            for path in file::below(&self.store.path().join(name), depth)? {
                // Gone or damaged: no candidate, and so a victim.
                let Ok(found) = fs::metadata(&path) else {
                    continue;
                };
                let kind = match name {
                    "records" => {
                        let name = path.file_name().unwrap_or_default().to_string_lossy();
                        let load = |key| self.store.records().load(&key).ok().flatten();
                        let record = name.parse().ok().and_then(load);
                        record.map(|(record, _)| Kind::Record(Box::new(record)))
                    }
                    "pins" => file::read_cached(&path)?.map(Kind::Pin),
                    "urls" => file::read_cached(&path)?.map(Kind::Url),
                    _ => Some(Kind::Alone),
                };
                let modified = Timestamp {
                    secs: found.mtime(),
                    nanos: found.mtime_nsec() as u32,
                };
                candidates.extend(kind.map(|kind| Candidate {
                    used: modified,
                    changed: changed(&found),
                    kind,
                    path,
                }));
            }
        }
        Ok(candidates)
    }

    /// A record and all it names; whether that is all there.
    fn record(&mut self, record: &Record) -> Result<bool, StoreError> {
        if !self.reached.records.insert(record.key) {
            return Ok(true);
        }
        self.tried(Thing::Record(record.key));
        // These are only there to explain a miss.
        for tree in record.record.trees() {
            self.tree(&tree);
        }
        let mut whole = true;
        for snapshot in &record.outputs {
            whole &= self.tree(&snapshot.root.tree);
            for layer in &snapshot.layers {
                whole &= self.tree(&layer.layer.tree);
                self.layer(&layer.layer.tree)?;
                if let Some(origin) = &layer.origin {
                    self.blob(&origin.digest)?;
                }
            }
        }
        Ok(whole)
    }

    fn pin(&mut self, pin: &StoredPin) -> Result<(), StoreError> {
        if let Some(index) = &pin.index {
            self.blob(index)?;
        }
        self.blob(&pin.manifest)?;
        if let Some(config) = self
            .json(&pin.manifest)
            .and_then(|json| digest(&json["config"]))
        {
            self.blob(&config)?;
        }
        Ok(())
    }

    /// A manifest or an index and all it names.
    fn manifest(&mut self, manifest: &OciDigest) -> Result<(), StoreError> {
        let mut stack = vec![*manifest];
        while let Some(manifest) = stack.pop() {
            self.blob(&manifest)?;
            let Some(json) = self.json(&manifest) else {
                continue;
            };
            let list = |name: &str| {
                json[name]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(digest)
            };
            stack.extend(list("manifests").filter(|inner| !self.reached.blobs.contains(inner)));
            for inner in list("layers").chain(digest(&json["config"])) {
                self.blob(&inner)?;
            }
        }
        Ok(())
    }

    fn json(&self, blob: &OciDigest) -> Option<Value> {
        let bytes = self.store.blobs().read(blob, MAX_MANIFEST).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// A blob, and the tree that it is known to unpack to.
    fn blob(&mut self, blob: &OciDigest) -> Result<(), StoreError> {
        if !self.reached.blobs.insert(*blob) {
            return Ok(());
        }
        self.tried(Thing::Blob(*blob));
        self.add(file_usage(&self.store.blobs().path(blob)));
        if let Some(known) = self.store.known_layer(blob)? {
            self.tree(&known.layer.tree);
            self.layer(&known.layer.tree)?;
        }
        Ok(())
    }

    /// The directory forms and blobs of a layer.
    fn layer(&mut self, layer: &TreeId) -> Result<(), StoreError> {
        if !self.reached.layers.insert(*layer) {
            return Ok(());
        }
        self.tried(Thing::Layer(*layer));
        self.forms(layer)?;
        for blob in self.store.all_layer_blobs(layer)? {
            self.blob(&blob.digest)?;
        }
        Ok(())
    }

    /// The directory forms of a layer, and those of other layers that they stand over, whose trees the next difference
    /// is worked out from.
    fn forms(&mut self, layer: &TreeId) -> Result<(), StoreError> {
        let mut stack = vec![*layer];
        while let Some(layer) = stack.pop() {
            if !self.reached.forms.insert(layer) {
                continue;
            }
            self.tried(Thing::Form(layer));
            self.add(disk_usage(&self.store.layer_forms(&layer)));
            for near in self.store.stands_over(&layer)? {
                self.tree(&near);
                stack.push(near);
            }
        }
        Ok(())
    }

    /// A tree and all below it; whether it is all there.
    fn tree(&mut self, root: &TreeId) -> bool {
        let mut whole = true;
        let mut stack = vec![*root];
        while let Some(id) = stack.pop() {
            if !self.reached.trees.insert(id) {
                continue;
            }
            self.tried(Thing::Tree(id));
            self.add(file_usage(&self.trees.path(&id)));
            match self.trees.get(&id) {
                Ok(dir) => stack.extend(dir.entries.iter().filter_map(|entry| match &entry.node {
                    Node::Dir(dir) => Some(dir.tree),
                    _ => None,
                })),
                Err(_) => whole = false,
            }
        }
        whole
    }

    fn tried(&mut self, thing: Thing) {
        if let Some(trial) = &mut self.trial {
            trial.reached.push(thing);
        }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(trial) = &mut self.trial {
            trial.bytes += bytes;
        }
    }

    fn undo(&mut self, trial: Trial) {
        self.bytes -= trial.bytes;
        for thing in trial.reached {
            match thing {
                Thing::Tree(id) => self.reached.trees.remove(&id),
                Thing::Blob(digest) => self.reached.blobs.remove(&digest),
                Thing::Layer(id) => self.reached.layers.remove(&id),
                Thing::Form(id) => self.reached.forms.remove(&id),
                Thing::Record(key) => self.reached.records.remove(&key),
                Thing::Other => false,
            };
        }
    }
}

fn digest(descriptor: &Value) -> Option<OciDigest> {
    descriptor["digest"].as_str()?.parse().ok()
}

fn file_usage(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512)
}

/// What a file or directory takes on disk. What may not be looked into (files of other ids) does not count.
pub(super) fn disk_usage(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = found.blocks() * 512;
    if !found.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| disk_usage(&entry.path())).sum::<u64>()
}
