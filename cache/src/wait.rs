//! Waiting for a lock that another process holds, which may be killed or wait itself; and being called off.
//!
//! Tried again and again instead of in a blocking flock(2): that could be ended early by a signal only, which has to hit
//! one thread, and the kernel gives the lock to whoever asks first in either case.

use std::thread;
use std::time::Duration;

use rbuild_llb::CancelToken;

/// The first time between two attempts: many locks are held for a moment only.
const FIRST: Duration = Duration::from_millis(1);
/// The longest. An attempt takes about two microseconds, so that somebody who waits for hours takes nothing of a processor;
/// and a step that ended is noticed in less than it takes to start one.
const LONGEST: Duration = Duration::from_millis(10);

/// Who is told that there is something to wait for. It gets the waiting as a function that returns when it is over, and
/// calls it once.
pub type OnWait<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// Waits, and tells nobody.
pub fn silently(wait: &mut dyn FnMut()) {
    wait();
}

/// Tries until it succeeds; `None` once `cancel` is cancelled.
pub(crate) fn attempt<T, E>(
    cancel: &CancelToken,
    on_wait: OnWait<'_>,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    if cancel.is_cancelled() {
        return Ok(None);
    }
    if let Some(done) = attempt()? {
        return Ok(Some(done));
    }
    let mut result = Ok(None);
    on_wait(&mut || {
        let mut pause = FIRST;
        while !cancel.is_cancelled() {
            thread::sleep(pause);
            pause = LONGEST.min(pause * 2);
            match attempt() {
                Ok(None) => {}
                ended => {
                    result = ended;
                    return;
                }
            }
        }
    });
    result
}
