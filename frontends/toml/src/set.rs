//! `--set KEY=VALUE`: values in the place of those of the file, before it is read.

use std::borrow::Cow;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

/// Where the offsets of the first setting begin: behind those of any file. Each setting has as many for itself.
const FIRST: usize = 1 << 40;

/// Settings, as the user wrote them.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    list: Vec<Setting>,
}

#[derive(Debug)]
struct Setting {
    file: Arc<SourceFile>,
    /// Its key with a value that is TOML, for the case that its own is none.
    key: String,
}

impl Settings {
    pub(crate) fn new(texts: &[String]) -> Self {
        let setting = |text: &String| Setting {
            file: Arc::new(SourceFile {
                name: "--set".to_owned(),
                text: text.clone(),
                language: "TOML",
            }),
            key: format!("{} = 0", text.split('=').next().unwrap_or_default()),
        };
        Self {
            list: texts.iter().map(setting).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The place of a value in its setting, if it came from one.
    pub(crate) fn span(&self, start: usize, end: usize) -> Option<Span> {
        let at = (start / FIRST).checked_sub(1)?;
        let setting = self.list.get(at)?;
        let shift = FIRST * (at + 1);
        Some(Span::new(
            &setting.file,
            start - shift..end.saturating_sub(shift),
        ))
    }

    /// Puts all values into the table of a file.
    pub(crate) fn apply<'t>(&'t self, table: &mut DeTable<'t>) -> Vec<Diagnostic> {
        let mut errors = Vec::new();
        for (at, setting) in self.list.iter().enumerate() {
            match setting.table() {
                Some(new) => merge(table, new, FIRST * (at + 1)),
                None => {
                    let text = &setting.file.text;
                    let span = Span::new(&setting.file, 0..text.len());
                    let message = format!("`{text}` sets nothing");
                    errors.push(
                        Diagnostic::error(message, span, "")
                            .hint("wanted `KEY=VALUE`, such as `--set step.app.network=true`"),
                    );
                }
            }
        }
        errors
    }
}

impl Setting {
    /// The setting as a table; a value that is not TOML is a string.
    fn table(&self) -> Option<DeTable<'_>> {
        let text = &self.file.text;
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(_) => {
                let (key, value) = text.split_once('=')?;
                let mut table = DeTable::parse(&self.key).ok()?.into_inner();
                let value = DeValue::String(Cow::Borrowed(value));
                set_leaf(&mut table, Spanned::new(key.len() + 1..text.len(), value));
                table
            }
        };
        (table.len() == 1).then_some(table)
    }
}

/// Puts a value at the end of a chain of tables that have one key each.
fn set_leaf<'t>(table: &mut DeTable<'t>, leaf: Spanned<DeValue<'t>>) {
    if let Some(value) = table.iter_mut().next().map(|(_, value)| value) {
        match value.get_mut() {
            DeValue::Table(inner) => set_leaf(inner, leaf),
            _ => *value = leaf,
        }
    }
}

fn merge<'t>(into: &mut DeTable<'t>, new: DeTable<'t>, shift: usize) {
    for (key, value) in new {
        let span = value.span();
        match (into.get_mut(&key), value.into_inner()) {
            (Some(have), DeValue::Table(inner)) if have.get_ref().is_table() => {
                if let DeValue::Table(old) = have.get_mut() {
                    merge(old, inner, shift);
                }
            }
            (Some(have), value) => *have = moved(Spanned::new(span, value), shift),
            (None, value) => {
                into.insert(
                    moved_key(key, shift),
                    moved(Spanned::new(span, value), shift),
                );
            }
        }
    }
}

fn moved_key<'t>(key: Spanned<Cow<'t, str>>, by: usize) -> Spanned<Cow<'t, str>> {
    let span = key.span();
    Spanned::new(span.start + by..span.end + by, key.into_inner())
}

/// A value with all its places moved.
fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let mut value = value.into_inner();
    match &mut value {
        DeValue::Array(items) => {
            for item in items.iter_mut() {
                let none = Spanned::new(0..0, DeValue::Boolean(false));
                *item = moved(std::mem::replace(item, none), by);
            }
        }
        DeValue::Table(table) => {
            let entries = std::mem::take(table).into_iter();
            *table = entries
                .map(|(key, value)| (moved_key(key, by), moved(value, by)))
                .collect();
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
    Spanned::new(span.start + by..span.end + by, value)
}
