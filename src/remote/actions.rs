//! The cache service of GitHub Actions, by the protocol of its second version: Twirp calls in JSON that give signed URLs of
//! blobs in Azure's storage.
//!
//! The service keeps entries by key, each written once, and removes what it likes: what was used longest ago, and what is too
//! old. A blob's key begins with its digest; a number follows where an upload that came to nothing has the key, or an entry that
//! is damaged: the newest that begins so counts. A catalogue's is a prefix and a number, and the newest counts, too. Each branch
//! has entries of its own, and reads those of its base and of the default branch besides; a token says which it may read and
//! which write. So there is a catalogue for each branch, and all that may be read are read.
//!
//! The service counts requests. A blob takes two; what the catalogue that is replaced names is not asked for.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rbuild_cache::CACHE as PREFIX;
use rbuild_llb::OciDigest;
use serde::Deserialize;
use serde_json::json;
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
use crate::image::Descriptor;
use crate::registry::BlobParts;
use crate::registry::Call;
use crate::registry::Client;
use crate::registry::OpenBlob;
use crate::registry::RegistryError;
use crate::request::ActionsService;

/// Where the calls are, below the URL of the service.
const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
/// Answers of the service are not larger.
const MAX_ANSWER: u64 = 64 << 10;
/// Larger blobs are sent in blocks.
const BLOCK: u64 = 64 << 20;
/// Numbers of catalogues that are tried: each that is taken is another build's, or was left by one that was killed.
const NUMBERS: u64 = 16;
/// What a blob whose key another upload has is waited for.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// In a scope's permission: it may be written.
const WRITE: u64 = 2;

/// What origins call the cache of a repository. It has no credentials, and which repository it is the job knows.
pub fn place(scope: &str) -> String {
    format!("{PREFIX}gha:{scope}")
}

/// The service, for the caches of one `scope=`.
#[derive(Clone)]
pub struct Actions {
    client: Client,
    service: ActionsService,
    scope: String,
}

/// One branch's part of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Branch {
    #[serde(rename = "Scope")]
    name: String,
    #[serde(rename = "Permission")]
    permission: u64,
}

/// An entry.
struct Entry {
    key: String,
    url: String,
}

/// What a call came to.
enum Answered<T> {
    With(T),
    /// There is such an entry.
    Exists,
}

impl Actions {
    /// Asks nobody yet.
    pub fn new(client: Client, service: ActionsService, scope: String) -> Self {
        Self {
            client,
            service,
            scope,
        }
    }

    fn token(&self) -> String {
        String::from_utf8_lossy(&self.service.token.0).into_owned()
    }

    /// What the token may read, the branch itself first. A token that does not say may do what it may do.
    fn branches(&self) -> Vec<Branch> {
        let read = || -> Option<Vec<Branch>> {
            #[derive(Deserialize)]
            struct Claims {
                ac: String,
            }
            let token = self.token();
            let claims = token.split('.').nth(1)?;
            let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
            let claims: Claims = serde_json::from_slice(&claims).ok()?;
            serde_json::from_str(&claims.ac).ok()
        };
        let mut branches = read().unwrap_or_default();
        if branches.is_empty() {
            branches.push(Branch {
                name: String::new(),
                permission: WRITE,
            });
        }
        branches.sort_by_key(|branch| branch.permission & WRITE == 0);
        branches
    }

    /// The prefix of the keys of a branch's catalogues.
    fn catalogues_of(&self, branch: &Branch) -> String {
        let digest = Sha256::digest(branch.name.as_bytes());
        let short: String = digest[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("rbuild-cache-1-{}-{short}#", self.scope)
    }

    /// Entries of another version are not seen.
    fn version() -> String {
        let digest = Sha256::digest(b"rbuild cache 1");
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn call<T: for<'de> Deserialize<'de>>(
        &self,
        method: &str,
        body: &serde_json::Value,
    ) -> Result<Answered<T>, RegistryError> {
        let url = format!(
            "{}/{SERVICE}/{method}",
            self.service.url.trim_end_matches('/')
        );
        let body = body.to_string();
        let call = Call::new("POST", url)
            .header("authorization", format!("Bearer {}", self.token()))
            .header("content-type", "application/json")
            .bytes(body.as_bytes())
            .or(409)
            .hint("the token of the job may not do that, or has expired");
        let (status, answer) = self.client.call_small(&call, MAX_ANSWER)?;
        if status == 409 {
            return Ok(Answered::Exists);
        }
        let answer = serde_json::from_slice(&answer);
        let answer = answer.map_err(|error| RegistryError::Protocol {
            registry: "GitHub's cache service".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Answered::With(answer))
    }

    /// The newest entry whose key begins so.
    fn find(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default)]
            ok: bool,
            #[serde(default)]
            signed_download_url: String,
            #[serde(default)]
            matched_key: String,
        }
        // An entry that has the very key goes before all others, whatever their age: so none is asked for that there is.
        let none = format!("{key}#");
        let body = json!({"key": none, "restore_keys": [key], "version": Self::version()});
        let Answered::With(found) = self.call::<Found>("GetCacheEntryDownloadURL", &body)? else {
            return Ok(None);
        };
        let fits = found.matched_key.starts_with(key);
        Ok((found.ok && fits).then_some(Entry {
            key: found.matched_key,
            url: found.signed_download_url,
        }))
    }

    /// Writes an entry; not if its key is taken, which says nothing of whether its upload was or will be ended.
    fn save(&self, key: &str, size: u64, open: &OpenBlob<'_>) -> Result<bool, RegistryError> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(default)]
            ok: bool,
            #[serde(default)]
            signed_upload_url: String,
            #[serde(default)]
            message: String,
        }
        #[derive(Deserialize)]
        struct Finalized {
            #[serde(default)]
            ok: bool,
            #[serde(default)]
            message: String,
        }
        // A quota that is used up, say.
        let refused = |what: &str, message: &str| {
            let colon = if message.is_empty() { "" } else { ": " };
            RegistryError::Protocol {
                registry: "GitHub's cache service".to_owned(),
                why: format!("it does not {what} an entry{colon}{message}"),
            }
        };
        let version = Self::version();
        let created = self.call("CreateCacheEntry", &json!({"key": key, "version": version}))?;
        let Answered::With(Created {
            ok,
            signed_upload_url: url,
            message,
        }) = created
        else {
            return Ok(false);
        };
        if !ok {
            return Err(refused("begin", &message));
        }
        self.upload(&url, size, open)?;
        let done = json!({"key": key, "size_bytes": size.to_string(), "version": version});
        match self.call("FinalizeCacheEntryUpload", &done)? {
            Answered::With(Finalized { ok: false, message }) => Err(refused("end", &message)),
            Answered::With(_) => Ok(true),
            Answered::Exists => Ok(false),
        }
    }

    /// Puts bytes to a signed URL (Azure Storage, Put Blob; Put Block and Put Block List).
    fn upload(&self, url: &str, size: u64, open: &OpenBlob<'_>) -> Result<(), RegistryError> {
        let open = || open();
        if size <= BLOCK {
            let put = Call::new("PUT", url)
                .header("x-ms-blob-type", "BlockBlob")
                .header("content-type", "application/octet-stream")
                .blob(&open, size);
            return self.client.call_small(&put, MAX_ANSWER).map(drop);
        }
        let parts = BlobParts::new(&open);
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for (number, from) in (0..size).step_by(BLOCK as usize).enumerate() {
            let id = base64::engine::general_purpose::STANDARD.encode(format!("{number:08}"));
            let length = BLOCK.min(size - from);
            let block = || parts.part(from, length);
            let id_ = id
                .replace('=', "%3D")
                .replace('+', "%2B")
                .replace('/', "%2F");
            let put = Call::new("PUT", format!("{url}&comp=block&blockid={id_}"))
                .header("content-type", "application/octet-stream")
                .blob(&block, length);
            self.client.call_small(&put, MAX_ANSWER)?;
            list.push_str(&format!("<Latest>{id}</Latest>"));
        }
        list.push_str("</BlockList>");
        let put = Call::new("PUT", format!("{url}&comp=blocklist"))
            .header("content-type", "application/xml")
            .bytes(list.as_bytes());
        self.client.call_small(&put, MAX_ANSWER).map(drop)
    }

    /// The newest catalogue of a branch, with its key.
    fn catalogue(&self, branch: &Branch) -> Result<Option<(String, Vec<u8>)>, RegistryError> {
        let Some(entry) = self.find(&self.catalogues_of(branch))? else {
            return Ok(None);
        };
        let get = Call::new("GET", entry.url);
        match self.client.call_small(&get, MAX_CATALOGUE) {
            Ok((_, bytes)) => Ok(Some((entry.key, bytes))),
            // It went between the two requests.
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn blob_key(digest: &OciDigest) -> String {
    format!("rbuild-blob-1-{digest}")
}

fn trouble(error: RegistryError) -> Trouble {
    Trouble {
        lasting: !matches!(error, RegistryError::NotFound { .. }),
        what: chain(&error),
    }
}

impl CacheReader for Actions {
    fn contents(&self) -> Result<Contents, Trouble> {
        let mut found = Vec::new();
        for branch in self.branches() {
            let catalogue = self.catalogue(&branch).map_err(trouble)?;
            found.extend(catalogue.map(|(_, bytes)| bytes));
        }
        match found.is_empty() {
            false => Ok(Contents::Catalogues(found)),
            true => Err(Trouble::with(format!(
                "it has no cache of scope `{}` yet",
                self.scope
            ))),
        }
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        let gone = || Trouble::with(format!("it no longer has {digest}"));
        let entry = self.find(&blob_key(digest)).map_err(trouble)?;
        let entry = entry.ok_or_else(gone)?;
        let reply = match self.client.call(&Call::new("GET", entry.url)) {
            Ok(reply) => reply,
            Err(RegistryError::NotFound { .. }) => return Err(gone()),
            Err(error) => return Err(trouble(error)),
        };
        let blob = reply.into_blob(digest, size);
        Ok(Box::new(blob.map_err(trouble)?))
    }

    fn may_have(&self, _: &OciDigest, _: u64) -> bool {
        true
    }
}

/// The service, to write a cache to.
pub struct ActionsWriter {
    actions: Actions,
    /// The prefix of its keys.
    catalogues: String,
    /// The key of the catalogue that is there.
    earlier: Option<String>,
    bytes: Vec<u8>,
    catalogue: Option<Catalogue>,
    /// Blobs that are known to be there, or not.
    known: Mutex<BTreeMap<OciDigest, bool>>,
    /// Blobs that may have gone, or that came out wrong.
    doubted: Mutex<BTreeSet<OciDigest>>,
    /// Somebody's upload was waited for in vain.
    waited: AtomicBool,
}

impl ActionsWriter {
    /// Looks what is there.
    ///
    /// # Errors
    /// If the service does not say, or if nothing may be written.
    pub fn open(actions: Actions) -> Result<Self, ExportError> {
        let branch = actions.branches().into_iter().next();
        let branch = branch.filter(|branch| branch.permission & WRITE != 0);
        let branch = branch.ok_or_else(|| {
            let why = "the token of this job may read caches, and not write them";
            failed(&actions.scope, std::io::Error::other(why))
        })?;
        let found = actions.catalogue(&branch);
        let found = found.map_err(|error| failed(&actions.scope, error))?;
        let (earlier, bytes) = found.unzip();
        let bytes = bytes.unwrap_or_default();
        let catalogue = Catalogue::parse(&bytes).ok();
        let blobs = catalogue.iter().flat_map(Catalogue::blobs);
        let known = blobs.map(|blob| (blob.digest, true)).collect();
        Ok(Self {
            catalogues: actions.catalogues_of(&branch),
            actions,
            earlier,
            bytes,
            catalogue,
            known: Mutex::new(known),
            doubted: Mutex::default(),
            waited: AtomicBool::new(false),
        })
    }

    fn failed(&self, error: RegistryError) -> ExportError {
        failed(&self.actions.scope, error)
    }

    fn is_there(&self, digest: &OciDigest) -> Result<bool, ExportError> {
        let entry = self.actions.find(&blob_key(digest));
        Ok(entry.map_err(|error| self.failed(error))?.is_some())
    }

    /// Whether what is there of a blob is what it should be. Whoever cannot say so is not believed.
    fn is_right(&self, digest: &OciDigest, size: u64) -> bool {
        let blob = self.actions.blob(digest, size);
        blob.is_ok_and(|mut blob| std::io::copy(&mut blob, &mut std::io::sink()).is_ok())
    }

    /// Brings a blob there; whether it was sent. A key that is taken may be that of an upload that still goes on, or of one
    /// that was killed: then the blob gets another. It does at once if what has the key is `wrong`: nothing there can be
    /// changed.
    fn send(
        &self,
        digest: &OciDigest,
        size: u64,
        open: &OpenBlob<'_>,
        wrong: bool,
    ) -> Result<bool, ExportError> {
        for number in 0..NUMBERS {
            let key = match number {
                0 => blob_key(digest),
                number => format!("{}-{number}", blob_key(digest)),
            };
            let saved = self.actions.save(&key, size, open);
            if saved.map_err(|error| self.failed(error))? {
                return Ok(true);
            }
            if number == 0 && !wrong && self.comes(digest)? {
                return Ok(false);
            }
        }
        let why = format!("uploads that came to nothing have all keys of {digest}");
        Err(failed(&self.actions.scope, std::io::Error::other(why)))
    }

    /// Waits for a blob whose key another upload has. After the first that did not come nothing is waited for any more: who
    /// was killed leaves many.
    fn comes(&self, digest: &OciDigest) -> Result<bool, ExportError> {
        for pause in PAUSES {
            if self.is_there(digest)? {
                return Ok(true);
            }
            if self.waited.load(Ordering::Relaxed) {
                return Ok(false);
            }
            thread::sleep(pause);
        }
        self.waited.store(true, Ordering::Relaxed);
        self.is_there(digest)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<OciDigest, bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubted(&self) -> MutexGuard<'_, BTreeSet<OciDigest>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(scope: &str, error: impl std::error::Error + Send + Sync + 'static) -> ExportError {
    ExportError::Place {
        place: format!("gha:{scope}"),
        source: Box::new(error),
    }
}

impl CacheWriter for ActionsWriter {
    fn earlier(&self) -> Option<&Catalogue> {
        self.catalogue.as_ref()
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        self.actions.blob(digest, size)
    }

    fn has(&self, digest: &OciDigest, _: u64) -> Result<bool, ExportError> {
        if let Some(there) = self.known().get(digest) {
            return Ok(*there);
        }
        let there = self.is_there(digest)?;
        self.known().insert(*digest, there);
        Ok(there)
    }

    fn put(&self, digest: &OciDigest, size: u64, open: &OpenBlob<'_>) -> Result<bool, ExportError> {
        let there = self.has(digest, size)?;
        let wrong = there && self.doubted().contains(digest) && !self.is_right(digest, size);
        let sent = match there && !wrong {
            true => false,
            false => self.send(digest, size, open, wrong)?,
        };
        self.known().insert(*digest, true);
        self.doubted().remove(digest);
        Ok(sent)
    }

    fn trust(&self, digest: &OciDigest) {
        self.known().insert(*digest, true);
    }

    /// It may have gone, which is asked, or be damaged: then it is sent under another key.
    fn mistrust(&self, digest: &OciDigest) -> Result<(), ExportError> {
        self.known().remove(digest);
        self.doubted().insert(*digest);
        Ok(())
    }

    fn publish(
        self: Box<Self>,
        catalogue: &[u8],
        blobs: Vec<Descriptor>,
        did: &dyn Fn(&str),
    ) -> Result<(), ExportError> {
        let named: BTreeSet<OciDigest> = blobs.iter().map(|blob| blob.digest).collect();
        debug_assert!(
            named
                .iter()
                .all(|blob| self.known().get(blob) == Some(&true))
        );
        if self.earlier.is_some() && self.bytes == catalogue {
            return Ok(());
        }
        let last = self.earlier.as_deref();
        let last = last.and_then(|key| key.strip_prefix(self.catalogues.as_str()));
        let last: u64 = last.and_then(|number| number.parse().ok()).unwrap_or(0);
        let open = || Ok(Box::new(catalogue) as Box<dyn std::io::Read>);
        for number in last + 1..=last + NUMBERS {
            let key = format!("{}{number}", self.catalogues);
            let saved = self.actions.save(&key, catalogue.len() as u64, &open);
            if saved.map_err(|error| self.failed(error))? {
                did(&format!("writing cache manifest {key}"));
                return Ok(());
            }
        }
        let why = "other builds are writing to it all the time";
        Err(failed(&self.actions.scope, std::io::Error::other(why)))
    }
}
