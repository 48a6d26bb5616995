//! An ordered set of variables.

use std::sync::Arc;
use std::sync::OnceLock;

/// Variables in the order of their latest assignment, as BuildKit hands them to a process.
///
/// Stages share those of the stage they start from until they set one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    list: Vec<(String, String)>,
    /// What [`Env::pairs`] gave.
    pairs: OnceLock<Arc<Vec<String>>>,
}

impl Clone for Shared {
    /// What changes is cloned, so the pairs are not.
    fn clone(&self) -> Self {
        Self {
            list: self.list.clone(),
            pairs: OnceLock::new(),
        }
    }
}

impl Env {
    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .list
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Assigns `name`; one that was there moves to the end.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let shared = Arc::make_mut(&mut self.0);
        shared.pairs.take();
        shared.list.retain(|(key, _)| key != name);
        shared.list.push((name.to_owned(), value.into()));
    }

    /// Assigns all of `pairs`, `NAME=value` each, in order.
    pub(crate) fn set_all(&mut self, pairs: &[String]) {
        let list = &self.0.list;
        let last = list.len().checked_sub(pairs.len());
        let same = last.is_some_and(|last| {
            list[last..]
                .iter()
                .zip(pairs)
                .all(|((name, value), pair)| split(pair) == (name.as_str(), value.as_str()))
        });
        if same {
            return;
        }
        for pair in pairs {
            let (name, value) = split(pair);
            self.set(name, value);
        }
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.list.iter().map(|(key, _)| key.as_str())
    }

    /// `KEY=value`, in order.
    pub(crate) fn pairs(&self) -> Arc<Vec<String>> {
        let pairs = self.0.pairs.get_or_init(|| {
            let list = self.0.list.iter();
            let pairs = list.map(|(key, value)| [key, "=", value].concat());
            Arc::new(pairs.collect())
        });
        Arc::clone(pairs)
    }
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}
