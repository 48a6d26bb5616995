//! Cache mounts in caches: `mounts=`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::files;
use super::json;
use super::on;
use crate::support::ActionsCache;
use crate::support::Base;
use crate::support::ObjectStore;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::Watched;

/// What is found in a mount and what is left in it stand in the image, as busybox tells it. A run of its own by `STEP`;
/// `THEN` is done to the mount.
const FOUND: &str = "\
FROM busybox AS base
COPY --chmod=755 tell /tell

FROM base AS one
ARG STEP
ARG THEN=true
RUN --mount=type=cache,id=things,target=/c : $STEP; sh /tell > /found; eval \"$THEN\"; sh /tell > /left

FROM base AS two
ARG STEP
RUN --mount=type=cache,id=others,target=/c : $STEP; sh /tell > /others; echo of others > /c/other

FROM busybox
COPY --from=one /found /left /
COPY --from=two /others /
";

/// Names, types, modes, owners, times, link targets and contents.
const TELL: &str = "\
cd /c && find . | sort | while read -r name; do
    stat -c '%n %A %u:%g %Y %N' \"$name\"
    [ ! -f \"$name\" ] || sha256sum \"$name\"
done
";

/// Files of some kinds, one of them large, none of which can be compressed.
const FILL: &str = "\
mkdir -p /c/dir/deep && head -c 6000000 /dev/urandom > /c/dir/large && head -c 3000 /dev/urandom > /c/dir/deep/small && \
: > /c/empty && ln -s dir/large /c/link && ln /c/dir/large /c/hard && chown 12:34 /c/empty && chmod 4750 /c/dir/deep/small && \
touch -d '2001-02-03 04:05:06' /c/dir/deep /c/empty && chmod 700 /c/dir";

fn project() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", FOUND)
        .file("tell", TELL)
}

/// What a build found in its mounts, and what it left.
struct Built {
    found: String,
    left: String,
    others: String,
    output: Output,
}

/// A build on the machine of that name, which runs its steps as `step` is new.
fn build(env: &TestEnv, machine: &str, step: &str, args: &[&str]) -> Built {
    let step = format!("--build-arg=STEP={step}");
    let tar = ["-o", "type=tar,dest=../out.tar", &step];
    let output = on(env, machine, &[&tar, args].concat()).success();
    let file = |name| {
        env.tool("tar", ["-xOf", "../out.tar", name])
            .success()
            .stdout
    };
    Built {
        found: file("found"),
        left: file("left"),
        others: file("others"),
        output,
    }
}

fn warnings(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines
        .filter(|line| line.contains("cache is of no use") || line.contains("was not sent"))
        .collect()
}

fn then(what: &str) -> String {
    format!("--build-arg=THEN={what}")
}

const TO: &str = "--cache-to=type=local,dest=../cache,mounts=all";
const FROM: &str = "--cache-from=type=local,src=../cache";

/// Blobs of the cache in the directory, with their lengths.
fn blobs(env: &TestEnv) -> BTreeSet<(PathBuf, u64)> {
    files(&env.outside("cache/blobs"))
}

#[test]
fn another_machine_begins_with_what_the_first_left() {
    let env = project();
    let first = build(&env, "first", "1", &[&then(FILL), TO]);
    assert_eq!(first.found.lines().count(), 1, "{}", first.found);
    for name in [
        "./dir/large",
        "./dir/deep/small",
        "./empty",
        "./link",
        "./hard",
    ] {
        assert!(first.left.contains(name), "{}", first.left);
    }
    let second = build(&env, "second", "2", &[FROM]);
    assert_eq!(second.found, first.left);
    assert!(second.others.contains("./other"), "{}", second.others);
    let said = "bringing in the cache mount `things`";
    assert!(second.output.stderr.contains(said), "{}", second.output);
    // Names of one file are that here, too.
    let links = build(
        &env,
        "second",
        "3",
        &[&then("stat -c %h /c/hard > /c/count")],
    );
    assert_eq!(links.found, first.left);
    let count = build(
        &env,
        "second",
        "4",
        &[&then("cmp /c/count - <<E\n2\nE\nrm /c/count")],
    );
    assert!(count.found.contains("./count") && !count.left.contains("./count"));
    // Where one is, it stays.
    let own = build(&env, "first", "5", &[FROM, &then("echo own > /c/own")]);
    assert!(own.left.contains("./own"), "{}", own.left);
    assert!(!own.output.stderr.contains(said), "{}", own.output);
    // A machine that does not ask for the cache begins with nothing.
    let alone = build(&env, "alone", "6", &[]);
    assert_eq!(alone.found.lines().count(), 1, "{}", alone.found);
}

#[test]
fn what_changed_is_sent_and_nothing_else() {
    let env = project();
    build(&env, "first", "1", &[&then(FILL), TO]);
    let before = blobs(&env);
    let change = "echo more > /c/dir/more && printf xyz | dd of=/c/dir/large bs=1 seek=3000000 conv=notrunc 2>/dev/null";
    let second = build(&env, "second", "2", &[FROM, TO, &then(change)]);
    let after = blobs(&env);
    let sent: u64 = after.difference(&before).map(|(_, length)| length).sum();
    assert!((1..6_000_000 / 10).contains(&sent), "{sent}");
    let third = build(&env, "third", "3", &[FROM]);
    assert_eq!(third.found, second.left);
    assert!(third.found.contains("./dir/more"), "{}", third.found);
}

/// Steps that are cached need no mount: none is brought in, and none is lost.
#[test]
fn what_no_step_needs_stays_where_it_is() {
    let env = project();
    let first = build(&env, "first", "1", &[&then(FILL), TO]);
    let left = first.left;
    let nothing = [
        "-o",
        "type=cacheonly",
        "--build-arg=STEP=1",
        &then(FILL),
        FROM,
        TO,
    ];
    let cached = on(&env, "second", &nothing).success();
    assert_eq!(cached.ran(), [""; 0], "{cached}");
    assert!(!cached.stderr.contains("bringing in"), "{cached}");
    assert!(
        !env.outside("second/mounts").exists()
            || fs::read_dir(env.outside("second/mounts")).unwrap().count() == 0
    );
    // From one place to another it goes as it is.
    let other = "--cache-to=type=local,dest=../other,mounts=things";
    on(&env, "third", &[&nothing[..5], &[other]].concat()).success();
    let from_other = "--cache-from=type=local,src=../other";
    let fourth = build(&env, "fourth", "2", &[from_other]);
    assert_eq!(fourth.found, left);
    // Of two, the one that was named.
    assert!(!fourth.others.contains("./other"), "{}", fourth.others);
    // Who does not ask for mounts takes them out.
    on(
        &env,
        "fifth",
        &[&nothing[..5], &["--cache-to=type=local,dest=../other"]].concat(),
    )
    .success();
    let sixth = build(&env, "sixth", "3", &[from_other]);
    assert_eq!(sixth.found.lines().count(), 1, "{}", sixth.found);
}

#[test]
fn a_mount_that_is_damaged_begins_empty_and_is_sent_again() {
    let env = project();
    let first = build(&env, "first", "1", &[&then(FILL), TO]);
    let (largest, _) = blobs(&env)
        .into_iter()
        .max_by_key(|(_, length)| *length)
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, &bytes).unwrap();
    let second = build(&env, "second", "2", &[FROM, TO, &then(FILL)]);
    assert_eq!(second.found.lines().count(), 1, "{}", second.found);
    assert_eq!(warnings(&second.output).len(), 1, "{}", second.output);
    assert_ne!(second.left, first.left);
    let third = build(&env, "third", "3", &[FROM]);
    assert_eq!(third.found, second.left);
    // One that is gone.
    let (largest, _) = blobs(&env)
        .into_iter()
        .max_by_key(|(_, length)| *length)
        .unwrap();
    fs::remove_file(largest).unwrap();
    let fourth = build(&env, "fourth", "4", &[FROM, TO, &then(FILL)]);
    assert_eq!(fourth.found.lines().count(), 1, "{}", fourth.found);
    let fifth = build(&env, "fifth", "5", &[FROM]);
    assert_eq!(fifth.found, fourth.left);
}

#[test]
fn one_that_is_too_large_is_told_of() {
    let env = project();
    let first = build(
        &env,
        "first",
        "1",
        &[&then(FILL), &format!("{TO},mounts-max-size=1MB")],
    );
    let told = warnings(&first.output);
    assert_eq!(told.len(), 1, "{}", first.output);
    assert!(
        told[0].contains("`things`") && told[0].contains("mounts-max-size"),
        "{told:?}"
    );
    let second = build(&env, "second", "2", &[FROM]);
    assert_eq!(second.found.lines().count(), 1, "{}", second.found);
    assert!(second.others.contains("./other"), "{}", second.others);
}

/// What a pull request leaves in a mount nobody else begins with, unless the place keeps it apart.
#[test]
fn a_pull_request_reads_and_does_not_write() {
    let (registry, env) = (Watched::start(), project());
    let reference = format!("type=registry,ref={}/team/cache:main", registry.host());
    let (to, from) = (
        format!("--cache-to={reference},mounts=all"),
        format!("--cache-from={reference}"),
    );
    let first = build(&env, "first", "1", &[&then(FILL), &to, &from]);
    let proposed = |machine: &str, args: &[&str]| {
        let root = format!("--root=../{machine}");
        let args = [&[&root, "build", "--progress=plain"], args, &["."]].concat();
        let mut command = env.rbuild_command(args);
        command.env("GITHUB_EVENT_NAME", "pull_request");
        env.run(&mut command).success()
    };
    let step = [
        "-o",
        "type=tar,dest=../out.tar",
        "--build-arg=STEP=2",
        &then("echo worse > /c/worse"),
    ];
    let pull = proposed("pull", &[&step[..], &[&to, &from]].concat());
    let found = env
        .tool("tar", ["-xOf", "../out.tar", "found"])
        .success()
        .stdout;
    assert_eq!(found, first.left, "{pull}");
    let next = build(&env, "next", "3", &[&from]);
    assert_eq!(next.found, first.left);
    let trusted = format!("{to},mounts-readonly=false");
    proposed(
        "pull",
        &[
            &step[..2],
            &["--build-arg=STEP=4", step[3], &trusted, &from],
        ]
        .concat(),
    );
    let last = build(&env, "last", "5", &[&from]);
    assert!(last.found.contains("./worse"), "{}", last.found);
}

#[test]
fn every_place_keeps_them() {
    let env = project();
    let (s3, azure) = (ObjectStore::start(), ObjectStore::start());
    for (at, options) in [
        super::objects::options("s3", &s3),
        super::objects::options("azblob", &azure),
    ]
    .iter()
    .enumerate()
    {
        let (to, from) = (
            format!("--cache-to={options},mounts=all"),
            format!("--cache-from={options}"),
        );
        let machine = |name: &str| format!("{name}-{at}");
        let first = build(&env, &machine("first"), "1", &[&then(FILL), &to]);
        let second = build(
            &env,
            &machine("second"),
            "2",
            &[&from, &to, &then("echo more > /c/more")],
        );
        assert_eq!(second.found, first.left, "{options}");
        let third = build(&env, &machine("third"), "3", &[&from]);
        assert_eq!(third.found, second.left, "{options}");
        assert_eq!(warnings(&third.output), [""; 0], "{options}");
    }
    let service = ActionsCache::start();
    let main = ActionsCache::token(&["refs/heads/main"], true);
    let pull = ActionsCache::token(&["refs/pull/1/merge", "refs/heads/main"], true);
    let job = |token: &str, machine: &str, args: &[&str]| {
        let root = format!("--root=../{machine}");
        let tar = ["-o", "type=tar,dest=../out.tar"];
        let args = [
            &[&root, "build", "--progress=plain"],
            &tar[..],
            args,
            &["."],
        ]
        .concat();
        let mut command = env.rbuild_command(args);
        command
            .env("ACTIONS_RESULTS_URL", service.url())
            .env("ACTIONS_RUNTIME_TOKEN", token)
            .env("GITHUB_EVENT_NAME", "pull_request");
        env.run(&mut command).success();
        let file = |name| {
            env.tool("tar", ["-xOf", "../out.tar", name])
                .success()
                .stdout
        };
        (file("found"), file("left"))
    };
    let gha = ["--cache-from=type=gha", "--cache-to=type=gha,mounts=all"];
    let step = |step: &str| format!("--build-arg=STEP={step}");
    let (_, left) = job(&main, "a", &[&gha[..], &[&step("1"), &then(FILL)]].concat());
    // A branch goes on with what its base has, and leaves it as it is.
    let more = then("echo more > /c/more");
    let (found, in_branch) = job(&pull, "b", &[&gha[..], &[&step("2"), &more]].concat());
    assert_eq!(found, left);
    assert_eq!(job(&pull, "c", &[gha[0], &step("3")]).0, in_branch);
    assert_eq!(job(&main, "d", &[gha[0], &step("4")]).0, left);
}

/// Nothing of what names a mount is in a cache.
#[test]
fn ids_are_hashes() {
    let env = project();
    build(&env, "first", "1", &[TO]);
    let index = json(&env.outside("cache/index.json"));
    let manifest = json(&super::blob(&env.outside("cache"), &index["manifests"][0]));
    let catalogue =
        fs::read_to_string(super::blob(&env.outside("cache"), &manifest["config"])).unwrap();
    assert!(catalogue.contains("\"mounts\":[{"), "{catalogue}");
    assert!(!catalogue.contains("things"), "{catalogue}");
}
