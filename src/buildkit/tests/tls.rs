//! Certificates on both ends.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rbuild_llb::CancelToken;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::net::UnixStream;
use tokio_rustls::TlsAcceptor;

use super::fake::Fake;
use super::fake::Script;
use crate::buildkit::Connection;
use crate::buildkit::EngineError;
use crate::request::BuilderAddress;

fn openssl(dir: &Path, args: &str) {
    let ran = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output();
    let ran = ran.expect("`openssl` is a package of Debian, of that name");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
}

/// An authority, and a certificate from it for `name`: `NAME-ca.pem`, `NAME.pem`, `NAME-key.pem`.
fn authority(dir: &Path, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        dir,
        &format!(
            "req -x509 {key} -days 2 -subj /CN={name}-ca -keyout {name}-ca-key.pem -out {name}-ca.pem"
        ),
    );
    openssl(
        dir,
        &format!("req {key} -subj /CN={name} -keyout {name}-key.pem -out {name}.csr"),
    );
    let extensions = format!("subjectAltName=DNS:{name}.example\n");
    std::fs::write(dir.join("ext"), extensions).unwrap();
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca-key.pem -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ),
    );
}

fn certificate(path: PathBuf) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// Puts TLS in front of a socket; gives the port. It wants to see certificates of the authority of `client`.
fn front(dir: &Path, socket: PathBuf) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate(dir.join("client-ca.pem"))).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate(dir.join("server.pem"))],
            PrivateKeyDer::from_pem_file(dir.join("server-key.pem")).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, socket) = (acceptor.clone(), socket.clone());
                tokio::spawn(async move {
                    // Who has no certificate gets no further.
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut behind = UnixStream::connect(socket).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut stream, &mut behind).await);
                });
            }
        });
    });
    port
}

#[test]
fn a_daemon_behind_tls_is_reached_with_the_right_certificates_alone() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "server");
    authority(dir.path(), "client");
    let fake = Fake::start(Script::new(|_| async { super::done() }));
    let BuilderAddress::Unix(socket) = fake.address() else {
        panic!("it listens on a socket");
    };
    let port = front(dir.path(), socket);
    let open = |options: &str| {
        let options = options.replace("DIR", dir.path().to_str().unwrap());
        let address = format!("tcp://127.0.0.1:{port}{options}");
        Connection::open(&address.parse().unwrap(), &CancelToken::new())
    };
    let ours = ",cert=DIR/client.pem,key=DIR/client-key.pem";
    let whole = format!(",cacert=DIR/server-ca.pem{ours},servername=server.example");
    assert_eq!(open(&whole).unwrap().platforms().len(), 1);
    for (options, why) in [
        // Nobody we trust; nobody it trusts (what is seen of that is the alert, or that it hung up); another name; without TLS.
        (whole.replace("server-ca", "client-ca"), "UnknownIssuer"),
        (whole.replace(ours, ""), ""),
        (
            whole.replace(",servername=server.example", ""),
            "not valid for name",
        ),
        (String::new(), ""),
    ] {
        let error = match open(&options) {
            Ok(_) => panic!("{options} is enough"),
            Err(error) => error,
        };
        let EngineError::Connect { source, .. } = &error else {
            panic!("{options}: {error:?}");
        };
        let said = source.to_string().to_lowercase();
        assert!(said.contains(&why.to_lowercase()), "{options}: {said}");
    }
    let missing = open(&whole.replace("client.pem", "none.pem"));
    assert!(matches!(missing, Err(EngineError::Pem { .. })));
}
