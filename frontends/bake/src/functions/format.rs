//! `format`: the verbs `%v %t %b %d %o %x %X %e %E %f %g %G %s %q`, with flags, width and precision.

use std::iter::Peekable;
use std::str::Chars;

use super::Result;
use super::Why;
use crate::json;
use crate::number::Number;
use crate::value::Type;
use crate::value::Value;
use crate::value::convert;

/// No result needs more.
const MAX_WIDTH: usize = 1024;

#[derive(Default)]
struct Verb {
    raw: String,
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

pub(super) fn format(spec: &str, values: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut scanner = Scanner {
        chars: spec.chars().peekable(),
        raw: String::new(),
    };
    let mut next = 0;
    let mut highest = 0;
    let mut explicit = false;
    while let Some(c) = scanner.chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        scanner.raw = "%".to_owned();
        if scanner.take(|c| c == '%').is_some() {
            out.push('%');
            continue;
        }
        let (mut verb, index) = scanner.verb()?;
        if let Some(index) = index {
            next = index;
            explicit = true;
        }
        let mode = scanner.take(|_| true);
        verb.raw.clone_from(&scanner.raw);
        let Some(mode) = mode else {
            return Err(format!("`{}` is no verb: it has no letter", verb.raw).into());
        };
        let Some(value) = values.get(next) else {
            return Err(format!("there is no value for `{}`", verb.raw).into());
        };
        out.push_str(&formatted(&verb, mode, value)?);
        next += 1;
        highest = highest.max(next);
    }
    if !explicit && highest < values.len() {
        let message = format!("{} values, but the format uses {highest}", values.len());
        return Err(message.into());
    }
    Ok(out)
}

struct Scanner<'s> {
    chars: Peekable<Chars<'s>>,
    /// The verb so far, for messages.
    raw: String,
}

impl Scanner<'_> {
    fn take(&mut self, wanted: fn(char) -> bool) -> Option<char> {
        let c = self.chars.next_if(|c| wanted(*c))?;
        self.raw.push(c);
        Some(c)
    }

    fn digits(&mut self) -> String {
        let mut text = String::new();
        while let Some(digit) = self.take(|c| c.is_ascii_digit()) {
            text.push(digit);
        }
        text
    }

    /// What stands between the `%` and the letter, and which value is meant, counted from 0, if that is said.
    fn verb(&mut self) -> Result<(Verb, Option<usize>)> {
        let mut verb = Verb::default();
        while let Some(flag) = self.take(|c| "-+# 0".contains(c)) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                ' ' => verb.space = true,
                _ => verb.zero = true,
            }
        }
        verb.width = bounded(&self.digits())?;
        if self.take(|c| c == '.').is_some() {
            verb.precision = bounded(&self.digits())?.or(Some(0));
        }
        if self.take(|c| c == '[').is_none() {
            return Ok((verb, None));
        }
        let number = self.digits();
        let closed = self.take(|c| c == ']').is_some();
        match number.parse::<usize>() {
            Ok(number) if closed && number > 0 => Ok((verb, Some(number - 1))),
            _ => Err(format!("`{}` is no verb: `[` needs a number and `]`", self.raw).into()),
        }
    }
}

fn bounded(digits: &str) -> Result<Option<usize>> {
    if digits.is_empty() {
        return Ok(None);
    }
    let number = digits.parse().ok().filter(|n| *n <= MAX_WIDTH);
    number
        .map(Some)
        .ok_or_else(|| format!("{digits} is too wide").into())
}

fn formatted(verb: &Verb, mode: char, value: &Value) -> Result<String> {
    let cannot = |why: String| -> Why { format!("`{}`: {why}", verb.raw).into() };
    if mode != 'v' && *value == Value::Null {
        return Err(cannot("null has no text".to_owned()));
    }
    match mode {
        'v' => Ok(padded(verb, &as_is(verb, value))),
        't' => match convert(value, &Type::Bool) {
            Ok(value) => Ok(value.to_text().unwrap_or_default()),
            Err(why) => Err(cannot(why)),
        },
        's' | 'q' => {
            let text = value
                .to_text()
                .ok_or_else(|| cannot(format!("string required, but have {}", value.type_of())))?;
            let text = match verb.precision {
                Some(length) if length > 0 => text.chars().take(length).collect(),
                _ => text,
            };
            let text = if mode == 'q' {
                json::quoted(&text)
            } else {
                text
            };
            Ok(padded(verb, &text))
        }
        'b' | 'd' | 'o' | 'x' | 'X' | 'e' | 'E' | 'f' | 'g' | 'G' => {
            let number = match convert(value, &Type::Number) {
                Ok(Value::Number(number)) => number,
                Ok(_) => return Err(cannot("a number is required".to_owned())),
                Err(why) => return Err(cannot(why)),
            };
            match mode {
                'e' | 'E' | 'f' | 'g' | 'G' => Ok(float(verb, mode, number)),
                _ => integer(verb, mode, number)
                    .ok_or_else(|| cannot("a whole number is required".to_owned())),
            }
        }
        _ => Err(cannot(format!("`{mode}` is no verb"))),
    }
}

fn as_is(verb: &Verb, value: &Value) -> String {
    match value {
        Value::String(text) if !verb.sharp => text.clone(),
        Value::Number(number) if !verb.sharp => number.to_string(),
        value => json::encoded(value),
    }
}

fn padded(verb: &Verb, text: &str) -> String {
    let missing = verb.width.unwrap_or(0).saturating_sub(text.chars().count());
    let pad = if verb.zero { "0" } else { " " }.repeat(missing);
    if verb.minus {
        format!("{text}{pad}")
    } else {
        format!("{pad}{text}")
    }
}

fn sign(verb: &Verb, negative: bool) -> &'static str {
    match (negative, verb.plus, verb.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    }
}

/// A sign and digits in the width; zeros go between the two.
fn padded_number(verb: &Verb, sign: &str, digits: &str) -> String {
    let width = verb.width.unwrap_or(0);
    let missing = width.saturating_sub(sign.len() + digits.len());
    match (verb.minus, verb.zero) {
        (true, _) => format!("{sign}{digits}{}", " ".repeat(missing)),
        (_, true) => format!("{sign}{}{digits}", "0".repeat(missing)),
        _ => format!("{}{sign}{digits}", " ".repeat(missing)),
    }
}

fn integer(verb: &Verb, mode: char, number: Number) -> Option<String> {
    if !number.is_whole() {
        return None;
    }
    let magnitude: u128 = number.abs().to_string().parse().ok()?;
    let digits = match mode {
        'b' => format!("{magnitude:b}"),
        'o' => format!("{magnitude:o}"),
        'x' => format!("{magnitude:x}"),
        'X' => format!("{magnitude:X}"),
        _ => magnitude.to_string(),
    };
    let prefix = match (mode, verb.sharp) {
        ('b', true) => "0b",
        ('o', true) => "0",
        ('x', true) => "0x",
        ('X', true) => "0X",
        _ => "",
    };
    let least = verb.precision.unwrap_or(0);
    let digits = format!("{prefix}{digits:0>least$}");
    Some(padded_number(
        verb,
        sign(verb, number < Number::ZERO),
        &digits,
    ))
}

fn float(verb: &Verb, mode: char, number: Number) -> String {
    let value = number.abs().to_f64();
    let digits = match mode {
        'f' => format!("{value:.*}", verb.precision.unwrap_or(6)),
        'e' | 'E' => scientific(value, Some(verb.precision.unwrap_or(6))),
        _ => general(value, verb.precision),
    };
    let digits = if mode.is_ascii_uppercase() {
        digits.to_uppercase()
    } else {
        digits
    };
    padded_number(verb, sign(verb, number < Number::ZERO), &digits)
}

/// `1.5e+06`: the exponent has a sign and two digits or more.
fn scientific(value: f64, precision: Option<usize>) -> String {
    let text = match precision {
        Some(precision) => format!("{value:.precision$e}"),
        None => format!("{value:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A float as Go prints it where nothing else is said.
pub(crate) fn go_float(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", general(value.abs(), None))
}

/// A positive float with four digits at most.
pub(crate) fn four_digits(value: f64) -> String {
    general(value, Some(4))
}

/// Go's `%g`: the shorter of the two forms, by the size of the exponent.
fn general(value: f64, precision: Option<usize>) -> String {
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let limit = match precision {
        Some(precision) => precision.max(1),
        None => digits.max(if digits > 21 { digits } else { 21 }),
    };
    if exponent < -4 || exponent >= i32::try_from(limit).unwrap_or(i32::MAX) {
        return scientific(value, precision.map(|p| p.max(1) - 1));
    }
    match precision {
        Some(precision) => {
            let behind = i32::try_from(precision.max(1)).unwrap_or(i32::MAX) - 1 - exponent;
            let text = format!("{value:.*}", usize::try_from(behind).unwrap_or(0));
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
        None => value.to_string(),
    }
}
