//! Where the requests for an image go: mirrors, then the registry itself, and how each is spoken to.
//!
//! Three questions are answered one by one, each by the first that says anything about it:
//!
//! | question | asked in this order |
//! |---|---|
//! | where | `mirrors` of config.toml; the table of registries.conf; for Docker Hub `registry-mirrors` of daemon.json |
//! | with TLS or not | `http` and `insecure` of config.toml; `insecure` of registries.conf; `insecure-registries` of daemon.json |
//! | which certificates | `ca`, `keypair` and `tlsconfigdir` of config.toml; the first `certs.d` that knows the host |
//!
//! What registries.conf blocks stays blocked, whatever config.toml says.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use super::endpoint::Endpoint;
use super::endpoint::Scheme;
use super::endpoint::Trust;
use super::endpoint::host_of;
use super::endpoint::is_loopback;
use super::error::RegistryError;
use super::reference::DOCKER_HUB;
use super::reference::Reference;
use super::transport::in_network;
use crate::request::KeyPair;
use crate::request::MirrorPulls;
use crate::request::Namespace;
use crate::request::Registries;

/// Finds endpoints. Directories with certificates are looked into when a host is first asked for.
pub(super) struct Places {
    registries: Registries,
    trusts: Mutex<BTreeMap<String, Trust>>,
}

/// What the place where a host was named says about it.
#[derive(Default)]
struct Said {
    /// A URL's scheme.
    http: Option<bool>,
    /// registries.conf.
    insecure: Option<bool>,
    /// The registry it mirrors, if it wants to be told.
    mirrors: Option<String>,
}

impl Places {
    pub(super) fn new(registries: Registries) -> Self {
        Self {
            registries,
            trusts: Mutex::default(),
        }
    }

    /// The endpoints to pull from, in order; the registry itself is the last.
    pub(super) fn to_pull(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let namespace = self.namespace(reference)?;
        let registry = &reference.registry;
        let own = self.registries.hosts.get(registry);
        let mut endpoints = Vec::new();
        if let Some(own) = own.filter(|own| !own.mirrors.is_empty()) {
            for mirror in &own.mirrors {
                let told = Some(registry.clone());
                endpoints.push(self.of_url(mirror, &reference.repository, told)?);
            }
        } else if let Some(namespace) = namespace {
            return self.of_namespace(namespace, reference);
        } else if registry == DOCKER_HUB {
            for mirror in &self.registries.hub_mirrors {
                endpoints.push(self.of_url(mirror, &reference.repository, None)?);
            }
        }
        endpoints.push(self.itself(reference, namespace)?);
        Ok(endpoints)
    }

    /// The endpoint to push to: never a mirror.
    pub(super) fn to_push(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let namespace = self.namespace(reference)?;
        Ok(vec![self.itself(reference, namespace)?])
    }

    /// A registry as such, without a repository: to log in.
    pub(super) fn of_registry(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let mut namespaces = self.registries.namespaces.iter();
        let whole = namespaces.find(|namespace| namespace.prefix == registry);
        let said = Said {
            insecure: whole.and_then(|namespace| namespace.insecure),
            ..Said::default()
        };
        self.endpoint(registry, String::new(), said)
    }

    fn itself(
        &self,
        reference: &Reference,
        namespace: Option<&Namespace>,
    ) -> Result<Endpoint, RegistryError> {
        let said = Said {
            insecure: namespace.and_then(|namespace| namespace.insecure),
            ..Said::default()
        };
        self.endpoint(&reference.registry, reference.repository.clone(), said)
    }

    /// The table of registries.conf with the longest prefix of a name.
    fn namespace(&self, reference: &Reference) -> Result<Option<&Namespace>, RegistryError> {
        let found = self
            .registries
            .namespaces
            .iter()
            .filter(|namespace| matches(&namespace.prefix, reference))
            .max_by_key(|namespace| namespace.prefix.len());
        let Some(namespace) = found else {
            return Ok(None);
        };
        if let Some(why) = &namespace.broken {
            return Err(RegistryError::Setting {
                place: namespace.place.clone(),
                reference: reference.written().to_owned(),
                why: why.clone(),
            });
        }
        if namespace.blocked {
            return Err(RegistryError::Blocked {
                place: namespace.place.clone(),
                reference: reference.written().to_owned(),
                prefix: namespace.prefix.clone(),
            });
        }
        Ok(Some(namespace))
    }

    fn of_namespace(
        &self,
        namespace: &Namespace,
        reference: &Reference,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let at =
            |location: &str, insecure: Option<bool>| {
                let (host, repository) = relocated(&namespace.prefix, location, reference)
                    .ok_or_else(|| RegistryError::Setting {
                        place: namespace.place.clone(),
                        reference: reference.written().to_owned(),
                        why: format!("`location = \"{location}\"` leaves no name of a repository"),
                    })?;
                let said = Said {
                    insecure,
                    ..Said::default()
                };
                self.endpoint(&host, repository, said)
            };
        let asked = |pulls: MirrorPulls| match pulls {
            MirrorPulls::All => true,
            MirrorPulls::Digests => reference.digest.is_some(),
            MirrorPulls::Tags => reference.digest.is_none(),
        };
        let mut endpoints = namespace
            .mirrors
            .iter()
            .filter(|mirror| asked(mirror.pulls))
            .map(|mirror| at(&mirror.location, mirror.insecure))
            .collect::<Result<Vec<_>, _>>()?;
        endpoints.push(match &namespace.location {
            Some(location) => at(location, namespace.insecure)?,
            None => self.itself(reference, Some(namespace))?,
        });
        Ok(endpoints)
    }

    /// A mirror written as `[scheme://]host[:port][/path]`.
    fn of_url(
        &self,
        mirror: &str,
        repository: &str,
        mirrors: Option<String>,
    ) -> Result<Endpoint, RegistryError> {
        let (scheme, rest) = match mirror.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, mirror),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let repository = match path.trim_matches('/') {
            "" => repository.to_owned(),
            path => format!("{path}/{repository}"),
        };
        let said = Said {
            http: scheme.map(|scheme| scheme == "http"),
            insecure: None,
            mirrors,
        };
        self.endpoint(host, repository, said)
    }

    fn endpoint(
        &self,
        name: &str,
        repository: String,
        said: Said,
    ) -> Result<Endpoint, RegistryError> {
        let mut trust = self.trust(name)?;
        let own = self.registries.hosts.get(name);
        let own = own.filter(|own| own.http.is_some() || own.insecure.is_some());
        // BuildKit's `insecure` is about certificates alone; docker's and podman's allows no TLS, too.
        let (http, insecure) = match own {
            Some(own) => (own.http, own.insecure.unwrap_or(false)),
            None => match said.insecure.unwrap_or_else(|| self.is_insecure(name)) {
                true => (Some(true), true),
                false => (None, false),
            },
        };
        // Who lists certificates wants TLS, on loopback too.
        let by_looks = || is_loopback(name) && trust.ca.is_empty() && trust.identity.is_none();
        let http = said.http.or(http).unwrap_or_else(by_looks);
        trust.insecure = insecure;
        Ok(Endpoint {
            name: name.to_owned(),
            scheme: match (http, insecure) {
                (true, true) if said.http.is_none() => Scheme::Either,
                (true, _) => Scheme::Plain,
                (false, _) => Scheme::Tls,
            },
            trust,
            repository,
            mirrors: said.mirrors,
        })
    }

    /// Whether daemon.json lists it. Names are not looked up to find out whether their addresses are in a network.
    fn is_insecure(&self, name: &str) -> bool {
        let address = host_of(name).parse::<IpAddr>().ok();
        self.registries.insecure.iter().any(|entry| {
            entry == name
                || entry.split_once('/').is_some_and(|(network, bits)| {
                    address.is_some_and(|ip| in_network(ip, network, bits))
                })
        })
    }

    /// The certificates for a host.
    fn trust(&self, name: &str) -> Result<Trust, RegistryError> {
        let mut trusts = self
            .trusts
            .lock()
            .expect("nothing panics while it is locked");
        if let Some(known) = trusts.get(name) {
            return Ok(known.clone());
        }
        let mut trust = Trust::default();
        if let Some(own) = self.registries.hosts.get(name) {
            trust.ca.clone_from(&own.ca);
            trust.identity.clone_from(&own.keypair);
            for dir in &own.tls_dirs {
                let listed = fs::read_dir(dir).map_err(|source| unreadable(dir, source))?;
                add_dir(&mut trust, dir, listed)?;
            }
        }
        if trust == Trust::default() {
            for dirs in &self.registries.certificates {
                let dir = dirs.join(name);
                match fs::read_dir(&dir) {
                    Ok(listed) => {
                        add_dir(&mut trust, &dir, listed)?;
                        break;
                    }
                    // What other programs keep for root alone is not meant for us.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::NotFound
                                | io::ErrorKind::PermissionDenied
                                | io::ErrorKind::NotADirectory
                        ) => {}
                    Err(source) => return Err(unreadable(&dir, source)),
                }
            }
        }
        trusts.insert(name.to_owned(), trust.clone());
        Ok(trust)
    }
}

fn unreadable(path: &Path, source: io::Error) -> RegistryError {
    RegistryError::Read {
        path: path.to_owned(),
        source,
    }
}

/// Adds what a directory of `certs.d` holds: authorities in `*.crt`, and a certificate in `NAME.cert` with its key in
/// `NAME.key`. Of several of these the first counts, by name.
fn add_dir(trust: &mut Trust, dir: &Path, listed: fs::ReadDir) -> Result<(), RegistryError> {
    let mut files = listed
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| unreadable(dir, source))?;
    files.sort();
    for path in &files {
        let (beside, what) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                trust.ca.push(path.clone());
                continue;
            }
            Some("cert") => (path.with_extension("key"), "key"),
            Some("key") => (path.with_extension("cert"), "certificate"),
            _ => continue,
        };
        if !files.contains(&beside) {
            return Err(RegistryError::HalfAPair {
                path: path.clone(),
                what,
                missing: beside,
            });
        }
        if what == "key" && trust.identity.is_none() {
            trust.identity = Some(KeyPair {
                cert: path.clone(),
                key: beside,
            });
        }
    }
    Ok(())
}

/// Whether a prefix of registries.conf (containers-registries.conf, Choosing a `[[registry]]` TOML table) is one of a name.
fn matches(prefix: &str, reference: &Reference) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        return host_of(&reference.registry).ends_with(domain);
    }
    let (host, path) = prefix.split_once('/').unwrap_or((prefix, ""));
    host == reference.registry
        && (path.is_empty()
            || reference
                .repository
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Host and repository when `location` takes the place of `prefix`; `None` if no repository is left.
fn relocated(prefix: &str, location: &str, reference: &Reference) -> Option<(String, String)> {
    let rest = match prefix.split_once('/') {
        Some((_, path)) => reference
            .repository
            .strip_prefix(path)
            .unwrap_or(&reference.repository),
        None => &reference.repository,
    };
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    let parts = [path, rest].map(|part| part.trim_matches('/'));
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| (host.to_owned(), parts.join("/")))
}
