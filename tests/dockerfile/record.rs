//! Recording expectations: the same cases, built by a BuildKit.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

use super::case;
use super::case::Case;
use super::image::Reader;
use crate::support::tools;

/// A running buildkitd, and the registry it takes for docker.io.
pub(crate) struct Recorder {
    address: String,
    registry: String,
    /// Also what was recorded before.
    all: bool,
}

/// Whether our own diagnostics are to be written anew.
pub(crate) fn overwrites() -> bool {
    tools::variable("SNAPSHOTS").is_some_and(|action| action.as_os_str() == "overwrite")
}

impl Recorder {
    /// The one that the environment names, if this run is to record.
    pub(crate) fn wanted() -> Option<Self> {
        let text =
            |name| tools::variable(name).map(|value| value.into_os_string().into_string().unwrap());
        Some(Self {
            address: text("RECORD_BUILDKIT")?,
            registry: text("RECORD_REGISTRY").expect("RECORD_REGISTRY is not set"),
            all: text("RECORD_ALL").is_some(),
        })
    }

    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// Writes `image.txt` or `error.txt` of a case.
    pub(crate) fn record(&self, case: &Case, reader: &Reader, scratch: &Path) {
        if case.expected().is_some() && !self.all {
            return;
        }
        let place = scratch.join("record").join(&case.name);
        case.lay_out(&place);
        let archive = place.join("out.tar");
        let output = Command::new("buildctl")
            .args(["--addr", &self.address, "build", "--progress=rawjson"])
            .args(["--frontend", "dockerfile.v0"])
            .arg(local("context", &place.join("ctx")))
            .arg(local("dockerfile", &place.join("df")))
            .args(self.arguments(case, &place))
            .arg("--output")
            .arg(format!(
                "type=oci,compression=uncompressed,dest={}",
                archive.display()
            ))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        for name in ["image.txt", "error.txt"] {
            drop(fs::remove_file(case.dir.join(name)));
        }
        if output.status.success() {
            let text = reader.describe(&archive, &case.times()) + &case::warnings(&stderr);
            fs::write(case.dir.join("image.txt"), text).unwrap();
        } else {
            let error = stderr
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("error: "))
                .unwrap_or_else(|| panic!("{}: {stderr}", case.name));
            let error = without_chance(error);
            fs::write(case.dir.join("error.txt"), format!("{error}\n")).unwrap();
        }
    }

    fn arguments(&self, case: &Case, place: &Path) -> Vec<OsString> {
        case.arguments(|key, name, value| {
            let option = |option: String| vec!["--opt".into(), option.into()];
            match (key, name) {
                ("build-arg" | "label", Some(name)) => option(format!("{key}:{name}={value}")),
                ("target" | "platform", None) => option(format!("{key}={value}")),
                ("network", None) => option(format!("force-network-mode={value}")),
                ("add-host", Some(host)) => option(format!("add-hosts={host}={value}")),
                ("allow", None) => vec!["--allow".into(), value.into()],
                ("times", None) => Vec::new(),
                ("secret", Some(id)) => {
                    let file = place.join(id);
                    vec![
                        "--secret".into(),
                        format!("id={id},src={}", file.display()).into(),
                    ]
                }
                ("context", Some(name)) => {
                    let mut arguments = option(format!("context:{name}=local:{name}"));
                    arguments.push(local(name, &place.join("ctx").join(value)));
                    arguments
                }
                ("context-image", Some(name)) => {
                    option(format!("context:{name}=docker-image://{value}"))
                }
                _ => panic!("{}: option `{key}`", case.name),
            }
        })
    }
}

/// Names that BuildKit makes up for each build, and the places of this machine, as `…`.
fn without_chance(error: &str) -> String {
    let places = [
        r"ref [a-z0-9]+::[a-z0-9]+",
        r"/\S*/cachemounts/buildkit[0-9]+",
        r"/\S*/record/\S*/ctx",
    ];
    places.iter().fold(error.to_owned(), |text, place| {
        let place = Regex::new(place).unwrap();
        place.replace_all(&text, "…").into_owned()
    })
}

fn local(name: &str, dir: &Path) -> OsString {
    format!("--local={name}={}", dir.display()).into()
}
