//! What others say of an image, as its registry lists it: signatures, lists of what is in it. A pull that is told to keeps
//! it beside the image, with its bytes, and a push that is told to takes it along. None of it is understood here.

use std::collections::BTreeSet;

use rbuild_cache::LeaseRoot;
use rbuild_cache::Origin;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use super::Documents;
use crate::image::Descriptor;
use crate::image::Document;
use crate::ops::Engine;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::failure;
use crate::registry;
use crate::registry::Client;
use crate::registry::ParseReferenceError;
use crate::registry::Reference;
use crate::registry::RegistryError;
use crate::request::Settings;

/// Documents that one image may have about it.
const MAX_DOCUMENTS: usize = 1000;
/// What is about what is about an image, and so on; and indexes within indexes.
const MAX_DEPTH: usize = 4;

/// What a registry lists.
#[derive(Debug)]
pub struct Listed {
    /// The manifest or index that it is about.
    pub subject: OciDigest,
    /// What is about it, in the registry's order.
    pub entries: Vec<Descriptor>,
}

/// Asks the registry of an image what is about what its name stands for, or about the image for one platform; all, or what
/// is of one type.
///
/// # Errors
/// If the registry does not have the image, or does not say.
pub fn listed(
    settings: &Settings,
    name: &str,
    platform: Option<&Platform>,
    kind: Option<&str>,
) -> Result<Listed, BuildError> {
    let reference = parse(name)?;
    let client = Client::new(settings);
    let ask = || -> Result<Listed, RegistryError> {
        let subject = match platform {
            Some(platform) => client.resolve(&reference, platform)?.manifest_digest,
            None => client.head(&reference)?,
        };
        Ok(Listed {
            subject,
            entries: client.referrers(&reference, subject, kind)?,
        })
    };
    ask().map_err(failure::registry)
}

/// Gets what is about an image of the store, and what is about that in turn, from the registry that `name` is in: the documents
/// in an order in which they can be pushed.
///
/// # Errors
/// If something cannot be had that is listed, or is not what it is listed as.
pub(super) fn bring(
    engine: &Engine<'_>,
    name: &str,
    documents: &Documents,
) -> Result<Vec<OciDigest>, BuildError> {
    let mut bringing = Bringing {
        engine,
        of: parse(name)?,
        seen: BTreeSet::new(),
        documents: Vec::new(),
    };
    let images = documents.images.iter();
    let images = images.map(|image| image.descriptor.digest);
    let subjects: BTreeSet<OciDigest> = images.chain([documents.top.digest]).collect();
    for subject in subjects {
        bringing.about(subject, 0)?;
    }
    Ok(bringing.documents)
}

struct Bringing<'a> {
    engine: &'a Engine<'a>,
    of: Reference,
    seen: BTreeSet<OciDigest>,
    documents: Vec<OciDigest>,
}

impl Bringing<'_> {
    fn about(&mut self, subject: OciDigest, depth: usize) -> Result<(), BuildError> {
        let client = self.engine.registry();
        let listed = client.referrers(&self.of, subject, None);
        for entry in listed.map_err(failure::registry)? {
            if self.is_known(entry.digest)? {
                continue;
            }
            let found = client.referrer(&self.of, &subject, &entry);
            let (document, bytes) = found.map_err(failure::registry)?;
            self.keep(&entry, &document, &bytes, 0)?;
            if depth < MAX_DEPTH {
                self.about(entry.digest, depth + 1)?;
            }
        }
        Ok(())
    }

    fn is_known(&mut self, digest: OciDigest) -> Result<bool, BuildError> {
        if !self.seen.insert(digest) {
            return Ok(true);
        }
        match self.seen.len() > MAX_DOCUMENTS {
            true => Err(self.refused("more than 1000 documents are about it")),
            false => Ok(false),
        }
    }

    /// Puts a document into the store, after what it points at.
    fn keep(
        &mut self,
        entry: &Descriptor,
        document: &Document,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), BuildError> {
        let exact = self.of.with_digest(entry.digest);
        match document {
            Document::Manifest(manifest) => {
                let blobs: Vec<&Descriptor> = std::iter::once(&manifest.config)
                    .chain(&manifest.layers)
                    .collect();
                let fetched = registry::side_by_side(&blobs, |blob| {
                    self.engine.fetch_blob(&Origin {
                        digest: blob.digest,
                        size: blob.size,
                        media_type: blob.media_type.clone(),
                        // It is no layer, and unpacks to nothing.
                        diff_id: blob.digest,
                        source: Some(exact.to_string()),
                        urls: blob.urls.clone(),
                    })
                });
                fetched.map_err(failure::op)?;
            }
            Document::Index(_) if depth == MAX_DEPTH => {
                return Err(self.refused("indexes about it go too deep"));
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    if self.is_known(child.digest)? {
                        continue;
                    }
                    let exact = self.of.with_digest(child.digest);
                    let found = self.engine.registry().document(&exact);
                    let (document, bytes) = found.map_err(failure::registry)?;
                    self.keep(child, &document, &bytes, depth + 1)?;
                }
            }
        }
        let kept = self.engine.lease().protect(LeaseRoot::Blob(entry.digest));
        kept.map_err(failure::store)?;
        let blobs = self.engine.store().blobs();
        blobs.put(bytes).map_err(failure::blob)?;
        self.documents.push(entry.digest);
        Ok(())
    }

    fn refused(&self, why: &str) -> BuildError {
        let error = anyhow::anyhow!(
            "`{}` cannot be pulled with what is about it: {why}",
            self.of
        );
        BuildError::new(ErrorKind::Environment, error).hint("leave `--referrers` out")
    }
}

fn parse(name: &str) -> Result<Reference, BuildError> {
    name.parse()
        .map_err(|error: ParseReferenceError| BuildError::new(ErrorKind::Request, error))
}
