//! From an address to a stream of bytes.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tonic::transport::server::Connected;

use super::EngineError;
use super::pulse::Pulse;
use crate::request::BuilderAddress;
use crate::request::BuilderTls;

/// The longest answer of the Docker API to a request that changes protocols.
const LONGEST_HEAD: usize = 16 << 10;

trait Bytes: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Bytes for T {}

/// A connection, whatever it goes over.
pub(super) struct Stream {
    bytes: Pin<Box<dyn Bytes>>,
    /// Told of all that comes.
    pulse: Pulse,
}

impl Stream {
    pub(super) fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self {
            bytes: Box::pin(stream),
            pulse: Pulse::default(),
        }
    }

    /// Has the pulse of a daemon told of what comes.
    pub(super) fn felt_by(self, pulse: &Pulse) -> Self {
        let pulse = pulse.clone();
        Self { pulse, ..self }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.bytes.as_mut().poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.beat();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_shutdown(cx)
    }
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// What a connection is for: the Docker API has an endpoint for each.
pub(super) enum Purpose<'a> {
    /// The daemon is called; who waits is told when something has taken the connection, whatever that is.
    Control(&'a (dyn Fn() + Sync)),
    /// The daemon calls; with the headers that introduce us.
    Session(&'a [(&'static str, String)]),
}

/// What must stay for as long as the connection does.
#[derive(Debug, Default)]
pub(super) struct Guard(Option<Program>);

#[derive(Debug)]
struct Program {
    child: Child,
    /// What it says on standard error.
    said: File,
}

impl Guard {
    /// An error of the transport in words: its causes, or what the program between us and the daemon says instead.
    pub(super) fn explain(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let said = self.0.as_ref().map(Program::said).unwrap_or_default();
        if !said.is_empty() {
            return said;
        }
        // What a transport calls its own errors says only that they are.
        let mut innermost = error;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        innermost.to_string()
    }
}

impl Program {
    fn said(&self) -> String {
        let mut said = String::new();
        let read = self.said.try_clone().and_then(|mut file| {
            file.rewind()?;
            file.take(4096).read_to_string(&mut said)
        });
        match read {
            Ok(_) => said.trim().to_owned(),
            Err(_) => String::new(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, or is of no use any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An error and its causes, each once: transports put one into the other's text.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Connects.
pub(super) async fn dial(
    address: &BuilderAddress,
    purpose: Purpose<'_>,
) -> Result<(Stream, Guard), EngineError> {
    let failed = |source| EngineError::Connect {
        address: address.to_string(),
        source,
    };
    let reached = || match &purpose {
        Purpose::Control(reached) => reached(),
        Purpose::Session(_) => {}
    };
    match address {
        BuilderAddress::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            reached();
            Ok((Stream::new(stream), Guard::default()))
        }
        BuilderAddress::Tcp { host, port, tls } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await;
            let stream = stream.map_err(failed)?;
            reached();
            keep_alive(&stream).map_err(failed)?;
            let Some(tls) = tls else {
                return Ok((Stream::new(stream), Guard::default()));
            };
            let name = tls.server_name.as_ref().unwrap_or(host).clone();
            let name = ServerName::try_from(name)
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let connector = TlsConnector::from(Arc::new(client_config(tls)?));
            let stream = connector.connect(name, stream).await.map_err(failed)?;
            Ok((Stream::new(stream), Guard::default()))
        }
        BuilderAddress::Container { program, name } => {
            let (stream, program) = run(program, name).map_err(failed)?;
            reached();
            Ok((Stream::new(stream), Guard(Some(program))))
        }
        BuilderAddress::Docker(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(failed)?;
            reached();
            let stream = upgrade(stream, address, &purpose).await?;
            Ok((Stream::new(stream), Guard::default()))
        }
    }
}

/// Notices within a minute that a machine is gone. That a daemon is, `pulse` notices.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, std::time::Duration::from_secs(20))?;
    sockopt::set_tcp_keepintvl(stream, std::time::Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    sockopt::set_tcp_user_timeout(stream, 60_000)?;
    Ok(())
}

fn client_config(tls: &BuilderTls) -> Result<rustls::ClientConfig, EngineError> {
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| pem(path, error))?;
            }
        }
        // What cannot be read among the system's is passed over, as other programs do.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for the default versions")
        .with_root_certificates(roots);
    let mut config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
            let config = config.with_client_auth_cert(chain, private);
            config.map_err(|error| pem(cert, error))?
        }
        _ => config.with_no_client_auth(),
    };
    // gRPC wants to hear of it (RFC 9113, section 3.2).
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EngineError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| pem(path, error))?;
    match read.is_empty() {
        true => Err(pem(path, "it has no certificate")),
        false => Ok(read),
    }
}

fn pem(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
    EngineError::Pem {
        path: path.to_owned(),
        source: io::Error::other(error),
    }
}

/// Runs `buildctl dial-stdio` in a container, as buildx and buildctl do.
fn run(program: &str, name: &str) -> io::Result<(UnixStream, Program)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let theirs = OwnedFd::from(theirs);
    let said = tempfile::tempfile()?;
    let child = Command::new(program)
        .args(["exec", "-i", name, "buildctl", "dial-stdio"])
        .stdin(Stdio::from(theirs.try_clone()?))
        .stdout(Stdio::from(theirs))
        .stderr(said.try_clone()?)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("`{program}`: {error}")))?;
    let program = Program { child, said };
    Ok((UnixStream::from_std(ours)?, program))
}

/// Has the Docker API hand the connection over to the BuildKit inside (`POST /grpc`, `POST /session`).
async fn upgrade(
    mut stream: UnixStream,
    address: &BuilderAddress,
    purpose: &Purpose<'_>,
) -> Result<UnixStream, EngineError> {
    let failed = |source| EngineError::Connect {
        address: address.to_string(),
        source,
    };
    let (path, headers): (_, &[_]) = match purpose {
        Purpose::Control(_) => ("/grpc", &[]),
        Purpose::Session(headers) => ("/session", headers),
    };
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    // Byte by byte: what comes after the head is not ours.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        head.push(stream.read_u8().await.map_err(failed)?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("101") => Ok(stream),
        _ => Err(EngineError::Foreign {
            address: address.to_string(),
            message: format!("the Docker API answered `{line}` to {path}"),
        }),
    }
}
