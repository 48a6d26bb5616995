//! A layer's directory form: a lower directory for overlayfs, and the way back from an upper one.
//!
//! On disk a whiteout is a character device 0:0, an opaque directory has the xattr `user.overlay.opaque=y` (the mount
//! option `userxattr`), and an image's own `user.overlay.*` xattrs are escaped as `user.overlay.overlay.*` (kernel,
//! filesystems/overlayfs.rst). Device nodes are left out, because nobody may make them in a user namespace, and of the
//! xattrs only `user.*` and `security.capability` are there: the tree alone has everything.
//!
//! A *plain* form has no whiteouts, no marks and no escapes, since some file systems refuse them (overlayfs itself, that a
//! container has its root on; NFS): it gives bytes, and the tree says what the layer takes away. [`PlainDir`] is such
//! layers applied to one directory, for processes whose root cannot be stacked.
//!
//! Nothing here follows a symbolic link: every directory is opened from its parent, name by name.

mod beneath;
mod owner;
mod packs;
mod plain;
mod scan;
mod unpack;

pub use owner::Device;
pub use owner::OWNER;
pub use owner::Owner;
pub use packs::Pack;
pub use packs::PackError;
pub use packs::PackedFiles;
pub use plain::PlainDir;
pub use scan::ScanKind;
pub use scan::scan_dir;
pub(crate) use unpack::FileWriter;
pub use unpack::Unpack;
pub use unpack::write_dir;
pub use unpack::write_plain;

/// What owners mean on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Everything gets its owner: inside a user namespace with a full map, or as root.
    Keep,
    /// There is one id, 0: what belongs to anybody else is an error.
    Single,
    /// Everything is made as the process' own, whoever it belongs to: owners live in the tree. Capabilities are left
    /// out where they cannot be set.
    Logical,
    /// As `Logical`, and owners are recorded beside the files ([`Owner`]), for the processes that will see them.
    Recorded,
}

impl Ownership {
    /// Whether all files are the process' own.
    pub fn is_logical(self) -> bool {
        matches!(self, Self::Logical | Self::Recorded)
    }
}

/// How a directory says what its layer takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// As overlayfs reads it.
    Overlay,
    /// Not at all.
    Plain,
}

/// The extended attributes that are overlayfs' own.
pub(crate) const OVERLAY: &[u8] = b"user.overlay.";
const OVERLAY_OPAQUE: &[u8] = b"user.overlay.opaque";
const CAPABILITY: &[u8] = b"security.capability";

#[cfg(test)]
mod tests;
