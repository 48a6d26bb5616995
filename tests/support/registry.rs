//! A registry on the loopback interface.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
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

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        drop(self.supervisor.wait());
    }
}
