use rbuild_llb::FileDigest;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Timestamp;

/// `path mode text`; a path that ends in a slash is a directory, a text that begins with `-> ` a link.
fn tree(trees: &Trees, secs: i64, lines: &[&str]) -> TreeId {
    let mut builder = TreeBuilder::new();
    for line in lines {
        let (path, rest) = line.split_once(' ').unwrap();
        let (mode, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let meta = Meta {
            mode: u32::from_str_radix(mode, 8).unwrap(),
            mtime: Timestamp { secs, nanos: 0 },
            ..Meta::default()
        };
        let node = match (path.strip_suffix('/'), text.strip_prefix("-> ")) {
            (Some(_), _) => NewNode::Dir,
            (None, Some(target)) => NewNode::Symlink {
                target: target.into(),
            },
            (None, None) => NewNode::File(FileNode {
                size: text.len() as u64,
                digest: FileDigest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes()),
                link: None,
            }),
        };
        builder.insert(path.trim_end_matches('/').as_bytes(), meta, node);
    }
    builder.finish(trees).tree
}

fn shown(changes: &TreeChanges) -> Vec<String> {
    let line = |change: &PathChange| {
        let slash = if change.is_dir { "/" } else { "" };
        let path = String::from_utf8_lossy(&change.path).into_owned();
        format!("{path}{slash} {:?}", change.what)
    };
    changes.list.iter().map(line).collect()
}

const BEFORE: [&str; 7] = [
    "a/ 755",
    "a/file 644 one",
    "a/gone 644 x",
    "a/link 777 -> file",
    "b/ 755",
    "b/deep/file 600 two",
    "c 644 three",
];

#[test]
fn every_way_to_differ() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let before = tree(&trees, 1, &BEFORE);
    for (now, want) in [
        (BEFORE.to_vec(), vec![]),
        (
            vec![
                "a/ 755",
                "a/file 644 One",
                "a/link 777 -> elsewhere",
                "a/new/x/ 755",
                "a/new/y/z 644 z",
                "b/ 700",
                "b/deep/file 644 two!",
                "c 777 -> a",
            ],
            vec![
                "a/file [Content]",
                "a/gone [Removed]",
                "a/link [Target]",
                "a/new/x/ [Added]",
                "a/new/y/z [Added]",
                "b/ [Mode { earlier: 493, now: 448 }]",
                "b/deep/file [Content, Mode { earlier: 384, now: 420 }]",
                "c [Type, Mode { earlier: 420, now: 511 }]",
            ],
        ),
        (
            vec!["a 644 file now", "b/ 755", "b/deep/file 600 two", "c/ 755"],
            vec![
                "a/file [Removed]",
                "a/gone [Removed]",
                "a/link [Removed]",
                "a [Added]",
                "c [Removed]",
                "c/ [Added]",
            ],
        ),
    ] {
        // Times are no difference.
        let now = tree(&trees, 2, &now);
        let changes = trees.changes(&before, &now, 100).unwrap();
        assert_eq!(shown(&changes), want);
        assert!(changes.complete);
        let some = trees.changes(&before, &now, 3).unwrap();
        assert_eq!(shown(&some), want[..want.len().min(3)]);
        assert_eq!(some.complete, want.len() <= 3);
    }
}

#[test]
fn only_what_differs_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines: Vec<String> = Vec::new();
    for at in 0..1000 {
        lines.push(format!("d{}/e{}/f{} 644 x", at / 100, at / 10, at));
    }
    let trees = Trees::open(dir.path());
    let make = |lines: &[String]| {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        tree(&trees, 1, &lines)
    };
    let before = make(&lines);
    lines[555] = "d5/e55/f555 644 y".to_owned();
    let now = make(&lines);
    let mut reads = Vec::new();
    let mut get = |id: &TreeId| {
        reads.push(*id);
        trees.get(id)
    };
    let changes = compare(&mut get, &before, &now, 10).unwrap();
    assert_eq!(shown(&changes), ["d5/e55/f555 [Content]"]);
    // What describes `/`, `/` itself, `d5` and `e55`, on either side.
    assert_eq!(reads.len(), 8);
    reads.clear();
    let mut get = |id: &TreeId| {
        reads.push(*id);
        trees.get(id)
    };
    assert_eq!(compare(&mut get, &now, &now, 10).unwrap().list, []);
    assert_eq!(reads, []);
}

#[test]
fn files_are_counted_where_that_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = tree(&trees, 1, &BEFORE);
    assert_eq!(trees.count_known(&root), Some(5));
    trees.persist(&root).unwrap();
    let others = Trees::open(dir.path());
    assert_eq!(others.count_known(&root), None);
    let found = others.changes(&tree(&others, 1, &[]), &root, 10).unwrap();
    assert_eq!(found.list.len(), 5);
    assert_eq!(others.count_known(&root), Some(5));
}
