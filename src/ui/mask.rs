//! Keeps secrets out of what is shown.
//!
//! Output arrives in pieces of any length, so a secret may be spread over two of them. What could still become a
//! secret, the longest end of a stream that some secret begins with, is held back until more bytes, or the end of
//! the step, decide it. Streams are told apart by step and stream number.

use std::collections::BTreeMap;

use rbuild_llb::event::Event;
use rbuild_llb::event::LogEvent;

/// Shorter values are not masked: they would mutilate ordinary output.
pub(crate) const MIN_LEN: usize = 8;

const MASK: &[u8] = b"***";

/// The secrets of a build, and what is held back of each stream.
#[derive(Default)]
pub(crate) struct Mask {
    /// Longest first, so that of two secrets that begin alike the longer one wins.
    secrets: Vec<Vec<u8>>,
    held: BTreeMap<(String, u8), Held>,
}

struct Held {
    bytes: Vec<u8>,
    last: LogEvent,
}

impl Mask {
    /// Masks `secrets`, each also without the line ends at its end: files end in one that no program repeats.
    pub(crate) fn new(secrets: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut list: Vec<Vec<u8>> = secrets
            .into_iter()
            .map(|mut secret| {
                while matches!(secret.last(), Some(b'\n' | b'\r')) {
                    secret.pop();
                }
                secret
            })
            .filter(|secret| secret.len() >= MIN_LEN)
            .collect();
        list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        list.dedup();
        Self {
            secrets: list,
            held: BTreeMap::new(),
        }
    }

    /// Passes `event` on to `out`, masked; what was held back of a step goes out before the event that ends it.
    pub(crate) fn pass(&mut self, event: Event, out: &mut dyn FnMut(Event)) {
        if self.secrets.is_empty() {
            return out(event);
        }
        match event {
            Event::Log(log) => {
                if let Some(log) = self.log(log) {
                    out(Event::Log(log));
                }
            }
            Event::Vertex(mut vertex) => {
                if vertex.completed.is_some() {
                    self.release(|key| key.0 == vertex.digest, out);
                }
                vertex.error = self.text(&vertex.error);
                vertex.why = self.text(&vertex.why);
                out(Event::Vertex(vertex));
            }
            other => out(other),
        }
    }

    /// Lets out everything that is held back.
    pub(crate) fn flush(&mut self, out: &mut dyn FnMut(Event)) {
        self.release(|_| true, out);
    }

    fn log(&mut self, mut log: LogEvent) -> Option<LogEvent> {
        let key = (log.vertex.clone(), log.stream);
        let mut bytes = self.held.remove(&key).map_or_else(Vec::new, |h| h.bytes);
        bytes.append(&mut log.data);
        let (data, held) = self.scan(&bytes, true);
        if held < bytes.len() {
            let held = Held {
                bytes: bytes.split_off(held),
                last: log.clone(),
            };
            self.held.insert(key, held);
        }
        log.data = data;
        (!log.data.is_empty()).then_some(log)
    }

    fn release(&mut self, of: impl Fn(&(String, u8)) -> bool, out: &mut dyn FnMut(Event)) {
        let (go, stay) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(key, _)| of(key));
        self.held = stay;
        let go: BTreeMap<_, Held> = go;
        for held in go.into_values() {
            let (data, _) = self.scan(&held.bytes, false);
            out(Event::Log(LogEvent { data, ..held.last }));
        }
    }

    fn text(&self, text: &str) -> String {
        let (masked, _) = self.scan(text.as_bytes(), false);
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// The masked bytes, and from where on `bytes` must wait for more if more `may_follow`.
    fn scan(&self, bytes: &[u8], may_follow: bool) -> (Vec<u8>, usize) {
        let mut masked = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let begins = |secret: &&Vec<u8>| secret.len() > rest.len() && secret.starts_with(rest);
            if may_follow && self.secrets.iter().any(|s| begins(&s)) {
                break;
            }
            match self.secrets.iter().find(|s| rest.starts_with(s)) {
                Some(secret) => {
                    masked.extend_from_slice(MASK);
                    at += secret.len();
                }
                None => {
                    masked.push(bytes[at]);
                    at += 1;
                }
            }
        }
        (masked, at)
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::event::Timestamp;
    use rbuild_llb::event::VertexEvent;

    fn log(stream: u8, data: &[u8]) -> Event {
        Event::Log(LogEvent {
            vertex: "v".into(),
            stream,
            data: data.to_vec(),
            timestamp: Timestamp(1),
        })
    }

    fn end(error: &str) -> Event {
        Event::Vertex(VertexEvent {
            digest: "v".into(),
            inputs: Vec::new(),
            name: "RUN".into(),
            started: Some(Timestamp(1)),
            completed: Some(Timestamp(2)),
            cached: false,
            error: error.into(),
            why: String::new(),
            emulator: String::new(),
        })
    }

    fn passed(mask: &mut Mask, events: impl IntoIterator<Item = Event>) -> Vec<Event> {
        let mut out = Vec::new();
        for event in events {
            mask.pass(event, &mut |e| out.push(e));
        }
        mask.flush(&mut |e| out.push(e));
        out
    }

    fn text(events: &[Event], of: u8) -> String {
        let bytes: Vec<u8> = events
            .iter()
            .filter_map(|e| match e {
                Event::Log(l) if l.stream == of => Some(l.data.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    const INPUT: &str = "token=hunter2hunter2! hunter2hunter hunter2hunter2-longer hunter2hunter2";
    const OUTPUT: &str = "token=***! hunter2hunter *** ***";

    fn secrets() -> Mask {
        Mask::new([
            b"hunter2hunter2\n".to_vec(),
            b"hunter2hunter2-longer".to_vec(),
            b"short".to_vec(),
            Vec::new(),
        ])
    }

    #[test]
    fn masks_wherever_the_output_is_cut() {
        for cut in 0..=INPUT.len() {
            let (a, b) = INPUT.split_at(cut);
            let events = [log(1, a.as_bytes()), log(1, b.as_bytes())];
            assert_eq!(text(&passed(&mut secrets(), events), 1), OUTPUT, "{cut}");
        }
        let bytes = INPUT.as_bytes().chunks(1).map(|b| log(2, b));
        assert_eq!(text(&passed(&mut secrets(), bytes), 2), OUTPUT);
    }

    #[test]
    fn streams_do_not_mix() {
        let events = [
            log(1, b"hunter2"),
            log(2, b"hunter2 "),
            log(1, b"hunter2\n"),
        ];
        let out = passed(&mut secrets(), events);
        assert_eq!((&*text(&out, 1), &*text(&out, 2)), ("***\n", "hunter2 "));
    }

    #[test]
    fn only_what_may_become_a_secret_waits() {
        let mut mask = secrets();
        let mut out = Vec::new();
        mask.pass(log(1, b"password: "), &mut |e| out.push(e));
        assert_eq!(out, [log(1, b"password: ")]);
        mask.pass(log(1, b"hunt"), &mut |e| out.push(e));
        assert_eq!(out.len(), 1);
        mask.pass(end("used hunter2hunter2"), &mut |e| out.push(e));
        assert_eq!(out[1..], [log(1, b"hunt"), end("used ***")]);
    }

    #[test]
    fn short_values_stay() {
        let out = passed(&mut Mask::new([b"1234567".to_vec()]), [log(1, b"1234567")]);
        assert_eq!(out, [log(1, b"1234567")]);
    }
}
