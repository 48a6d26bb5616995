//! As much of a runner of GitHub Actions as a workflow with an image needs: expressions, steps, the files an action writes,
//! and the commands that it finds in an action's output.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::Output;
use crate::support::TestEnv;
use crate::support::tools;
use crate::support::yaml;

/// The action of this repository.
pub(super) fn action() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("action.yml");
    yaml::read(&fs::read_to_string(path).unwrap())
}

/// A job on a machine: a workspace, a home, and what expressions know.
pub(super) struct Runner<'e> {
    pub(super) env: &'e TestEnv,
    /// `secrets.TOKEN`, `github.sha`, `steps.build.outputs.digest`…
    known: BTreeMap<String, String>,
    /// Variables of the job.
    variables: BTreeMap<String, String>,
    /// A directory with rbuild, or none.
    path: Option<PathBuf>,
    /// Programs of the machine that go before others.
    tools: Option<PathBuf>,
    /// What is seen in the place of `/proc/sys/kernel`.
    kernel: Option<PathBuf>,
    /// Where the action is checked out.
    action: PathBuf,
}

/// What became of a step that is an action.
pub(super) struct Ran {
    pub(super) output: Output,
    pub(super) outputs: BTreeMap<String, String>,
    pub(super) summary: String,
    /// What the runner was told, but for masks.
    pub(super) commands: Vec<String>,
    pub(super) masks: Vec<String>,
}

impl<'e> Runner<'e> {
    pub(super) fn new(env: &'e TestEnv) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_rbuild"));
        let runner = Self {
            env,
            known: BTreeMap::new(),
            variables: BTreeMap::new(),
            path: program.parent().map(Path::to_owned),
            tools: None,
            kernel: None,
            action: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        };
        runner
            .knows("github.token", "ghs_0123456789abcdef")
            .sets("GITHUB_ACTIONS", "true")
            .sets("RUNNER_ENVIRONMENT", "self-hosted")
    }

    pub(super) fn knows(mut self, name: &str, value: &str) -> Self {
        self.learn(name, value);
        self
    }

    pub(super) fn learn(&mut self, name: &str, value: &str) {
        self.known.insert(name.to_owned(), value.to_owned());
    }

    pub(super) fn sets(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The action is another check-out, and no rbuild is in PATH.
    pub(super) fn with_action(mut self, dir: &Path) -> Self {
        self.action = dir.to_owned();
        self.path = None;
        self
    }

    /// A machine with these programs and this `/proc/sys/kernel`.
    pub(super) fn on(mut self, tools: &Path, kernel: &Path) -> Self {
        self.tools = Some(tools.to_owned());
        self.kernel = Some(kernel.to_owned());
        self
    }

    /// Text with its `${{ … }}`.
    pub(super) fn evaluate(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, inner)) = rest.split_once("${{") {
            let (name, after) = inner.split_once("}}").unwrap();
            let value = self.known.get(name.trim());
            filled += before;
            filled += value.unwrap_or_else(|| panic!("nothing is known of `{name}`"));
            rest = after;
        }
        filled + rest
    }

    /// Runs the steps of a job one after another; what became of the last that was rbuild's.
    pub(super) fn job(&mut self, job: &Value) -> Ran {
        let mut ran = None;
        for step in job["steps"].as_array().unwrap() {
            let Some(uses) = step["uses"].as_str() else {
                self.script(step["run"].as_str().unwrap());
                continue;
            };
            let (name, _) = uses.split_once('@').unwrap();
            match name {
                "rbuild/rbuild" => ran = Some(self.rbuild(step)),
                "docker/login-action" => self.login(&step["with"]),
                // The context is there, and rbuild wants no builder.
                "actions/checkout" | "docker/setup-buildx-action" | "docker/setup-qemu-action" => {}
                other => panic!("nothing is known of the action `{other}`"),
            }
        }
        ran.expect("a step is rbuild's")
    }

    fn script(&self, script: &str) {
        let mut shell = self.env.tool_command("sh");
        shell.args(["-euc", &self.evaluate(script)]);
        self.env.run(&mut shell).success();
    }

    /// As `docker login`, which skopeo's does in the same file.
    fn login(&self, with: &Value) {
        let value = |name: &str| self.evaluate(with[name].as_str().unwrap());
        let file = self.env.outside("home/.docker/config.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let args = [
            "login",
            "--tls-verify=false",
            &format!("--authfile={}", file.display()),
            &format!("--username={}", value("username")),
            &format!("--password={}", value("password")),
            &value("registry"),
        ];
        self.env.tool("skopeo", args).success();
    }

    /// The step `uses: rbuild/rbuild`, as `action.yml` says it is run.
    pub(super) fn rbuild(&mut self, step: &Value) -> Ran {
        let action = action();
        let inputs = action["inputs"].as_object().unwrap();
        let with = step["with"].as_object().cloned().unwrap_or_default();
        for name in with.keys() {
            assert!(
                inputs.contains_key(name),
                "the action has no input `{name}`"
            );
        }
        let dir = tempfile::tempdir_in(self.env.outside("tmp")).unwrap();
        let dir = dir.path();
        let runs = &action["runs"];
        assert_eq!(runs["using"], "node24");
        let main = self.action.join(runs["main"].as_str().unwrap());
        let mut node = match &self.kernel {
            None => self.env.tool_command("node"),
            Some(kernel) => {
                let mut inside = self.env.tool_command("unshare");
                inside
                    .args([
                        "--user",
                        "--map-current-user",
                        "--keep-caps",
                        "--mount",
                        "sh",
                        "-euc",
                    ])
                    .arg("mount --bind \"$0\" /proc/sys/kernel; exec \"$@\"")
                    .args([kernel, &tools::find("node")]);
                inside
            }
        };
        node.arg(main);
        for (name, input) in inputs {
            let given = with.get(name).or(input.get("default"));
            let value = self.evaluate(given.and_then(Value::as_str).unwrap_or_default());
            // All inputs of an action are set, empty where nothing is said.
            node.env(
                format!("INPUT_{}", name.replace(' ', "_").to_uppercase()),
                value,
            );
        }
        let files = ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH"];
        for name in files {
            fs::write(dir.join(name), "").unwrap();
            node.env(name, dir.join(name));
        }
        let path = self.tools.iter().chain(&self.path);
        let path = path.map(|dir| dir.display().to_string());
        let path: Vec<String> = path.chain([tools::PATH.to_owned()]).collect();
        node.env("PATH", path.join(":"))
            .env("RUNNER_TEMP", self.env.outside("tmp"))
            .env("RUNNER_TOOL_CACHE", self.env.outside("tools"))
            .env("GITHUB_WORKSPACE", self.env.path(""))
            .envs(&self.variables);
        for (name, value) in step["env"].as_object().into_iter().flatten() {
            node.env(name, self.evaluate(value.as_str().unwrap()));
        }
        let output = self.env.run(&mut node);
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let outputs = file_commands(&read("GITHUB_OUTPUT"));
        for name in outputs.keys() {
            assert!(action["outputs"].get(name).is_some(), "no output `{name}`");
        }
        if let Some(id) = step["id"].as_str() {
            for (name, value) in &outputs {
                self.known
                    .insert(format!("steps.{id}.outputs.{name}"), value.clone());
            }
        }
        // What is put into PATH is there for the steps after this one.
        if let Some(added) = read("GITHUB_PATH").lines().last() {
            self.path = Some(PathBuf::from(added));
        }
        let taken = commands(&output.stderr).into_iter();
        let (masks, commands) = taken.partition(|line| line.starts_with("::add-mask::"));
        assert!(commands_of(&output.stdout).is_empty(), "{output}");
        Ran {
            output,
            outputs,
            summary: read("GITHUB_STEP_SUMMARY"),
            commands,
            masks,
        }
    }
}

/// `name<<MARK`, lines, `MARK` (actions/runner, `FileCommandManager`).
fn file_commands(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let (name, mark) = line
            .split_once("<<")
            .unwrap_or_else(|| panic!("`{line}` sets nothing: {text}"));
        let value: Vec<&str> = lines.by_ref().take_while(|line| *line != mark).collect();
        found.insert(name.to_owned(), value.join("\n"));
    }
    found
}

/// All that a runner would take for a command, if it were not told to stop.
fn commands_of(text: &str) -> Vec<&str> {
    let begins = |line: &&str| line.starts_with("::") || line.contains("##[");
    text.lines().map(str::trim).filter(begins).collect()
}

/// What a runner does with the lines of an action: `::stop-commands::MARK` is in force until `::MARK::`.
fn commands(text: &str) -> Vec<String> {
    let mut stopped: Option<String> = None;
    let mut taken = Vec::new();
    for line in commands_of(text) {
        match &stopped {
            Some(mark) if line == format!("::{mark}::") => stopped = None,
            Some(_) => {}
            None => match line.strip_prefix("::stop-commands::") {
                Some(mark) => stopped = Some(mark.to_owned()),
                None => taken.push(line.to_owned()),
            },
        }
    }
    assert_eq!(
        stopped, None,
        "commands are taken again at the end:\n{text}"
    );
    taken
}
