//! `rbuild login` and `logout`.

use std::io;
use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use rbuild_llb::CancelToken;

use super::Session;
use super::proxies;
use super::values::problem;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::credentials;
use crate::registry::DOCKER_AUTH;
use crate::registry::Login;
use crate::registry::Reference;
use crate::registry::docker_config::Keeper;
use crate::request::Secret;
use crate::ui;

/// Longer passwords are none.
const MAX_PASSWORD: u64 = 64 << 10;
const DOCKER_HUB: &str = "docker.io";

#[derive(Debug, Args)]
pub(crate) struct LoginFlags {
    /// The registry, as in names of images [default: docker.io]
    registry: Option<String>,
    /// User's name
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Read the password or token from standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutFlags {
    /// The registry, as in names of images [default: docker.io]
    registry: Option<String>,
}

pub(crate) fn login(flags: &LoginFlags, session: &Session) -> Result<(), BuildError> {
    let registry = registry(flags.registry.as_deref())?;
    let path = path(session)?;
    let refuse =
        |message: &str, hint: &str| Err(BuildError::request(vec![problem(message).hint(hint)]));
    if !flags.password_stdin && !ui::can_ask() {
        return refuse(
            "standard input is no terminal to ask for a password at",
            "pipe it in: `rbuild login -u USER --password-stdin REGISTRY < FILE`",
        );
    }
    let user = match &flags.username {
        Some(user) => user.clone(),
        None if flags.password_stdin => {
            return refuse(
                "`--password-stdin` takes the name from `--username`",
                "add `-u USER`",
            );
        }
        None => ui::ask("Username: ").map_err(no_answer)?,
    };
    let cancel = CancelToken::new();
    let password = match flags.password_stdin {
        true => piped()?,
        false => match secret(&cancel)? {
            Some(password) => password,
            None => return Err(BuildError::interrupted()),
        },
    };
    if user.is_empty() || user.contains(':') {
        return refuse(
            "the user's name is empty or has a colon",
            "no registry has such",
        );
    }
    if password.is_empty() {
        return refuse("the password is empty", "pipe one in, or type it");
    }
    let password = Secret(password.into_bytes());
    let (login, keeper) = credentials::login(
        &session.settings,
        &path,
        &registry,
        &user,
        &password,
        &cancel,
    )?;
    if login == Login::NotWanted {
        let text = format!("`{registry}` lets everybody in, so that the password was not checked");
        ui::remark(&text, session.terminal);
    }
    goes_before(session);
    match keeper {
        Keeper::File => ui::say(&format!(
            "logged in to {registry} as {user}; the password is in `{}`, as it is, for whoever can read that",
            path.display()
        )),
        Keeper::Helper(helper) => ui::say(&format!(
            "logged in to {registry} as {user}; `{helper}` has the password"
        )),
    }
    Ok(())
}

/// Asks for the password; nothing if somebody or something interrupts.
fn secret(cancel: &CancelToken) -> Result<Option<String>, BuildError> {
    credentials::interruptible(cancel)?;
    ui::ask_secret("Password: ", cancel).map_err(no_answer)
}

pub(crate) fn logout(flags: &LogoutFlags, session: &Session) -> Result<(), BuildError> {
    let registry = registry(flags.registry.as_deref())?;
    let path = path(session)?;
    let shown = path.display();
    goes_before(session);
    match credentials::logout(&path, &registry)? {
        Some(Keeper::File) => ui::say(&format!(
            "logged out of {registry}: its credentials are no longer in `{shown}`"
        )),
        Some(Keeper::Helper(helper)) => ui::say(&format!(
            "logged out of {registry}: `{helper}` has forgotten its credentials"
        )),
        None => ui::say(&format!(
            "`{shown}` has no credentials for {registry}: nothing to do"
        )),
    }
    Ok(())
}

/// Says that what is kept in the file may not be what is used.
fn goes_before(session: &Session) {
    if session.settings.docker_auth.is_some() {
        let text = format!(
            "`{}` is set: what it has goes before what is kept",
            DOCKER_AUTH
        );
        ui::remark(&text, session.terminal);
    }
}

/// A registry as names of images begin with it; docker's users also write URLs and docker.io's other names.
fn registry(text: Option<&str>) -> Result<String, BuildError> {
    let Some(text) = text else {
        return Ok(DOCKER_HUB.to_owned());
    };
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => {
            return Ok(DOCKER_HUB.to_owned());
        }
        _ => {}
    }
    match format!("{host}/name").parse::<Reference>() {
        Ok(reference) if reference.registry == host => Ok(reference.registry),
        _ => Err(BuildError::request(vec![
            problem(format!("`{text}` is no registry"))
                .hint("name its host, and port if it has one: `ghcr.io`, `localhost:5000`"),
        ])),
    }
}

fn path(session: &Session) -> Result<PathBuf, BuildError> {
    proxies::docker_config(&session.env).ok_or_else(|| {
        BuildError::request(vec![
            problem("neither HOME nor DOCKER_CONFIG is set, so there is no place for credentials")
                .hint("set DOCKER_CONFIG to a directory"),
        ])
    })
}

fn piped() -> Result<String, BuildError> {
    let mut text = Vec::new();
    let read = io::stdin().take(MAX_PASSWORD).read_to_end(&mut text);
    read.map_err(no_answer)?;
    let text = String::from_utf8(text).map_err(|_| {
        BuildError::request(vec![problem("the password on standard input is not UTF-8")])
    })?;
    // As docker does: one line end is the pipe's, not the password's.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn no_answer(error: io::Error) -> BuildError {
    let error = anyhow::Error::new(error).context("cannot read from standard input");
    BuildError::new(ErrorKind::Environment, error)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn registries_as_people_write_them() {
        for (text, want) in [
            (None, Some("docker.io")),
            (Some("https://index.docker.io/v1/"), Some("docker.io")),
            (Some("ghcr.io"), Some("ghcr.io")),
            (Some("https://ghcr.io/"), Some("ghcr.io")),
            (Some("localhost:5000"), Some("localhost:5000")),
            (Some("localhost"), Some("localhost")),
            (Some("me"), None),
            (Some(""), None),
            (Some("a b.c"), None),
        ] {
            assert_eq!(registry(text).ok().as_deref(), want, "{text:?}");
        }
    }
}
