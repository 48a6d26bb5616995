//! TLS: whom connections trust, who we are to servers that ask, and the handshake.
//!
//! Certificates are checked by `rustls`, with the system's authorities and the listed ones. One thing is taken besides, as
//! Go's programs take it: a server's own certificate that is listed itself, though it says that it may sign others, too.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::DigitallySignedStruct;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::StreamOwned;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::ParsedCertificate;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::tls::PemItem;
use ureq::unversioned::transport::Buffers;
use ureq::unversioned::transport::ConnectionDetails;
use ureq::unversioned::transport::Connector;
use ureq::unversioned::transport::Either;
use ureq::unversioned::transport::LazyBuffers;
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::Transport;
use ureq::unversioned::transport::TransportAdapter;
use ureq::unversioned::transport::time;

use super::endpoint::Trust;
use super::endpoint::host_of;
use super::error::RegistryError;

/// How `rustls` (its `webpki`) calls a server's certificate that may sign others. It looks at the days it is good for
/// before that, and at names and signatures only after.
const MAY_SIGN: &str = "CaUsedAsEndEntity";

/// Reads PEM files, each list of authorities once.
pub(super) struct Certificates {
    ca: Option<PathBuf>,
    verifiers: Mutex<BTreeMap<Vec<PathBuf>, Arc<Verifier>>>,
}

impl Certificates {
    /// `ca` is trusted by all connections.
    pub(super) fn new(ca: Option<PathBuf>) -> Self {
        Self {
            ca,
            verifiers: Mutex::default(),
        }
    }

    /// Connections that trust so.
    pub(super) fn secure(&self, trust: &Trust) -> Result<Secure, RegistryError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 want")
            .dangerous();
        let builder = match trust.insecure {
            true => builder.with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
            false => builder.with_custom_certificate_verifier(self.verifier(trust)?),
        };
        let config = match &trust.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = read_certificates(&pair.cert)?;
                let key = read_key(&pair.key)?;
                let broken = |source| RegistryError::KeyPair {
                    pair: Box::new(pair.clone()),
                    source: Box::new(source),
                };
                builder.with_client_auth_cert(chain, key).map_err(broken)?
            }
        };
        Ok(Secure {
            config: Some(Arc::new(config)),
            proxy: None,
        })
    }

    /// Whom to believe: the system's authorities and the listed ones.
    pub(super) fn verifier(&self, trust: &Trust) -> Result<Arc<Verifier>, RegistryError> {
        let files: Vec<PathBuf> = self.ca.iter().chain(&trust.ca).cloned().collect();
        let mut verifiers = self
            .verifiers
            .lock()
            .expect("nothing panics while it is locked");
        if let Some(found) = verifiers.get(&files) {
            return Ok(Arc::clone(found));
        }
        let mut listed = Vec::new();
        for path in &files {
            listed.extend(read_certificates(path)?);
        }
        // What cannot be read among the system's is passed over, as other programs do.
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(listed.iter().cloned());
        let usual = WebPkiServerVerifier::builder_with_provider(roots.into(), provider());
        let made = Arc::new(Verifier {
            // It is not made of no authorities at all.
            usual: usual.build().ok(),
            listed,
            provider: provider(),
        });
        verifiers.insert(files, Arc::clone(&made));
        Ok(made)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Believes authorities, and servers that are listed themselves.
#[derive(Debug)]
pub(super) struct Verifier {
    usual: Option<Arc<WebPkiServerVerifier>>,
    listed: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(usual) = &self.usual else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match usual.verify_server_cert(server, intermediates, name, ocsp, now) {
            // What `openssl req -x509` makes, and with it docker's page on registries with self-signed certificates.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(why)))
                if why.to_string() == MAY_SIGN && self.listed.contains(server) =>
            {
                verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Believes anybody, and looks into no certificate: some cannot be read.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _server: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        // Servers pick from the list, and one may have a key whose signatures we could not check.
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.extend([
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]);
        schemes
    }
}

/// Makes connections secure that begin with `https`.
#[derive(Debug)]
pub(super) struct Secure {
    /// None where all are plain.
    config: Option<Arc<ClientConfig>>,
    /// Who is at the other end, if that is not whom the URL names.
    proxy: Option<Uri>,
}

impl Secure {
    /// For plain connections.
    pub(super) fn never() -> Self {
        Self {
            config: None,
            proxy: None,
        }
    }

    /// For connections that end at a proxy.
    pub(super) fn with_proxy(self, proxy: Uri) -> Self {
        Self {
            proxy: Some(proxy),
            ..self
        }
    }
}

impl<In: Transport> Connector<In> for Secure {
    type Out = Either<In, Encrypted>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        let end = self.proxy.as_ref().unwrap_or(details.uri);
        if end.scheme() != Some(&Scheme::HTTPS) {
            return Ok(Some(Either::A(transport)));
        }
        let Some(config) = &self.config else {
            return Err(ureq::Error::Tls("a plain connection was meant"));
        };
        let host = host_of(end.host().unwrap_or_default());
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ureq::Error::Tls("no certificate can be for such a host name"))?;
        let mut session = ClientConnection::new(Arc::clone(config), name)?;
        let mut wire = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        wire.set_timeout(time_left(details));
        session.complete_io(&mut wire)?;
        Ok(Some(Either::B(Encrypted {
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            stream: StreamOwned::new(session, wire),
        })))
    }
}

/// What is left of the time for a connection, which is given as of when it began.
fn time_left(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut left = details.timeout;
    if let (time::Duration::Exact(limit), time::Instant::Exact(began), time::Instant::Exact(now)) =
        (left.after, details.now, (details.current_time)())
    {
        left.after = limit.saturating_sub(now.duration_since(began)).into();
    }
    left
}

/// A connection after its handshake.
pub(super) struct Encrypted {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encrypted")
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let broken = |source| RegistryError::Ca {
        path: path.to_owned(),
        source,
    };
    let certificates = read_pem(path, |item| match item {
        PemItem::Certificate(certificate) => Some(certificate.der().to_vec().into()),
        _ => None,
    });
    let certificates = certificates.map_err(|error| broken(Some(error)))?;
    if certificates.is_empty() {
        return Err(broken(None));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, RegistryError> {
    let broken = |source| RegistryError::Key {
        path: path.to_owned(),
        source,
    };
    // The form is told from the bytes.
    let keys = read_pem(path, |item| match item {
        PemItem::PrivateKey(key) => PrivateKeyDer::try_from(key.der().to_vec()).ok(),
        _ => None,
    });
    let mut keys = keys.map_err(|error| broken(Some(error)))?.into_iter();
    keys.next().ok_or_else(|| broken(None))
}

fn read_pem<T>(path: &Path, pick: impl Fn(PemItem<'static>) -> Option<T>) -> io::Result<Vec<T>> {
    let bytes = std::fs::read(path)?;
    let items: Result<Vec<_>, _> = ureq::tls::parse_pem(&bytes).collect();
    let items = items.map_err(io::Error::other)?;
    Ok(items.into_iter().filter_map(pick).collect())
}
