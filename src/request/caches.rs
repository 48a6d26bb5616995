//! Caches that machines share: where they are, and what is written there.

use std::path::PathBuf;

use super::Compression;
use super::Secret;

/// Where a cache is that machines share: one `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// `type=local`
    Local {
        /// `src=` or `dest=`: the directory.
        dir: PathBuf,
        /// `tag=` or `digest=`: which of its caches.
        name: String,
    },
    /// `type=registry`: a cache of its own, or one that an image has in it.
    Registry {
        /// `ref=`, normalised.
        reference: String,
        /// `registry.insecure`: plain HTTP, or any certificate.
        insecure: bool,
    },
    /// `type=gha`: the cache service of GitHub Actions.
    Actions {
        /// `scope=`: which of the repository's caches.
        scope: String,
        /// Who is asked; nobody where no job is running.
        service: Option<ActionsService>,
    },
}

/// The cache service of a job of GitHub Actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionsService {
    /// `url_v2=`, ACTIONS_RESULTS_URL
    pub url: String,
    /// `token=`, ACTIONS_RUNTIME_TOKEN
    pub token: Secret,
}

impl CachePlace {
    /// The name of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Registry { .. } => "registry",
            Self::Actions { .. } => "gha",
        }
    }

    /// Whether it is asked over a network.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Local { .. } => false,
            Self::Registry { .. } | Self::Actions { .. } => true,
        }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { dir, .. } => write!(f, "{}", dir.display()),
            Self::Registry { reference, .. } => f.write_str(reference),
            Self::Actions { scope, .. } => write!(f, "gha:{scope}"),
        }
    }
}

/// One `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTo {
    /// Where to.
    pub place: CachePlace,
    /// `mode=max`: all steps, not only those whose layers the images have.
    pub all: bool,
    /// How layers are compressed.
    pub compression: Compression,
    /// `ignore-error=true`: a cache that cannot be written does not fail the build.
    pub ignore_error: bool,
}
