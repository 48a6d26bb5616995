//! Projects with a `package.json`.

use serde_json::Value;

use super::Project;
use super::quoted;
use super::version;

/// A package manager.
struct Manager {
    name: &'static str,
    /// Its lock file, if there is one.
    lock: Option<&'static str>,
    install: &'static [&'static str],
    cache: &'static str,
}

const NPM: Manager = Manager {
    name: "npm",
    lock: Some("package-lock.json"),
    install: &["npm ci"],
    cache: "/root/.npm",
};

const NPM_WITHOUT_LOCK: Manager = Manager {
    lock: None,
    install: &["npm install"],
    ..NPM
};

const YARN: Manager = Manager {
    name: "yarn",
    lock: Some("yarn.lock"),
    install: &["corepack enable", "yarn install --frozen-lockfile"],
    cache: "/usr/local/share/.cache/yarn",
};

/// Yarn from version 2 on, whose lock files say so.
const BERRY: Manager = Manager {
    install: &["corepack enable", "yarn install --immutable"],
    cache: "/root/.yarn/berry/cache",
    ..YARN
};

const PNPM: Manager = Manager {
    name: "pnpm",
    lock: Some("pnpm-lock.yaml"),
    install: &[
        "corepack enable",
        "pnpm install --frozen-lockfile --store-dir=/root/.pnpm-store",
    ],
    cache: "/root/.pnpm-store",
};

/// What `npm init` writes where there is no test.
const NO_TEST: &str = "no test specified";

pub(super) fn plan(project: &Project) -> String {
    let manifest: Value = serde_json::from_str(project.text("package.json")).unwrap_or_default();
    let script = |name: &str| manifest["scripts"][name].as_str();
    let image = project.image(manifest["name"].as_str());
    let node = manifest["engines"]["node"].as_str();
    let node = node.and_then(|node| version(node, 1));
    let node = node.unwrap_or_else(|| "22".to_owned());
    let manager = manager(project);
    let name = manager.name;
    let manifests: Vec<String> = std::iter::once("package.json")
        .chain(manager.lock)
        .map(quoted)
        .collect();
    let manifests = manifests.join(", ");
    let install: Vec<String> = manager.install.iter().map(|line| quoted(line)).collect();
    let (install, cache) = (install.join(", "), manager.cache);
    let build = match script("build") {
        Some(_) => format!("run = [\"{name} run build\"]\n"),
        None => String::new(),
    };
    let main = manifest["main"].as_str().unwrap_or("index.js");
    let test = match script("test") {
        Some(test) if !test.contains(NO_TEST) => format!("{name} test"),
        _ => format!("node --check {main}"),
    };
    let test = quoted(&test);
    let command = match script("start") {
        Some(_) => format!("\"{name}\", \"start\""),
        None => format!("\"node\", {}", quoted(main)),
    };
    format!(
        r#"[args]
node = {{ default = "{node}", help = "the version of Node.js" }}

[inputs]
node = {{ image = "docker.io/library/node:{{args.node}}-slim" }}
manifest = {{ local = ".", include = [{manifests}] }}
src = {{ local = ".", exclude = [".git", "node_modules", "rbuild.toml"] }}

[caches.{name}]
path = "{cache}"

[step.deps]
from = "node"
workdir = "/app"
copy = [{{ from = "manifest", to = "./" }}]
run = [{install}]
network = true
caches = ["{name}"]

[step.app]
from = "deps"
copy = [{{ from = "src", to = "./" }}]
{build}
[test.unit]
from = "app"
run = [{test}]

[output.image]
step = "app"
tags = ["{image}"]
require = ["test.unit"]
image = {{ cmd = [{command}], env = {{ NODE_ENV = "production" }}, user = "node" }}
"#
    )
}

fn manager(project: &Project) -> Manager {
    if project.has("package-lock.json") {
        NPM
    } else if project.has("pnpm-lock.yaml") {
        PNPM
    } else if project.text("yarn.lock").contains("__metadata:") {
        BERRY
    } else if project.has("yarn.lock") {
        YARN
    } else {
        NPM_WITHOUT_LOCK
    }
}
