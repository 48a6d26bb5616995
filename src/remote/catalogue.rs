//! What a cache knows, as one JSON document.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_cache::Answer;
use rbuild_cache::BlobOptions;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::Origin;
use rbuild_cache::Snapshot;
use rbuild_cache::TreeRef;
use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;
use serde::Deserialize;
use serde::Serialize;

use super::FILES;
use super::PACK;
use super::mounts::Mount;
use crate::image::Descriptor;

/// The only version that is read.
const VERSION: u32 = 2;

/// Keys, results and layers. Each list is in the order in which the one before it first names what is in it, and keys are
/// sorted, so that equal knowledge is equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    version: u32,
    /// The position of a result by key.
    pub keys: BTreeMap<CacheKey, usize>,
    /// What steps came to.
    pub results: Vec<StepResult>,
    /// What results are made of.
    pub layers: Vec<Layer>,
    /// Blobs that have several small ones in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<Pack>,
    /// Cache mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// Small blobs behind each other in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// SHA-256 of the whole.
    pub digest: OciDigest,
    /// Its bytes.
    pub size: u64,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// By output index.
    pub outputs: Vec<Output>,
    /// When the step ended, nanoseconds since the epoch.
    pub created: u128,
    /// How long it took.
    pub duration_ms: u64,
}

/// One output of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Positions, bottom first.
    pub layers: Vec<usize>,
    /// What they add up to.
    pub root: TreeRef,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its tree.
    pub layer: TreeRef,
    /// When a build made it, nanoseconds since the epoch; not there if it is a base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u128>,
    /// Whether it was made with one user id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub single: bool,
    /// The list of its files.
    pub files: Files,
    /// Where its bytes are.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// The list of a layer's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// SHA-256 of the blob.
    pub digest: OciDigest,
    /// Its bytes.
    pub size: u64,
    /// The position of the pack that it is in, and where it begins there; a blob by itself if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<(usize, u64)>,
}

/// Where the bytes of a layer are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bytes {
    /// In a blob that a build wrote.
    Blob(Written),
    /// In a blob of a base, which its source has; without a source the cache does.
    Origin(Origin),
}

/// A blob that a build wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// [`rbuild_cache::BLOB_VERSION`]
    pub version: u32,
    /// How it was written.
    pub options: BlobOptions,
    /// What came of it.
    pub blob: LayerBlob,
}

impl Layer {
    /// The blob that the cache itself has, with its type.
    pub fn blob(&self) -> Option<(OciDigest, u64, &str)> {
        match &self.bytes {
            Bytes::Blob(Written { blob, .. }) => Some((blob.digest, blob.size, blob.media_type())),
            Bytes::Origin(origin) if origin.source.is_none() => {
                Some((origin.digest, origin.size, &origin.media_type))
            }
            Bytes::Origin(_) => None,
        }
    }

    /// The layer as records have it, where what the cache itself has is at `place`.
    pub fn layer_ref(&self, place: &str) -> LayerRef {
        LayerRef {
            layer: self.layer,
            created: self.created,
            origin: match &self.bytes {
                Bytes::Blob(_) => None,
                Bytes::Origin(origin) => Some(Origin {
                    source: Some(origin.source.clone().unwrap_or_else(|| place.to_owned())),
                    ..origin.clone()
                }),
            },
            single: self.single,
        }
    }
}

/// What is known of a step.
#[derive(Debug, Clone)]
pub struct Known {
    /// The keys it is found by.
    pub keys: Vec<CacheKey>,
    /// What it came to.
    pub answer: Answer,
}

/// What tells layers apart: equal trees may have been made at different times, or have come as different blobs.
pub type Identity = (TreeRef, Option<u128>, Option<OciDigest>);

/// See [`Identity`].
pub fn identity(layer: &LayerRef) -> Identity {
    let origin = layer.origin.as_ref().map(|origin| origin.digest);
    (layer.layer, layer.created, origin)
}

impl Catalogue {
    /// Puts together what is known of steps, and cache mounts. `layers` has what is to be said of each of the layers of steps,
    /// whose lists of files are in `packs`, or by themselves.
    pub fn of(
        known: &[Known],
        layers: &BTreeMap<Identity, Layer>,
        packs: Vec<Pack>,
        mounts: Vec<Mount>,
    ) -> Self {
        let mut keys: BTreeMap<CacheKey, usize> = BTreeMap::new();
        for (at, step) in known.iter().enumerate() {
            keys.extend(step.keys.iter().map(|key| (*key, at)));
        }
        let mut whole = Self {
            version: VERSION,
            keys: BTreeMap::new(),
            results: Vec::new(),
            layers: Vec::new(),
            packs,
            mounts,
        };
        let mut results: BTreeMap<usize, usize> = BTreeMap::new();
        let mut places: BTreeMap<Identity, usize> = BTreeMap::new();
        for (key, step) in keys {
            let at = *results.entry(step).or_insert_with(|| {
                let result = whole.result(&known[step].answer, layers, &mut places);
                whole.results.push(result);
                whole.results.len() - 1
            });
            whole.keys.insert(key, at);
        }
        whole
    }

    fn result(
        &mut self,
        answer: &Answer,
        layers: &BTreeMap<Identity, Layer>,
        places: &mut BTreeMap<Identity, usize>,
    ) -> StepResult {
        let mut place = |layer: &LayerRef| {
            let identity = identity(layer);
            *places.entry(identity).or_insert_with(|| {
                self.layers.push(layers[&identity].clone());
                self.layers.len() - 1
            })
        };
        let outputs = answer.outputs.iter().map(|snapshot| Output {
            layers: snapshot.layers.iter().map(&mut place).collect(),
            root: snapshot.root,
        });
        StepResult {
            outputs: outputs.collect(),
            created: answer.created,
            duration_ms: answer.duration_ms,
        }
    }

    /// The document. The same catalogue gives the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a catalogue can always be written as JSON")
    }

    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence that begins with `its catalogue`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let malformed = |error: serde_json::Error| format!("cannot be read: {error}");
        // It is long, and nearly always of this version: it is read once.
        let whole = serde_json::from_slice::<Self>(bytes);
        let version = match &whole {
            Ok(whole) => whole.version,
            Err(_) => {
                let Version { version } = serde_json::from_slice(bytes).map_err(malformed)?;
                version
            }
        };
        if version != VERSION {
            return Err(format!(
                "is of version {version}, and this rbuild reads {VERSION}"
            ));
        }
        let whole = whole.map_err(malformed)?;
        let mut outputs = whole.results.iter().flat_map(|result| &result.outputs);
        let layers = whole.layers.len();
        let mut files = whole.layers.iter().filter_map(|layer| layer.files.at);
        if whole.keys.values().any(|at| *at >= whole.results.len())
            || files.any(|(pack, _)| pack >= whole.packs.len())
            || outputs.any(|output| output.layers.iter().any(|at| *at >= layers))
        {
            return Err("names what it does not have".to_owned());
        }
        Ok(whole)
    }

    /// The blobs that the cache itself has, with their types.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs = Vec::new();
        let mut seen = BTreeSet::new();
        let mut list = |descriptor: Descriptor| {
            if seen.insert(descriptor.digest) {
                blobs.push(descriptor);
            }
        };
        for pack in &self.packs {
            list(Descriptor::new(PACK, pack.digest, pack.size));
        }
        for layer in &self.layers {
            let Files { digest, size, at } = layer.files;
            if at.is_none() {
                list(Descriptor::new(FILES, digest, size));
            }
            if let Some((digest, size, media_type)) = layer.blob() {
                list(Descriptor::new(media_type, digest, size));
            }
        }
        for mount in &self.mounts {
            for (digest, size, media_type) in mount.blobs() {
                list(Descriptor::new(media_type, digest, size));
            }
        }
        blobs
    }

    /// The keys of the same result.
    pub fn keys_beside(&self, key: &CacheKey) -> Vec<CacheKey> {
        let Some(result) = self.keys.get(key) else {
            return Vec::new();
        };
        let same = self.keys.iter().filter(|(_, at)| *at == result);
        same.map(|(key, _)| *key).collect()
    }

    /// What is known for a key, where what the cache itself has is at `place`.
    pub fn find(&self, key: &CacheKey, place: &str) -> Option<(Answer, Vec<&Layer>)> {
        let result = &self.results[*self.keys.get(key)?];
        let mut used = Vec::new();
        let outputs = result.outputs.iter().map(|output| {
            let layers = output.layers.iter().map(|at| {
                used.push(&self.layers[*at]);
                self.layers[*at].layer_ref(place)
            });
            Snapshot {
                layers: layers.collect(),
                root: output.root,
            }
        });
        let answer = Answer {
            outputs: Arc::new(outputs.collect()),
            created: result.created,
            duration_ms: result.duration_ms,
        };
        Some((answer, used))
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_cache::Compression;
    use rbuild_cache::Layout;
    use rbuild_llb::ContentDigest;
    use rbuild_llb::TreeId;

    fn digest(byte: u8) -> OciDigest {
        OciDigest::from_bytes([byte; 32])
    }

    fn tree(byte: u8) -> TreeRef {
        TreeRef {
            tree: TreeId::from_bytes([byte; 32]),
            content: ContentDigest::from_bytes([byte; 32]),
        }
    }

    fn key(byte: u8) -> CacheKey {
        format!("{byte:02x}").repeat(32).parse().unwrap()
    }

    /// A base's layer, and one that was made on it.
    fn refs() -> [LayerRef; 2] {
        let base = Origin {
            digest: digest(1),
            size: 10,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            diff_id: digest(2),
            source: Some("oci-layout:///elsewhere".into()),
            urls: Vec::new(),
        };
        [
            LayerRef {
                layer: tree(1),
                origin: Some(base),
                created: None,
                single: false,
            },
            LayerRef {
                layer: tree(2),
                origin: None,
                created: Some(1_700_000_000_123_456_789),
                single: false,
            },
        ]
    }

    fn layer(of: &LayerRef) -> Layer {
        let compression = Compression::Gzip { level: 6 };
        Layer {
            layer: of.layer,
            created: of.created,
            single: of.single,
            files: Files {
                digest: digest(9),
                size: 5,
                at: None,
            },
            bytes: match &of.origin {
                Some(origin) => Bytes::Origin(Origin {
                    source: None,
                    ..origin.clone()
                }),
                None => Bytes::Blob(Written {
                    version: 2,
                    options: BlobOptions {
                        compression,
                        clamp: None,
                    },
                    blob: LayerBlob {
                        digest: digest(3),
                        diff_id: digest(4),
                        size: 7,
                        tar_size: 70,
                        compression,
                        layout: Layout::Tar,
                    },
                }),
            },
        }
    }

    fn known(keys: &[u8], layers: &[LayerRef]) -> Known {
        Known {
            keys: keys.iter().copied().map(key).collect(),
            answer: Answer {
                outputs: Arc::new(vec![Snapshot {
                    layers: layers.to_vec(),
                    root: tree(5),
                }]),
                created: 1_700_000_000_123_456_789,
                duration_ms: 12,
            },
        }
    }

    fn catalogue(steps: &[Known]) -> Catalogue {
        let layers = refs().iter().map(|of| (identity(of), layer(of))).collect();
        Catalogue::of(steps, &layers, Vec::new(), Vec::new())
    }

    #[test]
    fn what_was_put_in_is_found() {
        let [base, above] = refs();
        let steps = [
            known(&[7, 3], &[base.clone(), above.clone()]),
            known(&[5], std::slice::from_ref(&base)),
        ];
        let written = catalogue(&steps);
        let bytes = written.to_json();
        let read = Catalogue::parse(&bytes).unwrap();
        assert_eq!(read, written);
        let here = "oci-layout:///here";
        let mut moved = base.clone();
        moved.origin.as_mut().unwrap().source = Some(here.into());
        for (by, layers) in [
            (3, vec![moved.clone(), above.clone()]),
            (5, vec![moved.clone()]),
        ] {
            let (answer, used) = read.find(&key(by), here).unwrap();
            assert_eq!(answer.outputs[0].layers, layers);
            assert_eq!(answer.created, 1_700_000_000_123_456_789);
            assert_eq!(used.len(), layers.len());
        }
        assert_eq!(read.find(&key(4), here), None);
        // In whatever order it was found out.
        let turned = [steps[1].clone(), steps[0].clone()];
        assert_eq!(catalogue(&turned).to_json(), bytes);
    }

    #[test]
    fn what_is_none_is_refused() {
        let written = catalogue(&[known(&[1], &refs())]);
        let text = String::from_utf8(written.to_json()).unwrap();
        for (from, to, problem) in [
            ("\"version\":2", "\"version\":1", "is of version 1"),
            ("\"version\":2,", "", "cannot be read"),
            (
                "\"layers\":[0,1]",
                "\"layers\":[0,2]",
                "names what it does not have",
            ),
            ("\":0}", "\":1}", "names what it does not have"),
            (
                "\"size\":5}",
                "\"size\":5,\"at\":[0,0]}",
                "names what it does not have",
            ),
            ("sha256:0303", "sha512:0303", "cannot be read"),
            (
                "\"blob\":{\"version\"",
                "\"disk\":{\"version\"",
                "cannot be read",
            ),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let error = Catalogue::parse(changed.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{from}: {error}");
        }
        for end in 0..text.len() {
            assert!(Catalogue::parse(&text.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
