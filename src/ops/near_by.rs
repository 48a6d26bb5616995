//! Repositories that blobs are brought to in this build: other repositories of their registries take them from there.
//!
//! Who asks for a blob that is on its way to a repository of the registry it is wanted in waits until it is there: sending it
//! twice takes longer than the rest of once. What is on its way is noted before anybody can ask for it, so that no blob is sent
//! twice by chance.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rbuild_llb::OciDigest;

use crate::registry::Reference;

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct NearBy(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    there: Vec<(OciDigest, Reference)>,
    /// Each as often as it is sent now.
    coming: Vec<(OciDigest, Reference)>,
}

impl NearBy {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or removal.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a blob begins to be sent to a repository.
    pub(crate) fn comes(&self, blob: OciDigest, to: Reference) -> Coming {
        self.state().coming.push((blob, to.clone()));
        Coming {
            near_by: self.clone(),
            blob,
            to,
        }
    }

    /// The repository of `registry` that a blob was brought to.
    pub(super) fn find(&self, blob: &OciDigest, registry: &str) -> Option<String> {
        let mut state = self.state();
        loop {
            let is_wanted =
                |(of, to): &&(OciDigest, Reference)| of == blob && to.registry == registry;
            if let Some((_, there)) = state.there.iter().find(is_wanted) {
                return Some(there.repository.clone());
            }
            if !state.coming.iter().any(|coming| is_wanted(&coming)) {
                return None;
            }
            let waited = self.0.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A blob on its way; when this is dropped, it is not any more.
#[derive(Debug)]
pub(crate) struct Coming {
    near_by: NearBy,
    blob: OciDigest,
    to: Reference,
}

impl Coming {
    /// It is there.
    pub(crate) fn arrived(self) {
        let there = self.to.clone();
        self.near_by.state().there.push((self.blob, there));
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut state = self.near_by.state();
        let mut coming = state.coming.iter();
        let this = coming.position(|(blob, to)| *blob == self.blob && *to == self.to);
        if let Some(this) = this {
            state.coming.swap_remove(this);
        }
        drop(state);
        self.near_by.0.changed.notify_all();
    }
}

#[cfg(test)]
mod t {
    use std::thread;

    use super::*;

    fn named(repository: &str) -> Reference {
        format!("registry.example/{repository}").parse().unwrap()
    }

    #[test]
    fn who_asks_waits_for_what_comes_and_for_nothing_else() {
        let (near_by, blob, other) = (
            NearBy::default(),
            OciDigest::from_bytes([1; 32]),
            OciDigest::from_bytes([2; 32]),
        );
        let coming = near_by.comes(blob, named("a"));
        assert_eq!(near_by.find(&blob, "other.example"), None);
        assert_eq!(near_by.find(&other, "registry.example"), None);
        let found = thread::scope(|scope| {
            let asked = scope.spawn(|| near_by.find(&blob, "registry.example"));
            coming.arrived();
            asked.join().unwrap()
        });
        assert_eq!(found, Some("a".to_owned()));
    }

    #[test]
    fn what_does_not_arrive_is_not_waited_for_any_longer() {
        let (near_by, blob) = (NearBy::default(), OciDigest::from_bytes([1; 32]));
        let (coming, again) = (
            near_by.comes(blob, named("a")),
            near_by.comes(blob, named("a")),
        );
        drop(coming);
        let found = thread::scope(|scope| {
            let asked = scope.spawn(|| near_by.find(&blob, "registry.example"));
            drop(again);
            asked.join().unwrap()
        });
        assert_eq!(found, None);
    }
}
