//! The formats on graphs made by hand, and laws on graphs made up.

use proptest::prelude::*;
use proptest::sample::Index;
use snapbox::IntoData as _;
use snapbox::assert_data_eq;
use snapbox::str;

use super::*;

/// A step that must run and builds upon its first input, in the stage its name says.
pub(super) fn step(at: usize, name: &str, inputs: &[usize]) -> StepView {
    let place = name
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    let stage = place.and_then(|(place, _)| place.rsplit_once(' '));
    StepView {
        id: format!("sha256:{at:064x}"),
        key: format!("{at:064x}"),
        kind: "exec",
        name: name.to_owned(),
        stage: stage.map(|(stage, _)| stage.to_owned()),
        platform: "linux/amd64".to_owned(),
        inputs: inputs
            .iter()
            .map(|&step| InputView { step, output: 0 })
            .collect(),
        base: (!inputs.is_empty()).then_some(0),
        detail: None,
        at: None,
        state: StepState::Run,
        why: None,
        waits_for: Vec::new(),
        millis: None,
    }
}

/// Up to 40 steps, some in stages, on inputs anywhere before them.
pub(super) fn random_view() -> impl Strategy<Value = GraphView> {
    let inputs = proptest::collection::vec(any::<Index>(), 0..4);
    let one = (inputs, 0..6_usize, 0..5_u64, any::<bool>());
    proptest::collection::vec(one, 1..40).prop_map(|made| {
        let mut steps: Vec<StepView> = Vec::new();
        for (at, (inputs, stage, millis, alone)) in made.into_iter().enumerate() {
            let inputs: Vec<usize> = match at {
                0 => Vec::new(),
                _ => inputs.iter().map(|input| input.index(at)).collect(),
            };
            let name = match stage {
                0 => format!("step {at}"),
                stage => format!("[stage{stage} {at}/40] RUN {at}"),
            };
            let mut step = step(at, &name, &inputs);
            step.millis = millis.checked_sub(1);
            if alone {
                step.base = None;
            }
            steps.push(step);
        }
        let output = OutputView {
            name: "all".to_owned(),
            platform: "linux/amd64".to_owned(),
            root: Some(InputView {
                step: steps.len() - 1,
                output: 0,
            }),
        };
        GraphView::new(steps, vec![output])
    })
}

/// A base that two stages share and a third joins; all four states, and a name with what each format has to escape.
fn diamond() -> GraphView {
    let mut steps = vec![
        step(0, "[internal] load build context", &[]),
        step(
            1,
            "[base 1/1] FROM docker.io/library/alpine:3.20@sha256:ab",
            &[],
        ),
        step(
            2,
            "[left 1/1] RUN \"a]\" --> b; #1 <x> & \\n\n  %%{c}",
            &[1],
        ),
        step(3, "[right 1/1] COPY src/ /src/", &[1, 0]),
        step(4, "[all 1/1] COPY --from=right /src /", &[2, 3]),
    ];
    steps[0].stage = None;
    steps[0].kind = "source";
    steps[0].state = StepState::Read;
    steps[0].detail = Some(Detail::Source {
        r#type: "local",
        reference: "context".to_owned(),
        digest: None,
        asked: None,
        age: None,
    });
    steps[1].state = StepState::Cached;
    steps[1].millis = Some(2_500);
    steps[2].state = StepState::Cached;
    steps[2].millis = Some(61_000);
    steps[2].detail = Some(Detail::Exec {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), "\"a]\"".to_owned()],
        env: BTreeMap::from([
            ("API_TOKEN".to_owned(), None),
            ("PATH".to_owned(), Some("/bin".to_owned())),
        ]),
        cwd: "/".to_owned(),
        user: String::new(),
        mounts: vec![MountView {
            r#type: "cache",
            target: "/root/.cache".to_owned(),
            id: Some("go".to_owned()),
            input: Some(0),
        }],
    });
    steps[3].why = Some("files changed".to_owned());
    steps[3].millis = Some(40);
    steps[3].kind = "file";
    let words = ["copy", "/src", "/src/"].map(str::to_owned);
    steps[3].detail = Some(Detail::File {
        actions: vec![words.to_vec()],
    });
    steps[3].at = Some(Place {
        file: "Dockerfile".to_owned(),
        line: 7,
        end_line: 8,
    });
    steps[4].state = StepState::Undecided;
    steps[4].waits_for = vec![3];
    let output = |name: &str, step: Option<usize>| OutputView {
        name: name.to_owned(),
        platform: "linux/amd64".to_owned(),
        root: step.map(|step| InputView { step, output: 0 }),
    };
    GraphView::new(steps, vec![output("all", Some(4)), output("empty", None)])
}

#[test]
fn the_critical_path_is_the_heaviest() {
    assert_eq!(diamond().critical, [1, 2, 4]);
    let path = |millis: [u64; 4]| {
        let mut steps = vec![
            step(0, "a", &[]),
            step(1, "b", &[0]),
            step(2, "c", &[0]),
            step(3, "d", &[1, 2]),
        ];
        for (step, millis) in steps.iter_mut().zip(millis) {
            step.millis = Some(millis).filter(|&millis| millis > 0);
        }
        GraphView::new(steps, Vec::new()).critical
    };
    for (millis, want) in [
        ([1, 2, 3, 1], vec![0, 2, 3]),
        ([1, 3, 2, 1], vec![0, 1, 3]),
        // Of equal ways the first; a step of unknown time is on the way, but not where the way begins.
        ([1, 2, 2, 1], vec![0, 1, 3]),
        ([0, 2, 0, 0], vec![1, 3]),
        ([0, 0, 0, 0], vec![]),
    ] {
        assert_eq!(path(millis), want, "{millis:?}");
    }
}

#[test]
fn as_a_tree() {
    assert_data_eq!(
        tree(&diamond()),
        str![[r#"
all (linux/amd64)
  run?          * ├─ #5 [all 1/1] COPY --from=right /src /: waits for #4
  run       40ms  │  ├─ #4 [right 1/1] COPY src/ /src/: files changed
  read            │  │  └─ #1 [internal] load build context
  cached   2.50s* │  └─ #2 [base 1/1] FROM docker.io/library/alpine:3.20@sha256:ab
  cached   1m01s* ├─ #3 [left 1/1] RUN "a]" --> b; #1 <x> & \n %%{c}
                  └─ #2 [base 1/1] FROM docker.io/library/alpine:3.20@sha256:ab: see above

empty (linux/amd64)
                  └─ nothing: an empty file system

5 steps: 2 cached, 1 to run, 1 to run if inputs change
last run 1m04s, critical path 1m04s (*)

"#]]
        .raw()
    );
}

#[test]
fn as_json() {
    let text = json(&diamond());
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        read["steps"][2]["exec"]["env"]["API_TOKEN"],
        serde_json::Value::Null
    );
    assert_data_eq!(
        text,
        str![[r#"
{
  "version": 1,
  "outputs": [
    {
      "name": "all",
      "platform": "linux/amd64",
      "root": {
        "step": "sha256:0000000000000000000000000000000000000000000000000000000000000004",
        "output": 0
      }
    },
    {
      "name": "empty",
      "platform": "linux/amd64",
      "root": null
    }
  ],
  "critical_path": {
    "seconds": 63.5,
    "steps": [
      "sha256:0000000000000000000000000000000000000000000000000000000000000001",
      "sha256:0000000000000000000000000000000000000000000000000000000000000002",
      "sha256:0000000000000000000000000000000000000000000000000000000000000004"
    ]
  },
  "seconds": 63.54,
  "steps": [
    {
      "id": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
      "key": "0000000000000000000000000000000000000000000000000000000000000000",
      "kind": "source",
      "name": "[internal] load build context",
      "stage": null,
      "platform": "linux/amd64",
      "inputs": [],
      "source": {
        "type": "local",
        "reference": "context",
        "digest": null,
        "asked": null
      },
      "at": null,
      "state": "read",
      "why": null,
      "waits_for": [],
      "seconds": null,
      "critical": false
    },
    {
      "id": "sha256:0000000000000000000000000000000000000000000000000000000000000001",
      "key": "0000000000000000000000000000000000000000000000000000000000000001",
      "kind": "exec",
      "name": "[base 1/1] FROM docker.io/library/alpine:3.20@sha256:ab",
      "stage": "base",
      "platform": "linux/amd64",
      "inputs": [],
      "at": null,
      "state": "cached",
      "why": null,
      "waits_for": [],
      "seconds": 2.5,
      "critical": true
    },
    {
      "id": "sha256:0000000000000000000000000000000000000000000000000000000000000002",
      "key": "0000000000000000000000000000000000000000000000000000000000000002",
      "kind": "exec",
      "name": "[left 1/1] RUN \"a]\" --> b; #1 <x> & \\n\n  %%{c}",
      "stage": "left",
      "platform": "linux/amd64",
      "inputs": [
        {
          "step": "sha256:0000000000000000000000000000000000000000000000000000000000000001",
          "output": 0
        }
      ],
      "exec": {
        "command": [
          "/bin/sh",
          "-c",
          "\"a]\""
        ],
        "env": {
          "API_TOKEN": null,
          "PATH": "/bin"
        },
        "cwd": "/",
        "user": "",
        "mounts": [
          {
            "type": "cache",
            "target": "/root/.cache",
            "id": "go",
            "input": 0
          }
        ]
      },
      "at": null,
      "state": "cached",
      "why": null,
      "waits_for": [],
      "seconds": 61.0,
      "critical": true
    },
    {
      "id": "sha256:0000000000000000000000000000000000000000000000000000000000000003",
      "key": "0000000000000000000000000000000000000000000000000000000000000003",
      "kind": "file",
      "name": "[right 1/1] COPY src/ /src/",
      "stage": "right",
      "platform": "linux/amd64",
      "inputs": [
        {
          "step": "sha256:0000000000000000000000000000000000000000000000000000000000000001",
          "output": 0
        },
        {
          "step": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
          "output": 0
        }
      ],
      "file": {
        "actions": [
          [
            "copy",
            "/src",
            "/src/"
          ]
        ]
      },
      "at": {
        "file": "Dockerfile",
        "line": 7,
        "end_line": 8
      },
      "state": "run",
      "why": "files changed",
      "waits_for": [],
      "seconds": 0.04,
      "critical": false
    },
    {
      "id": "sha256:0000000000000000000000000000000000000000000000000000000000000004",
      "key": "0000000000000000000000000000000000000000000000000000000000000004",
      "kind": "exec",
      "name": "[all 1/1] COPY --from=right /src /",
      "stage": "all",
      "platform": "linux/amd64",
      "inputs": [
        {
          "step": "sha256:0000000000000000000000000000000000000000000000000000000000000002",
          "output": 0
        },
        {
          "step": "sha256:0000000000000000000000000000000000000000000000000000000000000003",
          "output": 0
        }
      ],
      "at": null,
      "state": "undecided",
      "why": null,
      "waits_for": [
        "sha256:0000000000000000000000000000000000000000000000000000000000000003"
      ],
      "seconds": null,
      "critical": true
    }
  ]
}

"#]]
        .raw()
    );
}

#[test]
fn as_dot() {
    assert_data_eq!(dot(&diamond()), str![[r##"
digraph plan {
  rankdir=TB;
  node [shape=box, style="rounded,filled", fontname=monospace, fontsize=11, fillcolor=white];
  edge [color="#8c959f"];
  subgraph cluster_0 {
    label="base";
    style=rounded;
    color="#8c959f";
    fontname=monospace;
    s1 [label="FROM docker.io/library/alpine:3.20@sha256:ab\ncached · 2.50s", tooltip="[base 1/1] FROM docker.io/library/alpine:3.20@sha256:ab", fillcolor="#dafbe1", color="#cf222e", penwidth=2.5];
  }
  subgraph cluster_1 {
    label="left";
    style=rounded;
    color="#8c959f";
    fontname=monospace;
    s2 [label="RUN \"a]\" --> b; #1 <x> &amp; \\n %%{c}\ncached · 1m01s", tooltip="[left 1/1] RUN \"a]\" --> b; #1 <x> &amp; \\n %%{c}", fillcolor="#dafbe1", color="#cf222e", penwidth=2.5];
  }
  subgraph cluster_2 {
    label="right";
    style=rounded;
    color="#8c959f";
    fontname=monospace;
    s3 [label="COPY src/ /src/\nrun · 40ms", tooltip="[right 1/1] COPY src/ /src/", fillcolor="#fff1e5"];
  }
  subgraph cluster_3 {
    label="all";
    style=rounded;
    color="#8c959f";
    fontname=monospace;
    s4 [label="COPY --from=right /src /\nundecided", tooltip="[all 1/1] COPY --from=right /src /", fillcolor="#fff8c5", style="rounded,filled,dashed", color="#cf222e", penwidth=2.5];
  }
  s0 [label="load build context\nread", tooltip="[internal] load build context", fillcolor="#ddf4ff"];
  out0 [label="all (linux/amd64)", shape=note, style=filled];
  out1 [label="empty (linux/amd64)", shape=note, style=filled];
  s1 -> s2 [color="#cf222e", penwidth=2.5];
  s0 -> s3;
  s1 -> s3;
  s2 -> s4 [color="#cf222e", penwidth=2.5];
  s3 -> s4;
  s4 -> out0;
}

"##]].raw());
}

#[test]
fn as_mermaid() {
    assert_data_eq!(mermaid(&diamond()), str![[r#"
flowchart TB
  subgraph stage0 ["base"]
    s1["FROM docker.io/library/alpine#58;3.20@sha256#58;ab<br>cached 2.50s"]:::cached
  end
  subgraph stage1 ["left"]
    s2["RUN #34;a#93;#34; --#62; b#59; #35;1 #60;x#62; #38; #92;n #37;#37;#123;c#125;<br>cached 1m01s"]:::cached
  end
  subgraph stage2 ["right"]
    s3["COPY src/ /src/<br>run 40ms"]:::run
  end
  subgraph stage3 ["all"]
    s4["COPY --from=right /src /<br>undecided"]:::undecided
  end
  s0["load build context<br>read"]:::read
  out0(["all (linux/amd64)"])
  out1(["empty (linux/amd64)"])
  s1 --> s2
  s0 --> s3
  s1 --> s3
  s2 --> s4
  s3 --> s4
  s4 --> out0
  classDef cached fill:#dafbe1,stroke:#1a7f37,color:#1f2328
  classDef run fill:#fff1e5,stroke:#bc4c00,color:#1f2328
  classDef undecided fill:#fff8c5,stroke:#9a6700,color:#1f2328,stroke-dasharray:5 3
  classDef read fill:#ddf4ff,stroke:#0969da,color:#1f2328
  classDef critical stroke:#cf222e,stroke-width:3px
  class s1,s2,s4 critical
  linkStyle 0,3 stroke:#cf222e,stroke-width:3px

"#]].raw());
}

/// All but the style, which is the same in every picture.
#[test]
fn as_svg() {
    let text = svg(&diamond());
    let (before, rest) = text.split_once("<style>").unwrap();
    let (_, after) = rest.split_once("</style>").unwrap();
    assert_data_eq!(format!("{before}{after}"), str![[r#"
<svg xmlns="http://www.w3.org/2000/svg" width="713.6" height="500" viewBox="0 0 713.6 500" role="img">
<title>all (linux/amd64), empty (linux/amd64)</title>

<rect class="page" width="713.6" height="500"/>
<text class="title" x="24" y="34">all (linux/amd64), empty (linux/amd64)</text>
<text x="24" y="54">5 steps: 2 cached, 1 to run, 1 to run if inputs change</text>
<text x="24" y="70">last run 1m04s, critical path 1m04s</text>
<g class="cached"><rect class="box" x="24" y="81" width="18" height="12" rx="3"/><rect class="bar" x="26.5" y="83" width="3" height="8" rx="1"/><text class="small" x="48" y="91">cached</text></g>
<g class="run"><rect class="box" x="106.2" y="81" width="18" height="12" rx="3"/><rect class="bar" x="108.7" y="83" width="3" height="8" rx="1"/><text class="small" x="130.2" y="91">to run</text></g>
<g class="undecided"><rect class="box" x="188.4" y="81" width="18" height="12" rx="3"/><rect class="bar" x="190.9" y="83" width="3" height="8" rx="1"/><text class="small" x="212.4" y="91">to run if inputs change</text></g>
<g class="read"><rect class="box" x="384.5" y="81" width="18" height="12" rx="3"/><rect class="bar" x="387" y="83" width="3" height="8" rx="1"/><text class="small" x="408.5" y="91">files read each time</text></g>
<g class="critical"><rect class="box" x="560.5" y="81" width="18" height="12" rx="3"/><text class="small" x="584.5" y="91">critical path</text></g>
<g transform="translate(46.7 94)">
<g><title>base</title><rect class="frame" x="60" y="24" width="292.9" height="108" rx="10"/><text class="stage" x="72" y="42">base</text></g>
<g><title>left</title><rect class="frame" x="60" y="162" width="292.9" height="92" rx="10"/><text class="stage" x="72" y="180">left</text></g>
<g><title>right</title><rect class="frame" x="376.9" y="162" width="183.4" height="92" rx="10"/><text class="stage" x="388.9" y="180">right</text></g>
<g><title>all</title><rect class="frame" x="60" y="284" width="292.9" height="92" rx="10"/><text class="stage" x="72" y="302">all</text></g>
<path class="line" d="M468.6 120L468.6 196"/>
<path class="tip" d="M468.6 196l-4 -7h8z"/>
<path class="line" d="M206.4 120L206.4 140Q206.4 147 213.4 147L447.6 147Q454.6 147 454.6 154L454.6 196"/>
<path class="tip" d="M454.6 196l-4 -7h8z"/>
<path class="line" d="M468.6 242L468.6 262Q468.6 269 461.6 269L227.4 269Q220.4 269 220.4 276L220.4 318"/>
<path class="tip" d="M220.4 318l-4 -7h8z"/>
<path class="line hot" d="M206.4 120L206.4 196"/>
<path class="tip hot" d="M206.4 196l-4 -7h8z"/>
<path class="line hot" d="M206.4 242L206.4 318"/>
<path class="tip hot" d="M206.4 318l-4 -7h8z"/>
<g class="read">
<title>[internal] load build context
linux/amd64
read</title>
<rect class="box" x="388.9" y="58" width="159.4" height="62" rx="6"/>
<rect class="bar" x="393.9" y="64" width="4" height="50" rx="2"/>
<text class="label" x="404.9" y="85">load build context</text>
<text class="small" x="404.9" y="101">#1 read</text>
</g>
<g class="cached critical">
<title>[base 1/1] FROM docker.io/library/alpine:3.20@sha256:ab
linux/amd64
cached
last run 2.50s</title>
<rect class="box" x="72" y="58" width="268.9" height="62" rx="6"/>
<rect class="bar" x="77" y="64" width="4" height="50" rx="2"/>
<text class="label" x="88" y="77">FROM docker.io/library/alpine:</text>
<text class="label" x="88" y="93">3.20@sha256:ab</text>
<text class="small" x="88" y="109">#2 cached · 2.50s</text>
</g>
<g class="cached critical">
<title>[left 1/1] RUN &quot;a]&quot; --&gt; b; #1 &lt;x&gt; &amp; \n
  %%{c}
linux/amd64
cached
last run 1m01s</title>
<rect class="box" x="72" y="196" width="268.9" height="46" rx="6"/>
<rect class="bar" x="77" y="202" width="4" height="34" rx="2"/>
<text class="label" x="88" y="215">RUN &quot;a]&quot; --&gt; b; #1 &lt;x&gt; &amp; \n %%{c}</text>
<text class="small" x="88" y="231">#3 cached · 1m01s</text>
</g>
<g class="run">
<title>[right 1/1] COPY src/ /src/
linux/amd64
Dockerfile:7
run: files changed
last run 40ms</title>
<rect class="box" x="388.9" y="196" width="159.4" height="46" rx="6"/>
<rect class="bar" x="393.9" y="202" width="4" height="34" rx="2"/>
<text class="label" x="404.9" y="215">COPY src/ /src/</text>
<text class="small" x="404.9" y="231">#4 run · 40ms</text>
</g>
<g class="undecided critical">
<title>[all 1/1] COPY --from=right /src /
linux/amd64
undecided: waits for #4</title>
<rect class="box" x="72" y="318" width="268.9" height="46" rx="6"/>
<rect class="bar" x="77" y="324" width="4" height="34" rx="2"/>
<text class="label" x="88" y="337">COPY --from=right /src /</text>
<text class="small" x="88" y="353">#5 undecided</text>
<rect class="pill" x="84" y="360" width="131.9" height="18" rx="9"/><text class="out" x="93" y="373">all (linux/amd64)</text>
</g>
</g>
</svg>

"#]].raw());
}

#[test]
fn nothing_at_all() {
    let empty = GraphView::new(Vec::new(), Vec::new());
    assert_eq!(tree(&empty), "0 steps\n");
    assert!(svg(&empty).ends_with("</svg>\n"));
}

#[test]
fn labels() {
    for (name, want) in [
        ("[linux/arm64 build 2/5] RUN npm ci", "RUN npm ci"),
        ("[internal] load build context", "load build context"),
        (
            "[context src] load from client",
            "context src: load from client",
        ),
        ("[[ -e x ]] echo", "echo"),
        ("[2/5] ", "exec"),
        ("merge", "merge"),
    ] {
        assert_eq!(step(0, name, &[]).label(), want, "{name}");
    }
}

/// The page has every field and every state.
#[test]
fn the_fields_are_documented() {
    let page = include_str!("../../docs/plan-output.md");
    let text = json(&diamond());
    let mut fields: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\": "))
        .map(|(field, _)| field)
        .filter(|field| !["API_TOKEN", "PATH"].contains(field))
        .collect();
    fields.sort_unstable();
    fields.dedup();
    for field in fields {
        assert!(page.contains(&format!("`{field}`")), "`{field}` is missing");
    }
    for state in [
        StepState::Cached,
        StepState::Run,
        StepState::Undecided,
        StepState::Read,
    ] {
        assert!(page.contains(&format!("`{}`", state.word())));
    }
}

#[test]
fn digests_are_short() {
    let digest = "ab".repeat(32);
    for (name, want) in [
        ("FROM a/b:1@sha256:DIGEST AS c", "FROM a/b:1 AS c"),
        (
            "FROM host:5000/b@sha256:DIGEST",
            "FROM host:5000/b@sha256:abababababab",
        ),
        ("RUN echo x@sha256:ab", "RUN echo x@sha256:ab"),
        ("RUN\techo\n  x", "RUN echo x"),
    ] {
        assert_eq!(brief(&name.replace("DIGEST", &digest)), want);
    }
}

#[test]
fn durations() {
    for (millis, want) in [
        (0, "0ms"),
        (999, "999ms"),
        (1_000, "1.00s"),
        (9_994, "9.99s"),
        (9_995, "10.0s"),
        (59_949, "59.9s"),
        (59_950, "1m00s"),
        (3_599_499, "59m59s"),
        (3_599_500, "1h00m"),
        (u64::MAX, "5124095576030h25m"),
    ] {
        assert_eq!(duration(millis), want);
    }
}

proptest! {
    /// Whatever a name holds, the elements and the quotes of each format stay balanced.
    #[test]
    fn names_break_no_format(name in "\\PC{0,80}") {
        let view = GraphView::new(vec![step(0, &name, &[])], Vec::new());
        let line = |text: String, with: &str| {
            text.lines().find(|line| line.contains(with)).map(str::to_owned)
        };
        // From the opening quote of the label to its closing one, mermaid sees no other.
        let node = line(mermaid(&view), "s0[").unwrap();
        prop_assert_eq!(node.matches('"').count(), 2);
        let entities = node.matches('#').count();
        prop_assert_eq!(entities, node.matches(';').count());
        let node = line(dot(&view), "s0 [").unwrap();
        let mut open = false;
        let mut chars = node.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => drop(chars.next()),
                '"' => open = !open,
                _ => {}
            }
        }
        prop_assert!(!open && node.ends_with("];"), "{}", node);
        let picture = svg(&view);
        prop_assert_eq!(picture.matches('<').count(), picture.matches('>').count());
        prop_assert_eq!(json(&view).matches("\"id\"").count(), 1);
    }

    /// The tree shows each step of a graph that the outputs need in one line of its own.
    #[test]
    fn a_tree_has_a_line_for_each_step(view in random_view()) {
        let mut needed = vec![false; view.steps.len()];
        needed[view.steps.len() - 1] = true;
        for at in (0..view.steps.len()).rev() {
            if needed[at] {
                view.steps[at].inputs.iter().for_each(|input| needed[input.step] = true);
            }
        }
        let text = tree(&view);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("  run")).collect();
        prop_assert_eq!(lines.len(), needed.iter().filter(|needed| **needed).count());
        for (at, _) in needed.iter().enumerate().filter(|(_, needed)| **needed) {
            let number = format!("─ #{} ", at + 1);
            let own = lines.iter().filter(|line| line.contains(&number));
            prop_assert_eq!(own.count(), 1);
        }
    }
}
