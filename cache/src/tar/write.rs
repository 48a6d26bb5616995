//! Tar headers, byte for byte as Go's `archive/tar` writes them for containerd and BuildKit with `FormatPAX`: a plain
//! ustar header where everything fits, else a PAX header before it with what does not.
//!
//! Times are whole seconds, cut towards the past: containerd truncates `ModTime` before it writes a layer, and a
//! fraction would cost every entry a PAX header. User and group names are empty. A name that ustar cannot hold, or with
//! bytes above 0x7f, goes into a PAX `path`, as it is: PAX asks for UTF-8, but every reader takes the bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tar::EntryType;
use tar::Header;

use super::BLOCK;
use super::padding;
use super::pax;
use crate::tree::Meta;

/// What a header describes.
pub(crate) enum Kind<'a> {
    File { size: u64 },
    Dir,
    Symlink { target: &'a [u8] },
    Link { target: &'a [u8] },
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// Appends an entry's header blocks. `path` has no leading slash and, also for a directory, no trailing one.
pub(crate) fn header(to: &mut Vec<u8>, path: &[u8], meta: &Meta, kind: &Kind<'_>, mtime: i64) {
    let mut name = path.to_vec();
    let (flag, link, size, device) = match *kind {
        Kind::File { size } => (EntryType::Regular, &[][..], size, (0, 0)),
        Kind::Dir => {
            name.push(b'/');
            (EntryType::Directory, &[][..], 0, (0, 0))
        }
        Kind::Symlink { target } => (EntryType::Symlink, target, 0, (0, 0)),
        Kind::Link { target } => (EntryType::Link, target, 0, (0, 0)),
        Kind::Char { major, minor } => (EntryType::Char, &[][..], 0, (major, minor)),
        Kind::Block { major, minor } => (EntryType::Block, &[][..], 0, (major, minor)),
        Kind::Fifo => (EntryType::Fifo, &[][..], 0, (0, 0)),
    };

    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut header = Header::new_ustar();
    let fields = header.as_old_mut();
    let mut number = |field: &mut [u8], key: &[u8], value: i128| {
        if !octal(field, value) {
            records.insert(key.to_vec(), value.to_string().into_bytes());
        }
    };
    number(&mut fields.uid, b"uid", meta.uid.into());
    number(&mut fields.gid, b"gid", meta.gid.into());
    number(&mut fields.size, b"size", size.into());
    number(&mut fields.mtime, b"mtime", mtime.into());
    octal(&mut fields.mode, (meta.mode & 0o7777).into());
    fields.linkflag = [flag.as_byte()];
    if !text(&mut fields.linkname, link) {
        records.insert(b"linkpath".to_vec(), link.to_vec());
    }
    if !matches!(kind, Kind::Link { .. }) {
        for (name, value) in &meta.xattrs {
            records.insert(pax::encode_xattr(name), value.clone());
        }
    }
    let short = text(&mut header.as_old_mut().name, &name);
    if let Some(ustar) = header.as_ustar_mut() {
        octal(&mut ustar.dev_major, device.0.into());
        octal(&mut ustar.dev_minor, device.1.into());
        match split(&name) {
            // Only if nothing else needs a PAX header.
            Some((prefix, rest)) if records.is_empty() => {
                ustar.name.fill(0);
                text(&mut ustar.name, rest);
                text(&mut ustar.prefix, prefix);
            }
            _ if short => {}
            _ => {
                records.insert(b"path".to_vec(), name.clone());
            }
        }
    }
    checksum(&mut header);

    if !records.is_empty() {
        extended(to, &name, &records);
    }
    to.extend_from_slice(header.as_bytes());
}

/// Divides a name that is too long for its field at a slash, so that prefix and name hold it.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    if name.len() <= NAME || !name.is_ascii() {
        return None;
    }
    let searched = match name.strip_suffix(b"/") {
        Some(dir) if name.len() <= PREFIX + 1 => dir,
        _ => &name[..name.len().min(PREFIX + 1)],
    };
    let slash = searched.iter().rposition(|b| *b == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (slash > 0 && (1..=NAME).contains(&rest.len())).then_some((prefix, rest))
}

/// The PAX header before an entry called `name`.
fn extended(to: &mut Vec<u8>, name: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut data = Vec::new();
    for (key, value) in records {
        pax::push(&mut data, key, value);
    }
    // Go: path.Join(dir, "PaxHeaders.0", file).
    let slash = name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (dir, file) = name.split_at(slash);
    let mut own = [dir, b"PaxHeaders.0"].concat();
    if !file.is_empty() {
        own.push(b'/');
        own.extend_from_slice(file);
    }
    if let Some(clean) = own.strip_prefix(b"./") {
        own = clean.to_vec();
    }
    own.retain(u8::is_ascii);
    own.truncate(100);
    while own.last() == Some(&b'/') {
        own.pop();
    }

    let mut header = Header::new_ustar();
    let fields = header.as_old_mut();
    text(&mut fields.name, &own);
    octal(&mut fields.mode, 0);
    octal(&mut fields.uid, 0);
    octal(&mut fields.gid, 0);
    octal(&mut fields.size, data.len() as i128);
    octal(&mut fields.mtime, 0);
    fields.linkflag = [EntryType::XHeader.as_byte()];
    checksum(&mut header);
    to.extend_from_slice(header.as_bytes());
    let fill = padding(data.len() as u64);
    to.append(&mut data);
    to.resize(to.len() + fill, 0);
}

/// Fills a field with octal digits and a NUL; with zeros, saying `false`, if the value does not fit.
fn octal(field: &mut [u8], value: i128) -> bool {
    let width = field.len() - 1;
    let fits = (0..1 << (3 * width)).contains(&value);
    let mut rest = if fits { value } else { 0 };
    // By hand: a header has eight of these, and a layer tens of thousands of headers; formatting takes an allocation for each.
    field[width] = 0;
    for digit in field[..width].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    fits
}

/// Fills a field with text; with its ASCII part, cut, saying `false`, if it does not fit or is more than ASCII.
fn text(field: &mut [u8], value: &[u8]) -> bool {
    let ascii: Cow<'_, [u8]> = match value.is_ascii() {
        true => Cow::Borrowed(value),
        false => value.iter().copied().filter(u8::is_ascii).collect(),
    };
    let len = ascii.len().min(field.len());
    field[..len].copy_from_slice(&ascii[..len]);
    // Some readers take a regular file whose field ends in a slash for a directory.
    if ascii.len() > field.len() {
        while let Some(last @ b'/') = field.iter_mut().rfind(|b| **b != 0) {
            *last = 0;
        }
    }
    value.len() <= field.len() && ascii.len() == value.len()
}

/// Go writes six digits, a NUL and a space, as the first tars did.
fn checksum(header: &mut Header) {
    header.as_old_mut().cksum = *b"        ";
    let sum: u32 = header.as_bytes().iter().map(|b| u32::from(*b)).sum();
    octal(&mut header.as_old_mut().cksum[..7], sum.into());
}

/// What ends an archive: two blocks of zeros.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
