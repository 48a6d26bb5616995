//! Media types (OCI image-spec, media-types.md; docker image manifest version 2, schema 2).

use std::borrow::Cow;

/// An image manifest of OCI.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image index of OCI.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An image config of OCI.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer of OCI; `+gzip` or `+zstd` follows where it is compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// An image manifest of docker.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An index of docker.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// An image config of docker.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A layer of docker; `.gzip` or `.zstd` follows where it is compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// What manifest requests accept.
pub const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Layer types of OCI with docker's name for the same bytes.
const LAYERS: [(&str, &str); 6] = [
    (OCI_LAYER, DOCKER_LAYER),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
    ),
];

/// Whose media types a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// OCI image-spec.
    Oci,
    /// Docker schema 2.
    Docker,
}

/// The two kinds of document a registry keeps under `manifests/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    Index,
}

impl Format {
    /// The type of an image manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    /// The type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => OCI_INDEX,
            Self::Docker => DOCKER_INDEX,
        }
    }

    /// The type of an image config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    /// The type of a layer in this format, given either format's; a type neither knows stays as it is.
    pub fn layer(self, media_type: &str) -> Cow<'_, str> {
        LAYERS
            .iter()
            .find(|(oci, docker)| *oci == media_type || *docker == media_type)
            .map_or_else(
                || Cow::Owned(media_type.to_owned()),
                |(oci, docker)| {
                    Cow::Borrowed(match self {
                        Self::Oci => *oci,
                        Self::Docker => *docker,
                    })
                },
            )
    }
}

/// The type of the same layer without the word that it must not be handed on, which OCI has given up.
pub fn distributable(media_type: &str) -> Cow<'_, str> {
    let word = [".nondistributable", ".foreign"]
        .into_iter()
        .find(|word| media_type.contains(word));
    match word {
        Some(word)
            if LAYERS
                .iter()
                .any(|(oci, docker)| [oci, docker].contains(&&media_type)) =>
        {
            Cow::Owned(media_type.replacen(word, "", 1))
        }
        _ => Cow::Borrowed(media_type),
    }
}

/// Whether a config of this type describes a container image.
pub fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

pub(super) fn kind(media_type: &str) -> Option<Kind> {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
        OCI_INDEX | DOCKER_INDEX => Some(Kind::Index),
        _ => None,
    }
}

pub(super) fn is_schema_1(media_type: &str) -> bool {
    matches!(media_type, DOCKER_SCHEMA_1 | DOCKER_SCHEMA_1_SIGNED)
}

/// A `Content-Type` without its parameters.
pub fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod t {
    use super::*;

    /// From BuildKit's util/compression: what its exporter makes of such types without `prefer-nondist-layers`.
    #[test]
    fn layers_are_distributable_unless_they_are_something_else() {
        for (oci, docker) in &LAYERS[3..] {
            let formats = [Format::Oci, Format::Docker];
            for (media_type, format) in [oci, docker].into_iter().zip(formats) {
                let made = distributable(media_type);
                assert!(
                    LAYERS[..3]
                        .iter()
                        .any(|(oci, docker)| [*oci, *docker].contains(&&*made))
                );
                assert_eq!(format.layer(&made), made);
            }
        }
        for other in [OCI_LAYER, "application/x.foreign"] {
            assert_eq!(distributable(other), other);
        }
    }

    #[test]
    fn layers_are_renamed_both_ways() {
        let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
        let docker = Format::Docker.layer(zstd).into_owned();
        assert_eq!(docker, format!("{DOCKER_LAYER}.zstd"));
        assert_eq!(Format::Oci.layer(&docker), zstd);
        assert_eq!(
            Format::Docker.layer("application/x-own"),
            "application/x-own"
        );
    }
}
