//! The program; everything is in the library.

use std::process::ExitCode;

/// A build makes many small values on several threads; the C library's allocator is a third slower at that, glibc's when
/// linked statically as well as musl's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match rbuild::cli::main() {
        ExitCode::SUCCESS => rbuild::sandbox::succeed(),
        failed => failed,
    }
}
