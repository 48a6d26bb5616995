//! Build arguments outside stages: those before the first FROM, and the predefined ones.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::op::ProxyEnv;

use crate::ast::Ast;
use crate::env::Env;
use crate::inspect::description;
use crate::words::Shell;

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// `--build-arg`s, SOURCE_DATE_EPOCH among them where the request has it.
pub(crate) fn build_args(request: &FrontendRequest) -> BTreeMap<String, String> {
    let mut args = request.build_args.clone();
    if let Some(epoch) = request.source_date_epoch {
        args.insert(EPOCH.to_owned(), epoch.to_string());
    }
    args
}

/// An ARG with the value it has.
#[derive(Debug)]
pub(crate) struct Declared {
    /// As given, else its default.
    pub(crate) value: Option<String>,
    /// The other arguments its default takes.
    pub(crate) uses: BTreeSet<String>,
    /// From the comment above it.
    pub(crate) description: Option<String>,
    /// The instruction.
    pub(crate) at: Span,
}

/// What holds outside stages.
#[derive(Debug)]
pub(crate) struct Globals {
    /// The platform variables, then the ARGs before the first FROM.
    pub(crate) env: Env,
    /// Those ARGs.
    pub(crate) declared: BTreeMap<String, Declared>,
}

/// The platform variables.
pub(crate) fn platform_args(request: &FrontendRequest, target: &str) -> Env {
    let given = &request.build_args;
    let mut env = Env::default();
    let (to, on) = (&request.target_platform, &request.build_platform);
    for (name, value) in [
        ("BUILDPLATFORM", on.to_string()),
        ("BUILDOS", on.os.to_string()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", on.arch.to_string()),
        ("BUILDVARIANT", on.variant.to_string()),
        ("TARGETPLATFORM", to.to_string()),
        ("TARGETOS", to.os.to_string()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", to.arch.to_string()),
        ("TARGETVARIANT", to.variant.to_string()),
        ("TARGETSTAGE", target.to_owned()),
    ] {
        env.set(name, given.get(name).cloned().unwrap_or(value));
    }
    env
}

/// The platform variables and the ARGs before the first FROM.
pub(crate) fn global_args(
    ast: &Ast,
    request: &FrontendRequest,
) -> Result<Globals, Vec<Diagnostic>> {
    let given = build_args(request);
    let target = match (request.targets.first(), ast.stages.last()) {
        (Some(target), _) => target.clone(),
        (None, Some(stage)) => stage
            .name
            .as_ref()
            .map_or("default".to_owned(), |name| name.text.to_lowercase()),
        (None, None) => "default".to_owned(),
    };
    let mut env = platform_args(request, &target);
    let shell = Shell::new(ast.escape);
    let mut errors = Vec::new();
    let mut declared: BTreeMap<String, Declared> = BTreeMap::new();
    let args = ast
        .meta
        .iter()
        .flat_map(|(head, args)| args.iter().map(move |arg| (head, arg)));
    for (head, arg) in args {
        let name = &arg.name.text;
        let (mut value, mut uses) = (given.get(name).cloned(), BTreeSet::new());
        if let (None, Some(default)) = (&value, &arg.default) {
            match shell.expand(&default.text, &env) {
                Ok(expanded) => (value, uses) = (Some(expanded.text), expanded.used),
                Err(error) => {
                    let span = default.span.clone();
                    errors.push(Diagnostic::error(error.to_string(), span, ""));
                    continue;
                }
            }
        }
        // `ARG A=${A}-x`: it takes what the A before it takes.
        if uses.remove(name)
            && let Some(earlier) = declared.get(name)
        {
            uses.extend(earlier.uses.iter().cloned());
        }
        if let Some(value) = &value {
            env.set(name, value);
        }
        let new = Declared {
            value,
            uses,
            description: description(head, name),
            at: head.span.clone(),
        };
        declared.insert(name.clone(), new);
    }
    let epoch = given.get(EPOCH).map(String::as_str).or(env.get(EPOCH));
    if let Some(epoch) = epoch.filter(|epoch| !epoch.is_empty() && epoch.parse::<i64>().is_err()) {
        let named = ast.meta.iter().flat_map(|(_, args)| args);
        let span = match named.into_iter().rfind(|arg| arg.name.text == EPOCH) {
            Some(arg) => arg.name.span.clone(),
            None => Span::new(&request.source, 0..0),
        };
        let message = format!("`{EPOCH}` is `{epoch}`, which is no number of seconds");
        let hint = "taking it from a context or a stage is not supported";
        errors.push(Diagnostic::error(message, span, "").hint(hint));
    }
    match errors.is_empty() {
        true => Ok(Globals { env, declared }),
        false => Err(errors),
    }
}

/// The proxy variables among the build arguments, each in both spellings, as BuildKit hands them to a process.
pub(crate) fn proxy_env(args: &BTreeMap<String, String>) -> ProxyEnv {
    let mut env = Vec::new();
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "FTP_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
    ] {
        let mut given = args.iter().rev();
        let value = given.find(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()) {
            env.push(format!("{name}={value}"));
            env.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    ProxyEnv { env }
}
