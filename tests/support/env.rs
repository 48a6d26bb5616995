//! A private place to build in.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::Base;
use super::Output;
use super::Registry;
use super::tools;

/// Longer than anything here takes, on the slowest of disks; only a test that fails waits for it.
const FOREVER: Duration = Duration::from_secs(300);

/// A directory with a build context, a store, a home and a temporary directory; removed when dropped.
///
/// ```ignore
/// TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY a /\n").file("a", "").rbuild(["-t", "x", "."]).success();
/// ```
pub(crate) struct TestEnv {
    root: PathBuf,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("rbuild-")
            .tempdir()
            .unwrap()
            .keep();
        for dir in ["ctx", "home", "tmp", "run"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        // Where podman keeps what lives as long as the login does: it insists on a private directory.
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { root }
    }

    /// Makes `FROM busybox` and the like mean our own images in the loopback registry: it is docker.io's mirror.
    pub(crate) fn bases<const N: usize>(self, bases: [Base; N]) -> Self {
        let registry = Registry::shared();
        for base in bases {
            base.publish(registry);
        }
        let mirrors = format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n",
            registry.host()
        );
        let dir = self.root.join("home/.config/rbuild");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.toml"), mirrors).unwrap();
        self
    }

    /// Adds a file to the context.
    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(path, content);
        self
    }

    /// Adds a symbolic link to the context.
    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
        self
    }

    /// Makes the context a copy of `testdata/contexts/NAME`.
    pub(crate) fn context(self, name: &str) -> Self {
        self.testdata(&format!("contexts/{name}"))
    }

    /// Makes the context a copy of a directory of `testdata`.
    pub(crate) fn testdata(self, dir: &str) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        copy_tree(&from.join(dir), &self.root.join("ctx"));
        self
    }

    /// Writes a file of the context.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A path in the context.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join("ctx").join(path)
    }

    /// `$RBUILD_ROOT`, to look into: nothing that builds left behind writes there any more.
    pub(crate) fn store(&self) -> PathBuf {
        let began = Instant::now();
        while is_synced(&self.root) {
            assert!(began.elapsed() < FOREVER, "a store is still synced");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.root.join("state")
    }

    /// A path beside the context.
    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Runs rbuild in the context.
    pub(crate) fn rbuild<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Output {
        self.run(self.command(&rbuild_binary()).args(args))
    }

    /// A foreign tool's run in the context.
    pub(crate) fn tool<I: IntoIterator<Item: AsRef<OsStr>>>(&self, name: &str, args: I) -> Output {
        self.run(self.command(&tools::find(name)).args(args))
    }

    /// rbuild in the context, not yet started: for a test that sets more, or that does not wait for the end.
    pub(crate) fn rbuild_command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = self.command(&rbuild_binary());
        command.args(args);
        command
    }

    /// The same for a foreign tool.
    pub(crate) fn tool_command(&self, name: &str) -> Command {
        self.command(&tools::find(name))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Output {
        let output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Output::new(output, self.root.to_str().unwrap())
    }

    /// Waits for a command that was started with its output piped.
    pub(crate) fn finished(&self, child: Child) -> Output {
        let output = child.wait_with_output().unwrap();
        Output::new(output, self.root.to_str().unwrap())
    }

    /// Nothing of the test's own environment gets through, so that a result does not depend on who runs it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", tools::PATH)
            .env("HOME", self.root.join("home"))
            .env("RBUILD_ROOT", self.root.join("state"))
            .env("TMPDIR", self.root.join("tmp"))
            .env("XDG_RUNTIME_DIR", self.root.join("run"))
            // podman would choose `vfs` where fuse-overlayfs is missing, though the kernel's own works.
            .env("STORAGE_DRIVER", "overlay")
            .env("LANG", "C.UTF-8")
            .env("COLUMNS", "120")
            .current_dir(self.root.join("ctx"));
        command
    }
}

impl TestEnv {
    /// Forgets all that was fetched and built.
    pub(crate) fn forget(&self) {
        let store = self.store();
        match fs::remove_dir_all(&store) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{store:?}: {error}"),
            _ => {}
        }
    }

    /// Removes all of it, if nobody writes there meanwhile.
    fn remove(&self) -> bool {
        if fs::remove_dir_all(&self.root).is_ok() {
            return true;
        }
        // Files of other owners need the namespace they were made in.
        let removed = Command::new(tools::find("unshare"))
            .args(["--map-root-user", "--map-auto", "rm", "-rf"])
            .arg(&self.root)
            .stderr(Stdio::null())
            .status();
        removed.is_ok_and(|status| status.success())
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // podman leaves a process behind that keeps its user namespace.
        let pause = self.root.join("run/libpod/tmp/pause.pid");
        if let Some(pid) = fs::read_to_string(pause)
            .ok()
            .and_then(|text| rustix::process::Pid::from_raw(text.trim().parse().ok()?))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // What a build leaves behind to sync and collect may still write there. A sync takes its time, and is not waited for.
        let removed = (0..100).any(|_| self.remove());
        if !std::thread::panicking() {
            assert!(removed, "cannot remove {:?}", self.root);
        }
    }
}

/// Whether a process that syncs and collects is at work on a store in a directory.
fn is_synced(dir: &Path) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        let root = words
            .find(|word| *word == b"__sync-store")
            .and(words.next());
        root.is_some_and(|root| Path::new(OsStr::from_bytes(root)).starts_with(dir))
    })
}

/// The rbuild of this build.
fn rbuild_binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_rbuild"))
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
