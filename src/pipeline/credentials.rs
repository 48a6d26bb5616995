//! `rbuild login` and `logout`.

use std::path::Path;

use rbuild_llb::CancelToken;

use super::failure;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::registry::Login;
use crate::registry::docker_config;
use crate::registry::docker_config::DockerConfigError;
use crate::registry::docker_config::Keeper;
use crate::request::Secret;
use crate::request::Settings;
use crate::sandbox;

/// Lets the signals that end a process cancel `cancel` instead: a terminal that hides what is typed must get its modes
/// back first.
///
/// # Errors
/// If the system does not let us.
pub fn interruptible(cancel: &CancelToken) -> Result<(), BuildError> {
    sandbox::on_termination_signals(cancel).map_err(failure::signals)
}

/// Has a registry check a password, and keeps it where docker's config says.
///
/// # Errors
/// If the registry does not accept it, or it cannot be kept.
pub fn login(
    settings: &Settings,
    config: &Path,
    registry: &str,
    user: &str,
    password: &Secret,
    cancel: &CancelToken,
) -> Result<(Login, Keeper), BuildError> {
    let password = std::str::from_utf8(&password.0).map_err(|_| {
        BuildError::new(
            ErrorKind::Request,
            anyhow::anyhow!("the password is not UTF-8"),
        )
    })?;
    let client = registry::Client::cancelled_by(settings, cancel);
    let login = client.login(registry, user, password);
    let login = login.map_err(|error| match cancel.is_cancelled() {
        true => BuildError::interrupted(),
        false => failure::sending(error),
    })?;
    let keeper = docker_config::store(config, registry, user, password).map_err(unkept)?;
    Ok((login, keeper))
}

/// Forgets the credentials for a registry; nothing if there were none.
///
/// # Errors
/// If they cannot be taken away.
pub fn logout(config: &Path, registry: &str) -> Result<Option<Keeper>, BuildError> {
    docker_config::erase(config, registry).map_err(unkept)
}

fn unkept(error: DockerConfigError) -> BuildError {
    BuildError::new(ErrorKind::Environment, error)
}
