//! OCI image layouts.

use std::io::Read;
use std::path::Path;

use super::fixture::Blobs;
use super::fixture::named;
use super::fixture::platform;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Index;
use crate::registry::Layout;
use crate::registry::RegistryError;

fn resolve(path: &Path, name: Option<&str>, wanted: &str) -> Result<Descriptor, RegistryError> {
    let resolved = Layout::open(path)?.resolve(name, &platform(wanted))?;
    Ok(Descriptor::of("", &resolved.manifest_bytes))
}

#[test]
fn images_by_tag_digest_or_being_the_only_one() {
    let mut blobs = Blobs::default();
    let amd = blobs.image(Format::Oci, &platform("linux/amd64"), "amd");
    let both = blobs.index(Format::Oci, &["linux/amd64", "linux/arm64"]);
    let dir = tempfile::tempdir().unwrap();
    blobs.write_layout(
        dir.path(),
        vec![named(amd.clone(), "one"), named(both.clone(), "two")],
    );
    let layout = Layout::open(dir.path()).unwrap();

    assert_eq!(layout.head(Some("one")).unwrap(), amd.digest);
    assert_eq!(layout.head(Some("two")).unwrap(), both.digest);
    let one = layout
        .resolve(Some("one"), &platform("linux/amd64"))
        .unwrap();
    assert_eq!((one.index, one.manifest_digest), (None, amd.digest));
    let two = layout
        .resolve(Some("two"), &platform("linux/arm64"))
        .unwrap();
    assert_eq!(two.index, Some(both.digest));
    assert_eq!(two.config.architecture, "arm64");
    // A digest within the nested index.
    let digest = two.manifest_digest.to_string();
    let by_digest = layout
        .resolve(Some(&digest), &platform("linux/arm64"))
        .unwrap();
    assert_eq!(by_digest.manifest_bytes, two.manifest_bytes);

    let blob = &two.manifest.layers[0];
    let mut bytes = Vec::new();
    layout
        .blob(&blob.digest, blob.size)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, blobs.0[&blob.digest]);

    let error = layout.head(None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "`{}` has not one image, so one must be named, but: `one`, `two`",
            dir.path().display()
        )
    );
    let error = layout.head(Some("three")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("has no image `three`, but: `one`, `two`"),
        "{error}"
    );

    let only = tempfile::tempdir().unwrap();
    blobs.write_layout(only.path(), vec![both]);
    let found = resolve(only.path(), None, "linux/amd64").unwrap();
    assert_eq!(found.size, one.manifest_bytes.len() as u64);
    let error = resolve(only.path(), None, "linux/riscv64").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("has no image for linux/riscv64: there is `linux/amd64`, `linux/arm64`"),
        "{error}"
    );
}

#[test]
fn entries_without_a_platform_are_found_by_their_config() {
    let mut blobs = Blobs::default();
    let platforms = ["linux/amd64", "linux/arm/v6", "linux/arm/v7"];
    let entries: Vec<_> = platforms
        .iter()
        .map(|name| blobs.image(Format::Docker, &platform(name), name))
        .collect();
    let index = blobs.add(
        Format::Docker.index(),
        Index::new(Format::Docker, entries.clone()).to_json(),
    );
    let single = blobs.add(
        Format::Docker.index(),
        Index::new(Format::Docker, vec![entries[0].clone()]).to_json(),
    );
    let dir = tempfile::tempdir().unwrap();
    blobs.write_layout(
        dir.path(),
        vec![named(index, "all"), named(single, "single")],
    );
    for (name, wanted, found) in [
        ("all", "linux/amd64", Some(0)),
        ("all", "linux/arm/v7", Some(2)),
        ("all", "linux/arm/v6", Some(1)),
        ("all", "linux/arm64", Some(2)),
        ("all", "linux/s390x", None),
        ("single", "linux/s390x", Some(0)),
    ] {
        let result = resolve(dir.path(), Some(name), wanted);
        match found {
            Some(n) => assert_eq!(result.unwrap().digest, entries[n].digest, "{name} {wanted}"),
            None => assert!(matches!(result, Err(RegistryError::NoPlatform { .. }))),
        }
    }
    // Unnamed entries for several platforms are one image.
    let flat = tempfile::tempdir().unwrap();
    blobs.write_layout(flat.path(), entries.clone());
    let found = resolve(flat.path(), None, "linux/arm/v6").unwrap();
    assert_eq!(found.digest, entries[1].digest);
}

#[test]
fn spoilt_layouts_are_refused() {
    let mut blobs = Blobs::default();
    let image = blobs.image(Format::Oci, &platform("linux/amd64"), "x");
    let dir = tempfile::tempdir().unwrap();
    let error = Layout::open(dir.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("it has no file `oci-layout`"),
        "{error}"
    );
    blobs.write_layout(dir.path(), vec![image.clone()]);
    let layout = Layout::open(dir.path()).unwrap();
    let layer = layout
        .resolve(None, &platform("linux/amd64"))
        .unwrap()
        .manifest
        .layers[0]
        .clone();
    let path = dir.path().join("blobs/sha256").join(layer.digest.hex());

    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut reader = layout.blob(&layer.digest, layer.size).unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("should have digest"), "{error}");

    std::fs::write(&path, b"short").unwrap();
    let error = layout.blob(&layer.digest, layer.size).err().unwrap();
    assert!(
        matches!(error, RegistryError::SizeMismatch { actual: 5, .. }),
        "{error}"
    );

    std::fs::write(
        dir.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    assert!(Layout::open(dir.path()).is_err());
    std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
    assert!(Layout::open(dir.path()).is_err());
}
