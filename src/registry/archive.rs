//! Images in archives: OCI image layouts as tars (OCI image-spec, image-layout.md), and what `docker save` writes
//! (docker's image-spec v1.2: `manifest.json`, which names a config and a tar for each layer).
//!
//! Docker writes both into one archive nowadays; then it is read as a layout, which has the digests. What the archive
//! says is compared with what its bytes are; diff ids are compared by who reads the layers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use rbuild_cache::ArchivedFile;
use rbuild_cache::Unpacked;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use serde::Deserialize;

use super::MAX_DOCUMENT;
use super::error::RegistryError;
use super::layout::NAMES;
use super::reference::Reference;
use super::resolve;
use super::resolve::Fetched;
use super::resolve::Resolved;
use super::resolve::Wanted;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::Format;
use crate::image::Index;
use crate::image::Manifest;
use crate::image::media_type;

/// Images that one archive may have.
const MAX_IMAGES: usize = 1000;

/// Bytes of all the documents that are read of one archive, each as often as it is named: all are in memory at once.
const MAX_DOCUMENTS: u64 = 64 << 20;

/// One image of an archive, or several for different platforms under one name.
#[derive(Debug)]
pub struct Archived {
    /// Its names, normalised; those that are only tags, or that have a digest, are left out.
    pub names: Vec<String>,
    /// One a platform.
    pub images: Vec<ArchivedImage>,
    /// The index over them and its bytes; only if all it names is in the archive, and is an image.
    pub index: Option<(Descriptor, Vec<u8>)>,
}

/// An image for one platform.
#[derive(Debug)]
pub struct ArchivedImage {
    /// The documents.
    pub resolved: Resolved,
    /// The layers, bottom first, with their digests checked.
    pub layers: Vec<ArchivedFile>,
}

/// One entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// An archive that was taken apart.
#[derive(Debug)]
pub struct Archive<'a> {
    files: &'a Unpacked,
    /// As the user knows it.
    shown: PathBuf,
    /// Bytes of the documents read so far.
    documents: Cell<u64>,
}

impl<'a> Archive<'a> {
    /// The archive called `shown`.
    pub fn new(files: &'a Unpacked, shown: impl Into<PathBuf>) -> Self {
        Self {
            files,
            shown: shown.into(),
            documents: Cell::new(0),
        }
    }

    /// The images in it. Of those for several platforms the one for `platform`, or if `only` is not set, all, where the
    /// archive has them all under one index. With `only`, what is for another platform is left out. A name that
    /// several images have is that of the one for `platform`, or else of the first.
    ///
    /// # Errors
    /// [`RegistryError`], if it has none, or something in it is not what it should be.
    pub fn images(&self, platform: &Platform, only: bool) -> Result<Vec<Archived>, RegistryError> {
        let is_there = |name| self.files.get(name).is_some();
        if is_there("oci-layout") && is_there("index.json") {
            return self.chosen(self.of_layout(platform, only)?, platform, only);
        }
        if is_there("manifest.json") {
            return self.chosen(self.of_docker()?, platform, only);
        }
        Err(self.not(match is_there("repositories") {
            true => "docker before 1.10 wrote it, without a `manifest.json`",
            false => "it has neither `index.json` and `oci-layout` nor `manifest.json`",
        }))
    }

    fn chosen(
        &self,
        mut found: Vec<Archived>,
        platform: &Platform,
        only: bool,
    ) -> Result<Vec<Archived>, RegistryError> {
        let wanted = platform.fallbacks();
        // Those that are not for the platform come last.
        let rank = |archived: &Archived| {
            let of = |image: &ArchivedImage| {
                let own = image.resolved.config.platform();
                wanted.iter().position(|platform| *platform == own)
            };
            archived.images.iter().filter_map(of).min()
        };
        if only {
            let there = found.iter().flat_map(|archived| &archived.images);
            let there = there.map(|image| image.resolved.config.platform());
            let there: Vec<Platform> = there.collect();
            found.retain(|archived| rank(archived).is_some());
            if found.is_empty() {
                return Err(RegistryError::NoPlatform {
                    what: self.shown.display().to_string(),
                    wanted: Box::new(platform.clone()),
                    found: there,
                });
            }
        }
        let mut best: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (at, archived) in found.iter().enumerate() {
            let this = (rank(archived).unwrap_or(usize::MAX), at);
            for name in &archived.names {
                let best = best.entry(name.clone()).or_insert(this);
                *best = this.min(*best);
            }
        }
        let mut at = 0..;
        found.retain_mut(|archived| {
            let at = at.next();
            let was_named = !archived.names.is_empty();
            archived
                .names
                .retain(|name| best.get(name).map(|(_, best)| *best) == at);
            !was_named || !archived.names.is_empty()
        });
        Ok(found)
    }

    fn not(&self, why: &'static str) -> RegistryError {
        RegistryError::NotAnArchive {
            path: self.shown.clone(),
            why,
        }
    }

    fn of_layout(&self, platform: &Platform, only: bool) -> Result<Vec<Archived>, RegistryError> {
        let bytes = self.document("index.json")?;
        let index = match Document::parse(&bytes, None) {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => return Err(self.not("its `index.json` is a manifest")),
            Err(source) => {
                return Err(RegistryError::Document {
                    what: format!("{}:index.json", self.shown.display()),
                    source,
                });
            }
        };
        let named =
            |entry: &Descriptor| NAMES.iter().any(|key| entry.annotations.contains_key(*key));
        let entries: Vec<&Descriptor> = index.images().collect();
        if entries.len() > 1 && !entries.iter().any(|entry| named(entry)) {
            // Several images without names are one image for several platforms.
            let root = Descriptor::of(media_type::OCI_INDEX, &bytes);
            let found = self.root(&root, Some(bytes), platform, only)?;
            return Ok(vec![Archived {
                names: Vec::new(),
                ..found
            }]);
        }
        let mut grouped: Vec<(&Descriptor, Vec<String>)> = Vec::new();
        for entry in entries {
            let names = match grouped
                .iter_mut()
                .find(|(have, _)| have.digest == entry.digest)
            {
                Some((_, names)) => names,
                None => {
                    grouped.push((entry, Vec::new()));
                    &mut grouped.last_mut().expect("it was pushed just now").1
                }
            };
            names.extend(name_of(entry));
        }
        if grouped.is_empty() {
            return Err(self.not("its `index.json` names no image"));
        }
        if grouped.len() > MAX_IMAGES {
            return Err(self.not("it has more than 1000 images"));
        }
        let found = grouped.into_iter().map(|(entry, names)| {
            let found = self.root(entry, None, platform, only)?;
            Ok(Archived { names, ..found })
        });
        found.collect()
    }

    /// What a descriptor stands for; `own` are its bytes if it is no blob.
    fn root(
        &self,
        root: &Descriptor,
        own: Option<Vec<u8>>,
        platform: &Platform,
        only: bool,
    ) -> Result<Archived, RegistryError> {
        let bytes = match own {
            Some(bytes) => bytes,
            None => self.blob_document(root)?,
        };
        let top = match Document::parse(&bytes, Some(&root.media_type)) {
            Ok(document) => document,
            Err(source) => {
                return Err(RegistryError::Document {
                    what: root.digest.to_string(),
                    source,
                });
            }
        };
        if let Document::Index(index) = &top
            && !only
            && let Some(images) = self.all(index)?
        {
            return Ok(Archived {
                names: Vec::new(),
                images,
                index: Some((Descriptor::of(index.media_type.as_str(), &bytes), bytes)),
            });
        }
        let image = self.resolve(root, &bytes, platform)?;
        Ok(Archived {
            names: Vec::new(),
            images: vec![image],
            index: None,
        })
    }

    /// The images of an index, if all its entries are images that are here as a whole.
    fn all(&self, index: &Index) -> Result<Option<Vec<ArchivedImage>>, RegistryError> {
        if index.images().count() != index.manifests.len() || index.manifests.len() > MAX_IMAGES {
            return Ok(None);
        }
        let mut images = Vec::new();
        for entry in &index.manifests {
            if entry.is_index() || self.files.get(&blob_name(&entry.digest)).is_none() {
                return Ok(None);
            }
            let bytes = self.blob_document(entry)?;
            // Whatever its platform: a single manifest stands for itself.
            match self.resolve(entry, &bytes, &Platform::host()) {
                Ok(image) => images.push(image),
                Err(RegistryError::NotInArchive { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(images))
    }

    fn resolve(
        &self,
        root: &Descriptor,
        bytes: &[u8],
        platform: &Platform,
    ) -> Result<ArchivedImage, RegistryError> {
        let what = format!("{}@{}", self.shown.display(), root.digest);
        let resolved = resolve::image(&what, platform, &mut |wanted| match wanted {
            Wanted::Root => Ok(Fetched {
                digest: root.digest,
                media_type: Some(root.media_type.clone()),
                bytes: bytes.to_vec(),
            }),
            Wanted::Manifest(descriptor) | Wanted::Config(descriptor) => Ok(Fetched {
                digest: descriptor.digest,
                media_type: Some(descriptor.media_type.clone()),
                bytes: self.blob_document(descriptor)?,
            }),
        })?;
        let layers = resolved.manifest.layers.iter().map(|layer| {
            let name = blob_name(&layer.digest);
            let file = self.file(&name)?;
            self.is(layer, file).cloned()
        });
        Ok(ArchivedImage {
            layers: layers.collect::<Result<_, _>>()?,
            resolved,
        })
    }

    fn of_docker(&self) -> Result<Vec<Archived>, RegistryError> {
        let bytes = self.document("manifest.json")?;
        let list: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|_| self.not("its `manifest.json` is not as docker writes it"))?;
        if list.is_empty() {
            return Err(self.not("its `manifest.json` names no image"));
        }
        if list.len() > MAX_IMAGES {
            return Err(self.not("it has more than 1000 images"));
        }
        list.iter().map(|saved| self.saved(saved)).collect()
    }

    fn saved(&self, saved: &Saved) -> Result<Archived, RegistryError> {
        let config_bytes = self.document(&saved.config)?;
        let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config_bytes);
        // `HEX.json`, or `blobs/sha256/HEX`.
        let stem = saved.config.rsplit('/').next().unwrap_or_default();
        let stem = stem.strip_suffix(".json").unwrap_or(stem);
        if let Ok(expected) = format!("sha256:{stem}").parse::<OciDigest>()
            && expected != config_descriptor.digest
        {
            return Err(RegistryError::DigestMismatch {
                what: saved.config.clone(),
                expected,
                actual: config_descriptor.digest,
            });
        }
        let config: ImageConfig =
            serde_json::from_slice(&config_bytes).map_err(|source| RegistryError::Config {
                what: saved.config.clone(),
                source,
            })?;
        let paths = saved.layers.as_deref().unwrap_or_default();
        let described = config.rootfs.diff_ids.len();
        if paths.len() != described {
            return Err(RegistryError::LayerCount {
                what: saved.config.clone(),
                layers: paths.len(),
                described,
            });
        }
        let (mut layers, mut descriptors) = (Vec::new(), Vec::new());
        for path in paths {
            let file = self.file(path)?;
            let media_type = format!("{}{}", media_type::OCI_LAYER, self.compression(path, file)?);
            descriptors.push(Descriptor::new(media_type, file.digest, file.size));
            layers.push(file.clone());
        }
        let manifest = Manifest::new(Format::Oci, config_descriptor, descriptors);
        let manifest_bytes = manifest.to_json();
        let names = saved.repo_tags.iter().flatten();
        let names = names.map(|name| {
            let name: Reference = name
                .parse()
                .map_err(|_| self.not("its `manifest.json` has a name that no image can have"))?;
            if name.digest.is_some() {
                return Err(self.not("its `manifest.json` has a name with a digest, not a tag"));
            }
            Ok(name.to_string())
        });
        Ok(Archived {
            names: names.collect::<Result<_, RegistryError>>()?,
            images: vec![ArchivedImage {
                resolved: Resolved {
                    index: None,
                    platforms: BTreeMap::new(),
                    manifest_digest: Descriptor::of("", &manifest_bytes).digest,
                    manifest,
                    manifest_bytes,
                    config,
                    config_bytes,
                },
                layers,
            }],
            index: None,
        })
    }

    /// What the media type of a layer ends with.
    fn compression(&self, path: &str, file: &ArchivedFile) -> Result<&'static str, RegistryError> {
        let mut magic = Vec::new();
        let read = self.files.open(file);
        read.and_then(|file| file.take(6).read_to_end(&mut magic))
            .map_err(|source| self.unreadable(path, source))?;
        match magic[..] {
            [0x1f, 0x8b, ..] => Ok("+gzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok("+zstd"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] | [b'B', b'Z', b'h', ..] => {
                Err(self.not("a layer in it is compressed by xz or bzip2, as no image's may be"))
            }
            _ => Ok(""),
        }
    }

    fn file(&self, name: &str) -> Result<&ArchivedFile, RegistryError> {
        self.files
            .get(name)
            .ok_or_else(|| RegistryError::NotInArchive {
                path: self.shown.clone(),
                name: name.to_owned(),
            })
    }

    /// A small file.
    fn document(&self, name: &str) -> Result<Vec<u8>, RegistryError> {
        let file = self.file(name)?;
        if file.size > MAX_DOCUMENT {
            return Err(RegistryError::TooLarge {
                what: name.to_owned(),
                limit: MAX_DOCUMENT,
            });
        }
        self.documents.set(self.documents.get() + file.size);
        if self.documents.get() > MAX_DOCUMENTS {
            return Err(self.not("the manifests and configs of its images have more than 64 MiB"));
        }
        let mut bytes = Vec::new();
        self.files
            .open(file)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|source| self.unreadable(name, source))?;
        Ok(bytes)
    }

    fn blob_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let bytes = self.document(&blob_name(&descriptor.digest))?;
        resolve::check(descriptor, &bytes)?;
        Ok(bytes)
    }

    /// Compares a file with what points at it.
    fn is<'f>(
        &self,
        descriptor: &Descriptor,
        file: &'f ArchivedFile,
    ) -> Result<&'f ArchivedFile, RegistryError> {
        let what = || descriptor.digest.to_string();
        if file.size != descriptor.size {
            return Err(RegistryError::SizeMismatch {
                what: what(),
                expected: descriptor.size,
                actual: file.size,
            });
        }
        if file.digest != descriptor.digest {
            return Err(RegistryError::DigestMismatch {
                what: what(),
                expected: descriptor.digest,
                actual: file.digest,
            });
        }
        Ok(file)
    }

    fn unreadable(&self, name: &str, source: std::io::Error) -> RegistryError {
        RegistryError::Read {
            path: self.shown.join(name),
            source,
        }
    }
}

fn blob_name(digest: &OciDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name that an entry of `index.json` gives its image: containerd's whole one, or else the specified one, unless that
/// is only a tag, which says nothing where there is no repository. One with a digest is none that an archive could give:
/// it would stand for whatever the archive has.
fn name_of(entry: &Descriptor) -> Option<String> {
    let whole = NAMES.iter().rev().find_map(|key| {
        let name = entry.annotations.get(*key)?;
        name.contains(['/', ':']).then_some(name)
    })?;
    let name: Reference = whole.parse().ok()?;
    name.digest.is_none().then(|| name.to_string())
}
