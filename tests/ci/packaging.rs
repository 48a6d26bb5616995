//! What a release is made of: archives with manual pages and completions, rbuild's own image, workflows.

use std::fs;
use std::path::Path;

use super::runner::action;
use crate::support::Base;
use crate::support::TestEnv;
use crate::support::yaml;

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_archive_has_the_licence_manual_pages_and_completions() {
    // The program of a test run is large: a few lines that run it are packed in its place.
    let program = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_rbuild"));
    let env = TestEnv::new().file("program", program);
    let pack = |dir: &str| {
        let script = repository("packaging/archive");
        let args = [
            &script,
            env!("CARGO_BIN_EXE_rbuild"),
            "9.8.7",
            "x86_64",
            dir,
        ];
        env.tool("sh", args).success();
    };
    pack("one");
    let mut made: Vec<_> = fs::read_dir(env.path("one"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    made.sort();
    assert_eq!(
        made,
        [
            "rbuild-9.8.7-x86_64-linux",
            "rbuild-9.8.7-x86_64-linux.tar.gz"
        ]
    );
    let archive = "one/rbuild-9.8.7-x86_64-linux.tar.gz";
    let files = env.tool("tar", ["-tzf", archive]).success().stdout;
    for file in [
        "LICENSE",
        "bin/rbuild",
        "share/man/man1/rbuild.1",
        "share/man/man1/rbuild-build.1",
        "share/bash-completion/completions/rbuild",
        "share/zsh/site-functions/_rbuild",
        "share/fish/vendor_completions.d/rbuild.fish",
    ] {
        let file = format!("rbuild-9.8.7-x86_64-linux/{file}\n");
        assert!(files.contains(&file), "no {file} in:\n{files}");
    }
    pack("two");
    env.tool("cmp", [archive, "two/rbuild-9.8.7-x86_64-linux.tar.gz"])
        .success();
}

/// As bash asks for it when somebody presses Tab.
#[test]
fn bash_completes_flags() {
    let env = TestEnv::new();
    let script = env.rbuild(["completion", "bash"]).success().stdout;
    env.write("script", script);
    let ask = "source ./script; COMP_WORDS=(rbuild build --no-ca); COMP_CWORD=2; \
               _rbuild rbuild --no-ca build; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let found = env.tool("bash", ["-c", ask]).success();
    assert_eq!(found.stdout, "--no-cache\n--no-cache-filter\n", "{found}");
}

/// The Dockerfile and its twin; the second finds all of the first in the cache.
#[test]
fn the_image_of_rbuild() {
    let env = TestEnv::new().bases([Base::Debian]);
    for file in ["Dockerfile", "rbuild.toml"] {
        fs::copy(
            repository(&format!("packaging/image/{file}")),
            env.path(file),
        )
        .unwrap();
    }
    let arch = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    env.write(&format!("programs/{arch}/rbuild"), "");
    fs::copy(
        env!("CARGO_BIN_EXE_rbuild"),
        env.path(&format!("programs/{arch}/rbuild")),
    )
    .unwrap();
    let build = |file: &str, to: &str| {
        let out = format!("type=oci,dest=../{to}");
        let args = [
            "--progress=plain",
            "-f",
            file,
            "--build-arg=BASE=debian",
            "-o",
            &out,
            ".",
        ];
        env.rbuild(args).success()
    };
    build("Dockerfile", "one.tar");
    let twin = build("rbuild.toml", "two.tar");
    // A context is looked at in every build.
    assert_eq!(twin.ran(), ["load from client"], "{twin}");
    let digest = |name: &str| {
        let archive = format!("oci-archive:{}", env.outside(name).display());
        let args = ["inspect", "--format={{.Digest}}", &archive];
        env.tool("skopeo", args).success().stdout
    };
    assert_eq!(digest("one.tar"), digest("two.tar"));
    let loaded = format!("oci-archive:{}", env.outside("one.tar").display());
    let id = env.tool("podman", ["pull", "-q", &loaded]).success().stdout;
    let run = |args: &[&str]| {
        let options = ["run", "--rm", "--network=host", id.trim()];
        env.tool("podman", options.iter().chain(args))
            .success()
            .stdout
    };
    assert_eq!(
        run(&["--version"]),
        format!("rbuild {}\n", env!("CARGO_PKG_VERSION"))
    );
    let doctor = run(&["doctor", "--format=json"]);
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    assert_eq!(
        doctor["store"], "/home/user/.local/share/rbuild",
        "{doctor:#}"
    );
}

/// A tag moves, and whoever moves it runs with this repository's rights.
#[test]
fn workflows_name_actions_of_others_by_commits() {
    let mut named = 0;
    for entry in fs::read_dir(repository(".github/workflows")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let uses = text.lines().filter_map(|line| line.split_once("uses: "));
        for (_, action) in uses.filter(|(_, action)| !action.starts_with("./")) {
            let (_, commit) = action.split_once('@').unwrap();
            let (commit, tag) = commit.split_once(" # ").unwrap_or((commit, ""));
            let digits = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
            assert!(
                commit.len() == 40 && digits(commit) && tag.starts_with('v'),
                "{}: {action}",
                path.display()
            );
            named += 1;
        }
    }
    assert!(named > 0);
}

/// Where a workflow of this repository takes the action of its own commit.
#[test]
fn workflows_say_what_the_action_understands() {
    let inputs = action()["inputs"].clone();
    let mut used = 0;
    for entry in fs::read_dir(repository(".github/workflows")).unwrap() {
        let path = entry.unwrap().path();
        let workflow = yaml::read(&fs::read_to_string(&path).unwrap());
        for job in workflow["jobs"].as_object().unwrap().values() {
            for step in job["steps"].as_array().into_iter().flatten() {
                if step["uses"] == "./" {
                    used += 1;
                    for name in step["with"].as_object().unwrap().keys() {
                        assert!(inputs[name].is_object(), "{}: {name}", path.display());
                    }
                }
            }
        }
    }
    assert_eq!(used, 2);
}
