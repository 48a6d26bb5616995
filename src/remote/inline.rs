//! A cache in an image: a field of its config, beside BuildKit's `moby.buildkit.cache.v0`, which says which keys the layers are
//! the result of.
//!
//! It has no lists of files, which would be as large as all the rest of the config many times over. So what it answers is
//! known only when the layers have been read, as those of a base are.

use std::collections::BTreeMap;

use rbuild_cache::Origin;
use rbuild_cache::Unread;
use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use serde::Deserialize;
use serde::Serialize;

use super::catalogue::Identity;
use super::catalogue::Known;
use super::catalogue::identity;
use crate::image::Manifest;

/// The field of the config.
pub const FIELD: &str = "rbuild.cache.v1";

/// What the field has in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Inline {
    /// The position of a result by key.
    keys: BTreeMap<CacheKey, usize>,
    results: Vec<InlineResult>,
    /// When a build made each of the image's layers, nanoseconds since the epoch.
    layers: Vec<Option<u128>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InlineResult {
    /// By output index, the positions of its layers in the image.
    outputs: Vec<Vec<usize>>,
    created: u128,
    duration_ms: u64,
}

/// The field's value for an image with these layers; `None` if no step is known whose layers it has.
pub fn of_image(known: &[Known], layers: &[(Identity, Option<u128>)]) -> Option<Vec<u8>> {
    let mut places: BTreeMap<Identity, usize> = BTreeMap::new();
    for (at, (identity, _)) in layers.iter().enumerate() {
        places.entry(*identity).or_insert(at);
    }
    let mut inline = Inline {
        keys: BTreeMap::new(),
        results: Vec::new(),
        layers: layers.iter().map(|(_, created)| *created).collect(),
    };
    // By their keys, so that equal knowledge is equal bytes.
    let mut steps: Vec<(Option<&CacheKey>, &Known)> = known
        .iter()
        .map(|step| (step.keys.iter().min(), step))
        .collect();
    steps.sort_by_key(|(key, _)| *key);
    for (_, step) in steps {
        let outputs = step.answer.outputs.iter().map(|snapshot| {
            let layers = snapshot.layers.iter();
            layers
                .map(|layer| places.get(&identity(layer)).copied())
                .collect::<Option<Vec<usize>>>()
        });
        let Some(outputs) = outputs.collect::<Option<Vec<_>>>() else {
            continue;
        };
        // What has no layers is not worth a key.
        if outputs.iter().all(Vec::is_empty) {
            continue;
        }
        for key in &step.keys {
            inline.keys.insert(*key, inline.results.len());
        }
        inline.results.push(InlineResult {
            outputs,
            created: step.answer.created,
            duration_ms: step.answer.duration_ms,
        });
    }
    if inline.results.is_empty() {
        return None;
    }
    Some(serde_json::to_vec(&inline).expect("keys and numbers can always be written as JSON"))
}

/// What an image knows.
#[derive(Debug, Clone)]
pub struct OfImage {
    inline: Inline,
    /// Its layers.
    origins: Vec<Origin>,
}

/// What the config of an image has to say about caches.
#[derive(Debug)]
pub enum Said {
    /// A cache.
    Ours(OfImage),
    /// One of BuildKit's.
    BuildKits,
    /// Nothing.
    Nothing,
}

/// Reads the cache of an image. Its layers' sources are not filled in.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence that begins with `its config`.
pub fn read(config: &[u8], manifest: &Manifest) -> Result<Said, String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "rbuild.cache.v1")]
        ours: Option<Inline>,
        #[serde(rename = "moby.buildkit.cache.v0")]
        buildkits: Option<serde::de::IgnoredAny>,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<OciDigest>,
    }
    let config: Config =
        serde_json::from_slice(config).map_err(|error| format!("cannot be read: {error}"))?;
    let Some(inline) = config.ours else {
        return Ok(match config.buildkits {
            Some(_) => Said::BuildKits,
            None => Said::Nothing,
        });
    };
    let count = manifest.layers.len();
    let mut places = inline
        .results
        .iter()
        .flat_map(|result| result.outputs.iter().flatten());
    if config.rootfs.diff_ids.len() != count
        || inline.layers.len() != count
        || places.any(|at| *at >= count)
        || inline.keys.values().any(|at| *at >= inline.results.len())
    {
        return Err("names layers that the image does not have".to_owned());
    }
    let layers = manifest.layers.iter().zip(config.rootfs.diff_ids);
    let origins = layers.map(|(layer, diff_id)| Origin {
        digest: layer.digest,
        size: layer.size,
        media_type: layer.media_type.clone(),
        diff_id,
        source: None,
        urls: Vec::new(),
    });
    Ok(Said::Ours(OfImage {
        origins: origins.collect(),
        inline,
    }))
}

impl OfImage {
    /// The keys of the same result.
    pub fn keys_beside(&self, key: &CacheKey) -> Vec<CacheKey> {
        let keys = &self.inline.keys;
        let Some(result) = keys.get(key) else {
            return Vec::new();
        };
        let same = keys.iter().filter(|(_, at)| *at == result);
        same.map(|(key, _)| *key).collect()
    }

    /// What is known for a key, where the image's layers are at `place`.
    pub fn find(&self, key: &CacheKey, place: &str) -> Option<Unread> {
        let result = &self.inline.results[*self.inline.keys.get(key)?];
        let layer = |at: &usize| {
            let origin = Origin {
                source: Some(place.to_owned()),
                ..self.origins[*at].clone()
            };
            (origin, self.inline.layers[*at])
        };
        let outputs = result.outputs.iter();
        Some(Unread {
            outputs: outputs
                .map(|layers| layers.iter().map(layer).collect())
                .collect(),
            created: result.created,
            duration_ms: result.duration_ms,
        })
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::image::Descriptor;
    use crate::image::Format;
    use rbuild_cache::Answer;
    use rbuild_cache::LayerRef;
    use rbuild_cache::Snapshot;
    use rbuild_cache::TreeRef;
    use rbuild_llb::ContentDigest;
    use rbuild_llb::TreeId;
    use std::sync::Arc;

    fn tree(byte: u8) -> TreeRef {
        TreeRef {
            tree: TreeId::from_bytes([byte; 32]),
            content: ContentDigest::from_bytes([byte; 32]),
        }
    }

    fn layer(byte: u8) -> LayerRef {
        LayerRef {
            layer: tree(byte),
            origin: None,
            created: Some(u128::from(byte)),
            single: false,
        }
    }

    fn step(key: u8, layers: &[u8]) -> Known {
        Known {
            keys: vec![cache_key(key)],
            answer: Answer {
                outputs: Arc::new(vec![Snapshot {
                    layers: layers.iter().copied().map(layer).collect(),
                    root: tree(0),
                }]),
                created: 7,
                duration_ms: 8,
            },
        }
    }

    fn cache_key(byte: u8) -> CacheKey {
        format!("{byte:02x}").repeat(32).parse().unwrap()
    }

    fn manifest(layers: &[u8]) -> Manifest {
        let blob = |byte: &u8| Descriptor::new("layer", OciDigest::from_bytes([*byte; 32]), 1);
        let config = Descriptor::of("config", b"");
        Manifest::new(Format::Oci, config, layers.iter().map(blob).collect())
    }

    fn config(field: &str, diff_ids: &[u8]) -> Vec<u8> {
        let diff_ids = diff_ids
            .iter()
            .map(|byte| format!("\"{}\"", OciDigest::from_bytes([*byte; 32])));
        let diff_ids: Vec<String> = diff_ids.collect();
        format!(
            "{{{field}\"rootfs\":{{\"diff_ids\":[{}]}}}}",
            diff_ids.join(",")
        )
        .into_bytes()
    }

    #[test]
    fn an_image_answers_for_the_steps_whose_layers_it_has() {
        let known = [step(1, &[1]), step(2, &[1, 2]), step(3, &[3]), step(4, &[])];
        let layers = [1, 2].map(|byte| (identity(&layer(byte)), Some(u128::from(byte))));
        let field = of_image(&known, &layers).unwrap();
        let field = format!("\"{FIELD}\":{},", String::from_utf8(field).unwrap());
        let Said::Ours(image) = read(&config(&field, &[11, 12]), &manifest(&[21, 22])).unwrap()
        else {
            panic!("it has a cache");
        };
        let found = image.find(&cache_key(2), "there").unwrap();
        let said: Vec<_> = found.outputs[0]
            .iter()
            .map(|(origin, created)| (origin.digest, origin.diff_id, *created))
            .collect();
        let digest = |byte| OciDigest::from_bytes([byte; 32]);
        let want = [
            (digest(21), digest(11), Some(1)),
            (digest(22), digest(12), Some(2)),
        ];
        assert_eq!(said, want);
        assert_eq!(found.outputs[0][0].0.source.as_deref(), Some("there"));
        for key in [3, 4, 5] {
            assert_eq!(image.find(&cache_key(key), "there"), None);
        }
        assert_eq!(of_image(&known[2..], &layers), None);
        // Another image with the same field.
        for (diff_ids, layers) in [(&[11, 12][..], &[21][..]), (&[11], &[21])] {
            let error = read(&config(&field, diff_ids), &manifest(layers)).unwrap_err();
            assert!(error.contains("does not have"), "{error}");
        }
    }

    #[test]
    fn other_images_have_none() {
        let of = |field: &str| read(&config(field, &[]), &manifest(&[]));
        assert!(matches!(of("").unwrap(), Said::Nothing));
        let buildkits = of("\"moby.buildkit.cache.v0\":\"e30=\",");
        assert!(matches!(buildkits.unwrap(), Said::BuildKits));
        let broken = of("\"rbuild.cache.v1\":{\"keys\":[]},").unwrap_err();
        assert!(broken.contains("cannot be read"), "{broken}");
    }
}
