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

/// What a registry has under a name, byte by byte.
fn raw(env: &TestEnv, name: &str) -> String {
    let name = format!("docker://{name}");
    let args = ["inspect", "--raw", "--tls-verify=false", &name];
    env.tool("skopeo", args).success().stdout
}

/// The platforms of an index, in its order, each as `arch` or `arch/variant`.
fn platforms_of(index: &str) -> Vec<String> {
    let index: Value = serde_json::from_str(index).unwrap();
    let manifests = index["manifests"].as_array().unwrap().iter();
    let platforms = manifests.map(|manifest| {
        let platform = &manifest["platform"];
        let arch = platform["architecture"].as_str().unwrap();
        match platform["variant"].as_str() {
            Some(variant) => format!("{arch}/{variant}"),
            None => arch.to_owned(),
        }
    });
    platforms.collect()
}

/// An image for three platforms, each with a layer of its own and one in common.
fn three(env: &TestEnv, registry: &Registry) -> String {
    env.write(
        "Dockerfile",
        "FROM scratch\nCOPY common /\nARG TARGETARCH\nCOPY $TARGETARCH /which\n",
    );
    for file in ["common", "amd64", "arm64", "arm"] {
        env.write(file, file);
    }
    let name = format!("{}/three:1", registry.host());
    let platforms = "--platform=linux/arm64/v8,linux/amd64,linux/arm";
    env.rbuild([platforms, "--push", "-t", &name, "."])
        .success();
    name
}

#[test]
fn several_platforms_are_pulled_and_go_on_as_they_are() {
    let registry = Registry::start();
    let env = TestEnv::new();
    let name = three(&env, &registry);
    let there = raw(&env, &name);
    assert_eq!(platforms_of(&there), ["arm64", "amd64", "arm/v7"]);

    let puller = TestEnv::new();
    let copy = |tag: &str| format!("{}/copy:{tag}", registry.host());
    let pulled = puller.rbuild(["pull", "--platform=all", &name]).success();
    let digest: String = Sha256::digest(&there)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let pulled = pulled
        .says("pulled ")
        .says(" for linux/arm64, linux/amd64, linux/arm/v7 (");
    pulled.says(&format!("with digest sha256:{digest}\n"));
    puller
        .rbuild(["push", &name, "--as", &copy("all")])
        .success();
    assert_eq!(raw(&puller, &copy("all")), there);

    // Of some there is another index, with the entries as they were; a name that asks twice for one has it once.
    let some = "--platform=linux/arm/v7,linux/amd64/v3,linux/amd64";
    puller.rbuild(["pull", some, &name]).success();
    puller
        .rbuild(["push", &name, "--as", &copy("some")])
        .success();
    let index = raw(&puller, &copy("some"));
    assert_eq!(platforms_of(&index), ["arm/v7", "amd64"]);
    let entries = |index: &str| -> Vec<Value> {
        let index: Value = serde_json::from_str(index).unwrap();
        index["manifests"].as_array().unwrap().clone()
    };
    let (all, some) = (entries(&there), entries(&index));
    assert_eq!(some, [all[2].clone(), all[1].clone()]);

    let refused = puller
        .rbuild(["pull", "--platform=linux/amd64,linux/s390x", &name])
        .code(3);
    refused.says(
        "has no image for linux/s390x: there is `linux/amd64`, `linux/arm/v7`, `linux/arm64`",
    );

    // Nobody need be asked any more.
    puller.rbuild(["pull", "--platform=all", &name]).success();
    drop(registry);
    puller
        .rbuild(["save", "--format=oci", "-o", "all.tar", &name])
        .success();
    let args = ["inspect", "--raw", "oci-archive:all.tar"];
    assert_eq!(puller.tool("skopeo", args).success().stdout, there);
    for (arch, content) in [("arm64", "arm64"), ("amd64", "amd64")] {
        let dir = puller.outside(arch);
        let to = format!("oci:{}:1", dir.display());
        let chosen = format!("--override-arch={arch}");
        puller
            .tool(
                "skopeo",
                [&chosen, "copy", "--quiet", "oci-archive:all.tar", &to],
            )
            .success();
        let layer = Image::from_layout(&dir).layer_blob(-1);
        let which = puller.tool("tar", ["-xOf", layer.to_str().unwrap(), "which"]);
        assert_eq!(which.success().stdout, content);
    }
}

/// A compiler of this machine runs once for what does not depend on the target, and once a target for what does.
#[test]
fn steps_on_the_build_platform_are_shared() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS build
RUN head -c 16 /dev/urandom > /tools
ARG TARGETARCH
RUN (cat /tools; echo for $TARGETARCH) > /program
FROM scratch
COPY --from=build /tools /program /
",
    );
    let args = |platforms: &str| {
        [
            "--progress=plain".to_owned(),
            format!("--platform={platforms}"),
            "-o".to_owned(),
            "type=local,dest=out".to_owned(),
            ".".to_owned(),
        ]
    };
    let output = env
        .rbuild(args("linux/amd64,linux/arm64,linux/s390x"))
        .success();
    let ran = output.ran();
    let count = |text: &str| ran.iter().filter(|step| step.contains(text)).count();
    assert_eq!(
        (count("/dev/urandom"), count("echo for ")),
        (1, 3),
        "{output}"
    );
    let read = |path: &str| fs::read(env.path("out").join(path)).unwrap();
    for arch in ["amd64", "arm64", "s390x"] {
        let (tools, program) = (
            format!("linux_{arch}/tools"),
            format!("linux_{arch}/program"),
        );
        assert_eq!(read(&tools), read("linux_amd64/tools"));
        let said = [read(&tools), format!("for {arch}\n").into_bytes()].concat();
        assert_eq!(read(&program), said);
    }
    // One platform more is one step more.
    let more = env
        .rbuild(args("linux/amd64,linux/arm64,linux/s390x,linux/riscv64"))
        .success();
    let ran: Vec<String> = more
        .ran()
        .into_iter()
        .filter(|step| step.starts_with("RUN"))
        .collect();
    assert_eq!(ran.len(), 1, "{more}");
}

/// Programs for other systems are cross-compiled, and are files in most cases.
#[test]
fn files_for_other_systems() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETOS TARGETARCH
RUN echo $TARGETOS/$TARGETARCH > /program
FROM scratch AS files
COPY --from=build /program /
FROM files AS steps
RUN [\"/program\"]
",
    );
    let systems = "--platform=windows/amd64,darwin/arm64,freebsd/386";
    let build = |more: &[&str]| env.rbuild([&["--progress=plain"], more, &["."]].concat());
    build(&[systems, "--target=files", "-o", "out"]).success();
    for (dir, content) in [
        ("windows_amd64", "windows/amd64\n"),
        ("darwin_arm64", "darwin/arm64\n"),
        ("freebsd_386", "freebsd/386\n"),
    ] {
        let file = env.path("out").join(dir).join("program");
        assert_eq!(fs::read_to_string(file).unwrap(), content);
    }
    build(&[
        "--platform=freebsd/386",
        "--target=files",
        "-o",
        "type=oci,dest=bsd.tar",
    ])
    .success();
    let config = env
        .tool("skopeo", ["inspect", "--config", "oci-archive:bsd.tar"])
        .success();
    let config: Value = serde_json::from_str(&config.stdout).unwrap();
    assert_eq!(
        (&config["os"], &config["architecture"]),
        (&json!("freebsd"), &json!("386"))
    );

    let image = build(&["--platform=windows/amd64", "--target=files", "-t", "app"]).code(2);
    assert_eq!(image.ran(), [""; 0], "{image}");
    image.says("rbuild makes no images for `windows/amd64`, only files\n");
    let step = build(&["--platform=darwin/arm64", "-o", "none"]).code(3);
    assert_eq!(step.ran(), [""; 0], "{step}");
    step.says("steps for `darwin/arm64` cannot run here: this is Linux\n");
}

/// What BuildKit (moby/buildkit 73ed6825) made of each spelling: `TARGETPLATFORM`, and the variant in config and index.
const SPELLINGS: [(&str, &str, Option<&str>); 24] = [
    ("linux/x86_64", "linux/amd64", None),
    ("x86-64", "linux/amd64", None),
    ("amd64", "linux/amd64", None),
    ("linux/amd64/v1", "linux/amd64", None),
    ("linux/amd64/V2", "linux/amd64/v2", Some("v2")),
    ("linux/amd64/v3", "linux/amd64/v3", Some("v3")),
    ("LINUX/ARM64", "linux/arm64", None),
    ("linux/arm64/v8", "linux/arm64", None),
    ("linux/arm64/8", "linux/arm64", None),
    ("aarch64", "linux/arm64", None),
    ("linux/arm64/v8.2", "linux/arm64/v8.2", Some("v8.2")),
    ("linux/arm64/v9", "linux/arm64/v9", Some("v9")),
    ("arm", "linux/arm/v7", Some("v7")),
    ("linux/arm/7", "linux/arm/v7", Some("v7")),
    ("armhf", "linux/arm/v7", Some("v7")),
    ("linux/armhf", "linux/arm/v7", Some("v7")),
    ("armel", "linux/arm/v6", Some("v6")),
    ("linux/arm/v5", "linux/arm/v5", Some("v5")),
    ("linux/arm/v8", "linux/arm/v8", Some("v8")),
    ("i386", "linux/386", None),
    ("riscv64", "linux/riscv64", None),
    ("linux/mips64le", "linux/mips64le", None),
    ("macos/arm64", "darwin/arm64", None),
    ("linux/loong64", "linux/loong64", None),
];

#[test]
fn platforms_are_what_buildkit_takes_them_for() {
    let env = TestEnv::new().file(
        "Dockerfile",
        "FROM scratch\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT\n\
         LABEL all=$TARGETPLATFORM parts=$TARGETOS/$TARGETARCH/$TARGETVARIANT\n",
    );
    for (text, platform, variant) in SPELLINGS {
        let asked = format!("--platform={text}");
        env.rbuild([&asked, "-o", "type=oci,dest=out.tar", "."])
            .success();
        let config = Image::from_oci_tar(&env, "out.tar").config;
        let labels = &config["config"]["Labels"];
        assert_eq!(labels["all"], platform, "{text}");
        let wanted = match variant {
            Some(_) => platform.to_owned(),
            None => format!("{platform}/"),
        };
        assert_eq!(labels["parts"], wanted, "{text}");
        let mut parts = platform.splitn(3, '/');
        assert_eq!(config["os"], parts.next().unwrap(), "{text}");
        assert_eq!(config["architecture"], parts.next().unwrap(), "{text}");
        assert_eq!(config["variant"].as_str(), variant, "{text}");
    }
}

/// The order of an index is that of `--platform`, and a directory is named as BuildKit names it.
#[test]
fn an_index_and_its_directories_are_buildkits() {
    let env = TestEnv::new().file(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH TARGETVARIANT\nCOPY Dockerfile /f-$TARGETARCH$TARGETVARIANT\n",
    );
    // A platform that is named twice is built once, which buildx sees to.
    let platforms = "--platform=linux/arm/v6,linux/arm,linux/386,armhf,linux/amd64/v2,linux/amd64";
    env.rbuild([platforms, "-o", "type=oci,dest=out.tar", "-o", "out", "."])
        .success();
    let index = env
        .tool("skopeo", ["inspect", "--raw", "oci-archive:out.tar"])
        .success();
    let order = ["arm/v6", "arm/v7", "386", "amd64/v2", "amd64"];
    assert_eq!(platforms_of(&index.stdout), order);
    let mut found: Vec<String> = Vec::new();
    for directory in fs::read_dir(env.path("out")).unwrap() {
        let directory = directory.unwrap();
        let file = fs::read_dir(directory.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let names = [directory.file_name(), file.file_name()];
        found.push(names.map(|name| name.into_string().unwrap()).join("/"));
    }
    found.sort();
    let wanted = [
        "linux_386/f-386",
        "linux_amd64/f-amd64",
        "linux_amd64_v2/f-amd64v2",
        "linux_arm_v6/f-armv6",
        "linux_arm_v7/f-armv7",
    ];
    assert_eq!(found, wanted);
}
