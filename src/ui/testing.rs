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
