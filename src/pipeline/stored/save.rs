//! `rbuild save`: images of the store as one archive.

use rbuild_llb::Platform;

use super::Chosen;
use super::Documents;
use super::at_work;
use super::ready::Going;
use super::ready::Ready;
use super::ready::needs;
use crate::exporter::Export;
use crate::exporter::archive;
use crate::outcome::BuildError;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::pipeline::failure;
use crate::pipeline::open_store;
use crate::pipeline::task::Task;
use crate::request::Destination;
use crate::request::Settings;
use crate::ui::Progress;

/// One `rbuild save`.
#[derive(Debug)]
pub struct SaveOptions {
    /// The images.
    pub images: Vec<Chosen>,
    /// Where to.
    pub dest: Destination,
    /// With docker's `manifest.json`.
    pub docker: bool,
    /// `--platform`: of images for several, this one.
    pub platform: Option<Platform>,
}

/// An archive that was written.
#[derive(Debug)]
pub struct Saved {
    /// How many images are in it.
    pub images: usize,
    /// Where it is.
    pub deliveries: Vec<Delivery>,
}

/// Writes an archive.
///
/// # Errors
/// If it could not be written whole; then nothing is left under its name.
pub fn save(
    settings: &Settings,
    options: &SaveOptions,
    progress: &Progress,
) -> Result<Saved, BuildError> {
    let store = open_store(settings)?;
    // One image under several names is one image.
    let mut grouped: Vec<(&Chosen, Vec<String>)> = Vec::new();
    for chosen in &options.images {
        let found = grouped
            .iter_mut()
            .find(|(have, _)| have.image.digest == chosen.image.digest);
        let names = match found {
            Some((_, names)) => names,
            None => {
                grouped.push((chosen, Vec::new()));
                &mut grouped.last_mut().expect("it was pushed just now").1
            }
        };
        // What is named by a digest, or by nothing but its id, has no name that an archive could give it.
        let tagged = chosen.name.iter().filter(|name| !name.contains('@'));
        let tagged = tagged.filter(|name| name.contains('/')).cloned();
        for name in tagged {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let going = grouped.iter().map(|(chosen, _)| {
        let mut documents = Documents::read(&store, &chosen.image)?;
        if options.platform.is_some() || options.docker {
            documents.keep_only(&chosen.text, options.platform.as_ref())?;
        }
        Going::plan(&store, &chosen.text, documents, false)
    });
    let going: Vec<Going> = going.collect::<Result<_, _>>()?;
    let needs = needs(&store, &going);
    let deliveries = at_work(settings, &store, needs, progress, |engine, events| {
        let step = Task::start("save", "save", events);
        step.carry_out(engine.cancel(), |_| {
            let ready = going.iter().map(|going| going.make(engine));
            let ready: Vec<Ready> = ready.collect::<Result<_, _>>()?;
            let exports: Vec<Export<'_>> = ready
                .iter()
                .zip(&grouped)
                .map(|(ready, (_, names))| ready.export(engine, names))
                .collect();
            archive::write(&exports, options.docker, &options.dest).map_err(failure::export)
        })
    })?;
    Ok(Saved {
        images: going.len(),
        deliveries,
    })
}

impl Documents {
    /// Leaves one platform: the one asked for, or this machine's.
    fn keep_only(&mut self, text: &str, platform: Option<&Platform>) -> Result<(), BuildError> {
        let host = Platform::host();
        let digest = match (platform, self.images.as_slice()) {
            (None, [only]) => only.descriptor.digest,
            (platform, _) => {
                let wanted = platform.unwrap_or(&host);
                let found = self
                    .image_for(text, Some(wanted))
                    .map_err(|error| match platform {
                        Some(_) => error,
                        None => BuildError {
                            kind: ErrorKind::Request,
                            ..error
                        }
                        .hint("choose one with `--platform`, or take all with `--format oci`"),
                    });
                found?.descriptor.digest
            }
        };
        self.images
            .retain(|image| image.descriptor.digest == digest);
        if let ([image], Some(_)) = (self.images.as_slice(), self.index.take()) {
            self.top = image.descriptor.clone();
        }
        Ok(())
    }
}
