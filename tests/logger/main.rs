//! What holds with a global logger that panics.

mod panicking_logger;
#[path = "../support/mod.rs"]
mod support;
