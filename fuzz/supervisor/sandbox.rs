//! The place that the supervisor's files have in rbuild.

pub(crate) mod supervise;

/// What the real `kernel.rs` has from there, for a function that is not called here.
mod sys {
    pub(crate) unsafe fn close_range(_: i32, _: u32) {
        unreachable!("the supervisor's process is not started");
    }
}
