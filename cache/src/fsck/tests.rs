use std::fs;
use std::fs::File;
use std::fs::FileTimes;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::KeyRecord;
use rbuild_llb::op::CacheSharing;
use serde_json::json;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::dir::ScanKind;
use crate::frame::Compression;
use crate::images::StoredImage;
use crate::layer::BlobOptions;
use crate::layer::LayerBlob;
use crate::layer::Layout;
use crate::mounts::CacheMountName;
use crate::records::CacheBackend as _;
use crate::records::LayerRef;
use crate::records::Record;
use crate::records::Snapshot;
use crate::tree::Meta;
use crate::tree::TreeRef;
use crate::wait::silently;

const LOOK: FsckOptions = FsckOptions {
    deep: false,
    repair: false,
};
const DEEP: FsckOptions = FsckOptions {
    deep: true,
    repair: false,
};
const REPAIR: FsckOptions = FsckOptions {
    deep: true,
    repair: true,
};

/// A store with one step's result in all its forms, and an image made of it.
struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    layer: TreeRef,
    blob: OciDigest,
    key: CacheKey,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let scratch = store.scratch().unwrap();
        let form = scratch.path().join("fs");
        fs::create_dir_all(form.join("etc")).unwrap();
        fs::write(form.join("etc/passwd"), "root\n").unwrap();
        std::os::unix::fs::symlink("passwd", form.join("etc/link")).unwrap();
        let cancel = CancelToken::new();
        let layer = crate::dir::scan_dir(store.trees(), &form, ScanKind::Upper, &cancel).unwrap();
        store.trees().persist(&layer.tree).unwrap();
        store.adopt_layer_dir(&layer.tree, "map", &form).unwrap();

        let blob = store.blobs().put(b"a layer's tar").unwrap();
        let made = LayerBlob {
            digest: blob,
            diff_id: blob,
            size: 13,
            tar_size: 13,
            compression: Compression::None,
            layout: Layout::Tar,
        };
        let options = BlobOptions {
            compression: Compression::None,
            clamp: None,
        };
        store.set_layer_blob(&layer.tree, &options, &made).unwrap();
        let known = KnownLayer {
            layer,
            diff_id: blob,
            tar_size: 13,
        };
        store.set_known_layer(&blob, &known).unwrap();

        let mut fields = KeyRecord::new("exec");
        fields.field("args", "true");
        let layers = vec![LayerRef {
            layer,
            origin: None,
            created: None,
            single: false,
        }];
        let record = Record {
            key: fields.key(),
            record: fields.clone(),
            slot: "slot".into(),
            outputs: vec![Snapshot {
                layers,
                root: layer,
            }],
            created: 0,
            duration_ms: 0,
            name: "RUN true".into(),
        };
        store.records().publish(&record).unwrap();

        let blobs = store.blobs();
        let config = blobs.put(b"{}").unwrap();
        let manifest = json!({
            "config": {"digest": config.to_string()},
            "layers": [{"digest": blob.to_string()}],
        });
        let manifest = blobs.put(manifest.to_string().as_bytes()).unwrap();
        let image = StoredImage {
            digest: manifest,
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            id: config,
            repo_digest: None,
            created: 0,
            size: 0,
            rung: None,
            referrers: Vec::new(),
        };
        store.images().set("app:1", &image).unwrap();
        Self {
            store,
            layer,
            blob,
            key: fields.key(),
            _dir: dir,
        }
    }

    /// A pin, something a URL gave, a place that is near, and a cache mount.
    fn pin_and_url(&self) {
        let pin = StoredPin {
            manifest: self.blob,
            index: None,
            checked: 0,
        };
        self.store.set_pin("alpine", &pin).unwrap();
        let url = StoredUrl {
            checksum: self.blob,
            digest: FileDigest::from_bytes([1; 32]),
            size: 13,
            etag: None,
            last_modified: None,
            modified: 0,
        };
        self.store.set_url("https://example.com/x", &url).unwrap();
    }

    fn mount(&self) -> PathBuf {
        let name = CacheMountName {
            id: "cargo".to_owned(),
            domain: "map".to_owned(),
            begins: String::new(),
        };
        let begin = |dir: &Path| fs::create_dir(dir).map_err(StoreError::io("create", dir));
        let never = CancelToken::new();
        let sharing = CacheSharing::Shared;
        let mount = self
            .store
            .cache_mount(&name, sharing, &begin, &never, &mut silently);
        mount.unwrap().unwrap().path().parent().unwrap().to_owned()
    }

    /// Leaves a mount as a step does that is killed, and says where its directory is.
    fn lend_mount(&self) -> PathBuf {
        let root = self.store.path().join("tmp/killed.d/root");
        fs::create_dir_all(&root).unwrap();
        let at = root.join("cache");
        crate::lend(self.store.path(), &self.mount().join("data"), &at).unwrap();
        at
    }

    fn find(&self, options: FsckOptions) -> Vec<String> {
        let found = self.store.fsck(options).unwrap();
        let shown = |problem: &Problem| {
            let path = problem.path.strip_prefix(self.store.path()).unwrap();
            let kind = path.iter().next().unwrap().to_string_lossy();
            format!("{kind}: {}", problem.what)
        };
        found.problems.iter().map(shown).collect()
    }

    fn first(&self, kind: &str) -> PathBuf {
        let depth = match kind {
            "stats" | "images" => 1,
            _ => 2,
        };
        let mut below = file::below(&self.store.path().join(kind), depth).unwrap();
        below.remove(0)
    }
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_store_that_is_right_has_nothing_wrong() {
    let fixture = Fixture::new();
    assert_eq!(fixture.find(DEEP), [""; 0]);
    // What builds that were killed leave is no damage.
    let path = |name: &str| fixture.store.path().join(name);
    fs::create_dir(path("tmp/dead.d")).unwrap();
    fs::write(path("tmp/dead"), "").unwrap();
    fs::write(path("leases/dead"), "").unwrap();
    fs::create_dir(path("running")).unwrap();
    fs::write(path("running/dead"), "").unwrap();
    fs::create_dir(path("trash/x")).unwrap();
    fs::write(path("images/.aside-x"), "half").unwrap();
    let found = fixture.store.fsck(DEEP).unwrap();
    assert_eq!(found.problems, []);
    assert!(
        found.notes[0].starts_with("4 left behind"),
        "{:?}",
        found.notes
    );
    // So is a form whose step did not get as far as its tree.
    fs::remove_file(
        fixture
            .store
            .path()
            .join("records")
            .join(&fixture.key.hex()[..2])
            .join(fixture.key.hex()),
    )
    .unwrap();
    fs::remove_file(fixture.store.known_path(&fixture.blob)).unwrap();
    fs::remove_file(fixture.store.trees().path(&fixture.layer.tree)).unwrap();
    assert_eq!(fixture.find(DEEP), [""; 0]);
}

#[test]
fn what_is_published_meanwhile_is_not_missing() {
    let fixture = Fixture::new();
    let trees = fixture.store.trees();
    let mut builder = TreeBuilder::new();
    let target = b"x".to_vec();
    builder.insert(b"a/b/link", Meta::default(), NewNode::Symlink { target });
    let new = builder.finish(trees);
    let mut fsck = Fsck::new(&fixture.store, LOOK);
    fsck.trees().unwrap();
    trees.persist(&new.tree).unwrap();
    let known = KnownLayer {
        layer: new,
        diff_id: fixture.blob,
        tar_size: 13,
    };
    fixture
        .store
        .set_known_layer(&fixture.blob, &known)
        .unwrap();
    fsck.known().unwrap();
    assert_eq!(fsck.found.problems, []);

    // Of one that lacks something, the object that lacks is named.
    let root = trees.on_disk(&new.tree).unwrap();
    let a = child_trees(&root).next().unwrap();
    let b = child_trees(&trees.on_disk(&a).unwrap()).next().unwrap();
    fs::remove_file(trees.path(&b)).unwrap();
    let mut fsck = Fsck::new(&fixture.store, LOOK);
    fsck.trees().unwrap();
    assert_eq!(fsck.lacking(&a), Some(b));
    assert_eq!(fsck.lacking(&new.tree), Some(b), "and not what lacks it");
}

/// What gc goes by for those whose time of reading says that they are used.
#[test]
fn looking_is_no_use() {
    let fixture = Fixture::new();
    fixture.pin_and_url();
    let store = fixture.store.path();
    for kind in ["builds", "stats"] {
        fs::create_dir_all(store.join(kind)).unwrap();
        fs::write(store.join(kind).join("abc"), "x").unwrap();
    }
    let files = [
        fixture.first("pins"),
        fixture.first("urls"),
        store.join("builds/abc"),
        store.join("stats/abc"),
    ];
    let times = || {
        files
            .each_ref()
            .map(|file| fs::metadata(file).unwrap().accessed().unwrap())
    };
    // relatime(8): what was read before it was written is renewed when it is read.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for file in &files {
        let file = File::options().write(true).open(file).unwrap();
        file.set_times(FileTimes::new().set_accessed(long_ago))
            .unwrap();
    }
    fixture.store.fsck(LOOK).unwrap();
    assert_eq!(times(), [long_ago; 4]);
    fixture.store.usage().unwrap();
    assert_eq!(times(), [long_ago; 4]);
}

type Harm = fn(&Fixture);
type HarmForm = fn(&Path);

#[test]
fn each_kind_of_damage_is_found_and_mended() {
    let cases: [(&str, Harm, &[&str]); 23] = [
        (
            "a blob's bytes",
            |f| damage(&f.store.blobs().path(&f.blob)),
            &["blobs: has the content of sha256:"],
        ),
        (
            "a tree object's bytes",
            |f| damage(&f.store.trees().path(&f.layer.tree)),
            &[
                "trees: does not hold what its name says",
                "known: names tree ",
                "records: names tree ",
            ],
        ),
        (
            "a tree object below another",
            |f| {
                let root = f.store.trees().on_disk(&f.layer.tree).unwrap();
                let child = child_trees(&root).next().unwrap();
                fs::remove_file(f.store.trees().path(&child)).unwrap();
            },
            &["known: names tree ", "records: names tree "],
        ),
        (
            "a record's bytes",
            |f| damage(&f.first("records")),
            &[
                "records: is not as it was written",
                "slots: is not the key of a record",
            ],
        ),
        (
            "a record under another's name",
            |f| {
                let path = f.first("records");
                let other = path.with_file_name(format!(
                    "{}{}",
                    path.parent().unwrap().file_name().unwrap().display(),
                    "0".repeat(62)
                ));
                fs::rename(path, other).unwrap();
            },
            &["records: is not as it was written"],
        ),
        (
            "what is known of a blob",
            |f| fs::write(f.store.known_path(&f.blob), "{").unwrap(),
            &["known: is not as it was written: "],
        ),
        (
            "what blobs a layer has",
            |f| fs::write(f.first("layer-blobs"), "").unwrap(),
            &["layer-blobs: is not as it was written: "],
        ),
        (
            "a table of frames",
            |f| {
                f.store.set_frames(&f.blob, &FrameTable::default()).unwrap();
                damage(&f.first("frames"));
            },
            &["frames: is not as it was written"],
        ),
        (
            "a table of another blob",
            |f| f.store.set_frames(&f.blob, &FrameTable::default()).unwrap(),
            &["frames: is the table of a blob of another size"],
        ),
        (
            "a slot",
            |f| {
                // Its name alone: it leads to a record.
                fs::remove_file(f.first("slots")).unwrap();
                let slot = f.store.path().join("slots/ab");
                fs::create_dir_all(&slot).unwrap();
                fs::write(slot.join("ab".repeat(32)), "x").unwrap();
            },
            &["slots: is not the key of a record"],
        ),
        (
            "the report of a build",
            |f| {
                fs::create_dir_all(f.store.path().join("builds")).unwrap();
                fs::write(f.store.path().join("builds/abc"), "x").unwrap();
            },
            &["builds: is not as it was written"],
        ),
        (
            "a context's stats",
            |f| fs::write(f.store.path().join("stats/abc"), b"rbstat\0\x02hello").unwrap(),
            &["stats: is not as it was written"],
        ),
        (
            "a pin",
            |f| {
                f.pin_and_url();
                fs::write(f.first("pins"), "{}").unwrap();
            },
            &["pins: is not as it was written: "],
        ),
        (
            "what a URL gave",
            |f| {
                f.pin_and_url();
                damage(&f.first("urls"));
            },
            &["urls: is not as it was written: "],
        ),
        (
            "a place in a plan",
            |f| {
                f.store.set_near("place", "map", &f.layer.tree).unwrap();
                fs::write(f.first("near"), "").unwrap();
            },
            &["near: is not the name of a layer"],
        ),
        (
            "a cache mount that nobody can lock",
            |f| fs::remove_file(f.mount().join("lock")).unwrap(),
            &["mounts: lacks `lock`"],
        ),
        (
            "a cache mount that has nothing to mount",
            |f| fs::remove_dir(f.mount().join("data")).unwrap(),
            &["mounts: lacks `data`"],
        ),
        (
            "a cache mount whose files are in the root of a step that was killed",
            |f| drop(f.lend_mount()),
            &["mounts: has its files in the root of a step that was killed"],
        ),
        (
            "a cache mount whose files went with the root of a step",
            |f| fs::remove_dir(f.lend_mount()).unwrap(),
            &["mounts: lacks `data`"],
        ),
        (
            "a directory that is no cache mount",
            |f| fs::create_dir(f.store.path().join("mounts/mine")).unwrap(),
            &["mounts: lacks `lock`"],
        ),
        (
            "a file that is missing from a form",
            |f| fs::remove_file(f.first("layers").join("map/etc/passwd")).unwrap(),
            &["layers: is not as its tree: `/etc/passwd` is missing"],
        ),
        (
            "the size of a file in a form",
            |f| {
                fs::write(
                    f.first("layers").join("map/etc/passwd"),
                    "longer than it was",
                )
                .unwrap()
            },
            &["layers: is not as its tree: `/etc/passwd` has 18 bytes instead of 5"],
        ),
        (
            "a name that nothing goes by",
            |f| fs::write(f.store.path().join("records/notes"), "").unwrap(),
            &["records: is not a directory"],
        ),
    ];
    for (what, harm, wanted) in cases {
        let fixture = Fixture::new();
        harm(&fixture);
        let found = fixture.find(LOOK);
        assert_eq!(found.len(), wanted.len(), "{what}: {found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(wanted), "{what}: {found}");
        }
        assert_eq!(fixture.find(LOOK), found, "{what}: looking changes nothing");
        let repaired = fixture.store.fsck(REPAIR).unwrap();
        assert!(
            repaired.problems.iter().all(|p| p.repaired),
            "{what}: {repaired:?}"
        );
        assert_eq!(fixture.find(DEEP), [""; 0], "{what}");
        assert!(fixture.store.images().get("app:1").unwrap().is_some());
    }
}

#[test]
fn mounts_are_the_users_as_long_as_they_can_be_mounted() {
    let cases: [(HarmForm, &str); 4] = [
        (
            |mount| fs::write(mount.join("about.json"), "{").unwrap(),
            "mounts: does not tell its name: ",
        ),
        (
            |mount| fs::remove_file(mount.join("about.json")).unwrap(),
            "mounts: lacks `about.json`",
        ),
        (
            |mount| {
                let about = r#"{"id":"go","domain":"map","begins":""}"#;
                fs::write(mount.join("about.json"), about).unwrap();
            },
            "mounts: has the name of another (`go`)",
        ),
        (
            |mount| fs::rename(mount, mount.with_extension("x")).unwrap(),
            "mounts: has the name of another (`cargo`)",
        ),
    ];
    for (harm, wanted) in cases {
        let fixture = Fixture::new();
        let mount = fixture.mount();
        assert_eq!(fixture.find(LOOK), [""; 0]);
        harm(&mount);
        let found = fixture.store.fsck(REPAIR).unwrap();
        let [problem] = &found.problems[..] else {
            panic!("{found:?}");
        };
        assert!(!problem.repaired && problem.path.exists(), "{wanted}");
        assert!(fixture.find(LOOK)[0].starts_with(wanted), "{found:?}");
    }
}

/// A step may have what it lacks.
#[test]
fn mounts_in_use_are_nobody_elses_affair() {
    for part in ["data", "about.json", "turn"] {
        let fixture = Fixture::new();
        let mount = fixture.mount();
        let _used = flock::hold(&mount.join("lock"), How::Shared).unwrap();
        file::remove(&mount.join(part)).unwrap();
        assert_eq!(fixture.find(REPAIR), [""; 0], "{part}");
        assert!(mount.exists(), "{part}");
    }
}

#[test]
fn what_a_form_has_to_be() {
    let cases: [(HarmForm, &str); 5] = [
        (
            |form| {
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(form.join("etc/passwd"), mode).unwrap();
            },
            "`/etc/passwd` has the mode 0600 instead of 0644",
        ),
        (
            |form| {
                let mode = fs::Permissions::from_mode(0o711);
                fs::set_permissions(form.join("etc"), mode).unwrap();
            },
            "`/etc` has the mode 0711 instead of 0755",
        ),
        (
            |form| {
                fs::remove_file(form.join("etc/link")).unwrap();
                std::os::unix::fs::symlink("shadow", form.join("etc/link")).unwrap();
            },
            "`/etc/link` leads elsewhere",
        ),
        (
            |form| {
                fs::remove_file(form.join("etc/link")).unwrap();
                fs::create_dir(form.join("etc/link")).unwrap();
            },
            "`/etc/link` is a directory instead of a symbolic link",
        ),
        (
            |form| fs::write(form.join("etc/passwd"), "toor\n").unwrap(),
            "`/etc/passwd` has other content",
        ),
    ];
    for (harm, wanted) in cases {
        let fixture = Fixture::new();
        let form = fixture.first("layers").join("map");
        let passwd = form.join("etc/passwd");
        fs::set_permissions(passwd, fs::Permissions::from_mode(0o644)).unwrap();
        harm(&form);
        assert_eq!(
            fixture.find(DEEP),
            [format!("layers: is not as its tree: {wanted}")]
        );
    }
    // Content alone takes reading.
    let fixture = Fixture::new();
    fs::write(fixture.first("layers").join("map/etc/passwd"), "toor\n").unwrap();
    assert_eq!(fixture.find(LOOK), [""; 0]);
    // What a step touched and left as it was is in its upper directory alone.
    fs::write(fixture.first("layers").join("map/etc/group"), "").unwrap();
    assert_eq!(fixture.find(LOOK), [""; 0]);
}

#[test]
fn images_are_told_of_and_stay() {
    let fixture = Fixture::new();
    let image = fixture.store.images().get("app:1").unwrap().unwrap();
    let remove = |digest: &OciDigest| fs::remove_file(fixture.store.blobs().path(digest)).unwrap();
    remove(&fixture.blob);
    assert_eq!(fixture.find(LOOK), [""; 0], "its form has the bytes");
    fs::remove_dir_all(fixture.first("layers")).unwrap();
    let [gone] = &fixture.find(LOOK)[..] else {
        panic!();
    };
    assert!(
        gone.contains("of the image `app:1` has no bytes left"),
        "{gone}"
    );
    remove(&image.id);
    assert!(fixture.find(LOOK)[0].contains("the config "));
    remove(&image.digest);
    assert!(fixture.find(REPAIR)[0].contains("the manifest "));
    fs::write(fixture.first("images"), "{").unwrap();
    assert!(fixture.find(REPAIR)[0].contains("(the image `app:1`)"));
    assert!(fixture.first("images").exists());
}

#[test]
fn a_difference_is_compared_with_what_it_stands_over() {
    let fixture = Fixture::new();
    let Fixture { store, layer, .. } = &fixture;
    let scratch = store.scratch().unwrap();
    let changed = scratch.path().join("changed");
    fs::create_dir_all(changed.join("etc")).unwrap();
    fs::write(changed.join("etc/passwd"), "root\n").unwrap();
    std::os::unix::fs::symlink("group", changed.join("etc/link")).unwrap();
    fs::write(changed.join("new"), "new\n").unwrap();
    // What did not change has the time it had.
    let passwd = fixture.first("layers").join("map/etc/passwd");
    let time = fs::metadata(passwd).unwrap().modified().unwrap();
    let file = File::options().write(true).open(changed.join("etc/passwd"));
    file.unwrap().set_modified(time).unwrap();
    let cancel = CancelToken::new();
    let upper = ScanKind::Upper;
    let next = crate::dir::scan_dir(store.trees(), &changed, upper, &cancel).unwrap();
    store.trees().persist(&next.tree).unwrap();

    let delta = store.trees().delta(&layer.tree, &next.tree).unwrap();
    let from = scratch.path().join("delta");
    let into = from.join("fs");
    fs::create_dir_all(&into).unwrap();
    let open = |path: &[u8], _: &_| {
        let path = std::str::from_utf8(path).unwrap();
        File::open(changed.join(path))
    };
    let own = crate::dir::Ownership::Logical;
    crate::dir::write_dir(store.trees(), &delta.layer.tree, &into, &open, own, &cancel).unwrap();
    assert!(!into.join("etc/passwd").exists() && into.join("new").exists());
    let adopted = store.adopt_layer_delta(&next.tree, "map", &layer.tree, &delta, &from);
    let form = adopted.unwrap().unwrap();
    assert_eq!(fixture.find(DEEP), [""; 0]);

    fs::write(form.dirs()[1].join("new"), "old\n").unwrap();
    let wanted = "layers: is not as its tree: `/new` has other content";
    assert_eq!(fixture.find(DEEP), [wanted]);
    fs::remove_dir_all(&form.dirs()[0]).unwrap();
    let wanted = "layers: stands over a directory that is not there";
    assert_eq!(fixture.find(LOOK), [wanted]);
    // Whose bytes are in a plain form as well is still what a build would stack.
    let forms = form.dirs()[1].parent().unwrap().parent().unwrap();
    fs::rename(&changed, forms.join("map.plain")).unwrap();
    assert_eq!(fixture.find(LOOK), [wanted]);
    assert_eq!(fixture.find(REPAIR), [wanted]);
    assert_eq!(fixture.find(DEEP), [""; 0]);
}
