//! The last lines a step wrote, for the error that says it failed.

use std::collections::VecDeque;

use rbuild_llb::event::LogEvent;

/// Lines kept.
const LINES: usize = 20;
/// Bytes kept of a line: some tools write megabytes without a line feed.
const LINE_BYTES: usize = 4096;

/// Collects the last lines of a step. Lines of its two streams are in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<Vec<u8>>,
    /// The line begun on stdout and on stderr.
    begun: [Vec<u8>; 2],
}

impl Tail {
    pub(super) fn push(&mut self, log: &LogEvent) {
        let stream = usize::from(log.stream == 2);
        for piece in log.data.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let line = &mut self.begun[stream];
            line.extend_from_slice(text);
            drop_overwritten(line);
            line.truncate(LINE_BYTES);
            if ended {
                let line = std::mem::take(line);
                self.keep(line);
            }
        }
    }

    /// The lines, oldest first, without their ends; what is not UTF-8 is replaced.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        for line in std::mem::take(&mut self.begun) {
            if !line.is_empty() {
                self.keep(line);
            }
        }
        self.lines
            .iter()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }

    fn keep(&mut self, line: Vec<u8>) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Leaves what a terminal shows of a line that is written over with carriage returns.
fn drop_overwritten(line: &mut Vec<u8>) {
    let before_last = line.len().saturating_sub(1);
    if let Some(at) = line[..before_last].iter().rposition(|&byte| byte == b'\r') {
        line.drain(..=at);
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::event::Timestamp;

    fn tail(writes: &[(u8, &[u8])]) -> Vec<String> {
        let mut tail = Tail::default();
        for (stream, data) in writes {
            tail.push(&LogEvent {
                vertex: String::new(),
                stream: *stream,
                data: data.to_vec(),
                timestamp: Timestamp(0),
            });
        }
        tail.into_lines()
    }

    #[test]
    fn lines_are_put_together_per_stream() {
        assert_eq!(
            tail(&[(1, b"on"), (2, b"err\n"), (1, b"e\ntw"), (1, b"o")]),
            ["err", "one", "two"]
        );
        assert_eq!(
            tail(&[(1, b" 10%\r 99%\r100%\r\nbad \xff\n")]),
            ["100%", "bad \u{fffd}"]
        );
    }

    #[test]
    fn only_the_end_is_kept() {
        let many: String = (0..1000).map(|n| format!("{n}\n")).collect();
        let kept = tail(&[(1, many.as_bytes())]);
        assert_eq!((kept.len(), kept[0].as_str()), (20, "980"));
        assert_eq!(tail(&[(1, &[b'x'; 100_000])])[0].len(), LINE_BYTES);
    }
}
