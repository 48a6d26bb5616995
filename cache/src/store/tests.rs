use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
use rbuild_llb::KeyRecord;

use super::*;
use crate::blobs::BlobError;
use crate::frame::Compression;
use crate::records::CacheBackend as _;
use crate::records::LayerRef;
use crate::records::Record;
use crate::records::RecordError;
use crate::records::Snapshot;

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        Self { dir, store }
    }
}

fn record(store: &Store, seed: u8) -> Record {
    let root = store.trees().empty();
    let mut fields = KeyRecord::new("exec");
    fields.field("seed", u32::from(seed));
    Record {
        key: fields.key(),
        record: fields,
        slot: "stage 0, step 1".into(),
        outputs: vec![Snapshot {
            layers: vec![LayerRef {
                layer: root,
                origin: None,
                created: Some(u128::from(seed)),
                single: false,
            }],
            root,
        }],
        created: 1 << 70,
        duration_ms: 12,
        name: "RUN make".into(),
    }
}

#[test]
fn a_store_is_made_once_and_is_private() {
    let Fixture { dir, store } = Fixture::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(store.path()), 0o700);
    let digest = store.blobs().put(b"content").unwrap();
    assert_eq!(mode(&store.blobs().path(&digest)), 0o600);
    let again = Store::open(&dir.path().join("root")).unwrap();
    assert_eq!(again.blobs().read(&digest, 7).unwrap(), b"content");
}

#[test]
fn what_cannot_be_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for root in [file.clone(), file.join("below")] {
        let error = Store::open(&root).unwrap_err();
        assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
    }
    // Somebody else's: for an ordinary user anything of root's, for root what it gives away.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    if rustix::process::geteuid().is_root() {
        fs::create_dir(other.join("v1")).unwrap();
        std::os::unix::fs::chown(other.join("v1"), Some(1000), None).unwrap();
    } else {
        std::os::unix::fs::symlink("/usr", other.join("v1")).unwrap();
    }
    let error = Store::open(&other).unwrap_err();
    assert!(matches!(error, StoreError::Owner { .. }), "{error}");
    assert!(error.to_string().contains("--root"), "{error}");
    // No process may make files in procfs, not even root.
    let error = Store::open(Path::new("/proc/self")).unwrap_err();
    assert!(
        matches!(error, StoreError::Io { .. }) && !error.is_disk_full(),
        "{error}"
    );
    let full = StoreError::io("write", &file)(rustix::io::Errno::NOSPC.into());
    assert!(full.is_disk_full() && full.to_string().contains("disk is full"));
}

#[test]
fn blobs_are_what_they_are_called() {
    let Fixture { store, dir: _dir } = Fixture::new();
    let blobs = store.blobs();
    // `printf hello | sha256sum`
    let hello: OciDigest =
        "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
            .parse()
            .unwrap();
    let write = |bytes: &[u8]| {
        let mut writer = blobs.writer().unwrap();
        writer.write_all(bytes).unwrap();
        writer
    };
    assert!(matches!(blobs.open(&hello), Err(BlobError::Missing { .. })));
    let wrong = write(b"hellO").commit(Some((&hello, 5)));
    assert!(matches!(wrong, Err(BlobError::Digest { .. })));
    let short = write(b"hell").commit(Some((&hello, 5)));
    assert!(matches!(
        short,
        Err(BlobError::Size {
            wanted: 5,
            got: 4,
            ..
        })
    ));
    drop(write(b"hello"));
    assert!(
        !blobs.contains(&hello),
        "nothing is published before the commit"
    );
    assert_eq!(
        write(b"hello").commit(Some((&hello, 5))).unwrap(),
        (hello, 5)
    );
    assert!(blobs.contains(&hello));
    assert!(matches!(
        blobs.read(&hello, 4),
        Err(BlobError::TooLarge { .. })
    ));
    fs::write(blobs.path(&hello), "hellO").unwrap();
    assert!(matches!(
        blobs.read(&hello, 5),
        Err(BlobError::Digest { .. })
    ));
    assert!(!blobs.contains(&hello), "a damaged one is gone");
    let left = fs::read_dir(store.path().join("blobs/sha256")).unwrap();
    assert!(
        left.flatten()
            .all(|entry| entry.file_type().unwrap().is_dir()),
        "nothing aside"
    );
}

#[test]
fn records_are_found_by_key_and_by_slot() {
    let Fixture { store, dir: _dir } = Fixture::new();
    let records = store.records();
    let (first, second) = (record(&store, 1), record(&store, 2));
    assert!(records.lookup(&first.key).unwrap().is_none());
    assert!(records.latest(&first.slot, "exec").unwrap().is_none());
    records.publish(&first).unwrap();
    records.publish(&second).unwrap();
    assert_eq!(records.lookup(&first.key).unwrap(), Some(first.clone()));
    assert_eq!(
        records.latest(&first.slot, "exec").unwrap(),
        Some(second.clone())
    );
    assert!(records.latest(&first.slot, "file").unwrap().is_none());
    assert!(records.latest("elsewhere", "exec").unwrap().is_none());

    let hex = second.key.hex();
    let path = store.path().join("records").join(&hex[..2]).join(&hex);
    let good = fs::read(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        for bytes in [&bad[..], &good[..at]] {
            fs::write(&path, bytes).unwrap();
            let found = records.lookup(&second.key);
            assert!(
                matches!(found, Err(RecordError::Damaged { .. })),
                "byte {at}"
            );
            assert!(
                records.lookup(&second.key).unwrap().is_none(),
                "it is removed"
            );
        }
    }
    // A good record under another key is not an answer.
    let wrong = CacheKey::from_bytes([7; 32]);
    let path = store.path().join("records/07").join(wrong.hex());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &good).unwrap();
    assert!(matches!(
        records.lookup(&wrong),
        Err(RecordError::Damaged { .. })
    ));
}

/// A slot takes no block of its own, and leads to a record however it was written.
#[test]
fn slots_are_names_of_records() {
    let Fixture { dir: _dir, store } = Fixture::new();
    let (first, second) = (record(&store, 1), record(&store, 2));
    let records = store.records();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let slot = || file::below(&store.path().join("slots"), 2).unwrap();
    for new in [&first, &second, &first] {
        records.publish(new).unwrap();
        assert_eq!(inode(&slot()[0]), inode(&records.path(&new.key)));
        assert_eq!(
            records.latest("stage 0, step 1", "exec").unwrap().as_ref(),
            Some(new)
        );
        assert_eq!(slot().len(), 1);
    }
    let below = slot()[0].parent().unwrap().to_owned();
    assert!(file::list_aside(&below).unwrap().is_empty());

    // Where there are no hard links, and in stores from before.
    let hex = second.key.hex();
    let path = slot().remove(0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, hex).unwrap();
    assert_eq!(
        records.latest("stage 0, step 1", "exec").unwrap(),
        Some(second)
    );

    // A name alone finds nothing: the record was removed, and only what led to it is left.
    records.publish(&first).unwrap();
    fs::remove_file(records.path(&first.key)).unwrap();
    assert_eq!(records.latest("stage 0, step 1", "exec").unwrap(), None);
    fs::write(&path, "damaged").unwrap();
    assert_eq!(records.latest("stage 0, step 1", "exec").unwrap(), None);
    // Nothing that could be linked: not there.
    assert!(
        !store
            .journal
            .link(&store.path().join("none"), &path)
            .unwrap()
    );
}

#[test]
fn what_is_known_of_layers() {
    let Fixture { store, dir: _dir } = Fixture::new();
    let layer = store.trees().empty();
    let blob = |seed, compression| LayerBlob {
        digest: OciDigest::from_bytes([seed; 32]),
        diff_id: OciDigest::from_bytes([seed + 1; 32]),
        size: 10,
        tar_size: 20,
        compression,
        layout: Layout::Tar,
    };
    let options = |compression, clamp| BlobOptions { compression, clamp };
    let gzip = Compression::Gzip { level: 6 };
    let made = [
        (options(gzip, None), blob(1, gzip)),
        (options(gzip, Some(0)), blob(2, gzip)),
        (options(Compression::None, None), blob(3, Compression::None)),
    ];
    for (options, blob) in &made {
        assert_eq!(store.layer_blob(&layer.tree, options).unwrap(), None);
        store.set_layer_blob(&layer.tree, options, blob).unwrap();
    }
    for (options, blob) in &made {
        assert_eq!(
            store.layer_blob(&layer.tree, options).unwrap().as_ref(),
            Some(blob)
        );
    }
    let plain = store.layer_blobs(&layer.tree).unwrap();
    assert_eq!(plain, [blob(1, gzip), blob(3, Compression::None)]);

    // What another version would have written differently serves as a source of bytes only.
    let path = store.sharded("layer-blobs", &layer.tree.hex());
    let text = fs::read_to_string(&path).unwrap();
    let version = format!("\"version\":{BLOB_VERSION}");
    assert!(text.contains(&version), "{text}");
    fs::write(&path, text.replace(&version, "\"version\":1")).unwrap();
    assert_eq!(store.layer_blob(&layer.tree, &made[0].0).unwrap(), None);
    assert_eq!(store.layer_blobs(&layer.tree).unwrap(), plain);

    // Nor what a later version wrote in another layout, which is kept for it.
    let newer = text.replace("\"size\":10", "\"layout\":\"estargz\",\"size\":10");
    fs::write(&path, newer).unwrap();
    for (options, blob) in &made {
        assert_eq!(store.layer_blob(&layer.tree, options).unwrap(), None);
        assert_eq!(store.known_blob(&layer.tree, options).unwrap(), None);
        let known = store.written_with(&layer.tree, &blob.digest).unwrap();
        assert_eq!(known, None);
    }
    assert_eq!(store.layer_blobs(&layer.tree).unwrap().len(), 2);
    let (options, blob) = &made[0];
    for _ in 0..2 {
        store.set_layer_blob(&layer.tree, options, blob).unwrap();
        let known = store.layer_blob(&layer.tree, options).unwrap();
        assert_eq!(known.as_ref(), Some(blob));
        assert_eq!(store.layer_blobs(&layer.tree).unwrap().len(), 3);
    }
    let known = KnownLayer {
        layer,
        diff_id: OciDigest::from_bytes([5; 32]),
        tar_size: 1024,
    };
    let digest = OciDigest::from_bytes([4; 32]);
    assert_eq!(store.known_layer(&digest).unwrap(), None);
    store.set_known_layer(&digest, &known).unwrap();
    assert_eq!(store.known_layer(&digest).unwrap(), Some(known));
}

/// A tree of one file of `bytes`, and how its bytes are asked for.
fn one_file(store: &Store, bytes: &[u8]) -> TreeRef {
    let mut builder = crate::TreeBuilder::new();
    let node = crate::NewNode::File(crate::fixture::node(bytes));
    builder.insert(b"file", crate::fixture::meta(0o644), node);
    builder.finish(store.trees())
}

#[test]
fn frames_are_found_as_long_as_their_blob_is_there() {
    let Fixture { store, dir } = Fixture::new();
    let options = BlobOptions {
        compression: Compression::Gzip { level: 1 },
        clamp: None,
    };
    let write = |bytes: &[u8]| {
        let content = dir.path().join("content");
        fs::write(&content, bytes).unwrap();
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let open = |_: &[u8], _: &crate::FileNode| {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            fs::File::open(&content).map(crate::FileBytes::from)
        };
        let mut writer = store.blobs().unhashed_writer().unwrap();
        let mut known = 0;
        let mut find = || {
            let earlier = store.earlier_frames();
            known = earlier.count();
            earlier
        };
        let mut reuse = crate::Reuse::new(&mut find);
        let layer = one_file(&store, bytes).tree;
        let trees = store.trees();
        let cancel = CancelToken::new();
        let blob = crate::write_layer_again(
            trees,
            &layer,
            &options,
            &open,
            &mut writer,
            &cancel,
            &mut reuse,
        )
        .unwrap();
        store.set_frames(&blob.digest, &reuse.table).unwrap();
        writer.commit_as(&blob.digest, blob.size).unwrap();
        let read = store.blobs().read(&blob.digest, blob.size);
        assert_eq!(read.map(|bytes| bytes.len() as u64).unwrap(), blob.size);
        (known, blob.digest)
    };
    let mut bytes = crate::fixture::noise(1, 3 << 20);
    let (known, first) = write(&bytes);
    assert_eq!(known, 0);
    bytes[3 << 19] ^= 1;
    let (known, second) = write(&bytes);
    assert_eq!(known, 1);
    assert_ne!(first, second);

    // A blob that is gone, one that is damaged, and a table that is.
    fs::remove_file(store.blobs().path(&first)).unwrap();
    assert_eq!(store.earlier_frames().count(), 1);
    let path = store.blobs().path(&second);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[1..]).unwrap();
    assert_eq!(store.earlier_frames().count(), 0);
    fs::write(&path, &whole).unwrap();
    assert_eq!(store.earlier_frames().count(), 1);
    let hex = second.hex();
    let table = store.path().join("frames").join(&hex[..2]).join(&hex);
    fs::write(&table, b"rbframe1").unwrap();
    assert_eq!(store.earlier_frames().count(), 0);
}

#[test]
fn directory_forms_are_adopted_once() {
    let Fixture { store, dir: _dir } = Fixture::new();
    let layer = store.trees().empty().tree;
    let make = |content: &str| {
        let scratch = store.scratch().unwrap();
        let made = scratch.path().join("made");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("f"), content).unwrap();
        let adopted = store
            .adopt_layer_dir(&layer, "map:0 1000/1", &made)
            .unwrap();
        assert!(scratch.path().exists());
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
        adopted
    };
    assert_eq!(store.layer_dir(&layer, "map:0 1000/1"), None);
    let first = make("first");
    assert_eq!(make("second"), first);
    assert_eq!(store.layer_dir(&layer, "map:0 1000/1"), Some(first.clone()));
    assert_eq!(store.layer_dir(&layer, "other"), None);
    assert_eq!(fs::read_to_string(first.join("f")).unwrap(), "first");
    for left in ["tmp", "trash"] {
        assert_eq!(
            fs::read_dir(store.path().join(left)).unwrap().count(),
            0,
            "{left}"
        );
    }
}

#[test]
fn images_are_listed_by_name() {
    let Fixture { store, dir: _dir } = Fixture::new();
    let image = |seed| crate::images::StoredImage {
        digest: OciDigest::from_bytes([seed; 32]),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        id: OciDigest::from_bytes([seed; 32]),
        repo_digest: None,
        created: 5,
        size: 6,
        rung: None,
        referrers: Vec::new(),
    };
    let images = store.images();
    for (seed, name) in [
        (1, "docker.io/library/b:1"),
        (2, "docker.io/library/a:1"),
        (3, "../x"),
    ] {
        images.set(name, &image(seed)).unwrap();
    }
    images.set("docker.io/library/b:1", &image(4)).unwrap();
    let list = images.list().unwrap();
    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["../x", "docker.io/library/a:1", "docker.io/library/b:1"]
    );
    assert_eq!(list[2].1, image(4));
    assert!(images.remove("../x").unwrap() && !images.remove("../x").unwrap());
    assert_eq!(images.get("../x").unwrap(), None);
}
