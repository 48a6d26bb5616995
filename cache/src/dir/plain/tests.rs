use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use super::*;
use crate::builder::NewNode;
use crate::dir::write_plain;
use crate::fixture::Fixture;
use crate::fixture::mine;

/// A root with layers in it, and what they add up to.
struct World {
    fixture: Fixture,
    root: PlainDir,
    merged: TreeId,
    forms: usize,
}

impl World {
    fn new() -> Self {
        let fixture = Fixture::new();
        let path = fixture.path("root");
        fs::create_dir(&path).unwrap();
        let merged = fixture.trees.empty().tree;
        Self {
            root: PlainDir::new(path, Ownership::Keep),
            fixture,
            merged,
            forms: 0,
        }
    }

    /// Applies the layer that the builder has.
    fn apply(&mut self) {
        let layer = self.fixture.finish();
        let layer = self
            .fixture
            .trees
            .settle(&self.merged, &layer.tree)
            .unwrap();
        let form = self.form();
        write_plain(
            &self.fixture.trees,
            &layer.tree,
            &form,
            &self.fixture.open(),
            Ownership::Keep,
            &CancelToken::new(),
        )
        .unwrap();
        self.apply_form(&layer.tree, form);
    }

    fn apply_form(&mut self, layer: &TreeId, form: PathBuf) {
        let trees = &self.fixture.trees;
        let form = LayerForm::whole(form);
        self.root
            .apply(trees, layer, &form, &CancelToken::new())
            .unwrap();
        self.merged = trees.merge(&self.merged, layer).unwrap().tree;
        self.root.seal(trees, &self.merged).unwrap();
    }

    fn form(&mut self) -> PathBuf {
        self.forms += 1;
        let path = self.fixture.path(&format!("form{}", self.forms));
        fs::create_dir(&path).unwrap();
        path
    }

    fn at(&self, path: &str) -> PathBuf {
        self.fixture.path("root").join(path)
    }

    /// What was changed, an entry a line.
    fn changes(&mut self) -> (TreeId, Vec<String>) {
        let trees = &self.fixture.trees;
        let cancel = CancelToken::new();
        let changed = self.root.changes(trees, &self.merged, &cancel).unwrap();
        let layer = trees.reduce(&self.merged, &changed.tree).unwrap().tree;
        (layer, list(trees, &layer))
    }
}

fn list(trees: &Trees, layer: &TreeId) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |path: &[u8], entry: &Entry| {
        let path = String::from_utf8_lossy(path);
        let implied = path.is_empty() && matches!(&entry.node, Node::Dir(dir) if dir.implied);
        let what = match &entry.node {
            Node::Whiteout => "gone".to_owned(),
            Node::Dir(dir) if dir.opaque => "opaque".to_owned(),
            Node::Dir(_) => "dir".to_owned(),
            Node::File(file) if file.link.is_some() => format!("linked {}", file.size),
            Node::File(file) => format!("file {}", file.size),
            _ => "special".to_owned(),
        };
        if !implied {
            lines.push(format!("{what} {path}"));
        }
        std::ops::ControlFlow::Continue(())
    };
    trees.walk(layer, &mut add).unwrap();
    lines
}

fn base() -> World {
    let mut world = World::new();
    let fixture = &mut world.fixture;
    fixture.builder.set_root(mine(0o751));
    for dir in ["d", "d/sub", "e"] {
        fixture
            .builder
            .insert(dir.as_bytes(), mine(0o755), NewNode::Dir);
    }
    for file in ["a", "b", "d/x", "d/sub/y", "e/z"] {
        fixture.file_with(file.as_bytes(), mine(0o644), file.as_bytes());
    }
    assert!(fixture.builder.link(b"b2", b"b"));
    let target = b"a".to_vec();
    let link = NewNode::Symlink { target };
    fixture.builder.insert(b"l", mine(0o777), link);
    fixture.builder.insert(b"p", mine(0o600), NewNode::Fifo);
    let null = NewNode::Char { major: 1, minor: 3 };
    fixture.builder.insert(b"null", mine(0o666), null);
    world.apply();
    world
}

#[test]
fn layers_are_applied_to_one_directory() {
    let mut world = base();
    let inode = |name: &str| fs::metadata(world.at(name)).unwrap().ino();
    assert_ne!(inode("b"), inode("b2"), "one is written to alone");
    assert!(!world.at("null").exists(), "nobody may make devices");
    let upper = &mut world.fixture;
    upper.builder.whiteout(b"a");
    upper.builder.whiteout(b"e");
    upper.builder.insert(b"d", mine(0o700), NewNode::Dir);
    upper.builder.opaque(b"d");
    upper.file_with(b"d/new", mine(0o600), b"new");
    upper.builder.insert(b"l", mine(0o711), NewNode::Dir);
    upper.file_with(b"l/in", mine(0o644), b"in");
    upper.file_with(b"p", mine(0o644), b"a file");
    world.apply();
    let (_, changes) = world.changes();
    assert_eq!(changes, [""; 0]);
    assert!(!world.at("a").exists() && !world.at("e").exists() && !world.at("d/x").exists());
    assert_eq!(fs::read(world.at("l/in")).unwrap(), b"in");
    let mode = fs::metadata(world.at("")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o751);
}

/// What a process does, and the layer that makes of it.
#[test]
fn changes_are_found_wherever_stat_tells_of_them() {
    type Case = (&'static str, fn(&World), &'static [&'static str]);
    let cases: &[Case] = &[
        ("nothing", |_| {}, &[]),
        (
            "a touch that changes nothing",
            |w| {
                let mode = fs::metadata(w.at("a")).unwrap().permissions();
                fs::set_permissions(w.at("a"), mode).unwrap();
            },
            &[],
        ),
        (
            "the same size, and the time put back",
            |w| {
                let time = fs::metadata(w.at("a")).unwrap().modified().unwrap();
                fs::write(w.at("a"), "A").unwrap();
                let file = fs::File::options().write(true).open(w.at("a"));
                file.unwrap().set_modified(time).unwrap();
            },
            &["file 1 a"],
        ),
        (
            "one of two names is written to",
            |w| fs::write(w.at("b"), "longer").unwrap(),
            &["file 6 b"],
        ),
        (
            "another name",
            |w| fs::hard_link(w.at("a"), w.at("a2")).unwrap(),
            &["linked 1 a", "linked 1 a2"],
        ),
        (
            "a directory is made anew",
            |w| {
                fs::remove_dir_all(w.at("d")).unwrap();
                fs::create_dir(w.at("d")).unwrap();
                fs::write(w.at("d/n"), "").unwrap();
            },
            &["opaque d", "file 0 d/n"],
        ),
        (
            "directories change places",
            |w| {
                fs::rename(w.at("d"), w.at("t")).unwrap();
                fs::rename(w.at("e"), w.at("d")).unwrap();
                fs::rename(w.at("t"), w.at("e")).unwrap();
            },
            &[
                "opaque d",
                "file 3 d/z",
                "opaque e",
                "dir e/sub",
                "file 7 e/sub/y",
                "file 3 e/x",
            ],
        ),
        (
            "a file for a directory, and a directory for a file",
            |w| {
                fs::remove_dir_all(w.at("d")).unwrap();
                fs::write(w.at("d"), "").unwrap();
                fs::remove_file(w.at("a")).unwrap();
                fs::create_dir(w.at("a")).unwrap();
            },
            &["dir a", "file 0 d"],
        ),
        (
            "gone",
            |w| {
                fs::remove_file(w.at("d/sub/y")).unwrap();
                fs::remove_file(w.at("l")).unwrap();
            },
            &["dir d", "dir d/sub", "gone d/sub/y", "gone l"],
        ),
        (
            "the mode of the root",
            |w| fs::set_permissions(w.at(""), fs::Permissions::from_mode(0o700)).unwrap(),
            &["dir "],
        ),
    ];
    for (name, change, expected) in cases {
        let mut world = base();
        change(&world);
        assert_eq!(world.changes().1, *expected, "{name}");
    }
}

#[test]
fn a_root_goes_on_with_the_layer_made_in_it() {
    let mut world = base();
    fs::write(world.at("a"), "changed").unwrap();
    fs::remove_file(world.at("d/x")).unwrap();
    fs::write(world.at("d/new"), "new").unwrap();
    fs::hard_link(world.at("d/new"), world.at("d/newer")).unwrap();
    let (layer, _) = world.changes();
    let form = world.form();
    world
        .root
        .take_out(&world.fixture.trees, &layer, &form)
        .unwrap();
    assert!(!world.at("a").exists(), "it is the store's");
    assert_eq!(fs::read(form.join("a")).unwrap(), b"changed");
    let one = |name: &str| fs::metadata(form.join(name)).unwrap().ino();
    assert_eq!(one("d/new"), one("d/newer"));
    world.apply_form(&layer, form.clone());
    assert_eq!(world.changes().1, [""; 0]);
    // The store's file is another one.
    fs::write(world.at("a"), "again").unwrap();
    assert_eq!(fs::read(form.join("a")).unwrap(), b"changed");
    assert_eq!(world.changes().1, ["file 5 a"]);
}

/// A clock that was set back does not hide what was written.
#[test]
fn the_clock_may_go_back() {
    let mut world = base();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let secs = later.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    world.root.sealed = (secs.as_secs() as i64, 0);
    fs::write(world.at("a"), "B").unwrap();
    assert_eq!(world.changes().1, ["file 1 a"]);
}
