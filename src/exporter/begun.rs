//! Archives that are begun before their image is known. An archive's files have their digests for names, so that a layer could
//! only be copied into it once it was made, and copying one takes a quarter of what hashing it does. But where its bytes are
//! to be is known before: so they are copied while the blob is written, and what stands before them is written last.
//!
//! It is never more than a beginning. Whoever writes the archive compares what was copied with what belongs there, and writes
//! it all where that is something else.

use std::io;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;

use rbuild_cache::Growing;
use rbuild_llb::OciDigest;
use tempfile::NamedTempFile;

use super::Out;
use super::archive;
use super::aside;
use super::goes_aside;
use crate::request::Destination;

/// An archive that may have been begun.
#[derive(Debug)]
pub struct Begun {
    path: PathBuf,
    copying: Mutex<Option<Copying>>,
}

#[derive(Debug)]
struct Copying {
    aside: NamedTempFile,
    target: PathBuf,
    /// Where the blob begins.
    at: u64,
    /// Says which blob it was, if it was one.
    thread: JoinHandle<io::Result<Option<(OciDigest, u64)>>>,
}

/// A file that may have the bytes of one blob.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) aside: NamedTempFile,
    pub(super) target: PathBuf,
    /// Where it begins, and which it is.
    blob: Option<(u64, OciDigest, u64)>,
}

impl Begun {
    /// Nothing is begun where bytes cannot be written out of their order.
    pub fn new(dest: &Destination) -> Option<Self> {
        match dest {
            Destination::File(path) if goes_aside(path) => Some(Self {
                path: path.clone(),
                copying: Mutex::new(None),
            }),
            _ => None,
        }
    }

    /// Copies a layer that is being made, before which layers of these sizes come. One that was begun before is forgotten: who
    /// made it begins anew.
    pub fn begin(&self, before: impl Iterator<Item = u64>, blob: Growing) {
        let at = archive::place_behind(before);
        let begin = || -> io::Result<Copying> {
            let (aside, target) = aside(&self.path)?;
            let mut to = aside.reopen()?;
            to.seek(SeekFrom::Start(at))?;
            let copy = move || blob.copy_to(&mut to);
            let thread = thread::Builder::new().name("archive".to_owned());
            Ok(Copying {
                aside,
                target,
                at,
                thread: thread.spawn(copy)?,
            })
        };
        // What is wrong is seen again by who writes the archive.
        let copying = begin().ok();
        *self.copying.lock().unwrap_or_else(PoisonError::into_inner) = copying;
    }

    /// What has been copied, once all of it has.
    pub(super) fn finish(&self) -> Option<Start> {
        let mut copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let copying = copying.take()?;
        let (digest, size) = copying.thread.join().ok()?.ok()??;
        Some(Start {
            aside: copying.aside,
            target: copying.target,
            blob: Some((copying.at, digest, size)),
        })
    }
}

impl Start {
    /// A file that has nothing yet, and what it is to replace.
    pub(super) fn nothing((aside, target): (NamedTempFile, PathBuf)) -> Self {
        Self {
            aside,
            target,
            blob: None,
        }
    }

    /// Where `out`, which writes to this file, has come to a blob that is here: goes on behind it.
    pub(super) fn has(&self, digest: &OciDigest, size: u64, out: &mut dyn Out) -> io::Result<bool> {
        let Some((at, ..)) = self.blob.filter(|blob| (blob.1, blob.2) == (*digest, size)) else {
            return Ok(false);
        };
        out.flush()?;
        let mut file = self.aside.as_file();
        if file.stream_position()? != at {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(at + size))?;
        Ok(true)
    }
}

#[cfg(test)]
mod t {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::Command;

    use rbuild_cache::Store;
    use rbuild_llb::CancelToken;

    use super::super::archive::Piece;
    use super::super::archive::path;
    use super::super::archive::write_pieces;
    use super::super::deliver_begun;
    use super::*;

    /// What GNU tar finds in an archive: the names of files, and the bytes of one.
    fn found(archive: &Path, name: &str) -> (Vec<String>, Vec<u8>) {
        let tar = |args: &[&str]| {
            let mut command = Command::new("tar");
            let said = command.arg("-f").arg(archive).args(args).output().unwrap();
            assert!(said.status.success(), "{said:?}");
            said.stdout
        };
        let names = String::from_utf8(tar(&["-t"])).unwrap();
        let names = names.lines().filter(|name| !name.ends_with('/'));
        (names.map(str::to_owned).collect(), tar(&["-xO", name]))
    }

    #[test]
    fn what_was_copied_is_not_written_again_where_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let dest = dir.path().join("image.tar");
        let to_file = Destination::File(dest.clone());
        let below: Vec<Vec<u8>> = [700, 512].map(|len| vec![b'-'; len]).into();
        let below = below.iter().map(|bytes| {
            let digest = store.blobs().put(bytes).unwrap();
            (path(&digest), Piece::Blob(digest, bytes.len() as u64))
        });
        let below: Vec<_> = below.collect();
        let layer = b"layer\n".repeat(1000);
        // Of as many layers below as were known; of fewer, so that it comes to stand elsewhere, and what was copied is more than
        // the whole archive.
        for (there, copied) in [(2, true), (0, false)] {
            let begun = Begun::new(&to_file).unwrap();
            let mut writer = store.blobs().writer().unwrap();
            begun.begin([700, 512].into_iter(), writer.follow());
            writer.write_all(&layer).unwrap();
            let (digest, size) = writer.commit(None).unwrap();
            let start = begun.finish();
            assert!(start.is_some());
            // Other bytes than were copied show which of them are taken.
            let other = b"other\n".repeat(1000);
            fs::write(store.blobs().path(&digest), &other).unwrap();
            let name = path(&digest);
            let pieces = below[..there].iter().map(|(path, piece)| match piece {
                Piece::Blob(digest, size) => (path.clone(), Piece::Blob(*digest, *size)),
                Piece::Bytes(bytes) => (path.clone(), Piece::Bytes(bytes)),
            });
            let pieces = pieces.chain([
                (name.clone(), Piece::Blob(digest, size)),
                ("last".to_owned(), Piece::Bytes(b"last")),
            ]);
            let pieces: Vec<_> = pieces.collect();
            let cancel = CancelToken::new();
            deliver_begun(&to_file, start, &mut |out, start| {
                write_pieces(&pieces, store.blobs(), start, &cancel, out)
            })
            .unwrap();
            let (names, bytes) = found(&dest, &name);
            let written: Vec<_> = pieces.iter().map(|(path, _)| path.clone()).collect();
            assert_eq!(names, written);
            assert!(bytes == if copied { &layer } else { &other }[..], "{there}");
            // Two blocks of zeros behind the last file, and nothing behind these.
            let archive = fs::read(&dest).unwrap();
            assert_eq!(archive[archive.len() - 1536..][..4], *b"last");
            fs::remove_file(store.blobs().path(&digest)).unwrap();
        }
    }

    #[test]
    fn what_was_not_made_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let to = |name: &str| Begun::new(&Destination::File(dir.path().join(name)));
        let begun = to("image.tar").unwrap();
        assert!(begun.finish().is_none());
        let mut writer = store.blobs().writer().unwrap();
        begun.begin([].into_iter(), writer.follow());
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert!(begun.finish().is_none());
        // A directory that is not there, which the exporter reports.
        let begun = to("nowhere/image.tar").unwrap();
        let mut writer = store.blobs().writer().unwrap();
        begun.begin([].into_iter(), writer.follow());
        writer.write_all(b"whole").unwrap();
        writer.commit(None).unwrap();
        assert!(begun.finish().is_none());

        assert!(Begun::new(&Destination::Stdout).is_none());
        assert!(Begun::new(&Destination::File("/dev/null".into())).is_none());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
