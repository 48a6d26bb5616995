//! The blobs of layers that a cache is made of: where they are, and how they are made.

use std::collections::BTreeSet;

use rbuild_cache::BLOB_VERSION;
use rbuild_cache::BlobOptions;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::Origin;
use rbuild_llb::OciDigest;
use rbuild_llb::TreeId;

use crate::ops::Engine;
use crate::remote::CacheWriter;
use crate::remote::catalogue::Bytes;
use crate::remote::catalogue::Written;
use crate::request::CacheTo;
use crate::request::Compression;

/// What tells the blobs of layers apart.
pub(super) fn blob_of(layer: &LayerRef) -> (TreeId, Option<OciDigest>) {
    let origin = layer.origin.as_ref().map(|origin| origin.digest);
    (layer.layer.tree, origin)
}

/// Where a layer's bytes are, if the cache has them already, or need not have them.
pub(super) fn there(
    engine: &Engine<'_>,
    layer: &LayerRef,
    options: &BlobOptions,
    writer: &dyn CacheWriter,
    doubted: &BTreeSet<OciDigest>,
) -> anyhow::Result<Option<Bytes>> {
    let doubted = |blob: &OciDigest| engine.is_bad(blob) || doubted.contains(blob);
    let has = |blob, size| anyhow::Ok(!doubted(blob) && writer.has(blob, size)?);
    if let Some(origin) = &layer.origin {
        return Ok(match origin.source.is_some() && !engine.is_far(origin) {
            true => Some(Bytes::Origin(origin.clone())),
            false => has(&origin.digest, origin.size)?.then(|| here(origin)),
        });
    }
    let known = engine.store().layer_blob(&layer.layer.tree, options);
    let Some(blob) = known.ok().flatten() else {
        return Ok(None);
    };
    Ok(has(&blob.digest, blob.size)?.then(|| written(blob, options)))
}

/// Brings the blob of a layer into the store that the cache lacks.
pub(super) fn made(
    engine: &Engine<'_>,
    layer: &LayerRef,
    options: &BlobOptions,
    writer: &dyn CacheWriter,
    doubted: &BTreeSet<OciDigest>,
) -> anyhow::Result<Bytes> {
    let (bytes, blob) = match &layer.origin {
        Some(origin) => {
            engine.fetch_blob(origin)?;
            (here(origin), origin.digest)
        }
        None => {
            let blob = engine.layer_blob(layer, options, true, engine.cancel())?;
            let digest = blob.digest;
            (written(blob, options), digest)
        }
    };
    if engine.is_bad(&blob) || doubted.contains(&blob) {
        writer.mistrust(&blob)?;
    }
    Ok(bytes)
}

/// How many bytes go to the cache.
pub(super) fn size_of(bytes: &Bytes) -> u64 {
    match bytes {
        Bytes::Blob(written) => written.blob.size,
        Bytes::Origin(origin) if origin.source.is_none() => origin.size,
        Bytes::Origin(_) => 0,
    }
}

/// A base's blob that the cache itself has.
fn here(origin: &Origin) -> Bytes {
    Bytes::Origin(Origin {
        source: None,
        ..origin.clone()
    })
}

fn written(blob: LayerBlob, options: &BlobOptions) -> Bytes {
    Bytes::Blob(Written {
        version: BLOB_VERSION,
        options: *options,
        blob,
    })
}

/// As images in archives and registries have them.
pub(super) fn blob_options(to: &CacheTo) -> BlobOptions {
    use rbuild_cache::Compression as Blob;
    BlobOptions {
        compression: match to.compression {
            Compression::Uncompressed => Blob::None,
            Compression::Default => Blob::Gzip { level: 6 },
            Compression::Gzip(level) => Blob::Gzip {
                level: level.unwrap_or(6),
            },
            Compression::Zstd(level) => Blob::Zstd {
                level: level.unwrap_or(3),
            },
        },
        clamp: None,
    }
}
