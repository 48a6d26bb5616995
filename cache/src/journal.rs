//! Durability without a sync on anybody's path.
//!
//! A rename alone is not durable: after a power cut a renamed file may have 0 bytes. So everything that is published
//! is first noted, one path a line, in a journal named after the boot, `unsynced/<boot id>`. A later [`settle`] sets
//! the journal aside, calls `syncfs(2)` once and removes it. A journal of another boot means that the machine went
//! down before that: what it names may be damaged, and is removed when the store is next opened.
//!
//! [`settle`]: Journal::settle

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use crate::file;
use crate::store::StoreError;

/// The journal of this boot.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    store: PathBuf,
    path: PathBuf,
    open: Arc<Mutex<Option<File>>>,
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
        for journal in file::list(&dir)? {
            let name = journal
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !name.starts_with(boot) {
                discard(store, &journal)?;
            }
        }
        Ok(Self {
            store: store.to_owned(),
            path: dir.join(boot),
            open: Arc::default(),
        })
    }

    /// Notes that `path`, inside the store, is about to be published.
    pub(crate) fn note(&self, path: &Path) -> Result<(), StoreError> {
        let relative = path.strip_prefix(&self.store).unwrap_or(path);
        let mut line = relative.as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        let mut open = self
            .open
            .lock()
            .expect("nothing panics while the journal is locked");
        if open.is_none() {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path);
            *open = Some(file.map_err(StoreError::io("open", &self.path))?);
        }
        let journal = open.as_mut().expect("it was opened just now");
        journal
            .write_all(&line)
            .map_err(StoreError::io("write", &self.path))
    }

    /// Whether something was noted through this handle.
    pub(crate) fn has_notes(&self) -> bool {
        self.open
            .lock()
            .expect("nothing panics while the journal is locked")
            .is_some()
    }

    /// Makes what was noted so far durable.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(name);
        // What is noted from here on goes to a new journal; another process' handle still appends to this one, so
        // nothing it publishes after the sync may be forgotten: its notes are carried over.
        match fs::rename(&self.path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("rename", &self.path)(error)),
        }
        *self
            .open
            .lock()
            .expect("nothing panics while the journal is locked") = None;
        let before = fs::metadata(&aside)
            .map_err(StoreError::io("read", &aside))?
            .len();
        let dir = File::open(&self.store).map_err(StoreError::io("open", &self.store))?;
        rustix::fs::syncfs(&dir)
            .map_err(|error| StoreError::io("sync", &self.store)(error.into()))?;
        let notes = fs::read(&aside).map_err(StoreError::io("read", &aside))?;
        if let Some(late) = notes.get(before as usize..).filter(|late| !late.is_empty()) {
            let mut journal = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)
                .map_err(StoreError::io("open", &self.path))?;
            journal
                .write_all(late)
                .map_err(StoreError::io("write", &self.path))?;
        }
        fs::remove_file(&aside).map_err(StoreError::io("remove", &aside))
    }
}

/// Removes what a journal of another boot names.
fn discard(store: &Path, journal: &Path) -> Result<(), StoreError> {
    let notes = fs::read(journal).map_err(StoreError::io("read", journal))?;
    for line in notes.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let relative = Path::new(std::ffi::OsStr::from_bytes(line));
        // Notes are our own, but a damaged one must not lead outside.
        let inside = relative
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            continue;
        }
        let path = store.join(relative);
        if path.is_dir() {
            let trash = store
                .join("trash")
                .join(format!("boot-{}", rand_name(&path)));
            drop(fs::rename(&path, &trash));
            drop(fs::remove_dir_all(&trash));
        } else {
            drop(fs::remove_file(&path));
        }
    }
    fs::remove_file(journal).map_err(StoreError::io("remove", journal))
}

fn rand_name(path: &Path) -> String {
    blake3::hash(path.as_os_str().as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod t {
    use super::*;

    fn store() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["unsynced", "trash", "records"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        dir
    }

    #[test]
    fn what_another_boot_left_unsynced_is_garbage() {
        let store = store();
        let published = |name: &str| store.path().join("records").join(name);
        let first = Journal::open_as(store.path(), "boot-a").unwrap();
        for name in ["settled", "lost"] {
            first.note(&published(name)).unwrap();
            fs::write(published(name), "").unwrap();
            if name == "settled" {
                first.settle().unwrap();
                assert!(!first.path.exists());
            }
        }
        fs::create_dir(published("dir")).unwrap();
        first.note(&published("dir")).unwrap();
        fs::write(published("unrelated"), "").unwrap();
        assert!(first.path.exists());

        Journal::open_as(store.path(), "boot-a").unwrap();
        assert!(published("lost").exists(), "the same boot loses nothing");
        let second = Journal::open_as(store.path(), "boot-b").unwrap();
        let left: Vec<bool> = ["settled", "lost", "dir", "unrelated"]
            .map(|name| published(name).exists())
            .into();
        assert_eq!(left, [true, false, false, true]);
        assert!(!second.has_notes());
    }

    #[test]
    fn a_damaged_note_leads_nowhere_else() {
        let store = store();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let notes = format!(
            "../../../../../../..{}\n{}\n",
            outside.path().display(),
            outside.path().display()
        );
        fs::write(store.path().join("unsynced/boot-a"), notes).unwrap();
        Journal::open_as(store.path(), "boot-b").unwrap();
        assert!(outside.path().exists());
    }
}
