//! The Dockerfile frontend.
mod ast;
mod env;
mod lexer;
mod parse;
mod source;
mod suggest;
mod words;
