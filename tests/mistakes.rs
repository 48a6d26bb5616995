//! Slips of people who come from docker, and what helps them on: a hint, or that it works as it does there.

use std::fs;

use snapbox::str;

use crate::support::Base;
use crate::support::TestEnv;

#[test]
fn a_file_of_nearly_that_name_is_hinted_at() {
    let env = TestEnv::new()
        .file("README.md", "x")
        .file("src/index.js", "x");
    for (source, there) in [
        ("readme.md", "README.md"),
        ("src/idnex.js", "src/index.js"),
        ("scr/index.js", "src/index.js"),
    ] {
        env.write("Dockerfile", format!("FROM scratch\nCOPY {source} /\n"));
        let output = env.rbuild(["."]).code(2);
        let told = format!(" nothing matches\n  |\nhint: did you mean `{there}`?\n");
        assert!(output.stderr.ends_with(&told), "{output}");
    }
    for source in ["index.js", "src/main.rs"] {
        env.write("Dockerfile", format!("FROM scratch\nCOPY {source} /\n"));
        let output = env.rbuild(["."]).code(2);
        assert!(!output.stderr.contains("hint"), "{output}");
    }
}

#[test]
fn a_stage_of_nearly_that_name_is_hinted_at() {
    let file =
        "FROM scratch AS builder\nCOPY Dockerfile /a\nFROM scratch\nCOPY --from=buidler /a /a\n";
    let env = TestEnv::new().file("Dockerfile", file);
    env.rbuild(["--offline", "."])
        .code(3)
        .says(" --> Dockerfile:4:13\n")
        .says("hint: did you mean the stage `builder`?\n");
}

#[test]
fn a_secret_that_is_not_given() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=token,required true\n",
    );
    env.rbuild(["."]).code(2).fails_with(str![[r#"
error: secret `token` is required and was not given
 --> Dockerfile:2:25
  |
2 | RUN --mount=type=secret,id=token,required true
  |                         ^^^^^^^^
  |
hint: give it: `--secret id=token,src=FILE` or `--secret id=token,env=VARIABLE`
[exit status: 2]

"#]]);
}

/// Of a long command the headline has the beginning; what was printed and the excerpt say the rest.
#[test]
fn a_long_command_that_fails() {
    let command = format!("{}false", "echo one more of many; ".repeat(20));
    let file = format!("FROM busybox\nRUN {command}\n");
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", file);
    let output = env.rbuild(["."]).code(1);
    let error = output
        .stderr
        .lines()
        .find(|line| line.starts_with("error: "));
    let error = error.unwrap();
    assert!(
        error.starts_with("error: `[2/2] RUN echo one more of many; echo")
            && error.ends_with(" …` failed: exit code: 1"),
        "{output}"
    );
    assert!(error.len() < 150, "{error}");
}

/// Docker's command warns and goes on, too.
#[test]
fn a_damaged_config_of_docker() {
    let env = TestEnv::new().context("hello");
    let config = env.outside("home/.docker/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "{\"auths\": ").unwrap();
    let told = format!(
        "warning: docker's `{}` is left out, with the credentials and proxies in it: ",
        config.display()
    );
    let output = env.rbuild(["-q", "."]).success();
    assert_eq!(output.stderr.matches(&told).count(), 1, "{output}");
    fs::write(&config, "").unwrap();
    let output = env.rbuild(["-q", "."]).success();
    assert_eq!(output.stderr, "", "{output}");
}

#[test]
fn files_of_reports_may_be_special_or_have_no_place() {
    let env = TestEnv::new().context("hello");
    let id = env.rbuild(["-q", "."]).success().stdout;
    let output = env.rbuild(["--progress=none", "--iidfile=/dev/stdout", "."]);
    assert_eq!(output.success().stdout, id.trim());
    for (args, file) in [
        (["--metadata-file", "gone/it.json"], "gone/it.json"),
        (["-o", "type=oci,dest=gone/it.tar"], "gone/it.tar"),
    ] {
        let told =
            format!("error: cannot write `{file}`\ncaused by: there is no directory `gone`\n");
        env.rbuild(args.into_iter().chain(["."]))
            .code(3)
            .says(&told);
    }
}

/// Nobody is to wait for steps whose result has no place; what the build itself makes is one.
#[test]
fn what_has_no_place_is_told_before_any_step() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN echo it runs; false\n");
    let oci = ["-o", "type=oci,dest=gone/it.tar"];
    // Where nobody is; so it is told before anybody is asked.
    let elsewhere = ["--builder", "tcp://127.0.0.1:1"];
    for args in [
        &oci[..],
        &["-o", "type=docker,dest=gone/it.tar"],
        &["-o", "type=tar,dest=gone/it.tar"],
        &["--metadata-file", "gone/it.tar"],
        &["--iidfile", "gone/it.tar"],
        &[oci, elsewhere].concat(),
    ] {
        let output = env.rbuild(args.iter().chain(&["."])).code(3);
        assert!(
            output
                .stderr
                .contains("error: cannot write `gone/it.tar`\n")
                && !output.stderr.contains("it runs"),
            "{output}"
        );
    }
    env.write("files/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let made = ["-o", "gone/files", "-o", "type=oci,dest=./gone/it.tar"];
    env.rbuild(made.into_iter().chain(["-q", "files"]))
        .success();
    assert!(env.path("gone/it.tar").is_file());
}

/// Of what is sent, no other host and nothing in the store will do.
#[test]
fn a_registry_that_is_not_there_to_push_to() {
    // Ports this low are root's.
    let host = "127.0.0.1:1";
    let env = TestEnv::new().context("hello");
    let name = format!("{host}/app");
    let output = env.rbuild(["--push", "-t", &name, "."]).code(3);
    assert!(
        output
            .stderr
            .contains(&format!("error: `{host}` cannot be reached\n"))
            && output
                .stderr
                .contains("hint: proxies are taken from HTTPS_PROXY and HTTP_PROXY\n"),
        "{output}"
    );
}

#[test]
fn a_compose_file_in_the_place_of_a_dockerfile() {
    let env = TestEnv::new().file("sub/compose.yaml", "services: {}\n");
    env.rbuild(["sub"]).code(2).fails_with(str![[r#"
error: there is none of `rbuild.toml`, `Dockerfile`, `Containerfile` in `sub`
hint: `rbuild bake -f sub/compose.yaml` builds what that file names
[exit status: 2]

"#]]);
}
