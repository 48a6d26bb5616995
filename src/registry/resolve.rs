//! From a name to the image for a platform, wherever the bytes come from.

use std::collections::BTreeMap;

use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use super::error::RegistryError;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::Index;
use crate::image::Manifest;
use crate::image::media_type;

/// Indexes within indexes.
const MAX_DEPTH: u32 = 4;
/// Entries without a platform whose configs are read to find it out, in one index.
const MAX_UNDECLARED: usize = 16;

/// An image for one platform, its documents verified.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The index the name stands for, if it is one; what a tag is pinned to then.
    pub index: Option<OciDigest>,
    /// The manifests of the index whose platforms it names, this one most likely among them.
    pub platforms: BTreeMap<Platform, OciDigest>,
    /// The platform's manifest.
    pub manifest: Manifest,
    /// Its digest.
    pub manifest_digest: OciDigest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// The config.
    pub config: ImageConfig,
    /// Its bytes.
    pub config_bytes: Vec<u8>,
}

/// What [`image`] asks its caller for.
pub(super) enum Wanted<'a> {
    /// What the name stands for.
    Root,
    Manifest(&'a Descriptor),
    Config(&'a Descriptor),
}

/// A document; its bytes have that digest.
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: OciDigest,
    /// As its descriptor or `Content-Type` gives it.
    pub(super) media_type: Option<String>,
}

type Fetch<'a> = dyn FnMut(Wanted<'_>) -> Result<Fetched, RegistryError> + 'a;

/// Finds the image for `platform`. A name that stands for a single image gives that, whatever its platform, as
/// docker does: only who asked knows whether that matters.
pub(super) fn image(
    what: &str,
    platform: &Platform,
    fetch: &mut Fetch<'_>,
) -> Result<Resolved, RegistryError> {
    let root = fetch(Wanted::Root)?;
    match parse(what, &root)? {
        Document::Manifest(manifest) => load(what, root, *manifest, fetch),
        Document::Index(index) => {
            let mut search = Search {
                what,
                platform,
                found: Vec::new(),
            };
            let Some((_, image)) = search.index(&index, 0, fetch)? else {
                search.found.sort();
                search.found.dedup();
                return Err(RegistryError::NoPlatform {
                    what: what.to_owned(),
                    wanted: Box::new(platform.clone()),
                    found: search.found,
                });
            };
            Ok(Resolved {
                index: Some(root.digest),
                platforms: index.by_platform(),
                ..image
            })
        }
    }
}

struct Search<'a> {
    what: &'a str,
    platform: &'a Platform,
    /// The platforms seen.
    found: Vec<Platform>,
}

impl Search<'_> {
    /// The best image of an index, with its rank in the platform's fallbacks.
    fn index(
        &mut self,
        index: &Index,
        depth: u32,
        fetch: &mut Fetch<'_>,
    ) -> Result<Option<(usize, Resolved)>, RegistryError> {
        self.found.extend(index.platforms());
        for entry in index.matching(self.platform) {
            if let Some(image) = self.entry(entry, true, depth, fetch)? {
                return Ok(Some(image));
            }
        }
        let only = index.images().count() == 1;
        let mut best: Option<(usize, Resolved)> = None;
        for entry in index.undeclared().into_iter().take(MAX_UNDECLARED) {
            let image = self.entry(entry, only, depth, fetch)?;
            if let Some((rank, image)) = image
                && best.as_ref().is_none_or(|(best, _)| rank < *best)
            {
                best = Some((rank, image));
            }
        }
        Ok(best)
    }

    /// The image an entry points at; if its platform fits, or in any case if it is `trusted` to.
    fn entry(
        &mut self,
        entry: &Descriptor,
        trusted: bool,
        depth: u32,
        fetch: &mut Fetch<'_>,
    ) -> Result<Option<(usize, Resolved)>, RegistryError> {
        let fetched = fetch(Wanted::Manifest(entry))?;
        let manifest = match parse(self.what, &fetched)? {
            Document::Manifest(manifest) => *manifest,
            Document::Index(_) if depth == MAX_DEPTH => return Ok(None),
            Document::Index(index) => return self.index(&index, depth + 1, fetch),
        };
        let image = load(self.what, fetched, manifest, fetch)?;
        let platform = image.config.platform();
        let rank = self
            .platform
            .fallbacks()
            .iter()
            .position(|p| *p == platform);
        self.found.push(platform);
        Ok(match (rank, trusted) {
            (Some(rank), _) => Some((rank, image)),
            (None, true) => Some((usize::MAX, image)),
            (None, false) => None,
        })
    }
}

pub(super) fn parse(what: &str, fetched: &Fetched) -> Result<Document, RegistryError> {
    Document::parse(&fetched.bytes, fetched.media_type.as_deref()).map_err(|source| {
        RegistryError::Document {
            what: what.to_owned(),
            source,
        }
    })
}

fn load(
    what: &str,
    fetched: Fetched,
    manifest: Manifest,
    fetch: &mut Fetch<'_>,
) -> Result<Resolved, RegistryError> {
    let what = || what.to_owned();
    if !media_type::is_image_config(&manifest.config.media_type) {
        return Err(RegistryError::NotAnImage {
            what: what(),
            media_type: manifest.config.media_type,
        });
    }
    let config_bytes = fetch(Wanted::Config(&manifest.config))?.bytes;
    let config: ImageConfig =
        serde_json::from_slice(&config_bytes).map_err(|source| RegistryError::Config {
            what: what(),
            source,
        })?;
    let (layers, described) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != described {
        return Err(RegistryError::LayerCount {
            what: what(),
            layers,
            described,
        });
    }
    Ok(Resolved {
        index: None,
        platforms: BTreeMap::new(),
        manifest,
        manifest_digest: fetched.digest,
        manifest_bytes: fetched.bytes,
        config,
        config_bytes,
    })
}

/// Compares bytes with the size and digest of their descriptor.
pub(super) fn check(descriptor: &Descriptor, bytes: &[u8]) -> Result<(), RegistryError> {
    check_size(descriptor, bytes)?;
    let actual = Descriptor::of("", bytes).digest;
    if actual != descriptor.digest {
        return Err(RegistryError::DigestMismatch {
            what: descriptor.digest.to_string(),
            expected: descriptor.digest,
            actual,
        });
    }
    Ok(())
}

/// Compares the number of bytes with the descriptor's.
pub(super) fn check_size(descriptor: &Descriptor, bytes: &[u8]) -> Result<(), RegistryError> {
    let actual = bytes.len() as u64;
    if actual != descriptor.size {
        return Err(RegistryError::SizeMismatch {
            what: descriptor.digest.to_string(),
            expected: descriptor.size,
            actual,
        });
    }
    Ok(())
}
