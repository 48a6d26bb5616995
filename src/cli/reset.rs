//! `rbuild reset`.

use clap::Args;

use super::Session;
use super::values::problem;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::reset;
use crate::pipeline::reset::Reset;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct ResetFlags {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(flags: &ResetFlags, session: &Session) -> Result<(), BuildError> {
    let shown = session.settings.root.display();
    if let Some(images) = reset::look(&session.settings)?
        && !flags.force
        && !agreed(&format!("the store `{shown}`"), images)?
    {
        ui::say("nothing was removed");
        return Ok(());
    }
    ui::say(&match reset::carry_out(&session.settings)? {
        Reset::Nothing => format!("there is no store in `{shown}`"),
        Reset::Gone => format!("removed `{shown}`"),
        Reset::OthersStay => {
            format!("removed the store in `{shown}`, where other things are, which stay")
        }
    });
    Ok(())
}

fn agreed(store: &str, images: usize) -> Result<bool, BuildError> {
    let images = match images {
        1 => "1 image name".to_owned(),
        several => format!("{several} image names"),
    };
    if !ui::can_ask() {
        let refused = problem(format!(
            "{store}, with {images} and all caches, is only removed if somebody agrees"
        ));
        return Err(BuildError::request(vec![
            refused.hint("`rbuild reset --force` does not ask"),
        ]));
    }
    let question = format!("Remove {store}, with {images} and all caches? [y/N] ");
    let answer = ui::ask(&question).map_err(|error| {
        let error = anyhow::Error::new(error).context("cannot read from standard input");
        BuildError::new(ErrorKind::Environment, error)
    })?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
