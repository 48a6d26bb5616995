//! What registries are asked for, request by request. The paths are those of the OCI distribution-spec: a blob is pulled by
//! `GET name/blobs/digest` and looked for by HEAD, an upload starts with POST.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;

use crate::support::Base;
use crate::support::FileServer;
use crate::support::Image;
use crate::support::TestEnv;
use crate::support::Watched;

/// A registry with the image `base:1`, and a context to build on it.
struct Place {
    env: TestEnv,
    registry: Watched,
    /// What the digests of the base stand for.
    names: BTreeMap<String, &'static str>,
}

impl Place {
    /// With busybox as the base.
    fn new() -> Self {
        Self::with(|to| Base::Busybox.copy_to(to))
    }

    fn with(publish: impl FnOnce(&str)) -> Self {
        let registry = Watched::start();
        let behind = registry.registry().host();
        publish(&format!("docker://{behind}/base:1"));
        let env = TestEnv::new().file("a", "a\n");
        let image = format!("docker://{behind}/base:1");
        let inspect = ["inspect", "--raw", "--tls-verify=false", &image];
        let raw = env.tool("skopeo", inspect).success().stdout;
        let manifest: Value = serde_json::from_str(&raw).unwrap();
        let digest = |of: &Value| of["digest"].as_str().unwrap().to_owned();
        let mut names = BTreeMap::from([(digest(&manifest["config"]), "CONFIG")]);
        for layer in manifest["layers"].as_array().unwrap() {
            names.insert(digest(layer), "LAYER");
        }
        Self {
            env,
            registry,
            names,
        }
    }

    fn dockerfile(&self, below_from: &str) {
        let text = format!("FROM {}/base:1\n{below_from}", self.registry.host());
        self.env.write("Dockerfile", text);
    }

    fn layer(&self) -> &str {
        let mut names = self.names.iter();
        names.find(|(_, name)| **name == "LAYER").unwrap().0
    }

    /// A blob of the store.
    fn stored(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.env.store().join("v1/blobs/sha256");
        blobs.join(&hex[..2]).join(hex)
    }

    /// What was asked since the last time; digests that are not the base's are `NEW`.
    fn asked(&self) -> Vec<String> {
        let digest = regex::Regex::new("sha256(:|%3A)[0-9a-f]{64}").unwrap();
        let name = |found: &regex::Captures<'_>| {
            let digest = found[0].replace("%3A", ":");
            *self.names.get(&digest).unwrap_or(&"NEW")
        };
        let asked = self.registry.asked().into_iter();
        let mut asked: Vec<String> = asked
            .map(|line| digest.replace_all(&line, name).into_owned())
            .collect();
        // By the names, for what the digests are is chance.
        asked.sort();
        asked
    }

    fn build(&self, args: &[&str]) {
        self.env.rbuild([args, &["."]].concat()).success();
    }

    /// The manifest of an image in the registry.
    fn manifest(&self, name: &str) -> Value {
        let image = format!("docker://{}/{name}", self.registry.registry().host());
        let inspect = ["inspect", "--raw", "--tls-verify=false", &image];
        serde_json::from_str(&self.env.tool("skopeo", inspect).success().stdout).unwrap()
    }
}

/// Ways to build on a base without a look into it.
const UNSEEN: [&str; 3] = [
    "ENV A=b\n",
    "COPY --link a /srv/a\n",
    "COPY --link a /srv/a\nENV A=b\nCOPY --link a /srv/deep/b\n",
];

/// What a build asks that knows nothing of its base.
const PINNING: [&str; 2] = ["GET base/blobs/CONFIG", "GET base/manifests/1"];

#[test]
fn a_base_that_its_registry_can_mount_is_not_downloaded() {
    for below in UNSEEN {
        let place = Place::new();
        place.dockerfile(below);
        let name = format!("{}/app:1", place.registry.host());
        place.build(&["-t", &name, "--push"]);
        let asked = place.asked();
        let of_base: Vec<&str> = asked
            .iter()
            .map(String::as_str)
            .filter(|line| line.contains("LAYER") || line.contains(" base/"))
            .collect();
        let expected = [
            "GET base/blobs/CONFIG",
            "GET base/manifests/1",
            "HEAD app/blobs/LAYER",
            "POST app/blobs/uploads/?mount=LAYER&from=base",
        ];
        assert_eq!(of_base, expected, "{below}");
        let layers = place.manifest("app:1")["layers"].clone();
        assert_eq!(layers[0]["digest"], place.layer(), "{below}");
        let copy = format!("docker://{name}");
        let args = [
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &copy,
            "oci:../copy:1",
        ];
        place.env.tool("skopeo", args).success();

        // Once more: everything is there, and nothing is known of the base's files.
        place.asked();
        place.build(&["-t", &name, "--push"]);
        let asked = place.asked();
        let sent = |line: &&String| !line.starts_with("HEAD app/blobs/");
        let sent: Vec<&String> = asked.iter().filter(sent).collect();
        assert_eq!(sent, ["PUT app/manifests/1"], "{below}");
    }
}

#[test]
fn another_registry_gets_the_base_by_way_of_the_store() {
    let place = Place::new();
    place.dockerfile("ENV A=b\n");
    let other = Watched::start();
    let name = format!("{}/app:1", other.host());
    place.build(&["-t", &name, "--push"]);
    assert_eq!(
        place.asked(),
        [
            "GET base/blobs/CONFIG",
            "GET base/blobs/LAYER",
            "GET base/manifests/1"
        ]
    );
    let layer = place.layer();
    let put = |asked: Vec<String>| {
        let about = |line: &String| line.contains(layer) || line.contains("mount=");
        asked.into_iter().filter(about).collect::<Vec<_>>()
    };
    assert_eq!(put(other.asked()), [format!("HEAD app/blobs/{layer}")]);
    let copy = format!("docker://{name}");
    let args = [
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        &copy,
        "oci:../copy:1",
    ];
    place.env.tool("skopeo", args).success();
}

#[test]
fn what_is_put_on_an_unseen_base_is_what_is_put_on_a_known_one() {
    for below in UNSEEN {
        let unseen = Place::new();
        // COPY makes directories, now.
        let build = |args: &[&str]| {
            let mut command = unseen.env.rbuild_command([args, &["."]].concat());
            let epoch = command.env("SOURCE_DATE_EPOCH", "1000000000");
            unseen.env.run(epoch).success();
        };
        unseen.dockerfile(below);
        build(&["-o", "type=oci,dest=unseen.tar"]);
        let asked = unseen.asked();
        let expected = [PINNING[0], "GET base/blobs/LAYER", PINNING[1]];
        assert_eq!(asked, expected, "{below}");
        let first = Image::from_oci_tar(&unseen.env, "unseen.tar");

        // A step that sees the base's files makes them known.
        unseen.dockerfile("COPY a /seen\n");
        build(&["-t", "seen"]);
        unseen.dockerfile(below);
        build(&["-o", "type=oci,dest=known.tar", "--no-cache"]);
        assert_eq!(unseen.asked(), NOTHING, "{below}");
        let second = Image::from_oci_tar(&unseen.env, "known.tar");
        assert_eq!(
            first.manifest["layers"], second.manifest["layers"],
            "{below}"
        );
        assert_eq!(first.config["rootfs"], second.config["rootfs"], "{below}");
    }
}

/// An image whose only layer is compressed noise: whoever looks into it fails.
fn noise(to: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        cd "$1" && mkdir -p oci/blobs/sha256 && printf '{"imageLayoutVersion":"1.0.0"}' > oci/oci-layout
        put() { d=$(sha256sum < "$1" | cut -d' ' -f1); s=$(stat -c %s "$1"); mv "$1" oci/blobs/sha256/$d; }
        head -c 3000 /dev/urandom > noise
        diff=$(sha256sum < noise | cut -d' ' -f1)
        gzip -n noise && put noise.gz
        layer="{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:$d\",\"size\":$s}"
        printf '{"architecture":"%s","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$2" $diff > config
        put config
        printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' $d $s "$layer" > manifest
        put manifest
        printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}' $d $s > oci/index.json
    "#;
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let made = std::process::Command::new("/bin/sh")
        .args(["-ec", script, "sh"])
        .arg(dir.path())
        .arg(arch)
        .status();
    assert!(made.unwrap().success());
    crate::support::copy_image(&dir.path().join("oci"), to);
}

#[test]
fn a_base_is_unpacked_only_for_those_who_look_into_it() {
    let place = Place::with(noise);
    for below in UNSEEN {
        place.dockerfile(below);
        place.build(&["-o", "type=oci,dest=out.tar"]);
        place.build(&["-o", "type=docker,dest=docker.tar"]);
        let layers = Image::from_oci_tar(&place.env, "out.tar").manifest["layers"].clone();
        assert_eq!(layers[0]["digest"], place.layer(), "{below}");
    }
    // It came once, with the first of them.
    let asked = place.asked();
    let came = asked.iter().filter(|line| line.contains("LAYER"));
    assert_eq!(came.count(), 1, "{asked:?}");
    for (below, args) in [
        ("COPY a /srv/a\n", &["-o", "type=oci,dest=out.tar"][..]),
        ("ENV A=b\n", &["-t", "x"]),
        ("ENV A=b\n", &["-o", "type=tar,dest=out.tar"]),
        (
            "ENV A=b\n",
            &[
                "-o",
                "type=oci,dest=out.tar,compression=zstd,force-compression=true",
            ],
        ),
    ] {
        place.dockerfile(below);
        let output = place.env.rbuild([args, &["."]].concat());
        output.code(3).says("cannot read");
    }
}

#[test]
fn images_share_layers_that_come_once() {
    let place = Place::new();
    let behind = place.registry.registry().host();
    Base::Busybox.copy_to(&format!("docker://{behind}/twin:1"));
    let host = place.registry.host();
    place.env.write(
        "Dockerfile",
        format!(
            "FROM {host}/twin:1 AS twin\nRUN echo 1 > /one\nFROM {host}/base:1\nRUN echo 2 > /two\nCOPY --from=twin /one /\n"
        ),
    );
    place.build(&["-t", "x"]);
    let asked = place.asked();
    let came: Vec<_> = asked.iter().filter(|line| line.contains("LAYER")).collect();
    assert_eq!(came.len(), 1, "{asked:?}");
    // All is there now, also what only tests of other forms would need.
    place.build(&["-t", "x"]);
    place.build(&["-o", "type=oci,dest=out.tar"]);
    assert_eq!(place.asked(), NOTHING);
}

#[test]
fn a_layer_whose_blob_is_gone_comes_again_when_its_bytes_are_needed() {
    let place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    place.build(&["-t", "x"]);
    let layer = place.layer().to_owned();
    fs::remove_file(place.stored(&layer)).unwrap();
    place.asked();
    // Its tree is known, and nobody needs more.
    place.build(&["-t", "x"]);
    place.dockerfile("COPY a /srv/b\n");
    place.build(&["-t", "x", "--offline"]);
    assert_eq!(place.asked(), NOTHING);
    for below in ["COPY a /srv/b\n", "RUN true\n", "COPY a /srv/c\n"] {
        place.dockerfile(below);
        let args = ["--offline", "-o", "type=oci,dest=out.tar", "."];
        let output = place.env.rbuild(args).code(3);
        let text = output.says(&layer).says("--offline").stderr;
        assert!(text.contains("base:1"), "{text}");
        assert_eq!(place.asked(), NOTHING, "{below}");
    }
    place.build(&["-o", "type=oci,dest=out.tar"]);
    assert_eq!(place.asked(), ["GET base/blobs/LAYER"]);
}

/// Makes all that is remembered of tags older.
fn age_pins(place: &Place, seconds: u64) {
    let pins = fs::read_dir(place.env.store().join("v1/pins")).unwrap();
    let shards = pins.map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    for pin in shards.flatten() {
        let path = pin.unwrap().path();
        let mut pin: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        pin["checked"] = json!(pin["checked"].as_u64().unwrap() - seconds);
        fs::write(&path, pin.to_string()).unwrap();
    }
}

const HOUR: u64 = 3600;
const NOTHING: [&str; 0] = [];

#[test]
fn tags_are_asked_for_when_they_are_old_or_somebody_wants_it() {
    // How long ago, with which flags and settings, and what is asked.
    let cases: [(u64, &[&str], &str, &[&str]); 9] = [
        (0, &[], "", &NOTHING),
        (23 * HOUR, &[], "", &NOTHING),
        (25 * HOUR, &[], "", &PINNING),
        (0, &["--pull"], "", &PINNING),
        (25 * HOUR, &["--offline"], "", &NOTHING),
        (HOUR, &[], "tag-max-age = 0\n", &PINNING),
        (HOUR, &[], "tag-max-age = '30m'\n", &PINNING),
        (25 * HOUR, &[], "tag-max-age = '2d'\n", &NOTHING),
        (HOUR, &["--offline"], "tag-max-age = 0\n", &NOTHING),
    ];
    let place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    place.build(&["-t", "x"]);
    place.asked();
    for (age, args, settings, expected) in cases {
        place.build(&["-t", "x", "--pull"]);
        place.asked();
        age_pins(&place, age);
        let config = place.env.outside("home/.config/rbuild/config.toml");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(&config, settings).unwrap();
        place.build(&[&["-t", "x"], args].concat());
        assert_eq!(place.asked(), expected, "{age} s, {args:?}, {settings}");
        fs::remove_file(&config).unwrap();
    }
}

/// As after a clock that was ahead and was put right.
#[test]
fn a_tag_that_was_asked_for_in_the_future_is_asked_for() {
    let place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    place.build(&["-t", "x"]);
    place.asked();
    let pins = fs::read_dir(place.env.store().join("v1/pins")).unwrap();
    let shards = pins.map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    for pin in shards.flatten() {
        let path = pin.unwrap().path();
        let mut pin: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        pin["checked"] = json!(9_000_000_000_u64);
        fs::write(&path, pin.to_string()).unwrap();
    }
    place.build(&["-t", "x"]);
    assert_eq!(place.asked(), PINNING);
    place.build(&["-t", "x"]);
    assert_eq!(place.asked(), NOTHING);
}

#[test]
fn a_registry_in_trouble_fails_no_build_that_has_an_older_answer() {
    let mut place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    place.build(&["-t", "x"]);
    age_pins(&place, 50 * HOUR);
    let again = |args: &[&str]| place.env.rbuild([&["-t", "x"], args, &["."]].concat());
    let image = format!("{}/base:1", place.registry.host());
    let old = format!("`{image}` is taken as it was 2 days ago: ");
    for trouble in [
        "429 Too Many Requests\r\nRetry-After: 0",
        "500 Internal Server Error\r\nRetry-After: 0",
        "503 Service Unavailable\r\nRetry-After: 0",
    ] {
        place.registry.refuse(move |_| Some(trouble));
        place.asked();
        let output = again(&[]).success().says(&old);
        assert!(!output.stderr.contains("why:"), "{}", output.stderr);
        // Who has an answer already is not kept waiting for another.
        assert_eq!(place.asked(), [PINNING[1]], "{trouble}");
        let run = ["run", &image, "true"];
        place.env.rbuild(run).success().says(&old);
        again(&["--pull"]).code(3);
    }
    // That it is gone, or not for everybody, is an answer.
    for answer in ["404 Not Found", "403 Forbidden"] {
        place.registry.refuse(move |_| Some(answer));
        again(&[]).code(3).says(&image);
    }
    // What is not in the store whole is no older answer.
    let config = place.names.iter().find(|(_, name)| **name == "CONFIG");
    let config = place.stored(config.unwrap().0);
    let kept = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    place
        .registry
        .refuse(|_| Some("503 Service Unavailable\r\nRetry-After: 0"));
    again(&[]).code(3).says("answered 503");
    fs::write(&config, kept).unwrap();

    place.registry.end();
    place.registry.refuse_nothing();
    let output = place.env.rbuild(["-t", "x", "."]).success().says(&old);
    output.says("cannot be reached");
}

#[test]
fn progress_tells_the_age_of_a_tag_that_nobody_was_asked_for() {
    let place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    place.build(&["-t", "x"]);
    let image = format!("{}/base:1", place.registry.host());
    let told = format!("resolve {image}, 5 hours ago done");
    let told_by = |args: &[&str]| {
        let output = place.env.rbuild([&["-t", "x"], args, &["."]].concat());
        let text = output.success().stderr;
        text.contains(&told)
    };
    assert!(!told_by(&[]));
    age_pins(&place, 5 * HOUR);
    assert!(told_by(&[]));
    assert!(told_by(&["--offline"]));
    // With a step that must run, too.
    place.dockerfile("COPY a /srv/b\n");
    assert!(told_by(&[]));
    // Before a build and after it, for people and for programs.
    let said = |args: &[&str]| place.env.rbuild(args).success().stdout;
    let asked = |shown: &str| {
        let shown: serde_json::Value = serde_json::from_str(shown).unwrap();
        let steps = shown["steps"].as_array().unwrap().iter();
        let asked = steps.filter_map(|step| match &step["source"] {
            serde_json::Value::Null => step["asked"].as_str(),
            source => source["asked"].as_str(),
        });
        asked.map(str::to_owned).collect::<Vec<_>>()
    };
    let age = "its tag as it was 5 hours ago";
    let plan = said(&["plan", "."]);
    assert!(plan.contains(&format!("({age})")), "{plan}");
    let explained = said(&["explain", "base:1"]);
    assert!(explained.contains(age), "{explained}");
    let planned = asked(&said(&["plan", "--format=json", "."]));
    assert_eq!(planned.len(), 1);
    assert_eq!(asked(&said(&["explain", "--format=json"])), planned);
    assert!(!told_by(&["--pull"]));
    let plan = said(&["plan", "."]);
    assert!(!plan.contains("its tag"), "{plan}");
    assert!(!told_by(&[]));
}

#[test]
fn what_is_named_by_digest_is_asked_for_once() {
    let place = Place::new();
    let inspect = format!("docker://{}/base:1", place.registry.registry().host());
    let args = [
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &inspect,
    ];
    let digest = place.env.tool("skopeo", args).success().stdout;
    let text = format!(
        "FROM {}/base@{}\nCOPY a /srv/a\n",
        place.registry.host(),
        digest.trim()
    );
    place.env.write("Dockerfile", text);
    place.build(&["-t", "x"]);
    let first = place.asked();
    assert_eq!(first.len(), 3, "{first:?}");
    for (age, args) in [
        (0, &[][..]),
        (25 * HOUR, &[]),
        (25 * HOUR, &["--pull"]),
        (25 * HOUR, &["--offline"]),
    ] {
        age_pins(&place, age);
        place.build(&[&["-t", "x"], args].concat());
        assert_eq!(place.asked(), NOTHING, "{age} s, {args:?}");
    }
}

#[test]
fn what_the_lock_has_is_not_asked_for() {
    let place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    place.env.rbuild(["lock"]).success();
    place.build(&["-t", "x"]);
    place.asked();
    for args in [&[][..], &["--pull"], &["--offline"], &["--locked"]] {
        place.build(&[&["-t", "x"], args].concat());
        assert_eq!(place.asked(), NOTHING, "{args:?}");
    }
}

#[test]
fn offline_says_what_is_missing() {
    let place = Place::new();
    place.dockerfile("COPY a /srv/a\n");
    let output = place.env.rbuild(["--offline", "-t", "x", "."]).code(3);
    let image = format!("{}/base:1", place.registry.host());
    output.says(&image).says("--offline").says("Dockerfile:1:");
    assert_eq!(place.asked(), NOTHING);
}

/// A foreign layer (OCI image-spec, layer.md, Non-Distributable Layers) says where it is besides the registry. That may
/// be another thing by now, such as a page that says where things have moved to.
#[test]
fn a_layer_whose_url_gives_something_else_comes_from_the_registry() {
    let env = TestEnv::new();
    let layout = env.outside("layout");
    Base::Busybox.copy_to(&format!("oci:{}:1", layout.display()));
    let json =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = json(layout.join("index.json"));
    let digest = |of: &Value| of["digest"].as_str().unwrap().to_owned();
    let blob = |digest: &str| layout.join("blobs/sha256").join(&digest["sha256:".len()..]);
    let mut manifest = json(blob(&digest(&index["manifests"][0])));

    // Files where a registry would have them.
    let served = env.outside("served");
    let base = served.join("v2/base");
    fs::create_dir_all(base.join("manifests")).unwrap();
    fs::create_dir_all(base.join("blobs")).unwrap();
    let server = FileServer::start(served.clone());
    let layer = digest(&manifest["layers"][0]);
    for digest in [&layer, &digest(&manifest["config"])] {
        fs::copy(blob(digest), base.join("blobs").join(digest)).unwrap();
    }
    let size = manifest["layers"][0]["size"].as_u64().unwrap();
    for (page, length) in [("long", size), ("short", 100)] {
        let mut html = b"<html>moved</html>".to_vec();
        html.resize(length as usize, b' ');
        fs::write(served.join(page), html).unwrap();
        manifest["layers"][0]["urls"] = json!([server.url(page)]);
        manifest["annotations"] = json!({ "page": page });
        fs::write(base.join("manifests").join(page), manifest.to_string()).unwrap();
        let image = server.url(&format!("base:{page}"));
        let image = image.strip_prefix("http://").unwrap();
        env.rbuild(["reset", "-f"]).success();
        server.asked();
        env.rbuild(["pull", image]).success();
        let run = env.rbuild(["run", image, "echo", "it runs"]).success();
        assert_eq!(run.stdout, "it runs\n");
        let blobs: Vec<String> = server.asked();
        let got = |path: &str| blobs.contains(&format!("GET {path} 200"));
        assert!(got(&format!("/{page}")), "{blobs:?}");
        assert!(got(&format!("/v2/base/blobs/{layer}")), "{blobs:?}");
    }
}
