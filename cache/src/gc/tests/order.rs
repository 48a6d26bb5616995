//! What goes before what.

use super::*;
use crate::failures::Failure;
use crate::fixture::failed_step;

impl Fixture {
    /// A step that failed above the result of another.
    fn failed(&self, below: &Step) -> Failure {
        let layer = LayerRef {
            layer: below.tree,
            origin: None,
            created: None,
            single: false,
        };
        let mut step = failed_step("plan", "build");
        step.inputs = vec![Snapshot {
            layers: vec![layer],
            root: below.tree,
        }];
        let scratch = self.store.scratch().unwrap();
        let dir = scratch.path().join("failure");
        fs::create_dir_all(dir.join("upper")).unwrap();
        fs::write(dir.join("upper/file"), "x".repeat(10_000)).unwrap();
        self.store.keep_failure(&dir, &step).unwrap()
    }
}

#[test]
fn what_failed_keeps_what_it_stands_on_and_goes_before_all_else() {
    let store = Fixture::new();
    let below = store.step("below");
    let failure = store.failed(&below);
    let kept = |failure: &Failure| failure.path.join("upper/file").exists();
    let usage = store.store.usage().unwrap();
    let item = usage
        .items
        .iter()
        .find(|item| item.kind == UsageKind::ExecFailed);
    assert!(item.is_some_and(|item| item.size > 10_000 && item.is_reclaimable()));
    // The step is no result any more, and its layer stays.
    let all_else = Policy {
        select: Select {
            wanted: Some(&|item| item.kind != UsageKind::ExecFailed),
            ..nothing().select
        },
        ..nothing()
    };
    store.collect(&all_else);
    assert!(kept(&failure) && store.has_tree(&below.tree) && below.dir.join("file").exists());

    // A limit that one of both has to go for; what failed was used last.
    let below = store.step("below");
    store.used(&below, Duration::from_secs(86_400));
    let left = store.collect(&everything()).left;
    assert!(kept(&failure));
    let limit = Policy {
        max_used: Some(left - 1),
        ..nothing()
    };
    let inside = failure.enter().unwrap().unwrap();
    assert!(failure.enter().unwrap().is_none());
    store.collect(&limit);
    assert!(kept(&failure), "somebody is in it");
    drop(inside);
    let below = store.step("below");
    store.collect(&limit);
    assert!(!kept(&failure) && store.has(&below));

    // Nobody looked into it for a week.
    let failure = store.failed(&below);
    store.collect(&everything());
    assert!(kept(&failure));
    let week = SystemTime::now() - Duration::from_secs(8 * 86_400);
    File::open(&failure.path)
        .unwrap()
        .set_modified(week)
        .unwrap();
    store.collect(&everything());
    assert!(!kept(&failure) && store.has(&below));
}

#[test]
fn the_least_recently_used_goes_first() {
    let store = Fixture::new();
    let steps: Vec<Step> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| store.step(name))
        .collect();
    for (days, step) in [30, 10, 20, 40].into_iter().zip(&steps) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    let left = store.collect(&everything()).left;
    let have = || -> Vec<bool> { steps.iter().map(|step| store.has(step)).collect() };
    // Looking at them has used them.
    assert_eq!(have(), [true; 4]);
    for (days, step) in [30, 10, 20, 40].into_iter().zip(&steps) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    let limit = |max_used| Policy {
        max_used: Some(max_used),
        ..nothing()
    };
    let small = store.collect(&limit(left - 1));
    assert!(small.left < left);
    assert_eq!(have(), [true, true, true, false]);
    for (days, step) in [30, 10, 20].into_iter().zip(&steps) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    let old = Policy {
        keep_duration: Some(Duration::from_secs(25 * 86_400)),
        ..nothing()
    };
    store.collect(&old);
    assert_eq!(have(), [false, true, true, false]);
    for (days, step) in [0, 10, 20].into_iter().zip(&steps).skip(1) {
        store.used(step, Duration::from_secs(days * 86_400));
    }
    let until = Policy {
        select: Select {
            unused_for: Duration::from_secs(15 * 86_400),
            ..nothing().select
        },
        ..Policy::default()
    };
    store.collect(&until);
    assert_eq!(have(), [false, true, false, false]);
    let reserved = Policy {
        reserved: Some(u64::MAX),
        ..nothing()
    };
    store.collect(&reserved);
    assert_eq!(have(), [false, true, false, false]);
}
