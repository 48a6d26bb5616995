//! `-o`, `--push` and `--load`: where the image goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_llb::Diagnostic;
use rbuild_llb::suggest;

use super::annotation;
use super::values;
use super::values::invalid;
use crate::request::Compression;
use crate::request::Destination;
use crate::request::Epoch;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Push;

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
    /// Those that the type has.
    known: Vec<&'static str>,
}

const NO_ATTESTATIONS: &str = "leave it out: it is about attestations, and rbuild makes none";

const NAMED_BY_DEST: &str = "what is written is named by `dest=`";

/// What is said of options that mean something to BuildKit but not here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("attestation-inline", NO_ATTESTATIONS),
    ("attestation-prefix", NO_ATTESTATIONS),
    (
        "context",
        "a docker context is loaded into: leave `dest` out, or `context`",
    ),
    ("destination", NAMED_BY_DEST),
    ("oci-artifact", NO_ATTESTATIONS),
    ("output", NAMED_BY_DEST),
    ("tag", "images are named by `name=`, or by `-t`"),
];

/// `type=oci,dest=x.tar,compression=zstd`, or a directory alone, or `-` for a tar on standard output.
pub(crate) fn parse(text: &str) -> Result<Output, Diagnostic> {
    let fields = values::csv(text).map_err(|why| invalid("output", text, why))?;
    if fields == [text] && !text.starts_with("type=") {
        let kind = match text {
            "-" => OutputKind::Tar {
                dest: Destination::Stdout,
                split: None,
            },
            path => OutputKind::Local {
                dest: path.into(),
                split: None,
                delete: false,
            },
        };
        return Ok(Output {
            spec: OutputSpec::plain(kind),
            names: Vec::new(),
        });
    }
    let mut left: BTreeMap<String, String> = values::options("output", text)?.into_iter().collect();
    let kind = left
        .remove("type")
        .ok_or_else(|| invalid("output", text, "`type=` is missing"))?;
    let options = Options {
        text,
        kind,
        left,
        known: Vec::new(),
    };
    options.output()
}

impl Options<'_> {
    fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.left.remove(key)
    }

    fn output(mut self) -> Result<Output, Diagnostic> {
        let kind = self.kind()?;
        let mut spec = OutputSpec::plain(kind);
        let mut names = Vec::new();
        if spec.kind.is_image() {
            spec.compression = self.compression()?;
            spec.force_compression = self.switch("force-compression")?.unwrap_or(false);
            spec.docker_types = !self.boolean("oci-mediatypes")?.unwrap_or(true);
            spec.nondistributable = self.boolean("prefer-nondist-layers")?.unwrap_or(false);
            spec.annotations = self.annotations()?;
            let list = self.take("name").unwrap_or_default();
            names.extend(list.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
        }
        // Files alone have that time in any case.
        spec.rewrite_timestamp = self.boolean("rewrite-timestamp")?.unwrap_or(false);
        spec.epoch = self.epoch()?;
        self.nothing_left()?;
        Ok(Output { spec, names })
    }

    fn kind(&mut self) -> Result<OutputKind, Diagnostic> {
        Ok(match self.kind.as_str() {
            "image" => OutputKind::Image(self.image(Push::No)?),
            "registry" => OutputKind::Image(self.image(Push::ByName)?),
            "oci" => {
                let tar = self.switch("tar")?.unwrap_or(true);
                let dest = self.destination(tar)?;
                OutputKind::Oci { dest, tar }
            }
            "docker" => {
                let tar = self.switch("tar")?.unwrap_or(true);
                // Without a file, an engine's image store is meant.
                match tar && self.left.get("dest").is_none_or(String::is_empty) {
                    true => {
                        self.take("dest");
                        let context = self.take("context");
                        OutputKind::Load {
                            context: context.filter(|context| !context.is_empty()),
                        }
                    }
                    false => {
                        let dest = self.destination(tar)?;
                        OutputKind::Docker { dest, tar }
                    }
                }
            }
            "tar" => OutputKind::Tar {
                dest: self.destination(true)?,
                split: self.boolean("platform-split")?,
            },
            "local" => OutputKind::Local {
                dest: self.directory()?,
                split: self.boolean("platform-split")?,
                delete: self.mode()?,
            },
            "cacheonly" => OutputKind::CacheOnly,
            kind => {
                let why = format!("there is no output type `{kind}`");
                let types = "the types are `image`, `registry`, `oci`, `docker`, `tar`, `local` and `cacheonly`";
                return Err(self.invalid(why).hint(types));
            }
        })
    }

    fn image(&mut self, push: Push) -> Result<ImageOutput, Diagnostic> {
        let push = match self.switch("push")? {
            Some(true) => Push::ByName,
            Some(false) => Push::No,
            None => push,
        };
        let by_digest = self.switch("push-by-digest")?.unwrap_or(false);
        if by_digest && push == Push::No {
            let why = "`push-by-digest` says how to push, and nothing is pushed";
            return Err(self.invalid(why).hint("add `push=true`"));
        }
        // There is nothing to unpack for: `rbuild run` has the layers' directories.
        self.switch("unpack")?;
        let prefix = self.take("dangling-name-prefix");
        Ok(ImageOutput {
            push: match by_digest {
                true => Push::ByDigest,
                false => push,
            },
            insecure: self.switch("registry.insecure")?.unwrap_or(false),
            store: self.switch("store")?.unwrap_or(true),
            canonical: self.switch("name-canonical")?.unwrap_or(false),
            dangling: prefix.filter(|prefix| !prefix.is_empty()),
            // BuildKit spells it so.
            dangling_if_unnamed: self.switch("danging-name-empty-only")?.unwrap_or(false),
        })
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Diagnostic {
        invalid("output", self.text, why)
    }

    fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, Diagnostic> {
        let value = self.take(key);
        let parsed = value.as_deref().map(values::boolean).transpose();
        parsed.map_err(|why| self.invalid(format!("`{key}`: {why}")))
    }

    /// A boolean that BuildKit takes for true where its value is empty.
    fn switch(&mut self, key: &'static str) -> Result<Option<bool>, Diagnostic> {
        match self.left.get(key).is_some_and(String::is_empty) {
            true => {
                self.take(key);
                Ok(Some(true))
            }
            false => self.boolean(key),
        }
    }

    /// `dest=`: a file or `-`, which is also the default; a directory if it is no tar.
    fn destination(&mut self, tar: bool) -> Result<Destination, Diagnostic> {
        if !tar {
            return Ok(Destination::File(self.directory()?));
        }
        Ok(match self.take("dest").as_deref() {
            None | Some("-" | "") => Destination::Stdout,
            Some(path) => Destination::File(path.into()),
        })
    }

    fn directory(&mut self) -> Result<PathBuf, Diagnostic> {
        match self.take("dest").as_deref() {
            None | Some("") => Err(self.invalid("`dest=` is missing: a directory to write to")),
            Some("-") => Err(self.invalid("a directory cannot be written to standard output")),
            Some(path) => Ok(path.into()),
        }
    }

    /// `mode=`: whether what else is in the directory goes.
    fn mode(&mut self) -> Result<bool, Diagnostic> {
        let mode = self.take("mode").unwrap_or_default();
        match mode.trim().to_ascii_lowercase().as_str() {
            "" | "copy" => Ok(false),
            "delete" => Ok(true),
            _ => Err(self.invalid(format!("mode `{mode}` is neither `copy` nor `delete`"))),
        }
    }

    fn epoch(&mut self) -> Result<Epoch, Diagnostic> {
        match self.take("source-date-epoch").as_deref() {
            None => Ok(Epoch::OfBuild),
            Some("") => Ok(Epoch::None),
            Some(text) => text.parse().map(Epoch::At).map_err(|_| {
                let wanted = "wanted seconds since 1970, a whole number";
                self.invalid(format!("source-date-epoch is `{text}`: {wanted}"))
            }),
        }
    }

    fn annotations(&mut self) -> Result<Vec<crate::request::Annotation>, Diagnostic> {
        self.known
            .extend(["annotation.", "annotation-index.", "annotation-manifest."]);
        let mut found = Vec::new();
        let mut left = BTreeMap::new();
        for (key, value) in std::mem::take(&mut self.left) {
            match annotation::of_option(&key, &value) {
                Ok(Some(annotation)) => found.push(annotation),
                Ok(None) => drop(left.insert(key, value)),
                Err(why) => return Err(self.invalid(why)),
            }
        }
        self.left = left;
        Ok(found)
    }

    fn compression(&mut self) -> Result<Compression, Diagnostic> {
        let word = self.take("compression");
        let level = self.take("compression-level");
        values::compression(word.as_deref(), level.as_deref()).map_err(|(why, hint)| {
            let problem = self.invalid(why);
            hint.map_or(problem.clone(), |hint| problem.hint(hint))
        })
    }

    fn nothing_left(&self) -> Result<(), Diagnostic> {
        let Some((key, _)) = self.left.first_key_value() else {
            return Ok(());
        };
        let problem = self.invalid(format!("type `{}` has no option `{key}`", self.kind));
        Err(match ELSEWHERE.iter().find(|(name, _)| name == key) {
            Some((_, hint)) => problem.hint(*hint),
            None => match suggest::nearest(&written(key), self.known.iter().copied()) {
                Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
                None => problem,
            },
        })
    }
}

/// An option without the key that is part of it: `annotation.` of `annotation.a`.
fn written(option: &str) -> String {
    let end = option.find('.').map_or(option.len(), |at| at + 1);
    match option.starts_with("annot") {
        true => option[..end].to_owned(),
        false => option.to_owned(),
    }
}

#[cfg(test)]
mod tests;
