use std::time::SystemTime;

use rbuild_llb::KeyRecord;
use rbuild_llb::key::KeyValue;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::frame::Compression;
use crate::images::StoredImage;
use crate::layer::BlobOptions;
use crate::layer::LayerBlob;
use crate::records::CacheBackend as _;
use crate::records::LayerRef;
use crate::records::Record;
use crate::records::Snapshot;
use crate::store::StoredPin;
use crate::tree::Meta;
use crate::tree::TreeRef;

const NOTHING: Policy = Policy {
    keep_newer_than: Duration::ZERO,
    max_bytes: 0,
};
const EVERYTHING: Policy = Policy {
    keep_newer_than: Duration::MAX,
    max_bytes: u64::MAX,
};

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
}

/// One step's result with all its forms.
struct Step {
    key: CacheKey,
    tree: TreeRef,
    blob: OciDigest,
    dir: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { _dir: dir, store }
    }

    fn tree(&self, name: &str) -> TreeRef {
        let mut builder = TreeBuilder::new();
        let target = b"x".to_vec();
        builder.insert(
            format!("{name}/link").as_bytes(),
            Meta::default(),
            NewNode::Symlink { target },
        );
        let tree = builder.finish(self.store.trees());
        self.store.trees().persist(&tree.tree).unwrap();
        tree
    }

    fn has_tree(&self, tree: &TreeRef) -> bool {
        let trees = crate::tree::Trees::open(&self.store.path().join("trees"));
        let mut entries = 0;
        let mut count = |_: &[u8], _: &crate::tree::Entry| {
            entries += 1;
            std::ops::ControlFlow::Continue(())
        };
        trees.walk(&tree.tree, &mut count).is_ok() && entries == 3
    }

    fn step(&self, name: &str) -> Step {
        let tree = self.tree(name);
        let layer = tree.tree;
        let blob = self
            .store
            .blobs()
            .put(name.repeat(5000).as_bytes())
            .unwrap();
        let made = LayerBlob {
            digest: blob,
            diff_id: blob,
            size: 1,
            tar_size: 1,
            compression: Compression::None,
        };
        let options = BlobOptions {
            compression: Compression::None,
            clamp: Some(5),
        };
        self.store.set_layer_blob(&layer, &options, &made).unwrap();
        let scratch = self.store.scratch().unwrap();
        fs::create_dir(scratch.path().join("form")).unwrap();
        fs::write(scratch.path().join("form/file"), name).unwrap();
        let dir = self
            .store
            .adopt_layer_dir(&layer, "map", &scratch.path().join("form"))
            .unwrap();
        let mut record = KeyRecord::new("exec");
        record.field("name", name);
        let listing = KeyValue::Content {
            content: tree.content,
            tree: Some(self.tree(&format!("{name}-source")).tree),
        };
        record.field("sources", [listing].into_iter().collect::<KeyValue>());
        let layers = vec![LayerRef {
            layer: tree,
            origin: None,
            created: None,
        }];
        self.store
            .records()
            .publish(&Record {
                key: record.key(),
                slot: name.to_owned(),
                outputs: vec![Snapshot { layers, root: tree }],
                created: 0,
                duration_ms: 0,
                name: name.to_owned(),
                record: record.clone(),
            })
            .unwrap();
        Step {
            key: record.key(),
            tree,
            blob,
            dir,
        }
    }

    /// Whether all of a step is there, or nothing of it.
    fn has(&self, step: &Step) -> bool {
        let found = [
            self.store.records().lookup(&step.key).unwrap().is_some(),
            self.has_tree(&step.tree),
            self.store.blobs().contains(&step.blob),
            step.dir.join("file").exists(),
            !self
                .store
                .all_layer_blobs(&step.tree.tree)
                .unwrap()
                .is_empty(),
        ];
        assert!(found == [true; 5] || found == [false; 5], "{found:?}");
        found[0]
    }

    /// Waits until the file system's clock has moved on: what is published in the tick of a collector's start stays.
    fn tick(&self) {
        let now = || {
            let file = tempfile::NamedTempFile::new_in(self.store.path()).unwrap();
            file.as_file().metadata().unwrap().modified().unwrap()
        };
        let start = now();
        while now() == start {}
    }

    fn collect(&self, policy: &Policy) -> Collected {
        self.tick();
        let collected = self.store.collect(policy).unwrap();
        assert!(collected.failed.is_empty(), "{:?}", collected.failed);
        for left in ["trash", "tmp"] {
            assert_eq!(
                fs::read_dir(self.store.path().join(left)).unwrap().count(),
                0,
                "{left}"
            );
        }
        collected
    }

    fn used(&self, step: &Step, ago: Duration) {
        let hex = step.key.hex();
        let path = self.store.path().join("records").join(&hex[..2]).join(&hex);
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }
}

#[test]
fn what_nothing_needs_goes() {
    let store = Fixture::new();
    let step = store.step("a");
    let table = crate::layer::FrameTable::default();
    store.store.set_frames(&step.blob, &table).unwrap();
    let garbage = store.tree("garbage");
    let blob = store.store.blobs().put(b"garbage").unwrap();
    let kept = store.collect(&EVERYTHING);
    assert!(store.has(&step) && !store.has_tree(&garbage) && !store.store.blobs().contains(&blob));
    assert!(kept.freed > 0 && kept.live > 0);
    assert_eq!(
        store.collect(&EVERYTHING).removed,
        0,
        "nothing is left to do"
    );
    assert!(store.store.records().latest("a", "exec").unwrap().is_some());

    let files = |kind: &str, depth| file::below(&store.store.path().join(kind), depth).unwrap();
    assert_eq!(files("frames", 2).len(), 1);
    let gone = store.collect(&NOTHING);
    assert!(!store.has(&step));
    assert_eq!(gone.live, 0);
    for kind in [
        "trees",
        "blobs/sha256",
        "layers",
        "layer-blobs",
        "frames",
        "records",
        "slots",
    ] {
        assert!(files(kind, 2).is_empty(), "{kind}");
    }
}

#[test]
fn images_keep_what_they_name() {
    let store = Fixture::new();
    let blobs = store.store.blobs();
    let layer = store.step("layer");
    let unpacked = store.tree("unpacked");
    let known = crate::store::KnownLayer {
        layer: unpacked,
        diff_id: layer.blob,
        tar_size: 1,
    };
    store.store.set_known_layer(&layer.blob, &known).unwrap();
    let config = blobs.put(b"{\"os\":\"linux\"}").unwrap();
    let manifest = format!(
        r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{}"}}]}}"#,
        layer.blob
    );
    let manifest = blobs.put(manifest.as_bytes()).unwrap();
    let index = blobs
        .put(format!(r#"{{"manifests":[{{"digest":"{manifest}"}}]}}"#).as_bytes())
        .unwrap();
    let image = StoredImage {
        digest: index,
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        id: config,
        repo_digest: None,
        created: 0,
        size: 0,
    };
    store.store.images().set("app:1", &image).unwrap();
    store.collect(&NOTHING);
    for blob in [index, manifest, config, layer.blob] {
        assert!(blobs.contains(&blob));
    }
    assert!(store.has_tree(&unpacked) && !store.has_tree(&layer.tree));
    assert_eq!(store.store.known_layer(&layer.blob).unwrap(), Some(known));

    store.store.images().remove("app:1").unwrap();
    let pin = StoredPin {
        manifest,
        index: Some(index),
        checked: 0,
    };
    store.store.set_pin("app:1", &pin).unwrap();
    store.collect(&EVERYTHING);
    assert!(
        blobs.contains(&config) && !blobs.contains(&layer.blob),
        "a pin needs no layers"
    );
    store.collect(&NOTHING);
    assert!(!blobs.contains(&index) && store.store.pin("app:1").unwrap().is_none());
}

#[test]
fn the_least_recently_used_goes_first() {
    let store = Fixture::new();
    let steps: Vec<Step> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| store.step(name))
        .collect();
    for (days, step) in [30, 10, 20, 40].into_iter().zip(&steps) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    let live = store.collect(&EVERYTHING).live;
    let have = || -> Vec<bool> { steps.iter().map(|step| store.has(step)).collect() };
    // Looking at them has used them.
    assert_eq!(have(), [true; 4]);
    for (days, step) in [30, 10, 20, 40].into_iter().zip(&steps) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    let policy = |keep: u64, max_bytes| Policy {
        keep_newer_than: Duration::from_secs(keep * 86_400),
        max_bytes,
    };
    let small = store.collect(&policy(0, live - 1));
    assert!(small.live < live);
    assert_eq!(have(), [true, true, true, false]);
    for (days, step) in [30, 10, 20].into_iter().zip(&steps) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    store.collect(&policy(25, 0));
    assert_eq!(have(), [false, true, true, false]);
}

#[test]
fn living_builds_keep_what_they_use() {
    let store = Fixture::new();
    let (used, unused) = (store.step("used"), store.step("unused"));
    let blob = store.store.blobs().put(b"a base's layer").unwrap();
    store.tick();
    let lease = store.store.lease().unwrap();
    lease.protect(LeaseRoot::Record(used.key)).unwrap();
    lease.protect(LeaseRoot::Blob(blob)).unwrap();
    let published = store.step("published");
    store.collect(&NOTHING);
    assert!(store.has(&used) && !store.has(&unused));
    assert!(
        store.has(&published),
        "no record or lease has to name what a living build has made"
    );
    assert!(store.store.blobs().contains(&blob));
    drop(lease);
    store.collect(&NOTHING);
    assert!(!store.has(&used) && !store.has(&published));
}

#[test]
fn what_is_protected_after_the_marking_stays() {
    let store = Fixture::new();
    let (late, gone, again) = (store.step("late"), store.step("gone"), store.step("again"));
    store.tick();
    let own = store.store.lease().unwrap();
    let dir = store.store.path().join("leases");
    let mut leases = Leases::read(&dir, &own).unwrap();
    let mut live = Live::new(&store.store);
    live.cached(&NOTHING, own.began(), leases.began).unwrap();
    let victims = store.store.victims(&live, leases.began).unwrap();

    let build = store.store.lease().unwrap();
    build.protect(LeaseRoot::Record(late.key)).unwrap();
    store.step("again");
    let trash = store.store.trash_dir().unwrap();
    let moved = store
        .store
        .condemn(victims, &trash, &mut live, &mut leases, &own, &dir)
        .unwrap();
    assert!(!moved.is_empty());
    assert!(store.has(&late) && !store.has(&gone));
    assert!(
        store.store.records().lookup(&again.key).unwrap().is_some(),
        "published again"
    );
}

#[test]
fn a_record_without_its_trees_is_garbage() {
    let store = Fixture::new();
    let step = store.step("a");
    let object = store.store.trees().path(&step.tree.tree);
    fs::remove_file(object).unwrap();
    store.collect(&EVERYTHING);
    assert!(store.store.records().lookup(&step.key).unwrap().is_none());
    assert!(!store.store.blobs().contains(&step.blob) && !step.dir.exists());
}

#[test]
fn what_the_dead_left_goes_and_what_the_living_hold_stays() {
    let store = Fixture::new();
    let path = |name: &str| store.store.path().join(name);
    let alive = store.store.scratch().unwrap();
    fs::write(alive.path().join("f"), "").unwrap();
    for dir in ["tmp/dead.d/sub", "tmp/lost.d", "trash/old/sub"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    let sub = path("tmp/dead.d/sub");
    fs::write(sub.join("file"), "").unwrap();
    fs::set_permissions(&sub, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    for file in ["tmp/dead", "leases/dead", "images/.aside-new"] {
        fs::write(path(file), "").unwrap();
    }
    store.store.collect(&NOTHING).unwrap();
    for gone in [
        "tmp/dead",
        "tmp/dead.d",
        "tmp/lost.d",
        "trash/old",
        "leases/dead",
    ] {
        assert!(!path(gone).exists(), "{gone}");
    }
    assert!(alive.path().join("f").exists());
    assert!(
        path("images/.aside-new").exists(),
        "somebody may be writing it"
    );
}

/// A directory form that is only a difference needs the one that it stands over, and the next is worked out from that
/// one's tree. Nothing else of its layer stays for it.
#[test]
fn what_a_difference_stands_over_stays() {
    let world = Fixture::new();
    let [near, above] = ["near", "above"].map(|name| world.step(name));
    fs::remove_dir_all(&above.dir).unwrap();
    let scratch = world.store.scratch().unwrap();
    let from = scratch.path().join("delta");
    fs::create_dir_all(from.join("fs")).unwrap();
    let delta = crate::merge::Delta {
        layer: above.tree,
        bare: Vec::new(),
        entries: 1,
    };
    let (layer, under) = (above.tree.tree, near.tree.tree);
    let adopted = world
        .store
        .adopt_layer_delta(&layer, "map", &under, &delta, &from);
    assert!(adopted.unwrap().is_some());
    for layer in [&under, &layer] {
        world.store.set_near("place", "map", layer).unwrap();
    }
    drop(scratch);
    world.used(&near, Duration::from_secs(7200));
    world.collect(&Policy {
        keep_newer_than: Duration::from_secs(3600),
        max_bytes: 0,
    });
    assert!(world.store.layer_form(&layer, "map").is_some());
    assert_eq!(world.store.near("place", "map").unwrap(), Some(layer));
    assert!(near.dir.exists() && world.has_tree(&near.tree));
    assert!(world.store.records().lookup(&near.key).unwrap().is_none());
    assert!(!world.store.blobs().contains(&near.blob));

    world.used(&above, Duration::from_secs(7200));
    world.collect(&Policy {
        keep_newer_than: Duration::from_secs(3600),
        max_bytes: 0,
    });
    assert!(!near.dir.exists() && world.store.layer_form(&layer, "map").is_none());
    assert_eq!(world.store.near("place", "map").unwrap(), None);
}
