//! `--load`: the image into podman or docker, whichever is there, over the standard input of its `load` command.
//!
//! The program is started before this process enters its user namespace, where podman could not work, and waits on
//! its standard input until there is something to load.
//!
//! Docker looks for a layer among its own before it looks into the archive (moby, image/tarexport), so what it has is left
//! out. Its containerd image store wants every blob, and so does podman: they get the whole archive. That store alone has a
//! place for an index, and gets all its platforms, as with buildx.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::io::Write as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::slice;

use rbuild_cache::LayerRef;
use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::ReadyImage;
use super::archive;
use super::only;
use crate::image::Descriptor;
use crate::outcome::Delivery;

/// A `load` command that waits for an archive.
#[derive(Debug)]
pub struct Loader {
    program: String,
    where_to: Option<String>,
    /// The layers that docker has, each with all that are below it; `indexes` if it takes several platforms.
    known: Chains,
    indexes: bool,
    child: RefCell<Option<Child>>,
}

/// Stacks of layers, by their diff ids from the bottom.
type Chains = BTreeSet<Vec<OciDigest>>;

/// What images are loaded into.
#[derive(Debug)]
struct Engine {
    program: &'static str,
    where_to: Option<String>,
}

impl Engine {
    /// The first of podman and docker that is there and answers; docker alone for a `context` of its client.
    fn find(context: Option<&str>) -> Result<Self, ExportError> {
        let programs: &[&str] = match context {
            None => &["podman", "docker"],
            Some(_) => &["docker"],
        };
        let where_to = context.map(|context| format!("--context={context}"));
        // A docker client without its daemon would fail only after the whole archive was written. podman has no server, unless
        // it is another machine's.
        let answers = |program: &str| {
            let whose = match program {
                "podman" => "{{.Client.Version}}",
                _ => "{{.Server.Version}}",
            };
            Command::new(program)
                .args(&where_to)
                .args(["version", "--format", whose])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        match programs.iter().find(|program| answers(program)) {
            Some(&program) => Ok(Self { program, where_to }),
            None => Err(match context {
                None => ExportError::NoLoader,
                Some(context) => ExportError::NoContext {
                    context: context.to_owned(),
                },
            }),
        }
    }

    fn takes_indexes(&self) -> bool {
        self.program == "docker" && is_containerd(self.where_to.as_deref()).unwrap_or_default()
    }

    fn start(&self) -> Result<Child, ExportError> {
        let child = load(self.program, self.where_to.as_deref());
        child.map_err(|error| ExportError::Loader {
            program: self.program.to_owned(),
            message: error.to_string(),
        })
    }
}

impl Loader {
    /// Starts the first of podman and docker that is there and answers; docker alone for a `context` of its client.
    ///
    /// # Errors
    /// If neither is.
    pub fn start(context: Option<&str>) -> Result<Self, ExportError> {
        let engine = Engine::find(context)?;
        let child = engine.start()?;
        let indexes = engine.takes_indexes();
        let Engine { program, where_to } = engine;
        // The containerd image store has no use for an archive without them.
        let known = match program == "docker" && !indexes {
            true => known_to_docker(where_to.as_deref()).unwrap_or_default(),
            false => Chains::new(),
        };
        Ok(Self {
            program: program.to_owned(),
            where_to,
            known,
            indexes,
            child: RefCell::new(Some(child)),
        })
    }

    /// Whether it takes an image for several platforms.
    pub fn takes_indexes(&self) -> bool {
        self.indexes
    }

    fn failed(&self, message: String) -> ExportError {
        ExportError::Loader {
            program: self.program.clone(),
            message,
        }
    }
}

impl Exporter for Loader {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let there = match self.indexes {
            true => BTreeSet::new(),
            false => self.there(only(export)?),
        };
        let child = self.child.borrow_mut().take();
        let child = child.expect("a loader is used once");
        let mut loaded = self.hand(export, child, &there);
        if !there.is_empty() && matches!(loaded, Err(ExportError::Loader { .. })) {
            // Somebody may have removed an image meanwhile.
            let child = load(&self.program, self.where_to.as_deref());
            let child = child.map_err(|error| self.failed(error.to_string()))?;
            loaded = self.hand(export, child, &BTreeSet::new());
        }
        loaded?;
        Ok(vec![Delivery::Loaded {
            into: self.program.clone(),
            names: export.names.to_vec(),
        }])
    }
}

impl Loader {
    /// The blobs of an image that docker does not need.
    fn there(&self, image: &ReadyImage) -> BTreeSet<OciDigest> {
        let known = |below: usize| self.known.contains(&image.diff_ids[..=below]);
        let layers = image.layers.iter().enumerate();
        let (there, needed): (Vec<_>, Vec<_>) = layers.partition(|(at, _)| known(*at));
        let digests = |layers: Vec<(usize, &(Descriptor, LayerRef))>| -> BTreeSet<OciDigest> {
            layers
                .into_iter()
                .map(|(_, (layer, _))| layer.digest)
                .collect()
        };
        // One may be in the stack a second time.
        &digests(there) - &digests(needed)
    }

    /// Writes the archive, without some blobs.
    fn hand(
        &self,
        export: &Export<'_>,
        mut child: Child,
        without: &BTreeSet<OciDigest>,
    ) -> Result<(), ExportError> {
        let mut stdin = child.stdin.take().expect("it was started with a pipe");
        // docker's own list of images has one platform of each.
        let docker = export.images.len() == 1;
        let written =
            archive::write_tar(slice::from_ref(export), docker, without, None, &mut stdin);
        let flushed = stdin.flush();
        drop(stdin);
        let ended = child
            .wait_with_output()
            .map_err(|error| self.failed(error.to_string()))?;
        if !ended.status.success() {
            return Err(self.failed(String::from_utf8_lossy(&ended.stderr).trim().to_owned()));
        }
        written?;
        flushed.map_err(|error| self.failed(error.to_string()))
    }
}

/// Whether what there is to load into takes an image for several platforms.
///
/// # Errors
/// If neither podman nor docker is there.
pub fn takes_indexes(context: Option<&str>) -> Result<bool, ExportError> {
    Engine::find(context).map(|engine| engine.takes_indexes())
}

/// A `load` command that takes an archive which somebody else makes.
#[derive(Debug)]
pub struct Waiting {
    program: String,
    names: Vec<String>,
    child: Option<Child>,
}

impl Waiting {
    /// Starts one as [`Loader::start`] does; what is written goes to it.
    ///
    /// # Errors
    /// If neither podman nor docker is there.
    pub fn start(
        context: Option<&str>,
        names: &[String],
    ) -> Result<(Self, Box<dyn io::Write + Send>), ExportError> {
        let engine = Engine::find(context)?;
        let mut child = engine.start()?;
        let to = Box::new(child.stdin.take().expect("it was started with a pipe"));
        let waiting = Self {
            program: engine.program.to_owned(),
            names: names.to_vec(),
            child: Some(child),
        };
        Ok((waiting, to))
    }

    /// What to say of an archive that could not be written to it: it has ended, and said why.
    pub fn why_not(self, error: &io::Error) -> Option<ExportError> {
        match error.kind() {
            io::ErrorKind::BrokenPipe => self.finish().err(),
            _ => None,
        }
    }

    /// Waits for it, when all is written and what writes is closed.
    ///
    /// # Errors
    /// If the program did not take the archive.
    pub fn finish(mut self) -> Result<Delivery, ExportError> {
        let failed = |message| ExportError::Loader {
            program: self.program.clone(),
            message,
        };
        let child = self.child.take().expect("it is waited for once");
        let ended = child.wait_with_output();
        let ended = ended.map_err(|error| failed(error.to_string()))?;
        match ended.status.success() {
            true => Ok(Delivery::Loaded {
                into: self.program.clone(),
                names: self.names.clone(),
            }),
            false => Err(failed(
                String::from_utf8_lossy(&ended.stderr).trim().to_owned(),
            )),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        end(self.child.take());
    }
}

fn load(program: &str, where_to: Option<&str>) -> io::Result<Child> {
    Command::new(program)
        .args(where_to)
        .args(["load", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// What docker's client answers.
fn ask_docker(where_to: Option<&str>, args: &[&str]) -> Option<String> {
    let asked = Command::new("docker").args(where_to).args(args).output();
    let answer = asked.ok().filter(|answer| answer.status.success())?;
    String::from_utf8(answer.stdout).ok()
}

/// Whether docker keeps images in containerd, which says so there: `[["driver-type","io.containerd.snapshotter.v1"]]`.
fn is_containerd(where_to: Option<&str>) -> Option<bool> {
    let status = ask_docker(where_to, &["info", "--format", "{{json .DriverStatus}}"])?;
    Some(status.contains("containerd"))
}

/// The layers of docker's images; `None` if it does not say.
fn known_to_docker(where_to: Option<&str>) -> Option<Chains> {
    let ask = |args: &[&str]| ask_docker(where_to, args);
    let listed = ask(&["image", "ls", "--quiet", "--no-trunc"])?;
    let images: BTreeSet<&str> = listed.lines().collect();
    if images.is_empty() {
        return None;
    }
    let mut args = vec!["image", "inspect", "--format", "{{json .RootFS.Layers}}"];
    args.extend(images);
    let mut known = Chains::new();
    for line in ask(&args)?.lines() {
        let layers: Vec<OciDigest> = serde_json::from_str(line).ok()?;
        known.extend((1..=layers.len()).map(|count| layers[..count].to_vec()));
    }
    Some(known)
}

impl Drop for Loader {
    /// A build that failed has nothing to load.
    fn drop(&mut self) {
        end(self.child.borrow_mut().take());
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _gone = child.kill();
        let _reaped = child.wait();
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn who_ends_before_it_has_all_says_why() {
        let script = "exec <&-; echo 'no space left' >&2; exit 1";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to = child.stdin.take().unwrap();
        let waiting = Waiting {
            program: "docker".to_owned(),
            names: Vec::new(),
            child: Some(child),
        };
        let error = loop {
            if let Err(error) = to.write_all(&[0; 1 << 16]) {
                break error;
            }
        };
        let why = waiting.why_not(&error).unwrap().to_string();
        assert!(why.contains("no space left"), "{why}");
    }
}
