//! Lint rules, with the names and messages of BuildKit's.

use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::diagnostic::Label;

use crate::ast::Ast;
use crate::ast::Head;
use crate::words::parse_bool;

mod checks;

pub(crate) use checks::check;
pub(crate) use checks::holds_secret;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    ConsistentInstructionCasing,
    CopyIgnoredFile,
    DuplicateStageName,
    ExposeInvalidFormat,
    ExposeProtoCasing,
    FromAsCasing,
    FromPlatformFlagConstDisallowed,
    InvalidBaseImagePlatform,
    InvalidDefaultArgInFrom,
    /// Reported only where it is asked for.
    InvalidDefinitionDescription,
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
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
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

/// What `check=` says: `skip=A,B` or `skip=all`, `experimental=` alike, and `error=true`.
#[derive(Debug, Clone, Default)]
struct Config {
    skip: Rules,
    experimental: Rules,
    error: bool,
}

/// A choice of rules.
#[derive(Debug, Clone, Default)]
struct Rules {
    all: bool,
    names: BTreeSet<String>,
}

impl Rules {
    fn parse(value: &str) -> Self {
        let names = value.split(',').map(|name| name.trim().to_owned());
        Self {
            all: value == "all",
            names: names.collect(),
        }
    }

    fn contain(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }
}

impl Config {
    /// Reads the value of a `check` directive, which ends at the first blank.
    ///
    /// # Errors
    /// The option that is none.
    fn parse(value: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for option in value.split(' ').next().unwrap_or_default().splitn(3, ';') {
            let (key, value) = option.split_once('=').ok_or(option)?;
            match key.trim() {
                "skip" => config.skip = Rules::parse(value.trim()),
                "experimental" => config.experimental = Rules::parse(value.trim()),
                "error" => config.error = parse_bool(value.trim()).ok_or(option)?,
                _ => return Err(option.to_owned()),
            }
        }
        Ok(config)
    }

    /// The one that comments above an instruction give.
    fn of_comments(comments: &[String]) -> Option<Self> {
        let check = |comment: &String| {
            let (name, value) = comment.split_once('=')?;
            let named = name.trim().eq_ignore_ascii_case("check");
            named.then(|| Self::parse(value.trim()).ok()).flatten()
        };
        comments.iter().find_map(check)
    }
}

/// Collects findings.
#[derive(Debug)]
pub(crate) struct Linter {
    config: Config,
    found: Vec<Diagnostic>,
}

impl Linter {
    /// With the configuration of `--build-arg BUILDKIT_DOCKERFILE_CHECK`, or else of the file.
    pub(crate) fn new(ast: &Ast, argument: Option<&str>) -> Result<Self, Vec<Diagnostic>> {
        let mut linter = Self {
            config: Config::default(),
            found: Vec::new(),
        };
        let invalid = |option: String, span: Option<Span>| {
            let hint = "the options are `skip=…`, `experimental=…` and `error=true`";
            let text = String::new();
            vec![Diagnostic {
                severity: rbuild_llb::Severity::Error,
                rule: None,
                message: format!("invalid check option `{option}`"),
                labels: span.map(|span| Label { span, text }).into_iter().collect(),
                statement: None,
                hints: vec![hint.to_owned()],
            }]
        };
        if let Some(argument) = argument {
            linter.config = Config::parse(argument).map_err(|option| invalid(option, None))?;
        } else if let Some(check) = ast.directives.iter().find(|d| d.name == "check") {
            linter.config = Config::parse(&check.value)
                .map_err(|option| invalid(option, Some(check.span.clone())))?;
        }
        Ok(linter)
    }

    /// Reports a finding about an instruction, unless the file or a `# check=` comment above it skips the rule.
    pub(crate) fn report(&mut self, rule: Rule, head: &Head, span: &Span, message: String) {
        let own = Config::of_comments(&head.comments).unwrap_or_default();
        let wanted = match rule {
            // An experimental rule that is asked for cannot be skipped.
            Rule::InvalidDefinitionDescription => {
                own.experimental.contain(rule) || self.config.experimental.contain(rule)
            }
            _ => !own.skip.contain(rule) && !self.config.skip.contain(rule),
        };
        if wanted {
            // The place may be in another instruction, or, of a trigger, in another file.
            let within = head.span.file == span.file && head.span.range.contains(&span.range.start);
            self.add(rule, span, within.then_some(&head.span), message);
        }
    }

    /// Reports a finding about a place.
    pub(crate) fn report_at(&mut self, rule: Rule, span: &Span, message: String) {
        if !self.config.skip.contain(rule) {
            self.add(rule, span, None, message);
        }
    }

    fn add(&mut self, rule: Rule, span: &Span, within: Option<&Span>, message: String) {
        let mut finding = Diagnostic::warning(rule.name(), message, span.clone(), "");
        finding.statement = within.cloned();
        if !self.found.contains(&finding) {
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
            statement: None,
            hints: vec!["`# check=error=true` makes findings errors".to_owned()],
        });
        Err(self.found)
    }
}
