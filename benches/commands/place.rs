//! A directory to build in.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A static program that makes one small file and exits.
#[cfg(target_arch = "x86_64")]
const PROGRAM: &[u8] = include_bytes!("../../testdata/contexts/hello/hello-amd64");
#[cfg(target_arch = "aarch64")]
const PROGRAM: &[u8] = include_bytes!("../../testdata/contexts/hello/hello-arm64");

/// A context, and beside it stores and whatever else is needed; removed when dropped.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rbuild-bench-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Self { dir }
    }

    /// A path in the context.
    pub(crate) fn context(&self, path: &str) -> PathBuf {
        self.dir.path().join("context").join(path)
    }

    /// A path beside it.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes the Dockerfile, which is beside the context so that it is in no COPY.
    pub(crate) fn dockerfile(&self, text: &str) {
        fs::write(self.beside("Dockerfile"), text).unwrap();
    }

    pub(crate) fn program(&self, to: &Path) {
        fs::write(to, PROGRAM).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `rbuild build` of the context with `store` as its state.
    pub(crate) fn build(&self, store: &str) -> Command {
        let mut command = self.rbuild(store);
        command.args(["build", "-t", "bench", "-f", "Dockerfile"]);
        command
    }

    /// `rbuild` with `store` as its state.
    pub(crate) fn rbuild(&self, store: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.dir.path())
            .env("RBUILD_ROOT", self.beside(store))
            .current_dir(self.dir.path());
        command
    }

    /// Removes something beside the context, if it is there.
    pub(crate) fn remove(&self, path: &str) {
        let path = self.beside(path);
        if path.is_dir() {
            // The process that syncs and collects after a build may still write there.
            while let Err(error) = fs::remove_dir_all(&path) {
                assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty, "{error}");
            }
        } else if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// A static program that does what its first argument says, as busybox does.
pub(crate) fn busybox() -> Result<PathBuf, String> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| "there is no busybox: install busybox-static".to_owned())
}
