//! What the client does with hostile, overloaded and picky servers.

use std::io::Read;
use std::net::TcpListener;
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

pub(super) fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().unwrap()
}

/// Answers like a registry that has `blobs` and one tag.
pub(super) fn registry(blobs: &Blobs, tag: &Descriptor, asked: &Asked) -> Reply {
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

pub(super) fn one_image() -> (Blobs, Descriptor) {
    let mut blobs = Blobs::default();
    let tag = blobs.image(Format::Oci, &platform("linux/amd64"), "hello");
    (blobs, tag)
}

/// Serves one image; `first` may answer before.
pub(super) fn serve(
    first: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Descriptor) {
    let (blobs, tag) = one_image();
    let found = tag.clone();
    let server =
        Server::start(move |asked| first(asked).unwrap_or_else(|| registry(&blobs, &tag, asked)));
    (server, found)
}

pub(super) fn resolve(client: &Client, reference: &Reference) -> Result<OciDigest, RegistryError> {
    let resolved = client.resolve(reference, &platform("linux/amd64"))?;
    Ok(resolved.manifest_digest)
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
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
    let cases: [(Reply, usize, &str); 6] = [
        (Reply::new(503), 5, "answered 503 to GET http://HOST/v2/a/b/manifests/1"),
        (Reply::new(429), 5, "`HOST` takes no more requests for now"),
        (
            Reply::new(429)
                .header("Retry-After", "3600")
                .header("RateLimit-Limit", "100;w=21600")
                .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}"#),
            1,
            "`HOST` takes no more requests for now: You have reached your limit (its limit is 100 in 21600 s, it takes requests \
             again after 3600 s)",
        ),
        (
            Reply::new(503).header("Retry-After", "Tue, 31 Dec 2999 23:59:59 GMT"),
            1,
            "answered 503 to GET",
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
fn foreign_blobs_come_from_their_urls() {
    let bytes = blob_bytes();
    let all = bytes.clone();
    // Breaks once.
    let elsewhere = Server::start(move |asked| match range_start(asked) {
        _ if asked.target == "/none" => Reply::new(404),
        None => Reply::new(200).body(&all[..1000]).length(all.len() as u64),
        Some(start) => Reply::new(206)
            .header("Content-Range", format!("bytes {start}-/{}", all.len()))
            .body(&all[start..]),
    });
    let all = bytes.clone();
    let registry = Server::start(move |asked| match asked.target.contains("/a/b/") {
        true => Reply::new(404),
        false => Reply::new(200).body(all.clone()),
    });
    let blob = Descriptor::of("", &bytes);
    let read = |repository: &str, urls: &[&str]| {
        let urls: Vec<String> = urls
            .iter()
            .map(|url| url.replace("HOST", &elsewhere.host))
            .collect();
        let image = reference(&registry.host, repository);
        let client = client(&settings());
        let mut reader = client.blob_elsewhere(&image, &urls, &blob.digest, blob.size)?;
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        Ok::<_, RegistryError>(read)
    };
    let urls = ["file:///etc/passwd", "http://HOST/none", "http://HOST/blob"];
    assert!(read("a/b", &urls).unwrap() == bytes);
    assert_eq!(registry.asked().len(), 0);
    assert_eq!(
        elsewhere.lines(),
        ["GET /none", "GET /blob", "GET /none", "GET /blob"]
    );
    assert!(read("has/it", &urls[..2]).unwrap() == bytes);
    let error = read("a/b", &urls[1..2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`127.0.0.1` has no `http://{}/none`", elsewhere.host)
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
        settings.registries.hosts.insert(
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

/// Two mirrors, each of which gives something else for a blob or breaks off, and the registry.
#[test]
fn mirrors_that_lie_or_break_off_are_passed_over() {
    let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let mut blobs = Blobs::default();
    let blob = blobs.add("", bytes.clone());
    let whole = bytes.clone();
    // What is asked for from an offset on is given from there (RFC 9110, section 14.4).
    let from = |asked: &Asked| -> usize {
        let range = asked.header("range").unwrap_or("bytes=0-");
        let from = range.strip_prefix("bytes=").unwrap();
        from.strip_suffix('-').unwrap().parse().unwrap()
    };
    let part = move |asked: &Asked, length: usize| {
        let (start, size) = (from(asked), whole.len());
        let reply = match start {
            0 => Reply::new(200),
            _ => Reply::new(206).header(
                "Content-Range",
                format!("bytes {start}-{}/{size}", size - 1),
            ),
        };
        let end = size.min(start + length);
        reply.body(&whole[start..end]).length((size - start) as u64)
    };
    let lies: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    let liar = Server::start(move |_| Reply::new(200).body(lies.clone()));
    let of_breaker = part.clone();
    let breaker = Server::start(move |asked| of_breaker(asked, 1000));
    let registry_server = Server::start(move |asked| part(asked, usize::MAX / 2));
    let with = |mirrors: &[&Server]| {
        let mut settings = settings();
        let hosts = mirrors.iter().map(|mirror| mirror.host.clone());
        let table = RegistrySettings {
            mirrors: hosts.collect(),
            ..RegistrySettings::default()
        };
        let hosts = &mut settings.registries.hosts;
        hosts.insert(registry_server.host.clone(), table);
        client(&settings)
    };
    let reference = reference(&registry_server.host, "a/b:1");
    let read = |client: &Client| {
        let mut read = Vec::new();
        let mut reader = client.blob(&reference, &blob.digest, blob.size).unwrap();
        reader.read_to_end(&mut read).map(|_| read)
    };

    // What passed cannot be taken back, but whoever asks once more asks somebody else.
    let client = with(&[&liar]);
    assert_eq!(client.mirrors_to_avoid(&blob.digest), 0);
    read(&client).unwrap_err();
    assert_eq!(client.mirrors_to_avoid(&blob.digest), 1);
    assert_eq!(read(&client).unwrap(), bytes);
    assert_eq!(liar.asked().len(), 1);
    assert_eq!(registry_server.asked().len(), 1);

    // It would have been whole with the third connection.
    assert_eq!(read(&with(&[&breaker])).unwrap(), bytes);
    assert_eq!(breaker.asked().len(), 2);
    let asked = registry_server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some("bytes=2000-"));
}

/// RFC 9112, section 3.2.2: a proxy is sent the whole URL. squid and tinyproxy make tunnels to port 443 alone.
#[test]
fn plain_requests_are_sent_to_the_proxy_unless_exempt() {
    let (blobs, tag) = one_image();
    let want = tag.digest;
    let proxy = Server::start(move |asked| {
        let mut asked = asked.clone();
        asked.target = asked.target.replace("http://registry.invalid", "");
        registry(&blobs, &tag, &asked)
    });
    let mut settings = settings();
    settings.proxies.http = Some(format!("http://user:p%40ss@{}", proxy.host));
    settings.registries.hosts.insert(
        "registry.invalid".to_owned(),
        RegistrySettings {
            http: Some(true),
            ..RegistrySettings::default()
        },
    );
    let reference = reference("registry.invalid", "a/b:1");
    assert_eq!(resolve(&client(&settings), &reference).unwrap(), want);
    let lines = proxy.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], "GET http://registry.invalid/v2/a/b/manifests/1");
    for asked in proxy.asked() {
        // From `printf user:p@ss | base64`.
        assert_eq!(
            asked.header("proxy-authorization"),
            Some("Basic dXNlcjpwQHNz")
        );
        assert_eq!(asked.header("host"), Some("registry.invalid"));
    }
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
fn a_host_that_does_not_answer_holds_up_no_other() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_host = silent.local_addr().unwrap().to_string();
    let (server, tag) = serve(|_| None);
    let mut settings = settings();
    settings.registries.insecure = vec![silent_host.clone(), server.host.clone()];
    let client = client(&settings);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| resolve(&client, &reference(&silent_host, "a:1")));
        let (probe, _) = silent.accept().unwrap();
        let found = resolve(&client, &reference(&server.host, "a:1")).unwrap();
        assert_eq!(found, tag.digest);
        // It has not been given up meanwhile, and asked again without TLS.
        silent.set_nonblocking(true).unwrap();
        let next = silent.accept().unwrap_err();
        assert_eq!(next.kind(), std::io::ErrorKind::WouldBlock);
        drop((probe, silent));
        assert!(waiting.join().unwrap().is_err());
    });
}
