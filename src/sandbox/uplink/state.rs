//! What the zygote knows of the uplink.

use std::os::fd::OwnedFd;

use super::super::child::Config;
use super::super::step::Reach;
use super::super::wire;
use super::super::zygote;
use super::Link;
use super::Outcome;
use super::Router;
use super::Starting;

/// The default network, as far as it has come.
pub(in super::super) enum Uplink {
    Unasked,
    Starting(Starting, OwnedFd),
    Up(Router),
    Down,
}

impl Uplink {
    /// What becomes readable when it is known how the start went.
    pub(in super::super) fn told(&self) -> Option<&OwnedFd> {
        match self {
            Self::Starting(starting, _) => Some(&starting.told),
            _ => None,
        }
    }

    /// What most steps get; nothing as long as that is not known.
    pub(in super::super) fn usual(&self) -> Option<Reach> {
        match self {
            Self::Unasked => Some(Reach::Host),
            Self::Starting(..) => None,
            Self::Up(_) => Some(Reach::Uplink),
            Self::Down => Some(Reach::Shared),
        }
    }

    /// For a process that will be forked.
    pub(in super::super) fn link(&mut self, reach: Reach) -> Option<Link<'_>> {
        match self {
            Self::Up(router) if reach == Reach::Uplink => Some(router.link()),
            _ => None,
        }
    }

    /// Keeps the network namespace of a step for another one, as [`Router::keep`] does.
    pub(in super::super) fn keep(&mut self, netns: OwnedFd) {
        if let Self::Up(router) = self {
            router.keep(netns);
        }
    }

    pub(in super::super) fn start(config: &Config, tell: OwnedFd) -> Self {
        let started = match &config.uplink {
            Some(plan) => super::start(plan).map_err(|e| format!("cannot start a process: {e}")),
            None => Err("it was not planned".to_owned()),
        };
        match started {
            Ok(starting) => Self::Starting(starting, tell),
            Err(why) => {
                // Nobody listens any more if this fails.
                _ = zygote::send(&tell, &wire::encode(&Outcome::Down { why }), &[]);
                Self::Down
            }
        }
    }

    /// Learns how the start went, and hands that on.
    pub(in super::super) fn finish(self, config: &Config) -> Self {
        let (Self::Starting(starting, tell), Some(plan)) = (self, &config.uplink) else {
            return Self::Down;
        };
        let (outcome, router) = starting.finish(plan);
        // As above.
        _ = zygote::send(&tell, &wire::encode(&outcome), &[]);
        router.map_or(Self::Down, Self::Up)
    }
}
