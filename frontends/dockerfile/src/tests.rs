//! Conversion against what BuildKit makes of the same files.
//!
//! `testdata/dockerfile/graph/<case>/` holds a `Dockerfile`, perhaps a `request` (BuildKit's frontend options, one a line)
//! and configs of images other than `base.json`; and what BuildKit says: `graph.txt` (its LLB in the notation of
//! [`render`], steps sorted by name), `config.json` and `warnings.txt`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_llb::Definition;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::Severity;
use rbuild_llb::SourceFile;
use rbuild_llb::config::History;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::NoCache;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::SourceOp;

use super::Dockerfile;

mod behaviour;
mod fuzz;
mod lint;
mod problems;
mod reference;
mod render;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dockerfile/graph")
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(testdata()).unwrap();
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Dockerfile").exists())
        .collect();
    cases.sort();
    cases
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn file(name: &str, text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
        language: "Dockerfile",
    })
}

fn request(text: &str) -> FrontendRequest {
    FrontendRequest {
        target_platform: amd64(),
        build_platform: amd64(),
        ..FrontendRequest::new(file("Dockerfile", text))
    }
}

/// The request of a case; of several platforms, for the first.
fn case_request(case: &Path) -> FrontendRequest {
    let read = |name: &str| std::fs::read_to_string(case.join(name)).ok();
    let mut request = request(&read("Dockerfile").unwrap());
    request.ignore = read("dockerignore").map(|text| file(".dockerignore", &text));
    read_request(&read("request").unwrap_or_default(), &mut request);
    request
}

/// BuildKit's frontend options, one a line.
fn read_request(text: &str, request: &mut FrontendRequest) {
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap();
        match key.split_once(':') {
            Some(("build-arg", "SOURCE_DATE_EPOCH")) => {
                request.source_date_epoch = Some(value.parse().unwrap());
            }
            Some(("build-arg", name)) => {
                request.build_args.insert(name.into(), value.into());
            }
            Some(("label", name)) => {
                request.labels.insert(name.into(), value.into());
            }
            _ if key == "target" => request.targets = vec![value.into()],
            _ if key == "no-cache" => {
                request.no_cache = NoCache::Stages(BTreeSet::from([value.to_owned()]));
            }
            _ if key == "platform" => {
                let platforms: Vec<&str> = value.split(',').collect();
                request.target_platform = platforms[0].parse().unwrap();
                request.implicit_platform = false;
                request.multi_platform = platforms.len() > 1;
            }
            _ => panic!("{line}"),
        }
    }
}

/// Pins that answer every request: images with the configs of the case.
fn answer(case: Option<&Path>, request: &SourceRequest) -> Pin {
    match &request.source {
        SourceOp::Git(_) => Pin::Git {
            commit: "c".repeat(40),
        },
        SourceOp::Http(_) => Pin::Http {
            checksum: render::PINNED_FILE,
        },
        source => {
            let own = match source {
                SourceOp::Image(image) => {
                    let name = image.reference.rsplit('/').next().unwrap();
                    let name = name.split(':').next().unwrap();
                    case.map(|case| case.join(format!("{name}.image.json")))
                }
                _ => None,
            };
            let config = match own.filter(|path| path.exists()) {
                Some(path) => std::fs::read_to_string(path).unwrap(),
                None => include_str!("../../../testdata/dockerfile/graph/base.json").to_owned(),
            };
            Pin::Image {
                digest: OciDigest::from_bytes([0xab; 32]),
                config: Box::new(serde_json::from_str(&config).unwrap()),
            }
        }
    }
}

/// Outlines, pins and converts as the pipeline does.
fn build(case: Option<&Path>, request: &FrontendRequest) -> Result<Converted, Vec<Diagnostic>> {
    let mut wanted = Dockerfile::default().outline(request)?.sources;
    let mut pins = Pins::default();
    for _ in 0..5 {
        for request in &wanted {
            if !matches!(request.source, SourceOp::Local(_)) {
                let pin = answer(case, request);
                pins.insert(request.source.clone(), request.platform.clone(), pin);
            }
        }
        match Dockerfile::default().convert(request, &pins)? {
            Conversion::Done(converted) => return Ok(converted),
            Conversion::NeedsSources(more) => wanted = more,
        }
    }
    panic!("sources are asked for again and again")
}

fn convert(text: &str) -> (Definition, Vec<Diagnostic>) {
    let converted = build(None, &request(text)).unwrap_or_else(|e| panic!("{e:#?}"));
    (converted.definition, converted.warnings)
}

fn check(case: &Path, file: &str, got: &str) {
    let want = std::fs::read_to_string(case.join(file)).unwrap_or_default();
    assert!(
        got == want,
        "{}: {file}\n{}",
        case.display(),
        diff(&want, got)
    );
}

/// The lines that only one side has.
fn diff(want: &str, got: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (want, got) = (lines(want), lines(got));
    let missing = want.difference(&got).map(|line| format!("- {line}\n"));
    let surplus = got.difference(&want).map(|line| format!("+ {line}\n"));
    missing.chain(surplus).collect()
}

#[test]
fn graphs_configs_and_warnings_are_those_of_buildkit() {
    for case in cases() {
        let converted = build(Some(&case), &case_request(&case))
            .unwrap_or_else(|e| panic!("{}: {e:#?}", case.display()));

        let config = &converted.definition.outputs[0].config;
        let want = std::fs::read(case.join("config.json")).unwrap();
        let mut want: ImageConfig = serde_json::from_slice(&want).unwrap();
        // When an entry was made is the engine's to say.
        let made = |entry: &&mut History| entry.comment == "buildkit.dockerfile.v0";
        let entries = want.history.iter_mut().filter(made);
        entries.for_each(|entry| entry.created = None);
        assert_eq!(*config, want, "{}", case.display());

        let mut warnings = BTreeSet::new();
        for warning in &converted.warnings {
            assert_eq!(warning.severity, Severity::Warning);
            let rule = warning.rule.unwrap();
            warnings.insert(format!("{rule}: {}\n", warning.message));
        }
        let warnings: String = warnings.into_iter().collect();
        check(&case, "warnings.txt", &warnings);

        let mut steps = render::steps(&converted.definition.prune());
        steps.sort();
        check(&case, "graph.txt", &(steps.join("\n") + "\n"));
    }
}
