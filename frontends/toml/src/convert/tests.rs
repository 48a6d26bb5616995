//! Dockerfiles and the plans they become: both make the same graph.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::OciDigest;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::SourceOp;

use super::to_plan;
use crate::Plan;
use crate::tests::amd64;
use crate::tests::essence;
use crate::tests::request;
use crate::values::is_predefined;

/// The Dockerfiles whose builds by BuildKit are recorded.
fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dockerfile");
    let mut found = Vec::new();
    let mut open = vec![root.join("cases"), root.join("graph")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.join("Dockerfile").exists() {
                true => found.push(path),
                false if path.is_dir() => open.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn file(name: &str, text: String) -> Arc<SourceFile> {
    Arc::new(SourceFile {
        name: name.to_owned(),
        text,
        language: "Dockerfile",
    })
}

/// A pin for what a graph asks for: images have the config that the case gives them.
fn answer(case: &Path, wanted: &SourceRequest) -> Pin {
    match &wanted.source {
        SourceOp::Git(_) => Pin::Git {
            commit: "c".repeat(40),
        },
        SourceOp::Http(_) => Pin::Http {
            checksum: OciDigest::from_bytes([0xcd; 32]),
        },
        source => {
            let name = match source {
                SourceOp::Image(image) => image.reference.rsplit('/').next().unwrap(),
                _ => "",
            };
            let name = name.split([':', '@']).next().unwrap();
            let own = case.join(format!("{name}.image.json"));
            let config = match std::fs::read_to_string(own) {
                Ok(config) => config,
                Err(_) => {
                    include_str!("../../../../testdata/dockerfile/graph/base.json").to_owned()
                }
            };
            Pin::Image {
                digest: OciDigest::from_bytes([0xab; 32]),
                config: Box::new(serde_json::from_str(&config).unwrap()),
            }
        }
    }
}

fn build(
    case: &Path,
    frontend: &dyn Frontend,
    request: &FrontendRequest,
) -> Result<Converted, Vec<Diagnostic>> {
    let mut wanted = frontend.outline(request)?.sources;
    let mut pins = Pins::default();
    for _ in 0..5 {
        for one in &wanted {
            if !matches!(one.source, SourceOp::Local(_)) {
                let pin = answer(case, one);
                pins.insert(one.source.clone(), one.platform.clone(), pin);
            }
        }
        match frontend.convert(request, &pins)? {
            Conversion::Done(converted) => return Ok(converted),
            Conversion::NeedsSources(more) => wanted = more,
        }
    }
    panic!("sources are asked for again and again")
}

/// What became of a case.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    /// No Dockerfile that can be built.
    Refused,
    /// The same graph, and nothing lost.
    Equal,
    /// The same graph, and something lost for other arguments or targets.
    EqualWithLoss,
    /// Another graph, and that is said.
    Different,
    /// Another graph, and nothing says so.
    Silent,
    /// A plan that is none.
    Broken,
}

/// Converts a case and compares both graphs; the text says what differs.
fn twin(case: &Path) -> (Outcome, String) {
    let read = |name: &str| std::fs::read_to_string(case.join(name)).ok();
    let Some(text) = read("Dockerfile") else {
        return (Outcome::Refused, String::new());
    };
    let ignore = [
        "Dockerfile.dockerignore",
        "dockerignore",
        "context/.dockerignore",
    ];
    let ignore = ignore.iter().find_map(|name| read(name));
    let mut docker = request("");
    docker.source = file("Dockerfile", text);
    docker.ignore = ignore.clone().map(|text| file(".dockerignore", text));
    let options = [read("options"), read("request")].into_iter().flatten();
    for line in options.collect::<String>().lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        match key.split_once(':') {
            Some(("build-arg", "SOURCE_DATE_EPOCH")) => {
                docker.source_date_epoch = value.parse().ok();
            }
            Some(("build-arg", name)) => {
                docker.build_args.insert(name.into(), value.into());
            }
            Some(("label", name)) => {
                docker.labels.insert(name.into(), value.into());
            }
            None if key == "target" => docker.targets = vec![value.into()],
            None if key == "platform" => {
                let Ok(platform) = value.split(',').next().unwrap().parse() else {
                    return (Outcome::Refused, String::new());
                };
                docker.target_platform = platform;
                docker.implicit_platform = false;
            }
            _ => {}
        }
    }
    let Ok(want) = build(case, &Dockerfile::default(), &docker) else {
        return (Outcome::Refused, String::new());
    };
    let rewritten = to_plan(&docker.source, ignore.as_deref(), &amd64()).unwrap();
    let mut plan = docker.clone();
    plan.source = crate::tests::source("rbuild.toml", &rewritten.text);
    plan.ignore = None;
    let args: BTreeMap<String, toml::Value> = match rewritten.text.parse::<toml::Table>() {
        Ok(table) => table
            .get("args")
            .and_then(|args| args.as_table().cloned())
            .unwrap_or_default()
            .into_iter()
            .collect(),
        Err(error) => return (Outcome::Broken, format!("{error}\n{}", rewritten.text)),
    };
    plan.build_args
        .retain(|name, _| is_predefined(name) || args.contains_key(name));
    for target in &mut plan.targets {
        *target = target.to_lowercase().replace('.', "-");
    }
    let lost = !rewritten.losses.is_empty();
    let got = match build(case, &Plan::default(), &plan) {
        Ok(got) => got,
        Err(errors) => return (Outcome::Broken, format!("{errors:#?}\n{}", rewritten.text)),
    };
    let (want, got) = (essence(want), essence(got));
    let outcome = match (want == got, lost) {
        (true, false) => Outcome::Equal,
        (true, true) => Outcome::EqualWithLoss,
        (false, true) => Outcome::Different,
        (false, false) => Outcome::Silent,
    };
    let losses: Vec<&String> = rewritten.losses.iter().map(|loss| &loss.message).collect();
    let difference = match want == got {
        true => String::new(),
        false => {
            let (missing, surplus) = (
                want.iter().filter(|line| !got.contains(line)),
                got.iter().filter(|line| !want.contains(line)),
            );
            let missing: String = missing.map(|line| format!("- {line}\n")).collect();
            let surplus: String = surplus.map(|line| format!("+ {line}\n")).collect();
            missing + &surplus
        }
    };
    (
        outcome,
        format!("{losses:?}\n{difference}{}", rewritten.text),
    )
}

/// Converts a case to a plan, that to a Dockerfile, and compares the graphs of both.
fn back(case: &Path) -> (Outcome, String) {
    let Ok(text) = std::fs::read_to_string(case.join("Dockerfile")) else {
        return (Outcome::Refused, String::new());
    };
    let Ok(first) = to_plan(&file("Dockerfile", text), None, &amd64()) else {
        return (Outcome::Refused, String::new());
    };
    let plan = request(&first.text);
    let Ok(want) = build(case, &Plan::default(), &plan) else {
        return (Outcome::Refused, String::new());
    };
    let second = Plan::default().to_dockerfile(&plan, &[]).unwrap();
    let mut docker = request("");
    docker.source = file("Dockerfile", second.text.clone());
    let got = match build(case, &Dockerfile::default(), &docker) {
        Ok(got) => got,
        Err(errors) if second.losses.is_empty() => {
            return (
                Outcome::Broken,
                format!("{errors:#?}\n{}\n{}", first.text, second.text),
            );
        }
        Err(_) => {
            return (
                Outcome::Different,
                format!("{:?}\n{}", second.losses, second.text),
            );
        }
    };
    let (want, got) = (essence(want), essence(got));
    let outcome = match (want == got, second.losses.is_empty()) {
        (true, true) => Outcome::Equal,
        (true, false) => Outcome::EqualWithLoss,
        (false, true) => Outcome::Silent,
        (false, false) => Outcome::Different,
    };
    let missing = want.iter().filter(|line| !got.contains(line));
    let surplus = got.iter().filter(|line| !want.contains(line));
    let missing: String = missing.map(|line| format!("- {line}\n")).collect();
    let surplus: String = surplus.map(|line| format!("+ {line}\n")).collect();
    let losses: Vec<&String> = second.losses.iter().map(|loss| &loss.message).collect();
    let text = format!(
        "{losses:?}\n{missing}{surplus}{}\n---\n{}",
        first.text, second.text
    );
    (outcome, text)
}

#[test]
fn dockerfiles_of_plans_make_the_same_graphs() {
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in corpus() {
        let (outcome, text) = back(&case);
        *counts.entry(outcome).or_default() += 1;
        if matches!(outcome, Outcome::Silent | Outcome::Broken) {
            wrong.push(format!("{outcome:?} {}\n{text}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{counts:?}\n{}", wrong.join("\n"));
    let want = BTreeMap::from([
        (Outcome::Refused, 163),
        (Outcome::Equal, 603),
        (Outcome::EqualWithLoss, 15),
        (Outcome::Different, 1),
    ]);
    assert_eq!(counts, want);
}

#[test]
fn plans_of_dockerfiles_make_the_same_graphs() {
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in corpus() {
        let (outcome, text) = twin(&case);
        *counts.entry(outcome).or_default() += 1;
        if matches!(outcome, Outcome::Silent | Outcome::Broken) {
            wrong.push(format!("{outcome:?} {}\n{text}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{counts:?}\n{}", wrong.join("\n"));
    let want = BTreeMap::from([
        (Outcome::Refused, 233),
        (Outcome::Equal, 516),
        (Outcome::EqualWithLoss, 16),
        (Outcome::Different, 17),
    ]);
    assert_eq!(counts, want);
}
