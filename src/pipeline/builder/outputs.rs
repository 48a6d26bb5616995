//! Outputs as BuildKit's exporters with their options, and what becomes of what they send.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Write;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rbuild_llb::Diagnostic;
use rbuild_llb::OciDigest;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::op::Limits;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;

use crate::buildkit::Answer;
use crate::buildkit::EngineError;
use crate::buildkit::HereError;
use crate::buildkit::Sink;
use crate::exporter::ExportError;
use crate::exporter::Pending;
use crate::exporter::load::Waiting;
use crate::exporter::load::takes_indexes;
use crate::image::Descriptor;
use crate::outcome::BuildError;
use crate::outcome::BuiltImage;
use crate::outcome::Delivery;
use crate::pipeline::deliver::Target;
use crate::pipeline::remote;
use crate::pipeline::stored::load::LoadOptions;
use crate::request::AnnotationLevel;
use crate::request::BuildRequest;
use crate::request::Builder;
use crate::request::BuilderAddress;
use crate::request::Compression;
use crate::request::Destination;
use crate::request::ImageOutput;
use crate::request::Node;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Place;
use crate::request::Push;

/// An output for a daemon.
pub(super) struct Export {
    /// BuildKit's name for it; empty if nothing is exported.
    pub(super) exporter: &'static str,
    pub(super) options: BTreeMap<String, String>,
    pub(super) sink: Sink,
    pub(super) then: Then,
}

/// What is to be done when the daemon has done its part.
pub(super) enum Then {
    /// Nothing: it is there.
    Done(Vec<Delivery>),
    /// What was written gets its name.
    Pending(Pending),
    /// The program that loads it has it all.
    Load(Waiting),
    /// It was pushed under these names.
    Push(Vec<String>),
    /// It goes into rbuild's own store.
    Import { archive: File, options: LoadOptions },
}

impl Then {
    /// Why a build failed that could not write to what was to come after it.
    pub(super) fn why_not(self, error: &EngineError) -> Option<ExportError> {
        match (self, error) {
            (Self::Load(waiting), EngineError::Here(HereError::Write { source, .. })) => {
                waiting.why_not(source)
            }
            _ => None,
        }
    }

    /// Does what needs no store.
    pub(super) fn finish(self, image: Option<&BuiltImage>) -> Result<Self, ExportError> {
        Ok(Self::Done(match self {
            Self::Done(deliveries) => deliveries,
            Self::Pending(pending) => vec![pending.finish()?],
            Self::Load(waiting) => vec![waiting.finish()?],
            Self::Push(names) => {
                let digest = image.map(|image| image.descriptor.digest);
                let names = names.into_iter();
                names
                    .filter_map(|name| digest.map(|digest| Delivery::Pushed { name, digest }))
                    .collect()
            }
            import @ Self::Import { .. } => return Ok(import),
        }))
    }
}

impl Export {
    /// What a daemon is to make of an output.
    pub(super) fn of(
        spec: &OutputSpec,
        target: &Target,
        request: &BuildRequest,
        address: &BuilderAddress,
    ) -> Result<Self, ExportError> {
        let mut options = layers(spec, target, request);
        let names = target.names();
        let names_option = |options: &mut BTreeMap<String, String>| {
            if !names.is_empty() {
                options.insert("name".to_owned(), names.join(","));
            }
        };
        let in_dockerd = matches!(address, BuilderAddress::Docker(_));
        let (exporter, sink, then) = match &spec.kind {
            OutputKind::Image(_) | OutputKind::Load { .. } if in_dockerd => {
                // An image that dockerd builds is one of its own.
                names_option(&mut options);
                let loaded = Delivery::Loaded {
                    into: "docker".to_owned(),
                    names: names.to_vec(),
                };
                ("moby", Sink::Nothing, Then::Done(vec![loaded]))
            }
            OutputKind::Image(image) if image.push != Push::No => {
                names_option(&mut options);
                pushed(image, &mut options);
                ("image", Sink::Nothing, Then::Push(names.to_vec()))
            }
            OutputKind::Image(_) => {
                names_option(&mut options);
                let (archive, to) = scratch(request)?;
                let options = LoadOptions {
                    shown: address.to_string().into(),
                    platform: None,
                };
                let sink = archive_sink("the image", to);
                ("oci", sink, Then::Import { archive, options })
            }
            OutputKind::Load { context } => {
                names_option(&mut options);
                let (waiting, to) = Waiting::start(context.as_deref(), names)?;
                // Docker's kind of archive has no index.
                let exporter = match target.outputs.len() {
                    1 => "docker",
                    _ => "oci",
                };
                (exporter, archive_sink("the image", to), Then::Load(waiting))
            }
            OutputKind::Oci { dest, .. } | OutputKind::Docker { dest, .. } => {
                names_option(&mut options);
                let exporter = match &spec.kind {
                    OutputKind::Oci { .. } => "oci",
                    _ => "docker",
                };
                let (pending, to) = Pending::open(dest)?;
                (
                    exporter,
                    archive_sink(&shown(dest), to),
                    Then::Pending(pending),
                )
            }
            OutputKind::Tar { dest, split } => {
                platform_split(*split, &mut options);
                let (pending, to) = Pending::open(dest)?;
                (
                    "tar",
                    archive_sink(&shown(dest), to),
                    Then::Pending(pending),
                )
            }
            OutputKind::Local { dest, split, .. } => {
                platform_split(*split, &mut options);
                let path = dest.clone();
                let written = Delivery::Directory { path };
                (
                    "local",
                    Sink::Directory(dest.clone()),
                    Then::Done(vec![written]),
                )
            }
            OutputKind::CacheOnly => ("", Sink::Nothing, Then::Done(Vec::new())),
        };
        Ok(Self {
            exporter,
            options,
            sink,
            then,
        })
    }
}

pub(super) fn archive_sink(shown: &str, to: Box<dyn Write + Send>) -> Sink {
    Sink::Archive {
        path: shown.into(),
        to: Box::new(io::BufWriter::with_capacity(1 << 18, to)),
    }
}

fn shown(dest: &Destination) -> String {
    match dest {
        Destination::Stdout => "standard output".to_owned(),
        Destination::File(path) => path.display().to_string(),
    }
}

/// A file without a name, and what writes to it; reading begins at its beginning.
pub(super) fn scratch(
    request: &BuildRequest,
) -> Result<(File, Box<dyn Write + Send>), ExportError> {
    let dir = &request.settings.temp_dir;
    let failed = |source| ExportError::Write {
        path: dir.clone(),
        source,
    };
    let named = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    let reader = named.reopen().map_err(failed)?;
    Ok((reader, Box::new(named.into_file())))
}

pub(super) fn platform_split(split: Option<bool>, options: &mut BTreeMap<String, String>) {
    if let Some(split) = split {
        options.insert("platform-split".to_owned(), split.to_string());
    }
}

pub(super) fn pushed(image: &ImageOutput, options: &mut BTreeMap<String, String>) {
    let flags = [
        ("push", true),
        ("push-by-digest", image.push == Push::ByDigest),
        ("registry.insecure", image.insecure),
        ("name-canonical", image.canonical),
        ("danging-name-empty-only", image.dangling_if_unnamed),
    ];
    for (name, _) in flags.into_iter().filter(|(_, on)| *on) {
        options.insert(name.to_owned(), "true".to_owned());
    }
    if let Some(prefix) = &image.dangling {
        options.insert("dangling-name-prefix".to_owned(), prefix.clone());
    }
}

/// How layers and documents are made (exporter/containerimage/exptypes/keys.go).
pub(super) fn layers(
    spec: &OutputSpec,
    target: &Target,
    request: &BuildRequest,
) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let mut set = |name: &str, value: String| drop(options.insert(name.to_owned(), value));
    let epoch = spec.epoch.or(request.source_date_epoch);
    let clamp = target.clamp();
    if let Some(epoch) = epoch.or(clamp) {
        set("source-date-epoch", epoch.to_string());
    }
    if !spec.kind.is_image() {
        return options;
    }
    if spec.rewrite_timestamp || clamp.is_some() {
        set("rewrite-timestamp", "true".to_owned());
    }
    // Docker's archives have docker's types, whatever is asked.
    if matches!(spec.kind, OutputKind::Image(_) | OutputKind::Oci { .. }) {
        set("oci-mediatypes", (!spec.docker_types).to_string());
    }
    let (compression, level) = match spec.compression {
        Compression::Default => (None, None),
        Compression::Uncompressed => (Some("uncompressed"), None),
        Compression::Gzip(level) => (Some("gzip"), level),
        Compression::Zstd(level) => (Some("zstd"), level),
    };
    if let Some(compression) = compression {
        set("compression", compression.to_owned());
    }
    if let Some(level) = level {
        set("compression-level", level.to_string());
    }
    if spec.force_compression {
        set("force-compression", "true".to_owned());
    }
    if spec.nondistributable {
        set("prefer-nondist-layers", "true".to_owned());
    }
    for annotation in &spec.annotations {
        let level = match annotation.level {
            AnnotationLevel::Manifest => "annotation",
            AnnotationLevel::ManifestDescriptor => "annotation-manifest-descriptor",
            AnnotationLevel::Index => "annotation-index",
            AnnotationLevel::IndexDescriptor => "annotation-index-descriptor",
        };
        let platform = annotation.platform.as_ref();
        let platform = platform.map_or_else(String::new, |platform| format!("[{platform}]"));
        let key = &annotation.key;
        set(
            &format!("{level}{platform}.{key}"),
            annotation.value.clone(),
        );
    }
    options
}

/// What a daemon says of the image that it made; nothing if it made files.
pub(super) fn image(answer: &Answer, names: &[String]) -> Option<BuiltImage> {
    let Answer(answer) = answer;
    let digest = |key: &str| -> Option<OciDigest> { answer.get(key)?.parse().ok() };
    let top = digest("containerimage.digest")?;
    let described = answer.get("containerimage.descriptor").and_then(|text| {
        let json = BASE64_STANDARD.decode(text).ok()?;
        serde_json::from_slice::<Descriptor>(&json).ok()
    });
    let descriptor = described.unwrap_or_else(|| Descriptor::new("", top, 0));
    Some(BuiltImage {
        id: digest("containerimage.config.digest").unwrap_or(top),
        descriptor,
        size: 0,
        names: names.to_vec(),
    })
}

/// What cannot be made of what several nodes make.
fn unjoinable(spec: &OutputSpec, target: &Target) -> Option<Diagnostic> {
    let refused = |message: &str, hint: &str| Diagnostic::unplaced(message).hint(hint);
    if !target.several {
        return None;
    }
    match &spec.kind {
        OutputKind::Tar {
            split: Some(false), ..
        }
        | OutputKind::Local {
            split: Some(false), ..
        } => Some(refused(
            "`platform-split=false` is not supported where several nodes build",
            "leave it out: each platform gets a directory",
        )),
        _ => unindexed(spec),
    }
}

/// What takes no image for several platforms.
fn unindexed(spec: &OutputSpec) -> Option<Diagnostic> {
    let refused = |message: &str, hint: &str| Diagnostic::unplaced(message).hint(hint);
    match &spec.kind {
        OutputKind::Docker { .. } => Some(refused(
            "docker's archive holds one platform only, and no index",
            "name one platform, or use `type=oci`",
        )),
        OutputKind::Load { context } => match takes_indexes(context.as_deref()) {
            Ok(true) => None,
            Ok(false) => Some(refused(
                "what there is to load into takes no image for several platforms",
                "name one platform, or use docker with the containerd image store",
            )),
            Err(error) => Some(Diagnostic::unplaced(error.to_string())),
        },
        _ => None,
    }
}

/// LLB has one of them alone.
fn sayable(limits: &Limits) -> bool {
    let others = Limits {
        cgroup_parent: None,
        ..limits.clone()
    };
    others == Limits::default()
}

/// Refuses what no daemon can be asked for, all of it at once.
pub(super) fn refuse(
    targets: &[Target],
    definition: &PrunedDefinition,
    builder: &Builder,
) -> Result<(), BuildError> {
    let mut refused = Vec::new();
    for (_, vertex) in definition.iter() {
        let (message, hint) = match &vertex.op {
            Op::Source(SourceOp::OciLayout(layout)) => (
                format!(
                    "the image layout `{}` cannot be sent to a builder",
                    layout.path
                ),
                "push the image to a registry, and name it there",
            ),
            Op::Exec(exec) if !sayable(&exec.limits) => (
                "a builder takes no limits of memory, processors or processes".to_owned(),
                "leave them out: they are for whoever runs the builder to set",
            ),
            Op::Source(SourceOp::Http(http)) if remote::is_stdin(http) => (
                "a context on standard input cannot be sent to a builder".to_owned(),
                "unpack it, and name the directory",
            ),
            _ => continue,
        };
        refused.push(match vertex.meta.spans.first() {
            Some(span) => Diagnostic::error(message, span.clone(), "").hint(hint),
            None => Diagnostic::unplaced(message).hint(hint),
        });
    }
    let is_dockerd = |node: &Node| matches!(node.place, Place::Daemon(BuilderAddress::Docker(_)));
    let farm = builder.nodes.len() > 1;
    let in_dockerd = !farm && builder.nodes.iter().any(is_dockerd);
    for target in targets {
        for spec in target.specs() {
            if farm {
                let kept = spec
                    .kind
                    .is_image()
                    .then(|| builder.nodes.iter().find(|node| is_dockerd(node)));
                if let Some(node) = kept.flatten() {
                    let message = format!(
                        "the node `{}` is a dockerd, which keeps the images that it builds",
                        node.name
                    );
                    let hint = "a builder of several nodes makes images on BuildKit daemons alone";
                    refused.push(Diagnostic::unplaced(message).hint(hint));
                    continue;
                }
                refused.extend(unjoinable(spec, target));
            } else if !in_dockerd && target.outputs.len() > 1 {
                refused.extend(unindexed(spec));
            }
            let problem = match &spec.kind {
                OutputKind::Oci { tar: false, .. } | OutputKind::Docker { tar: false, .. } => {
                    Some((
                        "a builder sends images as archives: `tar=false` is not one",
                        "leave `tar=false` out, and unpack the archive",
                    ))
                }
                OutputKind::Local { delete: true, .. } => Some((
                    "`mode=delete` is not supported with a builder",
                    "empty the directory before",
                )),
                OutputKind::Oci { .. } | OutputKind::Docker { .. } if in_dockerd => Some((
                    "a dockerd writes no archives of images while it builds",
                    "load the image, and `docker save` it",
                )),
                kind if in_dockerd && kind.pushes() => Some((
                    "a dockerd does not push while it builds",
                    "load the image, and `docker push` it",
                )),
                _ => None,
            };
            if let Some((message, hint)) = problem {
                refused.push(Diagnostic::unplaced(message).hint(hint));
            }
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(BuildError::request(refused)),
    }
}
