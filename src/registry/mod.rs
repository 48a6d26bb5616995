//! The registry client; the only home of HTTP.
