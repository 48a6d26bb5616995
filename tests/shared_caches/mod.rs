//! Caches that machines share. Another machine is another store; what it has of the first is the cache alone.

mod actions;
mod failures;
mod mounts;
mod objects;
mod registries;

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::Watched;

const STAGES: &str = "\
FROM busybox AS tools
ARG VERSION=value-of-argument
ENV FLAVOUR=value-of-variable
RUN mkdir /tool && cp /bin/busybox /tool/b && : text-of-command
COPY src /src
RUN cat /src/* > /tool/all

FROM busybox AS other
RUN cat /proc/sys/kernel/random/uuid > /stamp

FROM busybox
WORKDIR /app
COPY --from=tools /tool /app/tool
COPY --from=other /stamp /app/
RUN ls /app > /list
";

const TO: &str = "--cache-to=type=local,dest=../cache,mode=max";
const FROM: &str = "--cache-from=type=local,src=../cache";

fn project() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", STAGES)
        .file("src/a", "a\n")
        .file("src/b", "b\n")
}

/// A build on the machine of that name.
fn on(env: &TestEnv, machine: &str, args: &[&str]) -> Output {
    let root = format!("--root=../{machine}");
    env.rbuild([&[&root, "build", "--progress=plain"], args, &["."]].concat())
}

/// The digest of the image in an archive.
fn digest(env: &TestEnv, archive: &str) -> String {
    let archive = format!("oci-archive:../{archive}");
    let inspect = ["inspect", "--format={{.Digest}}", &archive];
    env.tool("skopeo", inspect).success().stdout
}

/// Names and lengths of the files of a directory.
fn files(dir: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                let len = path.metadata().unwrap().len();
                found.insert((path, len));
            }
        }
    }
    found
}

fn size(dir: &Path) -> u64 {
    files(dir).iter().map(|(_, len)| len).sum()
}

fn blob(cache: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    cache.join("blobs/sha256").join(&digest["sha256:".len()..])
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn manifest(cache: &Path) -> Value {
    json(&blob(
        cache,
        &json(&cache.join("index.json"))["manifests"][0],
    ))
}

/// The layers that a cache has, by their descriptors.
fn layers(cache: &Path) -> Vec<Value> {
    let manifest = manifest(cache);
    let layers = manifest["layers"].as_array().unwrap().iter();
    let is_layer = |layer: &&Value| {
        layer["mediaType"]
            .as_str()
            .unwrap()
            .contains(".image.layer.")
    };
    layers.filter(is_layer).cloned().collect()
}

/// What a file has in it, and what it unpacks to.
fn with_unpacked(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut unpacked = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let read = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked);
        read.unwrap();
    } else if bytes.starts_with(&0xfd2f_b528_u32.to_le_bytes()) {
        // Lists of files in a pack are one frame each.
        unpacked = zstd::decode_all(&bytes[..]).unwrap();
    }
    bytes.extend(unpacked);
    bytes
}

/// That nothing is in `bytes`, or in what they unpack to, that keys are made of.
fn assert_has_no_value(env: &TestEnv, what: &str, bytes: Vec<u8>) {
    let bytes = with_unpacked(bytes);
    let root = env.outside("").display().to_string();
    for value in [
        "value-of",
        "other-argument",
        "text-of-command",
        "VERSION",
        "FLAVOUR",
        "Dockerfile",
        &root,
    ] {
        let found = bytes
            .windows(value.len())
            .any(|window| window == value.as_bytes());
        assert!(!found, "`{value}` is in {what}");
    }
}

#[test]
fn another_machine_runs_nothing_and_makes_the_same_image() {
    let env = project();
    on(&env, "first", &["-o", "type=oci,dest=../first.tar", TO]).success();
    // A check-out has other times.
    let later = SystemTime::now() + Duration::from_secs(60);
    for name in ["src/a", "src/b"] {
        let file = File::open(env.path(name)).unwrap();
        file.set_modified(later).unwrap();
    }
    // Where nobody needs bytes, none come.
    let nowhere = on(&env, "second", &["-o", "type=cacheonly", FROM]).success();
    assert_eq!(nowhere.ran(), [""; 0], "{nowhere}");
    let blobs = files(&env.outside("second/v1/blobs"));
    let documents = 10_000;
    assert!(blobs.iter().all(|(_, len)| *len < documents), "{blobs:?}");
    let there = on(&env, "second", &["-o", "type=oci,dest=../second.tar", FROM]).success();
    assert_eq!(there.ran(), [""; 0], "{there}");
    assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
    // From now on it needs no cache.
    fs::remove_dir_all(env.outside("cache")).unwrap();
    let alone = on(&env, "second", &["-o", "type=oci,dest=../third.tar"]).success();
    assert_eq!(alone.ran(), [""; 0], "{alone}");
    assert_eq!(digest(&env, "third.tar"), digest(&env, "first.tar"));
}

#[test]
fn an_image_of_the_store_is_whole_without_the_cache() {
    let env = project();
    let first = on(&env, "first", &["-q", "--progress=quiet", "-t", "app", TO]).success();
    let second = on(
        &env,
        "second",
        &["-q", "--progress=quiet", "-t", "app", FROM],
    )
    .success();
    assert_eq!(second.stdout, first.stdout);
    fs::remove_dir_all(env.outside("cache")).unwrap();
    let root = format!("--root={}", env.outside("second").display());
    let run = env.rbuild([&root, "run", "app", "cat", "/list"]).success();
    assert_eq!(run.stdout, "stamp\ntool\n");
}

#[test]
fn steps_run_on_layers_that_came_from_elsewhere() {
    let env = project();
    on(&env, "first", &["-t", "app", TO]).success();
    env.write("src/b", "changed\n");
    let edited = on(&env, "second", &["-t", "app", FROM]).success();
    assert_eq!(
        edited.ran(),
        [
            "COPY --from=other /stamp /app/",
            "COPY --from=tools /tool /app/tool",
            "COPY src /src",
            "RUN cat /src/* > /tool/all",
            "RUN ls /app > /list"
        ],
        "{edited}"
    );
    let root = format!("--root={}", env.outside("second").display());
    let run = env.rbuild([&root, "run", "app", "cat", "/app/tool/all"]);
    assert_eq!(run.success().stdout, "a\nchanged\n");
}

#[test]
fn a_small_cache_has_the_layers_of_the_image_and_a_large_one_all() {
    let env = project();
    let min = "--cache-to=type=local,dest=../min";
    on(&env, "first", &["-t", "app", TO, min]).success();
    let (min, max) = (env.outside("min"), env.outside("cache"));
    assert!(size(&min) < size(&max));
    // Three of the image are made by steps and have bytes of their own; the base's are not the cache's.
    assert_eq!((layers(&min).len(), layers(&max).len()), (4, 8));
    env.write("src/b", "changed\n");
    let small = "--cache-from=type=local,src=../min";
    let with_min = on(&env, "second", &["-t", "app", small]).success();
    assert!(
        with_min
            .ran()
            .contains(&"RUN cat /proc/sys/kernel/random/uuid > /stamp".to_owned()),
        "{with_min}"
    );
    assert!(
        with_min.cached().contains(&"WORKDIR /app".to_owned()),
        "{with_min}"
    );
    let with_max = on(&env, "third", &["-t", "app", FROM]).success();
    assert!(
        !with_max
            .ran()
            .contains(&"RUN cat /proc/sys/kernel/random/uuid > /stamp".to_owned()),
        "{with_max}"
    );
}

/// The complaint about BuildKit's `type=local`: nothing is ever removed, so that people write to another directory and
/// rename it.
#[test]
fn a_directory_that_is_read_and_written_does_not_grow() {
    let env = project();
    let cache = env.outside("cache");
    on(&env, "first", &["-t", "app", FROM, TO]).success();
    let first = files(&cache);
    // The same knowledge is the same bytes, wherever it comes from.
    on(&env, "first", &["-t", "app", FROM, TO]).success();
    assert_eq!(files(&cache), first);
    on(&env, "second", &["-t", "app", FROM, TO]).success();
    assert_eq!(files(&cache), first);
    on(
        &env,
        "third",
        &[
            "-t",
            "app",
            FROM,
            "--cache-to=type=local,dest=../copy,mode=max",
        ],
    )
    .success();
    assert_eq!(
        fs::read(env.outside("copy/index.json")).unwrap(),
        fs::read(cache.join("index.json")).unwrap()
    );
    for text in ["1", "2", "3"] {
        env.write("src/b", text);
        // Nothing of before is left: it is what a new directory has.
        let anew = format!("--cache-to=type=local,dest=../new{text},mode=max");
        on(&env, text, &["-o", "type=cacheonly", FROM, TO, &anew]).success();
        let names = |dir: &Path| -> BTreeSet<(PathBuf, u64)> {
            let below =
                |(path, size): (PathBuf, u64)| (path.strip_prefix(dir).unwrap().to_owned(), size);
            files(dir).into_iter().map(below).collect()
        };
        assert_eq!(names(&cache), names(&env.outside(&format!("new{text}"))));
    }
    // What has another name stays, and so do images.
    on(
        &env,
        "first",
        &["-o", "type=oci,tar=false,dest=../cache,name=app:v1", "."][..2],
    )
    .success();
    on(
        &env,
        "first",
        &[
            "-o",
            "type=cacheonly",
            TO,
            "--cache-to=type=local,dest=../cache,tag=two",
        ],
    )
    .success();
    fs::write(
        cache.join("blobs/sha256/.rbuild-left"),
        "by an export that was killed",
    )
    .unwrap();
    env.write("src/b", "4");
    on(&env, "first", &["-o", "type=cacheonly", TO]).success();
    assert!(!cache.join("blobs/sha256/.rbuild-left").exists());
    let copied = env.tool(
        "skopeo",
        ["copy", "oci:../cache:v1", "oci-archive:../app.tar"],
    );
    copied.success();
    let two = "--cache-from=type=local,src=../cache,tag=two";
    env.write("src/b", "3");
    let again = on(&env, "fourth", &["-o", "type=cacheonly", two]).success();
    assert!(
        again.cached().contains(&"RUN ls /app > /list".to_owned()),
        "{again}"
    );
}

#[test]
fn other_programs_read_it_as_a_layout() {
    let env = project();
    on(&env, "first", &["-o", "type=oci,dest=../app.tar", TO]).success();
    let copy = ["copy", "oci:../cache:latest", "oci:../copy:latest"];
    env.tool("skopeo", copy).success();
    // skopeo compares each digest as it copies; the copy is as good.
    assert_eq!(
        files(&env.outside("copy/blobs")).len(),
        files(&env.outside("cache/blobs")).len()
    );
    let from = "--cache-from=type=local,src=../copy";
    let copied = on(&env, "second", &["-o", "type=cacheonly", from]).success();
    assert_eq!(copied.ran(), [""; 0], "{copied}");
    // Layers are the very blobs that images have.
    let mut tar = env.tool_command("tar");
    let listed = env.run(tar.args(["-tf", "../app.tar"])).success().stdout;
    let of_image: Vec<&str> = listed
        .lines()
        .filter(|line| line.contains("sha256/"))
        .collect();
    let shared = layers(&env.outside("cache")).into_iter().filter(|layer| {
        let hex = layer["digest"].as_str().unwrap()["sha256:".len()..].to_owned();
        of_image.iter().any(|line| line.ends_with(&hex))
    });
    assert_eq!(shared.count(), 4);
}

/// Keys and results go out, and nothing of what keys are made of. (Layers have what steps wrote, as images have.)
#[test]
fn no_value_goes_out() {
    let env = project().file("pass", "value-of-secret\n");
    env.write(
        "Dockerfile",
        STAGES.replace("RUN ls", "RUN --mount=type=secret,id=pass,env=PASS ls"),
    );
    let secret = "--secret=id=pass,src=pass";
    let arg = "--build-arg=VERSION=other-argument";
    on(&env, "first", &["-t", "app", secret, arg, TO]).success();
    let cache = env.outside("cache");
    for (path, _) in files(&cache) {
        assert_has_no_value(&env, &path.display().to_string(), fs::read(&path).unwrap());
    }
}

/// Bytes that are not what they should be are as good as none; and the next export puts them right.
#[test]
fn a_damaged_cache_makes_a_build_slower_and_nothing_else() {
    let env = project();
    on(&env, "first", &["-o", "type=oci,dest=../first.tar", TO]).success();
    let cache = env.outside("cache");
    env.write("src/b", "changed\n");
    let index = json(&cache.join("index.json"));
    let manifest = manifest(&cache);
    let mut blobs = vec![index["manifests"][0].clone(), manifest["config"].clone()];
    blobs.extend(manifest["layers"].as_array().unwrap().iter().cloned());
    // The manifest, the catalogue, a list of files, and the layer that the step that runs is to run on.
    let base_of_run = layers(&cache)
        .into_iter()
        .find(|layer| layer["size"].as_u64() > Some(100_000));
    blobs.truncate(3);
    blobs.extend(base_of_run);
    for (number, descriptor) in blobs.iter().enumerate() {
        let path = blob(&cache, descriptor);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let damages = [Some(&flipped[..]), Some(&whole[..whole.len() / 2]), None];
        for (kind, damaged) in damages.into_iter().enumerate() {
            match damaged {
                Some(damaged) => fs::write(&path, damaged).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let tar = ["-o", "type=tar,dest=../out.tar", FROM];
            let built = on(&env, &format!("{number}-{kind}"), &tar).success();
            let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
            assert_eq!(
                all.success().stdout,
                "a\nchanged\n",
                "{descriptor}: {built}"
            );
        }
        fs::write(&path, &whole).unwrap();
    }
    // A directory that is read and written is right again.
    let one = blob(&cache, layers(&cache).last().unwrap());
    let mut flipped = fs::read(&one).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&one, flipped).unwrap();
    on(&env, "second", &["-t", "app", FROM, TO]).success();
    let third = on(&env, "third", &["-t", "app", FROM]).success();
    assert_eq!(third.ran(), [""; 0], "{third}");
    assert!(!third.stderr.contains("warning"), "{third}");
}

#[test]
fn a_cache_that_cannot_be_read_is_told_of() {
    let env = project();
    env.write("nothing/index.json", "{}");
    on(
        &env,
        "first",
        &["-o", "type=oci,tar=false,dest=../images,name=x:latest"],
    )
    .success();
    for (from, why) in [
        ("../missing", "it has no file `oci-layout`"),
        ("nothing", "it has no file `oci-layout`"),
        ("../images,tag=none", "it has no cache called `none`"),
        ("../images", "is something else"),
    ] {
        let from = format!("--cache-from=type=local,src={from}");
        let built = on(&env, "first", &["-o", "type=cacheonly", &from]).success();
        assert!(built.stderr.contains("a cache cannot be used"), "{built}");
        assert!(built.stderr.contains(why), "{built}");
    }
    // Of several the first that knows counts, and those that are broken do not.
    on(&env, "first", &["-o", "type=cacheonly", TO]).success();
    let broken = "--cache-from=type=local,src=../missing";
    let built = on(&env, "second", &["-o", "type=cacheonly", broken, FROM]).success();
    assert_eq!(built.ran(), [""; 0], "{built}");
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_it_may() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY f /\n")
        .file("f", "");
    fs::write(env.outside("file"), "").unwrap();
    let to = "--cache-to=type=local,dest=../file/cache";
    let failed = on(&env, "first", &["-o", "type=cacheonly", to]).code(3);
    assert!(
        failed.stderr.contains("cannot export the cache"),
        "{failed}"
    );
    let ignored = format!("{to},ignore-error=true");
    on(&env, "first", &["-o", "type=cacheonly", &ignored]).success();
    fs::create_dir(env.outside("other")).unwrap();
    fs::write(env.outside("other/index.json"), "no index").unwrap();
    let other = "--cache-to=type=local,dest=../other";
    let failed = on(&env, "first", &["-o", "type=cacheonly", other]).code(3);
    assert!(
        failed.stderr.contains("not that of an OCI image layout"),
        "{failed}"
    );
    assert_eq!(
        fs::read_to_string(env.outside("other/index.json")).unwrap(),
        "no index"
    );
}

#[test]
fn a_cache_may_be_read_only() {
    let env = project();
    on(&env, "first", &["-o", "type=oci,dest=../first.tar", TO]).success();
    let cache = env.outside("cache");
    let dirs = [
        cache.clone(),
        cache.join("blobs"),
        cache.join("blobs/sha256"),
    ];
    let set = |mode| {
        for dir in &dirs {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set(0o555);
    let second = on(&env, "second", &["-o", "type=oci,dest=../second.tar", FROM]).success();
    set(0o755);
    assert_eq!(second.ran(), [""; 0], "{second}");
    assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
    // Others may read it: files and directories have no private modes.
    for (path, _) in files(&cache) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o444, 0o444);
    }
}

/// What a registry has is named, and not copied; and nobody asks for it before somebody needs it.
#[test]
fn layers_of_bases_stay_in_their_registries() {
    let registry = Watched::start();
    Base::Busybox.publish(registry.registry());
    let dockerfile = format!(
        "FROM {}/library/busybox\nCOPY f /\nRUN cat /f\n",
        registry.host()
    );
    let env = TestEnv::new()
        .file("Dockerfile", dockerfile)
        .file("f", "1\n");
    on(&env, "first", &["-o", "type=cacheonly", TO]).success();
    assert_eq!(layers(&env.outside("cache")).len(), 2);
    let blobs = || {
        let asked = registry.asked();
        asked.iter().filter(|line| line.contains("/blobs/")).count()
    };
    assert_eq!(blobs(), 2);
    // The config alone.
    let cached = on(&env, "second", &["-o", "type=cacheonly", FROM]).success();
    assert_eq!((cached.ran(), blobs()), (vec![], 1), "{cached}");
    env.write("f", "2\n");
    let edited = on(&env, "second", &["-o", "type=cacheonly", FROM]).success();
    assert_eq!(edited.ran(), ["COPY f /", "RUN cat /f"], "{edited}");
    assert_eq!(blobs(), 1);
}

#[test]
fn without_a_cache_everything_runs_and_is_written_all_the_same() {
    let env = project();
    on(&env, "first", &["-o", "type=cacheonly", TO]).success();
    let all = on(
        &env,
        "second",
        &["-o", "type=cacheonly", "--no-cache", FROM],
    )
    .success();
    assert!(
        all.cached().iter().all(|step| !step.starts_with("RUN")),
        "{all}"
    );
    let filter = "--no-cache-filter=other";
    let one = on(&env, "third", &["-o", "type=cacheonly", filter, FROM, TO]).success();
    assert_eq!(
        one.ran(),
        [
            "COPY --from=other /stamp /app/",
            "RUN cat /proc/sys/kernel/random/uuid > /stamp",
            "RUN ls /app > /list"
        ],
        "{one}"
    );
    // What ran then is what others get now.
    let next = on(&env, "fourth", &["-o", "type=tar,dest=../four.tar", FROM]).success();
    assert_eq!(next.ran(), [""; 0], "{next}");
    on(&env, "third", &["-o", "type=tar,dest=../three.tar"]).success();
    let stamp = |tar: &str| env.tool("tar", ["-xOf", tar, "app/stamp"]).success().stdout;
    assert_eq!(stamp("../four.tar"), stamp("../three.tar"));
}

#[test]
fn plans_share_as_dockerfiles_do() {
    let env = TestEnv::new().bases([Base::Busybox]).file("f", "1\n").file(
        "rbuild.toml",
        "schema = 1\ndefault = [\"app\"]\n\n[inputs]\nbusybox = { image = \"busybox\" }\nsrc = { local = \".\", include = [\"f\"] }\n\n[step.app]\nfrom = \"busybox\"\ncopy = [{ from = \"src\", to = \"/f\" }]\nrun = [\"cat /f/f > /g\"]\n\n[output.app]\nstep = \"app\"\n",
    );
    let plan = env.path("rbuild.toml");
    // The times of a plan's layers are not those that steps see.
    on(&env, "first", &["-o", "type=oci,dest=../first.tar", TO]).success();
    let later = SystemTime::now() + Duration::from_secs(60);
    File::open(plan).unwrap().set_modified(later).unwrap();
    let second = on(&env, "second", &["-o", "type=oci,dest=../second.tar", FROM]).success();
    assert_eq!(second.ran(), ["load from client"], "{second}");
    assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
}

#[test]
fn targets_of_a_bake_file_have_caches_of_their_own() {
    let env = TestEnv::new()
        .file(
            "Dockerfile",
            "FROM scratch AS a\nCOPY a /\nFROM scratch AS b\nCOPY b /\n",
        )
        .file("a", "a\n")
        .file("b", "b\n")
        .file(
            "docker-bake.hcl",
            "group \"default\" { targets = [\"a\", \"b\"] }
            target \"a\" {
              target = \"a\"
              output = [\"type=cacheonly\"]
              cache-from = [{ type = \"local\", src = \"../cache-a\" }]
              cache-to = [\"type=local,dest=../cache-a,mode=max\"]
            }
            target \"b\" {
              target = \"b\"
              output = [\"type=cacheonly\"]
              cache-from = [\"type=other\"]
              cache-to = [\"type=local,dest=../cache-b\"]
            }\n",
        );
    let bake = |machine: &str| {
        let root = format!("--root=../{machine}");
        env.rbuild([&root, "bake", "--progress=plain"]).success()
    };
    let first = bake("first");
    assert!(
        first
            .stderr
            .contains("target `b`: a cache of type `other` is left out"),
        "{first}"
    );
    assert_eq!(layers(&env.outside("cache-a")).len(), 1);
    assert_eq!(layers(&env.outside("cache-b")).len(), 1);
    let second = bake("second");
    assert_eq!(second.ran().len(), 1, "{second}");
    assert!(second.ran()[0].contains("COPY b /"), "{second}");
}

#[test]
fn exports_into_one_directory_take_turns() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nARG N\nCOPY <<E /f\n$N\nE\n");
    let names: Vec<String> = (0..6).map(|n| n.to_string()).collect();
    let builds: Vec<_> = names
        .iter()
        .map(|name| {
            let to = format!("--cache-to=type=local,dest=../cache,tag={name}");
            let arg = format!("--build-arg=N={name}");
            let mut build = env.rbuild_command(["-o", "type=cacheonly", &to, &arg, "."]);
            build
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for build in builds {
        env.finished(build).success();
    }
    for name in &names {
        let from = format!("--cache-from=type=local,src=../cache,tag={name}");
        let arg = format!("--build-arg=N={name}");
        let tar = ["-o", "type=tar,dest=../out.tar", &from, &arg];
        let built = on(&env, &format!("machine-{name}"), &tar).success();
        assert_eq!(built.ran(), [""; 0], "{built}");
        let got = env.tool("tar", ["-xOf", "../out.tar", "f"]).success();
        assert_eq!(got.stdout, format!("{name}\n"));
    }
}
