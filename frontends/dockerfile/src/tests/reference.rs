//! `docs/dockerfile.md` names what the language has, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use super::request;
use crate::Dockerfile;
use crate::args;
use crate::parse::KEYWORDS;
use crate::parse::parse;
use crate::source::Site;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/dockerfile.md");
    std::fs::read_to_string(path).unwrap()
}

/// The part of the page below a heading, up to the next.
fn section(page: &str, heading: &str) -> String {
    let (_, rest) = page.split_once(&format!("\n### {heading}\n")).unwrap();
    rest.split("\n#").next().unwrap().to_owned()
}

/// The `--flags` at the start of table rows.
fn flags(section: &str) -> BTreeSet<String> {
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `--"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap());
    let names = cells.flat_map(|cell| cell.split('`').filter(|part| !part.starts_with(',')));
    let names = names.map(|name| name.trim_start_matches("--").to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn accepts(line: &str, flag: &str) -> bool {
    let text = format!(
        "FROM a\n{}",
        line.replacen(' ', &format!(" --{flag}=1 "), 1)
    );
    let request = request(&text);
    match parse(&Site::file(&request.source)) {
        Ok(_) => true,
        // A wrong value is told as such.
        Err(errors) => !errors.iter().any(|e| e.message.contains("unknown flag")),
    }
}

#[test]
fn all_instructions_and_flags_are_on_the_page() {
    let page = page();
    let examples = [
        ("FROM", "FROM a"),
        ("RUN", "RUN x"),
        ("COPY", "COPY a b"),
        ("ADD", "ADD a b"),
    ];
    let all: BTreeSet<String> = examples
        .iter()
        .flat_map(|(heading, _)| flags(&section(&page, heading)))
        .collect();
    assert!(all.len() >= 14, "{all:?}");
    for (heading, line) in examples {
        let here = flags(&section(&page, heading));
        for flag in &all {
            assert_eq!(
                accepts(line, flag),
                here.contains(flag),
                "{heading} --{flag}"
            );
        }
    }
    for keyword in KEYWORDS.iter() {
        let heading = page.contains(&format!("\n### {keyword}\n"));
        let row = page.contains(&format!("\n| `{keyword}"));
        assert!(heading || row, "{keyword}");
    }
    let health = page.lines().find(|line| line.starts_with("| `HEALTHCHECK"));
    for flag in health
        .unwrap()
        .split('`')
        .filter(|part| part.starts_with("--"))
    {
        let flag = flag.trim_start_matches("--");
        assert!(accepts("HEALTHCHECK CMD x", flag), "{flag}");
    }
}

#[test]
fn every_global_variable_is_on_the_page() {
    let page = section(&page(), "Build arguments");
    let request = request("FROM a\n");
    let (ast, _) = Dockerfile::default().read(&request).unwrap();
    let globals = args::global_args(&ast, &request).unwrap();
    for name in globals.env.names() {
        let named = page.contains(&format!("`{name}`"));
        let with = name
            .strip_prefix("BUILD")
            .map(|rest| format!("`TARGET{rest}`"));
        assert!(
            named || with.is_some_and(|name| page.contains(&name)),
            "{name}"
        );
    }
}
