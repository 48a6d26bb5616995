//! Frames that were made before.
//!
//! Beside a compressed blob the store keeps a table of its frames: what each is made of (its key), how long it is, and the
//! states of both SHA-256 (FIPS 180-4) after it. A later blob takes the frames it has in common with an earlier one from
//! there: those at the beginning are copied, and both digests go on from the states behind them; of others the
//! compressed bytes are taken, and only the tar's digest needs their files again. What a frame's bytes depend on is in its
//! key, so a blob is the same whether anything was taken or not. Of a tar that was only hashed there is a table, too, under
//! its digest: its frames are as long as they were, have no hash, and both states are those of the tar.
//!
//! A table is a file of its own, all of it little-endian: [`MAGIC`], the number of frames (`u32`), for each frame a
//! [`Row`], and the BLAKE3 of what is before.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use sha2::Sha256;
use sha2::digest::common::hazmat::SerializableState;
use sha2::digest::common::hazmat::SerializedState;

use super::BLOB_VERSION;
use super::plan::Frame;
use super::plan::Piece;
use crate::frame::Compression;

const MAGIC: &[u8; 8] = b"rbframe1";
/// BLAKE3 of the table, or of a frame.
const HASH: usize = blake3::OUT_LEN;
const STATE: usize = size_of::<SerializedState<Sha256>>();
const ROW: usize = HASH + 4 + 4 + HASH + 2 * STATE;

/// What a frame is made of: equal keys, equal bytes.
pub(super) type Key = [u8; HASH];

/// A frame of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Key,
    /// Bytes before compression.
    pub(super) raw: u32,
    /// Bytes in the blob.
    pub(super) packed: u32,
    /// BLAKE3 of these.
    pub(super) hash: [u8; HASH],
    /// SHA-256 of the tar up to the end of this frame.
    pub(super) tar: SerializedState<Sha256>,
    /// SHA-256 of the blob up to there.
    pub(super) blob: SerializedState<Sha256>,
}

/// The frames of a blob, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameTable {
    pub(super) rows: Vec<Row>,
}

impl FrameTable {
    /// Whether it has no frames: then it is not worth keeping.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as it is kept.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + self.rows.len() * ROW + HASH);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.rows.len() as u32).to_le_bytes());
        for row in &self.rows {
            bytes.extend_from_slice(&row.key);
            bytes.extend_from_slice(&row.raw.to_le_bytes());
            bytes.extend_from_slice(&row.packed.to_le_bytes());
            bytes.extend_from_slice(&row.hash);
            bytes.extend_from_slice(&row.tar);
            bytes.extend_from_slice(&row.blob);
        }
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        bytes
    }

    /// A table that was kept, or nothing if it is damaged or of another version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, sum) = bytes.split_last_chunk::<HASH>()?;
        if blake3::hash(bytes).as_bytes() != sum {
            return None;
        }
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let count = u32::from_le_bytes(*take(&mut rest)?);
        if rest.len() != count as usize * ROW {
            return None;
        }
        let mut rows = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let row = Row {
                key: *take(&mut rest)?,
                raw: u32::from_le_bytes(*take(&mut rest)?),
                packed: u32::from_le_bytes(*take(&mut rest)?),
                hash: *take(&mut rest)?,
                tar: (*take::<STATE>(&mut rest)?).into(),
                blob: (*take::<STATE>(&mut rest)?).into(),
            };
            Sha256::deserialize(&row.tar).ok()?;
            Sha256::deserialize(&row.blob).ok()?;
            rows.push(row);
        }
        Some(Self { rows })
    }

    /// Bytes of the blob.
    pub(crate) fn size(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.packed)).sum()
    }
}

fn take<'b, const N: usize>(bytes: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

/// The state of a hash as it is kept.
pub(super) fn state(hash: &Sha256) -> SerializedState<Sha256> {
    hash.serialize()
}

/// A hash that goes on from a state.
pub(super) fn resumed(state: &SerializedState<Sha256>) -> Sha256 {
    Sha256::deserialize(state).expect("states are looked at when a table is read")
}

/// The key of a frame.
pub(super) fn key(frame: &Frame, compression: &Compression) -> Key {
    let mut hash = blake3::Hasher::new();
    let mut number = |number: u64, then: &[u8]| {
        hash.update(&number.to_le_bytes());
        hash.update(then);
    };
    number(u64::from(BLOB_VERSION), &[]);
    match *compression {
        Compression::None => number(0, &[0]),
        Compression::Gzip { level } => number(u64::from(level), &[1]),
        Compression::Zstd { level } => number(u64::from(level), &[2]),
    }
    for piece in &frame.pieces {
        match piece {
            Piece::Bytes(bytes) => {
                number(0, &[]);
                number(bytes.len() as u64, bytes);
            }
            Piece::Small { node, .. } => {
                number(1, &[]);
                number(node.size, node.digest.as_bytes());
            }
            Piece::Part { file, offset, len } => {
                number(2, file.node.digest.as_bytes());
                number(*offset, &[]);
                number(*len, &[]);
            }
        }
    }
    *hash.finalize().as_bytes()
}

/// An earlier blob with its table.
#[derive(Debug)]
struct Earlier {
    table: FrameTable,
    /// None of a tar that was only hashed.
    blob: Option<Arc<File>>,
    /// Where each frame begins.
    starts: Vec<u64>,
}

/// The frames of earlier blobs.
#[derive(Debug, Default)]
pub struct EarlierFrames {
    blobs: Vec<Earlier>,
    /// Where a frame is: blob and row.
    places: HashMap<Key, (usize, usize)>,
}

/// The compressed bytes of a frame in an earlier blob.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    blob: Arc<File>,
    start: u64,
    pub(super) len: usize,
    /// BLAKE3 of them.
    pub(super) hash: [u8; HASH],
}

/// Frames with which an earlier blob begins.
#[derive(Debug)]
pub(super) struct Beginning {
    /// None where the bytes are not wanted.
    pub(super) blob: Option<Arc<File>>,
    pub(super) rows: Vec<Row>,
}

impl EarlierFrames {
    /// Adds a tar that was only hashed.
    pub fn add_tar(&mut self, table: FrameTable) {
        self.blobs.push(Earlier {
            table,
            blob: None,
            starts: Vec::new(),
        });
    }

    /// Adds a blob; of frames that several have, the first is taken.
    pub(crate) fn add(&mut self, table: FrameTable, blob: File) {
        let mut start = 0;
        let mut starts = Vec::with_capacity(table.rows.len());
        for (at, row) in table.rows.iter().enumerate() {
            let place = (self.blobs.len(), at);
            self.places.entry(row.key).or_insert(place);
            starts.push(start);
            start += u64::from(row.packed);
        }
        self.blobs.push(Earlier {
            table,
            blob: Some(Arc::new(blob)),
            starts,
        });
    }

    /// How many blobs there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.blobs.len()
    }

    /// A frame's compressed bytes.
    pub(super) fn find(&self, key: &Key) -> Option<Packed> {
        let (blob, at) = *self.places.get(key)?;
        let earlier = &self.blobs[blob];
        let row = &earlier.table.rows[at];
        Some(Packed {
            blob: earlier.blob.clone()?,
            start: earlier.starts[at],
            len: row.packed as usize,
            hash: row.hash,
        })
    }

    /// The blobs whose frame number `at` has the key, out of `among` if some came into question before.
    pub(super) fn beginning(&self, among: Option<&[usize]>, at: usize, key: &Key) -> Vec<usize> {
        let has = |blob: &usize| {
            let rows = &self.blobs[*blob].table.rows;
            rows.get(at).is_some_and(|row| row.key == *key)
        };
        match among {
            Some(among) => among.iter().copied().filter(has).collect(),
            None => (0..self.blobs.len()).filter(has).collect(),
        }
    }

    /// The first `count` frames of a blob.
    pub(super) fn first(&self, blob: usize, count: usize) -> Beginning {
        let earlier = &self.blobs[blob];
        Beginning {
            blob: earlier.blob.clone(),
            rows: earlier.table.rows[..count].to_vec(),
        }
    }
}

impl Packed {
    /// Fills `bytes`, which are [`Self::len`]; whether they could be read and are still the same.
    pub(super) fn read(&self, bytes: &mut [u8]) -> bool {
        let read = self.blob.read_exact_at(bytes, self.start);
        read.is_ok() && blake3::hash(bytes).as_bytes() == &self.hash
    }
}

/// Finds earlier frames. Asked once, when there is a second frame: a small layer is made sooner than tables are read.
pub type FindFrames<'a> = dyn FnMut() -> EarlierFrames + 'a;

/// What [`write_layer`](super::write_layer) takes from earlier blobs, and what it learns of the new one.
pub struct Reuse<'a> {
    pub(super) find: &'a mut FindFrames<'a>,
    /// Only digests are wanted, of the tar.
    pub(super) of_tar: bool,
    /// The frames of the blob that was written; none if it is not worth remembering.
    pub table: FrameTable,
}

impl std::fmt::Debug for Reuse<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reuse")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl<'a> Reuse<'a> {
    /// Takes frames from what `find` finds.
    pub fn new(find: &'a mut FindFrames<'a>) -> Self {
        Self {
            find,
            of_tar: false,
            table: FrameTable::default(),
        }
    }
}
