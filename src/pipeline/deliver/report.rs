//! The files that say what was built.

use std::io::Write as _;
use std::path::Path;

use crate::exporter::ExportError;
use crate::exporter::Pending;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::Ran;
use crate::pipeline::failure;
use crate::request::BuildRequest;
use crate::request::Destination;

/// `--iidfile` and `--metadata-file`: last, and each at once.
pub(in crate::pipeline) fn write_reports(
    request: &BuildRequest,
    outcome: &BuildOutcome,
) -> Result<(), BuildError> {
    if let Some(path) = &request.iidfile {
        let images = outcome
            .built
            .iter()
            .filter_map(|built| built.image.as_ref());
        let ids: Vec<String> = images.map(|image| image.id.to_string()).collect();
        write_whole(path, ids.join("\n").as_bytes())?;
    }
    if let Some(path) = &request.metadata_file {
        // Of several targets each has its own, as bake writes them.
        let metadata = match outcome.built.as_slice() {
            [built] if built.name.is_none() => metadata(built, outcome),
            several => several
                .iter()
                .map(|built| {
                    let name = built.name.clone().unwrap_or_default();
                    (name, metadata(built, outcome))
                })
                .collect(),
        };
        let text =
            serde_json::to_vec_pretty(&metadata).expect("a JSON value can always be written");
        write_whole(path, &text)?;
    }
    Ok(())
}

/// What buildx writes about one image, in its keys. What it says about builds by a daemon (`buildx.build.ref`) has
/// nothing here that it could name.
fn metadata(built: &Built, outcome: &BuildOutcome) -> serde_json::Value {
    let mut metadata = serde_json::Map::new();
    if let Some(image) = &built.image {
        if !image.descriptor.is_index() {
            metadata.insert(
                "containerimage.config.digest".into(),
                image.id.to_string().into(),
            );
        }
        let descriptor = serde_json::to_value(&image.descriptor);
        metadata.insert(
            "containerimage.descriptor".into(),
            descriptor.expect("a descriptor holds strings and numbers"),
        );
        let digest = image.descriptor.digest.to_string();
        metadata.insert("containerimage.digest".into(), digest.into());
        if !image.names.is_empty() {
            metadata.insert("image.name".into(), image.names.join(",").into());
        }
    }
    let own = |ran: &&Ran| built.name.is_none() || ran.target == built.name;
    let ran: Vec<_> = outcome.ran.iter().filter(own).map(where_it_ran).collect();
    if !ran.is_empty() {
        metadata.insert("rbuild.nodes".into(), ran.into());
    }
    metadata.into()
}

/// Which node of a builder built a platform, and which should have.
fn where_it_ran(ran: &Ran) -> serde_json::Value {
    let failed = ran.failed.iter();
    let failed = failed.map(|(node, why)| serde_json::json!({"node": node, "error": why}));
    serde_json::json!({
        "target": ran.target,
        "platform": ran.platform.to_string(),
        "node": ran.node,
        "endpoint": ran.place,
        "emulatedSteps": ran.emulated,
        "failed": failed.collect::<Vec<_>>(),
    })
}

/// Writes a file that appears when it is whole. To what is there and is no file, such as a pipe, is written as it is.
pub(in crate::pipeline) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let write = || -> Result<(), ExportError> {
        let (file, mut to) = Pending::open(&Destination::File(path.to_owned()))?;
        to.write_all(bytes).map_err(|source| ExportError::Write {
            path: path.to_owned(),
            source,
        })?;
        drop(to);
        file.finish()?;
        Ok(())
    };
    write().map_err(failure::export)
}
