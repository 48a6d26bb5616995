//! What a daemon tells about steps (`moby.buildkit.v1.StatusResponse`), as our events, which have the same fields.

use std::sync::Arc;

use bollard_buildkit_proto::google::protobuf;
use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::pb;
use rbuild_llb::Diagnostic;
use rbuild_llb::Severity;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::diagnostic::Label;
use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;
use rbuild_llb::event::WarningEvent;

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
    events.extend(response.warnings.into_iter().map(|warning| {
        Event::Warning(WarningEvent {
            vertex: warning.vertex.clone(),
            diagnostic: diagnostic(warning),
        })
    }));
    events
}

/// A warning of a daemon, at the place that it names, if it does.
fn diagnostic(warning: api::VertexWarning) -> Diagnostic {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    let details = warning.detail.into_iter().map(text);
    let hints = details.chain(std::iter::once(warning.url));
    let mut diagnostic = Diagnostic {
        severity: Severity::Warning,
        hints: hints.filter(|hint| !hint.is_empty()).collect(),
        ..Diagnostic::unplaced(text(warning.short))
    };
    if let (Some(info), Some(range)) = (warning.info, warning.ranges.first()) {
        let file = Arc::new(SourceFile {
            name: info.filename,
            text: String::from_utf8_lossy(&info.data).into_owned(),
            language: "",
        });
        let line = |position: Option<&pb::Position>| {
            let line = position.map_or(1, |position| position.line).max(1);
            usize::try_from(line).unwrap_or(1)
        };
        let first = line(range.start.as_ref());
        let last = line(range.end.as_ref()).max(first);
        let lines: Vec<&str> = file.text.split_inclusive('\n').collect();
        let until = |line: usize| {
            lines
                .iter()
                .take(line)
                .map(|line| line.len())
                .sum::<usize>()
        };
        let (start, end) = (until(first - 1), until(last));
        let end = start + file.text[start..end].trim_end().len();
        diagnostic.labels.push(Label {
            span: Span::new(&file, start..end),
            text: String::new(),
        });
    }
    diagnostic
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
    fn warnings_point_at_their_lines() {
        let warning = |ranges: &[(i32, i32)]| api::VertexWarning {
            vertex: "sha256:1".into(),
            level: 1,
            short: b"it is odd".to_vec(),
            detail: vec![b"because".to_vec()],
            url: "https://docs.example/odd".into(),
            info: Some(pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: b"FROM a\nRUN x \\\n  y\nCMD z\n".to_vec(),
                ..pb::SourceInfo::default()
            }),
            ranges: { ranges.iter() }
                .map(|&(first, last)| pb::Range {
                    start: Some(pb::Position {
                        line: first,
                        character: 0,
                    }),
                    end: Some(pb::Position {
                        line: last,
                        character: 0,
                    }),
                })
                .collect(),
        };
        let shown = |ranges: &[(i32, i32)]| {
            let response = api::StatusResponse {
                warnings: vec![warning(ranges)],
                ..api::StatusResponse::default()
            };
            let mut events = events(response, &mut Failures::default());
            let Some(Event::Warning(warning)) = events.pop() else {
                panic!("it is a warning");
            };
            assert_eq!(warning.vertex, "sha256:1");
            let diagnostic = warning.diagnostic;
            assert_eq!(diagnostic.severity, Severity::Warning);
            assert_eq!(diagnostic.message, "it is odd");
            assert_eq!(diagnostic.hints, ["because", "https://docs.example/odd"]);
            let label = diagnostic.labels.first();
            label.map(|label| (label.span.location(), label.span.text().to_owned()))
        };
        for (ranges, want) in [
            (vec![], None),
            (vec![(2, 3)], Some(("Dockerfile:2:1", "RUN x \\\n  y"))),
            (vec![(4, 4), (1, 1)], Some(("Dockerfile:4:1", "CMD z"))),
            // What no honest daemon says is no reason to panic.
            (vec![(-1, -7)], Some(("Dockerfile:1:1", "FROM a"))),
            (vec![(9, 2)], Some(("Dockerfile:5:1", ""))),
        ] {
            let want = want.map(|(place, text)| (place.to_owned(), text.to_owned()));
            assert_eq!(shown(&ranges), want, "{ranges:?}");
        }
    }

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
