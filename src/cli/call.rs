//! `--call` and `--check`: questions about a Dockerfile, spelled and answered as by buildx.

use std::process::ExitCode;

use rbuild_llb::Diagnostic;

use super::values;
use super::values::invalid;
use super::values::problem;
use crate::outcome::BuildError;
use crate::pipeline::inspect::Answer;
use crate::pipeline::inspect::Question;
use crate::pipeline::inspect::inspect;
use crate::request::BuildRequest;
use crate::ui;

/// How buildx ends when a check found something, and nothing forbids that.
const FOUND: u8 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// An answer about the plan.
    Ask(Question),
    /// The list of what can be asked.
    Describe,
}

/// A question, and how it is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    method: Method,
    json: bool,
    /// Findings do not change the exit code.
    ignore_status: bool,
}

impl Call {
    /// Reads `check`, `outline,format=json` or the like; `None` is a build. `check` is `--check`.
    pub(crate) fn parse(text: &str, check: bool) -> Result<Option<Self>, Diagnostic> {
        let fail = |why: String| invalid("call", text, why);
        let mut name = None;
        let (mut json, mut ignore_status) = (false, false);
        for field in values::csv(text).map_err(fail)? {
            match field.split_once('=') {
                Some(("format", "json")) => json = true,
                Some(("format", "text")) => json = false,
                Some(("format", other)) => {
                    let why = format!("the formats are `text` and `json`, not `{other}`");
                    return Err(fail(why));
                }
                Some(("ignorestatus", value)) => {
                    ignore_status = values::boolean(value).map_err(fail)?;
                }
                Some((key, _)) => {
                    let why = format!("there is no `{key}`; wanted `format` or `ignorestatus`");
                    return Err(fail(why));
                }
                None if name.is_none() => name = Some(field),
                None => {
                    let hint = format!("write `format={field}` if that is the format");
                    let why = format!("`{field}` is one method too many");
                    return Err(fail(why).hint(hint));
                }
            }
        }
        let ask = |question| Some(Method::Ask(question));
        let method = match name.as_deref().unwrap_or_default() {
            "" | "build" => check.then_some(Method::Ask(Question::Check)),
            "check" | "lint" => ask(Question::Check),
            "outline" => ask(Question::Outline),
            "targets" => ask(Question::Targets),
            "subrequests.describe" => Some(Method::Describe),
            other => {
                let hint = "the methods are `build`, `check`, `outline`, `targets` and `subrequests.describe`";
                return Err(fail(format!("there is no `{other}`")).hint(hint));
            }
        };
        if check && method != ask(Question::Check) {
            let message = format!("`--check` and `--call {text}` cannot be used together");
            return Err(problem(message));
        }
        Ok(method.map(|method| Self {
            method,
            json,
            ignore_status,
        }))
    }

    /// Asks and prints the answer.
    pub(crate) fn run(&self, request: &BuildRequest) -> Result<ExitCode, BuildError> {
        let Method::Ask(question) = self.method else {
            let text = match self.json {
                true => ui::requests::json(),
                false => ui::requests::text(),
            };
            super::print(text.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        };
        let mut inspection = inspect(request, question)?;
        let text = match self.json {
            true => ui::inspect::json(&inspection),
            false => ui::inspect::text(&inspection),
        };
        super::print(text.as_bytes())?;
        let Answer::Findings(findings) = &mut inspection.answer else {
            return Ok(ExitCode::SUCCESS);
        };
        let errors = std::mem::take(&mut findings.errors);
        match (errors.is_empty(), findings.warnings.is_empty()) {
            (false, _) => Err(BuildError::request(errors)),
            (true, false) if !self.ignore_status => Ok(FOUND.into()),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    #[test]
    fn methods_as_buildx_spells_them() {
        let call = |question, json, ignore_status| {
            Some(Call {
                method: Method::Ask(question),
                json,
                ignore_status,
            })
        };
        for (text, check, want) in [
            ("", false, None),
            ("build", false, None),
            ("build", true, call(Question::Check, false, false)),
            ("check", true, call(Question::Check, false, false)),
            ("lint", false, call(Question::Check, false, false)),
            (
                "check,format=json",
                false,
                call(Question::Check, true, false),
            ),
            (
                "format=json,check,ignorestatus=1",
                true,
                call(Question::Check, true, true),
            ),
            (
                "outline,format=text",
                false,
                call(Question::Outline, false, false),
            ),
            ("targets", false, call(Question::Targets, false, false)),
        ] {
            assert_eq!(Call::parse(text, check), Ok(want), "{text}");
        }
    }

    #[test]
    fn other_methods_are_refused() {
        let texts = [
            ("subrequests", false),
            ("targets,json", false),
            ("check,format=yaml", false),
            ("check,ignorestatus=perhaps", false),
            ("check,quiet=1", false),
            ("outline", true),
        ];
        let text: String = texts
            .iter()
            .map(|(text, check)| ui::render(&Call::parse(text, *check).unwrap_err(), false) + "\n")
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--call subrequests`: there is no `subrequests`
hint: the methods are `build`, `check`, `outline`, `targets` and `subrequests.describe`
error: `--call targets,json`: `json` is one method too many
hint: write `format=json` if that is the format
error: `--call check,format=yaml`: the formats are `text` and `json`, not `yaml`
error: `--call check,ignorestatus=perhaps`: `perhaps` is neither `true` nor `false`
error: `--call check,quiet=1`: there is no `quiet`; wanted `format` or `ignorestatus`
error: `--check` and `--call outline` cannot be used together

"#]]
        );
    }
}
