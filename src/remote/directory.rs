//! A directory that caches are written to.
//!
//! Exports into one directory take turns (flock(2) on the directory). What `index.json` does not name, directly or below
//! what it names, is removed at the end of each: the directory is never larger than what it holds. Readers take no lock; one
//! whose blob goes away while it looks for it goes on without.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::OciDigest;
use rustix::fs::FlockOperation;
use serde_json::Value;
use serde_json::json;
use tempfile::NamedTempFile;

use super::CACHE;
use super::CATALOGUE;
use super::MAX_CATALOGUE;
use super::catalogue::Catalogue;
use super::export::ExportError;
use super::manifest;
use super::mounts::Mount;
use super::place::Blob;
use super::place::CacheReader;
use super::place::CacheWriter;
use super::place::Contents;
use super::place::Trouble;
use super::read_whole;
use crate::image::Descriptor;
use crate::image::media_type;
use crate::registry::Layout;
use crate::registry::OpenBlob;
use crate::registry::RegistryError;

/// Names of caches (OCI image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What BuildKit's caches have, as the config of a manifest or among the entries of an index.
pub(super) const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";
/// How the names of files begin that are being written.
const ASIDE: &str = ".rbuild-";
/// Larger manifests are none.
const MAX_MANIFEST: u64 = 64 << 20;

/// A directory that is locked and may be written to.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// What the cache is called.
    name: String,
    /// `index.json`, with the fields of it that mean nothing here.
    index: Value,
    /// Holds the lock.
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, and waits until nobody else writes to it.
    ///
    /// # Errors
    /// If it is something else, or cannot be written.
    pub fn open(path: &Path, name: &str) -> Result<Self, ExportError> {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ExportError::write(&blobs))?;
        let lock = File::open(path).map_err(ExportError::write(path))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| ExportError::write(path)(error.into()))?;
        let index_path = path.join("index.json");
        let index = match fs::read(&index_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => json!({
                "schemaVersion": 2,
                "mediaType": media_type::OCI_INDEX,
                "manifests": [],
            }),
            Err(source) => return Err(ExportError::write(&index_path)(source)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .ok()
                .filter(|index: &Value| index["manifests"].is_array())
                .ok_or(ExportError::NotALayout {
                    path: path.to_owned(),
                })?,
        };
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
            index,
            _lock: lock,
        })
    }

    fn reader(&self) -> Result<LocalReader, Trouble> {
        LocalReader::open(&self.path, &self.name)
    }

    fn blob_path(&self, digest: &OciDigest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn write(&self, digest: &OciDigest, size: u64, mut from: impl Read) -> Result<(), ExportError> {
        let path = self.blob_path(digest);
        let mut write = || -> io::Result<()> {
            let mut aside = self.aside(&self.path.join("blobs/sha256"))?;
            let written = io::copy(&mut from, aside.as_file_mut())?;
            if written != size {
                let came = format!("{written} bytes came instead of {size}");
                return Err(io::Error::other(came));
            }
            aside.persist(&path)?;
            Ok(())
        };
        write().map_err(ExportError::write(&path))
    }

    fn aside(&self, dir: &Path) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(ASIDE)
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(dir)
    }

    /// Names a manifest that was put, in the place of what had the name, and removes what nothing names any more.
    fn name(mut self, manifest: &Descriptor) -> Result<(), ExportError> {
        let name = self.name.clone();
        let marker = self.path.join("oci-layout");
        if !marker.is_file() {
            let version = json!({"imageLayoutVersion": "1.0.0"}).to_string();
            self.replace(&marker, version.as_bytes())?;
        }
        let entry = json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest.to_string(),
            "size": manifest.size,
            "artifactType": CACHE,
            "annotations": {REF_NAME: name},
        });
        let before = self.index.clone();
        let entries = self.index["manifests"].as_array().cloned();
        let mut entries = entries.unwrap_or_default();
        entries.retain(|entry| entry["annotations"][REF_NAME] != name || !self.is_cache(entry));
        entries.push(entry);
        entries.sort_by_key(|entry| {
            let name = entry["annotations"][REF_NAME].as_str();
            name.unwrap_or_default().to_owned()
        });
        self.index["manifests"] = Value::Array(entries);
        if self.index != before {
            self.replace(
                &self.path.join("index.json"),
                self.index.to_string().as_bytes(),
            )?;
        }
        self.sweep()
    }

    /// Whether an entry of the index is a cache, of ours or of BuildKit: an image may have the name of one.
    fn is_cache(&self, entry: &Value) -> bool {
        let digest = entry["digest"]
            .as_str()
            .and_then(|digest| digest.parse().ok());
        let document = digest
            .and_then(|digest| self.document(&digest))
            .unwrap_or_default();
        let listed = document["manifests"].as_array().into_iter().flatten();
        let of_buildkit = |blob: &Value| blob["mediaType"] == BUILDKIT;
        entry["artifactType"] == CACHE
            || document["artifactType"] == CACHE
            || of_buildkit(&document["config"])
            || listed.into_iter().any(of_buildkit)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
        let write = || -> io::Result<()> {
            let mut aside = self.aside(&self.path)?;
            io::Write::write_all(aside.as_file_mut(), bytes)?;
            // The one file that no digest is there to check.
            aside.as_file().sync_all()?;
            aside.persist(path)?;
            Ok(())
        };
        write().map_err(ExportError::write(path))
    }

    /// Removes blobs that nothing names, and what exports left that did not end. What looks like neither stays.
    fn sweep(&self) -> Result<(), ExportError> {
        let Some(named) = self.named() else {
            return Ok(());
        };
        for dir in [self.path.clone(), self.path.join("blobs/sha256")] {
            let entries = fs::read_dir(&dir).map_err(ExportError::write(&dir))?;
            for entry in entries {
                let entry = entry.map_err(ExportError::write(&dir))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let blob = format!("sha256:{name}").parse::<OciDigest>().ok();
                let lost = dir != self.path && blob.is_some_and(|blob| !named.contains(&blob));
                if lost || name.starts_with(ASIDE) {
                    fs::remove_file(entry.path()).map_err(ExportError::write(&entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// All blobs that are named; `None` if some of what is named cannot be read, and may name others.
    fn named(&self) -> Option<BTreeSet<OciDigest>> {
        let mut named = BTreeSet::new();
        let mut open = vec![self.index.clone()];
        while let Some(document) = open.pop() {
            for list in ["manifests", "layers", "blobs"] {
                for entry in document[list].as_array().into_iter().flatten() {
                    let digest: OciDigest = entry["digest"].as_str()?.parse().ok()?;
                    if named.insert(digest) && list == "manifests" {
                        open.push(self.document(&digest)?);
                    }
                }
            }
            for one in ["config", "subject"] {
                if let Some(digest) = document[one]["digest"].as_str() {
                    named.insert(digest.parse().ok()?);
                }
            }
        }
        Some(named)
    }

    /// A manifest. BuildKit's caches name layers where an index names manifests: those are none.
    fn document(&self, digest: &OciDigest) -> Option<Value> {
        let path = self.blob_path(digest);
        let length = path.metadata().ok()?.len();
        if length > MAX_MANIFEST {
            return Some(Value::Null);
        }
        Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap_or(Value::Null))
    }
}

impl CacheWriter for Directory {
    fn earlier(&self) -> Option<&Catalogue> {
        None
    }

    fn mounts(&self) -> Vec<Mount> {
        let contents = self.reader().and_then(|reader| reader.contents());
        let catalogues = match contents {
            Ok(Contents::Catalogues(catalogues)) => catalogues,
            _ => Vec::new(),
        };
        let catalogues = catalogues.iter();
        let mounts = catalogues.filter_map(|bytes| Some(Catalogue::parse(bytes).ok()?.mounts));
        mounts.flatten().collect()
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        self.reader()?.blob(digest, size)
    }

    fn has(&self, digest: &OciDigest, size: u64) -> Result<bool, ExportError> {
        Ok(Layout::has_blob(&self.path, digest, size))
    }

    fn put(&self, digest: &OciDigest, size: u64, open: &OpenBlob<'_>) -> Result<bool, ExportError> {
        if self.has(digest, size)? {
            return Ok(false);
        }
        let from = open().map_err(|source| ExportError::Source { source })?;
        self.write(digest, size, from)?;
        Ok(true)
    }

    fn put_bytes(&self, digest: &OciDigest, bytes: &[u8]) -> Result<bool, ExportError> {
        match fs::read(self.blob_path(digest)) {
            Ok(there) if there == bytes => Ok(false),
            _ => {
                self.write(digest, bytes.len() as u64, bytes)?;
                Ok(true)
            }
        }
    }

    /// Looking costs nothing.
    fn trust(&self, _: &OciDigest) {}

    fn mistrust(&self, digest: &OciDigest) -> Result<(), ExportError> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ExportError::write(&path)(error))
            }
            _ => Ok(()),
        }
    }

    fn publish(
        self: Box<Self>,
        catalogue: &[u8],
        blobs: Vec<Descriptor>,
        did: &dyn Fn(&str),
    ) -> Result<(), ExportError> {
        let config = Descriptor::of(CATALOGUE, catalogue);
        let document = manifest(config.clone(), blobs);
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &document);
        self.put_bytes(&config.digest, catalogue)?;
        did(&format!("writing config {}", config.digest));
        self.put_bytes(&descriptor.digest, &document)?;
        did(&format!(
            "writing cache image manifest {}",
            descriptor.digest
        ));
        self.name(&descriptor)
    }
}

/// A directory to read from.
#[derive(Debug)]
pub struct LocalReader {
    layout: Layout,
    name: String,
}

impl LocalReader {
    /// Opens it.
    ///
    /// # Errors
    /// If it is no OCI image layout.
    pub fn open(path: &Path, name: &str) -> Result<Self, Trouble> {
        let layout = Layout::open(path).map_err(trouble)?;
        Ok(Self {
            layout,
            name: name.to_owned(),
        })
    }
}

fn trouble(error: RegistryError) -> Trouble {
    Trouble::with(super::chain(&error))
}

impl CacheReader for LocalReader {
    fn contents(&self) -> Result<Contents, Trouble> {
        let found = self.layout.artifact(CACHE, &self.name).map_err(trouble)?;
        let none = || Trouble::with(format!("it has no cache called `{}`", self.name));
        let manifest = found.ok_or_else(none)?;
        let config = &manifest.config;
        if config.media_type != CATALOGUE {
            let what = format!("its catalogue is a `{}`", config.media_type);
            return Err(Trouble::with(what));
        }
        let bytes = read_whole(self, &config.digest, config.size, MAX_CATALOGUE);
        let bytes = bytes.map_err(|trouble| Trouble {
            what: format!("its catalogue {}", trouble.what),
            ..trouble
        })?;
        Ok(Contents::Catalogues(vec![bytes]))
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        let blob = self.layout.blob(digest, size).map_err(trouble)?;
        Ok(Box::new(blob))
    }

    fn may_have(&self, digest: &OciDigest, size: u64) -> bool {
        Layout::has_blob(self.layout.path(), digest, size)
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::image::Format;
    use crate::image::Manifest;

    fn put(directory: &Directory, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        directory.put_bytes(&descriptor.digest, bytes).unwrap();
        descriptor
    }

    /// Publishes a cache with one blob.
    fn publish(path: &Path, name: &str, blob: &[u8]) {
        let directory = Directory::open(path, name).unwrap();
        let layer = put(&directory, "layer", blob);
        let directory = Box::new(directory);
        directory
            .publish(b"catalogue", vec![layer], &|_| {})
            .unwrap();
    }

    fn blobs(path: &Path) -> usize {
        fs::read_dir(path.join("blobs/sha256")).unwrap().count()
    }

    fn names(path: &Path) -> Vec<String> {
        let index: Value =
            serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        let entries = index["manifests"].as_array().unwrap().iter();
        entries
            .map(|entry| {
                entry["annotations"][REF_NAME]
                    .as_str()
                    .unwrap_or("")
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn what_nothing_names_any_more_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        publish(&path, "latest", b"one");
        publish(&path, "latest", b"two");
        assert_eq!((blobs(&path), names(&path)), (3, vec!["latest".to_owned()]));
        publish(&path, "branch", b"three");
        publish(&path, "latest", b"four");
        // They share the config.
        assert_eq!(blobs(&path), 5);
        assert_eq!(names(&path), ["branch", "latest"]);
        assert!(
            Layout::open(&path)
                .unwrap()
                .artifact(CACHE, "branch")
                .unwrap()
                .is_some()
        );
    }

    /// What BuildKit left under the name is replaced; what somebody else keeps there is not.
    #[test]
    fn caches_are_replaced_and_images_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let directory = Directory::open(path, "latest").unwrap();
        // As BuildKit 0.21 writes it with `image-manifest=true`, and with `false`.
        let config = put(&directory, BUILDKIT, b"{}");
        let layer = put(&directory, media_type::OCI_LAYER, b"of buildkit");
        let manifest = Manifest::new(Format::Oci, config.clone(), vec![layer.clone()]);
        let manifest = put(&directory, media_type::OCI_MANIFEST, &manifest.to_json());
        let list = json!({"schemaVersion": 2, "manifests": [layer, config]}).to_string();
        let list = put(&directory, media_type::OCI_INDEX, list.as_bytes());
        let config = put(&directory, media_type::OCI_CONFIG, b"{ }");
        let layer = put(&directory, media_type::OCI_LAYER, b"of an image");
        let image = Manifest::new(Format::Oci, config, vec![layer]);
        let image = put(&directory, media_type::OCI_MANIFEST, &image.to_json());
        let entry = |of: &Descriptor| {
            json!({
                "mediaType": of.media_type, "digest": of.digest.to_string(), "size": of.size,
                "annotations": {REF_NAME: "latest"},
            })
        };
        let entries = [entry(&manifest), entry(&list), entry(&image)];
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        fs::write(path.join("index.json"), index).unwrap();
        drop(directory);
        assert_eq!(blobs(path), 7);
        publish(path, "latest", b"ours");
        assert_eq!(names(path), ["latest", "latest"]);
        assert_eq!(blobs(path), 3 + 3);
        assert!(Layout::has_blob(path, &image.digest, image.size));
    }

    /// What names cannot be followed may name anything.
    #[test]
    fn nothing_is_removed_where_not_all_names_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let directory = Directory::open(path, "latest").unwrap();
        let kept = put(&directory, "layer", b"kept");
        drop(directory);
        let gone = Descriptor::of(media_type::OCI_MANIFEST, b"gone");
        let entry = json!({"digest": gone.digest.to_string(), "size": gone.size});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        fs::write(path.join("index.json"), index).unwrap();
        publish(path, "latest", b"one");
        assert!(Layout::has_blob(path, &kept.digest, kept.size));
    }

    #[test]
    fn a_blob_of_another_length_is_written_again_and_one_that_is_at_hand_compared() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path(), "latest").unwrap();
        let blob = put(&directory, "layer", b"whole");
        let path = directory.blob_path(&blob.digest);
        fs::write(&path, b"who").unwrap();
        assert!(!directory.has(&blob.digest, blob.size).unwrap());
        let whole = || Ok(Box::new(&b"whole"[..]) as Box<dyn Read>);
        let sent = directory.put(&blob.digest, blob.size, &whole).unwrap();
        assert!(sent && !directory.put(&blob.digest, blob.size, &whole).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        fs::write(&path, b"Whole").unwrap();
        directory.put_bytes(&blob.digest, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let short = directory.put(&gone(), 5, &|| Ok(Box::new(&b"four"[..])));
        assert!(short.is_err());
        assert!(!directory.blob_path(&gone()).exists());
    }

    fn gone() -> OciDigest {
        OciDigest::from_bytes([1; 32])
    }
}
