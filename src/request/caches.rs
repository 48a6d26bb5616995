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
    /// `type=s3`, `type=azblob`
    Objects(ObjectCache),
}

/// Objects of a store that caches are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCache {
    /// The URL of the bucket or container, without a slash at its end.
    pub base: String,
    /// How keys of blobs begin.
    pub blobs: String,
    /// How keys of catalogues begin.
    pub manifests: String,
    /// `name=`: under which names it is written; all are read.
    pub names: Vec<String>,
    /// How requests are signed.
    pub keys: ObjectKeys,
}

/// What requests to a store of objects are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectKeys {
    /// Amazon's.
    Amazon {
        /// `region=`
        region: String,
        /// `access_key_id=`; empty if requests are not signed, as for what everybody may read.
        id: String,
        /// `secret_access_key=`
        secret: Secret,
        /// `session_token=`
        session: Option<Secret>,
    },
    /// Azure's.
    Azure {
        /// `account_name=`
        account: String,
        /// `secret_access_key=`, decoded.
        key: Secret,
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
            Self::Objects(cache) => match cache.keys {
                ObjectKeys::Amazon { .. } => "s3",
                ObjectKeys::Azure { .. } => "azblob",
            },
        }
    }

    /// Whether it is asked over a network.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Local { .. } => false,
            Self::Registry { .. } | Self::Actions { .. } | Self::Objects(_) => true,
        }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { dir, .. } => write!(f, "{}", dir.display()),
            Self::Registry { reference, .. } => f.write_str(reference),
            Self::Actions { scope, .. } => write!(f, "gha:{scope}"),
            Self::Objects(cache) => {
                let names = cache.names.join(";");
                write!(
                    f,
                    "{}:{}/{}{names}",
                    self.kind(),
                    cache.base,
                    cache.manifests
                )
            }
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
    /// A cache that cannot be written does not fail the build: `ignore-error=`, or that it is elsewhere.
    pub ignore_error: bool,
    /// Which cache mounts go with it.
    pub mounts: CacheMounts,
}

/// The cache mounts that go into a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMounts {
    /// `mounts=`
    pub ids: MountIds,
    /// One whose files have more bytes stays out: `mounts-max-size=`.
    pub most: u64,
    /// Those that are there stay as they are: `mounts-readonly=`, or that strangers may have asked for the build.
    pub read_only: bool,
}

/// Cache mounts by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountIds {
    /// These, as far as the build has them.
    Some(Vec<String>),
    /// All that the build has: `mounts=all`.
    All,
}

impl CacheMounts {
    /// Those of `mounts=none`.
    pub fn none() -> Self {
        Self {
            ids: MountIds::Some(Vec::new()),
            most: u64::MAX,
            read_only: false,
        }
    }

    /// Whether a mount goes along.
    pub fn has(&self, id: &str) -> bool {
        match &self.ids {
            MountIds::All => true,
            MountIds::Some(ids) => ids.iter().any(|wanted| wanted == id),
        }
    }

    /// Whether none does.
    pub fn is_none(&self) -> bool {
        matches!(&self.ids, MountIds::Some(ids) if ids.is_empty())
    }
}
