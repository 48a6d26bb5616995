//! Directories sent to a map in memory and brought back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::dir::ScanKind;
use crate::dir::scan_dir;
use crate::tree::TreeRef;

/// A place that packs are sent to.
#[derive(Default)]
struct Place {
    blobs: Mutex<BTreeMap<OciDigest, Vec<u8>>>,
    /// Bytes that were sent.
    sent: Mutex<u64>,
}

struct Fixture {
    dir: tempfile::TempDir,
    trees: Trees,
    place: Place,
    packed: PackedFiles,
    tree: Option<TreeRef>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mount")).unwrap();
        let trees = Trees::open(&dir.path().join("trees"));
        Self {
            dir,
            trees,
            place: Place::default(),
            packed: PackedFiles::default(),
            tree: None,
        }
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.mount().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Sends the directory, and says how many bytes of packs that took.
    fn send(&mut self) -> u64 {
        let never = CancelToken::new();
        let tree = scan_dir(&self.trees, &self.mount(), ScanKind::Plain, &never).unwrap();
        let has = |pack: &Pack| Ok(self.place.blobs.lock().unwrap().contains_key(&pack.digest));
        let put = |pack: &Pack, bytes: &[u8]| {
            *self.place.sent.lock().unwrap() += bytes.len() as u64;
            let mut blobs = self.place.blobs.lock().unwrap();
            assert!(blobs.insert(pack.digest, bytes.to_vec()).is_none());
            Ok::<(), LayerError>(())
        };
        let packed = PackedFiles::pack(
            &self.trees,
            &tree.tree,
            &self.mount(),
            &self.packed,
            has,
            put,
            &never,
        );
        let packed = packed.unwrap();
        // As it comes back from elsewhere.
        let list = packed.to_bytes(&self.trees, &tree.tree).unwrap();
        let packs = packed.packs.clone();
        let read = PackedFiles::parse(&list, packs, &self.trees, &tree.tree).unwrap();
        assert_eq!(read, packed);
        self.packed = packed;
        self.tree = Some(tree);
        std::mem::take(&mut *self.place.sent.lock().unwrap())
    }

    /// Brings it back, with the packs as `damage` leaves them.
    fn bring_back(&self, damage: impl Fn(&mut Vec<u8>)) -> Result<PathBuf, LayerError> {
        let into = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let packs = tempfile::tempfile().unwrap();
        for (pack, start) in self.packed.packs.iter().zip(self.packed.starts()) {
            let blob = self.place.blobs.lock().unwrap()[&pack.digest].clone();
            let mut bytes = zstd::decode_all(blob.as_slice()).unwrap();
            damage(&mut bytes);
            let blob = zstd::encode_all(bytes.as_slice(), 1).unwrap();
            match pack.open(blob.as_slice(), &packs, start) {
                Ok(()) => {}
                Err(PackError::Read(source)) => return Err(failed("read", b"", source)),
                Err(PackError::Write(error)) => panic!("{error}"),
            }
        }
        let tree = self.tree.unwrap().tree;
        let owners = Ownership::Logical;
        let never = CancelToken::new();
        self.packed
            .write(&self.trees, &tree, &into, &packs, owners, &never)?;
        Ok(into)
    }

    /// What comes back is what is there.
    fn check(&self) {
        let back = self.bring_back(|_| {}).unwrap();
        let never = CancelToken::new();
        let found = scan_dir(&self.trees, &back, ScanKind::Plain, &never).unwrap();
        assert_eq!(Some(found), self.tree);
    }
}

/// Bytes that cannot be compressed and are the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_directory_comes_back_as_it_is() {
    let mut fixture = Fixture::new();
    fixture.write("a/small", b"small");
    fixture.write("a/empty", b"");
    fixture.write("b/large", &noise(1, 3_000_000));
    fixture.write("b/same", b"small");
    let mount = fixture.mount();
    std::os::unix::fs::symlink("../b/large", mount.join("a/link")).unwrap();
    fs::hard_link(mount.join("b/large"), mount.join("a/large")).unwrap();
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(mount.join("a/small"), mode(0o4750)).unwrap();
    fs::set_permissions(mount.join("a"), mode(0o555)).unwrap();
    let old = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(981_173_106, 7));
    let file = File::options().write(true).open(mount.join("b/same"));
    file.unwrap().set_times(old).unwrap();
    assert!(fixture.send() >= 3_000_000);
    fixture.check();
    let back = fixture.bring_back(|_| {}).unwrap();
    let same = fs::metadata(back.join("b/same")).unwrap();
    assert_eq!((same.mtime(), same.mtime_nsec()), (981_173_106, 7));
    assert_eq!(fs::metadata(back.join("a/large")).unwrap().nlink(), 2);
    for dir in [mount.join("a"), back.join("a")] {
        fs::set_permissions(dir, mode(0o755)).unwrap();
    }
    // The same again needs nothing.
    fs::set_permissions(mount.join("a"), mode(0o555)).unwrap();
    assert_eq!(fixture.send(), 0);
    fs::set_permissions(mount.join("a"), mode(0o755)).unwrap();
}

#[test]
fn what_changed_is_sent_and_nothing_else() {
    let mut fixture = Fixture::new();
    let mut large = noise(1, 20_000_000);
    fixture.write("large", &large);
    for at in 0..500 {
        fixture.write(&format!("files/{at}"), &noise(1000 + at, 20_000));
    }
    let all = fixture.send();
    assert!((30_000_000..30_100_000).contains(&all), "{all}");
    // Put into the middle, so that everything behind it is elsewhere.
    large.splice(9_000_000..9_000_000, *b"a few words");
    fixture.write("large", &large);
    let few = fixture.send();
    assert!((16 << 10..3 * (256 << 10)).contains(&few), "{few}");
    fixture.check();
    fixture.write("files/7", &noise(2, 20_000));
    fs::remove_file(fixture.mount().join("files/8")).unwrap();
    fs::rename(
        fixture.mount().join("files/9"),
        fixture.mount().join("renamed"),
    )
    .unwrap();
    let one = fixture.send();
    assert!((20_000..20_100).contains(&one), "{one}");
    fixture.check();
}

#[test]
fn packs_that_are_hardly_used_and_many_small_ones_are_packed_again() {
    let mut fixture = Fixture::new();
    let file = |at: u64| format!("{at:03}");
    for at in 0..100 {
        fixture.write(&file(at), &noise(at, 50_000));
    }
    fixture.send();
    assert_eq!(fixture.packed.packs.len(), 1);
    for at in 0..45 {
        fs::remove_file(fixture.mount().join(file(at))).unwrap();
    }
    assert_eq!(fixture.send(), 0);
    for at in 45..60 {
        fs::remove_file(fixture.mount().join(file(at))).unwrap();
    }
    let again = fixture.send();
    assert!((2_000_000..2_010_000).contains(&again), "{again}");
    assert_eq!(fixture.packed.packs.len(), 1);
    let mut most = 0;
    for at in 200..260 {
        fixture.write(&file(at), &noise(at, 5_000));
        fixture.send();
        most = most.max(fixture.packed.packs.len());
    }
    assert_eq!(most, 1 + MANY);
    fixture.check();
}

#[test]
fn a_pack_that_is_no_longer_there_is_made_again() {
    let mut fixture = Fixture::new();
    fixture.write("a", &noise(1, 10_000_000));
    fixture.write("b", &noise(2, 100_000));
    fixture.send();
    let gone = fixture.packed.packs[0];
    fixture.place.blobs.lock().unwrap().remove(&gone.digest);
    let again = fixture.send();
    assert!(
        again >= gone.size && again < gone.size + 1_000_000,
        "{again}"
    );
    fixture.check();
}

#[test]
fn what_changes_meanwhile_is_not_sent() {
    let fixture = Fixture::new();
    fixture.write("small", b"small");
    fixture.write("large", &noise(1, 1_000_000));
    let never = CancelToken::new();
    let tree = scan_dir(&fixture.trees, &fixture.mount(), ScanKind::Plain, &never).unwrap();
    for (name, bytes) in [("small", b"Small".to_vec()), ("large", noise(2, 1_000_000))] {
        let before = fs::read(fixture.mount().join(name)).unwrap();
        fixture.write(name, &bytes);
        let packed = PackedFiles::pack(
            &fixture.trees,
            &tree.tree,
            &fixture.mount(),
            &PackedFiles::default(),
            |_| Ok(true),
            |_, _| Ok(()),
            &never,
        );
        let error: LayerError = packed.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`{name}` changed while it was read")
        );
        fixture.write(name, &before);
    }
}

#[test]
fn what_comes_in_is_compared() {
    let mut fixture = Fixture::new();
    fixture.write("file", b"some bytes");
    fixture.send();
    for damage in [
        (|bytes: &mut Vec<u8>| bytes[3] = b'x') as fn(&mut Vec<u8>),
        |bytes| bytes.truncate(5),
    ] {
        fixture.bring_back(damage).unwrap_err();
    }
    let tree = fixture.tree.unwrap().tree;
    let list = fixture.packed.to_bytes(&fixture.trees, &tree).unwrap();
    let list = zstd::decode_all(list.as_slice()).unwrap();
    let pack = fixture.packed.packs[0];
    let changed = |at: usize, number: u32| {
        let mut list = list.clone();
        list[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
        list
    };
    let long = Pack {
        length: MOST + 1,
        ..pack
    };
    let outside = "has a piece outside of the packs for `file`";
    for (list, pack, problem) in [
        (list[..7].to_vec(), pack, "ends too early for `file`"),
        (changed(0, 9), pack, "ends too early for `file`"),
        (
            changed(0, 0),
            pack,
            "has another number of bytes for `file`",
        ),
        (changed(1, 1), pack, outside),
        (changed(2, 1), pack, outside),
        (changed(2, u32::MAX), pack, outside),
        (
            changed(3, 9),
            pack,
            "has another number of bytes for `file`",
        ),
        (
            [&list[..], &list[..]].concat(),
            pack,
            "has more pieces than the tree has files",
        ),
        (list.clone(), long, "has a pack that is too long"),
    ] {
        let packed = zstd::encode_all(list.as_slice(), 1).unwrap();
        let parsed = PackedFiles::parse(&packed, vec![pack], &fixture.trees, &tree);
        assert_eq!(parsed.unwrap_err(), problem);
    }
    let twice = PackedFiles::parse(b"", vec![pack, pack], &fixture.trees, &tree);
    assert_eq!(twice.unwrap_err(), "has a pack twice");
    let parsed = PackedFiles::parse(b"none", vec![pack], &fixture.trees, &tree);
    assert_eq!(parsed.unwrap_err(), "ends too early for `file`");
    let blob = fixture.place.blobs.lock().unwrap()[&pack.digest].clone();
    let to = tempfile::tempfile().unwrap();
    for wrong in [Pack { length: 9, ..pack }, Pack { length: 11, ..pack }] {
        let opened = wrong.open(blob.as_slice(), &to, 0);
        assert!(matches!(opened, Err(PackError::Read(_))));
    }
}
