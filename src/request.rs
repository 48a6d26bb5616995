//! What the user asked for, validated: `cli` makes it, `pipeline` carries it out.

mod builder;
mod caches;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use rbuild_llb::Platform;
use rbuild_llb::frontend::NoCache;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::Limits;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::SourceOp;
use rbuild_llb::op::Ulimit;
use serde::Deserialize;
use serde::Serialize;

pub use builder::BUILDER_SILENCE;
pub use builder::Builder;
pub use builder::BuilderAddress;
pub use builder::BuilderCache;
pub use builder::BuilderTls;
pub use builder::NODE_GRACE;
pub use builder::NODE_PATIENCE;
pub use builder::Node;
pub use builder::ParseBuilderError;
pub use builder::Place;
pub use caches::ActionsService;
pub use caches::CacheMounts;
pub use caches::CachePlace;
pub use caches::CacheTo;
pub use caches::MountIds;
pub use caches::ObjectCache;
pub use caches::ObjectKeys;

/// One `rbuild build`.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The build context.
    pub context: ContextSource,
    /// `-f`, or `None` to look for the default names in the context.
    pub file: Option<PlanFile>,
    /// `--llb`: a graph in the place of a Dockerfile or plan.
    pub llb: Option<LlbInput>,
    /// `--target`, and the outputs named behind the context; none for the plan's default.
    pub targets: Vec<String>,
    /// `--set`: values in the place of those of a plan, as `KEY=VALUE`.
    pub set: Vec<String>,
    /// `--also-run`: stages that must be built, and are no output.
    pub also_run: Vec<String>,
    /// `--build-arg`, with valueless ones already taken from the environment.
    pub build_args: BTreeMap<String, String>,
    /// Predefined proxy variables of the environment and of docker's config; offered as build arguments to RUN.
    pub proxy_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--build-context`.
    pub named_contexts: BTreeMap<String, NamedContextSource>,
    /// `--platform`; empty for the host's.
    pub platforms: Vec<Platform>,
    /// BUILDKIT_MULTI_PLATFORM: write what is for several platforms, also where there is one.
    pub multi_platform: bool,
    /// `-t`, normalised: `docker.io/library/app:latest`.
    pub tags: Vec<Tag>,
    /// `-o`; empty for rbuild's own store.
    pub outputs: Vec<OutputSpec>,
    /// `--annotation`: of every output that is an image, those a plan names too.
    pub annotations: Vec<Annotation>,
    /// `--no-cache`, `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--cache-from`, in order.
    pub cache_from: Vec<CachePlace>,
    /// `--cache-to`.
    pub cache_to: Vec<CacheTo>,
    /// `--cache-to type=inline`: images have their cache in them.
    pub inline_cache: bool,
    /// `--builder`: where steps run and results are made; here if it is not given.
    pub builder: Option<Builder>,
    /// `--pull`: ask for the digest of every tag again.
    pub pull: bool,
    /// `--offline`: ask no network.
    pub offline: bool,
    /// `--locked`: refuse what is not in the lock file.
    pub locked: bool,
    /// `--context-modes`: of a Dockerfile's contexts; a plan says it of each.
    pub context_modes: FileModes,
    /// `--network`.
    pub network: NetworkMode,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--memory`, `--resource` and their like.
    pub limits: Limits,
    /// `--shm-size`, bytes; 0 if nothing is said.
    pub shm_size: u64,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// `--allow`.
    pub allow: Entitlements,
    /// `--iidfile`.
    pub iidfile: Option<PathBuf>,
    /// `--metadata-file`.
    pub metadata_file: Option<PathBuf>,
    /// `--shell-on-fail`: the first step that fails is entered before the build ends, on a terminal of this kind (`TERM`).
    pub shell_on_fail: Option<OnTerminal>,
    /// `--jobs`: steps that run at once; by the number of cores if nothing is said.
    pub jobs: Option<usize>,
    /// SOURCE_DATE_EPOCH, Unix seconds.
    pub source_date_epoch: Option<i64>,
    /// Everything that is not about this one build.
    pub settings: Settings,
}

/// A graph that another client made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlbInput {
    /// The file, or standard input.
    pub file: PlanFile,
    /// `--llb-config`: the config of the image.
    pub config: Option<PathBuf>,
    /// Whether there is a build context, which is the local source `context` then.
    pub has_context: bool,
}

/// Who signs for steps that ask for ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshSource {
    /// The agent at this socket.
    Agent(PathBuf),
    /// An agent of the build's own, with the keys in these files.
    Keys(Vec<PathBuf>),
}

/// What holds for every subcommand: flags, `config.toml` and environment, merged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `$RBUILD_ROOT` or its defaults; the store is `v1` in it.
    pub root: PathBuf,
    /// Private temporary directory's parent.
    pub temp_dir: PathBuf,
    /// How registries are reached.
    pub registries: Registries,
    /// `config.json` of docker: credentials.
    pub docker_config: Option<PathBuf>,
    /// What such a file would hold, which goes before it: `DOCKER_AUTH_CONFIG`.
    pub docker_auth: Option<Secret>,
    /// `--ca`: a PEM bundle that is trusted for registries and bound into steps.
    pub ca: Option<PathBuf>,
    /// How old a tag's pinned digest may be, in seconds; 0 asks every time.
    pub tag_max_age: u64,
    /// Whether steps must have ranges of user and group ids (`--min-rung=1`), and one id is not enough.
    pub ranges_only: bool,
    /// HTTP proxy variables for our own requests.
    pub proxies: ProxySettings,
    /// What is removed by itself.
    pub gc: GcSettings,
    /// How layers become the root of a step; `None` for what works here.
    pub stacker: Option<Stacker>,
    /// How steps are kept apart.
    pub isolation: Isolation,
    /// Whether steps may have user namespaces of their own, where there are ranges of ids.
    pub nested_namespaces: bool,
    /// Which steps that fail are kept.
    pub keep_failed: KeepFailed,
    /// Where programs are that emulate other architectures.
    pub emulators: Emulators,
}

/// Where programs are that emulate other architectures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emulators {
    /// `--emulator`, by architecture as images name it.
    pub chosen: BTreeMap<String, PathBuf>,
    /// `PATH`, where QEMU's are looked for.
    pub path: Vec<PathBuf>,
}

/// The terminal that somebody sits at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnTerminal {
    /// Its kind, `TERM`.
    pub term: Option<String>,
}

/// Which steps that fail are kept, so that they can be entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeepFailed {
    /// None.
    Never,
    /// Those that were given no secrets.
    #[default]
    Auto,
    /// All, whatever they may have written down.
    Always,
}

/// How steps are kept apart from each other and the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In namespaces of their own.
    #[default]
    Namespaces,
    /// By chroot(2) alone.
    Chroot,
}

/// How layers become the root of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacker {
    /// Mounted on each other.
    Overlay,
    /// Copied into one directory, which is compared with what it was when the step has ended.
    Link,
}

/// What is removed after builds, without being asked for. `None` is the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcSettings {
    /// Whether anything is.
    pub enabled: bool,
    /// What the store may take in any case.
    pub reserved_space: Option<Space>,
    /// What it may take at most.
    pub max_used_space: Option<Space>,
    /// What is to be free on its disk.
    pub min_free_space: Option<Space>,
    /// Seconds for which what is not used stays, once the store takes more than is reserved.
    pub keep_duration: Option<u64>,
}

impl Default for GcSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            reserved_space: None,
            max_used_space: None,
            min_free_space: None,
            keep_duration: None,
        }
    }
}

/// Space on a disk: bytes, or a part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// So many.
    Bytes(u64),
    /// Of a hundred.
    Percent(u64),
}

impl Space {
    /// The bytes that are meant on a disk of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let part = u128::from(total) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for Space {
    type Err = String;

    /// `10GB`, `512m`, `1.5g`, plain bytes, or `10%`. Units are powers of 1024, as docker's flags and buildkitd.toml take
    /// them.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as `10GB`, `512MB` or `20%`");
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.trim().parse().ok();
            let percent = percent.filter(|percent| *percent <= 100);
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * (1_u64 << shift) as f64;
        match bytes < u64::MAX as f64 {
            true => Ok(Self::Bytes(bytes as u64)),
            false => Err(wrong()),
        }
    }
}

/// Proxies for our own requests, as URLs.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are asked directly.
    pub no_proxy: Vec<String>,
}

/// How registries are reached: what `config.toml` says, and where it says nothing, what docker and podman were told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// The `[registry]` tables of `config.toml`, by `host[:port]`.
    pub hosts: BTreeMap<String, RegistrySettings>,
    /// The `[[registry]]` tables of `registries.conf`.
    pub namespaces: Vec<Namespace>,
    /// `registry-mirrors` of `daemon.json`: URLs that are asked before Docker Hub.
    pub hub_mirrors: Vec<String>,
    /// `insecure-registries` of `daemon.json`: `host[:port]`, and networks as `address/bits`.
    pub insecure: Vec<String>,
    /// `certs.d` directories. The first that has a directory for a host counts.
    pub certificates: Vec<PathBuf>,
}

/// BuildKit's `[registry."host"]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Hosts tried before this one, in order.
    pub mirrors: Vec<String>,
    /// Plain HTTP. `None`: yes for loopback addresses, as docker does.
    pub http: Option<bool>,
    /// Do not verify certificates.
    pub insecure: Option<bool>,
    /// PEM files trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// Who we are to a registry that asks for a certificate.
    pub keypair: Option<KeyPair>,
    /// Directories like those in `certs.d`.
    pub tls_dirs: Vec<PathBuf>,
}

/// A client certificate and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPair {
    /// The certificate, those of its authorities after it.
    pub cert: PathBuf,
    /// The private key, not encrypted.
    pub key: PathBuf,
}

/// A `[[registry]]` table of `registries.conf`: names that begin with `prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// `host[:port]`, with a path behind it or not, or `*.host`.
    pub prefix: String,
    /// What takes the prefix' place in requests; `None` if nothing does.
    pub location: Option<String>,
    /// Plain HTTP or any certificate will do.
    pub insecure: Option<bool>,
    /// It may not be used.
    pub blocked: bool,
    /// Tried before `location`, in order.
    pub mirrors: Vec<NamespaceMirror>,
    /// `file:line`
    pub place: String,
    /// Why the table cannot be used; who asks for its names must be told.
    pub broken: Option<String>,
}

/// A `[[registry.mirror]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceMirror {
    /// What takes the prefix' place.
    pub location: String,
    /// Plain HTTP or any certificate will do.
    pub insecure: Option<bool>,
    /// What it is asked for.
    pub pulls: MirrorPulls,
}

/// `pull-from-mirror`: for which references a mirror is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorPulls {
    /// For all.
    All,
    /// For those with a digest.
    Digests,
    /// For those with a tag and no digest.
    Tags,
}

/// One target of a bake file.
#[derive(Debug, Clone)]
pub struct BakeTarget {
    /// Its name.
    pub name: String,
    /// What a build of it alone would be.
    pub request: BuildRequest,
    /// The Dockerfile itself.
    pub inline: Option<String>,
    /// Named contexts that are targets, by the name of the context.
    pub contexts: BTreeMap<String, String>,
    /// Whether it is there only as a context of others.
    pub linked: bool,
}

/// A name for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// For which of several targets.
    pub target: Option<String>,
    /// The name, normalised.
    pub name: String,
}

/// Where the build context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory.
    Directory(PathBuf),
    /// `-`: a Dockerfile (then there is no context) or a tar on standard input.
    Stdin,
    /// A git repository, or the URL of a tar or of a Dockerfile.
    Remote(String),
}

/// Where the Dockerfile or plan is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanFile {
    /// A file, relative to the working directory.
    Path(PathBuf),
    /// `-f -`
    Stdin,
    /// A URL.
    Url(String),
}

/// What `--build-context name=` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContextSource {
    /// A directory.
    Directory(PathBuf),
    /// `docker-image://` or `oci-layout://`.
    Image(SourceOp),
    /// A git repository, or one file by its URL.
    Remote(String),
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// Taken from the environment. Never printed.
    Value(Secret),
}

/// What RUN may ask for only if the user allows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `network.host`: `RUN --network=host`. Also given by `--network host`.
    pub network_host: bool,
    /// `security.insecure`: `RUN --security=insecure`.
    pub security_insecure: bool,
}

/// One `rbuild run`.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The image, normalised: `docker.io/library/app:latest`.
    pub image: String,
    /// Replaces the image's CMD; empty keeps it.
    pub args: Vec<String>,
    /// `--platform`; else this machine's, or the only one that the image has.
    pub platform: Option<Platform>,
    /// `--entrypoint`: replaces the image's, and its CMD with it.
    pub entrypoint: Option<String>,
    /// `-e`, added to the image's.
    pub env: BTreeMap<String, String>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`: `user[:group]`, names or ids.
    pub user: Option<String>,
    /// `-v`.
    pub volumes: Vec<Volume>,
    /// `--network`.
    pub network: NetworkMode,
    /// `-p`.
    pub ports: Vec<PublishedPort>,
    /// `-i`: standard input is the process's.
    pub interactive: bool,
    /// `-t`: the process has a terminal.
    pub terminal: bool,
    /// Everything that is not about this one run.
    pub settings: Settings,
}

/// One `rbuild shell`.
#[derive(Debug, Clone)]
pub struct ShellRequest {
    /// `--id`: the beginning of what the step goes by; the last that failed if nothing is said.
    pub id: Option<String>,
    /// What is run.
    pub command: ShellCommand,
    /// `-e`, added to the step's.
    pub env: BTreeMap<String, String>,
    /// The terminal's kind, `TERM`.
    pub term: Option<String>,
    /// Predefined proxy variables, as in a build.
    pub proxy_args: BTreeMap<String, String>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`: who signs, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// Everything that is not about this one shell.
    pub settings: Settings,
}

/// What is run in a step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShellCommand {
    /// A shell, at the terminal.
    Interactive,
    /// The step's own.
    Again,
    /// This.
    Other(Vec<String>),
}

/// A TCP port of this machine that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// Where to listen; port 0 for any that is free.
    pub host: SocketAddr,
    /// The container's.
    pub container: u16,
}

/// A directory or file of this machine in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Here, absolute.
    pub source: PathBuf,
    /// There, absolute.
    pub dest: String,
    /// `:ro`
    pub readonly: bool,
}

/// Bytes that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// The kind, with its own options.
    pub kind: OutputKind,
    /// How layers are compressed.
    pub compression: Compression,
    /// Layers of the base image too; they are exported as they came otherwise.
    pub force_compression: bool,
    /// Write docker's media types instead of OCI's.
    pub docker_types: bool,
    /// Keep the types of layers that say they must not be handed on.
    pub nondistributable: bool,
    /// Set all times in the layers this build makes that are later than SOURCE_DATE_EPOCH to it.
    pub rewrite_timestamp: bool,
    /// SOURCE_DATE_EPOCH of this output.
    pub epoch: Epoch,
    /// In the order they were given: the last of a name counts.
    pub annotations: Vec<Annotation>,
}

impl OutputSpec {
    /// An output without options.
    pub fn plain(kind: OutputKind) -> Self {
        Self {
            kind,
            compression: Compression::Default,
            force_compression: false,
            docker_types: false,
            nondistributable: false,
            rewrite_timestamp: false,
            epoch: Epoch::OfBuild,
            annotations: Vec::new(),
        }
    }
}

/// The SOURCE_DATE_EPOCH of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    /// The build's, if it has one.
    OfBuild,
    /// `source-date-epoch=`: none, whatever the build has.
    None,
    /// `source-date-epoch=SECONDS`, Unix time.
    At(i64),
}

impl Epoch {
    /// What holds for the output of a build with this SOURCE_DATE_EPOCH.
    pub fn or(self, of_build: Option<i64>) -> Option<i64> {
        match self {
            Self::OfBuild => of_build,
            Self::None => None,
            Self::At(epoch) => Some(epoch),
        }
    }
}

/// One `--annotation`, or one `annotation….KEY=` of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What carries it.
    pub level: AnnotationLevel,
    /// Only the image for this platform.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// The places of annotations, by BuildKit's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationLevel {
    /// The image manifest.
    Manifest,
    /// What points at the image manifest.
    ManifestDescriptor,
    /// The index over several platforms.
    Index,
    /// What points at the index.
    IndexDescriptor,
}

impl AnnotationLevel {
    /// Whether only several platforms have it.
    pub fn is_of_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

/// The exporters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// `type=image`: rbuild's own store, under the `-t` names, and registries.
    Image(ImageOutput),
    /// `type=oci`: a tar of the OCI image layout, or the layout as a directory with `tar=false`.
    Oci {
        /// Where to.
        dest: Destination,
        /// A tar.
        tar: bool,
    },
    /// `type=docker`: a tar `docker load` reads; with `tar=false` the same directory as `type=oci`.
    Docker {
        /// Where to.
        dest: Destination,
        /// A tar.
        tar: bool,
    },
    /// `--load`: into podman or docker, whichever is there.
    Load {
        /// `context=`: docker, with this context of its client.
        context: Option<String>,
    },
    /// `type=tar`: the root file system.
    Tar {
        /// Where to.
        dest: Destination,
        /// A directory for each platform; `None` for one if there are several.
        split: Option<bool>,
    },
    /// `type=local`: the root file system as a directory.
    Local {
        /// Where to.
        dest: PathBuf,
        /// A directory for each platform; `None` for one if there are several.
        split: Option<bool>,
        /// `mode=delete`: what else is in the directory goes.
        delete: bool,
    },
    /// `type=cacheonly`: nowhere; the build is done for its cache or its exit code.
    CacheOnly,
}

impl OutputKind {
    /// Whether it has a manifest and layers; the others have files alone, or nothing.
    pub fn is_image(&self) -> bool {
        match self {
            Self::Image(_) | Self::Oci { .. } | Self::Docker { .. } | Self::Load { .. } => true,
            Self::Tar { .. } | Self::Local { .. } | Self::CacheOnly => false,
        }
    }

    /// Whether it goes to a registry.
    pub fn pushes(&self) -> bool {
        matches!(self, Self::Image(image) if image.push != Push::No)
    }

    /// The path that it is written to, and whether a directory is made there.
    pub fn path(&self) -> Option<(&Path, bool)> {
        let (dest, is_directory) = match self {
            Self::Local { dest, .. } => return Some((dest, true)),
            Self::Oci { dest, tar } | Self::Docker { dest, tar } => (dest, !tar),
            Self::Tar { dest, .. } => (dest, false),
            Self::Image(_) | Self::Load { .. } | Self::CacheOnly => return None,
        };
        match dest {
            Destination::File(path) => Some((path, is_directory)),
            Destination::Stdout => None,
        }
    }
}

/// The options of `type=image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutput {
    /// Whether it goes to the registries of its names.
    pub push: Push,
    /// `registry.insecure`: push over plain HTTP, or with any certificate.
    pub insecure: bool,
    /// Name it in rbuild's own store.
    pub store: bool,
    /// `name-canonical`: besides each name `name@digest`.
    pub canonical: bool,
    /// `dangling-name-prefix`: besides the names `prefix@digest`.
    pub dangling: Option<String>,
    /// `danging-name-empty-only`: that, only if there is no other name.
    pub dangling_if_unnamed: bool,
}

impl ImageOutput {
    /// In rbuild's own store under its names, and pushed or not.
    pub fn with_push(push: Push) -> Self {
        Self {
            push,
            insecure: false,
            store: true,
            canonical: false,
            dangling: None,
            dangling_if_unnamed: false,
        }
    }
}

/// Whether an image goes to registries, and under what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// It does not.
    No,
    /// Under its names.
    ByName,
    /// Under its digest alone.
    ByDigest,
}

/// A file or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `dest=-`
    Stdout,
    /// `dest=FILE`
    File(PathBuf),
}

/// Layer compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The output's own: gzip where others read it, none in rbuild's store.
    Default,
    /// `compression=uncompressed`
    Uncompressed,
    /// `compression=gzip`, levels 0 to 9.
    Gzip(Option<u32>),
    /// `compression=zstd`, levels 1 to 22.
    Zstd(Option<u32>),
}
