//! Calls side by side. They wait for servers and not for the processor, so how many there are at once has nothing to do with
//! its cores, and they have no place among threads that compute.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rbuild_cache::threads;

/// Calls at once, as many as podman has uploads.
const AT_ONCE: usize = 6;

/// Does the same with each of several things, on threads that are gone afterwards; fewer where the machine has no more
/// to give. Once one has failed no other begins.
///
/// # Errors
/// The first in the order of the things, of those that failed.
pub fn side_by_side<T: Sync, R: Send, E: Send>(
    things: &[T],
    deed: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let failed = AtomicBool::new(false);
    let done = threads::side_by_side(things, AT_ONCE, |thing| {
        if failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = deed(thing);
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        Some(result)
    });
    // What did not begin has a failure beside it.
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod t {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn six_at_once_whatever_the_cores_and_results_in_order() {
        let met = Barrier::new(AT_ONCE);
        let things: Vec<usize> = (0..AT_ONCE * 3).collect();
        let done = side_by_side(&things, |thing| {
            // It would wait for ever if there were fewer.
            met.wait();
            Ok::<_, ()>(thing * 2)
        });
        assert_eq!(done, Ok(things.iter().map(|thing| thing * 2).collect()));
        assert_eq!(side_by_side(&[0; 0], |_| Ok::<_, ()>(1)), Ok(Vec::new()));
    }

    #[test]
    fn nothing_begins_after_a_failure() {
        let begun = AtomicUsize::new(0);
        let things: Vec<usize> = (0..1000).collect();
        let met = Barrier::new(AT_ONCE);
        let done = side_by_side(&things, |thing| {
            begun.fetch_add(1, Ordering::Relaxed);
            met.wait();
            Err::<(), _>(*thing)
        });
        assert_eq!(done, Err(0));
        assert_eq!(begun.into_inner(), AT_ONCE);
    }
}
