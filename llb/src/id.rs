//! Typed identifiers.
//!
//! OCI digests are SHA-256; everything rbuild derives for itself is BLAKE3. The types are distinct and there is
//! no conversion between them, so that a cache key can never be taken for a digest a registry would know, nor a
//! digest for a key.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// A malformed identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
    /// The form that was expected, with an article.
    pub wanted: &'static str,
}

fn parse_hex(text: &str, wanted: &'static str) -> Result<[u8; 32], ParseIdError> {
    let error = || ParseIdError {
        text: text.to_owned(),
        wanted,
    };
    if text.len() != 64 {
        return Err(error());
    }
    let mut bytes = [0u8; 32];
    let mut all = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| NIBBLES[usize::from(digit)]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    match all & NO_DIGIT {
        0 => Ok(bytes),
        _ => Err(error()),
    }
}

/// What is in [`NIBBLES`] for what is no lower-case hexadecimal digit.
const NO_DIGIT: u8 = 0xf0;

/// What digits stand for. By a table, and looked at once in the end: records hold hundreds of ids to be read as well.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    nibbles
};

/// The lower-case hexadecimal digits. By a table: records hold hundreds of ids, and formatting each byte by itself takes
/// longer than all else about writing them.
fn hex_digits(bytes: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

fn as_text(digits: &[u8; 64]) -> &str {
    std::str::from_utf8(digits).expect("hexadecimal digits are ASCII")
}

/// Declares a 32-byte identifier. `$prefix` goes before the 64 lower-case hexadecimal digits of its text form.
macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal, $wanted:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The 64 lower-case hexadecimal digits, without any prefix.
            pub fn hex(&self) -> String {
                as_text(&hex_digits(&self.0)).to_owned()
            }

            /// The first twelve hexadecimal digits, as people read them.
            pub fn short(&self) -> String {
                self.hex()[..12].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(as_text(&hex_digits(&self.0)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError { text: text.to_owned(), wanted: $wanted };
                let hex = text.strip_prefix($prefix).ok_or_else(error)?;
                parse_hex(hex, $wanted).map(Self).map_err(|_| error())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// SHA-256 of an OCI blob, manifest or config; text form `sha256:<hex>` (OCI image-spec, descriptor.md, Digests).
    OciDigest, "sha256:", "a digest of the form `sha256:` and 64 hexadecimal digits"
}
id! {
    /// BLAKE3 of a vertex' canonical encoding. Names a step inside one [`Definition`](crate::Definition);
    /// never stored, because tags in it may have moved by the next build.
    VertexId, "vertex:", "a vertex id"
}
id! {
    /// BLAKE3 of a [`KeyRecord`](crate::KeyRecord), computed after pinning. The only thing a cached result is found by.
    CacheKey, "", "a cache key of 64 hexadecimal digits"
}
id! {
    /// BLAKE3 of an encoded directory object: names, types, modes, owners, xattrs, link targets, sizes, contents
    /// *and* modification times.
    TreeId, "", "a tree id of 64 hexadecimal digits"
}
id! {
    /// BLAKE3 of a directory object (or entry) without modification times: what cache keys and the cut-off of
    /// unchanged outputs go by.
    ContentDigest, "", "a content digest of 64 hexadecimal digits"
}
id! {
    /// BLAKE3 of a file's bytes.
    FileDigest, "", "a file digest of 64 hexadecimal digits"
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_strict() {
        let digest = OciDigest::from_bytes([0xab; 32]);
        let text = digest.to_string();
        assert_eq!(text, format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(text.parse(), Ok(digest));
        for bad in [
            "",
            "sha256:",
            "sha256:AB",
            &text[..70],
            &text.replacen('a', "g", 1),
            &text.replacen('b', "/", 1),
            &text.replacen('b', "`", 1),
            &text.to_uppercase(),
            &text[7..],
            &format!("{text}0"),
        ] {
            assert!(bad.parse::<OciDigest>().is_err(), "{bad}");
        }
        assert_eq!(format!("{digest:?}"), "OciDigest(abababababab)");
    }
}
