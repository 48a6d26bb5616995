//! Outputs that several nodes make: what each is asked for, and the output made of what they made.
//!
//! Of an image for several platforms each node makes one: it pushes it by its digest, or sends it here as an archive. The
//! index is made here, once all are there, and goes where the whole was to go. Names are given from here in any case: a
//! node that was lost, and pushes when another has long taken over, changes none. Of files each node sends its platform's
//! directory. Everything lies aside until it is whole, also the output of a single node: another may have to make it anew.

use std::fs::File;
use std::io;
use std::io::Seek as _;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use rbuild_llb::CancelToken;
use rbuild_llb::Platform;

use super::landing::Landing;
use super::outputs;
use super::outputs::Then;
use crate::buildkit::Answer;
use crate::buildkit::Sink;
use crate::exporter::ExportError;
use crate::exporter::Pending;
use crate::exporter::ReadyIndex;
use crate::exporter::join;
use crate::exporter::join::Layout;
use crate::exporter::load::Waiting;
use crate::exporter::push;
use crate::image::Descriptor;
use crate::outcome::BuiltImage;
use crate::outcome::Delivery;
use crate::pipeline::assemble;
use crate::pipeline::deliver::Target;
use crate::pipeline::stored::load::LoadOptions;
use crate::request::Annotation;
use crate::request::AnnotationLevel;
use crate::request::BuildRequest;
use crate::request::Destination;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Push;
use std::collections::BTreeMap;

/// What a node made of an output.
pub(super) struct Piece {
    pub(super) image: Option<BuiltImage>,
    pub(super) bytes: Bytes,
}

/// What came here.
pub(super) enum Bytes {
    Nothing,
    Archive(File),
    /// On this machine, an archive by its name.
    Named(PathBuf),
    Directory(Landing),
}

/// An output for a daemon that is one of several.
pub(super) struct Order {
    pub(super) exporter: &'static str,
    pub(super) options: BTreeMap<String, String>,
    pub(super) sink: Sink,
    pub(super) bytes: Bytes,
}

impl Order {
    /// What a daemon is to make of an output for one platform.
    pub(super) fn of(
        spec: &OutputSpec,
        target: &Target,
        platform: &Platform,
        request: &BuildRequest,
    ) -> Result<Self, ExportError> {
        let own = match target.several {
            true => of_platform(spec, platform),
            false => spec.clone(),
        };
        let mut options = outputs::layers(&own, target, request);
        let mut name = |names: &[String]| {
            if !names.is_empty() {
                options.insert("name".to_owned(), names.join(","));
            }
        };
        let exporter = match &own.kind {
            OutputKind::Image(image) if image.push != Push::No => {
                name(&push::repositories(&names_of(spec, target))?);
                outputs::pushed(&by_digest(image), &mut options);
                "image"
            }
            OutputKind::Tar { split, .. } | OutputKind::Local { split, .. } => {
                let split = if target.several { Some(true) } else { *split };
                outputs::platform_split(split, &mut options);
                match own.kind {
                    OutputKind::Tar { .. } => "tar",
                    _ => "local",
                }
            }
            OutputKind::CacheOnly => "",
            kind => {
                // What is joined gets its names here.
                if !target.several {
                    name(target.names());
                }
                match kind {
                    OutputKind::Docker { .. } => "docker",
                    OutputKind::Load { .. } if !target.several => "docker",
                    _ => "oci",
                }
            }
        };
        let (sink, bytes) = match &own.kind {
            OutputKind::CacheOnly => (Sink::Nothing, Bytes::Nothing),
            OutputKind::Image(image) if image.push != Push::No => (Sink::Nothing, Bytes::Nothing),
            OutputKind::Local { dest, .. } => {
                let landing = Landing::beside(dest)?;
                let sink = Sink::Directory(landing.path().to_owned());
                (sink, Bytes::Directory(landing))
            }
            _ => {
                let (archive, to) = outputs::scratch(request)?;
                let sink = outputs::archive_sink("what a builder sends", to);
                (sink, Bytes::Archive(archive))
            }
        };
        Ok(Self {
            exporter,
            options,
            sink,
            bytes,
        })
    }

    /// Whether the daemon is told of one platform as of several: then its directory is named after it.
    pub(super) fn split(spec: &OutputSpec, target: &Target) -> bool {
        let files = matches!(spec.kind, OutputKind::Tar { .. } | OutputKind::Local { .. });
        target.several && files
    }
}

impl Bytes {
    /// What a daemon made, by what it says of it.
    pub(super) fn of(self, answer: &Answer, target: &Target) -> Piece {
        Piece {
            image: outputs::image(answer, target.names()),
            bytes: self,
        }
    }
}

/// An image of which nobody hears but who asks for it by its digest.
fn by_digest(image: &ImageOutput) -> ImageOutput {
    ImageOutput {
        insecure: image.insecure,
        store: false,
        ..ImageOutput::with_push(Push::ByDigest)
    }
}

/// All that an image is to be found by, also what has no tag.
fn names_of(spec: &OutputSpec, target: &Target) -> Vec<String> {
    let mut names = target.names().to_vec();
    if let OutputKind::Image(image) = &spec.kind
        && let Some(prefix) = &image.dangling
        && (names.is_empty() || !image.dangling_if_unnamed)
    {
        names.push(prefix.clone());
    }
    names
}

/// An output as it is for one of its platforms.
fn of_platform(spec: &OutputSpec, platform: &Platform) -> OutputSpec {
    let level = AnnotationLevel::Manifest;
    let annotations = assemble::annotations(spec, level, Some(platform)).into_iter();
    let kind = match &spec.kind {
        OutputKind::Image(image) if image.push != Push::No => OutputKind::Image(by_digest(image)),
        kind => kind.clone(),
    };
    OutputSpec {
        kind,
        annotations: annotations
            .map(|(key, value)| Annotation {
                level,
                platform: None,
                key,
                value,
            })
            .collect(),
        ..spec.clone()
    }
}

/// The same as [`Order::of`] for this machine: an output that comes to lie in `dir`.
pub(super) fn here(
    spec: &OutputSpec,
    platform: &Platform,
    dir: &Path,
) -> Result<(OutputSpec, Bytes), ExportError> {
    let own = of_platform(spec, platform);
    let named = || {
        let failed = |source| ExportError::Write {
            path: dir.to_owned(),
            source,
        };
        let file = tempfile::Builder::new().suffix(".tar").tempfile_in(dir);
        let (_, path) = file
            .and_then(|file| file.keep().map_err(|error| error.error))
            .map_err(failed)?;
        Ok::<_, ExportError>((Destination::File(path.clone()), Bytes::Named(path)))
    };
    let (kind, bytes) = match own.kind {
        OutputKind::Image(image) if image.push != Push::No => {
            (OutputKind::Image(image), Bytes::Nothing)
        }
        OutputKind::CacheOnly => (OutputKind::CacheOnly, Bytes::Nothing),
        OutputKind::Local { dest, .. } => {
            let landing = Landing::beside(&dest)?;
            let dest = landing.path().to_owned();
            let kind = OutputKind::Local {
                dest,
                split: Some(true),
                delete: false,
            };
            (kind, Bytes::Directory(landing))
        }
        OutputKind::Tar { .. } => {
            let (dest, bytes) = named()?;
            let split = Some(true);
            (OutputKind::Tar { dest, split }, bytes)
        }
        OutputKind::Image(_)
        | OutputKind::Load { .. }
        | OutputKind::Oci { .. }
        | OutputKind::Docker { .. } => {
            let (dest, bytes) = named()?;
            (OutputKind::Oci { dest, tar: true }, bytes)
        }
    };
    Ok((OutputSpec { kind, ..own }, bytes))
}

/// What an output is made with.
pub(super) struct Joining<'a> {
    pub(super) request: &'a BuildRequest,
    /// The builder's name.
    pub(super) builder: &'a str,
    pub(super) target: &'a Target,
    pub(super) cancel: &'a CancelToken,
}

impl Joining<'_> {
    /// Makes an output of what nodes made of it, one for each platform.
    pub(super) fn output(
        &self,
        spec: &OutputSpec,
        pieces: Vec<(Platform, Piece)>,
    ) -> Result<(Option<BuiltImage>, Then), ExportError> {
        match &spec.kind {
            OutputKind::CacheOnly => Ok((None, Then::Done(Vec::new()))),
            OutputKind::Local { dest, .. } => {
                for (_, piece) in pieces {
                    if let Bytes::Directory(landing) = piece.bytes {
                        landing.pour(dest)?;
                    }
                }
                let path = dest.clone();
                let written = Delivery::Directory { path };
                Ok((None, Then::Done(vec![written])))
            }
            OutputKind::Tar { dest, .. } => {
                let tars = pieces.into_iter().map(|(_, piece)| piece.bytes.file());
                let mut tars: Vec<File> = tars.collect::<Result<_, _>>()?;
                let (pending, mut to) = Pending::open(dest)?;
                match (self.target.several, tars.as_mut_slice()) {
                    (false, [only]) => copy(only, &mut to)?,
                    _ => join::write_tars(tars, &mut to)?,
                }
                close(to)?;
                Ok((None, Then::Pending(pending)))
            }
            OutputKind::Image(image) if image.push != Push::No && self.target.several => {
                self.index(spec, image, &pieces)
            }
            OutputKind::Image(image) if image.push != Push::No => {
                let made = pieces.into_iter().find_map(|(_, piece)| piece.image);
                let made = made.ok_or_else(unsaid)?;
                let (names, settings) = (self.target.names(), &self.request.settings);
                let pushed =
                    push::send_tags(&made.descriptor, image, names, settings, self.cancel)?;
                Ok((Some(made), Then::Done(pushed)))
            }
            OutputKind::Image(_)
            | OutputKind::Load { .. }
            | OutputKind::Oci { .. }
            | OutputKind::Docker { .. } => self.archive(spec, pieces),
        }
    }

    /// The index over images that are in the registry, pushed under its names.
    fn index(
        &self,
        spec: &OutputSpec,
        image: &ImageOutput,
        pieces: &[(Platform, Piece)],
    ) -> Result<(Option<BuiltImage>, Then), ExportError> {
        let mut entries = Vec::new();
        for (platform, piece) in pieces {
            // Daemons before 0.9 say no more than its digest, which is no entry of an index.
            let described = |image: &&BuiltImage| {
                !image.descriptor.media_type.is_empty() && image.descriptor.size > 0
            };
            let made = piece.image.as_ref().filter(described);
            let made = made.ok_or_else(unsaid)?;
            entries.push(entry(spec, platform, &made.descriptor));
        }
        let index = assemble::index_of(spec, entries);
        let names = self.target.names();
        let pushed = push::send_index(&index, image, names, &self.request.settings, self.cancel)?;
        Ok((Some(self.built(&index)), Then::Done(pushed)))
    }

    fn built(&self, index: &ReadyIndex) -> BuiltImage {
        BuiltImage {
            id: index.descriptor.digest,
            descriptor: index.descriptor.clone(),
            size: 0,
            names: self.target.names().to_vec(),
        }
    }

    /// An archive, to where it goes.
    fn archive(
        &self,
        spec: &OutputSpec,
        pieces: Vec<(Platform, Piece)>,
    ) -> Result<(Option<BuiltImage>, Then), ExportError> {
        let names = self.target.names();
        let (then, mut to) = match &spec.kind {
            OutputKind::Load { context } => {
                let (waiting, to) = Waiting::start(context.as_deref(), names)?;
                (Then::Load(waiting), to)
            }
            OutputKind::Oci { dest, .. } | OutputKind::Docker { dest, .. } => {
                let (pending, to) = Pending::open(dest)?;
                (Then::Pending(pending), to)
            }
            _ => {
                let (archive, to) = outputs::scratch(self.request)?;
                let options = LoadOptions {
                    shown: self.builder.into(),
                    platform: None,
                };
                (Then::Import { archive, options }, to)
            }
        };
        let written = match self.target.several {
            true => self.joined(spec, pieces, &mut to).map(Some),
            false => pieces.into_iter().try_fold(None, |_, (_, piece)| {
                let mut archive = piece.bytes.file()?;
                copy(&mut archive, &mut to)?;
                Ok(piece.image)
            }),
        };
        let written = written.and_then(|image| close(to).map(|()| image));
        match (written, then) {
            (Ok(image), then) => Ok((image, then)),
            (Err(ExportError::Joined(error)), Then::Load(waiting)) => {
                let why = waiting.why_not(&error);
                Err(why.unwrap_or(ExportError::Joined(error)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Writes an index over images, and what they are made of.
    fn joined(
        &self,
        spec: &OutputSpec,
        pieces: Vec<(Platform, Piece)>,
        to: &mut (dyn Write + Send),
    ) -> Result<BuiltImage, ExportError> {
        let mut layouts = Vec::new();
        let mut entries = Vec::new();
        for (platform, piece) in pieces {
            let layout = Layout::open(piece.bytes.file()?)?;
            entries.push(entry(spec, &platform, layout.manifest()));
            layouts.push(layout);
        }
        let index = assemble::index_of(spec, entries);
        join::write_index(&layouts, &index, self.target.names(), to)?;
        Ok(self.built(&index))
    }
}

fn unsaid() -> ExportError {
    ExportError::Sent(io::Error::other("a node does not say what it pushed"))
}

impl Bytes {
    fn file(self) -> Result<File, ExportError> {
        match self {
            Self::Archive(file) => Ok(file),
            Self::Named(path) => {
                let opened = File::open(&path);
                opened.map_err(|source| ExportError::Write { path, source })
            }
            Self::Nothing | Self::Directory(_) => {
                let lacking = io::Error::other("a node sent no archive");
                Err(ExportError::Sent(lacking))
            }
        }
    }
}

/// What an index says of an image.
fn entry(spec: &OutputSpec, platform: &Platform, manifest: &Descriptor) -> Descriptor {
    let level = AnnotationLevel::ManifestDescriptor;
    let Descriptor {
        media_type,
        digest,
        size,
        ..
    } = manifest.clone();
    Descriptor {
        annotations: assemble::annotations(spec, level, Some(platform)),
        ..Descriptor::new(media_type, digest, size).with_platform(platform)
    }
}

fn copy(from: &mut File, to: &mut dyn Write) -> Result<(), ExportError> {
    let copied = from.rewind().and_then(|()| io::copy(from, to));
    copied.map(drop).map_err(ExportError::Joined)
}

fn close(mut to: Box<dyn Write + Send>) -> Result<(), ExportError> {
    to.flush().map_err(ExportError::Joined)
}
