//! Whose turn it is: of several builds that want the same thing made, one makes it and the others wait.
//!
//! Everything here may be waited for only in this order, so that nobody waits in a circle: the turn of a step, its cache
//! mounts (in the order of their names), the blobs of an image, the directory of a layer, a blob, a place among the downloads.

use rbuild_cache::Claim;
use rbuild_cache::Claimed;
use rbuild_cache::Store;
use rbuild_cache::wait::silently;
use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
use rbuild_llb::KeyRecord;
use rbuild_llb::Op;
use rbuild_llb::Vertex;
use rbuild_llb::event::Event;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::op::SourceOp;

use super::Engine;
use super::OpError;
use crate::clock;
use crate::solver::Evaluate as _;
use crate::solver::Load;
use crate::solver::StepControl;

/// The right to carry out a step, which others may have as well: after a failure nobody waits any more.
#[derive(Debug)]
pub struct Turn(Option<Claim>);

impl Turn {
    pub(super) fn fail(self) {
        if let Some(claim) = self.0 {
            claim.fail();
        }
    }
}

impl Engine<'_> {
    /// The turn of a step: of those whose work is worth waiting for.
    ///
    /// `--no-cache` waits for nobody, since it asks for a run of its own; others wait for it all the same. BuildKit lets two
    /// such builds share a run as well (solver/jobs.go, `dgstWithoutCache`), which only a daemon can tell from an older one.
    pub(super) fn turn_of(
        &self,
        vertex: &Vertex,
        record: &KeyRecord,
        key: &CacheKey,
        step: &StepControl<'_>,
    ) -> Result<Option<Turn>, OpError> {
        let name = match &vertex.op {
            // Where files have other owners on disk, the result is of no use.
            Op::Exec(_) => format!("step {key} {}", self.domain),
            Op::Source(
                SourceOp::Image(_) | SourceOp::OciLayout(_) | SourceOp::Git(_) | SourceOp::Http(_),
            ) => format!("source {key} {}", self.domain),
            Op::Source(SourceOp::Local(_)) | Op::File(_) | Op::Merge | Op::Diff => return Ok(None),
        };
        let at_once = || Ok(Some(Turn(self.store.claim_at_once(&name)?)));
        if vertex.meta.ignore_cache {
            return at_once();
        }
        loop {
            let mut on_wait = |wait: &mut dyn FnMut()| {
                waiting(step, "waiting for another build that runs this step", wait);
            };
            match self.store.claim(&name, step.cancel, &mut on_wait)? {
                None => return Err(OpError::Cancelled),
                Some(Claimed::Mine(claim)) => return Ok(Some(Turn(Some(claim)))),
                Some(Claimed::Ended { failed: true }) => return at_once(),
                Some(Claimed::Ended { failed: false }) => {
                    if let Load::Hit(_) = self.load(vertex, record, key) {
                        return Ok(Some(Turn(None)));
                    }
                }
            }
        }
    }
}

impl Engine<'_> {
    /// [`once`] for what is made of results.
    pub(crate) fn once<T>(
        &self,
        name: &str,
        there: impl Fn() -> Result<Option<T>, OpError>,
        make: impl FnOnce() -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        once(self.store, self.cancel, name, there, make)
    }
}

/// Has something made once by all builds that want it: `there` says whether it has been, and is asked again whenever
/// somebody else has ended. Waits without a word, for what is part of a step or of no step.
///
/// A thread of rayon's waits for nobody: whom it waits for may wait for rayon, here or by a circle through another build,
/// and a thread that has a claim may take up work that wants another one.
pub(super) fn once<T>(
    store: &Store,
    cancel: &CancelToken,
    name: &str,
    there: impl Fn() -> Result<Option<T>, OpError>,
    make: impl FnOnce() -> Result<T, OpError>,
) -> Result<T, OpError> {
    if rayon::current_thread_index().is_some() {
        return there()?.map_or_else(make, Ok);
    }
    let claim = loop {
        let claimed = store.claim(name, cancel, &mut silently)?;
        if let Some(there) = there()? {
            return Ok(there);
        }
        match claimed {
            None => return Err(OpError::Cancelled),
            Some(Claimed::Mine(claim)) => break Some(claim),
            Some(Claimed::Ended { failed: true }) => break store.claim_at_once(name)?,
            Some(Claimed::Ended { failed: false }) => {}
        }
    };
    let made = make();
    if let (Err(_), Some(claim), false) = (&made, claim, cancel.is_cancelled()) {
        claim.fail();
    }
    made
}

/// Says for whom a step waits, as long as it does, and leaves its place to others meanwhile.
pub(super) fn waiting(step: &StepControl<'_>, what: &str, wait: &mut dyn FnMut()) {
    let started = clock::now();
    let report = |completed: Option<Timestamp>| {
        (step.events)(Event::Status(StatusEvent {
            id: what.to_owned(),
            vertex: step.digest.to_owned(),
            name: String::new(),
            total: 0,
            current: 0,
            timestamp: completed.unwrap_or(started),
            started: Some(started),
            completed,
        }));
    };
    report(None);
    (step.idle)(wait);
    report(Some(clock::now()));
}

#[cfg(test)]
mod t {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::thread;

    use super::*;

    /// Two want it; the second is told to wait while the first makes it, which ends as `first` does.
    fn two_want_it(first: Result<(), OpError>) -> (usize, bool) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let never = CancelToken::new();
        let (made, there) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let is_there = || Ok((there.load(Ordering::SeqCst) > 0).then_some(()));
        let second = thread::scope(|scope| {
            let mut second = None;
            let result = once(&store, &never, "it", is_there, || {
                second = Some(scope.spawn({
                    let (store, never, made, there) = (&store, &never, &made, &there);
                    move || {
                        once(
                            store,
                            never,
                            "it",
                            || Ok((there.load(Ordering::SeqCst) > 0).then_some(())),
                            || {
                                made.fetch_add(1, Ordering::SeqCst);
                                Ok(())
                            },
                        )
                    }
                }));
                if first.is_ok() {
                    made.fetch_add(1, Ordering::SeqCst);
                    there.store(1, Ordering::SeqCst);
                }
                first
            });
            drop(result);
            second.expect("it was started").join().unwrap()
        });
        (made.into_inner(), second.is_ok())
    }

    #[test]
    fn what_two_want_is_made_once_or_by_the_second() {
        assert_eq!(two_want_it(Ok(())), (1, true));
        assert_eq!(two_want_it(Err(OpError::NoContext)), (1, true));
    }

    #[test]
    fn who_is_cancelled_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let cancelled = CancelToken::new();
        cancelled.cancel();
        let made = once(
            &store,
            &cancelled,
            "it",
            || Ok(None::<()>),
            || panic!("it is"),
        );
        assert!(matches!(made, Err(OpError::Cancelled)));
    }
}
