//! A repository of a registry that caches are written to, each under a tag; and images there that have a cache in them.
//!
//! A cache is a manifest with the catalogue for its config and all blobs for its layers, so that the registry keeps them as
//! long as the manifest. What the manifest that is to be replaced names is there, and nobody is asked about it; other blobs
//! are asked for one by one, and mounted from repositories near by.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_cache::CACHE as PREFIX;
use rbuild_llb::OciDigest;

use super::CATALOGUE;
use super::MAX_CATALOGUE;
use super::catalogue::Catalogue;
use super::chain;
use super::directory::BUILDKIT;
use super::export::ExportError;
use super::inline;
use super::inline::OfImage;
use super::inline::Said;
use super::manifest;
use super::place::Blob;
use super::place::CacheReader;
use super::place::CacheWriter;
use super::place::Contents;
use super::place::Trouble;
use super::read_whole;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::Manifest;
use crate::image::media_type;
use crate::registry::Client;
use crate::registry::MAX_DOCUMENT;
use crate::registry::OpenBlob;
use crate::registry::Pushed;
use crate::registry::Reference;
use crate::registry::RegistryError;

/// Images of one index that are looked into.
const MAX_IMAGES: usize = 32;
/// How the places of caches in registries begin, as origins have them.
const REGISTRY: &str = "registry:";

/// What origins call a repository of caches. Tags move, and blobs are there without them.
pub fn place(reference: &Reference) -> String {
    format!(
        "{PREFIX}{REGISTRY}{}/{}",
        reference.registry, reference.repository
    )
}

/// A cache in a registry, to read.
pub struct RepositoryReader {
    client: Client,
    reference: Reference,
}

impl RepositoryReader {
    /// Asks nobody yet.
    pub fn new(client: Client, reference: Reference) -> Self {
        Self { client, reference }
    }

    /// What the config of an image says.
    fn of_image(&self, manifest: &Manifest) -> Result<Said, Trouble> {
        let config = &manifest.config;
        let bytes = read_whole(self, &config.digest, config.size, MAX_DOCUMENT)?;
        inline::read(&bytes, manifest).map_err(|why| Trouble::with(format!("its config {why}")))
    }

    fn images(&self, manifests: &[Manifest]) -> Result<Contents, Trouble> {
        let mut images: Vec<OfImage> = Vec::new();
        let mut buildkits = false;
        for manifest in manifests {
            match self.of_image(manifest)? {
                Said::Ours(image) => images.push(image),
                Said::BuildKits => buildkits = true,
                Said::Nothing => {}
            }
        }
        match images.is_empty() {
            false => Ok(Contents::Images(images)),
            true if buildkits => Err(of_buildkit()),
            true => Err(Trouble::with(
                "is an image that has no cache in it, as `--cache-to type=inline` gives it one",
            )),
        }
    }

    fn document(&self, reference: &Reference) -> Result<Document, Trouble> {
        let found = self.client.document(reference);
        found.map(|(document, _)| document).map_err(trouble)
    }
}

fn of_buildkit() -> Trouble {
    Trouble::with(
        "was written by BuildKit, in a format that only BuildKit reads; the first `--cache-to` of rbuild replaces it",
    )
}

fn trouble(error: RegistryError) -> Trouble {
    Trouble {
        // What is not there, or is something else, says nothing of the rest.
        lasting: !matches!(
            error,
            RegistryError::NotFound { .. }
                | RegistryError::DigestMismatch { .. }
                | RegistryError::SizeMismatch { .. }
                | RegistryError::TooLarge { .. }
                | RegistryError::Document { .. }
        ),
        what: chain(&error),
    }
}

impl CacheReader for RepositoryReader {
    fn contents(&self) -> Result<Contents, Trouble> {
        let manifest = match self.document(&self.reference)? {
            Document::Manifest(manifest) => *manifest,
            Document::Index(index) => {
                let of_buildkit_ = |entry: &&Descriptor| entry.media_type == BUILDKIT;
                if index.manifests.iter().any(|entry| of_buildkit_(&entry)) {
                    return Err(of_buildkit());
                }
                let mut manifests = Vec::new();
                for entry in index.images().take(MAX_IMAGES) {
                    let image = self.document(&self.reference.with_digest(entry.digest))?;
                    if let Document::Manifest(manifest) = image {
                        manifests.push(*manifest);
                    }
                }
                return self.images(&manifests);
            }
        };
        let config = &manifest.config;
        match config.media_type.as_str() {
            CATALOGUE => {
                let bytes = read_whole(self, &config.digest, config.size, MAX_CATALOGUE)?;
                Ok(Contents::Catalogues(vec![bytes]))
            }
            BUILDKIT => Err(of_buildkit()),
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => self.images(&[manifest]),
            other => Err(Trouble::with(format!(
                "is neither a cache nor an image: its config is a `{other}`"
            ))),
        }
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        let blob = self.client.blob(&self.reference, digest, size);
        Ok(Box::new(blob.map_err(trouble)?))
    }

    fn may_have(&self, _: &OciDigest, _: u64) -> bool {
        true
    }
}

/// A place in a registry to write a cache to.
pub struct RepositoryWriter {
    client: Client,
    reference: Reference,
    /// Repositories of the same registry that may have what is to be sent.
    near: Vec<String>,
    /// The manifest that is there.
    earlier: Option<OciDigest>,
    /// What it knows, if it is one of ours.
    catalogue: Option<Catalogue>,
    /// Blobs that are known to be there, or not.
    known: Mutex<BTreeMap<OciDigest, bool>>,
    /// Blobs that came out wrong.
    mistrusted: Mutex<BTreeSet<OciDigest>>,
}

impl RepositoryWriter {
    /// Looks what is there.
    ///
    /// # Errors
    /// If the registry does not say.
    pub fn open(
        client: Client,
        reference: Reference,
        near: Vec<String>,
    ) -> Result<Self, ExportError> {
        let mut writer = Self {
            earlier: None,
            catalogue: None,
            known: Mutex::default(),
            mistrusted: Mutex::default(),
            near: near
                .into_iter()
                .filter(|near| *near != reference.repository)
                .collect(),
            client,
            reference,
        };
        let (document, bytes) = match writer.client.document(&writer.reference) {
            Ok(found) => found,
            // What cannot be understood is replaced; who cannot be reached will say so again.
            Err(RegistryError::NotFound { .. } | RegistryError::Document { .. }) => {
                return Ok(writer);
            }
            // A registry may hide what may be written: pushing tells.
            Err(RegistryError::Unauthorized { .. }) => return Ok(writer),
            Err(error) => return Err(writer.failed(error)),
        };
        if let Document::Manifest(manifest) = document
            && manifest.config.media_type == CATALOGUE
        {
            writer.earlier = Some(Descriptor::of("", &bytes).digest);
            let config = &manifest.config;
            let reader = RepositoryReader::new(writer.client.clone(), writer.reference.clone());
            let read = read_whole(&reader, &config.digest, config.size, MAX_CATALOGUE);
            writer.catalogue = read.ok().and_then(|bytes| Catalogue::parse(&bytes).ok());
            let blobs = manifest.layers.iter().map(|blob| (blob.digest, true));
            writer.known = Mutex::new(blobs.collect());
        }
        Ok(writer)
    }

    fn failed(&self, error: RegistryError) -> ExportError {
        ExportError::Place {
            place: self.reference.to_string(),
            source: Box::new(error),
        }
    }

    fn know(&self, digest: &OciDigest, there: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(*digest, there);
    }

    fn is_mistrusted(&self, digest: &OciDigest) -> bool {
        let doubted = self.mistrusted.lock();
        doubted
            .unwrap_or_else(PoisonError::into_inner)
            .contains(digest)
    }

    fn known(&self, digest: &OciDigest) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).copied()
    }
}

impl CacheWriter for RepositoryWriter {
    fn earlier(&self) -> Option<&Catalogue> {
        self.catalogue.as_ref()
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        RepositoryReader::new(self.client.clone(), self.reference.clone()).blob(digest, size)
    }

    fn has(&self, digest: &OciDigest, _: u64) -> Result<bool, ExportError> {
        if let Some(there) = self.known(digest) {
            return Ok(there);
        }
        let there = self.client.has(&self.reference, digest);
        let there = there.map_err(|error| self.failed(error))?;
        self.know(digest, there);
        Ok(there)
    }

    fn put(&self, digest: &OciDigest, size: u64, open: &OpenBlob<'_>) -> Result<bool, ExportError> {
        if self.has(digest, size)? && !self.is_mistrusted(digest) {
            return Ok(false);
        }
        let near = self.near.first().map(String::as_str);
        let open = || open();
        let sent = self
            .client
            .send_blob(&self.reference, digest, size, near, &open);
        let sent = sent.map_err(|error| self.failed(error))?;
        self.know(digest, true);
        Ok(sent == Pushed::Sent)
    }

    fn trust(&self, digest: &OciDigest) {
        self.know(digest, true);
    }

    /// What a registry has under a digest it does not replace: it is asked all the same.
    fn mistrust(&self, digest: &OciDigest) -> Result<(), ExportError> {
        let doubted = self.mistrusted.lock();
        doubted
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*digest);
        Ok(())
    }

    fn publish(
        self: Box<Self>,
        catalogue: &[u8],
        blobs: Vec<Descriptor>,
        did: &dyn Fn(&str),
    ) -> Result<(), ExportError> {
        let config = Descriptor::of(CATALOGUE, catalogue);
        let document = manifest(config.clone(), blobs);
        let digest = Descriptor::of("", &document).digest;
        if self.earlier == Some(digest) {
            return Ok(());
        }
        if self.put_bytes(&config.digest, catalogue)? {
            did(&format!("writing config {}", config.digest));
        }
        let pushed =
            self.client
                .push_manifest(&self.reference, media_type::OCI_MANIFEST, &document);
        pushed.map_err(|error| self.failed(error))?;
        did(&format!("writing cache image manifest {digest}"));
        Ok(())
    }
}
