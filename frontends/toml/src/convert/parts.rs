//! Instructions of a stage as parts of a step, as few as their order allows.

use std::collections::BTreeMap;

use super::write::Item;
use super::write::Value;
use super::write::comments;
use super::write::entry;
use super::write::is_long;
use super::write::key;

/// Where instructions stand in a step, in the order in which a step does things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    Args,
    Env,
    Workdir,
    User,
    Copy,
    Run,
    Author,
    Shell,
    ImageEnv,
    Labels,
    ImageWorkdir,
    ImageUser,
    StopSignal,
    Expose,
    Volumes,
    Entrypoint,
    Cmd,
    Healthcheck,
    /// Where they stand among others makes no difference.
    Onbuild,
}

impl Slot {
    /// Whether it takes several instructions.
    fn is_list(self) -> bool {
        matches!(
            self,
            Self::Args
                | Self::Env
                | Self::Copy
                | Self::Run
                | Self::ImageEnv
                | Self::Labels
                | Self::Onbuild
        )
    }

    fn is_image(self) -> bool {
        self > Self::Run
    }

    fn key(self) -> &'static str {
        match self {
            Self::Args => "args",
            Self::Env | Self::ImageEnv => "env",
            Self::Workdir | Self::ImageWorkdir => "workdir",
            Self::User | Self::ImageUser => "user",
            Self::Copy => "copy",
            Self::Run => "run",
            Self::Author => "author",
            Self::Shell => "shell",
            Self::Labels => "labels",
            Self::StopSignal => "stop-signal",
            Self::Expose => "expose",
            Self::Volumes => "volumes",
            Self::Entrypoint => "entrypoint",
            Self::Cmd => "cmd",
            Self::Healthcheck => "healthcheck",
            Self::Onbuild => "onbuild",
        }
    }
}

/// What the commands of a part have in common: keys and values.
pub(super) type Settings = Vec<(&'static str, Value)>;

/// A part of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Part {
    slots: BTreeMap<Slot, Vec<Item>>,
    settings: Settings,
}

impl Part {
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.slots.contains_key(&slot)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes the image config out of it.
    pub(super) fn take_image(&mut self) -> Self {
        let slots = std::mem::take(&mut self.slots);
        let (image, rest) = slots.into_iter().partition(|(slot, _)| slot.is_image());
        self.slots = rest;
        Self {
            slots: image,
            settings: Vec::new(),
        }
    }

    /// All values of it.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.slots.values().flatten().map(|item| &item.value)
    }

    pub(super) fn push(&mut self, slot: Slot, item: Item) {
        self.slots.entry(slot).or_default().push(item);
    }

    /// Whether an instruction can be put behind those that are there.
    fn takes(&self, slot: Slot, settings: &Settings) -> bool {
        let fits = match self.slots.keys().next_back() {
            None => true,
            Some(last) => *last < slot || (*last == slot && slot.is_list()),
        };
        fits && (slot != Slot::Run || !self.has(Slot::Run) || self.settings == *settings)
    }

    /// Writes it; `table` is what its own tables begin with.
    pub(super) fn write(&self, table: &str, to: &mut String) {
        let mut tables = Vec::new();
        for (slot, items) in self.slots.iter().filter(|(slot, _)| !slot.is_image()) {
            if *slot == Slot::Run {
                for (name, value) in &self.settings {
                    entry(name, &Item::from(value.clone()), to);
                }
            }
            field(*slot, items, to, &mut tables);
        }
        write_tables(table, &tables, to);
        self.write_image(&format!("{table}.image"), to);
    }

    /// Writes what is image config in it, as a table of its own.
    pub(super) fn write_image(&self, table: &str, to: &mut String) {
        let (mut keys, mut tables) = (String::new(), Vec::new());
        for (slot, items) in self.slots.iter().filter(|(slot, _)| slot.is_image()) {
            field(*slot, items, &mut keys, &mut tables);
        }
        if !keys.is_empty() {
            to.push_str(&format!("\n[{table}]\n{keys}"));
        }
        write_tables(table, &tables, to);
    }
}

/// Parts of a step, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parts {
    pub(super) list: Vec<Part>,
}

impl Parts {
    /// Adds an instruction to the last part, or begins another.
    pub(super) fn push(&mut self, slot: Slot, item: Item, settings: Settings) {
        let part = match self.list.last_mut() {
            Some(part) if part.takes(slot, &settings) => part,
            _ => {
                self.list.push(Part::default());
                self.list.last_mut().expect("it was just pushed")
            }
        };
        if slot == Slot::Run {
            part.settings = settings;
        }
        part.push(slot, item);
    }
}

/// A table that is written after the keys that are none.
type Table = (&'static str, Vec<String>, Vec<(String, Value)>);

/// Writes a key, or keeps it for a table of its own.
fn field(slot: Slot, items: &[Item], to: &mut String, tables: &mut Vec<Table>) {
    let name = slot.key();
    let item = match (slot, items) {
        (Slot::Env | Slot::ImageEnv | Slot::Labels, [one]) => match as_table(one) {
            Some(table) if is_long(name, &table) => {
                tables.push((name, one.comments.clone(), table));
                return;
            }
            Some(table) => Item {
                comments: one.comments.clone(),
                value: Value::Table(table),
            },
            None => Item::from(items.to_vec()),
        },
        (slot, [one]) if !slot.is_list() => one.clone(),
        // The comment of a list's first item is the list's.
        (_, items) => {
            let mut items = items.to_vec();
            let comments = match items.as_mut_slice() {
                [one] => std::mem::take(&mut one.comments),
                _ => Vec::new(),
            };
            Item {
                comments,
                value: Value::List(items),
            }
        }
    };
    if slot == Slot::Healthcheck
        && let Value::Table(table) = &item.value
        && is_long(name, table)
    {
        tables.push((name, item.comments, table.clone()));
        return;
    }
    entry(name, &item, to);
}

fn write_tables(prefix: &str, tables: &[Table], to: &mut String) {
    for (name, above, table) in tables {
        to.push('\n');
        comments(above, "", to);
        to.push_str(&format!("[{prefix}.{}]\n", key(name)));
        for (name, value) in table {
            entry(name, &Item::from(value.clone()), to);
        }
    }
}

/// The pairs of one instruction as a table, which has its names in order, and each once.
fn as_table(item: &Item) -> Option<Vec<(String, Value)>> {
    let pair = |value: &Value| match value {
        Value::Text(text) => {
            let (name, value) = text.split_once('=')?;
            Some((name.to_owned(), Value::from(value)))
        }
        _ => None,
    };
    let table: Vec<(String, Value)> = match &item.value {
        Value::List(items) => items
            .iter()
            .map(|item| pair(&item.value))
            .collect::<Option<_>>()?,
        one => vec![pair(one)?],
    };
    table.is_sorted_by(|(a, _), (b, _)| a < b).then_some(table)
}
