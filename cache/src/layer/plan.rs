//! Where a layer's tar is cut into frames.
//!
//! Cut points depend on the tree alone, and locally: adding a file must not move the cuts everywhere behind it (with cuts
//! at fixed offsets of the tar one inserted entry changes every later frame). Before an entry the tar is cut with a
//! probability of the entry's share of [`TARGET`], decided by the hash of its path, so that frames have [`TARGET`] bytes on
//! average and do not know what came before. A file of [`PART`] or more bytes is cut at multiples of [`PART`] of its own.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use rbuild_llb::FileDigest;
use rbuild_llb::TreeId;

use super::FileBytes;
use super::LayerError;
use super::OpenBytes;
use super::show;
use crate::tar;
use crate::tar::padding;
use crate::tar::write::Kind;
use crate::tar::write::header;
use crate::tree::Entry;
use crate::tree::FileNode;
use crate::tree::Meta;
use crate::tree::Node;
use crate::tree::Trees;

/// Bytes of a frame, on average, between entries.
const TARGET: u64 = 1 << 20;
/// A frame is not cut before it has this many bytes: small frames compress badly.
const MIN: u64 = 128 << 10;
/// A frame of small entries is cut before it has more.
const MAX: u64 = 2 << 20;
/// Files of at least this size are cut at its multiples; smaller ones are never cut.
const PART: u64 = 1 << 20;

/// A file that spans frames: opened once, so that all of them read the same one.
pub(super) struct BigFile {
    pub(super) path: Vec<u8>,
    pub(super) node: FileNode,
    pub(super) bytes: FileBytes,
}

/// A piece of a frame.
pub(super) enum Piece {
    /// Headers and padding.
    Bytes(Vec<u8>),
    /// A whole file.
    Small { path: Vec<u8>, node: FileNode },
    /// A part of a big one.
    Part {
        file: Arc<BigFile>,
        offset: u64,
        len: u64,
    },
}

/// What a frame is made of.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) pieces: Vec<Piece>,
    /// Bytes before compression.
    pub(super) len: u64,
}

impl Frame {
    fn bytes(&mut self) -> &mut Vec<u8> {
        if !matches!(self.pieces.last(), Some(Piece::Bytes(_))) {
            self.pieces.push(Piece::Bytes(Vec::new()));
        }
        match self.pieces.last_mut() {
            Some(Piece::Bytes(bytes)) => bytes,
            _ => unreachable!("pushed above"),
        }
    }
}

/// Lays a layer's tar out and hands its frames, none empty, to `emit` in their order.
pub(super) fn plan(
    trees: &Trees,
    layer: &TreeId,
    clamp: Option<i64>,
    open: &OpenBytes<'_>,
    emit: &mut dyn FnMut(Frame) -> Result<(), LayerError>,
) -> Result<(), LayerError> {
    trees.root(layer)?;
    let mut planner = Planner {
        clamp,
        open,
        emit,
        frame: Frame::default(),
        links: BTreeMap::new(),
    };
    let mut result = Ok(());
    trees.walk(layer, &mut |path, entry| {
        result = planner.entry(path, entry);
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    result?;
    planner.frame.bytes().extend_from_slice(&tar::write::END);
    planner.frame.len += tar::write::END.len() as u64;
    planner.cut()
}

struct Planner<'a, 'b> {
    clamp: Option<i64>,
    open: &'a OpenBytes<'b>,
    emit: &'a mut dyn FnMut(Frame) -> Result<(), LayerError>,
    frame: Frame,
    /// The first member of each hard-link group.
    links: BTreeMap<(u32, u64, FileDigest), (Vec<u8>, Meta)>,
}

impl Planner<'_, '_> {
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        if entry.name.starts_with(tar::WHITEOUT) {
            return Err(LayerError::Reserved { path: show(path) });
        }
        let meta = &entry.meta;
        match &entry.node {
            Node::File(file) => self.file(path, meta, file),
            Node::Dir(dir) => {
                if !dir.implied {
                    // `/` becomes `./`.
                    let path = if path.is_empty() { b"." } else { path };
                    self.header(path, meta, &Kind::Dir, 0)?;
                }
                if dir.opaque {
                    self.whiteout(path, tar::OPAQUE)?;
                }
                Ok(())
            }
            Node::Symlink { target } => self.header(path, meta, &Kind::Symlink { target }, 0),
            &Node::Char { major, minor } => {
                self.header(path, meta, &Kind::Char { major, minor }, 0)
            }
            &Node::Block { major, minor } => {
                self.header(path, meta, &Kind::Block { major, minor }, 0)
            }
            Node::Fifo => self.header(path, meta, &Kind::Fifo, 0),
            Node::Whiteout => {
                let parent = path.len() - entry.name.len();
                let name = [tar::WHITEOUT, &entry.name].concat();
                self.whiteout(path[..parent].strip_suffix(b"/").unwrap_or_default(), &name)
            }
        }
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), LayerError> {
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.header(&path, &Meta::default(), &Kind::File { size: 0 }, 0)
    }

    fn file(&mut self, path: &[u8], meta: &Meta, file: &FileNode) -> Result<(), LayerError> {
        if let Some(link) = file.link {
            let key = (link, file.size, file.digest);
            match self.links.get(&key) {
                // Names of one inode have its metadata; others only happen to have the group's number.
                Some((first, first_meta)) if first_meta == meta => {
                    let target = first.clone();
                    return self.header(path, meta, &Kind::Link { target: &target }, 0);
                }
                Some(_) => {}
                None => {
                    self.links.insert(key, (path.to_vec(), meta.clone()));
                }
            }
        }
        let kind = Kind::File { size: file.size };
        if file.size < PART {
            self.header(path, meta, &kind, file.size)?;
            self.frame.pieces.push(Piece::Small {
                path: path.to_vec(),
                node: file.clone(),
            });
            self.frame.len += file.size;
        } else {
            self.header(path, meta, &kind, MAX)?;
            self.parts(path, file)?;
        }
        let fill = padding(file.size);
        if fill > 0 {
            let bytes = self.frame.bytes();
            bytes.resize(bytes.len() + fill, 0);
            self.frame.len += fill as u64;
        }
        Ok(())
    }

    fn parts(&mut self, path: &[u8], node: &FileNode) -> Result<(), LayerError> {
        let bytes = (self.open)(path, node).map_err(|source| LayerError::ReadFile {
            path: show(path),
            source,
        })?;
        let file = Arc::new(BigFile {
            path: path.to_vec(),
            node: node.clone(),
            bytes,
        });
        let mut offset = 0;
        while offset < node.size {
            if offset > 0 {
                self.cut()?;
            }
            let len = PART.min(node.size - offset);
            self.frame.pieces.push(Piece::Part {
                file: Arc::clone(&file),
                offset,
                len,
            });
            self.frame.len += len;
            offset += len;
        }
        Ok(())
    }

    /// Adds an entry's header, after a cut if one belongs before the entry. `body` is what comes behind it.
    fn header(
        &mut self,
        path: &[u8],
        meta: &Meta,
        kind: &Kind<'_>,
        body: u64,
    ) -> Result<(), LayerError> {
        let mtime = match self.clamp {
            Some(latest) => meta.mtime.secs.min(latest),
            None => meta.mtime.secs,
        };
        let mut bytes = Vec::with_capacity(tar::BLOCK);
        header(&mut bytes, path, meta, kind, mtime);
        let len = bytes.len() as u64 + body;
        if self.frame.len >= MIN && (self.frame.len + len > MAX || lucky(path, len)) {
            self.cut()?;
        }
        self.frame.len += bytes.len() as u64;
        self.frame.bytes().append(&mut bytes);
        Ok(())
    }

    fn cut(&mut self) -> Result<(), LayerError> {
        (self.emit)(std::mem::take(&mut self.frame))
    }
}

/// Whether the frame ends before this entry: `len` in [`TARGET`] times.
fn lucky(path: &[u8], len: u64) -> bool {
    let hash = blake3::hash(path);
    let hash = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*hash) < (u64::MAX / TARGET).saturating_mul(len)
}
