//! Lint findings in the forms BuildKit and buildx give them.

use std::fmt::Write as _;

use rbuild_llb::Diagnostic;

use super::report;

/// `FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)`.
pub(crate) fn short(diagnostic: &Diagnostic) -> String {
    let mut text = String::new();
    if let Some(rule) = diagnostic.rule {
        text.push_str(rule);
        text.push_str(": ");
    }
    text.push_str(&diagnostic.message);
    if let Some((line, _)) = diagnostic.lines() {
        let _ = write!(text, " (line {line})");
    }
    text
}

/// Where a rule is explained: a page of rbuild's documentation, by its place in the source.
pub(crate) fn rule_page(rule: &str) -> String {
    format!("docs/lint/{rule}.md")
}

/// All findings, as buildx ends a build with them: a line each, or in full.
pub(crate) fn summary(warnings: &[Diagnostic], expand: bool, color: bool) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let (yellow, reset) = if color {
        ("\x1b[33m", "\x1b[0m")
    } else {
        ("", "")
    };
    let count = match warnings.len() {
        1 => "1 warning found".to_owned(),
        n => format!("{n} warnings found"),
    };
    let how = if expand {
        ""
    } else {
        " (use --debug to expand)"
    };
    let mut text = format!("\n {yellow}{count}{how}:{reset}\n");
    for warning in warnings {
        if !expand {
            let _ = writeln!(text, " - {}", short(warning));
            continue;
        }
        let _ = writeln!(text, "\n{}", report::render(warning, color));
        if let Some(rule) = warning.rule {
            let _ = writeln!(text, "more info: {}", rule_page(rule));
        }
    }
    text
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::SourceFile;
    use rbuild_llb::Span;
    use snapbox::assert_data_eq;
    use snapbox::str;
    use std::sync::Arc;

    #[test]
    fn summary_as_buildx_prints_it() {
        let file = Arc::new(SourceFile {
            name: "Dockerfile".into(),
            text: "FROM a as b\nMAINTAINER me\n".into(),
            language: "Dockerfile",
        });
        let warnings = [
            Diagnostic::warning(
                "FromAsCasing",
                "'as' and 'FROM' keywords' casing do not match",
                Span::new(&file, 7..9),
                "",
            ),
            Diagnostic::warning(
                "MaintainerDeprecated",
                "Maintainer instruction is deprecated in favor of using label",
                Span::new(&file, 12..22),
                "",
            ),
        ];
        assert_eq!(summary(&[], false, false), "");
        assert_data_eq!(
            summary(&warnings, false, false),
            str![[r#"

 2 warnings found (use --debug to expand):
 - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)
 - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)

"#]]
        );
        assert_data_eq!(
            summary(&warnings[..1], true, false),
            str![[r#"

 1 warning found:

warning: 'as' and 'FROM' keywords' casing do not match
 --> Dockerfile:1:8
  |
1 | FROM a as b
  |        ^^
more info: docs/lint/FromAsCasing.md

"#]]
        );
    }
}
