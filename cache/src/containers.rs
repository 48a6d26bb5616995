//! Processes that `rbuild run -d` left running, and what they wrote.
//!
//! ```text
//! $RBUILD_ROOT/containers/ID/   beside the store proper: no step depends on them
//!   log                         standard output and error
//!   pid                         the process that waits for the container's; locked while it lives
//! ```
//!
//! A number of a process is believed only while the file it stands in is locked.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::flock;
use crate::flock::How;
use crate::store::StoreError;

/// Their directory, below the root of the store.
pub(crate) const CONTAINERS: &str = "containers";

/// How many that have ended keep their logs.
const KEPT: usize = 20;

/// One that was started.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
}

/// Held by the process that waits for the container's.
#[derive(Debug)]
pub struct Alive {
    _locked: File,
}

impl Container {
    /// Makes a place for a new one in the directory of the store, and removes the logs of old ones.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        let all = root.join(CONTAINERS);
        tidy(&all);
        let mut random = [0_u8; 6];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .map_err(StoreError::io("read", Path::new("/dev/urandom")))?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let dir = all.join(id);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(StoreError::io("create", &dir))?;
        Ok(Self { dir })
    }

    /// The one whose id begins with `id`.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn find(root: &Path, id: &str) -> Result<Option<Self>, StoreError> {
        let all = root.join(CONTAINERS);
        let found = list(&all).map_err(StoreError::io("list", &all))?;
        let mut found = found.into_iter().filter(|dir| {
            let name = dir.file_name().unwrap_or_default();
            !id.is_empty() && name.as_encoded_bytes().starts_with(id.as_bytes())
        });
        Ok(match (found.next(), found.next()) {
            (Some(dir), None) => Some(Self { dir }),
            _ => None,
        })
    }

    /// Its id.
    pub fn id(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Where it writes to.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Says that this process waits for it, from now on.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn claim(&self) -> Result<Alive, StoreError> {
        let path = self.dir.join("pid");
        let mut file = flock::open(&path)?;
        // Waits only for who is just finding out whether it is claimed.
        flock::lock(&file, How::Alone, &path)?;
        write!(file, "{}", std::process::id()).map_err(StoreError::io("write", &path))?;
        Ok(Alive { _locked: file })
    }

    /// The process that waits for it, as long as it lives.
    pub fn process(&self) -> Option<rustix::process::Pid> {
        let path = self.dir.join("pid");
        let mut file = File::open(&path).ok()?;
        // What cannot be locked for whatever reason is taken for somebody's.
        if let Ok(true) = flock::try_lock(&file, How::Shared, &path) {
            return None;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        rustix::process::Pid::from_raw(text.parse().ok()?)
    }
}

fn list(all: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Removes the oldest of those that have ended. What cannot be removed stays.
fn tidy(all: &Path) {
    let mut ended: Vec<(std::time::SystemTime, PathBuf)> = list(all)
        .unwrap_or_default()
        .into_iter()
        .filter(|dir| Container { dir: dir.clone() }.process().is_none())
        .filter_map(|dir| Some((fs::metadata(&dir).ok()?.modified().ok()?, dir)))
        .collect();
    ended.sort();
    let surplus = ended.len().saturating_sub(KEPT);
    for (_, dir) in ended.drain(..surplus) {
        drop(fs::remove_dir_all(dir));
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn one_is_found_by_what_its_id_begins_with_while_it_is_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        let find = |id: &str| Container::find(root.path(), id).unwrap().map(|c| c.id());
        assert_eq!(find("a"), None);
        for id in ["ab12", "ac34"] {
            fs::create_dir_all(root.path().join("containers").join(id)).unwrap();
        }
        assert_eq!(find("ab").as_deref(), Some("ab12"));
        assert_eq!(find("a"), None);
        assert_eq!(find(""), None);
        assert_eq!(find("../"), None);
    }

    #[test]
    fn it_has_a_process_as_long_as_that_holds_on() {
        let root = tempfile::tempdir().unwrap();
        let container = Container::create(root.path()).unwrap();
        assert_eq!(container.process(), None);
        let alive = container.claim().unwrap();
        let own = rustix::process::getpid();
        assert_eq!(container.process(), Some(own));
        drop(alive);
        assert_eq!(container.process(), None);
    }

    #[test]
    fn who_looks_whether_it_lives_keeps_nobody_from_claiming_it() {
        let root = tempfile::tempdir().unwrap();
        let container = Container::create(root.path()).unwrap();
        let pid = container.dir.join("pid");
        let looking = flock::open(&pid).unwrap();
        flock::lock(&looking, How::Shared, &pid).unwrap();
        std::thread::scope(|scope| {
            let claiming = scope.spawn(|| container.claim());
            assert!(!claiming.is_finished());
            drop(looking);
            drop(claiming.join().unwrap().unwrap());
        });
    }

    #[test]
    fn logs_of_the_last_ones_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let first = Container::create(root.path()).unwrap();
        let alive = first.claim().unwrap();
        for _ in 0..KEPT + 2 {
            Container::create(root.path()).unwrap();
        }
        let left = || list(&root.path().join("containers")).unwrap().len();
        assert_eq!(
            left(),
            KEPT + 2,
            "twenty, the last one and the one that lives"
        );
        drop(alive);
    }
}
