//! Steps as an ordinary user with subuids and as root: run the tests as both. They drive `examples/sandbox_run.rs`,
//! since a user namespace cannot be entered by a process with threads, as a test binary is.
//!
//! Root file systems are made of a static busybox (Debian's package `busybox-static`).

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use snapbox::assert_data_eq;
use snapbox::str;
use tempfile::TempDir;

mod escape;
mod files;
mod isolation;
mod lifetime;
mod limits;
mod network;
mod rungs;

/// A root file system, and directories for what is written.
struct Fixture {
    dir: TempDir,
}

fn program() -> PathBuf {
    example("sandbox_run")
}

fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        program.exists(),
        "`cargo test` builds the example; with `--test all` say `cargo build --examples` first"
    );
    program
}

fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .expect("a static busybox: install the package busybox-static")
}

impl Fixture {
    /// `lower/bin` full of busybox, `upper` and `work` empty.
    fn new() -> Self {
        // A fixture needs it to be cleared away as well: a panic then, on top of one here, would end the other tests too.
        program();
        let dir = tempfile::tempdir().unwrap();
        let fixture = Self { dir };
        let bin = fixture.path("lower/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox(), bin.join("busybox")).unwrap();
        fs::set_permissions(bin.join("busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        for applet in [
            "cat", "chown", "chroot", "cp", "cut", "df", "env", "grep", "hostname", "id", "ip",
            "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "pwd", "readlink", "rm",
            "rmdir", "seq", "setsid", "sh", "sleep", "sort", "stat", "su", "tail", "touch", "true",
            "umount", "unshare", "wc",
        ] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        for name in ["upper", "work"] {
            fs::create_dir(fixture.path(name)).unwrap();
        }
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts `attack` (`examples/attack.rs`) into the lower layer.
    fn attacker(&self) {
        fs::copy(example("attack"), self.path("lower/bin/attack")).unwrap();
    }

    /// Writes a file of the lower layer.
    fn lower(&self, name: &str, content: &str) {
        let path = self.path("lower").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.arg("--store").arg(self.dir.path());
        command.arg("--lower").arg(self.path("lower"));
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a shell script on a read-only root.
    fn sh(&self, options: &[&str], script: &str) -> Outcome {
        let mut command = self.command();
        Outcome(
            command
                .args(options)
                .args(["sh", "-c", script])
                .output()
                .unwrap(),
        )
    }

    /// Runs a shell script that writes to `upper`.
    fn write(&self, options: &[&str], script: &str) -> Outcome {
        let mut command = self.command();
        command.arg("--upper").arg(self.path("upper"));
        command.arg("--work").arg(self.path("work"));
        Outcome(
            command
                .args(options)
                .args(["sh", "-c", script])
                .output()
                .unwrap(),
        )
    }

    /// Everything below `upper`: type, permission bits, name.
    fn upper(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.path("upper"), "", &mut found);
        found
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // What a step wrote may belong to another user, and overlay's own work directory is closed to us: a step
        // removes what we cannot.
        let dir = self.dir.path().to_str().unwrap();
        let bind = format!("type=bind,src={dir},dst=/fixture");
        let mut command = self.command();
        command.args([
            "--mount",
            &bind,
            "rm",
            "-rf",
            "/fixture/upper",
            "/fixture/work",
        ]);
        drop(command.output());
    }
}

fn list(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names {
        let meta = fs::symlink_metadata(dir.join(&name)).unwrap();
        let kind = match meta.file_type() {
            t if t.is_dir() => "dir",
            t if t.is_file() => "file",
            t if t.is_symlink() => "link",
            t if t.is_char_device() && meta.rdev() == 0 => "whiteout",
            t => panic!("{t:?}"),
        };
        found.push(format!("{kind} {:o} {prefix}{name}", meta.mode() & 0o7777));
        if kind == "dir" {
            list(&dir.join(&name), &format!("{prefix}{name}/"), found);
        }
    }
}

/// What became of a run: standard output, standard error and exit status as one text.
struct Outcome(Output);

impl Outcome {
    #[track_caller]
    fn stdout(&self) -> String {
        assert!(self.0.status.success(), "{}", self.text());
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn text(&self) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut all = text(&self.0.stdout);
        if !self.0.stderr.is_empty() {
            all += "---- stderr ----\n";
            all += &text(&self.0.stderr);
        }
        match self.0.status.code() {
            Some(0) => {}
            Some(code) => all += &format!("[exit status: {code}]\n"),
            None => all += "[killed]\n",
        }
        all
    }
}
