//! What a step is: plain data that crosses from the builder to the process that carries it out.

use std::ffi::OsString;
use std::path::PathBuf;

use rbuild_llb::op::Limits;

use super::terminal::Size;
use super::wire::Blob;
use super::wire::Wire;
use super::wire::wire_enum;
use super::wire::wire_struct;

/// One process to run, and all it sees. Paths of the host must be absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The file system at `/`.
    pub root: Root,
    /// Refuse writes to it.
    pub readonly: bool,
    /// Mounts besides the root and the usual ones (`/proc`, `/sys`, `/dev`, `/etc/hosts`, `/etc/resolv.conf`). Made in
    /// order of depth, those of equal depth in the order given.
    pub mounts: Vec<Mount>,
    /// argv. Without a slash the command is looked up in the `PATH` of `env`, or docker's default one.
    pub args: Vec<OsString>,
    /// `KEY=value`; the last of equal keys counts.
    pub env: Vec<OsString>,
    /// Working directory, absolute. One that is missing is made, as the step's user's.
    pub cwd: PathBuf,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// What the process may reach.
    pub network: Network,
    /// How closely it is confined.
    pub security: Security,
    /// Host name; empty for `buildkitsandbox`, BuildKit's.
    pub hostname: String,
    /// Lines of `/etc/hosts`: name and address, or [`HOST_GATEWAY`].
    pub hosts: Vec<(String, String)>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// What its processes may use together.
    pub limits: Limits,
    /// Standard input.
    pub stdin: Stdin,
    /// Process 1 is one that hands on signals and collects what ends, and the step's own its child: signals that a program
    /// does not handle end it then, which they do not if it is process 1.
    pub init: bool,
}

/// Standard input of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// These bytes.
    Data(Vec<u8>),
    /// That of this process, which must not be a terminal: who has one can type in it.
    Own,
    /// A terminal that the step's process leads, which is standard output and error as well; with an [`init`](Step::init)
    /// only. What is typed at the one that is standard input of this process comes out there.
    Terminal(Size),
}

/// Stands for the address by which a step reaches this machine: as docker has it.
pub const HOST_GATEWAY: &str = "host-gateway";

/// The file system at `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// Layers, stacked by overlayfs.
    Overlay {
        /// Lower directories, bottom first. At most 498.
        lowers: Vec<PathBuf>,
        /// Where writes go; `None` makes the root read-only. Its own mode and owner are those of `/`.
        upper: Option<PathBuf>,
        /// An empty directory on the file system of `upper`, used by this step alone. Ignored without `upper`.
        work: PathBuf,
    },
    /// A directory as it is, which the step writes to. Mount points that it lacks are made in it, and gone when the step
    /// has ended.
    Directory {
        /// Which.
        path: PathBuf,
    },
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, an absolute path. Symbolic links are followed inside the root; what is missing is made so that it does
    /// not show in the root's `upper`.
    pub dest: PathBuf,
    /// What.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Which. Its last component is not followed if it is a symbolic link.
        path: PathBuf,
        /// What of it: a path resolved inside `path` as by chroot(2); empty for all. Use this and never a joined path
        /// for names that come out of an image or a cache.
        subpath: PathBuf,
        /// Refuse writes.
        readonly: bool,
    },
    /// Layers.
    Overlay {
        /// Lower directories, bottom first.
        lowers: Vec<PathBuf>,
        /// Where writes go; `None` refuses them.
        upper: Option<PathBuf>,
        /// As in [`Root::Overlay`].
        work: PathBuf,
        /// As in `Bind`.
        subpath: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 for the kernel's default of half the memory.
        size: u64,
        /// Refuse writes.
        readonly: bool,
    },
    /// One read-only file in memory.
    File {
        /// Its content.
        data: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What network a step asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The build's uplink, in a network namespace of the step's own; where there is none, the builder's own network
    /// without its abstract sockets.
    Default,
    /// The builder's own network, abstract sockets included.
    Host,
    /// Loopback only.
    None,
}

/// What network a step gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// A namespace of its own, with a link to the uplink.
    Uplink,
    /// The builder's, for want of an uplink. Abstract sockets are closed to it where the kernel can do that.
    Shared,
    /// The builder's, as was asked for.
    Host,
    /// A namespace of its own, with loopback only.
    None,
}

impl Reach {
    /// Whether the step has a network namespace of its own.
    pub(super) fn is_own(self) -> bool {
        matches!(self, Self::Uplink | Self::None)
    }
}

/// How closely a step is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Docker's capabilities, seccomp filter, masked and read-only paths.
    Sandbox,
    /// All capabilities of the user namespace, no filter, nothing masked.
    Insecure,
}

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case: `nofile`.
    pub name: String,
    /// Soft limit; -1 for none.
    pub soft: i64,
    /// Hard limit; -1 for none.
    pub hard: i64,
}

// ---- on the wire: `stdin` travels as a descriptor of its own, and of a terminal the size; `limits` as a cgroup ----

impl Wire for Step {
    fn put(&self, to: &mut Vec<u8>) {
        self.root.put(to);
        self.readonly.put(to);
        self.mounts.put(to);
        self.args.put(to);
        self.env.put(to);
        self.cwd.put(to);
        self.uid.put(to);
        self.gid.put(to);
        self.groups.put(to);
        self.network.put(to);
        self.security.put(to);
        self.hostname.put(to);
        self.hosts.put(to);
        self.ulimits.put(to);
        self.init.put(to);
        let size = match &self.stdin {
            Stdin::Terminal(size) => Some((u32::from(size.rows), u32::from(size.columns))),
            _ => None,
        };
        size.put(to);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            root: Wire::take(from)?,
            readonly: Wire::take(from)?,
            mounts: Wire::take(from)?,
            args: Wire::take(from)?,
            env: Wire::take(from)?,
            cwd: Wire::take(from)?,
            uid: Wire::take(from)?,
            gid: Wire::take(from)?,
            groups: Wire::take(from)?,
            network: Wire::take(from)?,
            security: Wire::take(from)?,
            hostname: Wire::take(from)?,
            hosts: Wire::take(from)?,
            ulimits: Wire::take(from)?,
            init: Wire::take(from)?,
            stdin: match <Option<(u32, u32)> as Wire>::take(from)? {
                Some((rows, columns)) => Stdin::Terminal(Size {
                    rows: rows.try_into().ok()?,
                    columns: columns.try_into().ok()?,
                }),
                None => Stdin::Null,
            },
            limits: Limits::default(),
        })
    }
}

wire_enum!(Root {
    0 => Overlay { lowers, upper, work },
    1 => Directory { path },
});
wire_struct!(Mount { dest, source });
wire_struct!(Ulimit { name, soft, hard });
wire_enum!(Network { 0 => Default, 1 => Host, 2 => None });
wire_enum!(Reach { 0 => Uplink, 1 => Shared, 2 => Host, 3 => None });
wire_enum!(Security { 0 => Sandbox, 1 => Insecure });

impl Wire for MountSource {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Bind {
                path,
                subpath,
                readonly,
            } => {
                to.push(0);
                path.put(to);
                subpath.put(to);
                readonly.put(to);
            }
            Self::Overlay {
                lowers,
                upper,
                work,
                subpath,
            } => {
                to.push(1);
                lowers.put(to);
                upper.put(to);
                work.put(to);
                subpath.put(to);
            }
            Self::Tmpfs { size, readonly } => {
                to.push(2);
                size.put(to);
                readonly.put(to);
            }
            Self::File {
                data,
                mode,
                uid,
                gid,
            } => {
                to.push(3);
                Blob(data.clone()).put(to);
                mode.put(to);
                uid.put(to);
                gid.put(to);
            }
        }
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match u8::take(from)? {
            0 => Self::Bind {
                path: Wire::take(from)?,
                subpath: Wire::take(from)?,
                readonly: Wire::take(from)?,
            },
            1 => Self::Overlay {
                lowers: Wire::take(from)?,
                upper: Wire::take(from)?,
                work: Wire::take(from)?,
                subpath: Wire::take(from)?,
            },
            2 => Self::Tmpfs {
                size: Wire::take(from)?,
                readonly: Wire::take(from)?,
            },
            3 => Self::File {
                data: Blob::take(from)?.0,
                mode: Wire::take(from)?,
                uid: Wire::take(from)?,
                gid: Wire::take(from)?,
            },
            _ => return None,
        })
    }
}
