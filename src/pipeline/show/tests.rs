//! Views of definitions made by hand and made up, planned by an evaluator that knows what it is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use rbuild_llb::CacheKey;
use rbuild_llb::Definition;
use rbuild_llb::ImageConfig;
use rbuild_llb::KeyRecord;
use rbuild_llb::Platform;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::ProxyEnv;
use rbuild_llb::op::SecurityMode;

use super::*;
use crate::picture;
use crate::solver::Earlier;
use crate::solver::Evaluate;
use crate::solver::Input;
use crate::solver::InputKey;
use crate::solver::Load;
use crate::solver::Made;
use crate::solver::StepControl;

#[derive(Debug, thiserror::Error)]
#[error("nothing fails here")]
struct Never;

/// Has the results of the steps whose names are listed, and remembers that all ran before.
#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
}

impl Evaluate for Known {
    type Output = ();
    type Error = Never;
    type Turn = ();

    fn definition_record(&self, vertex: &Vertex, inputs: &[InputKey]) -> Result<KeyRecord, Never> {
        let mut record = KeyRecord::new(vertex.op.kind());
        let inputs = inputs.iter().map(|input| KeyValue::from(input.key));
        record.field("name", vertex.meta.name.as_str());
        record.field("inputs", inputs.collect::<KeyValue>());
        Ok(record)
    }

    fn content_record(&self, _: &Vertex, _: &[Input<'_, ()>]) -> Result<Option<KeyRecord>, Never> {
        Ok(None)
    }

    fn load(&self, vertex: &Vertex, _: &KeyRecord, _: &CacheKey) -> Load<()> {
        match self.names.contains(&vertex.meta.name) {
            true => Load::Hit(()),
            false => Load::Miss,
        }
    }

    fn earlier(&self, _: &Vertex, record: &KeyRecord) -> Option<Earlier> {
        Some(Earlier {
            record: record.clone(),
            duration_ms: 0,
        })
    }

    fn turn(
        &self,
        _: &Vertex,
        _: &KeyRecord,
        _: &CacheKey,
        _: &StepControl<'_>,
    ) -> Result<Option<()>, Never> {
        Err(Never)
    }

    fn fail(&self, (): ()) {}

    fn execute(&self, _: &Vertex, _: &[Input<'_, ()>], _: &StepControl<'_>) -> Result<(), Never> {
        Err(Never)
    }

    fn store(&self, _: &Vertex, _: &[KeyRecord], (): &(), _: Made) -> Result<(), Never> {
        Err(Never)
    }
}

fn vertex(op: Op, name: &str, inputs: Vec<Edge>) -> Vertex {
    Vertex {
        op,
        inputs,
        platform: Platform::new("linux", "amd64", ""),
        meta: VertexMeta {
            name: name.to_owned(),
            ..VertexMeta::default()
        },
    }
}

fn image(reference: &str) -> Op {
    Op::Source(SourceOp::Image(ImageSource {
        reference: reference.to_owned(),
        digest: None,
    }))
}

fn exec(args: &[&str], env: &[&str], mounts: Vec<Mount>) -> Op {
    Op::Exec(ExecOp {
        args: args.iter().map(|&word| word.to_owned().into()).collect(),
        env: Arc::new(env.iter().map(|&pair| pair.to_owned()).collect()),
        cwd: "/".to_owned(),
        user: String::new(),
        mounts,
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        hostname: String::new(),
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        proxy_env: ProxyEnv::default(),
        limits: Arc::default(),
    })
}

fn mount(input: Option<usize>, dest: &str, kind: MountKind) -> Mount {
    Mount {
        input,
        selector: String::new(),
        dest: dest.to_owned(),
        output: None,
        readonly: false,
        kind,
    }
}

fn pruned(mut definition: Definition, roots: &[VertexId]) -> PrunedDefinition {
    for (at, root) in roots.iter().enumerate() {
        definition.outputs.push(Output {
            name: format!("target{at}"),
            platform: Platform::new("linux", "amd64", ""),
            root: Some(Edge::of(*root)),
            config: ImageConfig::scratch(&Platform::new("linux", "amd64", "")),
        });
    }
    definition.prune()
}

fn shown(definition: &PrunedDefinition, known: &[&str], args: &[(&str, &str)]) -> GraphView {
    let known = Known {
        names: known.iter().map(|&name| name.to_owned()).collect(),
    };
    let planned = solver::plan(definition, &known).unwrap();
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let conceal = Conceal::new(definition, [&args.iter().map(pair).collect()]);
    let dir = tempfile::tempdir().unwrap();
    let words = Words {
        trees: &rbuild_cache::Trees::open(dir.path()),
        conceal: &|text| conceal.text(text),
    };
    let why = |step: &PlannedStep<'_>, miss: &Miss| words.why(step.vertex, miss, |_| String::new());
    view(definition, planned.steps(), &conceal, why, |step| {
        Some(step.vertex.meta.name.len() as u64)
    })
}

#[test]
fn states_and_reasons() {
    let mut definition = Definition::new();
    let context = definition.add(vertex(
        Op::Source(SourceOp::Local(LocalSource {
            name: "context".to_owned(),
            include: Vec::new(),
            exclude: Vec::new(),
            modes: Default::default(),
        })),
        "[internal] load build context",
        Vec::new(),
    ));
    let base = definition.add(vertex(image("a"), "[one 1/2] FROM a", Vec::new()));
    let root = || mount(Some(0), "/", MountKind::Bind);
    let edges = |ids: &[VertexId]| ids.iter().map(|id| Edge::of(*id)).collect::<Vec<_>>();
    let make = definition.add(vertex(
        exec(
            &["make"],
            &[],
            vec![root(), mount(Some(1), "/src", MountKind::Bind)],
        ),
        "[one 2/2] RUN make",
        edges(&[base, context]),
    ));
    let other = definition.add(vertex(
        exec(&["other"], &[], vec![root()]),
        "[two 1/2] RUN other",
        edges(&[base]),
    ));
    let both = definition.add(vertex(
        exec(
            &["both"],
            &[],
            vec![
                mount(Some(0), "/one", MountKind::Bind),
                mount(Some(1), "/", MountKind::Bind),
            ],
        ),
        "[two 2/2] RUN both",
        edges(&[make, other]),
    ));
    let merged = definition.add(vertex(Op::Merge, "merge", edges(&[both, base])));
    let definition = pruned(definition, &[merged]);
    let view = shown(
        &definition,
        &[
            "[internal] load build context",
            "[one 1/2] FROM a",
            "[two 1/2] RUN other",
        ],
        &[],
    );
    let steps: Vec<_> = view
        .steps
        .iter()
        .map(|step| {
            (
                step.name.as_str(),
                step.state,
                step.waits_for.as_slice(),
                step.base,
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            (
                "[internal] load build context",
                StepState::Read,
                &[] as &[usize],
                None
            ),
            ("[one 1/2] FROM a", StepState::Cached, &[], None),
            ("[one 2/2] RUN make", StepState::Run, &[], Some(0)),
            ("[two 1/2] RUN other", StepState::Cached, &[], Some(0)),
            ("[two 2/2] RUN both", StepState::Undecided, &[2], Some(1)),
            // It has no key by content that could be known.
            ("merge", StepState::Run, &[4], Some(0)),
        ]
    );
    assert_eq!(view.steps[2].why.as_deref(), Some("removed from the cache"));
    assert_eq!(view.steps[4].why, None);
    assert_eq!(view.steps[4].millis, Some(18));
    assert_eq!(view.outputs[0].root.map(|root| root.step), Some(5));
}

/// Whatever a value that looks secret was put into.
#[test]
fn secrets_are_shown_nowhere() {
    let mut definition = Definition::new();
    let url = definition.add(vertex(
        Op::Source(SourceOp::Http(HttpSource {
            url: "https://me:hunter1@example.org/a".to_owned(),
            checksum: None,
            filename: "a".to_owned(),
            mode: None,
        })),
        "https://me:hunter1@example.org/a",
        Vec::new(),
    ));
    let run = definition.add(vertex(
        exec(
            &["login", "--as=hunter2"],
            &["API_TOKEN=hunter2", "GREETING=hi hunter3", "PASSWORD=q!q"],
            vec![mount(Some(0), "/", MountKind::Bind)],
        ),
        "[1/1] RUN login --as=hunter2 # hunter3",
        vec![Edge::of(url)],
    ));
    let view = shown(
        &pruned(definition, &[run]),
        &[],
        &[("NPM_TOKEN", "hunter3")],
    );
    for text in [
        picture::json(&view),
        picture::tree(&view),
        picture::svg(&view),
        picture::dot(&view),
        picture::mermaid(&view),
        format!("{view:?}"),
    ] {
        assert!(!text.contains("hunter") && !text.contains("q!q"), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&picture::json(&view)).unwrap();
    assert_eq!(
        json["steps"][1]["exec"]["env"],
        serde_json::json!({ "API_TOKEN": null, "GREETING": "hi ***", "PASSWORD": null })
    );
    assert_eq!(json["steps"][1]["name"], "[1/1] RUN login --as=*** # ***");
    assert_eq!(
        json["steps"][0]["source"]["reference"],
        "https://***@example.org/a"
    );
}

/// Vertices with inputs anywhere before them, some of them asked for.
fn random_definition() -> impl Strategy<Value = PrunedDefinition> {
    let inputs = proptest::collection::vec((any::<Index>(), 0..3_u32), 0..4);
    let made = proptest::collection::vec((inputs, any::<bool>()), 1..30);
    made.prop_map(|made| {
        let mut definition = Definition::new();
        let mut ids: Vec<VertexId> = Vec::new();
        let mut roots = Vec::new();
        for (at, (inputs, is_root)) in made.into_iter().enumerate() {
            let name = format!("step {at}");
            let edge = |(index, output): (Index, u32)| Edge {
                vertex: ids[index.index(at)],
                output,
            };
            let id = match at {
                0 => definition.add(vertex(image(&name), &name, Vec::new())),
                _ => {
                    let inputs: Vec<Edge> = inputs.into_iter().map(edge).collect();
                    let first = (!inputs.is_empty()).then_some(0);
                    let op = exec(&[&name], &[], vec![mount(first, "/", MountKind::Bind)]);
                    definition.add(vertex(op, &name, inputs))
                }
            };
            ids.push(id);
            if is_root {
                roots.push(id);
            }
        }
        pruned(definition, &roots)
    })
}

proptest! {
    #[test]
    fn json_has_every_step_once_with_its_edges(definition in random_definition()) {
        let view = shown(&definition, &["step 0", "step 3"], &[]);
        let json: serde_json::Value = serde_json::from_str(&picture::json(&view)).unwrap();
        let id = |id: &VertexId| format!("sha256:{}", id.hex());
        let edge = |edge: &Edge| serde_json::json!({ "step": id(&edge.vertex), "output": edge.output });
        let steps = json["steps"].as_array().unwrap();
        prop_assert_eq!(steps.len(), definition.len());
        for ((wanted, vertex), step) in definition.iter().zip(steps) {
            prop_assert_eq!(&step["id"], &id(&wanted));
            prop_assert_eq!(&step["name"], &vertex.meta.name);
            let inputs: Vec<_> = vertex.inputs.iter().map(edge).collect();
            prop_assert_eq!(&step["inputs"], &serde_json::Value::from(inputs));
        }
        let roots = definition.outputs.iter().map(|output| output.root.as_ref().map(edge));
        let found = json["outputs"].as_array().unwrap().iter();
        prop_assert!(roots.eq(found.map(|output| Some(output["root"].clone()))));
    }
}
