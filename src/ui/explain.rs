//! What a build did about each step, as text and as JSON (docs/explain-output.md).

use rbuild_llb::event::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::human;
use crate::pipeline::explain::Cause;
use crate::pipeline::explain::End;
use crate::pipeline::explain::Explained;
use crate::pipeline::explain::ExplainedStep;

/// For people. A few steps that were asked for are told in full, a whole build as a list.
pub(super) fn text(explained: &Explained, now: Timestamp) -> String {
    let mut text = String::new();
    if explained.chosen {
        for step in &explained.steps {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&in_full(step, now));
        }
        return text;
    }
    text.push_str(&heading(explained, now));
    text.push_str("\n\n");
    for step in &explained.steps {
        let name = human::printable(&step.name);
        let took = step.millis.map(seconds).unwrap_or_default();
        let row = format!("  {:<8}{took:>8}  {name}", word(step.end));
        text.push_str(&row);
        text.push('\n');
        if let Some(why) = why(step) {
            text.push_str(&format!("{:20}{why}\n", ""));
        }
    }
    text
}

/// `/src/Dockerfile, built 2 hours ago in 12.3s: 2 steps ran, 5 cached; 1 minute ago nothing had changed`
fn heading(explained: &Explained, now: Timestamp) -> String {
    let count = |ends: &[End]| {
        let steps = explained.steps.iter();
        steps.filter(|step| ends.contains(&step.end)).count()
    };
    let ran = count(&[End::Ran]);
    let cached = count(&[End::Unneeded, End::Cached, End::Found]);
    let failed = count(&[End::Failed]);
    let stopped = count(&[End::Stopped]);
    let steps = |count: usize| if count == 1 { "step" } else { "steps" };
    let mut counts = vec![
        format!("{ran} {} ran", steps(ran)),
        format!("{cached} cached"),
    ];
    if failed > 0 {
        counts.push(format!("{failed} failed"));
    }
    if stopped > 0 {
        counts.push(format!("{stopped} not done"));
    }
    let verb = if explained.failed { "failed" } else { "built" };
    let mut text = format!(
        "{}, {verb} {} in {}: {}",
        explained.plan,
        human::ago(explained.started, now),
        seconds(explained.millis),
        counts.join(", ")
    );
    if let Some(confirmed) = explained.confirmed {
        text.push_str(&format!(
            "; {} nothing had changed",
            human::ago(confirmed, now)
        ));
    }
    text
}

fn in_full(step: &ExplainedStep, now: Timestamp) -> String {
    let mut lines = vec![human::printable(&step.name)];
    if let Some((file, line, _)) = &step.at {
        lines.push(format!("  {file}:{line}, {}", step.platform));
    }
    let took = seconds(step.millis.unwrap_or_default());
    lines.push(match step.end {
        End::Read => "  read, as in every build".to_owned(),
        End::Unneeded => "  cached: what is made of it is, so nothing needed it".to_owned(),
        End::Cached => "  cached".to_owned(),
        End::Found => "  cached, once its inputs had been made".to_owned(),
        End::Ran => format!("  ran for {took}"),
        End::Failed => format!("  failed after {took}"),
        End::Stopped => "  not done: the build ended before".to_owned(),
    });
    lines.extend(why(step).map(|why| format!("  why: {why}")));
    lines.extend(
        step.cause
            .as_ref()
            .map(|cause| format!("  {}", made(cause, now))),
    );
    if let Some(asked) = step.asked {
        let age = human::ago(asked, now);
        lines.push(format!(
            "  its tag as it was {age}: the registry was not asked"
        ));
    }
    if step.rung == Some(2) {
        lines.push("  made on rung 2: owners of files as they were recorded".to_owned());
    }
    lines.push(format!("  key {}", step.key));
    lines.join("\n") + "\n"
}

fn made(cause: &Cause, now: Timestamp) -> String {
    let by = match cause.by_content {
        true => "found by what its inputs hold",
        false => "found by its definition",
    };
    let (age, took) = (human::ago(cause.made, now), seconds(cause.millis));
    format!("{by}; made {age}, in {took}")
}

/// Why it ran or would have had to, if it is known.
fn why(step: &ExplainedStep) -> Option<String> {
    if let [_, ..] = step.waited_for.as_slice() {
        let plural = if step.waited_for.len() == 1 { "" } else { "s" };
        let names = step.waited_for.iter().map(|name| human::printable(name));
        let names: Vec<String> = names.collect();
        return Some(format!("input{plural} rebuilt: {}", names.join(", ")));
    }
    step.why.as_deref().map(human::printable)
}

fn word(end: End) -> &'static str {
    match end {
        End::Read => "read",
        End::Unneeded | End::Cached | End::Found => "cached",
        End::Ran => "ran",
        End::Failed => "failed",
        End::Stopped => "not done",
    }
}

fn seconds(millis: u64) -> String {
    format!("{:.1}s", millis as f64 / 1000.0)
}

/// For programs.
pub(super) fn json(explained: &Explained) -> String {
    let steps: Vec<Value> = explained.steps.iter().map(step_json).collect();
    let value = json!({
        "version": 1,
        "plan": explained.plan,
        "started": explained.started,
        "seconds": explained.millis as f64 / 1000.0,
        "failed": explained.failed,
        "confirmed": explained.confirmed,
        "steps": steps,
    });
    format!("{value:#}\n")
}

fn step_json(step: &ExplainedStep) -> Value {
    let seconds = |millis: u64| millis as f64 / 1000.0;
    let at = step.at.as_ref();
    let at = at.map(|(file, line, end)| json!({ "file": file, "line": line, "end_line": end }));
    let result = step.cause.as_ref().map(|cause| {
        json!({
            "by": if cause.by_content { "content" } else { "definition" },
            "made": cause.made,
            "seconds": seconds(cause.millis),
        })
    });
    json!({
        "id": step.id,
        "key": step.key,
        "name": step.name,
        "stage": step.stage,
        "platform": step.platform,
        "at": at,
        "state": match step.end {
            End::Stopped => "stopped",
            end => word(end),
        },
        "why": step.why,
        "waited_for": step.waited_for,
        "seconds": step.millis.map(seconds),
        "result": result,
        "rung": step.rung,
        "asked": step.asked,
    })
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    const SECOND: u128 = 1_000_000_000;

    fn step(name: &str, line: usize, end: End, millis: Option<u64>) -> ExplainedStep {
        ExplainedStep {
            id: format!("sha256:{line}"),
            name: name.to_owned(),
            stage: (line > 0).then(|| "build".to_owned()),
            platform: "linux/amd64".to_owned(),
            at: (line > 0).then(|| ("Dockerfile".to_owned(), line, line)),
            key: "ab".repeat(32),
            end,
            why: None,
            waited_for: Vec::new(),
            millis,
            cause: None,
            rung: None,
            asked: None,
        }
    }

    fn build() -> Explained {
        let mut base = step("[build 1/3] FROM node", 1, End::Cached, None);
        base.cause = Some(Cause {
            by_content: false,
            made: Timestamp(1000 * SECOND),
            millis: 2500,
        });
        base.asked = Some(Timestamp(500 * SECOND));
        let mut copy = step("[build 2/3] COPY . .", 2, End::Ran, Some(40));
        copy.why = Some("1 of 412 files changed: src/a.py (content)".to_owned());
        let mut last = step("[build 3/3] RUN a\u{1b}[2J", 3, End::Failed, Some(1200));
        last.waited_for = vec!["[build 2/3] COPY . .".to_owned()];
        Explained {
            plan: "/src/Dockerfile".to_owned(),
            instead_of: None,
            started: Timestamp(4600 * SECOND),
            millis: 1300,
            failed: true,
            confirmed: None,
            steps: vec![
                step("[internal] load build context", 0, End::Read, None),
                base,
                copy,
                last,
            ],
            chosen: false,
        }
    }

    #[test]
    fn a_build_as_a_list() {
        let now = Timestamp(8200 * SECOND);
        assert_data_eq!(
            text(&build(), now),
            str![[r#"
/src/Dockerfile, failed 1 hour ago in 1.3s: 1 step ran, 1 cached, 1 failed

  read              [internal] load build context
  cached            [build 1/3] FROM node
  ran         0.0s  [build 2/3] COPY . .
                    1 of 412 files changed: src/a.py (content)
  failed      1.2s  [build 3/3] RUN a
                    input rebuilt: [build 2/3] COPY . .

"#]]
        );
        let again = Explained {
            failed: false,
            confirmed: Some(Timestamp(8190 * SECOND)),
            ..build()
        };
        let heading = heading(&again, now);
        assert!(
            heading.ends_with("; 10 seconds ago nothing had changed"),
            "{heading}"
        );
    }

    #[test]
    fn steps_in_full() {
        let mut some = build();
        some.chosen = true;
        some.steps.remove(0);
        some.steps.remove(1);
        assert_data_eq!(
            text(&some, Timestamp(4600 * SECOND)),
            str![[r#"
[build 1/3] FROM node
  Dockerfile:1, linux/amd64
  cached
  found by its definition; made 1 hour ago, in 2.5s
  its tag as it was 1 hour ago: the registry was not asked
  key abababababababababababababababababababababababababababababababab

[build 3/3] RUN a
  Dockerfile:3, linux/amd64
  failed after 1.2s
  why: input rebuilt: [build 2/3] COPY . .
  key abababababababababababababababababababababababababababababababab

"#]]
        );
    }

    #[test]
    fn json_has_all_of_it() {
        let value: Value = serde_json::from_str(&json(&build())).unwrap();
        let key = "ab".repeat(32);
        assert_eq!(
            value["steps"][1],
            json!({
                "id": "sha256:1", "key": key, "name": "[build 1/3] FROM node", "stage": "build",
                "platform": "linux/amd64", "at": { "file": "Dockerfile", "line": 1, "end_line": 1 },
                "state": "cached", "why": null, "waited_for": [], "seconds": null,
                "result": { "by": "definition", "made": "1970-01-01T00:16:40Z", "seconds": 2.5 },
                "rung": null,
                "asked": "1970-01-01T00:08:20Z",
            })
        );
        assert_eq!(
            value["steps"][2]["why"],
            "1 of 412 files changed: src/a.py (content)"
        );
        assert_eq!(
            value["steps"][3]["waited_for"],
            json!(["[build 2/3] COPY . ."])
        );
        assert_eq!(value["steps"][3]["seconds"], 1.2);
        assert_eq!(
            (
                &value["version"],
                &value["plan"],
                &value["started"],
                &value["failed"],
                &value["confirmed"]
            ),
            (
                &json!(1),
                &json!("/src/Dockerfile"),
                &json!("1970-01-01T01:16:40Z"),
                &json!(true),
                &Value::Null
            )
        );
    }
}
