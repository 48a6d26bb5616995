//! The bytes the builder, the zygote and a step's child exchange.
//!
//! Both ends are the same executable, so there is no version: integers are little endian, byte strings and lists are
//! a `u32` count and their items, options a flag byte, enums an ordinal byte, structs their fields in order.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A value that can be sent.
pub(super) trait Wire: Sized {
    /// Appends the value.
    fn put(&self, to: &mut Vec<u8>);
    /// Reads a value back from the front of `from`; `None` if the bytes are not one.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

/// All bytes of one value.
pub(super) fn encode(value: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.put(&mut bytes);
    bytes
}

/// The value that `bytes` is, and nothing more.
pub(super) fn decode<T: Wire>(mut bytes: &[u8]) -> Option<T> {
    let value = T::take(&mut bytes)?;
    bytes.is_empty().then_some(value)
}

fn split<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = from.split_at_checked(len)?;
    *from = tail;
    Some(head)
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Wire for $ty {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                let bytes = split(from, size_of::<Self>())?;
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}
integers!(u8, u32, i32, u64, i64);

impl Wire for bool {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(u8::take(from)? != 0)
    }
}

/// Byte strings, apart from `Vec<T>` so that they are copied in one go.
macro_rules! bytes {
    ($ty:ty: $value:ident => $as_bytes:expr, $bytes:ident => $from_bytes:expr) => {
        impl Wire for $ty {
            fn put(&self, to: &mut Vec<u8>) {
                let $value = self;
                let bytes: &[u8] = $as_bytes;
                (bytes.len() as u32).put(to);
                to.extend_from_slice(bytes);
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                let len = u32::take(from)? as usize;
                let $bytes = split(from, len)?.to_vec();
                $from_bytes
            }
        }
    };
}
bytes!(String: s => s.as_bytes(), bytes => String::from_utf8(bytes).ok());
bytes!(OsString: s => s.as_encoded_bytes(), bytes => Some(Self::from_vec(bytes)));
bytes!(PathBuf: p => p.as_os_str().as_encoded_bytes(), bytes => Some(OsString::from_vec(bytes).into()));
bytes!(Blob: b => &b.0, bytes => Some(Self(bytes)));

/// File content.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Blob(pub(super) Vec<u8>);

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u32).put(to);
        for item in self {
            item.put(to);
        }
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let len = u32::take(from)?;
        (0..len).map(|_| T::take(from)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match bool::take(from)? {
            true => Some(T::take(from)?),
            false => None,
        })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some((A::take(from)?, B::take(from)?))
    }
}

/// Implements [`Wire`] for a struct, field by field.
macro_rules! wire_struct {
    ($ty:ty { $($field:ident),* $(,)? }) => {
        impl $crate::sandbox::wire::Wire for $ty {
            fn put(&self, to: &mut Vec<u8>) {
                $($crate::sandbox::wire::Wire::put(&self.$field, to);)*
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                $(let $field = $crate::sandbox::wire::Wire::take(from)?;)*
                Some(Self { $($field),* })
            }
        }
    };
}
pub(super) use wire_struct;

/// Implements [`Wire`] for an enum: the ordinal written out, then the variant's fields.
macro_rules! wire_enum {
    ($ty:ty { $($ordinal:literal => $variant:ident $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl $crate::sandbox::wire::Wire for $ty {
            fn put(&self, to: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        to.push($ordinal);
                        $($($crate::sandbox::wire::Wire::put($field, to);)*)?
                    })*
                }
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                match <u8 as $crate::sandbox::wire::Wire>::take(from)? {
                    $($ordinal => {
                        $($(let $field = $crate::sandbox::wire::Wire::take(from)?;)*)?
                        Some(Self::$variant $({ $($field),* })?)
                    })*
                    _ => None,
                }
            }
        }
    };
}
pub(super) use wire_enum;

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn values_come_back_and_short_or_long_bytes_do_not() {
        type Value = (Vec<OsString>, (Option<PathBuf>, (i64, String)));
        let value: Value = (
            vec!["sh".into(), OsString::from_vec(vec![0xff, b'\n'])],
            (Some("/a b".into()), (-1, "ü".into())),
        );
        let bytes = encode(&value);
        assert_eq!(decode::<Value>(&bytes), Some(value));
        for len in 0..bytes.len() {
            assert_eq!(decode::<Value>(&bytes[..len]), None);
        }
        assert_eq!(decode::<Value>(&[bytes.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn a_lying_length_allocates_nothing() {
        assert_eq!(decode::<Vec<u64>>(&u32::MAX.to_le_bytes()), None);
        assert_eq!(decode::<String>(&u32::MAX.to_le_bytes()), None);
    }
}
