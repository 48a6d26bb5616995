//! Several Dockerfiles as one build: the targets of a bake file, each with its own context, arguments and outputs, in one
//! graph. A target can be a context of another; their graph is a [`Program`].

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_dockerfile::Dockerfile;
use rbuild_dockerfile::program::Input;
use rbuild_dockerfile::program::Prepared;
use rbuild_dockerfile::program::Program;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Start;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::GoalKind;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::NamedContext;
use rbuild_llb::frontend::Outline;
use rbuild_llb::frontend::Pins;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::read_ignore_file;

use super::Opened;
use super::files::Language;
use super::frontend_request;
use super::plan;
use crate::ops::LocalRoot;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::request::BakeTarget;
use crate::request::BuildRequest;
use crate::ui::Progress;

/// Builds the targets of a bake file. `request` is what holds for all of them.
///
/// # Errors
/// With everything the user is to be told.
pub fn bake(
    request: &BuildRequest,
    targets: &[BakeTarget],
    progress: &Progress,
) -> Result<BuildOutcome, BuildError> {
    let mut plans = Vec::with_capacity(targets.len());
    let mut opened = super::open_with(request, |store, lease, registry| {
        for target in targets {
            let mut own = target.request.clone();
            if let Some(text) = &target.inline {
                own.file = None;
                plans.push(plan::inline(&own, &target.name, text)?);
                continue;
            }
            plans.push(match plan::read(&own)? {
                Some(plan) => plan,
                None => super::remote::Remote::new(&own, store, lease, registry).read()?,
            });
        }
        Ok(plan::together(request, &plans))
    })?;
    let mut made = Vec::with_capacity(targets.len());
    for (target, own) in targets.iter().zip(&plans) {
        if matches!(own.language, Language::Plan(_)) {
            let error =
                anyhow::anyhow!("the target `{}` is a plan, and no Dockerfile", target.name);
            return Err(BuildError::new(crate::outcome::ErrorKind::Request, error));
        }
        made.push(Made {
            target,
            request: own_request(target, own, &mut opened)?,
        });
    }
    let bake = Bake {
        made,
        dockerfiles: Dockerfile::default(),
        prepared: Mutex::new(None),
    };
    let requests = targets
        .iter()
        .map(|target| (target.name.as_str(), &target.request));
    super::carry_out(request, &requests.collect(), opened, Some(&bake), progress)
}

/// A target with its request to the frontend, but for the platform.
struct Made<'a> {
    target: &'a BakeTarget,
    request: FrontendRequest,
}

/// The targets as a language of its own.
struct Bake<'a> {
    made: Vec<Made<'a>>,
    dockerfiles: Dockerfile,
    /// What the last request wanted, until it is converted.
    prepared: Mutex<Option<(FrontendRequest, Prepared, Vec<Goal>)>>,
}

/// What a target asks of the frontend: its directories go by their paths, since each target has a `context`.
fn own_request(
    target: &BakeTarget,
    own: &plan::Plan,
    opened: &mut Opened,
) -> Result<FrontendRequest, BuildError> {
    let mut request = frontend_request(&target.request, own, &Platform::host(), false)?;
    let mut local = |name: &str, exclude: Vec<String>| {
        let root: &LocalRoot = own.locals.get(name)?;
        let path = root.path.display().to_string();
        opened.plan.locals.insert(path.clone(), root.clone());
        Some(SourceOp::Local(LocalSource {
            name: path,
            include: Vec::new(),
            exclude,
            modes: target.request.context_modes,
        }))
    };
    if request.context == MainContext::Local {
        let ignore = request.ignore.as_ref();
        let exclude = ignore.map_or_else(Vec::new, |file| read_ignore_file(&file.text));
        if let Some(source) = local("context", exclude) {
            request.context = MainContext::Files(source);
        }
    }
    for (name, context) in &mut request.contexts {
        if let NamedContext::Local { exclude } = context
            && let Some(source) = local(name, std::mem::take(exclude))
        {
            *context = NamedContext::Source(source);
        }
    }
    for name in target.contexts.keys() {
        request.contexts.insert(name.clone(), NamedContext::Step);
    }
    Ok(request)
}

impl Bake<'_> {
    /// Whether a target is built for a platform.
    fn is_for(&self, target: &BakeTarget, asked: &FrontendRequest) -> bool {
        match target.request.platforms.as_slice() {
            [] => asked.target_platform == asked.build_platform,
            platforms => platforms.contains(&asked.target_platform),
        }
    }

    fn prepare(
        &self,
        asked: &FrontendRequest,
    ) -> Result<(FrontendRequest, Prepared, Vec<Goal>), Vec<Diagnostic>> {
        let kept = self
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(kept) = kept.filter(|(request, ..)| request == asked) {
            return Ok(kept);
        }
        let mut program = Program::new();
        let mut stages = BTreeMap::new();
        let mut goals = Vec::new();
        for made in &self.made {
            if made.target.linked || !self.is_for(made.target, asked) {
                continue;
            }
            let at = Span::new(&made.request.source, 0..0);
            let inner = self.stage(&made.target.name, asked, &mut program, &mut stages)?;
            let stage = program.stage(&made.target.name, Start::Stage(inner), &at);
            program.target(stage);
            goals.push(Goal {
                name: made.target.name.clone(),
                span: None,
                require: Vec::new(),
                kind: GoalKind::default(),
            });
        }
        let inner = FrontendRequest {
            build_args: BTreeMap::new(),
            ..asked.clone()
        };
        Ok((asked.clone(), program.prepare(inner)?, goals))
    }

    /// The stage that a target is, made after those that are its contexts. Their cycles were found when the file was
    /// resolved.
    fn stage(
        &self,
        name: &str,
        asked: &FrontendRequest,
        program: &mut Program,
        stages: &mut BTreeMap<String, StageId>,
    ) -> Result<StageId, Vec<Diagnostic>> {
        if let Some(stage) = stages.get(name) {
            return Ok(*stage);
        }
        let made = self.made.iter().find(|made| made.target.name == name);
        let made = made.expect("the targets that others have as contexts are there");
        let mut contexts = BTreeMap::new();
        for (context, target) in &made.target.contexts {
            let stage = self.stage(target, asked, program, stages)?;
            contexts.insert(context.clone(), stage);
        }
        let request = FrontendRequest {
            target_platform: asked.target_platform.clone(),
            implicit_platform: asked.implicit_platform,
            multi_platform: asked.multi_platform,
            ..made.request.clone()
        };
        let at = Span::new(&request.source, 0..0);
        let stage = program.dockerfile(name, Input { request, contexts }, &at);
        stages.insert(name.to_owned(), stage);
        Ok(stage)
    }
}

impl Frontend for Bake<'_> {
    fn platforms(&self, request: &FrontendRequest) -> Result<Vec<Platform>, Vec<Diagnostic>> {
        let mut all: Vec<Platform> = Vec::new();
        for made in self.made.iter().filter(|made| !made.target.linked) {
            let own = [request.build_platform.clone()];
            let platforms = match made.target.request.platforms.as_slice() {
                [] => own.as_slice(),
                platforms => platforms,
            };
            for platform in platforms {
                if !all.contains(platform) {
                    all.push(platform.clone());
                }
            }
        }
        Ok(all)
    }

    /// A lock file is written for one Dockerfile.
    fn all_targets(&self, _: &FrontendRequest) -> Result<Vec<String>, Vec<Diagnostic>> {
        Ok(Vec::new())
    }

    fn outline(&self, request: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>> {
        let prepared = self.prepare(request)?;
        let outline = Outline {
            sources: prepared.1.sources(&self.dockerfiles)?,
            ..Outline::default()
        };
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
        Ok(outline)
    }

    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>> {
        let mut prepared = self.prepare(request)?;
        Ok(match prepared.1.convert(&self.dockerfiles, pins)? {
            Conversion::NeedsSources(sources) => {
                *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
                Conversion::NeedsSources(sources)
            }
            Conversion::Done(converted) => Conversion::Done(Converted {
                goals: prepared.2,
                ..converted
            }),
        })
    }
}
