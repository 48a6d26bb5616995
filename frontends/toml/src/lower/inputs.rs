//! Inputs: what enters a build.

use std::collections::BTreeMap;

use rbuild_dockerfile::program::Input as ProgramInput;
use rbuild_dockerfile::program::StageId;
use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::NamedContext;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::OciLayoutSource;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::read_ignore_file;

use super::From;
use super::Git;
use super::Lowering;
use super::Url;
use crate::modules::ModuleId;
use crate::modules::Thing;
use crate::paths;
use crate::read::Text;
use crate::schema::DockerfileInput;
use crate::schema::GitInput;
use crate::schema::Input;
use crate::schema::ModeRule;
use crate::values::Scope;

impl Lowering<'_> {
    /// What an input is.
    pub(super) fn input(&mut self, module: ModuleId, at: usize, asked: &Span) -> Option<From> {
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        let modules = self.modules;
        let dir = modules.get(module).dir.as_str();
        match modules.input(module, at) {
            Input::Image(input) => {
                let text = self.plain(&input.image, scope)?;
                let platform = match &input.platform {
                    None => None,
                    Some(word) if word.text == "build" => Some(self.request.build_platform.clone()),
                    Some(word) => {
                        let text = Text {
                            text: self.plain(word, scope)?,
                            span: word.span.clone(),
                        };
                        Some(self.platform(&text)?)
                    }
                };
                let source = self.image(&text, dir, &input.image.span)?;
                Some(From::Image { source, platform })
            }
            Input::Local(input) => {
                let local = self.plain(&input.local, scope)?;
                let patterns = |list: &Option<crate::read::List<Text>>| {
                    let list = list.iter().flat_map(|list| &list.value);
                    list.map(|text| text.text.clone()).collect::<Vec<String>>()
                };
                let modes = input.modes.as_ref().map(|modes| modes.value);
                let include = patterns(&input.include);
                let everything = include.iter().all(|pattern| pattern == "**");
                let local = LocalSource {
                    name: paths::join(dir, &local),
                    include: if everything { Vec::new() } else { include },
                    exclude: read_ignore_file(&patterns(&input.exclude).join("\n")),
                    modes: match modes.unwrap_or(ModeRule::Git) {
                        ModeRule::Git => FileModes::Git,
                        ModeRule::Exact => FileModes::Exact,
                    },
                };
                self.check_patterns(&input.include, &input.exclude)?;
                Some(From::Local(local))
            }
            Input::Url(input) => {
                let url = Text {
                    text: self.plain(&input.url, scope)?,
                    span: input.url.span.clone(),
                };
                if !url.text.starts_with("http://") && !url.text.starts_with("https://") {
                    let message = format!("`{}` is no URL of a web server", url.text);
                    let label = "it begins with `https://` or `http://`";
                    self.errors
                        .push(Diagnostic::error(message, url.span, label));
                    return None;
                }
                let checksum = match &input.sha256 {
                    None => None,
                    Some(text) => {
                        let digits = text.text.strip_prefix("sha256:").unwrap_or(&text.text);
                        let digest = format!("sha256:{digits}").parse();
                        let Ok(digest) = digest else {
                            let message = format!("`{}` is no SHA-256", text.text);
                            let label = "64 hexadecimal digits";
                            self.errors
                                .push(Diagnostic::error(message, text.span.clone(), label));
                            return None;
                        };
                        Some((digest, text.span.clone()))
                    }
                };
                let mode = match &input.mode {
                    None => None,
                    Some(mode) => Some((self.octal(mode)?, mode.clone())),
                };
                let mut source = rbuild_dockerfile::http_source(&url.text);
                source.checksum = checksum.as_ref().map(|(digest, _)| *digest);
                source.mode = mode.as_ref().map(|(bits, _)| *bits);
                Some(From::Url(Url {
                    url,
                    checksum: checksum.map(|(digest, span)| Text {
                        text: digest.to_string(),
                        span,
                    }),
                    mode: mode.map(|(_, text)| text),
                    source,
                }))
            }
            Input::Git(input) => self.git_input(input, scope).map(From::Git),
            Input::Dockerfile(input) => {
                let stage = self.dockerfile(module, Thing::Input(module, at), input, asked)?;
                Some(From::Stage(stage))
            }
        }
    }

    fn image(&mut self, text: &str, dir: &str, span: &Span) -> Option<SourceOp> {
        if let Some(layout) = text.strip_prefix("oci-layout://") {
            let (path, reference) = match layout.rsplit_once(['@', ':']) {
                Some((path, tag)) if !tag.contains('/') && !path.ends_with("sha256") => {
                    (path, Some(tag.to_owned()))
                }
                _ => match layout.split_once('@') {
                    Some((path, digest)) => (path, Some(digest.to_owned())),
                    None => (layout, None),
                },
            };
            return Some(SourceOp::OciLayout(OciLayoutSource {
                path: paths::join(dir, path),
                reference,
                digest: None,
            }));
        }
        match rbuild_dockerfile::normalise_reference(text) {
            Ok(reference) => Some(SourceOp::Image(ImageSource {
                reference,
                digest: None,
            })),
            Err(error) => {
                let message = format!("`{text}` is no name of an image");
                self.errors
                    .push(Diagnostic::error(message, span.clone(), error.to_string()));
                None
            }
        }
    }

    fn git_input(&mut self, input: &GitInput, scope: Scope<'_>) -> Option<Git> {
        let mut url = self.plain(&input.git, scope)?;
        let reference = match &input.r#ref {
            Some(text) => self.plain(text, scope)?,
            None => String::new(),
        };
        let subdir = match &input.subdir {
            Some(text) => self.plain(text, scope)?,
            None => String::new(),
        };
        if url.contains('#') {
            let message = "the `git` of an input has no `#`";
            let label = "name a branch, tag or commit with `ref`, a directory with `subdir`";
            self.errors
                .push(Diagnostic::error(message, input.git.span.clone(), label));
            return None;
        }
        let remote = url.clone();
        match (reference.is_empty(), subdir.is_empty()) {
            (true, true) => {}
            (_, true) => url.push_str(&format!("#{reference}")),
            _ => url.push_str(&format!("#{reference}:{subdir}")),
        }
        let keep_git_dir = input.keep_git_dir.as_ref().map(|keep| keep.value);
        let commit = input.commit.as_ref().map(|commit| commit.text.as_str());
        match rbuild_dockerfile::git_source(&url, keep_git_dir, commit) {
            Some(Ok(source)) => Some(Git {
                url: Text {
                    text: url,
                    span: input.git.span.clone(),
                },
                commit: input.commit.clone(),
                keep_git_dir,
                source: SourceOp::Git(source),
            }),
            Some(Err(error)) => {
                let span = input.git.span.clone();
                self.errors.push(Diagnostic::error(error, span, ""));
                None
            }
            None => {
                let message = format!("`{remote}` is no URL of a git repository");
                let hint = "it ends with `.git`, or begins with `git://`, `ssh://` or `git@`";
                self.errors
                    .push(Diagnostic::error(message, input.git.span.clone(), "").hint(hint));
                None
            }
        }
    }

    /// The stage that a target of a Dockerfile is.
    fn dockerfile(
        &mut self,
        module: ModuleId,
        thing: Thing,
        input: &DockerfileInput,
        asked: &Span,
    ) -> Option<StageId> {
        let scope = Scope {
            module,
            params: None,
            matrix: None,
        };
        if let Some(start) = self.stack.iter().position(|(have, _)| *have == thing) {
            let error = self.cycle(start, thing, asked);
            self.errors.push(error);
            return None;
        }
        let modules = self.modules;
        let dir = &modules.get(module).dir;
        let path = paths::join(dir, &input.dockerfile.text);
        let Some(source) = self.request.files.get(&path) else {
            let message = format!("the Dockerfile `{path}` does not exist");
            let span = input.dockerfile.span.clone();
            self.errors.push(Diagnostic::error(message, span, ""));
            return None;
        };
        let context = match &input.context {
            Some(context) => paths::join(dir, &context.text),
            None => paths::parent(&path),
        };
        let beside = format!("{path}.dockerignore");
        let ignores = [beside, paths::join(&context, ".dockerignore")];
        let ignore = ignores.iter().find_map(|path| self.request.files.get(path));
        let exclude = ignore.map_or_else(Vec::new, |file| read_ignore_file(&file.text));
        let mut build_args: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &self.request.build_args {
            if crate::values::is_predefined(name) {
                build_args.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &input.args {
            let value = self.plain(&value.value, scope)?;
            build_args.insert(name.clone(), value);
        }
        self.stack.push((thing, asked.clone()));
        let mut contexts = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (name, from) in &input.contexts {
            let (stand_in, stage) = match self.from(module, &from.value) {
                Some(From::Image { source, .. }) => (NamedContext::Image(source), None),
                Some(other) => {
                    let at = self.place(module, &from.value);
                    let stage = self.stage_of(&from.value.text, other, &at);
                    (NamedContext::Step, stage)
                }
                None => continue,
            };
            named.insert(name.clone(), stand_in);
            contexts.extend(stage.map(|stage| (name.clone(), stage)));
        }
        self.stack.pop();
        let request = FrontendRequest {
            source: std::sync::Arc::clone(source),
            context: MainContext::Files(SourceOp::Local(LocalSource {
                name: context,
                include: Vec::new(),
                exclude,
                modes: FileModes::Exact,
            })),
            ignore: ignore.cloned(),
            targets: input
                .target
                .iter()
                .map(|target| target.text.clone())
                .collect(),
            build_args,
            contexts: named,
            labels: BTreeMap::new(),
            ..self.request.clone()
        };
        let input = ProgramInput { request, contexts };
        if let Some((_, stage)) = self.dockerfiles.iter().find(|(have, _)| *have == input) {
            return Some(*stage);
        }
        let stage = self
            .program
            .dockerfile(&self.modules.qualified(thing), input.clone(), asked);
        self.dockerfiles.push((input, stage));
        Some(stage)
    }
}
