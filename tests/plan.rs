//! `rbuild plan`: what a build would do, before it, after it and in between, and its formats as others read them.

use serde_json::Value;
use snapbox::str;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;

const FILE: &str = "\
FROM busybox AS build
COPY first /
RUN cat /first > /out
FROM busybox AS app
COPY second /
COPY --from=build /out /
RUN sleep 0.2; cat /out
";

fn two_stages() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", FILE)
        .file("first", "1\n")
        .file("second", "2\n")
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}:\n{output}"))
}

/// Instruction and state of each step.
fn states(plan: &Value) -> Vec<String> {
    let steps = plan["steps"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let line = |step: &Value| {
        let name = text(&step["name"]);
        let bare = name
            .split_once("] ")
            .map_or(name.as_str(), |(_, bare)| bare);
        let word = match bare.split_once(' ') {
            Some(("FROM", _)) => "FROM",
            _ => bare,
        };
        format!("{} {word}", text(&step["state"]))
    };
    let mut lines: Vec<String> = steps.map(line).collect();
    lines.sort();
    lines
}

#[test]
fn before_after_and_between_builds() {
    const PLAN: [&str; 4] = ["plan", "--format", "json", "."];
    let env = two_stages();
    let first = json(&env.rbuild(PLAN).success());
    assert_eq!(
        states(&first),
        [
            "read load build context",
            "run COPY --from=build /out /",
            "run COPY first /",
            "run COPY second /",
            "run FROM",
            "run RUN cat /first > /out",
            "run RUN sleep 0.2; cat /out",
        ]
    );
    assert!(
        first["steps"]
            .as_array()
            .unwrap()
            .iter()
            .all(|step| step["seconds"].is_null())
    );
    assert_eq!(first["critical_path"]["steps"], Value::Array(Vec::new()));

    env.rbuild(["."]).success();
    let built = json(&env.rbuild(PLAN).success());
    let steps = built["steps"].as_array().unwrap();
    for step in steps {
        let is_context = step["kind"] == "source" && step["source"]["type"] == "local";
        let state = if is_context { "read" } else { "cached" };
        assert_eq!(step["state"], state, "{step}");
        assert_eq!(step["seconds"].is_number(), !is_context, "{step}");
        assert_eq!(
            (&step["why"], &step["waits_for"]),
            (&Value::Null, &Value::Array(Vec::new()))
        );
    }
    let last = &steps[steps.len() - 1];
    let took = last["seconds"].as_f64().unwrap();
    assert!(
        (0.2..60.0).contains(&took),
        "it slept for 0.2 s, and took {took}"
    );
    assert_eq!(last["critical"], true);
    assert_eq!(
        last["at"],
        serde_json::json!({ "file": "Dockerfile", "line": 7, "end_line": 7 })
    );
    assert_eq!(built["outputs"][0]["root"]["step"], last["id"]);

    env.write("second", "changed\n");
    let edited = json(&env.rbuild(PLAN).success());
    assert_eq!(
        states(&edited),
        [
            "cached COPY first /",
            "cached FROM",
            "cached RUN cat /first > /out",
            "read load build context",
            "run COPY second /",
            "undecided COPY --from=build /out /",
            "undecided RUN sleep 0.2; cat /out",
        ]
    );
    let steps = edited["steps"].as_array().unwrap();
    assert_eq!(
        steps[steps.len() - 1]["seconds"],
        took,
        "what it took the last time"
    );
    // The build does what the plan says.
    let output = env.rbuild(["--progress=plain", "."]).success();
    assert_eq!(
        output.ran(),
        [
            "COPY --from=build /out /",
            "COPY second /",
            "RUN sleep 0.2; cat /out"
        ],
        "{output}"
    );
}

#[test]
fn as_a_tree() {
    let env = two_stages();
    env.rbuild(["."]).success();
    env.write("first", "other\n");
    let output = env.rbuild(["plan", "."]).success();
    // Times, and what is on the critical path for them, differ from run to run.
    let shown: String = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with("last run "))
        .map(|line| match line.char_indices().nth(18) {
            Some((at, _)) if line.starts_with("  ") => format!("{} {}\n", &line[2..9], &line[at..]),
            _ => format!("{line}\n"),
        })
        .collect();
    snapbox::assert_data_eq!(
        shown,
        str![[r#"
app (linux/amd64)
run?    ├─ #7 [app 4/4] RUN sleep 0.2; cat /out: waits for #6
run?    ├─ #6 [app 3/4] COPY --from=build /out /: waits for #4
run?    │  ├─ #4 [build 3/3] RUN cat /first > /out: waits for #3
run     │  ├─ #3 [build 2/3] COPY first /: 1 of 1 file changed: first (content)
read    │  │  └─ #2 [internal] load build context
cached  │  └─ #1 [build 1/3] FROM docker.io/library/busybox:latest
cached  ├─ #5 [app 2/4] COPY second / ← #2
        └─ #1 [build 1/3] FROM docker.io/library/busybox:latest: see above

7 steps: 2 cached, 1 to run, 3 to run if inputs change

"#]]
    );
    env.rbuild(["plan", "--format", "list", "."])
        .code(2)
        .says("[possible values: tree, json, dot, mermaid, svg]");
}

/// Names hold what each language has a meaning for.
#[test]
fn foreign_programs_read_it() {
    let env = TestEnv::new()
        .file("a", "")
        .file(
            "Dockerfile",
            "FROM scratch AS base\nCOPY a \"/x]-->\\\"y;#{<b>&amp;|%%\"\nFROM base\nCOPY --from=base /x* /é\\\\N/\n",
        );
    let plan = json(&env.rbuild(["plan", "--format=json", "."]).success());
    let steps = plan["steps"].as_array().unwrap();
    let edges: usize = steps
        .iter()
        .map(|step| step["inputs"].as_array().unwrap().len())
        .sum();

    let dot = env.rbuild(["plan", "--format=dot", "."]).success().stdout;
    env.write("plan.dot", dot);
    let drawn = env.tool("dot", ["-Tplain", "plan.dot"]).success();
    assert_eq!(drawn.stderr, "");
    let count = |word: &str| {
        drawn
            .stdout
            .lines()
            .filter(|line| line.starts_with(word))
            .count()
    };
    // The result is a node with an edge too. What a step takes twice from another is one edge.
    assert_eq!(count("node "), steps.len() + 1, "{drawn}");
    assert_eq!(count("edge "), edges + 1, "{drawn}");

    let svg = env.rbuild(["plan", "--format=svg", "."]).success().stdout;
    env.write("plan.svg", svg);
    let title = "string(//*[local-name()='g']/*[local-name()='title'][contains(., 'COPY a')])";
    let read = env
        .tool("xmllint", ["--xpath", title, "plan.svg"])
        .success();
    let name = steps.iter().map(|step| step["name"].as_str().unwrap());
    let name = name
        .into_iter()
        .find(|name| name.contains("COPY a"))
        .unwrap();
    assert_eq!(read.stdout.lines().next(), Some(name));
}

/// Several outputs and platforms are one graph, and what they share is in it once.
#[test]
fn several_outputs_and_platforms() {
    let env = TestEnv::new().file("a", "").file(
        "rbuild.toml",
        "schema = 1\n[inputs.src]\nlocal = \".\"\n\
         [step.base]\nfrom = \"scratch\"\ncopy = [{ from = \"src\", path = \"a\", to = \"/a\" }]\n\
         [step.more]\nfrom = \"base\"\ncopy = [{ from = \"base\", path = \"/a\", to = \"/b\" }]\n\
         [output.one]\nstep = \"base\"\n[output.two]\nstep = \"more\"\n",
    );
    let plan = |args: &[&str]| {
        let args = ["plan", "--format=json"].iter().chain(args);
        json(&env.rbuild(args).success())
    };
    let both = plan(&["."]);
    let names = |plan: &Value| -> Vec<String> {
        let outputs = plan["outputs"].as_array().unwrap().iter();
        outputs
            .map(|output| format!("{} {}", output["name"], output["platform"]))
            .collect()
    };
    let host = env.rbuild(["plan", "."]).success().stdout;
    let platform = host.lines().next().unwrap();
    let platform = platform.split(['(', ')']).nth(1).unwrap();
    assert_eq!(
        names(&both),
        [
            format!("\"one\" \"{platform}\""),
            format!("\"two\" \"{platform}\"")
        ]
    );
    assert_eq!(both["steps"].as_array().unwrap().len(), 3, "{both}");
    assert_eq!(both["outputs"][0]["root"]["step"], both["steps"][1]["id"]);
    assert_eq!(
        both["steps"][2]["inputs"][0]["step"],
        both["steps"][1]["id"]
    );

    let two = plan(&["--platform=linux/amd64,linux/arm64", ".", "one"]);
    assert_eq!(
        names(&two),
        ["\"one\" \"linux/amd64\"", "\"one\" \"linux/arm64\""]
    );
    let contexts = two["steps"].as_array().unwrap().iter();
    let contexts: Vec<&Value> = contexts.filter(|step| step["state"] == "read").collect();
    assert_eq!(contexts.len(), 1, "{two}");
}
