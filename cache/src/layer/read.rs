//! A blob to a tree, and, in the same pass, to a directory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::io::Cursor;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::thread;

use bzip2::read::MultiBzDecoder;
use lzma_rust2::XzReader;
use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use sha2::Digest as _;
use sha2::Sha256;

use super::LayerError;
use super::show;
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
/// Between decompression and the rest: this many chunks of this many bytes.
const AHEAD: usize = 8;
const CHUNK: usize = 256 << 10;

/// Reads a layer's blob, compressed or not, to its end. With `unpack` files are written as they pass; the directory is
/// then finished by [`Unpack::finish`].
///
/// Decompression and SHA-256 have a thread of their own. Nothing in the blob is trusted but what it says itself: the
/// caller compares the blob's digest, as it reads it, and the diff_id.
pub fn read_layer(
    trees: &Trees,
    blob: impl Read + Send,
    unpack: Option<&mut Unpack>,
) -> Result<ReadLayer, LayerError> {
    let (builder, (diff_id, tar_size)) = with_tar(blob, |tar| {
        let mut reader = Reader::new(tar);
        let builder = Layer::new(unpack).read(&mut reader)?;
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

    fn read<R: Read>(mut self, reader: &mut Reader<R>) -> Result<TreeBuilder, LayerError> {
        while let Some(entry) = reader.next()? {
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
            FileWriter::finish(out, &entry.meta, unpack.owners())?;
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

/// Runs `f` over a blob's uncompressed bytes, which come from a thread that also computes their SHA-256 and length.
pub(crate) fn with_tar<T>(
    blob: impl Read + Send,
    f: impl FnOnce(Ahead) -> Result<T, LayerError>,
) -> Result<(T, (OciDigest, u64)), LayerError> {
    let (full, filled) = sync_channel(AHEAD);
    let (empty, emptied) = sync_channel(AHEAD);
    thread::scope(|scope| {
        let worker = scope.spawn(move || decompress(blob, &full, &emptied));
        let result = f(Ahead {
            filled,
            empty,
            chunk: Vec::new(),
            at: 0,
        });
        let worker = worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What the blob is not comes before what the archive in it seemed to be.
        let sums = worker?;
        Ok((result?, sums))
    })
}

/// Sends a blob's uncompressed bytes until they end or nobody wants them. Reading errors are sent too; those returned
/// here are about the blob as a whole.
fn decompress(
    mut blob: impl Read,
    full: &SyncSender<io::Result<Vec<u8>>>,
    emptied: &Receiver<Vec<u8>>,
) -> Result<(OciDigest, u64), LayerError> {
    let mut magic = Vec::new();
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut input: Box<dyn Read + '_> = match blob.by_ref().take(6).read_to_end(&mut magic) {
        Err(error) => Box::new(Failing(Some(error))),
        Ok(_) => open(magic, blob),
    };
    loop {
        let mut chunk = emptied.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let read = fill(&mut *input, &mut chunk);
        let last = !matches!(read, Ok(CHUNK));
        let sent = read.map(|len| {
            chunk.truncate(len);
            hasher.update(&chunk);
            size += len as u64;
            chunk
        });
        if full.send(sent).is_err() || last {
            break;
        }
    }
    Ok((OciDigest::from_bytes(hasher.finalize().into()), size))
}

fn open<'a>(magic: Vec<u8>, blob: impl Read + 'a) -> Box<dyn Read + 'a> {
    let name = match magic[..] {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        // A skippable frame (RFC 8878, 3.1.2), as zstd:chunked and pzstd write them, also in front.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => "tar",
    };
    let whole = Cursor::new(magic).chain(blob);
    match name {
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        "zstd" => match zstd::stream::read::Decoder::new(whole) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => Box::new(Failing(Some(error))),
        },
        "xz" => Box::new(XzReader::new(whole, true)),
        "bzip2" => Box::new(MultiBzDecoder::new(whole)),
        _ => Box::new(whole),
    }
}

/// Whether there is a tar in a file, compressed or not: whether its first header can be read. An empty one is none.
pub fn is_archive(file: impl Read + Send) -> bool {
    let first = with_tar(file, |tar| Ok(Reader::new(tar).next()?.is_some()));
    first.is_ok_and(|(is_entry, _)| is_entry)
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Gives an error where a reader was to be.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// The receiving end of [`decompress`].
pub(crate) struct Ahead {
    filled: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.filled.recv() {
                Ok(chunk) => {
                    let used = std::mem::replace(&mut self.chunk, chunk?);
                    self.at = 0;
                    // Only saves an allocation: a full or closed channel is as good.
                    drop(self.empty.try_send(used));
                }
                Err(_) => return Ok(0),
            }
        }
        let len = buffer.len().min(self.chunk.len() - self.at);
        buffer[..len].copy_from_slice(&self.chunk[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
