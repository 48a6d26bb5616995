//! What can be asked of a plan besides its graph: what is wrong with it, what can be built, what can be passed in.

use crate::diagnostic::Diagnostic;
use crate::diagnostic::Span;

/// What a check of a plan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// In the order of the file.
    pub warnings: Vec<Finding>,
    /// Why it cannot be built, or why its findings forbid that; empty for a plan that can be built.
    pub errors: Vec<Diagnostic>,
}

/// A warning of a lint rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The warning, which points at the words it is about.
    pub warning: Diagnostic,
    /// What its rule is about, one sentence.
    pub description: &'static str,
    /// The whole instruction: what BuildKit gives as the warning's place.
    pub at: Span,
}

/// A stage or step that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `None` if it can only be asked for by its number.
    pub name: Option<String>,
    /// From the comment above it.
    pub description: Option<String>,
    /// Whether it is what is built when none is named.
    pub default: bool,
    /// What it starts from, as written.
    pub base: String,
    /// For which platform, as written.
    pub platform: Option<String>,
    /// Where it starts.
    pub at: Span,
}

/// What a target takes from whoever builds it, each kind in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Of the target.
    pub name: Option<String>,
    /// From the comment above the target.
    pub description: Option<String>,
    /// Build arguments.
    pub args: Vec<Argument>,
    /// Secrets.
    pub secrets: Vec<Need>,
    /// ssh agents.
    pub ssh: Vec<Need>,
    /// Ids of cache mounts.
    pub caches: Vec<Need>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// From the comment above it.
    pub description: Option<String>,
    /// What it is now: as given, else its default.
    pub value: Option<String>,
    /// Where it is declared.
    pub at: Span,
}

/// Something that a step mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its id.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// The first instruction that asks for it.
    pub at: Span,
}

/// What a file holds: what can be built of it, and what can be chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// What can be asked for, by kind and then by name.
    pub items: Vec<Item>,
    /// Arguments, by name.
    pub args: Vec<Choice>,
}

/// Something that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `output`, `group`, `test`, `step` or `stage`.
    pub kind: &'static str,
    /// What it is asked for by.
    pub name: String,
    /// What it is for.
    pub help: Option<String>,
    /// Whether it is built when nothing is named.
    pub default: bool,
    /// What it is made of or starts from, as written; the members of a group.
    pub from: Vec<String>,
    /// Platforms, as written.
    pub platforms: Vec<String>,
}

/// A value that whoever builds can choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// `--build-arg NAME=…`
    pub name: String,
    /// What it is for.
    pub help: Option<String>,
    /// `string`, `bool` or `integer`.
    pub kind: &'static str,
    /// What it is if nothing is given.
    pub default: Option<String>,
    /// What it can be; empty for anything of its kind.
    pub one_of: Vec<String>,
}
