//! One build for several platforms, on a base that is an index, as skopeo reads what comes out.

use std::fs;

use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::support::Base;
use crate::support::Image;
use crate::support::Registry;
use crate::support::TestEnv;

const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Pushes an index of two images to a registry of its own: busybox, and what umoci makes of it for arm64, with a layer
/// that only it has. Its entries say what they are for if it is `declared`.
pub(crate) fn multi_platform_base(env: &TestEnv, registry: &Registry, declared: bool) {
    let dir = env.outside("base");
    let path = dir.to_str().unwrap();
    Base::Busybox.copy_to(&format!("oci:{path}:amd64"));
    let (amd64, arm64) = (format!("{path}:amd64"), format!("{path}:arm64"));
    let umoci = |args: &[&str]| env.tool("umoci", args).success();
    let only = env.outside("only");
    fs::write(&only, "").unwrap();
    umoci(&["tag", "--image", &amd64, "arm64"]);
    umoci(&[
        "insert",
        "--rootless",
        "--image",
        &arm64,
        only.to_str().unwrap(),
        "/only",
    ]);
    umoci(&[
        "config",
        "--image",
        &arm64,
        "--architecture",
        "arm64",
        "--config.env",
        "BASE=arm64",
    ]);

    let index = fs::read(dir.join("index.json")).unwrap();
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    for entry in index["manifests"].as_array_mut().unwrap() {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"].take();
        if declared {
            entry["platform"] = json!({ "os": "linux", "architecture": name });
        }
        entry.as_object_mut().unwrap().remove("annotations");
    }
    index["mediaType"] = INDEX.into();
    let bytes = index.to_string();
    let hex: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::write(dir.join("blobs/sha256").join(&hex), &bytes).unwrap();
    let top = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": INDEX,
            "digest": format!("sha256:{hex}"),
            "size": bytes.len(),
            "annotations": { "org.opencontainers.image.ref.name": "all" },
        }],
    });
    fs::write(dir.join("index.json"), top.to_string()).unwrap();
    let to = format!("docker://{}/base:1", registry.host());
    let from = format!("oci:{path}:all");
    let insecure = "--dest-tls-verify=false";
    env.tool("skopeo", ["copy", "--quiet", "--all", insecure, &from, &to])
        .success();
}

#[test]
fn each_platform_has_its_own_base_and_files() {
    let registry = Registry::start();
    let env = TestEnv::new().file("amd64", "one").file("arm64", "other");
    multi_platform_base(&env, &registry, true);
    let base = format!("{}/base:1", registry.host());
    env.write(
        "Dockerfile",
        format!("FROM {base}\nARG TARGETARCH\nCOPY $TARGETARCH /which\nENV BUILT=$TARGETARCH\n"),
    );
    let platforms = "--platform=linux/arm64,linux/amd64";
    env.rbuild([platforms, "-t", "app:1", "-o", "type=oci,dest=out.tar", "."])
        .success();

    let raw = env
        .tool("skopeo", ["inspect", "--raw", "oci-archive:out.tar"])
        .success();
    let index: Value = serde_json::from_str(&raw.stdout).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    let found: Vec<&Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| &manifest["platform"])
        .collect();
    let wanted = ["arm64", "amd64"].map(|arch| json!({ "architecture": arch, "os": "linux" }));
    assert_eq!(found, wanted.iter().collect::<Vec<_>>());

    for arch in ARCHITECTURES {
        let chosen = format!("--override-arch={arch}");
        let config = env
            .tool(
                "skopeo",
                [&chosen, "inspect", "--config", "oci-archive:out.tar"],
            )
            .success();
        let config: Value = serde_json::from_str(&config.stdout).unwrap();
        assert_eq!(
            (&config["architecture"], &config["os"]),
            (&json!(arch), &json!("linux"))
        );
        let variables = config["config"]["Env"].to_string();
        assert!(variables.contains(&format!("BUILT={arch}")), "{variables}");
        assert_eq!(
            variables.contains("BASE=arm64"),
            arch == "arm64",
            "{variables}"
        );

        let dir = env.outside(&format!("images-{arch}"));
        let one = |from: &str, name: &str| {
            let dir = dir.join(name);
            let to = format!("oci:{}:1", dir.display());
            let insecure = "--src-tls-verify=false";
            env.tool("skopeo", [&chosen, "copy", "--quiet", insecure, from, &to])
                .success();
            Image::from_layout(&dir)
        };
        fs::create_dir(&dir).unwrap();
        let built = one("oci-archive:out.tar", "built");
        let base = one(&format!("docker://{base}"), "base");
        let (own, below) = (built.layers(), base.layers());
        assert_eq!(
            own[..own.len() - 1],
            below,
            "the base's layers, as they came"
        );
        assert_eq!(below.len(), if arch == "arm64" { 2 } else { 1 });
        let layer = built.layer_blob(-1);
        let content = env
            .tool("tar", ["-xOf", layer.to_str().unwrap(), "which"])
            .success();
        assert_eq!(
            content.stdout,
            if arch == "arm64" { "other" } else { "one" }
        );
    }

    // Built again, both come from the cache and are the same.
    let again = env
        .rbuild([
            "--progress=plain",
            platforms,
            "-o",
            "type=oci,dest=again.tar",
            ".",
        ])
        .success();
    assert_eq!(again.ran(), [""; 0], "{again}");
    let raw = env
        .tool("skopeo", ["inspect", "--raw", "oci-archive:again.tar"])
        .success();
    assert_eq!(serde_json::from_str::<Value>(&raw.stdout).unwrap(), index);
}
