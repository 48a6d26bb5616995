//! Requests to services that are no registries and keep caches: what is asked is the caller's, with its headers; here are
//! connections, tries, and what refusals mean.

use std::io::Read;

use rbuild_llb::OciDigest;
use ureq::Body;
use ureq::http::HeaderMap;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header::HeaderName;

use super::blob::Verified;
use super::call::Again;
use super::call::Failure;
use super::call::explanation;
use super::call::rate_limit;
use super::call::retry_after;
use super::client::Client;
use super::download::shown;
use super::endpoint::Trust;
use super::error::RegistryError;
use super::transport;
use super::transport::OpenBlob;
use super::transport::Payload;
use super::transport::Request;
use super::transport::SendError;

/// A request.
#[derive(Clone)]
pub struct Call<'a> {
    request: Request<'a>,
    /// Statuses besides success that are answers.
    answers: Vec<u16>,
    /// What to do where access is denied.
    hint: String,
}

/// An answer.
pub struct Reply {
    host: String,
    response: Response<Body>,
}

impl<'a> Call<'a> {
    /// A request without a body. `method` is one of HTTP's.
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        let method = Method::from_bytes(method.as_bytes()).expect("a method is a word");
        Self {
            request: Request::new(method, url.into()),
            answers: Vec::new(),
            hint: "the credentials of the cache are refused".to_owned(),
        }
    }

    /// With a header more. It goes to the host of the URL alone if it is `Authorization`.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name is a word");
        self.request = self.request.header(name, value);
        self
    }

    /// With bytes behind it.
    pub fn bytes(mut self, bytes: &'a [u8]) -> Self {
        self.request = self.request.body(Payload::Bytes(bytes));
        self
    }

    /// With a blob behind it, opened anew for each try.
    pub fn blob(mut self, open: &'a OpenBlob<'a>, size: u64) -> Self {
        self.request = self.request.body(Payload::Reader { open, size });
        self
    }

    /// A status besides success that is an answer, and no error.
    pub fn or(mut self, status: u16) -> Self {
        self.answers.push(status);
        self
    }

    /// What to do where access is denied.
    pub fn hint(mut self, text: &str) -> Self {
        text.clone_into(&mut self.hint);
        self
    }
}

impl Reply {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The bytes, none of which were compared with anything.
    fn into_reader(self) -> impl Read + Send + use<> {
        self.response.into_body().into_reader()
    }

    /// The bytes as a blob. The reader compares them with digest and size as they pass, and gives an error in place of the
    /// last if they differ; it is not tried again.
    ///
    /// # Errors
    /// If it is empty, and should be something else.
    pub fn into_blob(
        self,
        digest: &OciDigest,
        size: u64,
    ) -> Result<impl Read + Send + use<>, RegistryError> {
        Verified::new(self.into_reader(), digest, size)
    }
}

impl Client {
    /// Sends a request, again if there is hope.
    ///
    /// # Errors
    /// [`RegistryError`], which names the host in the place of a registry.
    pub fn call(&self, call: &Call<'_>) -> Result<Reply, RegistryError> {
        self.with_tries(|| self.call_once(call))
    }

    /// The same for an answer of bounded length, which is read.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn call_small(&self, call: &Call<'_>, limit: u64) -> Result<(u16, Vec<u8>), RegistryError> {
        self.with_tries(|| {
            let reply = self.call_once(call)?;
            let (host, status) = (reply.host.clone(), reply.status());
            let mut bytes = Vec::new();
            let read = reply.into_reader().take(limit + 1).read_to_end(&mut bytes);
            read.map_err(|error| self.not_sent(host, SendError::Connection(error.into())))?;
            match bytes.len() as u64 > limit {
                true => Err(RegistryError::TooLarge {
                    what: shown(&call.request.url),
                    limit,
                }
                .into()),
                false => Ok((status, bytes)),
            }
        })
    }

    fn call_once(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let request = &call.request;
        let host = transport::parse_url(&request.url)
            .and_then(|uri| uri.authority().map(|authority| authority.to_string()))
            .unwrap_or_else(|| shown(&request.url));
        let sent = self.shared.transport.send(request, &Trust::default());
        let mut response = sent.map_err(|error| self.not_sent(host.clone(), error))?;
        let status = response.status();
        if status.is_success() || call.answers.contains(&status.as_u16()) {
            return Ok(Reply { host, response });
        }
        let again = match status.as_u16() {
            408 | 429 | 500 | 502..=504 => retry_after(response.headers()),
            _ => Again::Never,
        };
        let limit = rate_limit(response.headers());
        let message = explanation(&mut response);
        let reference = shown(&request.url);
        let registry = host;
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
                credentials: call.hint.clone(),
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
                limit,
                registry,
                message,
            },
            status => RegistryError::Status {
                registry,
                method: request.method.to_string(),
                url: reference,
                status: status.as_u16(),
                message,
            },
        };
        Err(Failure { error, again })
    }
}
