//! Where everything goes: `-t`, `-o`, `--push` and `--load` together, and what of it does not fit.

use std::path::Component;
use std::path::Path;

use super::Problems;
use super::Talk;
use crate::cli::flags::BuildFlags;
use crate::cli::output;
use crate::cli::sources;
use crate::cli::values::problem;
use crate::request::BuildRequest;
use crate::request::Destination;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Push;
use crate::request::Tag;

/// What `--allow` says to let `mode=delete` delete anywhere.
pub(super) const LOCAL_DELETE: &str = "buildx.local.delete";

/// The names of the image, and its outputs with `--push` and `--load` among them.
pub(super) fn outputs(flags: &BuildFlags, problems: &mut Problems) -> (Vec<Tag>, Vec<OutputSpec>) {
    let parsed = problems.all(&flags.output, output::parse);
    let names = parsed.iter().flat_map(|output| &output.names);
    let names: Vec<String> = flags.tag.iter().chain(names).cloned().collect();
    let mut tags: Vec<Tag> = Vec::new();
    for tag in problems.all(&names, sources::tag) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let mut outputs: Vec<OutputSpec> = parsed.into_iter().map(|output| output.spec).collect();
    if flags.push {
        let mut pushed = false;
        for output in &mut outputs {
            if let OutputKind::Image(image) = &mut output.kind {
                pushed = true;
                if image.push == Push::No {
                    image.push = Push::ByName;
                }
            }
        }
        if !pushed {
            let image = ImageOutput::with_push(Push::ByName);
            outputs.push(OutputSpec::plain(OutputKind::Image(image)));
        }
    }
    let loads = |output: &OutputSpec| matches!(output.kind, OutputKind::Load { .. });
    if flags.load && !outputs.iter().any(loads) {
        outputs.push(OutputSpec::plain(OutputKind::Load { context: None }));
    }
    let by_digest = |output: &OutputSpec| matches!(&output.kind, OutputKind::Image(image) if image.push == Push::ByDigest);
    if outputs.iter().any(by_digest) {
        for name in names.iter().filter(|name| sources::has_tag(name)) {
            let message = format!("`{name}` has a tag, and is to be pushed by its digest alone");
            problems
                .0
                .push(problem(message).hint("leave the tag out, or `push-by-digest`"));
        }
    }
    destinations(flags, &outputs, problems);
    (tags, outputs)
}

/// Whether what is to be written can be where it is to be: known before the build, not after it.
fn destinations(flags: &BuildFlags, outputs: &[OutputSpec], problems: &mut Problems) {
    let allowed = flags.allow.iter().flat_map(|list| list.split(','));
    let delete_allowed = allowed.into_iter().any(|word| word == LOCAL_DELETE);
    for output in outputs {
        let Some((path, is_directory)) = output.kind.path() else {
            continue;
        };
        let shown = path.display();
        match (path.metadata(), is_directory) {
            (Ok(there), true) if !there.is_dir() => {
                let message = format!("`{shown}` is to be a directory, and is a file");
                problems
                    .0
                    .push(problem(message).hint("name another with `dest=`"));
            }
            (Ok(there), false) if there.is_dir() => {
                let message = format!("`{shown}` is to be a file, and is a directory");
                problems
                    .0
                    .push(problem(message).hint("name a file in it with `dest=`"));
            }
            _ => {}
        }
        let deletes = matches!(output.kind, OutputKind::Local { delete: true, .. });
        if deletes && !delete_allowed && deletes_elsewhere(path) {
            let message = format!(
                "`mode=delete` would delete what else is in `{shown}`, which is not below the working directory"
            );
            let hint = format!("allow it with `--allow {LOCAL_DELETE}`");
            problems.0.push(problem(message).hint(hint));
        }
    }
}

/// `mode=delete` takes away what is in the directory, so buildx wants to be told twice if that is the working directory
/// or outside of it.
fn deletes_elsewhere(dest: &Path) -> bool {
    let real = |path: &Path| {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let there = whole.ancestors().find_map(|dir| {
            let rest = whole.strip_prefix(dir).ok()?;
            Some(dir.canonicalize().ok()?.join(rest))
        });
        there.unwrap_or(whole)
    };
    let (here, dest) = (real(Path::new(".")), real(dest));
    // What does not exist can lead out by `..` alone.
    let up = dest.components().any(|part| part == Component::ParentDir);
    up || dest == here || !dest.starts_with(&here)
}

/// What is right in itself, but not together.
pub(super) fn conflicts(
    request: &BuildRequest,
    talk: Option<&Talk>,
    stdout_is_terminal: bool,
    problems: &mut Problems,
) {
    unmet(request, problems);
    // Whether docker takes several is not known before it is asked.
    let one_platform =
        |output: &OutputSpec| matches!(output.kind, OutputKind::Docker { tar: true, .. });
    let several = request.platforms.len() > 1 || request.multi_platform;
    if several && request.outputs.iter().any(one_platform) {
        let message = "docker's archive holds one platform only, and no index";
        let hint = "use `-o type=oci,dest=FILE`, push, or build one platform at a time";
        problems.0.push(problem(message).hint(hint));
    }
    let to_stdout = request.outputs.iter().filter(|output| {
        matches!(
            &output.kind,
            OutputKind::Tar {
                dest: Destination::Stdout,
                ..
            } | OutputKind::Docker {
                dest: Destination::Stdout,
                ..
            } | OutputKind::Oci {
                dest: Destination::Stdout,
                ..
            }
        )
    });
    match to_stdout.count() {
        0 => {}
        1 if stdout_is_terminal => {
            let message = "a tar is not written to a terminal";
            problems
                .0
                .push(problem(message).hint("redirect standard output, or add `dest=FILE`"));
        }
        1 if talk.is_some_and(|talk| talk.print_id) => {
            let message = "standard output cannot hold both a tar and the image id";
            problems
                .0
                .push(problem(message).hint("use `--progress none`, or add `dest=FILE`"));
        }
        1 => {}
        _ => problems
            .0
            .push(problem("only one output can be written to standard output")),
    }
}

/// What outputs ask for that the rest of the request does not have.
fn unmet(request: &BuildRequest, problems: &mut Problems) {
    // A plan may have names and times of its own, which is seen later.
    let plan = sources::may_be_plan(request);
    let pushed_nameless = |output: &OutputSpec| match &output.kind {
        OutputKind::Image(image) => image.push != Push::No && image.dangling.is_none(),
        _ => false,
    };
    if request.tags.is_empty() && !plan && request.outputs.iter().any(pushed_nameless) {
        let hint = "add `-t registry.example.org/name:tag`";
        problems
            .0
            .push(problem("there is no name to push the image under").hint(hint));
    }
    if request.offline && request.outputs.iter().any(|output| output.kind.pushes()) {
        problems.0.push(problem("`--offline` does not push"));
    }
    let timeless = |output: &OutputSpec| {
        let epoch = output.epoch.or(request.source_date_epoch);
        output.rewrite_timestamp && epoch.is_none()
    };
    if !plan && request.outputs.iter().any(timeless) {
        let hint = "set SOURCE_DATE_EPOCH, to `$(git log -1 --format=%ct)` perhaps";
        let message = "`rewrite-timestamp=true` has no time to rewrite to";
        problems.0.push(problem(message).hint(hint));
    }
    let images = request.outputs.is_empty() || request.outputs.iter().any(|o| o.kind.is_image());
    if request.iidfile.is_some() && !images {
        let message = "`--iidfile` wants an image id, and no image is made";
        problems
            .0
            .push(problem(message).hint("add an output that is an image, such as `-o type=image`"));
    }
}
