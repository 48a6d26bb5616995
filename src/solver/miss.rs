//! Why a step is not cached: its record compared, field by field, with the nearest earlier one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use rbuild_llb::KeyRecord;
use rbuild_llb::Op;
use rbuild_llb::TreeId;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::SourceOp;

/// Lists what differs between the files of an earlier tree and a later one; `None` if one of them is gone.
pub type ListChanges<'a> = dyn Fn(&TreeId, &TreeId) -> Option<TreeChanges> + 'a;

/// How two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeChanges {
    /// How many files the later tree has.
    pub total: u64,
    /// Paths that were added, removed or changed, in order.
    pub paths: Vec<String>,
}

/// Why one step must run. Displayed as `RUN npm ci: args changed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The step.
    pub vertex: VertexId,
    /// How people know it: its name without the stage, or `base node:20`.
    pub step: String,
    /// Why it must run.
    pub miss: Miss,
}

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
    Changed(Vec<Change>),
    /// It is what it was, but must see what these of its inputs come out as.
    Inputs(Vec<usize>),
}

/// One field that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field's name in the record; for a part of it, the way there: `env.PATH`.
    pub field: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It was there before.
    Removed,
    /// It has another value.
    Value,
    /// It stands for other files.
    Files {
        /// The trees they can be listed in, the earlier first, if both are known.
        trees: Option<(TreeId, TreeId)>,
        /// The list, once it was asked for.
        changes: Option<TreeChanges>,
    },
}

/// Paths named in an explanation; the rest is counted.
const PATHS_NAMED: usize = 3;

/// What differs between two records of one kind, but for the definition keys of inputs if `inputs` is false.
pub(super) fn compare(earlier: &KeyRecord, record: &KeyRecord, inputs: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    compare_maps("", &earlier.fields, &record.fields, &mut changes, inputs);
    changes
}

fn compare_maps(
    prefix: &str,
    earlier: &BTreeMap<String, KeyValue>,
    now: &BTreeMap<String, KeyValue>,
    changes: &mut Vec<Change>,
    inputs: bool,
) {
    let names: BTreeSet<&String> = earlier.keys().chain(now.keys()).collect();
    for name in names {
        compare_values(
            format!("{prefix}{name}"),
            earlier.get(name),
            now.get(name),
            changes,
            inputs,
        );
    }
}

fn compare_values(
    field: String,
    earlier: Option<&KeyValue>,
    now: Option<&KeyValue>,
    changes: &mut Vec<Change>,
    inputs: bool,
) {
    let is_input = |value: Option<&KeyValue>| matches!(value, Some(KeyValue::Input(_)));
    if !inputs && (is_input(earlier) || is_input(now)) {
        return;
    }
    let kind = match (earlier, now) {
        (Some(KeyValue::Map(earlier)), Some(KeyValue::Map(now))) => {
            return compare_maps(&format!("{field}."), earlier, now, changes, inputs);
        }
        (Some(KeyValue::List(earlier)), Some(KeyValue::List(now)))
            if !earlier.iter().chain(now).all(is_word) =>
        {
            for at in 0..earlier.len().max(now.len()) {
                let field = format!("{field}[{at}]");
                compare_values(field, earlier.get(at), now.get(at), changes, inputs);
            }
            return;
        }
        (
            Some(KeyValue::Content {
                content: old,
                tree: old_tree,
            }),
            Some(KeyValue::Content {
                content: new,
                tree: new_tree,
            }),
        ) => {
            if old == new {
                return;
            }
            ChangeKind::Files {
                trees: old_tree.zip(*new_tree),
                changes: None,
            }
        }
        (Some(earlier), Some(now)) if earlier == now => return,
        (Some(_), Some(_)) => ChangeKind::Value,
        (None, _) => ChangeKind::Added,
        (Some(_), None) => ChangeKind::Removed,
    };
    changes.push(Change { field, kind });
}

/// Whether a value is a word: a list of words, such as argv, is compared as a whole.
fn is_word(value: &KeyValue) -> bool {
    matches!(
        value,
        KeyValue::Text(_) | KeyValue::Number(_) | KeyValue::Hidden(_)
    )
}

impl Miss {
    /// Looks up which files changed.
    pub(super) fn list(&mut self, list: &ListChanges<'_>) {
        let Self::Changed(all) = self else { return };
        for change in all {
            if let ChangeKind::Files { trees, changes } = &mut change.kind
                && let Some((earlier, now)) = trees
            {
                *changes = list(earlier, now);
            }
        }
    }
}

/// How people know a step.
pub(super) fn label(vertex: &Vertex) -> String {
    if let Op::Source(SourceOp::Image(image)) = &vertex.op {
        let name = image.reference.as_str();
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        return format!("base {}", name.strip_prefix("library/").unwrap_or(name));
    }
    let name = vertex.meta.name.as_str();
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .map_or(name, |(_, bare)| bare);
    if bare.is_empty() {
        vertex.op.kind().to_owned()
    } else {
        bare.to_owned()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.miss)
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCache => f.write_str("--no-cache"),
            Self::FirstTime => f.write_str("first time"),
            Self::Unusable { reason } => f.write_str(reason),
            Self::Removed => f.write_str("removed from the cache"),
            Self::Changed(changes) => join(f, changes, ", "),
            Self::Inputs(inputs) => {
                f.write_str(if inputs.len() == 1 {
                    "input "
                } else {
                    "inputs "
                })?;
                join(f, inputs, ", ")?;
                f.write_str(if inputs.len() == 1 {
                    " was rebuilt"
                } else {
                    " were rebuilt"
                })
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, kind } = self;
        match kind {
            ChangeKind::Added => write!(f, "{field} added"),
            ChangeKind::Removed => write!(f, "{field} removed"),
            ChangeKind::Value => write!(f, "{field} changed"),
            ChangeKind::Files { changes: None, .. } => f.write_str("files changed"),
            ChangeKind::Files {
                changes: Some(TreeChanges { total, paths }),
                ..
            } => {
                // The earlier tree may have had more: one file removed from one is no "1 of 0".
                let total = (*total).max(paths.len() as u64);
                write!(f, "{} of {total} files changed: ", paths.len())?;
                join(f, &paths[..paths.len().min(PATHS_NAMED)], ", ")?;
                if paths.len() > PATHS_NAMED {
                    write!(f, " and {} more", paths.len() - PATHS_NAMED)?;
                }
                Ok(())
            }
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display], between: &str) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(between)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::CacheKey;
    use rbuild_llb::ContentDigest;
    use rbuild_llb::OciDigest;

    fn content(byte: u8) -> KeyValue {
        KeyValue::Content {
            content: ContentDigest::from_bytes([byte; 32]),
            tree: Some(TreeId::from_bytes([byte; 32])),
        }
    }

    fn words(text: &str) -> KeyValue {
        text.split(' ').collect()
    }

    fn map(entries: &[(&str, KeyValue)]) -> KeyValue {
        let owned = |(name, value): &(&str, KeyValue)| ((*name).to_owned(), value.clone());
        KeyValue::Map(entries.iter().map(owned).collect())
    }

    fn explain(step: &str, earlier: &[(&str, KeyValue)], now: &[(&str, KeyValue)]) -> String {
        let record = |fields: &[(&str, KeyValue)]| {
            let mut record = KeyRecord::new("k");
            for (name, value) in fields {
                record.field(name, value.clone());
            }
            record
        };
        let mut miss = Miss::Changed(compare(&record(earlier), &record(now), true));
        miss.list(&|earlier, now| {
            let names = ["a.py", "b.py", "c.py", "d.py", "e.py"];
            let changed = usize::from(now.as_bytes()[0] - earlier.as_bytes()[0]);
            (changed < 6).then(|| TreeChanges {
                total: 412,
                paths: names[..changed].iter().map(|n| (*n).to_owned()).collect(),
            })
        });
        let vertex = VertexId::from_bytes([0; 32]);
        let step = step.to_owned();
        Explanation { vertex, step, miss }.to_string()
    }

    #[test]
    fn a_miss_says_what_differs() {
        let input = |byte| KeyValue::Input(CacheKey::from_bytes([byte; 32]));
        let digest = |byte| KeyValue::Oci(OciDigest::from_bytes([byte; 32]));
        for (step, earlier, now, want) in [
            (
                "RUN",
                vec![("args", words("sh -c a")), ("cwd", "/".into())],
                vec![("args", words("sh -c b")), ("cwd", "/".into())],
                "RUN: args changed",
            ),
            (
                "RUN",
                vec![("env", map(&[("A", "1".into()), ("B", "1".into())]))],
                vec![("env", map(&[("A", "2".into()), ("C", "1".into())]))],
                "RUN: env.A changed, env.B removed, env.C added",
            ),
            (
                "COPY src/",
                vec![("files", content(1))],
                vec![("files", content(2))],
                "COPY src/: 1 of 412 files changed: a.py",
            ),
            (
                "COPY src/",
                vec![("files", content(1))],
                vec![("files", content(6))],
                "COPY src/: 5 of 412 files changed: a.py, b.py, c.py and 2 more",
            ),
            (
                "COPY src/",
                vec![("files", content(1))],
                vec![("files", content(9))],
                "COPY src/: files changed",
            ),
            (
                "COPY src/",
                vec![("files", content(1))],
                vec![("files", ContentDigest::from_bytes([2; 32]).into())],
                "COPY src/: files changed",
            ),
            (
                "base node:20",
                vec![("digest", digest(1))],
                vec![("digest", digest(2))],
                "base node:20: digest changed",
            ),
            (
                "RUN",
                vec![("mounts", [input(1), input(2)].into_iter().collect())],
                vec![("mounts", [input(1), input(3)].into_iter().collect())],
                "RUN: mounts[1] changed",
            ),
        ] {
            assert_eq!(explain(step, &earlier, &now), want);
        }
    }

    #[test]
    fn the_tree_a_content_is_listed_in_is_no_difference() {
        let mut with = KeyRecord::new("k");
        with.field("files", content(1));
        let mut without = KeyRecord::new("k");
        without.field("files", ContentDigest::from_bytes([1; 32]));
        assert_eq!(compare(&with, &without, true), []);
    }

    #[test]
    fn other_reasons_in_words() {
        for (miss, want) in [
            (Miss::NoCache, "--no-cache"),
            (Miss::FirstTime, "first time"),
            (Miss::Removed, "removed from the cache"),
            (Miss::Inputs(vec![2]), "input 2 was rebuilt"),
            (Miss::Inputs(vec![0, 2]), "inputs 0, 2 were rebuilt"),
        ] {
            assert_eq!(miss.to_string(), want);
        }
    }
}
