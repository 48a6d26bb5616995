//! `rbuild push`: images of the store to registries. Layers that are plain tars, as the store keeps those built here,
//! are compressed, as `rbuild build --push` does it; all else goes as it is.

use rbuild_cache::StoredImage;
use rbuild_llb::OciDigest;

use super::Chosen;
use super::Documents;
use super::Step;
use super::ready::Going;
use super::ready::dispatch;
use crate::exporter::push;
use crate::outcome::BuildError;
use crate::pipeline::durability;
use crate::pipeline::failure;
use crate::pipeline::open_store;
use crate::request::Settings;
use crate::ui::Progress;

/// One `rbuild push`.
#[derive(Debug)]
pub struct PushOptions {
    /// The images, each with the name to push it under.
    pub images: Vec<(Chosen, String)>,
}

/// An image that is in a registry now.
#[derive(Debug)]
pub struct Pushed {
    /// Under which name.
    pub name: String,
    /// With which digest.
    pub digest: OciDigest,
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that were there.
    pub existed: usize,
}

/// Pushes images.
///
/// # Errors
/// At the first that cannot be pushed; those before it stay where they are.
pub fn push(
    settings: &Settings,
    options: &PushOptions,
    progress: &Progress,
) -> Result<Vec<Pushed>, BuildError> {
    let store = open_store(settings)?;
    let going = options.images.iter().map(|(chosen, _)| {
        let documents = Documents::read(&store, &chosen.image)?;
        Going::plan(&store, &chosen.text, documents, true)
    });
    let going: Vec<Going> = going.collect::<Result<_, _>>()?;
    let events = progress.events();
    let pushed = dispatch(settings, &store, &going, progress, |dispatch| {
        let mut pushed = Vec::new();
        for ((chosen, name), going) in options.images.iter().zip(&going) {
            let step = Step::start(format!("push {name}"), &events);
            let done = step.carry_out(dispatch.cancel, |_| {
                let ready = going.make(dispatch.engine)?;
                let names = std::slice::from_ref(name);
                push::send(&dispatch.export(&ready, names), name).map_err(failure::export)
            })?;
            if chosen.name.as_ref() == Some(name) {
                let stored = StoredImage {
                    repo_digest: Some(done.digest),
                    ..chosen.image.clone()
                };
                store.images().set(name, &stored).map_err(failure::store)?;
            }
            pushed.push(Pushed {
                name: name.clone(),
                digest: done.digest,
                sent: done.sent,
                existed: done.existed,
            });
        }
        Ok(pushed)
    })?;
    durability::sync_later(&store, &settings.root);
    Ok(pushed)
}
