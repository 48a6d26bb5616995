//! What keeps a step from being evaluated. What of it is the user's doing and what the machine's, `src/pipeline/failure.rs`
//! decides, where hints are found as well.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use rbuild_cache::BlobError;
use rbuild_cache::ContextError;
use rbuild_cache::LayerError;
use rbuild_cache::RecordError;
use rbuild_cache::RemoteError;
use rbuild_cache::StoreError;
use rbuild_cache::TreeError;
use rbuild_llb::OciDigest;
use rbuild_llb::Span;
use rbuild_llb::TreeId;
use rbuild_llb::pattern::PatternError;

use super::copy::CopyError;
use super::owner::OwnerError;
use crate::registry::RegistryError;
use crate::sandbox::Exit;
use crate::sandbox::SandboxError;

/// Why a step could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// A RUN exited non-zero or was killed.
    #[error("process \"{command}\" did not complete successfully: {exit}")]
    Failed {
        /// As the user wrote it.
        command: String,
        /// How it ended.
        exit: ExitText,
    },
    /// COPY or ADD.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A user or group.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Files of a context that was not given: a Dockerfile came on standard input, and nothing else.
    #[error("there is no build context to take files from")]
    NoContext,
    /// Something is not in the store, and the network may not be asked.
    #[error("`{what}` is not in the store, and `--offline` asks nobody")]
    Offline {
        /// What is wanted.
        what: String,
    },
    /// There is no `git` program.
    #[error("`{remote}` takes the program `git`, which is not installed")]
    NoGit {
        /// What is wanted.
        remote: String,
    },
    /// A reference is not the commit that was demanded.
    #[error("expected commit `{wanted}`, but {reference} is `{commit}`")]
    GitChecksum {
        /// The first digits of what it should be.
        wanted: String,
        /// The reference, in quotes, or what stands for it.
        reference: String,
        /// What it is.
        commit: String,
    },
    /// Git failed.
    #[error("git cannot get `{remote}`: {said}")]
    Git {
        /// What is wanted.
        remote: String,
        /// What it says.
        said: String,
    },
    /// No such branch, tag or commit.
    #[error("`{remote}` has no branch, tag or commit `{reference}`")]
    GitReference {
        /// The repository.
        remote: String,
        /// What was asked for.
        reference: String,
    },
    /// The graph asks for what this version cannot do.
    #[error("{what} is not supported here")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// Keys of files could not be handed to an agent.
    #[error("cannot use the keys of `--ssh {id}`: {why}")]
    SshKeys {
        /// The id.
        id: String,
        /// Why not, as a clause.
        why: String,
    },
    /// An ssh mount that is `required`.
    #[error("ssh agent `{id}` is required, and the build was given none of that name")]
    SshAgent {
        /// The mount's `id`.
        id: String,
    },
    /// A line of an ignore file, or a source.
    #[error("a pattern of the context is malformed: {0}")]
    Pattern(#[from] PatternError),
    /// A secret that was not given.
    #[error("secret `{id}` is required and was not given")]
    Secret {
        /// Its id.
        id: String,
    },
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A cache elsewhere.
    #[error(transparent)]
    Elsewhere(#[from] RemoteError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Input or output.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of a context is not what it was when the step that takes it looked at it.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The instruction of that step.
        span: Box<Span>,
        /// Why it could no longer be read, if that is what changed.
        #[source]
        source: Option<io::Error>,
    },
    /// A layer of a base image cannot be had.
    #[error("a layer of `{}` cannot be used", image.split('@').next().unwrap_or(image))]
    Base {
        /// Where it comes from: a reference, or `oci-layout://` and a directory.
        image: String,
        /// Why not.
        #[source]
        source: Box<OpError>,
    },
    /// The base image is not what its config says.
    #[error("layer {digest} of the base does not unpack to the diff id its config names, {wanted}")]
    DiffId {
        /// The blob.
        digest: OciDigest,
        /// What the config says.
        wanted: OciDigest,
    },
    /// A blob that a cache has for a layer has other files.
    #[error("the blob of layer {} has other files than the layer", layer.short())]
    NotTheLayer {
        /// The layer's tree.
        layer: TreeId,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl OpError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// How a process ended, as a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitText(pub Exit);

impl std::fmt::Display for ExitText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Exit::Code(code) => write!(f, "exit code: {code}"),
            Exit::Signal(signal) => write!(f, "killed by signal {signal}"),
            Exit::OutOfMemory { limit: None } => f.write_str("killed because memory ran out"),
            Exit::OutOfMemory { limit: Some(bytes) } => {
                const MIB: u64 = 1 << 20;
                match bytes % MIB {
                    0 => write!(f, "killed by the kernel: memory limit {} MiB", bytes / MIB),
                    _ => write!(f, "killed by the kernel: memory limit {bytes} bytes"),
                }
            }
        }
    }
}
