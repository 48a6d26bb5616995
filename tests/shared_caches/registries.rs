//! Caches in registries, and in images there.

use std::fs;
use std::net::TcpListener;
use std::process::Child;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::json;

use super::STAGES;
use super::assert_has_no_value;
use super::digest;
use super::files;
use super::on;
use super::project;
use crate::support::Base;
use crate::support::Gate;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::Watched;

/// The flags that write a cache to a repository and read it from there.
fn flags(host: &str) -> (String, String) {
    let reference = format!("type=registry,ref={host}/team/cache:main");
    (
        format!("--cache-to={reference},mode=max"),
        format!("--cache-from={reference}"),
    )
}

/// A manifest in a registry.
fn manifest(env: &TestEnv, image: &str) -> Value {
    let image = format!("docker://{image}");
    let raw = env.tool("skopeo", ["inspect", "--raw", "--tls-verify=false", &image]);
    serde_json::from_str(&raw.success().stdout).unwrap()
}

/// The digests of the layers that a manifest names.
fn layers(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers = layers.filter(|layer| {
        let media_type = layer["mediaType"].as_str().unwrap();
        media_type.contains(".image.layer.")
    });
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// What was asked of the repository of the cache.
fn asked(registry: &Watched) -> Vec<String> {
    let asked = registry.asked().into_iter();
    asked.filter(|line| line.contains("team/cache")).collect()
}

fn warnings(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines.filter(|line| line.contains("a cache")).collect()
}

#[test]
fn another_machine_runs_nothing_and_makes_the_same_image() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    on(&env, "first", &["-o", "type=oci,dest=../first.tar", &to]).success();
    let cache = manifest(&env, &format!("{}/team/cache:main", registry.host()));
    // Those that steps made; the base's is that of its own registry.
    assert_eq!(layers(&cache).len(), 8);
    asked(&registry);
    // Where nobody needs bytes, none come.
    let nowhere = on(&env, "second", &["-o", "type=cacheonly", &from]).success();
    assert_eq!(nowhere.ran(), [""; 0], "{nowhere}");
    let asked_for = asked(&registry);
    for layer in layers(&cache) {
        let asked = asked_for.iter().any(|line| line.contains(&layer));
        assert!(!asked, "{asked_for:?}");
    }
    // The manifest, the catalogue, and a pack or two: where a pack ends is chance, and there are nine lists of files.
    assert!(asked_for.len() <= 2 + 5, "{asked_for:?}");
    let there = on(
        &env,
        "second",
        &["-o", "type=oci,dest=../second.tar", &from],
    )
    .success();
    assert_eq!(there.ran(), [""; 0], "{there}");
    assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
    // A reference alone is enough, and what has come stays without it.
    let bare = from.replace("type=registry,ref=", "");
    let third = on(&env, "third", &["-o", "type=tar,dest=../third.tar", &bare]).success();
    assert_eq!(third.ran(), [""; 0], "{third}");
    drop(registry);
    let alone = on(&env, "second", &["-o", "type=oci,dest=../again.tar"]).success();
    assert_eq!(alone.ran(), [""; 0], "{alone}");
    assert_eq!(digest(&env, "again.tar"), digest(&env, "first.tar"));
}

/// A layer that is taken later comes from where it was seen, without being told again.
#[test]
fn layers_come_when_they_are_needed() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    on(&env, "first", &["-o", "type=oci,dest=../first.tar", &to]).success();
    on(&env, "second", &["-o", "type=cacheonly", &from]).success();
    let later = on(&env, "second", &["-o", "type=oci,dest=../second.tar"]).success();
    assert_eq!(later.ran(), [""; 0], "{later}");
    assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
}

#[test]
fn what_did_not_change_is_not_sent() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    // Of a small cache another machine does not learn what the steps worked on that it leaves out: its keys stay.
    let min = to.replace(",mode=max", "").replace(":main", ":min");
    let from_min = from.replace(":main", ":min");
    on(&env, "first", &["-o", "type=cacheonly", &to, &min]).success();
    asked(&registry);
    for (machine, from, to) in [
        ("first", &from, &to),
        ("second", &from, &to),
        ("third", &from_min, &min),
    ] {
        on(&env, machine, &["-o", "type=cacheonly", from, to]).success();
        let changes = asked(&registry);
        let changes: Vec<_> = changes
            .iter()
            .filter(|line| !line.starts_with("GET ") && !line.starts_with("HEAD "))
            .collect();
        assert_eq!(changes, [""; 0], "{machine}");
    }
    // A change is its layers, a pack or two or what stays alone there, the catalogue and the manifest.
    env.write("src/b", "changed\n");
    // The last step writes the same list anew, and times in layers are whole seconds: within one it would be no change.
    std::thread::sleep(std::time::Duration::from_secs(1));
    on(&env, "first", &["-o", "type=cacheonly", &to]).success();
    let put = asked(&registry);
    let put = put.iter().filter(|line| line.starts_with("PUT "));
    let put = put.count();
    assert!((4 + 1 + 1 + 1..=4 + 4 + 1 + 1).contains(&put), "{put}");
}

/// What a push sends is what the registry lacks: nothing of what the cache or the image there has comes here, or goes back.
#[test]
fn an_image_that_is_where_it_goes_is_not_downloaded() {
    let (registry, env) = (Watched::start(), project());
    let host = registry.host();
    let (to, from) = flags(&host);
    let image = format!("{host}/team/app:1");
    on(&env, "first", &["-t", &image, "--push", &to]).success();
    let first = manifest(&env, &image);
    registry.asked();
    let second = on(&env, "second", &["-t", &image, "--push", &from]).success();
    assert_eq!(second.ran(), [""; 0], "{second}");
    assert_eq!(manifest(&env, &image), first);
    let asked = registry.asked();
    let is_layer = |line: &&String| {
        layers(&first)
            .iter()
            .any(|layer| line.contains(layer.as_str()))
    };
    let downloads = asked.iter().filter(|line| line.starts_with("GET "));
    assert_eq!(downloads.filter(is_layer).count(), 0, "{asked:?}");
    let sent = asked.iter().filter(|line| line.contains("/uploads/"));
    assert_eq!(sent.count(), 0, "{asked:?}");
    // Elsewhere in the registry the layers are mounted, but for the base's, which is another registry's.
    let other = format!("{host}/team/other:1");
    let third = on(&env, "third", &["-t", &other, "--push", &from]).success();
    assert_eq!(third.ran(), [""; 0], "{third}");
    assert_eq!(manifest(&env, &other), first);
    let asked = registry.asked();
    let downloads = asked.iter().filter(|line| line.starts_with("GET "));
    assert_eq!(downloads.filter(is_layer).count(), 0, "{asked:?}");
    // The base's layer and the config.
    let sent = asked
        .iter()
        .filter(|line| line.starts_with("PUT ") && line.contains("/uploads/"));
    assert_eq!(sent.count(), 2, "{asked:?}");
}

#[test]
fn steps_run_on_layers_that_came_from_a_registry() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    on(&env, "first", &["-t", "app", &to]).success();
    env.write("src/b", "changed\n");
    let edited = on(&env, "second", &["-o", "type=tar,dest=../out.tar", &from]).success();
    assert!(
        edited
            .cached()
            .contains(&"RUN cat /proc/sys/kernel/random/uuid > /stamp".to_owned()),
        "{edited}"
    );
    let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
    assert_eq!(all.success().stdout, "a\nchanged\n");
}

/// Several caches are read and written at once, each with options of its own.
#[test]
fn there_may_be_several() {
    let (registry, env) = (Watched::start(), project());
    let host = registry.host();
    let min = format!("--cache-to=type=registry,ref={host}/team/cache:min,compression=zstd");
    let (to, from) = flags(&host);
    let local = "--cache-to=type=local,dest=../local";
    on(&env, "first", &["-t", "app", &min, &to, local]).success();
    let small = manifest(&env, &format!("{host}/team/cache:min"));
    assert_eq!(layers(&small).len(), 4);
    let types = small["layers"].as_array().unwrap().iter();
    let zstd =
        types.filter(|layer| layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd");
    assert_eq!(zstd.count(), 4);
    let missing = format!("--cache-from={host}/team/cache:none");
    let read = on(&env, "second", &["-o", "type=cacheonly", &missing, &from]).success();
    assert_eq!(read.ran(), [""; 0], "{read}");
    assert_eq!(warnings(&read).len(), 1, "{read}");
}

/// Keys and results go out, and nothing of what keys are made of. (Layers have what steps wrote, as images have.)
#[test]
fn no_value_goes_out() {
    let (registry, env) = (
        Watched::start(),
        project().file("pass", "value-of-secret\n"),
    );
    let (to, _) = flags(&registry.host());
    env.write(
        "Dockerfile",
        STAGES.replace("RUN ls", "RUN --mount=type=secret,id=pass,env=PASS ls"),
    );
    let secret = "--secret=id=pass,src=pass";
    let arg = "--build-arg=VERSION=other-argument";
    on(&env, "first", &["-o", "type=cacheonly", secret, arg, &to]).success();
    let blobs = files(&registry.registry().data());
    assert!(blobs.len() > 10, "{blobs:?}");
    for (path, _) in blobs {
        let bytes = fs::read(&path).unwrap();
        assert_has_no_value(&env, &path.display().to_string(), bytes);
    }
}

/// Whatever a registry answers, what is built is right, and one warning says why it took longer.
#[test]
fn a_registry_that_refuses_makes_a_build_slower_and_nothing_else() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    on(&env, "first", &["-o", "type=cacheonly", &to]).success();
    env.write("src/b", "changed\n");
    for (at, status) in [
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "429 Too Many Requests\r\nRetry-After: 0",
        "500 Internal Server Error\r\nRetry-After: 0",
        "503 Service Unavailable\r\nRetry-After: 0",
    ]
    .into_iter()
    .enumerate()
    {
        for (what, part) in [("manifests", "/manifests/"), ("blobs", "/blobs/")] {
            registry.refuse(move |line| line.contains(part).then_some(status));
            let machine = format!("{what}-{at}");
            let built = on(&env, &machine, &["-o", "type=tar,dest=../out.tar", &from]).success();
            let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
            assert_eq!(all.success().stdout, "a\nchanged\n", "{status}: {built}");
            assert_eq!(warnings(&built).len(), 1, "{status}: {built}");
        }
    }
    // The catalogue comes, and what it names does not.
    let reference = format!("{}/team/cache:main", registry.host());
    let cache = manifest(&env, &reference);
    let catalogue = cache["config"]["digest"].as_str().unwrap().to_owned();
    registry.refuse(move |line| {
        let other = line.contains("/blobs/") && !line.contains(&catalogue);
        other.then_some("503 Service Unavailable\r\nRetry-After: 0")
    });
    registry.asked();
    let built = on(&env, "lists", &["-o", "type=tar,dest=../out.tar", &from]).success();
    let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
    assert_eq!(all.success().stdout, "a\nchanged\n", "{built}");
    assert_eq!(warnings(&built).len(), 1, "{built}");
    let refused = asked(&registry);
    assert!(
        refused.len() <= 2 + 5,
        "it was asked on and on: {refused:?}"
    );
    // The lists come, and the layers do not.
    let names = layers(&cache);
    registry.refuse(move |line| {
        let layer = names.iter().any(|layer| line.contains(layer.as_str()));
        layer.then_some("404 Not Found")
    });
    let built = on(&env, "layers", &["-o", "type=tar,dest=../out.tar", &from]).success();
    let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
    assert_eq!(all.success().stdout, "a\nchanged\n", "{built}");
    assert!(!warnings(&built).is_empty(), "{built}");
}

#[test]
fn damaged_blobs_make_a_build_slower_and_nothing_else() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    on(&env, "first", &["-o", "type=cacheonly", &to]).success();
    let cache = manifest(&env, &format!("{}/team/cache:main", registry.host()));
    env.write("src/b", "changed\n");
    let mut blobs = vec![cache["config"].clone()];
    blobs.extend(cache["layers"].as_array().unwrap().iter().cloned());
    for (number, blob) in blobs.iter().enumerate() {
        let path = registry.registry().blob(blob["digest"].as_str().unwrap());
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for (kind, damaged) in [&flipped[..], &whole[..whole.len() / 2]]
            .into_iter()
            .enumerate()
        {
            fs::write(&path, damaged).unwrap();
            let machine = format!("{number}-{kind}");
            let built = on(&env, &machine, &["-o", "type=tar,dest=../out.tar", &from]).success();
            let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
            assert_eq!(all.success().stdout, "a\nchanged\n", "{blob}: {built}");
        }
        fs::write(&path, &whole).unwrap();
    }
}

/// As BuildKit has it: who wants a cache written is told that it was not, unless it may be so. What was there before stays.
#[test]
fn a_cache_that_is_not_taken_fails_the_build_unless_it_may() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    on(&env, "first", &["-o", "type=cacheonly", &to]).success();
    let reference = format!("{}/team/cache:main", registry.host());
    let before = manifest(&env, &reference);
    env.write("src/b", "changed\n");
    for (status, part) in [
        ("403 Forbidden", "POST "),
        ("429 Too Many Requests\r\nRetry-After: 0", "POST "),
        (
            "503 Service Unavailable\r\nRetry-After: 0",
            "PUT team/cache/blobs",
        ),
        (
            "500 Internal Server Error\r\nRetry-After: 0",
            "PUT team/cache/manifests",
        ),
    ] {
        registry.refuse(move |line| line.contains(part).then_some(status));
        let told = format!("{to},ignore-error=false");
        let failed = on(&env, "first", &["-o", "type=tar,dest=../out.tar", &told]).code(3);
        assert!(
            failed.stderr.contains("cannot export the cache"),
            "{failed}"
        );
        assert!(failed.stderr.contains("ignore-error=true"), "{failed}");
        // The image was made all the same.
        let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
        assert_eq!(all.success().stdout, "a\nchanged\n");
        let built = on(&env, "first", &["-o", "type=cacheonly", &to]).success();
        assert_eq!(warnings(&built).len(), 1, "{built}");
        registry.refuse_nothing();
        assert_eq!(manifest(&env, &reference), before);
    }
    env.write("src/b", "b\n");
    let read = on(&env, "second", &["-o", "type=cacheonly", &from]).success();
    assert_eq!(read.ran(), [""; 0], "{read}");
}

/// Longer than anything here takes; only a test that fails waits for it.
const FOREVER: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < FOREVER, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A stage, a copy of its file, and a step that waits behind both.
fn waits_behind(gate: &Gate) -> TestEnv {
    let file = format!(
        "FROM busybox AS tools\nRUN echo tool > /tool && echo other > /other\n\
         FROM busybox\nCOPY --from=tools /tool /\nRUN {} && echo done > /done\n",
        gate.pass()
    );
    let env = TestEnv::new().bases([Base::Busybox]);
    env.file("Dockerfile", file)
}

fn start(env: &TestEnv, machine: &str, args: &[&str]) -> Child {
    let root = format!("--root=../{machine}");
    let mut build =
        env.rbuild_command([&[&root, "build", "--progress=plain"], args, &["."]].concat());
    let build = build.stdin(Stdio::null()).stdout(Stdio::piped());
    build.stderr(Stdio::piped()).spawn().unwrap()
}

/// How many blobs were sent to a repository.
fn sent(asked: &[String], repository: &str) -> usize {
    let put = format!("PUT {repository}/blobs/uploads/");
    asked.iter().filter(|line| line.starts_with(&put)).count()
}

/// A layer is sent while later steps run: those of `mode=min` that the image stands on alone. Nothing is sent twice, and all
/// is told of.
#[test]
fn layers_are_sent_while_later_steps_run() {
    let (registry, gate) = (Watched::start(), Gate::new());
    let env = waits_behind(&gate);
    for (mode, before, layers_in_all) in [("max", 2, 3), ("min", 1, 2)] {
        let repository = format!("team/cache-{mode}");
        let reference = format!("{}/{repository}:1", registry.host());
        let to = format!("--cache-to=type=registry,ref={reference},mode={mode}");
        let build = start(&env, mode, &["-o", "type=cacheonly", &to]);
        let waiting = gate.wait();
        let mut asked = Vec::new();
        until("a layer was not sent", || {
            asked.extend(registry.asked());
            (sent(&asked, &repository) >= before).then_some(())
        });
        waiting.go_on();
        let built = env.finished(build).success();
        asked.extend(registry.asked());
        let cache = manifest(&env, &reference);
        assert_eq!(layers(&cache).len(), layers_in_all, "{cache}");
        let blobs = cache["layers"].as_array().unwrap().len();
        assert_eq!(sent(&asked, &repository), blobs + 1, "{asked:?}");
        let lines = built.stderr.lines();
        let told = lines.filter(|line| line.contains("writing layer sha256:"));
        assert_eq!(told.count(), layers_in_all, "{built}");
        let from = format!("--cache-from={reference}");
        let machine = format!("{mode}-second");
        let second = on(&env, &machine, &["-o", "type=tar,dest=../out.tar", &from]).success();
        assert_eq!(second.ran(), [""; 0], "{second}");
    }
}

/// What one of the two repositories got is mounted from there, and not sent a second time.
#[test]
fn an_image_takes_the_layers_that_went_ahead() {
    let (registry, gate) = (Watched::start(), Gate::new());
    let env = waits_behind(&gate);
    let host = registry.host();
    let image = format!("{host}/team/app:1");
    let (to, _) = flags(&host);
    let build = start(&env, "first", &["-t", &image, "--push", &to]);
    let waiting = gate.wait();
    let mut asked = Vec::new();
    until("a layer was not sent", || {
        asked.extend(registry.asked());
        (sent(&asked, "team/cache") == 2).then_some(())
    });
    waiting.go_on();
    env.finished(build).success();
    asked.extend(registry.asked());
    // The image has the base's layer, which is of another registry, those of two steps, and a config.
    let app = manifest(&env, &image);
    assert_eq!(layers(&app).len(), 3, "{app}");
    let cache = manifest(&env, &format!("{host}/team/cache:main"));
    let blobs = cache["layers"].as_array().unwrap().len();
    // The first of these steps' went ahead. The last one's goes with the image, or ahead as well if that has begun when the step
    // is over.
    let of_image = sent(&asked, "team/app");
    assert!([2, 3].contains(&of_image), "{asked:?}");
    let in_all = of_image + sent(&asked, "team/cache");
    assert_eq!(in_all, 3 + blobs, "{asked:?}");
}

/// A registry that refuses while steps run is asked again when they have ended, and nobody is told.
#[test]
fn what_could_not_go_ahead_goes_in_the_end() {
    let (registry, gate) = (Watched::start(), Gate::new());
    let env = waits_behind(&gate);
    let (to, from) = flags(&registry.host());
    registry.refuse(|line| line.starts_with("POST ").then_some("403 Forbidden"));
    let told = format!("{to},ignore-error=false");
    let build = start(&env, "first", &["-o", "type=cacheonly", &told]);
    let waiting = gate.wait();
    until("nothing was tried", || {
        let asked = registry.asked();
        asked
            .iter()
            .any(|line| line.starts_with("POST "))
            .then_some(())
    });
    registry.refuse_nothing();
    waiting.go_on();
    let built = env.finished(build).success();
    assert_eq!(warnings(&built), [""; 0], "{built}");
    let read = on(&env, "second", &["-o", "type=cacheonly", &from]).success();
    assert_eq!(read.ran(), [""; 0], "{read}");
}

/// A build that is interrupted waits for no answer.
#[test]
fn an_interrupted_build_waits_for_no_upload() {
    let gate = Gate::new();
    let env = waits_behind(&gate);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (to, _) = flags(&silent.local_addr().unwrap().to_string());
    let mut build = start(&env, "first", &["-o", "type=cacheonly", &to]);
    let _waiting = gate.wait();
    let _asked = silent.accept().unwrap();
    rustix::process::kill_process(Pid::from_child(&build), Signal::INT).unwrap();
    // It is silent for longer than this waits.
    let ended = until("it waits", || build.try_wait().unwrap());
    assert_eq!(ended.code(), Some(130));
}

/// What BuildKit left under the name is not read, and said so once; the next export replaces it.
#[test]
fn caches_of_buildkit_are_told_of_and_replaced() {
    let (registry, env) = (Watched::start(), project());
    let (to, from) = flags(&registry.host());
    let put = |layout: &str, manifest: &Value, blobs: &[&str]| {
        let dir = env.outside(layout);
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let put = |bytes: &[u8]| {
            use sha2::Digest as _;
            let hex: String = sha2::Sha256::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            fs::write(dir.join("blobs/sha256").join(&hex), bytes).unwrap();
            format!("sha256:{hex}")
        };
        for blob in blobs {
            put(blob.as_bytes());
        }
        let document = manifest.to_string();
        let entry = json!({
            "mediaType": manifest["mediaType"], "digest": put(document.as_bytes()),
            "size": document.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        });
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let to = format!("docker://{}/team/cache:main", registry.host());
        let from = format!("oci:../{layout}:latest");
        let copy = [
            "copy",
            "--dest-tls-verify=false",
            "--preserve-digests",
            &from,
            &to,
        ];
        env.tool("skopeo", copy).success();
    };
    let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    // As BuildKit 0.21 writes it with `image-manifest=true`, which is its default.
    let config = json!({
        "mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": empty, "size": 2,
    });
    let manifest_ = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [],
    });
    put("buildkit", &manifest_, &["{}"]);
    let read = on(&env, "first", &["-o", "type=cacheonly", &from]).success();
    assert_eq!(warnings(&read).len(), 1, "{read}");
    assert!(read.stderr.contains("was written by BuildKit"), "{read}");
    on(&env, "first", &["-o", "type=cacheonly", &to]).success();
    let read = on(&env, "second", &["-o", "type=cacheonly", &from]).success();
    assert_eq!((read.ran(), warnings(&read)), (vec![], vec![]), "{read}");
}

/// An image with its cache in it answers for its own steps.
#[test]
fn images_have_their_cache_in_them() {
    let (registry, env) = (Watched::start(), project());
    let host = registry.host();
    let image = format!("{host}/team/app:1");
    let from = format!("--cache-from=type=registry,ref={image}");
    for (machine, inline) in [
        ("flag", "--cache-to=type=inline"),
        ("argument", "--build-arg=BUILDKIT_INLINE_CACHE=1"),
    ] {
        on(&env, machine, &["-t", &image, "--push", inline]).success();
        let first = manifest(&env, &image);
        let second = format!("{machine}-second");
        let other = format!("{host}/team/other:{machine}");
        let there = on(&env, &second, &["-t", &other, "--push", inline, &from]).success();
        assert!(
            there.cached().contains(&"RUN ls /app > /list".to_owned()),
            "{there}"
        );
        assert_eq!(warnings(&there), [""; 0], "{there}");
        // The stages that are only copied from are in no layer of it, and nothing is copied where nothing is looked for.
        assert_eq!(there.ran(), [""; 0], "{there}");
        assert_eq!(manifest(&env, &other), first);
    }
    // What follows a change runs, on layers of the image.
    env.write(
        "Dockerfile",
        STAGES.replace("RUN ls /app > /list", "RUN ls /app /app/tool > /list"),
    );
    let edited = on(&env, "edited", &["-o", "type=tar,dest=../out.tar", &from]).success();
    assert_eq!(edited.ran(), ["RUN ls /app /app/tool > /list"], "{edited}");
    let list = env.tool("tar", ["-xOf", "../out.tar", "list"]).success();
    assert!(list.stdout.contains("stamp"), "{}", list.stdout);
    // An image without one is told of.
    let plain = format!("{host}/team/plain:1");
    on(&env, "plain", &["-t", &plain, "--push"]).success();
    let from = format!("--cache-from={plain}");
    let cold = on(&env, "cold", &["-o", "type=cacheonly", &from]).success();
    assert!(cold.stderr.contains("has no cache in it"), "{cold}");
    assert_eq!(warnings(&cold).len(), 1, "{cold}");
}

/// `registry.insecure` is for the registry of that cache alone, and others are asked as ever.
#[test]
fn bases_may_be_in_the_same_registry() {
    let registry = Watched::start();
    Base::Busybox.publish(registry.registry());
    let host = registry.host();
    let (to, from) = flags(&host);
    let insecure = |flag: &str| format!("{flag},registry.insecure=true");
    let env = TestEnv::new()
        .file(
            "Dockerfile",
            format!("FROM {host}/library/busybox\nCOPY f /\nRUN cat /f\n"),
        )
        .file("f", "1\n");
    on(&env, "first", &["-o", "type=cacheonly", &insecure(&to)]).success();
    registry.asked();
    let second = on(&env, "second", &["-o", "type=cacheonly", &insecure(&from)]).success();
    assert_eq!(second.ran(), [""; 0], "{second}");
    // Of the base the config alone.
    let asked = registry.asked();
    let of_base = asked
        .iter()
        .filter(|line| line.contains("library/busybox/blobs"));
    assert_eq!(of_base.count(), 1, "{asked:?}");
}
