//! How one compose file is laid over another, and a service over the one that it extends (compose-spec, 13-merge.md).
//!
//! Mappings are merged, lists appended, scalars replaced. Lists of `key=value` are one with mappings.

use super::yaml::Kind;
use super::yaml::Node;
use super::yaml::Tag;
use crate::Fail;
use crate::fail;
use crate::syntax::Word;

/// The keys of a service that a build depends on.
const USED: [&str; 5] = ["build", "image", "environment", "env_file", "extends"];

/// Services may extend services this deep.
const MAX_DEPTH: usize = 32;

/// Takes out of a file what builds do not depend on, and lays services over those that they extend.
pub(super) fn prepare(mut file: Node) -> Result<Node, Fail> {
    let Kind::Map(entries) = &mut file.kind else {
        return Err(fail("a compose file is a mapping", file.span, ""));
    };
    if let Some((key, _)) = entries
        .iter()
        .find(|(key, value)| key.text == "include" && !value.is_null())
    {
        let message = "`include` is not supported";
        return Err(fail(message, key.span.clone(), "")
            .hint("name the files on the command line, each with `-f`"));
    }
    entries.retain(|(key, _)| key.text == "services" || key.text == "secrets");
    for (key, services) in entries {
        if key.text != "services" || services.is_null() {
            continue;
        }
        let Kind::Map(all) = &mut services.kind else {
            return Err(fail("`services` is a mapping", services.span.clone(), ""));
        };
        for (name, service) in all.iter_mut() {
            match &mut service.kind {
                Kind::Map(entries) => entries.retain(|(key, _)| USED.contains(&key.text.as_str())),
                Kind::Null => {}
                _ => {
                    let message = format!("the service `{}` is not a mapping", name.text);
                    return Err(fail(message, service.span.clone(), ""));
                }
            }
        }
        let known = all.clone();
        for (name, service) in all {
            *service = extended(&name.text, &known, &mut Vec::new())?;
        }
    }
    Ok(file)
}

/// The service with what it extends.
fn extended(name: &str, services: &[(Word, Node)], above: &mut Vec<String>) -> Result<Node, Fail> {
    let found = services.iter().find(|(key, _)| key.text == name);
    let Some((_, service)) = found else {
        unreachable!("the callers look the service up before");
    };
    let mut service = service.clone();
    let Kind::Map(entries) = &mut service.kind else {
        return Ok(service);
    };
    let Some(at) = entries.iter().position(|(key, _)| key.text == "extends") else {
        return Ok(service);
    };
    let (key, extends) = entries.remove(at);
    let base = match &extends.kind {
        Kind::Text(base) => base.clone(),
        _ => {
            if extends.get("file").is_some_and(|file| !file.is_null()) {
                let message = "`extends` from another file is not supported";
                return Err(fail(message, key.span, "").hint("put both services into one file"));
            }
            match extends.get("service").and_then(Node::text) {
                Some(base) => base,
                None => return Err(fail("`extends` needs `service`", key.span, "")),
            }
        }
    };
    if !services.iter().any(|(key, _)| key.text == base) {
        let near = rbuild_llb::suggest::nearest_name(
            &base,
            services.iter().map(|(key, _)| key.text.as_str()),
        );
        let label = near.map_or_else(String::new, |near| format!("did you mean `{near}`?"));
        return Err(fail(
            format!("there is no service `{base}`"),
            extends.span,
            label,
        ));
    }
    above.push(name.to_owned());
    if above.contains(&base) || above.len() == MAX_DEPTH {
        let path = format!("{} → {base}", above.join(" → "));
        return Err(fail(
            format!("the service `{base}` extends itself: {path}"),
            extends.span,
            "",
        ));
    }
    let base = extended(&base, services, above)?;
    above.pop();
    let path = ["services".to_owned(), name.to_owned()];
    merge(base, service, &mut path.to_vec())
}

/// Lays `over` over `base`. The path says where they are: some keys have rules of their own.
pub(super) fn merge(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Fail> {
    if over.tag == Tag::Override {
        return Ok(over);
    }
    if over.is_null() {
        return Ok(base);
    }
    if base.is_null() {
        return Ok(over);
    }
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    let (base, over) = match names[..] {
        ["services", _, "build"] => (as_build(base), as_build(over)),
        [
            "services",
            _,
            "build",
            "args" | "labels" | "additional_contexts",
        ]
        | ["services", _, "environment"] => {
            let (mut all, span) = (as_list(base), over.span.clone());
            for item in as_list(over) {
                let key = key_of(&item);
                match all.iter_mut().find(|known| key_of(known) == key) {
                    Some(known) => *known = item,
                    None => all.push(item),
                }
            }
            return Ok(list(all, span));
        }
        ["services", _, "build", "extra_hosts" | "tags"] => {
            let (mut all, span) = (as_list(base), over.span.clone());
            for item in as_list(over) {
                if !all.iter().any(|known| known.text() == item.text()) {
                    all.push(item);
                }
            }
            return Ok(list(all, span));
        }
        _ => (base, over),
    };
    match (base.kind, over.kind) {
        (Kind::Map(mut entries), Kind::Map(more)) => {
            for (key, value) in more {
                let at = entries.iter().position(|(known, _)| known.text == key.text);
                if value.tag == Tag::Reset {
                    if let Some(at) = at {
                        drop(entries.remove(at));
                    }
                    continue;
                }
                match at {
                    Some(at) => {
                        path.push(key.text.clone());
                        let known = entries[at].1.clone();
                        entries[at].1 = merge(known, value, path)?;
                        path.pop();
                    }
                    None => entries.push((key, value)),
                }
            }
            Ok(Node {
                kind: Kind::Map(entries),
                span: over.span,
                tag: Tag::None,
            })
        }
        (Kind::List(mut items), Kind::List(more)) => {
            items.extend(more);
            Ok(list(items, over.span))
        }
        (Kind::Map(_) | Kind::List(_), _) | (_, Kind::Map(_) | Kind::List(_)) => {
            let message = format!(
                "`{}` cannot take the place of what another file has there",
                path.join(".")
            );
            Err(fail(message, over.span, "").also(base.span, "it is of another kind"))
        }
        (_, kind) => Ok(Node {
            kind,
            span: over.span,
            tag: Tag::None,
        }),
    }
}

fn list(items: Vec<Node>, span: rbuild_llb::Span) -> Node {
    Node {
        kind: Kind::List(items),
        span,
        tag: Tag::None,
    }
}

/// `build: path` is `build: {context: path}`.
pub(super) fn as_build(node: Node) -> Node {
    match &node.kind {
        Kind::Text(_) => {
            let word = Word {
                text: "context".to_owned(),
                span: node.span.clone(),
            };
            Node {
                span: node.span.clone(),
                kind: Kind::Map(vec![(word, node)]),
                tag: Tag::None,
            }
        }
        _ => node,
    }
}

/// The items of a list; a mapping's entries as `key=value`, of a list below a key one for each of its items.
fn as_list(node: Node) -> Vec<Node> {
    match node.kind {
        Kind::List(items) => items,
        Kind::Map(entries) => entries
            .into_iter()
            .flat_map(|(key, value)| {
                let span = value.span.clone();
                let texts = match &value.kind {
                    Kind::Null => vec![key.text.clone()],
                    Kind::List(items) => items
                        .iter()
                        .filter_map(Node::text)
                        .map(|text| format!("{}={text}", key.text))
                        .collect(),
                    _ => vec![format!("{}={}", key.text, value.text().unwrap_or_default())],
                };
                texts.into_iter().map(move |text| Node {
                    kind: Kind::Text(text),
                    span: span.clone(),
                    tag: Tag::None,
                })
            })
            .collect(),
        _ => vec![node],
    }
}

fn key_of(node: &Node) -> String {
    let text = node.text().unwrap_or_default();
    text.split_once('=')
        .map_or(text.clone(), |(key, _)| key.to_owned())
}
