//! `--llb` and what comes with it.

use std::path::PathBuf;

use rbuild_llb::Diagnostic;
use rbuild_llb::op::OciLayoutSource;
use rbuild_llb::op::SourceOp;

use super::flags::BuildFlags;
use super::values::invalid;
use super::values::problem;
use crate::request::BuildRequest;
use crate::request::ContextSource;
use crate::request::LlbInput;
use crate::request::NamedContextSource;
use crate::request::PlanFile;

/// The graph that is built in the place of a Dockerfile or plan, if one is.
pub(crate) fn input(flags: &BuildFlags) -> Option<LlbInput> {
    let file = flags.llb.as_ref()?;
    Some(LlbInput {
        file: match file.to_str() {
            Some("-") => PlanFile::Stdin,
            _ => PlanFile::Path(file.clone()),
        },
        config: flags.llb_config.clone(),
        has_context: !flags.words.is_empty(),
    })
}

/// `--local name=dir`
pub(crate) fn local(text: &str) -> Result<(String, NamedContextSource), Diagnostic> {
    let (name, dir) = named("local", text)?;
    Ok((name, NamedContextSource::Directory(dir)))
}

/// `--oci-layout name=dir`
pub(crate) fn layout(text: &str) -> Result<(String, NamedContextSource), Diagnostic> {
    let (name, dir) = named("oci-layout", text)?;
    let layout = SourceOp::OciLayout(OciLayoutSource {
        path: dir.display().to_string(),
        reference: None,
        digest: None,
    });
    Ok((name, NamedContextSource::Image(layout)))
}

fn named(flag: &str, text: &str) -> Result<(String, PathBuf), Diagnostic> {
    let (name, dir) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| invalid(flag, text, "wanted `name=dir`"))?;
    let dir = PathBuf::from(dir);
    if !dir.is_dir() {
        let why = format!("`{}` is not a directory", dir.display());
        return Err(invalid(flag, text, why));
    }
    Ok((name.to_owned(), dir))
}

/// What cannot be said of a graph, which says itself what its steps do; and what can be said of nothing else.
pub(crate) fn conflicts(flags: &BuildFlags, request: &BuildRequest) -> Vec<Diagnostic> {
    let list = |list: &[String]| list.iter().any(|text| !text.is_empty());
    let mut problems = Vec::new();
    let Some(input) = &request.llb else {
        let without = [
            ("llb-config", flags.llb_config.is_some()),
            ("local", list(&flags.local)),
            ("oci-layout", list(&flags.oci_layout)),
        ];
        let hint = "for a Dockerfile, `--build-context NAME=DIR` names directories and layouts";
        problems.extend(without.iter().filter(|(_, given)| *given).map(|(flag, _)| {
            problem(format!("`--{flag}` is for graphs, and there is no `--llb`")).hint(hint)
        }));
        return problems;
    };
    let limits = &request.limits;
    let words = [
        ("-f", flags.file.is_some()),
        ("--target", !request.targets.is_empty()),
        ("--also-run", list(&flags.also_run)),
        ("--set", list(&flags.set)),
        ("--build-arg", list(&flags.build_arg)),
        ("--no-cache-filter", list(&flags.no_cache_filter)),
        ("--context-modes", flags.context_modes.is_some()),
        ("--add-host", list(&flags.add_host)),
        ("--ulimit", list(&flags.ulimit)),
        ("--shm-size", request.shm_size != 0),
        ("--resource", *limits != Default::default()),
        ("--network", !matches!(&*flags.network, "" | "default")),
        ("--locked", flags.locked),
        ("--check", flags.check),
        ("--call", !matches!(&*flags.call, "" | "build")),
    ];
    let hint = "a graph says itself what its steps do: its author decides";
    problems.extend(words.iter().filter(|(_, given)| *given).map(|(flag, _)| {
        problem(format!("`{flag}` means nothing to the graph of `--llb`")).hint(hint)
    }));
    // BuildKit's frontends read the others; a graph has none (solver/llbsolver/provenance.go).
    for (name, context) in &request.named_contexts {
        let hint = match context {
            NamedContextSource::Directory(_) => continue,
            NamedContextSource::Image(SourceOp::OciLayout(layout)) => match layout.reference {
                None => continue,
                Some(_) => {
                    "the graph says which image of a layout it takes: `--oci-layout NAME=DIR`"
                }
            },
            NamedContextSource::Image(_) | NamedContextSource::Remote(_) => {
                "the graph names its images, repositories and URLs itself; directories are given: `--local NAME=DIR`"
            }
        };
        let message = format!("`--build-context {name}=…` means nothing to the graph of `--llb`");
        problems.push(problem(message).hint(hint));
    }
    if request.platforms.len() > 1 {
        problems
            .push(problem("the graph of `--llb` is for one platform").hint(
                "`--platform` is for the steps that name none: build one platform at a time",
            ));
    }
    match &request.context {
        ContextSource::Directory(_) => {}
        ContextSource::Stdin if input.file == PlanFile::Stdin => {
            problems.push(problem(
                "standard input cannot be both the context and the graph",
            ));
        }
        ContextSource::Stdin | ContextSource::Remote(_) => {
            problems.push(problem("with `--llb` the context is a directory").hint(
                "it is the local source `context` of the graph; `--local NAME=DIR` gives others",
            ))
        }
    }
    problems
}
