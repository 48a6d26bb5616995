//! A terminal that is another program's for a while.

use std::io;
use std::io::IsTerminal as _;

use rustix::termios::OptionalActions;
use rustix::termios::Termios;

/// Whether somebody sits at a terminal and sees there what is written.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Gives the terminal that is standard input its modes back.
#[derive(Debug)]
pub struct Restore(pub(super) Termios);

/// Makes the terminal that is standard input raw: as long as what this gives lives, every key is handed on as it is, Ctrl-C
/// too, and nothing is shown but what comes back.
///
/// # Errors
/// If it is none.
pub fn raw_terminal() -> io::Result<Restore> {
    let before = rustix::termios::tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
    Ok(Restore(before))
}

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no modes.
        let _gone = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
