use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::process::Command;

use rbuild_llb::CancelToken;
use sha2::Digest as _;
use sha2::Sha256;

use super::*;
use crate::Meta;
use crate::NewNode;
use crate::Node;
use crate::ScanKind;
use crate::Timestamp;
use crate::TreeRef;
use crate::fixture::Fixture;
use crate::fixture::PLAIN;
use crate::fixture::TIME;
use crate::fixture::meta;
use crate::fixture::node;
use crate::fixture::noise;
use crate::fixture::run;

mod frames;
mod hostile;

fn sha256(bytes: &[u8]) -> OciDigest {
    OciDigest::from_bytes(Sha256::digest(bytes).into())
}

fn at(secs: i64, nanos: u32) -> Timestamp {
    Timestamp { secs, nanos }
}

/// One of everything that a layer can hold.
fn everything(fixture: &mut Fixture) -> TreeRef {
    let xattrs = |pairs: &[(&[u8], &[u8])]| {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()));
        pairs.collect()
    };
    fixture.dir("a", 0o1777);
    fixture.builder.opaque(b"a");
    let caps = Meta {
        uid: 1000,
        gid: 100,
        xattrs: xattrs(&[
            (
                b"security.capability",
                b"\x01\x00\x00\x02\x00\n\x00=\x00\xff",
            ),
            (b"user.b", b""),
            (b"user.a", b"1"),
        ]),
        mtime: at(TIME, 999_999_999),
        ..meta(0o4755)
    };
    fixture.file_with(b"a/caps", caps, b"x");
    let builder = &mut fixture.builder;
    let device = NewNode::Char {
        major: 1,
        minor: 259,
    };
    builder.insert(b"a/dev", meta(0o666), device);
    let device = NewNode::Block { major: 8, minor: 1 };
    builder.insert(b"a/disk", meta(0o660), device);
    builder.insert(b"a/fifo", meta(0o600), NewNode::Fifo);
    builder.whiteout(b"a/gone");
    fixture.file("a/first", &[b'y'; 1024]);
    assert!(fixture.builder.link(b"a/second", b"a/first"));
    let ids = Meta {
        uid: 2_097_152,
        gid: u32::MAX - 1,
        mtime: at(-2, 500_000_000),
        ..meta(0o644)
    };
    fixture.file_with(b"a/ids", ids, b"");
    fixture.symlink("a/long", &"t".repeat(101));
    let far = Meta {
        mtime: at(8_589_934_592, 0),
        ..meta(0o777)
    };
    let target = "ü".into();
    let node = NewNode::Symlink { target };
    fixture.builder.insert(b"a/umlaut", far, node);
    let long = "d".repeat(90);
    fixture.dir(&long, 0o755);
    fixture.dir(&format!("{long}/{}", "e".repeat(9)), 0o755);
    fixture.file(&format!("{long}/{}", "f".repeat(9)), b"100");
    fixture.file(&format!("{long}/{}", "g".repeat(10)), b"101");
    let deep = format!("z/{}/{}", "p".repeat(60), "q".repeat(60));
    fixture.file(&format!("{deep}/{}", "r".repeat(60)), b"split");
    let tagged = Meta {
        xattrs: xattrs(&[(b"user.a", b"1")]),
        ..meta(0o644)
    };
    let path = format!("{deep}/{}", "x".repeat(60));
    fixture.file_with(path.as_bytes(), tagged, b"pax");
    fixture.file(&format!("z/{}", "s".repeat(120)), b"s");
    fixture.dir(&format!("z/{}", "t".repeat(98)), 0o755);
    fixture.file(
        &format!("z{}", format!("/{}", "u".repeat(30)).repeat(10)),
        b"u",
    );
    fixture.dir(&format!("z/{}/{}", "v".repeat(97), "w".repeat(60)), 0o755);
    fixture.file_with(b"\xff", meta(0o644), b"binary");
    fixture.finish()
}

/// The expected digest is of the archive that a Go 1.26 program wrote with `archive/tar` for the same entries, in this
/// order, each with `Format: tar.FormatPAX` and whole seconds: what containerd and BuildKit do.
#[test]
fn the_tar_is_byte_for_byte_what_go_writes() {
    let mut fixture = Fixture::new();
    let layer = everything(&mut fixture);
    let (blob, written) = fixture.write(layer, &PLAIN).unwrap();
    assert_eq!(
        written.diff_id.hex(),
        "5d8471d0d36b88e176527eb65e1fc0ceb646e7025272e58386c3557d923a69e2"
    );
    assert_eq!(written.digest, written.diff_id);
    assert_eq!(written.digest, sha256(&blob));
    assert_eq!(written.size, blob.len() as u64);
    assert_eq!(written.tar_size, written.size);
}

#[test]
fn layers_come_back_as_they_were() {
    let mut fixture = Fixture::new();
    let layer = everything(&mut fixture);
    // Big enough for many frames, with files that span some.
    for at in 0..40 {
        fixture.file(&format!("small/{at}"), &noise(at, 40_000));
    }
    for (name, len) in [("x", 1 << 20), ("y", (3 << 20) + 5), ("z", (1 << 20) - 1)] {
        fixture.file(&format!("big/{name}"), &noise(1, len));
    }
    let more = fixture.finish();
    let layer = fixture.trees.merge_layers(layer, more);
    for compression in [
        Compression::None,
        Compression::Gzip { level: 6 },
        Compression::Zstd { level: 3 },
    ] {
        let options = BlobOptions {
            compression,
            clamp: None,
        };
        let (blob, written) = fixture.write(layer, &options).unwrap();
        assert_eq!(written.digest, sha256(&blob));
        let read = read_layer(&fixture.trees, &blob[..], None).unwrap();
        assert_eq!(read.layer.content, layer.content);
        assert_eq!(read.diff_id, written.diff_id);
        assert_eq!(read.tar_size, written.tar_size);
    }
}

impl crate::Trees {
    /// Two layers without common paths as one.
    fn merge_layers(&self, a: TreeRef, b: TreeRef) -> TreeRef {
        let mut entries = Vec::new();
        for layer in [a, b] {
            let (_, dir) = self.root_dir(&layer.tree).unwrap();
            entries.extend(self.get(&dir.tree).unwrap().entries.clone());
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let dir = crate::DirNode {
            implied: true,
            ..crate::DirNode::of(self.put(crate::Directory { entries }))
        };
        self.put_root(Meta::default(), dir)
    }
}

#[test]
fn foreign_tools_read_the_blobs() {
    let mut fixture = Fixture::new();
    let layer = everything(&mut fixture);
    for (compression, name, test) in [
        (Compression::Gzip { level: 9 }, "layer.tar.gz", "gzip"),
        (Compression::Zstd { level: 1 }, "layer.tar.zst", "zstd"),
    ] {
        let options = BlobOptions {
            compression,
            clamp: Some(TIME),
        };
        let (blob, _) = fixture.write(layer, &options).unwrap();
        let path = fixture.path(name);
        fs::write(&path, &blob).unwrap();
        if test == "zstd" && Command::new("zstd").arg("--version").output().is_err() {
            continue;
        }
        run(Command::new(test).arg("-t").arg(&path));
        let list = run(Command::new("tar")
            .args(["--numeric-owner", "-tvf"])
            .arg(&path));
        let lines: Vec<Vec<&str>> = list
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let find = |name: &str| -> String {
            let line = lines.iter().find(|line| line.contains(&name));
            line.unwrap_or_else(|| panic!("{name}: {list}")).join(" ")
        };
        assert_eq!(find("a/"), "drwxrwxrwt 0/0 0 2023-11-14 22:13 a/");
        assert_eq!(
            find("a/caps"),
            "-rwsr-xr-x 1000/100 1 2023-11-14 22:13 a/caps"
        );
        assert_eq!(find("a/dev"), "crw-rw-rw- 0/0 1,259 2023-11-14 22:13 a/dev");
        assert_eq!(
            find("a/ids"),
            "-rw-r--r-- 2097152/4294967294 0 1969-12-31 23:59 a/ids"
        );
        assert_eq!(
            find("a/second"),
            "hrw-r--r-- 0/0 0 2023-11-14 22:13 a/second link to a/first"
        );
        // Clamped.
        assert_eq!(
            find("a/umlaut"),
            "lrwxrwxrwx 0/0 0 2023-11-14 22:13 a/umlaut -> ü"
        );
        assert_eq!(lines.len(), 23);
        assert_eq!(lines[1].last(), Some(&"a/.wh..wh..opq"));
    }
}

#[test]
fn a_described_root_is_the_first_entry() {
    let mut fixture = Fixture::new();
    fixture.dir("/", 0o700);
    fixture.file("x", b"1");
    let layer = fixture.finish();
    let (blob, _) = fixture.write(layer, &PLAIN).unwrap();
    fs::write(fixture.path("tar"), &blob).unwrap();
    let list = run(Command::new("tar").arg("-tf").arg(fixture.path("tar")));
    assert_eq!(list, "./\nx\n");
    let read = read_layer(&fixture.trees, &blob[..], None).unwrap();
    assert_eq!(read.layer, layer);
}

/// Archives of a directory by GNU tar, in all its formats, against our own look at the directory.
#[test]
fn archives_by_gnu_tar_are_read() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    let long = source.join("l".repeat(120)).join("m".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("näme"), "long").unwrap();
    fs::write(source.join("empty"), "").unwrap();
    fs::write(source.join("one"), noise(1, 70_000)).unwrap();
    fs::hard_link(source.join("one"), source.join("two")).unwrap();
    std::os::unix::fs::symlink("x".repeat(200), source.join("link")).unwrap();
    run(Command::new("mkfifo").arg(source.join("fifo")));
    let sparse = |name: &str, pieces: u64| {
        use std::os::unix::fs::FileExt as _;
        let file = fs::File::create(source.join(name)).unwrap();
        for piece in 0..pieces {
            file.write_all_at(&noise(piece, 4096), piece << 16).unwrap();
        }
        file.set_len((pieces << 16) + 777).unwrap();
    };
    sparse("sparse-few", 3);
    sparse("sparse-many", 40);
    sparse("sparse-none", 0);

    let scanned = crate::scan_dir(
        &fixture.trees,
        &source,
        ScanKind::Plain,
        &CancelToken::new(),
    )
    .unwrap();
    for arguments in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu", "--gzip"],
    ] {
        let path = fixture.path("source.tar");
        run(Command::new("tar")
            .args(arguments)
            .args(["--numeric-owner", "-C"])
            .arg(&source)
            .arg("-cf")
            .arg(&path)
            .arg("."));
        let read = read_layer(&fixture.trees, fs::File::open(&path).unwrap(), None).unwrap();
        let diff = fixture.trees.diff(&scanned.tree, &read.layer.tree).unwrap();
        let mut wrong = Vec::new();
        fixture
            .trees
            .walk(&diff.tree, &mut |path, entry| {
                let ours = fixture
                    .trees
                    .lookup(&scanned.tree, path, crate::Follow::NotLast)
                    .unwrap();
                if ours.is_none_or(|ours| ours.entry.content() != entry.content())
                    && !matches!(&entry.node, Node::Dir(dir) if dir.implied)
                {
                    wrong.push(show(path));
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(
            read.layer.content, scanned.content,
            "{arguments:?}: {wrong:?}"
        );
    }
    // Old tars have no room for these names.
    for name in ["link", "sparse-few", "sparse-many", "sparse-none"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    fs::rename(long.join("näme"), source.join("short")).unwrap();
    fs::remove_dir_all(long.parent().unwrap()).unwrap();
    let scanned = crate::scan_dir(
        &fixture.trees,
        &source,
        ScanKind::Plain,
        &CancelToken::new(),
    )
    .unwrap();
    fs::remove_file(source.join("fifo")).unwrap();
    for format in ["v7", "oldgnu", "ustar"] {
        let path = fixture.path("old.tar");
        run(Command::new("tar")
            .arg(format!("--format={format}"))
            .args(["--numeric-owner", "-C"])
            .arg(&source)
            .arg("-cf")
            .arg(&path)
            .arg("."));
        let read = read_layer(&fixture.trees, fs::File::open(&path).unwrap(), None).unwrap();
        let diff = fixture.trees.diff(&read.layer.tree, &scanned.tree).unwrap();
        let mut added = Vec::new();
        fixture
            .trees
            .walk(&diff.tree, &mut |path, entry| {
                // Times lose their fraction.
                let same = fixture
                    .trees
                    .lookup(&read.layer.tree, path, crate::Follow::NotLast)
                    .unwrap()
                    .is_some_and(|found| found.entry.content() == entry.content());
                if !same && !path.is_empty() {
                    added.push(show(path));
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(added, ["fifo"], "{format}");
    }
}

#[test]
fn sub_second_times_and_binary_xattrs_are_read() {
    let fixture = Fixture::new();
    let mut tar = Vec::new();
    let mut records = Vec::new();
    crate::tar::pax::push(&mut records, b"SCHILY.xattr.user.x", b"a\nb=\0\xff");
    crate::tar::pax::push(&mut records, b"mtime", b"-1.25");
    crate::tar::pax::push(&mut records, b"uid", b"4000000000");
    hostile::entry(&mut tar, b'x', b"x", &records);
    hostile::entry(&mut tar, b'0', b"file", b"");
    let read = read_layer(&fixture.trees, &tar[..], None).unwrap();
    let found = fixture
        .trees
        .lookup(&read.layer.tree, b"file", crate::Follow::All)
        .unwrap()
        .unwrap();
    assert_eq!(found.entry.meta.mtime, at(-2, 750_000_000));
    assert_eq!(found.entry.meta.uid, 4_000_000_000);
    assert_eq!(
        found.entry.meta.xattrs[b"user.x".as_slice()],
        b"a\nb=\0\xff"
    );
}

#[test]
fn a_file_that_changed_is_named() {
    for len in [10, (2 << 20) + 10] {
        let changes: [fn(&std::path::Path); 4] = [
            |path| fs::write(path, "other").unwrap(),
            |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[5] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes.push(0);
                fs::write(path, bytes).unwrap();
            },
            |path| fs::File::create(path).map(drop).unwrap(),
        ];
        for change in changes {
            let mut fixture = Fixture::new();
            let bytes = noise(7, len);
            fixture.file("dir/same", &noise(8, len));
            fixture.file("dir/it", &bytes);
            let layer = fixture.finish();
            change(&fixture.content(&node(&bytes)));
            match fixture.write(layer, &PLAIN) {
                Err(LayerError::FileChanged { path }) => assert_eq!(path, "dir/it"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_missing_file_and_a_reserved_name_are_errors() {
    let mut fixture = Fixture::new();
    fixture.file("x", b"1");
    let layer = fixture.finish();
    fs::remove_file(fixture.content(&node(b"1"))).unwrap();
    assert!(matches!(
        fixture.write(layer, &PLAIN),
        Err(LayerError::ReadFile { path, .. }) if path == "x"
    ));
    fixture.file("d/.wh.x", b"1");
    let layer = fixture.finish();
    assert!(matches!(
        fixture.write(layer, &PLAIN),
        Err(LayerError::Reserved { path }) if path == "d/.wh.x"
    ));
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let mut fixture = Fixture::new();
    for at in 0..60 {
        fixture.file(&format!("f{at}"), &noise(at, 100_000));
    }
    fixture.file("big", &noise(99, 5 << 20));
    let layer = fixture.finish();
    let options = BlobOptions {
        compression: Compression::Gzip { level: 1 },
        clamp: None,
    };
    let (expected, _) = fixture.write(layer, &options).unwrap();
    for threads in [1, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let (blob, _) = pool.install(|| fixture.write(layer, &options).unwrap());
        assert!(blob == expected);
    }
    // Who cannot get a thread to write on writes.
    let (blob, _) = crate::threads::t::without(|| fixture.write(layer, &options).unwrap());
    assert!(blob == expected);
}

#[test]
fn a_cancelled_layer_stops() {
    let mut fixture = Fixture::new();
    fixture.file("x", b"1");
    let layer = fixture.finish();
    let cancel = CancelToken::new();
    cancel.cancel();
    let result = write_layer(
        &fixture.trees,
        &layer.tree,
        &PLAIN,
        &fixture.bytes(),
        &mut io::sink(),
        &cancel,
    );
    assert!(matches!(result, Err(LayerError::Cancelled)));
}

#[test]
fn a_panic_while_reading_is_not_a_deadlock() {
    let mut fixture = Fixture::new();
    fixture.file("x", b"1");
    let layer = fixture.finish();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        write_layer(
            &fixture.trees,
            &layer.tree,
            &PLAIN,
            &|_, _| panic!("a bug"),
            &mut io::sink(),
            &CancelToken::new(),
        )
    }));
    assert!(result.is_err());
}

#[test]
fn one_change_moves_few_cuts() {
    let frames = |changed: Option<usize>, inserted: bool| {
        let mut fixture = Fixture::new();
        for at in 0..400usize {
            let len = 2_000 + at * 97 % 60_000 + usize::from(changed == Some(at)) * 10;
            fixture.file(&format!("dir{}/f{at:03}", at / 50), &noise(at as u64, len));
        }
        fixture.file("dir4/big", &noise(1000, (6 << 20) + 77));
        if inserted {
            fixture.file("dir3/f150a", b"new");
        }
        let layer = fixture.finish();
        let mut frames = Vec::new();
        let open = fixture.bytes();
        plan::plan(&fixture.trees, &layer.tree, None, &open, &mut |frame| {
            let mut sum = blake3::Hasher::new();
            for piece in &frame.pieces {
                match piece {
                    plan::Piece::Bytes(bytes) => sum.update(bytes),
                    plan::Piece::Small { node, .. } => sum.update(node.digest.as_bytes()),
                    plan::Piece::Part { file, offset, .. } => sum
                        .update(file.node.digest.as_bytes())
                        .update(&offset.to_le_bytes()),
                };
            }
            frames.push((frame.len, sum.finalize()));
            Ok(())
        })
        .unwrap();
        frames
    };
    let before = frames(None, false);
    let tar: u64 = before.iter().map(|(len, _)| len).sum();
    assert!(before.len() as u64 >= tar >> 21, "{}", before.len());
    assert!(before.iter().all(|(len, _)| *len <= (2 << 20) + 4096));
    let known: BTreeSet<[u8; 32]> = before.iter().map(|(_, sum)| *sum.as_bytes()).collect();
    for after in [frames(Some(170), false), frames(None, true)] {
        let new = after
            .iter()
            .filter(|(_, sum)| !known.contains(sum.as_bytes()))
            .count();
        assert!((1..=3).contains(&new), "{new} of {}", after.len());
    }
}

#[test]
fn single_files_are_extracted_once_under_all_their_names() {
    let mut fixture = Fixture::new();
    fixture.file("a/one", b"linked");
    assert!(fixture.builder.link(b"z/two", b"a/one"));
    assert!(fixture.builder.link(b"z/three", b"a/one"));
    fixture.file("b", &noise(3, 300_000));
    fixture.file("c", b"unwanted");
    let layer = fixture.finish();
    let options = BlobOptions {
        compression: Compression::Zstd { level: 1 },
        clamp: None,
    };
    let (blob, _) = fixture.write(layer, &options).unwrap();
    let wanted = |paths: &[&str]| -> BTreeSet<Vec<u8>> {
        paths.iter().map(|path| path.as_bytes().to_vec()).collect()
    };
    let extract = |layer: TreeRef, paths: &[&str]| {
        let mut got = Vec::new();
        extract_files(
            &fixture.trees,
            &layer.tree,
            &blob[..],
            &wanted(paths),
            &mut |names, reader| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes)?;
                let names: Vec<String> = names.iter().map(|name| show(name)).collect();
                got.push((names.join(" "), bytes));
                Ok(())
            },
        )?;
        Ok::<_, LayerError>(got)
    };
    assert_eq!(
        extract(layer, &["z/two", "b", "z/three"]).unwrap(),
        [
            ("z/three z/two".to_owned(), b"linked".to_vec()),
            ("b".to_owned(), noise(3, 300_000)),
        ]
    );
    assert!(extract(layer, &[]).unwrap().is_empty());
    assert!(matches!(
        extract(layer, &["nothing"]),
        Err(LayerError::Entry { .. })
    ));
    // A tree that is not this blob's.
    let mut other = crate::TreeBuilder::new();
    other.insert(b"c", meta(0o644), NewNode::File(node(b"something")));
    other.insert(b"d", meta(0o644), NewNode::File(node(b"something")));
    let other = other.finish(&fixture.trees);
    for path in ["c", "d"] {
        assert!(matches!(
            extract(other, &[path]),
            Err(LayerError::FileChanged { path: named }) if named == path
        ));
    }
}
