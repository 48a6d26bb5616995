//! Certificates: whom connections trust, and who we are to servers that ask.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use ureq::tls::Certificate;
use ureq::tls::ClientCert;
use ureq::tls::PemItem;
use ureq::tls::PrivateKey;
use ureq::tls::RootCerts;

use super::endpoint::Trust;
use super::error::RegistryError;

/// Reads PEM files, each list of authorities once.
pub(super) struct Certificates {
    ca: Option<PathBuf>,
    roots: Mutex<BTreeMap<Vec<PathBuf>, RootCerts>>,
}

impl Certificates {
    /// `ca` is trusted by all connections.
    pub(super) fn new(ca: Option<PathBuf>) -> Self {
        Self {
            ca,
            roots: Mutex::default(),
        }
    }

    /// The system's authorities and the listed ones.
    pub(super) fn roots(&self, trust: &Trust) -> Result<RootCerts, RegistryError> {
        if trust.insecure {
            return Ok(RootCerts::new_with_certs(&[]));
        }
        let files: Vec<PathBuf> = self.ca.iter().chain(&trust.ca).cloned().collect();
        let mut roots = self
            .roots
            .lock()
            .expect("nothing panics while it is locked");
        if let Some(found) = roots.get(&files) {
            return Ok(found.clone());
        }
        // What cannot be read among the system's is passed over, as other programs do.
        let mut list: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|cert| Certificate::from_der(cert).to_owned())
            .collect();
        for path in &files {
            list.extend(read_certificates(path)?);
        }
        let made: RootCerts = list.into();
        roots.insert(files, made.clone());
        Ok(made)
    }

    /// What is shown to servers that ask for a certificate.
    pub(super) fn identity(&self, trust: &Trust) -> Result<Option<ClientCert>, RegistryError> {
        let Some(pair) = &trust.identity else {
            return Ok(None);
        };
        let chain = read_certificates(&pair.cert)?;
        let key = read_key(&pair.key)?;
        check(&chain, &key).map_err(|source| RegistryError::KeyPair {
            pair: Box::new(pair.clone()),
            source: Box::new(source),
        })?;
        Ok(Some(ClientCert::new_with_certs(&chain, key)))
    }
}

/// Whether rustls takes the certificate and the key, and whether they belong together. It is asked here because ureq
/// does not expect that it may refuse.
fn check(chain: &[Certificate<'_>], key: &PrivateKey<'_>) -> Result<(), rustls::Error> {
    let chain = chain.iter().map(|it| it.der().to_vec().into()).collect();
    // The form is told from the bytes.
    let key = PrivateKeyDer::try_from(key.der().to_vec())
        .map_err(|why| rustls::Error::General(why.to_owned()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map(drop)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let broken = |source| RegistryError::Ca {
        path: path.to_owned(),
        source,
    };
    let certificates = read_pem(path, |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates = certificates.map_err(|error| broken(Some(error)))?;
    if certificates.is_empty() {
        return Err(broken(None));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKey<'static>, RegistryError> {
    let broken = |source| RegistryError::Key {
        path: path.to_owned(),
        source,
    };
    let keys = read_pem(path, |item| match item {
        PemItem::PrivateKey(key) => Some(key),
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
