//! What a file holds, for `rbuild ls`.

use std::fmt::Write as _;

use rbuild_llb::inspect::Choice;
use rbuild_llb::inspect::Contents;
use rbuild_llb::inspect::Item;
use serde_json::json;

use super::table;

/// For people: one table of what can be asked for, one of what can be chosen.
pub(crate) fn text(contents: &Contents) -> String {
    let mut text = String::new();
    let row = |item: &Item| {
        let name = match item.default {
            true => format!("{} (default)", item.name),
            false => item.name.clone(),
        };
        let mut from = item.from.join(", ");
        if !item.platforms.is_empty() {
            let _ = write!(from, " for {}", item.platforms.join(", "));
        }
        let help = item.help.clone().unwrap_or_default();
        vec![item.kind.to_uppercase(), name, from, help]
    };
    let rows: Vec<Vec<String>> = contents.items.iter().map(row).collect();
    text.push_str(&table(&rows, 3));
    if contents.args.is_empty() {
        return text;
    }
    let row = |arg: &Choice| {
        let value = arg.default.clone().unwrap_or_else(|| "no value".to_owned());
        let values = match arg.one_of.is_empty() {
            true => arg.kind.to_owned(),
            false => arg.one_of.join(" | "),
        };
        let help = arg.help.clone().unwrap_or_default();
        vec![format!("{}={value}", arg.name), values, help]
    };
    let rows: Vec<Vec<String>> = contents.args.iter().map(row).collect();
    let _ = write!(
        text,
        "\nArguments (--build-arg NAME=VALUE):\n{}",
        table(&rows, 3)
    );
    text
}

/// For programs.
pub(crate) fn json(contents: &Contents) -> String {
    let items = contents.items.iter().map(|item| {
        json!({
            "kind": item.kind,
            "name": item.name,
            "help": item.help,
            "default": item.default,
            "from": item.from,
            "platforms": item.platforms,
        })
    });
    let args = contents.args.iter().map(|arg| {
        json!({
            "name": arg.name,
            "help": arg.help,
            "type": arg.kind,
            "default": arg.default,
            "oneOf": arg.one_of,
        })
    });
    let document = json!({
        "items": items.collect::<Vec<_>>(),
        "args": args.collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&document).expect("a JSON value can be written");
    text + "\n"
}
