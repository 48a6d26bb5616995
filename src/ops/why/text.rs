//! Values as text: quoted where they must be, shortened around what differs.

use std::collections::BTreeMap;

use rbuild_llb::key::KeyValue;

use super::shown;

/// Characters of a value that are shown.
const WIDTH: usize = 48;
/// Characters that are shown on either side of what differs.
const AROUND: usize = 16;

/// A value as it can be told from the words around it: in quotes unless it is a plain word. It is one line.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "._:/@+-=,~%…*".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("{text:?}"),
    }
}

/// A path, control characters as escapes.
pub(super) fn printable(path: &str) -> String {
    let mut shown = String::with_capacity(path.len());
    for c in path.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Two texts, long ones shortened to what differs and what is around it.
pub(super) fn contrast(old: &str, new: &str) -> (String, String) {
    let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    if old.len() <= WIDTH && new.len() <= WIDTH {
        return (old.into_iter().collect(), new.into_iter().collect());
    }
    let shorter = old.len().min(new.len());
    let begin = old.iter().zip(&new).take_while(|(o, n)| o == n).count();
    let backwards = old.iter().rev().zip(new.iter().rev());
    let end = backwards
        .take(shorter - begin)
        .take_while(|(o, n)| o == n)
        .count();
    let from = begin.saturating_sub(AROUND);
    // What is cut begins with a word, if there is one near.
    let word = old[from..begin].iter().position(|c| *c == ' ');
    let from = match (from, word) {
        (0, _) | (_, None) => from,
        (from, Some(space)) => from + space + 1,
    };
    let part = |text: &[char]| {
        let to = text.len() - end.saturating_sub(AROUND);
        let part = &text[from..to];
        let dots = |cut: bool| if cut { "…" } else { "" };
        let middle: String = match part.len() > WIDTH + 2 * AROUND {
            true => {
                let (first, last) = (&part[..WIDTH], &part[part.len() - AROUND..]);
                first.iter().chain(&['…']).chain(last).collect()
            }
            false => part.iter().collect(),
        };
        format!("{}{middle}{}", dots(from > 0), dots(to < text.len()))
    };
    (part(&old), part(&new))
}

/// `kept` is what a record has where nothing is set.
pub(super) fn unset(text: &str) -> String {
    match text {
        "kept" => String::new(),
        // A group that is the user's own.
        text => text.trim_end_matches(':').to_owned(),
    }
}

/// `--chmod` of a copy, or the mode of what is made: `0755`, `u+x`.
pub(super) fn mode(chmod: &KeyValue, mode: &KeyValue) -> String {
    if let KeyValue::Number(bits) = mode {
        return format!("{bits:04o}");
    }
    let text = unset(&shown(chmod));
    let inside = |name: &str| {
        let rest = text.strip_prefix(name)?.strip_prefix('(')?;
        rest.strip_suffix(')')
    };
    if let Some(bits) = inside("Octal").and_then(|bits| bits.parse::<u32>().ok()) {
        return format!("{bits:04o}");
    }
    let symbolic = inside("Symbolic").map(|text| text.trim_matches('"').to_owned());
    symbolic.unwrap_or(text)
}

/// The options of a mount's kind, as they are written: `type`, `id`, `sharing`, …
pub(super) fn kind(fields: &BTreeMap<String, KeyValue>) -> Vec<(String, String)> {
    let text = fields.get("kind").map(shown).unwrap_or_default();
    let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
    // An id may have spaces in it; the others have none.
    let names: &[&str] = match kind {
        "cache" => &["uid:gid", "mode", "sharing", "id"],
        "secret" | "ssh" => &["optional", "uid:gid", "mode", "id"],
        "tmpfs" => &["size"],
        _ => &[],
    };
    let mut options = vec![("type".to_owned(), kind.to_owned())];
    let values: Vec<&str> = rest.rsplitn(names.len().max(1), ' ').collect();
    for (name, value) in names.iter().zip(values).rev() {
        let value = match *name {
            "sharing" => value.to_lowercase(),
            _ => value.to_owned(),
        };
        options.push(((*name).to_owned(), value));
    }
    options
}

/// A mount that came or went: `type=cache,target=/x,id=y`.
pub(super) fn mount(target: &str, fields: &BTreeMap<String, KeyValue>) -> String {
    let options = kind(fields);
    let mut words = vec![format!("type={}", options[0].1), format!("target={target}")];
    let id = options.iter().find(|(name, _)| name == "id");
    words.extend(id.map(|(_, id)| format!("id={id}")));
    words.join(",")
}
