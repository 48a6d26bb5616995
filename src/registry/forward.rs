//! Plain requests by way of a proxy: it is sent the whole URL (RFC 9112, section 3.2.2), as by other programs. Tunnels are
//! for TLS: proxies make none to other ports than 443 unless they are told to (squid's and tinyproxy's own settings).
//!
//! A connection has one request, so that it is known where one begins.

use ureq::Proxy;
use ureq::unversioned::transport::Buffers;
use ureq::unversioned::transport::ConnectionDetails;
use ureq::unversioned::transport::Connector;
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::Transport;

use super::auth;

/// Has requests sent to whom the connection leads. It comes last.
#[derive(Debug)]
pub(super) struct Forward {
    /// A header, with the end of its line, if the proxy wants to know who we are.
    authorization: String,
}

impl Forward {
    pub(super) fn by(proxy: &Proxy) -> Self {
        let (user, password) = (proxy.username(), proxy.password());
        let authorization = match (user, password) {
            (None, None) => String::new(),
            (user, password) => {
                let basic = auth::basic(user.unwrap_or_default(), password.unwrap_or_default());
                format!("Proxy-Authorization: {}\r\n", basic.0)
            }
        };
        Self { authorization }
    }
}

impl<In: Transport> Connector<In> for Forward {
    type Out = Forwarded<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let authority = details.uri.authority().map_or("", |it| it.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        Ok(chained.map(|inner| Forwarded {
            inner,
            beginning: Some(Beginning {
                target: format!("http://{host}"),
                headers: format!("{}Connection: close\r\n", self.authorization),
            }),
        }))
    }
}

/// A connection to a proxy.
#[derive(Debug)]
pub(super) struct Forwarded<T> {
    inner: T,
    /// Until it is sent.
    beginning: Option<Beginning>,
}

/// What a request to a proxy has more.
#[derive(Debug)]
struct Beginning {
    /// Before the path.
    target: String,
    /// After the first line.
    headers: String,
}

impl Beginning {
    /// Puts it into a request of which there is the first line at least.
    fn put_into(&self, request: &[u8]) -> Vec<u8> {
        let line = request.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let method = request.iter().position(|b| *b == b' ').map(|at| at + 1);
        let (line, method) = (line.unwrap_or(0), method.unwrap_or(0));
        let (first, rest) = request.split_at(line.max(method));
        let (method, path) = first.split_at(method);
        let (target, headers) = (self.target.as_bytes(), self.headers.as_bytes());
        [method, target, path, headers, rest].concat()
    }
}

impl<T: Transport> Transport for Forwarded<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let Some(beginning) = self.beginning.take() else {
            return self.inner.transmit_output(amount, timeout);
        };
        let request = beginning.put_into(&self.inner.buffers().output()[..amount]);
        let mut left = &request[..];
        while !left.is_empty() {
            let buffer = self.inner.buffers().output();
            let (now, later) = left.split_at(left.len().min(buffer.len()));
            buffer[..now.len()].copy_from_slice(now);
            self.inner.transmit_output(now.len(), timeout)?;
            left = later;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        false
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
