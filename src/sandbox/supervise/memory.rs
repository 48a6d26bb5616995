//! Reading what a call's addresses point to. Pure: how memory is read is the caller's affair.

use rustix::io::Errno;

/// `PATH_MAX`, with the zero at the end.
const PATH_MAX: usize = 4096;
/// The smallest page there is: what starts in one can be read to its end.
const PAGE: u64 = 4096;
/// Most paths are shorter.
const FIRST: usize = 256;

/// Reads from an address on; how many bytes there were.
pub(super) trait Read: FnMut(u64, &mut [u8]) -> Result<usize, Errno> {}
impl<F: FnMut(u64, &mut [u8]) -> Result<usize, Errno>> Read for F {}

/// A path, as the kernel reads it: up to a zero, `EFAULT` where there is no memory, `ENAMETOOLONG` beyond `PATH_MAX`.
pub(super) fn path(address: u64, mut read: impl Read) -> Result<Vec<u8>, Errno> {
    let mut path = Vec::new();
    let mut room = FIRST;
    loop {
        let at = address.checked_add(path.len() as u64).ok_or(Errno::FAULT)?;
        let to_end_of_page = (PAGE - at % PAGE) as usize;
        let len = room.min(to_end_of_page).min(PATH_MAX - path.len());
        if len == 0 {
            return Err(Errno::NAMETOOLONG);
        }
        let before = path.len();
        path.resize(before + len, 0);
        let got = read(at, &mut path[before..])?;
        path.truncate(before + got);
        if let Some(end) = path[before..].iter().position(|&byte| byte == 0) {
            path.truncate(before + end);
            return Ok(path);
        }
        if got < len {
            return Err(Errno::FAULT);
        }
        room = PATH_MAX;
    }
}

/// `count` words of 32 bits.
pub(super) fn words(address: u64, count: usize, mut read: impl Read) -> Result<Vec<u32>, Errno> {
    let mut bytes = vec![0; count * 4];
    if read(address, &mut bytes)? < bytes.len() {
        return Err(Errno::FAULT);
    }
    let word = |chunk: &[u8]| u32::from_ne_bytes(*chunk.first_chunk().expect("four bytes"));
    Ok(bytes.chunks_exact(4).map(word).collect())
}

/// The directory a path's last name is looked up in, and that name. Nothing where the path ends in none that could be
/// made: at the root, in a slash, in `.` or `..`.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    (!matches!(name, b"" | b"." | b"..")).then_some((dir, name))
}
