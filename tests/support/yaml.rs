//! YAML as tests read it: of workflows, actions and manifests.

use saphyr_parser::Event;
use saphyr_parser::Parser;
use saphyr_parser::StrInput;
use serde_json::Map;
use serde_json::Value;

/// The one document of a text; every scalar is a string.
#[track_caller]
pub(crate) fn read(text: &str) -> Value {
    let mut events = Parser::new_from_str(text);
    loop {
        match next(&mut events, text) {
            Event::StreamStart | Event::DocumentStart(_) => {}
            event => return value(event, &mut events, text),
        }
    }
}

fn next<'r>(events: &mut Parser<'r, StrInput<'r>>, text: &str) -> Event<'r> {
    match events.next_event() {
        Some(Ok((event, _))) => event,
        other => panic!("{other:?} in:\n{text}"),
    }
}

fn value<'r>(event: Event<'r>, events: &mut Parser<'r, StrInput<'r>>, text: &str) -> Value {
    match event {
        Event::Scalar(scalar, ..) => Value::String(scalar.into_owned()),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events, text) {
                    Event::SequenceEnd => return Value::Array(items),
                    event => items.push(value(event, events, text)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Map::new();
            loop {
                let key = match next(events, text) {
                    Event::MappingEnd => return Value::Object(entries),
                    Event::Scalar(key, ..) => key.into_owned(),
                    event => panic!("{event:?} is no key in:\n{text}"),
                };
                let event = next(events, text);
                let before = entries.insert(key.clone(), value(event, events, text));
                assert!(before.is_none(), "`{key}` is there twice in:\n{text}");
            }
        }
        event => panic!("{event:?} in:\n{text}"),
    }
}
