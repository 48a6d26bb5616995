//! What several builders made of one output, as one: archives of images as one of an index over them, archives of file
//! systems as one.
//!
//! Documents are compared with the digests that name them; layers go through as they came, and whoever loads the archive
//! compares those.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write;

use rbuild_llb::OciDigest;

use super::ExportError;
use super::Out;
use super::ReadyIndex;
use super::archive;
use super::archive::path;
use crate::image::Descriptor;
use crate::image::Document;

/// Documents are not larger: what registries take (distribution-spec, Pushing Manifests).
const MAX_DOCUMENT: u64 = 4 << 20;

/// An archive of an image layout that holds one image.
#[derive(Debug)]
pub struct Layout {
    file: File,
    /// Where each file begins, and how long it is.
    files: BTreeMap<String, (u64, u64)>,
    manifest: Descriptor,
    /// What the image is made of: its manifest, config and layers.
    blobs: Vec<OciDigest>,
}

impl Layout {
    /// Looks through an archive.
    ///
    /// # Errors
    /// If it is none of one image, or lacks some of it.
    pub fn open(mut file: File) -> Result<Self, ExportError> {
        let found = index_of(&mut file).and_then(|files| {
            let (manifest, blobs) = image(&file, &files)?;
            Ok((files, manifest, blobs))
        });
        let (files, manifest, blobs) = found.map_err(ExportError::Sent)?;
        Ok(Self {
            file,
            files,
            manifest,
            blobs,
        })
    }

    /// What names the image.
    pub fn manifest(&self) -> &Descriptor {
        &self.manifest
    }
}

fn index_of(file: &mut File) -> io::Result<BTreeMap<String, (u64, u64)>> {
    file.rewind()?;
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(file).entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = entry.path()?.to_string_lossy().into_owned();
            files.insert(path, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(files)
}

fn image(
    file: &File,
    files: &BTreeMap<String, (u64, u64)>,
) -> io::Result<(Descriptor, Vec<OciDigest>)> {
    let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let document = |path: &str| -> io::Result<Vec<u8>> {
        let lacking = || wrong(format!("the archive has no `{path}`"));
        let &(offset, size) = files.get(path).ok_or_else(lacking)?;
        if size > MAX_DOCUMENT {
            return Err(wrong(format!("`{path}` is too large")));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        let mut file = file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let parse = |bytes: &[u8], kind: Option<&str>| {
        Document::parse(bytes, kind).map_err(|error| wrong(error.to_string()))
    };
    let Document::Index(index) = parse(&document("index.json")?, None)? else {
        return Err(wrong("`index.json` is no index".to_owned()));
    };
    let [manifest] = index.manifests.as_slice() else {
        return Err(wrong("the archive does not hold one image".to_owned()));
    };
    let bytes = document(&path(&manifest.digest))?;
    if Descriptor::of("", &bytes).digest != manifest.digest {
        return Err(wrong(format!("{} is not what it says", manifest.digest)));
    }
    let Document::Manifest(image) = parse(&bytes, Some(&manifest.media_type))? else {
        return Err(wrong("the archive holds images for platforms".to_owned()));
    };
    let described = [manifest, &image.config].into_iter().chain(&image.layers);
    let blobs: Vec<OciDigest> = described.map(|blob| blob.digest).collect();
    match blobs.iter().find(|blob| !files.contains_key(&path(blob))) {
        Some(lacking) => Err(wrong(format!("the archive lacks {lacking}"))),
        None => Ok((
            Descriptor::new(&*manifest.media_type, manifest.digest, manifest.size),
            blobs,
        )),
    }
}

/// Writes one archive of an index over the images of several.
///
/// # Errors
/// If it cannot be written, or one of them cannot be read.
pub fn write_index(
    layouts: &[Layout],
    index: &ReadyIndex,
    names: &[String],
    to: &mut (dyn Write + Send),
) -> Result<(), ExportError> {
    let mut blobs = BTreeMap::new();
    for layout in layouts {
        for digest in &layout.blobs {
            let path = path(digest);
            let (offset, size) = layout.files[&path];
            blobs.insert(path, (&layout.file, offset, size));
        }
    }
    let found_by = archive::found_by(&index.descriptor, names);
    let documents = [
        (path(&index.descriptor.digest), index.document.as_slice()),
        ("index.json".to_owned(), &found_by),
        ("oci-layout".to_owned(), archive::LAYOUT),
    ];
    write_layout(blobs, documents, &mut { to }).map_err(ExportError::Joined)
}

fn write_layout(
    blobs: BTreeMap<String, (&File, u64, u64)>,
    documents: [(String, &[u8]); 3],
    to: &mut dyn Out,
) -> io::Result<()> {
    archive::directories(to)?;
    for (path, (file, offset, size)) in blobs {
        let mut from = file.try_clone()?;
        from.seek(SeekFrom::Start(offset))?;
        archive::file(to, &path, size, |out| out.copy(from, size))?;
    }
    for (path, bytes) in documents {
        let size = bytes.len() as u64;
        archive::file(to, &path, size, |out| out.write_all(bytes))?;
    }
    archive::end(to)
}

/// Writes archives one after the other as one. Nothing is in two of them.
///
/// # Errors
/// If it cannot be written, or one of them cannot be read.
pub fn write_tars(tars: Vec<File>, to: &mut (dyn Write + Send)) -> Result<(), ExportError> {
    let mut to = to;
    for mut tar in tars {
        let end = end_of(&mut tar).map_err(ExportError::Sent)?;
        let copied = tar.rewind().and_then(|()| Out::copy(&mut to, tar, end));
        copied.map_err(ExportError::Joined)?;
    }
    archive::end(&mut to).map_err(ExportError::Joined)
}

/// Where the last entry of an archive ends: what follows says only that it does.
fn end_of(file: &mut File) -> io::Result<u64> {
    file.rewind()?;
    let mut end = 0;
    for entry in tar::Archive::new(file).entries_with_seek()? {
        let entry = entry?;
        let size = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => entry.size(),
            _ => 0,
        };
        end = entry.raw_file_position() + size.next_multiple_of(archive::BLOCK.len() as u64);
    }
    Ok(end)
}

#[cfg(test)]
mod t {
    use std::process::Command;

    use super::*;
    use crate::image::Format;
    use crate::image::Index;
    use crate::image::Manifest;

    /// An archive of GNU tar's of these files.
    fn packed(dir: &std::path::Path, files: &[(String, Vec<u8>)]) -> File {
        let root = dir.join("root");
        drop(std::fs::remove_dir_all(&root));
        for (path, bytes) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let archive = dir.join("tar");
        // An earlier one is still open.
        drop(std::fs::remove_file(&archive));
        let mut command = Command::new("tar");
        command.arg("-C").arg(&root).arg("-cf").arg(&archive);
        let names = std::fs::read_dir(&root).unwrap();
        command.args(names.map(|name| name.unwrap().file_name()));
        assert!(command.status().unwrap().success());
        File::open(archive).unwrap()
    }

    fn blob(bytes: &[u8]) -> (Descriptor, (String, Vec<u8>)) {
        let descriptor = Descriptor::of("", bytes);
        let file = (path(&descriptor.digest), bytes.to_vec());
        (descriptor, file)
    }

    fn layout(layer: &[u8]) -> Vec<(String, Vec<u8>)> {
        let (mut config, config_file) = blob(b"{}");
        config.media_type = Format::Oci.config().to_owned();
        let (mut layer, layer_file) = blob(layer);
        layer.media_type = crate::image::media_type::OCI_LAYER.to_owned();
        let manifest = Manifest::new(Format::Oci, config, vec![layer]).to_json();
        let (mut top, manifest_file) = blob(&manifest);
        top.media_type = Format::Oci.manifest().to_owned();
        let index = Index::new(Format::Oci, vec![top]).to_json();
        vec![
            config_file,
            layer_file,
            manifest_file,
            ("index.json".into(), index),
        ]
    }

    #[test]
    fn images_become_one_index() {
        let dir = tempfile::tempdir().unwrap();
        let layouts = [&b"one"[..], b"other"].map(|layer| {
            let file = packed(dir.path(), &layout(layer));
            Layout::open(file).unwrap()
        });
        let entries = layouts.iter().map(|layout| layout.manifest().clone());
        let document = Index::new(Format::Oci, entries.collect()).to_json();
        let index = ReadyIndex {
            descriptor: Descriptor::of(Format::Oci.index(), &document),
            document,
        };
        let names = ["docker.io/library/app:latest".to_owned()];
        let joined = dir.path().join("joined.tar");
        write_index(
            &layouts,
            &index,
            &names,
            &mut File::create(&joined).unwrap(),
        )
        .unwrap();
        // GNU tar takes it apart; sha256sum says whether files are what they are called.
        let script = "tar -xf joined.tar && cd blobs/sha256 && for f in *; do echo \"$f  $f\"; done | sha256sum -c --quiet && ls | wc -l";
        let mut sh = Command::new("sh");
        let said = sh.args(["-c", script]).current_dir(&dir).output().unwrap();
        // Two manifests, two layers, the index; the config is the same.
        assert_eq!(
            String::from_utf8_lossy(&said.stdout).trim(),
            "6",
            "{said:?}"
        );
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "latest");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let whole = layout(b"layer");
        let refused = |files: &[(String, Vec<u8>)]| {
            let error = Layout::open(packed(dir.path(), files)).unwrap_err();
            let ExportError::Sent(why) = error else {
                panic!("{error:?}");
            };
            why.to_string()
        };
        assert_eq!(refused(&whole[..3]), "the archive has no `index.json`");
        let lacks = refused(&[&whole[..1], &whole[2..]].concat());
        assert!(lacks.starts_with("the archive lacks sha256:"), "{lacks}");
        let mut forged = whole.clone();
        forged[2].1.push(b' ');
        let forged = refused(&forged);
        assert!(forged.ends_with(" is not what it says"), "{forged}");
    }

    #[test]
    fn archives_are_joined_without_what_ends_them() {
        let dir = tempfile::tempdir().unwrap();
        // Zeros that are content: an end must not be seen in them.
        let file = |name: &str| (name.to_owned(), vec![0; 3000]);
        let long = format!("b/{}", "n".repeat(150));
        let tars = [
            packed(dir.path(), &[file("a/f")]),
            packed(dir.path(), &[file(&long), file("b/g")]),
        ];
        let joined = dir.path().join("joined.tar");
        write_tars(tars.into(), &mut File::create(&joined).unwrap()).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&joined).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let mut files: Vec<&str> = listed.lines().filter(|l| !l.ends_with('/')).collect();
        files.sort();
        assert_eq!(files, ["a/f", "b/g", &long]);
        let size = std::fs::metadata(joined).unwrap().len();
        assert_eq!(size % 512, 0);
    }
}
