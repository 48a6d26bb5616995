//! Frames made in parallel, written in order.
//!
//! Whoever calls [`write_layer`] lays frames out and writes them; making one (reading its files, compressing it) is a job on
//! rayon's current pool. The caller never waits for a job that nobody has begun: it does that one itself, so that this
//! works on a pool of one thread, and from inside a pool.

use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;
use sha2::Digest as _;
use sha2::Sha256;

use super::BlobOptions;
use super::FileBytes;
use super::LayerBlob;
use super::LayerError;
use super::OpenBytes;
use super::plan;
use super::plan::BigFile;
use super::plan::Frame;
use super::plan::Piece;
use super::show;
use crate::frame::Compression;
use crate::tree::FileNode;
use crate::tree::Trees;

/// The most bytes, before compression, of frames that are being made or wait to be written. With their compressed
/// forms, which are no larger, and what allocators keep this stays below 64 MiB.
const IN_FLIGHT: u64 = 24 << 20;

/// Writes the blob of `layer` to `out`. Every file is compared with its digest in the tree as it passes.
pub fn write_layer(
    trees: &Trees,
    layer: &TreeId,
    options: &BlobOptions,
    open: &OpenBytes<'_>,
    out: &mut (dyn Write + Send),
    cancel: &CancelToken,
) -> Result<LayerBlob, LayerError> {
    options.compression.check()?;
    let maker = Maker {
        compression: options.compression,
        open,
        cancel,
        failed: AtomicBool::new(false),
    };
    let mut writer = Writer::new(options.compression, out);
    let result = rayon::in_place_scope(|scope| {
        let maker = &maker;
        let mut queue: VecDeque<(u64, Arc<Slot>)> = VecDeque::new();
        let mut in_flight = 0;
        plan::plan(trees, layer, options.clamp, open, &mut |frame| {
            while in_flight + frame.len > IN_FLIGHT
                && let Some((len, slot)) = queue.pop_front()
            {
                writer.write(&slot.wait(maker)?)?;
                in_flight -= len;
            }
            let len = frame.len;
            let slot = Arc::new(Slot::new(frame));
            queue.push_back((len, Arc::clone(&slot)));
            in_flight += len;
            scope.spawn(move |_| slot.make(maker));
            Ok(())
        })
        .and_then(|()| {
            queue
                .iter()
                .try_for_each(|(_, slot)| writer.write(&slot.wait(maker)?))
        })
        .inspect_err(|_| maker.failed.store(true, Ordering::Relaxed))
    });
    result?;
    writer.finish()
}

/// A frame on its way.
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Planned(Frame),
    /// Being made, or made and taken.
    Elsewhere,
    Made(Result<Made, LayerError>),
}

struct Made {
    raw: Vec<u8>,
    /// The compressed frame, if it is compressed.
    packed: Option<Vec<u8>>,
    /// Where in `raw` parts of big files are.
    parts: Vec<(Arc<BigFile>, Range<usize>)>,
}

impl Slot {
    fn new(frame: Frame) -> Self {
        Self {
            state: Mutex::new(State::Planned(frame)),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the frame unless somebody else has begun to.
    fn make(&self, maker: &Maker<'_, '_>) {
        let state = std::mem::replace(&mut *self.lock(), State::Elsewhere);
        let _released = Release(self);
        let state = match state {
            State::Planned(frame) => State::Made(maker.make(&frame)),
            // Nothing is waiting for this to change but the one who takes it.
            State::Made(made) => State::Made(made),
            State::Elsewhere => return,
        };
        *self.lock() = state;
        self.changed.notify_one();
    }

    /// The frame, made here if nobody has begun to.
    fn wait(&self, maker: &Maker<'_, '_>) -> Result<Made, LayerError> {
        let mut state = self.lock();
        loop {
            match std::mem::replace(&mut *state, State::Elsewhere) {
                State::Made(made) => return made,
                State::Planned(frame) => {
                    drop(state);
                    return maker.make(&frame);
                }
                State::Elsewhere => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// Lets the one who waits for a frame go on if making it panics; rayon hands the panic on when the scope ends.
struct Release<'a>(&'a Slot);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0.lock() = State::Made(Err(LayerError::Cancelled));
            self.0.changed.notify_one();
        }
    }
}

/// What making a frame takes.
struct Maker<'a, 'b> {
    compression: Compression,
    open: &'a OpenBytes<'b>,
    cancel: &'a CancelToken,
    /// The layer will not be finished: what is left need not be made.
    failed: AtomicBool,
}

impl Maker<'_, '_> {
    fn make(&self, frame: &Frame) -> Result<Made, LayerError> {
        if self.cancel.is_cancelled() || self.failed.load(Ordering::Relaxed) {
            return Err(LayerError::Cancelled);
        }
        let mut raw = Vec::with_capacity(frame.len as usize + 1);
        let mut parts = Vec::new();
        for piece in &frame.pieces {
            match piece {
                Piece::Bytes(bytes) => raw.extend_from_slice(bytes),
                Piece::Small { path, node } => {
                    let read_error = |source| LayerError::ReadFile {
                        path: show(path),
                        source,
                    };
                    let bytes = (self.open)(path, node).map_err(read_error)?;
                    if !read_small(&bytes, node, &mut raw).map_err(read_error)? {
                        return Err(LayerError::FileChanged { path: show(path) });
                    }
                }
                Piece::Part { file, offset, len } => {
                    let start = raw.len();
                    raw.resize(start + *len as usize, 0);
                    file.bytes
                        .read_exact_at(&mut raw[start..], *offset)
                        .map_err(|error| file.error(error))?;
                    parts.push((Arc::clone(file), start..raw.len()));
                }
            }
        }
        let packed = self.compression.frame(&raw)?;
        Ok(Made { raw, packed, parts })
    }
}

impl BigFile {
    fn error(&self, source: io::Error) -> LayerError {
        let path = show(&self.path);
        match source.kind() {
            io::ErrorKind::UnexpectedEof => LayerError::FileChanged { path },
            _ => LayerError::ReadFile { path, source },
        }
    }
}

/// Appends a file's bytes; whether they are the ones the tree knows.
fn read_small(bytes: &FileBytes, node: &FileNode, raw: &mut Vec<u8>) -> io::Result<bool> {
    let start = raw.len();
    raw.resize(start + node.size as usize, 0);
    match bytes.read_exact_at(&mut raw[start..], 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    Ok(digest(&raw[start..]) == node.digest && !bytes.exceeds(node.size)?)
}

fn digest(bytes: &[u8]) -> FileDigest {
    FileDigest::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// Takes made frames in their order.
struct Writer<'a> {
    compression: Compression,
    out: &'a mut (dyn Write + Send),
    tar: Sha256,
    tar_size: u64,
    blob: Sha256,
    size: u64,
    /// BLAKE3 of the big file that is passing.
    file: blake3::Hasher,
}

impl<'a> Writer<'a> {
    fn new(compression: Compression, out: &'a mut (dyn Write + Send)) -> Self {
        Self {
            compression,
            out,
            tar: Sha256::new(),
            tar_size: 0,
            blob: Sha256::new(),
            size: 0,
            file: blake3::Hasher::new(),
        }
    }

    fn write(&mut self, made: &Made) -> Result<(), LayerError> {
        for (file, range) in &made.parts {
            self.check(file, &made.raw[range.clone()])?;
        }
        self.tar.update(&made.raw);
        self.tar_size += made.raw.len() as u64;
        let bytes = match &made.packed {
            Some(packed) => {
                self.blob.update(packed);
                packed
            }
            None => &made.raw,
        };
        self.size += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(|source| LayerError::WriteBlob { source })
    }

    /// Hashes the next part of a big file, and checks the whole at its last one.
    fn check(&mut self, file: &BigFile, bytes: &[u8]) -> Result<(), LayerError> {
        self.file.update(bytes);
        if self.file.count() < file.node.size {
            return Ok(());
        }
        let found = FileDigest::from_bytes(*self.file.finalize().as_bytes());
        self.file.reset();
        let longer = file.bytes.exceeds(file.node.size);
        if found != file.node.digest || longer.map_err(|error| file.error(error))? {
            return Err(LayerError::FileChanged {
                path: show(&file.path),
            });
        }
        Ok(())
    }

    fn finish(self) -> Result<LayerBlob, LayerError> {
        self.out
            .flush()
            .map_err(|source| LayerError::WriteBlob { source })?;
        let diff_id = OciDigest::from_bytes(self.tar.finalize().into());
        let digest = match self.compression {
            Compression::None => diff_id,
            _ => OciDigest::from_bytes(self.blob.finalize().into()),
        };
        Ok(LayerBlob {
            digest,
            diff_id,
            size: self.size,
            tar_size: self.tar_size,
            compression: self.compression,
        })
    }
}
