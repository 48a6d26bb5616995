//! Why steps run: what is said during a build, and what `rbuild explain` says afterwards.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use regex::Regex;
use serde_json::Value;
use snapbox::str;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;

const PLAIN: [&str; 2] = ["--progress=plain", "."];

const FILE: &str = "\
FROM busybox AS build
ARG VERSION=1.1
COPY src /src
RUN cat /src/* > /out; echo $VERSION
FROM busybox
COPY --from=build /out /
RUN cat /out
";

fn project() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", FILE)
        .file("src/a", "a\n")
        .file("src/b", "b\n")
        .file("src/deep/c", "c\n")
}

/// The reasons that a build gave, by the step they stand under.
fn reasons(output: &Output) -> Vec<String> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut reasons = Vec::new();
    for (id, rest) in output
        .stderr
        .lines()
        .filter_map(|line| line.split_once(' '))
    {
        if let Some((_, name)) = rest.strip_prefix('[').and_then(|r| r.split_once("] ")) {
            names.entry(id).or_insert(name);
        }
        if let Some(why) = rest.strip_prefix("why: ") {
            reasons.push(format!("{}: {why}", names[id]));
        }
    }
    reasons.sort();
    reasons
}

fn built(env: &TestEnv, args: &[&str]) -> Vec<String> {
    let args = PLAIN.iter().chain(args);
    reasons(&env.rbuild(args).success())
}

#[test]
fn a_build_says_why_steps_run() {
    let env = project();
    let run = "RUN cat /src/* > /out; echo";
    let none: [&str; 0] = [];
    // All is new.
    assert_eq!(built(&env, &[]), none);
    assert_eq!(built(&env, &[]), none);

    env.write("src/deep/c", "C\n");
    env.write("src/new", "new\n");
    assert_eq!(
        built(&env, &[]),
        [
            "COPY --from=build /out /: input rebuilt: [build 3/3] RUN cat /src/* > /out; echo 1.1",
            "COPY src /src: 2 of 4 files changed: src/deep/c (content), src/new (added)",
            "RUN cat /out: input rebuilt: [stage-1 2/3] COPY --from=build /out /",
            &format!("{run} 1.1: input rebuilt: [build 2/3] COPY src /src"),
        ]
    );

    assert_eq!(
        built(&env, &["--build-arg=VERSION=1.2"]),
        [
            // What waits for it has nothing to do once it is seen what came of it.
            format!("{run} 1.2: ARG VERSION 1.1 → 1.2"),
        ]
    );

    // Steps move, and are found again.
    let changed = FILE
        .replace("COPY src", "RUN true\nCOPY src")
        .replace("echo $VERSION", "echo v$VERSION");
    env.write("Dockerfile", changed);
    assert_eq!(
        built(&env, &["--build-arg=VERSION=1.2"]),
        [
            "COPY src /src: input rebuilt: [build 2/4] RUN true",
            "RUN cat /src/* > /out; echo v1.2: command \"cat /src/* > /out; echo $VERSION\" → \
             \"cat /src/* > /out; echo v$VERSION\"",
            "RUN true: first time",
        ]
    );
}

#[test]
fn what_is_copied_from_a_step_is_named() {
    let env = project();
    built(&env, &[]);
    env.write("src/a", "A\n");
    built(&env, &["--target=build"]);
    // All that the copy needs is known already, and it is another file.
    assert_eq!(
        built(&env, &[]),
        [
            "COPY --from=build /out /: 1 of 1 file changed: out (content)",
            "RUN cat /out: input rebuilt: [stage-1 2/3] COPY --from=build /out /",
        ]
    );
}

#[test]
fn modes_and_mounted_files_are_named() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox\nRUN --mount=target=/mnt cat /mnt/data/file\nCOPY data/file /\n",
        )
        .file("data/file", "1\n");
    let chmod = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(env.path("data/file"), mode).unwrap();
    };
    chmod(0o644);
    built(&env, &[]);
    chmod(0o755);
    assert_eq!(
        built(&env, &[]),
        [
            "COPY data/file /: 1 of 1 file changed: data/file (mode 0644 → 0755)",
            "RUN --mount=target=/mnt cat /mnt/data/file: --mount target=/mnt: \
             1 of 2 files changed: data/file (mode 0644 → 0755)",
        ]
    );
}

/// The step that failed has no record, so the next is compared with what it was before it.
#[test]
fn what_failed_is_no_measure() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN echo one\n");
    built(&env, &[]);
    env.write("Dockerfile", "FROM busybox\nRUN echo two; false\n");
    let failed = env.rbuild(PLAIN).code(1);
    assert_eq!(
        reasons(&failed),
        ["RUN echo two; false: command \"echo one\" → \"echo two; false\""]
    );
    let explained = env.rbuild(["explain", "--format=json"]).success();
    let explained: Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(explained["failed"], true);
    assert_eq!(explained["steps"][1]["state"], "failed");
    env.write("Dockerfile", "FROM busybox\nRUN true\nRUN echo three\n");
    assert_eq!(
        built(&env, &[]),
        [
            "RUN echo three: command \"echo one\" → \"echo three\"",
            "RUN true: first time"
        ]
    );
}

/// A text in which times, ages, digests and the place of the test are the same in every run.
fn timeless(text: &str, env: &TestEnv) -> String {
    let root = env.path("");
    let root = root.to_str().unwrap().trim_end_matches("/ctx/").to_owned();
    let mut text = text.replace(&root, "[ROOT]");
    for (pattern, by) in [
        (r" +[0-9]+\.[0-9]s\b", " [TIME]"),
        (r"[0-9]+ (second|minute)s? ago", "[AGO]"),
        (r"sha256:[0-9a-f]{64}", "[DIGEST]"),
    ] {
        let pattern = Regex::new(pattern).unwrap();
        text = pattern.replace_all(&text, by).into_owned();
    }
    text
}

#[test]
fn the_last_build_is_explained_without_running_it() {
    let env = project();
    env.rbuild(["explain"]).code(2).fails_with(str![[r#"
error: no build of the working directory is known
hint: what a build did is known once it is over; `rbuild plan` says what one would do
[exit status: 2]

"#]]);
    built(&env, &[]);
    env.write("src/a", "A\n");
    built(&env, &["--build-arg=VERSION=1.2"]);
    let listed = env.rbuild(["explain"]).success();
    snapbox::assert_data_eq!(
        timeless(&listed.stdout, &env),
        str![[r#"
[ROOT]/ctx/Dockerfile, built [AGO] in [TIME]: 4 steps ran, 1 cached

  cached            [build 1/3] FROM docker.io/library/busybox:latest@[DIGEST]
  read              [internal] load build context
  ran [TIME]  [build 2/3] COPY src /src
                    1 of 3 files changed: src/a (content)
  ran [TIME]  [build 3/3] RUN cat /src/* > /out; echo 1.2
                    ARG VERSION 1.1 → 1.2
  ran [TIME]  [stage-1 2/3] COPY --from=build /out /
                    input rebuilt: [build 3/3] RUN cat /src/* > /out; echo 1.2
  ran [TIME]  [stage-1 3/3] RUN cat /out
                    input rebuilt: [stage-1 2/3] COPY --from=build /out /

"#]]
    );
    for (step, names) in [
        ("4", vec!["RUN cat /src/* > /out; echo 1.2"]),
        ("Dockerfile:3", vec!["COPY src /src"]),
        ("stage-1", vec!["COPY --from=build /out /", "RUN cat /out"]),
        ("copy src", vec!["COPY src /src"]),
    ] {
        let explained = env.rbuild(["explain", "--format=json", step]).success();
        let explained: Value = serde_json::from_str(&explained.stdout).unwrap();
        let steps = explained["steps"].as_array().unwrap().iter();
        let got: Vec<&str> = steps
            .map(|step| step["name"].as_str().unwrap().split_once("] ").unwrap().1)
            .collect();
        assert_eq!(got, names, "{step}");
    }
    env.rbuild(["explain", "cat"]).fails_with(str![[r#"
error: `cat` is in the names of 2 steps
hint: [build 3/3] RUN cat /src/* > /out; echo 1.2
hint: [stage-1 3/3] RUN cat /out
[exit status: 2]

"#]]);

    // Cached steps: which record answered, and of when it is.
    env.write("src/a", "a\n");
    built(&env, &["--build-arg=VERSION=1.2"]);
    let json = env
        .rbuild(["explain", "--format=json", "COPY src"])
        .success();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let step = &json["steps"][0];
    assert_eq!(
        (&step["state"], &step["why"]),
        (&"cached".into(), &Value::Null)
    );
    assert_eq!(step["result"]["by"], "definition");
    assert!(step["result"]["made"].as_str().unwrap() < json["started"].as_str().unwrap());

    // Somewhere else, it is the last build there was.
    let elsewhere = env.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let explain = |args: &[&str]| env.run(env.rbuild_command(args).current_dir(&elsewhere));
    let plan = env.path("Dockerfile");
    let plan = plan.to_str().unwrap();
    let said = explain(&["explain", "RUN cat /out"]).success();
    said.clone().says(&format!(
        "no build of the working directory is known; this is the last one here, of `{plan}`"
    ));
    explain(&["explain", "-f", plan, "RUN cat /out"]).success();
    explain(&["explain", "-f", "Dockerfile"]).code(2);
}

/// All files of a store with the times they were written at, but for those that others write: the lease of each build, the
/// marks that a sync takes away which is not waited for, what is remembered of files that are as young as the build.
fn written(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        if ["leases", "unsynced", "stats"]
            .iter()
            .any(|name| dir.ends_with(name))
        {
            continue;
        }
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.metadata().unwrap() {
                found if found.is_dir() => open.push(entry.path()),
                found => drop(all.insert(entry.path(), found.modified().unwrap())),
            }
        }
    }
    all
}

#[test]
fn an_unchanged_build_writes_nothing() {
    let env = project();
    built(&env, &[]);
    let reports = env.store().join("v1/builds");
    let report = || {
        fs::read_dir(&reports)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
    };
    let said = fs::read_to_string(report()).unwrap();
    let before = written(&env.store());
    env.rbuild(PLAIN).success();
    let after = written(&env.store());
    let names = before.keys().chain(after.keys());
    // The first build left a process behind that collects, and notes when it did.
    let collected = env.store().join("v1/collected");
    let changed: BTreeSet<&PathBuf> = names
        .filter(|path| before.get(*path) != after.get(*path) && **path != collected)
        .collect();
    // The report of the last build says when it was found to be still true, and otherwise what it said.
    assert_eq!(changed, BTreeSet::from([&report()]));
    assert_eq!(fs::read_to_string(report()).unwrap(), said);
    let explained = env.rbuild(["explain"]).success();
    assert!(explained.stdout.contains("5 steps ran"), "{explained}");
}

#[test]
fn programs_and_quiet_builds() {
    let env = project();
    built(&env, &[]);
    env.write("src/a", "A\n");
    let json = env.rbuild(["--progress=rawjson", "."]).success();
    let lines = json
        .stderr
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let vertexes: Vec<Value> = lines
        .flat_map(|line| line["vertexes"].as_array().cloned().unwrap_or_default())
        .collect();
    let why = vertexes.iter().filter_map(|vertex| vertex["why"].as_str());
    assert!(
        why.clone()
            .any(|why| why == "1 of 3 files changed: src/a (content)"),
        "{json}"
    );
    assert!(vertexes.iter().all(|vertex| vertex["digest"].is_string()));
    env.write("src/a", "b\n");
    let quiet = env.rbuild(["-q", "."]).success();
    assert_eq!(quiet.stderr, "");
}

/// Values that look secret are neither said nor kept.
#[test]
fn who_asks_makes_no_store() {
    let env = TestEnv::new();
    let output = env.rbuild(["explain"]).code(2);
    assert!(
        output
            .stderr
            .contains("no build of the working directory is known"),
        "{output}"
    );
    assert!(!env.store().exists());
}

#[test]
fn secrets_are_not_explained() {
    for name in ["API_TOKEN", "DEPLOY_KEY", "NPM_AUTH"] {
        is_not_explained(name);
    }
}

fn is_not_explained(name: &str) {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        format!("FROM busybox\nARG {name}\nWORKDIR /of-${name}\nRUN true\n"),
    );
    let build = |value: &str| {
        let value = format!("--build-arg={name}={value}");
        env.rbuild(["--progress=plain", &value, "."]).success()
    };
    build("hunter1hunter1");
    let again = build("hunter2hunter2");
    let said = reasons(&again);
    assert!(
        said.iter()
            .all(|why| !why.split(": ").last().unwrap().contains("hunter")),
        "{said:?}"
    );
    let changed = format!("{name} changed (its value is not shown)");
    assert!(
        said.iter().any(
            |why| why.ends_with(&format!("WORKDIR changed; ENV {changed}"))
                || why.contains(&format!("ARG {changed}"))
        ),
        "{said:?}"
    );
    let explained = env.rbuild(["explain"]).success();
    assert!(!explained.stdout.contains("hunter"), "{explained}");
    let bake = |value: &str| {
        let file = format!(
            r#"{{"target":{{"default":{{"args":{{"{name}":"{value}"}},"output":["type=cacheonly"]}}}}}}"#
        );
        env.write("docker-bake.json", file);
        env.rbuild(["bake", "--progress=plain"]).success()
    };
    bake("hunter3hunter3");
    let again = bake("hunter4hunter4").to_string();
    assert!(!again.contains("hunter"), "{again}");
    let builds = env.store().join("v1/builds");
    for file in fs::read_dir(builds).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("hunter"), "{text}");
    }
}
