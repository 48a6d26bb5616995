//! The only place that reads the environment and argv.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::PathBuf;

/// A copy of the environment: read once, then passed on, so that tests can bring their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    vars: BTreeMap<OsString, OsString>,
}

impl Env {
    /// The process' environment.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub(crate) fn read() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
        }
    }

    #[cfg(test)]
    pub(crate) fn of<const N: usize>(vars: [(&str, &str); N]) -> Self {
        Self {
            vars: vars.map(|(k, v)| (k.into(), v.into())).into(),
        }
    }

    /// Sets a variable of this copy.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.vars.insert(name.into(), value.into());
    }

    /// All variables whose names and values are UTF-8.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        let text = |text: &OsStr| text.to_str().map(str::to_owned);
        self.vars
            .iter()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect()
    }

    /// A variable, also if it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// A variable as text, unless it is empty. Bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .map(|value| value.to_string_lossy().into_owned())
    }

    /// A path, unless the variable is empty.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// A directory of the XDG base directory specification: `name`, which must be absolute to count, else
    /// `below_home` in HOME.
    pub(crate) fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        self.path(name)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(self.path("HOME")?.join(below_home)))
    }

    /// A proxy variable in either case; upper case first, as Go's programs have it.
    pub(crate) fn proxy(&self, name: &str) -> Option<String> {
        self.text(&name.to_ascii_uppercase())
            .or_else(|| self.text(&name.to_ascii_lowercase()))
    }
}

/// argv, with the program's name.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn argv() -> Vec<OsString> {
    std::env::args_os().collect()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn empty_is_unset_except_where_it_is_a_value() {
        let env = Env::of([("A", ""), ("HOME", "/h"), ("XDG_DATA_HOME", "relative")]);
        assert_eq!(env.get("A"), Some(OsStr::new("")));
        assert_eq!(env.text("A"), None);
        assert_eq!(
            env.xdg("XDG_DATA_HOME", ".local/share"),
            Some(PathBuf::from("/h/.local/share"))
        );
        let env = Env::of([
            ("XDG_DATA_HOME", "/data"),
            ("http_proxy", "l"),
            ("HTTP_PROXY", "u"),
        ]);
        assert_eq!(env.xdg("XDG_DATA_HOME", "x"), Some(PathBuf::from("/data")));
        assert_eq!(env.xdg("XDG_CONFIG_HOME", ".config"), None);
        assert_eq!(env.proxy("http_proxy").as_deref(), Some("u"));
    }
}
