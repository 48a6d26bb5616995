//! `.dockerignore` files to patterns.

/// The patterns of an ignore file, cleaned, in order (moby/patternmatcher, ignorefile).
pub(crate) fn patterns(text: &str) -> Vec<String> {
    rbuild_llb::pattern::read_ignore_file(text)
}
