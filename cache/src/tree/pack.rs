//! All objects of a tree in one piece, to be kept elsewhere: a zstd frame, and in it, in the order of their ids, the length
//! of each object (`u64`, little endian) and its bytes as [`object`](super::object) has them.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io;
use std::io::Read;
use std::io::Write as _;

use rbuild_llb::ContentDigest;
use rbuild_llb::TreeId;

use super::Directory;
use super::MAX_DEPTH;
use super::Node;
use super::TreeError;
use super::TreeRef;
use super::Trees;
use super::object;

/// Half of what is in objects are hashes, which no level makes smaller.
const PACK_LEVEL: i32 = 3;
/// A pack may not hold more than this, decompressed: the objects of some five million files.
const MAX_PACK: u64 = 1 << 29;

impl Trees {
    /// The objects of a tree. The same tree gives the same bytes.
    ///
    /// # Errors
    /// If one is missing.
    pub fn pack(&self, root: &TreeId) -> Result<Vec<u8>, TreeError> {
        let mut ids = BTreeSet::new();
        self.objects(root, &mut ids)?;
        let failed = |source| TreeError::Io {
            path: self.path(root),
            source,
        };
        let mut to = zstd::stream::write::Encoder::new(Vec::new(), PACK_LEVEL).map_err(failed)?;
        for id in ids {
            let (bytes, _) = object::encode(&*self.get(&id)?);
            let length = (bytes.len() as u64).to_le_bytes();
            to.write_all(&length).map_err(failed)?;
            to.write_all(&bytes).map_err(failed)?;
        }
        to.finish().map_err(failed)
    }

    /// Takes the objects of a tree in and writes them to disk. Nothing in a pack is trusted: an object is what its bytes say,
    /// all that `root` reaches must be there, and the content digest of each must be the one it is named with.
    ///
    /// # Errors
    /// If it is not the pack of that tree, or the store cannot be written.
    pub fn unpack(&self, root: &TreeRef, pack: &mut dyn Read) -> Result<(), TreeError> {
        let wrong = |problem| TreeError::Pack {
            id: root.tree,
            problem,
        };
        let objects = read(pack).map_err(wrong)?;
        let known = |tree: &TreeId, content: &ContentDigest| match objects.get(tree) {
            Some((dir, found)) if found == content => Ok(dir),
            Some(_) => Err(wrong("has a directory with another content than it says")),
            None => Err(wrong("lacks a directory")),
        };
        let mut seen = BTreeSet::new();
        let mut stack = vec![(root.tree, root.content, 0)];
        while let Some((tree, content, depth)) = stack.pop() {
            let dir = known(&tree, &content)?;
            // Hashes make no circles: what is reached by two ways is as deep by either as it is looked at below.
            if depth > MAX_DEPTH {
                return Err(wrong("goes too deep"));
            }
            if !seen.insert((tree, depth)) {
                continue;
            }
            for entry in &dir.entries {
                if let Node::Dir(node) = &entry.node {
                    stack.push((node.tree, node.content, depth + 1));
                }
            }
        }
        let reached: BTreeSet<TreeId> = seen.into_iter().map(|(tree, _)| tree).collect();
        for (tree, (dir, _)) in objects {
            if reached.contains(&tree) {
                self.put(dir);
            }
        }
        self.root(&root.tree)?;
        self.persist(&root.tree)
    }
}

/// The objects of a pack with what their contents are, by their ids.
fn read(pack: &mut dyn Read) -> Result<HashMap<TreeId, (Directory, ContentDigest)>, &'static str> {
    const CUT_OFF: &str = "cannot be read";
    let mut from = zstd::stream::read::Decoder::new(pack)
        .map_err(|_| CUT_OFF)?
        .take(MAX_PACK);
    let mut objects = HashMap::new();
    loop {
        let mut length = [0; 8];
        match from.read(&mut length[..1]) {
            Ok(0) => break,
            Ok(_) => from.read_exact(&mut length[1..]).map_err(|_| CUT_OFF)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(CUT_OFF),
        }
        let length = u64::from_le_bytes(length);
        let mut bytes = Vec::new();
        let taken = from.by_ref().take(length).read_to_end(&mut bytes);
        if !taken.is_ok_and(|taken| taken as u64 == length) {
            return Err(CUT_OFF);
        }
        let dir = object::decode(&bytes).ok_or("has an object that is no directory")?;
        let id = TreeId::from_bytes(*blake3::hash(&bytes).as_bytes());
        let content = object::content(&dir);
        objects.insert(id, (dir, content));
    }
    match from.limit() {
        0 => Err("is too large"),
        _ => Ok(objects),
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::tree::DirNode;
    use crate::tree::Entry;
    use crate::tree::FileNode;
    use crate::tree::Meta;
    use rbuild_llb::FileDigest;

    fn entry(name: &str, node: Node) -> Entry {
        Entry {
            name: name.into(),
            meta: Meta::default(),
            node,
        }
    }

    fn file(name: &str, byte: u8) -> Entry {
        let node = FileNode {
            size: 1,
            digest: FileDigest::from_bytes([byte; 32]),
            link: None,
        };
        entry(name, Node::File(node))
    }

    /// `/a/f`, `/b/f` (equal directories) and `/c/d/f`.
    fn tree(trees: &Trees) -> TreeRef {
        let dir = |entries| Node::Dir(DirNode::of(trees.put(Directory { entries })));
        let equal = dir(vec![file("f", 1)]);
        let below = dir(vec![entry("d", dir(vec![file("f", 2)]))]);
        let root = Directory {
            entries: vec![
                entry("a", equal.clone()),
                entry("b", equal),
                entry("c", below),
            ],
        };
        trees.put_root(Meta::default(), DirNode::of(trees.put(root)))
    }

    fn open(dir: &tempfile::TempDir, name: &str) -> Trees {
        Trees::open(&dir.path().join(name))
    }

    #[test]
    fn a_pack_brings_a_tree_into_another_store() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (open(&dir, "here"), open(&dir, "there"));
        let root = tree(&here);
        let pack = here.pack(&root.tree).unwrap();
        assert_eq!(pack, here.pack(&root.tree).unwrap());
        there.unpack(&root, &mut pack.as_slice()).unwrap();
        // From disk alone.
        let again = open(&dir, "there");
        let mut objects = BTreeSet::new();
        again.objects(&root.tree, &mut objects).unwrap();
        assert_eq!(objects.len(), 5);
    }

    #[test]
    fn what_is_not_the_pack_of_the_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let here = open(&dir, "here");
        let root = tree(&here);
        let pack = here.pack(&root.tree).unwrap();
        let other = here.put_root(Meta::default(), DirNode::of(here.put(Directory::default())));
        let plain = zstd::decode_all(pack.as_slice()).unwrap();
        let packed = |plain: &[u8]| zstd::encode_all(plain, 3).unwrap();
        let first = 8 + u64::from_le_bytes(plain[..8].try_into().unwrap()) as usize;
        // A directory that says of another that its content is what it is not.
        let lying = {
            let mut inner = DirNode::of(here.put(Directory {
                entries: vec![file("f", 9)],
            }));
            inner.content = root.content;
            let middle = Directory {
                entries: vec![entry("a", Node::Dir(inner))],
            };
            here.put_root(Meta::default(), DirNode::of(here.put(middle)))
        };
        let cases = [
            (root, pack[..pack.len() / 2].to_vec(), "cannot be read"),
            (root, packed(&plain[..plain.len() - 1]), "cannot be read"),
            (root, packed(&plain[first..]), "lacks a directory"),
            (root, packed(b""), "lacks a directory"),
            (
                root,
                packed(&[4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
                "is no directory",
            ),
            (root, packed(&[255; 8]), "cannot be read"),
            (root, b"no zstd".to_vec(), "cannot be read"),
            (other, pack.clone(), "lacks a directory"),
            (
                TreeRef {
                    content: other.content,
                    ..root
                },
                pack.clone(),
                "another content",
            ),
            (lying, here.pack(&lying.tree).unwrap(), "another content"),
        ];
        for (index, (root, pack, problem)) in cases.into_iter().enumerate() {
            let there = open(&dir, &index.to_string());
            let error = there.unpack(&root, &mut pack.as_slice()).unwrap_err();
            assert!(error.to_string().contains(problem), "{index}: {error}");
            assert!(there.get(&root.tree).is_err(), "{index}");
        }
    }
}
