//! The foreign programs that tests check rbuild's work with.

use std::path::Path;
use std::path::PathBuf;

/// Where programs are looked for: an ordinary user's PATH often lacks `sbin`, where runc is.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `command package` lines, which `tests/run` installs from.
const PACKAGES: &str = include_str!("../packages");

/// The program's path.
///
/// # Panics
/// If it is not installed, naming the package that has it; or if `tests/packages` does not list it.
#[track_caller]
pub(crate) fn find(name: &str) -> PathBuf {
    let package = PACKAGES
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(command, package)| (command == name).then_some(package))
        .unwrap_or_else(|| panic!("`{name}` is not listed in tests/packages"));
    PATH.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("`{name}` is missing: apt-get install {package}"))
}

/// The value of a variable of the test run itself.
#[expect(
    clippy::disallowed_methods,
    reason = "tests have no `cli` to be handed it by"
)]
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
