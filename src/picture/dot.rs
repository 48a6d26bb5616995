//! For Graphviz.

use std::fmt::Write as _;

use super::GraphView;
use super::StepState;
use super::duration;
use super::shortened;

/// The longest label.
const LABEL: usize = 60;

/// A `digraph` with a cluster a stage. Cached steps are green, those that must run orange, undecided ones dashed; the
/// critical path is bold and red.
pub fn dot(view: &GraphView) -> String {
    let mut text = String::from(
        "digraph plan {\n  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fontname=monospace, fontsize=11, \
         fillcolor=white];\n  edge [color=\"#8c959f\"];\n",
    );
    let stages = view.stages();
    for (index, (name, steps)) in stages.iter().enumerate() {
        let _ = writeln!(
            text,
            "  subgraph cluster_{index} {{\n    label={};",
            quoted(name)
        );
        text.push_str("    style=rounded;\n    color=\"#8c959f\";\n    fontname=monospace;\n");
        for &step in steps {
            let _ = writeln!(text, "    {}", node(view, step));
        }
        text.push_str("  }\n");
    }
    for at in 0..view.steps.len() {
        if !stages.iter().any(|(_, steps)| steps.contains(&at)) {
            let _ = writeln!(text, "  {}", node(view, at));
        }
    }
    for (index, output) in view.outputs.iter().enumerate() {
        let label = quoted(&output.label());
        let _ = writeln!(
            text,
            "  out{index} [label={label}, shape=note, style=filled];"
        );
    }
    for (at, step) in view.steps.iter().enumerate() {
        let mut from: Vec<usize> = step.inputs.iter().map(|input| input.step).collect();
        from.sort_unstable();
        from.dedup();
        for from in from {
            let _ = match view.is_critical_edge(from, at) {
                true => writeln!(
                    text,
                    "  s{from} -> s{at} [color=\"#cf222e\", penwidth=2.5];"
                ),
                false => writeln!(text, "  s{from} -> s{at};"),
            };
        }
    }
    for (index, output) in view.outputs.iter().enumerate() {
        if let Some(root) = output.root {
            let _ = writeln!(text, "  s{} -> out{index};", root.step);
        }
    }
    text.push_str("}\n");
    text
}

fn node(view: &GraphView, at: usize) -> String {
    let step = &view.steps[at];
    let second = match step.millis {
        Some(millis) => format!("{} · {}", step.state.word(), duration(millis)),
        None => step.state.word().to_owned(),
    };
    let label = escaped(&shortened(&step.label(), LABEL));
    let tooltip = quoted(&super::one_line(&step.name));
    let mut attributes = format!("label=\"{label}\\n{second}\", tooltip={tooltip}");
    attributes.push_str(match step.state {
        StepState::Cached => ", fillcolor=\"#dafbe1\"",
        StepState::Run => ", fillcolor=\"#fff1e5\"",
        StepState::Undecided => ", fillcolor=\"#fff8c5\", style=\"rounded,filled,dashed\"",
        StepState::Read => ", fillcolor=\"#ddf4ff\"",
    });
    if view.is_critical(at) {
        attributes.push_str(", color=\"#cf222e\", penwidth=2.5");
    }
    format!("s{at} [{attributes}];")
}

/// A string of the language. Graphviz reads escapes in labels (`\n`, `\N`, `\G`), so a backslash is doubled.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            // Labels may hold HTML entities.
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
