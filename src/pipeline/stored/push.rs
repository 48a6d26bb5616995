//! `rbuild push`: images of the store to registries. Layers that are plain tars, as the store keeps those built here,
//! are compressed, as `rbuild build --push` does it; all else goes as it is.

use rbuild_cache::Store;
use rbuild_cache::StoreError;
use rbuild_cache::StoredImage;
use rbuild_llb::OciDigest;

use super::Chosen;
use super::Documents;
use super::at_work;
use super::ready::Going;
use super::ready::needs;
use super::telling;
use crate::exporter::push;
use crate::outcome::BuildError;
use crate::pipeline::failure;
use crate::pipeline::open_store;
use crate::pipeline::task::Task;
use crate::request::Settings;
use crate::ui::Progress;

/// One `rbuild push`.
#[derive(Debug)]
pub struct PushOptions {
    /// The images, each with the name to push it under.
    pub images: Vec<(Chosen, String)>,
    /// `--referrers`: with what is about them.
    pub referrers: bool,
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
    /// Documents about it that went along.
    pub referrers: usize,
}

/// Pushes images, to several registries side by side, and tells `done` of each in their order as soon as it is there.
///
/// # Errors
/// If some cannot be pushed; what is there stays where it is.
pub fn push(
    settings: &Settings,
    options: &PushOptions,
    progress: &Progress,
    done: &mut dyn FnMut(&Pushed) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let store = open_store(settings)?;
    let going = options.images.iter().map(|(chosen, _)| {
        let documents = Documents::read(&store, &chosen.image)?;
        // What is said of an image is said of its digest.
        let compress = !options.referrers || chosen.image.referrers.is_empty();
        Going::plan(&store, &chosen.text, documents, compress)
    });
    let going: Vec<Going> = going.collect::<Result<_, _>>()?;
    let needs = needs(&store, &going);
    let names: Vec<&String> = options.images.iter().map(|(_, name)| name).collect();
    let brought = push::Brought::default();
    at_work(settings, &store, needs, progress, |engine, events| {
        let one = |at: usize, name: &str| {
            let (chosen, _) = &options.images[at];
            let shown = format!("push {name}");
            let step = Task::start(&shown, &shown, events);
            step.carry_out(engine.cancel(), |_| {
                let ready = going[at].make(engine)?;
                let names = [name.to_owned()];
                let export = ready.export(engine, &names);
                let sent = push::send(&export, name, &brought).map_err(failure::export)?;
                let image = &chosen.image;
                let referrers = match options.referrers {
                    true => image.referrers.as_slice(),
                    false => &[],
                };
                for document in referrers {
                    push::send_referrer(&export, name, *document, &brought)
                        .map_err(failure::export)?;
                }
                if chosen.name.as_deref() == Some(name) {
                    note(&store, name, image, sent.digest).map_err(failure::store)?;
                }
                Ok(Pushed {
                    name: name.to_owned(),
                    digest: sent.digest,
                    sent: sent.sent,
                    existed: sent.existed,
                    referrers: referrers.len(),
                })
            })
        };
        telling(
            |there| {
                let all = push::by_registry(&names, |at, name| {
                    // Who no longer listens has failed, and says so.
                    drop(there.send((at, one(at, name)?)));
                    Ok(())
                });
                all.map(drop).map_err(failure::several)
            },
            &mut |pushed| progress.aside(|| done(pushed)),
        )
    })
}

/// Notes the digest that a registry knows an image by. A push takes its time: what is called `name` by now may be another
/// image, or nothing.
fn note(
    store: &Store,
    name: &str,
    pushed: &StoredImage,
    digest: OciDigest,
) -> Result<(), StoreError> {
    match store.images().get(name)? {
        Some(image) if image.digest == pushed.digest => {
            let noted = StoredImage {
                repo_digest: Some(digest),
                ..image
            };
            store.images().set(name, &noted)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_name_that_changed_meanwhile_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let image = |byte: u8| StoredImage {
            digest: OciDigest::from_bytes([byte; 32]),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            id: OciDigest::from_bytes([byte; 32]),
            repo_digest: None,
            created: u128::from(byte),
            size: 0,
            rung: None,
            referrers: Vec::new(),
        };
        let (pushed, in_registry) = (image(1), OciDigest::from_bytes([9; 32]));
        let rebuilt_alike = StoredImage {
            created: 7,
            ..image(1)
        };
        let noted = StoredImage {
            repo_digest: Some(in_registry),
            ..rebuilt_alike.clone()
        };
        for (now, want) in [
            (Some(rebuilt_alike), Some(noted)),
            (Some(image(2)), Some(image(2))),
            (None, None),
        ] {
            store.images().remove("app").unwrap();
            if let Some(now) = now {
                store.images().set("app", &now).unwrap();
            }
            note(&store, "app", &pushed, in_registry).unwrap();
            assert_eq!(store.images().get("app").unwrap(), want);
        }
    }
}
