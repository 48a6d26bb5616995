use std::fs;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        ..Meta::default()
    }
}

fn link(target: &str) -> NewNode {
    NewNode::Symlink {
        target: target.into(),
    }
}

fn file(text: &str) -> NewNode {
    NewNode::File(FileNode {
        size: text.len() as u64,
        digest: FileDigest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes()),
        link: None,
    })
}

fn sample(trees: &Trees) -> TreeRef {
    let mut builder = TreeBuilder::new();
    builder.set_root(meta(0o755));
    builder.insert(b"etc", meta(0o755), NewNode::Dir);
    builder.insert(b"etc/passwd", meta(0o644), file("root"));
    builder.insert(b"usr/lib/libc.so", meta(0o755), file("libc"));
    builder.insert(b"lib", meta(0o777), link("usr/lib"));
    builder.insert(b"abs", meta(0o777), link("/etc/../lib/./"));
    builder.insert(b"etc/up", meta(0o777), link("../../../lib/libc.so"));
    builder.insert(b"loop", meta(0o777), link("loop"));
    builder.insert(b"gone", meta(0o777), link("/srv/new/x"));
    builder.insert(b"into", meta(0o777), link("etc/passwd/x"));
    builder.finish(trees)
}

#[test]
fn links_are_followed_as_in_a_chroot() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = sample(&trees).tree;
    for (path, follow, expected, exists) in [
        ("", Follow::All, "", true),
        ("/", Follow::NotLast, "", true),
        ("../..", Follow::All, "", true),
        ("/etc//./passwd", Follow::All, "etc/passwd", true),
        ("lib", Follow::All, "usr/lib", true),
        ("lib", Follow::NotLast, "lib", true),
        ("lib/", Follow::NotLast, "usr/lib", true),
        ("lib/libc.so", Follow::NotLast, "usr/lib/libc.so", true),
        ("abs/libc.so", Follow::All, "usr/lib/libc.so", true),
        ("lib/../libx", Follow::All, "usr/libx", false),
        ("etc/up", Follow::All, "usr/lib/libc.so", true),
        ("gone", Follow::All, "srv/new/x", false),
        ("gone/../y", Follow::All, "srv/new/y", false),
        ("nothing/../etc", Follow::All, "etc", true),
        ("into", Follow::All, "etc/passwd/x", false),
        ("etc/passwd/x/../..", Follow::All, "etc", true),
    ] {
        let found = trees.resolve(&root, path.as_bytes(), follow).unwrap();
        assert_eq!(String::from_utf8_lossy(&found.path), expected, "{path}");
        assert_eq!(found.entry.is_some(), exists, "{path}");
        let looked_up = trees.lookup(&root, path.as_bytes(), follow).unwrap();
        assert_eq!(looked_up.is_some(), exists, "{path}");
    }
    assert!(matches!(
        trees.lookup(&root, b"loop", Follow::All),
        Err(TreeError::Loop { .. })
    ));
    assert!(
        trees
            .lookup(&root, b"loop", Follow::NotLast)
            .unwrap()
            .is_some()
    );
}

#[test]
fn objects_survive_the_process_and_a_walk_reads_them_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = sample(&trees).tree;
    trees.persist(&root).unwrap();
    trees.persist(&root).unwrap();
    let paths = |trees: &Trees| {
        let mut paths = Vec::new();
        trees
            .walk(&root, &mut |path, _| {
                paths.push(String::from_utf8_lossy(path).into_owned());
                ControlFlow::Continue(())
            })
            .unwrap();
        paths
    };
    let expected = [
        "",
        "abs",
        "etc",
        "etc/passwd",
        "etc/up",
        "gone",
        "into",
        "lib",
        "loop",
        "usr",
        "usr/lib",
        "usr/lib/libc.so",
    ];
    assert_eq!(paths(&trees), expected);
    let again = Trees::open(dir.path());
    assert_eq!(paths(&again), expected);
    let mut seen = BTreeSet::new();
    again.objects(&root, &mut seen).unwrap();
    // The root object, `/`, etc, usr, usr/lib.
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|id| again.path(id).is_file()));
}

#[test]
fn a_damaged_object_is_an_error_once_and_then_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = sample(&trees).tree;
    trees.persist(&root).unwrap();
    let path = trees.path(&root);
    let good = fs::read(&path).unwrap();
    let other = zstd::bulk::compress(b"rbuild-tree\x01", 1).unwrap();
    for damage in [&b""[..], b"x", &good[..good.len() - 1], &other] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        let fresh = Trees::open(dir.path());
        assert!(matches!(fresh.get(&root), Err(TreeError::Corrupt { .. })));
        assert!(matches!(fresh.get(&root), Err(TreeError::Missing { .. })));
        sample(&fresh);
        fresh.persist(&root).unwrap();
        assert_eq!(
            Trees::open(dir.path()).root(&root).unwrap(),
            fresh.root(&root).unwrap()
        );
    }
}

#[test]
fn an_object_that_is_no_root_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let empty = trees.put(Directory::default());
    assert!(matches!(
        trees.root(&empty.tree),
        Err(TreeError::NotRoot { .. })
    ));
    let root = sample(&trees).tree;
    let passwd = trees
        .lookup(&root, b"etc/passwd", Follow::All)
        .unwrap()
        .unwrap();
    let not_dir = trees.subtree(&passwd.entry);
    assert!(trees.root(&not_dir.tree).is_err());
    let etc = trees.lookup(&root, b"etc", Follow::All).unwrap().unwrap();
    let etc = trees.subtree(&etc.entry).tree;
    let found = trees.lookup(&etc, b"passwd", Follow::All).unwrap().unwrap();
    assert_eq!(found.entry, passwd.entry);
}

/// Deep trees come from hostile archives; a test's thread has 2 MiB of stack, as a worker's.
#[test]
fn deep_trees_do_not_exhaust_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let path = vec!["d"; MAX_DEPTH - 1].join("/");
    let mut builder = TreeBuilder::new();
    builder.insert(path.as_bytes(), meta(0o644), file("x"));
    let deep = builder.finish(&trees);
    let base = trees.empty();
    let merged = trees.merge(&base.tree, &deep.tree).unwrap();
    let diff = trees.diff(&base.tree, &merged.tree).unwrap();
    let again = trees.merge(&merged.tree, &diff.tree).unwrap();
    assert_eq!(again.content, merged.content);
    trees.settle(&merged.tree, &deep.tree).unwrap();
    trees.reduce(&merged.tree, &deep.tree).unwrap();
    trees.persist(&merged.tree).unwrap();
}
