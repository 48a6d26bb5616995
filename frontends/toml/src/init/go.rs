//! Projects with a `go.mod`.

use super::Project;
use super::quoted;
use super::version;

pub(super) fn plan(project: &Project) -> String {
    let directive = |word: &str| {
        let mut lines = project.text("go.mod").lines();
        lines.find_map(|line| Some(line.strip_prefix(word)?.strip_prefix(' ')?.trim()))
    };
    // The last part of a module's path may be its major version.
    let module = directive("module").map(|path| {
        let path = path.trim_matches('"');
        match path.rsplit_once('/') {
            Some((path, last)) if is_major(last) => path,
            _ => path,
        }
    });
    let name = project.image(module);
    let go = directive("go").and_then(|go| version(go, 2));
    let go = go.unwrap_or_else(|| "1".to_owned());
    let commands = match project.has("cmd/") && !project.has("main.go") {
        true => format!("./cmd/{name}"),
        false => ".".to_owned(),
    };
    let build = quoted(&format!("go build -trimpath -o /out/{name} {commands}"));
    let manifests: &str = match project.has("go.sum") {
        true => r#"["go.mod", "go.sum"]"#,
        false => r#"["go.mod"]"#,
    };
    format!(
        r#"[args]
go = {{ default = "{go}", help = "the version of Go" }}

[inputs]
go = {{ image = "docker.io/library/golang:{{args.go}}" }}
modules = {{ local = ".", include = {manifests} }}
src = {{ local = ".", exclude = [".git", "dist", "rbuild.toml"] }}

[caches.build]
path = "/root/.cache/go-build"

[step.deps]
from = "go"
workdir = "/src"
env = {{ CGO_ENABLED = "0" }}
copy = [{{ from = "modules", to = "./" }}]
run = ["go mod download"]
network = true

[step.sources]
from = "deps"
copy = [{{ from = "src", to = "./" }}]

[step.build]
from = "sources"
run = [{build}]
caches = ["build"]

[test.unit]
from = "sources"
run = ["go vet ./...", "go test ./..."]
caches = ["build"]

[step.app]
from = "scratch"
copy = [
  {{ from = "go", path = "/etc/ssl/certs/ca-certificates.crt", to = "/etc/ssl/certs/" }},
  {{ from = "build", path = "/out/{name}", to = "/" }},
]

[output.image]
step = "app"
tags = ["{name}"]
require = ["test.unit"]
image = {{ entrypoint = ["/{name}"], user = "65534" }}

[output.binary]
step = "build"
local = {{ path = "/out/{name}", to = "dist/" }}
"#
    )
}

fn is_major(part: &str) -> bool {
    part.strip_prefix('v')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}
