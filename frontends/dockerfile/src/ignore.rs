//! `.dockerignore` files to patterns.

use crate::paths::clean;

/// The patterns of an ignore file, cleaned, in order (moby/patternmatcher, ignorefile): lines that start with `#`
/// and empty ones are nothing, a pattern is taken from the context's root whether or not it starts with a slash.
pub(crate) fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().filter_map(pattern).collect()
}

fn pattern(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let line = line.trim();
    let (invert, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if line.is_empty() {
        return None;
    }
    let cleaned = match rest {
        "" => String::new(),
        rest => clean(rest),
    };
    let relative = match cleaned.strip_prefix('/') {
        Some(relative) if !relative.is_empty() => relative,
        _ => &cleaned,
    };
    Some(format!("{invert}{relative}"))
}
