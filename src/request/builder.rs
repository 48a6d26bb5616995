//! How daemons are named: buildctl's addresses, with what buildx calls driver options behind them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rbuild_llb::Platform;

/// How long nothing at all may come from a daemon that builds. It gives us up sooner if it does not hear of us.
pub const BUILDER_SILENCE: Duration = Duration::from_secs(60);
/// How long a node may take to answer, where another may be waiting: two of TCP's attempts are lost by then.
pub const NODE_PATIENCE: Duration = Duration::from_secs(5);
/// How long one may take to so much as take the connection, where another is as good: one of TCP's attempts is lost by then.
pub const NODE_GRACE: Duration = Duration::from_millis(1500);
/// The Docker API's socket.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// A build on BuildKit daemons (`--builder`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builder {
    /// What messages call it: its name, or its address where it has none.
    pub name: String,
    /// One at least. If there is one alone, it is a daemon.
    pub nodes: Vec<Node>,
    /// `--cache-from`, in order: they are the daemon's to read.
    pub cache_from: Vec<BuilderCache>,
    /// `--cache-to`.
    pub cache_to: Vec<BuilderCache>,
    /// How long nothing may come from a daemon.
    pub silence: Duration,
    /// How long a node may take to answer, where there are several.
    pub patience: Duration,
    /// How long one may take to take the connection, where another is as good.
    pub grace: Duration,
    /// Flags that were given, and say how steps run on this machine, where none does.
    pub idle_flags: Vec<&'static str>,
}

/// One of the machines of a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, which no other node of the builder has.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// What it is said to be native to; if nothing is said, the daemon is asked.
    pub platforms: Vec<Platform>,
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This machine: no daemon.
    Here,
    /// A daemon.
    Daemon(BuilderAddress),
}

impl FromStr for Place {
    type Err = ParseBuilderError;

    /// `local`, or an address.
    fn from_str(text: &str) -> Result<Self, ParseBuilderError> {
        match text {
            "local" => Ok(Self::Here),
            _ => text.parse().map(Self::Daemon),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("local"),
            Self::Daemon(address) => address.fmt(f),
        }
    }
}

/// A cache that a daemon reads or writes: BuildKit's type and options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuilderCache {
    /// `registry`, `inline`, `gha`, `s3`, `azblob`.
    pub kind: String,
    /// Its options, as they were given.
    pub options: BTreeMap<String, String>,
}

impl BuilderCache {
    /// One in the image itself.
    pub fn inline() -> Self {
        Self {
            kind: "inline".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

/// Where a daemon is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuilderAddress {
    /// `unix:///run/buildkit/buildkitd.sock`
    Unix(PathBuf),
    /// `tcp://host:port`
    Tcp {
        /// Name or IP address.
        host: String,
        /// Port.
        port: u16,
        /// `None` for a connection that anybody on the way can read.
        tls: Option<BuilderTls>,
    },
    /// `docker-container://name` and `podman-container://name`: `buildctl dial-stdio` in a container.
    Container {
        /// `docker` or `podman`.
        program: &'static str,
        /// The container's name or id.
        name: String,
    },
    /// `docker://`, `docker:///path/to.sock`: the BuildKit inside a dockerd, by the Docker API's socket.
    Docker(PathBuf),
}

impl BuilderAddress {
    /// Whether others can read what is sent there, and send something of their own: a network lies between, and no TLS.
    pub fn is_open(&self) -> bool {
        let Self::Tcp {
            host, tls: None, ..
        } = self
        else {
            return false;
        };
        match host.parse::<IpAddr>() {
            Ok(address) => !address.to_canonical().is_loopback(),
            Err(_) => host != "localhost" && !host.ends_with(".localhost"),
        }
    }

    /// Whether it may run programs for platforms that it does not list: with BuildKit come emulators that it does not tell
    /// of. With dockerd come none.
    pub fn may_emulate(&self) -> bool {
        !matches!(self, Self::Docker(_))
    }
}

/// Files for TLS, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuilderTls {
    /// `cacert=`: whom to trust instead of the system's authorities.
    pub ca: Option<PathBuf>,
    /// `cert=`: who we are.
    pub cert: Option<PathBuf>,
    /// `key=`: of that certificate.
    pub key: Option<PathBuf>,
    /// `servername=`: the name in the daemon's certificate, if it is not the host.
    pub server_name: Option<String>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBuilderError {
    /// No scheme that is known.
    #[error(
        "wanted `unix://PATH`, `tcp://HOST:PORT`, `docker-container://NAME`, `podman-container://NAME` or `docker://`"
    )]
    Scheme,
    /// A relative path.
    #[error("the path of a socket begins with `/`")]
    Relative,
    /// Neither name nor number.
    #[error("wanted `tcp://HOST:PORT`")]
    Port,
    /// No container.
    #[error("the name of the container is missing")]
    Container,
    /// An option.
    #[error(
        "`{option}` is none of `cacert=`, `cert=`, `key=` and `servername=`, which `tcp://` may have"
    )]
    Option {
        /// As written.
        option: String,
    },
    /// A certificate without a key, or the other way round.
    #[error("`cert=` and `key=` are given together")]
    Half,
}

impl FromStr for BuilderAddress {
    type Err = ParseBuilderError;

    /// `ADDRESS[,cacert=FILE][,cert=FILE,key=FILE][,servername=NAME]`
    fn from_str(text: &str) -> Result<Self, ParseBuilderError> {
        let mut fields = text.split(',');
        let address = fields.next().unwrap_or_default();
        let (scheme, rest) = address.split_once("://").ok_or(ParseBuilderError::Scheme)?;
        let options: Vec<&str> = fields.collect();
        if let (false, Some(option)) = (scheme == "tcp", options.first()) {
            let option = (*option).to_owned();
            return Err(ParseBuilderError::Option { option });
        }
        match scheme {
            "unix" => {
                let path = absolute(rest)?;
                // Nothing else is called that.
                match path.file_name().is_some_and(|name| name == "docker.sock") {
                    true => Ok(Self::Docker(path)),
                    false => Ok(Self::Unix(path)),
                }
            }
            "docker" if rest.is_empty() => Ok(Self::Docker(DOCKER_SOCKET.into())),
            "docker" => absolute(rest).map(Self::Docker),
            "docker-container" => container("docker", rest),
            "podman-container" => container("podman", rest),
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or(ParseBuilderError::Port)?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let port = port.parse().map_err(|_| ParseBuilderError::Port)?;
                if host.is_empty() {
                    return Err(ParseBuilderError::Port);
                }
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                    tls: tls(&options)?,
                })
            }
            _ => Err(ParseBuilderError::Scheme),
        }
    }
}

fn absolute(path: &str) -> Result<PathBuf, ParseBuilderError> {
    match path.starts_with('/') {
        true => Ok(path.into()),
        false => Err(ParseBuilderError::Relative),
    }
}

fn container(program: &'static str, name: &str) -> Result<BuilderAddress, ParseBuilderError> {
    // The program would take it for a flag.
    if name.is_empty() || name.starts_with('-') {
        return Err(ParseBuilderError::Container);
    }
    let name = name.to_owned();
    Ok(BuilderAddress::Container { program, name })
}

fn tls(options: &[&str]) -> Result<Option<BuilderTls>, ParseBuilderError> {
    let mut tls = BuilderTls::default();
    for option in options {
        let wrong = || ParseBuilderError::Option {
            option: (*option).to_owned(),
        };
        let (key, value) = option.split_once('=').ok_or_else(wrong)?;
        match key {
            "cacert" => tls.ca = Some(value.into()),
            "cert" => tls.cert = Some(value.into()),
            "key" => tls.key = Some(value.into()),
            "servername" => tls.server_name = Some(value.to_owned()),
            _ => return Err(wrong()),
        }
    }
    if tls.cert.is_some() != tls.key.is_some() {
        return Err(ParseBuilderError::Half);
    }
    Ok((tls != BuilderTls::default()).then_some(tls))
}

impl fmt::Display for BuilderAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            Self::Container { program, name } => write!(f, "{program}-container://{name}"),
            Self::Docker(path) => write!(f, "docker://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, want) in [
            ("unix:///run/b.sock", "unix:///run/b.sock"),
            (
                "unix:///var/run/docker.sock",
                "docker:///var/run/docker.sock",
            ),
            ("docker://", "docker:///var/run/docker.sock"),
            ("docker:///x.sock", "docker:///x.sock"),
            ("tcp://h:1", "tcp://h:1"),
            ("tcp://[::1]:1,cacert=a", "tcp://[::1]:1"),
            ("docker-container://b0", "docker-container://b0"),
            ("podman-container://b0", "podman-container://b0"),
        ] {
            let address: BuilderAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), want, "{text}");
        }
        for (text, want) in [
            ("", ParseBuilderError::Scheme),
            ("b0", ParseBuilderError::Scheme),
            ("ssh://h", ParseBuilderError::Scheme),
            ("unix://b.sock", ParseBuilderError::Relative),
            ("tcp://h", ParseBuilderError::Port),
            ("tcp://:1", ParseBuilderError::Port),
            ("tcp://h:70000", ParseBuilderError::Port),
            ("docker-container://", ParseBuilderError::Container),
            ("docker-container://-v", ParseBuilderError::Container),
            ("tcp://h:1,cert=c", ParseBuilderError::Half),
        ] {
            assert_eq!(text.parse::<BuilderAddress>(), Err(want), "{text}");
        }
    }

    #[test]
    fn what_crosses_a_network_plainly_is_open() {
        for (text, open) in [
            ("unix:///b.sock", false),
            ("docker-container://b0", false),
            ("tcp://127.0.0.1:1", false),
            ("tcp://127.8.9.1:1", false),
            ("tcp://[::1]:1", false),
            ("tcp://[::ffff:127.0.0.1]:1", false),
            ("tcp://localhost:1", false),
            ("tcp://10.0.0.1:1", true),
            ("tcp://[fd00::1]:1", true),
            ("tcp://builder.example:1", true),
            ("tcp://builder.example:1,cacert=ca.pem", false),
        ] {
            let address: BuilderAddress = text.parse().unwrap();
            assert_eq!(address.is_open(), open, "{text}");
        }
    }

    #[test]
    fn only_tcp_has_options() {
        let tls = BuilderTls {
            ca: Some("ca.pem".into()),
            cert: Some("c.pem".into()),
            key: Some("k.pem".into()),
            server_name: Some("b".into()),
        };
        let text = "tcp://h:1,cacert=ca.pem,cert=c.pem,key=k.pem,servername=b";
        let Ok(BuilderAddress::Tcp { tls: read, .. }) = text.parse() else {
            panic!("it is one");
        };
        assert_eq!(read, Some(tls));
        for text in ["unix:///b.sock,cert=c", "tcp://h:1,ca=x", "tcp://h:1,cert"] {
            let error = text.parse::<BuilderAddress>().unwrap_err();
            assert!(matches!(error, ParseBuilderError::Option { .. }), "{text}");
        }
    }
}
