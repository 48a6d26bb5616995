//! The images that the cases build on, as OCI layouts.
//!
//! `base` is the busybox image of the other tests. The rest are described in `testdata/dockerfile/bases/NAME`: `layers`
//! is a list of entries with a line `layer` before each layer, `config.json` the image config, and `platforms`, if
//! there, makes the image an index with one image for each platform.

use std::fs;
use std::path::Path;

use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use super::entries;
use crate::support::Base;
use crate::support::copy_image;

/// Copies every base into a registry.
pub(crate) fn publish(testdata: &Path, scratch: &Path, registry: &str) {
    Base::Busybox.copy_to(&format!("docker://{registry}/library/base:latest"));
    for dir in fs::read_dir(testdata.join("bases")).unwrap() {
        let dir = dir.unwrap();
        let name = dir.file_name().into_string().unwrap();
        let layout = scratch.join(&name);
        write_layout(&dir.path(), &layout);
        copy_image(
            &layout,
            &format!("docker://{registry}/library/{name}:latest"),
        );
    }
}

fn write_layout(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("blobs/sha256")).unwrap();
    let description = fs::read_to_string(from.join("layers")).unwrap();
    let layers: Vec<Value> = description
        .split("layer\n")
        // What stands before the first is a comment.
        .skip(1)
        .map(|layer| {
            let tar = entries::archive(&entries::parse(layer));
            put(to, "application/vnd.oci.image.layer.v1.tar", &tar)
        })
        .collect();
    let config: Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let platforms = fs::read_to_string(from.join("platforms"));
    let manifests: Vec<Value> = platforms
        .as_deref()
        .unwrap_or("linux/amd64")
        .split_whitespace()
        .map(|platform| write_image(to, &layers, &config, platform))
        .collect();
    let mut root = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    if platforms.is_ok() {
        let index = put(to, INDEX, root.to_string().as_bytes());
        root["manifests"] = json!([index]);
    }
    root["manifests"][0]["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    fs::write(to.join("index.json"), root.to_string()).unwrap();
    fs::write(
        to.join("oci-layout"),
        json!({ "imageLayoutVersion": "1.0.0" }).to_string(),
    )
    .unwrap();
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn write_image(to: &Path, layers: &[Value], config: &Value, platform: &str) -> Value {
    let words: Vec<&str> = platform.split('/').collect();
    let mut platform = json!({ "os": words[0], "architecture": words[1] });
    if let Some(variant) = words.get(2) {
        platform["variant"] = json!(variant);
    }
    let mut config = config.clone();
    for (key, value) in platform.as_object().unwrap() {
        config[key] = value.clone();
    }
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = put(
        to,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    });
    let mut descriptor = put(
        to,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    descriptor["platform"] = platform;
    descriptor
}

fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let hex = super::image::hex(&Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
}
