//! For a terminal.

use std::fmt::Write as _;

use super::Detail;
use super::GraphView;
use super::StepState;
use super::StepView;
use super::brief;
use super::duration;
use super::shortened;

/// The longest name shown whole.
const NAME: usize = 100;

/// A line a step, each output above what it is made of. A step stands above the one it builds upon, at the same depth;
/// what it only reads is one deeper. A step that several use stands where it is used first; `← #3` refers to it.
///
/// ```text
/// app (linux/amd64)
///   run?          ├─ #6 [app 3/3] RUN test: waits for COPY --from=build /out /
///   run     12ms  ├─ #5 [app 2/3] COPY --from=build /out /: files changed
///   cached  8.20s*│  ├─ #3 [build 2/2] RUN make
///   cached   40ms*│  └─ #2 [build 1/2] FROM docker.io/library/gcc
///   cached        └─ #4 [app 1/3] FROM docker.io/library/busybox
/// ```
pub fn tree(view: &GraphView) -> String {
    let mut text = String::new();
    let mut shown = vec![false; view.steps.len()];
    for output in &view.outputs {
        let _ = writeln!(text, "{}", output.label());
        match output.root {
            Some(root) => branch(view, root.step, &mut shown, &mut text),
            None => text.push_str("                  └─ nothing: an empty file system\n"),
        }
        text.push('\n');
    }
    text.push_str(&view.counts());
    text.push('\n');
    let times = view.times();
    if !times.is_empty() {
        let _ = writeln!(text, "{times} (*)");
    }
    text
}

/// A line that is still to be written.
struct Pending {
    step: usize,
    indent: String,
}

fn branch(view: &GraphView, root: usize, shown: &mut [bool], text: &mut String) {
    let mut pending = vec![Pending {
        step: root,
        indent: String::new(),
    }];
    while let Some(Pending { step: at, indent }) = pending.pop() {
        let step = &view.steps[at];
        let name = shortened(&brief(&step.name), NAME);
        if std::mem::replace(&mut shown[at], true) {
            let _ = writeln!(text, "{:18}{indent}└─ #{} {name}: see above", "", at + 1);
            continue;
        }
        let base = step.base.and_then(|base| step.inputs.get(base));
        let base = base.map(|input| input.step);
        let mut sides: Vec<usize> = Vec::new();
        for input in &step.inputs {
            if Some(input.step) != base && !sides.contains(&input.step) {
                sides.push(input.step);
            }
        }
        // What stands above already takes no line of its own here.
        let (known, new): (Vec<usize>, Vec<usize>) = sides.iter().partition(|&&side| shown[side]);
        let (joint, deeper) = match base {
            Some(_) => ("├─", "│  "),
            None => ("└─", "   "),
        };
        let _ = write!(
            text,
            "{}{indent}{joint} #{} {name}",
            columns(view, at),
            at + 1
        );
        let refers: Vec<String> = known.iter().map(|side| format!("#{}", side + 1)).collect();
        if !refers.is_empty() {
            let _ = write!(text, " ← {}", refers.join(" "));
        }
        if let Some(Detail::Source { age: Some(age), .. }) = &step.detail {
            let _ = write!(text, " (its tag as it was {age})");
        }
        if let Some(why) = view.why(at) {
            let _ = write!(text, ": {why}");
        }
        text.push('\n');
        if let Some(base) = base {
            pending.push(Pending {
                step: base,
                indent: indent.clone(),
            });
        }
        for side in new.into_iter().rev() {
            pending.push(Pending {
                step: side,
                indent: format!("{indent}{deeper}"),
            });
        }
    }
}

/// State, time and mark, 18 characters wide.
fn columns(view: &GraphView, at: usize) -> String {
    let StepView { state, millis, .. } = &view.steps[at];
    let word = match state {
        StepState::Undecided => "run?",
        other => other.word(),
    };
    let time = millis.map(duration).unwrap_or_default();
    let mark = if view.is_critical(at) { '*' } else { ' ' };
    format!("  {word:<7}{time:>7}{mark} ")
}
