//! Calls side by side. They wait for servers and not for the processor, so how many there are at once has nothing to do with
//! its cores, and they have no place among threads that compute.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

/// Calls at once, as many as podman has uploads.
const AT_ONCE: usize = 6;

/// Does the same with each of several things, on this thread and on others that are gone afterwards; fewer where the machine
/// has no more threads to give. Once one has failed no other begins.
///
/// # Errors
/// The first in the order of the things, of those that failed.
pub fn side_by_side<T: Sync, R: Send, E: Send>(
    things: &[T],
    deed: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(at) else { break };
            let result = deed(thing);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((at, result));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let others = (1..things.len().min(AT_ONCE))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok());
        let others: Vec<_> = others.collect();
        let mut done = work();
        for other in others {
            let other = other.join();
            done.extend(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod t {
    use super::*;
    use std::sync::Barrier;

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
