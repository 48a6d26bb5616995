//! Ports of EXPOSE.

use std::net::IpAddr;

/// One word of EXPOSE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// `80/tcp`, one for each port of a range.
    pub(super) list: Vec<String>,
    /// Whether an address or a host port stood in front, which EXPOSE has no use for.
    pub(super) mapping: bool,
    /// Whether the protocol was not in lower case.
    pub(super) odd_case: bool,
}

/// Why a word names no ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    #[error("no port specified")]
    None,
    #[error("invalid protocol `{protocol}`: `tcp`, `udp` or `sctp`")]
    Protocol { protocol: String },
    #[error("invalid IP address `{address}`")]
    Address { address: String },
    #[error("invalid port `{port}`: a number from 0 to 65535, or a range such as `8000-8010`")]
    Number { port: String },
    #[error("the ranges `{host}` and `{container}` differ in size")]
    Ranges { host: String, container: String },
}

/// Reads `[[address:]host:]port[-port][/protocol]`.
pub(super) fn parse(word: &str) -> Result<Ports, PortError> {
    let mut parts = word.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let (host, address) = (parts.next(), parts.next());
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    if ports.is_empty() {
        return Err(PortError::None);
    }
    let folded = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => {
            let protocol = protocol.to_owned();
            return Err(PortError::Protocol { protocol });
        }
    };
    if let Some(address) = address.filter(|address| !address.is_empty()) {
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        if bare.unwrap_or(address).parse::<IpAddr>().is_err() {
            let address = address.to_owned();
            return Err(PortError::Address { address });
        }
    }
    let (first, last) = range(ports)?;
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        let (start, end) = range(host)?;
        if last != first && end - start != last - first {
            return Err(PortError::Ranges {
                host: host.to_owned(),
                container: ports.to_owned(),
            });
        }
    }
    Ok(Ports {
        list: (first..=last).map(|p| format!("{p}/{folded}")).collect(),
        mapping: [host, address]
            .iter()
            .flatten()
            .any(|part| !part.is_empty()),
        odd_case: protocol != protocol.to_lowercase(),
    })
}

fn range(text: &str) -> Result<(u16, u16), PortError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(PortError::Number {
            port: text.to_owned(),
        }),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn ports_ranges_protocols() {
        for (word, list, mapping, odd_case) in [
            ("80", vec!["80/tcp"], false, false),
            ("53/UDP", vec!["53/udp"], false, true),
            ("80-82", vec!["80/tcp", "81/tcp", "82/tcp"], false, false),
            ("127.0.0.1:80:8080", vec!["8080/tcp"], true, false),
            ("[::1]:80:8080/tcp", vec!["8080/tcp"], true, false),
            ("80:8080", vec!["8080/tcp"], true, false),
        ] {
            let list = list.into_iter().map(str::to_owned).collect();
            let want = Ports {
                list,
                mapping,
                odd_case,
            };
            assert_eq!(parse(word), Ok(want), "{word}");
        }
        for word in [
            "", "/tcp", "80/icmp", "65536", "9-8", "x:80:80", "1-2:1-3", "80-", "-1",
        ] {
            assert!(parse(word).is_err(), "{word}");
        }
    }
}
