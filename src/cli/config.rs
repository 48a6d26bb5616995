//! `config.toml`, and how it is merged with flags and environment into [`Settings`]: a flag beats the environment,
//! the environment beats the file.
//!
//! ```toml
//! root = "/var/cache/rbuild"
//! ca = "/etc/ssl/company.pem"
//! tag-max-age = "24h"
//! min-rung = 1                        # of steps: 1, or 2 for what is the weakest
//! isolation = "chroot"                # how steps are kept apart, where namespaces are refused
//! stacker = "link"                    # how layers become the root of a step: "overlay" or "link"; else what works
//! nested-namespaces = false           # whether steps may make user namespaces; true if nothing is said
//! keep-failed = "never"               # which failed steps `rbuild shell` finds: "auto", "always" or "never"
//!
//! [emulator]                          # of other architectures; else QEMU's in PATH
//! arm64 = "/opt/qemu/qemu-aarch64"
//!
//! [gc]                                # what is removed after builds; the names are BuildKit's
//! enabled = true
//! reserved-space = "10%"              # of the disk; or "10GB", or bytes
//! max-used-space = "75%"
//! min-free-space = "20%"
//! keep-duration = "1440h"
//!
//! [registry."docker.io"]              # BuildKit's table
//! mirrors = ["mirror.example.org"]
//! ```
//!
//! `docs/config.md` has all keys.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeOwned;
use serde::de::Error as _;

use super::env::Env;
use super::flags::GlobalFlags;
use super::proxies;
use super::registries;
use super::values;
use super::values::problem;
use crate::registry::DOCKER_AUTH;
use crate::request::Emulators;
use crate::request::GcSettings;
use crate::request::Isolation;
use crate::request::KeepFailed;
use crate::request::KeyPair;
use crate::request::Registries;
use crate::request::RegistrySettings;
use crate::request::Secret;
use crate::request::Settings;
use crate::request::Space;
use crate::request::Stacker;

/// Seconds a tag's pinned digest is used without asking again.
const TAG_MAX_AGE: u64 = 24 * 3600;

/// The file, as it is written.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    root: Option<PathBuf>,
    ca: Option<PathBuf>,
    tag_max_age: Option<MaxAge>,
    min_rung: Option<Rung>,
    isolation: Option<String>,
    stacker: Option<StackerName>,
    nested_namespaces: Option<bool>,
    keep_failed: Option<KeepName>,
    #[serde(default)]
    emulator: BTreeMap<String, PathBuf>,
    #[serde(default)]
    gc: Gc,
    #[serde(default)]
    registry: BTreeMap<String, Registry>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Gc {
    enabled: Option<bool>,
    reserved_space: Option<Size>,
    max_used_space: Option<Size>,
    min_free_space: Option<Size>,
    keep_duration: Option<MaxAge>,
}

/// A rung of the ladder on which steps run.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "u8")]
struct Rung(u8);

impl TryFrom<u8> for Rung {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 | 2 => Ok(Self(number)),
            other => Err(format!("steps run on rung 1 or 2, not {other}")),
        }
    }
}

/// How layers become the root of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StackerName {
    /// Mounted on each other by overlayfs
    Overlay,
    /// Copied into one directory, which is compared with what it was when the step has ended
    Link,
}

impl From<StackerName> for Stacker {
    fn from(name: StackerName) -> Self {
        match name {
            StackerName::Overlay => Self::Overlay,
            StackerName::Link => Self::Link,
        }
    }
}

/// Which steps that fail are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeepName {
    /// Those that were given no secrets
    Auto,
    /// All, whatever they may have written down
    Always,
    /// None
    Never,
}

impl From<KeepName> for KeepFailed {
    fn from(name: KeepName) -> Self {
        match name {
            KeepName::Auto => Self::Auto,
            KeepName::Always => Self::Always,
            KeepName::Never => Self::Never,
        }
    }
}

/// A size, as a string or in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
struct Size(Space);

impl TryFrom<toml::Value> for Size {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => text.parse().map(Self),
            toml::Value::Integer(bytes) if bytes >= 0 => {
                Ok(Self(Space::Bytes(bytes.unsigned_abs())))
            }
            other => Err(format!(
                "`{other}` is not a size such as \"10GB\" or \"20%\""
            )),
        }
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    #[serde(default)]
    mirrors: Vec<String>,
    http: Option<bool>,
    insecure: Option<bool>,
    #[serde(default)]
    ca: Vec<PathBuf>,
    #[serde(default, deserialize_with = "one_pair")]
    keypair: Option<Pair>,
    #[serde(default, rename = "tlsconfigdir")]
    tls_dirs: Vec<PathBuf>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    key: PathBuf,
    cert: PathBuf,
}

/// BuildKit has a list of pairs, of which a connection can show one.
fn one_pair<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Pair>, D::Error> {
    let mut pairs = Vec::<Pair>::deserialize(input)?;
    match pairs.len() {
        0 | 1 => Ok(pairs.pop()),
        n => Err(D::Error::custom(format!(
            "a registry is shown one `keypair`, and these are {n}"
        ))),
    }
}

/// A duration, as a string or in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
struct MaxAge(u64);

impl TryFrom<toml::Value> for MaxAge {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => values::duration(&text).map(Self),
            toml::Value::Integer(seconds) if seconds >= 0 => Ok(Self(seconds.unsigned_abs())),
            other => Err(format!("`{other}` is not a duration such as \"24h\" or 0")),
        }
    }
}

/// The settings, and remarks on how they came about.
pub(crate) fn settings(
    flags: &GlobalFlags,
    env: &Env,
) -> Result<(Settings, Vec<String>), Diagnostic> {
    let config = match env.xdg("XDG_CONFIG_HOME", ".config") {
        Some(dir) => read(&dir.join("rbuild/config.toml"))?,
        None => Config::default(),
    };
    let mut remarks = Vec::new();
    let chosen = flags
        .root
        .clone()
        .or_else(|| env.path("RBUILD_ROOT"))
        .or(config.root);
    let root = match chosen {
        Some(root) => root,
        None => default_root(env, &mut remarks),
    };
    // Steps are started elsewhere than in the working directory.
    let root = std::path::absolute(&root).unwrap_or(root);
    let hosts = config.registry.into_iter().map(|(host, registry)| {
        let settings = RegistrySettings {
            mirrors: registry.mirrors,
            http: registry.http,
            insecure: registry.insecure,
            ca: registry.ca,
            keypair: registry.keypair.map(|pair| KeyPair {
                cert: pair.cert,
                key: pair.key,
            }),
            tls_dirs: registry.tls_dirs,
        };
        (host, settings)
    });
    let mut registries = Registries {
        hosts: hosts.collect(),
        ..Registries::default()
    };
    registries::read(env, &mut registries, &mut remarks);
    let settings = Settings {
        root,
        temp_dir: env.path("TMPDIR").unwrap_or_else(|| "/tmp".into()),
        registries,
        docker_config: proxies::docker_config(env).filter(|file| file.exists()),
        docker_auth: env.text(DOCKER_AUTH).map(|text| Secret(text.into_bytes())),
        ca: flags.ca.clone().or(config.ca),
        isolation: isolation(
            flags
                .isolation
                .clone()
                .or_else(|| env.text("RBUILD_ISOLATION"))
                .or(config.isolation),
        )?,
        nested_namespaces: flags
            .nested_namespaces
            .or(config.nested_namespaces)
            .unwrap_or(true),
        stacker: stacker(flags, env)?.or(config.stacker).map(Stacker::from),
        keep_failed: config
            .keep_failed
            .map_or_else(KeepFailed::default, KeepFailed::from),
        tag_max_age: config.tag_max_age.map_or(TAG_MAX_AGE, |age| age.0),
        ranges_only: flags.min_rung.or(config.min_rung.map(|rung| rung.0)) == Some(1),
        proxies: proxies::of_environment(env),
        emulators: emulators(flags, config.emulator, env)?,
        gc: GcSettings {
            enabled: config.gc.enabled.unwrap_or(true),
            reserved_space: config.gc.reserved_space.map(|size| size.0),
            max_used_space: config.gc.max_used_space.map(|size| size.0),
            min_free_space: config.gc.min_free_space.map(|size| size.0),
            keep_duration: config.gc.keep_duration.map(|age| age.0),
        },
    };
    Ok((settings, remarks))
}

/// docker has the flag as well, with names for other systems.
fn isolation(name: Option<String>) -> Result<Isolation, Diagnostic> {
    match name.as_deref() {
        None | Some("" | "default") => Ok(Isolation::Namespaces),
        Some("chroot") => Ok(Isolation::Chroot),
        Some(name) => Err(
            problem(format!("`{name}` is no way to isolate steps")).hint(
                "there are `default`, in namespaces, and `chroot`, for root in a container that refuses them",
            ),
        ),
    }
}

/// Those of the file, and those of the command line in their place.
fn emulators(
    flags: &GlobalFlags,
    configured: BTreeMap<String, PathBuf>,
    env: &Env,
) -> Result<Emulators, Diagnostic> {
    let flagged = flags.emulator.iter().map(|text| {
        let (arch, file) = text.split_once('=').unwrap_or((text, ""));
        match file.is_empty() {
            true => Err(problem(format!(
                "`--emulator {text}`: wanted `ARCH=FILE`, such as `arm64=/usr/bin/qemu-aarch64-static`"
            ))),
            false => Ok((arch.to_owned(), PathBuf::from(file))),
        }
    });
    let mut chosen = BTreeMap::new();
    for named in configured.into_iter().map(Ok).chain(flagged) {
        let (arch, file) = named?;
        // With all its spellings.
        let platform: Platform = match arch.contains('/') {
            false => arch.parse().ok(),
            true => None,
        }
        .ok_or_else(|| {
            problem(format!(
                "`{arch}` is not an architecture that an emulator is for"
            ))
            .hint(
                "images name them as Go does: `arm64`, `arm`, `riscv64`, `s390x`, `ppc64le`, `386`",
            )
        })?;
        chosen.insert(platform.arch.into_owned(), file);
    }
    let path = env.get("PATH").map(std::env::split_paths);
    Ok(Emulators {
        chosen,
        path: path.into_iter().flatten().collect(),
    })
}

/// What the command line asks for, or else the environment.
fn stacker(flags: &GlobalFlags, env: &Env) -> Result<Option<StackerName>, Diagnostic> {
    let Some(name) = env
        .text("RBUILD_STACKER")
        .filter(|_| flags.stacker.is_none())
    else {
        return Ok(flags.stacker);
    };
    let known = clap::ValueEnum::from_str(&name, false);
    known.map(Some).map_err(|_| {
        problem(format!(
            "`RBUILD_STACKER={name}`: there are the stackers `overlay` and `link`"
        ))
    })
}

fn read(path: &Path) -> Result<Config, Diagnostic> {
    let shown = path.to_string_lossy();
    match fs::read_to_string(path) {
        Ok(text) => parse(&shown, text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(problem(format!("cannot read `{shown}`: {error}"))),
    }
}

/// Reads a file of ours.
pub(super) fn parse<T: DeserializeOwned>(name: &str, text: String) -> Result<T, Diagnostic> {
    toml::from_str(&text).map_err(|error| {
        let file = Arc::new(SourceFile {
            name: name.to_owned(),
            text,
            language: "TOML",
        });
        let span = Span::new(&file, error.span().unwrap_or(0..0));
        let message = error.message().replace('\n', ", ");
        match message.split_once(", expected ") {
            Some((what, wanted)) if what.starts_with("unknown") => {
                Diagnostic::error(what, span, "").hint(format!("expected {wanted}"))
            }
            _ => Diagnostic::error(message, span, ""),
        }
    })
}

/// `$XDG_DATA_HOME/rbuild`, unless that is on NFS, where neither locks nor overlays work as they should.
fn default_root(env: &Env, remarks: &mut Vec<String>) -> PathBuf {
    let private = || {
        let uid = rustix::process::geteuid().as_raw();
        PathBuf::from(format!("/var/tmp/rbuild-{uid}"))
    };
    match env.xdg("XDG_DATA_HOME", ".local/share") {
        Some(data) if is_on_nfs(&data) => {
            let root = private();
            remarks.push(format!(
                "`{}` is on NFS: using `{}` (set RBUILD_ROOT to choose another place)",
                data.display(),
                root.display()
            ));
            root
        }
        Some(data) => data.join("rbuild"),
        None => {
            let root = private();
            remarks.push(format!(
                "HOME is not set: using `{}` (set RBUILD_ROOT to choose another place)",
                root.display()
            ));
            root
        }
    }
}

/// Looks at the closest directory above that exists.
fn is_on_nfs(path: &Path) -> bool {
    // linux/magic.h, NFS_SUPER_MAGIC.
    const NFS: i128 = 0x6969;
    path.ancestors()
        .find_map(|dir| rustix::fs::statfs(dir).ok())
        .is_some_and(|fs| i128::from(fs.f_type) == NFS)
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn with_config(text: &str, vars: &[(&str, &str)], flags: &GlobalFlags) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rbuild")).unwrap();
        fs::write(dir.path().join("rbuild/config.toml"), text).unwrap();
        let mut env = Env::of([("HOME", "/home/me")]);
        env.set("XDG_CONFIG_HOME", dir.path().to_str().unwrap());
        for (name, value) in vars {
            env.set(name, value);
        }
        settings(flags, &env).unwrap().0
    }

    #[test]
    fn flag_beats_environment_beats_file() {
        let file = "root = '/file'\nca = '/file.pem'\ntag-max-age = 0\nmin-rung = 1\nnested-namespaces = false\n";
        let plain = with_config(file, &[], &GlobalFlags::default());
        assert_eq!(
            (plain.root, plain.ca, plain.tag_max_age, plain.ranges_only),
            ("/file".into(), Some("/file.pem".into()), 0, true)
        );
        let env = [("RBUILD_ROOT", "/env")];
        assert_eq!(
            with_config(file, &env, &GlobalFlags::default()).root,
            Path::new("/env")
        );
        let flags = GlobalFlags {
            root: Some("/flag".into()),
            ca: Some("/flag.pem".into()),
            min_rung: Some(2),
            nested_namespaces: Some(true),
            isolation: Some("chroot".into()),
            stacker: Some(StackerName::Overlay),
            emulator: Vec::new(),
            debug: false,
        };
        let flagged = with_config(file, &env, &flags);
        assert_eq!(
            (flagged.root, flagged.ca, flagged.stacker),
            (
                "/flag".into(),
                Some("/flag.pem".into()),
                Some(Stacker::Overlay)
            )
        );
        assert_eq!(flagged.isolation, Isolation::Chroot);
        let refused = isolation(Some("hyperv".into())).unwrap_err();
        assert_eq!(refused.message, "`hyperv` is no way to isolate steps");
        let file = "stacker = 'link'";
        let stacker = |vars: &[_]| with_config(file, vars, &GlobalFlags::default()).stacker;
        assert_eq!(stacker(&[]), Some(Stacker::Link));
        assert_eq!(
            stacker(&[("RBUILD_STACKER", "overlay")]),
            Some(Stacker::Overlay)
        );
        let nothing = with_config("", &[("TMPDIR", "/scratch")], &GlobalFlags::default());
        assert_eq!(nothing.root, Path::new("/home/me/.local/share/rbuild"));
        assert_eq!(
            (nothing.temp_dir, nothing.tag_max_age, nothing.ranges_only),
            ("/scratch".into(), 86_400, false)
        );
    }

    #[test]
    fn buildkits_registry_table() {
        let text = r#"
            tag-max-age = "1h"
            [registry."docker.io"]
            mirrors = ["mirror.example.org", "localhost:5000/cache"]
            [registry."registry.example.org:5000"]
            http = true
            insecure = true
            ca = ["/ca.pem"]
            tlsconfigdir = ["/certs"]
            [[registry."registry.example.org:5000".keypair]]
            key = "/key.pem"
            cert = "/cert.pem"
        "#;
        let settings = with_config(text, &[], &GlobalFlags::default());
        assert_eq!(settings.tag_max_age, 3600);
        assert_eq!(
            settings.registries.hosts["docker.io"].mirrors,
            ["mirror.example.org", "localhost:5000/cache"]
        );
        assert_eq!(
            settings.registries.hosts["registry.example.org:5000"],
            RegistrySettings {
                mirrors: Vec::new(),
                http: Some(true),
                insecure: Some(true),
                ca: vec!["/ca.pem".into()],
                keypair: Some(KeyPair {
                    cert: "/cert.pem".into(),
                    key: "/key.pem".into(),
                }),
                tls_dirs: vec!["/certs".into()],
            }
        );
    }

    #[test]
    fn emulators_have_every_spelling_of_their_architecture() {
        let file = "[emulator]\naarch64 = '/file/arm64'\n'riscv64' = '/file/riscv64'\n";
        let flags = |emulators: &[&str]| GlobalFlags {
            emulator: emulators.iter().map(|text| (*text).to_owned()).collect(),
            ..GlobalFlags::default()
        };
        let env = [("PATH", "/a:/b")];
        let found =
            with_config(file, &env, &flags(&["arm64=/flag=1", "armhf=/flag/arm"])).emulators;
        let chosen = [
            ("arm", "/flag/arm"),
            ("arm64", "/flag=1"),
            ("riscv64", "/file/riscv64"),
        ];
        let chosen = chosen.map(|(arch, file)| (arch.to_owned(), PathBuf::from(file)));
        assert_eq!(found.chosen, chosen.into());
        assert_eq!(found.path, [PathBuf::from("/a"), PathBuf::from("/b")]);
        for (text, message) in [
            (
                "arm64",
                "`--emulator arm64`: wanted `ARCH=FILE`, such as `arm64=/usr/bin/qemu-aarch64-static`",
            ),
            (
                "linux/arm64=/x",
                "`linux/arm64` is not an architecture that an emulator is for",
            ),
            (
                "vax=/x",
                "`vax` is not an architecture that an emulator is for",
            ),
        ] {
            let refused = settings(&flags(&[text]), &Env::default()).unwrap_err();
            assert_eq!(refused.message, message);
        }
    }

    #[test]
    fn what_is_removed_by_itself() {
        let text = "[gc]\nreserved-space = '1.5g'\nmax-used-space = '60%'\nmin-free-space = 1000\nkeep-duration = '48h'\n";
        assert_eq!(
            with_config(text, &[], &GlobalFlags::default()).gc,
            GcSettings {
                enabled: true,
                reserved_space: Some(Space::Bytes(3 << 29)),
                max_used_space: Some(Space::Percent(60)),
                min_free_space: Some(Space::Bytes(1000)),
                keep_duration: Some(48 * 3600),
            }
        );
        let off = with_config("[gc]\nenabled = false\n", &[], &GlobalFlags::default());
        assert!(!off.gc.enabled);
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let texts = [
            "rooot = 'x'\n",
            "[registry.'docker.io']\nmirror = 'x'\n",
            "[[registry.x.keypair]]\nkey = 'k'\n",
            "[[registry.x.keypair]]\nkey = 'k'\ncert = 'c'\n[[registry.x.keypair]]\nkey = 'k'\ncert = 'c'\n",
            "tag-max-age = 'soon'\n",
            "tag-max-age = -1\n",
            "[gc]\nmax-used-space = 'much'\n",
            "root = 3\n",
            "root = \n",
        ];
        let rendered: String = texts
            .iter()
            .map(|text| {
                let error = parse::<Config>("config.toml", (*text).to_owned()).unwrap_err();
                crate::ui::render(&error, false) + "\n\n"
            })
            .collect();
        assert_data_eq!(
            rendered,
            str![[r#"
error: unknown field `rooot`
 --> config.toml:1:1
  |
1 | rooot = 'x'
  | ^^^^^
  |
hint: expected one of `root`, `ca`, `tag-max-age`, `min-rung`, `isolation`, `stacker`, `nested-namespaces`, `keep-failed`, `emulator`, `gc`, `registry`

error: unknown field `mirror`
 --> config.toml:2:1
  |
2 | mirror = 'x'
  | ^^^^^^
  |
hint: expected one of `mirrors`, `http`, `insecure`, `ca`, `keypair`, `tlsconfigdir`

error: missing field `cert`
 --> config.toml:1:1
  |
1 | [[registry.x.keypair]]
  | ^^^^^^^^^^^^^^^^^^^^^^

error: a registry is shown one `keypair`, and these are 2
 --> config.toml:1:1
  |
1 | [[registry.x.keypair]]
  | ^^^^^^^^^^^^^^^^^^^^^^

error: `soon` is not a duration such as `24h`, `90m` or `0`
 --> config.toml:1:15
  |
1 | tag-max-age = 'soon'
  |               ^^^^^^

error: `-1` is not a duration such as "24h" or 0
 --> config.toml:1:15
  |
1 | tag-max-age = -1
  |               ^^

error: `much` is not a size such as `10GB`, `512MB` or `20%`
 --> config.toml:2:18
  |
2 | max-used-space = 'much'
  |                  ^^^^^^

error: invalid type: integer `3`, expected path string
 --> config.toml:1:8
  |
1 | root = 3
  |        ^

error: string values must be quoted, expected literal string
 --> config.toml:1:8
  |
1 | root = 
  |        ^


"#]]
        );
    }
}
