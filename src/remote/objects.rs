//! Stores of objects: Amazon's S3, with all that speak like it, and Azure's blob storage.
//!
//! Blobs are objects called after their digests, where BuildKit has them too: both write the same bytes there. A catalogue is an object
//! beside BuildKit's manifest of the name, with an ending of its own. An object is there whole or not at all, so that nothing
//! is seen half written.
//!
//! Requests are signed here (Signature Version 4; Shared Key), with what the digest of what is sent is known to be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_cache::CACHE as PREFIX;
use rbuild_llb::OciDigest;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::rfc3339_seconds;
use sha2::Digest as _;
use sha2::Sha256;

use super::MAX_CATALOGUE;
use super::catalogue::Catalogue;
use super::chain;
use super::export::ExportError;
use super::place::Blob;
use super::place::CacheReader;
use super::place::CacheWriter;
use super::place::Contents;
use super::place::Trouble;
use crate::clock;
use crate::image::Descriptor;
use crate::registry::Call;
use crate::registry::Client;
use crate::registry::OpenBlob;
use crate::registry::RegistryError;
use crate::request::ObjectCache;
use crate::request::ObjectKeys;
use crate::request::Secret;

/// What the names of our catalogues end with.
const ENDING: &str = ".rbuild";
/// Answers to what is written are not larger.
const MAX_ANSWER: u64 = 64 << 10;
/// The version of Azure's protocol, from which on one request may bring 5000 MiB.
const AZURE: &str = "2020-04-08";
/// SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// What to do where access is denied.
const HINT: &str = "the keys of the cache are given with its options, or with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// What origins call a store's blobs.
pub fn place(cache: &ObjectCache) -> String {
    format!("{PREFIX}objects:{}/{}", cache.base, cache.blobs)
}

/// A store.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    cache: ObjectCache,
}

impl Objects {
    /// Asks nobody yet.
    pub fn new(client: Client, cache: ObjectCache) -> Self {
        Self { client, cache }
    }

    fn blob_key(&self, digest: &OciDigest) -> String {
        format!("{}{digest}", self.cache.blobs)
    }

    fn catalogue_key(&self, name: &str) -> String {
        format!("{}{name}{ENDING}", self.cache.manifests)
    }

    /// A signed request for an object; `sha256` and `size` are of what is sent.
    fn request<'c>(&self, method: &str, key: &str, sha256: &str, size: u64) -> Call<'c> {
        let url = format!("{}/{}", self.cache.base, encoded(key));
        let call = Call::new(method, &url).hint(HINT);
        let now = clock::now();
        let headers = match &self.cache.keys {
            ObjectKeys::Amazon {
                region,
                id,
                secret,
                session,
            } => {
                let mut headers = BTreeMap::from([
                    ("x-amz-content-sha256", sha256.to_owned()),
                    ("x-amz-date", compact(now)),
                ]);
                if let Some(session) = session {
                    headers.insert("x-amz-security-token", text(session));
                }
                if !id.is_empty() {
                    let authorization = amazon(method, &url, &headers, region, (id, &text(secret)));
                    headers.insert("authorization", authorization);
                }
                headers
            }
            ObjectKeys::Azure { account, key } => {
                let mut headers = BTreeMap::from([
                    ("x-ms-date", http_date(now)),
                    ("x-ms-version", AZURE.to_owned()),
                ]);
                if method == "PUT" {
                    headers.insert("x-ms-blob-type", "BlockBlob".to_owned());
                }
                let authorization = azure(method, &url, &headers, size, (account, &key.0));
                headers.insert("authorization", authorization);
                headers
            }
        };
        let headers = headers.into_iter();
        headers.fold(call, |call, (name, value)| call.header(name, value))
    }

    fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let get = self.request("GET", key, EMPTY, 0).or(404);
        let (status, bytes) = self.client.call_small(&get, MAX_CATALOGUE)?;
        Ok((status != 404).then_some(bytes))
    }

    fn has(&self, key: &str) -> Result<bool, RegistryError> {
        let head = self.request("HEAD", key, EMPTY, 0).or(404);
        Ok(self.client.call(&head)?.status() != 404)
    }
}

fn text(secret: &Secret) -> String {
    String::from_utf8_lossy(&secret.0).into_owned()
}

/// Percent-encodes all but slashes and what RFC 3986 reserves for nothing.
fn encoded(key: &str) -> String {
    key.bytes().fold(String::new(), |mut out, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            true => out.push(char::from(byte)),
            false => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// `20130524T000000Z`
fn compact(now: Timestamp) -> String {
    let seconds = i64::try_from(now.0 / 1_000_000_000).unwrap_or(i64::MAX);
    rfc3339_seconds(seconds).replace(['-', ':'], "")
}

fn http_date(now: Timestamp) -> String {
    let seconds = u64::try_from(now.0 / 1_000_000_000).unwrap_or(0);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    match key.len() > block.len() {
        true => block[..32].copy_from_slice(&Sha256::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let keyed = |with: u8, message: &[u8]| {
        let mut hasher = Sha256::new();
        hasher.update(block.map(|byte| byte ^ with));
        hasher.update(message);
        hasher.finalize()
    };
    keyed(0x5c, &keyed(0x36, message)).into()
}

/// The host and the path of a URL, as they are sent.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// `Authorization` of a request to S3 without a query (Amazon S3 API reference, Signature Calculations for the Authorization
/// Header). All headers are signed, `x-amz-date` and `x-amz-content-sha256` among them.
fn amazon(
    method: &str,
    url: &str,
    headers: &BTreeMap<&str, String>,
    region: &str,
    (id, secret): (&str, &str),
) -> String {
    let (host, path) = parts(url);
    let mut signed = headers.clone();
    signed.insert("host", host.to_owned());
    let names: Vec<&str> = signed.keys().copied().collect();
    let names = names.join(";");
    let lines: String = signed
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    let payload = headers
        .get("x-amz-content-sha256")
        .map_or(EMPTY, String::as_str);
    let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{payload}");
    let date = headers.get("x-amz-date").map_or("", String::as_str);
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let hashed = hex(&Sha256::digest(request.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}");
    let first = format!("AWS4{secret}");
    let key = [day, region, "s3", "aws4_request"]
        .iter()
        .fold(first.into_bytes(), |key, part| {
            hmac(&key, part.as_bytes()).to_vec()
        });
    let signature = hex(&hmac(&key, to_sign.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
}

/// `Authorization` of a request to Azure's blob storage without a query (Authorize with Shared Key). The headers are those that
/// begin with `x-ms-`.
fn azure(
    method: &str,
    url: &str,
    headers: &BTreeMap<&str, String>,
    size: u64,
    (account, key): (&str, &[u8]),
) -> String {
    let (_, path) = parts(url);
    let length = match size {
        0 => String::new(),
        size => size.to_string(),
    };
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    // Content-Encoding, -Language, -Length, -MD5, -Type, Date, If-Modified-Since, If-Match, If-None-Match,
    // If-Unmodified-Since, Range.
    let to_sign = format!("{method}\n\n\n{length}\n\n\n\n\n\n\n\n\n{lines}/{account}{path}");
    let signature = STANDARD.encode(hmac(key, to_sign.as_bytes()));
    format!("SharedKey {account}:{signature}")
}

fn trouble(error: RegistryError) -> Trouble {
    Trouble {
        lasting: !matches!(error, RegistryError::NotFound { .. }),
        what: chain(&error),
    }
}

impl CacheReader for Objects {
    fn contents(&self) -> Result<Contents, Trouble> {
        let mut found = Vec::new();
        for name in &self.cache.names {
            found.extend(self.get_small(&self.catalogue_key(name)).map_err(trouble)?);
        }
        if !found.is_empty() {
            return Ok(Contents::Catalogues(found));
        }
        let names = self.cache.names.join("`, `");
        for name in &self.cache.names {
            let buildkits = format!("{}{name}", self.cache.manifests);
            if self.has(&buildkits).unwrap_or(false) {
                return Err(Trouble::with(format!(
                    "`{names}` was written by BuildKit, in a format that only BuildKit reads; rbuild writes its own beside it"
                )));
            }
        }
        Err(Trouble::with(format!(
            "it has no cache called `{names}` yet"
        )))
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        let get = self
            .request("GET", &self.blob_key(digest), EMPTY, 0)
            .or(404);
        let reply = self.client.call(&get).map_err(trouble)?;
        if reply.status() == 404 {
            return Err(Trouble::with(format!("it no longer has {digest}")));
        }
        Ok(Box::new(reply.into_blob(digest, size).map_err(trouble)?))
    }

    fn may_have(&self, _: &OciDigest, _: u64) -> bool {
        true
    }
}

/// A store to write a cache to.
pub struct ObjectsWriter {
    objects: Objects,
    /// The catalogue that is there under the first name.
    earlier: Vec<u8>,
    catalogue: Option<Catalogue>,
    /// Blobs that are known to be there, or not.
    known: Mutex<BTreeMap<OciDigest, bool>>,
    /// Blobs that came out wrong.
    again: Mutex<Vec<OciDigest>>,
}

impl ObjectsWriter {
    /// Looks what is there.
    ///
    /// # Errors
    /// If the store does not say.
    pub fn open(objects: Objects) -> Result<Self, ExportError> {
        let first = objects.cache.names.first().map_or("", String::as_str);
        let earlier = objects.get_small(&objects.catalogue_key(first));
        let earlier = earlier.map_err(|error| failed(&objects, error))?;
        let earlier = earlier.unwrap_or_default();
        let catalogue = Catalogue::parse(&earlier).ok();
        let blobs = catalogue.iter().flat_map(Catalogue::blobs);
        Ok(Self {
            known: Mutex::new(blobs.map(|blob| (blob.digest, true)).collect()),
            again: Mutex::default(),
            objects,
            earlier,
            catalogue,
        })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<OciDigest, bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wrong(&self, digest: &OciDigest) -> bool {
        let again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        again.contains(digest)
    }
}

fn failed(objects: &Objects, error: RegistryError) -> ExportError {
    ExportError::Place {
        place: objects.cache.base.clone(),
        source: Box::new(error),
    }
}

impl CacheWriter for ObjectsWriter {
    fn earlier(&self) -> Option<&Catalogue> {
        self.catalogue.as_ref()
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        self.objects.blob(digest, size)
    }

    fn has(&self, digest: &OciDigest, _: u64) -> Result<bool, ExportError> {
        if let Some(there) = self.known().get(digest) {
            return Ok(*there);
        }
        let there = self.objects.has(&self.objects.blob_key(digest));
        let there = there.map_err(|error| failed(&self.objects, error))?;
        self.known().insert(*digest, there);
        Ok(there)
    }

    /// In one request (Amazon S3, PutObject; Azure Storage, Put Blob).
    fn most(&self) -> u64 {
        match self.objects.cache.keys {
            ObjectKeys::Amazon { .. } => 5_000_000_000,
            ObjectKeys::Azure { .. } => 5000 << 20,
        }
    }

    fn put(&self, digest: &OciDigest, size: u64, open: &OpenBlob<'_>) -> Result<bool, ExportError> {
        if !self.is_wrong(digest) && self.has(digest, size)? {
            return Ok(false);
        }
        let key = self.objects.blob_key(digest);
        let open = || open();
        let put = self.objects.request("PUT", &key, &digest.hex(), size);
        let put = put.blob(&open, size);
        let put = self.objects.client.call_small(&put, MAX_ANSWER);
        put.map_err(|error| failed(&self.objects, error))?;
        self.known().insert(*digest, true);
        Ok(true)
    }

    fn trust(&self, digest: &OciDigest) {
        self.known().insert(*digest, true);
    }

    /// It is written over.
    fn mistrust(&self, digest: &OciDigest) -> Result<(), ExportError> {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        again.push(*digest);
        Ok(())
    }

    fn publish(
        self: Box<Self>,
        catalogue: &[u8],
        _: Vec<Descriptor>,
        did: &dyn Fn(&str),
    ) -> Result<(), ExportError> {
        let sha256 = hex(&Sha256::digest(catalogue));
        for (at, name) in self.objects.cache.names.iter().enumerate() {
            if at == 0 && self.earlier == catalogue {
                continue;
            }
            let key = self.objects.catalogue_key(name);
            let size = catalogue.len() as u64;
            let put = self.objects.request("PUT", &key, &sha256, size);
            let put = put.bytes(catalogue);
            let put = self.objects.client.call_small(&put, MAX_ANSWER);
            put.map_err(|error| failed(&self.objects, error))?;
            did(&format!("writing cache manifest {key}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// RFC 4231, test cases 1, 2 and 6.
    #[test]
    fn hmac_of_the_rfc() {
        for (key, message, want) in [
            (
                &[0x0b; 20][..],
                "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(hex(&hmac(key, message.as_bytes())), want);
        }
    }

    /// The examples of Amazon's documentation: GET Object and PUT Object.
    #[test]
    fn signatures_of_amazon() {
        let keys = (
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        );
        let sent = hex(&Sha256::digest(b"Welcome to Amazon S3."));
        for (method, path, payload, more, want) in [
            (
                "GET",
                "test.txt",
                EMPTY,
                ("range", "bytes=0-9"),
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "PUT",
                "test$file.text",
                &sent,
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
        ] {
            let url = format!("https://examplebucket.s3.amazonaws.com/{}", encoded(path));
            let mut headers = BTreeMap::from([
                ("x-amz-content-sha256", payload.to_owned()),
                ("x-amz-date", "20130524T000000Z".to_owned()),
                (more.0, more.1.to_owned()),
            ]);
            if method == "PUT" {
                let class = "REDUCED_REDUNDANCY".to_owned();
                headers.insert("x-amz-storage-class", class);
            }
            let signed = amazon(method, &url, &headers, "us-east-1", keys);
            assert!(signed.ends_with(&format!("Signature={want}")), "{signed}");
        }
    }

    #[test]
    fn times_are_written_as_both_want_them() {
        let now = Timestamp(1_369_353_600_123_456_789);
        assert_eq!(compact(now), "20130524T000000Z");
        assert_eq!(http_date(now), "Fri, 24 May 2013 00:00:00 GMT");
    }
}
