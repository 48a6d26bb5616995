//! Steps that other builds carry out.

use super::*;

#[test]
fn a_turn_is_held_until_the_result_is_published_and_failure_is_told() {
    let sums = Sums::default();
    let graph = Graph::of(&["a: konst 1 in-turn", "b: sum in-turn < a"], &["b"]);
    let run = Run::of(&sums, &graph);
    assert_eq!(run.values(), [Some(vec![1])]);
    assert_eq!(
        sums.calls(),
        "execute a, execute b, load a×2, load b×3, store(1) a, store(2) b"
    );
    let run = Run::of(&sums, &Graph::of(&["f: fail 1 in-turn"], &["f"]));
    assert!(run.result.is_err());
    assert_eq!(sums.calls(), "execute f, fail, load f×2");
    assert_eq!(sums.turns.load(Ordering::SeqCst), 0);
}

#[test]
fn what_another_build_made_meanwhile_is_not_made_again() {
    let sums = Sums::default();
    let graph = Graph::of(
        &["a: konst 5 after-another", "b: sum 7 after-another < a"],
        &["b"],
    );
    let run = Run::of(&sums, &graph);
    assert_eq!(run.values(), [Some(vec![7])]);
    assert!(run.last("a").cached && run.last("b").cached);
    assert_eq!(sums.calls(), "alias(1) b, load a×2, load b×3");
    // Who asked for it to be made gets what was made for them.
    let run = Run::of(&sums, &Graph::of(&["c!: konst 6 after-another"], &["c"]));
    assert!(!run.last("c").cached);
    assert_eq!(sums.calls(), "execute c, store(1) c");
}

#[test]
fn a_step_that_waits_for_another_build_takes_no_place() {
    let sums = Sums::default();
    let lines = ["a: konst 1 after-a-meeting", "b: meet 2", "c: sum < a b"];
    let graph = Graph::of(&lines, &["c"]);
    let run = Run::with(&sums, &graph, 1, &CancelToken::new());
    assert_eq!(run.values(), [Some(vec![3])]);
    assert_eq!(sums.busiest.load(Ordering::SeqCst), 1);

    // Nor does it keep a build that fails.
    let sums = Sums::default();
    let graph = Graph::of(&["a: konst 1 never", "b: fail", "c: sum < a b"], &["c"]);
    let run = Run::with(&sums, &graph, 1, &CancelToken::new());
    assert_eq!(run.result.unwrap_err().to_string(), "`b` failed");
    assert_eq!(sums.calls(), "execute b, load a, load b, load c");
}
