//! Contexts that are not a directory. Owners, times and what is ignored are as a current BuildKit has them.

use std::fs;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use snapbox::str;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::list_tar;

const DOCKERFILE: &str = "FROM scratch\nCOPY . /all/\nCOPY sub/f /one\n";

/// A context in `context.tar` beside itself, its files owned by 1234:4321 in the archive.
fn archived(compress: &[&str]) -> TestEnv {
    let env = TestEnv::new()
        .file("Dockerfile", DOCKERFILE)
        .file(".dockerignore", "ignored\n")
        .file("ignored", "not ignored\n")
        .file("sub/f", "file\n");
    fs::hard_link(env.path("sub/f"), env.path("sub/link")).unwrap();
    let archive = env.path("../context.tar");
    env.tool(
        "tar",
        compress.iter().copied().chain([
            "--owner=1234",
            "--group=4321",
            "--numeric-owner",
            "--mtime=2020-01-02 03:04:05Z",
            "--sort=name",
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ]),
    )
    .success();
    env
}

fn piped(env: &TestEnv, args: &[&str], stdin: &str) -> Output {
    let child = env
        .rbuild_command(args)
        .stdin(File::open(env.path(stdin)).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    env.finished(child)
}

#[test]
fn an_archive_on_standard_input_keeps_owners_and_ignores_no_file() {
    for compress in [&[][..], &["--gzip"], &["--zstd"]] {
        let env = archived(compress);
        let build = || {
            piped(
                &env,
                &["-o", "type=tar,dest=out.tar", "-"],
                "../context.tar",
            )
            .success()
        };
        build();
        let listing: Vec<String> = list_tar(&env.path("out.tar"))
            .iter()
            .map(|entry| {
                format!(
                    "{} {} {} {:?}",
                    entry.mode, entry.owner, entry.path, entry.link
                )
            })
            .collect();
        assert_eq!(
            listing,
            [
                "drwxr-xr-x 0/0 all None",
                "-rw-r--r-- 1234/4321 all/.dockerignore None",
                "-rw-r--r-- 1234/4321 all/Dockerfile None",
                "-rw-r--r-- 1234/4321 all/ignored None",
                "drwxr-xr-x 1234/4321 all/sub None",
                "-rw-r--r-- 1234/4321 all/sub/f None",
                "hrw-r--r-- 1234/4321 all/sub/link Some(\"link to all/sub/f\")",
                "-rw-r--r-- 1234/4321 one None",
            ]
        );
        let again = build().to_string();
        assert_eq!(again.matches("CACHED").count(), 4, "{again}");
    }
}

#[test]
fn a_file_of_an_archive_is_the_dockerfile() {
    let env = archived(&[]).file("sub/Other", "FROM scratch\nCOPY sub/Other /\n");
    env.tool("tar", ["-cf", "../context.tar", "."]).success();
    let args = ["-f", "sub/Other", "-o", "out", "-"];
    piped(&env, &args, "../context.tar").success();
    assert!(env.path("out/Other").exists());
    piped(&env, &["-f", "sub/None", "-"], "../context.tar")
        .code(2)
        .fails_with(str![[r#"
error: there is no `sub/None` in the archive that is the context
hint: `-f` names a file in it
[exit status: 2]

"#]]);
}

#[test]
fn a_dockerfile_on_standard_input_has_no_context() {
    let env = TestEnv::new()
        .file("Made", "FROM scratch\nCOPY <<EOF /f\nhere\nEOF\n")
        .file("Copied", "FROM scratch\nCOPY f /\n");
    piped(&env, &["-o", "out", "-"], "Made").success();
    assert_eq!(fs::read_to_string(env.path("out/f")).unwrap(), "here\n");
    piped(&env, &["-"], "Copied").code(2).fails_with(str![[r#"
error: there is no build context to take files from
 --> -:2:1
  |
2 | COPY f /
  | ^^^^^^^^
  |
hint: a directory: `rbuild -f - DIRECTORY`; or pipe in a tar that holds the Dockerfile
[exit status: 2]

"#]]);
    piped(&env, &["-f", "Made", "-"], "Copied")
        .code(2)
        .fails_with(str![[r#"
error: there is no `Made` in what comes on standard input: it is no archive
hint: pipe in a tar, or leave `-f` out for a Dockerfile without a context
[exit status: 2]

"#]]);
    piped(&env, &["-f", "-", "-o", "out", "."], "Made").success();
}

#[test]
fn an_archive_that_is_cut_short_is_refused() {
    let env = archived(&["--gzip"]);
    let whole = fs::read(env.path("../context.tar")).unwrap();
    fs::write(env.path("../cut"), &whole[..whole.len() / 2]).unwrap();
    let output = piped(&env, &["-"], "../cut").code(2);
    let text = output.to_string();
    assert!(
        text.contains("error: cannot read the archive that is the context"),
        "{text}"
    );
    piped(&env, &["-"], "../context.tar").success();
}

#[test]
fn the_last_of_equal_names_in_an_archive_counts() {
    let env = TestEnv::new().file("f", "first\n");
    env.tool("tar", ["-cf", "x.tar", "f"]).success();
    env.write("f", "second, and longer\n");
    env.tool("tar", ["-rf", "x.tar", "f"]).success();
    env.write("Dockerfile", "FROM scratch\nADD x.tar /\n");
    env.rbuild(["-o", "out", "."]).success();
    let text = fs::read_to_string(env.path("out/f")).unwrap();
    assert_eq!(text, "second, and longer\n");
}

#[test]
fn an_image_layout_is_a_base() {
    let env = TestEnv::new().file(
        "Dockerfile",
        "FROM base\nCOPY --from=base /bin/busybox /copied\nRUN test -x /copied\n",
    );
    let layout = env.outside("layout").display().to_string();
    Base::Busybox.copy_to(&format!("oci:{layout}:some"));
    let index = fs::read_to_string(env.outside("layout").join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    for reference in [":some".to_owned(), format!("@{digest}"), String::new()] {
        let context = format!("base=oci-layout://{layout}{reference}");
        env.rbuild(["--build-context", &context, "."]).success();
    }
    let none = format!("base=oci-layout://{layout}:none");
    let output = env.rbuild(["--build-context", &none, "."]).code(3);
    output
        .says("has no image `none`, but: `some`")
        .says(" --> Dockerfile:1:");
}

#[test]
fn named_contexts_that_are_none() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY --from=x / /\n")
        .file("file", "");
    for (context, message) in [
        ("x=gone", "`gone` is not a directory"),
        ("x=file", "`file` is not a directory"),
        (
            "x=docker-image://No Name",
            "`No Name` is not an image reference",
        ),
        ("x=oci-layout://gone", "`gone` is not an OCI image layout"),
        ("x=https://h/r.git?depth=1", "unexpected query `depth`"),
        ("x", "wanted `name=source`"),
        ("=.", "the repository is missing"),
    ] {
        let output = env.rbuild(["--build-context", context, "."]);
        assert!(!output.status.success(), "{context}");
        output.says(message);
    }
}

const PLAN: &str = r#"
schema = 1
include = ["../lib/rbuild.toml"]
[inputs]
src = { local = "src", exclude = ["*.o"] }
[step.app]
from = "scratch"
copy = [{ from = "src", to = "/app/" }, { from = "lib.conf", path = "/", to = "/etc/" }]
[output.files]
step = "app"
local = { path = "/app", to = "dist/" }
[output.image]
step = "app"
tags = ["app"]
"#;

/// A plan in a directory of a project, which uses one beside it.
fn project() -> TestEnv {
    let env = TestEnv::new()
        .file("app/rbuild.toml", PLAN)
        .file("app/src/f", "file\n")
        .file("app/src/f.o", "object\n")
        .file(
            "lib/rbuild.toml",
            "schema = 1\n[inputs]\nfiles = { local = \"conf\" }\n[step.conf]\nfrom = \"scratch\"\n\
             copy = [{ from = \"files\", to = \"/\" }]\n",
        )
        .file("lib/conf/c", "conf\n");
    archive(&env);
    env
}

fn archive(env: &TestEnv) {
    env.tool("tar", ["-cf", "../context.tar", "."]).success();
}

/// Runs rbuild in an empty directory, with the archive on its standard input.
fn from_archive(elsewhere: &TestEnv, archive: &TestEnv, args: &[&str]) -> Output {
    let child = elsewhere
        .rbuild_command(args)
        .stdin(File::open(archive.path("../context.tar")).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    elsewhere.finished(child)
}

#[test]
fn a_plan_in_an_archive_is_built_as_its_directory() {
    let env = project();
    let args = |context| ["build", "-q", "-f", "app/rbuild.toml", context, "image"];
    let id = env.rbuild(args(".")).success().stdout;
    let elsewhere = TestEnv::new();
    let built = from_archive(&elsewhere, &env, &args("-")).success();
    assert_eq!(built.stdout, id);
    let all = ["build", "--progress=plain", "-f", "app/rbuild.toml", "-"];
    let again = from_archive(&elsewhere, &env, &all).success();
    assert_eq!(again.ran(), ["load from client"; 2], "{again}");
    assert_eq!(
        fs::read_to_string(elsewhere.path("dist/f")).unwrap(),
        "file\n",
        "outputs go below the working directory"
    );
    assert!(!elsewhere.path("dist/f.o").exists());
    assert_eq!(
        fs::read_dir(elsewhere.store().join("v1/tmp"))
            .unwrap()
            .count(),
        0,
        "what was unpacked is gone"
    );
}

#[test]
fn a_plan_from_elsewhere_keeps_to_itself() {
    let env = project();
    let elsewhere = TestEnv::new().file("secret/f", "secret\n");
    let try_with = |from: &str, to: &str| {
        env.write("app/rbuild.toml", PLAN.replace(from, to));
        archive(&env);
        let args = ["build", "-f", "app/rbuild.toml", "-"];
        from_archive(&elsewhere, &env, &args).code(2)
    };
    let home = elsewhere.path("secret");
    symlink(&home, env.path("app/link")).unwrap();
    try_with("local = \"src\"", "local = \"link\"").says(
        "the directory `app/link` cannot be used: it is outside of the context that the plan came with",
    );
    symlink(home.join("f"), env.path("app/x.toml")).unwrap();
    try_with("../lib/rbuild.toml", "x.toml").says("it is outside of the context");
    for path in ["/tmp/dist/", "../dist/"] {
        try_with("to = \"dist/\"", &format!("to = \"{path}\""))
            .says(&format!(
                "`{path}` is not below the working directory, and a plan from elsewhere writes nowhere else"
            ))
            .says(" --> app/rbuild.toml:");
    }
    try_with("tags = [\"app\"]", "tags = [\"app\"]\npush = true")
        .says("the plan comes from elsewhere, and wants `image` pushed");
    // A plan that is alone has no directory to name.
    env.write("../context.tar", PLAN);
    from_archive(&elsewhere, &env, &["build", "-"]).code(2);
}
