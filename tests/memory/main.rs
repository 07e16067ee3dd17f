//! Tests that count the allocated bytes of the whole process. They need a global allocator of their own.

mod group_memory;
#[path = "../support/mod.rs"]
mod support;
