//! What the action does around a build: what it tells the runner, and where it has the program from.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use snapbox::assert_data_eq;
use snapbox::str;

use super::runner::Ran;
use super::runner::Runner;
use super::runner::action;
use crate::support::Base;
use crate::support::FileServer;
use crate::support::TestEnv;

/// A step of the action with its inputs.
fn with(inputs: &Value) -> Value {
    json!({ "uses": "rbuild/rbuild@v0", "with": inputs })
}

fn ran(env: &TestEnv, inputs: &Value) -> Ran {
    Runner::new(env).rbuild(&with(inputs))
}

/// docker/build-push-action's, from its `action.yml`.
const INPUTS: [&str; 33] = [
    "add-hosts",
    "allow",
    "annotations",
    "attests",
    "build-args",
    "build-contexts",
    "builder",
    "cache-from",
    "cache-to",
    "call",
    "cgroup-parent",
    "context",
    "file",
    "github-token",
    "labels",
    "load",
    "network",
    "no-cache",
    "no-cache-filters",
    "outputs",
    "platforms",
    "provenance",
    "pull",
    "push",
    "sbom",
    "secret-envs",
    "secret-files",
    "secrets",
    "shm-size",
    "ssh",
    "tags",
    "target",
    "ulimit",
];

#[test]
fn inputs_and_outputs_have_the_names_they_have_elsewhere() {
    let action = action();
    let names = |of: &str| -> Vec<String> {
        let mut names: Vec<String> = action[of].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names("inputs"), INPUTS);
    assert_eq!(names("outputs"), ["digest", "imageid", "metadata"]);
}

#[test]
fn failures_stand_on_the_lines_they_are_of() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "app/Dockerfile",
        "FROM busybox AS base\nRUN echo one\nRUN echo said; \\\n    exit 7\n",
    );
    let ran = ran(&env, &json!({ "context": "./app" }));
    assert_eq!(ran.output.status.code(), Some(1), "{}", ran.output);
    let [annotation] = ran
        .commands
        .iter()
        .filter(|line| line.starts_with("::error"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", ran.commands);
    };
    assert!(
        annotation.starts_with("::error file=app/Dockerfile,line=3,endLine=4,title=rbuild::"),
        "{annotation}"
    );
    assert!(
        annotation.contains("exit code: 7%0A") && annotation.contains(" said"),
        "{annotation}"
    );
    assert!(
        ran.summary.starts_with("### The build failed\n"),
        "{}",
        ran.summary
    );
    assert!(ran.summary.contains("| **failed** |"), "{}", ran.summary);
    assert_eq!(ran.outputs.len(), 0);
}

#[test]
fn what_is_wrong_with_a_file_or_an_input_is_an_annotation() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPPY a /\n");
    let wrong = ran(&env, &json!({ "context": "." }));
    assert_eq!(wrong.output.status.code(), Some(2), "{}", wrong.output);
    let places = |ran: &Ran| -> Vec<String> {
        let places = ran
            .commands
            .iter()
            .map(|line| line.rsplit_once("::").unwrap().0.to_owned());
        places.collect()
    };
    assert_eq!(
        places(&wrong),
        ["::error file=Dockerfile,line=2,endLine=2,col=1,endColumn=5,title=rbuild"]
    );
    let inputs =
        json!({ "context": ".", "push": "maybe", "provenance": "mode=max", "tags": "UPPER" });
    let wrong = ran(&env, &inputs);
    assert_eq!(wrong.output.status.code(), Some(2), "{}", wrong.output);
    assert_eq!(wrong.commands.len(), 1, "{:?}", wrong.commands);
    assert!(wrong.commands[0].contains("the input `push` is `maybe`"));
    // What is no more than an input is judged as a flag is.
    let inputs =
        json!({ "context": ".", "provenance": "mode=max", "sbom": "true", "tags": "UPPER" });
    let wrong = ran(&env, &inputs);
    assert_eq!(wrong.output.status.code(), Some(2), "{}", wrong.output);
    let said = wrong.commands.join("\n");
    for flag in [
        "`--provenance` is not supported",
        "`--sbom` is not supported",
        "UPPER",
    ] {
        assert!(said.contains(flag), "{said}");
    }
    // Those are said by who wants none.
    let inputs = json!({ "context": ".", "provenance": "false", "sbom": "false", "file": "Good", "load": "false" });
    env.write("Good", "FROM scratch\nCOPY Good /\n");
    let right = ran(&env, &inputs);
    assert!(right.output.status.success(), "{}", right.output);
}

#[test]
fn lint_findings_are_warnings_and_checks_fail() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox as base\nRUN true\n");
    let built = ran(&env, &json!({ "context": "." }));
    assert!(built.output.status.success(), "{}", built.output);
    assert_data_eq!(
        built.commands.join("\n"),
        str![[r#"
::warning file=Dockerfile,line=1,endLine=1,col=14,endColumn=15,title=FromAsCasing::'as' and 'FROM' keywords' casing do not match%0Amore info: docs/lint/FromAsCasing.md
"#]]
    );
    assert!(
        built.summary.contains("- FromAsCasing"),
        "{}",
        built.summary
    );
    let mut runner = Runner::new(&env)
        .sets("DOCKER_BUILD_SUMMARY", "false")
        .sets("DOCKER_BUILD_CHECKS_ANNOTATIONS", "false");
    let silent = runner.rbuild(&with(&json!({ "context": "." })));
    assert_eq!(silent.summary, "");
    assert!(
        !silent
            .commands
            .iter()
            .any(|line| line.starts_with("::warning"))
    );
    let checked = ran(&env, &json!({ "context": ".", "call": "check" }));
    assert_eq!(checked.output.status.code(), Some(1), "{}", checked.output);
    assert!(
        checked.output.stdout.contains("FromAsCasing"),
        "{}",
        checked.output
    );
}

/// A runner obeys what it reads: a step that prints a command is not heard.
#[test]
fn steps_cannot_command_the_runner() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN printf '::add-path::/evil\\n##[add-path]/evil\\n\\n::stop-commands::x\\n::x::\\n##[error]no end'\n",
    );
    let built = ran(&env, &json!({ "context": "." }));
    assert!(built.output.status.success(), "{}", built.output);
    assert!(
        built.output.stderr.contains("##[add-path]/evil"),
        "{}",
        built.output
    );
    assert_eq!(built.commands, [""; 0]);
}

/// What the inputs hold is shown in the command and in errors, and is no command to the runner.
#[test]
fn inputs_give_the_runner_no_commands() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let evil = "a=x ##[set-output name=digest]sha256:0\nb=y";
    let built = ran(&env, &json!({ "context": ".", "labels": evil }));
    assert!(built.output.status.success(), "{}", built.output);
    assert!(
        built.output.stderr.contains("##[set-output"),
        "{}",
        built.output
    );
    assert_eq!(built.commands, [""; 0]);
    // In errors of inputs, of flags and of files.
    for inputs in [
        json!({ "context": ".", "push": "no ##[add-path]/evil" }),
        json!({ "context": ".", "network": "x\n::set-output name=digest::sha256:0\n##[add-path]/evil" }),
        json!({ "context": "no ##[add-path]/evil" }),
    ] {
        let wrong = ran(&env, &inputs);
        assert!(!wrong.output.status.success(), "{}", wrong.output);
        let annotations = |line: &String| line.starts_with("::error ");
        assert!(
            wrong.commands.iter().all(annotations),
            "{:?}",
            wrong.commands
        );
        assert!(!wrong.commands.is_empty(), "{}", wrong.output);
    }
}

/// The token of the job goes to the job's server, and to no other.
#[test]
fn git_sends_the_token_to_its_server() {
    let env = TestEnv::new();
    fs::create_dir(env.outside("served")).unwrap();
    let (own, other) = (
        FileServer::start(env.outside("served")),
        FileServer::start(env.outside("served")),
    );
    let server = |server: &FileServer| server.url("").trim_end_matches('/').to_owned();
    let mut runner = Runner::new(&env)
        .sets("GITHUB_SERVER_URL", &server(&own))
        .sets("GITHUB_REPOSITORY", "me/app")
        .sets("GITHUB_SHA", "8c1b3b1c5c4d4f0d8a3d1f1e2b7c6a5948372615");
    let failed = runner.rbuild(&with(&json!({})));
    assert_eq!(
        failed.output.status.code(),
        Some(3),
        "nothing is served: {}",
        failed.output
    );
    // printf x-access-token:ghs_0123456789abcdef | base64
    let header = "Basic eC1hY2Nlc3MtdG9rZW46Z2hzXzAxMjM0NTY3ODlhYmNkZWY=";
    let asked = own.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.starts_with(header)),
        "{asked:?}"
    );
    let context = format!("{}/me/app.git#main", server(&other));
    runner.rbuild(&with(&json!({ "context": context })));
    let asked = other.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.starts_with("GET ")),
        "{asked:?}"
    );
}

/// Ubuntu's restriction of user namespaces is taken away where the machine is the job's own, with `sudo`, and nowhere else.
#[test]
fn apparmor_is_told_to_let_steps_run() {
    const SETTING: &str = "apparmor_restrict_unprivileged_userns";
    // What hosted runners have at hand: it is asked for nothing else, and not for a password.
    const SUDO: &str = "#!/bin/sh\n\
        printf '%s\\n' \"$*\" >> \"$ASKED\"\n\
        [ -z \"$REFUSES\" ] || { echo no such right >&2; exit 1; }\n\
        echo \"${5#*=}\" > /proc/sys/kernel/apparmor_restrict_unprivileged_userns\n";
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let (tools, kernel, asked) = (
        env.outside("sudo"),
        env.outside("kernel"),
        env.outside("asked"),
    );
    env.write("../sudo/sudo", SUDO);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tools.join("sudo"), mode).unwrap();
    // What else is read there.
    env.write(
        "../kernel/random/boot_id",
        fs::read("/proc/sys/kernel/random/boot_id").unwrap(),
    );
    let called = "-n sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0\n";
    for (machine, is, refuses, asks, becomes) in [
        ("github-hosted", Some("1\n"), "", called, Some("0\n")),
        ("github-hosted", Some("1\n"), "yes", called, Some("1\n")),
        ("github-hosted", Some("0\n"), "", "", Some("0\n")),
        ("github-hosted", None, "", "", None),
        ("self-hosted", Some("1\n"), "", "", Some("1\n")),
    ] {
        fs::write(&asked, "").unwrap();
        drop(fs::remove_file(kernel.join(SETTING)));
        if let Some(is) = is {
            fs::write(kernel.join(SETTING), is).unwrap();
        }
        let mut runner = Runner::new(&env)
            .on(&tools, &kernel)
            .sets("RUNNER_ENVIRONMENT", machine)
            .sets("ASKED", asked.to_str().unwrap())
            .sets("REFUSES", refuses);
        let ran = runner.rbuild(&with(&json!({ "context": "." })));
        assert!(ran.output.status.success(), "{}", ran.output);
        assert_eq!(
            fs::read_to_string(&asked).unwrap(),
            asks,
            "{machine} {is:?}"
        );
        let now = fs::read_to_string(kernel.join(SETTING)).ok();
        assert_eq!(now.as_deref(), becomes, "{machine} {is:?}");
        let done = "set kernel.apparmor_restrict_unprivileged_userns=0";
        let is_done = is != becomes;
        assert_eq!(ran.output.stderr.contains(done), is_done, "{}", ran.output);
        let warned = ran
            .commands
            .iter()
            .any(|line| line.contains("no such right"));
        assert_eq!(warned, !refuses.is_empty(), "{:?}", ran.commands);
    }
}

/// A check-out of the action at a release, with the checksum of what `program` holds.
fn release(env: &TestEnv, sum: &str) -> PathBuf {
    let dir = env.outside("action");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/action/main.js");
    fs::create_dir_all(dir.join("packaging/action")).unwrap();
    fs::copy(own, dir.join("packaging/action/main.js")).unwrap();
    let sums = format!(
        "{sum}  rbuild-9.8.7-x86_64-linux\n{sum}  rbuild-9.8.7-aarch64-linux\n{sum}  rbuild-9.8.7.tar.gz\n"
    );
    fs::write(dir.join("packaging/action/SHA256SUMS"), sums).unwrap();
    dir
}

#[test]
fn the_program_of_a_release_is_downloaded_once_and_checked() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let program = fs::read(env!("CARGO_BIN_EXE_rbuild")).unwrap();
    let hex = |bytes: &[u8]| {
        Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let place = format!(
        "releases/me/rbuild/releases/download/v9.8.7/rbuild-9.8.7-{}-linux",
        std::env::consts::ARCH
    );
    env.write(&format!("../{place}"), &program);
    let server = FileServer::start(env.outside("releases"));
    let runner = |sum: &str| {
        Runner::new(&env)
            .with_action(&release(&env, sum))
            .sets("GITHUB_SERVER_URL", server.url("").trim_end_matches('/'))
            .sets("GITHUB_ACTION_REPOSITORY", "me/rbuild")
    };
    let step = with(&json!({ "context": ".", "github-token": "" }));

    let wrong = runner(&"0".repeat(64)).rbuild(&step);
    assert_eq!(wrong.output.status.code(), Some(3), "{}", wrong.output);
    assert!(
        wrong.commands[0].contains("is not what was released"),
        "{:?}",
        wrong.commands
    );
    assert_eq!(server.asked().len(), 1);
    let kept = env.tool(
        "find",
        [&*env.outside("tools").to_string_lossy(), "-type", "f"],
    );
    assert_eq!(kept.stdout, "", "what is wrong is not kept");

    let mut runner = runner(&hex(&program));
    let right = runner.rbuild(&step);
    assert!(right.output.status.success(), "{}", right.output);
    assert_eq!(server.asked().len(), 1);
    // The next step finds it in PATH, a runner that keeps its tools has it.
    let again = runner.rbuild(&step);
    assert!(again.output.status.success(), "{}", again.output);
    assert_eq!(again.outputs["digest"], right.outputs["digest"]);
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn an_action_of_no_release_says_so() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let dir = release(&env, &"0".repeat(64));
    fs::remove_file(dir.join("packaging/action/SHA256SUMS")).unwrap();
    let none = Runner::new(&env)
        .with_action(&dir)
        .rbuild(&with(&json!({ "context": "." })));
    assert_eq!(none.output.status.code(), Some(3), "{}", none.output);
    assert!(
        none.commands[0].contains("belongs to no release"),
        "{:?}",
        none.commands
    );
}
