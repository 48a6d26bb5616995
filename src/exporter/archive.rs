//! `type=oci` and `type=docker`: the OCI image layout (OCI image-spec, image-layout.md) as a tar or a directory; for
//! docker with the `manifest.json` that `docker load` reads, as BuildKit writes it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::slice;

use rustix::fs::FlockOperation;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use rbuild_cache::Blobs;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;

use super::Export;
use super::ExportError;
use super::Exporter;
use super::Out;
use super::begun::Begun;
use super::begun::Start;
use super::deliver;
use super::deliver_begun;
use super::only;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Index;
use crate::outcome::Delivery;
use crate::request::Destination;

/// The annotation that the specification has for what an image of a layout is found by (annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The one that containerd has for its whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// `type=oci`.
#[derive(Debug)]
pub struct Oci {
    /// Where to; a directory unless `tar`.
    pub dest: Destination,
    /// As a tar.
    pub tar: bool,
}

/// `type=docker`.
#[derive(Debug)]
pub struct Docker {
    /// Where to; a directory unless `tar`, which is the same as that of `type=oci`.
    pub dest: Destination,
    /// As a tar.
    pub tar: bool,
}

impl Exporter for Oci {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        match (&self.dest, self.tar) {
            (Destination::File(path), false) => write_directory(export, path),
            (dest, _) => write_one(export, false, dest),
        }
    }
}

impl Exporter for Docker {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        match (&self.dest, self.tar) {
            (Destination::File(path), false) => write_directory(export, path),
            (dest, _) => {
                only(export)?;
                write_one(export, true, dest)
            }
        }
    }
}

/// Writes one archive of several images; for docker if `docker` is set, which takes one platform of each.
///
/// # Errors
/// If it could not be written whole; then nothing is left under its name.
pub fn write(
    exports: &[Export<'_>],
    docker: bool,
    dest: &Destination,
) -> Result<Vec<Delivery>, ExportError> {
    deliver(dest, &mut |out| {
        write_tar(exports, docker, &BTreeSet::new(), None, out)
    })
}

/// The same of one that may have been begun.
fn write_one(
    export: &Export<'_>,
    docker: bool,
    dest: &Destination,
) -> Result<Vec<Delivery>, ExportError> {
    let exports = slice::from_ref(export);
    let start = export.begun.and_then(Begun::finish);
    deliver_begun(dest, start, &mut |out, start| {
        write_tar(exports, docker, &BTreeSet::new(), start, out)
    })
}

/// One file of the layout.
pub(super) enum Piece<'a> {
    Bytes(&'a [u8]),
    Blob(OciDigest, u64),
}

/// The blobs with their paths, each once: layers first, in the order of the images that have them, so that where one is to be
/// does not depend on digests that are not known while it is made; then documents by their paths.
fn blobs<'a>(exports: &'a [Export<'_>]) -> Vec<(String, Piece<'a>)> {
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    let mut documents = BTreeMap::new();
    for image in exports.iter().flat_map(|export| export.images) {
        for (layer, _) in &image.layers {
            if seen.insert(layer.digest) {
                let piece = Piece::Blob(layer.digest, layer.size);
                layers.push((path(&layer.digest), piece));
            }
        }
        documents.insert(image.id, &*image.config);
        documents.insert(image.descriptor.digest, &image.manifest);
    }
    for index in exports.iter().filter_map(|export| export.index) {
        documents.insert(index.descriptor.digest, &index.document);
    }
    let documents = documents
        .into_iter()
        .filter(|(digest, _)| !seen.contains(digest))
        .map(|(digest, bytes)| (path(&digest), Piece::Bytes(bytes)));
    layers.into_iter().chain(documents).collect()
}

pub(super) fn path(digest: &OciDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Where the bytes of a layer are in an archive, behind layers of these sizes.
pub(super) fn place_behind(layers: impl Iterator<Item = u64>) -> u64 {
    let block = BLOCK.len() as u64;
    let filled = layers.map(|size| block + size.next_multiple_of(block));
    DIRECTORIES.len() as u64 * block + filled.sum::<u64>() + block
}

/// `index.json`: the image once for each of its names, as BuildKit does. Where tags would be ambiguous, of several images
/// or of `a:1` and `b:1`, each entry is found by its whole name, as in podman's archives.
fn index_json(exports: &[Export<'_>]) -> Vec<u8> {
    let mut tags = BTreeSet::new();
    let mut names = exports.iter().flat_map(|export| export.names);
    let whole = exports.len() > 1 || !names.all(|name| tags.insert(tag(name)));
    let entries = exports.iter().flat_map(|export| entries(export, whole));
    Index::new(Format::Oci, entries.collect()).to_json()
}

fn entries(export: &Export<'_>, whole: bool) -> Vec<Descriptor> {
    named(export.top(), export.names, whole)
}

/// `index.json` of one image.
pub(super) fn found_by(top: &Descriptor, names: &[String]) -> Vec<u8> {
    let mut tags = BTreeSet::new();
    let whole = !names.iter().all(|name| tags.insert(tag(name)));
    Index::new(Format::Oci, named(top, names, whole)).to_json()
}

fn named(top: &Descriptor, names: &[String], whole: bool) -> Vec<Descriptor> {
    let entry = |name: Option<&String>| {
        let mut entry: Descriptor = top.clone();
        if let Some(name) = name {
            let found_by = match whole {
                true => name,
                false => tag(name),
            };
            entry
                .annotations
                .insert(CONTAINERD_NAME.into(), name.clone());
            entry
                .annotations
                .insert(REF_NAME.into(), found_by.to_owned());
        }
        entry
    };
    match names {
        [] => vec![entry(None)],
        names => names.iter().map(|name| entry(Some(name))).collect(),
    }
}

fn tag(name: &str) -> &str {
    name.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Docker's `manifest.json`.
fn manifest_json(exports: &[Export<'_>]) -> Vec<u8> {
    let list: Vec<_> = exports
        .iter()
        .flat_map(|export| export.images.iter().map(move |image| (export, image)))
        .map(|(export, image)| {
            json!({
                "Config": path(&image.id),
                "RepoTags": export.names.iter().map(|name| familiar(name)).collect::<Vec<_>>(),
                "Layers": image.layers.iter().map(|(layer, _)| path(&layer.digest)).collect::<Vec<_>>(),
            })
        })
        .collect();
    serde_json::to_vec(&list).expect("a JSON value can always be written")
}

/// The short form docker shows: `docker.io/library/app:1` is `app:1`.
pub(super) fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// Writes the layout as a tar, without the blobs that who reads it is known to have, and without writing that which the file
/// has from its `start`. Everything in it that is not content is constant, so equal images are equal bytes.
pub(super) fn write_tar(
    exports: &[Export<'_>],
    docker: bool,
    without: &BTreeSet<OciDigest>,
    start: Option<&Start>,
    out: &mut dyn Out,
) -> Result<(), ExportError> {
    let (index, manifest) = (index_json(exports), manifest_json(exports));
    let mut pieces = blobs(exports);
    let left_out =
        |piece: &Piece<'_>| matches!(piece, Piece::Blob(digest, _) if without.contains(digest));
    pieces.retain(|(_, piece)| !left_out(piece));
    pieces.push(("index.json".into(), Piece::Bytes(&index)));
    if docker {
        pieces.push(("manifest.json".into(), Piece::Bytes(&manifest)));
    }
    pieces.push(("oci-layout".into(), Piece::Bytes(LAYOUT)));
    let [Export { store, cancel, .. }, ..] = exports else {
        unreachable!("an archive of nothing is never written");
    };
    write_pieces(&pieces, store.blobs(), start, cancel, out)
}

/// Writes an archive of these files.
pub(super) fn write_pieces(
    pieces: &[(String, Piece<'_>)],
    blobs: &Blobs,
    start: Option<&Start>,
    cancel: &CancelToken,
    out: &mut dyn Out,
) -> Result<(), ExportError> {
    directories(out).map_err(ExportError::Archive)?;
    for (path, piece) in pieces {
        if cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        match piece {
            Piece::Bytes(bytes) => {
                let size = bytes.len() as u64;
                file(out, path, size, |out| out.write_all(bytes))
            }
            Piece::Blob(digest, size) => {
                let blob = blobs.open(digest)?;
                file(out, path, *size, |out| match start {
                    Some(start) if start.has(digest, *size, out)? => Ok(()),
                    _ => out.copy(blob, *size),
                })
            }
        }
        .map_err(ExportError::Archive)?;
    }
    end(out).map_err(ExportError::Archive)
}

pub(super) const BLOCK: [u8; 512] = [0; 512];
const DIRECTORIES: [&str; 2] = ["blobs/", "blobs/sha256/"];

/// Writes the directories of a layout.
pub(super) fn directories(out: &mut dyn Out) -> io::Result<()> {
    for dir in DIRECTORIES {
        let header = header(dir, tar::EntryType::Directory, 0, 0o755)?;
        out.write_all(header.as_bytes())?;
    }
    Ok(())
}

/// Two blocks of zeros end an archive.
pub(super) fn end(out: &mut dyn Out) -> io::Result<()> {
    out.write_all(&[BLOCK; 2].concat())
}

/// Writes a file: its header, its bytes by `body`, and what fills its last block.
pub(super) fn file(
    out: &mut dyn Out,
    path: &str,
    size: u64,
    body: impl FnOnce(&mut dyn Out) -> io::Result<()>,
) -> io::Result<()> {
    // What may change in a layout can be written, as in containerd's archives.
    let mode = match path {
        "index.json" | "manifest.json" => 0o644,
        _ => 0o444,
    };
    let header = header(path, tar::EntryType::Regular, size, mode)?;
    out.write_all(header.as_bytes())?;
    body(out)?;
    let filled = size.next_multiple_of(BLOCK.len() as u64);
    out.write_all(&BLOCK[..(filled - size) as usize])
}

fn header(path: &str, kind: tar::EntryType, size: u64, mode: u32) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// Writes the layout as a directory, adding to one that is there: blobs are immutable, so only `index.json` has a
/// moment, and that is a rename.
fn write_directory(export: &Export<'_>, path: &Path) -> Result<Vec<Delivery>, ExportError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Write { path, source }
    };
    let dir = path.join("blobs/sha256");
    fs::create_dir_all(&dir).map_err(fail(&dir))?;
    // A cache that is written to the same directory removes what no index names yet (`crate::remote::directory`).
    let lock = fs::File::open(path).map_err(fail(path))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| fail(path)(error.into()))?;
    let put = |name: &str, from: Piece<'_>| -> Result<(), ExportError> {
        let target = path.join(name);
        let parent = target.parent().unwrap_or(path);
        let mut aside = tempfile::Builder::new()
            .prefix(".rbuild-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(fail(parent))?;
        match from {
            Piece::Bytes(bytes) => aside.write_all(bytes),
            Piece::Blob(digest, size) => {
                let blob = export.store.blobs().open(&digest)?;
                Out::copy(aside.as_file_mut(), blob, size)
            }
        }
        .map_err(fail(&target))?;
        aside
            .persist(&target)
            .map_err(|error| fail(&target)(error.error))?;
        Ok(())
    };
    for (name, piece) in blobs(slice::from_ref(export)) {
        if export.cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        let is_there = |size| fs::metadata(path.join(&name)).is_ok_and(|there| there.len() == size);
        match piece {
            Piece::Blob(_, size) if is_there(size) => {}
            piece => put(&name, piece)?,
        }
    }
    put("oci-layout", Piece::Bytes(LAYOUT))?;
    let index = merged_index(export, path)?;
    put("index.json", Piece::Bytes(&index))?;
    Ok(vec![Delivery::Directory {
        path: path.to_owned(),
    }])
}

/// The new `index.json`, with the entries of an earlier one that have other names.
fn merged_index(export: &Export<'_>, path: &Path) -> Result<Vec<u8>, ExportError> {
    let ours = index_json(slice::from_ref(export));
    let path = path.join("index.json");
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ours),
        read => read
            .and_then(|earlier| merged(&ours, &earlier))
            .map_err(|source| ExportError::Earlier { path, source }),
    }
}

/// Adds entries to those of `earlier`, which stay as they are whatever is in them, unless `ours` take their names.
fn merged(ours: &[u8], earlier: &[u8]) -> io::Result<Vec<u8>> {
    let mut ours: Value = serde_json::from_slice(ours)?;
    let mut index: Map<String, Value> = serde_json::from_slice(earlier)?;
    let earlier = match index.remove("manifests") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(io::Error::other("its `manifests` is not a list")),
    };
    let Some(Value::Array(mut entries)) = ours.get_mut("manifests").map(Value::take) else {
        unreachable!("an index that was made here has entries");
    };
    let is_replaced = |entry: &Value| {
        let by = [CONTAINERD_NAME, REF_NAME]
            .into_iter()
            .find(|key| entry["annotations"][*key].is_string());
        entries.iter().any(|new| match by {
            Some(key) => new["annotations"][key] == entry["annotations"][key],
            None => new["digest"] == entry["digest"],
        })
    };
    let kept: Vec<Value> = earlier
        .into_iter()
        .filter(|entry| !is_replaced(entry))
        .collect();
    entries.extend(kept);
    for key in ["schemaVersion", "mediaType"] {
        index.insert(key.to_owned(), ours[key].take());
    }
    index.insert("manifests".to_owned(), Value::Array(entries));
    Ok(serde_json::to_vec(&index)?)
}
