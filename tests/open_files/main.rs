//! Tests that count the open files of the whole process, or use all of them. Some count its allocated bytes too.

mod mixed_load;
mod r08_accepting_survives;
mod random_servers;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod ten_thousand;

use cap::Cap;
use std::alloc::System;

#[global_allocator]
static LIVE_BYTES: Cap<System> = Cap::new(System, usize::MAX);
