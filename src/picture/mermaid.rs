//! For mermaid, which GitHub and GitLab show in pages.

use std::fmt::Write as _;

use super::GraphView;
use super::duration;
use super::shortened;

/// The longest label.
const LABEL: usize = 60;

/// A flowchart with a subgraph a stage; classes say what is cached and what is on the critical path.
pub fn mermaid(view: &GraphView) -> String {
    let mut text = String::from("flowchart TB\n");
    let stages = view.stages();
    for (index, (name, steps)) in stages.iter().enumerate() {
        let _ = writeln!(text, "  subgraph stage{index} [{}]", quoted(name));
        for &step in steps {
            let _ = writeln!(text, "    {}", node(view, step));
        }
        text.push_str("  end\n");
    }
    for at in 0..view.steps.len() {
        if !stages.iter().any(|(_, steps)| steps.contains(&at)) {
            let _ = writeln!(text, "  {}", node(view, at));
        }
    }
    for (index, output) in view.outputs.iter().enumerate() {
        let _ = writeln!(text, "  out{index}([{}])", quoted(&output.label()));
    }
    let mut edges = 0_usize;
    let mut critical = Vec::new();
    for (at, step) in view.steps.iter().enumerate() {
        let mut from: Vec<usize> = step.inputs.iter().map(|input| input.step).collect();
        from.sort_unstable();
        from.dedup();
        for from in from {
            let _ = writeln!(text, "  s{from} --> s{at}");
            if view.is_critical_edge(from, at) {
                critical.push(edges.to_string());
            }
            edges += 1;
        }
    }
    for (index, output) in view.outputs.iter().enumerate() {
        if let Some(root) = output.root {
            let _ = writeln!(text, "  s{} --> out{index}", root.step);
        }
    }
    text.push_str(CLASSES);
    if !view.critical.is_empty() {
        let steps: Vec<String> = view.critical.iter().map(|at| format!("s{at}")).collect();
        let _ = writeln!(text, "  class {} critical", steps.join(","));
    }
    if !critical.is_empty() {
        let edges = critical.join(",");
        let _ = writeln!(text, "  linkStyle {edges} stroke:#cf222e,stroke-width:3px");
    }
    text
}

/// The first four are the words of [`StepState`](super::StepState).
const CLASSES: &str = "  classDef cached fill:#dafbe1,stroke:#1a7f37,color:#1f2328
  classDef run fill:#fff1e5,stroke:#bc4c00,color:#1f2328
  classDef undecided fill:#fff8c5,stroke:#9a6700,color:#1f2328,stroke-dasharray:5 3
  classDef read fill:#ddf4ff,stroke:#0969da,color:#1f2328
  classDef critical stroke:#cf222e,stroke-width:3px
";

fn node(view: &GraphView, at: usize) -> String {
    let step = &view.steps[at];
    let label = escaped(&shortened(&step.label(), LABEL));
    let state = step.state.word();
    let time = step.millis.map(|millis| format!(" {}", duration(millis)));
    let time = time.unwrap_or_default();
    format!("s{at}[\"{label}<br>{state}{time}\"]:::{state}")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Mermaid has no escapes, but entities that begin with `#`. Labels are HTML, a quoted one that begins with a back-tick
/// is Markdown, `%%{` is a directive wherever it stands, and a `;` goes missing from lines that look like
/// `style…:…#…;`; so all but what is known to mean nothing is written as an entity.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' ' | '.' | ',' | '/' | '-' | '_' | '=' | '+' | '(' | ')' | '@' | '!' | '?' => {
                escaped.push(c);
            }
            c if c.is_alphanumeric() || !c.is_ascii() && !c.is_control() => escaped.push(c),
            c if c.is_control() => escaped.push(' '),
            c => {
                let _ = write!(escaped, "#{};", u32::from(c));
            }
        }
    }
    escaped
}
