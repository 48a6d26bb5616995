//! Credentials that are to be checked before they are kept.

use super::fixture::client;
use super::fixture::settings;
use super::server::Asked;
use super::server::Reply;
use super::server::Server;
use crate::registry::Login;
use crate::registry::RegistryError;

/// From `printf 'Aladdin:open sesame' | base64` (RFC 7617, section 2).
const BASIC: &str = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";

fn login(
    script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> (Result<Login, RegistryError>, Vec<String>) {
    let server = Server::start(script);
    let done = client(&settings()).login(&server.host, "Aladdin", "open sesame");
    (done, server.lines())
}

fn wants(challenge: impl Into<String>) -> Reply {
    Reply::new(401).header("WWW-Authenticate", challenge)
}

#[test]
fn registries_that_ask_for_a_password() {
    let (done, lines) = login(|asked| match asked.header("authorization") {
        Some(BASIC) => Reply::new(200),
        _ => wants("Basic realm=\"x\""),
    });
    assert_eq!(done.unwrap(), Login::Accepted);
    assert_eq!(lines, ["GET /v2/", "GET /v2/"]);
    let (done, _) = login(|_| wants("Basic realm=\"x\""));
    let error = done.unwrap_err();
    assert!(matches!(&error, RegistryError::LoginRefused { user, .. } if user == "Aladdin"));
}

#[test]
fn registries_that_ask_for_a_token() {
    let (done, lines) = login(|asked| {
        let host = asked.header("host").unwrap();
        match (asked.target.as_str(), asked.header("authorization")) {
            (target, Some(BASIC)) if target.starts_with("/token") => {
                Reply::new(200).body(r#"{"token":"t"}"#)
            }
            ("/v2/", Some("Bearer t")) => Reply::new(200),
            _ => wants(format!(r#"Bearer realm="http://{host}/token",service="s""#)),
        }
    });
    assert_eq!(done.unwrap(), Login::Accepted);
    assert_eq!(
        lines,
        [
            "GET /v2/",
            "GET /token?service=s&account=Aladdin",
            "GET /v2/"
        ]
    );
    let (done, _) = login(|asked| {
        let host = asked.header("host").unwrap();
        match asked.target.starts_with("/token") {
            true => Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
            false => wants(format!(r#"Bearer realm="http://{host}/token""#)),
        }
    });
    assert!(done.unwrap_err().to_string().ends_with(
        "does not accept these credentials for `Aladdin`: incorrect username or password"
    ));
}

#[test]
fn what_is_no_answer_to_credentials() {
    let (done, lines) = login(|_| Reply::new(200));
    assert_eq!(done.unwrap(), Login::NotWanted);
    assert_eq!(lines.len(), 1, "nobody who does not ask is sent a password");
    let (done, _) = login(|_| Reply::new(404));
    assert!(matches!(
        done,
        Err(RegistryError::Status { status: 404, .. })
    ));
    let (done, _) = login(|_| Reply::new(401));
    assert!(matches!(
        done,
        Err(RegistryError::Status { status: 401, .. })
    ));
}
