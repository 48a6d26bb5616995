//! A build with one daemon.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_llb::Platform;
use rbuild_llb::definition::Output;
use rbuild_llb::event::Event;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::event::WarningEvent;
use rbuild_llb::frontend::FilesExport;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;

use super::Import;
use super::Job;
use super::Steps;
use super::Supply;
use super::failure;
use super::failure::Failures;
use super::landing::Landing;
use super::list;
use super::local_failure;
use super::lower;
use super::lower::Lowered;
use super::outputs;
use super::outputs::Export;
use super::outputs::Then;
use super::pieces::Order;
use super::pieces::Piece;
use super::placing;
use crate::buildkit::Answer;
use crate::buildkit::Build;
use crate::buildkit::Capabilities;
use crate::buildkit::Connection;
use crate::buildkit::EngineError;
use crate::buildkit::Part;
use crate::buildkit::Sink;
use crate::clock;
use crate::exporter::ExportError;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::Built;
use crate::outcome::Delivery;
use crate::pipeline::deliver::Target;
use crate::request::BuilderAddress;
use crate::ui::EventSink;

/// A daemon that is there, and what it is to build.
pub(super) struct Daemon<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) supply: &'a Supply,
    pub(super) address: &'a BuilderAddress,
    pub(super) connection: Connection,
    /// The platform that it builds, if others build the rest.
    pub(super) apart: Option<&'a Platform>,
    pub(super) events: &'a EventSink,
    /// What it is called, if it is one of several: they may be at the same step.
    pub(super) node: Option<&'a str>,
    pub(super) steps: RefCell<Steps>,
    /// What it has begun and not ended.
    pub(super) open: RefCell<BTreeMap<String, VertexEvent>>,
    /// What it has warned of: every output of a target is a build of its own to it.
    pub(super) warned: RefCell<BTreeSet<String>>,
}

impl Daemon<'_> {
    /// Tests first, then what does not require one that failed: that is made in any case.
    pub(super) fn build_all(&self) -> Result<(BuildOutcome, Vec<Import>, Failures), BuildError> {
        let mut outcome = BuildOutcome::default();
        let mut failures = Failures::default();
        let tests = |target: &&Target| target.is_test();
        for target in self.job.targets.iter().filter(tests) {
            match self.solve(target, &target.outputs, target.several, None, Sink::Nothing) {
                Ok(_) => {
                    for export in target.files() {
                        self.export_files(target, &target.outputs, export)?;
                    }
                    outcome.passed.push(target.name.clone());
                }
                Err(EngineError::Failed { message, op }) => {
                    let error = self.told(EngineError::Failed { message, op });
                    failures.tests.push(target.name.clone());
                    failures.first.get_or_insert(error);
                }
                Err(error) => return Err(self.told(error)),
            }
        }
        let outputs: Vec<&Target> = self.job.targets.iter().filter(|t| !t.is_test()).collect();
        let mut imports = Vec::new();
        for target in &outputs {
            let required = |test: &String| failures.tests.contains(test);
            if target.require.iter().any(required) {
                failures.held.push(target.name.clone());
                continue;
            }
            let named = outputs.len() > 1 || target.own;
            let mut built = Built {
                name: named.then(|| target.name.clone()),
                image: None,
                deliveries: Vec::new(),
            };
            for export in target.files() {
                self.export_files(target, &target.outputs, export)?;
            }
            for spec in target.specs() {
                let export = Export::of(spec, target, self.job.request, self.address)
                    .map_err(local_failure::export)?;
                let Export {
                    exporter,
                    options,
                    sink,
                    then,
                } = export;
                let exporter = Some((exporter, options));
                let outputs = &target.outputs;
                let solved = self.solve(target, outputs, target.several, exporter, sink);
                let answer = match solved {
                    Ok(answer) => answer,
                    Err(error) => {
                        let why = then.why_not(&error).map(local_failure::export);
                        return Err(why.unwrap_or_else(|| self.told(error)));
                    }
                };
                built.image = outputs::image(&answer, target.names()).or(built.image);
                match then
                    .finish(built.image.as_ref())
                    .map_err(local_failure::export)?
                {
                    Then::Done(deliveries) => built.deliveries.extend(deliveries),
                    Then::Import { archive, options } => imports.push(Import {
                        built: outcome.built.len(),
                        archive,
                        options,
                    }),
                    Then::Pending(_) | Then::Push(_) | Then::Load(_) => {}
                }
            }
            let path = |export: &FilesExport| PathBuf::from(&export.to);
            let files = target.files().iter().map(path);
            match target.specs().is_empty() {
                true => {
                    let named = files.map(|path| (built.name.clone(), path));
                    outcome.written.extend(named);
                }
                false => {
                    let directories = files.map(|path| Delivery::Directory { path });
                    built.deliveries.extend(directories);
                    outcome.built.push(built);
                }
            }
        }
        Ok((outcome, imports, failures))
    }

    /// Makes one platform of a target; of each of its outputs there is a piece.
    pub(super) fn lot(&self, target: &Target, output: usize) -> Result<Vec<Piece>, BuildError> {
        let platform = &self.job.definition.outputs[output].platform;
        let outputs = [output];
        if target.is_test() {
            self.solve(target, &outputs, false, None, Sink::Nothing)
                .map_err(|error| self.told(error))?;
        }
        for export in target.files() {
            self.export_files(target, &outputs, export)?;
        }
        let mut pieces = Vec::new();
        for spec in target.specs() {
            let order = Order::of(spec, target, platform, self.job.request);
            let Order {
                exporter,
                options,
                sink,
                bytes,
            } = order.map_err(local_failure::export)?;
            let exporter = Some((exporter, options));
            let split = Order::split(spec, target);
            let answer = self
                .solve(target, &outputs, split, exporter, sink)
                .map_err(|error| self.told(error))?;
            pieces.push(bytes.of(&answer, target));
        }
        Ok(pieces)
    }

    /// Has the daemon make outputs of a target.
    fn solve(
        &self,
        target: &Target,
        outputs: &[usize],
        several: bool,
        exporter: Option<(&'static str, BTreeMap<String, String>)>,
        sink: Sink,
    ) -> Result<Answer, EngineError> {
        let definition = self.job.definition;
        let parts = |capabilities: &Capabilities| {
            let lowered = self.lower(capabilities)?;
            let parts = outputs.iter().map(|&at| {
                let output = &definition.outputs[at];
                self.part(output, lowered.encode(output.root)?)
            });
            parts.collect::<Result<Vec<_>, EngineError>>()
        };
        self.build(target, outputs, &parts, several, exporter, sink)
    }

    fn lower(&self, capabilities: &Capabilities) -> Result<Lowered, EngineError> {
        let names = &self.supply.contexts.names;
        let build = &self.supply.build;
        lower::lower(
            self.job.definition,
            names,
            build,
            capabilities,
            self.address,
        )
    }

    fn part(&self, output: &Output, encoded: (Vec<u8>, Steps)) -> Result<Part, EngineError> {
        let (definition, steps) = encoded;
        self.steps.borrow_mut().extend(steps);
        Ok(Part {
            platform: output.platform.clone(),
            definition,
            config: output.config.to_json(),
        })
    }

    fn build(
        &self,
        target: &Target,
        outputs: &[usize],
        parts: &dyn Fn(&Capabilities) -> Result<Vec<Part>, EngineError>,
        several: bool,
        exporter: Option<(&'static str, BTreeMap<String, String>)>,
        sink: Sink,
    ) -> Result<Answer, EngineError> {
        let request = self.job.request;
        let entitlements = [
            (request.allow.network_host, "network.host"),
            (request.allow.security_insecure, "security.insecure"),
        ];
        let entitlements = entitlements.into_iter().filter(|(allowed, _)| *allowed);
        let (cache_from, cache_to) = self.job.caches(target, self.apart);
        let outputs = outputs.iter().map(|&at| &self.job.definition.outputs[at]);
        let build = Build {
            offer: Arc::clone(&self.supply.offer),
            platforms: outputs.map(|output| output.platform.clone()).collect(),
            parts,
            several,
            exporter,
            sink,
            cache_from,
            cache_to,
            entitlements: entitlements.map(|(_, name)| name.to_owned()).collect(),
            internal: false,
        };
        self.connection.build(build, &|event| self.hand_on(event))
    }

    /// Writes files of a target, for each platform what it has.
    fn export_files(
        &self,
        target: &Target,
        outputs: &[usize],
        export: &FilesExport,
    ) -> Result<(), BuildError> {
        for &at in outputs {
            let output = &self.job.definition.outputs[at];
            let mut to = PathBuf::from(&export.to);
            if target.outputs.len() > 1 {
                let platform = output.platform.to_string();
                to = to.join(platform.replace('/', "_")).join("");
            }
            let missing = || {
                let path = PathBuf::from(&export.path);
                local_failure::export_files(ExportError::NotInStep { path }, &export.span)
            };
            let root = output.root.ok_or_else(missing)?;
            let parts = |capabilities: &Capabilities| {
                let lowered = self.lower(capabilities)?;
                let encoded = lowered.encode_file(root, &output.platform, &export.path)?;
                Ok(vec![self.part(output, encoded)?])
            };
            let landing = Landing::beside(&to).map_err(local_failure::export)?;
            let sink = Sink::Directory(landing.path().to_owned());
            let exporter = Some(("local", BTreeMap::new()));
            match self.build(target, &[at], &parts, false, exporter, sink) {
                Ok(_) => {}
                Err(EngineError::Failed { message, .. })
                    if failure::not_there(&message) == Some(export.path.as_str()) =>
                {
                    return Err(missing());
                }
                Err(error) => return Err(self.told(error)),
            }
            landing
                .place(&export.path, &to)
                .map_err(local_failure::export)?;
        }
        Ok(())
    }

    /// An event of the daemon as one of ours: a context is looked at in every build, and never what people mean by cached.
    fn hand_on(&self, mut event: Event) {
        if let Event::Warning(warning) = &event {
            let WarningEvent { vertex, diagnostic } = warning;
            let said = format!("{vertex}\0{}", diagnostic.message);
            if !self.warned.borrow_mut().insert(said) {
                return;
            }
        }
        if let Event::Vertex(vertex) = &mut event {
            let steps = self.steps.borrow();
            let step = steps.get(&vertex.digest);
            let step = step.and_then(|step| self.job.definition.get(step));
            let context =
                step.is_some_and(|step| matches!(step.op, Op::Source(SourceOp::Local(_))));
            vertex.cached &= !context;
        }
        if let Some(node) = self.node {
            self.mark(node, &mut event);
        }
        self.events.send(event);
    }

    /// Makes an event one of this node.
    fn mark(&self, node: &str, event: &mut Event) {
        let own = |digest: &mut String| *digest = of_node(node, digest);
        match event {
            Event::Vertex(vertex) => {
                own(&mut vertex.digest);
                vertex.inputs.iter_mut().for_each(own);
                vertex.name = format!("{node}: {}", vertex.name);
                let mut open = self.open.borrow_mut();
                match vertex.started.is_some() && vertex.completed.is_none() {
                    true => drop(open.insert(vertex.digest.clone(), vertex.clone())),
                    false => drop(open.remove(&vertex.digest)),
                }
            }
            Event::Status(status) => own(&mut status.vertex),
            Event::Log(log) => own(&mut log.vertex),
            Event::Warning(WarningEvent { vertex, diagnostic }) => {
                diagnostic.message = format!("{node}: {}", diagnostic.message);
                if !vertex.is_empty() {
                    own(vertex);
                }
            }
        }
    }

    /// Says of what was under way that nothing comes of it any more.
    pub(super) fn abandon(&self) {
        for (_, mut vertex) in self.open.take() {
            vertex.completed = Some(clock::now());
            vertex.error = "it ended with the node's build".to_owned();
            self.events.send(Event::Vertex(vertex));
        }
    }

    /// The platform of a step that failed, if the daemon does not say that it runs such.
    fn unlisted(&self, error: &EngineError) -> Option<Platform> {
        let EngineError::Failed { op: Some(op), .. } = error else {
            return None;
        };
        let step = *self.steps.borrow().get(op)?;
        let step = self.job.definition.get(&step)?;
        let reported = self.connection.platforms();
        let foreign = !reported.is_empty() && !placing::runs(reported, &step.platform);
        (foreign && matches!(step.op, Op::Exec(_))).then(|| step.platform.clone())
    }

    fn told(&self, error: EngineError) -> BuildError {
        let unlisted = self.unlisted(&error);
        let mut error = failure::inside(error, &self.steps.borrow(), self.job.definition);
        if let Some(platform) = unlisted {
            let why = format!(
                "the builder lists {}, and not {platform}: it needs an emulator, its own (`buildkit-qemu-…`) or one that \
                 its kernel knows (binfmt_misc)",
                list(self.connection.platforms())
            );
            error = error.hint(why);
        }
        if let (Some(node), Some(step)) = (self.node, &mut error.step) {
            step.vertex = of_node(node, &step.vertex);
            step.name = format!("{node}: {}", step.name);
        }
        error
    }
}

/// What a step is called in events, where several nodes may be at it.
fn of_node(node: &str, digest: &str) -> String {
    let whole = format!("{node}\0{digest}");
    format!("sha256:{}", blake3::hash(whole.as_bytes()).to_hex())
}
