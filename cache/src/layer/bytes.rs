//! The bytes of a file, wherever they are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// A file's bytes: a file of their own, or a stretch of an uncompressed archive. How many there are to be is in the tree.
#[derive(Debug, Clone)]
pub struct FileBytes {
    file: Arc<File>,
    start: u64,
    /// Nothing belongs behind the last byte.
    own: bool,
}

impl From<File> for FileBytes {
    fn from(file: File) -> Self {
        Self {
            file: Arc::new(file),
            start: 0,
            own: true,
        }
    }
}

impl FileBytes {
    /// The bytes of `archive` from byte `start`. See [`locate_files`](super::locate_files).
    pub fn within(archive: &Arc<File>, start: u64) -> Self {
        Self {
            file: Arc::clone(archive),
            start,
            own: false,
        }
    }

    /// Fills the buffer from the file's byte `offset`.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.start + offset)
    }

    /// Fills all of `room` but its last byte, which is for what must not be there: whether these were the bytes and nothing
    /// came behind them. A file takes one call, not two.
    pub(super) fn read_whole(&self, room: &mut [u8]) -> io::Result<bool> {
        let wanted = room.len() - 1;
        let room = if self.own { room } else { &mut room[..wanted] };
        let mut read = 0;
        // Only a file's end is before what was asked for.
        while read < wanted {
            match self
                .file
                .read_at(&mut room[read..], self.start + read as u64)
            {
                Ok(0) => return Ok(false),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match wanted {
            0 => Ok(!self.exceeds(0)?),
            _ => Ok(read == wanted),
        }
    }

    /// Whether the file has grown beyond `size` bytes.
    pub(super) fn exceeds(&self, size: u64) -> io::Result<bool> {
        Ok(self.own && self.file.read_at(&mut [0], size)? > 0)
    }
}
