//! Private authorities, passwords and client certificates, against Debian's `docker-registry`.

use std::io::Read;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;

use super::super::endpoint::Trust;
use super::super::tls::Certificates;
use super::distribution::Registry;
use super::distribution::run;
use super::fixture::Blobs;
use super::fixture::client;
use super::fixture::settings;
use super::http::chain;
use super::http::reference;
use super::server::Reply;
use super::server::Server;
use crate::registry::Pushed;
use crate::registry::RegistryError;
use crate::request::KeyPair;
use crate::request::Registries;
use crate::request::RegistrySettings;
use crate::request::Settings;

/// Makes a certificate that is its own authority, with a key beside it.
fn self_signed(dir: &Path, name: &str, extensions: &[&str]) -> PathBuf {
    let path = dir.join(format!("{name}.pem"));
    let added = extensions.iter().flat_map(|it| ["-addext", it]);
    run(
        "openssl",
        Command::new("openssl")
            .args([
                "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2", "-subj", "/CN=test",
            ])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(added)
            .arg("-keyout")
            .arg(dir.join(format!("{name}.key")))
            .arg("-out")
            .arg(&path),
    );
    path
}

/// Makes one for 127.0.0.1 that may sign no others.
fn certificate(dir: &Path) -> PathBuf {
    let extensions = [
        "subjectAltName=IP:127.0.0.1",
        "basicConstraints=critical,CA:FALSE",
    ];
    self_signed(dir, "cert", &extensions)
}

/// What `openssl req -x509` makes may sign others. Docker's page on registries with such certificates has it copied to
/// `certs.d`, and Go takes it.
#[test]
fn a_servers_certificate_can_be_listed_itself() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().display();
    let served = |name: &str, san: &str| {
        let certificate = self_signed(dir.path(), name, &[san]);
        let tls = format!("{{certificate: {files}/{name}.pem, key: {files}/{name}.key}}");
        let http = format!("http: {{addr: 127.0.0.1:0, tls: {tls}}}\n");
        (Registry::start(&http), certificate)
    };
    let (registry, own) = served("own", "subjectAltName=IP:127.0.0.1");
    let (elsewhere, named) = served("named", "subjectAltName=DNS:registry.example");
    let other = self_signed(dir.path(), "other", &["subjectAltName=IP:127.0.0.1"]);

    let head = |registry: &Registry, listed: Option<&Path>| {
        let mut settings = settings();
        let trusting = RegistrySettings {
            ca: listed.into_iter().map(Path::to_owned).collect(),
            ..RegistrySettings::default()
        };
        let hosts = &mut settings.registries.hosts;
        hosts.insert(registry.host.clone(), trusting);
        client(&settings).head(&registry.reference("a/b:1"))
    };
    let error = head(&registry, Some(&own)).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    let error = head(&registry, None).unwrap_err();
    assert!(
        error.hint().unwrap().contains("takes `http = false`"),
        "{error}"
    );
    for (registry, listed, why) in [
        (&registry, &other, "CaUsedAsEndEntity"),
        (&elsewhere, &named, "not valid for name"),
    ] {
        let error = head(registry, Some(listed)).unwrap_err();
        assert!(matches!(error, RegistryError::Tls { .. }), "{error}");
        assert!(chain(&error).contains(why), "{}", chain(&error));
    }

    // A day late, and a week.
    let verdict = |late: u64| {
        let trust = Trust {
            ca: vec![own.clone()],
            ..Trust::default()
        };
        let verifier = Certificates::new(None).verifier(&trust).unwrap();
        let pem = std::fs::read(&own).unwrap();
        let server = CertificateDer::from_pem_slice(&pem).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let now = UnixTime::now().as_secs() + late * 24 * 60 * 60;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier.verify_server_cert(&server, &[], &name, &[], now)
    };
    assert!(verdict(1).is_ok());
    let error = verdict(7).unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

/// A proxy that makes tunnels, all to one place, as long as the test runs; what it was asked comes out.
fn tunnels_to(place: String) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&place).unwrap());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            tell.send(String::from_utf8(head).unwrap()).unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    (address, told)
}

/// The certificate is the registry's, and it is the proxy that knows where that is.
#[test]
fn proxies_tunnel_what_is_secure() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().display();
    let certificate = self_signed(dir.path(), "r", &["subjectAltName=DNS:registry.invalid"]);
    let registry = Registry::start(&format!(
        "http: {{addr: 127.0.0.1:0, tls: {{certificate: {files}/r.pem, key: {files}/r.key}}}}\n"
    ));
    let (proxy, told) = tunnels_to(registry.host.clone());
    let mut settings = settings();
    settings.ca = Some(certificate);
    settings.proxies.https = Some(format!("http://user:pass@{proxy}"));
    let client = client(&settings);
    let error = client
        .head(&reference("registry.invalid", "a/b:1"))
        .unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    let asked = told.recv().unwrap();
    assert!(
        asked.starts_with("CONNECT registry.invalid:443 HTTP/1.1\r\n"),
        "{asked}"
    );
    // From `printf user:pass | base64`.
    assert!(
        asked.contains("\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n"),
        "{asked}"
    );
}

#[test]
fn private_authorities_and_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let ca = certificate(dir.path());
    // A test vector of crypt_blowfish: the password is `U*U`.
    let bcrypt = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    std::fs::write(dir.path().join("htpasswd"), format!("alice:{bcrypt}\n")).unwrap();
    let files = dir.path().display();
    let registry = Registry::start(&format!(
        "http: {{addr: 127.0.0.1:0, tls: {{certificate: {files}/cert.pem, key: {files}/cert.key}}}}\n\
         auth: {{htpasswd: {{realm: test, path: {files}/htpasswd}}}}\n"
    ));
    let config = dir.path().join("config.json");
    // From `printf 'alice:U*U' | base64`.
    let json = r#"{"auths":{"HOST":{"auth":"YWxpY2U6VSpV"}}}"#.replace("HOST", &registry.host);
    std::fs::write(&config, json).unwrap();

    let to = registry.reference("private/a:1");
    let mut blobs = Blobs::default();
    let blob = blobs.add("", b"bytes".to_vec());
    let push = |registry_settings: &RegistrySettings, password: bool, ca: Option<&PathBuf>| {
        let mut settings = settings();
        settings.ca = ca.cloned();
        settings.docker_config = password.then(|| config.clone());
        settings
            .registries
            .hosts
            .insert(registry.host.clone(), registry_settings.clone());
        let open = || {
            let bytes: Box<dyn Read> = Box::new(&b"bytes"[..]);
            Ok(bytes)
        };
        client(&settings).push_blob(&to, &blob.digest, blob.size, None, &open)
    };
    let tls = RegistrySettings {
        http: Some(false),
        ..RegistrySettings::default()
    };
    let error = push(&tls, true, None).unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }), "{error}");
    assert!(
        error
            .hint()
            .unwrap()
            .contains("takes `ca = [\"FILE.pem\"]`")
    );

    let trusting = RegistrySettings {
        ca: vec![ca.clone()],
        ..RegistrySettings::default()
    };
    let error = push(&trusting, false, None).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    assert_eq!(push(&trusting, true, None).unwrap(), Pushed::Sent);
    assert_eq!(push(&tls, true, Some(&ca)).unwrap(), Pushed::Existed);
    let insecure = RegistrySettings {
        insecure: Some(true),
        ..tls.clone()
    };
    assert_eq!(push(&insecure, true, None).unwrap(), Pushed::Existed);

    let missing = dir.path().join("none.pem");
    let error = push(&tls, true, Some(&missing)).unwrap_err();
    assert!(
        matches!(&error, RegistryError::Ca { path, .. } if *path == missing),
        "{error}"
    );
    let error = push(&tls, true, Some(&config)).unwrap_err();
    assert!(
        matches!(error, RegistryError::Ca { source: None, .. }),
        "{error}"
    );
}

/// Makes an authority, and a certificate `NAME.cert` with `NAME.key` signed by it.
fn authority_and_client(dir: &Path, name: &str) {
    let openssl = |args: &str| {
        let mut command = Command::new("openssl");
        run("openssl", command.current_dir(dir).args(args.split(' ')));
    };
    std::fs::write(dir.join("v3.cnf"), "basicConstraints=CA:FALSE").unwrap();
    let new = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
    openssl(&format!(
        "req -x509 {new} -days 2 -subj /CN=authority -keyout authority.key -out authority.pem"
    ));
    openssl(&format!(
        "req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"
    ));
    openssl(&format!(
        "x509 -req -extfile v3.cnf -in {name}.csr -CA authority.pem -CAkey authority.key -days 2 -out {name}.cert"
    ));
}

#[test]
fn client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let ca = certificate(dir.path());
    let files = dir.path().display();
    authority_and_client(dir.path(), "alice");
    let registry = Registry::start(&format!(
        "http: {{addr: 127.0.0.1:0, tls: {{certificate: {files}/cert.pem, key: {files}/cert.key, \
         clientcas: [{files}/authority.pem]}}}}\n"
    ));
    let to = registry.reference("private/a:1");
    let blob = Blobs::default().add("", b"bytes".to_vec());
    let push = |settings: &Settings| {
        let open = || Ok(Box::new(&b"bytes"[..]) as Box<dyn Read>);
        client(settings).push_blob(&to, &blob.digest, blob.size, None, &open)
    };
    let with = |pair: Option<(&str, &str)>| {
        let mut settings = settings();
        let own = RegistrySettings {
            ca: vec![ca.clone()],
            keypair: pair.map(|(cert, key)| KeyPair {
                cert: dir.path().join(cert),
                key: dir.path().join(key),
            }),
            ..RegistrySettings::default()
        };
        settings.registries.hosts.insert(registry.host.clone(), own);
        settings
    };
    // config.toml.
    let pushed = push(&with(Some(("alice.cert", "alice.key"))));
    assert_eq!(pushed.unwrap(), Pushed::Sent);

    // certs.d, as docker's daemon and podman have it.
    let certificates = dir.path().join("certs.d");
    let own = certificates.join(&registry.host);
    std::fs::create_dir_all(&own).unwrap();
    for (from, to) in [
        ("cert.pem", "ca.crt"),
        ("alice.cert", "client.cert"),
        ("alice.key", "client.key"),
    ] {
        std::fs::copy(dir.path().join(from), own.join(to)).unwrap();
    }
    let mut by_dir = settings();
    by_dir.registries.certificates = vec![certificates];
    assert_eq!(push(&by_dir).unwrap(), Pushed::Existed);

    // No certificate, one of somebody else, and what is none.
    for pair in [None, Some(("cert.pem", "cert.key"))] {
        let error = push(&with(pair)).unwrap_err();
        assert!(
            matches!(error, RegistryError::Tls { .. }),
            "{}",
            chain(&error)
        );
        assert!(error.hint().unwrap().contains("`keypair`"));
    }
    for (pair, want) in [
        (
            ("alice.key", "alice.key"),
            "`DIR/alice.key` is not a readable PEM file of certificates",
        ),
        (
            ("alice.cert", "alice.cert"),
            "`DIR/alice.cert` is not a readable PEM file with a private key",
        ),
        (
            ("alice.cert", "none.key"),
            "`DIR/none.key` is not a readable PEM file with a private key: No such file",
        ),
    ] {
        let error = push(&with(Some(pair))).unwrap_err();
        let want = want.replace("DIR", &files.to_string());
        assert!(chain(&error).starts_with(&want), "{}", chain(&error));
    }
}

#[test]
fn insecure_registries_are_asked_with_tls_first() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let files = dir.path().display();
    let secure = Registry::start(&format!(
        "http: {{addr: 127.0.0.1:0, tls: {{certificate: {files}/cert.pem, key: {files}/cert.key}}}}\n"
    ));
    let plain = Registry::plain();
    for registry in [&secure, &plain] {
        let mut settings = settings();
        settings.registries = Registries {
            insecure: vec![registry.host.clone()],
            ..Registries::default()
        };
        let to = registry.reference("a/b:1");
        let error = client(&settings).head(&to).unwrap_err();
        assert!(
            matches!(error, RegistryError::NotFound { .. }),
            "{}",
            chain(&error)
        );
    }
    // The scheme is found out once.
    let server = Server::start(|_| Reply::new(404));
    let mut settings = settings();
    settings.registries.insecure = vec![server.host.clone()];
    let client = client(&settings);
    for _ in 0..2 {
        client.head(&reference(&server.host, "a/b:1")).unwrap_err();
    }
    let head = "HEAD /v2/a/b/manifests/1";
    assert_eq!(server.lines(), ["GET /v2/", head, head]);
}

#[test]
fn client_certificates_are_for_one_host() {
    let dir = tempfile::tempdir().unwrap();
    let ca = certificate(dir.path());
    let files = dir.path().display();
    authority_and_client(dir.path(), "alice");
    let tls = format!(
        "http: {{addr: 127.0.0.1:0, tls: {{certificate: {files}/cert.pem, key: {files}/cert.key, \
         clientcas: [{files}/authority.pem]}}}}\n"
    );
    let elsewhere = Registry::start(&tls);
    let registry = Registry::start(&format!(
        "{tls}middleware: {{storage: [{{name: redirect, options: {{baseurl: 'https://{}/'}}}}]}}\n",
        elsewhere.host
    ));
    let mut settings = settings();
    let own = RegistrySettings {
        ca: vec![ca],
        keypair: Some(KeyPair {
            cert: dir.path().join("alice.cert"),
            key: dir.path().join("alice.key"),
        }),
        ..RegistrySettings::default()
    };
    settings.registries.hosts.insert(registry.host.clone(), own);
    let client = client(&settings);
    let (to, blob) = (
        registry.reference("a/b:1"),
        Blobs::default().add("", b"bytes".to_vec()),
    );
    let open = || Ok(Box::new(&b"bytes"[..]) as Box<dyn Read>);
    let pushed = client.push_blob(&to, &blob.digest, blob.size, None, &open);
    assert_eq!(pushed.unwrap(), Pushed::Sent);
    // Where the registry sends us for the blob, a certificate is asked for, too, and is not given.
    let Err(error) = client.blob(&to, &blob.digest, blob.size) else {
        panic!("the blob is nowhere");
    };
    assert!(
        matches!(error, RegistryError::Tls { .. }),
        "{}",
        chain(&error)
    );
}
