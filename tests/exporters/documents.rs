//! The documents around an image: what is annotated where, in whose media types, what archives and metadata files hold.
//! The expectations were read off what BuildKit 73ed6825c makes of the same options.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use super::files_only;
use crate::support::Image;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::assert_valid;
use crate::support::list_tar;

const CREATED: &str = "org.opencontainers.image.created";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// An archive's files, beside the context.
fn unpacked(env: &TestEnv, file: &str) -> PathBuf {
    let dir = env.outside(&format!("files-of-{file}"));
    fs::create_dir(&dir).unwrap();
    env.tool("tar", ["-xf", file, "-C", dir.to_str().unwrap()])
        .success();
    dir
}

fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap();
    json(&layout.join("blobs").join(digest.replace(':', "/")))
}

/// Every document of a layout, against the specification's schemas.
fn assert_layout_is_valid(layout: &Path) {
    assert_ne!(valid_configs(layout), 0);
}

/// The same for one that may have manifests of other things than images. How many are of images.
fn valid_configs(layout: &Path) -> usize {
    assert_valid(
        "image-layout-schema.json",
        &[json(&layout.join("oci-layout"))],
    );
    let (mut indexes, mut manifests, mut configs) = (Vec::new(), Vec::new(), Vec::new());
    let mut open = vec![json(&layout.join("index.json"))];
    while let Some(index) = open.pop() {
        for entry in index["manifests"].as_array().unwrap() {
            let document = blob(layout, entry);
            assert_eq!(document["mediaType"], entry["mediaType"]);
            if document.get("manifests").is_some() {
                open.push(document);
            } else {
                let config = &document["config"];
                let kind = config["mediaType"].as_str().unwrap();
                if ["vnd.oci.image.config", "vnd.docker.container.image"]
                    .iter()
                    .any(|image| kind.contains(image))
                {
                    configs.push(blob(layout, config));
                }
                manifests.push(document);
            }
        }
        indexes.push(index);
    }
    assert!(!manifests.is_empty());
    assert_valid("image-index-schema.json", &indexes);
    assert_valid("image-manifest-schema.json", &manifests);
    assert_valid("config-schema.json", &configs);
    configs.len()
}

#[test]
fn every_output_holds_to_the_image_specification() {
    let env = super::all_sorts();
    let annotations = "annotation.a=1,annotation-manifest-descriptor.b=2";
    let outputs = [
        format!("type=oci,dest=oci.tar,{annotations}"),
        "type=oci,tar=false,dest=oci,compression=zstd".into(),
        "type=docker,dest=docker.tar,oci-mediatypes=false,compression=uncompressed".into(),
        "type=docker,tar=false,dest=docker".into(),
    ];
    let mut args = vec!["-t", "example.org/app:1"];
    outputs
        .iter()
        .for_each(|output| args.extend(["-o", output]));
    env.rbuild(args.into_iter().chain(["."])).success();
    for layout in ["oci", "docker"] {
        assert_layout_is_valid(&env.path(layout));
    }
    for archive in ["oci.tar", "docker.tar"] {
        assert_layout_is_valid(&unpacked(&env, archive));
    }

    let env = files_only();
    let index = "annotation-index.i=1,annotation-index-descriptor.j=2";
    let oci = format!("type=oci,dest=several.tar,{annotations},{index}");
    let docker = "type=oci,dest=docker.tar,oci-mediatypes=false";
    let platforms = "--platform=linux/amd64,linux/arm/v7";
    env.rbuild([platforms, "-o", &oci, "-o", docker, "."])
        .success();
    for archive in ["several.tar", "docker.tar"] {
        assert_layout_is_valid(&unpacked(&env, archive));
    }

    let registry = Registry::start();
    let name = format!("{}/app:1", registry.host());
    env.rbuild(["--push", "-t", &name, "."]).success();
    let from = format!("docker://{name}");
    let to = format!("oci:{}:1", env.path("pushed").display());
    env.tool(
        "skopeo",
        ["copy", "--quiet", "--src-tls-verify=false", &from, &to],
    )
    .success();
    assert_layout_is_valid(&env.path("pushed"));
}

#[test]
fn what_is_saved_cached_or_for_several_platforms_holds_to_it_too() {
    let env = files_only();
    let registry = Registry::start();
    let several = &*format!("{}/app:2", registry.host());
    let cache = &*format!("{}/cache:1", registry.host());
    let to_registry = format!("--cache-to=type=registry,ref={cache},mode=max");
    let to_directory = "--cache-to=type=local,dest=cache,mode=max";
    env.rbuild([to_directory, &to_registry, "-t", "app:1", "."])
        .success();
    let platforms = "--platform=linux/amd64,linux/arm64";
    env.rbuild([platforms, "--push", "-t", several, "."])
        .success();
    for (archive, names) in [
        ("one.tar", &["app:1"][..]),
        ("several.tar", &[several]),
        ("both.tar", &["app:1", several]),
    ] {
        let save = ["save", "--format=oci", "-o", archive];
        env.rbuild(save.iter().chain(names)).success();
        assert_layout_is_valid(&unpacked(&env, archive));
    }
    for (from, dir, images) in [(several, "pulled", 2), (cache, "pulled-cache", 0)] {
        let (from, to) = (format!("docker://{from}"), format!("oci:{dir}:1"));
        let copy = ["copy", "--quiet", "--all", "--src-tls-verify=false"];
        env.tool("skopeo", copy.into_iter().chain([&*from, &to]))
            .success();
        assert_eq!(valid_configs(&env.path(dir)), images);
    }
    assert_eq!(valid_configs(&env.path("cache")), 0);
}

/// `dest=-` is the file that `dest=FILE` is.
#[test]
fn standard_output_gets_the_bytes_of_the_file() {
    let env = files_only();
    for kind in ["oci", "docker", "tar"] {
        let output = |dest: &str| format!("type={kind},dest={dest}");
        let file = format!("../{kind}.file");
        env.rbuild(["-t", "example.org/app:1", "-o", &output(&file), "."])
            .success();
        let stream = env.outside("stream");
        let to_stdout = output("-");
        let args = ["-t", "example.org/app:1", "-o", &to_stdout, "."];
        let mut command = env.rbuild_command(args);
        command
            .stdout(fs::File::create(&stream).unwrap())
            .stderr(Stdio::piped());
        env.finished(command.spawn().unwrap()).success();
        let file = fs::read(env.outside(&format!("{kind}.file"))).unwrap();
        assert!(!file.is_empty());
        assert!(fs::read(&stream).unwrap() == file, "{kind}");
    }
}

#[test]
fn archives_list_what_those_of_containerd_do() {
    let env = files_only();
    let outputs = [
        "-o",
        "type=oci,dest=oci.tar",
        "-o",
        "type=docker,dest=docker.tar",
    ];
    env.rbuild(
        outputs
            .into_iter()
            .chain(["-t", "example.org/app:1", "-t", "app", "."]),
    )
    .success();
    let listing = |file: &str| -> Vec<String> {
        let entries = list_tar(&env.path(file)).into_iter();
        // A config, a manifest and two layers, in the order of their digests.
        let hex = |path: &str| path.len() == "blobs/sha256/".len() + 64;
        entries
            .map(|entry| match hex(&entry.path) {
                true => format!("{} {} BLOB", entry.mode, entry.owner),
                false => entry.to_string(),
            })
            .collect()
    };
    let blobs = ["-r--r--r-- 0/0 BLOB"; 4];
    let dirs = ["drwxr-xr-x 0/0 blobs", "drwxr-xr-x 0/0 blobs/sha256"];
    let oci = ["-rw-r--r-- 0/0 index.json", "-r--r--r-- 0/0 oci-layout"];
    let docker = [oci[0], "-rw-r--r-- 0/0 manifest.json", oci[1]];
    assert_eq!(listing("oci.tar"), [&dirs[..], &blobs, &oci].concat());
    assert_eq!(listing("docker.tar"), [&dirs[..], &blobs, &docker].concat());

    let layout = unpacked(&env, "docker.tar");
    let index = json(&layout.join("index.json"));
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    let entries = index["manifests"].as_array().unwrap();
    let config = blob(&layout, &blob(&layout, &entries[0])["config"]);
    let names = [
        ("example.org/app:1", "1"),
        ("docker.io/library/app:latest", "latest"),
    ];
    assert_eq!(entries.len(), names.len());
    for (entry, (name, tag)) in entries.iter().zip(names) {
        assert_eq!(
            entry["mediaType"],
            "application/vnd.oci.image.manifest.v1+json"
        );
        assert_eq!(
            entry["platform"],
            json!({"architecture": "amd64", "os": "linux"})
        );
        // BuildKit has the time of the export there, not that of the image.
        assert_eq!(
            entry["annotations"],
            json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
                CREATED: config["created"],
            })
        );
    }
    let manifest = json(&layout.join("manifest.json"));
    assert_eq!(
        manifest[0]["RepoTags"],
        json!(["example.org/app:1", "app:latest"])
    );
}

#[test]
fn annotations_of_one_platform() {
    let env = files_only();
    let output = "type=oci,dest=out.tar,annotation.a=1,annotation-manifest.b=2,annotation.k=old";
    let args = ["-o", output, "--metadata-file", "meta.json", "."];
    let flags = [
        "--annotation=manifest-descriptor:c=3",
        "--annotation=manifest[linux/amd64]:p=5",
        "--annotation=k=new",
    ];
    env.rbuild(flags.into_iter().chain(args)).success();
    let layout = unpacked(&env, "out.tar");
    let entry = json(&layout.join("index.json"))["manifests"][0].clone();
    let manifest = blob(&layout, &entry);
    assert_eq!(
        manifest["annotations"],
        json!({"a": "1", "b": "2", "k": "new", "p": "5"})
    );
    assert_eq!(entry["annotations"]["c"], "3");
    let metadata = json(&env.path("meta.json"));
    assert_eq!(metadata["containerimage.descriptor"], entry);

    let refused = env.rbuild(["--annotation=index:a=1", "."]);
    refused.code(2).fails_with(snapbox::str![[r#"
error: the annotation `a` is for an index, and one platform has none
hint: annotate the manifest, build several platforms, or set `--build-arg BUILDKIT_MULTI_PLATFORM=1`
[exit status: 2]

"#]]);
    env.rbuild(["--annotation=a=1", "-o", "out", "."])
        .code(2)
        .says("`--annotation` annotates images, and none is made");
    let other = "--annotation=manifest[linux/arm64]:a=1";
    env.rbuild([other, "--platform=linux/amd64", "."])
        .code(2)
        .fails_with(snapbox::str![[r#"
error: the annotation `a` is for linux/arm64, which is not built
hint: what is built is linux/amd64
[exit status: 2]

"#]]);
}

#[test]
fn annotations_of_several_platforms() {
    let env = files_only();
    let output = "type=oci,dest=out.tar,annotation.a=1,annotation-index.i=2,annotation-index-descriptor.id=3,\
                  annotation-manifest-descriptor.c=3,annotation-manifest[linux/arm64].p=5,\
                  annotation-manifest-descriptor[linux/arm64].q=5,annotation-index[linux/amd64].w=7";
    let platforms = "--platform=linux/amd64,linux/arm64";
    let meta = ["--metadata-file", "meta.json", "-t", "example.org/app:1"];
    env.rbuild(
        [platforms, "-o", output]
            .into_iter()
            .chain(meta)
            .chain(["."]),
    )
    .success();
    let layout = unpacked(&env, "out.tar");
    let entry = json(&layout.join("index.json"))["manifests"][0].clone();
    assert_eq!(entry["annotations"]["id"], "3");
    assert_eq!(entry.get("platform"), None);
    let index = blob(&layout, &entry);
    assert_eq!(index["annotations"], json!({"i": "2", "w": "7"}));
    let (amd64, arm64) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(amd64["annotations"], json!({"c": "3"}));
    assert_eq!(arm64["annotations"], json!({"c": "3", "q": "5"}));
    assert_eq!(blob(&layout, amd64)["annotations"], json!({"a": "1"}));
    assert_eq!(
        blob(&layout, arm64)["annotations"],
        json!({"a": "1", "p": "5"})
    );

    let metadata = json(&env.path("meta.json"));
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!(
        descriptor["annotations"],
        json!({"id": "3", CREATED: entry["annotations"][CREATED]})
    );
    let keys: Vec<&String> = metadata.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "containerimage.descriptor",
            "containerimage.digest",
            "image.name"
        ]
    );
}

#[test]
fn docker_s_media_types() {
    let env = files_only();
    let vnd = "application/vnd.docker";
    let types = |layout: &Path, entry: &Value| {
        let manifest = blob(layout, entry);
        assert_eq!(
            manifest["mediaType"],
            format!("{vnd}.distribution.manifest.v2+json")
        );
        assert_eq!(
            manifest["config"]["mediaType"],
            format!("{vnd}.container.image.v1+json")
        );
        manifest
    };
    let layers = format!("{vnd}.image.rootfs.diff.tar");
    for (compression, suffix) in [("gzip", ".gzip"), ("zstd", ".zstd"), ("uncompressed", "")] {
        let name = format!("{compression}.tar");
        let options = format!("oci-mediatypes=false,compression={compression},annotation.a=1");
        env.rbuild(["-o", &format!("type=docker,dest={name},{options}"), "."])
            .success();
        let layout = unpacked(&env, &name);
        let manifest = types(&layout, &json(&layout.join("index.json"))["manifests"][0]);
        for layer in manifest["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], format!("{layers}{suffix}"));
        }
        assert_eq!(manifest["annotations"], json!({"a": "1"}));
    }
    let output = "type=oci,tar=false,dest=several,oci-mediatypes=false";
    env.rbuild(["--platform=amd64,arm64", "-o", output, "."])
        .success();
    let layout = env.path("several");
    let index = blob(&layout, &json(&layout.join("index.json"))["manifests"][0]);
    assert_eq!(
        index["mediaType"],
        format!("{vnd}.distribution.manifest.list.v2+json")
    );
    types(&layout, &index["manifests"][0]);
    env.rbuild(["--annotation=manifest-descriptor:a=b", "-o", output, "."])
        .code(2)
        .says("the annotation `a` has no place in docker's media types");
}

/// A base of which a layer is not to be handed on, as the Windows images had them: skopeo reads what is exported. Such layers
/// become ordinary ones unless they are to stay what they are (BuildKit, build-llb's image exporter options).
#[test]
fn layers_that_are_not_to_be_handed_on() {
    let env = files_only();
    let base = env.outside("base");
    let to = format!("type=oci,tar=false,dest={}", base.display());
    env.rbuild(["-t", "base:1", "-o", &to, "."]).success();
    // The manifest says so of its first layer.
    let index_path = base.join("index.json");
    let mut index = json(&index_path);
    let mut manifest = blob(&base, &index["manifests"][0]);
    let marked = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let plain = "application/vnd.oci.image.layer.v1.tar+gzip";
    manifest["layers"][0]["mediaType"] = json!(marked);
    let manifest = manifest.to_string();
    let digest = crate::images::sha256(manifest.as_bytes());
    fs::write(base.join("blobs").join(digest.replace(':', "/")), &manifest).unwrap();
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(manifest.len());
    fs::write(&index_path, index.to_string()).unwrap();

    env.write("Dockerfile", "FROM base\nCOPY one /three\n");
    let context = format!("base=oci-layout://{}", base.display());
    for (option, first) in [
        ("", plain),
        (",prefer-nondist-layers=false", plain),
        (",prefer-nondist-layers=true", marked),
    ] {
        let to = format!("type=oci,dest=out.tar{option}");
        env.rbuild(["--build-context", &context, "-o", &to, "."])
            .success();
        let raw = ["inspect", "--raw", "oci-archive:out.tar"];
        let seen: Value = serde_json::from_str(&env.tool("skopeo", raw).success().stdout).unwrap();
        let types = seen["layers"].as_array().unwrap().iter();
        let types: Vec<&str> = types
            .map(|layer| layer["mediaType"].as_str().unwrap())
            .collect();
        assert_eq!(types, [first, plain, plain], "{option}");
    }
}

/// The keys of one output each, without those that only a daemon can fill.
#[test]
fn metadata_has_the_keys_of_buildx() {
    let env = files_only();
    let metadata = |output: &str| {
        env.rbuild([
            "-o",
            output,
            "--metadata-file",
            "meta.json",
            "-t",
            "app:1",
            ".",
        ])
        .success();
        json(&env.path("meta.json"))
    };
    let of_image = metadata("type=image");
    let config = of_image["containerimage.config.digest"].as_str().unwrap();
    let descriptor = &of_image["containerimage.descriptor"];
    assert_eq!(
        of_image,
        json!({
            "containerimage.config.digest": config,
            "containerimage.descriptor": {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": of_image["containerimage.digest"],
                "size": descriptor["size"],
                "platform": {"architecture": "amd64", "os": "linux"},
            },
            "containerimage.digest": descriptor["digest"],
            "image.name": "docker.io/library/app:1",
        })
    );
    let of_archive = metadata("type=oci,dest=out.tar");
    let image = Image::from_oci_tar(&env, "out.tar");
    assert_eq!(
        of_archive["containerimage.descriptor"]["annotations"],
        json!({ CREATED: image.config["created"] })
    );
    assert_eq!(of_archive["containerimage.config.digest"], config);
    for files in [
        "type=tar,dest=rootfs.tar",
        "type=local,dest=out",
        "type=cacheonly",
    ] {
        assert_eq!(metadata(files), json!({}), "{files}");
    }
    // Of several outputs the last that is an image.
    env.rbuild(
        [
            "-o",
            "type=image",
            "-o",
            "type=oci,dest=out.tar",
            "-o",
            "out",
        ]
        .into_iter()
        .chain(["--metadata-file", "meta.json", "-t", "app:1", "."]),
    )
    .success();
    assert_eq!(json(&env.path("meta.json")), of_archive);
}

/// Annotations and times are each target's own, and those of a plan's outputs too.
#[test]
fn what_bake_files_and_plans_write_is_annotated() {
    let env = files_only().file(
        "docker-bake.hcl",
        r#"
        group "default" { targets = ["a", "b"] }
        target "a" {
            annotations = ["who=a"]
            args = { SOURCE_DATE_EPOCH = "1700000000" }
            output = ["type=oci,dest=a.tar"]
        }
        target "b" {
            annotations = ["manifest[linux/amd64]:who=b"]
            platforms = ["linux/amd64"]
            output = [{ type = "oci", dest = "b.tar", name = "b:1,b:2" }]
        }
        "#,
    );
    env.rbuild(["bake"]).success();
    let manifest = |archive: &str| {
        let layout = unpacked(&env, archive);
        let index = json(&layout.join("index.json"));
        let manifest = blob(&layout, &index["manifests"][0]);
        let config = blob(&layout, &manifest["config"]);
        let names = index["manifests"].as_array().unwrap().len();
        (
            manifest["annotations"]["who"].clone(),
            config["created"].clone(),
            names,
        )
    };
    let time = "2023-11-14T22:13:20Z";
    assert_eq!(manifest("a.tar"), (json!("a"), json!(time), 1));
    let (who, created, names) = manifest("b.tar");
    assert_eq!((who, names), (json!("b"), 2));
    assert!(created.as_str().unwrap() > time);

    let env = TestEnv::new().file("f", "").file(
        "rbuild.toml",
        "schema = 1\n[inputs]\nhere = { local = \".\" }\n\
         [step.s]\nfrom = \"scratch\"\ncopy = [{ from = \"here\", path = \"/f\", to = \"/\" }]\n\
         [output.o]\nstep = \"s\"\noci = \"plan.tar\"\n",
    );
    env.rbuild(["--annotation=who=plan", "."]).success();
    let layout = unpacked(&env, "plan.tar");
    let entry = json(&layout.join("index.json"))["manifests"][0].clone();
    assert_eq!(blob(&layout, &entry)["annotations"], json!({"who": "plan"}));
}

#[test]
fn one_platform_as_several_are() {
    let env = files_only();
    let multi = "--build-arg=BUILDKIT_MULTI_PLATFORM=1";
    let outputs = [
        "-o",
        "type=oci,dest=out.tar,annotation-index.a=1",
        "-o",
        "out",
    ];
    let meta = [
        "--platform=linux/amd64",
        "--metadata-file",
        "meta.json",
        ".",
    ];
    env.rbuild([multi].into_iter().chain(outputs).chain(meta))
        .success();
    let layout = unpacked(&env, "out.tar");
    let entry = json(&layout.join("index.json"))["manifests"][0].clone();
    let index = blob(&layout, &entry);
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    assert_eq!(index["annotations"], json!({"a": "1"}));
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        entries[0]["platform"],
        json!({"architecture": "amd64", "os": "linux"})
    );
    let metadata = json(&env.path("meta.json"));
    assert_eq!(metadata["containerimage.digest"], entry["digest"]);
    assert_eq!(metadata.get("containerimage.config.digest"), None);
    assert!(env.path("out/linux_amd64/etc/two").exists());
}
