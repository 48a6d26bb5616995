//! Results to here: an archive as a stream of bytes, or files in fsutil's protocol, of which this is the receiving side.
//!
//! Owners are the user's, modes and times are the daemon's; what is there already stays unless a file of the same name
//! comes. Device nodes are left out.
//!
//! A daemon may die, or what is between may cut it off, with a stream that looks ended: an archive is whole if it has the end of
//! one, and files are if the daemon was told that all are here.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::moby::filesync::packet::file_send_server::FileSend as SendPackets;
use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use bollard_buildkit_proto::moby::filesync::v1::file_send_server::FileSend as SendBytes;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use cap_std::fs::File;
use cap_std::fs::OpenOptions;
use cap_std::fs::Permissions;
use cap_std::fs::PermissionsExt as _;
use rustix::fs::AtFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;

use super::Answers;
use super::Trouble;
use super::files;
use super::files::Packet;
use super::files::Type;
use crate::buildkit::HereError;

/// Where the result of a build goes.
pub enum Sink {
    /// The daemon keeps it, or sends it elsewhere.
    Nothing,
    /// An archive, to what writes it.
    Archive {
        /// What it is called in messages.
        path: PathBuf,
        /// Writes it.
        to: Box<dyn Write + Send>,
    },
    /// Files, to a directory, which is made if it is not there.
    Directory(PathBuf),
}

/// What has come of a result.
#[derive(Debug)]
pub(in crate::buildkit) struct Arrival {
    wanted: Wanted,
    /// Transfers that have begun: there may be one for each platform (daemons before 0.28).
    begun: AtomicUsize,
    /// Those of which all is here.
    whole: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Nothing,
    Archive,
    Files,
}

impl Arrival {
    fn of(sink: &Sink) -> Self {
        Self {
            wanted: match sink {
                Sink::Nothing => Wanted::Nothing,
                Sink::Archive { .. } => Wanted::Archive,
                Sink::Directory(_) => Wanted::Files,
            },
            begun: AtomicUsize::new(0),
            whole: AtomicUsize::new(0),
        }
    }

    /// What there is, in words, if that is not all.
    pub(in crate::buildkit) fn lacking(&self) -> Option<&'static str> {
        let begun = self.begun.load(Ordering::Acquire);
        let whole = self.whole.load(Ordering::Acquire);
        match (self.wanted, begun) {
            (Wanted::Nothing, _) => None,
            (Wanted::Archive, 0) => Some("no archive"),
            (Wanted::Files, 0) => Some("no files"),
            _ if begun == whole => None,
            (Wanted::Archive, _) => Some("a part of an archive"),
            (Wanted::Files, _) => Some("a part of the files"),
        }
    }

    fn begin(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    fn complete(&self) {
        self.whole.fetch_add(1, Ordering::AcqRel);
    }
}

/// The end of a tar as it goes by: two blocks of zeros (POSIX, pax, "ustar Interchange Format"), at the end of a block.
#[derive(Debug, Default)]
struct TarEnd {
    length: u64,
    zeros: u64,
}

impl TarEnd {
    const BLOCK: u64 = 512;

    fn pass(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        self.zeros = match zeros == bytes.len() {
            true => self.zeros + zeros as u64,
            false => zeros as u64,
        };
    }

    fn has_passed(&self) -> bool {
        self.length.is_multiple_of(Self::BLOCK) && self.zeros >= 2 * Self::BLOCK
    }
}

/// Takes one result.
pub(super) struct Receiver {
    packets: bool,
    sink: Mutex<Option<Sink>>,
    arrival: Arc<Arrival>,
    trouble: Trouble,
}

impl Receiver {
    pub(super) fn new(sink: Sink, trouble: Trouble) -> Self {
        Self {
            packets: matches!(sink, Sink::Directory(_)),
            arrival: Arc::new(Arrival::of(&sink)),
            sink: Mutex::new(Some(sink)),
            trouble,
        }
    }

    /// Says whether what was asked for has come.
    pub(super) fn arrival(&self) -> Arc<Arrival> {
        Arc::clone(&self.arrival)
    }

    /// Whether it is files that come.
    pub(super) fn takes_packets(&self) -> bool {
        self.packets
    }

    /// There is one archive. Files come in as many transfers as there are platforms (daemons before 0.28).
    fn take(&self) -> Option<Sink> {
        let mut sink = self.sink.lock().expect("nothing panics while it is locked");
        match &*sink {
            Some(Sink::Directory(path)) => Some(Sink::Directory(path.clone())),
            _ => sink.take(),
        }
    }
}

#[tonic::async_trait]
impl SendBytes for Receiver {
    type DiffCopyStream = Answers<BytesMessage>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let Some(Sink::Archive { path, mut to }) = self.take() else {
            return Err(Status::failed_precondition("one archive was asked for"));
        };
        let mut incoming = request.into_inner();
        let (runtime, trouble) = (Handle::current(), self.trouble.clone());
        let arrival = self.arrival();
        arrival.begin();
        let (answers, stream) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let mut write = || -> Result<(), Status> {
                let failed = |source| {
                    let path = path.clone();
                    trouble.note(HereError::Write { path, source })
                };
                let mut end = TarEnd::default();
                while let Some(message) = runtime.block_on(incoming.message())? {
                    to.write_all(&message.data).map_err(failed)?;
                    end.pass(&message.data);
                }
                to.flush().map_err(failed)?;
                match end.has_passed() {
                    true => Ok(()),
                    false => Err(Status::data_loss("the archive has no end")),
                }
            };
            match write() {
                Ok(()) => arrival.complete(),
                Err(status) => drop(answers.blocking_send(Err(status))),
            }
        });
        // The end of the answers tells the daemon that all is written.
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[tonic::async_trait]
impl SendPackets for Receiver {
    type DiffCopyStream = Answers<Packet>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let Some(Sink::Directory(path)) = self.take() else {
            return Err(Status::failed_precondition("one directory was asked for"));
        };
        let mut incoming = request.into_inner();
        let (runtime, trouble) = (Handle::current(), self.trouble.clone());
        let arrival = self.arrival();
        arrival.begin();
        // Not bounded: there is one request for each file that was named, and who waited here until the daemon takes one would not
        // take what it sends meanwhile.
        let (answers, stream) = mpsc::unbounded_channel();
        tokio::task::spawn_blocking(move || {
            let mut next = || runtime.block_on(incoming.message());
            let mut answer = |packet| {
                let sent = answers.send(Ok(packet));
                sent.map_err(|_| Status::cancelled("the builder does not listen any more"))
            };
            let received = Tree::open(&path)
                .map_err(|error| trouble.note(error))
                .and_then(|tree| tree.receive(&mut next, &mut answer, &arrival, &trouble));
            if let Err(status) = received {
                drop(answers.send(Err(status)));
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            stream,
        ))))
    }
}

/// A file whose bytes were asked for.
struct Coming {
    stat: Stat,
    /// From its first bytes on: a daemon names far more files at once than a process may have open.
    file: Option<File>,
}

/// A directory that files come into. Every path goes through its handle.
struct Tree {
    path: PathBuf,
    root: Dir,
    /// Files that were asked for, by their numbers.
    coming: BTreeMap<u32, Coming>,
    /// Directories, whose modes and times are set when all is in them.
    directories: Vec<Stat>,
    /// Regular files of this transfer, that names may be given to.
    seen: BTreeSet<String>,
}

impl Tree {
    fn open(path: &Path) -> Result<Self, HereError> {
        let failed = |source| HereError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            root: Dir::open_ambient_dir(path, ambient_authority()).map_err(failed)?,
            coming: BTreeMap::new(),
            directories: Vec::new(),
            seen: BTreeSet::new(),
        })
    }

    fn failed(&self, path: &str) -> impl Fn(io::Error) -> HereError + use<> {
        let path = self.path.join(path);
        move |source| HereError::Write {
            path: path.clone(),
            source,
        }
    }

    /// Takes all that comes, asking for the bytes of every file.
    fn receive(
        mut self,
        next: &mut dyn FnMut() -> Result<Option<Packet>, Status>,
        answer: &mut dyn FnMut(Packet) -> Result<(), Status>,
        arrival: &Arrival,
        trouble: &Trouble,
    ) -> Result<(), Status> {
        let mut number = 0;
        let mut all_named = false;
        let mut finished = false;
        while let Some(packet) = next()? {
            match packet.r#type() {
                PacketType::PacketStat => match packet.stat {
                    Some(stat) => {
                        let wanted = self.make(number, stat);
                        if wanted.map_err(|error| trouble.note(error))? {
                            answer(Packet {
                                id: number,
                                ..files::packet(PacketType::PacketReq)
                            })?;
                        }
                        number += 1;
                    }
                    None => all_named = true,
                },
                PacketType::PacketData => {
                    let written = self.write(packet.id, &packet.data);
                    written.map_err(|error| trouble.note(error))?;
                }
                PacketType::PacketFin => return Ok(()),
                PacketType::PacketErr => {
                    let message = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(Status::aborted(format!("error from sender: {message}")));
                }
                PacketType::PacketReq => {}
            }
            if all_named && self.coming.is_empty() && !finished {
                finished = true;
                let settled = self.settle_directories();
                settled.map_err(|error| trouble.note(error))?;
                // The daemon is done when it hears of it.
                arrival.complete();
                answer(files::packet(PacketType::PacketFin))?;
            }
        }
        match finished {
            true => Ok(()),
            false => Err(Status::aborted("the builder sent no more")),
        }
    }

    /// Makes what a stat says; whether its bytes are wanted.
    fn make(&mut self, number: u32, stat: Stat) -> Result<bool, HereError> {
        let path = stat.path.clone();
        let clean =
            !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean {
            let what = format!("the path `{path}`, which leads out of the result");
            return Err(HereError::Hostile { what });
        }
        let failed = self.failed(&path);
        let kind = files::type_of(&stat);
        if kind == Type::Directory {
            // A link to a directory is not followed: what is in it would not be the user's to name.
            let there = self.root.symlink_metadata(&path);
            if !there.is_ok_and(|there| there.is_dir()) {
                self.clear(&path)?;
                match self.root.create_dir(&path) {
                    // Another transfer was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made.map_err(&failed)?,
                }
            }
            let mode = Permissions::from_mode(0o700);
            self.root.set_permissions(&path, mode).map_err(&failed)?;
            self.directories.push(stat);
            return Ok(false);
        }
        if kind == Type::Other {
            return Ok(false);
        }
        self.clear(&path)?;
        match kind {
            Type::File if !stat.linkname.is_empty() => {
                if !self.seen.contains(&stat.linkname) {
                    let what = format!("a link to `{}`, which it did not send", stat.linkname);
                    return Err(HereError::Hostile { what });
                }
                let linked = self.root.hard_link(&stat.linkname, &self.root, &path);
                linked.map_err(&failed)?;
            }
            Type::File => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true);
                drop(self.root.open_with(&path, &options).map_err(&failed)?);
                self.seen.insert(path);
                self.coming.insert(number, Coming { stat, file: None });
                return Ok(true);
            }
            Type::Symlink => {
                let made = self.root.symlink_contents(&stat.linkname, &path);
                made.map_err(&failed)?;
                self.date(&stat).map_err(&failed)?;
            }
            Type::Fifo => {
                let mode = rustix::fs::Mode::from_bits_truncate(files::unix_mode(stat.mode));
                let fifo = rustix::fs::FileType::Fifo;
                let (parent, name) = self.parent(&path).map_err(&failed)?;
                rustix::fs::mknodat(&parent, name, fifo, mode, 0)
                    .map_err(|error| failed(error.into()))?;
                self.date(&stat).map_err(&failed)?;
            }
            Type::Directory | Type::Other => {}
        }
        Ok(false)
    }

    /// Removes what has a name that is wanted.
    fn clear(&self, path: &str) -> Result<(), HereError> {
        let removed = match self.root.symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(there) if there.is_dir() => self.root.remove_dir_all(path),
            Ok(_) => self.root.remove_file(path),
        };
        removed.map_err(self.failed(path))
    }

    fn write(&mut self, number: u32, data: &[u8]) -> Result<(), HereError> {
        let Some(Coming { stat, file }) = self.coming.remove(&number) else {
            let what = format!("bytes of file {number}, which were not asked for");
            return Err(HereError::Hostile { what });
        };
        let failed = self.failed(&stat.path);
        let mut file = match file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                let opened = self.root.open_with(&stat.path, options.write(true));
                opened.map_err(&failed)?
            }
        };
        if !data.is_empty() {
            file.write_all(data).map_err(failed)?;
            let file = Some(file);
            self.coming.insert(number, Coming { stat, file });
            return Ok(());
        }
        let mode = Permissions::from_mode(files::unix_mode(stat.mode));
        file.set_permissions(mode).map_err(&failed)?;
        rustix::fs::futimens(&file, &times(&stat)).map_err(|error| failed(error.into()))
    }

    fn settle_directories(&mut self) -> Result<(), HereError> {
        // What is inside comes first: to touch it would change the time of what it is in.
        for stat in std::mem::take(&mut self.directories).into_iter().rev() {
            let failed = self.failed(&stat.path);
            let mode = Permissions::from_mode(files::unix_mode(stat.mode));
            self.date(&stat).map_err(&failed)?;
            self.root
                .set_permissions(&stat.path, mode)
                .map_err(&failed)?;
        }
        Ok(())
    }

    fn date(&self, stat: &Stat) -> io::Result<()> {
        let (parent, name) = self.parent(&stat.path)?;
        rustix::fs::utimensat(&parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// The directory that a path is in, and its name there.
    fn parent<'p>(&self, path: &'p str) -> io::Result<(Dir, &'p str)> {
        match path.rsplit_once('/') {
            Some((parent, name)) => Ok((self.root.open_dir(parent)?, name)),
            None => Ok((self.root.try_clone()?, path)),
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// `tar --create --file=- --blocking-factor=1 f` of GNU tar, cut at every byte.
    #[test]
    fn a_tar_that_is_cut_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "bytes\n").unwrap();
        let tar = std::process::Command::new("tar")
            .args(["--create", "--file=-", "--blocking-factor=1", "f"])
            .current_dir(dir.path())
            .output();
        let tar = tar.unwrap().stdout;
        assert_eq!(tar.len(), 4 * 512);
        for cut in 0..=tar.len() {
            let (first, second) = tar[..cut].split_at(cut / 3);
            let mut end = TarEnd::default();
            end.pass(first);
            end.pass(second);
            assert_eq!(end.has_passed(), cut == tar.len(), "{cut}");
        }
    }

    /// A daemon names all files before it sends the bytes of the first.
    #[test]
    fn a_file_is_open_while_its_bytes_come() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..100).map(|number| format!("f{number}")).collect();
        let named = names.iter().map(|name| Packet {
            stat: Some(Stat {
                path: name.clone(),
                mode: 0o644,
                ..Stat::default()
            }),
            ..files::packet(PacketType::PacketStat)
        });
        let sent = |id: usize, data: &[u8]| Packet {
            id: id as u32,
            data: data.to_vec(),
            ..files::packet(PacketType::PacketData)
        };
        let bytes = (0..names.len()).flat_map(|id| [sent(id, names[id].as_bytes()), sent(id, b"")]);
        let end = [files::packet(PacketType::PacketFin)];
        let mut packets = named
            .chain([files::packet(PacketType::PacketStat)])
            .chain(bytes)
            .chain(end);
        let fds = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
            targets.filter(|to| to.starts_with(dir.path())).count()
        };
        let mut most = 0;
        let mut next = || {
            most = most.max(fds());
            Ok(packets.next())
        };
        let tree = Tree::open(dir.path()).unwrap();
        let (mut asked, trouble) = (0, Trouble::default());
        let mut answer = |packet: Packet| {
            asked += usize::from(packet.r#type() == PacketType::PacketReq);
            Ok(())
        };
        let arrival = Arrival::of(&Sink::Directory(dir.path().to_owned()));
        arrival.begin();
        assert_eq!(arrival.lacking(), Some("a part of the files"));
        tree.receive(&mut next, &mut answer, &arrival, &trouble)
            .unwrap();
        assert_eq!(arrival.lacking(), None);
        assert_eq!(asked, names.len());
        for name in &names {
            assert_eq!(
                std::fs::read_to_string(dir.path().join(name)).unwrap(),
                *name
            );
        }
        // The directory, and one file.
        assert!(most <= 2, "{most}");
    }
}
