//! Blobs on their way to picky registries.

use std::io::Read;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use super::fixture::client;
use super::fixture::settings;
use super::http::chain;
use super::http::reference;
use super::server::Asked;
use super::server::Reply;
use super::server::Server;
use crate::image::Descriptor;
use crate::registry::Pushed;
use crate::registry::RegistryError;

const MIB: u64 = 1 << 20;

/// How a registry treats uploads.
#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    /// Of requests, in bytes; 0 for none.
    limit: u64,
    /// `OCI-Chunk-Min-Length`
    least: u64,
    /// The number of the request with a body that goes wrong.
    trouble_at: u32,
    trouble: Trouble,
}

#[derive(Debug, Clone, Copy, Default)]
enum Trouble {
    #[default]
    None,
    /// Half of the body is taken, then the connection breaks.
    Broken,
    /// Broken, and it knows nothing of the upload any more.
    Forgotten,
    /// Half of the body is taken, which it says.
    Half,
    /// It is out of step: 416.
    OutOfStep,
    Unavailable,
    /// It says that it has more than it was sent.
    Lie,
}

/// A registry without blobs, which puts together what it is sent.
fn registry(manners: Manners) -> (Server, Arc<Mutex<Vec<u8>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let (mine, bodies) = (Arc::clone(&got), AtomicU32::new(0));
    let limit = match manners.limit {
        0 => u64::MAX,
        limit => limit,
    };
    let server = Server::limited(limit, move |asked| {
        let mut got = mine.lock().unwrap();
        if asked.body.is_empty() {
            return without_body(asked, manners, &mut got);
        }
        if let Some(range) = asked.header("content-range") {
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(first, got.len());
            assert_eq!(last + 1 - first, asked.body.len());
        }
        let wrong = bodies.fetch_add(1, Ordering::SeqCst) + 1 == manners.trouble_at;
        let trouble = if wrong {
            manners.trouble
        } else {
            Trouble::None
        };
        let half = &asked.body[..asked.body.len() / 2];
        match trouble {
            Trouble::None | Trouble::Lie => got.extend(&asked.body),
            Trouble::Broken | Trouble::Half => got.extend(half),
            Trouble::Forgotten => got.clear(),
            Trouble::OutOfStep | Trouble::Unavailable => {}
        }
        match trouble {
            Trouble::Broken | Trouble::Forgotten => Reply::hang_up(),
            Trouble::OutOfStep => Reply::new(416),
            Trouble::Unavailable => Reply::new(503),
            Trouble::Lie => status(202, got.len() + 1),
            _ if asked.method == "PUT" => Reply::new(201),
            _ => status(202, got.len()),
        }
    });
    (server, got)
}

fn without_body(asked: &Asked, manners: Manners, got: &mut Vec<u8>) -> Reply {
    match asked.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => {
            got.clear();
            Reply::new(202)
                .header("Location", "/u?at=0")
                .header("OCI-Chunk-Min-Length", manners.least.to_string())
        }
        "GET" if got.is_empty() => Reply::new(404),
        "GET" => status(204, got.len()),
        _ => Reply::new(201),
    }
}

/// Says how far the upload came.
fn status(code: u16, bytes: usize) -> Reply {
    Reply::new(code)
        .header("Location", format!("/u?at={bytes}"))
        .header("Range", format!("0-{}", bytes.max(1) - 1))
}

/// Bytes that differ everywhere.
fn blob(size: u64) -> Vec<u8> {
    (0..size / 4)
        .map(|n| n as u32)
        .flat_map(u32::to_le_bytes)
        .collect()
}

fn push(server: &Server, bytes: &[u8]) -> Result<Pushed, RegistryError> {
    let blob = Descriptor::of("", bytes);
    let to = reference(&server.host, "a/b");
    let open = || Ok(Box::new(bytes) as Box<dyn Read>);
    client(&settings()).push_blob(&to, &blob.digest, blob.size, None, &open)
}

/// `METHOD at=OFFSET +BYTES`
fn steps(server: &Server) -> Vec<String> {
    let step = |asked: &Asked| {
        let at = asked.target.split_once("?at=").map_or("", |(_, at)| at);
        let at = at.split('&').next().unwrap();
        let length = asked.header("content-length").unwrap_or("0");
        let (n, length) = (at.parse::<u64>().ok(), length.parse::<u64>().unwrap());
        let place = n.map_or(String::new(), |n| format!(" {}", n as f64 / MIB as f64));
        let length = length as f64 / MIB as f64;
        format!("{}{place} +{length}", asked.method)
    };
    server.asked().iter().map(step).collect()
}

#[test]
fn uploads_in_chunks() {
    let bytes = blob(6 * MIB);
    for (manners, want) in [
        (
            Manners {
                limit: 2 * MIB,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, PATCH 3 +1.5, PATCH 4.5 +1.5, PUT 6 +0",
        ),
        (
            Manners {
                limit: MIB,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, GET 0 +0, HEAD +0, POST +0, PATCH 0 +1, PATCH 1 +1, PATCH 2 +1, PATCH 3 +1, \
             PATCH 4 +1, PATCH 5 +1, PUT 6 +0",
        ),
        (
            Manners {
                limit: 3 * MIB,
                least: 5 * MIB / 2,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +2.5, PATCH 2.5 +2.5, PATCH 5 +1, PUT 6 +0",
        ),
        (
            Manners {
                trouble_at: 1,
                trouble: Trouble::Broken,
                ..Manners::default()
            },
            "PUT 0 +6, GET 0 +0, PATCH 3 +3, PUT 6 +0",
        ),
        (
            Manners {
                trouble_at: 1,
                trouble: Trouble::Forgotten,
                ..Manners::default()
            },
            "PUT 0 +6, GET 0 +0, HEAD +0, POST +0, PUT 0 +6",
        ),
        (
            Manners {
                limit: 3 * MIB,
                trouble_at: 2,
                trouble: Trouble::Broken,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, GET 1.5 +0, PATCH 2.25 +1.5, PATCH 3.75 +1.5, \
             PATCH 5.25 +0.75, PUT 6 +0",
        ),
        (
            Manners {
                limit: 3 * MIB,
                trouble_at: 2,
                trouble: Trouble::Half,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, PATCH 2.25 +1.5, PATCH 3.75 +1.5, PATCH 5.25 +0.75, PUT 6 +0",
        ),
        (
            Manners {
                limit: 3 * MIB,
                trouble_at: 2,
                trouble: Trouble::OutOfStep,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, GET 1.5 +0, PATCH 1.5 +1.5, PATCH 3 +1.5, PATCH 4.5 +1.5, \
             PUT 6 +0",
        ),
        (
            Manners {
                limit: 3 * MIB,
                trouble_at: 3,
                trouble: Trouble::Unavailable,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, PATCH 3 +1.5, GET 3 +0, PATCH 3 +1.5, PATCH 4.5 +1.5, PUT 6 +0",
        ),
        (
            Manners {
                limit: 3 * MIB,
                trouble_at: 3,
                trouble: Trouble::Forgotten,
                ..Manners::default()
            },
            "PUT 0 +6, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, PATCH 3 +1.5, GET 3 +0, HEAD +0, POST +0, PATCH 0 +1.5, \
             PATCH 1.5 +1.5, PATCH 3 +1.5, PATCH 4.5 +1.5, PUT 6 +0",
        ),
    ] {
        let (server, got) = registry(manners);
        assert_eq!(push(&server, &bytes).unwrap(), Pushed::Sent, "{manners:?}");
        assert!(*got.lock().unwrap() == bytes, "{manners:?}");
        let want = format!("HEAD +0, POST +0, {want}");
        assert_eq!(steps(&server).join(", "), want, "{manners:?}");
    }
}

#[test]
fn who_speaks_of_chunks_gets_them() {
    for (size, least, want) in [
        (6, 5, "PUT 0 +6"),
        (66, 0, "PUT 0 +66"),
        (66, 5, "PATCH 0 +64, PATCH 64 +2, PUT 66 +0"),
        (66, 65, "PATCH 0 +65, PATCH 65 +1, PUT 66 +0"),
    ] {
        let (server, got) = registry(Manners {
            least: least * MIB,
            ..Manners::default()
        });
        let bytes = vec![7; (size * MIB) as usize];
        assert_eq!(push(&server, &bytes).unwrap(), Pushed::Sent);
        assert!(*got.lock().unwrap() == bytes);
        assert_eq!(
            steps(&server).join(", "),
            format!("HEAD +0, POST +0, {want}")
        );
    }
}

#[test]
fn limits_are_remembered() {
    let (server, _) = registry(Manners {
        limit: 2 * MIB,
        ..Manners::default()
    });
    let client = client(&settings());
    let to = reference(&server.host, "a/b");
    for size in [6 * MIB, 3 * MIB, MIB] {
        let bytes = blob(size);
        let blob = Descriptor::of("", &bytes);
        let open = || Ok(Box::new(&bytes[..]) as Box<dyn Read>);
        let pushed = client.push_blob(&to, &blob.digest, blob.size, None, &open);
        assert_eq!(pushed.unwrap(), Pushed::Sent);
    }
    assert_eq!(
        steps(&server)[8..].join(", "),
        "PUT 6 +0, HEAD +0, POST +0, PATCH 0 +1.5, PATCH 1.5 +1.5, PUT 3 +0, HEAD +0, POST +0, PUT 0 +1"
    );
}

#[test]
fn uploads_that_cannot_be() {
    let bytes = blob(6 * MIB);
    let (server, _) = registry(Manners {
        limit: 2 * MIB,
        trouble_at: 1,
        trouble: Trouble::Lie,
        ..Manners::default()
    });
    assert_eq!(
        chain(&push(&server, &bytes).unwrap_err()).replace(&server.host, "HOST"),
        "`HOST` gave an answer that cannot be used: of the bytes 0 to 1572864 of an upload it has 1572865"
    );
    let (server, _) = registry(Manners {
        limit: MIB / 2,
        ..Manners::default()
    });
    let error = push(&server, &bytes).unwrap_err();
    assert_eq!(
        chain(&error).replace(&server.host, "HOST"),
        "`HOST` answered 413 to PATCH http://HOST/u"
    );
    assert_eq!(
        error.hint().unwrap(),
        "the registry, or a proxy before it, takes no requests of 1 MiB; nginx has `client_max_body_size` for that"
    );
}

#[test]
fn who_may_not_mount_sends() {
    for refusal in [401, 403, 404, 405] {
        let server = Server::start(move |asked| match asked.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" if asked.target.contains("mount") => Reply::new(refusal),
            "POST" => Reply::new(202).header("Location", "/u"),
            _ => Reply::new(201),
        });
        let bytes = b"layer".as_slice();
        let blob = Descriptor::of("", bytes);
        let to = reference(&server.host, "a/b");
        let open = || Ok(Box::new(bytes) as Box<dyn Read>);
        let pushed =
            client(&settings()).push_blob(&to, &blob.digest, blob.size, Some("other/one"), &open);
        assert_eq!(pushed.unwrap(), Pushed::Sent, "{refusal}");
        assert_eq!(server.asked().len(), 4);
    }
}

#[test]
fn mounting_asks_for_a_token_for_both_repositories() {
    let server = Server::start(|asked| {
        let host = asked.header("host").unwrap();
        if asked.target.starts_with("/token") {
            let token = format!(r#"{{"token":"{}"}}"#, asked.target.len());
            return Reply::new(200).body(token);
        }
        if asked.header("authorization").is_none() {
            let realm = format!(r#"Bearer realm="http://{host}/token",service="s""#);
            return Reply::new(401).header("WWW-Authenticate", realm);
        }
        match asked.method.as_str() {
            "HEAD" => Reply::new(404),
            _ => Reply::new(201),
        }
    });
    let blob = Descriptor::of("", b"layer");
    let to = reference(&server.host, "a/b");
    let open = || Err(std::io::Error::other("it is not opened"));
    let pushed =
        client(&settings()).push_blob(&to, &blob.digest, blob.size, Some("other/one"), &open);
    assert_eq!(pushed.unwrap(), Pushed::Mounted);
    let tokens = server
        .lines()
        .into_iter()
        .filter(|it| it.contains("/token"));
    assert_eq!(
        tokens.collect::<Vec<_>>(),
        [
            "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush",
            "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Aother%2Fone%3Apull",
        ]
    );
}

#[test]
fn a_token_that_runs_out_while_a_blob_is_sent_is_renewed() {
    // How many there are, and how often the last one was good.
    let tokens = Mutex::new((0, 0));
    let server = Server::start(move |asked| {
        let host = asked.header("host").unwrap();
        let (issued, used) = &mut *tokens.lock().unwrap();
        if asked.target.starts_with("/token") {
            (*issued, *used) = (*issued + 1, 0);
            return Reply::new(200).body(format!(r#"{{"token":"t{issued}"}}"#));
        }
        let last = format!("Bearer t{issued}");
        if asked.header("authorization") != Some(&last) || *used == 2 {
            let realm = format!(r#"Bearer realm="http://{host}/token",service="s""#);
            return Reply::new(401).header("WWW-Authenticate", realm);
        }
        *used += 1;
        match asked.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" => Reply::new(202).header("Location", "/v2/a/b/blobs/uploads/1"),
            _ => Reply::new(201),
        }
    });
    let bytes = blob(2 * MIB);
    assert_eq!(push(&server, &bytes).unwrap(), Pushed::Sent);
    let asked = server.asked();
    let methods: Vec<&str> = asked.iter().map(|asked| asked.method.as_str()).collect();
    let want = ["HEAD", "GET", "HEAD", "POST", "PUT", "GET", "PUT"];
    assert_eq!(methods, want);
    assert!(asked.last().unwrap().body == bytes);
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
