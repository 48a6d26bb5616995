//! Memory for frames, used again and again: fresh memory costs its pages and being zeroed, which for a layer whose frames
//! are only copied and hashed is a tenth of the work.

use std::ops::Deref;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Bytes in memory that may have been used before.
#[derive(Default)]
pub(super) struct Buffer {
    /// All of it was written at some time.
    memory: Vec<u8>,
    len: usize,
    /// It is to be used again.
    kept: bool,
}

impl Buffer {
    /// Appends `len` bytes, for the caller to overwrite: what is in them is unspecified.
    pub(super) fn more(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        if self.memory.len() < self.len {
            self.memory.resize(self.len, 0);
        }
        &mut self.memory[start..self.len]
    }

    /// Takes back the last `len` bytes.
    pub(super) fn less(&mut self, len: usize) {
        self.len -= len;
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(memory: Vec<u8>) -> Self {
        Self {
            len: memory.len(),
            memory,
            kept: false,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

/// Buffers that nobody uses. There are never more than were in use at once.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Buffer>>,
}

impl Buffers {
    /// An empty buffer with room for `len` bytes: the smallest there is, so that what holds compressed frames, which
    /// are small, does not grow to the size of others.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Buffer| buffer.memory.len() >= len;
        let sizes = free.iter().enumerate();
        let best =
            sizes.min_by_key(|(_, buffer)| (!fits(buffer), buffer.memory.len().abs_diff(len)));
        let best = best.map(|(at, _)| at);
        let mut buffer = best.map(|at| free.swap_remove(at)).unwrap_or_default();
        drop(free);
        let more = len.saturating_sub(buffer.memory.len());
        buffer.memory.reserve_exact(more);
        buffer.kept = true;
        buffer
    }

    /// Keeps a buffer that was taken here; others are freed, or there would be more with each frame.
    pub(super) fn give_back(&self, mut buffer: Buffer) {
        if !buffer.kept {
            return;
        }
        buffer.len = 0;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_get_no_more() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(3);
        buffer.more(3).copy_from_slice(b"abc");
        assert_eq!(&*buffer, b"abc");
        let memory = buffer.as_ptr();
        buffers.give_back(buffer);
        for _ in 0..3 {
            buffers.give_back(b"from elsewhere".to_vec().into());
        }
        let mut again = buffers.take(2);
        assert_eq!((again.len(), again.as_ptr()), (0, memory));
        again.more(2);
        assert_eq!(again.len(), 2);
        assert!(buffers.free.lock().unwrap().is_empty());
    }
}
