//! The canonical byte encoding everything BLAKE3 is computed over.
//!
//! Rules, on which every stored key rests (a change means a new `KEY_VERSION`):
//!
//! - integers are fixed-width little-endian; `bool` is one byte, 0 or 1;
//! - byte strings and texts are their length as `u64`, then the bytes, so `"ab" + "cd"` and `"a" + "bcd"` differ;
//! - a list is its length as `u64`, then its elements in order; a map is the list of its (key, value) pairs in
//!   the order of the keys' bytes; unordered containers have no encoding;
//! - an option is one byte, 0 or 1, then the value if there is one;
//! - an enum is its ordinal as `u32`, then the fields of the variant; a struct is its fields in the order declared;
//! - ids are their 32 bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id;

/// Collects canonical bytes.
#[derive(Debug)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An empty encoder.
    pub fn new() -> Self {
        // Most of what is encoded fits in.
        let bytes = Vec::with_capacity(1024);
        Self { bytes }
    }

    /// Takes back what was appended, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// BLAKE3 of the bytes so far.
    pub fn blake3(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// Appends bytes as they are: only for fixed-width data.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends any encodable value.
    pub fn put(&mut self, value: &(impl Canonical + ?Sized)) -> &mut Self {
        value.encode(self);
        self
    }

    /// Appends an enum's ordinal.
    pub fn ordinal(&mut self, ordinal: u32) -> &mut Self {
        self.raw(&ordinal.to_le_bytes())
    }
}

/// A value with a canonical encoding.
pub trait Canonical {
    /// Appends the value.
    fn encode(&self, to: &mut Encoder);
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Canonical for $ty {
            fn encode(&self, to: &mut Encoder) {
                to.raw(&self.to_le_bytes());
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i32, i64);

macro_rules! ids {
    ($($ty:ident),*) => {$(
        impl Canonical for id::$ty {
            fn encode(&self, to: &mut Encoder) {
                to.raw(self.as_bytes());
            }
        }
    )*};
}
ids!(
    OciDigest,
    VertexId,
    CacheKey,
    TreeId,
    ContentDigest,
    FileDigest
);

impl Canonical for bool {
    fn encode(&self, to: &mut Encoder) {
        to.raw(&[u8::from(*self)]);
    }
}

impl Canonical for str {
    fn encode(&self, to: &mut Encoder) {
        (self.len() as u64).encode(to);
        to.raw(self.as_bytes());
    }
}

impl Canonical for Cow<'_, str> {
    fn encode(&self, to: &mut Encoder) {
        self.as_ref().encode(to);
    }
}

impl Canonical for String {
    fn encode(&self, to: &mut Encoder) {
        self.as_str().encode(to);
    }
}

/// A byte string. (A `Vec<u8>` would be a list of integers, which happens to be the same bytes.)
impl Canonical for [u8] {
    fn encode(&self, to: &mut Encoder) {
        (self.len() as u64).encode(to);
        to.raw(self);
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn encode(&self, to: &mut Encoder) {
        (self.len() as u64).encode(to);
        self.iter().for_each(|item| item.encode(to));
    }
}

impl<T: Canonical> Canonical for Arc<T> {
    fn encode(&self, to: &mut Encoder) {
        (**self).encode(to);
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn encode(&self, to: &mut Encoder) {
        self.is_some().encode(to);
        if let Some(value) = self {
            value.encode(to);
        }
    }
}

impl<K: Canonical + Ord, V: Canonical> Canonical for BTreeMap<K, V> {
    fn encode(&self, to: &mut Encoder) {
        (self.len() as u64).encode(to);
        for (key, value) in self {
            key.encode(to);
            value.encode(to);
        }
    }
}

impl<A: Canonical, B: Canonical> Canonical for (A, B) {
    fn encode(&self, to: &mut Encoder) {
        self.0.encode(to);
        self.1.encode(to);
    }
}

impl<T: Canonical + ?Sized> Canonical for &T {
    fn encode(&self, to: &mut Encoder) {
        (**self).encode(to);
    }
}

/// Encodes a struct's fields in the order given.
macro_rules! canonical_struct {
    ($ty:ty { $($field:ident),* $(,)? }) => {
        impl $crate::encode::Canonical for $ty {
            fn encode(&self, to: &mut $crate::encode::Encoder) {
                // Destructured, so that a new field is a compile error here instead of a silent hole in the key.
                let Self { $($field),* } = self;
                $($crate::encode::Canonical::encode($field, to);)*
            }
        }
    };
}
pub(crate) use canonical_struct;

canonical_struct!(crate::Platform { os, arch, variant });

#[cfg(test)]
mod t {
    use super::*;

    fn bytes(value: &(impl Canonical + ?Sized)) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.put(value);
        encoder.into_bytes()
    }

    #[test]
    fn boundaries_are_part_of_the_encoding() {
        let list = |items: &[&str]| {
            items
                .iter()
                .map(|s| (*s).to_owned())
                .collect::<Vec<String>>()
        };
        assert_ne!(bytes(&list(&["ab", "cd"])), bytes(&list(&["a", "bcd"])));
        assert_ne!(bytes(&list(&[])), bytes(&list(&[""])));
        assert_ne!(bytes(&None::<String>), bytes(&Some(String::new())));
        assert_ne!(bytes(&Some(0u8)), bytes(&0u8));
    }

    #[test]
    fn bytes_are_as_the_rules_say() {
        assert_eq!(bytes("hé"), [3, 0, 0, 0, 0, 0, 0, 0, b'h', 0xc3, 0xa9]);
        assert_eq!(bytes(&0x0102_0304u32), [4, 3, 2, 1]);
        assert_eq!(bytes(&Some(true)), [1, 1]);
        let map = BTreeMap::from([("b".to_owned(), 2u8), ("a".to_owned(), 1u8)]);
        assert_eq!(
            bytes(&map),
            [bytes(&2u64), bytes("a"), vec![1], bytes("b"), vec![2]].concat()
        );
    }
}
