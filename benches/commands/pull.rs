//! A base that comes from a registry and is mounted.

use std::fmt::Write as _;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use rayon::prelude::*;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use super::limits;
use super::limits::Packed;
use super::lines::half_compressible;
use super::lines::memory;
use super::lines::pool;
use super::measure::Bound;
use super::measure::Measured;
use super::measure::in_turns;
use super::measure::line;
use super::measure::run;
use super::measure::run_watched;
use super::place::Place;

const LAYERS: usize = 5;
const SMALL_FILES: usize = 3000;
const LARGE_FILES: usize = 15;
const LARGE: usize = 4 << 20;

pub(crate) fn pull() -> Measured<String> {
    let place = Place::new();
    let registry = Registry::start(&place)?;
    let pool = pool();
    let layers: Vec<Packed> = pool.install(|| (0..LAYERS).into_par_iter().map(layer).collect());
    let image = format!("docker://127.0.0.1:{}/big:1", registry.port);
    publish(&place, &layers, &image)?;
    place.program(&place.context("true"));
    place.dockerfile(&format!(
        "FROM 127.0.0.1:{}/big:1\nCOPY true /true\nRUN [\"/true\"]\n",
        registry.port
    ));
    let mut peak = 0;
    let (ours, limit) = in_turns(
        4,
        |_| {
            let (time, memory) = run_watched(place.build("store").arg("context"))?;
            peak = peak.max(memory);
            place.remove("store");
            Ok(time)
        },
        |_| Ok(limits::gunzip_and_sum(&layers, &pool)),
    )?;
    let what = "libdeflate and SHA-256 alone";
    let peers = skopeo_and_umoci(&place, &image);
    let bound = Bound {
        within: peers.as_ref().ok().map(|time| *time / 2),
        times: Some(2.0),
    };
    let mut text = line(&ours, &limit, what, &bound);
    write!(text, "; {}", memory(peak)).unwrap();
    if let Ok(time) = peers {
        write!(
            text,
            "; skopeo and umoci {:.0} ms",
            time.as_secs_f64() * 1e3
        )
        .unwrap();
    }
    Ok(text)
}

/// Some 85 MB of files, 3,000 of up to 16 KiB and 15 of 4 MiB, as a tar that is compressed as docker does it: in one piece.
fn layer(at: usize) -> Packed {
    let data = half_compressible(at as u64 + 10, LARGE_FILES * LARGE);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    for (file, bytes) in data.chunks(LARGE).enumerate() {
        add(format!("usr/lib/{at}/large-{file}"), bytes);
    }
    for file in 0..SMALL_FILES {
        let start = file * 8111 % (data.len() - 16384);
        let bytes = &data[start..start + file * 5077 % 16384];
        add(format!("usr/share/{at}/{}/small-{file}", file % 100), bytes);
    }
    Packed::new(&tar.into_inner().unwrap())
}

fn publish(place: &Place, layers: &[Packed], image: &str) -> Measured<()> {
    let dir = place.beside("layout");
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let hex = hex(bytes);
        fs::write(dir.join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("sha256:{}", layer.tar_sha256))
        .collect();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let media_type = |what: &str| format!("application/vnd.oci.image.{what}");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type("manifest.v1+json"),
        "config": put(&media_type("config.v1+json"), config.to_string().as_bytes()),
        "layers": layers
            .iter()
            .map(|layer| put(&media_type("layer.v1.tar+gzip"), &layer.gzip))
            .collect::<Vec<_>>(),
    });
    let mut entry = put(
        &media_type("manifest.v1+json"),
        manifest.to_string().as_bytes(),
    );
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "big"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let from = format!("oci:{}:big", dir.display());
    run(skopeo_copy(place).args(["--dest-tls-verify=false", &from, image]))?;
    place.remove("layout");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn skopeo_copy(place: &Place) -> Command {
    let mut command = Command::new("skopeo");
    // Credentials would be looked for in a directory that another user's podman may have made unreadable.
    command.env("XDG_RUNTIME_DIR", place.beside(""));
    command.args(["--insecure-policy", "copy"]);
    command
}

/// The same with two programs: the image as an OCI layout, then as a directory.
fn skopeo_and_umoci(place: &Place, image: &str) -> Measured<Duration> {
    let to = format!("{}:big", place.beside("copy").display());
    let mut copy = skopeo_copy(place);
    let copied = run(copy.args(["--src-tls-verify=false", image, &format!("oci:{to}")]))?;
    let mut umoci = Command::new("umoci");
    let unpack = umoci.args(["unpack", "--rootless", "--image", &to]);
    let unpacked = run(unpack.arg(place.beside("bundle")))?;
    Ok(copied + unpacked)
}

/// Debian's docker-registry, with a directory of its own.
pub(crate) struct Registry {
    pub(crate) port: u16,
    child: Child,
}

impl Registry {
    pub(crate) fn start(place: &Place) -> Measured<Self> {
        let config = place.beside("registry.yml");
        fs::write(&config, configuration(&place.beside("registry"))).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| {
            format!("there is no docker-registry: install docker-registry ({error})")
        })?;
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = log.find_map(|line| {
            let line = line.ok()?;
            let (_, port) = line.split_once("listening on 127.0.0.1:")?;
            port.split('"').next()?.parse().ok()
        });
        // What it goes on to say must be read, or it waits.
        std::thread::spawn(move || log.for_each(drop));
        let this = Self {
            port: port.unwrap_or_default(),
            child,
        };
        match port {
            Some(_) => Ok(this),
            None => Err("docker-registry did not start".to_owned()),
        }
    }
}

fn configuration(dir: &Path) -> String {
    format!(
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {dir:?}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
