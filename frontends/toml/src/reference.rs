//! The language as a JSON Schema for editors, and as a reference for people: both are written from the shapes that files
//! are read by, so that they cannot say anything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::read::Read as _;
use crate::read::Shape;
use crate::read::TableShape;
use crate::schema::File;

/// The JSON Schema (draft 7, which editors' TOML plugins read) of an `rbuild.toml`.
pub fn json_schema() -> String {
    let mut definitions = BTreeMap::new();
    let root = schema(&File::shape(), &mut definitions);
    let mut document = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "rbuild.toml",
    });
    if let (Value::Object(document), Value::Object(root)) = (&mut document, root) {
        document.extend(root);
        document.insert(
            "definitions".to_owned(),
            Value::Object(definitions.into_iter().collect()),
        );
    }
    let mut text =
        serde_json::to_string_pretty(&document).expect("a JSON value can always be written");
    text.push('\n');
    text
}

fn schema(shape: &Shape, definitions: &mut BTreeMap<String, Value>) -> Value {
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Choice(words) => json!({ "enum": words }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Integer => json!({ "type": "integer" }),
        Shape::List(inner) => json!({ "type": "array", "items": schema(inner, definitions) }),
        Shape::Map(inner) => {
            json!({ "type": "object", "additionalProperties": schema(inner, definitions) })
        }
        Shape::OneOf(shapes) => {
            let any: Vec<Value> = shapes.iter().map(|one| schema(one, definitions)).collect();
            json!({ "anyOf": any })
        }
        Shape::Table(table) => {
            if !definitions.contains_key(table.name) {
                // Before its fields, so that a table may hold itself.
                definitions.insert(table.name.to_owned(), Value::Null);
                let value = table_schema(table, definitions);
                definitions.insert(table.name.to_owned(), value);
            }
            json!({ "$ref": format!("#/definitions/{}", table.name) })
        }
    }
}

fn table_schema(table: &TableShape, definitions: &mut BTreeMap<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in (table.fields)() {
        let mut value = schema(&field.shape, definitions);
        // Beside `$ref` draft 7 takes nothing else.
        if value.get("$ref").is_some() {
            value = json!({ "allOf": [value] });
        }
        if let Value::Object(value) = &mut value {
            value.insert("description".to_owned(), about(field.about).into());
        }
        if field.required {
            required.push(field.key.clone());
        }
        properties.insert(field.key, value);
    }
    json!({
        "type": "object",
        "description": about(table.about),
        "properties": properties,
        "required": required,
        "additionalProperties": table.open,
    })
}

/// Lines of a doc comment as one.
fn about(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// The reference in Markdown: a section for each table.
pub fn markdown() -> String {
    let mut tables = Vec::new();
    collect(&File::shape(), &mut tables);
    let mut text = String::from(
        "# Reference of rbuild.toml\n\n\
         Written by `rbuild schema --format markdown`; [plan.md](plan.md) teaches the language.\n",
    );
    for table in tables {
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n",
            heading(table),
            about(table.about)
        );
        text.push_str("| key | value | |\n|---|---|---|\n");
        for field in (table.fields)() {
            let required = if field.required {
                " (must be there)"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "| `{}` | {}{required} | {} |",
                field.key,
                kind(&field.shape),
                about(field.about).replace('|', "\\|")
            );
        }
        if table.open {
            text.push_str("| any other | string, boolean, integer or array of strings | |\n");
        }
    }
    text
}

/// All tables below a shape, each once, in the order in which they are met.
fn collect(shape: &Shape, tables: &mut Vec<&'static TableShape>) {
    match shape {
        Shape::Text | Shape::Choice(_) | Shape::Bool | Shape::Integer => {}
        Shape::List(inner) | Shape::Map(inner) => collect(inner, tables),
        Shape::OneOf(shapes) => shapes.iter().for_each(|one| collect(one, tables)),
        Shape::Table(table) => {
            if !tables.iter().any(|have| have.name == table.name) {
                tables.push(table);
                (table.fields)()
                    .iter()
                    .for_each(|field| collect(&field.shape, tables));
            }
        }
    }
}

/// What a table is called: its type in words.
fn heading(table: &TableShape) -> String {
    let mut words = String::new();
    for c in table.name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(match words.is_empty() {
            true => c,
            false => c.to_ascii_lowercase(),
        });
    }
    words
}

/// What stands at a key, in words.
fn kind(shape: &Shape) -> String {
    match shape {
        Shape::Text => "string".to_owned(),
        Shape::Bool => "boolean".to_owned(),
        Shape::Integer => "integer".to_owned(),
        Shape::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            words.join(" or ")
        }
        Shape::List(inner) => match &**inner {
            Shape::OneOf(_) => format!("array of ({})", kind(inner)),
            _ => format!("array of {}", kind(inner)),
        },
        Shape::Map(inner) => format!("table, `NAME` = {}", kind(inner)),
        Shape::Table(table) => {
            let heading = heading(table);
            let anchor = heading.to_lowercase().replace(' ', "-");
            format!("[{}](#{anchor})", heading.to_lowercase())
        }
        Shape::OneOf(shapes) => {
            let kinds: Vec<String> = shapes.iter().map(kind).collect();
            kinds.join(" or ")
        }
    }
}
