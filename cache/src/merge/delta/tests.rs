use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rbuild_llb::CancelToken;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::dir::Ownership;
use crate::dir::write_dir;
use crate::fixture::run;
use crate::tree::Timestamp;

/// What a path of a made-up layer is.
#[derive(Debug, Clone, Copy)]
enum Made {
    Dir {
        mode: u32,
        opaque: bool,
    },
    File {
        text: &'static str,
        link: Option<u32>,
    },
    Symlink,
    Fifo,
    Device,
    Whiteout,
}

type Layer = BTreeMap<&'static str, Made>;

/// Short paths that stand in each other's way.
const PATHS: [&str; 18] = [
    "a", "a/a", "a/b", "a/b/a", "a/b/b", "a/b/b/c", "a/c", "b", "b/a", "b/a/a", "b/a/b", "b/b",
    "b/b/a", "c", "c/a", "c/a/a", "c/a/b", "c/b",
];

fn trees() -> Trees {
    Trees::open(Path::new("/nonexistent"))
}

/// A layer as a tree. What is below a path that is no directory is left out.
fn tree(trees: &Trees, layer: &Layer) -> TreeRef {
    let mut builder = TreeBuilder::new();
    let meta = |mode, secs| Meta {
        mode,
        mtime: Timestamp { secs, nanos: 0 },
        ..Meta::default()
    };
    for (path, made) in layer {
        let above = Path::new(path).ancestors().skip(1);
        let mut above = above.filter_map(|above| layer.get(above.to_str()?));
        if above.any(|above| !matches!(above, Made::Dir { .. })) {
            continue;
        }
        // Settled: every directory is described.
        for above in Path::new(path).ancestors().skip(1) {
            let above = above.to_str().unwrap();
            if !layer.contains_key(above) {
                builder.insert(above.as_bytes(), meta(0o755, 0), NewNode::Dir);
            }
        }
        let path = path.as_bytes();
        let node = match made {
            Made::Dir { mode, opaque } => {
                builder.insert(path, meta(*mode, 1), NewNode::Dir);
                if *opaque {
                    builder.opaque(path);
                }
                continue;
            }
            Made::Whiteout => {
                builder.whiteout(path);
                continue;
            }
            Made::Device => NewNode::Char { major: 1, minor: 3 },
            Made::Fifo => NewNode::Fifo,
            Made::Symlink => NewNode::Symlink { target: "b".into() },
            Made::File { text, link } => NewNode::File(FileNode {
                size: text.len() as u64,
                digest: FileDigest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes()),
                link: *link,
            }),
        };
        builder.insert(path, meta(0o644, 2), node);
    }
    builder.finish(trees)
}

/// What the directory form of a layer has of a directory: no device nodes.
fn in_form(trees: &Trees, dir: &DirNode) -> DirNode {
    let mut entries = trees.get(&dir.tree).unwrap().entries.clone();
    entries.retain(is_in_forms);
    for entry in &mut entries {
        if let Node::Dir(below) = &mut entry.node {
            *below = in_form(trees, below);
        }
    }
    let TreeRef { tree, content } = trees.put(Directory { entries });
    DirNode {
        tree,
        content,
        ..dir.clone()
    }
}

/// The paths of a layer by hard-link group.
fn groups(trees: &Trees, layer: &TreeId) -> BTreeMap<Group, Vec<Vec<u8>>> {
    let mut groups: BTreeMap<Group, Vec<Vec<u8>>> = BTreeMap::new();
    let walked = trees.walk(layer, &mut |path, entry| {
        if let Node::File(file) = &entry.node
            && let Some(group) = group(file)
        {
            groups.entry(group).or_default().push(path.to_vec());
        }
        ControlFlow::Continue(())
    });
    walked.unwrap();
    groups
}

/// Compares the stack of a base, a near layer and the delta with that of the base and the layer; says whether the base
/// leaves the paths alone that must be bare.
fn check(base: &Layer, near: &Layer, layer: &Layer) -> bool {
    let trees = trees();
    let base = tree(&trees, base).tree;
    let near_tree = tree(&trees, near).tree;
    let layer_tree = tree(&trees, layer).tree;
    let delta = trees.delta(&near_tree, &layer_tree).unwrap();

    let whole = groups(&trees, &layer_tree);
    for (group, paths) in groups(&trees, &delta.layer.tree) {
        assert_eq!(whole.get(&group), Some(&paths), "a part of a link group");
    }
    let near_groups = groups(&trees, &near_tree);
    for (group, paths) in &whole {
        if let Some(old) = near_groups.get(group) {
            let written = groups(&trees, &delta.layer.tree).contains_key(group);
            assert!(
                old == paths || written,
                "{paths:?} have links in the near layer"
            );
        }
    }

    if delta
        .bare
        .iter()
        .any(|path| trees.has(&base, path).unwrap())
    {
        return false;
    }
    let [near, layer, above] = [near_tree, layer_tree, delta.layer.tree].map(|layer| {
        let (meta, dir) = trees.root_dir(&layer).unwrap();
        trees.put_root(meta, in_form(&trees, &dir)).tree
    });
    let stacked = trees.merge(&base, &near).unwrap().tree;
    let stacked = trees.merge(&stacked, &above).unwrap().tree;
    let wanted = trees.merge(&base, &layer).unwrap().tree;
    assert_eq!(stacked, wanted);
    true
}

fn layer(whiteouts: bool) -> impl Strategy<Value = Layer> {
    let link = || prop_oneof![3 => Just(None), 1 => (1..3_u32).prop_map(Some)];
    let text = prop_oneof![Just("one"), Just("two")];
    let made = prop_oneof![
        4 => (prop_oneof![Just(0o755), Just(0o700)], 0..5_u32).prop_map(move |(mode, opaque)| {
            Made::Dir { mode, opaque: whiteouts && opaque == 0 }
        }),
        4 => (text, link()).prop_map(|(text, link)| Made::File { text, link }),
        1 => Just(Made::Symlink),
        1 => Just(Made::Fifo),
        1 => Just(Made::Device),
        1 => Just(if whiteouts { Made::Whiteout } else { Made::Symlink }),
    ];
    proptest::collection::btree_map(proptest::sample::select(&PATHS[..]), made, 0..14)
}

/// A layer and one with some other paths.
fn two_layers() -> impl Strategy<Value = (Layer, Layer)> {
    let change = proptest::collection::vec(proptest::sample::select(&PATHS[..]), 0..4);
    (layer(true), layer(true), change).prop_map(|(near, other, changed)| {
        let mut layer = near.clone();
        for path in changed {
            match other.get(path) {
                Some(made) => layer.insert(path, *made),
                None => layer.remove(path),
            };
        }
        (near, layer)
    })
}

proptest! {
    #[test]
    fn a_delta_over_the_near_layer_shows_the_layer(
        base in layer(false),
        (near, layer) in two_layers(),
    ) {
        check(&base, &near, &layer);
        prop_assert!(check(&Layer::new(), &near, &layer), "on nothing everything goes");
    }

    #[test]
    fn layers_that_have_nothing_in_common_too(
        base in layer(false),
        near in layer(true),
        layer in layer(true),
    ) {
        check(&base, &near, &layer);
        prop_assert!(check(&Layer::new(), &near, &layer), "on nothing everything goes");
    }
}

const ONE: Made = file("one");
const DIR: Made = dir(false);
const OPAQUE: Made = dir(true);

const fn file(text: &'static str) -> Made {
    Made::File { text, link: None }
}

const fn dir(opaque: bool) -> Made {
    Made::Dir {
        mode: 0o755,
        opaque,
    }
}

#[test]
fn what_must_be_bare() {
    use Made::Device;
    use Made::Symlink;
    use Made::Whiteout;
    const TWO: Made = file("two");
    type Paths = &'static [(&'static str, Made)];
    let cases: &[(Paths, Paths, &[&str])] = &[
        // Files that come or change, and metadata that changes, hide nothing new.
        (&[], &[("a", ONE)], &[]),
        (&[("a", ONE)], &[("a", TWO)], &[]),
        (&[("a", ONE)], &[("a", Symlink)], &[]),
        (&[("a", DIR)], &[("a", ONE)], &[]),
        (&[("a", ONE)], &[("a", Whiteout)], &[]),
        // What goes leaves a whiteout.
        (&[("a", ONE), ("b", ONE)], &[("b", ONE)], &["a"]),
        (&[("a", DIR), ("a/b", ONE)], &[], &["a"]),
        (&[("a", DIR), ("a/b", ONE)], &[("a", DIR)], &["a/b"]),
        // A directory in the place of something else does not show what is below that.
        (&[("a", ONE)], &[("a", DIR)], &["a"]),
        (&[("a", ONE)], &[("a", OPAQUE)], &[]),
        // What the near layer hides of the base stays hidden.
        (&[("a", Whiteout)], &[], &["a"]),
        (&[("a", Whiteout)], &[("a", DIR)], &["a"]),
        (&[("a", Whiteout)], &[("a", ONE)], &[]),
        (&[("a", OPAQUE)], &[("a", DIR)], &["a"]),
        (&[("a", DIR)], &[("a", OPAQUE)], &[]),
        // Under an opaque directory nothing of the base shows anyway.
        (&[("a", OPAQUE), ("a/b", ONE)], &[("a", OPAQUE)], &[]),
        // Devices are in no directory.
        (&[("a", Device)], &[], &[]),
        (&[("a", Device)], &[("a", DIR)], &[]),
        (&[("a", ONE)], &[("a", Device)], &["a"]),
    ];
    let layer = |paths: Paths| paths.iter().copied().collect::<Layer>();
    for (near, new, bare) in cases {
        let trees = trees();
        let (near, new) = (layer(near), layer(new));
        let [old, new] = [near, new].map(|layer| tree(&trees, &layer).tree);
        let delta = trees.delta(&old, &new).unwrap();
        let found: Vec<_> = delta
            .bare
            .iter()
            .map(|path| String::from_utf8_lossy(path))
            .collect();
        assert_eq!(
            found,
            *bare,
            "{}",
            trees.get(&delta.layer.tree).unwrap().entries.len()
        );
    }
}

#[test]
fn a_delta_has_what_changed_and_the_directories_above_it() {
    let trees = trees();
    let mut layer: Layer = PATHS.iter().map(|path| (*path, dir(false))).collect();
    layer.insert("a/b/b/c", file("one"));
    layer.insert("b/b/a", file("one"));
    layer.insert(
        "c/a/a",
        Made::File {
            text: "linked",
            link: Some(1),
        },
    );
    layer.insert(
        "c/a/b",
        Made::File {
            text: "linked",
            link: Some(1),
        },
    );
    let near = tree(&trees, &layer).tree;
    let paths = |delta: &Delta| {
        let mut paths = Vec::new();
        let walked = trees.walk(&delta.layer.tree, &mut |path, _| {
            paths.push(String::from_utf8_lossy(path).into_owned());
            ControlFlow::Continue(())
        });
        walked.unwrap();
        assert_eq!(paths.len(), delta.entries);
        paths
    };
    let same = trees.delta(&near, &near).unwrap();
    assert_eq!((paths(&same), same.bare.len()), (vec![String::new()], 0));

    layer.insert("a/b/b/c", file("two"));
    let changed = tree(&trees, &layer).tree;
    let delta = trees.delta(&near, &changed).unwrap();
    assert_eq!(paths(&delta), ["", "a", "a/b", "a/b/b", "a/b/b/c"]);

    // The name that is left would have a link too many.
    layer.remove("c/a/a");
    let unlinked = tree(&trees, &layer).tree;
    let delta = trees.delta(&changed, &unlinked).unwrap();
    assert_eq!(paths(&delta), ["", "c", "c/a", "c/a/a", "c/a/b"]);
}

#[test]
fn paths_are_taken_literally() {
    let trees = trees();
    let layer = Layer::from([
        ("a", dir(false)),
        ("a/b", Made::Whiteout),
        ("b", Made::Symlink),
        ("c", file("one")),
    ]);
    let layer = tree(&trees, &layer).tree;
    let there = |path: &str| trees.has(&layer, path.as_bytes()).unwrap();
    for (path, has) in [
        ("", true),
        ("a", true),
        ("a/b", false),
        ("a/c", false),
        ("b", true),
        ("b/a", false),
        ("c", true),
        ("c/a", false),
        ("d/a", false),
    ] {
        assert_eq!(there(path), has, "{path}");
    }
}

/// Mounts what is below the numbered directories both ways, and compares what GNU find sees.
const COMPARE: &str = r#"
set -e
for case in [0-9]*; do
    mkdir -p "stacked/$case" "whole/$case"
    stack() { mount -t overlay -o "userxattr,lowerdir=$2" overlay "$1/$case"; }
    stack stacked "$case/delta:$case/near:$case/base"
    stack whole "$case/layer:$case/base"
done
for stack in stacked whole; do
    (
        cd "$stack"
        find . -mindepth 1 -type d -printf '%p %y %m %U:%G %T@\n' -o -printf '%p %y %m %U:%G %s %T@ %n %l\n' | sort
        find . -type f -exec md5sum {} + | sort
    ) > "$stack.txt"
done
diff stacked.txt whole.txt
"#;

/// The kernel shows of the two stacks what the trees say of them.
#[test]
fn a_mount_shows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let strategy = (layer(false), two_layers());
    let mut written = 0;
    for case in 0..200 {
        let (base, (near, layer)) = strategy.new_tree(&mut runner).unwrap().current();
        let trees = trees();
        let base = tree(&trees, &base).tree;
        // As layers are: without what changes nothing.
        let [near, layer] = [near, layer].map(|layer| {
            let layer = trees.reduce(&base, &tree(&trees, &layer).tree).unwrap();
            trees.settle(&base, &layer.tree).unwrap().tree
        });
        let delta = trees.delta(&near, &layer).unwrap();
        let is_bare = |path: &Vec<u8>| !trees.has(&base, path).unwrap();
        if delta.entries == 1 || !delta.bare.iter().all(is_bare) {
            continue;
        }
        written += 1;
        let case = dir.path().join(case.to_string());
        for text in ["one", "two"] {
            fs::create_dir_all(&case).unwrap();
            fs::write(case.join(text), text).unwrap();
        }
        let open = |_: &[u8], file: &FileNode| {
            let text = ["one", "two"]
                .into_iter()
                .find(|text| file.digest.as_bytes() == blake3::hash(text.as_bytes()).as_bytes());
            File::open(case.join(text.unwrap()))
        };
        for (name, tree) in [
            ("base", base),
            ("near", near),
            ("delta", delta.layer.tree),
            ("layer", layer),
        ] {
            let into = case.join(name);
            fs::create_dir(&into).unwrap();
            let owners = Ownership::Logical;
            write_dir(&trees, &tree, &into, &open, owners, &CancelToken::new()).unwrap();
        }
    }
    assert!(written > 40, "{written} of the stacks can be compared");
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c", COMPARE]);
    run(unshare.current_dir(dir.path()));
}
