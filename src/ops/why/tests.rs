use rbuild_cache::Directory;
use rbuild_cache::Entry;
use rbuild_cache::FileNode;
use rbuild_cache::Meta;
use rbuild_cache::Node;
use rbuild_llb::FileDigest;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::definition::VertexMeta;

use super::super::file::hidden;
use super::*;

fn vertex() -> Vertex {
    Vertex {
        op: Op::Merge,
        inputs: Vec::new(),
        platform: Platform::new("linux", "amd64", ""),
        meta: VertexMeta::default(),
    }
}

/// What is said of two values of a field; `hush` is concealed.
fn said(trees: &Trees, kind: &str, field: &str, old: KeyValue, new: KeyValue) -> String {
    said_of(trees, kind, &[(field, old)], &[(field, new)])
}

fn said_of(
    trees: &Trees,
    kind: &str,
    old: &[(&str, KeyValue)],
    new: &[(&str, KeyValue)],
) -> String {
    let record = |fields: &[(&str, KeyValue)]| {
        let mut record = KeyRecord::new(kind);
        for (name, value) in fields {
            record.field(name, value.clone());
        }
        record
    };
    let miss = Miss::Changed(Box::new(Difference {
        earlier: record(old),
        now: record(new),
    }));
    let words = Words {
        trees,
        conceal: &|text| text.replace("hush", "***"),
    };
    words.why(&vertex(), &miss, |_| String::new())
}

fn words(text: &str) -> KeyValue {
    text.split(' ').collect()
}

#[test]
fn long_commands_are_shortened_around_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let install = "apt-get update && apt-get install --no-install-recommends -y curl";
    let tail = "&& rm -rf /var/lib/apt/lists/* /var/cache/apt /tmp/everything/else";
    let long = "x".repeat(300);
    for (old, new, want) in [
        (
            format!("{install} {tail}"),
            format!("{install} jq {tail}"),
            r#"command "…-y curl && rm -rf /var/l…" → "…-y curl jq && rm -rf /var/l…""#.to_owned(),
        ),
        (
            format!("{install} {tail}"),
            format!("{install} {tail} && true"),
            r#"command …/everything/else → "…/everything/else && true""#.to_owned(),
        ),
        (
            "make".to_owned(),
            format!("make {long}"),
            format!(
                r#"command make → "make {}…{}""#,
                "x".repeat(43),
                "x".repeat(16)
            ),
        ),
        (
            "one\ntwo".to_owned(),
            "one".to_owned(),
            r#"command "one\ntwo" → one"#.to_owned(),
        ),
        (
            "é\u{1b}[2J".to_owned(),
            "ü".to_owned(),
            r#"command "é\u{1b}[2J" → ü"#.to_owned(),
        ),
        (
            "login hush".to_owned(),
            "login other".to_owned(),
            r#"command "login ***" → "login other""#.to_owned(),
        ),
        // What stood there before may be what it is rotated from.
        (
            "login older".to_owned(),
            "login hush".to_owned(),
            "command changed".to_owned(),
        ),
    ] {
        let args = |text: &str| ["sh", "-c", text].into_iter().collect::<KeyValue>();
        assert_eq!(said(&trees, "exec", "args", args(&old), args(&new)), want);
    }
    // Arguments that are no script are shown whole.
    let got = said(
        &trees,
        "exec",
        "args",
        words("make all"),
        words("make all test"),
    );
    assert_eq!(got, r#"command "make all" → "make all test""#);
}

/// Nobody knows any more what a hidden value was, so what it may stand in is not shown.
#[test]
fn values_that_were_hidden_are_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let env = |token: &str, greeting: &str| {
        let token = BTreeMap::from([("TOKEN".to_owned(), hidden("TOKEN", token))]);
        KeyValue::List(vec![
            KeyValue::Map(token),
            format!("GREETING={greeting}").into(),
        ])
    };
    for (old, new, want) in [
        (
            (
                env("swordfish", "hello swordfish"),
                words("login swordfish"),
            ),
            (env("hush", "hello hush"), words("login hush")),
            "command changed; ENV GREETING changed; ENV TOKEN changed (its value is not shown)",
        ),
        (
            (env("swordfish", "hello"), words("login swordfish")),
            (words("GREETING=bye"), words("login")),
            "command changed; ENV GREETING changed; variable TOKEN removed",
        ),
        (
            (env("hush", "hello"), words("login one")),
            (env("hush", "bye"), words("login two")),
            "command one → two; ENV GREETING hello → bye",
        ),
    ] {
        let fields =
            |(env, args): &(KeyValue, KeyValue)| [("env", env.clone()), ("args", args.clone())];
        let got = said_of(&trees, "exec", &fields(&old), &fields(&new));
        assert_eq!(got, want);
    }
}

#[test]
fn files_by_name_up_to_a_few() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let files = |count: usize, text: &str| {
        let entry = |at: usize| Entry {
            name: format!("f{at:04}\n").into_bytes(),
            meta: Meta::default(),
            node: Node::File(FileNode {
                size: 1,
                digest: FileDigest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes()),
                link: None,
            }),
        };
        let tree = trees.put(Directory {
            entries: (0..count).map(entry).collect(),
        });
        let value = KeyValue::Map(BTreeMap::from([(
            "files".to_owned(),
            KeyValue::Listed {
                value: Box::new(tree.content.into()),
                listing: BTreeMap::from([("src".to_owned(), tree.tree)]),
            },
        )]));
        KeyValue::List(vec![value])
    };
    let gone = KeyValue::Map(BTreeMap::from([(
        "files".to_owned(),
        KeyValue::Listed {
            value: Box::new("other".into()),
            listing: BTreeMap::from([("src".to_owned(), rbuild_llb::TreeId::from_bytes([9; 32]))]),
        },
    )]));
    for (old, new, want) in [
        (
            files(2, "a"),
            files(2, "b"),
            r"2 of 2 files changed: src/f0000\n (content), src/f0001\n (content)".to_owned(),
        ),
        (files(2, "a"), files(1, "a"), r"1 of 2 files changed: src/f0001\n (removed)".to_owned()),
        (
            files(5, "a"),
            files(9, "b"),
            r"9 of 9 files changed: src/f0000\n (content), src/f0001\n (content), src/f0002\n (content) and 6 more".to_owned(),
        ),
        (
            files(2000, "a"),
            files(3000, "b"),
            r"more than 1000 of 3000 files changed: src/f0000\n (content), src/f0001\n (content), src/f0002\n (content) and 997 more".to_owned(),
        ),
        // The list of what was there is gone from the store.
        (KeyValue::List(vec![gone]), files(1, "a"), "files changed".to_owned()),
    ] {
        assert_eq!(said(&trees, "file", "actions", old, new), want);
    }
}

#[test]
fn sources_that_come_and_go_are_files_that_do() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let copy = |name: &str| {
        let entry = Entry {
            name: name.into(),
            meta: Meta::default(),
            node: Node::Fifo,
        };
        let tree = trees.put(Directory {
            entries: vec![entry],
        });
        let listed = KeyValue::Listed {
            value: Box::new(tree.content.into()),
            listing: BTreeMap::from([(String::new(), tree.tree)]),
        };
        KeyValue::Map(BTreeMap::from([("files".to_owned(), listed)]))
    };
    let (a, b, c) = (copy("a"), copy("b"), copy("c"));
    let list = |values: &[&KeyValue]| values.iter().map(|value| (*value).clone()).collect();
    for (old, new, want) in [
        (
            list(&[&a, &b]),
            list(&[&a, &b, &c]),
            "1 of 3 files changed: c (added)",
        ),
        (
            list(&[&a, &b, &c]),
            list(&[&a, &c]),
            "1 of 3 files changed: b (removed)",
        ),
        (
            list(&[&a, &b]),
            list(&[&a, &c]),
            "2 of 3 files changed: b (removed), c (added)",
        ),
    ] {
        let (old, new) = (KeyValue::List(old), KeyValue::List(new));
        assert_eq!(said(&trees, "file", "actions", old, new), want);
    }
}

#[test]
fn other_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let words = Words {
        trees: &Trees::open(dir.path()),
        conceal: &|text| text.replace("hush", "***"),
    };
    let names = ["[1/3] FROM x", "[2/3] RUN hush", "[2/3] RUN hush"];
    for (miss, want) in [
        (Miss::NoCache, "--no-cache"),
        (Miss::FirstTime, "first time"),
        (Miss::Removed, "removed from the cache"),
        (
            Miss::Unusable {
                reason: "hush is gone".to_owned(),
            },
            "*** is gone",
        ),
        (Miss::Inputs(vec![1, 2]), "input rebuilt: [2/3] RUN ***"),
        (
            Miss::Inputs(vec![0, 1]),
            "inputs rebuilt: [1/3] FROM x, [2/3] RUN ***",
        ),
    ] {
        let why = words.why(&vertex(), &miss, |at| names[at].to_owned());
        assert_eq!(why, want);
    }
}
