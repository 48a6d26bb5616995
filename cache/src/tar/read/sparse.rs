//! The maps of sparse files (GNU tar manual, "Storing Sparse Files").

use std::io::Read;

use tar::Header;

use super::BLOCK;
use super::Reader;
use super::TarError;
use super::number;
use super::pax;

/// The most pieces of a sparse file: 16 MiB of map.
const MAX_PIECES: usize = 1 << 20;
/// The most zeros that sparse files of one archive may expand to: they cost nobody but the reader anything.
const MAX_HOLES: u64 = 64 << 30;

impl<R: Read> Reader<R> {
    /// Takes a map of (offset, length) over, after checking that it is one.
    pub(super) fn set_map(&mut self, map: &[(u64, u64)], size: u64) -> Result<(), &'static str> {
        let (mut end, mut data) = (0u64, 0u64);
        let mut pieces = Vec::with_capacity(map.len() + 1);
        for (offset, len) in map {
            let zeros = offset.checked_sub(end).ok_or("sparse pieces overlap")?;
            end = offset.checked_add(*len).ok_or("sparse map")?;
            data += len;
            pieces.push((zeros, *len));
        }
        let tail = size.checked_sub(end).ok_or("sparse pieces past the end")?;
        pieces.push((tail, 0));
        if data != self.body.stored {
            return Err("sparse map and size differ");
        }
        self.holes = self.holes.saturating_add(size - data);
        if self.holes > MAX_HOLES {
            return Err("sparse files of absurd size");
        }
        pieces.reverse();
        self.body.pieces = pieces;
        Ok(())
    }

    /// GNU's old format: four pieces in the header, then blocks of twenty-one.
    pub(super) fn old_sparse(
        &mut self,
        header: &Header,
        at: u64,
    ) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let bad = |problem| TarError::Header {
            offset: at,
            problem,
        };
        let gnu = header
            .as_gnu()
            .ok_or_else(|| bad("sparse file without GNU header"))?;
        let unsigned = |field: &[u8]| {
            number(field)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| bad("sparse map"))
        };
        let size = unsigned(&gnu.realsize)?;
        let mut map = Vec::new();
        let mut take = |slots: &[tar::GnuSparseHeader]| -> Result<(), TarError> {
            for slot in slots.iter().filter(|slot| slot.numbytes[0] != 0) {
                map.push((unsigned(&slot.offset)?, unsigned(&slot.numbytes)?));
            }
            if map.len() > MAX_PIECES {
                return Err(bad("sparse file with too many pieces"));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.isextended[0] == 1;
        while more {
            let block = self.block()?.ok_or(TarError::Truncated {
                offset: self.offset,
            })?;
            let mut extended = tar::GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            take(&extended.sparse)?;
            more = extended.isextended[0] == 1;
        }
        Ok((map, size))
    }

    /// PAX 1.0: decimal numbers, one a line, filled up to whole blocks, before the data.
    pub(super) fn sparse_map(&mut self, at: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = |problem| TarError::Header {
            offset: at,
            problem,
        };
        let mut numbers = Vec::new();
        let mut digits = Vec::new();
        let mut want = None;
        while want.is_none_or(|want| numbers.len() < want) {
            if self.body.stored < BLOCK as u64 {
                return Err(bad("sparse map"));
            }
            let block = self.block()?.ok_or(TarError::Truncated {
                offset: self.offset,
            })?;
            self.body.stored -= BLOCK as u64;
            for byte in block {
                if want.is_some_and(|want| numbers.len() == want) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    // The longest number of 64 bits has twenty digits.
                    if digits.len() > 20 {
                        return Err(bad("sparse map"));
                    }
                    continue;
                }
                let value = pax::decimal(&digits).ok_or_else(|| bad("sparse map"))?;
                digits.clear();
                if want.is_some() {
                    numbers.push(value);
                    continue;
                }
                let pieces = usize::try_from(value).unwrap_or(usize::MAX);
                if pieces > MAX_PIECES {
                    return Err(bad("sparse file with too many pieces"));
                }
                want = Some(2 * pieces);
            }
        }
        pairs(&numbers).ok_or_else(|| bad("sparse map"))
    }
}

/// Numbers two by two; `None` if one is left over.
pub(super) fn pairs(numbers: &[u64]) -> Option<Vec<(u64, u64)>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[offset, len]| (*offset, *len)).collect())
}
