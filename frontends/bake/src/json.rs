//! JSON as Go's `encoding/json` writes it.

use crate::value::Value;

/// A string with its quotes. `<`, `>` and `&` are escaped too, so that the text may stand in HTML.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escape(c, &mut out),
            c if u32::from(c) < 0x20 => escape(c, &mut out),
            c => out.push(c),
        }
    }
    out + "\""
}

fn escape(c: char, out: &mut String) {
    out.push_str(&format!("\\u{:04x}", u32::from(c)));
}

/// A value on one line, as `jsonencode` gives it.
pub(crate) fn encoded(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Tuple(values) | Value::List(values) | Value::Set(values) => {
            let items: Vec<_> = values.iter().map(encoded).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(entries) | Value::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(name, value)| format!("{}:{}", quoted(name), encoded(value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}
