//! What counts the bytes of the whole process, by a global allocator of its own.

mod group_memory;
#[path = "../support/mod.rs"]
mod support;
