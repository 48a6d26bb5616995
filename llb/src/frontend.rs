//! What a plan language implements: two calls, both free of I/O.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::ImageConfig;
use crate::definition::Definition;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::SourceFile;
use crate::diagnostic::Span;
use crate::id::OciDigest;
use crate::op::FileModes;
use crate::op::Limits;
use crate::op::NetworkMode;
use crate::op::SourceOp;
use crate::op::Ulimit;
use crate::platform::Platform;

/// What the user asked of a plan, for one platform.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontendRequest {
    /// The Dockerfile or plan.
    pub source: Arc<SourceFile>,
    /// The main build context.
    pub context: MainContext,
    /// The ignore file of a local context, if there is one.
    pub ignore: Option<Arc<SourceFile>>,
    /// `--context-modes`: how modes in contexts of this machine count where the source does not say it.
    pub modes: FileModes,
    /// Stages, outputs or tests to build; none for the language's default.
    pub targets: Vec<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// What is built for.
    pub target_platform: Platform,
    /// Whether nobody asked for that platform, so that the image is for the one its base is for.
    pub implicit_platform: bool,
    /// What the builder runs on.
    pub build_platform: Platform,
    /// Whether several platforms are built, so that names of steps must say which.
    pub multi_platform: bool,
    /// `--no-cache`: nothing, everything, or stages by name (`--no-cache-filter`).
    pub no_cache: NoCache,
    /// `--network`.
    pub network: NetworkMode,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--memory`, `--resource` and their like.
    pub limits: Arc<Limits>,
    /// `--shm-size`, bytes; 0 for what steps have by default.
    pub shm_size: u64,
    /// SOURCE_DATE_EPOCH in Unix seconds.
    pub source_date_epoch: Option<i64>,
    /// `--set KEY=VALUE`: values in the place of those of the source.
    pub settings: Vec<String>,
    /// Other files that the source names, by their paths from its directory.
    pub files: Files,
    /// What version control says of the source's directory, if the source wants to know and there is any.
    pub git: Option<GitState>,
}

impl FrontendRequest {
    /// A request for the default target of `source`, for this machine, with nothing else said.
    pub fn new(source: Arc<SourceFile>) -> Self {
        Self {
            source,
            context: MainContext::Local,
            ignore: None,
            modes: FileModes::Exact,
            targets: Vec::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            contexts: BTreeMap::new(),
            target_platform: Platform::host(),
            implicit_platform: true,
            build_platform: Platform::host(),
            multi_platform: false,
            no_cache: NoCache::Off,
            network: NetworkMode::Default,
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            limits: Arc::default(),
            shm_size: 0,
            source_date_epoch: None,
            settings: Vec::new(),
            files: Files::default(),
            git: None,
        }
    }
}

/// Files by their paths from the directory of the plan, lexically cleaned.
pub type Files = Arc<BTreeMap<String, Arc<SourceFile>>>;

/// The state of a git work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitState {
    /// The commit that is checked out, in hexadecimal digits.
    pub commit: String,
    /// The branch that is checked out, if one is.
    pub branch: Option<String>,
    /// A tag of the commit, if it has one.
    pub tag: Option<String>,
}

/// Which steps must run although they are cached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Off,
    /// All.
    All,
    /// Those of the named stages.
    Stages(BTreeSet<String>),
}

/// Where the main build context is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MainContext {
    /// A directory: the local source called `context`, less what the ignore file names.
    #[default]
    Local,
    /// An archive to unpack: this pinned source, a single file.
    Archive(SourceOp),
    /// All files of this pinned source.
    Files(SourceOp),
}

/// What a `--build-context` name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory: the local source of that name.
    Local {
        /// The patterns of its own `.dockerignore`.
        exclude: Vec<String>,
    },
    /// An image: `docker-image://` or `oci-layout://`.
    Image(SourceOp),
    /// Anything else that is a file tree: git, http.
    Source(SourceOp),
    /// A step of the plan that this Dockerfile is an input of.
    Step,
}

/// Something the build needs to know of the outside before it can be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRequest {
    /// The source, unpinned.
    pub source: SourceOp,
    /// For which platform.
    pub platform: Platform,
    /// Where it is asked for.
    pub span: Option<Span>,
    /// A stage whose name is nearly the source's: what may be meant, should there be no such source.
    pub near: Option<String>,
}

/// What can be said of a plan without asking anyone.
#[derive(Debug, Clone, Default)]
pub struct Outline {
    /// Sources that are needed, each once, in the order of first use. Locals included.
    pub sources: Vec<SourceRequest>,
    /// Names of the stages or steps that will be built, in order.
    pub reachable: Vec<String>,
    /// Findings so far.
    pub warnings: Vec<Diagnostic>,
}

/// What pinning found out about a source.
#[derive(Debug, Clone, PartialEq)]
pub enum Pin {
    /// An image: the digest of the platform's manifest, and its config.
    Image {
        /// Of the platform's manifest.
        digest: OciDigest,
        /// ENV, USER, WORKDIR, SHELL, ONBUILD of it are needed to convert.
        config: Box<ImageConfig>,
    },
    /// A git commit.
    Git {
        /// 40 or 64 hexadecimal digits.
        commit: String,
    },
    /// A file.
    Http {
        /// Of its content.
        checksum: OciDigest,
    },
}

/// Pins by unpinned source and platform.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    list: Vec<((SourceOp, Platform), Pin)>,
}

impl Pins {
    /// The pin of a source.
    pub fn get(&self, source: &SourceOp, platform: &Platform) -> Option<&Pin> {
        self.list
            .iter()
            .find(|((s, p), _)| s == source && p == platform)
            .map(|(_, pin)| pin)
    }

    /// Adds or replaces a pin.
    pub fn insert(&mut self, source: SourceOp, platform: Platform, pin: Pin) {
        self.list
            .retain(|(key, _)| *key != (source.clone(), platform.clone()));
        self.list.push(((source, platform), pin));
    }
}

/// What [`Frontend::convert`] gives, or another question whose answer depends on what bases are.
#[derive(Debug)]
pub enum Conversion<T = Converted> {
    /// The graph, sources pinned; or the answer.
    Done(T),
    /// More sources must be pinned first: ONBUILD triggers of a base named them.
    NeedsSources(Vec<SourceRequest>),
}

/// A plan as a graph.
#[derive(Debug)]
pub struct Converted {
    /// The graph with its outputs.
    pub definition: Definition,
    /// What is to become of each of the definition's outputs, in their order.
    pub goals: Vec<Goal>,
    /// All findings.
    pub warnings: Vec<Diagnostic>,
}

/// What is to become of an output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Goal {
    /// Which: the name of the output or test, with the values of its matrix; of a Dockerfile the target.
    pub name: String,
    /// Where it is written.
    pub span: Option<Span>,
    /// The tests that must have passed before anything of it is written, by their names.
    pub require: Vec<String>,
    /// What is done with it.
    pub kind: GoalKind,
}

/// What is done with an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoalKind {
    /// It is an image, or files.
    Output {
        /// Names of the image, normalised.
        tags: Vec<String>,
        /// Whether the image is sent to the registries of its names.
        push: bool,
        /// Whether times in layers are clamped.
        clamp: bool,
        /// What is written to this machine, by paths from the plan's directory.
        exports: Vec<GoalExport>,
    },
    /// It is a step that checks something.
    Test {
        /// Files written when it has run, even if it failed.
        exports: Vec<FilesExport>,
    },
}

impl Default for GoalKind {
    fn default() -> Self {
        Self::Output {
            tags: Vec::new(),
            push: false,
            clamp: false,
            exports: Vec::new(),
        }
    }
}

/// Something that is written to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoalExport {
    /// Files.
    Files(FilesExport),
    /// An OCI image layout: an archive, or a directory.
    Oci {
        /// Where to.
        to: String,
        /// Whether it is an archive.
        tar: bool,
    },
    /// An archive for `docker load`.
    Docker {
        /// Where to.
        to: String,
    },
    /// An archive of the files.
    Tar {
        /// Where to.
        to: String,
    },
}

/// Files of a step that are written to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesExport {
    /// The file, or the directory whose content is written; absolute, in the step.
    pub path: String,
    /// Where to, from the plan's directory; a directory if it ends with `/`, or if `path` is one.
    pub to: String,
    /// Where `path` is written.
    pub span: Span,
}

/// A plan language.
pub trait Frontend {
    /// What the request's targets are built for.
    ///
    /// # Errors
    /// The diagnostics, at least one of them an error.
    fn platforms(&self, request: &FrontendRequest) -> Result<Vec<Platform>, Vec<Diagnostic>>;

    /// Targets that, together with the default, need all that the plan can need: for `rbuild lock`.
    ///
    /// # Errors
    /// The diagnostics, at least one of them an error.
    fn all_targets(&self, request: &FrontendRequest) -> Result<Vec<String>, Vec<Diagnostic>>;

    /// Parses, and tells which sources are needed. All problems are reported at once.
    ///
    /// # Errors
    /// The diagnostics, at least one of them an error.
    fn outline(&self, request: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>>;

    /// Converts to a graph.
    ///
    /// # Errors
    /// The diagnostics, at least one of them an error.
    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>>;
}
