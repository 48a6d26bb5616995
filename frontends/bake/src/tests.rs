//! The cases of testdata/bake, as buildx resolves them; damaged files; the pages of the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;

use crate::BakeOptions;
use crate::DEFAULT_FILES;
use crate::attest_text;
use crate::functions;
use crate::language_of;
use crate::print;
use crate::resolve;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cases() -> Vec<PathBuf> {
    let dir = root().join("testdata/bake");
    let mut cases: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= 60, "there are {} cases", cases.len());
    cases
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A case as the command line would give it to `resolve`.
fn read(case: &Path) -> (Vec<Arc<SourceFile>>, BakeOptions) {
    let mut names = Vec::new();
    let mut options = BakeOptions {
        now: 1_700_000_000,
        local_platform: "linux/amd64".to_owned(),
        command_context: "cwd://".to_owned(),
        ..BakeOptions::default()
    };
    for line in lines(&case.join("env")) {
        let (name, value) = line.split_once('=').unwrap();
        options
            .environment
            .insert(name.to_owned(), value.to_owned());
    }
    let mut arguments = lines(&case.join("args")).into_iter();
    while let Some(argument) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => {
                (flag.to_owned(), Some(value.to_owned()))
            }
            _ => (argument.clone(), None),
        };
        let mut value = || value.clone().or_else(|| arguments.next()).unwrap();
        match flag.as_str() {
            "-f" => names.push(value()),
            "--set" => options.overrides.push(value()),
            "--var" => {
                let given = value();
                let (name, value) = given.split_once('=').unwrap();
                options.variables.insert(name.to_owned(), value.to_owned());
            }
            "--push" => options.overrides.push("*.push=true".to_owned()),
            "--load" => options.overrides.push("*.load=true".to_owned()),
            "--no-cache" => options.overrides.push("*.no-cache=true".to_owned()),
            "--pull" => options.overrides.push("*.pull=true".to_owned()),
            "--sbom" => options
                .overrides
                .push(format!("*.attest={}", attest_text("sbom", &value()))),
            "--provenance" => {
                let attest = attest_text("provenance", &value());
                options.overrides.push(format!("*.attest={attest}"));
            }
            _ => options.targets.push(argument),
        }
    }
    if names.is_empty() {
        names = DEFAULT_FILES.map(str::to_owned).to_vec();
        names.retain(|name| case.join(name).exists());
    }
    let source = |name: &str| {
        Arc::new(SourceFile {
            name: name.to_owned(),
            text: fs::read_to_string(case.join(name)).unwrap(),
            language: language_of(name),
        })
    };
    options.dotenv = case.join(".env").exists().then(|| source(".env"));
    (names.iter().map(|name| source(name)).collect(), options)
}

/// The diagnostics in plain text: message, places with what is said there, hints.
fn rendered(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        writeln!(out, "error: {}", diagnostic.message).unwrap();
        for label in &diagnostic.labels {
            let text = label
                .span
                .text()
                .lines()
                .next()
                .unwrap_or_default()
                .trim_end();
            let place = label.span.location();
            writeln!(out, " --> {place}: {text}").unwrap();
            if !label.text.is_empty() {
                writeln!(out, "     {}", label.text).unwrap();
            }
        }
        for hint in &diagnostic.hints {
            writeln!(out, "hint: {hint}").unwrap();
        }
    }
    out
}

#[test]
fn files_resolve_as_buildx_resolves_them() {
    let only = std::env::var("BAKE_CASE").unwrap_or_default();
    let overwrite = std::env::var_os("BAKE_OVERWRITE").is_some();
    let mut wrong = String::new();
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let (files, options) = read(&case);
        let result = resolve(&files, &options);
        let expected = fs::read_to_string(case.join("expected.json"));
        let refused = case.join("refused.txt");
        match (result, expected) {
            (Ok(plan), Ok(expected)) => {
                let printed = print(&plan);
                if printed != expected {
                    writeln!(wrong, "== {name}: buildx\n{expected}== ours\n{printed}").unwrap();
                }
            }
            (Err(why), Err(_)) => {
                let text = rendered(&why);
                if overwrite {
                    fs::write(&refused, &text).unwrap();
                }
                let told = fs::read_to_string(&refused).unwrap_or_default();
                let buildx = fs::read_to_string(case.join("expected-error")).unwrap();
                if told != text {
                    writeln!(wrong, "== {name}: it should say\n{told}== but says\n{text}== buildx says\n{buildx}").unwrap();
                }
            }
            (Ok(plan), Err(_)) => {
                let buildx = fs::read_to_string(case.join("expected-error")).unwrap_or_default();
                writeln!(
                    wrong,
                    "== {name}: buildx refuses it\n{buildx}== ours\n{}",
                    print(&plan)
                )
                .unwrap();
            }
            (Err(why), Ok(_)) => {
                writeln!(
                    wrong,
                    "== {name}: buildx takes it, but ours\n{}",
                    rendered(&why)
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
