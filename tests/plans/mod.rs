//! Plans: the examples of `testdata/plan` as their users build them, and what wrong ones are told.

mod docs;
mod errors;
mod examples;
mod init;
