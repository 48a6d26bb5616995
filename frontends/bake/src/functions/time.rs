//! Points in time: RFC 3339 texts and seconds since 1970.

use super::Function;
use super::Result;
use super::function;
use super::text;
use super::whole;
use super::wrong;
use crate::number::Number;
use crate::value::Value;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Years 0 to 9999, which is what RFC 3339 can write.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "formatdate",
        "formatdate(format, timestamp)",
        (2, 2),
        |_, a| {
            let time = parse(&text(a, 1)?).ok_or_else(|| wrong(1, NOT_A_TIME))?;
            format(&text(a, 0)?, &time).map(Value::String)
        },
    ),
    function(
        "formattimestamp",
        "formattimestamp(format, time)",
        (2, 2),
        |_, a| {
            let time = match &a[1] {
                Value::Number(_) => Time::utc(whole(a, 1)?),
                _ => parse(&text(a, 1)?),
            };
            let time = time.ok_or_else(|| wrong(1, NOT_A_TIME))?;
            match text(a, 0)?.as_str() {
                "X" => Ok(Value::String(time.seconds.to_string())),
                spec => format(spec, &time).map(Value::String),
            }
        },
    ),
    function("timeadd", "timeadd(timestamp, duration)", (2, 2), |_, a| {
        let time = parse(&text(a, 0)?).ok_or_else(|| wrong(0, NOT_A_TIME))?;
        let nanoseconds = duration(&text(a, 1)?)
            .ok_or_else(|| wrong(1, "this is no duration such as `1h30m`"))?;
        let sum = i128::from(time.seconds) * 1_000_000_000 + time.nanoseconds + nanoseconds;
        let seconds = i64::try_from(sum.div_euclid(1_000_000_000)).ok();
        let later = seconds.and_then(|seconds| Time::new(seconds, time.offset));
        let later = later.ok_or("the year is not one of 0 to 9999")?;
        Ok(Value::String(later.rfc3339()))
    }),
    function("timestamp", "timestamp()", (0, 0), |world, _| {
        let now = Time::utc(world.now).ok_or("the clock is wrong")?;
        Ok(Value::String(now.rfc3339()))
    }),
    function(
        "unixtimestampparse",
        "unixtimestampparse(seconds)",
        (1, 1),
        |_, a| {
            let time = Time::utc(whole(a, 0)?).ok_or_else(|| wrong(0, NOT_A_TIME))?;
            Ok(parts(&time))
        },
    ),
];

const NOT_A_TIME: &str = "this is no time such as `2026-01-31T12:00:00Z`";

struct Time {
    /// Since 1970, in UTC.
    seconds: i64,
    nanoseconds: i128,
    /// Seconds that the zone is ahead of UTC.
    offset: i64,
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Days since 1970 of a date of the Gregorian calendar. Years begin in March here, so that leap days come last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12 + 1;
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

impl Time {
    fn utc(seconds: i64) -> Option<Self> {
        Self::new(seconds, 0)
    }

    fn new(seconds: i64, offset: i64) -> Option<Self> {
        let local = seconds.checked_add(offset)?;
        if !(FIRST..=LAST).contains(&local) {
            return None;
        }
        let (year, month, day) = date_of(local.div_euclid(86_400));
        let of_day = local.rem_euclid(86_400);
        Some(Self {
            seconds,
            nanoseconds: 0,
            offset,
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        })
    }

    fn days(&self) -> i64 {
        days_of(self.year, self.month, self.day)
    }

    /// 0 is Sunday.
    fn weekday(&self) -> i64 {
        (self.days() + 4).rem_euclid(7)
    }

    fn year_day(&self) -> i64 {
        self.days() - days_of(self.year, 1, 1) + 1
    }

    /// The week that the Thursday next to the day is in, with its year (ISO 8601).
    fn iso_week(&self) -> (i64, i64) {
        let thursday = self.days() - (self.weekday() + 6) % 7 + 3;
        let (year, ..) = date_of(thursday);
        (year, (thursday - days_of(year, 1, 1)) / 7 + 1)
    }

    fn zone(&self, colon: &str) -> String {
        let sign = if self.offset < 0 { '-' } else { '+' };
        let minutes = self.offset.abs() / 60;
        format!("{sign}{:02}{colon}{:02}", minutes / 60, minutes % 60)
    }

    fn rfc3339(&self) -> String {
        let zone = match self.offset {
            0 => "Z".to_owned(),
            _ => self.zone(":"),
        };
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{zone}",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        )
    }
}

fn parse(text: &str) -> Option<Time> {
    let digits = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        part.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| part.parse().ok())?
    };
    let mark = |at: usize, wanted: &str| text.get(at..at + 1).filter(|c| *c == wanted);
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    for (at, wanted) in [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")] {
        mark(at, wanted)?;
    }
    let mut rest = text.get(19..)?;
    let mut nanoseconds = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let nine = format!("{:0<9.9}", &fraction[..end]);
        nanoseconds = nine.parse().ok().filter(|_| end > 0)?;
        rest = &fraction[end..];
    }
    let offset = match rest {
        "Z" => 0,
        zone => {
            let at = text.len() - zone.len();
            let sign = match zone.chars().next()? {
                '+' => 1,
                '-' => -1,
                _ => return None,
            };
            mark(at + 3, ":")?;
            let (hours, minutes) = (digits(at + 1..at + 3)?, digits(at + 4..at + 6)?);
            (zone.len() == 6 && hours < 24 && minutes < 60)
                .then_some(sign * (hours * 3600 + minutes * 60))?
        }
    };
    let valid = (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    let days = days_of(year, month, day);
    // A day that its month does not have comes back as another date.
    if !valid || date_of(days) != (year, month, day) {
        return None;
    }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(Time {
        nanoseconds,
        ..Time::new(seconds, offset)?
    })
}

/// Go's durations, in nanoseconds: `-1h30m`, `1.5s`.
fn duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = Number::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count = Number::parse(&rest[..end])?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit: i64 = match &rest[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[end..];
        total = total.add(count.mul(Number::from(unit))?)?;
    }
    let nanoseconds = total.trunc().to_i64()?;
    (!text.is_empty()).then_some(sign * i128::from(nanoseconds))
}

/// A run of one letter stands for a part of the time; quotes keep letters as they are.
fn format(spec: &str, time: &Time) -> Result<String> {
    let mut out = String::new();
    let mut rest = spec;
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let (text, after) = quoted(rest).ok_or_else(|| wrong(0, "a `'` has no end"))?;
            out.push_str(&text);
            rest = after;
            continue;
        }
        let end = rest.find(|c| c != first).unwrap_or(rest.len());
        let run = &rest[..end];
        rest = &rest[end..];
        match first.is_ascii_alphabetic() {
            true => out.push_str(
                &part(run, first, time)
                    .ok_or_else(|| wrong(0, format!("`{run}` stands for no part of a time")))?,
            ),
            false => out.push_str(run),
        }
    }
    Ok(out)
}

/// The text between the quotes, and what follows. Two quotes are one, inside and alone.
fn quoted(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix("''") {
        return Some(("'".to_owned(), rest));
    }
    let mut inside = String::new();
    let mut rest = &text[1..];
    loop {
        let (before, after) = rest.split_once('\'')?;
        inside.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                inside.push('\'');
                rest = more;
            }
            None => return Some((inside, after)),
        }
    }
}

fn part(run: &str, letter: char, time: &Time) -> Option<String> {
    let plain = |value: i64| match run.len() {
        1 => Some(value.to_string()),
        2 => Some(format!("{value:02}")),
        _ => None,
    };
    let month = MONTHS[usize::try_from(time.month - 1).unwrap_or(0)];
    let day = DAYS[usize::try_from(time.weekday()).unwrap_or(0)];
    match (letter, run.len()) {
        ('Y', 2) => Some(format!("{:02}", time.year % 100)),
        ('Y', 4) => Some(format!("{:04}", time.year)),
        ('M', 3) => Some(month[..3].to_owned()),
        ('M', 4) => Some(month.to_owned()),
        ('M', _) => plain(time.month),
        ('D', _) => plain(time.day),
        ('E', 3) => Some(day[..3].to_owned()),
        ('E', 4) => Some(day.to_owned()),
        ('h', _) => plain(time.hour),
        ('H', _) => plain(if time.hour % 12 == 0 {
            12
        } else {
            time.hour % 12
        }),
        ('A', 2) => Some(if time.hour < 12 { "AM" } else { "PM" }.to_owned()),
        ('a', 2) => Some(if time.hour < 12 { "am" } else { "pm" }.to_owned()),
        ('m', _) => plain(time.minute),
        ('s', _) => plain(time.second),
        ('Z', 1) if time.offset == 0 => Some("Z".to_owned()),
        ('Z', 3) if time.offset == 0 => Some("UTC".to_owned()),
        ('Z', 1 | 5) => Some(time.zone(":")),
        ('Z', 3 | 4) => Some(time.zone("")),
        _ => None,
    }
}

fn parts(time: &Time) -> Value {
    let number = |value: i64| Value::Number(Number::from(value));
    let month = MONTHS[usize::try_from(time.month - 1).unwrap_or(0)];
    let day = DAYS[usize::try_from(time.weekday()).unwrap_or(0)];
    let (iso_year, iso_week) = time.iso_week();
    let parts = [
        ("year", number(time.year)),
        ("year_day", number(time.year_day())),
        ("day", number(time.day)),
        ("month", number(time.month)),
        ("month_name", Value::string(month)),
        ("weekday", number(time.weekday())),
        ("weekday_name", Value::string(day)),
        ("hour", number(time.hour)),
        ("minute", number(time.minute)),
        ("second", number(time.second)),
        ("rfc3339", Value::String(time.rfc3339())),
        ("iso_year", number(iso_year)),
        ("iso_week", number(iso_week)),
    ];
    Value::Object(parts.map(|(name, value)| (name.to_owned(), value)).into())
}
