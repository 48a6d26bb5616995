//! Events and diagnostics to the terminal; the only writer to stdout and stderr.
