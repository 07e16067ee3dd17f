//! Tests with a global logger that panics. The logger belongs to the whole process, so they have a binary of their own.

mod panicking_logger;
#[path = "../support/mod.rs"]
mod support;
