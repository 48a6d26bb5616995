//! Projects with a `Cargo.toml`.

use toml::Value;

use super::Project;
use super::at;
use super::quoted;
use super::version;

pub(super) fn plan(project: &Project) -> String {
    let manifest = project.toml("Cargo.toml");
    let text = |path: &[&str]| at(&manifest, path).and_then(Value::as_str);
    let package = text(&["package", "name"]);
    let image = project.image(package);
    let first = at(&manifest, &["bin"])
        .and_then(Value::as_array)
        .and_then(|bins| bins.first()?.get("name")?.as_str());
    // A workspace without a package of its own: it has programs, but does not say here what they are called.
    let binary = first.or(package).unwrap_or(&image);
    let required = text(&["package", "rust-version"])
        .or_else(|| text(&["workspace", "package", "rust-version"]))
        .and_then(|required| version(required, 3));
    let rust = required.unwrap_or_else(|| "1".to_owned());
    let locked = if project.has("Cargo.lock") {
        " --locked"
    } else {
        ""
    };
    let out = quoted(&format!("/out/{binary}"));
    let program = quoted(binary);
    let install = quoted(&format!("install -D -t /out target/release/{binary}"));
    format!(
        r#"[args]
rust = {{ default = "{rust}", help = "the version of Rust" }}

[inputs]
rust = {{ image = "docker.io/library/rust:{{args.rust}}-slim-bookworm" }}
debian = {{ image = "docker.io/library/debian:bookworm-slim" }}
src = {{ local = ".", exclude = [".git", "target", "rbuild.toml"] }}

[caches.registry]
path = "/usr/local/cargo/registry"

[caches.target]
path = "/src/target"
sharing = "locked"

[step.sources]
from = "rust"
workdir = "/src"
copy = [{{ from = "src", to = "./" }}]

[step.build]
from = "sources"
run = ["cargo build --release{locked}", {install}]
network = true
caches = ["registry", "target"]

[test.unit]
from = "sources"
run = ["cargo test{locked}"]
network = true
caches = ["registry", "target"]

[step.app]
from = "debian"
copy = [{{ from = "build", path = {out}, to = "/usr/local/bin/" }}]

[output.image]
step = "app"
tags = ["{image}"]
require = ["test.unit"]
image = {{ entrypoint = [{program}], user = "nobody" }}

[output.binary]
step = "build"
local = {{ path = {out}, to = "dist/" }}
"#
    )
}
