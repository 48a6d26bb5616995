use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::lease::Locked;
use crate::wait::silently;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn mine(claimed: Option<Claimed>) -> Claim {
    match claimed {
        Some(Claimed::Mine(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

/// What comes of waiting for what somebody else makes, who ends it as `end` says once somebody waits.
fn waiting_for(store: &Store, end: impl FnOnce(Claim)) -> Option<Claimed> {
    let never = CancelToken::new();
    let claim = mine(store.claim("a", &never, &mut silently).unwrap());
    let (waits, waiting) = mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut on_wait = move |wait: &mut dyn FnMut()| {
                waits.send(()).unwrap();
                wait();
            };
            store.claim("a", &CancelToken::new(), &mut on_wait).unwrap()
        });
        waiting.recv().unwrap();
        end(claim);
        waiter.join().unwrap()
    })
}

#[test]
fn who_waits_learns_how_it_ended() {
    let (dir, store) = store();
    assert!(matches!(
        waiting_for(&store, drop),
        Some(Claimed::Ended { failed: false })
    ));
    assert!(matches!(
        waiting_for(&store, Claim::fail),
        Some(Claimed::Ended { failed: true })
    ));
    // Killed: the kernel closes the file, and nobody removes it.
    let killed = |claim: Claim| {
        drop(claim.file.try_clone().unwrap());
        let claim = std::mem::ManuallyDrop::new(claim);
        flock::unlock(&claim.file, &claim.path).unwrap();
    };
    drop(mine(waiting_for(&store, killed)));
    // Killed, and removed by a collector.
    let collected = |claim: Claim| {
        let path = claim.path.clone();
        killed(claim);
        Locked::reap(&path, || {});
    };
    let after = waiting_for(&store, collected);
    assert!(matches!(
        after,
        Some(Claimed::Mine(_) | Claimed::Ended { failed: false })
    ));
    drop(after);
    assert_eq!(
        fs::read_dir(dir.path().join("v1/running")).unwrap().count(),
        0
    );
}

#[test]
fn who_is_cancelled_leaves_and_who_cannot_wait_does_not() {
    let (_dir, store) = store();
    let never = CancelToken::new();
    let claim = store.claim_at_once("a").unwrap().unwrap();
    assert!(store.claim_at_once("a").unwrap().is_none());
    assert!(store.claim_at_once("b").unwrap().is_some());
    let cancel = CancelToken::new();
    let mut called_off = |wait: &mut dyn FnMut()| {
        cancel.cancel();
        wait();
    };
    assert!(
        store
            .claim("a", &cancel, &mut called_off)
            .unwrap()
            .is_none()
    );
    drop(claim);
    drop(mine(store.claim("a", &never, &mut silently).unwrap()));
}

#[test]
fn one_makes_it_whoever_comes_and_goes() {
    let (_dir, store) = store();
    let (makers, made) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let never = CancelToken::new();
    let round = || loop {
        match store.claim("a", &never, &mut silently).unwrap().unwrap() {
            Claimed::Mine(claim) => {
                assert_eq!(makers.fetch_add(1, Ordering::SeqCst), 0);
                made.fetch_add(1, Ordering::SeqCst);
                thread::yield_now();
                makers.fetch_sub(1, Ordering::SeqCst);
                drop(claim);
                return;
            }
            Claimed::Ended { failed } => assert!(!failed),
        }
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| round()));
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 400);
}
