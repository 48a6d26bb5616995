//! `rbuild bake`: the targets of a bake file, in one build. Each target's attributes are the flags of a build of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use rbuild_bake::Attributes;
use rbuild_bake::BakeOptions;
use rbuild_bake::BakePlan;
use rbuild_bake::CacheEntry;
use rbuild_bake::Resources;
use rbuild_bake::Target;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;

use super::Failed;
use super::Session;
use super::build;
use super::build::Prepared;
use super::flags::BuildFlags;
use super::values::problem;
use crate::clock;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::request::BakeTarget;
use crate::ui;
use crate::ui::Progress;

/// The flags of `rbuild bake`.
#[derive(Debug, Args)]
pub(super) struct BakeFlags {
    /// Targets and groups; `default` if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,

    /// A bake or compose file; by default those of the usual names in the working directory
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Override a value of targets: `TARGET.KEY=VALUE`, patterns allowed
    #[arg(long, value_name = "TARGET.KEY=VALUE")]
    set: Vec<String>,

    /// Set a variable of the file
    #[arg(long, value_name = "NAME=VALUE")]
    var: Vec<String>,

    /// A BuildKit daemon that builds in the place of this machine, as with `rbuild build`; `default` is this machine
    /// (docs/builders.md)
    #[arg(long, value_name = "ADDRESS|NAME")]
    builder: Option<String>,

    /// Print what would be built, as buildx does, and build nothing
    #[arg(long)]
    print: bool,

    /// Allow steps what is refused by default: `network.host`, `security.insecure`
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,

    /// Hand the images to podman or docker
    #[arg(long)]
    load: bool,

    /// Send the images to the registries of their tags
    #[arg(long)]
    push: bool,

    /// Run every step
    #[arg(long)]
    no_cache: bool,

    /// Ask registries again what tags mean
    #[arg(long)]
    pull: bool,

    /// Use what is in the store and ask no network
    #[arg(long)]
    offline: bool,

    /// Fail if the lock files beside the Dockerfiles have not all that is built on
    #[arg(long)]
    locked: bool,

    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,

    /// Enter the first step that fails, with a shell on this terminal, before the build ends
    #[arg(long)]
    shell_on_fail: bool,

    /// Progress: `auto`, `tty`, `plain`, `rawjson`, `quiet`, `none` [env: BUILDKIT_PROGRESS]
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        hide_default_value = true
    )]
    progress: String,
}

/// Runs the command.
pub(super) fn run(flags: &BakeFlags, session: &Session) -> Result<ExitCode, Failed> {
    let plan = resolve(flags, session)?;
    for warning in &plan.warnings {
        ui::finding(warning, session.terminal);
    }
    if flags.print {
        super::print(rbuild_bake::print(&plan).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, target) in &plan.targets {
        for cache in other_caches(target) {
            let message = format!(
                "target `{name}`: a cache of type `{}` is left out",
                cache.kind
            );
            let warning = Diagnostic {
                severity: rbuild_llb::Severity::Warning,
                ..problem(message)
            };
            let hint = "rbuild has `registry`, `gha`, `s3`, `azblob`, `inline` and `local`";
            ui::finding(&warning.hint(hint), session.terminal);
        }
    }
    let (base, targets) = requests(flags, &plan, session).map_err(BuildError::request)?;
    let progress = Progress::start(base.talk.mode, session.terminal, base.secrets);
    let result = pipeline::bake::bake(&base.request, &targets, &progress);
    build::report(result, progress, base.talk, session)
}

fn resolve(flags: &BakeFlags, session: &Session) -> Result<BakePlan, BuildError> {
    let mut files = Vec::new();
    let named: Vec<PathBuf> = match flags.file.is_empty() {
        false => flags.file.clone(),
        true => {
            let names = rbuild_bake::DEFAULT_FILES.iter().map(PathBuf::from);
            names.filter(|name| name.is_file()).collect()
        }
    };
    if named.is_empty() {
        let error = anyhow::anyhow!("there is no bake file here");
        let names = rbuild_bake::DEFAULT_FILES.join("`, `");
        return Err(BuildError::new(ErrorKind::Request, error)
            .hint(format!("name one with `-f`; looked for are `{names}`")));
    }
    for path in &named {
        files.push(read(path)?);
    }
    let dotenv = Path::new(".env").is_file().then(|| read(Path::new(".env")));
    let mut overrides = flags.set.clone();
    for (set, key) in [
        (flags.push, "push"),
        (flags.load, "load"),
        (flags.pull, "pull"),
        (flags.no_cache, "no-cache"),
    ] {
        if set {
            overrides.push(format!("*.{key}=true"));
        }
    }
    let mut variables = BTreeMap::new();
    for text in &flags.var {
        let Some((name, value)) = text.split_once('=') else {
            let error = problem(format!("`--var {text}` sets nothing")).hint("wanted `NAME=VALUE`");
            return Err(BuildError::request(vec![error]));
        };
        variables.insert(name.to_owned(), value.to_owned());
    }
    let options = BakeOptions {
        targets: flags.targets.clone(),
        overrides,
        variables,
        environment: session.env.all(),
        dotenv: dotenv.transpose()?,
        now: clock::now().0.div_euclid(1_000_000_000) as i64,
        local_platform: Platform::host().to_string(),
        command_context: "cwd://".to_owned(),
    };
    rbuild_bake::resolve(&files, &options).map_err(BuildError::request)
}

fn read(path: &Path) -> Result<Arc<SourceFile>, BuildError> {
    let text = fs::read_to_string(path).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot read `{}`", path.display()));
        BuildError::new(ErrorKind::Request, error)
    })?;
    let name = path.display().to_string();
    let language = rbuild_bake::language_of(&name);
    Ok(Arc::new(SourceFile {
        name,
        text,
        language,
    }))
}

/// The request that holds for all, and those of the targets.
fn requests(
    flags: &BakeFlags,
    plan: &BakePlan,
    session: &Session,
) -> Result<(Prepared, Vec<BakeTarget>), Vec<Diagnostic>> {
    let base = BuildFlags {
        words: vec![PathBuf::from(".")],
        builder: flags.builder.clone(),
        metadata_file: flags.metadata_file.clone(),
        shell_on_fail: flags.shell_on_fail,
        progress: flags.progress.clone(),
        network: "default".to_owned(),
        allow: flags.allow.clone(),
        pull: flags.pull,
        locked: flags.locked,
        offline: flags.offline,
        ..BuildFlags::default()
    };
    let mut base = build::prepare(&base, session)?;
    let mut targets = Vec::with_capacity(plan.targets.len());
    let mut problems = Vec::new();
    for (name, target) in &plan.targets {
        match self::target(name, target, flags, session) {
            Ok((target, secrets)) => {
                let own = &target.request;
                base.request.pull |= own.pull;
                base.request.secrets.extend(own.secrets.clone());
                base.request.ssh.extend(own.ssh.clone());
                base.secrets.extend(secrets);
                targets.push(target);
            }
            Err(found) => problems.extend(found.into_iter().map(|found| {
                Diagnostic {
                    message: format!("target `{name}`: {}", found.message),
                    labels: target
                        .span
                        .iter()
                        .map(|span| rbuild_llb::diagnostic::Label {
                            span: span.clone(),
                            text: String::new(),
                        })
                        .collect(),
                    ..found
                }
            })),
        }
    }
    match problems.is_empty() {
        true => Ok((base, targets)),
        false => Err(problems),
    }
}

/// A target as the flags of its own build, validated.
fn target(
    name: &str,
    target: &Target,
    flags: &BakeFlags,
    session: &Session,
) -> Result<(BakeTarget, Vec<Vec<u8>>), Vec<Diagnostic>> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let pairs = |map: &BTreeMap<String, Option<String>>, between: char| -> Vec<String> {
        map.iter()
            .filter_map(|(key, value)| Some(format!("{key}{between}{}", value.as_ref()?)))
            .collect()
    };
    let context = target.context.clone().unwrap_or_else(|| ".".to_owned());
    if let Some(other) = context.strip_prefix("target:") {
        let message = format!("`target:{other}` cannot be the main context");
        return Err(vec![problem(message).hint("give it a name in `contexts`")]);
    }
    let (linked, named): (Vec<_>, Vec<_>) = target
        .contexts
        .iter()
        .partition(|(_, context)| context.starts_with("target:"));
    let remote = super::sources::is_remote(&context);
    let file = target.dockerfile.as_ref().map(|file| match remote {
        true => PathBuf::from(file),
        false => Path::new(&context).join(file),
    });
    let inline = target.dockerfile_inline.clone();
    let build = BuildFlags {
        words: vec![PathBuf::from(&context)],
        builder: flags.builder.clone(),
        file: file.filter(|_| inline.is_none()),
        add_host: pairs(&target.extra_hosts, '='),
        allow: flags.allow.clone(),
        annotation: list(&target.annotations),
        build_arg: pairs(&target.args, '='),
        cache_from: caches(&target.cache_from),
        cache_to: caches(&target.cache_to),
        build_context: named
            .iter()
            .map(|(name, context)| format!("{name}={context}"))
            .collect(),
        label: pairs(&target.labels, '='),
        network: target
            .network
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        no_cache: target.no_cache.unwrap_or(false),
        no_cache_filter: list(&target.no_cache_filter),
        offline: flags.offline,
        output: target.outputs.iter().flatten().map(output).collect(),
        platform: list(&target.platforms),
        progress: flags.progress.clone(),
        pull: target.pull.unwrap_or(false),
        secret: target.secrets.iter().flatten().map(secret).collect(),
        shm_size: target.shm_size.clone(),
        ssh: target.ssh.iter().flatten().map(ssh).collect(),
        tag: list(&target.tags),
        target: target.target.iter().cloned().collect(),
        resource: target.resources.iter().flat_map(resources).collect(),
        ulimit: list(&target.ulimits),
        ..BuildFlags::default()
    };
    let prepared = build::prepare(&build, session)?;
    let contexts = linked.into_iter().map(|(name, context)| {
        let target = context.strip_prefix("target:").unwrap_or(context);
        (name.clone(), target.to_owned())
    });
    Ok((
        BakeTarget {
            name: name.to_owned(),
            request: prepared.request,
            inline,
            contexts: contexts.collect(),
            linked: target.linked,
        },
        prepared.secrets,
    ))
}

fn resources(resources: &Resources) -> impl Iterator<Item = String> {
    let given = Resources::NAMES.map(|name| Some(format!("{name}={}", resources.get(name)?)));
    given.into_iter().flatten()
}

/// The caches that there are; bake files name others for the machines that CI runs on.
fn caches(caches: &Option<Vec<CacheEntry>>) -> Vec<String> {
    let known = caches.iter().flatten().filter(|cache| is_known(cache));
    known
        .map(|cache| options(&cache.kind, "", &cache.attributes))
        .collect()
}

fn other_caches(target: &Target) -> impl Iterator<Item = &CacheEntry> {
    let from = target.cache_from.iter().flatten();
    let caches = from.chain(target.cache_to.iter().flatten());
    caches.filter(|cache| !is_known(cache))
}

fn is_known(cache: &CacheEntry) -> bool {
    matches!(
        cache.kind.as_str(),
        "local" | "registry" | "inline" | "gha" | "s3" | "azblob"
    )
}

fn output(output: &rbuild_bake::Output) -> String {
    options(&output.kind, &output.destination, &output.attributes)
}

/// As flags have it: `type=oci,dest=a.tar,"name=a,b"`.
fn options(kind: &str, destination: &str, attributes: &Attributes) -> String {
    let mut fields = vec![format!("type={kind}")];
    if !destination.is_empty() {
        fields.push(format!("dest={destination}"));
    }
    fields.extend(
        attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    let quoted = fields.iter().map(|field| match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    });
    quoted.collect::<Vec<String>>().join(",")
}

fn secret(secret: &rbuild_bake::Secret) -> String {
    let mut text = format!("id={}", secret.id);
    for (key, value) in [("src", &secret.source), ("env", &secret.env)] {
        if !value.is_empty() {
            text.push_str(&format!(",{key}={value}"));
        }
    }
    text
}

fn ssh(ssh: &rbuild_bake::Ssh) -> String {
    match ssh.paths.is_empty() {
        true => ssh.id.clone(),
        false => format!("{}={}", ssh.id, ssh.paths.join(",")),
    }
}
