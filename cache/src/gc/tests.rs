use std::time::SystemTime;

use rbuild_llb::CacheKey;
use rbuild_llb::KeyRecord;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rbuild_llb::key::KeyValue;

use super::inventory::Thing;
use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::builds::BuildReport;
use crate::frame::Compression;
use crate::images::StoredImage;
use crate::layer::BlobOptions;
use crate::layer::LayerBlob;
use crate::layer::Layout;
use crate::records::CacheBackend as _;
use crate::records::LayerRef;
use crate::records::Record;
use crate::records::Snapshot;
use crate::store::StoredPin;
use crate::tree::Meta;
use crate::tree::TreeRef;

mod order;

/// Whatever may go goes.
fn nothing() -> Policy<'static> {
    Policy {
        select: Select {
            all: true,
            mounts: true,
            ..Select::default()
        },
        ..Policy::default()
    }
}

/// Only garbage goes.
fn everything() -> Policy<'static> {
    Policy {
        keep_duration: Some(Duration::MAX),
        ..nothing()
    }
}

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
        let tree = tree_in_memory(&self.store, name);
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
            layout: Layout::Tar,
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
            single: false,
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

    fn collect(&self, policy: &Policy<'_>) -> Collected {
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

fn tree_in_memory(store: &Store, name: &str) -> TreeRef {
    let mut builder = TreeBuilder::new();
    let target = b"x".to_vec();
    builder.insert(
        format!("{name}/link").as_bytes(),
        Meta::default(),
        NewNode::Symlink { target },
    );
    builder.finish(store.trees())
}

#[test]
fn what_nothing_needs_goes() {
    let store = Fixture::new();
    let step = store.step("a");
    let table = crate::layer::FrameTable::default();
    store.store.set_frames(&step.blob, &table).unwrap();
    let report = BuildReport {
        plan: "a".to_owned(),
        started: 0,
        completed: 0,
        failed: false,
        steps: Vec::new(),
    };
    store.store.builds().keep(&report, None).unwrap();
    let garbage = store.tree("garbage");
    let blob = store.store.blobs().put(b"garbage").unwrap();
    let kept = store.collect(&everything());
    assert!(store.has(&step) && !store.has_tree(&garbage) && !store.store.blobs().contains(&blob));
    assert!(kept.freed > 0 && kept.left > 0);
    assert_eq!(
        store.collect(&everything()).removed,
        0,
        "nothing is left to do"
    );
    assert!(store.store.records().latest("a", "exec").unwrap().is_some());
    assert!(store.store.builds().last("a").is_some());

    let files = |kind: &str, depth| file::below(&store.store.path().join(kind), depth).unwrap();
    assert_eq!(files("frames", 2).len(), 1);
    store.collect(&nothing());
    assert!(!store.has(&step) && store.store.builds().last("a").is_none());
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
    let signature = blobs.put(b"signature").unwrap();
    let signed = format!(
        r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{signature}"}}],"subject":{{"digest":"{index}"}}}}"#
    );
    let signed = blobs.put(signed.as_bytes()).unwrap();
    let image = StoredImage {
        digest: index,
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        id: config,
        repo_digest: None,
        created: 0,
        size: 0,
        rung: None,
        referrers: vec![signed],
    };
    store.store.images().set("app:1", &image).unwrap();
    store.collect(&nothing());
    for blob in [index, manifest, config, layer.blob, signed, signature] {
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
    store.collect(&everything());
    assert!(
        blobs.contains(&config) && !blobs.contains(&layer.blob),
        "a pin needs no layers"
    );
    assert!(!blobs.contains(&signed) && !blobs.contains(&signature));
    store.collect(&nothing());
    assert!(!blobs.contains(&index) && store.store.pin("app:1").unwrap().is_none());
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
    store.collect(&nothing());
    assert!(store.has(&used) && !store.has(&unused));
    assert!(
        store.has(&published),
        "no record or lease has to name what a living build has made"
    );
    assert!(store.store.blobs().contains(&blob));
    drop(lease);
    store.collect(&nothing());
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
    let all = Inventory::read(&store.store).unwrap();
    let mut live = Live::needed(&store.store, &all, &leases.roots);
    live.items(&nothing(), 0, own.began(), leases.began);
    let victims = store.store.victims(&live, leases.began);

    let build = store.store.lease().unwrap();
    build.protect(LeaseRoot::Record(late.key)).unwrap();
    store.step("again");
    let trash = store.store.trash_dir().unwrap();
    let moved = store
        .store
        .condemn(&victims, &trash, &mut live, &mut leases, &own, &dir)
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
    store.collect(&everything());
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
    store.store.collect(&nothing()).unwrap();
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

#[test]
fn a_tree_that_is_there_already_stays_once_it_is_kept() {
    let store = Fixture::new();
    let old = store.tree("old");
    store.tick();
    let own = store.store.lease().unwrap();
    let dir = store.store.path().join("leases");
    let mut leases = Leases::read(&dir, &own).unwrap();
    let all = Inventory::read(&store.store).unwrap();
    let mut live = Live::needed(&store.store, &all, &leases.roots);
    let victims = store.store.victims(&live, leases.began);
    assert_eq!(victims.len(), 3, "a file system and two directories");

    // A slow builder makes the same tree meanwhile, finds its objects, and says so when all are there.
    let build = store.store.lease().unwrap();
    let held = build.hold().unwrap();
    store.tree("old");
    let gate = File::open(&dir).unwrap();
    let free = || flock::try_lock(&gate, How::Alone, &dir).unwrap();
    assert!(!free(), "the collector waits");
    build.protect(LeaseRoot::Tree(old.tree)).unwrap();
    drop(held);
    assert!(free());

    let trash = store.store.trash_dir().unwrap();
    let moved = store
        .store
        .condemn(&victims, &trash, &mut live, &mut leases, &own, &dir)
        .unwrap();
    assert!(moved.is_empty() && store.has_tree(&old));
}

#[test]
fn a_clock_that_was_set_back_removes_nothing_of_a_living_build() {
    let store = Fixture::new();
    let step = store.step("a");
    store.tick();
    // A build that began an hour from now.
    let lease = store.store.lease().unwrap();
    let path = fs::read_dir(store.store.path().join("leases"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = fs::read_to_string(&path).unwrap();
    let secs: i64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    fs::write(&path, format!("began {} 0\n", secs + 3600)).unwrap();
    store.collect(&nothing());
    assert!(store.has(&step));
    drop(lease);
    store.collect(&nothing());
    assert!(!store.has(&step));
}

#[test]
fn builders_and_collectors_at_once() {
    let store = Fixture::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    let removed = std::sync::atomic::AtomicU64::new(0);
    let ordering = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let collectors: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(ordering) {
                        let collected = store.store.collect(&nothing()).unwrap();
                        removed.fetch_add(collected.removed, ordering);
                    }
                })
            })
            .collect();
        let builders: Vec<_> = (0..2)
            .map(|builder| {
                let (store, removed) = (&store, &removed);
                scope.spawn(move || {
                    // Until collectors had their turn, too.
                    let enough = |round: &i32| *round >= 60 && removed.load(ordering) > 0;
                    for round in (0..100_000).take_while(|round| !enough(round)) {
                        // Half of what they make, the other makes as well.
                        let name = format!("{}", round % 5 + builder * 3);
                        // As a process of its own: what it knows to be there it has protected.
                        let own = Store::open(store._dir.path()).unwrap();
                        let lease = own.lease().unwrap();
                        let tree = tree_in_memory(&own, &name);
                        let held = lease.hold().unwrap();
                        own.trees().persist(&tree.tree).unwrap();
                        lease.protect(LeaseRoot::Tree(tree.tree)).unwrap();
                        drop(held);
                        std::thread::yield_now();
                        assert!(store.has_tree(&tree), "{name}");
                    }
                })
            })
            .collect();
        let built: Vec<_> = builders.into_iter().map(|builder| builder.join()).collect();
        done.store(true, ordering);
        assert!(built.iter().all(Result::is_ok));
        collectors
            .into_iter()
            .for_each(|collector| collector.join().unwrap());
        assert!(removed.load(ordering) > 0);
    });
}

#[test]
fn what_is_taken_is_what_du_says() {
    let store = Fixture::new();
    let step = store.step("a");
    fs::hard_link(step.dir.join("file"), step.dir.join("again")).unwrap();
    fs::create_dir(step.dir.join("sub")).unwrap();
    fs::write(step.dir.join("sub/big"), vec![1; 100_000]).unwrap();
    store.tree("garbage");
    let usage = store.store.usage().unwrap();
    let du = std::process::Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(store.store.path())
        .output()
        .unwrap();
    let du = String::from_utf8(du.stdout).unwrap();
    assert_eq!(
        du.split_whitespace().next(),
        Some(&*usage.total.to_string())
    );
    let items: u64 = usage.items.iter().map(|item| item.size).sum();
    assert_eq!(items + usage.garbage + usage.rest, usage.total);
    assert!(usage.garbage > 0 && usage.reclaimable == items + usage.garbage);
    let [item] = &usage.items[..] else {
        panic!("{:?}", usage.items);
    };
    assert!(item.size > 100_000 && item.is_reclaimable());
    assert_eq!((item.kind, &*item.description), (UsageKind::Regular, "a"));
    let kinds: u64 = usage.kinds.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(kinds, usage.total);

    let gone = store.collect(&nothing());
    assert_eq!(gone.freed, usage.reclaimable);
    assert_eq!(gone.items.len(), 2, "the step, and what nothing needed");
    assert_eq!(
        gone.items.iter().map(|item| item.size).sum::<u64>(),
        gone.freed
    );
}

#[test]
fn images_share_with_their_steps() {
    let store = Fixture::new();
    let (of_image, other) = (store.step("of image"), store.step("other"));
    let blobs = store.store.blobs();
    let config = blobs.put(b"{}").unwrap();
    let known = crate::store::KnownLayer {
        layer: of_image.tree,
        diff_id: of_image.blob,
        tar_size: 1,
    };
    store.store.set_known_layer(&of_image.blob, &known).unwrap();
    let manifest = format!(
        r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{}"}}]}}"#,
        of_image.blob
    );
    let manifest = blobs.put(manifest.as_bytes()).unwrap();
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
    store.store.images().set("app:1", &image).unwrap();
    let usage = store.store.usage().unwrap();
    let shared = |name: &str| {
        let mut items = usage.items.iter();
        items.find(|item| item.description == name).unwrap().shared
    };
    assert!(shared("of image") && !shared("other"));

    // By default what made an image stays cached.
    let default = Policy::default();
    store.collect(&default);
    assert!(store.has(&of_image) && !store.has(&other));
    store.collect(&nothing());
    assert!(
        store
            .store
            .records()
            .lookup(&of_image.key)
            .unwrap()
            .is_none()
    );
    assert!(blobs.contains(&of_image.blob) && of_image.dir.join("file").exists());
}

#[test]
fn what_is_found_by_a_key_goes_first() {
    let fixture = Fixture::new();
    fixture.step("a");
    let store = &fixture.store;
    fs::create_dir(store.path().join("mounts/half")).unwrap();
    let all = Inventory::read(store).unwrap();
    let live = Live::needed(store, &all, &BTreeSet::new());
    let mut kinds: Vec<_> = store
        .victims(
            &live,
            Timestamp {
                secs: i64::MAX,
                nanos: 0,
            },
        )
        .iter()
        .map(|piece| piece.path.strip_prefix(store.path()).unwrap())
        .map(|path| path.iter().next().unwrap().to_str().unwrap())
        .collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "records",
            "slots",
            "layer-blobs",
            "layers",
            "blobs",
            "trees",
            "mounts"
        ]
    );
}

/// Whatever else it lacks, its lock says whether it is in use.
#[test]
fn a_mount_that_can_be_locked_is_never_garbage() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let mount = store.path().join("mounts/half.0");
    fs::create_dir(&mount).unwrap();
    fs::write(mount.join("lock"), "").unwrap();
    let used = flock::hold(&mount.join("lock"), How::Shared).unwrap();
    store.collect(&nothing()).unwrap();
    assert!(mount.exists());
    drop(used);
    store.collect(&nothing()).unwrap();
    assert!(!mount.exists());
}

#[test]
fn a_turn_to_collect_comes_now_and_then() {
    let store = Fixture::new();
    let hour = Duration::from_secs(3600);
    let turn = |every| store.store.turn_to_collect(every).unwrap();
    assert!(
        turn(Duration::ZERO).is_none(),
        "there is nothing in a new store"
    );
    let mine = turn(Duration::ZERO);
    assert!(mine.is_some());
    assert!(turn(Duration::ZERO).is_none(), "somebody is at it");
    drop(mine);
    assert!(turn(hour).is_none());
    let file = File::options()
        .write(true)
        .open(store.store.path().join("collected"))
        .unwrap();
    file.set_modified(SystemTime::now() - 2 * hour).unwrap();
    assert!(turn(hour).is_some());
    file.set_modified(SystemTime::now() + 2 * hour).unwrap();
    assert!(turn(hour).is_some(), "the clock was set back");
}

#[test]
fn a_build_that_ends_while_somebody_collects_keeps_what_it_found() {
    let store = Fixture::new();
    let old = store.tree("old");
    store.tick();
    let dir = store.store.path().join("leases");
    let collecting = Collecting::begin(&dir).unwrap();
    let own = store.store.lease().unwrap();
    let mut leases = Leases::read(&dir, &own).unwrap();
    let all = Inventory::read(&store.store).unwrap();
    let mut live = Live::needed(&store.store, &all, &leases.roots);
    let victims = store.store.victims(&live, leases.began);
    assert_eq!(victims.len(), 3);

    // It begins after the records were read, finds a tree that nothing names, publishes a record of it, and ends.
    let build = store.store.lease().unwrap();
    build.protect(LeaseRoot::Tree(old.tree)).unwrap();
    drop(build);
    let trash = store.store.trash_dir().unwrap();
    let moved = store
        .store
        .condemn(&victims, &trash, &mut live, &mut leases, &own, &dir)
        .unwrap();
    assert!(moved.is_empty() && store.has_tree(&old));

    // When nobody collects, nothing is left of a lease.
    drop((collecting, own));
    store.collect(&nothing());
    assert!(!store.has_tree(&old));
    drop(store.store.lease().unwrap());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

/// A build writes a tree when a collector has already looked at what there is, and in it is a directory that was there
/// before: nothing but the lease on the tree says that the directory is used.
#[test]
fn what_a_new_tree_has_of_an_old_one_stays() {
    let fixture = Fixture::new();
    let old = fixture.tree("shared");
    let all = Inventory::read(&fixture.store).unwrap();
    let mut live = Live::needed(&fixture.store, &all, &BTreeSet::new());
    let mut builder = TreeBuilder::new();
    let target = b"x".to_vec();
    let link = NewNode::Symlink { target };
    builder.insert(b"new/shared/link", Meta::default(), link);
    let new = builder.finish(fixture.store.trees());
    fixture.store.trees().persist(&new.tree).unwrap();
    let trees = |root: &TreeRef| {
        let mut objects = BTreeSet::new();
        fixture
            .store
            .trees()
            .objects(&root.tree, &mut objects)
            .unwrap();
        objects
    };
    let both: Vec<TreeId> = trees(&old).intersection(&trees(&new)).copied().collect();
    assert!(!both.is_empty());
    let stays = |live: &Live<'_>, tree: &TreeId| live.has(all.find(Thing::Tree(*tree)).unwrap());
    assert!(both.iter().all(|tree| !stays(&live, tree)));
    live.leased(&BTreeSet::from([LeaseRoot::Tree(new.tree)]));
    assert!(both.iter().all(|tree| stays(&live, tree)));
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
    let hour = Policy {
        keep_duration: Some(Duration::from_secs(3600)),
        ..nothing()
    };
    world.used(&near, Duration::from_secs(7200));
    world.collect(&hour);
    assert!(world.store.layer_form(&layer, "map").is_some());
    assert_eq!(world.store.near("place", "map").unwrap(), Some(layer));
    assert!(near.dir.exists() && world.has_tree(&near.tree));
    assert!(world.store.records().lookup(&near.key).unwrap().is_none());
    assert!(!world.store.blobs().contains(&near.blob));

    world.used(&above, Duration::from_secs(7200));
    world.collect(&hour);
    assert!(!near.dir.exists() && world.store.layer_form(&layer, "map").is_none());
    assert_eq!(world.store.near("place", "map").unwrap(), None);
}
