//! Plans, built here and by a builder: the same config, history and files.
//!
//! Debian's dockerd makes no archives and has no network, so what it is given copies only, and not into directories that a
//! copy with a mode makes: there BuildKit's have that mode since, and its have 755. With a buildkitd
//! (`$BUILDKITD`) it is the projects of `testdata/plan`, which run package managers and compilers: files in which two builds here
//! differ are their own affair.

use std::collections::BTreeSet;

use super::address;
use super::files;
use crate::dockerfile::image::Reader;
use crate::dockerfile::image::Times;
use crate::support::Base;
use crate::support::Buildkitd;
use crate::support::Dockerd;
use crate::support::Registry;
use crate::support::TestEnv;

const PLAN: &str = r#"
schema = 1
[inputs]
src = { local = "src", modes = "exact" }
[step.made]
from = "scratch"
workdir = "/srv"
copy = [{ from = "src", path = "tree", to = "made/" }, { text = "for {platform}\n", to = "/srv/motd", mode = "750" }]
[step.app]
from = "scratch"
copy = [{ from = "made", path = "/srv/made", to = "/app/" }, { from = "src", path = "one", to = "/", owner = "5:6" }]
[output.app]
step = "app"
[output.made]
step = "made"
"#;

#[test]
fn a_builder_makes_of_a_plan_what_is_made_here() {
    let env = TestEnv::new()
        .file("rbuild.toml", PLAN)
        .file("src/one", "1")
        .file("src/tree/deep/file", "deep")
        .symlink("src/tree/link", "deep/file");
    if let Some(builder) = Buildkitd::wanted(&env) {
        return compare(&builder);
    }
    let _docker = Dockerd::start(&env);
    let builder = address(&env);
    for output in ["app", "made"] {
        let to = |place: &str| format!("../{place}/{output}");
        env.rbuild(["build", output, "-o", &to("here")]).success();
        let there = ["build", output, "--builder", &builder, "-o", &to("there")];
        env.rbuild(there).success();
        assert_eq!(
            files(&env, &to("there")).success().stdout,
            files(&env, &to("here")).success().stdout
        );
    }
}

/// A project with its base, arguments that name that, and its outputs.
type Project = (
    &'static str,
    Option<Base>,
    &'static [&'static str],
    &'static [&'static str],
);

const PROJECTS: [Project; 5] = [
    (
        "dockerfiles",
        Some(Base::Busybox),
        &["base=busybox"],
        &["app", "site"],
    ),
    (
        "monorepo",
        Some(Base::Python),
        &["common.base=python"],
        &["api.image", "worker.image"],
    ),
    ("c-make", Some(Base::Debian), &["base=debian"], &["keys"]),
    (
        "matrix",
        None,
        &["base=node"],
        &["app-20", "app-22", "next"],
    ),
    (
        "multi-platform",
        Some(Base::Busybox),
        &["base=busybox", "version=1.2"],
        &["app"],
    ),
];

fn compare(builder: &Buildkitd) {
    let registry = Registry::shared().host();
    for version in ["20", "22", "24"] {
        Base::Node.copy_to(&format!("docker://{registry}/library/node:{version}-slim"));
    }
    let reader = Reader::default();
    let times = Times {
        files: false,
        config: false,
    };
    let address = builder.address();
    let mut compared = 0;
    for (name, base, args, outputs) in PROJECTS {
        let env = TestEnv::new().testdata(&format!("plan/{name}"));
        let env = match base {
            Some(base) => env.bases([base]),
            None => env.bases([]),
        };
        for output in outputs {
            let build = |to: &str, more: &[&str]| {
                let dest = format!("type=oci,dest=../{to}.tar");
                let args = args.iter().flat_map(|arg| ["--build-arg", arg]);
                let fixed = ["build", ".", output, "-o", &dest, "--platform=linux/amd64"];
                let all = fixed.into_iter().chain(args).chain(more.iter().copied());
                env.rbuild(all).success();
                let text = reader.describe(&env.outside(&format!("{to}.tar")), &times);
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            };
            let here = build("here", &[]);
            let again = build("again", &["--no-cache"]);
            let there = build("there", &["--builder", &address]);
            let own = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
            let chance: BTreeSet<String> = { here.iter().filter(|line| !again.contains(line)) }
                .map(|line| own(line))
                .collect();
            let left = |lines: &[String]| {
                let lines = lines.iter().filter(|line| !chance.contains(&own(line)));
                lines.cloned().collect::<Vec<_>>()
            };
            assert_eq!(left(&there), left(&here), "{name} {output}");
            compared += left(&here).len();
        }
    }
    assert!(compared > 100, "{compared}");
}
