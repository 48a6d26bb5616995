//! A person at a terminal: a pseudo-terminal that a command is started on, typed at by the test.

use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::process::Command;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::tools;

/// Longer than anything takes.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// A command at a terminal of 40 lines of 100 characters.
pub(crate) struct AtTerminal {
    child: Child,
    terminal: File,
    /// All that was shown.
    shown: String,
    /// How much of that the test has seen.
    seen: usize,
}

impl AtTerminal {
    /// Starts a command with the terminal as its standard streams, which it leads.
    pub(crate) fn start(command: &Command) -> Self {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let inner = rustix::pty::ioctl_tiocgptpeer(&terminal, flags).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&inner, size).unwrap();
        // setsid(1) makes it the controlling terminal.
        let mut leader = Command::new(tools::find("setsid"));
        leader
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .process_group(0);
        if let Some(dir) = command.get_current_dir() {
            leader.current_dir(dir);
        }
        let stream = || inner.try_clone().unwrap();
        let child = leader
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        drop(leader);
        Self {
            child,
            terminal: terminal.into(),
            shown: String::new(),
            seen: 0,
        }
    }

    /// Waits until something is shown after what was waited for last.
    pub(crate) fn shows(&mut self, text: &str) -> &mut Self {
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return self;
            }
            assert!(self.read(), "no `{text}` in:\n{}", self.shown);
        }
    }

    /// Types.
    pub(crate) fn types(&mut self, keys: &str) -> &mut Self {
        self.terminal.write_all(keys.as_bytes()).unwrap();
        self
    }

    /// Gives the terminal another size.
    pub(crate) fn is_resized(&mut self, rows: u16, columns: u16) -> &mut Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.terminal, size).unwrap();
        self
    }

    /// Waits for the end: what was shown in all, and the exit code.
    pub(crate) fn ends(mut self) -> (String, Option<i32>) {
        while self.read() {}
        let code = self.child.wait().unwrap().code();
        (self.shown, code)
    }

    /// Whether there may be more.
    fn read(&mut self) -> bool {
        let mut polled = [PollFd::new(&self.terminal, PollFlags::IN)];
        let ready = rustix::event::poll(&mut polled, Some(&PATIENCE)).unwrap();
        assert!(ready > 0, "nothing more comes after:\n{}", self.shown);
        let mut bytes = [0; 4096];
        // EIO: nobody has the other end open any more.
        let len = self.terminal.read(&mut bytes).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&bytes[..len]));
        len > 0
    }
}
