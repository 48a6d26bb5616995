//! A terminal that is another program's for a while.

use std::fs::File;
use std::io;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;

use rustix::termios::OptionalActions;
use rustix::termios::Termios;

/// Whether somebody sits at a terminal and sees there what is written.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Has standard input come through a pipe if it is a terminal, so that who is given it has no terminal.
///
/// # Errors
/// If there is no pipe or no thread to be had.
pub fn pipe_typed() -> io::Result<()> {
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    let (read, mut write) = io::pipe()?;
    let typed = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(read)?;
    // It ends with the process, which does not wait for what is typed when nobody reads it any more.
    let copy = move || io::copy(&mut File::from(typed), &mut write);
    drop(std::thread::Builder::new().spawn(copy)?);
    Ok(())
}

/// Has nothing come from standard input.
///
/// # Errors
/// If `/dev/null` cannot be opened.
pub fn type_nothing() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
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
