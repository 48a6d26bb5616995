//! Files from here, in the protocol of tonistiigi/fsutil: all names in their order, each with its stat, then the bytes of
//! those files that the daemon asks for by their number. It asks for what differs in size or time from what it has of an
//! earlier build.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_buildkit_proto::fsutil::types;
use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::Streaming;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use super::QUEUE;
use super::Trouble;
use crate::buildkit::HereError;

pub(super) use bollard_buildkit_proto::fsutil::types::Packet;

/// The metadata that names a directory.
pub(super) const DIRECTORY_NAME: &str = "dir-name";
/// Bytes of a file that are sent at once.
const CHUNK: usize = 128 << 10;

/// The bits of Go's `fs.FileMode`, which fsutil sends, that are not the permissions'.
mod go {
    pub(super) const DIR: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const FIFO: u32 = 1 << 25;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
    pub(super) const TYPE: u32 = DIR | SYMLINK | DEVICE | FIFO | CHAR | 1 << 24 | 1 << 19;
}

/// Opens a regular file by its path in the directory.
pub(super) type Open = dyn Fn(&str) -> io::Result<File> + Send + Sync;

/// Files that a daemon may have.
pub struct Directory {
    /// Where they are, for messages.
    pub path: PathBuf,
    /// In the order of a walk: a directory before what is in it, names of one directory by their bytes. With every file
    /// come the directories above it.
    pub files: Vec<SentFile>,
    /// How they are opened.
    pub open: Box<Open>,
}

/// A file, as a daemon is to have it. It is root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentFile {
    /// From the directory, without a leading slash.
    pub path: String,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// What it is.
    pub kind: SentKind,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// Another name of a regular file that stands before it.
    HardLink {
        /// Its path.
        to: String,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: String,
    },
    /// A character or block device.
    Device {
        /// Of characters.
        char: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// From the bits of chmod(2) to Go's.
fn go_mode(mode: u32) -> u32 {
    let mut go = mode & 0o777;
    for (bit, its) in [
        (0o4000, go::SETUID),
        (0o2000, go::SETGID),
        (0o1000, go::STICKY),
    ] {
        if mode & bit != 0 {
            go |= its;
        }
    }
    go
}

/// From Go's bits to those of chmod(2).
pub(super) fn unix_mode(go: u32) -> u32 {
    let mut mode = go & 0o777;
    for (bit, its) in [
        (0o4000, go::SETUID),
        (0o2000, go::SETGID),
        (0o1000, go::STICKY),
    ] {
        if go & its != 0 {
            mode |= bit;
        }
    }
    mode
}

/// What a stat is of, as far as it matters to who receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Directory,
    File,
    Symlink,
    Fifo,
    Other,
}

pub(super) fn type_of(stat: &Stat) -> Type {
    match stat.mode & go::TYPE {
        0 => Type::File,
        go::DIR => Type::Directory,
        go::SYMLINK => Type::Symlink,
        go::FIFO => Type::Fifo,
        _ => Type::Other,
    }
}

impl SentFile {
    fn stat(&self) -> Stat {
        let mut stat = Stat {
            path: self.path.clone(),
            mode: go_mode(self.mode),
            mod_time: self.mtime,
            xattrs: self.xattrs.iter().cloned().collect(),
            ..Stat::default()
        };
        match &self.kind {
            SentKind::Directory => stat.mode |= go::DIR,
            SentKind::File { size } => stat.size = i64::try_from(*size).unwrap_or(i64::MAX),
            SentKind::HardLink { to } => stat.linkname.clone_from(to),
            SentKind::Symlink { target } => {
                stat.mode |= go::SYMLINK;
                stat.size = target.len() as i64;
                stat.linkname.clone_from(target);
            }
            SentKind::Device { char, major, minor } => {
                stat.mode |= go::DEVICE | if *char { go::CHAR } else { 0 };
                stat.devmajor = i64::from(*major);
                stat.devminor = i64::from(*minor);
            }
            SentKind::Fifo => stat.mode |= go::FIFO,
        }
        stat
    }
}

pub(super) fn packet(kind: PacketType) -> Packet {
    Packet {
        r#type: kind.into(),
        ..Packet::default()
    }
}

type Sender = mpsc::Sender<Result<Packet, Status>>;

/// Sends a directory, and what is asked of it.
pub(super) fn send(
    directory: &Arc<Directory>,
    asked: Streaming<Packet>,
    trouble: Trouble,
) -> impl Stream<Item = Result<Packet, Status>> + use<> {
    let (packets, stream) = mpsc::channel(QUEUE);
    let stats = (Arc::clone(directory), packets.clone());
    tokio::spawn(async move {
        let (directory, packets) = stats;
        for file in &directory.files {
            let stat = types::Packet {
                stat: Some(file.stat()),
                ..packet(PacketType::PacketStat)
            };
            if packets.send(Ok(stat)).await.is_err() {
                return;
            }
        }
        // One without a stat is the last.
        drop(packets.send(Ok(packet(PacketType::PacketStat))).await);
    });
    let directory = Arc::clone(directory);
    tokio::spawn(async move {
        if let Err(error) = answer(&directory, asked, &packets, &trouble).await {
            drop(packets.send(Err(error)).await);
        }
    });
    ReceiverStream::new(stream)
}

/// Sends the files that are asked for, until the daemon has enough.
async fn answer(
    directory: &Arc<Directory>,
    mut asked: Streaming<Packet>,
    packets: &Sender,
    trouble: &Trouble,
) -> Result<(), Status> {
    // Files are read on a thread of their own, one after the other, while requests come in.
    let (wanted, mut numbers) = mpsc::unbounded_channel::<u32>();
    let mut reader = {
        let (directory, packets) = (Arc::clone(directory), packets.clone());
        tokio::task::spawn_blocking(move || -> Result<(), HereError> {
            let mut buffer = vec![0; CHUNK];
            while let Some(id) = numbers.blocking_recv() {
                send_file(&directory, id, &packets, &mut buffer)?;
            }
            Ok(())
        })
    };
    let requests = async {
        while let Some(request) = asked.message().await? {
            match request.r#type() {
                PacketType::PacketReq => {
                    // If the reader has failed, it is said below why.
                    if wanted.send(request.id).is_err() {
                        return Ok(false);
                    }
                }
                PacketType::PacketFin => return Ok(true),
                PacketType::PacketErr => {
                    let message = String::from_utf8_lossy(&request.data).into_owned();
                    return Err(Status::aborted(format!("error from receiver: {message}")));
                }
                PacketType::PacketStat | PacketType::PacketData => {}
            }
        }
        Ok(false)
    };
    let read = |read: Result<Result<(), HereError>, tokio::task::JoinError>| {
        let read = read.map_err(|error| Status::internal(error.to_string()))?;
        read.map_err(|error| trouble.note(error))
    };
    let ended = tokio::select! {
        ended = requests => ended?,
        // It fails before the daemon has all that it waits for.
        failed = &mut reader => return read(failed),
    };
    drop(wanted);
    read(reader.await)?;
    if ended {
        drop(packets.send(Ok(packet(PacketType::PacketFin))).await);
    }
    Ok(())
}

/// Sends one file, which must be as long and as old as it was said to be.
fn send_file(
    directory: &Directory,
    id: u32,
    packets: &Sender,
    buffer: &mut [u8],
) -> Result<(), HereError> {
    let file = directory.files.get(id as usize);
    let Some((file, SentKind::File { size })) = file.map(|file| (file, &file.kind)) else {
        let what = format!("a request for file {id}, which is none");
        return Err(HereError::Hostile { what });
    };
    let path = || directory.path.join(&file.path);
    let failed = |source| HereError::Read {
        path: path(),
        source,
    };
    let mut open = (directory.open)(&file.path).map_err(failed)?;
    let mut sent = 0_u64;
    loop {
        let count = open.read(buffer).map_err(failed)?;
        let data = types::Packet {
            id,
            data: buffer[..count].to_vec(),
            ..packet(PacketType::PacketData)
        };
        sent += count as u64;
        if count == 0 {
            let stat = open.metadata().map_err(failed)?;
            let mtime = stat.mtime().saturating_mul(1_000_000_000);
            if sent != *size || mtime.saturating_add(stat.mtime_nsec()) != file.mtime {
                return Err(HereError::Changed { path: path() });
            }
        }
        // Who does not listen any more wants no error either. An empty packet is the end of the file.
        if packets.blocking_send(Ok(data)).is_err() || count == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn modes_are_gos() {
        // From Go's os.Lstat(…).Mode() of such files: `fmt.Printf("%o")`.
        let file = |mode, kind| SentFile {
            path: "x".into(),
            mode,
            mtime: 0,
            xattrs: Vec::new(),
            kind,
        };
        let to = String::from("t");
        for (mode, kind, want, of) in [
            (0o755, SentKind::Directory, 0o20000000755, Type::Directory),
            (0o1777, SentKind::Directory, 0o20004000777, Type::Directory),
            (0o4755, SentKind::File { size: 1 }, 0o40000755, Type::File),
            (0o2755, SentKind::File { size: 1 }, 0o20000755, Type::File),
            (
                0o777,
                SentKind::Symlink { target: to },
                0o1000000777,
                Type::Symlink,
            ),
            (0o644, SentKind::Fifo, 0o200000644, Type::Fifo),
        ] {
            let stat = file(mode, kind).stat();
            assert_eq!(stat.mode, want, "{mode:o}");
            assert_eq!(unix_mode(stat.mode), mode);
            assert_eq!(type_of(&stat), of);
        }
        let null = SentKind::Device {
            char: true,
            major: 1,
            minor: 3,
        };
        let stat = file(0o666, null).stat();
        assert_eq!(stat.mode, 0o410000666);
        assert_eq!((stat.devmajor, stat.devminor), (1, 3));
        assert_eq!(type_of(&stat), Type::Other);
    }
}
