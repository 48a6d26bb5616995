//! `--load`: the image into podman or docker, whichever is there, over the standard input of its `load` command.
//!
//! The program is started before this process enters its user namespace, where podman could not work, and waits on
//! its standard input until there is something to load.

use std::cell::RefCell;
use std::io::Write as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::archive;
use super::only;
use crate::outcome::Delivery;

/// A `load` command that waits for an archive.
#[derive(Debug)]
pub struct Loader {
    program: &'static str,
    child: RefCell<Option<Child>>,
}

impl Loader {
    /// Starts the first of podman and docker that is there and answers.
    ///
    /// # Errors
    /// If neither is.
    pub fn start() -> Result<Self, ExportError> {
        for program in ["podman", "docker"] {
            // A docker client without its daemon would fail only after the whole archive was written.
            let answers = Command::new(program)
                .args(["version", "--format", "{{.Server.Version}}"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success() || program == "podman");
            if !answers {
                continue;
            }
            let child = Command::new(program)
                .args(["load", "--quiet"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn();
            if let Ok(child) = child {
                return Ok(Self {
                    program,
                    child: RefCell::new(Some(child)),
                });
            }
        }
        Err(ExportError::NoLoader)
    }

    fn failed(&self, message: String) -> ExportError {
        ExportError::Loader {
            program: self.program.to_owned(),
            message,
        }
    }
}

impl Exporter for Loader {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        only(export, "docker")?;
        let mut child = self
            .child
            .borrow_mut()
            .take()
            .expect("a loader is used once");
        let mut stdin = child.stdin.take().expect("it was started with a pipe");
        let written = archive::write_tar(std::slice::from_ref(export), true, &mut stdin);
        let flushed = stdin.flush();
        drop(stdin);
        let ended = child
            .wait_with_output()
            .map_err(|error| self.failed(error.to_string()))?;
        if !ended.status.success() {
            return Err(self.failed(String::from_utf8_lossy(&ended.stderr).trim().to_owned()));
        }
        written?;
        flushed.map_err(|error| self.failed(error.to_string()))?;
        Ok(vec![Delivery::Loaded {
            into: self.program.to_owned(),
            names: export.names.to_vec(),
        }])
    }
}

impl Drop for Loader {
    /// A build that failed has nothing to load.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.borrow_mut().take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}
