//! Answers about a plan, in the shapes of BuildKit's `frontend.lint`, `frontend.outline` and `frontend.targets` as
//! buildx prints them. They are data: they go to standard output.

use std::fmt::Write as _;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::inspect::Argument;
use rbuild_llb::inspect::Finding;
use rbuild_llb::inspect::Findings;
use rbuild_llb::inspect::Need;
use rbuild_llb::inspect::Parameters;
use rbuild_llb::inspect::Target;
use serde::Serialize;

use super::rawjson::base64;
use super::table;
use super::warning::rule_page;
use crate::pipeline::inspect::Answer;
use crate::pipeline::inspect::Inspection;

/// For people. Of a plan that cannot be built, only the warnings: what is wrong is said on standard error.
pub(crate) fn text(inspection: &Inspection) -> String {
    match &inspection.answer {
        Answer::Findings(findings) => findings_text(findings),
        Answer::Parameters(parameters) => parameters_text(parameters),
        Answer::Targets(targets) => targets_text(targets),
    }
}

/// For programs.
pub(crate) fn json(inspection: &Inspection) -> String {
    let source = &inspection.source;
    let json = match &inspection.answer {
        Answer::Findings(findings) => {
            serde_json::to_string_pretty(&LintResults::new(findings, source))
        }
        Answer::Parameters(parameters) => {
            serde_json::to_string_pretty(&Outline::new(parameters, source))
        }
        Answer::Targets(targets) => serde_json::to_string_pretty(&TargetList {
            targets: targets.iter().map(TargetEntry::new).collect(),
            sources: [base64(source.text.as_bytes())],
        }),
    };
    json.expect("no map in it has keys other than strings") + "\n"
}

fn findings_text(findings: &Findings) -> String {
    let mut text = match (findings.warnings.len(), findings.errors.is_empty()) {
        (0, false) => return String::new(),
        (0, true) => return "Check complete, no warnings found.\n".to_owned(),
        (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
        (n, _) => format!("Check complete, {n} warnings have been found!\n"),
    };
    for Finding { warning, at, .. } in &findings.warnings {
        let rule = warning.rule.unwrap_or_default();
        let page = rule_page(rule);
        let _ = write!(text, "\nWARNING: {rule} - {page}\n{}\n", warning.message);
        text.push_str(&excerpt(at));
    }
    text
}

/// The instruction with up to four lines around it, marked with `>>>`.
fn excerpt(at: &Span) -> String {
    const RULE: &str = "--------------------\n";
    let lines: Vec<&str> = at.file.text.split('\n').collect();
    let (first, last) = at.lines();
    let (mut from, mut to) = (first, last.min(lines.len()));
    let wanted = if first == last { 4 } else { 2 };
    let mut around = 0;
    while around < wanted {
        if from > 1 {
            from -= 1;
            around += 1;
        }
        if to < lines.len() {
            to += 1;
            around += 1;
        }
        around += 1;
    }
    let mut text = format!("{}:{first}\n{RULE}", at.file.name);
    for number in from..=to {
        let mark = match (first..=last).contains(&number) {
            true => ">>>",
            false => "   ",
        };
        let line = lines[number - 1];
        let _ = writeln!(text, " {number:3} | {mark} {line}");
    }
    text + RULE
}

fn parameters_text(parameters: &Parameters) -> String {
    let cell = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut text = String::new();
    if parameters.name.is_some() || parameters.description.is_some() {
        let name = parameters.name.as_deref().unwrap_or("(default)");
        let _ = match &parameters.description {
            None => writeln!(text, "TARGET: {name}"),
            Some(what) => writeln!(text, "TARGET:      {name}\nDESCRIPTION: {what}"),
        };
        text.push('\n');
    }
    let mut section = |head: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let head = head.iter().map(|cell| (*cell).to_owned()).collect();
            let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
            let _ = writeln!(text, "{}", table(&rows, 3));
        }
    };
    let args = parameters.args.iter();
    let args = args.map(|arg| vec![arg.name.clone(), cell(&arg.value), cell(&arg.description)]);
    section(&["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect());
    for (head, needs) in [("SECRET", &parameters.secrets), ("SSH", &parameters.ssh)] {
        let required = |need: &Need| if need.required { "true" } else { "" }.to_owned();
        let rows = needs
            .iter()
            .map(|need| vec![need.id.clone(), required(need)]);
        section(&[head, "REQUIRED"], rows.collect());
    }
    let caches = parameters.caches.iter();
    section(
        &["CACHE MOUNT"],
        caches.map(|need| vec![need.id.clone()]).collect(),
    );
    text
}

fn targets_text(targets: &[Target]) -> String {
    let head = vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()];
    let rows = targets.iter().map(|target| {
        let name = match (&target.name, target.default) {
            (None, true) => "(default)".to_owned(),
            (Some(name), true) => format!("{name} (default)"),
            (name, false) => name.clone().unwrap_or_default(),
        };
        vec![name, target.description.clone().unwrap_or_default()]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    table(&rows, 1)
}

/// pb.Location: each line of the instruction is a range.
#[derive(Serialize)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize)]
struct Position {
    line: usize,
}

impl Location {
    fn new(at: &Span) -> Self {
        let (first, last) = at.lines();
        let range = |line| Range {
            start: Position { line },
            end: Position { line },
        };
        let ranges = (first..=last).map(range).collect();
        Self { ranges }
    }
}

#[derive(Serialize)]
struct Source<'a> {
    filename: &'a str,
    data: String,
    language: &'a str,
}

#[derive(Serialize)]
struct BuildError<'a> {
    message: &'a str,
    location: Location,
}

impl<'a> BuildError<'a> {
    fn new(error: &'a Diagnostic) -> Self {
        let location = match error.labels.first() {
            Some(label) => Location::new(&label.span),
            None => Location { ranges: Vec::new() },
        };
        Self {
            message: &error.message,
            location,
        }
    }
}

#[derive(Serialize)]
struct LintResults<'a> {
    /// `null` where there are none.
    warnings: Option<Vec<Warning<'a>>>,
    sources: [Source<'a>; 1],
    /// There is room for one.
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning<'a> {
    rule_name: &'a str,
    description: &'a str,
    url: String,
    detail: &'a str,
    location: Location,
}

impl<'a> LintResults<'a> {
    fn new(findings: &'a Findings, source: &'a SourceFile) -> Self {
        let warnings = findings.warnings.iter().map(|finding| {
            let rule = finding.warning.rule.unwrap_or_default();
            Warning {
                rule_name: rule,
                description: finding.description,
                url: rule_page(rule),
                detail: &finding.warning.message,
                location: Location::new(&finding.at),
            }
        });
        let warnings: Vec<Warning<'_>> = warnings.collect();
        Self {
            warnings: Some(warnings).filter(|list| !list.is_empty()),
            sources: [Source {
                filename: &source.name,
                data: base64(source.text.as_bytes()),
                language: source.language,
            }],
            error: findings.errors.first().map(BuildError::new),
        }
    }
}

#[derive(Serialize)]
struct Outline<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Mounted<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Mounted<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<Cache<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Arg<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    location: Location,
}

#[derive(Serialize)]
struct Mounted<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Serialize)]
struct Cache<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    location: Location,
}

impl<'a> Outline<'a> {
    fn new(parameters: &'a Parameters, source: &SourceFile) -> Self {
        let mounted = |need: &'a Need| Mounted {
            name: &need.id,
            required: need.required,
            location: Location::new(&need.at),
        };
        let cache = |need: &'a Need| Cache {
            id: &need.id,
            location: Location::new(&need.at),
        };
        let arg = |arg: &'a Argument| Arg {
            name: &arg.name,
            description: arg.description.as_deref(),
            value: arg.value.as_deref().filter(|value| !value.is_empty()),
            location: Location::new(&arg.at),
        };
        Self {
            name: parameters.name.as_deref(),
            description: parameters.description.as_deref(),
            args: parameters.args.iter().map(arg).collect(),
            secrets: parameters.secrets.iter().map(mounted).collect(),
            ssh: parameters.ssh.iter().map(mounted).collect(),
            cache: parameters.caches.iter().map(cache).collect(),
            sources: [base64(source.text.as_bytes())],
        }
    }
}

#[derive(Serialize)]
struct TargetList<'a> {
    targets: Vec<TargetEntry<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct TargetEntry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    base: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    location: Location,
}

impl<'a> TargetEntry<'a> {
    fn new(target: &'a Target) -> Self {
        Self {
            name: target.name.as_deref(),
            default: target.default,
            description: target.description.as_deref(),
            base: &target.base,
            platform: target.platform.as_deref(),
            location: Location::new(&target.at),
        }
    }
}
