//! What the client does with hostile, overloaded and picky servers.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;

use super::fixture::Blobs;
use super::fixture::client;
use super::fixture::platform;
use super::fixture::settings;
use super::server::Asked;
use super::server::Reply;
use super::server::Server;
use crate::image::Descriptor;
use crate::image::Format;
use crate::registry::Client;
use crate::registry::MAX_DOCUMENT;
use crate::registry::Reference;
use crate::registry::RegistryError;
use crate::request::RegistrySettings;
use crate::request::Settings;

fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().unwrap()
}

/// Answers like a registry that has `blobs` and one tag.
fn registry(blobs: &Blobs, tag: &Descriptor, asked: &Asked) -> Reply {
    let last = asked
        .target
        .split('?')
        .next()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap();
    let digest = last.parse::<OciDigest>().unwrap_or(tag.digest);
    let Some(bytes) = blobs.0.get(&digest) else {
        return Reply::new(404)
            .body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
    };
    Reply::new(200)
        .header("Content-Type", "application/octet-stream")
        .header("Docker-Content-Digest", digest.to_string())
        .body(bytes.clone())
}

fn one_image() -> (Blobs, Descriptor) {
    let mut blobs = Blobs::default();
    let tag = blobs.image(Format::Oci, &platform("linux/amd64"), "hello");
    (blobs, tag)
}

/// Serves one image; `first` may answer before.
fn serve(first: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> (Server, Descriptor) {
    let (blobs, tag) = one_image();
    let found = tag.clone();
    let server =
        Server::start(move |asked| first(asked).unwrap_or_else(|| registry(&blobs, &tag, asked)));
    (server, found)
}

fn resolve(client: &Client, reference: &Reference) -> Result<OciDigest, RegistryError> {
    let resolved = client.resolve(reference, &platform("linux/amd64"))?;
    Ok(resolved.manifest_digest)
}

/// Writes a docker config; returns settings that use it.
fn with_config(dir: &tempfile::TempDir, json: &str) -> Settings {
    let path = dir.path().join("config.json");
    std::fs::write(&path, json).unwrap();
    Settings {
        docker_config: Some(path),
        ..settings()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[test]
fn tokens_are_fetched_once_with_the_users_password() {
    let (server, tag) = serve(|asked| {
        let host = asked.header("host").unwrap();
        if asked.target.starts_with("/token") {
            return Some(Reply::new(200).body(r#"{"token":"open-sesame","expires_in":60}"#));
        }
        (asked.header("authorization") != Some("Bearer open-sesame")).then(|| {
            Reply::new(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{host}/token?a=b",service="r s",scope="repository:a/b:pull""#),
            )
        })
    });
    let dir = tempfile::tempdir().unwrap();
    // From `printf 'Aladdin:open sesame' | base64` (RFC 7617, section 2).
    let json = r#"{"auths":{"HOST":{"auth":"QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}}}"#;
    let client = client(&with_config(&dir, &json.replace("HOST", &server.host)));
    let reference = reference(&server.host, "a/b:1");
    assert_eq!(resolve(&client, &reference).unwrap(), tag.digest);
    assert_eq!(client.head(&reference).unwrap(), tag.digest);
    let asked = server.asked();
    let tokens: Vec<_> = asked
        .iter()
        .filter(|a| a.target.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].target,
        "/token?a=b&service=r%20s&scope=repository%3Aa%2Fb%3Apull&account=Aladdin"
    );
    assert_eq!(
        tokens[0].header("authorization"),
        Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    );
    assert_eq!(
        server.lines()[..3],
        [
            "GET /v2/a/b/manifests/1",
            tokens[0].line().as_str(),
            "GET /v2/a/b/manifests/1"
        ]
    );
    // Manifest, config, HEAD: no further challenge.
    assert_eq!(asked.len(), 5);
}

#[test]
fn refused_tokens_are_renewed() {
    let valid = Arc::new(AtomicU32::new(0));
    let (server, tag) = serve(move |asked| {
        let host = asked.header("host").unwrap();
        if asked.target.starts_with("/token") {
            let n = valid.fetch_add(1, Ordering::SeqCst) + 1;
            return Some(Reply::new(200).body(format!(r#"{{"access_token":"t{n}"}}"#)));
        }
        // The first token is good for one request.
        let good = match asked.header("authorization") {
            Some("Bearer t1") => asked.target.contains("manifests"),
            Some("Bearer t2") => true,
            _ => false,
        };
        (!good).then(|| {
            Reply::new(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{host}/token""#),
            )
        })
    });
    let client = client(&settings());
    assert_eq!(
        resolve(&client, &reference(&server.host, "a/b")).unwrap(),
        tag.digest
    );
}

#[test]
fn identity_tokens_are_exchanged() {
    let (server, tag) = serve(|asked| {
        let host = asked.header("host").unwrap();
        if asked.target.starts_with("/token") {
            return Some(Reply::new(200).body(r#"{"access_token":"t"}"#));
        }
        asked.header("authorization").is_none().then(|| {
            Reply::new(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{host}/token",service="s""#),
            )
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{"auths":{"HOST":{"auth":"","identitytoken":"i&d"}}}"#;
    let client = client(&with_config(&dir, &json.replace("HOST", &server.host)));
    assert_eq!(
        resolve(&client, &reference(&server.host, "a/b")).unwrap(),
        tag.digest
    );
    let asked = server.asked();
    let exchange = asked.iter().find(|a| a.target == "/token").unwrap();
    assert_eq!(exchange.method, "POST");
    assert_eq!(
        String::from_utf8(exchange.body.clone()).unwrap(),
        "service=s&grant_type=refresh_token&client_id=rbuild&scope=repository%3Aa%2Fb%3Apull&refresh_token=i%26d"
    );
}

#[test]
fn denial_says_where_credentials_are_looked_for() {
    let (server, _) = serve(|asked| {
        (asked.header("authorization") != Some("Basic dTpw")).then(|| {
            Reply::new(401)
                .header("WWW-Authenticate", r#"Basic realm="x""#)
                .body(
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication\nrequired"}]}"#,
                )
        })
    });
    let reference = reference(&server.host, "a/b");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json").display().to_string();
    let refused = |json: &str| {
        let settings = with_config(&dir, &json.replace("HOST", &server.host));
        let error = resolve(&client(&settings), &reference).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`{0}` denies access to `{0}/a/b`: authentication required",
                server.host
            )
        );
        error.hint().unwrap()
    };
    let host = &server.host;
    assert_eq!(
        refused("{}"),
        format!(
            "`{path}` has no credentials for `{host}`; `docker login {host}` writes them there"
        )
    );
    // `u:wrong`
    assert_eq!(
        refused(r#"{"auths":{"HOST":{"auth":"dTp3cm9uZw=="}}}"#),
        format!(
            "`{path}` has credentials for `{host}`, user `u`; they were refused or do not suffice"
        )
    );
    assert!(
        refused(r#"{"credsStore":"rbuild-test-has-no-such-helper"}"#)
            .ends_with("cannot be had: the credential helper it names cannot be run")
    );
    assert!(refused("not json").ends_with("it is not JSON as docker writes it"));
    let missing = resolve(&client(&settings()), &reference).unwrap_err();
    assert!(
        missing
            .hint()
            .unwrap()
            .contains("no docker config to look in")
    );
    // `u:p`
    let json = r#"{"auths":{"HOST":{"auth":"dTpw"}}}"#.replace("HOST", host);
    resolve(&client(&with_config(&dir, &json)), &reference).unwrap();
}

#[test]
fn redirects_are_followed_without_secrets() {
    let (blobs, tag) = one_image();
    let config = blobs
        .0
        .keys()
        .find(|d| blobs.0[*d].starts_with(b"{\"architecture"));
    let config = *config.unwrap();
    let bytes = blobs.0[&config].clone();
    let store = Server::start(move |asked| {
        if asked.target.contains("again") {
            return Reply::new(401).header("WWW-Authenticate", r#"Basic realm="give me""#);
        }
        Reply::new(200).body(bytes.clone())
    });
    let place = store.host.clone();
    let refuse = Arc::new(AtomicU32::new(0));
    let refusing = Arc::clone(&refuse);
    let server = Server::start(move |asked| {
        if asked.header("authorization") != Some("Basic dTpw") {
            return Reply::new(401).header("WWW-Authenticate", "Basic");
        }
        if asked.target.contains("/blobs/") {
            let again = if refusing.load(Ordering::SeqCst) == 1 {
                "again"
            } else {
                ""
            };
            return Reply::new(307)
                .header("Location", format!("http://{place}/store{again}?sig=1"));
        }
        if asked.target.ends_with("loop") {
            return Reply::new(302).header("Location", "loop");
        }
        registry(&blobs, &tag, asked)
    });
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{"auths":{"A":{"auth":"dTpw"},"B":{"auth":"dTpw"}}}"#
        .replace('A', &server.host)
        .replace('B', &store.host);
    let settings = with_config(&dir, &json);
    resolve(&client(&settings), &reference(&server.host, "a/b")).unwrap();
    assert_eq!(store.lines(), ["GET /store?sig=1"]);
    assert_eq!(store.asked()[0].header("authorization"), None);

    refuse.store(1, Ordering::SeqCst);
    let error = resolve(&client(&settings), &reference(&server.host, "a/b")).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    assert!(
        store
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );

    let error = resolve(&client(&settings), &reference(&server.host, "a/b:loop")).unwrap_err();
    assert!(
        error.to_string().ends_with("it redirects in circles"),
        "{error}"
    );
}

#[test]
fn passing_troubles_are_waited_out() {
    for (n, trouble) in [
        Reply::new(503),
        Reply::new(500),
        Reply::new(429).header("Retry-After", "0"),
        Reply::new(429).header("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
        Reply::hang_up(),
        Reply::new(200).body("{").length(2),
    ]
    .into_iter()
    .enumerate()
    {
        let left = AtomicU32::new(4);
        let (server, tag) = serve(move |_| {
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
                .then(|| trouble.clone())
        });
        let found = resolve(&client(&settings()), &reference(&server.host, "a/b"));
        assert_eq!(found.unwrap(), tag.digest, "{n}");
        assert_eq!(server.asked().len(), 6, "{n}");
    }
}

#[test]
fn lasting_troubles_are_errors() {
    let cases: [(Reply, usize, &str); 5] = [
        (Reply::new(503), 5, "answered 503 to GET http://HOST/v2/a/b/manifests/1"),
        (Reply::new(429), 5, "`HOST` answers too many requests for now"),
        (
            Reply::new(429)
                .header("Retry-After", "3600")
                .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}"#),
            1,
            "`HOST` answers too many requests for now: You have reached your limit",
        ),
        (Reply::new(418), 1, "answered 418 to GET"),
        (Reply::hang_up(), 5, "`HOST` cannot be reached"),
    ];
    for (reply, tries, want) in cases {
        let server = Server::start(move |_| reply.clone());
        let error = resolve(&client(&settings()), &reference(&server.host, "a/b:1")).unwrap_err();
        let want = want.replace("HOST", &server.host);
        assert!(error.to_string().contains(&want), "{error}");
        assert_eq!(server.asked().len(), tries, "{want}");
    }
    let gone = Server::start(|_| Reply::hang_up()).host.clone();
    let error = resolve(&client(&settings()), &reference(&gone, "a/b")).unwrap_err();
    assert!(
        chain(&error).contains("cannot be reached: io: Connection refused"),
        "{}",
        chain(&error)
    );
}

#[test]
fn missing_images_are_named_as_the_user_wrote_them() {
    let server =
        Server::start(|asked| registry(&Blobs::default(), &Descriptor::of("", b""), asked));
    let error = resolve(&client(&settings()), &reference(&server.host, "a/b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{0}` has no `{0}/a/b`: manifest unknown", server.host)
    );
}

#[test]
fn wrong_documents_are_refused() {
    let (_, tag) = one_image();
    let digest = tag.digest;
    let evil = r#"{"schemaVersion":2,"layers":[],"manifests":[],"config":{}}"#;
    let other = Descriptor::of("", b"other").digest;
    let huge = MAX_DOCUMENT as usize + 1;
    let cases: [(Reply, String, &str); 7] = [
        (
            Reply::new(200).body("x"),
            format!("a/b@{digest}"),
            "should have digest",
        ),
        (
            Reply::new(200)
                .body("x")
                .header("Docker-Content-Digest", other.to_string()),
            "a/b".to_owned(),
            "should have digest",
        ),
        (
            Reply::new(200).body("x"),
            "a/b".to_owned(),
            "cannot be read as a manifest or index",
        ),
        (
            Reply::new(200).body(evil),
            "a/b".to_owned(),
            "of a manifest and of an index at once",
        ),
        (
            Reply::new(200).body(r#"{"schemaVersion":1,"fsLayers":[]}"#),
            "a/b".to_owned(),
            "docker schema 1",
        ),
        (
            Reply::new(200).length(u64::MAX / 2),
            "a/b".to_owned(),
            "is larger than the 4194304 bytes",
        ),
        (
            Reply::new(200).body(vec![b' '; huge]).chunked(),
            "a/b".to_owned(),
            "is larger than the 4194304 bytes",
        ),
    ];
    for (reply, rest, want) in cases {
        let server = Server::start(move |_| reply.clone());
        let error = resolve(&client(&settings()), &reference(&server.host, &rest)).unwrap_err();
        assert!(chain(&error).contains(want), "{}", chain(&error));
        assert_eq!(server.asked().len(), 1, "{want}");
    }
}

fn blob_bytes() -> Vec<u8> {
    (0u32..300_000).flat_map(u32::to_le_bytes).collect()
}

fn read_blob(server: &Server, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let descriptor = Descriptor::of("", bytes);
    let mut reader = client(&settings())
        .blob(
            &reference(&server.host, "a/b"),
            &descriptor.digest,
            descriptor.size,
        )
        .map_err(std::io::Error::other)?;
    let mut read = Vec::new();
    reader.read_to_end(&mut read)?;
    Ok(read)
}

fn range_start(asked: &Asked) -> Option<usize> {
    let range = asked.header("range")?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

#[test]
fn broken_downloads_go_on_where_they_were() {
    let bytes = blob_bytes();
    let all = bytes.clone();
    // Breaks after 400,001 bytes, each time.
    let server = Server::start(move |asked| {
        let start = range_start(asked).unwrap_or(0);
        let rest = &all[start..];
        let status = if start == 0 { 200 } else { 206 };
        Reply::new(status)
            .header(
                "Content-Range",
                format!("bytes {start}-{}/{}", all.len() - 1, all.len()),
            )
            .body(&rest[..rest.len().min(400_001)])
            .length(rest.len() as u64)
    });
    assert_eq!(read_blob(&server, &bytes).unwrap(), bytes);
    let starts: Vec<_> = server.asked().iter().map(range_start).collect();
    assert_eq!(starts, [None, Some(400_001), Some(800_002)]);

    // Knows no ranges, and breaks once.
    let all = bytes.clone();
    let server = Server::start(move |asked| {
        let reply = Reply::new(200).length(all.len() as u64);
        match range_start(asked) {
            None => reply.body(&all[..1000]),
            Some(_) => reply.body(all.clone()),
        }
    });
    assert_eq!(read_blob(&server, &bytes).unwrap(), bytes);
    assert_eq!(server.asked().len(), 2);

    // Never gets anywhere.
    let length = bytes.len() as u64;
    let server = Server::start(move |asked| match range_start(asked) {
        None => Reply::new(200).length(length).body("\0"),
        Some(_) => Reply::new(206)
            .header("Content-Range", format!("bytes 1-{}/{length}", length - 1))
            .length(length - 1),
    });
    let error = read_blob(&server, &bytes).unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert_eq!(server.asked().len(), 5);

    // Sends something else.
    let server = Server::start(move |asked| match range_start(asked) {
        None => Reply::new(200).length(length).body("\0"),
        Some(_) => Reply::new(206)
            .header("Content-Range", "bytes 7-8/9")
            .length(length - 1),
    });
    let error = read_blob(&server, &bytes).unwrap_err();
    assert!(
        error.to_string().contains("it sends another range"),
        "{error}"
    );
}

#[test]
fn wrong_blobs_are_refused_before_their_end() {
    let bytes = blob_bytes();
    let mut wrong = bytes.clone();
    wrong[77] ^= 1;
    let mut long = bytes.clone();
    long.push(0);
    let short = &bytes[..bytes.len() - 1];
    for (reply, want) in [
        (Reply::new(200).body(wrong.clone()), "should have digest"),
        (Reply::new(200).body(wrong).chunked(), "should have digest"),
        (
            Reply::new(200).body(long.clone()),
            "should have 1200000 bytes",
        ),
        (
            Reply::new(200).body(long).chunked(),
            "should have 1200000 bytes",
        ),
        (
            Reply::new(200).body(short),
            "should have 1200000 bytes, but has 1199999",
        ),
        (Reply::new(204), "status 204"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let error = read_blob(&server, &bytes).unwrap_err();
        assert!(error.to_string().contains(want), "{error}: {want}");
    }
    let server = Server::start(|_| Reply::new(200));
    assert_eq!(read_blob(&server, b"").unwrap(), b"");
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    let (registry_server, tag) = serve(|_| None);
    let empty = Server::start(|_| Reply::new(404));
    let (mirror, _) = serve(|_| None);
    let gone = Server::start(|_| Reply::hang_up()).host.clone();
    let with = |mirrors: &[&str]| {
        let mut settings = settings();
        settings.registries.insert(
            registry_server.host.clone(),
            RegistrySettings {
                mirrors: mirrors.iter().map(|m| (*m).to_owned()).collect(),
                ..RegistrySettings::default()
            },
        );
        client(&settings)
    };
    let reference = reference(&registry_server.host, "a/b:1");
    let ns = format!("?ns={}", registry_server.host.replace(':', "%3A"));

    let fallback = with(&[&empty.host, &gone]);
    assert_eq!(fallback.head(&reference).unwrap(), tag.digest);
    assert_eq!(empty.lines(), [format!("HEAD /v2/a/b/manifests/1{ns}")]);
    assert_eq!(registry_server.lines(), ["HEAD /v2/a/b/manifests/1"]);

    let prefixed = with(&[&format!("{}/proxy/hub", mirror.host)]);
    assert_eq!(resolve(&prefixed, &reference).unwrap(), tag.digest);
    assert_eq!(
        mirror.lines()[0],
        format!("GET /v2/proxy/hub/a/b/manifests/1{ns}")
    );
    assert_eq!(registry_server.lines().len(), 1);
}

#[test]
fn proxies_tunnel_unless_exempt() {
    let (blobs, tag) = one_image();
    let want = tag.digest;
    let proxy = Server::start(move |asked| match asked.method.as_str() {
        "CONNECT" => Reply::new(200),
        _ => registry(&blobs, &tag, asked),
    });
    let mut settings = settings();
    settings.proxies.http = Some(format!("http://user:pass@{}", proxy.host));
    settings.registries.insert(
        "registry.invalid".to_owned(),
        RegistrySettings {
            http: Some(true),
            ..RegistrySettings::default()
        },
    );
    let reference = reference("registry.invalid", "a/b:1");
    assert_eq!(client(&settings).head(&reference).unwrap(), want);
    assert_eq!(
        proxy.lines(),
        ["CONNECT registry.invalid:80", "HEAD /v2/a/b/manifests/1"]
    );
    // From `printf user:pass | base64`.
    assert_eq!(
        proxy.asked()[0].header("proxy-authorization"),
        Some("Basic dXNlcjpwYXNz")
    );
    settings.proxies.no_proxy = vec![".invalid".to_owned()];
    let error = client(&settings).head(&reference).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error}"
    );
    settings.proxies.no_proxy.clear();
    settings.proxies.http = Some("socks5://user:secret@proxy.invalid".to_owned());
    let error = client(&settings).head(&reference).unwrap_err();
    assert!(matches!(error, RegistryError::Proxy { .. }), "{error}");
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn heads_without_a_digest_cost_a_get() {
    let (server, tag) = serve(|asked| match asked.method.as_str() {
        "HEAD" if asked.target.contains("nohead") => Some(Reply::new(405)),
        "HEAD" => Some(Reply::new(200)),
        _ => None,
    });
    let client = client(&settings());
    for rest in ["a/b:1", "a/nohead:1"] {
        assert_eq!(
            client.head(&reference(&server.host, rest)).unwrap(),
            tag.digest
        );
    }
    assert_eq!(server.lines()[1], "GET /v2/a/b/manifests/1");
}

#[test]
fn cancelling_ends_what_waits() {
    let token = CancelToken::new();
    let (server_token, served) = (token.clone(), AtomicU32::new(0));
    // The first request is cancelled while the server makes up its mind, the second while a pause goes on.
    let server = Server::start(move |asked| {
        if asked.target.ends_with("pause") {
            return Reply::new(503).header("Retry-After", "60");
        }
        assert_eq!(served.fetch_add(1, Ordering::SeqCst), 0);
        server_token.cancel();
        std::thread::park_timeout(Duration::from_secs(60));
        Reply::hang_up()
    });
    let client = Client::cancelled_by(&settings(), &token);
    let error = resolve(&client, &reference(&server.host, "a/b")).unwrap_err();
    assert!(matches!(error, RegistryError::Cancelled), "{error}");
    let error = resolve(&client, &reference(&server.host, "a/b")).unwrap_err();
    assert!(matches!(error, RegistryError::Cancelled), "{error}");

    let token = CancelToken::new();
    let client = Client::cancelled_by(&settings(), &token);
    let waiting = reference(&server.host, "a/b:pause");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| resolve(&client, &waiting));
        while !server.lines().iter().any(|line| line.ends_with("pause")) {
            std::thread::yield_now();
        }
        token.cancel();
        let error = call.join().unwrap().unwrap_err();
        assert!(matches!(error, RegistryError::Cancelled), "{error}");
    });
}

#[test]
fn blobs_that_exist_are_not_sent() {
    let sent = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&sent);
    let server = Server::start(move |asked| match asked.method.as_str() {
        "HEAD" if asked.target.starts_with("/v2/full/") => Reply::new(200),
        "HEAD" => Reply::new(404),
        "POST" if asked.target.contains("mount") && asked.target.starts_with("/v2/near/") => {
            Reply::new(201)
        }
        "POST" => Reply::new(202).header("Location", "/upload/1?state=x"),
        // The first PUT breaks off: the upload begins anew.
        "PUT" if counted.fetch_add(1, Ordering::SeqCst) == 0 => Reply::hang_up(),
        _ => Reply::new(201),
    });
    let client = client(&settings());
    let bytes = b"some layer".as_slice();
    let descriptor = Descriptor::of("", bytes);
    let push = |repository: &str, mount: Option<&str>| {
        client
            .push_blob(
                &reference(&server.host, repository),
                &descriptor.digest,
                descriptor.size,
                mount,
                &|| Ok(Box::new(bytes)),
            )
            .unwrap()
    };
    use crate::registry::Pushed;
    assert_eq!(push("full/a", None), Pushed::Existed);
    assert_eq!(push("near/a", Some("full/a")), Pushed::Mounted);
    assert_eq!(push("far/a", Some("full/a")), Pushed::Sent);
    assert_eq!(sent.load(Ordering::SeqCst), 2);
    let asked = server.asked();
    let put = asked.last().unwrap();
    assert_eq!(
        put.target,
        format!(
            "/upload/1?state=x&digest={}",
            descriptor.digest.to_string().replace(':', "%3A")
        )
    );
    assert_eq!(put.body, bytes);

    let error = client
        .push_blob(
            &reference(&server.host, "far/b"),
            &descriptor.digest,
            descriptor.size,
            None,
            &|| Err(std::io::Error::other("disk on fire")),
        )
        .unwrap_err();
    assert_eq!(
        chain(&error),
        "a blob to be pushed cannot be read: disk on fire"
    );
}
