//! What takes its time and is no step of the graph (exports, pulls, caches), as progress shows it.

use rbuild_llb::CancelToken;
use rbuild_llb::event::Event;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::VertexEvent;

use crate::clock;
use crate::outcome::BuildError;
use crate::ui::EventSink;

/// Something that has begun.
pub(super) struct Task<'a> {
    pub(super) event: VertexEvent,
    pub(super) events: &'a EventSink,
}

impl<'a> Task<'a> {
    /// Begins what is shown as `name`; `id` tells those of one name apart.
    pub(super) fn start(id: &str, name: impl Into<String>, events: &'a EventSink) -> Self {
        let event = VertexEvent {
            digest: format!("sha256:{}", blake3::hash(id.as_bytes()).to_hex()),
            inputs: Vec::new(),
            name: name.into(),
            started: Some(clock::now()),
            completed: None,
            cached: false,
            error: String::new(),
            why: String::new(),
            emulator: String::new(),
        };
        events.send(Event::Vertex(event.clone()));
        Self { event, events }
    }

    /// Says that a part of it is done, which began at `began`.
    pub(super) fn did(&self, what: &str, began: Timestamp) {
        self.did_between(what, began, clock::now());
    }

    /// The same of what ended some time ago.
    pub(super) fn did_between(&self, what: &str, began: Timestamp, ended: Timestamp) {
        self.events.send(Event::Status(StatusEvent {
            id: what.to_owned(),
            vertex: self.event.digest.clone(),
            name: String::new(),
            total: 0,
            current: 0,
            timestamp: ended,
            started: Some(began),
            completed: Some(ended),
        }));
    }

    /// Ends it, with what went wrong if something did.
    pub(super) fn end(mut self, error: Option<String>) {
        self.event.completed = Some(clock::now());
        self.event.error = error.unwrap_or_default();
        self.events.send(Event::Vertex(self.event));
    }

    /// Does the thing, and says how it ended.
    pub(super) fn carry_out<T>(
        self,
        cancel: &CancelToken,
        deed: impl FnOnce(&Self) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        // What fails because it was interrupted has not failed.
        let done = deed(&self).map_err(|error| match cancel.is_cancelled() {
            true => BuildError::interrupted(),
            false => error,
        });
        self.end(done.as_ref().err().map(ToString::to_string));
        done
    }
}
