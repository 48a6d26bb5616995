//! What the nodes of a builder have made, and the outputs made of it; last, what is left to this machine to build.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_llb::CancelToken;
use rbuild_llb::Platform;
use rbuild_llb::definition::PrunedDefinition;

use super::Import;
use super::Job;
use super::caches;
use super::failure::Failures;
use super::farm::Account;
use super::farm::Fate;
use super::farm::Lot;
use super::local_failure;
use super::outputs::Then;
use super::pieces;
use super::pieces::Bytes;
use super::pieces::Joining;
use super::pieces::Piece;
use crate::exporter::ExportError;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::Delivery;
use crate::outcome::ErrorKind;
use crate::outcome::Ran;
use crate::pipeline::assemble;
use crate::pipeline::begin;
use crate::pipeline::deliver::Target;
use crate::pipeline::deliver::write_reports;
use crate::request::BuildRequest;
use crate::request::OutputSpec;
use crate::ui::EventSink;
use crate::ui::Progress;

/// What has been made.
#[derive(Default)]
pub(super) struct Whole {
    failures: Failures,
    passed: Vec<String>,
    ran: Vec<Ran>,
    /// What came of the outputs of each output of the definition.
    made: BTreeMap<usize, Vec<Piece>>,
    /// What this machine has made whole.
    built: BTreeMap<usize, Built>,
}

impl Whole {
    /// Takes in how tests went: one has passed if it has for all platforms.
    pub(super) fn test(
        &mut self,
        job: &Job<'_>,
        fates: Vec<(Lot, Fate)>,
    ) -> Result<(), BuildError> {
        let tests: BTreeSet<usize> = fates.iter().map(|(lot, _)| lot.target).collect();
        for (lot, fate) in fates {
            let name = &job.targets[lot.target].name;
            match fate {
                Fate::Made(account, made) => self.add(job, &lot, account, made),
                Fate::Failed(error) if error.kind == ErrorKind::Step => {
                    if !self.failures.tests.contains(name) {
                        self.failures.tests.push(name.clone());
                    }
                    self.failures.first.get_or_insert(error);
                }
                Fate::Failed(error) => return Err(error),
                Fate::Here(_) | Fate::Stopped => return Err(BuildError::interrupted()),
            }
        }
        let names = tests.into_iter().map(|at| job.targets[at].name.clone());
        let failed = &self.failures.tests;
        self.passed = names.filter(|name| !failed.contains(name)).collect();
        Ok(())
    }

    pub(super) fn is_held(&mut self, target: &Target) -> bool {
        let failed = |test: &String| self.failures.tests.contains(test);
        let held = target.require.iter().any(failed);
        if held && !self.failures.held.contains(&target.name) {
            self.failures.held.push(target.name.clone());
        }
        held
    }

    pub(super) fn add(&mut self, job: &Job<'_>, lot: &Lot, account: Account, made: Vec<Piece>) {
        self.account(job, lot, account);
        self.made.insert(lot.output, made);
    }

    fn account(&mut self, job: &Job<'_>, lot: &Lot, account: Account) {
        let Account {
            node,
            place,
            emulated,
            failed,
        } = account;
        let target = &job.targets[lot.target];
        let named = job.targets.len() > 1 || target.own;
        self.ran.push(Ran {
            target: named.then(|| target.name.clone()),
            platform: job.definition.outputs[lot.output].platform.clone(),
            node,
            place,
            emulated,
            failed,
        });
    }

    /// Makes the outputs of what nodes have made.
    pub(super) fn finish(
        mut self,
        job: &Job<'_>,
        cancel: &CancelToken,
        progress: &Progress,
    ) -> Result<BuildOutcome, BuildError> {
        let events = progress.events();
        let mut outcome = BuildOutcome {
            passed: std::mem::take(&mut self.passed),
            ran: std::mem::take(&mut self.ran),
            ..BuildOutcome::default()
        };
        let outputs = job.targets.iter().filter(|target| !target.is_test());
        let named = outputs.count() > 1;
        let mut imports = Vec::new();
        for (at, target) in job.targets.iter().enumerate() {
            if target.is_test() || self.is_held(target) {
                continue;
            }
            let name = (named || target.own).then(|| target.name.clone());
            let mut built = match self.built.remove(&at) {
                Some(built) => Built {
                    name: name.clone(),
                    ..built
                },
                None => {
                    let nth = outcome.built.len();
                    self.target(job, target, nth, &mut imports, cancel, &events)?
                }
            };
            built.name.clone_from(&name);
            let files = target.files().iter().map(|files| files.to.clone().into());
            match target.specs().is_empty() {
                true => outcome
                    .written
                    .extend(files.map(|path| (name.clone(), path))),
                false => {
                    let directories = files.map(|path| Delivery::Directory { path });
                    built.deliveries.extend(directories);
                    outcome.built.push(built);
                }
            }
        }
        job.import(&mut outcome, imports, progress)?;
        match self.failures.into_error() {
            Some(error) => Err(error),
            None => {
                write_reports(job.request, &outcome)?;
                Ok(outcome)
            }
        }
    }

    fn target(
        &mut self,
        job: &Job<'_>,
        target: &Target,
        nth: usize,
        imports: &mut Vec<Import>,
        cancel: &CancelToken,
        events: &EventSink,
    ) -> Result<Built, BuildError> {
        let joining = Joining {
            request: job.request,
            builder: &job.builder.name,
            target,
            cancel,
        };
        let mut built = Built {
            name: None,
            image: None,
            deliveries: Vec::new(),
        };
        let mut made: Vec<(Platform, std::vec::IntoIter<Piece>)> = Vec::new();
        for output in &target.outputs {
            let platform = job.definition.outputs[*output].platform.clone();
            let pieces = self.made.remove(output).unwrap_or_default();
            made.push((platform, pieces.into_iter()));
        }
        for spec in target.specs() {
            let pieces = made.iter_mut();
            let pieces =
                pieces.filter_map(|(platform, pieces)| Some((platform.clone(), pieces.next()?)));
            let task = assemble::begin(spec, &target.name, events);
            let pieces = pieces.collect();
            let image = task.carry_out(cancel, |_| {
                let joined = joining.output(spec, pieces);
                let (image, then) = joined.map_err(local_failure::export)?;
                let image = image.or(built.image.take());
                match then.finish(image.as_ref()).map_err(local_failure::export)? {
                    Then::Done(deliveries) => built.deliveries.extend(deliveries),
                    Then::Import { archive, options } => imports.push(Import {
                        built: nth,
                        archive,
                        options,
                    }),
                    Then::Pending(_) | Then::Push(_) | Then::Load(_) => {}
                }
                Ok(image)
            })?;
            built.image = image;
        }
        Ok(built)
    }
}

/// What this machine is to build, and what becomes of it with the rest.
pub(in crate::pipeline) struct Rest {
    /// The build that is left.
    pub(in crate::pipeline) request: BuildRequest,
    /// Requests that targets have of their own.
    own: BTreeMap<String, BuildRequest>,
    pub(in crate::pipeline) definition: PrunedDefinition,
    pub(in crate::pipeline) targets: Vec<Target>,
    whole: Whole,
    parts: Vec<Part>,
    /// Where archives of it come to lie.
    _dir: tempfile::TempDir,
}

/// What one of the targets that are left is.
enum Part {
    /// This target, all of it.
    Target(usize),
    /// What is made of one output of the definition for one of a target's outputs.
    Piece(usize, Bytes),
}

impl Rest {
    pub(super) fn new(
        job: &Job<'_>,
        mut whole: Whole,
        here: Vec<(Lot, Account)>,
    ) -> Result<Self, ExportError> {
        let temp = &job.request.settings.temp_dir;
        let dir = tempfile::tempdir_in(temp).map_err(|source| {
            let path = temp.clone();
            ExportError::Write { path, source }
        })?;
        let mut definition = (**job.definition).clone();
        let all = std::mem::take(&mut definition.outputs);
        let (mut targets, mut parts) = (Vec::new(), Vec::new());
        for (lot, account) in here {
            whole.account(job, &lot, account);
            let target = &job.targets[lot.target];
            let output = definition.outputs.len();
            definition.outputs.push(all[lot.output].clone());
            if !target.several {
                targets.push(target.part(output, target.specs().to_vec()));
                parts.push(Part::Target(lot.target));
                continue;
            }
            for spec in target.specs() {
                let platform = &all[lot.output].platform;
                let (spec, bytes): (OutputSpec, Bytes) = pieces::here(spec, platform, dir.path())?;
                targets.push(target.part(output, vec![spec]));
                parts.push(Part::Piece(lot.output, bytes));
            }
        }
        let request = BuildRequest {
            multi_platform: false,
            iidfile: None,
            metadata_file: None,
            ..caches::here(job.request)
        };
        let own = job.own.iter();
        let own = own.map(|(name, own)| ((*name).to_owned(), caches::here(own)));
        Ok(Self {
            request,
            own: own.collect(),
            definition: definition.prune(),
            targets,
            whole,
            parts,
            _dir: dir,
        })
    }

    /// Requests that targets have of their own.
    pub(in crate::pipeline) fn own(&self) -> BTreeMap<&str, &BuildRequest> {
        let own = self.own.iter();
        own.map(|(name, own)| (name.as_str(), own)).collect()
    }

    /// Makes the outputs of what nodes made and what was built here.
    pub(in crate::pipeline) fn finish(
        self,
        job: &Job<'_>,
        here: BuildOutcome,
        progress: &Progress,
    ) -> Result<BuildOutcome, BuildError> {
        let cancel = CancelToken::new();
        begin(&cancel)?;
        let mut whole = self.whole;
        for (part, built) in self.parts.into_iter().zip(here.built) {
            match part {
                Part::Target(target) => drop(whole.built.insert(target, built)),
                Part::Piece(output, bytes) => {
                    let image = built.image;
                    whole
                        .made
                        .entry(output)
                        .or_default()
                        .push(Piece { image, bytes });
                }
            }
        }
        let outcome = whole.finish(job, &cancel, progress)?;
        Ok(BuildOutcome {
            emulated: here.emulated,
            ..outcome
        })
    }
}
