//! Looking the whole store through, and taking out what is damaged.
//!
//! What is damaged is what no build could have left, however it ended: bytes that are not what their name or their
//! checksum says, and things that name what is not there. What a killed build does leave (work in progress, trees that
//! nothing names yet) is counted and is no problem; nor are results whose bytes are gone, which are made again.
//!
//! Nothing is collected meanwhile; builds go on.

mod forms;
mod images;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::hash_map;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;

use crate::blobs;
use crate::builds;
use crate::failures;
use crate::failures::FAILURES;
use crate::failures::FailedStep;
use crate::file;
use crate::flock;
use crate::flock::How;
use crate::layer::FrameTable;
use crate::lease::Locked;
use crate::mounts;
use crate::mounts::CacheMountName;
use crate::records;
use crate::records::Record;
use crate::stat;
use crate::store::KnownLayer;
use crate::store::LayerBlobs;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::StoredPin;
use crate::store::StoredUrl;
use crate::tree::TreeError;
use crate::tree::child_trees;

/// What [`Store::fsck`] does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsckOptions {
    /// Reads the files of directory forms and compares their content with the trees'.
    pub deep: bool,
    /// Takes what is damaged out of the store. Names of images stay.
    pub repair: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is wrong with.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
    /// Whether it has been taken out of the store.
    pub repaired: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Fscked {
    /// What is wrong, in the order it was found.
    pub problems: Vec<Problem>,
    /// How many of what were looked at.
    pub checked: BTreeMap<&'static str, u64>,
    /// What is worth knowing and not wrong, one line each.
    pub notes: Vec<String>,
}

/// Whether something that is wrong may be taken out.
#[derive(Clone, Copy, PartialEq)]
enum Remedy {
    TakeOut,
    /// It is the user's.
    Leave,
}

struct Fsck<'a> {
    store: &'a Store,
    options: FsckOptions,
    found: Fscked,
    /// What each tree object that is as it should be names.
    links: HashMap<TreeId, Vec<TreeId>>,
    /// Of the objects that were looked at: the first below them, or themselves, that is not there or damaged.
    lacks: HashMap<TreeId, Option<TreeId>>,
    trash: Option<PathBuf>,
    /// Directories of forms that only another user may look into.
    closed: u64,
}

impl Store {
    /// Looks everything through.
    ///
    /// # Errors
    /// If the store cannot be read, or, to repair it, written.
    pub fn fsck(&self, options: FsckOptions) -> Result<Fscked, StoreError> {
        let _gate = flock::hold(&self.path().join("leases"), How::Shared)?;
        let mut fsck = Fsck::new(self, options);
        fsck.blobs()?;
        fsck.trees()?;
        fsck.known()?;
        fsck.records()?;
        fsck.small_files()?;
        fsck.forms()?;
        fsck.images()?;
        fsck.mounts()?;
        fsck.failures()?;
        fsck.left_behind()?;
        Ok(fsck.found)
    }
}

impl<'a> Fsck<'a> {
    fn new(store: &'a Store, options: FsckOptions) -> Self {
        Self {
            store,
            options,
            found: Fscked::default(),
            links: HashMap::new(),
            lacks: HashMap::new(),
            trash: None,
            closed: 0,
        }
    }
}

impl Fsck<'_> {
    fn path(&self, kind: &str) -> PathBuf {
        self.store.path().join(kind)
    }

    fn count(&mut self, kind: &'static str) {
        *self.found.checked.entry(kind).or_default() += 1;
    }

    fn wrong(
        &mut self,
        path: &Path,
        what: impl Into<String>,
        remedy: Remedy,
    ) -> Result<(), StoreError> {
        let repaired = self.options.repair && remedy == Remedy::TakeOut;
        if repaired {
            self.take_out(path)?;
        }
        self.found.problems.push(Problem {
            path: path.to_owned(),
            what: what.into(),
            repaired,
        });
        Ok(())
    }

    /// Into the trash, where it can still be looked at until the next collection.
    fn take_out(&mut self, path: &Path) -> Result<(), StoreError> {
        let trash = match &self.trash {
            Some(trash) => trash.clone(),
            None => self.trash.insert(self.store.trash_dir()?).clone(),
        };
        let place = trash.join(self.found.problems.len().to_string());
        match fs::rename(path, place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The files of a sharded kind, with the hexadecimal digits each is named by.
    fn sharded(
        &mut self,
        kind: &'static str,
        suffix: &str,
    ) -> Result<Vec<(PathBuf, String)>, StoreError> {
        let mut files = Vec::new();
        for shard in file::list(&self.path(kind))? {
            let prefix = name(&shard);
            if !shard.is_dir() {
                self.wrong(&shard, "is not a directory", Remedy::TakeOut)?;
                continue;
            }
            for path in file::list(&shard)? {
                let name = name(&path);
                let hex = match kind {
                    "trees" => Some(format!("{prefix}{name}")),
                    _ => name
                        .strip_suffix(suffix)
                        .filter(|hex| hex.starts_with(&prefix))
                        .map(str::to_owned),
                };
                match hex.filter(|hex| hex.len() == 64 && prefix.len() == 2 && is_hex(hex)) {
                    Some(hex) => files.push((path, hex)),
                    None => self.wrong(&path, "has a name nothing goes by", Remedy::TakeOut)?,
                }
            }
        }
        Ok(files)
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        for (path, hex) in self.sharded("blobs/sha256", "")? {
            self.count("blobs");
            match blobs::digest_of(&path) {
                Ok(digest) if digest.hex() == hex => {}
                Ok(digest) => {
                    let what = format!("has the content of {digest}");
                    self.wrong(&path, what, Remedy::TakeOut)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.wrong(&path, format!("cannot be read: {error}"), Remedy::TakeOut)?;
                }
            }
        }
        Ok(())
    }

    fn trees(&mut self) -> Result<(), StoreError> {
        for (path, hex) in self.sharded("trees", "")? {
            self.count("tree objects");
            let Ok(id) = hex.parse::<TreeId>() else {
                continue;
            };
            match self.store.trees().on_disk(&id) {
                Ok(dir) => {
                    self.links.insert(id, child_trees(&dir).collect());
                }
                Err(TreeError::Missing { .. }) => {}
                Err(TreeError::Io { source, .. }) => {
                    self.wrong(&path, format!("cannot be read: {source}"), Remedy::TakeOut)?;
                }
                Err(_) => {
                    let what = "does not hold what its name says";
                    self.wrong(&path, what, Remedy::TakeOut)?;
                }
            }
        }
        Ok(())
    }

    /// The first object below `root`, or itself, that is not there or damaged.
    fn lacking(&mut self, root: &TreeId) -> Option<TreeId> {
        // Children before parents: an object met a second time has had its children looked at.
        let mut stack = vec![(*root, false)];
        while let Some((id, ready)) = stack.pop() {
            if self.lacks.contains_key(&id) {
                continue;
            }
            let links = match self.links.entry(id) {
                hash_map::Entry::Occupied(known) => known.into_mut(),
                // Builds go on: it may be younger than the list of all objects.
                hash_map::Entry::Vacant(new) => match self.store.trees().on_disk(&id) {
                    Ok(dir) => new.insert(child_trees(&dir).collect()),
                    Err(_) => {
                        self.lacks.insert(id, Some(id));
                        continue;
                    }
                },
            };
            if ready {
                let first = links.iter().find_map(|id| self.lacks.get(id).copied()?);
                self.lacks.insert(id, first);
            } else {
                stack.push((id, true));
                stack.extend(links.iter().map(|id| (*id, false)));
            }
        }
        self.lacks.get(root).copied()?
    }

    fn known(&mut self) -> Result<(), StoreError> {
        for (path, _) in self.sharded("known", ".json")? {
            self.count("other files");
            let Some(known) = self.json::<KnownLayer>(&path)? else {
                continue;
            };
            if let Some(id) = self.lacking(&known.layer.tree) {
                let what = format!("names tree {id}, which is missing or damaged");
                self.wrong(&path, what, Remedy::TakeOut)?;
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), StoreError> {
        for (path, hex) in self.sharded("records", "")? {
            self.count("records");
            let Some(bytes) = self.bytes(&path)? else {
                continue;
            };
            let key = hex.parse::<CacheKey>().ok();
            let record = records::decode(&bytes).filter(|record| Some(record.key) == key);
            let Some(record) = record else {
                self.wrong(&path, "is not as it was written", Remedy::TakeOut)?;
                continue;
            };
            if record.record.key() != record.key {
                let what = "has another key than its fields make";
                self.wrong(&path, what, Remedy::TakeOut)?;
            } else if let Some(id) = self.lacking_of(&record) {
                let what = format!(
                    "names tree {id}, which is missing or damaged (`{}`)",
                    record.name
                );
                self.wrong(&path, what, Remedy::TakeOut)?;
            }
        }
        Ok(())
    }

    fn lacking_of(&mut self, record: &Record) -> Option<TreeId> {
        for snapshot in &record.outputs {
            let layers = snapshot.layers.iter().filter(|layer| layer.is_read());
            let mut trees = layers.map(|layer| layer.layer.tree).collect::<Vec<_>>();
            trees.push(snapshot.root.tree);
            if let Some(id) = trees.iter().find_map(|id| self.lacking(id)) {
                return Some(id);
            }
        }
        None
    }

    /// What a file holds; nothing if it is gone.
    fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        file::if_there(path, file::peek(path))
    }

    /// A value that was written as JSON; nothing if it is damaged, or gone.
    fn json<T: serde::de::DeserializeOwned>(
        &mut self,
        path: &Path,
    ) -> Result<Option<T>, StoreError> {
        match file::peek_json(path) {
            Err(StoreError::Damaged { source, .. }) => {
                let what = format!("is not as it was written: {source}");
                self.wrong(path, what, Remedy::TakeOut)?;
                Ok(None)
            }
            read => read,
        }
    }

    fn small_files(&mut self) -> Result<(), StoreError> {
        for (path, _) in self.sharded("layer-blobs", ".json")? {
            self.count("other files");
            self.json::<LayerBlobs>(&path)?;
        }
        for (path, _) in self.sharded("pins", ".json")? {
            self.count("other files");
            self.json::<StoredPin>(&path)?;
        }
        for (path, _) in self.sharded("urls", ".json")? {
            self.count("other files");
            self.json::<StoredUrl>(&path)?;
        }
        for (path, hex) in self.sharded("frames", "")? {
            self.count("other files");
            let Some(table) = self.bytes(&path)? else {
                continue;
            };
            let digest = format!("sha256:{hex}").parse::<OciDigest>();
            let blob = digest.map(|digest| fs::metadata(self.store.blobs().path(&digest)));
            match FrameTable::decode(&table) {
                None => self.wrong(&path, "is not as it was written", Remedy::TakeOut)?,
                Some(table) => {
                    if let Ok(Ok(blob)) = blob
                        && blob.len() != table.size()
                    {
                        let what = "is the table of a blob of another size";
                        self.wrong(&path, what, Remedy::TakeOut)?;
                    }
                }
            }
        }
        for (path, _) in self.sharded("slots", "")? {
            self.count("other files");
            let key = self.bytes(&path)?;
            if key.is_some_and(|bytes| records::key_in_slot(&bytes).is_none()) {
                self.wrong(&path, "is not the key of a record", Remedy::TakeOut)?;
            }
        }
        for (path, _) in self.sharded("near", "")? {
            self.count("other files");
            let layer = self.bytes(&path)?.map(|hex| {
                let hex = String::from_utf8(hex).ok()?;
                hex.parse::<TreeId>().ok()
            });
            if layer == Some(None) {
                self.wrong(&path, "is not the name of a layer", Remedy::TakeOut)?;
            }
        }
        for path in file::list(&self.path("builds"))? {
            self.count("other files");
            let damaged = |bytes: Vec<u8>| builds::decode(&bytes).is_none();
            if self.bytes(&path)?.is_some_and(damaged) {
                self.wrong(&path, "is not as it was written", Remedy::TakeOut)?;
            }
        }
        for path in file::list(&self.path("stats"))? {
            self.count("other files");
            let damaged = |bytes: Vec<u8>| stat::is_damaged(&bytes);
            if self.bytes(&path)?.is_some_and(damaged) {
                self.wrong(&path, "is not as it was written", Remedy::TakeOut)?;
            }
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<(), StoreError> {
        for mount in file::list(&self.path("mounts"))? {
            self.count("cache mounts");
            if !mount.is_dir() {
                self.wrong(&mount, "is not a directory", Remedy::Leave)?;
                continue;
            }
            let Some(_unused) = self.store.lock_unused(&mount)? else {
                // What it lacks, a step may have been lent.
                continue;
            };
            let data = mount.join(mounts::DATA);
            if !data.is_dir()
                && let Some(at) = self.store.lent_to(&data)
            {
                let repaired = self.options.repair && self.store.bring_back(&data)?;
                if repaired || self.store.path().join(at).is_dir() {
                    self.found.problems.push(Problem {
                        path: mount.clone(),
                        what: "has its files in the root of a step that was killed".to_owned(),
                        repaired,
                    });
                    continue;
                }
            }
            let absent = |part: &&&str| {
                let found = fs::symlink_metadata(mount.join(part));
                found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            };
            if let Some(part) = mounts::PARTS.iter().find(absent) {
                // Unless it was removed meanwhile, as a whole.
                if mount.is_dir() {
                    self.wrong(&mount, format!("lacks `{part}`"), Remedy::TakeOut)?;
                }
                continue;
            }
            let what = match file::peek_json::<CacheMountName>(&mount.join(mounts::ABOUT)) {
                Ok(Some(name)) if !name.is_of(&mount) => {
                    format!("has the name of another (`{}`)", name.id)
                }
                Ok(Some(_)) => continue,
                Ok(None) => format!("lacks `{}`", mounts::ABOUT),
                Err(StoreError::Damaged { source, .. }) => {
                    format!("does not tell its name: {source}")
                }
                Err(error) => return Err(error),
            };
            let id = name(&mount);
            let what = format!("{what}; `rbuild prune --filter id={id}` removes it");
            self.wrong(&mount, what, Remedy::Leave)?;
        }
        Ok(())
    }

    fn failures(&mut self) -> Result<(), StoreError> {
        for failure in file::list(&self.path(FAILURES))? {
            self.count("failed steps");
            let about = failure.join(failures::ABOUT);
            let Some(step) = self.failed_step(&failure, &about)? else {
                continue;
            };
            let absent = |dir: &&str| !failure.join(dir).is_dir();
            if let Some(dir) = step.wrote.directory().filter(absent) {
                self.wrong(&failure, format!("lacks `{dir}`"), Remedy::TakeOut)?;
            } else if let Some(id) = step.trees().find_map(|id| self.lacking(&id)) {
                let what = format!(
                    "stands on tree {id}, which is missing or damaged (`{}`)",
                    step.name
                );
                self.wrong(&failure, what, Remedy::TakeOut)?;
            }
        }
        Ok(())
    }

    /// What is told of a failed step; nothing if it cannot be, or it was removed meanwhile.
    fn failed_step(&mut self, dir: &Path, about: &Path) -> Result<Option<FailedStep>, StoreError> {
        let what = match file::peek_json(about) {
            Ok(None) if !dir.exists() => return Ok(None),
            Ok(None) => format!("lacks `{}`", failures::ABOUT),
            Err(StoreError::Damaged { source, .. }) => {
                format!("is not as it was written: {source}")
            }
            read => return read,
        };
        self.wrong(dir, what, Remedy::TakeOut)?;
        Ok(None)
    }

    /// What builds that were killed left.
    fn left_behind(&mut self) -> Result<(), StoreError> {
        let mut count = 0;
        for kind in ["tmp", "leases", "running"] {
            let list = file::list(&self.path(kind))?;
            let dead = |path: &&PathBuf| path.extension().is_none() && !Locked::is_held(path);
            count += list.iter().filter(dead).count();
        }
        count += file::list(&self.path("trash"))?.len();
        count -= usize::from(self.trash.is_some());
        if count > 0 {
            self.found.notes.push(format!(
                "{count} left behind by what was interrupted; the next `rbuild prune` removes them"
            ));
        }
        if self.closed > 0 {
            self.found.notes.push(format!(
                "{} directories of layers belong to other users and were not looked into",
                self.closed
            ));
        }
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
