//! A docker daemon that is nobody's but the test's.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::Output;
use super::TestEnv;
use super::tools;

/// Runs dockerd in namespaces of its own, in which it loads images but has no network of their own for containers, until standard input
/// ends. What it writes outside of its own directories goes to memory.
const SUPERVISOR: &str = r#"
unshare=$1 dockerd=$2 dir=$3
shift 3
"$unshare" "$@" --mount --net /bin/sh -c '
    mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc
    exec "$1" --data-root "$2/data" --exec-root "$2/exec" --pidfile "$2/pid" --host "unix://$2/socket" \
        --storage-driver vfs --iptables=false --bridge none --ip-forward=false $ROOTLESS
' sh "$dockerd" "$dir" 2>&1 </dev/null &
cat
kill $!
wait $!
"#;

/// The name of the daemon among the contexts of docker's client.
pub(crate) const CONTEXT: &str = "of-the-test";

/// Debian's dockerd with a directory beside a test's context.
pub(crate) struct Dockerd {
    supervisor: Child,
}

impl Dockerd {
    /// Starts it, and makes it known to docker's client in `env`.
    pub(crate) fn start(env: &TestEnv) -> Self {
        let dir = env.outside("docker");
        for name in ["data", "exec"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let root = rustix::process::geteuid().is_root();
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([tools::find("unshare"), tools::find("dockerd")])
            .arg(&dir)
            .args(match root {
                true => &[][..],
                // Root of a user namespace.
                false => &["--user", "--map-root-user", "--map-auto"],
            })
            .env("ROOTLESS", if root { "" } else { "--rootless" })
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
            line.contains("API listen on")
        });
        assert!(listens, "dockerd did not start: {seen}");
        // Its log must go on being read, or it blocks once the pipe is full.
        std::thread::spawn(move || log.for_each(drop));
        let host = format!("host=unix://{}", dir.join("socket").display());
        let docker = Self { supervisor };
        docker
            .client(env, ["context", "create", CONTEXT, "--docker", &host])
            .success();
        docker
    }

    /// Docker's client, which talks to it.
    pub(crate) fn client<const N: usize>(&self, env: &TestEnv, args: [&str; N]) -> Output {
        let create = args.first() == Some(&"context");
        let context = ["--context", CONTEXT];
        let context = if create { &context[..0] } else { &context };
        env.tool("docker", context.iter().chain(&args))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        drop(self.supervisor.wait());
    }
}
