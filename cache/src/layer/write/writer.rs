//! Made frames in their order: the tar's digest on the thread that lays frames out, the blob's and the writing on another.

use std::io;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use std::thread::Scope;
use std::thread::ScopedJoinHandle;

use rbuild_llb::FileDigest;
use rbuild_llb::OciDigest;
use sha2::Digest as _;
use sha2::Sha256;
use sha2::digest::common::hazmat::SerializedState;

use super::BigFile;
use super::Buffers;
use super::Made;
use crate::frame::Compression;
use crate::layer::LayerBlob;
use crate::layer::LayerError;
use crate::layer::Layout;
use crate::layer::frames;
use crate::layer::frames::Beginning;
use crate::layer::frames::Key;
use crate::layer::frames::Row;
use crate::layer::show;
use crate::threads;

/// Frames that wait for the thread that writes.
const WAITING: usize = 4;
/// More frames than this are not copied while the tar's digest waits.
const LONG: usize = 4;
/// What is copied at once.
const COPY: usize = 1 << 20;

/// Hashes the tar, and hands what was hashed on.
pub(super) struct Writer<'w, 's> {
    compression: Compression,
    buffers: &'w Buffers,
    tar: Sha256,
    tar_size: u64,
    /// Frames taken over as they were.
    begun: Vec<Row>,
    /// Of frames written since that have a key: it, and the tar up to the end of the frame.
    marks: Vec<(Key, u32, SerializedState<Sha256>)>,
    tail: Tail<'w, 's>,
}

/// What is done with a frame behind its place in the tar.
enum Tail<'w, 's> {
    /// Here, as long as there are few.
    Here(Box<Output<'w>>, &'s Scope<'s, 'w>, usize),
    There(
        mpsc::SyncSender<Job>,
        ScopedJoinHandle<'s, Result<Box<Output<'w>>, LayerError>>,
    ),
    /// It has failed, and the error was reported.
    Over,
}

enum Job {
    Frame(Made),
    Beginning(Beginning),
}

impl Job {
    /// Whether it takes longer than starting a thread for it, on which the tar's digest need not wait.
    fn is_long(&self) -> bool {
        match self {
            Self::Frame(_) => false,
            Self::Beginning(beginning) => beginning.blob.is_some() && beginning.rows.len() > LONG,
        }
    }
}

impl<'w, 's> Writer<'w, 's> {
    pub(super) fn new(
        compression: Compression,
        buffers: &'w Buffers,
        out: &'w mut (dyn Write + Send),
        threads: &'s Scope<'s, 'w>,
    ) -> Self {
        let output = Box::new(Output {
            out,
            buffers,
            hashed: compression != Compression::None,
            blob: Sha256::new(),
            size: 0,
            file: blake3::Hasher::new(),
            written: Vec::new(),
        });
        Self {
            compression,
            buffers,
            tar: Sha256::new(),
            tar_size: 0,
            begun: Vec::new(),
            marks: Vec::new(),
            tail: Tail::Here(output, threads, 0),
        }
    }

    /// Begins with frames of an earlier blob.
    pub(super) fn begin(&mut self, beginning: Beginning) -> Result<(), LayerError> {
        if let Some(last) = beginning.rows.last() {
            self.tar = frames::resumed(&last.tar);
        }
        self.tar_size = beginning.rows.iter().map(|row| u64::from(row.raw)).sum();
        self.begun.clone_from(&beginning.rows);
        self.hand_on(Job::Beginning(beginning))
    }

    pub(super) fn write(&mut self, mut made: Made, key: Option<Key>) -> Result<(), LayerError> {
        self.tar.update(&*made.raw);
        self.tar_size += made.raw.len() as u64;
        if let Some(key) = key {
            let mark = (key, made.raw.len() as u32, frames::state(&self.tar));
            self.marks.push(mark);
        }
        if made.packed.is_some() && made.parts.is_empty() {
            self.buffers.give_back(std::mem::take(&mut made.raw));
        }
        self.hand_on(Job::Frame(made))
    }

    fn hand_on(&mut self, job: Job) -> Result<(), LayerError> {
        match std::mem::replace(&mut self.tail, Tail::Over) {
            Tail::Here(mut output, threads, done) if done < 2 && !job.is_long() => {
                output.take(job)?;
                self.tail = Tail::Here(output, threads, done + 1);
                Ok(())
            }
            Tail::Here(output, scope, _) => {
                let (jobs, waiting) = mpsc::sync_channel(WAITING);
                let (give, given) = mpsc::sync_channel::<Box<Output<'w>>>(1);
                let thread = threads::spawn(scope, move || {
                    let mut output = given.recv().map_err(|_| LayerError::Cancelled)?;
                    for job in waiting {
                        output.take(job)?;
                    }
                    Ok(output)
                });
                match thread {
                    Ok(thread) => {
                        give.send(output).expect("there is room for one");
                        self.tail = Tail::There(jobs, thread);
                        self.hand_on(job)
                    }
                    // There may be one later.
                    Err(_) => {
                        let mut output = output;
                        output.take(job)?;
                        self.tail = Tail::Here(output, scope, 1);
                        Ok(())
                    }
                }
            }
            Tail::There(jobs, thread) => match jobs.send(job) {
                Ok(()) => {
                    self.tail = Tail::There(jobs, thread);
                    Ok(())
                }
                Err(mpsc::SendError(_)) => joined(thread).map(drop),
            },
            Tail::Over => Err(LayerError::Cancelled),
        }
    }

    /// The blob, and the frames that have a key.
    pub(super) fn finish(self) -> Result<(LayerBlob, Vec<Row>), LayerError> {
        let output = match self.tail {
            Tail::Here(output, ..) => output,
            Tail::There(jobs, thread) => {
                drop(jobs);
                joined(thread)?
            }
            Tail::Over => return Err(LayerError::Cancelled),
        };
        output
            .out
            .flush()
            .map_err(|source| LayerError::WriteBlob { source })?;
        let diff_id = OciDigest::from_bytes(self.tar.finalize().into());
        let digest = match self.compression {
            Compression::None => diff_id,
            _ => OciDigest::from_bytes(output.blob.finalize().into()),
        };
        let blob = LayerBlob {
            digest,
            diff_id,
            size: output.size,
            tar_size: self.tar_size,
            compression: self.compression,
            layout: Layout::Tar,
        };
        let mut rows = self.begun;
        let mut written = output.written.into_iter();
        rows.extend(self.marks.into_iter().map(|(key, raw, tar)| {
            // What is not compressed is as it is in the tar.
            let (packed, hash, blob) = match written.next() {
                Some(written) => (written.len, written.hash, written.state),
                None => (raw, [0; blake3::OUT_LEN], tar),
            };
            Row {
                key,
                raw,
                packed,
                hash,
                tar,
                blob,
            }
        }));
        Ok((blob, rows))
    }
}

fn joined<'w>(
    thread: ScopedJoinHandle<'_, Result<Box<Output<'w>>, LayerError>>,
) -> Result<Box<Output<'w>>, LayerError> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Where a blob goes.
struct Output<'w> {
    out: &'w mut (dyn Write + Send),
    buffers: &'w Buffers,
    /// Whether the blob is something else than the tar.
    hashed: bool,
    blob: Sha256,
    size: u64,
    /// BLAKE3 of the big file that is passing.
    file: blake3::Hasher,
    /// Frames, if they are compressed.
    written: Vec<Written>,
}

/// A frame that was written.
struct Written {
    len: u32,
    hash: [u8; blake3::OUT_LEN],
    /// SHA-256 of the blob up to its end.
    state: SerializedState<Sha256>,
}

impl Output<'_> {
    fn take(&mut self, job: Job) -> Result<(), LayerError> {
        match job {
            Job::Frame(made) => self.frame(made),
            Job::Beginning(beginning) => self.copy(&beginning),
        }
    }

    fn frame(&mut self, made: Made) -> Result<(), LayerError> {
        let Made { raw, packed, parts } = made;
        for (file, offset, range) in &parts {
            self.check(file, *offset, &raw, range)?;
        }
        match packed {
            Some((packed, hash)) => {
                self.blob.update(&*packed);
                self.written.push(Written {
                    len: packed.len() as u32,
                    hash,
                    state: frames::state(&self.blob),
                });
                self.write(&packed)?;
                self.buffers.give_back(packed);
            }
            None => {
                if self.hashed {
                    self.blob.update(&*raw);
                }
                self.write(&raw)?;
            }
        }
        self.buffers.give_back(raw);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.size += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(|source| LayerError::WriteBlob { source })
    }

    /// Copies what an earlier blob begins with, and goes on with its digest.
    fn copy(&mut self, beginning: &Beginning) -> Result<(), LayerError> {
        let failed = |source| LayerError::EarlierBlob { source };
        let mut frame = Vec::new();
        let Some(blob) = &beginning.blob else {
            let sizes = beginning.rows.iter().map(|row| u64::from(row.packed));
            self.size += sizes.sum::<u64>();
            return Ok(());
        };
        for row in &beginning.rows {
            frame.resize(row.packed as usize, 0);
            blob.read_exact_at(&mut frame, self.size).map_err(failed)?;
            // The digest is that of the bytes there were.
            if *blake3::hash(&frame).as_bytes() != row.hash {
                return Err(failed(io::ErrorKind::InvalidData.into()));
            }
            self.write(&frame)?;
        }
        if let Some(last) = beginning.rows.last() {
            self.blob = frames::resumed(&last.blob);
        }
        Ok(())
    }

    /// Hashes the next part of a big file, and checks the whole at its last one.
    fn check(
        &mut self,
        file: &BigFile,
        offset: u64,
        raw: &[u8],
        range: &Range<usize>,
    ) -> Result<(), LayerError> {
        // Parts that an earlier blob had were not read.
        let mut buffer = Vec::new();
        while self.file.count() < offset {
            let at = self.file.count();
            buffer.resize((offset - at).min(COPY as u64) as usize, 0);
            file.bytes
                .read_exact_at(&mut buffer, at)
                .map_err(|error| file.error(error))?;
            self.file.update(&buffer);
        }
        self.file.update(&raw[range.clone()]);
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
}
