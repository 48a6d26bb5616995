//! Evaluates ops: one file per kind.

pub mod mode;
pub mod owner;
