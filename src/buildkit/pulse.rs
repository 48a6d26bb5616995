//! Whether a daemon is still heard of.
//!
//! For as long as it builds, a daemon asks over the session every few seconds whether we are there, whatever its steps do and
//! however long they say nothing (BuildKit, session/grpc.go, `monitorHealth`; that in docker 20.10 as well). So one from which
//! not a byte comes for long does not build: it is stopped, it hangs, or the way to it does while the connection stands. Nothing is
//! sent to find that out: pings of HTTP/2 are answered by the transport alone, and too many of them end a connection (gRPC,
//! `too_many_pings`).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

/// Looks at a daemon's silence before it counts as one. A clock alone would not do: where this machine has slept, or this program
/// was stopped, what came meanwhile is read after the first look.
const LOOKS: u32 = 12;

/// How often something has come from a daemon, over whichever of its connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Something has come.
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing has come for `patience`.
    pub(super) async fn has_stopped(&self, patience: Duration) {
        let mut looks = tokio::time::interval(patience / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = Quiet::default();
        // The first look is at once.
        while !quiet.lasts(self.0.load(Ordering::Relaxed)) {
            looks.tick().await;
        }
    }
}

/// How many looks in a row have found nothing new.
#[derive(Debug, Default)]
struct Quiet {
    beats: Option<u64>,
    looks: u32,
}

impl Quiet {
    /// Takes in how often something had come; whether it has been quiet for long.
    fn lasts(&mut self, beats: u64) -> bool {
        self.looks = match self.beats == Some(beats) {
            true => self.looks + 1,
            false => 0,
        };
        self.beats = Some(beats);
        // The look that begins, and the tick that comes at once, are none.
        self.looks > LOOKS
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn only_silence_without_an_end_counts() {
        let mut quiet = Quiet::default();
        let pulse = Pulse::default();
        let mut look = |pulse: &Pulse| quiet.lasts(pulse.0.load(Ordering::Relaxed));
        // A daemon that says nothing for a day but that it is there.
        for _ in 0..20_000 {
            pulse.beat();
            assert!((0..LOOKS).all(|_| !look(&pulse)));
        }
        pulse.beat();
        let looks = (0..100).take_while(|_| !look(&pulse)).count();
        assert_eq!(looks, LOOKS as usize + 1);
    }
}
