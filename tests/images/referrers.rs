//! Signatures and lists of what is in an image: to and from registries that know nothing of them, as skopeo sees it.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use serde_json::json;

use super::archives::elsewhere;
use super::digest_by_skopeo;
use super::parsed;
use super::sha256;
use super::skopeo;
use crate::support::Base;
use crate::support::Registry;
use crate::support::TestEnv;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SBOM: &str = "application/spdx+json";

/// Documents that are made by hand, with what they are made of, by digest.
#[derive(Default)]
struct Made {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

impl Made {
    fn blob(&mut self, media_type: &str, text: &str) -> Value {
        let entry = descriptor(media_type, text.as_bytes());
        self.blobs.insert(sha256(text.as_bytes()), text.into());
        entry
    }

    /// A manifest about another, as the distribution-spec's lists have it.
    fn about(&mut self, subject: &Value, kind: &str, text: &str) -> Value {
        let config = self.blob("application/vnd.oci.empty.v1+json", "{}");
        let layer = self.blob(kind, text);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config, "layers": [layer],
            "subject": subject, "annotations": {"text": text},
        });
        let bytes = manifest.to_string().into_bytes();
        let mut entry = descriptor(MANIFEST, &bytes);
        self.manifests.insert(sha256(&bytes), bytes);
        entry["artifactType"] = json!(kind);
        entry["annotations"] = json!({"text": text});
        entry
    }

    /// Puts all of it into a registry, and a list where the specification wants it if there is no API.
    fn publish(&self, env: &TestEnv, repository: &str, subject: &str, entries: &[Value]) {
        let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        let (host, repository) = repository.split_once('/').unwrap();
        let url = format!("http://{host}/v2/{repository}");
        let put = |to: &str, media_type: &str, bytes: &[u8]| {
            let file = env.outside("sent");
            fs::write(&file, bytes).unwrap();
            let (kind, file) = (
                format!("Content-Type: {media_type}"),
                format!("@{}", file.display()),
            );
            let args = ["-sSf", "-X", "PUT", "-H", &kind, "--data-binary", &file, to];
            env.tool("curl", args).success();
        };
        for (digest, bytes) in &self.blobs {
            let begin = format!("{url}/blobs/uploads/");
            let args = ["-sSf", "-X", "POST", "-o", "/dev/null", "-D", "-", &begin];
            let head = env.tool("curl", args).success().stdout;
            let place = head
                .lines()
                .find_map(|line| line.strip_prefix("Location: "));
            let to = format!("{}&digest={digest}", place.unwrap().trim());
            put(&to, "application/octet-stream", bytes);
        }
        for (digest, bytes) in &self.manifests {
            put(&format!("{url}/manifests/{digest}"), MANIFEST, bytes);
        }
        let tag = subject.replace(':', "-");
        put(
            &format!("{url}/manifests/{tag}"),
            INDEX,
            list.to_string().as_bytes(),
        );
    }
}

/// What a registry lists under the tag of a digest, as skopeo reads it.
fn list(env: &TestEnv, repository: &str, subject: &str) -> Value {
    let place = format!("docker://{repository}:{}", subject.replace(':', "-"));
    let raw = skopeo(env, &["inspect", "--raw", "--tls-verify=false", &place]);
    parsed(&raw.success().stdout)["manifests"].take()
}

#[test]
fn what_is_about_an_image_goes_along_with_it() {
    let (from, to) = (Registry::start(), Registry::start());
    let env = TestEnv::new();
    let (here, there) = (
        format!("{}/me/box", from.host()),
        format!("{}/you/box", to.host()),
    );
    Base::Busybox.copy_to(&format!("docker://{here}:1"));
    let name = format!("{here}:1");
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    let raw = skopeo(
        &env,
        &[
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ],
    );
    let size = raw.success().stdout.len();
    let image = json!({"mediaType": MANIFEST, "digest": digest, "size": size});

    // Two are about the image, and one is about the first of them.
    let mut of_image = Made::default();
    let sbom = of_image.about(&image, SBOM, "what is in it");
    let signature = of_image.about(&image, "application/x-signature", "signed");
    of_image.publish(&env, &here, &digest, &[sbom.clone(), signature.clone()]);
    let mut of_sbom = Made::default();
    let signed = of_sbom.about(&sbom, "application/x-signature", "signed, too");
    let sbom_digest = sbom["digest"].as_str().unwrap();
    of_sbom.publish(&env, &here, sbom_digest, std::slice::from_ref(&signed));
    // Somebody else has said something at the other place already.
    let mut theirs = Made::default();
    let earlier = theirs.about(&image, "application/x-note", "theirs");
    theirs.publish(&env, &there, &digest, std::slice::from_ref(&earlier));

    let asked = |flags: &[&str]| {
        let command = [&["inspect", "--referrers"], flags, &[&name]].concat();
        parsed(&env.rbuild(command).success().stdout)
    };
    let shown = |entry: &Value| {
        json!({
            "Image": name, "Subject": digest, "Digest": entry["digest"], "MediaType": MANIFEST,
            "ArtifactType": entry["artifactType"], "Size": entry["size"], "Annotations": entry["annotations"],
        })
    };
    assert_eq!(asked(&[]), json!([shown(&sbom), shown(&signature)]));
    assert_eq!(asked(&["--artifact-type", SBOM]), json!([shown(&sbom)]));
    assert_eq!(asked(&["--artifact-type=none"]), json!([]));
    let format = ["inspect", "--referrers", "-f", "{{.ArtifactType}}", &name];
    let types = env.rbuild(format).success().stdout;
    assert_eq!(types, format!("{SBOM}\napplication/x-signature\n"));
    env.rbuild(["inspect", &name]).code(2);

    let pulled = env.rbuild(["pull", "--referrers", &name]).success();
    pulled.says("and 3 documents about it");
    // It stays with the image, under another name and when that is pulled anew, and no collection takes it.
    env.rbuild(["pull", "-q", &name]).success();
    let copy = format!("{there}:2");
    env.rbuild(["tag", &name, &copy]).success();
    env.rbuild(["rmi", &name]).success();
    env.rbuild(["prune", "--all", "--force"]).success();
    env.rbuild(["debug", "fsck"]).success();
    drop(from);
    env.rbuild(["push", "-q", &copy]).success();
    assert_eq!(list(&env, &there, &digest), json!([earlier]));
    for _ in 0..2 {
        let pushed = env.rbuild(["push", "--referrers", &copy]).success();
        let pushed = pushed.says("and 3 documents about it");
        assert_eq!(pushed.stdout, format!("{copy}@{digest}\n"));
        let mut listed = list(&env, &there, &digest);
        let (first, ours) = listed.as_array_mut().unwrap().split_first_mut().unwrap();
        assert_eq!(*first, earlier);
        ours.sort_by_key(|entry| entry["annotations"]["text"].to_string());
        assert_eq!(json!(ours), json!([signature, sbom]));
        assert_eq!(list(&env, &there, sbom_digest), json!([signed]));
    }
    // All of it is there, bytes too.
    let url = format!("http://{}/v2/you/box", to.host());
    let accept = format!("Accept: {MANIFEST}");
    let got = |path: &str| {
        let url = format!("{url}/{path}");
        env.tool("curl", ["-sSf", "-H", &accept, &url]).success()
    };
    for document in [&sbom, &signature, &signed] {
        let digest = document["digest"].as_str().unwrap();
        let manifest = got(&format!("manifests/{digest}")).stdout;
        assert_eq!(sha256(manifest.as_bytes()), digest);
        let text = document["annotations"]["text"].as_str().unwrap();
        let blob = got(&format!("blobs/{}", sha256(text.as_bytes())));
        assert_eq!(blob.stdout, text);
    }

    // What is listed and is not there is an error, and the image keeps what it had.
    let blobs = to
        .data()
        .join("docker/registry/v2/repositories/you/box/_manifests/revisions/sha256");
    fs::remove_dir_all(blobs.join(&sbom_digest["sha256:".len()..])).unwrap();
    let other = elsewhere();
    other
        .rbuild(["pull", "--referrers", &copy])
        .code(3)
        .says("has no `");
    other.rbuild(["pull", &copy]).success();
}

#[test]
fn an_image_without_any_is_an_image() {
    let registry = Registry::start();
    Base::Busybox.copy_to(&format!("docker://{}/me/box:1", registry.host()));
    let env = TestEnv::new();
    let name = format!("{}/me/box:1", registry.host());
    let asked = env.rbuild(["inspect", "--referrers", &name]).success();
    assert_eq!(asked.stdout, "[]\n");
    let pulled = env.rbuild(["pull", "--referrers", &name]).success();
    pulled.says("and nothing is known to be about it");
    env.rbuild(["push", "--referrers", &name]).success();
    env.rbuild([
        "inspect",
        "--referrers",
        &format!("{}/me/none", registry.host()),
    ])
    .code(3)
    .says("has no `");
    env.rbuild(["inspect", "--artifact-type=x", &name]).code(2);
}
