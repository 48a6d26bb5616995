//! Durability without a sync on anybody's path.
//!
//! A rename alone is not durable: after a power cut a file that was renamed into its place may have 0 bytes, or some
//! of them. So there is a mark, `unsynced/<boot id>`, as long as something was published that no `syncfs(2)` has
//! covered. A mark of another boot means that the machine went down before that; what was published since the mark was
//! made is then looked through when the store is next opened.
//!
//! Three things make this hold:
//!
//! - Whoever publishes first writes the data, then sees to the mark, then renames ([`Journal::write`] does; a
//!   directory form is complete before [`Journal::note`]). [`Journal::settle`] first takes the mark away, then syncs: data that was
//!   written before a mark was seen is covered by the sync that follows that mark's end.
//! - The mark is a name. File systems that lose data of renamed files commit names in order (ext4, XFS, btrfs), so
//!   that no file is found in its place without the mark that was made before it. A list of what was published would
//!   be data, and lost together with it.
//! - What was published is told by its ctime, which no program can set; that of a directory form or a cache mount is its
//!   directory's, which was renamed into its place and has not changed since, whatever was written below it. The clock may be
//!   set back, which is what [`SLACK`] is for.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::blobs;
use crate::file;
use crate::flock;
use crate::flock::How;
use crate::store::StoreError;
use crate::tree::Trees;

/// How much earlier than the mark a file may claim to be from and still be looked at, in seconds.
const SLACK: i64 = 60;

/// What a power cut may have damaged, without which a build only takes longer: removed. Trees are not here: they are looked
/// into, since what was made before names them as well.
const DISPENSABLE: [&str; 13] = [
    "layers",
    "near",
    "layer-blobs",
    "frames",
    "known",
    "records",
    "slots",
    "builds",
    "pins",
    "urls",
    "stats",
    "mounts",
    "failures",
];

/// The marks of a store.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    store: PathBuf,
    mark: PathBuf,
    noted: Arc<AtomicBool>,
}

impl Journal {
    /// Opens the journal of this boot, and cleans up after a boot that ended badly.
    pub(crate) fn open(store: &Path) -> Result<Self, StoreError> {
        let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot_id).unwrap_or_else(|_| "no-boot-id".to_owned());
        Self::open_as(store, boot.trim())
    }

    pub(crate) fn open_as(store: &Path, boot: &str) -> Result<Self, StoreError> {
        let dir = store.join("unsynced");
        if !foreign(&dir, boot)?.is_empty() {
            let _lock = lock(&dir)?;
            // Another process may have done it while this one waited.
            for mark in foreign(&dir, boot)? {
                recover(store, &mark)?;
            }
        }
        Ok(Self {
            store: store.to_owned(),
            mark: dir.join(boot),
            noted: Arc::default(),
        })
    }

    /// Marks the store, whose new data has been written and is about to get its name.
    pub(crate) fn note(&self) -> Result<(), StoreError> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.mark)
            .map_err(StoreError::io("write", &self.mark))?;
        self.noted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether anything was published through this handle.
    pub(crate) fn has_notes(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    /// Publishes a small file: written aside, marked, renamed. Mode 0600. The directory is made if it is not there.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let parent = path.parent().unwrap_or(&self.store);
        let mut aside = file::aside(parent)?;
        aside
            .write_all(bytes)
            .map_err(StoreError::io("write", path))?;
        self.note()?;
        aside
            .persist(path)
            .map_err(|error| StoreError::io("write", path)(error.error))?;
        Ok(())
    }

    /// Gives a file that was published a second name, which takes the place of whatever has it; the directory is made if it is
    /// not there. Says whether it did: not where there are no hard links, or none of this file is left, or it is gone.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<bool, StoreError> {
        let parent = to.parent().unwrap_or(&self.store);
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        let aside = tempfile::Builder::new()
            .prefix(file::ASIDE)
            .make_in(parent, |aside| fs::hard_link(from, aside));
        let Ok(aside) = aside else {
            return Ok(false);
        };
        // rename(2) leaves both where they are names of one file: the name aside goes when this returns.
        fs::rename(aside.path(), to).map_err(StoreError::io("write", to))?;
        Ok(true)
    }

    /// Publishes a value as JSON.
    pub(crate) fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let bytes =
            serde_json::to_vec(value).expect("the store's own types can always be written as JSON");
        self.write(path, &bytes)
    }

    /// Makes what was published so far durable.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let dir = self.store.join("unsynced");
        // One at a time: a mark that was set aside and found here is that of a process which was killed.
        let _lock = lock(&dir)?;
        let boot = self.mark.file_name().unwrap_or_default().display();
        // Set aside, it still has the name of the boot in front, and so its meaning.
        let aside = tempfile::Builder::new()
            .prefix(&format!("{boot}."))
            .tempfile_in(&dir)
            .map_err(StoreError::io("create a file in", &dir))?
            .into_temp_path();
        match fs::rename(&self.mark, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("rename", &self.mark)(error)),
        }
        aside
            .keep()
            .map_err(|error| StoreError::io("keep", &dir)(error.error))?;
        let covered: Vec<PathBuf> = file::list(&dir)?
            .into_iter()
            .filter(|mark| *mark != self.mark && !is_foreign(mark, &boot.to_string()))
            .collect();
        let store = File::open(&self.store).map_err(StoreError::io("open", &self.store))?;
        // If this fails, what is not known to be on the disk stays marked.
        rustix::fs::syncfs(&store)
            .map_err(|error| StoreError::io("sync", &self.store)(error.into()))?;
        for mark in covered {
            fs::remove_file(&mark).map_err(StoreError::io("remove", &mark))?;
        }
        Ok(())
    }
}

/// Waits for, and holds, the lock of those who take marks away.
fn lock(dir: &Path) -> Result<File, StoreError> {
    flock::hold(dir, How::Alone)
}

/// Whether a mark is that of another boot: it is not called as this one, nor that with something after a dot.
fn is_foreign(mark: &Path, boot: &str) -> bool {
    let name = mark.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix(boot)
        .is_none_or(|rest| !rest.is_empty() && !rest.starts_with('.'))
}

/// The marks of other boots.
fn foreign(dir: &Path, boot: &str) -> Result<Vec<PathBuf>, StoreError> {
    let mut marks = file::list(dir)?;
    marks.retain(|mark| is_foreign(mark, boot));
    Ok(marks)
}

/// Removes what was published under a mark and may be damaged. Blobs, trees and images are looked into: images are made of
/// these, and the user's.
fn recover(store: &Path, mark: &Path) -> Result<(), StoreError> {
    let since = match fs::metadata(mark) {
        Ok(metadata) => metadata.mtime().saturating_sub(SLACK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("read", mark)(error)),
    };
    let suspect =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.ctime() >= since);
    for blob in file::below(&store.join("blobs/sha256"), 2)? {
        if suspect(&blob) && !is_whole(&blob) {
            discard(store, &blob)?;
        }
    }
    let trees = Trees::open(&store.join("trees"));
    for tree in file::below(&store.join("trees"), 2)? {
        let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
        let hex = tree.parent().map(name).unwrap_or_default() + &name(&tree);
        let whole = || hex.parse().is_ok_and(|id| trees.on_disk(&id).is_ok());
        if suspect(&tree) && !whole() {
            discard(store, &tree)?;
        }
    }
    for image in file::list(&store.join("images"))? {
        let good = |bytes: Vec<u8>| serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        if suspect(&image) && !fs::read(&image).is_ok_and(good) {
            discard(store, &image)?;
        }
    }
    for kind in DISPENSABLE {
        // Builds, stats, mounts and failures are in one directory; layers have one more level, the ownership domains. The time of a
        // mount is when it was made: what it began with may be damaged, what is written to it later is its users' affair.
        let depth = match kind {
            "builds" | "stats" | "mounts" | "failures" => 1,
            "layers" => 3,
            _ => 2,
        };
        for path in file::below(&store.join(kind), depth)? {
            if suspect(&path) {
                discard(store, &path)?;
            }
        }
    }
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", mark)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a blob has the content its name says.
fn is_whole(blob: &Path) -> bool {
    let digest = blobs::digest_of(blob);
    digest.is_ok_and(|digest| blob.file_name().is_some_and(|name| *name == *digest.hex()))
}

fn discard(store: &Path, path: &Path) -> Result<(), StoreError> {
    let gone = match path.is_dir() {
        false => fs::remove_file(path),
        true => {
            let trash = tempfile::tempdir_in(store.join("trash"));
            let trash = trash.map_err(StoreError::io("create a directory in", store))?;
            // Removed with it. What cannot be (files of ids that are not mapped here) waits there for gc.
            fs::rename(path, trash.path().join("form"))
        }
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn store() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "unsynced",
            "trash",
            "images",
            "blobs/sha256/2c",
            "layers/ab/abc/map",
            "mounts/abc.0/data",
            "failures/abc/upper",
        ] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        dir
    }

    const HELLO: &str =
        "blobs/sha256/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn what_another_boot_left_unsynced_is_looked_through() {
        let dir = store();
        let path = |name: &str| dir.path().join(name);
        let first = Journal::open_as(dir.path(), "boot-a").unwrap();
        assert!(!first.mark.exists());
        first.write(&path("records/ab/abcd"), b"1").unwrap();
        assert!(first.mark.exists());
        first.settle().unwrap();
        assert!(!first.mark.exists());
        first.settle().unwrap();
        assert_eq!(fs::read_dir(path("unsynced")).unwrap().count(), 0);

        let names = [
            "records/ab/abcd",
            "slots/cd/cdef",
            "images/good",
            "images/bad",
            HELLO,
            "blobs/sha256/2c/2c00",
        ];
        for name in names {
            let bytes: &[u8] = if name == "images/good" {
                b"{}"
            } else {
                b"hello"
            };
            first.write(&path(name), bytes).unwrap();
        }
        let left = |boot| -> Vec<bool> {
            Journal::open_as(dir.path(), boot).unwrap();
            let all = names
                .iter()
                .chain(&["layers/ab/abc/map", "mounts/abc.0", "failures/abc"]);
            all.map(|name| path(name).exists()).collect()
        };
        assert_eq!(left("boot-a"), [true; 9], "the same boot loses nothing");
        assert_eq!(
            left("boot-ab"),
            [false, false, true, false, true, false, false, false, false]
        );
        assert!(!first.mark.exists());
    }

    #[test]
    fn a_file_that_has_its_second_name_already_gets_no_third() {
        let dir = store();
        let path = |name: &str| dir.path().join(name);
        let journal = Journal::open_as(dir.path(), "boot-a").unwrap();
        journal.write(&path("records/ab/abcd"), b"1").unwrap();
        for _ in 0..2 {
            let linked = journal.link(&path("records/ab/abcd"), &path("slots/cd/cdef"));
            assert!(linked.unwrap());
        }
        assert_eq!(fs::read(path("slots/cd/cdef")).unwrap(), b"1");
        assert_eq!(fs::read_dir(path("slots/cd")).unwrap().count(), 1);
        let gone = journal.link(&path("records/ab/gone"), &path("slots/cd/cdef"));
        assert!(!gone.unwrap());
    }

    #[test]
    fn trees_are_looked_into() {
        let dir = store();
        let first = Journal::open_as(dir.path(), "boot-a").unwrap();
        let trees = Trees::open(&dir.path().join("trees"));
        let tree = trees.empty().tree;
        trees.persist(&tree).unwrap();
        let written = || file::below(&dir.path().join("trees"), 2).unwrap();
        let whole = written();
        assert_eq!(whole.len(), 2, "what `/` is, and that it is empty");
        first.note().unwrap();
        Journal::open_as(dir.path(), "boot-b").unwrap();
        assert_eq!(written(), whole);

        first.note().unwrap();
        // Its name alone: the other one leads to the same file.
        fs::remove_file(&whole[0]).unwrap();
        fs::write(&whole[0], "").unwrap();
        Journal::open_as(dir.path(), "boot-b").unwrap();
        assert_eq!(written(), whole[1..]);
    }

    #[test]
    fn what_was_synced_before_is_left_alone() {
        let dir = store();
        let record = dir.path().join("records/ab/abcd");
        let journal = Journal::open_as(dir.path(), "boot-a").unwrap();
        journal.write(&record, b"1").unwrap();
        // As if the mark had been made long after the record.
        let mark = File::options().write(true).open(&journal.mark).unwrap();
        let later = fs::metadata(&record).unwrap().modified().unwrap()
            + std::time::Duration::from_secs(1000);
        mark.set_modified(later).unwrap();
        Journal::open_as(dir.path(), "boot-b").unwrap();
        assert!(record.exists() && !journal.mark.exists());
    }

    #[test]
    fn a_sync_that_was_interrupted_leaves_its_mark() {
        let dir = store();
        let record = dir.path().join("records/ab/abcd");
        let journal = Journal::open_as(dir.path(), "boot-a").unwrap();
        journal.write(&record, b"1").unwrap();
        fs::rename(&journal.mark, dir.path().join("unsynced/boot-a.x1")).unwrap();
        Journal::open_as(dir.path(), "boot-a").unwrap();
        assert!(record.exists());
        Journal::open_as(dir.path(), "boot-b").unwrap();
        assert!(!record.exists());
    }
}
