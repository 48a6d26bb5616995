//! Numbers as people read them, in the forms BuildKit's progress has.

use rbuild_llb::event::Timestamp;

/// A size in decimal units: `123B`, `1.23kB`, `45.60MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n}B");
    }
    let (mut base, mut unit) = (1_u64, 0);
    while unit + 1 < UNITS.len() && n / base >= 1000 {
        base *= 1000;
        unit += 1;
    }
    format!("{:.2}{}", n as f64 / base as f64, UNITS[unit])
}

/// Seconds from `start` to `end`; 0 if the clock went backwards.
pub(crate) fn seconds(start: Timestamp, end: Timestamp) -> f64 {
    end.0.saturating_sub(start.0) as f64 / 1e9
}

/// Seconds before a line of output: fewer decimals as they grow, so that the column keeps its width.
pub(crate) fn log_seconds(secs: f64) -> String {
    let precision = match secs {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{secs:.precision$}")
}

/// How long ago, for lists: `12 seconds ago`, `3 hours ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let secs = seconds(then, now) as u64;
    let (n, unit) = match secs {
        0..60 => (secs, "second"),
        60..3_600 => (secs / 60, "minute"),
        3_600..86_400 => (secs / 3_600, "hour"),
        86_400..1_209_600 => (secs / 86_400, "day"),
        1_209_600..5_184_000 => (secs / 604_800, "week"),
        5_184_000..63_072_000 => (secs / 2_592_000, "month"),
        _ => (secs / 31_536_000, "year"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

/// A line of a step's output, made harmless for a terminal: what a carriage return overwrote is left out, and so are
/// escape sequences and other control characters; a tab is a space.
pub(crate) fn printable(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48: CSI sequences end at 0x40–0x7e; OSC strings at BEL or ST; others are two characters.
            '\x1b' => match chars.next() {
                Some('[') => {
                    chars.find(|c| ('\x40'..='\x7e').contains(c));
                }
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => text.push(' '),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

/// Text of which parts may be a stranger's, such as a name from an archive or a registry's words, made harmless for a
/// terminal: control characters but line ends and tabs are shown as escapes.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn sizes_as_buildkit_prints_them() {
        // The examples in the documentation of github.com/tonistiigi/units, and its unit borders.
        for (n, want) in [
            (0, "0B"),
            (123, "123B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (1234, "1.23kB"),
            (45_600_000, "45.60MB"),
            (3_626_897, "3.63MB"),
            (u64::MAX, "18.45EB"),
        ] {
            assert_eq!(bytes(n), want);
        }
    }

    #[test]
    fn output_seconds_keep_their_width() {
        for (secs, want) in [
            (0.0, "0.000"),
            (0.3124, "0.312"),
            (9.9994, "9.999"),
            (12.345, "12.35"),
            (123.45, "123.5"),
        ] {
            assert_eq!(log_seconds(secs), want);
        }
        assert_eq!(seconds(Timestamp(5), Timestamp(3)), 0.0);
    }

    #[test]
    fn ages() {
        let second = 1_000_000_000;
        for (secs, want) in [
            (0, "0 seconds ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (86_400 * 3, "3 days ago"),
            (86_400 * 30, "4 weeks ago"),
            (86_400 * 400, "13 months ago"),
            (86_400 * 800, "2 years ago"),
        ] {
            assert_eq!(ago(Timestamp(0), Timestamp(secs * second)), want);
        }
    }

    #[test]
    fn output_cannot_move_the_cursor() {
        for (line, want) in [
            ("plain", "plain"),
            ("10%\r20%\r", "20%"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://x\x1b\\link", "link"),
            ("\x1bcreset", "reset"),
            ("a\tb\x00\x08c", "a bc"),
            ("cut \x1b[", "cut "),
        ] {
            assert_eq!(printable(line), want, "{line:?}");
        }
    }
}
