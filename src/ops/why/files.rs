//! Which files differ: `1 of 412 files changed: src/a.py (content)`.

use std::collections::BTreeMap;

use rbuild_cache::Directory;
use rbuild_cache::PathChange;
use rbuild_cache::Trees;
use rbuild_cache::What;
use rbuild_llb::TreeId;
use rbuild_llb::key::KeyValue;

use super::text::printable;

/// Files that are named; the rest is counted.
const NAMED: usize = 3;
/// Files that are looked for. More than these have the same reason, and are not counted either.
const LIMIT: usize = 1000;

/// What differs between the files of some fields.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Whether anything does.
    differs: bool,
    /// The fields that could not be listed; of the others nothing is said then.
    unlisted: bool,
    list: Vec<(String, PathChange)>,
    complete: Option<bool>,
    /// How many files there are now, if that is known of all.
    total: Option<u64>,
}

impl Files {
    /// Looks at a field of two records: what stands for files there.
    pub(super) fn add(&mut self, trees: &Trees, old: Option<&KeyValue>, new: Option<&KeyValue>) {
        let (Some(before), Some(after)) = (listing(old), listing(new)) else {
            // Values without a list that say the same.
            if hashed(old) != hashed(new) {
                self.differs = true;
                self.unlisted = true;
            }
            return;
        };
        let known = after.values().map(|tree| trees.count_known(tree));
        let known: Option<u64> = known.sum();
        self.total = match self.complete {
            None => known,
            Some(_) => self.total.zip(known).map(|(a, b)| a + b),
        };
        self.complete.get_or_insert(true);
        if hashed(old) == hashed(new) {
            return;
        }
        self.differs = true;
        let empty = trees.put(Directory::default()).tree;
        let paths: std::collections::BTreeSet<&String> =
            before.keys().chain(after.keys()).collect();
        for path in paths {
            let (old, new) = (before.get(path), after.get(path));
            let room = LIMIT - self.list.len().min(LIMIT);
            let changes = trees.changes(old.unwrap_or(&empty), new.unwrap_or(&empty), room);
            match changes {
                Ok(changes) => {
                    let found = changes.list.into_iter();
                    self.list.extend(found.map(|change| (path.clone(), change)));
                    self.complete = self.complete.map(|all| all && changes.complete);
                }
                // The earlier list is gone, as what nothing needs goes.
                Err(_) => self.unlisted = true,
            }
        }
    }

    /// Whether all that differs is what `--chown` and `--chmod` set.
    pub(super) fn is_meta(&self) -> bool {
        let mut what = self.list.iter().flat_map(|(_, change)| &change.what);
        !self.unlisted && what.all(|what| matches!(what, What::Owner | What::Mode { .. }))
    }

    /// What is to be said of it; nothing if there is no difference.
    pub(super) fn text(&self) -> Option<String> {
        if !self.differs {
            return None;
        }
        if self.unlisted || self.list.is_empty() {
            return Some("files changed".to_owned());
        }
        let count = |is: &dyn Fn(&PathChange) -> bool| {
            let files = self.list.iter().filter(|(_, change)| !change.is_dir);
            files.filter(|(_, change)| is(change)).count() as u64
        };
        let (files, gone) = (
            count(&|_| true),
            count(&|change| change.what == [What::Removed]),
        );
        let more = match self.complete {
            Some(true) => "",
            _ => "more than ",
        };
        let noun = |count| if count == 1 { "file" } else { "files" };
        let mut text = match self.total.map(|total| total + gone) {
            _ if files == 0 => String::new(),
            Some(total) => format!("{more}{files} of {total} {} changed: ", noun(total)),
            None => format!("{more}{files} {} changed: ", noun(files)),
        };
        let count = self.list.len();
        let named: Vec<String> = self.list.iter().take(NAMED).map(named).collect();
        text.push_str(&named.join(", "));
        if count > NAMED {
            text.push_str(&format!(" and {} more", count - NAMED));
        }
        Some(text)
    }
}

/// The directories that list the files of a field.
fn listing(value: Option<&KeyValue>) -> Option<BTreeMap<String, TreeId>> {
    match value {
        None => Some(BTreeMap::new()),
        Some(KeyValue::Listed { listing, .. }) => Some(listing.clone()),
        Some(KeyValue::Content { tree, .. }) => Some(BTreeMap::from([(String::new(), (*tree)?)])),
        Some(_) => None,
    }
}

/// What of it is in the key.
fn hashed(value: Option<&KeyValue>) -> Option<KeyValue> {
    match value {
        Some(KeyValue::Listed { value, .. }) => hashed(Some(value)),
        Some(KeyValue::Content { content, .. }) => Some((*content).into()),
        value => value.cloned(),
    }
}

/// `src/a.py (content, mode 0644 → 0755)`
fn named((above, change): &(String, PathChange)) -> String {
    let path = String::from_utf8_lossy(&change.path);
    let mut path = match (above.is_empty(), path.is_empty()) {
        (true, _) => path.into_owned(),
        (false, true) => above.clone(),
        (false, false) => format!("{above}/{path}"),
    };
    if change.is_dir {
        path.push('/');
    }
    let what = change.what.iter().map(|what| match what {
        What::Added => "added".to_owned(),
        What::Removed => "removed".to_owned(),
        What::Type => "type".to_owned(),
        What::Content => "content".to_owned(),
        What::Target => "link target".to_owned(),
        What::Mode { earlier, now } => format!("mode {earlier:04o} → {now:04o}"),
        What::Owner => "owner".to_owned(),
        What::Attributes => "extended attributes".to_owned(),
    });
    format!(
        "{} ({})",
        printable(&path),
        what.collect::<Vec<_>>().join(", ")
    )
}
