//! Images to and from registries: what is asked of them, and the files that say how they are reached.

use std::fs;

use snapbox::str;

use crate::support::Base;
use crate::support::Registry;
use crate::support::Tap;
use crate::support::TestEnv;

/// The part of a request before a digest, and after it.
fn without_digests(lines: &[String]) -> Vec<String> {
    let hex = |c: char| c.is_ascii_hexdigit();
    let short = |line: &String| {
        let line = line.replace("%3A", ":");
        let (before, after) = line.split_once("sha256:").unwrap_or((&line, ""));
        format!("{before}{}", after.trim_start_matches(hex))
    };
    lines.iter().map(short).collect()
}

/// The blobs of an image in the store, by its manifest in the registry.
fn layers(env: &TestEnv, image: &str) -> Vec<String> {
    let image = format!("docker://{image}");
    let raw = env
        .tool("skopeo", ["inspect", "--raw", "--tls-verify=false", &image])
        .success();
    let manifest: serde_json::Value = serde_json::from_str(&raw.stdout).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let digests = layers.map(|layer| layer["digest"].as_str().unwrap().to_owned());
    digests.collect()
}

#[test]
fn pushes_send_only_what_is_not_there() {
    let registry = Registry::start();
    Base::Busybox.publish(&registry);
    let tap = Tap::start(registry.host());
    let host = tap.host();
    let env = TestEnv::new().file("one", "1").file(
        "Dockerfile",
        format!("FROM {host}/library/busybox\nCOPY one /\n"),
    );
    let image = format!("{host}/team/app:1");
    env.rbuild(["build", "-t", &image, "--push", "."]).success();
    let asked = without_digests(&tap.asked());
    let pushed = asked.iter().filter(|line| line.contains("/team/app/"));
    let (puts, others): (Vec<&String>, Vec<&String>) =
        pushed.partition(|line| line.starts_with("PUT "));
    assert_eq!(
        others,
        [
            "HEAD /v2/team/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "POST /v2/team/app/blobs/uploads/",
            "POST /v2/team/app/blobs/uploads/",
            "POST /v2/team/app/blobs/uploads/?mount=&from=library%2Fbusybox",
        ]
    );
    // A layer, the config and the manifest: the base's layer is there without being sent.
    assert_eq!(puts.len(), 3, "{puts:?}");

    // A layer that is there is not even opened.
    let layers = layers(&env, &format!("{}/team/app:1", registry.host()));
    assert_eq!(layers.len(), 2);
    for digest in &layers {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let path = format!("v1/blobs/sha256/{}/{hex}", &hex[..2]);
        let path = env.store().join(path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "damaged").unwrap();
    }
    for tag in ["1", "2"] {
        let image = format!("{host}/team/app:{tag}");
        env.rbuild(["build", "-t", &image, "--push", "."]).success();
        assert_eq!(
            without_digests(&tap.asked()),
            [
                "HEAD /v2/team/app/blobs/",
                "HEAD /v2/team/app/blobs/",
                "HEAD /v2/team/app/blobs/",
                &format!("PUT /v2/team/app/manifests/{tag}"),
            ]
        );
    }
}

/// A blob that platforms share, or tags of one repository, is asked for once. Other repositories of the registry take it
/// from the first (distribution-spec, Mounting a blob from another repository).
#[test]
fn names_and_platforms_share_what_a_repository_got() {
    let registry = Registry::start();
    let tap = Tap::start(registry.host());
    let host = tap.host();
    let env = TestEnv::new()
        .file("one", "1")
        .file("Dockerfile", "FROM scratch\nCOPY one /\n");
    let names = ["team/app:1", "team/app:2", "other/app:1"].map(|name| format!("{host}/{name}"));
    let tags = names.iter().flat_map(|name| ["-t", name]);
    let flags = ["build", "--platform=linux/amd64,linux/arm64", "--push", "."];
    env.rbuild(flags.into_iter().chain(tags)).success();
    // One layer and two configs; two manifests and the index. Uploads go to places that are made up each time.
    let asked = |tap: &Tap| {
        let asked = without_digests(&tap.asked());
        let upload = |line: &String| line.starts_with("PUT ") && line.contains("/blobs/uploads/");
        let (uploads, mut others): (Vec<_>, Vec<_>) = asked.into_iter().partition(upload);
        // Their digests were sorted by, too.
        others.sort();
        (uploads.len(), others)
    };
    let (uploads, others) = asked(&tap);
    assert_eq!(uploads, 3);
    assert_eq!(
        others,
        [
            "HEAD /v2/other/app/blobs/",
            "HEAD /v2/other/app/blobs/",
            "HEAD /v2/other/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "POST /v2/other/app/blobs/uploads/?mount=&from=team%2Fapp",
            "POST /v2/other/app/blobs/uploads/?mount=&from=team%2Fapp",
            "POST /v2/other/app/blobs/uploads/?mount=&from=team%2Fapp",
            "POST /v2/team/app/blobs/uploads/",
            "POST /v2/team/app/blobs/uploads/",
            "POST /v2/team/app/blobs/uploads/",
            "PUT /v2/other/app/manifests/",
            "PUT /v2/other/app/manifests/",
            "PUT /v2/other/app/manifests/1",
            "PUT /v2/team/app/manifests/",
            "PUT /v2/team/app/manifests/",
            "PUT /v2/team/app/manifests/1",
            "PUT /v2/team/app/manifests/2",
        ]
    );
    for name in &names {
        let name = name.replace(&host, &registry.host());
        for arch in ["amd64", "arm64"] {
            let (image, to) = (format!("docker://{name}"), format!("dir:../{arch}"));
            let platform = format!("--override-arch={arch}");
            let copy = ["copy", "--src-tls-verify=false", &image, &to];
            let copy = [platform.as_str()].into_iter().chain(copy);
            env.tool("skopeo", copy).success();
        }
    }

    // From the store, too.
    env.rbuild(["push", &names[0], &names[1], &names[2]])
        .success();
    let (uploads, others) = asked(&tap);
    assert_eq!(uploads, 0);
    assert_eq!(
        others,
        [
            "HEAD /v2/other/app/blobs/",
            "HEAD /v2/other/app/blobs/",
            "HEAD /v2/other/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "HEAD /v2/team/app/blobs/",
            "PUT /v2/other/app/manifests/",
            "PUT /v2/other/app/manifests/",
            "PUT /v2/other/app/manifests/1",
            "PUT /v2/team/app/manifests/",
            "PUT /v2/team/app/manifests/",
            "PUT /v2/team/app/manifests/1",
            "PUT /v2/team/app/manifests/2",
        ]
    );
}

#[test]
fn a_mirror_with_other_bytes_stands_in_no_ones_way() {
    let (registry, mirror) = (Registry::start(), Registry::start());
    Base::Busybox.publish(&registry);
    Base::Busybox.publish(&mirror);
    let host = registry.host();
    let env = TestEnv::new().file(
        "Dockerfile",
        format!("FROM {host}/library/busybox\nRUN true\n"),
    );
    let config = env.outside("home/.config/rbuild/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let tap = Tap::start(mirror.host());
    let mirrors = format!(
        "[registry.\"{host}\"]\nmirrors = [\"http://{}\"]\n",
        tap.host()
    );
    fs::write(&config, mirrors).unwrap();
    let layer = &layers(&env, &format!("{host}/library/busybox"))[0];
    let file = mirror.blob(layer);
    let right = fs::read(&file).unwrap();
    // Something that shows at its end alone, and something that is no archive at all.
    let mut late = right.clone();
    *late.last_mut().unwrap() ^= 1;
    for wrong in [late, vec![0; right.len()]] {
        fs::write(&file, wrong).unwrap();
        env.rbuild(["-t", "x", "."]).success();
        let asked = tap.asked().into_iter();
        let of_layer = asked.filter(|line| line.contains(&layer[7..]));
        assert_eq!(of_layer.count(), 1);
        env.rbuild(["reset", "--force"]).success();
    }
}

#[test]
fn podmans_and_dockers_files_are_read() {
    let registry = Registry::start();
    Base::Busybox.publish(&registry);
    let host = registry.host();
    let env = TestEnv::new();
    let write = |path: &str, text: &str| {
        let path = env.outside("home/.config").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let built = |from: &str| {
        env.write("Dockerfile", format!("FROM {from}\n"));
        env.rbuild(["build", "-q", "."])
    };
    write(
        "containers/registries.conf",
        &format!(
            "[[registry]]\nprefix = \"example.com/foo\"\nlocation = \"{host}/library\"\n\
             [[registry]]\nprefix = \"*.example.org\"\nblocked = true\n\
             [[registry]]\nprefix = \"quay.example\"\ninsecure = 1\n"
        ),
    );
    write(
        "docker/daemon.json",
        &format!("{{\"registry-mirrors\": [\"http://{host}\"]}}"),
    );
    for from in ["example.com/foo/busybox", "busybox"] {
        let output = built(from).success();
        let remark =
            "registries.conf:7` is passed over: invalid type: integer `1`, expected a boolean";
        assert!(output.stderr.contains(remark), "{}", output.stderr);
    }
    built("a.example.org/b").code(3).fails_with(str![[r#"
error: `a.example.org/b:latest` may not be used: `[ROOT]/home/.config/containers/registries.conf:4` blocks `*.example.org`
 --> Dockerfile:1:6
  |
1 | FROM a.example.org/b
  |      ^^^^^^^^^^^^^^^
[exit status: 3]

"#]]);
    built("quay.example/b").code(3).fails_with(str![[r#"
error: where to find `quay.example/b:latest` cannot be told from `[ROOT]/home/.config/containers/registries.conf:7`: invalid type: integer `1`, expected a boolean
 --> Dockerfile:1:6
  |
1 | FROM quay.example/b
  |      ^^^^^^^^^^^^^^
[exit status: 3]

"#]]);
    // config.toml comes first.
    write(
        "rbuild/config.toml",
        "[registry.\"docker.io\"]\nmirrors = [\"http://127.0.0.1:1/x\"]\n",
    );
    env.forget();
    write("docker/daemon.json", "{");
    built("example.com/foo/busybox").success();
}
