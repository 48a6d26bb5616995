//! Named images: one small file a name, which is percent-encoded. Manifests and configs are blobs.

use std::path::PathBuf;

use rbuild_llb::OciDigest;
use serde::Deserialize;
use serde::Serialize;

use crate::file;
use crate::journal::Journal;
use crate::store::StoreError;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// Digest of the manifest or index.
    pub digest: OciDigest,
    /// Media type of it.
    pub media_type: String,
    /// Digest of the config: the image id.
    pub id: OciDigest,
    /// What its registry knows it by, once it was pulled or pushed: the index it was pulled through, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_digest: Option<OciDigest>,
    /// When it was built here, or when its config says it was, nanoseconds since the epoch.
    pub created: u128,
    /// Bytes of its layers.
    pub size: u64,
    /// The weakest rung that steps of a build here ran on which made it: 2 if it has layers that are
    /// [`single`](crate::LayerRef::single), else 1. Nothing of what came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<u8>,
    /// Manifests and indexes that are about it, as its registry lists them, with what they are made of: each after what it
    /// points at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<OciDigest>,
}

/// The named images of a store.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    journal: Journal,
}

impl Images {
    pub(crate) fn new(dir: PathBuf, journal: Journal) -> Self {
        Self { dir, journal }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(encode(name))
    }

    /// Names an image, in the place of what had the name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set(&self, name: &str, image: &StoredImage) -> Result<(), StoreError> {
        self.journal.write_json(&self.path(name), image)
    }

    /// The image called `name`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<StoredImage>, StoreError> {
        file::read_json(&self.path(name))
    }

    /// The image whose id, with or without `sha256:`, begins with `prefix`, if there is one and not several.
    ///
    /// # Errors
    /// If the images cannot be read.
    pub fn by_id(&self, prefix: &str) -> Result<Option<StoredImage>, StoreError> {
        let prefix = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        if prefix.len() < 4 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut found: Vec<StoredImage> = self
            .list()?
            .into_iter()
            .map(|(_, image)| image)
            .filter(|image| image.id.hex().starts_with(prefix))
            .collect();
        found.dedup_by_key(|image| image.id);
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    /// All named images, by name.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn list(&self) -> Result<Vec<(String, StoredImage)>, StoreError> {
        let mut list = Vec::new();
        for path in file::list(&self.dir)? {
            let name = path.file_name().and_then(|name| decode(name.to_str()?));
            if let (Some(name), Some(image)) = (name, file::read_json(&path)?) {
                list.push((name, image));
            }
        }
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(list)
    }

    /// Takes a name away; says whether it was there.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path)(error)),
        }
    }
}

/// Everything but letters, digits and `-_.` becomes `%XX`, and so does a leading dot.
fn encode(name: &str) -> String {
    let mut text = String::new();
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => text.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(byte as char),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn any_name_is_a_file_name() {
        for name in ["docker.io/library/app:1", "..", ".hidden", "a%b", "ü"] {
            assert!(
                !encode(name).contains('/') && !encode(name).starts_with('.'),
                "{name}"
            );
            assert_eq!(decode(&encode(name)).as_deref(), Some(name));
        }
    }
}
