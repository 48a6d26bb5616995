//! `rbuild run IMAGE [CMD…]`: a process in an image, with the sandbox of RUN and the image's config. What it writes to
//! the image's files is gone afterwards.

use rbuild_llb::CancelToken;
use rbuild_llb::Definition;
use rbuild_llb::frontend::Pin;

use super::failure;
use super::open_store;
use super::pin::Pinner;
use super::sandbox_settings;
use crate::ops::Engine;
use crate::ops::EngineOptions;
use crate::ops::exec::Foreground;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::request::RunRequest;
use crate::sandbox;
use crate::sandbox::Exit;
use crate::sandbox::Port;
use crate::sandbox::Published;
use crate::sandbox::Stream;

/// Runs a process and gives its exit code, as a shell reports it: 128 and the number for a signal. Signals to this process
/// are handed on to it. Once all is ready for it, `started` is called
/// with the ports that lead to it.
///
/// # Errors
/// If it could not be started.
pub fn run_image(
    request: &RunRequest,
    started: impl FnOnce(&[Port]),
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<u8, BuildError> {
    let store = open_store(&request.settings)?;
    let lease = store.lease().map_err(failure::store)?;
    let registry = registry::Client::new(&request.settings);
    let pin = Pinner::for_run(request, &store, &lease, &registry)
        .image_to_run(&request.image, request.platform.as_ref())?;
    let Pin::Image { digest, config } = pin else {
        let error = anyhow::anyhow!("`{}` is not an image", request.image);
        return Err(BuildError::new(ErrorKind::Request, error));
    };
    let definition = Definition::new();
    let cancel = CancelToken::new();
    let options = EngineOptions::default();
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
    sandbox::on_termination_signals(&cancel).map_err(failure::signals)?;
    entered.publish(published);
    let mut engine = Engine::new(
        &store,
        &lease,
        &definition,
        &registry,
        &cancel,
        options,
        String::new(),
    );
    engine.set_executor(Box::new(entered), 1);
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
    };
    started(&listening);
    let exit = engine
        .foreground(&snapshot, &process, output)
        .map_err(failure::op)?;
    Ok(match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(255),
        Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
        Exit::OutOfMemory { .. } => 137,
    })
}
