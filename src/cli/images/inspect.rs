//! `rbuild inspect`: all that is known of an image, in docker's words.

use clap::Args;
use rbuild_cache::Store;
use rbuild_cache::StoredImage;
use rbuild_llb::Platform;
use rbuild_llb::event::Timestamp;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::bad_format;
use super::chosen;
use super::named;
use super::platform;
use super::repo_digest;
use super::repository_and_tag;
use crate::cli::Session;
use crate::cli::sources::image_name;
use crate::cli::template::Template;
use crate::outcome::BuildError;
use crate::pipeline;
use crate::pipeline::stored::Documents;
use crate::pipeline::stored::ImageDocuments;

#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// Names or ids of images in the store; with `--referrers` names of images in registries
    #[arg(required = true, value_name = "NAME")]
    images: Vec<String>,
    /// How to print them: `json` (an array), or a template: `{{.Id}}`, `{{json .Config}}`
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "json",
        hide_default_value = true
    )]
    format: String,
    /// Of an image for several platforms, the one to print [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Ask the registry what is about an image instead: signatures, SBOMs
    #[arg(long)]
    referrers: bool,
    /// Of those only what is of that type
    #[arg(long, value_name = "TYPE", requires = "referrers")]
    artifact_type: Option<String>,
}

pub(crate) fn inspect(flags: &InspectFlags, session: &Session) -> Result<(), BuildError> {
    let template = match flags.format.as_str() {
        "" | "json" => None,
        text if text.contains("{{") => Some(Template::parse(text).map_err(|why| bad_format(&why))?),
        text => {
            let why = format!("`{text}` is neither `json` nor a template such as `{{{{.Id}}}}`");
            return Err(bad_format(&why));
        }
    };
    let platform = platform(flags.platform.as_ref())?;
    let found = match flags.referrers {
        true => referrers(flags, platform.as_ref(), session)?,
        false => images(flags, platform.as_ref(), session)?,
    };
    let text = match template {
        None => format!("{:#}\n", Value::Array(found)),
        Some(template) => {
            let lines = found.iter().map(|image| template.render(image));
            let lines: Result<Vec<String>, String> = lines.collect();
            let lines = lines.map_err(|why| bad_format(&why))?;
            lines.iter().map(|line| format!("{line}\n")).collect()
        }
    };
    crate::cli::print_text(&text, session)
}

fn images(
    flags: &InspectFlags,
    platform: Option<&Platform>,
    session: &Session,
) -> Result<Vec<Value>, BuildError> {
    let store = pipeline::open_store(&session.settings)?;
    let all = named(&store)?;
    let mut found = Vec::new();
    for chosen in chosen(&all, &flags.images)? {
        let documents = Documents::read(&store, &chosen.image)?;
        let image = documents.image_for(&chosen.text, platform)?;
        found.push(describe(&store, &all, &chosen.image, &documents, image)?);
    }
    Ok(found)
}

/// What registries list as being about images.
fn referrers(
    flags: &InspectFlags,
    platform: Option<&Platform>,
    session: &Session,
) -> Result<Vec<Value>, BuildError> {
    let names = flags.images.iter().map(|name| image_name("name", name));
    let names: Vec<String> = names
        .collect::<Result<_, _>>()
        .map_err(|problem| BuildError::request(vec![problem]))?;
    let kind = flags.artifact_type.as_deref();
    let mut found = Vec::new();
    for name in names {
        let listed = pipeline::stored::referrers::listed(&session.settings, &name, platform, kind)?;
        found.extend(listed.entries.into_iter().map(|entry| {
            json!({
                "Image": name,
                "Subject": listed.subject,
                "Digest": entry.digest,
                "MediaType": entry.media_type,
                "ArtifactType": entry.artifact_type.unwrap_or_default(),
                "Size": entry.size,
                "Annotations": entry.annotations,
            })
        }));
    }
    Ok(found)
}

fn describe(
    store: &Store,
    all: &[(String, StoredImage)],
    stored: &StoredImage,
    documents: &Documents,
    image: &ImageDocuments,
) -> Result<Value, BuildError> {
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for (name, _) in all
        .iter()
        .filter(|(_, other)| other.digest == stored.digest)
    {
        if let (Some(repository), Some(tag)) = repository_and_tag(name) {
            tags.push(format!("{repository}:{tag}"));
        }
    }
    for (name, other) in all
        .iter()
        .filter(|(_, other)| other.digest == stored.digest)
    {
        digests.extend(repo_digest(name, other));
    }
    digests.sort();
    digests.dedup();
    let config = &image.config;
    let last = config.history.last();
    let size: u64 = image.layer_sizes(store)?.iter().sum();
    Ok(json!({
        "Id": image.id(),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Comment": last.map_or("", |entry| &entry.comment),
        "Created": config.created.as_deref().unwrap_or_default(),
        "Author": config.author,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "OsVersion": config.os_version,
        "Size": size,
        "Config": run_config(&image.config_bytes),
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids},
        "Metadata": {"LastTagTime": Timestamp(stored.created), "Rung": stored.rung},
        "Descriptor": documents.top,
    }))
}

/// The config's `config` as it is written, and what it leaves out as empty: then a template can ask for it.
fn run_config(bytes: &[u8]) -> Value {
    let config: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let mut run = match &config["config"] {
        Value::Object(run) => run.clone(),
        _ => Map::new(),
    };
    for (keys, empty) in [
        (&["User", "WorkingDir", "StopSignal"] as &[&str], json!("")),
        (&["Env", "Cmd", "Entrypoint", "OnBuild", "Shell"], json!([])),
        (&["Labels", "Volumes", "ExposedPorts"], json!({})),
        // What an image need not have, and templates ask for.
        (&["Healthcheck"], Value::Null),
    ] {
        for key in keys {
            match run.get(*key) {
                None | Some(Value::Null) => drop(run.insert((*key).to_owned(), empty.clone())),
                Some(_) => {}
            }
        }
    }
    Value::Object(run)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn what_a_config_leaves_out_is_empty() {
        let run =
            run_config(br#"{"config":{"Cmd":["sh"],"Env":null,"Healthcheck":{"Test":["NONE"]}}}"#);
        assert_eq!(run["Cmd"], json!(["sh"]));
        assert_eq!(run["Env"], json!([]));
        assert_eq!(run["Labels"], json!({}));
        assert_eq!(run["Healthcheck"]["Test"][0], "NONE");
        assert_eq!(run["User"], "");
        let empty = run_config(b"{}");
        assert_eq!(empty["Entrypoint"], json!([]));
        assert_eq!(empty.get("Healthcheck"), Some(&Value::Null));
    }
}
