//! Descriptors, manifests and indexes (OCI image-spec: descriptor.md, manifest.md, image-index.md).

use std::collections::BTreeMap;

use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use serde::Deserialize;
use serde::Serialize;
use serde::de::IgnoredAny;
use sha2::Digest;
use sha2::Sha256;

use super::media_type;
use super::media_type::Format;
use super::media_type::Kind;

/// On attestations in an index: what the entry says about another one (BuildKit, attestation-storage.md).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// A document that cannot be used as an image.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or a field of the wrong type.
    #[error("it cannot be read as a manifest or index")]
    Malformed {
        /// Where and what.
        #[source]
        source: serde_json::Error,
    },
    /// Docker's first manifest format, which registries no longer take.
    #[error("it is a docker schema 1 manifest, a format that was retired in 2019")]
    Schema1,
    /// Fields of a manifest and of an index in one document: readers would disagree on what it is.
    #[error("it has the fields of a manifest and of an index at once")]
    Ambiguous,
    /// The type it is said to have and its fields contradict each other.
    #[error("it is said to be `{media_type}`, which its fields contradict")]
    Mismatch {
        /// `mediaType` or the `Content-Type` it came with.
        media_type: String,
    },
    /// Neither a manifest nor an index.
    #[error("it is neither an image manifest nor an index{}", named(media_type))]
    Unknown {
        /// Its `mediaType`, if it has one.
        media_type: Option<String>,
    },
}

fn named(media_type: &Option<String>) -> String {
    media_type
        .as_ref()
        .map_or_else(String::new, |name| format!(", but `{name}`"))
}

/// Points at a blob or a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it points at.
    #[serde(default)]
    pub media_type: String,
    /// Of the bytes.
    pub digest: OciDigest,
    /// In bytes.
    pub size: u64,
    /// Other places a blob may be fetched from; they are asked before the registry.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub urls: Vec<String>,
    /// Free-form.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Set where it points at something that is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// In an index: what the image is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
}

/// A platform as documents write it: not normalised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    /// GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// GOOS.
    #[serde(default)]
    pub os: String,
    /// Windows only.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// CPU variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its type; [`Document::parse`] fills it in where the document left it out.
    #[serde(default)]
    pub media_type: String,
    /// Set where it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// Bottom first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Free-form.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Several images under one name, one a platform. Docker calls it a manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its type; [`Document::parse`] fills it in where the document left it out.
    #[serde(default)]
    pub media_type: String,
    /// Set where it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The images, and what else there is: attestations, signatures, other indexes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this index says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Free-form.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// What a registry keeps under `manifests/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Index),
}

/// Go writes nil slices and maps as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The fields that tell the kinds of document apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. `declared` is the type a descriptor or `Content-Type` gave; types that say
    /// nothing about manifests (`application/json`) are passed over.
    ///
    /// # Errors
    /// [`DocumentError`], for everything that is not one of the two beyond doubt.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, DocumentError> {
        let malformed = |source| DocumentError::Malformed { source };
        let probe: Probe = serde_json::from_slice(bytes).map_err(malformed)?;
        let declared = declared.map(media_type::essence);
        let types = [probe.media_type.as_deref(), declared];
        if probe.schema_version == Some(1)
            || probe.fs_layers.is_some()
            || types.iter().flatten().any(|t| media_type::is_schema_1(t))
        {
            return Err(DocumentError::Schema1);
        }
        let kind = match (
            probe.config.is_some() || probe.layers.is_some(),
            probe.manifests.is_some(),
        ) {
            (true, true) => return Err(DocumentError::Ambiguous),
            (true, false) => Kind::Manifest,
            (false, true) => Kind::Index,
            (false, false) => {
                return Err(DocumentError::Unknown {
                    media_type: probe.media_type,
                });
            }
        };
        if let Some(own) = &probe.media_type
            && media_type::kind(own).is_none()
        {
            return Err(DocumentError::Unknown {
                media_type: probe.media_type,
            });
        }
        if let Some(said) = types
            .iter()
            .flatten()
            .find(|t| media_type::kind(t).is_some_and(|said| said != kind))
        {
            return Err(DocumentError::Mismatch {
                media_type: (*said).to_owned(),
            });
        }
        let named = types
            .iter()
            .flatten()
            .find(|t| media_type::kind(t).is_some())
            .map(|t| (*t).to_owned());
        Ok(match kind {
            Kind::Manifest => {
                let mut manifest: Manifest = serde_json::from_slice(bytes).map_err(malformed)?;
                manifest.media_type = named.unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
                Self::Manifest(Box::new(manifest))
            }
            Kind::Index => {
                let mut index: Index = serde_json::from_slice(bytes).map_err(malformed)?;
                index.media_type = named.unwrap_or_else(|| media_type::OCI_INDEX.to_owned());
                Self::Index(index)
            }
        })
    }

    /// The media type.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => &manifest.media_type,
            Self::Index(index) => &index.media_type,
        }
    }

    /// What it says something about.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Manifest(manifest) => manifest.subject.as_deref(),
            Self::Index(index) => index.subject.as_deref(),
        }
    }
}

impl Descriptor {
    /// Points at `bytes`.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(
            media_type,
            OciDigest::from_bytes(Sha256::digest(bytes).into()),
            bytes.len() as u64,
        )
    }

    /// Points at something of that digest and size.
    pub fn new(media_type: impl Into<String>, digest: OciDigest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            artifact_type: None,
            platform: None,
        }
    }

    /// The same, said to be for `platform`, as entries of an index are.
    pub fn with_platform(mut self, platform: &Platform) -> Self {
        self.platform = Some(DescriptorPlatform {
            architecture: platform.arch.to_string(),
            os: platform.os.to_string(),
            os_version: String::new(),
            variant: platform.variant.to_string(),
        });
        self
    }

    /// Whether it points at an index.
    pub fn is_index(&self) -> bool {
        media_type::kind(&self.media_type) == Some(Kind::Index)
    }

    /// The platform it says it is for, normalised.
    fn declared(&self) -> Option<Platform> {
        self.platform
            .as_ref()
            .filter(|p| !(p.os.is_empty() && p.architecture.is_empty()))
            .map(|p| Platform::new(&p.os, &p.architecture, &p.variant))
    }

    /// Whether it may be an image: BuildKit puts attestations in the index under the platform `unknown/unknown`.
    fn may_be_image(&self) -> bool {
        let unknown = |p: Platform| p.os == "unknown" && p.arch == "unknown";
        self.artifact_type.is_none()
            && !self.annotations.contains_key(REFERENCE_TYPE)
            && !self.declared().is_some_and(unknown)
            && (media_type::kind(&self.media_type).is_some() || self.media_type.is_empty())
    }
}

impl Manifest {
    /// A manifest in `format`; layers bottom first, their types already of that format.
    pub fn new(format: Format, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: format.manifest().to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The document, with sorted keys.
    pub fn to_json(&self) -> Vec<u8> {
        sorted_json(self)
    }
}

impl Index {
    /// An index in `format`.
    pub fn new(format: Format, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: format.index().to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The document, with sorted keys.
    pub fn to_json(&self) -> Vec<u8> {
        sorted_json(self)
    }

    /// Entries whose declared platform can stand in for `wanted`, best first, in the order of
    /// [`Platform::fallbacks`]; the document's order where two are equal.
    pub fn matching(&self, wanted: &Platform) -> Vec<&Descriptor> {
        let fallbacks = wanted.fallbacks();
        let mut found: Vec<(usize, &Descriptor)> = self
            .images()
            .filter_map(|entry| {
                let declared = entry.declared()?;
                let rank = fallbacks.iter().position(|p| *p == declared)?;
                Some((rank, entry))
            })
            .collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Entries that may be images but do not say what for: only their configs tell. Nested indexes are such.
    pub fn undeclared(&self) -> Vec<&Descriptor> {
        self.images()
            .filter(|entry| entry.declared().is_none())
            .collect()
    }

    /// The platforms it names, sorted, for messages.
    pub fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<_> = self.images().filter_map(Descriptor::declared).collect();
        platforms.sort();
        platforms.dedup();
        platforms
    }

    /// The manifest of each platform it names, the first of several. Whether an entry that is an index itself has an
    /// image for the platform it names is not known before it is read: such are left out.
    pub fn by_platform(&self) -> BTreeMap<Platform, OciDigest> {
        let mut found = BTreeMap::new();
        for entry in self.images().filter(|entry| !entry.is_index()) {
            if let Some(platform) = entry.declared() {
                found.entry(platform).or_insert(entry.digest);
            }
        }
        found
    }

    /// All entries that may be images.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| entry.may_be_image())
    }
}

fn sorted_json(document: &impl Serialize) -> Vec<u8> {
    // serde_json's map is a BTreeMap: going through `Value` sorts the keys.
    let value = serde_json::to_value(document)
        .expect("documents hold strings, numbers and maps of strings");
    serde_json::to_vec(&value).expect("a JSON value can always be written")
}

#[cfg(test)]
mod t {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str, declared: Option<&str>) -> Result<Document, DocumentError> {
        Document::parse(text.replace("DIGEST", DIGEST).as_bytes(), declared)
    }

    #[test]
    fn kinds_are_told_by_fields_and_must_not_be_contradicted() {
        let image = r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":0},"layers":null}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        for (text, declared, want) in [
            (image, None, media_type::OCI_MANIFEST),
            (image, Some("application/json"), media_type::OCI_MANIFEST),
            (
                image,
                Some(media_type::DOCKER_MANIFEST),
                media_type::DOCKER_MANIFEST,
            ),
            (
                index,
                Some("text/plain; charset=utf-8"),
                media_type::OCI_INDEX,
            ),
            (
                index,
                Some("application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8"),
                media_type::DOCKER_INDEX,
            ),
        ] {
            assert_eq!(parse(text, declared).unwrap().media_type(), want);
        }
        let typed = |text: &str, media_type: &str| {
            text.replacen('{', &format!(r#"{{"mediaType":"{media_type}","#), 1)
        };
        use DocumentError as E;
        let is_mismatch = |e: E| matches!(e, E::Mismatch { .. });
        assert!(is_mismatch(
            parse(image, Some(media_type::OCI_INDEX)).unwrap_err()
        ));
        assert!(is_mismatch(
            parse(index, Some(media_type::DOCKER_MANIFEST)).unwrap_err()
        ));
        assert!(is_mismatch(
            parse(&typed(image, media_type::OCI_INDEX), None).unwrap_err()
        ));
        // The cases of GHSA-77vh-xpmg-72qh (CVE-2021-41190).
        for both in [
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"config":{}}"#,
            &typed(
                r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
                media_type::OCI_INDEX,
            ),
        ] {
            assert!(
                matches!(parse(both, None).unwrap_err(), E::Ambiguous),
                "{both}"
            );
        }
        for old in [
            r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#,
            r#"{"schemaVersion":2,"fsLayers":[],"layers":[]}"#,
        ] {
            assert!(matches!(parse(old, None).unwrap_err(), E::Schema1), "{old}");
        }
        assert!(matches!(
            parse(
                "{}",
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws")
            )
            .unwrap_err(),
            E::Schema1
        ));
        for other in [
            "{}",
            r#"{"schemaVersion":2}"#,
            &typed(image, "application/x"),
        ] {
            assert!(
                matches!(parse(other, None).unwrap_err(), E::Unknown { .. }),
                "{other}"
            );
        }
        for broken in [
            "",
            "[]",
            "null",
            "{\"layers\":[],\"layers\":[]}",
            r#"{"schemaVersion":2,"layers":[]}"#,
            r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":-1},"layers":[]}"#,
            r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1},"layers":[]}"#,
            r#"{"schemaVersion":2,"manifests":{}}"#,
            &"[".repeat(100_000),
        ] {
            let result = parse(broken, None);
            assert!(matches!(result, Err(E::Malformed { .. })), "{broken:.80}");
        }
    }

    #[test]
    fn cut_off_documents_are_errors() {
        let manifest = Manifest::new(
            Format::Oci,
            Descriptor::of(media_type::OCI_CONFIG, b""),
            vec![Descriptor::of(media_type::OCI_LAYER, b"x")],
        );
        let bytes = manifest.to_json();
        assert_eq!(
            Document::parse(&bytes, None).unwrap(),
            Document::Manifest(Box::new(manifest))
        );
        for end in 0..bytes.len() {
            assert!(Document::parse(&bytes[..end], None).is_err());
        }
    }

    #[test]
    fn entries_are_chosen_as_containerd_does() {
        let entry = |os: &str, arch: &str, variant: &str| Descriptor {
            platform: Some(DescriptorPlatform {
                architecture: arch.to_owned(),
                os: os.to_owned(),
                variant: variant.to_owned(),
                os_version: String::new(),
            }),
            ..Descriptor::of(
                media_type::OCI_MANIFEST,
                format!("{os}{arch}{variant}").as_bytes(),
            )
        };
        let mut attested = entry("linux", "amd64", "");
        attested
            .annotations
            .insert(REFERENCE_TYPE.into(), "attestation-manifest".into());
        let undeclared = Descriptor::of(media_type::OCI_MANIFEST, b"undeclared");
        let index = Index::new(
            Format::Oci,
            vec![
                attested,
                entry("unknown", "unknown", ""),
                entry("linux", "arm", "v5"),
                entry("linux", "arm", "v7"),
                entry("linux", "x86_64", ""),
                entry("linux", "amd64", "v3"),
                entry("windows", "amd64", ""),
                undeclared.clone(),
                Descriptor::of("application/vnd.example+json", b"else"),
            ],
        );
        let chosen = |wanted: &str| {
            let found = index.matching(&wanted.parse().unwrap());
            found.first().map(|e| e.declared().unwrap().to_string())
        };
        assert_eq!(chosen("linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(chosen("linux/amd64/v2").as_deref(), Some("linux/amd64"));
        assert_eq!(chosen("linux/amd64/v4").as_deref(), Some("linux/amd64/v3"));
        assert_eq!(chosen("linux/arm64").as_deref(), Some("linux/arm/v7"));
        assert_eq!(chosen("linux/arm/v6").as_deref(), Some("linux/arm/v5"));
        assert_eq!(chosen("linux/s390x"), None);
        assert_eq!(index.undeclared(), [&undeclared]);
        let names: Vec<_> = index.platforms().iter().map(Platform::to_string).collect();
        assert_eq!(
            names,
            [
                "linux/amd64",
                "linux/amd64/v3",
                "linux/arm/v5",
                "linux/arm/v7",
                "windows/amd64"
            ]
        );
    }
}
