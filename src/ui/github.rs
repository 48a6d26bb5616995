//! A build in the language of GitHub's runners: workflow commands, annotations on lines of a Dockerfile, and the summary of a
//! job in Markdown.
//!
//! Texts of strangers are in all of it: a command's line ends and separators are escaped as runners undo it
//! (actions/toolkit, packages/core/src/command.ts), and Markdown shows what it is given and does nothing it says.

use std::fmt::Write as _;

use rbuild_llb::Diagnostic;
use rbuild_llb::Severity;
use rbuild_llb::Span;

use super::human;
use super::progress::Progress;
use super::report;
use super::trace::Step;
use super::trace::Trace;
use super::warning;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Delivery;

/// Rows that a summary has at most: a runner takes 1 MiB, of all steps of a job together.
const MAX_ROWS: usize = 150;
/// Characters of a step's name, or of why it ran.
const MAX_TEXT: usize = 160;
/// Lines of an output or a message that a summary has, and characters of each.
const MAX_FENCED: (usize, usize) = (100, 500);
/// Messages that it has.
const MAX_MESSAGES: usize = 10;
/// Lines of a failed step's output that an annotation has.
const MAX_LINES: usize = 8;

/// How an annotation is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Yellow.
    Warning,
    /// Red.
    Error,
}

/// `::name key=value::message`; properties without a value are left out.
pub(crate) fn command(name: &str, properties: &[(&str, String)], message: &str) -> String {
    let mut text = format!("::{name}");
    let mut mark = ' ';
    for (key, value) in properties.iter().filter(|(_, value)| !value.is_empty()) {
        let value = escaped(value).replace(':', "%3A").replace(',', "%2C");
        let _ = write!(text, "{mark}{key}={value}");
        mark = ',';
    }
    text + "::" + &escaped(message)
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A command that shows a message, at a place if there is one.
pub(crate) fn annotation(level: Level, place: Option<&Span>, title: &str, message: &str) -> String {
    let mut properties = Vec::new();
    // What comes on standard input or from another server is no file of the repository.
    if let Some(span) =
        place.filter(|span| span.file.name != "-" && !span.file.name.contains("://"))
    {
        let text = span.text().trim_end_matches(['\n', '\r']);
        let end = span.range.start + text.char_indices().next_back().map_or(0, |(at, _)| at);
        let (line, column) = span.file.position(span.range.start);
        let (end_line, end_column) = span.file.position(end);
        properties.push(("file", span.file.name.clone()));
        properties.push(("line", line.to_string()));
        properties.push(("endLine", end_line.to_string()));
        // Columns are refused where there are several lines.
        if line == end_line {
            properties.push(("col", column.to_string()));
            properties.push(("endColumn", end_column.to_string()));
        }
    }
    properties.push(("title", title.to_owned()));
    let name = match level {
        Level::Warning => "warning",
        Level::Error => "error",
    };
    command(name, &properties, message)
}

fn finding(diagnostic: &Diagnostic) -> String {
    let level = match diagnostic.severity {
        Severity::Warning => Level::Warning,
        Severity::Error => Level::Error,
    };
    let label = diagnostic.labels.first();
    let mut message = diagnostic.message.clone();
    if let Some(label) = label.filter(|label| !label.text.is_empty()) {
        let _ = write!(message, "\n{}", label.text);
    }
    for hint in &diagnostic.hints {
        let _ = write!(message, "\nhint: {hint}");
    }
    if let Some(rule) = diagnostic.rule {
        let _ = write!(message, "\nmore info: {}", warning::rule_page(rule));
    }
    let title = diagnostic.rule.unwrap_or("rbuild");
    annotation(level, label.map(|label| &label.span), title, &message)
}

/// An annotation for each warning, after [`Progress::finish`].
pub(crate) fn warnings(progress: &Progress) -> Vec<String> {
    progress.warnings().iter().map(finding).collect()
}

/// Annotations for what is wrong with a request, before anything was built.
pub(crate) fn failure_before(error: &BuildError) -> Vec<String> {
    annotations(error, &[])
}

/// Annotations for why a build failed.
pub(crate) fn failure(error: &BuildError, progress: &Progress) -> Vec<String> {
    let log = match &error.step {
        Some(step) => progress.log_tail(&step.vertex),
        None => Vec::new(),
    };
    annotations(error, &log)
}

fn annotations(error: &BuildError, log: &[String]) -> Vec<String> {
    let mut list: Vec<String> = error.diagnostics.iter().map(finding).collect();
    let hints: String = error
        .hints
        .iter()
        .map(|hint| format!("\nhint: {hint}"))
        .collect();
    if let Some(step) = &error.step {
        let last = &log[log.len().saturating_sub(MAX_LINES)..];
        let mut message = format!("{} failed: {}", step.name, step.ended);
        for line in last {
            let _ = write!(message, "\n  {line}");
        }
        message += &hints;
        list.push(annotation(
            Level::Error,
            step.span.as_ref(),
            "rbuild",
            &message,
        ));
    }
    if let Some(source) = &error.source {
        let message = format!("{source:#}{hints}");
        list.push(annotation(Level::Error, None, "rbuild", &message));
    }
    list
}

/// What a build did and made, after [`Progress::finish`].
pub(crate) fn summary(result: &Result<BuildOutcome, BuildError>, progress: &Progress) -> String {
    let mut text = String::new();
    match result {
        Ok(outcome) => made(outcome, &mut text),
        Err(error) => went_wrong(error, progress, &mut text),
    }
    progress.traced(|trace| steps(trace, &mut text));
    let warnings = progress.warnings();
    if !warnings.is_empty() {
        text += "\n#### Warnings\n\n";
        for warning in warnings.iter().take(MAX_ROWS) {
            let _ = writeln!(text, "- {}", inline(&warning::short(warning)));
        }
    }
    text.push('\n');
    text
}

fn made(outcome: &BuildOutcome, text: &mut String) {
    for built in &outcome.built {
        let names = built.image.iter().flat_map(|image| &image.names);
        let names: Vec<String> = names.map(|name| code(report::familiar(name))).collect();
        let what = match (&built.name, names.is_empty()) {
            (_, false) => names.join(", "),
            (Some(name), true) => code(name),
            (None, true) if built.image.is_some() => "an image".to_owned(),
            (None, true) => "files".to_owned(),
        };
        let _ = writeln!(text, "### Built {what}\n");
        let mut rows = Vec::new();
        if let Some(image) = &built.image {
            rows.push(("Digest", code(&image.descriptor.digest.to_string())));
            rows.push(("Image id", code(&image.id.to_string())));
            if image.size > 0 {
                rows.push(("Size", human::bytes(image.size)));
            }
        }
        for delivery in &built.deliveries {
            rows.push(match delivery {
                Delivery::Store { .. } => ("Kept", "in rbuild's store on the runner".to_owned()),
                Delivery::Pushed { name, .. } => ("Pushed", code(name)),
                Delivery::Loaded { into, .. } => ("Loaded", format!("into {into}")),
                Delivery::File { path, size } => (
                    "Written",
                    format!(
                        "{} ({})",
                        code(&path.display().to_string()),
                        human::bytes(*size)
                    ),
                ),
                Delivery::Directory { path } => ("Written", code(&path.display().to_string())),
                Delivery::Stdout => continue,
            });
        }
        let _ = writeln!(text, "| | |\n|---|---|");
        for (name, value) in rows {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text.push('\n');
    }
    for (_, path) in &outcome.written {
        let _ = writeln!(text, "Wrote {}\n", code(&path.display().to_string()));
    }
    for test in &outcome.passed {
        let _ = writeln!(text, "{} passed\n", code(test));
    }
}

fn went_wrong(error: &BuildError, progress: &Progress, text: &mut String) {
    text.push_str("### The build failed\n\n");
    let _ = writeln!(text, "{}\n", inline(&error.to_string()));
    for diagnostic in error.diagnostics.iter().take(MAX_MESSAGES) {
        fenced(&report::render(diagnostic, false), text);
    }
    if let Some(step) = &error.step {
        let place = step.span.as_ref().map(Span::location);
        let log = progress.log_tail(&step.vertex);
        if let Some(place) = place {
            let _ = writeln!(text, "At {}\n", code(&place));
        }
        if !log.is_empty() {
            text.push_str("The end of its output:\n\n");
            fenced(&log.join("\n"), text);
        }
    }
    for hint in &error.hints {
        let _ = writeln!(text, "Hint: {}\n", inline(hint));
    }
}

fn steps(trace: &Trace, text: &mut String) {
    let told = |step: &&Step| step.is_started() && !step.vertex.name.starts_with("[internal]");
    let steps: Vec<&Step> = trace.steps.iter().filter(told).collect();
    if steps.is_empty() {
        return;
    }
    let cached = steps.iter().filter(|step| step.vertex.cached).count();
    let _ = writeln!(
        text,
        "{cached} of {} steps were cached.\n\n| Step | | Time | Why it ran |\n|---|---|---:|---|",
        steps.len()
    );
    for step in steps.iter().take(MAX_ROWS) {
        let end = step.vertex.completed.or(step.vertex.started);
        let time = match (step.vertex.cached, end) {
            (false, Some(end)) => format!("{:.1}s", step.seconds(end)),
            _ => String::new(),
        };
        let fate = match (step.vertex.cached, step.vertex.error.is_empty()) {
            (true, _) => "cached",
            (false, true) if step.is_completed() => "done",
            (false, _) if step.is_cancelled() || !step.is_completed() => "stopped",
            (false, _) => "**failed**",
        };
        let _ = writeln!(
            text,
            "| {} | {fate} | {time} | {} |",
            code(&short(&step.vertex.name)),
            inline(&short(&step.vertex.why))
        );
    }
    if let Some(more) = steps.len().checked_sub(MAX_ROWS).filter(|more| *more > 0) {
        let _ = writeln!(text, "| … and {more} more | | | |");
    }
}

fn short(text: &str) -> String {
    cut(text, MAX_TEXT)
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Text in which nothing is Markdown, in one line, also in a table.
fn inline(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in human::printable(&text.replace(['\n', '\r'], " ")).chars() {
        match c {
            // Everything that begins something in GitHub's Markdown, mentions and autolinks included.
            '&' | '<' | '>' | '|' | '`' | '*' | '_' | '[' | ']' | '!' | '#' | '@' | '~' | '\\'
            | '$' | ':' => {
                let _ = write!(shown, "&#{};", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", inline(text))
}

/// Text in a block of its own, whose fence is longer than all in it.
fn fenced(text: &str, to: &mut String) {
    let (most, width) = MAX_FENCED;
    let lines = text.lines().count();
    let lines = text.lines().skip(lines.saturating_sub(most));
    let lines: Vec<String> = lines.map(|line| cut(line, width)).collect();
    let text = lines.join("\n");
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    let _ = writeln!(to, "{fence}text\n{}\n{fence}\n", human::harmless(&text));
}

#[cfg(test)]
mod t {
    use super::*;
    use std::sync::Arc;

    use crate::outcome::StepFailure;
    use crate::ui::ProgressMode;
    use crate::ui::Terminal;
    use crate::ui::testing::cached;
    use crate::ui::testing::failed;
    use crate::ui::testing::log;
    use crate::ui::testing::vertex_event;
    use rbuild_llb::SourceFile;
    use rbuild_llb::event::Event;
    use rbuild_llb::event::VertexEvent;
    use snapbox::IntoData as _;
    use snapbox::assert_data_eq;
    use snapbox::str;

    /// As actions/toolkit's own tests have it (`packages/core/__tests__/command.test.ts`).
    #[test]
    fn commands_are_escaped_as_runners_undo_it() {
        assert_eq!(command("some-command", &[], ""), "::some-command::");
        assert_eq!(
            command(
                "some-command",
                &[],
                "percent % percent % cr \r cr \r lf \n lf \n"
            ),
            "::some-command::percent %25 percent %25 cr %0D cr %0D lf %0A lf %0A"
        );
        let property =
            "percent % percent % cr \r cr \r lf \n lf \n colon : colon : comma , comma ,";
        assert_eq!(
            command("some-command", &[("name", property.to_owned())], ""),
            "::some-command name=percent %25 percent %25 cr %0D cr %0D lf %0A lf %0A colon %3A colon %3A comma %2C comma %2C::"
        );
        let properties = [
            ("prop1", "value 1".to_owned()),
            ("prop2", String::new()),
            ("prop3", "value 3".to_owned()),
        ];
        assert_eq!(
            command("some-command", &properties, "some message"),
            "::some-command prop1=value 1,prop3=value 3::some message"
        );
    }

    fn span(name: &str, text: &str, part: &str) -> Span {
        let file = Arc::new(SourceFile {
            name: name.into(),
            text: text.into(),
            language: "Dockerfile",
        });
        let at = text.find(part).unwrap();
        Span::new(&file, at..at + part.len())
    }

    #[test]
    fn annotations_stand_where_it_is() {
        let text = "FROM a\nRUN é: x\nRUN a \\\n  b\n";
        let of = |name: &str, part: &str| {
            annotation(
                Level::Warning,
                Some(&span(name, text, part)),
                "Rule",
                "so: it, is",
            )
        };
        assert_eq!(
            of("sub/Dockerfile", "é: x\n"),
            "::warning file=sub/Dockerfile,line=2,endLine=2,col=5,endColumn=8,title=Rule::so: it, is"
        );
        assert_eq!(
            of("Dockerfile", "RUN a \\\n  b"),
            "::warning file=Dockerfile,line=3,endLine=4,title=Rule::so: it, is"
        );
        assert_eq!(of("-", "RUN"), "::warning title=Rule::so: it, is");
    }

    fn progress() -> Progress {
        let terminal = Terminal {
            tty: false,
            color: false,
        };
        let progress = Progress::start(ProgressMode::Quiet, terminal, Vec::new());
        let events = progress.events();
        events.send(cached("a", "[1/3] FROM busybox", 0));
        events.send(Event::Vertex(VertexEvent {
            why: "`COPY` a|b.txt: it is <new>".into(),
            ..vertex_event("b", "[2/3] COPY a|b.txt /", Some(0), Some(1_500))
        }));
        events.send(log("c", 10, "early\n"));
        events.send(failed("c", "[3/3] RUN false", 1_500, 1_600, "exit code: 1"));
        events.send(log("c", 1_550, "```\n::error::x\n"));
        progress.finish();
        progress
    }

    #[test]
    fn a_summary_shows_and_does_nothing() {
        let error = BuildError::step(StepFailure {
            vertex: "c".into(),
            name: "[3/3] RUN false".into(),
            ended: "exit code 1".into(),
            span: Some(span("Dockerfile", "FROM a\nRUN false\n", "RUN false")),
            offline: false,
            enterable: false,
        });
        let progress = progress();
        assert_data_eq!(
            failure(&error, &progress).join("\n"),
            str![[r#"
::error file=Dockerfile,line=2,endLine=2,col=1,endColumn=9,title=rbuild::[3/3] RUN false failed: exit code 1%0A  0.050 ```%0A  0.050 ::error::x
"#]]
            .raw()
        );
        assert_data_eq!(
            summary(&Err(error), &progress),
            str![[r#"
### The build failed

&#91;3/3&#93; RUN false&#58; exit code 1

At <code>Dockerfile&#58;2&#58;1</code>

The end of its output:

````text
0.050 ```
0.050 ::error::x
````

1 of 3 steps were cached.

| Step | | Time | Why it ran |
|---|---|---:|---|
| <code>&#91;1/3&#93; FROM busybox</code> | cached |  |  |
| <code>&#91;2/3&#93; COPY a&#124;b.txt /</code> | done | 1.5s | &#96;COPY&#96; a&#124;b.txt&#58; it is &#60;new&#62; |
| <code>&#91;3/3&#93; RUN false</code> | **failed** | 0.1s |  |


"#]]
            .raw()
        );
    }
}
