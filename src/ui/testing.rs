//! Events for tests; times in milliseconds.

use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;

pub(crate) fn ms(n: u64) -> Timestamp {
    Timestamp(u128::from(n) * 1_000_000)
}

pub(crate) fn vertex(
    digest: &str,
    name: &str,
    started: Option<u64>,
    completed: Option<u64>,
) -> Event {
    Event::Vertex(vertex_event(digest, name, started, completed))
}

pub(crate) fn vertex_event(
    digest: &str,
    name: &str,
    started: Option<u64>,
    completed: Option<u64>,
) -> VertexEvent {
    VertexEvent {
        digest: digest.to_owned(),
        inputs: Vec::new(),
        name: name.to_owned(),
        started: started.map(ms),
        completed: completed.map(ms),
        cached: false,
        error: String::new(),
        why: String::new(),
        emulator: String::new(),
    }
}

pub(crate) fn start(digest: &str, name: &str, at: u64) -> Event {
    vertex(digest, name, Some(at), None)
}

pub(crate) fn done(digest: &str, name: &str, started: u64, at: u64) -> Event {
    vertex(digest, name, Some(started), Some(at))
}

pub(crate) fn cached(digest: &str, name: &str, at: u64) -> Event {
    Event::Vertex(VertexEvent {
        cached: true,
        ..vertex_event(digest, name, Some(at), Some(at))
    })
}

pub(crate) fn failed(digest: &str, name: &str, started: u64, at: u64, error: &str) -> Event {
    Event::Vertex(VertexEvent {
        error: error.to_owned(),
        ..vertex_event(digest, name, Some(started), Some(at))
    })
}

pub(crate) fn log(digest: &str, at: u64, data: &str) -> Event {
    Event::Log(LogEvent {
        vertex: digest.to_owned(),
        stream: 1,
        data: data.as_bytes().to_vec(),
        timestamp: ms(at),
    })
}

pub(crate) fn status(
    digest: &str,
    id: &str,
    (current, total): (u64, u64),
    started: u64,
    at: u64,
    completed: Option<u64>,
) -> Event {
    Event::Status(StatusEvent {
        id: id.to_owned(),
        vertex: digest.to_owned(),
        name: String::new(),
        total,
        current,
        timestamp: ms(at),
        started: Some(ms(started)),
        completed: completed.map(ms),
    })
}

/// Events from BuildKit's JSON.
pub(crate) mod recorded {
    use std::sync::Arc;

    use rbuild_llb::Diagnostic;
    use rbuild_llb::SourceFile;
    use rbuild_llb::Span;
    use rbuild_llb::event::Event;
    use rbuild_llb::event::LogEvent;
    use rbuild_llb::event::StatusEvent;
    use rbuild_llb::event::Timestamp;
    use rbuild_llb::event::VertexEvent;
    use rbuild_llb::event::WarningEvent;
    use serde_json::Value;

    /// The events of one `client.SolveStatus`, in the order in which BuildKit's displays take them in.
    pub(crate) fn events(line: &str) -> Vec<Event> {
        let status: Value = serde_json::from_str(line).unwrap();
        let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
        let vertexes = list("vertexes");
        let vertexes = vertexes.iter().map(|v| {
            Event::Vertex(VertexEvent {
                digest: text(&v["digest"]),
                inputs: Vec::new(),
                name: text(&v["name"]),
                started: time(&v["started"]),
                completed: time(&v["completed"]),
                cached: v["cached"] == true,
                error: text(&v["error"]),
                why: String::new(),
                emulator: String::new(),
            })
        });
        let statuses = list("statuses");
        let statuses = statuses.iter().map(|s| {
            Event::Status(StatusEvent {
                id: text(&s["id"]),
                vertex: text(&s["vertex"]),
                name: text(&s["name"]),
                total: s["total"].as_u64().unwrap_or(0),
                current: s["current"].as_u64().unwrap(),
                timestamp: time(&s["timestamp"]).unwrap(),
                started: time(&s["started"]),
                completed: time(&s["completed"]),
            })
        });
        let warnings = list("warnings");
        let warnings = warnings.iter().map(|w| {
            Event::Warning(WarningEvent {
                vertex: text(&w["vertex"]),
                diagnostic: diagnostic(&String::from_utf8(base64(&w["short"])).unwrap()),
            })
        });
        let logs = list("logs");
        let logs = logs.iter().map(|l| {
            Event::Log(LogEvent {
                vertex: text(&l["vertex"]),
                stream: u8::try_from(l["stream"].as_u64().unwrap()).unwrap(),
                data: base64(&l["data"]),
                timestamp: time(&l["timestamp"]).unwrap(),
            })
        });
        vertexes
            .chain(statuses)
            .chain(warnings)
            .chain(logs)
            .collect()
    }

    /// The finding behind `Rule: message (line 5)`; the rule stays in the message.
    fn diagnostic(short: &str) -> Diagnostic {
        let (message, line) = short.rsplit_once(" (line ").unwrap();
        let line: usize = line.trim_end_matches(')').parse().unwrap();
        let file = Arc::new(SourceFile {
            name: "Dockerfile".into(),
            text: "\n".repeat(line),
            language: "Dockerfile",
        });
        let span = Span::new(&file, line - 1..line - 1);
        Diagnostic {
            rule: None,
            ..Diagnostic::warning("", message, span, "")
        }
    }

    fn text(value: &Value) -> String {
        value.as_str().unwrap_or_default().to_owned()
    }

    /// RFC 3339 in UTC; the day is left out, as all times of a recording are of one day.
    fn time(value: &Value) -> Option<Timestamp> {
        let clock = value.as_str()?.split_once('T')?.1.strip_suffix('Z')?;
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let seconds = clock
            .split(':')
            .fold(0, |n, part| n * 60 + part.parse::<u128>().unwrap());
        let nanos: u128 = format!("{fraction:0<9}").parse().unwrap();
        Some(Timestamp(seconds * 1_000_000_000 + nanos))
    }

    fn base64(value: &Value) -> Vec<u8> {
        let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
        for c in text(value).bytes().filter(|c| *c != b'=') {
            let digit = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                _ => 63,
            };
            bits = bits << 6 | u32::from(digit);
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        bytes
    }
}
