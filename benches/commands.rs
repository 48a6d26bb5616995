//! Whole commands of the release binary against what this machine can do at best, measured in turns in the same run:
//! `cargo bench --bench commands [NAME…]`. README.md says what each line means.

// A program of its own: it has arguments, prints, and ends with a panic where a test would.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used
)]

#[path = "commands/bare.rs"]
mod bare;
#[path = "commands/caches.rs"]
mod caches;
#[path = "commands/interrupt.rs"]
mod interrupt;
#[path = "commands/limits.rs"]
mod limits;
#[path = "commands/lines.rs"]
mod lines;
#[path = "commands/measure.rs"]
mod measure;
#[path = "commands/mounts.rs"]
mod mounts;
#[path = "commands/packages.rs"]
mod packages;
#[path = "commands/place.rs"]
mod place;
#[path = "commands/pull.rs"]
mod pull;
#[path = "commands/store.rs"]
mod store;

use std::fs;
use std::process::ExitCode;

use lines::LINES;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == bare::FLAG).is_some() {
        return bare::main(args.collect());
    }
    // cargo says `--bench`.
    let wanted: Vec<String> = args
        .filter_map(|arg| arg.into_string().ok())
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| LINES.iter().all(|(line, _)| line != name))
    {
        let names: Vec<&str> = LINES.iter().map(|(name, _)| *name).collect();
        eprintln!("no line `{unknown}`; there are: {}", names.join(" "));
        return ExitCode::FAILURE;
    }
    println!("{}", machine());
    for (name, line) in LINES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            match line() {
                Ok(text) => println!("{name:<18} {text}"),
                Err(reason) => println!("{name:<18} not measured: {reason}"),
            }
        }
    }
    ExitCode::SUCCESS
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "{cores} cores, Linux {}, load {}, uid {}",
        read("/proc/sys/kernel/osrelease").trim(),
        load.join(" "),
        rustix::process::getuid().as_raw()
    )
}
