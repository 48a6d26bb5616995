//! Cache keys and the records they are computed from.
//!
//! A key is BLAKE3 over a record: the kind of step and its named fields. The record is stored with the key, so
//! that a miss can be explained by comparing it, field by field, with the nearest earlier one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::encode::Canonical;
use crate::encode::Encoder;
use crate::id::CacheKey;
use crate::id::ContentDigest;
use crate::id::OciDigest;
use crate::id::TreeId;

/// Version of the records' meaning and encoding. Part of every key.
pub const KEY_VERSION: u32 = 2;

/// What a key is computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The kind of step, and which of its two keys: `exec`, `exec/content`.
    pub kind: String,
    /// Named values, in the order of the names. What is not in the key is not in here.
    pub fields: BTreeMap<String, KeyValue>,
}

/// One value in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyValue {
    /// Text shown as it is in explanations.
    Text(String),
    /// A number or flag.
    Number(i64),
    /// Values in order.
    List(Vec<KeyValue>),
    /// Named values.
    Map(BTreeMap<String, KeyValue>),
    /// The definition key of an input.
    Input(CacheKey),
    /// Digest of a source.
    Oci(OciDigest),
    /// Content of files. `tree` is where they can be listed, to name the file that differs; it is not hashed.
    Content {
        /// What is hashed.
        content: ContentDigest,
        /// A tree with that content, for explanations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tree: Option<TreeId>,
    },
    /// A value that stands for files. It is hashed as if it stood here by itself.
    Listed {
        /// What is hashed.
        value: Box<KeyValue>,
        /// Directory objects that list the files, by the path of the directory these are in; for explanations.
        listing: BTreeMap<String, TreeId>,
    },
    /// BLAKE3, with a derivation context of its own, of a value that looks secret and must not be stored. It is no protection
    /// of a value that can be guessed: it only keeps values from being read.
    Hidden(ContentDigest),
}

impl KeyRecord {
    /// An empty record of `kind`.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            fields: BTreeMap::new(),
        }
    }

    /// Adds a field. A name is used once.
    pub fn field(&mut self, name: &str, value: impl Into<KeyValue>) -> &mut Self {
        let earlier = self.fields.insert(name.to_owned(), value.into());
        debug_assert!(earlier.is_none(), "field `{name}` is set twice");
        self
    }

    /// The key.
    pub fn key(&self) -> CacheKey {
        let mut encoder = Encoder::new();
        encoder
            .put("rbuild key")
            .put(&KEY_VERSION)
            .put(&self.kind)
            .put(&self.fields);
        CacheKey::from_bytes(encoder.blake3())
    }

    /// The trees in which files can be listed that the record stands for.
    pub fn trees(&self) -> Vec<TreeId> {
        let mut trees = Vec::new();
        self.fields
            .values()
            .for_each(|value| value.trees(&mut trees));
        trees
    }
}

impl KeyValue {
    fn trees(&self, into: &mut Vec<TreeId>) {
        match self {
            Self::Content { tree, .. } => into.extend(tree),
            Self::Listed { value, listing } => {
                into.extend(listing.values());
                value.trees(into);
            }
            Self::List(list) => list.iter().for_each(|value| value.trees(into)),
            Self::Map(map) => map.values().for_each(|value| value.trees(into)),
            Self::Text(_) | Self::Number(_) | Self::Input(_) | Self::Oci(_) | Self::Hidden(_) => {}
        }
    }
}

impl Canonical for KeyValue {
    fn encode(&self, to: &mut Encoder) {
        match self {
            Self::Text(text) => to.ordinal(0).put(text),
            Self::Number(number) => to.ordinal(1).put(number),
            Self::List(list) => to.ordinal(2).put(list),
            Self::Map(map) => to.ordinal(3).put(map),
            Self::Input(key) => to.ordinal(4).put(key),
            Self::Oci(digest) => to.ordinal(5).put(digest),
            Self::Content { content, tree: _ } => to.ordinal(6).put(content),
            Self::Hidden(digest) => to.ordinal(7).put(digest),
            Self::Listed { value, listing: _ } => to.put(&**value),
        };
    }
}

impl From<&str> for KeyValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for KeyValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for KeyValue {
    fn from(flag: bool) -> Self {
        Self::Number(flag.into())
    }
}

impl From<u32> for KeyValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for KeyValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<ContentDigest> for KeyValue {
    fn from(content: ContentDigest) -> Self {
        Self::Content {
            content,
            tree: None,
        }
    }
}

impl From<CacheKey> for KeyValue {
    fn from(key: CacheKey) -> Self {
        Self::Input(key)
    }
}

impl From<OciDigest> for KeyValue {
    fn from(digest: OciDigest) -> Self {
        Self::Oci(digest)
    }
}

impl<T: Into<KeyValue>> FromIterator<T> for KeyValue {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn record() -> KeyRecord {
        let mut record = KeyRecord::new("exec");
        record
            .field(
                "args",
                ["sh", "-c", "true"].into_iter().collect::<KeyValue>(),
            )
            .field("network", "default")
            .field("root", ContentDigest::from_bytes([7; 32]));
        record
    }

    /// Guards the encoding; see `definition::t::golden_vertex_id`.
    #[test]
    fn golden_key() {
        assert_eq!(
            record().key().hex(),
            "05065f78d297d69d310151da2b8197221d2ba1d31faf9bdb1e7ddfe536abd008"
        );
    }

    #[test]
    fn the_listing_tree_is_not_hashed_and_json_round_trips() {
        let mut with_tree = record();
        with_tree.fields.insert(
            "root".into(),
            KeyValue::Content {
                content: ContentDigest::from_bytes([7; 32]),
                tree: Some(TreeId::from_bytes([9; 32])),
            },
        );
        let listed = KeyValue::Listed {
            value: Box::new(with_tree.fields["network"].clone()),
            listing: BTreeMap::from([("src".to_owned(), TreeId::from_bytes([8; 32]))]),
        };
        with_tree.fields.insert("network".into(), listed);
        assert_eq!(with_tree.key(), record().key());
        let trees = [8, 9].map(|byte| TreeId::from_bytes([byte; 32]));
        assert_eq!(with_tree.trees(), trees);
        let json = serde_json::to_string(&with_tree).unwrap();
        assert_eq!(serde_json::from_str::<KeyRecord>(&json).unwrap(), with_tree);
    }
}
