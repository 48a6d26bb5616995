//! The Dockerfile language, case by case, against what BuildKit made of the same files.
//!
//! `testdata/dockerfile/README.md` says what a case is made of and how expectations are recorded. All cases are built
//! over one store: cold, then again, which must find everything cached and give the same image, then with `--no-cache`; and by
//! a buildkitd if there is one.

mod audit;
mod bases;
mod case;
mod entries;
pub(crate) mod image;
mod record;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use case::Case;
use case::Way;
use image::Reader;

use crate::support::Buildkitd;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::tools;

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile")
}

/// The cases, or those whose path has `$DOCKERFILE_CASE` in it.
fn cases() -> Vec<Case> {
    let only = tools::variable("DOCKERFILE_CASE");
    let only = only.as_ref().map_or("", |only| only.to_str().unwrap());
    let mut cases = Case::all(&testdata().join("cases"));
    cases.retain(|case| case.name.contains(only));
    assert!(!cases.is_empty(), "no case has `{only}` in its name");
    cases
}

#[test]
fn builds_what_buildkit_builds() {
    let registry = Registry::shared();
    let scratch = tempfile::tempdir().unwrap();
    bases::publish(&testdata(), &scratch.path().join("bases"), &registry.host());
    let env = TestEnv::new().bases([]);
    let reader = Reader::default();
    let cases = cases();
    if let Some(recorder) = record::Recorder::wanted() {
        bases::publish(
            &testdata(),
            &scratch.path().join("bases"),
            recorder.registry(),
        );
        for case in &cases {
            recorder.record(case, &reader, scratch.path());
        }
        return;
    }

    let failures = Mutex::new(BTreeMap::new());
    let builder = Buildkitd::wanted(&env);
    let there = builder.as_ref().map(Buildkitd::address);
    let there = there.as_deref().map(Way::There);
    let ways = [Way::Cold, Way::Cached, Way::NoCache];
    for way in ways.into_iter().chain(there) {
        in_parallel(&cases, |case| {
            if failures.lock().unwrap().contains_key(&case.name) {
                return;
            }
            if let Err(why) = case.check(way, &env, &reader) {
                failures.lock().unwrap().insert(case.name.clone(), why);
            }
        });
    }
    let failures = failures.into_inner().unwrap();
    let mut text = String::new();
    for (name, why) in &failures {
        writeln!(text, "{name}: {why}\n").unwrap();
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases differ\n\n{text}",
        failures.len(),
        cases.len()
    );
}

fn in_parallel(cases: &[Case], check: impl Fn(&Case) + Sync) {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(case);
                }
            });
        }
    });
}
