//! What steps may use: `--resource` as buildx has it, the flags of `docker build` and `buildah build` for the same, and
//! `--cgroup-parent`.

use std::str::FromStr as _;

use rbuild_llb::Diagnostic;
use rbuild_llb::op::Limits;

use super::flags::BuildFlags;
use super::values::invalid;
use crate::request::Space;

/// A `--resource` beats the flag of the same name; of two, the later.
pub(crate) fn limits(flags: &BuildFlags) -> Result<Limits, Vec<Diagnostic>> {
    let legacy = &flags.legacy;
    let mut limits = Limits {
        cgroup_parent: flags.cgroup_parent.clone().filter(|name| !name.is_empty()),
        ..Limits::default()
    };
    let mut problems = Vec::new();
    for (name, value) in [
        ("memory", &legacy.memory),
        ("memory-swap", &legacy.memory_swap),
        ("cpu-shares", &legacy.cpu_shares),
        ("cpu-period", &legacy.cpu_period),
        ("cpu-quota", &legacy.cpu_quota),
        ("cpuset-cpus", &legacy.cpuset_cpus),
        ("cpuset-mems", &legacy.cpuset_mems),
    ] {
        // Docker takes an empty value, and 0 for what is a number, as none; and -1, where the kernel does.
        let none = match name {
            "cpuset-cpus" | "cpuset-mems" => &[""][..],
            "cpu-quota" => &["", "0", "-1"],
            _ => &["", "0"],
        };
        if let Some(value) = value.as_deref().filter(|value| !none.contains(value)) {
            let set = set(&mut limits, name, value);
            problems.extend(set.err().map(|why| invalid(name, value, why)));
        }
    }
    for text in &flags.resource {
        let set = match text.split_once('=') {
            Some((name, value)) => set(&mut limits, name, value),
            None => Err("wanted `name=value`, such as `memory=2g`".to_owned()),
        };
        problems.extend(set.err().map(|why| invalid("resource", text, why)));
    }
    if let Some(parent) = &limits.cgroup_parent
        && let Err(why) = cgroup(parent)
    {
        problems.push(invalid("cgroup-parent", parent, why));
    }
    if let Err(why) = together(&limits) {
        problems.push(super::values::problem(why));
    }
    match problems.is_empty() {
        true => Ok(limits),
        false => Err(problems),
    }
}

fn set(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    let bytes = || match Space::from_str(value) {
        Ok(Space::Bytes(bytes @ 1..)) => Ok(bytes),
        _ => Err(format!("`{value}` is not a size such as `512m` or `2g`")),
    };
    let number = || match value.parse() {
        Ok(number @ 1_u64..) => Ok(Some(number)),
        _ => Err(format!("`{value}` is not a whole number above 0")),
    };
    match name {
        "memory" => limits.memory = Some(bytes()?),
        "memory-swap" => {
            limits.memory_swap = Some(match value {
                "-1" => -1,
                _ => i64::try_from(bytes()?).map_err(|_| format!("`{value}` is too much"))?,
            });
        }
        "cpu-shares" => limits.cpu_shares = number()?,
        "cpu-period" => limits.cpu_period = number()?,
        "cpu-quota" => limits.cpu_quota = number()?,
        "cpuset-cpus" => limits.cpuset_cpus = Some(list(value)?),
        "cpuset-mems" => limits.cpuset_mems = Some(list(value)?),
        _ => {
            return Err(format!(
                "there is no limit `{name}`: there are memory, memory-swap, cpu-shares, cpu-period, cpu-quota, \
                 cpuset-cpus and cpuset-mems"
            ));
        }
    }
    Ok(())
}

/// The kernel's list of numbers (cpuset(7), "List format"), without strides.
fn list(value: &str) -> Result<String, String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let item = |item: &str| match item.split_once('-') {
        Some((first, last)) => Some(number(first)? <= number(last)?),
        None => number(item).map(|_| true),
    };
    match value.split(',').all(|part| item(part) == Some(true)) {
        true => Ok(value.to_owned()),
        false => Err(format!("`{value}` is not a list such as `0-3` or `0,2`")),
    }
}

/// Docker also has names of systemd's slices there, which only systemd can make.
fn cgroup(parent: &str) -> Result<(), String> {
    let slice = parent.ends_with(".slice") && !parent.contains('/');
    if slice {
        return Err(format!(
            "a slice is systemd's: start the build in it, with `systemd-run --user --scope --slice={parent} -p Delegate=yes`"
        ));
    }
    match parent.split('/').any(|part| part == "..") {
        true => Err("a path below the root of all cgroups cannot have `..`".to_owned()),
        false => Ok(()),
    }
}

/// What is right in itself, but not together.
fn together(limits: &Limits) -> Result<(), String> {
    match (limits.memory, limits.memory_swap) {
        (None, Some(0..)) => {
            Err("`memory-swap` is memory and swap together: it needs `memory` as well".to_owned())
        }
        (Some(memory), Some(both @ 0..)) if both.unsigned_abs() < memory => {
            Err("`memory-swap` is memory and swap together, and less than `memory`".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod t {
    use super::super::flags::LegacyFlags;
    use super::*;
    use crate::ui;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn resource(texts: &[&str]) -> Result<Limits, Vec<Diagnostic>> {
        limits(&BuildFlags {
            resource: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..BuildFlags::default()
        })
    }

    #[test]
    fn resources_and_flags_say_the_same() {
        let wanted = Limits {
            memory: Some(2 << 30),
            memory_swap: Some(-1),
            cpu_shares: Some(512),
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpuset_cpus: Some("0-2,5".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            cgroup_parent: None,
        };
        let texts = [
            "memory=1g",
            "memory=2g",
            "memory-swap=-1",
            "cpu-shares=512",
            "cpu-period=50000",
            "cpu-quota=25000",
            "cpuset-cpus=0-2,5",
            "cpuset-mems=0",
        ];
        assert_eq!(resource(&texts), Ok(wanted.clone()));
        let text = |text: &str| Some(text.to_owned());
        let mut flags = BuildFlags {
            legacy: LegacyFlags {
                memory: text("2g"),
                memory_swap: text("-1"),
                cpu_shares: text("512"),
                cpu_period: text("50000"),
                cpu_quota: text("25000"),
                cpuset_cpus: text("0-2,5"),
                cpuset_mems: text("0"),
                ..LegacyFlags::default()
            },
            ..BuildFlags::default()
        };
        assert_eq!(limits(&flags), Ok(wanted));
        flags.legacy.memory = text("0");
        flags.legacy.cpu_quota = text("0");
        flags.legacy.cpu_period = text("");
        flags.cgroup_parent = text("/builds/one");
        let limits = limits(&flags).unwrap();
        assert_eq!(
            (limits.memory, limits.cpu_quota, limits.cpu_period),
            (None, None, None)
        );
        assert_eq!(limits.cgroup_parent.as_deref(), Some("/builds/one"));
    }

    #[test]
    fn no_limit_is_written_as_docker_has_it() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: LegacyFlags,
        }
        let line = "build -m 1g --memory-swap -1 --cpu-quota -1";
        let line: Line = clap::Parser::try_parse_from(line.split(' ')).unwrap();
        let flags = BuildFlags {
            legacy: line.flags,
            ..BuildFlags::default()
        };
        let limits = limits(&flags).unwrap();
        assert_eq!((limits.memory_swap, limits.cpu_quota), (Some(-1), None));
    }

    #[test]
    fn what_is_no_limit_is_named() {
        let mut text = String::new();
        for texts in [
            &["memory"][..],
            &["memory=0"],
            &["memory=10%"],
            &["cpus=2"],
            &["cpu-quota=-1", "cpu-shares=x"],
            &["cpuset-cpus=3-1"],
            &["memory-swap=1g"],
            &["memory=2g", "memory-swap=1g"],
        ] {
            for problem in resource(texts).unwrap_err() {
                text += &ui::render(&problem, false);
                text.push('\n');
            }
        }
        for parent in ["builds.slice", "/a/../b"] {
            let flags = BuildFlags {
                cgroup_parent: Some(parent.to_owned()),
                ..BuildFlags::default()
            };
            text += &ui::render(&limits(&flags).unwrap_err()[0], false);
            text.push('\n');
        }
        assert_data_eq!(
            text,
            str![[r#"
error: `--resource memory`: wanted `name=value`, such as `memory=2g`
error: `--resource memory=0`: `0` is not a size such as `512m` or `2g`
error: `--resource memory=10%`: `10%` is not a size such as `512m` or `2g`
error: `--resource cpus=2`: there is no limit `cpus`: there are memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and cpuset-mems
error: `--resource cpu-quota=-1`: `-1` is not a whole number above 0
error: `--resource cpu-shares=x`: `x` is not a whole number above 0
error: `--resource cpuset-cpus=3-1`: `3-1` is not a list such as `0-3` or `0,2`
error: `memory-swap` is memory and swap together: it needs `memory` as well
error: `memory-swap` is memory and swap together, and less than `memory`
error: `--cgroup-parent builds.slice`: a slice is systemd's: start the build in it, with `systemd-run --user --scope --slice=builds.slice -p Delegate=yes`
error: `--cgroup-parent /a/../b`: a path below the root of all cgroups cannot have `..`

"#]]
        );
    }
}
