//! The program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = rbuild::sandbox::zygote_main_if_asked(std::env::args_os()) {
        return code;
    }
    rbuild::cli::main()
}
