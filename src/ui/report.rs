//! Findings and failures as text, in one form: what is wrong, where, and last what to do about it.

use std::fmt::Write as _;
use std::sync::Arc;

use annotate_snippets::AnnotationKind;
use annotate_snippets::Group;
use annotate_snippets::Level;
use annotate_snippets::Renderer;
use annotate_snippets::Snippet;
use annotate_snippets::renderer::DEFAULT_ERROR_STYLE;
use annotate_snippets::renderer::DEFAULT_HELP_STYLE;
use annotate_snippets::renderer::DEFAULT_WARNING_STYLE;
use annotate_snippets::renderer::Style;
use rbuild_llb::Diagnostic;
use rbuild_llb::Severity;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::diagnostic::Label;

use super::Terminal;
use super::human;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::outcome::StepFailure;

/// A diagnostic with its excerpts and hints. No line end at the end.
pub fn render(diagnostic: &Diagnostic, color: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut text = match diagnostic.labels.is_empty() {
        true => headed(diagnostic.severity.into(), &diagnostic.message, color),
        false => excerpt(level, diagnostic, color),
    };
    for hint in &diagnostic.hints {
        let _ = write!(text, "\n{}", headed(Heading::Hint, hint, color));
    }
    text
}

/// Everything that is to be said of a failure, line ends included; `log` is the end of the failed step's output.
pub(crate) fn failure(error: &BuildError, log: &[String], terminal: Terminal) -> String {
    let Terminal { tty, color } = terminal;
    let mut parts: Vec<String> = error.diagnostics.iter().map(|d| render(d, color)).collect();
    let mut last = String::new();
    if let Some(step) = &error.step {
        last.push_str(&step_failure(step, log, color));
        // Of no use to who reads it in the log of a machine that is gone.
        if step.enterable && tty {
            let enter = "`rbuild shell` enters what the step left";
            let _ = write!(last, "\n{}", headed(Heading::Hint, enter, color));
        }
    }
    if let Some(source) = &error.source {
        if !last.is_empty() {
            last.push('\n');
        }
        last.push_str(&headed(Heading::Error, &source.to_string(), color));
        for cause in source.chain().skip(1) {
            let _ = write!(
                last,
                "\n{}",
                headed(Heading::Cause, &cause.to_string(), color)
            );
        }
    }
    if error.kind == ErrorKind::Interrupted && last.is_empty() && parts.is_empty() {
        last.push_str(&headed(Heading::Error, "interrupted", color));
    }
    for hint in &error.hints {
        if !last.is_empty() {
            last.push('\n');
        }
        last.push_str(&headed(Heading::Hint, hint, color));
    }
    parts.push(last);
    parts.retain(|part| !part.is_empty());
    let mut text = parts.join("\n\n");
    text.push('\n');
    text
}

/// The closing lines of a build that went well: what was made, where it is, what can be done with it.
pub(crate) fn success(outcome: &BuildOutcome) -> String {
    let mut text = String::new();
    for test in &outcome.passed {
        let _ = writeln!(text, "{test} passed");
    }
    for (name, path) in &outcome.written {
        let of = prefix(name.as_deref());
        let _ = writeln!(text, "{of}wrote {}", path.display());
    }
    for built in &outcome.built {
        made(built, &mut text);
    }
    for emulation in &outcome.emulated {
        let steps = match emulation.steps {
            1 => "1 step was".to_owned(),
            several => format!("{several} steps were"),
        };
        let seconds = emulation.time.as_secs_f64();
        let _ = writeln!(text, "{steps} emulated by {}: {seconds:.1}s", emulation.by);
    }
    for ran in &outcome.ran {
        let of = prefix(ran.target.as_deref());
        let _ = write!(text, "{of}{} was built on {}", ran.platform, ran.node);
        if ran.place != ran.node {
            let _ = write!(text, " ({})", ran.place);
        }
        if ran.emulated > 0 {
            let _ = write!(text, ", {} of its steps emulated", ran.emulated);
        }
        for (node, why) in &ran.failed {
            let _ = write!(text, "; {node} failed: {why}");
        }
        text.push('\n');
    }
    text
}

/// Which of several targets is meant.
fn prefix(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("{name}: "))
}

fn made(outcome: &Built, text: &mut String) {
    let image = outcome.image.as_ref().map_or_else(String::new, |image| {
        match image.size {
            // A daemon has made it, and does not say.
            0 => image.id.short(),
            size => format!("{}, {}", image.id.short(), human::bytes(size)),
        }
    });
    let of = prefix(outcome.name.as_deref());
    for delivery in &outcome.deliveries {
        if *delivery != Delivery::Stdout {
            text.push_str(&of);
        }
        let _ = match delivery {
            Delivery::Store { names } => match names.first() {
                Some(name) => writeln!(
                    text,
                    "built {} ({image})\nrun it with `rbuild run {}`, or hand it to docker or podman with `--load`",
                    names.join(", "),
                    familiar(name)
                ),
                None => writeln!(
                    text,
                    "built {image}\nname it with `-t NAME` to keep it and to run it, or hand it to docker or podman with `--load`"
                ),
            },
            Delivery::Pushed { name, digest } => writeln!(text, "pushed {name}@{digest}"),
            Delivery::Loaded { into, names } if names.is_empty() => {
                writeln!(text, "loaded an image without a name into {into} ({image})")
            }
            Delivery::Loaded { into, names } => {
                writeln!(text, "loaded {} into {into} ({image})", names.join(", "))
            }
            Delivery::File { path, size } => {
                writeln!(text, "wrote {} ({})", path.display(), human::bytes(*size))
            }
            Delivery::Directory { path } => writeln!(text, "wrote {}", path.display()),
            Delivery::Stdout => Ok(()),
        };
    }
}

/// A normalised name as people write it: without docker.io's prefix and the default tag.
pub(crate) fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

#[derive(Clone, Copy)]
pub(crate) enum Heading {
    Error,
    Warning,
    Cause,
    Hint,
}

impl From<Severity> for Heading {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
        }
    }
}

/// `error: …`, `caused by: …`, `hint: …`
pub(crate) fn headed(heading: Heading, text: &str, color: bool) -> String {
    let (word, style) = match heading {
        Heading::Error => ("error", DEFAULT_ERROR_STYLE),
        Heading::Warning => ("warning", DEFAULT_WARNING_STYLE),
        Heading::Cause => ("caused by", DEFAULT_ERROR_STYLE),
        Heading::Hint => ("hint", DEFAULT_HELP_STYLE),
    };
    let style = if color { style } else { Style::new() };
    format!("{style}{word}{style:#}: {}", human::harmless(text))
}

fn renderer(color: bool) -> Renderer {
    if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
}

/// Title and one excerpt a file, the primary label's file first.
fn excerpt(level: Level<'static>, diagnostic: &Diagnostic, color: bool) -> String {
    let mut files: Vec<&Arc<SourceFile>> = Vec::new();
    for label in &diagnostic.labels {
        if !files.iter().any(|file| Arc::ptr_eq(file, &label.span.file)) {
            files.push(&label.span.file);
        }
    }
    let snippets = files.into_iter().map(|file| {
        let annotations = diagnostic
            .labels
            .iter()
            .enumerate()
            .filter(|(_, label)| Arc::ptr_eq(&label.span.file, file))
            .map(|(i, label)| {
                let kind = match i {
                    0 => AnnotationKind::Primary,
                    _ => AnnotationKind::Context,
                };
                let text = (!label.text.is_empty()).then_some(label.text.as_str());
                kind.span(visible(&label.span)).label(text)
            });
        Snippet::source(file.text.as_str())
            .path(file.name.as_str())
            .annotations(annotations)
    });
    let message = human::harmless(&diagnostic.message);
    let title = level.primary_title(message.as_str());
    let mut groups = vec![Group::with_title(title).elements(snippets)];
    let has_hints = !diagnostic.hints.is_empty();
    if has_hints {
        // A following group makes the renderer close the excerpt with a bar; its own line is cut off again, because
        // only the last of several hints would come without a bar.
        groups.push(Group::with_title(Level::HELP.secondary_title("")));
    }
    let text = renderer(color).render(&groups);
    match has_hints {
        true => text
            .rsplit_once('\n')
            .map_or(text.clone(), |(head, _)| head.to_owned()),
        false => text,
    }
}

/// The span without the line end it may include, at least one character if there is one.
fn visible(span: &Span) -> std::ops::Range<usize> {
    let trimmed = span.text().trim_end_matches(['\n', '\r']).len();
    span.range.start..span.range.start + trimmed
}

/// So many characters of a step's name are in the headline of its failure.
const NAME: usize = 100;

/// A name as far as it fits into a headline.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        Some((end, _)) => format!("{} …", name[..end].trim_end()),
        None => name.to_owned(),
    }
}

fn step_failure(step: &StepFailure, log: &[String], color: bool) -> String {
    // The excerpt shows more of it, and progress has shown all.
    let name = match &step.span {
        Some(_) => shortened(&step.name),
        None => step.name.clone(),
    };
    let message = format!("`{name}` failed: {}", step.ended);
    let labels = step.span.iter().map(|span| Label {
        span: first_line(span),
        text: step.ended.clone(),
    });
    let mut text = render(
        &Diagnostic {
            severity: Severity::Error,
            rule: None,
            message,
            labels: labels.collect(),
            statement: None,
            hints: Vec::new(),
        },
        color,
    );
    match log.len() {
        0 => text.push_str("\n\nit printed nothing\n"),
        1 => text.push_str("\n\nthe last line of its output:\n"),
        n => {
            let _ = writeln!(text, "\n\nthe last {n} lines of its output:");
        }
    }
    for line in log {
        let _ = writeln!(text, "  {line}");
    }
    let again = "steps before it are kept: the same command goes on from here";
    let _ = write!(text, "\n{}", headed(Heading::Hint, again, color));
    for hint in suspicions(step, log) {
        let _ = write!(text, "\n{}", headed(Heading::Hint, &hint, color));
    }
    text
}

/// What programs say when a name has no address: of C libraries, curl, node, Go, apt and busybox.
const NO_NAMES: [&str; 7] = [
    "name resolution",
    "could not resolve",
    "name or service not known",
    "eai_again",
    "enotfound",
    "network is unreachable",
    "bad address",
];

/// What they say of a certificate that nobody they know has signed: OpenSSL and what builds on it, node, Go, GnuTLS.
const NO_TRUST: [&str; 6] = [
    "self_signed_cert",
    "self-signed certificate",
    "unable to get local issuer certificate",
    "unable_to_get_issuer_cert",
    "certificate signed by unknown authority",
    "certificate verif",
];

/// Causes that lie outside of the command, as far as its last words tell.
fn suspicions(step: &StepFailure, log: &[String]) -> Vec<String> {
    let log = log.join("\n").to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| log.contains(word));
    let mut hints = Vec::new();
    if step.offline && says(&NO_NAMES) {
        let plan = step
            .span
            .as_ref()
            .is_some_and(|s| s.file.language == "TOML");
        hints.push(match plan {
            true => "this step has no network; `network = true` gives it one".to_owned(),
            false => "this step has no network: `--network=none`".to_owned(),
        });
    }
    if says(&NO_TRUST) {
        let hint =
            "if a private authority signs here, `--ca FILE` is trusted by rbuild and in its steps";
        hints.push(hint.to_owned());
    }
    hints
}

/// A RUN may go on for pages; its first line says which one it is.
fn first_line(span: &Span) -> Span {
    let length = span.text().find('\n').unwrap_or(span.range.len());
    Span::new(&span.file, span.range.start..span.range.start + length)
}

#[cfg(test)]
mod t {
    use super::*;

    const NOWHERE: Terminal = Terminal {
        tty: false,
        color: false,
    };
    use crate::outcome::BuiltImage;
    use crate::outcome::Emulation;
    use rbuild_llb::OciDigest;
    use snapbox::assert_data_eq;
    use snapbox::str;
    use std::time::Duration;

    fn file(name: &str, text: &str) -> Arc<SourceFile> {
        Arc::new(SourceFile {
            name: name.into(),
            text: text.into(),
            language: "Dockerfile",
        })
    }

    fn span(file: &Arc<SourceFile>, text: &str) -> Span {
        let at = file.text.find(text).unwrap();
        Span::new(file, at..at + text.len())
    }

    #[test]
    fn message_place_and_hint() {
        let dockerfile = file(
            "Dockerfile",
            "FROM python\nWORKDIR /srv\n\n\n\n\nCOPY app.py /srv/\nCMD x\n",
        );
        let diagnostic = Diagnostic::error(
            "`COPY` source `app.py` is not in the build context",
            span(&dockerfile, "app.py"),
            "nothing matches after `.dockerignore`",
        );
        assert_data_eq!(
            render(&diagnostic, false),
            str![[r#"
error: `COPY` source `app.py` is not in the build context
 --> Dockerfile:7:6
  |
7 | COPY app.py /srv/
  |      ^^^^^^ nothing matches after `.dockerignore`
"#]]
        );
        let diagnostic = diagnostic
            .hint("`.dockerignore:3` excludes `*.py`; add `!app.py` to keep it")
            .hint("or copy another file");
        assert_data_eq!(
            render(&diagnostic, false),
            str![[r#"
error: `COPY` source `app.py` is not in the build context
 --> Dockerfile:7:6
  |
7 | COPY app.py /srv/
  |      ^^^^^^ nothing matches after `.dockerignore`
  |
hint: `.dockerignore:3` excludes `*.py`; add `!app.py` to keep it
hint: or copy another file
"#]]
        );
    }

    #[test]
    fn places_in_two_files_and_none() {
        let (dockerfile, ignore) = (
            file("Dockerfile", "FROM a\nFROM b\n"),
            file(".dockerignore", "*.py\n"),
        );
        let diagnostic = Diagnostic::error("two", span(&dockerfile, "FROM b\n"), "here")
            .also(span(&dockerfile, "FROM a"), "after this")
            .also(span(&ignore, "*.py"), "");
        assert_data_eq!(
            render(&diagnostic, false),
            str![[r#"
error: two
 --> Dockerfile:2:1
  |
1 | FROM a
  | ------ after this
2 | FROM b
  | ^^^^^^ here
  |
 ::: .dockerignore:1:1
  |
1 | *.py
  | ----
"#]]
        );
        let mut plain = diagnostic.hint("do not");
        plain.labels.clear();
        assert_eq!(render(&plain, false), "error: two\nhint: do not");
        assert_eq!(
            render(&plain, true),
            "\x1b[1m\x1b[91merror\x1b[0m: two\n\x1b[1m\x1b[96mhint\x1b[0m: do not"
        );
    }

    #[test]
    fn an_empty_file_and_the_end_of_a_file_can_be_pointed_at() {
        for (text, at) in [("", 0), ("FROM a", 6), ("FROM a\n", 7)] {
            let dockerfile = file("Dockerfile", text);
            let diagnostic = Diagnostic::error("no stage", Span::new(&dockerfile, at..at), "here");
            assert!(render(&diagnostic, false).starts_with("error: no stage\n --> Dockerfile:"));
        }
    }

    #[test]
    fn a_failed_step() {
        let dockerfile = file("Dockerfile", "FROM node\nRUN npm ci \\\n  --verbose\n");
        let error = BuildError::step(StepFailure {
            vertex: "sha256:aa".into(),
            name: "[build 2/5] RUN npm ci   --verbose".into(),
            ended: "exit code 1".into(),
            span: Some(span(&dockerfile, "RUN npm ci \\\n  --verbose")),
            enterable: false,
            offline: true,
        })
        .hint("run `rbuild doctor`");
        let log = [
            "0.312 npm ERR! code E404".to_owned(),
            "0.313 npm ERR!".to_owned(),
        ];
        assert_data_eq!(
            failure(&error, &log, NOWHERE),
            str![[r#"
error: `[build 2/5] RUN npm ci   --verbose` failed: exit code 1
 --> Dockerfile:2:1
  |
2 | RUN npm ci /
  | ^^^^^^^^^^^^ exit code 1

the last 2 lines of its output:
  0.312 npm ERR! code E404
  0.313 npm ERR!

hint: steps before it are kept: the same command goes on from here
hint: run `rbuild doctor`

"#]]
        );
    }

    #[test]
    fn what_a_step_lacks_is_suspected_by_its_last_words() {
        let of = |language: &'static str| {
            let source = Arc::new(SourceFile {
                name: "file".into(),
                text: "x".into(),
                language,
            });
            Some(Span::new(&source, 0..1))
        };
        // Printed by curl 7.88, npm 9, apt 2.6 and pip 23 in a step without network, and behind a private authority.
        let (names, trust) = (
            "curl: (6) Could not resolve host: example.org",
            "npm ERR! code SELF_SIGNED_CERT_IN_CHAIN",
        );
        for (offline, language, log, want) in [
            (true, "TOML", names, Some("`network = true`")),
            (
                true,
                "TOML",
                "npm ERR! syscall getaddrinfo EAI_AGAIN",
                Some("`network = true`"),
            ),
            (
                true,
                "Dockerfile",
                "Temporary failure in name resolution",
                Some("`--network=none`"),
            ),
            (false, "TOML", names, None),
            (true, "TOML", "no such file", None),
            (false, "TOML", trust, Some("`--ca FILE`")),
            (
                false,
                "TOML",
                "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
                Some("`--ca FILE`"),
            ),
        ] {
            let step = StepFailure {
                vertex: String::new(),
                name: String::new(),
                ended: String::new(),
                span: of(language),
                enterable: false,
                offline,
            };
            let hints = suspicions(&step, &["first".to_owned(), log.to_owned()]);
            assert_eq!(hints.len(), usize::from(want.is_some()), "{log}: {hints:?}");
            assert!(want.is_none_or(|want| hints[0].contains(want)), "{hints:?}");
        }
    }

    #[test]
    fn strangers_words_cannot_steer_the_terminal() {
        let hostile = "\x1b]0;title\x07 \u{9b}2J\r\u{7f}\u{e9}";
        let source = anyhow::Error::new(std::io::Error::other(hostile)).context(hostile);
        let mut error = BuildError::new(ErrorKind::Environment, source).hint(hostile);
        let dockerfile = file("Dockerfile", "FORM a\n");
        error.diagnostics =
            vec![Diagnostic::error(hostile, span(&dockerfile, "FORM"), "").hint(hostile)];
        let text = failure(&error, &[], NOWHERE);
        let controls = text.chars().filter(|c| c.is_control() && *c != '\n');
        assert_eq!(controls.count(), 0, "{text:?}");
        let shown = "\\u{1b}]0;title\\u{7} \\u{9b}2J\\r\\u{7f}\u{e9}";
        assert_eq!(text.matches(shown).count(), 5, "{text}");
    }

    #[test]
    fn chains_and_several_findings() {
        let source = anyhow::Error::new(std::io::Error::other("connection refused"))
            .context("cannot fetch `https://localhost:5000/v2/`")
            .context("cannot resolve `localhost:5000/app:latest`");
        let error =
            BuildError::new(ErrorKind::Environment, source).hint("is the registry running?");
        assert_data_eq!(
            failure(&error, &[], NOWHERE),
            str![[r#"
error: cannot resolve `localhost:5000/app:latest`
caused by: cannot fetch `https://localhost:5000/v2/`
caused by: connection refused
hint: is the registry running?

"#]]
        );
        let dockerfile = file("Dockerfile", "FORM a\nRUM b\n");
        let error = BuildError::request(vec![
            Diagnostic::error("unknown instruction `FORM`", span(&dockerfile, "FORM"), "")
                .hint("did you mean `FROM`?"),
            Diagnostic::error("unknown instruction `RUM`", span(&dockerfile, "RUM"), ""),
        ]);
        assert_data_eq!(
            failure(&error, &[], NOWHERE),
            str![[r#"
error: unknown instruction `FORM`
 --> Dockerfile:1:1
  |
1 | FORM a
  | ^^^^
  |
hint: did you mean `FROM`?

error: unknown instruction `RUM`
 --> Dockerfile:2:1
  |
2 | RUM b
  | ^^^

"#]]
        );
        assert_eq!(
            failure(&BuildError::interrupted(), &[], NOWHERE),
            "error: interrupted\n"
        );
    }

    #[test]
    fn closing_lines_say_what_to_do_next() {
        let descriptor = serde_json::json!({
            "digest": OciDigest::from_bytes([0xcd; 32]).to_string(),
            "size": 2,
        });
        let outcome = |deliveries| BuildOutcome {
            built: vec![Built {
                name: None,
                image: Some(BuiltImage {
                    id: OciDigest::from_bytes([0xab; 32]),
                    descriptor: serde_json::from_value(descriptor.clone()).unwrap(),
                    size: 7_830_000,
                    names: Vec::new(),
                }),
                deliveries,
            }],
            ..BuildOutcome::default()
        };
        assert_data_eq!(
            success(&outcome(vec![
                Delivery::Store {
                    names: vec![
                        "docker.io/library/app:latest".into(),
                        "ghcr.io/me/app:1".into()
                    ],
                },
                Delivery::File {
                    path: "out.tar".into(),
                    size: 1234,
                },
                Delivery::Loaded {
                    into: "podman".into(),
                    names: vec!["docker.io/library/app:latest".into()],
                },
                Delivery::Stdout,
            ])),
            str![[r#"
built docker.io/library/app:latest, ghcr.io/me/app:1 (abababababab, 7.83MB)
run it with `rbuild run app`, or hand it to docker or podman with `--load`
wrote out.tar (1.23kB)
loaded docker.io/library/app:latest into podman (abababababab, 7.83MB)

"#]]
        );
        let emulation = |by: &str, steps, milliseconds| Emulation {
            by: by.to_owned(),
            steps,
            time: Duration::from_millis(milliseconds),
        };
        let emulated = BuildOutcome {
            emulated: vec![
                emulation("qemu-arm", 1, 90),
                emulation("qemu-s390x", 3, 61_250),
            ],
            ..BuildOutcome::default()
        };
        assert_eq!(
            success(&emulated),
            "1 step was emulated by qemu-arm: 0.1s\n3 steps were emulated by qemu-s390x: 61.2s\n"
        );
        assert_data_eq!(
            success(&outcome(vec![Delivery::Store { names: Vec::new() }])),
            str![[r#"
built abababababab, 7.83MB
name it with `-t NAME` to keep it and to run it, or hand it to docker or podman with `--load`

"#]]
        );
    }
}
