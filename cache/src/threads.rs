//! Threads, of which a machine may give fewer than are wanted, or none (RLIMIT_NPROC, a cgroup's pids.max): work goes on with
//! those there are, and where it cannot that is an error, never a panic.

use std::error::Error as _;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::Scope;
use std::thread::ScopedJoinHandle;

/// Does the same with each of several things, with `most` of them at the same time, on threads that are gone afterwards. Where
/// none can be had who calls does it.
pub fn side_by_side<T: Sync, R: Send>(
    things: &[T],
    most: usize,
    deed: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if let [only] = things {
        return vec![deed(only)];
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match things.get(at) {
                Some(thing) => done.push((at, deed(thing))),
                None => return done,
            }
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let threads = (0..things.len().min(most)).map_while(|_| spawn(scope, work).ok());
        let running: Vec<_> = threads.collect();
        if running.is_empty() {
            return work();
        }
        let ended = running.into_iter().flat_map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// [`Scope::spawn`], which panics where this is an error.
///
/// # Errors
/// If there is no thread to be had.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    #[cfg(test)]
    if t::NONE.get() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    thread::Builder::new().spawn_scoped(scope, work)
}

/// Starts rayon's global pool, if it has not been: where it cannot be started whoever is the first to use it panics.
///
/// # Errors
/// If there are no threads to be had.
pub fn start_pool() -> io::Result<()> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    match started.as_ref().map_err(|error| error.source()) {
        Err(Some(source)) => {
            let cause = source.downcast_ref::<io::Error>();
            let code = cause.and_then(io::Error::raw_os_error);
            let unknown = || io::Error::other(source.to_string());
            Err(code.map_or_else(unknown, io::Error::from_raw_os_error))
        }
        // It has been.
        Ok(()) | Err(None) => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod t {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Whether this thread gets no other.
        pub(crate) static NONE: Cell<bool> = const { Cell::new(false) };
    }

    /// Does something where there are no threads to be had.
    pub(crate) fn without<R>(deed: impl FnOnce() -> R) -> R {
        NONE.set(true);
        let done = deed();
        NONE.set(false);
        done
    }

    #[test]
    fn results_are_in_the_order_of_what_they_are_of() {
        let running = AtomicUsize::new(0);
        let things: Vec<usize> = (0..500).collect();
        let double = |thing: &usize| {
            assert!(running.fetch_add(1, Ordering::SeqCst) < 16);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            thing * 2
        };
        let doubled: Vec<usize> = (0..500).map(|thing| thing * 2).collect();
        assert_eq!(side_by_side(&things, 16, double), doubled);
        assert_eq!(without(|| side_by_side(&things, 16, double)), doubled);
        assert_eq!(side_by_side(&[0; 0], 16, |thing| *thing), [0; 0]);
        assert_eq!(side_by_side(&[7], 16, |thing| *thing), [7]);
    }
}
