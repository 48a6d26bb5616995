//! Answers against those of BuildKit; `testdata/calls/README.md` says what is there.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::OciDigest;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pin;
use serde_json::Value;

use super::*;
use crate::ui;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/calls")
}

fn request(case: &Path) -> FrontendRequest {
    let platform = Platform::new("linux", "amd64", "");
    let source = Arc::new(SourceFile {
        name: "Dockerfile".to_owned(),
        text: fs::read_to_string(case.join("Dockerfile")).unwrap(),
        language: "Dockerfile",
    });
    let mut request = FrontendRequest {
        target_platform: platform.clone(),
        build_platform: platform,
        ..FrontendRequest::new(source)
    };
    let options = fs::read_to_string(case.join("request")).unwrap_or_default();
    for line in options.lines() {
        let (key, value) = line.split_once('=').unwrap();
        match key.strip_prefix("build-arg:") {
            Some(name) => drop(request.build_args.insert(name.into(), value.into())),
            None => request.targets = vec![value.to_owned()],
        }
    }
    request
}

/// Asks with every base pinned.
fn ask<T, E>(question: impl Fn(&Pins) -> Result<Conversion<T>, E>) -> Result<T, E> {
    let config = fs::read(cases().join("base.json")).unwrap();
    let mut pins = Pins::default();
    for _ in 0..5 {
        let sources = match question(&pins)? {
            Conversion::Done(answer) => return Ok(answer),
            Conversion::NeedsSources(sources) => sources,
        };
        for wanted in sources {
            let pin = Pin::Image {
                digest: OciDigest::from_bytes([0xab; 32]),
                config: Box::new(serde_json::from_slice(&config).unwrap()),
            };
            pins.insert(wanted.source, wanted.platform, pin);
        }
    }
    panic!("sources are asked for again and again")
}

/// `None` if the file is refused.
fn answer(question: Question, request: &FrontendRequest) -> Option<Inspection> {
    let answer = match question {
        Question::Check => {
            let check = |pins: &Pins| Ok::<_, ()>(Dockerfile::default().check(request, pins));
            Answer::Findings(ask(check).unwrap())
        }
        Question::Outline => {
            Answer::Parameters(ask(|pins| Dockerfile::default().parameters(request, pins)).ok()?)
        }
        Question::Targets => Answer::Targets(Dockerfile::default().targets(request).ok()?),
    };
    let source = Arc::clone(&request.source);
    Some(Inspection { source, answer })
}

/// Takes away what BuildKit does not say or says otherwise, and puts lists in one order: BuildKit has what is on the
/// same line in any order, and warnings in the order in which it met them.
fn comparable(mut value: Value) -> Value {
    let fields = value.as_object_mut().unwrap();
    fields.remove("sources");
    fields.remove("cache");
    if let Some(error) = fields.get_mut("buildError") {
        error.as_object_mut().unwrap().remove("message");
    }
    for list in ["args", "secrets", "ssh", "warnings"] {
        let Some(list) = fields.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for entry in list.iter_mut() {
            let entry = entry.as_object_mut().unwrap();
            entry.remove("url");
            if entry.contains_key("ruleName") {
                entry.remove("description");
            }
        }
        list.sort_by_key(ToString::to_string);
    }
    value
}

#[test]
fn answers_are_those_of_buildkit() {
    let mut tried = 0;
    let mut wrong = String::new();
    for case in fs::read_dir(cases()).unwrap() {
        let case = case.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        let request = request(&case);
        for (question, file) in [
            (Question::Check, "lint.json"),
            (Question::Outline, "outline.json"),
            (Question::Targets, "targets.json"),
        ] {
            let want = fs::read_to_string(case.join(file)).ok();
            if want.is_none() && question == Question::Targets {
                continue;
            }
            let want = want.map(|text| comparable(serde_json::from_str(&text).unwrap()));
            let got = answer(question, &request).map(|inspection| {
                comparable(serde_json::from_str(&ui::inspect::json(&inspection)).unwrap())
            });
            if got != want {
                wrong += &format!("{}/{file}: {got:#?}\nis not {want:#?}\n", case.display());
            }
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(tried >= 36, "{tried}");
}

/// The parts of a text, each once more in one order; without the head line and the links, which are buildx's and ours.
fn parts(text: &str) -> Vec<String> {
    let links = regex::Regex::new(" - docs/lint/.*").unwrap();
    let text = links.replace_all(text, "");
    let text = text.split_once("!\n").map_or(&*text, |(_, text)| text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let text = lines.join("\n");
    let mut parts: Vec<String> = text.trim().split("\n\n").map(str::to_owned).collect();
    parts.sort();
    parts
}

#[test]
fn texts_are_those_of_buildkit() {
    for (case, question, file) in [
        ("findings", Question::Check, "lint.txt"),
        ("heredoc", Question::Check, "lint.txt"),
        ("crlf", Question::Check, "lint.txt"),
        ("described", Question::Outline, "outline.txt"),
        ("described", Question::Targets, "targets.txt"),
        ("platforms", Question::Targets, "targets.txt"),
    ] {
        let case = cases().join(case);
        let answer = answer(question, &request(&case)).unwrap();
        let got = ui::inspect::text(&answer);
        let got = got.split_once("CACHE MOUNT").map_or(&*got, |(got, _)| got);
        let want = fs::read_to_string(case.join(file)).unwrap();
        assert_eq!(parts(got), parts(&want), "{}", case.display());
    }
}
