//! Against Debian's `docker-registry`, filled and read by `skopeo`.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::fixture::Blobs;
use super::fixture::client;
use super::fixture::named;
use super::fixture::platform;
use super::fixture::settings;
use crate::image::Descriptor;
use crate::image::Format;
use crate::registry::Client;
use crate::registry::Pushed;
use crate::registry::Reference;
use crate::registry::RegistryError;

/// A registry of its own, gone when dropped.
pub(super) struct Registry {
    process: Child,
    pub(super) host: String,
    dir: tempfile::TempDir,
}

/// Runs a tool of a Debian package and returns its standard output.
pub(super) fn run(package: &str, command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("`{program}` cannot be run ({e}): apt install {package}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn skopeo(args: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    run("skopeo", command.arg("--insecure-policy").args(args))
}

fn inspect_raw(reference: &Reference) -> Vec<u8> {
    let name = format!("docker://{reference}");
    skopeo(&["inspect", "--raw", "--tls-verify=false", &name]).into_bytes()
}

impl Registry {
    pub(super) fn start(http_settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data");
        let settings = http_settings.replace("DIR", &dir.path().display().to_string());
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\n{settings}",
                root.display()
            ),
        )
        .unwrap();
        Self::serve(dir, &config)
    }

    fn serve(dir: tempfile::TempDir, config: &Path) -> Self {
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("`docker-registry` cannot be run ({e}): apt install docker-registry")
            });
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let host = loop {
            let Some(line) = lines.next() else {
                panic!("docker-registry does not start: {seen}");
            };
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().to_owned();
            }
            seen.push_str(&line);
        };
        // It would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, host, dir }
    }

    pub(super) fn plain() -> Self {
        Self::start("http: {addr: 127.0.0.1:0}\n")
    }

    pub(super) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    /// Puts an index with images for these platforms under `rest`.
    fn fill(&self, rest: &str, format: Format, platforms: &[&str]) -> (Blobs, Descriptor) {
        let mut blobs = Blobs::default();
        let index = blobs.index(format, platforms);
        let layout = self.dir.path().join("layout");
        blobs.write_layout(&layout, vec![named(index.clone(), "it")]);
        skopeo(&[
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:it", layout.display()),
            &format!("docker://{}/{rest}", self.host),
        ]);
        (blobs, index)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn read(client: &Client, reference: &Reference, blob: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = client.blob(reference, &blob.digest, blob.size).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn pulls_what_skopeo_pushed() {
    let registry = Registry::plain();
    let (blobs, index) = registry.fill("team/app:1", Format::Oci, &["linux/amd64", "linux/arm/v7"]);
    let client = client(&settings());
    let reference = registry.reference("team/app:1");
    assert_eq!(client.head(&reference).unwrap(), index.digest);
    for (wanted, found) in [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm64", "linux/arm/v7"),
    ] {
        let resolved = client.resolve(&reference, &platform(wanted)).unwrap();
        assert_eq!(resolved.config.platform(), platform(found));
        assert_eq!(resolved.index, Some(index.digest));
        assert_eq!(blobs.0[&resolved.manifest_digest], resolved.manifest_bytes);
        let layer = &resolved.manifest.layers[0];
        assert_eq!(read(&client, &reference, layer), blobs.0[&layer.digest]);
        // Pinned to the platform's manifest.
        let pinned = reference.with_digest(resolved.manifest_digest);
        assert_eq!(client.head(&pinned).unwrap(), resolved.manifest_digest);
        let again = client.resolve(&pinned, &platform(wanted)).unwrap();
        assert_eq!(again.config_bytes, resolved.config_bytes);
    }
    let error = client
        .resolve(&reference, &platform("linux/s390x"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "`{reference}` has no image for linux/s390x: there is `linux/amd64`, `linux/arm/v7`"
        )
    );
    for missing in ["team/app:2", "team/none:1"] {
        let error = client.head(&registry.reference(missing)).unwrap_err();
        assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    }
}

#[test]
fn skopeo_reads_what_is_pushed() {
    let registry = Registry::plain();
    let client = client(&settings());
    for (n, format) in [Format::Oci, Format::Docker].into_iter().enumerate() {
        let mut blobs = Blobs::default();
        let index = blobs.index(format, &["linux/amd64", "linux/arm64"]);
        let (to, near) = (
            registry.reference(&format!("pushed/a{n}:1")),
            registry.reference(&format!("pushed/b{n}:1")),
        );
        let push = |to: &Reference, digest, from: Option<&str>| {
            let bytes: &Vec<u8> = &blobs.0[digest];
            let open = || {
                let copy: Box<dyn Read> = Box::new(std::io::Cursor::new(bytes.clone()));
                Ok(copy)
            };
            client
                .push_blob(to, digest, bytes.len() as u64, from, &open)
                .unwrap()
        };
        let (documents, plain): (Vec<_>, Vec<_>) = blobs.0.keys().partition(|digest| {
            blobs.0[*digest].starts_with(b"{\"config\":{\"digest\"") || **digest == index.digest
        });
        for digest in plain {
            assert_eq!(push(&to, digest, None), Pushed::Sent);
            assert_eq!(push(&to, digest, None), Pushed::Existed);
            assert_eq!(push(&near, digest, Some(&to.repository)), Pushed::Mounted);
        }
        for digest in documents
            .into_iter()
            .filter(|digest| **digest != index.digest)
        {
            let put = client.push_manifest(
                &to.with_digest(*digest),
                format.manifest(),
                &blobs.0[digest],
            );
            assert_eq!(put.unwrap(), *digest);
        }
        let bytes = &blobs.0[&index.digest];
        assert_eq!(
            client.push_manifest(&to, format.index(), bytes).unwrap(),
            index.digest
        );

        assert_eq!(inspect_raw(&to), *bytes);
        let name = format!("docker://{to}");
        let shown = skopeo(&[
            "inspect",
            "--override-arch=arm64",
            "--override-os=linux",
            "--tls-verify=false",
            &name,
        ]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["Digest"], index.digest.to_string());
        assert_eq!(shown["Architecture"], "arm64");
        let resolved = client.resolve(&to, &platform("linux/arm64")).unwrap();
        assert_eq!(
            shown["Layers"][0],
            resolved.manifest.layers[0].digest.to_string()
        );
    }
}

#[test]
fn large_blobs_pass_both_ways() {
    let registry = Registry::plain();
    let client = client(&settings());
    let to = registry.reference("large/blob:1");
    let bytes: Vec<u8> = (0u32..2_000_000).flat_map(u32::to_le_bytes).collect();
    let blob = Descriptor::of("", &bytes);
    let path = registry.dir.path().join("blob");
    std::fs::write(&path, &bytes).unwrap();
    let open = || {
        let file: Box<dyn Read> = Box::new(std::fs::File::open(&path)?);
        Ok(file)
    };
    let pushed = client.push_blob(&to, &blob.digest, blob.size, None, &open);
    assert_eq!(pushed.unwrap(), Pushed::Sent);
    assert_eq!(read(&client, &to, &blob), bytes);
    // The registry compares digests, too: bytes that changed meanwhile do not get in.
    std::fs::write(&path, &bytes[1..]).unwrap();
    let other = Descriptor::of("", b"other");
    let error = client
        .push_blob(&to, &other.digest, blob.size - 1, None, &open)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Status { status: 400, .. }),
        "{error}"
    );
}
