//! The reference, and that the schema says what files are read by.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::json_schema;
use crate::markdown;

#[test]
fn the_reference_in_docs_is_the_one_of_the_language() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/plan-reference.md");
    let have = std::fs::read_to_string(path).unwrap();
    assert!(
        have == markdown(),
        "write it anew: `rbuild schema --format markdown > docs/plan-reference.md`"
    );
}

#[test]
fn the_schema_in_docs_is_the_one_of_the_language() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let name = crate::init::SCHEMA_URL.rsplit('/').next().unwrap();
    let have = std::fs::read_to_string(docs.join(name)).unwrap();
    assert!(
        have == json_schema(),
        "write it anew: `rbuild schema > docs/{name}`"
    );
}

/// All keys that a value may have by the schema, or nothing if it is not known.
fn allowed<'s>(schema: &'s Value, at: &'s Value, keys: &mut Vec<&'s Value>) {
    if let Some(reference) = at["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        keys.push(&schema["definitions"][name]);
    }
    for word in ["anyOf", "allOf"] {
        for one in at[word].as_array().into_iter().flatten() {
            allowed(schema, one, keys);
        }
    }
    if !at["additionalProperties"].is_null() || at["items"].is_object() {
        keys.push(at);
    }
}

/// Walks a file beside the schema and notes what the schema has no place for.
fn check(
    schema: &Value,
    at: &[&Value],
    value: &toml::Value,
    path: &str,
    wrong: &mut BTreeSet<String>,
) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let mut next = Vec::new();
                for place in at {
                    match &place["properties"][key] {
                        Value::Null => {
                            if place["additionalProperties"].is_object() {
                                allowed(schema, &place["additionalProperties"], &mut next);
                                next.push(&place["additionalProperties"]);
                            } else if place["additionalProperties"] == true {
                                next.push(place);
                            }
                        }
                        property => {
                            allowed(schema, property, &mut next);
                            next.push(property);
                        }
                    }
                }
                let path = format!("{path}.{key}");
                if next.is_empty() {
                    wrong.insert(path);
                } else {
                    check(schema, &next, value, &path, wrong);
                }
            }
        }
        toml::Value::Array(items) => {
            let mut next = Vec::new();
            for place in at {
                if place["items"].is_object() {
                    allowed(schema, &place["items"], &mut next);
                    next.push(&place["items"]);
                }
            }
            for item in items {
                check(schema, &next, item, path, wrong);
            }
        }
        _ => {}
    }
}

#[test]
fn the_schema_has_a_place_for_all_that_can_stand_in_a_file() {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap();
    let root = &schema["definitions"]["File"];
    let file = |text: &str| {
        let value: toml::Value = toml::from_str(text).unwrap();
        let mut wrong = BTreeSet::new();
        check(&schema, &[root], &value, "", &mut wrong);
        wrong.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(file(include_str!("fuzz/all.toml")), "");
    assert_eq!(
        file(
            "[step.s]\nform = 'x'\n[output.o.image]\ncmd2 = 'x'\n[inputs.i]\nurl = 'u'\nsha1 = 'x'\n"
        ),
        ".inputs.i.sha1 .output.o.image.cmd2 .step.s.form"
    );
}
