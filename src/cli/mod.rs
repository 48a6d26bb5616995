//! Argv and environment to a validated request; the only reader of either.
