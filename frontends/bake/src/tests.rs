//! The cases of testdata/bake, as buildx resolves them; damaged files; the pages of the documentation.

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

/// Cases that are long enough to be damaged in many ways, and short enough to be read often.
fn samples() -> Vec<(String, String, BakeOptions)> {
    let mut samples = Vec::new();
    for case in cases() {
        let (files, options) = read(&case);
        for file in files {
            samples.push((file.name.clone(), file.text.clone(), options.clone()));
        }
    }
    samples
}

/// Resolves and prints, and looks at every place of every diagnostic.
fn survives(name: &str, text: String, options: &BakeOptions) {
    let file = Arc::new(SourceFile {
        name: name.to_owned(),
        text,
        language: language_of(name),
    });
    match resolve(&[file], options) {
        Ok(plan) => drop((print(&plan), rendered(&plan.warnings))),
        Err(why) => {
            assert!(!why.is_empty());
            assert!(rendered(&why).starts_with("error: "));
        }
    }
}

/// A piece of text as it stands in bake files, to be put where it does not belong.
const PIECES: [&str; 28] = [
    "${",
    "}",
    "%{ if ",
    "%{ endif }",
    "\"",
    "\\",
    "[",
    "]",
    "{",
    "(",
    ")...",
    "\n",
    "=",
    "<<-E\n",
    "\u{feff}",
    "é",
    "null",
    "-1",
    "99999999999999999999999",
    ".*",
    "[*]",
    "target.default",
    "*x",
    "&x ",
    "<<: *x",
    "!reset ",
    "$",
    "\t",
];

proptest! {
    /// Files cut off, repeated, with pieces put in: there is a plan or an error, never a panic.
    #[test]
    fn damaged_files_are_refused_or_resolve(
        sample in 0..10_000_usize,
        damages in prop::collection::vec((0..10_000_usize, 0..10_000_usize, 0..PIECES.len() + 3), 1..4),
    ) {
        let samples = samples();
        let (name, text, options) = &samples[sample % samples.len()];
        let mut text: Vec<char> = text.chars().collect();
        for (from, to, how) in damages {
            let (a, b) = (from % (text.len() + 1), to % (text.len() + 1));
            let (a, b) = (a.min(b), a.max(b).min(a.min(b) + 200));
            match how {
                0 => drop(text.drain(a..b)),
                1 => drop(text.splice(a..a, text[a..b].to_vec())),
                2 => text.truncate(b),
                piece => drop(text.splice(a..a, PIECES[piece - 3].chars())),
            }
        }
        survives(name, text.into_iter().collect(), options);
    }

    #[test]
    fn any_text_is_refused_or_resolves(text in "[\\x00-\\x7f\u{80}-\u{2030}]{0,80}", name in 0..4_usize) {
        let name = ["docker-bake.hcl", "docker-bake.json", "compose.yaml", "bakefile"][name];
        survives(name, text, &BakeOptions::default());
    }
}

/// What nests or grows without end meets a limit, on a thread with the small stack that threads have.
#[test]
fn limits_hold() {
    let options = BakeOptions::default();
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(5000), close.repeat(5000));
    let chain =
        |count: usize, link: &dyn Fn(usize) -> String| -> String { (0..count).map(link).collect() };
    let files = [
        ("docker-bake.hcl", format!("a = {}", deep("[", "]"))),
        ("docker-bake.hcl", format!("a = {}", deep("(", ")"))),
        ("docker-bake.hcl", format!("a = {}", deep("-", ""))),
        ("docker-bake.hcl", format!("a = {}", deep("x ? 1 : ", ""))),
        ("docker-bake.hcl", format!("a = {}", deep("\"${", "}\""))),
        ("docker-bake.hcl", format!("a = 1{}", " + 1".repeat(5000))),
        ("docker-bake.hcl", format!("a = {{}}{}", ".a".repeat(5000))),
        ("docker-bake.json", deep("[", "]")),
        (
            "docker-bake.json",
            format!("{{\"a\": {}}}", deep("{\"a\":", "}")),
        ),
        ("compose.yaml", format!("services: {}", deep("[", "]"))),
        ("compose.yaml", format!("services: {}", deep("{a: ", "}"))),
        (
            "docker-bake.hcl",
            chain(5000, &|n| format!("a{n} = a{}\n", n + 1)),
        ),
        (
            "docker-bake.hcl",
            chain(60, &|n| format!("a{n} = [a{0}, a{0}]\n", n + 1)) + "a60 = \"x\"",
        ),
        (
            "docker-bake.hcl",
            chain(60, &|n| {
                let next = n + 1;
                format!(
                    "function \"f{n}\" {{\n params = []\n result = concat(f{next}(), f{next}())\n}}\n"
                )
            }) + "function \"f60\" {\n params = []\n result = [1]\n}\na = f0()",
        ),
        (
            "docker-bake.hcl",
            "target \"default\" {\n name = \"t${a}\"\n matrix = {\n".to_owned()
                + &chain(20, &|n| format!("  a{n} = range(100)\n"))
                + " }\n}",
        ),
        (
            "compose.yaml",
            "x0: &x0 [a, a]\n".to_owned()
                + &chain(60, &|n| format!("x{0}: &x{0} [*x{n}, *x{n}]\n", n + 1))
                + "services: {}\n",
        ),
        (
            "docker-bake.hcl",
            chain(500, &|n| {
                format!("target \"t{n}\" {{\n inherits = [\"t{}\"]\n}}\n", n + 1)
            }),
        ),
        (
            "docker-bake.hcl",
            chain(500, &|n| {
                format!("group \"t{n}\" {{\n targets = [\"t{}\"]\n}}\n", n + 1)
            }),
        ),
        (
            "docker-bake.hcl",
            chain(22, &|n| {
                format!("a{n} = a{}{}\n", n + 1, " + 1".repeat(127))
            }) + "a22 = 1\n",
        ),
        (
            "docker-bake.hcl",
            chain(22, &|n| {
                let (open, close) = ("upper([".repeat(30), "][0])".repeat(30));
                format!("a{n} = {open}a{}{close}\n", n + 1)
            }) + "a22 = \"x\"\n",
        ),
    ];
    let limits = [
        "nesting depth",
        "nesting depth",
        "nesting depth",
        "nesting depth",
        "nesting depth",
        "binary operation",
        "no attribute `a`",
        "too deep",
        "too deep",
        "recursion limit",
        "more than 64 deep",
        "more than 50 deep",
        "more than 50 deep",
        "more than 50 deep",
        "more work",
        "more than 100000 values",
        "more than 100 deep",
        "more than 100 deep",
        "too deep",
        "too deep",
    ];
    assert_eq!(files.len(), limits.len());
    let mut options = options;
    options.targets = vec!["t0".to_owned()];
    for ((name, text), limit) in files.into_iter().zip(limits) {
        let start: String = text.chars().take(60).collect();
        let file = Arc::new(SourceFile {
            name: name.to_owned(),
            text,
            language: language_of(name),
        });
        let why = resolve(&[file], &options).expect_err(&start);
        assert!(
            why[0].message.contains(limit),
            "{start}: {}",
            why[0].message
        );
    }
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

/// `BAKE_CASE=compose cargo test -p rbuild-bake` looks at the cases with `compose` in their names; with
/// `SNAPSHOTS=overwrite` what the refused ones say is written anew.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "who runs the tests chooses cases by the environment"
)]
fn files_resolve_as_buildx_resolves_them() {
    let only = std::env::var("BAKE_CASE").unwrap_or_default();
    let overwrite = std::env::var("SNAPSHOTS").is_ok_and(|wish| wish == "overwrite");
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

/// The page lists every function that there is, how it is called, and every one that is refused.
#[test]
fn the_documentation_lists_the_functions() {
    let page = fs::read_to_string(root().join("docs/bake.md")).unwrap();
    let listed = |start: &str| -> Vec<String> {
        let (_, rest) = page.split_once(start).unwrap();
        let rows = rest.lines().skip_while(|line| !line.starts_with("|---"));
        let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('|').nth(1).unwrap().trim().to_owned())
            .collect()
    };
    let all = functions::all();
    let usages: Vec<_> = all.iter().map(|(_, usage)| format!("`{usage}`")).collect();
    assert_eq!(listed("## Functions\n"), usages);
    let refused: Vec<_> = functions::REFUSED
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    assert_eq!(listed("### Functions that are refused\n"), refused);
}
