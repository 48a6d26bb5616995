//! The plan frontend: `rbuild.toml` to build graph.
//!
//! It does no I/O and runs nothing. [`Plan`] is the way in; the way through:
//!
//! - `schema`: what can stand in a plan, as types; `document`: TOML as values; `read`: these to the types, all problems at
//!   once
//! - `modules`: a plan with the plans it includes, and what names mean
//! - `values`: `{name}` in values; `lower`: steps to the stages of a [`Program`](rbuild_dockerfile::program::Program),
//!   which the Dockerfile frontend converts, so that both languages make the same steps of the same things
//! - `reference`: the language as a JSON Schema and as a reference, from the same types
//! - `init`: a first plan for a project
//! - `outputs`: which outputs and tests a request means, and what becomes of them
//!
//! Other files that a plan names (included plans, Dockerfiles) come with the request; [`Plan::needs`] tells which.

mod contents;
mod convert;
mod document;
pub mod init;
mod lower;
mod modules;
mod outputs;
mod paths;
mod read;
mod reference;
mod schema;
mod set;
mod values;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::Files;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Goal;
use rbuild_llb::frontend::Outline;
use rbuild_llb::frontend::Pins;

/// The target that stands for all tests of a plan.
pub const ALL_TESTS: &str = "test.*";

pub use convert::Rewritten;
pub use convert::to_plan;
pub use modules::FileKind;
pub use modules::FileNeed;
pub use outputs::TEST;
pub use reference::json_schema;
pub use reference::markdown;
pub use values::names_git;

use lower::Lowering;
use modules::Modules;
use modules::Shelf;
use rbuild_dockerfile::program::Prepared;
use rbuild_dockerfile::program::Program;

/// The language of plans. It remembers the plan it read last: a build asks several things of the same one.
#[derive(Debug, Default)]
pub struct Plan {
    dockerfiles: Dockerfile,
    shelf: Shelf,
    loaded: Mutex<Option<Loaded>>,
    /// What the last request wanted, until it is converted.
    wanted: Mutex<Option<Wanted>>,
}

impl Plan {
    /// What a request wants: the same as before if it is the same request.
    fn wanted(&self, request: &FrontendRequest) -> Result<Wanted, Vec<Diagnostic>> {
        let kept = self
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match kept.filter(|kept| kept.request == *request) {
            Some(kept) => Ok(kept),
            None => Wanted::new(&*self.load(request)?, request),
        }
    }

    /// The files that `source` names, a plan in the directory `dir` from that of the whole plan. `settings` are what a
    /// request for the plan has, or nothing for one that is included.
    ///
    /// Nothing is reported here: what cannot be read names nothing, and the frontend's other answers say why.
    pub fn needs(&self, source: &Arc<SourceFile>, dir: &str, settings: &[String]) -> Vec<FileNeed> {
        match self.shelf.file(source, settings) {
            Ok(file) => modules::needs(&file, dir),
            Err(_) => Vec::new(),
        }
    }

    fn keep(&self, wanted: Wanted) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
    }

    fn load(&self, request: &FrontendRequest) -> Result<Arc<Modules>, Vec<Diagnostic>> {
        // A thread that panicked here left what was there.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((source, files, modules)) = &*loaded
            && Arc::ptr_eq(source, &request.source)
            && Arc::ptr_eq(files, &request.files)
        {
            return Ok(Arc::clone(modules));
        }
        let modules = Arc::new(Modules::load(
            &self.shelf,
            &request.source,
            &request.files,
            &request.settings,
        )?);
        *loaded = Some((
            Arc::clone(&request.source),
            Arc::clone(&request.files),
            Arc::clone(&modules),
        ));
        Ok(modules)
    }
}

/// A plan that was read, with the files it was read from.
type Loaded = (Arc<SourceFile>, Files, Arc<Modules>);

/// What a request wants, ready to be converted.
#[derive(Debug)]
struct Wanted {
    request: FrontendRequest,
    program: Prepared,
    /// What becomes of the program's targets.
    goals: Vec<Goal>,
}

impl Wanted {
    fn new(modules: &Modules, request: &FrontendRequest) -> Result<Self, Vec<Diagnostic>> {
        let (program, goals) = program(modules, request)?;
        Ok(Self {
            request: request.clone(),
            program: program.prepare(inner(request))?,
            goals,
        })
    }
}

/// The program of what a request wants, and what becomes of its targets.
fn program(
    modules: &Modules,
    request: &FrontendRequest,
) -> Result<(Program, Vec<Goal>), Vec<Diagnostic>> {
    let wanted = outputs::wanted(modules, &request.targets)?;
    let mut lowering = Lowering::new(modules, request);
    lowering.check_args();
    let goals = outputs::lower(&mut lowering, &wanted, !request.implicit_platform);
    match lowering.errors.is_empty() {
        true => Ok((lowering.program, goals)),
        false => Err(distinct(lowering.errors)),
    }
}

/// What several outputs find wrong with one place is said once.
fn distinct(errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut list: Vec<Diagnostic> = Vec::with_capacity(errors.len());
    for error in errors {
        if !list.contains(&error) {
            list.push(error);
        }
    }
    list
}

impl Frontend for Plan {
    fn platforms(&self, request: &FrontendRequest) -> Result<Vec<Platform>, Vec<Diagnostic>> {
        let modules = self.load(request)?;
        outputs::platforms(&modules, request)
    }

    fn all_targets(&self, request: &FrontendRequest) -> Result<Vec<String>, Vec<Diagnostic>> {
        let modules = self.load(request)?;
        Ok(outputs::all(&modules))
    }

    fn outline(&self, request: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>> {
        let wanted = self.wanted(request)?;
        let goals = wanted.goals.iter();
        let outline = Outline {
            sources: wanted.program.sources(&self.dockerfiles)?,
            reachable: goals.map(|goal| goal.name.clone()).collect(),
            warnings: Vec::new(),
        };
        self.keep(wanted);
        Ok(outline)
    }

    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>> {
        let mut wanted = self.wanted(request)?;
        let conversion = wanted.program.convert(&self.dockerfiles, pins)?;
        Ok(match conversion {
            Conversion::NeedsSources(sources) => {
                self.keep(wanted);
                Conversion::NeedsSources(sources)
            }
            Conversion::Done(converted) => Conversion::Done(Converted {
                goals: wanted.goals,
                ..converted
            }),
        })
    }
}

/// The request for the program's own conversion, in which the plan's arguments have no part.
fn inner(request: &FrontendRequest) -> FrontendRequest {
    let mut request = request.clone();
    request
        .build_args
        .retain(|name, _| values::is_predefined(name));
    request.targets.clear();
    request
}

#[cfg(test)]
mod tests;
