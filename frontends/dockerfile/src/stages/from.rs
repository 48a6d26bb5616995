//! FROM.

use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::frontend::FrontendRequest;

use super::Base;
use super::Graph;
use super::Node;
use super::context_base;
use super::find_context;
use crate::ast::Ast;
use crate::ast::Stage;
use crate::ast::Word;
use crate::lint::Linter;
use crate::lint::Rule;
use crate::reference::normalise_reference;
use crate::words::Expansion;
use crate::words::Shell;
use rbuild_llb::suggest::nearest_name;
use rbuild_llb::suggest::nearest_variable;

impl Graph {
    pub(super) fn stage(
        &self,
        ast: &Ast,
        stage: &Stage,
        request: &FrontendRequest,
        lint: &mut Linter,
    ) -> Result<Node, Box<Diagnostic>> {
        let expanded = self.expand(ast, stage, &stage.base, lint)?;
        if expanded.text.is_empty() {
            let message = format!("base name (`{}`) should not be blank", stage.base.text);
            return Err(self.undefined(ast, message, &stage.base, &expanded.missing));
        }
        let mut uses = expanded.used;
        let platform = match &stage.platform {
            Some(word) => {
                let (platform, used) = self.stage_platform(ast, stage, word, lint)?;
                uses.extend(used);
                Some(platform)
            }
            None => None,
        };
        let name = match &stage.name {
            Some(name) => name.text.to_lowercase(),
            None => format!("stage-{}", self.nodes.len()),
        };
        let context = find_context(request, &name).filter(|_| stage.name.is_some());
        let mut named = self.nodes.iter();
        let base = match context {
            Some((key, context)) => context_base(key, context, request.modes),
            None => match named.rposition(|n| n.named && n.name == expanded.text) {
                Some(earlier) => Base::Stage(earlier),
                None => {
                    let word = Word {
                        text: expanded.text.clone(),
                        span: stage.base.span.clone(),
                    };
                    self.base(&word, request)
                        .map_err(|error| match error.hints.is_empty() {
                            true => self.hint_at_missing(ast, error, &expanded.missing),
                            false => error,
                        })?
                }
            },
        };
        Ok(Node {
            name,
            named: stage.name.is_some(),
            head: Some(stage.head.clone()),
            at: stage.base.span.clone(),
            base_name: expanded.text,
            base,
            platform,
            uses,
            commands: Vec::new(),
            replaced: context.is_some(),
            // A context that stands in for a stage is taken as it is.
            triggered: context.is_some(),
        })
    }

    fn expand(
        &self,
        ast: &Ast,
        stage: &Stage,
        word: &Word,
        lint: &mut Linter,
    ) -> Result<Expansion, Box<Diagnostic>> {
        let expanded = Shell::new(ast.escape)
            .expand(&word.text, &self.globals)
            .map_err(|error| Diagnostic::error(error.to_string(), word.span.clone(), ""))?;
        let declared: Vec<&str> = ast
            .meta
            .iter()
            .flat_map(|(_, args)| args)
            .map(|arg| arg.name.text.as_str())
            .chain(self.globals.names())
            .collect();
        for name in &expanded.missing {
            if declared.contains(&name.as_str()) {
                continue;
            }
            let mut message = format!("FROM argument '{name}' is not declared");
            if let Some(near) = nearest_variable(name, declared.iter().copied()) {
                message.push_str(&format!(" (did you mean {near}?)"));
            }
            lint.report(Rule::UndefinedArgInFrom, &stage.head, &word.span, message);
        }
        Ok(expanded)
    }

    /// An error about a word that came out empty, which is mostly a misspelt variable.
    fn undefined(
        &self,
        ast: &Ast,
        message: String,
        word: &Word,
        missing: &BTreeSet<String>,
    ) -> Box<Diagnostic> {
        let error = Diagnostic::error(message, word.span.clone(), "expands to nothing");
        self.hint_at_missing(ast, Box::new(error), missing)
    }

    /// Says what becomes of the first variable that had no value.
    fn hint_at_missing(
        &self,
        ast: &Ast,
        error: Box<Diagnostic>,
        missing: &BTreeSet<String>,
    ) -> Box<Diagnostic> {
        let Some(name) = missing.iter().next() else {
            return error;
        };
        let declared = || ast.meta.iter().flat_map(|(_, args)| args);
        let near = missing.iter().find_map(|name| {
            let declared = declared().map(|arg| arg.name.text.as_str());
            // Of a short name most letters have to be right.
            let may_be = |near: &&str| {
                name.eq_ignore_ascii_case(near) || nearest_name(name, [*near]).is_some()
            };
            nearest_variable(name, declared.chain(self.globals.names()).filter(may_be))
        });
        Box::new(match near {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if declared().any(|arg| arg.name.text == *name) => error.hint(format!(
                "`{name}` has no value: `--build-arg {name}=…`, or a default, `ARG {name}=…`"
            )),
            None => error.hint(format!(
                "`{name}` is not declared: `ARG {name}=…` before the first `FROM`"
            )),
        })
    }

    fn stage_platform(
        &self,
        ast: &Ast,
        stage: &Stage,
        word: &Word,
        lint: &mut Linter,
    ) -> Result<(Platform, BTreeSet<String>), Box<Diagnostic>> {
        let expanded = self.expand(ast, stage, word, lint)?;
        if expanded.text.is_empty() {
            let message = format!("empty platform value from expression `{}`", word.text);
            return Err(self.undefined(ast, message, word, &expanded.missing));
        }
        let platform: Platform = expanded.text.parse().map_err(|error| {
            let message = format!("failed to parse platform `{}`", word.text);
            Diagnostic::error(message, word.span.clone(), format!("{error}"))
        })?;
        let head = &stage.head;
        let target = self.globals.get("TARGETPLATFORM");
        if expanded.missing.is_empty()
            && expanded.used.iter().eq(["TARGETPLATFORM"])
            && target == Some(&expanded.text)
        {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            lint.report(Rule::RedundantTargetPlatform, head, &word.span, message);
        }
        let name = stage
            .name
            .as_ref()
            .map_or_else(String::new, |name| name.text.to_lowercase());
        if expanded.used.is_empty()
            && expanded.missing.is_empty()
            && !name.contains(platform.os.as_ref())
            && !name.contains(platform.arch.as_ref())
        {
            let message = format!(
                "FROM --platform flag should not use constant value \"{}\"",
                expanded.text
            );
            let rule = Rule::FromPlatformFlagConstDisallowed;
            lint.report(rule, head, &word.span, message);
        }
        Ok((platform, expanded.used))
    }

    /// Whether bases are sound when no build argument is given.
    pub(crate) fn check_defaults(ast: &Ast, request: &FrontendRequest, lint: &mut Linter) {
        let bare = FrontendRequest {
            build_args: Default::default(),
            ..request.clone()
        };
        let Ok(globals) = crate::args::global_args(ast, &bare) else {
            return;
        };
        for stage in &ast.stages {
            let Ok(base) = Shell::new(ast.escape).expand(&stage.base.text, &globals.env) else {
                return;
            };
            if normalise_reference(&base.text).is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base.text
                );
                let rule = Rule::InvalidDefaultArgInFrom;
                lint.report(rule, &stage.head, &stage.base.span, message);
            }
        }
    }
}
