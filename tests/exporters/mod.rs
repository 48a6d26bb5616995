//! What comes out, as other programs see it. Config, history and layers are what BuildKit makes of the same file.

mod documents;
mod engines;
mod files;
mod names;
mod times;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use serde_json::json;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;
use crate::support::list_tar;

/// Every instruction that leaves something in the config, and layers with links, owners, modes and a whiteout.
const ALL_SORTS: &str = r#"FROM busybox AS build
ARG GREETING=hello
WORKDIR /src
COPY a.txt sub/ ./
RUN echo $GREETING > out.txt && ln -s out.txt link && chmod 4755 out.txt

FROM busybox
LABEL org.example.title="an image" version=1
ENV A=1 B="two words"
EXPOSE 8080 53/udp
VOLUME /data
COPY --from=build --chown=app:app --chmod=0750 /src/out.txt /srv/
COPY --from=build /src/link /srv/link
COPY <<EOF /etc/motd
welcome
EOF
RUN rm /etc/motd && mkdir /empty
USER app
WORKDIR /srv/deep
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s CMD test -f /srv/out.txt
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/cat"]
CMD ["/srv/out.txt"]
"#;

fn all_sorts() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", ALL_SORTS)
        .file("a.txt", "a\n")
        .file("sub/b.txt", "b\n")
}

/// No step and no base: quick to build, in a process that never leaves its namespace.
fn files_only() -> TestEnv {
    TestEnv::new()
        .file(
            "Dockerfile",
            "FROM scratch\nCOPY --chmod=0755 one /bin/\nCOPY two /etc/two\nCMD [\"/bin/one\"]\n",
        )
        .file("one", "1")
        .file("two", "22")
}

#[test]
fn config_history_and_layers_are_those_of_buildkit() {
    let env = all_sorts();
    env.rbuild(["-o", "type=oci,dest=out.tar", "."]).success();
    let image = Image::from_oci_tar(&env, "out.tar");
    let config = json!({
        "User": "app",
        "ExposedPorts": {"53/udp": {}, "8080/tcp": {}},
        "Env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "A=1",
            "B=two words"
        ],
        "Entrypoint": ["/bin/cat"],
        "Cmd": ["/srv/out.txt"],
        "Volumes": {"/data": {}},
        "WorkingDir": "/srv/deep",
        "Labels": {"org.example.title": "an image", "version": "1"},
        "StopSignal": "SIGTERM",
        "ArgsEscaped": true,
        "Healthcheck": {"Test": ["CMD-SHELL", "test -f /srv/out.txt"], "Interval": 5_000_000_000_u64},
        "Shell": ["/bin/sh", "-ec"]
    });
    assert_eq!(image.config["config"], config);
    let own: Vec<String> = image
        .history()
        .into_iter()
        .skip_while(|by| !by.contains("LABEL"))
        .collect();
    assert_eq!(
        own,
        [
            "(empty) LABEL org.example.title=an image version=1",
            "(empty) ENV A=1 B=two words",
            "(empty) EXPOSE [53/udp 8080/tcp]",
            "(empty) VOLUME [/data]",
            "COPY --chown=app:app --chmod=0750 /src/out.txt /srv/ # buildkit",
            "COPY /src/link /srv/link # buildkit",
            "COPY <<EOF /etc/motd # buildkit",
            "RUN /bin/sh -c rm /etc/motd && mkdir /empty # buildkit",
            "(empty) USER app",
            "WORKDIR /srv/deep",
            "(empty) STOPSIGNAL SIGTERM",
            "(empty) HEALTHCHECK {Test:[CMD-SHELL test -f /srv/out.txt] Interval:5s Timeout:0s StartPeriod:0s \
             StartInterval:0s Retries:0}",
            "(empty) SHELL [/bin/sh -ec]",
            "(empty) ENTRYPOINT [\"/bin/cat\"]",
            "(empty) CMD [\"/srv/out.txt\"]",
        ]
    );
    // The base's layer, and one for each instruction that changes files.
    assert_eq!(image.layers().len(), 6);
    // BuildKit repeats the directories above what a layer holds, which changes nothing: those are left out here.
    let mut known: BTreeSet<String> = image.layer(0).into_iter().map(|entry| entry.path).collect();
    let contents: Vec<Vec<String>> = (-5..0)
        .map(|n| {
            let entries = image.layer(n).into_iter();
            let news = entries
                .filter(|entry| known.insert(entry.path.clone()) || !entry.mode.starts_with('d'));
            news.map(|entry| entry.to_string()).collect()
        })
        .collect();
    assert_eq!(
        contents,
        [
            vec![
                "drwxr-x--- 1000/1000 srv",
                "-rwxr-x--- 1000/1000 srv/out.txt"
            ],
            // The link is followed: what it points to is copied.
            vec!["-rwsr-xr-x 0/0 srv/link"],
            vec!["-rw-r--r-- 0/0 etc/motd"],
            vec!["drwxr-xr-x 0/0 empty", "---------- 0/0 etc/.wh.motd"],
            vec!["drwxr-xr-x 1000/1000 srv/deep"],
        ]
    );
}

/// Owner and mode of directories that are made on the way, as BuildKit makes them: `--chown` holds for them, and so
/// does an octal `--chmod`, but not a symbolic one.
#[test]
fn directories_made_on_the_way() {
    let env = TestEnv::new().file("f", "").file("d/e/g", "").file(
        "Dockerfile",
        "FROM scratch\nCOPY --chmod=0640 f /a/b/\nCOPY --chmod=u+x,go=r --chown=5:6 f /p/q/\n\
         COPY --chmod=0711 d /k/l/\nCOPY --chown=7:8 f /s/t/u\n",
    );
    env.rbuild(["-o", "type=tar,dest=out.tar", "."]).success();
    let found: Vec<String> = list_tar(&env.path("out.tar"))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "drw-r----- 0/0 a",
            "drw-r----- 0/0 a/b",
            "-rw-r----- 0/0 a/b/f",
            "drwx--x--x 0/0 k",
            "drwx--x--x 0/0 k/l",
            "drwx--x--x 0/0 k/l/e",
            "-rwx--x--x 0/0 k/l/e/g",
            "drwxr-xr-x 5/6 p",
            "drwxr-xr-x 5/6 p/q",
            "-rwxr--r-- 5/6 p/q/f",
            "drwxr-xr-x 7/8 s",
            "drwxr-xr-x 7/8 s/t",
            "-rw-r--r-- 7/8 s/t/u",
        ]
    );
}

/// Names of what is copied, as BuildKit gives them: a link's own name with its target's content, names that are not
/// UTF-8, parents from the pivot on, patterns that meet nothing beside files that are there.
#[test]
fn copies_have_the_names_buildkit_gives() {
    let env = TestEnv::new()
        .file("target.txt", "t\n")
        .file("d/sub/x.txt", "x\n")
        .file("d/y.txt", "y\n")
        .symlink("link", "target.txt")
        .symlink("dl", "d")
        .file(
            "Dockerfile",
            "FROM scratch\nCOPY link /a/\nCOPY l*k /b/\nCOPY dl /c/\n\
             COPY --parents d/sub/x.txt d/*.txt /p/\nCOPY --parents ./d/./sub/*.txt /q/\n\
             COPY n* /n/\nCOPY d/y.txt target.txt /m/\nCOPY nothing* d/y.txt /e/\n",
        );
    let odd = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(b"n\xff".to_vec());
    fs::write(env.path(".").join(&odd), "z").unwrap();
    env.rbuild(["-o", "out", "."]).success();

    let text = |path: &str| fs::read_to_string(env.path("out").join(path)).unwrap();
    for (path, content) in [
        ("a/link", "t\n"),
        ("b/link", "t\n"),
        ("c/sub/x.txt", "x\n"),
        ("c/y.txt", "y\n"),
        ("e/y.txt", "y\n"),
        ("m/target.txt", "t\n"),
        ("m/y.txt", "y\n"),
        ("p/d/sub/x.txt", "x\n"),
        ("p/d/y.txt", "y\n"),
        ("q/sub/x.txt", "x\n"),
    ] {
        assert_eq!(text(path), content, "{path}");
    }
    assert_eq!(fs::read(env.path("out/n").join(&odd)).unwrap(), b"z");
    let links = ["a/link", "b/link"].map(|path| env.path("out").join(path).is_symlink());
    assert_eq!(links, [false, false]);
    let names = |dir: &str| fs::read_dir(env.path("out").join(dir)).unwrap().count();
    let counts = ["a", "b", "c", "e", "m", "n", "p", "p/d", "q"].map(names);
    assert_eq!(counts, [1, 1, 2, 1, 2, 1, 1, 2, 1]);
}

#[test]
fn skopeo_and_umoci_read_an_oci_archive() {
    let env = all_sorts();
    env.rbuild([
        "-t",
        "example.org/app:1",
        "-o",
        "type=oci,dest=out.tar",
        ".",
    ])
    .success();
    let inspected = env
        .tool("skopeo", ["inspect", "oci-archive:out.tar"])
        .success();
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(inspected["Labels"]["version"], "1");
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 6);

    let image = Image::from_oci_tar(&env, "out.tar");
    let bundle = env.outside("bundle");
    env.tool(
        "umoci",
        [
            "unpack",
            "--rootless",
            "--image",
            &image.reference("1"),
            bundle.to_str().unwrap(),
        ],
    )
    .success();
    assert_eq!(
        fs::read_to_string(bundle.join("rootfs/srv/link")).unwrap(),
        "hello\n"
    );
    assert!(
        !bundle.join("rootfs/etc/motd").exists(),
        "deleted by a later layer"
    );
}

#[test]
fn a_layout_directory_keeps_what_others_put_there() {
    let env = files_only();
    let theirs = format!("oci:{}", env.path("out").display());
    Base::Busybox.copy_to(&format!("{theirs}:1"));
    Base::Busybox.copy_to(&format!("{theirs}:2"));
    let path = env.path("out/index.json");
    let read = || -> Value { serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap() };
    let mut index = read();
    // The specification has other algorithms, and tells readers to pass over what they do not know.
    let unknown = json!({
        "mediaType": "application/vnd.example+json",
        "digest": format!("sha512:{}", "ab".repeat(64)),
        "size": 2,
        "x": {"y": 1},
    });
    let kept = index["manifests"][1].clone();
    index["manifests"]
        .as_array_mut()
        .unwrap()
        .push(unknown.clone());
    index["annotations"] = json!({"a": "b"});
    fs::write(&path, index.to_string()).unwrap();
    let output = "type=oci,tar=false,dest=out";
    let build = ["-t", "example.org/app:1", "-o", output, "."];
    env.rbuild(build).success();
    let index = read();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{index}");
    assert!(entries.contains(&unknown) && entries.contains(&kept));
    assert_eq!(index["annotations"], json!({"a": "b"}));
    let seen = env.tool("skopeo", ["inspect", &format!("{theirs}:1")]);
    let seen: Value = serde_json::from_str(&seen.success().stdout).unwrap();
    assert_eq!(seen["Digest"], entries[0]["digest"]);

    for (broken, why) in [
        ("{\"manifests\":[", "EOF while parsing"),
        ("{\"manifests\":{}}", "its `manifests` is not a list"),
        ("[]", "expected a map"),
    ] {
        fs::write(&path, broken).unwrap();
        let said = env.rbuild(build).code(3);
        said.says("cannot add an image to those of `out/index.json`")
            .says(why);
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
}

#[test]
fn a_layout_directory_has_the_same_image_as_its_archive() {
    let env = files_only();
    env.rbuild([
        "-o",
        "type=oci,dest=out.tar",
        "-o",
        "type=oci,tar=false,dest=out",
        ".",
    ])
    .success();
    let (tar, dir) = (
        Image::from_oci_tar(&env, "out.tar"),
        Image::from_layout(&env.path("out")),
    );
    assert_eq!(tar.manifest, dir.manifest);
    assert_eq!(tar.config, dir.config);
    assert_eq!(
        fs::read_to_string(env.path("out/oci-layout")).unwrap(),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
}

#[test]
fn layers_are_compressed_as_asked() {
    let env = files_only();
    let tar = "application/vnd.oci.image.layer.v1.tar";
    for (options, suffix, decompress) in [
        ("compression=uncompressed", "", "cat"),
        ("compression=gzip", "+gzip", "gzip -dc"),
        ("compression=gzip,compression-level=9", "+gzip", "gzip -dc"),
        ("compression=zstd", "+zstd", "zstd -dc"),
        ("oci-mediatypes=true", "+gzip", "gzip -dc"),
    ] {
        env.rbuild(["-o", &format!("type=oci,dest=out.tar,{options}"), "."])
            .success();
        let image = Image::from_oci_tar(&env, "out.tar");
        for (n, layer) in image.manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            assert_eq!(layer["mediaType"], format!("{tar}{suffix}"), "{options}");
            let blob = image.layer_blob(n.cast_signed());
            let script = format!("{decompress} < {} | sha256sum", blob.display());
            let sum = env.tool("sh", ["-c", &script]).success().stdout;
            let hex = sum.split(' ').next().unwrap();
            assert_eq!(
                image.config["rootfs"]["diff_ids"][n],
                format!("sha256:{hex}"),
                "{options}"
            );
        }
    }
}

#[test]
fn docker_reads_its_archive() {
    let env = files_only();
    env.rbuild([
        "-t",
        "example.org/app:1",
        "-o",
        "type=docker,dest=out.tar",
        ".",
    ])
    .success();
    let inspected = env
        .tool(
            "skopeo",
            ["inspect", "docker-archive:out.tar:example.org/app:1"],
        )
        .success();
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2);
    let manifest = env
        .tool("tar", ["-xOf", "out.tar", "manifest.json"])
        .success();
    let manifest: Value = serde_json::from_str(&manifest.stdout).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!(["example.org/app:1"]));
    assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 2);
}

/// The root file system as a tar and as a directory: the same files, whiteouts applied.
#[test]
fn the_root_file_system_alone() {
    let env = all_sorts();
    env.rbuild([
        "-o",
        "type=tar,dest=rootfs.tar",
        "-o",
        "type=local,dest=rootfs",
        ".",
    ])
    .success();
    let entries = list_tar(&env.path("rootfs.tar"));
    let find = |path: &str| {
        entries
            .iter()
            .find(|entry| entry.path == path)
            .map(ToString::to_string)
    };
    assert_eq!(find("srv/link").unwrap(), "-rwsr-xr-x 0/0 srv/link");
    assert_eq!(
        find("srv/out.txt").unwrap(),
        "-rwxr-x--- 1000/1000 srv/out.txt"
    );
    assert_eq!(find("bin/sh").unwrap(), "lrwxrwxrwx 0/0 bin/sh -> busybox");
    assert_eq!(find("tmp").unwrap(), "drwxrwxrwt 0/0 tmp");
    assert_eq!(find("etc/motd"), None);
    assert!(entries.iter().all(|entry| !entry.path.contains(".wh.")));

    assert_eq!(
        fs::read_to_string(env.path("rootfs/srv/link")).unwrap(),
        "hello\n"
    );
    assert_eq!(
        fs::read_link(env.path("rootfs/bin/sh")).unwrap().to_str(),
        Some("busybox")
    );
    assert_eq!(
        fs::metadata(env.path("rootfs/tmp"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o1777
    );
    assert!(!env.path("rootfs/etc/motd").exists());
}

/// A directory, and a tar on standard output, by their short forms.
#[test]
fn short_forms_of_output() {
    let env = files_only();
    env.rbuild(["-o", "out", "."]).success();
    assert_eq!(fs::read_to_string(env.path("out/etc/two")).unwrap(), "22");
    assert_eq!(
        fs::metadata(env.path("out/bin/one"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
    let archive = env
        .run(env.rbuild_command(["-o", "-", "."]).env("NO_COLOR", "1"))
        .success();
    env.write("out.tar", archive.stdout);
    let paths: Vec<String> = list_tar(&env.path("out.tar"))
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert_eq!(paths, ["bin", "bin/one", "etc", "etc/two"]);
}

#[test]
fn podman_is_handed_the_image() {
    let env = all_sorts();
    env.rbuild(["--load", "-t", "example.org/app:1", "."])
        .success();
    let said = env
        .tool(
            "podman",
            [
                "run",
                "--rm",
                "--network=host",
                "--user=0",
                "example.org/app:1",
            ],
        )
        .success();
    assert_eq!(said.stdout, "hello\n");
}

#[test]
fn metadata_names_what_was_built() {
    let env = files_only();
    env.rbuild([
        "-t",
        "example.org/app:1",
        "-o",
        "type=oci,dest=out.tar",
        "--metadata-file",
        "meta.json",
        "--iidfile",
        "iid",
        ".",
    ])
    .success();
    let metadata: Value =
        serde_json::from_slice(&fs::read(env.path("meta.json")).unwrap()).unwrap();
    let index = env.tool("tar", ["-xOf", "out.tar", "index.json"]).success();
    let index: Value = serde_json::from_str(&index.stdout).unwrap();
    assert_eq!(
        metadata["containerimage.digest"],
        index["manifests"][0]["digest"]
    );
    assert_eq!(metadata["image.name"], "example.org/app:1");
    let image = Image::from_oci_tar(&env, "out.tar");
    assert_eq!(
        metadata["containerimage.config.digest"],
        image.manifest["config"]["digest"]
    );
    let id = fs::read_to_string(env.path("iid")).unwrap();
    assert_eq!(Value::from(id), metadata["containerimage.config.digest"]);
}

/// The same files give the same image in any store, at any time, whatever the context's own times are.
#[test]
fn builds_are_reproducible_with_source_date_epoch() {
    let digest = || {
        let env = files_only();
        let args = [
            "-o",
            "type=oci,dest=out.tar,rewrite-timestamp=true",
            "--metadata-file",
            "meta.json",
            ".",
        ];
        env.run(
            env.rbuild_command(args)
                .env("SOURCE_DATE_EPOCH", "1700000000"),
        )
        .success();
        let image = Image::from_oci_tar(&env, "out.tar");
        assert_eq!(image.config["created"], "2023-11-14T22:13:20Z");
        fs::read(env.path("meta.json")).unwrap()
    };
    assert_eq!(digest(), digest());
}

#[test]
fn rbuild_lists_its_images() {
    let env = files_only();
    env.rbuild(["-t", "app", "-t", "example.org/app:2", "."])
        .success();
    let listed = env.rbuild(["images"]).success().stdout;
    for name in ["app latest ", "example.org/app 2 "] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            listed.lines().any(|line| words(line).starts_with(name)),
            "{listed}"
        );
    }
}
