//! Images that nodes push, and their names, which are pushed from here.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;

use super::*;
use crate::outcome::Delivery;

/// What a registry was sent.
type Taken = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A registry that takes every manifest, and remembers them by their paths; it has this one.
fn registry(there: Vec<u8>) -> (u16, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Taken::default();
    let seen = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap_or(0) > 0 {}
                let path = format!("/manifests/{}", Descriptor::of("", &there).digest);
                if head.starts_with("GET ") && head.contains(&path) {
                    let kind = Format::Oci.manifest();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                        there.len()
                    );
                    let stream = stream.get_mut();
                    stream.write_all(answer.as_bytes()).unwrap();
                    stream.write_all(&there).unwrap();
                    continue;
                }
                let Some(path) = head.strip_prefix("PUT ") else {
                    break;
                };
                let path = path.split(' ').next().unwrap().to_owned();
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    let is_length = name.eq_ignore_ascii_case("content-length");
                    is_length.then(|| value.parse::<usize>().unwrap())
                });
                let mut body = vec![0; length.unwrap()];
                stream.read_exact(&mut body).unwrap();
                seen.lock().unwrap().push((path, body));
                let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
        }
    });
    (port, taken)
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
    let (port, taken) = registry(Vec::new());
    let kind = OutputKind::Image(ImageOutput::with_push(Push::ByName));
    let mut project = Project::new(&["linux/amd64", "linux/arm64"], kind);
    let names = ["a", "b"].map(|tag| format!("127.0.0.1:{port}/app:{tag}"));
    let tags = names.iter().map(|name| Tag {
        target: None,
        name: name.clone(),
    });
    project.request.tags = tags.collect();
    let outcome = project
        .build(vec![at("amd", &amd), at("arm", &arm)])
        .unwrap();

    let taken = taken.lock().unwrap().clone();
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
        let exports = fake.stop().exports;
        let [(exporter, options)] = exports.as_slice() else {
            panic!("{exports:?}");
        };
        assert_eq!(exporter, "image");
        assert_eq!(options["name"], format!("127.0.0.1:{port}/app"));
        assert_eq!(options["push-by-digest"], "true");
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
    let (port, taken) = registry(manifest.clone());
    let kind = OutputKind::Image(ImageOutput::with_push(Push::ByName));
    let mut project = Project::new(&["linux/amd64"], kind);
    let names = ["a", "b"].map(|tag| format!("127.0.0.1:{port}/app:{tag}"));
    let tags = names.iter().map(|name| Tag {
        target: None,
        name: name.clone(),
    });
    project.request.tags = tags.collect();
    let outcome = project
        .build(vec![at("one", &one), at("two", &two)])
        .unwrap();
    let pushed = names.map(|name| Delivery::Pushed { name, digest });
    assert_eq!(outcome.built[0].deliveries, pushed);
    let want = ["a", "b"].map(|tag| (format!("/v2/app/manifests/{tag}"), manifest.clone()));
    assert_eq!(*taken.lock().unwrap(), want);
    let exports = [one, two].map(|fake| fake.stop().exports).concat();
    let [(exporter, options)] = exports.as_slice() else {
        panic!("{exports:?}");
    };
    assert_eq!(exporter, "image");
    assert_eq!(options["name"], format!("127.0.0.1:{port}/app"));
    assert_eq!(options["push-by-digest"], "true");
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
    let (port, taken) = registry(Vec::new());
    let kind = OutputKind::Image(ImageOutput::with_push(Push::ByName));
    let mut project = Project::new(&["linux/amd64", "linux/arm64"], kind);
    project.request.tags = vec![Tag {
        target: None,
        name: format!("127.0.0.1:{port}/app:a"),
    }];
    let built = project.build(vec![at("amd", &amd), at("arm", &arm)]);
    let error = built.unwrap_err().to_string();
    assert!(error.contains("does not say what it pushed"), "{error}");
    assert!(taken.lock().unwrap().is_empty());
}
