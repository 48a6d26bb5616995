//! Connections: TLS, proxies, redirects, time limits. One request in, one answer out, whatever its status; tries
//! again nothing.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::net::IpAddr;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use ureq::Agent;
use ureq::Body;
use ureq::ProxyProtocol;
use ureq::SendBody;
use ureq::http;
use ureq::http::HeaderValue;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::Uri;
use ureq::http::header;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::ConnectProxyConnector;
use ureq::unversioned::transport::Connector;
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::TcpConnector;
use ureq::unversioned::transport::time::Duration as Limit;

use super::endpoint::Trust;
use super::endpoint::is_loopback;
use super::error::RegistryError;
use super::forward::Forward;
use super::tls::Certificates;
use super::tls::Secure;
use crate::request::ProxySettings;
use crate::request::Settings;

/// For a TCP connection and TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Who announces a body waits that long for word that it is wanted (`Expect`, RFC 9110, section 10.1.1), then sends it.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(1);
/// Bodies of at least that size are announced: who does not want one says so before it is sent.
const ANNOUNCED: u64 = 1 << 20;
/// Redirects in a row.
const MAX_REDIRECTS: u32 = 10;

/// Connections to any number of hosts. Shared by threads.
pub(super) struct Transport {
    certificates: Certificates,
    silence: Duration,
    proxies: ProxySettings,
    agents: Mutex<BTreeMap<AgentKey, Agent>>,
    stopped: Mutex<bool>,
    woken: Condvar,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct AgentKey {
    plain: bool,
    trust: Trust,
    proxy: Option<String>,
}

/// A request without its body.
#[derive(Clone)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(header::HeaderName, String)>,
    pub(super) body: Payload<'a>,
}

/// A request's body. It can be sent more than once.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// Opened anew for each try.
    Reader {
        open: &'a OpenBlob<'a>,
        size: u64,
    },
}

/// Opens a blob from its beginning.
pub type OpenBlob<'a> = dyn Fn() -> io::Result<Box<dyn Read + 'a>> + 'a;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum SendError {
    /// The connection failed or broke.
    Connection(ureq::Error),
    /// Certificates or the handshake.
    Tls(ureq::Error),
    /// The server redirects in a way that cannot be followed.
    Redirect(&'static str),
    /// The body to be sent cannot be read.
    Source(io::Error),
    /// Something on this side.
    Local(RegistryError),
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, url: String) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            body: Payload::None,
        }
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: Payload<'a>) -> Self {
        self.body = body;
        self
    }
}

impl Transport {
    /// `silence` is the longest that one read or write may take.
    pub(super) fn new(settings: &Settings, silence: Duration) -> Self {
        Self {
            silence,
            certificates: Certificates::new(settings.ca.clone()),
            proxies: settings.proxies.clone(),
            agents: Mutex::default(),
            stopped: Mutex::new(false),
            woken: Condvar::new(),
        }
    }

    /// Breaks all connections and ends all pauses. What is asked for from now on fails.
    pub(super) fn stop(&self) {
        *locked(&self.stopped) = true;
        self.woken.notify_all();
        for agent in locked(&self.agents).values() {
            agent.clone().shutdown();
        }
    }

    /// Whether [`stop`](Self::stop) was called.
    pub(super) fn is_stopped(&self) -> bool {
        *locked(&self.stopped)
    }

    /// Waits, unless or until it is stopped.
    pub(super) fn pause(&self, time: Duration) {
        let stopped = locked(&self.stopped);
        let waited = self
            .woken
            .wait_timeout_while(stopped, time, |stopped| !*stopped);
        drop(waited.expect(NEVER_POISONED));
    }

    /// Sends a request and follows redirects. Answers of every status are `Ok`.
    pub(super) fn send(
        &self,
        request: &Request<'_>,
        trust: &Trust,
    ) -> Result<Response<Body>, SendError> {
        let mut uri = parse_url(&request.url).ok_or(SendError::Redirect("its URL is malformed"))?;
        let origin = origin(&uri);
        for _ in 0..=MAX_REDIRECTS {
            if self.is_stopped() {
                return Err(SendError::Local(RegistryError::Cancelled));
            }
            let at_home = self::origin(&uri) == origin;
            let mut response = self.send_once(request, &uri, trust, at_home)?;
            if !at_home {
                // Whoever we were sent to may not ask for what was meant for another.
                response.headers_mut().remove(header::WWW_AUTHENTICATE);
            }
            if !follows(response.status(), &request.method) {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .ok_or(SendError::Redirect("it redirects to nowhere"))?;
            uri = join(&uri, location).ok_or(SendError::Redirect("it redirects to no URL"))?;
        }
        Err(SendError::Redirect("it redirects in circles"))
    }

    fn send_once(
        &self,
        request: &Request<'_>,
        uri: &Uri,
        trust: &Trust,
        at_home: bool,
    ) -> Result<Response<Body>, SendError> {
        let agent = match at_home {
            true => self.agent(uri, trust),
            false => self.agent(uri, &trust.anonymous()),
        };
        let agent = agent.map_err(SendError::Local)?;
        let mut builder = http::Request::builder()
            .method(request.method.clone())
            .uri(uri.clone());
        for (name, value) in &request.headers {
            if *name == header::AUTHORIZATION && !at_home {
                continue;
            }
            builder = builder.header(name, value);
        }
        let malformed = |e| SendError::Connection(ureq::Error::Http(e));
        match request.body {
            Payload::None if request.method == Method::POST || request.method == Method::PUT => {
                agent.run(builder.body(&[][..]).map_err(malformed)?)
            }
            Payload::None => agent.run(builder.body(()).map_err(malformed)?),
            Payload::Bytes(bytes) => agent.run(builder.body(bytes).map_err(malformed)?),
            Payload::Reader { open, size } => {
                let mut source = Source {
                    inner: open().map_err(SendError::Source)?,
                    failed: None,
                };
                if size >= ANNOUNCED {
                    builder = builder.header(header::EXPECT, "100-continue");
                }
                let answer = builder
                    .header(header::CONTENT_LENGTH, HeaderValue::from(size))
                    .body(SendBody::from_reader(&mut source))
                    .map_err(malformed)
                    .map(|request| agent.run(request))?;
                if let Some(error) = source.failed {
                    return Err(SendError::Source(error));
                }
                answer
            }
        }
        .map_err(classify)
    }

    fn agent(&self, uri: &Uri, trust: &Trust) -> Result<Agent, RegistryError> {
        let plain = uri.scheme_str() == Some("http");
        let key = AgentKey {
            plain,
            trust: if plain {
                Trust::default()
            } else {
                trust.clone()
            },
            proxy: self.proxy_for(uri),
        };
        if let Some(agent) = locked(&self.agents).get(&key) {
            return Ok(agent.clone());
        }
        let proxy = key
            .proxy
            .as_ref()
            .map(|url| {
                ureq::Proxy::new(url)
                    .ok()
                    .filter(|proxy| {
                        let protocol = proxy.protocol();
                        matches!(protocol, ProxyProtocol::Http | ProxyProtocol::Https)
                    })
                    .ok_or_else(|| RegistryError::Proxy {
                        scheme: uri.scheme_str().unwrap_or_default().to_owned(),
                    })
            })
            .transpose()?;
        // An `https://` proxy needs the roots for plain requests, too.
        let secure = match plain && proxy.is_none() {
            true => Secure::never(),
            false => self.certificates.secure(&key.trust)?,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(8)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_await_100(Some(ANNOUNCE_LIMIT.min(self.silence)))
            .timeout_per_read(Some(self.silence))
            .timeout_per_write(Some(self.silence));
        let agent = match proxy {
            Some(proxy) if plain => {
                let resolver = OnThisThread::of_proxy(proxy.uri().clone());
                let connector =
                    ().chain(TcpConnector::default())
                        .chain(secure.with_proxy(proxy.uri().clone()))
                        .chain(Forward::by(&proxy));
                Agent::with_parts(config.proxy(None).build(), connector, resolver)
            }
            proxy => {
                let connector =
                    ().chain(ConnectProxyConnector::default())
                        .chain(TcpConnector::default())
                        .chain(secure);
                let resolver = OnThisThread::default();
                Agent::with_parts(config.proxy(proxy).build(), connector, resolver)
            }
        };
        let mut agents = locked(&self.agents);
        // Stopping empties no list: an agent that joins it late must not be missed.
        if self.is_stopped() {
            return Err(RegistryError::Cancelled);
        }
        Ok(agents.entry(key).or_insert(agent).clone())
    }

    /// The proxy for a URL. It looks names up.
    fn proxy_for(&self, uri: &Uri) -> Option<String> {
        let proxy = match uri.scheme_str() {
            Some("http") => self.proxies.http.as_ref(),
            _ => self.proxies.https.as_ref(),
        }?;
        let authority = uri.authority()?.as_str();
        let direct = is_loopback(authority) || is_direct(uri, &self.proxies.no_proxy);
        (!direct && !proxy.is_empty()).then(|| proxy.clone())
    }
}

const NEVER_POISONED: &str = "nothing panics while a transport's lists are locked";

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect(NEVER_POISONED)
}

/// ureq's resolver looks names up on a thread of its own where a time limit applies, and leaves it behind when
/// the limit is reached. The pipeline must be single threaded between calls, so this one never does; the system's
/// resolver has limits itself (`resolv.conf`, `timeout` and `attempts`).
#[derive(Default)]
struct OnThisThread {
    resolver: DefaultResolver,
    /// Who is looked up, whatever the URL.
    proxy: Option<Uri>,
}

impl OnThisThread {
    fn of_proxy(proxy: Uri) -> Self {
        Self {
            proxy: Some(proxy),
            ..Self::default()
        }
    }
}

impl std::fmt::Debug for OnThisThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnThisThread")
    }
}

impl Resolver for OnThisThread {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        mut limit: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        limit.after = Limit::NotHappening;
        let uri = self.proxy.as_ref().unwrap_or(uri);
        self.resolver.resolve(uri, config, limit)
    }
}

/// Remembers why a body could not be read: ureq mixes it with the connection's errors.
struct Source<R> {
    inner: R,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

fn classify(error: ureq::Error) -> SendError {
    match &error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => SendError::Tls(error),
        // What rustls finds wrong comes as `InvalidData`; sockets have no such error.
        ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => SendError::Tls(error),
        _ => SendError::Connection(error),
    }
}

/// Whether a status is a redirect to be followed: with a body only where method and body stay as they are.
fn follows(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        307 | 308 => true,
        301..=303 => *method == Method::GET || *method == Method::HEAD,
        _ => false,
    }
}

fn origin(uri: &Uri) -> (Option<String>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (
        uri.scheme_str().map(str::to_owned),
        uri.host().map(str::to_ascii_lowercase),
        port,
    )
}

/// Whether two URLs have the same scheme, host and port.
pub(super) fn same_origin(a: &str, b: &str) -> bool {
    match (parse_url(a), parse_url(b)) {
        (Some(a), Some(b)) => origin(&a) == origin(&b),
        _ => false,
    }
}

/// Whether a URL is one that is asked over TLS; what is no URL is not.
pub(super) fn is_tls(url: &str) -> bool {
    parse_url(url).is_some_and(|uri| uri.scheme() == Some(&http::uri::Scheme::HTTPS))
}

pub(super) fn parse_url(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    (http && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// A `Location` seen from `base` (RFC 3986, section 5.2, as far as servers use it).
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") && !location.starts_with('/') && !location.starts_with('?') {
        return parse_url(location.split('#').next()?);
    }
    let location = location.split('#').next()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return parse_url(&format!("{scheme}://{rest}"));
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with('?') {
        format!("{}{location}", base.path())
    } else {
        let directory = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
        format!("{directory}{location}")
    };
    parse_url(&format!("{scheme}://{authority}{path}"))
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// Whether NO_PROXY exempts the host, by the rules of Go's `golang.org/x/net/http/httpproxy`, which docker uses.
fn is_direct(uri: &Uri, no_proxy: &[String]) -> bool {
    let Some(host) = uri.host() else { return false };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    let port = origin(uri).2;
    let address = host.parse::<IpAddr>().ok();
    no_proxy.iter().any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return address.is_some_and(|ip| in_network(ip, network, bits));
        }
        if let Ok(ip) = entry.parse::<IpAddr>() {
            return address == Some(ip);
        }
        let (name, wanted_port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, port.parse::<u16>().ok()),
            None => (entry.as_str(), None),
        };
        if wanted_port.is_some() && wanted_port != port {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = name.strip_prefix('*').unwrap_or(name);
        match name.strip_prefix('.') {
            Some("") => false,
            Some(_) => host.ends_with(name),
            None if name.is_empty() => false,
            None => host == name || host.strip_suffix(name).is_some_and(|h| h.ends_with('.')),
        }
    })
}

/// Whether an address is in the network `network/bits`.
pub(super) fn in_network(ip: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let same = |a: u128, b: u128, width: u32| {
        bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0)
    };
    match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(
            u128::from(u32::from(a)),
            u128::from(u32::from(b)),
            u32::BITS,
        ),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), u128::BITS),
        _ => false,
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn only_https_is_not_in_the_clear() {
        for (url, tls) in [
            ("https://a/t", true),
            ("HTTPS://a/t", true),
            ("http://a/t", false),
            ("HTTP://a/t", false),
            ("//a/t", false),
            ("", false),
        ] {
            assert_eq!(is_tls(url), tls, "{url}");
        }
    }

    #[test]
    fn locations() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/?x=1"
            .parse()
            .unwrap();
        for (location, want) in [
            ("/v2/b?y=2", Some("https://r.example:5000/v2/b?y=2")),
            ("http://s.example/p#f", Some("http://s.example/p")),
            ("//s.example/p", Some("https://s.example/p")),
            ("u1", Some("https://r.example:5000/v2/a/blobs/uploads/u1")),
            ("?z", Some("https://r.example:5000/v2/a/blobs/uploads/?z")),
            (
                "/p?u=http://x/",
                Some("https://r.example:5000/p?u=http://x/"),
            ),
            ("ftp://s.example/", None),
            ("file:///etc/passwd", None),
            ("http://", None),
        ] {
            assert_eq!(
                join(&base, location).map(|uri| uri.to_string()).as_deref(),
                want,
                "{location}"
            );
        }
    }

    // Cases from httpproxy's proxy_test.go.
    #[test]
    fn no_proxy() {
        for (entries, url, want) in [
            ("", "http://example.com", false),
            ("*", "http://example.com", true),
            ("example.com", "http://example.com", true),
            ("example.com", "http://foo.example.com", true),
            ("example.com", "http://notexample.com", false),
            (".example.com", "http://example.com", false),
            ("*.example.com", "http://foo.EXAMPLE.com", true),
            ("example.com:80", "http://example.com", true),
            ("example.com:443", "http://example.com", false),
            ("example.com:443", "https://example.com", true),
            ("192.168.0.0/16", "http://192.168.1.1", true),
            ("192.168.0.0/16", "http://192.169.1.1", false),
            ("10.0.0.1", "http://10.0.0.1:8080", true),
            ("fe80::/10", "http://[fe80::1]", true),
            ("a, b.example ,c", "http://b.example", true),
        ] {
            let list: Vec<String> = entries.split(',').map(str::to_owned).collect();
            assert_eq!(
                is_direct(&url.parse().unwrap(), &list),
                want,
                "{entries} {url}"
            );
        }
    }
}
