use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;

use rbuild_llb::FileDigest;
use rbuild_llb::op::FileModes;
use rustix::fs::CWD;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::fixture::run;
use crate::stat::FileStat;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::Timestamp;

struct Fixture {
    dir: tempfile::TempDir,
    root: PathBuf,
    trees: Trees,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        let trees = Trees::open(&dir.path().join("trees"));
        fs::create_dir(&root).unwrap();
        let fixture = Self { dir, root, trees };
        for (path, content) in files {
            fixture.write(path, content);
        }
        fixture
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn stats(&self) -> PathBuf {
        self.dir.path().join("stats")
    }

    fn select(&self, include: &[&str], exclude: &[&str]) -> Result<Scan, ContextError> {
        let list = |patterns: &[&str]| {
            patterns
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let select = Selection::new(&list(include), &list(exclude)).unwrap();
        scan_context(
            &self.root,
            &select,
            FileModes::Exact,
            &self.stats(),
            &self.trees,
            &CancelToken::new(),
        )
    }

    fn scan(&self) -> Scan {
        self.select(&[], &[]).unwrap()
    }

    /// Scans until what was just written is old enough to be remembered: a tick of the kernel's coarse clock.
    fn settle(&self) -> Scan {
        (0..100_000)
            .map(|_| self.scan())
            .find(|scan| scan.read == 0)
            .unwrap()
    }

    /// A line per entry: path and kind.
    fn list(&self, scan: &Scan) -> Vec<String> {
        let mut lines = Vec::new();
        self.trees
            .walk(&scan.tree.tree, &mut |path, entry| {
                let kind = match &entry.node {
                    Node::File(file) => format!("{}", file.size),
                    Node::Dir(_) => "/".to_owned(),
                    Node::Symlink { target } => format!("-> {}", target.escape_ascii()),
                    Node::Fifo => "|".to_owned(),
                    other => format!("{other:?}"),
                };
                lines.push(format!(
                    "{} {kind} {:o}",
                    path.escape_ascii(),
                    entry.meta.mode
                ));
                ControlFlow::Continue(())
            })
            .unwrap();
        lines
    }
}

#[test]
fn names_of_one_file_are_linked() {
    let context = Fixture::new(&[("a/one", "same"), ("b/other", "same"), ("b/last", "")]);
    let link = |from: &str, to: &str| {
        fs::hard_link(context.root.join(from), context.root.join(to)).unwrap();
    };
    link("a/one", "b/two");
    link("a/one", "three");
    link("b/last", "excluded");
    let groups = |scan: &Scan| {
        let mut groups = BTreeMap::new();
        let trees = &context.trees;
        trees
            .walk(&scan.tree.tree, &mut |path, entry| {
                if let Node::File(file) = &entry.node {
                    groups.insert(String::from_utf8(path.to_vec()).unwrap(), file.link);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        groups
    };
    let scan = context.settle();
    let found = groups(&scan);
    assert!(found["a/one"].is_some());
    assert_eq!(found["a/one"], found["b/two"]);
    assert_eq!(found["a/one"], found["three"]);
    assert_eq!(
        found["b/other"], None,
        "the same bytes are not the same file"
    );
    assert_eq!(found["b/last"], found["excluded"]);
    assert_ne!(found["a/one"], found["b/last"]);
    assert_eq!(context.scan().tree, scan.tree, "whichever thread is first");
    let some = context.select(&[], &["excluded", "a", "three"]).unwrap();
    assert_eq!(
        groups(&some).into_values().collect::<Vec<_>>(),
        [None, None, None],
        "other names lie outside"
    );
}

#[test]
fn a_context_is_taken_as_it_is() {
    let context = Fixture::new(&[
        ("app/main.py", "print()\n"),
        ("app/empty", ""),
        ("run", "#!"),
    ]);
    let path = |name: &str| context.root.join(name);
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap()
    };
    for (name, bits) in [
        ("app/main.py", 0o640),
        ("app/empty", 0o644),
        ("run", 0o4755),
        ("app", 0o1777),
    ] {
        mode(name, bits);
    }
    symlink("/nowhere", path("link")).unwrap();
    rustix::fs::mkfifoat(CWD, path("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    mode("pipe", 0o600);
    let _socket = UnixListener::bind(path("socket")).unwrap();
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    fs::write(context.root.join::<&std::ffi::OsStr>(odd), "x").unwrap();
    mode("", 0o700);
    fs::set_permissions(
        context.root.join::<&std::ffi::OsStr>(odd),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();

    let scan = context.scan();
    assert_eq!(
        context.list(&scan),
        [
            " / 755",
            "app / 1777",
            "app/empty 0 644",
            "app/main.py 8 640",
            "link -> /nowhere 777",
            "pipe | 600",
            "run 2 4755",
            "\\xff 1 600",
        ]
    );
    assert_eq!((scan.files, scan.bytes, scan.read), (4, 11, 4));
    let root = context.trees.root(&scan.tree.tree).unwrap();
    assert_eq!(root.meta.mtime, Timestamp::default());
    let again = Trees::open(&context.dir.path().join("other"));
    let all = Selection::default();
    let stats = context.dir.path().join("other-stats");
    let other = scan_context(
        &context.root,
        &all,
        FileModes::Exact,
        &stats,
        &again,
        &CancelToken::new(),
    )
    .unwrap();
    assert_eq!(other.tree, scan.tree, "deterministic");
}

/// What is selected was asked of fsutil's filter, which BuildKit's contexts go through.
#[test]
fn only_what_is_selected() {
    let context = Fixture::new(&[
        ("a/keep.go", "1"),
        ("a/deep/x.go", "1"),
        ("a/deep/x.c", "1"),
        ("b/x.c", "1"),
        ("node_modules/m/index.js", "1"),
        ("top.go", "1"),
    ]);
    fs::create_dir(context.root.join("empty")).unwrap();
    #[rustfmt::skip]
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&[], &["node_modules", "**/*.c"], "a a/deep a/deep/x.go a/keep.go b empty top.go"),
        (&[], &["**", "!**/*.go"], "a a/deep a/deep/x.go a/keep.go top.go"),
        (&[], &["*", "!a/deep"], "a a/deep a/deep/x.c a/deep/x.go"),
        (&["a/deep"], &[], "a a/deep a/deep/x.c a/deep/x.go"),
        (&["a", "top.go"], &["a/deep/*.c"], "a a/deep a/deep/x.go a/keep.go top.go"),
        (&["*.go"], &[], "top.go"),
        (&["none"], &[], ""),
        (&["empty"], &[], "empty"),
    ];
    for (include, exclude, expected) in cases {
        let scan = context.select(include, exclude).unwrap();
        let paths = context.list(&scan);
        let paths: Vec<&str> = paths[1..]
            .iter()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(paths.join(" "), *expected, "{include:?} {exclude:?}");
    }
}

#[test]
fn an_unchanged_context_is_not_read() {
    let context = Fixture::new(&[("a", "one"), ("d/b", "two"), ("d/c", "three")]);
    let first = context.scan();
    let quiet = context.settle();
    assert_eq!(quiet.tree, first.tree);
    assert_eq!((quiet.files, quiet.bytes), (3, 11));
    let written = fs::metadata(context.stats()).unwrap().modified().unwrap();
    context.scan();
    let now = fs::metadata(context.stats()).unwrap();
    assert_eq!(
        now.modified().unwrap(),
        written,
        "nothing changed, nothing is written"
    );
    assert_eq!(now.permissions().mode() & 0o7777, 0o600);

    // Same size, and the old time put back: what gives it away is the ctime.
    let path = context.root.join("d/b");
    let old = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "TWO").unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(old)
        .unwrap();
    let changed = context.scan();
    assert_eq!(changed.read, 1);
    assert_ne!(changed.tree.content, first.tree.content);

    // A time alone is no content.
    context.settle();
    let time = Timespec {
        tv_sec: 1000,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    let touched = context.scan();
    assert_eq!(touched.tree.content, changed.tree.content);
    assert_ne!(touched.tree.tree, changed.tree.tree);

    fs::remove_file(&path).unwrap();
    context.settle();
    let known = StatCache::load(&context.stats());
    let known = [b"".as_slice(), b"d"].map(|dir| known.dir(dir).count());
    assert_eq!(known, [1, 1], "what is gone is forgotten");

    fs::write(context.stats(), "damaged").unwrap();
    assert_eq!(context.scan().read, 2);
    assert_eq!(context.settle().read, 0);
    fs::remove_dir_all(context.dir.path().join("stats")).unwrap_or_default();
}

/// Changes of equal size that put the old time back, and what git thinks of them.
#[test]
fn changes_that_hide_are_seen_as_git_sees_them() {
    let sh = |dir: &Path, script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-ec", script]).current_dir(dir);
        sh.env("GIT_CONFIG_GLOBAL", "/dev/null");
        run(&mut sh)
    };
    for (edit, changes) in [
        (
            "touch -r f old; printf TWO > f; touch -r old f; rm old",
            true,
        ),
        ("printf TWO > new; touch -r f new; mv new f", true),
        (
            "cp -p f new; printf TWO > new; touch -r f new; cp -p new f; rm new",
            true,
        ),
        (
            "cp -p f new; printf TWO > new; touch -r f new; ln -f new f; rm new",
            true,
        ),
        ("cp -p f new; mv new f", false),
        ("touch -d @1000000000 f", false),
        ("chmod +x f", true),
    ] {
        let context = Fixture::new(&[("f", "two"), ("d/g", "three")]);
        let git = "git init -q; git add .; git -c user.name=a -c user.email=a@a commit -qm a";
        sh(&context.root, git);
        let scan = || context.select(&[], &[".git"]).unwrap();
        let settled = |_| Some(scan()).filter(|scan| scan.read == 0);
        let before = (0..100_000).find_map(settled).unwrap();
        sh(&context.root, edit);
        let after = scan();
        assert_eq!(after.tree.content != before.tree.content, changes, "{edit}");
        let git = sh(
            &context.root,
            "git diff --quiet && echo same || echo changed",
        );
        assert_eq!(git.trim() == "changed", changes, "{edit}");
    }
}

/// What is remembered of a file counts for that file alone: another one in its place is another inode, or on another
/// device.
#[test]
fn a_file_is_known_by_all_that_stat_says() {
    let context = Fixture::new(&[("f", "two")]);
    let scan = context.settle();
    let wrong = FileDigest::from_bytes([7; 32]);
    let with = |change: fn(&mut FileStat)| {
        let cache = StatCache::load(&context.stats());
        let mut remembered = cache.dir(b"").get(b"f").unwrap().clone();
        change(&mut remembered.stat);
        remembered.digest = wrong;
        let files = stat::DirStats::Files(vec![(b"f".to_vec(), remembered)]);
        stat::save(&context.stats(), &cache, vec![(Vec::new(), files)]).unwrap();
        let found = context.scan();
        fs::remove_file(context.stats()).unwrap();
        context.settle();
        found
    };
    assert_ne!(
        with(|_| {}).tree,
        scan.tree,
        "all is the same, and so believed"
    );
    let changes: [fn(&mut FileStat); 6] = [
        |stat| stat.dev += 1,
        |stat| stat.ino += 1,
        |stat| stat.size += 1,
        |stat| stat.mtime.nanos ^= 1,
        |stat| stat.ctime.nanos ^= 1,
        |stat| stat.mode ^= 0o100,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert_eq!(with(change).tree, scan.tree, "field {at}");
    }
}

#[test]
fn a_change_right_after_a_scan_is_seen() {
    let context = Fixture::new(&[("f", "0")]);
    let mut seen = Vec::new();
    for round in 0..200 {
        context.write("f", &(round % 10).to_string());
        seen.push(context.scan().tree.content);
    }
    for (round, content) in seen.iter().enumerate() {
        assert_eq!(*content, seen[round % 10]);
        assert!(round % 10 == 0 || *content != seen[0], "round {round}");
    }
}

#[test]
fn many_threads_find_what_one_finds() {
    let context = Fixture::new(&[]);
    let mut built = TreeBuilder::new();
    built.set_root(Meta {
        mode: 0o755,
        ..Meta::default()
    });
    for dir in 0..60 {
        for file in 0..50 {
            let path = format!("d{}/e{dir}/{file}", dir % 7);
            let content = if file == 7 {
                path.repeat(20_000)
            } else {
                path.clone()
            };
            context.write(&path, &content);
            let full = context.root.join(&path);
            fs::set_permissions(full, fs::Permissions::from_mode(0o644)).unwrap();
            let node = FileNode {
                size: content.len() as u64,
                digest: FileDigest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes()),
                link: None,
            };
            let meta = Meta {
                mode: 0o644,
                ..Meta::default()
            };
            built.insert(path.as_bytes(), meta, NewNode::File(node));
        }
    }
    for dir in (0..60)
        .map(|dir| format!("d{}/e{dir}", dir % 7))
        .chain((0..7).map(|dir| format!("d{dir}")))
    {
        fs::set_permissions(context.root.join(&dir), fs::Permissions::from_mode(0o755)).unwrap();
        built.insert(
            dir.as_bytes(),
            Meta {
                mode: 0o755,
                ..Meta::default()
            },
            NewNode::Dir,
        );
    }
    let scan = context.scan();
    assert_eq!((scan.files, scan.read), (3000, 3000));
    assert_eq!(scan.tree.content, built.finish(&context.trees).content);
    let quiet = context.settle();
    assert_eq!((quiet.tree, quiet.bytes), (scan.tree, scan.bytes));
    let threads = fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let name = task.as_ref().unwrap().path().join("comm");
        fs::read_to_string(name).is_ok_and(|name| name.starts_with("rayon"))
    });
    assert_eq!(threads.count(), 0, "no thread outlives a scan");
}

#[test]
fn what_cannot_be_scanned() {
    let context = Fixture::new(&[("f", "x")]);
    let scan = |root: &Path| {
        let all = Selection::default();
        scan_context(
            root,
            &all,
            FileModes::Exact,
            &context.stats(),
            &context.trees,
            &CancelToken::new(),
        )
    };
    for root in ["none", "f"] {
        let error = scan(&context.root.join(root)).unwrap_err();
        assert!(
            matches!(error, ContextError::Root { .. }) && error.is_request(),
            "{error}"
        );
    }
    // Files of procfs say they have no bytes, and have some: as if they grew while being read.
    let error = scan(Path::new("/proc/self/net/stat")).unwrap_err();
    assert!(
        matches!(error, ContextError::Changing { .. }) && error.is_request(),
        "{error}"
    );
    assert!(
        error.to_string().contains("/proc/self/net/stat/"),
        "{error}"
    );
    let cancel = CancelToken::new();
    cancel.cancel();
    let all = Selection::default();
    let error = scan_context(
        &context.root,
        &all,
        FileModes::Exact,
        &context.stats(),
        &context.trees,
        &cancel,
    )
    .unwrap_err();
    assert!(matches!(error, ContextError::Cancelled { .. }), "{error}");
}
