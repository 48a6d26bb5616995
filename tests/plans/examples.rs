//! The projects of `testdata/plan`, built and used.
//!
//! Three of them are built in every run; `PLAN_EXAMPLES=all` builds the others as well, a part of a name those that have
//! it. Bases are images of the loopback registry, which the arguments of the plans name.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use crate::platforms::multi_platform_base;
use crate::support::Base;
use crate::support::Image;
use crate::support::Output;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::tools;

/// What steps trust that speak to npm, PyPI and crates.io.
const CA: &str = "--ca=/etc/ssl/certs/ca-certificates.crt";

/// A project, and what builds it and looks at the result.
type Example = (&'static str, fn(&str));

const ALWAYS: [Example; 3] = [
    ("dockerfiles", dockerfiles),
    ("python-web", python_web),
    ("workshop", workshop),
];

const OTHERS: [Example; 8] = [
    ("c-make", c_make),
    ("matrix", matrix),
    ("monorepo", monorepo),
    ("multi-platform", multi_platform),
    ("node-api", node_api),
    ("private-registry", private_registry),
    ("rust-cli", rust_cli),
    ("static-site", static_site),
];

#[test]
fn examples_build() {
    let wanted = tools::variable("PLAN_EXAMPLES");
    let wanted = wanted.as_ref().map(|wanted| wanted.to_str().unwrap());
    let mut examples = ALWAYS.to_vec();
    match wanted {
        None => {}
        Some("all") => examples.extend(OTHERS),
        Some(part) => {
            examples.extend(OTHERS);
            examples.retain(|(name, _)| name.contains(part));
            assert!(!examples.is_empty(), "no example has `{part}` in its name");
        }
    }
    for (name, check) in examples {
        check(name);
    }
}

#[test]
fn every_example_is_one_of_them() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "errors")
        .collect();
    names.sort();
    let mut known: Vec<&str> = ALWAYS
        .iter()
        .chain(&OTHERS)
        .map(|(name, _)| *name)
        .collect();
    known.sort_unstable();
    assert_eq!(names, known);
}

/// A copy of an example, and the build that its users would start there.
fn example<const N: usize>(name: &str, bases: [Base; N]) -> TestEnv {
    TestEnv::new()
        .bases(bases)
        .testdata(&format!("plan/{name}"))
}

/// Builds with arguments of the plan.
fn build(env: &TestEnv, args: &[&str]) -> Output {
    let args = args.iter().flat_map(|arg| ["--build-arg", arg]);
    env.rbuild(["build", CA, "--progress=plain"].into_iter().chain(args))
}

fn read(env: &TestEnv, path: &str) -> String {
    fs::read_to_string(env.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The steps that were carried out, without the reading of directories, which always is.
fn ran(output: &Output) -> Vec<String> {
    let mut ran = output.ran();
    ran.retain(|step| step != "load from client");
    ran
}

/// The config of an image in the store, as skopeo reads it.
fn config(env: &TestEnv, output: &str, args: &[&str]) -> Value {
    let args = args.iter().flat_map(|arg| ["--build-arg", arg]);
    let archive = [
        "build",
        output,
        "--offline",
        "-otype=oci,dest=inspected.tar",
    ];
    env.rbuild(archive.into_iter().chain(args)).success();
    let inspect = ["inspect", "--config", "oci-archive:inspected.tar"];
    let config = env.tool("skopeo", inspect).success();
    let config: Value = serde_json::from_str(&config.stdout).unwrap();
    config["config"].clone()
}

fn python_web(name: &str) {
    let env = example(name, [Base::Python]);
    let args = ["base=python"];
    build(&env, &args).success();
    assert!(read(&env, "reports/junit.xml").contains("failures=\"0\""));
    let installed = read(&env, "dist/installed.txt");
    assert!(installed.contains("Flask==3.1.1\n"), "{installed}");
    // Of the image, though it was asked for while tests ran.
    assert!(!installed.contains("pytest"), "{installed}");
    let ask = "from app import app; print(app.test_client().get('/hello/you').get_json())";
    let answer = env
        .rbuild(["run", "python-web", "python3", "-c", ask])
        .success();
    assert_eq!(answer.stdout, "{'message': 'Hello, you!'}\n");
    let config = config(&env, "web", &args);
    assert_eq!(config["User"], "1000:1000");
    assert_eq!(config["WorkingDir"], "/srv");
    assert_eq!(config["ExposedPorts"], json!({"5000/tcp": {}}));

    assert_eq!(ran(&build(&env, &args).success()), [""; 0]);
    // A test that fails: its report, and no image.
    env.rbuild(["rmi", "python-web"]).success();
    env.write("tests/test_app.py", "def test_app():\n    assert 1 == 2\n");
    let failed = build(&env, &args).code(1).says("`test.unit`");
    assert_eq!(
        ran(&failed),
        ["RUN python -m pytest -q -p no:cacheprovider /tests --junitxml=/out/junit.xml"]
    );
    assert!(read(&env, "reports/junit.xml").contains("failures=\"1\""));
    let images = env.rbuild(["images"]).success().stdout;
    assert!(!images.contains("python-web"), "{images}");
}

fn node_api(name: &str) {
    let env = example(name, [Base::Node]);
    let args = ["base=node"];
    build(&env, &args).success();
    // On a loopback interface of its own, with only the packages of the image.
    let ask = r#"
        await import("/srv/src/server.js");
        const answer = await fetch("http://127.0.0.1:8080/words/to%20be%20or%20not%20to%20be");
        const { readdirSync } = await import("node:fs");
        console.log(await answer.text(), readdirSync("/srv/node_modules").includes("uvu"));
        process.exit(0);
    "#;
    let run = [
        "run",
        "--network=none",
        "node-api",
        "node",
        "--input-type=module",
        "-e",
        ask,
    ];
    let answer = env.rbuild(run).success().stdout;
    assert_eq!(
        answer.lines().last(),
        Some("{\"to\":2,\"be\":2,\"or\":1,\"not\":1} false"),
        "{answer}"
    );

    // An edited source: neither `npm ci` is run again.
    env.write("src/words.js", read(&env, "src/words.js") + "\n");
    let ran = ran(&build(&env, &args).success());
    assert_eq!(ran, ["COPY --from=src . src/", "RUN npm test"]);
}

fn workshop(name: &str) {
    let env = example(name, [Base::Node]);
    let args = ["base=node"];
    // A test that fails: nothing is written.
    let store = read(&env, "src/store.js");
    env.write("src/store.js", store.replace("push", "unshift"));
    build(&env, &args)
        .code(1)
        .says("`test.unit`")
        .says("`files`, `todo` were not written");
    assert!(!env.path("dist").exists());
    assert_eq!(env.rbuild(["images", "-q"]).success().stdout, "");

    env.write("src/store.js", store);
    env.rbuild(["build", "--locked", "--build-arg=base=node"])
        .code(2)
        .says("rbuild.lock");
    env.rbuild(["lock", "--build-arg=base=node"]).success();
    let locked = ["build", CA, "--locked", "--build-arg=base=node"];
    let again = env
        .rbuild(locked.into_iter().chain(["--progress=plain"]))
        .success();
    assert_eq!(
        ran(&again),
        ["COPY --from=src . src/", "RUN node --test test/"]
    );
    let mut written: Vec<String> = fs::read_dir(env.path("dist"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    assert_eq!(
        written,
        ["node_modules", "package-lock.json", "package.json", "src"]
    );
    assert_eq!(ran(&build(&env, &args).success()), [""; 0]);

    let ask = r#"
        process.env.PORT = "8080";
        require("/app/src/index.js");
        fetch("http://127.0.0.1:8080/items").then((answer) => answer.text()).then((text) => {
            console.log(text);
            process.exit(0);
        });
    "#;
    let run = ["run", "--network=none", "todo", "node", "-e", ask];
    let answer = env.rbuild(run).success().stdout;
    assert!(
        answer.contains(r#"[{"id":"first","text":"build an image"}]"#),
        "{answer}"
    );
    let config = config(&env, "todo", &args);
    assert_eq!(config["ExposedPorts"], json!({"3000/tcp": {}}));
    assert_eq!(config["Cmd"], json!(["node", "src/index.js"]));
    let set = config["Env"].as_array().unwrap();
    for variable in ["PORT=3000", "NODE_ENV=production"] {
        assert!(set.contains(&variable.into()), "{set:?}");
    }
}

fn dockerfiles(name: &str) {
    let env = example(name, [Base::Busybox]);
    let args = ["base=busybox"];
    build(&env, &args).success();
    let logo = read(&env, "assets/logo.txt");
    let shown = env.rbuild(["run", "show", "logo"]).success();
    assert_eq!(shown.stdout, logo);
    let shown = env
        .rbuild(["run", "show-site", "cat", "/www/logo.txt"])
        .success();
    assert_eq!(shown.stdout, logo);
    // The stage has the same steps when the Dockerfile is built by itself.
    let dockerfile = [
        "build",
        "-f",
        "Dockerfile",
        "--build-arg=BASE=busybox",
        "--progress=plain",
        ".",
    ];
    let cached = env.rbuild(dockerfile).success().cached();
    assert!(cached.contains(&"COPY assets/ ./".to_owned()), "{cached:?}");
    assert!(
        cached.iter().any(|step| step.contains("gzip -n")),
        "{cached:?}"
    );
}

fn c_make(name: &str) {
    let env = example(name, [Base::Debian]);
    build(&env, &["base=debian"]).success();
    let ask = r#"echo '{"b": 1, "a": {}}' | keys"#;
    let answer = env.rbuild(["run", "--entrypoint=sh", "keys", "-c", ask]);
    assert_eq!(answer.success().stdout, "b\na\n");
    let compiler = [
        "run",
        "--entrypoint=sh",
        "keys",
        "-c",
        "command -v gcc; ls /var/lib/apt/lists",
    ];
    assert_eq!(env.rbuild(compiler).stdout, "");
}

fn matrix(name: &str) {
    let env = example(name, []);
    let registry = Registry::shared();
    for version in ["20", "22"] {
        Base::Node.copy_to(&format!(
            "docker://{}/library/node:{version}-slim",
            registry.host()
        ));
    }
    let built = build(&env, &["base=node"]).success();
    // It does not depend on the version.
    let docs = ran(&built);
    let docs = docs.iter().filter(|step| step.contains("*.md"));
    assert_eq!(docs.count(), 1, "{built}");
    for version in ["20", "22"] {
        let report = read(&env, &format!("reports/node-{version}.txt"));
        assert!(report.starts_with("passed on v"), "{report}");
        let config = config(&env, &format!("app-{version}"), &["base=node"]);
        assert_eq!(config["Labels"]["org.example.node"], version);
    }
    let images = env.rbuild(["images"]).success().stdout;
    assert!(
        images.contains("node20") && images.contains("node22"),
        "{images}"
    );
}

fn monorepo(name: &str) {
    let env = example(name, [Base::Python]);
    let args = ["common.base=python"];
    let built = build(&env, &args).success();
    // Both start from one step.
    let shared = built
        .ran()
        .into_iter()
        .filter(|step| step == "COPY --from=lib . lib/");
    assert_eq!(shared.count(), 1, "{built}");
    let worker = env.rbuild(["run", "worker"]).success();
    assert_eq!(
        worker.stdout,
        "{'job': 'index', 'count': 1}\n{'job': 'mail', 'count': 2}\n"
    );
    assert_eq!(
        config(&env, "api.image", &args)["ExposedPorts"],
        json!({"8000/tcp": {}})
    );

    // One service's change is not the other's.
    env.write(
        "worker/run.py",
        read(&env, "worker/run.py").replace("sorted(", "sorted(  "),
    );
    let ran = ran(&build(&env, &args).success());
    assert!(
        !ran.is_empty() && ran.iter().all(|step| step.contains("worker")),
        "{ran:?}"
    );
}

fn multi_platform(name: &str) {
    let registry = Registry::start();
    let env = example(name, []);
    multi_platform_base(&env, &registry, true);
    let base = format!("base={}/base:1", registry.host());
    build(&env, &[&base, "version=1.2"]).success();
    for (arch, base_has) in [("amd64", false), ("arm64", true)] {
        let source = ["--override-os=linux", "--override-arch", arch];
        let single = format!("oci:{arch}");
        let copy = ["copy", "--quiet", "oci-archive:app.tar", &single];
        env.tool("skopeo", source.into_iter().chain(copy)).success();
        let image = Image::from_layout(&env.path(arch));
        let files: Vec<String> = image
            .layer(-2)
            .into_iter()
            .map(|entry| entry.path)
            .collect();
        assert!(
            files.contains(&"usr/local/bin/hello".to_owned()),
            "{files:?}"
        );
        let hello = env.tool(
            "tar",
            [
                "-xOf",
                image.layer_blob(-2).to_str().unwrap(),
                "usr/local/bin/hello",
            ],
        );
        assert_eq!(
            hello.success().stdout,
            format!("#!/bin/sh\necho \"hello from {arch}\"\n")
        );
        assert_eq!(
            image.config["config"]["Labels"]["org.opencontainers.image.version"],
            "1.2"
        );
        let environment = image.config["config"]["Env"].to_string();
        assert_eq!(
            environment.contains("BASE=arm64"),
            base_has,
            "{environment}"
        );
    }
}

fn private_registry(name: &str) {
    let env = example(name, [Base::Node]);
    let args = ["base=node"];
    build(&env, &args).code(2).says("npmrc");
    fs::write(
        env.outside("npmrc"),
        "//registry.example.org/:_authToken=t0ken\n",
    )
    .unwrap();
    let secret = format!("--secret=id=npmrc,src={}", env.outside("npmrc").display());
    env.rbuild(["build", CA, "--build-arg=base=node", &secret])
        .success();
    assert_eq!(env.rbuild(["run", "private"]).success().stdout, "8 1\n");
}

fn rust_cli(name: &str) {
    let env = example(name, [Base::Rust]);
    build(&env, &["base=rust"]).success();
    // In the image there is nothing else, and no input.
    assert_eq!(env.rbuild(["run", "tally"]).success().stdout, "0\n");
    let mut command = Command::new(env.path("dist/tally"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    assert_eq!(env.finished(child).success().stdout, "2\n");
}

fn static_site(name: &str) {
    let env = example(name, [Base::Node, Base::Busybox]);
    let args = ["node=node", "server=busybox"];
    build(&env, &args).success();
    let index = read(&env, "public/index.html");
    assert!(index.contains("<h1>Welcome</h1>"), "{index}");
    assert!(env.path("public/style.css").exists());
    let served = "httpd -p 127.0.0.1:8099 -h /www; wget -qO- http://127.0.0.1:8099/index.html";
    let served = env.rbuild(["run", "--network=none", "site", "sh", "-c", served]);
    assert_eq!(served.success().stdout, index);
    // A link to nowhere.
    env.write("pages/index.md", "[nothing](nothing.html)\n");
    build(&env, &args).code(1).says("`test.links`");
    assert_eq!(read(&env, "public/index.html"), index);
}
