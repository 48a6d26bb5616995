//! The owner of a file where there is only one id.
//!
//! It is an extended attribute of the file itself: a rename, a hard link and overlayfs' copy-up take it along, and another
//! file that comes to the same name or the same inode does not have it. What has none belongs to 0:0.
//!
//! | on | attribute | value |
//! |---|---|---|
//! | files, directories | `user.rbuild.owner` | `UID:GID` |
//! | empty files that stand for devices | `user.rbuild.owner` | `UID:GID:b:MAJOR:MINOR`, or `c` |
//! | symbolic links, fifos, sockets | `security.capability` | a `struct vfs_cap_data` of revision 2 whose first three words are the ids and [`MARK`] |
//!
//! Attributes of the user's are for files and directories only (xattr(7)). `security.capability` may be on everything, if
//! whoever sets it has CAP_SETFCAP over the inode, which takes no more than one id; and nobody executes a link or a fifo.

use rustix::fs::XattrFlags;

/// The attribute of files and directories.
pub const OWNER: &[u8] = b"user.rbuild.owner";

/// Tells an owner from capabilities: `rbld`.
const MARK: u32 = u32::from_le_bytes(*b"rbld");

/// `VFS_CAP_REVISION_2` and `_3` (linux/capability.h), in the topmost byte of the first word.
const REVISIONS: [u8; 2] = [2, 3];

/// A device's kind and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What is recorded of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// What an empty file stands for.
    pub device: Option<Device>,
}

impl Owner {
    /// An owner of what is no device.
    pub fn of(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            device: None,
        }
    }

    /// Records it of a file or a directory that has none yet.
    ///
    /// # Errors
    /// If the file system keeps no attributes, or refuses this one.
    pub fn record(&self, path: impl rustix::path::Arg) -> rustix::io::Result<()> {
        match self.is_usual() {
            true => Ok(()),
            false => {
                let text = self.to_text();
                rustix::fs::setxattr(path, OWNER, text.as_bytes(), XattrFlags::empty())
            }
        }
    }

    /// Whether it is what a file without an attribute has.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The value of [`OWNER`].
    pub fn to_text(self) -> String {
        let Self { uid, gid, device } = self;
        match device {
            None => format!("{uid}:{gid}"),
            Some(Device {
                block,
                major,
                minor,
            }) => {
                let kind = if block { 'b' } else { 'c' };
                format!("{uid}:{gid}:{kind}:{major}:{minor}")
            }
        }
    }

    /// What a value of [`OWNER`] says; `None` if it was not written by [`to_text`](Self::to_text).
    pub fn from_text(value: &[u8]) -> Option<Self> {
        let mut fields = str::from_utf8(value).ok()?.split(':');
        let number = |field: Option<&str>| -> Option<u32> {
            field
                .filter(|field| field.starts_with(|c: char| c.is_ascii_digit()))?
                .parse()
                .ok()
        };
        let (uid, gid) = (number(fields.next())?, number(fields.next())?);
        let device = match fields.next() {
            None => None,
            Some(kind @ ("b" | "c")) => Some(Device {
                block: kind == "b",
                major: number(fields.next())?,
                minor: number(fields.next())?,
            }),
            Some(_) => return None,
        };
        fields.next().is_none().then_some(Self { uid, gid, device })
    }

    /// The value of `security.capability`; a device cannot be told in it.
    pub fn to_capability(self) -> [u8; 20] {
        let mut value = [0; 20];
        value[3] = REVISIONS[0];
        for (at, word) in [self.uid, self.gid, MARK].into_iter().enumerate() {
            value[4 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
        }
        value
    }

    /// What a value of `security.capability` says, as it is seen inside the namespace that set it or outside, where it has
    /// the id of that namespace's root at the end.
    pub fn from_capability(value: &[u8]) -> Option<Self> {
        let revision = *value.get(3)?;
        if !REVISIONS.contains(&revision) || !matches!(value.len(), 20 | 24) {
            return None;
        }
        let word = |at: usize| -> Option<u32> {
            let bytes = value.get(4 + 4 * at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        (word(2)? == MARK).then_some(Self::of(word(0)?, word(1)?))
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let device = |block| {
            Some(Device {
                block,
                major: 8,
                minor: 1,
            })
        };
        for (owner, text) in [
            (Owner::of(0, 42), "0:42"),
            (Owner::of(u32::MAX, 1000), "4294967295:1000"),
            (
                Owner {
                    device: device(true),
                    ..Owner::of(1, 2)
                },
                "1:2:b:8:1",
            ),
            (
                Owner {
                    device: device(false),
                    ..Owner::default()
                },
                "0:0:c:8:1",
            ),
        ] {
            assert_eq!(owner.to_text(), text);
            assert_eq!(Owner::from_text(text.as_bytes()), Some(owner));
        }
        let owner = Owner::of(1000, 7);
        let value = owner.to_capability();
        assert_eq!(Owner::from_capability(&value), Some(owner));
        // As the kernel shows it outside: revision 3, with the root's id.
        let mut outside = value.to_vec();
        outside[3] = 3;
        outside.extend(1001_u32.to_le_bytes());
        assert_eq!(Owner::from_capability(&outside), Some(owner));
    }

    #[test]
    fn what_a_step_makes_up_is_no_owner() {
        for value in [
            "",
            "1",
            "1:",
            ":1",
            "1:2:",
            "1:2:x:3:4",
            "1:2:c:3",
            "1:2:c:3:4:5",
            "+1:2",
            "-1:2",
            "1:4294967296",
            " 1:2",
            "1:2\n",
        ] {
            assert_eq!(Owner::from_text(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Owner::from_text(b"\xff:1"), None);
        let value = Owner::of(1, 2).to_capability();
        for len in (0..20).chain(21..24) {
            let mut cut = value.to_vec();
            cut.resize(len, 0);
            assert_eq!(Owner::from_capability(&cut), None, "{len}");
        }
        // cap_net_raw+ep, as setcap writes it.
        let ping = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(Owner::from_capability(&ping), None);
    }
}
