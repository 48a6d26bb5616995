//! What can be asked of a plan instead of building it. Nothing runs, nothing is written but what pinning keeps.

use std::sync::Arc;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pins;
use rbuild_llb::inspect::Contents;
use rbuild_llb::inspect::Finding;
use rbuild_llb::inspect::Findings;
use rbuild_llb::inspect::Item;
use rbuild_llb::inspect::Parameters;
use rbuild_llb::inspect::Target;

use super::Opened;
use super::files::Language;
use super::frontend_request;
use super::lock;
use super::open;
use super::pin;
use super::pinned;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
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
    let lock = lock::Lock::of(request, &plan)?;
    let pinner = pin::Pinner::new(request, &lock, &store, &lease, &registry);
    let answer = match &plan.language {
        Language::Dockerfile(language) => about_dockerfile(language, question, &asked, &pinner)?,
        Language::Plan(language) if question == Question::Check => {
            Answer::Findings(checked(language, asked, &request.platforms, &pinner)?)
        }
        Language::Llb(_) => return Err(no_text(&source.name)),
        Language::Plan(_) => {
            let error = anyhow::anyhow!(
                "`{}` is a plan, and that is asked of Dockerfiles",
                source.name
            );
            return Err(BuildError::new(ErrorKind::Request, error)
                .hint("`rbuild ls` says what it has to build and what can be chosen"));
        }
    };
    Ok(Inspection { source, answer })
}

/// Nothing can be said of a graph but what it is.
fn no_text(name: &str) -> BuildError {
    let error = anyhow::anyhow!("`{name}` is a graph, and that is asked of Dockerfiles and plans");
    BuildError::new(ErrorKind::Request, error).hint("`rbuild plan --llb` shows it")
}

fn about_dockerfile(
    language: &Dockerfile,
    question: Question,
    asked: &FrontendRequest,
    pinner: &pin::Pinner<'_>,
) -> Result<Answer, BuildError> {
    let mut pins = Pins::default();
    Ok(match question {
        Question::Targets => Answer::Targets(language.targets(asked).map_err(BuildError::request)?),
        Question::Outline => Answer::Parameters(pinned(&mut pins, pinner, |pins| {
            language
                .parameters(asked, pins)
                .map_err(BuildError::request)
        })?),
        Question::Check => Answer::Findings(pinned(&mut pins, pinner, |pins| {
            Ok::<Conversion<_>, BuildError>(language.check(asked, pins))
        })?),
    })
}

/// What is to be said of a plan: of what is asked for, or of all its outputs and tests; for the first platform of the
/// request, or for all that outputs have.
fn checked(
    language: &rbuild_plan::Plan,
    mut asked: FrontendRequest,
    platforms: &[Platform],
    pinner: &pin::Pinner<'_>,
) -> Result<Findings, BuildError> {
    let found = |errors| Findings {
        warnings: Vec::new(),
        errors,
    };
    if asked.targets.is_empty() {
        match language.all_targets(&asked) {
            Ok(targets) => asked.targets = targets,
            Err(errors) => return Ok(found(errors)),
        }
    }
    let platforms = match platforms.first() {
        Some(platform) => vec![platform.clone()],
        None => match language.platforms(&asked) {
            Ok(platforms) => platforms,
            Err(errors) => return Ok(found(errors)),
        },
    };
    let mut findings = Findings::default();
    for platform in platforms {
        asked.target_platform = platform;
        let mut pins = Pins::default();
        match language.outline(&asked) {
            Ok(outline) => pinner.pin(&outline.sources, &mut pins)?,
            Err(errors) => return Ok(found(errors)),
        }
        let converted = pinned(&mut pins, pinner, |pins| {
            Ok(match language.convert(&asked, pins) {
                Ok(Conversion::NeedsSources(sources)) => Conversion::NeedsSources(sources),
                Ok(Conversion::Done(converted)) => Conversion::Done(Ok(converted.warnings)),
                Err(errors) => Conversion::Done(Err(errors)),
            })
        })?;
        match converted {
            Ok(warnings) => warnings
                .into_iter()
                .filter_map(finding)
                .for_each(|finding| {
                    if !findings.warnings.contains(&finding) {
                        findings.warnings.push(finding);
                    }
                }),
            Err(errors) => return Ok(found(errors)),
        }
    }
    Ok(findings)
}

/// A warning as a finding of the rule that it comes from.
fn finding(warning: Diagnostic) -> Option<Finding> {
    let at = warning.labels.first()?.span.clone();
    let mut rules = rbuild_dockerfile::rules();
    let (_, description) = rules.find(|(name, _)| warning.rule == Some(name))?;
    Some(Finding {
        at: warning.statement.clone().unwrap_or(at),
        description,
        warning,
    })
}

/// What a file holds. Nothing is asked of anybody.
///
/// # Errors
/// If it cannot be read, or is wrong.
pub fn contents(request: &BuildRequest) -> Result<Contents, BuildError> {
    let Opened { plan, .. } = open(request)?;
    let asked = frontend_request(request, &plan, &Platform::host(), false)?;
    let language = match &plan.language {
        Language::Plan(language) => {
            return language.contents(&asked).map_err(BuildError::request);
        }
        Language::Dockerfile(language) => language,
        Language::Llb(_) => return Err(no_text(&plan.source.name)),
    };
    let targets = language.targets(&asked).map_err(BuildError::request)?;
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
