//! What a step does, with the fields of BuildKit's LLB (solver/pb/ops.proto).
//!
//! The enums are closed on purpose: a new op is a compile error at each place that must know it.
//! Indices into [`Vertex::inputs`](crate::Vertex) are `Option<usize>`; `None` is LLB's `-1`, an empty file system.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::encode::Canonical;
use crate::encode::Encoder;
use crate::encode::canonical_struct;
use crate::id::OciDigest;

/// One build step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Brings files in from outside the graph.
    Source(SourceOp),
    /// Runs a process.
    Exec(ExecOp),
    /// Changes files without running anything.
    File(FileOp),
    /// Stacks its inputs, later ones on top.
    Merge,
    /// What the second input adds to the first, and takes from it; without a second one, all that there is is taken.
    Diff,
}

/// A source, LLB's `SourceOp` with its identifier taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceOp {
    /// `docker-image://`
    Image(ImageSource),
    /// `oci-layout://`
    OciLayout(OciLayoutSource),
    /// `local://`
    Local(LocalSource),
    /// `git://`
    Git(GitSource),
    /// `http://`, `https://`
    Http(HttpSource),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageSource {
    /// Fully qualified: `docker.io/library/alpine:3.20`, with `@sha256:…` if the user wrote it.
    pub reference: String,
    /// Digest of the platform's manifest, once pinned.
    pub digest: Option<OciDigest>,
}

/// An image in a directory of the OCI image layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OciLayoutSource {
    /// The directory, as the user wrote it. Not in any cache key.
    pub path: String,
    /// Which of its images: a tag (`org.opencontainers.image.ref.name`) or a digest; `None` for its only one.
    pub reference: Option<String>,
    /// Digest of the platform's manifest, once pinned.
    pub digest: Option<OciDigest>,
}

/// Files of a directory on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalSource {
    /// Which context: `context`, `dockerfile`, or the name of a `--build-context`.
    pub name: String,
    /// Only paths these patterns match (see [`crate::pattern`]); empty for all.
    pub include: Vec<String>,
    /// Not the paths these patterns match, `.dockerignore` rules with `!` exceptions, in their order.
    pub exclude: Vec<String>,
    /// How modes count.
    pub modes: FileModes,
}

/// How the modes of local files count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileModes {
    /// As they are.
    #[default]
    Exact,
    /// As git keeps them: 0644, or 0755 for files that their owner may execute; 0755 for directories.
    Git,
}

/// A git commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitSource {
    /// The remote, without userinfo.
    pub remote: String,
    /// Branch, tag or commit; empty for the remote's HEAD.
    pub reference: String,
    /// Only this directory of it.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Leave the directories of submodules empty.
    pub skip_submodules: bool,
    /// The first digits of what `reference` must be: the commit, or the tag object upon it. Pinning sees to it.
    pub checksum: Option<String>,
    /// The commit, once pinned.
    pub commit: Option<String>,
}

/// One file from a web server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpSource {
    /// The URL.
    pub url: String,
    /// SHA-256 of the content, as the user demands it or as it was pinned.
    pub checksum: Option<OciDigest>,
    /// Name of the file made.
    pub filename: String,
    /// Permission bits; `None` for 0600.
    pub mode: Option<u32>,
}

/// Runs a process in a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOp {
    /// argv.
    pub args: Vec<Cow<'static, str>>,
    /// `KEY=value`, in the order given; the last of equal keys counts.
    pub env: Arc<Vec<String>>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]`, names or ids; empty for root.
    pub user: String,
    /// Mounts; exactly one has the destination `/`.
    pub mounts: Vec<Mount>,
    /// The network word asked for.
    pub network: NetworkMode,
    /// The security mode.
    pub security: SecurityMode,
    /// Secrets handed over as environment variables.
    pub secret_env: Vec<SecretEnv>,
    /// Host name; empty for the default.
    pub hostname: String,
    /// Extra lines of `/etc/hosts`: name and address. Only the names enter a key.
    pub extra_hosts: Vec<(String, String)>,
    /// `--ulimit name=soft:hard`.
    pub ulimits: Vec<Ulimit>,
    /// Predefined proxy variables: given to the process, in no key and no image.
    #[serde(skip)]
    pub proxy_env: ProxyEnv,
    /// What the process and its children may use together: in no key.
    pub limits: Arc<Limits>,
}

/// The predefined proxy build arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `KEY=value` pairs as they go into the process.
    pub env: Vec<String>,
}

/// What processes may use together (cgroups(7)), with docker's names and units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `--memory`: bytes.
    pub memory: Option<u64>,
    /// `--memory-swap`: bytes of memory and swap; -1 for any amount of swap.
    pub memory_swap: Option<i64>,
    /// `--cpu-shares`: weight among others, of which 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`: microseconds.
    pub cpu_period: Option<u64>,
    /// `--cpu-quota`: microseconds of processor time in each period.
    pub cpu_quota: Option<u64>,
    /// `--cpuset-cpus`: processors, as `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`: memory nodes, as `0-1`.
    pub cpuset_mems: Option<String>,
    /// `--cgroup-parent`: the cgroup to be below.
    pub cgroup_parent: Option<String>,
}

/// A resource limit (`setrlimit(2)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case: `nofile`.
    pub name: String,
    /// Soft limit; -1 for none.
    pub soft: i64,
    /// Hard limit; -1 for none.
    pub hard: i64,
}

/// What a step may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The builder's choice.
    Default,
    /// The host's network.
    Host,
    /// Loopback only.
    None,
}

/// How closely a step is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityMode {
    /// Docker's capabilities and seccomp filter.
    Sandbox,
    /// Everything the user namespace allows.
    Insecure,
}

/// A secret as an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    /// Which secret.
    pub id: String,
    /// Variable name.
    pub name: String,
    /// Whether the build fails without it.
    pub optional: bool,
}

/// One mount of an [`ExecOp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Index into the vertex' inputs; `None` starts empty.
    pub input: Option<usize>,
    /// Path inside the input.
    pub selector: String,
    /// Absolute path in the step.
    pub dest: String,
    /// Whether what the step writes there is output 0, 1, …; `None` drops it.
    pub output: Option<u32>,
    /// Read-only.
    pub readonly: bool,
    /// What is mounted.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// The input's files.
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// Who may use it at once.
        sharing: CacheSharing,
        /// Mode of the directory when it is made.
        mode: u32,
        /// Owner of the directory when it is made.
        uid: u32,
        /// Group of the directory when it is made.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 for the kernel's default.
        size: u64,
    },
    /// A secret as a file.
    Secret {
        /// Its name.
        id: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Mode.
        mode: u32,
        /// Whether the build fails without it.
        optional: bool,
    },
    /// An ssh agent's socket.
    Ssh {
        /// Its name.
        id: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Mode.
        mode: u32,
        /// Whether the build fails without it.
        optional: bool,
    },
}

/// Who may use a cache mount at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheSharing {
    /// Everyone.
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// File actions, applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOp {
    /// The actions.
    pub actions: Vec<FileAction>,
}

/// Where an action's files come from: one of the vertex' inputs, or what an earlier action of the same op made.
/// (LLB numbers both in one sequence: inputs first, then actions.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileInput {
    /// An empty file system.
    Scratch,
    /// An input of the vertex.
    Input(usize),
    /// The result of an earlier action of this op.
    Action(usize),
}

/// One file action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAction {
    /// What the action changes.
    pub input: FileInput,
    /// What a copy reads.
    pub secondary: FileInput,
    /// Which output of the vertex this action's result is, if any.
    pub output: Option<u32>,
    /// The change.
    pub kind: FileActionKind,
}

/// What a file action does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileActionKind {
    /// COPY and ADD.
    Copy(CopyAction),
    /// Writes one file.
    Mkfile {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Content.
        data: Vec<u8>,
        /// Owner.
        owner: Option<Owner>,
        /// Seconds and nanoseconds; `None` for the time of the step.
        timestamp: Option<i64>,
    },
    /// Makes a directory.
    Mkdir {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Make what is missing above it; existing ones are no error.
        make_parents: bool,
        /// Owner.
        owner: Option<Owner>,
        /// Unix seconds; `None` for the time of the step.
        timestamp: Option<i64>,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Its target, as it is written.
        target: String,
        /// Absolute path of the link.
        path: String,
        /// Owner.
        owner: Option<Owner>,
        /// Unix seconds; `None` for the time of the step.
        timestamp: Option<i64>,
    },
    /// Removes files.
    Rm {
        /// Absolute path.
        path: String,
        /// A missing one is no error.
        allow_not_found: bool,
        /// `path` is a pattern.
        allow_wildcard: bool,
    },
}

/// LLB's `FileActionCopy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyAction {
    /// Path in the source; may be a pattern when `allow_wildcard`.
    pub src: String,
    /// Absolute path in the destination; a trailing slash means a directory.
    pub dest: String,
    /// `--chown`; `None` keeps the owner the source has.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<ModeChange>,
    /// Follow symbolic links in the source.
    pub follow_symlinks: bool,
    /// Copy what a directory holds, not the directory.
    pub dir_copy_contents: bool,
    /// Unpack archives (ADD).
    pub attempt_unpack: bool,
    /// Make the directories above the destination.
    pub create_dest_path: bool,
    /// `src` may be a pattern.
    pub allow_wildcard: bool,
    /// A pattern that matches nothing is no error.
    pub allow_empty_wildcard: bool,
    /// Only these of the copied paths.
    pub include: Vec<String>,
    /// Not these of the copied paths.
    pub exclude: Vec<String>,
    /// Replace a file by a directory and the other way round.
    pub always_replace_existing_dest_paths: bool,
    /// Unix seconds all copies get; `None` keeps the source's.
    pub timestamp: Option<i64>,
    /// `--parents`: keep the source's parent directories below the destination. `src` is the directory they begin in,
    /// and `include` what is copied of it.
    pub parents: bool,
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// Octal.
    Octal(u32),
    /// Symbolic, such as `u=rwX,go=rX`.
    Symbolic(String),
}

/// `--chown`, each part a number or a name that is looked up in the destination's `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: UserRef,
    /// The group; `None` for the user's own: its primary group if a name was given, else the same number.
    pub group: Option<UserRef>,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

impl Op {
    /// A lower-case word for the kind of op, as `rawjson` and records show it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Exec(_) => "exec",
            Self::File(_) => "file",
            Self::Merge => "merge",
            Self::Diff => "diff",
        }
    }
}

// ---- canonical encoding ------------------------------------------------------------------------------------

impl Canonical for usize {
    fn encode(&self, to: &mut Encoder) {
        (*self as u64).encode(to);
    }
}

/// Encodes an enum: the ordinal written out, then the fields.
macro_rules! canonical_enum {
    ($ty:ty { $($ordinal:literal => $variant:ident $(($tuple:ident))? $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl Canonical for $ty {
            fn encode(&self, to: &mut Encoder) {
                match self {
                    $(Self::$variant $(($tuple))? $({ $($field),* })? => {
                        to.ordinal($ordinal);
                        $($tuple.encode(to);)?
                        $($($field.encode(to);)*)?
                    })*
                }
            }
        }
    };
}

canonical_enum!(Op { 0 => Source(op), 1 => Exec(op), 2 => File(op), 3 => Merge, 4 => Diff });
canonical_enum!(SourceOp { 0 => Image(s), 1 => OciLayout(s), 2 => Local(s), 3 => Git(s), 4 => Http(s) });
canonical_struct!(ImageSource { reference, digest });
canonical_struct!(OciLayoutSource {
    path,
    reference,
    digest
});
canonical_struct!(LocalSource {
    name,
    include,
    exclude,
    modes
});
canonical_enum!(FileModes { 0 => Exact, 1 => Git });
canonical_struct!(GitSource {
    remote,
    reference,
    subdir,
    keep_git_dir,
    skip_submodules,
    checksum,
    commit
});
canonical_struct!(HttpSource {
    url,
    checksum,
    filename,
    mode
});
canonical_struct!(ExecOp {
    args,
    env,
    cwd,
    user,
    mounts,
    network,
    security,
    secret_env,
    hostname,
    extra_hosts,
    ulimits,
    proxy_env,
    limits,
});
canonical_struct!(Limits {
    memory,
    memory_swap,
    cpu_shares,
    cpu_period,
    cpu_quota,
    cpuset_cpus,
    cpuset_mems,
    cgroup_parent,
});
canonical_struct!(ProxyEnv { env });
canonical_struct!(Ulimit { name, soft, hard });
canonical_enum!(NetworkMode { 0 => Default, 1 => Host, 2 => None });
canonical_enum!(SecurityMode { 0 => Sandbox, 1 => Insecure });
canonical_struct!(SecretEnv { id, name, optional });
canonical_struct!(Mount {
    input,
    selector,
    dest,
    output,
    readonly,
    kind
});
canonical_enum!(MountKind {
    0 => Bind,
    1 => Cache { id, sharing, mode, uid, gid },
    2 => Tmpfs { size },
    3 => Secret { id, uid, gid, mode, optional },
    4 => Ssh { id, uid, gid, mode, optional },
});
canonical_enum!(CacheSharing { 0 => Shared, 1 => Private, 2 => Locked });
canonical_struct!(FileOp { actions });
canonical_enum!(FileInput { 0 => Scratch, 1 => Input(index), 2 => Action(index) });
canonical_struct!(FileAction {
    input,
    secondary,
    output,
    kind
});
canonical_enum!(FileActionKind {
    0 => Copy(copy),
    1 => Mkfile { path, mode, data, owner, timestamp },
    2 => Mkdir { path, mode, make_parents, owner, timestamp },
    3 => Symlink { target, path, owner, timestamp },
    4 => Rm { path, allow_not_found, allow_wildcard },
});
canonical_struct!(CopyAction {
    src,
    dest,
    owner,
    mode,
    follow_symlinks,
    dir_copy_contents,
    attempt_unpack,
    create_dest_path,
    allow_wildcard,
    allow_empty_wildcard,
    include,
    exclude,
    always_replace_existing_dest_paths,
    timestamp,
    parents,
});
canonical_enum!(ModeChange { 0 => Octal(mode), 1 => Symbolic(text) });
canonical_struct!(Owner { user, group });
canonical_enum!(UserRef { 0 => Id(id), 1 => Name(name) });
