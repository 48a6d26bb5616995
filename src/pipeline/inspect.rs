//! What can be asked of a plan instead of building it. Nothing runs, nothing is written but what pinning keeps.

use std::sync::Arc;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Pins;
use rbuild_llb::inspect::Contents;
use rbuild_llb::inspect::Findings;
use rbuild_llb::inspect::Item;
use rbuild_llb::inspect::Parameters;
use rbuild_llb::inspect::Target;

use super::Opened;
use super::files;
use super::frontend_request;
use super::lock;
use super::open;
use super::pin;
use super::pinned;
use crate::outcome::BuildError;
use crate::request::BuildRequest;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What the lint rules find, in the target or, if none is named, in all stages.
    Check,
    /// What the target takes from whoever builds it.
    Outline,
    /// What can be built.
    Targets,
}

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Check`].
    Findings(Findings),
    /// To [`Question::Outline`].
    Parameters(Parameters),
    /// To [`Question::Targets`].
    Targets(Vec<Target>),
}

/// An answer, and the file it is about.
#[derive(Debug)]
pub struct Inspection {
    /// The plan.
    pub source: Arc<SourceFile>,
    /// The answer.
    pub answer: Answer,
}

/// Asks. With several platforms, for the first.
///
/// # Errors
/// If the plan cannot be read, is wrong (which is an answer to [`Question::Check`]), or names bases nobody has.
pub fn inspect(request: &BuildRequest, question: Question) -> Result<Inspection, BuildError> {
    let Opened {
        store,
        lease,
        registry,
        plan,
    } = open(request)?;
    let source = Arc::clone(&plan.source);
    let platform = request.platforms.first().cloned();
    let platform = platform.unwrap_or_else(Platform::host);
    let asked = frontend_request(request, &plan, &platform, false)?;
    let language = Dockerfile::default();
    if question == Question::Targets {
        let targets = language.targets(&asked).map_err(BuildError::request)?;
        let answer = Answer::Targets(targets);
        return Ok(Inspection { source, answer });
    }
    let lock = lock::Lock::of(request, &plan)?;
    let pinner = pin::Pinner::new(request, &lock, &store, &lease, &registry);
    let mut pins = Pins::default();
    let answer = match question {
        Question::Outline => Answer::Parameters(pinned(&mut pins, &pinner, |pins| {
            language
                .parameters(&asked, pins)
                .map_err(BuildError::request)
        })?),
        _ => Answer::Findings(pinned(&mut pins, &pinner, |pins| {
            Ok::<Conversion<_>, BuildError>(language.check(&asked, pins))
        })?),
    };
    Ok(Inspection { source, answer })
}

/// What a file holds. Nothing is asked of anybody.
///
/// # Errors
/// If it cannot be read, or is wrong.
pub fn contents(request: &BuildRequest) -> Result<Contents, BuildError> {
    let Opened { plan, .. } = open(request)?;
    let asked = frontend_request(request, &plan, &Platform::host(), false)?;
    if files::is_plan(&plan.source) {
        return rbuild_plan::Plan::default()
            .contents(&asked)
            .map_err(BuildError::request);
    }
    let targets = Dockerfile::default()
        .targets(&asked)
        .map_err(BuildError::request)?;
    let item = |(at, target): (usize, Target)| Item {
        kind: "stage",
        name: target.name.unwrap_or_else(|| at.to_string()),
        help: target.description,
        default: target.default,
        from: vec![target.base],
        platforms: target.platform.into_iter().collect(),
    };
    Ok(Contents {
        items: targets.into_iter().enumerate().map(item).collect(),
        args: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
