//! The clock, and a timer of the reactor, for code that is modelled.
//!
//! They are the standard library's clock and async-io's timer. In a model (`--cfg ebbtide_loom`) there is no reactor,
//! and time stands still until the model advances it: see `model/clock.rs`. All code that a model runs takes the time
//! from here: an `Instant::now()` there would be another clock than the timers'.

#[cfg(not(all(test, ebbtide_loom)))]
mod names {
    pub(crate) use async_io::Timer;
    use std::time::Instant;

    #[inline]
    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(all(test, ebbtide_loom))]
mod names {
    pub(crate) use crate::sync::model::clock::{Timer, now};
}

pub(crate) use names::*;
