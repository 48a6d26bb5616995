//! The todo application of docker's workshop, in shape: npm, two stages, and a server that answers.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;

/// A server's process, asked to end when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// The server says `listening on port N` first.
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines
            .next()
            .expect("the server ended without a word")
            .unwrap();
        let port = first
            .strip_prefix("listening on port ")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        Self { child, port }
    }

    /// The body of the answer.
    fn ask(&self, method: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} /items HTTP/1.1\r\nHost: todo\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let json = answer.lines().find(|line| line.starts_with(['[', '{']));
        serde_json::from_str(json.unwrap_or_else(|| panic!("{answer}"))).unwrap()
    }

    fn check(&self) {
        assert_eq!(self.ask("GET", "")[0]["text"], "build an image");
        let added = self.ask("POST", "run it");
        // Made by the dependency that npm installed.
        assert_eq!(added["id"].as_str().map(str::len), Some(21), "{added}");
        assert_eq!(self.ask("GET", "")[1]["text"], "run it");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok(), "{ended:?}");
        }
    }
}

const CA: &str = "--ca=/etc/ssl/certs/ca-certificates.crt";

#[test]
fn todo_application() {
    let env = TestEnv::new().bases([Base::Node]).context("todo");
    env.rbuild([
        CA,
        "-t",
        "todo",
        "-o",
        "type=image",
        "-o",
        "type=oci,dest=todo.tar",
        ".",
    ])
    .success();

    let inspected = env
        .tool("skopeo", ["inspect", "--config", "oci-archive:todo.tar"])
        .success();
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(
        inspected["config"]["Cmd"],
        serde_json::json!(["node", "src/index.js"])
    );
    let environment = inspected["config"]["Env"].to_string();
    assert!(
        !environment.contains("ca-certificates") && !environment.contains("rbuild"),
        "{environment}"
    );

    let run = ["run", "-e", "PORT=0", "todo"];
    Server::start(&mut env.rbuild_command(run)).check();

    // An edited source file: what npm installed is not installed again.
    env.write(
        "src/store.js",
        "const items = [];\nmodule.exports = { list: () => items };\n",
    );
    let again = env
        .rbuild([CA, "--progress=plain", "-t", "todo", "."])
        .success();
    assert_eq!(
        again.ran(),
        ["COPY --from=build /app/src ./src", "COPY . ."],
        "{again}"
    );
}

/// The image without any of our code, as the user's own container: unpacked by umoci and run by runc, and loaded and
/// run by podman.
#[test]
fn runc_and_podman_run_the_todo_application() {
    let env = TestEnv::new().bases([Base::Node]).context("todo");
    env.rbuild([
        CA,
        "-t",
        "todo:1",
        "-o",
        "type=oci,dest=todo.tar",
        "--load",
        ".",
    ])
    .success();

    let image = Image::from_oci_tar(&env, "todo.tar");
    let bundle = env.outside("bundle");
    let bundle = bundle.to_str().unwrap();
    env.tool(
        "umoci",
        [
            "unpack",
            "--rootless",
            "--image",
            &image.reference("1"),
            bundle,
        ],
    )
    .success();
    let path = env.outside("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    let environment = config["process"]["env"].as_array_mut().unwrap();
    environment.retain(|variable| !variable.as_str().unwrap().starts_with("PORT="));
    environment.push("PORT=0".into());
    // The test asks over the host's loopback interface.
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    std::fs::write(&path, config.to_string()).unwrap();
    let state = env.outside("runc");
    let mut command = env.tool_command("runc");
    command.args([
        "--root",
        state.to_str().unwrap(),
        "run",
        "--bundle",
        bundle,
        "todo",
    ]);
    Server::start(&mut command).check();

    let mut command = env.tool_command("podman");
    command.args(["run", "--rm", "--network=host", "--env=PORT=0", "todo:1"]);
    Server::start(&mut command).check();
}
