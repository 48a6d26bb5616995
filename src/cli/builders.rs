//! `builders.toml`: builders by their names. It lies beside `config.toml`, and is another file because a command writes it,
//! which would lose what people write into theirs.
//!
//! ```toml
//! current = "farm"                  # what builds without `--builder` go to; this machine if nothing is said
//!
//! [[builder.farm]]
//! name = "farm0"
//! endpoint = "tcp://amd.example:1234,cacert=/etc/rbuild/ca.pem,cert=/etc/rbuild/me.pem,key=/etc/rbuild/me-key.pem"
//!
//! [[builder.farm]]
//! name = "farm1"
//! endpoint = "tcp://arm.example:1234,cacert=/etc/rbuild/ca.pem,cert=/etc/rbuild/me.pem,key=/etc/rbuild/me-key.pem"
//! platforms = ["linux/arm64"]       # else the daemon says what it is native to
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::suggest;
use rustix::fs::FlockOperation;
use serde::Deserialize;
use serde::Serialize;

use super::config;
use super::env::Env;
use super::values::invalid;
use super::values::problem;
use crate::request::Node;
use crate::request::Place;

/// This machine, as buildx calls what there is without a builder.
pub(super) const DEFAULT: &str = "default";

/// The file, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Builders {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) builder: BTreeMap<String, Vec<Named>>,
}

/// A node, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) platforms: Vec<Native>,
}

/// An address that can be used, as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Endpoint {
    pub(super) text: String,
    pub(super) place: Place,
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let place = text.parse();
        let place = place.map_err(|why| format!("`{text}` is no address of a builder: {why}"))?;
        Ok(Self { text, place })
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.text
    }
}

/// A platform in its text form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Native(pub(super) Platform);

impl TryFrom<String> for Native {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let platform = text.parse::<Platform>();
        platform.map(Self).map_err(|error| error.to_string())
    }
}

impl From<Native> for String {
    fn from(native: Native) -> Self {
        native.0.to_string()
    }
}

impl Named {
    pub(super) fn node(&self) -> Node {
        Node {
            name: self.name.clone(),
            place: self.endpoint.place.clone(),
            platforms: self.platforms.iter().map(|own| own.0.clone()).collect(),
        }
    }
}

impl Builders {
    /// Reads the file; without one there are none.
    pub(super) fn read(path: &Path) -> Result<Self, Diagnostic> {
        match fs::read_to_string(path) {
            Ok(text) => config::parse(&path.to_string_lossy(), text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(problem(format!(
                "cannot read `{}`: {error}",
                path.display()
            ))),
        }
    }

    /// The nodes of a builder.
    pub(super) fn nodes(&self, name: &str) -> Result<&[Named], Diagnostic> {
        let found = self.builder.get(name);
        found.map(Vec::as_slice).ok_or_else(|| self.unknown(name))
    }

    pub(super) fn unknown(&self, name: &str) -> Diagnostic {
        let problem = problem(format!("there is no builder `{name}`"));
        let names = || self.builder.keys().map(String::as_str);
        match suggest::nearest_name(name, names().chain([DEFAULT])) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None if self.builder.is_empty() => {
                problem.hint(format!("make one: `rbuild builder create {name} ADDRESS`"))
            }
            None => {
                let names: Vec<String> = names().map(|name| format!("`{name}`")).collect();
                problem.hint(format!("there are {}", names.join(", ")))
            }
        }
    }
}

/// Where the file is or would be.
pub(super) fn path(env: &Env) -> Option<PathBuf> {
    let dir = env.xdg("XDG_CONFIG_HOME", ".config")?;
    Some(dir.join("rbuild/builders.toml"))
}

/// The builder that a build goes to, with what it is called; `None` for this machine.
pub(super) fn chosen(
    flag: Option<&str>,
    env: &Env,
) -> Result<Option<(String, Vec<Node>)>, Diagnostic> {
    let read = || match path(env) {
        Some(path) => Builders::read(&path),
        None => Ok(Builders::default()),
    };
    let (builders, name) = match flag {
        Some(DEFAULT) => return Ok(None),
        Some(text) if text.contains("://") => {
            let place = text.parse();
            let place: Place = place.map_err(|why| invalid("builder", text, why))?;
            let name = place.to_string();
            let node = Node {
                name: name.clone(),
                place,
                platforms: Vec::new(),
            };
            return Ok(Some((name, vec![node])));
        }
        // An empty value is no value: scripts pass unset variables.
        None | Some("") => match read()? {
            Builders { current: None, .. } => return Ok(None),
            Builders {
                current: Some(name),
                builder,
            } => (
                Builders {
                    current: None,
                    builder,
                },
                name,
            ),
        },
        Some(name) => (read()?, name.to_owned()),
    };
    let nodes = builders.nodes(&name)?.iter().map(Named::node);
    let nodes: Vec<Node> = nodes.collect();
    match nodes.as_slice() {
        [] => Err(
            problem(format!("the builder `{name}` has no nodes")).hint(format!(
                "add one: `rbuild builder create {name} --append ADDRESS`"
            )),
        ),
        [only] if only.place == Place::Here => Ok(None),
        _ => Ok(Some((name, nodes))),
    }
}

/// Changes the file, which nobody else changes meanwhile. It may say where keys are, and is its owner's.
pub(super) fn change<T>(
    path: &Path,
    deed: impl FnOnce(&mut Builders) -> Result<T, Diagnostic>,
) -> Result<T, Diagnostic> {
    let failed = |error: io::Error| problem(format!("cannot write `{}`: {error}", path.display()));
    let dir = path.parent().unwrap_or(Path::new("."));
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(failed)?;
    let lock = File::open(dir).map_err(failed)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| failed(error.into()))?;
    let mut builders = Builders::read(path)?;
    let before = builders.clone();
    let done = deed(&mut builders)?;
    if builders == before {
        return Ok(done);
    }
    let text = toml::to_string(&builders).expect("strings and lists of them can be written");
    let write = || -> io::Result<()> {
        let mut aside = tempfile::Builder::new()
            .prefix(".builders-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(dir)?;
        aside.write_all(text.as_bytes())?;
        aside.as_file().sync_data()?;
        aside.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(failed)?;
    Ok(done)
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    const FILE: &str = r#"current = "farm"

[[builder.farm]]
name = "farm0"
endpoint = "tcp://amd.example:1234,cacert=/ca.pem"

[[builder.farm]]
name = "arm"
endpoint = "unix:///run/b.sock"
platforms = ["linux/arm64", "linux/arm/v7"]

[[builder.mine]]
name = "mine0"
endpoint = "local"
"#;

    fn env(dir: &Path, text: &str) -> Env {
        let path = dir.join("rbuild/builders.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        Env::of([("XDG_CONFIG_HOME", dir.to_str().unwrap())])
    }

    #[test]
    fn a_builder_is_named_or_current_or_addressed() {
        let dir = tempfile::tempdir().unwrap();
        let env = env(dir.path(), FILE);
        let names = |flag| {
            let chosen = chosen(flag, &env).unwrap();
            chosen.map(|(name, nodes)| {
                let nodes = nodes.into_iter().map(|node| node.name);
                (name, nodes.collect::<Vec<_>>().join(" "))
            })
        };
        let farm = Some(("farm".to_owned(), "farm0 arm".to_owned()));
        assert_eq!(names(Some("farm")), farm);
        assert_eq!(names(None), farm);
        assert_eq!(names(Some("")), farm);
        // This machine, by either name.
        assert_eq!(names(Some("default")), None);
        assert_eq!(names(Some("mine")), None);
        let address = "unix:///x.sock".to_owned();
        assert_eq!(
            names(Some(&address)),
            Some((address.clone(), address.clone()))
        );
        let (_, nodes) = chosen(Some("farm"), &env).unwrap().unwrap();
        let platforms = ["linux/arm64", "linux/arm/v7"];
        assert_eq!(nodes[1].platforms, platforms.map(|p| p.parse().unwrap()));
    }

    #[test]
    fn mistakes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for (file, flag) in [
            (FILE, Some("fram")),
            (FILE, Some("elsewhere")),
            (FILE, Some("ssh://x")),
            ("", Some("farm")),
            ("current = 'gone'", None),
            ("builder.empty = []", Some("empty")),
            (
                "[[builder.b]]\nname = 'x'\nendpoint = 'host:1'\n",
                Some("b"),
            ),
            (
                "[[builder.b]]\nname = 'x'\nendpoint = 'local'\nplatforms = ['pdp11/x/y/z']\n",
                Some("b"),
            ),
        ] {
            let env = env(dir.path(), file);
            let error = chosen(flag, &env).unwrap_err();
            let shown = crate::ui::render(&error, false);
            text += &shown.replace(dir.path().to_str().unwrap(), "DIR");
            text += "\n\n";
        }
        assert_data_eq!(
            text,
            str![[r#"
error: there is no builder `fram`
hint: did you mean `farm`?

error: there is no builder `elsewhere`
hint: there are `farm`, `mine`

error: `--builder ssh://x`: wanted `unix://PATH`, `tcp://HOST:PORT`, `docker-container://NAME`, `podman-container://NAME` or `docker://`

error: there is no builder `farm`
hint: make one: `rbuild builder create farm ADDRESS`

error: there is no builder `gone`
hint: make one: `rbuild builder create gone ADDRESS`

error: the builder `empty` has no nodes
hint: add one: `rbuild builder create empty --append ADDRESS`

error: `host:1` is no address of a builder: wanted `unix://PATH`, `tcp://HOST:PORT`, `docker-container://NAME`, `podman-container://NAME` or `docker://`
 --> DIR/rbuild/builders.toml:3:12
  |
3 | endpoint = 'host:1'
  |            ^^^^^^^^

error: `pdp11/x/y/z` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
 --> DIR/rbuild/builders.toml:4:13
  |
4 | platforms = ['pdp11/x/y/z']
  |             ^^^^^^^^^^^^^^^


"#]]
        );
    }

    #[test]
    fn the_file_is_written_whole_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rbuild/builders.toml");
        let farm: Builders = toml::from_str(FILE).unwrap();
        change(&path, |builders| {
            *builders = farm.clone();
            Ok(())
        })
        .unwrap();
        assert_eq!(Builders::read(&path).unwrap(), farm);
        assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Who refuses changes nothing.
        let refused = change(&path, |builders| {
            builders.builder.clear();
            Err::<(), _>(problem("no"))
        });
        assert!(refused.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
        let names = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1);
    }
}
