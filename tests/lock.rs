//! `rbuild.lock`: what is written into it, as skopeo, git and sha256sum see the same things, and what a build makes of it.

use std::fs;

use serde_json::Value;
use serde_json::json;
use snapbox::str;

use crate::platforms::multi_platform_base;
use crate::support::Base;
use crate::support::FileServer;
use crate::support::GitServer;
use crate::support::Registry;
use crate::support::TestEnv;

/// The lock file, as any reader of TOML sees it.
fn lock_file(env: &TestEnv) -> Value {
    let text = fs::read_to_string(env.path("rbuild.lock")).unwrap();
    serde_json::to_value(toml::from_str::<toml::Value>(&text).unwrap()).unwrap()
}

/// The `sha256sum` of what a program prints.
fn sha256_of(env: &TestEnv, command: &str) -> String {
    let script = format!("{command} | sha256sum");
    let output = env.tool("sh", ["-c", &script]).success();
    output.stdout.split(' ').next().unwrap().to_owned()
}

/// What skopeo has of a name: the digest, and the document.
fn raw(env: &TestEnv, image: &str) -> (String, Value) {
    let inspect = format!("skopeo inspect --raw --tls-verify=false docker://{image}");
    let digest = format!("sha256:{}", sha256_of(env, &inspect));
    let raw = env.tool("sh", ["-c", &inspect]).success();
    (digest, serde_json::from_str(&raw.stdout).unwrap())
}

/// Makes a name stand for busybox with a variable more.
fn push_marked(env: &TestEnv, mark: &str, image: &str) {
    let dir = env.outside(&format!("marked-{mark}"));
    let layout = format!("{}:it", dir.display());
    Base::Busybox.copy_to(&format!("oci:{layout}"));
    let variable = format!("MARK={mark}");
    let args = ["config", "--image", &layout, "--config.env", &variable];
    env.tool("umoci", args).success();
    let (from, to) = (format!("oci:{layout}"), format!("docker://{image}"));
    let args = ["copy", "--quiet", "--dest-tls-verify=false", &from, &to];
    env.tool("skopeo", args).success();
}

/// The marks of [`push_marked`] that are in what is built.
fn marks(env: &TestEnv, flags: &[&str]) -> Vec<String> {
    marks_of(env, flags, ".")
}

fn marks_of(env: &TestEnv, flags: &[&str], context: &str) -> Vec<String> {
    let args = [flags, &["-o", "type=oci,dest=../out.tar", context]].concat();
    env.rbuild(args).success();
    let config = env
        .tool("skopeo", ["inspect", "--config", "oci-archive:../out.tar"])
        .success();
    let config: Value = serde_json::from_str(&config.stdout).unwrap();
    let variables = config["config"]["Env"].as_array().unwrap();
    let variables = variables.iter().map(|variable| variable.as_str().unwrap());
    variables
        .filter_map(|variable| variable.strip_prefix("MARK="))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_tag_that_moved_is_what_it_was() {
    let registry = Registry::start();
    let env = TestEnv::new();
    multi_platform_base(&env, &registry, true);
    let base = format!("{}/base:1", registry.host());
    env.write("Dockerfile", format!("FROM {base}\n"));
    env.rbuild(["lock"]).success().is(str![[r#"
added 127.0.0.1:[PORT]/base:1 [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    let (index, document) = raw(&env, &base);
    let manifests = document["manifests"].as_array().unwrap();
    let platforms = manifests.iter().map(|manifest| {
        let platform = &manifest["platform"];
        let name = |key: &str| platform[key].as_str().unwrap().to_owned();
        let platform = format!("{}/{}", name("os"), name("architecture"));
        (platform, manifest["digest"].clone())
    });
    let platforms: Value = platforms.collect::<serde_json::Map<_, _>>().into();
    let want = json!({
        "version": 1,
        "image": [{ "reference": base, "index": index, "platforms": platforms }],
    });
    assert_eq!(lock_file(&env), want);
    env.rbuild(["lock"]).success().is(str![[r#"
---- stderr ----
`rbuild.lock` is up to date

"#]]);

    push_marked(&env, "new", &base);
    assert_eq!(marks(&env, &[]), [""; 0]);
    assert_eq!(marks(&env, &["--pull"]), [""; 0], "the lock counts more");
    env.forget();
    assert_eq!(marks(&env, &["--locked"]), [""; 0], "by its digest");
    assert_eq!(lock_file(&env), want, "a build does not write it");
    env.rbuild(["lock"]).success();
    assert_eq!(lock_file(&env), want, "what is there stays");

    env.rbuild(["update", "--dry-run"]).success().is(str![[r#"
updated 127.0.0.1:[PORT]/base:1 [ID] → [ID]
---- stderr ----
`rbuild.lock` is as it was: `--dry-run`

"#]]);
    assert_eq!(lock_file(&env), want);
    env.rbuild(["update", "nothing"])
        .code(2)
        .fails_with(str![[r#"
error: `rbuild.lock` has no entry for `nothing`
hint: it has `127.0.0.1:[PORT]/base:1`
[exit status: 2]

"#]]);
    let short = format!("{}/base", registry.host());
    env.rbuild(["update", &short]).success().is(str![[r#"
updated 127.0.0.1:[PORT]/base:1 [ID] → [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    let (manifest, _) = raw(&env, &base);
    let want = json!([{ "reference": base, "platforms": { "linux/amd64": manifest } }]);
    assert_eq!(lock_file(&env)["image"], want);
    assert_eq!(marks(&env, &["--locked"]), ["new"]);
    env.rbuild(["update"]).success().is(str![[r#"
---- stderr ----
nothing has changed: 1 source was asked for

"#]]);
}

#[test]
fn locked_builds_of_a_warm_store_ask_nobody() {
    let registry = Registry::start();
    let env = TestEnv::new();
    let base = format!("{}/base:1", registry.host());
    push_marked(&env, "old", &base);
    env.write("Dockerfile", format!("FROM {base}\nLABEL a=1\n"));
    env.rbuild(["lock"]).success();
    assert_eq!(marks(&env, &["--locked"]), ["old"]);
    drop(registry);
    env.write("Dockerfile", format!("FROM {base}\nLABEL a=2\n"));
    assert_eq!(marks(&env, &["--locked"]), ["old"]);
    assert_eq!(marks(&env, &[]), ["old"]);
    env.rbuild(["lock", "--check"]).success();
    env.forget();
    env.rbuild(["--locked", "."])
        .code(3)
        .says("cannot be reached");
    env.rbuild(["--locked", "--offline", "."])
        .code(3)
        .fails_with(str![[r#"
error: `127.0.0.1:[PORT]/base:1@[DIGEST]` is not in the store, and `--offline` asks no registry
 --> Dockerfile:1:6
  |
1 | FROM 127.0.0.1:[PORT]/base:1
  |      ^^^^^^^^^^^^^^^^^^^^^^
  |
hint: build once without `--offline`
[exit status: 3]

"#]]);
}

#[test]
fn what_is_not_locked_is_told_at_its_line() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox AS one\nFROM scratch\nADD https://example.org/file /\nADD git://example.org/r#v1 /r\nCOPY --from=one /bin /bin\n",
    );
    env.rbuild(["--locked", "."]).code(2).fails_with(str![[r#"
error: there is no `rbuild.lock`, which `--locked` wants
hint: `rbuild lock` writes it
[exit status: 2]

"#]]);
    env.write("rbuild.lock", "version = 1\n");
    env.rbuild(["--locked", "."]).code(2).fails_with(str![[r#"
error: `rbuild.lock` has no entry for `docker.io/library/busybox:latest`
 --> Dockerfile:1:6
  |
1 | FROM busybox AS one
  |      ^^^^^^^ not locked
  |
hint: `rbuild lock`, with the flags of this build, adds it; without `--locked` it is taken as it is now

error: `rbuild.lock` has no entry for `https://example.org/file`
 --> Dockerfile:3:5
  |
3 | ADD https://example.org/file /
  |     ^^^^^^^^^^^^^^^^^^^^^^^^ not locked
  |
hint: `rbuild lock`, with the flags of this build, adds it; without `--locked` it is taken as it is now

error: `rbuild.lock` has no entry for `git://example.org/r#v1`
 --> Dockerfile:4:5
  |
4 | ADD git://example.org/r#v1 /r
  |     ^^^^^^^^^^^^^^^^^^^^^^ not locked
  |
hint: `rbuild lock`, with the flags of this build, adds it; without `--locked` it is taken as it is now
[exit status: 2]

"#]]);
    env.rbuild(["--locked", "--pull", "."])
        .code(2)
        .fails_with(str![[r#"
error: `--pull` asks what tags mean now, `--locked` does not
hint: `rbuild update` changes the lock file
[exit status: 2]

"#]]);
    env.write("rbuild.lock", "version = 1\n<<<<<<< HEAD\n");
    env.rbuild(["."]).code(2).fails_with(str![[r#"
error: `rbuild.lock` has conflicts of a merge in it
 --> rbuild.lock:2:1
  |
2 | <<<<<<< HEAD
  | ^^^^^^^^^^^^
  |
hint: take either side whole, then `rbuild lock` adds what is missing
[exit status: 2]

"#]]);

    env.write("rbuild.lock", "version = 1\n");
    env.write("Dockerfile", "FROM busybox\n");
    env.rbuild(["--progress=plain", "--debug", "."])
        .success()
        .says(
            "`rbuild.lock` has no entry for `docker.io/library/busybox:latest`: taken as it is now",
        );
}

#[test]
fn a_digest_in_the_file_needs_no_entry() {
    let registry = Registry::start();
    let env = TestEnv::new();
    let base = format!("{}/base:1", registry.host());
    push_marked(&env, "old", &base);
    let (digest, _) = raw(&env, &base);
    env.write("Dockerfile", format!("FROM {base}@{digest}\n"));
    env.rbuild(["lock"]).success().is(str![[r#"
---- stderr ----
wrote `rbuild.lock`

"#]]);
    assert_eq!(lock_file(&env), json!({ "version": 1 }));
    assert_eq!(marks(&env, &["--locked"]), ["old"]);
}

#[test]
fn a_url_that_gives_something_else_is_refused() {
    let env = TestEnv::new();
    let dir = env.outside("www");
    fs::create_dir(&dir).unwrap();
    let server = FileServer::start(dir.clone());
    let url = server.url("file");
    fs::write(dir.join("file"), "one\n").unwrap();
    let with_user = url.replace("//", "//user:s3cret@");
    env.write("Dockerfile", format!("FROM scratch\nADD {with_user} /\n"));
    env.rbuild(["lock"]).success();
    let sha256 = sha256_of(&env, "cat ../www/file");
    let want = json!([{ "url": url, "sha256": sha256 }]);
    assert_eq!(lock_file(&env)["url"], want, "for all to read");
    server.asked();

    env.rbuild(["--locked", "."]).success();
    assert_eq!(server.asked(), [""; 0]);
    fs::write(dir.join("file"), "another\n").unwrap();
    env.rbuild(["--locked", "."]).success();
    env.forget();
    env.rbuild(["."]).code(3).fails_with(str![[r#"
error: `http://127.0.0.1:[PORT]/file` should have digest [DIGEST], but has [DIGEST]
 --> Dockerfile:2:5
  |
2 | ADD http://user:s3cret@127.0.0.1:[PORT]/file /
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: `rbuild.lock` demands that digest; if the change is meant, `rbuild update http://127.0.0.1:[PORT]/file`
[exit status: 3]

"#]]);
    env.rbuild(["update", &url]).success().is(str![[r#"
updated http://127.0.0.1:[PORT]/file [ID] → [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    let sha256 = sha256_of(&env, "cat ../www/file");
    assert_eq!(lock_file(&env)["url"][0]["sha256"], sha256.as_str());
    env.rbuild(["--locked", "."]).success();
}

#[test]
fn a_branch_that_went_on_is_where_it_was() {
    let env = TestEnv::new();
    let root = env.outside("git");
    fs::create_dir_all(root.join("r")).unwrap();
    let git = |args: &str| -> String {
        let script = format!("cd ../git/r && git -c user.name=a -c user.email=a@b {args}");
        env.tool("sh", ["-c", &script]).success().stdout
    };
    let commit = |content: &str| -> String {
        fs::write(root.join("r/file"), content).unwrap();
        git("add .");
        git("commit -qm change");
        git("rev-parse HEAD").trim().to_owned()
    };
    git("-c init.defaultBranch=main init -q");
    let first = commit("one\n");
    git("tag -m message v1");
    let tag = git("rev-parse v1").trim().to_owned();
    let server = GitServer::start(root.clone());
    let url = server.url("r/.git");
    env.write(
        "Dockerfile",
        format!("FROM scratch\nADD {url}#main /r\nADD --checksum={tag} {url}#v1 /t\n"),
    );
    env.rbuild(["lock"]).success();
    let tagged = json!({ "remote": url, "ref": "v1", "checksum": tag, "commit": first });
    let branch = |commit: &str| json!({ "remote": url, "ref": "main", "commit": commit });
    assert_eq!(lock_file(&env)["git"], json!([branch(&first), tagged]));

    let second = commit("two\n");
    let file = || {
        let args = ["--locked", "-o", "type=tar,dest=../out.tar", "."];
        env.rbuild(args).success();
        let args = ["-xOf", "../out.tar", "r/file"];
        env.tool("tar", args).success().stdout
    };
    assert_eq!(file(), "one\n");
    env.rbuild(["update", &url]).success().is(str![[r#"
updated git://127.0.0.1:[PORT]/r/.git#main [ID] → [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    assert_eq!(lock_file(&env)["git"], json!([branch(&second), tagged]));
    assert_eq!(file(), "two\n");

    // Another demand is another source.
    env.write(
        "Dockerfile",
        format!("FROM scratch\nADD --checksum={second} {url}#main /r\n"),
    );
    env.rbuild(["--locked", "."]).code(2).says("no entry for");
    env.rbuild(["lock"]).success().is(str![[r#"
removed git://127.0.0.1:[PORT]/r/.git#main [ID]
added git://127.0.0.1:[PORT]/r/.git#main [ID]
removed git://127.0.0.1:[PORT]/r/.git#v1 [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    assert_eq!(file(), "two\n");
}

#[test]
fn a_context_that_is_an_archive_brings_its_lock() {
    let registry = Registry::start();
    let env = TestEnv::new();
    let base = format!("{}/base:1", registry.host());
    push_marked(&env, "old", &base);
    env.write("sub/Dockerfile", format!("FROM {base}\n"));
    env.rbuild(["lock", "sub"]).success();
    push_marked(&env, "new", &base);
    let www = env.outside("www");
    fs::create_dir(&www).unwrap();
    let server = FileServer::start(www);
    let pack = |name: &str| {
        let file = format!("../www/{name}");
        env.tool("tar", ["-cf", &file, "."]).success();
        server.url(name)
    };
    let with_lock = pack("with.tar");
    let args = ["--locked", "-f", "sub/Dockerfile"];
    assert_eq!(marks_of(&env, &args, &with_lock), ["old"]);
    fs::remove_file(env.path("sub/rbuild.lock")).unwrap();
    let without = pack("without.tar");
    env.rbuild([&args[..], &[&without]].concat())
        .code(2)
        .fails_with(str![[r#"
error: there is no lock file, which `--locked` wants
hint: it lies beside the file that is built; `rbuild lock DIRECTORY` writes it
[exit status: 2]

"#]]);
}

#[test]
fn all_stages_are_locked_and_nothing_else() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let registry = Registry::start();
    let host = registry.host();
    for name in ["one", "two", "three"] {
        push_marked(&env, name, &format!("{host}/{name}:latest"));
    }
    env.write(
        "Dockerfile",
        format!(
            "ARG WHICH=one\nFROM {host}/$WHICH AS unused\nFROM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin/sh /\n\
             ADD --chmod=600 Dockerfile /\n"
        ),
    );
    let names = || -> Vec<String> {
        let file = lock_file(&env);
        let images = file["image"].as_array().unwrap().iter();
        images
            .map(|image| image["reference"].as_str().unwrap().replace(&host, "HOST"))
            .collect()
    };
    let busybox = "docker.io/library/busybox:latest";
    env.rbuild(["lock", "--check"]).code(2).is(str![[r#"
added 127.0.0.1:[PORT]/one [ID]
added busybox [ID]
---- stderr ----
error: `rbuild.lock` is not up to date
hint: run `rbuild lock`
[exit status: 2]

"#]]);
    assert!(!env.path("rbuild.lock").exists());
    env.rbuild(["lock"]).success();
    assert_eq!(names(), ["HOST/one:latest", busybox]);
    env.rbuild(["lock", "--build-arg=WHICH=two", "--keep"])
        .success()
        .is(str![[r#"
added 127.0.0.1:[PORT]/two [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    assert_eq!(names(), ["HOST/one:latest", "HOST/two:latest", busybox]);
    env.rbuild(["--locked", "--build-arg=WHICH=two", "--target=unused", "."])
        .success();
    env.rbuild(["lock", "--build-arg=WHICH=three", "--target=unused"])
        .success();
    assert_eq!(names().len(), 4, "a target adds, and drops nothing");
    env.rbuild([
        "lock",
        "--build-context",
        &format!("tools=docker-image://{host}/two"),
    ])
    .success()
    .is(str![[r#"
removed 127.0.0.1:[PORT]/three [ID]
removed busybox [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    assert_eq!(names(), ["HOST/one:latest", "HOST/two:latest"]);

    env.rbuild(["lock", "--platform=linux/arm64"]).success();
    assert_eq!(lock_file(&env)["platforms"], json!(["linux/arm64"]));
    env.rbuild(["lock", "--platform=linux/amd64"]).success();
    env.rbuild(["lock"]).success();
    let platforms = json!(["linux/amd64", "linux/arm64"]);
    assert_eq!(lock_file(&env)["platforms"], platforms);
    env.rbuild(["lock", "--check"]).success().is(str![[r#"
---- stderr ----
`rbuild.lock` is up to date

"#]]);
}

/// Only the configs of its images tell: each is found out when it is asked for.
#[test]
fn an_index_that_names_no_platforms() {
    let registry = Registry::start();
    let env = TestEnv::new();
    multi_platform_base(&env, &registry, false);
    let base = format!("{}/base:1", registry.host());
    env.write("Dockerfile", format!("FROM {base}\n"));
    let (index, document) = raw(&env, &base);
    let [amd64, arm64] = [0, 1].map(|at| document["manifests"][at]["digest"].clone());
    let locked = || lock_file(&env)["image"][0].clone();
    env.rbuild(["lock", "--platform=linux/amd64"]).success();
    let platforms = json!({ "linux/amd64": amd64 });
    let want = json!({ "reference": base, "index": index, "platforms": platforms });
    assert_eq!(locked(), want);

    let args = ["--locked", "--platform=linux/arm64", "."];
    env.rbuild(args).success();
    env.rbuild(["lock", "--platform=linux/arm64"])
        .success()
        .is(str![[r#"
added 127.0.0.1:[PORT]/base:1 for linux/arm64 [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    let platforms = json!({ "linux/amd64": amd64, "linux/arm64": arm64 });
    let want = json!({ "reference": base, "index": index, "platforms": platforms });
    assert_eq!(locked(), want);
    env.rbuild(["update"]).success();
    assert_eq!(locked(), want);
    env.rbuild(["lock", "--platform=linux/s390x"])
        .code(3)
        .fails_with(str![[r#"
error: `127.0.0.1:[PORT]/base:1@[DIGEST]` has no image for linux/s390x: there is `linux/amd64`, `linux/arm64`
 --> Dockerfile:1:6
  |
1 | FROM 127.0.0.1:[PORT]/base:1
  |      ^^^^^^^^^^^^^^^^^^^^^^
[exit status: 3]

"#]]);
}

#[test]
fn images_of_the_own_store_are_left_out() {
    let registry = Registry::start();
    let env = TestEnv::new();
    let host = registry.host();
    push_marked(&env, "there", &format!("{host}/there"));
    env.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    env.rbuild(["-t", &format!("{host}/own"), "."]).success();
    env.write(
        "Dockerfile",
        format!("FROM {host}/own AS own\nFROM {host}/there\nCOPY --from=own / /\n"),
    );
    env.rbuild(["lock"]).success().is(str![[r#"
added 127.0.0.1:[PORT]/there [ID]
---- stderr ----
warning: `127.0.0.1:[PORT]/own` is in rbuild's own store alone, and is not locked
wrote `rbuild.lock`

"#]]);
    let output = env.rbuild(["--progress=plain", "--debug", "."]).success();
    assert!(!output.stderr.contains("no entry"), "{output}");
    env.rbuild(["--locked", "."]).code(2).says("/own:latest`");
}

#[test]
fn each_file_has_its_own_lock() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        .file("sub/api.Dockerfile", "FROM busybox\n");
    env.rbuild(["lock", "-f", "sub/api.Dockerfile"])
        .success()
        .is(str![[r#"
added busybox [ID]
---- stderr ----
wrote `sub/api.Dockerfile.lock`

"#]]);
    assert!(!env.path("rbuild.lock").exists());
    env.rbuild(["--locked", "-f", "sub/api.Dockerfile", "."])
        .success();
    env.rbuild(["update", "-f", "sub/api.Dockerfile"]).success();
    env.rbuild(["update"]).code(2).fails_with(str![[r#"
error: there is no `rbuild.lock`, which `rbuild update` would change
hint: `rbuild lock` writes it
[exit status: 2]

"#]]);
    env.rbuild(["lock", "git://127.0.0.1:1/r"])
        .code(2)
        .fails_with(str![[r#"
error: a lock file lies beside the file it is for: name a directory
[exit status: 2]

"#]]);
}

#[test]
fn bake_goes_by_the_locks_of_all_its_targets() {
    let registry = Registry::start();
    let env = TestEnv::new();
    let host = registry.host();
    for name in ["one", "two"] {
        let base = format!("{host}/{name}:latest");
        push_marked(&env, name, &base);
        env.write(&format!("{name}/Dockerfile"), format!("FROM {base}\n"));
        env.rbuild(["lock", name]).success();
    }
    env.write(
        "docker-bake.json",
        r#"{ "group": { "default": { "targets": ["one", "two"] } },
             "target": { "one": { "context": "one" }, "two": { "context": "two" } } }"#,
    );
    env.rbuild(["bake", "--locked"]).success();
    drop(registry);
    env.rbuild(["bake", "--locked"]).success();
    let text = fs::read_to_string(env.path("one/rbuild.lock")).unwrap();
    fs::remove_file(env.path("one/rbuild.lock")).unwrap();
    env.rbuild(["bake", "--locked"])
        .code(2)
        .fails_with(str![[r#"
error: `two/rbuild.lock` has no entry for `127.0.0.1:[PORT]/one:latest`
 --> one/Dockerfile:1:6
  |
1 | FROM 127.0.0.1:[PORT]/one:latest
  |      ^^^^^^^^^^^^^^^^^^^^^^^^^^ not locked
  |
hint: `rbuild lock`, with the flags of this build, adds it; without `--locked` it is taken as it is now
[exit status: 2]

"#]]);
    let other = text.replace("/one:", "/two:");
    env.write("one/rbuild.lock", other);
    env.rbuild(["bake"]).code(2).fails_with(str![[r#"
error: lock files of this build differ about `127.0.0.1:[PORT]/two:latest`
 --> two/rbuild.lock:1:1
  |
1 | # Written by `rbuild lock` and `rbuild update`: what the sources of builds in this directory are.
  | ^ one of them
  |
hint: `rbuild update 127.0.0.1:[PORT]/two:latest` in the directory of each
[exit status: 2]

"#]]);
}

#[test]
fn plans_are_locked_as_dockerfiles_are() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let dir = env.outside("www");
    fs::create_dir(&dir).unwrap();
    for name in ["in-output", "in-test"] {
        fs::write(dir.join(name), name).unwrap();
    }
    let server = FileServer::start(dir);
    let plan = format!(
        r#"
schema = 1
default = ["app"]
[inputs]
base = {{ image = "busybox" }}
extra = {{ url = "{}" }}
tested = {{ url = "{}" }}
[step.app]
from = "base"
[step.more]
from = "base"
copy = [{{ from = "extra", to = "/" }}]
[output.app]
step = "app"
[output.more]
step = "more"
[test.works]
from = "base"
copy = [{{ from = "tested", to = "/" }}]
run = ["true"]
"#,
        server.url("in-output"),
        server.url("in-test")
    );
    env.write("rbuild.toml", plan);
    env.write("rbuild.lock", "version = 1\n");
    env.rbuild(["--locked", "."])
        .code(2)
        .fails_with(str![[r#"
error: `rbuild.lock` has no entry for `docker.io/library/busybox:latest`
 --> rbuild.toml:5:18
  |
5 | base = { image = "busybox" }
  |                  ^^^^^^^^^ not locked
  |
hint: `rbuild lock`, with the flags of this build, adds it; without `--locked` it is taken as it is now
[exit status: 2]

"#]]);
    env.rbuild(["lock"]).success().is(str![[r#"
added busybox [ID]
added http://127.0.0.1:[PORT]/in-output [ID]
added http://127.0.0.1:[PORT]/in-test [ID]
---- stderr ----
wrote `rbuild.lock`

"#]]);
    let other = format!("inputs.extra.url={:?}", server.url("in-test"));
    env.rbuild(["lock", "--check", "--set", &other])
        .code(2)
        .is(str![[r#"
removed http://127.0.0.1:[PORT]/in-output [ID]
---- stderr ----
error: `rbuild.lock` is not up to date
hint: run `rbuild lock`
[exit status: 2]

"#]]);
    server.asked();
    env.rbuild(["build", "--locked", ".", "more"]).success();
    assert_eq!(server.asked(), [""; 0]);
}
