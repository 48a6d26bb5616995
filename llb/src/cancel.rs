//! Cancellation: one token a build, seen by everything that waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

type Callback = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Callbacks {
    next: u64,
    list: BTreeMap<u64, Callback>,
}

/// Tells workers to stop. Cheap to clone; all clones are one token.
#[derive(Clone, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
    callbacks: Arc<Mutex<Callbacks>>,
}

/// Keeps a callback registered; dropping it takes the callback back.
#[must_use]
pub struct OnCancel {
    token: CancelToken,
    id: u64,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels, and runs what was registered. Later calls do nothing.
    pub fn cancel(&self) {
        if self.cancelled.swap(true, Ordering::SeqCst) {
            return;
        }
        let callbacks = std::mem::take(&mut self.lock().list);
        for callback in callbacks.values() {
            callback();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Runs `callback` (on the cancelling thread) when the token is cancelled, at once if it already is. It must
    /// not block: killing a process or writing to a pipe is what it is for.
    pub fn on_cancel(&self, callback: impl Fn() + Send + 'static) -> OnCancel {
        let id = {
            let mut callbacks = self.lock();
            let id = callbacks.next;
            callbacks.next += 1;
            callbacks.list.insert(id, Box::new(callback));
            id
        };
        if self.is_cancelled()
            && let Some(callback) = self.lock().list.remove(&id)
        {
            callback();
        }
        OnCancel {
            token: self.clone(),
            id,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Callbacks> {
        self.callbacks
            .lock()
            .expect("no callback panics while the list is locked")
    }
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        self.token.lock().list.remove(&self.id);
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelToken")
            .field(&self.is_cancelled())
            .finish()
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn callbacks_run_once_and_only_while_registered() {
        let (token, calls) = (CancelToken::new(), Arc::new(AtomicU32::new(0)));
        let add = |n: u32| {
            let calls = Arc::clone(&calls);
            move || {
                calls.fetch_add(n, Ordering::SeqCst);
            }
        };
        let _kept = token.on_cancel(add(1));
        drop(token.on_cancel(add(10)));
        token.clone().cancel();
        token.cancel();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let _late = token.on_cancel(add(100));
        assert_eq!(calls.load(Ordering::SeqCst), 101);
        assert!(token.is_cancelled());
    }
}
