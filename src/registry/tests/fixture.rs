//! Images to pull, settings to pull them with.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_llb::CancelToken;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;

use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Index;
use crate::image::Manifest;
use crate::image::media_type;
use crate::registry::Client;
use crate::registry::client::Patience;
use crate::request::ProxySettings;
use crate::request::Registries;
use crate::request::Settings;

pub(super) fn settings() -> Settings {
    Settings {
        root: PathBuf::new(),
        temp_dir: PathBuf::new(),
        registries: Registries::default(),
        docker_config: None,
        docker_auth: None,
        ca: None,
        tag_max_age: 0,
        ranges_only: false,
        proxies: ProxySettings::default(),
        gc: crate::request::GcSettings::default(),
        stacker: None,
        isolation: Default::default(),
        nested_namespaces: true,
        emulators: Default::default(),
        keep_failed: crate::request::KeepFailed::Never,
    }
}

/// A client that does not wait between tries.
pub(super) fn client(settings: &Settings) -> Client {
    let patience = Patience {
        first_pause: Duration::ZERO,
        silence: Duration::from_secs(20),
    };
    Client::with_patience(settings, &CancelToken::new(), patience)
}

pub(super) fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

/// Bytes by digest, as a registry or layout keeps them.
#[derive(Debug, Clone, Default)]
pub(super) struct Blobs(pub(super) BTreeMap<OciDigest, Vec<u8>>);

impl Blobs {
    pub(super) fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.0.insert(descriptor.digest, bytes);
        descriptor
    }

    /// An image with one layer, a tar with one file.
    pub(super) fn image(&mut self, format: Format, platform: &Platform, text: &str) -> Descriptor {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, "hello", text.as_bytes())
            .unwrap();
        let layer = self.add(
            &format.layer(media_type::OCI_LAYER),
            tar.into_inner().unwrap(),
        );
        let mut config = ImageConfig::scratch(platform);
        config.rootfs.diff_ids.push(layer.digest);
        let config = self.add(format.config(), config.to_json());
        let manifest = Manifest::new(format, config, vec![layer]);
        self.add(format.manifest(), manifest.to_json())
    }

    /// An index of such images, with a BuildKit attestation among them.
    pub(super) fn index(&mut self, format: Format, platforms: &[&str]) -> Descriptor {
        let mut entries: Vec<_> = platforms
            .iter()
            .map(|name| {
                let platform = platform(name);
                self.image(format, &platform, name).with_platform(&platform)
            })
            .collect();
        let about = entries[0].digest;
        let mut attestation = self
            .image(format, &platform("unknown/unknown"), "attestation")
            .with_platform(&platform("unknown/unknown"));
        attestation.annotations = BTreeMap::from([
            (
                "vnd.docker.reference.type".into(),
                "attestation-manifest".into(),
            ),
            ("vnd.docker.reference.digest".into(), about.to_string()),
        ]);
        entries.push(attestation);
        self.add(format.index(), Index::new(format, entries).to_json())
    }

    /// Writes an OCI image layout with these entries in its index.
    pub(super) fn write_layout(&self, path: &Path, entries: Vec<Descriptor>) {
        let blobs = path.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.0 {
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        }
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = Index::new(Format::Oci, entries).to_json();
        std::fs::write(path.join("index.json"), index).unwrap();
    }
}

pub(super) fn named(mut descriptor: Descriptor, name: &str) -> Descriptor {
    descriptor
        .annotations
        .insert("org.opencontainers.image.ref.name".into(), name.into());
    descriptor
}
