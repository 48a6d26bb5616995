//! Events and diagnostics to the terminal; the only writer to stdout and stderr.
//!
//! Standard output is data: what a command was asked for. Standard error is talk: progress, warnings, errors, hints.
//! Nothing here decides anything about a build. Entered by [`Progress`] while a build runs, and by the functions
//! below before and after it.

mod contents;
mod explain;
pub(crate) mod github;
mod human;
pub(crate) mod inspect;
mod mask;
mod plain;
mod progress;
mod prompt;
mod raw;
mod rawjson;
mod report;
pub(crate) mod requests;
#[cfg(test)]
mod testing;
mod trace;
mod tty;
mod warning;

use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;

use rbuild_llb::event::Timestamp;

pub use progress::EventSink;
pub use progress::Progress;
pub use progress::ProgressMode;
pub use prompt::ask;
pub use prompt::ask_secret;
pub use prompt::can_ask;
pub use raw::has_terminal;
pub use raw::pipe_typed;
pub use raw::raw_terminal;
pub use raw::type_nothing;
pub(crate) use report::familiar;
pub use report::render;

use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::pipeline::explain::Explained;

/// What standard error can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// It is a terminal whose cursor can be moved.
    pub tty: bool,
    /// It shows colours, and the user wants them.
    pub color: bool,
}

impl Terminal {
    /// Looks at standard error. `no_color` is the user's NO_COLOR; `dumb` says that TERM is one without a cursor.
    pub fn of_stderr(no_color: bool, dumb: bool) -> Self {
        let tty = io::stderr().is_terminal() && !dumb;
        Self {
            tty,
            color: tty && !no_color,
        }
    }
}

/// Whether standard output is a terminal, where binary data must not go.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes data to standard output. A reader that has gone away is no error: it has had enough.
///
/// # Errors
/// Any other failure of the write, such as a full disk.
pub fn data(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let result = stdout.write_all(bytes).and_then(|()| stdout.flush());
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Says something on standard error, a line or more. Failures to say it are ignored.
pub fn say(text: &str) {
    drop(writeln!(
        io::stderr().lock(),
        "{}",
        text.trim_end_matches('\n')
    ));
}

/// Passes bytes on to standard error as they are.
pub fn relay(bytes: &[u8]) {
    drop(io::stderr().lock().write_all(bytes));
}

/// Says a remark that is no finding in a file: `warning: …`.
pub fn remark(text: &str, terminal: Terminal) {
    say(&report::headed(
        report::Heading::Warning,
        text,
        terminal.color,
    ));
}

/// Says what was found in an input file, and does not stop the command.
pub fn finding(diagnostic: &rbuild_llb::Diagnostic, terminal: Terminal) {
    say(&format!("{}\n", report::render(diagnostic, terminal.color)));
}

/// Says why a command failed. `progress`, which must be finished, has the last output of a failed step.
pub fn failure(error: &BuildError, progress: Option<&Progress>, terminal: Terminal) {
    let log = match (&error.step, progress) {
        (Some(step), Some(progress)) => progress.log_tail(&step.vertex),
        _ => Vec::new(),
    };
    say(&report::failure(error, &log, terminal));
}

/// Says which warnings there were, as buildx does at the end of a build; `expand` shows them in full.
pub fn warnings(progress: &Progress, expand: bool, terminal: Terminal) {
    let talks = !matches!(progress.mode(), ProgressMode::Quiet | ProgressMode::RawJson);
    let text = warning::summary(&progress.warnings(), expand, terminal.color);
    if talks && !text.is_empty() {
        relay(format!("{text}\n").as_bytes());
    }
}

/// What a file holds, for people.
pub fn contents(contents: &rbuild_llb::inspect::Contents) -> String {
    contents::text(contents)
}

/// What a file holds, for programs.
pub fn contents_json(contents: &rbuild_llb::inspect::Contents) -> String {
    contents::json(contents)
}

/// What a build did, for people; ages are as of `now`.
pub fn explained(explained: &Explained, now: Timestamp) -> String {
    explain::text(explained, now)
}

/// What a build did, for programs.
pub fn explained_json(explained: &Explained) -> String {
    explain::json(explained)
}

/// Says what a build made and what can be done with it.
pub fn success(outcome: &BuildOutcome, progress: &Progress) {
    let talks = !matches!(progress.mode(), ProgressMode::Quiet | ProgressMode::RawJson);
    let text = report::success(outcome);
    if talks && !text.is_empty() {
        say(&text);
    }
}

/// Text of which parts may be a stranger's, such as a label of an image, made harmless for a terminal.
pub fn harmless(text: &str) -> String {
    human::harmless(text)
}

/// A size as people read it: `7.83MB`.
pub fn size(bytes: u64) -> String {
    human::bytes(bytes)
}

/// How long ago something was, as people say it.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    human::ago(then, now)
}

/// A table with its columns aligned, `gap` spaces apart; the last column keeps its length.
pub fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column) + gap).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["NAME", "ID", "SIZE"]),
            row(["app:latest", "abc", "7B"]),
            row(["ü", "", ""]),
        ];
        assert_eq!(
            table(&rows, 2),
            "NAME        ID   SIZE\napp:latest  abc  7B\nü\n"
        );
        assert_eq!(table(&[], 2), "");
    }
}
