//! Files that git cannot hold, described in lines: what a case's context or archive has, or a base image.
//!
//! ```text
//! dir d mode=0700
//! file d/run mode=4755 owner=1000:1000 time=1600000000 text=%23!/bin/sh%0a
//! file zeros size=1048576
//! symlink d/l to=run
//! hardlink d/h to=d/run
//! fifo p
//! char null mode=0666 dev=1:3
//! file ping xattr:security.capability=0100000200200000000000000000000000000000
//! ```
//!
//! `%xx` is a byte in paths, targets and texts; names of extended attributes are as they are and values hexadecimal.
//! A line that begins with two blanks belongs to the `archive PATH compress=gzip` before it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use crate::support::tools;

/// When what is in archives and says nothing else was modified.
const TIME: u64 = 1_700_000_000;

/// What a line describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File,
    Symlink,
    Hardlink,
    Fifo,
    Char,
    Archive,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Entry {
    kind: Kind,
    path: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    time: u64,
    content: Vec<u8>,
    target: Vec<u8>,
    device: (u32, u32),
    xattrs: Vec<(String, Vec<u8>)>,
    compress: String,
    inside: Vec<Entry>,
}

/// The entries of a description.
pub(crate) fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_prefix("  ") {
            Some(inner) => add_to(&mut entries.last_mut().unwrap().inside, entry(inner)),
            None => add_to(&mut entries, entry(line)),
        }
    }
    entries
}

/// A hard link has its file's metadata, as in the archives that tar(1) writes.
fn add_to(entries: &mut Vec<Entry>, mut entry: Entry) {
    let file = entries
        .iter()
        .find(|file| entry.kind == Kind::Hardlink && file.path == entry.target);
    if let Some(file) = file {
        (entry.mode, entry.owner, entry.time) = (file.mode, file.owner, file.time);
    }
    entries.push(entry);
}

fn entry(line: &str) -> Entry {
    let mut words = line.split_whitespace();
    let kind = match words.next().unwrap() {
        "dir" => Kind::Dir,
        "file" => Kind::File,
        "symlink" => Kind::Symlink,
        "hardlink" => Kind::Hardlink,
        "fifo" => Kind::Fifo,
        "char" => Kind::Char,
        "archive" => Kind::Archive,
        other => panic!("`{other}` in `{line}`"),
    };
    let mut entry = Entry {
        kind,
        path: bytes(words.next().unwrap()),
        mode: match kind {
            Kind::Dir => 0o755,
            Kind::Symlink => 0o777,
            _ => 0o644,
        },
        owner: (0, 0),
        time: TIME,
        content: Vec::new(),
        target: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
        compress: "none".to_owned(),
        inside: Vec::new(),
    };
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        let pair = || value.split_once(':').unwrap();
        match key {
            "mode" => entry.mode = u32::from_str_radix(value, 8).unwrap(),
            "owner" => entry.owner = (pair().0.parse().unwrap(), pair().1.parse().unwrap()),
            "time" => entry.time = value.parse().unwrap(),
            "text" => entry.content = bytes(value),
            "size" => entry.content = vec![0; value.parse().unwrap()],
            "to" => entry.target = bytes(value),
            "dev" => entry.device = (pair().0.parse().unwrap(), pair().1.parse().unwrap()),
            "compress" => entry.compress = value.to_owned(),
            _ => {
                let name = key
                    .strip_prefix("xattr:")
                    .unwrap_or_else(|| panic!("{line}"));
                entry.xattrs.push((name.to_owned(), hex(value)));
            }
        }
    }
    entry
}

fn bytes(text: &str) -> Vec<u8> {
    let mut pieces = text.split('%');
    let mut out = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        out.extend(hex(&piece[..2]));
        out.extend_from_slice(&piece.as_bytes()[2..]);
    }
    out
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Makes the entries below a directory. Owners are left out: a context has none.
pub(crate) fn write_to(dir: &Path, entries: &[Entry]) {
    for entry in entries {
        let path = dir.join(OsStr::from_bytes(&entry.path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match entry.kind {
            Kind::Dir => fs::create_dir_all(&path).unwrap(),
            Kind::File if entry.content.iter().all(|byte| *byte == 0) => {
                let file = fs::File::create(&path).unwrap();
                file.set_len(entry.content.len() as u64).unwrap();
            }
            Kind::File => fs::write(&path, &entry.content).unwrap(),
            Kind::Archive => {
                let tar = archive(&entry.inside);
                fs::write(&path, compressed(&tar, &entry.compress)).unwrap();
            }
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.target);
                std::os::unix::fs::symlink(target, &path).unwrap();
            }
            Kind::Hardlink => {
                let target = dir.join(OsStr::from_bytes(&entry.target));
                fs::hard_link(target, &path).unwrap();
            }
            Kind::Fifo => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }
            Kind::Char => panic!("device nodes are for bases alone"),
        }
        if !matches!(entry.kind, Kind::Symlink | Kind::Hardlink) {
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).unwrap();
        }
    }
}

/// Gives everything below a directory a time, and the entries that say one theirs.
pub(crate) fn set_times(dir: &Path, entries: &[Entry], time: u64) {
    fn walk(path: &Path, time: u64) {
        set_time(path, time);
        if path.is_dir() && !path.is_symlink() {
            for child in fs::read_dir(path).unwrap() {
                walk(&child.unwrap().path(), time);
            }
        }
    }
    walk(dir, time);
    for entry in entries.iter().filter(|entry| entry.time != TIME) {
        set_time(&dir.join(OsStr::from_bytes(&entry.path)), entry.time);
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = Timespec {
        tv_sec: i64::try_from(seconds).unwrap(),
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The entries as a tar.
pub(crate) fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in entries {
        add(&mut out, entry).unwrap();
    }
    out.into_inner().unwrap()
}

fn add(out: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> io::Result<()> {
    let xattrs: Vec<(String, &[u8])> = entry
        .xattrs
        .iter()
        .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
        .collect();
    if !xattrs.is_empty() {
        out.append_pax_extensions(xattrs.iter().map(|(name, value)| (name.as_str(), *value)))?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_mtime(entry.time);
    header.set_size(0);
    let path = OsStr::from_bytes(&entry.path);
    let target = OsStr::from_bytes(&entry.target);
    match entry.kind {
        Kind::Dir => header.set_entry_type(tar::EntryType::Directory),
        Kind::File => {
            header.set_size(entry.content.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
        }
        Kind::Symlink => {
            header.set_entry_type(tar::EntryType::Symlink);
            return out.append_link(&mut header, path, target);
        }
        Kind::Hardlink => {
            header.set_entry_type(tar::EntryType::Link);
            return out.append_link(&mut header, path, target);
        }
        Kind::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        Kind::Char => {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(entry.device.0)?;
            header.set_device_minor(entry.device.1)?;
        }
        Kind::Archive => panic!("an archive in an archive"),
    }
    out.append_data(&mut header, path, entry.content.as_slice())
}

fn compressed(tar: &[u8], how: &str) -> Vec<u8> {
    if how == "none" {
        return tar.to_vec();
    }
    let mut child = Command::new(tools::find(how))
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{how}: {}", output.status);
    output.stdout
}
