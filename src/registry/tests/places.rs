//! Where requests go, by config.toml, registries.conf, daemon.json and certs.d.

use std::fs;
use std::path::Path;

use crate::registry::RegistryError;
use crate::registry::endpoint::Endpoint;
use crate::registry::endpoint::Scheme;
use crate::registry::endpoint::Trust;
use crate::registry::places::Places;
use crate::request::MirrorPulls;
use crate::request::Namespace;
use crate::request::NamespaceMirror;
use crate::request::Registries;
use crate::request::RegistrySettings;

fn shown(endpoint: &Endpoint) -> String {
    let either = match endpoint.scheme {
        Scheme::Either => "either ",
        _ => "",
    };
    format!("{either}{}", endpoint.url("tags/list"))
}

fn pulled(registries: Registries, name: &str) -> Vec<String> {
    let reference = name.parse().unwrap();
    let endpoints = Places::new(registries).to_pull(&reference).unwrap();
    endpoints.iter().map(shown).collect()
}

fn hosts(list: &[(&str, RegistrySettings)]) -> Registries {
    let hosts = list.iter().cloned();
    Registries {
        hosts: hosts.map(|(name, it)| (name.to_owned(), it)).collect(),
        ..Registries::default()
    }
}

fn namespace(prefix: &str) -> Namespace {
    Namespace {
        prefix: prefix.to_owned(),
        location: None,
        insecure: None,
        blocked: false,
        mirrors: Vec::new(),
        place: "registries.conf:1".to_owned(),
        broken: None,
    }
}

fn mirror(location: &str) -> NamespaceMirror {
    NamespaceMirror {
        location: location.to_owned(),
        insecure: None,
        pulls: MirrorPulls::All,
    }
}

fn http(http: bool) -> RegistrySettings {
    RegistrySettings {
        http: Some(http),
        ..RegistrySettings::default()
    }
}

fn mirrors(list: &[&str]) -> RegistrySettings {
    RegistrySettings {
        mirrors: list.iter().map(|m| (*m).to_owned()).collect(),
        ..RegistrySettings::default()
    }
}

#[test]
fn schemes_and_mirrors_of_config_toml() {
    let insecure = RegistrySettings {
        insecure: Some(true),
        ..RegistrySettings::default()
    };
    assert_eq!(
        pulled(Registries::default(), "a/b"),
        ["https://registry-1.docker.io/v2/a/b/tags/list"]
    );
    for loopback in ["localhost", "127.0.0.1:5000", "[::1]:5000"] {
        assert_eq!(
            pulled(Registries::default(), &format!("{loopback}/a/b")),
            [format!("http://{loopback}/v2/a/b/tags/list")]
        );
    }
    assert_eq!(
        pulled(
            hosts(&[("localhost:5000", http(false))]),
            "localhost:5000/a/b"
        ),
        ["https://localhost:5000/v2/a/b/tags/list"]
    );
    assert_eq!(
        pulled(
            hosts(&[("localhost:1", insecure.clone())]),
            "localhost:1/a/b"
        ),
        ["either https://localhost:1/v2/a/b/tags/list"]
    );
    assert_eq!(
        pulled(hosts(&[("r.example", insecure)]), "r.example/a/b"),
        ["https://r.example/v2/a/b/tags/list"]
    );
    assert_eq!(
        pulled(
            hosts(&[
                (
                    "docker.io",
                    mirrors(&["m.example/hub/", "n.example", "http://o.example"])
                ),
                ("n.example", http(true))
            ]),
            "a/b"
        ),
        [
            "https://m.example/v2/hub/a/b/tags/list?ns=docker.io",
            "http://n.example/v2/a/b/tags/list?ns=docker.io",
            "http://o.example/v2/a/b/tags/list?ns=docker.io",
            "https://registry-1.docker.io/v2/a/b/tags/list"
        ]
    );
}

// The example of containers-registries.conf(5), and its rules one by one.
#[test]
fn namespaces_of_registries_conf() {
    let example = Namespace {
        location: Some("internal.example.net/bar".to_owned()),
        mirrors: vec![
            mirror("mirror-0.local/mirror-for-foo"),
            NamespaceMirror {
                insecure: Some(true),
                ..mirror("mirror-1.local/mirrors/foo")
            },
            NamespaceMirror {
                pulls: MirrorPulls::Digests,
                ..mirror("digests.local/d")
            },
            NamespaceMirror {
                pulls: MirrorPulls::Tags,
                ..mirror("tags.local/t")
            },
        ],
        ..namespace("example.com/foo")
    };
    let registries = Registries {
        namespaces: vec![
            namespace("example.com"),
            example,
            Namespace {
                mirrors: vec![mirror("sub.local/x")],
                ..namespace("*.example.org")
            },
            Namespace {
                insecure: Some(true),
                location: Some("hub.local".to_owned()),
                ..namespace("docker.io")
            },
        ],
        hub_mirrors: vec!["https://unused.example".to_owned()],
        ..Registries::default()
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    for (name, want) in [
        (
            "example.com/foo/image:latest".to_owned(),
            vec![
                "https://mirror-0.local/v2/mirror-for-foo/image/tags/list",
                "either https://mirror-1.local/v2/mirrors/foo/image/tags/list",
                "https://tags.local/v2/t/image/tags/list",
                "https://internal.example.net/v2/bar/image/tags/list",
            ],
        ),
        (
            format!("example.com/foo@{digest}"),
            vec![
                "https://mirror-0.local/v2/mirror-for-foo/tags/list",
                "either https://mirror-1.local/v2/mirrors/foo/tags/list",
                "https://digests.local/v2/d/tags/list",
                "https://internal.example.net/v2/bar/tags/list",
            ],
        ),
        (
            "example.com/food".to_owned(),
            vec!["https://example.com/v2/food/tags/list"],
        ),
        (
            "example.com:5000/foo/a".to_owned(),
            vec!["https://example.com:5000/v2/foo/a/tags/list"],
        ),
        (
            "a.b.example.org:80/i".to_owned(),
            vec![
                "https://sub.local/v2/x/i/tags/list",
                "https://a.b.example.org:80/v2/i/tags/list",
            ],
        ),
        (
            "alpine".to_owned(),
            vec!["either https://hub.local/v2/library/alpine/tags/list"],
        ),
    ] {
        assert_eq!(pulled(registries.clone(), &name), want, "{name}");
    }
    let pushed = Places::new(registries);
    let pushed = pushed.to_push(&"example.com/foo/a".parse().unwrap());
    let pushed: Vec<String> = pushed.unwrap().iter().map(shown).collect();
    assert_eq!(pushed, ["https://example.com/v2/foo/a/tags/list"]);
}

#[test]
fn config_toml_comes_first_but_does_not_unblock() {
    let registries = Registries {
        hosts: hosts(&[
            ("docker.io", mirrors(&["own.example"])),
            ("r.example", http(false)),
        ])
        .hosts,
        namespaces: vec![
            Namespace {
                mirrors: vec![mirror("other.example")],
                ..namespace("docker.io")
            },
            Namespace {
                insecure: Some(true),
                ..namespace("r.example")
            },
            Namespace {
                blocked: true,
                ..namespace("docker.io/evil")
            },
            Namespace {
                location: Some("short.local".to_owned()),
                ..namespace("r.example/short")
            },
            Namespace {
                broken: Some("`insecure` is no boolean".to_owned()),
                ..namespace("docker.io/odd")
            },
        ],
        ..Registries::default()
    };
    assert_eq!(
        pulled(registries.clone(), "alpine"),
        [
            "https://own.example/v2/library/alpine/tags/list?ns=docker.io",
            "https://registry-1.docker.io/v2/library/alpine/tags/list"
        ]
    );
    assert_eq!(
        pulled(registries.clone(), "r.example/a"),
        ["https://r.example/v2/a/tags/list"]
    );
    let places = Places::new(registries);
    let error = places.to_pull(&"r.example/short".parse().unwrap());
    assert_eq!(
        error.unwrap_err().to_string(),
        "where to find `r.example/short` cannot be told from registries.conf:1: \
         `location = \"short.local\"` leaves no name of a repository"
    );
    for (name, want) in [
        (
            "evil/a:1",
            "`evil/a:1` may not be used: registries.conf:1 blocks `docker.io/evil`",
        ),
        (
            "odd/a",
            "where to find `odd/a` cannot be told from registries.conf:1: `insecure` is no boolean",
        ),
    ] {
        let reference = name.parse().unwrap();
        for asked in [places.to_pull(&reference), places.to_push(&reference)] {
            assert_eq!(asked.unwrap_err().to_string(), want);
        }
    }
}

#[test]
fn daemon_json_is_asked_last() {
    let registries = Registries {
        hub_mirrors: vec!["http://m.example:5000/".to_owned()],
        insecure: ["r.example:5000", "10.0.0.0/8", "fd00::/8"]
            .map(str::to_owned)
            .to_vec(),
        ..Registries::default()
    };
    for (name, want) in [
        (
            "alpine",
            vec![
                "http://m.example:5000/v2/library/alpine/tags/list",
                "https://registry-1.docker.io/v2/library/alpine/tags/list",
            ],
        ),
        (
            "r.example:5000/a",
            vec!["either https://r.example:5000/v2/a/tags/list"],
        ),
        ("r.example/a", vec!["https://r.example/v2/a/tags/list"]),
        (
            "10.1.2.3:80/a",
            vec!["either https://10.1.2.3:80/v2/a/tags/list"],
        ),
        (
            "[fd00::1]:80/a",
            vec!["either https://[fd00::1]:80/v2/a/tags/list"],
        ),
        ("11.1.2.3:80/a", vec!["https://11.1.2.3:80/v2/a/tags/list"]),
    ] {
        assert_eq!(pulled(registries.clone(), name), want, "{name}");
    }
}

#[test]
fn certificates_of_the_first_directory_that_knows_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for file in [
        "first/r.example:5000/b.crt",
        "first/r.example:5000/a.crt",
        "first/r.example:5000/client.cert",
        "first/r.example:5000/client.key",
        "first/r.example:5000/more.cert",
        "first/r.example:5000/more.key",
        "first/r.example:5000/README",
        "second/r.example:5000/c.crt",
        "second/localhost:5000/c.crt",
        "second/keyless:1/x.cert",
        "second/certless:1/x.key",
    ] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let own = RegistrySettings {
        ca: vec!["/own.pem".into()],
        ..RegistrySettings::default()
    };
    let by_dir = RegistrySettings {
        tls_dirs: vec![second.join("localhost:5000")],
        ..RegistrySettings::default()
    };
    let places = Places::new(Registries {
        certificates: vec![dir.path().join("none"), first.clone(), second.clone()],
        ..hosts(&[("own.example", own), ("dir.example", by_dir)])
    });
    let of = |name: &str| {
        let found = places.to_pull(&format!("{name}/a").parse().unwrap())?;
        Ok::<_, RegistryError>(found[0].clone())
    };
    let at = first.join("r.example:5000");
    let trust = of("r.example:5000").unwrap().trust;
    assert_eq!(trust.ca, [at.join("a.crt"), at.join("b.crt")]);
    let pair = trust.identity.unwrap();
    assert_eq!(pair.cert, at.join("client.cert"));
    assert_eq!(pair.key, at.join("client.key"));
    assert_eq!(of("r.example").unwrap().trust, Trust::default());
    let local = of("localhost:5000").unwrap();
    assert_eq!(local.scheme, Scheme::Tls);
    assert_eq!(of("dir.example").unwrap().trust, local.trust);
    assert_eq!(
        of("own.example").unwrap().trust.ca,
        [Path::new("/own.pem").to_owned()]
    );
    let second = second.display();
    for (name, want) in [
        (
            "keyless:1",
            format!("`{second}/keyless:1/x.cert` has no key `{second}/keyless:1/x.key` beside it"),
        ),
        (
            "certless:1",
            format!(
                "`{second}/certless:1/x.key` has no certificate `{second}/certless:1/x.cert` beside it"
            ),
        ),
    ] {
        assert_eq!(of(name).unwrap_err().to_string(), want);
    }
}
