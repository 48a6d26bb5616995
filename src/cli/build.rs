//! `rbuild build`: flags to a [`BuildRequest`], the build, and what is said at its end.

mod outputs;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::ExitCode;

use rbuild_llb::Diagnostic;
use rbuild_llb::frontend::NoCache;
use rbuild_llb::op::Limits;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::Ulimit;

use super::Failed;
use super::Session;
use super::annotation;
use super::builders;
use super::cache;
use super::call::Call;
use super::env::Env;
use super::flags::BuildFlags;
use super::limits;
use super::llb;
use super::proxies;
use super::sources;
use super::sources::Secrets;
use super::values;
use super::values::invalid;
use super::values::problem;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::pipeline;
use crate::request::BUILDER_SILENCE;
use crate::request::BuildRequest;
use crate::request::Builder;
use crate::request::BuilderCache;
use crate::request::ContextSource;
use crate::request::Entitlements;
use crate::request::NODE_GRACE;
use crate::request::NODE_PATIENCE;
use crate::request::OnTerminal;
use crate::request::Place;
use crate::request::PlanFile;
use crate::ui;
use crate::ui::Progress;
use crate::ui::ProgressMode;

/// What `--progress` and `-q` make of standard error and standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Talk {
    pub(crate) mode: ProgressMode,
    /// The image id goes to standard output.
    pub(crate) print_id: bool,
}

/// A request with what only the terminal needs to know.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: BuildRequest,
    pub(crate) talk: Talk,
    /// What is asked instead of a build.
    pub(crate) call: Option<Call>,
    /// Values that must not be shown.
    pub(crate) secrets: Vec<Vec<u8>>,
}

/// Runs the command.
pub(crate) fn run(flags: &BuildFlags, session: &Session) -> Result<ExitCode, Failed> {
    let prepared = prepare(flags, session).map_err(BuildError::request)?;
    run_prepared(prepared, session)
}

/// Carries out a request.
pub(crate) fn run_prepared(prepared: Prepared, session: &Session) -> Result<ExitCode, Failed> {
    if let Some(call) = &prepared.call {
        return Ok(call.run(&prepared.request)?);
    }
    let progress = Progress::start(prepared.talk.mode, session.terminal, prepared.secrets);
    let result = pipeline::build(&prepared.request, &progress);
    report(result, progress, prepared.talk, session)
}

/// Says how a build went.
pub(crate) fn report(
    result: Result<BuildOutcome, BuildError>,
    progress: Progress,
    talk: Talk,
    session: &Session,
) -> Result<ExitCode, Failed> {
    progress.finish();
    ui::warnings(&progress, session.debug, session.terminal);
    match result {
        Ok(outcome) => {
            ui::success(&outcome, &progress);
            if talk.print_id {
                for image in outcome
                    .built
                    .iter()
                    .filter_map(|built| built.image.as_ref())
                {
                    super::print(format!("{}\n", image.id).as_bytes())?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(Failed {
            error,
            progress: Some(progress),
        }),
    }
}

/// Collects problems, so that all of them are told at once.
#[derive(Default)]
struct Problems(Vec<Diagnostic>);

impl Problems {
    fn take<T: Default>(&mut self, result: Result<T, Diagnostic>) -> T {
        result.unwrap_or_else(|problem| {
            self.0.push(problem);
            T::default()
        })
    }

    fn all<'a, T>(
        &mut self,
        texts: impl IntoIterator<Item = &'a String>,
        parse: impl Fn(&'a str) -> Result<T, Diagnostic>,
    ) -> Vec<T> {
        // An empty value is no value: scripts pass unset variables.
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        texts
            .filter_map(|text| self.take(parse(text).map(Some)))
            .collect()
    }
}

/// Validates the flags.
pub(crate) fn prepare(flags: &BuildFlags, session: &Session) -> Result<Prepared, Vec<Diagnostic>> {
    let (mut settings, env) = (session.settings.clone(), &session.env);
    let mut problems = Problems::default();
    if let Some(keep) = flags.keep_failed {
        settings.keep_failed = keep.into();
    }
    for (flag, hint) in flags.unsupported() {
        problems
            .0
            .push(problem(format!("`{flag}` is not supported")).hint(hint));
    }
    let talk = problems.take(talk(flags, env).map(Some));
    let call = problems.take(Call::parse(&flags.call, flags.check));
    let (context, words) =
        problems.take(sources::places(flags).map(|(context, words)| (Some(context), words)));
    let (tags, outputs) = outputs::outputs(flags, &mut problems);
    let annotations = problems.all(&flags.annotation, annotation::parse);
    let network = problems.take(values::network(&flags.network).map(Some));
    let modes = flags.context_modes.as_deref().map(values::context_modes);
    let context_modes = problems.take(modes.transpose());
    let secrets = secrets(flags, env, &mut problems);
    let build_args = build_args(flags, env, &mut problems);
    let source_date_epoch = problems.take(source_date_epoch(&build_args));
    let multi_platform = problems.take(multi_platform(&build_args));
    let proxy_args = proxies::of_steps(session.docker_proxies(), env);
    let labels = problems.all(&flags.label, |text| values::key_value("label", text));
    let labels = labels
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.unwrap_or_default().to_owned()));
    let told = problems.0.len();
    let mut builder = builder(flags, session, &mut problems);
    let nodes = builder.iter().flat_map(|builder| &builder.nodes);
    let builds_here = builder.is_none() || { nodes }.any(|node| node.place == Place::Here);
    // What is wrong for a daemon is told once.
    let has_caches = builds_here && problems.0.len() == told;
    let cache_to = match has_caches {
        true => problems.all(&flags.cache_to, |text| cache::to(text, env)),
        false => Vec::new(),
    };
    // buildx makes an output of it, whatever else the argument is for.
    let inline = build_args.get("BUILDKIT_INLINE_CACHE");
    let inline = inline.is_some_and(|text| values::boolean(text) == Ok(true));
    if let Some(builder) = builder.as_mut().filter(|_| inline) {
        builder.cache_to.push(BuilderCache::inline());
    }
    let request = BuildRequest {
        context: context.clone().unwrap_or(ContextSource::Stdin),
        file: flags.file.as_ref().map(|file| match file.to_str() {
            Some("-") => PlanFile::Stdin,
            Some(url) if sources::is_http(url) => PlanFile::Url(url.to_owned()),
            _ => PlanFile::Path(file.clone()),
        }),
        targets: targets(&flags.target, words),
        also_run: flags.also_run.clone(),
        llb: llb::input(flags),
        set: flags.set.clone(),
        build_args,
        proxy_args,
        labels: labels.collect(),
        named_contexts: problems
            .all(&flags.build_context, sources::named_context)
            .into_iter()
            .chain(problems.all(&flags.local, llb::local))
            .chain(problems.all(&flags.oci_layout, llb::layout))
            .collect(),
        platforms: platforms(flags, env, &mut problems),
        multi_platform,
        tags,
        outputs,
        annotations: annotations.into_iter().flatten().collect(),
        no_cache: no_cache(flags),
        cache_from: match has_caches {
            true => problems.all(&flags.cache_from, |text| cache::from(text, env)),
            false => Vec::new(),
        },
        inline_cache: inline || cache_to.contains(&None),
        cache_to: cache_to.into_iter().flatten().collect(),
        builder,
        pull: flags.pull,
        offline: flags.offline,
        locked: flags.locked,
        network: network.unwrap_or(NetworkMode::Default),
        context_modes: context_modes.unwrap_or_default(),
        extra_hosts: extra_hosts(flags, &mut problems),
        ulimits: ulimits(flags, &mut problems),
        limits: limits::limits(flags).unwrap_or_else(|found| {
            problems.0.extend(found);
            Limits::default()
        }),
        shm_size: problems
            .all(flags.shm_size.as_slice(), |text| match text {
                "" => Ok(0),
                text => values::shm_size(text),
            })
            .pop()
            .unwrap_or(0),
        secrets: secrets.sources,
        ssh: problems
            .all(&flags.ssh, |text| sources::ssh(text, env))
            .into_iter()
            .collect(),
        allow: entitlements(flags, &mut problems),
        iidfile: flags.iidfile.clone(),
        metadata_file: flags.metadata_file.clone(),
        shell_on_fail: flags.shell_on_fail.then(|| OnTerminal {
            term: env.text("TERM"),
        }),
        jobs: flags.jobs.map(usize::from),
        source_date_epoch,
        settings,
    };
    if flags.shell_on_fail && !ui::has_terminal() {
        let message = "`--shell-on-fail` takes a terminal, and standard input and output are none";
        let hint = "leave it out: `rbuild shell` enters what a failed step left, later too";
        problems.0.push(problem(message).hint(hint));
    }
    if let Some(file) = flags.file.as_deref().and_then(|file| file.to_str())
        && sources::is_remote(file)
        && !sources::is_http(file)
    {
        let why = "a Dockerfile can be had from `http://` and `https://` alone";
        let hint = "a repository can be the context: `-f` then names a file in it";
        problems.0.push(invalid("file", file, why).hint(hint));
    }
    problems.0.extend(llb::conflicts(flags, &request));
    conflicts(
        &request,
        talk.as_ref(),
        session.stdout_is_terminal,
        &mut problems,
    );
    match (talk, problems.0.is_empty()) {
        (Some(talk), true) => Ok(Prepared {
            request,
            talk,
            call,
            secrets: secrets.values,
        }),
        _ => Err(problems.0),
    }
}

/// The builder, with the caches that are its own affair.
fn builder(flags: &BuildFlags, session: &Session, problems: &mut Problems) -> Option<Builder> {
    let chosen = builders::chosen(flags.builder.as_deref(), &session.env);
    let (name, nodes) = problems.take(chosen)?;
    let runs_here = nodes.iter().any(|node| node.place == Place::Here);
    Some(Builder {
        name,
        nodes,
        cache_from: problems.all(&flags.cache_from, |text| {
            cache::of_builder("cache-from", text)
        }),
        cache_to: problems.all(&flags.cache_to, |text| cache::of_builder("cache-to", text)),
        silence: BUILDER_SILENCE,
        patience: NODE_PATIENCE,
        grace: NODE_GRACE,
        idle_flags: match runs_here {
            true => Vec::new(),
            false => [flags.of_steps_here(), session.of_steps_here.clone()].concat(),
        },
    })
}

/// What is to be built: a `--target` without a value is none.
fn targets(flags: &[String], words: Vec<String>) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for target in flags.iter().cloned().chain(words) {
        if !target.is_empty() && !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

/// What is right in itself, but not together.
fn conflicts(
    request: &BuildRequest,
    talk: Option<&Talk>,
    stdout_is_terminal: bool,
    problems: &mut Problems,
) {
    if request.context == ContextSource::Stdin && request.file == Some(PlanFile::Stdin) {
        let message = "standard input cannot be both the context and the Dockerfile";
        problems.0.push(problem(message).hint("name one of them"));
    }
    if request.builder.is_some() && request.shell_on_fail.is_some() {
        let message =
            "`--shell-on-fail` enters steps of this machine, and `--builder` runs them elsewhere";
        problems.0.push(problem(message));
    }
    if request.builder.is_some() && request.offline {
        let message = "`--offline` keeps a build from the network, and the builder is a machine that has its own";
        let hint = "leave it out, or build here: `--builder default`";
        problems.0.push(problem(message).hint(hint));
    }
    if request.pull && request.offline {
        problems
            .0
            .push(problem("`--pull` asks the network, `--offline` does not"));
    }
    if request.pull && request.locked {
        problems.0.push(
            problem("`--pull` asks what tags mean now, `--locked` does not")
                .hint("`rbuild update` changes the lock file"),
        );
    }
    if request.offline && request.cache_to.iter().any(|to| to.place.is_remote()) {
        let message = "`--cache-to` needs the network, `--offline` does not use it";
        problems.0.push(problem(message));
    }
    outputs::conflicts(request, talk, stdout_is_terminal, problems);
}

fn talk(flags: &BuildFlags, env: &Env) -> Result<Talk, Diagnostic> {
    let word = match (&*flags.progress, env.text("BUILDKIT_PROGRESS")) {
        ("" | "auto", Some(word)) if !flags.quiet => word,
        ("" | "auto", _) => "auto".to_owned(),
        (word, _) => word.to_owned(),
    };
    let mode = match &*word {
        "auto" => ProgressMode::Auto,
        "tty" => ProgressMode::Tty,
        "plain" => ProgressMode::Plain,
        "rawjson" => ProgressMode::RawJson,
        "quiet" | "none" => ProgressMode::Quiet,
        _ => {
            let words = "wanted `auto`, `tty`, `plain`, `rawjson`, `quiet` or `none`";
            return Err(invalid("progress", &word, words));
        }
    };
    if flags.quiet && !matches!(&*word, "auto" | "quiet") {
        let message = format!("`--progress {word}` and `--quiet` cannot be used together");
        return Err(problem(message));
    }
    Ok(Talk {
        mode: if flags.quiet {
            ProgressMode::Quiet
        } else {
            mode
        },
        print_id: flags.quiet || word == "quiet",
    })
}

fn secrets(flags: &BuildFlags, env: &Env, problems: &mut Problems) -> Secrets {
    let mut secrets = Secrets::default();
    for (id, source, value) in problems.all(&flags.secret, |text| sources::secret(text, env)) {
        secrets.sources.insert(id, source);
        secrets.values.push(value);
    }
    secrets
}

/// `--build-arg`, those without a value from the environment, and SOURCE_DATE_EPOCH, which buildx passes on too.
fn build_args(flags: &BuildFlags, env: &Env, problems: &mut Problems) -> BTreeMap<String, String> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let mut args = BTreeMap::new();
    for (key, value) in problems.all(&flags.build_arg, |text| {
        values::key_value("build-arg", text)
    }) {
        match (value, env.get(key)) {
            (Some(value), _) => {
                args.insert(key.to_owned(), value.to_owned());
            }
            (None, Some(value)) => {
                args.insert(key.to_owned(), value.to_string_lossy().into_owned());
            }
            (None, None) => {}
        }
    }
    if let (false, Some(epoch)) = (args.contains_key(EPOCH), env.text(EPOCH)) {
        args.insert(EPOCH.to_owned(), epoch);
    }
    args
}

fn source_date_epoch(build_args: &BTreeMap<String, String>) -> Result<Option<i64>, Diagnostic> {
    match build_args.get("SOURCE_DATE_EPOCH").map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            problem(format!(
                "SOURCE_DATE_EPOCH is `{text}`: wanted seconds since 1970, a whole number"
            ))
        }),
    }
}

/// As BuildKit's frontend has it: no word of the Dockerfile's, but of what is written.
fn multi_platform(build_args: &BTreeMap<String, String>) -> Result<bool, Diagnostic> {
    const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";
    match build_args.get(MULTI_PLATFORM).map(String::as_str) {
        None | Some("") => Ok(false),
        Some(text) => {
            values::boolean(text).map_err(|why| problem(format!("{MULTI_PLATFORM}: {why}")))
        }
    }
}

/// Each once, in order. DOCKER_DEFAULT_PLATFORM is what `--platform` is when it is not given.
fn platforms(flags: &BuildFlags, env: &Env, problems: &mut Problems) -> Vec<rbuild_llb::Platform> {
    let default: Vec<String> = env.text("DOCKER_DEFAULT_PLATFORM").into_iter().collect();
    let given = if flags.platform.is_empty() {
        &default
    } else {
        &flags.platform
    };
    let mut list = Vec::new();
    for platform in problems.all(given, values::platforms).into_iter().flatten() {
        if !list.contains(&platform) {
            list.push(platform);
        }
    }
    list
}

fn no_cache(flags: &BuildFlags) -> NoCache {
    let stages = flags
        .no_cache_filter
        .iter()
        .flat_map(|list| list.split(','));
    let stages: BTreeSet<String> = stages
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    match (flags.no_cache, stages.is_empty()) {
        (true, _) => NoCache::All,
        (false, true) => NoCache::Off,
        (false, false) => NoCache::Stages(stages),
    }
}

/// Each `--add-host` is a CSV record of mappings.
fn extra_hosts(flags: &BuildFlags, problems: &mut Problems) -> Vec<(String, String)> {
    let records = problems.all(&flags.add_host, |text| {
        values::csv(text).map_err(|why| invalid("add-host", text, why))
    });
    let mappings: Vec<String> = records.into_iter().flatten().collect();
    let hosts = problems.all(&mappings, values::host);
    hosts.into_iter().flatten().collect()
}

/// The last of each name, by name.
fn ulimits(flags: &BuildFlags, problems: &mut Problems) -> Vec<Ulimit> {
    let limits = problems.all(&flags.ulimit, values::ulimit);
    let by_name: BTreeMap<String, Ulimit> =
        limits.into_iter().map(|l| (l.name.clone(), l)).collect();
    by_name.into_values().collect()
}

fn entitlements(flags: &BuildFlags, problems: &mut Problems) -> Entitlements {
    let mut allow = Entitlements {
        network_host: flags.network == "host",
        security_insecure: false,
    };
    for word in flags.allow.iter().flat_map(|list| list.split(',')) {
        match word {
            "" => {}
            "network.host" => allow.network_host = true,
            "security.insecure" => allow.security_insecure = true,
            // Flags are all it concerns.
            outputs::LOCAL_DELETE => {}
            _ => problems.0.push(
                invalid("allow", word, "there is nothing of that name to allow")
                    .hint("what can be allowed is `network.host`, `security.insecure` and `buildx.local.delete`"),
            ),
        }
    }
    allow
}

#[cfg(test)]
mod tests;
