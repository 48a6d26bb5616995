//! Source maps: which lines of which file an op comes from.

use std::sync::Arc;

use bollard_buildkit_proto::pb;

use crate::diagnostic::SourceFile;
use crate::diagnostic::Span;

/// Collects the files that spans point into.
#[derive(Default)]
pub(super) struct SourceMap {
    files: Vec<Arc<SourceFile>>,
}

impl SourceMap {
    /// Where `spans` are, in the order given.
    pub(super) fn locations(&mut self, spans: &[Span]) -> pb::Locations {
        pb::Locations {
            locations: spans.iter().map(|span| self.location(span)).collect(),
        }
    }

    fn location(&mut self, span: &Span) -> pb::Location {
        let known = self.files.iter().position(|file| *file == span.file);
        let file = known.unwrap_or_else(|| {
            self.files.push(Arc::clone(&span.file));
            self.files.len() - 1
        });
        let text = span.text();
        let end = span.range.start + text.trim_end_matches(['\n', '\r']).len();
        pb::Location {
            source_index: saturate(file),
            ranges: vec![pb::Range {
                start: Some(position(&span.file, span.range.start)),
                end: Some(position(&span.file, end)),
            }],
        }
    }

    /// The files.
    pub(super) fn into_infos(self) -> Vec<pb::SourceInfo> {
        let info = |file: Arc<SourceFile>| pb::SourceInfo {
            filename: file.name.clone(),
            data: file.text.clone().into_bytes(),
            definition: None,
            language: file.language.to_owned(),
        };
        self.files.into_iter().map(info).collect()
    }
}

/// Lines count from 1, characters from 0, as in BuildKit's own maps.
fn position(file: &SourceFile, offset: usize) -> pb::Position {
    let (line, column) = file.position(offset);
    pb::Position {
        line: saturate(line),
        character: saturate(column - 1),
    }
}

fn saturate(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The files of a source map.
pub(super) fn files(source: &pb::Source) -> Vec<Arc<SourceFile>> {
    let file = |info: &pb::SourceInfo| {
        Arc::new(SourceFile {
            name: info.filename.clone(),
            text: String::from_utf8_lossy(&info.data).into_owned(),
            language: match info.language.as_str() {
                "Dockerfile" => "Dockerfile",
                "TOML" => "TOML",
                _ => "",
            },
        })
    };
    source.infos.iter().map(file).collect()
}

/// The spans of locations; those that point nowhere are left out. A range whose end is the beginning of a line, as
/// BuildKit's frontend writes all of them, means the whole of that line.
pub(super) fn spans(locations: &pb::Locations, files: &[Arc<SourceFile>]) -> Vec<Span> {
    let mut spans = Vec::new();
    for location in &locations.locations {
        let file = usize::try_from(location.source_index).ok();
        let Some(file) = file.and_then(|index| files.get(index)) else {
            continue;
        };
        for range in &location.ranges {
            let (Some(start), Some(end)) = (range.start, range.end) else {
                continue;
            };
            let end = match end.character {
                0 => line_end(file, end.line),
                _ => offset(file, end),
            };
            if let (Some(start), Some(end)) = (offset(file, start), end)
                && start <= end
            {
                spans.push(Span::new(file, start..end));
            }
        }
    }
    spans
}

fn line(file: &SourceFile, line: i32) -> Option<(usize, &str)> {
    let number = usize::try_from(line).ok()?.checked_sub(1)?;
    let mut start = 0;
    for (at, text) in file.text.split('\n').enumerate() {
        if at == number {
            return Some((start, text));
        }
        start += text.len() + 1;
    }
    None
}

fn line_end(file: &SourceFile, number: i32) -> Option<usize> {
    line(file, number).map(|(start, text)| start + text.len())
}

fn offset(file: &SourceFile, position: pb::Position) -> Option<usize> {
    let (start, text) = line(file, position.line)?;
    let column = usize::try_from(position.character).ok()?;
    let within = text.char_indices().nth(column).map(|(at, _)| at);
    Some(start + within.unwrap_or(text.len()))
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn spans_survive() {
        let file = Arc::new(SourceFile {
            name: "Dockerfile".into(),
            text: "FROM ä\nRUN x \\\n  && y\n".into(),
            language: "Dockerfile",
        });
        for (range, want) in [
            (0..7, "FROM ä"),
            (0..8, "FROM ä"),
            (8..23, "RUN x \\\n  && y"),
            (12..13, "x"),
            (5..7, "ä"),
        ] {
            let mut map = SourceMap::default();
            let locations = map.locations(&[Span::new(&file, range)]);
            let source = pb::Source {
                infos: map.into_infos(),
                ..pb::Source::default()
            };
            let back = spans(&locations, &files(&source));
            assert_eq!(back[0].text(), want);
            assert_eq!(back[0].file, file);
        }
    }

    #[test]
    fn whole_lines_as_buildkit_writes_them_and_nonsense() {
        let at = |line, character| Some(pb::Position { line, character });
        let file = Arc::new(SourceFile {
            name: "f".into(),
            text: "a\nbc\n".into(),
            language: "",
        });
        for (source_index, start, end, want) in [
            (0, at(2, 0), at(2, 0), Some("bc")),
            (0, at(1, 0), at(2, 0), Some("a\nbc")),
            (1, at(1, 0), at(1, 0), None),
            (-1, at(1, 0), at(1, 0), None),
            (0, at(0, 0), at(0, 0), None),
            (0, at(9, 0), at(9, 0), None),
            (0, at(2, 0), at(1, 0), None),
            (0, None, at(1, 0), None),
            (0, at(1, 0), at(2, i32::MAX), Some("a\nbc")),
        ] {
            let locations = pb::Locations {
                locations: vec![pb::Location {
                    source_index,
                    ranges: vec![pb::Range { start, end }],
                }],
            };
            let spans = spans(&locations, std::slice::from_ref(&file));
            assert_eq!(spans.first().map(Span::text), want);
        }
    }
}
