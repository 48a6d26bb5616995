//! Pinning by the lock file, and finding out what goes into it.

use std::collections::BTreeSet;

use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::frontend::Pin;
use rbuild_llb::op::GitSource;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::SourceOp;

use super::Pinner;
use super::offline;
use super::parse;
use crate::ops::OpError;
use crate::ops::git;
use crate::ops::http;
use crate::outcome::BuildError;
use crate::pipeline::failure;
use crate::pipeline::lock::Lock;
use crate::pipeline::lock::Locked;
use crate::pipeline::lock::LockedImage;
use crate::pipeline::lock::Name;
use crate::registry::RegistryError;

impl Pinner<'_> {
    /// The pin of a source that is in the lock.
    pub(super) fn locked(
        &self,
        source: &SourceOp,
        platform: &Platform,
        lock: &Lock,
        locked: &Locked,
        name: &Name,
    ) -> Result<Pin, BuildError> {
        match (locked, source) {
            (Locked::Git(commit), _) => Ok(Pin::Git {
                commit: commit.clone(),
            }),
            (Locked::Url(checksum), SourceOp::Http(http)) => {
                self.locked_url(&http.url, *checksum, lock, name)
            }
            (Locked::Image(locked), SourceOp::Image(image)) => {
                self.locked_image(&image.reference, platform, lock, locked, name)
            }
            (Locked::Url(_) | Locked::Image(_), _) => {
                unreachable!("a source and its entry in the lock have the same name")
            }
        }
    }

    /// What a URL gives is fetched here if the store has it not, so that a change is found before anything runs.
    fn locked_url(
        &self,
        url: &str,
        checksum: OciDigest,
        lock: &Lock,
        name: &Name,
    ) -> Result<Pin, BuildError> {
        match http::demanded(
            self.store,
            self.lease,
            self.registry,
            url,
            checksum,
            self.offline,
            &CancelToken::new(),
        ) {
            Ok(_) => Ok(Pin::Http { checksum }),
            Err(OpError::Registry(error @ RegistryError::DigestMismatch { .. })) => {
                Err(failure::registry(error).hint(lock.hint(name)))
            }
            Err(error) => Err(failure::op(error)),
        }
    }

    fn locked_image(
        &self,
        reference: &str,
        platform: &Platform,
        lock: &Lock,
        locked: &LockedImage,
        name: &Name,
    ) -> Result<Pin, BuildError> {
        let reference = parse(reference)?;
        let Some(digest) = locked.manifest(platform) else {
            let pin = self.image(&locked.whole(&reference), platform)?;
            if let Pin::Image { digest, .. } = &pin {
                lock.note(name, platform, *digest);
            }
            return Ok(pin);
        };
        if let Some(pin) = self.found(&digest, platform)? {
            return Ok(pin);
        }
        // Messages are to name the digest.
        let reference = parse(&reference.with_digest(digest).to_string())?;
        if self.offline {
            return Err(offline(&reference.to_string()));
        }
        match self.registry.resolve(&reference, platform) {
            Ok(resolved) => self.keep(&resolved),
            Err(error @ RegistryError::NotFound { .. }) => {
                Err(failure::registry(error).hint(lock.hint(name)))
            }
            Err(error) => Err(failure::registry(error)),
        }
    }

    /// What a source is now, whatever is known of it here.
    pub(super) fn anew(
        &self,
        source: &SourceOp,
        platform: &Platform,
    ) -> Result<Locked, BuildError> {
        match source {
            SourceOp::Image(image) => self
                .image_anew(&image.reference, platform)
                .map(Locked::Image),
            SourceOp::Git(git) => git::commit(git, self.offline)
                .map(Locked::Git)
                .map_err(failure::op),
            SourceOp::Http(http) => http::current(
                self.store,
                self.lease,
                self.registry,
                &http.url,
                self.offline,
                &CancelToken::new(),
            )
            .map(|stored| Locked::Url(stored.checksum))
            .map_err(failure::op),
            SourceOp::Local(_) | SourceOp::OciLayout(_) => {
                unreachable!("what lies on this machine has no name in the lock")
            }
        }
    }

    fn image_anew(&self, reference: &str, platform: &Platform) -> Result<LockedImage, BuildError> {
        if self.offline {
            return Err(offline(reference));
        }
        let resolved = self
            .registry
            .resolve(&parse(reference)?, platform)
            .map_err(failure::registry)?;
        self.keep(&resolved)?;
        let digest = resolved.manifest_digest;
        let mut locked = LockedImage {
            index: resolved.index,
            platforms: resolved.platforms,
        };
        if resolved.index.is_none() {
            locked.platforms = [(resolved.config.platform(), digest)].into();
        } else if locked.manifest(platform) != Some(digest) {
            locked.platforms.insert(platform.clone(), digest);
        }
        Ok(locked)
    }

    /// What an entry of the lock would be today. `wanted` are the platforms that the lock is for.
    pub(in crate::pipeline) fn again(
        &self,
        name: &Name,
        old: &Locked,
        wanted: &BTreeSet<Platform>,
    ) -> Result<Locked, BuildError> {
        let host = Platform::host();
        match (name, old) {
            (Name::Image(reference), Locked::Image(old)) => {
                let mut had: Vec<&Platform> = old.platforms.keys().collect();
                // The one that must be there first: of all that there once were, some may be gone.
                had.sort_by_key(|platform| (**platform != host, !wanted.contains(*platform)));
                self.image_again(reference, &had).map(Locked::Image)
            }
            (Name::Image(reference), _) => self.image_anew(reference, &host).map(Locked::Image),
            (
                Name::Git {
                    remote,
                    reference,
                    checksum,
                },
                _,
            ) => {
                let git = GitSource {
                    remote: remote.clone(),
                    reference: reference.clone(),
                    subdir: String::new(),
                    keep_git_dir: false,
                    skip_submodules: false,
                    checksum: checksum.clone(),
                    commit: None,
                };
                self.anew(&SourceOp::Git(git), &host)
            }
            (Name::Url(url), _) => {
                let http = HttpSource {
                    url: url.clone(),
                    checksum: None,
                    filename: String::new(),
                    mode: None,
                };
                self.anew(&SourceOp::Http(http), &host)
            }
        }
    }

    fn image_again(&self, reference: &str, had: &[&Platform]) -> Result<LockedImage, BuildError> {
        let host = Platform::host();
        let mut new = self.image_anew(reference, had.first().copied().unwrap_or(&host))?;
        let ImageSource { reference, .. } = new.whole(&parse(reference)?);
        let whole = parse(&reference)?;
        for platform in had {
            if new.manifest(platform).is_some() {
                continue;
            }
            match self.registry.resolve(&whole, platform) {
                Ok(resolved) => {
                    let digest = resolved.manifest_digest;
                    new.platforms.insert((*platform).clone(), digest);
                }
                Err(RegistryError::NoPlatform { .. }) => {}
                Err(error) => return Err(failure::registry(error)),
            }
        }
        Ok(new)
    }
}
