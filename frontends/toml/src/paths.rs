//! Paths of a plan: relative to its directory, `/` between names, cleaned of `.` and `..` by their letters alone.

pub(crate) use rbuild_llb::paths::clean;

/// `path` from the directory `dir`.
pub(crate) fn join(dir: &str, path: &str) -> String {
    match path.starts_with('/') || dir.is_empty() {
        true => clean(path),
        false => clean(&format!("{dir}/{path}")),
    }
}

/// The same, with the slash at its end that says that it is a directory.
pub(crate) fn join_to(dir: &str, path: &str) -> String {
    let joined = join(dir, path);
    match path.ends_with('/') && !joined.ends_with('/') {
        true => joined + "/",
        false => joined,
    }
}

/// The directory of a cleaned path.
pub(crate) fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((dir, _)) => dir.to_owned(),
        None => ".".to_owned(),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_joined() {
        for (dir, path, want) in [
            ("", ".", "."),
            ("", "a/../b/./c//d", "b/c/d"),
            ("../common", "x/rbuild.toml", "../common/x/rbuild.toml"),
            ("../common", "../app", "../app"),
            ("a", "../../b", "../b"),
            ("a", "/etc/../x", "/x"),
            ("a", "..", "."),
        ] {
            assert_eq!(join(dir, path), want, "{dir} {path}");
        }
        assert_eq!(join_to("a", "out/"), "a/out/");
        assert_eq!(parent("../common/rbuild.toml"), "../common");
        assert_eq!(parent("rbuild.toml"), ".");
    }
}
