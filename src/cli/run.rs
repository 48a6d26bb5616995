//! `rbuild run`: a command in an image of the store, to try what was built.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use rbuild_cache::StoredImage;
use rbuild_llb::Diagnostic;

use super::Failed;
use super::Session;
use super::images;
use super::sources::image_name;
use super::values;
use super::values::invalid;
use crate::outcome::BuildError;
use crate::pipeline;
use crate::pipeline::run::run_image;
use crate::request::RunRequest;
use crate::request::Volume;
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
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
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
    let request =
        request(flags, &images, session).map_err(|problem| BuildError::request(vec![problem]))?;
    let mut written = Ok(());
    let mut output = |stream, bytes: &[u8]| match stream {
        Stream::Stdout if written.is_ok() => written = super::print(bytes),
        Stream::Stdout => {}
        Stream::Stderr => ui::relay(bytes),
    };
    let code = run_image(&request, &mut output)?;
    written?;
    Ok(code.into())
}

fn request(
    flags: &RunFlags,
    images: &[(String, StoredImage)],
    session: &Session,
) -> Result<RunRequest, Diagnostic> {
    // What is not in the store is pulled.
    let image = match images::find(images, &flags.image) {
        Some((name, _)) => name.clone(),
        None => image_name("image", &flags.image)?,
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
        settings: session.settings.clone(),
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
