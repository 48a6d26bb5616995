//! Paths as they are written, always with slashes, as Go's `path` package treats them.

/// Go's `path.Clean`: no empty and no `.` elements, `..` resolved, `.` for nothing.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut clean = String::with_capacity(path.len().max(1));
    append_clean(path, rooted, &mut clean);
    if clean.is_empty() {
        clean.push(if rooted { '/' } else { '.' });
    }
    clean
}

/// Appends the elements of `path`, each with a slash in front, but for the first of a path that is not rooted.
pub fn append_clean(path: &str, rooted: bool, clean: &mut String) {
    let relative = path.strip_prefix('/').unwrap_or(path);
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    if relative.is_empty() {
        return;
    }
    if is_clean(relative) {
        if rooted || !clean.is_empty() {
            clean.push('/');
        }
        clean.push_str(relative);
        return;
    }
    for part in path.split('/') {
        let last = clean.rfind('/').map_or(0, |at| at + 1);
        match part {
            "" | "." => continue,
            ".." if rooted && clean.is_empty() => continue,
            ".." if !clean.is_empty() && clean[last..] != *".." => {
                clean.truncate(last.saturating_sub(1));
                continue;
            }
            _ => {}
        }
        if rooted || !clean.is_empty() {
            clean.push('/');
        }
        clean.push_str(part);
    }
}

/// Whether no element is empty or begins with a dot, as of nearly all paths.
fn is_clean(path: &str) -> bool {
    let mut begins = true;
    let mut bytes = path.bytes();
    let clean = bytes.all(|byte| {
        let fits = !(begins && matches!(byte, b'/' | b'.'));
        begins = byte == b'/';
        fits
    });
    clean && !begins
}

#[cfg(test)]
mod t {
    use super::*;

    /// The table of Go's own test (path/path_test.go, `cleantests`).
    #[test]
    fn cleans_as_go() {
        for (path, want) in [
            ("", "."),
            ("abc", "abc"),
            ("abc/def", "abc/def"),
            (".", "."),
            ("..", ".."),
            ("../..", "../.."),
            ("../../abc", "../../abc"),
            ("/abc", "/abc"),
            ("/", "/"),
            ("abc/", "abc"),
            ("abc/def/", "abc/def"),
            ("../", ".."),
            ("/abc/", "/abc"),
            ("abc//def//ghi", "abc/def/ghi"),
            ("//abc", "/abc"),
            ("///abc", "/abc"),
            ("//abc//", "/abc"),
            ("abc/./def", "abc/def"),
            ("/./abc/def", "/abc/def"),
            ("abc/.", "abc"),
            ("abc/def/ghi/../jkl", "abc/def/jkl"),
            ("abc/def/../ghi/../jkl", "abc/jkl"),
            ("abc/def/..", "abc"),
            ("abc/def/../..", "."),
            ("/abc/def/../..", "/"),
            ("abc/def/../../..", ".."),
            ("/abc/def/../../..", "/"),
            ("abc/def/../../../ghi/jkl/../../../mno", "../../mno"),
            ("abc/./../def", "def"),
            ("abc//./../def", "def"),
            ("abc/../../././../def", "../../def"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }
}
