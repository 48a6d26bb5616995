//! What a daemon tells about steps (`moby.buildkit.v1.StatusResponse`), as our events, which have the same fields.

use std::collections::BTreeMap;

use bollard_buildkit_proto::google::protobuf;
use bollard_buildkit_proto::moby::buildkit::v1 as api;
use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;

/// What an interrupted step says of itself; it is not what went wrong.
const CANCELLED: &str = "context canceled";

/// Steps that failed, in the order in which that was told.
#[derive(Debug, Default)]
pub(super) struct Failures {
    seen: BTreeMap<String, String>,
    first: Option<String>,
}

impl Failures {
    /// The first step that did not just fail because it was stopped.
    pub(super) fn first(&self) -> Option<(&str, &str)> {
        let op = self.first.as_ref()?;
        Some((op, &self.seen[op]))
    }

    fn note(&mut self, vertex: &VertexEvent) {
        if vertex.error.is_empty() || vertex.error.ends_with(CANCELLED) {
            return;
        }
        self.first.get_or_insert_with(|| vertex.digest.clone());
        self.seen
            .insert(vertex.digest.clone(), vertex.error.clone());
    }
}

/// The events of an answer, steps before what is said of them.
pub(super) fn events(response: api::StatusResponse, failures: &mut Failures) -> Vec<Event> {
    let vertices = response.vertexes.into_iter().map(|vertex| {
        let vertex = VertexEvent {
            digest: vertex.digest,
            inputs: vertex.inputs,
            name: vertex.name,
            started: vertex.started.as_ref().map(time),
            completed: vertex.completed.as_ref().map(time),
            cached: vertex.cached,
            error: vertex.error,
            why: String::new(),
            emulator: String::new(),
        };
        failures.note(&vertex);
        Event::Vertex(vertex)
    });
    let mut events: Vec<Event> = vertices.collect();
    events.extend(response.statuses.into_iter().map(|status| {
        Event::Status(StatusEvent {
            id: status.id,
            vertex: status.vertex,
            name: status.name,
            total: u64::try_from(status.total).unwrap_or(0),
            current: u64::try_from(status.current).unwrap_or(0),
            timestamp: status.timestamp.as_ref().map_or(Timestamp(0), time),
            started: status.started.as_ref().map(time),
            completed: status.completed.as_ref().map(time),
        })
    }));
    events.extend(response.logs.into_iter().map(|log| {
        Event::Log(LogEvent {
            vertex: log.vertex,
            stream: u8::try_from(log.stream).unwrap_or(2),
            data: log.msg,
            timestamp: log.timestamp.as_ref().map_or(Timestamp(0), time),
        })
    }));
    events
}

fn time(time: &protobuf::Timestamp) -> Timestamp {
    let seconds = u128::try_from(time.seconds).unwrap_or(0);
    let nanos = u128::try_from(time.nanos).unwrap_or(0);
    Timestamp(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn the_step_that_failed_is_not_one_that_was_stopped() {
        let vertex = |digest: &str, error: &str| api::Vertex {
            digest: digest.into(),
            error: error.into(),
            ..api::Vertex::default()
        };
        let mut failures = Failures::default();
        let response = |vertexes| api::StatusResponse {
            vertexes,
            ..api::StatusResponse::default()
        };
        let stopped = vertex("a", "process \"x\": context canceled");
        events(
            response(vec![vertex("0", ""), stopped, vertex("b", "exit code: 1")]),
            &mut failures,
        );
        events(response(vec![vertex("c", "exit code: 2")]), &mut failures);
        assert_eq!(failures.first(), Some(("b", "exit code: 1")));
    }
}
