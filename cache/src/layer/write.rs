//! Frames made in parallel, written in order.
//!
//! Whoever calls [`write_layer`] lays frames out and hashes the tar; making a frame (reading its files, compressing it) is a job
//! on rayon's current pool; hashing and writing the blob is a thread of its own as soon as there are several frames. The caller
//! never waits for a job that nobody has begun: it does that one itself, so that this works on a pool of one thread, and
//! from inside a pool.

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
use rbuild_llb::TreeId;

use super::BlobOptions;
use super::FileBytes;
use super::LayerBlob;
use super::LayerError;
use super::OpenBytes;
use super::frames;
use super::frames::EarlierFrames;
use super::frames::FindFrames;
use super::frames::FrameTable;
use super::frames::Key;
use super::frames::Packed;
use super::frames::Reuse;
use super::plan;
use super::plan::BigFile;
use super::plan::Frame;
use super::plan::Piece;
use super::show;
use crate::frame::Compression;
use crate::tree::FileNode;
use crate::tree::Trees;

use buffer::Buffer;
use buffer::Buffers;
use writer::Writer;

mod buffer;
mod writer;

/// The most bytes, before compression, of frames that are being made or wait to be written. With their compressed
/// forms, which are no larger, those that the writer has, and what is kept to be used again this stays below 64 MiB.
const IN_FLIGHT: u64 = 16 << 20;

/// Writes the blob of `layer` to `out`. Every file is compared with its digest in the tree as it passes.
pub fn write_layer(
    trees: &Trees,
    layer: &TreeId,
    options: &BlobOptions,
    open: &OpenBytes<'_>,
    out: &mut (dyn Write + Send),
    cancel: &CancelToken,
) -> Result<LayerBlob, LayerError> {
    write(trees, layer, options, open, out, cancel, None)
}

/// The same, with frames of earlier blobs taken from there, whose files are not all read again; then `reuse` has the
/// table of the new blob. The bytes are the same either way.
pub fn write_layer_again(
    trees: &Trees,
    layer: &TreeId,
    options: &BlobOptions,
    open: &OpenBytes<'_>,
    out: &mut (dyn Write + Send),
    cancel: &CancelToken,
    reuse: &mut Reuse<'_>,
) -> Result<LayerBlob, LayerError> {
    write(trees, layer, options, open, out, cancel, Some(reuse))
}

/// The digests of the tar of `layer`, and what to know of it for another one. Of what it has in common with the beginning of
/// an earlier one, whose table `find` finds, no file is read.
pub fn digest_layer<'f>(
    trees: &Trees,
    layer: &TreeId,
    clamp: Option<i64>,
    open: &OpenBytes<'_>,
    cancel: &CancelToken,
    find: &'f mut FindFrames<'f>,
) -> Result<(LayerBlob, FrameTable), LayerError> {
    let options = BlobOptions {
        compression: Compression::None,
        clamp,
    };
    let mut reuse = Reuse {
        of_tar: true,
        ..Reuse::new(find)
    };
    let out = &mut io::sink();
    let blob = write(trees, layer, &options, open, out, cancel, Some(&mut reuse))?;
    Ok((blob, reuse.table))
}

fn write(
    trees: &Trees,
    layer: &TreeId,
    options: &BlobOptions,
    open: &OpenBytes<'_>,
    out: &mut (dyn Write + Send),
    cancel: &CancelToken,
    reuse: Option<&mut Reuse<'_>>,
) -> Result<LayerBlob, LayerError> {
    options.compression.check()?;
    let maker = Maker {
        compression: options.compression,
        open,
        cancel,
        failed: AtomicBool::new(false),
        buffers: Buffers::default(),
    };
    std::thread::scope(|threads| {
        rayon::in_place_scope(|scope| {
            let reusing = match reuse {
                Some(reuse) if options.compression != Compression::None || reuse.of_tar => {
                    Reusing::Waiting(reuse, None)
                }
                _ => Reusing::No,
            };
            let mut laying = Laying {
                spawn: |slot: Arc<Slot>, maker| scope.spawn(move |_| slot.make(maker)),
                maker: &maker,
                reusing,
                queue: VecDeque::new(),
                in_flight: 0,
                writer: Writer::new(options.compression, &maker.buffers, out, threads),
            };
            let mut emit = |frame| laying.add(frame);
            plan::plan(trees, layer, options.clamp, open, &mut emit)
                .and_then(|()| laying.finish())
                .inspect_err(|_| maker.failed.store(true, Ordering::Relaxed))
        })
    })
}

/// Frames from the plan to the writer.
struct Laying<'m, 'w, 'r, 'f, 'a, 'b, S> {
    /// Has a frame made.
    spawn: S,
    maker: &'m Maker<'a, 'b>,
    reusing: Reusing<'r, 'f>,
    queue: VecDeque<(u64, Option<Key>, Arc<Slot>)>,
    in_flight: u64,
    writer: Writer<'w, 'm>,
}

/// How far it is known which frames earlier blobs have.
enum Reusing<'r, 'f> {
    No,
    /// There is at most one frame so far.
    Waiting(&'r mut Reuse<'f>, Option<Frame>),
    /// All frames so far, so many, are those of these blobs; of any, if there are none yet.
    Beginning(&'r mut Reuse<'f>, EarlierFrames, Option<Vec<usize>>, usize),
    Behind(&'r mut Reuse<'f>, EarlierFrames),
}

impl<'m, 'a, 'b, S> Laying<'m, '_, '_, '_, 'a, 'b, S>
where
    S: Fn(Arc<Slot>, &'m Maker<'a, 'b>),
{
    fn add(&mut self, frame: Frame) -> Result<(), LayerError> {
        match std::mem::replace(&mut self.reusing, Reusing::No) {
            Reusing::No => self.make(frame, None, None),
            Reusing::Waiting(reuse, None) => {
                self.reusing = Reusing::Waiting(reuse, Some(frame));
                Ok(())
            }
            Reusing::Waiting(reuse, Some(first)) => {
                let earlier = (reuse.find)();
                self.reusing = Reusing::Beginning(reuse, earlier, None, 0);
                self.place(first)?;
                self.place(frame)
            }
            reusing => {
                self.reusing = reusing;
                self.place(frame)
            }
        }
    }

    /// Takes a frame from an earlier blob, or has it made.
    fn place(&mut self, frame: Frame) -> Result<(), LayerError> {
        let key = frames::key(&frame, &self.maker.compression);
        if let Reusing::Beginning(_, earlier, among, count) = &mut self.reusing {
            let still = earlier.beginning(among.as_deref(), *count, &key);
            if !still.is_empty() {
                *among = Some(still);
                *count += 1;
                return Ok(());
            }
            self.end_beginning()?;
        }
        let packed = match &self.reusing {
            Reusing::Behind(_, earlier) => earlier.find(&key),
            _ => None,
        };
        self.make(frame, Some(key), packed)
    }

    /// Copies the frames that an earlier blob begins with.
    fn end_beginning(&mut self) -> Result<(), LayerError> {
        match std::mem::replace(&mut self.reusing, Reusing::No) {
            Reusing::Beginning(reuse, earlier, among, count) => {
                if let Some([first, ..]) = among.as_deref() {
                    self.writer.begin(earlier.first(*first, count))?;
                }
                self.reusing = Reusing::Behind(reuse, earlier);
            }
            reusing => self.reusing = reusing,
        }
        Ok(())
    }

    fn make(
        &mut self,
        frame: Frame,
        key: Option<Key>,
        packed: Option<Packed>,
    ) -> Result<(), LayerError> {
        while self.in_flight + frame.len > IN_FLIGHT && self.write()? {}
        let len = frame.len;
        let slot = Arc::new(Slot::new(Task { frame, packed }));
        self.queue.push_back((len, key, Arc::clone(&slot)));
        self.in_flight += len;
        (self.spawn)(slot, self.maker);
        Ok(())
    }

    /// Writes the first of the frames that are made or being made, if there is one.
    fn write(&mut self) -> Result<bool, LayerError> {
        let Some((len, key, slot)) = self.queue.pop_front() else {
            return Ok(false);
        };
        self.writer.write(slot.wait(self.maker)?, key)?;
        self.in_flight -= len;
        Ok(true)
    }

    fn finish(mut self) -> Result<LayerBlob, LayerError> {
        match std::mem::replace(&mut self.reusing, Reusing::No) {
            Reusing::Waiting(_, Some(frame)) => self.make(frame, None, None)?,
            reusing => self.reusing = reusing,
        }
        self.end_beginning()?;
        while self.write()? {}
        let (blob, rows) = self.writer.finish()?;
        if let Reusing::Behind(reuse, _) = self.reusing {
            reuse.table = FrameTable { rows };
        }
        Ok(blob)
    }
}

/// A frame to be made.
struct Task {
    frame: Frame,
    /// Its compressed bytes, if an earlier blob has them.
    packed: Option<Packed>,
}

/// A frame on its way.
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Planned(Task),
    /// Being made, or made and taken.
    Elsewhere,
    Made(Result<Made, LayerError>),
}

struct Made {
    raw: Buffer,
    /// The compressed frame and its BLAKE3, if it is compressed.
    packed: Option<(Buffer, [u8; blake3::OUT_LEN])>,
    /// Parts of big files: from which of their bytes on, and where in `raw`.
    parts: Vec<(Arc<BigFile>, u64, Range<usize>)>,
}

impl Slot {
    fn new(task: Task) -> Self {
        Self {
            state: Mutex::new(State::Planned(task)),
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
            State::Planned(task) => State::Made(maker.make(&task)),
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
                State::Planned(task) => {
                    drop(state);
                    return maker.make(&task);
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
    buffers: Buffers,
}

impl Maker<'_, '_> {
    fn make(&self, Task { frame, packed }: &Task) -> Result<Made, LayerError> {
        if self.cancel.is_cancelled() || self.failed.load(Ordering::Relaxed) {
            return Err(LayerError::Cancelled);
        }
        // And a byte to see where the last file ends.
        let mut raw = self.buffers.take(frame.len as usize + 1);
        let mut parts = Vec::new();
        for piece in &frame.pieces {
            match piece {
                Piece::Bytes(bytes) => raw.more(bytes.len()).copy_from_slice(bytes),
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
                    file.bytes
                        .read_exact_at(raw.more(*len as usize), *offset)
                        .map_err(|error| file.error(error))?;
                    parts.push((Arc::clone(file), *offset, start..raw.len()));
                }
            }
        }
        let packed = match packed.as_ref().and_then(|packed| self.earlier(packed)) {
            Some(packed) => Some(packed),
            None => self.compression.frame(&raw)?.map(|packed| {
                let hash = *blake3::hash(&packed).as_bytes();
                (packed.into(), hash)
            }),
        };
        Ok(Made { raw, packed, parts })
    }

    /// The compressed bytes of a frame, if the earlier blob still has them.
    fn earlier(&self, packed: &Packed) -> Option<(Buffer, [u8; blake3::OUT_LEN])> {
        let mut bytes = self.buffers.take(packed.len);
        if packed.read(bytes.more(packed.len)) {
            return Some((bytes, packed.hash));
        }
        self.buffers.give_back(bytes);
        None
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
fn read_small(bytes: &FileBytes, node: &FileNode, raw: &mut Buffer) -> io::Result<bool> {
    let size = node.size as usize;
    let here = raw.more(size + 1);
    let same = bytes.read_whole(here)? && digest(&here[..size]) == node.digest;
    raw.less(1);
    Ok(same)
}

fn digest(bytes: &[u8]) -> FileDigest {
    FileDigest::from_bytes(*blake3::hash(bytes).as_bytes())
}
