//! A first plan for a project, by the files that its tools have.
//!
//! It is a start for people to change: versions are those that the project names, caches are where its tools keep
//! theirs, and there is one test.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use toml::Table;
use toml::Value;

mod go;
mod node;
mod python;
mod rust;

/// Where the JSON Schema of the language is, for editors.
pub const SCHEMA_URL: &str =
    "https://raw.githubusercontent.com/rbuild/rbuild/main/docs/rbuild.schema.json";

/// The files of a project whose content counts.
pub const FILES: [&str; 9] = [
    "Cargo.toml",
    "package.json",
    "package-lock.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "pyproject.toml",
    "requirements.txt",
    "uv.lock",
    "go.mod",
];

/// What is known of a project.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// What its directory is called.
    pub dir: String,
    /// The names in it, those of directories with a `/` at their end.
    pub names: BTreeSet<String>,
    /// The content of those of [`FILES`] that are there.
    pub files: BTreeMap<String, String>,
}

/// A first plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The plan.
    pub text: String,
    /// What it was made for: `a Rust project (Cargo.toml)`.
    pub kind: String,
    /// Files of other kinds of projects, which the plan does not know of.
    pub others: Vec<&'static str>,
}

/// The first plan of a kind of project, or nothing if its file is not there.
type Kind = (
    &'static str,
    &'static [&'static str],
    fn(&Project) -> String,
);

/// In the order in which they are tried.
const KINDS: [Kind; 4] = [
    ("a Rust project", &["Cargo.toml"], rust::plan),
    ("a Node.js project", &["package.json"], node::plan),
    (
        "a Python project",
        &["pyproject.toml", "requirements.txt", "uv.lock"],
        python::plan,
    ),
    ("a Go project", &["go.mod"], go::plan),
];

/// Writes a first plan. What cannot be read of a file counts as not said.
pub fn start(project: &Project) -> Start {
    let found = KINDS.iter().filter_map(|(kind, files, plan)| {
        let has = |file: &&&str| project.files.contains_key(**file);
        let file = files.iter().find(has)?;
        Some((*kind, *file, *plan))
    });
    let mut found = found.collect::<Vec<_>>().into_iter();
    let (kind, body) = match found.next() {
        Some((kind, file, plan)) => (format!("{kind} ({file})"), plan(project)),
        None => ("a directory of files".to_owned(), plain(project)),
    };
    Start {
        text: format!("#:schema {SCHEMA_URL}\nschema = 1\n\n{body}"),
        kind,
        others: found.map(|(_, file, _)| file).collect(),
    }
}

impl Project {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.files.contains_key(name)
    }

    fn text(&self, file: &str) -> &str {
        self.files.get(file).map_or("", String::as_str)
    }

    fn toml(&self, file: &str) -> Table {
        self.text(file).parse().unwrap_or_default()
    }

    /// The name of the image: what the project calls itself, or else its directory.
    fn image(&self, own: Option<&str>) -> String {
        let own = own.map(|own| own.rsplit('/').next().unwrap_or_default());
        let candidates = own.into_iter().chain([self.dir.as_str()]);
        let mut names = candidates.map(image_name);
        names
            .find(|name| !name.is_empty())
            .unwrap_or_else(|| "app".to_owned())
    }
}

/// A name as repositories of images can have it (OCI distribution-spec, `<name>`).
fn image_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.to_ascii_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => name.push(c),
            // One separator between letters.
            _ if name.ends_with(|last: char| last.is_ascii_alphanumeric()) => name.push('-'),
            _ => {}
        }
    }
    name.trim_end_matches('-').to_owned()
}

/// The first version of a requirement such as `>=3.11,<4` or `^20.1 || 22`, with at most so many parts.
fn version(requirement: &str, parts: usize) -> Option<String> {
    let from = requirement.find(|c: char| c.is_ascii_digit())?;
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let rest = &requirement[from..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
    let found: Vec<&str> = rest[..end.unwrap_or(rest.len())]
        .split('.')
        .take_while(digits)
        .take(parts)
        .collect();
    (!found.is_empty()).then(|| found.join("."))
}

/// Text as a TOML string.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A value of nested tables.
fn at<'t>(table: &'t Table, path: &[&str]) -> Option<&'t Value> {
    let (last, tables) = path.split_last()?;
    let mut table = table;
    for name in tables {
        table = table.get(*name)?.as_table()?;
    }
    table.get(*last)
}

fn plain(project: &Project) -> String {
    let name = project.image(None);
    format!(
        r#"[inputs]
base = {{ image = "docker.io/library/debian:stable-slim" }}
src = {{ local = ".", exclude = [".git", "rbuild.toml"] }}

[step.app]
from = "base"
workdir = "/app"
copy = [{{ from = "src", to = "./" }}]

[test.files]
from = "app"
run = ["ls -A | grep -q ."]

[output.image]
step = "app"
tags = ["{name}"]
require = ["test.files"]
image = {{ cmd = ["ls", "-l", "/app"] }}
"#
    )
}
