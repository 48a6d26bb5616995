//! A registry on the loopback interface, and what it is asked.

use std::fs;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::thread;
use std::thread::JoinHandle;

use super::tools;

/// Runs the registry until standard input ends, which is when the process that started it does, however it does.
const SUPERVISOR: &str = r#"
"$1" serve "$2/config.yml" 2>&1 </dev/null &
cat
kill $!
wait $!
rm -rf "$2"
"#;

/// Who may use a registry that [`Registry::closed`] started, and the password.
pub(crate) const USER: (&str, &str) = ("rebecca", "geheim");
/// `htpasswd -nbB rebecca geheim`
const HTPASSWD: &str = "rebecca:$2b$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n";

/// Debian's docker-registry with a directory of its own; ends with its value or with the test process.
pub(crate) struct Registry {
    port: u16,
    dir: PathBuf,
    supervisor: Child,
    log: Option<JoinHandle<Vec<String>>>,
}

impl Registry {
    /// The one that the tests of this process share; only base images go there.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// One more, on a free port.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// One that wants a name and a password.
    pub(crate) fn closed() -> Self {
        Self::start_with("auth: {htpasswd: {realm: tests, path: HTPASSWD}}\n")
    }

    fn start_with(auth: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rbuild-registry-")
            .tempdir()
            .unwrap()
            .keep();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n{}",
            dir.join("data"),
            auth.replace("HTPASSWD", &format!("{:?}", dir.join("htpasswd"))),
        );
        fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        fs::write(dir.join("config.yml"), config).unwrap();
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(tools::find("docker-registry"))
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(supervisor.stdout.take().unwrap()).lines();
        let mut seen = String::new();
        let port = log
            .find_map(|line| {
                let line = line.ok()?;
                seen.push_str(&line);
                let (_, port) = line.split_once("listening on 127.0.0.1:")?;
                port.split('"').next()?.parse().ok()
            })
            .unwrap_or_else(|| panic!("docker-registry did not start: {seen}"));
        // Its log must go on being read, or it blocks once the pipe is full.
        let log = std::thread::spawn(move || log.map_while(Result::ok).collect());
        Self {
            port,
            dir,
            supervisor,
            log: Some(log),
        }
    }

    /// How many blobs were sent to a repository, by the registry's own log, which ends with its value.
    pub(crate) fn uploads(mut self, repository: &str) -> usize {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().unwrap();
        let log = self
            .log
            .take()
            .expect("this is its only use")
            .join()
            .unwrap();
        let put = format!("\"PUT /v2/{repository}/blobs/uploads/");
        log.iter().filter(|line| line.contains(&put)).count()
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where all that it has lies.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The file it serves a blob from, to damage it. `digest` is `sha256:…`.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.dir
            .join("data/docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

/// Says of a request, `GET name/manifests/1`, what is answered in the registry's place: a status, and headers behind it.
type Rule = Box<dyn Fn(&str) -> Option<&'static str> + Send>;

/// What stands in front of a server and notes what it is asked.
pub(crate) struct Front {
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
    rule: Arc<Mutex<Option<Rule>>>,
}

impl Front {
    /// A way to the server at port `to`, on a free port.
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let rule = Arc::<Mutex<Option<Rule>>>::default();
        let (lines, rules) = (Arc::clone(&log), Arc::clone(&rule));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, lines) = (stream.unwrap(), Arc::clone(&lines));
                let rules = Arc::clone(&rules);
                // Whoever asked may be gone before the answer: that is for the test to notice.
                thread::spawn(move || drop(pass_on(&stream, to, &lines, &rules)));
            }
        });
        Self { port, log, rule }
    }

    /// From now on some requests are answered here: `429 Too Many Requests\r\nRetry-After: 0`.
    pub(crate) fn refuse(&self, rule: impl Fn(&str) -> Option<&'static str> + Send + 'static) {
        *self.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// From now on the server answers everything.
    pub(crate) fn refuse_nothing(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What was asked since the last time, sorted: `GET name/manifests/1`. It is noted before it is answered.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.log.lock().unwrap());
        asked.sort();
        asked
    }
}

/// A [`Registry`] with a [`Front`].
pub(crate) struct Watched {
    registry: Registry,
    front: Front,
}

impl Deref for Watched {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

impl Watched {
    /// A registry of its own, and a way to it.
    pub(crate) fn start() -> Self {
        let registry = Registry::start();
        let front = Front::start(registry.port);
        Self { registry, front }
    }

    /// Ends the registry. Whoever asks from now on finds connections broken.
    pub(crate) fn end(&mut self) {
        drop(self.registry.supervisor.stdin.take());
        self.registry.supervisor.wait().unwrap();
    }

    /// The registry behind, for what is not to be noted.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Passes one request on, and its answer back.
fn pass_on(
    client: &TcpStream,
    port: u16,
    log: &Mutex<Vec<String>>,
    rule: &Mutex<Option<Rule>>,
) -> io::Result<()> {
    let mut from = BufReader::new(client);
    let mut request = String::new();
    from.read_line(&mut request)?;
    let mut words = request.split(' ');
    if let (Some(method), Some(path)) = (words.next(), words.next()) {
        let path = path.strip_prefix("/v2/").unwrap_or(path);
        // An upload goes where the registry says: a place that is made up each time.
        let place = path.find("/blobs/uploads/").filter(|_| method != "POST");
        let path = place.map_or(path.to_owned(), |at| {
            format!("{}/blobs/uploads/…", &path[..at])
        });
        let line = format!("{method} {path}");
        let refused = rule.lock().unwrap().as_ref().and_then(|rule| rule(&line));
        log.lock().unwrap().push(line);
        if let Some(status) = refused {
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            (&mut { client }).write_all(head.as_bytes())?;
            client.shutdown(std::net::Shutdown::Write)?;
            return io::copy(&mut from, &mut io::sink()).map(drop);
        }
    }
    let server = TcpStream::connect(("127.0.0.1", port))?;
    let mut to = &server;
    // One request a connection: whatever follows it would pass unseen.
    to.write_all(format!("{request}Connection: close\r\n").as_bytes())?;
    thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || drop(io::copy(&mut from, &mut { server })));
        let answered = io::copy(&mut { server }, &mut { client });
        drop(client.shutdown(std::net::Shutdown::Both));
        answered.map(drop)
    })
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        drop(self.supervisor.wait());
    }
}
