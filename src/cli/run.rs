//! `rbuild run`: a command in an image of the store, to try what was built.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use rbuild_cache::StoredImage;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;

use super::Failed;
use super::Session;
use super::containers;
use super::containers::DETACHED;
use super::images;
use super::sources::image_name;
use super::values;
use super::values::invalid;
use super::values::problem;
use crate::outcome::BuildError;
use crate::pipeline;
use crate::pipeline::run::run_image;
use crate::request::PublishedPort;
use crate::request::RunRequest;
use crate::request::Volume;
use crate::sandbox::Port;
use crate::sandbox::Stream;
use crate::ui;

#[derive(Debug, Default, Args)]
pub(crate) struct RunFlags {
    /// Set a variable: `KEY=value`, or `KEY` to take it from the environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Run this instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Network: `default`, `host`, `none`
    #[arg(
        long,
        value_name = "MODE",
        default_value = "default",
        hide_default_value = true
    )]
    network: String,
    /// User and group: names or ids
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// A directory or file of this machine
    #[arg(short, long, value_name = "PATH:DEST[:ro]")]
    volume: Vec<String>,
    /// The platform of the image [default: this machine's, or the only one there is]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Keep standard input open for it, and hand on what comes
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Leave it running, and print an id for `rbuild logs` and `rbuild stop`
    #[arg(short, long)]
    detach: bool,
    /// A TCP port of this machine that leads to one of the container: `8080:80`, `127.0.0.1:8080:80`, `80` for any that is
    /// free
    #[arg(short, long, value_name = "[[IP:]PORT:]PORT")]
    publish: Vec<String>,
    /// Containers are always removed
    #[arg(long, hide = true)]
    rm: bool,
    /// Name or id of an image in the store
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The command, instead of the image's
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

/// Ends with the command's own exit code.
pub(crate) fn run(flags: &RunFlags, session: &Session) -> Result<ExitCode, Failed> {
    let images = images::named(&pipeline::open_store(&session.settings)?)?;
    let platform = images::platform(flags.platform.as_ref())?;
    let request = request(flags, &images, platform, session)
        .map_err(|problem| BuildError::request(vec![problem]))?;
    let detached = session.env.text(DETACHED);
    if flags.detach && detached.is_none() {
        return Ok(containers::detach(session)?);
    }
    let alive = match &detached {
        Some(id) => Some(containers::become_detached(id, session)?),
        None => None,
    };
    let asked = request.ports.clone();
    let started = |listening: &[Port]| {
        for (port, asked) in listening.iter().zip(&asked) {
            if asked.host.port() == 0 {
                ui::say(&format!("{} leads to port {}\n", port.host, port.container));
            }
        }
        if alive.is_some() {
            containers::say_started();
        }
    };
    let mut written = Ok(());
    let mut output = |stream, bytes: &[u8]| match stream {
        Stream::Stdout if written.is_ok() => written = super::print(bytes),
        Stream::Stdout => {}
        Stream::Stderr => ui::relay(bytes),
    };
    let remark = |text: &str| ui::remark(text, session.terminal);
    let code = run_image(&request, remark, started, &mut output)?;
    written?;
    Ok(code.into())
}

fn request(
    flags: &RunFlags,
    images: &[(String, StoredImage)],
    platform: Option<Platform>,
    session: &Session,
) -> Result<RunRequest, Diagnostic> {
    if flags.interactive && flags.tty && !flags.detach && !ui::can_ask() {
        let message = "`-it` takes a terminal, and standard input is none";
        return Err(problem(message).hint("leave `-t` out: `-i` hands on what comes"));
    }
    if flags.interactive && flags.detach && !flags.tty {
        let message = "`-i` hands on standard input, and with `-d` there is none";
        return Err(problem(message).hint("leave one of them out, or add `-t`"));
    }
    // What is not in the store is pulled.
    let image = match images::find(images, &flags.image) {
        Some((name, _)) => name.clone(),
        None => image_name("name", &flags.image)?,
    };
    let mut env = BTreeMap::new();
    for text in &flags.env {
        let (key, value) = values::key_value("env", text)?;
        let value = match value {
            Some(value) => Some(value.to_owned()),
            None => session
                .env
                .get(key)
                .map(|value| value.to_string_lossy().into_owned()),
        };
        env.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(RunRequest {
        image,
        platform,
        args: flags.command.clone(),
        entrypoint: flags.entrypoint.clone(),
        env,
        workdir: flags.workdir.clone(),
        user: flags.user.clone(),
        volumes: flags
            .volume
            .iter()
            .map(|text| volume(text))
            .collect::<Result<_, _>>()?,
        network: values::network(&flags.network)?,
        ports: flags
            .publish
            .iter()
            .map(|text| port(text))
            .collect::<Result<_, _>>()?,
        interactive: flags.interactive,
        terminal: flags.tty,
        settings: session.settings.clone(),
    })
}

/// `port`, `port:port`, `ip:port:port`, an IPv6 address in brackets; behind it perhaps `/tcp`.
fn port(text: &str) -> Result<PublishedPort, Diagnostic> {
    let invalid = |why: String| invalid("publish", text, why);
    let ports = match text.split_once('/') {
        Some((ports, "tcp")) => ports,
        Some((_, other)) => return Err(invalid(format!("`{other}` is not passed on, only `tcp`"))),
        None => text,
    };
    let number = |number: &str| {
        let parsed = number.parse::<u16>().ok().filter(|number| *number > 0);
        parsed.ok_or_else(|| invalid(format!("`{number}` is not a port")))
    };
    let (rest, container) = match ports.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), number(container)?),
        None => (None, number(ports)?),
    };
    let (ip, host) = match rest.map(|rest| rest.rsplit_once(':').ok_or(rest)) {
        None => (None, 0),
        Some(Err(host)) => (None, number(host)?),
        Some(Ok((ip, ""))) => (Some(ip), 0),
        Some(Ok((ip, host))) => (Some(ip), number(host)?),
    };
    let bare = |ip: &str| {
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        bare.unwrap_or(ip).parse::<IpAddr>()
    };
    let ip = match ip.map(|ip| bare(ip).map_err(|_| ip)) {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(Ok(ip)) => ip,
        Some(Err(ip)) => return Err(invalid(format!("`{ip}` is not an IP address"))),
    };
    Ok(PublishedPort {
        host: SocketAddr::new(ip, host),
        container,
    })
}

/// `path:dest`, `path:dest:ro`, `path:dest:rw`.
fn volume(text: &str) -> Result<Volume, Diagnostic> {
    let invalid = |why: String| invalid("volume", text, why);
    let parts: Vec<&str> = text.split(':').collect();
    let (source, dest, readonly) = match parts[..] {
        [source, dest] | [source, dest, "rw"] => (source, dest, false),
        [source, dest, "ro"] => (source, dest, true),
        _ => return Err(invalid("wanted `path:dest` or `path:dest:ro`".into())),
    };
    if !dest.starts_with('/') {
        return Err(invalid(format!("`{dest}` does not begin with `/`")));
    }
    // A mount does not follow links: it is what the path means now.
    let path = std::fs::canonicalize(source).map_err(|error| {
        invalid(match error.kind() {
            std::io::ErrorKind::NotFound => format!("`{source}` does not exist"),
            _ => format!("`{source}`: {error}"),
        })
    })?;
    Ok(Volume {
        source: path,
        dest: dest.to_owned(),
        readonly,
    })
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    #[test]
    fn ports() {
        for (text, host, container) in [
            ("80", "0.0.0.0:0", 80),
            ("8080:80", "0.0.0.0:8080", 80),
            ("8080:80/tcp", "0.0.0.0:8080", 80),
            ("127.0.0.1:8080:80", "127.0.0.1:8080", 80),
            ("127.0.0.1::80", "127.0.0.1:0", 80),
            ("[::1]:8080:80", "[::1]:8080", 80),
        ] {
            let host = host.parse().unwrap();
            assert_eq!(port(text), Ok(PublishedPort { host, container }), "{text}");
        }
        let wrong = ["", "x", "0:80", "80:70000", "h:1:2", "53:53/udp"];
        let text: String = wrong
            .iter()
            .map(|text| ui::render(&port(text).unwrap_err(), false) + "\n")
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--publish `: `` is not a port
error: `--publish x`: `x` is not a port
error: `--publish 0:80`: `0` is not a port
error: `--publish 80:70000`: `70000` is not a port
error: `--publish h:1:2`: `h` is not an IP address
error: `--publish 53:53/udp`: `udp` is not passed on, only `tcp`

"#]]
        );
    }

    #[test]
    fn volumes() {
        for (text, readonly) in [("/:/mnt", false), ("/:/mnt:ro", true), ("/:/mnt:rw", false)] {
            let want = Volume {
                source: "/".into(),
                dest: "/mnt".into(),
                readonly,
            };
            assert_eq!(volume(text), Ok(want));
        }
        let wrong = ["/", "/:mnt", "/:/mnt:z", "/nowhere:/mnt"];
        let text: String = wrong
            .iter()
            .map(|text| ui::render(&volume(text).unwrap_err(), false) + "\n")
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--volume /`: wanted `path:dest` or `path:dest:ro`
error: `--volume /:mnt`: `mnt` does not begin with `/`
error: `--volume /:/mnt:z`: wanted `path:dest` or `path:dest:ro`
error: `--volume /nowhere:/mnt`: `/nowhere` does not exist

"#]]
        );
    }
}
