//! PAX extended header records: `<length> <key>=<value>\n` (POSIX.1-2017, pax, "pax Extended Header").

/// What xattr records start with (schily's star; used by GNU tar, Go and all image tools).
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";

/// Appends a record. The length counts its own digits.
pub(crate) fn push(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + digits(len) != len {
        len = rest + digits(len);
    }
    to.extend_from_slice(len.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

fn digits(n: usize) -> usize {
    n.to_string().len()
}

/// Splits a header's data into records, in their order. `None` if it is malformed. Values may hold any byte; the length
/// alone says where one ends.
pub(crate) fn parse(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ')?;
        let len: usize = decimal(&data[..space])?.try_into().ok()?;
        let record = data.get(space + 1..len)?;
        let (newline, record) = record.split_last()?;
        let equals = record.iter().position(|b| *b == b'=')?;
        if *newline != b'\n' || equals == 0 {
            return None;
        }
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[len..];
    }
    Some(records)
}

/// An unsigned decimal number with nothing around it.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time as a decimal number of seconds with an optional fraction, cut to nanoseconds; `-1.5` is half a second before -1.
pub(crate) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..9 {
            nanos = nanos * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
        }
    }
    match (negative, nanos) {
        (false, _) => Some((secs, nanos)),
        (true, 0) => Some((-secs, 0)),
        (true, _) => Some((-secs - 1, 1_000_000_000 - nanos)),
    }
}

/// An xattr's name as a record's key: `=` would end the key, so GNU tar writes it as `%3D` (and `%` as `%25`).
pub(crate) fn encode_xattr(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR.to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            byte => key.push(*byte),
        }
    }
    key
}

/// Undoes [`encode_xattr`], given the key without its prefix.
pub(crate) fn decode_xattr(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let (byte, used) = match key {
            [b'%', b'3', b'D', ..] => (b'=', 3),
            [b'%', b'2', b'5', ..] => (b'%', 3),
            _ => (*first, 1),
        };
        name.push(byte);
        key = if used == 1 { rest } else { &key[used..] };
    }
    name
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_length_counts_itself() {
        // POSIX' own arithmetic: the number of octets including the length field and the newline.
        for (value, len) in [
            (0, 5),
            (1, 6),
            (4, 9),
            (5, 11),
            (92, 98),
            (93, 99),
            (94, 101),
        ] {
            let mut record = Vec::new();
            push(&mut record, b"a", &vec![b'x'; value]);
            assert_eq!(record.len(), len, "{value}");
            assert!(record.starts_with(format!("{len} a=").as_bytes()));
        }
    }

    #[test]
    fn records_may_hold_any_byte() {
        let mut data = Vec::new();
        push(&mut data, b"SCHILY.xattr.user.x", b"a\n5 b=c\n\0\xff");
        push(&mut data, b"path", b"x=y");
        assert_eq!(
            parse(&data).unwrap(),
            [
                (
                    b"SCHILY.xattr.user.x".as_slice(),
                    b"a\n5 b=c\n\0\xff".as_slice()
                ),
                (b"path", b"x=y")
            ]
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            "x",
            "5",
            "5 ",
            "5 a=",
            "6 a=x",
            "6 a=xy",
            "5 a=\n6 b",
            "0 a=\n",
            "-5 a=\n",
            "5 =a\n",
            "5 ab\n",
            "99 a=\n",
            "18446744073709551616 a=\n",
            "+5 a=\n",
            "2 a=\n",
            "3 \n",
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1350244992.023960108", Some((1_350_244_992, 23_960_108))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("1.", Some((1, 0))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("", None),
            (".5", None),
            ("1.5x", None),
            ("--1", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn xattr_names_round_trip() {
        for name in ["user.a", "user.a=b", "user.100%", "user.%3D", "user.=%="] {
            let key = encode_xattr(name.as_bytes());
            assert!(!key.contains(&b'='));
            assert_eq!(decode_xattr(&key[XATTR.len()..]), name.as_bytes());
        }
    }
}
