//! Under what names images go to registries and to rbuild's own store, as skopeo finds them.

use std::fs;

use serde_json::Value;

use super::files_only;
use crate::support::Registry;
use crate::support::TestEnv;

fn metadata(env: &TestEnv) -> Value {
    serde_json::from_slice(&fs::read(env.path("meta.json")).unwrap()).unwrap()
}

/// Builds with one output, and gives the image's digest and `image.name`.
fn build(env: &TestEnv, output: &str) -> (String, String) {
    env.rbuild(["-o", output, "--metadata-file", "meta.json", "."])
        .success();
    let metadata = metadata(env);
    let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
    (text("containerimage.digest"), text("image.name"))
}

fn digest_in_registry(env: &TestEnv, name: &str) -> String {
    let from = format!("docker://{name}");
    let args = [
        // The repository may have no tags to list.
        "inspect",
        "--no-tags",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &from,
    ];
    env.tool("skopeo", args).success().stdout.trim().to_owned()
}

/// The registry knows of no tag in a repository.
fn assert_untagged(env: &TestEnv, repository: &str) {
    let from = format!("docker://{repository}");
    env.tool("skopeo", ["list-tags", "--tls-verify=false", &from])
        .code(1)
        .says("fetching tags list: invalid status code from registry 404");
}

#[test]
fn several_names_in_one_output() {
    let (env, registry) = (files_only(), Registry::start());
    let [a, b] = ["a", "b"].map(|tag| format!("{}/app:{tag}", registry.host()));
    let (digest, names) = build(
        &env,
        &format!("type=registry,\"name={a},{b}\",name-canonical=true"),
    );
    assert_eq!(names, format!("{a},{b}"));
    for name in [&a, &b] {
        assert_eq!(digest_in_registry(&env, name), digest);
        let canonical = format!("{name}@{digest}");
        env.rbuild(["inspect", &canonical]).success();
    }
}

#[test]
fn by_digest_alone() {
    let (env, registry) = (files_only(), Registry::start());
    let repository = format!("{}/app", registry.host());
    let output = format!("type=image,push=true,push-by-digest=true,name={repository}");
    let (digest, name) = build(&env, &output);
    assert_eq!(name, format!("{repository}@{digest}"));
    assert_eq!(digest_in_registry(&env, &name), digest);
    assert_untagged(&env, &repository);
    // An index and what it points at.
    let platforms = "--platform=amd64,arm64";
    env.rbuild([
        platforms,
        "-o",
        &output,
        "--metadata-file",
        "meta.json",
        ".",
    ])
    .success();
    let name = metadata(&env)["image.name"].as_str().unwrap().to_owned();
    let copy = format!("oci:{}:all", env.outside("all").display());
    let from = format!("docker://{name}");
    let insecure = "--src-tls-verify=false";
    env.tool(
        "skopeo",
        ["copy", "--quiet", "--all", insecure, &from, &copy],
    )
    .success();
    assert_untagged(&env, &repository);
}

#[test]
fn an_image_without_a_name_has_its_digest_behind_a_prefix() {
    let (env, registry) = (files_only(), Registry::start());
    let prefix = format!("{}/dangling", registry.host());
    let (digest, name) = build(
        &env,
        &format!("type=registry,dangling-name-prefix={prefix}"),
    );
    assert_eq!(name, format!("{prefix}@{digest}"));
    assert_eq!(digest_in_registry(&env, &name), digest);
    assert_untagged(&env, &prefix);

    let named = format!("{}/app:1", registry.host());
    let both = format!("type=registry,name={named},dangling-name-prefix={prefix}");
    assert_eq!(build(&env, &both).1, format!("{named},{name}"));
    assert_eq!(
        build(&env, &format!("{both},danging-name-empty-only=true")).1,
        named
    );
}

#[test]
fn only_in_the_registry() {
    let (env, registry) = (files_only(), Registry::start());
    let name = format!("{}/app:1", registry.host());
    let (digest, _) = build(&env, &format!("type=registry,store=false,name={name}"));
    assert_eq!(digest_in_registry(&env, &name), digest);
    let listed = env.rbuild(["images"]).success().stdout;
    assert!(!listed.contains(&registry.host()), "{listed}");
}

/// Whatever the configuration says of the registry.
#[test]
fn a_registry_without_tls() {
    let (env, registry) = (files_only(), Registry::start());
    let config = env.outside("home/.config/rbuild");
    fs::create_dir_all(&config).unwrap();
    let tls = format!("[registry.\"{}\"]\nhttp = false\n", registry.host());
    fs::write(config.join("config.toml"), tls).unwrap();
    let output = format!("type=registry,name={}/app:1", registry.host());
    env.rbuild(["-o", &output, "."]).code(3);
    build(&env, &format!("{output},registry.insecure=true"));
    digest_in_registry(&env, &format!("{}/app:1", registry.host()));
}
