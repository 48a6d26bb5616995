//! What tests of layers start from: a tree whose files lie in a directory by their digest.

use std::fs;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::Platform;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::ProxyEnv;
use rbuild_llb::op::SecurityMode;

use crate::BlobOptions;
use crate::Compression;
use crate::FailedStep;
use crate::FileBytes;
use crate::FileNode;
use crate::LayerBlob;
use crate::LayerError;
use crate::Meta;
use crate::NewNode;
use crate::Timestamp;
use crate::TreeBuilder;
use crate::TreeRef;
use crate::Trees;
use crate::Written;

/// 2023-11-14T22:13:20Z.
pub(crate) const TIME: i64 = 1_700_000_000;

pub(crate) const PLAIN: BlobOptions = BlobOptions {
    compression: Compression::None,
    clamp: None,
};

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) trees: Trees,
    pub(crate) builder: TreeBuilder,
}

/// A step that failed, on nothing.
pub(crate) fn failed_step(plan: &str, build: &str) -> FailedStep {
    FailedStep {
        plan: plan.to_owned(),
        build: build.to_owned(),
        slot: format!("{plan} 1"),
        vertex: "sha256:ab".to_owned(),
        name: "[1/1] RUN false".to_owned(),
        ended: "exit code: 1".to_owned(),
        failed: 0,
        platform: Platform::host(),
        domain: "map".to_owned(),
        op: ExecOp {
            args: vec!["false".into()],
            env: Arc::default(),
            cwd: "/".to_owned(),
            user: String::new(),
            mounts: Vec::new(),
            network: NetworkMode::None,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            proxy_env: ProxyEnv::default(),
            limits: Arc::default(),
        },
        withheld: Vec::new(),
        inputs: Vec::new(),
        wrote: Written::Upper,
    }
}

/// Metadata with [`TIME`] and root as owner.
pub(crate) fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        mtime: Timestamp {
            secs: TIME,
            nanos: 0,
        },
        ..Meta::default()
    }
}

/// Metadata that whoever runs the tests may give to a file: owners are one's own.
pub(crate) fn mine(mode: u32) -> Meta {
    Meta {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Timestamp {
            secs: TIME,
            nanos: 123_456_789,
        },
        ..meta(mode)
    }
}

pub(crate) fn node(bytes: &[u8]) -> FileNode {
    FileNode {
        size: bytes.len() as u64,
        digest: FileDigest::from_bytes(*blake3::hash(bytes).as_bytes()),
        link: None,
    }
}

/// Bytes that do not compress to nothing and do not repeat.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("content")).unwrap();
        Self {
            trees: Trees::open(&dir.path().join("trees")),
            builder: TreeBuilder::new(),
            dir,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn content(&self, node: &FileNode) -> PathBuf {
        self.path("content").join(node.digest.hex())
    }

    pub(crate) fn file_with(&mut self, path: &[u8], meta: Meta, bytes: &[u8]) {
        let node = node(bytes);
        fs::write(self.content(&node), bytes).unwrap();
        self.builder.insert(path, meta, NewNode::File(node));
    }

    pub(crate) fn file(&mut self, path: &str, bytes: &[u8]) {
        self.file_with(path.as_bytes(), meta(0o644), bytes);
    }

    pub(crate) fn dir(&mut self, path: &str, mode: u32) {
        self.builder
            .insert(path.as_bytes(), meta(mode), NewNode::Dir);
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        let node = NewNode::Symlink {
            target: target.into(),
        };
        self.builder.insert(path.as_bytes(), meta(0o777), node);
    }

    pub(crate) fn finish(&mut self) -> TreeRef {
        std::mem::take(&mut self.builder).finish(&self.trees)
    }

    pub(crate) fn open(&self) -> impl Fn(&[u8], &FileNode) -> io::Result<File> + Sync + '_ {
        |_, node| File::open(self.content(node))
    }

    pub(crate) fn bytes(&self) -> impl Fn(&[u8], &FileNode) -> io::Result<FileBytes> + Sync + '_ {
        let open = self.open();
        move |path, node| open(path, node).map(FileBytes::from)
    }

    pub(crate) fn write(
        &self,
        layer: TreeRef,
        options: &BlobOptions,
    ) -> Result<(Vec<u8>, LayerBlob), LayerError> {
        let mut blob = Vec::new();
        let written = crate::write_layer(
            &self.trees,
            &layer.tree,
            options,
            &self.bytes(),
            &mut blob,
            &CancelToken::new(),
        )?;
        Ok((blob, written))
    }
}

/// Runs a foreign tool and returns its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {stderr}\n{stdout}");
    stdout.into_owned()
}
