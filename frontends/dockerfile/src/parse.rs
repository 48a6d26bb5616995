//! Logical lines to the syntax tree. All problems are collected; an instruction with one is left out.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::Span;

use crate::ast::Arg;
use crate::ast::Ast;
use crate::ast::CommandLine;
use crate::ast::Head;
use crate::ast::Instruction;
use crate::ast::Keyword;
use crate::ast::Kind;
use crate::ast::Pair;
use crate::ast::Stage;
use crate::ast::Word;
use crate::lexer;
use crate::lexer::Line;
use crate::lexer::Parts;
use crate::lexer::lex;
use crate::source::Site;
use rbuild_llb::suggest::nearest;

mod flags;
mod health;
mod run;
mod transfer;

use flags::Flags;
pub use health::format_duration;
pub use health::parse_duration;

/// The instructions.
pub(crate) static KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

enum Parsed {
    Stage(Stage),
    Instruction(Instruction),
}

/// Parses a Dockerfile.
pub(crate) fn parse(site: &Site<'_>) -> Result<Ast, Vec<Diagnostic>> {
    let lexed = lex(site);
    let mut errors = lexed.errors;
    let mut ast = Ast {
        escape: lexed.escape,
        meta: Vec::new(),
        stages: Vec::new(),
        empty_continuations: lexed.empty_continuations,
    };
    if lexed.lines.is_empty() && errors.is_empty() {
        errors.push(
            Diagnostic::error("file with no instructions", site.span(0..0), "")
                .hint("start with `FROM <image>`"),
        );
    }
    // A FROM that cannot be read still starts a stage: without this, all that follows it would be reported too.
    let mut staged = false;
    for line in &lexed.lines {
        let input = Input {
            site,
            line,
            escape: ast.escape,
        };
        staged |= line.slice(&line.parts.keyword).eq_ignore_ascii_case("from");
        match input.instruction(&line.parts) {
            Err(error) => errors.push(*error),
            Ok(Parsed::Stage(stage)) => ast.stages.push(stage),
            Ok(Parsed::Instruction(instruction)) => {
                match (ast.stages.last_mut(), instruction.kind) {
                    (None, Kind::Arg(args)) if !staged => ast.meta.push((instruction.head, args)),
                    (None, _) if !staged => errors.push(
                        Diagnostic::error(
                            "no build stage in current context",
                            instruction.head.keyword.span,
                            "before the first `FROM`",
                        )
                        .hint("only `ARG` may stand before the first `FROM`"),
                    ),
                    (None, _) => {}
                    (Some(stage), kind) => stage.commands.push(Arc::new(Instruction {
                        head: instruction.head,
                        kind,
                    })),
                }
            }
        }
    }
    if errors.is_empty() && ast.stages.is_empty() {
        let end = lexed.lines.last().map_or(0..0, |line| line.extent.clone());
        errors.push(
            Diagnostic::error(
                "dockerfile contains no stages to build",
                site.span(end),
                "no `FROM` follows",
            )
            .hint("start the first stage with `FROM <image>`"),
        );
    }
    match errors.is_empty() {
        true => Ok(ast),
        false => Err(errors),
    }
}

/// Parses one ONBUILD trigger.
pub(crate) fn parse_trigger(site: &Site<'_>) -> Result<Instruction, Vec<Diagnostic>> {
    let lexed = lex(site);
    if !lexed.errors.is_empty() {
        return Err(lexed.errors);
    }
    let [line] = lexed.lines.as_slice() else {
        let message = "an `ONBUILD` trigger of the base is not one instruction";
        return Err(vec![Diagnostic::error(message, site.span(0..0), "")]);
    };
    let input = Input {
        site,
        line,
        escape: lexed.escape,
    };
    match input.instruction(&line.parts) {
        Ok(Parsed::Instruction(instruction)) => Ok(instruction),
        Ok(Parsed::Stage(stage)) => Err(vec![Diagnostic::error(
            "`FROM` is not allowed as an `ONBUILD` trigger",
            stage.head.span,
            "",
        )]),
        Err(error) => Err(vec![*error]),
    }
}

type Result1<T> = Result<T, Box<Diagnostic>>;

/// One line being parsed.
#[derive(Clone, Copy)]
struct Input<'a> {
    site: &'a Site<'a>,
    line: &'a Line,
    escape: char,
}

impl<'a> Input<'a> {
    fn span(&self, range: &Range<usize>) -> Span {
        self.site.span(self.line.source(range))
    }

    fn word(&self, text: impl Into<String>, range: &Range<usize>) -> Word {
        Word {
            text: text.into(),
            span: self.span(range),
        }
    }

    fn slice(&self, range: &Range<usize>) -> &'a str {
        self.line.slice(range)
    }

    fn error<T>(
        &self,
        message: impl Into<String>,
        range: &Range<usize>,
        label: impl Into<String>,
    ) -> Result1<T> {
        Err(Box::new(Diagnostic::error(
            message,
            self.span(range),
            label,
        )))
    }

    fn instruction(&self, parts: &Parts) -> Result1<Parsed> {
        let keyword = self.slice(&parts.keyword);
        let known = |name: &&str| keyword.eq_ignore_ascii_case(name);
        let name = KEYWORDS.iter().find(|name| known(name)).copied();
        let text = match name {
            Some(name) if name == keyword => Cow::Borrowed(name),
            _ => Cow::Owned(keyword.to_owned()),
        };
        let head = Head {
            keyword: Keyword {
                text,
                span: self.span(&parts.keyword),
            },
            span: self.site.span(self.line.extent.clone()),
            text: self.line.text().trim().to_owned(),
            comments: self.line.comments.clone(),
        };
        let mut flags = Flags::new(self, parts);
        let rest = &parts.rest;
        let kind = match name.unwrap_or_default() {
            "FROM" => return self.from(head, flags, rest).map(Parsed::Stage),
            "ADD" => Kind::Add(Box::new(self.transfer(&mut flags, "ADD", rest)?)),
            "COPY" => Kind::Copy(Box::new(self.transfer(&mut flags, "COPY", rest)?)),
            "RUN" => Kind::Run(self.run(&mut flags, rest)?),
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck(&mut flags, rest)?),
            "ARG" => Kind::Arg(self.args(rest)?),
            "CMD" => Kind::Cmd(self.command(rest)?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command(rest)?),
            "ENV" => Kind::Env(self.pairs("ENV", rest)?),
            "LABEL" => Kind::Label(self.pairs("LABEL", rest)?),
            "EXPOSE" => Kind::Expose(self.some(self.blank_separated(rest), "EXPOSE", parts)?),
            "VOLUME" => Kind::Volume(self.volumes(parts)?),
            "MAINTAINER" => Kind::Maintainer(self.one("MAINTAINER", parts)?),
            "STOPSIGNAL" => Kind::StopSignal(self.one("STOPSIGNAL", parts)?),
            "USER" => Kind::User(self.one("USER", parts)?),
            "WORKDIR" => Kind::Workdir(self.one("WORKDIR", parts)?),
            "ONBUILD" => Kind::Onbuild(self.onbuild(parts)?),
            "SHELL" => Kind::Shell(self.shell(parts)?),
            _ => return self.unknown(keyword, parts),
        };
        // BuildKit passes over flags of these.
        let takes_any = matches!(&kind, Kind::Arg(_) | Kind::StopSignal(_))
            || matches!(&kind, Kind::Healthcheck(check) if check.test == ["NONE"]);
        if !takes_any {
            flags.finish()?;
        }
        Ok(Parsed::Instruction(Instruction { head, kind }))
    }

    fn unknown(&self, keyword: &str, parts: &Parts) -> Result1<Parsed> {
        let message = format!("unknown instruction `{keyword}`");
        let mut error = Diagnostic::error(message, self.span(&parts.keyword), "");
        if let Some(near) = nearest(keyword, KEYWORDS) {
            error = error.hint(format!("did you mean `{near}`?"));
        }
        Err(Box::new(error))
    }

    fn from(&self, head: Head, mut flags: Flags<'_>, rest: &Range<usize>) -> Result1<Stage> {
        let platform = flags.string("platform")?;
        flags.finish()?;
        let mut words = self.blank_separated(rest).into_iter();
        let (base, as_keyword, name, more) =
            (words.next(), words.next(), words.next(), words.next());
        let is_as = |w: &Word| w.text.eq_ignore_ascii_case("as");
        let (Some(base), true, None) = (
            base,
            as_keyword.is_none() || (as_keyword.as_ref().is_some_and(is_as) && name.is_some()),
            more,
        ) else {
            let message = "`FROM` requires either one or three arguments";
            let range = if rest.is_empty() {
                &self.line.parts.keyword
            } else {
                rest
            };
            return self.error(message, range, "").map_err(|e| {
                Box::new(e.hint("the forms are `FROM <image>` and `FROM <image> AS <name>`"))
            });
        };
        if let Some(name) = &name
            && !valid_stage_name(&name.text)
        {
            let message = format!("invalid name for build stage: `{}`", name.text);
            let label = "a name starts with a letter and holds letters, digits, `-`, `_` and `.`";
            return Err(Box::new(Diagnostic::error(
                message,
                name.span.clone(),
                label,
            )));
        }
        Ok(Stage {
            head,
            base,
            as_keyword,
            name,
            platform,
            commands: Vec::new(),
        })
    }

    /// Words between blanks; quotes mean nothing.
    fn blank_separated(&self, range: &Range<usize>) -> Vec<Word> {
        let blank = |c: char| matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ');
        let mut words = Vec::new();
        let mut at = range.start;
        for piece in self.slice(range).split(blank) {
            if !piece.is_empty() {
                words.push(self.word(piece, &(at..at + piece.len())));
            }
            at += piece.len() + 1;
        }
        words
    }

    /// Words between white space outside quotes; quotes and escapes stay in them.
    fn quoted_words(&self, range: &Range<usize>) -> Vec<(String, Range<usize>)> {
        let mut words = Vec::new();
        let mut word = String::new();
        let (mut start, mut quote) = (None, None);
        let mut chars = self.slice(range).char_indices().peekable();
        while let Some((i, c)) = chars.next() {
            let at = range.start + i;
            if quote.is_none() && c.is_whitespace() {
                if let Some(start) = start.take() {
                    words.push((std::mem::take(&mut word), start..at));
                }
                continue;
            }
            start.get_or_insert(at);
            if c == self.escape && quote != Some('\'') {
                // An escape character at the very end is dropped.
                if let Some((_, next)) = chars.next() {
                    word.extend([c, next]);
                }
                continue;
            }
            match quote {
                Some(open) if open == c => quote = None,
                None if matches!(c, '\'' | '"') => quote = Some(c),
                _ => {}
            }
            word.push(c);
        }
        if let Some(start) = start {
            words.push((word, start..range.end));
        }
        words
    }

    /// A JSON array of strings; `None` if the text is not a JSON array.
    fn strings(&self, range: &Range<usize>) -> Result1<Option<Vec<String>>> {
        let Some(values) = lexer::json(self.slice(range)) else {
            return Ok(None);
        };
        let strings: Option<Vec<String>> = values
            .into_iter()
            .map(|value| match value {
                serde_json::Value::String(text) => Some(text),
                _ => None,
            })
            .collect();
        match strings {
            Some(strings) => Ok(Some(strings)),
            None => self.error(
                "when using JSON array syntax, arrays must be comprised of strings only",
                range,
                "",
            ),
        }
    }

    /// A JSON array or blank separated words. The words of an array all have the array's place.
    fn list(&self, range: &Range<usize>) -> Result1<Vec<Word>> {
        Ok(match self.strings(range)? {
            Some(strings) => strings
                .into_iter()
                .map(|text| self.word(text, range))
                .collect(),
            None => self.blank_separated(range),
        })
    }

    fn command(&self, rest: &Range<usize>) -> Result1<CommandLine> {
        Ok(match self.strings(rest)? {
            Some(args) => CommandLine::Exec(args.into_iter().map(Cow::Owned).collect()),
            None => CommandLine::Shell(self.slice(rest).to_owned()),
        })
    }

    fn some(&self, words: Vec<Word>, keyword: &str, parts: &Parts) -> Result1<Vec<Word>> {
        match words.is_empty() {
            true => {
                let message = format!("`{keyword}` requires at least one argument");
                self.error(message, &parts.keyword, "")
            }
            false => Ok(words),
        }
    }

    fn one(&self, keyword: &str, parts: &Parts) -> Result1<Word> {
        match parts.rest.is_empty() {
            true => {
                let message = format!("`{keyword}` requires exactly one argument");
                self.error(message, &parts.keyword, "")
            }
            false => Ok(self.word(self.slice(&parts.rest), &parts.rest)),
        }
    }

    fn volumes(&self, parts: &Parts) -> Result1<Vec<Word>> {
        let mut words = self.some(self.list(&parts.rest)?, "VOLUME", parts)?;
        for word in &mut words {
            word.text = word.text.trim().to_owned();
            if word.text.is_empty() {
                return self.error(
                    "`VOLUME` specified can not be an empty string",
                    &parts.rest,
                    "",
                );
            }
        }
        Ok(words)
    }

    fn args(&self, rest: &Range<usize>) -> Result1<Vec<Arg>> {
        let words = self.quoted_words(rest);
        if words.is_empty() {
            return self.error(
                "`ARG` requires at least one argument",
                &self.line.parts.keyword,
                "",
            );
        }
        let arg = |(text, range): (String, Range<usize>)| {
            let (name, default) = self.halves(&text, &range);
            match name.text.is_empty() {
                true => self.error("`ARG` names can not be blank", &range, ""),
                false => Ok(Arg { name, default }),
            }
        };
        words.into_iter().map(arg).collect()
    }

    /// Cuts a word at its first `=`.
    fn halves(&self, text: &str, range: &Range<usize>) -> (Word, Option<Word>) {
        let Some((key, value)) = text.split_once('=') else {
            return (self.word(text, range), None);
        };
        let at = self.slice(range).find('=').unwrap_or(0) + range.start;
        (
            self.word(key, &(range.start..at)),
            Some(self.word(value, &(at + 1..range.end))),
        )
    }

    fn pairs(&self, keyword: &str, rest: &Range<usize>) -> Result1<Vec<Pair>> {
        let words = self.quoted_words(rest);
        let Some((first, _)) = words.first() else {
            let message = format!("`{keyword}` requires at least one argument");
            return self.error(message, &self.line.parts.keyword, "");
        };
        if !first.contains('=') {
            return self.legacy_pair(keyword, rest);
        }
        let pair = |(text, range): (String, Range<usize>)| match self.halves(&text, &range) {
            (key, _) if key.text.is_empty() => {
                self.error(format!("`{keyword}` names can not be blank"), &range, "")
            }
            (key, Some(value)) => Ok(Pair {
                key,
                value,
                legacy: false,
            }),
            (key, None) => {
                let message = format!("can't find `=` in `{}`", key.text);
                self.error(message, &range, "must be of the form `name=value`")
            }
        };
        words.into_iter().map(pair).collect()
    }

    /// `ENV key value with blanks`.
    fn legacy_pair(&self, keyword: &str, rest: &Range<usize>) -> Result1<Vec<Pair>> {
        let blank = |c: char| matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ');
        let text = self.slice(rest);
        let Some(at) = text.find(blank) else {
            let message = format!("`{keyword}` must have two arguments");
            return self
                .error(message, rest, "no value")
                .map_err(|e| Box::new(e.hint(format!("write `{keyword} {text}=value`"))));
        };
        let value = text[at..].trim_start_matches(blank);
        Ok(vec![Pair {
            key: self.word(&text[..at], &(rest.start..rest.start + at)),
            value: self.word(value, &(rest.end - value.len()..rest.end)),
            legacy: true,
        }])
    }

    fn shell(&self, parts: &Parts) -> Result1<Vec<String>> {
        match self.strings(&parts.rest)? {
            Some(shell) if !shell.is_empty() => Ok(shell),
            None if !parts.rest.is_empty() => self
                .error(
                    "`SHELL` requires the arguments to be in JSON form",
                    &parts.rest,
                    "",
                )
                .map_err(|e| Box::new(e.hint("for example `SHELL [\"/bin/bash\", \"-c\"]`"))),
            _ => self.error("`SHELL` requires at least one argument", &parts.keyword, ""),
        }
    }

    fn onbuild(&self, parts: &Parts) -> Result1<String> {
        let inner = lexer::split(self.line.text(), parts.rest.clone(), self.escape);
        match self.slice(&inner.keyword).to_ascii_uppercase().as_str() {
            "" => {
                return self.error(
                    "`ONBUILD` requires at least one argument",
                    &parts.keyword,
                    "",
                );
            }
            "ONBUILD" => {
                let message = "chaining `ONBUILD` via `ONBUILD ONBUILD` is not allowed";
                return self.error(message, &inner.keyword, "");
            }
            keyword @ ("MAINTAINER" | "FROM") => {
                let message = format!("`{keyword}` is not allowed as an `ONBUILD` trigger");
                return self.error(message, &inner.keyword, "");
            }
            _ => {}
        }
        // Blanks at the end stay, as BuildKit has them in the config.
        let mut trigger = self.line.text()[parts.rest.start..].to_owned();
        for heredoc in &self.line.heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        Ok(trigger)
    }
}

/// A letter, then letters, digits, `-`, `_`, `.`; upper case is accepted and folded.
fn valid_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
