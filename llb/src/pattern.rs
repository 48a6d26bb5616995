//! Include and exclude patterns and wildcards, matched as BuildKit matches them.
