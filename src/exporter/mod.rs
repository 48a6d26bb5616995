//! Where finished images go: one file per output type.
