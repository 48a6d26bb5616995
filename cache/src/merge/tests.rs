use std::ops::ControlFlow;

use rbuild_llb::FileDigest;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;

/// Builds a tree from lines: `d path mode`, `i path` (implied directory), `f path text`, `l path target`, `w path`
/// (whiteout), `o path` (opaque). A file's text is its mtime too, so that an equal text is an equal entry.
fn tree(trees: &Trees, lines: &[&str]) -> TreeRef {
    let mut builder = TreeBuilder::new();
    let meta = |mode, secs| Meta {
        mode,
        mtime: Timestamp { secs, nanos: 0 },
        ..Meta::default()
    };
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let path = words[1].as_bytes();
        match words[0] {
            "d" => {
                let mode = u32::from_str_radix(words[2], 8).unwrap();
                builder.insert(path, meta(mode, 0), NewNode::Dir);
            }
            "f" => {
                let node = FileNode {
                    size: words[2].len() as u64,
                    digest: FileDigest::from_bytes(*blake3::hash(words[2].as_bytes()).as_bytes()),
                    link: words.get(3).map(|link| link.parse().unwrap()),
                };
                builder.insert(
                    path,
                    meta(0o644, words[2].len() as i64),
                    NewNode::File(node),
                );
            }
            "l" => builder.insert(
                path,
                meta(0o777, 0),
                NewNode::Symlink {
                    target: words[2].into(),
                },
            ),
            "w" => builder.whiteout(path),
            "o" => builder.opaque(path),
            other => panic!("{other}"),
        }
    }
    builder.finish(trees)
}

/// A tree as lines: `d`, `i`, with `!` for opaque.
fn lines(trees: &Trees, tree: TreeRef) -> Vec<String> {
    let mut lines = Vec::new();
    trees
        .walk(&tree.tree, &mut |path, entry| {
            let path = String::from_utf8_lossy(path);
            let line = match &entry.node {
                Node::Dir(dir) => format!(
                    "{}{} {path} {:o}",
                    if dir.implied { "i" } else { "d" },
                    if dir.opaque { "!" } else { "" },
                    entry.meta.mode
                ),
                Node::File(file) => format!("f {path} {}", file.size),
                Node::Symlink { .. } => format!("l {path}"),
                Node::Whiteout => format!("w {path}"),
                other => panic!("{other:?}"),
            };
            lines.push(line);
            ControlFlow::Continue(())
        })
        .unwrap();
    lines
}

fn trees() -> Trees {
    Trees::open(std::path::Path::new("/nonexistent"))
}

const BASE: &[&str] = &[
    "d / 755",
    "d a 700",
    "f a/x one",
    "f a/y one",
    "d a/sub 711",
    "f a/sub/deep one",
    "f b one",
    "l link a",
];

#[test]
fn layers_apply_as_the_image_spec_says() {
    let cases: &[(&[&str], &[&str])] = &[
        // An implied directory keeps the lower metadata, a described one replaces it.
        (&["f a/x three"], &["d a 700", "f a/x 5", "f a/y 3"]),
        (&["d a 777"], &["d a 777", "f a/x 3", "f a/y 3"]),
        // Whiteouts of files, of directories, and of nothing.
        (&["w a/x", "w nothing"], &["d a 700", "f a/y 3"]),
        (&["w a"], &[]),
        // Opaque directories hide what was in them.
        (
            &["d a 755", "o a", "f a/new one"],
            &["d a 755", "f a/new 3"],
        ),
        (&["o a"], &["d a 700"]),
        // A directory under a whiteout of the same layer is new (spec: whiteouts apply to lower layers).
        (&["w a", "f a/z one"], &["d a 755", "f a/z 3"]),
        (&["d a 711", "f a/z one", "w a"], &["d a 711", "f a/z 3"]),
        // Changes of type.
        (&["f a five5"], &["f a 5"]),
        (
            &["d link 750", "f link/z one"],
            &["d link 750", "f link/z 3"],
        ),
        (&["f link/z one"], &["d link 755", "f link/z 3"]),
        (&["d b 755"], &["d b 755"]),
        // A new directory whose parents nobody describes.
        (&["f n/m/z one"], &["d n 755", "d n/m 755", "f n/m/z 3"]),
    ];
    let trees = trees();
    let base = tree(&trees, BASE);
    for (layer, expected) in cases {
        let merged = trees.merge(&base.tree, &tree(&trees, layer).tree).unwrap();
        let touched: Vec<&str> = expected
            .iter()
            .map(|line| line.split(' ').nth(1).unwrap())
            .collect();
        let found = lines(&trees, merged);
        for line in *expected {
            assert!(found.iter().any(|l| l == line), "{layer:?}: {found:?}");
        }
        let first = layer[0]
            .split(' ')
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        for line in &found {
            let path = line.split(' ').nth(1).unwrap();
            let inside = path == first || path.starts_with(&format!("{first}/"));
            if inside && !path.starts_with("a/sub") {
                assert!(touched.contains(&path), "{layer:?}: {line}");
            }
        }
        assert!(!found.iter().any(|line| line.starts_with(['i', 'w'])));
        assert!(!found.iter().any(|line| line.contains('!')));
    }
}

#[test]
fn a_whole_root_can_be_replaced() {
    let trees = trees();
    let base = tree(&trees, BASE);
    let layer = tree(&trees, &["d / 711", "o /", "f z one"]);
    let merged = trees.merge(&base.tree, &layer.tree).unwrap();
    assert_eq!(lines(&trees, merged), ["d  711", "f z 3"]);
}

#[test]
fn merging_loads_nothing_the_layer_does_not_name() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let base = tree(&trees, BASE);
    let layer = tree(&trees, &["f a/x three", "w b"]);
    trees.persist(&base.tree).unwrap();
    let sub = trees.lookup(&base.tree, b"a/sub", crate::Follow::All);
    let Node::Dir(sub) = sub.unwrap().unwrap().entry.node else {
        panic!()
    };
    std::fs::remove_file(trees.path(&sub.tree)).unwrap();
    let fresh = Trees::open(dir.path());
    trees.persist(&layer.tree).unwrap();
    fresh.merge(&base.tree, &layer.tree).unwrap();
    assert!(fresh.get(&sub.tree).is_err());
}

#[test]
fn a_difference_leads_from_one_tree_to_the_other() {
    let trees = trees();
    let variants: &[&[&str]] = &[
        BASE,
        &["d / 755"],
        &["d / 700", "f b one"],
        &[
            "d / 755",
            "d a 755",
            "f a/x one",
            "f a/z two2",
            "d b 700",
            "f b/c one",
        ],
        &["d / 755", "f a one", "f link one", "d b/c/d 755"],
        &[
            "d / 755",
            "d a 700",
            "d a/sub 711",
            "f a/sub/deep three",
            "l link b",
        ],
        &["d / 755", "f a one 1", "f b one 1"],
    ];
    for lower in variants {
        for upper in variants {
            // Merged trees have no implied directories.
            let whole = |lines| {
                let made = tree(&trees, lines);
                trees.merge(&trees.empty().tree, &made.tree).unwrap()
            };
            let (lower, upper) = (whole(lower), whole(upper));
            let layer = trees.diff(&lower.tree, &upper.tree).unwrap();
            let again = trees.merge(&lower.tree, &layer.tree).unwrap();
            assert_eq!(lines(&trees, again), lines(&trees, upper));
            assert_eq!(again, upper);
        }
    }
}

#[test]
fn a_difference_names_only_what_changed() {
    let trees = trees();
    let base = tree(&trees, BASE);
    let upper = [BASE, &["f a/sub/deep three", "w link"]].concat();
    let upper = tree(&trees, &upper);
    let upper = trees.merge(&base.tree, &upper.tree).unwrap();
    let mut without = BASE.to_vec();
    without.retain(|line| !line.starts_with('l'));
    without.push("f a/sub/deep three");
    let without = tree(&trees, &without);
    let layer = trees.diff(&upper.tree, &without.tree).unwrap();
    assert_eq!(lines(&trees, layer), ["i  755", "w link"]);
    let layer = trees.diff(&base.tree, &without.tree).unwrap();
    assert_eq!(
        lines(&trees, layer),
        [
            "i  755",
            "i a 700",
            "i a/sub 711",
            "f a/sub/deep 5",
            "w link"
        ]
    );
}

#[test]
fn settling_describes_implied_directories_as_the_base_does() {
    let trees = trees();
    let base = tree(&trees, BASE);
    let layer = tree(&trees, &["f a/sub/new one", "f n/x one", "f b/x one"]);
    let settled = trees.settle(&base.tree, &layer.tree).unwrap();
    assert_eq!(
        lines(&trees, settled),
        [
            "i  755",
            "d a 700",
            "d a/sub 711",
            "f a/sub/new 3",
            "i b 755",
            "f b/x 3",
            "i n 755",
            "f n/x 3"
        ]
    );
    let merged = |layer: TreeRef| trees.merge(&base.tree, &layer.tree).unwrap();
    assert_eq!(merged(settled), merged(layer));
}

#[test]
fn reducing_drops_what_changes_nothing() {
    let trees = trees();
    let base = tree(&trees, BASE);
    // What overlayfs leaves: copied-up parents, opaque marks on all new directories, files opened for writing.
    let upper = tree(
        &trees,
        &[
            "d / 755",
            "d a 700",
            "f a/x one",
            "f a/y changed",
            "d a/sub 711",
            "f a/sub/deep one",
            "d n 755",
            "o n",
            "d n/m 755",
            "o n/m",
            "w never",
            "w b",
            "l link a",
        ],
    );
    let reduced = trees.reduce(&base.tree, &upper.tree).unwrap();
    assert_eq!(
        lines(&trees, reduced),
        [
            "i  755",
            "d a 700",
            "f a/y 7",
            "w b",
            "d n 755",
            "d n/m 755"
        ]
    );
    let merged = |layer: TreeRef| trees.merge(&base.tree, &layer.tree).unwrap();
    assert_eq!(merged(reduced), merged(upper));

    let kept = tree(&trees, &["d / 700", "d a 700", "o a", "f a/x one"]);
    let reduced = trees.reduce(&base.tree, &kept.tree).unwrap();
    assert_eq!(lines(&trees, reduced), ["d  700", "d! a 700", "f a/x 3"]);

    // A new name of an old file: both names are in the upper, and both stay, or the link would be lost.
    let linked = tree(&trees, &["d / 755", "f b one 1", "f c one 1"]);
    let reduced = trees.reduce(&base.tree, &linked.tree).unwrap();
    assert_eq!(lines(&trees, reduced), ["i  755", "f b 3", "f c 3"]);
}
