//! What decompressing a blob takes in memory: the window of each zstd frame (RFC 8878, section 3.1.1.1), which the frame
//! chooses, up to the 128 MiB that libzstd takes unasked. Frames with larger windows than every decoder is to take are
//! decompressed one blob at a time, so that several layers on their way need no more than one.
//!
//! Only what says where frames and blocks begin is looked at. Whether it is right is the decompressor's affair: from where
//! it is not, bytes pass unseen.

use std::io;
use std::io::Read;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// What decoders are recommended to take, and encoders not to exceed (RFC 8878, section 3.1.1.1.2).
const USUAL: u64 = 8 << 20;

/// Who has it may take much memory.
pub(super) static MUCH: Mutex<()> = Mutex::new(());

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Waits until nobody else has it. It guards nothing that a panic could leave half done.
pub(super) fn alone(place: &'static Mutex<()>) -> MutexGuard<'static, ()> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is read by somebody who takes much memory for it.
pub(super) struct Alone<R> {
    pub(super) inner: R,
    pub(super) _place: MutexGuard<'static, ()>,
}

impl<R: Read> Read for Alone<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

/// Passes a zstd blob on. Before the first frame with a large window passes, it waits for `place`, and has it from then on.
pub(super) struct Windows<R> {
    inner: R,
    place: &'static Mutex<()>,
    held: Option<MutexGuard<'static, ()>>,
    at: At,
    /// Bytes of what [`At`] is, as far as they have passed.
    seen: Vec<u8>,
    checksum: bool,
}

/// What comes next.
#[derive(Clone, Copy)]
enum At {
    /// The header of a frame.
    Frame,
    /// The header of a block.
    Block,
    /// So many bytes of no interest, and what comes after them.
    Skip(u64, Next),
    /// What is no zstd.
    Rest,
}

#[derive(Clone, Copy)]
enum Next {
    Frame,
    Block,
}

impl<R: Read> Windows<R> {
    pub(super) fn new(inner: R, place: &'static Mutex<()>) -> Self {
        Self {
            inner,
            place,
            held: None,
            at: At::Frame,
            seen: Vec::new(),
            checksum: false,
        }
    }

    fn watch(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.at {
                At::Rest => return,
                At::Skip(left, next) => {
                    let skipped = usize::try_from(left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    bytes = &bytes[skipped..];
                    self.at = match (left - skipped as u64, next) {
                        (0, Next::Frame) => At::Frame,
                        (0, Next::Block) => At::Block,
                        (left, next) => At::Skip(left, next),
                    };
                }
                At::Frame | At::Block => {
                    self.seen.push(bytes[0]);
                    bytes = &bytes[1..];
                    let next = match self.at {
                        At::Frame => self.frame(),
                        _ => self.block(),
                    };
                    if let Some(next) = next {
                        self.seen.clear();
                        self.at = match next {
                            At::Skip(0, Next::Frame) => At::Frame,
                            At::Skip(0, Next::Block) => At::Block,
                            next => next,
                        };
                    }
                }
            }
        }
    }

    /// What comes after the header of a frame, once that is whole.
    fn frame(&mut self) -> Option<At> {
        let magic = self.seen.first_chunk::<4>()?;
        if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
            let size = number(self.seen.get(4..8)?);
            return Some(At::Skip(size, Next::Frame));
        }
        if *magic != ZSTD {
            return Some(At::Rest);
        }
        let descriptor = *self.seen.get(4)?;
        let single = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = match descriptor >> 6 {
            0 => usize::from(single),
            flag => 1 << flag,
        };
        let fields = 5 + usize::from(!single);
        let size = self
            .seen
            .get(fields + dictionary..fields + dictionary + content)?;
        let window = match single {
            true => number(size) + if content == 2 { 256 } else { 0 },
            false => {
                let (exponent, mantissa) = (self.seen[5] >> 3, self.seen[5] & 7);
                let base = 1_u64 << (10 + exponent);
                base + base / 8 * u64::from(mantissa)
            }
        };
        if window > USUAL && self.held.is_none() {
            self.held = Some(alone(self.place));
        }
        self.checksum = descriptor & 4 != 0;
        Some(At::Block)
    }

    /// What comes after the header of a block, once that is whole.
    fn block(&mut self) -> Option<At> {
        let header = number(self.seen.get(..3)?);
        let (last, size) = (header & 1 != 0, header >> 3);
        let size = match header >> 1 & 3 {
            // One byte, so many times.
            1 => 1,
            3 => return Some(At::Rest),
            _ => size,
        };
        Some(match last {
            true => At::Skip(size + if self.checksum { 4 } else { 0 }, Next::Frame),
            false => At::Skip(size, Next::Block),
        })
    }
}

impl<R: Read> Read for Windows<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.watch(&buffer[..len]);
        Ok(len)
    }
}

/// Little-endian.
fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod t {
    use super::*;
    use std::io::Write as _;
    use zstd::stream::raw::CParameter;

    /// A frame made by libzstd with a window of `1 << log` bytes.
    fn frame(log: u32, checksum: bool, size: usize) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(checksum).unwrap();
        encoder.set_parameter(CParameter::WindowLog(log)).unwrap();
        // Half of it does not compress: blocks of all kinds.
        let mut state = 7_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        encoder.write_all(&vec![0; size / 2]).unwrap();
        encoder
            .write_all(&noise.take(size / 2).collect::<Vec<_>>())
            .unwrap();
        encoder.finish().unwrap()
    }

    /// How many bytes pass, read so many at once, before it has the place; `None` if it never does.
    fn waits_at(blob: &[u8], at_once: usize) -> Option<usize> {
        let place: &'static Mutex<()> = Box::leak(Box::default());
        let mut windows = Windows::new(blob, place);
        let mut buffer = vec![0; at_once];
        let mut passed = 0;
        loop {
            let len = windows.read(&mut buffer).unwrap();
            assert_eq!(windows.held.is_some(), place.try_lock().is_err());
            if windows.held.is_some() {
                return Some(passed);
            }
            if len == 0 {
                assert_eq!(passed, blob.len());
                return None;
            }
            passed += len;
        }
    }

    #[test]
    fn only_larger_windows_than_usual_wait() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], &[0x28; 5]].concat();
        let usual = [frame(23, true, 300_000), frame(19, false, 300_000)].concat();
        // The whole size is known to the encoder, and is the window.
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(CParameter::WindowLog(24)).unwrap();
        encoder.set_pledged_src_size(Some(9 << 20)).unwrap();
        encoder.write_all(&vec![0; 9 << 20]).unwrap();
        let single = encoder.finish().unwrap();
        let small = zstd::bulk::compress(&[0; 300], 1).unwrap();
        let before = [&skippable, &usual, &small, &skippable, &usual]
            .map(Vec::as_slice)
            .concat();
        for at_once in [1, 7, 100_000] {
            assert_eq!(waits_at(&before, at_once), None);
            for large in [
                frame(24, false, 300_000),
                frame(27, true, 10),
                single.clone(),
            ] {
                let blob = [&before[..], &large].concat();
                let at = waits_at(&blob, at_once).unwrap();
                // Before the header has passed, 14 bytes at most; it never waits early by more than it reads at once.
                assert!((before.len() + 14).abs_diff(at) <= at_once.max(14), "{at}");
            }
            assert_eq!(waits_at(b"no zstd at all, but text", at_once), None);
            assert_eq!(
                waits_at(
                    &[&usual[..], &[0; 10], &frame(27, true, 10)].concat(),
                    at_once
                ),
                None
            );
        }
    }

    /// What passes is what came.
    #[test]
    fn bytes_pass_as_they_are() {
        let blob = [frame(27, true, 300_000), frame(20, false, 1000)].concat();
        let mut passed = Vec::new();
        let place: &'static Mutex<()> = Box::leak(Box::default());
        let mut windows = Windows::new(&blob[..], place);
        windows.read_to_end(&mut passed).unwrap();
        assert_eq!(passed, blob);
        drop(windows);
        assert!(place.try_lock().is_ok());
    }
}
