//! Servers for async-std with structured concurrency.
#![forbid(unsafe_code)]

mod group;
mod sync;
mod unwind;
mod wakers;

pub use group::{Spawner, TaskGroup};
