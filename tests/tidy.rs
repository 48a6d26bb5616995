//! What no lint can say: who may know whom, and what must stand in no file. The rules are those of ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use regex::Regex;

/// The modules of `src/`, each with those it may use besides itself. `main` and `lib` only name the others.
const LAYERS: [(&str, &[&str]); 17] = [
    ("agent", &[]),
    ("clock", &[]),
    ("request", &[]),
    ("outcome", &["image", "request"]),
    ("picture", &[]),
    ("image", &["clock"]),
    ("links", &[]),
    ("registry", &["clock", "image", "links", "request"]),
    ("buildkit", &["agent", "request"]),
    ("sandbox", &["clock"]),
    ("solver", &["clock"]),
    (
        "ops",
        &[
            "agent", "clock", "image", "registry", "request", "sandbox", "solver",
        ],
    ),
    (
        "exporter",
        &["clock", "image", "links", "outcome", "registry", "request"],
    ),
    ("remote", &["clock", "image", "registry", "request"]),
    (
        "pipeline",
        &[
            "buildkit", "clock", "exporter", "image", "ops", "outcome", "picture", "registry",
            "remote", "request", "sandbox", "solver", "ui",
        ],
    ),
    ("ui", &["clock", "outcome", "pipeline", "request"]),
    (
        "cli",
        &[
            "clock", "image", "outcome", "picture", "pipeline", "registry", "request", "sandbox",
            "ui",
        ],
    ),
];

/// The workspace's other crates, each with those it may use, and the modules of `src/` that may use it.
const CRATES: [(&str, &str, &[&str], &[&str]); 5] = [
    ("llb", "rbuild_llb", &[], &["*"]),
    (
        "cache",
        "rbuild_cache",
        &["rbuild_llb"],
        &[
            "cli", "exporter", "ops", "pipeline", "registry", "remote", "sandbox", "solver",
        ],
    ),
    (
        "frontends/bake",
        "rbuild_bake",
        &["rbuild_llb"],
        &["cli", "pipeline"],
    ),
    (
        "frontends/dockerfile",
        "rbuild_dockerfile",
        &["rbuild_llb"],
        &["cli", "pipeline"],
    ),
    (
        "frontends/toml",
        "rbuild_plan",
        &["rbuild_dockerfile", "rbuild_llb"],
        &["cli", "pipeline"],
    ),
];

/// Files that are long because they are tables.
const LONG: [&str; 0] = [];

#[test]
fn modules_use_only_those_below() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = module_of(&path);
        if matches!(module.as_str(), "main" | "lib") {
            continue;
        }
        let (_, allowed) = LAYERS
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("`{module}` has no line in tests/tidy.rs"));
        for used in matches(r"\bcrate::([a-z_]+)", &text) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{path}: `{module}` uses `{used}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_use_only_those_below() {
    let mut wrong = Vec::new();
    for (dir, _, allowed, _) in CRATES {
        for (path, text) in sources(dir) {
            for used in matches(r"\b(rbuild(?:_[a-z]+)?)::", &text) {
                if !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{path} uses `{used}`"));
                }
            }
        }
    }
    for (path, text) in sources("src") {
        let module = module_of(&path);
        for (_, name, _, users) in CRATES {
            let free = users.contains(&"*") || users.contains(&module.as_str());
            if !free && text.contains(&format!("{name}::")) {
                wrong.push(format!("{path}: `{module}` uses `{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each habit has its one home.
#[test]
fn printing_environment_network_and_unsafe_stay_at_home() {
    let rules = [
        (r"\be?print(ln)?!\(", &["src/ui/"] as &[&str], "prints"),
        (
            r"\bio::std(out|err)\(\)",
            &["src/ui/", "src/cli/", "src/exporter/"],
            "opens a standard stream",
        ),
        (
            r"\benv::(var|vars|args)(_os)?\(",
            &["src/cli/"],
            "reads the environment",
        ),
        (
            r"\b(ureq|TcpStream|TcpListener|UdpSocket)\b",
            &["src/buildkit/", "src/registry/", "src/sandbox/publish.rs"],
            "speaks to the network",
        ),
        (
            r"\b(tonic|tokio)\b",
            &["src/buildkit/"],
            "speaks gRPC, or waits for futures",
        ),
        (r"\bunsafe\b", &["src/sandbox/"], "is unsafe"),
        (r"\bSystemTime::now\b", &["src/clock.rs"], "reads the clock"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in ["src", "llb", "cache", "frontends"]
        .into_iter()
        .flat_map(sources)
    {
        let text = without_tests(&path, &text);
        for (pattern, homes, what) in rules {
            let at_home = homes.iter().any(|home| path.starts_with(home));
            if !at_home && Regex::new(pattern).unwrap().is_match(text) {
                wrong.push(format!("{path} {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_says_why_it_is_safe() {
    let unsafe_code = Regex::new(r"\bunsafe \{|\bunsafe impl").unwrap();
    for path in files("src", &["rs"]) {
        let text = read(&path);
        let code = code_of(&text);
        if unsafe_code.is_match(&code) {
            assert!(
                text.contains("SAFETY:"),
                "{} has no SAFETY comment",
                path.display()
            );
        }
    }
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for path in ["src", "llb", "cache", "frontends", "tests", "benches"]
        .into_iter()
        .flat_map(|dir| files(dir, &["rs"]))
    {
        let name = relative(&path);
        let lines = read(&path).lines().count();
        if lines > 800 && !LONG.contains(&name.as_str()) {
            wrong.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A path that exists on one machine only makes a page or a fixture wrong everywhere else.
#[test]
fn no_file_names_a_place_on_someones_machine() {
    let checkout = env!("CARGO_MANIFEST_DIR");
    let personal = Regex::new(r"/(?:home|Users)/([a-z][a-z0-9]*)/").unwrap();
    // Accounts that images and examples have.
    let in_images = ["app", "dev", "me", "node", "user"];
    let mut wrong = Vec::new();
    for path in [
        "docs",
        "testdata",
        "tests",
        "benches",
        "src",
        "llb",
        "cache",
        "frontends",
        "",
    ]
    .into_iter()
    .flat_map(|dir| {
        files(
            dir,
            &["md", "rs", "toml", "txt", "json", "yml", "Dockerfile", "sh"],
        )
    }) {
        let text = read(&path);
        let someones = matches_of(&personal, &text)
            .into_iter()
            .any(|name| !in_images.contains(&name.as_str()));
        if someones || text.contains(checkout) {
            wrong.push(relative(&path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Documents that readers find their way by: what they link to, and the files that those about the code name, are there.
#[test]
fn documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let code = Regex::new(
        r"`((?:src|llb|cache|frontends|tests|docs|testdata|benches|examples|packaging|fuzz)/[\w./-]+)`",
    )
    .unwrap();
    let mut wrong = Vec::new();
    for path in ["", "docs", "tests", "benches"]
        .into_iter()
        .flat_map(|dir| files(dir, &[".md"]))
    {
        let (name, text) = (relative(&path), read(&path));
        for target in matches_of(&link, &text) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let leads = target.contains("://")
                || (to.exists() && (anchor.is_empty() || anchors(&read(&to)).contains(anchor)));
            if !leads {
                wrong.push(format!("{name} links to {target}"));
            }
        }
        // What else is named there may be another repository's, or still to be made.
        if !name.starts_with("docs/") {
            let named = matches_of(&code, &text).into_iter();
            let missing = named.filter(|named| !root.join(named).exists());
            wrong.extend(missing.map(|named| format!("{name} names {named}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a document's headings are linked to by, as GitHub makes it.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = Regex::new(r"(?m)^#+ (.*)$").unwrap();
    let odd = Regex::new(r"[^\w\- ]").unwrap();
    let headings = heading.captures_iter(text);
    let slug = |heading: &str| {
        odd.replace_all(&heading.to_lowercase(), "")
            .replace(' ', "-")
    };
    headings.map(|found| slug(found[1].trim())).collect()
}

/// `solver` of `src/solver/queue.rs`, `clock` of `src/clock.rs`.
fn module_of(path: &str) -> String {
    let inside = path.strip_prefix("src/").unwrap();
    let first = inside.split('/').next().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The Rust files below `dir`, each with its code: comments left out.
fn sources(dir: &str) -> Vec<(String, String)> {
    let found: Vec<_> = files(dir, &["rs"])
        .into_iter()
        .map(|path| (relative(&path), code_of(&read(&path))))
        .collect();
    assert!(!found.is_empty(), "there is nothing below {dir}");
    found
}

fn code_of(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Everything before the test module; nothing of a file that is one.
fn without_tests<'a>(path: &str, text: &'a str) -> &'a str {
    if ["tests.rs", "testing.rs", "fake.rs"]
        .iter()
        .any(|name| path.ends_with(name))
        || path.contains("/tests/")
    {
        return "";
    }
    text.split_once("\n#[cfg(test)]\nmod t")
        .map_or(text, |(code, _)| code)
}

fn matches(pattern: &str, text: &str) -> Vec<String> {
    matches_of(&Regex::new(pattern).unwrap(), text)
}

fn matches_of(pattern: &Regex, text: &str) -> Vec<String> {
    pattern
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .collect()
}

/// The files below a directory of the repository whose names end so; for `""`, only those at the top.
fn files(dir: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(at) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&at) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                if !dir.is_empty() && !path.ends_with("target") {
                    dirs.push(path);
                }
            } else if endings
                .iter()
                .any(|ending| path.to_string_lossy().ends_with(ending))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR"))
        .unwrap()
        .display()
        .to_string()
}
