//! `rbuild run IMAGE [CMD…]`: a process in an image, with the sandbox of RUN and the image's config. What it writes to
//! the image's files is gone afterwards.

use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::frontend::Pin;

use super::attend;
use super::attend::Ground;
use super::attend::attended;
use super::failure;
use super::open_store;
use super::pin::Pinner;
use super::sandbox_settings;
use crate::ops::EngineOptions;
use crate::ops::exec::Foreground;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::request::RunRequest;
use crate::sandbox;
use crate::sandbox::Port;
use crate::sandbox::Published;
use crate::sandbox::Stdin;
use crate::sandbox::Stream;
use crate::ui;

/// Runs a process and gives its exit code, as a shell reports it: 128 and the number for a signal. Signals to this process
/// are handed on to it. What is odd about the image is told to `remark`. Once all is ready for it, `started` is called
/// with the ports that lead to it.
///
/// # Errors
/// If it could not be started.
pub fn run_image(
    request: &RunRequest,
    remark: impl Fn(&str),
    started: impl FnOnce(&[Port]),
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<u8, BuildError> {
    let store = open_store(&request.settings)?;
    let lease = store.lease().map_err(failure::store)?;
    let registry = registry::Client::new(&request.settings);
    let pinner = Pinner::for_run(request, &store, &lease, &registry);
    let pin = pinner.image_to_run(&request.image, request.platform.as_ref())?;
    for text in pinner.remarks() {
        remark(&text);
    }
    let Pin::Image { digest, config } = pin else {
        let error = anyhow::anyhow!("`{}` is not an image", request.image);
        return Err(BuildError::new(ErrorKind::Request, error));
    };
    let definition = Definition::new();
    let cancel = CancelToken::new();
    let ports: Vec<Port> = request
        .ports
        .iter()
        .map(|port| Port {
            host: port.host,
            container: port.container,
        })
        .collect();
    let published = Published::listen(&ports).map_err(failure::sandbox)?;
    let listening = published.ports();
    let mut sandboxing = sandbox_settings(&request.settings, &store);
    sandboxing.foreign.platforms.push(config.platform());
    let entered = sandbox::enter(&sandboxing).map_err(failure::sandbox)?;
    failure::enough_ids(&request.settings, &entered)?;
    // As long as there is no process that signals are for.
    super::begin(&cancel)?;
    entered.publish(published);
    let ground = Ground {
        store: &store,
        lease: &lease,
        definition: &definition,
        registry: &registry,
        cancel: &cancel,
    };
    let engine = ground.engine(EngineOptions::default(), entered);
    let snapshot = engine
        .image_snapshot(digest, &request.image, &|_| {})
        .map_err(failure::op)?;
    let run = &config.config;
    let mut args: Vec<String> = match &request.entrypoint {
        Some(entrypoint) => vec![entrypoint.clone()],
        None => run.entrypoint.clone().unwrap_or_default(),
    };
    if !request.args.is_empty() {
        args.extend(request.args.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(run.cmd.clone().unwrap_or_default());
    }
    if args.is_empty() {
        let error = anyhow::anyhow!("`{}` has no command", request.image);
        return Err(BuildError::new(ErrorKind::Request, error).hint("name one after the image"));
    }
    let mut env = run.env.clone();
    if request.terminal && !env.iter().any(|pair| pair.starts_with("TERM=")) {
        // As docker has it, whatever terminal it is.
        env.push("TERM=xterm".to_owned());
    }
    env.extend(
        request
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    let workdir = request
        .workdir
        .clone()
        .unwrap_or_else(|| run.working_dir.clone());
    let process = Foreground {
        args,
        env,
        workdir: if workdir.is_empty() {
            "/".to_owned()
        } else {
            workdir
        },
        user: request.user.clone().unwrap_or_else(|| run.user.clone()),
        network: request.network,
        volumes: request.volumes.clone(),
        stdin: match (request.terminal, request.interactive) {
            (true, _) => Stdin::Terminal(attend::size()),
            (false, true) => Stdin::Own,
            (false, false) => Stdin::Null,
        },
    };
    started(&listening);
    match (request.interactive, request.terminal) {
        // A process that has no terminal must not get this one.
        (true, false) => ui::pipe_typed(),
        // What is typed is for this process: it hands on that it was interrupted.
        (false, true) => ui::type_nothing(),
        _ => Ok(()),
    }
    .map_err(attend::no_terminal)?;
    let typed_at = request.interactive && ui::can_ask();
    let run = || engine.foreground(&snapshot, &process, output);
    attended(&process.stdin, typed_at, run, failure::op)
}
