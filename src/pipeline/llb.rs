//! A graph that another client of BuildKit made (`--llb`), in the place of a plan: what `buildctl build` takes on its
//! standard input.
//!
//! It says itself what every step does, so nothing of a request changes it but where its sources are: a local source is
//! a directory by its name, an image layout a directory by the name of its store. All that cannot be run of it is told
//! at once, before anybody is asked for a source. It is as hostile as a registry's answer: bounded, and its entitlements
//! are the request's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use rbuild_llb::Definition;
use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::Frontend;
use rbuild_llb::ImageConfig;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::definition::Output;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::NoCache;
use rbuild_llb::frontend::Outline;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::GitSource;
use rbuild_llb::op::SourceOp;
use rbuild_llb::proto;

use super::files::Language;
use super::plan;
use super::plan::Home;
use super::plan::Plan;
use crate::ops::LocalRoot;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry::MAX_DOCUMENT;
use crate::registry::Reference;
use crate::request::BuildRequest;
use crate::request::ContextSource;
use crate::request::LlbInput;
use crate::request::NamedContextSource;
use crate::request::PlanFile;

/// A larger file is no graph that somebody means: BuildKit takes 16 MiB.
const LIMIT: u64 = 16 << 20;

/// The name of what it makes.
const NAME: &str = "llb";

/// What BuildKit's exporter says of an image that it is told nothing of (exporter/containerimage, defaultImageConfig).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A graph whose sources are found and not pinned yet.
#[derive(Debug)]
pub(super) struct Graph {
    definition: Definition,
}

/// Reads the graph that a request names.
pub(super) fn read(request: &BuildRequest, input: &LlbInput) -> Result<Plan, BuildError> {
    let (bytes, name) = match &input.file {
        PlanFile::Path(path) => {
            let file = File::open(path);
            let bytes = file.and_then(|file| bounded(file, LIMIT));
            (bytes, path.display().to_string())
        }
        PlanFile::Stdin | PlanFile::Url(_) => (bounded(io::stdin(), LIMIT), "-".to_owned()),
    };
    let bytes = bytes.map_err(|error| plan::unreadable(&format!("`{name}`"), error))?;
    let host = Platform::host();
    let platform = request.platforms.first().unwrap_or(&host);
    let definition = match bytes.is_empty() {
        // BuildKit's client says so too: a program that failed wrote nothing.
        true => Err(vec![Diagnostic::unplaced(format!("`{name}` is empty"))]),
        false => proto::decode(&bytes, platform).map_err(|errors| {
            errors
                .iter()
                .map(|error| diagnostic(&name, error))
                .collect()
        }),
    };
    let mut definition = definition.map_err(BuildError::request)?;
    let locals = locals(request, input)?;
    let layouts = layouts(request);
    let mut problems = Vec::new();
    definition = with_sources(&definition, |vertex, source| {
        find(source, &locals, &layouts).unwrap_or_else(|problem| {
            let diagnostic = match vertex.meta.spans.first() {
                Some(span) => Diagnostic::error(problem.message, span.clone(), ""),
                None => Diagnostic::unplaced(problem.message),
            };
            problems.push(problem.hint.into_iter().fold(diagnostic, Diagnostic::hint));
            source.clone()
        })
    });
    if !problems.is_empty() {
        return Err(BuildError::request(problems));
    }
    for output in &mut definition.outputs {
        output.config = config(input, output)?;
        output.platform = output.config.platform();
        NAME.clone_into(&mut output.name);
    }
    let identity = match &input.file {
        PlanFile::Path(path) => std::path::absolute(path)
            .unwrap_or_else(|_| path.clone())
            .display()
            .to_string(),
        PlanFile::Stdin | PlanFile::Url(_) => name.clone(),
    };
    Ok(Plan {
        source: Arc::new(SourceFile {
            name,
            text: String::new(),
            language: "",
        }),
        language: Language::Llb(Box::new(Graph { definition })),
        context: MainContext::Local,
        ignore: None,
        locals,
        home: Home::default(),
        files: Default::default(),
        git: None,
        identity,
        lock_path: None,
        locks: Vec::new(),
        remark: None,
    })
}

fn bounded(from: impl io::Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let why = format!("it is larger than {} MiB", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

fn diagnostic(name: &str, error: &proto::DecodeError) -> Diagnostic {
    let mut message = format!("`{name}`: {error}");
    if let Some(why) = std::error::Error::source(error) {
        message += &format!(": {why}");
    }
    let diagnostic = Diagnostic::unplaced(message);
    match error {
        proto::DecodeError::Malformed { .. } => diagnostic.hint(
            "it takes what BuildKit's clients marshal, `pb.Definition`; of a Dockerfile, `rbuild debug dump-llb \
             --format pb` writes that",
        ),
        _ => diagnostic,
    }
}

/// The directories that are given, by the names of local sources.
fn locals(
    request: &BuildRequest,
    input: &LlbInput,
) -> Result<BTreeMap<String, LocalRoot>, BuildError> {
    let mut locals = plan::named_directories(request)?;
    if let (true, ContextSource::Directory(dir)) = (input.has_context, &request.context) {
        let root = LocalRoot {
            path: dir.clone(),
            shown: dir.display().to_string(),
        };
        locals.entry("context".to_owned()).or_insert(root);
    }
    Ok(locals)
}

/// The image layouts that are given, by the names of stores.
fn layouts(request: &BuildRequest) -> BTreeMap<&str, String> {
    let contexts = request.named_contexts.iter();
    contexts
        .filter_map(|(name, context)| match context {
            NamedContextSource::Image(SourceOp::OciLayout(layout)) => {
                Some((name.as_str(), layout.path.clone()))
            }
            _ => None,
        })
        .collect()
}

/// Why a source cannot be had.
struct Problem {
    message: String,
    hint: Option<String>,
}

/// Where a source is, with its name as this house writes it.
fn find(
    source: &SourceOp,
    locals: &BTreeMap<String, LocalRoot>,
    layouts: &BTreeMap<&str, String>,
) -> Result<SourceOp, Problem> {
    let problem = |message: String, hint: Option<String>| Err(Problem { message, hint });
    let mut found = source.clone();
    match &mut found {
        SourceOp::Image(image) => match Reference::from_str(&image.reference) {
            Ok(reference) => image.reference = reference.to_string(),
            Err(error) => return problem(error.to_string(), None),
        },
        SourceOp::OciLayout(layout) => match layouts.get(layout.path.as_str()) {
            Some(path) => layout.path.clone_from(path),
            None => {
                let hint = format!("say where it is: `--oci-layout {}=DIR`", layout.path);
                let message = format!("no image layout is called `{}`", layout.path);
                return problem(message, Some(hint));
            }
        },
        SourceOp::Local(local) => {
            if !locals.contains_key(&local.name) {
                let hint = format!("say which it is: `--local {}=DIR`", local.name);
                let message = format!("no directory is called `{}`", local.name);
                return problem(message, Some(hint));
            }
        }
        SourceOp::Git(git) => {
            if let Some(why) = wrong_with(git) {
                return problem(format!("`{}` cannot be used: {why}", git.remote), None);
            }
        }
        SourceOp::Http(http) => {
            if http.filename.is_empty() {
                let named = rbuild_dockerfile::http_source(&http.url);
                http.filename = named.filename;
            }
            if http.filename.contains(['/', '\0']) || matches!(&*http.filename, "." | "..") {
                let name = http.filename.escape_debug();
                let message = format!("`{}` cannot be called `{name}`", http.url);
                return problem(message, None);
            }
        }
    }
    Ok(found)
}

/// What git is not to be told.
fn wrong_with(git: &GitSource) -> Option<&'static str> {
    // git has transports that run commands, and some that read this machine's files.
    let fits = match git.remote.split_once("://") {
        Some((scheme, _)) => matches!(scheme, "https" | "http" | "ssh" | "git"),
        None => !git.remote.contains("::") && git.remote.contains(':'),
    };
    let words = [&git.remote, &git.reference, &git.subdir];
    if !fits {
        Some("wanted `https://`, `http://`, `ssh://`, `git://`, or `user@host:path`")
    } else if words.iter().any(|word| word.starts_with('-')) {
        Some("git would take a part of it for an option")
    } else if git.subdir.split('/').any(|part| part == "..") {
        Some("the directory is not in the repository")
    } else {
        None
    }
}

/// The image's config: that of `--llb-config`, or what BuildKit's exporter writes without one.
fn config(input: &LlbInput, output: &Output) -> Result<ImageConfig, BuildError> {
    let mut config = match &input.config {
        None => {
            let mut config = output.config.clone();
            config.config.env = vec![DEFAULT_PATH.to_owned()];
            config.config.working_dir = "/".to_owned();
            config
        }
        Some(path) => config_file(path)?,
    };
    if config.os.is_empty() || config.architecture.is_empty() {
        config.set_platform(&output.platform);
    }
    Ok(config)
}

fn config_file(path: &Path) -> Result<ImageConfig, BuildError> {
    let shown = format!("`{}`", path.display());
    let bytes = File::open(path).and_then(|file| bounded(file, MAX_DOCUMENT));
    let bytes = bytes.map_err(|error| plan::unreadable(&shown, error))?;
    // A list would be read as the fields in their order.
    let object: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_slice(&bytes);
    let config = object.and_then(|object| serde_json::from_value(object.into()));
    config.map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("{shown} is no image config"));
        BuildError::new(ErrorKind::Request, error).hint(
            "wanted the JSON of the image-spec's config.md: `{\"config\":{\"Cmd\":[\"/app\"]}}`",
        )
    })
}

/// The same graph with other sources.
fn with_sources(
    definition: &Definition,
    mut change: impl FnMut(&Vertex, &SourceOp) -> SourceOp,
) -> Definition {
    let mut changed = Definition::with_capacity(definition.len());
    let mut ids: BTreeMap<VertexId, VertexId> = BTreeMap::new();
    let edge = |ids: &BTreeMap<VertexId, VertexId>, edge: &Edge| Edge {
        vertex: ids[&edge.vertex],
        output: edge.output,
    };
    for (id, vertex) in definition.iter() {
        let op = match &vertex.op {
            Op::Source(source) => Op::Source(change(vertex, source)),
            op => op.clone(),
        };
        let inputs = vertex.inputs.iter().map(|input| edge(&ids, input));
        let vertex = Vertex {
            op,
            inputs: inputs.collect(),
            platform: vertex.platform.clone(),
            meta: vertex.meta.clone(),
        };
        ids.insert(id, changed.add(vertex));
    }
    let outputs = definition.outputs.iter().map(|output| Output {
        root: output.root.as_ref().map(|root| edge(&ids, root)),
        ..output.clone()
    });
    changed.outputs = outputs.collect();
    changed
}

/// Whether a source means the same tomorrow.
fn is_fixed(source: &SourceOp) -> bool {
    match source {
        SourceOp::Local(_) => true,
        // The config of an image is nobody's here, but its manifest must be in the store.
        SourceOp::Image(_) | SourceOp::OciLayout(_) => false,
        SourceOp::Git(git) => git.commit.is_some(),
        SourceOp::Http(http) => http.checksum.is_some(),
    }
}

/// A source with what was found out about it.
fn pinned(source: &SourceOp, pin: Option<&Pin>) -> Option<SourceOp> {
    let mut pinned = source.clone();
    match (&mut pinned, pin) {
        (SourceOp::Image(image), Some(Pin::Image { digest, .. })) => image.digest = Some(*digest),
        (SourceOp::OciLayout(layout), Some(Pin::Image { digest, .. })) => {
            layout.digest = Some(*digest);
        }
        (SourceOp::Git(git), Some(Pin::Git { commit })) => {
            git.commit = Some(commit.clone());
            git.checksum = None;
        }
        (SourceOp::Http(http), Some(Pin::Http { checksum })) => http.checksum = Some(*checksum),
        (source, _) if is_fixed(source) => {}
        _ => return None,
    }
    Some(pinned)
}

impl Graph {
    fn sources(&self) -> Vec<SourceRequest> {
        let sources = self.definition.iter().filter_map(|(_, vertex)| {
            let Op::Source(source) = &vertex.op else {
                return None;
            };
            (!is_fixed(source)).then(|| SourceRequest {
                source: source.clone(),
                platform: vertex.platform.clone(),
                span: vertex.meta.spans.first().cloned(),
                near: None,
            })
        });
        sources.collect()
    }
}

impl Frontend for Graph {
    fn platforms(&self, _: &FrontendRequest) -> Result<Vec<Platform>, Vec<Diagnostic>> {
        let outputs = self.definition.outputs.iter();
        Ok(outputs.map(|output| output.platform.clone()).collect())
    }

    fn all_targets(&self, _: &FrontendRequest) -> Result<Vec<String>, Vec<Diagnostic>> {
        Ok(Vec::new())
    }

    fn outline(&self, _: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>> {
        Ok(Outline {
            sources: self.sources(),
            reachable: vec![NAME.to_owned()],
            warnings: Vec::new(),
        })
    }

    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>> {
        let mut missing = false;
        let mut definition = with_sources(&self.definition, |vertex, source| {
            let found = pinned(source, pins.get(source, &vertex.platform));
            missing |= found.is_none();
            found.unwrap_or_else(|| source.clone())
        });
        if missing {
            return Ok(Conversion::NeedsSources(self.sources()));
        }
        for output in &mut definition.outputs {
            let labels = request.labels.clone();
            output.config.config.labels.extend(labels);
        }
        if request.no_cache == NoCache::All {
            definition.ignore_caches();
        }
        Ok(Conversion::Done(Converted {
            goals: vec![Goal {
                name: NAME.to_owned(),
                ..Goal::default()
            }],
            definition,
            warnings: Vec::new(),
        }))
    }
}
