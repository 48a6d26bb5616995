//! What is in an OCI archive, as text: config, history, and the tree where it differs from the base's.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use serde_json::Value;
use sha2::Digest as _;
use sha2::Sha256;

/// A file system: what stands at each path, without leading slash.
type Tree = BTreeMap<Vec<u8>, Node>;

/// What an archive has, in its order.
type Layer = Vec<(Vec<u8>, Node)>;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    size: u64,
    digest: String,
    target: Vec<u8>,
    device: (u32, u32),
    xattrs: BTreeMap<String, Vec<u8>>,
    /// The file that holds the content: the same for all names of a file.
    inode: usize,
    time: u64,
}

/// Reads archives, and remembers layers: those of the bases come again and again.
#[derive(Default)]
pub(crate) struct Reader {
    layers: Mutex<HashMap<String, Arc<Layer>>>,
}

/// Which times are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// When files were modified.
    pub(crate) files: bool,
    /// When the image and its layers were created.
    pub(crate) config: bool,
}

impl Reader {
    /// Describes the images of an archive. `base` tells the layers of bases from those of the build.
    pub(crate) fn describe(&self, file: &Path, times: &Times) -> String {
        let mut blobs: HashMap<String, Vec<u8>> = HashMap::new();
        let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            blobs.insert(path, bytes);
        }
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let blob = |digest: &Value| {
            let digest = digest.as_str().unwrap();
            &blobs[&format!("blobs/{}", digest.replace(':', "/"))]
        };
        let root = json(&blobs["index.json"])["manifests"][0].clone();
        let mut text = String::new();
        let manifests = match json(blob(&root["digest"]))["manifests"].as_array() {
            Some(manifests) => manifests.clone(),
            None => vec![root.clone()],
        };
        for descriptor in &manifests {
            if manifests.len() > 1 {
                writeln!(text, "platform {}", descriptor["platform"]).unwrap();
            }
            let manifest = json(blob(&descriptor["digest"]));
            let config = json(blob(&manifest["config"]["digest"]));
            let own = own_layers(&config);
            let layers = manifest["layers"].as_array().map_or(&[][..], Vec::as_slice);
            let (mut base, mut tree) = (Tree::new(), Tree::new());
            for (at, layer) in layers.iter().enumerate() {
                if at + own == layers.len() {
                    base = tree.clone();
                }
                let digest = layer["digest"].as_str().unwrap();
                apply(&mut tree, &self.layer(digest, || blob(&layer["digest"])));
            }
            if own == 0 {
                base = tree.clone();
            }
            describe_config(&mut text, config, times.config);
            describe_tree(&mut text, &base, &tree, times.files);
        }
        text
    }

    fn layer<'a>(&self, digest: &str, blob: impl Fn() -> &'a Vec<u8>) -> Arc<Layer> {
        if let Some(known) = self.layers.lock().unwrap().get(digest) {
            return Arc::clone(known);
        }
        let layer = Arc::new(read_layer(blob()));
        let mut layers = self.layers.lock().unwrap();
        layers.insert(digest.to_owned(), Arc::clone(&layer));
        layer
    }
}

/// How many layers this build added: those that its history entries say.
fn own_layers(config: &Value) -> usize {
    let history = config["history"].as_array();
    history.map_or(0, |entries| {
        let own = entries
            .iter()
            .filter(|entry| entry["comment"] == "buildkit.dockerfile.v0");
        own.filter(|entry| entry["empty_layer"] != true).count()
    })
}

fn read_layer(blob: &[u8]) -> Layer {
    let mut plain = Vec::new();
    let bytes = if blob.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(blob)
            .read_to_end(&mut plain)
            .unwrap();
        &plain
    } else {
        blob
    };
    let mut archive = tar::Archive::new(bytes);
    let mut nodes = Layer::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
            let extension = extension.unwrap();
            if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
            }
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let path = trimmed(&entry.path_bytes());
        let target = entry.link_name_bytes().unwrap_or_default().to_vec();
        nodes.push((
            path,
            Node {
                kind: header.entry_type(),
                mode: header.mode().unwrap() & 0o7777,
                owner: (header.uid().unwrap(), header.gid().unwrap()),
                size: content.len() as u64,
                digest: hex(&Sha256::digest(&content)),
                target,
                device: (
                    header.device_major().ok().flatten().unwrap_or(0),
                    header.device_minor().ok().flatten().unwrap_or(0),
                ),
                xattrs,
                inode: 0,
                time: header.mtime().unwrap(),
            },
        ));
    }
    nodes
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.strip_suffix(b"/").unwrap_or(path).to_vec()
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() && !path.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Puts a layer on a tree (OCI image specification, layer.md: first whiteouts, which are for lower layers alone).
fn apply(tree: &mut Tree, layer: &[(Vec<u8>, Node)]) {
    let split = |path: &[u8]| -> (Vec<u8>, Vec<u8>) {
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (path[..at].to_vec(), path[at + 1..].to_vec()),
            None => (Vec::new(), path.to_vec()),
        }
    };
    for (path, _) in layer {
        let (dir, name) = split(path);
        if name == b".wh..wh..opq" {
            tree.retain(|path, _| !below(path, &dir));
        } else if let Some(name) = name.strip_prefix(b".wh.") {
            let gone = if dir.is_empty() {
                name.to_vec()
            } else {
                [&dir, &b"/"[..], name].concat()
            };
            tree.retain(|path, _| *path != gone && !below(path, &gone));
        }
    }
    let mut last_inode = tree.values().map(|node| node.inode).max().unwrap_or(0);
    for (path, node) in layer {
        if split(path).1.starts_with(b".wh.") {
            continue;
        }
        let mut node = node.clone();
        if node.kind == tar::EntryType::Link {
            node = tree[&trimmed(&node.target)].clone();
        } else {
            last_inode += 1;
            node.inode = last_inode;
        }
        let was_dir = tree
            .get(path)
            .is_some_and(|old| old.kind == tar::EntryType::Directory);
        if was_dir && node.kind != tar::EntryType::Directory {
            tree.retain(|other, _| !below(other, path));
        }
        tree.insert(path.clone(), node);
    }
}

fn describe_config(text: &mut String, mut config: Value, with_times: bool) {
    let fields = config.as_object_mut().unwrap();
    let rootfs = fields.remove("rootfs").unwrap_or_default();
    let layers = rootfs["diff_ids"].as_array().map_or(0, Vec::len);
    let history = fields.remove("history");
    if !with_times {
        fields.remove("created");
    }
    writeln!(
        text,
        "config {}",
        serde_json::to_string_pretty(&config).unwrap()
    )
    .unwrap();
    writeln!(text, "layers {layers}").unwrap();
    for mut entry in history
        .iter()
        .filter_map(Value::as_array)
        .flatten()
        .cloned()
    {
        let fields = entry.as_object_mut().unwrap();
        if !with_times {
            fields.remove("created");
        }
        if fields
            .get("comment")
            .is_some_and(|c| c == "buildkit.dockerfile.v0")
        {
            fields.remove("comment");
        }
        let by = fields.remove("created_by").unwrap_or_default();
        let empty = fields
            .remove("empty_layer")
            .is_some_and(|empty| empty == true);
        let rest = if fields.is_empty() {
            String::new()
        } else {
            format!(" {entry}")
        };
        let sign = if empty { ' ' } else { '+' };
        writeln!(text, "history {sign} {by}{rest}").unwrap();
    }
}

/// A line for each path that the build made, changed or removed; of what was removed, the topmost.
fn describe_tree(text: &mut String, base: &Tree, tree: &Tree, with_times: bool) {
    let mut names: HashMap<usize, &[u8]> = HashMap::new();
    for (path, node) in tree {
        let first = *names.entry(node.inode).or_insert(path);
        let same = |old: &Node| Node {
            inode: 0,
            time: 0,
            ..old.clone()
        };
        if base.get(path).is_some_and(|old| same(old) == same(node)) && first == path.as_slice() {
            continue;
        }
        let kind = match node.kind {
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Char => "char",
            tar::EntryType::Block => "block",
            tar::EntryType::Fifo => "fifo",
            _ => "file",
        };
        if first != path.as_slice() {
            if base.get(path).map(|node| node.inode) != Some(node.inode) {
                writeln!(text, "hardlink {} to {}", shown(path), shown(first)).unwrap();
            }
            continue;
        }
        write!(text, "{kind} {}", shown(path)).unwrap();
        if kind != "symlink" {
            write!(text, " {:04o}", node.mode).unwrap();
        }
        write!(text, " {}:{}", node.owner.0, node.owner.1).unwrap();
        match kind {
            "file" => write!(text, " {} {}", node.size, &node.digest[..12]).unwrap(),
            "symlink" => write!(text, " -> {}", shown(&node.target)).unwrap(),
            "char" | "block" => write!(text, " {}:{}", node.device.0, node.device.1).unwrap(),
            _ => {}
        }
        for (name, value) in &node.xattrs {
            write!(text, " {name}={}", hex(value)).unwrap();
        }
        // When a directory that the build makes was modified is when it was made.
        if with_times && kind != "dir" {
            write!(text, " @{}", node.time).unwrap();
        }
        text.push('\n');
    }
    let gone = |path: &[u8]| !tree.contains_key(path);
    for path in base.keys().filter(|path| gone(path)) {
        let parent = path.iter().rposition(|byte| *byte == b'/');
        if parent.is_none_or(|at| !gone(&path[..at])) {
            writeln!(text, "gone {}", shown(path)).unwrap();
        }
    }
}

/// Bytes that are no printable ASCII as `%xx`, and `/` before what is a path of the image.
fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => write!(text, "%{byte:02x}").unwrap(),
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
