//! rbuild in CI: the action, run as a runner would run it, over the workflows of `docs/ci.md`; the examples for GitLab and
//! Kubernetes, run as they stand.

mod action;
mod examples;
mod packaging;
mod runner;
mod table;
mod workflows;
