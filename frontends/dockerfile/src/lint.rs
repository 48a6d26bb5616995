//! Lint rules, with the names and messages of BuildKit's.

use std::collections::BTreeSet;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::inspect::Finding;

use crate::ast::Head;
use crate::syntax::directive;
use crate::words::parse_bool;

mod checks;

pub(crate) use checks::check;

/// Configures the rules in the place of the file's `check` directive.
const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

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

/// The rules, with BuildKit's names, and what each wants.
const RULES: [(Rule, &str, &str); 22] = [
    (
        Rule::ConsistentInstructionCasing,
        "ConsistentInstructionCasing",
        "instructions are written all in capitals or all in small letters",
    ),
    (
        Rule::CopyIgnoredFile,
        "CopyIgnoredFile",
        "what is copied is not left out by the ignore file",
    ),
    (
        Rule::DuplicateStageName,
        "DuplicateStageName",
        "each stage has a name of its own",
    ),
    (
        Rule::ExposeInvalidFormat,
        "ExposeInvalidFormat",
        "EXPOSE names ports of the container, not addresses or ports of the host",
    ),
    (
        Rule::ExposeProtoCasing,
        "ExposeProtoCasing",
        "EXPOSE writes protocols in small letters",
    ),
    (
        Rule::FromAsCasing,
        "FromAsCasing",
        "`as` is written in the case of `from`",
    ),
    (
        Rule::FromPlatformFlagConstDisallowed,
        "FromPlatformFlagConstDisallowed",
        "FROM does not fix a platform by name",
    ),
    (
        Rule::InvalidBaseImagePlatform,
        "InvalidBaseImagePlatform",
        "a base is for the platform that is built for",
    ),
    (
        Rule::InvalidDefaultArgInFrom,
        "InvalidDefaultArgInFrom",
        "bases are valid with the default values of their build arguments",
    ),
    (
        Rule::InvalidDefinitionDescription,
        "InvalidDefinitionDescription",
        "a comment right above an ARG or a stage describes it: `# name description`",
    ),
    (
        Rule::JsonArgsRecommended,
        "JSONArgsRecommended",
        "CMD and ENTRYPOINT are JSON arrays, so that signals reach the program",
    ),
    (
        Rule::LegacyKeyValueFormat,
        "LegacyKeyValueFormat",
        "ENV and LABEL separate name and value by `=`",
    ),
    (
        Rule::MaintainerDeprecated,
        "MaintainerDeprecated",
        "the author is named by a label, not by MAINTAINER",
    ),
    (
        Rule::MultipleInstructionsDisallowed,
        "MultipleInstructionsDisallowed",
        "a stage has one CMD, one ENTRYPOINT and one HEALTHCHECK",
    ),
    (
        Rule::NoEmptyContinuation,
        "NoEmptyContinuation",
        "continued instructions have no empty lines",
    ),
    (
        Rule::RedundantTargetPlatform,
        "RedundantTargetPlatform",
        "FROM does not ask for the platform it has anyway",
    ),
    (
        Rule::ReservedStageName,
        "ReservedStageName",
        "stages are not called `scratch` or `context`",
    ),
    (
        Rule::SecretsUsedInArgOrEnv,
        "SecretsUsedInArgOrEnv",
        "secrets are mounted, not passed in ARG or ENV",
    ),
    (
        Rule::StageNameCasing,
        "StageNameCasing",
        "names of stages are in small letters",
    ),
    (
        Rule::UndefinedArgInFrom,
        "UndefinedArgInFrom",
        "FROM uses build arguments that are declared",
    ),
    (
        Rule::UndefinedVar,
        "UndefinedVar",
        "variables are defined before they are used",
    ),
    (
        Rule::WorkdirRelativePath,
        "WorkdirRelativePath",
        "WORKDIR is absolute where no earlier one of the file is",
    ),
];

impl Rule {
    fn row(self) -> &'static (Self, &'static str, &'static str) {
        let mut rows = RULES.iter();
        let row = rows.find(|(rule, _, _)| *rule == self);
        row.expect("every rule has its row")
    }

    fn name(self) -> &'static str {
        self.row().1
    }

    fn description(self) -> &'static str {
        self.row().2
    }
}

/// The names of all rules, each with what it wants, in alphabetical order.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES.iter().map(|(_, name, about)| (*name, *about))
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
        if value.is_empty() {
            return Ok(config);
        }
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
    found: Vec<Finding>,
}

impl Linter {
    /// A linter with the configuration of a build argument, else of the file's `check` directive.
    pub(crate) fn new(request: &FrontendRequest) -> Result<Self, Vec<Diagnostic>> {
        let source = &request.source;
        let (value, place) = match request.build_args.get(BUILD_ARG) {
            Some(value) => (value.trim(), None),
            None => directive(&source.text, "#", "check")
                .map_or(("", None), |(value, place)| (value, Some(place))),
        };
        let config = Config::parse(value).map_err(|option| {
            let message = format!("invalid check option `{option}`");
            let hint = "the options are `skip=…`, `experimental=…` and `error=true`";
            let error = match place {
                Some(place) => Diagnostic::error(message, Span::new(source, place), ""),
                None => Diagnostic::unplaced(format!("build argument {BUILD_ARG}: {message}")),
            };
            vec![error.hint(hint)]
        })?;
        Ok(Self {
            config,
            found: Vec::new(),
        })
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
            let within = head.span.file == span.file && head.span.range.contains(&span.range.start);
            let at = match within {
                true => &head.span,
                // It is about an earlier instruction that this one makes useless, or about a trigger in another file.
                false => span,
            };
            self.add(rule, at, span, message);
        }
    }

    /// Reports a finding that is about `at` as a whole.
    pub(crate) fn report_at(&mut self, rule: Rule, at: &Span, span: &Span, message: String) {
        if !self.config.skip.contain(rule) {
            self.add(rule, at, span, message);
        }
    }

    fn add(&mut self, rule: Rule, at: &Span, span: &Span, message: String) {
        let warning = Diagnostic::warning(rule.name(), message, span.clone(), "");
        let finding = Finding {
            warning: warning.within(at.clone()),
            description: rule.description(),
            at: at.clone(),
        };
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// The findings in the order of the file, and the error that they are if the file asks for that.
    pub(crate) fn findings(mut self) -> (Vec<Finding>, Option<Diagnostic>) {
        let at = |found: &Finding| {
            let mut labels = found.warning.labels.iter();
            labels.next().map_or(0, |label| label.span.range.start)
        };
        self.found.sort_by_key(at);
        if !self.config.error || self.found.is_empty() {
            return (self.found, None);
        }
        let rules = self.found.iter().filter_map(|found| found.warning.rule);
        let rules: Vec<&str> = rules.collect::<BTreeSet<_>>().into_iter().collect();
        let error = Diagnostic::unplaced(format!(
            "lint violation found for rules: {}",
            rules.join(", ")
        ));
        let hint = "`# check=error=true` makes findings errors";
        (self.found, Some(error.hint(hint)))
    }

    /// The findings in the order of the file; as errors if the file asks for that.
    pub(crate) fn finish(self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let (found, error) = self.findings();
        let warnings = found.into_iter().map(|found| found.warning);
        match error {
            None => Ok(warnings.collect()),
            Some(error) => Err(warnings.chain([error]).collect()),
        }
    }
}
