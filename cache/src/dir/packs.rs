//! A directory's files in packs, to be kept elsewhere, and the way back.
//!
//! Files are cut into *pieces*: larger ones where their content says (FastCDC as of 2020), so that what is put into the middle
//! of one changes a piece or two; small ones are a piece each. New pieces stand behind each other in *packs*, in the order of
//! the tree. A pack is one zstd frame, and never changes. So what is sent when a little has changed is that little, the list of
//! the tree and the list of pieces.
//!
//! A pack of which less than half is still of use is given up, and what is used of it packed again: what lies elsewhere is never
//! more than about twice what is needed, and nothing is sent again for less than that. So are small packs, once there are many.
//!
//! The list of pieces is a zstd frame: for each file with bytes, in the order in which [`Trees::walk`] first comes to one with
//! that digest, the number of its pieces (`u32`), and for each piece its pack (`u32`), its place there and its length
//! (`u32`, bytes before compression), and if the file has several, its BLAKE3. All numbers are little-endian. The only
//! piece of a file has the file's digest, which is in the tree.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use fastcdc::v2020::StreamCDC;
use rayon::iter::IntoParallelRefIterator as _;
use rayon::iter::ParallelIterator as _;
use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;
use sha2::Sha256;

use super::Ownership;
use super::beneath::Beneath;
use super::beneath::split;
use super::unpack::FileWriter;
use super::unpack::Links;
use super::unpack::Unpack;
use super::unpack::failed;
use super::unpack::write_layer;
use crate::layer::LayerError;
use crate::layer::show;
use crate::tree::FileNode;
use crate::tree::Node;
use crate::tree::TreeError;
use crate::tree::Trees;

/// Files up to here are one piece.
const WHOLE: u64 = 64 << 10;
/// Bytes of the pieces of larger ones: at least, on average, at most.
const CUTS: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];
/// Bytes of a pack, before compression; but for its last piece.
const FULL: u64 = 8 << 20;
/// Packs of fewer bytes are small.
const SMALL: u64 = 1 << 20;
/// Of these there may be so many.
const MANY: usize = 16;
/// No pack that was made here has more bytes, before compression.
const MOST: u64 = 2 * FULL;
/// Of what is sent once, and read by every machine.
const LEVEL: i32 = 3;
/// A list of pieces may not be longer, decompressed: tens of millions.
const MAX_LIST: u64 = 1 << 29;

/// Pieces behind each other, in one zstd frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pack {
    /// SHA-256 of the frame.
    pub digest: OciDigest,
    /// Its bytes.
    pub size: u64,
    /// Bytes of the pieces.
    pub length: u64,
}

/// Why a pack was not opened.
#[derive(Debug)]
pub enum PackError {
    /// It is none of that length, or cannot be read.
    Read(io::Error),
    /// The file cannot be written.
    Write(io::Error),
}

impl Pack {
    /// Writes the pieces of the pack behind each other, from byte `start` of a file. Its digest is for the caller to compare.
    ///
    /// # Errors
    /// If it is no pack of that length, or the file cannot be written.
    pub fn open(&self, from: impl Read, to: &File, start: u64) -> Result<(), PackError> {
        let from = zstd::stream::read::Decoder::new(from).map_err(PackError::Read)?;
        let mut from = from.take(self.length.min(MOST) + 1);
        let mut buffer = vec![0; 256 << 10];
        let mut length = 0;
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PackError::Read(error)),
            };
            let written = to.write_all_at(&buffer[..read], start + length);
            written.map_err(PackError::Write)?;
            length += read as u64;
        }
        match length == self.length {
            true => Ok(()),
            false => Err(PackError::Read(io::Error::other(
                "it is not as long as it should be",
            ))),
        }
    }
}

/// A stretch of a pack that is one of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    digest: FileDigest,
    /// Its position.
    pack: u32,
    start: u32,
    length: u32,
}

/// Where the bytes of a tree's files are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedFiles {
    /// All that there are.
    pub packs: Vec<Pack>,
    files: BTreeMap<FileDigest, Vec<Piece>>,
}

/// A file of a tree, under the first of its names.
struct Named {
    digest: FileDigest,
    size: u64,
    path: Vec<u8>,
}

/// The files of a tree that have bytes, each content once.
fn contents(trees: &Trees, tree: &TreeId) -> Result<Vec<Named>, TreeError> {
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    trees.walk(tree, &mut |path, entry| {
        if let Node::File(node) = &entry.node
            && node.size > 0
            && seen.insert(node.digest)
        {
            files.push(Named {
                digest: node.digest,
                size: node.size,
                path: path.to_vec(),
            });
        }
        ControlFlow::Continue(())
    })?;
    Ok(files)
}

/// A piece of a file, before it is known where it will be.
struct Cut {
    digest: FileDigest,
    /// Where it begins in the file.
    offset: u64,
    length: u32,
}

/// A piece that is to be packed: the file it can be read from.
struct New<'a> {
    from: &'a Named,
    cut: &'a Cut,
}

impl PackedFiles {
    /// Packs what a directory has besides what is packed already; `tree` is what was found in it
    /// ([`scan_dir`](super::scan_dir)), and nobody writes to it. Packs of `earlier` are used again if `has` them.
    /// `put` takes new ones, and is called from several threads.
    ///
    /// # Errors
    /// If the directory cannot be read, or is not what it was; what `put` fails with.
    pub fn pack<E: From<LayerError> + Send>(
        trees: &Trees,
        tree: &TreeId,
        dir: &Path,
        earlier: &Self,
        has: impl Fn(&Pack) -> Result<bool, E>,
        put: impl Fn(&Pack, &[u8]) -> Result<(), E> + Sync,
        cancel: &CancelToken,
    ) -> Result<Self, E> {
        let contents = contents(trees, tree).map_err(LayerError::from)?;
        let beneath = Beneath::open(dir).map_err(|source| failed("open", b"", source))?;
        let source = Source { beneath, cancel };
        let cuts = contents
            .par_iter()
            .map(|file| match earlier.files.get(&file.digest) {
                Some(pieces) => Ok(as_they_are(pieces)),
                None => source.cut(file),
            });
        let cuts: Vec<Vec<Cut>> = cuts.collect::<Result<_, LayerError>>()?;

        let known = earlier.pieces();
        let mut live = vec![0_u64; earlier.packs.len()];
        let mut seen = BTreeSet::new();
        for cut in cuts.iter().flatten() {
            if let Some(piece) = known.get(&cut.digest)
                && seen.insert(cut.digest)
            {
                live[piece.pack as usize] += u64::from(piece.length);
            }
        }
        let kept = earlier.kept(&live, has)?;
        let mut packed = Self::default();
        let mut places: HashMap<FileDigest, Piece> = HashMap::new();
        let renumbered: Vec<Option<u32>> = earlier
            .packs
            .iter()
            .zip(kept)
            .map(|(pack, kept)| kept.then(|| packed.add(*pack)))
            .collect();
        for (digest, piece) in known {
            if let Some(pack) = renumbered[piece.pack as usize] {
                places.insert(digest, Piece { pack, ..*piece });
            }
        }

        let mut groups: Vec<Vec<New<'_>>> = vec![Vec::new()];
        let mut length = 0;
        let mut taken = BTreeSet::new();
        for (from, cuts) in contents.iter().zip(&cuts) {
            for cut in cuts {
                if places.contains_key(&cut.digest) || !taken.insert(cut.digest) {
                    continue;
                }
                if length >= FULL {
                    groups.push(Vec::new());
                    length = 0;
                }
                length += u64::from(cut.length);
                if let Some(group) = groups.last_mut() {
                    group.push(New { from, cut });
                }
            }
        }
        groups.retain(|group| !group.is_empty());
        let made = groups.par_iter().map(|group| -> Result<Pack, E> {
            let (pack, bytes) = source.pack(group)?;
            put(&pack, &bytes)?;
            Ok(pack)
        });
        let made: Vec<Pack> = made.collect::<Result<_, E>>()?;
        for (group, made) in groups.iter().zip(made) {
            let pack = packed.add(made);
            let mut start = 0;
            for New { cut, .. } in group {
                let Cut { digest, length, .. } = **cut;
                let piece = Piece {
                    digest,
                    pack,
                    start,
                    length,
                };
                places.insert(digest, piece);
                start += length;
            }
        }
        for (file, cuts) in contents.iter().zip(&cuts) {
            let pieces = cuts.iter().map(|cut| places[&cut.digest]).collect();
            packed.files.insert(file.digest, pieces);
        }
        Ok(packed)
    }

    /// Where each pack begins in a file that has them all behind each other.
    pub fn starts(&self) -> Vec<u64> {
        let starts = self.packs.iter().scan(0, |next, pack| {
            let start = *next;
            *next += pack.length;
            Some(start)
        });
        starts.collect()
    }

    /// Makes the empty directory `into` what `tree` says, with the bytes of `packs`, a file that all were [opened](Pack::open)
    /// into, where they [begin](Self::starts).
    ///
    /// # Errors
    /// If it cannot be written, or packs are not what they should be.
    pub fn write(
        &self,
        trees: &Trees,
        tree: &TreeId,
        into: &Path,
        packs: &File,
        owners: Ownership,
        cancel: &CancelToken,
    ) -> Result<(), LayerError> {
        let starts = self.starts();
        let fill = |out: &mut FileWriter, node: &FileNode, buffer: &mut Vec<u8>| {
            let mut hasher = blake3::Hasher::new();
            for piece in self.files.get(&node.digest).into_iter().flatten() {
                buffer.resize(piece.length as usize, 0);
                let start = starts[piece.pack as usize] + u64::from(piece.start);
                let read = packs.read_exact_at(buffer, start);
                read.map_err(|source| LayerError::ReadFile {
                    path: show(out.path()),
                    source,
                })?;
                hasher.update(buffer);
                out.write(buffer)?;
            }
            let digest = FileDigest::from_bytes(*hasher.finalize().as_bytes());
            match (hasher.count(), digest) == (node.size, node.digest) {
                true => Ok(()),
                false => Err(LayerError::FileChanged {
                    path: show(out.path()),
                }),
            }
        };
        let unpack = Unpack::plain(into, owners)?;
        write_layer(unpack, trees, tree, &fill, Links::Kept, cancel)
    }

    /// The list of pieces. The same tree in the same packs gives the same bytes.
    ///
    /// # Errors
    /// If the tree cannot be read, or is another one.
    pub fn to_bytes(&self, trees: &Trees, tree: &TreeId) -> Result<Vec<u8>, LayerError> {
        let failed = |source| failed("list the pieces of", b"", source);
        let mut to = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
        for file in contents(trees, tree)? {
            let pieces = self.files.get(&file.digest);
            let pieces = pieces.ok_or_else(|| LayerError::FileChanged {
                path: show(&file.path),
            })?;
            let mut row = (pieces.len() as u32).to_le_bytes().to_vec();
            for piece in pieces {
                for number in [piece.pack, piece.start, piece.length] {
                    row.extend(number.to_le_bytes());
                }
                if pieces.len() > 1 {
                    row.extend(piece.digest.as_bytes());
                }
            }
            to.write_all(&row).map_err(failed)?;
        }
        to.finish().map_err(failed)
    }

    /// Reads a list of pieces. Nothing in it is trusted: each file must have as many bytes as the tree says, all of them in
    /// packs that are there.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence.
    pub fn parse(
        bytes: &[u8],
        packs: Vec<Pack>,
        trees: &Trees,
        tree: &TreeId,
    ) -> Result<Self, String> {
        let files = contents(trees, tree).map_err(|error| format!("has no tree: {error}"))?;
        if packs.iter().any(|pack| pack.length > MOST) {
            return Err("has a pack that is too long".to_owned());
        }
        let different: BTreeSet<OciDigest> = packs.iter().map(|pack| pack.digest).collect();
        if different.len() < packs.len() {
            return Err("has a pack twice".to_owned());
        }
        let from = zstd::stream::read::Decoder::new(bytes);
        let mut from = from
            .map_err(|_| "cannot be read".to_owned())?
            .take(MAX_LIST);
        let mut whole = Self {
            packs,
            files: BTreeMap::new(),
        };
        for file in files {
            let pieces = whole.row(&mut from, &file);
            let pieces =
                pieces.map_err(|problem| format!("{problem} for `{}`", show(&file.path)))?;
            whole.files.insert(file.digest, pieces);
        }
        match from.read(&mut [0]) {
            Ok(0) => Ok(whole),
            _ => Err("has more pieces than the tree has files".to_owned()),
        }
    }

    /// The pieces of a file.
    fn row(&self, from: &mut impl Read, file: &Named) -> Result<Vec<Piece>, &'static str> {
        const CUT_OFF: &str = "ends too early";
        let mut number = || {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes).map_err(|_| CUT_OFF)?;
            Ok::<_, &'static str>(u32::from_le_bytes(bytes))
        };
        let count = number()?;
        let mut pieces = Vec::new();
        let mut length = 0;
        for _ in 0..count {
            let mut piece = Piece {
                digest: file.digest,
                pack: number()?,
                start: number()?,
                length: number()?,
            };
            if count > 1 {
                let mut digest = Vec::new();
                for _ in 0..8 {
                    digest.extend(number()?.to_le_bytes());
                }
                let digest: [u8; 32] = digest.try_into().map_err(|_| CUT_OFF)?;
                piece.digest = FileDigest::from_bytes(digest);
            }
            let pack = self.packs.get(piece.pack as usize);
            let end = u64::from(piece.start) + u64::from(piece.length);
            if pack.is_none_or(|pack| end > pack.length) {
                return Err("has a piece outside of the packs");
            }
            length += u64::from(piece.length);
            pieces.push(piece);
        }
        match length == file.size {
            true => Ok(pieces),
            false => Err("has another number of bytes"),
        }
    }

    /// All pieces by their digests.
    fn pieces(&self) -> HashMap<FileDigest, &Piece> {
        let pieces = self.files.values().flatten();
        pieces.map(|piece| (piece.digest, piece)).collect()
    }

    fn add(&mut self, pack: Pack) -> u32 {
        self.packs.push(pack);
        self.packs.len() as u32 - 1
    }

    /// Which packs stay, of which so much is of use.
    fn kept<E>(
        &self,
        live: &[u64],
        has: impl Fn(&Pack) -> Result<bool, E>,
    ) -> Result<Vec<bool>, E> {
        let mut kept = Vec::new();
        for (pack, live) in self.packs.iter().zip(live) {
            kept.push(*live > 0 && live * 2 >= pack.length && has(pack)?);
        }
        let small: Vec<usize> = (0..kept.len())
            .filter(|at| kept[*at] && self.packs[*at].length < SMALL)
            .collect();
        if small.len() >= MANY {
            small.into_iter().for_each(|at| kept[at] = false);
        }
        Ok(kept)
    }
}

/// A file that is cut as it was.
fn as_they_are(pieces: &[Piece]) -> Vec<Cut> {
    let mut offset = 0;
    let cut = |piece: &Piece| {
        let cut = Cut {
            digest: piece.digest,
            offset,
            length: piece.length,
        };
        offset += u64::from(piece.length);
        cut
    };
    pieces.iter().map(cut).collect()
}

/// The directory that is read.
struct Source<'a> {
    beneath: Beneath,
    cancel: &'a CancelToken,
}

impl Source<'_> {
    fn open(&self, file: &Named) -> Result<File, LayerError> {
        if self.cancel.is_cancelled() {
            return Err(LayerError::Cancelled);
        }
        let (parent, name) = split(&file.path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = self.beneath.dir(parent).and_then(|dir| {
            let file = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
            Ok(File::from(file))
        });
        opened.map_err(|source| unread(file, source))
    }

    /// Cuts a file into pieces.
    fn cut(&self, file: &Named) -> Result<Vec<Cut>, LayerError> {
        if file.size <= WHOLE {
            return Ok(vec![Cut {
                digest: file.digest,
                offset: 0,
                length: file.size as u32,
            }]);
        }
        let opened = self.open(file)?;
        let [least, average, most] = CUTS;
        let mut whole = blake3::Hasher::new();
        let mut cuts = Vec::new();
        for chunk in StreamCDC::new(opened, least, average, most) {
            let chunk = chunk.map_err(|error| unread(file, error.into()))?;
            if self.cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            cuts.push(Cut {
                digest: digest_of(&chunk.data),
                offset: whole.count(),
                length: chunk.data.len() as u32,
            });
            whole.update(&chunk.data);
        }
        let digest = FileDigest::from_bytes(*whole.finalize().as_bytes());
        match (digest, whole.count()) == (file.digest, file.size) {
            true => Ok(cuts),
            false => Err(changed(file)),
        }
    }

    fn pack(&self, pieces: &[New<'_>]) -> Result<(Pack, Vec<u8>), LayerError> {
        let mut bytes: Vec<u8> = Vec::new();
        let mut opened: Option<(&Named, File)> = None;
        for New { from, cut } in pieces {
            let file = match &opened {
                Some((named, file)) if std::ptr::eq(*named, *from) => file,
                _ => &opened.insert((from, self.open(from)?)).1,
            };
            let start = bytes.len();
            bytes.resize(start + cut.length as usize, 0);
            let piece = &mut bytes[start..];
            let read = file.read_exact_at(piece, cut.offset);
            read.map_err(|source| unread(from, source))?;
            if digest_of(piece) != cut.digest {
                return Err(changed(from));
            }
        }
        let packed = zstd::bulk::compress(&bytes, LEVEL);
        let packed = packed.map_err(|source| failed("compress", b"", source))?;
        let pack = Pack {
            digest: OciDigest::from_bytes(Sha256::digest(&packed).into()),
            size: packed.len() as u64,
            length: bytes.len() as u64,
        };
        Ok((pack, packed))
    }
}

fn digest_of(bytes: &[u8]) -> FileDigest {
    FileDigest::from_bytes(*blake3::hash(bytes).as_bytes())
}

fn changed(file: &Named) -> LayerError {
    LayerError::FileChanged {
        path: show(&file.path),
    }
}

fn unread(file: &Named, source: io::Error) -> LayerError {
    LayerError::ReadFile {
        path: show(&file.path),
        source,
    }
}

#[cfg(test)]
mod tests;
