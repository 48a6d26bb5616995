//! The only reader of the time. What must not depend on it takes a [`Timestamp`] from its caller.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use rbuild_llb::event::Timestamp;

/// Now, in UTC.
pub fn now() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos()),
    )
}
