//! The one integration binary, a module a topic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sandbox;
