//! Who we are to a registry: challenges (RFC 9110, section 11; distribution's token and OAuth2 specifications),
//! tokens, and credentials from docker's config.
//!
//! Nothing is looked up before a registry asks: a registry that lets everybody in never makes a credential helper
//! run. One answer to a challenge is kept for each endpoint and scope, and replaced when the registry refuses it,
//! so expiry needs no clock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use docker_credential::DockerCredential;
use serde::Deserialize;
use ureq::Body;
use ureq::http::HeaderMap;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::header;

use super::docker_config;
use super::docker_config::DockerConfigError;
use super::endpoint::Endpoint;
use super::transport::Payload;
use super::transport::Request;
use super::transport::encode;
use crate::request::Secret;
use crate::request::Settings;

/// Largest answer a token server may give.
pub(super) const MAX_TOKEN: u64 = 1 << 20;
/// What credential helpers print when they know of none (docker-credential-helpers, `errCredentialsNotFound`).
pub(super) const NOT_IN_KEYCHAIN: &str = "credentials not found in native keychain";
/// A variable of GitLab's and of docker's (28): what docker's config would hold.
pub const DOCKER_AUTH: &str = "DOCKER_AUTH_CONFIG";
/// `client_id` in OAuth2 requests.
const CLIENT_ID: &str = "rbuild";

/// What is to be done with which repositories, in the token specification's words:
/// `repository:library/alpine:pull`.
pub(super) type Scopes = Vec<String>;

/// A `WWW-Authenticate` challenge we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// What docker's config knows about a registry.
pub(super) enum Credentials {
    Anonymous,
    Password { user: String, password: String },
    IdentityToken(String),
}

/// Answers to challenges, for all endpoints, and where credentials come from.
pub(super) struct Keyring {
    /// What goes before the file.
    given: Option<Secret>,
    config: Option<PathBuf>,
    answers: Mutex<BTreeMap<(String, Scopes), Arc<Slot>>>,
}

/// The answer to an endpoint's challenges for some scopes, once there is one. Locked while it is fetched, so that
/// others wait for it instead of fetching it too.
#[derive(Default)]
pub(super) struct Slot(Mutex<State>);

/// What a [`Slot`] holds.
#[derive(Default)]
pub(super) struct State {
    pub(super) answer: Option<Answer>,
    /// Where credentials were looked for, once they were.
    pub(super) told: Option<String>,
}

/// The value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Answer(pub(super) String);

/// Credentials, and in words where they come from or why there are none, for error messages.
pub(super) struct Found {
    pub(super) credentials: Credentials,
    pub(super) told: String,
}

impl Keyring {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            given: settings.docker_auth.clone(),
            config: settings.docker_config.clone(),
            answers: Mutex::default(),
        }
    }

    pub(super) fn slot(&self, endpoint: &Endpoint, scopes: &Scopes) -> Arc<Slot> {
        let key = (endpoint.root(), scopes.clone());
        let mut answers = self.answers.lock().expect("the list is only looked up in");
        Arc::clone(answers.entry(key).or_default())
    }

    /// Looks in what was given in the place of docker's config, then in that, as docker's command does. A helper that is
    /// missing or fails counts as having none, for most images need no credentials; the failure is told when the registry
    /// turns us down.
    pub(super) fn credentials(&self, endpoint: &Endpoint) -> Found {
        let Some(given) = &self.given else {
            return self.filed(endpoint);
        };
        let first = looked_up(&*given.0, endpoint, DOCKER_AUTH, "");
        if !matches!(first.credentials, Credentials::Anonymous) {
            return first;
        }
        let then = self.filed(endpoint);
        Found {
            told: format!("{}; {}", first.told, then.told),
            ..then
        }
    }

    /// Looks in docker's config and asks the helper it names.
    fn filed(&self, endpoint: &Endpoint) -> Found {
        let none = |told: String| Found {
            credentials: Credentials::Anonymous,
            told,
        };
        let name = &endpoint.name;
        let Some(path) = &self.config else {
            return none(format!(
                "no credentials for `{name}`: there is no docker config to look in; `rbuild login {name}` makes one"
            ));
        };
        let shown = path.display();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => {
                return none(format!(
                    "credentials for `{name}` are looked for in `{shown}`, which cannot be opened ({error}); \
                     `rbuild login {name}` makes it"
                ));
            }
        };
        let there = format!("; `rbuild login {name}` writes them there");
        looked_up(file, endpoint, &shown.to_string(), &there)
    }
}

/// What a config of docker's has, which errors call `shown`; if nothing, they go on with `advice`.
fn looked_up(config: impl Read, endpoint: &Endpoint, shown: &str, advice: &str) -> Found {
    let name = &endpoint.name;
    let none = |told: String| Found {
        credentials: Credentials::Anonymous,
        told,
    };
    let key = endpoint.credentials_key();
    match docker_config::credential(config, key, Path::new(shown)) {
        Ok(Some(DockerCredential::UsernamePassword(user, password))) => Found {
            told: format!(
                "`{shown}` has credentials for `{name}`, user `{user}`; they were refused or do not suffice"
            ),
            credentials: Credentials::Password { user, password },
        },
        Ok(Some(DockerCredential::IdentityToken(token))) => Found {
            told: format!(
                "`{shown}` has an identity token for `{name}`; it was refused or does not suffice"
            ),
            credentials: Credentials::IdentityToken(token),
        },
        Ok(None) => none(format!("`{shown}` has no credentials for `{name}`{advice}")),
        Err(error) => none(format!(
            "the credentials for `{name}` that `{shown}` points at cannot be had: {}",
            in_words(error)
        )),
    }
}

/// What docker's config has for the registry that a daemon calls `host`: user and password, or an identity token, which
/// has no user.
pub fn credentials(settings: &Settings, host: &str) -> Option<(String, String)> {
    let endpoint = Endpoint::of_host(host);
    match Keyring::new(settings).credentials(&endpoint).credentials {
        Credentials::Anonymous => None,
        Credentials::Password { user, password } => Some((user, password)),
        Credentials::IdentityToken(token) => Some((String::new(), token)),
    }
}

fn in_words(error: DockerConfigError) -> String {
    match error {
        DockerConfigError::File { source, .. } => source.to_string(),
        DockerConfigError::Malformed { why, .. } => why,
        DockerConfigError::Helper { helper, said, .. } => format!("`{helper}` failed: {said}"),
    }
}

impl Slot {
    pub(super) fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("fetching a token does not panic")
    }
}

/// The `Basic` answer.
pub(super) fn basic(user: &str, password: &str) -> Answer {
    Answer(format!(
        "Basic {}",
        base64(format!("{user}:{password}").as_bytes())
    ))
}

/// The request that gets a token for `scopes`.
pub(super) fn token_request<'a>(
    realm: &str,
    service: Option<&str>,
    scopes: &Scopes,
    credentials: &Credentials,
    form: &'a mut String,
) -> Request<'a> {
    let mut query: Vec<(&str, &str)> = Vec::new();
    query.extend(service.map(|service| ("service", service)));
    if let Credentials::IdentityToken(token) = credentials {
        let scope = scopes.join(" ");
        query.extend([
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("scope", &scope),
            ("refresh_token", token),
        ]);
        *form = pairs(&query);
        return Request::new(Method::POST, realm.to_owned())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Payload::Bytes(form.as_bytes()));
    }
    query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
    if let Credentials::Password { user, .. } = credentials {
        query.push(("account", user));
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    let request = Request::new(Method::GET, format!("{realm}{separator}{}", pairs(&query)));
    match credentials {
        Credentials::Password { user, password } => {
            request.header(header::AUTHORIZATION, basic(user, password).0)
        }
        _ => request,
    }
}

/// The answer a token server's document gives.
pub(super) fn read_token(body: &[u8]) -> Option<Answer> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let token: Token = serde_json::from_slice(body).ok()?;
    let token = token
        .token
        .filter(|t| !t.is_empty())
        .or(token.access_token)?;
    let sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    sound.then(|| Answer(format!("Bearer {token}")))
}

/// The scopes to ask a token for: ours, and the challenge's where it is about something else.
pub(super) fn merge_scopes(ours: &Scopes, challenge: Option<&str>) -> Scopes {
    fn resource(scope: &str) -> &str {
        scope
            .rsplit_once(':')
            .map_or(scope, |(resource, _)| resource)
    }
    let mut scopes = ours.clone();
    for asked in challenge.unwrap_or_default().split_ascii_whitespace() {
        if !scopes.iter().any(|own| resource(own) == resource(asked)) {
            scopes.push(asked.to_owned());
        }
    }
    scopes
}

/// The challenge to answer: `Bearer` rather than `Basic`.
pub(super) fn challenge(response: &Response<Body>) -> Option<Challenge> {
    best(response.headers())
}

fn best(headers: &HeaderMap) -> Option<Challenge> {
    let mut all: Vec<_> = headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse_challenges)
        .collect();
    let bearer = all.iter().position(|c| *c != Challenge::Basic);
    let pick = bearer.unwrap_or(0);
    (pick < all.len()).then(|| all.swap_remove(pick))
}

/// Reads the list `scheme key=value, key="value", scheme …`; what cannot be read ends it.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (scheme, after) = split_token(rest);
        let mut parameters = BTreeMap::new();
        rest = after.trim_start();
        while let Some((key, value, after)) = split_parameter(rest) {
            parameters.insert(key, value);
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        rest = rest.trim_start_matches(',').trim_start();
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = parameters.remove("realm")
        {
            found.push(Challenge::Bearer {
                realm,
                service: parameters.remove("service"),
                scope: parameters.remove("scope"),
            });
        } else if scheme.is_empty() {
            break;
        }
    }
    found
}

fn split_token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | '=' | '"'))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn split_parameter(text: &str) -> Option<(String, String, &str)> {
    let (key, rest) = split_token(text);
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    if key.is_empty() {
        return None;
    }
    let key = key.to_ascii_lowercase();
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, rest) = split_token(rest);
        return Some((key, value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((key, value, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    None
}

fn pairs(list: &[(&str, &str)]) -> String {
    let list: Vec<_> = list
        .iter()
        .map(|(key, value)| format!("{key}={}", encode(value)))
        .collect();
    list.join("&")
}

/// RFC 4648, section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            text.push(if i <= chunk.len() {
                char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (text, want) in [
            (
                r#"Bearer realm="https://a/t",service="r.io",scope="repository:a/b:pull,push""#,
                vec![bearer(
                    "https://a/t",
                    Some("r.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (
                r#"bearer realm=https://a/t"#,
                vec![bearer("https://a/t", None, None)],
            ),
            (r#"Basic realm="a \"b\", c""#, vec![Challenge::Basic]),
            (
                r#"Basic realm="x", Bearer realm="y" , service="z""#,
                vec![Challenge::Basic, bearer("y", Some("z"), None)],
            ),
            ("Basic", vec![Challenge::Basic]),
            ("Bearer service=\"no realm\"", vec![]),
            ("Negotiate, Basic", vec![Challenge::Basic]),
            (r#"Bearer realm="open"#, vec![]),
            ("=,=\"", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse_challenges(text), want, "{text}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(best(&headers), None);
        headers.append(header::WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        assert_eq!(best(&headers), Some(Challenge::Basic));
        headers.append(header::WWW_AUTHENTICATE, "Bearer realm=y".parse().unwrap());
        assert_eq!(best(&headers), Some(bearer("y", None, None)));
    }

    #[test]
    fn scopes_are_merged_by_resource() {
        let ours = vec!["repository:a:pull,push".to_owned()];
        assert_eq!(merge_scopes(&ours, None), ours);
        assert_eq!(merge_scopes(&ours, Some("repository:a:pull")), ours);
        assert_eq!(
            merge_scopes(&ours, Some("repository:a:pull registry:catalog:*")),
            ["repository:a:pull,push", "registry:catalog:*"]
        );
    }

    // RFC 4648, section 10.
    #[test]
    fn base64_of_the_rfc() {
        for (bytes, want) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
    }

    #[test]
    fn tokens() {
        let token = |body: &str| read_token(body.as_bytes()).map(|answer| answer.0);
        assert_eq!(token(r#"{"token":"a"}"#).as_deref(), Some("Bearer a"));
        assert_eq!(
            token(r#"{"access_token":"b"}"#).as_deref(),
            Some("Bearer b")
        );
        assert_eq!(
            token(r#"{"token":"","access_token":"b"}"#).as_deref(),
            Some("Bearer b")
        );
        for bad in ["", "{}", r#"{"token":"a\r\nX: y"}"#, "[]", r#"{"token":7}"#] {
            assert_eq!(token(bad), None, "{bad}");
        }
    }
}
