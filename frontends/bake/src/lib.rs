//! The bake frontend: bake files in HCL and JSON, and compose files, resolved to the builds that they stand for.
//!
//! What it does not do: read files, ask the environment or the clock, build. [`resolve`] gets all of that as
//! [`BakeOptions`] and gives a [`BakePlan`]; [`print()`] writes it as `docker buildx bake --print` does, byte for byte.
//! The language is that of docker/buildx (docs/bake-reference.md there); what is supported is in docs/bake.md.
//!
//! No input makes it panic. The same files and options give the same plan, in the same order.

mod check;
mod compose;
mod decode;
mod definitions;
mod eval;
mod flags;
mod functions;
mod json;
mod number;
mod overrides;
mod print;
mod select;
mod syntax;
mod target;
#[cfg(test)]
mod tests;
mod type_expr;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;

pub use flags::Attest;
pub use flags::Attributes;
pub use flags::CacheEntry;
pub use flags::Output;
pub use flags::Policy;
pub use flags::Resources;
pub use flags::Secret;
pub use flags::Ssh;
pub use flags::attest_text;
pub use print::print;
pub use target::Group;
pub use target::Target;

/// The files that are read where the command line names none. All that are there count, later ones over earlier ones.
pub const DEFAULT_FILES: [&str; 8] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];

/// What the command line, the environment and the machine say.
#[derive(Debug, Clone, Default)]
pub struct BakeOptions {
    /// Names and patterns of targets and groups; none is `default`.
    pub targets: Vec<String>,
    /// `--set` as typed: `TARGET.KEY=VALUE`, `TARGET.KEY+=VALUE`. Options that are short for it are given so:
    /// `--push` is `*.push=true`, `--load` `*.load=true`, `--no-cache` `*.no-cache=true`, `--pull` `*.pull=true`,
    /// `--sbom=X` and `--provenance=X` are `*.attest=` with [`attest_text`], `--call=X` is `*.call=X`.
    pub overrides: Vec<String>,
    /// `--var NAME=VALUE`.
    pub variables: BTreeMap<String, String>,
    /// The environment. Empty, if variables are not to be taken from it.
    pub environment: BTreeMap<String, String>,
    /// Where compose files take values from that the environment does not have: the `.env` file beside them.
    pub dotenv: Option<Arc<SourceFile>>,
    /// Seconds since 1970, for the function `timestamp`.
    pub now: i64,
    /// `linux/amd64`; the variable `BAKE_LOCAL_PLATFORM`.
    pub local_platform: String,
    /// The context that the command line gives, or `cwd://`; the variable `BAKE_CMD_CONTEXT`.
    pub command_context: String,
}

impl BakeOptions {
    fn variable(&self, name: &str) -> Option<&str> {
        let given = self
            .variables
            .get(name)
            .or_else(|| self.environment.get(name));
        given.map(String::as_str)
    }

    /// Where a variable's value comes from, for messages.
    fn source_of(&self, name: &str, json: bool) -> String {
        let name = if json {
            format!("{name}_JSON")
        } else {
            name.to_owned()
        };
        if self.variables.contains_key(&name) {
            format!("`--var {name}` has it")
        } else {
            format!("the environment's `{name}` has it")
        }
    }
}

/// The builds that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BakePlan {
    /// The groups that were asked for, by name. `default` is always there: it has what the command line names.
    pub groups: BTreeMap<String, Group>,
    /// The targets by name, those too that others have as contexts.
    pub targets: BTreeMap<String, Target>,
    /// What buildx passes over without a word, such as attributes that it does not know.
    pub warnings: Vec<Diagnostic>,
}

/// Resolves files to the builds that they stand for. Files are compose files by `.yaml` and `.yml`, else bake files; with
/// neither these nor `.hcl` or `.json` at the end of their names they are what they can be read as.
///
/// # Errors
///
/// What is wrong in the files, the targets, or the overrides, each with its place if it has one.
pub fn resolve(
    files: &[Arc<SourceFile>],
    options: &BakeOptions,
) -> Result<BakePlan, Vec<Diagnostic>> {
    let mut compose_files = Vec::new();
    let mut bodies = Vec::new();
    for file in files {
        match kind_of(file)? {
            FileKind::Compose => compose_files.push(Arc::clone(file)),
            FileKind::Bake(body) => bodies.push(body),
        }
    }
    let mut config = select::Config::default();
    let mut warnings = Vec::new();
    if !compose_files.is_empty() {
        compose::read(&compose_files, options, &mut config, &mut warnings)?;
    }
    if !bodies.is_empty() {
        let defined = definitions::define(&bodies, options)?;
        for target in defined.targets {
            config.add_target(target);
        }
        for group in defined.groups {
            config.add_group(group);
        }
        for group in defined.matrices {
            config.add_group_below(group);
        }
        warnings.extend(defined.warnings);
    }
    let mut plan = select::select(&config, options)?;
    plan.warnings = warnings;
    Ok(plan)
}

enum FileKind {
    Compose,
    Bake(syntax::Body),
}

fn kind_of(file: &Arc<SourceFile>) -> Result<FileKind, Fail> {
    let name = file.name.to_lowercase();
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        return Ok(FileKind::Compose);
    }
    if file.name.ends_with(".json") {
        return syntax::json::parse(file).map(FileKind::Bake);
    }
    if file.name.ends_with(".hcl") {
        return syntax::hcl::parse(file).map(FileKind::Bake);
    }
    if compose::looks_like_one(file) {
        return Ok(FileKind::Compose);
    }
    syntax::hcl::parse(file)
        .or_else(|why| syntax::json::parse(file).map_err(|_| why))
        .map(FileKind::Bake)
}

/// The language of a file by its name, as [`SourceFile::language`] has it.
pub fn language_of(name: &str) -> &'static str {
    let name = name.to_lowercase();
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        "YAML"
    } else if name.ends_with(".json") {
        "JSON"
    } else {
        "HCL"
    }
}

/// An error on its way up. It is boxed, as results are passed through many hands.
#[derive(Debug)]
pub(crate) struct Fail(Box<Diagnostic>);

/// An error whose place only the caller knows.
pub(crate) struct Problem {
    pub(crate) message: String,
}

pub(crate) fn fail(message: impl Into<String>, span: Span, label: impl Into<String>) -> Fail {
    Fail(Box::new(Diagnostic::error(message, span, label)))
}

/// An error about what is in no file: the command line.
pub(crate) fn fail_nowhere(message: impl Into<String>) -> Fail {
    Fail(Box::new(Diagnostic::unplaced(message)))
}

impl Fail {
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self(Box::new(self.0.hint(hint)))
    }

    pub(crate) fn also(self, span: Span, label: impl Into<String>) -> Self {
        Self(Box::new(self.0.also(span, label)))
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn prefixed(mut self, before: &str) -> Self {
        self.0.message = format!("{before}: {}", self.0.message);
        self
    }
}

impl From<Fail> for Diagnostic {
    fn from(fail: Fail) -> Self {
        *fail.0
    }
}

impl From<Fail> for Vec<Diagnostic> {
    fn from(fail: Fail) -> Self {
        vec![fail.into()]
    }
}
