//! The flags of `rbuild build`: those of `docker buildx build`, with its value syntax, and a few of our own.

use std::path::PathBuf;

use clap::ArgAction;
use clap::Args;

use super::config::KeepName;
use super::config::StackerName;
use super::values::boolean;

/// What every subcommand takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GlobalFlags {
    /// Directory of rbuild's store [env: RBUILD_ROOT]
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        value_name = "DIR"
    )]
    pub(crate) root: Option<PathBuf>,

    /// PEM bundle to trust for registries and inside steps
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        value_name = "FILE"
    )]
    pub(crate) ca: Option<PathBuf>,

    /// The weakest rung that steps may run on: 1 for ranges of user and group ids, 2 for one id as well (docs/rootless.md)
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        value_name = "RUNG",
        value_parser = clap::value_parser!(u8).range(1..=2)
    )]
    pub(crate) min_rung: Option<u8>,

    /// How layers become the root of a step [env: RBUILD_STACKER] [default: what works]
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        hide_possible_values = true,
        value_name = "overlay|link"
    )]
    pub(crate) stacker: Option<StackerName>,

    /// How steps are kept apart: `default`, in namespaces, or `chroot`, for root in a container that refuses them
    /// [env: RBUILD_ISOLATION]
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        value_name = "NAME"
    )]
    pub(crate) isolation: Option<String>,

    /// Whether steps may make user namespaces, as bubblewrap and other builders do [default: true]
    #[arg(long, global = true, help_heading = "Common options", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) nested_namespaces: Option<bool>,
    /// A static program that executes those of another architecture: `arm64=/opt/qemu-aarch64` [default: QEMU's in PATH]
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        value_name = "ARCH=FILE"
    )]
    pub(crate) emulator: Vec<String>,

    /// Show warnings in full
    #[arg(short = 'D', long, global = true, help_heading = "Common options")]
    pub(crate) debug: bool,
}

impl GlobalFlags {
    /// What was said of how steps run on this machine.
    pub(crate) fn of_steps_here(&self) -> Vec<&'static str> {
        let rows = [
            (self.min_rung.is_some(), "--min-rung"),
            (self.stacker.is_some(), "--stacker"),
            (self.isolation.is_some(), "--isolation"),
            (self.nested_namespaces.is_some(), "--nested-namespaces"),
            (!self.emulator.is_empty(), "--emulator"),
        ];
        let given = rows.into_iter().filter(|(given, _)| *given);
        given.map(|(_, flag)| flag).collect()
    }
}

/// The flags of a build. Boolean ones are bare or have `=true` or `=false`, as docker's do. What is not supported is
/// taken, so that it can be refused with what to do instead, but is not in the help.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuildFlags {
    /// Directory to build, or `-` for a Dockerfile or tar on standard input; then, of a plan, what of it to build. Where
    /// the directory has a plan, `rbuild build OUTPUT` is `rbuild build . OUTPUT`
    #[arg(value_name = "CONTEXT")]
    pub(crate) words: Vec<PathBuf>,

    /// Set a value of a plan, TOML or a string: `output.web.platforms=["linux/arm64"]`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,

    /// Stages that must be built as well, though nothing of them is written: tests
    #[arg(long, value_name = "STAGE")]
    pub(crate) also_run: Vec<String>,

    /// Add a line to /etc/hosts in steps: `host:ip`, or `host:host-gateway` for this machine
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,

    /// Allow what is refused by default: `network.host`, `security.insecure`, `buildx.local.delete`
    #[arg(long, value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,

    /// Annotate the image's manifest, or what LEVEL says: `manifest-descriptor`, `index`, `index-descriptor`, also
    /// `manifest[linux/arm64]`
    #[arg(long, value_name = "[LEVEL:]KEY=VALUE")]
    pub(crate) annotation: Vec<String>,

    /// Attestations: `type=sbom,disabled=true`
    #[arg(long, value_name = "OPTIONS", hide = true)]
    pub(crate) attest: Vec<String>,

    /// Set a build argument: `KEY=value`, or `KEY` to take it from the environment
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) build_arg: Vec<String>,

    /// Another context: `name=dir`, `name=docker-image://ref`, `name=oci-layout://dir[:tag]`
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(crate) build_context: Vec<String>,

    /// A BuildKit daemon that builds in the place of this machine: `unix://PATH`, `tcp://HOST:PORT`,
    /// `docker-container://NAME`, `podman-container://NAME`, `docker://`; or what `rbuild builder` knows by a name; `default`
    /// is this machine (docs/builders.md)
    #[arg(long, value_name = "ADDRESS|NAME")]
    pub(crate) builder: Option<String>,

    /// A cache that others filled: `type=registry,ref=name`, or `name` alone, `type=gha`, `s3`, `azblob`,
    /// `type=local,src=dir` (docs/shared-caches.md)
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) cache_from: Vec<String>,

    /// Keep the cache of this build for others: `type=registry,ref=name`, `type=gha`, `s3`, `azblob`, `type=inline` in
    /// the image itself, `type=local,dest=dir`; with `,mode=max` that of all steps, with
    /// `,mounts=all` cache mounts, too (docs/shared-caches.md)
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) cache_to: Vec<String>,

    /// What to do: `build`, `check`, `outline`, `targets`; as JSON with `,format=json`
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "build",
        hide_default_value = true
    )]
    pub(crate) call: String,

    /// The cgroup that those of steps are made in: a path, `/builds`
    #[arg(long, value_name = "CGROUP")]
    pub(crate) cgroup_parent: Option<String>,

    /// Shorthand for `--call=check`
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) check: bool,

    /// How modes of files of the context count, if a Dockerfile is built: `keep`, or `git`, so that another umask makes
    /// no difference [default: keep]
    #[arg(long, value_name = "MODES")]
    pub(crate) context_modes: Option<String>,

    /// The Dockerfile, or `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Write the image id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,

    /// How many steps run at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,

    /// Which failed steps are kept for `rbuild shell`: `auto`, those that were given no secrets; `always`; `never`
    /// [default: auto]
    #[arg(long, hide_possible_values = true, value_name = "WHICH")]
    pub(crate) keep_failed: Option<KeepName>,

    /// Set a label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,

    /// A graph that a client of BuildKit made (LLB, what `buildctl build` takes), in the place of a Dockerfile; `-` for
    /// standard input (docs/llb.md)
    #[arg(long, value_name = "FILE")]
    pub(crate) llb: Option<PathBuf>,

    /// With `--llb`, the config of the image: JSON as the OCI image-spec has it
    #[arg(long, value_name = "FILE")]
    pub(crate) llb_config: Option<PathBuf>,

    /// Hand the image to docker or podman
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) load: bool,

    /// With `--llb`, the directory that is a local source: `name=dir`
    #[arg(long, value_name = "NAME=DIR")]
    pub(crate) local: Vec<String>,

    /// Fail if the lock file is missing or has not all that is built on
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) locked: bool,

    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Network of steps: `default`, one of their own where that works (`rbuild doctor`); `host`; `none`
    #[arg(
        long,
        value_name = "MODE",
        default_value = "default",
        hide_default_value = true
    )]
    pub(crate) network: String,

    /// Run every step
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) no_cache: bool,

    /// Run every step of these stages
    #[arg(long, value_name = "STAGE,…")]
    pub(crate) no_cache_filter: Vec<String>,

    /// With `--llb`, the directory that is a store of image layouts: `name=dir`
    #[arg(long, value_name = "NAME=DIR")]
    pub(crate) oci_layout: Vec<String>,

    /// Use what is in the store and ask no network
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) offline: bool,

    /// Where the image goes: `type=oci,dest=image.tar`, `type=local,dest=dir`, a directory, or `-`
    #[arg(short, long, value_name = "OPTIONS")]
    pub(crate) output: Vec<String>,

    /// What to build for: `linux/amd64,linux/arm64`
    #[arg(long, value_name = "OS/ARCH,…")]
    pub(crate) platform: Vec<String>,

    /// Source policy
    #[arg(long, value_name = "OPTIONS", hide = true)]
    pub(crate) policy: Vec<String>,

    /// Progress: `auto`, `tty`, `plain`, `rawjson`, `quiet`, `none` [env: BUILDKIT_PROGRESS]
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(crate) progress: String,

    /// Shorthand for `--attest=type=provenance`
    #[arg(long, value_name = "OPTIONS", hide = true)]
    pub(crate) provenance: Option<String>,

    /// Ask registries again what tags mean; not those that the lock file has
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) pull: bool,

    /// Send the image to the registries of its tags
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) push: bool,

    /// Say nothing, and print the image id
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) quiet: bool,

    /// What each step may use, where cgroups allow it (`rbuild doctor`): `memory=2g`, `memory-swap=4g`, `cpu-quota=50000`,
    /// `cpu-period=…`, `cpu-shares=…`, `cpuset-cpus=0-3`, `cpuset-mems=0`
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) resource: Vec<String>,

    /// Shorthand for `--attest=type=sbom`
    #[arg(long, value_name = "OPTIONS", hide = true)]
    pub(crate) sbom: Option<String>,

    /// A secret for steps: `id=name,src=file`, `id=name,env=VARIABLE`
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) secret: Vec<String>,

    /// Enter the first step that fails, with a shell on this terminal, before the build ends
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
          default_missing_value = "true", value_name = "BOOL", value_parser = boolean)]
    pub(crate) shell_on_fail: bool,

    /// Size of /dev/shm in steps: `512m` [default: 64m]
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,

    /// An ssh agent for steps, which may list its keys and have it sign: `default`, `id=socket`, or keys: `id=file,file`
    #[arg(long, value_name = "ID[=SOCKET|FILE,…]")]
    pub(crate) ssh: Vec<String>,

    /// A name for the image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,

    /// The stage to build; several are built in one go
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Vec<String>,

    /// A resource limit of steps' processes: `nofile=1024:4096`
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,

    #[command(flatten)]
    pub(crate) legacy: LegacyFlags,
}

/// What `docker build` once took, and buildx still does, hidden.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LegacyFlags {
    #[arg(short, long, hide = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(short, long, hide = true)]
    pub(crate) cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpu_period: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_mems: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) security_opt: Vec<String>,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = boolean)]
    pub(crate) squash: bool,
    /// There are no intermediate containers to remove or to keep.
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = boolean)]
    pub(crate) rm: bool,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = boolean)]
    pub(crate) force_rm: bool,
    /// The context is read where it is.
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = boolean)]
    pub(crate) compress: bool,
}

impl BuildFlags {
    /// What was said of how steps run on this machine.
    pub(crate) fn of_steps_here(&self) -> Vec<&'static str> {
        let rows = [
            (self.jobs.is_some(), "--jobs"),
            (self.keep_failed.is_some(), "--keep-failed"),
        ];
        let given = rows.into_iter().filter(|(given, _)| *given);
        given.map(|(_, flag)| flag).collect()
    }

    /// The flags that are given but cannot be honoured, with what to do instead.
    pub(crate) fn unsupported(&self) -> Vec<(String, &'static str)> {
        let legacy = &self.legacy;
        let attestation =
            "leave it out or set it to `false`; an SBOM can be made from the finished image";
        let security =
            "write `RUN --security=insecure` and allow it with `--allow security.insecure`";
        let rows = [
            (
                self.attest.iter().any(|a| asks_for_attestation(a)),
                "attest",
                attestation,
            ),
            (
                wanted(self.provenance.as_deref()),
                "provenance",
                attestation,
            ),
            (wanted(self.sbom.as_deref()), "sbom", attestation),
            (!self.policy.is_empty(), "policy", "leave it out"),
            (!legacy.security_opt.is_empty(), "security-opt", security),
            (
                legacy.squash,
                "squash",
                "copy the result into one layer: `FROM scratch` and `COPY --from=stage / /`",
            ),
        ];
        let given = rows.into_iter().filter(|(given, _, _)| *given);
        given
            .map(|(_, flag, hint)| (format!("--{flag}"), hint))
            .collect()
    }
}

/// Whether `--provenance` or `--sbom` asks for something.
fn wanted(value: Option<&str>) -> bool {
    value.is_some_and(|value| !value.is_empty() && boolean(value) != Ok(false))
}

/// Whether an `--attest` asks for something: `type=sbom,disabled=true` does not.
fn asks_for_attestation(text: &str) -> bool {
    !text
        .split(',')
        .filter_map(|field| field.strip_prefix("disabled="))
        .any(|value| boolean(value) == Ok(true))
}
