//! What is about an image: against Debian's `docker-registry`, which has no API for it, and against a scripted server that
//! has one, well or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use rbuild_llb::OciDigest;
use serde_json::Value;
use serde_json::json;

use super::distribution::Registry;
use super::distribution::skopeo;
use super::fixture::client;
use super::fixture::settings;
use super::http::chain;
use super::http::reference;
use super::server::Asked;
use super::server::Reply;
use super::server::Server;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Manifest;
use crate::image::media_type;
use crate::registry::Client;
use crate::registry::Reference;
use crate::registry::RegistryError;

const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A manifest about another; `n` tells those of one type apart.
fn about(subject: &Descriptor, kind: &str, n: u32) -> Vec<u8> {
    let mut manifest = Manifest::new(Format::Oci, Descriptor::of(EMPTY, b"{}"), Vec::new());
    manifest.artifact_type = Some(kind.to_owned());
    manifest.subject = Some(Box::new(subject.clone()));
    manifest.annotations = BTreeMap::from([("n".to_owned(), n.to_string())]);
    manifest.to_json()
}

fn subject() -> Descriptor {
    Descriptor::of(media_type::OCI_MANIFEST, b"an image")
}

/// As the specification's lists have it.
fn entry(kind: &str, n: u32) -> Value {
    let bytes = about(&subject(), kind, n);
    let of = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    json!({"mediaType": of.media_type, "digest": of.digest, "size": of.size, "artifactType": kind, "annotations": {"n": n.to_string()}})
}

fn list(entries: &[Value]) -> Reply {
    let list =
        json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    Reply::new(200)
        .header("Content-Type", media_type::OCI_INDEX)
        .body(list.to_string())
}

fn listed(host: &str, kind: Option<&str>) -> Result<Vec<Descriptor>, RegistryError> {
    client(&settings()).referrers(&reference(host, "team/app:1"), subject().digest, kind)
}

fn numbers(entries: &[Descriptor]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| &*entry.annotations["n"])
        .collect()
}

#[test]
fn a_list_is_asked_for_page_by_page_and_by_type() {
    let server = Server::start(|asked| match asked.target.split_once("page=") {
        // It has not sorted out, whatever it says.
        None => list(&[entry(SBOM, 1), entry(SIGNATURE, 2)])
            .header("OCI-Filters-Applied", "artifactType")
            .header("Link", "<?page=2>; rel=\"next\""),
        Some((_, "2")) => list(&[entry(SBOM, 3), entry(SBOM, 1)]).header(
            "Link",
            format!("<{}3>; rel=next", asked.target.trim_end_matches('2')),
        ),
        Some(_) => list(&[json!({"digest": "sha512:00", "size": 1}), entry(SBOM, 4)]),
    });
    assert_eq!(
        numbers(&listed(&server.host, Some(SBOM)).unwrap()),
        ["1", "3", "4"]
    );
    let path = format!("GET /v2/team/app/referrers/{}", subject().digest);
    assert_eq!(
        server.lines(),
        [
            format!("{path}?artifactType=application%2Fspdx%2Bjson"),
            format!("{path}?page=2"),
            format!("{path}?page=3"),
        ]
    );
    assert_eq!(
        numbers(&listed(&server.host, None).unwrap()),
        ["1", "2", "3", "4"]
    );
    let asked = server.asked();
    assert_eq!(asked[3].target, path["GET ".len()..]);
    assert_eq!(asked[3].header("accept"), Some(media_type::OCI_INDEX));
}

#[test]
fn without_an_api_the_tag_is_asked() {
    let tag = format!("sha256-{}", subject().digest.hex());
    let page = || {
        Reply::new(200)
            .header("Content-Type", "text/html")
            .body("<html>")
    };
    for no in [Reply::new(404), Reply::new(405), Reply::new(406), page()] {
        let name = tag.clone();
        let server = Server::start(move |asked| match asked.target.contains("/referrers/") {
            true => no.clone(),
            false if asked.target.ends_with(&name) => list(&[entry(SBOM, 1), entry(SIGNATURE, 2)]),
            false => Reply::new(404),
        });
        assert_eq!(
            numbers(&listed(&server.host, Some(SIGNATURE)).unwrap()),
            ["2"]
        );
        let last = server.lines().pop().unwrap();
        assert_eq!(last, format!("GET /v2/team/app/manifests/{tag}"));
    }
    // Where nobody has said anything the tag is not there.
    let server = Server::start(|_| Reply::new(404));
    assert_eq!(listed(&server.host, None).unwrap(), []);
}

#[test]
fn lists_that_lie_or_have_no_end_are_refused() {
    let many: Vec<Value> = (0..10_000).map(|n| entry(SBOM, n)).collect();
    let image = Manifest::new(Format::Oci, Descriptor::of(EMPTY, b"{}"), Vec::new());
    type Answer = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;
    let answers: [(Answer, &str); 8] = [
        (
            Box::new(|_| list(&[]).header("Link", "<?again>; rel=next")),
            "has no end",
        ),
        (
            Box::new(|asked| {
                let next = format!("<{}x>; rel=next", asked.target);
                list(&[]).header("Link", next)
            }),
            "has no end",
        ),
        (
            Box::new(|_| list(&[]).header("Link", "<http://127.0.0.1:1/v2/>; rel=next")),
            "goes on at another host",
        ),
        (
            Box::new(move |asked| {
                let next = format!("<{}x>; rel=next", asked.target);
                list(&many).header("Link", next)
            }),
            "is larger than the 16777216 bytes",
        ),
        (
            Box::new(|_| list(&[]).body(vec![b' '; (4 << 20) + 1])),
            "is larger than the 4194304 bytes",
        ),
        (
            Box::new(|_| list(&[]).body("{")),
            "cannot be read as a manifest or index",
        ),
        (
            Box::new(move |_| list(&[]).body(image.to_json())),
            "which its fields contradict",
        ),
        (
            Box::new(|_| list(&[json!({"digest": "sha256:../../x", "size": 1})])),
            "cannot be read as a manifest or index",
        ),
    ];
    for (answer, want) in answers {
        let server = Server::start(answer);
        let told = chain(&listed(&server.host, None).unwrap_err());
        assert!(told.contains(want), "{told}");
    }
}

#[test]
fn what_a_list_names_is_compared_with_it() {
    let right = about(&subject(), SBOM, 1);
    let other = about(&Descriptor::of(media_type::OCI_MANIFEST, b"other"), SBOM, 1);
    let none = Manifest::new(Format::Oci, Descriptor::of(EMPTY, b"{}"), Vec::new()).to_json();
    let of = |bytes: &[u8]| Descriptor::of(media_type::OCI_MANIFEST, bytes);
    let longer = Descriptor {
        size: 7,
        ..of(&right)
    };
    for (entry, bytes, want) in [
        (of(&right), &right, ""),
        (of(&right), &other, "should have digest"),
        (longer, &right, "should have 7 bytes"),
        (of(&other), &other, "and is not about it"),
        (of(&none), &none, "and is not about it"),
    ] {
        let served = bytes.clone();
        let server = Server::start(move |_| {
            Reply::new(200)
                .header("Content-Type", media_type::OCI_MANIFEST)
                .body(served.clone())
        });
        let of = reference(&server.host, "team/app:1");
        let found = client(&settings()).referrer(&of, &subject().digest, &entry);
        match found {
            Ok((_, found)) => assert!(want.is_empty() && found == *bytes),
            Err(error) => assert!(!want.is_empty() && chain(&error).contains(want), "{error}"),
        }
    }
}

fn push(client: &Client, to: &Reference, bytes: &[u8]) -> Result<OciDigest, RegistryError> {
    let exact = to.with_digest(Descriptor::of("", bytes).digest);
    client.push_manifest(&exact, media_type::OCI_MANIFEST, bytes)
}

#[test]
fn a_registry_that_notes_the_subject_itself_is_told_no_more() {
    let server =
        Server::start(|_| Reply::new(201).header("OCI-Subject", subject().digest.to_string()));
    let to = reference(&server.host, "team/app:1");
    push(&client(&settings()), &to, &about(&subject(), SBOM, 1)).unwrap();
    // Nor is one about what is about nothing.
    let image = Manifest::new(Format::Oci, Descriptor::of(EMPTY, b"{}"), Vec::new());
    let plain = Server::start(|_| Reply::new(201));
    let to = reference(&plain.host, "team/app:1");
    push(&client(&settings()), &to, &image.to_json()).unwrap();
    for server in [server, plain] {
        assert_eq!(server.lines().len(), 1, "{:?}", server.lines());
    }
}

/// A registry that keeps one list under its tag, and knows versions of it. Before the first list is taken somebody else
/// writes theirs.
fn contested(etag: fn(u32) -> String) -> (Server, Arc<Mutex<(u32, Value)>>) {
    let theirs = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry(SBOM, 1)], "annotations": {"by": "them"}});
    let kept = Arc::new(Mutex::new((1, theirs)));
    let state = Arc::clone(&kept);
    let server = Server::start(move |asked| {
        let mut state = state.lock().unwrap();
        let is_list = asked.target.contains("/manifests/sha256-");
        match asked.method.as_str() {
            "GET" if is_list => Reply::new(200)
                .header("Content-Type", media_type::OCI_INDEX)
                .header("ETag", etag(state.0))
                .body(state.1.to_string()),
            "PUT" if is_list => {
                if state.0 == 1 {
                    state.0 = 2;
                    let entries = state.1["manifests"].as_array_mut().unwrap();
                    entries.push(entry(SBOM, 2));
                }
                let expected = asked.header("if-match");
                if expected.is_some_and(|expected| expected != etag(state.0)) {
                    return Reply::new(412);
                }
                state.0 += 1;
                state.1 = serde_json::from_slice(&asked.body).unwrap();
                Reply::new(201)
            }
            _ => Reply::new(201),
        }
    });
    (server, kept)
}

#[test]
fn a_list_that_changed_meanwhile_is_read_again() {
    let (server, kept) = contested(|version| format!("\"{version}\""));
    let to = reference(&server.host, "team/app:1");
    for _ in 0..2 {
        // Who is in the list already is not written again.
        push(&client(&settings()), &to, &about(&subject(), SIGNATURE, 3)).unwrap();
        let (version, list) = kept.lock().unwrap().clone();
        assert_eq!(version, 3);
        assert_eq!(
            list["manifests"],
            json!([entry(SBOM, 1), entry(SBOM, 2), entry(SIGNATURE, 3)])
        );
        assert_eq!(list["annotations"], json!({"by": "them"}));
    }
    // No condition is made of a version that none can hold for (RFC 9110, section 13.1.1).
    let (server, kept) = contested(|version| format!("W/\"{version}\""));
    let to = reference(&server.host, "team/app:1");
    push(&client(&settings()), &to, &about(&subject(), SIGNATURE, 3)).unwrap();
    assert_eq!(kept.lock().unwrap().0, 3);
}

#[test]
fn a_list_that_is_none_is_left_alone() {
    let image = Manifest::new(Format::Oci, Descriptor::of(EMPTY, b"{}"), Vec::new()).to_json();
    let server = Server::start(move |asked| match asked.method.as_str() {
        "GET" => Reply::new(200)
            .header("Content-Type", media_type::OCI_MANIFEST)
            .body(image.clone()),
        _ => Reply::new(201),
    });
    let to = reference(&server.host, "team/app:1");
    let error = push(&client(&settings()), &to, &about(&subject(), SBOM, 1)).unwrap_err();
    let told = chain(&error);
    assert!(told.contains("the list of what is about sha256:"), "{told}");
    let puts = server
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("PUT "));
    assert_eq!(puts.count(), 1);
}

/// Many at once into one list, and one by hand before them: skopeo reads it.
#[test]
fn lists_of_a_registry_without_an_api_grow() {
    let registry = Registry::plain();
    let to = registry.reference("team/app:1");
    let client = client(&settings());
    let config = || Ok(Box::new(&b"{}"[..]) as Box<dyn std::io::Read>);
    let empty = Descriptor::of(EMPTY, b"{}");
    client
        .push_blob(&to, &empty.digest, empty.size, None, &config)
        .unwrap();
    let referrers: Vec<Vec<u8>> = (0..8).map(|n| about(&subject(), SBOM, n)).collect();
    std::thread::scope(|scope| {
        for bytes in &referrers {
            scope.spawn(|| push(&client, &to, bytes).unwrap());
        }
    });
    let tag = format!(
        "docker://{}/team/app:sha256-{}",
        registry.host,
        subject().digest.hex()
    );
    let seen: Value =
        serde_json::from_str(&skopeo(&["inspect", "--raw", "--tls-verify=false", &tag])).unwrap();
    let mut seen = seen["manifests"].as_array().unwrap().clone();
    seen.sort_by_key(|entry| entry["annotations"]["n"].to_string());
    let want: Vec<Value> = (0..8).map(|n| entry(SBOM, n)).collect();
    assert_eq!(seen, want);
    let found = client.referrers(&to, subject().digest, Some(SBOM)).unwrap();
    assert_eq!(found.len(), 8);
    assert_eq!(
        client
            .referrers(&to, subject().digest, Some(SIGNATURE))
            .unwrap(),
        []
    );
    for entry in &found {
        client.referrer(&to, &subject().digest, entry).unwrap();
    }
}
