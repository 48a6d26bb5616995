//! The terminal of a step that a person sits at.
//!
//! It is a pseudo-terminal of the step's own `/dev/pts`, and never the person's: what a step can do to its terminal, such as
//! pushing characters into its input (TIOCSTI), it does to that one alone. The step's child makes it once it is in its root,
//! and sends the other end back on the socket that it has for standard input. This process carries bytes to and fro.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::fs::CWD;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Uid;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::zygote;

/// Rows and columns of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

impl Size {
    /// That of the terminal which standard input is, or else standard output, if one is.
    pub fn of_terminal() -> Option<Self> {
        let size = person()?;
        Some(Self {
            rows: size.ws_row,
            columns: size.ws_col,
        })
    }
}

/// The size of the person's terminal.
fn person() -> Option<Winsize> {
    let size = |stream: BorrowedFd<'_>| rustix::termios::tcgetwinsize(stream).ok();
    size(rustix::stdio::stdin()).or_else(|| size(rustix::stdio::stdout()))
}

/// Both ends of a new pseudo-terminal: that of who sits there, that of the step.
pub(super) fn make(size: Size, owner: (u32, u32)) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let outer = rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&outer)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags)?;
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&inner, size)?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    match rustix::fs::fchown(&inner, Some(uid), Some(gid)) {
        // Where there is one id, all is its own.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok((outer, inner)),
        Err(error) => Err(error.into()),
    }
}

/// Sends one end to who waits for it at the other end of `socket`.
pub(super) fn send(socket: &OwnedFd, outer: &OwnedFd) -> rustix::io::Result<()> {
    zygote::send(socket, &[1], &[outer.as_fd()])
}

/// What carries bytes between standard input and a step.
#[derive(Debug)]
pub(super) struct Carrier {
    /// Where the terminal comes from.
    socket: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// Whether anything may still come from standard input.
    typing: bool,
    /// What was typed and is still to be carried.
    typed: Vec<u8>,
}

/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// What may have become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    Socket,
    Input,
    Terminal,
}

impl Carrier {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
            terminal: None,
            typing: true,
            typed: Vec::new(),
        }
    }

    /// What is to be waited for.
    pub(super) fn polled(&self) -> Vec<(Ready, PollFd<'_>)> {
        let mut polled = Vec::new();
        if let Some(socket) = &self.socket {
            polled.push((Ready::Socket, PollFd::new(socket, PollFlags::IN)));
        }
        if let Some(terminal) = &self.terminal {
            let mut events = PollFlags::IN;
            events.set(PollFlags::OUT, !self.typed.is_empty());
            polled.push((Ready::Terminal, PollFd::new(terminal, events)));
            if self.typing && self.typed.is_empty() {
                let input: BorrowedFd<'static> = rustix::stdio::stdin();
                polled.push((Ready::Input, PollFd::from_borrowed_fd(input, PollFlags::IN)));
            }
        }
        polled
    }

    /// Goes on with what has become ready, handing on what the step writes.
    pub(super) fn carry(&mut self, ready: Ready, output: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        match ready {
            Ready::Socket => {
                let socket = self.socket.take();
                let sent = socket.map(|socket| zygote::receive::<1>(&socket));
                if let Some(Some((_, fds))) = sent.transpose()?
                    && let Some(terminal) = fds.into_iter().next()
                {
                    rustix::io::ioctl_fionbio(&terminal, true)?;
                    self.terminal = Some(terminal);
                    self.resize();
                }
            }
            Ready::Input => {
                let mut buffer = [0; CHUNK];
                match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                    Ok(0) => self.typing = false,
                    Ok(len) => self.typed.extend_from_slice(&buffer[..len]),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    // The person's terminal is gone.
                    Err(_) => self.typing = false,
                }
                self.pass_on()?;
            }
            // One piece at a time: what else may have become ready, a typed Ctrl-C or a signal, is not kept waiting by a step that
            // writes faster than the person's terminal takes.
            Ready::Terminal => {
                self.pass_on()?;
                self.hand_on(output).map(drop)?;
            }
        }
        Ok(())
    }

    /// Writes as much of what was typed as the terminal takes.
    fn pass_on(&mut self) -> io::Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        while !self.typed.is_empty() {
            match rustix::io::write(terminal, &self.typed) {
                Ok(len) => drop(self.typed.drain(..len)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody reads any more.
                Err(Errno::IO) => self.typed.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads the next of what the step wrote; says whether more may be there.
    fn hand_on(&mut self, output: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        let Some(terminal) = &self.terminal else {
            return Ok(false);
        };
        match rustix::io::read(terminal, &mut buffer) {
            // EIO: all who had the other end open have closed it.
            Ok(0) | Err(Errno::IO) => self.terminal = None,
            Ok(len) => output(&buffer[..len]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(self.terminal.is_some())
    }

    /// Reads what is left when the step has ended, which may have been over before anybody looked.
    pub(super) fn finish(mut self, output: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            // A descriptor that was sent away must not keep us waiting.
            rustix::io::ioctl_fionbio(socket, true)?;
            match self.carry(Ready::Socket, output) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                carried => carried?,
            }
        }
        while self.hand_on(output)? {}
        Ok(())
    }

    /// Gives the step's terminal the size of the person's; the kernel tells the step.
    pub(super) fn resize(&self) {
        if let Some(terminal) = &self.terminal
            && let Some(size) = person()
        {
            // A wrong size is a nuisance and no failure.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// Between two pieces there is time for what else may be ready: a typed Ctrl-C, a signal.
    #[test]
    fn what_a_step_writes_comes_in_pieces() {
        let size = Size {
            rows: 24,
            columns: 80,
        };
        let owner = (rustix::process::getuid(), rustix::process::getgid());
        let (outer, inner) = make(size, (owner.0.as_raw(), owner.1.as_raw())).unwrap();
        rustix::io::ioctl_fionbio(&outer, true).unwrap();
        let mut carrier = Carrier {
            socket: None,
            terminal: Some(outer),
            typing: false,
            typed: Vec::new(),
        };
        // Two writes, and less than a terminal holds: nothing waits for a reader.
        for _ in 0..2 {
            assert_eq!(rustix::io::write(&inner, &[b'y'; CHUNK / 2]), Ok(CHUNK / 2));
        }
        drop(inner);
        let (mut pieces, mut bytes) = (0, 0);
        let mut output = |piece: &[u8]| {
            pieces += 1;
            bytes += piece.len();
        };
        carrier.carry(Ready::Terminal, &mut output).unwrap();
        assert_eq!(pieces, 1);
        carrier
            .finish(&mut |piece: &[u8]| bytes += piece.len())
            .unwrap();
        assert_eq!(bytes, CHUNK);
    }
}
