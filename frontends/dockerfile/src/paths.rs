//! Paths inside images, always with slashes, as Go's `path` package and BuildKit treat them.

use rbuild_llb::paths::append_clean;
pub(crate) use rbuild_llb::paths::clean;

/// `path` as an absolute, clean path, taken from `dir` if it is relative.
pub(crate) fn absolute(dir: &str, path: &str) -> String {
    let mut clean = String::with_capacity(dir.len() + path.len() + 2);
    if !path.starts_with('/') {
        append_clean(dir, true, &mut clean);
    }
    append_clean(path, true, &mut clean);
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// A copy's destination: absolute and clean, but a `/` or `/.` at the end, which says "a directory", stays.
pub(crate) fn destination(dir: &str, path: &str) -> String {
    let path = if matches!(path, "" | ".") { "./" } else { path };
    let mut full = absolute(dir, path);
    let slash = if full.ends_with('/') { "" } else { "/" };
    if path.ends_with('/') {
        full.push_str(slash);
    } else if path.ends_with("/.") {
        full.push_str(slash);
        full.push('.');
    }
    full
}

/// The last element: Go's `path.Base`.
pub(crate) fn base(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

/// Whether a path has characters that make it a pattern.
pub(crate) fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn paths_are_gos() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("a//b/./c/..", "a/b"),
            ("/../a", "/a"),
            ("../a", "../a"),
            ("a/../..", ".."),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
        for (path, want) in [("/a/b/", "b"), ("", "."), ("///", "/"), ("x", "x")] {
            assert_eq!(base(path), want, "{path}");
        }
    }

    #[test]
    fn destinations_keep_what_says_directory() {
        for (dir, path, want) in [
            ("/app", ".", "/app/"),
            ("/app", "", "/app/"),
            ("/app", "./", "/app/"),
            ("/app", "x", "/app/x"),
            ("/app", "x/", "/app/x/"),
            ("/app", "../x/", "/x/"),
            ("/app", "/", "/"),
            ("/app", "/x/.", "/x/."),
            ("/", ".", "/"),
            ("", "x", "/x"),
        ] {
            assert_eq!(destination(dir, path), want, "{dir} {path}");
        }
    }

    #[test]
    fn escaped_wildcards_are_none() {
        for (path, want) in [("a*", true), ("a\\*", false), ("[a]", true), ("a", false)] {
            assert_eq!(has_wildcard(path), want, "{path}");
        }
    }
}
