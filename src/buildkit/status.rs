//! What a daemon tells about steps (`moby.buildkit.v1.StatusResponse`), as our events, which have the same fields.

use bollard_buildkit_proto::google::protobuf;
use bollard_buildkit_proto::moby::buildkit::v1 as api;
use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;

/// What an interrupted step says of itself; it is not what went wrong.
const CANCELLED: &str = "context canceled";

/// What failed and did not just fail because it was stopped, with the errors, in the order in which that was told.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<(String, String)>);

impl Failures {
    /// What brought a build to its end that says `message`: the first whose error that has in it, else the first. A daemon tells
    /// of caches that it could not read as it does of steps, and goes on.
    pub(super) fn behind(&self, message: &str) -> Option<&str> {
        let mut all = self.0.iter();
        let said = all.find(|(_, error)| message.contains(error.as_str()));
        said.or(self.0.first()).map(|(op, _)| op.as_str())
    }

    fn note(&mut self, vertex: &VertexEvent) {
        if vertex.error.is_empty() || vertex.error.ends_with(CANCELLED) {
            return;
        }
        if !self.0.iter().any(|(op, _)| *op == vertex.digest) {
            self.0.push((vertex.digest.clone(), vertex.error.clone()));
        }
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
        assert_eq!(failures.behind("failed to solve"), Some("b"));
        // A cache that is not there yet came before all of them.
        let mut failures = Failures::default();
        let missing = "registry.example/app:cache: not found";
        let process = "process \"/bin/false\" did not complete successfully: exit code: 1";
        for (op, error) in [("cache", missing), ("step", process)] {
            events(response(vec![vertex(op, error)]), &mut failures);
        }
        assert_eq!(
            failures.behind(&format!("failed to solve: {process}")),
            Some("step")
        );
    }
}
