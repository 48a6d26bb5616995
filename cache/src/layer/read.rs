//! A blob to a tree, and, in the same pass, to a directory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::io::Read;
use std::ops::ControlFlow;

use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;

use super::LayerError;
use super::room::Disk;
use super::room::Roomy;
use super::show;
use super::stream::CHUNK;
use super::stream::Limits;
use super::stream::Sums;
use super::stream::decompressed;
use super::stream::with_summed_tar;
use super::stream::with_tar;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::dir::FileWriter;
use crate::dir::Unpack;
use crate::tar;
use crate::tar::read::Entry;
use crate::tar::read::Kind;
use crate::tar::read::Reader;
use crate::tar::read::TarError;
use crate::tree::FileNode;
use crate::tree::MAX_DEPTH;
use crate::tree::Node;
use crate::tree::TreeRef;
use crate::tree::Trees;

/// A layer that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLayer {
    /// Its tree.
    pub layer: TreeRef,
    /// SHA-256 of its tar: to be compared with the image config's.
    pub diff_id: OciDigest,
    /// Bytes of its tar.
    pub tar_size: u64,
}

/// The longest path the kernel takes, without the NUL (`PATH_MAX`).
const MAX_PATH: usize = 4095;
/// The longest name (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// Reads a layer's blob, compressed or not, to its end. With `unpack` files are written as they pass; the directory is
/// then finished by [`Unpack::finish`].
///
/// Reading the blob, decompressing it and SHA-256 of what comes out have a thread each; this one reads the archive,
/// hashes the files and writes them. Nothing in the blob is trusted but what it says itself: the caller compares the
/// blob's digest, as it reads it, and the diff_id. What follows the archive in the blob may be left unread.
///
/// A layer has at most 5,000,000 entries. Out of a compressed blob come at most 16 GiB, and 1,100 bytes for each of its own:
/// gzip makes 1,032 at most, other compressions any amount of nothing.
pub fn read_layer(
    trees: &Trees,
    blob: impl Read + Send,
    unpack: Option<&mut Unpack>,
) -> Result<ReadLayer, LayerError> {
    read_within(&Limits::DEFAULT, trees, blob, unpack)
}

pub(super) fn read_within(
    limits: &Limits,
    trees: &Trees,
    blob: impl Read + Send,
    unpack: Option<&mut Unpack>,
) -> Result<ReadLayer, LayerError> {
    let disk = unpack.as_deref().map(Unpack::directory).transpose()?;
    let free = disk.map(Disk).map(|disk| move || disk.free());
    let (builder, Sums { diff_id, tar_size }) = with_summed_tar(limits, blob, |tar| {
        let mut reader = Reader::new(Roomy::new(tar, free));
        let builder = Layer::new(unpack).read(&mut reader, limits.entries)?;
        reader.drain()?;
        Ok(builder)
    })?;
    Ok(ReadLayer {
        layer: builder.finish(trees),
        diff_id,
        tar_size,
    })
}

/// Takes a file under its names. See [`extract_files`].
pub type TakeFile<'a> = dyn FnMut(&[&[u8]], &mut dyn Read) -> io::Result<()> + 'a;

/// Reads single files' bytes out of a layer's blob.
///
/// `into` is called once for each file that has a name in `wanted`, in the blob's order: with all of these names (several
/// if they are hard links) and with a reader that fails at its end if the bytes are not the ones `layer` knows; then
/// it is called again if they come later in the blob. A wanted name that is no file of the layer is an error.
pub fn extract_files(
    trees: &Trees,
    layer: &TreeId,
    blob: impl Read + Send,
    wanted: &BTreeSet<Vec<u8>>,
    into: &mut TakeFile<'_>,
) -> Result<(), LayerError> {
    let mut files = Wanted::find(trees, layer, wanted)?;
    with_tar(blob, |tar| {
        let mut reader = Reader::new(tar);
        while !files.by_path.is_empty()
            && let Some(entry) = reader.next()?
        {
            if entry.kind != Kind::File {
                continue;
            }
            let path = normal(&entry.path)?.join(&b'/');
            let Some(file) = files.take(&path) else {
                continue;
            };
            let names: Vec<&[u8]> = file.names.iter().map(Vec::as_slice).collect();
            let mut body = Checked {
                reader: &mut reader,
                node: &file.node,
                hasher: blake3::Hasher::new(),
                wrong: false,
            };
            let taken = into(&names, &mut body);
            if body.wrong {
                // Of equal names in a tar the last one counts, and this one is not it.
                files.put_back(&file);
                continue;
            }
            taken.map_err(|source| match source.downcast::<TarError>() {
                Ok(source) => LayerError::Archive { source },
                Err(source) => LayerError::ReadFile {
                    path: show(&path),
                    source,
                },
            })?;
        }
        Ok(())
    })?;
    match files.by_path.keys().next() {
        None => Ok(()),
        Some(path) => Err(LayerError::FileChanged { path: show(path) }),
    }
}

/// Files to be extracted.
pub(super) struct Wanted {
    /// Every name under which a file may have its bytes in the tar: any member of its hard-link group.
    by_path: BTreeMap<Vec<u8>, usize>,
    files: Vec<WantedFile>,
}

#[derive(Clone)]
pub(super) struct WantedFile {
    node: FileNode,
    pub(super) names: Vec<Vec<u8>>,
    /// What it may be called in the tar.
    members: Vec<Vec<u8>>,
}

impl Wanted {
    pub(super) fn find(
        trees: &Trees,
        layer: &TreeId,
        wanted: &BTreeSet<Vec<u8>>,
    ) -> Result<Self, LayerError> {
        let mut groups: BTreeMap<(u32, u64, FileDigest), Vec<Vec<u8>>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        trees.walk(layer, &mut |path, entry| {
            if let Node::File(file) = &entry.node {
                if let Some(link) = file.link {
                    let members = groups.entry((link, file.size, file.digest)).or_default();
                    members.push(path.to_vec());
                }
                if wanted.contains(path) {
                    found.insert(path.to_vec(), file.clone());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(missing) = wanted.iter().find(|path| !found.contains_key(*path)) {
            return Err(LayerError::Entry {
                path: show(missing),
                problem: "does not exist or is not a file",
            });
        }
        let mut by_path = BTreeMap::new();
        let mut files: Vec<WantedFile> = Vec::new();
        for (path, node) in found {
            if let Some(&file) = by_path.get(&path) {
                let file: &mut WantedFile = &mut files[file];
                file.names.push(path);
                continue;
            }
            let group = node
                .link
                .and_then(|link| groups.remove(&(link, node.size, node.digest)));
            let members = group.unwrap_or_else(|| vec![path.clone()]);
            for member in &members {
                by_path.insert(member.clone(), files.len());
            }
            files.push(WantedFile {
                node,
                names: vec![path],
                members,
            });
        }
        Ok(Self { by_path, files })
    }

    pub(super) fn take(&mut self, path: &[u8]) -> Option<WantedFile> {
        let file = self.files[*self.by_path.get(path)?].clone();
        for member in &file.members {
            self.by_path.remove(member);
        }
        Some(file)
    }

    /// Wants a file again that was taken and is not the right one.
    fn put_back(&mut self, file: &WantedFile) {
        let at = self.files.len();
        self.files.push(file.clone());
        let members = file.members.iter().cloned();
        self.by_path.extend(members.map(|member| (member, at)));
    }
}

/// A file's bytes; at their end it is an error if they are not the right ones.
struct Checked<'a, R> {
    reader: &'a mut Reader<R>,
    node: &'a FileNode,
    hasher: blake3::Hasher,
    wrong: bool,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read_body(buffer).map_err(io::Error::other)?;
        self.hasher.update(&buffer[..len]);
        if len == 0 && !buffer.is_empty() {
            let digest = FileDigest::from_bytes(*self.hasher.finalize().as_bytes());
            if (self.hasher.count(), digest) != (self.node.size, self.node.digest) {
                self.wrong = true;
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(len)
    }
}

/// Builds the tree of an archive.
struct Layer<'a> {
    builder: TreeBuilder,
    unpack: Option<&'a mut Unpack>,
    buffer: Vec<u8>,
}

impl<'a> Layer<'a> {
    fn new(unpack: Option<&'a mut Unpack>) -> Self {
        Self {
            builder: TreeBuilder::new(),
            unpack,
            buffer: vec![0; CHUNK],
        }
    }

    fn read<R: Read>(
        mut self,
        reader: &mut Reader<R>,
        limit: u64,
    ) -> Result<TreeBuilder, LayerError> {
        let mut entries = 0;
        while let Some(entry) = reader.next()? {
            entries += 1;
            if entries > limit {
                return Err(LayerError::Entries { limit });
            }
            let names = normal(&entry.path)?;
            if names.is_empty() {
                if entry.kind != Kind::Dir {
                    return Err(bad(&entry.path, "is `/` and not a directory"));
                }
                self.builder.set_root(entry.meta);
            } else if !self.marker(&entry.path, &names)? {
                let path = names.join(&b'/');
                self.entry(reader, entry, &path)?;
            }
        }
        Ok(self.builder)
    }

    /// Handles the names with a meaning of their own; whether this was one.
    fn marker(&mut self, full: &[u8], names: &[&[u8]]) -> Result<bool, LayerError> {
        let Some((last, parents)) = names.split_last() else {
            return Ok(false);
        };
        let parent = parents.join(&b'/');
        if parents.iter().any(|name| name.starts_with(tar::AUFS)) {
            return Ok(true);
        }
        if parents.iter().any(|name| name.starts_with(tar::WHITEOUT)) {
            return Err(bad(full, "is below a whiteout"));
        }
        if *last == tar::OPAQUE {
            self.builder.opaque(&parent);
            return Ok(true);
        }
        if last.starts_with(tar::AUFS) {
            return Ok(true);
        }
        match last.strip_prefix(tar::WHITEOUT) {
            None => Ok(false),
            Some(b"" | b"." | b"..") => Err(bad(full, "deletes nothing that has a name")),
            Some(name) => {
                let path = parents.iter().copied().chain([name]).collect::<Vec<_>>();
                self.builder.whiteout(&path.join(&b'/'));
                Ok(true)
            }
        }
    }

    fn entry<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        mut entry: Entry,
        path: &[u8],
    ) -> Result<(), LayerError> {
        let node = match entry.kind {
            Kind::Dir => NewNode::Dir,
            Kind::File => {
                self.clear(path)?;
                NewNode::File(self.file(reader, &entry, path)?)
            }
            Kind::Link => return self.link(&entry, path),
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_PATH {
                    return Err(bad(
                        &entry.path,
                        "is a symbolic link with an impossible target",
                    ));
                }
                // The only mode a link can have on Linux; other systems write others.
                entry.meta.mode = 0o777;
                NewNode::Symlink { target: entry.link }
            }
            Kind::Char { major, minor } => NewNode::Char { major, minor },
            Kind::Block { major, minor } => NewNode::Block { major, minor },
            Kind::Fifo => NewNode::Fifo,
        };
        if !matches!(node, NewNode::Dir | NewNode::File(_)) {
            self.clear(path)?;
        }
        self.builder.insert(path, entry.meta, node);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        path: &[u8],
    ) -> Result<FileNode, LayerError> {
        let mut out = match &mut self.unpack {
            Some(unpack) => Some(unpack.file(path)?),
            None => None,
        };
        let mut hasher = blake3::Hasher::new();
        loop {
            let mut hole = reader.skip_hole();
            if let Some(out) = &mut out {
                out.hole(hole);
            }
            self.buffer[..hole.min(CHUNK as u64) as usize].fill(0);
            while hole > 0 {
                let len = hole.min(CHUNK as u64);
                hasher.update(&self.buffer[..len as usize]);
                hole -= len;
            }
            let len = reader.read_body(&mut self.buffer)?;
            if len == 0 {
                break;
            }
            hasher.update(&self.buffer[..len]);
            if let Some(out) = &mut out {
                out.write(&self.buffer[..len])?;
            }
        }
        if let (Some(out), Some(unpack)) = (out, &self.unpack) {
            FileWriter::finish(out, &entry.meta, unpack)?;
        }
        Ok(FileNode {
            size: hasher.count(),
            digest: FileDigest::from_bytes(*hasher.finalize().as_bytes()),
            link: None,
        })
    }

    fn link(&mut self, entry: &Entry, path: &[u8]) -> Result<(), LayerError> {
        let to = normal(&entry.link)?.join(&b'/');
        let target = self.builder.get(&to).map(|(_, node)| node);
        let is_file = match target {
            Some(_) if to == path => return Err(bad(&entry.path, "is a hard link to itself")),
            None | Some(NewNode::Dir) => {
                return Err(bad(&entry.path, "is a hard link to nothing in its layer"));
            }
            Some(node) => matches!(node, NewNode::File(_)),
        };
        if to.starts_with(path) && to[path.len()] == b'/' {
            return Err(bad(
                &entry.path,
                "is a hard link to something in its own place",
            ));
        }
        self.clear(path)?;
        if let Some(unpack) = &mut self.unpack
            && is_file
        {
            unpack.link(path, &to)?;
        }
        let linked = self.builder.link(path, &to);
        debug_assert!(linked, "the target was looked at above");
        Ok(())
    }

    /// Removes from the directory what an earlier entry put at `path`.
    fn clear(&mut self, path: &[u8]) -> Result<(), LayerError> {
        match &mut self.unpack {
            Some(unpack) if self.builder.get(path).is_some() => unpack.remove(path),
            _ => Ok(()),
        }
    }
}

fn bad(path: &[u8], problem: &'static str) -> LayerError {
    LayerError::Entry {
        path: show(path),
        problem,
    }
}

/// The parts of an entry's name, below `/` whatever it starts with. Names that lead out, or that no file system can hold, are
/// refused.
pub(crate) fn normal(path: &[u8]) -> Result<Vec<&[u8]>, LayerError> {
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.pop().is_some() => {}
            b".." => return Err(bad(path, "leads out of the layer")),
            name if name.len() > MAX_NAME => return Err(bad(path, "has a name of over 255 bytes")),
            name => names.push(name),
        }
    }
    let len: usize = names.iter().map(|name| name.len() + 1).sum();
    if len > MAX_PATH || names.len() > MAX_DEPTH {
        return Err(bad(path, "is too long or too deep a path"));
    }
    Ok(names)
}

/// Whether there is a tar in a file, compressed or not: whether its first header makes sense. An empty one is none.
///
/// # Errors
/// If the file cannot be read: what is in it is not known then.
pub fn is_archive(file: impl Read) -> io::Result<bool> {
    match Reader::new(decompressed(&Limits::DEFAULT, file)).next() {
        Ok(first) => Ok(first.is_some()),
        // What cannot be decompressed has no number of the kernel's.
        Err(TarError::Read { source, .. }) if source.raw_os_error().is_some() => Err(source),
        Err(_) => Ok(false),
    }
}
