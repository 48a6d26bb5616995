//! What all calls share: endpoints in order, tries, authorization, and what an answer other than success means.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use ureq::Body;
use ureq::http::HeaderMap;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header;

use super::MAX_DOCUMENT;
use super::auth;
use super::auth::Answer;
use super::auth::Challenge;
use super::auth::Credentials;
use super::auth::Scopes;
use super::auth::Slot;
use super::client::Client;
use super::endpoint::Endpoint;
use super::endpoint::Scheme;
use super::endpoint::Trust;
use super::error::RegistryError;
use super::reference::Reference;
use super::transport;
use super::transport::Request;
use super::transport::SendError;
use crate::clock;

/// How often is tried what may go better the next time.
pub(super) const TRIES: u32 = 5;
/// Who wants us to come back later than that is not asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How much of an error's explanation is read.
const MAX_EXPLANATION: u64 = 64 << 10;
/// How much of it is shown, in characters.
const SHOWN_EXPLANATION: usize = 300;

/// Why a try failed, and whether another one may not.
pub(super) struct Failure {
    pub(super) error: RegistryError,
    pub(super) again: Again,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After the usual pause.
    Later,
    /// After as long as the server asks for.
    After(Duration),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self {
            error,
            again: Again::Never,
        }
    }
}

impl Client {
    /// Pauses after a failed try, longer the more have failed before it.
    pub(super) fn pause(&self, before: u32) {
        self.shared
            .transport
            .pause(self.shared.first_pause * 2u32.pow(before));
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.shared.transport.is_stopped()
    }

    /// Asks one endpoint after the other until one answers. The last one's error counts: it is the registry itself,
    /// the others are its mirrors.
    pub(super) fn over_endpoints<T>(
        &self,
        endpoints: &[Endpoint],
        mut ask: impl FnMut(&Endpoint) -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let (last, others) = endpoints.split_last().expect("a registry has an endpoint");
        for endpoint in others {
            match ask(&self.settled(endpoint)) {
                Ok(found) => return Ok(found),
                Err(failure) if failure.error.is_worth_another_host() => {}
                Err(failure) => return Err(failure.error),
            }
        }
        let last = self.settled(last);
        self.with_tries(|| ask(&last))
    }

    /// The endpoint with the scheme that it answers to, which is found out once.
    fn settled<'a>(&self, endpoint: &'a Endpoint) -> Cow<'a, Endpoint> {
        if endpoint.scheme != Scheme::Either {
            return Cow::Borrowed(endpoint);
        }
        // A host that does not answer holds up nobody who asks another.
        let found = {
            let mut schemes = self.shared.schemes.lock().expect("nothing in here panics");
            Arc::clone(schemes.entry(endpoint.name.clone()).or_default())
        };
        let mut found = found.lock().expect("no probe panics");
        if found.is_none() {
            let works = |scheme: &Scheme| {
                let probe = Request::new(Method::GET, endpoint.with_scheme(*scheme).root());
                self.shared.transport.send(&probe, &endpoint.trust).is_ok()
            };
            *found = [Scheme::Tls, Scheme::Plain].into_iter().find(works);
        }
        let scheme = *found;
        Cow::Owned(endpoint.with_scheme(scheme.unwrap_or(Scheme::Tls)))
    }

    pub(super) fn with_tries<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut failed = 0;
        loop {
            let Failure { error, again } = match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            failed += 1;
            match again {
                Again::Never => return Err(error),
                _ if failed >= self.tries => return Err(error),
                Again::Later => self.pause(failed - 1),
                Again::After(time) => self.shared.transport.pause(time),
            }
        }
    }

    /// Sends a request and turns every status but success into an error.
    pub(super) fn expect_success(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        scopes: &Scopes,
        request: &Request<'_>,
    ) -> Result<Response<Body>, Failure> {
        let slot = self.shared.keyring.slot(endpoint, scopes);
        let mut response = self.exchange(endpoint, reference, scopes, &slot, request)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let told = slot.locked().told.clone();
        Err(self.refusal(endpoint, reference, told, request, &mut response))
    }

    /// Sends a request and answers one challenge.
    fn exchange(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        scopes: &Scopes,
        slot: &Slot,
        request: &Request<'_>,
    ) -> Result<Response<Body>, Failure> {
        // An upload may go to another host, which must see neither token nor certificate.
        let at_home = transport::same_origin(&request.url, &endpoint.root());
        let trust = match at_home {
            true => Cow::Borrowed(&endpoint.trust),
            false => Cow::Owned(endpoint.trust.anonymous()),
        };
        let mut used = slot.locked().answer.clone();
        let with = |answer: &Option<Answer>| match answer {
            Some(answer) if at_home => request
                .clone()
                .header(header::AUTHORIZATION, answer.0.clone()),
            _ => request.clone(),
        };
        let response = self.send(endpoint, &trust, &with(&used))?;
        if response.status() != StatusCode::UNAUTHORIZED || !at_home {
            return Ok(response);
        }
        let Some(challenge) = auth::challenge(&response) else {
            return Ok(response);
        };
        // Connections are kept only where answers are read to their end, and this one is short.
        drop(
            response
                .into_body()
                .into_with_config()
                .limit(MAX_EXPLANATION)
                .read_to_vec(),
        );
        used = self.answer(endpoint, reference, scopes, slot, used, &challenge)?;
        self.send(endpoint, &trust, &with(&used))
    }

    fn answer(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        scopes: &Scopes,
        slot: &Slot,
        refused: Option<Answer>,
        challenge: &Challenge,
    ) -> Result<Option<Answer>, Failure> {
        let mut state = slot.locked();
        if state.answer.is_some() && state.answer != refused {
            return Ok(state.answer.clone());
        }
        let found = self.shared.keyring.credentials(endpoint);
        state.answer = None;
        state.told = Some(found.told.clone());
        let answer = match challenge {
            Challenge::Basic => match &found.credentials {
                Credentials::Password { user, password } => Some(auth::basic(user, password)),
                _ => None,
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let at_home = endpoint.scheme == Scheme::Plain || transport::is_tls(realm);
                if !at_home && !matches!(found.credentials, Credentials::Anonymous) {
                    return Err(self.protocol(
                        endpoint,
                        format!("it wants credentials sent in the clear to `{realm}`"),
                    ));
                }
                let scopes = auth::merge_scopes(scopes, scope.as_deref());
                let mut form = String::new();
                let request = auth::token_request(
                    realm,
                    service.as_deref(),
                    &scopes,
                    &found.credentials,
                    &mut form,
                );
                Some(self.with_tries(|| {
                    let mut response = self.send(endpoint, &endpoint.trust, &request)?;
                    if !response.status().is_success() {
                        let told = Some(found.told.clone());
                        return Err(self.refusal(
                            endpoint,
                            reference,
                            told,
                            &request,
                            &mut response,
                        ));
                    }
                    let body =
                        self.read_limited(endpoint, realm, &mut response, auth::MAX_TOKEN)?;
                    auth::read_token(&body)
                        .ok_or_else(|| self.protocol(endpoint, format!("`{realm}` gave no token")))
                })?)
            }
        };
        state.answer.clone_from(&answer);
        Ok(answer)
    }

    pub(super) fn send(
        &self,
        endpoint: &Endpoint,
        trust: &Trust,
        request: &Request<'_>,
    ) -> Result<Response<Body>, Failure> {
        let sent = self.shared.transport.send(request, trust);
        sent.map_err(|error| self.failed(endpoint, request, error))
    }

    fn failed(&self, endpoint: &Endpoint, request: &Request<'_>, error: SendError) -> Failure {
        let host = transport::parse_url(&request.url)
            .and_then(|uri| uri.host().map(str::to_owned))
            .filter(|_| !transport::same_origin(&request.url, &endpoint.root()));
        self.not_sent(host.unwrap_or_else(|| endpoint.name.clone()), error)
    }

    /// A request that got no answer from the host called `registry`.
    pub(super) fn not_sent(&self, registry: String, error: SendError) -> Failure {
        if self.is_cancelled() {
            return RegistryError::Cancelled.into();
        }
        match error {
            SendError::Connection(source) => Failure {
                error: RegistryError::Unreachable { registry, source },
                again: Again::Later,
            },
            SendError::Tls(source) => RegistryError::Tls { registry, source }.into(),
            SendError::Redirect(why) => RegistryError::Protocol {
                registry,
                why: why.to_owned(),
            }
            .into(),
            SendError::Source(source) => RegistryError::Source { source }.into(),
            SendError::Local(error) => error.into(),
        }
    }

    pub(super) fn protocol(&self, endpoint: &Endpoint, why: String) -> Failure {
        RegistryError::Protocol {
            registry: endpoint.name.clone(),
            why,
        }
        .into()
    }

    fn refusal(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        told: Option<String>,
        request: &Request<'_>,
        response: &mut Response<Body>,
    ) -> Failure {
        let registry = endpoint.name.clone();
        let message = explanation(response);
        let reference = reference.written().to_owned();
        let status = response.status();
        let again = match status.as_u16() {
            408 | 429 | 500 | 502..=504 => retry_after(response.headers()),
            _ => Again::Never,
        };
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
                credentials: told
                    .unwrap_or_else(|| format!("`{registry}` asked for no credentials")),
                registry,
                reference,
                message,
            },
            StatusCode::NOT_FOUND => RegistryError::NotFound {
                registry,
                reference,
                message,
            },
            StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests {
                limit: rate_limit(response.headers()),
                registry,
                message,
            },
            _ => status_error(registry, request, status, message),
        };
        Failure { error, again }
    }

    /// An answer to a request that is about no image.
    pub(super) fn unexpected(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        response: &mut Response<Body>,
    ) -> Failure {
        let message = explanation(response);
        status_error(endpoint.name.clone(), request, response.status(), message).into()
    }

    pub(super) fn read_small(
        &self,
        endpoint: &Endpoint,
        what: &str,
        response: &mut Response<Body>,
    ) -> Result<Vec<u8>, Failure> {
        self.read_limited(endpoint, what, response, MAX_DOCUMENT)
    }

    pub(super) fn read_limited(
        &self,
        endpoint: &Endpoint,
        what: &str,
        response: &mut Response<Body>,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let too_large = || RegistryError::TooLarge {
            what: what.to_owned(),
            limit,
        };
        if response.body().content_length().is_some_and(|n| n > limit) {
            return Err(too_large().into());
        }
        let mut bytes = Vec::new();
        let mut reader = response.body_mut().as_reader().take(limit + 1);
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| self.broken(endpoint, error))?;
        if bytes.len() as u64 > limit {
            return Err(too_large().into());
        }
        Ok(bytes)
    }

    /// A connection that broke while an answer was read.
    pub(super) fn broken(&self, endpoint: &Endpoint, error: std::io::Error) -> Failure {
        self.not_sent(endpoint.name.clone(), SendError::Connection(error.into()))
    }
}

fn status_error(
    registry: String,
    request: &Request<'_>,
    status: StatusCode,
    message: Option<String>,
) -> RegistryError {
    RegistryError::Status {
        registry,
        method: request.method.to_string(),
        // A query may hold a token.
        url: request.url.split('?').next().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        message,
    }
}

/// When to come back, by `Retry-After`: in seconds or as a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Again {
    let text = headers.get(header::RETRY_AFTER);
    let text = text.and_then(|value| value.to_str().ok()).map(str::trim);
    let time = text.and_then(|text| match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            let since = date.duration_since(UNIX_EPOCH).ok()?;
            let now = Duration::from_nanos(u64::try_from(clock::now().0).ok()?);
            Some(since.saturating_sub(now))
        }
    });
    match time {
        None => Again::Later,
        Some(time) if time > LONGEST_PAUSE => Again::Never,
        Some(time) => Again::After(time),
    }
}

/// The limit a registry sets, in words: Docker Hub's `RateLimit-Limit: 100;w=21600`, and when `Retry-After` asks to come back.
pub(super) fn rate_limit(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let limit = text("ratelimit-limit").and_then(|limit| {
        let (number, rest) = limit.split_once(';').unwrap_or((limit, ""));
        let number: u64 = number.trim().parse().ok()?;
        let seconds: Option<u64> = rest.trim().strip_prefix("w=").and_then(|w| w.parse().ok());
        Some(match seconds {
            Some(seconds) => format!("its limit is {number} in {seconds} s"),
            None => format!("its limit is {number}"),
        })
    });
    let back = text("retry-after").map(str::trim).and_then(|back| {
        let in_seconds = back.parse::<u64>().is_ok();
        let is_date = || httpdate::parse_http_date(back).is_ok();
        match in_seconds {
            true => Some(format!("it takes requests again after {back} s")),
            false if is_date() => Some(format!("it takes requests again on {back}")),
            false => None,
        }
    });
    let said: Vec<String> = [limit, back].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// What an error's body says, in the forms of the distribution-spec (Error Codes), of OAuth2 and of Docker Hub's
/// token server. Hostile text: one line, of bounded length.
pub(super) fn explanation(response: &mut Response<Body>) -> Option<String> {
    #[derive(Deserialize)]
    struct Explanation {
        #[serde(default)]
        errors: Vec<Detail>,
        details: Option<String>,
        error_description: Option<String>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct Detail {
        code: Option<String>,
        message: Option<String>,
    }
    let mut bytes = Vec::new();
    let mut reader = response.body_mut().as_reader().take(MAX_EXPLANATION);
    reader.read_to_end(&mut bytes).ok()?;
    let said: Explanation = serde_json::from_slice(&bytes).ok()?;
    let text = said
        .errors
        .into_iter()
        .next()
        .and_then(|detail| detail.message.filter(|m| !m.is_empty()).or(detail.code))
        .or(said.details)
        .or(said.error_description)
        .or(said.message)?;
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN_EXPLANATION)
        .collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
