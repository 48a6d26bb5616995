//! The store's own commands, with skopeo and podman at the other end.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use snapbox::str;

use crate::platforms::multi_platform_base;
use crate::support::Base;
use crate::support::Gate;
use crate::support::Output;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::USER;

/// Steps that leave a layer that only its directory has, with a file that nobody outside the namespace can read.
const STEPS: &str = r#"FROM busybox
ENV A=1
LABEL org.example.title="an image" version=2
RUN echo secret > /secret && chmod 600 /secret && chown app:app /secret
COPY note /note
EXPOSE 80
CMD ["cat", "/note"]
"#;

fn built() -> TestEnv {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", STEPS)
        .file("note", "hello\n");
    env.rbuild(["-t", "app:1", "."]).success();
    env
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn inspect(env: &TestEnv, name: &str) -> Value {
    parsed(&env.rbuild(["inspect", name]).success().stdout)[0].take()
}

fn skopeo(env: &TestEnv, args: &[&str]) -> Output {
    let insecure = ["--insecure-policy"];
    env.tool("skopeo", insecure.iter().chain(args))
}

/// The digest of the config of what skopeo sees, which is the id.
fn id_by_skopeo(env: &TestEnv, place: &str) -> String {
    let config = skopeo(
        env,
        &["inspect", "--config", "--raw", "--tls-verify=false", place],
    );
    sha256(config.success().stdout.as_bytes())
}

fn digest_by_skopeo(env: &TestEnv, place: &str) -> String {
    let args = ["inspect", "--raw", "--tls-verify=false", place];
    sha256(skopeo(env, &args).success().stdout.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn listed(env: &TestEnv) -> Vec<String> {
    let names = ["images", "--format", "{{.Name}}"];
    let names = env.rbuild(names).success().stdout;
    names.lines().map(str::to_owned).collect()
}

fn load(env: &TestEnv, file: &str) -> Output {
    env.rbuild(["load", "-q", "-i", file])
}

/// Another store, with nothing in it.
fn elsewhere() -> TestEnv {
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
                _ => continue,
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
fn formats_say_what_podman_says() {
    let env = built();
    env.rbuild(["save", "-o", "app.tar", "app:1"]).success();
    env.tool("podman", ["load", "-q", "-i", "app.tar"])
        .success();
    for format in [
        "{{.Id}}",
        "{{.Config.Cmd}}",
        "{{json .Config.Cmd}}",
        "{{.Config.Env}}",
        "{{.Config.Labels}}",
        "{{index .Config.Labels \"org.example.title\"}}",
        "{{json .Config.ExposedPorts}}",
        "{{len .RootFS.Layers}} {{.Architecture}}/{{.Os}}",
        "{{range .Config.Env}}{{println .}}{{end}}",
        "{{join .Config.Env \", \"}}",
        "{{ .Author -}}  ; {{- .Config.User }}",
    ] {
        let ours = env.rbuild(["inspect", "--format", format, "app:1"]);
        let theirs = env.tool("podman", ["image", "inspect", "--format", format, "app:1"]);
        let ours = ours.success().stdout.replace("sha256:", "");
        assert_eq!(
            ours,
            theirs.success().stdout.replace("sha256:", ""),
            "{format}"
        );
    }
    let format = "{{.CreatedBy}}|{{.Comment}}";
    let ours = env.rbuild(["history", "--no-trunc", "--format", format, "app:1"]);
    let theirs = env.tool(
        "podman",
        ["history", "--no-trunc", "--format", format, "app:1"],
    );
    assert_eq!(ours.success().stdout, theirs.success().stdout);
}

#[test]
fn inspect_history_and_images_are_as_docker_prints_them() {
    let env = built();
    env.rbuild(["history", "app:1"]).success().is(str![[r#"
IMAGE[..]CREATED[..]CREATED BY[..]SIZE[..]COMMENT
[ID][..]ago[..]CMD ["cat" "/note"][..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]EXPOSE [80/tcp][..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]COPY note /note # buildkit[..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]RUN /bin/sh -c echo secret > /secret && chmo…   [SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]LABEL org.example.title=an image version=2[..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]ENV A=1[..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]umoci config[..][SIZE]
<missing>[..]ago[..]umoci raw add-layer[..][SIZE]

"#]]);
    let lines = env.rbuild(["history", "--format=json", "app:1"]).success();
    let first = parsed(lines.stdout.lines().next().unwrap());
    assert_eq!(first["CreatedBy"], "CMD [\"cat\" \"/note\"]");
    let ids = env
        .rbuild(["history", "-q", "--no-trunc", "app:1"])
        .success();
    let mut ids = ids.stdout.lines();
    assert_eq!(ids.next().unwrap(), inspect(&env, "app:1")["Id"]);
    assert!(ids.all(|id| id == "<missing>"));
    env.rbuild(["images"]).success().is(str![[r#"
REPOSITORY   TAG   IMAGE ID       CREATED[..]SIZE
app          1     [ID]   [..]ago[..][SIZE]

"#]]);
    env.rbuild(["images", "--digests", "--no-trunc"])
        .success()
        .is(str![[r#"
REPOSITORY   TAG   DIGEST   IMAGE ID                                                                  CREATED[..]SIZE
app          1     <none>   [DIGEST]   [..]ago[..][SIZE]

"#]]);
    let format = "table {{.Repository}}\\t{{.ID}}\\t{{.Size}}";
    env.rbuild(["images", "--format", format])
        .success()
        .is(str![[r#"
REPOSITORY   IMAGE ID       SIZE
app          [ID]   [SIZE]

"#]]);
    let row = parsed(&env.rbuild(["images", "--format=json"]).success().stdout);
    assert_eq!(
        (&row["Repository"], &row["Tag"]),
        (&json!("app"), &json!("1"))
    );
    let id = env.rbuild(["images", "-q"]).success().stdout;
    assert_eq!(
        env.rbuild(["inspect", "-f", "{{.Id}}", id.trim()])
            .success()
            .stdout
            .trim(),
        inspect(&env, "app:1")["Id"]
    );

    for (args, why) in [
        (
            ["inspect", "nothing", "app"].as_slice(),
            str![[r#"
error: `nothing` is neither a name nor the id of one image in rbuild's store
hint: `rbuild images` lists those there are

error: `app` is neither a name nor the id of one image in rbuild's store
hint: `rbuild images` lists those there are
[exit status: 2]

"#]],
        ),
        (
            &["inspect", "--format", "{{if .Id}}x{{end}}", "app:1"],
            str![[r#"
error: `--format`: `{{if .Id}}` is not supported: `{{.Field.Field}}`, `{{json .}}`, `{{index . "key"}}`, `{{join . ","}}`, `{{len .}}`, `{{println .}}` and `{{range .}}…{{end}}` are
[exit status: 2]

"#]],
        ),
        (
            &["images", "--format", "{{.Nope}}"],
            str![[r#"
error: `--format`: `.` has no field `Nope`: there are `.CreatedAt`, `.CreatedSince`, `.Digest`, `.ID`, `.Name`, `.Repository`, `.Size`, `.Tag`
[exit status: 2]

"#]],
        ),
        (
            &["history", "--format", "yaml", "app:1"],
            str![[r#"
error: `--format`: `yaml` is not `table`, `json` or a template such as `{{.ID}}`
[exit status: 2]

"#]],
        ),
        (
            &["inspect", "--platform=linux/s390x", "app:1"],
            str![[r#"
error: `app:1` has no image for `linux/s390x` in rbuild's store: there is `linux/amd64`
[exit status: 2]

"#]],
        ),
        (
            &["save", "-o", "x.tar", "nothing"],
            str![[r#"
error: `nothing` is neither a name nor the id of one image in rbuild's store
hint: `rbuild images` lists those there are
[exit status: 2]

"#]],
        ),
        (
            &["push", id.trim()],
            str![[r#"
error: `[ID]` is an id, and no name to push it under
hint: `rbuild push [ID] registry.example.org/name:tag`
[exit status: 2]

"#]],
        ),
        (
            &[
                "push",
                "app:1",
                "--as",
                "example.org/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ],
            str![[r#"
error: `app:1` would be pushed under a digest, and that is what a push gives
hint: name a tag: `rbuild push app:1 registry.example.org/name:tag`
[exit status: 2]

"#]],
        ),
    ] {
        env.rbuild(args).code(2).fails_with(why);
    }
}

#[test]
fn what_is_pulled_stays_without_its_registry() {
    let registry = Registry::start();
    let host = registry.host();
    Base::Busybox.copy_to(&format!("docker://{host}/me/box:1"));
    let env = TestEnv::new();
    let name = format!("{host}/me/box:1");
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    let pulled = env.rbuild(["pull", &name]).success();
    assert_eq!(pulled.stdout, format!("{name}\n"));
    assert!(pulled.stderr.contains(&digest), "{pulled}");
    let by_digest = format!("{host}/me/box@{digest}");
    let quiet = env.rbuild(["pull", "-q", &by_digest]).success();
    assert_eq!(
        (quiet.stdout, quiet.stderr),
        (format!("{by_digest}\n"), String::new())
    );
    let id = id_by_skopeo(&env, &format!("docker://{name}"));
    env.rbuild(["pull", &format!("{host}/me/none")])
        .code(3)
        .says("has no `");
    drop(registry);

    let image = inspect(&env, &name);
    assert_eq!(image["Id"], id);
    assert_eq!(image["RepoTags"], json!([name]));
    assert_eq!(image["RepoDigests"], json!([by_digest]));
    let run = env.rbuild(["run", &name, "echo", "there"]).success();
    assert_eq!(run.stdout, "there\n");
    env.rbuild(["save", "-o", "box.tar", &name]).success();
    assert_eq!(id_by_skopeo(&env, "docker-archive:box.tar"), id);
    for from in [&name, &by_digest] {
        env.write(
            "Dockerfile",
            format!("FROM {from}\nRUN test -x /bin/busybox\n"),
        );
        env.rbuild(["--offline", "."]).success();
    }
}

#[test]
fn of_an_index_one_platform_is_pulled() {
    let registry = Registry::start();
    let env = TestEnv::new();
    multi_platform_base(&env, &registry, true);
    let name = format!("{}/base:1", registry.host());
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    env.rbuild(["pull", "--platform=linux/arm64", &name])
        .success();
    let image = inspect(&env, &name);
    assert_eq!(image["Architecture"], "arm64");
    let repository = name.strip_suffix(":1").unwrap();
    assert_eq!(
        image["RepoDigests"],
        json!([format!("{repository}@{digest}")])
    );
    env.rbuild(["pull", &name]).success();
    assert_eq!(inspect(&env, &name)["Architecture"], "amd64");
    env.rbuild(["pull", "--platform=linux/s390x", &name])
        .code(3)
        .says("has no image for linux/s390x");
}

#[test]
fn what_is_pushed_is_what_a_build_pushes_and_is_sent_once() {
    let registry = Registry::start();
    let host = registry.host();
    let env = built();
    let name = format!("{host}/me/app:1");
    env.rbuild(["tag", "app:1", &name]).success();
    let pushed = env.rbuild(["push", &name]).success();
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    assert_eq!(pushed.stdout, format!("{name}@{digest}\n"));
    let image = inspect(&env, &name);
    assert_eq!(id_by_skopeo(&env, &format!("docker://{name}")), image["Id"]);
    assert_eq!(
        image["RepoDigests"],
        json!([format!("{host}/me/app@{digest}")])
    );
    let manifest = skopeo(
        &env,
        &[
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ],
    );
    let manifest = parsed(&manifest.success().stdout);
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(layer["mediaType"].as_str().unwrap().ends_with("tar+gzip"));
    }
    // podman reads it, and a build that pushes makes the same.
    let plain = ["pull", "-q", "--tls-verify=false", &name];
    env.tool("podman", plain).success();
    let again = env.rbuild(["push", &name]).success();
    again.says("0 blobs sent");
    env.rbuild(["-t", &format!("{host}/me/built:1"), "--push", "."])
        .success();
    let built = format!("docker://{host}/me/built:1");
    assert_eq!(digest_by_skopeo(&env, &built), digest);

    // Loaded from elsewhere, with layers that are plain tars: podman's bytes, compressed.
    let saved = ["save", "-q", "-o", "podman.tar", &name];
    env.tool("podman", saved).success();
    let other = elsewhere();
    fs::copy(env.path("podman.tar"), other.path("in.tar")).unwrap();
    load(&other, "in.tar").success();
    let copy = format!("{host}/me/copy:2");
    other.rbuild(["push", &name, &copy]).success();
    assert_eq!(id_by_skopeo(&env, &format!("docker://{copy}")), image["Id"]);
    other.rbuild(["rmi", &name]).success();
    other.rbuild(["pull", &copy]).success();
    let run = other.rbuild(["run", &copy]).success();
    assert_eq!(run.stdout, "hello\n");
    // Two layers of its own, that of busybox, and the config.
    assert_eq!(registry.uploads("me/app"), 4);
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
        assert!(matches!(code, Some(2 | 3)), "{said}");
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

/// Runs rbuild at a terminal. Once it has shown `prompt`, `typed` is typed; what is said after that is in the output.
fn at_a_terminal(env: &TestEnv, words: &str, prompt: &str, typed: &str) -> Output {
    let line = format!("{} {words}", env!("CARGO_BIN_EXE_rbuild"));
    let mut command = env.tool_command("script");
    command
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(prompt) {
        let mut byte = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        said.extend(byte);
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_bytes()).unwrap();
    drop(stdin);
    env.finished(child)
}

#[test]
fn a_terminal_gets_no_archive() {
    let env = built();
    let said = at_a_terminal(&env, "save app:1", "", "").code(2);
    assert!(
        said.stdout.contains("standard output is a terminal"),
        "{said}"
    );
    let said = at_a_terminal(&env, "load", "", "").code(2);
    assert!(
        said.stdout.contains("standard input is a terminal"),
        "{said}"
    );
}

fn log_in(env: &TestEnv, host: &str, password: &str) -> Output {
    let args = ["login", "-u", USER.0, "--password-stdin", host];
    let mut command = env.rbuild_command(args);
    command
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", env.outside("bin").display()),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{password}").unwrap();
    drop(stdin);
    env.finished(child)
}

#[test]
fn credentials_are_checked_and_kept_where_others_find_them() {
    let registry = Registry::closed();
    let host = registry.host();
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY note /\n")
        .file("note", "x");
    let name = format!("{host}/me/app:1");
    env.rbuild(["-t", &name, "."]).success();
    env.rbuild(["push", &name]).code(3).says("denies access");
    log_in(&env, &host, "wrong")
        .code(3)
        .says("does not accept these credentials for `rebecca`");
    let config = env.outside("home/.docker/config.json");
    assert!(!config.exists());

    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"proxies": {"default": {}}}"#).unwrap();
    log_in(&env, &host, USER.1).success().says("logged in");
    assert_eq!(
        fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What skopeo writes for the same login is what rbuild wrote.
    let theirs = env.outside("skopeo.json");
    let login = [
        "login",
        "--tls-verify=false",
        "--authfile",
        theirs.to_str().unwrap(),
        "-u",
        USER.0,
        "-p",
        USER.1,
        &host,
    ];
    env.tool("skopeo", login).success();
    let mut ours = parsed(&fs::read_to_string(&config).unwrap());
    assert_eq!(ours["proxies"].take(), json!({"default": {}}));
    let theirs = parsed(&fs::read_to_string(&theirs).unwrap());
    assert_eq!(ours["auths"], theirs["auths"]);

    env.rbuild(["push", &name]).success();
    let authfile = config.to_str().unwrap();
    let raw = [
        "inspect",
        "--tls-verify=false",
        "--authfile",
        authfile,
        "--raw",
        &format!("docker://{name}"),
    ];
    skopeo(&env, &raw).success();
    env.rbuild(["logout", &host]).success().says("logged out");
    let left = parsed(&fs::read_to_string(&config).unwrap());
    assert_eq!(left, json!({"auths": {}, "proxies": {"default": {}}}));
    env.rbuild(["logout", &host])
        .success()
        .says("nothing to do");
    env.rbuild(["pull", &name]).code(3).says("denies access");
    env.rbuild(["login", "-u", "me", &host])
        .code(2)
        .says("no terminal to ask");

    // At a terminal, which does not show the password.
    let said = at_a_terminal(
        &env,
        &format!("login -u {} {host}", USER.0),
        "Password: ",
        &format!("{}\n", USER.1),
    );
    let said = said.success().stdout;
    assert!(
        said.contains("logged in") && !said.contains(USER.1),
        "{said}"
    );
    env.rbuild(["pull", "-q", &name]).success();
}

#[test]
fn a_credential_helper_keeps_what_it_is_given() {
    let registry = Registry::closed();
    let host = registry.host();
    let env = TestEnv::new();
    let (bin, kept) = (env.outside("bin"), env.outside("kept"));
    fs::create_dir(&bin).unwrap();
    let helper = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) cat {0} ;;\nerase) cat >/dev/null; rm {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\nesac\n",
        kept.display()
    );
    let program = bin.join("docker-credential-box");
    fs::write(&program, helper).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = env.outside("home/.docker/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"credsStore": "box"}"#).unwrap();

    log_in(&env, &host, USER.1)
        .success()
        .says("`docker-credential-box` has the password");
    assert_eq!(
        parsed(&fs::read_to_string(&kept).unwrap()),
        json!({"ServerURL": host, "Username": USER.0, "Secret": USER.1})
    );
    let text = fs::read_to_string(&config).unwrap();
    assert!(
        !text.contains(USER.1) && parsed(&text)["auths"][&host] == json!({}),
        "{text}"
    );
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut pull = env.rbuild_command(["pull", &format!("{host}/me/none")]);
    env.run(pull.env("PATH", &path)).code(3).says("has no `");
    for said in ["logged out", "nothing to do"] {
        let mut out = env.rbuild_command(["logout", &host]);
        env.run(out.env("PATH", &path)).success().says(said);
    }
    assert!(!kept.exists());
}

#[test]
fn a_reset_removes_the_store_and_nothing_else() {
    let env = built();
    let store = env.store();
    fs::write(store.join("mine"), "").unwrap();
    env.rbuild(["reset"])
        .code(2)
        .says("only removed if somebody agrees");
    let said = at_a_terminal(&env, "reset", "[y/N] ", "n\n").success();
    assert!(said.stdout.contains("nothing was removed"), "{said}");
    assert!(store.join("v1").is_dir());

    let gate = Gate::new();
    env.write(
        "slow/Dockerfile",
        format!("FROM busybox\nRUN {}\n", gate.pass()),
    );
    let mut build = env.rbuild_command(["slow"]);
    build
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let build = build.spawn().unwrap();
    let waiting = gate.wait();
    env.rbuild(["reset", "--force"])
        .code(3)
        .says("is in use by another build");
    waiting.go_on();
    env.finished(build).success();

    let said = at_a_terminal(&env, "reset", "[y/N] ", "y\n").success();
    assert!(said.stdout.contains("where other things are"), "{said}");
    let left: Vec<_> = fs::read_dir(&store)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["mine"]);
    fs::remove_file(store.join("mine")).unwrap();
    env.rbuild(["reset"]).success().says("there is no store");
    env.rbuild(["-t", "again", "."]).success();
    env.rbuild(["reset", "-f"]).success();
    assert!(!store.exists());

    let precious = env.outside("precious/v1/images");
    fs::create_dir_all(&precious).unwrap();
    let root = env.outside("precious");
    env.rbuild(["reset", "-f", "--root", root.to_str().unwrap()])
        .code(2)
        .says("is no store of rbuild");
    assert!(precious.is_dir());
}
