use super::*;
use crate::fixture::failed_step;

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { _dir: dir, store }
    }

    /// Keeps a step of a build of a plan that failed at a time.
    fn keep(&self, plan: &str, build: &str, failed: u128) -> Failure {
        let mut step = failed_step(plan, build);
        step.failed = failed;
        let scratch = self.store.scratch().unwrap();
        let dir = scratch.path().join("failure");
        fs::create_dir_all(dir.join("upper")).unwrap();
        self.store.keep_failure(&dir, &step).unwrap()
    }

    fn kept(&self) -> Vec<(String, u128)> {
        let failures = self.store.failures().unwrap().into_iter();
        let steps = failures.map(|failure| failure.step.unwrap());
        steps.map(|step| (step.plan, step.failed)).collect()
    }
}

fn of<const N: usize>(kept: [(&str, u128); N]) -> Vec<(String, u128)> {
    kept.map(|(plan, failed)| (plan.to_owned(), failed)).into()
}

#[test]
fn what_is_kept_comes_back_as_it_was() {
    let fixture = Fixture::new();
    let mut step = failed_step("plan", "build");
    step.op.env = std::sync::Arc::new(vec!["A=b".to_owned()]);
    step.op
        .proxy_env
        .env
        .push("http_proxy=http://me:secret@proxy".to_owned());
    let scratch = fixture.store.scratch().unwrap();
    let dir = scratch.path().join("failure");
    fs::create_dir_all(dir.join("upper")).unwrap();
    let kept = fixture.store.keep_failure(&dir, &step).unwrap();
    assert!(kept.path.join("upper").is_dir() && !dir.exists() && !kept.in_use);
    // Proxies, whose passwords they are, are those of whoever enters.
    step.op.proxy_env.env.clear();
    assert_eq!(kept.step.as_ref(), Some(&step));
    assert_eq!(fixture.store.failures().unwrap(), [kept]);
}

#[test]
fn the_last_of_each_plan_and_the_last_of_all_are_kept() {
    let fixture = Fixture::new();
    fixture.keep("a", "1", 1);
    fixture.keep("a", "2", 2);
    // Of one build all that failed.
    fixture.keep("a", "2", 3);
    assert_eq!(fixture.kept(), of([("a", 3), ("a", 2)]));
    fixture.keep("b", "3", 4);
    fixture.keep("c", "4", 5);
    assert_eq!(fixture.kept(), of([("c", 5), ("b", 4), ("a", 3)]));
}

#[test]
fn it_goes_when_its_step_has_a_result() {
    let fixture = Fixture::new();
    let first = fixture.keep("a", "1", 1);
    fixture.keep("b", "2", 2);
    fixture.store.forget_failures("a", &|_| false).unwrap();
    fixture.store.forget_failures("c", &|_| true).unwrap();
    assert_eq!(fixture.kept().len(), 2);
    let inside = first.enter().unwrap().unwrap();
    fixture
        .store
        .forget_failures("a", &|slot| slot == "a 1")
        .unwrap();
    assert!(fixture.kept().len() == 2, "somebody is in it");
    assert!(fixture.store.failures().unwrap()[1].in_use);
    drop(inside);
    fixture
        .store
        .forget_failures("a", &|slot| slot == "a 1")
        .unwrap();
    assert_eq!(fixture.kept(), of([("b", 2)]));
    assert!(first.enter().unwrap().is_none(), "it is gone");
}

#[test]
fn who_is_in_one_stays_there_however_many_come_after() {
    let fixture = Fixture::new();
    let first = fixture.keep("a", "1", 1);
    let inside = first.enter().unwrap().unwrap();
    for failed in 2..=5 {
        fixture.keep("a", "1", failed);
    }
    assert!(first.path.join("upper").is_dir());
    assert_eq!(fixture.kept(), of([("a", 5), ("a", 4), ("a", 3), ("a", 1)]));
    inside.discard(&fixture.store).unwrap();
    assert_eq!(fixture.kept().len(), MOST);
}

#[test]
fn who_looks_whether_somebody_is_in_keeps_nobody_out() {
    let fixture = Fixture::new();
    let failure = fixture.keep("a", "1", 1);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                fixture.store.failures().unwrap();
            }
        });
        for _ in 0..100 {
            let entered = failure.enter().unwrap();
            assert!(entered.is_some());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// As fsck sees it, however it came about.
#[test]
fn what_is_damaged_is_found_and_taken_out() {
    type Harm = fn(&Path);
    let cases: [(Harm, &str); 4] = [
        (
            |dir| fs::write(dir.join(ABOUT), "{").unwrap(),
            "is not as it was written: ",
        ),
        (
            |dir| fs::remove_file(dir.join(ABOUT)).unwrap(),
            "lacks `about.json`",
        ),
        (
            |dir| fs::remove_dir(dir.join("upper")).unwrap(),
            "lacks `upper`",
        ),
        (
            |dir| {
                let mut step: FailedStep = file::peek_json(&dir.join(ABOUT)).unwrap().unwrap();
                let nowhere = TreeId::from_bytes([7; 32]);
                let content = rbuild_llb::ContentDigest::from_bytes([7; 32]);
                step.inputs.push(Snapshot {
                    layers: Vec::new(),
                    root: crate::tree::TreeRef {
                        tree: nowhere,
                        content,
                    },
                });
                fs::write(dir.join(ABOUT), serde_json::to_vec(&step).unwrap()).unwrap();
            },
            "stands on tree 0707070707070707",
        ),
    ];
    for (harm, wanted) in cases {
        let fixture = Fixture::new();
        let failure = fixture.keep("a", "1", 1);
        let look = || {
            fixture
                .store
                .fsck(crate::fsck::FsckOptions::default())
                .unwrap()
        };
        assert_eq!(look().problems, []);
        assert_eq!(look().checked["failed steps"], 1);
        harm(&failure.path);
        let found = look().problems;
        assert!(
            found.len() == 1 && found[0].what.starts_with(wanted),
            "{found:?}"
        );
        let repair = crate::fsck::FsckOptions {
            repair: true,
            ..Default::default()
        };
        fixture.store.fsck(repair).unwrap();
        assert!(!failure.path.exists() && look().problems.is_empty());
        // And what cannot be read stands in nobody's way.
        let failure = fixture.keep("a", "2", 2);
        harm(&failure.path);
        fixture.keep("b", "3", 3);
        fixture.store.usage().unwrap();
    }
}
