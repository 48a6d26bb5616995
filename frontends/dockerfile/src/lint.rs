//! Lint rules, with the names and messages of BuildKit's.

use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;

use crate::ast::Ast;
use crate::ast::Head;

mod checks;

pub(crate) use checks::check;
pub(crate) use checks::holds_secret;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    ConsistentInstructionCasing,
    DuplicateStageName,
    ExposeInvalidFormat,
    ExposeProtoCasing,
    FromAsCasing,
    FromPlatformFlagConstDisallowed,
    InvalidBaseImagePlatform,
    InvalidDefaultArgInFrom,
    JsonArgsRecommended,
    LegacyKeyValueFormat,
    MaintainerDeprecated,
    MultipleInstructionsDisallowed,
    NoEmptyContinuation,
    RedundantTargetPlatform,
    ReservedStageName,
    SecretsUsedInArgOrEnv,
    StageNameCasing,
    UndefinedArgInFrom,
    UndefinedVar,
    WorkdirRelativePath,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::ReservedStageName => "ReservedStageName",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::StageNameCasing => "StageNameCasing",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::UndefinedVar => "UndefinedVar",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
        }
    }
}

/// What `check=` says: `skip=A,B` or `skip=all`, and `error=true`.
#[derive(Debug, Clone, Default)]
struct Config {
    all: bool,
    skip: BTreeSet<String>,
    error: bool,
}

impl Config {
    fn parse(value: &str) -> Self {
        let mut config = Self::default();
        for option in value.split(';') {
            match option.split_once('=') {
                Some(("skip", "all")) => config.all = true,
                Some(("skip", names)) => config
                    .skip
                    .extend(names.split(',').map(|name| name.trim().to_owned())),
                Some(("error", value)) => config.error = value == "true",
                _ => {}
            }
        }
        config
    }

    fn skips(&self, rule: Rule) -> bool {
        self.all || self.skip.contains(rule.name())
    }
}

/// Collects findings.
#[derive(Debug)]
pub(crate) struct Linter {
    config: Config,
    found: Vec<Diagnostic>,
}

impl Linter {
    pub(crate) fn new(ast: &Ast) -> Self {
        let check = ast.directives.iter().find(|d| d.name == "check");
        Self {
            config: check.map_or_else(Config::default, |d| Config::parse(&d.value)),
            found: Vec::new(),
        }
    }

    /// Reports a finding about an instruction, unless the file or a `# check=` comment above it skips the rule.
    pub(crate) fn report(&mut self, rule: Rule, head: &Head, span: &Span, message: String) {
        let own = head.comments.iter().find_map(|c| c.strip_prefix("check="));
        if !own.is_some_and(|value| Config::parse(value).skips(rule)) {
            self.report_at(rule, span, message);
        }
    }

    /// Reports a finding about a place.
    pub(crate) fn report_at(&mut self, rule: Rule, span: &Span, message: String) {
        let finding = Diagnostic::warning(rule.name(), message, span.clone(), "");
        if !self.config.skips(rule) && !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// The findings in the order of the file; as errors if the file asks for that.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let at = |d: &Diagnostic| d.labels.first().map_or(0, |label| label.span.range.start);
        self.found.sort_by_key(at);
        if !self.config.error || self.found.is_empty() {
            return Ok(self.found);
        }
        let rules: BTreeSet<&str> = self.found.iter().filter_map(|d| d.rule).collect();
        let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
        self.found.push(Diagnostic {
            severity: rbuild_llb::Severity::Error,
            rule: None,
            message: format!("lint violation found for rules: {rules}"),
            labels: Vec::new(),
            hints: vec!["`# check=error=true` makes findings errors".to_owned()],
        });
        Err(self.found)
    }
}
