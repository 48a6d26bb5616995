//! `save` and `load`.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use super::built;
use super::digest_by_skopeo;
use super::id_by_skopeo;
use super::inspect;
use super::listed;
use super::parsed;
use super::sha256;
use super::skopeo;
use crate::support::Base;
use crate::support::Dockerd;
use crate::support::Output;
use crate::support::TestEnv;

pub(super) fn load(env: &TestEnv, file: &str) -> Output {
    env.rbuild(["load", "-q", "-i", file])
}

/// Another store, with nothing in it.
pub(super) fn elsewhere() -> TestEnv {
    TestEnv::new()
}

#[test]
fn what_is_saved_is_read_by_others_and_comes_back() {
    let env = built();
    env.rbuild(["tag", "app:1", "example.org/other:2"])
        .success();
    env.write("empty/Dockerfile", "FROM scratch\nCOPY note /\n");
    env.write("empty/note", "two");
    env.rbuild(["-t", "small", "empty"]).success();
    let app = inspect(&env, "app:1");
    let names = ["app:1", "example.org/other:2", "small"];
    for (format, transport) in [("docker", "docker-archive"), ("oci", "oci-archive")] {
        let file = format!("{format}.tar");
        let save = ["save", "-o", &file, "--format", format];
        env.rbuild(save.iter().chain(&names)).success();
        for name in ["app:1", "small:latest"] {
            let place = match format {
                "docker" => format!("{transport}:{file}:{name}"),
                // As podman's archives have it, so that tags are not ambiguous.
                _ => format!("{transport}:{file}:docker.io/library/{name}"),
            };
            assert_eq!(id_by_skopeo(&env, &place), inspect(&env, name)["Id"]);
        }
        let other = elsewhere();
        fs::copy(env.path(&file), other.path("in.tar")).unwrap();
        let loaded = load(&other, "in.tar").success().stdout;
        let mut lines: Vec<&str> = loaded.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "Loaded image: app:1",
                "Loaded image: example.org/other:2",
                "Loaded image: small:latest"
            ]
        );
        let back = inspect(&other, "app:1");
        for field in ["Id", "Config", "RootFS", "Descriptor", "RepoTags", "Size"] {
            assert_eq!(back[field], app[field], "{field}");
        }
        let run = other.rbuild(["run", "app:1"]).success();
        assert_eq!(run.stdout, "hello\n");
        let run = other.rbuild(["run", "-u", "app", "app:1", "cat", "/secret"]);
        assert_eq!(run.success().stdout, "secret\n");
    }
    // One image with two names that have one tag.
    env.rbuild(["tag", "small", "example.org/small"]).success();
    let names = ["small", "example.org/small"];
    let save = ["save", "--format=oci", "-o", "tags.tar"];
    env.rbuild(save.iter().chain(&names)).success();
    for name in ["docker.io/library/small:latest", "example.org/small:latest"] {
        let place = format!("oci-archive:tags.tar:{name}");
        assert_eq!(id_by_skopeo(&env, &place), inspect(&env, "small")["Id"]);
    }
    // One image of an OCI archive is found without a name.
    env.rbuild(["save", "--format=oci", "-o", "one.tar", "app:1"])
        .success();
    assert_eq!(
        digest_by_skopeo(&env, "oci-archive:one.tar"),
        app["Descriptor"]["digest"]
    );
    env.tool("podman", ["load", "-q", "-i", "docker.tar"])
        .success();
    let ran = env.tool("podman", ["run", "--rm", "--network=host", "app:1"]);
    assert_eq!(ran.success().stdout, "hello\n");
    for name in ["app:1", "example.org/other:2", "small"] {
        let id = env.tool("podman", ["image", "inspect", "--format={{.Id}}", name]);
        let id = format!("sha256:{}", id.success().stdout.trim());
        assert_eq!(id, inspect(&env, name)["Id"]);
    }
}

#[test]
fn archives_of_others_are_loaded() {
    let env = TestEnv::new();
    let layout = Base::Busybox.layout();
    let from = format!("oci:{}:latest", layout.display());
    let id = id_by_skopeo(&env, &from);
    let copy = |to: &str| skopeo(&env, &["copy", "-q", &from, to]).success();
    copy("docker-archive:skopeo.tar:example.org/box:1");
    copy("oci-archive:oci.tar:example.org/box:2");
    copy("oci-archive:tag.tar:latest");
    for (name, command) in [("gz", "gzip"), ("zst", "zstd"), ("xz", "xz")] {
        let packed = env.tool(
            command,
            [
                "-k",
                "-f",
                "skopeo.tar",
                if command == "gzip" { "-n" } else { "-q" },
            ],
        );
        packed.success();
        assert!(env.path(&format!("skopeo.tar.{name}")).exists());
    }
    for (file, want) in [
        ("skopeo.tar", "Loaded image: example.org/box:1\n"),
        ("skopeo.tar.gz", "Loaded image: example.org/box:1\n"),
        ("skopeo.tar.zst", "Loaded image: example.org/box:1\n"),
        ("skopeo.tar.xz", "Loaded image: example.org/box:1\n"),
        ("oci.tar", "Loaded image: example.org/box:2\n"),
        ("tag.tar", &format!("Loaded image ID: {id}\n")),
    ] {
        let other = elsewhere();
        let input = File::open(env.path(file)).unwrap();
        let mut command = other.rbuild_command(["load", "-q"]);
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let loaded = other.finished(command.spawn().unwrap()).success();
        assert_eq!(loaded.stdout, want, "{file}");
        // The config of docker's archives is one that skopeo wrote anew.
        let found = other.rbuild(["images", "-q", "--no-trunc"]).success();
        let want = match file.starts_with("skopeo") {
            true => id_by_skopeo(&env, "docker-archive:skopeo.tar"),
            false => id.clone(),
        };
        assert_eq!(found.stdout.trim(), want, "{file}");
        let run = other.rbuild(["run", &want["sha256:".len()..][..12], "echo", "it runs"]);
        assert_eq!(run.success().stdout, "it runs\n", "{file}");
    }
}

#[test]
fn what_dockerd_saves_and_umoci_repacks_is_loaded() {
    let env = built();
    let docker = Dockerd::start(&env);
    env.rbuild(["save", "-o", "app.tar", "app:1"]).success();
    let load = ["load", "--quiet", "--input", "app.tar"];
    docker.client(&env, load).success();
    let save = ["save", "--output", "saved.tar", "app:1"];
    docker.client(&env, save).success();
    for (command, format) in [
        ("inspect", "{{.Config.ExposedPorts}} {{.Config.Volumes}}"),
        (
            "inspect",
            "{{.Config.Healthcheck}} {{json .Config.Healthcheck}}",
        ),
        ("inspect", "{{.Created}} {{.RepoTags}} {{.RepoDigests}}"),
        (
            "history",
            "table {{upper .Comment}}\t{{.ID}}\t{{.CreatedAt}}",
        ),
        ("history", "{{.CreatedAt}} {{.CreatedBy}}"),
    ] {
        let ours = env.rbuild([command, "--format", format, "app:1"]);
        let theirs = docker.client(&env, ["image", command, "--format", format, "app:1"]);
        assert_eq!(
            ours.success().stdout,
            theirs.success().stdout,
            "{command} {format}"
        );
    }
    let app = inspect(&env, "app:1");
    let other = elsewhere();
    fs::copy(env.path("saved.tar"), other.path("in.tar")).unwrap();
    let loaded = self::load(&other, "in.tar").success().stdout;
    assert_eq!(loaded, "Loaded image: app:1\n");
    let back = inspect(&other, "app:1");
    for field in ["Id", "Config", "RootFS"] {
        assert_eq!(back[field], app[field], "{field}");
    }
    let run = other.rbuild(["run", "app:1"]).success();
    assert_eq!(run.stdout, "hello\n");

    env.rbuild(["-o", "type=oci,tar=false,dest=layout", "."])
        .success();
    let id = id_by_skopeo(&env, "oci:layout");
    skopeo(&env, &["copy", "-q", "oci:layout", "oci:box:latest"]).success();
    let umoci = |args: &[&str]| env.tool("umoci", args).success();
    umoci(&["unpack", "--rootless", "--image=box:latest", "bundle"]);
    fs::write(env.path("bundle/rootfs/note"), "changed\n").unwrap();
    fs::remove_file(env.path("bundle/rootfs/secret")).unwrap();
    umoci(&["repack", "--image=box:latest", "bundle"]);
    let repacked = id_by_skopeo(&env, "oci:box:latest");
    assert_ne!(repacked, id);
    let copy = [
        "copy",
        "-q",
        "oci:box:latest",
        "oci-archive:box.tar:example.org/box:1",
    ];
    skopeo(&env, &copy).success();
    let other = elsewhere();
    fs::copy(env.path("box.tar"), other.path("in.tar")).unwrap();
    let loaded = self::load(&other, "in.tar").success().stdout;
    assert_eq!(loaded, "Loaded image: example.org/box:1\n");
    assert_eq!(inspect(&other, "example.org/box:1")["Id"], repacked);
    let look = [
        "run",
        "example.org/box:1",
        "sh",
        "-c",
        "cat /note; ls /secret",
    ];
    let run = other.rbuild(look).code(1);
    assert_eq!(run.stdout, "changed\n");
}

/// As docker's image-spec v1.2 has it: a directory a layer with `VERSION`, `json` and `layer.tar`; the second one's is the
/// same as the first's, and a link to it, as docker wrote such.
fn old_archive(env: &TestEnv, change: impl Fn(&mut Value, &mut Value)) -> String {
    let dir = env.outside("old");
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(dir.join("aaaa")).unwrap();
    fs::create_dir_all(dir.join("bbbb")).unwrap();
    env.write("rootfs/hello", "hello\n");
    let layer = dir.join("aaaa/layer.tar");
    let tar = [
        "-C",
        "rootfs",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "-cf",
        layer.to_str().unwrap(),
        "hello",
    ];
    env.tool("tar", tar).success();
    std::os::unix::fs::symlink("../aaaa/layer.tar", dir.join("bbbb/layer.tar")).unwrap();
    for layer in ["aaaa", "bbbb"] {
        fs::write(dir.join(layer).join("VERSION"), "1.0").unwrap();
        fs::write(
            dir.join(layer).join("json"),
            json!({"id": layer}).to_string(),
        )
        .unwrap();
    }
    let diff_id = sha256(&fs::read(&layer).unwrap());
    let mut config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2016-01-02T03:04:05Z",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]},
    });
    let mut manifest = json!([{
        "Config": "CONFIG.json",
        "RepoTags": ["old/app:1", "old/app:2"],
        "Layers": ["aaaa/layer.tar", "bbbb/layer.tar"],
    }]);
    change(&mut config, &mut manifest);
    let config = config.to_string();
    let id = sha256(config.as_bytes());
    let name = format!("{}.json", &id["sha256:".len()..]);
    fs::write(dir.join(&name), config).unwrap();
    let manifest = manifest.to_string().replace("CONFIG.json", &name);
    fs::write(dir.join("manifest.json"), manifest).unwrap();
    fs::write(dir.join("repositories"), "{}").unwrap();
    env.tool("tar", ["-C", dir.to_str().unwrap(), "-cf", "old.tar", "."])
        .success();
    id
}

#[test]
fn dockers_old_archives_are_loaded() {
    let env = TestEnv::new();
    let id = old_archive(&env, |_, _| {});
    let loaded = load(&env, "old.tar").success();
    assert_eq!(
        loaded.stdout,
        "Loaded image: old/app:1\nLoaded image: old/app:2\n"
    );
    let image = inspect(&env, "old/app:1");
    assert_eq!(image["Id"], id);
    assert_eq!(image["RepoTags"], json!(["old/app:1", "old/app:2"]));
    assert_eq!(image["Created"], "2016-01-02T03:04:05Z");
    // skopeo reads the same archive, and what is made of it.
    assert_eq!(id_by_skopeo(&env, "docker-archive:old.tar"), id);
    env.rbuild(["save", "-o", "new.tar", "old/app:2"]).success();
    assert_eq!(id_by_skopeo(&env, "docker-archive:new.tar:old/app:2"), id);
}

#[test]
fn bad_archives_change_nothing() {
    let env = TestEnv::new();
    let refused = |why: &str| {
        let said = load(&env, "old.tar");
        let code = said.status.code();
        assert!(matches!(code, Some(2 | 3)), "{why}: {said}");
        let said = said.says(why).to_string();
        assert_eq!(listed(&env), [""; 0], "{said}");
        let left = fs::read_dir(env.store().join("v1/tmp")).unwrap().count();
        assert_eq!(left, 0, "{said}");
    };
    let other = "sha256:".to_owned() + &"ab".repeat(32);
    for (path, value, why) in [
        (
            "config:/rootfs/diff_ids/1",
            json!(other),
            "does not unpack to the diff id its config names",
        ),
        (
            "config:/rootfs/diff_ids",
            json!([]),
            "has 2 layers, but its config describes 0",
        ),
        (
            "manifest:/0/Layers/1",
            json!("cccc/layer.tar"),
            "names `cccc/layer.tar`, which is not in it",
        ),
        (
            "manifest:/0/Layers/1",
            json!("../../etc/passwd"),
            "which is not in it",
        ),
        (
            "manifest:/0/Config",
            json!("aaaa/json"),
            "has 2 layers, but its config describes 0",
        ),
        (
            "manifest:/0/RepoTags/0",
            json!("A B"),
            "has a name that no image can have",
        ),
        (
            "manifest:/0/RepoTags/0",
            json!(format!("old/app@{other}")),
            "has a name with a digest",
        ),
        ("manifest:", json!([]), "names no image"),
        ("manifest:", json!({"a": 1}), "is not as docker writes it"),
        (
            "manifest:",
            json!("x".repeat(5 << 20)),
            "is larger than the 4194304 bytes",
        ),
    ] {
        old_archive(&env, |config, manifest| {
            let (which, pointer) = path.split_once(':').unwrap();
            let document = if which == "config" { config } else { manifest };
            *document.pointer_mut(pointer).unwrap() = value.clone();
        });
        refused(why);
    }
    // One large config, named again and again.
    old_archive(&env, |config, manifest| {
        config["comment"] = json!("x".repeat(4_000_000));
        let image = manifest[0].clone();
        *manifest = Value::Array(vec![image; 20]);
    });
    refused("the manifests and configs of its images have more than 64 MiB");
    old_archive(&env, |_, _| {});
    let whole = fs::read(env.path("old.tar")).unwrap();
    let name = inspect_name(&env.outside("old"));
    fs::write(env.outside("old").join(&name), "{}").unwrap();
    env.tool(
        "tar",
        [
            "-C",
            env.outside("old").to_str().unwrap(),
            "-cf",
            "old.tar",
            ".",
        ],
    )
    .success();
    refused("should have digest");
    for (bytes, why) in [
        (&whole[..whole.len() / 3], "is cut off"),
        (b"", "is not an archive of images"),
        (b"not a tar at all", "cut off"),
        (&b"\x1f\x8bgarbage"[..], "cannot read the archive"),
    ] {
        env.write("old.tar", bytes);
        refused(why);
    }
    env.rbuild(["load", "-i", "missing.tar"])
        .code(2)
        .says("cannot read `missing.tar`");

    // OCI: a blob that is not what its name says, in an archive that is sound otherwise.
    let layout = env.outside("layout");
    Base::Busybox.copy_to(&format!("oci:{}:latest", layout.display()));
    let pack = || {
        env.tool(
            "tar",
            ["-C", layout.to_str().unwrap(), "-cf", "old.tar", "."],
        )
        .success();
    };
    let index = parsed(&fs::read_to_string(layout.join("index.json")).unwrap());
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let manifest_path = blob(&index["manifests"][0]);
    let manifest = parsed(&fs::read_to_string(&manifest_path).unwrap());
    let layer = blob(&manifest["layers"][0]);
    let mut bytes = fs::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&layer, &bytes).unwrap();
    pack();
    refused("should have digest");
    bytes.push(0);
    fs::write(&layer, &bytes).unwrap();
    pack();
    refused("bytes, but has");
    fs::remove_file(&layer).unwrap();
    pack();
    refused("which is not in it");
}

fn inspect_name(dir: &Path) -> String {
    let manifest = parsed(&fs::read_to_string(dir.join("manifest.json")).unwrap());
    manifest[0]["Config"].as_str().unwrap().to_owned()
}

#[test]
fn several_platforms_stay_together() {
    let env = TestEnv::new()
        .file(
            "Dockerfile",
            "FROM scratch\nARG TARGETARCH\nENV FOR=$TARGETARCH\nCOPY note /\n",
        )
        .file("note", "x");
    env.rbuild(["--platform=linux/amd64,linux/arm64", "-t", "two", "."])
        .success();
    let digest = inspect(&env, "two")["Descriptor"]["digest"].clone();
    env.rbuild(["save", "--format=oci", "-o", "two.tar", "two"])
        .success();
    assert_eq!(digest_by_skopeo(&env, "oci-archive:two.tar"), digest);
    let choice = ["inspect", "-f", "{{.Id}}", "--platform=linux/arm64", "two"];
    let arm64 = env.rbuild(choice).success().stdout;
    let other = elsewhere();
    fs::copy(env.path("two.tar"), other.path("in.tar")).unwrap();
    load(&other, "in.tar").success();
    assert_eq!(inspect(&other, "two")["Descriptor"]["digest"], digest);
    assert_eq!(other.rbuild(choice).success().stdout, arm64);
    // Docker's archives have one.
    let one = ["save", "--platform=linux/arm64", "-o", "one.tar", "two"];
    env.rbuild(one).success();
    assert_eq!(id_by_skopeo(&env, "docker-archive:one.tar"), arm64.trim());
    let chosen = elsewhere();
    fs::copy(env.path("two.tar"), chosen.path("in.tar")).unwrap();
    chosen
        .rbuild(["load", "-q", "--platform=linux/arm64", "-i", "in.tar"])
        .success();
    let image = inspect(&chosen, "two");
    assert_eq!(image["Id"], arm64.trim());
    // No registry is known to have it.
    assert_eq!(image["RepoDigests"], json!([]));
}

/// Two platforms as `two`, in an OCI layout that is changed before it becomes `in.tar`.
fn changed_layout(change: impl FnOnce(&Path, &mut Value)) -> TestEnv {
    let env = TestEnv::new().file(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nENV FOR=$TARGETARCH\nCOPY Dockerfile /\n",
    );
    let output = "type=oci,tar=false,dest=layout";
    let platforms = "--platform=linux/arm64,linux/amd64";
    env.rbuild([platforms, "-t", "two", "-o", output, "."])
        .success();
    let layout = env.path("layout");
    let path = layout.join("index.json");
    let mut index = parsed(&fs::read_to_string(&path).unwrap());
    change(&layout, &mut index);
    fs::write(&path, index.to_string()).unwrap();
    env.tool("tar", ["-C", "layout", "-cf", "in.tar", "."])
        .success();
    env
}

fn layout_blob(layout: &Path, digest: &Value) -> Value {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    parsed(&fs::read_to_string(layout.join("blobs/sha256").join(hex)).unwrap())
}

/// Docker's image-spec v2.2 calls it a manifest list.
#[test]
fn a_manifest_list_stays_one() {
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let env = changed_layout(|layout, index| {
        let entry = &mut index["manifests"][0];
        let mut document = layout_blob(layout, &entry["digest"]);
        document["mediaType"] = json!(list);
        let bytes = document.to_string();
        let digest = sha256(bytes.as_bytes());
        fs::write(layout.join("blobs/sha256").join(&digest[7..]), &bytes).unwrap();
        entry["mediaType"] = json!(list);
        entry["digest"] = json!(digest);
        entry["size"] = json!(bytes.len());
    });
    load(&env, "in.tar").success();
    assert_eq!(inspect(&env, "two")["Descriptor"]["mediaType"], list);
    env.rbuild(["save", "--format=oci", "-o", "out.tar", "two"])
        .success();
    let raw = skopeo(&env, &["inspect", "--raw", "oci-archive:out.tar"]).success();
    assert_eq!(parsed(&raw.stdout)["mediaType"], list);
}

/// An `index.json` may give several images one name, as containerd's exports of single platforms that were put together do.
#[test]
fn a_name_of_several_images_is_that_of_this_machines() {
    let env = changed_layout(|layout, index| {
        let named = index["manifests"][0]["annotations"].clone();
        let mut entries = layout_blob(layout, &index["manifests"][0]["digest"])["manifests"].take();
        for entry in entries.as_array_mut().unwrap() {
            entry["annotations"] = named.clone();
        }
        index["manifests"] = entries;
    });
    let architecture = |args: &[&str]| {
        let loaded = env.rbuild(["load", "-q", "-i", "in.tar"].iter().chain(args));
        assert_eq!(loaded.success().stdout, "Loaded image: two:latest\n");
        assert_eq!(listed(&env), ["docker.io/library/two:latest"]);
        inspect(&env, "two")["Architecture"].take()
    };
    let host = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    assert_eq!(architecture(&[]), host);
    for wanted in ["arm64", "amd64"] {
        let platform = format!("--platform=linux/{wanted}");
        assert_eq!(architecture(&[&platform]), wanted);
    }
    env.rbuild(["load", "--platform=linux/s390x", "-i", "in.tar"])
        .code(2)
        .says("has no image for linux/s390x: there is `linux/arm64`, `linux/amd64`");
}

/// A digest in a name says what the image is, so nothing but that image can have it.
#[test]
fn a_name_with_a_digest_is_given_to_nothing_else() {
    let env = TestEnv::new();
    let layout = env.outside("layout");
    let place = format!("oci:{}:latest", layout.display());
    Base::Busybox.copy_to(&place);
    let claimed = format!("example.org/box@sha256:{}", "ab".repeat(32));
    let index_path = layout.join("index.json");
    let index = parsed(&fs::read_to_string(&index_path).unwrap());
    let id = id_by_skopeo(&env, &place);
    for key in [
        "org.opencontainers.image.ref.name",
        "io.containerd.image.name",
    ] {
        let mut index = index.clone();
        index["manifests"][0]["annotations"] = json!({ key: claimed });
        fs::write(&index_path, index.to_string()).unwrap();
        let packed = ["-C", layout.to_str().unwrap(), "-cf", "in.tar", "."];
        env.tool("tar", packed).success();
        let loaded = load(&env, "in.tar").success();
        assert_eq!(loaded.stdout, format!("Loaded image ID: {id}\n"));
        assert_eq!(listed(&env), std::slice::from_ref(&id));
    }
    env.rbuild(["tag", &id, &claimed])
        .code(2)
        .says("has a digest, which no tag can give");

    // A store in which something else has the name nevertheless.
    let images = env.store().join("v1/images");
    let own = fs::read_dir(&images).unwrap().next().unwrap().unwrap();
    let file = |name: &str| {
        let name = name.replace('/', "%2F").replace('@', "%40");
        images.join(name.replace(':', "%3A"))
    };
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let honest = format!("example.org/box@{digest}");
    for name in [&claimed, &honest] {
        fs::copy(own.path(), file(name)).unwrap();
    }
    assert_eq!(listed(&env).len(), 3);
    for (name, code) in [(&honest, 0), (&claimed, 3)] {
        env.write("Dockerfile", format!("FROM {name}\nCOPY Dockerfile /\n"));
        env.rbuild(["--offline", "."]).code(code);
    }
}
