//! A blob's bytes on their way to whoever reads the archive in them, each stage on a thread of its own: reading the blob,
//! decompression, SHA-256 of the tar. Between two of them wait at most [`AHEAD`] chunks, so memory does not depend on the
//! blob's size; nor, but for one blob at a time, on the [windows](super::window) that it asks for.

use std::cell::Cell;
use std::io;
use std::io::BufRead;
use std::io::Cursor;
use std::io::Read;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::thread::Scope;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use rbuild_llb::OciDigest;
use sha2::Digest as _;
use sha2::Sha256;

use super::LayerError;
use super::window::Alone;
use super::window::MUCH;
use super::window::Windows;
use super::window::alone;
use crate::threads;

/// Chunks that may wait for a stage.
const AHEAD: usize = 4;
/// Bytes of a chunk.
pub(super) const CHUNK: usize = 256 << 10;

/// KiB that xz may take: its highest preset takes 64 MiB.
const XZ_MEMORY: u32 = 128 << 10;

/// What a layer may cost, whatever its blob says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Entries of the archive: each takes memory.
    pub(super) entries: u64,
    /// Uncompressed bytes that any blob may have.
    pub(super) free: u64,
    /// And how many more for each of its own bytes.
    pub(super) times: u64,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        entries: 5_000_000,
        free: 16 << 30,
        times: 1100,
    };
}

/// What a blob's uncompressed bytes come to.
pub(super) struct Sums {
    /// SHA-256 of the tar.
    pub(super) diff_id: OciDigest,
    /// Bytes of the tar.
    pub(super) tar_size: u64,
}

/// Runs `f` over a blob's uncompressed bytes.
pub(crate) fn with_tar<T>(
    blob: impl Read + Send,
    f: impl FnOnce(Chunks) -> Result<T, LayerError>,
) -> Result<T, LayerError> {
    let limits = &Limits::DEFAULT;
    thread::scope(|scope| f(ahead(scope, || decompressed(limits, blob))?))
}

/// The same with the sums of all of these bytes, as far as `f` reads them.
pub(super) fn with_summed_tar<T>(
    limits: &Limits,
    blob: impl Read + Send,
    f: impl FnOnce(Chunks) -> Result<T, LayerError>,
) -> Result<(T, Sums), LayerError> {
    thread::scope(|scope| {
        let packed = ahead(scope, || Box::new(blob))?;
        let Chunks { filled, empty, .. } = ahead(scope, || decompressed(limits, packed))?;
        let (pass_on, passed) = sync_channel(AHEAD);
        let sums = threads::spawn(scope, move || sum(&filled, &pass_on));
        let sums = sums.map_err(|source| LayerError::Thread { source })?;
        let result = f(Chunks::new(passed, empty));
        let sums = sums
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((result?, sums))
    })
}

/// What passes from one stage to the next: full chunks, the last of which may be short, or why there are no more.
type Chunk = io::Result<Vec<u8>>;

/// Reads `input` on a thread of its own, which ends with the input or when nobody wants more of it.
fn ahead<'scope, 'r: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    input: impl FnOnce() -> Box<dyn Read + 'r> + Send + 'scope,
) -> Result<Chunks, LayerError> {
    let (full, filled) = sync_channel::<Chunk>(AHEAD);
    let (empty, emptied) = sync_channel::<Vec<u8>>(AHEAD);
    threads::spawn(scope, move || {
        let mut input = input();
        loop {
            let mut chunk = emptied.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let read = fill(&mut *input, &mut chunk);
            let last = !matches!(read, Ok(CHUNK));
            let sent = read.map(|len| {
                chunk.truncate(len);
                chunk
            });
            if full.send(sent).is_err() || last {
                break;
            }
        }
    })
    .map_err(|source| LayerError::Thread { source })?;
    Ok(Chunks::new(filled, empty))
}

fn sum(from: &Receiver<Chunk>, to: &SyncSender<Chunk>) -> Sums {
    let mut hasher = Sha256::new();
    let mut tar_size = 0;
    for chunk in from {
        if let Ok(chunk) = &chunk {
            hasher.update(chunk);
            tar_size += chunk.len() as u64;
        }
        if to.send(chunk).is_err() {
            break;
        }
    }
    Sums {
        diff_id: OciDigest::from_bytes(hasher.finalize().into()),
        tar_size,
    }
}

/// What is in a blob, by the first bytes of it.
pub(super) fn decompressed<'r>(limits: &Limits, mut blob: impl Read + 'r) -> Box<dyn Read + 'r> {
    let mut magic = Vec::new();
    if let Err(error) = blob.by_ref().take(6).read_to_end(&mut magic) {
        return Box::new(Failing(Some(error)));
    }
    let name = match magic[..] {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        // A skippable frame (RFC 8878, 3.1.2), as zstd:chunked and pzstd write them, also in front.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => "tar",
    };
    let taken = Rc::new(Cell::new(0));
    let whole = Counted {
        inner: Cursor::new(magic).chain(blob),
        taken: Rc::clone(&taken),
    };
    let buffered = |whole| io::BufReader::with_capacity(CHUNK, whole);
    let input: Box<dyn Read + 'r> = match name {
        "gzip" => Box::new(MultiGzDecoder::new(buffered(whole))),
        "zstd" => {
            let whole = io::BufReader::with_capacity(CHUNK, Windows::new(whole, &MUCH));
            match zstd::stream::read::Decoder::with_buffer(whole) {
                Ok(decoder) => Box::new(decoder),
                Err(error) => Box::new(Failing(Some(error))),
            }
        }
        "xz" => Box::new(Alone {
            _place: alone(&MUCH),
            inner: XzReader::new_mem_limit(buffered(whole), true, XZ_MEMORY),
        }),
        "bzip2" => Box::new(MultiBzDecoder::new(buffered(whole))),
        _ => return Box::new(whole),
    };
    Box::new(Bounded {
        input,
        taken,
        given: 0,
        limits: *limits,
    })
}

/// Counts what is taken from a blob.
struct Counted<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + len as u64);
        Ok(len)
    }
}

/// Ends where more comes out of a blob than can be meant.
struct Bounded<'r> {
    input: Box<dyn Read + 'r>,
    taken: Rc<Cell<u64>>,
    given: u64,
    limits: Limits,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.given += len as u64;
        let Limits { free, times, .. } = self.limits;
        let taken = self.taken.get();
        if self.given > taken.saturating_mul(times).saturating_add(free) {
            let given = self.given;
            return Err(io::Error::other(format!(
                "{taken} bytes expand to {given} and more: this is no layer"
            )));
        }
        Ok(len)
    }
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

/// The bytes of the stage before.
pub(crate) struct Chunks {
    filled: Receiver<Chunk>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Chunks {
    fn new(filled: Receiver<Chunk>, empty: SyncSender<Vec<u8>>) -> Self {
        Self {
            filled,
            empty,
            chunk: Vec::new(),
            at: 0,
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let len = buffer.len().min(ready.len());
        buffer[..len].copy_from_slice(&ready[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // The first stage's last chunk may be empty; after it nothing comes.
        if self.at == self.chunk.len()
            && let Ok(chunk) = self.filled.recv()
        {
            let used = std::mem::replace(&mut self.chunk, chunk?);
            self.at = 0;
            // Only saves an allocation: a full or closed channel is as good.
            drop(self.empty.try_send(used));
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, len: usize) {
        self.at += len;
    }
}
