//! One build, from request to image. [`build`] reads as the list in ARCHITECTURE.md, one call a line.

mod assemble;
mod attend;
pub mod bake;
mod builder;
mod caches;
mod conceal;
pub mod convert;
pub mod credentials;
mod deliver;
pub mod durability;
mod emulated;
pub mod explain;
mod failure;
mod files;
pub mod fsck;
pub mod inspect;
mod llb;
pub mod lock;
pub mod nodes;
mod once;
mod pin;
mod plan;
mod preflight;
pub mod prune;
mod remote;
pub mod reset;
pub mod run;
pub mod shell;
pub mod show;
pub mod stored;
mod task;
#[cfg(test)]
mod tests;
mod untouched;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use rbuild_cache::Lease;
use rbuild_cache::Store;
use rbuild_cache::threads;
use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::event::WarningEvent;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::GoalKind;
use rbuild_llb::frontend::NamedContext;
use rbuild_llb::frontend::Outline;
use rbuild_llb::frontend::Pins;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::SecurityMode;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::read_ignore_file;

use crate::clock;
use crate::ops::Engine;
use crate::ops::EngineOptions;
use crate::ops::LocalRoot;
use crate::ops::StepResult;
use crate::ops::exec::Failing;
use crate::ops::git;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::request::BuildRequest;
use crate::request::Isolation;
use crate::request::NamedContextSource;
use crate::request::Settings;
use crate::request::Stacker;
use crate::sandbox;
use crate::sandbox::SandboxError;
use crate::solver;
use crate::solver::SolveOptions;
use crate::ui::EventSink;
use crate::ui::Progress;
use emulated::Emulated;
use untouched::Untouched;

/// How often convert may ask for more sources before something is wrong: a chain of ONBUILD triggers that name
/// images with ONBUILD triggers of their own.
const MAX_ROUNDS: usize = 32;

/// What everything that is asked about a plan begins with.
struct Opened {
    store: Store,
    lease: Lease,
    registry: registry::Client,
    plan: plan::Plan,
}

/// Reads the plan and opens the store: a directory's plan first, so that a request which cannot be met leaves nothing
/// behind.
fn open(request: &BuildRequest) -> Result<Opened, BuildError> {
    let local = plan::read(request)?;
    open_with(request, |store, lease, registry| match local {
        Some(plan) => Ok(plan),
        None => remote::Remote::new(request, store, lease, registry).read(),
    })
}

fn open_with(
    request: &BuildRequest,
    read: impl FnOnce(&Store, &Lease, &registry::Client) -> Result<plan::Plan, BuildError>,
) -> Result<Opened, BuildError> {
    let store = open_store(&request.settings)?;
    let lease = store.lease().map_err(failure::store)?;
    let registry = registry::Client::new(&request.settings);
    let plan = read(&store, &lease, &registry)?;
    Ok(Opened {
        store,
        lease,
        registry,
        plan,
    })
}

/// Builds an image.
///
/// # Errors
/// With everything the user is to be told.
pub fn build(request: &BuildRequest, progress: &Progress) -> Result<BuildOutcome, BuildError> {
    carry_out(request, &BTreeMap::new(), open(request)?, None, progress)
}

/// Builds what a frontend makes of a request, if it is another one than that of the plan's language; `own` are requests
/// that targets have of their own.
fn carry_out(
    request: &BuildRequest,
    own: &BTreeMap<&str, &BuildRequest>,
    opened: Opened,
    frontend: Option<&dyn Frontend>,
    progress: &Progress,
) -> Result<BuildOutcome, BuildError> {
    let events = progress.events();
    let Opened {
        store,
        lease,
        registry,
        plan,
    } = opened;
    if let Some(remark) = &plan.remark {
        remark_on(&events, remark);
    }

    let lock = lock::Lock::of(request, &plan)?;
    let pinner = pin::Pinner::new(request, &lock, &store, &lease, &registry);
    let frontend = frontend.unwrap_or(plan.language.frontend());
    let Planned { definition, goals } = definition(request, &plan, frontend, &pinner, &events)?;
    if let Some(remark) = lock.remark() {
        remark_on(&events, &remark);
    }
    let checked = pinner.checked();
    let locals = files::locals(&plan, &definition)?;
    let targets = deliver::targets(request, own, &plan, &definition, goals)?;
    deliver::no_windows_images(&targets, &definition)?;
    deliver::places(request, &targets)?;

    entitled(request, &definition)?;
    if let Some(builder) = &request.builder {
        let job = builder::Job {
            request,
            own,
            builder,
            store: &store,
            plan: &plan,
            locals: &locals,
            definition: &definition,
            targets: &targets,
        };
        return match job.carry_out(progress)? {
            builder::Carried::Out(outcome) => Ok(outcome),
            builder::Carried::Far(rest) => {
                let left = Work {
                    request: &rest.request,
                    own: &rest.own(),
                    checked: &checked,
                    store: &store,
                    lease: &lease,
                    registry: &registry,
                    plan: &plan,
                    locals: locals.clone(),
                    definition: &rest.definition,
                    targets: &rest.targets,
                };
                let built = left.carry_out(progress)?;
                rest.finish(&job, built, progress)
            }
        };
    }
    let work = Work {
        request,
        own,
        checked: &checked,
        store: &store,
        lease: &lease,
        registry: &registry,
        plan: &plan,
        locals,
        definition: &definition,
        targets: &targets,
    };
    work.carry_out(progress)
}

/// What this machine is to build.
struct Work<'a> {
    request: &'a BuildRequest,
    own: &'a BTreeMap<&'a str, &'a BuildRequest>,
    /// When tags were asked for that are taken as they were then.
    checked: &'a BTreeMap<String, Timestamp>,
    store: &'a Store,
    lease: &'a Lease,
    registry: &'a registry::Client,
    plan: &'a plan::Plan,
    locals: BTreeMap<String, LocalRoot>,
    definition: &'a PrunedDefinition,
    targets: &'a [deliver::Target],
}

impl Work<'_> {
    /// Lines 6 to 9.
    fn carry_out(self, progress: &Progress) -> Result<BuildOutcome, BuildError> {
        let Self {
            request,
            own,
            checked,
            store,
            lease,
            registry,
            plan,
            locals,
            definition,
            targets,
        } = self;
        let events = progress.events();
        let cancel = CancelToken::new();
        let tests = deliver::Tests::new(targets, definition);
        let options = EngineOptions {
            locals,
            secrets: request.secrets.clone(),
            ssh: request.ssh.clone(),
            plan: plan.identity.clone(),
            source_date_epoch: request.source_date_epoch,
            offline: request.offline,
            ranges_only: request.settings.ranges_only,
            kept: tests.kept(),
            failing: Failing {
                keep: request.settings.keep_failed,
                hold: request.shell_on_fail.is_some(),
            },
        };
        let mut sandboxing = sandbox_settings(&request.settings, store);
        let domain = sandbox::expected_domain();
        let mut engine = Engine::new(store, lease, definition, registry, &cancel, options, domain);
        let imports = caches::import(request, own, store, registry, &events);
        let mut told = Vec::new();
        if let Some(imports) = &imports {
            engine.set_remote(imports);
        }
        let looked_up = look_up(request, definition, &engine, plan, targets, &events)?;
        caches::tell(imports.as_ref(), &mut told, &events);
        let unread = engine.unread(looked_up.pending()).map_err(failure::op)?;
        let untouched = Untouched::find(
            definition,
            |output| deliver::takes_blobs_whole(targets, output),
            |step| unread.contains(step),
        );
        let looked_up = match &untouched {
            None => looked_up,
            Some(untouched) => solver::plan(untouched.remaining(), &engine)
                .map_err(|error| failure::plan(error, definition, plan))?,
        };

        let ledger = explain::Ledger::open(
            store,
            &plan.identity,
            &engine,
            definition,
            &looked_up,
            std::iter::once(request)
                .chain(own.values().copied())
                .map(|request| &request.build_args),
            checked,
        );
        let exporters = deliver::exporters(request, targets)?;
        let caches = caches::Exports::new(request, own, targets);
        let processes = looked_up
            .pending()
            .filter(|(_, vertex)| matches!(vertex.op, Op::Exec(_)))
            .count();
        // Files of other owners than the user can be read inside only.
        let complete = looked_up.is_complete();
        let works = !complete || deliver::writes_files(request, targets) || !caches.is_empty();
        let settled = looked_up.is_settled();
        // Where processes run it is entered in any case.
        let reads = works
            && processes == 0
            && (looked_up.found().any(|found| engine.has_directories(found))
                || engine
                    .bases_have_directories(looked_up.pending())
                    .map_err(failure::op)?
                || caches.read_directories(&engine, definition, settled)?);
        if works {
            preflight::look(store, &engine, looked_up.pending(), processes, &events)?;
        }
        let Entered { remark, emulated } = match processes > 0 || reads {
            true => {
                sandboxing.foreign.platforms = emulated::platforms(&looked_up);
                enter(
                    (&sandboxing, &request.settings),
                    &mut engine,
                    &looked_up,
                    processes,
                    progress,
                )?
            }
            false => Entered::default(),
        };
        // An unchanged build that writes no file is over before anybody could interrupt it.
        if works {
            begin(&cancel)?;
        }

        // A context is looked at in every build: it is never what people mean by cached.
        let contexts: BTreeSet<String> = definition
            .iter()
            .filter(|(_, vertex)| matches!(vertex.op, Op::Source(SourceOp::Local(_))))
            .map(|(id, _)| solver::event_digest(&id))
            .collect();
        let ages = pin::ages(definition, checked);
        let send = |mut event| {
            if let Event::Vertex(vertex) = &mut event {
                vertex.cached &= !contexts.contains(&vertex.digest);
                emulated.note(vertex);
                if let Some(ledger) = &ledger {
                    ledger.note(vertex);
                }
                let age = ages.get(&vertex.digest);
                if let Some(age) = age.filter(|_| vertex.completed.is_some()) {
                    // What is said of a step comes before its end, and after its beginning.
                    events.send(Event::Vertex(VertexEvent {
                        started: vertex.started.or(vertex.completed),
                        completed: None,
                        ..vertex.clone()
                    }));
                    events.send(Event::Status(age.clone()));
                }
            }
            events.send(event);
        };
        if let Some(untouched) = &untouched {
            untouched.report(definition, send);
        }
        let ahead = caches.ahead(&engine, definition, complete);
        if let Some(listener) = ahead.listener() {
            engine.tell_results(listener);
        }
        engine.set_solving(true);
        #[expect(clippy::result_large_err, reason = "it is made once a build")]
        let solved = ahead.beside(&engine, || {
            solver::solve(
                looked_up,
                &engine,
                SolveOptions {
                    jobs: jobs(request, works),
                    cancel: &cancel,
                    events: &send,
                    clock: &clock::now,
                    may_fail: &|step| tests.may_fail(step),
                },
            )
        });
        engine.set_solving(false);
        caches::tell(imports.as_ref(), &mut told, &events);
        emulated.advise(definition, &events);
        if let Some(ledger) = ledger {
            ledger.keep(solved.is_err());
        }
        if let (Some(terminal), Some(held)) = (&request.shell_on_fail, engine.take_held())
            && !cancel.is_cancelled()
        {
            shell::enter_held(&engine, &held, terminal.term.as_deref(), progress);
            // They were the shell's.
            sandbox::on_termination_signals(&cancel).map_err(failure::signals)?;
        }
        engine.discard_roots();
        if solved.is_err() {
            durability::sync_later(store, &request.settings);
        }
        let solved = solved.map_err(|error| {
            let mut error = failure::solve(error, &engine, definition, plan);
            if error.kind == ErrorKind::Step {
                error.hints.extend(remark);
            }
            with_full_disk(error, &engine)
        })?;

        let imported = imports.as_ref();
        let inline = caches::inline(request, own, &caches, &engine, definition, imported)?;
        let delivery = deliver::Delivering {
            inline: &inline,
            request,
            engine: &engine,
            plan,
            definition,
            untouched: untouched.as_ref(),
            solved,
            cancel: &cancel,
            events: &events,
        };
        let roots = caches.roots(&delivery)?;
        let mut outcome = delivery
            .deliver(targets, exporters)
            .map_err(|error| with_full_disk(error, &engine))?;
        outcome.emulated = emulated.into_summary();
        caches.write(&engine, definition, imported, &roots, &ahead, &events)?;
        engine.forget_failures();
        durability::sync_later(store, &request.settings);
        Ok(outcome)
    }
}

/// Line 6: again, as long as there is something to be fetched first from caches elsewhere.
fn look_up<'d>(
    request: &BuildRequest,
    definition: &'d PrunedDefinition,
    engine: &Engine<'_>,
    plan: &plan::Plan,
    targets: &[deliver::Target],
    events: &EventSink,
) -> Result<solver::Plan<'d, StepResult>, BuildError> {
    loop {
        let looked_up = solver::plan(definition, engine)
            .map_err(|error| failure::plan(error, definition, plan))?;
        if caches::fetched(request, engine, definition, &looked_up, targets, events)? {
            return Ok(looked_up);
        }
    }
}

/// Before what takes its time, and after everything that must be done by one thread alone: termination signals cancel it, and
/// the threads that compute are there.
fn begin(cancel: &CancelToken) -> Result<(), BuildError> {
    sandbox::on_termination_signals(cancel).map_err(failure::signals)?;
    threads::start_pool().map_err(|error| failure::thread(error, "cannot start threads"))
}

/// What is known inside of the user namespace.
#[derive(Default)]
struct Entered {
    /// What is worth saying if a step fails.
    remark: Option<String>,
    emulated: Emulated,
}

/// Enters the user namespace, in which processes run and files of other owners are read.
fn enter(
    (sandboxing, settings): (&sandbox::Settings, &Settings),
    engine: &mut Engine<'_>,
    looked_up: &solver::Plan<'_, StepResult>,
    processes: usize,
    progress: &Progress,
) -> Result<Entered, BuildError> {
    let fetcher = git::Fetcher {
        store: engine.store(),
        lease: engine.lease(),
        cancel: engine.cancel(),
        offline: engine.is_offline(),
    };
    // Inside git would run as another user, with other ssh keys.
    for (_, vertex) in looked_up.pending() {
        if let Op::Source(SourceOp::Git(git)) = &vertex.op {
            let fetched = fetcher.archives(git).map_err(failure::op);
            fetched.map_err(|error| failure::at(error, vertex.meta.spans.first()))?;
        }
    }
    let networked = looked_up.pending().any(
        |(_, vertex)| matches!(&vertex.op, Op::Exec(exec) if exec.network == NetworkMode::Default),
    );
    progress.pause();
    let entered = match sandbox::enter(sandboxing) {
        Ok(entered) => entered,
        // What can be read from here is read, and that may be all of it.
        Err(SandboxError::Unavailable { .. }) if processes == 0 => {
            progress.resume();
            return Ok(Entered::default());
        }
        Err(error) => {
            let mut steps = looked_up.pending().map(|(_, vertex)| vertex);
            let first = steps.find(|vertex| {
                matches!(vertex.op, Op::Exec(_)) && emulated::concerns(&error, &vertex.platform)
            });
            let span = first.and_then(|vertex| vertex.meta.spans.first());
            return Err(failure::at(failure::sandbox(error), span));
        }
    };
    if processes > 0 {
        failure::enough_ids(settings, &entered)?;
    }
    let remark = entered.remark().map(str::to_owned);
    let emulated = Emulated::of(looked_up, &entered);
    entered.expect(processes, networked);
    engine.set_executor(Box::new(entered), processes);
    engine.expect(looked_up.pending().map(|(_, vertex)| vertex));
    progress.resume();
    Ok(Entered { remark, emulated })
}

fn with_full_disk(mut error: BuildError, engine: &Engine<'_>) -> BuildError {
    let full = failure::full_disk(&error, engine.store(), engine.disk_was_full());
    error.hints.extend(full);
    error
}

/// Refuses what only `--allow` gives.
fn entitled(request: &BuildRequest, definition: &PrunedDefinition) -> Result<(), BuildError> {
    let mut refused = Vec::new();
    for (_, vertex) in definition.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        let asked = [
            (
                exec.security == SecurityMode::Insecure && !request.allow.security_insecure,
                "`RUN --security=insecure`",
                "security.insecure",
            ),
            (
                exec.network == NetworkMode::Host && !request.allow.network_host,
                "`RUN --network=host`",
                "network.host",
            ),
        ];
        for (_, what, entitlement) in asked.iter().filter(|(refused, _, _)| *refused) {
            let message = format!("{what} is not allowed in this build");
            let hint = format!("allow it with `--allow {entitlement}` if you trust this file");
            let diagnostic = match vertex.meta.spans.first() {
                Some(span) => Diagnostic::error(message, span.clone(), ""),
                // A graph need not say where its steps come from.
                None => Diagnostic::unplaced(format!("`{}`: {message}", vertex.meta.name)),
            };
            refused.push(diagnostic.hint(hint));
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(BuildError::request(refused)),
    }
}

/// The graph of all that was asked for, and what becomes of its outputs.
#[derive(Debug)]
struct Planned {
    definition: PrunedDefinition,
    /// One for each output of the definition.
    goals: Vec<Goal>,
}

/// Lines 2 to 5: the pruned graphs of all platforms as one.
fn definition(
    request: &BuildRequest,
    plan: &plan::Plan,
    frontend: &dyn Frontend,
    pinner: &pin::Pinner<'_>,
    events: &EventSink,
) -> Result<Planned, BuildError> {
    let first = frontend_request(request, plan, &Platform::host(), false)?;
    let platforms = match request.platforms.as_slice() {
        [] => frontend.platforms(&first).map_err(BuildError::request)?,
        list => list.to_vec(),
    };
    let asked = platforms.iter().flat_map(|platform| {
        let asked = FrontendRequest {
            target_platform: platform.clone(),
            multi_platform: platforms.len() > 1,
            ..first.clone()
        };
        with_also_run(asked, &request.also_run)
    });
    let asked: Vec<(FrontendRequest, bool)> = asked.collect();
    // Those of all platforms at once: registries take their time.
    let mut sources = Vec::new();
    for (asked, _) in &asked {
        let Outline { sources: more, .. } = frontend.outline(asked).map_err(BuildError::request)?;
        sources.extend(more);
    }
    let mut pins = Pins::default();
    pinner.pin(&sources, &mut pins)?;
    let mut whole = Definition::new();
    let mut goals: Vec<Goal> = Vec::new();
    let mut warned: Vec<Diagnostic> = Vec::new();
    for (asked, also) in asked {
        let converted = pinned(&mut pins, pinner, |pins| {
            frontend.convert(&asked, pins).map_err(BuildError::request)
        })?;
        for warning in converted.warnings {
            if !warned.contains(&warning) {
                events.send(Event::Warning(WarningEvent {
                    vertex: String::new(),
                    diagnostic: warning.clone(),
                }));
                warned.push(warning);
            }
        }
        whole.extend(converted.definition);
        goals.extend(converted.goals.into_iter().map(|goal| match also {
            true => Goal {
                kind: GoalKind::Test {
                    exports: Vec::new(),
                },
                ..goal
            },
            false => Goal {
                require: [goal.require, request.also_run.clone()].concat(),
                ..goal
            },
        }));
    }
    for remark in pinner.remarks() {
        remark_on(events, &remark);
    }
    Ok(Planned {
        definition: whole.prune(),
        goals,
    })
}

/// The request for the targets, and the one for the stages that `--also-run` names.
fn with_also_run(
    asked: FrontendRequest,
    also_run: &[String],
) -> impl Iterator<Item = (FrontendRequest, bool)> {
    let also = (!also_run.is_empty()).then(|| FrontendRequest {
        targets: also_run.to_vec(),
        ..asked.clone()
    });
    let also = also.map(|also| (also, true));
    std::iter::once((asked, false)).chain(also)
}

/// Asks the frontend again and again, until all sources that the answer depends on are pinned.
fn pinned<T>(
    pins: &mut Pins,
    pinner: &pin::Pinner<'_>,
    ask: impl Fn(&Pins) -> Result<Conversion<T>, BuildError>,
) -> Result<T, BuildError> {
    for _ in 0..MAX_ROUNDS {
        match ask(pins)? {
            Conversion::Done(answer) => return Ok(answer),
            Conversion::NeedsSources(sources) => pinner.pin(&sources, pins)?,
        }
    }
    let error = anyhow::anyhow!("ONBUILD triggers named new sources {MAX_ROUNDS} times over");
    Err(BuildError::new(ErrorKind::Request, error))
}

fn frontend_request(
    request: &BuildRequest,
    plan: &plan::Plan,
    platform: &Platform,
    multi_platform: bool,
) -> Result<FrontendRequest, BuildError> {
    let contexts = request.named_contexts.iter().map(|(name, context)| {
        let context = match context {
            NamedContextSource::Directory(dir) => NamedContext::Local {
                exclude: plan::read_ignore(None, dir)?
                    .map_or_else(Vec::new, |file| read_ignore_file(&file.text)),
            },
            NamedContextSource::Image(source) => NamedContext::Image(source.clone()),
            NamedContextSource::Remote(url) => NamedContext::Source(remote::source(url, None)?),
        };
        Ok((name.clone(), context))
    });
    let mut build_args: BTreeMap<String, String> = request.proxy_args.clone();
    build_args.extend(request.build_args.clone());
    Ok(FrontendRequest {
        source: plan.source.clone(),
        context: plan.context.clone(),
        ignore: plan.ignore.clone(),
        modes: request.context_modes,
        targets: request.targets.clone(),
        build_args,
        labels: request.labels.clone(),
        contexts: contexts.collect::<Result<_, BuildError>>()?,
        target_platform: platform.clone(),
        implicit_platform: request.platforms.is_empty(),
        build_platform: Platform::host(),
        multi_platform,
        no_cache: request.no_cache.clone(),
        network: request.network,
        extra_hosts: request.extra_hosts.clone(),
        ulimits: request.ulimits.clone(),
        limits: Arc::new(request.limits.clone()),
        shm_size: request.shm_size,
        source_date_epoch: request.source_date_epoch,
        settings: request.set.clone(),
        files: plan.files.clone(),
        git: plan.git.clone(),
    })
}

/// How many steps run at once: they wait for processes more than they compute. Of a build in which none is to run nobody
/// asks for the number of cores, for which the kernel's files of the cgroup are read.
fn jobs(request: &BuildRequest, works: bool) -> usize {
    let usual = || match works {
        true => thread::available_parallelism().map_or(1, usize::from) * 2,
        false => 0,
    };
    request.jobs.unwrap_or_else(|| usual().max(8))
}

/// The graph of a plan, for `rbuild debug dump-llb`.
///
/// # Errors
/// As [`build`], up to where something would run.
pub fn dump_llb(
    request: &BuildRequest,
    progress: &Progress,
) -> Result<PrunedDefinition, BuildError> {
    let Opened {
        store,
        lease,
        registry,
        plan,
    } = open(request)?;
    let lock = lock::Lock::of(request, &plan)?;
    let pinner = pin::Pinner::new(request, &lock, &store, &lease, &registry);
    let frontend = plan.language.frontend();
    let planned = definition(request, &plan, frontend, &pinner, &progress.events())?;
    Ok(planned.definition)
}

/// Opens rbuild's store, making it if it is not there.
///
/// # Errors
/// If it is not usable.
pub fn open_store(settings: &Settings) -> Result<Store, BuildError> {
    Store::open(&settings.root).map_err(failure::store)
}

/// The store, if there is one: who only looks makes none.
///
/// # Errors
/// If it cannot be used.
pub fn existing_store(settings: &Settings) -> Result<Option<Store>, BuildError> {
    Store::open_existing(&settings.root).map_err(failure::store)
}

fn sandbox_settings(settings: &Settings, store: &Store) -> sandbox::Settings {
    sandbox::Settings {
        ca: settings.ca.clone(),
        temp_dir: settings.temp_dir.clone(),
        store: store.path().to_owned(),
        overlay: settings.stacker.map(|stacker| stacker == Stacker::Overlay),
        chroot: settings.isolation == Isolation::Chroot,
        nested: settings.nested_namespaces,
        foreign: sandbox::Foreign {
            platforms: Vec::new(),
            chosen: settings.emulators.chosen.clone(),
            path: settings.emulators.path.clone(),
        },
    }
}

fn remark_on(events: &EventSink, text: &str) {
    let diagnostic = Diagnostic {
        severity: rbuild_llb::Severity::Warning,
        ..Diagnostic::unplaced(text)
    };
    events.send(Event::Warning(WarningEvent {
        vertex: String::new(),
        diagnostic,
    }));
}
