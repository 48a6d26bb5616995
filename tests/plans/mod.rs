//! Plans: the examples of `testdata/plan` as their users build them, what wrong ones are told, the page that teaches the
//! language, and the plans that `rbuild init` writes.

mod docs;
mod errors;
mod examples;
mod init;
