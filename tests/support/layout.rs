//! Images read without rbuild's code: JSON as it is, layers as GNU tar lists them.

use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use sha2::Digest as _;
use sha2::Sha256;

use super::TestEnv;
use super::tools;

/// An OCI image layout in a directory, with one image.
pub(crate) struct Image {
    dir: PathBuf,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
}

impl Image {
    /// Unpacks `-o type=oci,dest=FILE` (`file` is relative to the context) beside the context, checking every digest.
    pub(crate) fn from_oci_tar(env: &TestEnv, file: &str) -> Self {
        let dir = env.outside(&format!("layout-of-{file}"));
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir(&dir).unwrap();
        env.tool("tar", ["-xf", file, "-C", dir.to_str().unwrap()])
            .success();
        Self::from_layout(&dir)
    }

    pub(crate) fn from_layout(dir: &Path) -> Self {
        let index: Value =
            serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
        let mut image = Self {
            dir: dir.to_owned(),
            manifest: Value::Null,
            config: Value::Null,
        };
        image.manifest = image.json(&index["manifests"][0]);
        image.config = image.json(&image.manifest["config"]);
        for layer in image.manifest["layers"].as_array().unwrap() {
            image.blob(layer);
        }
        image
    }

    /// `IMAGE:TAG` as umoci wants it.
    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("{}:{tag}", self.dir.display())
    }

    /// The digests of the layer blobs.
    pub(crate) fn layers(&self) -> Vec<String> {
        let layers = self.manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| text(&layer["digest"])).collect()
    }

    /// What GNU tar says is in layer `n`; negative counts from the top.
    pub(crate) fn layer(&self, n: isize) -> Vec<TarEntry> {
        list_tar(&self.layer_blob(n))
    }

    /// The file of layer `n`; negative counts from the top.
    pub(crate) fn layer_blob(&self, n: isize) -> PathBuf {
        let layers = self.layers();
        let at = match n {
            0.. => n.unsigned_abs(),
            _ => layers.len().checked_add_signed(n).unwrap(),
        };
        self.path(&layers[at])
    }

    /// The `created_by` of each history entry; those without a layer start with `(empty)`.
    pub(crate) fn history(&self) -> Vec<String> {
        let entries = self.config["history"].as_array().unwrap();
        entries
            .iter()
            .map(|entry| {
                let empty = if entry["empty_layer"] == true {
                    "(empty) "
                } else {
                    ""
                };
                format!("{empty}{}", text(&entry["created_by"]))
            })
            .collect()
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).unwrap()
    }

    /// A blob's bytes, which are what its descriptor says they are.
    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = text(&descriptor["digest"]);
        let bytes = fs::read(self.path(&digest)).unwrap();
        let hex: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest, format!("sha256:{hex}"));
        assert_eq!(descriptor["size"], bytes.len(), "{descriptor}");
        bytes
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }
}

/// One line of `tar -tv`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TarEntry {
    /// Without leading `./` or `/` and trailing `/`.
    pub(crate) path: String,
    /// As `ls -l` writes it, the type first.
    pub(crate) mode: String,
    /// `uid/gid`
    pub(crate) owner: String,
    /// Of symbolic (`-> x`) and hard links (`link to x`).
    pub(crate) link: Option<String>,
}

impl fmt::Display for TarEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.mode, self.owner, self.path)?;
        match &self.link {
            Some(link) => write!(f, " {link}"),
            None => Ok(()),
        }
    }
}

/// What GNU tar says is in an archive, compressed or not.
pub(crate) fn list_tar(path: &Path) -> Vec<TarEntry> {
    let output = Command::new(tools::find("tar"))
        .env("LANG", "C.UTF-8")
        .args(["--numeric-owner", "--full-time", "-tvf"])
        .arg(path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listing = String::from_utf8(output.stdout).unwrap();
    listing.lines().map(parse_line).collect()
}

/// `-rw-r--r-- 0/0   12 2024-01-02 03:04:05 path -> target`
fn parse_line(line: &str) -> TarEntry {
    let mut rest = line;
    let mut field = || {
        let (first, tail) = rest.trim_start().split_once(' ').unwrap();
        rest = tail;
        first.to_owned()
    };
    let (mode, owner) = (field(), field());
    // Size (or device numbers), date, time.
    for _ in 0..3 {
        field();
    }
    let (path, link) = match (rest.split_once(" -> "), rest.split_once(" link to ")) {
        (Some((path, target)), _) if mode.starts_with('l') => (path, Some(format!("-> {target}"))),
        (_, Some((path, target))) if mode.starts_with('h') => {
            (path, Some(format!("link to {target}")))
        }
        _ => (rest, None),
    };
    let path = path.trim_start_matches("./").trim_matches('/').to_owned();
    TarEntry {
        path,
        mode,
        owner,
        link,
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
        .to_owned()
}
