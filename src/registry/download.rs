//! Files by URL, for ADD and for contexts.

use std::io;
use std::io::Read;
use std::time::UNIX_EPOCH;

use ureq::Body;
use ureq::http::HeaderMap;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header;

use super::auth;
use super::call::Again;
use super::call::Failure;
use super::call::rate_limit;
use super::call::retry_after;
use super::client::Client;
use super::endpoint::Trust;
use super::error::RegistryError;
use super::transport;
use super::transport::Request;
use super::transport::SendError;

/// What a server said of a file, by which it can be asked whether that is still so (RFC 9110, section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`
    pub etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub last_modified: Option<String>,
}

impl Validators {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        Self {
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
        }
    }

    /// `Last-Modified` in Unix seconds; `None` if it was not sent or is no HTTP date.
    pub fn modified(&self) -> Option<i64> {
        let time = httpdate::parse_http_date(self.last_modified.as_deref()?).ok()?;
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_secs()).ok()
    }
}

/// A URL without what may be secret: user, password and query.
pub fn shown(url: &str) -> String {
    let whole = url.split(['?', '#']).next().unwrap_or_default();
    match whole.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => whole.to_owned(),
    }
}

impl Client {
    /// Gets a file, unless it is still what `known` says: then the answer is `None`. `take` is given its content from the
    /// beginning, more than once if a connection breaks; what it fails with is the call's error.
    ///
    /// User and password in the URL are sent to its host alone.
    ///
    /// # Errors
    /// If it cannot be had, after the usual tries.
    pub fn download(
        &self,
        url: &str,
        known: &Validators,
        take: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> Result<Option<Validators>, RegistryError> {
        let (url, credentials) = without_userinfo(url);
        let mut request = Request::new(Method::GET, url.clone());
        if let Some((user, password)) = credentials {
            request = request.header(header::AUTHORIZATION, auth::basic(&user, &password).0);
        }
        if let Some(etag) = &known.etag {
            request = request.header(header::IF_NONE_MATCH, etag.clone());
        }
        if let Some(time) = &known.last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, time.clone());
        }
        self.with_tries(|| self.get_once(&url, &request, take))
    }

    fn get_once(
        &self,
        url: &str,
        request: &Request<'_>,
        take: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> Result<Option<Validators>, Failure> {
        let host = transport::parse_url(url)
            .and_then(|uri| uri.host().map(str::to_owned))
            .unwrap_or_else(|| shown(url));
        let sent = self.shared.transport.send(request, &Trust::default());
        let mut response = sent.map_err(|error| self.not_sent(host.clone(), error))?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(refused(host, url, &response));
        }
        let validators = Validators::of(response.headers());
        let mut body = Watched {
            inner: response.body_mut().as_reader(),
            broke: None,
        };
        let taken = take(&mut body);
        match (body.broke, taken) {
            (None, Ok(())) => Ok(Some(validators)),
            (Some(error), _) => Err(self.not_sent(host, SendError::Connection(error.into()))),
            (None, Err(source)) => Err(RegistryError::Sink { source }.into()),
        }
    }
}

/// What a status but success means.
pub(super) fn refused(registry: String, url: &str, response: &Response<Body>) -> Failure {
    let reference = shown(url);
    let message = None;
    let again = match response.status().as_u16() {
        408 | 429 | 500 | 502..=504 => retry_after(response.headers()),
        _ => Again::Never,
    };
    let error = match response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
            registry,
            reference,
            message,
            credentials: "user and password can stand in the URL; a secret mounted into a RUN \
                          step is not kept in the image's history"
                .to_owned(),
        },
        StatusCode::NOT_FOUND | StatusCode::GONE => RegistryError::NotFound {
            registry,
            reference,
            message,
        },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests {
            limit: rate_limit(response.headers()),
            registry,
            message,
        },
        status => RegistryError::Status {
            registry,
            method: Method::GET.to_string(),
            url: reference,
            status: status.as_u16(),
            message,
        },
    };
    Failure { error, again }
}

/// Tells a connection that broke from a reader's user that failed.
struct Watched<R> {
    inner: R,
    broke: Option<io::Error>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.broke = Some(io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

type UserInfo = (String, String);

/// Takes user and password out of a URL, percent-decoded (RFC 3986, section 3.2.1).
fn without_userinfo(url: &str) -> (String, Option<UserInfo>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return (url.to_owned(), None);
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let credentials = (decoded(user), decoded(password));
    (format!("{scheme}://{host}{path}"), Some(credentials))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|&b| char::from(b).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn secrets_in_a_url_are_not_shown() {
        for (url, want) in [
            ("https://u:p@h:8/a/b?token=x#f", "https://h:8/a/b"),
            ("http://h", "http://h"),
            ("https://h?x", "https://h"),
            ("https://h/a@b", "https://h/a@b"),
        ] {
            assert_eq!(shown(url), want);
        }
    }

    #[test]
    fn userinfo_is_taken_out() {
        let of = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        for (url, want, credentials) in [
            ("https://u:p%40%zz@h/a@b", "https://h/a@b", of("u", "p@%zz")),
            ("https://u@h?q", "https://h?q", of("u", "")),
            ("https://h/u:p@h", "https://h/u:p@h", None),
        ] {
            assert_eq!(
                without_userinfo(url),
                (want.to_owned(), credentials),
                "{url}"
            );
        }
    }

    #[test]
    fn http_dates_are_read() {
        let modified = |text: &str| {
            let last_modified = Some(text.to_owned());
            Validators {
                etag: None,
                last_modified,
            }
            .modified()
        };
        // RFC 9110, section 5.6.7: the three forms of one moment.
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(modified(text), Some(784_111_777), "{text}");
        }
        assert_eq!(modified("yesterday"), None);
    }
}
