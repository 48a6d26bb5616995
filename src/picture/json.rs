//! For programs. The shape is documented in `docs/plan-output.md`; what changes it otherwise than by adding fields
//! raises [`VERSION`].

use serde::Serialize;

use super::Detail;
use super::GraphView;
use super::InputView;
use super::Place;
use super::StepState;
use super::StepView;

const VERSION: u32 = 1;

/// The whole view as JSON.
pub fn json(view: &GraphView) -> String {
    let document = Document::new(view);
    serde_json::to_string_pretty(&document).expect("no map in it has keys other than strings")
        + "\n"
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    outputs: Vec<Output<'a>>,
    critical_path: Path<'a>,
    seconds: f64,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Path<'a> {
    seconds: f64,
    steps: Vec<&'a str>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    platform: &'a str,
    root: Option<Edge<'a>>,
}

#[derive(Serialize)]
struct Edge<'a> {
    step: &'a str,
    output: u32,
}

#[derive(Serialize)]
struct Step<'a> {
    id: &'a str,
    key: &'a str,
    kind: &'static str,
    name: &'a str,
    stage: Option<&'a str>,
    platform: &'a str,
    inputs: Vec<Edge<'a>>,
    #[serde(flatten)]
    detail: Option<&'a Detail>,
    at: Option<&'a Place>,
    state: StepState,
    why: Option<&'a str>,
    waits_for: Vec<&'a str>,
    seconds: Option<f64>,
    critical: bool,
}

impl<'a> Document<'a> {
    fn new(view: &'a GraphView) -> Self {
        let id = |step: usize| view.steps[step].id.as_str();
        let edge = |&InputView { step, output }: &InputView| Edge {
            step: id(step),
            output,
        };
        let step = |(position, step): (usize, &'a StepView)| Step {
            id: &step.id,
            key: &step.key,
            kind: step.kind,
            name: &step.name,
            stage: step.stage.as_deref().filter(|stage| !stage.is_empty()),
            platform: &step.platform,
            inputs: step.inputs.iter().map(edge).collect(),
            detail: step.detail.as_ref(),
            at: step.at.as_ref(),
            state: step.state,
            why: step.why.as_deref(),
            waits_for: step.waits_for.iter().map(|&at| id(at)).collect(),
            seconds: step.millis.map(seconds),
            critical: view.is_critical(position),
        };
        let totals = view.totals();
        Self {
            version: VERSION,
            outputs: view
                .outputs
                .iter()
                .map(|output| Output {
                    name: &output.name,
                    platform: &output.platform,
                    root: output.root.as_ref().map(edge),
                })
                .collect(),
            critical_path: Path {
                seconds: seconds(totals.critical_millis),
                steps: view.critical.iter().map(|&at| id(at)).collect(),
            },
            seconds: seconds(totals.millis),
            steps: view.steps.iter().enumerate().map(step).collect(),
        }
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
