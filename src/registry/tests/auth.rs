//! Challenges, tokens, credentials, and who must not see them.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use super::fixture::client;
use super::fixture::settings;
use super::http::one_image;
use super::http::reference;
use super::http::registry;
use super::http::resolve;
use super::http::serve;
use super::server::Reply;
use super::server::Server;
use crate::registry::RegistryError;
use crate::request::Secret;
use crate::request::Settings;

/// Writes a docker config; returns settings that use it.
fn with_config(dir: &tempfile::TempDir, json: &str) -> Settings {
    let path = dir.path().join("config.json");
    std::fs::write(&path, json).unwrap();
    Settings {
        docker_config: Some(path),
        ..settings()
    }
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
            "`{path}` has no credentials for `{host}`; `rbuild login {host}` writes them there"
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
        refused(r#"{"credsStore":"rbuild-test-has-no"}"#).ends_with(
            "cannot be had: `docker-credential-rbuild-test-has-no` failed: No such file or directory (os error 2)"
        )
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

/// The order of docker's command (`GetCredentialsStore`): the variable, then the file for what that does not have.
#[test]
fn the_variable_goes_before_the_file() {
    let (server, _) = serve(|asked| {
        let known = asked.header("authorization") == Some("Basic dTpw");
        (!known).then(|| Reply::new(401).header("WWW-Authenticate", r#"Basic realm="x""#))
    });
    let reference = reference(&server.host, "a/b");
    let dir = tempfile::tempdir().unwrap();
    let with = |given: &str, file: &str| {
        let of = |text: &str| text.replace("HOST", &server.host);
        Settings {
            docker_auth: Some(Secret(of(given).into_bytes())),
            ..with_config(&dir, &of(file))
        }
    };
    // `u:p` and `u:wrong`
    let right = r#"{"auths":{"HOST":{"auth":"dTpw"}}}"#;
    let wrong = r#"{"auths":{"HOST":{"auth":"dTp3cm9uZw=="}}}"#;
    let others = r#"{"auths":{"other.example":{"auth":"dTp3cm9uZw=="}}}"#;
    for (given, file) in [
        (right, wrong),
        (right, "not json"),
        (others, right),
        ("not json", right),
    ] {
        let resolved = resolve(&client(&with(given, file)), &reference);
        assert!(resolved.is_ok(), "{given} {file}: {resolved:?}");
    }
    let path = dir.path().join("config.json").display().to_string();
    let host = &server.host;
    for (given, file, hint) in [
        (
            wrong,
            right,
            format!(
                "`DOCKER_AUTH_CONFIG` has credentials for `{host}`, user `u`; they were refused or do not suffice"
            ),
        ),
        (
            others,
            others,
            format!(
                "`DOCKER_AUTH_CONFIG` has no credentials for `{host}`; \
                 `{path}` has no credentials for `{host}`; `rbuild login {host}` writes them there"
            ),
        ),
        (
            "not json",
            others,
            format!(
                "the credentials for `{host}` that `DOCKER_AUTH_CONFIG` points at cannot be had: it is not JSON as docker \
                 writes it; `{path}` has no credentials for `{host}`; `rbuild login {host}` writes them there"
            ),
        ),
    ] {
        let refused = resolve(&client(&with(given, file)), &reference).unwrap_err();
        assert_eq!(refused.hint().unwrap(), hint);
    }
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
fn threads_share_one_token() {
    let (server, tag) = serve(|asked| {
        let host = asked.header("host").unwrap();
        if asked.target.starts_with("/token") {
            return Some(Reply::new(200).body(r#"{"token":"t"}"#));
        }
        asked.header("authorization").is_none().then(|| {
            let realm = format!(r#"Bearer realm="http://{host}/token""#);
            Reply::new(401).header("WWW-Authenticate", realm)
        })
    });
    let client = client(&settings());
    let reference = reference(&server.host, "a/b");
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| resolve(&client, &reference)))
            .collect();
        for call in calls {
            assert_eq!(call.join().unwrap().unwrap(), tag.digest);
        }
    });
    let tokens = server
        .lines()
        .iter()
        .filter(|l| l.contains("/token"))
        .count();
    assert_eq!(tokens, 1);
    fn may_move_between_threads<T: Send>() {}
    may_move_between_threads::<crate::registry::BlobReader>();
}
