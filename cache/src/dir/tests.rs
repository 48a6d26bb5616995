use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rbuild_llb::CancelToken;

use super::*;
use crate::Follow;
use crate::LayerError;
use crate::Meta;
use crate::NewNode;
use crate::Node;
use crate::TreeRef;
use crate::Trees;
use crate::fixture::Fixture;
use crate::fixture::PLAIN;
use crate::fixture::mine;
use crate::fixture::node;
use crate::fixture::noise;
use crate::read_layer;

fn scan(trees: &Trees, dir: &Path) -> TreeRef {
    scan_dir(trees, dir, ScanKind::Upper, &CancelToken::new()).unwrap()
}

fn write(fixture: &Fixture, layer: TreeRef, owners: Ownership) -> Result<(), LayerError> {
    let into = fixture.path("into");
    if into.exists() {
        fs::remove_dir_all(&into).unwrap();
    }
    fs::create_dir(&into).unwrap();
    write_dir(
        &fixture.trees,
        &layer.tree,
        &into,
        &fixture.open(),
        owners,
        &CancelToken::new(),
    )
}

/// A layer with everything that a directory form can hold.
fn everything(fixture: &mut Fixture) -> TreeRef {
    fixture.builder.set_root(mine(0o751));
    let mut dir = mine(0o555);
    dir.xattrs.insert(b"user.dir".to_vec(), b"a\n\0".to_vec());
    fixture.builder.insert(b"read-only", dir, NewNode::Dir);
    fixture.file_with(b"read-only/suid", mine(0o6755), b"1");
    fixture.file_with(b"read-only/none", mine(0o400), &noise(1, 300_000));
    let mut file = mine(0o444);
    file.xattrs
        .insert(b"user.overlay.own".to_vec(), b"1".to_vec());
    file.xattrs.insert(b"user.big".to_vec(), vec![7; 1000]);
    fixture.file_with(b"tagged", file, b"");
    if rustix::process::getuid().is_root() {
        let mut file = mine(0o755);
        // setcap cap_net_bind_service+ep
        let cap = b"\x01\x00\x00\x02\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        file.xattrs.insert(CAPABILITY.to_vec(), cap.to_vec());
        fixture.file_with(b"capable", file, b"2");
    }
    fixture
        .builder
        .insert(b"opaque", mine(0o1777), NewNode::Dir);
    fixture.builder.opaque(b"opaque");
    fixture.builder.whiteout(b"opaque-not/gone");
    fixture.builder.whiteout(b"gone");
    fixture
        .builder
        .insert(b"opaque-not", mine(0o700), NewNode::Dir);
    fixture.builder.insert(b"x", mine(0o711), NewNode::Dir);
    fixture.file_with(b"x/one", mine(0o640), b"linked");
    assert!(fixture.builder.link(b"a-two", b"x/one"));
    assert!(fixture.builder.link(b"x/three", b"x/one"));
    let target = b"../../../etc/passwd".to_vec();
    fixture
        .builder
        .insert(b"x/link", mine(0o777), NewNode::Symlink { target });
    fixture.builder.insert(b"fifo", mine(0o604), NewNode::Fifo);
    for at in 0..200 {
        fixture.file_with(format!("x/many-{at}").as_bytes(), mine(0o600), b"same");
    }
    fixture.finish()
}

#[test]
fn a_layer_survives_on_disk() {
    let mut fixture = Fixture::new();
    let layer = everything(&mut fixture);
    write(&fixture, layer, Ownership::Keep).unwrap();
    let into = fixture.path("into");
    assert_eq!(scan(&fixture.trees, &into), layer);

    // The kernel's names for the same things (filesystems/overlayfs.rst).
    let whiteout = fs::symlink_metadata(into.join("opaque-not/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    let mut value = [0; 8];
    let path = into.join("opaque");
    let len = rustix::fs::getxattr(&path, "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..len], b"y");
    let path = into.join("tagged");
    let len = rustix::fs::getxattr(&path, "user.overlay.overlay.own", &mut value).unwrap();
    assert_eq!(&value[..len], b"1");
    let inode = |name: &str| fs::symlink_metadata(into.join(name)).unwrap().ino();
    assert_eq!(inode("a-two"), inode("x/one"));
    assert_eq!(inode("x/three"), inode("x/one"));
    assert_ne!(inode("x/many-1"), inode("x/many-2"));
}

#[test]
fn a_blob_is_unpacked_as_it_is_read() {
    let mut fixture = Fixture::new();
    let layer = everything(&mut fixture);
    let (blob, _) = fixture.write(layer, &PLAIN).unwrap();
    let into = fixture.path("into");
    fs::create_dir(&into).unwrap();
    let mut unpack = Unpack::new(&into, Ownership::Keep).unwrap();
    let read = read_layer(&fixture.trees, &blob[..], Some(&mut unpack)).unwrap();
    unpack.finish(&fixture.trees, &read.layer.tree).unwrap();
    assert_eq!(read.layer.content, layer.content);
    assert_eq!(scan(&fixture.trees, &into), read.layer);
}

#[test]
fn implied_directories_are_described_when_settled() {
    let mut fixture = Fixture::new();
    fixture.builder.set_root(mine(0o711));
    fixture.builder.insert(b"tmp", mine(0o1777), NewNode::Dir);
    let base = fixture.finish();
    fixture.file_with(b"tmp/x", mine(0o644), b"1");
    let layer = fixture.finish();
    let settled = fixture.trees.settle(&base.tree, &layer.tree).unwrap();
    write(&fixture, settled, Ownership::Keep).unwrap();
    let mode = |name: &str| {
        fs::metadata(fixture.path("into").join(name))
            .unwrap()
            .mode()
    };
    assert_eq!(mode("") & 0o7777, 0o711);
    assert_eq!(mode("tmp") & 0o7777, 0o1777);
}

/// Whose attribute is whose is in [`owner`]; here is what comes of it, there and back.
#[test]
fn recorded_owners_and_devices_come_back() {
    let mut fixture = Fixture::new();
    let of = |uid, gid, mode| Meta {
        uid,
        gid,
        ..mine(mode)
    };
    fixture.builder.set_root(of(0, 0, 0o755));
    fixture
        .builder
        .insert(b"home", of(1000, 1000, 0o750), NewNode::Dir);
    fixture.file_with(b"home/file", of(1000, 42, 0o4711), b"1");
    fixture.file_with(b"roots", of(0, 0, 0o444), b"2");
    let mut pretends = of(0, 0, 0o644);
    pretends.xattrs.insert(b"user.mine".to_vec(), b"1".to_vec());
    fixture.file_with(b"with-attribute", pretends, b"3");
    let disk = NewNode::Block {
        major: 259,
        minor: 300,
    };
    fixture.builder.insert(b"disk", of(0, 6, 0o660), disk);
    let null = NewNode::Char { major: 1, minor: 3 };
    fixture.builder.insert(b"null", of(0, 0, 0o666), null);
    let target = b"home".to_vec();
    let link = NewNode::Symlink { target };
    fixture.builder.insert(b"link", of(0, 0, 0o777), link);
    let layer = fixture.finish();
    write(&fixture, layer, Ownership::Recorded).unwrap();
    let into = fixture.path("into");
    let text = |path: &str| {
        let mut value = [0; 64];
        let len = rustix::fs::getxattr(into.join(path), OWNER, &mut value).ok()?;
        Some(String::from_utf8(value[..len].to_vec()).unwrap())
    };
    assert_eq!(text("home").as_deref(), Some("1000:1000"));
    assert_eq!(text("home/file").as_deref(), Some("1000:42"));
    assert_eq!(text("roots"), None);
    assert_eq!(text("null").as_deref(), Some("0:0:c:1:3"));
    let cancel = CancelToken::new();
    let back = scan_dir(&fixture.trees, &into, ScanKind::RecordedUpper, &cancel).unwrap();
    assert_eq!(back, layer);
}

/// What an image says of the attribute is not believed.
#[test]
fn an_images_own_attribute_of_that_name_is_no_owner() {
    let mut fixture = Fixture::new();
    let mut file = mine(0o644);
    (file.uid, file.gid) = (0, 0);
    file.xattrs.insert(OWNER.to_vec(), b"1:2".to_vec());
    fixture.file_with(b"file", file, b"1");
    let layer = fixture.finish();
    write(&fixture, layer, Ownership::Recorded).unwrap();
    let mut value = [0; 64];
    let found = rustix::fs::getxattr(fixture.path("into").join("file"), OWNER, &mut value);
    assert_eq!(found, Err(rustix::io::Errno::NODATA));
}

#[test]
fn devices_and_foreign_xattrs_live_in_the_tree_only() {
    let mut fixture = Fixture::new();
    let null = NewNode::Char { major: 1, minor: 3 };
    fixture.builder.insert(b"null", mine(0o666), null);
    let disk = NewNode::Block { major: 8, minor: 0 };
    fixture.builder.insert(b"disk", mine(0o660), disk);
    let mut file = mine(0o644);
    file.xattrs.insert(b"trusted.x".to_vec(), b"1".to_vec());
    file.xattrs
        .insert(b"security.selinux".to_vec(), b"1".to_vec());
    fixture.file_with(b"file", file, b"1");
    let layer = fixture.finish();
    write(&fixture, layer, Ownership::Logical).unwrap();
    let names: Vec<_> = fs::read_dir(fixture.path("into"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
}

#[test]
fn owners_are_kept_refused_or_left_to_the_tree() {
    let mut fixture = Fixture::new();
    let other = Meta {
        uid: 12345,
        gid: 6,
        ..mine(0o644)
    };
    fixture.file_with(b"etc/theirs", other, b"1");
    let layer = fixture.finish();
    assert!(matches!(
        write(&fixture, layer, Ownership::Single),
        Err(LayerError::Owner { path, uid: 12345, gid: 6 }) if path == "etc/theirs"
    ));
    write(&fixture, layer, Ownership::Logical).unwrap();
    let found = fs::metadata(fixture.path("into/etc/theirs")).unwrap();
    assert_eq!(found.uid(), rustix::process::getuid().as_raw());
    // Root may give files away, an ordinary user not, and root of a user namespace only to those in its map.
    match write(&fixture, layer, Ownership::Keep) {
        Ok(()) => {
            let found = fs::metadata(fixture.path("into/etc/theirs")).unwrap();
            assert_eq!((found.uid(), found.gid()), (12345, 6));
        }
        Err(LayerError::Owner { path, .. }) => assert_eq!(path, "etc/theirs"),
        Err(LayerError::Directory { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn files_are_checked_as_they_are_copied() {
    for change in [&b""[..], b"12x", b"1234", b"12"] {
        let mut fixture = Fixture::new();
        fixture.file("d/file", b"123");
        let layer = fixture.finish();
        fs::write(fixture.content(&node(b"123")), change).unwrap();
        assert!(matches!(
            write(&fixture, layer, Ownership::Logical),
            Err(LayerError::FileChanged { path }) if path == "d/file"
        ));
    }
}

/// Archives that try to write somewhere else, or use one name for several things, against what is on disk afterwards.
#[test]
fn hostile_archives_stay_in_their_directory() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let target = outside.to_str().unwrap();
    type Line<'a> = (u8, &'a str, &'a str);
    let cases: &[(&str, &[Line])] = &[
        (
            "through a link",
            &[(b'2', "evil", target), (b'0', "evil/victim", "pwned")],
        ),
        (
            "through a link in the middle",
            &[
                (b'5', "d", ""),
                (b'2', "d/evil", target),
                (b'0', "d/evil/x/victim", "pwned"),
            ],
        ),
        (
            "a link over a directory",
            &[
                (b'0', "evil/victim", "1"),
                (b'2', "evil", target),
                (b'0', "evil/new", "pwned"),
            ],
        ),
        (
            "a hard link to a link",
            &[
                (b'2', "sym", &format!("{target}/victim")),
                (b'1', "hard", "sym"),
                (b'0', "hard", "pwned"),
            ],
        ),
        (
            "a file over its own link",
            &[
                (b'0', "a", "1"),
                (b'1', "b", "a"),
                (b'0', "a", "22"),
                (b'0', "b/c", "3"),
            ],
        ),
        (
            "types in turn",
            &[
                (b'0', "x", "1"),
                (b'5', "x", ""),
                (b'0', "x/y", "1"),
                (b'6', "x", ""),
                (b'0', "x/z", "1"),
                (b'0', "x", "file"),
            ],
        ),
        (
            "a whiteout of what is there",
            &[(b'0', "x/y", "1"), (b'0', ".wh.x", ""), (b'0', ".wh.n", "")],
        ),
    ];
    for (what, lines) in cases {
        let mut tar = Vec::new();
        for (flag, name, text) in *lines {
            let (link, data) = match flag {
                b'1' | b'2' => (*text, ""),
                _ => ("", *text),
            };
            let mut header = ::tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.as_old_mut().linkflag = [*flag];
            header.set_size(data.len() as u64);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_cksum();
            tar.extend_from_slice(header.as_bytes());
            tar.extend_from_slice(data.as_bytes());
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        let into = fixture.path("into");
        fs::create_dir(&into).unwrap();
        let mut unpack = Unpack::new(&into, Ownership::Logical).unwrap();
        let read = read_layer(&fixture.trees, &tar[..], Some(&mut unpack)).unwrap();
        unpack.finish(&fixture.trees, &read.layer.tree).unwrap();
        let scanned = scan(&fixture.trees, &into);
        let ours = rustix::process::getuid().is_root();
        assert!(
            !ours || scanned.content == describe(&fixture, read.layer),
            "{what}"
        );
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"safe", "{what}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        fs::remove_dir_all(&into).unwrap();
    }
}

/// The content of a layer once its implied directories exist.
fn describe(fixture: &Fixture, layer: TreeRef) -> rbuild_llb::ContentDigest {
    let mut builder = crate::TreeBuilder::new();
    fixture
        .trees
        .walk(&layer.tree, &mut |path, entry| {
            match &entry.node {
                Node::Whiteout => builder.whiteout(path),
                node => {
                    let new = NewNode::of(node).unwrap();
                    builder.insert(path, entry.meta.clone(), new);
                    if matches!(node, Node::Dir(dir) if dir.opaque) {
                        builder.opaque(path);
                    }
                }
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    builder.finish(&fixture.trees).content
}

#[test]
fn a_sparse_file_is_whole_on_disk() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    fs::create_dir(&source).unwrap();
    let file = fs::File::create(source.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt as _;
    file.write_all_at(b"middle", 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
    let tar = fixture.path("tar");
    crate::fixture::run(
        std::process::Command::new("tar")
            .args(["--format=pax", "--sparse", "-C"])
            .arg(&source)
            .arg("-cf")
            .arg(&tar)
            .arg("sparse"),
    );
    let into = fixture.path("into");
    fs::create_dir(&into).unwrap();
    let mut unpack = Unpack::new(&into, Ownership::Logical).unwrap();
    let tar = fs::File::open(&tar).unwrap();
    let read = read_layer(&fixture.trees, tar, Some(&mut unpack)).unwrap();
    unpack.finish(&fixture.trees, &read.layer.tree).unwrap();
    let bytes = fs::read(into.join("sparse")).unwrap();
    assert!(bytes == fs::read(source.join("sparse")).unwrap());
    let blocks = fs::metadata(into.join("sparse")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks}");
}

#[test]
fn scanning_leaves_sockets_and_overlay_marks_out() {
    let fixture = Fixture::new();
    let dir = fixture.path("upper");
    fs::create_dir(&dir).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    fs::write(dir.join("copied-up"), "1").unwrap();
    let none = rustix::fs::XattrFlags::empty();
    for (name, value) in [
        ("user.overlay.origin", &b""[..]),
        ("user.overlay.overlay.mine", b"2"),
        ("user.kept", b"3"),
    ] {
        rustix::fs::setxattr(dir.join("copied-up"), name, value, none).unwrap();
    }
    let look = |kind, path: &str| {
        let tree = scan_dir(&fixture.trees, &dir, kind, &CancelToken::new()).unwrap();
        let found = fixture
            .trees
            .lookup(&tree.tree, path.as_bytes(), Follow::NotLast)
            .unwrap();
        found.map(|found| found.entry)
    };
    assert!(look(ScanKind::Upper, "socket").is_none());
    let names = |kind| -> Vec<String> {
        let entry = look(kind, "copied-up").unwrap();
        let names = entry.meta.xattrs.into_keys();
        names.map(|name| String::from_utf8(name).unwrap()).collect()
    };
    assert_eq!(names(ScanKind::Upper), ["user.kept", "user.overlay.mine"]);
    assert_eq!(
        names(ScanKind::Plain),
        [
            "user.kept",
            "user.overlay.origin",
            "user.overlay.overlay.mine"
        ]
    );
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("gone"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    let upper = look(ScanKind::Upper, "gone").unwrap();
    assert_eq!((upper.node, upper.meta), (Node::Whiteout, Meta::default()));
    let plain = look(ScanKind::Plain, "gone").unwrap();
    assert_eq!(plain.node, Node::Char { major: 0, minor: 0 });
}

#[test]
fn a_cancelled_scan_stops_and_a_bottomless_one_is_refused() {
    let fixture = Fixture::new();
    let dir = fixture.path("upper");
    let mut deep = dir.clone();
    deep.extend(std::iter::repeat_n("d", 520));
    fs::create_dir_all(&deep).unwrap();
    let cancel = CancelToken::new();
    assert!(matches!(
        scan_dir(&fixture.trees, &dir, ScanKind::Upper, &cancel),
        Err(LayerError::Entry { .. })
    ));
    cancel.cancel();
    assert!(matches!(
        scan_dir(&fixture.trees, &dir, ScanKind::Upper, &cancel),
        Err(LayerError::Cancelled)
    ));
}
