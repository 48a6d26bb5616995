//! HEALTHCHECK, and Go's durations.

use std::borrow::Cow;
use std::ops::Range;

use rbuild_llb::Diagnostic;
use rbuild_llb::config::Healthcheck;

use super::Flags;
use super::Input;
use super::Result1;
use crate::ast::CommandLine;
use crate::ast::Word;

const MILLISECOND: i64 = 1_000_000;

impl Input<'_> {
    pub(super) fn healthcheck(
        &self,
        flags: &mut Flags<'_>,
        rest: &Range<usize>,
    ) -> Result1<Healthcheck> {
        let text = self.slice(rest);
        let word = text.find(char::is_whitespace).unwrap_or(text.len());
        let tail = text[word..].trim_start();
        let args = rest.end - tail.len()..rest.end;
        let mut check = Healthcheck::default();
        match text[..word].to_uppercase().as_str() {
            "" => {
                return self.error(
                    "`HEALTHCHECK` requires at least one argument",
                    &self.line.parts.keyword,
                    "",
                );
            }
            "NONE" if !tail.is_empty() => {
                return self.error("`HEALTHCHECK NONE` takes no arguments", &args, "");
            }
            "NONE" => {
                check.test.push("NONE".to_owned());
                return Ok(check);
            }
            "CMD" => {}
            other => {
                let message = format!("unknown type `{other}` in `HEALTHCHECK`");
                let at = rest.start..rest.start + word;
                return self.error(message, &at, "`CMD` or `NONE`");
            }
        }
        check.interval = duration(flags.string("interval")?)?;
        check.timeout = duration(flags.string("timeout")?)?;
        check.start_period = duration(flags.string("start-period")?)?;
        check.start_interval = duration(flags.string("start-interval")?)?;
        check.retries = retries(flags.string("retries")?)?;
        let (form, mut command) = match self.command(&args)? {
            CommandLine::Exec(args) => ("CMD", args.into_iter().map(Cow::into_owned).collect()),
            CommandLine::Shell(line) if line.is_empty() => ("CMD-SHELL", Vec::new()),
            CommandLine::Shell(line) => ("CMD-SHELL", vec![line]),
        };
        if command.is_empty() {
            return self.error("missing command after `HEALTHCHECK CMD`", rest, "");
        }
        check.test.push(form.to_owned());
        check.test.append(&mut command);
        Ok(check)
    }
}

fn retries(word: Option<Word>) -> Result1<i64> {
    let Some(word) = word.filter(|word| !word.text.is_empty()) else {
        return Ok(0);
    };
    match word.text.parse::<i32>() {
        Ok(n) if n >= 0 => Ok(n.into()),
        _ => Err(Box::new(Diagnostic::error(
            format!("invalid `--retries` value `{}`", word.text),
            word.span,
            "not a number from 0 to 2147483647",
        ))),
    }
}

/// Nanoseconds; 0 stands for inherited.
fn duration(word: Option<Word>) -> Result1<i64> {
    let Some(word) = word.filter(|word| !word.text.is_empty()) else {
        return Ok(0);
    };
    let error = |label: &str| {
        let message = format!("invalid duration `{}`", word.text);
        Err(Box::new(Diagnostic::error(
            message,
            word.span.clone(),
            label,
        )))
    };
    match parse_duration(&word.text) {
        None => error("wanted a form such as `1m30s` or `500ms`"),
        Some(n) if n != 0 && n < MILLISECOND => error("cannot be less than 1ms"),
        Some(n) => Ok(n),
    }
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        let number = if number == "." { return None } else { number };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (total < i64::MAX as f64).then_some(if negative { -total } else { total } as i64)
}

/// A number of nanoseconds as Go prints a duration: `1m30s`, `500ms`, `0s`.
pub fn format_duration(nanoseconds: i64) -> String {
    let fraction = |whole: i64, part: i64, width: usize, unit: &str| match part {
        0 => format!("{whole}{unit}"),
        _ => {
            let digits = format!("{part:0width$}");
            format!("{whole}.{}{unit}", digits.trim_end_matches('0'))
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < MILLISECOND => fraction(n / 1_000, n % 1_000, 3, "µs"),
        n if n < 1_000 * MILLISECOND => fraction(n / MILLISECOND, n % MILLISECOND, 6, "ms"),
        n => {
            let (seconds, part) = (n / 1_000_000_000, n % 1_000_000_000);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let mut text = String::new();
            if hours > 0 {
                text.push_str(&format!("{hours}h"));
            }
            if hours > 0 || minutes > 0 {
                text.push_str(&format!("{minutes}m"));
            }
            text + &fraction(seconds % 60, part, 9, "s")
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// What Go's time package says.
    #[test]
    fn durations_are_gos() {
        for (text, want, shown) in [
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("500ms", 500_000_000, "500ms"),
            ("1s500ms", 1_500_000_000, "1.5s"),
            ("1.5us", 1_500, "1.5µs"),
            ("0", 0, "0s"),
        ] {
            assert_eq!(parse_duration(text), Some(want), "{text}");
            assert_eq!(format_duration(want), shown);
        }
        for bad in ["", "1", "s", ".s", "1x", "1 s", "+", "--1s", "99999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
