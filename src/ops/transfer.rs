//! Progress of bytes that come in, in steps a terminal can follow.

use rbuild_llb::event::Event;
use rbuild_llb::event::StatusEvent;
use rbuild_llb::event::Timestamp;

use crate::clock;
use crate::solver::StepControl;

/// Reported at least this far apart, in nanoseconds.
const INTERVAL: u128 = 100_000_000;

/// Whom progress is told, and as whose.
#[derive(Clone, Copy)]
pub struct Reporter<'a> {
    /// `digest` of the step in events.
    pub digest: &'a str,
    /// Where progress goes.
    pub events: &'a (dyn Fn(Event) + Sync),
}

impl<'a> Reporter<'a> {
    /// Reports as part of a step.
    pub fn of(step: &'a StepControl<'a>) -> Self {
        Self {
            digest: step.digest,
            events: step.events,
        }
    }
}

/// One transfer under way.
pub struct Transfer<'a> {
    step: &'a Reporter<'a>,
    id: String,
    total: u64,
    current: u64,
    started: Timestamp,
    reported: Timestamp,
}

impl<'a> Transfer<'a> {
    /// Announces a transfer of `total` bytes.
    pub fn start(step: &'a Reporter<'a>, id: &str, total: u64) -> Self {
        let now = clock::now();
        let transfer = Self {
            step,
            id: id.to_owned(),
            total,
            current: 0,
            started: now,
            reported: now,
        };
        transfer.report(now, None);
        transfer
    }

    /// Counts bytes.
    pub fn add(&mut self, count: u64) {
        self.current += count;
        let now = clock::now();
        if now.0 >= self.reported.0 + INTERVAL {
            self.reported = now;
            self.report(now, None);
        }
    }

    /// Says that it is complete.
    pub fn done(&mut self) {
        let now = clock::now();
        self.report(now, Some(now));
    }

    fn report(&self, now: Timestamp, completed: Option<Timestamp>) {
        (self.step.events)(Event::Status(StatusEvent {
            id: self.id.clone(),
            vertex: self.step.digest.to_owned(),
            name: String::new(),
            total: self.total,
            current: self.current,
            timestamp: now,
            started: Some(self.started),
            completed,
        }));
    }
}
