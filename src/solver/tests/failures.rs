//! Steps that fail, and builds that are cancelled.

use super::*;

#[test]
fn a_failure_names_its_step_and_stops_the_others() {
    let lines = [
        "w: wait 2",
        "f: fail 2",
        "never: sum < f",
        "s: sum < w never",
    ];
    let sums = Sums::default();
    let graph = Graph::of(&lines, &["s"]);
    let run = Run::of(&sums, &graph);
    match run.result.as_ref().unwrap_err() {
        SolveError::Failed {
            vertex,
            name,
            log_tail,
            source,
        } => {
            assert_eq!((name.as_str(), source), ("f", &Wrong::Told));
            assert_eq!(log_tail, &["one", "two"]);
            assert_eq!(graph.get(vertex).unwrap().meta.name, "f");
        }
        other => panic!("{other}"),
    }
    assert_eq!(run.last("f").error, "it was told to fail");
    assert_eq!(run.last("w").error, "context canceled");
    assert_eq!(run.last("never").started, None);
    let log = run.events.iter().filter(|e| matches!(e, Event::Log(_)));
    assert_eq!(log.count(), 2);
    assert_eq!(
        sums.calls(),
        "execute f, execute w, load f, load never, load s, load w"
    );
}

#[test]
fn cancelling_stops_what_runs_and_starts_nothing() {
    let (waiting, begun) = mpsc::sync_channel(2);
    let sums = Sums {
        waiting: Some(waiting),
        ..Sums::default()
    };
    let cancel = CancelToken::new();
    let graph = Graph::of(&["a: wait", "b: wait 1", "s: sum < a b"], &["s"]);
    let run = std::thread::scope(|scope| {
        let from_outside = cancel.clone();
        scope.spawn(move || {
            begun.recv().unwrap();
            begun.recv().unwrap();
            from_outside.cancel();
        });
        Run::with(&sums, &graph, 2, &cancel)
    });
    assert!(matches!(run.result, Err(SolveError::Cancelled)));
    assert_eq!(run.last("a").error, "context canceled");
    assert_eq!(run.last("s").started, None);
    sums.calls();
    // Cancelled before it began, and with nothing to run.
    let run = Run::with(&sums, &graph, 2, &cancel);
    assert!(matches!(run.result, Err(SolveError::Cancelled)));
    assert_eq!(sums.calls(), "load a, load b, load s");
}

#[test]
fn a_panic_is_an_error() {
    let sums = Sums::default();
    let run = Run::of(
        &sums,
        &Graph::of(&["p: panic", "w: wait", "s: sum < p w"], &["s"]),
    );
    let error = run.result.as_ref().unwrap_err();
    assert_eq!(error.to_string(), "`p` panicked: as told");
    assert_eq!(run.last("p").error, "`p` panicked: as told");
}
