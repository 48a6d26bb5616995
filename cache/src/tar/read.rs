//! Reading an archive that may be hostile.
//!
//! Understood: V7, ustar, PAX, GNU and star headers; GNU long names, GNU sparse files and PAX sparse files 0.0, 0.1 and
//! 1.0; sizes, owners and times in octal, base-256 or PAX. Everything a header makes us hold in memory is bounded; what a
//! file holds is streamed.

mod sparse;

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::io::Seek;

use tar::Header;

use super::BLOCK;
use super::padding;
use super::pax;
use crate::tree::Meta;
use crate::tree::Timestamp;

/// The most a PAX header or a GNU long name may take, as in Go's `archive/tar`.
const MAX_EXTENDED: u64 = 1 << 20;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It could not be read or decompressed.
    #[error("cannot read the archive after {offset} bytes")]
    Read {
        /// Where, in the uncompressed archive.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ends inside a header or a file.
    #[error("the archive is cut off after {offset} bytes")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// A header makes no sense.
    #[error("the archive's header at byte {offset} is malformed: {problem}")]
    Header {
        /// Where the header starts.
        offset: u64,
        /// What about it.
        problem: &'static str,
    },
}

/// The kinds of entry a layer may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Link,
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// An entry's header with all extensions applied.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As written.
    pub(crate) path: Vec<u8>,
    /// The target of a symbolic or hard link, as written.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
}

/// Reads one entry after another.
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes read.
    offset: u64,
    body: Body,
    /// Zeros that sparse files have expanded to.
    holes: u64,
}

/// What is left of the current entry.
#[derive(Default)]
struct Body {
    /// Bytes in the archive, padding excluded.
    stored: u64,
    padding: usize,
    /// The pieces of a sparse file that are left: zeros, then bytes of the archive; the last first.
    pieces: Vec<(u64, u64)>,
}

/// The extensions collected before an entry.
#[derive(Default)]
struct Extensions {
    pax: Vec<u8>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// The PAX records an entry can have, sorted out.
#[derive(Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: Sparse,
}

#[derive(Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    name: Option<Vec<u8>>,
    /// 0.0 and 0.1: offset, length, offset, length, …
    map: Vec<u64>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            body: Body::default(),
            holes: 0,
        }
    }

    /// The next entry; `None` at the end. What was not read of the last one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            let skip = self.body.stored + self.body.padding as u64;
            self.body = Body::default();
            self.skip(skip)?;
            let at = self.offset;
            let bad = |problem| TarError::Header {
                offset: at,
                problem,
            };
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block == [0; BLOCK] {
                return match self.block()? {
                    None => Ok(None),
                    Some(second) if second == [0; BLOCK] => Ok(None),
                    Some(_) => Err(bad("a single block of zeros")),
                };
            }
            if !checksum_holds(&block) {
                return Err(bad("wrong checksum"));
            }
            let header = Header::from_byte_slice(&block);
            let fields = header.as_old();
            let size = number(&fields.size).ok_or_else(|| bad("size"))?;
            let size = u64::try_from(size).map_err(|_| bad("negative size"))?;
            match fields.linkflag[0] {
                b'x' => extensions.pax = self.extended(size, at)?,
                // Neither containerd nor moby applies global headers; git archives carry a comment in one.
                b'g' => drop(self.extended(size, at)?),
                b'L' => extensions.name = Some(c_string(&self.extended(size, at)?)),
                b'K' => extensions.link = Some(c_string(&self.extended(size, at)?)),
                _ => return self.entry(header, size, extensions, at).map(Some),
            }
        }
    }

    /// Reads from the current entry's file; holes are zeros.
    pub(crate) fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let up_to = |left: u64| {
            buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX))
        };
        let want = loop {
            match self.body.pieces.last_mut() {
                None => return Ok(0),
                Some((0, 0)) => drop(self.body.pieces.pop()),
                Some((0, data)) => break up_to(*data),
                Some((zeros, _)) => {
                    let len = up_to(*zeros);
                    buffer[..len].fill(0);
                    *zeros -= len as u64;
                    return Ok(len);
                }
            }
        };
        let len = self.read(&mut buffer[..want])?;
        if len == 0 && want > 0 {
            return Err(TarError::Truncated {
                offset: self.offset,
            });
        }
        if let Some((_, data)) = self.body.pieces.last_mut() {
            *data -= len as u64;
        }
        self.body.stored -= len as u64;
        Ok(len)
    }

    /// Skips a hole if the current entry's file has one here, and says how long it was.
    pub(crate) fn skip_hole(&mut self) -> u64 {
        match self.body.pieces.last_mut() {
            Some((zeros, _)) => std::mem::take(zeros),
            None => 0,
        }
    }

    /// Where in the archive the current entry's file starts, of which nothing was read yet; `None` if its bytes are not
    /// all there in one piece.
    pub(crate) fn body_at(&self) -> Option<u64> {
        (self.body.pieces == [(0, self.body.stored)]).then_some(self.offset)
    }

    /// Reads to the end of the input: what is behind the archive's end belongs to the layer's digest.
    pub(crate) fn drain(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 16 * BLOCK];
        while self.read(&mut buffer)? > 0 {}
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extensions: Extensions,
        at: u64,
    ) -> Result<Entry, TarError> {
        let bad = |problem| TarError::Header {
            offset: at,
            problem,
        };
        let records = Records::parse(&extensions.pax).map_err(bad)?;
        let fields = header.as_old();
        let stored = records.size.unwrap_or(size);
        let mut path = records
            .sparse
            .name
            .clone()
            .or(records.path)
            .or(extensions.name)
            .unwrap_or_else(|| header_path(header));
        let kind = kind(header, &path).map_err(bad)?;
        if kind == Kind::Dir {
            while path.len() > 1 && path.last() == Some(&b'/') {
                path.pop();
            }
        }
        let link = records
            .link
            .or(extensions.link)
            .unwrap_or_else(|| c_string(&fields.linkname));
        let meta = meta(
            header,
            records.uid,
            records.gid,
            records.mtime,
            records.xattrs,
        )
        .map_err(bad)?;
        let mut entry = Entry {
            path,
            link,
            kind,
            meta,
            size: 0,
        };
        if entry.kind == Kind::File {
            entry.size = self.open_body(header, stored, records.sparse, at)?;
        }
        Ok(entry)
    }

    /// Sets up the body of a regular file, reading a sparse file's map; returns the file's size.
    fn open_body(
        &mut self,
        header: &Header,
        stored: u64,
        sparse: Sparse,
        at: u64,
    ) -> Result<u64, TarError> {
        let bad = |problem| TarError::Header {
            offset: at,
            problem,
        };
        // A size nobody can add to without overflowing is no size.
        if stored > i64::MAX as u64 {
            return Err(bad("size"));
        }
        self.body = Body {
            stored,
            padding: padding(stored),
            pieces: vec![(0, stored)],
        };
        let (map, size) = if header.as_old().linkflag[0] == b'S' {
            self.old_sparse(header, at)?
        } else if (sparse.major, sparse.minor) == (Some(1), Some(0)) {
            let size = sparse.size.ok_or_else(|| bad("sparse file without size"))?;
            (self.sparse_map(at)?, size)
        } else if sparse.major.is_some_and(|major| major > 1) {
            return Err(bad("unknown sparse format"));
        } else if let Some(size) = sparse.size {
            (
                sparse::pairs(&sparse.map).ok_or_else(|| bad("sparse map"))?,
                size,
            )
        } else {
            return Ok(stored);
        };
        self.set_map(&map, size).map_err(bad)?;
        Ok(size)
    }

    /// The data of an extended header or long name.
    fn extended(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENDED {
            return Err(TarError::Header {
                offset: at,
                problem: "extended header of absurd size",
            });
        }
        let mut data = vec![0; size as usize];
        self.exact(&mut data)?;
        self.skip(padding(size) as u64)?;
        Ok(data)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.input.read(buffer) {
                Ok(len) => {
                    self.offset += len as u64;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
    }

    fn exact(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => {
                    return Err(TarError::Truncated {
                        offset: self.offset,
                    });
                }
                len => buffer = &mut buffer[len..],
            }
        }
        Ok(())
    }

    /// A block; `None` if the input ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        match self.read(&mut block)? {
            0 => Ok(None),
            len => self.exact(&mut block[len..]).map(|()| Some(block)),
        }
    }

    fn skip(&mut self, mut len: u64) -> Result<(), TarError> {
        let mut buffer = [0; 16 * BLOCK];
        while len > 0 {
            let want = len.min(buffer.len() as u64) as usize;
            self.exact(&mut buffer[..want])?;
            len -= want as u64;
        }
        Ok(())
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Goes to the end of the current entry without reading it.
    pub(crate) fn pass_body(&mut self) -> Result<(), TarError> {
        let body = std::mem::take(&mut self.body);
        let read_error = |offset| move |source| TarError::Read { offset, source };
        for len in [body.stored, body.padding as u64] {
            // No body is longer than that, as `open_body` has seen to.
            let step = i64::try_from(len).unwrap_or(i64::MAX);
            self.input
                .seek_relative(step)
                .map_err(read_error(self.offset))?;
            self.offset = self.offset.saturating_add(len);
        }
        Ok(())
    }
}

impl Records {
    fn parse(data: &[u8]) -> Result<Self, &'static str> {
        let mut out = Self::default();
        let number = |value| pax::decimal(value).ok_or("PAX number");
        let name = |value: &[u8]| match value {
            // An empty value takes a record back (POSIX).
            [] => Ok(None),
            value if value.contains(&0) => Err("NUL in a PAX name"),
            value => Ok(Some(value.to_vec())),
        };
        for (key, value) in pax::parse(data).ok_or("PAX records")? {
            match key {
                b"path" => out.path = name(value)?,
                b"linkpath" => out.link = name(value)?,
                b"GNU.sparse.name" => out.sparse.name = name(value)?,
                b"GNU.sparse.major" => out.sparse.major = Some(number(value)?),
                b"GNU.sparse.minor" => out.sparse.minor = Some(number(value)?),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                    out.sparse.size = Some(number(value)?);
                }
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    out.sparse.map.push(number(value)?);
                }
                b"GNU.sparse.map" => {
                    let numbers = value.split(|b| *b == b',').map(number);
                    out.sparse.map = numbers.collect::<Result<_, _>>()?;
                }
                _ if value.is_empty() && !key.starts_with(pax::XATTR) => {}
                b"size" => out.size = Some(number(value)?),
                b"uid" => out.uid = Some(number(value)?),
                b"gid" => out.gid = Some(number(value)?),
                b"mtime" => out.mtime = Some(pax::time(value).ok_or("PAX mtime")?),
                key => {
                    if let Some(name) = key.strip_prefix(pax::XATTR) {
                        out.xattrs.insert(pax::decode_xattr(name), value.to_vec());
                    }
                }
            }
        }
        Ok(out)
    }
}

fn kind(header: &Header, path: &[u8]) -> Result<Kind, &'static str> {
    let device = || -> Result<(u32, u32), &'static str> {
        // The same place in ustar and GNU headers; V7 headers cannot describe devices.
        let ustar = header.as_ustar().map(|h| (h.dev_major, h.dev_minor));
        let fields = ustar.or_else(|| header.as_gnu().map(|h| (h.dev_major, h.dev_minor)));
        let (major, minor) = fields.ok_or("device without device number")?;
        let part = |field: &[u8]| {
            number(field)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or("device number")
        };
        Ok((part(&major)?, part(&minor)?))
    };
    Ok(match header.as_old().linkflag[0] {
        // V7 had no directories: a slash at the end made one.
        0 if path.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Link,
        b'2' => Kind::Symlink,
        b'3' => device().map(|(major, minor)| Kind::Char { major, minor })?,
        b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        _ => return Err("unknown type of entry"),
    })
}

fn meta(
    header: &Header,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Meta, &'static str> {
    let fields = header.as_old();
    // (uid_t) -1 means "leave it" to chown(2) and is nobody's id.
    let id = |pax: Option<u64>, field: &[u8], problem| {
        pax.map(i64::try_from)
            .map_or_else(|| number(field), Result::ok)
            .and_then(|id| u32::try_from(id).ok())
            .filter(|id| *id != u32::MAX)
            .ok_or(problem)
    };
    let (secs, nanos) = match mtime {
        Some(mtime) => mtime,
        None => (number(&fields.mtime).ok_or("mtime")?, 0),
    };
    let mode = number(&fields.mode).ok_or("mode")?;
    Ok(Meta {
        mode: (mode & 0o7777) as u32,
        uid: id(uid, &fields.uid, "uid")?,
        gid: id(gid, &fields.gid, "gid")?,
        mtime: Timestamp { secs, nanos },
        xattrs,
    })
}

/// The name in the header itself, with the prefix that only POSIX headers have there.
fn header_path(header: &Header) -> Vec<u8> {
    let name = c_string(&header.as_old().name);
    let Some(ustar) = header.as_ustar() else {
        return name;
    };
    // star has times where the prefix' last 24 bytes would be, and says so at the end.
    let star = header.as_bytes().ends_with(b"tar\0");
    let prefix = c_string(&ustar.prefix[..if star { 131 } else { 155 }]);
    if prefix.is_empty() {
        return name;
    }
    [prefix, name].join(&b'/')
}

fn c_string(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// A numeric field: octal digits with blanks or NULs around them (all blank is 0), or base-256 if the first bit is set,
/// negative if the second is too.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let head = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
        let value = rest.iter().try_fold(head, |value, byte| {
            value.checked_mul(256)?.checked_add(i128::from(*byte))
        })?;
        return value.try_into().ok();
    }
    let Some(start) = field.iter().position(|b| !matches!(b, b' ' | 0)) else {
        return Some(0);
    };
    let digits = &field[start..];
    let end = digits
        .iter()
        .position(|b| matches!(b, b' ' | 0))
        .unwrap_or(digits.len());
    let text = std::str::from_utf8(&digits[..end]).ok()?;
    if text.starts_with('+') {
        return None;
    }
    i64::from_str_radix(text, 8).ok()
}

/// Old tars summed the bytes as signed.
fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    number(&block[148..156]).is_some_and(|sum| sum == unsigned || sum == signed)
}
