//! Line 4 of the pipeline: tag → digest + image config.
//!
//! The table of mutable sources: what is in the [lock](super::lock) is what that says (`locked`); a tag uses its pinned
//! result and is asked for again when that is older than `tag-max-age` or with `--pull`; a URL without a checksum is asked
//! each time whether it has changed; a digest, a checksum and `--offline` are never asked. An image of rbuild's own store
//! stands in for a registry's of the same name, unless `--pull`.
//!
//! A registry in trouble fails no build that `--pull` did not send to it, as long as the store has an older result: that is
//! used, and said. How old the results are that were used without asking, progress tells.

mod locked;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::MutexGuard;

use rbuild_cache::Lease;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Store;
use rbuild_cache::StoredPin;
use rbuild_cache::threads;
use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::OciLayoutSource;
use rbuild_llb::op::SourceOp;

use super::failure;
use super::lock::Lock;
use super::lock::Name;
use crate::clock;
use crate::image::Document;
use crate::ops::git;
use crate::ops::http;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::registry::Layout;
use crate::registry::MAX_DOCUMENT;
use crate::registry::ParseReferenceError;
use crate::registry::Reference;
use crate::registry::Resolved;
use crate::request::BuildRequest;
use crate::request::RunRequest;
use crate::request::Settings;
use crate::solver;
use crate::ui;

/// What was found out about tags this long ago, in seconds, is too new for its age to be of interest.
const NEWS: u64 = 3600;

/// Finds out what sources are, each at most once.
pub(super) struct Pinner<'a> {
    pull: bool,
    offline: bool,
    tag_max_age: u64,
    lock: Option<&'a Lock>,
    store: &'a Store,
    lease: &'a Lease,
    registry: &'a registry::Client,
    unasked: Mutex<Unasked>,
}

/// What is to be said of tags that are taken as they were.
#[derive(Debug, Default)]
struct Unasked {
    /// Those whose registries were asked in vain, in words.
    in_vain: BTreeSet<String>,
    /// When the others were asked for last, by name: Unix seconds.
    checked: BTreeMap<String, u64>,
}

impl<'a> Pinner<'a> {
    pub(super) fn new(
        request: &'a BuildRequest,
        lock: &'a Lock,
        store: &'a Store,
        lease: &'a Lease,
        registry: &'a registry::Client,
    ) -> Self {
        let tag_max_age = request.settings.tag_max_age;
        Self {
            pull: request.pull,
            offline: request.offline,
            tag_max_age,
            lock: Some(lock),
            store,
            lease,
            registry,
            unasked: Mutex::default(),
        }
    }

    /// For `rbuild run`: what is there is taken as it is.
    pub(super) fn for_run(
        request: &RunRequest,
        store: &'a Store,
        lease: &'a Lease,
        registry: &'a registry::Client,
    ) -> Self {
        let tag_max_age = request.settings.tag_max_age;
        Self {
            pull: false,
            offline: false,
            tag_max_age,
            lock: None,
            store,
            lease,
            registry,
            unasked: Mutex::default(),
        }
    }

    /// For `rbuild pull`: the registry is asked in any case.
    pub(super) fn for_pull(
        settings: &Settings,
        store: &'a Store,
        lease: &'a Lease,
        registry: &'a registry::Client,
    ) -> Self {
        Self {
            pull: true,
            offline: false,
            tag_max_age: settings.tag_max_age,
            lock: None,
            store,
            lease,
            registry,
            unasked: Mutex::default(),
        }
    }

    /// The pin of an image by its normalised name.
    pub(super) fn image_named(&self, name: &str, platform: &Platform) -> Result<Pin, BuildError> {
        // An id is tried first: it is also a valid name of a repository nobody means.
        if let Some(stored) = self
            .store
            .images()
            .by_id(short(name))
            .map_err(failure::store)?
            && let Some(pin) = self.stored(&stored.digest, platform)?
        {
            return Ok(pin);
        }
        self.image(
            &ImageSource {
                reference: name.to_owned(),
                digest: None,
            },
            platform,
        )
    }

    /// The pin of an image that is to be run: for the platform asked for, or else for this machine's. An image that the
    /// store has for another alone is for that one.
    pub(super) fn image_to_run(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Pin, BuildError> {
        let host = Platform::host();
        if platform.is_none() {
            let images = self.store.images();
            let stored = match images.by_id(short(name)).map_err(failure::store)? {
                None => images.get(name).map_err(failure::store)?,
                found => found,
            };
            let found = stored.map(|stored| self.found(&stored.digest, &host));
            if let Some(pin) = found.transpose()?.flatten() {
                return Ok(pin);
            }
        }
        self.image_named(name, platform.unwrap_or(&host))
    }

    /// Pins what is not pinned yet. Several are asked for at once, on threads that are gone afterwards: this process
    /// enters its user namespace later, which only a single-threaded one may.
    pub(super) fn pin(&self, sources: &[SourceRequest], pins: &mut Pins) -> Result<(), BuildError> {
        let mut open: Vec<&SourceRequest> = Vec::new();
        for request in sources {
            let known = pins.get(&request.source, &request.platform).is_some()
                || open.iter().any(|other| {
                    (&other.source, &other.platform) == (&request.source, &request.platform)
                });
            if !matches!(request.source, SourceOp::Local(_)) && !known {
                open.push(request);
            }
        }
        if let Some(lock) = self.lock {
            lock.check(&open)?;
            let missing = lock.to_add(&open);
            let found = side_by_side(&missing, |(_, request)| {
                self.anew(&request.source, &request.platform)
                    .map_err(|error| failure::pinning(error, request))
            });
            for ((name, request), found) in missing.into_iter().zip(found) {
                match found {
                    Ok(found) => lock.add(name, found),
                    Err(_) if self.is_own(request)? => lock.miss(name),
                    Err(error) => return Err(error),
                }
            }
        }
        let answers = side_by_side(&open, |request| self.one(request));
        for (request, answer) in open.into_iter().zip(answers) {
            pins.insert(request.source.clone(), request.platform.clone(), answer?);
        }
        Ok(())
    }

    fn one(&self, request: &SourceRequest) -> Result<Pin, BuildError> {
        let (source, platform) = (&request.source, &request.platform);
        let pinned = match self.lock.zip(Name::of(source)) {
            None => self.now(source, platform),
            Some((lock, name)) => match lock.get(&name) {
                Some(locked) => self.locked(source, platform, lock, &locked, &name),
                None => {
                    if lock.remarks() && !self.is_own(request)? {
                        lock.miss(name);
                    }
                    self.now(source, platform)
                }
            },
        };
        pinned.map_err(|error| failure::pinning(error, request))
    }

    /// What a source is now, as far as the rules above have it asked for.
    fn now(&self, source: &SourceOp, platform: &Platform) -> Result<Pin, BuildError> {
        match source {
            SourceOp::Image(image) => self.image(image, platform),
            SourceOp::OciLayout(layout) => self.layout(layout, platform),
            SourceOp::Http(source) => http::current(
                self.store,
                self.lease,
                self.registry,
                &source.url,
                self.offline,
                &CancelToken::new(),
            )
            .map(|stored| Pin::Http {
                checksum: stored.checksum,
            })
            .map_err(failure::op),
            SourceOp::Git(source) => git::commit(source, self.offline)
                .map(|commit| Pin::Git { commit })
                .map_err(failure::op),
            SourceOp::Local(_) => unreachable!("a context is not pinned"),
        }
    }

    fn image(&self, image: &ImageSource, platform: &Platform) -> Result<Pin, BuildError> {
        let reference = parse(&image.reference)?;
        if let Some(pin) = self.own(image, platform)? {
            return Ok(pin);
        }
        let key = key(&image.reference, platform);
        let known = self.store.pin(&key).map_err(failure::store)?;
        let mut older = None;
        if let Some(known) = &known {
            let fixed = reference.digest.is_some() || self.offline;
            // When it was asked later than now, by a clock that was wrong, that says nothing.
            let age = now().checked_sub(known.checked).unwrap_or(u64::MAX);
            let fresh = !self.pull && age < self.tag_max_age;
            if (fixed || !self.pull)
                && let Some(pin) = self.stored(&known.manifest, platform)?
            {
                if fixed || fresh {
                    if reference.digest.is_none() && age >= NEWS {
                        self.unasked().note(&image.reference, known.checked);
                    }
                    return Ok(pin);
                }
                older = Some((known.checked, pin));
            }
        }
        if self.offline {
            return Err(offline(&image.reference));
        }
        let Some((checked, pin)) = older else {
            return Ok(self.asked(&image.reference, platform)?.1);
        };
        // Who has an answer already does not wait for one through several tries.
        match self.registry.asking_once().resolve(&reference, platform) {
            Ok(resolved) => Ok(self.found_out(&image.reference, platform, &resolved)?.1),
            Err(error) if error.is_passing() => {
                let then = Timestamp(u128::from(checked) * 1_000_000_000);
                let ago = ui::age(then, clock::now());
                let text = format!("`{}` is taken as it was {ago}: {error}", image.reference);
                self.unasked().in_vain.insert(text);
                Ok(pin)
            }
            Err(error) => Err(failure::registry(error)),
        }
    }

    fn unasked(&self) -> MutexGuard<'_, Unasked> {
        let unasked = self.unasked.lock();
        unasked.expect("nothing panics with it in hand")
    }

    /// What is to be remarked on since the last time: tags whose registries were asked in vain.
    pub(super) fn remarks(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.unasked().in_vain)
    }

    /// When the tags were asked for last that nobody was asked for now, and where that is worth telling: by name.
    pub(super) fn checked(&self) -> BTreeMap<String, Timestamp> {
        let unasked = self.unasked();
        let checked = unasked.checked.iter();
        let when = |secs: &u64| Timestamp(u128::from(*secs) * 1_000_000_000);
        checked
            .map(|(name, secs)| (name.clone(), when(secs)))
            .collect()
    }

    /// Asks the registry for an image, whatever is known of it.
    pub(super) fn ask(&self, name: &str, platform: &Platform) -> Result<StoredPin, BuildError> {
        Ok(self.asked(name, platform)?.0)
    }

    fn asked(&self, name: &str, platform: &Platform) -> Result<(StoredPin, Pin), BuildError> {
        let resolved = self
            .registry
            .resolve(&parse(name)?, platform)
            .map_err(failure::registry)?;
        self.found_out(name, platform, &resolved)
    }

    /// Keeps an answer, and when it came.
    fn found_out(
        &self,
        name: &str,
        platform: &Platform,
        resolved: &Resolved,
    ) -> Result<(StoredPin, Pin), BuildError> {
        let pin = self.keep(resolved)?;
        let stored = StoredPin {
            manifest: resolved.manifest_digest,
            index: resolved.index,
            checked: now(),
        };
        let key = key(name, platform);
        self.store.set_pin(&key, &stored).map_err(failure::store)?;
        Ok((stored, pin))
    }

    /// The image of rbuild's own store that stands in for a registry's.
    fn own(&self, image: &ImageSource, platform: &Platform) -> Result<Option<Pin>, BuildError> {
        if self.pull {
            return Ok(None);
        }
        let own = self.store.images().get(&image.reference);
        let Some(own) = own.map_err(failure::store)? else {
            return Ok(None);
        };
        // A name is what somebody gave an image. A digest in it is believed only of what has that digest, be it here
        // or in the registry that this image came from or went to.
        let wanted = parse(&image.reference)?.digest;
        if wanted.is_some_and(|wanted| own.digest != wanted && own.repo_digest != Some(wanted)) {
            return Ok(None);
        }
        self.stored(&own.digest, platform)
    }

    fn is_own(&self, request: &SourceRequest) -> Result<bool, BuildError> {
        match &request.source {
            SourceOp::Image(image) => Ok(self.own(image, &request.platform)?.is_some()),
            _ => Ok(false),
        }
    }

    fn layout(&self, layout: &OciLayoutSource, platform: &Platform) -> Result<Pin, BuildError> {
        let resolved = Layout::open(layout.path.as_ref())
            .and_then(|opened| opened.resolve(layout.reference.as_deref(), platform))
            .map_err(failure::registry)?;
        self.keep(&resolved)
    }

    /// Puts manifest and config into the store, where convert and the source op find them.
    fn keep(&self, resolved: &Resolved) -> Result<Pin, BuildError> {
        let blobs = self.store.blobs();
        // What is there already is not written anew.
        let held = self.lease.hold().map_err(failure::store)?;
        for bytes in [&resolved.manifest_bytes, &resolved.config_bytes] {
            let digest = blobs.put(bytes).map_err(failure::blob)?;
            self.lease
                .protect(LeaseRoot::Blob(digest))
                .map_err(failure::store)?;
        }
        drop(held);
        pin_of(resolved.manifest_digest, &resolved.config_bytes)
    }

    /// The pin of an image whose manifest, or index, is in the store; nothing if it is incomplete there or for
    /// another platform.
    fn stored(&self, digest: &OciDigest, platform: &Platform) -> Result<Option<Pin>, BuildError> {
        let found = self.found(digest, platform)?;
        Ok(found.filter(|pin| {
            !matches!(pin, Pin::Image { config, .. } if !platform.fallbacks().contains(&config.platform()))
        }))
    }

    /// The same, whatever platform a manifest is for.
    fn found(&self, digest: &OciDigest, platform: &Platform) -> Result<Option<Pin>, BuildError> {
        let blobs = self.store.blobs();
        let read = |digest: &OciDigest| {
            // One that cannot be protected is as good as none.
            self.lease.protect(LeaseRoot::Blob(*digest)).ok()?;
            blobs
                .contains(digest)
                .then(|| blobs.read(digest, MAX_DOCUMENT).ok())
                .flatten()
        };
        let Some(bytes) = read(digest) else {
            return Ok(None);
        };
        let (digest, manifest) = match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => (*digest, manifest),
            Ok(Document::Index(index)) => {
                let Some(entry) = index.matching(platform).first().map(|entry| entry.digest) else {
                    return Ok(None);
                };
                let Some(Ok(Document::Manifest(manifest))) =
                    read(&entry).map(|bytes| Document::parse(&bytes, None))
                else {
                    return Ok(None);
                };
                (entry, manifest)
            }
            Err(_) => return Ok(None),
        };
        let Some(config) = read(&manifest.config.digest) else {
            return Ok(None);
        };
        pin_of(digest, &config).map(Some)
    }
}

impl Unasked {
    /// Notes when a tag was asked for; of several platforms the longest ago.
    fn note(&mut self, name: &str, checked: u64) {
        let known = self.checked.entry(name.to_owned()).or_insert(checked);
        *known = checked.min(*known);
    }
}

/// What progress says of images whose tags nobody was asked for: how long ago that was last. By the digests of events.
pub(super) fn ages(
    definition: &Definition,
    checked: &BTreeMap<String, Timestamp>,
) -> BTreeMap<String, StatusEvent> {
    let now = clock::now();
    let sources = definition.iter().filter_map(|(id, vertex)| {
        let Op::Source(SourceOp::Image(image)) = &vertex.op else {
            return None;
        };
        let then = checked.get(&image.reference)?;
        let digest = solver::event_digest(&id);
        let age = StatusEvent {
            id: format!("resolve {}, {}", image.reference, ui::age(*then, now)),
            vertex: digest.clone(),
            name: String::new(),
            total: 0,
            current: 0,
            timestamp: now,
            started: Some(now),
            completed: Some(now),
        };
        Some((digest, age))
    });
    sources.collect()
}

/// Does several things at once, on threads that are gone afterwards.
pub(super) fn side_by_side<T: Sync, R: Send>(
    things: &[T],
    deed: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    threads::side_by_side(things, things.len(), deed)
}

/// What a normalised name was before, if it is an id.
fn short(name: &str) -> &str {
    let short = name.strip_prefix("docker.io/library/").unwrap_or(name);
    short.strip_suffix(":latest").unwrap_or(short)
}

/// What the pin of an image is found under.
fn key(reference: &str, platform: &Platform) -> String {
    format!("{reference} {platform}")
}

/// Unix seconds.
fn now() -> u64 {
    (clock::now().0 / 1_000_000_000) as u64
}

fn parse(reference: &str) -> Result<Reference, BuildError> {
    reference
        .parse()
        .map_err(|error: ParseReferenceError| BuildError::new(ErrorKind::Request, error))
}

fn offline(reference: &str) -> BuildError {
    let error =
        anyhow::anyhow!("`{reference}` is not in the store, and `--offline` asks no registry");
    BuildError::new(ErrorKind::Environment, error).hint("build once without `--offline`")
}

fn pin_of(digest: OciDigest, config: &[u8]) -> Result<Pin, BuildError> {
    let config: ImageConfig = serde_json::from_slice(config).map_err(|error| {
        let error = anyhow::Error::new(error)
            .context(format!("the config of image {digest} cannot be read"));
        BuildError::new(ErrorKind::Environment, error)
    })?;
    Ok(Pin::Image {
        digest,
        config: Box::new(config),
    })
}
