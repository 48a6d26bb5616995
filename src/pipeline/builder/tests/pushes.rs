//! Images that nodes push, and their names, which are pushed from here.

use super::*;
use crate::outcome::Delivery;
use crate::registry::tests::server::Reply;
use crate::registry::tests::server::Server;

/// A registry that takes every manifest; it has this one.
fn registry(there: Vec<u8>) -> Server {
    let digest = Descriptor::of("", &there).digest;
    let path = format!("/v2/app/manifests/{digest}");
    Server::start(move |asked| match asked.method.as_str() {
        "GET" if asked.target == path => Reply::new(200)
            .header("Content-Type", Format::Oci.manifest())
            .body(there.clone()),
        "PUT" => Reply::new(201),
        _ => Reply::new(404),
    })
}

/// What it was sent, by the path.
fn taken(registry: &Server) -> Vec<(String, Vec<u8>)> {
    let asked = registry.asked().into_iter();
    let puts = asked.filter(|asked| asked.method == "PUT");
    puts.map(|asked| (asked.target, asked.body)).collect()
}

/// A project whose image is pushed to a registry under two tags.
fn pushed_to(registry: &Server, platforms: &[&str]) -> (Project, [String; 2]) {
    let kind = OutputKind::Image(ImageOutput::with_push(Push::ByName));
    let mut project = Project::new(platforms, kind);
    let names = ["a", "b"].map(|tag| format!("{}/app:{tag}", registry.host));
    let tags = names.iter().map(|name| Tag {
        target: None,
        name: name.clone(),
    });
    project.request.tags = tags.collect();
    (project, names)
}

/// What a node was asked for: to push by the digest alone.
fn assert_by_digest(exports: &[(String, HashMap<String, String>)], registry: &Server) {
    let [(exporter, options)] = exports else {
        panic!("{exports:?}");
    };
    assert_eq!(exporter, "image");
    assert_eq!(options["name"], format!("{}/app", registry.host));
    assert_eq!(options["push-by-digest"], "true");
}

#[test]
fn an_index_is_pushed_once_all_is_there() {
    let digest = |arch: &str| Descriptor::of("", arch.as_bytes()).digest;
    let start = |arch: &'static str| {
        Fake::start(Script {
            platforms: vec![arch],
            ..Script::asked(move |_, _| async move {
                let image = Descriptor::of(Format::Oci.manifest(), arch.as_bytes());
                let json = serde_json::to_vec(&image).unwrap();
                use base64::Engine as _;
                let json = base64::prelude::BASE64_STANDARD.encode(json);
                Ok(HashMap::from([
                    ("containerimage.digest".to_owned(), image.digest.to_string()),
                    ("containerimage.descriptor".to_owned(), json),
                ]))
            })
        })
    };
    let (amd, arm) = (start("amd64"), start("arm64"));
    let registry = registry(Vec::new());
    let (mut project, names) = pushed_to(&registry, &["linux/amd64", "linux/arm64"]);
    let outcome = project
        .build(vec![at("amd", &amd), at("arm", &arm)])
        .unwrap();

    let taken = taken(&registry);
    let paths: Vec<&str> = taken.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/v2/app/manifests/a", "/v2/app/manifests/b"]);
    let index: Index = serde_json::from_slice(&taken[0].1).unwrap();
    let by_platform = index.by_platform();
    for arch in ["amd64", "arm64"] {
        let platform = Platform::new("linux", arch, "");
        assert_eq!(by_platform[&platform], digest(arch));
    }
    let top = Descriptor::of(Format::Oci.index(), &taken[0].1).digest;
    let pushed = names.map(|name| Delivery::Pushed { name, digest: top });
    assert_eq!(outcome.built[0].deliveries, pushed);
    // Nodes push by digests alone.
    for fake in [amd, arm] {
        assert_by_digest(&fake.stop().exports, &registry);
    }
}

/// A node that was given up may push late: it knows no tags.
#[test]
fn an_image_for_one_platform_gets_its_tags_from_here() {
    let config = Descriptor::of(Format::Oci.config(), b"{}");
    let manifest = Manifest::new(Format::Oci, config, Vec::new()).to_json();
    let digest = Descriptor::of("", &manifest).digest;
    let start = || {
        Fake::start(Script::asked(move |_, _| async move {
            let digest = ("containerimage.digest".to_owned(), digest.to_string());
            Ok(HashMap::from([digest]))
        }))
    };
    let (one, two) = (start(), start());
    let registry = registry(manifest.clone());
    let (mut project, names) = pushed_to(&registry, &["linux/amd64"]);
    let outcome = project
        .build(vec![at("one", &one), at("two", &two)])
        .unwrap();
    let pushed = names.map(|name| Delivery::Pushed { name, digest });
    assert_eq!(outcome.built[0].deliveries, pushed);
    let want = ["a", "b"].map(|tag| (format!("/v2/app/manifests/{tag}"), manifest.clone()));
    assert_eq!(taken(&registry), want);
    let exports = [one, two].map(|fake| fake.stop().exports).concat();
    assert_by_digest(&exports, &registry);
}

#[test]
fn no_index_is_made_of_what_is_not_described() {
    let start = |arch: &'static str| {
        Fake::start(Script {
            platforms: vec![arch],
            ..Script::asked(move |_, _| async move {
                let digest = Descriptor::of("", arch.as_bytes()).digest.to_string();
                Ok(HashMap::from([(
                    "containerimage.digest".to_owned(),
                    digest,
                )]))
            })
        })
    };
    let (amd, arm) = (start("amd64"), start("arm64"));
    let registry = registry(Vec::new());
    let (mut project, _) = pushed_to(&registry, &["linux/amd64", "linux/arm64"]);
    let built = project.build(vec![at("amd", &amd), at("arm", &arm)]);
    let error = built.unwrap_err().to_string();
    assert!(error.contains("does not say what it pushed"), "{error}");
    assert_eq!(taken(&registry), []);
}
