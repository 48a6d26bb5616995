//! Questions to who sits at the terminal.

use std::io;
use std::io::BufRead as _;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rbuild_llb::CancelToken;
use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::eventfd;
use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;
use rustix::termios::SpecialCodeIndex;

use super::raw::Restore;

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

/// Asks for a line that the terminal does not show; `None` if it is interrupted instead, by Ctrl-C or through `cancel`.
///
/// The terminal is to get its modes back in any case, so that Ctrl-C is read here and is no signal, and signals are to
/// cancel `cancel` and not to end the process.
///
/// # Errors
/// If there is no answer.
pub fn ask_secret(question: &str, cancel: &CancelToken) -> io::Result<Option<String>> {
    let cancelled = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let told = Arc::clone(&cancelled);
    let _while_asking = cancel.on_cancel(move || {
        // Only fails where it was written to before.
        let _told = rustix::io::write(&*told, &1_u64.to_ne_bytes());
    });
    let shown = rustix::termios::tcgetattr(io::stdin())?;
    let mut hidden = shown.clone();
    let line_by_line = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    hidden.local_modes.remove(line_by_line);
    hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
    hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
    rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &hidden)?;
    let _shown_again = Restore(shown);
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let line = hidden_line(&mut Keys { cancelled });
    // The line's own end was not shown either.
    stderr.write_all(b"\n")?;
    line
}

/// What is typed at the terminal, byte by byte. A cancellation is the key for it.
struct Keys {
    cancelled: Arc<OwnedFd>,
}

const CTRL_C: u8 = 0x03;

impl io::Read for Keys {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let mut polled = [
            PollFd::new(&*self.cancelled, PollFlags::IN),
            PollFd::new(&stdin, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
        match (polled[0].revents().is_empty(), buffer) {
            (false, [first, ..]) => {
                *first = CTRL_C;
                Ok(1)
            }
            (_, buffer) => Ok(rustix::io::retry_on_intr(|| {
                rustix::io::read(&stdin, &mut *buffer)
            })?),
        }
    }
}

/// Reads up to the end of the line, and does what a terminal does with the keys that edit.
fn hidden_line(input: &mut dyn io::Read) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    for byte in io::Read::bytes(input) {
        match byte? {
            b'\r' | b'\n' => {
                return String::from_utf8(line)
                    .map(Some)
                    .map_err(|_| io::ErrorKind::InvalidData.into());
            }
            CTRL_C => return Ok(None),
            // Ctrl-D
            0x04 => break,
            // Backspace takes one character, which may be several bytes.
            0x08 | 0x7f => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U
            0x15 => line.clear(),
            byte => line.push(byte),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn hidden_lines_are_edited() {
        for (typed, want) in [
            ("geheim\n", Some("geheim")),
            ("gehu\x7feim\r", Some("geheim")),
            ("falsch\x15ü\x7fok\n", Some("ok")),
            ("\x7f\x7fa\n", Some("a")),
            ("abc\x03", None),
        ] {
            let line = hidden_line(&mut typed.as_bytes()).unwrap();
            assert_eq!(line.as_deref(), want, "{typed:?}");
        }
        for cut in ["", "abc", "abc\x04"] {
            let error = hidden_line(&mut cut.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
