//! Evaluates ops: one file per kind.
