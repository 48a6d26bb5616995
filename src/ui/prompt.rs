//! Questions to who sits at the terminal.

use std::io;
use std::io::BufRead as _;
use std::io::IsTerminal as _;
use std::io::Write as _;

use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;
use rustix::termios::Termios;

/// Whether somebody can be asked: standard input is a terminal.
pub fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for a line.
///
/// # Errors
/// If there is no answer.
pub fn ask(question: &str) -> io::Result<String> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

/// Asks for a line that the terminal does not show.
///
/// # Errors
/// If there is no answer.
pub fn ask_secret(question: &str) -> io::Result<String> {
    let shown = rustix::termios::tcgetattr(io::stdin())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
    let _shown_again = Restore(shown);
    let answer = ask(question);
    // The line's own end was not shown either.
    drop(io::stderr().lock().write_all(b"\n"));
    answer
}

/// Gives the terminal its modes back.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no modes.
        let _gone = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
