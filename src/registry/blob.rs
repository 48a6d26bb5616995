//! Blobs as they pass: compared with digest and size, and resumed where a connection broke. A mirror that breaks off twice is
//! not asked for the rest, and one that gave something else not for that blob again.

use std::collections::BTreeSet;
use std::io;
use std::io::Read;

use rbuild_llb::OciDigest;
use sha2::Digest;
use sha2::Sha256;
use ureq::Body;
use ureq::BodyReader;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header;

use super::call::Again;
use super::call::Failure;
use super::call::TRIES;
use super::client::Client;
use super::client::pull_scopes;
use super::download;
use super::endpoint::Endpoint;
use super::endpoint::Trust;
use super::error::RegistryError;
use super::reference::Reference;
use super::transport;
use super::transport::Request;
use super::transport::SendError;

/// A connection that brought this much before it broke does not count as a failed try.
const PROGRESS: u64 = 1 << 20;
/// After so many breaks in a row a mirror is not asked for the rest.
const MIRROR_TRIES: u32 = 2;

/// Hashes what passes and says at its end whether it was the right thing.
pub(super) struct Verifier {
    digest: OciDigest,
    size: u64,
    seen: u64,
    hasher: Sha256,
}

impl Verifier {
    pub(super) fn new(digest: &OciDigest, size: u64) -> Self {
        Self {
            digest: *digest,
            size,
            seen: 0,
            hasher: Sha256::new(),
        }
    }

    /// Bytes that are still to come.
    pub(super) fn missing(&self) -> u64 {
        self.size - self.seen
    }

    /// Bytes that have passed.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Takes the next bytes, no more than are missing. With the last ones comes the verdict.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.hasher.update(bytes);
        self.seen += bytes.len() as u64;
        if self.missing() > 0 {
            return Ok(());
        }
        let actual = OciDigest::from_bytes(self.hasher.finalize_reset().into());
        if actual == self.digest {
            return Ok(());
        }
        Err(RegistryError::DigestMismatch {
            what: self.digest.to_string(),
            expected: self.digest,
            actual,
        })
    }

    pub(super) fn wrong_size(&self, actual: u64) -> RegistryError {
        RegistryError::SizeMismatch {
            what: self.digest.to_string(),
            expected: self.size,
            actual,
        }
    }
}

/// A blob that somebody else opened. Its errors have a [`RegistryError`] inside.
pub(super) struct Verified<R> {
    from: R,
    verifier: Verifier,
}

impl<R: Read> Verified<R> {
    pub(super) fn new(from: R, digest: &OciDigest, size: u64) -> Result<Self, RegistryError> {
        let mut verifier = Verifier::new(digest, size);
        if size == 0 {
            verifier.push(&[])?;
        }
        Ok(Self { from, verifier })
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let missing = self.verifier.missing();
        let most = buf
            .len()
            .min(usize::try_from(missing).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.from.read(&mut buf[..most])?;
        let passed = match n {
            0 => Err(self.verifier.wrong_size(self.verifier.seen())),
            n => self.verifier.push(&buf[..n]),
        };
        passed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(n)
    }
}

/// A blob on its way from a registry. Its errors have a [`RegistryError`] inside.
pub struct BlobReader {
    client: Client,
    reference: Reference,
    /// Where it may be besides the registry.
    urls: Vec<String>,
    verifier: Verifier,
    body: Option<BodyReader<'static>>,
    /// The mirrors that bytes came from, the one they come from now last; nothing for any other place.
    givers: Vec<Option<Mirror>>,
    /// Mirrors that broke off too often.
    avoided: BTreeSet<Mirror>,
    /// Breaks in a row without much progress between them.
    broken: u32,
    /// Where the last break was.
    broken_at: u64,
}

/// Host and repository of a mirror.
pub(super) type Mirror = (String, String);

/// An answer that has begun.
struct Answer {
    body: BodyReader<'static>,
    /// Who gives it, if that is a mirror.
    mirror: Option<Mirror>,
}

impl BlobReader {
    pub(super) fn open(
        client: &Client,
        reference: &Reference,
        urls: &[String],
        digest: &OciDigest,
        size: u64,
    ) -> Result<Self, RegistryError> {
        let mut reader = Self {
            client: client.clone(),
            reference: reference.clone(),
            urls: urls.to_owned(),
            verifier: Verifier::new(digest, size),
            body: None,
            givers: Vec::new(),
            avoided: BTreeSet::new(),
            broken: 0,
            broken_at: 0,
        };
        reader.ask()?;
        if size == 0 {
            reader.verifier.push(&[])?;
            reader.body = None;
        }
        Ok(reader)
    }

    /// Asks for the bytes that are missing.
    fn ask(&mut self) -> Result<(), RegistryError> {
        let Answer { body, mirror } = self.request()?;
        self.body = Some(body);
        self.givers.push(mirror);
        Ok(())
    }

    fn reopen(&mut self, cause: io::Error) -> Result<(), RegistryError> {
        if self.client.is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        if self.verifier.seen - self.broken_at >= PROGRESS {
            self.broken = 0;
        }
        self.broken_at = self.verifier.seen;
        self.broken += 1;
        match self.givers.last() {
            Some(Some(mirror)) if self.broken >= MIRROR_TRIES => {
                self.avoided.insert(mirror.clone());
                self.broken = 0;
            }
            _ if self.broken == TRIES => {
                return Err(RegistryError::Unreachable {
                    registry: self.reference.registry.clone(),
                    source: cause.into(),
                });
            }
            _ => self.client.pause(self.broken - 1),
        }
        self.ask()
    }

    /// What came is not what was asked for: mirrors that gave of it are not asked for it again.
    fn blame(&self) {
        let mut liars = self.client.shared.liars.lock().expect(UNPOISONED);
        let of_blob = liars.entry(self.verifier.digest).or_default();
        of_blob.extend(self.givers.iter().flatten().cloned());
    }

    /// The last byte was read: there must be no more, and the connection goes back to the others.
    fn finish(&mut self) -> Result<(), RegistryError> {
        let rest = self.body.take().map(|mut body| body.read(&mut [0]));
        match rest {
            Some(Ok(n)) if n > 0 => Err(self.verifier.wrong_size(self.verifier.size + 1)),
            _ => Ok(()),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let missing = self.verifier.missing();
            let Some(body) = self.body.as_mut().filter(|_| missing > 0) else {
                return Ok(0);
            };
            let most = buf
                .len()
                .min(usize::try_from(missing).unwrap_or(usize::MAX));
            let cause = match body.read(&mut buf[..most]) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => {
                    let passed = self.verifier.push(&buf[..n]);
                    let ended = match self.verifier.missing() {
                        0 => self.finish(),
                        _ => Ok(()),
                    };
                    if ended.is_err() || passed.is_err() {
                        self.blame();
                    }
                    ended.map_err(io::Error::other)?;
                    passed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.body = None;
            self.reopen(cause).map_err(io::Error::other)?;
        }
    }
}

impl BlobReader {
    /// Asks for the bytes the verifier has not seen, one place after the other.
    fn request(&self) -> Result<Answer, RegistryError> {
        let Self {
            client, verifier, ..
        } = self;
        let mut elsewhere = None;
        for url in &self.urls {
            match of_url(client, url, verifier) {
                Ok(body) => return Ok(Answer { body, mirror: None }),
                Err(failure) => elsewhere = elsewhere.or(Some(failure.error)),
            }
        }
        let tail = format!("blobs/{}", verifier.digest);
        let mut places = client.shared.places.to_pull(&self.reference)?;
        let registry = places.pop().expect("a registry has an endpoint");
        let liars = {
            let known = client.shared.liars.lock().expect(UNPOISONED);
            known.get(&verifier.digest).cloned().unwrap_or_default()
        };
        let mirrors = places.into_iter().filter(|mirror| {
            let mirror = mirror_of(mirror);
            !self.avoided.contains(&mirror) && !liars.contains(&mirror)
        });
        let places: Vec<Endpoint> = mirrors.chain([registry.clone()]).collect();
        let asked = client.over_endpoints(&places, |endpoint| {
            let request = ranged(endpoint.url(&tail), verifier);
            let scopes = pull_scopes(endpoint);
            let response = client.expect_success(endpoint, &self.reference, &scopes, &request)?;
            let who = mirror_of(endpoint);
            Ok(Answer {
                body: body_of(client, &endpoint.name, verifier, response)?,
                mirror: (who != mirror_of(&registry)).then_some(who),
            })
        });
        asked.map_err(|error| match error {
            RegistryError::NotFound { .. } => elsewhere.unwrap_or(error),
            error => error,
        })
    }
}

fn mirror_of(endpoint: &Endpoint) -> Mirror {
    (endpoint.name.clone(), endpoint.repository.clone())
}

const UNPOISONED: &str = "nothing panics with it in hand";

/// Asks a host that is nobody's registry, so without credentials and once.
fn of_url(client: &Client, url: &str, verifier: &Verifier) -> Result<BodyReader<'static>, Failure> {
    let host = transport::parse_url(url).and_then(|uri| uri.host().map(str::to_owned));
    let host = host.unwrap_or_else(|| download::shown(url));
    let request = ranged(url.to_owned(), verifier);
    let sent = client.shared.transport.send(&request, &Trust::default());
    let response = sent.map_err(|error| client.not_sent(host.clone(), error))?;
    if !response.status().is_success() {
        return Err(download::refused(host, url, &response));
    }
    body_of(client, &host, verifier, response)
}

fn ranged(url: String, verifier: &Verifier) -> Request<'static> {
    let request = Request::new(Method::GET, url);
    match verifier.seen {
        0 => request,
        seen => request.header(header::RANGE, format!("bytes={seen}-")),
    }
}

/// The body of an answer, from where the verifier is.
fn body_of(
    client: &Client,
    name: &str,
    verifier: &Verifier,
    response: Response<Body>,
) -> Result<BodyReader<'static>, Failure> {
    let unusable = |why: String| RegistryError::Protocol {
        registry: name.to_owned(),
        why,
    };
    let skip = match response.status() {
        StatusCode::PARTIAL_CONTENT if verifier.seen > 0 => {
            let range = response.headers().get(header::CONTENT_RANGE);
            let start = range
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.trim().strip_prefix("bytes "))
                .and_then(|text| text.split('-').next()?.trim().parse::<u64>().ok());
            if start != Some(verifier.seen) {
                return Err(unusable("it sends another range".to_owned()).into());
            }
            0
        }
        StatusCode::OK => verifier.seen,
        status => return Err(unusable(format!("it sends a blob with status {status}")).into()),
    };
    let expected = verifier.missing() + skip;
    if let Some(length) = response.body().content_length()
        && length != expected
    {
        return Err(verifier
            .wrong_size(verifier.size - expected + length)
            .into());
    }
    let mut body = response.into_body().into_reader();
    // What was seen already is read again, from servers that know no ranges.
    let broken = |error: io::Error| Failure {
        again: Again::Later,
        ..client.not_sent(name.to_owned(), SendError::Connection(error.into()))
    };
    match io::copy(&mut (&mut body).take(skip), &mut io::sink()) {
        Ok(n) if n == skip => Ok(body),
        Ok(_) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(broken(error)),
    }
}
