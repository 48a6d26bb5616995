//! `rbuild pull`, `push`, `save` and `load`.

use std::fs::File;
use std::io;
use std::io::IsTerminal as _;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use rbuild_llb::Diagnostic;

use super::chosen;
use super::find;
use super::named;
use super::platform;
use crate::cli::Failed;
use crate::cli::Session;
use crate::cli::sources::image_name;
use crate::cli::values;
use crate::cli::values::problem;
use crate::outcome::BuildError;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::pipeline::stored;
use crate::pipeline::stored::Chosen;
use crate::pipeline::stored::LoadOptions;
use crate::pipeline::stored::PullOptions;
use crate::pipeline::stored::Pulled;
use crate::pipeline::stored::PushOptions;
use crate::pipeline::stored::Pushed;
use crate::pipeline::stored::SaveOptions;
use crate::pipeline::stored::Wanted;
use crate::request::Destination;
use crate::ui;
use crate::ui::Progress;
use crate::ui::ProgressMode;

#[derive(Debug, Args)]
pub(crate) struct PullFlags {
    /// Names: `busybox`, `ghcr.io/me/app:1`, `app@sha256:…`
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The platforms to pull, separated by commas, or `all` [default: this machine's]
    #[arg(long, value_name = "OS/ARCH,…")]
    platform: Option<String>,
    /// With what their registry lists as being about them: signatures, SBOMs
    #[arg(long)]
    referrers: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushFlags {
    /// Names or ids of images in the store; behind a single one, the name to push it under
    #[arg(required = true, value_name = "NAME")]
    images: Vec<String>,
    /// The name to push the image under, instead of its own
    #[arg(long = "as", value_name = "DEST")]
    dest: Option<String>,
    /// With what was pulled with them by `rbuild pull --referrers`; layers go as they came
    #[arg(long)]
    referrers: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SaveFlags {
    /// Names or ids of images in the store
    #[arg(required = true, value_name = "NAME")]
    images: Vec<String>,
    /// The file to write, or `-` for standard output, which is the default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Whose archive to write
    #[arg(long, value_enum, default_value = "docker")]
    format: ArchiveFormat,
    /// Of images for several platforms, this one
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArchiveFormat {
    /// What `docker load`, `podman load` and skopeo's `docker-archive:` read; one platform of each image
    Docker,
    /// An OCI image layout, for skopeo's `oci-archive:`; with all platforms
    Oci,
}

#[derive(Debug, Args)]
pub(crate) struct LoadFlags {
    /// The archive: docker's or OCI's, compressed or not [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Of images for several platforms, only this one
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Shows progress while something is done.
fn shown<T>(
    quiet: bool,
    session: &Session,
    deed: impl FnOnce(&Progress) -> Result<T, BuildError>,
) -> Result<T, Failed> {
    let mode = match quiet {
        true => ProgressMode::Quiet,
        false => ProgressMode::Auto,
    };
    let progress = Progress::start(mode, session.terminal, Vec::new());
    let done = deed(&progress);
    progress.finish();
    done.map_err(|error| Failed {
        error,
        progress: Some(progress),
    })
}

pub(crate) fn pull(flags: &PullFlags, session: &Session) -> Result<(), Failed> {
    let names: Result<Vec<String>, Diagnostic> = flags
        .names
        .iter()
        .map(|name| image_name("name", name))
        .collect();
    let options = PullOptions {
        names: names.map_err(|problem| BuildError::request(vec![problem]))?,
        platforms: wanted(flags.platform.as_deref())
            .map_err(|problem| BuildError::request(vec![problem]))?,
        referrers: flags.referrers,
    };
    let mut tell = |image: &Pulled| {
        if !flags.quiet {
            let platforms: Vec<String> = image.platforms.iter().map(ToString::to_string).collect();
            ui::say(&format!(
                "pulled {} for {} ({}, {}) with digest {}{}",
                image.name,
                platforms.join(", "),
                image.id.short(),
                ui::size(image.size),
                image.digest,
                with_referrers(flags.referrers, image.referrers),
            ));
        }
        crate::cli::print(format!("{}\n", image.name).as_bytes())
    };
    shown(flags.quiet, session, |progress| {
        stored::pull(&session.settings, &options, progress, &mut tell)
    })
}

/// What is said of them where they were asked for.
fn with_referrers(asked: bool, count: usize) -> String {
    match (asked, count) {
        (false, _) => String::new(),
        (true, 0) => ", and nothing is known to be about it".to_owned(),
        (true, 1) => ", and 1 document about it".to_owned(),
        (true, several) => format!(", and {several} documents about it"),
    }
}

/// `--platform` of a pull.
fn wanted(text: Option<&str>) -> Result<Wanted, Diagnostic> {
    Ok(match text {
        None => Wanted::Own,
        Some("all") => Wanted::All,
        Some(text) => Wanted::These(values::platforms(text)?),
    })
}

pub(crate) fn push(flags: &PushFlags, session: &Session) -> Result<(), Failed> {
    let images = {
        let store = pipeline::open_store(&session.settings)?;
        named(&store)?
    };
    let wrong =
        |message: String, hint: String| Err(BuildError::request(vec![problem(message).hint(hint)]));
    let (texts, dest) = match (flags.images.as_slice(), &flags.dest) {
        ([image], Some(dest)) => (std::slice::from_ref(image), Some(dest)),
        (_, Some(_)) => {
            let message = "`--as` names one image, and several are to be pushed".to_owned();
            wrong(message, "push them one by one".to_owned())?
        }
        ([image, dest], None) => match find(&images, dest) {
            None => (std::slice::from_ref(image), Some(dest)),
            Some(_) => wrong(
                format!(
                    "`{dest}` is an image of the store, and could be another to push or the name to push `{image}` under"
                ),
                format!("`rbuild push {image} --as {dest}`, or push them one by one"),
            )?,
        },
        (texts, None) => (texts, None),
    };
    let chosen = chosen(&images, texts)?;
    let mut named_images = Vec::new();
    for image in chosen {
        let name = destination(&image, dest)?;
        named_images.push((image, name));
    }
    let options = PushOptions {
        images: named_images,
        referrers: flags.referrers,
    };
    let mut tell = |image: &Pushed| {
        if !flags.quiet {
            ui::say(&format!(
                "pushed {}: {} blobs sent, {} were there{}",
                image.name,
                image.sent,
                image.existed,
                with_referrers(flags.referrers, image.referrers),
            ));
        }
        crate::cli::print(format!("{}@{}\n", image.name, image.digest).as_bytes())
    };
    shown(flags.quiet, session, |progress| {
        stored::push(&session.settings, &options, progress, &mut tell)
    })
}

/// The name to push an image under.
fn destination(image: &Chosen, dest: Option<&String>) -> Result<String, BuildError> {
    let text = &image.text;
    let found = match (dest, &image.name) {
        (Some(dest), _) => image_name("as", dest),
        (None, Some(name)) => Ok(name.clone()),
        (None, None) => Err(
            problem(format!("`{text}` is an id, and no name to push it under")).hint(format!(
                "`rbuild push {text} registry.example.org/name:tag`"
            )),
        ),
    };
    let name = match found {
        Ok(name) if name.contains('@') => Err(problem(format!(
            "`{text}` would be pushed under a digest, and that is what a push gives"
        ))
        .hint(format!(
            "name a tag: `rbuild push {text} registry.example.org/name:tag`"
        ))),
        found => found,
    };
    name.map_err(|problem| BuildError::request(vec![problem]))
}

pub(crate) fn save(flags: &SaveFlags, session: &Session) -> Result<(), Failed> {
    let dest = match &flags.output {
        Some(path) if path.as_os_str() != "-" => Destination::File(path.clone()),
        _ => Destination::Stdout,
    };
    if dest == Destination::Stdout && session.stdout_is_terminal {
        let refused = problem("standard output is a terminal, which an archive is nothing for")
            .hint("write a file with `-o FILE`, or pipe it to another program");
        return Err(BuildError::request(vec![refused]).into());
    }
    let images = {
        let store = pipeline::open_store(&session.settings)?;
        chosen(&named(&store)?, &flags.images)?
    };
    let options = SaveOptions {
        images,
        dest,
        docker: flags.format == ArchiveFormat::Docker,
        platform: platform(flags.platform.as_ref())?,
    };
    let saved = shown(flags.quiet, session, |progress| {
        stored::save(&session.settings, &options, progress)
    })?;
    for delivery in &saved.deliveries {
        if let Delivery::File { path, size } = delivery
            && !flags.quiet
        {
            let images = match saved.images {
                1 => "1 image".to_owned(),
                several => format!("{several} images"),
            };
            let size = ui::size(*size);
            ui::say(&format!("wrote {} ({images}, {size})", path.display()));
        }
    }
    Ok(())
}

pub(crate) fn load(flags: &LoadFlags, session: &Session) -> Result<(), Failed> {
    let path = flags.input.as_ref().filter(|path| path.as_os_str() != "-");
    let (input, shown_as): (Box<dyn Read + Send>, PathBuf) = match path {
        Some(path) => {
            let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
                true => Err(io::ErrorKind::IsADirectory.into()),
                false => Ok(file),
            });
            let file = opened.map_err(|error| {
                let error =
                    anyhow::Error::new(error).context(format!("cannot read `{}`", path.display()));
                BuildError::new(ErrorKind::Request, error)
            })?;
            (Box::new(file), path.clone())
        }
        None if io::stdin().is_terminal() => {
            let refused = problem("standard input is a terminal, and no archive")
                .hint("name a file with `-i FILE`, or pipe one in");
            return Err(BuildError::request(vec![refused]).into());
        }
        None => (Box::new(io::stdin()), "standard input".into()),
    };
    let options = LoadOptions {
        shown: shown_as,
        platform: platform(flags.platform.as_ref())?,
    };
    let loaded = shown(flags.quiet, session, |progress| {
        stored::load(&session.settings, &options, input, progress)
    })?;
    for image in loaded {
        // In docker's words, which scripts read.
        let text = match image.names.is_empty() {
            true => format!("Loaded image ID: {}\n", image.id),
            false => image
                .names
                .iter()
                .map(|name| format!("Loaded image: {}\n", in_docker(name)))
                .collect(),
        };
        crate::cli::print(text.as_bytes())?;
    }
    Ok(())
}

fn in_docker(name: &str) -> String {
    match super::repository_and_tag(name) {
        (Some(repository), Some(tag)) => format!("{repository}:{tag}"),
        _ => name.to_owned(),
    }
}
