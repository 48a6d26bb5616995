//! A buildkitd that is nobody's but the test's. Debian has none: who has one names it.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::Registry;
use super::TestEnv;
use super::tools;

/// Runs the daemon until standard input ends.
const SUPERVISOR: &str = r#"
"$@" 2>&1 </dev/null &
cat
kill $!
wait $!
"#;

/// The buildkitd of `$BUILDKITD`, as root, with a directory beside a test's context.
pub(crate) struct Buildkitd {
    supervisor: Child,
    socket: PathBuf,
}

impl Buildkitd {
    /// Starts it, if there is one: to it, too, the shared registry is docker.io.
    pub(crate) fn wanted(env: &TestEnv) -> Option<Self> {
        let program = tools::variable("BUILDKITD")?;
        assert!(
            rustix::process::geteuid().is_root(),
            "`$BUILDKITD` is started as root, as who the tests run then"
        );
        let dir = env.outside("buildkitd");
        fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("socket");
        let registry = Registry::shared().host();
        let config = format!(
            "root = {:?}\n\
             insecure-entitlements = ['network.host', 'security.insecure']\n\
             [grpc]\naddress = ['unix://{}']\n\
             [worker.oci]\nenabled = true\ngc = false\n\
             [worker.containerd]\nenabled = false\n\
             [registry.'docker.io']\nmirrors = ['{registry}']\n\
             [registry.'{registry}']\nhttp = true\n",
            dir.join("root"),
            socket.display(),
        );
        let file = dir.join("buildkitd.toml");
        fs::write(&file, config).unwrap();
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(program)
            .arg("--config")
            .arg(file)
            .env("PATH", tools::PATH)
            .env("HOME", env.outside("home"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(supervisor.stdout.take().unwrap()).lines();
        let mut seen = String::new();
        let listens = log.any(|line| {
            let line = line.unwrap_or_default();
            seen.push_str(&line);
            seen.push('\n');
            line.contains("running server on")
        });
        assert!(listens, "buildkitd did not start: {seen}");
        // Its log must go on being read, or it blocks once the pipe is full.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { supervisor, socket })
    }

    /// As `--builder` takes it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Drop for Buildkitd {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        drop(self.supervisor.wait());
    }
}
