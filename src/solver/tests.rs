//! The solver, proven with arithmetic.

mod failures;
mod turns;
mod words;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use rbuild_llb::Definition;
use rbuild_llb::Edge;
use rbuild_llb::ImageConfig;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::definition::Output;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::definition::VertexMeta;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::ExecOp;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::ProxyEnv;
use rbuild_llb::op::SecurityMode;
use rbuild_llb::op::SourceOp;

use super::*;
use words::why;

/// Long enough for the slowest machine; only a test that fails waits for it.
const FOREVER: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Wrong {
    #[error("it was told to fail")]
    Told,
    #[error("it was stopped")]
    Stopped,
    #[error("nobody came")]
    Alone,
    #[error("a record cannot be made")]
    Record,
}

/// Adds numbers, and counts what it was asked.
#[derive(Default)]
struct Sums {
    stored: Mutex<BTreeMap<CacheKey, Vec<i64>>>,
    /// Definition and content records by step name, as the store's slots are.
    slots: Mutex<BTreeMap<(String, String), KeyRecord>>,
    unusable: Mutex<Vec<CacheKey>>,
    calls: Mutex<BTreeMap<String, u32>>,
    meeting: (Mutex<usize>, Condvar),
    busiest: AtomicU64,
    busy: AtomicU64,
    /// Told when a step that waits has begun.
    waiting: Option<mpsc::SyncSender<()>>,
    /// Turns that are held.
    turns: Arc<AtomicU64>,
}

/// Counted in [`Sums::turns`].
struct Turn(Arc<AtomicU64>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Sums {
    fn count(&self, what: &str, vertex: &Vertex) {
        let call = format!("{what} {}", vertex.meta.name);
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
    }

    /// What was asked since the last time, but for records, in order: `execute a×2`.
    fn calls(&self) -> String {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        let line = |(call, times): (String, u32)| match times {
            1 => call,
            times => format!("{call}×{times}"),
        };
        calls.into_iter().map(line).collect::<Vec<_>>().join(", ")
    }

    /// The definition key a step was stored under last.
    fn key(&self, name: &str) -> CacheKey {
        let slot = (name.to_owned(), "sum".to_owned());
        self.slots.lock().unwrap()[&slot].key()
    }

    fn meet(&self, people: usize) -> Result<(), Wrong> {
        let (here, door) = &self.meeting;
        let mut here = here.lock().unwrap();
        *here += 1;
        door.notify_all();
        while *here < people {
            let (guard, late) = door.wait_timeout(here, FOREVER).unwrap();
            here = guard;
            if late.timed_out() {
                return Err(Wrong::Alone);
            }
        }
        Ok(())
    }

    fn compute(
        &self,
        words: &[String],
        inputs: &[Input<'_, Vec<i64>>],
        step: &StepControl<'_>,
    ) -> Result<Vec<i64>, Wrong> {
        let inputs = inputs.iter().map(|i| i.output[i.index as usize]);
        let number = || words[1].parse::<i64>().unwrap();
        match words[0].as_str() {
            "konst" => Ok(vec![number()]),
            "sum" => Ok(vec![inputs.sum()]),
            "sum-and-product" => Ok(vec![inputs.clone().sum(), inputs.product()]),
            "meet" => self.meet(number() as usize).map(|()| vec![number()]),
            "panic" => panic!("as told"),
            "fail" => {
                for line in ["one\n", "two"] {
                    (step.events)(Event::Log(LogEvent {
                        vertex: step.digest.to_owned(),
                        stream: 1,
                        data: line.into(),
                        timestamp: Timestamp(0),
                    }));
                }
                if words.len() > 1 {
                    self.meet(number() as usize)?;
                }
                Err(Wrong::Told)
            }
            "wait" => {
                let (stop, stopped) = mpsc::channel();
                let _on_cancel = step.cancel.on_cancel(move || stop.send(()).unwrap());
                if words.len() > 1 {
                    self.meet(number() as usize)?;
                }
                if let Some(waiting) = &self.waiting {
                    waiting.send(()).unwrap();
                }
                stopped.recv_timeout(FOREVER).map_err(|_| Wrong::Alone)?;
                Err(Wrong::Stopped)
            }
            other => unreachable!("{other}"),
        }
    }
}

fn words(vertex: &Vertex) -> Vec<String> {
    match &vertex.op {
        Op::Exec(exec) => exec.args.iter().map(ToString::to_string).collect(),
        Op::Source(SourceOp::Local(local)) => local.include.clone(),
        other => unreachable!("{other:?}"),
    }
}

impl Evaluate for Sums {
    type Output = Vec<i64>;
    type Error = Wrong;
    type Turn = Turn;

    fn definition_record(&self, vertex: &Vertex, inputs: &[InputKey]) -> Result<KeyRecord, Wrong> {
        let words = words(vertex);
        if words[0] == "no-record" {
            return Err(Wrong::Record);
        }
        let mut record = KeyRecord::new("sum");
        record.field("args", words.into_iter().collect::<KeyValue>());
        let inputs = inputs.iter().enumerate().map(|(at, input)| {
            let pair = KeyValue::List(vec![input.key.into(), input.index.into()]);
            (at.to_string(), pair)
        });
        record.field("inputs", KeyValue::Map(inputs.collect()));
        Ok(record)
    }

    fn content_record(
        &self,
        vertex: &Vertex,
        inputs: &[Input<'_, Vec<i64>>],
    ) -> Result<Option<KeyRecord>, Wrong> {
        if inputs.is_empty() {
            return Ok(None);
        }
        let mut record = KeyRecord::new("sum/content");
        record.field("args", words(vertex).into_iter().collect::<KeyValue>());
        let values = inputs.iter().map(|i| i.output[i.index as usize]);
        record.field("inputs", values.collect::<KeyValue>());
        Ok(Some(record))
    }

    fn load(&self, vertex: &Vertex, _: &KeyRecord, key: &CacheKey) -> Load<Vec<i64>> {
        self.count("load", vertex);
        if self.unusable.lock().unwrap().contains(key) {
            return Load::Unusable("its bytes are gone".into());
        }
        match self.stored.lock().unwrap().get(key) {
            Some(output) => Load::Hit(output.clone()),
            None => Load::Miss,
        }
    }

    fn earlier(&self, vertex: &Vertex, record: &KeyRecord) -> Option<Earlier> {
        let slot = (vertex.meta.name.clone(), record.kind.clone());
        let record = self.slots.lock().unwrap().get(&slot).cloned()?;
        Some(Earlier {
            record,
            duration_ms: 1,
        })
    }

    fn turn(
        &self,
        vertex: &Vertex,
        _record: &KeyRecord,
        key: &CacheKey,
        step: &StepControl<'_>,
    ) -> Result<Option<Turn>, Wrong> {
        let words = words(vertex);
        let mut met = Ok(());
        match words.last().map(String::as_str) {
            Some("in-turn") => {}
            Some("after-another") => {
                let made = vec![words[1].parse().unwrap()];
                self.stored.lock().unwrap().insert(*key, made);
            }
            Some("after-a-meeting") => (step.idle)(&mut || met = self.meet(2)),
            Some("never") => {
                (step.idle)(&mut || met = self.compute(&["wait".into()], &[], step).map(drop));
            }
            _ => return Ok(None),
        }
        met?;
        self.turns.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Turn(Arc::clone(&self.turns))))
    }

    fn fail(&self, turn: Turn) {
        *self.calls.lock().unwrap().entry("fail".into()).or_default() += 1;
        drop(turn);
    }

    fn execute(
        &self,
        vertex: &Vertex,
        inputs: &[Input<'_, Vec<i64>>],
        step: &StepControl<'_>,
    ) -> Result<Vec<i64>, Wrong> {
        self.count("execute", vertex);
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(busy, Ordering::SeqCst);
        let result = self.compute(&words(vertex), inputs, step);
        self.busy.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn store(
        &self,
        vertex: &Vertex,
        records: &[KeyRecord],
        output: &Vec<i64>,
        made: Made,
    ) -> Result<(), Wrong> {
        let (what, count) = match made {
            Made::Executed { started, completed } => {
                assert!(started < completed);
                ("store", records.len())
            }
            Made::Found { by } => {
                assert_eq!(self.stored.lock().unwrap().get(&by), Some(output));
                ("alias", records.len())
            }
        };
        self.count(&format!("{what}({count})"), vertex);
        match words(vertex).last().map(String::as_str) {
            Some("in-turn") => assert_eq!(self.turns.load(Ordering::SeqCst), 1),
            Some("published-when-two-meet") => self.meet(2)?,
            Some("unpublishable") => return Err(Wrong::Told),
            _ => {}
        }
        for record in records {
            let slot = (vertex.meta.name.clone(), record.kind.clone());
            self.slots.lock().unwrap().insert(slot, record.clone());
            self.stored
                .lock()
                .unwrap()
                .insert(record.key(), output.clone());
        }
        Ok(())
    }
}

/// A graph in the making. Steps are written `name: word word < input input:output`.
#[derive(Default)]
struct Graph {
    definition: Definition,
    names: BTreeMap<String, VertexId>,
}

impl Graph {
    fn of(lines: &[&str], roots: &[&str]) -> PrunedDefinition {
        let mut graph = Self::default();
        lines.iter().for_each(|line| graph.add(line));
        graph.prune(roots)
    }

    /// A `!` after the name is `--no-cache`, a `^` makes a source of it.
    fn add(&mut self, line: &str) {
        let (name, rest) = line.split_once(": ").unwrap();
        let (args, inputs) = rest.split_once(" < ").unwrap_or((rest, ""));
        let args = args.split(' ').map(str::to_owned).collect();
        let (ignore_cache, source) = (name.ends_with('!'), name.ends_with('^'));
        let name = name.trim_end_matches(['!', '^']).to_owned();
        let inputs = inputs.split_whitespace().map(|input| {
            let (name, output) = input.split_once(':').unwrap_or((input, "0"));
            Edge {
                vertex: self.names[name],
                output: output.parse().unwrap(),
            }
        });
        let op = if source {
            Op::Source(SourceOp::Local(LocalSource {
                name: String::new(),
                include: args,
                exclude: Vec::new(),
                modes: Default::default(),
            }))
        } else {
            Op::Exec(exec(args))
        };
        let vertex = Vertex {
            op,
            inputs: inputs.collect(),
            platform: Platform::new("linux", "amd64", ""),
            meta: VertexMeta {
                name: name.clone(),
                spans: Vec::new(),
                ignore_cache,
                args: Vec::new(),
            },
        };
        let id = self.definition.add(vertex);
        self.names.insert(name, id);
    }

    fn prune(mut self, roots: &[&str]) -> PrunedDefinition {
        for root in roots {
            self.definition.outputs.push(Output {
                name: (*root).to_owned(),
                platform: Platform::new("linux", "amd64", ""),
                root: self.names.get(*root).copied().map(Edge::of),
                config: ImageConfig::default(),
            });
        }
        self.definition.prune()
    }
}

fn exec(args: Vec<String>) -> ExecOp {
    ExecOp {
        args: args.into_iter().map(Into::into).collect(),
        env: Arc::default(),
        cwd: "/".into(),
        user: String::new(),
        mounts: Vec::new(),
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        hostname: String::new(),
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        proxy_env: ProxyEnv::default(),
        limits: Arc::default(),
    }
}

/// What one solve did.
struct Run {
    result: Result<Vec<Option<Vec<i64>>>, SolveError<Wrong>>,
    events: Vec<Event>,
    /// What the plan said, a line a step that must run.
    why: String,
}

impl Run {
    /// Plans and solves with `jobs`.
    fn with(sums: &Sums, graph: &PrunedDefinition, jobs: usize, cancel: &CancelToken) -> Self {
        let plan = plan(graph, sums).unwrap();
        let why: Vec<String> = plan.steps().filter_map(|step| why(&step)).collect();
        let complete = plan.outputs();
        assert_eq!(plan.is_complete(), complete.is_some());
        assert_eq!(plan.pending().count(), why.len());
        let (time, events) = (AtomicU64::new(0), RefCell::new(Vec::new()));
        let options = SolveOptions {
            jobs,
            cancel,
            events: &|event| events.borrow_mut().push(event),
            clock: &|| Timestamp(time.fetch_add(1, Ordering::SeqCst).into()),
            may_fail: &|_| false,
        };
        let result = solve(plan, sums, options).map(|solved| {
            assert!(solved.failed.is_empty());
            let value = |root| match root {
                Root::Empty => None,
                Root::Made(value) => Some(value),
                Root::Lost => panic!("nothing failed"),
            };
            solved.roots.into_iter().map(value).collect()
        });
        if let Some(outputs) = complete {
            assert_eq!(result.as_ref().ok(), Some(&outputs));
        }
        let run = Self {
            result,
            events: events.into_inner(),
            why: why.concat(),
        };
        run.check_events(graph);
        run
    }

    fn of(sums: &Sums, graph: &PrunedDefinition) -> Self {
        Self::with(sums, graph, 2, &CancelToken::new())
    }

    fn values(&self) -> Vec<Option<Vec<i64>>> {
        self.result.as_ref().unwrap().clone()
    }

    fn vertices(&self) -> impl DoubleEndedIterator<Item = &VertexEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Vertex(vertex) => Some(vertex),
            _ => None,
        })
    }

    /// How a step was last reported.
    fn last(&self, name: &str) -> &VertexEvent {
        self.vertices().rev().find(|v| v.name == name).unwrap()
    }

    /// What holds of every solve: each step is reported with its inputs, in the order of the graph at first, none
    /// ends before it started, and none is left running.
    fn check_events(&self, graph: &PrunedDefinition) {
        let mut first: Vec<&VertexEvent> = Vec::new();
        let mut open: Vec<&str> = Vec::new();
        for event in self.vertices() {
            if first.iter().all(|known| known.digest != event.digest) {
                first.push(event);
            }
            match (event.started, event.completed) {
                (None, completed) => assert_eq!(completed, None),
                (Some(_), None) => open.push(&event.digest),
                (Some(started), Some(completed)) => {
                    assert!(started <= completed);
                    open.retain(|digest| *digest != event.digest);
                }
            }
        }
        assert_eq!(open, [""; 0], "{:#?}", self.events);
        assert_eq!(first.len(), graph.len());
        for (event, (id, vertex)) in first.iter().zip(graph.iter()) {
            assert_eq!(event.digest, format!("sha256:{}", id.hex()));
            let inputs = vertex.inputs.iter();
            let inputs: Vec<String> = inputs.map(|edge| event_digest(&edge.vertex)).collect();
            assert_eq!(event.inputs, inputs);
        }
    }
}

const DIAMOND: [&str; 4] = ["a: konst 1", "b: sum < a a", "c: sum < a", "d: sum < b c"];

#[test]
fn a_diamond_runs_each_step_once_and_then_loads_only_its_root() {
    let sums = Sums::default();
    let graph = Graph::of(&DIAMOND, &["d"]);
    let run = Run::of(&sums, &graph);
    assert_eq!(run.values(), [Some(vec![3])]);
    assert_eq!(
        run.why,
        "a: first time\nb: first time\nc: first time\nd: first time\n"
    );
    assert_eq!(
        sums.calls(),
        "execute a, execute b, execute c, execute d, load a, load b×2, load c×2, load d×2, \
         store(1) a, store(2) b, store(2) c, store(2) d"
    );
    let run = Run::of(&sums, &graph);
    assert_eq!(run.values(), [Some(vec![3])]);
    assert_eq!((sums.calls().as_str(), run.why.as_str()), ("load d", ""));
    assert_eq!(run.events.len(), 4);
    assert!(
        run.vertices()
            .all(|v| v.cached && v.started.is_some() && v.error.is_empty())
    );
}

#[test]
fn what_only_hits_use_is_neither_loaded_nor_run() {
    let sums = Sums::default();
    Run::of(&sums, &Graph::of(&DIAMOND, &["d"]));
    sums.calls();
    // `a` is gone, but `b`, which it was for, is not.
    let more = [&DIAMOND[..], &["e: sum < b"]].concat();
    sums.stored.lock().unwrap().remove(&sums.key("a"));
    let run = Run::of(&sums, &Graph::of(&more, &["e", "d"]));
    assert_eq!(run.values(), [Some(vec![2]), Some(vec![3])]);
    assert_eq!(
        sums.calls(),
        "execute e, load b, load d, load e×2, store(2) e"
    );
    assert!(run.last("a").cached && run.last("c").cached && !run.last("e").cached);
}

#[test]
fn an_equal_result_cuts_the_rebuild_off() {
    let sums = Sums::default();
    let graph = |konst| Graph::of(&[konst, "b: sum < a", "c: sum < b"], &["c"]);
    Run::of(&sums, &graph("a: konst 1"));
    sums.calls();
    let run = Run::of(&sums, &graph("a: konst 1 again"));
    assert_eq!(run.values(), [Some(vec![1])]);
    assert_eq!(
        run.why,
        "a: args changed\nb: inputs [0] rebuilt\nc: inputs [0] rebuilt\n"
    );
    assert_eq!(
        sums.calls(),
        "alias(1) b, alias(1) c, execute a, load a, load b×2, load c×2, store(1) a"
    );
    assert!(!run.last("a").cached && run.last("b").cached && run.last("c").cached);
    // The alias answers the next build at once.
    Run::of(&sums, &graph("a: konst 1 again"));
    assert_eq!(sums.calls(), "load c");
}

#[test]
fn a_result_found_by_content_needs_no_worker() {
    let sums = Sums::default();
    Run::of(&sums, &Graph::of(&["a: konst 1", "b: sum < a"], &["b"]));
    Run::of(&sums, &Graph::of(&["a: konst 1 again"], &["a"]));
    sums.calls();
    let graph = Graph::of(&["a: konst 1 again", "b: sum < a"], &["b"]);
    let found = plan(&graph, &sums).unwrap();
    assert!(found.is_complete());
    let by = found.steps().map(|step| match step.state {
        PlannedState::Cached { by } => Some(by == step.key),
        _ => None,
    });
    let by: Vec<_> = by.collect();
    assert_eq!(
        by,
        [Some(true), Some(false)],
        "the definition key alone finds `a`"
    );
    assert_eq!(sums.calls(), "load a, load b×2");
    Run::of(&sums, &graph);
    assert_eq!(sums.calls(), "alias(1) b, load a, load b×2");
    Run::of(&sums, &graph);
    assert_eq!(sums.calls(), "load b");
}

#[test]
fn no_cache_runs_and_stores_and_users_go_by_content() {
    let sums = Sums::default();
    let graph = |b| Graph::of(&["a: konst 1", b, "c: sum < b"], &["c"]);
    Run::of(&sums, &graph("b: sum < a"));
    sums.calls();
    let run = Run::of(&sums, &graph("b!: sum < a"));
    assert_eq!(run.why, "b: --no-cache\nc: inputs [0] rebuilt\n");
    assert_eq!(
        sums.calls(),
        "alias(1) c, execute b, load a, load c, store(2) b"
    );
    let again = graph("b!: sum < a");
    let planned = plan(&again, &sums).unwrap();
    let states: Vec<PlannedState<'_>> = planned.steps().map(|step| step.state).collect();
    assert!(matches!(states[0], PlannedState::Cached { .. }));
    assert_eq!(states[1], PlannedState::Run(&Miss::NoCache));
    assert_eq!(states[2], PlannedState::Undecided(&Miss::Inputs(vec![0])));
    // Had `b` come out as 99 the last time, the definition key of `c` would stand for what was made of that.
    for name in ["b", "c"] {
        sums.stored.lock().unwrap().insert(sums.key(name), vec![99]);
    }
    assert_eq!(
        Run::of(&sums, &graph("b: sum < a")).values(),
        [Some(vec![99])]
    );
    assert_eq!(
        Run::of(&sums, &graph("b!: sum < a")).values(),
        [Some(vec![1])]
    );
    assert_eq!(
        Run::of(&sums, &graph("b: sum < a")).values(),
        [Some(vec![1])]
    );
}

#[test]
fn a_step_can_have_several_outputs_and_a_target_none() {
    let sums = Sums::default();
    let lines = [
        "a: konst 3",
        "b: sum-and-product < a a",
        "c: sum < b:0 b:1",
        "d: sum < b:1",
        "e: sum < b:0",
    ];
    let run = Run::of(&sums, &Graph::of(&lines, &["c", "nothing", "d", "e"]));
    assert_eq!(
        run.values(),
        [Some(vec![15]), None, Some(vec![9]), Some(vec![6])]
    );
    let nothing = Run::of(&sums, &Graph::of(&[], &["nothing"]));
    assert_eq!((nothing.values(), nothing.events.len()), (vec![None], 0));
}

#[test]
fn independent_steps_overlap_up_to_the_limit() {
    let meet = |n: usize| format!("m{n}: meet 4 {n}");
    let lines: Vec<String> = (0..4)
        .map(meet)
        .chain(["s: sum < m0 m1 m2 m3".into()])
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sums = Sums::default();
    let run = Run::with(&sums, &Graph::of(&lines, &["s"]), 4, &CancelToken::new());
    assert_eq!(run.values(), [Some(vec![16])]);
    assert_eq!(sums.busiest.load(Ordering::SeqCst), 4);

    let konst = |n: usize| format!("k{n}: konst {n}");
    let lines: Vec<String> = (0..50).map(konst).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let roots: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    let sums = Sums::default();
    Run::with(&sums, &Graph::of(&lines, &roots), 3, &CancelToken::new());
    assert!(sums.busiest.load(Ordering::SeqCst) <= 3);
    // 0 would wait for ever.
    Run::with(
        &Sums::default(),
        &Graph::of(&DIAMOND, &["d"]),
        0,
        &CancelToken::new(),
    );
}

#[test]
fn sources_do_not_take_the_place_of_steps() {
    let lines = ["a^: meet 2", "b: meet 2", "c: sum < a b"];
    let sums = Sums::default();
    let run = Run::with(&sums, &Graph::of(&lines, &["c"]), 1, &CancelToken::new());
    assert_eq!(run.values(), [Some(vec![4])]);
}

#[test]
fn a_step_starts_before_its_input_is_published() {
    let lines = ["a: konst 1 published-when-two-meet", "b: meet 2 < a"];
    let sums = Sums::default();
    let run = Run::with(&sums, &Graph::of(&lines, &["b"]), 1, &CancelToken::new());
    assert_eq!(run.values(), [Some(vec![2])]);
    assert_eq!(
        sums.calls(),
        "execute a, execute b, load a, load b×2, store(1) a, store(2) b"
    );
}

#[test]
fn a_result_that_cannot_be_published_fails_its_step() {
    let lines = ["a: konst 1 unpublishable", "b: wait < a"];
    let run = Run::of(&Sums::default(), &Graph::of(&lines, &["b"]));
    match run.result.as_ref().unwrap_err() {
        SolveError::Failed { name, source, .. } => {
            assert_eq!((name.as_str(), source), ("a", &Wrong::Told));
        }
        other => panic!("{other}"),
    }
    assert_eq!(run.last("a").error, "it was told to fail");
}

#[test]
fn a_result_without_bytes_is_made_again() {
    let sums = Sums::default();
    let graph = Graph::of(&["a: konst 1"], &["a"]);
    Run::of(&sums, &graph);
    sums.unusable.lock().unwrap().push(sums.key("a"));
    assert_eq!(Run::of(&sums, &graph).why, "a: its bytes are gone\n");
    sums.unusable.lock().unwrap().clear();
    sums.stored.lock().unwrap().clear();
    assert_eq!(Run::of(&sums, &graph).why, "a: removed from the cache\n");
}

#[test]
fn a_record_that_cannot_be_made_names_its_step() {
    let graph = Graph::of(&["a: konst 1", "b: no-record < a"], &["b"]);
    let error = plan(&graph, &Sums::default()).err().unwrap();
    assert_eq!((error.name.as_str(), error.source), ("b", Wrong::Record));
}

#[test]
fn a_thousand_steps() {
    let mut random = 12345u64;
    let mut below = |n: u64| {
        // Knuth's MMIX generator; the high bits are the good ones.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let (mut graph, mut values) = (Graph::default(), Vec::<i64>::new());
    for n in 0..1000u64 {
        if n < 10 {
            graph.add(&format!("n{n}: konst {n}"));
            values.push(n as i64);
            continue;
        }
        // Inputs near by make it deep; at most two keep the numbers small enough with the modulus below.
        let inputs: Vec<usize> = (0..=below(2))
            .map(|_| (n - 1 - below(10)) as usize)
            .collect();
        let sum: i64 = inputs
            .iter()
            .map(|&at| values[at])
            .fold(0, i64::wrapping_add);
        if sum > 1 << 40 {
            graph.add(&format!("n{n}: konst {n}"));
            values.push(n as i64);
            continue;
        }
        let names: Vec<String> = inputs.iter().map(|at| format!("n{at}")).collect();
        graph.add(&format!("n{n}: sum {n} < {}", names.join(" ")));
        values.push(sum);
    }
    let roots: Vec<String> = (0..1000).map(|n| format!("n{n}")).collect();
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    let graph = graph.prune(&roots);
    let sums = Sums::default();
    let want: Vec<_> = values.iter().map(|&value| Some(vec![value])).collect();
    assert_eq!(
        Run::with(&sums, &graph, 8, &CancelToken::new()).values(),
        want
    );
    let executed = std::mem::take(&mut *sums.calls.lock().unwrap());
    let executed = executed
        .iter()
        .filter(|(call, _)| call.starts_with("execute"));
    assert!(executed.clone().all(|(_, &times)| times == 1));
    assert_eq!(executed.count(), 1000);
    assert_eq!(Run::of(&sums, &graph).values(), want);
}
