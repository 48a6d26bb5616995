//! ssh agents for steps, the user's or one with keys of files: a socket in the step, behind which a thread hands on what
//! a step may ask.
//!
//! A step may have the agent's keys listed and something signed ([`crate::agent`]). The agent sees its own user ask, whoever
//! the step's user is.

use std::fs;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use super::OpError;
use crate::agent;
use crate::agent::LONGEST;

/// Connections that a step has at once; the step opens them, and each costs this process a thread.
const MOST: usize = 64;
/// Until somebody may have closed a descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// Who may use the socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// An agent that is handed on, until this is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) socket: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Makes the socket `dir/name` for the agent at `agent`.
    pub(super) fn start(
        agent: &Path,
        dir: &Path,
        name: &str,
        access: Access,
    ) -> Result<Self, OpError> {
        let failed = |doing| move |source| OpError::io(doing, agent, source);
        // Whether somebody is there is better known now than when the step has failed.
        UnixStream::connect(agent).map_err(failed("reach the ssh agent"))?;
        let socket = dir.join(name);
        let listener = listen(dir, name).map_err(failed("make a socket for the ssh agent"))?;
        let Access { uid, gid, mode } = access;
        match std::os::unix::fs::chown(&socket, Some(uid), Some(gid)) {
            // With one id alone it is everybody's.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            done => done.map_err(failed("give away the socket for the ssh agent"))?,
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode of the socket for the ssh agent"))?;
        let over = Arc::new(AtomicBool::new(false));
        let (agent, ending) = (agent.to_owned(), Arc::clone(&over));
        let thread = thread::Builder::new()
            .name("ssh".to_owned())
            .spawn(move || serve(&listener, &agent, &ending))
            .map_err(|source| OpError::io("start a thread for", &socket, source))?;
        Ok(Self {
            socket,
            over,
            thread: Some(thread),
        })
    }
}

/// Adds the keys that are its arguments, says where the agent is, and ends it when nobody holds the other end of standard
/// input any more: the agent itself would notice within ten seconds. Ctrl-C at the terminal is the builder's affair.
const HOLD_KEYS: &str = r#"
trap '' INT TERM HUP
end() { kill "$SSH_AGENT_PID"; exit; }
for key; do
    said=$(ssh-add -q "$key" 2>&1 < /dev/null) || {
        printf 'no %s' "${said:-$key has a passphrase, and nobody is asked for it: add it to an agent, and name that}"
        end
    }
done
printf 'at %s\n' "$SSH_AUTH_SOCK"
cat > /dev/null
end
"#;

/// The user's own `ssh-agent` and `ssh-add`, which know every kind of key there is, for the keys of some files. It ends with
/// the builder, however that ends.
#[derive(Debug)]
pub(crate) struct KeyAgent {
    socket: PathBuf,
    child: Child,
}

impl KeyAgent {
    /// Why not is a clause. A key with a passphrase is refused, as by BuildKit: nobody is asked for it.
    pub(crate) fn start(files: &[PathBuf]) -> Result<Self, String> {
        let mut child = Command::new("ssh-agent")
            .args(["sh", "-c", HOLD_KEYS, "sh"])
            .args(files)
            // What asks for a passphrase gets none; before OpenSSH 8.4 it takes a display to be asked at all.
            .env("SSH_ASKPASS", "false")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("DISPLAY", "none")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    "it takes `ssh-agent` and `ssh-add` (package openssh-client)".to_owned()
                }
                _ => format!("cannot start `ssh-agent`: {error}"),
            })?;
        let mut said = String::new();
        if let Some(output) = child.stdout.take() {
            let mut output = BufReader::new(output);
            // What cannot be read is as if it had not been said.
            drop(output.read_line(&mut said));
            if !said.starts_with("at ") {
                drop(output.take(LONGEST as u64).read_to_string(&mut said));
            }
        }
        match said.strip_prefix("at ") {
            Some(socket) => Ok(Self {
                socket: socket.trim_end().into(),
                child,
            }),
            None => {
                drop(child.wait());
                let why = said.trim_start_matches("no ").trim();
                Err(match why {
                    "" => "`ssh-agent` ended".to_owned(),
                    why => why.replace(['\r', '\n'], " "),
                })
            }
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// A path of a socket has at most 107 bytes; one by a descriptor of its directory is short.
fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let dir = fs::File::open(dir)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let woken = self.socket.parent().map(|dir| -> io::Result<()> {
            let dir = fs::File::open(dir)?;
            let name = self.socket.file_name().unwrap_or_default();
            let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
            UnixStream::connect(path.join(name)).map(drop)
        });
        // A thread that cannot be woken ends with the process.
        if let (Some(Ok(())), Some(thread)) = (woken, self.thread.take()) {
            drop(thread.join());
        }
    }
}

fn serve(listener: &UnixListener, agent: &Path, over: &AtomicBool) {
    let clients = Arc::new(());
    for client in listener.incoming() {
        if over.load(Ordering::Acquire) {
            return;
        }
        let Ok(client) = client else {
            // This process has no descriptor left for it, for now.
            thread::sleep(PAUSE);
            continue;
        };
        if Arc::strong_count(&clients) > MOST {
            continue;
        }
        let agent = agent.to_owned();
        let one = Arc::clone(&clients);
        // It ends with the client's end; a step's processes end before the step has.
        let spawned = thread::Builder::new()
            .name("ssh client".to_owned())
            .spawn(move || {
                let _one = one;
                relay(&client, &agent)
            });
        drop(spawned);
    }
}

/// What goes wrong with either end is an end of the connection, which the client sees.
fn relay(mut client: &UnixStream, upstream: &Path) -> io::Result<()> {
    let mut upstream = UnixStream::connect(upstream)?;
    while let Some(request) = message(&mut client)? {
        let answer = match agent::refusal(&request) {
            None => {
                upstream.write_all(&request)?;
                message(&mut upstream)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            Some(refusal) => refusal,
        };
        client.write_all(&answer)?;
    }
    Ok(())
}

/// A message with its length in front; `None` at the end.
fn message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = u32::from_be_bytes(length) as usize;
    if len > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = length.to_vec();
    bytes.resize(4 + len, 0);
    from.read_exact(&mut bytes[4..])?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod t {
    use super::*;

    /// An agent that answers every request with its kind and 100 more.
    fn agent(dir: &Path) -> PathBuf {
        let path = dir.join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    while let Ok(Some(request)) = message(&mut stream) {
                        stream.write_all(&[0, 0, 0, 1, request[4] + 100]).unwrap();
                    }
                });
            }
        });
        path
    }

    #[test]
    fn a_step_may_list_and_sign_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let access = Access {
            uid: std::os::unix::fs::MetadataExt::uid(&own),
            gid: std::os::unix::fs::MetadataExt::gid(&own),
            mode: 0o640,
        };
        let forward = Forward::start(&agent(dir.path()), &deep, "s", access).unwrap();
        let mode = fs::metadata(&forward.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let handle = fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/s", handle.as_raw_fd());
        let mut step = UnixStream::connect(&short).unwrap();
        // Identities, sign; add, remove, remove all, lock, extension.
        let kinds = [11, 13, 17, 18, 19, 22, 27];
        let answers = kinds.map(|kind| {
            step.write_all(&[0, 0, 0, 2, kind, 0]).unwrap();
            message(&mut step).unwrap().unwrap()[4]
        });
        assert_eq!(answers, [111, 113, 5, 5, 5, 5, 5]);
        step.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(message(&mut step).unwrap(), None);
        drop(forward);
        assert!(UnixStream::connect(&short).is_err());
    }

    /// A key as `ssh-keygen` makes it.
    fn key(dir: &Path, kind: &str, passphrase: &str) -> PathBuf {
        let path = dir.join(format!("{kind}{passphrase}"));
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", kind, "-N", passphrase, "-C", kind, "-f"]);
        let done = command.arg(&path).status();
        let done = done.expect("ssh-keygen: install the package openssh-client");
        assert!(done.success());
        path
    }

    fn tool(program: &str, socket: &Path, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(program);
        let output = command.args(args).env("SSH_AUTH_SOCK", socket).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), said)
    }

    /// OpenSSH's own client lists the keys, has each sign, and is refused the rest; then the agent is gone.
    #[test]
    fn keys_of_files_are_an_agents() {
        let dir = tempfile::tempdir().unwrap();
        let kinds = ["ed25519", "ecdsa", "rsa"];
        let keys = kinds.map(|kind| key(dir.path(), kind, ""));
        let agent = KeyAgent::start(&keys).unwrap();
        let access = Access {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mode: 0o600,
        };
        let forward = Forward::start(agent.socket(), dir.path(), "s", access).unwrap();
        let (listed, said) = tool("ssh-add", &forward.socket, &["-l"]);
        assert!(listed);
        let names: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split(' ').nth(2))
            .collect();
        assert_eq!(names, kinds);
        for key in &keys {
            let public = format!("{}.pub", key.display());
            assert!(
                tool("ssh-add", &forward.socket, &["-T", &public]).0,
                "{public}"
            );
        }
        assert!(!tool("ssh-add", &forward.socket, &["-D"]).0);
        drop(forward);
        let socket = agent.socket().to_owned();
        let mut last = UnixStream::connect(&socket).unwrap();
        drop(agent);
        // It ends in its own time, before it has seen the connection or after.
        assert!(matches!(last.read(&mut [0]), Ok(0) | Err(_)));
        assert!(UnixStream::connect(socket).is_err());
    }

    #[test]
    fn a_key_that_cannot_be_used_is_said_why() {
        let dir = tempfile::tempdir().unwrap();
        let locked = key(dir.path(), "ed25519", "locked");
        let no_key = dir.path().join("text");
        fs::write(&no_key, "no key").unwrap();
        fs::set_permissions(&no_key, fs::Permissions::from_mode(0o600)).unwrap();
        for path in [locked, no_key] {
            let why = KeyAgent::start(std::slice::from_ref(&path)).unwrap_err();
            assert!(why.contains(path.to_str().unwrap()), "{why}");
        }
    }

    #[test]
    fn an_agent_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access {
            uid: 0,
            gid: 0,
            mode: 0o600,
        };
        let error = Forward::start(&dir.path().join("none"), dir.path(), "s", access).unwrap_err();
        assert!(error.to_string().contains("reach the ssh agent"), "{error}");
    }
}
