//! What the store takes, what is removed from it, and what is found wrong with it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use snapbox::str;

use crate::support::Base;
use crate::support::Gate;
use crate::support::TestEnv;

/// A stage whose result is in the image, and one that is only copied from; files of several owners; a cache mount.
fn project() -> TestEnv {
    TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox AS tools\n\
         RUN mkdir -m 700 /closed && echo tool > /closed/tool && chown -R 33:33 /closed && echo t > /tool\n\
         FROM busybox\n\
         COPY --from=tools /tool /\n\
         RUN --mount=type=cache,target=/cache,id=things head -c 300000 /dev/zero > /cache/zero; echo made > /made\n",
    )
}

fn built() -> TestEnv {
    let env = project();
    env.rbuild(["-q", "-t", "app", "."]).success();
    env
}

fn json(env: &TestEnv, args: &[&str]) -> Vec<Value> {
    let all = [args, &["--format", "json"]].concat();
    let output = env.rbuild(all).success();
    let lines = output.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Bytes on disk, as GNU du counts them in a user namespace with all of the user's ids.
fn disk_usage(env: &TestEnv) -> String {
    let mut du = env.tool_command("unshare");
    du.args(["--user", "--map-auto", "--map-root-user", "--"])
        .args(["du", "-s", "--block-size=1"])
        .arg(env.store().join("v1"));
    let output = env.run(&mut du).success();
    output.stdout.split_whitespace().next().unwrap().to_owned()
}

fn fsck(env: &TestEnv) {
    let output = env.rbuild(["debug", "fsck", "--deep"]).success();
    assert!(output.stdout.is_empty(), "{output}");
}

#[test]
fn du_counts_what_the_disk_has() {
    let env = built();
    let items = json(&env, &["du"]);
    let of =
        |kind: &str| -> Vec<&Value> { items.iter().filter(|item| item["Type"] == kind).collect() };
    let [mount] = of("exec.cachemount")[..] else {
        panic!("{items:?}");
    };
    assert_eq!(mount["Description"], "cache mount things");
    assert!(mount["Bytes"].as_u64().unwrap() > 300_000 && mount["Reclaimable"] == true);
    let described = |text: &str| {
        let mut items = items.iter();
        let found = items.find(|item| item["Description"].as_str().unwrap().contains(text));
        found.unwrap_or_else(|| panic!("no {text} in {items:?}"))
    };
    assert_eq!(
        described("echo made")["Reclaimable"],
        false,
        "the image has it"
    );
    assert_eq!(described("mkdir -m 700")["Reclaimable"], true);
    // Directories that this user may not look into are in it too.
    let sum = |items: &[Value]| {
        items
            .iter()
            .map(|item| item["Bytes"].as_u64().unwrap())
            .sum::<u64>()
    };
    let all: u64 = disk_usage(&env).parse().unwrap();
    assert!(
        sum(&items) <= all && sum(&items) * 10 > all * 8,
        "{} of {all}",
        sum(&items)
    );
    let total = env.rbuild(["du"]).success();
    assert!(total.stdout.contains("RECLAIMABLE   SIZE"), "{total}");
    let verbose = env.rbuild(["du", "--verbose", "--filter", "type=exec.cachemount"]);
    let verbose = verbose.success();
    assert!(
        verbose.stdout.contains("Description:   cache mount things"),
        "{verbose}"
    );

    env.rbuild(["du", "--filter", "size=3"]).code(2).fails_with(str![[r#"
error: `--filter size=3`: there is no `size`, only `until`, `id`, `type`, `description`, `inuse`, `shared`, `private`, `mutable`, `immutable`
[exit status: 2]

"#]]);
    let nothing = TestEnv::new();
    nothing.rbuild(["du"]).success();
    assert!(!nothing.store().exists(), "who looks makes no store");
}

#[test]
fn prune_leaves_images_and_their_cache() {
    let env = built();
    env.rbuild(["prune"])
        .code(2)
        .says("`rbuild prune --force` does not ask");
    let mounts = |env: &TestEnv| fs::read_dir(env.store().join("v1/mounts")).unwrap().count();
    let pruned = env.rbuild(["prune", "-f"]).success();
    assert!(pruned.stdout.contains("Total:   "), "{pruned}");
    assert_eq!(mounts(&env), 1, "cache mounts that were used lately stay");
    assert_eq!(
        fs::read_dir(env.store().join("v1/trash")).unwrap().count(),
        0
    );
    fsck(&env);
    // The stage that no image has is gone; what the image has is found.
    let left = json(&env, &["du"]);
    let described = |text: &str| {
        let mut items = left.iter();
        items.any(|item| item["Description"].as_str().unwrap().contains(text))
    };
    assert!(!described("mkdir -m 700") && described("echo made"));
    let again = env.rbuild(["--progress=plain", "-t", "app", "."]).success();
    assert!(
        again.cached().iter().any(|step| step.contains("echo made")),
        "{again}"
    );

    env.rbuild(["prune", "-f", "--filter", "type=exec.cachemount"])
        .success();
    assert_eq!(mounts(&env), 0);
    let run = env
        .rbuild(["run", "app", "cat", "/tool", "/made"])
        .success();
    assert_eq!(run.stdout, "t\nmade\n");
    env.rbuild(["prune", "-fa"]).success();
    fsck(&env);
    env.rbuild(["save", "-o", "app.tar", "app"]).success();
    env.rbuild(["rmi", "app"]).success();
    env.rbuild(["prune", "-fa"]).success();
    for kind in ["layers", "trees", "records", "blobs/sha256", "mounts"] {
        let left = files_below(&env.store().join("v1").join(kind));
        assert!(left.is_empty(), "{left:?}");
    }
    env.rbuild(["load", "-i", "app.tar"]).success();
    fsck(&env);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.append(&mut files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

#[test]
fn limits_remove_the_least_recently_used() {
    let env = built();
    let before = json(&env, &["du", "--filter", "type=regular"]).len();
    env.rbuild(["prune", "-fa", "--max-used-space", "100GB"])
        .success();
    // What is reserved stays whatever the limits are; `--keep-storage` is buildx' older name for it.
    for reserved in ["--reserved-space", "--keep-storage"] {
        let limits = [reserved, "100GB", "--max-used-space", "1"];
        env.rbuild(["prune", "-fa"].iter().chain(&limits)).success();
    }
    env.rbuild(["prune", "-fa", "--filter", "until=24h"])
        .success();
    assert_eq!(
        json(&env, &["du", "--filter", "type=regular"]).len(),
        before
    );
    env.rbuild(["prune", "-fa", "--max-used-space", "1"])
        .success();
    assert!(json(&env, &["du", "--filter", "type=regular"]).is_empty());
    env.rbuild(["run", "app", "true"]).success();
    env.rbuild(["prune", "-f", "--min-free-space", "lots"])
        .code(2)
        .says("`lots` is not a size such as `10GB`");
}

/// Nothing goes that a build uses, has found or has made, however often somebody prunes meanwhile.
#[test]
fn prunes_while_a_build_runs() {
    let (first, second) = (Gate::new(), Gate::new());
    let file = format!(
        "FROM busybox\nRUN echo one > /one\nRUN {}\nRUN --mount=type=cache,target=/c touch /c/x; {}\nRUN cat /one > /two\n",
        first.pass(),
        second.pass()
    );
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN echo one > /one\n");
    env.rbuild(["-q", "."]).success();
    env.write("Dockerfile", file);
    let build = env
        .rbuild_command(["-q", "-t", "app", "."])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for gate in [first, second] {
        let waiting = gate.wait();
        for _ in 0..3 {
            env.rbuild(["prune", "-fa"]).success();
        }
        waiting.go_on();
    }
    env.finished(build).success();
    let run = env.rbuild(["run", "app", "cat", "/two"]).success();
    assert_eq!(run.stdout, "one\n");
    fsck(&env);
}

#[test]
fn builds_clean_up_behind_themselves() {
    let env = project();
    // The processes that these builds leave behind do not take the turns below.
    let config = env.outside("home/.config/rbuild/config.toml");
    let mut config = fs::File::options().append(true).open(config).unwrap();
    config.write_all(b"[gc]\nenabled = false\n").unwrap();
    env.rbuild(["-q", "-t", "app", "."]).success();
    env.rbuild(["rmi", "app"]).success();
    let root = env.store();
    // What the process does that a build leaves behind.
    let collect = |gc: &str| {
        let mut command = env.rbuild_command(["__sync-store"]);
        env.run(command.arg(&root).arg(gc)).success();
    };
    let records = || files_below(&root.join("v1/records")).len();
    let all = records();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    let due = || {
        let mut options = fs::File::options();
        let options = options.write(true).create(true).truncate(false);
        let file = options.open(root.join("v1/collected")).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    let nothing_stays = |enabled: bool| {
        let none = r#"{"Bytes":0}"#;
        format!(
            r#"{{"enabled":{enabled},"reserved_space":{none},"max_used_space":{none},"keep_duration":0}}"#
        )
    };
    due();
    collect(r#"{"enabled":true,"keep_duration":0}"#);
    assert_eq!(records(), all, "everything is new");
    collect(&nothing_stays(true));
    assert_eq!(records(), all, "it is not time yet");
    due();
    collect(&nothing_stays(false));
    assert_eq!(records(), all, "it is switched off");
    collect(&nothing_stays(true));
    assert_eq!(records(), 0);
    assert!(files_below(&root.join("v1/layers")).is_empty());
    assert_eq!(fs::read_dir(root.join("v1/trash")).unwrap().count(), 0);
}

#[test]
fn fsck_finds_and_takes_out() {
    let env = built();
    fsck(&env);
    let record = files_below(&env.store().join("v1/records")).remove(0);
    // Its name alone: a slot leads to the same file.
    fs::remove_file(&record).unwrap();
    fs::write(&record, "nonsense").unwrap();
    let found = env.rbuild(["debug", "fsck"]).code(1);
    assert_eq!(
        found.stdout,
        format!("{}: is not as it was written\n", record.display())
    );
    env.rbuild(["debug", "fsck", "--repair"]).success();
    assert!(!record.exists());
    fsck(&env);
    env.rbuild(["-q", "-t", "app", "."]).success();
    fsck(&env);
}

/// A layer of little that becomes much leaves a little of the disk to others.
#[test]
fn a_layer_that_would_fill_the_disk() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN yes 'much of the same' | head -c 150000000 > /much\n",
    );
    env.rbuild(["-q", "-o", "type=oci,dest=../much,tar=false", "."])
        .success();
    env.write("Dockerfile", "FROM much\nRUN true\n");
    let script = r#"
        mount -t tmpfs -o size=80m none "$STORE"
        "$RBUILD" -q --root "$STORE" --build-context much=oci-layout://../much .
        echo "$?"
        df --output=avail --block-size=1M "$STORE" | tail -1
    "#;
    let store = env.outside("small");
    fs::create_dir(&store).unwrap();
    let mut command = env.tool_command("unshare");
    command
        .args(["--user", "--mount", "--map-root-user", "--map-auto", "--"])
        .args(["/bin/sh", "-c", script])
        .env("STORE", &store)
        .env("RBUILD", env!("CARGO_BIN_EXE_rbuild"));
    let output = env.run(&mut command).success();
    let output = output.says(", and this layer would fill it");
    let mut lines = output.stdout.lines();
    assert_eq!(lines.next(), Some("3"), "{output}");
    // What was unpacked is gone again.
    let free: u32 = lines.next().unwrap().trim().parse().unwrap();
    assert!(free > 60, "{output}");
}

/// Before anything runs, with the numbers and what a prune would free.
#[test]
fn a_disk_that_will_not_do() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN head -c 30000000 /dev/urandom > /big\n",
    );
    let script = r#"
        mount -t tmpfs -o size=256k none "$RBUILD_ROOT"
        "$RBUILD" -q .
        echo "too small for the base: $?"
        mount -t tmpfs -o remount,size=20m none "$RBUILD_ROOT"
        "$RBUILD" --progress=plain .
        echo "too small for the step: $?"
        mount -t tmpfs -o remount,size=130m none "$RBUILD_ROOT"
        "$RBUILD" --progress=plain -f copies.Dockerfile .
        "$RBUILD" --progress=plain -f other.Dockerfile . 2>&1
        echo "nothing of the context is copied: $?"
    "#;
    env.write(
        "copies.Dockerfile",
        "FROM busybox\nCOPY zeros /\nRUN true\n",
    );
    env.write(
        "other.Dockerfile",
        "FROM busybox\nCOPY copies.Dockerfile /\nRUN true\n",
    );
    let zeros = fs::File::create(env.path("zeros")).unwrap();
    zeros.set_len(150_000_000).unwrap();
    fs::create_dir_all(env.store()).unwrap();
    let mut command = env.tool_command("unshare");
    command
        .args(["--user", "--mount", "--map-root-user", "--map-auto", "--"])
        .args(["/bin/sh", "-c", script])
        .env("RBUILD", env!("CARGO_BIN_EXE_rbuild"));
    let output = env.run(&mut command).success();
    let codes: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(
        codes[..2],
        ["too small for the base: 3", "too small for the step: 1"],
        "{output}"
    );
    assert_eq!(
        codes.last(),
        Some(&"nothing of the context is copied: 0"),
        "{output}"
    );
    assert!(!output.stdout.contains("may take"), "{output}");
    output
        .says(" free, and the base images take ")
        .says(" free, and the build may take 104.86MB; ")
        .says(" free, and the build may take 150.00MB; ")
        .says("/v1` is full: `rbuild prune` frees what can be made again");
}
