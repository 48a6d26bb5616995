//! An ordered set of variables.

use std::cell::OnceCell;
use std::sync::Arc;

/// Variables in the order of their latest assignment, as BuildKit hands them to a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    list: Vec<(String, String)>,
    /// What [`Env::pairs`] gave, until a variable changes.
    pairs: OnceCell<Arc<Vec<String>>>,
}

impl Env {
    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.list
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Assigns `name`; one that was there moves to the end.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.pairs.take();
        self.list.retain(|(key, _)| key != name);
        self.list.push((name.to_owned(), value.into()));
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(key, _)| key.as_str())
    }

    /// `KEY=value`, in order.
    pub(crate) fn pairs(&self) -> Arc<Vec<String>> {
        let pairs = self.pairs.get_or_init(|| {
            let list = self.list.iter();
            let pairs = list.map(|(key, value)| [key, "=", value].concat());
            Arc::new(pairs.collect())
        });
        Arc::clone(pairs)
    }
}
