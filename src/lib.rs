//! rbuild: a rootless, daemonless container image builder.
//!
//! The map of the house; ARCHITECTURE.md tells the story. A build is the list of calls in [`pipeline`].
//!
//! - [`cli`]: argv and environment to a validated [`request::BuildRequest`]; the only reader of either
//! - [`ui`]: events and diagnostics to the terminal; the only writer to stdout and stderr
//! - [`pipeline`]: one build, from request to image
//! - [`ops`]: evaluates one kind of step each; [`solver`]: decides which steps run, and runs them in parallel
//! - [`sandbox`]: user namespaces, mounts, the process of a RUN; the only home of `unsafe`
//! - [`registry`]: the only home of HTTP; [`image`]: manifests, configs, indexes; [`exporter`]: one file per output
//! - [`buildkit`]: a BuildKit daemon in the place of ops, solver and sandbox; the only home of gRPC
//! - [`remote`]: caches that machines share
//! - [`picture`]: a graph as text, JSON, dot or SVG
//! - [`request`]: what was asked for; [`outcome`]: how it ended
//! - `agent`: what steps may ask of an ssh agent; [`clock`]: the only reader of the time; [`links`]: where links lead

mod agent;
pub mod buildkit;
pub mod cli;
pub mod clock;
pub mod exporter;
pub mod image;
pub mod links;
pub mod ops;
pub mod outcome;
pub mod picture;
pub mod pipeline;
pub mod registry;
pub mod remote;
pub mod request;
pub mod sandbox;
pub mod solver;
pub mod ui;
