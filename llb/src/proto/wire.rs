//! Finds fields that a decoder dropped.
//!
//! A protobuf decoder skips fields it does not know, but in a build graph a field that is skipped is a build that
//! does something else than was asked. So the bytes are compared with what the decoded message encodes to.

use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Deeper than this no message of LLB goes.
const MAX_DEPTH: usize = 16;

/// Fields that the protobuf types lack, by their numbers from `pb.Op` inwards.
const NAMES: [(&[u32], &str); 1] = [(&[8], "passthrough")];

/// What messages call a field: its name if that is known, else the numbers on the way to it.
pub(super) fn name(path: &[u32]) -> String {
    let known = NAMES.iter().find(|(numbers, _)| *numbers == path);
    known.map_or_else(
        || {
            let numbers: Vec<String> = path.iter().map(u32::to_string).collect();
            numbers.join(".")
        },
        |(_, name)| (*name).to_owned(),
    )
}

/// The first field of `bytes` that is not in `known`, what the message decoded from `bytes` encodes to: field
/// numbers, outermost first. `None` if nothing was dropped; another order of fields is no difference.
pub(super) fn dropped(bytes: &[u8], known: &[u8]) -> Option<Vec<u32>> {
    dropped_at(bytes, known, 0)
}

fn dropped_at(bytes: &[u8], known: &[u8], depth: usize) -> Option<Vec<u32>> {
    if bytes == known {
        return None;
    }
    let (Some(fields), Some(rest)) = (fields(bytes), fields(known)) else {
        return Some(Vec::new());
    };
    // Equal ones first, however many there are and in whatever order.
    let mut equal: BTreeMap<(u32, &[u8]), usize> = BTreeMap::new();
    for field in &rest {
        *equal.entry((field.number, field.payload)).or_default() += 1;
    }
    let mut other = Vec::new();
    for field in fields {
        match equal.get_mut(&(field.number, field.payload)) {
            Some(count) if *count > 0 => *count -= 1,
            _ => other.push(field),
        }
    }
    let mut left: BTreeMap<u32, VecDeque<&[u8]>> = BTreeMap::new();
    for field in rest {
        if let Some(count) = equal.get_mut(&(field.number, field.payload))
            && *count > 0
        {
            *count -= 1;
            let same_number = left.entry(field.number).or_default();
            same_number.push_back(field.payload);
        }
    }
    for field in other {
        let same_number = left.get_mut(&field.number).and_then(VecDeque::pop_front);
        let inside = match same_number {
            Some(_) if depth == MAX_DEPTH => Vec::new(),
            Some(other) => match dropped_at(field.payload, other, depth + 1) {
                Some(inside) => inside,
                None => continue,
            },
            // A value that is the default of its type may be written or left out.
            None if field.payload.iter().all(|&byte| byte == 0) => continue,
            None => Vec::new(),
        };
        return Some([vec![field.number], inside].concat());
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
struct Field<'a> {
    number: u32,
    /// Without the length of length-delimited ones.
    payload: &'a [u8],
}

/// The fields of a message; `None` if it is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (key, _) = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok()?;
        let payload = match key & 7 {
            0 => varint(&mut bytes)?.1,
            1 => take(&mut bytes, 8)?,
            2 => {
                let (length, _) = varint(&mut bytes)?;
                take(&mut bytes, usize::try_from(length).ok()?)?
            }
            5 => take(&mut bytes, 4)?,
            _ => return None,
        };
        fields.push(Field { number, payload });
    }
    Some(fields)
}

/// A variable-length integer and its bytes.
fn varint<'a>(bytes: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let length = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let raw = take(bytes, length)?;
    let value = raw
        .iter()
        .rev()
        .fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, raw))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn names_the_field_that_is_missing() {
        // Written by hand from the encoding rules: field 1 = 5; field 2 = { field 3 = "x" }.
        let known = [0x08, 5, 0x12, 3, 0x1a, 1, b'x'];
        for (bytes, want) in [
            (&known[..], None),
            (&[0x12, 3, 0x1a, 1, b'x', 0x08, 5], None),
            (&[0x08, 5, 0x12, 3, 0x1a, 1, b'x', 0x28, 7], Some(vec![5])),
            (&[0x08, 5, 0x12, 3, 0x1a, 1, b'x', 0x28, 0], None),
            (
                &[0x08, 5, 0x12, 5, 0x1a, 1, b'x', 0x20, 1],
                Some(vec![2, 4]),
            ),
            (&[0xff], Some(vec![])),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], Some(vec![])),
        ] {
            assert_eq!(dropped(bytes, &known), want, "{bytes:x?}");
        }
    }
}
