//! The bytes of a directory object and the two digests computed over them.
//!
//! Written with [`rbuild_llb::encode`]'s rules: a tag, the number of entries as `u64`, then for each entry its name,
//! mode, uid, gid, mtime (seconds `i64`, nanoseconds `u32`), xattrs and node; a node is its ordinal and its fields:
//!
//! | ordinal | node | fields | in the content digest |
//! |---|---|---|---|
//! | 0 | file | size `u64`, BLAKE3, hard-link group `Option<u32>` | size, BLAKE3 |
//! | 1 | directory | tree id, content digest, opaque, implied | content digest, opaque, implied |
//! | 2 | symlink | target | target |
//! | 3, 4 | character, block device | major `u32`, minor `u32` | both |
//! | 5 | fifo | | |
//! | 6 | whiteout | | |
//!
//! The content digest is over the same list under another tag, without mtimes, and with the metadata of implied
//! directories left out: what is not in a layer's tar does not tell two layers apart.

use std::collections::BTreeMap;

use rbuild_llb::ContentDigest;
use rbuild_llb::FileDigest;
use rbuild_llb::TreeId;
use rbuild_llb::encode::Encoder;

use super::DirNode;
use super::Directory;
use super::Entry;
use super::FileNode;
use super::Meta;
use super::Node;
use super::Timestamp;

const TREE_TAG: &[u8; 12] = b"rbuild-tree\x01";
const CONTENT_TAG: &[u8; 12] = b"rbuild-cont\x01";

/// Whether an entry's fields are written in full or only what counts as content.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Tree,
    Content,
}

/// The canonical bytes of a directory and their id.
pub(super) fn encode(dir: &Directory) -> (Vec<u8>, TreeId) {
    let mut to = Encoder::new();
    to.raw(TREE_TAG).put(&(dir.entries.len() as u64));
    for entry in &dir.entries {
        to.put(entry.name.as_slice());
        put_entry(&mut to, entry, Scope::Tree);
    }
    let id = TreeId::from_bytes(to.blake3());
    (to.into_bytes(), id)
}

/// The digest of a directory's content.
pub(super) fn content(dir: &Directory) -> ContentDigest {
    let mut to = Encoder::new();
    to.raw(CONTENT_TAG).put(&(dir.entries.len() as u64));
    for entry in &dir.entries {
        to.put(entry.name.as_slice());
        put_entry(&mut to, entry, Scope::Content);
    }
    ContentDigest::from_bytes(to.blake3())
}

/// The digest of what an entry is, whatever it is called.
pub(super) fn entry_content(entry: &Entry) -> ContentDigest {
    let mut to = Encoder::new();
    to.raw(CONTENT_TAG);
    put_entry(&mut to, entry, Scope::Content);
    ContentDigest::from_bytes(to.blake3())
}

fn put_entry(to: &mut Encoder, entry: &Entry, scope: Scope) {
    let Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    } = &entry.meta;
    let implied = matches!(&entry.node, Node::Dir(dir) if dir.implied);
    if scope == Scope::Tree || !implied {
        to.put(mode).put(uid).put(gid);
        if scope == Scope::Tree {
            to.put(&mtime.secs).put(&mtime.nanos);
        }
        to.put(&(xattrs.len() as u64));
        for (name, value) in xattrs {
            to.put(name.as_slice()).put(value.as_slice());
        }
    }
    match &entry.node {
        Node::File(FileNode { size, digest, link }) => {
            to.ordinal(0).put(size).put(digest);
            if scope == Scope::Tree {
                to.put(link);
            }
        }
        Node::Dir(DirNode {
            tree,
            content,
            opaque,
            implied,
        }) => {
            to.ordinal(1);
            if scope == Scope::Tree {
                to.put(tree);
            }
            to.put(content).put(opaque).put(implied);
        }
        Node::Symlink { target } => {
            to.ordinal(2).put(target.as_slice());
        }
        Node::Char { major, minor } => {
            to.ordinal(3).put(major).put(minor);
        }
        Node::Block { major, minor } => {
            to.ordinal(4).put(major).put(minor);
        }
        Node::Fifo => {
            to.ordinal(5);
        }
        Node::Whiteout => {
            to.ordinal(6);
        }
    }
}

/// Reads an object's bytes back; `None` if they are not what [`encode`] writes.
pub(super) fn decode(bytes: &[u8]) -> Option<Directory> {
    let mut from = Decoder {
        rest: bytes.strip_prefix(TREE_TAG)?,
    };
    let count = usize::try_from(from.u64()?).ok()?;
    // An entry is at least 48 bytes, so a forged count cannot reserve more than the object's own size.
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(bytes.len() / 48));
    for _ in 0..count {
        let entry = from.entry()?;
        let ordered = entries.last().is_none_or(|last| last.name < entry.name);
        if !ordered || !(is_name(&entry.name) || entry.name.is_empty() && count == 1) {
            return None;
        }
        entries.push(entry);
    }
    from.rest.is_empty().then_some(Directory { entries })
}

/// Whether `name` can name something in a directory.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, b'/' | 0))
}

struct Decoder<'a> {
    rest: &'a [u8],
}

impl Decoder<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.array::<1>()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.u64()?).ok()?;
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head.to_vec())
    }

    fn entry(&mut self) -> Option<Entry> {
        let name = self.bytes()?;
        let meta = Meta {
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            mtime: Timestamp {
                secs: self.array().map(i64::from_le_bytes)?,
                nanos: self.u32()?,
            },
            xattrs: self.xattrs()?,
        };
        let node = match self.u32()? {
            0 => Node::File(FileNode {
                size: self.u64()?,
                digest: FileDigest::from_bytes(self.array()?),
                link: match self.bool()? {
                    true => Some(self.u32()?),
                    false => None,
                },
            }),
            1 => Node::Dir(DirNode {
                tree: TreeId::from_bytes(self.array()?),
                content: ContentDigest::from_bytes(self.array()?),
                opaque: self.bool()?,
                implied: self.bool()?,
            }),
            2 => Node::Symlink {
                target: self.bytes()?,
            },
            3 => Node::Char {
                major: self.u32()?,
                minor: self.u32()?,
            },
            4 => Node::Block {
                major: self.u32()?,
                minor: self.u32()?,
            },
            5 => Node::Fifo,
            6 => Node::Whiteout,
            _ => return None,
        };
        Some(Entry { name, meta, node })
    }

    fn xattrs(&mut self) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
        let count = self.u64()?;
        let mut xattrs = BTreeMap::new();
        for _ in 0..count {
            xattrs.insert(self.bytes()?, self.bytes()?);
        }
        Some(xattrs)
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn entry(name: &str, node: Node) -> Entry {
        Entry {
            name: name.into(),
            meta: Meta {
                mode: 0o4755,
                uid: 1,
                gid: 2,
                mtime: Timestamp {
                    secs: -3,
                    nanos: 999_999_999,
                },
                xattrs: BTreeMap::from([(b"user.a".to_vec(), vec![0, 10, 255])]),
            },
            node,
        }
    }

    fn sample() -> Directory {
        let file = |link| {
            Node::File(FileNode {
                size: 5,
                digest: FileDigest::from_bytes([7; 32]),
                link,
            })
        };
        Directory {
            entries: vec![
                entry("a", file(None)),
                entry("b", file(Some(9))),
                entry(
                    "c",
                    Node::Dir(DirNode {
                        tree: TreeId::from_bytes([1; 32]),
                        content: ContentDigest::from_bytes([2; 32]),
                        opaque: true,
                        implied: false,
                    }),
                ),
                entry(
                    "d",
                    Node::Symlink {
                        target: b"../x".to_vec(),
                    },
                ),
                entry("e", Node::Char { major: 1, minor: 3 }),
                entry("f", Node::Block { major: 8, minor: 0 }),
                entry("g", Node::Fifo),
                entry("h", Node::Whiteout),
            ],
        }
    }

    /// A change here makes every stored tree unreadable: change the tag with it.
    #[test]
    fn the_encoding_is_the_documented_one() {
        let dir = Directory {
            entries: vec![entry(
                "ab",
                Node::Symlink {
                    target: b"t".to_vec(),
                },
            )],
        };
        let expected = [
            b"rbuild-tree\x01".as_slice(),
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            b"ab",
            &[0xed, 0x09, 0, 0],
            &[1, 0, 0, 0],
            &[2, 0, 0, 0],
            &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xff, 0xc9, 0x9a, 0x3b],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0, 0, 0, 0],
            b"user.a",
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[0, 10, 255],
            &[2, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            b"t",
        ]
        .concat();
        let (bytes, id) = encode(&dir);
        assert_eq!(bytes, expected);
        assert_eq!(id.as_bytes(), blake3::hash(&expected).as_bytes());
    }

    #[test]
    fn the_ids_of_all_kinds_of_node_do_not_move() {
        let dir = sample();
        let ids = [encode(&dir).1.hex(), content(&dir).hex()];
        assert_eq!(
            ids,
            [
                "4746f76b72b6bf79b1e375d92b7bba53e8eb216d2cf6d5819785c4e0b9fd68a8",
                "68fd7143c8c684fa737238ef627cf2c44342f98ee0af65db45efb449a20e5d45"
            ]
        );
    }

    #[test]
    fn every_node_round_trips_and_every_truncation_is_refused() {
        let dir = sample();
        let (bytes, _) = encode(&dir);
        assert_eq!(decode(&bytes).as_ref(), Some(&dir));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(decode(&[bytes, vec![0]].concat()), None);
    }

    #[test]
    fn unordered_and_impossible_names_are_refused() {
        for names in [
            &["b", "a"][..],
            &["a", "a"],
            &["."],
            &[".."],
            &["a/b"],
            &["a\0"],
            &["", "a"],
        ] {
            let entries = names.iter().map(|n| entry(n, Node::Fifo)).collect();
            assert_eq!(decode(&encode(&Directory { entries }).0), None, "{names:?}");
        }
    }

    #[test]
    fn content_leaves_out_times_link_groups_and_implied_metadata() {
        let base = sample();
        let changed = |change: fn(&mut Vec<Entry>)| {
            let mut dir = base.clone();
            change(&mut dir.entries);
            assert_ne!(encode(&dir).1, encode(&base).1);
            content(&dir) == content(&base)
        };
        assert!(changed(|e| e[0].meta.mtime.secs = 1));
        assert!(changed(|e| match &mut e[1].node {
            Node::File(file) => file.link = None,
            _ => unreachable!(),
        }));
        assert!(changed(|e| match &mut e[2].node {
            Node::Dir(dir) => dir.tree = TreeId::from_bytes([3; 32]),
            _ => unreachable!(),
        }));
        assert!(!changed(|e| e[0].meta.mode = 0o755));
        assert!(!changed(|e| e[0].meta.uid = 0));
        assert!(!changed(|e| e[0].meta.xattrs.clear()));
        assert!(!changed(|e| e[7].node = Node::Fifo));
        let mut implied = base.clone();
        let Node::Dir(dir) = &mut implied.entries[2].node else {
            unreachable!()
        };
        dir.implied = true;
        let mut other = implied.clone();
        other.entries[2].meta = Meta::default();
        assert_eq!(content(&implied), content(&other));
    }
}
