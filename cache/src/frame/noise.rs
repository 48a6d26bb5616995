//! Which parts of a frame deflate could not make smaller.
//!
//! Trying costs most where it gains nothing: libdeflate's level 6 takes 1.6 times as long for noise as for source code.
//! Deflate (RFC 1951) gains by codes that are shorter for frequent bytes and by repeats in its window of 32 KiB. Where
//! neither is to be had the bytes are stored. The decision is made of the frame's bytes alone and with integers, so that it is
//! the same on every machine.

use std::ops::Range;

/// What is looked at at a time. Deflate's codes adapt to parts, so bytes have to be evenly spread in each.
const PIECE: usize = 16 << 10;
/// Less in a row than this is not worth the break in the window of what is around it.
const RUN: usize = 4 * PIECE;
/// Deflate's window.
const WINDOW: usize = 32 << 10;

/// A part of a frame, and whether it is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) range: Range<usize>,
    pub(super) stored: bool,
}

/// Divides a frame into what is compressed and what is stored.
pub(super) fn parts(raw: &[u8]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut add = |range: Range<usize>, stored| match parts.last_mut() {
        Some(last) if last.stored == stored => last.range.end = range.end,
        _ => parts.push(Part { range, stored }),
    };
    let mut at = 0;
    while at < raw.len() {
        let even = raw[at..]
            .chunks_exact(PIECE)
            .take_while(|piece| is_even(piece))
            .count();
        let run = at..at + even * PIECE;
        if run.len() >= RUN && !repeats(&raw[run.clone()]) {
            add(run.clone(), true);
            at = run.end;
        } else {
            let end = raw.len().min(run.end + PIECE);
            add(at..end, false);
            at = end;
        }
    }
    parts
}

/// Whether no byte is much more frequent than others.
fn is_even(piece: &[u8]) -> bool {
    // A look at some bytes is enough to know text and programs.
    spread(piece.iter().step_by(31)) && spread(piece.iter())
}

/// Compares Pearson's chi-squared of the bytes' counts, which for noise is 255 give or take 23, with what it would be if codes
/// of other lengths saved half a percent.
fn spread<'a>(bytes: impl ExactSizeIterator<Item = &'a u8>) -> bool {
    let len = bytes.len() as u64;
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let squares: u64 = counts.iter().map(|n| u64::from(*n).pow(2)).sum();
    256 * squares <= len * (len + len / 32 + 256 + 100)
}

/// Whether what is within the window comes again often enough to matter. Every third place is remembered and every
/// fourth looked up, so that of a repeat of 17 or more bytes at least one is found.
fn repeats(bytes: &[u8]) -> bool {
    const BITS: u32 = 14;
    const LEN: usize = 6;
    let mut places = vec![0u32; 1 << BITS];
    let mut found = 0;
    for (at, eight) in bytes.windows(8).enumerate() {
        if at % 3 != 0 && at % 4 != 0 {
            continue;
        }
        let eight: &[u8; 8] = eight.first_chunk().expect("the window has eight bytes");
        // The low six of them.
        let word = u64::from_le_bytes(*eight) << (64 - 8 * LEN);
        let slot = (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as usize;
        let place = places[slot] as usize;
        if at % 4 == 0
            && place < at
            && at - place <= WINDOW
            && bytes[place..place + LEN] == eight[..LEN]
        {
            found += 1;
        }
        if at % 3 == 0 {
            places[slot] = at as u32;
        }
    }
    // One in twelve places is seen; repeats from one in 128 are worth compressing.
    found * 12 * 128 > bytes.len()
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::Compression;
    use crate::fixture::noise;

    fn text(len: usize) -> Vec<u8> {
        let words = (0..).flat_map(|n: u32| format!("word {} and ", n % 977).into_bytes());
        words.take(len).collect()
    }

    fn stored(raw: &[u8]) -> Vec<(usize, usize)> {
        let parts = parts(raw);
        let mut end = 0;
        for part in &parts {
            assert_eq!(part.range.start, end);
            assert!(!part.range.is_empty());
            end = part.range.end;
        }
        assert_eq!(end, raw.len());
        parts
            .iter()
            .filter(|part| part.stored)
            .map(|part| (part.range.start, part.range.end))
            .collect()
    }

    #[test]
    fn what_deflate_can_make_smaller_is_not_stored() {
        let narrow = |top: u8| {
            noise(7, 1 << 19)
                .into_iter()
                .map(move |byte| byte & 0x7f | top)
        };
        let ids: Vec<[u8; 8]> = noise(8, 8 * 500)
            .chunks_exact(8)
            .map(|id| *id.first_chunk().unwrap())
            .collect();
        let picks = noise(9, 1 << 17);
        for (name, raw) in [
            ("nothing", Vec::new()),
            ("text", text(1 << 20)),
            ("zeros", vec![0; 1 << 20]),
            ("short noise", noise(1, RUN - 1)),
            ("a counter", (0..1 << 20).map(|n: u32| n as u8).collect()),
            // Evenly spread over the whole, seven bits each.
            ("halves", narrow(0).chain(narrow(0x80)).collect()),
            ("noise that repeats", noise(1, 20_000).repeat(50)),
            (
                "a table of random numbers",
                picks.iter().flat_map(|at| ids[usize::from(*at)]).collect(),
            ),
        ] {
            assert_eq!(stored(&raw), [], "{name}");
        }
    }

    #[test]
    fn what_it_cannot_is_stored() {
        assert_eq!(stored(&noise(1, 1 << 20)), [(0, 1 << 20)]);
        // Something compressed: its header and what may be at its end aside.
        let hex: Vec<u8> = noise(3, 1 << 20)
            .iter()
            .flat_map(|byte| format!("{byte:02x}").into_bytes())
            .collect();
        for compressed in [
            zstd::bulk::compress(&hex, 3).unwrap(),
            Compression::Gzip { level: 1 }.frame(&hex).unwrap().unwrap(),
        ] {
            let stored: usize = stored(&compressed).iter().map(|(a, b)| b - a).sum();
            assert!(
                stored + 2 * PIECE > compressed.len(),
                "{stored} of {}",
                compressed.len()
            );
        }
        // Between text, up to a piece at either side.
        let between = [text(100_000), noise(2, 300_000), text(100_000)].concat();
        let [(start, end)] = stored(&between)[..] else {
            panic!("not one part")
        };
        assert!((100_000..100_000 + PIECE).contains(&start), "{start}");
        assert!((400_000 - PIECE..=400_000).contains(&end), "{end}");
    }
}
