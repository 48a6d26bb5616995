//! The rules that need nothing but the syntax tree.

use std::collections::BTreeSet;

use super::Linter;
use super::Rule;
use crate::ast::Arg;
use crate::ast::Ast;
use crate::ast::Head;
use crate::ast::Kind;
use crate::ast::Stage;

/// Runs them.
pub(crate) fn check(ast: &Ast, lint: &mut Linter) {
    for found in &ast.empty_continuations {
        lint.report_at(
            Rule::NoEmptyContinuation,
            &found.last,
            &found.empty,
            "Empty continuation line".to_owned(),
        );
    }
    for (head, args) in &ast.meta {
        arg_description(args, head, lint);
    }
    let mut names = BTreeSet::new();
    for stage in &ast.stages {
        stage_name(stage, &mut names, lint);
        if let Some(name) = &stage.name {
            description("FROM", &stage.head, &[name.text.to_lowercase()], lint);
        }
        for command in &stage.commands {
            if let Kind::Arg(args) = &command.kind {
                arg_description(args, &command.head, lint);
            }
            if let Kind::Maintainer(_) = command.kind {
                let message = "Maintainer instruction is deprecated in favor of using label";
                let span = &command.head.keyword.span;
                lint.report(
                    Rule::MaintainerDeprecated,
                    &command.head,
                    span,
                    message.to_owned(),
                );
            }
        }
    }
    casing(ast, lint);
}

fn arg_description(args: &[Arg], head: &Head, lint: &mut Linter) {
    let names: Vec<String> = args.iter().map(|arg| arg.name.text.clone()).collect();
    description("ARG", head, &names, lint);
}

/// The comment right above a definition starts with the name it describes.
fn description(instruction: &str, head: &Head, names: &[String], lint: &mut Linter) {
    let Some(comment) = head.comments.last() else {
        return;
    };
    let word = comment.split(' ').next().unwrap_or_default();
    if names.iter().any(|name| name == word) {
        return;
    }
    let example = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    let message =
        format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    let rule = Rule::InvalidDefinitionDescription;
    lint.report(rule, head, &head.keyword.span, message);
}

fn is_lower(text: &str) -> bool {
    match text.is_ascii() {
        true => !text.bytes().any(|b| b.is_ascii_uppercase()),
        false => text == text.to_lowercase(),
    }
}

fn is_upper(text: &str) -> bool {
    match text.is_ascii() {
        true => !text.bytes().any(|b| b.is_ascii_lowercase()),
        false => text == text.to_uppercase(),
    }
}

fn stage_name(stage: &Stage, names: &mut BTreeSet<String>, lint: &mut Linter) {
    let (Some(name), Some(as_keyword)) = (&stage.name, &stage.as_keyword) else {
        return;
    };
    let head = &stage.head;
    if !is_lower(&name.text) {
        let message = format!("Stage name '{}' should be lowercase", name.text);
        lint.report(Rule::StageNameCasing, head, &name.span, message);
    }
    let from = &head.keyword.text;
    let matches = match (is_lower(from), is_upper(from)) {
        (true, _) => is_lower(&as_keyword.text),
        (_, true) => is_upper(&as_keyword.text),
        _ => true,
    };
    if !matches {
        let message = format!(
            "'{}' and '{from}' keywords' casing do not match",
            as_keyword.text
        );
        lint.report(Rule::FromAsCasing, head, &as_keyword.span, message);
    }
    let folded = name.text.to_lowercase();
    if matches!(folded.as_str(), "context" | "scratch") {
        let message =
            format!("Stage name should not use the same name as reserved stage \"{folded}\"");
        lint.report(Rule::ReservedStageName, head, &name.span, message);
    }
    if names.contains(&folded) {
        let message = format!("Duplicate stage name \"{folded}\", stage names should be unique");
        lint.report(Rule::DuplicateStageName, head, &name.span, message);
    }
    names.insert(folded);
}

/// All instructions of stages in lower case, or all in upper case, whichever most are.
fn casing(ast: &Ast, lint: &mut Linter) {
    let heads = || {
        ast.stages.iter().flat_map(|stage| {
            std::iter::once(&stage.head).chain(stage.commands.iter().map(|command| &command.head))
        })
    };
    let count = |cased: fn(&Head) -> bool| heads().filter(|head| cased(head)).count();
    let lower = count(|head| is_lower(&head.keyword.text));
    let upper = count(|head| is_upper(&head.keyword.text));
    let (wanted, fits): (_, fn(&str) -> bool) = match lower > upper {
        true => ("lowercase", is_lower),
        false => ("uppercase", is_upper),
    };
    for head in heads().filter(|head| !fits(&head.keyword.text)) {
        let message = format!(
            "Command '{}' should match the case of the command majority ({wanted})",
            head.keyword.text
        );
        lint.report(
            Rule::ConsistentInstructionCasing,
            head,
            &head.keyword.span,
            message,
        );
    }
}
