//! One place that answers for a registry, and its URLs.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::reference::DOCKER_HUB;
use super::transport::encode;
use crate::request::KeyPair;

/// Docker Hub's API host.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// What `docker login` files Docker Hub's credentials under.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a connection trusts, and as whom it presents itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trust {
    /// Any certificate.
    pub(super) insecure: bool,
    /// PEM files besides the system's.
    pub(super) ca: Vec<PathBuf>,
    /// For servers that ask for a certificate.
    pub(super) identity: Option<KeyPair>,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Plain,
    Tls,
    /// TLS if it answers to that, else without.
    Either,
}

/// One place that answers for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host[:port]` as the user knows it: `docker.io`, a mirror's name.
    pub(super) name: String,
    pub(super) scheme: Scheme,
    pub(super) trust: Trust,
    /// What the repository is called there.
    pub(super) repository: String,
    /// The registry it mirrors, if it wants to be told.
    pub(super) mirrors: Option<String>,
}

impl Trust {
    /// For hosts that our certificate is not meant for.
    pub(super) fn anonymous(&self) -> Self {
        Self {
            identity: None,
            ..self.clone()
        }
    }
}

impl Endpoint {
    /// The place behind `host[:port]`, by whichever of its names.
    pub(super) fn of_host(host: &str) -> Self {
        let name = match host {
            DOCKER_HUB_HOST => DOCKER_HUB,
            host => host,
        };
        Self {
            name: name.to_owned(),
            scheme: Scheme::Tls,
            trust: Trust::default(),
            repository: String::new(),
            mirrors: None,
        }
    }

    /// A URL below `/v2/<repository>/`.
    pub(super) fn url(&self, tail: &str) -> String {
        let url = format!("{}{}/{tail}", self.root(), self.repository);
        match &self.mirrors {
            // Registries that mirror several others tell them apart by it, as containerd asks.
            Some(registry) => format!("{url}?ns={}", encode(registry)),
            None => url,
        }
    }

    /// `scheme://host[:port]/v2/`
    pub(super) fn root(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Plain => "http",
            Scheme::Tls | Scheme::Either => "https",
        };
        let host = match self.name.as_str() {
            DOCKER_HUB => DOCKER_HUB_HOST,
            name => name,
        };
        format!("{scheme}://{host}/v2/")
    }

    pub(super) fn with_scheme(&self, scheme: Scheme) -> Self {
        Self {
            scheme,
            ..self.clone()
        }
    }

    /// What credentials are filed under in docker's config.
    pub(super) fn credentials_key(&self) -> &str {
        credentials_key(&self.name)
    }
}

/// What docker files the credentials of a registry under.
pub(super) fn credentials_key(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => DOCKER_HUB_KEY,
        name => name,
    }
}

/// Whether `host[:port]` is this machine by its looks.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// `host[:port]` without its port and brackets.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if authority.parse::<Ipv6Addr>().is_ok() => authority,
        None => authority.split(':').next().unwrap_or_default(),
    }
}
