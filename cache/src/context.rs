//! placeholder until the scan is merged
use crate::*;
use rbuild_llb::CancelToken;
use rbuild_llb::FileDigest;
use rbuild_llb::pattern::Selection;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
#[derive(Debug)]
pub struct Scan {
    pub tree: TreeRef,
    pub files: u64,
    pub bytes: u64,
    pub read: u64,
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ContextError(String);
impl ContextError {
    pub fn is_request(&self) -> bool {
        true
    }
}
#[derive(Debug)]
pub struct ContextFiles(PathBuf);
impl ContextFiles {
    pub fn open_root(p: &Path) -> Result<Self, ContextError> {
        Ok(Self(p.to_owned()))
    }
    pub fn open(&self, p: &[u8]) -> io::Result<File> {
        File::open(self.0.join(std::ffi::OsStr::from_bytes(p)))
    }
}
fn walk(dir: &Path, rel: &Path, b: &mut TreeBuilder) -> io::Result<()> {
    for e in std::fs::read_dir(dir)? {
        let e = e?;
        let m = std::fs::symlink_metadata(e.path())?;
        let r = rel.join(e.file_name());
        let meta = Meta {
            mode: m.mode() & 0o7777,
            mtime: Timestamp {
                secs: m.mtime(),
                nanos: m.mtime_nsec() as u32,
            },
            ..Meta::default()
        };
        if m.is_dir() {
            b.insert(r.as_os_str().as_bytes(), meta, NewNode::Dir);
            walk(&e.path(), &r, b)?;
        } else if m.is_file() {
            let d = std::fs::read(e.path())?;
            b.insert(
                r.as_os_str().as_bytes(),
                meta,
                NewNode::File(FileNode {
                    size: d.len() as u64,
                    digest: FileDigest::from_bytes(*blake3::hash(&d).as_bytes()),
                    link: None,
                }),
            );
        } else if m.is_symlink() {
            b.insert(
                r.as_os_str().as_bytes(),
                meta,
                NewNode::Symlink {
                    target: std::fs::read_link(e.path())?
                        .as_os_str()
                        .as_bytes()
                        .to_vec(),
                },
            );
        }
    }
    Ok(())
}
pub fn scan_context(
    p: &Path,
    _: &Selection,
    _: &Path,
    t: &Trees,
    _: &CancelToken,
) -> Result<Scan, ContextError> {
    let mut b = TreeBuilder::new();
    b.set_root(Meta {
        mode: 0o755,
        ..Meta::default()
    });
    walk(p, Path::new(""), &mut b).map_err(|e| ContextError(e.to_string()))?;
    Ok(Scan {
        tree: b.finish(t),
        files: 0,
        bytes: 0,
        read: 0,
    })
}
