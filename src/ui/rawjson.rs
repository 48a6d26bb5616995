//! Progress as BuildKit's `client.SolveStatus`, one JSON object a line (client/graph.go). A vertex has one field more: `why`.

use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;
use rbuild_llb::event::WarningEvent;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::warning;

/// One line, with its line end.
pub(crate) fn line(event: &Event) -> String {
    let (field, value) = match event {
        Event::Vertex(vertex) => ("vertexes", json!(vertex)),
        Event::Status(status) => ("statuses", json!(status)),
        Event::Log(log) => ("logs", log_value(log)),
        Event::Warning(warning) => ("warnings", warning_value(warning)),
    };
    format!("{}\n", json!({ field: [value] }))
}

fn log_value(log: &LogEvent) -> Value {
    json!({
        "vertex": log.vertex,
        "stream": log.stream,
        "data": base64(&log.data),
        "timestamp": log.timestamp,
    })
}

fn warning_value(event: &WarningEvent) -> Value {
    let diagnostic = &event.diagnostic;
    let mut fields = Map::new();
    if !event.vertex.is_empty() {
        fields.insert("vertex".into(), json!(event.vertex));
    }
    fields.insert("level".into(), json!(1));
    let short = warning::short(diagnostic);
    fields.insert("short".into(), json!(base64(short.as_bytes())));
    let detail = diagnostic.hints.iter().map(|h| base64(h.as_bytes()));
    let detail: Vec<String> = detail.collect();
    if !detail.is_empty() {
        fields.insert("detail".into(), json!(detail));
    }
    if let Some(rule) = diagnostic.rule {
        fields.insert("url".into(), json!(warning::rule_page(rule)));
    }
    if let Some(label) = diagnostic.labels.first() {
        let file = &label.span.file;
        let (first, last) = diagnostic.lines().unwrap_or_default();
        fields.insert(
            "sourceInfo".into(),
            json!({
                "filename": file.name,
                "data": base64(file.text.as_bytes()),
                "language": file.language,
            }),
        );
        fields.insert(
            "range".into(),
            json!([{ "start": { "line": first }, "end": { "line": last } }]),
        );
    }
    Value::Object(fields)
}

/// RFC 4648 with padding, as Go's encoding/json writes `[]byte`.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::ui::testing::cached;
    use crate::ui::testing::failed;
    use crate::ui::testing::log;
    use crate::ui::testing::start;
    use crate::ui::testing::status;
    use crate::ui::testing::vertex_event;
    use rbuild_llb::Diagnostic;
    use rbuild_llb::SourceFile;
    use rbuild_llb::Span;
    use rbuild_llb::event::VertexEvent;
    use std::sync::Arc;

    #[test]
    fn fields_of_solve_status() {
        let diagnostic_file = Arc::new(SourceFile {
            name: "Dockerfile".into(),
            text: "FROM a\nCMD x\n".into(),
            language: "Dockerfile",
        });
        let diagnostic = Diagnostic::warning(
            "JSONArgsRecommended",
            "use JSON",
            Span::new(&diagnostic_file, 7..12),
            "",
        );
        let warning = Event::Warning(WarningEvent {
            vertex: String::new(),
            diagnostic,
        });
        for (event, want) in [
            (
                start("sha256:aa", "RUN x", 1500),
                json!({"vertexes": [{"digest": "sha256:aa", "name": "RUN x", "started": "1970-01-01T00:00:01.5Z"}]}),
            ),
            (
                cached("sha256:aa", "RUN x", 1000),
                json!({"vertexes": [{"digest": "sha256:aa", "name": "RUN x", "started": "1970-01-01T00:00:01Z",
                    "completed": "1970-01-01T00:00:01Z", "cached": true}]}),
            ),
            (
                failed("sha256:aa", "RUN x", 0, 1000, "exit code: 1"),
                json!({"vertexes": [{"digest": "sha256:aa", "name": "RUN x", "started": "1970-01-01T00:00:00Z",
                    "completed": "1970-01-01T00:00:01Z", "error": "exit code: 1"}]}),
            ),
            (
                Event::Vertex(VertexEvent {
                    why: "ARG V 1 → 2".to_owned(),
                    ..vertex_event("sha256:aa", "RUN x", Some(0), None)
                }),
                json!({"vertexes": [{"digest": "sha256:aa", "name": "RUN x", "started": "1970-01-01T00:00:00Z",
                    "why": "ARG V 1 → 2"}]}),
            ),
            (
                status("sha256:aa", "extracting", (0, 7), 1000, 2000, None),
                json!({"statuses": [{"id": "extracting", "vertex": "sha256:aa", "total": 7, "current": 0,
                    "timestamp": "1970-01-01T00:00:02Z", "started": "1970-01-01T00:00:01Z"}]}),
            ),
            (
                log("sha256:aa", 1000, "hi\n"),
                json!({"logs": [{"vertex": "sha256:aa", "stream": 1, "data": "aGkK", "timestamp": "1970-01-01T00:00:01Z"}]}),
            ),
            (
                warning,
                json!({"warnings": [{"level": 1,
                    "short": base64(b"JSONArgsRecommended: use JSON (line 2)"),
                    "url": "docs/lint/JSONArgsRecommended.md",
                    "sourceInfo": {"filename": "Dockerfile", "data": "RlJPTSBhCkNNRCB4Cg==", "language": "Dockerfile"},
                    "range": [{"start": {"line": 2}, "end": {"line": 2}}]}]}),
            ),
        ] {
            let line = line(&event);
            assert!(line.ends_with('\n') && !line.trim_end().contains('\n'));
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), want);
        }
    }

    #[test]
    fn base64_of_rfc_4648() {
        // The test vectors of its section 10.
        for (text, want) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }
}
