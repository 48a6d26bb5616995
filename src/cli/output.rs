//! `-o`, `--push` and `--load`: where the image goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_llb::Diagnostic;

use super::values;
use super::values::invalid;
use crate::request::Compression;
use crate::request::Destination;
use crate::request::OutputKind;
use crate::request::OutputSpec;

/// One `-o`, and the names it brings besides `-t`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) spec: OutputSpec,
    pub(crate) names: Vec<String>,
}

/// The options of an output, taken out one by one; what is left over is not known.
struct Options<'a> {
    text: &'a str,
    kind: String,
    left: BTreeMap<String, String>,
}

/// What is said of options that mean something to BuildKit but not here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("annotation", "annotations are not supported yet"),
    ("attestation-prefix", "attestations are not supported yet"),
    ("mode", "a directory's other files are always kept"),
    (
        "platform-split",
        "several platforms always get a directory each",
    ),
    (
        "push-by-digest",
        "pushing without a tag is not supported yet",
    ),
    (
        "registry.insecure",
        "say it in config.toml: `[registry.\"host\"] insecure = true`",
    ),
    ("store", "images always go to rbuild's own store"),
];

/// `type=oci,dest=x.tar,compression=zstd`, or a directory alone, or `-` for a tar on standard output.
pub(crate) fn parse(text: &str) -> Result<Output, Diagnostic> {
    let fields = values::csv(text).map_err(|why| invalid("output", text, why))?;
    if fields == [text] && !text.starts_with("type=") {
        let kind = match text {
            "-" => OutputKind::Tar {
                dest: Destination::Stdout,
            },
            path => OutputKind::Local { dest: path.into() },
        };
        return Ok(Output {
            spec: plain(kind),
            names: Vec::new(),
        });
    }
    let mut left: BTreeMap<String, String> = values::options("output", text)?.into_iter().collect();
    let kind = left
        .remove("type")
        .ok_or_else(|| invalid("output", text, "`type=` is missing"))?;
    Options { text, kind, left }.output()
}

/// An output without options.
pub(crate) fn plain(kind: OutputKind) -> OutputSpec {
    OutputSpec {
        kind,
        compression: Compression::Default,
        force_compression: false,
        rewrite_timestamp: false,
    }
}

impl Options<'_> {
    fn output(mut self) -> Result<Output, Diagnostic> {
        let kind = match self.kind.as_str() {
            "image" => OutputKind::Image {
                push: self.boolean("push")?,
            },
            "registry" => OutputKind::Image { push: true },
            "oci" => match self
                .left
                .get("tar")
                .map_or(Ok(true), |t| values::boolean(t))
            {
                Ok(tar) => {
                    self.left.remove("tar");
                    OutputKind::Oci {
                        dest: self.destination(tar)?,
                        tar,
                    }
                }
                Err(why) => return Err(self.invalid(why)),
            },
            // Without a file, docker's own image store is meant.
            "docker" if self.left.contains_key("dest") => OutputKind::Docker {
                dest: self.destination(true)?,
            },
            "docker" => OutputKind::Load,
            "tar" => OutputKind::Tar {
                dest: self.destination(true)?,
            },
            "local" => OutputKind::Local {
                dest: self.directory()?,
            },
            "cacheonly" => OutputKind::CacheOnly,
            kind => {
                let why = format!("there is no output type `{kind}`");
                let types = "the types are `image`, `registry`, `oci`, `docker`, `tar`, `local` and `cacheonly`";
                return Err(self.invalid(why).hint(types));
            }
        };
        let has_layers = !matches!(
            kind,
            OutputKind::Tar { .. } | OutputKind::Local { .. } | OutputKind::CacheOnly
        );
        let mut spec = plain(kind);
        let mut names = Vec::new();
        if has_layers {
            spec.compression = self.compression()?;
            spec.force_compression = self.boolean("force-compression")?;
            self.media_types()?;
            let list = self.left.remove("name").unwrap_or_default();
            names.extend(list.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
            // Unpacking and lazy references are what a daemon's image store does.
            self.left.remove("unpack");
        }
        spec.rewrite_timestamp = self.boolean("rewrite-timestamp")?;
        self.nothing_left()?;
        Ok(Output { spec, names })
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Diagnostic {
        invalid("output", self.text, why)
    }

    fn boolean(&mut self, key: &str) -> Result<bool, Diagnostic> {
        match self.left.remove(key) {
            Some(value) => {
                values::boolean(&value).map_err(|why| self.invalid(format!("`{key}`: {why}")))
            }
            None => Ok(false),
        }
    }

    /// `dest=`: a file or `-`, which is also the default; a directory if it is no tar.
    fn destination(&mut self, tar: bool) -> Result<Destination, Diagnostic> {
        if !tar {
            return Ok(Destination::File(self.directory()?));
        }
        Ok(match self.left.remove("dest").as_deref() {
            None | Some("-" | "") => Destination::Stdout,
            Some(path) => Destination::File(path.into()),
        })
    }

    fn directory(&mut self) -> Result<PathBuf, Diagnostic> {
        match self.left.remove("dest").as_deref() {
            None | Some("") => Err(self.invalid("`dest=` is missing: a directory to write to")),
            Some("-") => Err(self.invalid("a directory cannot be written to standard output")),
            Some(path) => Ok(path.into()),
        }
    }

    fn compression(&mut self) -> Result<Compression, Diagnostic> {
        let word = self.left.remove("compression");
        let level = match self.left.remove("compression-level") {
            None => None,
            Some(text) => match text.parse::<u32>() {
                Ok(level) => Some(level),
                Err(_) => {
                    return Err(self.invalid(format!("compression-level `{text}` is not a number")));
                }
            },
        };
        let (compression, levels) = match word.as_deref() {
            Some("gzip") => (Compression::Gzip(level), 0..=9),
            Some("zstd") => (Compression::Zstd(level), 1..=22),
            Some("uncompressed") => (Compression::Uncompressed, 0..=0),
            Some(word) => {
                let why = format!("there is no compression `{word}`");
                let words = "the compressions are `gzip`, `zstd` and `uncompressed`";
                return Err(self.invalid(why).hint(words));
            }
            // BuildKit's compressor where none is named.
            None if level.is_some() => (Compression::Gzip(level), 0..=9),
            None => (Compression::Default, 0..=0),
        };
        match level {
            Some(level) if !levels.contains(&level) => {
                let (first, last) = levels.into_inner();
                Err(self.invalid(format!(
                    "compression-level {level} is not from {first} to {last}"
                )))
            }
            _ => Ok(compression),
        }
    }

    fn media_types(&mut self) -> Result<(), Diagnostic> {
        match self.left.remove("oci-mediatypes") {
            Some(value) if values::boolean(&value) == Ok(false) => Err(self
                .invalid("rbuild writes OCI media types only")
                .hint("leave `oci-mediatypes` out")),
            Some(value) => values::boolean(&value)
                .map(drop)
                .map_err(|why| self.invalid(format!("`oci-mediatypes`: {why}"))),
            None => Ok(()),
        }
    }

    fn nothing_left(&self) -> Result<(), Diagnostic> {
        let Some((key, _)) = self.left.first_key_value() else {
            return Ok(());
        };
        let family = key
            .split('.')
            .next()
            .unwrap_or(key)
            .split('-')
            .next()
            .unwrap_or(key);
        let elsewhere = ELSEWHERE
            .iter()
            .find(|(name, _)| name == key || (*name == "annotation" && family == "annotation"));
        let problem = self.invalid(format!("type `{}` has no option `{key}`", self.kind));
        Err(match elsewhere {
            Some((_, hint)) => problem.hint(*hint),
            None => problem,
        })
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn kind(text: &str) -> OutputKind {
        parse(text).unwrap().spec.kind
    }

    #[test]
    fn kinds_and_destinations() {
        let file = |path: &str| Destination::File(path.into());
        for (text, want) in [
            (
                "-",
                OutputKind::Tar {
                    dest: Destination::Stdout,
                },
            ),
            ("out", OutputKind::Local { dest: "out".into() }),
            (
                "type=local,dest=a b",
                OutputKind::Local { dest: "a b".into() },
            ),
            (
                "type=tar",
                OutputKind::Tar {
                    dest: Destination::Stdout,
                },
            ),
            (
                "type=tar,dest=x.tar",
                OutputKind::Tar {
                    dest: file("x.tar"),
                },
            ),
            (
                "type=oci,dest=-",
                OutputKind::Oci {
                    dest: Destination::Stdout,
                    tar: true,
                },
            ),
            (
                "type=oci,tar=false,dest=d",
                OutputKind::Oci {
                    dest: file("d"),
                    tar: false,
                },
            ),
            (
                r#"type=docker,"dest=a,b.tar""#,
                OutputKind::Docker {
                    dest: file("a,b.tar"),
                },
            ),
            ("type=docker", OutputKind::Load),
            ("type=image,push=true", OutputKind::Image { push: true }),
            ("type=image", OutputKind::Image { push: false }),
            ("type=registry", OutputKind::Image { push: true }),
            ("type=cacheonly", OutputKind::CacheOnly),
        ] {
            assert_eq!(kind(text), want, "{text}");
        }
    }

    #[test]
    fn layers_have_options() {
        let output = parse(
            "type=oci,dest=x.tar,compression=zstd,compression-level=3,oci-mediatypes=true,\
             rewrite-timestamp=true,force-compression=1",
        );
        assert_eq!(
            output.unwrap().spec,
            OutputSpec {
                kind: OutputKind::Oci {
                    dest: Destination::File("x.tar".into()),
                    tar: true
                },
                compression: Compression::Zstd(Some(3)),
                force_compression: true,
                rewrite_timestamp: true,
            }
        );
        let output = parse(r#"type=image,"name=a:1,b:2",compression=uncompressed"#).unwrap();
        assert_eq!(output.names, ["a:1", "b:2"]);
        assert_eq!(output.spec.compression, Compression::Uncompressed);
        let level_alone = parse("type=image,compression-level=9").unwrap();
        assert_eq!(level_alone.spec.compression, Compression::Gzip(Some(9)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            "dest=x,push=true",
            "type=foo",
            "type=local",
            "type=local,dest=-",
            "type=oci,tar=false",
            "type=oci,tar=maybe",
            "type=oci,compression=lz4",
            "type=oci,compression=gzip,compression-level=10",
            "type=oci,compression=zstd,compression-level=x",
            "type=oci,oci-mediatypes=false",
            "type=oci,destination=x",
            "type=tar,compression=gzip",
            "type=image,annotation-index.a=b",
            "type=local,dest=x,mode=delete",
            "a,b",
        ];
        let text: String = wrong
            .iter()
            .map(|text| crate::ui::render(&parse(text).unwrap_err(), false) + "\n")
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--output dest=x,push=true`: `type=` is missing
error: `--output type=foo`: there is no output type `foo`
hint: the types are `image`, `registry`, `oci`, `docker`, `tar`, `local` and `cacheonly`
error: `--output type=local`: `dest=` is missing: a directory to write to
error: `--output type=local,dest=-`: a directory cannot be written to standard output
error: `--output type=oci,tar=false`: `dest=` is missing: a directory to write to
error: `--output type=oci,tar=maybe`: `maybe` is neither `true` nor `false`
error: `--output type=oci,compression=lz4`: there is no compression `lz4`
hint: the compressions are `gzip`, `zstd` and `uncompressed`
error: `--output type=oci,compression=gzip,compression-level=10`: compression-level 10 is not from 0 to 9
error: `--output type=oci,compression=zstd,compression-level=x`: compression-level `x` is not a number
error: `--output type=oci,oci-mediatypes=false`: rbuild writes OCI media types only
hint: leave `oci-mediatypes` out
error: `--output type=oci,destination=x`: type `oci` has no option `destination`
error: `--output type=tar,compression=gzip`: type `tar` has no option `compression`
error: `--output type=image,annotation-index.a=b`: type `image` has no option `annotation-index.a`
hint: annotations are not supported yet
error: `--output type=local,dest=x,mode=delete`: type `local` has no option `mode`
hint: a directory's other files are always kept
error: `--output a,b`: `a` is not of the form `key=value`

"#]]
        );
    }
}
