//! Projects with a `pyproject.toml`, a `requirements.txt` or a `uv.lock`.

use toml::Value;

use super::Project;
use super::at;
use super::quoted;
use super::version;

/// How dependencies are installed.
struct Installing {
    /// More inputs.
    inputs: &'static str,
    manifests: &'static str,
    cache: &'static str,
    /// More of the step that installs.
    copy: &'static str,
    run: &'static str,
    /// More variables.
    env: &'static str,
    /// The step of the application, after its files.
    finish: &'static str,
    pytest: &'static str,
}

const UV: Installing = Installing {
    inputs: "uv = { image = \"ghcr.io/astral-sh/uv:latest\" }\n",
    manifests: "\"pyproject.toml\", \"uv.lock\"",
    cache: "[caches.uv]\npath = \"/root/.cache/uv\"\n",
    copy: "{ from = \"uv\", path = \"/uv\", to = \"/usr/local/bin/\" }, ",
    run: "\"uv sync --locked --no-dev --no-install-project\"",
    env: ", UV_LINK_MODE = \"copy\", UV_PROJECT_ENVIRONMENT = \"/opt/venv\", VIRTUAL_ENV = \"/opt/venv\"",
    finish: "run = [\"uv sync --locked --no-dev\"]\nnetwork = true\ncaches = [\"uv\"]\n",
    pytest: "\"uv pip install pytest\"",
};

const PIP: Installing = Installing {
    inputs: "",
    manifests: "\"requirements.txt\"",
    cache: "[caches.pip]\npath = \"/root/.cache/pip\"\n",
    copy: "",
    run: "\"python -m venv /opt/venv\", \"pip install -r requirements.txt\"",
    env: "",
    finish: "",
    pytest: "\"pip install pytest\"",
};

const PACKAGE: Installing = Installing {
    manifests: "\"pyproject.toml\"",
    run: "\"python -m venv /opt/venv\"",
    finish: "run = [\"pip install .\"]\nnetwork = true\ncaches = [\"pip\"]\n",
    ..PIP
};

pub(super) fn plan(project: &Project) -> String {
    let manifest = project.toml("pyproject.toml");
    let text = |path: &[&str]| at(&manifest, path).and_then(Value::as_str);
    let name = text(&["project", "name"]);
    let image = project.image(name);
    let python = text(&["project", "requires-python"]).and_then(|python| version(python, 2));
    let python = python.unwrap_or_else(|| "3.13".to_owned());
    let (how, cache_name) = match (project.has("uv.lock"), project.has("requirements.txt")) {
        (true, _) => (UV, "uv"),
        (false, true) => (PIP, "pip"),
        (false, false) => (PACKAGE, "pip"),
    };
    let Installing {
        inputs,
        manifests,
        cache,
        copy,
        run,
        env,
        finish,
        pytest,
    } = how;
    let network = match run.contains("install") || run.contains("sync") {
        true => format!("network = true\ncaches = [\"{cache_name}\"]\n"),
        false => String::new(),
    };
    let mut dirs = ["tests", "test"].into_iter();
    let tests = dirs.find(|dir| project.has(&format!("{dir}/")));
    let test = match tests {
        Some(dir) => format!(
            r#"[step.dev]
from = "app"
run = [{pytest}]
network = true
caches = ["{cache_name}"]

[test.unit]
from = "dev"
run = ["python -m pytest {dir} --junitxml=/out/junit.xml"]
export = [{{ path = "/out/junit.xml", to = "reports/" }}]
"#
        ),
        None => "[test.unit]\nfrom = \"app\"\nrun = [\"python -m compileall -q .\"]\n".to_owned(),
    };
    let command = command(project, name, &manifest);
    format!(
        r#"[args]
python = {{ default = "{python}", help = "the version of Python" }}

[inputs]
python = {{ image = "docker.io/library/python:{{args.python}}-slim" }}
{inputs}manifest = {{ local = ".", include = [{manifests}] }}
src = {{ local = ".", exclude = [".git", ".venv", "**/__pycache__", "reports", "rbuild.toml"] }}

{cache}
[step.deps]
from = "python"
env = {{ PATH = "/opt/venv/bin:{{env.PATH}}"{env} }}
workdir = "/app"
copy = [{copy}{{ from = "manifest", to = "./" }}]
run = [{run}]
{network}
[step.app]
from = "deps"
copy = [{{ from = "src", to = "./" }}]
{finish}
{test}
[output.image]
step = "app"
tags = ["{image}"]
require = ["test.unit"]
image = {{ cmd = [{command}], user = "nobody" }}
"#
    )
}

/// A script of the package, a program in the directory, or the package itself.
fn command(project: &Project, name: Option<&str>, manifest: &toml::Table) -> String {
    let scripts = at(manifest, &["project", "scripts"]).and_then(Value::as_table);
    if let Some(script) = scripts.and_then(|scripts| scripts.keys().next()) {
        return quoted(script);
    }
    let mut programs = ["main.py", "app.py"].into_iter();
    match (programs.find(|file| project.has(file)), name) {
        (Some(program), _) => format!("\"python\", \"{program}\""),
        (None, Some(name)) => format!("\"python\", \"-m\", {}", quoted(&name.replace('-', "_"))),
        (None, None) => "\"python\"".to_owned(),
    }
}
