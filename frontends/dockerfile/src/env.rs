//! An ordered set of variables.

/// Variables in the order of their latest assignment, as BuildKit hands them to a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env {
    list: Vec<(String, String)>,
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
        self.list.retain(|(key, _)| key != name);
        self.list.push((name.to_owned(), value.into()));
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(key, _)| key.as_str())
    }

    /// `KEY=value`, in order.
    pub(crate) fn pairs(&self) -> Vec<String> {
        self.list
            .iter()
            .map(|(key, value)| [key, "=", value].concat())
            .collect()
    }
}
