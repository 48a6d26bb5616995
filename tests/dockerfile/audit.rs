//! `testdata/dockerfile/AUDIT.md` names a case for everything the language has, and the cases are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::testdata;

/// A row: what it is about, and the cases where that works and where it is refused.
struct Row {
    section: String,
    about: String,
    works: Vec<String>,
    refused: Vec<String>,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(testdata().join("AUDIT.md")).unwrap();
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.to_owned();
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        let [about, works, refused] = cells[..] else {
            continue;
        };
        let about = about.trim_start_matches(['|', ' ']);
        let names = |cell: &str| -> Vec<String> {
            let cell = cell.trim_end_matches([' ', '|']);
            cell.split(' ').map(str::to_owned).collect()
        };
        if !about.is_empty() {
            rows.push(Row {
                section: section.clone(),
                about: about.to_owned(),
                works: names(works),
                refused: names(refused),
            });
        }
    }
    rows
}

/// What is wrong with a name in a row, if anything is. `recorded` is what BuildKit left of such a case.
fn missing(name: &str, recorded: &str) -> Option<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    if matches!(name, "never" | "words.jsonl") {
        return None;
    }
    if let Some((module, function)) = name.split_once("::") {
        let source = fs::read_to_string(tests.join(format!("{module}.rs"))).unwrap_or_default();
        return (!source.contains(&format!("\nfn {function}() {{")))
            .then(|| format!("there is no test `{name}`"));
    }
    let case = testdata().join("cases").join(name);
    match (case.exists(), case.join(recorded).exists()) {
        (true, true) => None,
        (true, false) => Some(format!("`{name}` has no `{recorded}`")),
        (false, _) => Some(format!("there is no case `{name}`")),
    }
}

#[test]
fn all_that_is_named_is_there() {
    let rows = rows();
    assert!(rows.len() > 150, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let works = row.works.iter().map(|name| (name, "image.txt"));
        let refused = row.refused.iter().map(|name| (name, "error.txt"));
        for (name, recorded) in works.chain(refused) {
            let problem = missing(name, recorded);
            wrong.extend(problem.map(|problem| format!("{}: {problem}", row.about)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names in back-ticks; `--flag`, `key=value` and `NAME` without what follows the name.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    let ticked = text.split('`').skip(1).step_by(2);
    ticked.map(|name| name.split(['=', ' ']).next().unwrap_or(name))
}

#[test]
fn all_that_the_language_has_is_named() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dockerfile.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = rows();
    let named: BTreeSet<(&str, String)> = rows
        .iter()
        .flat_map(|row| ticked(&row.about).map(|name| (row.section.as_str(), name.to_owned())))
        .collect();
    let anywhere = |name: &str| named.iter().any(|(_, have)| have == name);
    let (mut heading, mut seen, mut without) = ("", 0, Vec::new());
    for line in page.lines() {
        heading = line.strip_prefix("### ").unwrap_or(heading);
        if line.starts_with("## Contexts") {
            break;
        }
        let Some(cells) = line.strip_prefix("| ") else {
            continue;
        };
        let (first, rest) = cells.split_once(" | ").unwrap_or((cells, ""));
        // A kind of mount, whose row lists its keys.
        if first.starts_with("`type=") {
            let kind = first.trim_matches('`');
            let is_key =
                |key: &&str| key.bytes().all(|b| b.is_ascii_lowercase()) && *key != "default";
            for key in ticked(rest).filter(is_key) {
                seen += 1;
                let about = |row: &Row| {
                    row.about.contains(&format!("`{kind}`")) && ticked(&row.about).any(|k| k == key)
                };
                if !rows.iter().any(about) {
                    without.push(format!("{kind},{key}"));
                }
            }
            continue;
        }
        for name in ticked(cells).filter(|name| name.starts_with("--")) {
            seen += 1;
            let here = named.contains(&(heading, name.to_owned()));
            let is_flag_of = matches!(heading, "FROM" | "RUN" | "COPY" | "ADD");
            if !here && (is_flag_of || !anywhere(name)) && !name.starts_with("--allow") {
                without.push(format!("{heading} {name}"));
            }
        }
        let upper = |name: &&str| {
            name.len() > 1 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        };
        for name in ticked(first).filter(upper) {
            seen += 1;
            if !anywhere(name) {
                without.push(name.to_owned());
            }
        }
    }
    assert!(seen > 60, "the page has {seen} names only");
    assert!(without.is_empty(), "no row: {}", without.join(", "));
}
