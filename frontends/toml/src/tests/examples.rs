//! The plans that people copy: those of `testdata/plan`, and those of `docs/plan.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::GitState;

use super::build;
use super::request;
use super::source;
use crate::FileKind;
use crate::Plan;

/// Lowers a plan whose other files `read` gives.
fn lowered(name: &str, text: &str, read: &dyn Fn(&str) -> Option<String>) -> Converted {
    let mut request = request(text);
    let mut files = BTreeMap::new();
    let plan = Plan::default();
    let mut open = plan.needs(&source("rbuild.toml", text), "", &[]);
    while let Some(need) = open.pop() {
        let Some(text) = read(&need.path) else {
            continue;
        };
        let file = Arc::new(SourceFile {
            name: need.path.clone(),
            text,
            language: "",
        });
        if need.kind == FileKind::Plan && !files.contains_key(&need.path) {
            let dir = need.path.rsplit_once('/').map_or(".", |(dir, _)| dir);
            open.extend(plan.needs(&file, dir, &[]));
        }
        files.insert(need.path, file);
    }
    request.files = Arc::new(files);
    request.git = Some(GitState {
        commit: "c".repeat(40),
        branch: Some("main".to_owned()),
        tag: None,
    });
    build(&Plan::default(), &request).unwrap_or_else(|errors| panic!("{name}: {errors:#?}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn examples_are_right_for_every_output() {
    let mut examples = 0;
    for entry in fs::read_dir(root().join("testdata/plan")).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(dir.join("rbuild.toml")) else {
            continue;
        };
        let read = |path: &str| fs::read_to_string(dir.join(path)).ok();
        let name = dir.display().to_string();
        assert!(!lowered(&name, &text, &read).goals.is_empty(), "{name}");
        let lines = text.lines().filter(|line| !line.is_empty()).count();
        assert!(lines <= 45, "{name} has {lines} lines: an example is small");
        examples += 1;
    }
    assert_eq!(examples, 11);
}

#[test]
fn plans_in_the_documentation_are_right() {
    let page = fs::read_to_string(root().join("docs/plan.md")).unwrap();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut plans = 0;
    for block in page.split("\n```").skip(1).step_by(2) {
        let (info, text) = block.split_once('\n').unwrap();
        let (language, name) = info.split_once(' ').unwrap_or((info, "rbuild.toml"));
        let text = format!("{text}\n");
        files.insert(name.to_owned(), text.clone());
        if language == "toml" && name == "rbuild.toml" {
            let read = |path: &str| files.get(path).cloned();
            assert!(!lowered(&text, &text, &read).goals.is_empty(), "{text}");
            plans += 1;
        }
    }
    assert!(plans >= 7, "{plans}");
}

#[test]
fn first_plans_are_right() {
    let mut plans = 0;
    for entry in fs::read_dir(root().join("testdata/init")).unwrap() {
        let path = entry.unwrap().path().join("expected.toml");
        let name = path.display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!lowered(&name, &text, &|_| None).goals.is_empty(), "{name}");
        assert!(text.contains("\n[test."), "{name}");
        plans += 1;
    }
    assert!(plans > 10, "{plans}");
}

#[test]
fn a_plan_that_two_others_include_is_one() {
    let of = |text: &str| format!("schema = 1\n{text}");
    let files = BTreeMap::from([
        (
            "a/rbuild.toml",
            of("include = [\"../common/rbuild.toml\"]\n[step.s]\nfrom = \"common.base\"\n"),
        ),
        (
            "b/rbuild.toml",
            of("include = [\"../common/rbuild.toml\"]\n[step.s]\nfrom = \"common.base\"\n"),
        ),
        (
            "common/rbuild.toml",
            of(
                "[args]\nv = \"1\"\n[inputs]\ni = { image = \"alpine:{args.v}\" }\n[step.base]\nfrom = \"i\"\nrun = [\"true\"]\n",
            ),
        ),
    ]);
    let text = of(
        "include = [\"a/rbuild.toml\", \"b/rbuild.toml\", \"common/rbuild.toml\"]\n[output.a]\nstep = \"a.s\"\n[output.b]\nstep = \"b.s\"\n",
    );
    let read = |path: &str| files.get(path).cloned();
    let names: Vec<String> = lowered("", &text, &read)
        .definition
        .prune()
        .iter()
        .map(|(_, vertex)| vertex.meta.name.clone())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[1], "[common.base 2/2] RUN true");
    // Its argument has one name, the shortest.
    let mut request = request(&text);
    let file = |(path, text): (&&str, &String)| ((*path).to_owned(), source(path, text));
    request.files = Arc::new(files.iter().map(file).collect());
    for (arg, want) in [
        ("common.v", None),
        ("a.common.v", Some("its shortest name counts: `common.v`")),
    ] {
        request.build_args = BTreeMap::from([(arg.to_owned(), "2".to_owned())]);
        let hint = build(&Plan::default(), &request).err();
        let hint = hint.map(|errors| errors[0].hints.concat());
        assert_eq!(hint.as_deref(), want, "{arg}");
    }
}
