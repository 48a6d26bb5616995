//! What is checked of a target when all of it is known, and what buildx changes in it then.

use rbuild_llb::Span;

use crate::BakeOptions;
use crate::Fail;
use crate::fail;
use crate::fail_nowhere;
use crate::target::Target;
use rbuild_llb::paths::clean as clean_path;

/// Checks the values that have a form of their own, cleans the context's path, and passes `SOURCE_DATE_EPOCH` on.
pub(crate) fn finish(name: &str, target: &mut Target, options: &BakeOptions) -> Result<(), Fail> {
    if let Some(epoch) = options.environment.get("SOURCE_DATE_EPOCH")
        && !epoch.is_empty()
    {
        let argument = target.args.entry("SOURCE_DATE_EPOCH".to_owned());
        argument.or_insert_with(|| Some(epoch.clone()));
    }
    check(target).map_err(|why| {
        let message = format!("target `{name}`: {why}");
        match &target.span {
            Some(span) => fail(message, Span::clone(span), ""),
            None => fail_nowhere(message),
        }
    })?;
    if let Some(context) = &mut target.context {
        if let Some(local) = context.strip_prefix("cwd://") {
            *context = clean_path(local);
        } else if !is_remote(context) {
            *context = clean_path(context);
        }
    }
    Ok(())
}

fn check(target: &Target) -> Result<(), String> {
    if target.context.as_deref() == Some("-") {
        return Err("its context cannot be standard input".to_owned());
    }
    if target.dockerfile.as_deref() == Some("-") {
        return Err("its Dockerfile cannot be standard input".to_owned());
    }
    if let Some(size) = &target.shm_size
        && !is_size(size)
    {
        return Err(format!("`shm-size = {size}` is no size such as `128m`"));
    }
    for platforms in target.platforms.iter().flatten() {
        platforms.split(',').try_for_each(check_platform)?;
    }
    for annotation in target.annotations.iter().flatten() {
        check_annotation(annotation)?;
    }
    for ulimit in target.ulimits.iter().flatten() {
        if !is_ulimit(ulimit) {
            return Err(format!(
                "`{ulimit}` is no ulimit such as `nofile=1024:2048`"
            ));
        }
    }
    for output in target.outputs.iter().flatten() {
        let tar = output.attributes.get("tar").map(String::as_str);
        let directory = output.kind == "local"
            || (matches!(output.kind.as_str(), "oci" | "docker")
                && tar.and_then(crate::flags::parse_bool) == Some(false));
        if directory && matches!(output.destination.as_str(), "" | "-") {
            return Err(format!(
                "its output of type {} needs a directory: `dest=PATH`",
                output.kind
            ));
        }
    }
    Ok(())
}

/// Whether buildx takes the context for a URL or a git repository.
fn is_remote(context: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://"];
    // `user@host:path`, as git and scp have it, and the old short form of GitHub's repositories.
    let scp = context.split_once(':').is_some_and(|(host, path)| {
        host.contains('@') && !host.contains('/') && !path.starts_with("//")
    });
    schemes.iter().any(|scheme| context.starts_with(scheme))
        || scp
        || context.starts_with("github.com/")
}

/// A number with a unit of bytes.
fn is_size(text: &str) -> bool {
    let lower = text.to_lowercase();
    let unit = lower.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = lower[..lower.len() - unit.len()].parse::<f64>();
    let unit = unit
        .trim_start()
        .trim_end_matches("ib")
        .trim_end_matches('b');
    number.is_ok() && matches!(unit, "" | "k" | "m" | "g" | "t" | "p" | "e")
}

fn check_platform(platform: &str) -> Result<(), String> {
    let valid = |part: &str| {
        let part = part.split_once('(').map_or(part, |(name, _)| name);
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    let parts: Vec<_> = platform.split('/').collect();
    if parts.len() > 3 || !parts.iter().all(|part| valid(part)) {
        return Err(format!("`{platform}` is no platform such as `linux/arm64`"));
    }
    // `local` is this machine's. Else of one part it is an operating system, or an architecture of this one.
    let known = |part: &str| SYSTEMS.contains(&part) || ARCHITECTURES.contains(&part);
    if parts.len() == 1 && platform != "local" && !known(&platform.to_lowercase()) {
        return Err(format!(
            "`{platform}` is neither an operating system nor an architecture"
        ));
    }
    Ok(())
}

/// The names that the containerd/platforms library knows.
const SYSTEMS: [&str; 15] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "macos",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
];
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "x86_64", "x86-64", "i386", "arm", "arm64", "aarch64", "armhf", "armel",
    "ppc64le", "mips64le", "riscv64", "s390x", "loong64",
];

/// `key=value`, or `type[platform],type:key=value`.
fn check_annotation(annotation: &str) -> Result<(), String> {
    let Some((key, _)) = annotation.split_once('=') else {
        return Err(format!(
            "the annotation `{annotation}` is not of the form `key=value`"
        ));
    };
    let Some((types, _)) = key.split_once(':') else {
        return Ok(());
    };
    for ty in types.split(',') {
        let name = ty.split_once('[').map_or(ty, |(name, _)| name);
        let known = [
            "index",
            "index-descriptor",
            "manifest",
            "manifest-descriptor",
        ];
        if !known.contains(&name) || (name != ty && !ty.ends_with(']')) {
            let known = known.join(", ");
            return Err(format!(
                "the annotation `{annotation}` is for `{ty}`, but there are: {known}"
            ));
        }
    }
    Ok(())
}

/// `name=soft:hard`, `name=limit`. The soft limit is not above the hard one.
fn is_ulimit(text: &str) -> bool {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
        "locks",
    ];
    let Some((name, limits)) = text.split_once('=') else {
        return false;
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let numbers = soft.parse::<i64>().ok().zip(hard.parse::<i64>().ok());
    NAMES.contains(&name) && numbers.is_some_and(|(soft, hard)| soft <= hard || hard == -1)
}
