//! The real program, with real steps in real sandboxes: what the fake one cannot show. Each step also counts itself in a
//! cache mount, so that it is not the program alone that says which steps ran.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use super::engine::marked;
use super::model::Files;
use super::model::Node;
use super::project::Project;
use crate::support::Output;
use crate::support::TestEnv;

/// Later than any time of a file in the projects, which `rewrite-timestamp` sets to it.
const EPOCH: &str = "SOURCE_DATE_EPOCH=900000000";

/// What a build came to.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) digest: String,
    pub(super) files: Files,
    pub(super) ran: BTreeMap<u32, usize>,
}

/// The command that builds what is in `context` upon the store in `root`, with what it makes in `out`.
pub(crate) fn command(
    env: &TestEnv,
    project: &Project,
    root: &Path,
    context: &Path,
    out: &Path,
) -> Command {
    project.write(context, "busybox");
    drop(fs::remove_dir_all(out));
    fs::create_dir(out).unwrap();
    let at = |name: &str| out.join(name).display().to_string();
    let mut command = env.rbuild_command(["--progress=rawjson", "--root"]);
    command
        .arg(root)
        .args(["--build-arg", EPOCH, "--metadata-file", &at("metadata")])
        .args([
            "-o",
            &format!("type=oci,rewrite-timestamp=true,dest={}", at("oci.tar")),
        ])
        .args(["-o", &format!("type=tar,dest={}", at("files.tar"))])
        .args(project.arguments())
        .arg(context);
    command
}

/// Runs a command that [`command`] made to its end.
pub(crate) fn finish(env: &TestEnv, command: &mut Command, out: &Path) -> Result<Built, Output> {
    let done = env.run(command.stdin(Stdio::null()));
    if !done.status.success() {
        return Err(done);
    }
    Ok(Built {
        ran: ran(&done.stderr),
        ..made(out)
    })
}

/// What a command that [`command`] made has left, if it worked.
pub(crate) fn made(out: &Path) -> Built {
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("metadata")).unwrap()).unwrap();
    Built {
        digest: metadata["containerimage.digest"]
            .as_str()
            .unwrap()
            .to_owned(),
        files: files(&out.join("files.tar")),
        ran: BTreeMap::new(),
    }
}

/// The base image's files.
pub(crate) fn base(env: &TestEnv) -> Files {
    env.write("Dockerfile", "FROM busybox\n");
    env.rbuild(["-o", "type=tar,dest=../base.tar", "."])
        .success();
    files(&env.outside("base.tar"))
}

/// How often which step ran, as the progress says.
fn ran(progress: &str) -> BTreeMap<u32, usize> {
    let mut ran = BTreeMap::new();
    for line in progress.lines().filter(|line| line.starts_with('{')) {
        let status: serde_json::Value = serde_json::from_str(line).unwrap();
        for step in status["vertexes"].as_array().into_iter().flatten() {
            let name = step["name"].as_str().unwrap_or_default();
            let done = step["completed"].is_string() && step["cached"] != true;
            if done
                && step["error"].is_null()
                && !name.contains("] LINK ")
                && let Some(id) = marked(name)
            {
                *ran.entry(id).or_default() += 1;
            }
        }
    }
    ran
}

fn files(tar: &Path) -> Files {
    let mut files = Files::new();
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry
            .path()
            .unwrap()
            .to_string_lossy()
            .trim_end_matches('/')
            .to_owned();
        let mode = entry.header().mode().unwrap();
        let kind = entry.header().entry_type();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let node = match kind.is_dir() {
            true => Node::Dir(mode),
            false => Node::File(mode, bytes),
        };
        files.insert(format!("/{path}"), node);
    }
    files
}

/// How often steps counted themselves in the cache mount of a store.
pub(super) fn counted(root: &Path) -> BTreeMap<u32, usize> {
    let mut counted = BTreeMap::new();
    let mut dirs = vec![root.join("v1/mounts")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if entry.file_name() == "ran" {
                for line in fs::read_to_string(path).unwrap().lines() {
                    *counted.entry(marked(line).unwrap()).or_default() += 1;
                }
            }
        }
    }
    counted
}

impl Built {
    /// What the project made upon the base image, whose files `base` are left out.
    pub(super) fn own_files(&self, base: &Files) -> Files {
        let own = self
            .files
            .iter()
            .filter(|(path, _)| !base.contains_key(*path));
        own.map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }
}
