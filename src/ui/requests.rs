//! What the frontend can be asked, as BuildKit lists it under `frontend.subrequests.describe`. Its list is without
//! `frontend.lint`, and so is this.

use serde::Serialize;

use super::table;

/// Fields without values are `null`, as in BuildKit's answer.
#[derive(Debug, Serialize)]
struct Request {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<[Named; 1]>,
    inputs: Option<[Named; 0]>,
    metadata: [Named; 2],
    refs: Option<[Named; 0]>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

fn all() -> [Request; 3] {
    let request = |name, description, opts| Request {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: ["result.json", "result.txt"].map(|name| Named {
            name,
            description: "",
        }),
        refs: None,
    };
    let target = Named {
        name: "target",
        description: "Target build stage",
    };
    [
        request(
            "frontend.outline",
            "List all parameters current build target supports",
            Some([target]),
        ),
        request(
            "frontend.targets",
            "List all targets current build supports",
            None,
        ),
        request(
            "frontend.subrequests.describe",
            "List available subrequest types",
            None,
        ),
    ]
}

/// For people.
pub(crate) fn text() -> String {
    let head = ["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned);
    let rows = all().map(|request| {
        let name = request.name.trim_start_matches("frontend.");
        [name, request.version, request.description].map(str::to_owned)
    });
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows).map(Vec::from).collect();
    table(&rows, 1)
}

/// For programs.
pub(crate) fn json() -> String {
    serde_json::to_string_pretty(&all()).expect("no map in it has keys other than strings") + "\n"
}
