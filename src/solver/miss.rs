//! Why a step is not cached: its record and the nearest earlier one, which it is compared with field by field. What the
//! difference is called is for those to say who make the records.

use rbuild_llb::KeyRecord;
use rbuild_llb::key::KeyValue;

/// Why a step must run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// The user wants it to.
    NoCache,
    /// It was never built here.
    FirstTime,
    /// It was built, but the result cannot be used any more.
    Unusable {
        /// Why not.
        reason: String,
    },
    /// It was built, but the result was removed from the cache since.
    Removed,
    /// It is not what it was.
    Changed(Box<Difference>),
    /// It is what it was, but must see what these of its inputs come out as.
    Inputs(Vec<usize>),
}

/// Two records of one kind that are not equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The nearest earlier one.
    pub earlier: KeyRecord,
    /// The one that missed.
    pub now: KeyRecord,
}

/// Whether two records of one kind differ; the definition keys of inputs count only if `inputs` is true.
pub(super) fn differ(earlier: &KeyRecord, now: &KeyRecord, inputs: bool) -> bool {
    let (earlier, now) = (&earlier.fields, &now.fields);
    earlier.len() != now.len()
        || earlier.iter().any(|(name, value)| {
            now.get(name)
                .is_none_or(|other| values_differ(value, other, inputs))
        })
}

fn values_differ(earlier: &KeyValue, now: &KeyValue, inputs: bool) -> bool {
    match (earlier, now) {
        (KeyValue::Input(_), KeyValue::Input(_)) => inputs && earlier != now,
        (KeyValue::Content { content: old, .. }, KeyValue::Content { content: new, .. }) => {
            old != new
        }
        // What is listed is what it stands for.
        (KeyValue::Listed { value: old, .. }, new) => values_differ(old, new, inputs),
        (old, KeyValue::Listed { value: new, .. }) => values_differ(old, new, inputs),
        (KeyValue::List(old), KeyValue::List(new)) => {
            old.len() != new.len()
                || old
                    .iter()
                    .zip(new)
                    .any(|(old, new)| values_differ(old, new, inputs))
        }
        (KeyValue::Map(old), KeyValue::Map(new)) => {
            old.len() != new.len()
                || old.iter().any(|(name, value)| {
                    new.get(name)
                        .is_none_or(|other| values_differ(value, other, inputs))
                })
        }
        _ => earlier != now,
    }
}

#[cfg(test)]
mod t {
    use std::collections::BTreeMap;

    use super::*;
    use rbuild_llb::CacheKey;
    use rbuild_llb::ContentDigest;
    use rbuild_llb::TreeId;

    fn record(value: KeyValue) -> KeyRecord {
        let mut record = KeyRecord::new("k");
        record.field("field", KeyValue::List(vec!["same".into(), value]));
        record
    }

    fn content(byte: u8, tree: Option<u8>) -> KeyValue {
        KeyValue::Content {
            content: ContentDigest::from_bytes([byte; 32]),
            tree: tree.map(|byte| TreeId::from_bytes([byte; 32])),
        }
    }

    fn map(entries: &[(&str, KeyValue)]) -> KeyValue {
        let owned = |(name, value): &(&str, KeyValue)| ((*name).to_owned(), value.clone());
        KeyValue::Map(entries.iter().map(owned).collect())
    }

    fn listed(value: KeyValue, tree: u8) -> KeyValue {
        KeyValue::Listed {
            value: Box::new(value),
            listing: BTreeMap::from([(String::new(), TreeId::from_bytes([tree; 32]))]),
        }
    }

    /// Records differ as their keys do, but for inputs that do not count.
    #[test]
    fn records_differ_as_their_keys_do() {
        let input = |byte| KeyValue::Input(CacheKey::from_bytes([byte; 32]));
        let list = |values: &[KeyValue]| KeyValue::List(values.to_vec());
        for (earlier, now, own) in [
            ("a".into(), "a".into(), false),
            ("a".into(), "b".into(), true),
            ("1".into(), KeyValue::Number(1), true),
            (input(1), input(1), false),
            (input(1), input(2), false),
            (input(1), "local".into(), true),
            (list(&[input(1)]), list(&[input(2)]), false),
            (list(&[input(1)]), list(&[input(1), input(2)]), true),
            (map(&[("a", input(1))]), map(&[("a", input(2))]), false),
            (map(&[("a", "1".into())]), map(&[("b", "1".into())]), true),
            (
                map(&[("a", "1".into())]),
                map(&[("a", "1".into()), ("b", "1".into())]),
                true,
            ),
            // Where files are listed is no difference.
            (content(1, Some(1)), content(1, None), false),
            (content(1, Some(1)), content(2, Some(1)), true),
            (listed(content(1, None), 1), content(1, None), false),
            (
                listed(content(1, None), 1),
                listed(content(1, None), 2),
                false,
            ),
            (
                listed(content(1, None), 1),
                listed(content(2, None), 1),
                true,
            ),
        ] {
            let (earlier, now) = (record(earlier), record(now));
            for (one, other) in [(&earlier, &now), (&now, &earlier)] {
                assert_eq!(differ(one, other, false), own, "{one:?} {other:?}");
                let keys = one.key() != other.key();
                assert_eq!(differ(one, other, true), keys, "{one:?} {other:?}");
            }
        }
    }
}
