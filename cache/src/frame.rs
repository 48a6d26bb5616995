//! Compression of a layer's tar in independent frames.
//!
//! A blob is a sequence of frames: members of a gzip file (RFC 1952, 2.2) or zstd frames (RFC 8878, 3). A reader sees
//! one stream; a writer can compress the frames on all cores, and a frame's bytes depend on nothing outside it. A frame may
//! be several members: see [`noise`].

mod noise;

use libdeflater::CompressionLvl;
use libdeflater::Compressor;
use serde::Deserialize;
use serde::Serialize;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip {
        /// 1 (fast) to 12 (small).
        level: u32,
    },
    /// Zstandard.
    Zstd {
        /// 1 (fast) to 22 (small).
        level: u32,
    },
}

/// A compressor could not be made or did not work.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The level is outside the compressor's range.
    #[error("{name} has compression levels from 1 to {max}, not {level}")]
    Level {
        /// `gzip` or `zstd`.
        name: &'static str,
        /// The level asked for.
        level: u32,
        /// The highest there is.
        max: u32,
    },
    /// zstd refused.
    #[error("zstd cannot compress")]
    Zstd {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Compression {
    /// Checks the level.
    pub fn check(&self) -> Result<(), FrameError> {
        let (name, level, max) = match *self {
            Self::None => return Ok(()),
            Self::Gzip { level } => ("gzip", level, 12),
            Self::Zstd { level } => ("zstd", level, 22),
        };
        if (1..=max).contains(&level) {
            Ok(())
        } else {
            Err(FrameError::Level { name, level, max })
        }
    }

    /// Compresses one frame; `None` if it is stored as it is.
    pub(crate) fn frame(&self, raw: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        match *self {
            Self::None => Ok(None),
            Self::Gzip { level } => gzip(raw, level).map(Some),
            Self::Zstd { level } => {
                let level = i32::try_from(level).unwrap_or(i32::MAX);
                zstd::bulk::compress(raw, level)
                    .map(Some)
                    .map_err(|source| FrameError::Zstd { source })
            }
        }
    }
}

/// gzip members. libdeflate writes a fixed header: no name, mtime 0, unknown system (255).
fn gzip(raw: &[u8], level: u32) -> Result<Vec<u8>, FrameError> {
    let invalid = FrameError::Level {
        name: "gzip",
        level,
        max: 12,
    };
    let level = i32::try_from(level)
        .ok()
        .and_then(|level| CompressionLvl::new(level).ok())
        .ok_or(invalid)?;
    let mut out = Vec::new();
    for part in noise::parts(raw) {
        // Level 0 stores.
        let level = if part.stored {
            CompressionLvl::fastest()
        } else {
            level
        };
        let part = &raw[part.range];
        let mut compressor = Compressor::new(level);
        let start = out.len();
        out.resize(start + compressor.gzip_compress_bound(part.len()), 0);
        let len = compressor
            .gzip_compress(part, &mut out[start..])
            .expect("the buffer has the size libdeflate names as its bound");
        out.truncate(start + len);
    }
    Ok(out)
}

#[cfg(test)]
mod t {
    use std::io::Read as _;

    use super::*;
    use crate::fixture::noise;

    #[test]
    fn frames_are_one_stream_to_foreign_readers() {
        let half = [noise(1, 200_000), vec![b'x'; 100_000]].concat();
        let parts: [&[u8]; 4] = [b"one ", &[b'x'; 100_000], &half, b" four"];
        let whole = parts.concat();
        let pack = |compression: Compression| -> Vec<u8> {
            parts
                .iter()
                .flat_map(|part| compression.frame(part).unwrap().unwrap())
                .collect()
        };
        let mut gunzipped = Vec::new();
        flate2::read::MultiGzDecoder::new(&pack(Compression::Gzip { level: 6 })[..])
            .read_to_end(&mut gunzipped)
            .unwrap();
        assert_eq!(gunzipped, whole);
        let unzstd = zstd::stream::decode_all(&pack(Compression::Zstd { level: 3 })[..]).unwrap();
        assert_eq!(unzstd, whole);
        assert!(Compression::None.frame(&whole).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_is_partly_stored_is_as_small() {
        let text: Vec<u8> = (0..20_000u32)
            .flat_map(|n| format!("line {}\n", n * n % 1009).into_bytes())
            .collect();
        let raw = [&text[..], &noise(1, 300_000), &text].concat();
        let mut whole = Compressor::new(CompressionLvl::new(6).unwrap());
        let mut out = vec![0; whole.gzip_compress_bound(raw.len())];
        let len = whole.gzip_compress(&raw, &mut out).unwrap();
        let frame = Compression::Gzip { level: 6 }.frame(&raw).unwrap().unwrap();
        assert!(frame.len() < len + len / 200, "{} and {len}", frame.len());
        // Three members: each starts with the same six bytes.
        let members = frame.windows(6).filter(|w| *w == &frame[..6]).count();
        assert_eq!(members, 3);
    }

    #[test]
    fn the_gzip_header_says_nothing_about_time_or_machine() {
        let frame = Compression::Gzip { level: 6 }.frame(b"x").unwrap().unwrap();
        // RFC 1952, 2.3: magic, deflate, no flags, mtime 0, no extra flags, unknown system.
        assert_eq!(frame[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn levels_out_of_range_are_errors() {
        for bad in [
            Compression::Gzip { level: 0 },
            Compression::Gzip { level: 13 },
            Compression::Zstd { level: 0 },
            Compression::Zstd { level: 23 },
        ] {
            assert!(
                matches!(bad.check(), Err(FrameError::Level { .. })),
                "{bad:?}"
            );
        }
        assert!(Compression::Gzip { level: 12 }.check().is_ok());
        assert!(Compression::Zstd { level: 22 }.check().is_ok());
    }
}
