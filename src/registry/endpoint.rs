//! Where the requests for a registry go: its mirrors, then itself, over TLS or not.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::reference::DOCKER_HUB;
use crate::request::RegistrySettings;

/// Docker Hub's API host.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// What `docker login` files Docker Hub's credentials under.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a connection trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trust {
    /// Any certificate.
    pub(super) insecure: bool,
    /// PEM files besides the system's.
    pub(super) ca: Vec<PathBuf>,
}

/// One place that answers for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host[:port]` as the user knows it: `docker.io`, a mirror's name.
    pub(super) name: String,
    /// Without TLS.
    pub(super) plain: bool,
    pub(super) trust: Trust,
    /// `scheme://host[:port]/v2[/prefix]`
    base: String,
    /// The registry it mirrors.
    mirrors: Option<String>,
}

impl Endpoint {
    /// A URL below `/v2/<repository>/`.
    pub(super) fn url(&self, repository: &str, tail: &str) -> String {
        let url = format!("{}/{repository}/{tail}", self.base);
        match &self.mirrors {
            // Registries that mirror several others tell them apart by it, as containerd asks.
            Some(registry) => format!("{url}?ns={}", super::transport::encode(registry)),
            None => url,
        }
    }

    /// The URL of `/v2/`, which tells who may come in.
    pub(super) fn root(&self) -> String {
        format!("{}/", self.base)
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

/// The endpoints to pull from, in order.
pub(super) fn to_pull(
    registries: &BTreeMap<String, RegistrySettings>,
    registry: &str,
) -> Vec<Endpoint> {
    let mirrors = registries
        .get(registry)
        .map_or(&[][..], |settings| &settings.mirrors);
    let mut endpoints = Vec::new();
    for mirror in mirrors {
        let (scheme, rest) = match mirror.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, mirror.as_str()),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let mut settings = registries.get(host).cloned().unwrap_or_default();
        if let Some(scheme) = scheme {
            settings.http = Some(scheme == "http");
        }
        let found = of_host(host, prefix.trim_matches('/'), &settings);
        endpoints.extend(found.into_iter().map(|endpoint| Endpoint {
            mirrors: Some(registry.to_owned()),
            ..endpoint
        }));
    }
    endpoints.extend(to_push(registries, registry));
    endpoints
}

/// The endpoints to push to: never a mirror.
pub(super) fn to_push(
    registries: &BTreeMap<String, RegistrySettings>,
    registry: &str,
) -> Vec<Endpoint> {
    let settings = registries.get(registry).cloned().unwrap_or_default();
    of_host(registry, "", &settings)
}

/// BuildKit's reading of the settings: `http` means plain HTTP and nothing else; `insecure` means TLS with any
/// certificate, after plain HTTP where that is the default.
fn of_host(name: &str, prefix: &str, settings: &RegistrySettings) -> Vec<Endpoint> {
    let host = match name {
        DOCKER_HUB => DOCKER_HUB_HOST,
        name => name,
    };
    let endpoint = |plain: bool| Endpoint {
        name: name.to_owned(),
        plain,
        trust: Trust {
            insecure: settings.insecure,
            ca: settings.ca.clone(),
        },
        base: format!(
            "{}://{host}/v2{}{prefix}",
            if plain { "http" } else { "https" },
            if prefix.is_empty() { "" } else { "/" }
        ),
        mirrors: None,
    };
    // Who lists an authority wants TLS, on loopback too.
    let plain = settings
        .http
        .unwrap_or_else(|| is_loopback(host) && settings.ca.is_empty());
    match (plain, settings.insecure) {
        (true, true) => vec![endpoint(true), endpoint(false)],
        (plain, _) => vec![endpoint(plain)],
    }
}

/// Whether `host[:port]` is this machine by its looks.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if authority.parse::<Ipv6Addr>().is_ok() => authority,
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod t {
    use super::*;

    fn urls(registries: &[(&str, RegistrySettings)], registry: &str) -> Vec<String> {
        let registries = registries
            .iter()
            .map(|(name, settings)| ((*name).to_owned(), settings.clone()))
            .collect();
        to_pull(&registries, registry)
            .iter()
            .map(|endpoint| endpoint.url("a/b", "tags/list"))
            .collect()
    }

    #[test]
    fn schemes_and_mirrors() {
        let http = |http| RegistrySettings {
            http: Some(http),
            ..RegistrySettings::default()
        };
        let mirrors = |list: &[&str]| RegistrySettings {
            mirrors: list.iter().map(|m| (*m).to_owned()).collect(),
            ..RegistrySettings::default()
        };
        let insecure = RegistrySettings {
            insecure: true,
            ..RegistrySettings::default()
        };
        assert_eq!(
            urls(&[], "docker.io"),
            ["https://registry-1.docker.io/v2/a/b/tags/list"]
        );
        for loopback in ["localhost", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(
                urls(&[], loopback),
                [format!("http://{loopback}/v2/a/b/tags/list")]
            );
        }
        assert_eq!(
            urls(&[("localhost:5000", http(false))], "localhost:5000"),
            ["https://localhost:5000/v2/a/b/tags/list"]
        );
        assert_eq!(
            urls(&[("localhost:1", insecure)], "localhost:1"),
            [
                "http://localhost:1/v2/a/b/tags/list",
                "https://localhost:1/v2/a/b/tags/list"
            ]
        );
        assert_eq!(
            urls(
                &[
                    ("docker.io", mirrors(&["m.example/hub/", "n.example"])),
                    ("n.example", http(true))
                ],
                "docker.io"
            ),
            [
                "https://m.example/v2/hub/a/b/tags/list?ns=docker.io",
                "http://n.example/v2/a/b/tags/list?ns=docker.io",
                "https://registry-1.docker.io/v2/a/b/tags/list"
            ]
        );
    }
}
