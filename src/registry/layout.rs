//! Images in a directory of the OCI image layout (OCI image-spec, image-layout.md): `oci-layout`, `index.json` and
//! `blobs/sha256/<hex>`.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use serde::Deserialize;

use super::MAX_DOCUMENT;
use super::blob::Verified;
use super::blob::Verifier;
use super::error::RegistryError;
use super::resolve;
use super::resolve::Fetched;
use super::resolve::Resolved;
use super::resolve::Wanted;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::Index;
use crate::image::Manifest;

/// The annotations images are found by, the specified one first; containerd writes full references into its own.
pub(super) const NAMES: [&str; 2] = [
    "org.opencontainers.image.ref.name",
    "io.containerd.image.name",
];
/// `imageLayoutVersion` of the only version there is.
const VERSION: &str = "1.";

/// An OCI image layout on disk, to read from.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
    index: Index,
}

/// A blob of a layout. Its errors have a [`RegistryError`] inside.
pub struct LayoutBlob(Verified<File>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// Reads the index of the layout in directory `path`.
    ///
    /// # Errors
    /// [`RegistryError`], if it is no layout.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let not = |why| RegistryError::NotALayout {
            path: path.to_owned(),
            why,
        };
        let marker = match read_small(&path.join("oci-layout")) {
            Err(RegistryError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(not("it has no file `oci-layout`"));
            }
            read => read?,
        };
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|_| not("its file `oci-layout` gives no `imageLayoutVersion`"))?;
        if !marker.image_layout_version.starts_with(VERSION) {
            return Err(not("its version is not 1"));
        }
        let index_path = path.join("index.json");
        let bytes = read_small(&index_path)?;
        match Document::parse(&bytes, None) {
            Ok(Document::Index(index)) => Ok(Self {
                path: path.to_owned(),
                index,
            }),
            Ok(Document::Manifest(_)) => Err(not("its `index.json` is a manifest")),
            Err(source) => Err(RegistryError::Document {
                what: index_path.display().to_string(),
                source,
            }),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the image for `platform` under a name (a tag, or a whole reference where containerd wrote it) or a
    /// digest; without either, the only image.
    ///
    /// # Errors
    /// [`RegistryError`]; `NotInLayout` lists the names there are.
    pub fn resolve(
        &self,
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let root = self.find(name)?;
        let what = match name {
            Some(name) => format!("{}:{name}", self.path.display()),
            None => self.path.display().to_string(),
        };
        resolve::image(&what, platform, &mut |wanted| match wanted {
            Wanted::Root => self.document(&root),
            Wanted::Manifest(descriptor) | Wanted::Config(descriptor) => self.document(descriptor),
        })
    }

    /// The manifest of what is no image, by its type and by its tag or digest; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`RegistryError`], if it is something else.
    pub fn artifact(&self, kind: &str, name: &str) -> Result<Option<Manifest>, RegistryError> {
        let named = |entry: &&Descriptor| {
            entry.digest.to_string() == name
                || entry
                    .annotations
                    .get(NAMES[0])
                    .is_some_and(|own| own == name)
        };
        // Images may have the same name; and not everybody who copies a layout copies what says that it is none.
        let mut entries: Vec<_> = self.index.manifests.iter().filter(named).collect();
        entries.sort_by_key(|entry| entry.artifact_type.as_deref() != Some(kind));
        let Some(entry) = entries.first() else {
            return Ok(None);
        };
        let fetched = self.document(entry)?;
        let what = || format!("{}:{name}", self.path.display());
        match Document::parse(&fetched.bytes, Some(&entry.media_type)) {
            Ok(Document::Manifest(manifest)) if manifest.artifact_type.as_deref() == Some(kind) => {
                Ok(Some(*manifest))
            }
            Ok(_) => Err(RegistryError::NotALayout {
                path: self.path.clone(),
                why: "what has that name in it is something else",
            }),
            Err(source) => Err(RegistryError::Document {
                what: what(),
                source,
            }),
        }
    }

    /// Whether the directory `path` has a blob of that length.
    pub fn has_blob(path: &Path, digest: &OciDigest, size: u64) -> bool {
        let path = path.join("blobs/sha256").join(digest.hex());
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// The digest a name stands for now.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn head(&self, name: Option<&str>) -> Result<OciDigest, RegistryError> {
        Ok(self.find(name)?.digest)
    }

    /// Reads a blob. The reader compares it with digest and size as it passes and gives an error in place of its
    /// last bytes if they differ.
    ///
    /// # Errors
    /// [`RegistryError`]; the reader's errors have one inside.
    pub fn blob(&self, digest: &OciDigest, size: u64) -> Result<LayoutBlob, RegistryError> {
        let path = self.blob_path(digest);
        let (file, length) = open(&path)?;
        if length != size {
            return Err(Verifier::new(digest, size).wrong_size(length));
        }
        Ok(LayoutBlob(Verified::new(file, digest, size)?))
    }

    fn find(&self, name: Option<&str>) -> Result<Descriptor, RegistryError> {
        let missing = || RegistryError::NotInLayout {
            path: self.path.clone(),
            wanted: name.map(str::to_owned),
            found: self.names(),
        };
        let mut images = self.index.images();
        let Some(name) = name else {
            return match (images.next(), images.next()) {
                (Some(only), None) => Ok(only.clone()),
                // Several images without names are one image for several platforms.
                (Some(_), Some(_)) if self.names_nothing() => self.itself(),
                _ => Err(missing()),
            };
        };
        if let Ok(digest) = name.parse::<OciDigest>() {
            return match images.find(|entry| entry.digest == digest) {
                Some(entry) => Ok(entry.clone()),
                // Below the index, where nested indexes keep their images.
                None => match open(&self.blob_path(&digest)) {
                    Ok((_, size)) => Ok(Descriptor::new("", digest, size)),
                    Err(_) => Err(missing()),
                },
            };
        }
        NAMES
            .iter()
            .find_map(|key| {
                self.index
                    .images()
                    .find(|entry| entry.annotations.get(*key).is_some_and(|own| own == name))
            })
            .cloned()
            .ok_or_else(missing)
    }

    /// `index.json` as an image of its own.
    fn itself(&self) -> Result<Descriptor, RegistryError> {
        let bytes = read_small(&self.path.join("index.json"))?;
        Ok(Descriptor::of(crate::image::media_type::OCI_INDEX, &bytes))
    }

    fn names_nothing(&self) -> bool {
        self.index
            .images()
            .all(|entry| !NAMES.iter().any(|key| entry.annotations.contains_key(*key)))
    }

    fn names(&self) -> Vec<String> {
        self.index
            .images()
            .map(|entry| {
                NAMES
                    .iter()
                    .find_map(|key| entry.annotations.get(*key).cloned())
                    .unwrap_or_else(|| entry.digest.to_string())
            })
            .collect()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Fetched, RegistryError> {
        let path = self.blob_path(&descriptor.digest);
        let bytes = match read_small(&path) {
            Err(RegistryError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && descriptor.is_index() =>
            {
                // The layout's own index is no blob.
                read_small(&self.path.join("index.json"))?
            }
            read => read?,
        };
        resolve::check(descriptor, &bytes)?;
        Ok(Fetched {
            digest: descriptor.digest,
            media_type: Some(descriptor.media_type.clone()),
            bytes,
        })
    }

    /// Made of hexadecimal digits only, so it never leads out of the layout.
    fn blob_path(&self, digest: &OciDigest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }
}

impl Read for LayoutBlob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

/// Opens a regular file and says how long it is. Others are refused before they are opened: opening a FIFO waits.
fn open(path: &Path) -> Result<(File, u64), RegistryError> {
    let failed = |source| RegistryError::Read {
        path: path.to_owned(),
        source,
    };
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((file, length))
}

fn read_small(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| RegistryError::Read {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(RegistryError::TooLarge {
            what: path.display().to_string(),
            limit: MAX_DOCUMENT,
        });
    }
    Ok(bytes)
}
