//! What podman and docker were told about registries: `registries.conf`, `daemon.json` and `certs.d`, beside what
//! `config.toml` says.
//!
//! These files are not ours. One that cannot be read by us is passed over; what is wrong in one is a remark, and an error
//! only when the names it is about are asked for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::env::Env;
use crate::request::MirrorPulls;
use crate::request::Namespace;
use crate::request::NamespaceMirror;
use crate::request::Registries;

/// `/etc`, elsewhere in tests.
const SYSTEM: &str = "/etc";

/// Adds what the files say to `registries`, and what is wrong with them to `remarks`.
pub(super) fn read(env: &Env, registries: &mut Registries, remarks: &mut Vec<String>) {
    read_below(Path::new(SYSTEM), env, registries, remarks);
}

fn read_below(system: &Path, env: &Env, registries: &mut Registries, remarks: &mut Vec<String>) {
    // podman looks below HOME only, docker's rootless daemon where XDG says.
    let podman = env.path("HOME").map(|home| home.join(".config/containers"));
    let docker = env.xdg("XDG_CONFIG_HOME", ".config");
    let docker = docker.map(|dir| dir.join("docker"));
    let (system_podman, system_docker) = (system.join("containers"), system.join("docker"));

    let mut tables = BTreeMap::new();
    for file in registries_conf(podman.as_deref(), &system_podman) {
        if let Some(text) = text_of(&file, remarks) {
            namespaces(&file, &text, &mut tables, remarks);
        }
    }
    registries.namespaces = tables.into_values().collect();

    for dir in docker.iter().chain([&system_docker]) {
        let file = dir.join("daemon.json");
        if let Some(text) = text_of(&file, remarks) {
            daemon(&file, &text, registries, remarks);
            break;
        }
    }

    let dirs = [podman, docker, Some(system_podman), Some(system_docker)];
    let dirs = dirs.into_iter().flatten().map(|dir| dir.join("certs.d"));
    registries.certificates = dirs.collect();
}

/// The files that say what `registries.conf` says, later ones overriding earlier ones (containers-registries.conf.d,
/// Configuration precedence).
fn registries_conf(user: Option<&Path>, system: &Path) -> Vec<PathBuf> {
    const NAME: &str = "registries.conf";
    let mut files = Vec::new();
    let own = user.map(|dir| dir.join(NAME)).filter(|file| file.is_file());
    match own {
        Some(file) => files.push(file),
        None => {
            files.push(system.join(NAME));
            files.extend(drop_ins(&system.join("registries.conf.d")));
        }
    }
    files.extend(
        user.into_iter()
            .flat_map(|dir| drop_ins(&dir.join("registries.conf.d"))),
    );
    files
}

fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "conf"))
        .collect();
    files.sort();
    files
}

/// A file's text; `None` if it is not there or not for us.
fn text_of(file: &Path, remarks: &mut Vec<String>) -> Option<String> {
    match fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) => {
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
            ) {
                remarks.push(format!("`{}` is passed over: {error}", file.display()));
            }
            None
        }
    }
}

/// `registries.conf`; what else is in it is podman's business.
#[derive(Deserialize)]
struct RegistriesConf {
    #[serde(default)]
    registry: Vec<Spanned<toml::Table>>,
    /// Of version 1, which podman takes no longer.
    registries: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    insecure: Option<bool>,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: Option<bool>,
    pull_from_mirror: Option<String>,
}

fn namespaces(
    file: &Path,
    text: &str,
    tables: &mut BTreeMap<String, Namespace>,
    remarks: &mut Vec<String>,
) {
    let place = |span: Range<usize>| {
        let line = text.as_bytes()[..span.start.min(text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        format!("`{}:{}`", file.display(), line + 1)
    };
    // Every build comes by here, and distributions put long lists of aliases beside the file.
    let of_registries = |line: &str| match line.strip_prefix('[') {
        Some(header) => header.contains("registr"),
        None => line.starts_with("registr"),
    };
    if !text.lines().map(str::trim_start).any(of_registries) {
        return;
    }
    let conf: RegistriesConf = match toml::from_str(text) {
        Ok(conf) => conf,
        Err(error) => {
            let place = place(error.span().unwrap_or(0..0));
            let why = error.message().replace('\n', ", ");
            remarks.push(format!("{place} is passed over with its file: {why}"));
            return;
        }
    };
    if let Some(old) = conf.registries {
        let place = place(old.span());
        remarks.push(format!(
            "{place} is passed over: version 1 of this file, `[registries]`, is known no longer; write `[[registry]]`"
        ));
    }
    for table in conf.registry {
        let place = place(table.span());
        let table = table.into_inner();
        let text_at = |key: &str| table.get(key).and_then(toml::Value::as_str);
        let prefix = text_at("prefix").or_else(|| text_at("location"));
        let prefix = prefix.unwrap_or_default().to_owned();
        let namespace = namespace(table, &place).unwrap_or_else(|why| {
            remarks.push(format!("{place} is passed over: {why}"));
            Namespace {
                prefix,
                location: None,
                insecure: None,
                blocked: false,
                mirrors: Vec::new(),
                place: place.clone(),
                broken: Some(why),
            }
        });
        if !namespace.prefix.is_empty() {
            tables.insert(namespace.prefix.clone(), namespace);
        }
    }
}

/// What a `[[registry]]` table says, or what is wrong with it.
fn namespace(table: toml::Table, place: &str) -> Result<Namespace, String> {
    let table: Table = toml::Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| error.message().replace('\n', ", "))?;
    let location = location("location", table.location)?;
    let prefix = self::location("prefix", table.prefix)?;
    let Some(prefix) = prefix.or_else(|| location.clone()) else {
        return Err("neither `prefix` nor `location` says what it is about".to_owned());
    };
    if prefix.contains('*') {
        let domain = prefix.strip_prefix("*.").unwrap_or("*");
        if domain.contains(['*', '/', ':']) {
            return Err(format!(
                "`{prefix}` is no prefix: `*` stands for subdomains, as in `*.example.com`"
            ));
        }
        if location.as_ref().is_some_and(|it| *it != prefix) {
            return Err(format!(
                "`location` cannot take the place of all of `{prefix}`"
            ));
        }
    }
    let mut mirrors = Vec::new();
    for mirror in table.mirror {
        let Some(location) = self::location("location", mirror.location)? else {
            return Err("a `mirror` has no `location`".to_owned());
        };
        let pulls = match mirror.pull_from_mirror.as_deref() {
            None | Some("") if table.mirror_by_digest_only => MirrorPulls::Digests,
            Some(_) if table.mirror_by_digest_only => {
                return Err(
                    "`pull-from-mirror` and `mirror-by-digest-only` exclude each other".to_owned(),
                );
            }
            None | Some("" | "all") => MirrorPulls::All,
            Some("digest-only") => MirrorPulls::Digests,
            Some("tag-only") => MirrorPulls::Tags,
            Some(other) => {
                return Err(format!(
                    "`pull-from-mirror` is `all`, `digest-only` or `tag-only`, not `{other}`"
                ));
            }
        };
        mirrors.push(NamespaceMirror {
            location,
            insecure: mirror.insecure,
            pulls,
        });
    }
    Ok(Namespace {
        location: location.filter(|it| *it != prefix),
        prefix,
        insecure: table.insecure,
        blocked: table.blocked,
        mirrors,
        place: place.to_owned(),
        broken: None,
    })
}

/// `host[:port][/path]`, without a scheme, tag or digest; `None` if it is empty.
fn location(key: &str, text: String) -> Result<Option<String>, String> {
    let text = text.trim_end_matches('/');
    let path = text.split_once('/').map_or("", |(_, path)| path);
    if text.contains("://") {
        return Err(format!(
            "`{key} = \"{text}\"` has a scheme, where a host comes first"
        ));
    }
    if path.contains([':', '@']) {
        return Err(format!(
            "`{key} = \"{text}\"` has a tag or digest, which is not supported here"
        ));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Takes two lists from `daemon.json`.
fn daemon(file: &Path, text: &str, registries: &mut Registries, remarks: &mut Vec<String>) {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Daemon {
        #[serde(default)]
        registry_mirrors: Vec<String>,
        #[serde(default)]
        insecure_registries: Vec<String>,
    }
    // dockerd starts with an empty file, too.
    if text.trim().is_empty() {
        return;
    }
    match serde_json::from_str::<Daemon>(text) {
        Ok(daemon) => {
            for mirror in daemon.registry_mirrors {
                let host = ["https://", "http://"]
                    .iter()
                    .find_map(|scheme| mirror.strip_prefix(scheme));
                if host.is_some_and(|host| !host.is_empty()) {
                    registries.hub_mirrors.push(mirror);
                } else {
                    remarks.push(format!(
                        "`{}`: the mirror `{mirror}` is passed over: it is not a URL such as `https://mirror.example.com`",
                        file.display()
                    ));
                }
            }
            registries.insecure = daemon.insecure_registries;
        }
        Err(error) => remarks.push(format!(
            "`{}:{}` is passed over with its file: {error}",
            file.display(),
            error.line()
        )),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// Reads files below a directory that stands for `/`; HOME is `home/me` in it.
    fn with(files: &[(&str, &str)]) -> (Registries, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = dir.path().to_str().unwrap();
        let mut env = Env::default();
        env.set("HOME", &format!("{root}/home/me"));
        let (mut registries, mut remarks) = (Registries::default(), Vec::new());
        read_below(&dir.path().join("etc"), &env, &mut registries, &mut remarks);
        let shown = |text: &str| text.replace(root, "");
        for namespace in &mut registries.namespaces {
            namespace.place = shown(&namespace.place);
        }
        for path in &mut registries.certificates {
            *path = shown(path.to_str().unwrap()).into();
        }
        (registries, remarks.iter().map(|it| shown(it)).collect())
    }

    fn prefixes(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let (registries, remarks) = with(files);
        assert_eq!(remarks, Vec::<String>::new());
        let namespaces = registries.namespaces.into_iter();
        namespaces.map(|it| (it.prefix, it.place)).collect()
    }

    const MINE: &str = "home/me/.config/containers/registries.conf";
    const MINE_D: &str = "home/me/.config/containers/registries.conf.d/a.conf";
    const SYSTEMS: &str = "etc/containers/registries.conf";
    const SYSTEMS_D: &str = "etc/containers/registries.conf.d/a.conf";

    #[test]
    fn no_files_say_nothing() {
        let (registries, remarks) = with(&[]);
        assert!(remarks.is_empty());
        let want = Registries {
            certificates: [
                "/home/me/.config/containers/certs.d",
                "/home/me/.config/docker/certs.d",
                "/etc/containers/certs.d",
                "/etc/docker/certs.d",
            ]
            .map(PathBuf::from)
            .to_vec(),
            ..Registries::default()
        };
        assert_eq!(registries, want);
    }

    #[test]
    fn a_table_with_everything() {
        let text = r#"
            unqualified-search-registries = ["example.com"]
            short-name-mode = "enforcing"
            [aliases]
            "x" = "example.com/x"
            [[registry]]
            prefix = "example.com/foo"
            insecure = false
            blocked = true
            location = "internal.example.net/bar"
            [[registry.mirror]]
            location = "mirror-0.local/foo/"
            [[registry.mirror]]
            location = "mirror-1.local"
            insecure = true
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "r.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "mirror-2.local"
        "#;
        let (registries, remarks) = with(&[(SYSTEMS, text)]);
        assert_eq!(remarks, Vec::<String>::new());
        let mirror = |location: &str, insecure, pulls| NamespaceMirror {
            location: location.to_owned(),
            insecure,
            pulls,
        };
        assert_eq!(
            registries.namespaces,
            [
                Namespace {
                    prefix: "example.com/foo".to_owned(),
                    location: Some("internal.example.net/bar".to_owned()),
                    insecure: Some(false),
                    blocked: true,
                    mirrors: vec![
                        mirror("mirror-0.local/foo", None, MirrorPulls::All),
                        mirror("mirror-1.local", Some(true), MirrorPulls::Tags),
                    ],
                    place: "`/etc/containers/registries.conf:6`".to_owned(),
                    broken: None,
                },
                Namespace {
                    prefix: "r.example".to_owned(),
                    location: None,
                    insecure: None,
                    blocked: false,
                    mirrors: vec![mirror("mirror-2.local", None, MirrorPulls::Digests)],
                    place: "`/etc/containers/registries.conf:17`".to_owned(),
                    broken: None,
                },
            ]
        );
    }

    // containers-registries.conf.d, Configuration precedence.
    #[test]
    fn files_override_each_other_as_podman_has_it() {
        let of = |name: &str| {
            format!("[[registry]]\nprefix = \"{name}\"\n[[registry]]\nprefix = \"all\"\n")
        };
        let (mine, mine_d) = (of("mine"), of("mine-d"));
        let (system, system_d) = (of("system"), of("system-d"));
        let all = [
            (SYSTEMS, system.as_str()),
            (SYSTEMS_D, &system_d),
            (MINE_D, &mine_d),
            (MINE, &mine),
        ];
        let pairs = |list: &[(&str, &str, u32)]| -> Vec<(String, String)> {
            let pair = |(prefix, file, line): &(&str, &str, u32)| {
                ((*prefix).to_owned(), format!("`/{file}:{line}`"))
            };
            list.iter().map(pair).collect()
        };
        assert_eq!(
            prefixes(&all[..1]),
            pairs(&[("all", SYSTEMS, 3), ("system", SYSTEMS, 1)])
        );
        assert_eq!(
            prefixes(&all[..3]),
            pairs(&[
                ("all", MINE_D, 3),
                ("mine-d", MINE_D, 1),
                ("system", SYSTEMS, 1),
                ("system-d", SYSTEMS_D, 1),
            ])
        );
        assert_eq!(
            prefixes(&all),
            pairs(&[("all", MINE_D, 3), ("mine", MINE, 1), ("mine-d", MINE_D, 1)])
        );
    }

    #[test]
    fn files_without_registries_are_not_looked_into() {
        for text in [
            "[aliases]\n'x' = 'registry.example/x'\n",
            "# [[registry]]\n= wrong\n",
        ] {
            let (registries, remarks) = with(&[(SYSTEMS, text)]);
            assert_eq!(
                (registries.namespaces.len(), remarks.len()),
                (0, 0),
                "{text}"
            );
        }
    }

    #[test]
    fn mistakes_are_remarks_that_name_the_line() {
        for (text, remark, about) in [
            (
                "\n[[registry]\n",
                "`/etc/containers/registries.conf:2` is passed over with its file: ",
                None,
            ),
            (
                "[registries.search]\nregistries = ['x']\n",
                "`/etc/containers/registries.conf:1` is passed over: version 1 of this file, `[registries]`, is known no \
                 longer; write `[[registry]]`",
                None,
            ),
            (
                "[[registry]]\nprefix = 'x.example'\ninsecure = 'yes'\n",
                "`/etc/containers/registries.conf:1` is passed over: invalid type: string \"yes\", expected a boolean",
                Some("x.example"),
            ),
            (
                "[[registry]]\nlocation = 'https://x.example'\n",
                "`/etc/containers/registries.conf:1` is passed over: `location = \"https://x.example\"` has a scheme, where \
                 a host comes first",
                Some("https://x.example"),
            ),
            (
                "[[registry]]\nprefix = 'x.example/a:1'\n",
                "`/etc/containers/registries.conf:1` is passed over: `prefix = \"x.example/a:1\"` has a tag or digest, \
                 which is not supported here",
                Some("x.example/a:1"),
            ),
            (
                "[[registry]]\nblocked = true\n",
                "`/etc/containers/registries.conf:1` is passed over: neither `prefix` nor `location` says what it is about",
                None,
            ),
            (
                "[[registry]]\nprefix = 'x.*.example'\n",
                "`/etc/containers/registries.conf:1` is passed over: `x.*.example` is no prefix: `*` stands for \
                 subdomains, as in `*.example.com`",
                Some("x.*.example"),
            ),
            (
                "[[registry]]\nprefix = '*.example'\nlocation = 'x'\n",
                "`/etc/containers/registries.conf:1` is passed over: `location` cannot take the place of all of `*.example`",
                Some("*.example"),
            ),
            (
                "[[registry]]\nprefix = 'x'\n[[registry.mirror]]\nlocation = 'm'\npull-from-mirror = 'never'\n",
                "`/etc/containers/registries.conf:1` is passed over: `pull-from-mirror` is `all`, `digest-only` or \
                 `tag-only`, not `never`",
                Some("x"),
            ),
        ] {
            let (registries, remarks) = with(&[(SYSTEMS, text)]);
            assert_eq!(remarks.len(), 1, "{text}");
            assert!(remarks[0].starts_with(remark), "{}", remarks[0]);
            let broken = registries.namespaces.first();
            assert_eq!(broken.map(|it| it.prefix.as_str()), about, "{text}");
            assert!(broken.is_none_or(|it| it.broken.is_some()), "{text}");
        }
    }

    #[test]
    fn lists_of_daemon_json() {
        const MINE: &str = "home/me/.config/docker/daemon.json";
        const SYSTEMS: &str = "etc/docker/daemon.json";
        let system = r#"{"registry-mirrors": ["https://m.example", "m.example"], "insecure-registries": ["r:5000", "10.0.0.0/8"], "debug": true}"#;
        let (registries, remarks) = with(&[(SYSTEMS, system)]);
        assert_eq!(registries.hub_mirrors, ["https://m.example"]);
        assert_eq!(registries.insecure, ["r:5000", "10.0.0.0/8"]);
        assert_eq!(
            remarks,
            [
                "`/etc/docker/daemon.json`: the mirror `m.example` is passed over: it is not a URL such as \
                 `https://mirror.example.com`"
            ]
        );
        let (registries, remarks) = with(&[(SYSTEMS, system), (MINE, "\n")]);
        assert!(registries.hub_mirrors.is_empty() && remarks.is_empty());
        let (_, remarks) = with(&[(SYSTEMS, "{\n\"registry-mirrors\": 3}")]);
        assert_eq!(
            remarks,
            [
                "`/etc/docker/daemon.json:2` is passed over with its file: invalid type: integer `3`, expected a sequence \
                 at line 2 column 21"
            ]
        );
    }
}
