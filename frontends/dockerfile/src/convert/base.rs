//! What stages start from.

use std::collections::BTreeMap;
use std::rc::Rc;

use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::Span;
use rbuild_llb::Vertex;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::Pin;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileOp;
use rbuild_llb::op::SourceOp;

use super::Building;
use super::Converted;
use super::Converter;
use super::DEFAULT_PATH;
use super::State;
use crate::Plan;
use crate::lint::Rule;
use crate::stages::Base;
use crate::stages::Nested;
use crate::stages::Scope;

impl Converter<'_> {
    /// Sets a stage up with its base.
    pub(super) fn base(&mut self, at: usize, to: &mut Building) -> Converted<()> {
        match &self.graph.nodes[at].base {
            Base::Scratch => {
                to.state.config = Rc::new(without_base(&to.state.platform));
            }
            // It has all of that already. Unreachable bases do not exist and failed ones are reported; nothing can be said
            // of this one.
            Base::Stage(base) if self.states[*base].is_none() => {
                to.state.config = Rc::new(ImageConfig::scratch(&to.state.platform));
            }
            Base::Stage(_) => {}
            Base::Image { source, context } => {
                self.image(at, source, context.as_deref(), to)?;
            }
            Base::Files { source, context } => self.files(at, source, context, to)?,
            Base::Dockerfile(nested) => self.nested(at, nested, to)?,
            Base::Outer(context) => {
                if let Some(state) = self.outer.get(context) {
                    to.state = state.without_triggers();
                }
            }
        }
        Ok(())
    }

    fn image(
        &mut self,
        at: usize,
        source: &SourceOp,
        context: Option<&str>,
        to: &mut Building,
    ) -> Converted<()> {
        let node = &self.graph.nodes[at];
        let Some(Pin::Image { digest, config }) = self.pins.get(source, &to.state.platform) else {
            return Err(unpinned(&node.base_name, &node.at));
        };
        let mut own = (**config).clone();
        own.created = None;
        own.config.on_build.clear();
        let entries = std::mem::take(&mut own.history).into_iter();
        to.state.history = entries.map(Rc::new).collect();
        to.state.config = Rc::new(own);
        let layers = config.history.iter().any(|entry| !entry.empty_layer);
        if config.rootfs.diff_ids.is_empty() && !layers {
            return Ok(());
        }
        let (pinned, reference) = pinned_image(source, *digest);
        let name = match context {
            Some(context) => format!("[context {context}] {reference}"),
            None => self.prefix(0, to) + &format!("FROM {reference}"),
        };
        let span = node.head.as_ref().map_or(&node.at, |head| &head.span);
        to.state.root = Some(self.vertex(Op::Source(pinned), name, span, to));
        let (want, have) = (&to.state.platform, config.platform());
        if let Some(head) = node.head.as_ref().filter(|_| !config.os.is_empty())
            && (want.os != have.os || want.arch != have.arch)
        {
            let message = format!(
                "Base image {} was pulled with platform \"{have}\", expected \"{want}\" for current build",
                node.base_name
            );
            let rule = Rule::InvalidBaseImagePlatform;
            self.lint.report(rule, head, &node.at, message);
        }
        Ok(())
    }

    /// Converts the target of a Dockerfile into the same graph.
    fn nested(&mut self, at: usize, nested: &Nested, to: &mut Building) -> Converted<()> {
        let outer = nested.contexts.iter().filter_map(|(name, at)| {
            let state = self.states[*at].as_ref()?;
            Some((name.clone(), state.clone()))
        });
        let outer = outer.collect();
        let name = self.graph.nodes[at].name.clone();
        let state = self.dockerfile(name, &nested.request, outer);
        // Steps made before an error are in the graph as well; nothing uses them.
        match state {
            Ok(state) => {
                to.state = state;
                let labels = nested.request.labels.iter();
                let labels = labels.map(|(k, v)| (k.clone(), v.clone()));
                to.state.config_mut().config.labels.extend(labels);
            }
            Err(errors) => {
                self.errors.extend(errors);
                to.state.config = Rc::new(ImageConfig::scratch(&to.state.platform));
            }
        }
        Ok(())
    }

    fn dockerfile(
        &mut self,
        name: String,
        request: &FrontendRequest,
        outer: BTreeMap<String, State>,
    ) -> Result<State, Vec<Diagnostic>> {
        let ast = self.dockerfiles.parse(&request.source)?;
        let mut plan = Plan::new(&ast, Scope::Target, request, self.pins, self.lint)?;
        // Among others, a file's only stage must be told apart in the names of steps.
        if plan.graph.alone {
            plan.graph.alone = false;
            plan.graph.nodes[0].name = name;
        }
        let mut inner = Converter::new(
            plan.escape,
            request,
            &plan.graph,
            self.pins,
            self.dockerfiles,
            self.lint,
        );
        inner.outer = outer;
        inner.definition = std::mem::take(&mut self.definition);
        inner.nodes();
        let state = inner.states[plan.graph.target()].take();
        let Converter {
            definition,
            errors,
            missing,
            ..
        } = inner;
        self.definition = definition;
        self.missing.extend(missing);
        match (errors.is_empty(), state) {
            (true, Some(state)) => Ok(state),
            _ => Err(errors),
        }
    }

    fn files(
        &mut self,
        at: usize,
        source: &SourceOp,
        context: &str,
        to: &mut Building,
    ) -> Converted<()> {
        let node = &self.graph.nodes[at];
        let Some(pinned) = self.pin_files(source) else {
            return Err(unpinned(&node.base_name, &node.at));
        };
        let what = match source {
            SourceOp::Local(_) => "load from client",
            SourceOp::Git(git) => &git.remote,
            SourceOp::Http(http) => &http.url,
            SourceOp::Image(_) | SourceOp::OciLayout(_) => "load image",
        };
        let name = format!("[context {context}] {what}");
        to.state.config = Rc::new(without_base(&to.state.platform));
        let platform = self.request.build_platform.clone();
        to.state.root = Some(self.internal(Op::Source(pinned), &platform, &name, &node.at));
        Ok(())
    }

    /// A source of files with what its pin says; `None` if it needs a pin and has none.
    pub(super) fn pin_files(&self, source: &SourceOp) -> Option<SourceOp> {
        let pin = self.pins.get(source, &self.request.build_platform);
        let mut source = source.clone();
        match (&mut source, pin) {
            (SourceOp::Local(_), _) => {}
            (SourceOp::Git(git), Some(Pin::Git { commit })) => {
                git.commit = Some(commit.clone());
                git.checksum = None;
            }
            (SourceOp::Http(http), Some(Pin::Http { checksum })) => {
                http.checksum = Some(*checksum);
            }
            (SourceOp::Git(git), _) if git.commit.is_some() => {}
            (SourceOp::Http(http), _) if http.checksum.is_some() => {}
            _ => return None,
        }
        Some(source)
    }

    fn vertex(&mut self, op: Op, name: String, span: &Span, to: &Building) -> Edge {
        Edge::of(self.definition.add(Vertex {
            op,
            inputs: Vec::new(),
            platform: to.state.platform.clone(),
            meta: VertexMeta {
                name,
                spans: vec![span.clone()],
                ..VertexMeta::default()
            },
        }))
    }

    /// The main build context, one step for all that use it.
    pub(super) fn context(&mut self, span: &Span) -> Edge {
        let files = match self.context_files {
            Some(files) => files,
            None => self.add_context(span),
        };
        self.context_files = Some(files);
        files
    }

    fn add_context(&mut self, span: &Span) -> Edge {
        let platform = self.request.build_platform.clone();
        let op = Op::Source(self.context.clone());
        // What to call it as BuildKit does (frontend/dockerui/context.go).
        let (name, archive) = match (&self.request.context, &self.context) {
            (MainContext::Local, _) | (_, SourceOp::Local(_)) => {
                ("[internal] load build context".to_owned(), None)
            }
            (MainContext::Archive(_), SourceOp::Http(http)) => {
                let name = "[internal] load remote build context".to_owned();
                (name, Some(http.filename.clone()))
            }
            (_, SourceOp::Git(git)) => (format!("[internal] load git source {}", git.remote), None),
            _ => ("[internal] load remote build context".to_owned(), None),
        };
        let source = self.internal(op, &platform, &name, span);
        match archive {
            None => source,
            Some(file) => self.unpacked(source, &file, &platform, span),
        }
    }

    /// The files of the archive that `source` is.
    fn unpacked(&mut self, source: Edge, file: &str, platform: &Platform, span: &Span) -> Edge {
        let copy = CopyAction {
            src: format!("/{file}"),
            dest: "/".to_owned(),
            attempt_unpack: true,
            ..CopyAction::default()
        };
        let op = Op::File(FileOp {
            actions: vec![FileAction {
                input: FileInput::Scratch,
                secondary: FileInput::Input(0),
                output: Some(0),
                kind: FileActionKind::Copy(copy),
            }],
        });
        Edge::of(self.definition.add(Vertex {
            op,
            inputs: vec![source],
            platform: platform.clone(),
            meta: VertexMeta {
                name: format!("copy /{file} /"),
                spans: vec![span.clone()],
                ..VertexMeta::default()
            },
        }))
    }

    /// The config as the result has it: with the labels asked for and the platform built for.
    pub(super) fn finish_config(&self, config: &mut ImageConfig) {
        let labels = &self.request.labels;
        let labels = labels.iter().map(|(k, v)| (k.clone(), v.clone()));
        config.config.labels.extend(labels);
        if !self.request.implicit_platform {
            let target = &self.request.target_platform;
            let same = config.os == target.os && config.architecture == target.arch;
            let variant = std::mem::take(&mut config.variant);
            config.set_platform(target);
            if target.variant.is_empty() && same {
                config.variant = variant;
            }
        }
        let platform = config.platform();
        config.set_platform(&platform);
    }
}

fn unpinned(name: &str, span: &Span) -> Box<Diagnostic> {
    let message = format!("`{name}` could not be resolved");
    Box::new(Diagnostic::error(message, span.clone(), ""))
}

/// An image source with its digest, and how it is shown.
fn pinned_image(source: &SourceOp, digest: OciDigest) -> (SourceOp, String) {
    let mut source = source.clone();
    let shown = match &mut source {
        SourceOp::Image(image) => {
            image.digest = Some(digest);
            let name = image.reference.split('@').next().unwrap_or_default();
            format!("{name}@{digest}")
        }
        SourceOp::OciLayout(layout) => {
            layout.digest = Some(digest);
            format!("{}@{digest}", layout.path)
        }
        _ => digest.to_string(),
    };
    (source, shown)
}

/// The config of a stage that starts from no image.
fn without_base(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::scratch(platform);
    config.config.working_dir = "/".to_owned();
    config.config.env.push(format!("PATH={DEFAULT_PATH}"));
    config
}
