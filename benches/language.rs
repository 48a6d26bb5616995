//! The languages by themselves, in this process and on one core: `cargo bench --bench language [NAME…]`. README.md says what
//! each line means.

// A program of its own: it prints, and ends with a panic where a test would.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

#[allow(dead_code, reason = "the other bench uses the rest")]
#[path = "commands/measure.rs"]
mod measure;

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Frontend;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::Matches;
use rbuild_llb::pattern::PatternSet;

use measure::Bound;
use measure::in_turns;
use measure::line;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 500;
const STAGES: usize = 50;
const TEXT_LINES: usize = 1000;
const DIRS: usize = 500;
const FILES: usize = 100;

/// A line's name, and what measures it.
type Line = (&'static str, fn() -> String);

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    const LINES: [Line; 4] = [
        ("convert", convert),
        ("plan", plan),
        ("outputs", outputs),
        ("patterns", patterns),
    ];
    for (name, line) in LINES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("{name:<18} {}", line());
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// Twenty lines a stage, each stage built on one before and copied from by one after.
fn dockerfile() -> String {
    let mut text = String::from("ARG VERSION=1.2\n");
    let mut lines = 1;
    for stage in 0..STAGES {
        match stage {
            0 => text.push_str("FROM base:${VERSION} AS s0\n"),
            _ => writeln!(text, "FROM s{} AS s{stage}", stage / 2).unwrap(),
        }
        write!(
            text,
            "ARG VERSION\nENV STAGE={stage} PATH=/opt/{stage}/bin:$PATH\nWORKDIR /src/{stage}\n\
             COPY package.json package-lock.json ./\n\
             RUN --mount=type=cache,target=/root/.cache \\\n    apt-get update && \\\n    apt-get install -y package-{stage}\n\
             # what comes next is built anew when a file changes\nCOPY --chown=1000:1000 src/{stage} src/\n"
        )
        .unwrap();
        lines += 10;
        if stage > 0 {
            writeln!(text, "COPY --from=s{} /src/out /in", stage - 1).unwrap();
            lines += 1;
        }
        while lines < (stage + 1) * TEXT_LINES / STAGES {
            writeln!(
                text,
                "RUN make target-{lines} VERSION=\"${{VERSION:-none}}\" 'as $is'"
            )
            .unwrap();
            lines += 1;
        }
    }
    assert_eq!(text.lines().count(), TEXT_LINES);
    text
}

fn request(name: &str, language: &'static str, text: &str) -> FrontendRequest {
    FrontendRequest::new(Arc::new(SourceFile {
        name: name.into(),
        text: text.to_owned(),
        language,
    }))
}

/// Outline and conversion of a file, with a frontend that has not seen it, beside its words as strings.
fn converted<F: Frontend>(
    request: &FrontendRequest,
    frontend: impl Fn() -> F,
    within: Duration,
) -> String {
    let outline = frontend().outline(request).unwrap();
    let mut pins = Pins::default();
    for wanted in outline.sources {
        if let SourceOp::Image(_) = wanted.source {
            let pin = Pin::Image {
                digest: OciDigest::from_bytes([1; 32]),
                config: Box::new(ImageConfig::default()),
            };
            pins.insert(wanted.source, wanted.platform, pin);
        }
    }
    let (ours, words) = in_turns(
        ROUNDS,
        |_| {
            Ok(timed(|| {
                let language = frontend();
                black_box(language.outline(request)).unwrap();
                match language.convert(request, &pins).unwrap() {
                    Conversion::Done(done) => drop(black_box(done)),
                    Conversion::NeedsSources(more) => panic!("{more:?}"),
                }
            }))
        },
        |_| {
            Ok(timed(|| {
                let lines = request.source.text.lines();
                let words = lines.map(|line| line.split(' ').map(str::to_owned).collect());
                black_box(words.collect::<Vec<Vec<String>>>());
            }))
        },
    )
    .unwrap();
    let bound = Bound {
        within: Some(within),
        times: None,
    };
    line(&ours, &words, "its words as strings", &bound)
}

fn convert() -> String {
    let request = request("Dockerfile", "Dockerfile", &dockerfile());
    converted(&request, Dockerfile::default, Duration::from_millis(2))
}

/// Steps that all need the one before: a copy and a command each; of ten, nine take files from that and start from one far
/// before, and one starts from it, takes files of the context, and has variables and a directory.
fn steps(count: usize) -> String {
    let mut text = String::from(
        "schema = 1\n[args]\nversion = \"1.2\"\n[inputs]\nbase = { image = \"base:{args.version}\" }\n\
         src = { local = \".\", exclude = [\".git\", \"**/*.o\"] }\n[caches.pkg]\npath = \"/root/.cache\"\n",
    );
    for step in 0..count {
        let (from, copied) = match (step, step % 10) {
            (0, _) => (
                "base".to_owned(),
                "{ from = \"src\", to = \"src/\" }".to_owned(),
            ),
            (_, 0) => (
                format!("s{}", step - 1),
                format!(
                    "{{ from = \"src\", path = \"src/{step}\", to = \"src/\", owner = \"1000:1000\" }}"
                ),
            ),
            _ => (
                format!("s{}", step / 10),
                format!(
                    "{{ from = \"s{}\", path = \"/src/out\", to = \"/in\" }}",
                    step - 1
                ),
            ),
        };
        write!(
            text,
            "\n[step.s{step}]\nfrom = \"{from}\"\ncopy = [{copied}]\n\
             run = [\"apt-get update && apt-get install -y package-{step}={{args.version}}\"]\n\
             network = true\ncaches = [\"pkg\"]\n"
        )
        .unwrap();
        if step % 10 == 0 {
            write!(
                text,
                "workdir = \"/src/{step}\"\nenv = {{ STEP = \"{step}\", PATH = \"/opt/{step}/bin:{{env.PATH}}\" }}\n"
            )
            .unwrap();
        }
    }
    text
}

fn plan() -> String {
    const STEPS: usize = 500;
    let text = format!("{}[output.all]\nstep = \"s{}\"\n", steps(STEPS), STEPS - 1);
    let request = request("rbuild.toml", "TOML", &text);
    converted(
        &request,
        rbuild_plan::Plan::default,
        Duration::from_millis(5),
    )
}

/// A hundred outputs of a graph of fifty steps.
fn outputs() -> String {
    let mut text = steps(50);
    for output in 0..100 {
        write!(
            text,
            "\n[output.o{output}]\nstep = \"s{}\"\ntags = [\"example.org/o{output}:{{args.version}}\"]\n\
             [output.o{output}.image]\ncmd = [\"serve\", \"{output}\"]\nlabels = {{ number = \"{output}\" }}\n",
            output % 50
        )
        .unwrap();
    }
    let request = request("rbuild.toml", "TOML", &text);
    converted(
        &request,
        rbuild_plan::Plan::default,
        Duration::from_millis(20),
    )
}

const PATTERNS: [&str; 30] = [
    "**/.git",
    "**/.gitignore",
    "**/.classpath",
    "**/.dockerignore",
    "**/.env",
    "**/.project",
    "**/.settings",
    "**/.toolstarget",
    "**/.vs",
    "**/.vscode",
    "**/*.*proj.user",
    "**/*.dbmdl",
    "**/*.jfm",
    "**/bin",
    "**/charts",
    "**/docker-compose*",
    "**/compose*",
    "**/Dockerfile*",
    "**/node_modules",
    "**/npm-debug.log",
    "**/obj",
    "**/secrets.dev.yaml",
    "**/values.dev.yaml",
    "LICENSE",
    "README.md",
    "docs/**/*.md",
    "!docs/index.md",
    "*.log",
    "target/",
    "**/*.py[cod]",
];

/// Every path of a walk is matched, as reading a context does it: directories hand down what matched them.
fn patterns() -> String {
    let set = PatternSet::new(&PATTERNS.map(str::to_owned)).unwrap();
    let dirs: Vec<(String, Vec<String>)> = (0..DIRS)
        .map(|dir| {
            let dir = format!("packages-{}/module-{dir}", dir % 20);
            let files = (0..FILES)
                .map(|file| format!("{dir}/component-{file}.test.ts"))
                .collect();
            (dir, files)
        })
        .collect();
    let (ours, compare) = in_turns(
        ROUNDS,
        |_| {
            Ok(timed(|| {
                let mut matched = 0;
                for (dir, files) in &dirs {
                    let (parent, _) = dir.split_once('/').unwrap();
                    let (_, above): (bool, Matches) = set.enter(parent, None);
                    let (_, above) = set.enter(dir, Some(&above));
                    let matches = |file: &&String| set.matches_below(file, Some(&above));
                    matched += files.iter().filter(matches).count();
                }
                assert_eq!(black_box(matched), 0);
            }))
        },
        |_| {
            Ok(timed(|| {
                let files = dirs.iter().flat_map(|(_, files)| files);
                let compared =
                    files.map(|file| PATTERNS.iter().filter(|p| file.ends_with(**p)).count());
                assert_eq!(black_box(compared.sum::<usize>()), 0);
            }))
        },
    )
    .unwrap();
    let bound = Bound {
        within: Some(Duration::from_millis(20)),
        times: None,
    };
    line(
        &ours,
        &compare,
        "as many comparisons with the end of a path",
        &bound,
    )
}
