//! The tar format, as far as OCI layers use it: POSIX ustar with PAX extended headers when writing, those and GNU's
//! extensions when reading. [`::tar::Header`] names a header's fields; all values are read and written here, because
//! layers need what it does not do (PAX values with newlines, sparse files, negative times, blank fields).

pub(crate) mod pax;
pub(crate) mod read;
pub(crate) mod write;

/// A tar is a sequence of blocks of this many bytes.
pub(crate) const BLOCK: usize = 512;

/// What a whiteout's name starts with (OCI image-spec, layer.md, Whiteouts).
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The file that makes its directory opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS' own files start with; no layer means them.
pub(crate) const AUFS: &[u8] = b".wh..wh.";

/// The zero bytes that fill `size` up to whole blocks.
pub(crate) fn padding(size: u64) -> usize {
    let rest = (size % BLOCK as u64) as usize;
    if rest == 0 { 0 } else { BLOCK - rest }
}
