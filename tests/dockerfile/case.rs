//! One case: its files, its options, and how it is checked.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use regex::Regex;
use serde_json::Value;

use super::entries;
use super::image::Reader;
use super::image::Times;
use super::record;
use crate::support::Output;
use crate::support::TestEnv;

/// How a case is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way<'a> {
    /// With what other cases left in the store.
    Cold,
    /// A second time: no step may run.
    Cached,
    /// With `--no-cache`.
    NoCache,
    /// By the builder of this address.
    There(&'a str),
}

/// A directory of the corpus.
pub(crate) struct Case {
    /// Its path below `cases`, for messages.
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// `key=value` lines of `options`.
    options: Vec<(String, String)>,
}

impl Case {
    /// All cases below a directory, sorted.
    pub(crate) fn all(root: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        for topic in sorted(root) {
            for dir in sorted(&topic) {
                let options = fs::read_to_string(dir.join("options")).unwrap_or_default();
                let options = options.lines().map(|line| {
                    let (key, value) = line.split_once('=').unwrap_or((line, ""));
                    (key.to_owned(), value.to_owned())
                });
                found.push(Self {
                    name: dir.strip_prefix(root).unwrap().display().to_string(),
                    options: options.collect(),
                    dir,
                });
            }
        }
        found
    }

    /// What BuildKit said of the case, if it was recorded: the image, or why there is none.
    pub(crate) fn expected(&self) -> Option<Result<String, String>> {
        let read = |name| fs::read_to_string(self.dir.join(name)).ok();
        read("image.txt")
            .map(Ok)
            .or_else(|| read("error.txt").map(Err))
    }

    /// Which times are part of what is compared: of files, if the options say so, and in the config, if the build
    /// sets them.
    pub(crate) fn times(&self) -> Times {
        let has = |name| self.options.iter().any(|(key, _)| key == name);
        Times {
            files: has("times"),
            config: has("build-arg:SOURCE_DATE_EPOCH"),
        }
    }

    /// When the files of the context were modified. BuildKit takes a file of the same name, size and time for the one it
    /// knows from another build, so each case has a time of its own.
    fn time(&self) -> u64 {
        let hash = self.name.bytes().fold(0_u64, |hash, byte| {
            hash.wrapping_mul(1_000_003).wrapping_add(byte.into())
        });
        1_000_000_000 + hash % 500_000_000
    }

    /// Makes the context and the Dockerfile in a directory: `ctx` and `df/Dockerfile`.
    pub(crate) fn lay_out(&self, place: &Path) {
        let (context, file) = (place.join("ctx"), place.join("df"));
        fs::create_dir_all(&context).unwrap();
        fs::create_dir_all(&file).unwrap();
        for name in ["Dockerfile", "Dockerfile.dockerignore"] {
            if let Ok(bytes) = fs::read(self.dir.join(name)) {
                fs::write(file.join(name), bytes).unwrap();
            }
        }
        let files = self.dir.join("context");
        if files.exists() {
            copy(&files, &context);
        }
        let setup = fs::read_to_string(self.dir.join("setup")).unwrap_or_default();
        let entries = entries::parse(&setup);
        entries::write_to(&context, &entries);
        entries::set_times(&context, &entries, self.time());
        for (key, value) in &self.options {
            if let Some(id) = key.strip_prefix("secret:") {
                fs::write(place.join(id), value).unwrap();
            }
        }
    }

    /// The options as arguments, each of which `spell` may turn into none, one or several.
    pub(crate) fn arguments(
        &self,
        spell: impl Fn(&str, Option<&str>, &str) -> Vec<OsString>,
    ) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for (key, value) in &self.options {
            let (key, name) = match key.split_once(':') {
                Some((key, name)) => (key, Some(name)),
                None => (key.as_str(), None),
            };
            arguments.extend(spell(key, name, value));
        }
        arguments
    }

    /// Builds the case in one of the ways and says what differs first.
    pub(crate) fn check(&self, way: Way<'_>, env: &TestEnv, reader: &Reader) -> Result<(), String> {
        let place = env.outside(&format!("cases/{}", self.name));
        if way == Way::Cold {
            self.lay_out(&place);
        }
        let archive = place.join("out.tar");
        let build = |progress: &str| -> Output {
            let mut command = env.rbuild_command(["--progress", progress]);
            command
                .args(self.rbuild_arguments(&place))
                .args((way == Way::NoCache).then_some("--no-cache"))
                .args(match way {
                    Way::There(address) => vec!["--builder", address],
                    _ => Vec::new(),
                })
                .arg("-o")
                .arg(format!("type=oci,dest={}", archive.display()))
                .arg(place.join("ctx"));
            env.run(&mut command)
        };
        let expected = self
            .expected()
            .ok_or("nothing is recorded of it: see testdata/dockerfile/README.md")?;
        let Ok(expected) = expected else {
            return match way {
                Way::Cold => self.check_refusal(&place, &build("quiet")),
                Way::Cached | Way::NoCache => Ok(()),
                // In whose words is who finds it.
                Way::There(_) => match build("quiet").status.success() {
                    true => Err("builds there, though BuildKit refuses it".to_owned()),
                    false => Ok(()),
                },
            };
        };
        let output = build("rawjson");
        if !output.status.success() {
            return Err(format!("({way:?}) fails\n{}", told(&output.stderr)));
        }
        let got = reader.describe(&archive, &self.times()) + &warnings(&output.stderr);
        if got != expected {
            return Err(format!("({way:?})\n{}", difference(&expected, &got)));
        }
        let ran = steps_that_ran(&output.stderr);
        if way == Way::Cached && !ran.is_empty() {
            return Err(format!("(cached) these ran again: {ran:?}"));
        }
        Ok(())
    }

    fn check_refusal(&self, place: &Path, output: &Output) -> Result<(), String> {
        if output.status.success() {
            return Err("builds, though BuildKit refuses it".to_owned());
        }
        let text = output.to_string();
        let text = text.replace(place.to_str().unwrap(), "[CASE]");
        let seconds = Regex::new(r"(?m)^  [0-9]+\.[0-9]{3} ").unwrap();
        let text = seconds.replace_all(&text, "  [TIME] ").into_owned();
        let expected = self.dir.join("diagnostic.txt");
        if record::overwrites() {
            fs::write(&expected, &text).unwrap();
        }
        let expected = fs::read_to_string(expected).unwrap_or_default();
        if text == expected {
            Ok(())
        } else {
            Err(difference(&expected, &text))
        }
    }

    fn rbuild_arguments(&self, place: &Path) -> Vec<OsString> {
        let mut arguments = self.arguments(|key, name, value| {
            let flag = |flag: &str, value: String| vec![flag.into(), value.into()];
            match (key, name) {
                ("build-arg", Some(name)) => flag("--build-arg", format!("{name}={value}")),
                ("label", Some(name)) => flag("--label", format!("{name}={value}")),
                ("secret", Some(id)) => {
                    let file = place.join(id);
                    flag("--secret", format!("id={id},src={}", file.display()))
                }
                ("context", Some(name)) => {
                    let dir = place.join("ctx").join(value);
                    flag("--build-context", format!("{name}={}", dir.display()))
                }
                ("context-image", Some(name)) => {
                    flag("--build-context", format!("{name}=docker-image://{value}"))
                }
                ("times", None) => Vec::new(),
                ("add-host", Some(host)) => flag("--add-host", format!("{host}:{value}")),
                ("target" | "platform" | "network" | "allow", None) => {
                    flag(&format!("--{key}"), value.to_owned())
                }
                _ => panic!("{}: option `{key}`", self.name),
            }
        });
        arguments.push("-f".into());
        arguments.push(place.join("df/Dockerfile").into());
        arguments
    }
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Copies a tree with the modes that git keeps, whatever the umask was when it was checked out.
fn copy(from: &Path, to: &Path) {
    for path in sorted(from) {
        let target = to.join(path.file_name().unwrap());
        let executable = fs::metadata(&path).unwrap().permissions().mode() & 0o100 != 0;
        if path.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// The warnings among lines of `--progress=rawjson`: `warning LINE[-LINE] TEXT`.
pub(crate) fn warnings(progress: &str) -> String {
    let mut found = Vec::new();
    for line in progress.lines() {
        let Ok(status) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        for warning in status["warnings"].as_array().into_iter().flatten() {
            let short = unbase64(warning["short"].as_str().unwrap_or_default());
            let ranges = warning["range"].as_array().cloned().unwrap_or_default();
            let line = |range: &Value, end: &str| range[end]["line"].as_u64().unwrap_or(0);
            // Of a here-document BuildKit names every line by itself.
            let first = ranges.iter().map(|range| line(range, "start")).min();
            let last = ranges.iter().map(|range| line(range, "end")).max();
            let lines = first.unwrap_or(0)..=last.unwrap_or(0);
            found.push((
                *lines.start(),
                *lines.end(),
                String::from_utf8(short).unwrap(),
            ));
        }
    }
    found.sort();
    let mut text = String::new();
    for (first, last, short) in found {
        writeln!(text, "warning {first}-{last} {short}").unwrap();
    }
    text
}

/// The steps of a build that were not answered from the cache, by their vertices among lines of `--progress=rawjson`.
fn steps_that_ran(progress: &str) -> Vec<String> {
    let mut ran = Vec::new();
    for line in progress.lines() {
        let Ok(status) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        for vertex in status["vertexes"].as_array().into_iter().flatten() {
            let name = vertex["name"].as_str().unwrap_or_default();
            let is_source = name.starts_with("[internal]")
                || name.starts_with("[context ")
                || name.contains("] FROM ");
            let is_step = name.starts_with('[') && !is_source;
            if is_step && vertex["completed"].is_string() && vertex["cached"] != true {
                ran.push(name.to_owned());
            }
        }
    }
    ran
}

/// RFC 4648, section 4, of which padding is left out.
fn unbase64(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter_map(|byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}

/// What is left of progress lines when those for machines are taken out.
fn told(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| !line.starts_with('{'));
    lines.map(|line| format!("  {line}\n")).collect()
}

/// The first lines that differ, with three lines before them.
pub(crate) fn difference(want: &str, got: &str) -> String {
    let (want, got): (Vec<_>, Vec<_>) = (want.lines().collect(), got.lines().collect());
    let same = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for line in &want[same.saturating_sub(3)..same] {
        writeln!(text, "    {line}").unwrap();
    }
    let only = |lines: &[&str], others: &[&str], sign: &str, text: &mut String| {
        let lines = lines[same..]
            .iter()
            .filter(|line| !others[same..].contains(line));
        for line in lines.take(8) {
            writeln!(text, "  {sign} {line}").unwrap();
        }
    };
    only(&want, &got, "-", &mut text);
    only(&got, &want, "+", &mut text);
    text
}
