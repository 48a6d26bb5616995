//! A registry of image layouts that gives layers only to those who ask for two at a time.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use super::http;
use super::http::Answer;
use super::http::Request;

/// Whoever comes alone is refused then. Nobody who does as is wanted waits as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers until the test process ends.
pub(crate) struct Hesitant {
    port: u16,
    dir: PathBuf,
}

impl Hesitant {
    /// Serves the layouts in a directory, each by its name and any tag.
    pub(crate) fn start(dir: &Path) -> Self {
        let meeting = Arc::new(Meeting::default());
        let from = dir.to_owned();
        let port = http::serve(move |request| answer(&request, &from, &meeting));
        Self {
            port,
            dir: dir.to_owned(),
        }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The layers of an image, `sha256:…`.
    pub(crate) fn layers(&self, name: &str) -> Vec<String> {
        layers(&manifest(&self.dir.join(name)))
    }
}

/// Two at a time.
#[derive(Default)]
struct Meeting {
    come: Mutex<usize>,
    bell: Condvar,
}

impl Meeting {
    /// Waits for another; whether one came.
    fn meet(&self) -> bool {
        let mut come = self.come.lock().unwrap();
        *come += 1;
        let both = come.next_multiple_of(2);
        self.bell.notify_all();
        let waited = self
            .bell
            .wait_timeout_while(come, PATIENCE, |come| *come < both);
        !waited.unwrap().1.timed_out()
    }
}

fn blob(layout: &Path, digest: &str) -> Option<Vec<u8>> {
    fs::read(layout.join("blobs").join(digest.replace(':', "/"))).ok()
}

/// The bytes of the only image's manifest.
fn manifest(layout: &Path) -> Vec<u8> {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    blob(layout, digest).unwrap()
}

fn layers(manifest: &[u8]) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let digests = layers.map(|layer| layer["digest"].as_str().unwrap().to_owned());
    digests.collect()
}

fn answer(request: &Request, dir: &Path, meeting: &Meeting) -> Answer {
    const MANIFEST: &str = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json";
    const GONE: Answer = ("404 Not Found", Vec::new());
    let words: Vec<&str> = request.target.split('/').collect();
    match words[..] {
        ["", "v2", name, "manifests", _] => (MANIFEST, manifest(&dir.join(name))),
        ["", "v2", name, "blobs", digest] => {
            let layout = dir.join(name);
            let is_layer = layers(&manifest(&layout)).iter().any(|own| own == digest);
            match blob(&layout, digest) {
                Some(bytes) if !is_layer || meeting.meet() => ("200 OK", bytes),
                _ => GONE,
            }
        }
        _ => GONE,
    }
}
