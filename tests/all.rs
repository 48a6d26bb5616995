//! The integration tests: one binary, a module a topic. `tests/README.md` says how to run and write them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod applications;
mod apt;
mod bad_input;
mod bad_machine;
mod bake;
mod cache;
mod calls;
mod ci;
mod concurrency;
mod containers;
mod contexts;
mod convert;
mod deltas;
mod dockerfile;
mod environments;
mod escape;
mod explain;
mod exporters;
mod farm;
mod faults;
mod foreign;
mod images;
mod llb;
mod lock;
mod mistakes;
mod network_sources;
mod outputs;
mod plan;
mod plans;
mod platforms;
mod pulls;
mod real_inputs;
mod registries;
mod reproducible;
mod reuse;
mod sandbox;
mod secrets;
mod shared_caches;
mod shell;
mod single_id;
mod smoke;
mod stackers;
mod store;
mod support;
mod tidy;
mod users;

/// A file that no `mod` line names would never be compiled.
#[test]
fn every_file_is_a_module() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = include_str!("all.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "all") {
            assert!(
                listed.contains(&format!("\nmod {module};\n")),
                "tests/all.rs has no `mod {module};`"
            );
        }
    }
}
