//! The lint rules against BuildKit's, and the pages that explain them. `testdata/lint/README.md` says what is there.

use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pins;
use rbuild_llb::inspect::Findings;

use super::answer;
use super::file;
use super::read_request;
use super::request;
use crate::Dockerfile;
use crate::rules;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Checks as the pipeline does.
fn check(case: Option<&Path>, request: &FrontendRequest) -> Findings {
    let mut pins = Pins::default();
    for _ in 0..5 {
        match Dockerfile::default().check(request, &pins) {
            Conversion::Done(findings) => return findings,
            Conversion::NeedsSources(sources) => {
                for source in &sources {
                    let pin = answer(case, source);
                    pins.insert(source.source.clone(), source.platform.clone(), pin);
                }
            }
        }
    }
    panic!("sources are asked for again and again")
}

/// A line a warning, as the expectations have them.
fn lines(findings: &Findings) -> String {
    assert!(findings.errors.is_empty(), "{:#?}", findings.errors);
    let line = |finding: &rbuild_llb::inspect::Finding| {
        let ((first, last), warning) = (finding.at.lines(), &finding.warning);
        let text = format!(
            "{first}-{last} {}: {}\n",
            warning.rule.unwrap(),
            warning.message
        );
        (first, last, text)
    };
    let mut lines: Vec<_> = findings.warnings.iter().map(line).collect();
    lines.sort();
    lines.into_iter().map(|(_, _, text)| text).collect()
}

#[test]
fn every_rule_has_its_cases() {
    let mut want: Vec<&str> = rules().map(|(name, _)| name).chain(["README.md"]).collect();
    want.sort_unstable();
    assert_eq!(names(&root("testdata/lint")), want);
}

#[test]
fn findings_and_their_lines_are_those_of_buildkit() {
    let mut wrong = String::new();
    for (rule, _) in rules() {
        let dir = root("testdata/lint").join(rule);
        let read = |name: &str| std::fs::read_to_string(dir.join(name));
        for name in ["one", "two", "none"] {
            let mut request = request(&read(&format!("{name}.Dockerfile")).unwrap());
            request.ignore = read("dockerignore")
                .ok()
                .map(|text| file(".dockerignore", &text));
            read_request(&read("request").unwrap_or_default(), &mut request);
            let got = lines(&check(Some(&dir), &request));
            let want = read(&format!("{name}.txt")).unwrap();
            if got != want {
                wrong.push_str(&format!("{rule}/{name}:\n{}", super::diff(&want, &got)));
            }
            let breaks = want.contains(&format!(" {rule}: "));
            assert_eq!(breaks, name != "none", "{rule}/{name}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_build_argument_configures_the_rules_in_the_place_of_the_file() {
    for (text, value, want) in [
        ("FROM a as b\n", "skip=FromAsCasing", ""),
        (
            "# check=skip=all\nFROM a as b\n",
            "error=false",
            "2-2 FromAsCasing",
        ),
        ("# check=skip=all\nFROM a as b\n", "", "2-2 FromAsCasing"),
        ("#!/bin/x\n# check=skip=all\nFROM a as b\n", "-", ""),
        (
            "\n# check=skip=all\nFROM a\nCMD x\n",
            "-",
            "4-4 JSONArgsRecommended",
        ),
    ] {
        let mut request = request(text);
        if value != "-" {
            let name = "BUILDKIT_DOCKERFILE_CHECK".to_owned();
            request.build_args.insert(name, value.to_owned());
        }
        let got = lines(&check(None, &request));
        let rules = got.split_once(": ").map_or("", |(rules, _)| rules);
        assert_eq!(rules, want, "{text} {value}");
    }
}

/// What the fenced block holds that a page marks as its bad or good example.
fn example<'a>(page: &'a str, kind: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("```Dockerfile {kind}\n"))
        .unwrap_or_else(|| {
            panic!("no {kind} example:\n{page}");
        });
    rest.split_once("```").unwrap().0
}

#[test]
fn every_rule_has_a_page_whose_examples_show_it() {
    let pages = root("docs/lint");
    let want: Vec<String> = rules().map(|(name, _)| format!("{name}.md")).collect();
    let mut have = names(&pages);
    have.retain(|name| name != "README.md");
    assert_eq!(have, want);
    let index = std::fs::read_to_string(pages.join("README.md")).unwrap();
    for (rule, about) in rules() {
        let page = std::fs::read_to_string(pages.join(format!("{rule}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {rule}\n")), "{rule}");
        assert!(
            index.contains(&format!("[{rule}]({rule}.md): {about}\n")),
            "{rule}: {about}"
        );
        for (kind, want) in [("bad", vec![rule]), ("good", Vec::new())] {
            let mut request = request(example(&page, kind));
            if rule == "CopyIgnoredFile" {
                request.ignore = Some(file(".dockerignore", "node_modules\n"));
            }
            // Without a value the file cannot be built at all.
            if rule == "InvalidDefaultArgInFrom" {
                request.build_args.insert("TAG".into(), "3".into());
            }
            if rule == "InvalidBaseImagePlatform" && kind == "bad" {
                request.target_platform = rbuild_llb::Platform::new("linux", "arm64", "");
            }
            let found = check(None, &request);
            assert!(
                found.errors.is_empty(),
                "{rule}, {kind}: {:#?}",
                found.errors
            );
            let mut got: Vec<&str> = found
                .warnings
                .iter()
                .filter_map(|f| f.warning.rule)
                .collect();
            got.dedup();
            assert_eq!(got, want, "{rule}, {kind}: {:#?}", found.warnings);
        }
    }
}
